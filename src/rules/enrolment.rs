//! Who entered the trial, into which arm, and what was given: by a person's decision, else by the hospital's
//! ResearchSubject and administrations (rulings.md 18 to 20).

use serde::Serialize;

use super::course::{Cited, Dated};
use super::{SubjectState, person, state};
use crate::clinical::chart::{Chart, Recorded};
use crate::clinical::date::{AsOf, PartialDate};
use crate::clinical::fact::{Administration, Decided, ResearchSubject, Source, Status};
use crate::study::Study;

/// How a subject entered.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Entered {
    /// A person's decision, else the start of the hospital's ResearchSubject, else the first dose.
    pub enrolled: Dated,
    /// Since when the subject has no part any more: completed, withdrawn, lost, off study by the hospital's word, or
    /// dead. `None` while they have, or where nobody dates it.
    pub ended: Option<Dated>,
    /// `None` while nobody says which.
    pub arm: Option<ArmGiven>,
    /// Oldest first.
    pub doses: Vec<Dose>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ArmGiven {
    /// Id of the arm in study.json.
    pub arm: String,
    /// Everyone who names an arm, the one that counts first.
    pub by: Vec<Cited>,
    /// Two sources name different arms; the one that counts by rank stands in `arm`.
    pub is_conflicting: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Dose {
    pub given: Dated,
    /// Everything that says so; what `given` names comes first.
    pub by: Vec<Cited>,
    /// `None` where no source counts them, or where two contradict each other and no person decided.
    pub cells: Option<f64>,
    /// Number and unit as the source wrote them; empty when it gave none.
    pub as_received: String,
    /// Whether the cells are those of the subject's arm, within the study's tolerance; `None` where either is not known.
    pub fits_arm: Option<bool>,
}

/// State and entry of a subject; `None` for one who never entered the study by that time.
pub(super) fn entered(study: &Study, chart: &Chart, as_of: AsOf) -> Option<(SubjectState, Entered)> {
    let standing = state::standing(study, chart, as_of);
    let entry = standing.entry?;
    let arm = arm(study, chart, as_of);
    let arm_cells = arm.as_ref().and_then(|given| study.arms.iter().find(|arm| arm.id == given.arm)).map(|arm| arm.cells);
    let doses = given(study, chart, as_of).into_iter().map(|dose| dose.told(study, arm_cells)).collect();
    let dated = |(date, source): (PartialDate, &Source)| Dated::new(&date, Cited::of(source));
    Some((standing.at_most, Entered { enrolled: dated((entry.date, entry.source)), ended: standing.ended.map(dated), arm, doses }))
}

/// How somebody entered by the record alone, without any person who enrolled them.
pub(super) struct ByRecord<'c> {
    pub date: PartialDate,
    pub source: &'c Source,
    /// What the hospital's newest word makes of them: enrolled, on-follow-up or withdrawn.
    pub state: SubjectState,
    pub ended: Option<(PartialDate, &'c Source)>,
}

/// Entry by the hospital's ResearchSubject, else by the first dose: who was given the product of the study has part in
/// it, whatever nobody wrote down. A ResearchSubject without a start is dated by the first dose, else by its last
/// update; one that nothing dates does not exist for any day.
///
/// `off-study` says that the part is over and not how: completed, lost and withdrawn are for a person to say
/// (rulings.md 19). Until then the subject stays on follow-up, from where each of these can be decided, and `ended` tells
/// the day. `withdrawn` is R4's word for the time before entry; beside a dose it can only mean the time after.
pub(super) fn by_record<'c>(study: &Study, chart: &'c Chart, as_of: AsOf) -> Option<ByRecord<'c>> {
    if chart.research_subjects.is_empty() && chart.administrations.is_empty() && chart.decisions.is_empty() {
        return None;
    }
    let doses = given(study, chart, as_of);
    let first_dose = doses.first().map(|dose| (dose.date, dose.sources[0]));
    let mut entries: Vec<(PartialDate, &Recorded<ResearchSubject>)> = research_subjects(study, chart)
        .filter(|of| is_entered(&of.body.status))
        .filter_map(|of| {
            let updated = of.source.last_updated_ms.map(PartialDate::instant);
            Some((of.body.start.or(first_dose.map(|(date, _)| date)).or(updated)?, of))
        })
        .filter(|(date, _)| as_of.includes(date))
        .collect();
    entries.sort_by(|(a_date, a), (b_date, b)| {
        let key = |date: &PartialDate, of: &Recorded<ResearchSubject>| (date.start_ms, of.source.last_updated_ms, of.issued_ms);
        key(a_date, a).cmp(&key(b_date, b)).then_with(|| a.source.id.cmp(&b.source.id)).then_with(|| a.body.status.cmp(&b.body.status))
    });
    let left = |of: &'c Recorded<ResearchSubject>| of.body.end.filter(|end| as_of.includes(end)).map(|end| (end, &of.source));
    if let (Some((date, first)), Some((_, newest))) = (entries.first(), entries.last()) {
        let (state, ended) = match newest.body.status.as_str() {
            "off-study" => (SubjectState::OnFollowUp, left(newest)),
            "follow-up" => (SubjectState::OnFollowUp, None),
            _ => (SubjectState::Enrolled, None),
        };
        return Some(ByRecord { date: *date, source: &first.source, state, ended });
    }
    let (date, source) = first_dose?;
    let withdrawn = research_subjects(study, chart).find(|of| of.body.status == "withdrawn");
    let state = if withdrawn.is_some() { SubjectState::Withdrawn } else { SubjectState::Enrolled };
    Some(ByRecord { date, source, state, ended: withdrawn.and_then(left) })
}

/// R4 ResearchSubject.status of those who entered (rulings.md 19): on study, in follow-up, or off it again.
fn is_entered(status: &str) -> bool {
    matches!(status, "on-study" | "on-study-intervention" | "on-study-observation" | "follow-up" | "off-study")
}

fn research_subjects<'c>(study: &Study, chart: &'c Chart) -> impl Iterator<Item = &'c Recorded<ResearchSubject>> {
    let study = study.id.clone();
    chart.research_subjects.iter().filter(move |of| of.body.study == study && has_happened(of.status))
}

/// What is in progress has begun; what is merely registered, or of unknown status, has not been said yet.
pub(super) fn has_happened(status: Status) -> bool {
    status.is_final() || status == Status::Preliminary
}

/// The arm by the newest dose that a person recorded, else by the hospital's actual arm, else by its assigned one.
fn arm(study: &Study, chart: &Chart, as_of: AsOf) -> Option<ArmGiven> {
    let mut named: Vec<(&str, &Source)> = decided_doses(study, chart, as_of).into_iter().rev().map(|dose| (dose.arm, dose.source)).collect();
    let mut by_hospital: Vec<(bool, &str, &Source)> = research_subjects(study, chart)
        .filter(|of| of.body.start.is_none_or(|start| as_of.includes(&start)))
        .filter_map(|of| Some((!of.body.is_actual_arm, of.body.arm.as_deref()?, &of.source)))
        .collect();
    by_hospital.sort_by(|a, b| (a.0, &a.2.id, a.1).cmp(&(b.0, &b.2.id, b.1)));
    named.extend(by_hospital.into_iter().map(|(_, arm, source)| (arm, source)));
    let (arm, _) = named.first()?;
    Some(ArmGiven {
        arm: arm.to_string(),
        is_conflicting: named.iter().any(|(other, _)| other != arm),
        by: named.iter().map(|(_, source)| Cited::of(source)).collect(),
    })
}

/// One dose, by all who say so.
struct Given<'c> {
    /// As coarse as the finest source wrote it.
    date: PartialDate,
    /// What dates the dose, first.
    sources: Vec<&'c Source>,
    cells: Vec<f64>,
    decided_cells: Option<f64>,
    as_received: &'c str,
}

impl Given<'_> {
    fn told(&self, study: &Study, arm_cells: Option<f64>) -> Dose {
        let agreed = self.cells.first().copied().filter(|first| self.cells.iter().all(|other| other == first));
        let cells = self.decided_cells.or(agreed);
        let tolerance = study.dosing.as_ref().map_or(0.0, |dosing| dosing.cells_tolerance_percent / 100.0);
        Dose {
            given: Dated::new(&self.date, Cited::of(self.sources[0])),
            by: self.sources.iter().map(|source| Cited::of(source)).collect(),
            cells,
            as_received: self.as_received.to_string(),
            fits_arm: cells.zip(arm_cells).map(|(cells, arm)| (cells - arm).abs() <= arm * tolerance + arm * LAST_BITS),
        }
    }
}

/// 6.4e7 written as 64 million or as 8e6 times 8 differs in its last bits at most.
const LAST_BITS: f64 = 1e-9;

/// Every dose until then, oldest first. What persons and the hospital say of one day is one dose: a Procedure and a
/// MedicationAdministration of one infusion, or either and a person's word.
fn given<'c>(study: &Study, chart: &'c Chart, as_of: AsOf) -> Vec<Given<'c>> {
    let mut doses: Vec<Given<'c>> = Vec::new();
    let mut tell = |date: PartialDate, source: &'c Source| -> usize {
        // The day as written at the source; a date of month or year is whatever day it may mean.
        let is_same = |dose: &Given<'_>| dose.date.overlaps(&date) || dose.date.day() == date.day();
        match doses.iter().position(is_same) {
            Some(index) => {
                let dose = &mut doses[index];
                dose.sources.push(source);
                if dose.date.precision < date.precision {
                    // The finer word dates the dose.
                    dose.date = date;
                    let last = dose.sources.len() - 1;
                    dose.sources.swap(0, last);
                }
                index
            }
            None => {
                doses.push(Given { date, sources: vec![source], cells: Vec::new(), decided_cells: None, as_received: "" });
                doses.len() - 1
            }
        }
    };
    let mut cells_of: Vec<(usize, Option<f64>, Option<f64>, &'c str)> = Vec::new();
    for dose in decided_doses(study, chart, as_of) {
        let index = tell(dose.given, dose.source);
        cells_of.push((index, dose.cells, None, ""));
    }
    for (date, of) in administrations(study, chart, as_of) {
        let index = tell(date, &of.source);
        cells_of.push((index, None, of.body.cells, &of.body.dose_as_received));
    }
    for (index, decided, counted, as_received) in cells_of {
        let dose = &mut doses[index];
        dose.decided_cells = decided.or(dose.decided_cells);
        dose.cells.extend(counted);
        if dose.as_received.is_empty() {
            dose.as_received = as_received;
        }
    }
    doses.sort_by(|a, b| (a.date.start_ms, &a.sources[0].id).cmp(&(b.date.start_ms, &b.sources[0].id)));
    doses
}

struct DecidedDose<'c> {
    arm: &'c str,
    given: PartialDate,
    cells: Option<f64>,
    source: &'c Source,
}

/// What persons say was given, in order of decision; a later word about the same day replaces the earlier.
fn decided_doses<'c>(study: &Study, chart: &'c Chart, as_of: AsOf) -> Vec<DecidedDose<'c>> {
    let mut doses: Vec<DecidedDose<'c>> = Vec::new();
    for decision in person::decisions(study, chart, as_of) {
        match &decision.body.what {
            Decided::Dose { arm, given, cells } if as_of.includes(given) => {
                doses.retain(|dose| dose.given.day() != given.day());
                doses.push(DecidedDose { arm, given: *given, cells: *cells, source: &decision.source });
            }
            Decided::Dose { .. }
            | Decided::Attestation { .. }
            | Decided::Consent { .. }
            | Decided::OptOut { .. }
            | Decided::State { .. }
            | Decided::EventRecorded { .. }
            | Decided::EventAxes { .. }
            | Decided::EventReported { .. }
            | Decided::Candidate { .. } => {}
        }
    }
    doses
}

/// The hospital's administrations of this study's product, by the finest date first so that a coarse one joins it.
fn administrations<'c>(study: &Study, chart: &'c Chart, as_of: AsOf) -> Vec<(PartialDate, &'c Recorded<Administration>)> {
    let mut all: Vec<(PartialDate, &Recorded<Administration>)> = chart
        .administrations
        .iter()
        .filter(|of| of.body.study == study.id && has_happened(of.status))
        .filter_map(|of| Some((of.body.given.or(of.body.ended)?, of)))
        .filter(|(date, _)| as_of.includes(date))
        .collect();
    all.sort_by(|(a_date, a), (b_date, b)| {
        let key = |date: &PartialDate| (std::cmp::Reverse(date.precision), date.start_ms);
        key(a_date).cmp(&key(b_date)).then_with(|| (a.source.resource_type, &a.source.id).cmp(&(b.source.resource_type, &b.source.id)))
    });
    all
}
