//! What the pages show of a subject's way through a trial: visits by shape and colour, events with what is missing in
//! plain words, reporting clocks, candidates, doses; and the fields of the forms by which a named person says more.

use super::text::{self, Clock};
use crate::clinical::fact::Relation;
use crate::report::Enrolled;
use crate::rules::candidates::{Candidate, CandidateKind, CandidateStatus};
use crate::rules::course::{Cited, Course};
use crate::rules::enrolment::Dose;
use crate::rules::safety::{ClockStanding, ClockState, Event, EventOrigin, OUTCOMES, SERIOUSNESS_CRITERIA};
use crate::rules::schedule::{Schedule, VisitStanding, VisitState};
use crate::study::Study;

/// One visit as a mark: a shape, a colour, a word.
pub struct VisitView {
    pub name: String,
    pub class: &'static str,
    pub mark: &'static str,
    pub word: &'static str,
    /// The day it took place, else the day it is due; empty until the first dose.
    pub day: String,
    /// All that is known of it, in a sentence.
    pub says: String,
}

/// Every state a mark can show, for the legend: class, mark, word.
pub const MARKS: [(&str, &str, &str); 7] = [
    ("overdue", "!", "overdue: the day has passed, the window is still open"),
    ("due", "", "due: the window is open"),
    ("missed", "✕", "missed: the window closed and no result came"),
    ("out", "±", "out of window: a result came before or after it"),
    ("done", "✓", "done"),
    ("upcoming", "", "to come"),
    ("none", "–", "not expected: the subject left before"),
];

pub fn visit(standing: &VisitStanding, today: &str) -> VisitView {
    let is_overdue = standing.state == VisitState::Due && standing.due.as_str() < today;
    let (class, mark, word) = match standing.state {
        VisitState::Due if is_overdue => ("overdue", "!", "overdue"),
        VisitState::Due => ("due", "", "due"),
        VisitState::Missed => ("missed", "✕", "missed"),
        VisitState::OutOfWindow => ("out", "±", "out of window"),
        VisitState::Done => ("done", "✓", "done"),
        VisitState::Upcoming => ("upcoming", "", "to come"),
        VisitState::NotExpected => ("none", "–", "not expected"),
    };
    let mut says = format!("{}, {word}", standing.visit);
    if standing.due.is_empty() {
        says.push_str("; its day counts from the first dose");
    } else {
        says.push_str(&format!("; planned {}, window {} to {}", standing.due, standing.opens, standing.closes));
    }
    if let Some(on) = &standing.on {
        says.push_str(&format!("; result of {} ({})", text::day(&on.date), named(&on.by)));
    }
    match standing.deviation_days {
        None | Some(0) => {}
        Some(days) if days < 0 => says.push_str(&format!(", {} early", days_of(-days))),
        Some(days) => says.push_str(&format!(", {} late", days_of(days))),
    }
    let day = standing.on.as_ref().map_or_else(|| standing.due.clone(), |on| text::day(&on.date));
    VisitView { name: standing.visit.clone(), class, mark, word, day, says }
}

fn days_of(days: i64) -> String {
    if days == 1 { "1 day".into() } else { format!("{days} days") }
}

/// What is expected next.
pub struct Next {
    /// `Creatinine at W12`.
    pub what: String,
    pub due: String,
    pub closes: String,
    pub is_overdue: bool,
}

pub fn next(schedule: &Schedule) -> Option<Next> {
    let next = schedule.next.as_ref()?;
    let what: Vec<String> = next.what.iter().map(|word| text::missing_name(word)).collect();
    Some(Next {
        what: format!("{} at {}", text::capitalised(&what.join(" or ")), next.visit),
        due: next.due.clone(),
        closes: next.closes.clone(),
        is_overdue: next.is_overdue,
    })
}

pub fn named(cited: &Cited) -> String {
    match &cited.version {
        Some(version) if !cited.resource.starts_with("Decision/") => format!("{} version {version}", cited.resource),
        Some(_) | None => cited.resource.clone(),
    }
}

/// One axis of an event in a form.
pub struct Axis {
    pub name: &'static str,
    pub label: &'static str,
    /// `select`, `many`, `text` or `moment`.
    pub input: &'static str,
    pub options: Vec<(&'static str, &'static str)>,
    /// What the first choice of a select means.
    pub open: String,
    pub is_missing: bool,
    pub is_required: bool,
}

/// Word of the missing list, field, label, input.
const AXES: [(&str, &str, &str, &str); 9] = [
    ("term", "term", "What it is called", "text"),
    ("grade", "grade", "CTCAE grade", "select"),
    ("seriousness", "is-serious", "Serious", "select"),
    ("seriousness-criteria", "criterion-of-seriousness", "Why it is serious", "many"),
    ("relation", "relation", "Related to the treatment", "select"),
    ("expectedness", "is-expected", "Expected by the protocol", "select"),
    ("outcome", "outcome", "Outcome", "select"),
    ("dose-limiting", "is-dose-limiting", "Dose-limiting toxicity", "select"),
    ("onset", "onset", "Began", "moment"),
];

const YES_NO: [(&str, &str); 2] = [("true", "Yes"), ("false", "No")];

fn options(axis: &str) -> Vec<(&'static str, &'static str)> {
    match axis {
        "grade" => GRADES.to_vec(),
        "seriousness" | "expectedness" | "dose-limiting" => YES_NO.to_vec(),
        "seriousness-criteria" => SERIOUSNESS_CRITERIA.to_vec(),
        "relation" => Relation::ALL.iter().map(|relation| (relation.word(), text::relation(*relation))).collect(),
        "outcome" => OUTCOMES.iter().map(|code| (*code, text::outcome(code))).collect(),
        _ => Vec::new(),
    }
}

/// CTCAE's general scale.
const GRADES: [(&str, &str); 5] = [("1", "1, mild"), ("2", "2, moderate"), ("3", "3, severe"), ("4", "4, life-threatening"), ("5", "5, death")];

/// The fields by which an event that is known gets what is missing, and may be judged otherwise; what is missing first.
fn axes_of(event: &Event) -> Vec<Axis> {
    let now = axes_now(event);
    let mut axes: Vec<Axis> = AXES
        .iter()
        .map(|(word, name, label, input)| {
            let is_missing = event.missing.contains(word);
            let now = now.iter().find(|(known, _)| known == word).and_then(|(_, now)| now.as_deref());
            Axis {
                name,
                label,
                input,
                options: options(word),
                open: now.map_or_else(|| "Not known yet".into(), |now| format!("Leave as it is: {now}")),
                is_missing,
                is_required: false,
            }
        })
        .collect();
    axes.push(Axis { is_missing: false, ..resolved() });
    axes.sort_by_key(|axis| !axis.is_missing);
    axes
}

fn resolved() -> Axis {
    Axis { name: "resolved", label: "Ended", input: "moment", options: Vec::new(), open: String::new(), is_missing: false, is_required: false }
}

/// The fields of an event that is recorded here.
pub fn new_event() -> Vec<Axis> {
    let axes = AXES.iter().map(|(word, name, label, input)| Axis {
        name,
        label,
        input,
        options: options(word),
        open: "Not known yet".into(),
        is_missing: false,
        is_required: *word == "term",
    });
    axes.chain([resolved()]).collect()
}

/// What is known of each axis, in words.
fn axes_now(event: &Event) -> [(&'static str, Option<String>); 9] {
    let yes_no = |answer: Option<bool>| answer.map(|yes| if yes { "yes" } else { "no" }.to_owned());
    let criteria: Vec<String> = event.seriousness_criteria.iter().map(|code| text::seriousness(code)).collect();
    [
        ("term", Some(event.term.clone()).filter(|term| !term.is_empty())),
        ("grade", event.grade.map(|grade| grade.to_string())),
        ("seriousness", yes_no(event.is_serious)),
        ("seriousness-criteria", (!criteria.is_empty()).then(|| criteria.join(", "))),
        ("relation", event.relation.map(|relation| text::relation(relation).to_lowercase())),
        ("expectedness", yes_no(event.is_expected)),
        ("outcome", event.outcome.as_deref().map(|outcome| text::outcome(outcome).to_lowercase())),
        ("onset", event.onset.as_deref().map(text::date)),
        ("dose-limiting", yes_no(event.is_dose_limiting)),
    ]
}

pub struct EventView {
    /// Place on the page.
    pub anchor: String,
    pub id: String,
    pub hash: String,
    pub site: String,
    pub subject: String,
    /// Its why-card, at this event.
    pub card: String,
    /// Where its forms are sent.
    pub action: String,
    pub term: String,
    pub is_serious: bool,
    pub is_related: bool,
    pub is_dose_limiting: bool,
    pub grade: Option<u8>,
    pub onset: Option<String>,
    pub origin: &'static str,
    /// Label, what is known (`not known` where nothing is), whether somebody must say it.
    pub facts: Vec<(&'static str, String, bool)>,
    pub missing: Vec<&'static str>,
    pub left_out: Option<&'static str>,
    pub clocks: Vec<ClockView>,
    pub axes: Vec<Axis>,
    pub by: String,
}

/// Labels of the axes where they are told.
const FACTS: [(&str, &str); 8] = [
    ("grade", "Grade"),
    ("seriousness", "Serious"),
    ("seriousness-criteria", "Why serious"),
    ("relation", "Related"),
    ("expectedness", "Expected"),
    ("outcome", "Outcome"),
    ("onset", "Began"),
    ("dose-limiting", "Dose-limiting"),
];

pub fn event(study: &Study, of: &Enrolled, event: &Event, clock: &Clock) -> EventView {
    let base = super::card_href(&study.id, &of.site, &of.subject);
    let anchor = anchor("event", &event.id);
    let now = axes_now(event);
    let told = |axis: &str| now.iter().find(|(known, _)| *known == axis).and_then(|(_, now)| now.clone());
    let mut facts: Vec<(&'static str, String, bool)> = FACTS
        .iter()
        .filter(|(axis, _)| told(axis).is_some() || event.missing.contains(axis))
        .map(|(axis, label)| (*label, told(axis).unwrap_or_else(|| "not known".into()), event.missing.contains(axis)))
        .collect();
    if let Some(resolved) = &event.resolved {
        facts.push(("Ended", text::date(resolved), false));
    }
    EventView {
        card: format!("{base}#{anchor}"),
        anchor,
        action: format!("{base}/decisions"),
        hash: event.evidence_hash(),
        site: of.site.clone(),
        subject: of.subject.clone(),
        term: if event.term.is_empty() { "Event without a name".into() } else { text::capitalised(&event.term) },
        is_serious: event.is_serious == Some(true),
        is_related: event.is_related == Some(true),
        is_dose_limiting: event.is_dose_limiting == Some(true),
        grade: event.grade,
        onset: event.onset.as_deref().map(text::day),
        origin: match event.origin {
            EventOrigin::Hospital => "the hospital's record",
            EventOrigin::Recorded => "recorded here",
            EventOrigin::Candidate => "a confirmed candidate",
        },
        facts,
        missing: event.missing.iter().map(|axis| text::axis(axis)).collect(),
        left_out: event.left_out.map(text::left_out),
        clocks: event.clocks.iter().map(|standing| clock_view(study, standing, clock)).collect(),
        axes: axes_of(event),
        by: event.by.iter().map(named).collect::<Vec<_>>().join(", "),
        id: event.id.clone(),
    }
}

/// What may stand in an address and names one thing on a page.
fn anchor(kind: &str, id: &str) -> String {
    let id: String = id.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    format!("{kind}-{id}")
}

pub struct ClockView {
    pub id: String,
    pub name: String,
    /// `overdue`, `running`, `reported` or `late`.
    pub class: &'static str,
    pub mark: &'static str,
    pub word: &'static str,
    pub is_open: bool,
    pub due: String,
    pub due_machine: String,
    /// `in 14 h`, `3 h ago`; empty once reported.
    pub left: String,
    pub started: String,
    pub reported: Option<String>,
    /// Why it runs although nobody said so; empty where all is known.
    pub assumed: String,
}

pub fn clock_view(study: &Study, standing: &ClockStanding, clock: &Clock) -> ClockView {
    let known = study.safety.iter().flat_map(|safety| &safety.clocks).find(|known| known.id == standing.clock);
    let (class, mark, word) = match standing.state {
        ClockState::Overdue => ("overdue", "!", "overdue"),
        ClockState::Running => ("running", "◷", "running"),
        ClockState::Reported => ("reported", "✓", "reported"),
        ClockState::ReportedLate => ("late", "✓", "reported late"),
    };
    let is_open = matches!(standing.state, ClockState::Overdue | ClockState::Running);
    let assumed: Vec<&str> = standing.assumed.iter().map(|axis| text::axis(axis)).collect();
    ClockView {
        id: standing.clock.clone(),
        name: known.map_or_else(|| standing.clock.clone(), |known| known.name.clone()),
        class,
        mark,
        word,
        is_open,
        due: clock.time(standing.due_ms),
        due_machine: clock.machine(standing.due_ms),
        left: if is_open { clock.until(standing.due_ms) } else { String::new() },
        started: clock.time(standing.started_ms),
        reported: standing.reported_ms.map(|ms| clock.time(ms)),
        assumed: if assumed.is_empty() {
            String::new()
        } else {
            format!("It runs because nobody said {}; what is not known counts as the worst.", text::list(&assumed))
        },
    }
}

pub struct CandidateView {
    pub anchor: String,
    pub id: String,
    pub hash: String,
    pub site: String,
    pub subject: String,
    pub card: String,
    pub action: String,
    pub kind: &'static str,
    pub term: String,
    pub why: String,
    pub grade: Option<u8>,
    pub baseline: String,
    pub version: Option<String>,
    pub at: String,
    pub by: String,
    /// Who answered what, and why; `None` while open.
    pub decided: Option<String>,
}

pub fn candidate(study: &Study, of: &Enrolled, candidate: &Candidate) -> CandidateView {
    let base = super::card_href(&study.id, &of.site, &of.subject);
    let anchor = anchor("candidate", &candidate.id);
    let answer = match candidate.status {
        CandidateStatus::Open => None,
        CandidateStatus::Confirmed => Some("an adverse event"),
        CandidateStatus::Dismissed => Some("no adverse event"),
    };
    CandidateView {
        card: format!("{base}#{anchor}"),
        anchor,
        action: format!("{base}/decisions"),
        hash: candidate.evidence_hash(),
        site: of.site.clone(),
        subject: of.subject.clone(),
        kind: match candidate.kind {
            CandidateKind::LaboratoryShift => "laboratory shift",
            CandidateKind::UnplannedStay => "unplanned stay",
            CandidateKind::NewCondition => "new condition",
        },
        term: text::capitalised(&candidate.term),
        why: text::sentence(&candidate.why),
        grade: candidate.grade,
        baseline: match (candidate.grade, candidate.baseline_grade) {
            (None, _) => String::new(),
            (Some(_), None) => "no baseline".into(),
            (Some(_), Some(0)) => "baseline within limits".into(),
            (Some(_), Some(grade)) => format!("baseline grade {grade}"),
        },
        version: candidate.ctcae_version.as_ref().map(|version| format!("CTCAE {version}")),
        at: text::day(&candidate.at.date),
        by: candidate.by.iter().map(named).collect::<Vec<_>>().join(", "),
        decided: answer.map(|answer| {
            let who = candidate.decided_by.as_deref().unwrap_or_default();
            let reason = candidate.decided_reason.as_deref().unwrap_or_default();
            format!("{answer}, by {who}: {reason}")
        }),
        id: candidate.id.clone(),
    }
}

pub struct DoseView {
    pub date: String,
    pub cells: String,
    pub fits: Option<bool>,
    pub by: String,
}

/// A number of cells as people say it: `64 million cells`.
fn cells(cells: f64) -> String {
    format!("{} million cells", text::number(cells / 1e6, 2))
}

fn dose(dose: &Dose) -> DoseView {
    let received = if dose.as_received.is_empty() { "cells not counted".to_owned() } else { dose.as_received.clone() };
    DoseView {
        date: text::date(&dose.given.date),
        cells: match dose.cells {
            Some(count) if dose.as_received.is_empty() => cells(count),
            Some(count) => format!("{} ({})", cells(count), dose.as_received),
            None => received,
        },
        fits: dose.fits_arm,
        by: dose.by.iter().map(named).collect::<Vec<_>>().join(", "),
    }
}

/// An arm that a dose may be recorded for.
pub struct ArmChoice {
    pub id: String,
    pub name: String,
    pub is_current: bool,
}

/// The trial's part of a why-card.
pub struct TrialView {
    pub enrolled: String,
    pub enrolled_by: String,
    pub arm: Option<String>,
    pub is_arm_conflicting: bool,
    pub doses: Vec<DoseView>,
    pub ended: Option<String>,
    pub visits: Vec<VisitView>,
    pub next: Option<Next>,
    pub has_anchor: bool,
    pub is_silent: bool,
    pub events: Vec<EventView>,
    pub candidates: Vec<CandidateView>,
    pub answered: Vec<CandidateView>,
    pub arms: Vec<ArmChoice>,
    pub record: Vec<Axis>,
    pub open_clocks: usize,
}

pub fn trial(study: &Study, of: &Enrolled, today: &str, clock: &Clock) -> TrialView {
    let Course { entered, schedule, events, candidates, .. } = &of.course;
    let arm = entered.arm.as_ref();
    let (open, answered): (Vec<&Candidate>, Vec<&Candidate>) = candidates.iter().partition(|candidate| candidate.status == CandidateStatus::Open);
    TrialView {
        enrolled: text::day(&entered.enrolled.date),
        enrolled_by: named(&entered.enrolled.by),
        arm: arm.map(|given| arm_name(study, &given.arm)),
        is_arm_conflicting: arm.is_some_and(|given| given.is_conflicting),
        doses: entered.doses.iter().map(dose).collect(),
        ended: entered.ended.as_ref().map(|ended| text::day(&ended.date)),
        visits: schedule.visits.iter().map(|standing| visit(standing, today)).collect(),
        next: next(schedule),
        has_anchor: schedule.anchor.is_some(),
        is_silent: schedule.is_silent,
        events: events.iter().rev().map(|known| event(study, of, known, clock)).collect(),
        candidates: open.into_iter().map(|known| candidate(study, of, known)).collect(),
        answered: answered.into_iter().map(|known| candidate(study, of, known)).collect(),
        arms: study
            .arms
            .iter()
            .map(|choice| ArmChoice {
                id: choice.id.clone(),
                name: format!("{} ({} million)", choice.name, text::number(choice.cells / 1e6, 2)),
                is_current: arm.is_some_and(|given| given.arm == choice.id),
            })
            .collect(),
        record: new_event(),
        open_clocks: crate::http::conduct::open_clocks(&of.course).count(),
    }
}

pub fn arm_name(study: &Study, arm: &str) -> String {
    study.arms.iter().find(|known| known.id == arm).map_or_else(|| arm.to_owned(), |known| known.name.clone())
}

impl EventView {
    /// What is known of one axis, for a cell of a table.
    pub fn told(&self, label: &str) -> &str {
        self.facts.iter().find(|(known, _, _)| *known == label).map_or("–", |(_, told, _)| told.as_str())
    }
}
