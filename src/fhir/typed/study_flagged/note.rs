//! Notes in words, for receivers that take nothing better: a text document in the chart, or a message.

use fhirbolt::model::r4::Resource;
use fhirbolt::model::r4::resources::{
    Communication, CommunicationPayload, CommunicationPayloadContent, DocumentReference, DocumentReferenceContent, DocumentReferenceContext,
};
use fhirbolt::model::r4::types::{Attachment, Reference};

use super::base64::base64;
use super::{Identity, Target, concept, identifiers, meta, reference, text, words};

/// What a note says.
#[derive(Clone, Copy, Debug)]
pub struct Note<'a> {
    /// Of the type it is written as.
    pub status: &'a str,
    /// The first line: what people read in a list of notes.
    pub title: &'a str,
    /// The whole text.
    pub text: &'a str,
    /// `Patient/id`.
    pub patient: &'a str,
    /// Name of the organisation that answers for it.
    pub author: &'a str,
    pub study: Target<'a>,
}

/// A text note in the chart; `status` is `current`, `superseded` or `entered-in-error`. LOINC 34109-9 is "Note".
pub fn document_reference(identity: Identity<'_>, note: Note<'_>) -> String {
    let doc_status = if note.status == "entered-in-error" { "entered-in-error" } else { "final" };
    text(Resource::DocumentReference(Box::new(DocumentReference {
        id: identity.id.map(Into::into),
        meta: meta(identity),
        identifier: identifiers(identity),
        status: note.status.into(),
        doc_status: Some(doc_status.into()),
        r#type: Some(Box::new(concept("http://loinc.org", "34109-9"))),
        category: vec![words("research study")],
        subject: Some(reference(Target::Literal(note.patient))),
        author: vec![*author(note.author)],
        description: Some(note.title.into()),
        content: vec![DocumentReferenceContent {
            attachment: Box::new(Attachment {
                content_type: Some("text/plain".into()),
                data: Some(base64(note.text.as_bytes()).into()),
                title: Some(note.title.into()),
                ..Default::default()
            }),
            ..Default::default()
        }],
        context: Some(DocumentReferenceContext { related: vec![*reference(note.study)], ..Default::default() }),
        ..Default::default()
    })))
}

/// A message about the subject; `status` is `completed`, `stopped` or `entered-in-error`.
pub fn communication(identity: Identity<'_>, note: Note<'_>) -> String {
    text(Resource::Communication(Box::new(Communication {
        id: identity.id.map(Into::into),
        meta: meta(identity),
        identifier: identifiers(identity),
        status: note.status.into(),
        category: vec![concept("http://terminology.hl7.org/CodeSystem/communication-category", "notification")],
        subject: Some(reference(Target::Literal(note.patient))),
        topic: Some(Box::new(words(note.title))),
        about: vec![*reference(note.study)],
        sender: Some(author(note.author)),
        payload: vec![CommunicationPayload { content: CommunicationPayloadContent::String(note.text.into()), ..Default::default() }],
        ..Default::default()
    })))
}

/// A display alone: a server that checks references would ask for an Organization that only we know.
fn author(name: &str) -> Box<Reference> {
    Box::new(Reference { display: Some(name.into()), ..Default::default() })
}
