//! What should stand in the EHR about one subject, what stands there by our own record, and the requests between
//! the two. Every table of this half of the loop is on this page: states, statuses, what is taken back and how.

use super::keys;
use super::ladder::Rung;
use super::{Form, Purpose, Receiver, WriteBack, WriteFrom, Written, may_write};
use crate::digest::sha256_hex;
use crate::fhir::study_flagged::{self, Identity, Target};
use crate::fhir::{WRITE_BACK_SYSTEM, edit};
use crate::rules::{Assessment, Hidden, Role, SeriesPoint, SubjectState, Verdict};
use crate::study::Study;

/// The text under each computed eGFR (rulings.md 27).
const EGFR_NOTE: &str = "research calculation, not a laboratory result";

/// What may happen to what we wrote about a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stance {
    /// New resources may be written.
    Write,
    /// What stands follows the subject's state; nothing new is written.
    Follow,
    /// What stands is taken back.
    TakeBack(Why),
}

/// Why something is taken back: decides between "was true" and "never was" (rulings.md 29).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// The verdict turned, or screening failed.
    Ineligible,
    /// The person said no, or may no longer be written about.
    Withdrawn,
    Died,
    /// The record was merged into another; the survivor gets its own.
    Merged,
    /// A test patient, or a record that does not exist: it never was true.
    NeverTrue,
}

/// One resource as it should be.
struct Wanted {
    kind: &'static str,
    key: String,
    purpose: Purpose,
    /// The resource without an id; `None` to delete it.
    content: Option<String>,
    /// Another spelling that is right too, where it stands already.
    or_content: Option<String>,
    /// Not written before is a reason to write.
    is_new_allowed: bool,
}

/// Requests that bring the EHR from what was written to what should stand.
pub(super) fn requests(receiver: &Receiver, study: &Study, subject: &str, assessment: &Assessment, written: &[Written]) -> Vec<WriteBack> {
    let mut requests = Vec::new();
    for wanted in wanted(receiver, study, subject, assessment, written) {
        let before = written.iter().find(|before| before.key == wanted.key);
        let is_due = match before {
            None => wanted.is_new_allowed,
            Some(before) => !hashes(&wanted).contains(&before.body_hash) || is_no_longer_new(&wanted, before),
        };
        if is_due {
            requests.push(request(receiver, wanted, before));
        }
    }
    // The study goes only where something refers to it.
    if requests.iter().any(|request| request.purpose == Purpose::Annotate && request.resource_type == "ResearchSubject") {
        let wanted = research_study(receiver, study);
        let before = written.iter().find(|before| before.key == wanted.key);
        if before.is_none_or(|before| !hashes(&wanted).contains(&before.body_hash)) {
            requests.insert(0, request(receiver, wanted, before));
        }
    }
    requests
}

/// What was planned as new, was never found there, and would not be written now, even if it is still true: the outbox
/// drops it, or looks whether it arrived.
fn is_no_longer_new(wanted: &Wanted, before: &Written) -> bool {
    wanted.purpose == Purpose::Retract && before.is_standing && before.server_id.is_none()
}

/// Whether the request still says what should be said; looked at just before it is sent (rulings.md 28).
pub(super) fn is_still_wanted(
    receiver: &Receiver,
    study: &Study,
    subject: &str,
    assessment: &Assessment,
    written: &[Written],
    request: &WriteBack,
) -> bool {
    wanted(receiver, study, subject, assessment, written)
        .iter()
        .any(|wanted| wanted.key == request.key && hashes(wanted).contains(&request.body_hash))
}

pub(super) fn is_of_current_study(receiver: &Receiver, study: &Study, request: &WriteBack) -> bool {
    let wanted = research_study(receiver, study);
    wanted.key == request.key && hashes(&wanted).contains(&request.body_hash)
}

/// What may happen to what stands, or may come to stand, from this state on.
pub(super) fn stance(from: WriteFrom, assessment: &Assessment) -> Stance {
    match assessment.hidden {
        Some(Hidden::TestPatient | Hidden::NoPatient) => return Stance::TakeBack(Why::NeverTrue),
        Some(Hidden::Merged) => return Stance::TakeBack(Why::Merged),
        // After enrolment nothing hides that cells were given (rulings.md 20).
        Some(Hidden::OptedOut | Hidden::Restricted | Hidden::Deceased) if assessment.was_enrolled => return Stance::Follow,
        Some(Hidden::OptedOut | Hidden::Restricted) => return Stance::TakeBack(Why::Withdrawn),
        Some(Hidden::Deceased) => return Stance::TakeBack(Why::Died),
        None => {}
    }
    match assessment.state {
        SubjectState::None if assessment.was_enrolled => Stance::Follow,
        SubjectState::None | SubjectState::ScreenFailed => Stance::TakeBack(Why::Ineligible),
        // Until enrolment the flag stands only while the prescreen is met, consented or not (rulings.md 20).
        SubjectState::Candidate | SubjectState::Consented | SubjectState::Eligible if assessment.prescreen != Verdict::Met => {
            Stance::TakeBack(Why::Ineligible)
        }
        SubjectState::Candidate | SubjectState::Consented | SubjectState::Eligible | SubjectState::Enrolled | SubjectState::OnFollowUp => {
            if may_write(from, assessment.state) {
                Stance::Write
            } else {
                // Below the state from which this receiver is written to: consent was taken back, for one.
                Stance::TakeBack(Why::Withdrawn)
            }
        }
        SubjectState::Completed | SubjectState::Lost => Stance::Follow,
        SubjectState::Withdrawn | SubjectState::Deceased if assessment.was_enrolled => Stance::Follow,
        SubjectState::Withdrawn => Stance::TakeBack(Why::Withdrawn),
        SubjectState::Deceased => Stance::TakeBack(Why::Died),
    }
}

/// R4 ResearchSubject.status of a state (rulings.md 19); `None` where there is no ResearchSubject.
pub(super) fn status_of_state(state: SubjectState, was_enrolled: bool) -> Option<&'static str> {
    match state {
        SubjectState::None => None,
        SubjectState::Candidate => Some("candidate"),
        SubjectState::Consented => Some("screening"),
        SubjectState::Eligible => Some("eligible"),
        SubjectState::Enrolled => Some("on-study"),
        SubjectState::OnFollowUp => Some("follow-up"),
        SubjectState::Completed | SubjectState::Lost | SubjectState::Deceased => Some("off-study"),
        SubjectState::Withdrawn if was_enrolled => Some("off-study"),
        SubjectState::Withdrawn => Some("withdrawn"),
        SubjectState::ScreenFailed => Some("ineligible"),
    }
}

/// R4 ResearchSubject.status of what is taken back; `None`: delete it where the receiver allows that, else `not-registered`.
pub(super) fn status_when_taken_back(why: Why) -> Option<&'static str> {
    match why {
        Why::Ineligible => Some("ineligible"),
        Why::Withdrawn => Some("withdrawn"),
        Why::Died => Some("off-study"),
        Why::Merged => Some("not-registered"),
        Why::NeverTrue => None,
    }
}

/// Flag.status of what is taken back: `inactive` was true, `entered-in-error` never was.
fn flag_when_taken_back(why: Why) -> &'static str {
    match why {
        Why::Ineligible | Why::Withdrawn | Why::Died | Why::Merged => "inactive",
        Why::NeverTrue => "entered-in-error",
    }
}

/// Whether the flag is on in this state, and what it says. It names the study by its title, as the people who read the
/// chart know it; our identifiers do not (rulings.md 26).
fn flag_of_state(state: SubjectState, title: &str) -> (&'static str, String) {
    let (status, says) = match state {
        SubjectState::Candidate => ("active", "may qualify for"),
        SubjectState::Consented => ("active", "in screening for"),
        SubjectState::Eligible => ("active", "eligible for"),
        SubjectState::Enrolled => ("active", "enrolled in"),
        SubjectState::OnFollowUp => ("active", "in follow-up of"),
        SubjectState::Completed | SubjectState::Lost => ("inactive", "took part in"),
        SubjectState::None | SubjectState::ScreenFailed | SubjectState::Withdrawn | SubjectState::Deceased => ("inactive", "no part at present in"),
    };
    (status, format!("Research study: {says} {title}"))
}

fn wanted(receiver: &Receiver, study: &Study, subject: &str, assessment: &Assessment, written: &[Written]) -> Vec<Wanted> {
    let stance = stance(receiver.write_from, assessment);
    let mut all = vec![research_subject(receiver, study, subject, assessment, stance, written), flag(receiver, study, subject, assessment, stance)];
    all.extend(egfr_observations(receiver, study, subject, assessment, stance, written));
    all
}

/// The key of one kind of resource about one subject of one study.
fn key(receiver: &Receiver, study: &Study, subject: &str, kind: &str) -> String {
    keys::identifier(&receiver.identifier_key, &receiver.site, &study.id, subject, kind)
}

fn research_study(receiver: &Receiver, study: &Study) -> Wanted {
    let key = key(receiver, study, "", "ResearchStudy");
    let mut identifiers = vec![(WRITE_BACK_SYSTEM, key.as_str())];
    identifiers.extend(study.registry.iter().map(|registry| (registry.system.as_str(), registry.value.as_str())));
    let arms: Vec<(String, String)> = study.arms.iter().map(|arm| (arm.name.clone(), format!("{} cells, one dose", arm.cells))).collect();
    let identity = Identity { id: None, identifiers: &identifiers, is_test: receiver.tag_test };
    let content = study_flagged::research_study(identity, &study.title, &arms);
    Wanted { kind: "ResearchStudy", purpose: Purpose::Annotate, content: Some(content), or_content: None, is_new_allowed: true, key }
}

fn research_subject(receiver: &Receiver, study: &Study, subject: &str, assessment: &Assessment, stance: Stance, written: &[Written]) -> Wanted {
    let key = key(receiver, study, subject, "ResearchSubject");
    let (purpose, status) = match stance {
        Stance::Write if receiver.ladder.writes("ResearchSubject") => (Purpose::Annotate, status_of_state(assessment.state, assessment.was_enrolled)),
        // Switched off in receiver.json: what stands is closed.
        Stance::Write => (Purpose::Retract, status_when_taken_back(Why::Merged)),
        Stance::Follow => (Purpose::Retract, status_of_state(assessment.state, assessment.was_enrolled).or(Some("off-study"))),
        Stance::TakeBack(why) => (Purpose::Retract, status_when_taken_back(why)),
    };
    let status = status.or((!receiver.deletes).then_some("not-registered"));
    let study_key = self::key(receiver, study, "", "ResearchStudy");
    let study_id = if receiver.update_creates {
        Some(keys::own_id(&study_key))
    } else {
        written.iter().find(|before| before.key == study_key).and_then(|before| before.server_id.clone())
    };
    let identifiers = [(WRITE_BACK_SYSTEM, key.as_str())];
    let identity = Identity { id: None, identifiers: &identifiers, is_test: receiver.tag_test };
    let patient = format!("Patient/{subject}");
    let by_identifier = Target::Logical("ResearchStudy", (WRITE_BACK_SYSTEM, &study_key));
    let build = |status, target| study_flagged::research_subject(identity, status, target, &patient, None);
    let (content, or_content) = match study_id.map(|id| format!("ResearchStudy/{id}")) {
        // What was written before the server had told us its id of the study stays right.
        Some(url) => (status.map(|status| build(status, Target::Literal(&url))), status.map(|status| build(status, by_identifier))),
        None => (status.map(|status| build(status, by_identifier)), None),
    };
    Wanted { kind: "ResearchSubject", purpose, content, or_content, is_new_allowed: purpose == Purpose::Annotate, key }
}

fn flag(receiver: &Receiver, study: &Study, subject: &str, assessment: &Assessment, stance: Stance) -> Wanted {
    let key = key(receiver, study, subject, "Flag");
    let (on, says) = flag_of_state(assessment.state, &study.title);
    let (_, says_nothing) = flag_of_state(SubjectState::None, &study.title);
    let (purpose, status, code) = match stance {
        Stance::Write if receiver.ladder.writes("Flag") => (Purpose::Annotate, on, says),
        Stance::Write => (Purpose::Retract, "inactive", says_nothing),
        Stance::Follow => (Purpose::Retract, on, says),
        Stance::TakeBack(why) => (Purpose::Retract, flag_when_taken_back(why), says_nothing),
    };
    let identifiers = [(WRITE_BACK_SYSTEM, key.as_str())];
    let identity = Identity { id: None, identifiers: &identifiers, is_test: receiver.tag_test };
    let content = study_flagged::flag(identity, status, &code, &format!("Patient/{subject}"), &receiver.organization, None);
    Wanted { kind: "Flag", purpose, content: Some(content), or_content: None, is_new_allowed: purpose == Purpose::Annotate, key }
}

/// One Observation for each creatinine that counted once, under its own key: a later result does not rewrite an
/// earlier one. What a source no longer says is entered in error; what it says otherwise now is corrected.
fn egfr_observations(receiver: &Receiver, study: &Study, subject: &str, assessment: &Assessment, stance: Stance, written: &[Written]) -> Vec<Wanted> {
    let Some(policy) = &study.egfr else { return Vec::new() };
    let counts = assessment
        .criteria
        .iter()
        .flat_map(|criterion| &criterion.evidence)
        .find(|evidence| evidence.role == Role::Used && evidence.egfr.is_some() && evidence.egfr == assessment.egfr)
        .map(|evidence| evidence.resource.as_str());
    let key_of = |point: &SeriesPoint| key(receiver, study, subject, &format!("eGFR {}", point.resource));
    let mut all = Vec::new();
    for point in &assessment.series {
        let key = key_of(point);
        let before = written.iter().find(|before| before.key == key);
        let is_new_allowed = stance == Stance::Write && receiver.beside.egfr_observation && counts == Some(point.resource.as_str());
        if before.is_none() && !is_new_allowed {
            continue;
        }
        let content = egfr_content(receiver, subject, policy.equation.id(), point, &key, "final");
        let corrected = egfr_content(receiver, subject, policy.equation.id(), point, &key, "corrected");
        let says_so_already = before.is_none_or(|before| [&content, &corrected].map(|text| sha256_hex(text.as_bytes())).contains(&before.body_hash));
        let wanted = match (stance, before) {
            (Stance::Follow | Stance::Write, Some(before)) if !says_so_already && before.server_id.is_some() => {
                Wanted { kind: "Observation", key, purpose: Purpose::Annotate, content: Some(corrected), or_content: Some(content), is_new_allowed }
            }
            (Stance::Follow | Stance::Write, _) => {
                Wanted { kind: "Observation", key, purpose: Purpose::Annotate, content: Some(content), or_content: Some(corrected), is_new_allowed }
            }
            // The verdict turned on newer results; what was calculated from this one stays true.
            (Stance::TakeBack(Why::Ineligible), _) if says_so_already => Wanted {
                kind: "Observation",
                key,
                purpose: Purpose::Retract,
                content: Some(content),
                or_content: Some(corrected),
                is_new_allowed: false,
            },
            (Stance::TakeBack(_), Some(before)) => entered_in_error(before),
            (Stance::TakeBack(_), None) => continue,
        };
        all.push(wanted);
    }
    let is_in_series = |key: &str| assessment.series.iter().any(|point| key_of(point) == key);
    all.extend(written.iter().filter(|before| before.resource_type == "Observation" && !is_in_series(&before.key)).map(entered_in_error));
    all
}

/// The same Observation, withdrawn: R4's only status for that after a final release.
fn entered_in_error(before: &Written) -> Wanted {
    let content = edit::without_id(&edit::with_status(&before.body, "entered-in-error"));
    Wanted {
        kind: "Observation",
        key: before.key.clone(),
        purpose: Purpose::Retract,
        content: Some(content),
        or_content: None,
        is_new_allowed: false,
    }
}

/// LOINC codes that name one equation; another equation is named by its method alone.
fn loinc_of_equation(equation: &str) -> Option<&'static str> {
    match equation {
        "ckd-epi-2021-creatinine" => Some("98979-8"),
        "ckd-epi-2021-creatinine-cystatin-c" => Some("98980-6"),
        _ => None,
    }
}

fn egfr_content(receiver: &Receiver, subject: &str, equation: &str, point: &SeriesPoint, key: &str, status: &str) -> String {
    let identifiers = [(WRITE_BACK_SYSTEM, key)];
    let identity = Identity { id: None, identifiers: &identifiers, is_test: receiver.tag_test };
    study_flagged::egfr_observation(
        identity,
        study_flagged::Egfr {
            status,
            loinc: loinc_of_equation(equation),
            name: "eGFR, calculated for research",
            method: equation,
            patient: &format!("Patient/{subject}"),
            effective: &point.date,
            // One decimal, mL/min/1.73 m2: verdicts use the unrounded number, and a whole number would hide which
            // side of 44 or 45 it lies on.
            value: &format!("{:.1}", point.egfr),
            derived_from: &point.resource,
            performer: &receiver.organization,
            note: EGFR_NOTE,
            study: None,
        },
    )
}

/// Hash of the DELETE of a key: there is no body to hash.
fn hash_of(content: Option<&str>) -> String {
    sha256_hex(content.unwrap_or("DELETE").as_bytes())
}

fn hashes(wanted: &Wanted) -> Vec<String> {
    let mut hashes = vec![hash_of(wanted.content.as_deref())];
    hashes.extend(wanted.or_content.as_deref().map(|text| sha256_hex(text.as_bytes())));
    hashes
}

fn request(receiver: &Receiver, wanted: Wanted, before: Option<&Written>) -> WriteBack {
    let Wanted { kind, key, purpose, content, or_content: _, is_new_allowed: _ } = wanted;
    let body_hash = hash_of(content.as_deref());
    let search = format!("identifier={WRITE_BACK_SYSTEM}|{key}");
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
    let (order, rung) = match kind {
        "ResearchStudy" => (0, Rung::ResearchSubject.word()),
        "ResearchSubject" => (1, Rung::ResearchSubject.word()),
        "Flag" => (1, Rung::Flag.word()),
        _ => (2, "beside"),
    };
    WriteBack {
        key,
        resource_type: kind.to_owned(),
        purpose,
        order,
        method: method.to_owned(),
        url,
        headers,
        body,
        body_hash,
        search,
        rung: rung.to_owned(),
        form: Form::Resource,
    }
}
