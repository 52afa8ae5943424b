//! The best rung: a ResearchStudy, and a ResearchSubject whose status is the subject's state.

use super::super::{Purpose, Receiver};
use super::case::{Case, key};
use super::request::Wanted;
use super::stance::{Told, status_of_state, status_when_taken_back, told};
use crate::digest::sha256_hex;
use crate::fhir::WRITE_BACK_SYSTEM;
use crate::fhir::study_flagged::{self, Identity, Target};
use crate::study::Study;

/// It belongs to no subject and is never taken back: the study is there whoever is in it.
pub fn study(receiver: &Receiver, study: &Study) -> Wanted {
    let key = key(receiver, study, "", "ResearchStudy");
    let mut identifiers = vec![(WRITE_BACK_SYSTEM, key.as_str())];
    identifiers.extend(study.registry.iter().map(|registry| (registry.system.as_str(), registry.value.as_str())));
    let arms: Vec<(String, String)> = study.arms.iter().map(|arm| (arm.name.clone(), format!("{} cells, one dose", arm.cells))).collect();
    let identity = Identity { id: None, identifiers: &identifiers, is_test: receiver.tag_test };
    let content = study_flagged::research_study(identity, &study.title, &arms);
    let hash = sha256_hex(content.as_bytes());
    Wanted::resource("ResearchStudy", key, Purpose::Annotate, content, hash)
}

pub fn subject(case: &Case<'_>) -> Option<Wanted> {
    let key = case.key("ResearchSubject");
    let before = case.before(&key);
    let (purpose, told) = told(case.stance, case.receiver.ladder.writes("ResearchSubject"));
    if purpose == Purpose::Retract && before.is_none() {
        return None;
    }
    let status = match told {
        // A status that its state does not have any more is the end of its part.
        Told::State => status_of_state(case.assessment.state, case.assessment.was_enrolled).or(Some("off-study")),
        Told::Gone(why) => status_when_taken_back(why),
    };
    let Some(status) = status.or((!case.receiver.deletes).then_some("not-registered")) else {
        return Some(Wanted::deleted("ResearchSubject", key));
    };
    let evidence = case.evidence(told);
    let content =
        |study: Target<'_>| case.build(&key, |identity| study_flagged::research_subject(identity, status, study, &case.patient, evidence.as_ref()));
    let study_key = self::key(case.receiver, case.study, "", "ResearchStudy");
    let by_identifier = content(Target::Logical("ResearchStudy", (WRITE_BACK_SYSTEM, &study_key)));
    let mut wanted = match case.study_url() {
        Some(url) => {
            let content = content(Target::Literal(&url));
            let hash = case.hash(&content);
            let mut wanted = Wanted::resource("ResearchSubject", key.clone(), purpose, content, hash);
            // What was written before the server had told us its id of the study stays right.
            wanted.hashes.push(case.hash(&by_identifier));
            wanted
        }
        None => {
            let hash = case.hash(&by_identifier);
            Wanted::resource("ResearchSubject", key.clone(), purpose, by_identifier, hash)
        }
    };
    wanted = wanted.or_as_taken_back(told, before);
    Some(wanted)
}
