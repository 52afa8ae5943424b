//! Encounter to a stay, at sites that opt in and for the classes they list. Neither reason nor diagnosis is read.

use compact_str::CompactString;

use crate::clinical::fact::{Body, Encounter, Fact, ResourceType, Status};
use crate::fhir::view::{Coding, EncounterClass, EncounterView};
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
    let mut classes = view.class.0.iter().flat_map(EncounterClass::codes);
    let first = classes.next();
    let taken = site.trial.stays.as_ref().and_then(|stays| {
        let mut all = first.into_iter().chain(classes);
        all.find(|(_, class)| stays.classes.iter().any(|taken| taken == class)).map(|(_, class)| (stays, class))
    });
    let Some((stays, class)) = taken else {
        let counted =
            first.map_or_else(|| "Encounter without a class".to_owned(), |(system, code)| full_code(short_system(system), code).to_string());
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
    let (period, element) = match &view.actual_period {
        Some(period) => (Some(period), "Encounter.actualPeriod"),
        None => (view.period.as_ref(), "Encounter.period"),
    };
    let (start, end) = match period.map(|period| guard::ends(period, element)) {
        Some(Ok(ends)) => ends,
        Some(Err(issue)) => {
            issues.push(issue);
            (None, None)
        }
        None => (None, None),
    };
    if has_begun && !status.is_withdrawn() && start.is_none() && issues.iter().all(|issue| issue.code != Code::InvalidDate) {
        issues.push(Issue::new(Code::TimeMissing, format!("{element}.start")));
    }
    let is_quarantined = issues.iter().any(|issue| issue.code.effect() == Effect::Quarantine);
    let stay = Encounter { class: CompactString::from(class), is_planned: is_planned(stays, view), start, end };
    let body = if is_quarantined || !has_begun { Body::Nothing } else { Body::Encounter(stay) };
    let fact = subject.map(|_| Fact { source: head.source(ResourceType::Encounter, id), key: None, status, issued_ms: None, body });
    Normalised::ended(subject, fact, issues, None)
}

/// The encounter-status codes of R4 and R5, and whether the stay has begun. A stay that goes on has begun for certain, so it counts
/// as one that is over; one that is only planned says nothing, and takes back what an older version said.
fn status(word: Option<&str>) -> Option<(Status, bool)> {
    match word? {
        "finished" | "in-progress" | "onleave" => Some((Status::Final, true)),
        // Who was discharged has left; who discontinued was there.
        "completed" | "discharged" | "on-hold" | "discontinued" => Some((Status::Final, true)),
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
    let services = view.service_type.0.iter().flat_map(|service| service.coding.iter().chain(&service.concept.coding));
    let codings = view.kind.iter().chain(&view.priority).flat_map(|concept| &concept.coding).chain(services);
    let by_site = codings.filter_map(code).any(|(system, code)| stays.is_planned_code(system, code));
    let priorities: Vec<&str> = view
        .priority
        .iter()
        .flat_map(|concept| &concept.coding)
        .filter_map(code)
        .filter(|(system, _)| system.ends_with("v3-ActPriority"))
        .map(|(_, code)| code)
        .collect();
    let is_planned = by_site || priorities.contains(&"EL");
    let is_unplanned = priorities.iter().any(|priority| matches!(*priority, "EM" | "UR"));
    match (is_planned, is_unplanned) {
        (true, false) => Some(true),
        (false, true) => Some(false),
        (true, true) | (false, false) => None,
    }
}

fn code<'a>(coding: &'a Coding<'_>) -> Option<(&'a str, &'a str)> {
    Some((coding.system.as_deref().unwrap_or(""), coding.code.as_deref()?))
}
