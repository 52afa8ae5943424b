//! Visits and outcomes of one subject, entered by `course`.

use proptest::prelude::*;

use nephrogate::clinical::chart::Chart;
use nephrogate::clinical::date::{AsOf, Day, PartialDate};
use nephrogate::clinical::fact::{Decided, DecidedState, Fact, Status};
use nephrogate::clinical::quantity::{Analyte, Comparator, Unit};
use nephrogate::rules::course::{Course, course};
use nephrogate::rules::outcome::{Series, VisitValue};
use nephrogate::rules::schedule::{VisitStanding, VisitState};
use nephrogate::study::Study;
use nephrogate::study::follow_up::Measure;

use crate::facts::*;
use VisitState::{Done, Due, Missed, NotExpected, OutOfWindow, Upcoming};

const TRIAL: &str = "elixcyte-1";

/// Day 0. Due days: W2 26 January, W4 9 February, W12 6 April, W24 29 June, W36 21 September, W48 14 December.
const DOSED: &str = "2026-01-12T10:00:00Z";

/// A day so many days after the dose.
fn day(after: i64) -> String {
    Day::from_number(date(DOSED).day().number() + after).to_string()
}

fn dosed() -> Vec<Fact> {
    vec![man_of_60(), administration("dose", TRIAL, DOSED, Some(6.4e7))]
}

/// A creatinine that gives this eGFR.
fn egfr_on(when: &str, egfr: f64) -> Fact {
    creatinine(&format!("egfr-{when}"), when, creatinine_of(egfr))
}

fn with(base: Vec<Fact>, more: impl IntoIterator<Item = Fact>) -> Vec<Fact> {
    base.into_iter().chain(more).collect()
}

fn course_in(study: &Study, facts: &[Fact], as_of: &str) -> Course {
    course(study, &chart(facts), AsOf::parse(as_of).unwrap()).expect("the subject entered")
}

fn course_of(facts: &[Fact], as_of: &str) -> Course {
    course_in(&study(TRIAL), facts, as_of)
}

fn visit<'a>(course: &'a Course, id: &str) -> &'a VisitStanding {
    course.schedule.visits.iter().find(|visit| visit.visit == id).unwrap()
}

fn states(course: &Course) -> Vec<VisitState> {
    course.schedule.visits.iter().map(|visit| visit.state).collect()
}

fn series(course: &Course, measure: Measure) -> &Series {
    course.outcome.series.iter().find(|series| series.measure == measure).unwrap_or_else(|| panic!("no {}", measure.word()))
}

fn value<'a>(series: &'a Series, visit: &str) -> &'a VisitValue {
    series.visits.iter().find(|value| value.visit == visit).unwrap()
}

fn near(found: Option<f64>, expected: f64) {
    assert!(found.is_some_and(|found| (found - expected).abs() < 1e-9), "{found:?} is not {expected}");
}

/// Why results are no points, with the resource.
fn unusable(series: &Series) -> Vec<(&str, &str)> {
    series.unusable.iter().map(|one| (one.why.as_str(), one.by.resource.as_str())).collect()
}

// --- visits

#[test]
fn a_visit_is_due_done_missed_or_out_of_window_by_the_results_that_came() {
    let facts = with(
        dosed(),
        [
            egfr_on("2026-01-12T08:00:00Z", 30.0),
            // 4 days late where 3 are allowed.
            egfr_on("2026-01-30", 31.0),
            // Both in the window of W12; the second is nearer to 6 April.
            egfr_on("2026-04-01", 32.0),
            egfr_on("2026-04-05", 33.0),
            egfr_on("2026-06-29", 34.0).status(Status::Preliminary),
        ],
    );
    let at = |as_of: &str| course_of(&facts, as_of);
    let late = at("2026-07-20");
    assert_eq!(states(&late), [Done, OutOfWindow, Missed, Done, Missed, Upcoming, Upcoming]);
    let w2 = visit(&late, "W2");
    assert_eq!((w2.due.as_str(), w2.opens.as_str(), w2.closes.as_str()), ("2026-01-26", "2026-01-23", "2026-01-29"));
    assert_eq!((w2.deviation_days, w2.on.as_ref().map(|on| on.date.as_str())), (Some(4), Some("2026-01-30")));
    let w12 = visit(&late, "W12");
    assert_eq!((w12.deviation_days, w12.on.as_ref().map(|on| on.by.resource.as_str())), (Some(-1), Some("Observation/egfr-2026-04-05")));
    assert_eq!(late.schedule.anchor.as_ref().map(|anchor| anchor.by.resource.as_str()), Some("MedicationAdministration/dose"));
    assert_eq!(late.schedule.last_seen.as_ref().map(|seen| seen.date.as_str()), Some("2026-04-05"));
    assert_eq!(late.schedule.ends.as_deref(), Some("2026-12-28"));
    assert_eq!(late.schedule.lost, None);
    // While a window is open nothing is missed, and what came early elsewhere does not close it.
    assert_eq!(states(&at("2026-01-20")), [Done, Upcoming, Upcoming, Upcoming, Upcoming, Upcoming, Upcoming]);
    assert_eq!(states(&at("2026-01-29"))[1], Due);
    assert_eq!(states(&at("2026-01-30"))[1], OutOfWindow);
}

#[test]
fn the_next_visit_is_overdue_from_the_day_after_its_due_day() {
    let facts = with(dosed(), [egfr_on("2026-01-12T08:00:00Z", 30.0)]);
    let next = |as_of: &str| course_of(&facts, as_of).schedule.next.unwrap();
    let before = next("2026-01-26");
    assert_eq!((before.visit.as_str(), before.due.as_str(), before.closes.as_str(), before.is_overdue), ("W2", "2026-01-26", "2026-01-29", false));
    assert_eq!(before.what, ["creatinine"]);
    assert!(next("2026-01-27").is_overdue);
    assert_eq!((next("2026-01-30").visit.as_str(), next("2026-01-30").is_overdue), ("W4", false));
    assert_eq!(course_of(&facts, "2026-12-29").schedule.next, None);
}

#[test]
fn the_last_day_of_a_window_counts_and_the_day_after_does_not() {
    // W24 is due on day 168, 14 days to either side; day 231 begins the land of nobody towards W36 (due on day 252).
    for (after, state) in [(153, OutOfWindow), (154, Done), (168, Done), (182, Done), (183, OutOfWindow), (209, OutOfWindow), (210, Missed)] {
        let late = course_of(&with(dosed(), [egfr_on(&day(after), 30.0)]), "2026-12-29");
        assert_eq!(visit(&late, "W24").state, state, "day {after}");
    }
    // A result of long before the first visit, or long after the last, is nobody's visit.
    for (after, state) in [(-8, Missed), (-7, Done), (1, OutOfWindow), (6, OutOfWindow), (7, Missed)] {
        assert_eq!(visit(&course_of(&with(dosed(), [egfr_on(&day(after), 30.0)]), "2026-12-29"), "W0").state, state, "day {after}");
    }
}

#[test]
fn what_shows_a_visit_need_not_be_a_number_that_counts() {
    let shown = |fact: Fact| visit(&course_of(&with(dosed(), [fact]), "2026-12-29"), "W24").state;
    let on_w24 = || egfr_on(&day(168), 30.0);
    assert_eq!(shown(on_w24().comparator(Comparator::Less)), Done);
    assert_eq!(shown(on_w24().measured(|of| of.unusable = Some("unit-missing".into()))), Done);
    assert_eq!(shown(on_w24().measured(|of| of.value = None)), Missed);
    assert_eq!(shown(on_w24().status(Status::Cancelled)), Missed);
    assert_eq!(shown(on_w24().measured(|of| of.effective = Some(date("2026-06")))), Missed);
    assert_eq!(shown(lab("hb", Analyte::Hemoglobin, &day(168), 10.0, Unit::GPerDl)), Missed);
}

#[test]
fn nothing_is_expected_of_who_left_and_what_was_missed_before_stays_missed() {
    let seen = [egfr_on("2026-01-12T08:00:00Z", 30.0), egfr_on("2026-02-09", 31.0), egfr_on("2026-06-29", 50.0)];
    let state = |to: DecidedState, when: &str| decision("left", TRIAL, when, "", Decided::State { to });
    // W12 (6 April) was missed; the window of W24 opens on 15 June.
    let lost = course_of(&with(dosed(), seen.clone().into_iter().take(2).chain([state(DecidedState::Lost, "2026-06-20T09:00:00Z")])), "2026-12-29");
    assert_eq!(states(&lost), [Done, Missed, Done, Missed, NotExpected, NotExpected, NotExpected]);
    assert_eq!(lost.schedule.lost.as_ref().map(|by| by.resource.as_str()), Some("Decision/left"));
    assert_eq!((lost.schedule.next, lost.schedule.is_silent), (None, false));
    // Who withdrew gave no leave for what came later.
    let withdrawn = course_of(&with(dosed(), seen.clone().into_iter().chain([state(DecidedState::Withdrawn, "2026-06-20T09:00:00Z")])), "2026-12-29");
    assert_eq!(visit(&withdrawn, "W24").state, NotExpected);
    assert_eq!(withdrawn.schedule.ends.as_deref(), Some("2026-06-20"));
    assert_eq!(series(&withdrawn, Measure::Egfr).points.len(), 2);
    assert_eq!(value(series(&withdrawn, Measure::Egfr), "W24").point, None);
    // A result of before the loss that comes to light later still counts.
    let found = course_of(&with(dosed(), seen.clone().into_iter().chain([state(DecidedState::Lost, "2026-07-10T09:00:00Z")])), "2026-12-29");
    assert_eq!(visit(&found, "W24").state, Done);
    let dead = |when: Option<&'static str>| {
        let person = person_with(|person| {
            (person.birth_date, person.sex, person.deceased) = (Some(date("1966-01-01")), Some(nephrogate::clinical::fact::Sex::Male), true);
            person.deceased_at = when.map(date);
        });
        states(&course_of(&with(vec![person, dosed().remove(1)], seen[..2].iter().cloned()), "2026-12-29"))
    };
    assert_eq!(dead(Some("2026-05-01")), [Done, Missed, Done, Missed, NotExpected, NotExpected, NotExpected]);
    // Nobody says when: then nobody can say what was missed.
    assert_eq!(dead(None), [Done, NotExpected, Done, NotExpected, NotExpected, NotExpected, NotExpected]);
}

#[test]
fn long_silence_is_a_question_and_not_a_loss() {
    let facts = with(dosed(), [egfr_on("2026-02-09", 30.0)]);
    let silent = |as_of: &str| course_of(&facts, as_of).schedule.is_silent;
    assert!(!silent("2026-08-10"));
    assert!(silent("2026-08-11"));
    let asked = course_of(&facts, "2026-08-11");
    assert_eq!((asked.schedule.lost, asked.state.word()), (None, "enrolled"));
    // After the last visit there is nothing to be silent about.
    let done = with(dosed(), [egfr_on("2026-12-14", 30.0)]);
    assert!(!course_of(&done, "2027-12-31").schedule.is_silent);
}

#[test]
fn without_a_dose_no_visit_has_a_day_and_no_value_a_baseline() {
    let enrolled = research_subject("part", TRIAL, "on-study", Some("low"), "2026-01-05", None);
    let facts = vec![man_of_60(), enrolled, egfr_on("2026-01-05", 30.0), egfr_on("2026-06-29", 40.0)];
    let undosed = course_of(&facts, "2026-07-01");
    assert_eq!((&undosed.schedule.anchor, &undosed.schedule.next), (&None, &None));
    assert!(undosed.schedule.visits.iter().all(|visit| visit.state == Upcoming && visit.due.is_empty()));
    let egfr = series(&undosed, Measure::Egfr);
    assert_eq!((egfr.points.len(), &egfr.baseline, &egfr.stratum, egfr.visits.len(), &egfr.slope), (2, &None, &None, 0, &None));
    // A study may count from enrolment; the baseline still asks for the dose.
    let text = study_text(TRIAL).replace("\"anchor\": \"first-dose\"", "\"anchor\": \"enrolment\"");
    let counted = course_in(&Study::parse(&text).unwrap(), &facts, "2026-07-01");
    assert_eq!(visit(&counted, "W24").due, "2026-06-22");
    assert_eq!(visit(&counted, "W24").state, Done);
    let w24 = value(series(&counted, Measure::Egfr), "W24").clone();
    assert!(w24.point.is_some() && w24.change.is_none() && w24.is_responder.is_none());
}

// --- outcomes

#[test]
fn the_baseline_is_the_last_value_that_was_not_later_than_the_dose() {
    let baseline = |facts: Vec<Fact>| series(&course_of(&facts, "2026-12-29"), Measure::Egfr).baseline.as_ref().map(|point| point.value.round());
    let older = || egfr_on("2026-01-10", 30.0);
    let with_older = |when: &str| with(dosed(), [older(), egfr_on(when, 40.0)]);
    assert_eq!(baseline(with_older("2026-01-12T09:59:00Z")), Some(40.0));
    assert_eq!(baseline(with_older("2026-01-12T10:00:00Z")), Some(40.0));
    assert_eq!(baseline(with_older("2026-01-12T10:01:00Z")), Some(30.0));
    // Half an hour before the dose, on the clock of another zone.
    assert_eq!(baseline(with_older("2026-01-12T17:30:00+08:00")), Some(40.0));
    // Without a time of day, the day of the dose counts as before.
    assert_eq!(baseline(with_older("2026-01-12")), Some(40.0));
    assert_eq!(baseline(with_older("2026-01-13")), Some(30.0));
    let undated_dose = vec![man_of_60(), administration("dose", TRIAL, "2026-01-12", None), older(), egfr_on("2026-01-12T18:00:00Z", 40.0)];
    assert_eq!(baseline(undated_dose), Some(40.0));
    // The month alone cannot be before the dose for certain, nor a point at all.
    assert_eq!(baseline(with_older("2026-01")), Some(30.0));
    // 28 days are allowed.
    let young = |when: &str| {
        let person = person("1960-06-01", nephrogate::clinical::fact::Sex::Male);
        baseline(vec![person, dosed().remove(1), creatinine("a", when, 2.0)]).is_some()
    };
    assert!(young("2025-12-15"));
    assert!(!young("2025-12-14"));
    // What comes a day after the dose is never a baseline.
    assert_eq!(baseline(with(dosed(), [egfr_on("2026-01-13", 30.0)])), None);
}

#[test]
fn change_percent_and_response_are_held_against_the_baseline() {
    let facts = with(dosed(), [egfr_on("2026-01-11", 30.0), egfr_on("2026-06-25", 37.5), egfr_on("2026-07-01", 36.3), egfr_on("2026-12-14", 27.0)]);
    let judged = course_of(&facts, "2026-12-29");
    let egfr = series(&judged, Measure::Egfr);
    assert_eq!(egfr.unit, "mL/min/{1.73_m2}");
    assert_eq!(egfr.visits.iter().map(|value| value.visit.as_str()).collect::<Vec<_>>(), ["W2", "W4", "W12", "W24", "W36", "W48"]);
    let w24 = value(egfr, "W24");
    near(w24.change, 6.3);
    near(w24.percent_change, 21.0);
    assert_eq!(w24.is_responder, Some(true));
    assert_eq!(w24.point.as_ref().unwrap().by[0].resource, "Observation/egfr-2026-07-01", "2 days off, not 4");
    assert_eq!(value(egfr, "W48").is_responder, Some(false));
    near(value(egfr, "W48").percent_change, -10.0);
    // Missing stays missing: nothing is carried forward.
    let w36 = value(egfr, "W36");
    assert_eq!((&w36.point, w36.change, w36.percent_change, w36.is_responder), (&None, None, None, None));
    // Exactly the threshold is no response.
    let percent = w24.percent_change.unwrap();
    let responds = |threshold: f64| {
        let text = study_text(TRIAL).replace("\"responder_percent\": 20", &format!("\"responder_percent\": {threshold}"));
        value(series(&course_in(&Study::parse(&text).unwrap(), &facts, "2026-12-29"), Measure::Egfr), "W24").is_responder
    };
    assert_eq!((responds(percent), responds(percent.next_down())), (Some(false), Some(true)));
}

#[test]
fn of_two_values_equally_near_the_newer_counts() {
    let facts = with(dosed(), [egfr_on("2026-01-11", 30.0), egfr_on("2026-06-28", 33.0), egfr_on("2026-06-30", 36.0)]);
    let judged = course_of(&facts, "2026-12-29");
    near(value(series(&judged, Measure::Egfr), "W24").change, 6.0);
    assert_eq!(visit(&judged, "W24").deviation_days, Some(1));
}

#[test]
fn the_stratum_is_by_the_unrounded_baseline_and_30_belongs_to_the_upper() {
    let stratum = |egfr: f64| series(&course_of(&with(dosed(), [egfr_on("2026-01-11", egfr)]), "2026-01-20"), Measure::Egfr).stratum.clone();
    for (egfr, expected) in [(29.6, "egfr-below-30"), (29.9999, "egfr-below-30"), (30.0001, "egfr-30-or-above"), (44.0, "egfr-30-or-above")] {
        assert_eq!(stratum(egfr).as_deref(), Some(expected), "{egfr}");
    }
    let study = study(TRIAL);
    let strata = &study.outcome.as_ref().unwrap().strata;
    assert_eq!(strata.iter().filter(|stratum| stratum.holds(30.0)).map(|stratum| stratum.id.as_str()).collect::<Vec<_>>(), ["egfr-30-or-above"]);
    // Every series of a subject carries it.
    let urine = lab("urine", Analyte::UrineProteinCreatinineRatio, "2026-01-11", 900.0, Unit::MgPerG);
    let both = course_of(&with(dosed(), [egfr_on("2026-01-11", 29.6), urine]), "2026-01-20");
    assert_eq!(series(&both, Measure::Upcr).stratum.as_deref(), Some("egfr-below-30"));
}

#[test]
fn the_age_of_an_egfr_is_that_of_the_specimens_day() {
    // 1.8 mg/dL on the eve of the 61st birthday and on it.
    let facts = vec![
        person("1965-06-29", nephrogate::clinical::fact::Sex::Male),
        dosed().remove(1),
        creatinine("a", "2026-01-11", 1.8),
        creatinine("b", "2026-06-28", 1.8),
        creatinine("c", "2026-09-21", 1.8),
    ];
    let judged = course_of(&facts, "2026-12-29");
    let egfr = series(&judged, Measure::Egfr);
    assert_eq!(value(egfr, "W24").change, Some(0.0));
    near(value(egfr, "W36").percent_change, (0.9938 - 1.0) * 100.0);
}

#[test]
fn what_may_not_decide_is_no_point_and_says_why() {
    let one = |id: &str, mg_dl: f64| creatinine(id, "2026-06-29", mg_dl);
    let of = |facts: Vec<Fact>| {
        let judged = course_of(&with(with(dosed(), [egfr_on("2026-01-11", 30.0)]), facts), "2026-12-29");
        let egfr = series(&judged, Measure::Egfr);
        let why: Vec<String> = unusable(egfr).into_iter().map(|(why, by)| format!("{why} {by}")).collect();
        (value(egfr, "W24").point.is_some(), why.join(", "))
    };
    assert_eq!(of(vec![one("a", 2.0)]), (true, String::new()));
    assert_eq!(of(vec![one("a", 2.0).status(Status::Preliminary)]), (false, "preliminary Observation/a".into()));
    assert_eq!(of(vec![one("a", 2.0).comparator(Comparator::Greater)]), (false, "comparator Observation/a".into()));
    assert_eq!(of(vec![one("a", 2.0).measured(|of| of.unit = None)]), (false, "unit-missing Observation/a".into()));
    assert_eq!(of(vec![one("a", 90.0)]), (false, "implausible Observation/a".into()));
    assert_eq!(of(vec![one("a", 2.0).measured(|of| of.effective = None)]), (false, "time-missing Observation/a".into()));
    assert_eq!(of(vec![one("a", 2.0).measured(|of| of.effective = Some(date("2026-06")))]), (false, "imprecise-date Observation/a".into()));
    // Two results of one draw and equal standing: which of them would be chance. By rank one counts.
    assert_eq!(of(vec![one("a", 2.0), one("b", 2.1)]), (false, "conflicting-results Observation/b".into()));
    assert_eq!(of(vec![one("a", 2.0), one("b", 2.1).rank(1)]), (true, String::new()));
    assert_eq!(of(vec![one("a", 2.0), one("b", 2.0)]), (true, String::new()));
    // Two versions of which nothing says which is newer.
    let versions = vec![one("a", 2.0).version("x"), one("a", 2.1).version("y")];
    assert_eq!(of(versions), (false, "conflicting-results Observation/a".into()));
    // A withdrawn result is no result.
    assert_eq!(of(vec![one("a", 2.0), one("a", 2.0).version("2").status(Status::EnteredInError)]), (false, String::new()));
    // Without what the equation needs.
    let facts = vec![person_with(|_| {}), dosed().remove(1), creatinine("a", "2026-01-11", 2.0)];
    let judged = course_of(&facts, "2026-12-29");
    let egfr = series(&judged, Measure::Egfr);
    assert_eq!((egfr.points.len(), unusable(egfr)), (0, vec![("missing-birth-date", "Observation/a")]));
}

#[test]
fn a_correction_after_the_fact_moves_the_value_of_its_visit() {
    let first = creatinine("a", "2026-06-29", creatinine_of(30.0)).version("1");
    let corrected = creatinine("a", "2026-06-29", creatinine_of(45.0)).version("2").status(Status::Corrected);
    let facts = with(dosed(), [egfr_on("2026-01-11", 30.0), first, corrected]);
    let judged = course_of(&facts, "2026-12-29");
    let w24 = value(series(&judged, Measure::Egfr), "W24").clone();
    near(w24.change, 15.0);
    assert_eq!(w24.point.unwrap().by[0].version.as_deref(), Some("2"));
}

#[test]
fn results_of_after_the_follow_up_do_not_belong_to_the_trial() {
    // The window of W48 closes on 28 December.
    let facts = with(dosed(), [egfr_on("2026-01-11", 30.0), egfr_on("2026-12-28", 31.0), egfr_on("2026-12-29", 10.0)]);
    let judged = course_of(&facts, "2026-12-31");
    assert_eq!(series(&judged, Measure::Egfr).points.len(), 2);
    // And what is dated after the judgement does not exist for it.
    assert_eq!(series(&course_of(&facts, "2026-12-27"), Measure::Egfr).points.len(), 1);
}

#[test]
fn the_slope_is_a_least_squares_line_per_year_with_its_error() {
    let at = |after: i64, egfr: f64| egfr_on(&format!("{}T08:00:00Z", day(after)), egfr);
    let slope = |facts: Vec<Fact>| series(&course_of(&with(dosed(), facts), "2026-12-29"), Measure::Egfr).slope.clone();
    // 0.01 a day, and a value of before the baseline that does not count.
    let line = slope(vec![at(-6, 60.0), at(0, 30.0), at(100, 31.0), at(200, 32.0), at(300, 33.0)]).unwrap();
    near(Some(line.per_year), 3.6525);
    assert!(line.points == 4 && line.standard_error.unwrap() < 1e-9);
    let two = slope(vec![at(0, 30.0), at(100, 31.0)]).unwrap();
    assert_eq!((two.points, two.standard_error), (2, None));
    assert_eq!(slope(vec![at(0, 30.0)]), None);
    assert_eq!(slope(vec![at(1, 30.0), at(100, 31.0), at(200, 31.0)]), None, "without a baseline there is no beginning");
}

// --- proteinuria

fn urine(id: &str, analyte: Analyte, when: &str, value: f64, unit: Unit) -> Fact {
    lab(id, analyte, when, value, unit)
}

fn upcr(id: &str, when: &str, value: f64, unit: Unit) -> Fact {
    urine(id, Analyte::UrineProteinCreatinineRatio, when, value, unit)
}

fn protein(id: &str, when: &str, mg_dl: f64) -> Fact {
    urine(id, Analyte::UrineProteinConcentration, when, mg_dl, Unit::MgPerDl)
}

fn urine_creatinine(id: &str, when: &str, mg_dl: f64) -> Fact {
    urine(id, Analyte::UrineCreatinine, when, mg_dl, Unit::MgPerDl)
}

/// Values in mg/g and the resources behind each.
fn points(facts: Vec<Fact>, measure: Measure) -> Vec<(f64, String)> {
    let judged = course_of(&with(dosed(), facts), "2026-12-29");
    let Some(series) = judged.outcome.series.iter().find(|series| series.measure == measure) else { return Vec::new() };
    assert_eq!(series.unit, if measure == Measure::UrineProteinPer24h { "mg/(24.h)" } else { "mg/g" });
    let by =
        |point: &nephrogate::rules::outcome::Point| point.by.iter().map(|by| by.resource.replace("Observation/", "")).collect::<Vec<_>>().join(" ");
    series.points.iter().map(|point| ((point.value * 1e6).round() / 1e6, by(point))).collect()
}

#[test]
fn a_reported_ratio_is_read_in_mass_or_in_moles() {
    let facts = vec![upcr("a", "2026-01-11", 900.0, Unit::MgPerG), upcr("b", "2026-06-29", 100.0, Unit::MgPerMmol)];
    // One mmol of creatinine weighs 10 / 88.42 g.
    assert_eq!(points(facts, Measure::Upcr), [(900.0, "a".to_string()), (884.2, "b".to_string())]);
}

#[test]
fn a_ratio_is_computed_from_the_two_concentrations_of_one_specimen_and_names_both() {
    let at = "2026-06-29T08:00:00Z";
    assert_eq!(points(vec![protein("p", at, 150.0), urine_creatinine("c", at, 75.0)], Measure::Upcr), [(2000.0, "p c".to_string())]);
    // 6631.5 umol/L is 75 mg/dL by 88.42.
    let moles = urine("c", Analyte::UrineCreatinine, at, 6631.5, Unit::UmolPerL);
    assert_eq!(points(vec![protein("p", at, 150.0), moles], Measure::Upcr), [(2000.0, "p c".to_string())]);
    // Albumin comes in mg/L.
    let albumin = urine("a", Analyte::UrineAlbuminConcentration, at, 300.0, Unit::MgPerL);
    assert_eq!(points(vec![albumin, urine_creatinine("c", at, 75.0)], Measure::Uacr), [(400.0, "a c".to_string())]);
    // Serum creatinine is not urine creatinine.
    assert_eq!(points(vec![protein("p", at, 150.0), creatinine("s", at, 1.8)], Measure::Upcr), []);
}

#[test]
fn a_reported_ratio_outranks_the_computed_one_of_its_time_only() {
    let at = "2026-06-29T08:00:00Z";
    let both = |reported: Fact| points(vec![reported, protein("p", at, 150.0), urine_creatinine("c", at, 75.0)], Measure::Upcr);
    assert_eq!(both(upcr("r", at, 1990.0, Unit::MgPerG)), [(1990.0, "r".to_string())]);
    assert_eq!(both(upcr("r", "2026-06-29", 1990.0, Unit::MgPerG)), [(1990.0, "r".to_string())]);
    assert_eq!(both(upcr("r", "2026-06-28", 1990.0, Unit::MgPerG)), [(1990.0, "r".to_string()), (2000.0, "p c".to_string())]);
    // One that may not decide leaves the place to the computed one.
    assert_eq!(both(upcr("r", at, 1990.0, Unit::MgPerG).status(Status::Preliminary)), [(2000.0, "p c".to_string())]);
    assert_eq!(both(upcr("r", at, 150.0, Unit::MgPerG).comparator(Comparator::Greater)), [(2000.0, "p c".to_string())]);
}

#[test]
fn two_specimens_are_never_one_ratio() {
    let none = |facts: Vec<Fact>| assert_eq!(points(facts, Measure::Upcr), []);
    none(vec![protein("p", "2026-06-29T08:00:00Z", 150.0), urine_creatinine("c", "2026-06-29T16:00:00Z", 75.0)]);
    none(vec![protein("p", "2026-06-29", 150.0), urine_creatinine("c", "2026-06-30", 75.0)]);
    // A spot sample within a collection of 24 hours.
    let collected = || {
        urine_creatinine("c", "2026-06-29", 75.0).measured(|of| {
            of.effective = Some(PartialDate::spanning(date("2026-06-28T07:00:00Z"), date("2026-06-29T07:00:00Z")));
        })
    };
    none(vec![protein("p", "2026-06-28T12:00:00Z", 150.0), collected()]);
    none(vec![protein("p", "2026-06-28", 150.0), collected()]);
    // Both of the collection are of one specimen.
    let both = protein("p", "2026-06-29", 150.0).measured(|of| of.effective = collected_span());
    assert_eq!(points(vec![both, collected()], Measure::Upcr), [(2000.0, "p c".to_string())]);
    // A day's protein may belong to either of two creatinines of that day.
    none(vec![
        protein("p", "2026-06-29", 150.0),
        urine_creatinine("c", "2026-06-29T08:00:00Z", 75.0),
        urine_creatinine("d", "2026-06-29T16:00:00Z", 90.0),
    ]);
    // A part that may not decide makes no whole.
    none(vec![protein("p", "2026-06-29", 150.0).comparator(Comparator::Less), urine_creatinine("c", "2026-06-29", 75.0)]);
    none(vec![protein("p", "2026-06-29", 150.0), urine_creatinine("c", "2026-06-29", 75.0).status(Status::Preliminary)]);
}

fn collected_span() -> Option<PartialDate> {
    Some(PartialDate::spanning(date("2026-06-28T07:00:00Z"), date("2026-06-29T07:00:00Z")))
}

#[test]
fn kinds_of_proteinuria_are_never_mixed() {
    let facts = with(
        dosed(),
        [
            egfr_on("2026-01-11", 30.0),
            upcr("a", "2026-01-11", 900.0, Unit::MgPerG),
            urine("b", Analyte::UrineAlbuminCreatinineRatio, "2026-06-29", 500.0, Unit::MgPerG),
            urine("c", Analyte::UrineProteinPer24h, "2026-09-21", 1500.0, Unit::MgPer24h),
            urine("d", Analyte::UrineProteinDipstick, "2026-12-14", 3.0, Unit::Grade),
        ],
    );
    let judged = course_of(&facts, "2026-12-29");
    let counts: Vec<(&str, usize)> = judged.outcome.series.iter().map(|series| (series.measure.word(), series.points.len())).collect();
    assert_eq!(counts, [("egfr", 1), ("upcr", 1), ("uacr", 1), ("urine-protein-per-24h", 1)]);
    // A ratio in another kind's unit is no value.
    assert_eq!(points(vec![upcr("a", "2026-01-11", 900.0, Unit::MgPer24h)], Measure::Upcr), []);
    // A rise of proteinuria is no response, whatever its size; of a baseline of 0 there is no percentage.
    let from = |baseline: f64| {
        let facts = with(dosed(), [upcr("a", "2026-01-11", baseline, Unit::MgPerG), upcr("b", "2026-06-29", 900.0, Unit::MgPerG)]);
        let w24 = value(series(&course_of(&facts, "2026-12-29"), Measure::Upcr), "W24").clone();
        (w24.change, w24.percent_change, w24.is_responder)
    };
    assert_eq!(from(600.0), (Some(300.0), Some(50.0), None));
    assert_eq!(from(0.0), (Some(900.0), None, None));
}

// --- the study's own words

#[test]
fn windows_that_share_a_day_and_strata_that_share_a_value_are_refused() {
    let faults = |from: &str, to: &str| -> Vec<String> {
        let text = study_text(TRIAL);
        assert!(text.contains(from), "{from}");
        Study::parse(&text.replacen(from, to, 1)).err().unwrap_or_default().into_iter().map(|fault| fault.path).collect()
    };
    assert_eq!(faults("\"week\": 4, \"days_before\": 3", "\"week\": 4, \"days_before\": 10"), Vec::<String>::new());
    assert_eq!(faults("\"week\": 4, \"days_before\": 3", "\"week\": 4, \"days_before\": 11"), ["/visits/2"]);
    assert_eq!(faults("\"week\": 4,", "\"week\": 2,"), ["/visits/2"]);
    assert_eq!(faults("\"id\": \"W4\"", "\"id\": \"W2\""), ["/visits/2/id"]);
    assert_eq!(faults("[\"W24\", \"W48\"]", "[\"W24\", \"W52\"]"), ["/outcome/compare_at/1"]);
    assert_eq!(faults("[\"W24\", \"W48\"]", "[\"W0\"]"), ["/outcome/compare_at/0"]);
    assert_eq!(faults("\"max\": 30", "\"max\": 31"), ["/outcome/strata/1"]);
    assert_eq!(faults("\"min\": 30", "\"min\": 30, \"max\": 30"), ["/outcome/strata/0"]);
    assert_eq!(faults("[\"egfr\", \"upcr\"", "[\"upcr\""), ["/outcome/strata"]);
    assert_eq!(faults("\"alpha\": 0.05", "\"alpha\": 1"), ["/outcome/alpha"]);
    assert_eq!(faults("\"follow_up\":", "\"unknown\":"), ["/outcome"]);
    assert_eq!(faults("[\"creatinine\"],\n    \"lost", "[],\n    \"lost"), ["/follow_up/visit_shown_by"]);
}

// --- laws

/// Creatinines of the year of the trial, in days from the dose.
fn results() -> impl Strategy<Value = Vec<Fact>> {
    let status = prop_oneof![8 => Just(Status::Final), 1 => Just(Status::Preliminary), 1 => Just(Status::EnteredInError)];
    let one = (-10_i64..360, 0..3_u8, 150_u32..600, status, 0..3_u8).prop_map(|(after, hour, centi, status, rank)| {
        let when = if hour == 0 { day(after) } else { format!("{}T{:02}:00:00Z", day(after), 6 * hour) };
        creatinine(&format!("{after}-{hour}-{rank}"), &when, f64::from(centi) / 100.0).status(status).rank(rank)
    });
    prop::collection::vec(one, 0..25)
}

fn judged_at_the_end(facts: Vec<Fact>) -> Course {
    course(&study(TRIAL), &Chart::fold(facts, &[]), AsOf::parse("2027-01-31").unwrap()).expect("dosed")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, ..ProptestConfig::default() })]

    #[test]
    fn the_order_of_facts_does_not_matter(
        (facts, shuffled) in results().prop_flat_map(|facts| {
            let facts = with(dosed(), facts);
            (Just(facts.clone()), Just(facts).prop_shuffle())
        }),
    ) {
        prop_assert_eq!(judged_at_the_end(facts), judged_at_the_end(shuffled));
    }

    #[test]
    fn a_value_outside_every_window_changes_no_visit(facts in results(), after in 1_i64..400, egfr in 10.0_f64..60.0) {
        let before = judged_at_the_end(with(dosed(), facts.clone()));
        let stray = day(after);
        prop_assume!(!before.schedule.visits.iter().any(|visit| visit.opens <= stray && stray <= visit.closes));
        let stray = egfr_on(&stray, egfr);
        let later = judged_at_the_end(with(dosed(), facts.into_iter().chain([stray])));
        let (one, other) = (series(&before, Measure::Egfr), series(&later, Measure::Egfr));
        prop_assert_eq!((&one.baseline, &one.visits, &one.stratum), (&other.baseline, &other.visits, &other.stratum));
        for (one, other) in before.schedule.visits.iter().zip(&later.schedule.visits) {
            prop_assert_eq!(one.state == Done, other.state == Done);
            if one.state == Done {
                prop_assert_eq!(one, other);
            }
        }
    }

    #[test]
    fn a_constant_egfr_gives_no_change(days in prop::collection::btree_set(-7_i64..350, 1..20), centi in 150_u32..600) {
        // The man is 60 on all these days.
        let facts = days.iter().map(|after| creatinine(&after.to_string(), &day(*after), f64::from(centi) / 100.0));
        let judged = judged_at_the_end(with(dosed(), facts));
        let egfr = series(&judged, Measure::Egfr);
        for value in egfr.visits.iter().filter(|value| value.change.is_some()) {
            prop_assert_eq!((value.change, value.percent_change, value.is_responder), (Some(0.0), Some(0.0), Some(false)));
        }
        prop_assert_eq!(egfr.baseline.is_some(), days.iter().any(|after| *after <= 0));
        if let Some(slope) = &egfr.slope {
            prop_assert!(slope.per_year.abs() < 1e-9 && slope.standard_error.is_none_or(|error| error < 1e-9));
        }
    }

    #[test]
    fn the_value_of_a_visit_is_the_nearest_that_lies_in_its_window(facts in results()) {
        let judged = judged_at_the_end(with(dosed(), facts));
        let egfr = series(&judged, Measure::Egfr);
        let number = |text: &str| date(text).day().number();
        for value in &egfr.visits {
            let standing = visit(&judged, &value.visit);
            let (opens, due, closes) = (number(&standing.opens), number(&standing.due), number(&standing.closes));
            let inside: Vec<i64> = egfr.points.iter().map(|point| number(&point.date)).filter(|day| opens <= *day && *day <= closes).collect();
            let nearest = inside.iter().map(|day| (day - due).abs()).min();
            prop_assert_eq!(value.point.as_ref().map(|point| (number(&point.date) - due).abs()), nearest);
            prop_assert_eq!(value.change.is_some(), value.point.is_some() && egfr.baseline.is_some());
            if value.point.is_some() {
                prop_assert_eq!(standing.state, Done);
            }
        }
    }
}
