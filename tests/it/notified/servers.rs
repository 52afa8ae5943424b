//! Subscriptions at real servers: SEKMET, and HAPI FHIR's own.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use nephrogate::ehr::Ehr;
use nephrogate::store::{Store, notified};
use serde_json::{Value, json};

use super::{FEED, door, feed_of, wait_for_status};
use crate::counterparts::{free_port, shared_hapi, start_sekmet};
use crate::gateway::{Gateway, SITE, creatinine, patient};

/// A gateway whose feed asks a real server for Subscriptions to itself, and its store, which outlives it.
fn subscriber(ehr_url: &str, folder: &std::path::Path, port: u16, settings: &Value) -> (Gateway, Store) {
    let endpoint = format!("http://127.0.0.1:{port}{}", door(""));
    let feed = feed_of(ehr_url, &endpoint, settings.clone());
    let store = Store::open_sqlite(&folder.join("store.db")).unwrap();
    let gateway = Gateway::start_with(|app| {
        app.listener = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
        app.pipeline.store = store.clone();
        app.sources = BTreeMap::from([(SITE.to_owned(), Ehr::open(ehr_url, None).unwrap())]);
        app.feeds = vec![feed];
    });
    (gateway, store)
}

fn of_this_endpoint(client: &Gateway, ehr_url: &str, endpoint: &str) -> Vec<Value> {
    let found = client.send(client.request("GET", &format!("{ehr_url}/Subscription?_count=200")).header("cache-control", "no-cache")).json();
    let entries = found["entry"].as_array().cloned().unwrap_or_default();
    entries.into_iter().map(|entry| entry["resource"].clone()).filter(|subscription| subscription["channel"]["endpoint"] == endpoint).collect()
}

#[track_caller]
pub fn wait_until_active(client: &Gateway, ehr_url: &str, endpoint: &str, count: usize) -> Vec<Value> {
    let deadline = Instant::now() + Duration::from_secs(150);
    loop {
        let all = of_this_endpoint(client, ehr_url, endpoint);
        if all.len() == count && all.iter().all(|subscription| subscription["status"] == "active") {
            return all;
        }
        assert!(Instant::now() < deadline, "not in time: {all:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Writes a resource at a real server, without the versions that only tests know.
fn put_at(ehr_url: &str, mut resource: Value) {
    resource.as_object_mut().unwrap().remove("meta");
    let url = format!("{}/{}", resource["resourceType"].as_str().unwrap(), resource["id"].as_str().unwrap());
    let headers = [("content-type".to_owned(), "application/fhir+json".to_owned())];
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let ehr = Ehr::open(ehr_url, None).unwrap();
    runtime.block_on(ehr.send("PUT", &url, &headers, &resource.to_string())).unwrap();
}

/// Waits until the server has given up on an endpoint where nobody answers.
fn wait_until_given_up(ehr_url: &str, endpoint: &str) {
    let client = Gateway::start();
    let deadline = Instant::now() + Duration::from_secs(60);
    while of_this_endpoint(&client, ehr_url, endpoint).iter().all(|subscription| subscription["status"] != "error") {
        assert!(Instant::now() < deadline, "the server does not give up");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Made, heard, found again after a restart, and taken away, at a real server that has rest-hooks.
fn lives_at(ehr_url: &str, prefix: &str, tells_deletes: bool, gives_up: bool) {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let endpoint = format!("http://127.0.0.1:{port}{}", door(""));
    let settings = json!({"style": "r4", "criteria": ["Observation?code=http://loinc.org|2160-0", "Patient?"], "payload": "full-resource",
        "tells_deletes": tells_deletes, "catch_up": {"every_minutes": 600}});
    let (gateway, _) = subscriber(ehr_url, folder.path(), port, &settings);
    let made = wait_until_active(&gateway, ehr_url, &endpoint, 2);
    gateway.wait_for(&format!("/api/sites/{SITE}/feeds"), |shown| !shown["feeds"][0]["complete_until_ms"].is_null());
    let (p, o) = (format!("{prefix}-p1"), format!("{prefix}-o1"));
    put_at(ehr_url, patient(&p, "1960-05-04"));
    put_at(ehr_url, creatinine(&o, &p, 1, 3, 2.0));
    let here = format!("/fhir/{SITE}/Observation/{o}");
    wait_for_status(&gateway, &here, 200);
    wait_for_status(&gateway, &format!("/fhir/{SITE}/Patient/{p}"), 200);
    put_at(ehr_url, creatinine(&o, &p, 2, 3, 2.5));
    gateway.wait_for(&here, |shown| shown["valueQuantity"]["value"] == json!(2.5));
    gateway.stop().unwrap();
    // A restart makes no copy, and what came while nobody listened is caught up with.
    put_at(ehr_url, creatinine(&o, &p, 3, 3, 2.6));
    if gives_up {
        wait_until_given_up(ehr_url, &endpoint);
    }
    let (gateway, _) = subscriber(ehr_url, folder.path(), port, &settings);
    gateway.wait_for(&here, |shown| shown["valueQuantity"]["value"] == json!(2.6));
    let after = wait_until_active(&gateway, ehr_url, &endpoint, 2);
    let ids = |all: &[Value]| all.iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(ids(&made), ids(&after));
    put_at(ehr_url, creatinine(&o, &p, 4, 3, 2.7));
    gateway.wait_for(&here, |shown| shown["valueQuantity"]["value"] == json!(2.7));
    if tells_deletes {
        let gone = gateway.send(gateway.request("DELETE", &format!("{ehr_url}/Observation/{o}")));
        assert!(gone.status < 300, "{}", gone.text());
        wait_for_status(&gateway, &here, 404);
    }
    gateway.conservation();
    gateway.stop().unwrap();
    // The feed is removed from the configuration: its Subscriptions go.
    let store = Store::open_sqlite(&folder.path().join("store.db")).unwrap();
    let gateway = Gateway::start_with(|app| {
        app.pipeline.store = store;
        app.sources = BTreeMap::from([(SITE.to_owned(), Ehr::open(ehr_url, None).unwrap())]);
    });
    wait_until_active(&gateway, ehr_url, &endpoint, 0);
}

#[test]
fn a_rest_hook_of_sekmet_is_made_heard_found_again_and_taken_away() {
    let Some(sekmet) = start_sekmet() else { return };
    lives_at(&sekmet.base_url, "sekmet", false, true);
}

#[test]
fn a_rest_hook_of_hapi_fhir_is_made_heard_found_again_and_taken_away_and_tells_of_deletes() {
    let Some(hapi) = shared_hapi(false) else { return };
    lives_at(hapi, "hook", true, false);
}

#[test]
fn a_topic_of_sekmet_greets_beats_and_tells_and_what_was_not_told_is_found() {
    let Some(sekmet) = start_sekmet() else { return };
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let endpoint = format!("http://127.0.0.1:{port}{}", door(""));
    let topic = "http://sekmet.dev/fhir/SubscriptionTopic/patient-change";
    let settings = json!({"style": "r4-backport", "topics": [{"topic": topic}], "payload": "id-only", "heartbeat_seconds": 10,
        "catch_up": {"searches": [{"type": "Patient"}], "every_minutes": 600}});
    let (gateway, store) = subscriber(&sekmet.base_url, folder.path(), port, &settings);
    let made = wait_until_active(&gateway, &sekmet.base_url, &endpoint, 1);
    for number in 1..=5 {
        put_at(&sekmet.base_url, patient(&format!("t{number}"), "1960-05-04"));
    }
    for number in 1..=5 {
        wait_for_status(&gateway, &format!("/fhir/{SITE}/Patient/t{number}"), 200);
    }
    let heard = || store.read_blocking(|tx| notified::heard(tx, SITE, FEED)).unwrap();
    let wait_until = |what: &str, is_so: &dyn Fn(&notified::Heard) -> bool| {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !heard().first().is_some_and(is_so) {
            assert!(Instant::now() < deadline, "{what}: {:?}", heard());
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    wait_until("five events", &|of| of.numbers.heard == 5 && !of.numbers.is_missing());
    assert_eq!((heard().len(), heard()[0].subscription.as_str()), (1, made[0]["id"].as_str().unwrap()));
    let at_ms = heard()[0].heard_ms;
    wait_until("a heartbeat", &|of| at_ms < of.heard_ms);
    gateway.stop().unwrap();
    // SEKMET gives up on an endpoint where nobody answers: the gateway finds that when it is back, and what it was not told.
    put_at(&sekmet.base_url, patient("t6", "1960-05-04"));
    wait_until_given_up(&sekmet.base_url, &endpoint);
    let (gateway, _) = subscriber(&sekmet.base_url, folder.path(), port, &settings);
    wait_for_status(&gateway, &format!("/fhir/{SITE}/Patient/t6"), 200);
    let again = wait_until_active(&gateway, &sekmet.base_url, &endpoint, 1);
    assert_eq!(again[0]["id"], made[0]["id"]);
    put_at(&sekmet.base_url, patient("t7", "1960-05-04"));
    wait_for_status(&gateway, &format!("/fhir/{SITE}/Patient/t7"), 200);
    wait_until("every event", &|of| of.numbers.heard == 7 && !of.numbers.is_missing());
}
