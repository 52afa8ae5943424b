//! Subjects and results by the list: a List about one subject, a Group of the subjects of one study.

use fhirbolt::model::r4::Resource;
use fhirbolt::model::r4::resources::{Group, GroupMember, List, ListEntry};
use fhirbolt::model::r4::types::{Annotation, Reference, UnsignedInt};

use super::{Identity, Target, VerdictEvidence, extensions, identifiers, meta, reference, text, words};

/// What a List about one subject says.
#[derive(Clone, Copy, Debug)]
pub struct StudyList<'a> {
    /// `current`, `retired` or `entered-in-error`.
    pub status: &'a str,
    /// The text people read.
    pub title: &'a str,
    /// `Patient/id`.
    pub patient: &'a str,
    /// Name of the organisation that answers for it.
    pub source: &'a str,
    /// References to the results that count.
    pub entries: &'a [String],
    pub note: Option<&'a str>,
}

/// A List about one subject, with the results that count.
pub fn list(identity: Identity<'_>, of: StudyList<'_>, evidence: Option<&VerdictEvidence<'_>>) -> String {
    text(Resource::List(Box::new(List {
        id: identity.id.map(Into::into),
        meta: meta(identity),
        extension: extensions::verdict_evidence(evidence),
        identifier: identifiers(identity),
        status: of.status.into(),
        mode: "working".into(),
        title: Some(of.title.into()),
        code: Some(Box::new(words("research study"))),
        subject: Some(reference(Target::Literal(of.patient))),
        // A display alone: R4 knows no Organization here, and the server no such person.
        source: Some(Box::new(Reference { display: Some(of.source.into()), ..Default::default() })),
        note: of.note.map(|note| Annotation { text: note.into(), ..Default::default() }).into_iter().collect(),
        entry: of.entries.iter().map(|entry| ListEntry { item: reference(Target::Literal(entry)), ..Default::default() }).collect(),
        ..Default::default()
    })))
}

/// One member of a Group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// `Patient/id`.
    pub patient: String,
    /// Took part, and no longer does.
    pub is_inactive: bool,
}

/// A Group of actual persons: the subjects of one study at one site.
pub fn group(identity: Identity<'_>, is_active: bool, name: &str, members: &[Member]) -> String {
    let member = |member: &Member| GroupMember {
        entity: reference(Target::Literal(&member.patient)),
        inactive: member.is_inactive.then(|| true.into()),
        ..Default::default()
    };
    text(Resource::Group(Box::new(Group {
        id: identity.id.map(Into::into),
        meta: meta(identity),
        identifier: identifiers(identity),
        active: Some(is_active.into()),
        r#type: "person".into(),
        actual: true.into(),
        code: Some(Box::new(words("subjects of a research study"))),
        name: Some(name.into()),
        quantity: u32::try_from(members.len()).ok().map(UnsignedInt::from),
        member: members.iter().map(member).collect(),
        ..Default::default()
    })))
}
