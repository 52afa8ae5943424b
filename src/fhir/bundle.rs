//! Bundles are split on receipt: the envelope is read here, each resource stays a slice of the bytes as received and
//! meets the gate alone, so that one bad entry spoils no other.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::view::Text;
use super::{RawResource, without_bom};
use crate::issue::{Code, Issue};

/// Most entries of one Bundle; larger loads come as NDJSON.
pub const MAX_ENTRIES: usize = 10_000;

/// The Bundles a door may be handed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Batch,
    Transaction,
    Collection,
    Searchset,
    History,
    Message,
    Document,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Patch,
    Delete,
}

/// A Bundle by its entries, each good or faulted alone.
#[derive(Debug)]
pub struct Bundle<'a> {
    pub kind: Kind,
    pub id: Option<Text<'a>>,
    /// The `next` link of a searchset or history.
    pub next: Option<Text<'a>>,
    /// In the Bundle's order. The path of an entry's fault begins with `Bundle.entry[n]`.
    pub entries: Vec<Result<Entry<'a>, Issue>>,
}

#[derive(Debug)]
pub struct Entry<'a> {
    pub full_url: Option<Text<'a>>,
    /// The resource's own bytes, not yet through the gate.
    pub resource: Option<&'a [u8]>,
    /// Always there in a batch or transaction.
    pub request: Option<Request<'a>>,
    /// In a history: what the source answered then.
    pub response: Option<Response<'a>>,
    /// `match`, `include` or `outcome`.
    pub search_mode: Option<Text<'a>>,
}

#[derive(Debug)]
pub struct Request<'a> {
    pub method: Method,
    /// Relative to the base: `Observation/o1`.
    pub url: Text<'a>,
    /// `W/"3"`, as written.
    pub if_match: Option<Text<'a>>,
    pub if_none_match: Option<Text<'a>>,
    /// Search parameters of a conditional create.
    pub if_none_exist: Option<Text<'a>>,
}

/// What of an entry's response says which version a DELETE made.
#[derive(Debug)]
pub struct Response<'a> {
    /// `W/"3"`, as written.
    pub etag: Option<Text<'a>>,
    pub last_modified: Option<Text<'a>>,
}

impl Kind {
    pub const ALL: [Kind; 7] = [Kind::Batch, Kind::Transaction, Kind::Collection, Kind::Searchset, Kind::History, Kind::Message, Kind::Document];

    /// `Bundle.type`.
    pub const fn word(self) -> &'static str {
        match self {
            Kind::Batch => "batch",
            Kind::Transaction => "transaction",
            Kind::Collection => "collection",
            Kind::Searchset => "searchset",
            Kind::History => "history",
            Kind::Message => "message",
            Kind::Document => "document",
        }
    }

    /// Whether the sender asks for something to be done with each entry.
    pub const fn has_requests(self) -> bool {
        match self {
            Kind::Batch | Kind::Transaction => true,
            Kind::Collection | Kind::Searchset | Kind::History | Kind::Message | Kind::Document => false,
        }
    }
}

impl FromStr for Method {
    type Err = ();

    fn from_str(word: &str) -> Result<Method, ()> {
        match word {
            "GET" => Ok(Method::Get),
            "HEAD" => Ok(Method::Head),
            "POST" => Ok(Method::Post),
            "PUT" => Ok(Method::Put),
            "PATCH" => Ok(Method::Patch),
            "DELETE" => Ok(Method::Delete),
            _ => Err(()),
        }
    }
}

#[derive(Deserialize)]
pub(super) struct EnvelopeView<'a> {
    #[serde(borrow, rename = "resourceType")]
    resource_type: Option<Text<'a>>,
    #[serde(borrow)]
    id: Option<Text<'a>>,
    #[serde(borrow, rename = "type")]
    pub(super) kind: Option<Text<'a>>,
    #[serde(borrow, default)]
    link: Vec<LinkView<'a>>,
    #[serde(borrow, default)]
    pub(super) entry: EntriesView<'a>,
}

#[derive(Deserialize)]
struct LinkView<'a> {
    #[serde(borrow)]
    relation: Option<Text<'a>>,
    #[serde(borrow)]
    url: Option<Text<'a>>,
}

/// Counts every entry, keeps no more than are allowed: a body of empty entries must not become a gigabyte of structs.
#[derive(Default)]
pub(super) struct EntriesView<'a> {
    pub(super) kept: Vec<&'a RawValue>,
    pub(super) is_too_many: bool,
}

#[derive(Deserialize)]
pub(super) struct EntryView<'a> {
    #[serde(borrow, rename = "fullUrl")]
    pub(super) full_url: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) resource: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) request: Option<RequestView<'a>>,
    #[serde(borrow)]
    response: Option<ResponseView<'a>>,
    #[serde(borrow)]
    search: Option<SearchView<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RequestView<'a> {
    #[serde(borrow)]
    pub(super) method: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) url: Option<Text<'a>>,
    #[serde(borrow)]
    if_match: Option<Text<'a>>,
    #[serde(borrow)]
    if_none_match: Option<Text<'a>>,
    #[serde(borrow)]
    if_none_exist: Option<Text<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ResponseView<'a> {
    #[serde(borrow)]
    etag: Option<Text<'a>>,
    #[serde(borrow)]
    last_modified: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct SearchView<'a> {
    #[serde(borrow)]
    mode: Option<Text<'a>>,
}

/// Splits a Bundle. The error is about the envelope; what is wrong with one entry stands in that entry's place.
pub fn split(bytes: &[u8]) -> Result<Bundle<'_>, Issue> {
    let text = std::str::from_utf8(without_bom(bytes)).map_err(|_| Issue::new(Code::NotUtf8, ""))?;
    let envelope: EnvelopeView<'_> = match serde_json::from_str(text) {
        Ok(envelope) => envelope,
        // The gate says where, if it is one of its faults; otherwise the envelope has the wrong shape.
        Err(_) => return Err(RawResource::parse(bytes).err().unwrap_or_else(|| Issue::new(Code::InvalidBundle, "Bundle"))),
    };
    if envelope.resource_type.as_deref() != Some("Bundle") {
        return Err(Issue::new(Code::WrongResourceType, "Bundle.resourceType"));
    }
    let kind = envelope.kind.as_deref().and_then(|word| Kind::ALL.into_iter().find(|kind| kind.word() == word));
    let Some(kind) = kind else { return Err(Issue::new(Code::InvalidBundle, "Bundle.type")) };
    if envelope.entry.is_too_many {
        return Err(Issue::new(Code::InvalidBundle, "Bundle.entry").with_detail(format!("more than {MAX_ENTRIES} entries")));
    }
    let next = envelope.link.into_iter().find(|link| link.relation.as_deref() == Some("next")).and_then(|link| link.url);
    let entries = envelope.entry.kept.into_iter().enumerate().map(|(index, entry)| read_entry(kind, index, entry)).collect();
    Ok(Bundle { kind, id: envelope.id, next, entries })
}

fn read_entry(kind: Kind, index: usize, raw: &RawValue) -> Result<Entry<'_>, Issue> {
    let fault = |path: &str| Issue::new(Code::InvalidBundle, format!("Bundle.entry[{index}]{path}"));
    let view: EntryView<'_> = serde_json::from_str(raw.get()).map_err(|_| fault(""))?;
    let request = match view.request {
        Some(request) => {
            let method = request.method.as_deref().and_then(|word| word.parse().ok()).ok_or_else(|| fault(".request.method"))?;
            let url = request.url.clone().filter(|url| !url.is_empty()).ok_or_else(|| fault(".request.url"))?;
            let RequestView { if_match, if_none_match, if_none_exist, .. } = request;
            Some(Request { method, url, if_match, if_none_match, if_none_exist })
        }
        None if kind.has_requests() => return Err(fault(".request")),
        None => None,
    };
    let needs_resource = request.as_ref().is_some_and(|request| matches!(request.method, Method::Post | Method::Put | Method::Patch));
    if needs_resource && view.resource.is_none() {
        return Err(fault(".resource"));
    }
    Ok(Entry {
        full_url: view.full_url,
        resource: view.resource.map(|resource| resource.get().as_bytes()),
        request,
        response: view.response.map(|ResponseView { etag, last_modified }| Response { etag, last_modified }),
        search_mode: view.search.and_then(|search| search.mode),
    })
}

impl<'de: 'a, 'a> Deserialize<'de> for EntriesView<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<EntriesView<'a>, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = EntriesView<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of entries")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<EntriesView<'de>, A::Error> {
                let mut entries = EntriesView::default();
                while let Some(item) = items.next_element::<&'de RawValue>()? {
                    if entries.kept.len() < MAX_ENTRIES {
                        entries.kept.push(item);
                    } else {
                        entries.is_too_many = true;
                    }
                }
                Ok(entries)
            }
        }
        deserializer.deserialize_seq(Entries)
    }
}
