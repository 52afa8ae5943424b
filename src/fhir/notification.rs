//! What a source sends to say that something changed there: R4 rest-hooks with and without the resource, and the notification
//! Bundles of topic-based subscriptions as HL7's backport for R4 and R4B (1.1) and R5 write them.
//!
//! A notification is a hint. Only what it is about is read, as leniently as can be done without guessing, and nothing of what
//! it holds becomes a fact; so it does not meet the gate, which the resource meets when it is read at its source.

pub mod numbers;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::bundle::{EntryView, EnvelopeView};
use super::view::Text;
use super::{is_id, is_type, without_bom};
use crate::clinical::date::PartialDate;
use crate::issue::{Code, Issue};

/// What a notification is: the notification types of R5 and of the backport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Handshake,
    Heartbeat,
    EventNotification,
    QueryStatus,
    QueryEvent,
}

impl Kind {
    pub const ALL: [Kind; 5] = [Kind::Handshake, Kind::Heartbeat, Kind::EventNotification, Kind::QueryStatus, Kind::QueryEvent];

    pub const fn word(self) -> &'static str {
        match self {
            Kind::Handshake => "handshake",
            Kind::Heartbeat => "heartbeat",
            Kind::EventNotification => "event-notification",
            Kind::QueryStatus => "query-status",
            Kind::QueryEvent => "query-event",
        }
    }

    fn from_word(word: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.word() == word)
    }

    /// Whether it is an answer to a question of ours.
    pub const fn was_asked_for(self) -> bool {
        match self {
            Kind::QueryStatus | Kind::QueryEvent => true,
            Kind::Handshake | Kind::Heartbeat | Kind::EventNotification => false,
        }
    }

    const fn has_events(self) -> bool {
        match self {
            Kind::EventNotification | Kind::QueryEvent => true,
            Kind::Handshake | Kind::Heartbeat | Kind::QueryStatus => false,
        }
    }
}

/// One notification, whatever it was written in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    pub kind: Kind,
    /// Id of the Subscription at the source; a rest-hook of R4 does not say it.
    pub subscription: Option<String>,
    /// Canonical address of the topic.
    pub topic: Option<String>,
    /// Events of the subscription so far, those of this notification included.
    pub events_since_start: Option<u64>,
    /// Without any where it is no event.
    pub events: Vec<Event>,
    /// The source says that the subscription is off or in error.
    pub is_in_trouble: bool,
}

/// One thing that happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// Its number among the events of its subscription, from 1.
    pub number: Option<u64>,
    /// ms since 1970 UTC.
    pub at_ms: Option<i64>,
    /// What changed; `None`: something.
    pub focus: Option<Focus>,
}

/// A resource at the source.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Focus {
    pub resource_type: String,
    pub id: String,
}

impl Focus {
    /// From `Type/id`, with or without a base before it and a version behind it; `None` for every other reference.
    pub fn of_reference(reference: &str) -> Option<Focus> {
        let path = reference.split_once("/_history/").map_or(reference, |(path, _)| path);
        let mut parts = path.rsplit('/');
        let (id, resource_type) = (parts.next()?, parts.next()?);
        (is_id(id) && is_type(resource_type)).then(|| Focus { resource_type: resource_type.to_owned(), id: id.to_owned() })
    }
}

impl Notification {
    /// A rest-hook of R4: something happened, and perhaps to what.
    fn hook(foci: Vec<Option<Focus>>) -> Notification {
        Notification {
            kind: Kind::EventNotification,
            subscription: None,
            topic: None,
            events_since_start: None,
            events: foci.into_iter().map(|focus| Event { focus, ..Event::default() }).collect(),
            is_in_trouble: false,
        }
    }

    /// A rest-hook whose address says what it is about.
    pub fn of_address(focus: Focus) -> Notification {
        Notification::hook(vec![Some(focus)])
    }
}

/// Most events of one notification: a source that has more sends another.
const EVENTS_MAX: usize = 10_000;

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow, rename = "resourceType")]
    resource_type: Option<Text<'a>>,
    #[serde(borrow)]
    id: Option<Text<'a>>,
}

/// The type and id of a document, as far as it has any; an error where it is not one JSON object.
pub fn head(bytes: &[u8]) -> Result<(Option<String>, Option<String>), Issue> {
    let text = std::str::from_utf8(without_bom(bytes)).map_err(|_| Issue::new(Code::NotUtf8, ""))?;
    let head: Head<'_> = serde_json::from_str(text).map_err(|_| Issue::new(Code::NotJson, ""))?;
    Ok((head.resource_type.map(|text| text.0.into_owned()), head.id.map(|text| text.0.into_owned())))
}

/// Reads a body as it was sent to the endpoint; an empty one says that something happened.
pub fn read(bytes: &[u8]) -> Result<Notification, Issue> {
    let bytes = without_bom(bytes);
    if bytes.trim_ascii().is_empty() {
        return Ok(Notification::hook(vec![None]));
    }
    let (resource_type, id) = head(bytes)?;
    let resource_type = resource_type.filter(|word| is_type(word)).ok_or_else(|| Issue::new(Code::WrongResourceType, "resourceType"))?;
    if resource_type != "Bundle" {
        let id = id.filter(|id| is_id(id)).ok_or_else(|| Issue::new(Code::InvalidId, format!("{resource_type}.id")))?;
        return Ok(Notification::of_address(Focus { resource_type, id }));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| Issue::new(Code::NotUtf8, ""))?;
    let envelope: EnvelopeView<'_> = serde_json::from_str(text).map_err(|_| Issue::new(Code::InvalidBundle, "Bundle"))?;
    if envelope.entry.is_too_many {
        return Err(Issue::new(Code::InvalidBundle, "Bundle.entry").with_detail("too many entries"));
    }
    match envelope.kind.as_deref() {
        // R4 and R4B by the backport, and R5's own.
        Some("history" | "subscription-notification") => read_topic_based(&envelope),
        // HAPI FHIR sends a transaction where the Subscription asks for more than what changed.
        Some("transaction" | "batch" | "collection") => {
            let foci = foci(&envelope.entry.kept);
            Ok(Notification::hook(if foci.is_empty() { vec![None] } else { foci.into_iter().map(Some).collect() }))
        }
        Some(_) | None => Err(Issue::new(Code::InvalidBundle, "Bundle.type")),
    }
}

/// What `$status` answered: the state of one subscription in a searchset.
pub fn read_status(bytes: &[u8]) -> Result<Notification, Issue> {
    let text = std::str::from_utf8(without_bom(bytes)).map_err(|_| Issue::new(Code::NotUtf8, ""))?;
    let envelope: EnvelopeView<'_> = serde_json::from_str(text).map_err(|_| Issue::new(Code::InvalidBundle, "Bundle"))?;
    read_topic_based(&envelope)
}

fn read_topic_based(envelope: &EnvelopeView<'_>) -> Result<Notification, Issue> {
    let fault = |path: &str| Issue::new(Code::InvalidBundle, path);
    let first = envelope.entry.kept.first().ok_or_else(|| fault("Bundle.entry"))?;
    let first: EntryView<'_> = serde_json::from_str(first.get()).map_err(|_| fault("Bundle.entry[0]"))?;
    let status = first.resource.ok_or_else(|| fault("Bundle.entry[0].resource"))?.get();
    let (resource_type, _) = head(status.as_bytes())?;
    let shape = |path: &str| Issue::new(Code::Shape, format!("Bundle.entry[0].resource{path}"));
    let told = match resource_type.as_deref() {
        Some("Parameters") => of_parameters(serde_json::from_str(status).map_err(|_| shape(".parameter"))?),
        Some("SubscriptionStatus") => of_status(serde_json::from_str(status).map_err(|_| shape(""))?),
        Some(_) | None => return Err(fault("Bundle.entry[0].resource").with_detail("Parameters or SubscriptionStatus")),
    };
    let Told { kind, status, events_since_start, events, subscription, topic, is_faulty } = told.ok_or_else(|| shape(".eventNumber"))?;
    let kind = kind.as_deref().and_then(Kind::from_word).ok_or_else(|| shape(".type"))?;
    if EVENTS_MAX < events.len() {
        return Err(shape(".notificationEvent").with_detail("too many events"));
    }
    let mut notification = Notification {
        kind,
        subscription: subscription.and_then(|reference| Focus::of_reference(&reference)).map(|focus| focus.id),
        topic,
        events_since_start,
        events: if kind.has_events() { events } else { Vec::new() },
        is_in_trouble: is_faulty || status.is_some_and(|status| matches!(status.as_str(), "error" | "off" | "entered-in-error")),
    };
    if kind.has_events() {
        name_the_nameless(&mut notification.events, foci(&envelope.entry.kept[1..]));
    }
    Ok(notification)
}

/// Gives events that do not say what they are about what the entries behind them say.
fn name_the_nameless(events: &mut Vec<Event>, foci: Vec<Focus>) {
    if events.iter().any(|event| event.focus.is_some()) {
        // Then what else is in the Bundle is context.
        return;
    }
    let mut foci = foci.into_iter();
    for event in events.iter_mut() {
        event.focus = foci.next();
    }
    events.extend(foci.map(|focus| Event { focus: Some(focus), ..Event::default() }));
    if events.is_empty() {
        events.push(Event::default());
    }
}

/// What the entries of a Bundle say has changed. What stands there to be read alone (`GET`) is context.
fn foci(entries: &[&RawValue]) -> Vec<Focus> {
    let focus = |entry: &&RawValue| {
        let entry: EntryView<'_> = serde_json::from_str(entry.get()).ok()?;
        let request = entry.request.as_ref();
        if request.and_then(|request| request.method.as_deref()) == Some("GET") {
            return None;
        }
        let of_resource = || {
            let (resource_type, id) = head(entry.resource?.get().as_bytes()).ok()?;
            Focus::of_reference(&format!("{}/{}", resource_type?, id?))
        };
        let of_request = request.and_then(|request| request.url.as_deref()).and_then(Focus::of_reference);
        of_request.or_else(|| entry.full_url.as_deref().and_then(Focus::of_reference)).or_else(of_resource)
    };
    entries.iter().filter_map(focus).collect()
}

/// What the first entry says.
#[derive(Default)]
struct Told {
    kind: Option<String>,
    status: Option<String>,
    events_since_start: Option<u64>,
    events: Vec<Event>,
    subscription: Option<String>,
    topic: Option<String>,
    is_faulty: bool,
}

#[derive(Deserialize)]
struct ReferenceView {
    reference: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StatusView {
    #[serde(rename = "type")]
    kind: Option<String>,
    status: Option<String>,
    /// A text in R4B and R5, where JSON has no 64-bit number; some write a number all the same.
    events_since_subscription_start: Option<Value>,
    #[serde(default)]
    notification_event: Vec<EventView>,
    subscription: Option<ReferenceView>,
    topic: Option<String>,
    #[serde(default)]
    error: Vec<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EventView {
    event_number: Option<Value>,
    timestamp: Option<String>,
    focus: Option<ReferenceView>,
}

/// `None` where a number is none.
fn of_status(view: StatusView) -> Option<Told> {
    let event = |event: EventView| {
        Some(Event {
            number: number(event.event_number)?,
            at_ms: event.timestamp.as_deref().and_then(instant_ms),
            focus: event.focus.and_then(|focus| focus.reference).as_deref().and_then(Focus::of_reference),
        })
    };
    Some(Told {
        kind: view.kind,
        status: view.status,
        events_since_start: number(view.events_since_subscription_start)?,
        events: view.notification_event.into_iter().map(event).collect::<Option<_>>()?,
        subscription: view.subscription.and_then(|subscription| subscription.reference),
        topic: view.topic,
        is_faulty: !view.error.is_empty(),
    })
}

#[derive(Deserialize)]
struct ParametersView {
    #[serde(default)]
    parameter: Vec<ParameterView>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ParameterView {
    name: String,
    value_reference: Option<ReferenceView>,
    value_code: Option<String>,
    value_canonical: Option<String>,
    value_uri: Option<String>,
    value_instant: Option<String>,
    value_date_time: Option<String>,
    value_string: Option<Value>,
    value_integer: Option<Value>,
    value_unsigned_int: Option<Value>,
    value_integer64: Option<Value>,
    #[serde(default)]
    part: Vec<ParameterView>,
}

impl ParameterView {
    fn text(self) -> Option<String> {
        let string = |value: Option<Value>| value.and_then(|value| value.as_str().map(str::to_owned));
        self.value_code.or(self.value_canonical).or(self.value_uri).or(self.value_instant).or(self.value_date_time).or(string(self.value_string))
    }

    fn number(self) -> Option<Option<u64>> {
        number(self.value_string.or(self.value_integer).or(self.value_unsigned_int).or(self.value_integer64))
    }

    fn reference(self) -> Option<String> {
        self.value_reference.and_then(|value| value.reference)
    }
}

/// The backport's Parameters; names also as R5 writes them, which early servers do.
fn of_parameters(view: ParametersView) -> Option<Told> {
    let mut told = Told::default();
    for parameter in view.parameter {
        match parameter.name.as_str() {
            "type" => told.kind = parameter.text(),
            "status" => told.status = parameter.text(),
            "topic" => told.topic = parameter.text(),
            "subscription" => told.subscription = parameter.reference(),
            "events-since-subscription-start" | "eventsSinceSubscriptionStart" => told.events_since_start = parameter.number()?,
            "notification-event" | "notificationEvent" => told.events.push(event_of_parts(parameter.part)?),
            "error" => told.is_faulty = true,
            _ => {}
        }
    }
    Some(told)
}

fn event_of_parts(parts: Vec<ParameterView>) -> Option<Event> {
    let mut event = Event::default();
    for part in parts {
        match part.name.as_str() {
            "event-number" | "eventNumber" => event.number = part.number()?,
            "timestamp" => event.at_ms = part.text().as_deref().and_then(instant_ms),
            "focus" => event.focus = part.reference().as_deref().and_then(Focus::of_reference),
            _ => {}
        }
    }
    Some(event)
}

/// A count as a text or a number; `Some(None)` where there is none, `None` where it is no count.
fn number(value: Option<Value>) -> Option<Option<u64>> {
    match value {
        None => Some(None),
        Some(Value::String(text)) => text.trim().parse().ok().map(Some),
        Some(Value::Number(number)) => number.as_u64().map(Some),
        Some(Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_)) => None,
    }
}

fn instant_ms(text: &str) -> Option<i64> {
    PartialDate::parse(text).ok().map(|date| date.start_ms)
}
