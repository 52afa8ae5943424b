//! MedicationAdministration and Procedure to a dose of an investigational product. Every other drug and procedure is
//! counted by its code and not kept: a trial of one product has no business with them.

use compact_str::{CompactString, format_compact};

use crate::clinical::date::PartialDate;
use crate::clinical::fact::{Administration, Body, Fact, ResourceType, Status};
use crate::fhir::view::{
    CodeableConcept, Extension, Identifier, MedicationAdministrationView, Meta, Period, Present, ProcedureView, Quantity, Reference, Text,
};
use crate::issue::{Code, Effect, Issue};

use super::guard::{self, Labels};
use super::site::{Site, full_code, short_system};
use super::trial::Product;
use super::{Head, Normalised, nothing};

/// Longest dose text kept as evidence; what is longer is prose.
const LONGEST_DOSE: usize = 60;

/// What the two types have in common.
struct Given<'a, 'b> {
    kind: ResourceType,
    meta: &'a Meta<'b>,
    identifiers: &'a [Identifier<'b>],
    implicit_rules: Present,
    modifiers: &'a [Extension<'b>],
    status: Option<&'a str>,
    subject: Option<&'a Reference<'b>>,
    /// The name of the element that says when, without its type.
    time: &'static str,
    at: Option<&'a Text<'b>>,
    period: Option<&'a Period<'b>>,
    product: Option<(&'a Product, CompactString)>,
    /// How it is counted where it is none of ours; `None` when it carries no code at all.
    code: Option<CompactString>,
    dose: Option<(&'a Quantity<'b>, &'static str)>,
}

/// Turns one MedicationAdministration into a dose, or counts it.
pub fn of_medication<'a>(site: &'a Site, view: &'a MedicationAdministrationView<'_>, head: Head<'_>) -> Normalised {
    let in_r5 = view.medication.as_ref();
    let concept = view.medication_codeable_concept.as_ref().or_else(|| in_r5?.concept.as_ref());
    let reference = view.medication_reference.as_ref().or_else(|| in_r5?.reference.as_ref());
    let by_code = concept.and_then(|concept| site.product_of_concept(concept));
    let product = by_code.or_else(|| site.product_of_reference(reference?.reference.as_deref()?, &view.contained));
    let is_r5 = view.occurence_date_time.is_some() || view.occurence_period.is_some();
    let of_dosage = view.dosage.as_ref().and_then(|dosage| dosage.dose.as_ref()).map(|dose| (dose, "dosage.dose"));
    let extensions = view.extension.iter().chain(view.dosage.iter().flat_map(|dosage| &dosage.extension));
    let dose = of_dosage.or_else(|| of_extension(product.as_ref()?.0, extensions));
    let given = Given {
        kind: ResourceType::MedicationAdministration,
        meta: &view.meta,
        identifiers: &view.identifier,
        implicit_rules: view.implicit_rules,
        modifiers: &view.modifier_extension,
        status: view.status.as_deref(),
        subject: view.subject.as_ref(),
        time: if is_r5 { "occurence" } else { "effective" },
        at: view.effective_date_time.as_ref().or(view.occurence_date_time.as_ref()),
        period: view.effective_period.as_ref().or(view.occurence_period.as_ref()),
        product,
        code: counted(concept).or_else(|| reference.map(|_| CompactString::const_new("MedicationAdministration by reference"))),
        dose,
    };
    normalise(site, given, head)
}

/// Turns one Procedure into a dose, or counts it.
pub fn of_procedure<'a>(site: &'a Site, view: &'a ProcedureView<'_>, head: Head<'_>) -> Normalised {
    let product = view.code.as_ref().and_then(|concept| site.product_of_concept(concept));
    let dose = product.as_ref().and_then(|(product, _)| of_extension(product, view.extension.iter()));
    let is_r5 = view.occurrence_date_time.is_some() || view.occurrence_period.is_some();
    let given = Given {
        kind: ResourceType::Procedure,
        meta: &view.meta,
        identifiers: &view.identifier,
        implicit_rules: view.implicit_rules,
        modifiers: &view.modifier_extension,
        status: view.status.as_deref(),
        subject: view.subject.as_ref(),
        time: if is_r5 { "occurrence" } else { "performed" },
        at: view.performed_date_time.as_ref().or(view.occurrence_date_time.as_ref()),
        period: view.performed_period.as_ref().or(view.occurrence_period.as_ref()),
        product,
        code: counted(view.code.as_ref()),
        dose,
    };
    normalise(site, given, head)
}

fn normalise(site: &Site, given: Given<'_, '_>, head: Head<'_>) -> Normalised {
    let type_name = given.kind.word();
    if guard::is_echo(given.meta, given.identifiers) {
        return Normalised::echo(type_name);
    }
    let Some((status, has_begun)) = status(given.status) else {
        return Normalised::rejected(Issue::new(Code::Shape, format!("{type_name}.status")));
    };
    let subject = guard::patient_id(site, given.subject, &format!("{type_name}.subject"));
    let retiring = || Some(nothing(head.source(given.kind, head.id?), status, None));
    if let Some(reason) = Labels::of(site, &given.meta.security).reason() {
        return Normalised::out_of_scope(reason.to_owned(), subject.ok(), retiring());
    }
    let Some((product, code)) = &given.product else {
        if status.is_withdrawn()
            && given.code.is_none()
            && let (Some(fact), Ok(subject)) = (retiring(), &subject)
        {
            // Withdrawn and no longer coded: it takes back whatever this id said before.
            return Normalised::ended(Some(subject), Some(fact), Vec::new(), None);
        }
        let counted = given.code.map_or_else(|| format!("{type_name} without a code"), String::from);
        return Normalised::out_of_scope(counted, subject.ok(), retiring());
    };
    let Some(id) = head.id else {
        return Normalised::rejected(Issue::new(Code::InvalidId, format!("{type_name}.id")));
    };
    let mut issues = Vec::new();
    issues.extend(guard::modifiers(type_name, given.implicit_rules, given.modifiers, |_| false));
    if status == Status::Unknown {
        issues.push(Issue::new(Code::StatusUnknown, format!("{type_name}.status")));
    }
    let subject = subject.map_err(|issue| issues.push(issue)).ok();
    let (began, ended) = when(&given, &mut issues).unwrap_or_else(|issue| {
        issues.push(issue);
        (None, None)
    });
    let holds = has_begun && !status.is_withdrawn();
    if holds && began.is_none() && issues.iter().all(|issue| issue.code != Code::InvalidDate) {
        issues.push(Issue::new(Code::TimeMissing, format!("{type_name}.{}", given.time)));
    }
    let (cells, dose_as_received) = match given.dose.filter(|_| holds) {
        Some((dose, element)) => (cells(product, dose, &format!("{type_name}.{element}"), &mut issues), as_received(dose)),
        None => (None, CompactString::default()),
    };
    let is_quarantined = issues.iter().any(|issue| issue.code.effect() == Effect::Quarantine);
    let administration = Administration { study: product.study.clone(), code: code.clone(), given: began, ended, cells, dose_as_received };
    let body = if is_quarantined || !has_begun { Body::Nothing } else { Body::Administration(administration) };
    let fact = subject.map(|_| Fact { source: head.source(given.kind, id), key: None, status, issued_ms: None, body });
    Normalised::ended(subject, fact, issues, None)
}

/// FHIR's event-status codes, and whether anything was given by then. A dose that was stopped was given in part.
fn status(word: Option<&str>) -> Option<(Status, bool)> {
    match word? {
        "completed" | "stopped" => Some((Status::Final, true)),
        "in-progress" | "on-hold" => Some((Status::Preliminary, true)),
        "preparation" => Some((Status::Registered, false)),
        "not-done" => Some((Status::Cancelled, true)),
        "entered-in-error" => Some((Status::EnteredInError, true)),
        "unknown" => Some((Status::Unknown, true)),
        _ => None,
    }
}

type Span = (Option<PartialDate>, Option<PartialDate>);

fn when(given: &Given<'_, '_>, issues: &mut Vec<Issue>) -> Result<Span, Issue> {
    let path = |kind: &str| format!("{}.{}{kind}", given.kind.word(), given.time);
    let at = guard::optional_date(given.at, &path("DateTime")).unwrap_or_else(|issue| {
        issues.push(issue);
        None
    });
    match (at, given.period) {
        (Some(at), _) => Ok((Some(at), None)),
        (None, Some(period)) => guard::ends(period, &path("Period")),
        (None, None) => Ok((None, None)),
    }
}

fn counted(concept: Option<&CodeableConcept<'_>>) -> Option<CompactString> {
    let coding = concept?.coding.iter().find_map(|coding| Some((coding.system.as_deref().unwrap_or(""), coding.code.as_deref()?)));
    coding.map(|(system, code)| full_code(short_system(system), code))
}

/// The dose in the first extension that the product's entry names.
fn of_extension<'a, 'b>(product: &Product, mut extensions: impl Iterator<Item = &'a Extension<'b>>) -> Option<(&'a Quantity<'b>, &'static str)>
where
    'b: 'a,
{
    let names = |extension: &Extension<'_>| extension.url.as_deref().is_some_and(|url| product.dose_extensions.iter().any(|known| known == url));
    extensions.find_map(|extension| extension.value_quantity.as_ref().filter(|_| names(extension))).map(|dose| (dose, "extension(dose)"))
}

/// Cells in the dose; a dose that counts none is still a dose, and stands without them.
fn cells(product: &Product, dose: &Quantity<'_>, path: &str, issues: &mut Vec<Issue>) -> Option<f64> {
    let unit = dose.unit.as_deref();
    let says_cells = unit.is_some_and(|unit| unit.to_lowercase().contains("cell"));
    let units = [dose.code.as_deref(), unit];
    let in_one = units.into_iter().flatten().find_map(|unit| product.cells_in_one(unit, says_cells));
    let Some(in_one) = in_one.filter(|_| dose.comparator.is_none()) else {
        issues.push(Issue::new(Code::DoseUncounted, path));
        return None;
    };
    let value: Option<f64> = dose.value.and_then(|value| value.text().parse().ok());
    let cells = value.map(|value| value * in_one);
    if cells.is_none_or(|cells| !cells.is_finite() || cells <= 0.0) {
        issues.push(Issue::new(Code::Implausible, path));
        return None;
    }
    cells
}

fn as_received(dose: &Quantity<'_>) -> CompactString {
    let unit = dose.unit.as_deref().or(dose.code.as_deref()).unwrap_or("");
    let text = format_compact!("{}{} {unit}", dose.comparator.as_deref().unwrap_or(""), dose.value.map_or("", |value| value.text()));
    text.trim().chars().take(LONGEST_DOSE).collect()
}
