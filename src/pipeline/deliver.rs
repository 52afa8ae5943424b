//! Delivers the outbox of one site: claim by lease, look again, send, read back, record.
//!
//! Each attempt begins by looking at what the EHR holds, so an unknown result (a timeout after the server had
//! applied it, a kill between send and record) can never make a second resource. An item is `confirmed` only when it
//! was found again by its id and by search. No transaction is open while the network is asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::probe::Asker;
use super::{Pipeline, receivers};
use crate::ehr::{Ehr, EhrError, Held};
use crate::fhir::edit;
use crate::store::outbox::{self, Claimed, Item, ItemState, Outcome};
use crate::store::{StoreError, screening};
use crate::writeback::{self, Known, Mode, Purpose, Receiver};

/// Requests of one site that are under way at once; each belongs to another key.
const PARALLEL: usize = 4;
/// How long an attempt may take in all; shorter than its lease, so that a lease never ends under a living sender.
const ATTEMPT_MAX: Duration = Duration::from_secs(45);
const LEASE_MS: i64 = 60_000;
/// Retries go from 1 s, doubling, to 15 min, with full jitter, for 7 days; then a person decides.
const BACKOFF_FIRST_MS: i64 = 1_000;
const BACKOFF_MAX_MS: i64 = 900_000;
const GIVE_UP_AFTER_MS: i64 = 7 * 86_400_000;
/// While an EHR does not answer it is asked once in at most this time, whatever waits.
const PROBE_MAX_MS: i64 = 60_000;
/// An EHR that is silent for so long is said so, once.
const ALARM_AFTER_MS: i64 = 900_000;
/// A version that changes under us is read and written anew this often before a person looks.
const CONFLICT_TRIES: usize = 3;
/// A read-back follows at once and after these pauses; then once more after `LATE_READ_BACK_MS`, for a server that
/// commits late; then the item is lost.
const READ_BACK_PAUSES: [Duration; 3] = [Duration::ZERO, Duration::from_millis(250), Duration::from_millis(1_000)];
const LATE_READ_BACK_MS: i64 = 60_000;
/// How long an item waits whose subject's chart changed and is not judged yet.
const JUDGE_FIRST_MS: i64 = 1_000;
/// How long after it found nothing a retraction looks again for a create that got no answer.
const LATE_CREATE_MS: i64 = 30_000;

/// What one round came to, by the state items ended in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub claimed: usize,
    pub confirmed: usize,
    pub superseded: usize,
    pub degraded: usize,
    pub rejected: usize,
    pub lost: usize,
    /// Waiting for their next attempt, their read-back or a release.
    pub waiting: usize,
    /// The lease was lost meanwhile: somebody else has the item, nothing was recorded.
    pub fenced: usize,
}

/// Keeps a site's requests back while its EHR does not answer, or asked for time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Circuit {
    /// Rounds in a row without an answer.
    failures: u32,
    /// Begin of the first of them.
    silent_since_ms: i64,
    is_alarm_raised: bool,
    open_until_ms: i64,
}

impl Circuit {
    pub fn is_open(&self, now_ms: i64) -> bool {
        now_ms < self.open_until_ms
    }
}

/// Delivers a site's outbox until `stop` says so; a round that is under way is finished first. `beat` says when the last
/// round began, ms since 1970 UTC.
pub async fn run(pipeline: Pipeline, ehr: Ehr, site: String, beat: Arc<AtomicI64>, mut stop: watch::Receiver<bool>) {
    let mut circuit = Circuit::default();
    let mut asker = Asker::default();
    while !*stop.borrow() {
        let now_ms = jiff::Timestamp::now().as_millisecond();
        beat.store(now_ms, Ordering::Relaxed);
        if let Err(error) = asker.round(&pipeline, &ehr, &site, now_ms).await {
            tracing::error!(site, %error, "what the EHR can do could not be kept");
        }
        let pause = match deliver_once(&pipeline, &ehr, &mut circuit, &site, now_ms).await {
            Ok(summary) if 0 < summary.claimed => Duration::ZERO,
            Ok(_) => Duration::from_millis(500),
            Err(error) => {
                tracing::error!(site, %error, "the outbox could not be read or written");
                Duration::from_secs(5)
            }
        };
        tokio::select! {
            // A sender that is gone stops us as well.
            _ = stop.changed() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// One round: claims what is due at this site, sends it and reads it back. `now_ms` is the time it begins.
pub async fn deliver_once(pipeline: &Pipeline, ehr: &Ehr, circuit: &mut Circuit, site: &str, now_ms: i64) -> Result<Summary, StoreError> {
    let mut summary = Summary::default();
    if circuit.is_open(now_ms) {
        return Ok(summary);
    }
    let Some(contract) = pipeline.receivers.get(site).cloned() else { return Ok(summary) };
    let receiver = pipeline.store.read(move |tx| receivers::of(tx, &contract)).await?;
    // After a failure one request asks whether the EHR is back.
    let limit = if 0 < circuit.failures { 1 } else { PARALLEL };
    let claimed = {
        let site = site.to_owned();
        pipeline.store.write(move |tx| outbox::claim(tx, &site, now_ms, now_ms + LEASE_MS, limit)).await?
    };
    summary.claimed = claimed.len();
    let began = Instant::now();
    let mut attempts = JoinSet::new();
    for claimed in claimed {
        let (pipeline, ehr, receiver) = (pipeline.clone(), ehr.clone(), receiver.clone());
        attempts.spawn(async move {
            let attempt = attempt(&pipeline, &ehr, &receiver, &claimed.item);
            let attempt = match tokio::time::timeout(ATTEMPT_MAX, attempt).await {
                Ok(attempt) => attempt?,
                Err(_) => Attempt::failed(EhrError::Unknown),
            };
            let at_ms = now_ms + i64::try_from(began.elapsed().as_millis()).unwrap_or(i64::MAX);
            let outcome = outcome(&claimed.item, attempt.end, at_ms);
            let trouble = attempt.trouble.map(|after_ms| at_ms + after_ms);
            let is_recorded = record(&pipeline, claimed, at_ms, &outcome).await?;
            Ok::<_, StoreError>((outcome.state, trouble, is_recorded))
        });
    }
    let (mut troubles, mut until_ms, mut failed) = (0, 0, None);
    while let Some(joined) = attempts.join_next().await {
        match joined {
            // Its lease ends by itself; the other items must not wait for the mending of one.
            Err(panic) => {
                tracing::error!(site, %panic, "an attempt failed because of a fault of ours; it is tried again");
                summary.fenced += 1;
            }
            Ok(Ok((state, trouble, is_recorded))) => {
                summary.count(state, is_recorded);
                troubles += usize::from(trouble.is_some());
                until_ms = until_ms.max(trouble.unwrap_or_default());
            }
            // The others end first: their outcomes must not be lost with this one.
            Ok(Err(error)) => failed = Some(error),
        }
    }
    if let Some(error) = failed {
        return Err(error);
    }
    circuit.note(summary.claimed, troubles, until_ms, now_ms);
    if 0 < circuit.failures && !circuit.is_alarm_raised && circuit.silent_since_ms + ALARM_AFTER_MS <= now_ms {
        circuit.is_alarm_raised = true;
        tracing::error!(site, "the EHR has not answered for a quarter of an hour; what is written back waits");
    }
    Ok(summary)
}

impl Circuit {
    /// One round's troubles: it opens when nothing was answered, and as long as a server asked for.
    fn note(&mut self, claimed: usize, troubles: usize, until_ms: i64, now_ms: i64) {
        if claimed == 0 {
            return;
        }
        if troubles < claimed {
            *self = Circuit { open_until_ms: if now_ms < until_ms { until_ms } else { 0 }, ..Circuit::default() };
            return;
        }
        if self.failures == 0 {
            self.silent_since_ms = now_ms;
        }
        self.failures += 1;
        let probe_ms = (BACKOFF_FIRST_MS << (self.failures - 1).min(10)).min(PROBE_MAX_MS);
        self.open_until_ms = until_ms.max(now_ms + probe_ms);
    }
}

impl Summary {
    fn count(&mut self, state: ItemState, is_recorded: bool) {
        if !is_recorded {
            self.fenced += 1;
            return;
        }
        match state {
            ItemState::Confirmed => self.confirmed += 1,
            ItemState::Superseded => self.superseded += 1,
            ItemState::Degraded => self.degraded += 1,
            ItemState::Rejected => self.rejected += 1,
            ItemState::Lost => self.lost += 1,
            ItemState::Planned | ItemState::Sent | ItemState::Shadow => self.waiting += 1,
        }
    }
}

async fn record(pipeline: &Pipeline, claimed: Claimed, at_ms: i64, outcome: &Outcome) -> Result<bool, StoreError> {
    let (item, site, kind) = (claimed.item.id, claimed.item.site.clone(), claimed.item.request.resource_type.clone());
    let stored = outcome.clone();
    let is_recorded = pipeline.store.write(move |tx| outbox::finish(tx, &claimed, at_ms, &stored)).await?;
    let (state, status) = (outcome.state.word(), outcome.status);
    match outcome.state {
        _ if !is_recorded => tracing::warn!(item, site, kind, "another sender took over the item; nothing recorded"),
        ItemState::Lost | ItemState::Rejected | ItemState::Degraded => {
            tracing::error!(item, site, kind, state, status, "a write-back needs a person")
        }
        ItemState::Planned | ItemState::Sent | ItemState::Shadow | ItemState::Confirmed | ItemState::Superseded => {
            tracing::info!(item, site, kind, state, status, "write-back");
        }
    }
    Ok(is_recorded)
}

/// How one attempt ended.
enum End {
    Confirmed(Held),
    /// Taken back, and found gone.
    Gone,
    /// There, but not all of it.
    Degraded {
        held: Held,
        lacks: String,
    },
    /// Answered 2xx, not found yet.
    NotFound {
        status: Option<u16>,
        id: Option<String>,
        is_last_look: bool,
    },
    Superseded(&'static str),
    /// Waits for a named person's release.
    Shadow,
    /// Not its turn yet; ms from now.
    Later(i64),
    Refused {
        status: Option<u16>,
        why: String,
    },
    Failed(EhrError),
    /// Sent, and the read-back could not be asked.
    NotReadBack {
        status: u16,
        id: Option<String>,
        error: EhrError,
    },
}

struct Attempt {
    end: End,
    /// The EHR as a whole did not answer; ms from now before which it must not be asked.
    trouble: Option<i64>,
}

impl Attempt {
    fn ended(end: End) -> Attempt {
        Attempt { end, trouble: None }
    }

    fn failed(error: EhrError) -> Attempt {
        let trouble = trouble(&error);
        Attempt { end: End::Failed(error), trouble }
    }
}

/// Whether an error speaks of the whole EHR rather than of one request.
fn trouble(error: &EhrError) -> Option<i64> {
    match error {
        EhrError::Retry { status: None | Some(429 | 502 | 503 | 504), after_ms } => Some(after_ms.unwrap_or_default()),
        EhrError::Retry { status: Some(_), after_ms } => *after_ms,
        EhrError::Unknown | EhrError::Unauthorized { .. } => Some(0),
        EhrError::Conflict { .. } | EhrError::Refused { .. } | EhrError::Unsupported { .. } | EhrError::Absent { .. } => None,
    }
}

async fn attempt(pipeline: &Pipeline, ehr: &Ehr, receiver: &Receiver, item: &Item) -> Result<Attempt, StoreError> {
    if item.state == ItemState::Sent {
        return Ok(read_back(ehr, item, item.server_id.as_deref(), None, true).await);
    }
    if let Some(end) = look_here(pipeline, receiver, item).await? {
        return Ok(Attempt::ended(end));
    }
    if item.request.purpose == Purpose::Annotate
        && !item.subject.is_empty()
        && let Some(attempt) = look_there(ehr, receiver, item).await
    {
        return Ok(attempt);
    }
    Ok(send(ehr, receiver, item, has_predecessor(pipeline, item).await?).await)
}

/// The look at our own record before sending (rulings.md 28): what is overtaken is not sent. `None`: go on.
async fn look_here(pipeline: &Pipeline, receiver: &Receiver, item: &Item) -> Result<Option<End>, StoreError> {
    let is_annotation = item.request.purpose == Purpose::Annotate;
    let (site, subject, study_id) = (item.site.clone(), item.subject.clone(), item.study.clone());
    let (card, written, is_released) = pipeline
        .store
        .read(move |tx| {
            let mut written = outbox::written(tx, &site, "", &study_id)?;
            let mut card = None;
            if !subject.is_empty() {
                written.extend(outbox::written(tx, &site, &subject, &study_id)?);
                card = screening::card(tx, &site, &subject, &study_id)?;
            }
            Ok((card, written, outbox::released(tx, &site, &study_id)?.is_some()))
        })
        .await?;
    if is_annotation && receiver.mode == Mode::Shadow && !is_released {
        return Ok(Some(End::Shadow));
    }
    let Some(study) = pipeline.catalogue.studies.get(&item.study) else {
        // A study that was taken out of the catalogue is judged no more; what stands can still be taken back.
        return Ok(is_annotation.then_some(End::Superseded("the study is not in the catalogue")));
    };
    if item.subject.is_empty() {
        let is_current = writeback::is_of_current_study(receiver, study, &item.request);
        return Ok((!is_current).then_some(End::Superseded("the study says otherwise now")));
    }
    let Some(card) = card else {
        return Ok(is_annotation.then_some(End::Superseded("the subject is not judged for this study")));
    };
    if is_annotation && card.row.is_waiting {
        return Ok(Some(End::Later(JUDGE_FIRST_MS)));
    }
    let known = Known { subject: &item.subject, assessment: &card.assessment, course: None };
    let is_wanted = writeback::is_still_wanted(receiver, study, known, &written, &item.request);
    Ok((!is_wanted).then_some(End::Superseded("state or verdict changed")))
}

/// The look at the Patient in the EHR: still there, alive, the same kind of record. `None`: go on.
async fn look_there(ehr: &Ehr, receiver: &Receiver, item: &Item) -> Option<Attempt> {
    let patient = match ehr.patient(&item.subject).await {
        Ok(patient) => patient,
        Err(error) => return Some(Attempt::failed(error)),
    };
    let refused = |why: &str| Some(Attempt::ended(End::Refused { status: None, why: why.to_owned() }));
    let Some(patient) = patient else { return refused("the EHR has no such Patient") };
    if patient.is_deceased {
        return Some(Attempt::ended(End::Superseded("the Patient has died")));
    }
    if patient.is_retired {
        return Some(Attempt::ended(End::Superseded("the Patient record was retired or merged")));
    }
    match (receiver.tag_test, patient.is_test) {
        (true, false) => refused("the Patient is not labelled HTEST, and this receiver is for test data"),
        (false, true) => Some(Attempt::ended(End::Superseded("the Patient is labelled HTEST"))),
        (true, true) | (false, false) => None,
    }
}

/// Whether an earlier request for this key may still be on its way: then a look that finds nothing proves nothing yet.
async fn has_predecessor(pipeline: &Pipeline, item: &Item) -> Result<bool, StoreError> {
    if item.request.purpose == Purpose::Annotate {
        return Ok(false);
    }
    let (site, subject, study, key, id) = (item.site.clone(), item.subject.clone(), item.study.clone(), item.request.key.clone(), item.id);
    let items = pipeline.store.read(move |tx| outbox::of_subject(tx, &site, &subject, &study)).await?;
    // A sender that was killed left no attempt behind, so any earlier item may have been sent.
    Ok(items.iter().any(|other| other.request.key == key && other.id < id))
}

/// Looks what the EHR holds, sends what makes it right, and reads it back.
async fn send(ehr: &Ehr, receiver: &Receiver, item: &Item, has_predecessor: bool) -> Attempt {
    let request = &item.request;
    let mut last = EhrError::Unknown;
    for _ in 0..CONFLICT_TRIES {
        let held = match current(ehr, item).await {
            Ok(held) => held,
            Err(error) => return Attempt::failed(error),
        };
        let is_delete = request.body.is_empty();
        match &held {
            None if request.purpose == Purpose::Retract => {
                // One answer "not there" could be a wrong address; a search must agree before a flag counts as gone.
                match ehr.find(&request.resource_type, &request.key).await {
                    Ok(found) if found.is_empty() => {}
                    Ok(_) => return Attempt::ended(End::Refused { status: None, why: "not found by its id, yet found by search".to_owned() }),
                    Err(error) => return Attempt::failed(error),
                }
                // An earlier create that got no answer may still be applied: it is looked for once more, later.
                return match has_predecessor && item.attempts == 0 {
                    true => Attempt::ended(End::Later(LATE_CREATE_MS)),
                    false => Attempt::ended(End::Gone),
                };
            }
            Some(held) if !is_delete && edit::is_same(&request.body, &held.resource) => {
                return read_back(ehr, item, held.index.id.as_deref(), None, false).await;
            }
            Some(_) | None => {}
        }
        let (method, url, mut headers, body) = as_sent(receiver, item, held.as_ref());
        let mut answer = ehr.send(&method, &url, &headers, &body).await;
        if method == "POST" && matches!(answer, Err(EhrError::Unsupported { .. })) {
            // No conditional create for this type (SEKMET has none for ResearchStudy): the look found nothing, and
            // nobody else sends this key meanwhile.
            headers.retain(|(name, _)| name != "If-None-Exist");
            answer = ehr.send(&method, &url, &headers, &body).await;
        }
        match answer {
            Ok(answer) => {
                let id = answer.id.or_else(|| held.and_then(|held| held.index.id));
                return read_back(ehr, item, id.as_deref(), Some(answer.status), false).await;
            }
            // A DELETE of what is gone already.
            Err(EhrError::Absent { .. }) if is_delete => return read_back(ehr, item, None, None, false).await,
            // 412 on an update, 409 on either: somebody was faster. Read again, decide again; for a create that is
            // the same request, once the look has shown that it is still needed.
            Err(error @ EhrError::Conflict { .. }) => last = error,
            Err(EhrError::Absent { status }) => {
                let why = "not found where it should be written: does this server let clients choose ids (update_creates)?".to_owned();
                return Attempt::ended(End::Refused { status: Some(status), why });
            }
            Err(error) => return Attempt::failed(error),
        }
    }
    Attempt::failed(last)
}

/// What the EHR holds under our key: by the id we know, else by search; of several copies the oldest.
async fn current(ehr: &Ehr, item: &Item) -> Result<Option<Held>, EhrError> {
    let request = &item.request;
    if let Some(id) = item.server_id.as_deref().or_else(|| id_in_url(&request.url)) {
        return ehr.read(&request.resource_type, id).await;
    }
    let mut found = ehr.find(&request.resource_type, &request.key).await?;
    found.sort_by(|a, b| (&a.last_updated, &a.index.id).cmp(&(&b.last_updated, &b.index.id)));
    Ok(found.into_iter().next())
}

/// The id in `Type/id`.
fn id_in_url(url: &str) -> Option<&str> {
    url.split_once('/').map(|(_, id)| id)
}

/// The planned request, turned into the update of what the look found.
fn as_sent(receiver: &Receiver, item: &Item, held: Option<&Held>) -> (String, String, Vec<(String, String)>, String) {
    let request = &item.request;
    let kind = &request.resource_type;
    let mut headers: Vec<(String, String)> = request.headers.iter().filter(|(name, _)| name != "If-None-Exist").cloned().collect();
    match held.and_then(|held| held.index.id.clone().map(|id| (id, held.version.clone()))) {
        Some((id, version)) => {
            if let Some(version) = version {
                headers.push(("If-Match".to_owned(), format!("W/\"{version}\"")));
            }
            let is_delete = request.body.is_empty();
            let (method, body) = if is_delete { ("DELETE", String::new()) } else { ("PUT", edit::with_id(&request.body, &id)) };
            (method.to_owned(), format!("{kind}/{id}"), headers, body)
        }
        // What stood there was removed at the hospital, on a server that chooses ids: it is created anew.
        None if !receiver.update_creates => {
            headers.push(("If-None-Exist".to_owned(), request.search.clone()));
            ("POST".to_owned(), kind.clone(), headers, edit::without_id(&request.body))
        }
        None => (request.method.clone(), request.url.clone(), headers, request.body.clone()),
    }
}

/// Proves what arrived: by GET of the id, and by search for our identifier.
async fn read_back(ehr: &Ehr, item: &Item, id: Option<&str>, status: Option<u16>, is_last_look: bool) -> Attempt {
    let request = &item.request;
    let id = id.or(item.server_id.as_deref()).or_else(|| id_in_url(&request.url));
    let failed = |error: EhrError| {
        let trouble = trouble(&error);
        let end = match status {
            Some(status) => End::NotReadBack { status, id: id.map(str::to_owned), error },
            None => End::Failed(error),
        };
        Attempt { end, trouble }
    };
    let mut last_seen = None;
    for pause in READ_BACK_PAUSES {
        tokio::time::sleep(pause).await;
        let found = match ehr.find(&request.resource_type, &request.key).await {
            Ok(found) => found,
            Err(error) => return failed(error),
        };
        let read = match id.or_else(|| found.first().and_then(|held| held.index.id.as_deref())) {
            Some(id) => match ehr.read(&request.resource_type, id).await {
                Ok(read) => read,
                Err(error) => return failed(error),
            },
            None => None,
        };
        if request.body.is_empty() {
            if read.is_none() && found.is_empty() {
                return Attempt::ended(End::Gone);
            }
            continue;
        }
        let Some(read) = read else { continue };
        let mut lacks = edit::missing(&request.body, &read.resource);
        if 1 < found.len() {
            lacks.push(format!("{} copies under one identifier: a person must merge them", found.len()));
        }
        let is_found_by_search = found.iter().any(|held| held.index.id == read.index.id);
        match (lacks.is_empty(), is_found_by_search) {
            (true, true) => return Attempt::ended(End::Confirmed(read)),
            // It will not get better by waiting.
            (false, true) => return Attempt::ended(End::Degraded { held: read, lacks: lacks.join(", ") }),
            (_, false) => {
                lacks.push("not found by search".to_owned());
                last_seen = Some((read, lacks));
            }
        }
    }
    let end = match last_seen {
        Some((held, lacks)) if is_last_look => End::Degraded { held, lacks: lacks.join(", ") },
        Some(_) | None => End::NotFound { status, id: id.map(str::to_owned), is_last_look },
    };
    Attempt::ended(end)
}

/// What is recorded of an attempt that ended at `at_ms`.
fn outcome(item: &Item, end: End, at_ms: i64) -> Outcome {
    let mut outcome = Outcome {
        state: item.state,
        next_attempt_ms: at_ms,
        status: None,
        error: None,
        server_id: item.server_id.clone(),
        server_version: item.server_version.clone(),
    };
    match end {
        End::Confirmed(held) => {
            outcome.state = ItemState::Confirmed;
            outcome.server_id = held.index.id;
            outcome.server_version = held.version;
        }
        End::Gone => outcome.state = ItemState::Confirmed,
        End::Degraded { held, lacks } => {
            outcome.state = ItemState::Degraded;
            outcome.error = Some(lacks);
            outcome.server_id = held.index.id;
            outcome.server_version = held.version;
        }
        End::NotFound { status, id, is_last_look } => {
            outcome.state = if is_last_look { ItemState::Lost } else { ItemState::Sent };
            outcome.next_attempt_ms = at_ms + LATE_READ_BACK_MS;
            outcome.status = status.map(i64::from);
            outcome.error = Some("answered as done, and not found by a read-back".to_owned());
            outcome.server_id = id;
        }
        End::Superseded(why) => {
            outcome.state = ItemState::Superseded;
            outcome.error = Some(why.to_owned());
        }
        End::Shadow => outcome.state = ItemState::Shadow,
        End::Later(ms) => outcome.next_attempt_ms = at_ms + ms,
        End::Refused { status, why } => {
            outcome.state = ItemState::Rejected;
            outcome.status = status.map(i64::from);
            outcome.error = Some(why);
        }
        End::NotReadBack { status, id, error } => {
            outcome.state = ItemState::Sent;
            outcome.next_attempt_ms = at_ms + wait_ms(item.attempts, &error);
            outcome.status = Some(i64::from(status));
            outcome.error = Some(format!("read-back: {error}"));
            outcome.server_id = id;
        }
        End::Failed(error) => {
            outcome.next_attempt_ms = at_ms + wait_ms(item.attempts, &error);
            outcome.status = status_of(&error);
            outcome.error = Some(error.to_string());
            let is_for_good = match error {
                EhrError::Refused { .. } | EhrError::Unsupported { .. } | EhrError::Absent { .. } => true,
                // A flag must never stay because its version moved: a retraction goes on trying.
                EhrError::Conflict { .. } => item.request.purpose == Purpose::Annotate,
                EhrError::Retry { .. } | EhrError::Unknown | EhrError::Unauthorized { .. } => false,
            };
            if is_for_good || item.created_ms + GIVE_UP_AFTER_MS <= at_ms {
                outcome.state = ItemState::Rejected;
            }
        }
    }
    outcome
}

fn status_of(error: &EhrError) -> Option<i64> {
    match error {
        EhrError::Retry { status, .. } => status.map(i64::from),
        EhrError::Unknown => None,
        EhrError::Conflict { status }
        | EhrError::Refused { status, .. }
        | EhrError::Unsupported { status }
        | EhrError::Unauthorized { status }
        | EhrError::Absent { status } => Some(i64::from(*status)),
    }
}

/// ms until the next attempt: full jitter below a doubling bound, and never before the server allows.
fn wait_ms(attempts: i64, error: &EhrError) -> i64 {
    // While the whole EHR is silent its circuit sets the pace; an item that waited a quarter of an hour beyond that
    // would hold up all that comes after it when the EHR is back.
    let most_ms = if trouble(error).is_some() { PROBE_MAX_MS } else { BACKOFF_MAX_MS };
    let bound_ms = (BACKOFF_FIRST_MS << attempts.clamp(0, 20)).min(most_ms);
    let mut random = [0; 8];
    aws_lc_rs::rand::fill(&mut random).expect("the system gives random bytes");
    // Not quite zero, so that full jitter never makes a busy loop.
    let jitter_ms = 100 + i64::try_from(u64::from_le_bytes(random) % u64::try_from(bound_ms).unwrap_or(1)).unwrap_or_default();
    match error {
        EhrError::Retry { after_ms: Some(after_ms), .. } => jitter_ms.max(*after_ms) + jitter_ms.min(1_000),
        EhrError::Retry { after_ms: None, .. }
        | EhrError::Unknown
        | EhrError::Conflict { .. }
        | EhrError::Refused { .. }
        | EhrError::Unsupported { .. }
        | EhrError::Unauthorized { .. }
        | EhrError::Absent { .. } => jitter_ms,
    }
}
