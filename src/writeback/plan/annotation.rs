//! Marks on the hospital's own resources, where the site opted in for the type (rulings.md 25): the standard extension
//! or element that names the study, and a tag. Each mark makes a new version of a signed result, so one that stands is
//! never spelt anew, and from enrolment on the results that decided keep theirs and no later one gets any.

use super::super::keys;
use super::super::{Annotates, Form, Purpose, Written};
use super::case::{Case, key};
use super::request::Wanted;
use super::stance::Stance;
use crate::digest::sha256_hex;
use crate::fhir::study_flagged;
use crate::rules::safety::EventOrigin;

pub fn annotations(case: &Case<'_>) -> Vec<Wanted> {
    let mut wanted: Vec<Wanted> = Vec::new();
    for annotates in &case.receiver.annotates {
        for resource in marked(case, annotates) {
            wanted.extend(mark(case, annotates, &resource));
        }
    }
    let stray = marks(case).filter(|(before, _)| wanted.iter().all(|wanted| wanted.key != before.key));
    let taken_out: Vec<Wanted> = stray.filter_map(|(before, resource)| take_out(before, resource)).collect();
    wanted.extend(taken_out);
    wanted
}

/// Marks by our own record, each with the resource it is on.
fn marks<'c>(case: &'c Case<'_>) -> impl Iterator<Item = (&'c Written, String)> {
    let fragments = case.written.iter().filter(|before| before.form == Form::Fragment);
    fragments.filter_map(|before| crate::fhir::edit::index(&before.body)?.id.map(|id| (before, format!("{}/{id}", before.resource_type))))
}

/// The resources that should be marked.
fn marked(case: &Case<'_>, annotates: &Annotates) -> Vec<String> {
    if matches!(case.stance, Stance::TakeBack(_)) {
        return Vec::new();
    }
    let of_type = |resource: &str| resource.split_once('/').is_some_and(|(kind, _)| kind == annotates.resource_type);
    // A mark that is still on its way is new, and nothing new is written about whom we only follow.
    let may_stay = |before: &Written| before.is_standing && (case.stance == Stance::Write || !before.is_pending);
    let standing = || marks(case).filter(|(before, resource)| of_type(resource) && may_stay(before)).map(|(_, resource)| resource);
    if annotates.resource_type == "AdverseEvent" {
        let Some(course) = case.course else { return standing().collect() };
        let of_study = course.events.iter().filter(|event| event.origin == EventOrigin::Hospital && event.left_out.is_none());
        let events = of_study.map(|event| event.id.clone());
        return events.filter(|event| of_type(event) && (case.stance == Stance::Write || standing().any(|standing| standing == *event))).collect();
    }
    let counting = || case.counting().iter().map(|evidence| evidence.resource.clone()).filter(|resource| of_type(resource));
    if case.is_driven_by_verdict() {
        return counting().collect();
    }
    let standing: Vec<String> = standing().collect();
    if standing.is_empty() && case.stance == Stance::Write { counting().collect() } else { standing }
}

fn mark(case: &Case<'_>, annotates: &Annotates, resource: &str) -> Option<Wanted> {
    let key = case.key(&format!("mark on {resource}"));
    let (content, kind) = match (case.before(&key).filter(|before| before.is_standing), annotates.resource_type.as_str()) {
        (before, "AdverseEvent") => (before.map_or_else(|| fragment(case, annotates, resource), |before| Some(before.body.clone()))?, "AdverseEvent"),
        (before, "DiagnosticReport") => {
            (before.map_or_else(|| fragment(case, annotates, resource), |before| Some(before.body.clone()))?, "DiagnosticReport")
        }
        (before, "Observation") => (before.map_or_else(|| fragment(case, annotates, resource), |before| Some(before.body.clone()))?, "Observation"),
        (_, _) => return None,
    };
    let hash = sha256_hex(content.as_bytes());
    let mut wanted = Wanted::resource(kind, key, Purpose::Annotate, content, hash);
    wanted.marks = Some(resource.to_owned());
    wanted.is_new_allowed = case.stance == Stance::Write;
    Some(wanted)
}

fn fragment(case: &Case<'_>, annotates: &Annotates, resource: &str) -> Option<String> {
    let is_element = annotates.resource_type == "AdverseEvent";
    let with_study = annotates.study && (is_element || !case.receiver.takes.no_extensions);
    // Which study it is, without its name: two studies that mark one result do not take out each other's.
    let tag = annotates.tag.then(|| keys::own_id(&key(case.receiver, case.study, "", "ResearchStudy")));
    if !with_study && tag.is_none() {
        return None;
    }
    let build = |study: Option<study_flagged::Target<'_>>| match is_element {
        true => study_flagged::adverse_event_fragment(resource, study, tag.as_deref()),
        false => study_flagged::result_fragment(resource, study, tag.as_deref()),
    };
    match (with_study, case.study_url()) {
        (false, _) => build(None),
        (true, Some(url)) => build(Some(study_flagged::Target::Literal(&url))),
        (true, None) => case.with_named_study(|study| build(Some(study))),
    }
}

/// The same fragment, to be taken out.
fn take_out(before: &Written, resource: String) -> Option<Wanted> {
    let kind = match before.resource_type.as_str() {
        "Observation" => "Observation",
        "DiagnosticReport" => "DiagnosticReport",
        "AdverseEvent" => "AdverseEvent",
        _ => return None,
    };
    let hash = sha256_hex(["taken out ", &before.body].concat().as_bytes());
    let mut wanted = Wanted::resource(kind, before.key.clone(), Purpose::Retract, before.body.clone(), hash);
    wanted.marks = Some(resource);
    Some(wanted)
}
