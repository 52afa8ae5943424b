//! ResearchSubject to what a hospital says of a subject's part in a study. R4 says in `status` where the subject stands;
//! R5 says it in `progress`, and in `status` whether the record itself holds.

use compact_str::CompactString;

use crate::clinical::date::PartialDate;
use crate::clinical::fact::{Body, Fact, ResearchSubject, ResourceType, Status};
use crate::fhir::view::ResearchSubjectView;
use crate::issue::{Code, Effect, Issue};

use super::guard::{self, Labels};
use super::site::Site;
use super::trial::StudyNamed;
use super::{Head, Normalised, nothing};

/// Turns one ResearchSubject into a fact or a coded refusal. One of a study that the mapping does not know is out of
/// scope: that somebody takes part in another trial is none of ours.
pub fn normalise_view(site: &Site, view: &ResearchSubjectView<'_>, head: Head<'_>) -> Normalised {
    if guard::is_echo(&view.meta, &view.identifier) {
        return Normalised::echo("ResearchSubject");
    }
    // Who has `subject` is R5's; R4 has `individual`.
    let is_r5 = view.subject.is_some();
    let status = match status(view, is_r5) {
        Ok(status) => status,
        Err(issue) => return Normalised::rejected(issue),
    };
    let (person, path) =
        if is_r5 { (view.subject.as_ref(), "ResearchSubject.subject") } else { (view.individual.as_ref(), "ResearchSubject.individual") };
    let subject = guard::patient_id(site, person, path);
    let retiring = || Some(nothing(head.source(ResourceType::ResearchSubject, head.id?), status, None));
    if let Some(reason) = Labels::of(site, &view.meta.security).reason() {
        return Normalised::out_of_scope(reason.to_owned(), subject.ok(), retiring());
    }
    let StudyNamed::Ours(study) = view.study.as_ref().map_or(StudyNamed::Nothing, |study| site.study_named(study)) else {
        return Normalised::out_of_scope("ResearchSubject of another study".to_owned(), subject.ok(), retiring());
    };
    let Some(id) = head.id else {
        return Normalised::rejected(Issue::new(Code::InvalidId, "ResearchSubject.id"));
    };
    let mut issues = Vec::new();
    issues.extend(guard::modifiers("ResearchSubject", view.implicit_rules, &view.modifier_extension, |_| false));
    if status == Status::Unknown {
        issues.push(Issue::new(Code::StatusUnknown, "ResearchSubject.status"));
    }
    let subject = subject.map_err(|issue| issues.push(issue)).ok();
    let (start, end) = match view.period.as_ref().map(|period| guard::ends(period, "ResearchSubject.period")) {
        Some(Ok(ends)) => ends,
        Some(Err(issue)) => {
            issues.push(issue);
            (None, None)
        }
        None => (None, None),
    };
    let stands = if is_r5 { newest_state(view, &mut issues) } else { CompactString::from(view.status.as_deref().unwrap_or("")) };
    let (word, element, is_actual_arm) = arm_word(view);
    let arm = word.and_then(|word| site.arm(study, word));
    if word.is_some() && arm.is_none() && !status.is_withdrawn() {
        // The word itself is not told: people type names into it.
        issues.push(Issue::new(Code::ArmUnmapped, format!("ResearchSubject.{element}")));
    }
    let is_quarantined = issues.iter().any(|issue| issue.code.effect() == Effect::Quarantine);
    let said = ResearchSubject { study: study.clone(), status: stands, arm: arm.cloned(), is_actual_arm: is_actual_arm && arm.is_some(), start, end };
    let body = if is_quarantined { Body::Nothing } else { Body::ResearchSubject(said) };
    let fact = subject.map(|_| Fact { source: head.source(ResourceType::ResearchSubject, id), key: None, status, issued_ms: None, body });
    Normalised::ended(subject, fact, issues, None)
}

/// R4 has no word for a record that was wrong: it stands until it is deleted. R5's `retired` takes it back.
fn status(view: &ResearchSubjectView<'_>, is_r5: bool) -> Result<Status, Issue> {
    match view.status.as_deref() {
        Some("active") if is_r5 => Ok(Status::Final),
        Some("draft") if is_r5 => Ok(Status::Preliminary),
        Some("retired") if is_r5 => Ok(Status::Cancelled),
        Some("unknown") if is_r5 => Ok(Status::Unknown),
        Some(_) if !is_r5 => Ok(Status::Final),
        Some(_) | None => Err(Issue::new(Code::Shape, "ResearchSubject.status")),
    }
}

/// R5: the state that began last, the later listed of two that began together; empty when none is told.
fn newest_state(view: &ResearchSubjectView<'_>, issues: &mut Vec<Issue>) -> CompactString {
    let mut newest: Option<(Option<PartialDate>, &str)> = None;
    for (index, progress) in view.progress.iter().enumerate() {
        let began = guard::optional_date(progress.start_date.as_ref(), &format!("ResearchSubject.progress[{index}].startDate"));
        let began = began.unwrap_or_else(|issue| {
            issues.push(issue);
            None
        });
        let coding = progress.subject_state.iter().flat_map(|state| &state.coding).find_map(|coding| coding.code.as_deref());
        let start_ms = |date: &Option<PartialDate>| date.map(|date| date.start_ms);
        if let Some(code) = coding
            && newest.as_ref().is_none_or(|(before, _)| start_ms(before) <= start_ms(&began))
        {
            newest = Some((began, code));
        }
    }
    newest.map(|(_, code)| CompactString::from(code)).unwrap_or_default()
}

/// The actual arm before the assigned one, with its element.
fn arm_word<'a>(view: &'a ResearchSubjectView<'_>) -> (Option<&'a str>, &'static str, bool) {
    let arms = [
        (&view.actual_arm, "actualArm", true),
        (&view.actual_comparison_group, "actualComparisonGroup", true),
        (&view.assigned_arm, "assignedArm", false),
        (&view.assigned_comparison_group, "assignedComparisonGroup", false),
    ];
    let named = arms.into_iter().find_map(|(word, element, is_actual)| Some((Some(word.as_deref()?), element, is_actual)));
    named.unwrap_or((None, "", false))
}
