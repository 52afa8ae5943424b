//! What a resource asks of whoever takes it (elements, status, code systems, extensions), and the resource without some
//! of that. Knows nothing about receivers, nor about what the elements mean.

use serde_json::{Map, Value};

/// What a resource asks of whoever takes it. Paths are written `Type.element.element`, without positions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    pub resource_type: String,
    /// Names of top elements without `resourceType` and `id`; `_name` counts as `name`.
    pub elements: Vec<String>,
    pub status: Option<String>,
    /// (path, system) of each coding and coded quantity outside `meta`.
    pub code_systems: Vec<(String, String)>,
    /// Paths, each with the last part of its url: `Flag.extension:verdict-evidence`.
    pub extensions: Vec<String>,
    /// The same.
    pub modifier_extensions: Vec<String>,
}

/// Reads what a resource asks; `None` for what is not a JSON object with a resourceType.
pub fn asked(resource: &str) -> Option<Asked> {
    let fields: Map<String, Value> = serde_json::from_str(resource).ok()?;
    let resource_type = fields.get("resourceType")?.as_str()?.to_owned();
    let mut asked = Asked { status: fields.get("status").and_then(Value::as_str).map(str::to_owned), ..Asked::default() };
    for (name, value) in &fields {
        let element = name.trim_start_matches('_');
        if !matches!(element, "resourceType" | "id") && asked.elements.iter().all(|known| known != element) {
            asked.elements.push(element.to_owned());
        }
        look(&mut asked, &resource_type, name, value, name == "meta");
    }
    asked.resource_type = resource_type;
    Some(asked)
}

fn look(asked: &mut Asked, parent: &str, name: &str, value: &Value, is_meta: bool) {
    let path = format!("{parent}.{}", name.trim_start_matches('_'));
    match value {
        Value::Array(items) => items.iter().for_each(|item| look(asked, parent, name, item, is_meta)),
        Value::Object(fields) => {
            let word = |name: &str| fields.get(name).and_then(Value::as_str);
            let is_extension = matches!(name, "extension" | "modifierExtension");
            if is_extension {
                let url = word("url").unwrap_or_default();
                let found = format!("{path}:{}", url.rsplit('/').next().unwrap_or_default());
                let into = if name == "extension" { &mut asked.extensions } else { &mut asked.modifier_extensions };
                if !into.contains(&found) {
                    into.push(found);
                }
            }
            if let (Some(system), Some(_), false) = (word("system"), word("code"), is_meta) {
                asked.code_systems.push((path.clone(), system.to_owned()));
            }
            // What an extension holds goes and stays with it; its codes count all the same.
            for (inner, value) in fields.iter().filter(|(inner, _)| !(is_extension && inner.as_str() == "extension")) {
                look(asked, &path, inner, value, is_meta);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The resource without the top elements that `is_dropped` names and, where asked, without any extension; and the paths
/// of what was dropped. Modifier extensions stay: without them the rest would say something else.
pub fn without(resource: &str, is_dropped: impl Fn(&str) -> bool, drops_extensions: bool) -> (String, Vec<String>) {
    let Ok(Value::Object(mut fields)) = serde_json::from_str(resource) else { return (resource.to_owned(), Vec::new()) };
    let kind = fields.get("resourceType").and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut dropped = Vec::new();
    if drops_extensions {
        dropped.extend(asked(resource).unwrap_or_default().extensions);
        strip(&mut fields);
    }
    fields.retain(|name, _| {
        let element = name.trim_start_matches('_');
        let stays = matches!(element, "resourceType" | "id") || !is_dropped(element);
        let path = format!("{kind}.{element}");
        if !stays && !dropped.contains(&path) {
            dropped.push(path);
        }
        stays
    });
    if dropped.is_empty() {
        return (resource.to_owned(), dropped);
    }
    dropped.sort();
    (Value::Object(fields).to_string(), dropped)
}

/// Takes extensions out at any depth, and whatever is empty without them: FHIR knows no empty element.
fn strip(fields: &mut Map<String, Value>) {
    fields.shift_remove("extension");
    fields.retain(|_, value| {
        strip_value(value);
        !is_empty(value)
    });
}

fn strip_value(value: &mut Value) {
    match value {
        Value::Array(items) => {
            items.iter_mut().for_each(strip_value);
            items.retain(|item| !is_empty(item));
        }
        Value::Object(fields) => strip(fields),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// The resource with a tag in `meta.tag` and another language than it has, for a receiver that is being looked at: both
/// are harmless, and an update that leaves them out must take them away.
pub fn marked(resource: &str, (system, code): (&str, &str), language: &str) -> String {
    let Ok(Value::Object(mut fields)) = serde_json::from_str(resource) else { return resource.to_owned() };
    let meta = fields.entry("meta").or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(meta) = meta {
        meta.insert("tag".to_owned(), serde_json::json!([{"system": system, "code": code}]));
    }
    fields.insert("language".to_owned(), Value::from(language));
    Value::Object(fields).to_string()
}

/// Whether a resource carries this tag, and whether it says a language.
pub fn marks(resource: &str, (system, code): (&str, &str)) -> (bool, bool) {
    let Ok(Value::Object(fields)) = serde_json::from_str(resource) else { return (false, false) };
    let tags = fields.get("meta").and_then(|meta| meta.get("tag")).and_then(Value::as_array);
    let is_tag = |tag: &Value| tag.get("system").and_then(Value::as_str) == Some(system) && tag.get("code").and_then(Value::as_str) == Some(code);
    (tags.is_some_and(|tags| tags.iter().any(is_tag)), fields.contains_key("language"))
}
