//! Encounter to a stay, at sites that opt in and for the classes they list. Neither reason nor diagnosis is read.

use compact_str::CompactString;

use crate::clinical::fact::{Body, Encounter, Fact, ResourceType, Status};
use crate::fhir::view::{CodeableConcept, EncounterView};
use crate::issue::{Code, Effect, Issue};

use super::guard::{self, Labels};
use super::site::{Site, full_code, short_system};
use super::trial::Stays;
use super::{Head, Normalised, nothing};

/// Turns one Encounter into a stay, or counts it by its class.
pub fn normalise_view(site: &Site, view: &EncounterView<'_>, head: Head<'_>) -> Normalised {
    if guard::is_echo(&view.meta, &view.identifier) {
        return Normalised::echo("Encounter");
    }
    let Some((status, has_begun)) = status(view.status.as_deref()) else {
        return Normalised::rejected(Issue::new(Code::Shape, "Encounter.status"));
    };
    let subject = guard::patient_id(site, view.subject.as_ref(), "Encounter.subject");
    let retiring = || Some(nothing(head.source(ResourceType::Encounter, head.id?), status, None));
    if let Some(reason) = Labels::of(site, &view.meta.security).reason() {
        return Normalised::out_of_scope(reason.to_owned(), subject.ok(), retiring());
    }
    let class = view.class.as_ref().and_then(|class| class.code.as_deref()).unwrap_or("");
    let Some(stays) = site.trial.stays.as_ref().filter(|stays| stays.classes.iter().any(|taken| taken == class)) else {
        let system = view.class.as_ref().and_then(|class| class.system.as_deref()).unwrap_or("");
        let counted = if class.is_empty() { "Encounter without a class".to_owned() } else { full_code(short_system(system), class).to_string() };
        return Normalised::out_of_scope(counted, subject.ok(), retiring());
    };
    let Some(id) = head.id else {
        return Normalised::rejected(Issue::new(Code::InvalidId, "Encounter.id"));
    };
    let mut issues = Vec::new();
    issues.extend(guard::modifiers("Encounter", view.implicit_rules, &view.modifier_extension, |_| false));
    if status == Status::Unknown {
        issues.push(Issue::new(Code::StatusUnknown, "Encounter.status"));
    }
    let subject = subject.map_err(|issue| issues.push(issue)).ok();
    let (start, end) = match view.period.as_ref().map(|period| guard::ends(period, "Encounter.period")) {
        Some(Ok(ends)) => ends,
        Some(Err(issue)) => {
            issues.push(issue);
            (None, None)
        }
        None => (None, None),
    };
    if has_begun && !status.is_withdrawn() && start.is_none() && issues.iter().all(|issue| issue.code != Code::InvalidDate) {
        issues.push(Issue::new(Code::TimeMissing, "Encounter.period.start"));
    }
    let is_quarantined = issues.iter().any(|issue| issue.code.effect() == Effect::Quarantine);
    let stay = Encounter { class: CompactString::from(class), is_planned: is_planned(stays, view), start, end };
    let body = if is_quarantined || !has_begun { Body::Nothing } else { Body::Encounter(stay) };
    let fact = subject.map(|_| Fact { source: head.source(ResourceType::Encounter, id), key: None, status, issued_ms: None, body });
    Normalised::ended(subject, fact, issues, None)
}

/// R4's encounter-status codes, and whether the stay has begun. A stay that goes on has begun for certain, so it counts
/// as one that is over; one that is only planned says nothing, and takes back what an older version said.
fn status(word: Option<&str>) -> Option<(Status, bool)> {
    match word? {
        "finished" | "in-progress" | "onleave" => Some((Status::Final, true)),
        "arrived" | "triaged" => Some((Status::Preliminary, true)),
        "planned" => Some((Status::Registered, false)),
        "cancelled" => Some((Status::Cancelled, true)),
        "entered-in-error" => Some((Status::EnteredInError, true)),
        "unknown" => Some((Status::Unknown, true)),
        _ => None,
    }
}

/// By the mapping's codes of type, priority and serviceType, and by the priorities that HL7 defines (v3 ActPriority: EL
/// elective, EM emergency, UR urgent). `None` when nobody says it, or both are said.
fn is_planned(stays: &Stays, view: &EncounterView<'_>) -> Option<bool> {
    let concepts = view.kind.iter().chain(&view.service_type).chain(&view.priority);
    let by_site = concepts.flat_map(codes).any(|(system, code)| stays.is_planned_code(system, code));
    let priorities: Vec<&str> =
        view.priority.iter().flat_map(codes).filter(|(system, _)| system.ends_with("v3-ActPriority")).map(|(_, code)| code).collect();
    let is_planned = by_site || priorities.contains(&"EL");
    let is_unplanned = priorities.iter().any(|priority| matches!(*priority, "EM" | "UR"));
    match (is_planned, is_unplanned) {
        (true, false) => Some(true),
        (false, true) => Some(false),
        (true, true) | (false, false) => None,
    }
}

fn codes<'a>(concept: &'a CodeableConcept<'_>) -> impl Iterator<Item = (&'a str, &'a str)> {
    concept.coding.iter().filter_map(|coding| Some((coding.system.as_deref().unwrap_or(""), coding.code.as_deref()?)))
}
