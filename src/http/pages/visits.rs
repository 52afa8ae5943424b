//! The visits of a trial as a page: a grid of subjects and visits, overdue first, and what is expected next.

use askama::Template;

use super::Shell;
use super::course::{self, Next, VisitView};
use super::text::{self, Clock};
use crate::http::conduct::{self, Entered};
use crate::rules::schedule::VisitState;
use crate::study::Study;

#[derive(Template)]
#[template(path = "visits.html")]
pub struct Visits {
    shell: Shell,
    title: String,
    counted: String,
    hidden: String,
    overdue: usize,
    due: usize,
    missed: usize,
    silent: usize,
    heads: Vec<(String, u32)>,
    rows: Vec<Row>,
    marks: [(&'static str, &'static str, &'static str); 7],
    note: String,
    has_sites: bool,
    json: String,
}

struct Row {
    site: String,
    subject: String,
    href: String,
    arm: String,
    state: String,
    visits: Vec<VisitView>,
    next: Option<Next>,
    has_anchor: bool,
    last: Option<String>,
    is_silent: bool,
    is_lost: bool,
}

pub fn view(shell: Shell, study: &Study, entered: &Entered, clock: &Clock) -> Visits {
    let today = conduct::day_of(entered.as_of_ms);
    let rows: Vec<Row> = entered
        .by_visits()
        .into_iter()
        .map(|of| {
            let schedule = &of.course.schedule;
            Row {
                href: format!("{}#trial", super::card_href(&study.id, &of.site, &of.subject)),
                site: of.site.clone(),
                subject: of.subject.clone(),
                arm: of.course.entered.arm.as_ref().map_or_else(|| "no arm".into(), |given| course::arm_name(study, &given.arm)),
                state: text::state_name(of.course.state.word()),
                visits: schedule.visits.iter().map(|standing| course::visit(standing, &today)).collect(),
                next: course::next(schedule),
                has_anchor: schedule.anchor.is_some(),
                last: schedule.last_seen.as_ref().map(|seen| format!("{}, {}", text::day(&seen.date), clock.ago(seen.at_ms))),
                is_silent: schedule.is_silent,
                is_lost: schedule.lost.is_some(),
            }
        })
        .collect();
    let with = |class: &str| rows.iter().filter(|row| row.visits.iter().any(|visit| visit.class == class)).count();
    let is_open = |state: VisitState| entered.named.iter().filter(|of| of.course.schedule.visits.iter().any(|visit| visit.state == state)).count();
    Visits {
        title: study.title.clone(),
        counted: text::count(entered.named.len(), "subject entered", "subjects entered"),
        hidden: text::hidden_count(&entered.hidden),
        overdue: with("overdue"),
        due: is_open(VisitState::Due),
        missed: is_open(VisitState::Missed),
        silent: rows.iter().filter(|row| row.is_silent).count(),
        heads: study.visits.iter().map(|visit| (visit.id.clone(), visit.week)).collect(),
        marks: course::MARKS,
        note: match &study.follow_up {
            Some(follow_up) => {
                let shown: Vec<String> = follow_up.visit_shown_by.iter().map(|analyte| text::missing_name(analyte.word())).collect();
                format!("A visit took place when a final result of {} came within its window.", shown.join(" or "))
            }
            None => "This study says nothing of follow-up, so no visit is awaited.".into(),
        },
        has_sites: shell.sites.len() > 1,
        json: format!("/api/studies/{}/visits", super::percent(&study.id)),
        rows,
        shell,
    }
}
