//! The doors that fetch: each reads one source of one site on its own, and all that they bring ends in
//! `pipeline::receive`. A feed goes round as long as the gateway runs, by one gateway at a time; what it brought is durable
//! before how far it came is kept, so that whatever breaks in between is read once more and nothing is passed over.

pub mod bulk;
pub mod comparison;
pub mod connection;
pub mod folder;
pub mod mllp;
pub mod poll;
pub mod roster;
pub mod subscription;

use std::collections::HashSet;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rayon::prelude::*;
use tokio::sync::watch;

use crate::digest::sha256;
use crate::ehr::{Ehr, EhrError};
use crate::issue::Disposition;
use crate::pipeline::Pipeline;
use crate::pipeline::entries::Withdrawal;
use crate::pipeline::receive;
use crate::pipeline::reconcile::quiet_hour_ms;
use crate::store::StoreError;
use crate::store::comparisons::{self, Last, Report};
use crate::store::feeds::{self, Ended, FeedState, Lease};

/// One configured feed.
#[derive(Clone)]
pub struct Feed {
    pub site: String,
    pub name: String,
    /// It is told as silent when it brings nothing for so long.
    pub silent_after_ms: Option<i64>,
    pub kind: Kind,
}

/// What kind of door it is, with what that needs.
#[derive(Clone)]
pub enum Kind {
    Poll {
        ehr: Ehr,
        settings: poll::Settings,
    },
    Bulk {
        ehr: Ehr,
        settings: bulk::Settings,
    },
    /// `endpoint` is where the source notifies.
    Subscription {
        ehr: Ehr,
        settings: subscription::Settings,
        endpoint: String,
    },
    Folder {
        settings: folder::Settings,
        watched: Arc<Mutex<folder::Watched>>,
    },
    /// It listens as long as the gateway runs, and has no rounds.
    Mllp {
        settings: mllp::Settings,
        tls: Option<Arc<rustls::ServerConfig>>,
    },
}

impl Kind {
    pub const fn word(&self) -> &'static str {
        match self {
            Kind::Poll { .. } => "poll",
            Kind::Bulk { .. } => "bulk",
            Kind::Subscription { .. } => "subscription",
            Kind::Folder { .. } => "folder",
            Kind::Mllp { .. } => "mllp",
        }
    }

    /// Whether the source tells of changes by itself.
    const fn is_told(&self) -> bool {
        match self {
            Kind::Poll { .. } | Kind::Bulk { .. } | Kind::Folder { .. } | Kind::Mllp { .. } => false,
            Kind::Subscription { .. } => true,
        }
    }
}

/// Why a round ended early; by what helps.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// Try again, not before `after_ms` from now.
    #[error("{words}")]
    Later { words: String, after_ms: Option<i64> },
    /// Trying again will not help: a person has to change something.
    #[error("{words}")]
    Person { words: String },
    /// Another gateway works on this feed by now.
    #[error("another gateway has taken this feed over")]
    TakenOver,
    /// This gateway stops; the round goes on where it was.
    #[error("the gateway stops")]
    Stopped,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<EhrError> for Trouble {
    fn from(error: EhrError) -> Trouble {
        let words = error.to_string();
        match error {
            EhrError::Retry { after_ms, .. } => Trouble::Later { words, after_ms },
            EhrError::Unknown | EhrError::Conflict { .. } => Trouble::Later { words, after_ms: None },
            EhrError::Refused { .. } | EhrError::Unsupported { .. } | EhrError::Unauthorized { .. } | EhrError::Absent { .. } => {
                Trouble::Person { words }
            }
        }
    }
}

/// What a round came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// Resources that the source showed.
    pub shown: usize,
    /// Of these, taken: the rest had been taken in the same bytes before.
    pub taken: usize,
    pub rejected: usize,
    pub quarantined: usize,
    /// What the source does not hold any more.
    pub withdrawn: usize,
    /// What a comparison found.
    pub report: Option<Report>,
    /// All went well, and yet only a person can clear this up.
    pub remark: Option<String>,
    /// What is not as it should be, though what was there was read; it may clear up by itself.
    pub concern: Option<String>,
    /// All that the source held then is here.
    pub complete_until_ms: Option<i64>,
    /// What an export is at.
    pub stage: Option<bulk::Stage>,
    /// When the next round is due, ms from now.
    pub next_in_ms: i64,
}

/// What a round works with.
pub struct Work<'a> {
    pub pipeline: &'a Pipeline,
    pub site: &'a str,
    pub feed: &'a str,
    pub lease: &'a Lease,
    pub seen: &'a mut Seen,
    /// When the round began, ms since 1970 UTC; what it does later is told by the time since then.
    pub began_ms: i64,
    pub since: Instant,
    /// Hears of each step, for whoever shows it.
    pub watch: &'a (dyn Fn(&Round) + Sync),
    pub round: Round,
}

impl Work<'_> {
    pub fn now_ms(&self) -> i64 {
        self.began_ms + i64::try_from(self.since.elapsed().as_millis()).unwrap_or_default()
    }

    /// Takes resources in the bytes in which the source wrote them; durable when this returns. Answers where each ended;
    /// `None` for what this process took before in the same bytes.
    pub async fn take(&mut self, resources: Vec<String>) -> Result<Vec<Option<Disposition>>, Trouble> {
        self.round.shown += resources.len();
        let mut ends = vec![None; resources.len()];
        let (mut places, mut marks, mut bodies) = (Vec::new(), Vec::new(), Vec::new());
        for (place, resource) in resources.into_iter().enumerate() {
            let mark = mark(&resource);
            if !self.seen.has(&mark) {
                places.push(place);
                marks.push(mark);
                bodies.push(resource);
            }
        }
        if !bodies.is_empty() {
            let (pipeline, site, feed, now_ms) = (self.pipeline.clone(), self.site.to_owned(), self.feed.to_owned(), self.now_ms());
            let taking = tokio::task::spawn_blocking(move || {
                let site_data = pipeline.catalogue.sites.get(&site).ok_or_else(no_site)?;
                let prepared: Vec<_> = bodies.par_iter().map(|body| receive::prepare(&pipeline.catalogue, site_data, body.as_bytes())).collect();
                receive::receive(&pipeline, &site, &feed, now_ms, &prepared)
            });
            let receipts = taking.await.map_err(|_| StoreError::Retry("a feed failed while it was taking what it had read".into()))??;
            self.seen.note(marks);
            self.round.taken += receipts.len();
            for (place, receipt) in places.into_iter().zip(receipts) {
                self.round.rejected += usize::from(receipt.disposition == Disposition::Rejected);
                self.round.quarantined += usize::from(receipt.disposition == Disposition::Quarantined);
                ends[place] = Some(receipt.disposition);
            }
        }
        (self.watch)(&self.round);
        Ok(ends)
    }

    /// Where resources would end by shape and mapping alone; nothing is kept.
    async fn examine(&self, resources: Vec<String>) -> Result<Vec<Option<Disposition>>, Trouble> {
        let (pipeline, site) = (self.pipeline.clone(), self.site.to_owned());
        let examining = tokio::task::spawn_blocking(move || {
            let site_data = pipeline.catalogue.sites.get(&site).ok_or_else(no_site)?;
            Ok::<_, StoreError>(
                resources.par_iter().map(|body| Some(receive::examine(&pipeline.catalogue, site_data, body.as_bytes()).disposition)).collect(),
            )
        });
        Ok(examining.await.map_err(|_| StoreError::Retry("a feed failed while it was comparing".into()))??)
    }

    /// Keeps how far the round has come; only behind what was taken.
    pub async fn advance(&self, cursor: String) -> Result<(), Trouble> {
        let lease = self.lease.clone();
        let is_ours = self.pipeline.store.write(move |tx| feeds::advance(tx, &lease, &cursor)).await?;
        if is_ours { Ok(()) } else { Err(Trouble::TakenOver) }
    }
}

/// First half of a SHA-256 of a resource's bytes.
type Mark = [u8; 16];

fn mark(resource: &str) -> Mark {
    let hash = sha256(resource.as_bytes());
    std::array::from_fn(|index| hash[index])
}

/// What this process took lately: overlapping searches bring most of it again, which is no message. What is forgotten here
/// comes in as a duplicate.
#[derive(Default)]
pub struct Seen {
    newest: HashSet<Mark>,
    older: HashSet<Mark>,
    has_begun: bool,
}

/// Marks of one generation; two are kept, of some 24 bytes each.
const SEEN_MAX: usize = 500_000;

impl Seen {
    /// Whether this is the first round of this process.
    fn begins(&mut self) -> bool {
        !std::mem::replace(&mut self.has_begun, true)
    }

    fn has(&self, mark: &Mark) -> bool {
        self.newest.contains(mark) || self.older.contains(mark)
    }

    fn note(&mut self, marks: Vec<Mark>) {
        if SEEN_MAX <= self.newest.len() {
            self.older = std::mem::take(&mut self.newest);
        }
        self.newest.extend(marks);
    }
}

/// How long a feed is held without a sign of life.
const LEASE_MS: i64 = 60_000;
const RENEW_EVERY: Duration = Duration::from_secs(15);
/// How often the loop looks whether its feed is due.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After a failed round the next one waits from 5 s, doubling, up to 10 min; where only a person can help, half an hour.
const RETRY_FIRST_MS: i64 = 5_000;
const RETRY_MAX_MS: i64 = 600_000;
const PERSON_RETRY_MS: i64 = 1_800_000;

/// Makes the configured feeds known to the store.
pub fn register(pipeline: &Pipeline, feeds: &[Feed]) -> Result<(), StoreError> {
    pipeline
        .store
        .write_blocking(|tx| feeds.iter().try_for_each(|feed| feeds::register(tx, &feed.site, &feed.name, feed.kind.word(), feed.silent_after_ms)))
}

/// Goes round until the gateway stops.
pub async fn run(pipeline: Pipeline, feed: Feed, beat: Arc<AtomicI64>, mut stopped: watch::Receiver<bool>) {
    let mut seen = Seen::default();
    if feed.kind.is_told() {
        // While this gateway was away nobody listened.
        let (site, name, now_ms) = (feed.site.clone(), feed.name.clone(), now_ms());
        if let Err(error) = pipeline.store.write(move |tx| feeds::ask_unless_failing(tx, &site, &name, now_ms)).await {
            tracing::error!(site = feed.site, feed = feed.name, %error, "a feed waits for the store");
        }
    }
    while !*stopped.borrow() {
        beat.store(now_ms(), Ordering::Relaxed);
        if let Err(error) = work_if_due(&pipeline, &feed, &mut seen, Beside { beat: &beat, stopped: &mut stopped, watch: &|_| {} }).await {
            tracing::error!(site = feed.site, feed = feed.name, %error, "a feed waits for the store");
        }
        if tokio::time::timeout(LOOK_EVERY, asked_to_stop(&mut stopped)).await.is_ok() {
            return;
        }
    }
}

/// One look. Most find nothing to do, and must not wait for a writer.
async fn work_if_due(pipeline: &Pipeline, feed: &Feed, seen: &mut Seen, beside: Beside<'_>) -> Result<(), StoreError> {
    let (site, name, now_ms) = (feed.site.clone(), feed.name.clone(), now_ms());
    let (state, last) = pipeline.store.read(move |tx| Ok((feeds::state(tx, &site, &name)?, comparisons::last(tx, &site, &name)?))).await?;
    let Some(state) = state else { return Ok(()) };
    let task = if is_comparison_due(pipeline, feed, &state, last, now_ms) {
        Task::Compare { mode: comparison::Mode::Mend, who: String::new() }
    } else if state.next_attempt_ms <= now_ms {
        Task::Round
    } else {
        return Ok(());
    };
    work(pipeline, feed, &task, seen, now_ms, beside).await.map(drop)
}

/// Whether a quiet hour has passed since the last comparison, and so many days since the last one that came to its end, and
/// since a first whole round.
fn is_comparison_due(pipeline: &Pipeline, feed: &Feed, state: &FeedState, last: Last, now_ms: i64) -> bool {
    let every_days = match &feed.kind {
        Kind::Poll { settings, .. } => settings.compare_nightly.then_some(1),
        Kind::Subscription { settings, .. } => settings.catch_up.compare_nightly.then_some(1),
        Kind::Bulk { settings, .. } => settings.compare_every_days,
        Kind::Folder { .. } | Kind::Mllp { .. } => None,
    };
    let Some(every_days) = every_days else { return false };
    let zone = pipeline.catalogue.sites.get(&feed.site).and_then(|site| site.zone.as_deref());
    let hour_ms = quiet_hour_ms(now_ms, zone);
    let due_ms = hour_ms - i64::from(every_days.max(1) - 1) * 86_400_000;
    // An export with gaps is never whole by itself, and is compared all the more.
    let has_begun = state.complete_until_ms.is_some() || matches!(feed.kind, Kind::Bulk { .. });
    has_begun
        && state.succeeded_ms.is_some_and(|succeeded_ms| hour_ms < succeeded_ms)
        && last.started_ms.is_none_or(|started_ms| started_ms < hour_ms)
        && last.done_ms.is_none_or(|done_ms| done_ms < due_ms)
        && state.failures == 0
}

/// What is to be done with a feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// A round, where its turn has come.
    Round,
    /// A comparison of all that the source holds with all that is here, at once; `who` asked for it.
    Compare { mode: comparison::Mode, who: String },
    /// These resources (type, id) are read anew, and withdrawn where the source does not hold them any more.
    Fetch { resources: Vec<(String, String)> },
}

/// What goes on beside a round.
pub struct Beside<'a> {
    pub beat: &'a AtomicI64,
    pub stopped: &'a mut watch::Receiver<bool>,
    /// Hears of each step.
    pub watch: &'a (dyn Fn(&Round) + Sync),
}

/// Works on a feed that nobody else works on; `None` when somebody does, or when it is not the turn of a round.
pub async fn work(
    pipeline: &Pipeline,
    feed: &Feed,
    task: &Task,
    seen: &mut Seen,
    now_ms: i64,
    beside: Beside<'_>,
) -> Result<Option<Result<Round, Trouble>>, StoreError> {
    let Beside { beat, stopped, watch } = beside;
    let (site, name, is_asked) = (feed.site.clone(), feed.name.clone(), *task != Task::Round);
    let claimed = pipeline
        .store
        .write(move |tx| {
            if is_asked {
                feeds::ask(tx, &site, &name, now_ms)?;
            }
            feeds::claim(tx, &site, &name, now_ms, now_ms + LEASE_MS)
        })
        .await?;
    let Some((lease, state)) = claimed else { return Ok(None) };
    let since = Instant::now();
    let at_ms = || now_ms + i64::try_from(since.elapsed().as_millis()).unwrap_or_default();
    let ended = {
        let work =
            Work { pipeline, site: &feed.site, feed: &feed.name, lease: &lease, seen, began_ms: now_ms, since, watch, round: Round::default() };
        let going = go(task, &feed.kind, work, &state.cursor);
        tokio::pin!(going);
        let mut renewal = tokio::time::interval(RENEW_EVERY);
        renewal.tick().await;
        loop {
            tokio::select! {
                ended = &mut going => break ended,
                () = asked_to_stop(stopped) => break Err(Trouble::Stopped),
                _ = renewal.tick() => {
                    beat.store(self::now_ms(), Ordering::Relaxed);
                    let (lease, until_ms) = (lease.clone(), at_ms() + LEASE_MS);
                    match pipeline.store.write(move |tx| feeds::renew(tx, &lease, until_ms)).await {
                        Ok(true) => {}
                        Ok(false) => break Err(Trouble::TakenOver),
                        // The lease runs out by itself if the store stays away.
                        Err(error) => tracing::warn!(site = feed.site, feed = feed.name, %error, "a feed's lease could not be renewed"),
                    }
                }
            }
        }
    };
    let at_ms = at_ms();
    let outcome = match task {
        Task::Round => outcome(feed, &ended, state.failures, at_ms),
        // How it went stands in its report; the rounds go on as before.
        Task::Compare { .. } | Task::Fetch { .. } => None,
    };
    pipeline
        .store
        .write(move |tx| match &outcome {
            Some(outcome) => feeds::end(tx, &lease, outcome, at_ms),
            None => feeds::give_back(tx, &lease),
        })
        .await?;
    Ok(Some(ended))
}

/// Ends when the gateway stops; an error means that who would say so is gone.
async fn asked_to_stop(stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|is_stopped| *is_stopped).await;
}

async fn go(task: &Task, kind: &Kind, work: Work<'_>, cursor: &str) -> Result<Round, Trouble> {
    match (task, kind) {
        (Task::Round, Kind::Poll { ehr, settings }) => poll::round(work, ehr, settings, cursor).await,
        (Task::Round, Kind::Subscription { ehr, settings, endpoint }) => subscription::round(work, ehr, settings, endpoint, cursor).await,
        (Task::Round, Kind::Bulk { ehr, settings }) => bulk::round(work, ehr, settings, cursor).await,
        (Task::Round, Kind::Folder { settings, watched }) => folder::go(work, settings, watched).await,
        (Task::Fetch { resources }, Kind::Poll { ehr, .. } | Kind::Subscription { ehr, .. } | Kind::Bulk { ehr, .. }) => {
            fetch(work, ehr, resources).await
        }
        (Task::Compare { mode, who }, Kind::Poll { ehr, settings }) => poll::compare(work, ehr, settings, *mode, who).await,
        (Task::Compare { mode, who }, Kind::Subscription { ehr, settings, .. }) => subscription::compare(work, ehr, settings, *mode, who).await,
        (Task::Compare { mode, who }, Kind::Bulk { ehr, settings }) => bulk::compare(work, ehr, settings, *mode, who).await,
        (Task::Fetch { .. } | Task::Compare { .. }, Kind::Folder { .. }) => {
            Err(Trouble::Person { words: "a folder cannot be asked: put the files into it once more".to_owned() })
        }
        (_, Kind::Mllp { .. }) => Err(Trouble::Person { words: "this feed listens while the gateway runs: there is nothing to fetch".to_owned() }),
    }
}

/// Resources read by id at once before they are taken together.
const FETCHED_AT_ONCE: usize = 100;

/// Reads resources by id: what the source holds is taken, what it does not hold any more is withdrawn.
async fn fetch(mut work: Work<'_>, ehr: &Ehr, resources: &[(String, String)]) -> Result<Round, Trouble> {
    for some in resources.chunks(FETCHED_AT_ONCE) {
        let (mut held, mut gone) = (Vec::new(), Vec::new());
        for (resource_type, id) in some {
            match ehr.read(resource_type, id).await? {
                Some(found) => held.push(found.resource),
                None => gone.push((resource_type.as_str(), id.as_str())),
            }
        }
        work.take(held).await?;
        withdraw_gone(&mut work, ehr, &gone).await?;
    }
    Ok(work.round)
}

/// Withdraws what the source was asked for by its id, and does not hold any more.
async fn withdraw_gone(work: &mut Work<'_>, ehr: &Ehr, gone: &[(&str, &str)]) -> Result<(), Trouble> {
    if !gone.is_empty() {
        says_so_itself(ehr).await?;
    }
    for (resource_type, id) in gone {
        work.round.shown += 1;
        work.round.withdrawn += usize::from(withdraw(work, resource_type, id).await?);
    }
    Ok(())
}

/// Whether it is the source itself that says that something is not there: a proxy before one that is away says 404 as well.
async fn says_so_itself(ehr: &Ehr) -> Result<(), Trouble> {
    match ehr.capabilities().await {
        Ok(_) => Ok(()),
        Err(error) => {
            let words = format!("the source says of some resources that they are gone, and does not show its CapabilityStatement: {error}");
            Err(Trouble::Later { words, after_ms: None })
        }
    }
}

/// Withdraws what the source does not hold any more, in every version that came; `false` when it was never here.
async fn withdraw(work: &Work<'_>, resource_type: &str, id: &str) -> Result<bool, Trouble> {
    let (pipeline, site, feed, now_ms) = (work.pipeline.clone(), work.site.to_owned(), work.feed.to_owned(), work.now_ms());
    let withdrawal = Withdrawal { resource_type: resource_type.to_owned(), id: id.to_owned(), if_match: None, deleted_ms: None };
    let withdrawing = tokio::task::spawn_blocking(move || receive::withdraw(&pipeline, &site, &feed, now_ms, &withdrawal));
    let receipt = withdrawing.await.map_err(|_| StoreError::Retry("a feed failed while it was withdrawing".into()))??;
    Ok(receipt.is_some())
}

/// What is kept of a round's end; nothing where it only broke off.
fn outcome(feed: &Feed, ended: &Result<Round, Trouble>, failures: i64, at_ms: i64) -> Option<Ended> {
    let (site, name) = (feed.site.as_str(), feed.name.as_str());
    let retry_ms = RETRY_FIRST_MS.saturating_mul(1 << failures.clamp(0, 10)).min(RETRY_MAX_MS);
    match ended {
        Ok(round) => {
            if 0 < round.taken {
                tracing::info!(
                    site,
                    feed = name,
                    taken = round.taken,
                    quarantined = round.quarantined,
                    rejected = round.rejected,
                    "a feed brought something"
                );
            }
            if let Some(words) = &round.concern {
                tracing::warn!(site, feed = name, "a feed is not as it should be: {words}");
            }
            let Round { complete_until_ms, remark, concern, .. } = round.clone();
            Some(Ended::Done { complete_until_ms, remark, concern, next_attempt_ms: at_ms + round.next_in_ms })
        }
        Err(Trouble::TakenOver | Trouble::Stopped) => None,
        Err(Trouble::Later { words, after_ms }) => {
            tracing::warn!(site, feed = name, failures = failures + 1, "a feed has to wait: {words}");
            Some(Ended::Failed { trouble: words.clone(), needs_person: false, next_attempt_ms: at_ms + retry_ms.max(after_ms.unwrap_or_default()) })
        }
        Err(Trouble::Person { words }) => {
            tracing::error!(site, feed = name, failures = failures + 1, "a feed needs a person: {words}");
            Some(Ended::Failed { trouble: words.clone(), needs_person: true, next_attempt_ms: at_ms + PERSON_RETRY_MS })
        }
        Err(Trouble::Store(error)) => {
            tracing::error!(site, feed = name, %error, "a feed waits for the store");
            Some(Ended::Failed { trouble: error.to_string(), needs_person: false, next_attempt_ms: at_ms + retry_ms })
        }
    }
}

fn no_site() -> StoreError {
    StoreError::Broken("the feed's site has no mapping".into())
}

fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
