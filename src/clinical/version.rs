//! Which of two versions of one thing is newer (rulings.md 6): the one rule, for the chart, which sees facts, and for the
//! ledger, which sees what a server keeps beside a resource and asks for the rest only where that does not tell.

use std::cmp::Ordering;

use super::fact::{Fact, Status};

/// What tells how new a version is. When it arrived does not.
#[derive(Clone, Copy, Debug)]
pub struct Version<'a> {
    pub meta: Meta<'a>,
    pub issued_ms: Option<i64>,
    pub status: Status,
}

/// What a server keeps beside a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta<'a> {
    /// `meta.versionId`.
    pub version: Option<&'a str>,
    /// `meta.lastUpdated`, ms since 1970 UTC.
    pub last_updated_ms: Option<i64>,
}

impl<'a> Version<'a> {
    pub fn of(fact: &'a Fact) -> Version<'a> {
        let meta = Meta { version: fact.source.version.as_deref(), last_updated_ms: fact.source.last_updated_ms };
        Version { meta, issued_ms: fact.issued_ms, status: fact.status }
    }
}

/// Of one source id, by number or by time of update; `Equal` for one version number, `None` where the content has to tell.
pub fn compare_meta(a: Meta<'_>, b: Meta<'_>) -> Option<Ordering> {
    let number = |meta: Meta<'_>| meta.version.and_then(|version| version.parse::<u64>().ok());
    if let (Some(a), Some(b)) = (number(a), number(b)) {
        return Some(a.cmp(&b));
    }
    match (a.last_updated_ms, b.last_updated_ms) {
        (Some(a), Some(b)) => decided(a.cmp(&b)),
        (Some(_), None) | (None, Some(_)) | (None, None) => None,
    }
}

/// Of one source id; `None` when nothing says which is newer.
pub fn compare(a: Version<'_>, b: Version<'_>) -> Option<Ordering> {
    match compare_meta(a.meta, b.meta) {
        // Within one version only a DELETE, or another later status, tells them apart.
        Some(Ordering::Equal) => decided(a.status.rank().cmp(&b.status.rank())),
        Some(order) => Some(order),
        None => compare_content(a, b),
    }
}

/// By `issued`, then by status: across ids, and where a server keeps nothing beside a resource.
pub fn compare_content(a: Version<'_>, b: Version<'_>) -> Option<Ordering> {
    match (a.issued_ms, b.issued_ms) {
        (Some(a_issued), Some(b_issued)) if a_issued != b_issued => Some(a_issued.cmp(&b_issued)),
        _ => decided(a.status.rank().cmp(&b.status.rank())),
    }
}

fn decided(ordering: Ordering) -> Option<Ordering> {
    (ordering != Ordering::Equal).then_some(ordering)
}
