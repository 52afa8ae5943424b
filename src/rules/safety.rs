//! Adverse events of a subject in a trial: the axes as the sources and persons say them, what is missing, whether and why
//! an event counts, and the reporting clocks it starts. No axis is inferred from another.

use serde::Serialize;

use super::candidates::Candidate;
use super::course::{self, Cited};
use super::enrolment::Entered;
use crate::clinical::chart::Chart;
use crate::clinical::date::AsOf;
use crate::clinical::fact::Relation;
use crate::study::Study;

/// One adverse event. An axis that is `None` is not known, and stands in `missing` where the study asks for it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Event {
    /// Its reference, such as `AdverseEvent/7`, `Decision/ab12` (recorded here) or the id of a confirmed candidate.
    pub id: String,
    pub origin: EventOrigin,
    /// Everything that says something of it, the source first.
    pub by: Vec<Cited>,
    pub term: String,
    /// `system|code` of each coding.
    pub codes: Vec<String>,
    /// CTCAE grade 1 to 5.
    pub grade: Option<u8>,
    pub is_serious: Option<bool>,
    pub seriousness_criteria: Vec<String>,
    /// The worst relation to the study's treatment over its suspects.
    pub relation: Option<Relation>,
    /// Whether the study counts that relation as related.
    pub is_related: Option<bool>,
    pub is_expected: Option<bool>,
    /// R4 code, such as `resolved`.
    pub outcome: Option<String>,
    pub is_dose_limiting: Option<bool>,
    /// FHIR syntax, as the source wrote them.
    pub onset: Option<String>,
    pub onset_ms: Option<i64>,
    pub resolved: Option<String>,
    /// When the trial's people could know of it: recorded, else detected, else receipt.
    pub aware_ms: Option<i64>,
    /// Began at or after the first dose; `None` where the dates do not tell.
    pub is_treatment_emergent: Option<bool>,
    /// Why it does not count in the trial's tables: `potential`, `before-enrolment`, `other-study`, `not-final`; `None` when it counts.
    pub left_out: Option<&'static str>,
    /// Words of the axes that the study asks for and nobody gave, in the order of the form.
    pub missing: Vec<&'static str>,
    pub clocks: Vec<ClockStanding>,
}

impl Event {
    /// Hash of the event as it is shown, without its clocks, which move by themselves; a decision about it names this.
    pub fn evidence_hash(&self) -> String {
        course::hash_of(&Event { clocks: Vec::new(), ..self.clone() })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventOrigin {
    /// A hospital's own: never copied (rulings.md 25).
    Hospital,
    /// Recorded by the trial's people: ours to author.
    Recorded,
    /// Suggested by the data and confirmed by a person.
    Candidate,
}

/// Where one reporting clock of one event stands.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClockStanding {
    /// Id of the clock in study.json.
    pub clock: String,
    pub started_ms: i64,
    pub due_ms: i64,
    pub state: ClockState,
    pub reported_ms: Option<i64>,
    /// Axes that nobody gave and that count as the worst until they are filled.
    pub assumed: Vec<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClockState {
    Running,
    Overdue,
    Reported,
    ReportedLate,
}

/// Every event of a subject who entered, oldest first; those that do not count say why.
pub(super) fn events(_study: &Study, _chart: &Chart, _entered: &Entered, _candidates: &[Candidate], _as_of: AsOf) -> Vec<Event> {
    Vec::new()
}
