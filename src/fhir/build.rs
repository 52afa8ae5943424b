//! What our own endpoint answers, built typed: parts in, complete JSON out. With `study_flagged` the only way to the FHIR
//! model; what leaves here has passed our own gate, so nothing we send is empty, null or said twice.

use nephrogate_fhir_typed as typed;
pub use nephrogate_fhir_typed::{BuildError, parts};

use super::RawResource;

/// A list of actual persons, such as the candidates of a study.
pub fn group(group: &parts::Group) -> Result<Vec<u8>, BuildError> {
    checked(typed::group(group)?)
}

/// The answer to what was refused, or taken with a warning.
pub fn operation_outcome(issues: &[parts::OutcomeIssue]) -> Result<Vec<u8>, BuildError> {
    if issues.is_empty() {
        return Err(BuildError("an OperationOutcome names at least one issue".into()));
    }
    checked(typed::operation_outcome(issues)?)
}

/// The header of a message that answers another one.
pub fn message_answer(answer: &parts::MessageAnswer) -> Result<Vec<u8>, BuildError> {
    checked(typed::message_answer(answer)?)
}

/// What our own endpoint can do.
pub fn capability_statement(statement: &parts::CapabilityStatement) -> Result<Vec<u8>, BuildError> {
    checked(typed::capability_statement(statement)?)
}

/// A Subscription: as ours to our topic are shown, and as we ask a source for one.
pub fn subscription(subscription: &parts::Subscription) -> Result<Vec<u8>, BuildError> {
    checked(typed::subscription(subscription)?)
}

/// The first entry of each notification.
pub fn subscription_status(status: &parts::SubscriptionStatus) -> Result<Vec<u8>, BuildError> {
    checked(typed::subscription_status(status)?)
}

/// An answer of many resources (`searchset`, `batch-response`, `transaction-response`). The resources go in byte for
/// byte and have passed the gate alone; the envelope is not passed through it, since mirrored resources may be as deep
/// as the gate allows.
pub fn bundle(bundle: &parts::Bundle) -> Result<Vec<u8>, BuildError> {
    typed::bundle(bundle)
}

/// Refuses what our own gate would refuse of others: an empty string in the parts, an id that is none.
fn checked(bytes: Vec<u8>) -> Result<Vec<u8>, BuildError> {
    match RawResource::parse(&bytes) {
        Ok(_) => Ok(bytes),
        Err(issue) => Err(BuildError(issue.to_string())),
    }
}
