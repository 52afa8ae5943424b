//! The visits of one subject: due, done, missed or out of window, from the results that came; and what is expected next.

use std::cmp::Reverse;

use serde::Serialize;

use super::SubjectState;
use super::course::{Cited, Dated};
use super::enrolment::Entered;
use crate::clinical::chart::{Chart, Recorded};
use crate::clinical::date::{AsOf, Day, PartialDate, Precision};
use crate::clinical::fact::Measurement;
use crate::study::follow_up::{Anchor, FollowUp};
use crate::study::{Study, Visit};

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Schedule {
    /// Day 0 of the visits, as the study defines it; `None` until it happened, and where nobody knows its day.
    pub anchor: Option<Dated>,
    /// In the study's order.
    pub visits: Vec<VisitStanding>,
    /// The last day whose results belong to the trial: the close of the last window, or the day of withdrawal or death. `YYYY-MM-DD`.
    pub ends: Option<String>,
    /// Who says that the subject is lost to follow-up.
    pub lost: Option<Cited>,
    /// The newest result, since the anchor, that would show a visit, in a window or not.
    pub last_seen: Option<Dated>,
    /// Nothing was seen for longer than the study allows and visits are open: a person should say whether the subject
    /// is lost. Nothing follows from it by itself.
    pub is_silent: bool,
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
    /// The subject left, died or was lost before its window closed.
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

/// The days of one visit, as numbers of days since 1970, by the calendar of the anchor's source.
pub(super) struct Window<'s> {
    pub visit: &'s Visit,
    pub due: i64,
    opens: i64,
    closes: i64,
}

impl Window<'_> {
    pub fn holds(&self, day: i64) -> bool {
        self.opens <= day && day <= self.closes
    }
}

/// Day 0; an anchor that is known to the month or year only tells no day.
fn anchor(follow_up: &FollowUp, entered: &Entered) -> Option<Dated> {
    let anchor = match follow_up.anchor {
        Anchor::FirstDose => entered.doses.first().map(|dose| &dose.given),
        Anchor::Enrolment => Some(&entered.enrolled),
    };
    anchor.filter(|anchor| anchor.read().precision >= Precision::Day).cloned()
}

/// The window of each visit, in the study's order; none until the anchor is known.
pub(super) fn windows<'s>(study: &'s Study, entered: &Entered) -> Vec<Window<'s>> {
    let Some(anchor) = study.follow_up.as_ref().and_then(|follow_up| anchor(follow_up, entered)) else { return Vec::new() };
    let day_0 = anchor.read().day().number();
    let window = |visit: &'s Visit| {
        let due = day_0 + 7 * i64::from(visit.week);
        Window { visit, due, opens: due - i64::from(visit.days_before), closes: due + i64::from(visit.days_after) }
    };
    study.visits.iter().map(window).collect()
}

/// The last day whose results belong to the trial. Who withdrew gave no leave for more, and that holds after their death.
pub(super) fn last_day(windows: &[Window<'_>], entered: &Entered, state: SubjectState) -> Option<i64> {
    let is_final = matches!(state, SubjectState::Withdrawn | SubjectState::Deceased);
    let left = entered.ended.as_ref().filter(|_| is_final).map(|ended| ended.read().last_day().number());
    windows.last().map(|window| window.closes).into_iter().chain(left).min()
}

/// Since when a subject has no part any more; the first of all days where nobody dates it.
fn left(entered: &Entered, state: SubjectState) -> Option<i64> {
    let has_left = match state {
        SubjectState::Completed | SubjectState::Lost | SubjectState::Withdrawn | SubjectState::Deceased => true,
        SubjectState::None
        | SubjectState::Candidate
        | SubjectState::Consented
        | SubjectState::Eligible
        | SubjectState::Enrolled
        | SubjectState::OnFollowUp
        | SubjectState::ScreenFailed => false,
    };
    entered.ended.as_ref().map(|ended| ended.read().day().number()).or(has_left.then_some(i64::MIN))
}

/// A final result that would show a visit.
struct Shown<'c> {
    of: &'c Recorded<Measurement>,
    effective: PartialDate,
    day: i64,
}

impl Shown<'_> {
    fn dated(&self) -> Dated {
        Dated::new(&self.effective, Cited::of(&self.of.source))
    }
}

/// That a sample was taken is enough: a value above a detection limit, or in a strange unit, shows the visit too. Oldest
/// first; of one time the one that counts comes last, so that nothing depends on arrival.
fn shown<'c>(chart: &'c Chart, follow_up: &FollowUp, as_of: AsOf, last_day: Option<i64>) -> Vec<Shown<'c>> {
    let mut shown: Vec<Shown<'c>> = chart
        .measurements
        .iter()
        .filter(|of| of.status.is_final() && of.body.value.is_some())
        .filter(|of| of.body.analyte.is_some_and(|analyte| follow_up.visit_shown_by.contains(&analyte)))
        .filter_map(|of| Some((of, of.body.effective?)))
        .filter(|(_, effective)| effective.precision >= Precision::Day && as_of.includes(effective))
        .map(|(of, effective)| Shown { of, effective, day: effective.day().number() })
        .filter(|shown| last_day.is_none_or(|last| shown.day <= last))
        .collect();
    shown.sort_by(|a, b| {
        let key = |shown: &Shown<'_>| (shown.day, shown.effective.start_ms, Reverse(shown.of.body.rank), shown.of.issued_ms);
        key(a).cmp(&key(b)).then_with(|| b.of.source.id.cmp(&a.of.source.id))
    });
    shown
}

pub(super) fn schedule(study: &Study, chart: &Chart, entered: &Entered, state: SubjectState, as_of: AsOf) -> Schedule {
    let Some(follow_up) = &study.follow_up else { return Schedule::default() };
    let windows = windows(study, entered);
    let last_day = last_day(&windows, entered, state);
    let shown = shown(chart, follow_up, as_of, last_day);
    let left = left(entered, state);
    let today = as_of.day().number();
    let anchor = anchor(follow_up, entered);
    let visits: Vec<VisitStanding> = if windows.is_empty() {
        study.visits.iter().map(|visit| undated(visit, left.is_some())).collect()
    } else {
        (0..windows.len()).map(|index| standing(&windows, index, &shown, left, today)).collect()
    };
    let day_0 = anchor.as_ref().map(|anchor| anchor.read().day().number());
    let last_seen = shown.iter().rev().find(|shown| day_0.is_some_and(|day_0| day_0 <= shown.day));
    let silent_since = last_seen.map(|shown| shown.day).or(day_0);
    let is_over = left.is_some() || visits.last().is_none_or(|last| matches!(last.state, VisitState::Done | VisitState::OutOfWindow));
    let expected = visits.iter().zip(&windows).find(|(visit, _)| matches!(visit.state, VisitState::Due | VisitState::Upcoming));
    Schedule {
        next: expected.map(|(visit, window)| Expected {
            visit: visit.visit.clone(),
            what: follow_up.visit_shown_by.iter().map(|analyte| analyte.word().to_string()).collect(),
            due: visit.due.clone(),
            closes: visit.closes.clone(),
            is_overdue: window.due < today,
        }),
        is_silent: !is_over && silent_since.zip(follow_up.lost_after_days).is_some_and(|(since, days)| i64::from(days) < today - since),
        lost: entered.ended.as_ref().filter(|_| state == SubjectState::Lost).map(|ended| ended.by.clone()),
        last_seen: last_seen.map(Shown::dated),
        ends: last_day.map(day),
        anchor,
        visits,
    }
}

fn day(number: i64) -> String {
    Day::from_number(number).to_string()
}

/// A visit that nothing dates yet.
fn undated(visit: &Visit, has_left: bool) -> VisitStanding {
    VisitStanding {
        visit: visit.id.clone(),
        week: visit.week,
        due: String::new(),
        opens: String::new(),
        closes: String::new(),
        state: if has_left { VisitState::NotExpected } else { VisitState::Upcoming },
        on: None,
        deviation_days: None,
    }
}

fn standing(windows: &[Window<'_>], index: usize, shown: &[Shown<'_>], left: Option<i64>, today: i64) -> VisitStanding {
    let window = &windows[index];
    // Of two that are equally near the newer; `shown` is oldest first, and the first minimum of the reverse is the newest.
    let nearest = |keep: &dyn Fn(i64) -> bool| shown.iter().rev().filter(|shown| keep(shown.day)).min_by_key(|shown| (shown.day - window.due).abs());
    let within = nearest(&|day| window.holds(day));
    let (state, on) = if within.is_some() {
        (VisitState::Done, within)
    } else if left.is_some_and(|left| left <= window.closes) {
        (VisitState::NotExpected, None)
    } else if today < window.opens {
        (VisitState::Upcoming, None)
    } else if today <= window.closes {
        (VisitState::Due, None)
    } else {
        match nearest(&|day| is_nearest(windows, index, day)) {
            Some(outside) => (VisitState::OutOfWindow, Some(outside)),
            None => (VisitState::Missed, None),
        }
    };
    VisitStanding {
        due: day(window.due),
        opens: day(window.opens),
        closes: day(window.closes),
        state,
        on: on.map(Shown::dated),
        deviation_days: on.map(|on| on.day - window.due),
        ..undated(window.visit, false)
    }
}

/// Whether a day outside all windows is nearer to this visit than to any other. Before the first and after the last visit
/// this reaches as far as on the side of their neighbour; a result of years ago is nobody's visit.
fn is_nearest(windows: &[Window<'_>], index: usize, day: i64) -> bool {
    let due = windows[index].due;
    let before = index.checked_sub(1).map(|before| due - windows[before].due);
    let after = windows.get(index + 1).map(|after| after.due - due);
    let gap = if day < due { before.or(after) } else { after.or(before) };
    let is_free = !windows.iter().any(|window| window.holds(day));
    is_free && gap.is_some_and(|gap| 2 * (day - due).abs() < gap)
}
