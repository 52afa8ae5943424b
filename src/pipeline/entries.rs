//! What each entry of a Bundle asks for: a resource to take, or one to withdraw. Every door that is handed a Bundle asks
//! here, so that a history's DELETE withdraws whichever way it came, and `urn:uuid:` means the same at every door.

use std::collections::HashSet;

use super::receive;
use crate::catalogue::Catalogue;
use crate::clinical::date::PartialDate;
use crate::fhir::bundle::{Bundle, Entry, Kind, Method};
use crate::fhir::references::References;
use crate::fhir::{RawResource, is_id, is_type};
use crate::issue::{Code, Disposition, Issue};
use crate::mapping::Site;
use crate::store::ledger::Prepared;

pub use crate::store::ledger::Withdrawal;

/// What one entry asks for.
pub enum Asked {
    /// A resource, prepared; `is_put` where the sender named its place.
    Message {
        message: Box<Prepared>,
        is_put: bool,
    },
    Withdraw(Withdrawal),
}

/// A Bundle that is taken entry by entry.
pub struct Reader<'b> {
    catalogue: &'b Catalogue,
    site: &'b Site,
    bundle: &'b Bundle<'b>,
    references: References,
    /// DELETEs that say neither version nor time, though the Bundle shows the same resource living on.
    overtaken: HashSet<usize>,
}

impl<'b> Reader<'b> {
    pub fn new(catalogue: &'b Catalogue, site: &'b Site, bundle: &'b Bundle<'b>) -> Reader<'b> {
        Reader { catalogue, site, bundle, references: References::of(bundle), overtaken: overtaken(bundle) }
    }

    /// Batch and transaction entries say what to do; in other Bundles a resource is taken, and a DELETE of a history withdraws.
    pub fn read(&self, index: usize) -> Asked {
        let entry = match &self.bundle.entries[index] {
            Ok(entry) => entry,
            Err(issue) => return message(self.rejected(&[], issue.clone()), false),
        };
        let kind = self.bundle.kind;
        let bytes = entry.resource.unwrap_or_default();
        let bad = |element: &str| message(self.rejected(bytes, bad(index, element)), false);
        let request = entry.request.as_ref();
        match (request.map(|request| request.method), entry.resource) {
            (Some(Method::Delete), _) => match self.withdrawal(index, entry) {
                Ok(withdrawal) => Asked::Withdraw(withdrawal),
                Err(issue) => message(self.rejected(bytes, issue), false),
            },
            (Some(Method::Put), Some(resource)) if kind.has_requests() => {
                let Some((resource_type, id, None)) = request.and_then(|request| address(&request.url)) else { return bad(".request.url") };
                message(self.prepare(resource).held_to_address(resource_type, id), true)
            }
            (Some(Method::Post), Some(resource)) if kind.has_requests() => {
                let prepared = self.prepare(resource);
                let is_type_asked = request.is_some_and(|request| last_segment(&request.url) == prepared.resource_type);
                if prepared.disposition != Disposition::Rejected && !is_type_asked { bad(".request.url") } else { message(prepared, false) }
            }
            (Some(Method::Get | Method::Head | Method::Patch | Method::Post | Method::Put), _) if kind.has_requests() => bad(".request.method"),
            (_, Some(resource)) => message(self.prepare(resource), false),
            (_, None) => bad(".resource"),
        }
    }

    fn prepare(&self, resource: &[u8]) -> Prepared {
        receive::prepare_in(self.catalogue, self.site, &self.references, resource)
    }

    fn rejected(&self, bytes: &[u8], issue: Issue) -> Prepared {
        Prepared::rejected("-", bytes, &self.site.hash, vec![issue])
    }

    /// A history's DELETE made a version of its own, which its response names: a result that came back afterwards stands.
    fn withdrawal(&self, index: usize, entry: &Entry<'_>) -> Result<Withdrawal, Issue> {
        let request = entry.request.as_ref().expect("a method stands in a request");
        let (resource_type, id, of_url) = address(&request.url).ok_or_else(|| bad(index, ".request.url"))?;
        let if_match = request.if_match.as_deref().map(|etag| version_of(etag).ok_or_else(|| bad(index, ".request.ifMatch"))).transpose()?;
        let withdrawal = Withdrawal { resource_type: resource_type.to_owned(), id: id.to_owned(), if_match, deleted_ms: None };
        if self.bundle.kind != Kind::History {
            return if of_url.is_none() { Ok(withdrawal) } else { Err(bad(index, ".request.url")) };
        }
        if self.overtaken.contains(&index) {
            return Err(bad(index, ".response").with_detail("a DELETE without version or time, and a newer version before it"));
        }
        Ok(Withdrawal { if_match: withdrawal.if_match.or_else(|| of_response(entry)).or(of_url), deleted_ms: deleted_ms(entry), ..withdrawal })
    }
}

fn bad(index: usize, element: &str) -> Issue {
    Issue::new(Code::InvalidBundle, format!("Bundle.entry[{index}]{element}"))
}

fn of_response(entry: &Entry<'_>) -> Option<String> {
    entry.response.as_ref()?.etag.as_deref().and_then(version_of)
}

fn deleted_ms(entry: &Entry<'_>) -> Option<i64> {
    PartialDate::parse(entry.response.as_ref()?.last_modified.as_deref()?).ok().map(|date| date.start_ms)
}

/// A history's newest entries come first, so that a version before a DELETE was made after it.
fn overtaken(bundle: &Bundle<'_>) -> HashSet<usize> {
    let mut overtaken = HashSet::new();
    if bundle.kind != Kind::History {
        return overtaken;
    }
    let mut shown: HashSet<(&str, &str)> = HashSet::new();
    let is_bare = |entry: &Entry<'_>| of_response(entry).is_none() && deleted_ms(entry).is_none();
    // Only a bare DELETE needs what came before it, and servers hardly write one.
    if !bundle.entries.iter().flatten().any(|entry| is_deletion(entry) && is_bare(entry)) {
        return overtaken;
    }
    for (index, entry) in bundle.entries.iter().enumerate() {
        let Ok(entry) = entry else { continue };
        if let Some(resource) = entry.resource.and_then(|bytes| RawResource::parse(bytes).ok()) {
            shown.extend(resource.id.map(|id| (resource.resource_type, id)));
        } else if is_deletion(entry)
            && is_bare(entry)
            && let Some((resource_type, id, None)) = entry.request.as_ref().and_then(|request| address(&request.url))
            && shown.contains(&(resource_type, id))
        {
            overtaken.insert(index);
        }
    }
    overtaken
}

fn is_deletion(entry: &Entry<'_>) -> bool {
    entry.request.as_ref().is_some_and(|request| request.method == Method::Delete)
}

fn message(prepared: Prepared, is_put: bool) -> Asked {
    Asked::Message { message: Box::new(prepared), is_put }
}

fn last_segment(url: &str) -> &str {
    url.rsplit_once('/').map_or(url, |(_, last)| last)
}

/// `Type/id`, also behind a base URL, and the version where `/_history/version` follows; a search (`Type?...`) is none.
fn address(url: &str) -> Option<(&str, &str, Option<String>)> {
    let (place, version) = match url.split_once("/_history/") {
        Some((place, version)) => (place, Some(version)),
        None => (url, None),
    };
    let (rest, id) = place.rsplit_once('/')?;
    let resource_type = last_segment(rest);
    let is_good = is_type(resource_type) && is_id(id) && version.is_none_or(is_id);
    is_good.then(|| (resource_type, id, version.map(str::to_owned)))
}

/// The version in an ETag: `W/"3"`, `"3"`; `None` for lists and `*`.
pub fn version_of(etag: &str) -> Option<String> {
    let etag = etag.trim();
    let quoted = etag.strip_prefix("W/").unwrap_or(etag);
    let version = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(quoted);
    is_id(version).then(|| version.to_owned())
}
