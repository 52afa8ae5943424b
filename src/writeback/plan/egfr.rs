//! The computed eGFR, where the site asks for it (rulings.md 27).

use super::super::{Form, Purpose, Written};
use super::case::Case;
use super::request::Wanted;
use super::stance::{Stance, Why};
use crate::fhir::{edit, study_flagged};
use crate::rules::{Role, SeriesPoint};

/// The text under each computed eGFR (rulings.md 27).
const NOTE: &str = "research calculation, not a laboratory result";

/// One Observation for each creatinine that counted once, under its own key: a later result does not rewrite an
/// earlier one. What a source no longer says is entered in error; what it says otherwise now is corrected.
pub fn observations(case: &Case<'_>) -> Vec<Wanted> {
    let Some(policy) = &case.study.egfr else { return Vec::new() };
    let assessment = case.assessment;
    let counts = assessment
        .criteria
        .iter()
        .flat_map(|criterion| &criterion.evidence)
        .find(|evidence| evidence.role == Role::Used && evidence.egfr.is_some() && evidence.egfr == assessment.egfr)
        .map(|evidence| evidence.resource.as_str());
    let key_of = |point: &SeriesPoint| case.key(&format!("eGFR {}", point.resource));
    let mut all = Vec::new();
    let mut of_series = Vec::new();
    for point in &assessment.series {
        let key = key_of(point);
        of_series.push(key.clone());
        let before = case.before(&key);
        let is_new_allowed = case.stance == Stance::Write && case.receiver.beside.egfr_observation && counts == Some(point.resource.as_str());
        if before.is_none() && !is_new_allowed {
            continue;
        }
        let [plain, corrected] = ["final", "corrected"].map(|status| content(case, policy.equation.id(), point, &key, status));
        let hashes = [case.hash(&plain), case.hash(&corrected)];
        let says_so_already = before.is_none_or(|before| hashes.contains(&before.body_hash));
        let wanted = |purpose, content, hashes: [String; 2], is_new_allowed| Wanted {
            kind: "Observation",
            key: key.clone(),
            purpose,
            content: Some(content),
            hashes: hashes.into(),
            is_new_allowed,
            marks: None,
        };
        let [plain_hash, corrected_hash] = hashes;
        all.push(match (case.stance, before) {
            (Stance::Follow | Stance::Write, Some(before)) if !says_so_already && before.server_id.is_some() => {
                wanted(Purpose::Annotate, corrected, [corrected_hash, plain_hash], is_new_allowed)
            }
            (Stance::Follow | Stance::Write, _) => wanted(Purpose::Annotate, plain, [plain_hash, corrected_hash], is_new_allowed),
            // The verdict turned on newer results; what was calculated from this one stays true.
            (Stance::TakeBack(Why::Ineligible), _) if says_so_already => wanted(Purpose::Retract, plain, [plain_hash, corrected_hash], false),
            (Stance::TakeBack(_), Some(before)) => entered_in_error(case, before),
            (Stance::TakeBack(_), None) => continue,
        });
    }
    let ours = case.written.iter().filter(|before| before.resource_type == "Observation" && before.form == Form::Resource);
    all.extend(ours.filter(|before| !of_series.contains(&before.key)).map(|before| entered_in_error(case, before)));
    all
}

/// The same Observation, withdrawn: R4's only status for that after a final release.
fn entered_in_error(case: &Case<'_>, before: &Written) -> Wanted {
    let content = edit::without_id(&edit::with_status(&before.body, "entered-in-error"));
    let hash = case.hash(&content);
    Wanted::resource("Observation", before.key.clone(), Purpose::Retract, content, hash)
}

/// LOINC codes that name one equation; another equation is named by its method alone.
fn loinc_of_equation(equation: &str) -> Option<&'static str> {
    match equation {
        "ckd-epi-2021-creatinine" => Some("98979-8"),
        "ckd-epi-2021-creatinine-cystatin-c" => Some("98980-6"),
        _ => None,
    }
}

fn content(case: &Case<'_>, equation: &str, point: &SeriesPoint, key: &str, status: &str) -> String {
    case.with_named_study(|study| {
        let egfr = study_flagged::Egfr {
            status,
            loinc: loinc_of_equation(equation),
            name: "eGFR, calculated for research",
            method: equation,
            patient: &case.patient,
            effective: &point.date,
            // One decimal, mL/min/1.73 m2: verdicts use the unrounded number, and a whole number would hide which
            // side of 44 or 45 it lies on.
            value: &format!("{:.1}", point.egfr),
            derived_from: &point.resource,
            performer: &case.receiver.organization,
            note: NOTE,
            study: (!case.receiver.takes.no_extensions).then_some(study),
        };
        case.build(key, |identity| study_flagged::egfr_observation(identity, egfr))
    })
}
