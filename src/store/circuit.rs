//! When the EHR of a site may be asked: not before the time it asked for, and, while it does not answer, by one
//! request now and then. Kept in the store, so that every gateway and a restart respect it.

use super::{StoreError, Tx};

/// While an EHR does not answer it is asked after as long as it was silent so far, at least and at most so long.
const PROBE_MIN_MS: i64 = 1_000;
const PROBE_MAX_MS: i64 = 60_000;

/// How a site's EHR stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Circuit {
    /// It asked not to be asked before.
    pub quiet_until_ms: i64,
    /// Since when it has not answered; `None` while it answers.
    pub silent_since_ms: Option<i64>,
    /// When one request may ask whether a silent one is back.
    pub probe_ms: i64,
}

/// What may be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admits {
    Nothing,
    /// One request, to see whether the EHR is back.
    Probe,
    All,
}

impl Circuit {
    pub fn admits(&self, now_ms: i64) -> Admits {
        match self.silent_since_ms {
            _ if now_ms < self.quiet_until_ms => Admits::Nothing,
            None => Admits::All,
            Some(_) if now_ms < self.probe_ms => Admits::Nothing,
            Some(_) => Admits::Probe,
        }
    }
}

const SQL_STANDING: &str = "SELECT quiet_until_ms, silent_since_ms, probe_ms FROM receivers WHERE site = $1";

/// How the EHR of a site stands.
pub fn standing(tx: &mut Tx<'_>, site: &str) -> Result<Circuit, StoreError> {
    let Some(row) = tx.query_one(SQL_STANDING, &[site.into()])? else { return Ok(Circuit::default()) };
    Ok(Circuit { quiet_until_ms: row.integer(0)?, silent_since_ms: row.optional_integer(1)?, probe_ms: row.optional_integer(2)?.unwrap_or_default() })
}

const SQL_TAKE_PROBE: &str = "UPDATE receivers SET probe_ms = $1 WHERE site = $2 AND silent_since_ms IS NOT NULL AND probe_ms <= $3";

/// Takes the one request that asks a silent EHR; `false` when another sender was quicker.
pub fn take_probe(tx: &mut Tx<'_>, site: &str, silent_since_ms: i64, now_ms: i64) -> Result<bool, StoreError> {
    Ok(tx.execute(SQL_TAKE_PROBE, &[next_probe_ms(silent_since_ms, now_ms).into(), site.into(), now_ms.into()])? == 1)
}

const SQL_FREE_PROBE: &str = "UPDATE receivers SET probe_ms = $1 WHERE site = $2 AND silent_since_ms IS NOT NULL";

/// Gives the probe back: the sender that had it did not ask the EHR.
pub fn free_probe(tx: &mut Tx<'_>, site: &str, now_ms: i64) -> Result<(), StoreError> {
    tx.execute(SQL_FREE_PROBE, &[now_ms.into(), site.into()]).map(drop)
}

fn next_probe_ms(silent_since_ms: i64, now_ms: i64) -> i64 {
    now_ms + (now_ms - silent_since_ms).clamp(PROBE_MIN_MS, PROBE_MAX_MS)
}

const SQL_ROW: &str = "INSERT INTO receivers (site, declared, ladder, quiet_until_ms) VALUES ($1, '', '', 0) ON CONFLICT DO NOTHING";
const SQL_SILENT: &str = "UPDATE receivers SET silent_since_ms = $1, probe_ms = $2 WHERE site = $3";

/// The EHR did not answer; says since when it has been silent.
pub fn note_silence(tx: &mut Tx<'_>, site: &str, now_ms: i64) -> Result<i64, StoreError> {
    tx.execute(SQL_ROW, &[site.into()])?;
    let since_ms = standing(tx, site)?.silent_since_ms.unwrap_or(now_ms);
    tx.execute(SQL_SILENT, &[since_ms.into(), next_probe_ms(since_ms, now_ms).into(), site.into()])?;
    Ok(since_ms)
}

const SQL_QUIET: &str = "UPDATE receivers SET quiet_until_ms = $1 WHERE site = $2 AND quiet_until_ms < $3";

/// The EHR asked for silence until then.
pub fn note_quiet(tx: &mut Tx<'_>, site: &str, until_ms: i64) -> Result<(), StoreError> {
    tx.execute(SQL_ROW, &[site.into()])?;
    tx.execute(SQL_QUIET, &[until_ms.into(), site.into(), until_ms.into()]).map(drop)
}

const SQL_ANSWERED: &str = "UPDATE receivers SET silent_since_ms = NULL, probe_ms = NULL WHERE site = $1";

/// The EHR answered again; a silence it asked for still holds.
pub fn note_answer(tx: &mut Tx<'_>, site: &str) -> Result<(), StoreError> {
    tx.execute(SQL_ANSWERED, &[site.into()]).map(drop)
}
