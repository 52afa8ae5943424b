//! AdverseEvent to an event whose axes stay apart: nothing is inferred from anything. R4, and the R4 backport of the
//! clinical research profile, whose modifierExtension carries the status and is read first (hl7.fhir.uv.ae-research-backport-ig 1.0.1).

use compact_str::CompactString;

use crate::clinical::fact::{AdverseEvent, Body, Fact, Relatedness, ResourceType, Status};
use crate::fhir::view::{AdverseEventView, CodeableConcept, Extension};
use crate::issue::{Code, Effect, Issue};

use super::guard::{self, Labels};
use super::site::{Site, full_code, short_system};
use super::{Head, Normalised, nothing};

/// Where the extensions of the R4 backport are defined.
const BACKPORT: &str = "http://hl7.org/fhir/uv/ae-research-backport-ig/StructureDefinition/";
/// The draft CTCAE guide's grade, on AdverseEvent itself.
const CTCAE_GRADE: &str = "http://hl7.org/fhir/us/ctcae/StructureDefinition/ctcae-grade";

/// NCI Thesaurus outcomes of the research profile, and the R4 code each means (hl7.fhir.uv.ae-research-backport-ig 1.0.1).
const OUTCOMES: [(&str, &str); 5] =
    [("C49498", "resolved"), ("C49496", "recovering"), ("C49494", "ongoing"), ("C49495", "resolvedWithSequelae"), ("C48275", "fatal")];

/// Turns one AdverseEvent into a fact or a coded refusal.
pub fn normalise_view(site: &Site, view: &AdverseEventView<'_>, head: Head<'_>) -> Normalised {
    if guard::is_echo(&view.meta, view.identifier.as_ref()) {
        return Normalised::echo("AdverseEvent");
    }
    let status = match status(view) {
        Ok(status) => status,
        Err(issue) => return Normalised::rejected(issue),
    };
    let subject = guard::patient_id(site, view.subject.as_ref(), "AdverseEvent.subject");
    let retiring = || Some(nothing(head.source(ResourceType::AdverseEvent, head.id?), status, None));
    if let Some(reason) = Labels::of(site, &view.meta.security).reason() {
        return Normalised::out_of_scope(reason.to_owned(), subject.ok(), retiring());
    }
    if !site.takes_adverse_events {
        return Normalised::out_of_scope("AdverseEvent".to_owned(), subject.ok(), retiring());
    }
    let Some(id) = head.id else {
        return Normalised::rejected(Issue::new(Code::InvalidId, "AdverseEvent.id"));
    };
    let is_actual = match view.actuality.as_deref() {
        Some("actual") => true,
        Some("potential") => false,
        Some(_) | None => return Normalised::rejected(Issue::new(Code::Shape, "AdverseEvent.actuality")),
    };
    let mut issues = Vec::new();
    issues.extend(guard::modifiers("AdverseEvent", view.implicit_rules, &view.modifier_extension, is_status));
    if status == Status::Unknown {
        issues.push(Issue::new(Code::StatusUnknown, "AdverseEvent.modifierExtension"));
    }
    let subject = subject.map_err(|issue| issues.push(issue)).ok();
    let mut date = |text, path: &str| {
        guard::optional_date(text, path).unwrap_or_else(|issue| {
            issues.push(issue);
            None
        })
    };
    let onset = date(view.date.as_ref(), "AdverseEvent.date");
    let detected = date(view.detected.as_ref(), "AdverseEvent.detected");
    let recorded = date(view.recorded_date.as_ref(), "AdverseEvent.recordedDate");
    let resolve_date = research(&view.extension, "resolve-date").and_then(|extension| extension.value_date_time.as_ref());
    let resolved = date(resolve_date, "AdverseEvent.extension(resolve-date)");
    let is_quarantined = issues.iter().any(|issue| issue.code.effect() == Effect::Quarantine);
    let event = AdverseEvent {
        codes: view.event.as_ref().map(codes).unwrap_or_default(),
        term: view.event.as_ref().and_then(|event| event.text.as_deref()).map(CompactString::from).unwrap_or_default(),
        is_actual,
        grade: grade(site, &view.extension),
        severity: code_of(view.severity.as_ref()),
        is_serious: is_serious(view.seriousness.as_ref()),
        seriousness_criteria: seriousness_criteria(&view.extension),
        is_expected: research(&view.extension, "expected-in-research-study").and_then(|extension| extension.value_boolean),
        relatedness: relatedness(view),
        outcome: view.outcome.as_ref().and_then(outcome),
        onset,
        detected,
        recorded,
        resolved,
        is_dose_limiting: None,
        studies: Vec::new(),
        names_other_study: false,
    };
    let body = if is_quarantined { Body::Nothing } else { Body::AdverseEvent(event) };
    let fact = subject.map(|_| Fact { source: head.source(ResourceType::AdverseEvent, id), key: None, status, issued_ms: None, body });
    Normalised::ended(subject, fact, issues, None)
}

fn is_status(url: &str) -> bool {
    url.strip_prefix(BACKPORT) == Some("status")
}

/// The extension of this name in the research profile.
fn research<'a, 'b>(extensions: &'a [Extension<'b>], name: &str) -> Option<&'a Extension<'b>> {
    extensions.iter().find(|extension| is_research(extension, name))
}

/// R4 has no status; the backport's modifierExtension gives one of FHIR's event-status codes.
fn status(view: &AdverseEventView<'_>) -> Result<Status, Issue> {
    let Some(extension) = view.modifier_extension.iter().find(|extension| extension.url.as_deref().is_some_and(is_status)) else {
        return Ok(Status::Final);
    };
    match extension.value_code.as_deref() {
        Some("completed" | "stopped") => Ok(Status::Final),
        Some("in-progress" | "on-hold" | "preparation") => Ok(Status::Preliminary),
        // It did not happen: what an older version said is taken back.
        Some("not-done") => Ok(Status::Cancelled),
        Some("entered-in-error") => Ok(Status::EnteredInError),
        Some("unknown") => Ok(Status::Unknown),
        Some(_) | None => Err(Issue::new(Code::Shape, "AdverseEvent.modifierExtension")),
    }
}

fn codes(concept: &CodeableConcept<'_>) -> Vec<CompactString> {
    let codings = concept.coding.iter().filter_map(|coding| Some((coding.system.as_deref().unwrap_or(""), coding.code.as_deref()?)));
    codings.map(|(system, code)| full_code(short_system(system), code)).collect()
}

fn code_of(concept: Option<&CodeableConcept<'_>>) -> Option<CompactString> {
    concept?.coding.iter().find_map(|coding| coding.code.as_deref()).map(CompactString::from)
}

/// The CTCAE grade where the source gives one; two that differ are none.
fn grade(site: &Site, extensions: &[Extension<'_>]) -> Option<u8> {
    let is_grade =
        |extension: &&Extension<'_>| extension.url.as_deref().is_some_and(|url| url == CTCAE_GRADE || url.strip_prefix(BACKPORT) == Some("ae-grade"));
    let concepts = extensions.iter().filter(is_grade).filter_map(|extension| extension.value_codeable_concept.as_ref());
    let mut grades = concepts
        .flat_map(|concept| &concept.coding)
        .filter_map(|coding| site.ctcae_grade(coding.system.as_deref().unwrap_or(""), coding.code.as_deref()?));
    let first = grades.next()?;
    grades.all(|other| other == first).then_some(first)
}

fn is_serious(concept: Option<&CodeableConcept<'_>>) -> Option<bool> {
    concept?.coding.iter().find_map(|coding| match coding.code.as_deref() {
        Some("serious") => Some(true),
        Some("non-serious") => Some(false),
        Some(_) | None => None,
    })
}

/// The criteria that the source says are present; one that it names and denies is left out.
fn seriousness_criteria(extensions: &[Extension<'_>]) -> Vec<CompactString> {
    let of_profile = extensions.iter().filter(|extension| is_research(extension, "seriousness-criteria"));
    let present = of_profile.filter(|criterion| part(criterion, "criterionPresent").and_then(|present| present.value_boolean) == Some(true));
    present.filter_map(|criterion| code_of(part(criterion, "criterionCode")?.value_codeable_concept.as_ref())).collect()
}

/// One per assessment: base R4, and the research profile's suspect entities.
fn relatedness(view: &AdverseEventView<'_>) -> Vec<Relatedness> {
    let mut all = Vec::new();
    for suspect in &view.suspect_entity {
        let name = CompactString::from(suspect.instance.reference.as_deref().unwrap_or(""));
        let codes = suspect.causality.iter().filter_map(|causality| code_of(causality.assessment.as_ref()));
        all.extend(codes.map(|code| Relatedness { suspect: name.clone(), is_study_product: false, code, relation: None }));
    }
    for suspect in view.extension.iter().filter(|extension| is_research(extension, "suspect-entity")) {
        let instance = part(suspect, "instance");
        let reference = instance.and_then(|instance| instance.value_reference.as_ref()?.reference.as_deref()).map(CompactString::from);
        let name = reference.or_else(|| code_of(instance?.value_codeable_concept.as_ref())).unwrap_or_default();
        let causalities = suspect.extension.iter().filter(|extension| extension.url.as_deref() == Some("causality"));
        let codes = causalities.filter_map(|causality| code_of(part(causality, "entityRelatedness")?.value_codeable_concept.as_ref()));
        all.extend(codes.map(|code| Relatedness { suspect: name.clone(), is_study_product: false, code, relation: None }));
    }
    all
}

fn is_research(extension: &Extension<'_>, name: &str) -> bool {
    extension.url.as_deref().and_then(|url| url.strip_prefix(BACKPORT)) == Some(name)
}

/// A part of a complex extension.
fn part<'a, 'b>(extension: &'a Extension<'b>, name: &str) -> Option<&'a Extension<'b>> {
    extension.extension.iter().find(|part| part.url.as_deref() == Some(name))
}

/// The R4 outcome code, which the research profile may give in the NCI Thesaurus alone.
fn outcome(concept: &CodeableConcept<'_>) -> Option<CompactString> {
    let thesaurus = |code: &str| OUTCOMES.into_iter().find(|(nci, _)| *nci == code).map(|(_, base)| base);
    concept.coding.iter().find_map(|coding| {
        let code = coding.code.as_deref()?;
        let is_thesaurus = coding.system.as_deref().is_some_and(|system| system.ends_with("Thesaurus.owl"));
        if is_thesaurus { thesaurus(code).map(CompactString::const_new) } else { Some(CompactString::from(code)) }
    })
}
