//! The CapabilityStatement of one site's FHIR door: exactly what is served, nothing more.

use crate::fhir::build::parts::{CapabilityStatement, Messaging, Operation, SearchParameter, ServedResource};
use crate::fhir::build::{self, BuildError};
use crate::fhir::subscription::TOPIC;

/// The day on which what is served last changed.
const DATE: &str = "2026-11-26";

const PUSHED: &[&str] = &["read", "search-type", "create", "update", "delete"];
const SHOWN: &[&str] = &["read", "search-type"];
const VERSIONED: &[&str] = &["read", "vread", "search-type", "create", "update", "delete", "history-instance", "history-type"];
const SEARCHED: &[&str] = &["search-type"];
const BACKPORT: &str = "http://hl7.org/fhir/uv/subscriptions-backport";

const MESSAGING: &str = "A message of any event: each resource in it is taken as it stands, whatever the event says; a repeated message gives \
                         duplicates. The answer is ok when nothing was rejected, fatal-error when something was or when the event asks for more than \
                         taking resources (patient-link, patient-unlink, valueset-expand), transient-error when the same message should come again.";

/// Type, what it is here, interactions, search parameters.
type Served = (&'static str, &'static str, &'static [&'static str], &'static [(&'static str, &'static str)]);

const SERVED: &[Served] = &[
    ("Patient", "As received.", PUSHED, &[("_id", "token")]),
    (
        "Observation",
        "As received: results are the source's.",
        PUSHED,
        &[("patient", "reference"), ("subject", "reference"), ("code", "token"), ("_id", "token")],
    ),
    ("Condition", "As received.", PUSHED, &[("patient", "reference"), ("subject", "reference"), ("code", "token"), ("_id", "token")]),
    ("AdverseEvent", "As received, in the shape of R4 or of R5.", PUSHED, &[("subject", "reference"), ("_id", "token")]),
    (
        "MedicationAdministration",
        "As received: doses of the trials' products; any other is counted and not kept.",
        PUSHED,
        &[("patient", "reference"), ("subject", "reference"), ("_id", "token")],
    ),
    (
        "Procedure",
        "As received: doses of the trials' products; any other is counted and not kept.",
        PUSHED,
        &[("patient", "reference"), ("subject", "reference"), ("code", "token"), ("_id", "token")],
    ),
    (
        "Encounter",
        "As received: the classes that this site takes; any other is counted and not kept.",
        PUSHED,
        &[("patient", "reference"), ("subject", "reference"), ("_id", "token")],
    ),
    ("ResearchStudy", "The studies screened at this site.", SHOWN, &[("_id", "token")]),
    (
        "ResearchSubject",
        "Our view of where each subject stands; nobody who must not appear is here. What is pushed, in the shape of R4 or of R5, is the hospital's \
         word, and is read by its id. An EHR's token sees what may be written there, no more; versions are those of each view.",
        VERSIONED,
        &[
            ("study", "reference"),
            ("status", "token"),
            ("patient", "reference"),
            ("individual", "reference"),
            ("_id", "token"),
            ("_lastUpdated", "date"),
        ],
    ),
    (
        "Subscription",
        "To the topic that is named here, by rest-hook; filters study and status of ResearchSubject. Header values are never shown.",
        PUSHED,
        &[("_id", "token"), ("status", "token"), ("url", "uri"), ("criteria", "string")],
    ),
    ("Provenance", "Why a ResearchSubject is there, or what we wrote to the EHR.", SEARCHED, &[("target", "reference")]),
    (
        "AuditEvent",
        "Who looked at whom, and what was sent where; for admins.",
        SEARCHED,
        &[("date", "date"), ("patient", "reference"), ("agent", "string")],
    ),
    ("Group", "[study]-prescreen: everybody whose prescreen is met.", &["read"], &[]),
];

/// The statement of the door at `url`.
pub fn statement(url: &str) -> Result<Vec<u8>, BuildError> {
    build::capability_statement(&CapabilityStatement {
        date: DATE.to_owned(),
        software_name: "nephrogate".to_owned(),
        software_version: env!("CARGO_PKG_VERSION").to_owned(),
        description: "FHIR gateway between this hospital and its kidney trials. It mirrors: ids and versions are the source's; other types may be \
                      sent, are counted and not kept; a search parameter that is not listed is an error."
            .to_owned(),
        url: url.to_owned(),
        security_description: Some(
            "Bearer tokens with a role: feed pushes, ehr reads what may be told and subscribes, screener reads, admin does all.".to_owned(),
        ),
        resources: SERVED.iter().map(served).collect(),
        interactions: vec!["batch".to_owned(), "transaction".to_owned()],
        operations: vec![
            Operation {
                name: "ingest".to_owned(),
                definition: "urn:nephrogate:operation:ingest".to_owned(),
                documentation: Some(
                    "POST $ingest: each entry of a collection, searchset, history, message or document Bundle, or each line of NDJSON, is taken on its \
                     own."
                    .to_owned(),
                ),
            },
            Operation {
                name: "process-message".to_owned(),
                definition: "http://hl7.org/fhir/OperationDefinition/MessageHeader-process-message".to_owned(),
                documentation: Some("POST $process-message: answered at once; neither async nor response-url is served.".to_owned()),
            },
        ],
        messaging: Some(Messaging { address: format!("{url}/$process-message"), documentation: MESSAGING.to_owned() }),
    })
}

fn served((resource_type, documentation, interactions, parameters): &Served) -> ServedResource {
    let parameter = |(name, kind): &(&str, &str)| SearchParameter { name: (*name).to_owned(), kind: (*kind).to_owned(), documentation: None };
    let operation = |name: &str| Operation {
        name: name.to_owned(),
        definition: format!("{BACKPORT}/OperationDefinition/backport-subscription-{name}"),
        documentation: None,
    };
    let is_topical = *resource_type == "Subscription";
    ServedResource {
        resource_type: (*resource_type).to_owned(),
        interactions: interactions.iter().map(|code| (*code).to_owned()).collect(),
        documentation: Some((*documentation).to_owned()),
        search_parameters: parameters.iter().map(parameter).collect(),
        operations: if is_topical { vec![operation("status"), operation("events")] } else { Vec::new() },
        supported_profiles: if is_topical { vec![format!("{BACKPORT}/StructureDefinition/backport-subscription")] } else { Vec::new() },
        topics: if is_topical { vec![TOPIC.to_owned()] } else { Vec::new() },
        versioning: (*resource_type == "ResearchSubject").then(|| "versioned".to_owned()),
    }
}
