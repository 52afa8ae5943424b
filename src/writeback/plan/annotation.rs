//! Marks on the hospital's own resources, where the site opted in for the type (rulings.md 25): the standard extension
//! or element that names the study, and a tag. Each mark makes a new version of a signed result, so one that stands is
//! never spelt anew, and from enrolment on the results that decided keep theirs and no later one gets any.

use super::super::keys;
use super::super::{Annotates, Form, Purpose, Written};
use super::case::{Case, key};
use super::request::Wanted;
use super::stance::Stance;
use crate::digest::sha256_hex;
use crate::fhir::{WRITE_BACK_SYSTEM, study_flagged};
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
    let kind = kind(&annotates.resource_type)?;
    let key = case.key(&format!("mark on {resource}"));
    // Of an event that says by itself by now to which study it belongs, a mark that is on its way is spelt anew.
    let stands = |before: &&Written| before.is_standing && !(before.is_pending && names_study(case, resource));
    let content = match case.before(&key).filter(stands) {
        Some(before) => before.body.clone(),
        None => fragment(case, annotates, resource)?,
    };
    let hash = sha256_hex(content.as_bytes());
    let mut wanted = Wanted::resource(kind, key, Purpose::Annotate, content, hash);
    wanted.marks = Some(resource.to_owned());
    wanted.is_new_allowed = case.stance == Stance::Write;
    Some(wanted)
}

/// The types of the hospital's that we mark.
fn kind(resource_type: &str) -> Option<&'static str> {
    ["AdverseEvent", "DiagnosticReport", "Observation"].into_iter().find(|kind| *kind == resource_type)
}

/// Whether the hospital's own event names this study: its element `study` gets no second entry for it.
fn names_study(case: &Case<'_>, resource: &str) -> bool {
    case.course.is_some_and(|course| course.events.iter().any(|event| event.id == resource && event.names_study))
}

fn fragment(case: &Case<'_>, annotates: &Annotates, resource: &str) -> Option<String> {
    let is_element = annotates.resource_type == "AdverseEvent";
    let with_study = annotates.study && if is_element { !names_study(case, resource) } else { !case.receiver.takes.no_extensions };
    let study_key = key(case.receiver, case.study, "", "ResearchStudy");
    // Which study it is, without its name: two studies that mark one result do not take out each other's.
    let tag = annotates.tag.then(|| keys::own_id(&study_key));
    if !with_study && tag.is_none() {
        return None;
    }
    let build = |study: Option<study_flagged::Target<'_>>| match is_element {
        true => study_flagged::adverse_event_fragment(resource, study, tag.as_deref()),
        false => study_flagged::result_fragment(resource, study, tag.as_deref()),
    };
    // An event comes back to us with its mark: by our identifier that is not taken for the hospital's word.
    let ours = (WRITE_BACK_SYSTEM, study_key.as_str());
    match (with_study, case.study_url()) {
        (false, _) => build(None),
        (true, Some(url)) if is_element => build(Some(study_flagged::Target::Marked(&url, ours))),
        (true, None) if is_element => build(Some(study_flagged::Target::Named("ResearchStudy", ours, &case.study.title))),
        (true, Some(url)) => build(Some(study_flagged::Target::Literal(&url))),
        (true, None) => case.with_named_study(|study| build(Some(study))),
    }
}

/// The same fragment, to be taken out.
fn take_out(before: &Written, resource: String) -> Option<Wanted> {
    let kind = kind(&before.resource_type)?;
    let hash = sha256_hex(["taken out ", &before.body].concat().as_bytes());
    let mut wanted = Wanted::resource(kind, before.key.clone(), Purpose::Retract, before.body.clone(), hash);
    wanted.marks = Some(resource);
    Some(wanted)
}
