//! Subscriptions: the source says by itself that something changed, and what it names is read there. A notification is a hint
//! and may be lost, doubled or overtaken, so that each round also sees to what hints cannot tell: missing numbers, silence
//! and new beginnings are caught up with by the searches of [`super::poll`], and so is everything from time to time.

mod hints;
mod keep;
mod removal;
mod settings;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::comparison::Mode;
use super::{Round, Trouble, Work, poll};
use crate::ehr::{Ehr, EhrError};
use crate::fhir::notification;
use crate::store::feeds;
use crate::store::notified::{self, Heard};
use hints::follow;

pub use removal::{Left, left, remove, removed, run_removals};
pub use settings::{CatchUp, Settings, Topic};

/// Where the feed stands, beside what was heard of each Subscription.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Cursor {
    /// Where the source was told to notify.
    endpoint: String,
    /// The Subscriptions that stand at the source.
    made: Vec<keep::Made>,
    /// When it is looked again how they stand, and how often in a row that failed.
    keep_at_ms: i64,
    keep_failures: u32,
    /// Since when, after a mending or a new one, something may have gone unheard.
    unsure_since_ms: Option<i64>,
    /// The source does not have these operations.
    has_no_status: bool,
    has_no_events: bool,
    /// When the last whole catching up began, and the last one at all.
    caught_up_ms: Option<i64>,
    tried_ms: Option<i64>,
    concern: Option<(String, bool)>,
    read: poll::Cursor,
}

impl Cursor {
    fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a cursor is JSON")
    }
}

/// How often in one round a source is asked for events that it tells of by its answers.
const ASKED_AT_ONCE_MAX: usize = 5;
/// Between the beginnings of two searches for what hints without a name spoke of.
const SEARCH_PAUSE_MS: i64 = 5_000;
/// While a Subscription is not as it should be, the source is searched so often.
const WHILE_DEAF_MS: i64 = 300_000;
/// A heartbeat may be late by so much, for the way and the clocks.
const HEARTBEAT_SLACK_MS: i64 = 10_000;

/// Follows hints, sees to the Subscriptions, and catches up with what was not told.
pub(super) async fn round(mut work: Work<'_>, ehr: &Ehr, settings: &Settings, endpoint: &str, cursor: &str) -> Result<Round, Trouble> {
    // A cursor that cannot be read is one of an older form: everything is read once more.
    let mut cursor: Cursor = serde_json::from_str(cursor).unwrap_or_default();
    if let Some(sha256) = &settings.secret_sha256 {
        keep::let_in(&work, sha256).await?;
        keep::forget_replaced(&work).await?;
    }
    if work.seen.begins() {
        // While this gateway was away the source may have given up on it.
        cursor.unsure_since_ms.get_or_insert(work.began_ms);
        cursor.keep_at_ms = 0;
    }
    // What was heard until here is followed below, so that nothing of it is outstanding then.
    let heard_before = heard(&work).await?;
    let mut followed = follow(&mut work, ehr).await?;
    let is_sign = note_signs(&work, &heard_before).await? || silent_ms(settings, &cursor, &heard_before).is_some_and(|ms| ms <= work.now_ms());
    if is_sign && cursor.keep_failures == 0 {
        cursor.keep_at_ms = 0;
    }
    if settings.secret_sha256.is_none() && cursor.keep_at_ms <= work.now_ms() {
        keep::keep(&mut work, ehr, settings, endpoint, &mut cursor).await?;
        work.advance(cursor.to_json()).await?;
    }
    // A search settles what is missing, and shows no deletes: before it even what may still come is asked for.
    let heard_now = heard(&work).await?;
    let is_settled_by_search = reason_to_search(settings, &cursor, &heard_now, !followed.nameless.is_empty(), work.now_ms());
    ask_for_missing(&mut work, ehr, &mut cursor, heard_now, is_settled_by_search).await?;
    followed.join(follow(&mut work, ehr).await?);
    let heard = heard(&work).await?;
    if reason_to_search(settings, &cursor, &heard, !followed.nameless.is_empty(), work.now_ms()) {
        work.round.complete_until_ms = catch_up(&mut work, ehr, settings, &mut cursor, &heard, &followed.nameless).await?;
        followed.nameless.clear();
    } else if followed.nameless.is_empty() && followed.trouble.is_none() {
        work.round.complete_until_ms = complete_by_heartbeat(&work, settings, &cursor, &heard_before).await?;
    }
    let next_ms = next_ms(&work, settings, &cursor, &heard, !followed.nameless.is_empty()).await?;
    let next_in_ms = (next_ms - work.now_ms()).max(0);
    let is_deaf = heard_ms(&cursor, &heard).zip(missed_ms(settings)).is_some_and(|(heard_ms, missed_ms)| heard_ms + missed_ms <= work.now_ms());
    let deaf = || "no heartbeat comes: can the source reach this gateway?".to_owned();
    let (of_person, of_time) = match cursor.concern {
        Some((words, true)) => (Some(words), None),
        Some((words, false)) => (None, Some(words)),
        None => (is_deaf.then(deaf), None),
    };
    Ok(Round { remark: of_person, concern: of_time.or(followed.trouble), next_in_ms, ..work.round })
}

/// Compares what the searches of the catching up show with what is here.
pub(super) async fn compare(work: Work<'_>, ehr: &Ehr, settings: &Settings, mode: Mode, who: &str) -> Result<Round, Trouble> {
    poll::compare(work, ehr, &settings.poll(), mode, who).await
}

async fn heard(work: &Work<'_>) -> Result<Vec<Heard>, Trouble> {
    let (site, feed) = (work.site.to_owned(), work.feed.to_owned());
    Ok(work.pipeline.store.read(move |tx| notified::heard(tx, &site, &feed)).await?)
}

/// Asks the source for the events whose numbers are missing, for long or at all, where it can be asked for them; what it names
/// becomes hints. `known` is what was heard until now.
async fn ask_for_missing(work: &mut Work<'_>, ehr: &Ehr, cursor: &mut Cursor, mut known: Vec<Heard>, at_all: bool) -> Result<(), Trouble> {
    let mut asked: BTreeMap<String, u64> = BTreeMap::new();
    // An answer says how many there are by now; those that it tells of for the first time are asked for as well.
    for _ in 0..ASKED_AT_ONCE_MAX {
        let now_ms = work.now_ms();
        let is_due = |of: &Heard| at_all || of.numbers.due_ms().is_some_and(|due_ms| due_ms <= now_ms);
        let is_new = |of: &Heard| asked.get(&of.subscription).is_none_or(|until| *until < of.numbers.told);
        let missing = |of: &Heard| of.numbers.missing_since_ms.is_some() && !of.subscription.is_empty() && is_due(of) && is_new(of);
        let due: Vec<Heard> = known.into_iter().filter(missing).collect();
        if due.is_empty() {
            return Ok(());
        }
        asked.extend(due.iter().map(|of| (of.subscription.clone(), of.numbers.told)));
        ask_for(work, ehr, cursor, due).await?;
        known = heard(work).await?;
    }
    Ok(())
}

async fn ask_for(work: &mut Work<'_>, ehr: &Ehr, cursor: &mut Cursor, due: Vec<Heard>) -> Result<(), Trouble> {
    for of in due {
        if cursor.has_no_events {
            return Ok(());
        }
        let (first, last) = (of.numbers.heard + 1, of.numbers.told);
        let asked = format!("Subscription/{}/$events?eventsSinceNumber={first}&eventsUntilNumber={last}&content=id-only", of.subscription);
        match ehr.document(&asked).await {
            Ok(answer) => match notification::read(answer.as_bytes()) {
                Ok(told) if told.subscription.as_ref().is_none_or(|of_answer| *of_answer == of.subscription) => {
                    let told = notification::Notification { subscription: Some(of.subscription.clone()), ..told };
                    let (site, feed, now_ms) = (work.site.to_owned(), work.feed.to_owned(), work.now_ms());
                    work.pipeline.store.write(move |tx| notified::hear(tx, &site, &feed, &told, now_ms)).await?;
                }
                Ok(_) | Err(_) => cursor.has_no_events = true,
            },
            Err(EhrError::Refused { .. } | EhrError::Unsupported { .. } | EhrError::Absent { .. }) => cursor.has_no_events = true,
            // The searches find it, if they can be made.
            Err(EhrError::Retry { .. } | EhrError::Unknown | EhrError::Conflict { .. }) => {}
            Err(error @ EhrError::Unauthorized { .. }) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Whether something may have happened that no hint names.
fn reason_to_search(settings: &Settings, cursor: &Cursor, heard: &[Heard], is_nameless: bool, now_ms: i64) -> bool {
    let Some(caught_up_ms) = cursor.caught_up_ms else { return true };
    if caught_up_ms + every_ms(settings, cursor) <= now_ms {
        return true;
    }
    if cursor.tried_ms.is_some_and(|tried_ms| now_ms < tried_ms + SEARCH_PAUSE_MS) {
        return false;
    }
    let is_unsure = cursor.unsure_since_ms.is_some() || heard.iter().any(|of| of.numbers.unsure_since_ms.is_some());
    let is_missing = heard.iter().any(|of| of.numbers.missing_since_ms.is_some() && of.numbers.due_ms().is_some_and(|due_ms| due_ms <= now_ms));
    is_nameless || is_unsure || is_missing || silent_ms(settings, cursor, heard).is_some_and(|silent_ms| silent_ms <= now_ms)
}

/// Time between searches that nothing but time asks for.
fn every_ms(settings: &Settings, cursor: &Cursor) -> i64 {
    let every_ms = i64::from(settings.catch_up.every_minutes) * 60_000;
    if cursor.concern.is_some() { every_ms.min(WHILE_DEAF_MS) } else { every_ms }
}

/// What was heard of each Subscription of ours, and when it was last written. Where people at the source made them, those
/// that were heard of are all that are known.
fn each<'h>(cursor: &Cursor, heard: &'h [Heard]) -> Vec<(Option<&'h Heard>, i64)> {
    if cursor.made.is_empty() {
        return heard.iter().map(|of| (Some(of), 0)).collect();
    }
    cursor.made.iter().map(|made| (heard.iter().find(|of| of.subscription == made.id), made.asked_ms)).collect()
}

/// When something was last heard of the Subscription that was heard of longest ago.
fn heard_ms(cursor: &Cursor, heard: &[Heard]) -> Option<i64> {
    each(cursor, heard).into_iter().map(|(of, asked_ms)| of.map_or(0, |of| of.heard_ms).max(asked_ms)).min()
}

/// So long a silence means that two heartbeats were missed.
fn missed_ms(settings: &Settings) -> Option<i64> {
    settings.heartbeat_seconds.map(|seconds| i64::from(seconds) * 2_000 + HEARTBEAT_SLACK_MS)
}

/// When two heartbeats will have been missed since everything was last known.
fn silent_ms(settings: &Settings, cursor: &Cursor, heard: &[Heard]) -> Option<i64> {
    let known_ms = heard_ms(cursor, heard)?.max(cursor.caught_up_ms.unwrap_or_default());
    missed_ms(settings).map(|missed_ms| known_ms + missed_ms)
}

/// Whether the source said that a Subscription is in trouble; from here on it is looked after.
async fn note_signs(work: &Work<'_>, heard: &[Heard]) -> Result<bool, Trouble> {
    let troubled: Vec<(String, i64)> = heard.iter().filter_map(|of| Some((of.subscription.clone(), of.numbers.trouble_since_ms?))).collect();
    if troubled.is_empty() {
        return Ok(false);
    }
    let (site, feed) = (work.site.to_owned(), work.feed.to_owned());
    let settle = move |tx: &mut crate::store::Tx<'_>| {
        troubled
            .iter()
            .try_for_each(|(subscription, since_ms)| notified::settle(tx, &site, &feed, subscription, |numbers| numbers.looked_after(*since_ms)))
    };
    work.pipeline.store.write(settle).await?;
    Ok(true)
}

/// Searches for everything that changed since the last time; then what was unsure or missing is known.
async fn catch_up(
    work: &mut Work<'_>,
    ehr: &Ehr,
    settings: &Settings,
    cursor: &mut Cursor,
    heard: &[Heard],
    nameless: &[i64],
) -> Result<Option<i64>, Trouble> {
    let asked_ms = work.now_ms();
    cursor.tried_ms = Some(asked_ms);
    let mut read = std::mem::take(&mut cursor.read);
    let rest = cursor.clone();
    let keep = |read: &poll::Cursor| Cursor { read: read.clone(), ..rest.clone() }.to_json();
    let complete_until_ms = poll::read(work, ehr, &settings.poll(), &mut read, &keep).await?;
    cursor.read = read;
    cursor.caught_up_ms = Some(asked_ms);
    cursor.unsure_since_ms = cursor.unsure_since_ms.filter(|since_ms| asked_ms < *since_ms);
    let told: Vec<(String, u64)> = heard.iter().map(|of| (of.subscription.clone(), of.numbers.told)).collect();
    let (site, feed, nameless) = (work.site.to_owned(), work.feed.to_owned(), nameless.to_vec());
    work.pipeline
        .store
        .write(move |tx| {
            feeds::hints_done(tx, &nameless)?;
            told.iter()
                .try_for_each(|(subscription, until)| notified::settle(tx, &site, &feed, subscription, |numbers| numbers.caught_up(*until, asked_ms)))
        })
        .await?;
    work.advance(cursor.to_json()).await?;
    Ok(complete_until_ms)
}

/// Up to when everything is here because every Subscription was heard to have told nothing that is not: what happened has had
/// a whole heartbeat to be counted.
async fn complete_by_heartbeat(work: &Work<'_>, settings: &Settings, cursor: &Cursor, heard: &[Heard]) -> Result<Option<i64>, Trouble> {
    let Some(heartbeat_s) = settings.heartbeat_seconds.filter(|_| cursor.caught_up_ms.is_some() && cursor.concern.is_none()) else { return Ok(None) };
    let (site, feed) = (work.site.to_owned(), work.feed.to_owned());
    let (waiting, _) = work.pipeline.store.read(move |tx| feeds::hints_waiting(tx, &site, &feed)).await?;
    let sure_ms = |(of, _): (Option<&Heard>, i64)| of.filter(|of| !of.numbers.is_missing() && of.numbers.due_ms().is_none())?.numbers.beat_ms;
    let oldest_ms = each(cursor, heard).into_iter().map(sure_ms).collect::<Option<Vec<i64>>>().and_then(|all| all.into_iter().min());
    let until_ms = oldest_ms.filter(|_| waiting == 0).map(|oldest_ms| oldest_ms - i64::from(heartbeat_s) * 1_000);
    Ok(until_ms.filter(|until_ms| cursor.caught_up_ms < Some(*until_ms)))
}

/// When there is something to do again, if nothing is heard until then.
async fn next_ms(work: &Work<'_>, settings: &Settings, cursor: &Cursor, heard: &[Heard], is_nameless: bool) -> Result<i64, Trouble> {
    let (site, feed) = (work.site.to_owned(), work.feed.to_owned());
    let hint_ms = work.pipeline.store.read(move |tx| feeds::next_hint_ms(tx, &site, &feed)).await?.filter(|_| !is_nameless);
    let now_ms = work.now_ms();
    let searched_ms = cursor.caught_up_ms.unwrap_or(now_ms) + every_ms(settings, cursor);
    let again_ms = cursor.tried_ms.map(|tried_ms| tried_ms + SEARCH_PAUSE_MS).filter(|_| is_nameless);
    let keep_ms = settings.secret_sha256.is_none().then_some(cursor.keep_at_ms);
    let numbers_ms =
        heard.iter().filter_map(|of| of.numbers.due_ms()).min().map(|due_ms| due_ms.max(cursor.tried_ms.unwrap_or_default() + SEARCH_PAUSE_MS));
    let all = [Some(searched_ms), again_ms, hint_ms, keep_ms, numbers_ms, silent_ms(settings, cursor, heard)];
    Ok(all.into_iter().flatten().min().unwrap_or(now_ms))
}
