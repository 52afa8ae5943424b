//! What each entry of a Bundle asks for: a resource to take, or one to withdraw. Every door that is handed a Bundle asks
//! here, so that a history's DELETE withdraws whichever way it came.

use super::receive;
use crate::catalogue::Catalogue;
use crate::fhir::bundle::{Entry, Kind, Method};
use crate::fhir::{is_id, is_type};
use crate::issue::{Code, Disposition, Issue};
use crate::mapping::Site;
use crate::store::ledger::Prepared;

/// What one entry asks for.
pub enum Asked {
    /// A resource, prepared; `is_put` where the sender named its place.
    Message {
        message: Box<Prepared>,
        is_put: bool,
    },
    Withdraw(Withdrawal),
}

/// A resource that its source deleted, up to a version where one is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Withdrawal {
    pub resource_type: String,
    pub id: String,
    pub if_match: Option<String>,
}

/// Batch and transaction entries say what to do; in other Bundles a resource is taken, and a DELETE of a history withdraws.
pub fn prepare(catalogue: &Catalogue, site: &Site, kind: Kind, index: usize, entry: &Result<Entry<'_>, Issue>) -> Asked {
    let entry = match entry {
        Ok(entry) => entry,
        Err(issue) => return message(Prepared::rejected("-", &[], &site.hash, vec![issue.clone()]), false),
    };
    let bytes = entry.resource.unwrap_or_default();
    let bad = |element: &str| {
        let issue = Issue::new(Code::InvalidBundle, format!("Bundle.entry[{index}]{element}"));
        message(Prepared::rejected("-", bytes, &site.hash, vec![issue]), false)
    };
    let request = entry.request.as_ref();
    match (request.map(|request| request.method), entry.resource) {
        (Some(Method::Delete), _) => {
            let request = request.expect("a method stands in a request");
            let Some((resource_type, id)) = address(&request.url) else { return bad(".request.url") };
            let if_match = match request.if_match.as_deref().map(version_of) {
                Some(None) => return bad(".request.ifMatch"),
                Some(version) => version,
                None => None,
            };
            Asked::Withdraw(Withdrawal { resource_type: resource_type.to_owned(), id: id.to_owned(), if_match })
        }
        (Some(Method::Put), Some(resource)) if kind.has_requests() => {
            let Some((resource_type, id)) = request.and_then(|request| address(&request.url)) else { return bad(".request.url") };
            message(receive::prepare(catalogue, site, resource).held_to_address(resource_type, id), true)
        }
        (Some(Method::Post), Some(resource)) if kind.has_requests() => {
            let prepared = receive::prepare(catalogue, site, resource);
            let is_type_asked = request.is_some_and(|request| last_segment(&request.url) == prepared.resource_type);
            if prepared.disposition != Disposition::Rejected && !is_type_asked { bad(".request.url") } else { message(prepared, false) }
        }
        (Some(Method::Get | Method::Head | Method::Patch | Method::Post | Method::Put), _) if kind.has_requests() => bad(".request.method"),
        (_, Some(resource)) => message(receive::prepare(catalogue, site, resource), false),
        (_, None) => bad(".resource"),
    }
}

fn message(prepared: Prepared, is_put: bool) -> Asked {
    Asked::Message { message: Box::new(prepared), is_put }
}

fn last_segment(url: &str) -> &str {
    url.rsplit_once('/').map_or(url, |(_, last)| last)
}

/// `Type/id`, also behind a base URL; a search (`Type?...`) is none.
fn address(url: &str) -> Option<(&str, &str)> {
    let (rest, id) = url.rsplit_once('/')?;
    let resource_type = last_segment(rest);
    (is_type(resource_type) && is_id(id)).then_some((resource_type, id))
}

/// The version in an ETag: `W/"3"`, `"3"`; `None` for lists and `*`.
pub fn version_of(etag: &str) -> Option<String> {
    let etag = etag.trim();
    let quoted = etag.strip_prefix("W/").unwrap_or(etag);
    let version = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(quoted);
    is_id(version).then(|| version.to_owned())
}
