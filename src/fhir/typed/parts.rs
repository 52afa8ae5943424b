//! What a caller says about a resource: plain structs, no FHIR model. Dates, codes and ids are texts in FHIR's own
//! syntax; nothing here may be an empty string.

/// One code of one system.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Coding {
    pub system: String,
    pub code: String,
    pub display: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Concept {
    pub codings: Vec<Coding>,
    pub text: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Identifier {
    pub system: String,
    pub value: String,
}

/// An active Group of actual persons.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Group {
    pub id: Option<String>,
    pub identifiers: Vec<Identifier>,
    pub name: String,
    /// `Patient/id` of each.
    pub members: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct OutcomeIssue {
    /// `fatal`, `error`, `warning` or `information`.
    pub severity: String,
    /// R4 issue-type: `structure`, `value`, `not-found`, `conflict`, `throttled`, ...
    pub code: String,
    /// Our own issue code and a sentence.
    pub details: Option<Concept>,
    pub diagnostics: Option<String>,
    /// FHIRPath-like element paths.
    pub expression: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct BundleLink {
    pub relation: String,
    pub url: String,
}

/// One entry of a Bundle we answer with. Resources are complete JSON documents and go in byte for byte.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BundleEntry {
    pub full_url: Option<String>,
    pub resource: Option<Vec<u8>>,
    /// `match`, `include` or `outcome`; searchset only.
    pub search_mode: Option<String>,
    /// (method, address relative to the base); history only.
    pub request: Option<(String, String)>,
    pub response: Option<EntryResponse>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct EntryResponse {
    /// Begins with the three digits: `201 Created`.
    pub status: String,
    pub location: Option<String>,
    /// `W/"3"`.
    pub etag: Option<String>,
    pub last_modified: Option<String>,
    /// An OperationOutcome as a complete JSON document.
    pub outcome: Option<Vec<u8>>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bundle {
    pub id: Option<String>,
    /// `searchset`, `batch-response`, `transaction-response`, `collection`, ...
    pub kind: String,
    /// FHIR instant.
    pub timestamp: Option<String>,
    /// Number of matches on all pages; searchset and history only.
    pub total: Option<u32>,
    pub link: Vec<BundleLink>,
    pub entry: Vec<BundleEntry>,
}

/// The header of a message that answers another one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MessageAnswer {
    pub id: String,
    /// The event of the message that is answered.
    pub event: Event,
    /// Where the answer goes: the endpoint that the other message came from.
    pub destination: Option<String>,
    pub source_name: String,
    pub source: String,
    /// `MessageHeader.id` of the message that is answered.
    pub answers: String,
    /// `ok`, `transient-error` or `fatal-error`.
    pub code: String,
    /// Reference to the OperationOutcome beside it.
    pub outcome: String,
}

/// What a message is about.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    Coding { system: Option<String>, code: String },
    Uri(String),
}

impl Default for Event {
    fn default() -> Event {
        Event::Uri(String::new())
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct SearchParameter {
    pub name: String,
    /// `token`, `reference`, `date`, `string`, ...
    pub kind: String,
    pub documentation: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Operation {
    pub name: String,
    /// Canonical address of its OperationDefinition.
    pub definition: String,
    pub documentation: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServedResource {
    pub resource_type: String,
    /// `read`, `create`, `update`, `delete`, `search-type`, ...
    pub interactions: Vec<String>,
    pub documentation: Option<String>,
    pub search_parameters: Vec<SearchParameter>,
    pub operations: Vec<Operation>,
    /// Canonical addresses of the profiles it keeps to.
    pub supported_profiles: Vec<String>,
    /// Canonical addresses of topics that can be subscribed to.
    pub topics: Vec<String>,
    /// `versioned`, where versions are kept.
    pub versioning: Option<String>,
}

/// What our own FHIR endpoint can do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CapabilityStatement {
    /// FHIR dateTime of this statement.
    pub date: String,
    pub software_name: String,
    pub software_version: String,
    pub description: String,
    /// Base address of this endpoint.
    pub url: String,
    pub security_description: Option<String>,
    pub resources: Vec<ServedResource>,
    /// `batch`, `transaction`.
    pub interactions: Vec<String>,
    pub operations: Vec<Operation>,
    pub messaging: Option<Messaging>,
}

/// How our own endpoint takes messages.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Messaging {
    /// Full address of `$process-message`.
    pub address: String,
    pub documentation: String,
}

/// A Subscription of R4: to a topic in the shape of HL7's backport, or to a search.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Subscription {
    pub id: Option<String>,
    pub version: Option<String>,
    /// FHIR instant.
    pub last_updated: Option<String>,
    /// R4 subscription-status.
    pub status: String,
    pub end: Option<String>,
    pub reason: String,
    /// Canonical address of a topic, or a search such as `Observation?category=laboratory`.
    pub criteria: String,
    pub filters: Vec<String>,
    pub error: Option<String>,
    pub endpoint: String,
    /// `application/fhir+json`; `None`: notifications have no body.
    pub payload: Option<String>,
    /// What the backport's notifications hold: `empty`, `id-only`, `full-resource`.
    pub content: Option<String>,
    pub heartbeat_s: Option<u32>,
    pub timeout_s: Option<u32>,
    pub max_count: Option<u32>,
    /// `Name: value`.
    pub headers: Vec<String>,
    /// HAPI FHIR's extension: a DELETE is told as one.
    pub tells_deletes: bool,
}

/// What a notification says of its subscription: R5's SubscriptionStatus as the backport's Parameters.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SubscriptionStatus {
    pub id: String,
    /// Full address of the Subscription.
    pub subscription: String,
    pub topic: String,
    pub status: String,
    /// `handshake`, `heartbeat`, `event-notification`, `query-status`, `query-event`.
    pub kind: String,
    pub events_since_start: u64,
    pub events: Vec<NotifiedEvent>,
    /// Codes of http://terminology.hl7.org/CodeSystem/subscription-error.
    pub errors: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct NotifiedEvent {
    pub number: u64,
    /// FHIR instant.
    pub timestamp: String,
    /// Full address of what changed; `None` where the content is empty.
    pub focus: Option<String>,
}
