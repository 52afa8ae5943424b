//! Adverse events of a trial in tables: by arm, grade, relation, seriousness and DLT, as events and as subjects; what was
//! left out and why; what is still to be completed; which reports are due. No axis is inferred from another, and what
//! nobody said is counted as not known.

use std::collections::BTreeMap;

use serde::Serialize;

use super::cohort::{Cohort, Member};
use super::{EventCount, InOrder};
use crate::rules::candidates::{CandidateKind, CandidateStatus};
use crate::rules::course::Cited;
use crate::rules::safety::{ClockStanding, ClockState, Event};

/// One event of one subject.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ListedEvent<'a> {
    /// Position in `events`, from 0.
    pub number: usize,
    /// Position of the subject in `listing`.
    pub listed: usize,
    pub arm: &'a str,
    pub grade: Option<u8>,
    pub is_serious: Option<bool>,
    pub is_related: Option<bool>,
    pub is_dose_limiting: Option<bool>,
    pub is_treatment_emergent: Option<bool>,
    /// Why it does not count; `None` when it does.
    pub left_out: Option<&'static str>,
    /// All that is known of it; `None` where the subject must not be named, since words and dates would do that.
    pub event: Option<&'a Event>,
    #[serde(skip)]
    pub(crate) is: &'a Event,
}

impl ListedEvent<'_> {
    pub fn counts(&self) -> bool {
        self.left_out.is_none()
    }
}

/// `AdverseEvent/7/_history/2`.
pub(crate) fn reference(cited: &Cited) -> String {
    match &cited.version {
        Some(version) => format!("{}/_history/{version}", cited.resource),
        None => cited.resource.clone(),
    }
}

pub(crate) fn listed<'a>(cohort: &Cohort<'a>) -> Vec<ListedEvent<'a>> {
    let all = cohort.members.iter().flat_map(|member| member.course().events.iter().map(move |event| (member, event)));
    let listed = all.enumerate().map(|(number, (member, event))| ListedEvent {
        number,
        listed: member.number,
        arm: member.arm,
        grade: event.grade,
        is_serious: event.is_serious,
        is_related: event.is_related,
        is_dose_limiting: event.is_dose_limiting,
        is_treatment_emergent: event.is_treatment_emergent,
        left_out: event.left_out,
        event: member.is_named().then_some(event),
        is: event,
    });
    listed.collect()
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Safety<'a> {
    /// Of the events that count.
    pub table: Vec<SafetyRow<'a>>,
    /// The same by the source's term, most events first.
    pub terms: Vec<TermRow<'a>>,
    /// Events that do not count, by reason.
    pub left_out: InOrder<&'static str, EventCount>,
    /// Events of which an axis is missing that the study asks for.
    pub completion: Completion,
    /// Reporting clocks, in order of their id.
    pub clocks: Vec<ClockRow<'a>>,
    /// Reports that are late, the longest overdue first.
    pub overdue: Vec<OverdueReport<'a>>,
    /// What the data suggest and nobody has decided yet.
    pub candidates: Vec<CandidateRow>,
}

/// One kind of event. Subjects are those with at least one such event.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SafetyRow<'a> {
    /// Word of the kind, such as `related` or `grade-2`.
    pub what: &'static str,
    /// For people.
    #[serde(skip)]
    pub name: &'static str,
    pub all: EventCount,
    pub arms: InOrder<&'a str, EventCount>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TermRow<'a> {
    /// In the source's words; empty for events of subjects who must not be named, and for events without a term.
    pub term: &'a str,
    pub worst_grade: Option<u8>,
    pub all: EventCount,
    pub arms: InOrder<&'a str, EventCount>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Completion {
    pub waiting: EventCount,
    /// By the word of the missing axis.
    pub axes: InOrder<&'static str, EventCount>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClockRow<'a> {
    /// Id of the clock in study.json.
    pub clock: &'a str,
    pub running: EventCount,
    pub overdue: EventCount,
    pub reported: EventCount,
    pub reported_late: EventCount,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OverdueReport<'a> {
    /// Position in `events`.
    pub event: usize,
    pub clock: &'a str,
    pub due_ms: i64,
    /// Axes that nobody gave and that count as the worst until they are filled.
    pub assumed: &'a [&'static str],
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CandidateRow {
    pub kind: CandidateKind,
    pub open: usize,
    pub confirmed: usize,
    pub dismissed: usize,
}

/// A kind of event: its word, its name, and which events are of it.
type Kind = (&'static str, &'static str, fn(&Event) -> bool);

const KINDS: [Kind; 19] = [
    ("any", "Any adverse event", |_| true),
    ("treatment-emergent", "Treatment-emergent", |event| event.is_treatment_emergent == Some(true)),
    ("before-treatment", "Began before treatment", |event| event.is_treatment_emergent == Some(false)),
    ("emergence-unknown", "Not known whether treatment-emergent", |event| event.is_treatment_emergent.is_none()),
    ("related", "Related to treatment", |event| event.is_related == Some(true)),
    ("not-related", "Not related", |event| event.is_related == Some(false)),
    ("relation-unknown", "Relation not known", |event| event.is_related.is_none()),
    ("serious", "Serious", |event| event.is_serious == Some(true)),
    ("serious-and-related", "Serious and related", |event| event.is_serious == Some(true) && event.is_related == Some(true)),
    ("seriousness-unknown", "Seriousness not known", |event| event.is_serious.is_none()),
    ("dose-limiting", "Dose-limiting toxicity", |event| event.is_dose_limiting == Some(true)),
    ("grade-1", "Grade 1", |event| event.grade == Some(1)),
    ("grade-2", "Grade 2", |event| event.grade == Some(2)),
    ("grade-3", "Grade 3", |event| event.grade == Some(3)),
    ("grade-4", "Grade 4", |event| event.grade == Some(4)),
    ("grade-5", "Grade 5", |event| event.grade == Some(5)),
    ("grade-unknown", "Grade not known", |event| event.grade.is_none()),
    ("fatal", "Outcome fatal", |event| event.outcome.as_deref() == Some("fatal")),
    ("ongoing", "Not resolved", |event| matches!(event.outcome.as_deref(), Some("ongoing" | "recovering"))),
];

pub(crate) fn safety<'a>(cohort: &Cohort<'a>, events: &[ListedEvent<'a>]) -> Safety<'a> {
    let counting: Vec<&ListedEvent<'a>> = events.iter().filter(|listed| listed.counts()).collect();
    let table = KINDS
        .iter()
        .map(|(what, name, is_of_it)| {
            let of_it: Vec<&ListedEvent<'a>> = counting.iter().copied().filter(|listed| is_of_it(listed.is)).collect();
            SafetyRow { what, name, all: count(of_it.iter().copied()), arms: by_arm(cohort, &of_it) }
        })
        .collect();
    Safety {
        table,
        terms: terms(cohort, &counting),
        left_out: by_word(events.iter().filter_map(|listed| Some((listed.left_out?, listed)))),
        completion: Completion {
            waiting: count(counting.iter().copied().filter(|listed| !listed.is.missing.is_empty())),
            axes: by_word(counting.iter().flat_map(|listed| listed.is.missing.iter().map(move |axis| (*axis, *listed)))),
        },
        clocks: clocks(&counting),
        overdue: overdue(&counting),
        candidates: candidates(&cohort.members),
    }
}

/// Events stand in the order of their subjects, so one subject's events are neighbours.
fn count<'e, 'a: 'e>(events: impl Iterator<Item = &'e ListedEvent<'a>>) -> EventCount {
    let mut count = EventCount::default();
    let mut last = None;
    for listed in events {
        count.events += 1;
        count.subjects += usize::from(last != Some(listed.listed));
        count.listed.push(listed.number);
        last = Some(listed.listed);
    }
    count
}

fn by_arm<'a>(cohort: &Cohort<'a>, events: &[&ListedEvent<'a>]) -> InOrder<&'a str, EventCount> {
    InOrder(cohort.arms.iter().map(|arm| (*arm, count(events.iter().copied().filter(|listed| listed.arm == *arm)))).collect())
}

fn by_word<'e, 'a: 'e>(pairs: impl Iterator<Item = (&'static str, &'e ListedEvent<'a>)>) -> InOrder<&'static str, EventCount> {
    let mut words: BTreeMap<&'static str, Vec<&ListedEvent<'a>>> = BTreeMap::new();
    for (word, listed) in pairs {
        words.entry(word).or_default().push(listed);
    }
    InOrder(words.into_iter().map(|(word, events)| (word, count(events.into_iter()))).collect())
}

fn terms<'a>(cohort: &Cohort<'a>, events: &[&ListedEvent<'a>]) -> Vec<TermRow<'a>> {
    let mut terms: BTreeMap<String, Vec<&ListedEvent<'a>>> = BTreeMap::new();
    for listed in events {
        // Two ways to write one term are one row, shown as it was written first.
        let term = listed.event.map(|event| event.term.trim().to_lowercase()).unwrap_or_default();
        terms.entry(term).or_default().push(listed);
    }
    let mut rows: Vec<TermRow<'a>> = terms
        .into_values()
        .map(|events| TermRow {
            term: events[0].event.map_or("", |event| event.term.trim()),
            worst_grade: events.iter().filter_map(|listed| listed.grade).max(),
            all: count(events.iter().copied()),
            arms: by_arm(cohort, &events),
        })
        .collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.all.events));
    rows
}

/// Every clock of every event that counts.
fn standings<'e, 'a: 'e>(events: &'e [&'e ListedEvent<'a>]) -> impl Iterator<Item = (&'e ListedEvent<'a>, &'a ClockStanding)> {
    events.iter().flat_map(|listed| listed.is.clocks.iter().map(|clock| (*listed, clock)))
}

fn clocks<'a>(events: &[&ListedEvent<'a>]) -> Vec<ClockRow<'a>> {
    let mut ids: Vec<&'a str> = standings(events).map(|(_, standing)| standing.clock.as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    ids.into_iter()
        .map(|clock| {
            let of = |state: ClockState| {
                count(standings(events).filter(|(_, standing)| standing.clock == clock && standing.state == state).map(|(listed, _)| listed))
            };
            ClockRow {
                clock,
                running: of(ClockState::Running),
                overdue: of(ClockState::Overdue),
                reported: of(ClockState::Reported),
                reported_late: of(ClockState::ReportedLate),
            }
        })
        .collect()
}

fn overdue<'a>(events: &[&ListedEvent<'a>]) -> Vec<OverdueReport<'a>> {
    let mut overdue: Vec<OverdueReport<'a>> = standings(events)
        .filter(|(_, standing)| standing.state == ClockState::Overdue)
        .map(|(listed, standing)| OverdueReport { event: listed.number, clock: &standing.clock, due_ms: standing.due_ms, assumed: &standing.assumed })
        .collect();
    overdue.sort_by_key(|report| report.due_ms);
    overdue
}

fn candidates(members: &[Member<'_>]) -> Vec<CandidateRow> {
    let of = |kind: CandidateKind, status: CandidateStatus| {
        members.iter().flat_map(|member| &member.course().candidates).filter(|candidate| candidate.kind == kind && candidate.status == status).count()
    };
    [CandidateKind::LaboratoryShift, CandidateKind::UnplannedStay, CandidateKind::NewCondition]
        .into_iter()
        .map(|kind| CandidateRow {
            kind,
            open: of(kind, CandidateStatus::Open),
            confirmed: of(kind, CandidateStatus::Confirmed),
            dismissed: of(kind, CandidateStatus::Dismissed),
        })
        .collect()
}
