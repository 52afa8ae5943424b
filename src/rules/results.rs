//! Which results of one analyte count as of a date, in which order, and what a draw says when its results disagree.

use std::cmp::{Ordering, Reverse};
use std::ops::Range;

use super::limits::{Interval, Place};
use crate::clinical::chart::{Chart, Recorded};
use crate::clinical::date::{AsOf, PartialDate};
use crate::clinical::fact::Measurement;
use crate::clinical::quantity::Analyte;
use crate::study::WhichResult;

/// A result that may decide.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading<'c> {
    pub of: &'c Recorded<Measurement>,
    pub effective: PartialDate,
    /// In the unit of the rule.
    pub value: Interval,
    /// 0 for the newest draw; results whose times overlap the newest of a draw belong to it (rulings.md 3).
    draw: usize,
}

/// The results of one analyte that exist as of a date.
#[derive(Debug)]
pub(super) struct Results<'c> {
    /// Newest draw first; within a draw the lower rank, then the newest `issued`, then the higher value.
    pub readings: Vec<Reading<'c>>,
    /// What exists and cannot decide, with the word why, newest first.
    pub unusable: Vec<(&'c Recorded<Measurement>, &'c str)>,
}

/// Reads the results of one analyte; `value_of` gives the value in the rule's unit, or the word why it cannot.
pub(super) fn read<'c>(
    chart: &'c Chart,
    analyte: Analyte,
    as_of: AsOf,
    value_of: impl Fn(&'c Measurement) -> Result<Interval, &'static str>,
) -> Results<'c> {
    let mut results = Results { readings: Vec::with_capacity(chart.measurements.len()), unusable: Vec::new() };
    for of in &chart.measurements {
        if of.body.analyte != Some(analyte) || of.body.effective.is_some_and(|effective| !as_of.includes(&effective)) {
            continue;
        }
        match (usable(of, &value_of), of.body.effective) {
            (Ok(value), Some(effective)) => results.readings.push(Reading { of, effective, value, draw: 0 }),
            (Ok(_), None) => results.unusable.push((of, "time-missing")),
            (Err(why), _) => results.unusable.push((of, why)),
        }
    }
    results.readings.sort_by_key(|reading| Reverse(reading.effective.start_ms));
    number_draws(&mut results.readings);
    results.readings.sort_by(in_order);
    results.unusable.sort_by_key(|(of, _)| (Reverse(of.body.effective.map(|effective| effective.start_ms)), &of.source.id));
    results
}

fn usable<'c>(of: &'c Recorded<Measurement>, value_of: &impl Fn(&'c Measurement) -> Result<Interval, &'static str>) -> Result<Interval, &'c str> {
    if !of.status.is_final() {
        return Err(of.status.word());
    }
    match &of.body.unusable {
        Some(why) => Err(why),
        None => value_of(&of.body),
    }
}

/// By draw, rank, newest `issued`; between results that contradict each other the higher value, so that neither order nor door
/// of arrival can show, which gives ids of its own; the id last.
fn in_order(a: &Reading<'_>, b: &Reading<'_>) -> Ordering {
    let key = |reading: &Reading<'_>| (reading.draw, reading.of.body.rank, Reverse(reading.of.issued_ms));
    key(a)
        .cmp(&key(b))
        .then_with(|| b.value.high.total_cmp(&a.value.high))
        .then_with(|| b.value.low.total_cmp(&a.value.low))
        .then_with(|| a.of.source.id.cmp(&b.of.source.id))
}

/// Numbers the draws of readings that are sorted newest first.
fn number_draws(readings: &mut [Reading<'_>]) {
    // Nothing that starts earlier than the widest interval before an anchor can still reach it.
    let widest_ms = readings.iter().map(|reading| reading.effective.end_ms - reading.effective.start_ms).max().unwrap_or(0);
    let mut numbered = vec![false; readings.len()];
    let mut draw = 0;
    for first in 0..readings.len() {
        if numbered[first] {
            continue;
        }
        let anchor = readings[first].effective;
        for other in first..readings.len() {
            if readings[other].effective.start_ms + widest_ms < anchor.start_ms {
                break;
            }
            if !numbered[other] && readings[other].effective.overlaps(&anchor) {
                numbered[other] = true;
                readings[other].draw = draw;
            }
        }
        draw += 1;
    }
}

/// What one draw says against limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    Place(Place),
    /// No interval falls on one side.
    Comparator,
    /// Results of equal standing disagree.
    Conflicting,
}

impl<'c> Results<'c> {
    /// The draws as ranges of `readings`, newest first; in each the first result is the one that counts.
    pub fn draws(&self) -> impl Iterator<Item = Range<usize>> {
        let mut from = 0;
        self.readings.chunk_by(|a, b| a.draw == b.draw).map(move |draw| {
            from += draw.len();
            from - draw.len()..from
        })
    }

    /// Empty where nothing counts.
    pub fn newest_draw(&self) -> Range<usize> {
        self.draws().next().unwrap_or(0..0)
    }

    /// What `draw` says, by the place of each of its results; `which` says whom the first result may outrank.
    pub fn weigh(&self, draw: Range<usize>, which: WhichResult, place: impl Fn(usize) -> Option<Place>) -> Said {
        let first = self.readings[draw.start].of;
        let is_rival = |index: &usize| {
            let of = self.readings[*index].of;
            which == WhichResult::NewestUncontradicted || (of.body.rank, of.issued_ms) == (first.body.rank, first.issued_ms)
        };
        let mut heard: Vec<usize> = draw.filter(is_rival).collect();
        if first.is_conflicting {
            // A version that contradicts this one may name another time, or no value that could be used.
            let rivals = || (0..self.readings.len()).filter(|index| self.readings[*index].of.is_conflicting);
            if rivals().count() < 2 {
                return Said::Conflicting;
            }
            heard.extend(rivals());
        }
        let mut places = heard.into_iter().filter_map(place);
        let Some(said) = places.next() else { return Said::Comparator };
        if places.all(|other| other.verdict() == said.verdict()) { Said::Place(said) } else { Said::Conflicting }
    }

    /// What is of the time of the draw that counts, or newer, and cannot decide: at most five, newest first.
    pub fn newer_unusable(&self) -> impl Iterator<Item = (&'c Recorded<Measurement>, &'c str)> {
        let since_ms = self.readings.first().map_or(i64::MIN, |reading| reading.effective.start_ms);
        let is_newer = move |of: &Recorded<Measurement>| of.body.effective.is_none_or(|effective| since_ms <= effective.end_ms);
        self.unusable.iter().filter(move |(of, _)| is_newer(of)).take(5).copied()
    }
}
