//! A Provenance for each resource on the ladder, where the site asks for it: who wrote it, from which results, by which
//! rules. It is never taken away: when its target is, it says that.

use super::super::{Purpose, keys};
use super::case::Case;
use super::request::Wanted;
use super::stance::{Stance, Told, activity, told};
use crate::clinical::date::PartialDate;
use crate::fhir::WRITE_BACK_SYSTEM;
use crate::fhir::study_flagged::{self, Target};

const KINDS: [&str; 5] = ["ResearchSubject", "Flag", "List", "DocumentReference", "Communication"];

pub fn provenances(case: &Case<'_>) -> Vec<Wanted> {
    KINDS.iter().filter_map(|kind| provenance(case, kind)).collect()
}

fn provenance(case: &Case<'_>, kind: &'static str) -> Option<Wanted> {
    let key = case.key(&format!("Provenance of {kind}"));
    let before = case.before(&key);
    let (purpose, told) = told(case.stance, case.receiver.ladder.writes(kind));
    let is_new_allowed = purpose == Purpose::Annotate && case.receiver.beside.provenance;
    if before.is_none() && !is_new_allowed {
        return None;
    }
    let recorded = PartialDate::instant(case.assessment.as_of_ms).to_string();
    let mut files = vec![("rules of the study", case.study.hash.as_str()), ("mapping of the site", case.mapping_hash)];
    files.retain(|(_, hash)| !hash.is_empty());
    let content = |target: Target<'_>| {
        case.build(&key, |identity| {
            let of = study_flagged::Provenance {
                target,
                recorded: &recorded,
                activity: activity(told),
                on_behalf_of: &case.receiver.organization,
                sources: if told == Told::State { case.sources() } else { &[] },
                files: &files,
            };
            study_flagged::provenance(identity, of)
        })
    };
    // When it was recorded does not make it say anything else.
    let hash = |content: &str| case.hash(&content.replace(&recorded, ""));
    let target_key = case.key(kind);
    let by_identifier = content(Target::Logical(kind, (WRITE_BACK_SYSTEM, &target_key)));
    let id = if case.receiver.update_creates {
        Some(keys::own_id(&target_key))
    } else {
        case.before(&target_key).and_then(|before| before.server_id.clone())
    };
    let mut hashes = vec![hash(&by_identifier)];
    let content = match id {
        Some(id) => {
            let literal = content(Target::Literal(&format!("{kind}/{id}")));
            hashes.insert(0, hash(&literal));
            literal
        }
        None => by_identifier,
    };
    // From enrolment on it stays as it was written: that it rested on those results remains true.
    let is_settled = told == Told::State && (case.stance == Stance::Follow || case.assessment.was_enrolled);
    hashes.extend(before.filter(|before| is_settled && before.is_standing).map(|before| before.body_hash.clone()));
    Some(Wanted { kind: "Provenance", key, purpose, content: Some(content), hashes, is_new_allowed, marks: None }.or_as_taken_back(told, before))
}
