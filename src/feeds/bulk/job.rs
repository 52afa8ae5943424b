//! One export at the server: started, looked at until it is ready, and ended; its manifests page by page.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::files::{self, Fetched};
use super::kick_off::{Export, Method};
use super::manifest::{self, Content, File, Manifest, Outcomes};
use super::{Cursor, Settings, Stage, drop_job, keep, pause};
use crate::digest::sha256_hex;
use crate::ehr::{Ehr, EhrError};
use crate::feeds::{Trouble, Work};

/// An export under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Where it is asked about.
    status_url: String,
    /// By our clock, ms since 1970 UTC.
    pub asked_ms: i64,
    /// Without `_since`.
    pub is_of_everything: bool,
    /// Its manifests that were read.
    pages: Vec<Page>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Page {
    url: String,
    manifest: Manifest,
    /// The server will name no more files than are there, and behind `next`.
    is_final: bool,
}

/// One file of an export.
#[derive(Clone, Debug)]
pub struct Named {
    /// Its name in the store: by its place in the export, since its address may be renewed.
    pub key: String,
    pub file: File,
    pub requires_access_token: Option<bool>,
}

/// How an export ended.
pub enum Ended {
    /// Every file was taken; what the server told beside.
    Whole(Outcomes),
    /// The job or a file of it is not there any more.
    Gone,
}

/// Failures in a row after which the round ends and the feed's own rhythm goes on.
const FAILURES_MAX: u32 = 5;
/// Longest pause between two of them.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Shortest time between two looks, whatever the server asks for.
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// Starts an export; answers where it is asked about.
pub async fn start(ehr: &Ehr, method: Method, export: &Export<'_>) -> Result<String, Trouble> {
    let headers = |more: &[(&str, &str)]| -> Vec<(String, String)> {
        let accept = ("accept", "application/fhir+json");
        [accept].iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    if method != Method::Post {
        match ehr.kick_off("GET", &export.by_get(), &headers(&[]), "").await {
            Ok(status_url) => return Ok(status_url),
            Err(EhrError::Refused { status: 405, .. } | EhrError::Unsupported { .. }) if method == Method::Either => {}
            Err(error) => return Err(refused(error)),
        }
    }
    let (url, body) = export.by_post();
    ehr.kick_off("POST", &url, &headers(&[("content-type", "application/fhir+json")]), &body).await.map_err(refused)
}

/// Why an export was not started.
fn refused(error: EhrError) -> Trouble {
    match error {
        EhrError::Absent { status } => {
            Trouble::Person { words: format!("the EHR has no such export: {status}; check level and group, and whether it offers Bulk Data") }
        }
        EhrError::Unsupported { status } => {
            Trouble::Person { words: format!("the EHR does not export what is asked for: {status}; check level, types and type_filters") }
        }
        EhrError::Refused { status, outcome } => Trouble::Person { words: format!("the EHR refused to start an export: {status} {outcome}") },
        // Asking twice makes two exports, of which one is left to the server.
        error @ (EhrError::Retry { .. } | EhrError::Unknown | EhrError::Conflict { .. } | EhrError::Unauthorized { .. }) => error.into(),
    }
}

impl Job {
    pub fn new(status_url: String, asked_ms: i64, is_of_everything: bool) -> Job {
        Job { status_url, asked_ms, is_of_everything, pages: Vec::new() }
    }

    /// Tells the server that it may forget the export. It may refuse; it forgets by itself later.
    pub async fn end(&self, ehr: &Ehr) {
        if let Err(error) = ehr.ask("DELETE", &self.status_url, &[], "").await {
            tracing::debug!(%error, "the EHR was told that an export is done with, and did not take it");
        }
    }

    /// Its files in the order in which they are taken: page by page, and what was deleted behind what stands.
    pub fn files(&self) -> Vec<Named> {
        let mut files: Vec<Named> = Vec::new();
        for (number, page) in self.pages.iter().enumerate() {
            // A manifest that is not the last word may name more files of each kind later.
            let mut places: BTreeMap<(Content, &str), usize> = BTreeMap::new();
            for file in &page.manifest.files {
                let of = file.resource_type.as_deref().unwrap_or_default();
                let place = places.entry((file.content, of)).or_default();
                let key = sha256_hex(format!("{} {number} {:?} {of} {place}", self.status_url, file.content).as_bytes());
                *place += 1;
                files.push(Named { key, file: file.clone(), requires_access_token: page.manifest.requires_access_token });
            }
        }
        files.sort_by_key(|named| named.file.content);
        files
    }

    pub fn transaction_ms(&self) -> Option<i64> {
        self.pages.iter().map(|page| page.manifest.transaction_ms).min()
    }

    /// Where the next manifest stands, or the newest one again; `None` when all are here.
    fn next_look(&self) -> Option<(usize, &str)> {
        match self.pages.last() {
            None => Some((0, &self.status_url)),
            Some(page) => match &page.manifest.next {
                Some(next) => Some((self.pages.len(), next)),
                None if page.is_final => None,
                None => Some((self.pages.len() - 1, &page.url)),
            },
        }
    }
}

/// Follows the export that is under way to its end, taking files as they are there.
pub(super) async fn follow(work: &mut Work<'_>, ehr: &Ehr, settings: &Settings, cursor: &mut Cursor) -> Result<Ended, Trouble> {
    let most = longest_pause(settings);
    let mut is_renewed = false;
    let is_just_asked = cursor.job.as_ref().is_some_and(|job| work.now_ms() - job.asked_ms < 1_000);
    let mut wait = is_just_asked.then_some(PAUSE_MIN);
    loop {
        let job = cursor.job.as_ref().expect("an export is under way");
        let named = job.files();
        match files::take(work, ehr, &named, job.is_of_everything, most).await? {
            Fetched::All => {}
            // Where something came since, its address ran out once more.
            Fetched::Gone { has_taken: false } if is_renewed => return Ok(Ended::Gone),
            Fetched::Gone { .. } => {
                // The manifest may name it elsewhere by now.
                is_renewed = true;
                if !renew(work, ehr, cursor).await? {
                    return Ok(Ended::Gone);
                }
                continue;
            }
        }
        let job = cursor.job.as_mut().expect("an export is under way");
        match next_manifest(work, ehr, settings, job, &mut wait).await? {
            None => return Ok(Ended::Whole(files::outcomes(work, ehr, &named).await?)),
            Some(Looked::Read) => keep(work, cursor, false).await?,
            Some(Looked::Gone) => return Ok(Ended::Gone),
            Some(Looked::Failed(trouble)) => {
                drop_job(work, ehr, cursor).await?;
                return Err(trouble);
            }
        }
    }
}

/// Waits until every manifest of an export is there, where its files are read only then.
pub(super) async fn wait_for_all(work: &mut Work<'_>, ehr: &Ehr, settings: &Settings, job: &mut Job) -> Result<(), Trouble> {
    let mut wait = Some(PAUSE_MIN);
    while let Some(looked) = next_manifest(work, ehr, settings, job, &mut wait).await? {
        match looked {
            Looked::Read => {}
            Looked::Gone => return Err(Trouble::Later { words: "an export was gone before it was ready".to_owned(), after_ms: None }),
            Looked::Failed(trouble) => return Err(trouble),
        }
    }
    Ok(())
}

/// What a look for the next manifest came to.
enum Looked {
    /// It stands in the job now.
    Read,
    Gone,
    /// The export will never be ready.
    Failed(Trouble),
}

/// Reads the next manifest into the job, or the newest one anew where it was not the last word; `None` when all are here.
/// `wait` says how long the server wants to be left alone before.
async fn next_manifest(
    work: &mut Work<'_>,
    ehr: &Ehr,
    settings: &Settings,
    job: &mut Job,
    wait: &mut Option<Duration>,
) -> Result<Option<Looked>, Trouble> {
    let most = longest_pause(settings);
    let Some((page, url)) = job.next_look() else { return Ok(None) };
    let url = url.to_owned();
    if job.pages[..page].iter().any(|before| before.url == url) {
        return Err(Trouble::Person { words: "the export's manifests lead back to one another".to_owned() });
    }
    if let Some(wait) = wait.take() {
        tokio::time::sleep(wait.clamp(PAUSE_MIN, most)).await;
    }
    Ok(Some(match look(work, ehr, job, Question { url: &url, page, most, give_up_hours: settings.give_up_hours }).await? {
        Look::Page { page: read, after_ms } => {
            // Where the server still works on it, it is asked again in its own time.
            *wait = (!read.is_final && read.manifest.next.is_none()).then(|| duration(after_ms).unwrap_or(PAUSE_MIN));
            job.pages.truncate(page);
            job.pages.push(read);
            Looked::Read
        }
        Look::Gone => Looked::Gone,
        Look::Failed(trouble) => Looked::Failed(trouble),
    }))
}

fn longest_pause(settings: &Settings) -> Duration {
    Duration::from_secs(u64::from(settings.poll_at_most_seconds)).max(PAUSE_MIN)
}

/// What is looked at, and how long.
struct Question<'a> {
    url: &'a str,
    /// Its number among the manifests.
    page: usize,
    /// Longest time between two looks.
    most: Duration,
    give_up_hours: u32,
}

enum Look {
    Page {
        page: Page,
        after_ms: Option<i64>,
    },
    Gone,
    /// The export will never be ready.
    Failed(Trouble),
}

/// Asks about the export until there is a manifest that was not there before.
async fn look(work: &mut Work<'_>, ehr: &Ehr, job: &Job, question: Question<'_>) -> Result<Look, Trouble> {
    let Question { url, page, most, give_up_hours } = question;
    let give_up_ms = job.asked_ms + i64::from(give_up_hours) * 3_600_000;
    let (mut failures, mut looks) = (0, 0);
    loop {
        if give_up_ms < work.now_ms() {
            let words = format!("the EHR did not finish an export within {give_up_hours} h; it was given up");
            return Ok(Look::Failed(Trouble::Later { words, after_ms: None }));
        }
        let accept = [("accept".to_owned(), "application/json".to_owned())];
        let (wait, trouble) = match ehr.ask("GET", url, &accept, "").await {
            Ok(answer) if answer.status == 200 && !answer.body.trim().is_empty() => match manifest::read(&answer.body) {
                Ok(manifest) => return Ok(Look::Page { page: Page { url: url.to_owned(), manifest, is_final: true }, after_ms: None }),
                Err(fault) => (None, Some(Trouble::Later { words: fault.to_string(), after_ms: None })),
            },
            Ok(answer) if answer.status == 202 => {
                // Part of a manifest may come along; it grows by files or by a link.
                let manifest = manifest::read(&answer.body).ok();
                let known = job.pages.get(page).map(|page| &page.manifest);
                if let Some(manifest) = manifest.filter(|manifest| known != Some(manifest)) {
                    let page = Page { url: url.to_owned(), manifest, is_final: false };
                    return Ok(Look::Page { page, after_ms: answer.retry_after_ms });
                }
                work.round.stage = Some(Stage::Preparing { percent: answer.progress.as_deref().and_then(percent) });
                (work.watch)(&work.round);
                (answer.retry_after_ms, None)
            }
            // HAPI FHIR answers so while it has no report yet.
            Ok(_) => (None, Some(Trouble::Later { words: "the EHR tells nothing about an export".to_owned(), after_ms: None })),
            Err(EhrError::Absent { .. }) => return Ok(Look::Gone),
            Err(EhrError::Retry { status: Some(500), .. }) if failures == FAILURES_MAX => {
                let words = "the EHR failed to make an export: 500; it is asked for again".to_owned();
                return Ok(Look::Failed(Trouble::Later { words, after_ms: None }));
            }
            Err(error @ EhrError::Retry { after_ms, .. }) => (after_ms, Some(error.into())),
            Err(error @ (EhrError::Unknown | EhrError::Unauthorized { .. } | EhrError::Refused { status: 0 | 403, .. })) => return Err(error.into()),
            Err(error @ (EhrError::Conflict { .. } | EhrError::Refused { .. } | EhrError::Unsupported { .. })) => {
                return Ok(Look::Failed(Trouble::Later { words: format!("the EHR failed to make an export: {error}"), after_ms: None }));
            }
        };
        match trouble {
            None => failures = 0,
            Some(trouble) if failures == FAILURES_MAX => return Err(trouble),
            Some(_) => failures += 1,
        }
        let alone = if failures == 0 { pause(looks, most) } else { pause(failures - 1, PAUSE_MAX) };
        tokio::time::sleep(duration(wait).unwrap_or(alone).clamp(PAUSE_MIN, most)).await;
        looks += 1;
    }
}

fn duration(ms: Option<i64>) -> Option<Duration> {
    ms.and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis)
}

/// Reads the manifests again, since addresses of files may be renewed; `false` where they are gone, or name other files.
async fn renew(work: &Work<'_>, ehr: &Ehr, cursor: &mut Cursor) -> Result<bool, Trouble> {
    let job = cursor.job.as_mut().expect("an export is under way");
    let mut is_renewed = false;
    for page in &mut job.pages {
        let accept = [("accept".to_owned(), "application/json".to_owned())];
        let manifest = match ehr.ask("GET", &page.url, &accept, "").await {
            Ok(answer) => manifest::read(&answer.body).ok(),
            Err(EhrError::Absent { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let names_the_same = |renewed: &Manifest| {
            let what = |file: &File| (file.content, file.resource_type.clone(), file.count);
            renewed.transaction_ms == page.manifest.transaction_ms && renewed.files.iter().map(what).eq(page.manifest.files.iter().map(what))
        };
        let Some(renewed) = manifest.filter(names_the_same) else { return Ok(false) };
        is_renewed |= renewed.files != page.manifest.files;
        page.manifest.files = renewed.files;
    }
    if is_renewed {
        keep(work, cursor, false).await?;
    }
    Ok(is_renewed)
}

/// A percentage in what a server says of its progress; the rest of its words are not shown.
fn percent(progress: &str) -> Option<u8> {
    let before = progress.split_once('%')?.0.trim_end();
    let digits = before.rsplit(|c: char| !c.is_ascii_digit() && c != '.').next()?;
    digits.split('.').next()?.parse().ok().filter(|percent| *percent <= 100)
}
