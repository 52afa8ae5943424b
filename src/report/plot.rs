//! Plots of a trial as SVG text: each subject's course of a measure by arm with the arm's medians, and a swimmer plot of
//! doses, visits and events. Each stands alone: no style sheet, no script. Colours are those of Okabe M and Ito K (2008), told
//! apart by most eyes; nothing is said by colour alone.

use std::collections::HashMap;

use askama::Template;

use super::cohort::NOT_ASSIGNED;
use super::outcome::{Group, GroupKind, OutcomeTable};
use super::{Listed, Report, tables};
use crate::clinical::date::{MS_PER_DAY, PartialDate};
use crate::rules::SubjectState;
use crate::rules::course::Course;
use crate::rules::outcome::Series;
use crate::rules::safety::Event;
use crate::rules::schedule::VisitState;
use crate::study::follow_up::Measure;

/// KDIGO 2012 GFR categories, lower bounds in mL/min/1.73 m2, half-open `[low, next)` (PMC10985780 table 5).
pub const KDIGO: [(&str, f64); 6] = [("G5", 0.0), ("G4", 15.0), ("G3b", 30.0), ("G3a", 45.0), ("G2", 60.0), ("G1", 90.0)];

/// Lines of one panel; medians are of everybody.
const LINES: usize = 200;
/// Rows of a swimmer plot.
const ROWS: usize = 80;

const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"];
const GREY: &str = "#6b7780";

/// Tenths of a unit are enough for any screen, and make short text.
pub fn tenth(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

fn colour(report: &Report<'_>, arm: &str) -> &'static str {
    let place = report.arms.0.iter().position(|(known, _)| *known == arm && arm != NOT_ASSIGNED);
    place.map_or(GREY, |place| COLOURS[place % COLOURS.len()])
}

/// Every plot of a report, with a title for a heading.
pub fn plots(report: &Report<'_>) -> Vec<(String, String)> {
    let mut plots: Vec<(String, String)> = report
        .outcomes
        .iter()
        .map(|table| (format!("{} by arm, with medians", tables::measure_name(table.measure)), spaghetti(report, table)))
        .collect();
    if !report.listing.is_empty() {
        plots.push(("Doses, visits and adverse events of each subject".into(), swimmer(report)));
    }
    plots
}

#[derive(Template)]
#[template(path = "spaghetti.svg")]
struct Spaghetti {
    name: &'static str,
    width: f64,
    height: f64,
    title: String,
    description: String,
    axis_title: String,
    panels: Vec<Panel>,
}

struct Panel {
    title: String,
    colour: &'static str,
    left: f64,
    right: f64,
    top: f64,
    foot: f64,
    ticks_y: Vec<Tick>,
    ticks_x: Vec<Tick>,
    limits: Vec<Tick>,
    lines: Vec<Line>,
    /// SVG path of the medians.
    median: String,
    medians: Vec<Dot>,
    last: Option<Dot>,
    note: String,
    has_y_labels: bool,
}

struct Tick {
    at: f64,
    label: String,
}

struct Line {
    path: String,
    dots: Vec<(f64, f64)>,
    label: String,
}

struct Dot {
    x: f64,
    y: f64,
    label: String,
}

/// Each subject's values at baseline and at the visits, one panel an arm. A line breaks where a value is missing.
pub fn spaghetti(report: &Report<'_>, table: &OutcomeTable<'_>) -> String {
    let measure = table.measure;
    let arms: Vec<&Group<'_>> = table.groups.iter().filter(|group| group.kind == GroupKind::Arm && group.subjects.count > 0).collect();
    let weeks: HashMap<&str, f64> = table.groups.iter().flat_map(|group| &group.visits).map(|visit| (visit.visit, f64::from(visit.week))).collect();
    let last_week = weeks.values().copied().fold(1.0, f64::max);
    let named: Vec<(&Listed<'_>, &Series)> = report
        .listing
        .iter()
        .filter_map(|listed| Some((listed, listed.course?.outcome.series.iter().find(|series| series.measure == measure)?)))
        .collect();
    let values = named.iter().flat_map(|(_, series)| {
        let at_visits = series.visits.iter().filter_map(|value| value.point.as_ref());
        series.baseline.iter().chain(at_visits).map(|point| point.value)
    });
    let (low, high, step) = scale(values);

    let columns = arms.len().clamp(1, 3);
    let rows = arms.len().div_ceil(columns).max(1);
    let (width, left, gap, panel_height) = (840.0, 50.0, 22.0, 250.0);
    let panel_width = (width - left - 34.0 - gap * (columns as f64 - 1.0)) / columns as f64;
    let panels = arms
        .iter()
        .enumerate()
        .map(|(index, group)| {
            let (column, row) = (index % columns, index / columns);
            let panel_left = tenth(left + column as f64 * (panel_width + gap));
            let top = tenth(row as f64 * panel_height + 34.0);
            let foot = tenth(top + panel_height - 76.0);
            let right = tenth(panel_left + panel_width);
            let x = |week: f64| tenth(panel_left + 8.0 + week / last_week * (panel_width - 16.0));
            let y = |value: f64| tenth(foot - (value - low) / (high - low) * (foot - top));
            let of_arm: Vec<&(&Listed<'_>, &Series)> = named.iter().filter(|(listed, _)| listed.arm == group.id).collect();
            let lines = of_arm.iter().take(LINES).map(|(listed, series)| line(listed, series, &weeks, &x, &y)).collect();
            let medians = medians(group, &x, &y);
            let is_last_column = column + 1 == columns || index + 1 == arms.len();
            Panel {
                title: format!("{} (n {})", group.name, group.subjects.count),
                colour: colour(report, group.id),
                left: panel_left,
                right,
                top,
                foot,
                ticks_y: ticks(low, high, step).map(|value| Tick { at: y(value), label: number(value) }).collect(),
                ticks_x: week_ticks(&weeks, &x),
                limits: limits(measure, low, high)
                    .map(|(name, value)| Tick { at: y(value), label: if is_last_column { name.to_owned() } else { String::new() } })
                    .collect(),
                lines,
                median: path(medians.iter().map(|dot| dot.as_ref().map(|dot| (dot.x, dot.y)))),
                last: medians.iter().flatten().next_back().map(|dot| Dot { x: dot.x, y: dot.y, label: dot.label.clone() }),
                medians: medians.into_iter().flatten().collect(),
                note: if of_arm.len() > LINES { format!("{LINES} of {} lines are drawn", of_arm.len()) } else { String::new() },
                has_y_labels: column == 0,
            }
        })
        .collect();
    Spaghetti {
        name: measure.word(),
        width,
        height: rows as f64 * panel_height,
        title: format!("{} of each subject over time, by arm", tables::measure_name(measure)),
        description: describe(table, &arms),
        axis_title: tables::unit_name(table.unit).to_owned(),
        panels,
    }
    .render()
    .expect("the plot's template writes to memory and cannot fail")
}

fn line(listed: &Listed<'_>, series: &Series, weeks: &HashMap<&str, f64>, x: &impl Fn(f64) -> f64, y: &impl Fn(f64) -> f64) -> Line {
    let baseline = series.baseline.as_ref().map(|point| (x(0.0), y(point.value)));
    let visits = series.visits.iter().filter_map(|value| {
        let week = *weeks.get(value.visit.as_str())?;
        Some(value.point.as_ref().map(|point| (x(week), y(point.value))))
    });
    let points: Vec<Option<(f64, f64)>> = std::iter::once(baseline).chain(visits).collect();
    Line {
        path: path(points.iter().copied()),
        dots: points.into_iter().flatten().collect(),
        label: tables::subject_name(listed.site, listed.subject),
    }
}

/// Medians at baseline and at each visit; `None` where nobody has a value.
fn medians(group: &Group<'_>, x: &impl Fn(f64) -> f64, y: &impl Fn(f64) -> f64) -> Vec<Option<Dot>> {
    let baseline = std::iter::once((0.0, &group.baseline.value));
    let visits = group.visits.iter().map(|visit| (f64::from(visit.week), &visit.value));
    baseline.chain(visits).map(|(week, summary)| summary.median.map(|median| Dot { x: x(week), y: y(median), label: number(median) })).collect()
}

/// An SVG path through points, with a gap where one is missing.
fn path(points: impl Iterator<Item = Option<(f64, f64)>>) -> String {
    let mut path = String::new();
    let mut is_drawing = false;
    for point in points {
        match point {
            Some((x, y)) => {
                path.push_str(&format!("{}{x} {y}", if is_drawing { "L" } else { "M" }));
                is_drawing = true;
            }
            None => is_drawing = false,
        }
    }
    path
}

/// Bounds and step of an axis that holds all values, with at most about six steps; 0 to 1 where there are none.
fn scale(values: impl Iterator<Item = f64>) -> (f64, f64, f64) {
    let (low, high) =
        values.filter(|value| value.is_finite()).fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    if low > high {
        return (0.0, 1.0, 0.5);
    }
    let rough = ((high - low) / 5.0).max(high.abs() / 20.0).max(1e-6);
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|times| times * power).find(|step| rough <= *step).unwrap_or(10.0 * power);
    let low = (low / step).floor() * step;
    let high = ((high / step).ceil() * step).max(low + step);
    (low, high, step)
}

fn ticks(low: f64, high: f64, step: f64) -> impl Iterator<Item = f64> {
    let count = ((high - low) / step).round() as usize;
    (0..=count).map(move |index| low + index as f64 * step)
}

/// Without decimals that say nothing.
fn number(value: f64) -> String {
    if value.abs() >= 100.0 || (value - value.round()).abs() < 1e-9 { format!("{value:.0}") } else { format!("{value:.1}") }
}

/// Weeks of baseline and visits, without labels that would touch.
fn week_ticks(weeks: &HashMap<&str, f64>, x: &impl Fn(f64) -> f64) -> Vec<Tick> {
    let mut all: Vec<f64> = weeks.values().copied().chain([0.0]).collect();
    all.sort_by(f64::total_cmp);
    all.dedup();
    let mut last_x = f64::NEG_INFINITY;
    let mut ticks = Vec::new();
    for week in all {
        let at = x(week);
        let has_room = at - last_x >= 20.0;
        last_x = if has_room { at } else { last_x };
        ticks.push(Tick { at, label: if has_room { number(week) } else { String::new() } });
    }
    ticks
}

/// Bounds between KDIGO's categories that the axis holds, named by the category below.
fn limits(measure: Measure, low: f64, high: f64) -> impl Iterator<Item = (&'static str, f64)> {
    let is_egfr = measure == Measure::Egfr;
    KDIGO.windows(2).map(|pair| (pair[0].0, pair[1].1)).filter(move |(_, bound)| is_egfr && low < *bound && *bound <= high)
}

/// The plot in sentences, for those who hear it.
fn describe(table: &OutcomeTable<'_>, arms: &[&Group<'_>]) -> String {
    let unit = tables::unit_name(table.unit);
    let mut sentences: Vec<String> = Vec::new();
    for group in arms {
        let baseline = group.baseline.value.median.map(|median| format!("{median:.1} at baseline"));
        let visits = group.visits.iter().filter_map(|visit| visit.value.median.map(|median| format!("{median:.1} at {}", visit.visit)));
        let medians: Vec<String> = baseline.into_iter().chain(visits).collect();
        let medians = if medians.is_empty() { "no values".into() } else { format!("medians in {unit} are {}", medians.join(", ")) };
        sentences.push(format!("{}, {} subjects: {medians}.", group.name, group.subjects.count));
    }
    if sentences.is_empty() { "Nobody entered yet.".into() } else { sentences.join(" ") }
}

#[derive(Template)]
#[template(path = "swimmer.svg")]
struct Swimmer {
    width: f64,
    height: f64,
    left: f64,
    right: f64,
    top: f64,
    foot: f64,
    description: String,
    ticks: Vec<Tick>,
    rows: Vec<Row>,
    note: String,
}

struct Row {
    /// Middle of the bar.
    y: f64,
    label: String,
    /// Shown on hover.
    full: String,
    /// Set on the first row of an arm.
    arm: Option<String>,
    colour: &'static str,
    from: f64,
    to: f64,
    /// What the end means: an arrow for those who go on, else a letter; empty for completed.
    goes_on: bool,
    end: &'static str,
    doses: Vec<Dot>,
    done: Vec<Dot>,
    out_of_window: Vec<Dot>,
    missed: Vec<Dot>,
    events: Vec<EventMark>,
}

struct EventMark {
    x: f64,
    grade: String,
    is_related: bool,
    is_serious: bool,
    is_dose_limiting: bool,
    label: String,
}

/// One row a subject, by arm: a bar from day 0 on, doses, visits, events with their grade.
pub fn swimmer(report: &Report<'_>) -> String {
    let mut named: Vec<(&Listed<'_>, &Course)> = report.listing.iter().filter_map(|listed| Some((listed, listed.course?))).collect();
    named.sort_by_key(|(listed, _)| report.arms.0.iter().position(|(arm, _)| *arm == listed.arm));
    let count = named.len();
    named.truncate(ROWS);
    let last_week = report.follow_up.visits.iter().map(|visit| visit.week).max().unwrap_or(0);
    let last_mark = named.iter().flat_map(|(_, course)| marks_ms(course).map(|ms| days_since(course, ms))).fold(0.0, f64::max);
    // A trial that ended long ago is drawn to its last visit, not to today.
    let last_day = (f64::from(last_week) * 7.0 + 14.0).max(last_mark + 7.0);
    let (width, left, top, row_height) = (840.0, 172.0, 40.0, 40.0);
    let right = width - 40.0;
    let foot = top + row_height * named.len().max(1) as f64 + 8.0;
    let x = |day: f64| tenth(left + day.clamp(-7.0, last_day) / last_day * (right - left));
    let mut last_arm = None;
    let mut undated = 0;
    let rows = named
        .iter()
        .enumerate()
        .map(|(index, (listed, course))| {
            let is_first = last_arm.replace(listed.arm) != Some(listed.arm);
            undated += course.events.iter().filter(|event| event.left_out.is_none() && event_ms(event).is_none()).count();
            Row {
                y: tenth(top + row_height * index as f64 + 26.0),
                colour: colour(report, listed.arm),
                arm: is_first.then(|| tables::arm_name(report, listed.arm).to_owned()),
                ..row(report, listed, course, &x)
            }
        })
        .collect();
    let mut last_x = f64::NEG_INFINITY;
    let ticks = report.follow_up.visits.iter().map(|visit| {
        let at = x(f64::from(visit.week) * 7.0);
        let has_room = at - last_x >= 30.0;
        last_x = if has_room { at } else { last_x };
        Tick { at, label: if has_room { visit.visit.to_owned() } else { String::new() } }
    });
    let ticks = ticks.collect();
    let mut notes = Vec::new();
    if count > ROWS {
        notes.push(format!("The first {ROWS} of {count} subjects are drawn."));
    }
    if undated > 0 {
        notes.push(format!("{undated} events without a date are not drawn."));
    }
    if report.unnamed_subjects > 0 {
        notes.push(format!("{} subjects who must not be named are not drawn.", report.unnamed_subjects));
    }
    Swimmer {
        width,
        height: foot + if notes.is_empty() { 58.0 } else { 76.0 },
        left,
        right,
        top,
        foot,
        description: describe_swimmer(report),
        ticks,
        rows,
        note: notes.join(" "),
    }
    .render()
    .expect("the plot's template writes to memory and cannot fail")
}

/// Day 0 of a subject: the study's anchor, else the first dose, else the entry.
fn origin_ms(course: &Course) -> i64 {
    let dosed = || course.entered.doses.first().map(|dose| dose.given.at_ms);
    course.schedule.anchor.as_ref().map(|anchor| anchor.at_ms).or_else(dosed).unwrap_or(course.entered.enrolled.at_ms)
}

fn days_since(course: &Course, ms: i64) -> f64 {
    (ms - origin_ms(course)) as f64 / MS_PER_DAY as f64
}

fn event_ms(event: &Event) -> Option<i64> {
    event.onset_ms.or(event.aware_ms)
}

fn marks_ms(course: &Course) -> impl Iterator<Item = i64> {
    let visits = course.schedule.visits.iter().filter_map(|standing| standing.on.as_ref()).map(|on| on.at_ms);
    let events = course.events.iter().filter(|event| event.left_out.is_none()).filter_map(event_ms);
    visits.chain(events).chain(course.entered.doses.iter().map(|dose| dose.given.at_ms))
}

fn row(report: &Report<'_>, listed: &Listed<'_>, course: &Course, x: &impl Fn(f64) -> f64) -> Row {
    let at = |ms: i64| x(days_since(course, ms));
    let visits = |state: VisitState, word: &'static str| {
        let of_state = course.schedule.visits.iter().filter(move |standing| standing.state == state);
        let dots = of_state.filter_map(move |standing| {
            let ms = standing.on.as_ref().map(|on| on.at_ms).or_else(|| PartialDate::parse(&standing.due).ok().map(|due| due.start_ms))?;
            Some((ms, format!("{} {word}, {}", standing.visit, tables::day(ms))))
        });
        dots.map(|(ms, label)| Dot { x: at(ms), y: 0.0, label }).collect::<Vec<_>>()
    };
    let ended_ms = course.entered.ended.as_ref().map(|ended| ended.at_ms);
    let seen_ms = ended_ms.or_else(|| marks_ms(course).max()).unwrap_or(report.as_of_ms);
    let (goes_on, end) = match course.state {
        SubjectState::Lost => (false, "lost"),
        SubjectState::Withdrawn => (false, "withdrawn"),
        SubjectState::Deceased => (false, "died"),
        SubjectState::Completed | SubjectState::ScreenFailed => (false, ""),
        SubjectState::None
        | SubjectState::Candidate
        | SubjectState::Consented
        | SubjectState::Eligible
        | SubjectState::Enrolled
        | SubjectState::OnFollowUp => (true, ""),
    };
    let full = tables::subject_name(listed.site, listed.subject);
    Row {
        y: 0.0,
        label: shortened(&full),
        arm: None,
        colour: GREY,
        from: x(0.0),
        to: if goes_on { at(report.as_of_ms) } else { at(seen_ms) }.max(x(0.0)),
        goes_on,
        end,
        doses: course
            .entered
            .doses
            .iter()
            .map(|dose| Dot { x: at(dose.given.at_ms), y: 0.0, label: format!("dose {}, {}", dose.as_received, dose.given.date) })
            .collect(),
        done: visits(VisitState::Done, "done"),
        out_of_window: visits(VisitState::OutOfWindow, "out of its window"),
        missed: visits(VisitState::Missed, "missed, due"),
        events: event_marks(course, &at),
        full,
    }
}

fn event_marks(course: &Course, at: &impl Fn(i64) -> f64) -> Vec<EventMark> {
    let mut dated: Vec<(i64, &Event)> =
        course.events.iter().filter(|event| event.left_out.is_none()).filter_map(|event| Some((event_ms(event)?, event))).collect();
    dated.sort_by_key(|(ms, _)| *ms);
    let mut free_from = f64::NEG_INFINITY;
    dated
        .into_iter()
        .map(|(ms, event)| {
            // Marks that would touch stand beside each other.
            let x = at(ms).max(free_from);
            let (is_serious, is_dose_limiting) = (event.is_serious == Some(true), event.is_dose_limiting == Some(true));
            free_from = x + 17.0 + if is_serious || is_dose_limiting { 24.0 } else { 0.0 };
            let axes = [
                event.grade.map_or_else(|| "grade not known".into(), |grade| format!("grade {grade}")),
                if is_serious { "serious".into() } else { String::new() },
                event.relation.map_or_else(|| "relation not known".into(), |relation| format!("relation {}", relation.word())),
                if is_dose_limiting { "dose-limiting".into() } else { String::new() },
            ];
            let axes: Vec<String> = axes.into_iter().filter(|axis| !axis.is_empty()).collect();
            EventMark {
                x,
                grade: event.grade.map_or_else(|| "?".into(), |grade| grade.to_string()),
                is_related: event.is_related == Some(true),
                is_serious,
                is_dose_limiting,
                label: format!("{}, {}: {}", event.term, tables::day(ms), axes.join(", ")),
            }
        })
        .collect()
}

/// The end of a name, which tells subjects apart.
fn shortened(name: &str) -> String {
    const MOST: usize = 24;
    let count = name.chars().count();
    if count <= MOST { name.to_owned() } else { std::iter::once('…').chain(name.chars().skip(count - MOST + 1)).collect() }
}

fn describe_swimmer(report: &Report<'_>) -> String {
    format!(
        "{} subjects, {} lost to follow-up; {} treatment-related adverse events, {} dose-limiting, {} serious. The tables below say the same in words.",
        report.subjects, report.lost_to_follow_up, report.treatment_related_events, report.dose_limiting_toxicities, report.serious_events
    )
}
