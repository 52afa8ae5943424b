//! Where a subject stands, from what persons decided, what the totals say and whether the subject lives
//! (rulings.md 19 and 20); and which decisions are possible from there.

use super::{Assessment, SubjectState, Verdict, enrolment, person};
use crate::clinical::chart::Chart;
use crate::clinical::date::{AsOf, PartialDate};
use crate::clinical::fact::{Decided, DecidedState, Decision, Source};
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
    /// `criterion`, `arm`, `event`, `clock` or `candidate`: what is named is not there.
    NoSuch(&'static str),
    /// What is said contradicts itself; in words.
    Contradiction(&'static str),
    /// What was seen is not what stands; the hash of what stands.
    EvidenceChanged { current: String },
    /// Data decide the criterion, so that there is nothing to answer.
    DataDecide,
    /// Nobody takes this step from there.
    State(SubjectState),
}

/// Whether a decision about a subject's screening fits the assessment of today (rulings.md 18).
pub fn check(assessment: &Assessment, decision: &Decision) -> Result<(), NotPossible> {
    let seen = decision.evidence_seen.as_str();
    if let Decided::Attestation { criterion, .. } = &decision.what {
        let criterion = assessment.criteria.iter().find(|known| known.id == criterion.as_str()).ok_or(NotPossible::NoSuch("criterion"))?;
        if criterion.evidence_hash != seen {
            return Err(NotPossible::EvidenceChanged { current: criterion.evidence_hash.clone() });
        }
        if criterion.verdict != Verdict::Unknown && criterion.attestation.is_none() {
            return Err(NotPossible::DataDecide);
        }
    } else if !names_own_evidence(&decision.what) && !seen.is_empty() && seen != assessment.evidence_hash() {
        return Err(NotPossible::EvidenceChanged { current: assessment.evidence_hash() });
    }
    if allowed(assessment.state, assessment.was_enrolled, &decision.what) { Ok(()) } else { Err(NotPossible::State(assessment.state)) }
}

/// Decisions that rest on one event or candidate, whose hash they name (`course::check`), and not on the card.
fn names_own_evidence(decided: &Decided) -> bool {
    matches!(decided, Decided::EventAxes { .. } | Decided::EventReported { .. } | Decided::Candidate { .. })
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

/// How somebody entered: when, and who says so.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<'c> {
    pub date: PartialDate,
    pub source: &'c Source,
    /// A person enrolled the subject here, having seen the criteria.
    pub is_by_person: bool,
}

/// What the decisions and the record say, before the totals.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing<'c> {
    /// `Candidate` until somebody decided, `Eligible` from consent on: the most the totals may still allow.
    pub at_most: SubjectState,
    pub entry: Option<Entry<'c>>,
    /// Since when the subject has no part any more, where somebody dates it.
    pub ended: Option<(PartialDate, &'c Source)>,
}

/// Follows the decisions in order of time; the door saw the totals of its day, they are not asked again. Where no person
/// enrolled the subject, the record's own entry takes its place: decisions after it move on from there, and where
/// there are none the hospital's newest word counts.
pub(super) fn standing<'c>(study: &Study, chart: &'c Chart, as_of: AsOf) -> Standing<'c> {
    let start = Standing { at_most: SubjectState::Candidate, entry: None, ended: None };
    let mut standing = follow(start, study, chart, as_of, i64::MIN);
    if standing.entry.is_none()
        && let Some(record) = enrolment::by_record(study, chart, as_of)
    {
        let entry = Some(Entry { date: record.date, source: record.source, is_by_person: false });
        let entered = Standing { at_most: SubjectState::Enrolled, entry, ended: None };
        standing = follow(entered, study, chart, as_of, record.date.start_ms);
        if standing.at_most == SubjectState::Enrolled {
            (standing.at_most, standing.ended) = (record.state, record.ended);
        }
    }
    if let Some(person) = chart.person.as_ref().filter(|of| person::is_deceased(&of.body, as_of)) {
        standing.at_most = SubjectState::Deceased;
        standing.ended = standing.ended.or(person.body.deceased_at.map(|died| (died, &person.source)));
    }
    standing
}

/// What persons decided from `since_ms` on.
fn follow<'c>(mut standing: Standing<'c>, study: &Study, chart: &'c Chart, as_of: AsOf, since_ms: i64) -> Standing<'c> {
    for decision in person::decisions(study, chart, as_of).filter(|decision| since_ms <= decision.body.at_ms) {
        let Some(to) = next(standing.at_most, standing.entry.is_some(), &decision.body.what) else { continue };
        standing.at_most = if to == SubjectState::Consented { SubjectState::Eligible } else { to };
        let at = (PartialDate::instant(decision.body.at_ms), &decision.source);
        if to == SubjectState::Enrolled {
            standing.entry = Some(Entry { date: at.0, source: at.1, is_by_person: true });
        }
        let has_left = matches!(to, SubjectState::Completed | SubjectState::Lost | SubjectState::Withdrawn);
        standing.ended = has_left.then_some(at).filter(|_| standing.entry.is_some());
    }
    standing
}

impl Standing<'_> {
    /// The state, once the totals are known.
    pub fn state(self, prescreen: Verdict, eligibility: Verdict) -> SubjectState {
        match self.at_most {
            SubjectState::Candidate if prescreen != Verdict::Met => SubjectState::None,
            SubjectState::Eligible if prescreen.and(eligibility) != Verdict::Met => SubjectState::Consented,
            decided => decided,
        }
    }
}
