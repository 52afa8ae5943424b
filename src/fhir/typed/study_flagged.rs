//! The study-flagged resources: what we author in an EHR about a study and its subjects, built typed for FHIR R4.
//!
//! Each function takes words and gives JSON text. A resource that lacks what R4 requires is our bug and panics in
//! the serialiser; codes and dates are the caller's to get right (fhirbolt checks neither).

mod adverse_event;
mod audit;
mod base64;
mod extensions;
mod fragment;
mod list;
mod note;
mod provenance;

use fhirbolt::model::r4::Resource;
use fhirbolt::model::r4::resources::{
    Device, DeviceDeviceName, Flag, Observation, ObservationEffective, ObservationValue, Organization, ResearchStudy, ResearchStudyArm,
    ResearchSubject,
};
use fhirbolt::model::r4::types::{Annotation, CodeableConcept, Coding, Identifier, Meta, Quantity, Reference};

pub use adverse_event::{AdverseEvent, Shape, adverse_event, adverse_event_that_never_was};
pub use audit::{Audit, Interaction, audit_event};
pub use extensions::{DoseLimiting, VerdictEvidence};
pub use fragment::{STUDY_TAG_SYSTEM, adverse_event_fragment, result_fragment};
pub use list::{Member, StudyList, group, list};
pub use note::{Note, communication, document_reference};
pub use provenance::{Provenance, provenance};

/// Base of the addresses of everything we define. RFC 2606 keeps `.example` free: it is nobody's domain.
pub const CANONICAL: &str = "https://nephrogate.example/fhir";

/// Who the resource is: its id, our identifier, and whether it is test data.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'a> {
    /// `None` where the server chooses the id.
    pub id: Option<&'a str>,
    /// (system, value); our own comes first.
    pub identifiers: &'a [(&'a str, &'a str)],
    /// Labels the resource HTEST.
    pub is_test: bool,
}

/// How a resource points to another one.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// `Type/id` at the same server.
    Literal(&'a str),
    /// The same with our identifier (system, value) beside it, by which our word is told from the hospital's.
    Marked(&'a str, (&'a str, &'a str)),
    /// Its type and its identifier (system, value), while its id at the server is not known.
    Logical(&'a str, (&'a str, &'a str)),
    /// As before, with the words that people know it by: for what the server need not hold at all.
    Named(&'a str, (&'a str, &'a str), &'a str),
    /// Its type and a name: nobody need look it up.
    Display(&'a str, &'a str),
}

/// A ResearchStudy with status `active`; arms as (name, description).
pub fn research_study(identity: Identity<'_>, title: &str, arms: &[(String, String)]) -> String {
    text(Resource::ResearchStudy(Box::new(ResearchStudy {
        id: identity.id.map(Into::into),
        meta: meta(identity),
        identifier: identifiers(identity),
        title: Some(title.into()),
        status: "active".into(),
        arm: arms
            .iter()
            .map(|(name, description)| ResearchStudyArm {
                name: name.as_str().into(),
                description: Some(description.as_str().into()),
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    })))
}

/// A ResearchSubject; `status` is a code of R4's research-subject-status.
pub fn research_subject(identity: Identity<'_>, status: &str, study: Target<'_>, patient: &str, evidence: Option<&VerdictEvidence<'_>>) -> String {
    text(Resource::ResearchSubject(Box::new(ResearchSubject {
        id: identity.id.map(Into::into),
        meta: meta(identity),
        extension: extensions::verdict_evidence(evidence),
        identifier: identifiers(identity),
        status: status.into(),
        study: reference(study),
        individual: reference(Target::Literal(patient)),
        ..Default::default()
    })))
}

/// A Flag of category `research`; `status` is `active`, `inactive` or `entered-in-error`, `code` the text people read,
/// `author` the name of the organisation that answers for it.
pub fn flag(identity: Identity<'_>, status: &str, code: &str, patient: &str, author: &str, evidence: Option<&VerdictEvidence<'_>>) -> String {
    text(Resource::Flag(Box::new(Flag {
        id: identity.id.map(Into::into),
        meta: meta(identity),
        extension: extensions::verdict_evidence(evidence),
        identifier: identifiers(identity),
        status: status.into(),
        category: vec![concept("http://terminology.hl7.org/CodeSystem/flag-category", "research")],
        code: Box::new(words(code)),
        subject: reference(Target::Literal(patient)),
        // A display alone: a server that checks references would ask for an Organization that only we know.
        author: Some(Box::new(Reference { display: Some(author.into()), ..Default::default() })),
        ..Default::default()
    })))
}

/// What a computed eGFR says.
#[derive(Clone, Copy, Debug)]
pub struct Egfr<'a> {
    /// R4 observation-status.
    pub status: &'a str,
    /// LOINC code that names the equation, where there is one.
    pub loinc: Option<&'a str>,
    /// For people.
    pub name: &'a str,
    /// Equation id.
    pub method: &'a str,
    /// `Patient/id`.
    pub patient: &'a str,
    /// FHIR dateTime of the specimen, as the source wrote it.
    pub effective: &'a str,
    /// Decimal text, mL/min/1.73 m2.
    pub value: &'a str,
    /// `Observation/id` of the creatinine.
    pub derived_from: &'a str,
    /// Name of the organisation that answers for the calculation.
    pub performer: &'a str,
    pub note: &'a str,
    /// The study it was calculated for; `None` where the receiver takes no extensions.
    pub study: Option<Target<'a>>,
}

/// The computed eGFR as an Observation: no category (least of all `laboratory`), performer and device contained, so
/// that a server that checks references takes it.
pub fn egfr_observation(identity: Identity<'_>, egfr: Egfr<'_>) -> String {
    let organization = Organization { id: Some("performer".into()), name: Some(egfr.performer.into()), ..Default::default() };
    let device = Device {
        id: Some("device".into()),
        device_name: vec![DeviceDeviceName { name: "nephrogate".into(), r#type: "user-friendly-name".into(), ..Default::default() }],
        r#type: Some(Box::new(CodeableConcept { text: Some("software that screens for studies".into()), ..Default::default() })),
        ..Default::default()
    };
    text(Resource::Observation(Box::new(Observation {
        id: identity.id.map(Into::into),
        meta: meta(identity),
        contained: vec![Resource::Organization(Box::new(organization)), Resource::Device(Box::new(device))],
        extension: egfr.study.map(extensions::research_study).into_iter().collect(),
        identifier: identifiers(identity),
        status: egfr.status.into(),
        code: Box::new(CodeableConcept {
            coding: egfr.loinc.map(|code| coding("http://loinc.org", code)).into_iter().collect(),
            text: Some(egfr.name.into()),
            ..Default::default()
        }),
        subject: Some(reference(Target::Literal(egfr.patient))),
        effective: Some(ObservationEffective::DateTime(egfr.effective.into())),
        performer: vec![*reference(Target::Literal("#performer"))],
        value: Some(ObservationValue::Quantity(Box::new(Quantity {
            value: Some(egfr.value.into()),
            unit: Some("mL/min/{1.73_m2}".into()),
            system: Some("http://unitsofmeasure.org".into()),
            code: Some("mL/min/{1.73_m2}".into()),
            ..Default::default()
        }))),
        note: vec![Annotation { text: egfr.note.into(), ..Default::default() }],
        method: Some(Box::new(CodeableConcept { text: Some(egfr.method.into()), ..Default::default() })),
        device: Some(reference(Target::Literal("#device"))),
        derived_from: vec![*reference(Target::Literal(egfr.derived_from))],
        ..Default::default()
    })))
}

fn text(resource: Resource) -> String {
    crate::to_vec(&resource).ok().and_then(|bytes| String::from_utf8(bytes).ok()).expect("a resource that we build carries all that R4 requires")
}

fn meta(identity: Identity<'_>) -> Option<Box<Meta>> {
    let security: Vec<Coding> = identity.is_test.then(|| coding("http://terminology.hl7.org/CodeSystem/v3-ActReason", "HTEST")).into_iter().collect();
    (!security.is_empty()).then(|| Box::new(Meta { security, ..Default::default() }))
}

/// For types that R4 gives no search by identifier: our own also stands as a tag, by which a search finds it.
fn tagged_meta(identity: Identity<'_>) -> Option<Box<Meta>> {
    let tag: Vec<Coding> = identity.identifiers.iter().take(1).map(|(system, value)| coding(system, value)).collect();
    let mut meta = meta(identity).unwrap_or_default();
    meta.tag = tag;
    Some(meta)
}

fn identifiers(identity: Identity<'_>) -> Vec<Identifier> {
    identity.identifiers.iter().map(|pair| identifier(*pair)).collect()
}

fn identifier((system, value): (&str, &str)) -> Identifier {
    Identifier { system: Some(system.into()), value: Some(value.into()), ..Default::default() }
}

fn reference(target: Target<'_>) -> Box<Reference> {
    let logical = |kind: &str, pair| Reference { r#type: Some(kind.into()), identifier: Some(Box::new(identifier(pair))), ..Default::default() };
    Box::new(match target {
        Target::Literal(url) => Reference { reference: Some(url.into()), ..Default::default() },
        Target::Marked(url, pair) => Reference { reference: Some(url.into()), identifier: Some(Box::new(identifier(pair))), ..Default::default() },
        Target::Logical(kind, pair) => logical(kind, pair),
        Target::Named(kind, pair, name) => Reference { display: Some(name.into()), ..logical(kind, pair) },
        Target::Display(kind, name) => Reference { r#type: Some(kind.into()), display: Some(name.into()), ..Default::default() },
    })
}

fn coding(system: &str, code: &str) -> Coding {
    Coding { system: Some(system.into()), code: Some(code.into()), ..Default::default() }
}

fn concept(system: &str, code: &str) -> CodeableConcept {
    CodeableConcept { coding: vec![coding(system, code)], ..Default::default() }
}

fn words(text: &str) -> CodeableConcept {
    CodeableConcept { text: Some(text.into()), ..Default::default() }
}
