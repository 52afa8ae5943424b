//! A backfill from files: NDJSON line by line, single resources, Bundles, and HL7 v2 messages. A file is known by the hash of its content, so
//! that an interrupted import goes on where it stopped and a second run adds nothing.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{Context, SHA256};
use flate2::read::MultiGzDecoder;

use super::Pipeline;
use super::backfill::{self, BLOCK_BYTES, BackfillError, Beside, Blocks, Cut, LONGEST_BYTES, Place, Step, Taking};
use crate::digest::hex;
use crate::hl7;
use crate::issue::{Disposition, Issue};
use crate::mapping::Site;
use crate::store::{Store, StoreError, imports};

/// The feed under which messages are counted that are imported by hand.
pub const FEED: &str = "import";

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

impl From<BackfillError> for ImportError {
    fn from(error: BackfillError) -> ImportError {
        match error {
            BackfillError::Store(error) => ImportError::Store(error),
            BackfillError::Stopped => ImportError::Stopped,
        }
    }
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
    /// One resource or Bundle, or HL7 v2 messages.
    Document,
}

impl Form {
    /// `None` for a file that is none of ours. Names from Windows shares come in either case.
    pub fn of(path: &Path) -> Option<Form> {
        let name = path.file_name()?.to_string_lossy().to_ascii_lowercase();
        match name.strip_suffix(".gz").unwrap_or(&name).rsplit_once('.')?.1 {
            "ndjson" | "jsonl" => Some(Form::Lines),
            "json" | "hl7" => Some(Form::Document),
            _ => None,
        }
    }
}

/// The content of a file, unpacked where its name says that it is packed.
enum Content {
    Plain(File),
    Gzip(Box<MultiGzDecoder<BufReader<File>>>),
}

impl Content {
    fn open(path: &Path) -> std::io::Result<Content> {
        let file = File::open(path)?;
        let is_gzip = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gz"));
        Ok(if is_gzip { Content::Gzip(Box::new(MultiGzDecoder::new(BufReader::new(file)))) } else { Content::Plain(file) })
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

/// Takes files into one site of the store, counted under `feed`, and judges whom they touch.
pub fn import(pipeline: &Pipeline, site: &Site, feed: &str, files: &[Source], beside: Beside<'_>) -> Result<Summary, ImportError> {
    backfill::equipped(&pipeline.store, true, || import_all(pipeline, site, feed, files, beside))
}

fn import_all(pipeline: &Pipeline, site: &Site, feed: &str, files: &[Source], beside: Beside<'_>) -> Result<Summary, ImportError> {
    let started = Instant::now();
    let taking = Taking { pipeline, site, feed, beside };
    // The reader's own trouble is told after what came before is safe.
    let (tally, read) = backfill::take(taking, |blocks| read_files(&pipeline.store, &site.id, files, beside.is_stopped, blocks))?;
    let mut unmapped: Vec<(String, usize)> = tally.unmapped.into_iter().collect();
    unmapped.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let named = |rejected: backfill::Rejected| RejectedLine { path: files[rejected.source].path.clone(), line: rejected.line, issue: rejected.issue };
    let mut summary = Summary {
        files: files.len(),
        received: tally.received,
        dispositions: tally.dispositions,
        unmapped,
        rejected: tally.rejected.into_iter().map(named).collect(),
        ..Summary::default()
    };
    for (source, FileRead { hash, passed }) in files.iter().zip(read?) {
        summary.hashes.push(hash);
        match passed {
            None => continue,
            Some(Passed::Known) => summary.files_known += 1,
            Some(Passed::NotFhir) => summary.files_not_fhir.push(source.path.clone()),
        }
        (beside.watch)(Step::Taken { bytes: source.bytes, is_end: true });
    }
    summary.taking = started.elapsed();
    let judging = Instant::now();
    summary.judged = backfill::judge_all(pipeline, beside)?;
    summary.judging = judging.elapsed();
    Ok(summary)
}

/// A file that was read.
struct FileRead {
    hash: String,
    passed: Option<Passed>,
}

/// Why nothing of a file was taken.
enum Passed {
    /// It was, before.
    Known,
    NotFhir,
}

fn read_files(
    store: &Store,
    site: &str,
    files: &[Source],
    is_stopped: &(dyn Fn() -> bool + Sync),
    blocks: &mut Blocks<'_>,
) -> Result<Vec<FileRead>, ImportError> {
    let mut read = Vec::new();
    for (index, source) in files.iter().enumerate() {
        let at = |error| match is_stopped() {
            true => ImportError::Stopped,
            false => ImportError::File { path: source.path.clone(), error },
        };
        let (hash, length) = hash_of(Content::open(&source.path).map_err(at)?, is_stopped).map_err(at)?;
        let before = store.read_blocking(|tx| imports::progress(tx, site, &hash))?.unwrap_or_default();
        if before.finished_ms.is_some() {
            read.push(FileRead { hash, passed: Some(Passed::Known) });
            continue;
        }
        let mut content = Content::open(&source.path).map_err(at)?;
        let from = backfill::Source {
            index,
            place: Place::File { hash: hash.clone(), bytes: source.bytes },
            bytes_done: before.bytes_done,
            lines_done: before.lines_done,
            hash_so_far: None,
            is_cut_where_a_line_is: false,
        };
        let cut = match Form::of(&source.path) {
            Some(Form::Lines) => {
                content.skip(u64::try_from(from.bytes_done).unwrap_or(0)).map_err(at)?;
                Some(blocks.lines(from, content).map_err(at)?)
            }
            Some(Form::Document) | None => {
                read_document(content, source.is_named).map_err(at)?.map(|document| blocks.document(from, document, length))
            }
        };
        read.push(FileRead { hash, passed: cut.is_none().then_some(Passed::NotFhir) });
        if cut == Some(Cut::Stopped) {
            break;
        }
    }
    Ok(read)
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

/// Reads a file that is one document, a byte more than may be taken at most; `None` where it is neither FHIR nor HL7 v2 and
/// nobody said that it is.
fn read_document(content: Content, is_named: bool) -> std::io::Result<Option<Vec<u8>>> {
    let mut document = Vec::new();
    content.take(LONGEST_BYTES as u64 + 1).read_to_end(&mut document)?;
    let is_ours =
        is_named || LONGEST_BYTES < document.len() || memchr::memmem::find(&document, b"\"resourceType\"").is_some() || hl7::is_message(&document);
    Ok(is_ours.then_some(document))
}
