//! What the data suggest may be an adverse event: a laboratory shift by CTCAE against the graded baseline, an unplanned
//! stay, a new Condition. Proposed once each; a person confirms or dismisses (rulings.md 18). Nothing becomes an event by itself.

use serde::Serialize;

use super::course::{self, Cited, Dated};
use super::enrolment::Entered;
use crate::clinical::chart::Chart;
use crate::clinical::date::AsOf;
use crate::study::Study;

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Candidate {
    /// Stays the same while the same data suggest it: kind and source, such as `laboratory-shift:creatinine:Observation/7`.
    pub id: String,
    pub kind: CandidateKind,
    pub term: String,
    /// CTCAE grade of the worst result of the shift, and of the baseline; `None` where no grading applies.
    pub grade: Option<u8>,
    pub baseline_grade: Option<u8>,
    /// Version of the CTCAE that graded.
    pub ctcae_version: Option<String>,
    /// When it began.
    pub at: Dated,
    pub by: Vec<Cited>,
    pub status: CandidateStatus,
    /// Who confirmed or dismissed it, and why.
    pub decided_by: Option<String>,
    pub decided_reason: Option<String>,
}

impl Candidate {
    /// Hash of the candidate as it is shown; a decision about it names this.
    pub fn evidence_hash(&self) -> String {
        course::hash_of(self)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CandidateKind {
    LaboratoryShift,
    UnplannedStay,
    NewCondition,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CandidateStatus {
    Open,
    Confirmed,
    Dismissed,
}

/// Every candidate since the first dose, oldest first.
pub(super) fn candidates(_study: &Study, _chart: &Chart, _entered: &Entered, _as_of: AsOf) -> Vec<Candidate> {
    Vec::new()
}
