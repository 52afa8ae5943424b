//! A report as HTML: a part of one of our pages, or one page that stands alone, with its plots and our style sheet inside
//! and without a script.

use askama::Template;

use super::tables::{self, Section};
use super::{Report, plot};

/// The style sheet of our pages, so that a report that was saved looks like them.
const STYLE: &str = include_str!("../http/assets/style.css");

#[derive(Template)]
#[template(path = "report.html")]
struct Whole<'a> {
    title: String,
    style: &'a str,
    body: String,
    version: &'static str,
    hash: &'a str,
}

#[derive(Template)]
#[template(path = "report_body.html")]
struct Body {
    title: String,
    subtitle: String,
    tiles: Vec<Tile>,
    plots: Vec<(String, String)>,
    sections: Vec<Section>,
}

struct Tile {
    number: String,
    label: String,
}

/// One page that stands alone.
pub fn page(report: &Report<'_>) -> String {
    let whole = Whole { title: title(report), style: STYLE, body: body(report), version: env!("CARGO_PKG_VERSION"), hash: report.study.hash };
    whole.render().expect("the report's template writes to memory and cannot fail")
}

pub fn title(report: &Report<'_>) -> String {
    format!("Report of {}", report.study.id)
}

/// What stands in the middle of a page.
pub fn body(report: &Report<'_>) -> String {
    let tile = |number: String, label: &str| Tile { number, label: label.to_owned() };
    let arms = report.arms.0.iter().map(|(arm, count)| format!("{} {count}", tables::arm_name(report, arm))).collect::<Vec<_>>().join(", ");
    let mut tiles = vec![
        tile(report.subjects.to_string(), &if arms.is_empty() { "subjects".into() } else { format!("subjects: {arms}") }),
        tile(report.lost_to_follow_up.to_string(), "lost to follow-up"),
        tile(report.treatment_related_events.to_string(), "treatment-related events"),
        tile(report.dose_limiting_toxicities.to_string(), "dose-limiting toxicities"),
        tile(report.serious_events.to_string(), "serious events"),
    ];
    tiles.extend(report.evidence.egfr_increased.0.iter().map(|(visit, figure)| Tile {
        number: figure.of.map_or_else(|| figure.count.to_string(), |of| format!("{} of {of}", figure.count)),
        label: format!("eGFR above baseline at {visit}"),
    }));
    let body = Body {
        title: title(report),
        subtitle: format!("{}, as of {}", report.study.title, tables::as_of_name(report)),
        tiles,
        plots: plot::plots(report),
        sections: tables::sections(report),
    };
    body.render().expect("the report's template writes to memory and cannot fail")
}
