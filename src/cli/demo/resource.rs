//! The demo hospital's resources as FHIR R4 JSON. These stand for what a hospital sends, so nothing of the gateway's
//! own reading or building is used to make them; a mistake there would otherwise agree with itself.

use serde::Serialize;
use serde_json::value::RawValue;

/// One resource version, as the hospital would send it.
#[derive(Clone, Debug)]
pub struct Resource {
    pub resource_type: &'static str,
    pub id: String,
    /// When it is sent: the first round is the history, the next ones bring corrections and repeats.
    pub round: u8,
    /// Whether it is valid FHIR R4; only valid resources are put into somebody's FHIR server.
    pub is_valid: bool,
    pub json: String,
}

#[derive(Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Patient {
    pub resource_type: &'static str,
    pub id: String,
    pub meta: Meta,
    pub active: bool,
    pub name: Vec<HumanName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gender: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub birth_date: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deceased_date_time: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub link: Vec<Link>,
}

#[derive(Clone, Serialize)]
pub struct HumanName {
    pub family: &'static str,
    pub given: Vec<&'static str>,
}

#[derive(Clone, Serialize)]
pub struct Link {
    pub other: Reference,
    #[serde(rename = "type")]
    pub link_type: &'static str,
}

#[derive(Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Meta {
    pub version_id: String,
    pub last_updated: String,
    pub security: Vec<Coding>,
}

#[derive(Clone, Default, Serialize)]
pub struct Coding {
    pub system: String,
    pub code: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub display: Option<&'static str>,
}

#[derive(Clone, Default, Serialize)]
pub struct Concept {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub coding: Vec<Coding>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<&'static str>,
}

#[derive(Clone, Default, Serialize)]
pub struct Reference {
    pub reference: String,
}

#[derive(Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Observation {
    pub resource_type: &'static str,
    pub id: String,
    pub meta: Meta,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub identifier: Vec<Identifier>,
    pub status: &'static str,
    pub category: Vec<Concept>,
    pub code: Concept,
    pub subject: Reference,
    pub effective_date_time: String,
    pub issued: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value_quantity: Option<Quantity>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value_string: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value_codeable_concept: Option<Concept>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub note: Vec<Note>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reference_range: Vec<ReferenceRange>,
}

#[derive(Clone, Default, Serialize)]
pub struct Identifier {
    pub system: String,
    pub value: String,
}

#[derive(Clone, Serialize)]
pub struct Note {
    pub text: &'static str,
}

#[derive(Clone, Serialize)]
pub struct Quantity {
    /// The digits as the laboratory wrote them.
    pub value: Box<RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comparator: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'static str>,
}

#[derive(Clone, Serialize)]
pub struct ReferenceRange {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub low: Option<Quantity>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub high: Option<Quantity>,
}

#[derive(Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    pub resource_type: &'static str,
    pub id: String,
    pub meta: Meta,
    pub clinical_status: Concept,
    pub verification_status: Concept,
    pub category: Vec<Concept>,
    pub code: Concept,
    pub subject: Reference,
    pub onset_date_time: String,
    pub recorded_date: String,
}

#[derive(Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AdverseEvent {
    pub resource_type: &'static str,
    pub id: String,
    pub meta: Meta,
    pub contained: Vec<Substance>,
    pub actuality: &'static str,
    pub event: Concept,
    pub subject: Reference,
    pub date: String,
    pub recorded_date: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seriousness: Option<Concept>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub severity: Option<Concept>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Concept>,
    pub suspect_entity: Vec<Suspect>,
}

/// A part in a study, as the hospital's trial office registers it.
#[derive(Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ResearchSubject {
    pub resource_type: &'static str,
    pub id: String,
    pub meta: Meta,
    pub status: &'static str,
    pub period: Period,
    pub study: Registered,
    pub individual: Reference,
    pub assigned_arm: &'static str,
    pub actual_arm: &'static str,
}

#[derive(Clone, Default, Serialize)]
pub struct Period {
    pub start: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<String>,
}

/// A reference by a register's number.
#[derive(Clone, Default, Serialize)]
pub struct Registered {
    #[serde(rename = "type")]
    pub resource_type: &'static str,
    pub identifier: Identifier,
}

#[derive(Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MedicationAdministration {
    pub resource_type: &'static str,
    pub id: String,
    pub meta: Meta,
    pub status: &'static str,
    pub medication_codeable_concept: Concept,
    pub subject: Reference,
    pub effective_period: Period,
    pub dosage: Dosage,
}

#[derive(Clone, Default, Serialize)]
pub struct Dosage {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dose: Option<Quantity>,
}

#[derive(Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Encounter {
    pub resource_type: &'static str,
    pub id: String,
    pub meta: Meta,
    pub status: &'static str,
    pub class: Coding,
    pub subject: Reference,
    pub period: Period,
}

#[derive(Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Substance {
    pub resource_type: &'static str,
    pub id: &'static str,
    pub code: Concept,
}

#[derive(Clone, Default, Serialize)]
pub struct Suspect {
    pub instance: Reference,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causality: Vec<Causality>,
}

#[derive(Clone, Default, Serialize)]
pub struct Causality {
    pub assessment: Concept,
}

pub const LOINC: &str = "http://loinc.org";
pub const SNOMED: &str = "http://snomed.info/sct";
pub const UCUM: &str = "http://unitsofmeasure.org";

pub fn coding(system: &str, code: &str, display: Option<&'static str>) -> Coding {
    Coding { system: system.to_owned(), code: code.to_owned(), display }
}

pub fn concept(system: &str, code: &str, display: &'static str) -> Concept {
    Concept { coding: vec![coding(system, code, Some(display))], text: None }
}

/// A quantity whose unit is a UCUM code.
pub fn quantity(value: &str, ucum: &'static str) -> Quantity {
    Quantity { value: number(value), comparator: None, unit: Some(ucum), system: Some(UCUM), code: Some(ucum) }
}

pub fn number(value: &str) -> Box<RawValue> {
    RawValue::from_string(value.to_owned()).expect("the demo's own values are JSON numbers")
}

pub fn to_json<T: Serialize>(resource: &T) -> String {
    serde_json::to_string(resource).expect("the demo's own resources are plain JSON")
}
