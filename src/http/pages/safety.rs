//! The safety of a trial as a page: reporting clocks by due time, events that wait for somebody's word, what the data
//! suggest; and every event in one table.

use askama::Template;

use super::Shell;
use super::course::{self, CandidateView, ClockView, EventView};
use super::text::{self, Clock};
use crate::http::conduct::Entered;
use crate::study::Study;

#[derive(Template)]
#[template(path = "safety.html")]
pub struct Safety {
    shell: Shell,
    title: String,
    counted: String,
    hidden: String,
    saved: Option<String>,
    refused: Option<String>,
    may_decide: bool,
    asks_name: bool,
    back: &'static str,
    today: String,
    zone: String,
    overdue: usize,
    running: usize,
    /// Each with its event.
    clocks: Vec<(ClockView, EventView)>,
    completion: Vec<EventView>,
    candidates: Vec<CandidateView>,
    events: Vec<EventView>,
    has_sites: bool,
    json: String,
}

pub struct Source<'a> {
    pub study: &'a Study,
    pub entered: &'a Entered,
    pub may_decide: bool,
    pub asks_name: bool,
    pub saved: Option<String>,
    pub refused: Option<String>,
    pub clock: &'a Clock,
}

pub fn view(shell: Shell, source: Source<'_>) -> Safety {
    let Source { study, entered, may_decide, asks_name, saved, refused, clock } = source;
    let clocks: Vec<(ClockView, EventView)> = entered
        .clocks()
        .into_iter()
        .map(|(of, event, standing)| (course::clock_view(study, standing, clock), course::event(study, of, event, clock)))
        .collect();
    let overdue = clocks.iter().filter(|(standing, _)| standing.class == "overdue").count();
    let mut events: Vec<_> = entered.events().collect();
    events.sort_by_key(|(_, event)| std::cmp::Reverse(event.onset_ms.or(event.aware_ms)));
    Safety {
        title: study.title.clone(),
        counted: text::count(entered.named.len(), "subject entered", "subjects entered"),
        hidden: hidden(entered),
        saved,
        refused,
        may_decide,
        asks_name,
        back: "safety",
        today: clock.today(),
        zone: shell.zone.clone(),
        overdue,
        running: clocks.len() - overdue,
        clocks,
        completion: entered.to_complete().into_iter().map(|(of, event)| course::event(study, of, event, clock)).collect(),
        candidates: entered.candidates().into_iter().map(|(of, candidate)| course::candidate(study, of, candidate)).collect(),
        events: events.into_iter().map(|(of, event)| course::event(study, of, event, clock)).collect(),
        has_sites: shell.sites.len() > 1,
        json: format!("/api/studies/{}/safety", super::percent(&study.id)),
        shell,
    }
}

/// Who is not shown, and that their clocks run all the same; empty where nobody is.
pub fn hidden(entered: &Entered) -> String {
    let mut said = text::hidden_count(&entered.hidden);
    match entered.hidden_open_clocks {
        0 => {}
        1 => said.push_str("; 1 reporting clock of theirs is open"),
        clocks => said.push_str(&format!("; {clocks} reporting clocks of theirs are open")),
    }
    said
}
