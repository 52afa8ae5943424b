//! What sources notify of: the secrets by which they prove themselves, as hashes; the numbers of events, by which a lost
//! notification shows; and hints of what changed, kept before the source is answered. Holds nothing of a resource but its
//! type and id.

use super::{Bind, StoreError, Tx, feeds};
use crate::fhir::notification::Notification;
use crate::fhir::notification::numbers::Numbers;

/// Secrets of one Subscription that are kept: where an answer was lost, an older one may be the one that is used.
const SECRETS_MAX: i64 = 5;

const SQL_SECRET: &str = "INSERT INTO notify_secrets (site, feed, sha256, made_for, made_ms) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING";
const SQL_CROWD_OUT: &str = "DELETE FROM notify_secrets WHERE site = $1 AND feed = $2 AND made_for = $3 AND (until_ms <= $4 OR sha256 NOT IN
    (SELECT sha256 FROM notify_secrets WHERE site = $1 AND feed = $2 AND made_for = $3 ORDER BY made_ms DESC LIMIT $5))";

/// Lets a secret in, before the source learns it; `sha256` is hex.
pub fn add_secret(tx: &mut Tx<'_>, site: &str, feed: &str, made_for: &str, sha256: &str, now_ms: i64) -> Result<(), StoreError> {
    tx.execute(SQL_SECRET, &[site.into(), feed.into(), sha256.into(), made_for.into(), now_ms.into()])?;
    tx.execute(SQL_CROWD_OUT, &[site.into(), feed.into(), made_for.into(), now_ms.into(), SECRETS_MAX.into()]).map(drop)
}

const SQL_REPLACED: &str =
    "UPDATE notify_secrets SET until_ms = $1 WHERE site = $2 AND feed = $3 AND made_for = $4 AND sha256 <> $5 AND until_ms IS NULL";

/// The source has learnt a secret: the others of the same Subscription hold until `until_ms`, for what is under way.
pub fn replace_secrets(tx: &mut Tx<'_>, site: &str, feed: &str, made_for: &str, by_sha256: &str, until_ms: i64) -> Result<(), StoreError> {
    tx.execute(SQL_REPLACED, &[until_ms.into(), site.into(), feed.into(), made_for.into(), by_sha256.into()]).map(drop)
}

const SQL_SECRETS: &str = "SELECT sha256 FROM notify_secrets WHERE site = $1 AND feed = $2 AND (until_ms IS NULL OR $3 < until_ms)";

/// Hashes of the secrets that hold now, hex.
pub fn secrets(tx: &mut Tx<'_>, site: &str, feed: &str, now_ms: i64) -> Result<Vec<String>, StoreError> {
    tx.query(SQL_SECRETS, &[site.into(), feed.into(), now_ms.into()])?.iter().map(|row| row.string(0)).collect()
}

const SQL_FORGET_SECRETS: &str = "DELETE FROM notify_secrets WHERE site = $1 AND feed = $2 AND ($3 = '' OR made_for = $3)";
const SQL_FORGET_NUMBERS: &str = "DELETE FROM notify_numbers WHERE site = $1 AND feed = $2 AND ($3 = '' OR subscription = $3)";
const SQL_FORGET_HINTS: &str = "DELETE FROM feed_hints WHERE site = $1 AND feed = $2";

/// Forgets the secrets of one Subscription of ours.
pub fn forget_secrets(tx: &mut Tx<'_>, site: &str, feed: &str, made_for: &str) -> Result<(), StoreError> {
    tx.execute(SQL_FORGET_SECRETS, &[site.into(), feed.into(), made_for.into()]).map(drop)
}

/// Forgets what was heard of one Subscription, by its id at the source.
pub fn forget_numbers(tx: &mut Tx<'_>, site: &str, feed: &str, subscription: &str) -> Result<(), StoreError> {
    tx.execute(SQL_FORGET_NUMBERS, &[site.into(), feed.into(), subscription.into()]).map(drop)
}

/// Forgets a feed: nobody may notify it any more, and what it was told of is not read.
pub fn forget(tx: &mut Tx<'_>, site: &str, feed: &str) -> Result<(), StoreError> {
    forget_secrets(tx, site, feed, "")?;
    forget_numbers(tx, site, feed, "")?;
    tx.execute(SQL_FORGET_HINTS, &[site.into(), feed.into()]).map(drop)
}

/// Takes in a notification: its events are counted, what it names is kept as hints, and a round is asked for where there is
/// something to do.
pub fn hear(tx: &mut Tx<'_>, site: &str, feed: &str, notification: &Notification, now_ms: i64) -> Result<(), StoreError> {
    let is_numbered = notification.subscription.is_some() || notification.events_since_start.is_some();
    let mut due_ms = (!notification.events.is_empty()).then_some(now_ms);
    if is_numbered {
        let subscription = notification.subscription.as_deref().unwrap_or_default();
        lock(tx, site, feed)?;
        let numbers = Numbers::after(numbers(tx, site, feed, subscription)?, notification, now_ms);
        due_ms = [due_ms, numbers.due_ms()].into_iter().flatten().min();
        put(tx, site, feed, subscription, &numbers, now_ms, notification.kind.was_asked_for())?;
    }
    for event in &notification.events {
        let (resource_type, id) = event.focus.as_ref().map_or(("", None), |focus| (focus.resource_type.as_str(), Some(focus.id.as_str())));
        feeds::hint(tx, site, feed, resource_type, id, now_ms)?;
    }
    match due_ms {
        Some(due_ms) => feeds::ask_unless_failing(tx, site, feed, due_ms),
        None => Ok(()),
    }
}

/// Two that count at once must not both begin from the same numbers.
fn lock(tx: &mut Tx<'_>, site: &str, feed: &str) -> Result<(), StoreError> {
    tx.lock(&format!("notified {site} {feed}"))
}

/// What was heard of one Subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Its id at the source; empty where the source does not say.
    pub subscription: String,
    pub numbers: Numbers,
    /// When the newest notification came, whatever it said; 0: none yet.
    pub heard_ms: i64,
}

const SQL_HEARD: &str = "SELECT subscription, numbers, heard_ms FROM notify_numbers WHERE site = $1 AND feed = $2 ORDER BY subscription";

/// Every numbered Subscription of a feed that was heard of.
pub fn heard(tx: &mut Tx<'_>, site: &str, feed: &str) -> Result<Vec<Heard>, StoreError> {
    let rows = tx.query(SQL_HEARD, &[site.into(), feed.into()])?;
    rows.iter().map(|row| Ok(Heard { subscription: row.string(0)?, numbers: read(row.text(1)?)?, heard_ms: row.integer(2)? })).collect()
}

/// Changes what is known of one Subscription's numbers by what was found out otherwise.
pub fn settle(tx: &mut Tx<'_>, site: &str, feed: &str, subscription: &str, change: impl FnOnce(&mut Numbers)) -> Result<(), StoreError> {
    lock(tx, site, feed)?;
    let Some(mut numbers) = numbers(tx, site, feed, subscription)? else { return Ok(()) };
    change(&mut numbers);
    let text = to_json(&numbers);
    tx.execute(SQL_SETTLE, &[text.as_str().into(), site.into(), feed.into(), subscription.into()]).map(drop)
}

const SQL_NUMBERS: &str = "SELECT numbers FROM notify_numbers WHERE site = $1 AND feed = $2 AND subscription = $3";
const SQL_SETTLE: &str = "UPDATE notify_numbers SET numbers = $1 WHERE site = $2 AND feed = $3 AND subscription = $4";
const SQL_PUT: &str = "INSERT INTO notify_numbers (site, feed, subscription, numbers, heard_ms) VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (site, feed, subscription) DO UPDATE SET numbers = excluded.numbers,
        heard_ms = CASE WHEN excluded.heard_ms = 0 THEN notify_numbers.heard_ms ELSE excluded.heard_ms END";

fn numbers(tx: &mut Tx<'_>, site: &str, feed: &str, subscription: &str) -> Result<Option<Numbers>, StoreError> {
    let row = tx.query_one(SQL_NUMBERS, &[site.into(), feed.into(), subscription.into()])?;
    row.map(|row| read(row.text(0)?)).transpose()
}

fn put(tx: &mut Tx<'_>, site: &str, feed: &str, subscription: &str, numbers: &Numbers, now_ms: i64, was_asked_for: bool) -> Result<(), StoreError> {
    let text = to_json(numbers);
    // What we asked for is no sign that notifications arrive.
    let heard_ms = if was_asked_for { 0 } else { now_ms };
    let params: [Bind<'_>; 5] = [site.into(), feed.into(), subscription.into(), text.as_str().into(), heard_ms.into()];
    tx.execute(SQL_PUT, &params).map(drop)
}

fn read(text: &str) -> Result<Numbers, StoreError> {
    serde_json::from_str(text).map_err(|_| StoreError::Broken("the numbers of a subscription cannot be read".into()))
}

fn to_json(numbers: &Numbers) -> String {
    serde_json::to_string(numbers).expect("numbers are plain data")
}
