//! How a study follows its subjects: the day its visits count from, their windows, what shows that a visit took place,
//! and what is held against baseline. Says nothing of who is followed.

use serde::{Deserialize, Serialize};

use super::{Study, StudyFault};
use crate::clinical::quantity::Analyte;

#[derive(Clone, Debug, Deserialize)]
pub struct FollowUp {
    /// Day 0 of every visit.
    pub anchor: Anchor,
    /// A final result of any of these shows that the visit took place.
    pub visit_shown_by: Vec<Analyte>,
    /// Days without such a result after which a person is asked whether the subject is lost; nobody is lost by counting.
    #[serde(default)]
    pub lost_after_days: Option<u32>,
    pub note: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Anchor {
    FirstDose,
    Enrolment,
}

/// What is measured against baseline, and how it is compared.
#[derive(Clone, Debug, Deserialize)]
pub struct OutcomePolicy {
    pub baseline: BaselinePolicy,
    /// A subject responds whose eGFR rose by more than this, in percent of baseline.
    pub responder_percent: f64,
    /// By baseline eGFR, unrounded.
    #[serde(default)]
    pub strata: Vec<Stratum>,
    pub measures: Vec<Measure>,
    /// Ids of the visits whose values are tested against baseline.
    pub compare_at: Vec<String>,
    pub test: PairedTest,
    /// Two-sided level of significance.
    pub alpha: f64,
    pub note: String,
}

#[derive(Clone, Debug, Deserialize)]
pub struct BaselinePolicy {
    pub which: BaselineWhich,
    /// Days before the first dose within which the baseline must lie.
    pub within_days: u32,
    pub note: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BaselineWhich {
    /// The last value before the first dose; where times of day are not known, the day of the dose counts as before.
    LastBeforeDose,
}

/// Baseline eGFR from `min` up to, and without, `max`, mL/min/1.73 m2.
#[derive(Clone, Debug, Deserialize)]
pub struct Stratum {
    pub id: String,
    pub name: String,
    #[serde(default)]
    pub min: Option<f64>,
    #[serde(default)]
    pub max: Option<f64>,
}

impl Stratum {
    pub fn holds(&self, egfr: f64) -> bool {
        self.low() <= egfr && egfr < self.high()
    }

    fn low(&self) -> f64 {
        self.min.unwrap_or(f64::NEG_INFINITY)
    }

    fn high(&self) -> f64 {
        self.max.unwrap_or(f64::INFINITY)
    }
}

/// What a study may follow over time. Kinds of proteinuria are never mixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// By the study's own equation.
    Egfr,
    /// Urine protein to creatinine ratio.
    Upcr,
    /// Urine albumin to creatinine ratio.
    Uacr,
    #[serde(rename = "urine-protein-per-24h")]
    UrineProteinPer24h,
}

impl Measure {
    pub const ALL: [Measure; 4] = [Measure::Egfr, Measure::Upcr, Measure::Uacr, Measure::UrineProteinPer24h];

    pub const fn word(self) -> &'static str {
        match self {
            Measure::Egfr => "egfr",
            Measure::Upcr => "upcr",
            Measure::Uacr => "uacr",
            Measure::UrineProteinPer24h => "urine-protein-per-24h",
        }
    }
}

/// A test of paired differences.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PairedTest {
    WilcoxonSignedRank,
}

/// What a schema cannot say: visits whose windows share a day, strata that share a value, visits that do not exist.
pub(super) fn faults(study: &Study) -> Vec<StudyFault> {
    let mut faults = Vec::new();
    let mut fault = |path: String, message: String, hint: &str| faults.push(StudyFault { path, message, hint: hint.to_string() });
    for (index, pair) in study.visits.windows(2).enumerate() {
        let (one, next) = (&pair[0], &pair[1]);
        let at = format!("/visits/{}", index + 1);
        if next.week <= one.week {
            fault(at, format!("{} is not later than {}", next.id, one.id), "list the visits by week, each week once");
        } else if i64::from(next.week) * 7 - i64::from(next.days_before) <= i64::from(one.week) * 7 + i64::from(one.days_after) {
            fault(
                at,
                format!("the windows of {} and {} share a day", one.id, next.id),
                "make days_after of the one or days_before of the other smaller",
            );
        }
    }
    for (index, visit) in study.visits.iter().enumerate() {
        if study.visits[..index].iter().any(|other| other.id == visit.id) {
            fault(format!("/visits/{index}/id"), format!("two visits have the id {:?}", visit.id), "values name a visit by its id; make it unique");
        }
    }
    if let Some(follow_up) = &study.follow_up {
        if study.visits.is_empty() {
            fault("/follow_up".into(), "it follows subjects and names no visit".into(), "write visits, or leave follow_up out");
        }
        if follow_up.visit_shown_by.is_empty() {
            fault("/follow_up/visit_shown_by".into(), "no result would show a visit".into(), "name at least one analyte");
        }
    }
    let Some(outcome) = &study.outcome else { return faults };
    if study.follow_up.is_none() {
        fault("/outcome".into(), "values at visits need a follow_up, and there is none".into(), "add follow_up with its anchor");
    }
    if study.egfr.is_none() {
        fault(
            "/outcome".into(),
            "eGFR and ratios to creatinine need an equation and a factor".into(),
            "add egfr with equation, factor and which_result",
        );
    }
    if outcome.measures.is_empty() {
        fault("/outcome/measures".into(), "it measures nothing".into(), "name at least one measure");
    }
    if !outcome.strata.is_empty() && !outcome.measures.contains(&Measure::Egfr) {
        fault("/outcome/strata".into(), "they part subjects by baseline eGFR, which is not measured".into(), "add egfr to measures");
    }
    if !(0.0 < outcome.alpha && outcome.alpha < 1.0) {
        fault("/outcome/alpha".into(), format!("{} is no level of significance", outcome.alpha), "write a number between 0 and 1, such as 0.05");
    }
    for (index, id) in outcome.compare_at.iter().enumerate() {
        match study.visits.iter().find(|visit| visit.id == *id) {
            None => fault(format!("/outcome/compare_at/{index}"), format!("no visit has the id {id:?}"), "name visits of this study"),
            Some(visit) if visit.week == 0 => {
                fault(format!("/outcome/compare_at/{index}"), format!("{id} is the baseline's own visit"), "name visits after week 0");
            }
            Some(_) => {}
        }
    }
    for (index, stratum) in outcome.strata.iter().enumerate() {
        let at = format!("/outcome/strata/{index}");
        if stratum.high() <= stratum.low() {
            fault(at, format!("no value lies in {}", stratum.id), "min belongs to a stratum and max does not; min must be smaller");
        } else if let Some(other) =
            outcome.strata[..index].iter().find(|other| other.id == stratum.id || (stratum.low() < other.high() && other.low() < stratum.high()))
        {
            fault(at, format!("{} and {} share an id or a value", other.id, stratum.id), "end one stratum where the next begins");
        }
    }
    faults
}
