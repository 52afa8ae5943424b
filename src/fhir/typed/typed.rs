//! fhirbolt behind plain functions: parts in, JSON bytes out. The typed R4 model guarantees element names and choice
//! types and refuses what lacks a required element. Its generics are instantiated here and nowhere else, since the
//! model is dear to compile.

#[cfg(feature = "strict")]
pub mod strict;

pub mod parts;
pub mod study_flagged;
mod subscription;

use std::fmt;

use fhirbolt::model::r4::Resource;
use fhirbolt::model::r4::resources as r4;
use fhirbolt::model::r4::types;

use parts::Concept;

pub use subscription::{subscription, subscription_status};

/// A required element is missing; the text names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildError(pub String);

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot build the resource: {}", self.0)
    }
}

impl std::error::Error for BuildError {}

pub fn group(group: &parts::Group) -> Result<Vec<u8>, BuildError> {
    let identifier = |identifier: &parts::Identifier| types::Identifier {
        system: Some(identifier.system.as_str().into()),
        value: Some(identifier.value.as_str().into()),
        ..Default::default()
    };
    let member = |patient: &String| r4::GroupMember {
        entity: Box::new(types::Reference { reference: Some(patient.as_str().into()), ..Default::default() }),
        ..Default::default()
    };
    to_vec(&Resource::Group(Box::new(r4::Group {
        id: optional(&group.id),
        identifier: group.identifiers.iter().map(identifier).collect(),
        active: Some(true.into()),
        r#type: "person".into(),
        actual: true.into(),
        name: Some(group.name.as_str().into()),
        quantity: u32::try_from(group.members.len()).ok().map(types::UnsignedInt::from),
        member: group.members.iter().map(member).collect(),
        ..Default::default()
    })))
}

pub fn operation_outcome(issues: &[parts::OutcomeIssue]) -> Result<Vec<u8>, BuildError> {
    to_vec(&Resource::OperationOutcome(Box::new(r4::OperationOutcome {
        issue: issues
            .iter()
            .map(|issue| r4::OperationOutcomeIssue {
                severity: issue.severity.as_str().into(),
                code: issue.code.as_str().into(),
                details: boxed(&issue.details),
                diagnostics: optional(&issue.diagnostics),
                expression: issue.expression.iter().map(|path| path.as_str().into()).collect(),
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    })))
}

/// Builds the Bundle typed, with a placeholder for each resource, then puts the resources in byte for byte: mirrored
/// resources must not change by a digit.
pub fn bundle(bundle: &parts::Bundle) -> Result<Vec<u8>, BuildError> {
    let placeholder = Resource::Basic(Box::new(r4::Basic {
        id: Some("placeholder".into()),
        code: Box::new(types::CodeableConcept { text: Some("placeholder".into()), ..Default::default() }),
        ..Default::default()
    }));
    let mut documents: Vec<&[u8]> = Vec::new();
    let mut entries = Vec::with_capacity(bundle.entry.len());
    for entry in &bundle.entry {
        // In the order in which the two stand in a serialised entry.
        documents.extend(entry.resource.as_deref());
        documents.extend(entry.response.as_ref().and_then(|response| response.outcome.as_deref()));
        entries.push(r4::BundleEntry {
            full_url: optional(&entry.full_url),
            resource: entry.resource.as_ref().map(|_| placeholder.clone()),
            request: entry.request.as_ref().map(|(method, url)| r4::BundleEntryRequest {
                method: method.as_str().into(),
                url: url.as_str().into(),
                ..Default::default()
            }),
            search: entry.search_mode.as_deref().map(|mode| r4::BundleEntrySearch { mode: Some(mode.into()), ..Default::default() }),
            response: entry.response.as_ref().map(|response| r4::BundleEntryResponse {
                status: response.status.as_str().into(),
                location: optional(&response.location),
                etag: optional(&response.etag),
                last_modified: optional(&response.last_modified),
                outcome: response.outcome.as_ref().map(|_| placeholder.clone()),
                ..Default::default()
            }),
            ..Default::default()
        });
    }
    let envelope = to_vec(&Resource::Bundle(Box::new(r4::Bundle {
        id: optional(&bundle.id),
        r#type: bundle.kind.as_str().into(),
        timestamp: optional(&bundle.timestamp),
        total: bundle.total.map(types::UnsignedInt::from),
        link: bundle
            .link
            .iter()
            .map(|link| r4::BundleLink { relation: link.relation.as_str().into(), url: link.url.as_str().into(), ..Default::default() })
            .collect(),
        entry: entries,
        ..Default::default()
    })))?;
    // Within a JSON string every quote is escaped, so the placeholder's text occurs only where a placeholder stands.
    let envelope = String::from_utf8(envelope).expect("serde_json writes UTF-8");
    let placeholder = String::from_utf8(to_vec(&placeholder)?).expect("serde_json writes UTF-8");
    let mut bytes = Vec::with_capacity(envelope.len() + documents.iter().map(|document| document.len()).sum::<usize>());
    let mut documents = documents.into_iter();
    for (index, between) in envelope.split(&placeholder).enumerate() {
        if index > 0 {
            bytes.extend_from_slice(documents.next().expect("there are as many placeholders as documents"));
        }
        bytes.extend_from_slice(between.as_bytes());
    }
    assert!(documents.next().is_none(), "there are as many placeholders as documents");
    Ok(bytes)
}

pub fn message_answer(answer: &parts::MessageAnswer) -> Result<Vec<u8>, BuildError> {
    let event = match &answer.event {
        parts::Event::Coding { system, code } => r4::MessageHeaderEvent::Coding(Box::new(types::Coding {
            system: optional(system),
            code: Some(code.as_str().into()),
            ..Default::default()
        })),
        parts::Event::Uri(uri) => r4::MessageHeaderEvent::Uri(uri.as_str().into()),
    };
    let destination = |endpoint: &String| r4::MessageHeaderDestination { endpoint: endpoint.as_str().into(), ..Default::default() };
    to_vec(&Resource::MessageHeader(Box::new(r4::MessageHeader {
        id: Some(answer.id.as_str().into()),
        event,
        destination: answer.destination.iter().map(destination).collect(),
        source: r4::MessageHeaderSource {
            name: Some(answer.source_name.as_str().into()),
            endpoint: answer.source.as_str().into(),
            ..Default::default()
        },
        response: Some(r4::MessageHeaderResponse {
            identifier: answer.answers.as_str().into(),
            code: answer.code.as_str().into(),
            details: Some(Box::new(types::Reference { reference: Some(answer.outcome.as_str().into()), ..Default::default() })),
            ..Default::default()
        }),
        ..Default::default()
    })))
}

pub fn capability_statement(statement: &parts::CapabilityStatement) -> Result<Vec<u8>, BuildError> {
    let operations = |operations: &[parts::Operation]| -> Vec<r4::CapabilityStatementRestResourceOperation> {
        let operation = |operation: &parts::Operation| r4::CapabilityStatementRestResourceOperation {
            name: operation.name.as_str().into(),
            definition: operation.definition.as_str().into(),
            documentation: optional(&operation.documentation),
            ..Default::default()
        };
        operations.iter().map(operation).collect()
    };
    let resource = |resource: &parts::ServedResource| r4::CapabilityStatementRestResource {
        r#type: resource.resource_type.as_str().into(),
        documentation: optional(&resource.documentation),
        interaction: resource
            .interactions
            .iter()
            .map(|code| r4::CapabilityStatementRestResourceInteraction { code: code.as_str().into(), ..Default::default() })
            .collect(),
        search_param: resource
            .search_parameters
            .iter()
            .map(|parameter| r4::CapabilityStatementRestResourceSearchParam {
                name: parameter.name.as_str().into(),
                r#type: parameter.kind.as_str().into(),
                documentation: optional(&parameter.documentation),
                ..Default::default()
            })
            .collect(),
        operation: operations(&resource.operations),
        supported_profile: resource.supported_profiles.iter().map(|profile| profile.as_str().into()).collect(),
        versioning: optional(&resource.versioning),
        extension: resource
            .topics
            .iter()
            .map(|topic| types::Extension {
                url: "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/capabilitystatement-subscriptiontopic-canonical".into(),
                value: Some(types::ExtensionValue::Canonical(topic.as_str().into())),
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    };
    to_vec(&Resource::CapabilityStatement(Box::new(r4::CapabilityStatement {
        status: "active".into(),
        date: statement.date.as_str().into(),
        kind: "instance".into(),
        software: Some(r4::CapabilityStatementSoftware {
            name: statement.software_name.as_str().into(),
            version: Some(statement.software_version.as_str().into()),
            ..Default::default()
        }),
        implementation: Some(r4::CapabilityStatementImplementation {
            description: statement.description.as_str().into(),
            url: Some(statement.url.as_str().into()),
            ..Default::default()
        }),
        fhir_version: "4.0.1".into(),
        format: vec!["application/fhir+json".into(), "json".into()],
        rest: vec![r4::CapabilityStatementRest {
            mode: "server".into(),
            security: statement
                .security_description
                .as_deref()
                .map(|description| r4::CapabilityStatementRestSecurity { description: Some(description.into()), ..Default::default() }),
            resource: statement.resources.iter().map(resource).collect(),
            interaction: statement
                .interactions
                .iter()
                .map(|code| r4::CapabilityStatementRestInteraction { code: code.as_str().into(), ..Default::default() })
                .collect(),
            operation: operations(&statement.operations),
            ..Default::default()
        }],
        messaging: statement.messaging.iter().map(messaging).collect(),
        ..Default::default()
    })))
}

fn messaging(messaging: &parts::Messaging) -> r4::CapabilityStatementMessaging {
    r4::CapabilityStatementMessaging {
        endpoint: vec![r4::CapabilityStatementMessagingEndpoint {
            protocol: Box::new(types::Coding {
                system: Some("http://terminology.hl7.org/CodeSystem/message-transport".into()),
                code: Some("http".into()),
                ..Default::default()
            }),
            address: messaging.address.as_str().into(),
            ..Default::default()
        }],
        documentation: Some(messaging.documentation.as_str().into()),
        ..Default::default()
    }
}

fn to_vec(resource: &Resource) -> Result<Vec<u8>, BuildError> {
    fhirbolt::json::to_vec(resource, None).map_err(|error| BuildError(error.to_string()))
}

fn optional<'a, T: From<&'a str>>(text: &'a Option<String>) -> Option<T> {
    text.as_deref().map(T::from)
}

fn coding(coding: &parts::Coding) -> types::Coding {
    types::Coding {
        system: Some(coding.system.as_str().into()),
        code: Some(coding.code.as_str().into()),
        display: optional(&coding.display),
        ..Default::default()
    }
}

fn concept(concept: &Concept) -> types::CodeableConcept {
    types::CodeableConcept { coding: concept.codings.iter().map(coding).collect(), text: optional(&concept.text), ..Default::default() }
}

fn boxed(from: &Option<Concept>) -> Option<Box<types::CodeableConcept>> {
    from.as_ref().map(|from| Box::new(concept(from)))
}
