//! FHIR as bytes: what came in is kept as it came, read through borrowed views, checked against the schemas in
//! profiles/, and what we author is built typed. Knows no mapping, no study, no network.

pub mod alike;
pub mod build;
pub mod bundle;
pub mod conformance;
pub mod copies;
pub mod edit;
pub mod fit;
pub mod gate;
pub mod in_error;
pub mod notification;
pub mod outgoing;
pub mod parameters;
pub mod patients;
pub mod profile;
pub mod references;
pub mod release;
pub mod schema;
pub mod subscribe;
pub mod subscription;
pub mod tree;
pub mod view;

use crate::clinical::date::PartialDate;
use crate::issue::{Code, Issue};

/// Builders of what we author about a study and its subjects.
pub use nephrogate_fhir_typed::study_flagged;

/// `identifier.system` of everything we write: what carries it in a feed is our own echo (rulings.md 26 and 27).
pub const WRITE_BACK_SYSTEM: &str = "urn:nephrogate:write-back";

/// `identifier.system` of a copy that a person had taken back: its key finds the one that was kept.
pub const COPY_SYSTEM: &str = "urn:nephrogate:write-back:copy";

/// One JSON resource that passed the gate: one document, UTF-8, no duplicate keys, no null, no empty element,
/// no control characters, depth at most 64. Borrowed from the bytes as received (after one BOM).
#[derive(Clone, Copy, Debug)]
pub struct RawResource<'a> {
    pub bytes: &'a [u8],
    pub resource_type: &'a str,
    pub id: Option<&'a str>,
    /// `meta.versionId`.
    pub version: Option<&'a str>,
    /// `meta.lastUpdated`, ms since 1970 UTC.
    pub last_updated_ms: Option<i64>,
}

impl<'a> RawResource<'a> {
    /// Passes the bytes through the gate. The first thing wrong is the answer; each names its element path.
    pub fn parse(bytes: &'a [u8]) -> Result<RawResource<'a>, Issue> {
        let bytes = without_bom(bytes);
        let text = std::str::from_utf8(bytes).map_err(|_| Issue::new(Code::NotUtf8, ""))?;
        let picked = gate::pass(text)?;
        let resource_type = picked.resource_type.filter(|name| release::is_resource_type(name));
        let resource_type = resource_type.ok_or_else(|| Issue::new(Code::WrongResourceType, "resourceType"))?;
        // A lastUpdated that is no instant is faulted by the profile, which knows its path; here it only orders nothing.
        let last_updated_ms = picked.last_updated.and_then(|text| PartialDate::parse(text).ok()).map(|date| date.start_ms);
        Ok(RawResource { bytes, resource_type, id: picked.id, version: picked.version, last_updated_ms })
    }

    /// The resource as text; the gate has shown that it is UTF-8.
    pub fn text(&self) -> &'a str {
        std::str::from_utf8(self.bytes).expect("bytes that passed the gate are UTF-8")
    }
}

/// Whether a text is a FHIR id: 1 to 64 of `A-Z a-z 0-9 - .`.
pub use gate::is_id;

/// Whether a word is written like a FHIR resource type: a capital and letters.
pub fn is_type(word: &str) -> bool {
    (3..=40).contains(&word.len())
        && word.starts_with(|first: char| first.is_ascii_uppercase())
        && word.bytes().all(|byte| byte.is_ascii_alphabetic())
}

/// The bytes after one byte order mark, which some interface engines put in front.
pub fn without_bom(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes)
}

/// Whether this build has a second reader (feature `strict`).
pub const HAS_STRICT_OPINION: bool = cfg!(feature = "strict");

/// A second opinion on what has passed the gate: whether the typed R4 model reads it. The error is masked: it names a
/// kind of fault or a missing element, never a value. `None` when this build has no second reader (feature
/// `strict`), and for what is written as R5, of which the model knows nothing.
pub fn strict_opinion(resource: &RawResource<'_>) -> Option<Result<(), String>> {
    #[cfg(feature = "strict")]
    if release::of(resource.resource_type, &tree::Tree::read(resource.text())) != Ok(release::Release::R4) {
        return None;
    }
    #[cfg(feature = "strict")]
    return Some(nephrogate_fhir_typed::strict::parse(resource.bytes));
    #[cfg(not(feature = "strict"))]
    {
        let _ = resource;
        None
    }
}
