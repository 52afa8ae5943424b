//! One site's declarative mapping: a resource becomes a fact, or a coded refusal; there is no third outcome.
//! Knows no study. The files are `mappings/<site>/{site,mapping}.json`; what they may say is in
//! profiles/site.schema.json and profiles/mapping.schema.json.

pub mod administration;
pub mod adverse_event;
pub mod condition;
pub mod encounter;
pub mod guard;
pub mod observation;
pub mod outcome;
pub mod patient;
pub mod research_subject;
pub mod site;
pub mod trial;
pub mod units;

use compact_str::CompactString;

use crate::clinical::date::PartialDate;
use crate::clinical::fact::{Body, Fact, ResourceType, Source, Status};
use crate::fhir::references::References;
use crate::fhir::{RawResource, alike, view};
use crate::issue::{Disposition, Effect, Issue};

pub use site::Site;

/// What one resource became.
#[derive(Clone, Debug, PartialEq)]
pub struct Normalised {
    /// Patient id the resource is about; `None` when it cannot be told.
    pub subject: Option<CompactString>,
    /// The fact. Quarantined resources with a subject and an id give one too, which retires older versions and decides
    /// nothing. So do resources that are out of scope (`Body::Nothing`): a store that holds an older version of that id,
    /// in scope then, must take the fact, or a result whose code was mended would stand for ever.
    pub fact: Option<Fact>,
    pub issues: Vec<Issue>,
    /// `Applied`, `Quarantined`, `Rejected`, `OutOfScope` or `Echo`.
    pub disposition: Disposition,
    /// `system|code` (or the type) that is counted for what is out of scope or unmapped.
    pub code: Option<String>,
}

/// Which version of which resource is read: what the gate, or the view where there was no gate, knows of it.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    pub id: Option<&'a str>,
    /// `meta.versionId`.
    pub version: Option<&'a str>,
    /// `meta.lastUpdated`, ms since 1970 UTC.
    pub last_updated_ms: Option<i64>,
}

impl<'a> Head<'a> {
    pub fn of(resource: &RawResource<'a>) -> Head<'a> {
        Head { id: resource.id, version: resource.version, last_updated_ms: resource.last_updated_ms }
    }

    /// Of a line that looks like one that passed the gate.
    pub fn of_values(values: &alike::Values<'a>) -> Head<'a> {
        let last_updated_ms = values.last_updated.and_then(|text| PartialDate::parse(text).ok()).map(|date| date.start_ms);
        Head { id: values.id, version: values.version, last_updated_ms }
    }

    /// The source of a fact; the message number is set by whoever keeps the message.
    fn source(&self, resource_type: ResourceType, id: &str) -> Source {
        Source {
            resource_type,
            id: CompactString::from(id),
            version: self.version.map(CompactString::from),
            last_updated_ms: self.last_updated_ms,
            message: 0,
        }
    }
}

/// Whether a site's mapping lets resources of this type become facts. What it does not is counted by its type, whatever
/// its shape, and not looked at.
pub fn is_read(site: &Site, resource_type: &str) -> bool {
    match ResourceType::from_word(resource_type) {
        Some(ResourceType::Patient | ResourceType::Observation | ResourceType::Condition | ResourceType::AdverseEvent) => true,
        Some(ResourceType::ResearchSubject) => site.knows_studies(),
        Some(ResourceType::MedicationAdministration | ResourceType::Procedure) => site.knows_products(),
        Some(ResourceType::Encounter) => site.takes_stays(),
        // A person's decision has its own door and its own shape; it never comes as FHIR.
        Some(ResourceType::Decision) | None => false,
    }
}

/// Turns one resource into a fact or a coded refusal. Expects bytes that passed the gate; what the schemas in
/// profiles/ would refuse and this meets first (a status that FHIR does not have) is refused here too.
pub fn normalise(site: &Site, resource: &RawResource<'_>) -> Normalised {
    normalise_in(site, resource, &References::default())
}

/// As [`normalise`], for an entry of a Bundle, where references are resolved before the view is read.
pub fn normalise_in(site: &Site, resource: &RawResource<'_>, references: &References) -> Normalised {
    let head = Head::of(resource);
    let kind = ResourceType::from_word(resource.resource_type).filter(|_| is_read(site, resource.resource_type));
    let read = match kind {
        Some(ResourceType::Observation) => view::observation(resource).map(|mut view| {
            references.resolve_subject(&mut view.subject);
            observation::normalise_view(site, &view, head)
        }),
        Some(ResourceType::Patient) => view::patient(resource).map(|mut view| {
            view.link.iter_mut().for_each(|link| references.resolve(&mut link.other));
            patient::normalise_view(site, &view, head)
        }),
        Some(ResourceType::Condition) => view::condition(resource).map(|mut view| {
            references.resolve_subject(&mut view.subject);
            condition::normalise_view(site, &view, head)
        }),
        Some(ResourceType::AdverseEvent) => view::adverse_event(resource).map(|mut view| {
            references.resolve_subject(&mut view.subject);
            let suspects = view.suspect_entity.iter_mut().flat_map(|suspect| suspect.instance.iter_mut().chain(&mut suspect.instance_reference));
            view.study.iter_mut().chain(suspects).for_each(|other| references.resolve(other));
            adverse_event::normalise_view(site, &view, head)
        }),
        Some(ResourceType::ResearchSubject) => view::research_subject(resource).map(|mut view| {
            references.resolve_subject(&mut view.individual);
            references.resolve_subject(&mut view.subject);
            view.study.iter_mut().for_each(|study| references.resolve(study));
            research_subject::normalise_view(site, &view, head)
        }),
        Some(ResourceType::MedicationAdministration) => view::medication_administration(resource).map(|mut view| {
            references.resolve_subject(&mut view.subject);
            view.medication_reference.iter_mut().for_each(|medication| references.resolve(medication));
            administration::of_medication(site, &view, head)
        }),
        Some(ResourceType::Procedure) => view::procedure(resource).map(|mut view| {
            references.resolve_subject(&mut view.subject);
            administration::of_procedure(site, &view, head)
        }),
        Some(ResourceType::Encounter) => view::encounter(resource).map(|mut view| {
            references.resolve_subject(&mut view.subject);
            encounter::normalise_view(site, &view, head)
        }),
        Some(ResourceType::Decision) | None => return Normalised::out_of_scope(resource.resource_type.to_owned(), None, None),
    };
    read.unwrap_or_else(Normalised::rejected)
}

impl Normalised {
    fn rejected(issue: Issue) -> Normalised {
        Normalised { subject: None, fact: None, issues: vec![issue], disposition: Disposition::Rejected, code: None }
    }

    fn out_of_scope(code: String, subject: Option<&str>, fact: Option<Fact>) -> Normalised {
        Normalised { subject: subject.map(CompactString::from), fact, issues: Vec::new(), disposition: Disposition::OutOfScope, code: Some(code) }
    }

    fn echo(code: &str) -> Normalised {
        Normalised { subject: None, fact: None, issues: Vec::new(), disposition: Disposition::Echo, code: Some(code.to_owned()) }
    }

    /// The end of a resource that was read to its end: the worst issue decides.
    fn ended(subject: Option<&str>, fact: Option<Fact>, issues: Vec<Issue>, code: Option<String>) -> Normalised {
        let has = |effect| issues.iter().any(|issue: &Issue| issue.code.effect() == effect);
        let disposition = if has(Effect::Reject) {
            Disposition::Rejected
        } else if has(Effect::Quarantine) {
            Disposition::Quarantined
        } else {
            Disposition::Applied
        };
        let fact = if disposition == Disposition::Rejected { None } else { fact };
        Normalised { subject: subject.map(CompactString::from), fact, issues, disposition, code }
    }
}

/// A fact that says nothing but that this version exists: it retires the older ones of its id.
fn nothing(source: Source, status: Status, issued_ms: Option<i64>) -> Fact {
    Fact { source, key: None, status, issued_ms, body: Body::Nothing }
}
