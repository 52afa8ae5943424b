//! Bulk Data: an export is asked for, waited for and taken file by file, then asked for again with what changed since. Which
//! job is under way stands in the feed's cursor, and how far each file was taken beside what was taken from it, so that a
//! gateway that was stopped or killed goes on with the same job in the same line. What is exported once more than needed
//! (an overlap, a new export for one whose files were gone) comes as duplicates; nothing is passed over.

mod download;
mod files;
mod job;
pub mod kick_off;
pub mod manifest;
mod showing;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::job::Job;
use self::kick_off::{Export, Level, Method};
use self::manifest::{Content, Outcomes};
pub(super) use self::showing::show;
use super::comparison::{self, Asked, Mode, Showing};
use super::{Round, Trouble, Work, no_site};
use crate::clinical::fact::ResourceType;
use crate::ehr::Ehr;
use crate::mapping::{self, Site};
use crate::pipeline::backfill::{self, Beside, Step};
use crate::store::{StoreError, downloads, feeds};

/// What is asked for, and how often.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub level: Level,
    /// Id of the Group whose patients are exported, on level group.
    #[serde(default)]
    pub group: Option<String>,
    /// Types that are asked for; none means those that the site's mapping reads.
    #[serde(default)]
    pub types: Vec<String>,
    /// Searches that narrow a type, such as `Observation?category=laboratory`.
    #[serde(default)]
    pub type_filters: Vec<String>,
    #[serde(default)]
    pub method: Method,
    /// From the end of one export to the start of the next.
    #[serde(default = "every")]
    pub every_hours: u32,
    /// What changed so long before the last export is asked for again: longest time from the stamp of a change at the source
    /// until an export holds it, and what the clocks may differ.
    #[serde(default = "overlap")]
    pub overlap_seconds: u32,
    /// Everything is asked for again so often, whatever its change: a Group's new members bring results of years ago.
    #[serde(default)]
    pub whole_every_days: Option<u32>,
    /// Each so many days everything that the source exports is compared with what is here; without it, by hand alone.
    #[serde(default)]
    pub compare_every_days: Option<u32>,
    /// Whether files may come before all are ready (STU3).
    #[serde(default)]
    pub partial_manifests: bool,
    /// Longest time between two looks at an export under way, whatever the server asks for.
    #[serde(default = "poll_at_most")]
    pub poll_at_most_seconds: u32,
    /// An export that is not ready after so long is given up and asked for again.
    #[serde(default = "give_up")]
    pub give_up_hours: u32,
    /// Whether an export counts as whole though the server told errors, or counted otherwise than its files hold. They are told
    /// all the same.
    #[serde(default)]
    pub accepts_gaps: bool,
}

fn every() -> u32 {
    24
}

/// As for polling.
fn overlap() -> u32 {
    300
}

fn poll_at_most() -> u32 {
    600
}

fn give_up() -> u32 {
    24
}

impl Settings {
    fn export<'a>(&'a self, types: &'a [String], since: Option<&'a str>) -> Export<'a> {
        Export {
            level: self.level,
            group: self.group.as_deref().unwrap_or_default(),
            types,
            type_filters: &self.type_filters,
            since,
            is_partial_welcome: self.partial_manifests,
        }
    }

    /// The types that are asked for.
    fn types(&self, site: &Site) -> Vec<String> {
        if !self.types.is_empty() {
            return self.types.clone();
        }
        let read = ResourceType::FHIR.into_iter().filter(|kind| mapping::is_read(site, kind.word()));
        read.map(|kind| kind.word().to_owned()).collect()
    }
}

/// Compares what an export of everything shows with what is here.
pub(super) async fn compare(mut work: Work<'_>, ehr: &Ehr, settings: &Settings, mode: Mode, who: &str) -> Result<Round, Trouble> {
    let types = settings.types(work.pipeline.catalogue.sites.get(work.site).ok_or_else(no_site)?);
    // What is not in the Group is not gone.
    let is_of_all = settings.level != Level::Group && settings.type_filters.is_empty();
    let asked = Asked { ehr, showing: Showing::Export { settings, types: &types, is_of_all }, mode };
    let report = comparison::run(&mut work, asked, who).await?;
    Ok(Round { report, stage: None, ..work.round })
}

/// What an export is at, for whoever shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The server prepares it, and has said how far it is.
    Preparing {
        percent: Option<u8>,
    },
    /// So many of these files are taken whole, and so many bytes in all.
    Taking {
        files_done: usize,
        files: usize,
        bytes: u64,
    },
    Judging {
        subjects: usize,
    },
}

/// How far the exports have come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Cursor {
    /// What was asked for; exports of another question begin anew.
    question: String,
    /// All that had changed by then is here, ms since 1970 UTC.
    until_ms: Option<i64>,
    /// When an export of everything was last asked for.
    whole_ms: Option<i64>,
    /// The export under way.
    job: Option<Job>,
}

/// Exports that are asked for in one round while the files of each are gone before they were taken.
const EXPORTS_MAX: usize = 3;

/// One export from its start, or from where it was left, to its last file.
pub(super) async fn round(mut work: Work<'_>, ehr: &Ehr, settings: &Settings, cursor: &str) -> Result<Round, Trouble> {
    let types = settings.types(work.pipeline.catalogue.sites.get(work.site).ok_or_else(no_site)?);
    let question = settings.export(&types, None).question();
    // A cursor that cannot be read is one of an older form: everything is exported once more.
    let mut cursor: Cursor = serde_json::from_str(cursor).unwrap_or_default();
    if cursor.question != question {
        if let Some(job) = cursor.job.take() {
            job.end(ehr).await;
        }
        cursor = Cursor { question, ..Cursor::default() };
    }
    for _ in 0..EXPORTS_MAX {
        if cursor.job.is_none() {
            cursor.job = Some(begin(&work, ehr, settings, &types, &cursor).await?);
            keep(&work, &cursor, true).await?;
        }
        match job::follow(&mut work, ehr, settings, &mut cursor).await? {
            job::Ended::Whole(outcomes) => return conclude(work, ehr, settings, cursor, &outcomes).await,
            job::Ended::Gone => {
                tracing::warn!(site = work.site, feed = work.feed, "an export was gone before all of it was taken; it is asked for again");
                drop_job(&work, ehr, &mut cursor).await?;
            }
        }
    }
    let words = format!("{EXPORTS_MAX} exports in a row were gone before all their files were taken");
    Err(Trouble::Later { words, after_ms: None })
}

/// Asks for an export of what changed since the last one, or of everything.
async fn begin(work: &Work<'_>, ehr: &Ehr, settings: &Settings, types: &[String], cursor: &Cursor) -> Result<Job, Trouble> {
    let asked_ms = work.now_ms();
    let whole_after_ms = settings.whole_every_days.map(|days| i64::from(days) * 86_400_000);
    let is_whole_due = whole_after_ms.is_some_and(|after_ms| cursor.whole_ms.is_none_or(|whole_ms| after_ms <= asked_ms - whole_ms));
    let since_ms = cursor.until_ms.filter(|_| !is_whole_due).map(|until_ms| until_ms - i64::from(settings.overlap_seconds) * 1_000);
    let since = since_ms.and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok()).map(|instant| instant.to_string());
    let status_url = job::start(ehr, settings.method, &settings.export(types, since.as_deref())).await?;
    Ok(Job::new(status_url, asked_ms, since.is_none()))
}

/// Keeps the cursor, and that nothing was taken of a new job's files.
async fn keep(work: &Work<'_>, cursor: &Cursor, is_new: bool) -> Result<(), Trouble> {
    let text = serde_json::to_string(cursor).map_err(|error| StoreError::Broken(error.to_string()))?;
    let (lease, site, feed) = (work.lease.clone(), work.site.to_owned(), work.feed.to_owned());
    let keeping = work.pipeline.store.write(move |tx| {
        let is_ours = feeds::advance(tx, &lease, &text)?;
        if is_ours && is_new {
            downloads::forget_all(tx, &site, &feed)?;
        }
        Ok(is_ours)
    });
    if keeping.await? { Ok(()) } else { Err(Trouble::TakenOver) }
}

/// Gives the job up; what was taken of it stays.
async fn drop_job(work: &Work<'_>, ehr: &Ehr, cursor: &mut Cursor) -> Result<(), Trouble> {
    if let Some(job) = cursor.job.take() {
        keep(work, cursor, true).await?;
        job.end(ehr).await;
    }
    Ok(())
}

/// Every file was taken: says how far all is here, and what the server told beside.
async fn conclude(mut work: Work<'_>, ehr: &Ehr, settings: &Settings, mut cursor: Cursor, outcomes: &Outcomes) -> Result<Round, Trouble> {
    let job = cursor.job.clone().expect("a job that ended is under way");
    let miscounted = miscounted(&work, &job).await?;
    if !outcomes.is_empty() {
        tracing::warn!(site = work.site, feed = work.feed, "the EHR told of its export: {}", outcomes.words());
    }
    let mut gaps = Vec::new();
    if outcomes.errors() != 0 {
        gaps.push(format!("the EHR could not export everything: {}", outcomes.words()));
    }
    if miscounted != 0 {
        gaps.push(format!("{miscounted} files hold another number of resources than the manifest says"));
    }
    if gaps.is_empty() || settings.accepts_gaps {
        // A server may stamp its export later than it reads: what changed after it was asked for need not be in it.
        let until_ms = job.transaction_ms().map_or(job.asked_ms, |transaction_ms| transaction_ms.min(job.asked_ms));
        cursor.until_ms = Some(until_ms);
        cursor.whole_ms = if job.is_of_everything { Some(job.asked_ms) } else { cursor.whole_ms };
        work.round.complete_until_ms = Some(until_ms);
    }
    drop_job(&work, ehr, &mut cursor).await?;
    judge(&mut work, job.is_of_everything).await?;
    work.round.remark = (!gaps.is_empty()).then(|| gaps.join("; "));
    work.round.next_in_ms = i64::from(settings.every_hours) * 3_600_000;
    Ok(work.round)
}

/// Files that hold another number of resources than their manifest says.
async fn miscounted(work: &Work<'_>, job: &Job) -> Result<usize, Trouble> {
    let counted: Vec<(String, u64)> = job
        .files()
        .into_iter()
        .filter(|file| file.file.content == Content::Resources)
        .filter_map(|file| file.file.count.map(|count| (file.key, count)))
        .collect();
    let (site, feed) = (work.site.to_owned(), work.feed.to_owned());
    let counting = work.pipeline.store.read(move |tx| {
        let mut miscounted = 0;
        for (file, count) in &counted {
            let taken = downloads::find(tx, downloads::Key { site: &site, feed: &feed, file })?;
            miscounted += usize::from(taken.is_none_or(|taken| u64::try_from(taken.resources_done) != Ok(*count)));
        }
        Ok(miscounted)
    });
    Ok(counting.await?)
}

/// Judges whoever was touched, and tells of it.
async fn judge(work: &mut Work<'_>, is_backfill: bool) -> Result<(), Trouble> {
    let (pipeline, began_ms, since) = (work.pipeline.clone(), work.began_ms, work.since);
    let (send, mut steps) = tokio::sync::mpsc::unbounded_channel();
    let judging = tokio::task::spawn_blocking(move || {
        let now_ms = || began_ms + i64::try_from(since.elapsed().as_millis()).unwrap_or_default();
        let watch = |step| {
            // Whoever showed it may be gone.
            let _ = send.send(step);
        };
        let beside = Beside { now_ms: &now_ms, is_stopped: &|| false, watch: &watch };
        backfill::equipped(&pipeline.store, is_backfill, || backfill::judge_all(&pipeline, beside))
    });
    let mut all = 0;
    while let Some(step) = steps.recv().await {
        if let Step::Judged { subjects } = step {
            all += subjects;
            work.round.stage = Some(Stage::Judging { subjects: all });
            (work.watch)(&work.round);
        }
    }
    judging.await.map_err(|_| StoreError::Retry("a feed failed while it was judging".into()))??;
    Ok(())
}

/// Waits from 1 s, doubling, up to a limit; for what is tried again within a round.
fn pause(failures: u32, most: Duration) -> Duration {
    Duration::from_secs(1 << failures.min(16)).min(most)
}
