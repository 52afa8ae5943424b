//! Taking back a second copy of something we wrote: its status says that it never was, its identifier no longer answers
//! to our key, and whatever else stands in it stays. Knows no outbox and no study.

use serde_json::{Map, Value};

use super::{COPY_SYSTEM, WRITE_BACK_SYSTEM};

/// What says that a resource of this type never was (FHIR R4); `None`: only a DELETE does.
fn retired_status(resource_type: &str) -> Option<(&'static str, Value)> {
    match resource_type {
        "Flag" | "List" | "Observation" | "DocumentReference" | "Communication" => Some(("status", Value::from("entered-in-error"))),
        // Neither has entered-in-error.
        "ResearchSubject" => Some(("status", Value::from("not-registered"))),
        "ResearchStudy" => Some(("status", Value::from("withdrawn"))),
        "Group" => Some(("active", Value::from(false))),
        _ => None,
    }
}

/// The copy as it should stand: taken back, and under our key no more. `None` where this type has no word for that.
pub fn retired(resource: &str) -> Option<String> {
    let mut fields: Map<String, Value> = serde_json::from_str(resource).ok()?;
    let (element, value) = retired_status(fields.get("resourceType")?.as_str()?)?;
    fields.insert(element.to_owned(), value);
    for name in ["identifier", "masterIdentifier"] {
        match fields.get_mut(name) {
            Some(Value::Array(identifiers)) => identifiers.iter_mut().for_each(rename),
            Some(identifier) => rename(identifier),
            None => {}
        }
    }
    Some(Value::Object(fields).to_string())
}

fn rename(identifier: &mut Value) {
    if let Some(system) = identifier.get_mut("system").filter(|system| system.as_str() == Some(WRITE_BACK_SYSTEM)) {
        *system = Value::from(COPY_SYSTEM);
    }
}

/// Whether what a server holds says that it is taken back: by [`retired`], or by any status that ends it.
pub fn is_retired(resource: &str) -> bool {
    const ENDED: [&str; 9] =
        ["inactive", "entered-in-error", "not-registered", "withdrawn", "ineligible", "off-study", "retired", "superseded", "stopped"];
    let Ok(fields) = serde_json::from_str::<Map<String, Value>>(resource) else { return false };
    let status = fields.get("status").and_then(Value::as_str);
    status.is_some_and(|status| ENDED.contains(&status)) || fields.get("active").and_then(Value::as_bool) == Some(false)
}
