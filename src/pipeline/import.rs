//! A backfill from files: NDJSON line by line, single resources and Bundles. Reading, preparing (in parallel) and
//! committing (big transactions, fsynced) overlap; how far a file was taken is committed with what was taken from it,
//! so that an interrupted import goes on where it stopped and a second run adds nothing.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{Context, SHA256};
use flate2::read::MultiGzDecoder;

use super::Pipeline;
use super::entries::{Asked, Reader, Withdrawal};
use super::judge;
use super::receive::{Forms, prepare, prepare_line};
use crate::catalogue::Catalogue;
use crate::digest::hex;
use crate::fhir::bundle;
use crate::issue::{Code, Disposition, Issue};
use crate::mapping::Site;
use crate::store::imports::{self, Progress};
use crate::store::ledger::{self, Prepared, Receipt};
use crate::store::{Store, StoreError, Tx};

/// The feed under which messages are counted that are imported by hand.
pub const FEED: &str = "import";

/// Bytes that one worker takes at a time; about a thousand laboratory results.
const BLOCK_BYTES: usize = 1 << 20;
/// A longer line or document is refused, so that one broken file cannot fill the memory.
const LONGEST_BYTES: usize = 64 << 20;
/// Messages of one transaction, at least: enough to make its fsync cheap.
const MESSAGES_AT_ONCE: usize = 20_000;
/// Blocks that may wait to be prepared.
const BLOCKS_WAITING: usize = 4;
/// Prepared blocks that may wait to be committed: a whole transaction's, so that the workers go on during its fsync.
const BLOCKS_READY: usize = 20;
/// Rejected lines that the summary names.
const LINES_NAMED: usize = 50;
const SUBJECTS_AT_ONCE: usize = 8_192;

/// What stopped an import. What was committed before stays, and a second run goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error("{}: {error}", path.display())]
    File { path: PathBuf, error: std::io::Error },
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It was asked to stop.
    #[error("the import was stopped")]
    Stopped,
}

/// One file to be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub path: PathBuf,
    pub bytes: u64,
    /// Named by the caller, not found in a folder: then it is FHIR or it is faulted.
    pub is_named: bool,
}

/// What an import came to.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    pub files: usize,
    /// Taken whole by an earlier run.
    pub files_known: usize,
    /// JSON files found in a folder that are not FHIR, such as an export's manifest.
    pub files_not_fhir: Vec<PathBuf>,
    /// SHA-256 of each file's content, by which the store knows how far it was taken; in the order of the files.
    pub hashes: Vec<String>,
    pub received: usize,
    pub dispositions: BTreeMap<Disposition, usize>,
    /// Laboratory codes that the mapping does not name, most frequent first.
    pub unmapped: Vec<(String, usize)>,
    /// The first rejected lines.
    pub rejected: Vec<RejectedLine>,
    pub judged: usize,
    /// Until everything was durable.
    pub taking: Duration,
    pub judging: Duration,
}

#[derive(Clone, Debug)]
pub struct RejectedLine {
    pub path: PathBuf,
    /// From 1; of a JSON document always 1.
    pub line: u64,
    pub issue: Issue,
}

/// What an import is doing, for whoever shows it.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// So many bytes more were taken, or skipped as known.
    Taken {
        bytes: u64,
    },
    Judged {
        subjects: usize,
    },
}

/// Files to be taken, in order of their names; folders are searched through.
pub fn find_files(paths: &[PathBuf]) -> Result<Vec<Source>, ImportError> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            search(path, &mut files)?;
        } else {
            files.push(source(path.clone(), true)?);
        }
    }
    Ok(files)
}

fn search(folder: &Path, files: &mut Vec<Source>) -> Result<(), ImportError> {
    let at = |error| ImportError::File { path: folder.to_owned(), error };
    let mut entries = std::fs::read_dir(folder).map_err(at)?.collect::<Result<Vec<_>, _>>().map_err(at)?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        if path.is_dir() {
            search(&path, files)?;
        } else if Form::of(&path).is_some() {
            files.push(source(path, false)?);
        }
    }
    Ok(())
}

/// How a file is read, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One resource a line.
    Lines,
    /// One resource or Bundle.
    Document,
}

impl Form {
    /// `None` for a file that is none of ours. Names from Windows shares come in either case.
    pub fn of(path: &Path) -> Option<Form> {
        let name = path.file_name()?.to_string_lossy().to_ascii_lowercase();
        match name.strip_suffix(".gz").unwrap_or(&name).rsplit_once('.')?.1 {
            "ndjson" | "jsonl" => Some(Form::Lines),
            "json" => Some(Form::Document),
            _ => None,
        }
    }
}

/// The content of a file, unpacked where its name says that it is packed.
enum Content {
    Plain(File),
    Gzip(MultiGzDecoder<BufReader<File>>),
}

impl Content {
    fn open(path: &Path) -> std::io::Result<Content> {
        let file = File::open(path)?;
        let is_gzip = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gz"));
        Ok(if is_gzip { Content::Gzip(MultiGzDecoder::new(BufReader::new(file))) } else { Content::Plain(file) })
    }

    /// Passes over what was taken before.
    fn skip(&mut self, bytes: u64) -> std::io::Result<()> {
        match self {
            Content::Plain(file) => file.seek(SeekFrom::Start(bytes)).map(drop),
            Content::Gzip(packed) => std::io::copy(&mut packed.take(bytes), &mut std::io::sink()).map(drop),
        }
    }
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Content::Plain(file) => file.read(buffer),
            Content::Gzip(packed) => packed.read(buffer),
        }
    }
}

fn source(path: PathBuf, is_named: bool) -> Result<Source, ImportError> {
    match File::open(&path).and_then(|file| file.metadata()) {
        Ok(metadata) => Ok(Source { path, bytes: metadata.len(), is_named }),
        Err(error) => Err(ImportError::File { path, error }),
    }
}

/// Whom an import asks, and whom it tells.
#[derive(Clone, Copy)]
pub struct Beside<'a> {
    /// Asked at each transaction, ms since 1970 UTC.
    pub now_ms: &'a (dyn Fn() -> i64 + Sync),
    /// Asked again and again; what was committed until then stays.
    pub is_stopped: &'a (dyn Fn() -> bool + Sync),
    /// Hears of each step.
    pub watch: &'a (dyn Fn(Step) + Sync),
}

/// Takes files into one site of the store, counted under `feed`, and judges whom they touch.
pub fn import(pipeline: &Pipeline, site: &Site, feed: &str, files: &[Source], beside: Beside<'_>) -> Result<Summary, ImportError> {
    let started = Instant::now();
    pipeline.store.prepare_for_backfill()?;
    let mut taker = Taker { store: &pipeline.store, site: &site.id, feed, files, beside, summary: Summary::default(), unmapped: HashMap::new() };
    taker.summary.hashes = vec![String::new(); files.len()];
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        let (send_block, blocks) = sync_channel::<Block>(BLOCKS_WAITING);
        let (send_ready, ready) = sync_channel::<Ready>(BLOCKS_READY);
        let (send_known, known) = sync_channel::<Known>(2 * files.len() + 1);
        let reader = scope.spawn(move || read_files(&pipeline.store, &site.id, files, beside.is_stopped, &send_block, &send_known));
        let blocks = std::sync::Arc::new(Mutex::new(blocks));
        for _ in 0..workers {
            let (blocks, send_ready) = (blocks.clone(), send_ready.clone());
            scope.spawn(move || prepare_blocks(&pipeline.catalogue, site, &blocks, &send_ready));
        }
        // Only the workers keep these ends: when they are gone, everything is over.
        drop((blocks, send_ready));
        taker.take_all(ready)?;
        // The reader's own trouble ends the flow of blocks early; it is told after what came before is safe.
        reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        for known in known.try_iter() {
            taker.note(known);
        }
        Ok::<(), ImportError>(())
    })?;
    let mut summary = taker.end();
    summary.files = files.len();
    summary.taking = started.elapsed();
    let judging = Instant::now();
    loop {
        let judged = judge::waiting(pipeline, (beside.now_ms)(), SUBJECTS_AT_ONCE)?;
        // Who is not judged yet waits in the store.
        if judged == 0 || (beside.is_stopped)() {
            break;
        }
        summary.judged += judged;
        (beside.watch)(Step::Judged { subjects: judged });
    }
    summary.judging = judging.elapsed();
    Ok(summary)
}

/// What is known of a file before, or without, taking anything of it.
enum Known {
    Hash { file: usize, hash: String },
    Before { bytes: u64 },
    NotFhir { file: usize },
}

/// Some whole lines of one file, or one document.
struct Block {
    /// Place in the order of all blocks.
    number: u64,
    file: usize,
    file_hash: String,
    part: Part,
    /// Bytes of the file that came before this block.
    from_byte: u64,
    /// Where the file has been read to when this block is done.
    bytes_done: i64,
    lines_done: i64,
    is_finished: bool,
    first_line: u64,
}

enum Part {
    Lines(Vec<u8>),
    Document(Vec<u8>),
    /// A line that is too long, by the hash of its bytes; the bytes are gone.
    TooLong(String),
}

/// A block whose messages can be committed.
struct Ready {
    block: Block,
    messages: Vec<(u64, Prepared)>,
    /// DELETEs of history Bundles; they come after the messages beside them.
    withdrawals: Vec<Withdrawal>,
}

fn read_files(
    store: &Store,
    site: &str,
    files: &[Source],
    is_stopped: &(dyn Fn() -> bool + Sync),
    send: &SyncSender<Block>,
    send_known: &SyncSender<Known>,
) -> Result<(), ImportError> {
    let mut number = 0;
    for (index, source) in files.iter().enumerate() {
        let at = |error| match is_stopped() {
            true => ImportError::Stopped,
            false => ImportError::File { path: source.path.clone(), error },
        };
        let (file_hash, length) = hash_of(Content::open(&source.path).map_err(at)?, is_stopped).map_err(at)?;
        // The other end outlives this thread; it only notes.
        let _ = send_known.send(Known::Hash { file: index, hash: file_hash.clone() });
        let before = store.read_blocking(|tx| imports::progress(tx, site, &file_hash))?.unwrap_or_default();
        if before.finished_ms.is_some() {
            let _ = send_known.send(Known::Before { bytes: source.bytes });
            continue;
        }
        let content = Content::open(&source.path).map_err(at)?;
        let mut lines = Lines { content, index, file_hash, length, number: &mut number, send, done: before };
        let is_taken = match Form::of(&source.path) {
            Some(Form::Lines) => lines.read_lines().map_err(at)?,
            Some(Form::Document) | None => lines.read_document(source.is_named).map_err(at)?,
        };
        match is_taken {
            Taken::Whole => {}
            Taken::NotFhir => {
                let _ = send_known.send(Known::NotFhir { file: index });
            }
            // Nobody takes blocks any more: the committer has failed and says why.
            Taken::Stopped => return Ok(()),
        }
    }
    Ok(())
}

/// The hash and the length of a file's content.
fn hash_of(mut content: Content, is_stopped: &(dyn Fn() -> bool + Sync)) -> std::io::Result<(String, u64)> {
    let mut context = Context::new(&SHA256);
    let mut length = 0;
    let mut buffer = vec![0; BLOCK_BYTES];
    while !is_stopped() {
        match content.read(&mut buffer) {
            Ok(0) => return Ok((hex(context.finish().as_ref()), length)),
            Ok(read) => {
                context.update(&buffer[..read]);
                length += read as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Err(ErrorKind::Interrupted.into())
}

enum Taken {
    Whole,
    NotFhir,
    Stopped,
}

/// One file on its way to the workers.
struct Lines<'a> {
    content: Content,
    index: usize,
    file_hash: String,
    /// Of the whole content.
    length: u64,
    number: &'a mut u64,
    send: &'a SyncSender<Block>,
    done: Progress,
}

impl Lines<'_> {
    /// Cuts the file into blocks of whole lines.
    fn read_lines(&mut self) -> std::io::Result<Taken> {
        self.content.skip(u64::try_from(self.done.bytes_done).unwrap_or(0))?;
        let mut rest: Vec<u8> = Vec::new();
        loop {
            let mut block = std::mem::take(&mut rest);
            let before = block.len();
            let is_end = (&mut self.content).take(BLOCK_BYTES as u64).read_to_end(&mut block)? == 0;
            // Only what is new can hold the first line end.
            let end = if is_end { Some(block.len()) } else { memchr::memrchr(b'\n', &block[before..]).map(|place| before + place + 1) };
            match end {
                Some(end) => {
                    rest = block.split_off(end);
                    let lines = memchr::memchr_iter(b'\n', &block).count() as u64 + u64::from(block.last().is_some_and(|last| *last != b'\n'));
                    if !self.give(block.len() as u64, lines, is_end, Part::Lines(block)) {
                        return Ok(Taken::Stopped);
                    }
                }
                None if LONGEST_BYTES < block.len() => match self.skip_line(block)? {
                    Some(after) => rest = after,
                    None => return Ok(Taken::Stopped),
                },
                None => rest = block,
            }
            if is_end {
                return Ok(Taken::Whole);
            }
        }
    }

    /// Passes over the rest of a line that is too long, keeping only its hash; answers what was read behind it.
    fn skip_line(&mut self, start: Vec<u8>) -> std::io::Result<Option<Vec<u8>>> {
        let mut context = Context::new(&SHA256);
        context.update(&start);
        let mut length = start.len() as u64;
        drop(start);
        let mut buffer = vec![0; BLOCK_BYTES];
        let mut after = Vec::new();
        loop {
            let read = self.content.read(&mut buffer)?;
            let place = memchr::memchr(b'\n', &buffer[..read]);
            let of_line = place.unwrap_or(read);
            context.update(&buffer[..of_line]);
            length += of_line as u64 + u64::from(place.is_some());
            if let Some(place) = place {
                after.extend_from_slice(&buffer[place + 1..read]);
            }
            if place.is_some() || read == 0 {
                break;
            }
        }
        let is_given = self.give(length, 1, false, Part::TooLong(hex(context.finish().as_ref())));
        Ok(is_given.then_some(after))
    }

    /// Reads a file that is one JSON document.
    fn read_document(&mut self, is_named: bool) -> std::io::Result<Taken> {
        let mut document = Vec::new();
        (&mut self.content).take(LONGEST_BYTES as u64 + 1).read_to_end(&mut document)?;
        let part = if LONGEST_BYTES < document.len() { Part::TooLong(self.file_hash.clone()) } else { Part::Document(document) };
        if let Part::Document(document) = &part
            && !is_named
            && memchr::memmem::find(document, b"\"resourceType\"").is_none()
        {
            return Ok(Taken::NotFhir);
        }
        Ok(if self.give(self.length, 1, true, part) { Taken::Whole } else { Taken::Stopped })
    }

    fn give(&mut self, bytes: u64, lines: u64, is_finished: bool, part: Part) -> bool {
        let (from_byte, first_line) = (self.done.bytes_done, self.done.lines_done);
        self.done.bytes_done += i64::try_from(bytes).unwrap_or(i64::MAX);
        self.done.lines_done += i64::try_from(lines).unwrap_or(i64::MAX);
        *self.number += 1;
        let block = Block {
            number: *self.number,
            file: self.index,
            file_hash: self.file_hash.clone(),
            part,
            from_byte: u64::try_from(from_byte).unwrap_or(0),
            bytes_done: self.done.bytes_done,
            lines_done: self.done.lines_done,
            is_finished,
            first_line: u64::try_from(first_line).unwrap_or(0) + 1,
        };
        self.send.send(block).is_ok()
    }
}

fn prepare_blocks(catalogue: &Catalogue, site: &Site, blocks: &Mutex<Receiver<Block>>, send: &SyncSender<Ready>) {
    let mut forms = Forms::default();
    loop {
        let next = blocks.lock().unwrap_or_else(std::sync::PoisonError::into_inner).recv();
        let Ok(mut block) = next else { return };
        let mut taken = Taking { catalogue, site, messages: Vec::new(), withdrawals: Vec::new() };
        match std::mem::replace(&mut block.part, Part::Lines(Vec::new())) {
            Part::Lines(bytes) => {
                for (number, line) in (block.first_line..).zip(lines_of(&bytes)) {
                    let line = line.strip_suffix(b"\r").unwrap_or(line);
                    if !line.iter().all(u8::is_ascii_whitespace) {
                        let message = prepare_line(catalogue, site, &mut forms, line);
                        taken.take(line, number, message);
                    }
                }
            }
            Part::Document(bytes) => taken.take(&bytes, block.first_line, prepare(catalogue, site, &bytes)),
            Part::TooLong(hash) => {
                let refused = Prepared::rejected("-", &[], &site.hash, vec![Issue::new(Code::TooLarge, "")]);
                taken.messages.push((block.first_line, Prepared { body_hash: hash, ..refused }));
            }
        }
        for (line, message) in &mut taken.messages {
            if message.disposition == Disposition::Rejected {
                for issue in &mut message.issues {
                    let detail = match &issue.detail {
                        Some(detail) => format!("line {line}: {detail}"),
                        None => format!("line {line}"),
                    };
                    *issue = Issue::new(issue.code, std::mem::take(&mut issue.path)).with_detail(detail);
                }
            }
        }
        if send.send(Ready { block, messages: taken.messages, withdrawals: taken.withdrawals }).is_err() {
            return;
        }
    }
}

/// Lines, without their ends; a byte is looked at with many others at once.
fn lines_of(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut from = 0;
    memchr::memchr_iter(b'\n', bytes).chain(std::iter::once(bytes.len())).map(move |end| &bytes[std::mem::replace(&mut from, end + 1)..end])
}

/// What one block gives.
struct Taking<'a> {
    catalogue: &'a Catalogue,
    site: &'a Site,
    messages: Vec<(u64, Prepared)>,
    withdrawals: Vec<Withdrawal>,
}

impl Taking<'_> {
    /// Adds one message, or what each entry of a Bundle asks for.
    fn take(&mut self, bytes: &[u8], line: u64, message: Prepared) {
        if message.resource_type != "Bundle" || message.disposition == Disposition::Rejected {
            self.messages.push((line, message));
            return;
        }
        match bundle::split(bytes) {
            Ok(bundle) => {
                let reader = Reader::new(self.catalogue, self.site, &bundle);
                for index in 0..bundle.entries.len() {
                    match reader.read(index) {
                        Asked::Message { message, .. } => self.messages.push((line, *message)),
                        Asked::Withdraw(withdrawal) => self.withdrawals.push(withdrawal),
                    }
                }
            }
            Err(issue) => self.messages.push((line, message.into_rejected(issue))),
        }
    }
}

/// Commits what is ready, in the order of the files.
struct Taker<'a> {
    store: &'a Store,
    site: &'a str,
    feed: &'a str,
    files: &'a [Source],
    beside: Beside<'a>,
    summary: Summary,
    unmapped: HashMap<String, usize>,
}

impl Taker<'_> {
    fn take_all(&mut self, ready: Receiver<Ready>) -> Result<(), ImportError> {
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

    fn commit(&mut self, blocks: Vec<Ready>) -> Result<(), ImportError> {
        if (self.beside.is_stopped)() {
            return Err(ImportError::Stopped);
        }
        let now_ms = (self.beside.now_ms)();
        let taken = self.store.write_blocking(|tx| {
            let mut taken = Vec::new();
            // Blocks of one file lie side by side: how far it came is written once.
            for of_file in blocks.chunk_by(|a, b| a.block.file == b.block.file) {
                taken.extend(self.commit_file(tx, now_ms, of_file)?);
            }
            Ok(taken)
        })?;
        for (Ready { block, messages, .. }, BlockTaken { receipts, withdrawn }) in blocks.iter().zip(&taken) {
            for receipt in withdrawn {
                self.count(receipt.disposition);
            }
            for ((line, message), receipt) in messages.iter().zip(receipts) {
                self.count(receipt.disposition);
                if receipt.disposition == Disposition::Rejected && self.summary.rejected.len() < LINES_NAMED {
                    self.summary.rejected.push(RejectedLine { path: self.files[block.file].path.clone(), line: *line, issue: first_issue(receipt) });
                }
                if let Some(code) = &message.code
                    && receipt.issues.iter().any(|issue| issue.code == Code::CodeUnmapped)
                {
                    *self.unmapped.entry(code.clone()).or_default() += 1;
                }
            }
            (self.beside.watch)(Step::Taken { bytes: u64::try_from(block.bytes_done).unwrap_or(0).saturating_sub(block.from_byte) });
        }
        Ok(())
    }

    /// Blocks of one file, with how far it came and what became of it until then.
    fn commit_file(&self, tx: &mut Tx<'_>, now_ms: i64, blocks: &[Ready]) -> Result<Vec<BlockTaken>, StoreError> {
        let Some(Ready { block: last, .. }) = blocks.last() else { return Ok(Vec::new()) };
        let mut outcome = imports::progress(tx, self.site, &last.file_hash)?.unwrap_or_default().outcome;
        let mut taken = Vec::new();
        for Ready { messages, withdrawals, .. } in blocks {
            let prepared: Vec<&Prepared> = messages.iter().map(|(_, message)| message).collect();
            let receipts = ledger::commit_refs(tx, self.site, self.feed, now_ms, &prepared)?;
            for ((line, _), receipt) in messages.iter().zip(&receipts) {
                outcome.add(receipt.disposition, || imports::RejectedLine { line: *line, issue: first_issue(receipt) });
            }
            let mut withdrawn: Vec<Receipt> = Vec::new();
            for withdrawal in withdrawals {
                withdrawn.extend(ledger::withdraw(tx, self.site, self.feed, now_ms, withdrawal)?);
            }
            for receipt in &withdrawn {
                outcome.add(receipt.disposition, || imports::RejectedLine { line: last.first_line, issue: first_issue(receipt) });
            }
            taken.push(BlockTaken { receipts, withdrawn });
        }
        let bytes = i64::try_from(self.files[last.file].bytes).unwrap_or(i64::MAX);
        let finished_ms = last.is_finished.then_some(now_ms);
        let progress = Progress { bytes_done: last.bytes_done, lines_done: last.lines_done, finished_ms, outcome };
        imports::advance(tx, self.site, &last.file_hash, bytes, now_ms, &progress)?;
        Ok(taken)
    }

    fn count(&mut self, disposition: Disposition) {
        self.summary.received += 1;
        *self.summary.dispositions.entry(disposition).or_default() += 1;
    }

    fn note(&mut self, known: Known) {
        match known {
            Known::Hash { file, hash } => self.summary.hashes[file] = hash,
            Known::Before { bytes } => {
                self.summary.files_known += 1;
                (self.beside.watch)(Step::Taken { bytes });
            }
            Known::NotFhir { file } => {
                self.summary.files_not_fhir.push(self.files[file].path.clone());
                (self.beside.watch)(Step::Taken { bytes: self.files[file].bytes });
            }
        }
    }

    fn end(self) -> Summary {
        let Taker { mut summary, unmapped, .. } = self;
        summary.unmapped = unmapped.into_iter().collect();
        summary.unmapped.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        summary
    }
}

/// What became of one block.
struct BlockTaken {
    receipts: Vec<Receipt>,
    withdrawn: Vec<Receipt>,
}

fn first_issue(receipt: &Receipt) -> Issue {
    receipt.issues.first().cloned().unwrap_or_else(|| Issue::new(Code::Internal, ""))
}
