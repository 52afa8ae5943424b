//! The shapes of what we write: a JSON Schema for each profile of profiles/, looked at just before a body leaves. Nothing
//! unknown may stand in a body, and nothing that is needed may be missing: what is faulted here is a fault of ours.

use std::collections::BTreeMap;

use jsonschema::Validator;
use serde_json::Value;

use super::RawResource;
use super::profile::{SchemaFiles, issues_of, read_together};
use super::tree::Tree;
use crate::clinical::date::{PartialDate, Precision};
use crate::issue::{Code, Issue};

/// The shape of what is added to a resource of the hospital's.
const MARK: &str = "mark";

/// Files that hold parts of shapes and are none.
const PARTS: &[&str] = &["types"];

/// Ids of the profiles of what we write, and of the record of who looked.
pub const PROFILES: &[&str] = &[
    "audit-event",
    "study-flagged-adverse-event",
    "study-flagged-adverse-event-backport",
    "study-flagged-communication",
    "study-flagged-document-reference",
    "study-flagged-egfr",
    "study-flagged-flag",
    "study-flagged-group",
    "study-flagged-list",
    "study-flagged-provenance",
    "study-flagged-research-study",
    "study-flagged-research-subject",
];

/// Compiled schemas, by the id of the profile whose rules they hold.
pub struct Outgoing {
    by_profile: BTreeMap<String, Validator>,
}

impl Outgoing {
    /// Compiles `(file name, schema text)` pairs such as `("study-flagged-flag.schema.json", "{...}")`; all of them are needed.
    pub fn compile<'a>(schemas: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Outgoing, String> {
        let SchemaFiles { files, registry } = read_together(schemas)?;
        let mut by_profile = BTreeMap::new();
        for (file, schema) in &files {
            let Some(id) = file.strip_suffix(".schema.json").filter(|id| !PARTS.contains(id)) else { continue };
            let validator = jsonschema::options()
                .with_registry(&registry)
                .with_format("fhir-dateTime", |text: &str| PartialDate::parse(text).is_ok())
                .with_format("fhir-instant", |text: &str| PartialDate::parse(text).is_ok_and(|date| date.precision == Precision::Instant))
                .should_validate_formats(true)
                .build(schema);
            by_profile.insert(id.to_owned(), validator.map_err(|error| format!("{file}: {error}"))?);
        }
        match PROFILES.iter().chain([&MARK]).find(|id| !by_profile.contains_key(**id)) {
            Some(missing) => Err(format!("{missing}.schema.json is missing")),
            None => Ok(Outgoing { by_profile }),
        }
    }

    /// What is wrong with a whole resource that we author; values are masked.
    pub fn check(&self, body: &str) -> Vec<Issue> {
        match profile_of(body) {
            Ok(profile) => self.faults(body, profile),
            Err(issue) => vec![issue],
        }
    }

    /// What is wrong with a fragment that is to be added to a resource of the hospital's.
    pub fn check_mark(&self, body: &str) -> Vec<Issue> {
        self.faults(body, MARK)
    }

    fn faults(&self, body: &str, shape: &str) -> Vec<Issue> {
        let resource = match RawResource::parse(body.as_bytes()) {
            Ok(resource) => resource,
            Err(issue) => return vec![issue],
        };
        let value: Value = serde_json::from_str(body).expect("a body that passed the gate is JSON");
        self.by_profile[shape].iter_errors(&value).flat_map(|error| issues_of(resource.resource_type, &error)).collect()
    }
}

/// The profile that a body of ours is meant to keep. It does not stand in the body: some servers refuse a resource that
/// claims a profile they do not know.
pub fn profile_of(body: &str) -> Result<&'static str, Issue> {
    let resource = RawResource::parse(body.as_bytes())?;
    match resource.resource_type {
        "AdverseEvent" if has_modifier(body) => Ok("study-flagged-adverse-event-backport"),
        "AdverseEvent" => Ok("study-flagged-adverse-event"),
        "AuditEvent" => Ok("audit-event"),
        "Communication" => Ok("study-flagged-communication"),
        "DocumentReference" => Ok("study-flagged-document-reference"),
        "Flag" => Ok("study-flagged-flag"),
        "Group" => Ok("study-flagged-group"),
        "List" => Ok("study-flagged-list"),
        "Observation" => Ok("study-flagged-egfr"),
        "Provenance" => Ok("study-flagged-provenance"),
        "ResearchStudy" => Ok("study-flagged-research-study"),
        "ResearchSubject" => Ok("study-flagged-research-subject"),
        other => Err(Issue::new(Code::WrongResourceType, "resourceType").with_detail(format!("we write no {other}"))),
    }
}

fn has_modifier(body: &str) -> bool {
    Tree::read(body).member("modifierExtension").is_some()
}
