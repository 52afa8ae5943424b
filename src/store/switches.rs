//! The kill switch of write-back: a named person stops a site, or one study at it, and lets it go on. Rows are appended;
//! the newest of (site, study) counts. Retractions go all the same, and intake is not touched.

use serde::Serialize;

use super::{Row, StoreError, Tx};

/// One turn of a switch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Switch {
    pub site: String,
    /// Empty for the whole site.
    pub study: String,
    pub is_stopped: bool,
    /// ms since 1970 UTC.
    pub at_ms: i64,
    pub who: String,
    pub reason: String,
}

/// What an outbox row must not be stopped by, as SQL over `outbox`.
pub(super) const IS_NOT_STOPPED: &str =
    "NOT EXISTS (SELECT 1 FROM switches turned WHERE turned.site = outbox.site AND turned.study IN ('', outbox.study)
    AND turned.is_stopped = 1 AND NOT EXISTS (SELECT 1 FROM switches later WHERE later.site = turned.site AND later.study = turned.study
        AND turned.switch < later.switch))";

const SQL_TURN: &str = "INSERT INTO switches (site, study, is_stopped, at_ms, who, reason) VALUES ($1, $2, $3, $4, $5, $6)";

/// Records that a named person stopped write-back, or let it go on.
pub fn turn(tx: &mut Tx<'_>, switch: &Switch) -> Result<(), StoreError> {
    let params = [
        switch.site.as_str().into(),
        switch.study.as_str().into(),
        switch.is_stopped.into(),
        switch.at_ms.into(),
        switch.who.as_str().into(),
        switch.reason.as_str().into(),
    ];
    tx.execute(SQL_TURN, &params).map(drop)
}

const SQL_STANDING: &str = "SELECT site, study, is_stopped, at_ms, who, reason FROM switches newest WHERE site = $1
    AND NOT EXISTS (SELECT 1 FROM switches later WHERE later.site = newest.site AND later.study = newest.study AND newest.switch < later.switch)
    ORDER BY study";

/// How the switches of a site stand: the newest turn of each, the whole site first. A switch never turned is not there.
pub fn standing(tx: &mut Tx<'_>, site: &str) -> Result<Vec<Switch>, StoreError> {
    tx.query(SQL_STANDING, &[site.into()])?.iter().map(read).collect()
}

/// The turn that stops a study at a site, its own or the whole site's; `None` while it may be written.
pub fn stopped(tx: &mut Tx<'_>, site: &str, study: &str) -> Result<Option<Switch>, StoreError> {
    Ok(standing(tx, site)?.into_iter().find(|switch| switch.is_stopped && (switch.study.is_empty() || switch.study == study)))
}

const SQL_TURNS: &str = "SELECT site, study, is_stopped, at_ms, who, reason FROM switches WHERE site = $1 ORDER BY switch DESC LIMIT 200";

/// The newest 200 turns at a site, newest first.
pub fn turns(tx: &mut Tx<'_>, site: &str) -> Result<Vec<Switch>, StoreError> {
    tx.query(SQL_TURNS, &[site.into()])?.iter().map(read).collect()
}

fn read(row: &Row) -> Result<Switch, StoreError> {
    Ok(Switch {
        site: row.string(0)?,
        study: row.string(1)?,
        is_stopped: row.integer(2)? != 0,
        at_ms: row.integer(3)?,
        who: row.string(4)?,
        reason: row.string(5)?,
    })
}
