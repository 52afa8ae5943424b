//! A FHIR R4 Subscription in the shape of HL7's topic-based backport (subscriptions-backport 1.1), read strictly: what
//! is asked for and cannot be given is refused by its element, never dropped in silence. Knows our one topic; knows no
//! site and no study.

use serde::{Deserialize, Serialize};

use super::RawResource;
use crate::clinical::date::PartialDate;
use crate::issue::{Code, Issue};

/// Canonical address of our topic: a subject's part in a study changed, as the EHR may know it.
pub const TOPIC: &str = "https://nephrogate.example/fhir/SubscriptionTopic/subject-status-change";

/// Extensions of the backport.
const BACKPORT: &str = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition";

/// How much of a subject a notification holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Content {
    /// That something happened, and its number.
    Empty,
    /// Which ResearchSubject.
    IdOnly,
    FullResource,
}

impl Content {
    pub const ALL: [Content; 3] = [Content::Empty, Content::IdOnly, Content::FullResource];

    pub const fn word(self) -> &'static str {
        match self {
            Content::Empty => "empty",
            Content::IdOnly => "id-only",
            Content::FullResource => "full-resource",
        }
    }

    pub fn from_word(word: &str) -> Option<Content> {
        Content::ALL.into_iter().find(|content| content.word() == word)
    }
}

/// One filter; an event passes when each list that is not empty names it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// As it was written.
    pub text: String,
    pub studies: Vec<String>,
    /// R4 research-subject-status.
    pub statuses: Vec<String>,
}

/// What a subscription asks for. Holds the secrets of its headers: never printed.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Wanted {
    pub reason: String,
    pub end: Option<String>,
    pub end_ms: Option<i64>,
    /// All of them must hold.
    pub filters: Vec<Filter>,
    pub endpoint: String,
    pub content: Content,
    /// Seconds.
    pub heartbeat_s: Option<u32>,
    pub timeout_s: Option<u32>,
    /// Events in one notification.
    pub max_count: Option<u32>,
    /// (name, value) of headers that go with each notification.
    pub headers: Vec<(String, String)>,
}

impl std::fmt::Debug for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Wanted({} filters, {})", self.filters.len(), self.content.word())
    }
}

/// Events in one notification where the subscription does not say, and at most.
const EVENTS: u32 = 20;
const EVENTS_MAX: u32 = 100;
/// Shortest heartbeat, and longest time for an answer, seconds.
const HEARTBEAT_MIN_S: u32 = 10;
const TIMEOUT_MAX_S: u32 = 60;
const HEADERS_MAX: usize = 10;
const FILTERS_MAX: usize = 10;

/// What stands for a header's value when it is shown, and means "the same as before" when it is sent.
pub const KEPT: &str = "***";

impl Wanted {
    pub fn most_events(&self) -> usize {
        self.max_count.unwrap_or(EVENTS).min(EVENTS_MAX) as usize
    }

    /// Whether a change is one that was asked for. A filter by status lets through who comes to that status and who
    /// leaves it: the end of what was told is told.
    pub fn asks_for(&self, study: &str, from: Option<&str>, to: Option<&str>) -> bool {
        self.filters.iter().all(|filter| {
            let is_of_study = filter.studies.is_empty() || filter.studies.iter().any(|asked| asked == study);
            let is_of_status = filter.statuses.is_empty() || filter.statuses.iter().any(|asked| [from, to].contains(&Some(asked.as_str())));
            is_of_study && is_of_status
        })
    }
}

/// A Subscription as it was sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    pub id: Option<String>,
    /// `requested` or `off`; `active` of a PUT means that it is to go on.
    pub is_off: bool,
    pub wanted: Wanted,
}

#[derive(Deserialize)]
struct View {
    #[serde(default)]
    id: Option<String>,
    status: String,
    reason: String,
    #[serde(default)]
    end: Option<String>,
    criteria: String,
    #[serde(default, rename = "_criteria")]
    criteria_element: Element,
    channel: Channel,
    #[serde(default, rename = "modifierExtension")]
    modifiers: Vec<serde::de::IgnoredAny>,
}

#[derive(Default, Deserialize)]
struct Element {
    #[serde(default)]
    extension: Vec<Extension>,
}

#[derive(Deserialize)]
struct Extension {
    url: String,
    #[serde(default, rename = "valueString")]
    string: Option<String>,
    #[serde(default, rename = "valueCode")]
    code: Option<String>,
    #[serde(default, rename = "valueUnsignedInt")]
    unsigned: Option<u32>,
    #[serde(default, rename = "valuePositiveInt")]
    positive: Option<u32>,
}

#[derive(Deserialize)]
struct Channel {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    endpoint: Option<String>,
    #[serde(default)]
    payload: Option<String>,
    #[serde(default, rename = "_payload")]
    payload_element: Element,
    #[serde(default)]
    header: Vec<String>,
    #[serde(default)]
    extension: Vec<Extension>,
}

/// Reads a Subscription; all that is wrong with it is told at once.
pub fn read(bytes: &[u8]) -> Result<Asked, Vec<Issue>> {
    let resource = RawResource::parse(bytes).map_err(|issue| vec![issue])?;
    if resource.resource_type != "Subscription" {
        return Err(vec![Issue::new(Code::WrongResourceType, "resourceType")]);
    }
    let view: View = serde_json::from_str(resource.text()).map_err(|_| vec![Issue::new(Code::Shape, "Subscription")])?;
    let mut issues = Vec::new();
    if !view.modifiers.is_empty() {
        issues.push(Issue::new(Code::ChannelUnsupported, "Subscription.modifierExtension"));
    }
    let is_off = match view.status.as_str() {
        "requested" | "active" => false,
        "off" => true,
        _ => {
            issues.push(Issue::new(Code::Shape, "Subscription.status").with_detail("requested, active or off"));
            false
        }
    };
    let end_ms = view.end.as_deref().and_then(|end| match PartialDate::parse(end) {
        Ok(date) => Some(date.start_ms),
        Err(_) => {
            issues.push(Issue::new(Code::InvalidDate, "Subscription.end"));
            None
        }
    });
    if view.criteria != TOPIC {
        issues.push(Issue::new(Code::TopicUnknown, "Subscription.criteria"));
    }
    let filters = filters(&view.criteria_element, &mut issues);
    let channel = channel(&view.channel, &mut issues);
    if !issues.is_empty() {
        return Err(issues);
    }
    let Options { content, heartbeat_s, timeout_s, max_count, headers } = channel;
    let wanted = Wanted {
        reason: view.reason,
        end: view.end,
        end_ms,
        filters,
        endpoint: view.channel.endpoint.unwrap_or_default(),
        content,
        heartbeat_s,
        timeout_s,
        max_count,
        headers,
    };
    Ok(Asked { id: view.id, is_off, wanted })
}

fn filters(element: &Element, issues: &mut Vec<Issue>) -> Vec<Filter> {
    let mut filters = Vec::new();
    for (index, extension) in element.extension.iter().enumerate() {
        let path = format!("Subscription.criteria.extension[{index}]");
        let is_known = extension.url.strip_prefix(BACKPORT) == Some("/backport-filter-criteria");
        match extension.string.as_deref().filter(|_| is_known && filters.len() < FILTERS_MAX).and_then(filter) {
            Some(filter) => filters.push(filter),
            None => issues.push(Issue::new(Code::FilterUnknown, path).with_detail("study and status of ResearchSubject")),
        }
    }
    filters
}

/// `ResearchSubject?study=ResearchStudy/x&status=candidate,on-study`; the type may be left out.
fn filter(text: &str) -> Option<Filter> {
    let query = match text.split_once('?') {
        Some(("ResearchSubject", query)) => query,
        Some(_) => return None,
        None => text,
    };
    let mut filter = Filter { text: text.to_owned(), ..Filter::default() };
    for pair in query.split('&') {
        let (name, values) = pair.split_once('=')?;
        let values = decoded(values)?;
        let values = values.split(',').map(str::to_owned);
        match name {
            "study" if filter.studies.is_empty() => {
                filter.studies = values.map(|value| value.strip_prefix("ResearchStudy/").map_or(value.clone(), str::to_owned)).collect();
                filter.studies.iter().all(|study| super::is_id(study)).then_some(())?;
            }
            "status" if filter.statuses.is_empty() => {
                filter.statuses = values.collect();
                filter.statuses.iter().all(|status| RESEARCH_SUBJECT_STATUSES.contains(&status.as_str())).then_some(())?;
            }
            _ => return None,
        }
    }
    Some(filter)
}

/// http://hl7.org/fhir/research-subject-status, R4.
pub const RESEARCH_SUBJECT_STATUSES: [&str; 13] = [
    "candidate",
    "eligible",
    "follow-up",
    "ineligible",
    "not-registered",
    "off-study",
    "on-study",
    "on-study-intervention",
    "on-study-observation",
    "pending-on-study",
    "potential-candidate",
    "screening",
    "withdrawn",
];

/// `%2F` and the like.
pub fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                let (high, low) = (digit(rest.next())?, digit(rest.next())?);
                u8::try_from(high * 16 + low).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

struct Options {
    content: Content,
    heartbeat_s: Option<u32>,
    timeout_s: Option<u32>,
    max_count: Option<u32>,
    headers: Vec<(String, String)>,
}

fn channel(channel: &Channel, issues: &mut Vec<Issue>) -> Options {
    let mut refuse = |element: &str, detail: &'static str| {
        issues.push(Issue::new(Code::ChannelUnsupported, format!("Subscription.channel{element}")).with_detail(detail))
    };
    if channel.kind != "rest-hook" {
        refuse(".type", "rest-hook");
    }
    if channel.endpoint.is_none() {
        refuse(".endpoint", "an https address");
    }
    if channel.payload.as_deref() != Some("application/fhir+json") {
        refuse(".payload", "application/fhir+json");
    }
    let is = |extension: &&Extension, name: &str| extension.url.strip_prefix(BACKPORT).and_then(|rest| rest.strip_prefix('/')) == Some(name);
    let content = channel.payload_element.extension.iter().find(|extension| is(extension, "backport-payload-content"));
    let content = content.and_then(|extension| extension.code.as_deref()).and_then(Content::from_word);
    if content.is_none() {
        refuse(".payload.extension", "backport-payload-content with valueCode empty, id-only or full-resource");
    }
    let (mut heartbeat_s, mut timeout_s, mut max_count) = (None, None, None);
    for extension in &channel.extension {
        if is(&extension, "backport-heartbeat-period") {
            heartbeat_s = extension.unsigned.filter(|seconds| HEARTBEAT_MIN_S <= *seconds);
            if heartbeat_s.is_none() {
                refuse(".extension", "backport-heartbeat-period with valueUnsignedInt of at least 10 seconds");
            }
        } else if is(&extension, "backport-timeout") {
            timeout_s = extension.unsigned.filter(|seconds| (1..=TIMEOUT_MAX_S).contains(seconds));
            if timeout_s.is_none() {
                refuse(".extension", "backport-timeout with valueUnsignedInt of 1 to 60 seconds");
            }
        } else if is(&extension, "backport-max-count") {
            max_count = extension.positive.filter(|count| (1..=EVENTS_MAX).contains(count));
            if max_count.is_none() {
                refuse(".extension", "backport-max-count with valuePositiveInt of 1 to 100");
            }
        } else {
            refuse(".extension", "backport-heartbeat-period, backport-timeout and backport-max-count");
        }
    }
    let headers: Vec<_> = channel.header.iter().filter_map(|line| header(line)).collect();
    if headers.len() != channel.header.len() || HEADERS_MAX < headers.len() {
        refuse(".header", "at most ten of Name: value, none of those that HTTP or FHIR need");
    }
    Options { content: content.unwrap_or(Content::Empty), heartbeat_s, timeout_s, max_count, headers }
}

/// Headers that are ours to set, or that change what a request is.
const OURS: [&str; 12] = [
    "accept",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

fn header(line: &str) -> Option<(String, String)> {
    let (name, value) = line.split_once(':')?;
    let value = value.trim();
    let is_token = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte));
    let is_visible = value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
    let is_ours = OURS.contains(&name.to_ascii_lowercase().as_str());
    (is_token && is_visible && !is_ours && value.len() <= 4_096).then(|| (name.to_owned(), value.to_owned()))
}
