//! Messages, documents and histories by the FHIR door: whom `urn:uuid:` means, what a message is answered, and what a
//! history's DELETE withdraws, in whatever order it comes.

use std::sync::Arc;

use nephrogate::catalogue::Catalogue;
use nephrogate::clinical::chart::Chart;
use nephrogate::fhir::bundle;
use nephrogate::fhir::references::References;
use nephrogate::issue::{Code, Disposition};
use nephrogate::pipeline::entries::{Asked, Reader};
use nephrogate::pipeline::{Pipeline, Receivers, receive, redrive};
use nephrogate::store::ledger::{self, Receipt};
use nephrogate::store::{Store, messages};
use serde_json::{Value, json};

use crate::fhir::shared;
use crate::gateway::{Gateway, SITE, STUDY, creatinine, patient};
use crate::intake::before_mending;
use crate::stores::on_both;

const P1: &str = "urn:uuid:11111111-aaaa-4bbb-8ccc-000000000001";
const P2: &str = "urn:uuid:11111111-aaaa-4bbb-8ccc-000000000002";

fn fhir(rest: &str) -> String {
    format!("/fhir/{SITE}{rest}")
}

fn entry(full_url: &str, resource: Value) -> Value {
    json!({"fullUrl": full_url, "resource": resource})
}

/// A creatinine whose subject is named by the fullUrl of an entry.
fn named(id: &str, urn: &str, version: u32, mg_dl: f64) -> Value {
    let mut result = creatinine(id, "nobody", version, 5, mg_dl);
    result["subject"]["reference"] = json!(urn);
    result
}

fn header(id: &str) -> Value {
    json!({"resourceType": "MessageHeader", "id": id, "eventCoding": {"system": "http://example.org/events", "code": "results"},
           "source": {"name": "laboratory", "endpoint": "https://lab.example.org/fhir"}, "focus": [{"reference": "Observation/m1"}]})
}

fn message(id: &str, mut entries: Vec<Value>) -> Value {
    let first = json!({"fullUrl": "urn:uuid:99999999-aaaa-4bbb-8ccc-000000000009", "resource": header(id)});
    entries.insert(0, first);
    json!({"resourceType": "Bundle", "type": "message", "timestamp": "2026-11-20T08:00:00Z", "entry": entries})
}

fn bundle_of(kind: &str, entries: Vec<Value>) -> Value {
    json!({"resourceType": "Bundle", "type": kind, "entry": entries})
}

fn statuses(answer: &Value) -> Vec<&str> {
    answer["entry"].as_array().unwrap().iter().map(|entry| &entry["response"]["status"].as_str().unwrap()[..3]).collect()
}

/// The issues of an OperationOutcome as `code path`.
fn issues(outcome: &Value) -> Vec<String> {
    let issue =
        |issue: &Value| Some(format!("{} {}", issue["details"]["coding"][0]["code"].as_str()?, issue["expression"][0].as_str().unwrap_or_default()));
    outcome["issue"].as_array().unwrap().iter().filter_map(issue).collect()
}

/// Checks that an answer is a message to the message `id`; its response code and its OperationOutcome.
#[track_caller]
fn answered(answer: &Value, id: &str) -> (String, Value) {
    assert_eq!((answer["resourceType"].as_str(), answer["type"].as_str()), (Some("Bundle"), Some("message")), "{answer}");
    assert!(answer["timestamp"].is_string() && answer["entry"].as_array().unwrap().len() == 2, "{answer}");
    let header = &answer["entry"][0]["resource"];
    assert_eq!(header["resourceType"], "MessageHeader");
    assert_eq!(header["response"]["identifier"], id);
    assert_eq!(answer["entry"][0]["fullUrl"], format!("urn:uuid:{}", header["id"].as_str().unwrap()));
    assert_eq!(header["response"]["details"]["reference"], answer["entry"][1]["fullUrl"]);
    assert!(header["source"]["endpoint"].as_str().unwrap().ends_with(&fhir("/$process-message")), "{header}");
    let outcome = answer["entry"][1]["resource"].clone();
    assert_eq!(outcome["resourceType"], "OperationOutcome");
    (header["response"]["code"].as_str().unwrap().to_owned(), outcome)
}

#[test]
fn a_message_is_taken_and_answered_by_a_message() {
    let gateway = Gateway::start();
    let body = message("m-1", vec![entry(P1, patient("p1", "1960-01-01")), entry("urn:uuid:02", named("m1", P1, 1, 2.0))]);
    let answer = gateway.post_fhir(&fhir("/$process-message"), &body);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.header("content-type").starts_with("application/fhir+json"));
    let (code, outcome) = answered(&answer.json(), "m-1");
    assert_eq!((code.as_str(), outcome["issue"][0]["severity"].as_str()), ("ok", Some("information")), "{outcome}");
    assert_eq!(outcome["issue"][0]["details"]["text"], "taken: 2 applied, 1 out-of-scope");
    let header = answer.json()["entry"][0]["resource"].clone();
    assert_eq!(header["eventCoding"], json!({"system": "http://example.org/events", "code": "results"}));
    assert_eq!(header["destination"][0]["endpoint"], "https://lab.example.org/fhir");
    let card = format!("/api/studies/{STUDY}/sites/{SITE}/subjects/p1");
    gateway.wait_for(&card, |card| card["row"]["egfr"].is_number());
    // Sent again, also with another id around the same content, it gives duplicates.
    for id in ["m-1", "m-2"] {
        let mut body = body.clone();
        body["entry"][0]["resource"]["id"] = json!(id);
        let again = gateway.post_fhir(&fhir("/$process-message"), &body);
        let (code, outcome) = answered(&again.json(), id);
        assert_eq!((again.status, code.as_str()), (200, "ok"));
        assert_eq!(outcome["issue"][0]["details"]["text"], "taken: 2 duplicate, 1 out-of-scope");
    }
    let counts = gateway.conservation();
    assert_eq!((counts["dispositions"]["applied"].clone(), counts["dispositions"]["duplicate"].clone()), (json!(2), json!(4)));
    assert!(counts["codes"].as_array().unwrap().iter().any(|row| row["resource_type"] == "MessageHeader" && row["count"] == 3), "{counts}");
    // R5's header and an event by its address.
    let mut r5 = message("m-3", vec![]);
    r5["entry"][0]["resource"] = json!({"resourceType": "MessageHeader", "id": "m-3", "eventCanonical": "http://example.org/events/results", "source": {"endpointUrl": "https://lab.example.org/r5"}});
    let answer = gateway.post_fhir(&fhir("/$process-message"), &r5);
    assert_eq!(answered(&answer.json(), "m-3").0, "ok");
    assert_eq!(answer.json()["entry"][0]["resource"]["eventUri"], "http://example.org/events/results");
}

#[test]
fn what_is_refused_of_a_message_is_named_and_the_rest_is_taken() {
    let gateway = Gateway::start();
    let broken = json!({"resourceType": "Observation", "id": "jane", "status": ["final"]});
    let mut unmapped = creatinine("m2", "p1", 1, 5, 1.4);
    unmapped["valueQuantity"] = json!({"value": 1.4, "unit": "furlong"});
    let entries = vec![entry("urn:uuid:01", broken), entry("urn:uuid:02", creatinine("m1", "p1", 1, 5, 1.4)), entry("urn:uuid:03", unmapped)];
    let answer = gateway.post_fhir(&fhir("/$process-message"), &message("m-1", entries));
    let (code, outcome) = answered(&answer.json(), "m-1");
    assert_eq!((answer.status, code.as_str()), (422, "fatal-error"));
    let named = issues(&outcome);
    assert!(named.contains(&"shape Bundle.entry[1].resource.status".to_owned()), "{named:?}");
    assert!(named.iter().any(|issue| issue.starts_with("unit-unmapped Bundle.entry[3].resource.valueQuantity")), "{named:?}");
    assert!(!answer.text().contains("jane"), "{}", answer.text());
    let counts = gateway.conservation()["dispositions"].clone();
    assert_eq!((&counts["applied"], &counts["rejected"], &counts["quarantined"]), (&json!(1), &json!(1), &json!(1)));
    // An event that asks for more than taking resources: that is not done, and not acknowledged.
    let mut link = message("m-2", vec![entry("urn:uuid:01", patient("p7", "1960-01-01"))]);
    link["entry"][0]["resource"]["eventCoding"]["code"] = json!("patient-link");
    let answer = gateway.post_fhir(&fhir("/$process-message"), &link);
    let (code, outcome) = answered(&answer.json(), "m-2");
    assert_eq!((answer.status, code.as_str(), outcome["issue"][0]["code"].as_str()), (422, "fatal-error", Some("not-supported")));
}

#[test]
fn what_is_no_message_is_refused_clearly_and_counted() {
    let gateway = Gateway::start();
    let good = message("m-1", vec![entry(P1, patient("p1", "1960-01-01"))]);
    let without = |path: &str| {
        let mut body = good.clone();
        body["entry"][0]["resource"].as_object_mut().unwrap().remove(path);
        body
    };
    let refused = [
        (bundle_of("collection", vec![]), "invalid-bundle Bundle.type"),
        (bundle_of("message", vec![]), "invalid-bundle Bundle.entry[0].resource"),
        (bundle_of("message", vec![entry(P1, patient("p1", "1960-01-01"))]), "invalid-bundle Bundle.entry[0].resource"),
        (without("id"), "invalid-id Bundle.entry[0].resource.id"),
        (without("eventCoding"), "shape Bundle.entry[0].resource.event"),
        (json!({"resourceType": "Parameters", "parameter": [{"name": "content", "resource": good}]}), "wrong-resource-type Bundle.resourceType"),
    ];
    for (body, issue) in &refused {
        let answer = gateway.post_fhir(&fhir("/$process-message"), body);
        assert!((400..500).contains(&answer.status), "{issue}: {}", answer.text());
        assert_eq!(issues(&answer.json()), [*issue]);
    }
    assert_eq!(gateway.post(&fhir("/$process-message"), "application/fhir+json", "{").status, 400);
    assert_eq!(gateway.post(&fhir("/$process-message"), "application/fhir+ndjson", "{}").status, 415);
    for query in ["?async=true", "?response-url=https://lab.example.org/back", "?async=true&response-url=x"] {
        let answer = gateway.post_fhir(&fhir(&format!("/$process-message{query}")), &good);
        assert_eq!((answer.status, answer.json()["resourceType"].as_str()), (400, Some("OperationOutcome")), "{query}");
    }
    let counts = gateway.conservation()["dispositions"].clone();
    assert_eq!((&counts["applied"], &counts["rejected"]), (&json!(0), &json!(refused.len() + 1)), "an envelope that is refused leaves its hash");
    assert_eq!(gateway.post_fhir(&fhir("/$process-message?async=false"), &good).status, 200);
}

#[test]
fn a_store_that_fails_is_a_transient_error_and_the_same_message_is_taken_later() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("store.db");
    let gateway = Gateway::start_with(|settings| settings.pipeline.store = Store::open_sqlite(&file).unwrap());
    let connection = rusqlite::Connection::open(&file).unwrap();
    connection.execute_batch("ALTER TABLE tallies RENAME TO elsewhere").unwrap();
    let body = message("m-1", vec![entry(P1, patient("p1", "1960-01-01"))]);
    let answer = gateway.post_fhir(&fhir("/$process-message"), &body);
    let (code, _) = answered(&answer.json(), "m-1");
    assert_eq!((answer.status / 100, code.as_str()), (5, "transient-error"), "{}", answer.text());
    connection.execute_batch("ALTER TABLE elsewhere RENAME TO tallies").unwrap();
    let again = gateway.post_fhir(&fhir("/$process-message"), &body);
    assert_eq!(
        (again.status, answered(&again.json(), "m-1").1["issue"][0]["details"]["text"].as_str()),
        (200, Some("taken: 1 applied, 1 out-of-scope"))
    );
}

#[test]
fn whom_a_urn_means_is_found_in_the_bundle_and_the_bytes_stay_as_they_came() {
    let gateway = Gateway::start();
    let composition = json!({"resourceType": "Composition", "id": "c", "status": "final"});
    let link = json!({"resourceType": "Patient", "id": "old", "gender": "male", "link": [{"type": "replaced-by", "other": {"reference": P1}}]});
    let document = bundle_of(
        "document",
        vec![
            entry("urn:uuid:00000000-aaaa-4bbb-8ccc-000000000000", composition),
            entry("urn:uuid:02", named("by-urn", &P1.to_uppercase().replace("URN:UUID", "urn:uuid"), 1, 2.0)),
            entry(P1, patient("p1", "1960-01-01")),
            entry("urn:uuid:03", link),
            entry(P2, json!({"resourceType": "Patient", "gender": "male"})),
            entry("urn:uuid:04", named("of-nameless", P2, 1, 2.0)),
            entry("urn:uuid:05", named("of-nobody", "urn:uuid:77777777-aaaa-4bbb-8ccc-000000000007", 1, 2.0)),
            entry("urn:uuid:06", json!({"resourceType": "Patient", "id": "twin-a"})),
            entry("urn:uuid:06", json!({"resourceType": "Patient", "id": "twin-b"})),
            entry("urn:uuid:07", named("of-twins", "urn:uuid:06", 1, 2.0)),
            entry("urn:oid:1.2.3", json!({"resourceType": "Group", "id": "g"})),
            entry("urn:uuid:08", named("of-group", "urn:oid:1.2.3", 1, 2.0)),
            entry("https://elsewhere.example.org/fhir/Patient/px", json!({"resourceType": "Patient", "id": "px"})),
            entry("urn:uuid:09", named("of-elsewhere", "https://elsewhere.example.org/fhir/Patient/px", 1, 2.0)),
        ],
    );
    // A document is sent to whichever address its sender knows; each takes it entry by entry.
    for (address, round) in [("/$ingest", 0), ("", 1), ("/Bundle", 2)] {
        let answer = gateway.post_fhir(&fhir(address), &document);
        assert_eq!(answer.status, 200, "{address}: {}", answer.text());
        let answer = answer.json();
        let expected: Vec<&str> = match round {
            0 => vec!["202", "201", "201", "201", "400", "202", "202", "201", "201", "202", "202", "202", "201", "202"],
            _ => vec!["202", "200", "200", "200", "400", "200", "200", "200", "200", "200", "202", "200", "200", "200"],
        };
        assert_eq!(statuses(&answer), expected, "{address}: {answer}");
        for (index, why) in [
            (5, "the resource in the Bundle has no id"),
            (6, "urn, and no entry of the Bundle has it"),
            (9, "two resources in the Bundle have this fullUrl"),
            (11, "Group"),
            (13, "another server"),
        ] {
            let issue = &answer["entry"][index]["response"]["outcome"]["issue"][0];
            assert_eq!(
                (issue["details"]["coding"][0]["code"].as_str(), issue["diagnostics"].as_str()),
                (Some("identity-missing"), Some(why)),
                "{issue}"
            );
        }
    }
    let read = gateway.get(&fhir("/Observation/by-urn"));
    assert_eq!(read.status, 200);
    assert_eq!(read.json()["subject"]["reference"], P1.to_uppercase().replace("URN:UUID", "urn:uuid"), "the bytes stay as they came");
    let found = gateway.get(&fhir("/Observation?patient=p1")).json();
    assert_eq!((found["total"].clone(), found["entry"][0]["resource"]["id"].clone()), (json!(1), json!("by-urn")));
    // A single resource means nobody by a URN.
    let alone = gateway.post_fhir(&fhir("/Observation"), &named("alone", P1, 1, 2.0));
    assert_eq!((alone.status, alone.json()["issue"][0]["diagnostics"].as_str().map(str::to_owned)), (202, Some("urn".to_owned())));
    // A transaction is resolved before it is refused or taken whole.
    let put = |url: &str| json!({"method": "PUT", "url": url});
    let mut transaction = bundle_of("transaction", vec![entry("urn:uuid:02", named("t1", P2, 1, 2.1)), entry(P2, patient("p2", "1950-01-01"))]);
    transaction["entry"][0]["request"] = put("Observation/t1");
    transaction["entry"][1]["request"] = put("Patient/p2");
    assert_eq!(statuses(&gateway.post_fhir(&fhir(""), &transaction).json()), ["200", "200"]);
    assert_eq!(gateway.get(&fhir("/Observation?patient=p2")).json()["total"], 1);
    // What is no Bundle does not go to the address of Bundles.
    assert_eq!(gateway.post_fhir(&fhir("/Bundle"), &patient("p3", "1960-01-01")).status, 400);
    assert_eq!(gateway.get(&fhir("/Patient/p3")).status, 404);
    gateway.conservation();
}

#[test]
fn bundles_among_lines_are_split_and_each_answer_names_its_line() {
    let gateway = Gateway::start();
    let document = bundle_of("document", vec![entry(P1, patient("p1", "1960-01-01")), entry("urn:uuid:02", named("n1", P1, 1, 2.0))]);
    let history = bundle_of("history", vec![json!({"request": {"method": "DELETE", "url": "Observation/n0"}})]);
    let lines = [creatinine("n0", "p1", 1, 9, 2.2), document, bundle_of("collage", vec![]), history].map(|line| line.to_string()).join("\n");
    let answer = gateway.post(&fhir("/$ingest"), "application/fhir+ndjson", lines).json();
    let names: Vec<&str> = answer["entry"].as_array().unwrap().iter().map(|entry| entry["fullUrl"].as_str().unwrap()).collect();
    assert_eq!(names, ["urn:nephrogate:line:1", "urn:nephrogate:line:2", "urn:nephrogate:line:2", "urn:nephrogate:line:3", "urn:nephrogate:line:4"]);
    assert_eq!(statuses(&answer), ["201", "201", "201", "400", "200"]);
    assert_eq!(gateway.get(&fhir("/Observation/n0")).status, 404, "its DELETE came in the last line");
    assert_eq!(gateway.get(&fhir("/Observation?patient=p1")).json()["total"], 1);
    gateway.conservation();
}

#[test]
fn metadata_says_how_messages_are_taken() {
    let gateway = Gateway::start();
    let statement = gateway.get(&fhir("/metadata")).json();
    let operations: Vec<&str> =
        statement["rest"][0]["operation"].as_array().unwrap().iter().map(|operation| operation["name"].as_str().unwrap()).collect();
    assert_eq!(operations, ["ingest", "process-message"]);
    let endpoint = &statement["messaging"][0]["endpoint"][0];
    assert_eq!(
        (endpoint["protocol"]["code"].as_str(), endpoint["address"].as_str()),
        (Some("http"), Some(gateway.url(&fhir("/$process-message")).as_str()))
    );
}

fn pipeline(store: &Store) -> Pipeline {
    let catalogue = Catalogue::load(None).unwrap_or_else(|faults| panic!("{faults:?}"));
    Pipeline { store: store.clone(), catalogue: Arc::new(catalogue), receivers: Arc::new(Receivers::new()) }
}

/// Takes a Bundle entry by entry, as the doors do.
fn take(pipeline: &Pipeline, body: &Value) -> Vec<Option<Receipt>> {
    let bytes = body.to_string().into_bytes();
    let split = bundle::split(&bytes).unwrap();
    let reader = Reader::new(&pipeline.catalogue, &pipeline.catalogue.sites[SITE], &split);
    let (mut messages, mut withdrawals) = (Vec::new(), Vec::new());
    for index in 0..split.entries.len() {
        match reader.read(index) {
            Asked::Message { message, .. } => messages.push(*message),
            Asked::Withdraw(withdrawal) => withdrawals.push(withdrawal),
        }
    }
    let (receipts, withdrawn) = receive::receive_and_withdraw(pipeline, SITE, "push", 1_790_000_000_000, &messages, &withdrawals).unwrap();
    receipts.into_iter().map(Some).chain(withdrawn).collect()
}

fn standing(store: &Store, subject: &str) -> Vec<String> {
    let facts = store.read_blocking(|tx| ledger::facts(tx, SITE, subject)).unwrap().facts;
    let mut ids: Vec<String> = Chart::fold(facts, &[]).measurements.iter().map(|result| result.source.id.to_string()).collect();
    ids.sort();
    ids
}

#[test]
fn a_result_whose_bundle_named_its_patient_is_redriven_to_the_same_patient() {
    on_both(|store| {
        let mended = pipeline(store);
        let unmended = before_mending(&mended);
        let mut result = named("local", P1, 1, 1.7);
        result["code"] = json!({"coding": [{"system": "https://demo-hospital.example.org/lab-codes", "code": "CREA"}]});
        let stray = {
            let mut stray = result.clone();
            stray["id"] = json!("stray");
            stray["subject"]["reference"] = json!(P2);
            stray
        };
        let document = bundle_of("document", vec![entry(P1, patient("p1", "1960-01-01")), entry("urn:uuid:02", result), entry("urn:uuid:03", stray)]);
        let receipts = take(&unmended, &document);
        let ends: Vec<Disposition> = receipts.iter().flatten().map(|receipt| receipt.disposition).collect();
        assert_eq!(ends, [Disposition::Applied, Disposition::Quarantined, Disposition::Quarantined]);
        assert_eq!(receipts[1].as_ref().unwrap().subject.as_deref(), Some("p1"));
        let redriven = redrive::site(&mended, SITE, None, 1_790_000_000_000).unwrap();
        assert_eq!((redriven.tried, redriven.dispositions.get("applied"), redriven.dispositions.get("quarantined")), (2, Some(&1), Some(&1)));
        assert_eq!(standing(store, "p1"), ["local"]);
        // What nobody could be told of stays where it is.
        let left = store.read_blocking(|tx| messages::quarantine(tx, SITE, 0)).unwrap().0;
        assert_eq!((left.len(), left[0].id.as_deref(), left[0].issues[0].code), (1, Some("stray"), Code::IdentityMissing));
    });
}

#[test]
fn the_same_bytes_about_another_patient_are_no_duplicate() {
    on_both(|store| {
        let pipeline = pipeline(store);
        let of = |person: &str, version: Value| {
            let mut result = named("same", P1, 1, 1.7);
            result["meta"] = version;
            bundle_of("document", vec![entry(P1, patient(person, "1960-01-01")), entry("urn:uuid:02", result)])
        };
        take(&pipeline, &of("p1", json!({"versionId": "1"})));
        let again = take(&pipeline, &of("p1", json!({"versionId": "1"})));
        assert_eq!(again[1].as_ref().unwrap().disposition, Disposition::Duplicate);
        let other = take(&pipeline, &of("p2", json!({"versionId": "1"})));
        let other = other[1].as_ref().unwrap();
        assert_eq!((other.disposition, other.issues[0].code), (Disposition::Quarantined, Code::VersionConflict));
        assert_eq!((standing(store, "p1"), standing(store, "p2")), (vec!["same".to_owned()], vec![]));
    });
}

fn deletion(url: &str, response: Value) -> Value {
    json!({"request": {"method": "DELETE", "url": url}, "response": response})
}

fn version(number: u32, stamp: &str) -> Value {
    let mut result = creatinine("h", "p1", number, 5, 1.0 + f64::from(number) / 10.0);
    result["meta"] = json!({"versionId": number.to_string(), "lastUpdated": stamp});
    json!({"resource": result, "request": {"method": "PUT", "url": "Observation/h"}, "response": {"status": "200"}})
}

#[test]
fn a_delete_of_a_history_withdraws_what_was_before_it_in_whatever_order_it_comes() {
    let day = |number: u32| format!("2026-11-{:02}T08:00:00Z", number + 10);
    let etag = || json!({"status": "204", "etag": "W/\"2\"", "lastModified": day(2)});
    // As FHIR says, as HAPI writes it, and by the time alone; then the resource came back, or did not.
    let deletions = [
        deletion("Observation/h", etag()),
        deletion("https://ehr.example.org/fhir/Observation/h/_history/2", json!({"status": "204"})),
        deletion("Observation/h", json!({"status": "204", "lastModified": day(2)})),
    ];
    on_both(|store| {
        let pipeline = pipeline(store);
        for (kind, deletion) in deletions.iter().enumerate() {
            for comes_back in [false, true] {
                for order in 0..6 {
                    let id = format!("h{kind}{comes_back}{order}");
                    let mut entries = vec![version(1, &day(1)), deletion.clone()];
                    if comes_back {
                        entries.push(version(3, &day(3)));
                    }
                    let count = entries.len();
                    entries.swap(0, order % count);
                    if 2 < count && 3 <= order {
                        entries.swap(1, 2);
                    }
                    let text = Value::from(entries).to_string().replace("/h\"", &format!("/{id}\"")).replace("/h/", &format!("/{id}/"));
                    let entries: Vec<Value> = serde_json::from_str(&text.replace("\"id\":\"h\"", &format!("\"id\":\"{id}\""))).unwrap();
                    // Half of them come in one Bundle, half in one for each page.
                    if order % 2 == 0 {
                        take(&pipeline, &bundle_of("history", entries));
                    } else {
                        entries.into_iter().for_each(|entry| drop(take(&pipeline, &bundle_of("history", vec![entry]))));
                    }
                    let stands = standing(store, "p1").contains(&id);
                    assert_eq!(stands, comes_back, "{id}");
                    let held = store.read_blocking(|tx| messages::newest(tx, SITE, "Observation", &id)).unwrap();
                    assert_eq!(held.and_then(|held| held.version), comes_back.then(|| "3".to_owned()), "{id}");
                }
            }
        }
    });
}

#[test]
fn a_delete_without_version_or_time_withdraws_what_is_held_and_never_what_came_after_it() {
    on_both(|store| {
        let pipeline = pipeline(store);
        take(&pipeline, &bundle_of("history", vec![deletion("Observation/h", json!({"status": "204"})), version(1, "2026-11-11T08:00:00Z")]));
        assert!(standing(store, "p1").is_empty());
        let back = take(
            &pipeline,
            &bundle_of(
                "history",
                vec![version(3, "2026-11-13T08:00:00Z"), deletion("Observation/h", json!({"status": "204"})), version(1, "2026-11-11T08:00:00Z")],
            ),
        );
        assert_eq!(standing(store, "p1"), ["h"]);
        let refused = back[1].as_ref().unwrap();
        assert_eq!((refused.disposition, refused.issues[0].path.as_str()), (Disposition::Rejected, "Bundle.entry[1].response"));
        // A batch asks for something; a version in its address is none.
        let batch = bundle_of("batch", vec![json!({"request": {"method": "DELETE", "url": "Observation/h/_history/3"}})]);
        assert_eq!(take(&pipeline, &batch)[0].as_ref().unwrap().issues[0].code, Code::InvalidBundle);
        assert_eq!(standing(store, "p1"), ["h"]);
    });
}

#[test]
fn references_that_are_no_urn_are_left_alone() {
    let bytes = bundle_of("document", vec![entry("Patient/p1", patient("p2", "1960-01-01")), entry("#p", patient("p3", "1960-01-01"))]).to_string();
    let references = References::of(&bundle::split(bytes.as_bytes()).unwrap());
    let pipeline = Catalogue::load(None).unwrap_or_else(|faults| panic!("{faults:?}"));
    let result = creatinine("o", "p1", 1, 5, 1.7).to_string();
    let prepared = receive::prepare_in(&pipeline, &pipeline.sites[SITE], &references, result.as_bytes());
    assert_eq!((prepared.disposition, prepared.subject.as_deref()), (Disposition::Applied, Some("p1")));
}

/// HL7's own examples, in every kind that a door may be handed: each ends in counted dispositions.
#[test]
fn bundles_of_others_end_in_counted_dispositions() {
    let Some(folder) = shared("data/r4-examples/Bundle") else { return };
    let gateway = Gateway::start();
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let (mut taken, mut processed) = (std::collections::BTreeMap::<String, usize>::new(), 0);
    for file in &files {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(file).unwrap();
        let body: Value = serde_json::from_str(&text).unwrap();
        let before = gateway.conservation()["received"].as_i64().unwrap();
        let answer = gateway.post(&fhir("/$ingest"), "application/fhir+json", text.clone());
        assert!(answer.status < 500, "{name}: {}", answer.text());
        let received = usize::try_from(gateway.conservation()["received"].as_i64().unwrap() - before).unwrap();
        let kind = body["type"].as_str().unwrap();
        if answer.status == 200 {
            let count = body["entry"].as_array().map_or(0, Vec::len);
            assert_eq!(answer.json()["entry"].as_array().map_or(0, Vec::len), count, "{name}: each entry is answered");
            // A DELETE of what was never here is no message.
            assert!((count.saturating_sub(1)..=count).contains(&received), "{name}: {received} of {count}");
            *taken.entry(kind.to_owned()).or_default() += 1;
        } else {
            assert_eq!(received, 1, "{name}: refused whole, it leaves one rejected message");
            assert!(kind.ends_with("-response") || kind == "transaction", "{name}: {}", answer.text());
        }
        if kind == "message" {
            let answer = gateway.post(&fhir("/$process-message"), "application/fhir+json", text);
            assert!(answer.status == 200 || answer.status == 422, "{name}: {}", answer.text());
            answered(&answer.json(), body["entry"][0]["resource"]["id"].as_str().unwrap());
            processed += 1;
        }
    }
    println!("of {} Bundles: {taken:?}; {processed} messages processed; {}", files.len(), gateway.conservation()["dispositions"]);
    assert!(processed == 2 && taken["document"] == 1 && 18 <= taken["collection"], "{taken:?}");
}
