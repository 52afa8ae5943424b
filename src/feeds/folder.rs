//! A folder that a hospital writes files into: NDJSON, single resources and Bundles. Whoever writes puts a file beside its
//! place (a name that begins with a dot or ends in `.part`) and renames it when it is whole; a file that is written in place
//! is taken when its size and time have stood still. It is claimed by a rename into `.taking`, taken by the machinery of
//! imports, and ends in `done` or `failed` with a word about it beside it. Wherever that breaks off, the file lies in
//! `.taking` and goes on from there at the next round; what was taken of it counts once.
//!
//! The folder is looked at every few seconds: that works on network shares, which tell nobody of changes. Names of files are
//! in no log and no answer, since people put patients' names into them.

mod places;

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde::Deserialize;

use super::{Round, Trouble, Work};
use crate::issue::Disposition;
use crate::pipeline::Pipeline;
use crate::pipeline::backfill::Beside;
use crate::pipeline::import::{self, Form, ImportError, Source};
use crate::store::StoreError;
use crate::store::imports;
use places::{End, Places, Reason, Report};

/// Which folder, and how it is watched.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub dir: PathBuf,
    #[serde(default = "every")]
    pub every_seconds: u32,
    /// A file is taken when its size and time have stood still for so long.
    #[serde(default = "settle")]
    pub settle_seconds: u32,
    /// What was taken is deleted from `done` after so many days; kept where nothing is said.
    #[serde(default)]
    pub keep_done_days: Option<u32>,
    /// Endings of files that lie there and are not for us, such as `md5`.
    #[serde(default)]
    pub ignore: Vec<String>,
}

fn every() -> u32 {
    5
}

fn settle() -> u32 {
    2
}

/// Endings under which programs write what is not whole yet.
const UNFINISHED: [&str; 10] = [".tmp", ".temp", ".part", ".partial", ".filepart", ".crdownload", ".download", ".writing", ".swp", "~"];

/// What the clocks of a file server and of this machine may differ by: a file that was last written longer ago than that,
/// and than it is to stand still, is whole at the first look.
const CLOCKS_MS: i64 = 60_000;

/// How often `done` is looked through for what is older than it is kept.
const SWEEP_EVERY_MS: i64 = 3_600_000;

/// What one gateway remembers of a folder between two looks.
#[derive(Debug, Default)]
pub struct Watched {
    sightings: HashMap<OsString, Sighting>,
    swept_ms: Option<i64>,
}

/// How a file looked, and since when it looks so.
#[derive(Debug, PartialEq, Eq)]
struct Sighting {
    form: (u64, Option<SystemTime>),
    since_ms: i64,
}

/// One look at a folder, and all that is there to be taken. Blocking.
pub fn round(pipeline: &Pipeline, site: &str, feed: &str, settings: &Settings, watched: &mut Watched, beside: Beside<'_>) -> Result<Round, Trouble> {
    let began_ms = (beside.now_ms)();
    let places = Places::open(&settings.dir).map_err(|error| of_folder(&error))?;
    let mut taking = Taking { pipeline, site, feed, beside, places: &places, round: Round::default(), waiting: 0, trouble: None };
    for name in places.in_taking().map_err(|error| of_folder(&error))? {
        taking.take(&name, true)?;
    }
    let found = look(&places, settings, watched, began_ms).map_err(|error| of_folder(&error))?;
    for name in &found.ready {
        // One that is gone was taken back, or by somebody else.
        if let Some(claimed) = places.claim(name).map_err(|error| of_folder(&error))? {
            taking.take(&claimed, false)?;
        }
    }
    if let Some(days) = settings.keep_done_days
        && watched.swept_ms.is_none_or(|swept_ms| swept_ms + SWEEP_EVERY_MS <= began_ms)
    {
        let age = Duration::from_secs(u64::from(days) * 86_400);
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(began_ms).unwrap_or_default());
        match now.checked_sub(age).map_or(Ok(()), |before| places.sweep_done(before)) {
            Ok(()) => watched.swept_ms = Some(began_ms),
            Err(error) => tracing::warn!(site, feed, error = %error.kind(), "what was taken from a folder long ago could not be deleted"),
        }
    }
    let (waiting, trouble, round) = (taking.waiting + found.waiting, taking.trouble, taking.round);
    if let Some(trouble) = trouble {
        return Err(trouble);
    }
    let failed = places.failed_count().map_err(|error| of_folder(&error))?;
    let is_all_here = waiting == 0 && failed == 0 && found.others == 0;
    Ok(Round {
        complete_until_ms: is_all_here.then_some(began_ms),
        next_in_ms: i64::from(settings.every_seconds) * 1_000,
        remark: remark(failed, found.others),
        ..round
    })
}

/// What only a person can clear up.
fn remark(failed: usize, others: usize) -> Option<String> {
    let failed = (failed != 0).then(|| format!("files in failed: {failed}; what is beside each says why; mend it and put it back, or take it away"));
    let others = (others != 0).then(|| format!("links, devices and files of another kind in the folder: {others}; they are not taken"));
    match (failed, others) {
        (Some(failed), Some(others)) => Some(format!("{failed}; {others}")),
        (failed, others) => failed.or(others),
    }
}

/// The round on a thread that may block; it ends soon after nobody waits for it any more.
pub(super) async fn go(work: Work<'_>, settings: &Settings, watched: &Arc<Mutex<Watched>>) -> Result<Round, Trouble> {
    struct StopsWhenDropped(Arc<AtomicBool>);
    impl Drop for StopsWhenDropped {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let stop = StopsWhenDropped(Arc::new(AtomicBool::new(false)));
    let is_stopped = stop.0.clone();
    let (pipeline, site, feed) = (work.pipeline.clone(), work.site.to_owned(), work.feed.to_owned());
    let (settings, watched, began_ms, since) = (settings.clone(), watched.clone(), work.began_ms, work.since);
    let going = tokio::task::spawn_blocking(move || {
        let now_ms = || began_ms + i64::try_from(since.elapsed().as_millis()).unwrap_or_default();
        let beside = Beside { now_ms: &now_ms, is_stopped: &|| is_stopped.load(Ordering::Relaxed), watch: &|_| {} };
        // A round that was left alone holds this until it has ended.
        let mut watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
        round(&pipeline, &site, &feed, &settings, &mut watched, beside)
    });
    let round = going.await.map_err(|_| StoreError::Retry("a feed failed while it was taking files".into()))??;
    (work.watch)(&round);
    Ok(round)
}

/// What lies in the folder.
#[derive(Debug, Default)]
struct Found {
    /// In order of their names.
    ready: Vec<OsString>,
    /// Ours, and perhaps not whole yet.
    waiting: usize,
    /// Neither ours nor known to be none of ours.
    others: usize,
}

fn look(places: &Places, settings: &Settings, watched: &mut Watched, now_ms: i64) -> io::Result<Found> {
    let mut found = Found::default();
    let mut seen = HashMap::new();
    for name in places.in_folder()? {
        if is_unfinished(&name) || is_ignored(&name, &settings.ignore) {
            continue;
        }
        let metadata = match places.look_at(&name) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if metadata.is_dir() {
            continue;
        }
        if !metadata.is_file() || !is_taken(&name) {
            found.others += 1;
            continue;
        }
        let form = form_of(&metadata);
        let since_ms = match watched.sightings.remove(&name) {
            Some(before) if before.form == form => before.since_ms,
            Some(_) | None => now_ms,
        };
        let settle_ms = i64::from(settings.settle_seconds) * 1_000;
        let is_old = form.1.is_some_and(|modified| milliseconds(modified) + settle_ms + CLOCKS_MS <= now_ms);
        if is_old || since_ms + settle_ms <= now_ms {
            found.ready.push(name);
        } else {
            found.waiting += 1;
            seen.insert(name, Sighting { form, since_ms });
        }
    }
    watched.sightings = seen;
    found.ready.sort();
    Ok(found)
}

fn milliseconds(at: SystemTime) -> i64 {
    at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

fn form_of(metadata: &Metadata) -> (u64, Option<SystemTime>) {
    (metadata.len(), metadata.modified().ok())
}

fn is_unfinished(name: &OsStr) -> bool {
    let name = name.to_string_lossy().to_ascii_lowercase();
    name.starts_with('.') || UNFINISHED.iter().any(|ending| name.ends_with(ending))
}

fn is_ignored(name: &OsStr, endings: &[String]) -> bool {
    Path::new(name).extension().is_some_and(|extension| endings.iter().any(|ending| extension.eq_ignore_ascii_case(ending)))
}

/// Whether a file of this name is one that is taken; what we say about a file is none.
fn is_taken(name: &OsStr) -> bool {
    Form::of(Path::new(name)).is_some() && !places::is_report(name)
}

/// One round's work on files that are ours.
struct Taking<'a> {
    pipeline: &'a Pipeline,
    site: &'a str,
    feed: &'a str,
    beside: Beside<'a>,
    places: &'a Places,
    round: Round,
    waiting: usize,
    /// The first file that could not be taken now; the others go on.
    trouble: Option<Trouble>,
}

impl Taking<'_> {
    /// Takes a file in `.taking`; `is_resumed` when it lay there before.
    fn take(&mut self, name: &OsStr, is_resumed: bool) -> Result<(), Trouble> {
        if (self.beside.is_stopped)() {
            return Err(Trouble::Stopped);
        }
        let path = self.places.taking(name);
        let Ok(before) = std::fs::symlink_metadata(&path) else { return Ok(()) };
        if !before.is_file() {
            return Ok(());
        }
        let site = self.pipeline.catalogue.sites.get(self.site).ok_or_else(super::no_site)?;
        let source = Source { path: path.clone(), bytes: before.len(), is_named: false };
        let imported = import::import(self.pipeline, site, self.feed, &[source], self.beside);
        // A writer who was not done after all writes on in `.taking`: the rest comes with the next round.
        match std::fs::symlink_metadata(&path) {
            Ok(after) if form_of(&after) == form_of(&before) => {}
            Ok(_) => {
                self.waiting += 1;
                return Ok(());
            }
            Err(_) => return Ok(()),
        }
        let report = Report::new(self.site, self.feed, (self.beside.now_ms)());
        match imported {
            Ok(summary) if summary.files_not_fhir.is_empty() => {
                let hash = summary.hashes.into_iter().next().unwrap_or_default();
                let progress = self.pipeline.store.read_blocking(|tx| imports::progress(tx, self.site, &hash))?.unwrap_or_default();
                let is_repeated = summary.files_known != 0 && !is_resumed;
                if !is_repeated {
                    self.count(&progress.outcome);
                }
                let is_refused = progress.outcome.received != 0 && progress.outcome.count(Disposition::Rejected) == progress.outcome.received;
                let end = if is_refused { End::Failed(Reason::AllRejected) } else { End::Done { is_repeated } };
                self.finish(name, end, report.of_content(&hash, progress.outcome));
                if is_refused {
                    self.pipeline.store.write_blocking(|tx| imports::forget(tx, self.site, &hash))?;
                }
            }
            Ok(_) => self.finish(name, End::Failed(Reason::NotFhir), report),
            Err(ImportError::Store(error)) => return Err(error.into()),
            Err(ImportError::Stopped) => return Err(Trouble::Stopped),
            Err(ImportError::File { error, .. }) => match error.kind() {
                ErrorKind::NotFound => {}
                ErrorKind::PermissionDenied => self.finish(name, End::Failed(Reason::Unreadable), report),
                // Only what is packed can be so.
                ErrorKind::InvalidData | ErrorKind::InvalidInput | ErrorKind::UnexpectedEof => {
                    self.finish(name, End::Failed(Reason::BrokenArchive), report);
                }
                kind => self.note(Trouble::Later { words: format!("a file in the folder cannot be read now: {kind}"), after_ms: None }),
            },
        }
        Ok(())
    }

    fn count(&mut self, outcome: &imports::Outcome) {
        let count = |disposition| usize::try_from(outcome.count(disposition)).unwrap_or(usize::MAX);
        let received = usize::try_from(outcome.received).unwrap_or(usize::MAX);
        self.round.shown += received;
        self.round.taken += received - count(Disposition::Duplicate);
        self.round.rejected += count(Disposition::Rejected);
        self.round.quarantined += count(Disposition::Quarantined);
    }

    /// Moves a file to where it ends. One that cannot be moved stays in `.taking`, and is found known at the next round.
    fn finish(&mut self, name: &OsStr, end: End, report: Report) {
        if let Err(error) = self.places.finish(name, end, report) {
            self.note(of_folder(&error));
        }
    }

    fn note(&mut self, trouble: Trouble) {
        self.trouble.get_or_insert(trouble);
    }
}

/// What helps against trouble with the folder itself. The kind of error says it; its text could name a file.
fn of_folder(error: &io::Error) -> Trouble {
    let words = format!("the folder cannot be used: {}", error.kind());
    match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::NotADirectory | ErrorKind::ReadOnlyFilesystem | ErrorKind::CrossesDevices => {
            Trouble::Person { words }
        }
        // A share that is away comes back, and a full disk is cleared.
        _ => Trouble::Later { words, after_ms: None },
    }
}
