//! Who looked at what: AuditEvents in the manner of the IHE Basic Audit Log Patterns (BALP 1.1), as the server records them.

use fhirbolt::model::r4::Resource;
use fhirbolt::model::r4::resources::{AuditEvent, AuditEventAgent, AuditEventAgentNetwork, AuditEventEntity, AuditEventSource};
use fhirbolt::model::r4::types::{CodeableConcept, Coding, Identifier, Reference};

use super::base64::base64;
use super::{Target, coding, concept, reference, text};

const DICOM: &str = "http://dicom.nema.org/resources/ontology/DCM";
const ENTITY_TYPE: &str = "http://terminology.hl7.org/CodeSystem/audit-entity-type";
const OBJECT_ROLE: &str = "http://terminology.hl7.org/CodeSystem/object-role";

/// What was done, in the words of REST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interaction {
    Read,
    Search,
    Create,
    Update,
    Delete,
}

/// One access to data about a person. Nothing here may be an empty string.
#[derive(Clone, Copy, Debug)]
pub struct Audit<'a> {
    pub id: Option<&'a str>,
    pub is_test: bool,
    pub interaction: Interaction,
    /// FHIR instant.
    pub recorded: &'a str,
    /// Why it failed, in words; `None` when it succeeded.
    pub failure: Option<&'a str>,
    /// Name of the person who asked; `None` where a system did.
    pub person: Option<&'a str>,
    /// Name of the client, such as the feed or the application of the token.
    pub client: &'a str,
    /// Its address, where the connection tells.
    pub client_address: Option<&'a str>,
    /// Base address of this gateway.
    pub server: &'a str,
    /// `Patient/id` of whom the data is about.
    pub patient: Option<&'a str>,
    /// What was read or written, such as `Flag/id` or `Flag/id/_history/2`; for a search nothing.
    pub resource: Option<&'a str>,
    /// The search as it was asked.
    pub query: Option<&'a str>,
    /// Id of the study for which it was asked.
    pub study: Option<&'a str>,
    /// Value of X-Request-Id.
    pub request: Option<&'a str>,
}

pub fn audit_event(of: Audit<'_>) -> String {
    let (action, subtype) = match of.interaction {
        Interaction::Read => ("R", "read"),
        Interaction::Search => ("E", "search-type"),
        Interaction::Create => ("C", "create"),
        Interaction::Update => ("U", "update"),
        Interaction::Delete => ("D", "delete"),
    };
    // IHE follows the data: it flows to whoever reads; what asks or writes is its source.
    let (client_role, server_role) = match of.interaction {
        Interaction::Read => ("110152", "110153"),
        Interaction::Search | Interaction::Create | Interaction::Update | Interaction::Delete => ("110153", "110152"),
    };
    let network =
        |address: &str, kind: &str| AuditEventAgentNetwork { address: Some(address.into()), r#type: Some(kind.into()), ..Default::default() };
    let mut agent = vec![
        AuditEventAgent {
            r#type: Some(Box::new(concept(DICOM, client_role))),
            who: Some(named(of.client)),
            requestor: of.person.is_none().into(),
            network: of.client_address.map(|address| network(address, "2")),
            ..Default::default()
        },
        AuditEventAgent {
            r#type: Some(Box::new(concept(DICOM, server_role))),
            who: Some(named(of.server)),
            requestor: false.into(),
            network: Some(network(of.server, "5")),
            ..Default::default()
        },
    ];
    agent.extend(of.person.map(|person| AuditEventAgent {
        r#type: Some(Box::new(concept("http://terminology.hl7.org/CodeSystem/v3-ParticipationType", "IRCP"))),
        who: Some(named(person)),
        name: Some(person.into()),
        requestor: true.into(),
        purpose_of_use: vec![research()],
        ..Default::default()
    }));
    text(Resource::AuditEvent(Box::new(AuditEvent {
        id: of.id.map(Into::into),
        meta: super::meta(super::Identity { id: None, identifiers: &[], is_test: of.is_test }),
        r#type: Box::new(coding("http://terminology.hl7.org/CodeSystem/audit-event-type", "rest")),
        subtype: vec![coding("http://hl7.org/fhir/restful-interaction", subtype)],
        action: Some(action.into()),
        recorded: of.recorded.into(),
        outcome: Some(if of.failure.is_some() { "4" } else { "0" }.into()),
        outcome_desc: of.failure.map(Into::into),
        purpose_of_event: vec![research()],
        agent,
        source: AuditEventSource {
            observer: named(of.server),
            r#type: vec![coding("http://terminology.hl7.org/CodeSystem/security-source-type", "4")],
            ..Default::default()
        },
        entity: entities(of),
        ..Default::default()
    })))
}

fn entities(of: Audit<'_>) -> Vec<AuditEventEntity> {
    let entity = |kind: Coding, role: Option<&str>| AuditEventEntity {
        r#type: Some(Box::new(kind)),
        role: role.map(|role| Box::new(coding(OBJECT_ROLE, role))),
        ..Default::default()
    };
    let (person, object) = (|| coding(ENTITY_TYPE, "1"), || coding(ENTITY_TYPE, "2"));
    let mut all = Vec::new();
    all.extend(of.patient.map(|patient| AuditEventEntity { what: Some(reference(Target::Literal(patient))), ..entity(person(), Some("1")) }));
    all.extend(of.resource.map(|resource| AuditEventEntity { what: Some(reference(Target::Literal(resource))), ..entity(object(), Some("4")) }));
    all.extend(of.query.map(|query| AuditEventEntity { query: Some(base64(query.as_bytes()).into()), ..entity(object(), Some("24")) }));
    // Type "Other": neither the data nor the search, but what it was asked for.
    all.extend(of.study.map(|study| AuditEventEntity { what: Some(of_study(study)), ..entity(coding(ENTITY_TYPE, "4"), Some("20")) }));
    all.extend(of.request.map(|request| AuditEventEntity {
        what: Some(Box::new(Reference {
            identifier: Some(Box::new(Identifier { value: Some(request.into()), ..Default::default() })),
            ..Default::default()
        })),
        ..entity(coding("https://profiles.ihe.net/ITI/BALP/CodeSystem/BasicAuditEntityType", "XrequestId"), None)
    }));
    all
}

fn named(name: &str) -> Box<Reference> {
    Box::new(Reference { display: Some(name.into()), ..Default::default() })
}

fn of_study(study: &str) -> Box<Reference> {
    reference(Target::Display("ResearchStudy", study))
}

/// Healthcare research.
fn research() -> CodeableConcept {
    concept("http://terminology.hl7.org/CodeSystem/v3-ActReason", "HRESCH")
}
