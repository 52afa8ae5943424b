//! Our own Subscription at a source: written in each style in which sources take one, and recognised again. Knows neither how
//! it is sent nor when.

use serde::{Deserialize, Serialize};

use super::build::{self, BuildError, parts};
use super::subscription::Content;
use super::{RawResource, is_type};
use crate::clinical::date::PartialDate;

/// How a source takes a Subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Style {
    /// To a search, as R4 has it.
    R4,
    /// To a topic, in the shape of HL7's backport for R4 and R4B (1.1).
    R4Backport,
    /// To a topic, as R5 has it.
    R5,
}

impl Style {
    pub const fn word(self) -> &'static str {
        match self {
            Style::R4 => "r4",
            Style::R4Backport => "r4-backport",
            Style::R5 => "r5",
        }
    }

    /// Whether notifications are numbered, and may be heard when nothing happens.
    pub const fn has_topics(self) -> bool {
        match self {
            Style::R4 => false,
            Style::R4Backport | Style::R5 => true,
        }
    }
}

/// What we ask a source to tell us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    pub style: Style,
    pub reason: String,
    /// A search such as `Observation?category=laboratory`, or the canonical address of a topic.
    pub about: String,
    /// Filters of a topic, such as `Observation?category=laboratory`.
    pub filters: Vec<String>,
    pub content: Content,
    pub endpoint: String,
    pub heartbeat_s: Option<u32>,
    pub timeout_s: Option<u32>,
    pub max_count: Option<u32>,
    /// A DELETE is to be told as one, as HAPI FHIR can.
    pub tells_deletes: bool,
}

const PAYLOAD: &str = "application/fhir+json";
const CHANNEL_TYPE: &str = "http://terminology.hl7.org/CodeSystem/subscription-channel-type";
const RESOURCE_DEFINITION: &str = "http://hl7.org/fhir/StructureDefinition/";
const FILTER: &str = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-filter-criteria";

impl Ask {
    /// What tells it apart from others of the same endpoint: its search, or its topic and filters.
    pub fn key(&self) -> String {
        key(&self.about, self.filters.iter().flat_map(|text| single_filters(text)).collect())
    }

    /// The resource to send: `id` where the source has given one; whoever notifies shows the secret, until `end_ms`.
    pub fn resource(&self, id: Option<&str>, secret: &str, end_ms: i64) -> Result<String, BuildError> {
        let end = PartialDate::instant(end_ms).to_string();
        let authorization = format!("Bearer {secret}");
        let text = match self.style {
            Style::R4 | Style::R4Backport => build::subscription(&parts::Subscription {
                id: id.map(str::to_owned),
                status: "requested".to_owned(),
                end: Some(end),
                reason: self.reason.clone(),
                criteria: self.about.clone(),
                filters: self.filters.clone(),
                endpoint: self.endpoint.clone(),
                payload: (self.style.has_topics() || self.content != Content::Empty).then(|| PAYLOAD.to_owned()),
                content: self.style.has_topics().then(|| self.content.word().to_owned()),
                heartbeat_s: self.heartbeat_s,
                timeout_s: self.timeout_s,
                max_count: self.max_count,
                headers: vec![format!("Authorization: {authorization}")],
                tells_deletes: self.tells_deletes,
                ..parts::Subscription::default()
            })?,
            Style::R5 => self.of_r5(id, &authorization, &end)?,
        };
        Ok(String::from_utf8(text).expect("JSON is UTF-8"))
    }

    fn of_r5(&self, id: Option<&str>, authorization: &str, end: &str) -> Result<Vec<u8>, BuildError> {
        let singles: Vec<String> = self.filters.iter().flat_map(|text| single_filters(text)).collect();
        let filter = |single: &String| {
            let (resource_type, rest) = single.split_once('?').map_or((None, single.as_str()), |(of, rest)| (Some(of.to_owned()), rest));
            let (filter_parameter, value) = rest.split_once('=').unwrap_or((rest, ""));
            FilterBy { resource_type, filter_parameter: filter_parameter.to_owned(), value: value.to_owned() }
        };
        let resource = R5Subscription {
            resource_type: "Subscription",
            id,
            name: &self.reason,
            status: "requested",
            topic: &self.about,
            end,
            reason: &self.reason,
            filter_by: singles.iter().map(filter).collect(),
            channel_type: CodingShown { system: CHANNEL_TYPE, code: "rest-hook" },
            endpoint: &self.endpoint,
            parameter: vec![HeaderShown { name: "Authorization", value: authorization }],
            heartbeat_period: self.heartbeat_s,
            timeout: self.timeout_s,
            content_type: PAYLOAD,
            content: self.content.word(),
            max_count: self.max_count,
        };
        let bytes = serde_json::to_vec(&resource).expect("a Subscription is plain data");
        match RawResource::parse(&bytes) {
            Ok(_) => Ok(bytes),
            Err(issue) => Err(BuildError(issue.to_string())),
        }
    }
}

/// `Type?a=b&c=d` as one filter for each parameter; the order of filters says nothing.
fn single_filters(text: &str) -> Vec<String> {
    let (of, query) = text.split_once('?').map_or(("", text), |(of, query)| (of, query));
    let single = |pair: &str| if of.is_empty() { pair.to_owned() } else { format!("{of}?{pair}") };
    query.split('&').filter(|pair| !pair.is_empty()).map(single).collect()
}

fn key(about: &str, mut singles: Vec<String>) -> String {
    singles.sort();
    singles.dedup();
    let about = about.trim_end_matches('?');
    if singles.is_empty() { about.to_owned() } else { format!("{about} {}", singles.join(" ")) }
}

/// Whether a text can be asked for as a search: `Type?parameter=value`, at least `Type?`.
pub fn is_search(text: &str) -> bool {
    text.split_once('?').is_some_and(|(resource_type, _)| is_type(resource_type)) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct R5Subscription<'a> {
    resource_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    name: &'a str,
    status: &'static str,
    topic: &'a str,
    end: &'a str,
    reason: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    filter_by: Vec<FilterBy>,
    channel_type: CodingShown,
    endpoint: &'a str,
    parameter: Vec<HeaderShown<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    heartbeat_period: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<u32>,
    content_type: &'static str,
    content: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_count: Option<u32>,
}

#[derive(Serialize)]
struct CodingShown {
    system: &'static str,
    code: &'static str,
}

/// In R5 a rest-hook's parameters are headers.
#[derive(Serialize)]
struct HeaderShown<'a> {
    name: &'static str,
    value: &'a str,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct FilterBy {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    resource_type: Option<String>,
    filter_parameter: String,
    value: String,
}

/// Where a Subscription stands at its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Requested,
    Active,
    /// In error, off, or never meant: nothing is told any more.
    Ended,
}

/// A Subscription as its source shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    pub standing: Standing,
    pub endpoint: Option<String>,
    pub key: String,
    pub end_ms: Option<i64>,
}

#[derive(Deserialize)]
struct View {
    #[serde(rename = "resourceType")]
    resource_type: String,
    status: Option<String>,
    end: Option<String>,
    criteria: Option<String>,
    #[serde(default, rename = "_criteria")]
    criteria_element: ElementView,
    channel: Option<ChannelView>,
    topic: Option<String>,
    #[serde(default, rename = "filterBy")]
    filter_by: Vec<FilterBy>,
    endpoint: Option<String>,
}

#[derive(Default, Deserialize)]
struct ElementView {
    #[serde(default)]
    extension: Vec<ExtensionView>,
}

#[derive(Deserialize)]
struct ExtensionView {
    url: String,
    #[serde(rename = "valueString")]
    string: Option<String>,
}

#[derive(Deserialize)]
struct ChannelView {
    endpoint: Option<String>,
}

/// Reads a Subscription of any release; `None` for what is none.
pub fn shown(text: &str) -> Option<Shown> {
    let view: View = serde_json::from_str(text).ok().filter(|view: &View| view.resource_type == "Subscription")?;
    let of_r4 = view.criteria_element.extension.into_iter().filter(|extension| extension.url == FILTER).filter_map(|extension| extension.string);
    let of_r5 = view.filter_by.into_iter().map(|filter| {
        let resource_type = filter.resource_type.map(|of| of.trim_start_matches(RESOURCE_DEFINITION).to_owned() + "?").unwrap_or_default();
        format!("{resource_type}{}={}", filter.filter_parameter, filter.value)
    });
    let singles = of_r4.chain(of_r5).flat_map(|text| single_filters(&text)).collect();
    Some(Shown {
        standing: match view.status.as_deref() {
            Some("active") => Standing::Active,
            Some("requested") => Standing::Requested,
            Some(_) | None => Standing::Ended,
        },
        endpoint: view.endpoint.or(view.channel.and_then(|channel| channel.endpoint)),
        key: key(view.topic.as_deref().or(view.criteria.as_deref()).unwrap_or_default(), singles),
        end_ms: view.end.as_deref().and_then(|end| PartialDate::parse(end).ok()).map(|end| end.start_ms),
    })
}
