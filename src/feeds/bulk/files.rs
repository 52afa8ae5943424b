//! The files of an export: fetched one after the other while what came before is prepared and committed, again from where
//! one broke off, each once.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::mpsc;

use super::download::{self, Opened, Stop};
use super::job::Named;
use super::manifest::{Content, Outcomes};
use super::{Stage, pause};
use crate::ehr::{Ehr, EhrError};
use crate::feeds::{Trouble, Work, no_site};
use crate::issue::Disposition;
use crate::pipeline::backfill::{self, BackfillError, Beside, Step, Taking, Tally};
use crate::store::downloads::{self, Download};
use crate::store::{Store, StoreError};

/// Attempts in a row that bring nothing, after which the round ends.
const ATTEMPTS_MAX: u32 = 5;
/// HAPI FHIR sends a file as it is for this, and wrapped into a Binary for FHIR's JSON.
pub const NDJSON: &str = "application/fhir+ndjson";

/// How fetching ended.
pub enum Fetched {
    All,
    /// A file is not there any more; whether something was taken before that showed.
    Gone {
        has_taken: bool,
    },
}

/// How one attempt ended before the last file.
enum Broken {
    /// Another attempt may bring more.
    Off {
        words: String,
        after_ms: Option<i64>,
    },
    Changed {
        key: String,
    },
    Gone,
    Person {
        words: String,
    },
}

/// Takes every file of resources that is not taken yet, with pauses of at most so long between attempts.
pub async fn take(work: &mut Work<'_>, ehr: &Ehr, named: &[Named], is_backfill: bool, most: Duration) -> Result<Fetched, Trouble> {
    let named: Vec<&Named> = named.iter().filter(|named| named.file.content != Content::Outcomes).collect();
    let mut failures = 0;
    let mut known = standing(work, &named).await?;
    let at_first = known.clone();
    loop {
        let numbered = named.iter().enumerate().map(|(index, named)| (index + 1, *named));
        let left: Vec<(usize, &Named)> = numbered.filter(|(_, named)| !is_whole(&known, named)).collect();
        if left.is_empty() {
            return Ok(Fetched::All);
        }
        let broken = attempt(work, ehr, &Left { files: &left, known: &known, of: named.len(), is_backfill }).await?;
        let before = std::mem::replace(&mut known, standing(work, &named).await?);
        let after_ms = match broken {
            None => continue,
            Some(Broken::Gone) => return Ok(Fetched::Gone { has_taken: known != at_first }),
            Some(Broken::Person { words }) => return Err(Trouble::Person { words }),
            Some(Broken::Changed { key }) => {
                failures += 1;
                if failures == ATTEMPTS_MAX {
                    let words = "a file of the export is another one each time that it is fetched".to_owned();
                    return Err(Trouble::Later { words, after_ms: None });
                }
                tracing::warn!(site = work.site, feed = work.feed, "a file of the export is not what it was; it is taken from its start");
                forget(&work.pipeline.store, work.site, work.feed, key.clone()).await?;
                known.remove(&key);
                continue;
            }
            Some(Broken::Off { words, after_ms }) => {
                failures = if known == before { failures + 1 } else { 1 };
                if failures == ATTEMPTS_MAX {
                    return Err(Trouble::Later { words, after_ms });
                }
                after_ms
            }
        };
        let asked = after_ms.and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis);
        tokio::time::sleep(asked.unwrap_or(pause(failures - 1, most)).min(most)).await;
    }
}

/// How far each file was taken, by its name in the store.
async fn standing(work: &Work<'_>, named: &[&Named]) -> Result<BTreeMap<String, Download>, StoreError> {
    let keys: Vec<String> = named.iter().map(|named| named.key.clone()).collect();
    let (site, feed) = (work.site.to_owned(), work.feed.to_owned());
    let reading = work.pipeline.store.read(move |tx| {
        let mut known = BTreeMap::new();
        for file in keys {
            if let Some(download) = downloads::find(tx, downloads::Key { site: &site, feed: &feed, file: &file })? {
                known.insert(file, download);
            }
        }
        Ok(known)
    });
    reading.await
}

async fn forget(store: &Store, site: &str, feed: &str, file: String) -> Result<(), StoreError> {
    let (site, feed) = (site.to_owned(), feed.to_owned());
    store.write(move |tx| downloads::forget(tx, downloads::Key { site: &site, feed: &feed, file: &file })).await
}

fn is_whole(known: &BTreeMap<String, Download>, named: &Named) -> bool {
    known.get(&named.key).is_some_and(|download| download.is_finished)
}

/// What is left to be taken.
struct Left<'a> {
    /// With the number of each among all, from 1.
    files: &'a [(usize, &'a Named)],
    known: &'a BTreeMap<String, Download>,
    /// How many files there are in all.
    of: usize,
    is_backfill: bool,
}

/// Fetches and takes files until one of them breaks off; what came is durable when this returns.
async fn attempt(work: &mut Work<'_>, ehr: &Ehr, left: &Left<'_>) -> Result<Option<Broken>, Trouble> {
    let (send_opened, opened) = mpsc::channel(1);
    let (send_step, mut steps) = mpsc::unbounded_channel();
    let (pipeline, site, feed, began_ms, since) = (work.pipeline.clone(), work.site.to_owned(), work.feed.to_owned(), work.began_ms, work.since);
    let is_backfill = left.is_backfill;
    let taking = tokio::task::spawn_blocking(move || {
        let site = pipeline.catalogue.sites.get(&site).ok_or_else(no_site)?;
        let now_ms = || began_ms + i64::try_from(since.elapsed().as_millis()).unwrap_or_default();
        let watch = |step| {
            // Whoever showed it may be gone.
            let _ = send_step.send(step);
        };
        let beside = Beside { now_ms: &now_ms, is_stopped: &|| false, watch: &watch };
        let taking = Taking { pipeline: &pipeline, site, feed: &feed, beside };
        backfill::equipped(&pipeline.store, is_backfill, || backfill::take(taking, |blocks| download::read_all(blocks, opened)))
    });
    let (files, mut files_done) = (left.of, left.of - left.files.len());
    let mut bytes = if let Some(Stage::Taking { bytes, .. }) = work.round.stage { bytes } else { 0 };
    let showing = async {
        while let Some(step) = steps.recv().await {
            if let Step::Taken { bytes: more, is_end } = step {
                files_done += usize::from(is_end);
                bytes += more;
                work.round.stage = Some(Stage::Taking { files_done, files, bytes });
                (work.watch)(&work.round);
            }
        }
    };
    let (fetched, taken, ()) = tokio::join!(fetch(ehr, left, send_opened), taking, showing);
    let taken = taken.map_err(|_| StoreError::Retry("a feed failed while it was taking a file".into()))?;
    let (tally, stopped) = taken.map_err(|error| match error {
        BackfillError::Store(error) => Trouble::Store(error),
        BackfillError::Stopped => Trouble::Stopped,
    })?;
    count(work, &tally);
    let broken = match stopped {
        // The committer's own error came first.
        Some((_, Stop::Store)) => None,
        Some((index, Stop::Changed)) => Some(Broken::Changed { key: left.files[index].1.key.clone() }),
        Some((index, Stop::NotNdjson(fault))) => Some(Broken::Person { words: format!("{}: {fault}", called(left.files[index], files)) }),
        Some((index, Stop::Broken)) => {
            let words = format!("{} broke off", called(left.files[index], files));
            let after_ms = if let Err((_, EhrError::Retry { after_ms, .. })) = &fetched { *after_ms } else { None };
            Some(Broken::Off { words, after_ms })
        }
        None => fetched.err().map(|(index, error)| refused(&called(left.files[index], files), ehr, left.files[index].1, error)),
    };
    Ok(broken)
}

/// Opens one file after the other and hands it on; ends early at the first that does not come whole.
async fn fetch(ehr: &Ehr, left: &Left<'_>, opened: mpsc::Sender<Opened>) -> Result<(), (usize, EhrError)> {
    for (index, (_, named)) in left.files.iter().enumerate() {
        let stream = ehr.open_stream(&named.file.url, NDJSON, with_token(ehr, named)).await.map_err(|error| (index, error))?;
        let (send, pieces) = download::channel();
        let file = Opened {
            index,
            file: named.key.clone(),
            content: named.file.content,
            resource_type: named.file.resource_type.clone(),
            before: left.known.get(&named.key).cloned(),
            pieces,
        };
        if opened.send(file).await.is_err() {
            // The reader has stopped, and says why.
            return Ok(());
        }
        download::pump(stream, send).await.map_err(|error| (index, error))?;
    }
    Ok(())
}

/// Our token goes to the EHR's own server, unless the manifest says that files are open to who knows their address.
pub fn with_token(ehr: &Ehr, named: &Named) -> bool {
    named.requires_access_token != Some(false) && ehr.is_own(&named.file.url)
}

/// A file in words without its address, which may let in whoever reads it.
pub fn called((number, named): (usize, &Named), files: usize) -> String {
    let what = match named.file.content {
        Content::Resources => named.file.resource_type.as_deref().filter(|word| crate::fhir::is_type(word)).unwrap_or("resources"),
        Content::Deleted => "deleted resources",
        Content::Outcomes => "messages",
    };
    format!("file {number} of {files} of the export ({what})")
}

/// Why a file could not be opened.
fn refused(called: &str, ehr: &Ehr, named: &Named, error: EhrError) -> Broken {
    let is_open = !with_token(ehr, named);
    match error {
        EhrError::Absent { .. } => Broken::Gone,
        // The address alone lets in, and does not any more.
        EhrError::Unauthorized { .. } | EhrError::Refused { status: 403, .. } if is_open && named.requires_access_token == Some(false) => {
            Broken::Gone
        }
        EhrError::Unauthorized { status, .. } | EhrError::Refused { status: status @ 403, .. } if is_open => Broken::Person {
            words: format!("{called} is on another server than the FHIR base and wants our token, which goes nowhere else: {status}"),
        },
        EhrError::Retry { after_ms, .. } => Broken::Off { words: format!("{called}: {error}"), after_ms },
        EhrError::Unknown | EhrError::Conflict { .. } => Broken::Off { words: format!("{called}: {error}"), after_ms: None },
        EhrError::Refused { .. } | EhrError::Unsupported { .. } | EhrError::Unauthorized { .. } => {
            Broken::Person { words: format!("{called}: {error}") }
        }
    }
}

/// Adds what was taken to what the round came to.
fn count(work: &mut Work<'_>, tally: &Tally) {
    work.round.shown += tally.received;
    work.round.taken += tally.received - tally.ended(Disposition::Duplicate);
    work.round.rejected += tally.ended(Disposition::Rejected);
    work.round.quarantined += tally.ended(Disposition::Quarantined);
    work.round.withdrawn += tally.withdrawn;
    (work.watch)(&work.round);
}

/// Reads what the server told beside its files. A file of messages that cannot be had counts as one that cannot be read.
pub async fn outcomes(work: &Work<'_>, ehr: &Ehr, named: &[Named]) -> Result<Outcomes, Trouble> {
    let mut outcomes = Outcomes::default();
    for named in named.iter().filter(|named| named.file.content == Content::Outcomes) {
        let Ok(stream) = ehr.open_stream(&named.file.url, NDJSON, with_token(ehr, named)).await else {
            outcomes.unreadable += 1;
            continue;
        };
        let (send, pieces) = download::channel();
        let reading = tokio::task::spawn_blocking(move || {
            let is_read = download::read_outcomes(pieces, &mut outcomes).is_ok();
            (outcomes, is_read)
        });
        let (pumped, read) = tokio::join!(download::pump(stream, send), reading);
        let is_read;
        (outcomes, is_read) = read.map_err(|_| StoreError::Retry("a feed failed while it was reading messages".into()))?;
        outcomes.unreadable += usize::from(!is_read || pumped.is_err());
    }
    if outcomes.unreadable != 0 {
        tracing::warn!(site = work.site, feed = work.feed, unreadable = outcomes.unreadable, "messages about an export could not be read");
    }
    Ok(outcomes)
}
