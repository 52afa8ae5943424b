//! Was eGFR below a limit for so many days that the disease is chronic? (rulings.md 16)

use super::limits::Limits;
use super::renal::{ML_MIN_173, Renal, words};
use super::results::Said;
use super::{Finding, Reason, Role, Verdict};
use crate::clinical::quantity::Analyte;
use crate::study::Number;

/// One draw of the history.
struct Past {
    /// Of the result that counts in it.
    index: usize,
    said: Said,
    /// Whole days, as written, from the last day it may mean to the newest draw.
    days_before: i64,
}

impl Past {
    fn is(&self, verdict: Verdict) -> bool {
        matches!(self.said, Said::Place(place) if place.verdict() == verdict)
    }
}

pub(super) fn find(renal: &Renal<'_>, below: f64, days: f64) -> Finding {
    let threshold = format!("below {below} {ML_MIN_173} for {days} days");
    if let Some(finding) = renal.lacking(&threshold) {
        return finding;
    }
    // "Below" leaves the limit itself out.
    let limits = Limits::plain(None, Some(Number(below.next_down())));
    let newest_day = renal.creatinine.readings[0].effective.day().number();
    let history: Vec<Past> = renal
        .creatinine
        .draws()
        .filter(|draw| renal.egfr(draw.start).is_some())
        .map(|draw| Past {
            index: draw.start,
            days_before: newest_day - renal.creatinine.readings[draw.start].effective.last_day().number(),
            said: renal.weigh(draw, &limits),
        })
        .collect();
    let newest = &history[0];
    let mut finding = judge(renal, &history, below, days);
    finding.distance = renal.egfr(newest.index).and_then(|egfr| egfr.point()).map(|value| below - value);
    let mut evidence = vec![renal.evidence(Role::Used, newest.index, &threshold)];
    evidence.extend(finding.evidence.drain(..).map(|row| super::Evidence { threshold: Some(threshold.clone()), ..row }));
    evidence.extend(renal.beside(renal.creatinine.newest_draw(), &threshold));
    Finding { evidence, ..finding }
}

/// The evidence holds the older results that decided.
fn judge(renal: &Renal<'_>, history: &[Past], below: f64, days: f64) -> Finding {
    let newest = &history[0];
    let egfr = |past: &Past| renal.egfr(past.index).map_or_else(String::new, words);
    let date = |past: &Past| renal.creatinine.readings[past.index].effective;
    let row = |past: &Past| renal.evidence(Role::History, past.index, "");
    match newest.said {
        Said::Place(place) if place.verdict() == Verdict::NotMet => {
            return Finding::new(Verdict::NotMet, format!("the newest eGFR {} is not below {below}", egfr(newest)));
        }
        Said::Place(_) => {}
        Said::Comparator => {
            return Finding::unknown(Reason::Comparator, format!("the newest result has no exact value and may lie on either side of {below}"));
        }
        Said::Conflicting => {
            return Finding::unknown(Reason::ConflictingResults, "creatinines of the newest draw contradict each other".to_string());
        }
    }
    let is_long_ago = |past: &&Past| days <= past.days_before as f64;
    let Some(long_ago) = history.iter().filter(is_long_ago).find(|past| past.is(Verdict::Met)) else {
        let words = match history.iter().rev().find(|past| past.is(Verdict::Met) && past.days_before > 0) {
            Some(oldest) => format!("eGFR {} is below {below}, for {} days so far; {days} are needed", egfr(newest), oldest.days_before),
            None => format!("eGFR {} is below {below}, once so far; a second result {days} days apart is needed", egfr(newest)),
        };
        return Finding { missing: vec![Analyte::Creatinine.word()], ..Finding::unknown(Reason::ShortHistory, words) };
    };
    let between = || history.iter().take_while(|past| past.index < long_ago.index);
    if let Some(above) = between().find(|past| past.is(Verdict::NotMet)) {
        let words = format!("eGFR was {} on {}, not below {below}", egfr(above), date(above));
        return Finding { evidence: vec![row(above), row(long_ago)], ..Finding::new(Verdict::NotMet, words) };
    }
    if let Some(unclear) = between().find(|past| !past.is(Verdict::Met)) {
        let reason = if unclear.said == Said::Conflicting { Reason::ConflictingResults } else { Reason::Comparator };
        let words = format!("between two results below {below}, the one of {} may lie on either side", date(unclear));
        return Finding { evidence: vec![row(unclear), row(long_ago)], ..Finding::unknown(reason, words) };
    }
    let words = format!("eGFR {} is below {below} and was {} {} days before", egfr(newest), egfr(long_ago), long_ago.days_before);
    Finding { evidence: vec![row(long_ago)], ..Finding::new(Verdict::Met, words) }
}
