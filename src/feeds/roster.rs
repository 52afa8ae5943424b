//! A source that answers only about one patient at a time (Epic's Observation search is one) is asked about each patient of a
//! roster in turn, those longest ago first. The roster has a freshness of its own; who is known here and not on it is counted
//! as unseen, because nothing is asked about them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::Deserialize;

use super::poll::{Question, Reading, Settings as Poll};
use super::{Trouble, Work};
use crate::ehr::pages::Trail;
use crate::ehr::{Ehr, EhrError};
use crate::fhir::is_id;
use crate::fhir::patients::named_by;
use crate::store::StoreError;
use crate::store::rosters::{self, Listed};

/// Where the patients come from; all that are named are joined.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Ids of Groups at the source whose members are asked about.
    pub groups: Vec<String>,
    /// Searches at the source whose results name patients, such as today's appointments or a ward's encounters.
    pub searches: Vec<Listing>,
    /// File with one Patient id a line; lines that begin with `#` are comments.
    pub file: Option<PathBuf>,
    /// Everybody known here already, as from an admission feed.
    pub known: bool,
    #[serde(default = "refresh")]
    pub refresh_minutes: u32,
    /// Patients asked about in one round, so that a long list is seen to move.
    #[serde(default = "patients_per_round")]
    pub patients_per_round: u32,
}

/// A search whose results name patients.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listing {
    #[serde(rename = "type")]
    pub resource_type: String,
    #[serde(default)]
    pub query: BTreeMap<String, String>,
}

fn refresh() -> u32 {
    60
}

fn patients_per_round() -> u32 {
    500
}

/// Asks about the patients whose turn it is; answers up to when everything about everybody listed is here.
pub(super) async fn sweep(work: &mut Work<'_>, ehr: &Ehr, poll: &Poll, settings: &Settings) -> Result<Option<i64>, Trouble> {
    let store = work.pipeline.store.clone();
    let (site, feed) = (work.site.to_owned(), work.feed.to_owned());
    let standing = store.read(move |tx| rosters::standing(tx, &site, &feed)).await?;
    if standing.listed_ms.is_none_or(|listed_ms| listed_ms + i64::from(settings.refresh_minutes) * 60_000 <= work.began_ms) {
        let subjects = list(work, ehr, settings).await?;
        let (site, feed, now_ms) = (work.site.to_owned(), work.feed.to_owned(), work.began_ms);
        store.write(move |tx| rosters::replace(tx, &site, &feed, &subjects, now_ms)).await?;
    }
    let (site, feed) = (work.site.to_owned(), work.feed.to_owned());
    let (before_ms, limit) = (work.began_ms, settings.patients_per_round as usize);
    let due = store.read(move |tx| rosters::next(tx, &site, &feed, before_ms, limit)).await?;
    let (mut told, mut refusal) = (0_usize, None);
    for Listed { subject, swept_ms } in due {
        let now_ms = work.now_ms();
        let trouble = match about(work, ehr, poll, &subject, swept_ms, now_ms).await {
            Ok(()) => {
                told += 1;
                None
            }
            // About this one patient: not there, or not to be seen. The others are asked about all the same.
            Err(NotTold::Patient(words)) => Some(words),
            Err(NotTold::Trouble(trouble)) => return Err(trouble),
        };
        refusal = refusal.or_else(|| trouble.clone());
        note_asked(work, &subject, now_ms, trouble).await?;
    }
    // Refused about everybody, it refuses the question.
    if let Some(words) = refusal.filter(|_| told == 0) {
        return Err(Trouble::Person { words: format!("the source answers about no patient of the roster: {words}") });
    }
    let (site, feed) = (work.site.to_owned(), work.feed.to_owned());
    Ok(store.read(move |tx| rosters::standing(tx, &site, &feed)).await?.complete_until_ms)
}

enum NotTold {
    Patient(String),
    Trouble(Trouble),
}

/// Every question about one patient.
async fn about(work: &mut Work<'_>, ehr: &Ehr, poll: &Poll, subject: &str, swept_ms: Option<i64>, now_ms: i64) -> Result<(), NotTold> {
    let overlap_ms = i64::from(poll.overlap_seconds) * 1_000;
    for question in poll.questions() {
        let question = of_patient(question, subject);
        let mut reading = Reading::new(&question, poll.sort, swept_ms.map(|swept_ms| swept_ms - overlap_ms), now_ms);
        loop {
            match reading.next(ehr).await {
                Ok(Some(resources)) => drop(work.take(resources).await.map_err(NotTold::Trouble)?),
                Ok(None) => break,
                Err(error @ (EhrError::Refused { .. } | EhrError::Unsupported { .. } | EhrError::Absent { .. })) => {
                    return Err(NotTold::Patient(error.to_string()));
                }
                Err(error @ (EhrError::Retry { .. } | EhrError::Unknown | EhrError::Conflict { .. } | EhrError::Unauthorized { .. })) => {
                    return Err(NotTold::Trouble(error.into()));
                }
            }
        }
    }
    Ok(())
}

/// The source was asked about this patient then, and refused where there is `trouble`.
pub(super) async fn note_asked(work: &Work<'_>, subject: &str, asked_ms: i64, trouble: Option<String>) -> Result<(), StoreError> {
    let (site, feed, subject) = (work.site.to_owned(), work.feed.to_owned(), subject.to_owned());
    work.pipeline.store.write(move |tx| rosters::asked(tx, &site, &feed, &subject, asked_ms, trouble.as_deref())).await
}

/// Every question about everybody listed.
pub(super) async fn questions(work: &Work<'_>, poll: &Poll) -> Result<Vec<Question>, StoreError> {
    let (site, feed) = (work.site.to_owned(), work.feed.to_owned());
    let listed = work.pipeline.store.read(move |tx| rosters::next(tx, &site, &feed, i64::MAX, usize::MAX)).await?;
    Ok(listed.iter().flat_map(|patient| poll.questions().into_iter().map(|question| of_patient(question, &patient.subject))).collect())
}

pub(super) fn of_patient(mut question: Question, subject: &str) -> Question {
    let parameter = if question.resource_type == "Patient" { "_id" } else { "patient" };
    question.query.push((parameter.to_owned(), subject.to_owned()));
    question.about = Some(subject.to_owned());
    question
}

/// Everybody whom the named lists hold by now.
async fn list(work: &Work<'_>, ehr: &Ehr, settings: &Settings) -> Result<BTreeSet<String>, Trouble> {
    let mut subjects = BTreeSet::new();
    for group in &settings.groups {
        let held = ehr.read("Group", group).await?;
        let held = held.ok_or_else(|| Trouble::Person { words: format!("the source has no Group/{group}, which the roster names") })?;
        subjects.extend(named_by(&held.resource, ehr.base().as_str()));
    }
    for search in &settings.searches {
        let query: Vec<(String, String)> = search.query.clone().into_iter().collect();
        let mut trail = Trail::default();
        let mut page = ehr.first_page(&search.resource_type, &query, &mut trail).await?;
        loop {
            subjects.extend(page.resources.iter().chain(&page.included).flat_map(|resource| named_by(resource, ehr.base().as_str())));
            let Some(next) = page.next else { break };
            page = ehr.page_behind(&next?, &mut trail).await?;
        }
    }
    if let Some(file) = settings.file.clone() {
        let text = tokio::task::spawn_blocking(move || std::fs::read_to_string(&file)).await.map_err(|_| unreadable())?.map_err(|_| unreadable())?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        for (index, line) in lines.enumerate() {
            let id = line.strip_prefix("Patient/").unwrap_or(line);
            if !is_id(id) {
                return Err(Trouble::Person { words: format!("entry {} of the roster's file is no FHIR id", index + 1) });
            }
            subjects.insert(id.to_owned());
        }
    }
    if settings.known {
        let site = work.site.to_owned();
        subjects.extend(work.pipeline.store.read(move |tx| rosters::known(tx, &site)).await?);
    }
    if subjects.is_empty() {
        // An empty list would make everybody unseen; whoever means it removes the feed.
        return Err(Trouble::Person { words: "the roster lists nobody".to_owned() });
    }
    Ok(subjects)
}

fn unreadable() -> Trouble {
    Trouble::Person { words: "the roster's file cannot be read".to_owned() }
}
