//! What is added to a resource of the hospital's own, and taken out of it again: a fragment with its type, its id, and
//! only the elements that are ours.

use fhirbolt::model::r4::Resource;
use fhirbolt::model::r4::resources::{AdverseEvent, DiagnosticReport, Observation};
use fhirbolt::model::r4::types::{CodeableConcept, Extension, Meta};

use super::{Target, coding, extensions, reference, text};

/// System of the tag that marks a resource for a study. Another one than that of our identifiers: what carries those is
/// our own, and no evidence.
pub const STUDY_TAG_SYSTEM: &str = "https://nephrogate.example/fhir/CodeSystem/study-tag";

fn tag(code: Option<&str>) -> Option<Box<Meta>> {
    code.map(|code| Box::new(Meta { tag: vec![coding(STUDY_TAG_SYSTEM, code)], ..Default::default() }))
}

/// The mark on a result (`Observation/id` or `DiagnosticReport/id`): the standard extension and a tag, each where it is given.
/// `None` for another type.
pub fn result_fragment(resource: &str, study: Option<Target<'_>>, tag_code: Option<&str>) -> Option<String> {
    let (resource_type, id) = resource.split_once('/')?;
    let extension: Vec<Extension> = study.map(extensions::research_study).into_iter().collect();
    let meta = tag(tag_code);
    // R4 requires more of a whole resource: what stands for it is taken out of the text again.
    let nothing = || Box::new(CodeableConcept { text: Some("-".into()), ..Default::default() });
    let id = Some(id.into());
    let whole = match resource_type {
        "Observation" => {
            Resource::Observation(Box::new(Observation { id, meta, extension, status: "unknown".into(), code: nothing(), ..Default::default() }))
        }
        "DiagnosticReport" => Resource::DiagnosticReport(Box::new(DiagnosticReport {
            id,
            meta,
            extension,
            status: "unknown".into(),
            code: nothing(),
            ..Default::default()
        })),
        _ => return None,
    };
    Some(text(whole).replacen(r#","status":"unknown""#, "", 1).replacen(r#","code":{"text":"-"}"#, "", 1))
}

/// The mark on an AdverseEvent (`AdverseEvent/id`): its element `study`, and a tag where it is given.
pub fn adverse_event_fragment(resource: &str, study: Option<Target<'_>>, tag_code: Option<&str>) -> Option<String> {
    let (_, id) = resource.split_once('/').filter(|(resource_type, _)| *resource_type == "AdverseEvent")?;
    let whole = AdverseEvent {
        id: Some(id.into()),
        meta: tag(tag_code),
        actuality: "-".into(),
        subject: reference(Target::Literal("-")),
        study: study.map(|study| *reference(study)).into_iter().collect(),
        ..Default::default()
    };
    let whole = text(Resource::AdverseEvent(Box::new(whole)));
    Some(whole.replacen(r#","actuality":"-""#, "", 1).replacen(r#","subject":{"reference":"-"}"#, "", 1))
}
