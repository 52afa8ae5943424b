//! AdverseEvent to an event whose axes stay apart: nothing is inferred from anything. R4 and R5 give the same fact, with
//! or without the clinical research profile of either: its R4 backport puts the status into a modifierExtension, which
//! is read first, and the suspects into extensions (hl7.fhir.uv.ae-research-backport-ig and ae-research-ig, both 1.0.1).

use compact_str::CompactString;

use crate::clinical::date::PartialDate;
use crate::clinical::fact::{AdverseEvent, Body, Fact, Relatedness, ResourceType, Status};
use crate::fhir::view::{AdverseEventView, CodeableConcept, Coding, Extension, Reference};
use crate::issue::{Code, Effect, Issue};

use super::guard::{self, Labels};
use super::site::{Site, full_code, short_system};
use super::trial::StudyNamed;
use super::{Head, Normalised, nothing};

/// Where the extensions of the R4 backport are defined, and those of the R5 profile.
const BACKPORT: &str = "http://hl7.org/fhir/uv/ae-research-backport-ig/StructureDefinition/";
const RESEARCH: &str = "http://hl7.org/fhir/uv/ae-research-ig/StructureDefinition/";
/// The draft CTCAE guide's grade, on AdverseEvent itself.
const CTCAE_GRADE: &str = "http://hl7.org/fhir/us/ctcae/StructureDefinition/ctcae-grade";
/// That guide's grade 0: the event was looked for and confirmed absent.
const CTCAE_ABSENT: (&str, &str) = ("http://hl7.org/fhir/us/ctcae/CodeSystem/ctcae-grade-code-system", "0");

/// The outcomes of R4 and R5 (http://terminology.hl7.org/CodeSystem/adverse-event-outcome), and the NCI Thesaurus code
/// that the research profiles use for each but the last (1.0.1).
const OUTCOMES: [(&str, &str); 6] = [
    ("resolved", "C49498"),
    ("recovering", "C49496"),
    ("ongoing", "C49494"),
    ("resolvedWithSequelae", "C49495"),
    ("fatal", "C48275"),
    ("unknown", ""),
];

/// Turns one AdverseEvent into a fact or a coded refusal.
pub fn normalise_view(site: &Site, view: &AdverseEventView<'_>, head: Head<'_>) -> Normalised {
    if guard::is_echo(&view.meta, &view.identifier.0) {
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
    // R5 has a status of its own, so that the backport's is none of its modifiers.
    issues.extend(guard::modifiers("AdverseEvent", view.implicit_rules, &view.modifier_extension, |url| view.status.is_none() && is_status(url)));
    if status == Status::Unknown {
        let path = if view.status.is_some() { "AdverseEvent.status" } else { "AdverseEvent.modifierExtension" };
        issues.push(Issue::new(Code::StatusUnknown, path));
    }
    let subject = subject.map_err(|issue| issues.push(issue)).ok();
    let dates = Dates::of(view, &mut issues);
    let mut axes = Axes { issues: &mut issues };
    let grades = grade_codings(&view.extension);
    let is_absent = grades.iter().any(|coding| coding.is(CTCAE_ABSENT.0, CTCAE_ABSENT.1));
    let what = view.event.as_ref().or(view.code.as_ref());
    let (studies, names_other_study) = studies(site, &view.study);
    let event = AdverseEvent {
        codes: what.map(codes).unwrap_or_default(),
        term: what.and_then(|what| what.text.as_deref()).map(CompactString::from).unwrap_or_default(),
        is_actual,
        grade: if is_absent { None } else { axes.agreed("AdverseEvent.extension(ae-grade)", grades, |coding| grade(site, coding)) },
        severity: code_of(view.severity.as_ref().or_else(|| research(&view.extension, "ae-severity")?.value_codeable_concept.as_ref())),
        is_serious: axes.agreed("AdverseEvent.seriousness", codings(&view.seriousness), is_serious),
        seriousness_criteria: seriousness_criteria(&view.extension),
        is_expected: view
            .expected_in_research_study
            .or_else(|| research(&view.extension, "expected-in-research-study").and_then(|extension| extension.value_boolean)),
        relatedness: relatedness(site, view, &mut axes),
        outcome: axes.agreed("AdverseEvent.outcome", codings(&view.outcome.0), outcome).map(CompactString::const_new),
        onset: dates.onset,
        detected: dates.detected,
        recorded: dates.recorded,
        resolved: dates.resolved,
        is_dose_limiting: axes.is_dose_limiting(site, &view.extension),
        studies,
        names_other_study,
    };
    let is_quarantined = issues.iter().any(|issue| issue.code.effect() == Effect::Quarantine);
    let body = if is_quarantined || is_absent { Body::Nothing } else { Body::AdverseEvent(event) };
    let fact = subject.map(|_| Fact { source: head.source(ResourceType::AdverseEvent, id), key: None, status, issued_ms: None, body });
    Normalised::ended(subject, fact, issues, None)
}

fn is_status(url: &str) -> bool {
    url.strip_prefix(BACKPORT) == Some("status")
}

/// R5's own element, or the backport's modifierExtension; base R4 has neither, and what it says stands.
fn status(view: &AdverseEventView<'_>) -> Result<Status, Issue> {
    if let Some(word) = view.status.as_deref() {
        return status_of(word).ok_or_else(|| Issue::new(Code::Shape, "AdverseEvent.status"));
    }
    let Some(extension) = view.modifier_extension.iter().find(|extension| extension.url.as_deref().is_some_and(is_status)) else {
        return Ok(Status::Final);
    };
    extension.value_code.as_deref().and_then(status_of).ok_or_else(|| Issue::new(Code::Shape, "AdverseEvent.modifierExtension"))
}

/// FHIR's event-status codes.
fn status_of(word: &str) -> Option<Status> {
    match word {
        "completed" | "stopped" => Some(Status::Final),
        "in-progress" | "on-hold" | "preparation" => Some(Status::Preliminary),
        // It did not happen: what an older version said is taken back.
        "not-done" => Some(Status::Cancelled),
        "entered-in-error" => Some(Status::EnteredInError),
        "unknown" => Some(Status::Unknown),
        _ => None,
    }
}

struct Dates {
    onset: Option<PartialDate>,
    resolved: Option<PartialDate>,
    detected: Option<PartialDate>,
    recorded: Option<PartialDate>,
}

impl Dates {
    /// R5's occurrencePeriod says in its end what the backport says in `resolve-date`, since R4's `date` is one time.
    fn of(view: &AdverseEventView<'_>, issues: &mut Vec<Issue>) -> Dates {
        let mut keep = |read: Result<Option<PartialDate>, Issue>| {
            read.unwrap_or_else(|issue| {
                issues.push(issue);
                None
            })
        };
        let resolve_date = research(&view.extension, "resolve-date").and_then(|extension| extension.value_date_time.as_ref());
        let resolved = keep(guard::optional_date(resolve_date, "AdverseEvent.extension(resolve-date)"));
        let mut dates = Dates {
            onset: keep(guard::optional_date(view.date.as_ref(), "AdverseEvent.date")),
            resolved,
            detected: keep(guard::optional_date(view.detected.as_ref(), "AdverseEvent.detected")),
            recorded: keep(guard::optional_date(view.recorded_date.as_ref(), "AdverseEvent.recordedDate")),
        };
        if let Some(occurred) = keep(guard::optional_date(view.occurrence_date_time.as_ref(), "AdverseEvent.occurrenceDateTime")) {
            dates.onset = Some(occurred);
        }
        match view.occurrence_period.as_ref().map(|period| guard::ends(period, "AdverseEvent.occurrencePeriod")) {
            Some(Ok((start, end))) => {
                dates.onset = dates.onset.or(start);
                dates.resolved = dates.resolved.or(end);
            }
            Some(Err(issue)) => issues.push(issue),
            None => {}
        }
        dates
    }
}

/// Reads axes, and notes those whose codes say nothing here.
struct Axes<'a> {
    issues: &'a mut Vec<Issue>,
}

impl Axes<'_> {
    /// What the codings of one axis mean, where those that are known agree. Codings that nobody knows, and known ones that
    /// contradict each other, leave the axis open.
    fn agreed<'c, T: PartialEq>(
        &mut self,
        path: &str,
        codings: impl IntoIterator<Item = &'c Coding<'c>>,
        meaning: impl Fn(&Coding<'_>) -> Option<T>,
    ) -> Option<T> {
        let mut meanings = Vec::new();
        let mut unknown = None;
        for coding in codings {
            match meaning(coding) {
                Some(meaning) => meanings.push(meaning),
                None => unknown = unknown.or(Some(coding)),
            }
        }
        let first = meanings.pop();
        let agree = first.as_ref().is_some_and(|first| meanings.iter().all(|other| other == first));
        if (first.is_some() && !agree) || (first.is_none() && unknown.is_some()) {
            let detail = unknown.map(|coding| full_code(short_system(coding.system.as_deref().unwrap_or("")), coding.code.as_deref().unwrap_or("")));
            self.issues.push(Issue::new(Code::AxisUnmapped, path).with_detail(detail.as_deref().unwrap_or("codes that disagree")));
        }
        first.filter(|_| agree)
    }

    /// By the extensions that the mapping names; two that disagree say nothing.
    fn is_dose_limiting(&mut self, site: &Site, extensions: &[Extension<'_>]) -> Option<bool> {
        let named = extensions.iter().filter(|extension| extension.url.as_deref().is_some_and(|url| site.is_dose_limiting_url(url)));
        let mut said = named.filter_map(|extension| extension.value_boolean);
        let first = said.next()?;
        let agree = said.all(|other| other == first);
        if !agree {
            self.issues.push(Issue::new(Code::AxisUnmapped, "AdverseEvent.extension(dose-limiting)").with_detail("values that disagree"));
        }
        agree.then_some(first)
    }
}

fn codings<'a>(concepts: impl IntoIterator<Item = &'a CodeableConcept<'a>>) -> impl Iterator<Item = &'a Coding<'a>> {
    concepts.into_iter().flat_map(|concept| &concept.coding).filter(|coding| coding.code.is_some())
}

fn codes(concept: &CodeableConcept<'_>) -> Vec<CompactString> {
    let codings = concept.coding.iter().filter_map(|coding| Some((coding.system.as_deref().unwrap_or(""), coding.code.as_deref()?)));
    codings.map(|(system, code)| full_code(short_system(system), code)).collect()
}

fn code_of(concept: Option<&CodeableConcept<'_>>) -> Option<CompactString> {
    concept?.coding.iter().find_map(|coding| coding.code.as_deref()).map(CompactString::from)
}

/// The codings of every grade that the source gives.
fn grade_codings<'a>(extensions: &'a [Extension<'a>]) -> Vec<&'a Coding<'a>> {
    let is_grade = |extension: &&Extension<'_>| is_research(extension, "ae-grade") || extension.url.as_deref() == Some(CTCAE_GRADE);
    codings(extensions.iter().filter(is_grade).filter_map(|extension| extension.value_codeable_concept.as_ref())).collect()
}

fn grade(site: &Site, coding: &Coding<'_>) -> Option<u8> {
    site.ctcae_grade(coding.system.as_deref().unwrap_or(""), coding.code.as_deref()?)
}

/// R4 printed its codes with a capital.
fn is_serious(coding: &Coding<'_>) -> Option<bool> {
    let code = coding.code.as_deref()?;
    if code.eq_ignore_ascii_case("serious") {
        Some(true)
    } else if code.eq_ignore_ascii_case("non-serious") {
        Some(false)
    } else {
        None
    }
}

/// The criteria that the source says are present; one that it names and denies is left out.
fn seriousness_criteria(extensions: &[Extension<'_>]) -> Vec<CompactString> {
    let of_profile = extensions.iter().filter(|extension| is_research(extension, "seriousness-criteria"));
    let present = of_profile.filter(|criterion| part(criterion, "criterionPresent").and_then(|present| present.value_boolean) == Some(true));
    present.filter_map(|criterion| code_of(part(criterion, "criterionCode")?.value_codeable_concept.as_ref())).collect()
}

/// One per assessment: of base R4, of R5, and of the backport's suspect entities.
fn relatedness(site: &Site, view: &AdverseEventView<'_>, axes: &mut Axes<'_>) -> Vec<Relatedness> {
    let mut all = Vec::new();
    for (index, suspect) in view.suspect_entity.iter().enumerate() {
        let instance = suspect.instance.as_ref().or(suspect.instance_reference.as_ref());
        let (name, is_study_product) = suspect_named(site, view, instance, suspect.instance_codeable_concept.as_ref());
        for causality in &suspect.causality.0 {
            let (assessed, element) = match (&causality.assessment, &causality.entity_relatedness) {
                (Some(assessed), _) => (assessed, "assessment"),
                (None, Some(assessed)) => (assessed, "entityRelatedness"),
                (None, None) => continue,
            };
            let path = format!("AdverseEvent.suspectEntity[{index}].causality.{element}");
            all.extend(one_relatedness(site, axes, &path, name.clone(), is_study_product, assessed));
        }
    }
    for suspect in view.extension.iter().filter(|extension| is_research(extension, "suspect-entity")) {
        let instance = part(suspect, "instance");
        let reference = instance.and_then(|instance| instance.value_reference.as_ref());
        let concept = instance.and_then(|instance| instance.value_codeable_concept.as_ref());
        let (name, is_study_product) = suspect_named(site, view, reference, concept);
        for causality in suspect.extension.iter().filter(|extension| extension.url.as_deref() == Some("causality")) {
            let Some(assessed) = part(causality, "entityRelatedness").and_then(|part| part.value_codeable_concept.as_ref()) else { continue };
            let path = "AdverseEvent.extension(suspect-entity)";
            all.extend(one_relatedness(site, axes, path, name.clone(), is_study_product, assessed));
        }
    }
    all
}

/// The suspect as a reference or code, and whether it is an investigational product by the site's mapping.
fn suspect_named(
    site: &Site,
    view: &AdverseEventView<'_>,
    reference: Option<&Reference<'_>>,
    concept: Option<&CodeableConcept<'_>>,
) -> (CompactString, bool) {
    if let Some(text) = reference.and_then(|reference| reference.reference.as_deref()) {
        return match site.product_of_reference(text, &view.contained) {
            // `#m` says nothing outside its resource.
            Some((_, code)) if text.starts_with('#') => (code, true),
            product => (CompactString::from(text), product.is_some()),
        };
    }
    match concept.map(|concept| (site.product_of_concept(concept), code_of(Some(concept)))) {
        Some((Some((_, code)), _)) => (code, true),
        Some((None, code)) => (code.unwrap_or_default(), false),
        None => (CompactString::default(), false),
    }
}

fn one_relatedness(
    site: &Site,
    axes: &mut Axes<'_>,
    path: &str,
    suspect: CompactString,
    is_study_product: bool,
    assessed: &CodeableConcept<'_>,
) -> Option<Relatedness> {
    let code = code_of(Some(assessed))?;
    let meaning = |coding: &Coding<'_>| site.relation(coding.system.as_deref().unwrap_or(""), coding.code.as_deref()?);
    let relation = axes.agreed(path, codings([assessed]), meaning).flatten();
    Some(Relatedness { suspect, is_study_product, code, relation })
}

/// The studies that the mapping knows, each once, and whether another is named.
fn studies(site: &Site, references: &[Reference<'_>]) -> (Vec<CompactString>, bool) {
    let mut studies = Vec::new();
    let mut names_other = false;
    for reference in references {
        match site.study_named(reference) {
            StudyNamed::Ours(study) if !studies.contains(study) => studies.push(study.clone()),
            StudyNamed::Ours(_) | StudyNamed::Nothing => {}
            StudyNamed::Other => names_other = true,
        }
    }
    (studies, names_other)
}

/// The extension of this name in the research profile, of R4 or R5.
fn research<'a, 'b>(extensions: &'a [Extension<'b>], name: &str) -> Option<&'a Extension<'b>> {
    extensions.iter().find(|extension| is_research(extension, name))
}

fn is_research(extension: &Extension<'_>, name: &str) -> bool {
    let url = extension.url.as_deref().unwrap_or("");
    url.strip_prefix(BACKPORT).or_else(|| url.strip_prefix(RESEARCH)) == Some(name)
}

/// A part of a complex extension.
fn part<'a, 'b>(extension: &'a Extension<'b>, name: &str) -> Option<&'a Extension<'b>> {
    extension.extension.iter().find(|part| part.url.as_deref() == Some(name))
}

/// The outcome code of R4, which the research profiles give in the NCI Thesaurus alone.
fn outcome(coding: &Coding<'_>) -> Option<&'static str> {
    let code = coding.code.as_deref()?;
    let is_thesaurus = coding.system.as_deref().is_some_and(|system| short_system(system).ends_with("Thesaurus.owl"));
    OUTCOMES.into_iter().find(|(base, thesaurus)| if is_thesaurus { *thesaurus == code } else { *base == code }).map(|(base, _)| base)
}
