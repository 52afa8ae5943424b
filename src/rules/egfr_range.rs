//! Is the eGFR of the result that counts within limits, and may it be trusted today?

use super::limits::{Limits, rounded};
use super::renal::{ML_MIN_173, Renal, words};
use super::results::Said;
use super::{Finding, Reason, Role, Verdict, acute_rise, is_stale};
use crate::clinical::date::AsOf;
use crate::clinical::quantity::Analyte;
use crate::study::{AcuteRise, Number};

pub(super) fn find(renal: &Renal<'_>, as_of: AsOf, limits: Limits, max_age_days: Option<Number>, rise: Option<&AcuteRise>) -> Finding {
    let threshold = format!("{} {ML_MIN_173}", limits.words());
    if let Some(finding) = renal.lacking(&threshold) {
        return finding;
    }
    let draw = renal.creatinine.newest_draw();
    let reading = &renal.creatinine.readings[draw.start];
    let egfr = renal.egfr(draw.start).expect("what lacks an eGFR was answered above");
    let mut finding = match renal.weigh(draw.clone(), &limits) {
        Said::Place(place) => {
            let words = match (place.verdict(), egfr.point()) {
                (Verdict::Unknown, point) => {
                    let exact = point.map_or_else(|| words(egfr), |value| format!("{value:.2}"));
                    format!("eGFR {exact} lies where exact, rounded and cut readings of {} disagree", limits.words())
                }
                (verdict @ (Verdict::Met | Verdict::NotMet), point) => {
                    let is = if verdict == Verdict::Met { "is" } else { "is not" };
                    match point.filter(|_| limits.are_rounded()) {
                        Some(value) => format!("eGFR {} ({value:.3} before rounding) {is} within {}", rounded(value), limits.words()),
                        None => format!("eGFR {} {is} within {}", words(egfr), limits.words()),
                    }
                }
            };
            Finding { reason: place.reason(), ..Finding::new(place.verdict(), words) }
        }
        Said::Comparator => Finding::unknown(
            Reason::Comparator,
            format!("the result has no exact value: eGFR {} may lie on either side of {}", words(egfr), limits.words()),
        ),
        Said::Conflicting => Finding::unknown(Reason::ConflictingResults, "creatinines of one draw contradict each other".to_string()),
    };
    finding.distance = egfr.point().and_then(|value| limits.distance(value));
    finding.evidence.push(renal.evidence(Role::Used, draw.start, &threshold));
    finding.evidence.extend(renal.beside(draw, &threshold));
    if let Some(why) = is_stale(&reading.effective, as_of, max_age_days) {
        finding.missing.push(Analyte::Creatinine.word());
        return finding.held_back(Reason::Stale, why);
    }
    if let Some((earlier, later)) = rise.and_then(|rise| acute_rise::find(&renal.creatinine, rise)) {
        for index in [earlier, later] {
            if index != 0 {
                finding.evidence.push(renal.evidence(Role::History, index, &threshold));
            }
        }
        let [from, to] = [earlier, later].map(|index| &renal.creatinine.readings[index]);
        let why = format!(
            "creatinine rose from {:.2} mg/dL ({}) to {:.2} mg/dL ({}): possible acute kidney injury",
            from.value.low, from.effective, to.value.low, to.effective
        );
        return finding.held_back(Reason::PossibleAki, why);
    }
    finding
}
