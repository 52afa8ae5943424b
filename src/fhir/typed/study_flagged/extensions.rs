//! The extensions that study-flagged resources carry: the standard ones first, two of our own for what nothing
//! standard says.

use fhirbolt::model::r4::types::{Extension, ExtensionValue};

use super::{CANONICAL, Target, reference};

/// On what a Flag, ResearchSubject or List rests. What is `None` or empty is left out.
#[derive(Clone, Copy, Debug, Default)]
pub struct VerdictEvidence<'a> {
    /// `met`, `not-met` or `unknown`.
    pub verdict: Option<&'a str>,
    /// SHA-256 of the study's rules, and of the site's mapping, 64 hex digits.
    pub study_hash: Option<&'a str>,
    pub mapping_hash: Option<&'a str>,
    /// References to the results that counted, with their version where the source has one.
    pub sources: &'a [String],
    /// Address of the why-card.
    pub why: Option<&'a str>,
}

/// A person's word on whether an event limits the dose. What is `None` is left out.
#[derive(Clone, Copy, Debug, Default)]
pub struct DoseLimiting<'a> {
    pub is_dose_limiting: bool,
    /// Why, in the person's words.
    pub basis: Option<&'a str>,
    /// Who says so, by name.
    pub assessor: Option<&'a str>,
    /// FHIR dateTime.
    pub date: Option<&'a str>,
}

pub(super) fn simple(url: &str, value: ExtensionValue) -> Extension {
    Extension { url: url.to_owned(), value: Some(value), ..Default::default() }
}

pub(super) fn complex(url: &str, parts: Vec<Extension>) -> Extension {
    Extension { url: url.to_owned(), extension: parts, ..Default::default() }
}

/// Our own `verdict-evidence`; nothing where there is nothing to say.
pub(super) fn verdict_evidence(evidence: Option<&VerdictEvidence<'_>>) -> Vec<Extension> {
    let Some(evidence) = evidence else { return Vec::new() };
    let mut parts = Vec::new();
    parts.extend(evidence.verdict.map(|verdict| simple("verdict", ExtensionValue::Code(verdict.into()))));
    parts.extend(evidence.study_hash.map(|hash| simple("study-hash", ExtensionValue::String(hash.into()))));
    parts.extend(evidence.mapping_hash.map(|hash| simple("mapping-hash", ExtensionValue::String(hash.into()))));
    parts.extend(evidence.sources.iter().map(|source| simple("source", ExtensionValue::Reference(reference(Target::Literal(source))))));
    parts.extend(evidence.why.map(|why| simple("why", ExtensionValue::Url(why.into()))));
    if parts.is_empty() { Vec::new() } else { vec![complex(&format!("{CANONICAL}/StructureDefinition/verdict-evidence"), parts)] }
}

/// Our own `dose-limiting-toxicity`: neither R4 nor the research profiles have a word for it.
pub(super) fn dose_limiting(of: DoseLimiting<'_>) -> Extension {
    let mut parts = vec![simple("assertion", ExtensionValue::Boolean(of.is_dose_limiting.into()))];
    parts.extend(of.basis.map(|basis| simple("basis", ExtensionValue::String(basis.into()))));
    parts.extend(of.assessor.map(|assessor| simple("assessor", ExtensionValue::String(assessor.into()))));
    parts.extend(of.date.map(|date| simple("date", ExtensionValue::DateTime(date.into()))));
    complex(&format!("{CANONICAL}/StructureDefinition/dose-limiting-toxicity"), parts)
}

/// The standard extension that ties a resource to a study. R4 allows it on Observation, DiagnosticReport and others, and
/// not on Flag, List, DocumentReference or Communication.
pub(super) fn research_study(study: Target<'_>) -> Extension {
    simple("http://hl7.org/fhir/StructureDefinition/workflow-researchStudy", ExtensionValue::Reference(reference(study)))
}
