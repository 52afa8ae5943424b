//! The course of a subject in the trial: entry, arm and doses; adverse events and their clocks; candidates; dosing.

use nephrogate::clinical::date::AsOf;
use nephrogate::clinical::fact::{Body, Decided, DecidedState, Fact, ResourceType, Status};
use nephrogate::rules::course::{Course, course};
use nephrogate::rules::{Alert, SubjectState, assess};

use crate::facts::*;

const TRIAL: &str = "elixcyte-1";

fn course_of(facts: &[Fact], as_of: &str) -> Option<Course> {
    course(&study(TRIAL), &chart(facts), AsOf::parse(as_of).unwrap())
}

/// On the study from 1 March 2026 in the high dose, with its one dose on the 2nd.
fn treated() -> Vec<Fact> {
    vec![
        man_of_60(),
        research_subject("r", TRIAL, "on-study", Some("high"), "2026-03-01", None),
        administration("m", TRIAL, "2026-03-02T09:00:00Z", Some(32e7)),
    ]
}

fn with(mut facts: Vec<Fact>, more: impl IntoIterator<Item = Fact>) -> Vec<Fact> {
    facts.extend(more);
    facts
}

fn changed(mut fact: Fact, change: impl FnOnce(&mut Fact)) -> Fact {
    change(&mut fact);
    fact
}

fn cited(course: &Course) -> Vec<Vec<&str>> {
    course.entered.doses.iter().map(|dose| dose.by.iter().map(|by| by.resource.as_str()).collect()).collect()
}

#[test]
fn a_hospitals_research_subject_enters_whom_nobody_enrolled_here() {
    let table = [
        ("on-study", Some(SubjectState::Enrolled)),
        ("on-study-intervention", Some(SubjectState::Enrolled)),
        ("on-study-observation", Some(SubjectState::Enrolled)),
        ("follow-up", Some(SubjectState::OnFollowUp)),
        // How it ended is for a person to say.
        ("off-study", Some(SubjectState::OnFollowUp)),
        ("candidate", None),
        ("screening", None),
        ("eligible", None),
        ("ineligible", None),
        ("withdrawn", None),
        ("not-registered", None),
    ];
    for (status, state) in table {
        let facts = [man_of_60(), research_subject("r", TRIAL, status, Some("low"), "2026-03-01", None)];
        let found = course_of(&facts, "2026-06-01");
        assert_eq!(found.as_ref().map(|course| course.state), state, "{status}");
        let assessment = judged(&study(TRIAL), &facts, "2026-06-01");
        assert_eq!(assessment.was_enrolled, state.is_some(), "{status}");
        assert_eq!(state.unwrap_or(SubjectState::None), assessment.state, "{status}");
        // Nobody judged them here, so nothing deviates.
        assert!(assessment.alerts.is_empty(), "{status}");
        if let Some(course) = found {
            let entered = course.entered;
            assert_eq!((entered.enrolled.date.as_str(), entered.enrolled.by.resource.as_str()), ("2026-03-01", "ResearchSubject/r"));
            let arm = entered.arm.unwrap();
            assert_eq!((arm.arm.as_str(), arm.is_conflicting, arm.by.len()), ("low", false, 1));
            assert!(entered.doses.is_empty() && entered.ended.is_none());
        }
    }
}

#[test]
fn a_result_that_fails_a_criterion_on_the_day_the_hospital_enrolled_is_a_deviation() {
    let facts = with(treated(), [creatinine("a", "2026-02-20", 0.9)]);
    assert_eq!(judged(&study(TRIAL), &facts, "2026-06-01").alerts, [Alert::EligibilityDeviation]);
}

#[test]
fn what_is_dated_after_the_day_of_the_report_did_not_happen_yet() {
    let facts = treated();
    assert_eq!(course_of(&facts, "2026-02-28"), None);
    assert!(course_of(&facts, "2026-03-01").unwrap().entered.doses.is_empty());
    assert_eq!(course_of(&facts, "2026-03-02").unwrap().entered.doses.len(), 1);
    // Another study's part and product say nothing of this one.
    let other = [man_of_60(), research_subject("r", "other", "on-study", None, "2026-03-01", None), administration("m", "other", "2026-03-02", None)];
    assert_eq!(course_of(&other, "2026-06-01"), None);
    // Nor does what was withdrawn at its source.
    let withdrawn: Vec<Fact> =
        treated().into_iter().map(|fact| if matches!(fact.body, Body::Person(_)) { fact } else { fact.status(Status::EnteredInError) }).collect();
    assert_eq!(course_of(&withdrawn, "2026-06-01"), None);
}

#[test]
fn a_dose_is_entry_where_nobody_wrote_one_down() {
    let facts = [man_of_60(), administration("m", TRIAL, "2026-03-02", Some(6.4e7))];
    let course = course_of(&facts, "2026-06-01").unwrap();
    assert_eq!((course.state, course.entered.enrolled.by.resource.as_str()), (SubjectState::Enrolled, "MedicationAdministration/m"));
    assert_eq!((course.entered.arm, course.entered.doses[0].fits_arm), (None, None), "cells name no arm");
    let left = with(facts.to_vec(), [research_subject("r", TRIAL, "withdrawn", None, "2026-02-01", Some("2026-04-01"))]);
    let course = course_of(&left, "2026-06-01").unwrap();
    assert_eq!((course.state, course.entered.ended.unwrap().date.as_str()), (SubjectState::Withdrawn, "2026-04-01"));
    // A start that is not given is dated by the dose.
    let undated = changed(research_subject("r", TRIAL, "on-study", None, "2026-03-01", None), |fact| {
        let Body::ResearchSubject(body) = &mut fact.body else { unreachable!("a part in a study") };
        body.start = None;
    });
    assert_eq!(course_of(&[man_of_60(), undated.clone()], "2026-06-01"), None, "nothing dates it");
    let course = course_of(&with(facts.to_vec(), [undated]), "2026-06-01").unwrap();
    assert_eq!((course.entered.enrolled.date.as_str(), course.entered.enrolled.by.resource.as_str()), ("2026-03-02", "ResearchSubject/r"));
}

#[test]
fn persons_move_on_from_the_hospitals_entry_and_say_how_it_ended() {
    let state = |more: Vec<Fact>| course_of(&with(treated(), more), "2026-12-01").unwrap();
    let moved = |when: &str, to: DecidedState| decision(&format!("d-{when}"), TRIAL, when, "", Decided::State { to });
    assert_eq!(state(vec![moved("2026-04-01", DecidedState::OnFollowUp)]).state, SubjectState::OnFollowUp);
    let completed = state(vec![moved("2026-04-01", DecidedState::OnFollowUp), moved("2026-11-01", DecidedState::Completed)]);
    assert_eq!((completed.state, completed.entered.ended.unwrap().by.resource.as_str()), (SubjectState::Completed, "Decision/d-2026-11-01"));
    let withdrawn = state(vec![moved("2026-03-10", DecidedState::Withdrawn)]);
    assert_eq!((withdrawn.state, withdrawn.entered.ended.unwrap().at_ms), (SubjectState::Withdrawn, ms("2026-03-10")));
    let found_again = state(vec![moved("2026-04-01", DecidedState::Lost), moved("2026-05-01", DecidedState::OnFollowUp)]);
    assert_eq!((found_again.state, found_again.entered.ended), (SubjectState::OnFollowUp, None));
    // A step that no door would have let in moves nobody who entered.
    assert_eq!(state(vec![moved("2026-04-01", DecidedState::ScreenFailed)]).state, SubjectState::Enrolled);
    // The hospital's own end is dated from the day it is reached.
    let off = [man_of_60(), research_subject("r", TRIAL, "off-study", None, "2026-03-01", Some("2026-09-01"))];
    assert_eq!(course_of(&off, "2026-08-01").unwrap().entered.ended, None);
    assert_eq!(course_of(&off, "2026-09-01").unwrap().entered.ended.unwrap().date, "2026-09-01");
    let died = changed(man_of_60(), |fact| {
        let Body::Person(person) = &mut fact.body else { unreachable!("a person") };
        (person.deceased, person.deceased_at) = (true, Some(date("2026-05-05")));
    });
    let facts: Vec<Fact> = treated().into_iter().skip(1).chain([died]).collect();
    let course = course_of(&facts, "2026-06-01").unwrap();
    assert_eq!((course.state, course.entered.ended.unwrap().date.as_str()), (SubjectState::Deceased, "2026-05-05"));
}

#[test]
fn a_persons_word_outranks_the_hospitals_for_the_arm_and_the_contradiction_shows() {
    let dose = |id: &str, when: &str, arm: &str, given: &str| {
        decision(id, TRIAL, when, "", Decided::Dose { arm: arm.into(), given: date(given), cells: None })
    };
    let agreed = course_of(&with(treated(), [dose("d", "2026-03-03", "high", "2026-03-02")]), "2026-06-01").unwrap().entered.arm.unwrap();
    assert_eq!((agreed.arm.as_str(), agreed.is_conflicting), ("high", false));
    let arm = course_of(&with(treated(), [dose("d", "2026-03-03", "middle", "2026-03-02")]), "2026-06-01").unwrap().entered.arm.unwrap();
    assert_eq!((arm.arm.as_str(), arm.is_conflicting), ("middle", true));
    assert_eq!(arm.by.iter().map(|by| by.resource.as_str()).collect::<Vec<_>>(), ["Decision/d", "ResearchSubject/r"]);
    // A later word about the same dose replaces the earlier.
    let mended = with(treated(), [dose("d", "2026-03-03", "middle", "2026-03-02"), dose("e", "2026-03-04", "high", "2026-03-02")]);
    let arm = course_of(&mended, "2026-06-01").unwrap().entered.arm.unwrap();
    assert_eq!((arm.arm.as_str(), arm.is_conflicting), ("high", false));
    // The actual arm outranks the assigned one.
    let assigned = changed(research_subject("a", TRIAL, "on-study", Some("low"), "2026-03-01", None), |fact| {
        let Body::ResearchSubject(body) = &mut fact.body else { unreachable!("a part in a study") };
        body.is_actual_arm = false;
    });
    let arm = course_of(&with(treated(), [assigned]), "2026-06-01").unwrap().entered.arm.unwrap();
    assert_eq!((arm.arm.as_str(), arm.is_conflicting), ("high", true));
}

#[test]
fn what_several_sources_say_of_one_day_is_one_dose_that_cites_them_all() {
    let procedure = changed(administration("p", TRIAL, "2026-03-02", None), |fact| fact.source.resource_type = ResourceType::Procedure);
    let by_person = decision("d", TRIAL, "2026-03-03", "", Decided::Dose { arm: "high".into(), given: date("2026-03-02"), cells: Some(31e7) });
    let course = course_of(&with(treated(), [procedure, by_person]), "2026-06-01").unwrap();
    assert_eq!(cited(&course), [["MedicationAdministration/m", "Decision/d", "Procedure/p"]]);
    let dose = &course.entered.doses[0];
    assert_eq!((dose.given.date.as_str(), dose.cells, dose.fits_arm), ("2026-03-02T09:00:00Z", Some(31e7), Some(true)));
    // Two days are two doses; two counts that contradict each other are none.
    let course = course_of(&with(treated(), [administration("n", TRIAL, "2026-03-09", Some(6.4e7))]), "2026-06-01").unwrap();
    assert_eq!(cited(&course), [["MedicationAdministration/m"], ["MedicationAdministration/n"]]);
    assert_eq!(course.entered.doses.iter().map(|dose| dose.fits_arm).collect::<Vec<_>>(), [Some(true), Some(false)]);
    let course = course_of(&with(treated(), [administration("n", TRIAL, "2026-03-02", Some(6.4e7))]), "2026-06-01").unwrap();
    assert_eq!((course.entered.doses.len(), course.entered.doses[0].cells), (1, None));
}

#[test]
fn a_person_who_enrolled_is_not_overruled_by_a_later_word_of_the_hospital() {
    // Consent, every open criterion answered, enrolled; the hospital closes its own record later.
    let facts = enrolled_by_person("2026-06-01");
    let course =
        course_of(&with(facts.clone(), [research_subject("r", TRIAL, "off-study", None, "2026-05-20", Some("2026-07-01"))]), "2026-08-01").unwrap();
    assert_eq!((course.state, course.entered.enrolled.by.resource.as_str()), (SubjectState::Enrolled, "Decision/enrolled"));
    assert_eq!(assess(&study(TRIAL), &chart(&facts), AsOf::parse("2026-08-01").unwrap()).state, SubjectState::Enrolled);
}

/// The door asks for the totals; the fold follows consent and enrolment as they were let in.
fn enrolled_by_person(when: &str) -> Vec<Fact> {
    vec![
        man_of_60(),
        decision("consent", TRIAL, "2026-05-01", "", Decided::Consent { given: true }),
        decision("enrolled", TRIAL, when, "", Decided::State { to: DecidedState::Enrolled }),
    ]
}
