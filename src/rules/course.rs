//! One subject's way through a trial: arm and doses, visits, adverse events with their clocks, results against
//! baseline. Judged from the chart on demand, like a verdict; a report is made of the courses of all who entered.

use std::cmp::Ordering;

use serde::Serialize;

use super::candidates::{self, Candidate};
use super::enrolment::{self, Entered};
use super::outcome::{self, Outcome};
use super::safety::{self, Event};
use super::schedule::{self, Schedule};
use super::state::NotPossible;
use super::{SubjectState, evidence};
use crate::clinical::chart::Chart;
use crate::clinical::date::{AsOf, MS_PER_DAY, PartialDate, Precision};
use crate::clinical::fact::{Decided, Decision, EventAxes, Source};
use crate::digest::sha256_hex;
use crate::study::Study;

/// The version of a resource (or a person's decision) that says so.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Cited {
    /// `Observation/abc`.
    pub resource: String,
    pub version: Option<String>,
    /// Receipt number; 0 while files are read without a store.
    pub message: i64,
}

impl Cited {
    pub fn of(source: &Source) -> Cited {
        Cited { resource: evidence::resource(source), version: source.version.as_ref().map(|version| version.to_string()), message: source.message }
    }
}

/// Something that happened, and who says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Dated {
    /// FHIR syntax, as coarse as the source wrote it.
    pub date: String,
    /// Its earliest instant, ms since 1970 UTC.
    pub at_ms: i64,
    pub by: Cited,
}

impl Dated {
    pub(super) fn new(date: &PartialDate, by: Cited) -> Dated {
        Dated { date: date.to_string(), at_ms: date.start_ms, by }
    }

    /// The date as it was written.
    pub(super) fn read(&self) -> PartialDate {
        PartialDate::parse(&self.date).expect("a Dated is written from a date")
    }
}

/// Earlier or later as people read dates: instants by the clock, days by the calendar as written, months and years as
/// whole intervals. `None` where they do not tell, as for a day and a time on it.
pub(super) fn order(date: &PartialDate, other: &PartialDate) -> Option<Ordering> {
    if date.precision == Precision::Instant && other.precision == Precision::Instant {
        Some(date.start_ms.cmp(&other.start_ms))
    } else if date.precision >= Precision::Day && other.precision >= Precision::Day {
        Some(date.day().cmp(&other.day())).filter(|order| *order != Ordering::Equal)
    } else {
        date.compare(other).filter(|order| *order != Ordering::Equal)
    }
}

/// What one study knows of one subject who entered it, as of one time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Course {
    pub study: String,
    pub study_hash: String,
    pub as_of_ms: i64,
    pub state: SubjectState,
    pub entered: Entered,
    pub schedule: Schedule,
    pub events: Vec<Event>,
    pub candidates: Vec<Candidate>,
    pub outcome: Outcome,
}

/// Whether a decision about the trial fits the course of today; what it says of screening is `state::check`'s to ask.
pub fn check(study: &Study, course: &Course, decision: &Decision) -> Result<(), NotPossible> {
    let unchanged = |current: String| if decision.evidence_seen == current { Ok(()) } else { Err(NotPossible::EvidenceChanged { current }) };
    let known = |id: &str| course.events.iter().find(|event| event.id == id).ok_or(NotPossible::NoSuch("event"));
    let consistent = |is_serious: Option<bool>, criteria: &[_]| match (is_serious, criteria.is_empty()) {
        (Some(false) | None, false) => Err(NotPossible::Contradiction("seriousness criteria belong to a serious event only")),
        (Some(true), _) | (_, true) => Ok(()),
    };
    let dated = |dates: &[Option<PartialDate>]| {
        // The calendar of the earliest zone is 14 hours ahead of UTC.
        let is_ahead = |date: &PartialDate| date.start_ms > course.as_of_ms + 14 * MS_PER_DAY / 24;
        if dates.iter().flatten().any(is_ahead) { Err(NotPossible::Contradiction("it lies in the future")) } else { Ok(()) }
    };
    let meant = |axes: &EventAxes| safety::wrong_axes(axes).map_or(Ok(()), |why| Err(NotPossible::Contradiction(why)));
    match &decision.what {
        Decided::Dose { arm, .. } if study.arms.iter().all(|known| known.id != arm.as_str()) => Err(NotPossible::NoSuch("arm")),
        Decided::Dose { given, .. } => dated(&[Some(*given)]),
        Decided::EventRecorded { event } => {
            meant(&EventAxes {
                term: Some(event.term.clone()),
                grade: event.grade,
                seriousness_criteria: Some(event.seriousness_criteria.clone()),
                outcome: event.outcome.clone(),
                onset: event.onset,
                resolved: event.resolved,
                ..EventAxes::default()
            })?;
            dated(&[event.onset, event.detected, event.recorded, event.resolved])?;
            consistent(event.is_serious, &event.seriousness_criteria)
        }
        Decided::EventAxes { event, axes } => {
            let event = known(event)?;
            unchanged(event.evidence_hash())?;
            meant(axes)?;
            dated(&[axes.onset, axes.resolved])?;
            consistent(axes.is_serious.or(event.is_serious), axes.seriousness_criteria.as_deref().unwrap_or_default())
        }
        Decided::EventReported { event, clock, at } => {
            dated(&[Some(*at)])?;
            let event = known(event)?;
            if event.clocks.iter().all(|running| running.clock != clock.as_str()) {
                return Err(NotPossible::NoSuch("clock"));
            }
            unchanged(event.evidence_hash())
        }
        Decided::Candidate { candidate, .. } => {
            let candidate = course.candidates.iter().find(|known| known.id == candidate.as_str()).ok_or(NotPossible::NoSuch("candidate"))?;
            unchanged(candidate.evidence_hash())
        }
        Decided::Attestation { .. } | Decided::Consent { .. } | Decided::OptOut { .. } | Decided::State { .. } => Ok(()),
    }
}

/// Hash of what a person saw, as JSON.
pub(super) fn hash_of(seen: &impl Serialize) -> String {
    sha256_hex(&serde_json::to_vec(seen).expect("what is shown is plain data"))
}

/// The course of a subject; `None` for one who never entered the study by that time.
pub fn course(study: &Study, chart: &Chart, as_of: AsOf) -> Option<Course> {
    let (state, entered) = enrolment::entered(study, chart, as_of)?;
    let schedule = schedule::schedule(study, chart, &entered, state, as_of);
    let candidates = candidates::candidates(study, chart, &entered, as_of);
    let events = safety::events(study, chart, &entered, &candidates, as_of);
    let outcome = outcome::outcome(study, chart, &entered, state, as_of);
    Some(Course {
        study: study.id.clone(),
        study_hash: study.hash.clone(),
        as_of_ms: as_of.until_ms,
        state,
        entered,
        schedule,
        events,
        candidates,
        outcome,
    })
}
