//! Delivers the outbox of one site: claim by lease, look again, send, read back, record.
//!
//! Each attempt begins by looking at what the EHR holds, so an unknown result (a timeout after the server had
//! applied it, a kill between send and record) can never make a second resource. An item is `confirmed` only when it
//! was found again by its id and by search. No transaction is open while the network is asked.

mod annotate;
mod attempt;
mod circuit;
mod look;
mod outcome;
mod prove;
mod send;
mod stop_point;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};

use super::probe::Asker;
use super::{Pipeline, receivers};
use crate::ehr::Ehr;
use crate::store::circuit::{self as standing, Admits};
use crate::store::outbox::{self, Claimed, ItemState, Lane};
use crate::store::receivers::kept;
use crate::store::{StoreError, Tx};
use crate::writeback::Receiver;
use crate::writeback::ladder::Declared;

pub(super) use annotate::LEFT_THERE;
use attempt::Ended;
pub use circuit::Circuit;
use stop_point::stop_point;

/// Requests of one site that are under way at once; each belongs to another key. Retractions have senders of their own,
/// so that annotations, however slow, never hold them up.
const RETRACTIONS_AT_ONCE: usize = 2;
const REST_AT_ONCE: usize = 4;
/// How long a claimed item is a sender's. A living sender renews it; what a killed one held is free after this time.
const LEASE_MS: i64 = 15_000;
const RENEW_EVERY: Duration = Duration::from_secs(5);
/// How often the outbox is looked at while nothing ends.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long nothing is tried after the store failed.
const STORE_PAUSE: Duration = Duration::from_secs(5);

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

impl Summary {
    fn count(&mut self, ended: &Ended) {
        if !ended.is_recorded {
            self.fenced += 1;
            return;
        }
        match ended.state {
            ItemState::Confirmed => self.confirmed += 1,
            ItemState::Superseded => self.superseded += 1,
            ItemState::Degraded => self.degraded += 1,
            ItemState::Rejected => self.rejected += 1,
            ItemState::Lost => self.lost += 1,
            ItemState::Planned | ItemState::Sent | ItemState::Shadow => self.waiting += 1,
        }
    }
}

/// The time that a round goes by: it begins where its caller says, and goes on with the machine's own steady clock.
#[derive(Clone, Copy, Debug)]
struct Clock {
    began_ms: i64,
    began: Instant,
}

impl Clock {
    fn from(began_ms: i64) -> Clock {
        Clock { began_ms, began: Instant::now() }
    }

    fn now_ms(self) -> i64 {
        self.began_ms + i64::try_from(self.began.elapsed().as_millis()).unwrap_or(i64::MAX)
    }
}

/// Delivers a site's outbox until `stop` says so; what is under way is finished first. `beat` says when the outbox was
/// last looked at, ms since 1970 UTC.
pub async fn run(pipeline: Pipeline, ehr: Ehr, site: String, beat: Arc<AtomicI64>, stop: watch::Receiver<bool>) {
    // Apart from each other: a server that is slow to say what it can do must not hold up a retraction.
    tokio::join!(deliver(&pipeline, &ehr, &site, &beat, stop.clone()), ask(&pipeline, &ehr, &site, stop));
}

async fn deliver(pipeline: &Pipeline, ehr: &Ehr, site: &str, beat: &AtomicI64, mut stop: watch::Receiver<bool>) {
    let mut circuit = Circuit::default();
    let mut senders = Senders::default();
    while !*stop.borrow() {
        let now_ms = jiff::Timestamp::now().as_millisecond();
        beat.store(now_ms, Ordering::Relaxed);
        let pause = match senders.start(pipeline, ehr, site, Clock::from(now_ms)).await {
            Ok(_) => LOOK_EVERY,
            Err(error) => {
                tracing::error!(site, %error, "the outbox could not be read or written");
                STORE_PAUSE
            }
        };
        tokio::select! {
            // A sender that is gone stops us as well.
            _ = stop.changed() => {}
            Some(joined) = senders.join() => settle_alone(pipeline, &mut circuit, site, joined).await,
            () = tokio::time::sleep(pause) => {}
        }
    }
    while let Some(joined) = senders.join().await {
        settle_alone(pipeline, &mut circuit, site, joined).await;
    }
}

/// Asks the EHR now and then what it can do, unless it asked for silence.
async fn ask(pipeline: &Pipeline, ehr: &Ehr, site: &str, mut stop: watch::Receiver<bool>) {
    let mut asker = Asker::default();
    while !*stop.borrow() {
        let now_ms = jiff::Timestamp::now().as_millisecond();
        let name = site.to_owned();
        let asked = match pipeline.store.read(move |tx| standing::standing(tx, &name)).await {
            Ok(standing) if standing.admits(now_ms) == Admits::Nothing => Ok(()),
            Ok(_) => asker.round(pipeline, ehr, site, now_ms).await,
            Err(error) => Err(error),
        };
        if let Err(error) = asked {
            tracing::error!(site, %error, "what the EHR can do could not be kept");
        }
        tokio::select! {
            _ = stop.changed() => {}
            () = tokio::time::sleep(STORE_PAUSE) => {}
        }
    }
}

async fn settle_alone(pipeline: &Pipeline, circuit: &mut Circuit, site: &str, joined: Joined) {
    if let Err(error) = settle(pipeline, circuit, site, joined).await {
        tracing::error!(site, %error, "the outcome of an attempt could not be recorded");
    }
}

/// One round: claims what is due at this site, sends it and reads it back. `now_ms` is the time it begins.
pub async fn deliver_once(pipeline: &Pipeline, ehr: &Ehr, circuit: &mut Circuit, site: &str, now_ms: i64) -> Result<Summary, StoreError> {
    let mut senders = Senders::default();
    let claimed = senders.start(pipeline, ehr, site, Clock::from(now_ms)).await;
    let mut summary = Summary { claimed: *claimed.as_ref().unwrap_or(&0), ..Summary::default() };
    let mut failed = claimed.err();
    while let Some(joined) = senders.join().await {
        match settle(pipeline, circuit, site, joined).await {
            Ok(Some(ended)) => summary.count(&ended),
            // Its lease ends by itself; the other items must not wait for the mending of one.
            Ok(None) => summary.fenced += 1,
            // The others end first: their outcomes must not be lost with this one.
            Err(error) => failed = Some(error),
        }
    }
    match failed {
        Some(error) => Err(error),
        None => Ok(summary),
    }
}

type Joined = Result<(Lane, Result<Ended, StoreError>), JoinError>;

/// What is under way at one site.
#[derive(Default)]
struct Senders {
    running: JoinSet<(Lane, Result<Ended, StoreError>)>,
    retractions: usize,
    rest: usize,
}

impl Senders {
    /// Claims what is due and free for the senders that are idle, and sets them to work; says how many.
    async fn start(&mut self, pipeline: &Pipeline, ehr: &Ehr, site: &str, clock: Clock) -> Result<usize, StoreError> {
        let Some(contract) = pipeline.receivers.get(site).map(|receiver| Arc::new(receiver.clone())) else { return Ok(0) };
        let mut started = 0;
        for lane in [Lane::Retractions, Lane::Rest] {
            while self.has_room(lane) {
                let (contract, now_ms) = (contract.clone(), clock.now_ms());
                let Some(turn) = pipeline.store.write(move |tx| claim_one(tx, &contract, lane, now_ms)).await? else { break };
                stop_point("after-claim");
                started += 1;
                self.count(lane, 1);
                let (pipeline, ehr) = (pipeline.clone(), ehr.clone());
                self.running.spawn(async move { (lane, attempt::run(&pipeline, &ehr, turn, clock).await) });
            }
        }
        Ok(started)
    }

    fn has_room(&self, lane: Lane) -> bool {
        match lane {
            Lane::Retractions => self.retractions < RETRACTIONS_AT_ONCE,
            Lane::Rest | Lane::Any => self.rest < REST_AT_ONCE,
        }
    }

    fn count(&mut self, lane: Lane, by: isize) {
        let running = match lane {
            Lane::Retractions => &mut self.retractions,
            Lane::Rest | Lane::Any => &mut self.rest,
        };
        *running = running.saturating_add_signed(by);
    }

    /// The next that ends; `None` when nothing is under way.
    async fn join(&mut self) -> Option<Joined> {
        let joined = self.running.join_next().await?;
        match &joined {
            Ok((lane, _)) => self.count(*lane, -1),
            // Nobody knows which lane it ran in; when all have ended, both are free.
            Err(_) if self.running.is_empty() => (self.retractions, self.rest) = (0, 0),
            Err(_) => {}
        }
        Some(joined)
    }
}

/// One item that a sender may send now.
struct Turn {
    claimed: Claimed,
    /// The receiver as it is written to now.
    receiver: Receiver,
    /// What its server says it can do; `None` before it was asked.
    declared: Option<Declared>,
    /// This is the one request that asks a silent EHR; since when that was silent.
    silent_since_ms: Option<i64>,
}

fn claim_one(tx: &mut Tx<'_>, contract: &Receiver, lane: Lane, now_ms: i64) -> Result<Option<Turn>, StoreError> {
    let site = contract.site.as_str();
    let standing = standing::standing(tx, site)?;
    let lane = match standing.admits(now_ms) {
        Admits::Nothing => return Ok(None),
        Admits::All => lane,
        Admits::Probe => Lane::Any,
    };
    // One at a time: two gateways that claimed several in one transaction could wait for each other.
    let Some(claimed) = outbox::claim_of(tx, site, lane, now_ms, now_ms + LEASE_MS, 1)?.pop() else { return Ok(None) };
    if let Some(silent_since_ms) = standing.silent_since_ms
        && !standing::take_probe(tx, site, silent_since_ms, now_ms)?
    {
        outbox::give_back(tx, &claimed)?;
        return Ok(None);
    }
    let (receiver, declared) = (receivers::of(tx, contract)?, kept(tx, site)?.declared);
    Ok(Some(Turn { claimed, receiver, declared, silent_since_ms: standing.silent_since_ms }))
}

/// Draws from one attempt what it says about the EHR; `None` when it failed because of a fault of ours.
async fn settle(pipeline: &Pipeline, circuit: &mut Circuit, site: &str, joined: Joined) -> Result<Option<Ended>, StoreError> {
    match joined {
        Ok((_, ended)) => {
            let ended = ended?;
            circuit.note(pipeline, site, &ended).await?;
            Ok(Some(ended))
        }
        Err(panic) => {
            tracing::error!(site, %panic, "an attempt failed because of a fault of ours; it is tried again");
            Ok(None)
        }
    }
}

/// How long an attempt may take in all: a slow server's time, and, where requests are counted, the time until it may ask.
fn attempt_max(receiver: &Receiver) -> Duration {
    const SLOW: Duration = Duration::from_secs(90);
    const REQUESTS: u32 = 20;
    match receiver.takes.requests_per_minute {
        Some(per_minute) => SLOW + Duration::from_secs(60) * REQUESTS / per_minute.max(1),
        None => SLOW,
    }
}
