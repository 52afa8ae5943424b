//! What the data suggest may be an adverse event: a laboratory shift by CTCAE against the graded baseline, an unplanned
//! stay, a new Condition. Proposed once each; a person confirms or dismisses (rulings.md 18). Nothing becomes an event by itself.
//!
//! What an event on record explains, of the same kind and about the same time, is not proposed; it returns when that event
//! is withdrawn. What a person decided stays, so that nothing said about it is lost; where a hospital then
//! records the same event, both stand until a person dismisses the candidate.

use std::cmp::Ordering;

use serde::Serialize;

use super::course::{self, Cited, Dated, order};
use super::ctcae::{self, Against, Grade};
use super::enrolment::{Entered, has_happened};
use super::limits::Interval;
use super::results::{self, Reading};
use super::{evidence, person};
use crate::clinical::chart::{Chart, Recorded};
use crate::clinical::date::{AsOf, MS_PER_DAY, PartialDate, Precision};
use crate::clinical::fact::{AdverseEvent, Concept, Condition, Decided, Decision, Source};
use crate::clinical::quantity::{Analyte, Unit};
use crate::study::{CandidatePolicy, Study};

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Candidate {
    /// Stays the same while the same data suggest it: kind and source, such as `laboratory-shift:creatinine:Observation/7`.
    /// Once decided it keeps the name it was decided under.
    pub id: String,
    pub kind: CandidateKind,
    pub term: String,
    /// In words, what suggests it: "3.7 mg/dL, 1.9 times baseline".
    pub why: String,
    /// CTCAE grade of the worst result of the shift, and of the baseline; `None` where no grading applies, and for the
    /// baseline where there is none.
    pub grade: Option<u8>,
    pub baseline_grade: Option<u8>,
    /// Version of the CTCAE that graded.
    pub ctcae_version: Option<String>,
    /// When it began.
    pub at: Dated,
    /// What suggests it, oldest first, then the baseline it was held against.
    pub by: Vec<Cited>,
    pub status: CandidateStatus,
    /// Who confirmed or dismissed it, and why.
    pub decided_by: Option<String>,
    pub decided_reason: Option<String>,
    pub decided_at_ms: Option<i64>,
    /// The decision itself.
    pub decision: Option<Cited>,
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

/// Every candidate since the first dose, oldest first; none for a subject without a dose.
pub(super) fn candidates(study: &Study, chart: &Chart, entered: &Entered, as_of: AsOf) -> Vec<Candidate> {
    let Some(policy) = study.safety.as_ref().and_then(|safety| safety.candidates.as_ref()) else { return Vec::new() };
    let Some(dose) = entered.doses.first().map(|dose| dose.given.read()) else { return Vec::new() };
    let mut found = Vec::new();
    for analyte in &policy.analytes {
        found.extend(laboratory_shifts(study, policy, chart, *analyte, dose, as_of));
    }
    found.extend(unplanned_stays(policy, chart, dose, as_of));
    for concept in &policy.conditions {
        found.extend(new_conditions(policy, chart, *concept, dose, as_of));
    }
    let known = known_events(study, chart, as_of);
    let mut candidates: Vec<Candidate> = found.into_iter().filter_map(|found| found.decided(study, policy, chart, &known, as_of)).collect();
    candidates.sort_by(|a, b| (a.at.at_ms, &a.id).cmp(&(b.at.at_ms, &b.id)));
    candidates
}

/// What the data suggest, before anybody decided.
struct Found<'c> {
    kind: CandidateKind,
    /// Between kind and source in the id; empty or ending in a colon.
    id_part: String,
    term: &'static str,
    why: String,
    baseline_grade: Option<u8>,
    is_graded: bool,
    /// The episode, oldest first; each with its grade.
    signs: Vec<Sign<'c>>,
    baseline: Option<&'c Source>,
    /// Codes, as `system|code` or the bare code, of an event that is the same.
    codes: Vec<&'c str>,
    other_terms: &'static [&'static str],
}

/// One result, stay or Condition.
#[derive(Clone, Copy)]
struct Sign<'c> {
    date: PartialDate,
    source: &'c Source,
    grade: u8,
}

/// NCI Thesaurus, seriousness criteria of hl7.fhir.uv.ae-research-backport-ig 1.0.1: hospitalization.
const HOSPITALIZATION: &str = "C83052";

impl Found<'_> {
    fn id_of(&self, sign: &Sign<'_>) -> String {
        let kind = match self.kind {
            CandidateKind::LaboratoryShift => "laboratory-shift",
            CandidateKind::UnplannedStay => "unplanned-stay",
            CandidateKind::NewCondition => "new-condition",
        };
        format!("{kind}:{}{}", self.id_part, evidence::resource(sign.source))
    }

    fn names(&self, source: &Source) -> bool {
        self.signs.iter().any(|sign| sign.source.id == source.id)
    }

    fn worst_until(&self, until_ms: i64) -> u8 {
        self.signs.iter().filter(|sign| sign.date.start_ms <= until_ms).map(|sign| sign.grade).max().unwrap_or(0)
    }

    /// With what a person said of it; `None` where nobody did and an event on record explains it.
    fn decided(self, study: &Study, policy: &CandidatePolicy, chart: &Chart, known: &[Known<'_>], as_of: AsOf) -> Option<Candidate> {
        let ids: Vec<String> = self.signs.iter().map(|sign| self.id_of(sign)).collect();
        // An earlier result that arrived late begins the episode anew; what was decided names one of its results.
        let newest = decisions(study, chart, as_of).filter(|(id, _, _)| ids.iter().any(|known| known == id)).last();
        if newest.is_none() && known.iter().any(|event| self.is_explained_by(event, policy)) {
            return None;
        }
        let worst = self.worst_until(i64::MAX);
        let (status, decision) = match newest {
            Some((_, true, decision)) => (CandidateStatus::Confirmed, Some(decision)),
            // Who dismissed grade 1 has not dismissed the grade 3 that followed.
            Some((_, false, decision)) if worst > self.worst_until(decision.body.at_ms) => (CandidateStatus::Open, None),
            Some((_, false, decision)) => (CandidateStatus::Dismissed, Some(decision)),
            None => (CandidateStatus::Open, None),
        };
        let mut by: Vec<Cited> = self.signs.iter().map(|sign| Cited::of(sign.source)).collect();
        by.extend(self.baseline.map(Cited::of));
        let first = &self.signs[0];
        Some(Candidate {
            id: newest.map_or_else(|| ids[0].clone(), |(id, _, _)| id.to_string()),
            kind: self.kind,
            term: self.term.to_string(),
            grade: self.is_graded.then_some(worst),
            baseline_grade: self.baseline_grade,
            ctcae_version: self.is_graded.then(|| policy.ctcae_version.word().to_string()),
            at: Dated::new(&first.date, Cited::of(first.source)),
            by,
            status,
            decided_by: decision.map(|decision| decision.body.by.to_string()),
            decided_reason: decision.map(|decision| decision.body.reason.clone()),
            decided_at_ms: decision.map(|decision| decision.body.at_ms),
            decision: decision.map(|decision| Cited::of(&decision.source)),
            why: self.why,
        })
    }

    /// The same kind, and begun within the days around the episode that the study allows.
    fn is_explained_by(&self, event: &Known<'_>, policy: &CandidatePolicy) -> bool {
        let is_same_kind = match self.kind {
            // Whatever brought the subject in, the event says that it did.
            CandidateKind::UnplannedStay => event.body.seriousness_criteria.iter().any(|code| code == HOSPITALIZATION),
            CandidateKind::LaboratoryShift | CandidateKind::NewCondition => {
                let term = event.body.term.trim();
                let is_term = |known: &&str| known.eq_ignore_ascii_case(term);
                self.other_terms.iter().chain([&self.term]).any(is_term) || event.body.codes.iter().any(|code| self.codes.contains(&code.as_str()))
            }
        };
        let days_ms = i64::from(policy.same_event_days) * MS_PER_DAY;
        let (first, last) = (self.signs[0].date, self.signs[self.signs.len() - 1].date);
        is_same_kind && event.begun.is_some_and(|begun| first.start_ms - days_ms <= begun.end_ms && begun.start_ms <= last.end_ms + days_ms)
    }
}

/// What persons said of candidates: its id, whether it is an event, the decision; in order of time.
fn decisions<'c>(study: &Study, chart: &'c Chart, as_of: AsOf) -> impl Iterator<Item = (&'c str, bool, &'c Recorded<Decision>)> {
    person::decisions(study, chart, as_of).filter_map(|decision| match &decision.body.what {
        Decided::Candidate { candidate, is_event } => Some((candidate.as_str(), *is_event, decision)),
        Decided::Attestation { .. }
        | Decided::Consent { .. }
        | Decided::OptOut { .. }
        | Decided::State { .. }
        | Decided::Dose { .. }
        | Decided::EventRecorded { .. }
        | Decided::EventAxes { .. }
        | Decided::EventReported { .. } => None,
    })
}

/// An event that somebody recorded.
struct Known<'c> {
    body: &'c AdverseEvent,
    begun: Option<PartialDate>,
}

fn known_events<'c>(study: &Study, chart: &'c Chart, as_of: AsOf) -> Vec<Known<'c>> {
    let by_hospital = chart.adverse_events.iter().filter(|of| has_happened(of.status)).map(|of| &of.body);
    let by_persons = person::decisions(study, chart, as_of).filter_map(|decision| match &decision.body.what {
        Decided::EventRecorded { event } => Some(&**event),
        Decided::Attestation { .. }
        | Decided::Consent { .. }
        | Decided::OptOut { .. }
        | Decided::State { .. }
        | Decided::Dose { .. }
        | Decided::EventAxes { .. }
        | Decided::EventReported { .. }
        | Decided::Candidate { .. } => None,
    });
    by_hospital
        .chain(by_persons)
        .filter(|body| body.is_actual)
        .map(|body| Known { body, begun: body.onset.or(body.detected).or(body.recorded) })
        .filter(|event| event.begun.is_none_or(|begun| as_of.includes(&begun)))
        .collect()
}

/// One candidate per episode of results above the baseline's grade; a result at or below it ends the episode.
fn laboratory_shifts<'c>(
    study: &Study,
    policy: &CandidatePolicy,
    chart: &'c Chart,
    analyte: Analyte,
    dose: PartialDate,
    as_of: AsOf,
) -> Vec<Found<'c>> {
    let results = results::read(chart, analyte, as_of, |of| {
        let (value, unit) = (of.value.ok_or("no-value")?, of.unit.ok_or("unit-missing")?);
        let (low, high) = analyte.bounds(unit).ok_or("unit-unmapped")?;
        if (low..=high).contains(&value) { Ok(Interval::of(value, of.comparator)) } else { Err("implausible") }
    });
    let first_of_draws: Vec<&Reading<'c>> = results.draws().map(|draw| &results.readings[draw.start]).collect();
    let is_after = |reading: &&&Reading<'c>| order(&reading.effective, &dose) == Some(Ordering::Greater);
    let oldest_ms = dose.start_ms - i64::from(policy.baseline_lookback_days) * MS_PER_DAY;
    // Newest first: the last exact result before the dose. One of the day of the dose, without a time, was taken before it.
    let baseline = first_of_draws.iter().find(|reading| {
        let is_before = match order(&reading.effective, &dose) {
            Some(order) => order != Ordering::Greater,
            None => reading.effective.precision >= Precision::Day,
        };
        is_before && oldest_ms <= reading.effective.end_ms && reading.value.point().is_some()
    });
    let mut episodes: Vec<Found<'c>> = Vec::new();
    let mut is_open = false;
    for reading in first_of_draws.iter().filter(is_after).rev() {
        // Of versions that contradict each other the one dated first speaks.
        if episodes.iter().any(|found| found.names(&reading.of.source)) {
            continue;
        }
        let Some(shift) = shift(study, analyte, reading, baseline.copied()) else { continue };
        if !shift.is_shift {
            is_open = false;
            continue;
        }
        let sign = Sign { date: reading.effective, source: &reading.of.source, grade: shift.grade };
        let joins = |found: &Found<'_>| is_within(&found.signs[found.signs.len() - 1].date, &sign.date, policy.episode_gap_days);
        match episodes.last_mut().filter(|found| is_open && joins(found)) {
            Some(episode) => {
                if sign.grade > episode.worst_until(i64::MAX) {
                    episode.why = shift.why;
                }
                episode.signs.push(sign);
            }
            None => episodes.push(Found {
                kind: CandidateKind::LaboratoryShift,
                id_part: format!("{}:", analyte.word()),
                term: ctcae::terms(analyte).first().copied().unwrap_or(analyte.facts().name),
                why: shift.why,
                baseline_grade: shift.baseline_grade,
                is_graded: true,
                signs: vec![sign],
                baseline: baseline.map(|reading| &reading.of.source),
                codes: Vec::new(),
                other_terms: ctcae::terms(analyte),
            }),
        }
        is_open = true;
    }
    episodes
}

struct Shift {
    grade: u8,
    baseline_grade: Option<u8>,
    is_shift: bool,
    why: String,
}

/// One result against the baseline; `None` where it has no grade. A result with a comparator has the grade that is sure.
fn shift(study: &Study, analyte: Analyte, reading: &Reading<'_>, baseline: Option<&Reading<'_>>) -> Option<Shift> {
    let body = &reading.of.body;
    let unit = body.unit?;
    let value = if ctcae::is_graded_when_high(analyte) { reading.value.low } else { reading.value.high };
    let (mut against, mut of_baseline, mut times) =
        (Against { lower: body.reference_low, upper: body.reference_high, ..Against::default() }, None, None);
    if let Some((from, from_unit, level)) = baseline.and_then(|of| Some((&of.of.body, of.of.body.unit?, of.value.point()?))) {
        let is_same_unit = from_unit == unit;
        // The baseline's own limits; those of the result where it came without.
        let limits = [(from.reference_low, against.lower), (from.reference_high, against.upper)];
        let [lower, upper] = limits.map(|(own, other)| own.or(other.filter(|_| is_same_unit)));
        let is_baseline_high = upper.is_some_and(|upper| level > upper);
        let own = Against { lower, upper, baseline: Some(level), is_baseline_high };
        of_baseline = ctcae::grade(analyte, level, from_unit, &own);
        against.baseline = converted(study, analyte, level, from_unit, unit);
        against.is_baseline_high = is_baseline_high;
        times = against.baseline.filter(|level| *level > 0.0).map(|level| value / level);
    }
    let grade = ctcae::grade(analyte, value, unit, &against)?;
    let is_shift = grade.is_above(of_baseline.unwrap_or(Grade { by_limits: 0, by_baseline: 0 }));
    let as_received = [body.comparator.map_or("", |comparator| comparator.sign()), &trimmed(body.value.unwrap_or(value))].concat();
    let compared = times.map_or("no baseline".to_string(), |times| format!("{} times baseline", trimmed(times)));
    Some(Shift {
        grade: grade.worst(),
        baseline_grade: of_baseline.map(Grade::worst),
        is_shift,
        why: format!("{as_received} {}, {compared}", unit.ucum()),
    })
}

/// Two decimals at most.
fn trimmed(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

/// umol/L in one mg/dL of creatinine where the study judges no eGFR: 113.12 g/mol, as shipped studies have it.
const CREATININE_FACTOR: f64 = 88.42;
/// umol/L in one mg/dL of bilirubin: 584.66 g/mol (general knowledge).
const BILIRUBIN_FACTOR: f64 = 17.104;

/// The baseline in the unit of a result; `None` where nothing here converts it.
fn converted(study: &Study, analyte: Analyte, value: f64, from: Unit, to: Unit) -> Option<f64> {
    if from == to {
        return Some(value);
    }
    // Nothing but these two is graded by multiples of a baseline and kept in two units.
    let factor = if analyte == Analyte::Creatinine {
        study.egfr.as_ref().map_or(CREATININE_FACTOR, |policy| policy.creatinine_factor_umol_l_per_mg_dl)
    } else if analyte == Analyte::Bilirubin {
        BILIRUBIN_FACTOR
    } else {
        return None;
    };
    if (from, to) == (Unit::MgPerDl, Unit::UmolPerL) {
        Some(value * factor)
    } else if (from, to) == (Unit::UmolPerL, Unit::MgPerDl) {
        Some(value / factor)
    } else {
        None
    }
}

/// Inpatient stays after the first dose that the source does not call planned; transfers of one stay are one candidate.
fn unplanned_stays<'c>(policy: &CandidatePolicy, chart: &'c Chart, dose: PartialDate, as_of: AsOf) -> Vec<Found<'c>> {
    let mut stays: Vec<(PartialDate, Option<PartialDate>, &Source)> = chart
        .encounters
        .iter()
        .filter(|of| has_happened(of.status) && of.body.is_planned != Some(true))
        .filter(|of| policy.stay_classes.iter().any(|class| *class == of.body.class.as_str()))
        .filter_map(|of| Some((of.body.start?, of.body.end, &of.source)))
        .filter(|(start, _, _)| as_of.includes(start) && order(start, &dose) == Some(Ordering::Greater))
        .collect();
    stays.sort_by(|a, b| (a.0.start_ms, &a.2.id).cmp(&(b.0.start_ms, &b.2.id)));
    let mut found: Vec<Found<'c>> = Vec::new();
    let mut until_ms = i64::MIN;
    for (start, end, source) in stays {
        if found.iter().any(|stay| stay.names(source)) {
            continue;
        }
        let sign = Sign { date: start, source, grade: 0 };
        match found.last_mut().filter(|_| start.start_ms <= until_ms.saturating_add(MS_PER_DAY)) {
            Some(stay) => stay.signs.push(sign),
            None => found.push(Found {
                kind: CandidateKind::UnplannedStay,
                id_part: String::new(),
                term: "Unplanned inpatient stay",
                why: format!("admitted {start}, not said to be planned"),
                baseline_grade: None,
                is_graded: false,
                signs: vec![sign],
                baseline: None,
                codes: Vec::new(),
                other_terms: &[],
            }),
        }
        until_ms = until_ms.max(end.map_or(start.end_ms, |end| end.end_ms));
    }
    found
}

/// Conditions of one meaning that began after the first dose and were not there at it.
fn new_conditions<'c>(policy: &CandidatePolicy, chart: &'c Chart, concept: Concept, dose: PartialDate, as_of: AsOf) -> Vec<Found<'c>> {
    let begun = |body: &Condition| body.onset.or(body.recorded);
    let of_it: Vec<&Recorded<Condition>> = chart
        .conditions
        .iter()
        .filter(|of| of.body.concept == concept && !matches!(of.body.verification_status.as_str(), "refuted" | "entered-in-error"))
        .filter(|of| begun(&of.body).is_some_and(|begun| as_of.includes(&begun)))
        .collect();
    let was_there = |of: &&Recorded<Condition>| {
        let is_over = matches!(of.body.clinical_status.as_str(), "inactive" | "remission" | "resolved");
        let is_before = begun(&of.body).is_some_and(|begun| order(&begun, &dose) != Some(Ordering::Greater));
        // What is over, at a time that nobody gives, may have been over by then.
        is_before && of.body.abatement.map_or(!is_over, |abatement| order(&abatement, &dose) == Some(Ordering::Greater))
    };
    if of_it.iter().any(was_there) {
        return Vec::new();
    }
    let mut new: Vec<(PartialDate, &Recorded<Condition>)> =
        of_it.into_iter().filter_map(|of| Some((begun(&of.body)?, of))).filter(|(begun, _)| order(begun, &dose) == Some(Ordering::Greater)).collect();
    new.sort_by(|a, b| (a.0.start_ms, &a.1.source.id).cmp(&(b.0.start_ms, &b.1.source.id)));
    let (term, other_terms) = words(concept);
    let mut found: Vec<Found<'c>> = Vec::new();
    for (date, of) in new {
        if found.iter().any(|same| same.names(&of.source)) {
            continue;
        }
        let sign = Sign { date, source: &of.source, grade: 0 };
        let joins = |found: &Found<'_>| is_within(&found.signs[found.signs.len() - 1].date, &date, policy.episode_gap_days);
        match found.last_mut().filter(|found| joins(found)) {
            Some(same) => {
                same.signs.push(sign);
                same.codes.push(&of.body.code);
            }
            None => found.push(Found {
                kind: CandidateKind::NewCondition,
                id_part: format!("{}:", concept.word()),
                term,
                why: format!("on record since {date}, not before the first dose"),
                baseline_grade: None,
                is_graded: false,
                signs: vec![sign],
                baseline: None,
                codes: vec![&of.body.code],
                other_terms,
            }),
        }
    }
    found
}

/// What an event of this meaning is called, first by the CTCAE where it has a term (general knowledge), then otherwise.
const fn words(concept: Concept) -> (&'static str, &'static [&'static str]) {
    match concept {
        Concept::Dialysis => ("Dialysis", &["Hemodialysis", "Haemodialysis", "Renal replacement therapy"]),
        Concept::KidneyTransplant => ("Kidney transplant", &["Renal transplant"]),
        Concept::ChronicKidneyDisease => ("Chronic kidney disease", &[]),
        Concept::AcuteKidneyInjury => ("Acute kidney injury", &["AKI", "Acute renal failure"]),
        Concept::Pregnancy => ("Pregnancy", &["Pregnant"]),
        Concept::Diabetes => ("Diabetes mellitus", &["Diabetes"]),
    }
}

/// By the calendar, from one day to a later one.
fn is_within(earlier: &PartialDate, later: &PartialDate, days: u32) -> bool {
    later.day().number() - earlier.last_day().number() <= i64::from(days)
}
