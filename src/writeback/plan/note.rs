//! Notes in words: a text document in the chart, or a message. For receivers that take nothing that a machine reads
//! better, so the text itself says what the study is, on what it rests and where to read why.

use super::super::Purpose;
use super::case::Case;
use super::request::Wanted;
use super::stance::{Told, document_status, message_status, told};
use crate::fhir::study_flagged::{self, Identity, Note};

pub fn document(case: &Case<'_>) -> Option<Wanted> {
    note(case, "DocumentReference", document_status, study_flagged::document_reference)
}

pub fn message(case: &Case<'_>) -> Option<Wanted> {
    note(case, "Communication", message_status, study_flagged::communication)
}

fn note(case: &Case<'_>, kind: &'static str, status: fn(Told) -> &'static str, build: fn(Identity<'_>, Note<'_>) -> String) -> Option<Wanted> {
    let key = case.key(kind);
    let before = case.before(&key);
    let (purpose, told) = told(case.stance, case.receiver.ladder.writes(kind));
    if purpose == Purpose::Retract && before.is_none() {
        return None;
    }
    let (title, text) = (case.says(told), text(case, told));
    let content = case.with_named_study(|study| {
        let note = Note { status: status(told), title: &title, text: &text, patient: &case.patient, author: &case.receiver.organization, study };
        case.build(&key, |identity| build(identity, note))
    });
    let hash = case.hash(&content);
    Some(Wanted::resource(kind, key, purpose, content, hash).or_as_taken_back(told, before))
}

fn text(case: &Case<'_>, told: Told) -> String {
    let mut lines = vec![case.says(told)];
    if told == Told::State {
        lines.extend(case.study.registry.iter().map(|registry| format!("Registered as {} at {}", registry.value, registry.system)));
        lines.extend(case.results().iter().map(|evidence| match &evidence.date {
            Some(date) => format!("Rests on {} of {date}", evidence.resource),
            None => format!("Rests on {}", evidence.resource),
        }));
    }
    lines.push(about_us(case, told));
    lines.join("\n") + "\n"
}

/// Who wrote it, and where to read why.
pub fn about_us(case: &Case<'_>, told: Told) -> String {
    let organization = &case.receiver.organization;
    match (told, &case.why) {
        (Told::State, Some(why)) => format!("Written by software for {organization}, and taken back when it no longer holds. Why: {why}"),
        (Told::State, None) => format!("Written by software for {organization}, and taken back when it no longer holds."),
        (Told::Gone(_), _) => format!("Taken back by software for {organization}."),
    }
}
