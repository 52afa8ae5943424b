//! AdverseEvents that we author: in the shape of the Vulcan research profile for R4 (hl7.fhir.uv.ae-research-backport-ig
//! 1.0.1), or without its modifier extension for receivers that refuse those.

use fhirbolt::model::r4::Resource;
use fhirbolt::model::r4::resources::{AdverseEvent as R4AdverseEvent, AdverseEventSuspectEntity, AdverseEventSuspectEntityCausality};
use fhirbolt::model::r4::types::{CodeableConcept, Extension, ExtensionValue};

use super::extensions::{complex, dose_limiting, simple};
use super::{DoseLimiting, Identity, Target, concept, identifier, reference, tagged_meta, text, words};

const BACKPORT: &str = "http://hl7.org/fhir/uv/ae-research-backport-ig/StructureDefinition/";
const NCI_THESAURUS: &str = "http://ncicb.nci.nih.gov/xml/owl/EVS/Thesaurus.owl";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// The research profile.
    Backport,
    /// Base R4, and the profile's extensions that modify nothing.
    Plain,
}

/// What is known of one event. The profile requires term, seriousness, outcome and study; whoever builds that shape has them.
#[derive(Clone, Copy, Debug)]
pub struct AdverseEvent<'a> {
    pub shape: Shape,
    /// Extensions may be sent; the research profile is made of them.
    pub with_extensions: bool,
    /// `in-progress`, `completed` or `entered-in-error`; the plain shape has no place for it.
    pub status: &'a str,
    pub term: &'a str,
    /// `Patient/id`.
    pub patient: &'a str,
    pub study: Target<'a>,
    /// FHIR dateTimes.
    pub onset: Option<&'a str>,
    pub resolved: Option<&'a str>,
    pub is_serious: Option<bool>,
    /// NCI Thesaurus codes of the criteria that are present.
    pub seriousness_criteria: &'a [String],
    /// R4 code. The research profile wants one of NCI's beside it, which base R4's required binding keeps out as HL7's
    /// validator reads it in HAPI FHIR: every coding must be of the value set.
    pub outcome: Option<&'a str>,
    /// Relation to the study's treatment: NCI Thesaurus code and the word for it.
    pub relation: Option<(&'a str, &'a str)>,
    /// NCI Thesaurus code of the CTCAE grade.
    pub grade: Option<&'a str>,
    pub is_expected: Option<bool>,
    pub dose_limiting: Option<DoseLimiting<'a>>,
}

pub fn adverse_event(identity: Identity<'_>, of: AdverseEvent<'_>) -> String {
    let modifier_extension = match of.shape {
        Shape::Backport => vec![simple(&format!("{BACKPORT}status"), ExtensionValue::Code(of.status.into()))],
        Shape::Plain => Vec::new(),
    };
    let suspect_entity = match (of.shape, of.relation) {
        // The profile allows no native suspects.
        (Shape::Plain, Some((code, word))) => vec![AdverseEventSuspectEntity {
            instance: Box::new(fhirbolt::model::r4::types::Reference { display: Some("study treatment".into()), ..Default::default() }),
            causality: vec![AdverseEventSuspectEntityCausality { assessment: Some(Box::new(nci(code, Some(word)))), ..Default::default() }],
            ..Default::default()
        }],
        (Shape::Plain, None) | (Shape::Backport, _) => Vec::new(),
    };
    text(Resource::AdverseEvent(Box::new(R4AdverseEvent {
        id: identity.id.map(Into::into),
        meta: tagged_meta(identity),
        extension: if of.with_extensions { extensions(of) } else { Vec::new() },
        modifier_extension,
        identifier: identity.identifiers.first().map(|pair| Box::new(identifier(*pair))),
        actuality: "actual".into(),
        event: Some(Box::new(words(of.term))),
        subject: reference(Target::Literal(of.patient)),
        date: of.onset.map(Into::into),
        // Spelt as R4 4.0.1 spells them; later terminology has small letters.
        seriousness: of.is_serious.map(|is_serious| {
            let code = if is_serious { "Serious" } else { "Non-serious" };
            Box::new(concept("http://terminology.hl7.org/CodeSystem/adverse-event-seriousness", code))
        }),
        outcome: of.outcome.map(|code| Box::new(concept("http://terminology.hl7.org/CodeSystem/adverse-event-outcome", code))),
        suspect_entity,
        study: vec![*reference(of.study)],
        ..Default::default()
    })))
}

fn extensions(of: AdverseEvent<'_>) -> Vec<Extension> {
    let of_profile = |name: &str, value| simple(&format!("{BACKPORT}{name}"), value);
    let mut all = Vec::new();
    all.extend(of.is_expected.map(|is_expected| of_profile("expected-in-research-study", ExtensionValue::Boolean(is_expected.into()))));
    all.extend(of.grade.map(|code| of_profile("ae-grade", ExtensionValue::CodeableConcept(Box::new(nci(code, None))))));
    all.extend(of.seriousness_criteria.iter().map(|code| {
        let parts = vec![
            simple("criterionCode", ExtensionValue::CodeableConcept(Box::new(nci(code, None)))),
            simple("criterionPresent", ExtensionValue::Boolean(true.into())),
        ];
        complex(&format!("{BACKPORT}seriousness-criteria"), parts)
    }));
    all.extend(of.resolved.map(|date| of_profile("resolve-date", ExtensionValue::DateTime(date.into()))));
    if let (Shape::Backport, Some((code, word))) = (of.shape, of.relation) {
        let relatedness = simple("entityRelatedness", ExtensionValue::CodeableConcept(Box::new(nci(code, Some(word)))));
        let parts = vec![
            simple("instance", ExtensionValue::Reference(reference(of.study))),
            Extension { url: "causality".to_owned(), extension: vec![relatedness], ..Default::default() },
        ];
        all.push(complex(&format!("{BACKPORT}suspect-entity"), parts));
    }
    all.extend(of.dose_limiting.map(dose_limiting));
    all
}

fn nci(code: &str, word: Option<&str>) -> CodeableConcept {
    CodeableConcept { text: word.map(Into::into), ..concept(NCI_THESAURUS, code) }
}

/// What is left of an event in plain R4 that never was, where it cannot be deleted: base R4 has no status, so its
/// actuality says that nothing happened, and its text that it is an error.
pub fn adverse_event_that_never_was(identity: Identity<'_>, patient: &str) -> String {
    text(Resource::AdverseEvent(Box::new(R4AdverseEvent {
        id: identity.id.map(Into::into),
        meta: tagged_meta(identity),
        identifier: identity.identifiers.first().map(|pair| Box::new(identifier(*pair))),
        actuality: "potential".into(),
        event: Some(Box::new(words("entered in error: this event did not happen"))),
        subject: reference(Target::Literal(patient)),
        ..Default::default()
    })))
}
