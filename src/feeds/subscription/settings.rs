//! What a site configures of a feed that is told: which Subscriptions are to stand at the source, and which searches find what
//! was not told. Knows neither the source nor the store.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::feeds::{poll, roster};
use crate::fhir::subscribe::{Ask, Style, is_search};
use crate::fhir::subscription::{Content, decoded};

/// What is asked for, and how the source is held to it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub style: Style,
    /// `r4`: searches, each a Subscription of its own.
    #[serde(default)]
    pub criteria: Vec<String>,
    /// `r4-backport` and `r5`: topics, each a Subscription of its own.
    #[serde(default)]
    pub topics: Vec<Topic>,
    /// How much a notification holds. Nothing of it is used but what it is about.
    #[serde(default = "nothing")]
    pub payload: Content,
    #[serde(default)]
    pub heartbeat_seconds: Option<u32>,
    #[serde(default)]
    pub timeout_seconds: Option<u32>,
    /// Events in one notification.
    #[serde(default)]
    pub max_count: Option<u32>,
    /// Whether a DELETE is asked to be told as one, as HAPI FHIR can.
    #[serde(default)]
    pub tells_deletes: bool,
    /// A Subscription ends after so many days, unless it is renewed; it is at half of them.
    #[serde(default = "lifetime")]
    pub lifetime_days: u32,
    /// How the source reaches this gateway, where that is not its public_url.
    #[serde(default)]
    pub public_url: Option<String>,
    /// Where people at the source made the Subscription: SHA-256 of the secret that it shows us. Then none is made.
    #[serde(default)]
    pub secret_sha256: Option<String>,
    /// How often it is looked whether the Subscription still stands.
    #[serde(default = "check")]
    pub check_minutes: u32,
    #[serde(default)]
    pub catch_up: CatchUp,
}

/// A topic, and what of it is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topic {
    /// Canonical address.
    pub topic: String,
    /// `Observation?category=laboratory`, as the topic allows.
    #[serde(default)]
    pub filters: Vec<String>,
}

/// The searches by which what was not told is found.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CatchUp {
    /// Without any: the criteria.
    pub searches: Vec<poll::Search>,
    pub every_minutes: u32,
    pub overlap_seconds: u32,
    pub page_size: u32,
    pub sort: bool,
    pub compare_nightly: bool,
    pub roster: Option<roster::Settings>,
}

impl Default for CatchUp {
    fn default() -> CatchUp {
        CatchUp {
            searches: Vec::new(),
            every_minutes: 60,
            overlap_seconds: poll::overlap(),
            page_size: poll::page_size(),
            sort: true,
            compare_nightly: true,
            roster: None,
        }
    }
}

fn nothing() -> Content {
    Content::Empty
}

fn lifetime() -> u32 {
    30
}

fn check() -> u32 {
    5
}

impl Settings {
    /// What is wrong with them, as a field and two sentence parts: what, and what to do.
    pub fn fault(&self) -> Option<(&'static str, &'static str, &'static str)> {
        if self.style.has_topics() {
            if self.topics.is_empty() || !self.criteria.is_empty() {
                return Some(("topics", "this style subscribes to topics", "name topics, and no criteria"));
            }
            if self.catch_up.searches.is_empty() {
                return Some(("catch_up", "a topic cannot be searched", "name the searches that find what the topics tell of"));
            }
        } else {
            if self.criteria.is_empty() || !self.topics.is_empty() {
                return Some((
                    "criteria",
                    "this style subscribes to searches",
                    "name criteria, such as Observation?category=laboratory, and no topics",
                ));
            }
            if self.payload == Content::IdOnly || self.heartbeat_seconds.is_some() || self.max_count.is_some() || self.timeout_seconds.is_some() {
                return Some(("style", "R4 itself knows payloads empty and full-resource, and no heartbeat, timeout or max_count", "leave them out"));
            }
            if !self.criteria.iter().all(|criteria| is_search(criteria)) {
                return Some(("criteria", "a criterion is not a search", "write Type?parameter=value, at least Type?"));
            }
            if self.catch_up.searches.is_empty() && self.criteria.iter().any(|criteria| search_of(criteria).is_none()) {
                return Some(("catch_up", "a criterion names a parameter twice", "name the searches that find the same"));
            }
        }
        None
    }

    /// The searches as the polling feed knows them.
    pub(in crate::feeds) fn poll(&self) -> poll::Settings {
        let CatchUp { searches, every_minutes, overlap_seconds, page_size, sort, compare_nightly, roster } = self.catch_up.clone();
        // What is caught up with is caught up with for everybody.
        let roster = roster.map(|roster| roster::Settings { patients_per_round: u32::MAX, ..roster });
        let searches = if searches.is_empty() { self.criteria.iter().filter_map(|criteria| search_of(criteria)).collect() } else { searches };
        poll::Settings { searches, every_seconds: every_minutes.saturating_mul(60), overlap_seconds, page_size, sort, compare_nightly, roster }
    }

    /// Every Subscription that is to stand at the source.
    pub(super) fn asks(&self, site: &str, feed: &str, endpoint: &str) -> Vec<Ask> {
        let topics = self.topics.iter().map(|topic| (&topic.topic, topic.filters.clone()));
        let all = self.criteria.iter().map(|criteria| (criteria, Vec::new())).chain(topics);
        all.map(|(about, filters)| Ask {
            style: self.style,
            reason: format!("nephrogate, feed {feed} of {site}"),
            about: about.clone(),
            filters,
            content: self.payload,
            endpoint: endpoint.to_owned(),
            heartbeat_s: self.heartbeat_seconds,
            timeout_s: self.timeout_seconds,
            max_count: self.max_count,
            tells_deletes: self.tells_deletes,
        })
        .collect()
    }
}

/// A criterion as a search; `None` where it names a parameter twice or holds what cannot be decoded.
fn search_of(criteria: &str) -> Option<poll::Search> {
    let (resource_type, query) = criteria.split_once('?')?;
    let mut named = BTreeMap::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=')?;
        if named.insert(decoded(name)?, decoded(value)?).is_some() {
            return None;
        }
    }
    Some(poll::Search { resource_type: resource_type.to_owned(), query: named, ..poll::Search::default() })
}
