//! Pure judgement: study x chart x as-of date -> an explained, three-valued assessment.
//! Knows no FHIR, no mapping, no site; never reads a clock or a store. If a rule needs more, the chart gets more.

mod acute_rise;
mod attested;
pub mod candidates;
mod conditions;
pub mod course;
mod ctcae;
pub mod digest;
pub mod dosing;
mod egfr_range;
mod egfr_sustained;
pub mod enrolment;
mod evidence;
mod labs;
mod limits;
pub mod outcome;
mod person;
mod proteinuria;
mod renal;
mod results;
pub mod safety;
pub mod schedule;
pub mod state;
pub mod statistics;
mod totals;

use serde::{Deserialize, Serialize};

use crate::clinical::chart::Chart;
use crate::clinical::date::AsOf;
use crate::digest::sha256_hex;
use crate::study::{Criterion, CriterionType, Origin, Rule, Stage, Study};

/// Kleene's three values; `Unknown` is missing or contradictory data, never "not met".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The subject passes.
    Met,
    /// The subject fails; for an exclusion, the exclusion applies.
    NotMet,
    Unknown,
}

impl Verdict {
    pub const fn word(self) -> &'static str {
        match self {
            Verdict::Met => "met",
            Verdict::NotMet => "not-met",
            Verdict::Unknown => "unknown",
        }
    }

    /// Kleene AND: `NotMet` wins, then `Unknown`.
    pub fn and(self, other: Verdict) -> Verdict {
        match (self, other) {
            (Verdict::NotMet, _) | (_, Verdict::NotMet) => Verdict::NotMet,
            (Verdict::Unknown, _) | (_, Verdict::Unknown) => Verdict::Unknown,
            (Verdict::Met, Verdict::Met) => Verdict::Met,
        }
    }
}

/// Why a criterion is `unknown` (or worth a look): a closed list of words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// No usable value at all.
    Missing,
    MissingSex,
    MissingBirthDate,
    /// The equation is not for this age.
    AgeOutOfRange,
    /// Birth date or result date too coarse to decide.
    ImpreciseDate,
    Stale,
    PossibleAki,
    ConflictingResults,
    Boundary,
    /// A comparator whose interval lies on both sides of a threshold.
    Comparator,
    ShortHistory,
    NoReferenceRange,
    /// The site does not declare its Conditions complete, so absence proves nothing.
    AbsenceNotProven,
    /// A Condition that is unconfirmed, or whose status is not given.
    Unconfirmed,
    NotAttested,
}

impl Reason {
    pub const fn word(self) -> &'static str {
        match self {
            Reason::Missing => "missing",
            Reason::MissingSex => "missing-sex",
            Reason::MissingBirthDate => "missing-birth-date",
            Reason::AgeOutOfRange => "age-out-of-range",
            Reason::ImpreciseDate => "imprecise-date",
            Reason::Stale => "stale",
            Reason::PossibleAki => "possible-aki",
            Reason::ConflictingResults => "conflicting-results",
            Reason::Boundary => "boundary",
            Reason::Comparator => "comparator",
            Reason::ShortHistory => "short-history",
            Reason::NoReferenceRange => "no-reference-range",
            Reason::AbsenceNotProven => "absence-not-proven",
            Reason::Unconfirmed => "unconfirmed",
            Reason::NotAttested => "not-attested",
        }
    }
}

/// One study's judgement of one subject.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Assessment {
    pub study: String,
    pub study_hash: String,
    pub as_of_ms: i64,
    /// eGFR of the result that counts, unrounded mL/min/1.73 m2.
    pub egfr: Option<f64>,
    pub prescreen: Verdict,
    pub eligibility: Verdict,
    pub state: SubjectState,
    /// The subject entered at some time, by a person's decision or the hospital's record, whatever the state is now: from
    /// then on the state drives the flag (rulings.md 20).
    pub was_enrolled: bool,
    pub criteria: Vec<CriterionVerdict>,
    /// Set when exactly one of several prescreen criteria fails and all others are met.
    pub near_miss: Option<NearMiss>,
    /// Words of what is missing, over all criteria, sorted: analytes, `birth-date`, `sex`, `condition`, `reference-range`.
    pub missing: Vec<String>,
    /// Why the subject must not appear on lists or get new write-backs (rulings.md 17); `None` when they may.
    pub hidden: Option<Hidden>,
    /// Each creatinine that gave an eGFR, oldest first, for the plot and the history.
    pub series: Vec<SeriesPoint>,
    /// Things a person must look at, such as an eligibility deviation of an enrolled subject.
    pub alerts: Vec<Alert>,
}

impl Assessment {
    /// Hash of everything on a card that a decision may rest on; consent and the like name it (rulings.md 18).
    pub fn evidence_hash(&self) -> String {
        let mut seen = self.study_hash.clone();
        for criterion in &self.criteria {
            for part in [&criterion.id, &criterion.evidence_hash] {
                seen.push_str(part);
                seen.push('\0');
            }
        }
        sha256_hex(seen.as_bytes())
    }

    /// In words, what stands between a subject and `met`: what fails, else what is unknown, the prescreen first.
    pub fn why(&self) -> String {
        for (stage, verdict) in [(Stage::Prescreen, Verdict::NotMet), (Stage::Prescreen, Verdict::Unknown), (Stage::Screening, Verdict::NotMet)] {
            let of_it = self.criteria.iter().filter(|criterion| criterion.stage == stage && criterion.verdict == verdict);
            let mut reasons: Vec<&str> = of_it.map(|criterion| criterion.explanation.as_str()).collect();
            // Two criteria of one eGFR lack the same thing in the same words.
            reasons.dedup();
            if !reasons.is_empty() {
                return reasons.join("; ");
            }
        }
        match self.criteria.iter().filter(|criterion| criterion.verdict != Verdict::Met).count() {
            0 => "every criterion is met".into(),
            1 => "the prescreen is met; 1 criterion is open".into(),
            open => format!("the prescreen is met; {open} criteria are open"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CriterionVerdict {
    pub id: String,
    pub text: String,
    #[serde(rename = "type")]
    pub criterion_type: CriterionType,
    pub origin: Origin,
    pub stage: Stage,
    pub verdict: Verdict,
    /// The verdict by the protocol's words alone, where a site rule (staleness, acute rise) holds it back; decides `eligibility`.
    pub protocol_verdict: Verdict,
    pub reason: Option<Reason>,
    /// In a sentence part, for the why-card: "eGFR 38.2 is between 15 and 44".
    pub explanation: String,
    pub evidence: Vec<Evidence>,
    pub missing: Vec<String>,
    /// How far the value is from failing (positive) or passing (negative), in the unit of the criterion.
    pub distance: Option<f64>,
    /// A person's answer that stands.
    pub attestation: Option<Attestation>,
    /// Hash of verdict, reason and evidence before any attestation; an attestation names it and lapses when it changes.
    pub evidence_hash: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Decided the verdict.
    Used,
    /// Newer than the one used, but not usable: preliminary, unmapped unit, comparator.
    NewerUnusable,
    /// Of the same draw and contradicting.
    Contradicting,
    /// Part of a history that decided (sustained, acute rise).
    History,
    /// What the answer would be if a missing input were known, such as the other sex; never decides.
    IfKnown,
}

impl Role {
    pub const fn word(self) -> &'static str {
        match self {
            Role::Used => "used",
            Role::NewerUnusable => "newer-unusable",
            Role::Contradicting => "contradicting",
            Role::History => "history",
            Role::IfKnown => "if-known",
        }
    }
}

/// One piece of evidence: which resource, which value as received, which value used, when, by which equation, against which limits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    pub role: Role,
    /// `Observation/abc`.
    pub resource: String,
    pub version: Option<String>,
    /// Receipt number; 0 while files are screened.
    pub message: i64,
    /// Analyte or concept word, `birth-date`, `sex`.
    pub what: String,
    pub code: String,
    pub status: String,
    /// As written at the source, FHIR syntax.
    pub date: Option<String>,
    pub value_as_received: String,
    pub unit_as_received: String,
    pub value_used: Option<f64>,
    pub unit_used: Option<String>,
    pub equation: Option<String>,
    pub egfr: Option<f64>,
    /// Limits the value was held against, such as "15 to 44 mL/min/1.73 m2".
    pub threshold: Option<String>,
    /// Why it could not be used: an issue code word, a status, or `comparator`.
    pub unusable: Option<String>,
    /// A word to the reader, such as `if female` or `eGFR is above 36.4`.
    pub note: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attestation {
    pub by: String,
    pub reason: String,
    pub at_ms: i64,
    pub passes: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NearMiss {
    pub criterion: String,
    pub distance: Option<f64>,
    /// Change of eGFR per year over the series, where it can be told.
    pub trend_per_year: Option<f64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SeriesPoint {
    pub date: String,
    pub at_ms: i64,
    pub egfr: f64,
    pub creatinine_mg_dl: f64,
    pub resource: String,
    pub version: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hidden {
    OptedOut,
    Restricted,
    TestPatient,
    Deceased,
    /// Merged into another record.
    Merged,
    /// Nothing says that the Patient exists.
    NoPatient,
}

impl Hidden {
    /// As in answers, stores and pages.
    pub const fn word(self) -> &'static str {
        match self {
            Hidden::OptedOut => "opted-out",
            Hidden::Restricted => "restricted",
            Hidden::TestPatient => "test-patient",
            Hidden::Deceased => "deceased",
            Hidden::Merged => "merged",
            Hidden::NoPatient => "no-patient",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Alert {
    EligibilityDeviation,
    AttestationLapsed,
}

impl Alert {
    pub const fn word(self) -> &'static str {
        match self {
            Alert::EligibilityDeviation => "eligibility-deviation",
            Alert::AttestationLapsed => "attestation-lapsed",
        }
    }
}

/// Where a subject stands in a study (rulings.md 19).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SubjectState {
    /// Prescreen is not `met` and nobody decided anything.
    None,
    Candidate,
    Consented,
    Eligible,
    Enrolled,
    OnFollowUp,
    Completed,
    ScreenFailed,
    Lost,
    Withdrawn,
    Deceased,
}

impl SubjectState {
    pub const ALL: [SubjectState; 11] = [
        SubjectState::None,
        SubjectState::Candidate,
        SubjectState::Consented,
        SubjectState::Eligible,
        SubjectState::Enrolled,
        SubjectState::OnFollowUp,
        SubjectState::Completed,
        SubjectState::ScreenFailed,
        SubjectState::Lost,
        SubjectState::Withdrawn,
        SubjectState::Deceased,
    ];

    /// As in answers, stores and pages.
    pub const fn word(self) -> &'static str {
        match self {
            SubjectState::None => "none",
            SubjectState::Candidate => "candidate",
            SubjectState::Consented => "consented",
            SubjectState::Eligible => "eligible",
            SubjectState::Enrolled => "enrolled",
            SubjectState::OnFollowUp => "on-follow-up",
            SubjectState::Completed => "completed",
            SubjectState::ScreenFailed => "screen-failed",
            SubjectState::Lost => "lost",
            SubjectState::Withdrawn => "withdrawn",
            SubjectState::Deceased => "deceased",
        }
    }
}

/// The verdicts of an assessment and their evidence: all that an answer about files shows.
#[derive(Clone, Debug, PartialEq)]
pub struct Screened {
    /// eGFR of the result that counts, unrounded mL/min/1.73 m2.
    pub egfr: Option<f64>,
    pub prescreen: Verdict,
    pub criteria: Vec<CriterionVerdict>,
}

/// Judges one subject as [`assess`] does, and leaves out what only a subject's page and write-back need: the history,
/// the state, the alerts.
pub fn screen(study: &Study, chart: &Chart, as_of: AsOf) -> Screened {
    let renal = study.egfr.as_ref().map(|policy| renal::Renal::read(policy, chart, as_of));
    let (criteria, _) = judge(study, chart, as_of, renal.as_ref());
    Screened { egfr: renal.as_ref().and_then(renal::Renal::counting_egfr), prescreen: totals::prescreen(&criteria), criteria }
}

/// Judges one subject for one study, with what a person may see of why.
pub fn assess(study: &Study, chart: &Chart, as_of: AsOf) -> Assessment {
    let renal = study.egfr.as_ref().map(|policy| renal::Renal::read(policy, chart, as_of));
    let (criteria, mut alerts) = judge(study, chart, as_of, renal.as_ref());
    let prescreen = totals::prescreen(&criteria);
    let eligibility = totals::eligibility(&criteria);
    let standing = state::standing(study, chart, as_of);
    if let Some(entry) = standing.entry {
        // Who was enrolled here was eligible by what was known; whom the hospital enrolled was never judged here, and
        // what nobody attested contradicts nothing.
        let is_deviation = match eligibility_at_enrolment(study, chart, AsOf::instant(entry.date.start_ms)) {
            Verdict::NotMet => true,
            Verdict::Unknown => entry.is_by_person,
            Verdict::Met => false,
        };
        if is_deviation {
            alerts.push(Alert::EligibilityDeviation);
        }
    }
    let series = renal.as_ref().map(renal::Renal::series).unwrap_or_default();
    let mut missing: Vec<String> = criteria.iter().flat_map(|criterion| criterion.missing.iter().cloned()).collect();
    missing.sort_unstable();
    missing.dedup();
    Assessment {
        study: study.id.clone(),
        study_hash: study.hash.clone(),
        as_of_ms: as_of.until_ms,
        egfr: renal.as_ref().and_then(renal::Renal::counting_egfr),
        prescreen,
        eligibility,
        state: standing.state(prescreen, eligibility),
        was_enrolled: standing.entry.is_some(),
        near_miss: totals::near_miss(&criteria, &series),
        missing,
        hidden: person::hidden(study, chart, as_of, standing.entry.is_some()),
        criteria,
        series,
        alerts,
    }
}

/// Why a subject must not appear where subjects are named (rulings.md 17); `None` where they may.
pub fn hidden(study: &Study, chart: &Chart, as_of: AsOf, was_enrolled: bool) -> Option<Hidden> {
    person::hidden(study, chart, as_of, was_enrolled)
}

/// Today's knowledge of the day of enrolment: a correction since then may show a deviation (rulings.md 20).
fn eligibility_at_enrolment(study: &Study, chart: &Chart, enrolled: AsOf) -> Verdict {
    let renal = study.egfr.as_ref().map(|policy| renal::Renal::read(policy, chart, enrolled));
    totals::eligibility(&judge(study, chart, enrolled, renal.as_ref()).0)
}

/// Every criterion, with what persons attested.
fn judge(study: &Study, chart: &Chart, as_of: AsOf, renal: Option<&renal::Renal<'_>>) -> (Vec<CriterionVerdict>, Vec<Alert>) {
    let mut alerts = Vec::new();
    let mut criteria = Vec::with_capacity(study.criteria.len());
    for criterion in &study.criteria {
        let finding = find(study, criterion, chart, as_of, renal);
        let (verdict, has_lapsed) = attested::answer(study, criterion, finding, chart, as_of);
        if has_lapsed && !alerts.contains(&Alert::AttestationLapsed) {
            alerts.push(Alert::AttestationLapsed);
        }
        criteria.push(verdict);
    }
    (criteria, alerts)
}

/// What the data alone say about one criterion.
fn find(study: &Study, criterion: &Criterion, chart: &Chart, as_of: AsOf, renal: Option<&renal::Renal<'_>>) -> Finding {
    let renal = || renal.expect("Study::parse refuses eGFR criteria without an equation");
    match &criterion.rule {
        Rule::Age { min_years, max_years } => person::age(chart, as_of, *min_years, *max_years),
        Rule::Sex { is } => person::sex(chart, is),
        Rule::EgfrRange { low, high, boundary, max_age_days, acute_rise } => {
            egfr_range::find(renal(), as_of, limits::Limits::whole(*low, *high, *boundary), *max_age_days, acute_rise.as_ref())
        }
        Rule::EgfrSustained { below, days } => egfr_sustained::find(renal(), below.0, days.0),
        Rule::ConditionAbsent { concept, ever } => conditions::absent(chart, as_of, *concept, *ever),
        Rule::ConditionPresent { concept } => conditions::present(chart, as_of, *concept),
        Rule::LabLimit { analyte, unit, min, max, max_age_days, convert } => {
            labs::limit(chart, as_of, *analyte, labs::InUnit { unit: *unit, convert }, limits::Limits::plain(*min, *max), *max_age_days)
        }
        Rule::LabUpperLimit { analytes, times, max_age_days } => labs::upper_limit(chart, as_of, analytes, times.0, *max_age_days),
        Rule::Consent {} => attested::consent(study, chart, as_of),
        Rule::Attested {} => attested::open(),
    }
}

/// What one rule found, before any attestation.
struct Finding {
    verdict: Verdict,
    /// Without the site rules that may hold `verdict` back.
    protocol_verdict: Verdict,
    reason: Option<Reason>,
    explanation: String,
    evidence: Vec<Evidence>,
    missing: Vec<&'static str>,
    distance: Option<f64>,
}

/// Judged by the calendar, as people count; a coarse date counts from its first day.
fn is_stale(date: &crate::clinical::date::PartialDate, as_of: AsOf, max_age_days: Option<crate::study::Number>) -> Option<String> {
    let max = max_age_days?.0;
    let age_days = as_of.day().number() - date.day().number();
    (age_days as f64 > max).then(|| format!("the result of {date} is {age_days} days old and {max} are allowed"))
}

impl Finding {
    /// A verdict that no site rule holds back.
    fn new(verdict: Verdict, explanation: String) -> Finding {
        Finding { verdict, protocol_verdict: verdict, reason: None, explanation, evidence: Vec::new(), missing: Vec::new(), distance: None }
    }

    fn unknown(reason: Reason, explanation: String) -> Finding {
        Finding { reason: Some(reason), ..Finding::new(Verdict::Unknown, explanation) }
    }

    /// A site rule asks its own question first; the protocol's own verdict stays.
    fn held_back(self, reason: Reason, explanation: String) -> Finding {
        Finding { verdict: Verdict::Unknown, reason: Some(reason), explanation: format!("{}, but {explanation}", self.explanation), ..self }
    }
}
