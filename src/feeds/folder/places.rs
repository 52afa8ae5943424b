//! Where files lie while and after they are taken: `.taking`, `done` and `failed` inside the folder, so that a move is a
//! rename. Nothing is ever overwritten: a name that is taken gets a number. Knows nothing of FHIR.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Serialize;

use crate::digest::sha256_hex;
use crate::pipeline::notify::uuid;
use crate::store::imports::Outcome;

const TAKING: &str = ".taking";
const DONE: &str = "done";
const FAILED: &str = "failed";
const REPORT: &str = ".outcome.json";

/// Longest name that leaves room for a number and for what is said beside it, of the 255 bytes that file systems give.
const NAME_MAX: usize = 220;

pub(super) struct Places {
    folder: PathBuf,
}

/// Where a file ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// `is_repeated` when the same bytes had come before, so that nothing was to be taken.
    Done {
        is_repeated: bool,
    },
    Failed(Reason),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Reason {
    Unreadable,
    BrokenArchive,
    NotFhir,
    AllRejected,
}

impl Reason {
    const fn meaning(self) -> &'static str {
        match self {
            Reason::Unreadable => "the gateway may not read this file; give it the right to, and put the file back into the folder",
            Reason::BrokenArchive => "this is no whole gzip file; nothing of it was taken",
            Reason::NotFhir => "this is no FHIR: it names no resourceType; nothing of it was taken",
            Reason::AllRejected => "every line of this file was rejected; mend it and put it back into the folder",
        }
    }
}

/// What is said beside a file: counts and codes, never a value of a patient.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Reason>,
    meaning: &'static str,
    site: String,
    feed: String,
    ended: String,
    /// Of the content, unpacked.
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    #[serde(flatten)]
    outcome: Outcome,
}

impl Report {
    pub(super) fn new(site: &str, feed: &str, ended_ms: i64) -> Report {
        let ended = jiff::Timestamp::from_millisecond(ended_ms).map_or_else(|_| String::new(), |at| at.to_string());
        Report {
            state: "",
            reason: None,
            meaning: "",
            site: site.to_owned(),
            feed: feed.to_owned(),
            ended,
            sha256: None,
            outcome: Outcome::default(),
        }
    }

    pub(super) fn of_content(self, sha256: &str, outcome: Outcome) -> Report {
        Report { sha256: Some(sha256.to_owned()), outcome, ..self }
    }

    fn ending(self, end: End) -> Report {
        let (state, reason, meaning) = match end {
            End::Done { is_repeated: false } => ("done", None, "every line was taken, or is named here with the reason why not"),
            End::Done { is_repeated: true } => ("done", None, "the same bytes had been taken before, and counted then; nothing was to be taken"),
            End::Failed(reason) => ("failed", Some(reason), reason.meaning()),
        };
        Report { state, reason, meaning, ..self }
    }
}

impl Places {
    /// The folder itself must be there: one that is missing may be a share that is away.
    pub(super) fn open(folder: &Path) -> io::Result<Places> {
        fs::read_dir(folder)?;
        for place in [TAKING, DONE, FAILED] {
            let path = folder.join(place);
            match fs::create_dir(&path) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => {}
                Err(error) if error.kind() == ErrorKind::AlreadyExists => return Err(ErrorKind::NotADirectory.into()),
                Err(error) => return Err(error),
                Ok(()) => {}
            }
        }
        Ok(Places { folder: folder.to_owned() })
    }

    /// Names of all that lies in the folder.
    pub(super) fn in_folder(&self) -> io::Result<Vec<OsString>> {
        names(&self.folder)
    }

    /// Files that were claimed and not ended, in order of their names.
    pub(super) fn in_taking(&self) -> io::Result<Vec<OsString>> {
        let mut names = names(&self.folder.join(TAKING))?;
        names.sort();
        Ok(names)
    }

    /// What lies in the folder under this name; links are not followed.
    pub(super) fn look_at(&self, name: &OsStr) -> io::Result<Metadata> {
        fs::symlink_metadata(self.folder.join(name))
    }

    pub(super) fn taking(&self, name: &OsStr) -> PathBuf {
        self.folder.join(TAKING).join(name)
    }

    /// Makes a file ours; `None` when it is gone.
    pub(super) fn claim(&self, name: &OsStr) -> io::Result<Option<OsString>> {
        let claimed = free_name(&self.folder.join(TAKING), name)?;
        match fs::rename(self.folder.join(name), self.taking(&claimed)) {
            Ok(()) => Ok(Some(claimed)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Moves a file that is ours to where it ends. What is said about it lies there first.
    pub(super) fn finish(&self, name: &OsStr, end: End, report: Report) -> io::Result<()> {
        let place = self.folder.join(match end {
            End::Done { .. } => DONE,
            End::Failed(_) => FAILED,
        });
        let ended = free_name(&place, name)?;
        let report = serde_json::to_vec_pretty(&report.ending(end)).expect("counts and words are plain data");
        let unfinished = place.join(format!(".{}.part", uuid()));
        let mut file = File::create(&unfinished)?;
        if let Err(error) = file.write_all(&report).and_then(|()| file.write_all(b"\n")).and_then(|()| file.sync_all()) {
            // On a full disk half of it would lie there after each try.
            let _ = fs::remove_file(&unfinished);
            return Err(error);
        }
        let said = place.join(beside(&ended, OsStr::new(REPORT)));
        fs::rename(&unfinished, &said)?;
        match fs::rename(self.taking(name), place.join(&ended)) {
            // A gateway that works on the feed by now was quicker; what it said stands.
            Err(error) if error.kind() == ErrorKind::NotFound => match fs::symlink_metadata(place.join(&ended)) {
                Err(error) if error.kind() == ErrorKind::NotFound => fs::remove_file(&said),
                ended => ended.map(drop),
            },
            moved => moved,
        }
    }

    /// Files in `failed` that a person has not cleared away.
    pub(super) fn failed_count(&self) -> io::Result<usize> {
        let names = names(&self.folder.join(FAILED))?;
        Ok(names.iter().filter(|name| !is_report(name) && !name.to_string_lossy().starts_with('.')).count())
    }

    /// Deletes from `done` what ended before then, with what is said about it.
    pub(super) fn sweep_done(&self, before: SystemTime) -> io::Result<()> {
        let done = self.folder.join(DONE);
        for name in names(&done)? {
            let Some(of) = name.to_str().and_then(|name| name.strip_suffix(REPORT)) else { continue };
            let report = done.join(&name);
            if before <= fs::symlink_metadata(&report)?.modified()? {
                continue;
            }
            match fs::remove_file(done.join(of)) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => fs::remove_file(&report)?,
            }
        }
        Ok(())
    }
}

/// Whether a file is what we say about another.
pub(super) fn is_report(name: &OsStr) -> bool {
    name.to_string_lossy().to_ascii_lowercase().ends_with(REPORT)
}

fn names(folder: &Path) -> io::Result<Vec<OsString>> {
    fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.file_name())).collect()
}

fn beside(name: &OsStr, more: &OsStr) -> OsString {
    let mut whole = name.to_owned();
    whole.push(more);
    whole
}

/// The name, or the first numbered one that nothing has; the ending stays, since it says how a file is read. Only who has
/// the feed's lease gives names here.
fn free_name(place: &Path, name: &OsStr) -> io::Result<OsString> {
    let whole = name.to_string_lossy();
    // `results.ndjson.gz` ends in `.ndjson.gz`.
    let packed = if whole.to_ascii_lowercase().ends_with(".gz") { whole.len() - 3 } else { whole.len() };
    let (stem, ending) = whole.split_at(whole[..packed].rfind('.').filter(|place| 0 < *place).unwrap_or(packed));
    // What is no text, or leaves no room, gets a name made from it.
    let is_fit = whole.len() <= NAME_MAX && name.to_str().is_some();
    let stem = if is_fit { stem.to_owned() } else { sha256_hex(name.as_encoded_bytes())[..32].to_owned() };
    for number in 1..100_000 {
        let candidate = match number {
            1 if is_fit => name.to_owned(),
            1 => OsString::from(format!("{stem}{ending}")),
            number => OsString::from(format!("{stem}.{number}{ending}")),
        };
        match fs::symlink_metadata(place.join(&candidate)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(candidate),
            Err(error) => return Err(error),
            Ok(_) => {}
        }
    }
    Err(ErrorKind::AlreadyExists.into())
}
