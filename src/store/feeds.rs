//! Where each configured feed stands: how far it has read, up to when all its source held is here, what troubles it, and who
//! works on it. One gateway at a time does, by a fenced lease. What a cursor says is the feed kind's own.

use serde::Serialize;

use super::{Bind, Row, StoreError, Tx};

/// A feed as it stands, for whoever looks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FeedState {
    pub site: String,
    pub feed: String,
    /// `poll`, `bulk`, `subscription`, `mllp` or `folder`.
    pub kind: String,
    pub silent_after_ms: Option<i64>,
    #[serde(skip)]
    pub cursor: String,
    /// All that the source held then is here; `None` before a round was whole, and for feeds that only listen.
    pub complete_until_ms: Option<i64>,
    pub attempted_ms: Option<i64>,
    pub succeeded_ms: Option<i64>,
    /// Rounds that failed since the last one that did not.
    pub failures: i64,
    /// Why the newest of them did, without anything of a patient.
    pub trouble: Option<String>,
    /// Nothing but a person's doing will help.
    pub needs_person: bool,
    pub next_attempt_ms: i64,
    /// What it brought last, and how much in all.
    pub last_received_ms: Option<i64>,
    pub received: i64,
}

impl FeedState {
    /// Since when it has brought nothing, where that is longer than its site expects.
    pub fn silent_since_ms(&self, now_ms: i64) -> Option<i64> {
        let (after_ms, last_ms) = (self.silent_after_ms?, self.last_received_ms?);
        (after_ms < now_ms - last_ms).then_some(last_ms)
    }
}

/// The right to work on one feed, until it is given to somebody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    pub site: String,
    pub feed: String,
    number: i64,
}

/// How a round ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// `complete_until_ms` stays what it was where a round says nothing about it.
    Done {
        complete_until_ms: Option<i64>,
        /// What only a person can clear up, though nothing failed.
        remark: Option<String>,
        /// What is not as it should be and may clear up by itself.
        concern: Option<String>,
        next_attempt_ms: i64,
    },
    Failed {
        trouble: String,
        needs_person: bool,
        next_attempt_ms: i64,
    },
}

const SQL_REGISTER: &str = "INSERT INTO feed_states (site, feed, kind, silent_after_ms, cursor, failures, needs_person, next_attempt_ms, lease)
    VALUES ($1, $2, $3, $4, '', 0, 0, 0, 0)
    ON CONFLICT (site, feed) DO UPDATE SET kind = excluded.kind, silent_after_ms = excluded.silent_after_ms";
const SQL_FORGET_KIND: &str = "UPDATE feed_states SET cursor = '', complete_until_ms = NULL WHERE site = $1 AND feed = $2 AND kind <> $3";

/// Makes a feed known, or brings its settings up to date; one that has become another kind begins anew.
pub fn register(tx: &mut Tx<'_>, site: &str, feed: &str, kind: &str, silent_after_ms: Option<i64>) -> Result<(), StoreError> {
    tx.execute(SQL_FORGET_KIND, &[site.into(), feed.into(), kind.into()])?;
    tx.execute(SQL_REGISTER, &[site.into(), feed.into(), kind.into(), silent_after_ms.into()]).map(drop)
}

const COLUMNS: &str =
    "SELECT s.site, s.feed, s.kind, s.silent_after_ms, s.cursor, s.complete_until_ms, s.attempted_ms, s.succeeded_ms, s.failures, s.trouble,
    s.needs_person, s.next_attempt_ms, f.last_received_ms, f.received
    FROM feed_states s LEFT JOIN feeds f ON f.site = s.site AND f.feed = s.feed";

fn read_state(row: &Row) -> Result<FeedState, StoreError> {
    Ok(FeedState {
        site: row.string(0)?,
        feed: row.string(1)?,
        kind: row.string(2)?,
        silent_after_ms: row.optional_integer(3)?,
        cursor: row.string(4)?,
        complete_until_ms: row.optional_integer(5)?,
        attempted_ms: row.optional_integer(6)?,
        succeeded_ms: row.optional_integer(7)?,
        failures: row.integer(8)?,
        trouble: row.optional_string(9)?,
        needs_person: row.integer(10)? != 0,
        next_attempt_ms: row.integer(11)?,
        last_received_ms: row.optional_integer(12)?,
        received: row.optional_integer(13)?.unwrap_or_default(),
    })
}

pub fn state(tx: &mut Tx<'_>, site: &str, feed: &str) -> Result<Option<FeedState>, StoreError> {
    let sql = format!("{COLUMNS} WHERE s.site = $1 AND s.feed = $2");
    tx.query_one(&sql, &[site.into(), feed.into()])?.as_ref().map(read_state).transpose()
}

/// Every feed of a site, or of all.
pub fn states(tx: &mut Tx<'_>, site: Option<&str>) -> Result<Vec<FeedState>, StoreError> {
    let sql = format!("{COLUMNS} WHERE $1 = '' OR s.site = $1 ORDER BY s.site, s.feed");
    tx.query(&sql, &[site.unwrap_or_default().into()])?.iter().map(read_state).collect()
}

// While somebody works on a feed its next round is due when the lease runs out: whoever asks for an earlier one meanwhile
// (a hint came) is heard when the work ends.
const SQL_CLAIM: &str = "UPDATE feed_states SET lease = lease + 1, lease_until_ms = $1, next_attempt_ms = $1, attempted_ms = $2
    WHERE site = $3 AND feed = $4 AND next_attempt_ms <= $2 AND (lease_until_ms IS NULL OR lease_until_ms < $2) RETURNING lease";

/// Takes a feed whose turn it is and that nobody works on.
pub fn claim(tx: &mut Tx<'_>, site: &str, feed: &str, now_ms: i64, until_ms: i64) -> Result<Option<(Lease, FeedState)>, StoreError> {
    let row = tx.query_one(SQL_CLAIM, &[until_ms.into(), now_ms.into(), site.into(), feed.into()])?;
    let Some(row) = row else { return Ok(None) };
    let lease = Lease { site: site.to_owned(), feed: feed.to_owned(), number: row.integer(0)? };
    let state = state(tx, site, feed)?.ok_or_else(|| StoreError::Broken("a feed just claimed is not there".into()))?;
    Ok(Some((lease, state)))
}

const SQL_RENEW: &str = "UPDATE feed_states SET lease_until_ms = $1,
        next_attempt_ms = CASE WHEN next_attempt_ms < lease_until_ms THEN next_attempt_ms ELSE $1 END
    WHERE site = $2 AND feed = $3 AND lease = $4";

/// `false` when somebody else works on the feed by now: then whoever held it must stop.
pub fn renew(tx: &mut Tx<'_>, lease: &Lease, until_ms: i64) -> Result<bool, StoreError> {
    let params: [Bind<'_>; 4] = [until_ms.into(), lease.site.as_str().into(), lease.feed.as_str().into(), lease.number.into()];
    Ok(tx.execute(SQL_RENEW, &params)? == 1)
}

const SQL_ADVANCE: &str = "UPDATE feed_states SET cursor = $1 WHERE site = $2 AND feed = $3 AND lease = $4";

/// Keeps how far a round came, with or behind what it brought; `false` when somebody else works on the feed by now.
pub fn advance(tx: &mut Tx<'_>, lease: &Lease, cursor: &str) -> Result<bool, StoreError> {
    let params: [Bind<'_>; 4] = [cursor.into(), lease.site.as_str().into(), lease.feed.as_str().into(), lease.number.into()];
    Ok(tx.execute(SQL_ADVANCE, &params)? == 1)
}

const SQL_DONE: &str = "UPDATE feed_states SET complete_until_ms = COALESCE($1, complete_until_ms), succeeded_ms = $2, failures = 0, trouble = $3,
        needs_person = $4, next_attempt_ms = CASE WHEN next_attempt_ms < lease_until_ms THEN next_attempt_ms ELSE $5 END, lease_until_ms = NULL
    WHERE site = $6 AND feed = $7 AND lease = $8";
const SQL_FAILED: &str =
    "UPDATE feed_states SET failures = failures + 1, trouble = $1, needs_person = $2, next_attempt_ms = $3, lease_until_ms = NULL
    WHERE site = $4 AND feed = $5 AND lease = $6";

/// Ends a round and gives the feed back; nothing happens where somebody else works on it by now.
pub fn end(tx: &mut Tx<'_>, lease: &Lease, ended: &Ended, now_ms: i64) -> Result<(), StoreError> {
    let (site, feed) = (Bind::from(lease.site.as_str()), Bind::from(lease.feed.as_str()));
    match ended {
        Ended::Done { complete_until_ms, remark, concern, next_attempt_ms } => {
            let needs_person = remark.is_some();
            let params = [
                (*complete_until_ms).into(),
                now_ms.into(),
                remark.as_ref().or(concern.as_ref()).into(),
                needs_person.into(),
                (*next_attempt_ms).into(),
                site,
                feed,
                lease.number.into(),
            ];
            tx.execute(SQL_DONE, &params)
        }
        Ended::Failed { trouble, needs_person, next_attempt_ms } => {
            let params = [trouble.as_str().into(), (*needs_person).into(), (*next_attempt_ms).into(), site, feed, lease.number.into()];
            tx.execute(SQL_FAILED, &params)
        }
    }
    .map(drop)
}

const SQL_BEGIN_ANEW: &str = "UPDATE feed_states SET cursor = '' WHERE site = $1 AND feed = $2 AND kind = $3";

/// Forgets how far a feed of this kind came.
pub fn begin_anew(tx: &mut Tx<'_>, site: &str, feed: &str, kind: &str) -> Result<(), StoreError> {
    tx.execute(SQL_BEGIN_ANEW, &[site.into(), feed.into(), kind.into()]).map(drop)
}

const SQL_GIVE_BACK: &str = "UPDATE feed_states SET lease_until_ms = NULL, next_attempt_ms = 0 WHERE site = $1 AND feed = $2 AND lease = $3";

/// Gives the feed back in the middle of a round, as when the gateway stops: whoever comes next goes on at once.
pub fn give_back(tx: &mut Tx<'_>, lease: &Lease) -> Result<(), StoreError> {
    tx.execute(SQL_GIVE_BACK, &[lease.site.as_str().into(), lease.feed.as_str().into(), lease.number.into()]).map(drop)
}

const SQL_DUE: &str = "UPDATE feed_states SET next_attempt_ms = $1 WHERE site = $2 AND feed = $3 AND $1 < next_attempt_ms";
const SQL_DUE_UNLESS_FAILING: &str =
    "UPDATE feed_states SET next_attempt_ms = $1 WHERE site = $2 AND feed = $3 AND $1 < next_attempt_ms AND failures = 0";

/// Asks for a round at `at_ms`, where none was due before; `false` when there is no such feed or it is due anyway.
pub fn ask(tx: &mut Tx<'_>, site: &str, feed: &str, at_ms: i64) -> Result<bool, StoreError> {
    Ok(tx.execute(SQL_DUE, &[at_ms.into(), site.into(), feed.into()])? == 1)
}

/// As [`ask`], where the last round went well: what a source says of itself is no reason to ask it before its time.
pub fn ask_unless_failing(tx: &mut Tx<'_>, site: &str, feed: &str, at_ms: i64) -> Result<(), StoreError> {
    tx.execute(SQL_DUE_UNLESS_FAILING, &[at_ms.into(), site.into(), feed.into()]).map(drop)
}

/// What a source said has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hint {
    pub hint: i64,
    pub resource_type: String,
    /// `None`: something of this type, or (where the type is empty too) something at all.
    pub resource_id: Option<String>,
    pub at_ms: i64,
    pub attempts: i64,
}

const SQL_HINT: &str =
    "INSERT INTO feed_hints (site, feed, resource_type, resource_id, at_ms, attempts, next_attempt_ms) VALUES ($1, $2, $3, $4, $5, 0, $5)";

/// Keeps that something changed at the source, to be read there.
pub fn hint(tx: &mut Tx<'_>, site: &str, feed: &str, resource_type: &str, resource_id: Option<&str>, now_ms: i64) -> Result<(), StoreError> {
    tx.execute(SQL_HINT, &[site.into(), feed.into(), resource_type.into(), resource_id.unwrap_or_default().into(), now_ms.into()]).map(drop)
}

const SQL_HINTS: &str = "SELECT hint, resource_type, resource_id, at_ms, attempts FROM feed_hints
    WHERE site = $1 AND feed = $2 AND next_attempt_ms <= $3 ORDER BY hint LIMIT $4";

/// Hints whose turn it is, oldest first.
pub fn hints(tx: &mut Tx<'_>, site: &str, feed: &str, now_ms: i64, limit: usize) -> Result<Vec<Hint>, StoreError> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = tx.query(SQL_HINTS, &[site.into(), feed.into(), now_ms.into(), limit.into()])?;
    rows.iter()
        .map(|row| {
            let resource_id = row.string(2)?;
            Ok(Hint {
                hint: row.integer(0)?,
                resource_type: row.string(1)?,
                resource_id: (!resource_id.is_empty()).then_some(resource_id),
                at_ms: row.integer(3)?,
                attempts: row.integer(4)?,
            })
        })
        .collect()
}

const SQL_HINT_DONE: &str = "DELETE FROM feed_hints WHERE hint = $1";
const SQL_HINT_LATER: &str = "UPDATE feed_hints SET attempts = attempts + 1, next_attempt_ms = $1 WHERE hint = $2";

/// What these hints spoke of was read.
pub fn hints_done(tx: &mut Tx<'_>, hints: &[i64]) -> Result<(), StoreError> {
    hints.iter().try_for_each(|hint| tx.execute(SQL_HINT_DONE, &[(*hint).into()]).map(drop))
}

/// These hints could not be followed now.
pub fn hints_later(tx: &mut Tx<'_>, hints: &[i64], at_ms: i64) -> Result<(), StoreError> {
    hints.iter().try_for_each(|hint| tx.execute(SQL_HINT_LATER, &[at_ms.into(), (*hint).into()]).map(drop))
}

const SQL_NEXT_HINT: &str = "SELECT MIN(next_attempt_ms) FROM feed_hints WHERE site = $1 AND feed = $2";

/// When the next hint is to be followed.
pub fn next_hint_ms(tx: &mut Tx<'_>, site: &str, feed: &str) -> Result<Option<i64>, StoreError> {
    tx.query_one(SQL_NEXT_HINT, &[site.into(), feed.into()])?.map_or(Ok(None), |row| row.optional_integer(0))
}

const SQL_HINTS_WAITING: &str = "SELECT COUNT(*), MIN(at_ms) FROM feed_hints WHERE site = $1 AND feed = $2";

/// How many hints wait, and since when the oldest does.
pub fn hints_waiting(tx: &mut Tx<'_>, site: &str, feed: &str) -> Result<(i64, Option<i64>), StoreError> {
    match tx.query_one(SQL_HINTS_WAITING, &[site.into(), feed.into()])? {
        Some(row) => Ok((row.integer(0)?, row.optional_integer(1)?)),
        None => Ok((0, None)),
    }
}
