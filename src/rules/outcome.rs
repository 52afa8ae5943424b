//! What became of the kidneys of one subject: eGFR and proteinuria at baseline and at each visit. Missing stays missing;
//! kinds of proteinuria are never mixed.

use serde::Serialize;

use super::course::{Cited, Dated};
use super::enrolment::Entered;
use super::limits::Interval;
use super::proteinuria;
use super::renal::Renal;
use super::results::Results;
use super::schedule::{self, Window};
use super::{SubjectState, statistics};
use crate::clinical::chart::Chart;
use crate::clinical::date::{AsOf, MS_PER_DAY, PartialDate, Precision};
use crate::clinical::fact::Measurement;
use crate::clinical::quantity::Unit;
use crate::study::follow_up::{BaselineWhich, Measure, OutcomePolicy};
use crate::study::{EgfrPolicy, Study};

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Outcome {
    /// eGFR first, then each kind of proteinuria that the study follows and the subject has.
    pub series: Vec<Series>,
}

/// One measure over time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Series {
    pub measure: Measure,
    /// UCUM code of every value below.
    pub unit: String,
    pub baseline: Option<Point>,
    /// Id of the study's stratum that the subject's baseline eGFR falls into, unrounded; the same in every series.
    pub stratum: Option<String>,
    /// Every usable value until the trial ends for the subject, oldest first.
    pub points: Vec<Point>,
    /// In the study's order of visits, without the baseline's own.
    pub visits: Vec<VisitValue>,
    pub slope: Option<Slope>,
    /// Results since the earliest day of a baseline that are no points.
    pub unusable: Vec<Unusable>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Point {
    /// FHIR syntax.
    pub date: String,
    pub at_ms: i64,
    pub value: f64,
    /// The results it was computed from.
    pub by: Vec<Cited>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VisitValue {
    pub visit: String,
    /// The value nearest to the due day within the window; of two that are equally near, the newer.
    pub point: Option<Point>,
    /// From baseline, in the series' unit.
    pub change: Option<f64>,
    /// `None` also where the baseline is 0.
    pub percent_change: Option<f64>,
    /// Whether eGFR rose by more than the study's threshold; `None` without a value or a baseline, and for proteinuria.
    pub is_responder: Option<bool>,
}

/// Ordinary least squares of value on time since baseline, over all points from baseline on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Slope {
    /// In the series' unit, per 365.25 days.
    pub per_year: f64,
    /// `None` with fewer than three points.
    pub standard_error: Option<f64>,
    pub points: usize,
}

/// A result that exists and is no point.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Unusable {
    pub date: Option<String>,
    /// A status, an issue code word, `comparator`, `imprecise-date`, `conflicting-results`, or what the equation lacks.
    pub why: String,
    pub by: Cited,
}

/// A value before it is written out.
#[derive(Clone, Debug)]
pub(super) struct Value {
    pub effective: PartialDate,
    pub value: f64,
    pub by: Vec<Cited>,
}

impl Value {
    fn point(&self) -> Point {
        Point { date: self.effective.to_string(), at_ms: self.effective.start_ms, value: self.value, by: self.by.clone() }
    }

    /// Day of collection as written at the source; the first day where it took more than one.
    fn day(&self) -> i64 {
        self.effective.day().number()
    }
}

/// The values of one measure, oldest first, and what gave none.
pub(super) struct Values {
    pub known: Vec<Value>,
    unusable: Vec<(Option<PartialDate>, String, Cited)>,
}

/// Refuses what is known to the month or year only: it lies at no point of time.
pub(super) fn to_the_day(of: &Measurement) -> Result<(), &'static str> {
    if of.effective.is_some_and(|effective| effective.precision < Precision::Day) { Err("imprecise-date") } else { Ok(()) }
}

/// One value for each draw, of the result that counts in it. A draw whose results of equal standing name different values
/// says nothing: which of them would be chance.
pub(super) fn exact(results: &Results<'_>, value: impl Fn(usize) -> Result<Interval, &'static str>) -> Values {
    let cited = |index: usize| Cited::of(&results.readings[index].of.source);
    let mut values = Values { known: Vec::new(), unusable: Vec::new() };
    for draw in results.draws() {
        let first = draw.start;
        let reading = &results.readings[first];
        let standing = |index: usize| (results.readings[index].of.body.rank, results.readings[index].of.issued_ms);
        let is_rival = |index: &usize| standing(*index) == standing(first) && results.readings[*index].value != reading.value;
        let found = if reading.of.is_conflicting || draw.clone().any(|index| is_rival(&index)) {
            Err("conflicting-results")
        } else {
            value(first).and_then(|interval| interval.point().ok_or("comparator"))
        };
        match found {
            Ok(value) => values.known.push(Value { effective: reading.effective, value, by: vec![cited(first)] }),
            Err(why) => values.unusable.push((Some(reading.effective), why.to_string(), cited(first))),
        }
    }
    values.known.sort_by_key(|value| (value.effective.start_ms, value.effective.end_ms));
    values.unusable.extend(results.unusable.iter().map(|(of, why)| (of.body.effective, (*why).to_string(), Cited::of(&of.source))));
    values.unusable.sort_by(|a, b| (a.0.map(|date| date.start_ms), &a.2).cmp(&(b.0.map(|date| date.start_ms), &b.2)));
    values
}

pub(super) fn outcome(study: &Study, chart: &Chart, entered: &Entered, state: SubjectState, as_of: AsOf) -> Outcome {
    let (Some(policy), Some(egfr)) = (&study.outcome, &study.egfr) else { return Outcome::default() };
    let subject = Subject { policy, windows: schedule::windows(study, entered), dosed: entered.doses.first().map(|dose| &dose.given) };
    let last_day = schedule::last_day(&subject.windows, entered, state);
    let is_over = |day: i64| last_day.is_some_and(|last| last < day);
    let factor = egfr.creatinine_factor_umol_l_per_mg_dl;
    let values = |measure: Measure| {
        let mut values = match measure {
            Measure::Egfr => egfrs(egfr, chart, as_of),
            Measure::Upcr => proteinuria::upcr(chart, as_of, factor),
            Measure::Uacr => proteinuria::uacr(chart, as_of, factor),
            Measure::UrineProteinPer24h => proteinuria::per_24h(chart, as_of),
        };
        values.known.retain(|value| !is_over(value.day()));
        values.unusable.retain(|(date, _, _)| date.is_none_or(|date| !is_over(date.day().number())));
        values
    };
    let mut series: Vec<Series> = Measure::ALL
        .into_iter()
        .filter(|measure| policy.measures.contains(measure))
        .map(|measure| (measure, values(measure)))
        .filter(|(measure, values)| *measure == Measure::Egfr || !values.known.is_empty() || !values.unusable.is_empty())
        .map(|(measure, values)| subject.series(measure, &values))
        .collect();
    // Study::parse refuses strata where eGFR is not measured.
    let egfr = series.iter().find(|series| series.measure == Measure::Egfr).and_then(|series| Some(series.baseline.as_ref()?.value));
    let stratum = egfr.and_then(|egfr| policy.strata.iter().find(|stratum| stratum.holds(egfr))).map(|stratum| stratum.id.clone());
    for series in &mut series {
        series.stratum.clone_from(&stratum);
    }
    Outcome { series }
}

const fn unit(measure: Measure) -> Unit {
    match measure {
        Measure::Egfr => Unit::MlPerMinPer173,
        Measure::Upcr | Measure::Uacr => Unit::MgPerG,
        Measure::UrineProteinPer24h => Unit::MgPer24h,
    }
}

/// eGFR of each draw of creatinine, by the study's equation and the age on the day of the specimen.
fn egfrs(policy: &EgfrPolicy, chart: &Chart, as_of: AsOf) -> Values {
    let renal = Renal::read_dated(policy, chart, as_of);
    exact(&renal.creatinine, |index| renal.egfr(index).ok_or_else(|| renal.missing_input(&renal.creatinine.readings[index]).0.word()))
}

/// What all measures of one subject share.
struct Subject<'a> {
    policy: &'a OutcomePolicy,
    windows: Vec<Window<'a>>,
    /// The first dose.
    dosed: Option<&'a Dated>,
}

impl Subject<'_> {
    fn series(&self, measure: Measure, values: &Values) -> Series {
        let baseline = self.baseline(values);
        let earliest = self.dosed.map(|dosed| dosed.read().day().number() - i64::from(self.policy.baseline.within_days));
        let is_of_interest = |date: &Option<PartialDate>| date.zip(earliest).is_none_or(|(date, earliest)| earliest <= date.last_day().number());
        let visits = self.windows.iter().filter(|window| 0 < window.visit.week);
        Series {
            measure,
            unit: unit(measure).ucum().to_string(),
            baseline: baseline.map(Value::point),
            stratum: None,
            points: values.known.iter().map(Value::point).collect(),
            visits: visits.map(|window| self.at_visit(measure, window, values, baseline)).collect(),
            slope: baseline.and_then(|baseline| slope(values, baseline)),
            unusable: values
                .unusable
                .iter()
                .filter(|(date, _, _)| is_of_interest(date))
                .map(|(date, why, by)| Unusable { date: date.map(|date| date.to_string()), why: why.clone(), by: by.clone() })
                .collect(),
        }
    }

    /// `None` without a dose: nothing says before what.
    fn baseline<'v>(&self, values: &'v Values) -> Option<&'v Value> {
        let dosed = self.dosed?.read();
        let earliest = dosed.day().number() - i64::from(self.policy.baseline.within_days);
        match self.policy.baseline.which {
            BaselineWhich::LastBeforeDose => {
                values.known.iter().rev().find(|value| is_before(&value.effective, &dosed)).filter(|value| earliest <= value.day())
            }
        }
    }

    fn at_visit(&self, measure: Measure, window: &Window<'_>, values: &Values, baseline: Option<&Value>) -> VisitValue {
        let is_after_dose = |value: &Value| self.dosed.is_none_or(|dosed| !is_before(&value.effective, &dosed.read()));
        // From the newest on, so that of two equally near the newer is met first.
        let value = values
            .known
            .iter()
            .rev()
            .filter(|value| window.holds(value.day()) && is_after_dose(value))
            .min_by_key(|value| (value.day() - window.due).abs());
        let both = value.zip(baseline);
        let change = both.map(|(value, baseline)| value.value - baseline.value);
        let percent_change =
            both.filter(|(_, baseline)| 0.0 < baseline.value).map(|(value, baseline)| (value.value - baseline.value) / baseline.value * 100.0);
        VisitValue {
            visit: window.visit.id.clone(),
            point: value.map(Value::point),
            change,
            percent_change,
            is_responder: percent_change.filter(|_| measure == Measure::Egfr).map(|percent| self.policy.responder_percent < percent),
        }
    }
}

/// Not later than the dose. Where either has no time of day, the day of the dose counts as before: blood is drawn, then
/// the infusion begins.
fn is_before(result: &PartialDate, dosed: &PartialDate) -> bool {
    if result.precision == Precision::Instant && dosed.precision == Precision::Instant {
        result.end_ms <= dosed.start_ms
    } else {
        result.last_day() <= dosed.day()
    }
}

fn slope(values: &Values, baseline: &Value) -> Option<Slope> {
    let start_ms = baseline.effective.start_ms;
    let years = |value: &Value| (value.effective.start_ms - start_ms) as f64 / (365.25 * MS_PER_DAY as f64);
    let points: Vec<(f64, f64)> =
        values.known.iter().filter(|value| start_ms <= value.effective.start_ms).map(|value| (years(value), value.value)).collect();
    let line = statistics::least_squares(&points)?;
    Some(Slope { per_year: line.slope, standard_error: line.standard_error, points: line.points })
}
