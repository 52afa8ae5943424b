//! The shapes we accept: JSON Schemas of profiles/, one validator per type, answers as issues with element paths.
//! Structure, dates and required codes only: what a code or a unit means is the mapping's business.

use std::collections::BTreeMap;
use std::sync::Arc;

use jsonschema::error::ValidationErrorKind;
use jsonschema::json::Json;
use jsonschema::paths::{Location, LocationSegment};
use jsonschema::{Registry, Retrieve, ValidationError, ValidationOptions, Validator};
use serde_json::Value;

use super::gate::element_name;
use super::release::{self, Release};
use super::tree::{Borrowed, Tree};
use super::{RawResource, alike};
use crate::clinical::date::{DateError, PartialDate, Precision};
use crate::issue::{Code, Issue};

/// More faults than this of one resource help nobody.
const MAX_ISSUES: usize = 20;

/// Elements that may come in one type only: `value[x]` and its like of the types we read.
const CHOICES: &[&str] =
    &["value", "effective", "onset", "abatement", "deceased", "multipleBirth", "occurrence", "occurence", "performed", "medication"];

/// Where relative references between schema files lead.
const BASE: &str = "json-schema:///";

/// Schemas as they were read, by their file names, and the registry in which each finds the others.
pub(super) struct SchemaFiles<'a> {
    pub files: Vec<(&'a str, Value)>,
    pub registry: Registry<'static>,
}

/// Reads `(file name, schema text)` pairs that may refer to each other by file name; what cannot be read is named.
pub(super) fn read_together<'a>(schemas: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<SchemaFiles<'a>, String> {
    let mut files: Vec<(&str, Value)> = Vec::new();
    for (file, text) in schemas {
        files.push((file, serde_json::from_str(text).map_err(|error| format!("{file}: {error}"))?));
    }
    let mut registry = Registry::new();
    for (file, schema) in &files {
        registry = registry.add(format!("{BASE}{file}"), schema.clone()).map_err(|error| format!("{file}: {error}"))?;
    }
    let registry = registry.prepare().map_err(|error| error.to_string())?;
    Ok(SchemaFiles { files, registry })
}

/// Compiled schemas, by resource type.
pub struct Profiles {
    by_type: BTreeMap<String, Shape>,
    alike: Option<AlikeShape>,
}

/// One schema, compiled twice: most resources are sound, and that is told many times faster than where the faults are.
struct Shape {
    quick: Validator<Borrowed>,
    exact: Validator,
}

impl Profiles {
    /// Compiles `(file name, schema text)` pairs such as `("Observation.schema.json", "{...}")`. A file named with a
    /// capital letter is the shape of that resource type, and `AdverseEvent.R5.schema.json` its shape in R5 where that
    /// differs; the others may be referred to by their file name.
    pub fn compile<'a>(schemas: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Profiles, String> {
        let SchemaFiles { files, registry } = read_together(schemas)?;
        let mut by_type = BTreeMap::new();
        for (file, schema) in &files {
            let Some(name) = file.strip_suffix(".schema.json").filter(|name| name.starts_with(|c: char| c.is_ascii_uppercase())) else { continue };
            let quick = options(&registry).build(schema).map_err(|error| format!("{file}: {error}"))?;
            let exact = options(&registry).build(schema).map_err(|error| format!("{file}: {error}"))?;
            by_type.insert(name.to_string(), Shape { quick, exact });
        }
        let alike = AlikeShape::compile(&files, &registry);
        Ok(Profiles { by_type, alike })
    }

    /// Whether a value by which one Observation differs from another keeps its own schema. Where all these do, and the
    /// rest of both is equal byte for byte, the whole schema says the same of both. Always `false` for a schema that
    /// cannot be taken apart so.
    pub fn holds_alike(&self, what: alike::Value, value: &str) -> bool {
        self.alike.as_ref().is_some_and(|shape| shape.holds(what, value))
    }

    /// What the schema of its type faults; empty for a type without a schema. Values are masked.
    pub fn check(&self, resource: &RawResource<'_>) -> Vec<Issue> {
        let Some(r4) = self.by_type.get(resource.resource_type) else { return Vec::new() };
        let tree = Tree::read(resource.text());
        let shape = match release::of(resource.resource_type, &tree) {
            Ok(Release::R4) => r4,
            Ok(Release::R5) => self.by_type.get(&format!("{}.R5", resource.resource_type)).unwrap_or(r4),
            Err(issue) => return vec![issue],
        };
        let doubles = double_choices(resource.resource_type, &tree);
        if shape.quick.is_valid(&tree) {
            return doubles;
        }
        // The gate let it pass, so it is JSON and nested less deeply than serde_json's own limit.
        let value: Value = serde_json::from_slice(resource.bytes).expect("a resource that passed the gate is JSON");
        let mut issues: Vec<Issue> =
            shape.exact.iter_errors(&value).flat_map(|error| issues_of(resource.resource_type, &error)).take(MAX_ISSUES).collect();
        issues.extend(doubles);
        issues
    }
}

/// What the schema of Observations says of each value in which lines that look alike may differ.
struct AlikeShape {
    /// In the order of [`VALUES`].
    values: Vec<Validator<Borrowed>>,
}

/// Where the values of [`alike::Value`] stand in an Observation; `[]` is any element of an array.
const VALUES: [&[&str]; 12] = [
    &["id"],
    &["meta", "versionId"],
    &["meta", "lastUpdated"],
    &["identifier", "[]", "value"],
    &["subject", "reference"],
    &["effectiveDateTime"],
    &["issued"],
    &["valueQuantity", "value"],
    &["meta", "source"],
    &["encounter", "reference"],
    &["performer", "[]", "reference"],
    &["performer", "[]", "display"],
];

/// The rules by which a schema is taken apart here.
const DRAFT: &str = "https://json-schema.org/draft/2020-12/schema";

/// Keywords of a schema that leave each member and each element to a schema of its own, whatever the others are.
const TAKEN_APART: [&str; 10] =
    ["$schema", "$comment", "title", "description", "type", "required", "properties", "patternProperties", "additionalProperties", "items"];

impl AlikeShape {
    /// `None` when one value could be right or wrong because of another.
    fn compile(files: &[(&str, Value)], registry: &Registry<'_>) -> Option<AlikeShape> {
        if !files.iter().all(|(_, schema)| schema.get("$schema").is_none_or(|draft| draft == DRAFT)) {
            return None;
        }
        let file = "Observation.schema.json";
        let schema = &files.iter().find(|(name, _)| *name == file)?.1;
        // A Patient's elements, of which nothing is asked below.
        if ["name", "address", "telecom"].iter().any(|element| schema["properties"].get(element).is_some()) {
            return None;
        }
        let values = VALUES.iter().map(|path| options(registry).build(&schema_of_value(files, file, schema, path)?).ok());
        Some(AlikeShape { values: values.collect::<Option<_>>()? })
    }

    fn holds(&self, what: alike::Value, value: &str) -> bool {
        let (of_value, tree) = match what {
            alike::Value::Id => (0..1, Tree::Text(value.into())),
            alike::Value::Version => (1..2, Tree::Text(value.into())),
            alike::Value::LastUpdated => (2..3, Tree::Text(value.into())),
            alike::Value::Identifier(_) => (3..4, Tree::Text(value.into())),
            alike::Value::SubjectReference => (4..5, Tree::Text(value.into())),
            alike::Value::EffectiveDateTime => (5..6, Tree::Text(value.into())),
            alike::Value::Issued => (6..7, Tree::Text(value.into())),
            alike::Value::Number => (7..8, Tree::Number(value)),
            // No Observation has them.
            alike::Value::BirthDate | alike::Value::DeceasedDateTime => return false,
            alike::Value::Source => (8..9, Tree::Text(value.into())),
            alike::Value::NotRead => (9..12, Tree::Text(value.into())),
        };
        self.values[of_value].iter().all(|schema| schema.is_valid(&tree))
    }
}

/// The schema of the value at `path`, where every schema on the way there can be taken apart.
fn schema_of_value<'s>(files: &'s [(&'s str, Value)], file: &'s str, schema: &'s Value, path: &[&str]) -> Option<Value> {
    let Some(members) = schema.as_object() else { return (schema == &Value::Bool(true)).then(|| schema.clone()) };
    if let Some(reference) = members.get("$ref") {
        let (named, pointer) = reference.as_str()?.split_once('#')?;
        let file = if named.is_empty() { file } else { named };
        let (file, root) = files.iter().find(|(name, _)| *name == file)?;
        return (members.len() == 1).then(|| schema_of_value(files, file, root.pointer(pointer)?, path))?;
    }
    let Some((step, rest)) = path.split_first() else {
        return (!schema.to_string().contains("$ref")).then(|| schema.clone());
    };
    let patterns = members.get("patternProperties").and_then(Value::as_object).into_iter().flatten();
    // A pattern for names with a `_` in front is none for these.
    if !members.keys().all(|keyword| TAKEN_APART.contains(&keyword.as_str())) || !patterns.into_iter().all(|(pattern, _)| pattern == "^_") {
        return None;
    }
    let next = if *step == "[]" { members.get("items") } else { members.get("properties").and_then(|properties| properties.get(step)) };
    match next {
        Some(next) => schema_of_value(files, file, next, rest),
        None => (*step == "[]" || !members.contains_key("additionalProperties")).then_some(Value::Bool(true)),
    }
}

/// How every schema is compiled: the formats are ours, and nothing is fetched.
fn options<'r, F: Json>(registry: &'r Registry<'r>) -> ValidationOptions<'r, Arc<dyn Retrieve>, F> {
    jsonschema::options_for()
        .with_registry(registry)
        .with_format("fhir-date", |text: &str| PartialDate::parse(text).is_ok_and(|date| date.precision != Precision::Instant))
        .with_format("fhir-dateTime", |text: &str| matches!(PartialDate::parse(text), Ok(_) | Err(DateError::NoZone)))
        .with_format("fhir-instant", |text: &str| match PartialDate::parse(text) {
            Ok(date) => date.precision == Precision::Instant,
            Err(error) => error == DateError::NoZone,
        })
        .should_validate_formats(true)
}

/// Usually one issue; one for each unknown element of an object.
pub(super) fn issues_of(resource_type: &str, error: &ValidationError<'_>) -> Vec<Issue> {
    let path = element_path(resource_type, error.instance_path());
    match error.kind() {
        ValidationErrorKind::AdditionalProperties { unexpected } => {
            let below = |name: &String| format!("{path}.{}", element_name(name).unwrap_or("?"));
            unexpected.iter().map(|name| Issue::new(Code::UnknownElement, below(name))).collect()
        }
        ValidationErrorKind::Required { property } => {
            let name = property.as_str().unwrap_or("?");
            let is_id = name == "id" && error.instance_path().is_empty();
            let code = if is_id { Code::InvalidId } else { Code::Shape };
            vec![Issue::new(code, format!("{path}.{name}")).with_detail("required")]
        }
        ValidationErrorKind::Format { format } => vec![Issue::new(Code::InvalidDate, path).with_detail(format.trim_start_matches("fhir-"))],
        // The other kinds say of the schema what it wants; masked, they say nothing of the value.
        _ => vec![Issue::new(Code::Shape, path).with_detail(error.masked().to_string())],
    }
}

/// `/category/0/coding/0/code` of an Observation as `Observation.category[0].coding[0].code`.
fn element_path(resource_type: &str, pointer: &Location) -> String {
    let mut path = String::from(resource_type);
    for segment in pointer.segments() {
        match segment {
            LocationSegment::Index(index) => path.push_str(&format!("[{index}]")),
            LocationSegment::Property(name) => {
                path.push('.');
                path.push_str(element_name(&name).unwrap_or("?"));
            }
        }
    }
    path
}

/// Two values of one `value[x]`: a reader that takes either could take the wrong one.
fn double_choices(resource_type: &str, tree: &Tree<'_>) -> Vec<Issue> {
    let names: Vec<&str> = tree.names().collect();
    let of_choice = |choice: &str| -> Vec<&str> {
        let is_one = |name: &&&str| name.strip_prefix(choice).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_uppercase()));
        names.iter().filter(is_one).copied().filter_map(element_name).collect()
    };
    CHOICES
        .iter()
        .map(|choice| (choice, of_choice(choice)))
        .filter(|(_, names)| names.len() > 1)
        .map(|(choice, names)| Issue::new(Code::Shape, format!("{resource_type}.{choice}")).with_detail(names.join(" and ")))
        .collect()
}
