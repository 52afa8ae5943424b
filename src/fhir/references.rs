//! Whom an entry of a Bundle means by `urn:uuid:...` or `urn:oid:...`. In documents, messages and transactions resources
//! name each other by the `fullUrl` of their entries, which means something in that Bundle alone. Here such a reference
//! becomes the `Type/id` of the resource in the entry, in the view that is read; the bytes stay as they came. References
//! that are no URN are left alone: a foreign server's address does not become ours because it stands in an envelope.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map;

use serde::Deserialize;

use super::bundle::{Bundle, Entry};
use super::is_id;
use super::view::{Reference, Text};

/// What the URNs of one Bundle mean.
#[derive(Clone, Debug, Default)]
pub struct References {
    /// By URN, in lower case.
    targets: HashMap<String, Target>,
    subject: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    /// `Type/id`.
    Resource(String),
    WithoutId,
    Several,
}

/// Why nobody is meant.
const WITHOUT_ID: &str = "the resource in the Bundle has no id";
const SEVERAL: &str = "two resources in the Bundle have this fullUrl";
const NOWHERE: &str = "urn, and no entry of the Bundle has it";
const OUTSIDE: &str = "urn";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct HeadView<'a> {
    #[serde(borrow)]
    resource_type: Option<Text<'a>>,
    #[serde(borrow)]
    id: Option<Text<'a>>,
}

impl References {
    pub fn of(bundle: &Bundle<'_>) -> References {
        let mut references = References::default();
        for entry in bundle.entries.iter().flatten() {
            references.learn(entry);
        }
        references
    }

    /// Of one message that came in a Bundle and is read anew: whose it is was found then and kept beside it. What else it
    /// named in the Bundle is not kept.
    pub fn kept(subject: Option<&str>) -> References {
        References { targets: HashMap::new(), subject: subject.map(|subject| format!("Patient/{subject}")) }
    }

    fn learn(&mut self, entry: &Entry<'_>) {
        let (Some(full_url), Some(resource)) = (entry.full_url.as_deref().and_then(urn), entry.resource) else { return };
        let Ok(head) = serde_json::from_slice::<HeadView<'_>>(resource) else { return };
        let Some(resource_type) = head.resource_type else { return };
        let target = match head.id.as_deref().filter(|id| is_id(id)) {
            Some(id) => Target::Resource(format!("{}/{id}", &*resource_type)),
            None => Target::WithoutId,
        };
        match self.targets.entry(full_url) {
            hash_map::Entry::Vacant(vacant) => {
                vacant.insert(target);
            }
            // Several versions of one resource share their fullUrl.
            hash_map::Entry::Occupied(mut known) if *known.get() != target => {
                known.insert(Target::Several);
            }
            hash_map::Entry::Occupied(_) => {}
        }
    }

    /// Resolves a resource's reference to whom it is about.
    pub fn resolve_subject(&self, reference: &mut Option<Reference<'_>>) {
        let Some(reference) = reference else { return };
        match &self.subject {
            Some(subject) if reference.reference.as_deref().is_some_and(is_urn) => reference.reference = Some(Text(Cow::Owned(subject.clone()))),
            Some(_) | None => self.resolve(reference),
        }
    }

    /// Resolves a reference where it is one into the Bundle.
    pub fn resolve(&self, reference: &mut Reference<'_>) {
        let Some(urn) = reference.reference.as_deref().and_then(urn) else { return };
        match self.targets.get(&urn) {
            Some(Target::Resource(target)) => reference.reference = Some(Text(Cow::Owned(target.clone()))),
            Some(Target::WithoutId) => reference.dangling = Some(WITHOUT_ID),
            Some(Target::Several) => reference.dangling = Some(SEVERAL),
            None => reference.dangling = Some(if self.targets.is_empty() { OUTSIDE } else { NOWHERE }),
        }
    }
}

fn is_urn(text: &str) -> bool {
    text.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("urn:"))
}

/// A URN as it is compared: hexadecimal digits of a UUID mean the same in either case.
fn urn(text: &str) -> Option<String> {
    is_urn(text).then(|| text.to_ascii_lowercase())
}
