//! Adverse events that persons recorded or confirmed here; a hospital's own is never copied (rulings.md 25). No axis is
//! filled in: what the research profile requires and nobody gave keeps the event here until a person gives it.

use super::super::{AdverseEventShape, Form, Purpose, Written};
use super::case::Case;
use super::request::Wanted;
use super::stance::Stance;
use crate::clinical::date::PartialDate;
use crate::clinical::fact::Relation;
use crate::fhir::in_error;
use crate::fhir::study_flagged::{self, AdverseEvent, DoseLimiting, Shape};
use crate::rules::safety::{Event, EventOrigin};

pub fn events(case: &Case<'_>) -> Vec<Wanted> {
    let written = || case.written.iter().filter(|before| before.resource_type == "AdverseEvent" && before.form == Form::Resource);
    let events: Vec<&Event> = match (case.stance, case.course) {
        (Stance::TakeBack(_), _) => Vec::new(),
        // Nobody asked for the course: nothing is known of the events, least of all that they are gone.
        (Stance::Write | Stance::Follow, None) => return Vec::new(),
        (Stance::Write | Stance::Follow, Some(course)) => course.events.iter().filter(|event| is_ours(event)).collect(),
    };
    let keyed: Vec<(String, &Event)> = events.into_iter().map(|event| (case.key(&format!("AdverseEvent {}", event.id)), event)).collect();
    let mut all: Vec<Wanted> = keyed.iter().filter_map(|(key, event)| told(case, key, event)).collect();
    all.extend(written().filter(|before| keyed.iter().all(|(key, _)| *key != before.key)).map(|before| never_was(case, before)));
    all
}

/// Ours to author, and counted in the trial.
fn is_ours(event: &Event) -> bool {
    let is_authored_here = match event.origin {
        EventOrigin::Recorded | EventOrigin::Candidate => true,
        EventOrigin::Hospital => false,
    };
    is_authored_here && event.left_out.is_none()
}

fn told(case: &Case<'_>, key: &str, event: &Event) -> Option<Wanted> {
    let is_new_allowed = case.stance == Stance::Write && case.receiver.beside.adverse_event.is_some();
    if case.before(key).is_none() && !is_new_allowed {
        return None;
    }
    let takes = &case.receiver.takes;
    let shape = match case.receiver.beside.adverse_event {
        Some(AdverseEventShape::Backport) if !takes.no_extensions && !takes.no_modifier_extensions => Shape::Backport,
        Some(AdverseEventShape::Backport | AdverseEventShape::Plain) | None => Shape::Plain,
    };
    if shape == Shape::Backport && !is_complete(event) {
        return None;
    }
    let date = event.dose_limiting_by.as_ref().map(|by| PartialDate::instant(by.at_ms).to_string());
    let dose_limiting = event.is_dose_limiting.map(|is_dose_limiting| DoseLimiting {
        is_dose_limiting,
        basis: event.dose_limiting_by.as_ref().map(|by| by.reason.trim()).filter(|reason| !reason.is_empty()),
        assessor: event.dose_limiting_by.as_ref().map(|by| by.by.as_str()),
        date: date.as_deref(),
    });
    let build = |study: study_flagged::Target<'_>| {
        let of = AdverseEvent {
            shape,
            with_extensions: !takes.no_extensions,
            status: if is_over(event) { "completed" } else { "in-progress" },
            term: if event.term.trim().is_empty() { "not named yet" } else { event.term.trim() },
            patient: &case.patient,
            study,
            onset: event.onset.as_deref(),
            resolved: event.resolved.as_deref(),
            is_serious: event.is_serious,
            seriousness_criteria: &event.seriousness_criteria,
            outcome: event.outcome.as_deref(),
            relation: event.relation.map(nci_relation),
            grade: event.grade.and_then(nci_grade),
            is_expected: event.is_expected,
            dose_limiting,
        };
        case.build(key, |identity| study_flagged::adverse_event(identity, of))
    };
    let (content, also) = case.with_study(build);
    let mut hashes = vec![case.hash(&content)];
    hashes.extend(also.map(|also| case.hash(&also)));
    // What stands follows its event, and closes with it, whatever became of the subject.
    let purpose = if case.stance == Stance::Write { Purpose::Annotate } else { Purpose::Retract };
    Some(Wanted { kind: "AdverseEvent", key: key.to_owned(), purpose, content: Some(content), hashes, is_new_allowed, marks: None })
}

/// What the research profile requires: a name, seriousness with a criterion where it is serious (aeClinRes-seriousness-1),
/// and an outcome; it knows no `unknown` one.
fn is_complete(event: &Event) -> bool {
    let is_serious_told = match event.is_serious {
        Some(true) => !event.seriousness_criteria.is_empty(),
        Some(false) => true,
        None => false,
    };
    !event.term.trim().is_empty() && is_serious_told && event.outcome.as_deref().is_some_and(|outcome| outcome != "unknown")
}

fn is_over(event: &Event) -> bool {
    event.resolved.is_some() || matches!(event.outcome.as_deref(), Some("resolved" | "resolvedWithSequelae" | "fatal"))
}

/// The profile has a status for it. Plain R4 has none: it is deleted where that is allowed, else it says that it did not happen.
fn never_was(case: &Case<'_>, before: &Written) -> Wanted {
    let key = before.key.clone();
    let is_plain = !before.body.contains("modifierExtension");
    if before.body.is_empty() || (is_plain && case.receiver.deletes) {
        return Wanted::deleted("AdverseEvent", key);
    }
    let content = match is_plain {
        true => case.build(&key, |identity| study_flagged::adverse_event_that_never_was(identity, &case.patient)),
        false => in_error::adverse_event(&before.body),
    };
    let hash = case.hash(&content);
    Wanted::resource("AdverseEvent", key, Purpose::Retract, content, hash)
}

/// The same for the CTCAE grade (adverse-event-clinical-research-grades).
fn nci_grade(grade: u8) -> Option<&'static str> {
    match grade {
        1 => Some("C41338"),
        2 => Some("C41339"),
        3 => Some("C41340"),
        4 => Some("C41337"),
        5 => Some("C48275"),
        _ => None,
    }
}

/// The same for the relation to the study's treatment (adverse-event-clinical-research-causality-relatedness, and the
/// Thesaurus itself for "probable").
fn nci_relation(relation: Relation) -> (&'static str, &'static str) {
    match relation {
        Relation::NotRelated => ("C53256", "not related"),
        Relation::Unlikely => ("C53257", "unlikely related"),
        Relation::Possible => ("C53258", "possibly related"),
        Relation::Probable => ("C53259", "probably related"),
        Relation::Related => ("C53260", "related"),
    }
}
