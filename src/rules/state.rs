//! Where a subject stands, from what persons decided, what the totals say and whether the subject lives
//! (rulings.md 19 and 20); and which decisions are possible from there.

use super::{Assessment, SubjectState, Verdict, person};
use crate::clinical::chart::Chart;
use crate::clinical::date::AsOf;
use crate::clinical::fact::{Decided, DecidedState, Decision};
use crate::study::Study;

/// Whether this decision is possible for a subject who stands there; the doors refuse what is not.
pub fn allowed(from: SubjectState, was_enrolled: bool, decided: &Decided) -> bool {
    match decided {
        // Only what still has a say in the verdict can be answered.
        Decided::Attestation { .. } => {
            matches!(from, SubjectState::None | SubjectState::Candidate | SubjectState::Consented | SubjectState::Eligible)
        }
        // A person's wish is heard at any time.
        Decided::OptOut { .. } => true,
        Decided::Consent { .. } | Decided::State { .. } => next(from, was_enrolled, decided).is_some(),
        // What happens in a trial happens to those who entered it.
        Decided::Dose { .. }
        | Decided::EventRecorded { .. }
        | Decided::EventAxes { .. }
        | Decided::EventReported { .. }
        | Decided::Candidate { .. } => was_enrolled,
    }
}

/// Why a decision does not fit what is judged now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotPossible {
    NoSuchCriterion,
    /// What was seen is not what stands; the hash of what stands.
    EvidenceChanged {
        current: String,
    },
    /// Data decide the criterion, so that there is nothing to answer.
    DataDecide,
    /// Nobody takes this step from there.
    State(SubjectState),
}

/// Whether a decision about a subject's screening fits the assessment of today (rulings.md 18).
pub fn check(assessment: &Assessment, decision: &Decision) -> Result<(), NotPossible> {
    let seen = decision.evidence_seen.as_str();
    if let Decided::Attestation { criterion, .. } = &decision.what {
        let criterion = assessment.criteria.iter().find(|known| known.id == criterion.as_str()).ok_or(NotPossible::NoSuchCriterion)?;
        if criterion.evidence_hash != seen {
            return Err(NotPossible::EvidenceChanged { current: criterion.evidence_hash.clone() });
        }
        if criterion.verdict != Verdict::Unknown && criterion.attestation.is_none() {
            return Err(NotPossible::DataDecide);
        }
    } else if !seen.is_empty() && seen != assessment.evidence_hash() {
        return Err(NotPossible::EvidenceChanged { current: assessment.evidence_hash() });
    }
    if allowed(assessment.state, assessment.was_enrolled, &decision.what) { Ok(()) } else { Err(NotPossible::State(assessment.state)) }
}

/// Where a decision on consent or state leads; `None` where it is impossible or moves nobody.
fn next(from: SubjectState, was_enrolled: bool, decided: &Decided) -> Option<SubjectState> {
    use SubjectState as S;
    let (to, is_possible) = match decided {
        Decided::Attestation { .. }
        | Decided::OptOut { .. }
        | Decided::Dose { .. }
        | Decided::EventRecorded { .. }
        | Decided::EventAxes { .. }
        | Decided::EventReported { .. }
        | Decided::Candidate { .. } => return None,
        // Who failed or withdrew before enrolment may be screened anew, by a new consent.
        Decided::Consent { given: true } => (S::Consented, from == S::Candidate || (!was_enrolled && matches!(from, S::ScreenFailed | S::Withdrawn))),
        Decided::Consent { given: false } | Decided::State { to: DecidedState::Withdrawn } => {
            (S::Withdrawn, !matches!(from, S::Withdrawn | S::Deceased))
        }
        Decided::State { to: DecidedState::Enrolled } => (S::Enrolled, from == S::Eligible),
        // Who was lost may be found again.
        Decided::State { to: DecidedState::OnFollowUp } => (S::OnFollowUp, matches!(from, S::Enrolled | S::Lost)),
        Decided::State { to: DecidedState::Completed } => (S::Completed, from == S::OnFollowUp),
        Decided::State { to: DecidedState::ScreenFailed } => (S::ScreenFailed, matches!(from, S::None | S::Candidate | S::Consented | S::Eligible)),
        Decided::State { to: DecidedState::Lost } => (S::Lost, matches!(from, S::Enrolled | S::OnFollowUp)),
    };
    is_possible.then_some(to)
}

/// What the decisions and the record say, before the totals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    /// `Candidate` until somebody decided, `Eligible` from consent on: the most the totals may still allow.
    at_most: SubjectState,
    pub enrolled_ms: Option<i64>,
}

/// Follows the decisions in order of time. The door saw the totals of its day; they are not asked again.
pub(super) fn standing(study: &Study, chart: &Chart, as_of: AsOf) -> Standing {
    let mut standing = Standing { at_most: SubjectState::Candidate, enrolled_ms: None };
    for decision in person::decisions(study, chart, as_of) {
        let Some(to) = next(standing.at_most, standing.enrolled_ms.is_some(), &decision.body.what) else { continue };
        standing.at_most = if to == SubjectState::Consented { SubjectState::Eligible } else { to };
        if to == SubjectState::Enrolled {
            standing.enrolled_ms = Some(decision.body.at_ms);
        }
    }
    if chart.person.as_ref().is_some_and(|of| person::is_deceased(&of.body, as_of)) {
        standing.at_most = SubjectState::Deceased;
    }
    standing
}

impl Standing {
    /// The state, once the totals are known.
    pub fn state(self, prescreen: Verdict, eligibility: Verdict) -> SubjectState {
        match self.at_most {
            SubjectState::Candidate if prescreen != Verdict::Met => SubjectState::None,
            SubjectState::Eligible if prescreen.and(eligibility) != Verdict::Met => SubjectState::Consented,
            decided => decided,
        }
    }
}
