//! One subject's eGFR over time as SVG text: a dot per result, the study's limits, KDIGO's categories behind it.
//! Pure: takes plain values, gives text; knows no assessment, no store, no page.

use askama::Template;

use crate::clinical::date::{Day, MS_PER_DAY};
use crate::report::plot::{KDIGO, tenth};

/// What is drawn. All eGFR in mL/min/1.73 m2, instants in ms since 1970 UTC.
#[derive(Clone, Debug, Default)]
pub struct Plot {
    pub points: Vec<Point>,
    /// Newer results that could not be used and have no eGFR: a mark at the foot of the plot.
    pub marks: Vec<Mark>,
    /// Both inclusive; `None` where the study has no range of eGFR.
    pub limits: Option<(f64, f64)>,
    /// Right edge of the plot.
    pub as_of_ms: i64,
}

#[derive(Clone, Debug)]
pub struct Point {
    pub at_ms: i64,
    pub egfr: f64,
    pub kind: Kind,
    /// Shown on hover and read aloud: "2026-08-01: eGFR 38.2 from creatinine 1.81 mg/dL".
    pub label: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Plain,
    /// The result that the verdict rests on.
    Used,
    /// A result that was not usable: hollow.
    Unusable,
}

#[derive(Clone, Debug)]
pub struct Mark {
    pub at_ms: i64,
    pub label: String,
}

/// How wide the plot is drawn; a page shows the one that fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    Wide,
    Narrow,
}

/// Steps between marks of the time axis, in months.
const STEPS_MONTHS: [i32; 8] = [1, 2, 3, 6, 12, 24, 60, 120];

#[derive(Template)]
#[template(path = "plot.svg")]
struct Svg<'a> {
    name: &'static str,
    width: f64,
    height: f64,
    left: f64,
    right: f64,
    top: f64,
    foot: f64,
    title: String,
    description: String,
    bands: Vec<Band>,
    range: Option<Range>,
    ticks: Vec<Tick>,
    line: String,
    dots: Vec<Dot<'a>>,
    marks: Vec<Dot<'a>>,
    used: Option<UsedLabel>,
}

struct Band {
    name: &'static str,
    class: &'static str,
    y: f64,
    height: f64,
    label_y: f64,
    has_label: bool,
    /// The category's lower bound, written at the axis.
    low: String,
    low_y: f64,
}

struct Range {
    top: f64,
    height: f64,
    low: String,
    low_y: f64,
    high: String,
    high_y: f64,
}

struct Tick {
    x: f64,
    label: String,
}

struct Dot<'a> {
    x: f64,
    y: f64,
    class: &'static str,
    radius: f64,
    label: &'a str,
}

struct UsedLabel {
    x: f64,
    y: f64,
    text: String,
    anchor: &'static str,
}

/// Draws the plot; an empty one where there is nothing to draw.
pub fn egfr(plot: &Plot, size: Size) -> String {
    let (width, height, most_ticks) = match size {
        Size::Wide => (820.0, 300.0, 8),
        Size::Narrow => (360.0, 260.0, 4),
    };
    let (left, right, top, foot) = (36.0, width - 48.0, 14.0, height - 34.0);

    let first_ms = plot.points.iter().map(|point| point.at_ms).chain(plot.marks.iter().map(|mark| mark.at_ms)).min().unwrap_or(plot.as_of_ms);
    let last_ms = plot.points.iter().map(|point| point.at_ms).chain([plot.as_of_ms]).max().unwrap_or(plot.as_of_ms);
    // At least half a year, so that two results of one week do not look like a history.
    let from_ms = first_ms.min(last_ms - 182 * MS_PER_DAY);
    let pad_ms = ((last_ms - from_ms) / 40).max(1);
    let (from_ms, until_ms) = (from_ms - pad_ms, last_ms + pad_ms);
    let highest = plot.points.iter().map(|point| point.egfr).fold(plot.limits.map_or(60.0, |(_, high)| high + 16.0), f64::max);
    let ceiling = (highest / 10.0).ceil() * 10.0;

    let x = |ms: i64| tenth(left + (ms - from_ms) as f64 / (until_ms - from_ms) as f64 * (right - left));
    let y = |egfr: f64| tenth(foot - egfr / ceiling * (foot - top));

    let bands = KDIGO
        .iter()
        .enumerate()
        .filter(|(_, (_, low))| *low < ceiling)
        .map(|(index, (name, low))| {
            let high = KDIGO.get(index + 1).map_or(ceiling, |(_, next)| next.min(ceiling));
            let band_height = tenth(y(*low) - y(high));
            Band {
                name,
                class: CLASSES[index],
                y: y(high),
                height: band_height,
                label_y: tenth((y(*low) + y(high)) / 2.0 + 4.0),
                has_label: band_height >= 12.0,
                low: format!("{low}"),
                low_y: y(*low),
            }
        })
        .collect();

    let mut points: Vec<&Point> = plot.points.iter().collect();
    points.sort_by_key(|point| point.at_ms);
    let line = points
        .iter()
        .filter(|point| point.kind != Kind::Unusable)
        .map(|point| format!("{},{}", x(point.at_ms), y(point.egfr)))
        .collect::<Vec<_>>()
        .join(" ");
    let used = points.iter().rev().find(|point| point.kind == Kind::Used).map(|point| {
        let at = x(point.at_ms);
        UsedLabel {
            x: if at > right - 40.0 { at - 9.0 } else { at + 9.0 },
            y: tenth(y(point.egfr) - 9.0),
            text: format!("{:.1}", point.egfr),
            anchor: if at > right - 40.0 { "end" } else { "start" },
        }
    });

    Svg {
        name: match size {
            Size::Wide => "wide",
            Size::Narrow => "narrow",
        },
        width,
        height,
        left,
        right,
        top,
        foot,
        title: match plot.points.len() {
            0 => "No eGFR could be computed".into(),
            1 => "eGFR, one result".into(),
            count => format!("eGFR over time, {count} results"),
        },
        description: describe(&points, plot.limits),
        bands,
        range: plot.limits.map(|(low, high)| Range {
            top: y(high),
            height: tenth(y(low) - y(high)),
            low: format!("{low}"),
            low_y: y(low),
            high: format!("{high}"),
            high_y: y(high),
        }),
        ticks: ticks(from_ms, until_ms, most_ticks).into_iter().map(|(ms, label)| Tick { x: x(ms), label }).collect(),
        line,
        dots: points
            .iter()
            .map(|point| Dot {
                x: x(point.at_ms),
                y: y(point.egfr),
                class: match point.kind {
                    Kind::Plain => "dot",
                    Kind::Used => "dot used",
                    Kind::Unusable => "dot unusable",
                },
                radius: match point.kind {
                    Kind::Used => 6.0,
                    Kind::Plain | Kind::Unusable => 4.0,
                },
                label: &point.label,
            })
            .collect(),
        marks: plot.marks.iter().map(|mark| Dot { x: x(mark.at_ms), y: foot - 7.0, class: "mark", radius: 4.0, label: &mark.label }).collect(),
        used,
    }
    .render()
    .expect("the plot's template writes to memory and cannot fail")
}

const CLASSES: [&str; 6] = ["g5", "g4", "g3b", "g3a", "g2", "g1"];

/// The plot in sentences, for those who hear it.
fn describe(points: &[&Point], limits: Option<(f64, f64)>) -> String {
    let mut text = String::new();
    if let (Some(first), Some(last)) = (points.first(), points.last()) {
        let lowest = points.iter().map(|point| point.egfr).fold(f64::INFINITY, f64::min);
        let highest = points.iter().map(|point| point.egfr).fold(f64::NEG_INFINITY, f64::max);
        text.push_str(&format!(
            "From {} to {}, between {lowest:.1} and {highest:.1} mL/min/1.73 m². ",
            Day::from_number(first.at_ms.div_euclid(MS_PER_DAY)),
            Day::from_number(last.at_ms.div_euclid(MS_PER_DAY))
        ));
    }
    if let Some(used) = points.iter().rev().find(|point| point.kind == Kind::Used) {
        text.push_str(&format!("The verdict rests on {:.1}. ", used.egfr));
    }
    if let Some((low, high)) = limits {
        text.push_str(&format!("The study takes {low} to {high}. "));
    }
    text.trim_end().to_owned()
}

/// First days of months between two instants, at the smallest step that gives at most `most` of them.
fn ticks(from_ms: i64, until_ms: i64, most: usize) -> Vec<(i64, String)> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month_of = |ms: i64| {
        let day = Day::from_number(ms.div_euclid(MS_PER_DAY));
        day.year * 12 + i32::from(day.month) - 1
    };
    let start_of = |month: i32| Day { year: month.div_euclid(12), month: month.rem_euclid(12) as u8 + 1, day: 1 }.number() * MS_PER_DAY;
    let (first, last) = (month_of(from_ms) + 1, month_of(until_ms));
    let at = |step: i32| (first..=last).filter(move |month| month.rem_euclid(step) == 0);
    let step = STEPS_MONTHS.into_iter().find(|step| at(*step).count() <= most).unwrap_or(120);
    at(step)
        .map(|month| {
            let (year, name) = (month.div_euclid(12), MONTHS[month.rem_euclid(12) as usize]);
            (start_of(month), if step >= 12 { year.to_string() } else { format!("{name} {year}") })
        })
        .collect()
}
