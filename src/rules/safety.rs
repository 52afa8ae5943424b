//! Adverse events of a subject in a trial: the axes as the sources and persons say them, what is missing, whether and why
//! an event counts, and the reporting clocks it starts. No axis is inferred from another: seriousness never from severity,
//! a dose-limiting toxicity never from a grade. What nobody said counts as the worst wherever a deadline hangs on it.
//!
//! An event in progress (`in-progress` of the clinical research profile, hl7.fhir.uv.ae-research-backport-ig 1.0.1) is
//! ongoing, not provisional, and counts. One of unknown status is quarantined on receipt and never comes here.

use std::cmp::Ordering;

use serde::Serialize;

use super::candidates::{Candidate, CandidateStatus};
use super::course::{self, Cited, order};
use super::dosing;
use super::enrolment::{Entered, has_happened};
use super::{evidence, person};
use crate::clinical::chart::{Chart, Recorded};
use crate::clinical::date::{AsOf, PartialDate};
use crate::clinical::fact::{AdverseEvent, Decided, Decision, EventAxes, Relation, Source, Status};
use crate::study::{Clock, ClockStart, Study};

/// One adverse event. An axis that is `None` is not known, and stands in `missing` where the study asks for it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Event {
    /// Its reference, such as `AdverseEvent/7`, `Decision/ab12` (recorded here) or the id of a confirmed candidate.
    pub id: String,
    pub origin: EventOrigin,
    /// Everything that says something of it, the source first.
    pub by: Vec<Cited>,
    pub term: String,
    /// `system|code` of each coding.
    pub codes: Vec<String>,
    /// CTCAE grade 1 to 5.
    pub grade: Option<u8>,
    pub is_serious: Option<bool>,
    pub seriousness_criteria: Vec<String>,
    /// The worst relation to the study's treatment over its suspects.
    pub relation: Option<Relation>,
    /// Whether the study counts that relation as related.
    pub is_related: Option<bool>,
    pub is_expected: Option<bool>,
    /// R4 code, such as `resolved`.
    pub outcome: Option<String>,
    pub is_dose_limiting: Option<bool>,
    /// The person whose word that is; `None` where a source says it.
    #[serde(skip)]
    pub dose_limiting_by: Option<Assessor>,
    /// FHIR syntax, as the source wrote them.
    pub onset: Option<String>,
    pub onset_ms: Option<i64>,
    pub resolved: Option<String>,
    /// When the trial's people could know of it: recorded, else detected, else begun, but no later than the first update
    /// that came; for a confirmed candidate when it was confirmed. Of a coarse date the first moment. `None` where
    /// nothing tells.
    pub aware_ms: Option<i64>,
    /// Began at or after the first dose; `None` where the dates do not tell.
    pub is_treatment_emergent: Option<bool>,
    /// The source itself says that it belongs to this study.
    #[serde(skip)]
    pub names_study: bool,
    /// Why it does not count in the trial's tables: `potential`, `before-enrolment`, `other-study`, `not-final`; `None` when it counts.
    pub left_out: Option<&'static str>,
    /// Words of the axes that the study asks for and nobody gave, in the order of the form.
    pub missing: Vec<&'static str>,
    pub clocks: Vec<ClockStanding>,
}

impl Event {
    /// Hash of the event as it is shown, without its clocks, which move by themselves; a decision about it names this.
    pub fn evidence_hash(&self) -> String {
        course::hash_of(&Event { clocks: Vec::new(), ..self.clone() })
    }
}

/// A person's word on one axis of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assessor {
    pub by: String,
    pub reason: String,
    pub at_ms: i64,
}

impl Assessor {
    fn of(decision: &Decision) -> Assessor {
        Assessor { by: decision.by.to_string(), reason: decision.reason.clone(), at_ms: decision.at_ms }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventOrigin {
    /// A hospital's own: never copied (rulings.md 25).
    Hospital,
    /// Recorded by the trial's people: ours to author.
    Recorded,
    /// Suggested by the data and confirmed by a person.
    Candidate,
}

/// Where one reporting clock of one event stands.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClockStanding {
    /// Id of the clock in study.json.
    pub clock: String,
    /// Awareness; the subject's enrolment where nobody knows better, with `awareness` among `assumed`.
    pub started_ms: i64,
    pub due_ms: i64,
    pub state: ClockState,
    pub reported_ms: Option<i64>,
    /// Axes that nobody gave and that count as the worst until they are filled.
    pub assumed: Vec<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClockState {
    Running,
    Overdue,
    Reported,
    ReportedLate,
}

/// Every event of a subject who entered, oldest first; those that do not count say why.
pub(super) fn events(study: &Study, chart: &Chart, entered: &Entered, candidates: &[Candidate], as_of: AsOf) -> Vec<Event> {
    let mut drafts = of_hospital(chart, entered, as_of);
    drafts.extend(recorded_here(study, chart, as_of));
    drafts.extend(candidates.iter().filter_map(confirmed));
    let mut events: Vec<Event> = drafts
        .into_iter()
        .map(|mut draft| {
            draft.lay_over(study, chart, as_of);
            draft.told(study, chart, entered, as_of)
        })
        .collect();
    events.sort_by(|a, b| {
        let began = |event: &Event| event.onset_ms.or(event.aware_ms).unwrap_or(i64::MAX);
        (began(a), &a.id).cmp(&(began(b), &b.id))
    });
    events
}

/// An event while its axes are gathered.
struct Draft {
    id: String,
    origin: EventOrigin,
    by: Vec<Cited>,
    body: AdverseEvent,
    relation: Option<Relation>,
    aware: Option<PartialDate>,
    status: Status,
    dose_limiting_by: Option<Assessor>,
}

/// The hospital's events that exist by then. Versions of one event that contradict each other are one event, of which
/// only what they agree on is known.
fn of_hospital(chart: &Chart, entered: &Entered, as_of: AsOf) -> Vec<Draft> {
    let products: Vec<String> =
        entered.doses.iter().flat_map(|dose| dose.by.iter().map(|by| by.resource.clone())).filter(|by| !by.starts_with("Decision/")).collect();
    let mut drafts: Vec<Draft> = Vec::new();
    for of in chart.adverse_events.iter().filter(|of| exists(of, as_of)) {
        let id = evidence::resource(&of.source);
        let body = &of.body;
        let updated = first_update_ms(chart, of).map(PartialDate::instant);
        let draft = Draft {
            id,
            origin: EventOrigin::Hospital,
            by: vec![Cited::of(&of.source)],
            relation: relation(body, &products),
            // Sources write `recordedDate` anew with each version; whoever sent the first one knew by then.
            aware: [body.recorded.or(body.detected).or(body.onset), updated].into_iter().flatten().min_by_key(|date| date.start_ms),
            status: of.status,
            dose_limiting_by: None,
            body: body.clone(),
        };
        match drafts.iter_mut().find(|other| other.id == draft.id) {
            Some(rival) => rival.agree(draft),
            None => drafts.push(draft),
        }
    }
    drafts
}

/// The earliest update of any version that came: a later edit starts no clock anew.
fn first_update_ms(chart: &Chart, of: &Recorded<AdverseEvent>) -> Option<i64> {
    let is_same = |source: &&Source| source.resource_type == of.source.resource_type && source.id == of.source.id;
    let older = chart.retired.iter().map(|(older, _)| older).filter(is_same);
    older.chain([&of.source]).filter_map(|source| source.last_updated_ms).min()
}

/// Dated by its first date; what nobody dates is there.
fn exists(of: &Recorded<AdverseEvent>, as_of: AsOf) -> bool {
    let body = &of.body;
    let dates = [body.onset, body.detected, body.recorded];
    dates.iter().flatten().min_by_key(|date| date.start_ms).is_none_or(|first| as_of.includes(first))
}

/// The worst relation over the suspects that are the study's product, by the mapping or because they are one of its
/// administrations; where none is, over all suspects: nobody said that it was something else.
fn relation(body: &AdverseEvent, products: &[String]) -> Option<Relation> {
    let is_product = |suspect: &str| products.iter().any(|product| suspect == product || suspect.ends_with(&format!("/{product}")));
    let of_product: Vec<_> = body.relatedness.iter().filter(|one| one.is_study_product || is_product(&one.suspect)).collect();
    if of_product.is_empty() {
        body.relatedness.iter().filter_map(|one| one.relation).max()
    } else {
        of_product.iter().filter_map(|one| one.relation).max()
    }
}

/// What the trial's own people recorded.
fn recorded_here(study: &Study, chart: &Chart, as_of: AsOf) -> Vec<Draft> {
    decided(study, chart, as_of)
        .filter_map(|(decision, what)| match what {
            About::Recorded(event) => Some(Draft {
                id: evidence::resource(&decision.source),
                origin: EventOrigin::Recorded,
                by: vec![Cited::of(&decision.source)],
                relation: event.relatedness.iter().filter_map(|one| one.relation).max(),
                aware: event.recorded.or(Some(PartialDate::instant(decision.body.at_ms))),
                status: decision.status,
                dose_limiting_by: event.is_dose_limiting.map(|_| Assessor::of(&decision.body)),
                body: event.clone(),
            }),
            About::Axes(..) | About::Reported { .. } => None,
        })
        .collect()
}

/// A confirmed candidate, with only what is known: term, onset, and the laboratory grade that the person saw.
fn confirmed(candidate: &Candidate) -> Option<Draft> {
    if candidate.status != CandidateStatus::Confirmed {
        return None;
    }
    let body = AdverseEvent {
        grade: candidate.grade.filter(|grade| *grade > 0),
        onset: Some(candidate.at.read()),
        ..AdverseEvent::named(candidate.term.as_str())
    };
    Some(Draft {
        id: candidate.id.clone(),
        origin: EventOrigin::Candidate,
        by: candidate.by.iter().cloned().chain(candidate.decision.clone()).collect(),
        body,
        relation: None,
        aware: candidate.decided_at_ms.map(PartialDate::instant),
        status: Status::Final,
        dose_limiting_by: None,
    })
}

/// What a decision says of an event.
enum About<'c> {
    Recorded(&'c AdverseEvent),
    Axes(&'c str, &'c EventAxes),
    Reported { event: &'c str, clock: &'c str, at: PartialDate },
}

/// In order of time.
fn decided<'c>(study: &Study, chart: &'c Chart, as_of: AsOf) -> impl Iterator<Item = (&'c Recorded<Decision>, About<'c>)> {
    person::decisions(study, chart, as_of).filter_map(|decision| {
        let about = match &decision.body.what {
            Decided::EventRecorded { event } => About::Recorded(event),
            Decided::EventAxes { event, axes } => About::Axes(event, axes),
            Decided::EventReported { event, clock, at } => About::Reported { event, clock, at: *at },
            Decided::Attestation { .. }
            | Decided::Consent { .. }
            | Decided::OptOut { .. }
            | Decided::State { .. }
            | Decided::Dose { .. }
            | Decided::Candidate { .. } => return None,
        };
        Some((decision, about))
    })
}

impl Draft {
    /// Two versions that nothing puts in order: what they do not agree on is not known.
    fn agree(&mut self, other: Draft) {
        let (one, two) = (&mut self.body, other.body);
        self.by.extend(other.by);
        self.by.sort();
        self.by.dedup();
        self.relation = self.relation.filter(|_| self.relation == other.relation);
        // The earlier knowledge, and the status that counts: a deadline is not lost over a contradiction.
        self.aware = self.aware.into_iter().chain(other.aware).min_by_key(|date| date.start_ms);
        self.status = if has_happened(self.status) { self.status } else { other.status };
        one.codes.retain(|code| two.codes.contains(code));
        if one.term != two.term {
            one.term = Default::default();
        }
        one.is_actual |= two.is_actual;
        one.grade = one.grade.filter(|_| one.grade == two.grade);
        one.is_serious = one.is_serious.filter(|_| one.is_serious == two.is_serious);
        one.seriousness_criteria.retain(|code| two.seriousness_criteria.contains(code));
        one.is_expected = one.is_expected.filter(|_| one.is_expected == two.is_expected);
        one.outcome = one.outcome.take().filter(|outcome| Some(outcome) == two.outcome.as_ref());
        one.onset = one.onset.filter(|_| one.onset == two.onset);
        one.resolved = one.resolved.filter(|_| one.resolved == two.resolved);
        one.is_dose_limiting = one.is_dose_limiting.filter(|_| one.is_dose_limiting == two.is_dose_limiting);
        one.studies.retain(|study| two.studies.contains(study));
        one.names_other_study &= two.names_other_study;
    }

    /// A person fills what the source left open; where both speak, the person's judgement counts. The newest last.
    fn lay_over(&mut self, study: &Study, chart: &Chart, as_of: AsOf) {
        for (decision, about) in decided(study, chart, as_of) {
            let About::Axes(event, axes) = about else { continue };
            if event != self.id {
                continue;
            }
            let EventAxes { term, grade, is_serious, seriousness_criteria, relation, is_expected, outcome, onset, resolved, is_dose_limiting } = axes;
            let body = &mut self.body;
            if let Some(term) = term {
                body.term = term.clone();
            }
            if let Some(criteria) = seriousness_criteria {
                body.seriousness_criteria = criteria.clone();
            }
            body.grade = grade.or(body.grade);
            body.is_serious = is_serious.or(body.is_serious);
            self.relation = relation.or(self.relation);
            body.is_expected = is_expected.or(body.is_expected);
            body.outcome = outcome.clone().or(body.outcome.take());
            body.onset = onset.or(body.onset);
            body.resolved = resolved.or(body.resolved);
            body.is_dose_limiting = is_dose_limiting.or(body.is_dose_limiting);
            if is_dose_limiting.is_some() {
                self.dose_limiting_by = Some(Assessor::of(&decision.body));
            }
            self.by.push(Cited::of(&decision.source));
        }
    }

    fn told(self, study: &Study, chart: &Chart, entered: &Entered, as_of: AsOf) -> Event {
        let Draft { id, origin, by, mut body, relation, aware, status, dose_limiting_by } = self;
        // An end that lies ahead of the judgement has not come; what it came to is not known yet.
        if body.resolved.is_some_and(|resolved| !as_of.includes(&resolved)) {
            (body.resolved, body.outcome) = (None, None);
        }
        if body.is_serious == Some(false) {
            // The profile allows no criteria on an event that is not serious (aeClinRes-seriousness-1).
            body.seriousness_criteria.clear();
        }
        let names_study = names(&body, study);
        let left_out = left_out(study, entered, &body, status);
        let safety = study.safety.as_ref();
        let mut event = Event {
            id,
            origin,
            by,
            term: body.term.to_string(),
            codes: body.codes.iter().map(|code| code.to_string()).collect(),
            grade: body.grade,
            is_serious: body.is_serious,
            seriousness_criteria: body.seriousness_criteria.iter().map(|code| code.to_string()).collect(),
            relation,
            is_related: relation.zip(safety).map(|(relation, safety)| safety.related.contains(&relation)),
            is_expected: body.is_expected,
            outcome: body.outcome.as_ref().map(|outcome| outcome.to_string()),
            is_dose_limiting: body.is_dose_limiting,
            dose_limiting_by,
            onset: body.onset.map(|onset| onset.to_string()),
            onset_ms: body.onset.map(|onset| onset.start_ms),
            resolved: body.resolved.map(|resolved| resolved.to_string()),
            aware_ms: aware.map(|aware| aware.start_ms),
            is_treatment_emergent: is_treatment_emergent(entered, body.onset.as_ref()),
            names_study,
            left_out,
            missing: Vec::new(),
            clocks: Vec::new(),
        };
        if left_out.is_none()
            && let Some(safety) = safety
        {
            event.missing = missing(study, entered, &event, body.onset.as_ref());
            event.clocks = safety.clocks.iter().filter_map(|clock| standing(clock, &event, study, chart, entered, as_of)).collect();
        }
        event
    }
}

/// Whether the source says that an event belongs to this study.
fn names(body: &AdverseEvent, study: &Study) -> bool {
    body.studies.iter().any(|named| *named == study.id.as_str())
}

/// Why an event does not count for this study.
fn left_out(study: &Study, entered: &Entered, body: &AdverseEvent, status: Status) -> Option<&'static str> {
    let enrolled = entered.enrolled.read();
    let first_dose = entered.doses.first().map(|dose| dose.given.read());
    // Who was dosed before anybody enrolled them was in the trial by then.
    let is_before = |onset: &PartialDate| {
        order(onset, &enrolled) == Some(Ordering::Less) && first_dose.is_none_or(|dose| order(onset, &dose) == Some(Ordering::Less))
    };
    if !has_happened(status) {
        Some("not-final")
    } else if !body.is_actual {
        Some("potential")
    } else if !names(body, study) && (body.names_other_study || !body.studies.is_empty()) {
        Some("other-study")
    } else if body.onset.as_ref().is_some_and(is_before) {
        Some("before-enrolment")
    } else {
        None
    }
}

fn is_treatment_emergent(entered: &Entered, onset: Option<&PartialDate>) -> Option<bool> {
    let Some(dose) = entered.doses.first() else { return Some(false) };
    order(onset?, &dose.given.read()).map(|order| order != Ordering::Less)
}

/// The axes that nobody gave, in the order of the form. An outcome that the source calls unknown is not known.
fn missing(study: &Study, entered: &Entered, event: &Event, onset: Option<&PartialDate>) -> Vec<&'static str> {
    let is_in_window = dosing::window(study, entered).is_some_and(|window| window.may_hold(onset));
    let axes = [
        ("term", event.term.trim().is_empty() && event.codes.is_empty()),
        ("grade", event.grade.is_none()),
        ("seriousness", event.is_serious.is_none()),
        ("seriousness-criteria", event.is_serious == Some(true) && event.seriousness_criteria.is_empty()),
        ("relation", event.relation.is_none()),
        ("expectedness", event.is_expected.is_none()),
        ("outcome", event.outcome.as_deref().is_none_or(|outcome| outcome == "unknown")),
        ("onset", event.onset.is_none()),
        ("dose-limiting", is_in_window && event.is_dose_limiting.is_none()),
    ];
    axes.into_iter().filter(|(_, is_missing)| *is_missing).map(|(axis, _)| axis).collect()
}

/// One clock of one event; `None` where it does not run, or where nobody knew of the event by then.
fn standing(clock: &Clock, event: &Event, study: &Study, chart: &Chart, entered: &Entered, as_of: AsOf) -> Option<ClockStanding> {
    let mut assumed = starts(clock, event)?;
    let started_ms = event.aware_ms.unwrap_or_else(|| {
        assumed.push("awareness");
        entered.enrolled.at_ms
    });
    if started_ms > as_of.until_ms {
        return None;
    }
    let due_ms = started_ms + i64::from(clock.hours) * 3_600_000;
    // A report that is dated by its day was made in its first moment, as far as anybody can tell.
    let reports = decided(study, chart, as_of).filter_map(|(_, about)| match about {
        About::Reported { event: id, clock: of, at } if id == event.id && of == clock.id && as_of.includes(&at) => Some(at.start_ms),
        About::Reported { .. } | About::Recorded(_) | About::Axes(..) => None,
    });
    let reported_ms = reports.min();
    let state = match reported_ms {
        Some(at) if at <= due_ms => ClockState::Reported,
        Some(_) => ClockState::ReportedLate,
        None if due_ms < as_of.until_ms => ClockState::Overdue,
        None => ClockState::Running,
    };
    Some(ClockStanding { clock: clock.id.clone(), started_ms, due_ms, state, reported_ms, assumed })
}

/// The axes that had to be assumed for the clock to start; `None` where what is known says that it does not.
fn starts(clock: &Clock, event: &Event) -> Option<Vec<&'static str>> {
    let mut asked = vec![("seriousness", event.is_serious)];
    match clock.starts {
        ClockStart::Serious => {}
        ClockStart::SeriousUnexpectedRelated => {
            asked.extend([("relation", event.is_related), ("expectedness", event.is_expected.map(|is_expected| !is_expected))]);
        }
    }
    if !clock.only_criteria.is_empty() {
        let is_one_of = |code: &String| clock.only_criteria.contains(code);
        let criteria = &event.seriousness_criteria;
        asked.push(("seriousness-criteria", (!criteria.is_empty()).then(|| criteria.iter().any(is_one_of))));
    }
    if asked.iter().any(|(_, is_so)| *is_so == Some(false)) {
        return None;
    }
    Some(asked.into_iter().filter(|(_, is_so)| is_so.is_none()).map(|(axis, _)| axis).collect())
}

/// R4 AdverseEvent.outcome (http://terminology.hl7.org/CodeSystem/adverse-event-outcome).
pub const OUTCOMES: [&str; 6] = ["resolved", "recovering", "ongoing", "resolvedWithSequelae", "fatal", "unknown"];

/// Seriousness criteria of the clinical research profile, as NCI Thesaurus codes, with their words
/// (hl7.fhir.uv.ae-research-backport-ig 1.0.1).
pub const SERIOUSNESS_CRITERIA: [(&str, &str); 7] = [
    ("C48275", "death"),
    ("C84266", "life threatening"),
    ("C83052", "hospitalization"),
    ("C11338", "disability"),
    ("C83117", "congenital anomaly"),
    ("C82521", "other medically important"),
    ("C201939", "required intervention"),
];

/// Why nobody can mean these axes, in words; `None` when they can be.
pub(super) fn wrong_axes(axes: &EventAxes) -> Option<&'static str> {
    let is_criterion = |code: &compact_str::CompactString| SERIOUSNESS_CRITERIA.iter().any(|(known, _)| known == code);
    if *axes == EventAxes::default() {
        Some("it says nothing of any axis")
    } else if axes.grade.is_some_and(|grade| !(1..=5).contains(&grade)) {
        Some("a grade is 1 to 5")
    } else if axes.outcome.as_deref().is_some_and(|outcome| !OUTCOMES.contains(&outcome)) {
        Some("the outcome is no code of FHIR R4")
    } else if !axes.seriousness_criteria.iter().flatten().all(is_criterion) {
        Some("the seriousness criterion is no code of the clinical research profile")
    } else if axes.onset.zip(axes.resolved).is_some_and(|(onset, resolved)| order(&resolved, &onset) == Some(Ordering::Less)) {
        Some("it ends before it begins")
    } else {
        None
    }
}
