//! The report of a trial, entered by `report` with courses made by hand, and what it looks like in each format.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use nephrogate::clinical::date::{AsOf, PartialDate};
use nephrogate::clinical::fact::Relation;
use nephrogate::clinical::quantity::{Analyte, Comparator, Unit};
use nephrogate::report::csv::{Domain, Laboratory, csv};
use nephrogate::report::{Enrolled, Report, html, markdown, plot, report};
use nephrogate::rules::course::{Cited, Course, Dated};
use nephrogate::rules::enrolment::{ArmGiven, Dose, Entered};
use nephrogate::rules::outcome::{Outcome, Point, Series, Slope, Unusable, VisitValue};
use nephrogate::rules::safety::{ClockStanding, ClockState, Event, EventOrigin};
use nephrogate::rules::schedule::{Expected, Schedule, VisitStanding, VisitState};
use nephrogate::rules::{Hidden, SubjectState};
use nephrogate::study::Study;
use nephrogate::study::follow_up::Measure;
use serde_json::Value;

use crate::gateway::Gateway;

const STUDY: &str = r#"{
  "id": "trial-1", "title": "A small trial of <b>two</b> doses", "note": "Invented.",
  "arms": [
    { "id": "low", "name": "Low dose", "cells": 6.4e7, "planned_subjects": 3, "note": "Invented." },
    { "id": "high", "name": "High dose", "cells": 32e7, "planned_subjects": 3, "note": "Invented." }
  ],
  "visits": [
    { "id": "W0", "week": 0, "note": "Invented." },
    { "id": "W12", "week": 12, "days_before": 14, "days_after": 14, "note": "Invented." },
    { "id": "W24", "week": 24, "days_before": 14, "days_after": 14, "note": "Invented." },
    { "id": "W48", "week": 48, "days_before": 14, "days_after": 14, "note": "Invented." }
  ],
  "egfr": { "equation": "ckd-epi-2021-creatinine", "creatinine_factor_umol_l_per_mg_dl": 88.42, "which_result": "newest-uncontradicted", "note": "Invented." },
  "follow_up": { "anchor": "first-dose", "visit_shown_by": ["creatinine"], "note": "Invented." },
  "outcome": {
    "baseline": { "which": "last-before-dose", "within_days": 28, "note": "Invented." },
    "responder_percent": 20,
    "strata": [ { "id": "above", "name": "Baseline eGFR 30 or above", "min": 30 }, { "id": "below", "name": "Baseline eGFR below 30", "max": 30 } ],
    "measures": ["egfr", "upcr"], "compare_at": ["W24", "W48"], "test": "wilcoxon-signed-rank", "alpha": 0.05, "note": "Invented."
  },
  "criteria": [
    { "id": "age", "text": "Adults", "type": "inclusion", "origin": "registry", "stage": "prescreen", "note": "Invented.", "rule": { "kind": "age", "min_years": 18 } }
  ]
}"#;

fn study() -> Study {
    Study::parse(STUDY).expect("the study of this test is sound")
}

fn ms(date: &str) -> i64 {
    PartialDate::parse(date).unwrap().start_ms
}

fn cited(resource: &str) -> Cited {
    Cited { resource: resource.into(), version: Some("1".into()), message: 0 }
}

fn dated(date: &str, resource: &str) -> Dated {
    Dated { date: date.into(), at_ms: ms(date), by: cited(resource) }
}

/// Days after 2025-01-06, the day of everybody's dose.
fn day(days: i64) -> String {
    nephrogate::clinical::date::Day::from_number(ms("2025-01-06") / 86_400_000 + days).to_string()
}

/// A subject with a value at baseline and at each of W12, W24, W48; `None` where nothing came.
fn subject(id: &str, arm: &str, baseline: f64, values: [Option<f64>; 3]) -> Enrolled {
    let visits = [("W12", 12), ("W24", 24), ("W48", 48)];
    let point = |week: i64, value: f64| Point {
        date: day(week * 7),
        at_ms: ms(&day(week * 7)),
        value,
        by: vec![cited(&format!("Observation/{id}-w{week}"))],
    };
    let at_visits: Vec<VisitValue> = visits
        .iter()
        .zip(values)
        .map(|((visit, week), value)| VisitValue {
            visit: (*visit).into(),
            point: value.map(|value| point(*week, value)),
            change: value.map(|value| value - baseline),
            percent_change: value.map(|value| 100.0 * (value - baseline) / baseline),
            is_responder: value.map(|value| value > baseline * 1.2),
        })
        .collect();
    let standing = |visit: &str, week: i64, is_done: bool| VisitStanding {
        visit: visit.into(),
        week: week as u32,
        due: day(week * 7),
        opens: day(week * 7 - 14),
        closes: day(week * 7 + 14),
        state: if is_done { VisitState::Done } else { VisitState::Missed },
        on: is_done.then(|| dated(&day(week * 7), &format!("Observation/{id}-w{week}"))),
        deviation_days: is_done.then_some(0),
    };
    let mut standings = vec![standing("W0", 0, true)];
    standings.extend(visits.iter().zip(values).map(|((visit, week), value)| standing(visit, *week, value.is_some())));
    let cells = if arm == "low" { 6.4e7 } else { 32e7 };
    let given = dated(&day(0), &format!("MedicationAdministration/{id}"));
    let course = Course {
        study: "trial-1".into(),
        study_hash: study().hash,
        as_of_ms: ms("2026-01-01"),
        state: SubjectState::OnFollowUp,
        entered: Entered {
            enrolled: dated("2025-01-03", &format!("ResearchSubject/{id}")),
            ended: None,
            arm: Some(ArmGiven { arm: arm.into(), by: vec![cited(&format!("ResearchSubject/{id}"))], is_conflicting: false }),
            doses: vec![Dose {
                by: vec![given.by.clone()],
                given: given.clone(),
                cells: Some(cells),
                as_received: format!("{cells} {{cells}}"),
                fits_arm: Some(true),
            }],
        },
        schedule: Schedule { anchor: Some(given), visits: standings, ..Schedule::default() },
        events: Vec::new(),
        candidates: Vec::new(),
        outcome: Outcome {
            series: vec![Series {
                measure: Measure::Egfr,
                unit: "mL/min/{1.73_m2}".into(),
                stratum: Some(if baseline >= 30.0 { "above".into() } else { "below".into() }),
                points: std::iter::once(point(0, baseline)).chain(at_visits.iter().filter_map(|value| value.point.clone())).collect(),
                baseline: Some(point(0, baseline)),
                visits: at_visits,
                slope: Some(Slope { per_year: 1.5, standard_error: Some(0.5), points: 4 }),
                unusable: vec![Unusable { date: Some(day(100)), why: "preliminary".into(), by: cited("Observation/early") }],
            }],
        },
    };
    Enrolled::new("north", id, course)
}

fn event(id: &str, term: &str, grade: u8) -> Event {
    Event {
        id: format!("AdverseEvent/{id}"),
        origin: EventOrigin::Hospital,
        by: vec![cited(&format!("AdverseEvent/{id}"))],
        term: term.into(),
        codes: vec!["meddra|10013887".into()],
        grade: Some(grade),
        is_serious: Some(false),
        seriousness_criteria: Vec::new(),
        relation: Some(Relation::Possible),
        is_related: Some(true),
        is_expected: None,
        outcome: Some("resolved".into()),
        is_dose_limiting: Some(false),
        dose_limiting_by: None,
        onset: Some(day(1)),
        onset_ms: Some(ms(&day(1))),
        resolved: Some(day(2)),
        aware_ms: Some(ms(&day(1))),
        is_treatment_emergent: Some(true),
        names_study: false,
        left_out: None,
        missing: Vec::new(),
        clocks: Vec::new(),
    }
}

/// Five subjects of two arms: one lost, one with a missing visit; four events that count and one that does not.
fn trial() -> Vec<Enrolled> {
    let mut courses = vec![
        subject("p1", "low", 40.0, [Some(41.0), Some(49.0), Some(44.0)]),
        subject("p2", "low", 20.0, [Some(18.0), Some(19.0), None]),
        subject("p3", "high", 31.0, [Some(33.0), Some(38.0), Some(31.0)]),
        subject("p4", "high", 25.0, [None, Some(26.0), Some(24.0)]),
        subject("p5", "high", 28.5, [Some(28.0), None, None]),
    ];
    courses[2].course.events = vec![
        Event { is_dose_limiting: Some(true), ..event("slow-speech", "=Slow speech | *very*", 1) },
        Event { is_expected: Some(false), missing: vec!["expectedness"], ..event("bradyphrenia", "Bradyphrenia", 1) },
    ];
    courses[3].course.events = vec![
        Event {
            is_serious: Some(true),
            seriousness_criteria: vec!["http://ncicb.nci.nih.gov/xml/owl/EVS/Thesaurus.owl|C83052".into()],
            relation: Some(Relation::Unlikely),
            is_related: Some(false),
            clocks: vec![ClockStanding {
                clock: "site-to-sponsor".into(),
                started_ms: ms(&day(20)),
                due_ms: ms(&day(21)),
                state: ClockState::Overdue,
                reported_ms: None,
                assumed: vec!["expectedness"],
            }],
            onset: Some(day(20)),
            onset_ms: Some(ms(&day(20))),
            ..event("proteinuria", "Proteinuria", 2)
        },
        Event { left_out: Some("potential"), ..event("near-miss", "Near miss", 3) },
        Event { grade: None, relation: None, is_related: None, is_serious: None, missing: vec!["grade", "seriousness"], ..event("fall", "Fall", 1) },
    ];
    courses[4].course.state = SubjectState::Lost;
    courses[4].course.schedule.lost = Some(cited("Decision/lost"));
    courses[1].course.schedule.next =
        Some(Expected { visit: "W48".into(), what: vec!["creatinine".into()], due: day(336), closes: day(350), is_overdue: true });
    courses
}

fn as_of() -> AsOf {
    AsOf::parse("2026-01-01").unwrap()
}

fn json(report: &Report<'_>) -> Value {
    serde_json::from_str(&report.to_json()).expect("a report is JSON")
}

fn is_golden(name: &str, text: &str) {
    let golden = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("WRITE_GOLDEN").is_some() {
        fs::write(&golden, text).unwrap();
    }
    let is_same = text == fs::read_to_string(&golden).unwrap_or_default();
    assert!(is_same, "tests/golden/{name} differs; WRITE_GOLDEN=1 writes it anew, then look at the difference");
}

#[test]
fn the_json_begins_with_the_figures_of_the_trial() {
    let (study, courses) = (study(), trial());
    let text = report(&study, as_of(), &courses).to_json();
    let head = r#"{"subjects":5,"arms":{"low":2,"high":3},"lost_to_follow_up":1,"treatment_related_events":2,"dose_limiting_toxicities":1,"serious_events":1,"egfr_increased":{"W24":3,"W48":1},"#;
    assert!(text.starts_with(head), "{}", &text[..head.len() + 40]);
    assert!(!text.contains('\n'), "one line");
}

#[test]
fn every_figure_of_the_head_names_the_resources_behind_it() {
    let (study, courses) = (study(), trial());
    let report = json(&report(&study, as_of(), &courses));
    let evidence = &report["evidence"];
    for figure in ["subjects", "lost_to_follow_up", "treatment_related_events", "dose_limiting_toxicities", "serious_events"] {
        assert_eq!(evidence[figure]["count"], report[figure], "{figure}");
        assert_eq!(evidence[figure]["because"].as_array().unwrap().len() as u64, report[figure].as_u64().unwrap(), "{figure}");
        for because in evidence[figure]["because"].as_array().unwrap() {
            assert_eq!(because["site"], "north");
            assert!(!because["facts"].as_array().unwrap().is_empty(), "{figure}: {because}");
        }
    }
    assert_eq!(evidence["dose_limiting_toxicities"]["because"][0]["event"], "AdverseEvent/slow-speech");
    assert_eq!(evidence["lost_to_follow_up"]["because"][0]["facts"][0]["resource"], "Decision/lost");
    let increased = &evidence["egfr_increased"]["W24"];
    assert_eq!((&increased["count"], &increased["of"]), (&3.into(), &4.into()), "one has no value at W24");
    let facts: Vec<&str> = increased["because"][0]["facts"].as_array().unwrap().iter().map(|fact| fact["resource"].as_str().unwrap()).collect();
    assert_eq!(facts, ["Observation/p1-w0", "Observation/p1-w24"], "baseline and visit");
}

#[test]
fn every_count_of_a_table_is_as_long_as_its_list() {
    fn walk(value: &Value, counts: &mut usize) {
        match value {
            Value::Object(object) => {
                if let (Some(count), Some(Value::Array(listed))) = (object.get("count").or(object.get("events")), object.get("listed")) {
                    assert_eq!(count.as_u64().unwrap() as usize, listed.len(), "{value}");
                    *counts += 1;
                }
                object.values().for_each(|value| walk(value, counts));
            }
            Value::Array(array) => array.iter().for_each(|value| walk(value, counts)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let (study, courses) = (study(), trial());
    let mut counts = 0;
    walk(&json(&report(&study, as_of(), &courses)), &mut counts);
    assert!(counts > 100, "{counts} counts were found");
}

#[test]
fn events_and_subjects_are_counted_apart_and_what_does_not_count_says_why() {
    let (study, courses) = (study(), trial());
    let report = report(&study, as_of(), &courses);
    let row = |what: &str| report.safety.table.iter().find(|row| row.what == what).unwrap();
    let (any, related) = (row("any"), row("related"));
    assert_eq!((any.all.events, any.all.subjects), (4, 2));
    assert_eq!((related.all.events, related.all.subjects), (2, 1));
    assert_eq!(related.arms.get("low").unwrap().events, 0);
    assert_eq!(row("serious-and-related").all.events, 0, "the axes are independent");
    assert_eq!((row("grade-3").all.events, row("grade-unknown").all.events, row("relation-unknown").all.events), (0, 1, 1));
    assert_eq!(report.safety.left_out.get("potential").unwrap().events, 1);
    assert_eq!(report.safety.completion.waiting.events, 2);
    assert_eq!((report.safety.overdue.len(), report.safety.overdue[0].clock), (1, "site-to-sponsor"));
}

#[test]
fn missing_values_are_missing_and_never_filled_in() {
    let (study, courses) = (study(), trial());
    let report = report(&study, as_of(), &courses);
    let all = &report.outcomes[0].groups[0];
    let visit = |id: &str| all.visits.iter().find(|visit| visit.visit == id).unwrap();
    assert_eq!((visit("W24").known.count, visit("W24").missing.count, visit("W24").awaited.count), (4, 1, 0));
    assert_eq!((visit("W24").value.n, visit("W24").change.n), (4, 4));
    // Changes at W24: 9, -1, 7, 1.
    assert_eq!((visit("W24").change.mean, visit("W24").change.median), (Some(4.0), Some(4.0)));
    let test = visit("W24").test.as_ref().unwrap();
    // Ranks of 9, -1, 7, 1 are 4, 1.5, 3, 1.5: the positive ones sum to 8.5.
    assert_eq!((test.n, test.statistic, test.is_significant), (4, 8.5, false));
    assert!(visit("W12").test.is_none(), "the study compares at W24 and W48");
    let strata: Vec<(&str, usize)> =
        report.outcomes[0].groups.iter().filter(|group| group.name.starts_with("Baseline")).map(|group| (group.id, group.subjects.count)).collect();
    assert_eq!(strata, [("above", 2), ("below", 3)]);
    let above = report.outcomes[0].groups.iter().find(|group| group.id == "above").unwrap();
    let responders = &above.visits.iter().find(|visit| visit.visit == "W24").unwrap().responders;
    assert_eq!((responders.count, responders.of), (2, Some(2)), "49 from 40 and 38 from 31 are rises above 20 %");
}

#[test]
fn a_study_that_nobody_entered_reports_zeros() {
    let study = study();
    let report = report(&study, as_of(), &[]);
    let head = r#"{"subjects":0,"arms":{"low":0,"high":0},"lost_to_follow_up":0,"treatment_related_events":0,"dose_limiting_toxicities":0,"serious_events":0,"egfr_increased":{"W24":0,"W48":0},"#;
    assert!(report.to_json().starts_with(head), "{}", report.to_json());
    assert!(markdown::markdown(&report).contains("| Subjects who entered | 0 |"));
    assert!(html::page(&report).contains("</html>"));
    assert_eq!(csv(&study, &[], Domain::Lb).lines().count(), 1, "the names alone");
}

#[test]
fn no_format_ever_says_nan_or_infinity() {
    let study = study();
    let mut courses = trial();
    // A baseline of 0 and one of nothing: neither has a percentage.
    courses[0].course.outcome.series[0].visits[0].percent_change = Some(f64::NAN);
    courses[1].course.outcome.series[0].baseline = None;
    courses[1].course.outcome.series[0].visits.iter_mut().for_each(|value| (value.change, value.percent_change) = (None, None));
    for courses in [courses, Vec::new(), vec![subject("alone", "low", 30.0, [None; 3])]] {
        let report = report(&study, as_of(), &courses);
        let texts = [
            report.to_json(),
            markdown::markdown(&report),
            html::body(&report),
            csv(&study, &courses, Domain::Lb),
            csv(&study, &courses, Domain::Ae),
        ];
        for text in texts {
            assert!(!text.contains("NaN") && !text.contains(">inf") && !text.contains("-inf"), "{text}");
        }
    }
}

#[test]
fn somebody_who_must_not_be_named_is_counted_and_not_named_and_a_test_patient_does_not_count() {
    let study = study();
    let mut courses = trial();
    courses[2].subject = "opted-out-person".into();
    courses[2].hidden = Some(Hidden::OptedOut);
    courses[4].subject = "invented-person".into();
    courses[4].hidden = Some(Hidden::TestPatient);
    let report = report(&study, as_of(), &courses);
    assert_eq!((report.subjects, report.unnamed_subjects, report.dose_limiting_toxicities), (4, 1, 1));
    assert_eq!(report.not_counted.get("test-patient"), Some(&1));
    let texts =
        [report.to_json(), markdown::markdown(&report), html::page(&report), csv(&study, &courses, Domain::Lb), csv(&study, &courses, Domain::Ae)];
    for text in texts {
        for word in ["opted-out-person", "invented-person", "p3-w", "slow-speech", "Slow speech", "bradyphrenia", "Bradyphrenia"] {
            assert!(!text.contains(word), "{word} in {text}");
        }
    }
}

#[test]
fn the_markdown_is_the_golden_one() {
    let (study, courses) = (study(), trial());
    is_golden("report.md", &markdown::markdown(&report(&study, as_of(), &courses)));
}

#[test]
fn the_json_is_the_golden_one() {
    let (study, courses) = (study(), trial());
    is_golden("report.json", &(serde_json::to_string_pretty(&json(&report(&study, as_of(), &courses))).unwrap() + "\n"));
}

#[test]
fn the_plots_are_well_formed_and_say_in_words_what_they_draw() {
    let (study, courses) = (study(), trial());
    let report = report(&study, as_of(), &courses);
    let plots = plot::plots(&report);
    assert_eq!(plots.len(), 2, "eGFR, and the swimmer plot");
    for (_, svg) in &plots {
        assert_well_formed(svg);
        assert!(svg.contains("<title id=") && svg.contains("<desc id=") && svg.contains("role=\"img\""));
        assert!(!svg.contains("NaN"));
    }
    assert!(plots[0].1.contains("Low dose, 2 subjects: medians in mL/min/1.73 m² are 30.0 at baseline"), "{}", plots[0].1);
    assert!(plots[1].1.contains("=Slow speech | *very*"), "the mark says its event");
    assert_well_formed(&html::body(&report));
}

/// Every tag is closed in order, and no bare `<` or `&` stands in the text.
fn assert_well_formed(xml: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = xml;
    while let Some(start) = rest.find('<') {
        let end = rest[start..].find('>').expect("a tag ends") + start;
        let tag = &rest[start + 1..end];
        assert!(tag.matches('"').count().is_multiple_of(2), "{tag}");
        let name = tag.trim_start_matches('/').split([' ', '\n', '/']).next().unwrap();
        match tag.strip_prefix('/') {
            Some(_) => assert_eq!(open.pop(), Some(name), "near {}", &rest[..end.min(200)]),
            None if tag.ends_with('/') => {}
            None => open.push(name),
        }
        rest = &rest[end + 1..];
    }
    assert!(open.is_empty(), "{open:?} stay open");
    assert!(xml.split('&').skip(1).all(|after| after.starts_with('#') || after.starts_with("amp;")), "a bare ampersand");
}

#[test]
fn the_page_stands_alone_without_a_script() {
    let (study, courses) = (study(), trial());
    let page = html::page(&report(&study, as_of(), &courses));
    assert!(page.contains("<style>") && page.contains("<svg"));
    for word in ["<script", "<link", " src=", "http-equiv", "<b>two</b>"] {
        assert!(!page.contains(word), "{word}");
    }
}

/// Cells of a line that has no quoted comma.
fn cells(line: &str) -> Vec<&str> {
    line.split(',').collect()
}

#[test]
fn the_laboratory_file_has_results_as_collected_and_as_standardised_and_the_derived_egfr() {
    let study = study();
    let mut courses = vec![subject("p1", "low", 40.0, [Some(41.0), Some(49.0), Some(44.0)])];
    let result = Laboratory {
        by: cited("Observation/p1-w24"),
        analyte: Analyte::Creatinine,
        code: "loinc|14682-9".into(),
        date: PartialDate::parse(&day(168)).ok(),
        comparator: None,
        value_as_received: "159".into(),
        unit_as_received: "µmol/L".into(),
        value: Some(159.0),
        unit: Some(Unit::UmolPerL),
        reference_low: None,
        reference_high: Some(104.0),
        equation: None,
    };
    let below = Laboratory {
        comparator: Some(Comparator::Less),
        value_as_received: "<0.2".into(),
        date: PartialDate::parse(&day(-1)).ok(),
        by: cited("Observation/x"),
        ..result.clone()
    };
    let formula = Laboratory { value_as_received: "=HYPERLINK(\"http://x\")".into(), value: None, by: cited("Observation/y"), ..result.clone() };
    courses[0].laboratory = vec![result, below, formula];
    let text = csv(&study, &courses, Domain::Lb);
    let lines: Vec<&str> = text.split("\r\n").collect();
    let head = cells(lines[0]);
    let cell = |line: usize, name: &str| cells(lines[line])[head.iter().position(|known| *known == name).unwrap()];
    assert!(
        lines[1].starts_with(
            "trial-1,LB,trial-1-north-p1,1,Observation/p1-w24/_history/1,CREAT,Creatinine,159,µmol/L,159,159,umol/L,,104,14682-9,SERUM OR PLASMA"
        ),
        "{}",
        lines[1]
    );
    assert_eq!((cell(1, "VISITNUM"), cell(1, "VISIT"), cell(1, "LBDTC"), cell(1, "LBDY")), ("3", "WEEK 24", "2025-06-23", "169"));
    assert_eq!((cell(2, "LBSTRESC"), cell(2, "LBSTRESN"), cell(2, "LBDY")), ("<159", "", "-1"), "there is no day 0, and a limit is no number");
    assert!(lines[3].contains("\"'=HYPERLINK"), "never a formula: {}", lines[3]);
    let derived: Vec<&&str> = lines.iter().filter(|line| line.contains(",GFRBSCRT,")).collect();
    assert_eq!(derived.len(), 4, "baseline and three visits");
    assert!(derived[0].contains(",ckd-epi-2021-creatinine,Y,Y,"), "baseline flag and derived flag: {}", derived[0]);
}

#[test]
fn the_event_file_carries_the_axes_as_the_sources_said_them() {
    let (study, courses) = (study(), trial());
    let text = csv(&study, &courses, Domain::Ae);
    let lines: Vec<&str> = text.trim_end().split("\r\n").collect();
    assert_eq!(lines.len(), 5, "a head, and the events that count");
    let head = cells(lines[0]);
    let cell = |line: usize, name: &str| cells(lines[line])[head.iter().position(|known| *known == name).unwrap()].to_owned();
    assert!(cell(1, "AETERM").starts_with("'=Slow"), "never a formula");
    assert_eq!([cell(1, "AESER"), cell(1, "AEREL"), cell(1, "AETOXGR"), cell(1, "AEDLT")], ["N", "POSSIBLY RELATED", "1", "Y"]);
    assert_eq!([cell(1, "AESTDTC"), cell(1, "AESTDY"), cell(1, "AEENDY"), cell(1, "AEOUT")], ["2025-01-07", "2", "3", "RECOVERED/RESOLVED"]);
    assert_eq!([cell(3, "AESER"), cell(3, "AESHOSP"), cell(3, "AESDTH"), cell(3, "AEREL")], ["Y", "Y", "", "UNLIKELY RELATED"]);
    assert_eq!([cell(4, "AESER"), cell(4, "AEREL"), cell(4, "AETOXGR")], ["", "", ""], "what nobody said stays empty");
}

const TRIAL: &str = "elixcyte-1";

fn replay() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("studies/elixcyte-1/examples/replay")
}

fn command(arguments: &[&std::ffi::OsStr]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_nephrogate")).args(arguments).output().expect("the binary runs")
}

fn reported(arguments: &[&std::ffi::OsStr]) -> Output {
    let mut all: Vec<&std::ffi::OsStr> = vec!["report".as_ref(), "--study".as_ref(), TRIAL.as_ref()];
    all.extend(arguments);
    command(&all)
}

#[test]
fn the_report_of_a_store_is_the_report_of_the_files_it_was_filled_with() {
    let folder = tempfile::tempdir().unwrap();
    let replay = replay();
    for site in ["north-hospital", "south-hospital"] {
        let files = replay.join(site);
        let imported = command(&["import".as_ref(), "--dir".as_ref(), folder.path().as_ref(), "--site".as_ref(), site.as_ref(), files.as_ref()]);
        assert!(imported.status.success(), "{}", String::from_utf8_lossy(&imported.stderr));
    }
    let of_files = reported(&["--format".as_ref(), "json".as_ref(), replay.as_ref()]);
    let as_of: Value = serde_json::from_slice(&of_files.stdout).unwrap();
    let as_of = as_of["as_of"].as_str().unwrap();
    let of_store = reported(&["--format".as_ref(), "json".as_ref(), "--as-of".as_ref(), as_of.as_ref(), "--dir".as_ref(), folder.path().as_ref()]);
    // Only receipt numbers differ: files have none.
    fn without_receipts(value: &mut Value) {
        match value {
            Value::Object(object) => {
                object.shift_remove("message");
                object.values_mut().for_each(without_receipts);
            }
            Value::Array(array) => array.iter_mut().for_each(without_receipts),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let [of_files, of_store] = [of_files, of_store].map(|output| {
        let mut value: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
        without_receipts(&mut value);
        value
    });
    for part in ["subjects", "arms", "evidence", "enrolment", "follow_up", "safety", "dosing", "outcomes", "events", "listing"] {
        assert!(of_files[part] == of_store[part], "{part} differs");
    }
}

#[test]
fn a_folder_that_is_no_site_stops_the_report_and_says_which_are() {
    let folder = tempfile::tempdir().unwrap();
    let empty = reported(&[folder.path().as_ref()]);
    assert_eq!(empty.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&empty.stderr).contains("no folder of a site is below it"));
    fs::create_dir(folder.path().join("nowhere")).unwrap();
    let unknown = reported(&[folder.path().as_ref()]);
    let said = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert_eq!(unknown.status.code(), Some(3));
    assert!(said.contains("\"nowhere\" is no site") && said.contains("north-hospital"), "{said}");
    assert!(unknown.stdout.is_empty());
    let no_domain = reported(&["--format".as_ref(), "csv".as_ref(), folder.path().as_ref()]);
    assert_eq!(no_domain.status.code(), Some(2), "a CSV is of one domain");
}

#[test]
fn the_web_answers_each_format_records_who_looked_and_names_nobody_who_opted_out() {
    let gateway = Gateway::start();
    let replay = replay().join("north-hospital");
    for kind in ["Patient", "ResearchSubject", "MedicationAdministration", "Observation", "AdverseEvent"] {
        let lines = fs::read(replay.join(format!("{kind}.ndjson"))).unwrap();
        let answer = gateway.post("/fhir/north-hospital/$ingest", "application/fhir+ndjson", lines);
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let path = format!("/api/studies/{TRIAL}/report");
    let answer = gateway.get(&path);
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
    let report = answer.json();
    assert_eq!((&report["subjects"], &report["dose_limiting_toxicities"]), (&6.into(), &1.into()), "{}", &answer.text()[..300]);
    let accesses = gateway.store.read_blocking(|tx| nephrogate::store::accesses::of_subject(tx, "north-hospital", "1019")).unwrap();
    assert_eq!(accesses.iter().map(|access| access.action.as_str()).collect::<Vec<_>>(), ["report"]);
    for (query, kind, part) in [
        ("format=md", "text/markdown; charset=utf-8", "## Key figures"),
        ("format=html", "text/html; charset=utf-8", "</svg>"),
        ("format=csv&domain=lb", "text/csv; charset=utf-8", "STUDYID,DOMAIN,USUBJID,LBSEQ"),
        ("format=csv&domain=ae&site=north-hospital&as-of=2024-10-29", "text/csv; charset=utf-8", "Slow speech"),
    ] {
        let answer = gateway.get(&format!("{path}?{query}"));
        assert_eq!((answer.status, answer.header("content-type")), (200, kind), "{query}");
        assert!(answer.text().contains(part), "{query}");
    }
    for query in ["format=xml", "format=csv", "domain=lb", "as-of=yesterday", "asof=2024-01-01"] {
        assert_eq!(gateway.get(&format!("{path}?{query}")).status, 400, "{query}");
    }
    assert_eq!(gateway.get(&format!("{path}?site=nowhere")).status, 404);
    assert_eq!(gateway.get("/api/studies/nothing/report").status, 404);
    assert!(gateway.get(&format!("{path}?as-of=2023-01-01")).text().starts_with(r#"{"subjects":0,"#), "nobody had entered then");
    let page = gateway.get(&format!("/studies/{TRIAL}/report"));
    assert!(page.status == 200 && page.text().contains("<nav aria-label=\"Pages\">") && page.text().contains("1019"));
    let card = gateway.get(&format!("/api/studies/{TRIAL}/sites/north-hospital/subjects/1019")).json();
    let decision = serde_json::json!({"kind": "opt-out", "opted_out": true, "reason": "asked by letter", "evidence_hash": card["evidence_hash"]});
    let taken = gateway.post(&format!("/api/studies/{TRIAL}/sites/north-hospital/subjects/1019/decisions"), "application/json", decision.to_string());
    assert_eq!(taken.status, 201, "{}", taken.text());
    let answer = gateway.get(&path);
    for word in ["\"1019\"", "Slow speech", "ae000002", "rs000016", "ma000015"] {
        assert!(!answer.text().contains(word), "{word}");
    }
    let report = answer.json();
    assert_eq!((&report["subjects"], &report["unnamed_subjects"], &report["dose_limiting_toxicities"]), (&6.into(), &1.into(), &1.into()));
    gateway.stop().unwrap();
}
