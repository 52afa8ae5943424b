//! The conduct of a trial by its API: what is said of events, doses and candidates, what is refused and why, and what
//! the lists of safety and visits make of it.

use nephrogate::http::access::Role;
use nephrogate::store::accesses;
use serde_json::{Value, json};

use crate::gateway::{Answer, Gateway, LOINC, SITE, creatinine, days_ago, patient, secret, token};

const TRIAL: &str = "elixcyte-1";
const HOUR_MS: i64 = 3_600_000;

fn hours_ago(hours: i64) -> String {
    let now = jiff::Timestamp::now().as_second();
    jiff::Timestamp::from_second(now - hours * 3_600).unwrap().to_string()
}

/// In the trial by the hospital's record: entered the day before the one dose.
fn treated(id: &str, arm: &str, millilitres: u32, dose_days_ago: i64) -> Vec<Value> {
    vec![
        patient(id, "1966-03-05"),
        json!({
            "resourceType": "ResearchSubject", "id": format!("{id}-part"), "meta": {"versionId": "1"}, "status": "on-study",
            "period": {"start": days_ago(dose_days_ago + 1)}, "study": {"identifier": {"system": "http://clinicaltrials.gov", "value": "NCT02933827"}},
            "individual": {"reference": format!("Patient/{id}")}, "actualArm": arm
        }),
        json!({
            "resourceType": "MedicationAdministration", "id": format!("{id}-dose"), "meta": {"versionId": "1"}, "status": "completed",
            "medicationCodeableConcept": {"coding": [{"system": "https://demo-hospital.example.org/pharmacy", "code": "ELX-ADSC"}]},
            "subject": {"reference": format!("Patient/{id}")}, "effectiveDateTime": days_ago(dose_days_ago),
            "dosage": {"dose": {"value": millilitres, "unit": "mL", "system": "http://unitsofmeasure.org", "code": "mL"}}
        }),
    ]
}

fn event(id: &str, version: u32, patient: &str, term: &str, recorded: &str) -> Value {
    json!({
        "resourceType": "AdverseEvent", "id": id, "meta": {"versionId": version.to_string()}, "actuality": "actual", "event": {"text": term},
        "subject": {"reference": format!("Patient/{patient}")}, "date": recorded, "recordedDate": recorded
    })
}

fn alt(id: &str, patient: &str, days: i64, units_per_litre: u32) -> Value {
    let mut result = creatinine(id, patient, 1, days, 1.0);
    result["code"] = json!({"coding": [{"system": LOINC, "code": "1742-6"}]});
    let quantity = |value: u32| json!({"value": value, "unit": "U/L", "system": "http://unitsofmeasure.org", "code": "U/L"});
    result["valueQuantity"] = quantity(units_per_litre);
    result["referenceRange"] = json!([{"low": quantity(5), "high": quantity(40)}]);
    result
}

/// A gateway with one subject in the middle dose, whose hospital wrote down an event five hours ago that says little.
fn with_an_event() -> Gateway {
    let gateway = Gateway::start();
    gateway.push(&treated("p1", "Middle dose", 24, 60));
    gateway.push(&[event("e1", 1, "p1", "Slow speech", &hours_ago(5))]);
    gateway
}

fn safety(gateway: &Gateway) -> Value {
    let answer = gateway.get(&format!("/api/studies/{TRIAL}/safety"));
    assert_eq!(answer.status, 200, "{}", answer.text());
    fits(gateway, "Safety", &answer.json());
    answer.json()
}

fn visits(gateway: &Gateway) -> Value {
    let answer = gateway.get(&format!("/api/studies/{TRIAL}/visits"));
    assert_eq!(answer.status, 200, "{}", answer.text());
    fits(gateway, "Visits", &answer.json());
    answer.json()
}

/// Whether an answer is what /openapi.json says of it.
#[track_caller]
fn fits(gateway: &Gateway, schema: &str, answer: &Value) {
    let mut described = gateway.get("/openapi.json").json();
    described["$ref"] = json!(format!("#/components/schemas/{schema}"));
    let validator = jsonschema::validator_for(&described).unwrap();
    let faults: Vec<String> = validator.iter_errors(answer).map(|fault| format!("{} at {}", fault, fault.instance_path())).collect();
    assert!(faults.is_empty(), "{faults:?}");
}

fn decide(gateway: &Gateway, subject: &str, decision: Value) -> Answer {
    let path = format!("/api/studies/{TRIAL}/sites/{SITE}/subjects/{subject}/decisions");
    gateway.post(&path, "application/json", decision.to_string())
}

#[track_caller]
fn taken(gateway: &Gateway, subject: &str, decision: Value) {
    let answer = decide(gateway, subject, decision);
    assert_eq!(answer.status, 201, "{}", answer.text());
}

#[track_caller]
fn refused(gateway: &Gateway, subject: &str, decision: Value, status: u16, sentence: &str) -> Value {
    let answer = decide(gateway, subject, decision.clone());
    assert_eq!((answer.status, answer.json()["title"].as_str()), (status, Some(sentence)), "{decision}: {}", answer.text());
    answer.json()
}

/// The event of that id as the list of safety has it: with its hash.
#[track_caller]
fn listed<'a>(safety: &'a Value, id: &str) -> &'a Value {
    let events = safety["events"].as_array().unwrap();
    events.iter().find(|listed| listed["event"]["id"] == id).unwrap_or_else(|| panic!("no {id} in {events:?}"))
}

#[test]
fn an_event_leaves_the_completion_queue_when_a_person_said_each_axis_and_its_clocks_fall_with_what_was_assumed() {
    let gateway = with_an_event();
    let before = safety(&gateway);
    let waiting = &before["completion"][0];
    assert_eq!((waiting["subject"].as_str(), waiting["event"].as_str()), (Some("p1"), Some("AdverseEvent/e1")));
    assert_eq!(waiting["missing"], json!(["grade", "seriousness", "relation", "expectedness", "outcome"]));
    let clocks: Vec<&str> = before["clocks"].as_array().unwrap().iter().map(|clock| clock["standing"]["clock"].as_str().unwrap()).collect();
    assert_eq!(clocks, ["site-to-sponsor", "expedited-7-days", "expedited-15-days"], "what nobody said counts as the worst, the first due first");
    assert_eq!(before["clocks"][0]["standing"]["assumed"], json!(["seriousness"]));

    let axes = json!({"grade": 1, "is_serious": false, "relation": "possible", "is_expected": false, "outcome": "resolved"});
    let said = |hash: &Value| json!({"kind": "event-axes", "event": "AdverseEvent/e1", "axes": axes, "reason": "seen today", "evidence_hash": hash});
    taken(&gateway, "p1", said(&waiting["evidence_hash"]));
    let after = safety(&gateway);
    assert_eq!((&after["completion"], &after["clocks"]), (&json!([]), &json!([])));
    let told = listed(&after, "AdverseEvent/e1");
    assert_eq!((&told["event"]["grade"], &told["event"]["is_related"], &told["event"]["origin"]), (&json!(1), &json!(true), &json!("hospital")));
    assert_eq!(told["event"]["by"].as_array().unwrap().len(), 2, "the hospital's record and the person's word");
    // The same again was seen before, not now.
    let answer = refused(&gateway, "p1", said(&waiting["evidence_hash"]), 409, "the evidence is not the evidence that was seen");
    assert_eq!(answer["current_evidence_hash"], told["evidence_hash"]);
}

#[test]
fn a_decision_about_an_event_that_changed_meanwhile_is_refused_until_it_names_what_stands() {
    let gateway = with_an_event();
    let seen = listed(&safety(&gateway), "AdverseEvent/e1")["evidence_hash"].clone();
    let said =
        |hash: &Value| json!({"kind": "event-axes", "event": "AdverseEvent/e1", "axes": {"grade": 2}, "reason": "seen", "evidence_hash": hash});
    gateway.push(&[event("e1", 2, "p1", "Slurred speech", &hours_ago(5))]);
    let answer = refused(&gateway, "p1", said(&seen), 409, "the evidence is not the evidence that was seen");
    taken(&gateway, "p1", said(&answer["current_evidence_hash"]));
    assert_eq!(listed(&safety(&gateway), "AdverseEvent/e1")["event"]["term"], "Slurred speech");
}

#[test]
fn a_clock_stops_when_the_report_is_made_and_says_whether_that_was_in_time() {
    let gateway = with_an_event();
    gateway.push(&[event("e2", 1, "p1", "Dehydration", &hours_ago(30))]);
    let serious = |id: &str| {
        let hash = listed(&safety(&gateway), id)["evidence_hash"].clone();
        let axes = json!({"is_serious": true, "seriousness_criteria": ["C83052"], "relation": "unlikely", "is_expected": true});
        taken(&gateway, "p1", json!({"kind": "event-axes", "event": id, "axes": axes, "reason": "admitted", "evidence_hash": hash}));
    };
    serious("AdverseEvent/e1");
    serious("AdverseEvent/e2");
    let running = safety(&gateway);
    let states: Vec<_> = running["clocks"].as_array().unwrap().iter().map(|of| (of["event"].clone(), of["standing"]["state"].clone())).collect();
    assert_eq!(
        states,
        [(json!("AdverseEvent/e2"), json!("overdue")), (json!("AdverseEvent/e1"), json!("running"))],
        "overdue first; unlikely and expected starts no other clock"
    );
    let standing = &running["clocks"][1]["standing"];
    assert_eq!(standing["due_ms"].as_i64().unwrap() - standing["started_ms"].as_i64().unwrap(), 24 * HOUR_MS);

    for (id, state) in [("AdverseEvent/e1", "reported"), ("AdverseEvent/e2", "reported-late")] {
        let hash = listed(&safety(&gateway), id)["evidence_hash"].clone();
        let report = json!({"kind": "event-reported", "event": id, "clock": "site-to-sponsor", "reported_at": hours_ago(1), "reason": "by telephone", "evidence_hash": hash});
        taken(&gateway, "p1", report);
        assert_eq!(listed(&safety(&gateway), id)["event"]["clocks"][0]["state"], state);
    }
    assert_eq!(safety(&gateway)["clocks"], json!([]));
}

#[test]
fn a_confirmed_candidate_becomes_an_event_and_a_dismissed_one_disappears() {
    let gateway = Gateway::start();
    for subject in ["p1", "p2"] {
        gateway.push(&treated(subject, "Low dose", 8, 60));
        gateway.push(&[alt(&format!("{subject}-a"), subject, 61, 19), alt(&format!("{subject}-b"), subject, 10, 131)]);
    }
    let before = safety(&gateway);
    let open = before["candidates"].as_array().unwrap();
    assert_eq!(open.len(), 2);
    assert_eq!(
        (&open[0]["candidate"]["grade"], &open[0]["candidate"]["baseline_grade"], &open[0]["candidate"]["ctcae_version"]),
        (&json!(2), &json!(0), &json!("5.0"))
    );
    let answer = |of: &Value, is_event: bool| {
        let decision = json!({"kind": "candidate", "candidate": of["candidate"]["id"], "is_event": is_event, "reason": "looked", "evidence_hash": of["evidence_hash"]});
        taken(&gateway, of["subject"].as_str().unwrap(), decision);
    };
    let of = |subject: &str| open.iter().find(|of| of["subject"] == subject).unwrap();
    answer(of("p1"), true);
    answer(of("p2"), false);
    let after = safety(&gateway);
    assert_eq!(after["candidates"], json!([]));
    let events = after["events"].as_array().unwrap();
    assert_eq!(events.len(), 1);
    let confirmed = &events[0];
    assert_eq!((&confirmed["subject"], &confirmed["event"]["origin"], &confirmed["event"]["grade"]), (&json!("p1"), &json!("candidate"), &json!(2)));
    assert!(confirmed["event"]["missing"].as_array().unwrap().contains(&json!("seriousness")), "the rest waits for somebody's word");
    assert_eq!(after["completion"][0]["event"], confirmed["event"]["id"]);
}

#[test]
fn what_the_trials_own_people_record_enters_by_the_same_door() {
    let gateway = with_an_event();
    let axes = json!({
        "term": "Fever", "grade": 1, "is_serious": false, "relation": "possible", "is_expected": true, "outcome": "resolved",
        "onset": days_ago(59), "is_dose_limiting": false
    });
    taken(&gateway, "p1", json!({"kind": "event-recorded", "axes": axes, "reason": "told at the visit"}));
    let after = safety(&gateway);
    let recorded = after["events"].as_array().unwrap().iter().find(|listed| listed["event"]["origin"] == "recorded").unwrap();
    assert_eq!((&recorded["event"]["term"], &recorded["event"]["missing"]), (&json!("Fever"), &json!([])));
    assert!(recorded["event"]["id"].as_str().unwrap().starts_with("Decision/"));

    // A dose moves the subject's day 0, and with it the visits.
    let anchor = |answer: &Value| answer["subjects"][0]["schedule"]["anchor"]["date"].as_str().unwrap().to_owned();
    let before = anchor(&visits(&gateway));
    taken(&gateway, "p1", json!({"kind": "dose", "arm": "middle", "given_at": days_ago(60 + 7), "cells": 192e6, "reason": "the ward's own list"}));
    assert!(anchor(&visits(&gateway)) < before);
}

#[test]
fn what_does_not_fit_is_refused_in_a_sentence_and_nothing_is_recorded() {
    let gateway = with_an_event();
    gateway.push(&[patient("p9", "1966-03-05"), creatinine("p9-a", "p9", 1, 5, 2.2)]);
    let before = safety(&gateway);
    let hash = listed(&before, "AdverseEvent/e1")["evidence_hash"].clone();
    let with = |mut decision: Value| {
        decision["reason"] = json!("because");
        decision
    };
    let axes = |axes: Value| with(json!({"kind": "event-axes", "event": "AdverseEvent/e1", "axes": axes, "evidence_hash": hash}));
    let tomorrow = hours_ago(-40);
    let reported = |event: &str, clock: &str, at: &str| {
        with(json!({"kind": "event-reported", "event": event, "clock": clock, "reported_at": at, "evidence_hash": hash}))
    };
    for (decision, sentence) in [
        (with(json!({"kind": "dose", "arm": "giant", "given_at": days_ago(1)})), "there is no such arm"),
        (with(json!({"kind": "dose", "arm": "low", "given_at": tomorrow})), "it lies in the future"),
        (with(json!({"kind": "dose", "arm": "low", "given_at": "yesterday"})), "given_at is not a FHIR date"),
        (with(json!({"kind": "dose", "arm": "low", "given_at": days_ago(1), "cells": -1})), "cells is not a number of cells"),
        (with(json!({"kind": "dose", "arm": "low"})), "this kind of decision needs given_at"),
        (with(json!({"kind": "event-recorded", "axes": {"grade": 1}})), "an event needs a name"),
        (with(json!({"kind": "event-axes", "event": "AdverseEvent/none", "axes": {"grade": 1}, "evidence_hash": hash})), "there is no such event"),
        (axes(json!({"grade": 6})), "there is no such grade"),
        (axes(json!({"outcome": "fine"})), "there is no such outcome"),
        (axes(json!({})), "it says nothing of any axis"),
        (axes(json!({"seriousness_criteria": ["C83052"]})), "seriousness criteria belong to a serious event only"),
        (axes(json!({"onset": days_ago(3), "resolved": days_ago(4)})), "it ends before it begins"),
        (reported("AdverseEvent/none", "site-to-sponsor", &hours_ago(1)), "there is no such event"),
        (reported("AdverseEvent/e1", "fortnight", &hours_ago(1)), "there is no such clock"),
        (reported("AdverseEvent/e1", "site-to-sponsor", &tomorrow), "it lies in the future"),
        (with(json!({"kind": "candidate", "candidate": "laboratory-shift:alt:Observation/x", "is_event": true})), "there is no such candidate"),
        (json!({"kind": "dose", "arm": "low", "given_at": days_ago(1), "reason": " "}), "a decision needs a reason"),
    ] {
        refused(&gateway, "p1", decision, 400, sentence);
    }
    for decision in [
        json!({"kind": "dose", "arm": "low", "given_at": days_ago(1)}),
        json!({"kind": "event-recorded", "axes": {"term": "Fever"}}),
        json!({"kind": "candidate", "candidate": "x", "is_event": true}),
    ] {
        refused(&gateway, "p9", with(decision), 409, "the subject's state does not allow this step");
    }
    let mut after = safety(&gateway);
    after["as_of_ms"] = before["as_of_ms"].clone();
    assert_eq!(after, before);
}

#[test]
fn visits_are_told_as_due_overdue_missed_and_out_of_window_with_the_overdue_first() {
    let gateway = Gateway::start();
    gateway.push(&treated("p1", "Middle dose", 24, 60));
    gateway.push(&[creatinine("a", "p1", 1, 61, 2.0), creatinine("b", "p1", 1, 46, 2.0)]);
    gateway.push(&treated("p2", "High dose", 40, 170));
    gateway.push(&[creatinine("c", "p2", 1, 171, 2.0), creatinine("d", "p2", 1, 75, 2.0)]);
    let told = visits(&gateway);
    let row = |index: usize, field: &str| told["subjects"][index][field].clone();
    assert_eq!((row(0, "subject"), row(0, "due"), row(0, "overdue")), (json!("p2"), json!(["W24"]), json!(["W24"])));
    assert_eq!((row(0, "missed"), row(0, "out_of_window")), (json!(["W2", "W4"]), json!(["W12"])));
    assert_eq!((row(0, "next")["visit"].clone(), row(0, "next")["is_overdue"].clone()), (json!("W24"), json!(true)));
    assert_eq!((row(1, "subject"), row(1, "arm"), row(1, "due"), row(1, "missed")), (json!("p1"), json!("middle"), json!([]), json!(["W4"])));
    assert_eq!((row(1, "next")["visit"].clone(), row(1, "next")["what"].clone()), (json!("W12"), json!(["creatinine"])));
    assert_eq!(told["counts"], json!({"due": 1, "overdue": 1, "missed": 2, "out_of_window": 1, "lost": 0}));

    taken(&gateway, "p2", json!({"kind": "state", "to": "lost", "reason": "moved, no telephone"}));
    let told = visits(&gateway);
    let lost = told["subjects"].as_array().unwrap().iter().find(|of| of["subject"] == "p2").unwrap();
    assert!(lost["lost"]["resource"].as_str().unwrap().starts_with("Decision/"));
    assert_eq!((&lost["next"], &told["counts"]["lost"], &told["counts"]["overdue"]), (&Value::Null, &json!(1), &json!(0)));
}

#[test]
fn who_opted_out_is_counted_and_not_named_and_the_clocks_of_theirs_are_counted_too() {
    let gateway = with_an_event();
    gateway.push(&treated("p2", "Low dose", 8, 30));
    taken(&gateway, "p1", json!({"kind": "opt-out", "opted_out": true, "reason": "by letter"}));
    let told = safety(&gateway);
    assert_eq!((&told["subjects"], &told["hidden"], &told["hidden_open_clocks"]), (&json!(1), &json!({"opted-out": 1}), &json!(3)));
    assert!(!told["events"].to_string().contains("p1") && told["clocks"] == json!([]) && told["completion"] == json!([]));
    let told = visits(&gateway);
    assert_eq!((told["subjects"].as_array().unwrap().len(), &told["hidden"]), (1, &json!({"opted-out": 1})));
}

#[test]
fn each_look_is_recorded_and_a_token_of_one_site_sees_that_site_alone() {
    let gateway = Gateway::start_with(|settings| {
        settings.tokens = vec![
            token("Lab Feed", Role::Feed, None),
            token("Dr Screener", Role::Screener, Some(SITE)),
            token("Far Screener", Role::Screener, Some("synthea")),
        ];
    });
    let push = |resource: Value| {
        let path = format!("/fhir/{SITE}/{}/{}", resource["resourceType"].as_str().unwrap(), resource["id"].as_str().unwrap());
        let request = gateway.request("PUT", &path).bearer_auth(secret("Lab Feed")).header("content-type", "application/fhir+json");
        let answer = gateway.send(request.body(resource.to_string()));
        assert!([200, 201].contains(&answer.status), "{}", answer.text());
    };
    treated("p1", "Middle dose", 24, 60).into_iter().for_each(push);
    let get = |who: &str, path: &str| gateway.send(gateway.request("GET", path).bearer_auth(secret(who)));
    for (what, rows) in [("safety", "events"), ("visits", "subjects")] {
        let path = format!("/api/studies/{TRIAL}/{what}");
        assert_eq!(get("Dr Screener", &path).status, 200);
        let far = get("Far Screener", &path);
        assert_eq!((far.status, &far.json()[rows]), (200, &json!([])));
        assert_eq!(get("Far Screener", &format!("{path}?site={SITE}")).status, 403);
        assert_eq!(get("Dr Screener", &format!("{path}?colour=red")).status, 400);
        assert_eq!(get("Dr Screener", &format!("/api/studies/none/{what}")).status, 404);
    }
    let looks = gateway.store.read_blocking(|tx| accesses::of_subject(tx, SITE, "p1")).unwrap();
    let looks: Vec<(String, String)> = looks.into_iter().map(|look| (look.who, look.action)).collect();
    for action in ["safety", "visits"] {
        assert!(looks.contains(&("Dr Screener".into(), action.into())), "{looks:?}");
    }
    assert!(!looks.iter().any(|(who, _)| who == "Far Screener"));
}
