//! A List about one subject: the study, and the results that count.

use super::super::Purpose;
use super::case::Case;
use super::note;
use super::request::Wanted;
use super::stance::{Told, list_status, told};
use crate::fhir::study_flagged::{self, StudyList};

pub fn list(case: &Case<'_>) -> Option<Wanted> {
    let key = case.key("List");
    let before = case.before(&key);
    let (purpose, told) = told(case.stance, case.receiver.ladder.writes("List"));
    if purpose == Purpose::Retract && before.is_none() {
        return None;
    }
    let (title, evidence) = (case.says(told), case.evidence(told));
    let results = if told == Told::State { case.results() } else { &[] };
    let entries: Vec<String> = results.iter().map(|evidence| evidence.resource.clone()).collect();
    let note = note::about_us(case, told);
    let content = case.build(&key, |identity| {
        let list = StudyList {
            status: list_status(told),
            title: &title,
            patient: &case.patient,
            source: &case.receiver.organization,
            entries: &entries,
            note: Some(&note),
        };
        study_flagged::list(identity, list, evidence.as_ref())
    });
    let hash = case.hash(&content);
    Some(Wanted::resource("List", key, purpose, content, hash).or_as_taken_back(told, before))
}
