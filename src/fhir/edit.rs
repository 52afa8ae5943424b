//! One element of a JSON resource changed or compared, everything else left as it was: what a read-back needs where
//! no model may stand between us and the bytes. Knows nothing about what the resources mean.

mod fragment;
mod merge;
mod spans;

use serde_json::{Map, Value, json};

pub use fragment::{Misfit, foreign_changes, has_fragment, patch_of, standing, with_fragment, without_fragment};
pub use merge::{Merge, merged};

/// The resource under this id; what is not a JSON object comes back unchanged.
pub fn with_id(resource: &str, id: &str) -> String {
    changed(resource, |fields| {
        let mut rest = std::mem::take(fields);
        // `id` stands behind `resourceType`, where readers look for it.
        if let Some(kind) = rest.shift_remove("resourceType") {
            fields.insert("resourceType".to_owned(), kind);
        }
        fields.insert("id".to_owned(), Value::from(id));
        rest.shift_remove("id");
        fields.append(&mut rest);
    })
}

/// The resource without its id.
pub fn without_id(resource: &str) -> String {
    changed(resource, |fields| {
        fields.shift_remove("id");
    })
}

/// The resource with another `status`.
pub fn with_status(resource: &str, status: &str) -> String {
    changed(resource, |fields| {
        fields.insert("status".to_owned(), Value::from(status));
    })
}

/// The resource as a server keeps it: with id, `meta.versionId` and `meta.lastUpdated` (RFC 3339 UTC).
pub fn stamped(resource: &str, id: &str, version: u64, last_updated: &str) -> String {
    changed(&with_id(resource, id), |fields| {
        let meta = fields.entry("meta").or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(meta) = meta {
            meta.insert("versionId".to_owned(), Value::from(version.to_string()));
            meta.insert("lastUpdated".to_owned(), Value::from(last_updated));
        }
    })
}

/// `Parameters` that name the tags of a fragment, for `$meta-delete`; `None` where it has none.
pub fn meta_parameters(fragment: &str) -> Option<String> {
    let fields: Map<String, Value> = serde_json::from_str(fragment).ok()?;
    let meta = fields.get("meta")?;
    Some(json!({"resourceType": "Parameters", "parameter": [{"name": "meta", "valueMeta": meta}]}).to_string())
}

/// Whether a server says that it gives only a part of the resource.
pub fn is_subset(resource: &str) -> bool {
    let tags = serde_json::from_str::<Value>(resource).ok().and_then(|resource| resource.pointer("/meta/tag").cloned());
    tags.and_then(|tags| tags.as_array().map(|tags| tags.iter().any(|tag| tag.get("code").and_then(Value::as_str) == Some("SUBSETTED"))))
        .unwrap_or_default()
}

/// Whether a narrative of this status was made from the rest of the resource, and says nothing more (R4 `narrative-status`).
fn is_of_server(narrative_status: &Value) -> bool {
    !matches!(narrative_status.as_str(), Some("additional" | "empty"))
}

fn changed(resource: &str, change: impl FnOnce(&mut Map<String, Value>)) -> String {
    match serde_json::from_str::<Value>(resource) {
        Ok(Value::Object(mut fields)) => {
            change(&mut fields);
            Value::Object(fields).to_string()
        }
        Ok(_) | Err(_) => resource.to_owned(),
    }
}

/// The elements of `sent` that `found` lacks or says otherwise, as `Type.element`, sorted; empty when all is there.
/// `found` may say more. Ids, narrative and what a server writes into `meta` do not count; labels in `meta.security` do.
/// A reference may come back absolute, and contained resources under other ids.
pub fn missing(sent: &str, found: &str) -> Vec<String> {
    let (Ok(Value::Object(sent)), Ok(Value::Object(found))) = (serde_json::from_str(sent), serde_json::from_str(found)) else {
        return vec!["resourceType".to_owned()];
    };
    let kind = sent.get("resourceType").and_then(Value::as_str).unwrap_or_default();
    let mut paths: Vec<String> = sent
        .iter()
        .filter(|(name, value)| match name.as_str() {
            "id" | "text" | "implicitRules" => false,
            "meta" => {
                !value.get("security").is_none_or(|labels| found.get("meta").and_then(|meta| meta.get("security")).is_some_and(|f| holds(labels, f)))
            }
            _ => !found.get(name.as_str()).is_some_and(|there| holds(value, there)),
        })
        .map(|(name, _)| format!("{kind}.{name}"))
        .collect();
    paths.sort();
    paths
}

/// Whether both say the same, each way; decides that nothing needs to be sent.
pub fn is_same(sent: &str, found: &str) -> bool {
    missing(sent, found).is_empty() && missing(found, sent).is_empty()
}

/// Whether `there` says at least what `sent` says.
fn holds(sent: &Value, there: &Value) -> bool {
    match (sent, there) {
        (Value::Object(sent), Value::Object(there)) => sent.iter().all(|(name, value)| match name.as_str() {
            // Servers rename contained resources.
            "id" => true,
            "reference" => there.get("reference").is_some_and(|found| is_same_reference(value, found)),
            _ => there.get(name.as_str()).is_some_and(|found| holds(value, found)),
        }),
        (Value::Array(sent), Value::Array(there)) => sent.iter().all(|value| there.iter().any(|found| holds(value, found))),
        // `41.30` and `41.3` are one number to the servers that re-spell it.
        (Value::Number(sent), Value::Number(there)) => sent == there || sent.as_f64() == there.as_f64(),
        _ => sent == there,
    }
}

fn is_same_reference(sent: &Value, found: &Value) -> bool {
    match (sent.as_str(), found.as_str()) {
        (Some(sent), Some(found)) => {
            sent == found
                || (sent.starts_with('#') && found.starts_with('#'))
                || found.strip_suffix(sent).is_some_and(|base| base.ends_with('/'))
                || sent.strip_suffix(found).is_some_and(|base| base.ends_with('/'))
                // A versioned reference to the same resource.
                || found.split_once("/_history/").is_some_and(|(plain, _)| plain == sent || plain.strip_suffix(sent).is_some_and(|base| base.ends_with('/')))
        }
        _ => sent == found,
    }
}

/// What a search can ask of a resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Index {
    pub resource_type: String,
    pub id: Option<String>,
    pub status: Option<String>,
    /// (system, value).
    pub identifiers: Vec<(String, String)>,
    /// (element, reference) of `subject`, `individual`, `patient` and `study`.
    pub references: Vec<(String, String)>,
    /// (system, code) of `code`, `category`.
    pub codes: Vec<(String, String)>,
    /// (system, code) of `meta.security`.
    pub security: Vec<(String, String)>,
    /// (system, code) of `meta.tag`.
    pub tags: Vec<(String, String)>,
}

/// Reads what a search can ask; `None` for what is not a JSON object with a resourceType.
pub fn index(resource: &str) -> Option<Index> {
    let fields: Map<String, Value> = serde_json::from_str(resource).ok()?;
    let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let each = |value: Option<&Value>| -> Vec<Value> {
        match value {
            Some(Value::Array(items)) => items.clone(),
            Some(item) => vec![item.clone()],
            None => Vec::new(),
        }
    };
    let codings = |concepts: Vec<Value>| -> Vec<(String, String)> {
        concepts.iter().flat_map(|concept| each(concept.get("coding"))).map(|coding| (text(&coding, "system"), text(&coding, "code"))).collect()
    };
    let mut index = Index {
        resource_type: fields.get("resourceType")?.as_str()?.to_owned(),
        id: fields.get("id").and_then(Value::as_str).map(str::to_owned),
        status: fields.get("status").and_then(Value::as_str).map(str::to_owned),
        identifiers: each(fields.get("identifier")).iter().map(|one| (text(one, "system"), text(one, "value"))).collect(),
        codes: codings(each(fields.get("code"))),
        security: each(fields.get("meta").and_then(|meta| meta.get("security"))).iter().map(|one| (text(one, "system"), text(one, "code"))).collect(),
        tags: each(fields.get("meta").and_then(|meta| meta.get("tag"))).iter().map(|one| (text(one, "system"), text(one, "code"))).collect(),
        ..Index::default()
    };
    index.codes.extend(codings(each(fields.get("category"))));
    for element in ["subject", "individual", "patient", "study"] {
        for target in each(fields.get(element)) {
            index.references.push((element.to_owned(), text(&target, "reference")));
        }
    }
    Some(index)
}
