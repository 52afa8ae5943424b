//! The course of a subject in the trial: entry, arm and doses; adverse events and their clocks; candidates; dosing.

use nephrogate::catalogue::Catalogue;
use nephrogate::clinical::date::{AsOf, Day};
use nephrogate::clinical::fact::{AdverseEvent, Body, Concept, Decided, DecidedState, EventAxes, Fact, Relatedness, Relation, ResourceType, Status};
use nephrogate::clinical::quantity::{Analyte, Comparator, Unit};
use nephrogate::pipeline::trial::{Depth, courses_of_files};
use nephrogate::rules::candidates::{Candidate, CandidateKind, CandidateStatus};
use nephrogate::rules::course::{self, Course, course};
use nephrogate::rules::dosing::{self, Cohort, DltStanding, DosingStanding, InvalidOrder, three_plus_three};
use nephrogate::rules::safety::{ClockState, Event, EventOrigin};
use nephrogate::rules::state::NotPossible;
use nephrogate::rules::{Alert, SubjectState, assess};
use nephrogate::study::Study;
use proptest::prelude::*;

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

// --- adverse events

fn events(facts: &[Fact], as_of: &str) -> Vec<Event> {
    course_of(facts, as_of).unwrap().events
}

/// The one event of a treated subject.
fn one_event(change: impl FnOnce(&mut AdverseEvent), as_of: &str) -> Event {
    let mut events = events(&with(treated(), [adverse_event("e", "Slow speech", change)]), as_of);
    assert_eq!(events.len(), 1);
    events.remove(0)
}

fn related(suspect: &str, is_study_product: bool, relation: Option<Relation>) -> Relatedness {
    Relatedness { suspect: suspect.into(), is_study_product, code: "code".into(), relation }
}

/// Every axis as the report of the trial has it: grade 1, not serious, possibly related, dose-limiting.
fn slow_speech(event: &mut AdverseEvent) {
    event.grade = Some(1);
    event.is_serious = Some(false);
    event.relatedness = vec![related("MedicationAdministration/m", true, Some(Relation::Possible))];
    event.is_expected = Some(false);
    event.outcome = Some("resolved".into());
    event.onset = Some(date("2026-03-02T09:30:00Z"));
    event.recorded = Some(date("2026-03-02T10:00:00Z"));
    event.resolved = Some(date("2026-03-03"));
    event.is_dose_limiting = Some(true);
}

fn axes(event: &str, when: &str, change: impl FnOnce(&mut EventAxes)) -> Fact {
    let mut axes = EventAxes::default();
    change(&mut axes);
    decision(&format!("axes-{when}"), TRIAL, when, "", Decided::EventAxes { event: event.into(), axes: Box::new(axes) })
}

fn clocks(event: &Event) -> Vec<(&str, ClockState)> {
    event.clocks.iter().map(|clock| (clock.clock.as_str(), clock.state)).collect()
}

#[test]
fn an_event_of_which_all_is_known_is_complete_and_starts_no_clock() {
    let event = one_event(slow_speech, "2026-06-01");
    assert_eq!((event.id.as_str(), event.origin, event.left_out), ("AdverseEvent/e", EventOrigin::Hospital, None));
    assert_eq!((event.grade, event.is_serious, event.relation, event.is_related), (Some(1), Some(false), Some(Relation::Possible), Some(true)));
    assert_eq!((event.is_dose_limiting, event.is_treatment_emergent), (Some(true), Some(true)), "grade 1 and dose-limiting");
    assert_eq!(event.resolved.as_deref(), Some("2026-03-03"));
    assert!(event.missing.is_empty() && event.clocks.is_empty(), "{:?} {:?}", event.missing, event.clocks);
    // Before it resolved it was not resolved.
    let event = one_event(slow_speech, "2026-03-02");
    assert_eq!((event.resolved, event.outcome, event.missing), (None, None, vec!["outcome"]));
}

#[test]
fn what_a_routine_event_lacks_goes_to_the_completion_queue_and_nothing_is_filled() {
    let event = one_event(|event| event.severity = Some("severe".into()), "2026-06-01");
    let all = ["grade", "seriousness", "relation", "expectedness", "outcome", "onset", "dose-limiting"];
    assert_eq!(event.missing, all);
    assert_eq!((event.grade, event.is_serious, event.is_dose_limiting), (None, None, None), "severity says nothing of these");
    // Grade 4 is neither serious nor dose-limiting by itself.
    let event = one_event(|event| event.grade = Some(4), "2026-06-01");
    assert_eq!((event.is_serious, event.is_dose_limiting), (None, None));
    let serious = |event: &mut AdverseEvent| {
        slow_speech(event);
        event.is_serious = Some(true);
        event.outcome = Some("unknown".into());
    };
    assert_eq!(one_event(serious, "2026-06-01").missing, ["seriousness-criteria", "outcome"]);
    // Whether it is dose-limiting is asked of what began in the window only, the 28th day after the dose included.
    let began = |when: &str| one_event(|event| (event.onset, event.is_dose_limiting) = (Some(date(when)), None), "2026-06-01");
    assert!(began("2026-03-30").missing.contains(&"dose-limiting"));
    assert!(began("2026-03").missing.contains(&"dose-limiting"));
    for when in ["2026-03-31", "2026-03-01"] {
        assert!(!began(when).missing.contains(&"dose-limiting"), "{when}");
    }
    let nameless = events(&with(treated(), [adverse_event("e", " ", slow_speech)]), "2026-06-01");
    assert_eq!(nameless[0].missing, ["term"]);
}

#[test]
fn a_person_fills_axes_and_judges_otherwise_and_both_are_cited() {
    let open = |event: &mut AdverseEvent| {
        slow_speech(event);
        (event.grade, event.is_dose_limiting) = (None, None);
        event.relatedness = vec![related("", false, Some(Relation::Unlikely))];
    };
    let facts = with(
        treated(),
        [
            adverse_event("e", "Slow speech", open),
            axes("AdverseEvent/e", "2026-03-05", |axes| (axes.grade, axes.relation) = (Some(2), Some(Relation::Possible))),
            axes("AdverseEvent/e", "2026-03-06", |axes| (axes.grade, axes.is_dose_limiting) = (Some(1), Some(true))),
            axes("AdverseEvent/other", "2026-03-07", |axes| axes.grade = Some(5)),
        ],
    );
    let before = &events(&facts, "2026-03-04")[0];
    assert_eq!((before.grade, before.is_related), (None, Some(false)));
    let event = &events(&facts, "2026-06-01")[0];
    assert_eq!((event.grade, event.relation, event.is_related, event.is_dose_limiting), (Some(1), Some(Relation::Possible), Some(true), Some(true)));
    assert!(event.missing.is_empty());
    let cited: Vec<&str> = event.by.iter().map(|by| by.resource.as_str()).collect();
    assert_eq!(cited, ["AdverseEvent/e", "Decision/axes-2026-03-05", "Decision/axes-2026-03-06"]);
}

#[test]
fn the_relation_is_the_worst_over_the_suspects_that_are_the_study_product() {
    let relation = |suspects: Vec<Relatedness>| one_event(move |event| event.relatedness = suspects, "2026-06-01").relation;
    use Relation::{Possible, Probable, Related, Unlikely};
    // By the mapping's word, or because it is the very administration; an aspirin that is certainly to blame is another matter.
    let aspirin = || related("Medication/aspirin", false, Some(Related));
    assert_eq!(relation(vec![aspirin(), related("Medication/cells", true, Some(Unlikely))]), Some(Unlikely));
    assert_eq!(relation(vec![aspirin(), related("MedicationAdministration/m", false, Some(Possible))]), Some(Possible));
    assert_eq!(relation(vec![aspirin(), related("https://ehr.example.org/r4/MedicationAdministration/m", false, Some(Possible))]), Some(Possible));
    assert_eq!(relation(vec![related("a", true, Some(Unlikely)), related("b", true, Some(Probable))]), Some(Probable));
    // Nobody said which suspect is ours: the worst of all.
    assert_eq!(relation(vec![aspirin(), related("", false, Some(Unlikely))]), Some(Related));
    // Ours was named and could not be assessed.
    assert_eq!(relation(vec![aspirin(), related("Medication/cells", true, None)]), None);
    assert_eq!(relation(Vec::new()), None);
}

#[test]
fn what_does_not_count_says_why_and_starts_nothing() {
    let left_out = |change: fn(&mut AdverseEvent)| {
        let event = one_event(change, "2026-06-01");
        assert_eq!(event.left_out.is_some(), event.clocks.is_empty());
        assert!(event.left_out.is_none() || event.missing.is_empty());
        event.left_out
    };
    assert_eq!(left_out(|event| event.is_actual = false), Some("potential"));
    assert_eq!(left_out(|event| event.onset = Some(date("2026-02-27"))), Some("before-enrolment"));
    assert_eq!(left_out(|event| event.onset = Some(date("2026-03-01"))), None);
    assert_eq!(left_out(|event| event.onset = Some(date("2026"))), None, "it may have begun since");
    assert_eq!(left_out(|event| event.studies = vec!["other".into()]), Some("other-study"));
    assert_eq!(left_out(|event| event.names_other_study = true), Some("other-study"));
    assert_eq!(left_out(|event| (event.studies, event.names_other_study) = (vec![TRIAL.into()], true)), None);
    let status = |status: Status| events(&with(treated(), [adverse_event("e", "Fever", |_| {}).status(status)]), "2026-06-01");
    // In progress at the source is an event that goes on.
    for counting in [Status::Preliminary, Status::Final, Status::Amended, Status::Corrected] {
        assert_eq!(status(counting)[0].left_out, None, "{counting:?}");
    }
    assert_eq!(status(Status::Registered)[0].left_out, Some("not-final"));
    assert!(status(Status::EnteredInError).is_empty());
    // An event that had not begun by then is not there.
    assert!(events(&with(treated(), [adverse_event("e", "Fever", |event| event.onset = Some(date("2026-05-01")))]), "2026-04-30").is_empty());
}

#[test]
fn an_event_is_treatment_emergent_where_the_dates_tell() {
    let emergent = |when: Option<&str>| one_event(|event| event.onset = when.map(date), "2026-06-01").is_treatment_emergent;
    let table = [
        (Some("2026-03-01"), Some(false)),
        (Some("2026-03-02T08:59:59Z"), Some(false)),
        (Some("2026-03-02T09:00:00Z"), Some(true)),
        (Some("2026-03-02"), None),
        (Some("2026-03-03"), Some(true)),
        (Some("2026-03"), None),
        (Some("2026-04"), Some(true)),
        (None, None),
    ];
    for (when, expected) in table {
        assert_eq!(emergent(when), expected, "{when:?}");
    }
    let undosed = [man_of_60(), research_subject("r", TRIAL, "on-study", None, "2026-03-01", None), adverse_event("e", "Fever", |_| {})];
    assert_eq!(events(&undosed, "2026-06-01")[0].is_treatment_emergent, Some(false));
}

#[test]
fn versions_of_one_event_that_contradict_each_other_are_one_event_of_what_they_agree_on() {
    let version = |grade: u8| {
        adverse_event("e", "Slow speech", move |event| {
            slow_speech(event);
            event.grade = Some(grade);
        })
    };
    let events = events(&with(treated(), [version(1), version(3)]), "2026-06-01");
    assert_eq!(events.len(), 1);
    assert_eq!((events[0].grade, events[0].is_serious, &events[0].missing[..]), (None, Some(false), &["grade"][..]));
}

// --- reporting clocks

const SITE: &str = "site-to-sponsor";
const SEVEN: &str = "expedited-7-days";
const FIFTEEN: &str = "expedited-15-days";

/// The published serious event: proteinuria, grade 2, unlikely related.
fn proteinuria(event: &mut AdverseEvent) {
    slow_speech(event);
    event.grade = Some(2);
    event.is_serious = Some(true);
    event.seriousness_criteria = vec!["C83052".into()];
    event.relatedness = vec![related("MedicationAdministration/m", true, Some(Relation::Unlikely))];
    event.is_dose_limiting = Some(false);
}

#[test]
fn any_serious_event_starts_the_clock_to_the_sponsor_whatever_its_relation() {
    let event = one_event(proteinuria, "2026-03-02T12:00:00Z");
    assert_eq!(event.is_related, Some(false));
    assert_eq!(clocks(&event), [(SITE, ClockState::Running)]);
    let clock = &event.clocks[0];
    assert_eq!((clock.started_ms, clock.due_ms), (ms("2026-03-02T10:00:00Z"), ms("2026-03-03T10:00:00Z")), "24 hours from what was recorded");
    assert!(clock.assumed.is_empty());
    assert_eq!(clocks(&one_event(proteinuria, "2026-03-03T10:00:00Z")), [(SITE, ClockState::Running)]);
    assert_eq!(clocks(&one_event(proteinuria, "2026-03-03T10:00:01Z")), [(SITE, ClockState::Overdue)]);
    // Nobody knew of it before it was recorded.
    assert!(one_event(proteinuria, "2026-03-02T09:45:00Z").clocks.is_empty());
}

#[test]
fn serious_unexpected_and_related_starts_the_expedited_clocks_by_what_made_it_serious() {
    let related_with = |criteria: &'static [&'static str], is_expected: Option<bool>| {
        move |event: &mut AdverseEvent| {
            proteinuria(event);
            event.relatedness = vec![related("", true, Some(Relation::Possible))];
            event.seriousness_criteria = criteria.iter().map(|code| (*code).into()).collect();
            event.is_expected = is_expected;
        }
    };
    let ids =
        |change: &dyn Fn(&mut AdverseEvent)| -> Vec<String> { one_event(change, "2026-03-02").clocks.into_iter().map(|clock| clock.clock).collect() };
    assert_eq!(ids(&related_with(&["C83052"], Some(false))), [SITE, FIFTEEN]);
    assert_eq!(ids(&related_with(&["C84266"], Some(false))), [SITE, SEVEN, FIFTEEN], "life-threatening");
    assert_eq!(ids(&related_with(&["C83052", "C48275"], Some(false))), [SITE, SEVEN, FIFTEEN], "death");
    assert_eq!(ids(&related_with(&["C84266"], Some(true))), [SITE], "expected");
    let event = one_event(related_with(&["C84266"], Some(false)), "2026-03-02");
    let hours: Vec<i64> = event.clocks.iter().map(|clock| (clock.due_ms - clock.started_ms) / 3_600_000).collect();
    assert_eq!(hours, [24, 7 * 24, 15 * 24]);
    // An axis that nobody gave counts as the worst, and is named.
    let event = one_event(related_with(&[], None), "2026-03-02");
    assert_eq!(clocks(&event).len(), 3);
    assert_eq!(event.clocks[0].assumed, Vec::<&str>::new());
    assert_eq!(event.clocks[1].assumed, ["expectedness", "seriousness-criteria"]);
    assert_eq!(event.clocks[2].assumed, ["expectedness"]);
    let event = one_event(|event| event.recorded = Some(date("2026-03-02T10:00:00Z")), "2026-03-02");
    assert_eq!(event.clocks[0].assumed, ["seriousness"]);
    assert_eq!(event.clocks[1].assumed, ["seriousness", "relation", "expectedness", "seriousness-criteria"]);
    // A person who says that it is not serious stops them all.
    let facts = with(treated(), [adverse_event("e", "Fever", |_| {}), axes("AdverseEvent/e", "2026-03-05", |axes| axes.is_serious = Some(false))]);
    assert!(events(&facts, "2026-03-06")[0].clocks.is_empty());
    assert_eq!(events(&facts, "2026-03-04")[0].clocks.len(), 3);
}

#[test]
fn awareness_is_what_was_recorded_else_detected_else_begun_and_no_later_than_the_first_update() {
    let started = |change: fn(&mut AdverseEvent), updated: Option<&str>| {
        let fact = changed(adverse_event("e", "Fever", change), |fact| fact.source.last_updated_ms = updated.map(ms));
        let event = events(&with(treated(), [fact]), "2026-06-01").remove(0);
        (event.aware_ms, event.clocks[0].started_ms, event.clocks[0].assumed.contains(&"awareness"))
    };
    let all = |event: &mut AdverseEvent| {
        (event.onset, event.detected, event.recorded) = (Some(date("2026-03-03")), Some(date("2026-03-04")), Some(date("2026-03-05")));
    };
    let known = |when: &str| (Some(ms(when)), ms(when), false);
    assert_eq!(started(all, Some("2026-03-09")), known("2026-03-05"));
    assert_eq!(started(|event| (event.onset, event.detected) = (Some(date("2026-03-03")), Some(date("2026-03-04"))), None), known("2026-03-04"));
    assert_eq!(started(|event| event.onset = Some(date("2026-03-03")), Some("2026-03-09")), known("2026-03-03"));
    assert_eq!(started(|_| {}, Some("2026-03-09")), known("2026-03-09"));
    // Where nothing tells, since the enrolment: overdue until somebody says better.
    assert_eq!(started(|_| {}, None), (None, ms("2026-03-01"), true));
    // A later version starts no clock anew.
    let version = |version: &str, updated: &str| {
        changed(adverse_event("e", "Fever", |_| {}).version(version), |fact| fact.source.last_updated_ms = Some(ms(updated)))
    };
    let event = &events(&with(treated(), [version("1", "2026-03-09"), version("2", "2026-04-09")]), "2026-06-01")[0];
    assert_eq!(event.aware_ms, Some(ms("2026-03-09")));
    // Not even where the source dates its record by the edit.
    let dated = |version_id: &str, updated: &str| {
        changed(version(version_id, updated), |fact| {
            let Body::AdverseEvent(event) = &mut fact.body else { unreachable!("an event") };
            event.recorded = Some(date(updated));
        })
    };
    let event = &events(&with(treated(), [dated("1", "2026-03-09"), dated("2", "2026-04-09")]), "2026-06-01")[0];
    assert_eq!(event.aware_ms, Some(ms("2026-03-09")));
}

#[test]
fn a_report_stops_its_own_clock_in_time_or_late() {
    let reported = |clock: &str, at: &str| {
        let what = Decided::EventReported { event: "AdverseEvent/e".into(), clock: clock.into(), at: date(at) };
        decision(&format!("reported-{at}"), TRIAL, "2026-03-08", "", what)
    };
    let state = |reports: Vec<Fact>| {
        let facts = with(treated(), [adverse_event("e", "Proteinuria", proteinuria)]);
        let event = events(&with(facts, reports), "2026-06-01").remove(0);
        (event.clocks[0].state, event.clocks[0].reported_ms)
    };
    assert_eq!(state(vec![reported(SITE, "2026-03-03T10:00:00Z")]), (ClockState::Reported, Some(ms("2026-03-03T10:00:00Z"))));
    assert_eq!(state(vec![reported(SITE, "2026-03-03T10:00:01Z")]).0, ClockState::ReportedLate);
    // The first report counts; another clock's is another's.
    assert_eq!(state(vec![reported(SITE, "2026-03-05"), reported(SITE, "2026-03-02T20:00:00Z")]).0, ClockState::Reported);
    assert_eq!(state(vec![reported(FIFTEEN, "2026-03-02T20:00:00Z")]).0, ClockState::Overdue);
}

#[test]
fn what_the_trials_people_record_is_an_event_of_ours_with_its_own_clock() {
    let mut body = AdverseEvent::named("Bradyphrenia");
    (body.grade, body.onset) = (Some(1), Some(date("2026-03-02")));
    body.relatedness = vec![related("", true, Some(Relation::Possible))];
    let recorded = decision("ab12", TRIAL, "2026-03-04T08:00:00Z", "", Decided::EventRecorded { event: Box::new(body) });
    let facts = with(treated(), [recorded, axes("Decision/ab12", "2026-03-05", |axes| axes.is_serious = Some(true))]);
    let event = events(&facts, "2026-06-01").remove(0);
    assert_eq!((event.id.as_str(), event.origin, event.is_serious), ("Decision/ab12", EventOrigin::Recorded, Some(true)));
    assert_eq!(event.clocks[0].due_ms, ms("2026-03-05T08:00:00Z"), "known when it was recorded here");
    assert_eq!(event.missing, ["seriousness-criteria", "expectedness", "outcome", "dose-limiting"]);
}

#[test]
fn a_study_without_a_safety_section_shows_events_and_asks_nothing() {
    let mut study = study(TRIAL);
    study.safety = None;
    let facts = with(treated(), [adverse_event("e", "Proteinuria", proteinuria), creatinine("c", "2026-03-20", 20.0)]);
    let course = course(&study, &chart(&facts), AsOf::parse("2026-06-01").unwrap()).unwrap();
    let event = &course.events[0];
    assert_eq!((event.relation, event.is_related), (Some(Relation::Unlikely), None));
    assert!(event.missing.is_empty() && event.clocks.is_empty() && course.candidates.is_empty());
}

#[test]
fn a_decision_that_nobody_can_mean_is_refused_in_words() {
    let study = study(TRIAL);
    let course = course_of(&with(treated(), [adverse_event("e", "Proteinuria", proteinuria)]), "2026-06-01").unwrap();
    let check = |what: Decided, seen: &str| {
        let Body::Decision(decision) = decision("d", TRIAL, "2026-06-01", seen, what).body else { unreachable!("a decision") };
        course::check(&study, &course, &decision)
    };
    let refused = |why: &'static str| Err(NotPossible::Contradiction(why));
    let seen = course.events[0].evidence_hash();
    let axes_of = |change: &dyn Fn(&mut EventAxes)| {
        let mut axes = EventAxes::default();
        change(&mut axes);
        check(Decided::EventAxes { event: "AdverseEvent/e".into(), axes: Box::new(axes) }, &seen)
    };
    assert_eq!(axes_of(&|axes| (axes.grade, axes.outcome) = (Some(5), Some("fatal".into()))), Ok(()));
    assert_eq!(axes_of(&|_| {}), refused("it says nothing of any axis"));
    assert_eq!(axes_of(&|axes| axes.grade = Some(6)), refused("a grade is 1 to 5"));
    assert_eq!(axes_of(&|axes| axes.outcome = Some("cured".into())), refused("the outcome is no code of FHIR R4"));
    let no_criterion = |axes: &mut EventAxes| axes.seriousness_criteria = Some(vec!["C1".into()]);
    assert_eq!(axes_of(&no_criterion), refused("the seriousness criterion is no code of the clinical research profile"));
    let backwards = |axes: &mut EventAxes| (axes.onset, axes.resolved) = (Some(date("2026-03-05")), Some(date("2026-03-04")));
    assert_eq!(axes_of(&backwards), refused("it ends before it begins"));
    assert_eq!(axes_of(&|axes| axes.resolved = Some(date("2026-07-01"))), refused("it lies in the future"));
    let dose = |arm: &str, given: &str| check(Decided::Dose { arm: arm.into(), given: date(given), cells: None }, "");
    assert_eq!((dose("low", "2026-03-02"), dose("lowest", "2026-03-02")), (Ok(()), Err(NotPossible::NoSuch("arm"))));
    assert_eq!(dose("low", "2026-07-02"), refused("it lies in the future"));
    let mut body = AdverseEvent::named("Fever");
    body.grade = Some(0);
    assert_eq!(check(Decided::EventRecorded { event: Box::new(body) }, ""), refused("a grade is 1 to 5"));
}

// --- candidates

fn candidates(facts: &[Fact], as_of: &str) -> Vec<Candidate> {
    course_of(facts, as_of).unwrap().candidates
}

/// Creatinine in mg/dL with an upper limit of 1.2, on days of 2026.
fn creatinines(values: &[(&str, f64)]) -> Vec<Fact> {
    values.iter().map(|(day, mg_dl)| creatinine(&format!("c-{day}"), &format!("2026-{day}"), *mg_dl).upper(1.2)).collect()
}

fn shifts(values: &[(&str, f64)]) -> Vec<(String, Option<u8>, Option<u8>, usize)> {
    let found = candidates(&with(treated(), creatinines(values)), "2026-12-01");
    found.into_iter().map(|one| (one.id, one.baseline_grade, one.grade, one.by.len())).collect()
}

#[test]
fn a_creatinine_that_never_moved_is_no_candidate_however_bad_it_was_at_baseline() {
    // 2.0 mg/dL with an upper limit of 1.2 is grade 2 before any cell was given.
    assert_eq!(shifts(&[("02-20", 2.0), ("03-16", 2.0), ("04-01", 2.2), ("05-01", 1.9)]), []);
    let id = |day: &str| format!("laboratory-shift:creatinine:Observation/c-{day}");
    assert_eq!(shifts(&[("02-20", 2.0), ("03-16", 3.7)]), [(id("03-16"), Some(2), Some(3), 2)]);
    // More than 1.5 times baseline is grade 2 by the arm by which the baseline was none.
    assert_eq!(shifts(&[("02-20", 2.0), ("03-16", 3.1)]), [(id("03-16"), Some(2), Some(2), 2)]);
    let found = candidates(&with(treated(), creatinines(&[("02-20", 2.0), ("03-16", 3.7)])), "2026-12-01").remove(0);
    assert_eq!((found.kind, found.term.as_str(), found.status), (CandidateKind::LaboratoryShift, "Creatinine increased", CandidateStatus::Open));
    assert_eq!(
        (found.ctcae_version.as_deref(), found.why.as_str(), found.at.date.as_str()),
        (Some("5.0"), "3.7 mg/dL, 1.85 times baseline", "2026-03-16")
    );
    // Its day had not come yet.
    assert!(candidates(&with(treated(), creatinines(&[("02-20", 2.0), ("03-16", 3.7)])), "2026-03-15").is_empty());
}

#[test]
fn the_results_of_one_episode_are_one_candidate() {
    let id = |day: &str| format!("laboratory-shift:creatinine:Observation/c-{day}");
    let baseline = ("02-20", 1.0);
    // Rising and falling, the worst grade counts and the first result names it.
    assert_eq!(shifts(&[baseline, ("03-10", 1.4), ("03-12", 3.2), ("03-20", 1.9)]), [(id("03-10"), Some(0), Some(3), 4)]);
    // Back at baseline in between, or 30 days apart: two.
    assert_eq!(shifts(&[baseline, ("03-10", 1.4), ("03-12", 1.1), ("03-20", 1.9)]).len(), 2);
    assert_eq!(shifts(&[baseline, ("03-10", 1.4), ("04-09", 1.4)]).len(), 1);
    assert_eq!(shifts(&[baseline, ("03-10", 1.4), ("04-10", 1.4)]).len(), 2);
    // Two versions of one result that contradict each other, even in their dates, are one candidate.
    let version = |day: &str| creatinine("x", &format!("2026-{day}"), 3.2).upper(1.2);
    let rivals = with(with(treated(), creatinines(&[baseline])), [version("03-10"), version("05-10")]);
    assert_eq!(candidates(&rivals, "2026-12-01").len(), 1);
    // A result of the day of the dose was taken before it; one older than 90 days is no baseline.
    assert_eq!(shifts(&[("03-02", 2.0), ("03-10", 2.0)]), []);
    let old = with(treated(), [creatinine("old", "2025-11-01", 1.0).upper(1.2), creatinine("c", "2026-03-10", 1.4).upper(1.2)]);
    let found = candidates(&old, "2026-12-01").remove(0);
    assert_eq!((found.baseline_grade, found.grade, found.why.as_str(), found.by.len()), (None, Some(1), "1.4 mg/dL, no baseline", 1));
    // Nobody was given anything: nothing to be a reaction to.
    let undosed = [man_of_60(), research_subject("r", TRIAL, "on-study", None, "2026-03-01", None)];
    assert!(candidates(&with(undosed.to_vec(), creatinines(&[baseline, ("03-10", 9.0)])), "2026-12-01").is_empty());
}

#[test]
fn each_mapped_laboratory_is_graded_against_its_own_limits_and_units() {
    let shift = |analyte: Analyte, unit: Unit, baseline: f64, then: f64, limits: (f64, f64)| {
        let limited = |fact: Fact| fact.measured(|of| (of.reference_low, of.reference_high) = (Some(limits.0), Some(limits.1)));
        let facts = [limited(lab("b", analyte, "2026-02-20", baseline, unit)), limited(lab("x", analyte, "2026-03-10", then, unit))];
        candidates(&with(treated(), facts), "2026-12-01").pop().map(|found| (found.term, found.grade.unwrap()))
    };
    let some = |term: &str, grade: u8| Some((term.to_string(), grade));
    assert_eq!(shift(Analyte::Alt, Unit::UPerL, 30.0, 41.0, (0.0, 40.0)), some("Alanine aminotransferase increased", 1));
    assert_eq!(shift(Analyte::Ast, Unit::UPerL, 60.0, 80.0, (0.0, 40.0)), None, "less than 1.5 times an abnormal baseline");
    assert_eq!(shift(Analyte::Ast, Unit::UPerL, 60.0, 190.0, (0.0, 40.0)), some("Aspartate aminotransferase increased", 2));
    assert_eq!(shift(Analyte::AlkalinePhosphatase, Unit::UPerL, 100.0, 700.0, (40.0, 120.0)), some("Alkaline phosphatase increased", 3));
    assert_eq!(shift(Analyte::Bilirubin, Unit::MgPerDl, 1.0, 4.0, (0.2, 1.2)), some("Blood bilirubin increased", 3));
    assert_eq!(shift(Analyte::PlateletCount, Unit::ThousandPerUl, 200.0, 60.0, (150.0, 400.0)), some("Platelet count decreased", 2));
    assert_eq!(shift(Analyte::NeutrophilCount, Unit::ThousandPerUl, 3.0, 0.4, (2.0, 7.0)), some("Neutrophil count decreased", 4));
    assert_eq!(shift(Analyte::Hemoglobin, Unit::GPerDl, 9.5, 9.0, (13.0, 17.0)), None, "anemia of grade 2 before and after");
    assert_eq!(shift(Analyte::Hemoglobin, Unit::GPerDl, 9.5, 7.5, (13.0, 17.0)), some("Anemia", 3));
    // The baseline in another unit; a comparator has the grade that is sure.
    let moles = [
        lab("b", Analyte::Creatinine, "2026-02-20", 176.84, Unit::UmolPerL).upper(106.0),
        creatinine("x", "2026-03-10", 2.2).upper(1.2),
        creatinine("y", "2026-03-12", 4.0).upper(1.2).comparator(Comparator::Greater),
    ];
    let found = candidates(&with(treated(), moles), "2026-12-01");
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].id.as_str(), found[0].grade, found[0].why.as_str()),
        ("laboratory-shift:creatinine:Observation/y", Some(3), ">4 mg/dL, 2 times baseline")
    );
    // What may not decide proposes nothing.
    let unusable = [creatinine("b", "2026-02-20", 1.0).upper(1.2), creatinine("x", "2026-03-10", 9.0).upper(1.2).status(Status::Preliminary)];
    assert!(candidates(&with(treated(), unusable), "2026-12-01").is_empty());
}

#[test]
fn an_unplanned_stay_after_the_dose_is_a_candidate_and_its_transfers_are_the_same() {
    let found = |stays: Vec<Fact>| -> Vec<(String, usize)> {
        candidates(&with(treated(), stays), "2026-12-01").into_iter().map(|one| (one.id, one.by.len())).collect()
    };
    let stay = |id: &str, when: &str| encounter(id, "IMP", None, when);
    assert_eq!(found(vec![stay("e", "2026-03-10")]), [("unplanned-stay:Encounter/e".to_string(), 1)]);
    assert_eq!(found(vec![encounter("e", "IMP", Some(false), "2026-03-10")]).len(), 1);
    assert_eq!(found(vec![encounter("e", "IMP", Some(true), "2026-03-10")]), []);
    assert_eq!(found(vec![encounter("e", "AMB", None, "2026-03-10")]), []);
    assert_eq!(found(vec![stay("e", "2026-03-02T08:00:00Z"), stay("f", "2026-02-01")]), [], "the infusion's own, and an older one");
    assert_eq!(found(vec![stay("e", "2026-03-10"), stay("f", "2026-03-11"), stay("g", "2026-04-11")]).len(), 2);
}

#[test]
fn a_condition_that_was_not_there_at_the_dose_is_a_candidate() {
    let aki = |id: &str, when: &str| condition(id, Concept::AcuteKidneyInjury, "active", "confirmed").conditioned(|of| of.onset = Some(date(when)));
    let found =
        |conditions: Vec<Fact>| -> Vec<String> { candidates(&with(treated(), conditions), "2026-12-01").into_iter().map(|one| one.id).collect() };
    let id = "new-condition:acute-kidney-injury:Condition/k".to_string();
    assert_eq!(found(vec![aki("k", "2026-03-10")]), std::slice::from_ref(&id));
    assert_eq!(found(vec![aki("k", "2026-03-10"), aki("l", "2026-03-12")]), std::slice::from_ref(&id), "one illness");
    assert!(found(vec![aki("j", "2026-02-10"), aki("k", "2026-03-10")]).is_empty(), "it was there");
    let over = aki("j", "2025-02-10").conditioned(|of| of.abatement = Some(date("2025-03-01")));
    assert_eq!(found(vec![over, aki("k", "2026-03-10")]), [id], "the older one was over");
    assert!(found(vec![aki("k", "2026-03-10").conditioned(|of| of.verification_status = "refuted".into())]).is_empty());
    assert!(found(vec![condition("d", Concept::Diabetes, "active", "confirmed").conditioned(|of| of.onset = Some(date("2026-03-10")))]).is_empty());
    // Recorded later, with no onset.
    let recorded = aki("k", "2026-03-10").conditioned(|of| (of.onset, of.recorded) = (None, Some(date("2026-03-11"))));
    assert_eq!(found(vec![recorded]).len(), 1);
}

#[test]
fn what_an_event_on_record_explains_is_not_proposed() {
    let rise = creatinines(&[("02-20", 1.0), ("03-10", 3.2)]);
    let count = |more: Vec<Fact>| candidates(&with(with(treated(), rise.clone()), more), "2026-12-01").len();
    let known = |term: &str, when: &str| adverse_event("e", term, |event| event.onset = Some(date(when)));
    assert_eq!(count(vec![known("creatinine increased ", "2026-03-12")]), 0);
    assert_eq!(count(vec![known("Blood creatinine increased", "2026-03-24")]), 0, "14 days");
    assert_eq!(count(vec![known("Blood creatinine increased", "2026-03-25")]), 1);
    assert_eq!(count(vec![known("Headache", "2026-03-12")]), 1);
    assert_eq!(count(vec![known("Creatinine increased", "2026-03-12").status(Status::EnteredInError)]), 1, "it returns with the withdrawal");
    let stay = encounter("s", "IMP", None, "2026-04-10");
    let hospitalised =
        |when: &str| adverse_event("e", "Pneumonia", |event| (event.onset, event.seriousness_criteria) = (Some(date(when)), vec!["C83052".into()]));
    assert_eq!(count(vec![stay.clone(), hospitalised("2026-04-09")]), 1, "the creatinine alone");
    assert_eq!(count(vec![stay, hospitalised("2026-06-09")]), 2);
    let aki = condition("k", Concept::AcuteKidneyInjury, "active", "confirmed").conditioned(|of| of.onset = Some(date("2026-05-10")));
    let coded = adverse_event("e", "x", |event| (event.onset, event.codes) = (Some(date("2026-05-11")), vec!["snomed|0".into()]));
    assert_eq!(count(vec![aki.clone()]), 2);
    assert_eq!(count(vec![aki, coded]), 1);
}

#[test]
fn a_person_confirms_or_dismisses_a_candidate_and_only_what_is_confirmed_becomes_an_event() {
    let rise = with(treated(), creatinines(&[("02-20", 1.0), ("03-10", 1.4)]));
    let says = |id: &str, when: &str, candidate: &str, is_event: bool| {
        decision(id, TRIAL, when, "", Decided::Candidate { candidate: candidate.into(), is_event })
    };
    let name = "laboratory-shift:creatinine:Observation/c-03-10";
    let dismissed = with(rise.clone(), [says("d", "2026-03-11", name, false)]);
    let course = course_of(&dismissed, "2026-12-01").unwrap();
    let found = &course.candidates[0];
    assert_eq!(
        (found.status, found.decided_by.as_deref(), found.decided_reason.as_deref()),
        (CandidateStatus::Dismissed, Some("Dr. Chen"), Some("seen on the ward"))
    );
    assert!(course.events.is_empty());
    // Who dismissed grade 1 has not dismissed the grade 3 that followed.
    let worse = with(dismissed, creatinines(&[("03-14", 3.2)]));
    assert_eq!(candidates(&worse, "2026-12-01")[0].status, CandidateStatus::Open);
    let confirmed = with(worse, [says("e", "2026-03-15T08:00:00Z", name, true)]);
    let course = course_of(&confirmed, "2026-12-01").unwrap();
    assert_eq!((course.candidates.len(), course.candidates[0].status), (1, CandidateStatus::Confirmed));
    let event = &course.events[0];
    assert_eq!((event.id.as_str(), event.origin, event.term.as_str()), (name, EventOrigin::Candidate, "Creatinine increased"));
    assert_eq!((event.grade, event.onset.as_deref(), event.is_serious, event.relation), (Some(3), Some("2026-03-10"), None, None));
    assert_eq!(event.missing, ["seriousness", "relation", "expectedness", "outcome", "dose-limiting"]);
    assert_eq!(event.clocks[0].started_ms, ms("2026-03-15T08:00:00Z"), "known when it was confirmed");
    assert!(event.by.iter().any(|by| by.resource == "Decision/e") && event.by.iter().any(|by| by.resource == "Observation/c-02-20"));
    // An earlier result that comes late begins the episode anew, and what was decided keeps its name.
    let course = course_of(&with(confirmed.clone(), creatinines(&[("03-08", 1.3)])), "2026-12-01").unwrap();
    assert_eq!((course.candidates[0].id.as_str(), course.candidates[0].at.date.as_str()), (name, "2026-03-08"));
    assert_eq!(course.events[0].id, name);
    // The hospital's own event of it does not take away what was said; a person settles which one stands.
    let twice = with(confirmed, [adverse_event("e", "Creatinine increased", |event| event.onset = Some(date("2026-03-10")))]);
    assert_eq!(events(&twice, "2026-12-01").len(), 2);
    let settled = with(twice, [says("f", "2026-03-16", name, false)]);
    assert_eq!(events(&settled, "2026-12-01").iter().map(|event| event.id.as_str()).collect::<Vec<_>>(), ["AdverseEvent/e"]);
}

// --- dosing

/// "1NNN 2NNT": dose, then one letter for each subject, T with a DLT.
fn outcomes(text: &str) -> Vec<Cohort> {
    text.split_whitespace()
        .map(|cohort| {
            let (dose, letters) = cohort.split_at(1);
            Cohort { dose: dose.parse().unwrap(), subjects: letters.len(), dlts: letters.matches('T').count() }
        })
        .collect()
}

#[test]
fn three_plus_three_says_what_the_published_vectors_say() {
    let table = include_str!("../golden/dosing.csv");
    let mut rows = 0;
    for line in table.lines().skip(1) {
        let [doses, text, recommended, continues, _source] = line.splitn(5, ',').collect::<Vec<_>>()[..] else { panic!("five columns: {line}") };
        let said = three_plus_three(doses.parse().unwrap(), &outcomes(text));
        match recommended {
            "refused" => assert!(said.is_err(), "{line}"),
            dose => {
                let said = said.unwrap_or_else(|why| panic!("{line}: {why:?}"));
                assert_eq!(said.dose, dose.parse().ok(), "{line}");
                assert_eq!(said.continues, continues == "yes", "{line}");
            }
        }
        rows += 1;
    }
    assert_eq!(rows, 52);
    // Why an order is refused.
    assert_eq!(three_plus_three(5, &outcomes("1NNN 1N")), Err(InvalidOrder::WrongDose { cohort: 1, given: 1, expected: Some(2) }));
    assert_eq!(three_plus_three(5, &outcomes("1NNN 2TTT 1N")), Err(InvalidOrder::WrongDose { cohort: 2, given: 1, expected: None }));
    assert_eq!(three_plus_three(5, &outcomes("1NNNN")), Err(InvalidOrder::TooMany { cohort: 0 }));
    assert_eq!(three_plus_three(5, &[Cohort { dose: 1, subjects: 1, dlts: 2 }]), Err(InvalidOrder::NoCohort { cohort: 0 }));
}

/// One subject of an arm, dosed on a day of 2026, with what else happened.
fn subject(arm: &str, dosed: &str, more: Vec<Fact>) -> Vec<Fact> {
    let part = research_subject("r", TRIAL, "on-study", Some(arm), "2026-01-01", None);
    with(vec![man_of_60(), part, administration("m", TRIAL, &format!("2026-{dosed}"), None)], more)
}

fn dlt(when: &str, is_dose_limiting: Option<bool>) -> Fact {
    adverse_event("t", "Slow speech", |event| {
        slow_speech(event);
        (event.onset, event.is_dose_limiting) = (Some(date(when)), is_dose_limiting);
    })
}

fn standing(subjects: &[Vec<Fact>], as_of: &str) -> DosingStanding {
    let courses: Vec<Course> = subjects.iter().map(|facts| course_of(facts, as_of).unwrap()).collect();
    dosing::standing(&study(TRIAL), &courses.iter().collect::<Vec<_>>()).unwrap()
}

fn counts(standing: &DosingStanding) -> Vec<(usize, usize, usize)> {
    standing.arms.iter().map(|arm| (arm.treated, arm.evaluable, arm.dlts)).collect()
}

#[test]
fn the_trial_as_published_stops_at_the_high_dose_and_leaves_the_decision_to_the_board() {
    let mut subjects: Vec<Vec<Fact>> = ["01-02", "01-03", "01-04"].iter().map(|day| subject("low", day, Vec::new())).collect();
    subjects.extend(["02-02", "02-03", "02-04"].iter().map(|day| subject("middle", day, Vec::new())));
    subjects.push(subject("high", "03-04", vec![dlt("2026-03-04", Some(true))]));
    subjects.extend(["03-02", "03-03", "04-02", "04-03", "04-04"].iter().map(|day| subject("high", day, Vec::new())));
    let found = standing(&subjects, "2026-12-01");
    assert_eq!(counts(&found), [(3, 3, 0), (3, 3, 0), (6, 6, 1)]);
    let cohort = |dose, dlts| Cohort { dose, subjects: 3, dlts };
    assert_eq!(found.cohorts, [cohort(1, 0), cohort(2, 0), cohort(3, 1), cohort(3, 0)]);
    let advice = found.advice.unwrap();
    assert_eq!((advice.dose, advice.continues), (Some(3), false));
    assert_eq!(
        found.says,
        "Low dose: 3 treated, 3 evaluable, 0 with DLT; Middle dose: 3 treated, 3 evaluable, 0 with DLT; High dose: 6 treated, 6 evaluable, 1 with DLT. \
         By 3+3, 1 of 6 at High dose, the highest: stop; recommended is High dose. The decision is the safety board's."
    );
    let toxic = found.arms[2].subjects.iter().find(|watched| watched.standing == DltStanding::Dlt).unwrap();
    assert_eq!((toxic.subject, &toxic.dlts[..], toxic.window_ends.as_str()), (6, &["AdverseEvent/t".to_string()][..], "2026-04-01"));
    let cited: Vec<&str> = toxic.by.iter().map(|by| by.resource.as_str()).collect();
    assert_eq!(cited, ["MedicationAdministration/m", "AdverseEvent/t"]);
    // A second toxicity in the high dose would have made the middle dose the recommended one.
    subjects[11] = subject("high", "04-04", vec![dlt("2026-04-05", Some(true))]);
    assert_eq!(standing(&subjects, "2026-12-01").advice.unwrap().dose, Some(2));
    // Had the only toxicity come after three without one, the scheme would have stopped before it.
    subjects.swap_remove(6);
    let found = standing(&subjects, "2026-12-01");
    assert_eq!((found.advice, found.invalid), (None, Some(InvalidOrder::WrongDose { cohort: 3, given: 3, expected: None })));
    assert!(found.says.contains("High dose was given where it asks for no more subjects"), "{}", found.says);
    let serial = serde_json::to_value(&found).unwrap();
    assert_eq!(serial["scheme"], "three-plus-three");
}

#[test]
fn the_replay_of_the_trial_follows_the_scheme_from_its_files_alone() {
    let catalogue = Catalogue::load(None).unwrap();
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("studies/elixcyte-1/examples/replay");
    let read = courses_of_files(&catalogue, &catalogue.studies[TRIAL], &[folder], None, Depth::Course).unwrap();
    let courses: Vec<&Course> = read.enrolled.iter().map(|enrolled| &enrolled.course).collect();
    let found = dosing::standing(&catalogue.studies[TRIAL], &courses).unwrap();
    assert_eq!(counts(&found), [(3, 3, 0), (3, 3, 0), (6, 6, 1)]);
    let advice = found.advice.unwrap();
    assert_eq!((advice.dose, advice.continues, advice.subjects, advice.dlts), (Some(3), false, 6, 1));
    let toxic: Vec<&str> = found.arms[2].subjects.iter().flat_map(|watched| &watched.dlts).map(String::as_str).collect();
    assert_eq!(toxic, ["AdverseEvent/ae000002"]);
    // Every subject is the one that was given their dose.
    assert!(found.arms.iter().flat_map(|arm| &arm.subjects).all(|watched| watched.by.iter().any(|by| by.resource == watched.first_dose.by.resource)));
    assert!(courses.iter().flat_map(|course| &course.candidates).all(|one| one.status != CandidateStatus::Confirmed));
}

#[test]
fn who_left_in_the_window_is_not_evaluable_and_who_is_watched_is_pending() {
    let part = |status: &str, end: &str| research_subject("r", TRIAL, status, Some("low"), "2026-01-01", Some(end));
    let left = |end: &str, more: Vec<Fact>| with(vec![man_of_60(), part("off-study", end), administration("m", TRIAL, "2026-01-02", None)], more);
    let one = |facts: Vec<Fact>, as_of: &str| standing(&[facts], as_of).arms[0].subjects[0].standing;
    assert_eq!(one(left("2026-01-20", Vec::new()), "2026-12-01"), DltStanding::NotEvaluable);
    assert_eq!(one(left("2026-01-31", Vec::new()), "2026-12-01"), DltStanding::NoDlt);
    assert_eq!(one(left("2026-01-20", vec![dlt("2026-01-10", Some(true))]), "2026-12-01"), DltStanding::Dlt);
    let watched = || subject("low", "01-02", Vec::new());
    assert_eq!(one(watched(), "2026-01-29"), DltStanding::Pending);
    assert_eq!(one(watched(), "2026-01-30"), DltStanding::NoDlt, "the day the window ends is over");
    let lost = decision("lost", TRIAL, "2026-01-15", "", Decided::State { to: DecidedState::Lost });
    assert_eq!(one(with(watched(), [lost]), "2026-12-01"), DltStanding::NotEvaluable);
    let died = changed(man_of_60().version("2"), |fact| {
        let Body::Person(person) = &mut fact.body else { unreachable!("a person") };
        person.deceased = true;
    });
    assert_eq!(one(with(watched(), [died]), "2026-12-01"), DltStanding::NotEvaluable, "nobody says when");
    // What began after the window is no DLT, what nobody dates may be one, and what nobody judged is named.
    let found = standing(&[subject("low", "01-02", vec![dlt("2026-01-31", Some(true))])], "2026-12-01");
    assert_eq!(counts(&found)[0], (1, 1, 0));
    let found = standing(&[subject("low", "01-02", vec![dlt("2026-01", Some(true))])], "2026-12-01");
    assert_eq!(counts(&found)[0], (1, 1, 1));
    let found = standing(&[subject("low", "01-02", vec![dlt("2026-01-10", None)])], "2026-12-01");
    assert_eq!((counts(&found)[0], found.arms[0].subjects[0].unassessed.len()), ((1, 1, 0), 1));
    assert!(found.says.contains("nobody has said whether they are dose-limiting"), "{}", found.says);
    // The scheme counts the evaluable only, and says so where they do not follow it.
    let subjects = [watched(), watched(), left("2026-01-20", Vec::new()), subject("middle", "03-01", Vec::new())];
    let found = standing(&subjects, "2026-12-01");
    assert_eq!((counts(&found)[0], found.arms[0].not_evaluable, found.advice), ((3, 2, 0), 1, None));
    assert_eq!(found.invalid, Some(InvalidOrder::WrongDose { cohort: 1, given: 2, expected: Some(1) }));
    assert!(found.says.contains("Middle dose was given where it asks for Low dose next"), "{}", found.says);
    // Nobody treated, and a dose of an arm that nobody names.
    assert!(standing(&[], "2026-12-01").says.ends_with("By 3+3, begin with Low dose. The decision is the safety board's."));
    let armless = [man_of_60(), administration("m", TRIAL, "2026-01-02", None)];
    assert_eq!(standing(&[armless.to_vec()], "2026-12-01").without_arm.len(), 1);
}

// --- the sections of study.json

fn faults(change: impl FnOnce(&mut serde_json::Value)) -> Vec<String> {
    let mut json: serde_json::Value = serde_json::from_str(&study_text(TRIAL)).unwrap();
    change(&mut json);
    match Study::parse(&json.to_string()) {
        Ok(_) => Vec::new(),
        Err(faults) => faults.into_iter().map(|fault| fault.path).collect(),
    }
}

#[test]
fn dosing_and_safety_that_cannot_be_meant_are_refused_with_the_place() {
    assert!(faults(|_| {}).is_empty());
    assert_eq!(faults(|json| json["arms"].as_array_mut().unwrap().reverse()), ["/arms"]);
    assert_eq!(faults(|json| json["arms"] = serde_json::json!([])), ["/dosing"]);
    assert_eq!(faults(|json| json["dosing"]["dlt_window_days"] = 0.into()), ["/dosing/dlt_window_days"]);
    assert_eq!(faults(|json| json["dosing"]["cells_tolerance_percent"] = 100.into()), ["/dosing/cells_tolerance_percent"]);
    assert_eq!(faults(|json| json["safety"]["related"] = serde_json::json!([])), ["/safety/related"]);
    // What is more than possible is related too.
    assert_eq!(faults(|json| json["safety"]["related"] = serde_json::json!(["possible", "related"])), ["/safety/related"]);
    assert_eq!(faults(|json| json["safety"]["clocks"][1]["id"] = SITE.into()), ["/safety/clocks/1/id"]);
    assert_eq!(faults(|json| json["safety"]["clocks"][1]["hours"] = 0.into()), ["/safety/clocks/1/hours"]);
    assert_eq!(faults(|json| json["safety"]["candidates"]["analytes"] = serde_json::json!(["cystatin-c"])), ["/safety/candidates/analytes/0"]);
}

// --- laws

fn day_after(first: &str, days: i64) -> String {
    Day::from_number(date(first).day().number() + days).to_string()
}

/// Events dated within 100 days from the first.
fn an_event(first: &'static str) -> impl Strategy<Value = Fact> {
    let when = prop::option::of((0_i64..100).prop_map(move |days| date(&day_after(first, days))));
    let relation = prop::option::of(prop::sample::select(Relation::ALL.to_vec()));
    let criteria = prop::collection::vec(prop::sample::select(vec!["C48275", "C84266", "C83052"]), 0..2);
    let flag = || prop::option::of(any::<bool>());
    let axes = (prop::option::of(1_u8..6), flag(), criteria, relation, flag(), flag());
    let status = prop_oneof![4 => Just(Status::Final), 1 => Just(Status::Preliminary), 1 => Just(Status::EnteredInError)];
    let dates = (when.clone(), when.clone(), when.clone(), when);
    (0..4_u8, prop_oneof![Just("1"), Just("2"), Just("x")], status, dates, axes).prop_map(
        |(id, version, status, (onset, detected, recorded, resolved), (grade, is_serious, criteria, relation, is_expected, is_dose_limiting))| {
            adverse_event(&id.to_string(), "Event", |event| {
                (event.onset, event.detected, event.recorded, event.resolved) = (onset, detected, recorded, resolved);
                (event.grade, event.is_serious, event.is_expected, event.is_dose_limiting) = (grade, is_serious, is_expected, is_dose_limiting);
                event.seriousness_criteria = criteria.into_iter().map(Into::into).collect();
                event.relatedness = vec![related("", true, relation)];
            })
            .version(version)
            .status(status)
        },
    )
}

fn facts_from(first: &'static str) -> impl Strategy<Value = Vec<Fact>> {
    let day = move |days: i64| day_after(first, days);
    let result = (0..8_u8, 0_i64..100, 0.8_f64..6.0).prop_map(move |(id, days, mg_dl)| creatinine(&format!("c{id}"), &day(days), mg_dl).upper(1.2));
    let stay = (0..3_u8, 0_i64..100).prop_map(move |(id, days)| encounter(&format!("s{id}"), "IMP", None, &day(days)));
    let dose = (0..2_u8, 0_i64..100).prop_map(move |(id, days)| administration(&format!("m{id}"), TRIAL, &day(days), Some(32e7)));
    let part = (0_i64..100, prop::sample::select(vec!["on-study", "follow-up", "off-study", "withdrawn"]))
        .prop_map(move |(days, status)| research_subject(&format!("r{days}"), TRIAL, status, Some("low"), &day(days), Some(&day(days))));
    let said = (0..4_u8, 0_i64..100, prop::option::of(any::<bool>()), prop::option::of(1_u8..6)).prop_map(move |(id, days, is_serious, grade)| {
        axes(&format!("AdverseEvent/{id}"), &day(days), |axes| (axes.is_serious, axes.grade) = (is_serious, grade))
    });
    let candidate = (0..8_u8, 0_i64..100, any::<bool>()).prop_map(move |(id, days, is_event)| {
        let candidate = format!("laboratory-shift:creatinine:Observation/c{id}").into();
        decision(&format!("k{id}-{days}-{is_event}"), TRIAL, &day(days), "", Decided::Candidate { candidate, is_event })
    });
    let one = prop_oneof![4 => an_event(first), 3 => result, 1 => stay, 1 => dose, 1 => part, 2 => said, 2 => candidate];
    prop::collection::vec(one, 0..20)
}

/// When each clock of each event is due; what does not run is never due.
fn due(course: &Course) -> Vec<(String, String, i64)> {
    let of = |event: &Event| -> Vec<(String, String, i64)> {
        [SITE, SEVEN, FIFTEEN]
            .into_iter()
            .map(|id| {
                let due = event.clocks.iter().find(|clock| clock.clock == id).map_or(i64::MAX, |clock| clock.due_ms);
                (event.id.clone(), id.to_string(), due)
            })
            .collect()
    };
    let mut all: Vec<_> = course.events.iter().flat_map(of).collect();
    all.sort();
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_course_does_not_depend_on_the_order_of_facts_and_tells_nothing_twice(
        (facts, shuffled) in facts_from("2026-02-01").prop_flat_map(|facts| (Just(facts.clone()), Just(facts).prop_shuffle()))
    ) {
        let course = course_of(&with(treated(), facts), "2026-06-01").unwrap();
        prop_assert_eq!(&course, &course_of(&with(shuffled, treated()), "2026-06-01").unwrap());
        for ids in [course.events.iter().map(|event| &event.id).collect::<Vec<_>>(), course.candidates.iter().map(|one| &one.id).collect()] {
            let mut once = ids.clone();
            once.sort();
            once.dedup();
            prop_assert_eq!(once.len(), ids.len());
        }
        for event in &course.events {
            prop_assert!(!event.by.is_empty());
            prop_assert!(event.left_out.is_none() || (event.clocks.is_empty() && event.missing.is_empty()));
            // An axis is known or it is asked for.
            prop_assert!(event.left_out.is_some() || event.grade.is_some() != event.missing.contains(&"grade"));
            prop_assert!(event.left_out.is_some() || event.is_serious.is_some() != event.missing.contains(&"seriousness"));
        }
    }

    #[test]
    fn what_is_dated_later_never_changes_an_earlier_course(facts in facts_from("2026-02-01"), later in facts_from("2026-05-01")) {
        let mut more = facts.clone();
        for (index, mut fact) in later.into_iter().enumerate() {
            fact.source.id = format!("later-{index}").into();
            if let Body::AdverseEvent(event) = &mut fact.body {
                // What nobody dates may have happened already.
                event.onset = event.onset.or(Some(date("2026-05-01")));
            }
            more.push(fact);
        }
        prop_assert_eq!(course_of(&with(treated(), facts), "2026-04-30"), course_of(&with(treated(), more), "2026-04-30"));
    }

    #[test]
    fn an_axis_that_nobody_gave_never_makes_a_report_due_later(facts in prop::collection::vec(an_event("2026-02-01"), 0..6)) {
        let known = due(&course_of(&with(treated(), facts.clone()), "2026-06-01").unwrap());
        let forget: [fn(&mut AdverseEvent); 6] = [
            |event| event.grade = None,
            |event| event.is_serious = None,
            |event| event.seriousness_criteria.clear(),
            |event| event.relatedness.clear(),
            |event| event.is_expected = None,
            |event| event.is_dose_limiting = None,
        ];
        for forget in forget {
            let fewer: Vec<Fact> = facts
                .iter()
                .map(|fact| changed(fact.clone(), |fact| if let Body::AdverseEvent(event) = &mut fact.body { forget(event) }))
                .collect();
            let unknown = due(&course_of(&with(treated(), fewer), "2026-06-01").unwrap());
            prop_assert_eq!(known.len(), unknown.len());
            for (known, unknown) in known.iter().zip(&unknown) {
                prop_assert_eq!((&known.0, &known.1), (&unknown.0, &unknown.1));
                prop_assert!(unknown.2 <= known.2, "{} {}", known.0, known.1);
            }
        }
    }
}
