//! Many resources from sources of lines, whatever those are (files, downloads): cutting them into blocks, preparing these (in
//! parallel) and committing them (big transactions, fsynced) overlap. How far a source was taken is committed with what was
//! taken from it, so that whoever was interrupted goes on where it stopped. Knows neither paths nor networks.

mod blocks;
mod ready;

use std::collections::{BTreeMap, HashMap};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};

use blocks::Block;
pub use blocks::{BLOCK_BYTES, Blocks, Cut, LONGEST_BYTES, Source};
use ready::Ready;

use super::{Pipeline, judge};
use crate::issue::{Code, Disposition, Issue};
use crate::mapping::Site;
use crate::store::imports::{self, Outcome, Progress};
use crate::store::ledger::{self, Prepared, Receipt};
use crate::store::{Store, StoreError, Tx, downloads};

/// Messages of one transaction, at least: enough to make its fsync cheap.
const MESSAGES_AT_ONCE: usize = 20_000;
/// Blocks that may wait to be prepared.
const BLOCKS_WAITING: usize = 4;
/// Prepared blocks that may wait to be committed: a whole transaction's, so that the workers go on during its fsync.
const BLOCKS_READY: usize = 20;
/// Rejected lines that are named.
const LINES_NAMED: usize = 50;
const SUBJECTS_AT_ONCE: usize = 8_192;

/// What stopped it. What was committed before stays.
#[derive(Debug, thiserror::Error)]
pub enum BackfillError {
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It was asked to stop.
    #[error("it was stopped")]
    Stopped,
}

/// Lets a store have for a backfill what that needs, and takes it back afterwards.
pub fn equipped<T, E: From<StoreError>>(store: &Store, is_backfill: bool, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    if !is_backfill {
        return work();
    }
    store.prepare_for_backfill()?;
    let worked = work();
    store.end_backfill()?;
    worked
}

/// Where it is kept how far a source was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// By the hash of the whole file, for good, and with it what became of its lines.
    File { hash: String, bytes: u64 },
    /// By the feed that fetches it and the name it has there, until that feed has no more use for it.
    Download { file: String },
}

/// What was taken.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub received: usize,
    pub dispositions: BTreeMap<Disposition, usize>,
    /// Of these, DELETEs.
    pub withdrawn: usize,
    /// Laboratory codes that the mapping does not name.
    pub unmapped: HashMap<String, usize>,
    /// The first rejected lines.
    pub rejected: Vec<Rejected>,
}

impl Tally {
    pub fn ended(&self, disposition: Disposition) -> usize {
        self.dispositions.get(&disposition).copied().unwrap_or_default()
    }
}

#[derive(Clone, Debug)]
pub struct Rejected {
    /// The number that its reader gave the source.
    pub source: usize,
    /// From 1; of a JSON document always 1.
    pub line: u64,
    pub issue: Issue,
}

/// What is going on, for whoever shows it.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// So many bytes more were taken, or skipped as known; `is_end` where they are the last of their source.
    Taken {
        bytes: u64,
        is_end: bool,
    },
    Judged {
        subjects: usize,
    },
}

/// For whom is taken, and under which name it is counted.
#[derive(Clone, Copy)]
pub struct Taking<'a> {
    pub pipeline: &'a Pipeline,
    pub site: &'a Site,
    pub feed: &'a str,
    pub beside: Beside<'a>,
}

/// Whom it asks, and whom it tells.
#[derive(Clone, Copy)]
pub struct Beside<'a> {
    /// Asked at each transaction, ms since 1970 UTC.
    pub now_ms: &'a (dyn Fn() -> i64 + Sync),
    /// Asked again and again; what was committed until then stays.
    pub is_stopped: &'a (dyn Fn() -> bool + Sync),
    /// Hears of each step.
    pub watch: &'a (dyn Fn(Step) + Sync),
}

/// Takes what `read` cuts into blocks, in that order; answers what was taken and how the reading ended. What was read is
/// durable when this returns, whatever ended the reading; nobody is judged yet.
pub fn take<T: Send>(taking: Taking<'_>, read: impl FnOnce(&mut Blocks<'_>) -> T + Send) -> Result<(Tally, T), BackfillError> {
    let Taking { pipeline, site, feed, beside } = taking;
    let mut taker = Taker { store: &pipeline.store, site: &site.id, feed, beside, tally: Tally::default() };
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    let read = std::thread::scope(|scope| {
        let (send_block, blocks) = sync_channel::<Block>(BLOCKS_WAITING);
        let (send_ready, ready) = sync_channel::<Ready>(BLOCKS_READY);
        let reader = scope.spawn(move || read(&mut Blocks::new(&send_block)));
        let blocks = Arc::new(Mutex::new(blocks));
        for _ in 0..workers {
            let (blocks, send_ready) = (blocks.clone(), send_ready.clone());
            scope.spawn(move || ready::prepare_blocks(&pipeline.catalogue, site, &blocks, &send_ready));
        }
        // Only the workers keep these ends: when they are gone, everything is over.
        drop((blocks, send_ready));
        let taken = taker.take_all(ready);
        let read = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        taken.map(|()| read)
    })?;
    Ok((taker.tally, read))
}

/// Judges whoever waits for it; answers how many.
pub fn judge_all(pipeline: &Pipeline, beside: Beside<'_>) -> Result<usize, StoreError> {
    let mut all = 0;
    loop {
        let judged = judge::waiting(pipeline, (beside.now_ms)(), SUBJECTS_AT_ONCE)?;
        // Who is not judged yet waits in the store.
        if judged == 0 || (beside.is_stopped)() {
            return Ok(all);
        }
        all += judged;
        (beside.watch)(Step::Judged { subjects: judged });
    }
}

/// Commits what is ready, in the order of the sources.
struct Taker<'a> {
    store: &'a Store,
    site: &'a str,
    feed: &'a str,
    beside: Beside<'a>,
    tally: Tally,
}

/// What became of one block.
struct BlockTaken {
    receipts: Vec<Receipt>,
    withdrawn: Vec<Receipt>,
}

impl Taker<'_> {
    fn take_all(&mut self, ready: Receiver<Ready>) -> Result<(), BackfillError> {
        let mut early: BTreeMap<u64, Ready> = BTreeMap::new();
        let mut next = 1;
        let mut batch = Vec::new();
        let mut messages = 0;
        for block in ready {
            early.insert(block.block.number, block);
            while let Some(block) = early.remove(&next) {
                next += 1;
                messages += block.messages.len();
                batch.push(block);
                if MESSAGES_AT_ONCE <= messages {
                    self.commit(std::mem::take(&mut batch))?;
                    messages = 0;
                }
            }
        }
        self.commit(batch)
    }

    fn commit(&mut self, blocks: Vec<Ready>) -> Result<(), BackfillError> {
        if (self.beside.is_stopped)() {
            return Err(BackfillError::Stopped);
        }
        let now_ms = (self.beside.now_ms)();
        let taken = self.store.write_blocking(|tx| {
            let mut taken = Vec::new();
            // Blocks of one source lie side by side: how far it came is written once.
            for of_source in blocks.chunk_by(|a, b| a.block.source == b.block.source) {
                taken.extend(self.commit_source(tx, now_ms, of_source)?);
            }
            Ok(taken)
        })?;
        for (Ready { block, messages, .. }, BlockTaken { receipts, withdrawn }) in blocks.iter().zip(&taken) {
            for receipt in withdrawn {
                self.count(receipt.disposition);
                self.tally.withdrawn += 1;
            }
            for ((line, message), receipt) in messages.iter().zip(receipts) {
                self.note(block.source, *line, message, receipt);
                // What an HL7 v2 message says again is no message.
                for (said, receipt) in
                    message.derived.iter().zip(&receipt.derived).filter(|(_, receipt)| receipt.disposition != Disposition::Duplicate)
                {
                    self.note(block.source, *line, said, receipt);
                }
            }
            let bytes = u64::try_from(block.bytes_done).unwrap_or(0).saturating_sub(block.from_byte);
            (self.beside.watch)(Step::Taken { bytes, is_end: block.is_finished });
        }
        Ok(())
    }

    /// Blocks of one source, with how far it came.
    fn commit_source(&self, tx: &mut Tx<'_>, now_ms: i64, blocks: &[Ready]) -> Result<Vec<BlockTaken>, StoreError> {
        let Some(Ready { block: last, .. }) = blocks.last() else { return Ok(Vec::new()) };
        let mut taken = Vec::new();
        for Ready { messages, withdrawals, .. } in blocks {
            let prepared: Vec<&Prepared> = messages.iter().map(|(_, message)| message).collect();
            let receipts = ledger::commit_refs(tx, self.site, self.feed, now_ms, &prepared)?;
            let mut withdrawn: Vec<Receipt> = Vec::new();
            for withdrawal in withdrawals {
                withdrawn.extend(ledger::withdraw(tx, self.site, self.feed, now_ms, withdrawal)?);
            }
            taken.push(BlockTaken { receipts, withdrawn });
        }
        let progress = Progress {
            bytes_done: last.bytes_done,
            lines_done: last.lines_done,
            finished_ms: last.is_finished.then_some(now_ms),
            outcome: Outcome::default(),
        };
        match &*last.place {
            Place::File { hash, bytes } => {
                let outcome = outcome(imports::progress(tx, self.site, hash)?.unwrap_or_default().outcome, blocks, &taken);
                imports::advance(tx, self.site, hash, i64::try_from(*bytes).unwrap_or(i64::MAX), now_ms, &Progress { outcome, ..progress })?;
            }
            Place::Download { file } => {
                let more: u64 = blocks.iter().map(|ready| ready.resources).sum();
                let key = downloads::Key { site: self.site, feed: self.feed, file };
                downloads::advance(tx, key, &progress, i64::try_from(more).unwrap_or(i64::MAX), &last.hash_so_far)?;
            }
        }
        Ok(taken)
    }

    fn count(&mut self, disposition: Disposition) {
        self.tally.received += 1;
        *self.tally.dispositions.entry(disposition).or_default() += 1;
    }

    fn note(&mut self, source: usize, line: u64, message: &Prepared, receipt: &Receipt) {
        self.count(receipt.disposition);
        if receipt.disposition == Disposition::Rejected && self.tally.rejected.len() < LINES_NAMED {
            self.tally.rejected.push(Rejected { source, line, issue: first_issue(receipt) });
        }
        if let Some(code) = &message.code
            && receipt.issues.iter().any(|issue| issue.code == Code::CodeUnmapped)
        {
            *self.tally.unmapped.entry(code.clone()).or_default() += 1;
        }
    }
}

/// What became of a file, with these blocks of it.
fn outcome(mut outcome: Outcome, blocks: &[Ready], taken: &[BlockTaken]) -> Outcome {
    for (Ready { block, messages, .. }, BlockTaken { receipts, withdrawn }) in blocks.iter().zip(taken) {
        for ((line, _), receipt) in messages.iter().zip(receipts) {
            let said = receipt.derived.iter().filter(|said| said.disposition != Disposition::Duplicate);
            for receipt in std::iter::once(receipt).chain(said) {
                outcome.add(receipt.disposition, || imports::RejectedLine { line: *line, issue: first_issue(receipt) });
            }
        }
        for receipt in withdrawn {
            outcome.add(receipt.disposition, || imports::RejectedLine { line: block.first_line, issue: first_issue(receipt) });
        }
    }
    outcome
}

fn first_issue(receipt: &Receipt) -> Issue {
    receipt.issues.first().cloned().unwrap_or_else(|| Issue::new(Code::Internal, ""))
}
