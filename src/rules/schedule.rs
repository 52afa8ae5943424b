//! The visits of one subject: due, done, missed or out of window, from the results that came; and what is expected next.

use serde::Serialize;

use super::SubjectState;
use super::course::{Cited, Dated};
use super::enrolment::Entered;
use crate::clinical::chart::Chart;
use crate::clinical::date::AsOf;
use crate::study::Study;

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Schedule {
    /// Day 0 of the visits, as the study defines it; `None` until it happened.
    pub anchor: Option<Dated>,
    /// In the study's order.
    pub visits: Vec<VisitStanding>,
    /// Who says that the subject is lost to follow-up.
    pub lost: Option<Cited>,
    /// The last visit's result that came.
    pub last_seen: Option<Dated>,
    /// The first visit that is still expected.
    pub next: Option<Expected>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VisitStanding {
    /// Id of the visit in study.json.
    pub visit: String,
    pub week: u32,
    /// Days, `YYYY-MM-DD`; empty until the anchor is known.
    pub due: String,
    pub opens: String,
    pub closes: String,
    pub state: VisitState,
    /// The result that shows the visit.
    pub on: Option<Dated>,
    /// Days from the due day, negative when early.
    pub deviation_days: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum VisitState {
    Done,
    /// A result came, but outside the window.
    OutOfWindow,
    /// The window closed and nothing came.
    Missed,
    /// The window is open and nothing came yet.
    Due,
    Upcoming,
    /// The subject left, died or was lost before it.
    NotExpected,
}

/// A result that is awaited.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Expected {
    pub visit: String,
    /// Analyte words.
    pub what: Vec<String>,
    pub due: String,
    pub closes: String,
    /// The due day has passed.
    pub is_overdue: bool,
}

pub(super) fn schedule(_study: &Study, _chart: &Chart, _entered: &Entered, _state: SubjectState, _as_of: AsOf) -> Schedule {
    Schedule::default()
}
