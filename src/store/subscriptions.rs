//! Subscriptions of EHRs and their events. Each event has a number of its subscription's own, from 1 without a gap, given in
//! the transaction of the judgement that it speaks of. One sender at a time has a subscription, by lease.

use super::versions::{Audience, Change, SubjectVersion};
use super::{Bind, Row, StoreError, Tx, accesses, versions};
use crate::fhir::subscription::{Content, Wanted};

/// Where a subscription stands: R4 subscription-status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Its endpoint has not answered the handshake yet.
    Requested,
    Active,
    /// Its endpoint did not answer for too long; whoever wants it again puts it back to `requested`.
    Error,
    Off,
}

impl Status {
    pub const ALL: [Status; 4] = [Status::Requested, Status::Active, Status::Error, Status::Off];

    pub const fn word(self) -> &'static str {
        match self {
            Status::Requested => "requested",
            Status::Active => "active",
            Status::Error => "error",
            Status::Off => "off",
        }
    }

    pub fn from_word(word: &str) -> Option<Status> {
        Status::ALL.into_iter().find(|status| status.word() == word)
    }
}

/// One subscription as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Subscription {
    pub site: String,
    pub id: String,
    /// Name of the token that made it; nobody else but an admin sees it.
    pub who: String,
    pub status: Status,
    pub version: i64,
    pub updated_ms: i64,
    pub wanted: Wanted,
    /// Events so far.
    pub events: i64,
    /// The newest that was handed over.
    pub delivered_event: i64,
    pub due_ms: Option<i64>,
    pub failing_since_ms: Option<i64>,
    pub attempts: i64,
    pub last_error: Option<String>,
}

/// One event of one subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub number: i64,
    pub at_ms: i64,
    /// The version it speaks of.
    pub version: i64,
    /// The subject as it may be told of now: what was overtaken is not sent.
    pub now: SubjectVersion,
}

const COLUMNS: &str = "SELECT site, subscription, who, status, version, updated_ms, wanted, events, delivered_event, due_ms, failing_since_ms,
    attempts, last_error FROM subscriptions";

fn read_subscription(row: &Row) -> Result<Subscription, StoreError> {
    let unreadable = || StoreError::Broken("a subscription cannot be read".into());
    Ok(Subscription {
        site: row.string(0)?,
        id: row.string(1)?,
        who: row.string(2)?,
        status: Status::from_word(row.text(3)?).ok_or_else(unreadable)?,
        version: row.integer(4)?,
        updated_ms: row.integer(5)?,
        wanted: serde_json::from_str(row.text(6)?).map_err(|_| unreadable())?,
        events: row.integer(7)?,
        delivered_event: row.integer(8)?,
        due_ms: row.optional_integer(9)?,
        failing_since_ms: row.optional_integer(10)?,
        attempts: row.integer(11)?,
        last_error: row.optional_string(12)?,
    })
}

const SQL_CREATE: &str = "INSERT INTO subscriptions (site, subscription, who, status, version, updated_ms, wanted, events, delivered_event, due_ms,
        end_ms, attempts, next_attempt_ms, lease)
    VALUES ($1, $2, $3, $4, 1, $5, $6, 0, 0, $7, $8, 0, $5, 0) ON CONFLICT DO NOTHING";

/// Takes a new subscription; `false` where the id is taken.
pub fn create(tx: &mut Tx<'_>, site: &str, id: &str, who: &str, status: Status, wanted: &Wanted, now_ms: i64) -> Result<bool, StoreError> {
    let text = serde_json::to_string(wanted).expect("a subscription is plain data");
    let params: [Bind<'_>; 8] = [
        site.into(),
        id.into(),
        who.into(),
        status.word().into(),
        now_ms.into(),
        text.as_str().into(),
        Some(now_ms).filter(|_| status == Status::Requested).into(),
        wanted.end_ms.into(),
    ];
    Ok(tx.execute(SQL_CREATE, &params)? == 1)
}

// A new lease number: who is sending for the old version records nothing.
const SQL_UPDATE: &str = "UPDATE subscriptions SET status = $1, version = version + 1, updated_ms = $2, wanted = $3, due_ms = $4, end_ms = $5,
        failing_since_ms = NULL, attempts = 0, next_attempt_ms = $2, lease = lease + 1, lease_until_ms = NULL, last_error = NULL
    WHERE site = $6 AND subscription = $7";

/// Asks anew: with `Requested` it begins with a handshake again, and then goes on where it stopped.
pub fn update(tx: &mut Tx<'_>, site: &str, id: &str, status: Status, wanted: &Wanted, now_ms: i64) -> Result<bool, StoreError> {
    let text = serde_json::to_string(wanted).expect("a subscription is plain data");
    let params: [Bind<'_>; 7] = [
        status.word().into(),
        now_ms.into(),
        text.as_str().into(),
        Some(now_ms).filter(|_| status == Status::Requested).into(),
        wanted.end_ms.into(),
        site.into(),
        id.into(),
    ];
    Ok(tx.execute(SQL_UPDATE, &params)? == 1)
}

const SQL_DELETE_EVENTS: &str = "DELETE FROM subscription_events WHERE site = $1 AND subscription = $2";
const SQL_DELETE: &str = "DELETE FROM subscriptions WHERE site = $1 AND subscription = $2";

pub fn delete(tx: &mut Tx<'_>, site: &str, id: &str) -> Result<bool, StoreError> {
    tx.execute(SQL_DELETE_EVENTS, &[site.into(), id.into()])?;
    Ok(tx.execute(SQL_DELETE, &[site.into(), id.into()])? == 1)
}

pub fn get(tx: &mut Tx<'_>, site: &str, id: &str) -> Result<Option<Subscription>, StoreError> {
    let sql = format!("{COLUMNS} WHERE site = $1 AND subscription = $2");
    tx.query_one(&sql, &[site.into(), id.into()])?.as_ref().map(read_subscription).transpose()
}

/// Subscriptions of a site, those of one token or all.
pub fn list(tx: &mut Tx<'_>, site: &str, who: Option<&str>) -> Result<Vec<Subscription>, StoreError> {
    let sql = format!("{COLUMNS} WHERE site = $1 AND ($2 = '' OR who = $2) ORDER BY subscription");
    tx.query(&sql, &[site.into(), who.unwrap_or("").into()])?.iter().map(read_subscription).collect()
}

const SQL_LISTENING: &str = "SELECT subscription, wanted FROM subscriptions WHERE site = $1 AND status <> 'off' AND (end_ms IS NULL OR $2 < end_ms)
    ORDER BY subscription";
const SQL_NUMBER: &str = "UPDATE subscriptions SET events = events + 1 WHERE site = $1 AND subscription = $2 RETURNING events";
const SQL_EVENT: &str = "INSERT INTO subscription_events (site, subscription, event, at_ms, version) VALUES ($1, $2, $3, $4, $5)";

/// Records a change as an event of each subscription of its site that asked for it. One that is in error goes on counting, so
/// that nothing is lost when it comes back.
pub(super) fn note(tx: &mut Tx<'_>, at_ms: i64, version: i64, change: &Change) -> Result<(), StoreError> {
    let site = change.site.as_str();
    for row in tx.query(SQL_LISTENING, &[site.into(), at_ms.into()])? {
        let wanted: Wanted = serde_json::from_str(row.text(1)?).map_err(|_| StoreError::Broken("a subscription cannot be read".into()))?;
        if !wanted.asks_for(&change.study, change.from.as_deref(), change.to.as_deref()) {
            continue;
        }
        let id = row.text(0)?;
        // Gone since it was read: nobody listens any more.
        let Some(numbered) = tx.query_one(SQL_NUMBER, &[site.into(), id.into()])? else { continue };
        tx.execute(SQL_EVENT, &[site.into(), id.into(), numbered.integer(0)?.into(), at_ms.into(), version.into()])?;
    }
    Ok(())
}

const SQL_EVENTS: &str = "SELECT event, at_ms, version FROM subscription_events
    WHERE site = $1 AND subscription = $2 AND $3 <= event AND event <= $4 ORDER BY event LIMIT $5";

/// Events by their numbers, both ends included.
pub fn events(tx: &mut Tx<'_>, site: &str, id: &str, first: i64, last: i64, limit: usize) -> Result<Vec<Event>, StoreError> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = tx.query(SQL_EVENTS, &[site.into(), id.into(), first.into(), last.into(), limit.into()])?;
    let lost = || StoreError::Broken("an event speaks of a version that is not there".into());
    rows.iter()
        .map(|row| {
            let version = row.integer(2)?;
            let then = versions::version(tx, Audience::Ehr, site, version)?.ok_or_else(lost)?;
            let now = versions::newest(tx, Audience::Ehr, site, &then.resource)?.ok_or_else(lost)?;
            Ok(Event { number: row.integer(0)?, at_ms: row.integer(1)?, version, now })
        })
        .collect()
}

/// A subscription under a lease, with what is due to it: events, or (without any) a handshake or a heartbeat.
#[derive(Clone, Debug)]
pub struct Claimed {
    pub subscription: Subscription,
    pub events: Vec<Event>,
    /// Fencing token.
    lease: i64,
}

const SQL_END: &str = "UPDATE subscriptions SET status = 'off', version = version + 1, updated_ms = $1, due_ms = NULL
    WHERE status <> 'off' AND end_ms <= $1";
/// What is due and free now.
const DUE: &str = "status IN ('requested', 'active') AND next_attempt_ms <= $1 AND (lease_until_ms IS NULL OR lease_until_ms <= $1)
    AND ((status = 'active' AND delivered_event < events) OR due_ms <= $1)";

/// How long an answer may take where the subscription does not say, and at most.
pub const TIMEOUT_S: u32 = 20;
pub const TIMEOUT_MAX_S: u32 = 60;
/// A lease outlives its answer by so much.
const LEASE_GRACE_MS: i64 = 10_000;

/// Whether anything is due, so that nobody needs to write to find nothing.
pub fn is_any_due(tx: &mut Tx<'_>, now_ms: i64) -> Result<bool, StoreError> {
    let sql = format!("SELECT subscription FROM subscriptions WHERE ({DUE}) OR (status <> 'off' AND end_ms <= $1) LIMIT 1");
    Ok(tx.query_one(&sql, &[now_ms.into()])?.is_some())
}

/// Claims what is due, whoever has waited longest first, and ends those whose time is over.
pub fn claim(tx: &mut Tx<'_>, now_ms: i64, limit: usize) -> Result<Vec<Claimed>, StoreError> {
    tx.execute(SQL_END, &[now_ms.into()])?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let due = tx.query(&format!("{COLUMNS} WHERE {DUE} ORDER BY next_attempt_ms, site, subscription LIMIT $2"), &[now_ms.into(), limit.into()])?;
    // The guard is repeated: between the two statements another gateway may have claimed it (seen on PostgreSQL).
    let guard = DUE.replace("$1", "$4");
    let take =
        format!("UPDATE subscriptions SET lease = lease + 1, lease_until_ms = $1 WHERE site = $2 AND subscription = $3 AND {guard} RETURNING lease");
    let mut claimed = Vec::new();
    for row in &due {
        let subscription = read_subscription(row)?;
        let (site, id) = (subscription.site.as_str(), subscription.id.as_str());
        let lease_ms = i64::from(subscription.wanted.timeout_s.unwrap_or(TIMEOUT_S)) * 1_000 + LEASE_GRACE_MS;
        let Some(taken) = tx.query_one(&take, &[(now_ms + lease_ms).into(), site.into(), id.into(), now_ms.into()])? else { continue };
        let events = match subscription.status {
            Status::Active => {
                let most = subscription.wanted.most_events();
                events(tx, site, id, subscription.delivered_event + 1, subscription.events, most)?
            }
            Status::Requested | Status::Error | Status::Off => Vec::new(),
        };
        claimed.push(Claimed { lease: taken.integer(0)?, subscription, events });
    }
    Ok(claimed)
}

/// What became of one notification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Delivered,
    /// To be tried again then.
    Failed {
        error: String,
        next_attempt_ms: i64,
    },
    GivenUp {
        error: String,
    },
}

const SQL_DELIVERED: &str = "UPDATE subscriptions SET version = CASE status WHEN 'requested' THEN version + 1 ELSE version END,
        updated_ms = CASE status WHEN 'requested' THEN $1 ELSE updated_ms END, status = 'active', delivered_event = $2, due_ms = $3,
        failing_since_ms = NULL, attempts = 0, next_attempt_ms = $1, lease_until_ms = NULL, last_error = NULL
    WHERE site = $4 AND subscription = $5 AND lease = $6";
const SQL_FAILED: &str = "UPDATE subscriptions SET failing_since_ms = COALESCE(failing_since_ms, $1), attempts = attempts + 1, next_attempt_ms = $2,
        last_error = $3, lease_until_ms = NULL WHERE site = $4 AND subscription = $5 AND lease = $6";
const SQL_GIVEN_UP: &str =
    "UPDATE subscriptions SET status = 'error', version = version + 1, updated_ms = $1, attempts = attempts + 1, due_ms = NULL,
        last_error = $2, lease_until_ms = NULL WHERE site = $3 AND subscription = $4 AND lease = $5";

/// Records what became of it and gives the lease back; `false` when the lease was lost meanwhile. What was told of a subject
/// stands in the record of who looked.
pub fn finish(tx: &mut Tx<'_>, claimed: &Claimed, now_ms: i64, outcome: &Outcome) -> Result<bool, StoreError> {
    let Claimed { subscription, events, lease } = claimed;
    let (site, id) = (subscription.site.as_str(), subscription.id.as_str());
    let changed = match outcome {
        Outcome::Delivered => {
            let delivered = events.last().map_or(subscription.delivered_event, |event| event.number);
            let due_ms = subscription.wanted.heartbeat_s.map(|seconds| now_ms + i64::from(seconds) * 1_000);
            tx.execute(SQL_DELIVERED, &[now_ms.into(), delivered.into(), due_ms.into(), site.into(), id.into(), (*lease).into()])?
        }
        Outcome::Failed { error, next_attempt_ms } => {
            let params: [Bind<'_>; 6] = [now_ms.into(), (*next_attempt_ms).into(), error.as_str().into(), site.into(), id.into(), (*lease).into()];
            tx.execute(SQL_FAILED, &params)?
        }
        Outcome::GivenUp { error } => tx.execute(SQL_GIVEN_UP, &[now_ms.into(), error.as_str().into(), site.into(), id.into(), (*lease).into()])?,
    };
    if changed == 1 && *outcome == Outcome::Delivered && subscription.wanted.content != Content::Empty {
        for event in events {
            accesses::record(tx, now_ms, &subscription.who, "notify", site, &event.now.subject, &event.now.study)?;
        }
    }
    Ok(changed == 1)
}
