//! What is planned for each kind of receiver: every rung of the ladder, what goes beside it, and how each is taken back.

use std::collections::{BTreeMap, BTreeSet};

use nephrogate::clinical::date::AsOf;
use nephrogate::clinical::fact::{AdverseEvent, Decided, DecidedState, EventAxes, Fact, Relatedness, Relation};
use nephrogate::fhir::copies;
use nephrogate::rules::course::{Course, course};
use nephrogate::rules::{Assessment, Hidden, SubjectState, Verdict};
use nephrogate::study::Study;
use nephrogate::writeback::ladder::{self, Ladder, Rung};
use nephrogate::writeback::{
    self, AdverseEventShape, Annotates, Beside, Form, Known, Member, Membership, Purpose, Receiver, Standing, Takes, WriteBack, Written,
};
use proptest::prelude::*;
use serde_json::Value;

use super::facts;
use super::writeback::{MAPPING_HASH, assessment, receiver, study};

/// A receiver that is told on this rung alone, and nothing beside it.
pub fn receiver_on(rung: Option<Rung>) -> Receiver {
    let ladder = Ladder { rung, with_flag: rung == Some(Rung::ResearchSubject), left_out: Vec::new() };
    Receiver { ladder, beside: Beside::default(), why_url: Some("https://gateway.example".to_owned()), ..receiver() }
}

fn annotates(resource_type: &str, tag: bool) -> Annotates {
    Annotates { note: "-".to_owned(), resource_type: resource_type.to_owned(), study: true, tag }
}

/// The same with everything that a site can ask for.
pub fn with_everything(receiver: Receiver, shape: AdverseEventShape) -> Receiver {
    let beside = Beside { egfr_observation: true, adverse_event: Some(shape), provenance: true };
    Receiver { beside, annotates: vec![annotates("Observation", true), annotates("AdverseEvent", true)], ..receiver }
}

fn known<'a>(assessment: &'a Assessment, course: Option<&'a Course>) -> Known<'a> {
    Known { subject: "p1", assessment, course, mapping_hash: MAPPING_HASH }
}

fn plan(receiver: &Receiver, assessment: &Assessment, course: Option<&Course>, written: &[Written]) -> Vec<WriteBack> {
    writeback::plan(receiver, &study(), known(assessment, course), written)
}

/// What the outbox remembers once these were confirmed.
pub fn remember(written: &mut Vec<Written>, requests: &[WriteBack]) {
    for request in requests {
        written.retain(|before| before.key != request.key);
        written.push(Written {
            key: request.key.clone(),
            resource_type: request.resource_type.clone(),
            body_hash: request.body_hash.clone(),
            body: request.body.clone(),
            is_standing: request.purpose == Purpose::Annotate,
            server_id: Some(request.url.split_once('/').map_or("at-the-server", |(_, id)| id).to_owned()),
            form: request.form,
            is_pending: false,
        });
    }
}

fn body(request: &WriteBack) -> Value {
    serde_json::from_str(&request.body).expect("a body is JSON")
}

fn of_type<'a>(requests: &'a [WriteBack], kind: &str) -> &'a WriteBack {
    requests.iter().find(|request| request.resource_type == kind).unwrap_or_else(|| panic!("no {kind}"))
}

/// `Type status` of each, in order; `Type DELETE`.
fn statuses(requests: &[WriteBack]) -> Vec<String> {
    let status = |request: &WriteBack| match request.body.is_empty() {
        true => request.method.clone(),
        false => body(request)["status"].as_str().unwrap_or("-").to_owned(),
    };
    requests.iter().map(|request| format!("{} {}", request.resource_type, status(request))).collect()
}

fn hidden(hidden: Hidden) -> Assessment {
    Assessment { hidden: Some(hidden), ..assessment(SubjectState::Candidate) }
}

/// On the study since March, with what the trial's people recorded of two events, and one of the hospital's.
pub fn course_with(events: Vec<Fact>) -> Course {
    let mut facts = vec![
        facts::man_of_60(),
        facts::decision("consent", "trial-7", "2026-02-01", "", Decided::Consent { given: true }),
        facts::decision("enrolled", "trial-7", "2026-03-01", "", Decided::State { to: DecidedState::Enrolled }),
        facts::administration("m", "trial-7", "2026-03-02T09:00:00Z", None),
    ];
    facts.extend(events);
    course(&study(), &facts::chart(&facts), AsOf::parse("2026-06-01").unwrap()).expect("who was enrolled has a course")
}

/// One event as a person records it: slow speech of grade 1 on the day of the dose, over a day later.
pub fn recorded(id: &str, change: impl FnOnce(&mut AdverseEvent)) -> Fact {
    let mut event = AdverseEvent::named("Slow speech");
    event.grade = Some(1);
    event.is_serious = Some(false);
    event.is_expected = Some(false);
    event.outcome = Some("resolved".into());
    event.onset = Some(facts::date("2026-03-02"));
    event.resolved = Some(facts::date("2026-03-03"));
    event.relatedness = vec![Relatedness { suspect: "".into(), is_study_product: true, code: "-".into(), relation: Some(Relation::Possible) }];
    change(&mut event);
    facts::decision(id, "trial-7", "2026-03-04T08:00:00Z", "", Decided::EventRecorded { event: Box::new(event) })
}

fn judged_dose_limiting(event: &str) -> Fact {
    let axes = EventAxes { is_dose_limiting: Some(true), ..EventAxes::default() };
    facts::decision("axes", "trial-7", "2026-03-05T08:00:00Z", "", Decided::EventAxes { event: event.into(), axes: Box::new(axes) })
}

/// Every request that any rung, state, way back, shape and kind of receiver leads to.
pub fn every_request() -> Vec<WriteBack> {
    let serious = recorded("ev-2", |event| {
        event.is_serious = Some(true);
        event.seriousness_criteria = vec!["C83052".into()];
        event.outcome = Some("ongoing".into());
        event.resolved = None;
    });
    let hospital = facts::adverse_event("h1", "Proteinuria", |event| event.onset = Some(facts::date("2026-04-01")));
    let course = course_with(vec![recorded("ev-1", |_| {}), serious, judged_dose_limiting("Decision/ev-1"), hospital]);
    let rungs = [None].into_iter().chain(Rung::ALL.map(Some));
    let mut all = Vec::new();
    for rung in rungs {
        for (update_creates, tag_test, shape) in [(true, false, AdverseEventShape::Backport), (false, true, AdverseEventShape::Plain)] {
            let receiver = Receiver { update_creates, tag_test, ..with_everything(receiver_on(rung), shape) };
            for from in [SubjectState::Candidate, SubjectState::Consented, SubjectState::Enrolled] {
                let was_enrolled = from == SubjectState::Enrolled;
                let course = was_enrolled.then_some(&course);
                let mut written = Vec::new();
                let first = plan(&receiver, &assessment(from), course, &written);
                remember(&mut written, &first);
                all.extend(first);
                for to in SubjectState::ALL {
                    let to = Assessment { was_enrolled: was_enrolled || assessment(to).was_enrolled, ..assessment(to) };
                    all.extend(plan(&receiver, &to, course, &written));
                }
                for why in [Hidden::OptedOut, Hidden::Deceased, Hidden::Merged, Hidden::TestPatient, Hidden::NoPatient] {
                    all.extend(plan(&receiver, &hidden(why), None, &written));
                }
                let moved = Receiver { ladder: receiver_on(None).ladder, ..receiver.clone() };
                all.extend(plan(&moved, &assessment(from), course, &written));
            }
            let member = |subject, membership| Member { subject, membership };
            let mut written = Vec::new();
            for members in [
                vec![member("p1", Membership::Member), member("p2", Membership::Member)],
                vec![member("p1", Membership::TookPart), member("p3", Membership::Member)],
                vec![],
            ] {
                let group = writeback::plan_group(&receiver, &study(), &members, &written);
                remember(&mut written, group.as_slice());
                all.extend(group);
            }
        }
    }
    all
}

#[test]
fn each_rung_tells_of_a_candidate_once_and_takes_it_back_in_its_own_way() {
    // rung; when told; no longer eligible; opted out; it never was; on another rung
    type Row = (Rung, &'static [&'static str], &'static [&'static str], &'static [&'static str], &'static [&'static str], &'static [&'static str]);
    let table: [Row; 5] = [
        (
            Rung::ResearchSubject,
            &["ResearchStudy active", "ResearchSubject candidate", "Flag active"],
            &["ResearchSubject ineligible", "Flag inactive"],
            &["ResearchSubject withdrawn", "Flag inactive"],
            &["ResearchSubject not-registered", "Flag entered-in-error"],
            &["ResearchSubject not-registered", "Flag inactive"],
        ),
        (Rung::Flag, &["Flag active"], &["Flag inactive"], &["Flag inactive"], &["Flag entered-in-error"], &["Flag inactive"]),
        (Rung::List, &["List current"], &["List retired"], &["List retired"], &["List entered-in-error"], &["List retired"]),
        (
            Rung::DocumentReference,
            &["DocumentReference current"],
            &["DocumentReference superseded"],
            &["DocumentReference superseded"],
            &["DocumentReference entered-in-error"],
            &["DocumentReference superseded"],
        ),
        (
            Rung::Communication,
            &["Communication completed"],
            &["Communication stopped"],
            &["Communication stopped"],
            &["Communication entered-in-error"],
            &["Communication stopped"],
        ),
    ];
    for (rung, told, ineligible, opted_out, never, moved) in table {
        let receiver = receiver_on(Some(rung));
        let candidate = assessment(SubjectState::Candidate);
        let mut standing = Vec::new();
        let first = plan(&receiver, &candidate, None, &standing);
        assert_eq!(statuses(&first), told, "{rung:?}");
        assert!(first.iter().all(|request| request.purpose == Purpose::Annotate));
        let words: BTreeSet<&str> = first.iter().map(|request| request.rung.as_str()).collect();
        assert!(words.contains(rung.word()), "{words:?}");
        remember(&mut standing, &first);
        let later = Assessment { as_of_ms: candidate.as_of_ms + 86_400_000, ..candidate.clone() };
        assert_eq!(plan(&receiver, &later, None, &standing), [], "{rung:?}: it stands already");

        let elsewhere = receiver_on(None);
        let ways_back = [
            (&receiver, assessment(SubjectState::None), ineligible),
            (&receiver, hidden(Hidden::OptedOut), opted_out),
            (&receiver, hidden(Hidden::Restricted), opted_out),
            (&receiver, hidden(Hidden::TestPatient), never),
            (&receiver, hidden(Hidden::NoPatient), never),
            (&elsewhere, candidate.clone(), moved),
        ];
        for (receiver, now, expected) in ways_back {
            let mut written = standing.clone();
            let requests = plan(receiver, &now, None, &written);
            assert_eq!(statuses(&requests), expected, "{rung:?} {:?}", now.hidden);
            for request in &requests {
                assert_eq!(request.purpose, Purpose::Retract);
                let text = request.body.as_str();
                assert!(!text.contains("verdict-evidence") && !text.contains("Observation/"), "what is taken back says nothing more: {text}");
                assert!(copies::is_retired(text), "a reconcile must not take it for standing: {text}");
                let (kind, status) = (request.resource_type.clone(), body(request)["status"].as_str().unwrap().to_owned());
                let takes = Takes { statuses: BTreeMap::from([(kind, vec!["another".to_owned()])]), ..Takes::default() };
                let why = ladder::climb(&Receiver { rungs: vec![rung, Rung::Flag], takes, ..receiver.clone() }, None, &[]).left_out;
                assert!(why.iter().any(|left_out| left_out.why.contains(&status)), "a contract without {status} is no way back: {why:?}");
            }
            remember(&mut written, &requests);
            for request in &requests {
                assert!(writeback::is_still_wanted(receiver, &study(), known(&now, None), &written, request));
            }
            assert_eq!(plan(receiver, &now, None, &written), [], "{rung:?}: taken back once");
            assert_eq!(plan(receiver, &now, None, &[]), [], "{rung:?}: nothing stood");
            let back = plan(&receiver_on(Some(rung)), &candidate, None, &written);
            assert_eq!(statuses(&back), told.iter().filter(|told| !told.starts_with("ResearchStudy")).copied().collect::<Vec<_>>(), "{rung:?}: back");
        }
    }
}

#[test]
fn after_enrolment_nothing_on_any_rung_hides_who_took_part() {
    let ended = [SubjectState::Completed, SubjectState::Lost, SubjectState::Withdrawn, SubjectState::Deceased];
    for rung in [Rung::Flag, Rung::List, Rung::DocumentReference, Rung::Communication] {
        let receiver = receiver_on(Some(rung));
        let mut written = Vec::new();
        remember(&mut written, &plan(&receiver, &assessment(SubjectState::Enrolled), None, &[]));
        for why in [Hidden::OptedOut, Hidden::Restricted, Hidden::Deceased] {
            let now = Assessment { hidden: Some(why), ..assessment(SubjectState::Enrolled) };
            assert_eq!(plan(&receiver, &now, None, &written), [], "{rung:?} {why:?}");
        }
        for state in ended {
            let now = Assessment { was_enrolled: true, ..assessment(state) };
            let requests = plan(&receiver, &now, None, &written);
            assert_eq!(requests.len(), 1, "{rung:?} {state:?}");
            let text = body(&requests[0]);
            let title = ["title", "description"].iter().find_map(|name| text[*name].as_str()).or(text["topic"]["text"].as_str());
            let title = title.or(text["code"]["text"].as_str()).unwrap();
            assert_eq!(title, "Research study: took part in A trial of cells in chronic kidney disease");
            let elsewhere = receiver_on(None);
            assert!(plan(&elsewhere, &now, None, &written).iter().all(|request| !request.body.contains("no longer noted")), "{rung:?} {state:?}");
        }
    }
}

#[test]
fn a_changed_ladder_takes_back_the_old_rung_and_writes_the_new() {
    let candidate = assessment(SubjectState::Candidate);
    let mut written = Vec::new();
    remember(&mut written, &plan(&receiver_on(Some(Rung::ResearchSubject)), &candidate, None, &[]));
    let path: [(Option<Rung>, &[&str]); 5] = [
        (Some(Rung::Flag), &["ResearchSubject not-registered"]),
        (Some(Rung::List), &["Flag inactive", "List current"]),
        (Some(Rung::Communication), &["List retired", "Communication completed"]),
        (None, &["Communication stopped"]),
        (Some(Rung::ResearchSubject), &["ResearchSubject candidate", "Flag active"]),
    ];
    for (rung, expected) in path {
        let receiver = receiver_on(rung);
        let requests = plan(&receiver, &candidate, None, &written);
        assert_eq!(statuses(&requests), expected, "{rung:?}");
        remember(&mut written, &requests);
        assert_eq!(plan(&receiver, &candidate, None, &written), [], "{rung:?}, again");
    }
}

#[test]
fn a_flag_says_on_what_it_rests_until_the_subject_enters() {
    let receiver = receiver_on(Some(Rung::Flag));
    let flag = body(&plan(&receiver, &assessment(SubjectState::Candidate), None, &[])[0]);
    let parts = |flag: &Value| -> BTreeMap<String, Value> {
        let extension = &flag["extension"][0];
        assert_eq!(extension["url"], "https://nephrogate.example/fhir/StructureDefinition/verdict-evidence");
        let parts = extension["extension"].as_array().unwrap().iter();
        parts.map(|part| (part["url"].as_str().unwrap().to_owned(), part.clone())).collect()
    };
    let evidence = parts(&flag);
    assert_eq!(evidence["verdict"]["valueCode"], "met");
    assert_eq!(evidence["study-hash"]["valueString"], study().hash.as_str());
    assert_eq!(evidence["mapping-hash"]["valueString"], MAPPING_HASH);
    assert_eq!(evidence["source"]["valueReference"]["reference"], "Observation/cr-2/_history/1");
    assert_eq!(evidence["why"]["valueUrl"], "https://gateway.example/studies/trial-7/sites/north/subjects/p1");
    let entered = parts(&body(&plan(&receiver, &assessment(SubjectState::Enrolled), None, &[])[0]));
    assert_eq!(entered.keys().collect::<Vec<_>>(), ["mapping-hash", "study-hash", "why"], "the state drives it now");
    let plain = Receiver { takes: Takes { no_extensions: true, ..Takes::default() }, ..receiver };
    assert_eq!(body(&plan(&plain, &assessment(SubjectState::Candidate), None, &[])[0])["extension"], Value::Null);
}

#[test]
fn an_edit_of_a_file_that_changes_no_verdict_writes_nothing_anew_and_another_result_does() {
    let candidate = assessment(SubjectState::Candidate);
    for rung in [Rung::ResearchSubject, Rung::Flag, Rung::List] {
        let receiver = with_everything(receiver_on(Some(rung)), AdverseEventShape::Backport);
        let mut written = Vec::new();
        remember(&mut written, &plan(&receiver, &candidate, None, &[]));
        let edited = Study { hash: "d4735e3a265e16eee03f59718b9b5d03019c07d8b6c51f90da3a666eec13ab35".to_owned(), ..study() };
        let known = Known { mapping_hash: "4e07408562bedb8b60ce05c1decfe3ad16b72230967de01f640b7e4729b49fce", ..known(&candidate, None) };
        assert_eq!(writeback::plan(&receiver, &edited, known, &written), [], "{rung:?}");
        let mut corrected = candidate.clone();
        corrected.criteria[0].evidence[0].version = Some("2".to_owned());
        let requests = plan(&receiver, &corrected, None, &written);
        assert!(requests.iter().any(|request| request.body.contains("Observation/cr-2/_history/2")), "{rung:?}: it names the version it rests on");
    }
}

#[test]
fn a_list_holds_the_results_that_count_and_a_note_says_them_in_words() {
    let candidate = assessment(SubjectState::Candidate);
    let list = body(&plan(&receiver_on(Some(Rung::List)), &candidate, None, &[])[0]);
    assert_eq!((&list["mode"], &list["subject"]["reference"]), (&Value::from("working"), &Value::from("Patient/p1")));
    assert_eq!(list["entry"][0]["item"]["reference"], "Observation/cr-2");
    let message = body(&plan(&receiver_on(Some(Rung::Communication)), &candidate, None, &[])[0]);
    assert_eq!(
        message["payload"][0]["contentString"],
        "Research study: may qualify for A trial of cells in chronic kidney disease\n\
         Registered as NCT00000000 at https://clinicaltrials.gov\n\
         Rests on Observation/cr-2 of 2025-03-02\n\
         Written by software for Trial office, and taken back when it no longer holds. \
         Why: https://gateway.example/studies/trial-7/sites/north/subjects/p1\n"
    );
    assert_eq!(message["about"][0]["identifier"]["value"], "NCT00000000");
}

fn group_of(request: &WriteBack) -> Vec<(String, bool)> {
    let body = body(request);
    let member = |member: &Value| (member["entity"]["reference"].as_str().unwrap().to_owned(), member["inactive"] == true);
    body["member"].as_array().map(|members| members.iter().map(member).collect()).unwrap_or_default()
}

#[test]
fn a_group_is_one_for_a_study_and_whoever_leaves_leaves_before_anybody_joins() {
    let (receiver, study) = (receiver_on(Some(Rung::Group)), study());
    let member = |subject| Member { subject, membership: Membership::Member };
    let patients = |names: &[&str]| names.iter().map(|name| (format!("Patient/{name}"), false)).collect::<Vec<_>>();
    let mut written = Vec::new();
    assert_eq!(plan(&receiver, &assessment(SubjectState::Candidate), None, &[]), [], "nothing is planned subject by subject");
    assert_eq!(writeback::plan_group(&receiver, &study, &[], &written), None, "nobody: no Group");
    let first = writeback::plan_group(&receiver, &study, &[member("p2"), member("p1")], &written).unwrap();
    assert_eq!((group_of(&first), first.purpose, first.rung.as_str()), (patients(&["p1", "p2"]), Purpose::Annotate, "group"));
    remember(&mut written, std::slice::from_ref(&first));
    assert_eq!(writeback::plan_group(&receiver, &study, &[member("p1"), member("p2")], &written), None, "the order says nothing");
    assert!(writeback::is_group_still_wanted(&receiver, &study, &[member("p1"), member("p2"), member("p3")], &first));
    assert!(!writeback::is_group_still_wanted(&receiver, &study, &[member("p1")], &first), "p2 has left meanwhile");

    // p2 leaves and p3 joins: the one goes at once, whatever holds back what is new.
    let now = [member("p1"), member("p3")];
    let leaving = writeback::plan_group(&receiver, &study, &now, &written).unwrap();
    assert_eq!((group_of(&leaving), leaving.purpose), (patients(&["p1"]), Purpose::Retract));
    remember(&mut written, std::slice::from_ref(&leaving));
    written[0].is_pending = true;
    assert_eq!(writeback::plan_group(&receiver, &study, &now, &written), None, "p3 waits until p2 is gone");
    assert!(writeback::is_group_still_wanted(&receiver, &study, &now, &leaving));
    let also = writeback::plan_group(&receiver, &study, &[member("p3")], &written).unwrap();
    assert_eq!((group_of(&also), also.purpose), (vec![], Purpose::Retract), "and whoever leaves meanwhile leaves too");
    written[0].is_pending = false;
    let joining = writeback::plan_group(&receiver, &study, &now, &written).unwrap();
    assert_eq!((group_of(&joining), joining.purpose), (patients(&["p1", "p3"]), Purpose::Annotate));
    remember(&mut written, &[joining]);

    // Whoever took part stays, and says that it is over; who never was in it does not come in like that.
    let took_part = |subject| Member { subject, membership: Membership::TookPart };
    let over = writeback::plan_group(&receiver, &study, &[took_part("p1"), member("p3"), took_part("p4")], &written).unwrap();
    assert_eq!(group_of(&over), [("Patient/p1".to_owned(), true), ("Patient/p3".to_owned(), false)]);
    remember(&mut written, &[over]);

    let elsewhere = receiver_on(Some(Rung::Flag));
    let gone = writeback::plan_group(&elsewhere, &study, &[member("p1"), member("p3")], &written).unwrap();
    assert_eq!((group_of(&gone), gone.purpose, &body(&gone)["active"]), (vec![], Purpose::Retract, &Value::from(false)));
    remember(&mut written, &[gone]);
    assert_eq!(writeback::plan_group(&elsewhere, &study, &[member("p1")], &written), None, "once");
}

#[test]
fn who_belongs_to_a_group_follows_from_where_they_stand() {
    let receiver = receiver_on(Some(Rung::Group));
    let of = |assessment: Assessment| writeback::membership(&receiver, Standing::of(&assessment));
    assert_eq!(of(assessment(SubjectState::Candidate)), Membership::Member);
    assert_eq!(of(Assessment { prescreen: Verdict::NotMet, ..assessment(SubjectState::Consented) }), Membership::None);
    for why in [Hidden::OptedOut, Hidden::Restricted, Hidden::Deceased, Hidden::Merged, Hidden::TestPatient, Hidden::NoPatient] {
        assert_eq!(of(hidden(why)), Membership::None, "{why:?}");
    }
    assert_eq!(of(assessment(SubjectState::Completed)), Membership::TookPart);
    assert_eq!(of(Assessment { hidden: Some(Hidden::OptedOut), ..assessment(SubjectState::Enrolled) }), Membership::TookPart);
}

const BACKPORT: &str = "http://hl7.org/fhir/uv/ae-research-backport-ig/StructureDefinition/";

fn extension<'a>(body: &'a Value, url: &str) -> &'a Value {
    let extensions = body["extension"].as_array().map(Vec::as_slice).unwrap_or_default();
    extensions.iter().find(|extension| extension["url"] == url).unwrap_or(&Value::Null)
}

#[test]
fn an_event_that_was_recorded_here_is_written_in_the_shape_of_the_research_profile() {
    let course = course_with(vec![recorded("ev-1", |_| {}), judged_dose_limiting("Decision/ev-1")]);
    let receiver = with_everything(receiver_on(Some(Rung::Flag)), AdverseEventShape::Backport);
    let enrolled = assessment(SubjectState::Enrolled);
    let mut written = Vec::new();
    let requests = plan(&receiver, &enrolled, Some(&course), &written);
    let request = of_type(&requests, "AdverseEvent");
    assert_eq!((request.rung.as_str(), request.form, request.order), ("beside", Form::Resource, 2));
    assert_eq!(request.search, format!("_tag=urn:nephrogate:write-back|{}", request.key));
    let event = body(request);
    assert_eq!(event["modifierExtension"][0]["url"], format!("{BACKPORT}status"));
    assert_eq!(event["modifierExtension"][0]["valueCode"], "completed");
    assert_eq!((&event["actuality"], &event["event"]["text"]), (&Value::from("actual"), &Value::from("Slow speech")));
    let outcome: Vec<&str> = event["outcome"]["coding"].as_array().unwrap().iter().filter_map(|coding| coding["code"].as_str()).collect();
    assert_eq!(outcome, ["resolved"], "R4's own code: a validator may want every coding to be of R4's value set");
    assert_eq!(event["study"][0]["identifier"]["value"], "NCT00000000");
    assert_eq!(extension(&event, &format!("{BACKPORT}ae-grade"))["valueCodeableConcept"]["coding"][0]["code"], "C41338");
    assert_eq!(extension(&event, &format!("{BACKPORT}resolve-date"))["valueDateTime"], "2026-03-03");
    assert_eq!(event.get("suspectEntity"), None, "the profile has it as an extension");
    let dose_limiting = extension(&event, "https://nephrogate.example/fhir/StructureDefinition/dose-limiting-toxicity");
    let said: Vec<String> = dose_limiting["extension"].as_array().unwrap().iter().map(|part| part["url"].as_str().unwrap().to_owned()).collect();
    assert_eq!(said, ["assertion", "basis", "assessor", "date"]);
    assert_eq!(dose_limiting["extension"][2]["valueString"], "Dr. Chen");
    remember(&mut written, &requests);
    assert_eq!(plan(&receiver, &enrolled, Some(&course), &written), [], "once");
    assert_eq!(plan(&receiver, &enrolled, None, &written), [], "without the course nothing is known to be gone");
    // After an opt-out what stands follows the event, and nothing new comes.
    let opted_out = Assessment { hidden: Some(Hidden::OptedOut), ..enrolled.clone() };
    let more = course_with(vec![recorded("ev-1", |event| event.grade = Some(2)), recorded("ev-2", |_| {}), judged_dose_limiting("Decision/ev-1")]);
    let requests = plan(&receiver, &opted_out, Some(&more), &written);
    assert_eq!(requests.len(), 1);
    assert!(requests[0].body.contains("C41339") && requests[0].purpose == Purpose::Retract);
    // It was recorded in error: nobody else wrote it.
    let requests = plan(&receiver, &enrolled, Some(&course_with(vec![])), &written);
    assert_eq!(body(&requests[0])["modifierExtension"][0]["valueCode"], "entered-in-error");
    remember(&mut written, &requests);
    assert_eq!(plan(&receiver, &enrolled, Some(&course_with(vec![])), &written), []);
}

#[test]
fn no_axis_of_an_event_is_filled_in_and_a_hospitals_own_is_never_copied() {
    let receiver = |shape| with_everything(receiver_on(Some(Rung::Flag)), shape);
    let events_of = |course: &Course, shape| {
        let receiver = Receiver { annotates: vec![], ..receiver(shape) };
        let requests = plan(&receiver, &assessment(SubjectState::Enrolled), Some(course), &[]);
        requests.into_iter().filter(|request| request.resource_type == "AdverseEvent").count()
    };
    // What the profile requires and nobody gave keeps the event here; plain R4 takes what there is.
    let lacking: [fn(&mut AdverseEvent); 4] = [
        |event| event.is_serious = None,
        |event| event.is_serious = Some(true),
        |event| event.outcome = None,
        |event| event.outcome = Some("unknown".into()),
    ];
    for lacking in lacking {
        let course = course_with(vec![recorded("ev-1", lacking)]);
        assert_eq!((events_of(&course, AdverseEventShape::Backport), events_of(&course, AdverseEventShape::Plain)), (0, 1));
    }
    let hospital = course_with(vec![facts::adverse_event("h1", "Proteinuria", |event| event.onset = Some(facts::date("2026-04-01")))]);
    assert_eq!((events_of(&hospital, AdverseEventShape::Backport), events_of(&hospital, AdverseEventShape::Plain)), (0, 0));
}

#[test]
fn an_event_in_plain_r4_that_never_was_is_deleted_or_says_that_it_did_not_happen() {
    let enrolled = assessment(SubjectState::Enrolled);
    for deletes in [true, false] {
        let receiver = Receiver { deletes, annotates: vec![], ..with_everything(receiver_on(Some(Rung::Flag)), AdverseEventShape::Plain) };
        let mut written = Vec::new();
        let first = plan(&receiver, &enrolled, Some(&course_with(vec![recorded("ev-1", |_| {})])), &written);
        let event = body(of_type(&first, "AdverseEvent"));
        assert_eq!(event.get("modifierExtension"), None);
        assert_eq!(event["suspectEntity"][0]["causality"][0]["assessment"]["coding"][0]["code"], "C53258");
        remember(&mut written, &first);
        let requests = plan(&receiver, &enrolled, Some(&course_with(vec![])), &written);
        assert_eq!(requests.len(), 1);
        match deletes {
            true => assert_eq!((requests[0].method.as_str(), requests[0].body.as_str()), ("DELETE", "")),
            false => {
                let event = body(&requests[0]);
                assert_eq!((&event["actuality"], &event["study"]), (&Value::from("potential"), &Value::Null));
                assert_eq!(event["event"]["text"], "entered in error: this event did not happen");
            }
        }
        remember(&mut written, &requests);
        assert_eq!(plan(&receiver, &enrolled, Some(&course_with(vec![])), &written), [], "once");
    }
}

fn marks(requests: &[WriteBack]) -> Vec<(&str, Purpose)> {
    requests.iter().filter(|request| request.form == Form::Fragment).map(|request| (request.url.as_str(), request.purpose)).collect()
}

#[test]
fn a_result_of_the_hospitals_is_marked_only_where_the_site_opted_in_and_only_with_what_is_ours() {
    let candidate = assessment(SubjectState::Candidate);
    let receiver = Receiver { annotates: vec![annotates("Observation", true)], ..receiver_on(Some(Rung::Flag)) };
    assert_eq!(marks(&plan(&receiver_on(Some(Rung::Flag)), &candidate, None, &[])), []);
    let mut written = Vec::new();
    let requests = plan(&receiver, &candidate, None, &written);
    assert_eq!(marks(&requests), [("Observation/cr-2", Purpose::Annotate)]);
    let mark = requests.iter().find(|request| request.form == Form::Fragment).unwrap();
    assert_eq!((mark.rung.as_str(), mark.method.as_str()), ("annotation", "PATCH"));
    let fragment = body(mark);
    assert_eq!(fragment.as_object().unwrap().keys().collect::<Vec<_>>(), ["resourceType", "id", "meta", "extension"]);
    assert_eq!(fragment["extension"][0]["url"], "http://hl7.org/fhir/StructureDefinition/workflow-researchStudy");
    assert_eq!(fragment["extension"][0]["valueReference"]["identifier"]["value"], "NCT00000000");
    let tag = &fragment["meta"]["tag"][0];
    assert_ne!(tag["system"], nephrogate::fhir::WRITE_BACK_SYSTEM, "or the result would come back as an echo of ours");
    assert!(tag["code"].as_str().unwrap().starts_with("ng-"), "and names no study");
    remember(&mut written, &requests);
    assert_eq!(plan(&receiver, &candidate, None, &written), []);

    // Another result counts: the mark moves along.
    let mut newer = candidate.clone();
    newer.criteria[0].evidence[0].resource = "Observation/cr-3".to_owned();
    let moved = plan(&receiver, &newer, None, &written);
    assert_eq!(marks(&moved), [("Observation/cr-3", Purpose::Annotate), ("Observation/cr-2", Purpose::Retract)]);
    // From enrolment on the result that decided keeps its mark, and no later one gets any.
    let enrolled = Assessment { state: SubjectState::Enrolled, was_enrolled: true, ..newer };
    assert_eq!(marks(&plan(&receiver, &enrolled, None, &written)), []);
    assert_eq!(marks(&plan(&receiver, &Assessment { hidden: Some(Hidden::OptedOut), ..enrolled }, None, &written)), []);

    // Each way back takes out what was put in, as it was put in.
    let opted_out_of_marks = Receiver { annotates: vec![], ..receiver.clone() };
    let literal = Receiver { ladder: receiver_on(Some(Rung::ResearchSubject)).ladder, ..receiver.clone() };
    let ways_back = [
        (&receiver, assessment(SubjectState::None)),
        (&receiver, hidden(Hidden::OptedOut)),
        (&receiver, hidden(Hidden::NoPatient)),
        (&opted_out_of_marks, candidate.clone()),
        (&literal, hidden(Hidden::Merged)),
    ];
    for (receiver, now) in ways_back {
        let mut written = written.clone();
        let requests = plan(receiver, &now, None, &written);
        let out = requests.iter().find(|request| request.form == Form::Fragment).unwrap();
        assert_eq!((out.purpose, &out.body), (Purpose::Retract, &mark.body));
        assert_ne!(out.body_hash, mark.body_hash);
        remember(&mut written, &requests);
        assert!(writeback::is_still_wanted(receiver, &study(), known(&now, None), &written, out));
        assert_eq!(plan(receiver, &now, None, &written), [], "once");
        let back = plan(&literal, &candidate, None, &written);
        assert_eq!(marks(&back), [("Observation/cr-2", Purpose::Annotate)], "and it can come back");
    }
    assert_eq!(marks(&plan(&literal, &candidate, None, &written)), [], "a mark that stands is not spelt anew");
}

#[test]
fn a_hospitals_event_of_the_study_gets_its_element_study_and_nothing_else() {
    let hospital = facts::adverse_event("h1", "Proteinuria", |event| event.onset = Some(facts::date("2026-04-01")));
    let before = facts::adverse_event("h0", "Gout", |event| event.onset = Some(facts::date("2025-04-01")));
    let course = course_with(vec![hospital, before]);
    let receiver = Receiver { annotates: vec![annotates("AdverseEvent", false)], ..receiver_on(Some(Rung::ResearchSubject)) };
    let enrolled = assessment(SubjectState::Enrolled);
    let mut written = Vec::new();
    let requests = plan(&receiver, &enrolled, Some(&course), &written);
    assert_eq!(marks(&requests), [("AdverseEvent/h1", Purpose::Annotate)], "what was there before is none of the study's");
    let mark = body(requests.iter().find(|request| request.form == Form::Fragment).unwrap());
    assert_eq!(mark.as_object().unwrap().keys().collect::<Vec<_>>(), ["resourceType", "id", "study"]);
    assert_eq!(mark["study"][0]["reference"].as_str().unwrap(), of_type(&requests, "ResearchStudy").url);
    let is_ours = |mark: &Value| mark["study"][0]["identifier"]["system"] == nephrogate::fhir::WRITE_BACK_SYSTEM;
    assert!(is_ours(&mark), "the event comes back to us with it, and must not seem to name another study: {mark}");
    let on_a_flag = Receiver { ladder: receiver_on(Some(Rung::Flag)).ladder, ..receiver.clone() };
    let by_name = plan(&on_a_flag, &enrolled, Some(&course), &[]);
    assert!(is_ours(&body(by_name.iter().find(|request| request.form == Form::Fragment).unwrap())));
    remember(&mut written, &requests);
    assert_eq!(marks(&plan(&receiver, &enrolled, None, &written)), [], "without the course nothing is known to be gone");
    assert_eq!(marks(&plan(&receiver, &enrolled, Some(&course_with(vec![])), &written)), [("AdverseEvent/h1", Purpose::Retract)]);
}

#[test]
fn an_event_that_names_the_study_by_itself_gets_no_second_entry_for_it() {
    let event = |studies: &[&str]| {
        let studies: Vec<_> = studies.iter().map(|study| (*study).into()).collect();
        course_with(vec![facts::adverse_event("h1", "Proteinuria", |event| {
            (event.onset, event.studies) = (Some(facts::date("2026-04-01")), studies);
        })])
    };
    let id = study().id;
    let (unnamed, named) = (event(&[]), event(&[&id]));
    let enrolled = assessment(SubjectState::Enrolled);
    let with = |tag| Receiver { annotates: vec![annotates("AdverseEvent", tag)], ..receiver_on(Some(Rung::ResearchSubject)) };
    assert_eq!(marks(&plan(&with(false), &enrolled, Some(&named), &[])), [], "nothing is left to say");
    let requests = plan(&with(true), &enrolled, Some(&named), &[]);
    let mark = body(requests.iter().find(|request| request.form == Form::Fragment).unwrap());
    assert_eq!(mark.as_object().unwrap().keys().collect::<Vec<_>>(), ["resourceType", "id", "meta"], "the tag alone");

    // The hospital names the study after the mark was planned: on its way it is given up, and there it stays as it is.
    let requests = plan(&with(false), &enrolled, Some(&unnamed), &[]);
    let on_its_way = requests.iter().find(|request| request.form == Form::Fragment).unwrap();
    let mut written = Vec::new();
    remember(&mut written, &requests);
    assert_eq!(marks(&plan(&with(false), &enrolled, Some(&named), &written)), [], "each change is a new version of the hospital's event");
    written.iter_mut().for_each(|before| before.is_pending = true);
    assert!(!writeback::is_still_wanted(&with(false), &study(), known(&enrolled, Some(&named)), &written, on_its_way));
    assert!(writeback::is_still_wanted(&with(false), &study(), known(&enrolled, Some(&unnamed)), &written, on_its_way));
}

#[test]
fn a_provenance_names_its_target_the_results_and_the_rules_and_is_not_rewritten_day_by_day() {
    let receiver = Receiver { beside: Beside { provenance: true, ..Beside::default() }, ..receiver_on(Some(Rung::Flag)) };
    let candidate = assessment(SubjectState::Candidate);
    let mut written = Vec::new();
    let requests = plan(&receiver, &candidate, None, &written);
    let (flag, request) = (of_type(&requests, "Flag"), of_type(&requests, "Provenance"));
    assert_eq!((request.rung.as_str(), request.order), ("beside", 3));
    let provenance = body(request);
    assert_eq!(provenance["target"][0]["reference"].as_str().unwrap(), flag.url);
    assert_eq!(provenance["recorded"], "2023-11-14T22:13:20Z");
    assert_eq!(provenance["entity"][0]["what"]["reference"], "Observation/cr-2/_history/1");
    assert_eq!(provenance["entity"][1]["what"]["identifier"]["value"], study().hash.as_str());
    assert_eq!(provenance["activity"]["coding"][0]["code"], "CREATE");
    remember(&mut written, &requests);
    let tomorrow = Assessment { as_of_ms: candidate.as_of_ms + 86_400_000, ..candidate.clone() };
    assert_eq!(plan(&receiver, &tomorrow, None, &written), []);
    let entered = Assessment { state: SubjectState::Enrolled, was_enrolled: true, ..candidate };
    assert!(plan(&receiver, &entered, None, &written).iter().all(|request| request.resource_type == "Flag"), "on what it rested stays true");
    for (why, activity) in [(Hidden::OptedOut, "UPDATE"), (Hidden::NoPatient, "NULLIFY")] {
        let provenance = body(of_type(&plan(&receiver, &hidden(why), None, &written), "Provenance"));
        assert_eq!(provenance["activity"]["coding"][0]["code"], activity);
        assert!(!provenance.to_string().contains("Observation/"), "{why:?}");
    }
}

#[test]
fn no_identifier_search_or_tag_says_who_the_patient_is_or_which_study_it_is() {
    let mut seen = BTreeSet::new();
    for request in every_request() {
        seen.insert(request.resource_type.clone());
        assert!(request.key.len() == 64 && request.key.bytes().all(|byte| byte.is_ascii_hexdigit()));
        if request.form == Form::Resource {
            let at = format!("{} {}", request.url, request.search);
            assert!(["p1", "trial-7", "north", "NCT"].iter().all(|word| !at.contains(word)), "{at}");
        }
        let words: Vec<&str> = Rung::ALL.iter().map(|rung| rung.word()).chain(["beside", "annotation"]).collect();
        assert!(words.contains(&request.rung.as_str()), "{}", request.rung);
    }
    let kinds = [
        "AdverseEvent",
        "Communication",
        "DocumentReference",
        "Flag",
        "Group",
        "List",
        "Observation",
        "Provenance",
        "ResearchStudy",
        "ResearchSubject",
    ];
    assert_eq!(seen.iter().map(String::as_str).collect::<Vec<_>>(), kinds);
}

/// One moment of a subject's and a receiver's life.
#[derive(Clone, Debug)]
struct Moment {
    assessment: Assessment,
    rung: Option<Rung>,
    with_everything: bool,
}

prop_compose! {
    fn a_moment()(
        state in prop::sample::select(SubjectState::ALL.to_vec()),
        why in prop::option::weighted(0.3, prop::sample::select(vec![
            Hidden::OptedOut, Hidden::Restricted, Hidden::TestPatient, Hidden::Deceased, Hidden::Merged, Hidden::NoPatient,
        ])),
        is_met in prop::bool::weighted(0.8),
        result in 2..5_u8,
        rung in prop::option::weighted(0.9, prop::sample::select(Rung::ALL.to_vec())),
        with_everything in any::<bool>(),
    ) -> Moment {
        let mut assessment = Assessment { hidden: why, ..assessment(state) };
        assessment.prescreen = if is_met { Verdict::Met } else { Verdict::NotMet };
        assessment.criteria[0].evidence[0].resource = format!("Observation/cr-{result}");
        assessment.series[1].resource = format!("Observation/cr-{result}");
        Moment { assessment, rung, with_everything }
    }
}

/// Marks and what is on the ladder: what a computed eGFR of an earlier result, an event or a Provenance said stays true.
fn is_of_the_moment(resource_type: &str, form: Form) -> bool {
    form == Form::Fragment || ["ResearchSubject", "Flag", "List", "DocumentReference", "Communication"].contains(&resource_type)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whatever happened before, the end is what the last moment alone wants: nothing is left over, nothing is lacking,
    /// and a second look has nothing to add.
    #[test]
    fn whatever_went_before_the_last_assessment_decides_what_stands(moments in prop::collection::vec(a_moment(), 1..8)) {
        let course = course_with(vec![recorded("ev-1", |_| {})]);
        let (mut written, mut was_enrolled) = (Vec::new(), false);
        for moment in &moments {
            was_enrolled |= moment.assessment.was_enrolled;
            let now = Assessment { was_enrolled, ..moment.assessment.clone() };
            let receiver = receiver_on(moment.rung);
            let receiver = if moment.with_everything { with_everything(receiver, AdverseEventShape::Backport) } else { receiver };
            let course = was_enrolled.then_some(&course);
            let before: BTreeSet<String> = written.iter().map(|before: &Written| before.key.clone()).collect();
            let requests = plan(&receiver, &now, course, &written);
            let keys: BTreeSet<&str> = requests.iter().map(|request| request.key.as_str()).collect();
            prop_assert_eq!(keys.len(), requests.len(), "one request for one key");
            if now.hidden.is_some() {
                prop_assert!(requests.iter().all(|request| before.contains(&request.key)), "nothing new about whom nobody may see");
            }
            remember(&mut written, &requests);
            prop_assert_eq!(&plan(&receiver, &now, course, &written), &[], "a second look has nothing to add");
            for request in requests.iter().filter(|request| request.resource_type != "ResearchStudy") {
                prop_assert!(writeback::is_still_wanted(&receiver, &study(), known(&now, course), &written, request), "what was just planned is wanted");
            }
            let fresh = plan(&receiver, &now, course, &[]);
            let wanted: BTreeSet<&str> =
                fresh.iter().filter(|request| is_of_the_moment(&request.resource_type, request.form)).map(|request| request.key.as_str()).collect();
            let stands: BTreeSet<&str> = written
                .iter()
                .filter(|before| before.is_standing && is_of_the_moment(&before.resource_type, before.form))
                .map(|before| before.key.as_str())
                .collect();
            // From enrolment on the results that decided keep their marks, and no later one gets any.
            let is_decided = |key: &&str| was_enrolled && written.iter().any(|before| before.key == **key && before.form == Form::Fragment);
            let lacking: Vec<&&str> = wanted.difference(&stands).filter(|key| !was_enrolled || !is_decided(key)).collect();
            let is_new_mark = |key: &&&str| fresh.iter().any(|request| request.key == ***key && request.form == Form::Fragment);
            prop_assert!(lacking.iter().all(|key| was_enrolled && is_new_mark(key)), "lacking: {:?}", lacking);
            let left_over: Vec<&&str> = stands.difference(&wanted).filter(|key| !is_decided(key)).collect();
            // What stands about whoever took part follows the subject, and nothing takes it away.
            let is_followed = writeback::membership(&receiver, Standing::of(&now)) == Membership::TookPart;
            prop_assert!(is_followed || left_over.is_empty(), "left over: {:?}", left_over);
        }
    }
}
