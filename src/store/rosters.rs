//! Patients whom a source is asked about one by one, since it answers no other question: who is listed, up to when all
//! about each is here, and who is known here without being listed.

use std::collections::BTreeSet;

use serde::Serialize;

use super::{Insert, Kind, StoreError, Tx};

/// One listed patient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub subject: String,
    /// All that the source held of them then is here; `None` before they were asked about.
    pub swept_ms: Option<i64>,
}

/// How a roster stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Standing {
    pub listed: i64,
    /// Listed and not asked about yet.
    pub not_asked: i64,
    /// The source refused to answer about them.
    pub refused: i64,
    /// All about everybody listed and not refused was here then.
    pub complete_until_ms: Option<i64>,
    /// When the list itself was last made.
    pub listed_ms: Option<i64>,
    /// Subjects known here whom the roster does not list: nothing is asked about them.
    pub unseen: i64,
}

const INSERT_ROSTERS: Insert<4> = Insert {
    table: "rosters",
    columns: [("site", Kind::Text), ("feed", Kind::Text), ("subject", Kind::Text), ("listed_ms", Kind::Integer)],
    on_conflict: "ON CONFLICT (site, feed, subject) DO UPDATE SET listed_ms = excluded.listed_ms",
};
const SQL_DROP_UNLISTED: &str = "DELETE FROM rosters WHERE site = $1 AND feed = $2 AND listed_ms < $3";

/// Replaces the list; who stays keeps how far they were swept.
pub fn replace(tx: &mut Tx<'_>, site: &str, feed: &str, subjects: &BTreeSet<String>, now_ms: i64) -> Result<(), StoreError> {
    let rows = subjects.iter().map(|subject| [site.into(), feed.into(), subject.as_str().into(), now_ms.into()]);
    tx.insert_many(&INSERT_ROSTERS, rows)?;
    tx.execute(SQL_DROP_UNLISTED, &[site.into(), feed.into(), now_ms.into()]).map(drop)
}

const SQL_NEXT: &str = "SELECT subject, swept_ms FROM rosters WHERE site = $1 AND feed = $2 AND COALESCE(asked_ms, 0) < $3
    ORDER BY COALESCE(asked_ms, 0), subject LIMIT $4";

/// Whom to ask about next: those longest ago first, and nobody who was asked about at or after `before_ms`.
pub fn next(tx: &mut Tx<'_>, site: &str, feed: &str, before_ms: i64, limit: usize) -> Result<Vec<Listed>, StoreError> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = tx.query(SQL_NEXT, &[site.into(), feed.into(), before_ms.into(), limit.into()])?;
    rows.iter().map(|row| Ok(Listed { subject: row.string(0)?, swept_ms: row.optional_integer(1)? })).collect()
}

const SQL_SWEPT: &str = "UPDATE rosters SET asked_ms = $1, swept_ms = $1, trouble = NULL WHERE site = $2 AND feed = $3 AND subject = $4";
const SQL_REFUSED: &str = "UPDATE rosters SET asked_ms = $1, trouble = $2 WHERE site = $3 AND feed = $4 AND subject = $5";

/// The source was asked about this patient at `asked_ms`: all that it held then is here, or it refused to say (`trouble`).
pub fn asked(tx: &mut Tx<'_>, site: &str, feed: &str, subject: &str, asked_ms: i64, trouble: Option<&str>) -> Result<(), StoreError> {
    let answered = match trouble {
        None => tx.execute(SQL_SWEPT, &[asked_ms.into(), site.into(), feed.into(), subject.into()]),
        Some(trouble) => tx.execute(SQL_REFUSED, &[asked_ms.into(), trouble.into(), site.into(), feed.into(), subject.into()]),
    };
    answered.map(drop)
}

const SQL_STANDING: &str = "SELECT COUNT(*), CAST(COALESCE(SUM(CASE WHEN asked_ms IS NULL THEN 1 ELSE 0 END), 0) AS BIGINT),
    CAST(COALESCE(SUM(CASE WHEN trouble IS NOT NULL THEN 1 ELSE 0 END), 0) AS BIGINT),
    MIN(CASE WHEN trouble IS NULL THEN COALESCE(swept_ms, 0) END), MAX(listed_ms) FROM rosters WHERE site = $1 AND feed = $2";
const SQL_UNSEEN: &str = "SELECT COUNT(*) FROM subjects s WHERE s.site = $1 AND s.replaced_by IS NULL
    AND NOT EXISTS (SELECT 1 FROM rosters r WHERE r.site = s.site AND r.feed = $2 AND r.subject = s.subject)";

pub fn standing(tx: &mut Tx<'_>, site: &str, feed: &str) -> Result<Standing, StoreError> {
    let Some(row) = tx.query_one(SQL_STANDING, &[site.into(), feed.into()])? else { return Ok(Standing::default()) };
    let unseen = tx.query_one(SQL_UNSEEN, &[site.into(), feed.into()])?.map_or(Ok(0), |row| row.integer(0))?;
    Ok(Standing {
        listed: row.integer(0)?,
        not_asked: row.integer(1)?,
        refused: row.integer(2)?,
        complete_until_ms: row.optional_integer(3)?.filter(|swept_ms| 0 < *swept_ms),
        listed_ms: row.optional_integer(4)?,
        unseen,
    })
}

const SQL_UNSEEN_IDS: &str = "SELECT s.subject FROM subjects s WHERE s.site = $1 AND s.replaced_by IS NULL
    AND NOT EXISTS (SELECT 1 FROM rosters r WHERE r.site = s.site AND r.feed = $2 AND r.subject = s.subject) ORDER BY s.subject LIMIT $3";

/// Subjects known here whom the roster does not list.
pub fn unseen(tx: &mut Tx<'_>, site: &str, feed: &str, limit: usize) -> Result<Vec<String>, StoreError> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    tx.query(SQL_UNSEEN_IDS, &[site.into(), feed.into(), limit.into()])?.iter().map(|row| row.string(0)).collect()
}

const SQL_KNOWN: &str = "SELECT subject FROM subjects WHERE site = $1 AND replaced_by IS NULL";

/// Every subject that is known here and was not merged away.
pub fn known(tx: &mut Tx<'_>, site: &str) -> Result<Vec<String>, StoreError> {
    tx.query(SQL_KNOWN, &[site.into()])?.iter().map(|row| row.string(0)).collect()
}
