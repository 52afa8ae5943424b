//! One protocol as data: typed `studies/<study>/study.json`. The engine knows kinds, never numbers.
//!
//! Numbers inside tagged shapes are [`Number`]s, because fhirbolt switches serde_json to arbitrary precision for
//! the whole graph and plain `f64` cannot be read through a tag then (docs/decisions/0001).

mod check;
pub mod follow_up;

use serde::{Deserialize, Serialize};

use crate::clinical::fact::{Concept, Relation, ResourceType};
use crate::clinical::quantity::{Analyte, Unit};
use crate::digest::sha256_hex;
use crate::egfr::Equation;
use follow_up::{FollowUp, OutcomePolicy};

/// A JSON number that survives being read through a tagged enum.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Number(pub f64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Number, D::Error> {
        let number = serde_json::Number::deserialize(deserializer)?;
        number.as_f64().filter(|value| value.is_finite()).map(Number).ok_or_else(|| serde::de::Error::custom("not a finite number"))
    }
}

impl Number {
    /// For `Option<Number>` limits: what is not given does not limit.
    pub fn or(number: Option<Number>, open: f64) -> f64 {
        number.map_or(open, |number| number.0)
    }
}

impl Serialize for Number {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.0)
    }
}

/// One study, as its folder says it.
#[derive(Clone, Debug, Deserialize)]
pub struct Study {
    pub id: String,
    pub title: String,
    /// Why the numbers are what they are, who agreed, when.
    pub note: String,
    /// Registry identifiers, such as `https://clinicaltrials.gov` and `NCT02933827`.
    #[serde(default)]
    pub registry: Vec<RegistryId>,
    #[serde(default)]
    pub arms: Vec<Arm>,
    #[serde(default)]
    pub visits: Vec<Visit>,
    /// Present in studies that judge eGFR.
    #[serde(default)]
    pub egfr: Option<EgfrPolicy>,
    /// Present in studies that escalate doses.
    #[serde(default)]
    pub dosing: Option<Dosing>,
    /// What the study does about adverse events; without it events are shown, and start no clock.
    #[serde(default)]
    pub safety: Option<Safety>,
    /// Present in studies that follow their subjects.
    #[serde(default)]
    pub follow_up: Option<FollowUp>,
    /// Present in studies that hold results against baseline.
    #[serde(default)]
    pub outcome: Option<OutcomePolicy>,
    pub criteria: Vec<Criterion>,
    /// SHA-256 of the file's bytes, set when it was read; every verdict names it.
    #[serde(skip)]
    pub hash: String,
}

/// One thing wrong with a study file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StudyFault {
    /// JSON pointer, empty for the whole file.
    pub path: String,
    pub message: String,
    pub hint: String,
}

/// What a study judges; whatever is not named here can change neither a verdict nor a course.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Sorted.
    pub analytes: Vec<Analyte>,
    /// Sorted.
    pub concepts: Vec<Concept>,
    /// FHIR types beyond Patient, Observation and Condition, sorted; of doses the one, which stands for Procedure too.
    pub types: Vec<ResourceType>,
}

impl Needs {
    fn sort(&mut self) {
        self.analytes.sort_unstable();
        self.analytes.dedup();
        self.concepts.sort_unstable();
        self.concepts.dedup();
    }
}

impl Study {
    /// Reads and cross-checks `study.json`; all that is wrong is named at once, except where the text cannot be read.
    pub fn parse(text: &str) -> Result<Study, Vec<StudyFault>> {
        let mut study: Study = serde_json::from_str(text).map_err(|error| {
            vec![StudyFault { path: String::new(), message: error.to_string(), hint: "compare the file with profiles/study.schema.json".to_string() }]
        })?;
        study.hash = sha256_hex(text.as_bytes());
        let faults = check::faults(&study);
        if faults.is_empty() { Ok(study) } else { Err(faults) }
    }

    /// The analytes and concepts that can change a verdict or a course, so that a reader may skip the rest.
    pub fn needs(&self) -> Needs {
        let mut needs = self.needs_of_criteria();
        if let Some(candidates) = self.safety.as_ref().and_then(|safety| safety.candidates.as_ref()) {
            needs.analytes.extend(&candidates.analytes);
            needs.concepts.extend(&candidates.conditions);
        }
        if self.safety.is_some() {
            needs.types.push(ResourceType::AdverseEvent);
        }
        // Who entered, and what was given, is asked by whatever follows the subjects of a trial.
        if self.safety.is_some() || self.dosing.is_some() {
            needs.types.extend([ResourceType::ResearchSubject, ResourceType::MedicationAdministration]);
        }
        if self.safety.iter().flat_map(|safety| &safety.candidates).any(|candidates| !candidates.stay_classes.is_empty()) {
            needs.types.push(ResourceType::Encounter);
        }
        needs.sort();
        needs
    }

    /// The analytes and concepts that can change a verdict; what follows a subject through a trial is not among them.
    pub fn needs_of_criteria(&self) -> Needs {
        let mut needs = Needs::default();
        for criterion in &self.criteria {
            match &criterion.rule {
                Rule::EgfrRange { .. } | Rule::EgfrSustained { .. } => needs.analytes.push(Analyte::Creatinine),
                Rule::LabLimit { analyte, .. } => needs.analytes.push(*analyte),
                Rule::LabUpperLimit { analytes, .. } => needs.analytes.extend(analytes),
                Rule::ConditionAbsent { concept, .. } | Rule::ConditionPresent { concept } => needs.concepts.push(*concept),
                Rule::Age { .. } | Rule::Sex { .. } | Rule::Consent {} | Rule::Attested {} => {}
            }
        }
        // The series and the trend are drawn even where no criterion judges eGFR.
        if self.egfr.is_some() {
            needs.analytes.push(Analyte::Creatinine);
        }
        needs.sort();
        needs
    }
}

fn equation_of_id<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Equation, D::Error> {
    let id = String::deserialize(deserializer)?;
    Equation::from_id(&id).ok_or_else(|| serde::de::Error::custom(format!("no equation has the id {id:?}")))
}

#[derive(Clone, Debug, Deserialize)]
pub struct RegistryId {
    pub system: String,
    pub value: String,
    pub note: String,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Arm {
    pub id: String,
    pub name: String,
    /// Cells of the single dose.
    pub cells: f64,
    pub planned_subjects: u32,
    pub note: String,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Visit {
    pub id: String,
    /// Its due day is 7 times this after the anchor.
    pub week: u32,
    /// Days before the due day on which its window opens, and after it on which it closes, both inclusive.
    #[serde(default)]
    pub days_before: u32,
    #[serde(default)]
    pub days_after: u32,
    pub note: String,
}

/// How this study gets from creatinine to one eGFR.
#[derive(Clone, Debug, Deserialize)]
pub struct EgfrPolicy {
    /// Written as its id, such as `ckd-epi-2021-creatinine`; one that judges from creatinine, age and sex alone.
    #[serde(deserialize_with = "equation_of_id")]
    pub equation: Equation,
    /// umol/L of creatinine in one mg/dL.
    pub creatinine_factor_umol_l_per_mg_dl: f64,
    pub which_result: WhichResult,
    pub note: String,
}

/// Which creatinine counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhichResult {
    /// Newest effective, then rank of the code, then newest issued; a comparator is unusable (rulings.md 8).
    NewestRankedIssued,
    /// The same, but contradicting values of one draw that straddle a threshold are `conflicting-results`, and a
    /// comparator decides when its whole interval falls on one side (rulings.md 9).
    NewestUncontradicted,
}

/// How doses are escalated over the arms, which stand in study.json from the lowest dose to the highest.
#[derive(Clone, Debug, Deserialize)]
pub struct Dosing {
    pub scheme: DosingScheme,
    /// Days that a subject is watched for dose-limiting toxicity, counted from the first dose: the window of 28 days is over
    /// when day 28 is over, the day of the dose being day 0.
    pub dlt_window_days: u32,
    /// How far the cells given may be off those of the arm, in percent, and still be its dose.
    pub cells_tolerance_percent: f64,
    pub note: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DosingScheme {
    /// Cohorts of three, no de-escalation.
    ThreePlusThree,
}

impl DosingScheme {
    /// As people call it.
    pub const fn name(self) -> &'static str {
        match self {
            DosingScheme::ThreePlusThree => "3+3",
        }
    }
}

/// What a study asks of adverse events.
#[derive(Clone, Debug, Deserialize)]
pub struct Safety {
    /// The relations that count as treatment-related.
    pub related: Vec<Relation>,
    #[serde(default)]
    pub clocks: Vec<Clock>,
    /// Absent in studies that propose nothing from the record.
    #[serde(default)]
    pub candidates: Option<CandidatePolicy>,
    pub note: String,
}

/// One duty to report: what starts it, and how long it leaves.
#[derive(Clone, Debug, Deserialize)]
pub struct Clock {
    pub id: String,
    pub name: String,
    pub starts: ClockStart,
    /// Codes of seriousness criteria, at least one of which must be present or not known; empty for every serious event.
    #[serde(default)]
    pub only_criteria: Vec<String>,
    /// From awareness to the report.
    pub hours: u32,
    pub note: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClockStart {
    /// Any serious event, whatever its relation to the treatment.
    Serious,
    SeriousUnexpectedRelated,
}

/// What is proposed from the record as a possible adverse event.
#[derive(Clone, Debug, Deserialize)]
pub struct CandidatePolicy {
    pub ctcae_version: CtcaeVersion,
    /// Laboratory results that are graded.
    pub analytes: Vec<Analyte>,
    /// How old the baseline may be at the first dose, in days.
    pub baseline_lookback_days: u32,
    /// Results above baseline further apart than this are two episodes, in days.
    pub episode_gap_days: u32,
    /// An event of the same kind that began at most so many days before or after explains what the record suggests.
    pub same_event_days: u32,
    /// Encounter.class of stays, as codes of HL7 v3 ActCode.
    pub stay_classes: Vec<String>,
    /// New Conditions of these meanings are proposed.
    pub conditions: Vec<Concept>,
    pub note: String,
}

/// Versions of the CTCAE (National Cancer Institute) that the engine grades by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CtcaeVersion {
    #[serde(rename = "5.0")]
    V5,
}

impl CtcaeVersion {
    pub const fn word(self) -> &'static str {
        match self {
            CtcaeVersion::V5 => "5.0",
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
pub struct Criterion {
    pub id: String,
    /// The protocol's own words, or their paraphrase.
    pub text: String,
    #[serde(rename = "type")]
    pub criterion_type: CriterionType,
    pub origin: Origin,
    pub stage: Stage,
    pub note: String,
    pub rule: Rule,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CriterionType {
    Inclusion,
    Exclusion,
}

/// Who says so (rulings.md 14).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    Registry,
    /// The published report of the trial, or the published rule the study follows.
    Report,
    /// Ours: decides `prescreen` only.
    SiteRule,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Decidable from the EHR.
    Prescreen,
    /// Laboratory exclusions and what a person must attest.
    Screening,
}

/// The kinds of criterion the engine knows. A new kind is one variant here, one match arm in `rules`, one schema entry, one example.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Rule {
    /// Completed years on the as-of date, both ends inclusive.
    Age {
        min_years: Option<Number>,
        max_years: Option<Number>,
    },
    Sex {
        is: Vec<crate::clinical::fact::Sex>,
    },
    /// eGFR of the newest creatinine between two whole numbers, both inclusive.
    EgfrRange {
        low: Number,
        high: Number,
        boundary: Boundary,
        max_age_days: Option<Number>,
        acute_rise: Option<AcuteRise>,
    },
    /// Newest below, another below at least `days` before it, none at or above between (rulings.md 16).
    EgfrSustained {
        below: Number,
        days: Number,
    },
    /// Passes when no such Condition stands; with `ever`, when none ever stood (a transplant stays a history).
    ConditionAbsent {
        concept: Concept,
        #[serde(default)]
        ever: bool,
    },
    ConditionPresent {
        concept: Concept,
    },
    /// Newest value of one analyte against limits in one unit; a limit that equals the value passes.
    LabLimit {
        analyte: Analyte,
        unit: Unit,
        min: Option<Number>,
        max: Option<Number>,
        max_age_days: Option<Number>,
        /// How values in other units become `unit`; a unit without an entry cannot be used.
        #[serde(default)]
        convert: Vec<Conversion>,
    },
    /// Newest value of each analyte at most `times` its own upper reference limit.
    LabUpperLimit {
        analytes: Vec<Analyte>,
        times: Number,
        max_age_days: Option<Number>,
    },
    /// A person's decision: consent given passes, refused or withdrawn does not.
    Consent {},
    /// What no computer can know.
    Attested {},
}

/// A linear conversion into the unit of a limit: `value * times + plus`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conversion {
    pub from: Unit,
    pub times: Number,
    pub plus: Number,
    /// Whose equation it is.
    pub note: String,
}

/// What to do where exact, rounded and truncated reading of "15 to 44" disagree (rulings.md 15).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Boundary {
    RoundedHalfUp,
    /// `unknown: boundary` until a named person attests.
    Review,
}

/// Limits of an acute rise of creatinine (KDIGO AKI: +0.3 mg/dL in 48 h or 1.5 times in 7 days).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcuteRise {
    pub rise_mg_dl: Number,
    pub within_hours: Number,
    pub ratio: Number,
    pub within_days: Number,
}
