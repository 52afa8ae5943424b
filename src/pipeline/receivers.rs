//! Receivers as they are written to now: the contract, and what is kept of what their servers declare and were found
//! to do. When that changes how a site is written to, its subjects are judged and planned anew.

use crate::store::receivers;
use crate::store::{StoreError, Tx};
use crate::writeback::Receiver;
use crate::writeback::ladder::{self, Declared, Finding, Ladder};

/// The receiver with the ladder that holds now, and without what its server does not do.
pub fn of(tx: &mut Tx<'_>, contract: &Receiver) -> Result<Receiver, StoreError> {
    let kept = receivers::kept(tx, &contract.site)?;
    let findings = receivers::findings(tx, &contract.site)?;
    Ok(ladder::standing(contract, kept.declared.as_ref(), &findings))
}

/// What climbing anew came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Climbed {
    pub ladder: Ladder,
    /// The site is written to in another way than before.
    pub is_changed: bool,
    /// Subjects that were marked to be judged and planned anew.
    pub marked: u64,
}

/// Keeps what a server declared, and climbs.
pub fn declared(tx: &mut Tx<'_>, contract: &Receiver, declared: &Declared, now_ms: i64) -> Result<Climbed, StoreError> {
    climb_after(tx, contract, now_ms, |tx| receivers::keep_declared(tx, &contract.site, declared, now_ms))
}

/// Notes what a receiver was found to do, and climbs.
pub fn found(tx: &mut Tx<'_>, contract: &Receiver, findings: &[Finding], now_ms: i64) -> Result<Climbed, StoreError> {
    climb_after(tx, contract, now_ms, |tx| findings.iter().try_for_each(|finding| receivers::add_finding(tx, &contract.site, finding)))
}

/// Climbs with what is known: after `receiver.json` was changed, for one.
pub fn climb(tx: &mut Tx<'_>, contract: &Receiver, now_ms: i64) -> Result<Climbed, StoreError> {
    climb_after(tx, contract, now_ms, |_| Ok(()))
}

fn climb_after(
    tx: &mut Tx<'_>,
    contract: &Receiver,
    now_ms: i64,
    learn: impl FnOnce(&mut Tx<'_>) -> Result<(), StoreError>,
) -> Result<Climbed, StoreError> {
    let site = &contract.site;
    let before = of(tx, contract)?;
    // Under which the plans that wait were made; `receiver.json` may say otherwise since.
    let planned_for = receivers::kept(tx, site)?.ladder.unwrap_or_else(|| before.ladder.clone());
    learn(tx)?;
    let now = of(tx, contract)?;
    let is_changed = (planned_for.rung, planned_for.with_flag) != (now.ladder.rung, now.ladder.with_flag)
        || (before.deletes, before.beside, &before.takes) != (now.deletes, now.beside, &now.takes);
    let marked = if is_changed { receivers::mark_subjects(tx, site, now_ms)? } else { 0 };
    if receivers::kept(tx, site)?.ladder.as_ref() != Some(&now.ladder) {
        receivers::keep_ladder(tx, site, &now.ladder, now_ms)?;
    }
    if is_changed {
        tracing::warn!(site, rung = now.ladder.rung.map_or("nothing", |rung| rung.word()), marked, "the site is written to in another way now");
    }
    Ok(Climbed { ladder: now.ladder, is_changed, marked })
}
