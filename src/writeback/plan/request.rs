//! One thing as it should be, held against what was written before, and turned into a request.

use super::super::ladder::Rung;
use super::super::{Form, Purpose, Receiver, WriteBack, Written, keys, search_parameter};
use super::stance::Told;
use crate::digest::sha256_hex;
use crate::fhir::{WRITE_BACK_SYSTEM, edit};

/// One resource, or one mark on a resource of the hospital's, as it should be.
pub struct Wanted {
    pub kind: &'static str,
    pub key: String,
    pub purpose: Purpose,
    /// The resource without an id, or the fragment; `None` to delete it.
    pub content: Option<String>,
    /// Hash of what it says, and of other spellings that are right too where they stand already.
    pub hashes: Vec<String>,
    /// Not written before is a reason to write.
    pub is_new_allowed: bool,
    /// `Type/id` of the resource of the hospital's that is marked.
    pub marks: Option<String>,
}

impl Wanted {
    /// A resource of ours that says `content`, with the hash of what that says.
    pub fn resource(kind: &'static str, key: String, purpose: Purpose, content: String, hash: String) -> Wanted {
        Wanted { kind, key, purpose, content: Some(content), hashes: vec![hash], is_new_allowed: purpose == Purpose::Annotate, marks: None }
    }

    /// A resource of ours that should not be there at all.
    pub fn deleted(kind: &'static str, key: String) -> Wanted {
        Wanted { kind, key, purpose: Purpose::Retract, content: None, hashes: vec![hash_of_delete()], is_new_allowed: false, marks: None }
    }

    /// What stands already and was taken back in another way is left at that.
    pub fn or_as_taken_back(mut self, told: Told, before: Option<&Written>) -> Wanted {
        if told == Told::Gone(super::stance::Why::Moved) {
            self.hashes.extend(before.filter(|before| !before.is_standing).map(|before| before.body_hash.clone()));
        }
        self
    }

    pub fn is_met_by(&self, request: &WriteBack) -> bool {
        self.key == request.key && self.hashes.contains(&request.body_hash)
    }

    fn is_due(&self, before: Option<&Written>) -> bool {
        let Some(before) = before else { return self.is_new_allowed };
        // What was planned as new, was never found there, and would not be written now, even if it is still true: the
        // outbox drops it, or looks whether it arrived.
        let is_no_longer_new = self.purpose == Purpose::Retract && before.is_standing && before.server_id.is_none() && self.marks.is_none();
        // What was changed as something that ends there stands again, in the very words: the record must say so.
        let stands_again = self.purpose == Purpose::Annotate && self.is_new_allowed && !before.is_standing;
        !self.hashes.contains(&before.body_hash) || is_no_longer_new || stands_again
    }
}

/// There is no body to hash.
fn hash_of_delete() -> String {
    sha256_hex(b"DELETE")
}

/// The request that is due, if any.
pub fn due(receiver: &Receiver, wanted: Wanted, written: &[Written]) -> Option<WriteBack> {
    let before = written.iter().find(|before| before.key == wanted.key);
    wanted.is_due(before).then(|| match &wanted.marks {
        Some(_) => mark(wanted),
        None => request(receiver, wanted, before),
    })
}

/// Order in which a server that checks references accepts them, and the word of the rung.
fn place(kind: &str) -> (i32, &'static str) {
    match kind {
        "ResearchStudy" => (0, Rung::ResearchSubject.word()),
        "ResearchSubject" => (1, Rung::ResearchSubject.word()),
        "Flag" => (1, Rung::Flag.word()),
        "List" => (1, Rung::List.word()),
        "Group" => (1, Rung::Group.word()),
        "DocumentReference" => (1, Rung::DocumentReference.word()),
        "Communication" => (1, Rung::Communication.word()),
        "Provenance" => (3, "beside"),
        _ => (2, "beside"),
    }
}

fn request(receiver: &Receiver, wanted: Wanted, before: Option<&Written>) -> WriteBack {
    let Wanted { kind, key, purpose, content, hashes, is_new_allowed: _, marks: _ } = wanted;
    let search = format!("{}={WRITE_BACK_SYSTEM}|{key}", search_parameter(kind));
    let id = before.and_then(|before| before.server_id.clone()).or_else(|| receiver.update_creates.then(|| keys::own_id(&key)));
    let mut headers = vec![("Accept".to_owned(), "application/fhir+json".to_owned())];
    if content.is_some() {
        headers.push(("Content-Type".to_owned(), "application/fhir+json".to_owned()));
        headers.push(("Prefer".to_owned(), "return=representation".to_owned()));
    }
    let (method, url) = match (&id, &content, purpose) {
        (Some(id), Some(_), _) => ("PUT", format!("{kind}/{id}")),
        (Some(id), None, _) => ("DELETE", format!("{kind}/{id}")),
        (None, Some(_), Purpose::Annotate) => {
            headers.push(("If-None-Exist".to_owned(), search.clone()));
            ("POST", kind.to_owned())
        }
        // Its id at the server is not known yet; the look before sending finds it.
        (None, Some(_), Purpose::Retract) => ("PUT", format!("{kind}?{search}")),
        (None, None, _) => ("DELETE", format!("{kind}?{search}")),
    };
    let body = match (&id, content) {
        (Some(id), Some(content)) => edit::with_id(&content, id),
        (None, Some(content)) => content,
        (_, None) => String::new(),
    };
    let (order, rung) = place(kind);
    WriteBack {
        key,
        resource_type: kind.to_owned(),
        purpose,
        order,
        method: method.to_owned(),
        url,
        headers,
        body,
        body_hash: hashes.into_iter().next().expect("what is wanted has a hash"),
        search,
        rung: rung.to_owned(),
        form: Form::Resource,
        left_out: Vec::new(),
    }
}

/// The same for a mark: how it is added or taken out depends on what the server can do, and is decided when it is sent.
fn mark(wanted: Wanted) -> WriteBack {
    let Wanted { kind, key, purpose, content, hashes, is_new_allowed: _, marks } = wanted;
    let url = marks.expect("a mark is on something");
    let search = format!("_id={}", url.split_once('/').map_or(url.as_str(), |(_, id)| id));
    WriteBack {
        key,
        resource_type: kind.to_owned(),
        purpose,
        order: 2,
        method: "PATCH".to_owned(),
        url,
        headers: vec![("Accept".to_owned(), "application/fhir+json".to_owned())],
        body: content.unwrap_or_default(),
        body_hash: hashes.into_iter().next().expect("what is wanted has a hash"),
        search,
        rung: "annotation".to_owned(),
        form: Form::Fragment,
        left_out: Vec::new(),
    }
}
