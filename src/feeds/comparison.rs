//! A comparison of what a source holds with what is here: every question of a feed is put without a limit of time, or all is
//! exported; what had not come is taken, and what is here and was not shown is asked for by its id. Each night, and by hand;
//! whatever a feed's rounds may miss (a late commit, a lost notification, a delete that nobody told) ends here at the latest.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::poll::{Question, Reading};
use super::{Trouble, Work, bulk, roster, says_so_itself, withdraw};
use crate::clinical::date::PartialDate;
use crate::digest::sha256_hex;
use crate::ehr::{Ehr, EhrError};
use crate::fhir::{RawResource, edit};
use crate::issue::Disposition;
use crate::store::comparisons::{self, Difference, Hole, Kind, Report, Version};
use crate::store::{StoreError, Tx, feeds, messages};

/// Differences that a report lists; all are counted.
const LISTED_MAX: usize = 1_000;
/// More than so many, and more than a tenth of a type, are not withdrawn without a person: then a source that answers in part
/// is likelier than a hospital that deleted its results.
const WITHDRAWN_AT_ONCE_MAX: usize = 20;
/// Ids asked of the store at once.
const IDS_AT_ONCE: usize = 5_000;

/// What a comparison may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Nothing is taken or withdrawn.
    ReportOnly,
    Mend,
    /// A person decided: whatever is gone at the source is withdrawn, however much it is.
    Insist,
}

/// What of a feed is compared.
pub struct Asked<'a> {
    pub ehr: &'a Ehr,
    pub showing: Showing<'a>,
    pub mode: Mode,
}

/// What shows all that the source holds for a feed.
#[derive(Clone, Copy)]
pub enum Showing<'a> {
    Search {
        questions: &'a [Question],
        sort: bool,
    },
    /// `is_of_all`: what other feeds brought would be shown as well.
    Export {
        settings: &'a bulk::Settings,
        types: &'a [String],
        is_of_all: bool,
    },
}

/// How long a comparison is held to run without a sign of life.
const LEASE_MS: i64 = 3_600_000;

/// Compares, and keeps what was found; `None` while another comparison of this feed runs.
pub(super) async fn run(work: &mut Work<'_>, asked: Asked<'_>, who: &str) -> Result<Option<Report>, Trouble> {
    let (site, feed, who, now_ms) = (work.site.to_owned(), work.feed.to_owned(), who.to_owned(), work.now_ms());
    let begun = work.pipeline.store.write(move |tx| comparisons::begin(tx, &site, &feed, &who, now_ms, now_ms + LEASE_MS)).await?;
    let Some(comparison) = begun else { return Ok(None) };
    let compared = compare(work, &asked).await;
    let report = match &compared {
        Ok(report) => report.clone(),
        Err(trouble) => Report { trouble: Some(trouble.to_string()), ..Report::default() },
    };
    let (differences, is_held_back) = (report.differences(), report.is_held_back);
    let kept = report.clone();
    let now_ms = work.now_ms();
    work.pipeline.store.write(move |tx| comparisons::end(tx, comparison, &kept, now_ms)).await?;
    compared?;
    if is_held_back {
        tracing::error!(site = work.site, feed = work.feed, differences, "a comparison found much gone at the source, and needs a person");
    } else {
        tracing::info!(site = work.site, feed = work.feed, differences, "compared with the source");
    }
    Ok(Some(report))
}

async fn compare(work: &mut Work<'_>, asked: &Asked<'_>) -> Result<Report, Trouble> {
    let Asked { ehr, showing, mode } = *asked;
    let mut compared = Compared { mode, report: Report::default(), holes: BTreeMap::new(), shown: BTreeMap::new() };
    let (types, is_of_all, is_by_patient): (BTreeSet<String>, bool, bool) = match showing {
        Showing::Search { questions, sort } => {
            for question in questions {
                let mut reading = Reading::of_everything(question, sort, work.began_ms);
                loop {
                    match (reading.next(ehr).await, &question.about) {
                        (Ok(Some(resources)), _) => compared.page(work, resources).await?,
                        (Ok(None), _) => break,
                        // About this one patient: what is known of everybody else is compared all the same.
                        (Err(error @ (EhrError::Refused { .. } | EhrError::Unsupported { .. } | EhrError::Absent { .. })), Some(subject)) => {
                            compared.note(Kind::Refused, "Patient", subject, None);
                            roster::note_asked(work, subject, work.now_ms(), Some(error.to_string())).await?;
                            break;
                        }
                        (Err(error), _) => return Err(error.into()),
                    }
                }
            }
            let is_by_patient = questions.iter().any(|question| question.about.is_some());
            (questions.iter().map(|question| question.resource_type.clone()).collect(), true, is_by_patient)
        }
        Showing::Export { settings, types, is_of_all } => {
            bulk::show(work, ehr, settings, types, &mut compared).await?;
            (types.iter().cloned().collect(), is_of_all, false)
        }
    };
    let feeds = answered_for(work, is_of_all).await?;
    for resource_type in compared.shown.keys().cloned().chain(types).collect::<BTreeSet<_>>() {
        compared.absent(work, ehr, &resource_type, &feeds, is_by_patient).await?;
    }
    Ok(compared.end())
}

/// A feed that was compared within so long answers for what it brought by itself.
const COMPARED_MS: i64 = 8 * 86_400_000;

/// The feeds whose resources this comparison answers for: its own, and those that read the same source and are not compared
/// themselves, as a first backfill beside a poll.
async fn answered_for(work: &Work<'_>, is_of_all: bool) -> Result<Vec<String>, StoreError> {
    let (site, own, since_ms) = (work.site.to_owned(), work.feed.to_owned(), work.began_ms - COMPARED_MS);
    let reading = work.pipeline.store.read(move |tx| {
        let mut feeds = Vec::new();
        for state in feeds::states(tx, Some(&site))? {
            let reads_the_source = matches!(state.kind.as_str(), "poll" | "bulk" | "subscription");
            let is_left = is_of_all && reads_the_source && comparisons::last(tx, &site, &state.feed)?.done_ms.is_none_or(|ms| ms < since_ms);
            if state.feed == own || is_left {
                feeds.push(state.feed);
            }
        }
        Ok(feeds)
    });
    reading.await
}

pub(super) struct Compared {
    mode: Mode,
    report: Report,
    holes: BTreeMap<(Kind, String, Option<String>, Option<String>), u64>,
    /// Ids that the source showed, by type.
    shown: BTreeMap<String, HashSet<String>>,
}

/// A resource as a page shows it.
struct Shown {
    resource: String,
    resource_type: String,
    id: String,
    version: Option<String>,
    last_updated_ms: Option<i64>,
}

impl Compared {
    /// Takes in what the source shows.
    pub(super) async fn page(&mut self, work: &mut Work<'_>, resources: Vec<String>) -> Result<(), Trouble> {
        let mut by_type: BTreeMap<String, Vec<Shown>> = BTreeMap::new();
        for resource in resources {
            match shown(&resource) {
                Some(shown) => by_type.entry(shown.resource_type.clone()).or_default().push(shown),
                // What the gate refuses has no name to compare by: a round takes it, and refuses it with a word.
                None => self.report.not_kept += 1,
            }
        }
        let (mut unknown, mut withdrawn): (Vec<(Kind, Shown)>, Vec<Shown>) = (Vec::new(), Vec::new());
        for (resource_type, resources) in by_type {
            let (site, ids, kind) = (work.site.to_owned(), resources.iter().map(|shown| shown.id.clone()).collect::<Vec<_>>(), resource_type.clone());
            let known = work.pipeline.store.read(move |tx| comparisons::here(tx, &site, &kind, &ids)).await?;
            let of_type = self.shown.entry(resource_type.clone()).or_default();
            for shown in resources {
                if !of_type.insert(shown.id.clone()) {
                    // Once more by another question, or because it changed meanwhile: the next round's.
                    continue;
                }
                *self.report.there.entry(resource_type.clone()).or_default() += 1;
                match known.get(&shown.id) {
                    Some(here) if here.versions.iter().any(|version| is_same(version, &shown)) => match here.is_withdrawn {
                        true => withdrawn.push(shown),
                        false => self.report.as_expected += 1,
                    },
                    Some(_) => unknown.push((Kind::Outdated, shown)),
                    None => unknown.push((Kind::Missing, shown)),
                }
            }
        }
        for shown in withdrawn {
            self.note(Kind::Withdrawn, &shown.resource_type, &shown.id, Some(&shown.resource));
        }
        let resources = unknown.iter().map(|(_, shown)| shown.resource.clone()).collect();
        let ends = if self.mode == Mode::ReportOnly { work.examine(resources).await? } else { work.take(resources).await? };
        for ((kind, shown), end) in unknown.into_iter().zip(ends) {
            match end {
                Some(Disposition::OutOfScope | Disposition::Rejected | Disposition::Echo) => self.report.not_kept += 1,
                Some(Disposition::Applied | Disposition::Superseded | Disposition::Quarantined) => {
                    self.note(kind, &shown.resource_type, &shown.id, Some(&shown.resource));
                }
                // The same bytes had come.
                Some(Disposition::Duplicate) | None => self.report.as_expected += 1,
            }
        }
        Ok(())
    }

    /// What is here and the source did not show is asked for by its id; of a roster's feed that of the patients listed now,
    /// about whom it answers.
    async fn absent(&mut self, work: &mut Work<'_>, ehr: &Ehr, resource_type: &str, feeds: &[String], is_by_patient: bool) -> Result<(), Trouble> {
        let mut absent = BTreeSet::new();
        let mut shown_here = BTreeSet::new();
        for feed in feeds {
            let mut after = String::new();
            loop {
                let (site, kind, feed, from) = (work.site.to_owned(), resource_type.to_owned(), feed.clone(), after.clone());
                let roster = is_by_patient.then(|| work.feed.to_owned());
                let shown = self.shown.get(resource_type);
                let asked = move |tx: &mut Tx<'_>| comparisons::ids_of_feed(tx, &site, &kind, &feed, roster.as_deref(), &from, IDS_AT_ONCE);
                let ids = work.pipeline.store.read(asked).await?;
                let Some(last) = ids.last() else { break };
                after = last.clone();
                for id in ids {
                    let is_shown = shown.is_some_and(|shown| shown.contains(&id));
                    if is_shown {
                        shown_here.insert(id)
                    } else {
                        absent.insert(id)
                    };
                }
            }
        }
        let (site, kind) = (work.site.to_owned(), resource_type.to_owned());
        // Those that are withdrawn here already are as they should be.
        let absent = work
            .pipeline
            .store
            .read(move |tx| {
                absent
                    .into_iter()
                    .filter_map(|id| messages::newest(tx, &site, &kind, &id).map(|newest| newest.map(|_| id)).transpose())
                    .collect::<Result<Vec<_>, _>>()
            })
            .await?;
        let standing = shown_here.len() + absent.len();
        let mut gone = Vec::new();
        for id in absent {
            match ehr.read(resource_type, &id).await {
                Ok(None) => {
                    self.note(Kind::Deleted, resource_type, &id, None);
                    gone.push(id);
                }
                Ok(Some(held)) => {
                    self.note(Kind::Unsearchable, resource_type, &id, Some(&held.resource));
                    if self.mode != Mode::ReportOnly {
                        work.take(vec![held.resource]).await?;
                    }
                }
                Err(EhrError::Refused { .. } | EhrError::Unsupported { .. }) => self.note(Kind::Refused, resource_type, &id, None),
                Err(error) => return Err(error.into()),
            }
        }
        if !gone.is_empty() {
            says_so_itself(ehr).await?;
        }
        let is_much = WITHDRAWN_AT_ONCE_MAX < gone.len() && standing < 10 * gone.len();
        self.report.is_held_back |= is_much && self.mode == Mode::Mend;
        if self.mode == Mode::Insist || (self.mode == Mode::Mend && !is_much) {
            for id in gone {
                work.round.withdrawn += usize::from(withdraw(work, resource_type, &id).await?);
            }
        }
        Ok(())
    }

    fn note(&mut self, kind: Kind, resource_type: &str, id: &str, resource: Option<&str>) {
        let code = resource.and_then(edit::index).and_then(|index| index.codes.into_iter().next()).map(|(system, code)| format!("{system}|{code}"));
        let stamp = resource.and_then(|resource| RawResource::parse(resource.as_bytes()).ok()?.last_updated_ms);
        let day = stamp.map(|ms| PartialDate::instant(ms).day().to_string());
        *self.report.counts.entry(kind).or_default() += 1;
        *self.holes.entry((kind, resource_type.to_owned(), code.clone(), day.clone())).or_default() += 1;
        if self.report.differences.len() < LISTED_MAX {
            self.report.differences.push(Difference { kind, resource_type: resource_type.to_owned(), id: id.to_owned(), code, day });
        }
    }

    fn end(self) -> Report {
        let holes = self.holes.into_iter();
        let by_code_and_day = holes.map(|((kind, resource_type, code, day), count)| Hole { kind, resource_type, code, day, count }).collect();
        Report { by_code_and_day, ..self.report }
    }
}

fn shown(resource: &str) -> Option<Shown> {
    let raw = RawResource::parse(resource.as_bytes()).ok()?;
    Some(Shown {
        resource_type: raw.resource_type.to_owned(),
        id: raw.id?.to_owned(),
        version: raw.version.map(str::to_owned),
        last_updated_ms: raw.last_updated_ms,
        resource: resource.to_owned(),
    })
}

/// By its version, else by its stamp, else by its bytes.
fn is_same(known: &Version, shown: &Shown) -> bool {
    match (&known.version, &shown.version) {
        (Some(known), Some(shown)) => known == shown,
        _ => match (known.last_updated_ms, shown.last_updated_ms) {
            (Some(known), Some(shown)) => known == shown,
            _ => known.body_hash == sha256_hex(shown.resource.as_bytes()),
        },
    }
}
