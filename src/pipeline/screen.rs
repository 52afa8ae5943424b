//! One-shot screening of FHIR files, without a store: the same pure floors as the gateway, over whole files at once.
//!
//! [`gather`] reads files in pieces on all cores and keeps the facts that may concern the study; [`Gathered::judge`]
//! folds and judges each subject and gives out the answers in order of subject id, whatever the number of cores.
//! What is not read: lines that cannot concern the study (`concern`), and so their faults are not looked for either.
//! A file is taken to hold one state of each resource, as bulk exports do.

mod concern;
mod fact_log;
pub(super) mod files;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread;

use compact_str::CompactString;

use crate::clinical::date::AsOf;
use crate::clinical::fact::{Fact, ResourceType};
use crate::fhir::alike::Patterns;
use crate::fhir::references::References;
use crate::fhir::{RawResource, bundle, view};
use crate::issue::{Code, Disposition};
use crate::mapping::{self, Normalised, Site, observation, patient};
use crate::rules::{self, Screened};
use crate::study::Study;
use concern::{Concern, Handling};
use fact_log::{FactLog, Place};
use files::{InputFile, Layout};

/// A file or folder that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}")]
pub struct FileError {
    pub path: PathBuf,
    pub source: io::Error,
}

/// What happened to the resources of the files; every one of `read` is in exactly one of the other counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub read: u64,
    /// Gave a fact that may decide.
    pub used: u64,
    /// Kept as a fact that may not decide (a unit that is not known), by issue code.
    pub quarantined: BTreeMap<&'static str, u64>,
    /// Not FHIR, not JSON, not this type, by issue code.
    pub rejected: BTreeMap<&'static str, u64>,
    /// Of a type or with a code that this study does not judge by, by type.
    pub passed_over: BTreeMap<String, u64>,
    /// Observations whose code the site mapping does not name, `system|code`; they are also in another count.
    pub unmapped_codes: BTreeMap<String, u64>,
}

/// All facts of the files that may concern one study.
pub struct Gathered {
    pub counts: Counts,
    pub files: usize,
    pub bytes: u64,
    /// Subjects of results for whom no Patient was in the files; they are not listed.
    pub subjects_without_patient: usize,
    logs: Vec<FactLog>,
    /// Who is listed, in order of id, with the logs that hold their facts.
    subjects: Vec<SubjectPlaces>,
}

/// What one worker brings: facts, whose they are, and counts.
type OfWorker = (FactLog, Vec<(CompactString, Place)>, Tally);

/// Reads files and folders. `progress` is told how many bytes of how many have been read.
pub fn gather(site: &Site, study: &Study, paths: &[PathBuf], progress: &(dyn Fn(u64, u64) + Sync)) -> Result<Gathered, FileError> {
    let files = files::find(paths).map_err(|(path, source)| FileError { path, source })?;
    let bytes = files.iter().map(|file| file.bytes).sum();
    let pieces = files::pieces(&files);
    let concern = Concern::of(study, site);
    let next = AtomicUsize::new(0);
    let work = || {
        let mut worker = Worker { site, concern: &concern, patterns: Patterns::default(), log: FactLog::default(), tally: Tally::default() };
        let mut buffer = Vec::new();
        while let Some(piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
            let file = &files[piece.file];
            let lines = files::read(file, *piece, &mut buffer).map_err(|source| FileError { path: file.path.clone(), source })?;
            worker.take(file, &buffer[lines]);
            progress(piece.end - piece.start, bytes);
        }
        let subjects = worker.log.take_subjects();
        Ok((worker.log, subjects, worker.tally))
    };
    let results: Vec<Result<OfWorker, FileError>> = thread::scope(|scope| {
        let workers: Vec<_> = (0..worker_count().min(pieces.len().max(1))).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(|worker| worker.join().expect("a worker that reads files does not panic")).collect()
    });
    let mut counts = Counts::default();
    let mut logs = Vec::new();
    let mut subjects = Vec::new();
    for result in results {
        let (log, of_log, tally) = result?;
        tally.add_to(&mut counts, site);
        logs.push(log);
        subjects.push(of_log);
    }
    let (subjects, subjects_without_patient) = merge(subjects);
    Ok(Gathered { counts, files: files.len(), bytes, subjects_without_patient, logs, subjects })
}

fn worker_count() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// A subject and where its facts lie: the log's number and the place in it.
type SubjectPlaces = (CompactString, Vec<(u32, Place)>);

/// Brings the subjects of all logs together, sorted by id as each of them is; those without a Patient are only counted.
fn merge(logs: Vec<Vec<(CompactString, Place)>>) -> (Vec<SubjectPlaces>, usize) {
    let numbered = logs.into_iter().enumerate().map(|(log, subjects)| (log as u32, subjects));
    let mut places: Vec<(CompactString, u32, Place)> =
        numbered.flat_map(|(log, subjects)| subjects.into_iter().map(move |(subject, place)| (subject, log, place))).collect();
    // Stable, since that finds the sorted runs and only merges them; the logs stay in their order.
    places.sort_by(|a, b| a.0.cmp(&b.0));
    let mut subjects = Vec::with_capacity(places.len());
    let mut without_patient = 0;
    for of_one in places.chunk_by_mut(|a, b| a.0 == b.0) {
        if of_one.iter().any(|(_, _, place)| place.has_patient) {
            subjects.push((std::mem::take(&mut of_one[0].0), of_one.iter().map(|(_, log, place)| (*log, *place)).collect()));
        } else {
            without_patient += 1;
        }
    }
    (subjects, without_patient)
}

/// Counts of one worker, without a heap block for what was counted before.
#[derive(Default)]
struct Tally {
    read: u64,
    used: u64,
    quarantined: BTreeMap<&'static str, u64>,
    rejected: BTreeMap<&'static str, u64>,
    passed_over: BTreeMap<String, u64>,
    unmapped: HashMap<String, u64>,
    /// Codes of Observations passed over, `system|code`; whether they are mapped is asked once, at the end.
    codes_passed_over: HashMap<Vec<u8>, u64>,
    scratch: Vec<u8>,
}

impl Tally {
    fn add_to(self, counts: &mut Counts, site: &Site) {
        counts.read += self.read;
        counts.used += self.used;
        for (into, from) in [(&mut counts.quarantined, self.quarantined), (&mut counts.rejected, self.rejected)] {
            for (code, count) in from {
                *into.entry(code).or_default() += count;
            }
        }
        for (kind, count) in self.passed_over {
            *counts.passed_over.entry(kind).or_default() += count;
        }
        for (code, count) in self.unmapped {
            *counts.unmapped_codes.entry(code).or_default() += count;
        }
        for (code, count) in self.codes_passed_over {
            let code = String::from_utf8_lossy(&code).into_owned();
            let (system, bare) = code.rsplit_once('|').unwrap_or(("", &code));
            if !site.names_code(system, bare) {
                *counts.unmapped_codes.entry(code).or_default() += count;
            }
        }
    }

    fn pass_over(&mut self, kind: &str, code: Option<concern::Code<'_>>) {
        match self.passed_over.get_mut(kind) {
            Some(count) => *count += 1,
            None => {
                self.passed_over.insert(kind.to_owned(), 1);
            }
        }
        let Some(code) = code else { return };
        self.scratch.clear();
        self.scratch.extend_from_slice(code.system);
        self.scratch.push(b'|');
        self.scratch.extend_from_slice(code.code);
        match self.codes_passed_over.get_mut(&self.scratch) {
            Some(count) => *count += 1,
            None => {
                self.codes_passed_over.insert(self.scratch.clone(), 1);
            }
        }
    }
}

struct Worker<'a> {
    site: &'a Site,
    concern: &'a Concern,
    patterns: Patterns<Form<'a>>,
    log: FactLog,
    tally: Tally,
}

/// What the lines of one pattern have in common.
enum Form<'a> {
    Observation(Box<observation::Form<'a>>),
    Patient(patient::Form),
}

impl Worker<'_> {
    fn take(&mut self, file: &InputFile, bytes: &[u8]) {
        match file.layout {
            Layout::Document => self.read_document(bytes),
            Layout::Lines => {
                let concern = self.concern;
                concern.sort(bytes, |line, handling| match handling {
                    Handling::Read => self.read_line(line),
                    Handling::PassOver(kind, code) => {
                        self.tally.read += 1;
                        self.tally.pass_over(kind, code);
                    }
                });
            }
        }
    }

    /// Takes a file that is one document. One that names no resourceType is none of FHIR's, such as the manifest beside
    /// a bulk export, and is left alone.
    fn read_document(&mut self, bytes: &[u8]) {
        if memchr::memmem::find(bytes, b"\"resourceType\"").is_some() {
            self.read(bytes);
        }
    }

    /// Takes one resource, by a short way where it looks like one before it.
    fn read_line(&mut self, line: &[u8]) {
        if let Some((values, form)) = self.patterns.read(line) {
            let (kind, normalised) = match form {
                Form::Observation(form) => (ResourceType::Observation, form.normalise(self.site, &values)),
                Form::Patient(form) => (ResourceType::Patient, form.normalise(&values)),
            };
            self.tally.read += 1;
            return self.keep(kind.word(), normalised);
        }
        self.read(line);
        self.learn(line);
    }

    /// Remembers a line that was read the long way, where others may look like it.
    fn learn(&mut self, line: &[u8]) {
        let Ok(resource) = RawResource::parse(line) else { return };
        let form = match resource.resource_type {
            "Observation" => view::observation(&resource)
                .ok()
                .and_then(|view| observation::Form::of(self.site, &view).ok())
                .map(|form| Form::Observation(Box::new(form))),
            "Patient" => view::patient(&resource).ok().and_then(|view| patient::Form::of(self.site, &view).ok()).map(Form::Patient),
            _ => None,
        };
        if let Some(form) = form {
            self.patterns.learn(&resource, form);
        }
    }

    /// Takes one resource by the gateway's own way: gate, view, mapping. A Bundle gives its entries.
    fn read(&mut self, bytes: &[u8]) {
        match RawResource::parse(bytes) {
            Err(issue) => self.reject(issue.code),
            Ok(resource) if resource.resource_type == "Bundle" => match bundle::split(bytes) {
                Err(issue) => self.reject(issue.code),
                Ok(bundle) => {
                    let references = References::of(&bundle);
                    for entry in &bundle.entries {
                        match entry {
                            Err(issue) => self.reject(issue.code),
                            Ok(entry) => entry.resource.into_iter().for_each(|resource| self.read_in(&references, resource)),
                        }
                    }
                }
            },
            Ok(resource) => self.take_one(&References::default(), &resource),
        }
    }

    /// Takes one entry of a Bundle; a Bundle in a Bundle has references of its own.
    fn read_in(&mut self, references: &References, bytes: &[u8]) {
        match RawResource::parse(bytes) {
            Ok(resource) if resource.resource_type != "Bundle" => self.take_one(references, &resource),
            Ok(_) | Err(_) => self.read(bytes),
        }
    }

    fn take_one(&mut self, references: &References, resource: &RawResource<'_>) {
        self.tally.read += 1;
        let normalised = mapping::normalise_in(self.site, resource, references);
        self.keep(resource.resource_type, normalised);
    }

    fn reject(&mut self, code: Code) {
        self.tally.read += 1;
        *self.tally.rejected.entry(code.word()).or_default() += 1;
    }

    fn keep(&mut self, kind: &str, normalised: Normalised) {
        let Normalised { subject, fact, issues, disposition, code } = normalised;
        let cause = issues.iter().map(|issue| issue.code).find(|code| code.effect() != crate::issue::Effect::Warn);
        match disposition {
            Disposition::Quarantined => {
                let cause = cause.unwrap_or(Code::Internal);
                *self.tally.quarantined.entry(cause.word()).or_default() += 1;
                if let (Code::CodeUnmapped, Some(code)) = (cause, code) {
                    *self.tally.unmapped.entry(code).or_default() += 1;
                }
            }
            Disposition::Rejected => *self.tally.rejected.entry(cause.unwrap_or(Code::Internal).word()).or_default() += 1,
            Disposition::OutOfScope | Disposition::Echo | Disposition::Duplicate | Disposition::Superseded => {
                self.tally.pass_over(kind, None);
            }
            Disposition::Applied => self.tally.used += 1,
        }
        if let (Some(subject), Some(fact)) = (subject, fact) {
            self.log.append(&subject, &fact);
        }
    }
}

/// Subjects that one core judges before it hands the answers on.
const BATCH: usize = 256;

impl Gathered {
    pub fn subject_count(&self) -> usize {
        self.subjects.len()
    }

    /// Length in characters of the longest subject id.
    pub fn longest_subject(&self) -> usize {
        self.subjects.iter().map(|(subject, _)| subject.chars().count()).max().unwrap_or(0)
    }

    /// Judges every subject on all cores. `render` writes one answer; `write` gets the answers in order of subject id.
    pub fn judge(
        &self,
        site: &Site,
        study: &Study,
        as_of: AsOf,
        render: &(dyn Fn(&str, &Screened, &mut Vec<u8>) + Sync),
        write: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let batches: Vec<_> = self.subjects.chunks(BATCH).collect();
        let next = AtomicUsize::new(0);
        let is_stopped = AtomicBool::new(false);
        let (sender, receiver) = sync_channel::<(usize, Vec<u8>)>(4 * worker_count());
        let work = |sender: std::sync::mpsc::SyncSender<(usize, Vec<u8>)>| {
            let mut facts: Vec<Fact> = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(batch) = batches.get(index).filter(|_| !is_stopped.load(Ordering::Relaxed)) else { break };
                let mut answers = Vec::new();
                for (subject, places) in *batch {
                    for (log, place) in places {
                        self.logs[*log as usize].read(*place, &mut facts);
                    }
                    let chart = site.chart(std::mem::take(&mut facts));
                    render(subject, &rules::screen(study, &chart, as_of), &mut answers);
                }
                if sender.send((index, answers)).is_err() {
                    break;
                }
            }
        };
        thread::scope(|scope| {
            for _ in 0..worker_count() {
                let sender = sender.clone();
                scope.spawn(|| work(sender));
            }
            drop(sender);
            let mut waiting = BTreeMap::new();
            let mut due = 0;
            let mut result = Ok(());
            for (index, answers) in receiver {
                waiting.insert(index, answers);
                while let Some(answers) = waiting.remove(&due) {
                    due += 1;
                    if result.is_ok() {
                        result = write(&answers);
                        if result.is_err() {
                            is_stopped.store(true, Ordering::Relaxed);
                        }
                    }
                }
            }
            result
        })
    }
}
