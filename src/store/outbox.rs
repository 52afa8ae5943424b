//! The durable outbox: what must be sent, what was tried, what a read-back proved.
//!
//! Of one key at most one item is pending (`planned`, `shadow` or `sent`): a unique index says so. An item in somebody's
//! hands (a live lease) that a newer plan overtakes becomes `superseded` at once, and the newer one waits until the lease ends.

use serde::{Deserialize, Serialize};

use super::{Bind, Row, StoreError, Tx, switches};
use crate::writeback::{Purpose, WriteBack, Written};

/// States of an item. `Confirmed` only ever follows a read-back that found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ItemState {
    Planned,
    /// Planned, but the receiver is in shadow: waits for a named person's release.
    Shadow,
    /// The server answered 2xx; the read-back is still to come.
    Sent,
    Confirmed,
    /// A newer plan for the same key, or the look before sending, overtook it.
    Superseded,
    Degraded,
    /// The server refused it for good: a dead letter that a person can replay.
    Rejected,
    /// It was sent and a read-back does not find it.
    Lost,
}

impl ItemState {
    pub const fn word(self) -> &'static str {
        match self {
            ItemState::Planned => "planned",
            ItemState::Shadow => "shadow",
            ItemState::Sent => "sent",
            ItemState::Confirmed => "confirmed",
            ItemState::Superseded => "superseded",
            ItemState::Degraded => "degraded",
            ItemState::Rejected => "rejected",
            ItemState::Lost => "lost",
        }
    }

    pub fn from_word(word: &str) -> Option<ItemState> {
        use ItemState::*;
        [Planned, Shadow, Sent, Confirmed, Superseded, Degraded, Rejected, Lost].into_iter().find(|state| state.word() == word)
    }
}

/// One item of the outbox.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Item {
    pub id: i64,
    pub site: String,
    /// Empty for what belongs to no single subject (ResearchStudy).
    pub subject: String,
    pub study: String,
    pub state: ItemState,
    pub request: WriteBack,
    pub attempts: i64,
    pub created_ms: i64,
    pub next_attempt_ms: i64,
    pub last_status: Option<i64>,
    /// What the last attempt said, without bodies.
    pub last_error: Option<String>,
    pub server_id: Option<String>,
    pub server_version: Option<String>,
}

const SQL_NEWEST_OF_KEY: &str = "SELECT item, state, body_hash, purpose FROM outbox WHERE site = $1 AND written_key = $2 AND state <> 'superseded'
    ORDER BY item DESC LIMIT 1";
const SQL_WAS_TRIED: &str = "SELECT item FROM outbox WHERE site = $1 AND written_key = $2 AND (0 < attempts OR lease_until_ms IS NOT NULL) LIMIT 1";
const SQL_OVERTAKE: &str =
    "UPDATE outbox SET state = 'superseded', last_error = COALESCE(last_error, 'a newer plan overtook it') WHERE site = $1 AND written_key = $2
    AND state IN ('planned', 'shadow', 'sent', 'rejected', 'lost')";
const SQL_ENQUEUE: &str = "INSERT INTO outbox (site, subject, study, written_key, purpose, send_order, state, body_hash, request, attempts,
        created_ms, next_attempt_ms, lease)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 0, $10, $10, 0) ON CONFLICT DO NOTHING";

/// Puts requests into the outbox; older unsent items of the same key become `superseded`. An identical plan (same key and `body_hash`)
/// that is already pending or confirmed adds nothing. With `shadow`, annotations wait in `shadow`; retractions are `planned` all the same.
/// A ResearchStudy belongs to no single subject: it is kept under the empty subject.
///
/// A retraction of what nobody ever tried to send only takes the plan back: "inactive" would say that it was true there.
pub fn enqueue(tx: &mut Tx<'_>, site: &str, subject: &str, study: &str, shadow: bool, now_ms: i64, requests: &[WriteBack]) -> Result<(), StoreError> {
    for request in requests {
        let key = request.key.as_str();
        let purpose = purpose_word(request.purpose);
        if let Some(newest) = tx.query_one(SQL_NEWEST_OF_KEY, &[site.into(), key.into()])?
            && newest.text(2)? == request.body_hash
            && newest.text(3)? == purpose
        {
            continue;
        }
        let is_needed = match request.purpose {
            Purpose::Annotate => true,
            Purpose::Retract => tx.query_one(SQL_WAS_TRIED, &[site.into(), key.into()])?.is_some(),
        };
        tx.execute(SQL_OVERTAKE, &[site.into(), key.into()])?;
        if !is_needed {
            continue;
        }
        let subject = if request.resource_type == "ResearchStudy" { "" } else { subject };
        let state = if shadow && request.purpose == Purpose::Annotate { ItemState::Shadow } else { ItemState::Planned };
        let text = serde_json::to_string(request).expect("a request is plain data");
        let params: [Bind<'_>; 10] = [
            site.into(),
            subject.into(),
            study.into(),
            key.into(),
            purpose.into(),
            i64::from(request.order).into(),
            state.word().into(),
            request.body_hash.as_str().into(),
            text.as_str().into(),
            now_ms.into(),
        ];
        tx.execute(SQL_ENQUEUE, &params)?;
    }
    Ok(())
}

fn purpose_word(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::Annotate => "annotate",
        Purpose::Retract => "retract",
    }
}

const SQL_WRITTEN: &str = "SELECT request, state, (SELECT found.server_id FROM outbox found
        WHERE found.site = newest.site AND found.written_key = newest.written_key AND found.server_id IS NOT NULL ORDER BY found.item DESC LIMIT 1)
    FROM outbox newest WHERE site = $1 AND study = $2 AND subject = $3 AND state <> 'superseded'
    AND NOT EXISTS (SELECT 1 FROM outbox later WHERE later.site = newest.site AND later.written_key = newest.written_key
        AND later.state <> 'superseded' AND newest.item < later.item)
    ORDER BY item";

/// What was planned or written for a subject in a study, newest plan per key; with `subject` empty, for the study itself.
pub fn written(tx: &mut Tx<'_>, site: &str, subject: &str, study: &str) -> Result<Vec<Written>, StoreError> {
    tx.query(SQL_WRITTEN, &[site.into(), study.into(), subject.into()])?
        .iter()
        .map(|row| {
            let request = read_request(row.text(0)?)?;
            Ok(Written {
                key: request.key,
                resource_type: request.resource_type,
                body_hash: request.body_hash,
                body: request.body,
                is_standing: request.purpose == Purpose::Annotate,
                server_id: row.optional_string(2)?,
                form: request.form,
                is_pending: matches!(row.text(1)?, "planned" | "shadow" | "sent"),
            })
        })
        .collect()
}

fn read_request(text: &str) -> Result<WriteBack, StoreError> {
    serde_json::from_str(text).map_err(|_| StoreError::Broken("a request in the outbox cannot be read".into()))
}

/// An item under a lease: only its holder may finish it, and only before it ends.
#[derive(Clone, Debug)]
pub struct Claimed {
    pub item: Item,
    /// Fencing token.
    pub lease: i64,
}

const ITEM_COLUMNS: &str = "SELECT item, site, subject, study, state, request, attempts, created_ms, next_attempt_ms, last_status, last_error,
    server_id, server_version, lease FROM outbox";

/// What is due and free at a site (`$1`) now (`$2`). What a switch stops is not sent; what was sent before is still read back.
const DUE: &str = "site = $1 AND state IN ('planned', 'sent') AND next_attempt_ms <= $2 AND (lease_until_ms IS NULL OR lease_until_ms <= $2)
    AND NOT EXISTS (SELECT 1 FROM outbox held WHERE held.site = outbox.site AND held.written_key = outbox.written_key
        AND held.item <> outbox.item AND $2 < held.lease_until_ms)
    AND (purpose = 'retract' OR NOT EXISTS (SELECT 1 FROM outbox ahead WHERE ahead.site = outbox.site AND ahead.study = outbox.study
        AND ahead.subject IN ('', outbox.subject) AND ahead.send_order < outbox.send_order AND ahead.purpose = 'annotate'
        AND ahead.state IN ('planned', 'sent')))
    AND (purpose = 'retract' OR state = 'sent' OR IS_NOT_STOPPED)";

/// Which items a sender takes: retractions have senders of their own, so that nothing holds them up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    Retractions,
    /// All that is no retraction.
    Rest,
    /// Both, retractions first.
    Any,
}

/// Claims items of both lanes; see [`claim_of`].
pub fn claim(tx: &mut Tx<'_>, site: &str, now_ms: i64, lease_until_ms: i64, limit: usize) -> Result<Vec<Claimed>, StoreError> {
    claim_of(tx, site, Lane::Any, now_ms, lease_until_ms, limit)
}

/// Claims items that are due (planned, or sent and waiting for their read-back): retractions first, then by `order` and age; per key
/// one at a time, across all gateways; never an item whose lower `order` sibling (of the same subject, or of the study's empty
/// subject) is still pending, nor an annotation that a switch stops.
pub fn claim_of(tx: &mut Tx<'_>, site: &str, lane: Lane, now_ms: i64, lease_until_ms: i64, limit: usize) -> Result<Vec<Claimed>, StoreError> {
    let due = DUE.replace("IS_NOT_STOPPED", switches::IS_NOT_STOPPED);
    let of_lane = match lane {
        Lane::Retractions => "AND purpose = 'retract'",
        Lane::Rest => "AND purpose <> 'retract'",
        Lane::Any => "",
    };
    let find = format!(
        "SELECT item, written_key FROM outbox WHERE {due} {of_lane} ORDER BY CASE purpose WHEN 'retract' THEN 0 ELSE 1 END, send_order, item LIMIT $3"
    );
    // The guard is repeated: between the two statements another gateway may have claimed the item (seen on PostgreSQL).
    // Its parameters are numbered anew, because SET comes before WHERE.
    let guard = due.replace("$2", "$3").replace("$1", "$2");
    let take = format!("UPDATE outbox SET lease = lease + 1, lease_until_ms = $1 WHERE {guard} AND item = $4 RETURNING lease");
    let read = format!("{ITEM_COLUMNS} WHERE item = $1");
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut claimed = Vec::new();
    for row in tx.query(&find, &[site.into(), now_ms.into(), limit.into()])? {
        let item = row.integer(0)?;
        // The guard sees other items of the key only as they were committed: claims and renewals of one key take turns.
        if !tx.try_lock(&lane_of(site, row.text(1)?))? {
            continue;
        }
        if let Some(taken) = tx.query_one(&take, &[lease_until_ms.into(), site.into(), now_ms.into(), item.into()])? {
            let row = tx.query_one(&read, &[item.into()])?.ok_or_else(|| StoreError::Broken("an item just claimed is gone".into()))?;
            claimed.push(Claimed { item: read_item(&row)?, lease: taken.integer(0)? });
        }
    }
    Ok(claimed)
}

/// Name of the lock under which the leases of one key change.
fn lane_of(site: &str, key: &str) -> String {
    format!("outbox {site} {key}")
}

const SQL_GIVE_BACK: &str = "UPDATE outbox SET lease_until_ms = NULL WHERE item = $1 AND lease = $2";

/// Gives a claim back as if it had never been.
pub fn give_back(tx: &mut Tx<'_>, claimed: &Claimed) -> Result<(), StoreError> {
    tx.execute(SQL_GIVE_BACK, &[claimed.item.id.into(), claimed.lease.into()]).map(drop)
}

const SQL_INTEND: &str = "UPDATE outbox SET server_version = $1 WHERE item = $2 AND lease = $3 AND $4 < lease_until_ms";

/// Notes, before a resource of others is changed, which version of it was seen: from now on what is found there may be
/// ours. `false` when the lease was lost.
pub fn intend(tx: &mut Tx<'_>, claimed: &Claimed, now_ms: i64, server_version: &str) -> Result<bool, StoreError> {
    let params = [server_version.into(), claimed.item.id.into(), claimed.lease.into(), now_ms.into()];
    Ok(tx.execute(SQL_INTEND, &params)? == 1)
}

/// What a sender that asks for more time is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewed {
    Held,
    /// Still held, but a newer plan waits for its end.
    Overtaken,
    /// It has ended: somebody else may have the item.
    Lost,
}

const SQL_RENEW: &str = "UPDATE outbox SET lease_until_ms = $1 WHERE item = $2 AND lease = $3 AND $4 < lease_until_ms RETURNING state";

/// Renews a lease that has not ended.
pub fn renew(tx: &mut Tx<'_>, claimed: &Claimed, now_ms: i64, lease_until_ms: i64) -> Result<Renewed, StoreError> {
    tx.lock(&lane_of(&claimed.item.site, &claimed.item.request.key))?;
    let params = [lease_until_ms.into(), claimed.item.id.into(), claimed.lease.into(), now_ms.into()];
    let Some(row) = tx.query_one(SQL_RENEW, &params)? else { return Ok(Renewed::Lost) };
    Ok(if row.text(0)? == ItemState::Superseded.word() { Renewed::Overtaken } else { Renewed::Held })
}

fn read_item(row: &Row) -> Result<Item, StoreError> {
    Ok(Item {
        id: row.integer(0)?,
        site: row.string(1)?,
        subject: row.string(2)?,
        study: row.string(3)?,
        state: ItemState::from_word(row.text(4)?).ok_or_else(|| StoreError::Broken("an item has a state that this program does not know".into()))?,
        request: read_request(row.text(5)?)?,
        attempts: row.integer(6)?,
        created_ms: row.integer(7)?,
        next_attempt_ms: row.integer(8)?,
        last_status: row.optional_integer(9)?,
        last_error: row.optional_string(10)?,
        server_id: row.optional_string(11)?,
        server_version: row.optional_string(12)?,
    })
}

/// What one attempt came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    pub state: ItemState,
    /// When to try again, for `Planned` and `Sent`.
    pub next_attempt_ms: i64,
    pub status: Option<i64>,
    pub error: Option<String>,
    pub server_id: Option<String>,
    pub server_version: Option<String>,
}

const SQL_FINISH: &str =
    "UPDATE outbox SET state = CASE state WHEN 'superseded' THEN state ELSE $1 END, next_attempt_ms = $2, attempts = attempts + 1,
        last_status = $3, last_error = $4, server_id = COALESCE($5, server_id), server_version = COALESCE($6, server_version), lease_until_ms = NULL
    WHERE item = $7 AND lease = $8 AND $9 < lease_until_ms RETURNING attempts, state";
const SQL_ATTEMPT: &str = "INSERT INTO attempts (item, attempt, at_ms, state, status, error) VALUES ($1, $2, $3, $4, $5, $6)";

/// Records an attempt and its outcome and gives the lease back; `false` when the lease was lost meanwhile (somebody else has
/// the item). An item that a newer plan overtook while it was sent stays `superseded`.
pub fn finish(tx: &mut Tx<'_>, claimed: &Claimed, now_ms: i64, outcome: &Outcome) -> Result<bool, StoreError> {
    let params: [Bind<'_>; 9] = [
        outcome.state.word().into(),
        outcome.next_attempt_ms.into(),
        outcome.status.into(),
        outcome.error.as_ref().into(),
        outcome.server_id.as_ref().into(),
        outcome.server_version.as_ref().into(),
        claimed.item.id.into(),
        claimed.lease.into(),
        now_ms.into(),
    ];
    let Some(row) = tx.query_one(SQL_FINISH, &params)? else { return Ok(false) };
    let params: [Bind<'_>; 6] = [
        claimed.item.id.into(),
        row.integer(0)?.into(),
        now_ms.into(),
        outcome.state.word().into(),
        outcome.status.into(),
        outcome.error.as_ref().into(),
    ];
    tx.execute(SQL_ATTEMPT, &params)?;
    Ok(true)
}

/// Items by state, oldest first.
pub fn list(tx: &mut Tx<'_>, site: Option<&str>, state: Option<ItemState>) -> Result<Vec<Item>, StoreError> {
    let sql = format!("{ITEM_COLUMNS} WHERE ($1 = '' OR site = $1) AND ($2 = '' OR state = $2) ORDER BY item");
    let params: [Bind<'_>; 2] = [site.unwrap_or("").into(), state.map_or("", ItemState::word).into()];
    tx.query(&sql, &params)?.iter().map(read_item).collect()
}

/// Items about one subject, newest first, for the why-card.
pub fn of_subject(tx: &mut Tx<'_>, site: &str, subject: &str, study: &str) -> Result<Vec<Item>, StoreError> {
    let sql = format!("{ITEM_COLUMNS} WHERE site = $1 AND study = $2 AND subject = $3 ORDER BY item DESC");
    tx.query(&sql, &[site.into(), study.into(), subject.into()])?.iter().map(read_item).collect()
}

/// The newest items of one key below an item, newest first, at most twenty: what was planned and sent for it before.
pub fn earlier(tx: &mut Tx<'_>, item: &Item) -> Result<Vec<Item>, StoreError> {
    let sql = format!("{ITEM_COLUMNS} WHERE site = $1 AND written_key = $2 AND item < $3 ORDER BY item DESC LIMIT 20");
    tx.query(&sql, &[item.site.as_str().into(), item.request.key.as_str().into(), item.id.into()])?.iter().map(read_item).collect()
}

const SQL_REPLAY: &str = "UPDATE outbox SET state = 'planned', next_attempt_ms = $1 WHERE item = $2 AND state IN ('rejected', 'lost')
    AND NOT EXISTS (SELECT 1 FROM outbox later WHERE later.site = outbox.site AND later.written_key = outbox.written_key AND outbox.item < later.item)";

/// Puts a rejected or lost item back to `planned`; `false` when it is neither, or when a newer plan overtook it.
pub fn replay(tx: &mut Tx<'_>, id: i64, now_ms: i64) -> Result<bool, StoreError> {
    Ok(tx.execute(SQL_REPLAY, &[now_ms.into(), id.into()])? == 1)
}

const SQL_SUPERSEDE: &str = "UPDATE outbox SET state = 'superseded' WHERE item = $1 AND state IN ('planned', 'shadow', 'sent', 'rejected', 'lost')";

/// Takes an item out of the way, whoever holds it; `false` when it has ended already. Its key is free for a new plan.
pub fn supersede(tx: &mut Tx<'_>, id: i64) -> Result<bool, StoreError> {
    Ok(tx.execute(SQL_SUPERSEDE, &[id.into()])? == 1)
}

const SQL_RELEASE: &str = "INSERT INTO releases (site, study, released_ms, who) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING";
const SQL_LEAVE_SHADOW: &str = "UPDATE outbox SET state = 'planned', next_attempt_ms = $1 WHERE site = $2 AND study = $3 AND state = 'shadow'";

/// Records that a named person released a study's write-back at a site, and puts its `shadow` items to `planned` (rulings.md 24).
/// Answers how many.
pub fn release(tx: &mut Tx<'_>, site: &str, study: &str, by: &str, now_ms: i64) -> Result<i64, StoreError> {
    tx.execute(SQL_RELEASE, &[site.into(), study.into(), now_ms.into(), by.into()])?;
    let rows = tx.execute(SQL_LEAVE_SHADOW, &[now_ms.into(), site.into(), study.into()])?;
    Ok(i64::try_from(rows).unwrap_or(i64::MAX))
}

const SQL_RELEASED: &str = "SELECT who, released_ms FROM releases WHERE site = $1 AND study = $2 ORDER BY released_ms DESC LIMIT 1";

/// Who released this study's write-back at this site, and when; `None` while it is in shadow.
pub fn released(tx: &mut Tx<'_>, site: &str, study: &str) -> Result<Option<(String, i64)>, StoreError> {
    let row = tx.query_one(SQL_RELEASED, &[site.into(), study.into()])?;
    row.map(|row| Ok((row.string(0)?, row.integer(1)?))).transpose()
}

const NEWEST_OF_EACH: &str = "newest WHERE site = $1 AND state <> 'superseded' AND NOT EXISTS (SELECT 1 FROM outbox later
    WHERE later.site = newest.site AND later.written_key = newest.written_key AND later.state <> 'superseded' AND newest.item < later.item)";

/// The newest item of each key at a site that was not overtaken, in order of their numbers: by our own record, what the EHR holds
/// and what is on its way there. At most `limit`, behind the item `after`.
pub fn newest_of_each(tx: &mut Tx<'_>, site: &str, after: i64, limit: usize) -> Result<Vec<Item>, StoreError> {
    let sql = format!("{ITEM_COLUMNS} {NEWEST_OF_EACH} AND $2 < item ORDER BY item LIMIT $3");
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    tx.query(&sql, &[site.into(), after.into(), limit.into()])?.iter().map(read_item).collect()
}

const SQL_IS_NEWEST: &str =
    "SELECT item FROM outbox WHERE item = $1 AND state IN ('confirmed', 'degraded') AND NOT EXISTS (SELECT 1 FROM outbox later
    WHERE later.site = outbox.site AND later.written_key = outbox.written_key AND later.state <> 'superseded' AND outbox.item < later.item)";

/// Whether an item still says what the EHR should hold: it has arrived, and nothing newer was planned for its key.
pub fn is_newest(tx: &mut Tx<'_>, id: i64) -> Result<bool, StoreError> {
    Ok(tx.query_one(SQL_IS_NEWEST, &[id.into()])?.is_some())
}

const SQL_AGAIN: &str = "INSERT INTO outbox (site, subject, study, written_key, purpose, send_order, state, body_hash, request, attempts, created_ms,
        next_attempt_ms, lease, server_id, server_version)
    SELECT site, subject, study, written_key, purpose, send_order, 'planned', body_hash, request, 0, $1, $1, 0, server_id, server_version
    FROM outbox WHERE item = $2 ON CONFLICT DO NOTHING";

/// Plans what has arrived once more, as an item of its own, because the EHR no longer holds it as it was; `false` when a newer plan
/// overtook it.
pub fn again(tx: &mut Tx<'_>, id: i64, now_ms: i64) -> Result<bool, StoreError> {
    if !is_newest(tx, id)? {
        return Ok(false);
    }
    Ok(tx.execute(SQL_AGAIN, &[now_ms.into(), id.into()])? == 1)
}

const SQL_NEWEST_ARRIVED: &str =
    "SELECT item FROM outbox WHERE site = $1 AND written_key = $2 AND state IN ('confirmed', 'degraded') ORDER BY item DESC LIMIT 1";

/// The newest item of a key that has arrived.
pub fn newest_arrived(tx: &mut Tx<'_>, site: &str, key: &str) -> Result<Option<i64>, StoreError> {
    tx.query_one(SQL_NEWEST_ARRIVED, &[site.into(), key.into()])?.map(|row| row.integer(0)).transpose()
}

const SQL_KEYS: &str = "SELECT DISTINCT written_key FROM outbox WHERE site = $1";

/// Every key that was ever planned at a site.
pub fn keys(tx: &mut Tx<'_>, site: &str) -> Result<std::collections::BTreeSet<String>, StoreError> {
    tx.query(SQL_KEYS, &[site.into()])?.iter().map(|row| row.string(0)).collect()
}

const SQL_FIRST_ARRIVED: &str = "SELECT MIN(created_ms) FROM outbox WHERE site = $1 AND state IN ('confirmed', 'degraded')";

/// When the oldest item that has arrived was planned; `None` where nothing has.
pub fn first_arrived_ms(tx: &mut Tx<'_>, site: &str) -> Result<Option<i64>, StoreError> {
    tx.query_one(SQL_FIRST_ARRIVED, &[site.into()])?.map_or(Ok(None), |row| row.optional_integer(0))
}
