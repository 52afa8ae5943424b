//! The Flag: what people see when they open the chart.

use super::super::Purpose;
use super::case::Case;
use super::request::Wanted;
use super::stance::{flag_status, told};
use crate::fhir::study_flagged;

pub fn flag(case: &Case<'_>) -> Option<Wanted> {
    let key = case.key("Flag");
    let before = case.before(&key);
    let (purpose, told) = told(case.stance, case.receiver.ladder.writes("Flag"));
    if purpose == Purpose::Retract && before.is_none() {
        return None;
    }
    let (status, says, evidence) = (flag_status(told, case.assessment.state), case.says(told), case.evidence(told));
    let content =
        case.build(&key, |identity| study_flagged::flag(identity, status, &says, &case.patient, &case.receiver.organization, evidence.as_ref()));
    let hash = case.hash(&content);
    Some(Wanted::resource("Flag", key, purpose, content, hash).or_as_taken_back(told, before))
}
