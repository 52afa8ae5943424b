//! What the Patient record alone decides: age, sex, and whether the subject may appear at all.

use super::limits::Limits;
use super::{Evidence, Finding, Hidden, Reason, Verdict, evidence};
use crate::clinical::chart::{Chart, Recorded};
use crate::clinical::date::AsOf;
use crate::clinical::fact::{Decided, Decision, Person, Sex};
use crate::study::{Number, Study};

/// Completed years on the as-of day. A birth date known to the year or month decides when both its ends agree.
pub(super) fn age(chart: &Chart, as_of: AsOf, min_years: Option<Number>, max_years: Option<Number>) -> Finding {
    let Some((person, birth)) = chart.person.as_ref().and_then(|person| Some((person, person.body.birth_date?))) else {
        return not_known(chart, Reason::MissingBirthDate, "birth-date", "the birth date is not known");
    };
    let limits = Limits::plain(min_years, max_years);
    let [youngest, oldest] = [birth.last_day(), birth.day()].map(|born| f64::from(born.completed_years(as_of.day())));
    let verdicts = [youngest, oldest].map(|years| limits.place(years).verdict());
    let words = limits.words();
    let mut finding = if verdicts[0] != verdicts[1] {
        let words = format!("born {birth}: aged {youngest} or {oldest}, and {words} is asked");
        Finding { missing: vec!["birth-date"], ..Finding::unknown(Reason::ImpreciseDate, words) }
    } else if verdicts[0] == Verdict::Met {
        Finding::new(Verdict::Met, format!("aged {youngest}, within {words}"))
    } else {
        Finding::new(Verdict::NotMet, format!("aged {youngest}, not within {words}"))
    };
    finding.distance = limits.distance(youngest).filter(|_| youngest == oldest);
    finding.evidence.push(Evidence {
        value_used: (youngest == oldest).then_some(youngest),
        unit_used: Some("years".to_string()),
        threshold: Some(format!("{words} years")),
        ..evidence::person(person, "birth-date", birth.to_string())
    });
    finding
}

pub(super) fn sex(chart: &Chart, is: &[Sex]) -> Finding {
    let word = |sex: Sex| match sex {
        Sex::Female => "female",
        Sex::Male => "male",
        Sex::Other => "other",
        Sex::Unknown => "unknown",
    };
    let Some((person, sex)) = chart.person.as_ref().and_then(|person| Some((person, person.body.sex?))) else {
        return not_known(chart, Reason::MissingSex, "sex", "the sex is not known");
    };
    let finding = if is.contains(&sex) {
        Finding::new(Verdict::Met, format!("the sex is {}", word(sex)))
    } else if matches!(sex, Sex::Female | Sex::Male) {
        Finding::new(Verdict::NotMet, format!("the sex is {}", word(sex)))
    } else {
        not_known(chart, Reason::MissingSex, "sex", "the record says neither female nor male")
    };
    let threshold = is.iter().map(|sex| word(*sex)).collect::<Vec<_>>().join(" or ");
    Finding { evidence: vec![Evidence { threshold: Some(threshold), ..evidence::person(person, "sex", word(sex).to_string()) }], ..finding }
}

/// Two Patient versions that contradict each other are no better than none.
fn not_known(chart: &Chart, reason: Reason, what: &'static str, words: &str) -> Finding {
    let is_contradicted = chart.person.as_ref().is_some_and(|person| person.is_conflicting);
    let reason = if is_contradicted { Reason::ConflictingResults } else { reason };
    Finding { missing: vec![what], ..Finding::unknown(reason, words.to_string()) }
}

/// Whether the record says, for this day, that the subject has died.
pub(super) fn is_deceased(person: &Person, as_of: AsOf) -> bool {
    person.deceased && person.deceased_at.is_none_or(|died| as_of.includes(&died))
}

/// Why the subject must not appear on lists (rulings.md 17).
pub(super) fn hidden(study: &Study, chart: &Chart, as_of: AsOf, was_enrolled: bool) -> Option<Hidden> {
    let Some(Recorded { body: person, .. }) = &chart.person else { return Some(Hidden::NoPatient) };
    let opted_out = decisions(study, chart, as_of).filter_map(|decision| {
        let Decided::OptOut { opted_out } = decision.body.what else { return None };
        Some(opted_out)
    });
    let has_opted_out = opted_out.last().unwrap_or(false);
    if person.replaced_by.is_some() {
        Some(Hidden::Merged)
    } else if has_opted_out {
        Some(Hidden::OptedOut)
    } else if person.is_restricted {
        Some(Hidden::Restricted)
    } else if person.is_test && !chart.tests_are_real {
        Some(Hidden::TestPatient)
    } else if !was_enrolled && is_deceased(person, as_of) {
        Some(Hidden::Deceased)
    } else {
        None
    }
}

/// What persons decided for this study until then, in order of time.
pub(super) fn decisions<'c>(study: &Study, chart: &'c Chart, as_of: AsOf) -> impl Iterator<Item = &'c Recorded<Decision>> {
    let study = study.id.clone();
    chart.decisions.iter().filter(move |decision| decision.body.study == study && decision.body.at_ms <= as_of.until_ms)
}
