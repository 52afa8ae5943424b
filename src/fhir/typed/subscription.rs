//! Subscription, to a search of R4 or in the shape of HL7's topic-based backport (1.1), and the backport's status of a
//! notification. Neither claims its profile in `meta.profile`: a validator that lacks the guide faults a claim that it
//! cannot look up.

use fhirbolt::model::r4::Resource;
use fhirbolt::model::r4::resources::{Parameters, ParametersParameter, ParametersParameterValue as Value, Subscription, SubscriptionChannel};
use fhirbolt::model::r4::types::{Code, CodeableConcept, Coding, Extension, ExtensionValue, Meta, Reference, String as FhirString};

use super::{BuildError, optional, parts, to_vec};

const BACKPORT: &str = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition";
/// HAPI FHIR's: R4 itself has no notification of a DELETE.
const SEND_DELETES: &str = "http://hapifhir.io/fhir/StructureDefinition/subscription-send-delete-messages";

fn extension(name: &str, value: ExtensionValue) -> Extension {
    Extension { url: format!("{BACKPORT}/{name}"), value: Some(value), ..Default::default() }
}

pub fn subscription(from: &parts::Subscription) -> Result<Vec<u8>, BuildError> {
    let filter = |text: &String| extension("backport-filter-criteria", ExtensionValue::String(text.as_str().into()));
    let seconds = |name: &str, seconds: Option<u32>| seconds.map(|seconds| extension(name, ExtensionValue::UnsignedInt(seconds.into())));
    let count = from.max_count.map(|count| extension("backport-max-count", ExtensionValue::PositiveInt(count.into())));
    let deletes = from.tells_deletes.then(|| Extension {
        url: SEND_DELETES.to_owned(),
        value: Some(ExtensionValue::Boolean(true.into())),
        ..Default::default()
    });
    let content = |content: &String| extension("backport-payload-content", ExtensionValue::Code(content.as_str().into()));
    let payload = |payload: &String| Code { extension: from.content.iter().map(content).collect(), ..Code::from(payload.as_str()) };
    let has_meta = from.version.is_some() || from.last_updated.is_some();
    to_vec(&Resource::Subscription(Box::new(Subscription {
        id: optional(&from.id),
        meta: has_meta
            .then(|| Box::new(Meta { version_id: optional(&from.version), last_updated: optional(&from.last_updated), ..Default::default() })),
        status: from.status.as_str().into(),
        end: optional(&from.end),
        reason: from.reason.as_str().into(),
        criteria: FhirString { extension: from.filters.iter().map(filter).collect(), ..from.criteria.as_str().into() },
        error: optional(&from.error),
        channel: SubscriptionChannel {
            extension: seconds("backport-heartbeat-period", from.heartbeat_s)
                .into_iter()
                .chain(seconds("backport-timeout", from.timeout_s))
                .chain(count)
                .chain(deletes)
                .collect(),
            r#type: "rest-hook".into(),
            endpoint: Some(from.endpoint.as_str().into()),
            payload: from.payload.as_ref().map(payload),
            header: from.headers.iter().map(|header| header.as_str().into()).collect(),
            ..Default::default()
        },
        ..Default::default()
    })))
}

fn parameter(name: &str, value: Value) -> ParametersParameter {
    ParametersParameter { name: name.into(), value: Some(value), ..Default::default() }
}

fn reference(address: &str) -> Value {
    Value::Reference(Box::new(Reference { reference: Some(address.into()), ..Default::default() }))
}

pub fn subscription_status(from: &parts::SubscriptionStatus) -> Result<Vec<u8>, BuildError> {
    // Numbers are texts here: R4 has no 64-bit integer.
    let text = |number: u64| Value::String(number.to_string().as_str().into());
    let event = |event: &parts::NotifiedEvent| ParametersParameter {
        name: "notification-event".into(),
        part: [
            Some(parameter("event-number", text(event.number))),
            Some(parameter("timestamp", Value::Instant(event.timestamp.as_str().into()))),
            event.focus.as_deref().map(|focus| parameter("focus", reference(focus))),
        ]
        .into_iter()
        .flatten()
        .collect(),
        ..Default::default()
    };
    let error = |code: &String| {
        let coding = Coding {
            system: Some("http://terminology.hl7.org/CodeSystem/subscription-error".into()),
            code: Some(code.as_str().into()),
            ..Default::default()
        };
        parameter("error", Value::CodeableConcept(Box::new(CodeableConcept { coding: vec![coding], ..Default::default() })))
    };
    let mut parameters = vec![
        parameter("subscription", reference(&from.subscription)),
        parameter("topic", Value::Canonical(from.topic.as_str().into())),
        parameter("status", Value::Code(from.status.as_str().into())),
        parameter("type", Value::Code(from.kind.as_str().into())),
        parameter("events-since-subscription-start", text(from.events_since_start)),
    ];
    parameters.extend(from.events.iter().map(event));
    parameters.extend(from.errors.iter().map(error));
    to_vec(&Resource::Parameters(Box::new(Parameters { id: Some(from.id.as_str().into()), parameter: parameters, ..Default::default() })))
}
