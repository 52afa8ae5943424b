//! Compares what one EHR should hold with what it holds, both ways, and mends what is ours.
//!
//! From our side every key whose newest item has arrived is read by its id; from theirs everything that carries our
//! identifier system is searched for. What is missing or changed is planned again through the outbox, so that leases,
//! If-Match and the read-back apply; what differs again after that is left to a person, since somebody at the hospital may
//! mean it. What is not ours is never touched.

mod asker;
mod merge;
mod sweep;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use tokio::sync::watch;

use super::Pipeline;
use super::deliver::LEFT_THERE;
use crate::ehr::{Ehr, EhrError, Held};
use crate::fhir::edit;
use crate::store::outbox::{self, Item, ItemState};
use crate::store::reconcile::{self, Counts, Did, Difference, Kind, Mode, NewProposal, ProposalState, Report, Run, RunState};
use crate::store::{Store, StoreError, receivers};
use crate::writeback::{Form, Purpose};

use asker::{Asker, Stop};

/// A reconcile that says nothing for so long has died with its gateway.
const LEASE_MS: i64 = 5 * 60_000;
/// Items read from the store at once.
const ITEMS_AT_ONCE: usize = 500;
/// What is planned again by one reconcile; the rest follows by the next.
const REPAIRS_MAX: usize = 500;
/// Differences a report lists; its counts count all.
const LISTED_MAX: usize = 1_000;
/// So many missing ones, and more than half of all, are not written anew without a person: the address may be another server's,
/// or the hospital restored an older state.
const MISSING_MANY: i64 = 20;
/// What was planned again within this time and differs again is left to a person.
const ONCE_WITHIN_MS: i64 = 90 * 86_400_000;
/// Hour of the night, of the site's zone or UTC.
const QUIET_HOUR: i8 = 2;
/// A nightly reconcile that broke off is tried again after this time.
const AGAIN_AFTER_MS: i64 = 3_600_000;
/// How often the loop looks whether something is due.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// A merge that the EHR could not be asked for is tried again after this time.
const MERGE_AGAIN_AFTER_MS: i64 = 60_000;

/// How far a reconcile is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    pub phase: Phase,
    pub done: usize,
    pub total: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Our items are read at the EHR, one by one.
    Compare,
    /// The EHR's resources are searched, type by type.
    Sweep,
}

/// Who watches a reconcile, and whether it shall stop.
#[derive(Clone, Copy)]
pub struct Watch<'a> {
    pub tell: &'a (dyn Fn(Progress) + Sync),
    pub is_stopped: &'a (dyn Fn() -> bool + Sync),
}

/// Reconciles one EHR now; `None` while another reconcile of the site runs. What broke off is recorded as failed.
pub async fn reconcile(
    pipeline: &Pipeline,
    ehr: &Ehr,
    site: &str,
    mode: Mode,
    who: &str,
    now_ms: i64,
    watch: Watch<'_>,
) -> Result<Option<Run>, StoreError> {
    let (asked_site, asked_who) = (site.to_owned(), who.to_owned());
    let begun = pipeline.store.write(move |tx| reconcile::begin(tx, &asked_site, mode, &asked_who, now_ms, now_ms + LEASE_MS)).await?;
    match begun {
        Some(id) => run(pipeline, ehr, site, id, mode, now_ms, watch).await.map(Some),
        None => Ok(None),
    }
}

/// Runs a reconcile that has begun, to its recorded end.
async fn run(pipeline: &Pipeline, ehr: &Ehr, site: &str, id: i64, mode: Mode, now_ms: i64, watch: Watch<'_>) -> Result<Run, StoreError> {
    let began = Instant::now();
    let mut asker = Asker::new(ehr, &pipeline.store, (id, now_ms), watch);
    let mut work = Work { pipeline, site, mode, report: Report::default(), found: Vec::new(), seen: BTreeMap::new() };
    let ended = work.all(&mut asker, now_ms).await;
    let mut report = work.report;
    report.requests = asker.requests;
    let state = match ended {
        Ok(()) => RunState::Done,
        Err(Stop::Store(error)) => return Err(error),
        Err(stop) => {
            report.notes.push(stop.to_string());
            RunState::Failed
        }
    };
    report.differences.sort_by_key(|difference| (difference.did != Did::PlannedAgain, difference.did == Did::Reported, difference.kind));
    report.differences.truncate(LISTED_MAX);
    let finished_ms = now_ms + i64::try_from(began.elapsed().as_millis()).unwrap_or(i64::MAX);
    let counts = report.counts;
    let (differences, needs_person, planned_again) = (counts.differences(), counts.needs_person, counts.planned_again);
    if state == RunState::Failed || 0 < needs_person {
        let state = state.word();
        tracing::warn!(site, state, compared = counts.compared, differences, planned_again, needs_person, "a reconcile needs a person");
    } else {
        tracing::info!(site, compared = counts.compared, differences, planned_again, "reconciled");
    }
    let stored = pipeline
        .store
        .write(move |tx| {
            reconcile::finish(tx, id, state, finished_ms, &report)?;
            reconcile::run(tx, id)
        })
        .await?;
    stored.ok_or_else(|| StoreError::Broken("a reconcile that ran is not in the store".into()))
}

/// One reconcile under way.
struct Work<'a> {
    pipeline: &'a Pipeline,
    site: &'a str,
    mode: Mode,
    report: Report,
    /// Differences of our side, with the item that each is about.
    found: Vec<(i64, Difference)>,
    /// Ids that the EHR was seen to hold, by type.
    seen: BTreeMap<String, BTreeSet<String>>,
}

impl Work<'_> {
    async fn all(&mut self, asker: &mut Asker<'_>, now_ms: i64) -> Result<(), Stop> {
        let items = self.items().await?;
        self.compare(asker, &items).await?;
        self.record_ours(now_ms).await?;
        self.sweep(asker, &items, now_ms).await?;
        self.report.is_complete = true;
        Ok(())
    }

    async fn items(&self) -> Result<Vec<Item>, StoreError> {
        let mut items: Vec<Item> = Vec::new();
        loop {
            let (site, after) = (self.site.to_owned(), items.last().map_or(0, |item| item.id));
            let more = self.pipeline.store.read(move |tx| outbox::newest_of_each(tx, &site, after, ITEMS_AT_ONCE)).await?;
            let is_last = more.len() < ITEMS_AT_ONCE;
            items.extend(more);
            if is_last {
                return Ok(items);
            }
        }
    }

    /// Our side: what each item says should stand there, read by its id.
    async fn compare(&mut self, asker: &mut Asker<'_>, items: &[Item]) -> Result<(), Stop> {
        let total = items.len();
        let mut told = Instant::now();
        for (done, item) in items.iter().enumerate() {
            asker.tell(Phase::Compare, done, total);
            if Duration::from_secs(10) < told.elapsed() {
                told = Instant::now();
                tracing::info!(site = self.site, done, total, "reconcile under way");
            }
            match item.state {
                ItemState::Confirmed | ItemState::Degraded => {}
                ItemState::Planned | ItemState::Shadow | ItemState::Sent => {
                    self.report.counts.on_their_way += 1;
                    continue;
                }
                // Whether something of them stands there all the same, the sweep sees.
                ItemState::Rejected | ItemState::Lost | ItemState::Superseded => continue,
            }
            let held = self.look(asker, item).await?;
            self.report.counts.compared += 1;
            match difference(item, held.as_ref()) {
                None => self.report.counts.as_expected += 1,
                Some((kind, elements)) => {
                    let id = held.and_then(|held| held.index.id).or_else(|| id_of(item).map(str::to_owned));
                    self.found.push((item.id, describe(item, kind, id, elements)));
                }
            }
        }
        asker.tell(Phase::Compare, total, total);
        Ok(())
    }

    /// What the EHR holds of an item: by its id, else by search, since it may have been moved to another id.
    async fn look(&mut self, asker: &mut Asker<'_>, item: &Item) -> Result<Option<Held>, Stop> {
        let request = &item.request;
        let held = match id_of(item) {
            Some(id) => asker.read(&request.resource_type, id).await?,
            None => None,
        };
        let held = match (held, request.form) {
            (Some(held), _) => Some(held),
            (None, Form::Resource) => match asker.find(&request.resource_type, &request.key).await? {
                Ok(found) => found.into_iter().next(),
                // This server cannot be asked so; the id says that it is not there.
                Err(_) => None,
            },
            (None, Form::Fragment) => None,
        };
        if let Some(id) = held.as_ref().and_then(|held| held.index.id.clone()) {
            self.seen.entry(request.resource_type.clone()).or_default().insert(id);
        }
        Ok(held)
    }

    /// Plans again what may be, and says of the rest who must look. A difference of something that was planned anew meanwhile is none.
    async fn record_ours(&mut self, now_ms: i64) -> Result<(), StoreError> {
        let found = std::mem::take(&mut self.found);
        let (site, mode) = (self.site.to_owned(), self.mode);
        let missing = found.iter().filter(|(_, difference)| difference.kind == Kind::Missing).count() as i64;
        let is_too_much = MISSING_MANY < missing && self.report.counts.compared < 2 * missing && mode != Mode::Insist;
        if is_too_much {
            self.report.notes.push(format!(
                "{missing} of {} are missing: is this still the same EHR, or was it restored? nothing missing is written anew until a person insists",
                self.report.counts.compared
            ));
        }
        let settled = self
            .pipeline
            .store
            .write(move |tx| {
                let before = reconcile::planned_again_since(tx, &site, now_ms - ONCE_WITHIN_MS)?;
                let mut repairs = 0;
                let mut settled = Vec::new();
                for (item, difference) in found {
                    if !outbox::is_newest(tx, item)? {
                        continue;
                    }
                    let was_repaired = before.contains(&(difference.key.clone(), difference.body_hash.clone()));
                    let (did, why) = match (mode, difference.kind) {
                        (Mode::ReportOnly, _) => (Did::Reported, "this reconcile only reports"),
                        (Mode::Repair, Kind::Missing) if is_too_much => (Did::NeedsPerson, "too much is missing at once"),
                        (Mode::Repair, _) if was_repaired => {
                            (Did::NeedsPerson, "it was written anew before and differs again: somebody at the hospital may mean it")
                        }
                        _ if REPAIRS_MAX <= repairs => (Did::Reported, "enough was planned again by this reconcile; the next goes on"),
                        (Mode::Repair | Mode::Insist, _) => {
                            repairs += 1;
                            match outbox::again(tx, item, now_ms)? {
                                true => (Did::PlannedAgain, "planned again; it goes out like everything else"),
                                false => continue,
                            }
                        }
                    };
                    settled.push(Difference { did, why: why.to_owned(), ..difference });
                }
                Ok(settled)
            })
            .await?;
        for difference in settled {
            self.add(difference);
        }
        Ok(())
    }

    fn add(&mut self, difference: Difference) {
        let counts: &mut Counts = &mut self.report.counts;
        counts.add(difference.kind);
        match difference.did {
            Did::PlannedAgain => counts.planned_again += 1,
            Did::Reported | Did::NeedsPerson | Did::Proposed => counts.needs_person += 1,
        }
        self.report.differences.push(difference);
    }

    /// Proposes merges of the copies that were found, and lets go of proposals whose copies are gone.
    async fn propose(&self, proposals: Vec<sweep::Copies>, swept_types: BTreeSet<String>, now_ms: i64) -> Result<(), StoreError> {
        let site = self.site.to_owned();
        self.pipeline
            .store
            .write(move |tx| {
                for open in reconcile::proposals(tx, &site, &[ProposalState::Proposed])? {
                    let is_seen = proposals.iter().any(|copies| copies.key == open.key);
                    if !is_seen && swept_types.contains(&open.resource_type) {
                        reconcile::end_proposal(tx, open.id, ProposalState::Gone, now_ms, None)?;
                    }
                }
                for copies in &proposals {
                    let new = NewProposal {
                        site: &site,
                        study: &copies.study,
                        subject: &copies.subject,
                        resource_type: &copies.resource_type,
                        key: &copies.key,
                        keep: &copies.keep,
                        copies: &copies.copies,
                    };
                    reconcile::propose(tx, &new, now_ms)?;
                }
                Ok(())
            })
            .await
    }
}

/// The id that an item's resource has at the server: as a read-back found it, else as we chose it.
fn id_of(item: &Item) -> Option<&str> {
    item.server_id.as_deref().or_else(|| item.request.url.split_once('/').map(|(_, id)| id))
}

fn describe(item: &Item, kind: Kind, id: Option<String>, elements: Vec<String>) -> Difference {
    Difference {
        kind,
        did: Did::Reported,
        resource_type: item.request.resource_type.clone(),
        id,
        key: item.request.key.clone(),
        body_hash: item.request.body_hash.clone(),
        study: item.study.clone(),
        subject: item.subject.clone(),
        rung: item.request.rung.clone(),
        elements,
        why: String::new(),
    }
}

/// How what the EHR holds differs from what an item that has arrived says, and in which elements; `None` where it does not.
fn difference(item: &Item, held: Option<&Held>) -> Option<(Kind, Vec<String>)> {
    let request = &item.request;
    let Some(held) = held else {
        return match (request.purpose, request.form) {
            (Purpose::Annotate, Form::Resource) => Some((Kind::Missing, Vec::new())),
            // Gone is gone; and our mark went with the hospital's own resource.
            (Purpose::Retract, _) | (Purpose::Annotate, Form::Fragment) => None,
        };
    };
    let lacks = edit::missing(&request.body, &held.resource);
    match (request.purpose, request.form) {
        (Purpose::Retract, Form::Resource) if request.body.is_empty() => Some((Kind::Reappeared, Vec::new())),
        (Purpose::Retract, Form::Fragment) if item.last_error.as_deref() == Some(LEFT_THERE) => None,
        (Purpose::Retract, Form::Fragment) => {
            let all = edit::missing(&request.body, "{}");
            let there: Vec<String> = all.into_iter().filter(|path| !lacks.contains(path) && !path.ends_with(".resourceType")).collect();
            (!there.is_empty()).then_some((Kind::Reappeared, there))
        }
        (purpose, _) => {
            // What it never kept was said when it arrived.
            let said = item.last_error.as_deref().unwrap_or_default();
            let lacks: Vec<String> = lacks.into_iter().filter(|path| !says(said, path)).collect();
            let is_active_again = purpose == Purpose::Retract && lacks.iter().any(|path| path.ends_with(".status") || path.ends_with(".active"));
            let kind = if is_active_again { Kind::Reappeared } else { Kind::Changed };
            (!lacks.is_empty()).then_some((kind, lacks))
        }
    }
}

/// Whether a sentence names this element.
fn says(sentence: &str, path: &str) -> bool {
    sentence.split([' ', ',', ';', ':']).any(|word| word == path)
}

/// Reconciles a site once a night and when somebody asks, and takes back copies whose merge was accepted, until `stop` says so.
/// `beat` says when it was last seen alive, ms since 1970 UTC.
pub async fn run_loop(pipeline: Pipeline, ehr: Ehr, site: String, beat: Arc<AtomicI64>, mut stop: watch::Receiver<bool>) {
    let mut merges_after_ms = 0;
    while !*stop.borrow() {
        let now_ms = Timestamp::now().as_millisecond();
        beat.store(now_ms, Ordering::Relaxed);
        let stopped = stop.clone();
        let watch = Watch { tell: &|_| beat.store(Timestamp::now().as_millisecond(), Ordering::Relaxed), is_stopped: &|| *stopped.borrow() };
        if let Err(error) = what_is_due(&pipeline, &ehr, &site, now_ms, &mut merges_after_ms, watch).await {
            tracing::error!(site, %error, "reconciling waits for the store");
        }
        tokio::select! {
            // A sender that is gone stops us as well.
            _ = stop.changed() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

async fn what_is_due(pipeline: &Pipeline, ehr: &Ehr, site: &str, now_ms: i64, merges_after_ms: &mut i64, watch: Watch<'_>) -> Result<(), StoreError> {
    let asked = site.to_owned();
    if now_ms < pipeline.store.read(move |tx| receivers::kept(tx, &asked)).await?.quiet_until_ms {
        // The EHR asked for silence.
        return Ok(());
    }
    if *merges_after_ms <= now_ms && !merge_accepted(pipeline, ehr, site, now_ms, watch).await? {
        *merges_after_ms = now_ms + MERGE_AGAIN_AFTER_MS;
    }
    if let Some((id, mode)) = begin_asked(&pipeline.store, site, now_ms).await? {
        run(pipeline, ehr, site, id, mode, now_ms, watch).await?;
    } else if is_due(pipeline, site, now_ms).await? {
        reconcile(pipeline, ehr, site, Mode::Repair, "", now_ms, watch).await?;
    }
    Ok(())
}

async fn begin_asked(store: &Store, site: &str, now_ms: i64) -> Result<Option<(i64, Mode)>, StoreError> {
    let asked = site.to_owned();
    // Most looks find nothing, and must not wait for a writer.
    if store.read(move |tx| reconcile::waits(tx, &asked)).await? {
        let asked = site.to_owned();
        return store.write(move |tx| reconcile::begin_asked(tx, &asked, now_ms, now_ms + LEASE_MS)).await;
    }
    Ok(None)
}

/// Whether the nightly reconcile of a site is due: the last quiet hour has passed without one, something had arrived before, and
/// one that broke off was left alone for an hour.
pub async fn is_due(pipeline: &Pipeline, site: &str, now_ms: i64) -> Result<bool, StoreError> {
    let asked = site.to_owned();
    let (last, first_ms) = pipeline.store.read(move |tx| Ok((reconcile::last_nightly(tx, &asked)?, outbox::first_arrived_ms(tx, &asked)?))).await?;
    let hour_ms = quiet_hour_ms(now_ms, pipeline.catalogue.sites.get(site).and_then(|site| site.zone.as_deref()));
    let Some(first_ms) = first_ms.filter(|first_ms| *first_ms < hour_ms) else { return Ok(false) };
    let Some(last) = last else { return Ok(true) };
    let started_ms = last.started_ms.unwrap_or(first_ms);
    Ok(match last.state {
        RunState::Done => started_ms < hour_ms,
        RunState::Asked | RunState::Failed => last.finished_ms.unwrap_or(started_ms) + AGAIN_AFTER_MS <= now_ms,
        // Its lease tells whether it lives.
        RunState::Running => started_ms + LEASE_MS < now_ms,
    })
}

/// The newest quiet hour that has begun by now, in this zone (an IANA name) or UTC; ms since 1970 UTC.
pub fn quiet_hour_ms(now_ms: i64, zone: Option<&str>) -> i64 {
    let zone = zone.and_then(|name| TimeZone::get(name).ok()).unwrap_or(TimeZone::UTC);
    let now = Timestamp::from_millisecond(now_ms).unwrap_or(Timestamp::UNIX_EPOCH).to_zoned(zone.clone());
    let at = |date: jiff::civil::Date| date.at(QUIET_HOUR, 0, 0, 0).to_zoned(zone.clone()).map(|hour| hour.timestamp().as_millisecond());
    let today = at(now.date()).unwrap_or(now_ms);
    if today <= now_ms { today } else { now.date().yesterday().ok().and_then(|date| at(date).ok()).unwrap_or(today - 86_400_000) }
}

/// Takes back the copies of every accepted merge; `false` when the EHR could not be asked and it must be tried again later.
pub async fn merge_accepted(pipeline: &Pipeline, ehr: &Ehr, site: &str, now_ms: i64, watch: Watch<'_>) -> Result<bool, StoreError> {
    let asked = site.to_owned();
    let accepted = pipeline.store.read(move |tx| reconcile::proposals(tx, &asked, &[ProposalState::Accepted])).await?;
    for proposal in accepted {
        let id = proposal.id;
        let mut asker = Asker::new(ehr, &pipeline.store, (0, now_ms), watch);
        let deletes = pipeline.receivers.get(site).is_some_and(|receiver| receiver.deletes);
        let (state, error) = match merge::merge(&mut asker, &proposal, deletes).await {
            Ok(()) => (ProposalState::Done, None),
            Err(merge::NotMerged::Refused(why)) => (ProposalState::Failed, Some(why)),
            Err(merge::NotMerged::Stopped(Stop::Store(error))) => return Err(error),
            Err(merge::NotMerged::Stopped(stop)) => {
                tracing::warn!(site, proposal = id, %stop, "a merge has to wait");
                return Ok(false);
            }
        };
        tracing::info!(site, proposal = id, state = state.word(), "copies under one key");
        let (site, key) = (site.to_owned(), proposal.key.clone());
        pipeline
            .store
            .write(move |tx| {
                reconcile::end_proposal(tx, id, state, now_ms, error.as_deref())?;
                // What was kept is read back once more, and mended where it must be.
                if state == ProposalState::Done
                    && let Some(item) = outbox::newest_arrived(tx, &site, &key)?
                {
                    outbox::again(tx, item, now_ms)?;
                }
                Ok(())
            })
            .await?;
    }
    Ok(true)
}

/// Whether an error only says that this server cannot be asked in this way.
fn is_no_such_question(error: &EhrError) -> bool {
    matches!(error, EhrError::Refused { .. } | EhrError::Unsupported { .. } | EhrError::Absent { .. } | EhrError::Conflict { .. })
}
