//! One line of messages towards the store: what waits is committed together, so that many single pushes share one
//! fsync. Nothing is acknowledged before its commit.

use tokio::sync::{mpsc, oneshot};

use super::{Pipeline, receive};
use crate::store::StoreError;
use crate::store::ledger::{self, Prepared, Receipt};

/// Why a sender is not answered with receipts; nothing of what it sent was taken.
#[derive(Debug, thiserror::Error)]
pub enum Untaken {
    /// Come again when less waits.
    #[error("too much is waiting to be taken")]
    TooMuch,
    #[error("the gateway is stopping")]
    Stopping,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// When the subjects of a message are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judged {
    /// Before the sender is answered, so that its next request sees the verdict.
    First,
    /// By the judge's own loop: for senders that send the next message only when this one is answered.
    Later,
}

/// Jobs that may wait before a sender is told to come again.
const WAITING_JOBS: usize = 1024;

/// Messages that one commit takes at most, beyond those of its first job.
const COMMIT_MESSAGES: usize = 2_000;

/// How long a sender waits for a place in the line.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

/// The door to the line; cheap to clone. The line ends when the last clone is gone.
#[derive(Clone)]
pub struct Intake {
    sender: mpsc::Sender<Job>,
}

struct Job {
    site: String,
    feed: String,
    judged: Judged,
    messages: Vec<Prepared>,
    answer: oneshot::Sender<Result<Vec<Receipt>, StoreError>>,
}

impl Intake {
    /// Starts the line on a thread of its own.
    pub fn start(pipeline: Pipeline) -> (Intake, std::thread::JoinHandle<()>) {
        let (sender, receiver) = mpsc::channel(WAITING_JOBS);
        let thread = std::thread::Builder::new().name("intake".to_owned()).spawn(move || run(&pipeline, receiver)).expect("a thread can be started");
        (Intake { sender }, thread)
    }

    /// Whether somebody is at the other end of the line.
    pub fn is_alive(&self) -> bool {
        !self.sender.is_closed()
    }

    /// Commits messages of one site and feed, all or none, and judges whom they touch; the receipts are durable when this
    /// returns.
    pub async fn take(&self, site: &str, feed: &str, messages: Vec<Prepared>) -> Result<Vec<Receipt>, Untaken> {
        if messages.is_empty() {
            return Ok(Vec::new());
        }
        self.hand_in(site, feed, Judged::First, messages).await?.receipts().await
    }

    /// Puts messages of one site and feed in line; what is handed in first is committed first.
    pub async fn hand_in(&self, site: &str, feed: &str, judged: Judged, messages: Vec<Prepared>) -> Result<HandedIn, Untaken> {
        let (answer, receipts) = oneshot::channel();
        let job = Job { site: site.to_owned(), feed: feed.to_owned(), judged, messages, answer };
        self.sender.send_timeout(job, PATIENCE).await.map_err(|_| Untaken::TooMuch)?;
        Ok(HandedIn(receipts))
    }
}

/// Messages that stand in line.
pub struct HandedIn(oneshot::Receiver<Result<Vec<Receipt>, StoreError>>);

impl HandedIn {
    /// What became of them; durable when this returns.
    pub async fn receipts(self) -> Result<Vec<Receipt>, Untaken> {
        Ok(self.0.await.map_err(|_| Untaken::Stopping)??)
    }
}

fn run(pipeline: &Pipeline, mut receiver: mpsc::Receiver<Job>) {
    let mut held: Option<Job> = None;
    while let Some(first) = held.take().or_else(|| receiver.blocking_recv()) {
        let mut together = vec![first];
        let mut size = together[0].messages.len();
        while size < COMMIT_MESSAGES
            && let Ok(next) = receiver.try_recv()
        {
            if next.site != together[0].site || next.feed != together[0].feed || next.judged != together[0].judged {
                held = Some(next);
                break;
            }
            size += next.messages.len();
            together.push(next);
        }
        commit(pipeline, together);
    }
}

fn commit(pipeline: &Pipeline, jobs: Vec<Job>) {
    let (site, feed, judged) = (jobs[0].site.clone(), jobs[0].feed.clone(), jobs[0].judged);
    let mut messages = Vec::with_capacity(jobs.iter().map(|job| job.messages.len()).sum());
    let mut waiting = Vec::with_capacity(jobs.len());
    for job in jobs {
        waiting.push((job.messages.len(), job.answer));
        messages.extend(job.messages);
    }
    let now_ms = jiff::Timestamp::now().as_millisecond();
    let receive = || match judged {
        Judged::First => receive::receive(pipeline, &site, &feed, now_ms, &messages),
        Judged::Later => pipeline.store.write_blocking(|tx| ledger::commit(tx, &site, &feed, now_ms, &messages)),
    };
    let received = std::panic::catch_unwind(std::panic::AssertUnwindSafe(receive))
        .unwrap_or_else(|_| Err(StoreError::Retry("the intake failed on these messages".to_owned())));
    match received {
        Ok(receipts) => {
            let mut receipts = receipts.into_iter();
            for (count, answer) in waiting {
                // A client that went away does not undo what was taken.
                let _ = answer.send(Ok(receipts.by_ref().take(count).collect()));
            }
        }
        Err(error) => {
            for (_, answer) in waiting {
                let _ = answer.send(Err(same(&error)));
            }
        }
    }
}

fn same(error: &StoreError) -> StoreError {
    match error {
        StoreError::Retry(text) => StoreError::Retry(text.clone()),
        StoreError::Full(text) => StoreError::Full(text.clone()),
        StoreError::Broken(text) => StoreError::Broken(text.clone()),
    }
}
