//! Notifies subscribers: claim what is due by lease, build the Bundle of today's knowledge, send, record.
//!
//! Each subscription is sent to on its own, one notification at a time and in order; one that is slow or dead holds up
//! no other, and never the judgement that made the event. No transaction is open while the network is asked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::Pipeline;
use crate::ehr::hook::{Endpoint, HookError, Hooks};
use crate::fhir::build::parts::{Bundle, BundleEntry, EntryResponse, NotifiedEvent, SubscriptionStatus};
use crate::fhir::build::{self, BuildError};
use crate::fhir::edit;
use crate::fhir::notification::Kind;
use crate::fhir::study_flagged::{self, Identity, Target};
use crate::fhir::subscription::{Content, TOPIC};
use crate::store::StoreError;
use crate::store::subscriptions::{self, Claimed, Event, Outcome, Status, Subscription};
use crate::store::versions::SubjectVersion;
use crate::writeback::Receiver;

/// Notifications that are under way at once.
const PARALLEL: usize = 64;
const EVERY: Duration = Duration::from_millis(250);
/// A handshake that is not answered for so long ends in `error`, and so do events.
const HANDSHAKE_FOR_MS: i64 = 60_000;
const EVENTS_FOR_MS: i64 = 24 * 3_600_000;
/// Retries go from 1 s, doubling, to 5 min; half of each pause is chance.
const BACKOFF_FIRST_MS: i64 = 1_000;
const BACKOFF_MAX_MS: i64 = 300_000;

/// Hosts that each site's subscribers may be at: `ehr.example.org`, which means any port, or `ehr.example.org:8443`.
pub type Hosts = BTreeMap<String, Vec<String>>;

/// The endpoint, if notifications of this site may be sent there: to hosts the configuration names, or to the
/// receiver's own. `None` for everything else, so that nobody makes this gateway ask addresses of its own network.
pub fn allowed(hosts: &Hosts, receiver: &Receiver, endpoint: &str) -> Option<Endpoint> {
    let endpoint = Endpoint::parse(endpoint).ok()?;
    let is_named = hosts.get(&receiver.site).into_iter().flatten().any(|named| {
        let with_port = endpoint.port().map(|port| format!("{}:{port}", endpoint.host()));
        named.eq_ignore_ascii_case(endpoint.host()) || with_port.is_some_and(|with_port| named.eq_ignore_ascii_case(&with_port))
    });
    let is_receiver = Endpoint::parse(&receiver.base_url).is_ok_and(|own| own.host() == endpoint.host());
    (is_named || is_receiver).then_some(endpoint)
}

/// What sending needs; cheap to clone.
#[derive(Clone)]
pub struct Notifier {
    pub hosts: Arc<Hosts>,
    pub hooks: Hooks,
    /// How others reach this gateway: `https://gateway.example`.
    pub url: String,
}

/// Notifies until `stop` says so; what is under way is finished first. `beat` says when the last round began.
pub async fn run(pipeline: Pipeline, notifier: Notifier, beat: Arc<AtomicI64>, mut stop: watch::Receiver<bool>) {
    let mut under_way = JoinSet::new();
    while !*stop.borrow() {
        let now_ms = jiff::Timestamp::now().as_millisecond();
        beat.store(now_ms, Ordering::Relaxed);
        while let Some(ended) = under_way.try_join_next() {
            told(ended);
        }
        let pause = match claim(&pipeline, now_ms, PARALLEL - under_way.len()).await {
            Ok(claimed) => {
                for claimed in claimed {
                    under_way.spawn(send(pipeline.clone(), notifier.clone(), claimed, now_ms));
                }
                EVERY
            }
            Err(error) => {
                tracing::error!(%error, "subscriptions could not be read or written");
                Duration::from_secs(5)
            }
        };
        tokio::select! {
            // A sender that is gone stops us as well.
            _ = stop.changed() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
    while let Some(ended) = under_way.join_next().await {
        told(ended);
    }
}

fn told(ended: Result<Result<bool, StoreError>, tokio::task::JoinError>) {
    match ended {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::error!(%error, "what became of a notification could not be recorded; it is sent again"),
        Err(panic) => tracing::error!(%panic, "a notification failed because of a fault of ours; it is tried again"),
    }
}

/// One round, to its end: sends what is due as of `now_ms`. Answers how many notifications arrived, and how many did not.
pub async fn notify_once(pipeline: &Pipeline, notifier: &Notifier, now_ms: i64) -> Result<(usize, usize), StoreError> {
    let mut under_way = JoinSet::new();
    for claimed in claim(pipeline, now_ms, PARALLEL).await? {
        under_way.spawn(send(pipeline.clone(), notifier.clone(), claimed, now_ms));
    }
    let (mut arrived, mut failed) = (0, 0);
    while let Some(ended) = under_way.join_next().await {
        let has_arrived = match ended {
            Ok(ended) => ended?,
            Err(_) => false,
        };
        if has_arrived {
            arrived += 1;
        } else {
            failed += 1;
        }
    }
    Ok((arrived, failed))
}

async fn claim(pipeline: &Pipeline, now_ms: i64, limit: usize) -> Result<Vec<Claimed>, StoreError> {
    // Looking costs no writer anything; most rounds find nothing.
    if limit == 0 || !pipeline.store.read(move |tx| subscriptions::is_any_due(tx, now_ms)).await? {
        return Ok(Vec::new());
    }
    pipeline.store.write(move |tx| subscriptions::claim(tx, now_ms, limit)).await
}

/// Sends one notification and records what became of it; answers whether it arrived.
async fn send(pipeline: Pipeline, notifier: Notifier, claimed: Claimed, now_ms: i64) -> Result<bool, StoreError> {
    let began = Instant::now();
    let Subscription { site, id, .. } = claimed.subscription.clone();
    let sent = post(&pipeline, &notifier, &claimed, now_ms).await;
    let at_ms = now_ms + i64::try_from(began.elapsed().as_millis()).unwrap_or(i64::MAX);
    let outcome = outcome(&claimed.subscription, sent, at_ms);
    let arrived = outcome == Outcome::Delivered;
    let is_given_up = matches!(outcome, Outcome::GivenUp { .. });
    let (events, first) = (claimed.events.len(), claimed.events.first().map(|event| event.number));
    let is_recorded = pipeline.store.write(move |tx| subscriptions::finish(tx, &claimed, at_ms, &outcome)).await?;
    if !is_recorded {
        tracing::warn!(site, subscription = id, "another sender took over the subscription; nothing recorded");
    } else if is_given_up {
        tracing::error!(site, subscription = id, "a subscriber was not reached for too long; its subscription is in error");
    } else {
        tracing::info!(site, subscription = id, arrived, events, first, "notification");
    }
    Ok(arrived)
}

/// Why nothing arrived.
enum Failure {
    Hook(HookError),
    /// The host is not among those that this site allows any more.
    NotAllowed,
    Build(BuildError),
}

async fn post(pipeline: &Pipeline, notifier: &Notifier, claimed: &Claimed, now_ms: i64) -> Result<(), Failure> {
    let Claimed { subscription, events, .. } = claimed;
    let wanted = &subscription.wanted;
    let receiver = pipeline.receivers.get(&subscription.site).ok_or(Failure::NotAllowed)?;
    let endpoint = allowed(&notifier.hosts, receiver, &wanted.endpoint).ok_or(Failure::NotAllowed)?;
    let kind = match subscription.status {
        Status::Requested => Kind::Handshake,
        Status::Active | Status::Error | Status::Off if events.is_empty() => Kind::Heartbeat,
        Status::Active | Status::Error | Status::Off => Kind::EventNotification,
    };
    let base = format!("{}/fhir/{}", notifier.url, subscription.site);
    let bundle = notification(&base, subscription, kind, events, wanted.content, now_ms).map_err(Failure::Build)?;
    let timeout = Duration::from_secs(u64::from(wanted.timeout_s.unwrap_or(subscriptions::TIMEOUT_S)));
    notifier.hooks.post(&endpoint, &wanted.headers, bundle, timeout).await.map_err(Failure::Hook)
}

fn outcome(subscription: &Subscription, sent: Result<(), Failure>, at_ms: i64) -> Outcome {
    let (error, is_final) = match sent {
        Ok(()) => return Outcome::Delivered,
        // 410: it says that nobody listens there any more.
        Err(Failure::Hook(error)) => (error.to_string(), error == HookError::Answered(410)),
        Err(Failure::NotAllowed) => ("endpoint-not-allowed".to_owned(), true),
        Err(Failure::Build(error)) => {
            tracing::error!(%error, "a notification could not be built");
            ("internal".to_owned(), false)
        }
    };
    let patience_ms = match subscription.status {
        Status::Requested => HANDSHAKE_FOR_MS,
        Status::Active | Status::Error | Status::Off => EVENTS_FOR_MS,
    };
    let since_ms = subscription.failing_since_ms.unwrap_or(at_ms);
    if is_final || since_ms + patience_ms <= at_ms {
        return Outcome::GivenUp { error };
    }
    Outcome::Failed { error, next_attempt_ms: at_ms + backoff_ms(subscription.attempts) }
}

fn backoff_ms(attempts: i64) -> i64 {
    let full_ms = (BACKOFF_FIRST_MS << attempts.clamp(0, 20)).min(BACKOFF_MAX_MS);
    let mut random = [0; 4];
    aws_lc_rs::rand::fill(&mut random).expect("the system gives random bytes");
    full_ms / 2 + i64::from(u32::from_le_bytes(random)) % (full_ms / 2 + 1)
}

/// A fresh address of something that has no other.
pub fn uuid() -> String {
    let mut bytes = [0_u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system gives random bytes");
    // RFC 9562: version 4, variant 10.
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = crate::digest::hex(&bytes);
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// FHIR instant of ms since 1970 UTC.
pub fn instant(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| "1970-01-01T00:00:00Z".to_owned(), |at| at.to_string())
}

/// Our ResearchSubject as a version of it says; `None` where it is no longer there.
pub fn research_subject(version: &SubjectVersion) -> Option<String> {
    let status = version.status.as_deref()?;
    let identity = Identity { id: Some(&version.resource), identifiers: &[], is_test: false };
    let study = format!("ResearchStudy/{}", version.study);
    let text = study_flagged::research_subject(identity, status, Target::Literal(&study), &format!("Patient/{}", version.subject), None);
    let number = u64::try_from(version.version).unwrap_or_default();
    Some(edit::stamped(&text, &version.resource, number, &instant(version.at_ms)))
}

/// The status of a subscription as a notification or `$status` says it.
pub fn status(base: &str, subscription: &Subscription, kind: Kind, events: &[Event], content: Content) -> Result<(String, Vec<u8>), BuildError> {
    let id = uuid();
    let notified = |event: &Event| NotifiedEvent {
        number: u64::try_from(event.number).unwrap_or_default(),
        timestamp: instant(event.at_ms),
        focus: (content != Content::Empty).then(|| format!("{base}/ResearchSubject/{}", event.now.resource)),
    };
    let built = build::subscription_status(&SubscriptionStatus {
        id: id.clone(),
        subscription: format!("{base}/Subscription/{}", subscription.id),
        topic: TOPIC.to_owned(),
        status: subscription.status.word().to_owned(),
        kind: kind.word().to_owned(),
        events_since_start: u64::try_from(subscription.events).unwrap_or_default(),
        events: events.iter().map(notified).collect(),
        errors: subscription.last_error.iter().cloned().collect(),
    })?;
    Ok((id, built))
}

/// A notification: the backport's Bundle of type history, its first entry the status, then what changed as it is now. What was
/// overtaken since the event is not told any more; a later event speaks of it.
pub fn notification(
    base: &str,
    subscription: &Subscription,
    kind: Kind,
    events: &[Event],
    content: Content,
    now_ms: i64,
) -> Result<Vec<u8>, BuildError> {
    let (id, first) = status(base, subscription, kind, events, content)?;
    let answered = |status: &str| Some(EntryResponse { status: status.to_owned(), ..EntryResponse::default() });
    let mut entry = vec![BundleEntry {
        full_url: Some(format!("urn:uuid:{id}")),
        resource: Some(first),
        request: Some(("GET".to_owned(), format!("{base}/Subscription/{}/$status", subscription.id))),
        response: answered("200"),
        ..BundleEntry::default()
    }];
    let mut told = BTreeSet::new();
    for event in events.iter().filter(|event| content != Content::Empty && told.insert(&event.now.resource)) {
        let address = format!("ResearchSubject/{}", event.now.resource);
        let now = research_subject(&event.now);
        let (method, status) = if now.is_some() { ("PUT", "200") } else { ("DELETE", "204") };
        entry.push(BundleEntry {
            full_url: Some(format!("{base}/{address}")),
            resource: now.filter(|_| content == Content::FullResource).map(String::into_bytes),
            request: Some((method.to_owned(), address)),
            response: answered(status),
            ..BundleEntry::default()
        });
    }
    build::bundle(&Bundle { id: Some(uuid()), kind: "history".to_owned(), timestamp: Some(instant(now_ms)), entry, ..Bundle::default() })
}
