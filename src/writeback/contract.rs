//! The contract with one receiver, looked at before each send: elements, statuses, code systems, size and extensions
//! (`takes` in `receiver.json`). What is nice to have is left out where it is not taken; what we need is not.

use super::{Form, Receiver, Takes, WriteBack};
use crate::fhir::fit;

/// Top elements without which what we write is not what we mean, or could not be found and taken back: they must
/// survive at the receiver. Everything else is nice to have.
pub fn needed_elements(resource_type: &str) -> &'static [&'static str] {
    match resource_type {
        "ResearchStudy" => &["identifier", "status"],
        "ResearchSubject" => &["identifier", "status", "study", "individual"],
        "Flag" => &["identifier", "status", "category", "code", "subject"],
        "List" => &["identifier", "status", "mode", "subject"],
        "Group" => &["identifier", "type", "actual", "member"],
        "DocumentReference" => &["identifier", "status", "subject", "content"],
        "Communication" => &["identifier", "status", "subject", "payload"],
        // Without its note a computed number would pass for a laboratory's (rulings.md 27).
        "Observation" => &["identifier", "status", "code", "subject", "effectiveDateTime", "valueQuantity", "note"],
        // R4 has no search by identifier for these two: they are found by their tag.
        "AdverseEvent" => &["meta", "identifier", "actuality", "event", "subject", "study"],
        "Provenance" => &["meta", "target", "recorded", "agent"],
        _ => &["identifier"],
    }
}

/// Whether a path such as `Flag.code`, or `Flag.code.text`, lies in an element that we need.
pub fn is_needed(path: &str) -> bool {
    let mut parts = path.split(['.', ':']);
    let (resource_type, element) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    element == "resourceType" || needed_elements(resource_type).contains(&element)
}

/// Statuses by which what we wrote is taken back.
fn closing_statuses(resource_type: &str) -> &'static [&'static str] {
    match resource_type {
        "ResearchSubject" => &["ineligible", "withdrawn", "off-study", "not-registered"],
        "Flag" => &["inactive", "entered-in-error"],
        "List" => &["retired", "entered-in-error"],
        "DocumentReference" => &["superseded", "entered-in-error"],
        "Communication" => &["stopped", "entered-in-error"],
        "Observation" => &["entered-in-error"],
        _ => &[],
    }
}

/// Why the contract keeps this type from being written and taken back; `None`: it does not.
pub(super) fn obstacle(receiver: &Receiver, resource_type: &str) -> Option<String> {
    let takes = &receiver.takes;
    let lacks: Vec<&str> = needed_elements(resource_type).iter().copied().filter(|element| !is_kept(takes, resource_type, element)).collect();
    if !lacks.is_empty() {
        return Some(format!("{resource_type}: receiver.json says that it does not keep {}, which we need", lacks.join(", ")));
    }
    if receiver.tag_test && !is_kept(takes, resource_type, "meta") {
        return Some(format!("{resource_type}: receiver.json says that it does not keep meta, which holds the label HTEST"));
    }
    let refused: Vec<&str> = closing_statuses(resource_type).iter().copied().filter(|status| !is_status(takes, resource_type, status)).collect();
    let says = |refused: &[&str]| format!("{resource_type}: receiver.json allows no status {}, so it could not be taken back", refused.join(", "));
    (!refused.is_empty()).then(|| says(&refused))
}

fn is_kept(takes: &Takes, resource_type: &str, element: &str) -> bool {
    let is_one = |field: &String| match field.strip_suffix("[x]") {
        // `effective[x]`, as the specification writes it.
        Some(stem) => element.strip_prefix(stem).is_some_and(|kind| kind.starts_with(|first: char| first.is_ascii_uppercase())),
        None => field == element,
    };
    takes.fields.get(resource_type).is_none_or(|fields| fields.iter().any(is_one))
}

fn is_status(takes: &Takes, resource_type: &str, status: &str) -> bool {
    takes.statuses.get(resource_type).is_none_or(|statuses| statuses.iter().any(|one| one == status))
}

/// A resource that we author as this receiver takes it, and the paths of what was left out: nice elements that it does
/// not keep, and extensions where it takes none. What we need stays in, so that [`check`] finds it.
pub fn fitted(receiver: &Receiver, body: &str) -> (String, Vec<String>) {
    let takes = &receiver.takes;
    let Some(kind) = fit::asked(body).map(|asked| asked.resource_type).filter(|kind| takes.no_extensions || takes.fields.contains_key(kind)) else {
        return (body.to_owned(), Vec::new());
    };
    let needs_meta = receiver.tag_test;
    let is_dropped = |element: &str| {
        let is_needed = needed_elements(&kind).contains(&element) || element == "modifierExtension" || (element == "meta" && needs_meta);
        !is_needed && !is_kept(takes, &kind, element)
    };
    fit::without(body, is_dropped, takes.no_extensions)
}

/// Whether a request keeps the contract; else what does not fit, as paths and words, never a value of a patient.
pub fn check(receiver: &Receiver, request: &WriteBack) -> Result<(), String> {
    // A DELETE has no body.
    if request.body.is_empty() {
        return Ok(());
    }
    let takes = &receiver.takes;
    let Some(asked) = fit::asked(&request.body) else { return Err("the body is not a FHIR resource in JSON".to_owned()) };
    let kind = &asked.resource_type;
    let mut faults = Vec::new();
    faults.extend(
        asked
            .elements
            .iter()
            .filter(|element| !is_kept(takes, kind, element))
            .map(|element| format!("{kind}.{element} is not among the fields it takes")),
    );
    // Of a resource of the hospital's we send no status.
    if let (Form::Resource, Some(status)) = (request.form, &asked.status)
        && !is_status(takes, kind, status)
    {
        faults.push(format!("{kind}.status {status} is not among the statuses it takes"));
    }
    if !takes.code_systems.is_empty() {
        let foreign = asked.code_systems.iter().filter(|(_, system)| !takes.code_systems.contains(system));
        faults.extend(foreign.map(|(path, system)| format!("{path} has the code system {system}, which it does not take")));
    }
    if let Some(most) = takes.bytes_max
        && most < request.body.len()
    {
        faults.push(format!("the body has {} bytes, and it takes {most}", request.body.len()));
    }
    if takes.no_extensions {
        faults.extend(asked.extensions.iter().map(|path| format!("{path}: it takes no extensions")));
    }
    if takes.no_modifier_extensions || takes.no_extensions {
        faults.extend(asked.modifier_extensions.iter().map(|path| format!("{path}: it takes no modifier extensions")));
    }
    faults.sort();
    faults.dedup();
    if faults.is_empty() { Ok(()) } else { Err(format!("receiver.json: {}", faults.join("; "))) }
}
