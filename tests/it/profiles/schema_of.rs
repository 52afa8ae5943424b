//! The JSON Schema that follows from a StructureDefinition of profiles/: the same elements and no others, the same
//! cardinalities, fixed values, patterns, slices and required codes. Invariants in FHIRPath are not taken over.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// Elements that base R4 lets repeat, so that they are arrays in JSON whatever a profile allows. What holds of every
/// type (`extension`, `coding`) stands without one.
const REPEATED: &[&str] = &[
    "coding",
    "contained",
    "extension",
    "modifierExtension",
    "security",
    "tag",
    "AdverseEvent.study",
    "AdverseEvent.suspectEntity",
    "AdverseEvent.suspectEntity.causality",
    "AuditEvent.agent",
    "AuditEvent.agent.purposeOfUse",
    "AuditEvent.entity",
    "AuditEvent.purposeOfEvent",
    "AuditEvent.source.type",
    "AuditEvent.subtype",
    "Communication.about",
    "Communication.category",
    "Communication.identifier",
    "Communication.payload",
    "DocumentReference.author",
    "DocumentReference.category",
    "DocumentReference.content",
    "DocumentReference.context.related",
    "DocumentReference.identifier",
    "Flag.category",
    "Flag.identifier",
    "Group.identifier",
    "Group.member",
    "List.entry",
    "List.identifier",
    "List.note",
    "Observation.derivedFrom",
    "Observation.identifier",
    "Observation.note",
    "Observation.performer",
    "Provenance.agent",
    "Provenance.entity",
    "Provenance.target",
    "ResearchStudy.arm",
    "ResearchStudy.identifier",
    "ResearchSubject.identifier",
];

/// The conformance resources, by their canonical address.
pub type Definitions = BTreeMap<String, Value>;

/// The schema of one profile.
pub fn schema_of(definitions: &Definitions, profile: &Value) -> Value {
    let elements = Elements { definitions, all: profile["differential"]["element"].as_array().expect("a profile has a differential") };
    let resource_type = text(&profile["type"]);
    let mut schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": format!("{}, as this gateway writes it", text(&profile["title"])),
        "$comment": format!("Follows from StructureDefinition-{}.json; a test holds the two together.", text(&profile["id"])),
    });
    let mut object = elements.object(resource_type);
    object["required"].as_array_mut().unwrap().insert(0, json!("resourceType"));
    let members = std::mem::take(object["properties"].as_object_mut().unwrap());
    let mut properties = Map::new();
    properties.insert("resourceType".to_owned(), json!({"const": resource_type}));
    properties.insert("id".to_owned(), json!({"$ref": "types.schema.json#/$defs/id"}));
    properties.extend(members);
    object["properties"] = Value::Object(properties);
    schema.as_object_mut().unwrap().extend(object.as_object().unwrap().clone());
    schema
}

struct Elements<'a> {
    definitions: &'a Definitions,
    all: &'a [Value],
}

impl Elements<'_> {
    fn get(&self, id: &str) -> &Value {
        self.all.iter().find(|element| element["id"] == id).unwrap_or_else(|| panic!("no element {id}"))
    }

    /// Ids one step below: children after a `.`, slices after a `:`.
    fn below(&self, id: &str, step: char) -> Vec<&str> {
        let ids = self.all.iter().map(|element| text(&element["id"]));
        ids.filter(|other| other.strip_prefix(id).and_then(|rest| rest.strip_prefix(step)).is_some_and(|rest| !rest.contains(['.', ':']))).collect()
    }

    /// A closed object of the children of an element.
    fn object(&self, id: &str) -> Value {
        let (mut required, mut properties) = (Vec::new(), Map::new());
        for child in self.below(id, '.') {
            let element = self.get(child);
            if element["max"] == "0" {
                continue;
            }
            let name = json_name(element);
            if 1 <= self.min(child) {
                required.push(name.clone());
            }
            properties.insert(name, self.member(child));
        }
        json!({"type": "object", "required": required, "properties": properties, "additionalProperties": false})
    }

    /// An element as a member of its object: one value, or an array of them.
    fn member(&self, id: &str) -> Value {
        let element = self.get(id);
        let slices = self.below(id, ':');
        if !is_repeated(element) {
            assert!(slices.is_empty() && element["max"] != "*", "{id} is one in base R4");
            return self.value(id);
        }
        let max = |element: &Value| text(&element["max"]).parse::<u64>().ok();
        let mut array = Map::new();
        array.insert("type".to_owned(), json!("array"));
        array.insert("minItems".to_owned(), json!(self.min(id).max(1)));
        if let Some(max) = element.get("max").and(max(element)) {
            array.insert("maxItems".to_owned(), json!(max));
        }
        if slices.is_empty() {
            array.insert("items".to_owned(), self.value(id));
            return Value::Object(array);
        }
        let is_closed = text(&element["path"]).ends_with("xtension") || element["slicing"]["rules"] == "closed";
        let mut any: Vec<Value> = slices.iter().map(|slice| self.value(slice)).collect();
        if !is_closed {
            any.push(self.value(id));
        }
        let counts = slices.iter().map(|slice| {
            let mut count = json!({"contains": self.discriminated(element, slice), "minContains": self.min(slice)});
            if let Some(max) = max(self.get(slice)) {
                count["maxContains"] = json!(max);
            }
            count
        });
        array.insert("items".to_owned(), json!({"anyOf": any}));
        array.insert("allOf".to_owned(), counts.collect());
        Value::Object(array)
    }

    /// By what a slice is told from the others: its type, or a member with a fixed value.
    fn discriminated(&self, sliced: &Value, slice: &str) -> Value {
        let discriminator = &sliced["slicing"]["discriminator"][0];
        let (name, value) = match text(&discriminator["type"]) {
            "type" => ("resourceType", json!({"const": self.get(slice)["type"][0]["code"]})),
            _ => {
                let path = text(&discriminator["path"]);
                let whole = self.value(slice);
                (path, whole["properties"][path].clone())
            }
        };
        json!({"required": [name], "properties": {name: value}})
    }

    fn min(&self, id: &str) -> u64 {
        let own = self.get(id)["min"].as_u64().unwrap_or(0);
        // Slices that must be there are of no use in an array that need not be.
        let of_slices: u64 = self.below(id, ':').iter().map(|slice| self.get(slice)["min"].as_u64().unwrap_or(0)).sum();
        if self.get(id).get("min").is_none() { own.max(of_slices) } else { own }
    }

    /// One value of an element.
    fn value(&self, id: &str) -> Value {
        let element = self.get(id);
        let of = |prefix: &str| element.as_object().unwrap().iter().find_map(|(name, value)| name.strip_prefix(prefix).map(|_| value));
        if let Some(fixed) = of("fixed") {
            return json!({"const": fixed});
        }
        let codes = (element["binding"]["strength"] == "required").then(|| self.codes(text(&element["binding"]["valueSet"])));
        let kind = text(&element["type"][0]["code"]);
        let base = if let Some(profile) = element["type"][0].get("profile") {
            let definition = &self.definitions[text(&profile[0])];
            let elements = Elements { definitions: self.definitions, all: definition["differential"]["element"].as_array().unwrap() };
            elements.object(text(&definition["type"]))
        } else if self.below(id, '.').is_empty() {
            json!({"$ref": format!("types.schema.json#/$defs/{kind}")})
        } else {
            self.object(id)
        };
        match (of("pattern"), codes) {
            (Some(pattern), None) => json!({"allOf": [base, holds(pattern)]}),
            (None, Some(codes)) if kind == "code" => {
                let [(_, codes)] = &codes[..] else { panic!("{id}: a code is of one system") };
                json!({"enum": codes})
            }
            (None, Some(codes)) => {
                let coding: Vec<Value> = codes
                    .iter()
                    .map(|(system, codes)| json!({"required": ["system", "code"], "properties": {"system": {"const": system}, "code": {"enum": codes}}}))
                    .collect();
                let coding = if kind == "Coding" {
                    json!({"anyOf": coding})
                } else {
                    json!({"required": ["coding"], "properties": {"coding": {"contains": {"anyOf": coding}}}})
                };
                json!({"allOf": [base, coding]})
            }
            (None, None) => base,
            (Some(_), Some(_)) => panic!("{id}: a pattern leaves no choice of codes"),
        }
    }

    /// Systems and codes of one of our ValueSets.
    fn codes(&self, value_set: &str) -> Vec<(String, Vec<String>)> {
        let include = self.definitions[value_set]["compose"]["include"].as_array().expect("a ValueSet includes something");
        let codes = |include: &Value| include["concept"].as_array().unwrap().iter().map(|concept| text(&concept["code"]).to_owned()).collect();
        include.iter().map(|include| (text(&include["system"]).to_owned(), codes(include))).collect()
    }
}

/// What holds of a value with this pattern: at least that.
fn holds(pattern: &Value) -> Value {
    match pattern {
        Value::Object(members) => {
            let properties: Map<String, Value> = members.iter().map(|(name, value)| (name.clone(), holds(value))).collect();
            json!({"required": members.keys().collect::<Vec<_>>(), "properties": properties})
        }
        Value::Array(items) => json!({"allOf": items.iter().map(|item| json!({"contains": holds(item)})).collect::<Vec<_>>()}),
        plain => json!({"const": plain}),
    }
}

/// `value[x]` of one type as `valueQuantity`.
fn json_name(element: &Value) -> String {
    let name = text(&element["path"]).rsplit('.').next().unwrap();
    let Some(stem) = name.strip_suffix("[x]") else { return name.to_owned() };
    let types = element["type"].as_array().unwrap_or_else(|| panic!("{}: of which type?", element["id"]));
    assert!(types.len() == 1, "{}: we write one type", element["id"]);
    let kind = text(&types[0]["code"]);
    format!("{stem}{}{}", kind[..1].to_uppercase(), &kind[1..])
}

fn is_repeated(element: &Value) -> bool {
    let path = text(&element["path"]);
    REPEATED.contains(&path) || path.split_once('.').is_some_and(|(_, rest)| REPEATED.contains(&rest.rsplit('.').next().unwrap()))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
