//! What comparisons of a source with the ledger found, and what the ledger knows that they ask about.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ledger::{Known, known_of, newest_of};
use super::{Row, StoreError, Tx};

/// How a resource differs between its source and here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The source holds it, and it had not come.
    Missing,
    /// The source holds a newer version than had come.
    Outdated,
    /// The source does not hold it any more, and nobody had said so.
    Deleted,
    /// The source holds it, and its searches do not show it.
    Unsearchable,
    /// The source shows a version that was withdrawn here, and no newer one: which of the two is right, a person has to see.
    Withdrawn,
    /// The source does not let us read it.
    Refused,
}

impl Kind {
    pub const ALL: [Kind; 6] = [Kind::Missing, Kind::Outdated, Kind::Deleted, Kind::Unsearchable, Kind::Withdrawn, Kind::Refused];

    pub const fn word(self) -> &'static str {
        match self {
            Kind::Missing => "missing",
            Kind::Outdated => "outdated",
            Kind::Deleted => "deleted",
            Kind::Unsearchable => "unsearchable",
            Kind::Withdrawn => "withdrawn",
            Kind::Refused => "refused",
        }
    }
}

/// One difference; no patient is named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    pub kind: Kind,
    pub resource_type: String,
    pub id: String,
    /// `system|code` of its first coding, where it was read.
    pub code: Option<String>,
    /// Day of its `meta.lastUpdated`.
    pub day: Option<String>,
}

/// What one comparison came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Resources that the source showed, by type.
    pub there: BTreeMap<String, u64>,
    /// Of them, those whose newest version was here already.
    pub as_expected: u64,
    /// Of them, those that are out of scope here, or refused, and leave a count alone.
    pub not_kept: u64,
    /// All differences, by kind.
    pub counts: BTreeMap<Kind, u64>,
    /// All differences, by kind, type, code and day: where a feed has its holes.
    pub by_code_and_day: Vec<Hole>,
    /// The first of them.
    pub differences: Vec<Difference>,
    /// Much would have been withdrawn at once, and nothing was: a person decides.
    pub is_held_back: bool,
    /// Why it broke off.
    pub trouble: Option<String>,
}

impl Report {
    pub fn differences(&self) -> u64 {
        self.counts.values().sum()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Hole {
    pub kind: Kind,
    pub resource_type: String,
    pub code: Option<String>,
    pub day: Option<String>,
    pub count: u64,
}

/// One comparison as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Comparison {
    pub comparison: i64,
    pub site: String,
    pub feed: String,
    /// `running`, `done` or `failed`.
    pub state: String,
    /// Empty: the nightly one.
    pub who: String,
    pub started_ms: i64,
    pub finished_ms: Option<i64>,
    pub report: Option<Report>,
}

const SQL_ABANDONED: &str = "UPDATE feed_comparisons SET state = 'failed', finished_ms = lease_until_ms
    WHERE site = $1 AND feed = $2 AND state = 'running' AND lease_until_ms < $3";
const SQL_BEGIN: &str = "INSERT INTO feed_comparisons (site, feed, state, who, started_ms, lease_until_ms, report)
    VALUES ($1, $2, 'running', $3, $4, $5, '') ON CONFLICT DO NOTHING RETURNING comparison";

/// Begins a comparison; `None` while another one of this feed runs.
pub fn begin(tx: &mut Tx<'_>, site: &str, feed: &str, who: &str, now_ms: i64, until_ms: i64) -> Result<Option<i64>, StoreError> {
    tx.execute(SQL_ABANDONED, &[site.into(), feed.into(), now_ms.into()])?;
    let row = tx.query_one(SQL_BEGIN, &[site.into(), feed.into(), who.into(), now_ms.into(), until_ms.into()])?;
    row.map(|row| row.integer(0)).transpose()
}

const SQL_END: &str = "UPDATE feed_comparisons SET state = $1, finished_ms = $2, report = $3 WHERE comparison = $4 AND state = 'running'";

pub fn end(tx: &mut Tx<'_>, comparison: i64, report: &Report, now_ms: i64) -> Result<(), StoreError> {
    let state = if report.trouble.is_some() { "failed" } else { "done" };
    let report = serde_json::to_string(report).expect("a report is JSON");
    tx.execute(SQL_END, &[state.into(), now_ms.into(), report.as_str().into(), comparison.into()]).map(drop)
}

const COLUMNS: &str = "SELECT comparison, site, feed, state, who, started_ms, finished_ms, report FROM feed_comparisons";

fn read(row: &Row) -> Result<Comparison, StoreError> {
    let report = row.text(7)?;
    let report = (!report.is_empty()).then(|| serde_json::from_str(report)).transpose();
    Ok(Comparison {
        comparison: row.integer(0)?,
        site: row.string(1)?,
        feed: row.string(2)?,
        state: row.string(3)?,
        who: row.string(4)?,
        started_ms: row.integer(5)?,
        finished_ms: row.optional_integer(6)?,
        report: report.map_err(|_| StoreError::Broken("the report of a comparison cannot be read".into()))?,
    })
}

/// The newest comparison of a feed that has ended.
pub fn newest(tx: &mut Tx<'_>, site: &str, feed: &str) -> Result<Option<Comparison>, StoreError> {
    let sql = format!("{COLUMNS} WHERE site = $1 AND feed = $2 AND state <> 'running' ORDER BY comparison DESC LIMIT 1");
    tx.query_one(&sql, &[site.into(), feed.into()])?.as_ref().map(read).transpose()
}

/// When a feed was last compared, ms since 1970 UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Last {
    /// The last comparison began, whatever became of it.
    pub started_ms: Option<i64>,
    /// The last one that came to its end began.
    pub done_ms: Option<i64>,
}

const SQL_LAST: &str =
    "SELECT MAX(started_ms), MAX(CASE WHEN state = 'done' THEN started_ms END) FROM feed_comparisons WHERE site = $1 AND feed = $2";

pub fn last(tx: &mut Tx<'_>, site: &str, feed: &str) -> Result<Last, StoreError> {
    let row = tx.query_one(SQL_LAST, &[site.into(), feed.into()])?;
    row.map_or(Ok(Last::default()), |row| Ok(Last { started_ms: row.optional_integer(0)?, done_ms: row.optional_integer(1)? }))
}

/// One version that was received of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    pub version: Option<String>,
    pub last_updated_ms: Option<i64>,
    pub body_hash: String,
}

/// What was received of one resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Here {
    pub versions: Vec<Version>,
    /// The newest word of it is that it is withdrawn.
    pub is_withdrawn: bool,
}

/// What was received of resources of one type, by id.
pub fn here(tx: &mut Tx<'_>, site: &str, resource_type: &str, ids: &[String]) -> Result<BTreeMap<String, Here>, StoreError> {
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let mut by_id: BTreeMap<String, Vec<Known>> = BTreeMap::new();
    for (id, known) in known_of(tx, site, resource_type, &ids)?.into_iter().filter(|(_, known)| known.counts()) {
        by_id.entry(id).or_default().push(known);
    }
    let mut here = BTreeMap::new();
    for (id, known) in by_id {
        let has_withdrawal = known.iter().any(Known::is_withdrawal);
        let is_withdrawn = has_withdrawal && newest_of(tx, site, known.iter().cloned())?.is_some_and(|newest| newest.is_withdrawal());
        let of = |known: Known| Version { version: known.version, last_updated_ms: known.last_updated_ms, body_hash: known.body_hash };
        let versions = known.into_iter().filter(|known| !known.is_withdrawal()).map(of).collect();
        here.insert(id, Here { versions, is_withdrawn });
    }
    Ok(here)
}

const SQL_IDS: &str = "SELECT DISTINCT resource_id FROM messages WHERE site = $1 AND resource_type = $2 AND resource_id > $3
    AND feed = $4 AND disposition <> 'rejected'
    AND ($5 = '' OR EXISTS (SELECT 1 FROM rosters r WHERE r.site = messages.site AND r.feed = $5 AND r.subject = messages.subject AND r.trouble IS NULL))
    ORDER BY resource_id LIMIT $6";

/// Ids of one type that a feed brought first, after one of them (empty: from the first). Some may be withdrawn. With the feed
/// of a roster, only what is about patients whom it lists now and about whom the source answers.
pub fn ids_of_feed(
    tx: &mut Tx<'_>,
    site: &str,
    resource_type: &str,
    feed: &str,
    roster: Option<&str>,
    after: &str,
    limit: usize,
) -> Result<Vec<String>, StoreError> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let params = [site.into(), resource_type.into(), after.into(), feed.into(), roster.unwrap_or_default().into(), limit.into()];
    tx.query(SQL_IDS, &params)?.iter().map(|row| row.string(0)).collect()
}
