//! An AdverseEvent of the R4 research profile, turned into one that was entered in error. Its status is a modifier
//! extension, which no field of the model stands for.

use serde_json::{Map, Value};

const STATUS: &str = "http://hl7.org/fhir/uv/ae-research-backport-ig/StructureDefinition/status";

/// The resource with the profile's status `entered-in-error`, and without an id.
pub fn adverse_event(resource: &str) -> String {
    let Ok(mut fields) = serde_json::from_str::<Map<String, Value>>(resource) else { return resource.to_owned() };
    fields.shift_remove("id");
    let extensions = fields.get_mut("modifierExtension").and_then(Value::as_array_mut);
    for extension in extensions.into_iter().flatten().filter(|extension| extension["url"] == STATUS) {
        extension["valueCode"] = Value::from("entered-in-error");
    }
    Value::Object(fields).to_string()
}
