//! Which patients a resource names: a Group's members, who comes to an Appointment, whom an Encounter is about.

use serde_json::Value;

use super::is_id;

/// Ids of the Patients that a resource is or names, of the server whose FHIR base (with a slash at its end) is given; references
/// to other servers, and members that are no longer in a Group, are left out.
pub fn named_by(resource: &str, base: &str) -> Vec<String> {
    let Ok(resource) = serde_json::from_str::<Value>(resource) else { return Vec::new() };
    if resource.get("resourceType").and_then(Value::as_str) == Some("Patient") {
        return resource.get("id").and_then(Value::as_str).map(str::to_owned).into_iter().collect();
    }
    let each = |element: &str| -> Vec<&Value> {
        match resource.get(element) {
            Some(Value::Array(items)) => items.iter().collect(),
            Some(item) => vec![item],
            None => Vec::new(),
        }
    };
    let members =
        each("member").into_iter().filter(|member| member.get("inactive") != Some(&Value::Bool(true))).filter_map(|member| member.get("entity"));
    let participants = each("participant").into_iter().filter_map(|participant| participant.get("actor").or(participant.get("individual")));
    let subjects = ["subject", "patient", "individual"].into_iter().flat_map(each);
    members.chain(participants).chain(subjects).filter_map(|reference| patient_id(reference.get("reference")?.as_str()?, base)).collect()
}

fn patient_id(reference: &str, base: &str) -> Option<String> {
    let id = reference.strip_prefix(base).unwrap_or(reference).strip_prefix("Patient/")?;
    let id = id.split_once("/_history/").map_or(id, |(id, _)| id);
    is_id(id).then(|| id.to_owned())
}
