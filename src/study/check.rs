//! What a JSON Schema cannot say about a study: limits the wrong way round, one id twice, an equation that needs
//! what the rules do not have.

use std::collections::BTreeSet;

use super::{Number, Origin, Rule, Study, StudyFault, follow_up};
use crate::clinical::fact::{Relation, Sex};
use crate::clinical::quantity::Analyte;
use crate::egfr::{Inputs, estimate};

/// All that is wrong, in the order of the file.
pub(super) fn faults(study: &Study) -> Vec<StudyFault> {
    let mut faults = Vec::new();
    let mut fault = |path: String, message: String, hint: &str| faults.push(StudyFault { path, message, hint: hint.to_string() });
    if study.id.is_empty() {
        fault("/id".into(), "the study has no id".into(), "use the name of its folder");
    }
    if study.criteria.is_empty() {
        fault("/criteria".into(), "a study without criteria judges nobody".into(), "write at least one criterion");
    }
    if !study.criteria.is_empty() && study.criteria.iter().all(|criterion| criterion.origin == Origin::SiteRule) {
        fault(
            "/criteria".into(),
            "every criterion is a site rule, so eligibility would be met for everybody".into(),
            "give the protocol's own criteria the origin registry or report",
        );
    }
    if let Some(policy) = &study.egfr {
        let factor = policy.creatinine_factor_umol_l_per_mg_dl;
        // 113.12 g/mol makes 88.40; published factors differ in the fourth digit only.
        if !(88.0..=89.0).contains(&factor) {
            fault("/egfr/creatinine_factor_umol_l_per_mg_dl".into(), format!("{factor} umol/L in one mg/dL is not creatinine"), "use 88.42 or 88.4");
        }
        let adult = Inputs { creatinine_mg_dl: Some(1.0), age_years: Some(50.0), sex: Some(Sex::Female), ..Inputs::default() };
        if let Err(missing) = estimate(policy.equation, &adult) {
            fault(
                "/egfr/equation".into(),
                format!("{} also needs {}", policy.equation.id(), missing.inputs.join(", ")),
                "name an equation that judges adults from creatinine, age and sex alone",
            );
        }
    }
    for (path, message, hint) in wrong_dosing(study).into_iter().chain(wrong_safety(study)) {
        fault(path, message, hint);
    }
    let mut ids = BTreeSet::new();
    for (index, criterion) in study.criteria.iter().enumerate() {
        let at = |field: &str| format!("/criteria/{index}/{field}");
        if criterion.id.is_empty() {
            fault(at("id"), "the criterion has no id".into(), "give it a short id of its own");
        } else if !ids.insert(criterion.id.as_str()) {
            fault(at("id"), format!("two criteria have the id {:?}", criterion.id), "attestations name a criterion by its id; make it unique");
        }
        if study.egfr.is_none() && matches!(criterion.rule, Rule::EgfrRange { .. } | Rule::EgfrSustained { .. }) {
            fault(at("rule"), "it judges eGFR and the study names no equation".into(), "add egfr with equation, factor and which_result");
        }
        if let Some((message, hint)) = wrong_rule(&criterion.rule) {
            fault(at("rule"), message, hint);
        }
    }
    faults.extend(follow_up::faults(study));
    faults
}

type Wrong = (String, String, &'static str);

fn wrong_dosing(study: &Study) -> Vec<Wrong> {
    let Some(dosing) = &study.dosing else { return Vec::new() };
    let mut wrong = Vec::new();
    if study.arms.is_empty() {
        wrong.push(("/dosing".into(), "there is no arm to escalate over".into(), "write the arms, the lowest dose first"));
    }
    if study.arms.windows(2).any(|pair| pair[1].cells <= pair[0].cells) {
        wrong.push((
            "/arms".into(),
            "the arms do not rise in cells".into(),
            "write the arms from the lowest dose to the highest; escalation goes by their order",
        ));
    }
    if dosing.dlt_window_days == 0 {
        wrong.push(("/dosing/dlt_window_days".into(), "the window has no day".into(), "write the days that a subject is watched after the dose"));
    }
    if !(0.0..100.0).contains(&dosing.cells_tolerance_percent) {
        wrong.push(("/dosing/cells_tolerance_percent".into(), "it is no tolerance".into(), "write a percentage from 0 to below 100"));
    }
    wrong
}

fn wrong_safety(study: &Study) -> Vec<Wrong> {
    let Some(safety) = &study.safety else { return Vec::new() };
    let mut wrong: Vec<Wrong> = Vec::new();
    let weakest = safety.related.iter().min();
    let left_out = Relation::ALL
        .into_iter()
        .filter(|relation| weakest.is_none_or(|weakest| relation > weakest))
        .find(|relation| !safety.related.contains(relation));
    if weakest.is_none() {
        wrong.push(("/safety/related".into(), "no relation counts as related".into(), "name the relations that do"));
    } else if let Some(relation) = left_out {
        let message = format!("{} is left out, and a weaker relation counts as related", relation.word());
        wrong.push(("/safety/related".into(), message, "a stronger relation is related too; add it"));
    }
    let mut ids = BTreeSet::new();
    for (index, clock) in safety.clocks.iter().enumerate() {
        if !ids.insert(clock.id.as_str()) {
            wrong.push((
                format!("/safety/clocks/{index}/id"),
                format!("two clocks have the id {:?}", clock.id),
                "reports name a clock by its id; make it unique",
            ));
        }
        if clock.hours == 0 {
            wrong.push((format!("/safety/clocks/{index}/hours"), "it leaves no time".into(), "write the hours from awareness to the report"));
        }
    }
    for (index, analyte) in safety.candidates.iter().flat_map(|candidates| &candidates.analytes).enumerate() {
        if !GRADED.contains(analyte) {
            let message = format!("{} is not graded", analyte.word());
            wrong.push((format!("/safety/candidates/analytes/{index}"), message, "name an analyte that rules/ctcae.rs grades, or leave it out"));
        }
    }
    wrong
}

/// The analytes that `rules/ctcae.rs` grades.
const GRADED: [Analyte; 8] = [
    Analyte::Creatinine,
    Analyte::NeutrophilCount,
    Analyte::PlateletCount,
    Analyte::Hemoglobin,
    Analyte::Bilirubin,
    Analyte::Ast,
    Analyte::Alt,
    Analyte::AlkalinePhosphatase,
];

/// What is wrong with the numbers of one rule, and what to do.
fn wrong_rule(rule: &Rule) -> Option<(String, &'static str)> {
    let wrong_way = |low: f64, high: f64| (low > high).then(|| (format!("the lower limit {low} is above the upper limit {high}"), "swap them"));
    let not_positive = |what: &str, number: Option<Number>| {
        number.filter(|number| number.0 <= 0.0).map(|number| (format!("{what} is {}", number.0), "write a number above 0"))
    };
    match rule {
        Rule::Age { min_years, max_years } => {
            no_limit(*min_years, *max_years).or_else(|| wrong_way(Number::or(*min_years, f64::NEG_INFINITY), Number::or(*max_years, f64::INFINITY)))
        }
        Rule::Sex { is } => is.is_empty().then(|| ("no sex passes".to_string(), "name at least one sex, or leave the criterion out")),
        Rule::EgfrRange { low, high, boundary: _, max_age_days, acute_rise } => wrong_way(low.0, high.0)
            .or_else(|| {
                (low.0.fract() != 0.0 || high.0.fract() != 0.0).then(|| {
                    ("a limit of eGFR is not a whole number".to_string(), "reports round eGFR to whole numbers; the boundary policy rests on that")
                })
            })
            .or_else(|| not_positive("max_age_days", *max_age_days))
            .or_else(|| {
                acute_rise.as_ref().and_then(|rise| {
                    [("rise_mg_dl", rise.rise_mg_dl), ("within_hours", rise.within_hours), ("ratio", rise.ratio), ("within_days", rise.within_days)]
                        .into_iter()
                        .find_map(|(what, number)| not_positive(what, Some(number)))
                })
            }),
        Rule::EgfrSustained { below, days } => not_positive("below", Some(*below)).or_else(|| not_positive("days", Some(*days))),
        Rule::LabLimit { analyte, unit, min, max, max_age_days, convert } => no_limit(*min, *max)
            .or_else(|| wrong_way(Number::or(*min, f64::NEG_INFINITY), Number::or(*max, f64::INFINITY)))
            .or_else(|| not_positive("max_age_days", *max_age_days))
            .or_else(|| {
                std::iter::once(*unit).chain(convert.iter().map(|conversion| conversion.from)).find(|unit| analyte.bounds(*unit).is_none()).map(
                    |unit| {
                        (
                            format!("{} is not kept in {}", analyte.word(), unit.ucum()),
                            "use a unit of the analyte, see ANALYTES in clinical/quantity.rs",
                        )
                    },
                )
            }),
        Rule::LabUpperLimit { analytes, times, max_age_days } => analytes
            .is_empty()
            .then(|| ("it names no analyte".to_string(), "name at least one analyte"))
            .or_else(|| not_positive("times", Some(*times)))
            .or_else(|| not_positive("max_age_days", *max_age_days)),
        Rule::ConditionAbsent { .. } | Rule::ConditionPresent { .. } | Rule::Consent {} | Rule::Attested {} => None,
    }
}

fn no_limit(low: Option<Number>, high: Option<Number>) -> Option<(String, &'static str)> {
    (low.is_none() && high.is_none()).then(|| ("it has no limit".to_string(), "give a lower or an upper limit, or leave the criterion out"))
}
