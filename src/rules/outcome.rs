//! What became of the kidneys of one subject: eGFR and proteinuria at baseline and at each visit. Missing stays missing;
//! kinds of proteinuria are never mixed.

use serde::Serialize;

use super::course::Cited;
use super::enrolment::Entered;
use super::schedule::Schedule;
use crate::clinical::chart::Chart;
use crate::clinical::date::AsOf;
use crate::study::Study;
use crate::study::follow_up::Measure;

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
    /// Id of the study's stratum that the baseline falls into.
    pub stratum: Option<String>,
    /// Every usable value, oldest first.
    pub points: Vec<Point>,
    /// In the study's order of visits, without the baseline's own.
    pub visits: Vec<VisitValue>,
    pub slope: Option<Slope>,
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
    pub point: Option<Point>,
    /// From baseline, in the series' unit.
    pub change: Option<f64>,
    pub percent_change: Option<f64>,
    /// Above the study's responder threshold; `None` without a value, a baseline or a threshold.
    pub is_responder: Option<bool>,
}

/// Ordinary least squares of value on time since baseline, over all points from baseline on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Slope {
    pub per_year: f64,
    /// `None` with fewer than three points.
    pub standard_error: Option<f64>,
    pub points: usize,
}

pub(super) fn outcome(_study: &Study, _chart: &Chart, _entered: &Entered, _schedule: &Schedule, _as_of: AsOf) -> Outcome {
    Outcome::default()
}
