//! One request after the other to one EHR: patient with one that asks for time, and interruptible. Knows nothing about what is compared.

use std::time::{Duration, Instant};

use super::{LEASE_MS, Phase, Progress, Watch, is_no_such_question};
use crate::ehr::pages::Pages;
use crate::ehr::{Ehr, EhrError, Held, Written};
use crate::store::{Store, StoreError, reconcile};

/// Pages of one search that are followed.
const PAGES_MAX: usize = 500;
/// How often a request that got no answer is repeated, and the longest pause before that.
const TRIES: u32 = 3;
const WAIT_MAX: Duration = Duration::from_secs(60);
/// How often the lease of the reconcile is renewed.
const RENEW_EVERY: Duration = Duration::from_secs(30);

/// Why a reconcile ends before its end.
#[derive(Debug, thiserror::Error)]
pub enum Stop {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0}")]
    Ehr(EhrError),
    #[error("the gateway stopped")]
    Stopped,
    #[error("another gateway took over")]
    TakenOver,
}

pub struct Asker<'a> {
    ehr: &'a Ehr,
    store: &'a Store,
    began: Instant,
    renewed: Instant,
    /// Number of the reconcile (0: none, a merge) and when it began, ms since 1970 UTC.
    run: (i64, i64),
    watch: Watch<'a>,
    pub requests: i64,
}

/// What the EHR answered, or that it cannot be asked so.
pub type Answer<T> = Result<T, EhrError>;

impl<'a> Asker<'a> {
    pub fn new(ehr: &'a Ehr, store: &'a Store, run: (i64, i64), watch: Watch<'a>) -> Asker<'a> {
        let now = Instant::now();
        Asker { ehr, store, began: now, renewed: now, run, watch, requests: 0 }
    }

    pub fn tell(&self, phase: Phase, done: usize, total: usize) {
        (self.watch.tell)(Progress { phase, done, total });
    }

    /// Reads one resource; `None` where it is absent or deleted.
    pub async fn read(&mut self, resource_type: &str, id: &str) -> Result<Option<Held>, Stop> {
        let mut tries = 0;
        loop {
            self.breathe().await?;
            match self.ehr.read(resource_type, id).await {
                Ok(held) => return Ok(held),
                // A server that no longer knows the type, or refuses an id it does not like, does not hold it.
                Err(error) if is_no_such_question(&error) => return Ok(None),
                Err(error) => self.wait_after(error, &mut tries).await?,
            }
        }
    }

    /// Everything of this type that carries our key.
    pub async fn find(&mut self, resource_type: &str, key: &str) -> Result<Answer<Vec<Held>>, Stop> {
        let mut tries = 0;
        loop {
            self.breathe().await?;
            match self.ehr.find(resource_type, key).await {
                Ok(found) => return Ok(Ok(found)),
                Err(error) if is_no_such_question(&error) => return Ok(Err(error)),
                Err(error) => self.wait_after(error, &mut tries).await?,
            }
        }
    }

    /// Begins a search that is read page by page.
    pub fn pages(&self, resource_type: &str, query: &[(&str, String)]) -> Result<Pages, Stop> {
        self.ehr.pages(resource_type, query).map_err(Stop::Ehr)
    }

    /// The next page; `Ok(Ok(None))` behind the last one.
    pub async fn page(&mut self, resource_type: &str, pages: &mut Pages) -> Result<Answer<Option<Vec<Held>>>, Stop> {
        self.breathe().await?;
        // Not repeated: a page that was asked for is not asked for again.
        match self.ehr.next_page(resource_type, pages, PAGES_MAX).await {
            Ok(page) => Ok(Ok(page)),
            Err(error) if is_no_such_question(&error) => Ok(Err(error)),
            Err(error) => Err(Stop::Ehr(error)),
        }
    }

    /// Sends one write; an answer that did not come is the caller's to look after.
    pub async fn send(&mut self, method: &str, url: &str, headers: &[(String, String)], body: &str) -> Result<Answer<Written>, Stop> {
        self.breathe().await?;
        match self.ehr.send(method, url, headers, body).await {
            Ok(written) => Ok(Ok(written)),
            Err(error) if is_no_such_question(&error) => Ok(Err(error)),
            Err(error) => Err(Stop::Ehr(error)),
        }
    }

    /// Waits before a question is asked again; an error when it was asked often enough, or would be of no use.
    async fn wait_after(&self, error: EhrError, tries: &mut u32) -> Result<(), Stop> {
        *tries += 1;
        let wait = match &error {
            EhrError::Retry { after_ms: Some(ms), .. } => Duration::from_millis(u64::try_from(*ms).unwrap_or_default()),
            EhrError::Retry { after_ms: None, .. } => Duration::from_secs(1 << *tries),
            EhrError::Unknown
            | EhrError::Unauthorized { .. }
            | EhrError::Conflict { .. }
            | EhrError::Refused { .. }
            | EhrError::Unsupported { .. }
            | EhrError::Absent { .. } => return Err(Stop::Ehr(error)),
        };
        if TRIES <= *tries || WAIT_MAX < wait {
            return Err(Stop::Ehr(error));
        }
        self.rest(Instant::now() + wait).await
    }

    /// Before each request: keeps the lease, and the ear open. The endpoint keeps the pace.
    async fn breathe(&mut self) -> Result<(), Stop> {
        if (self.watch.is_stopped)() {
            return Err(Stop::Stopped);
        }
        self.requests += 1;
        let (id, began_ms) = self.run;
        if id != 0 && RENEW_EVERY < self.renewed.elapsed() {
            self.renewed = Instant::now();
            let until_ms = began_ms + i64::try_from(self.began.elapsed().as_millis()).unwrap_or(i64::MAX) + LEASE_MS;
            if !self.store.write(move |tx| reconcile::renew(tx, id, until_ms)).await? {
                return Err(Stop::TakenOver);
            }
        }
        Ok(())
    }

    /// Waits until then, and looks now and then whether it shall stop.
    pub async fn rest(&self, until: Instant) -> Result<(), Stop> {
        loop {
            if (self.watch.is_stopped)() {
                return Err(Stop::Stopped);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            tokio::time::sleep(left.min(Duration::from_millis(250))).await;
        }
    }
}
