//! The same hospital by every door: whatever way its data comes, the facts, the verdicts and the counts are the same, shown by
//! comparing digests. Synthea's charts where ../shared has them (NEPHROGATE_SOAK=1: all of them), else charts made here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nephrogate::app::Settings;
use nephrogate::catalogue::Catalogue;
use nephrogate::clinical::date::AsOf;
use nephrogate::config::Config;
use nephrogate::feeds::{Feed, Kind};
use nephrogate::pipeline::digest::of_site;
use nephrogate::pipeline::{Pipeline, Receivers};
use nephrogate::store::{Store, messages};
use serde_json::{Value, json};

use crate::counterparts::{start_hapi, start_sekmet};
use crate::gateway::{Gateway, LOINC};
use crate::intake::copy_folder;
use crate::notified::servers::wait_until_active;

const SITE: &str = "synthea";
const AS_OF: &str = "2026-11-01";
/// A source that nobody asks.
const NOWHERE: &str = "http://127.0.0.1:1/fhir";
/// Patients whose charts are sent by every door.
const PATIENTS: usize = 25;

/// Everything of some patients, without references to what is not sent (a strict server refuses those).
fn charts() -> Vec<Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/synthea-longitudinal");
    if !folder.exists() {
        eprintln!("Synthea's charts are not there (../shared/data): charts made here take their place");
        return made_here();
    }
    let read = |name: &str| -> Vec<Value> {
        let text = std::fs::read_to_string(folder.join(name)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let observations = read("Observation.ndjson");
    let creatinine =
        |observation: &Value| observation["code"]["coding"][0]["code"].as_str().is_some_and(|code| ["38483-4", "2160-0"].contains(&code));
    let subject = |resource: &Value| resource["subject"]["reference"].as_str().unwrap_or_default().trim_start_matches("Patient/").to_owned();
    let patients = read("Patient.ndjson");
    let wanted: BTreeSet<String> = if std::env::var_os("NEPHROGATE_SOAK").is_some() {
        patients.iter().map(|patient| patient["id"].as_str().unwrap().to_owned()).collect()
    } else {
        observations.iter().filter(|one| creatinine(one)).map(subject).take(400).collect::<BTreeSet<_>>().into_iter().take(PATIENTS).collect()
    };
    let patients = patients.into_iter().filter(|patient| wanted.contains(patient["id"].as_str().unwrap()));
    let rest = observations.into_iter().chain(read("Condition.ndjson")).filter(|one| wanted.contains(&subject(one)));
    let mut all: Vec<Value> = patients.chain(rest).collect();
    for resource in &mut all {
        let fields = resource.as_object_mut().unwrap();
        for elsewhere in ["encounter", "meta", "text", "extension", "communication", "contained", "recorder", "asserter", "performer"] {
            fields.remove(elsewhere);
        }
    }
    assert!(100 < all.len(), "there is something to compare");
    all
}

fn made_here() -> Vec<Value> {
    let mut all = Vec::new();
    for number in 0..PATIENTS {
        let id = format!("patient-{number}");
        all.push(json!({"resourceType": "Patient", "id": id, "gender": if number % 2 == 0 { "female" } else { "male" }, "birthDate": format!("{}-03-04", 1940 + number)}));
        all.push(json!({
            "resourceType": "Condition", "id": format!("condition-{number}"), "subject": {"reference": format!("Patient/{id}")},
            "clinicalStatus": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/condition-clinical", "code": "active"}]},
            "verificationStatus": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/condition-ver-status", "code": "confirmed"}]},
            "code": {"coding": [{"system": "http://snomed.info/sct", "code": if number % 5 == 0 { "44054006" } else { "431857002" }}]},
            "onsetDateTime": "2020-01-01T00:00:00Z"
        }));
        for visit in 0..6 {
            all.push(json!({
                "resourceType": "Observation", "id": format!("creatinine-{number}-{visit}"), "status": "final",
                "category": [{"coding": [{"system": "http://terminology.hl7.org/CodeSystem/observation-category", "code": "laboratory"}]}],
                "code": {"coding": [{"system": LOINC, "code": "2160-0"}]}, "subject": {"reference": format!("Patient/{id}")},
                "effectiveDateTime": format!("2026-0{}-11T08:00:00Z", visit + 3), "issued": format!("2026-0{}-11T09:00:00Z", visit + 3),
                "valueQuantity": {"value": 1.0 + (number * 7 + visit) as f64 / 50.0, "unit": "mg/dL", "system": "http://unitsofmeasure.org", "code": "mg/dL"}
            }));
        }
    }
    all
}

/// What a store holds, in two hashes and some counts.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    facts: String,
    verdicts: String,
    kinds: BTreeMap<String, u64>,
}

fn held(store: &Store) -> Held {
    let pipeline = Pipeline { store: store.clone(), catalogue: Arc::new(Catalogue::load(None).unwrap()), receivers: Arc::new(Receivers::new()) };
    let of = of_site(&pipeline, SITE, AsOf::parse(AS_OF).unwrap(), &|_, _| {}).unwrap();
    Held {
        facts: of.digest.hash_of_facts(),
        verdicts: of.digest.hash_of_verdicts(),
        kinds: of.digest.facts.iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect(),
    }
}

fn adds_up(door: &str, store: &Store) {
    let counts = store.read_blocking(|tx| messages::conservation(tx, SITE)).unwrap();
    assert!(counts.difference == 0 && counts.rows_agree, "{door}: {counts:?}");
}

/// A gateway with these feeds, until it holds what is expected.
#[track_caller]
fn expect(door: &str, expected: &Held, source: &str, feeds: &Value, after_start: impl FnOnce(&Gateway)) {
    let gateway = start(source, feeds, |_| {});
    after_start(&gateway);
    holds(door, expected, &gateway);
}

#[track_caller]
fn holds(door: &str, expected: &Held, gateway: &Gateway) {
    let until = Instant::now() + Duration::from_secs(180);
    loop {
        let now = held(&gateway.store);
        if now == *expected {
            break;
        }
        if until < Instant::now() {
            let shown = gateway.get(&format!("/api/sites/{SITE}/feeds")).text();
            assert_eq!(now, *expected, "by {door}: {shown}");
        }
        std::thread::sleep(Duration::from_millis(250));
    }
    adds_up(door, &gateway.store);
    eprintln!("by {door}: the same");
}

fn start(source: &str, feeds: &Value, change: impl FnOnce(&mut Settings)) -> Gateway {
    let listener = nephrogate::app::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let public_url = format!("http://{}", listener.local_addr().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.json");
    let text = json!({
        "listen": "127.0.0.1:0", "public_url": public_url, "store": {"sqlite_dir": "store"},
        "sites": [{"site": SITE, "note": "the same by every door", "source": {"base_url": source}, "feeds": feeds}]
    });
    std::fs::write(&file, text.to_string()).unwrap();
    let config = Config::read(&file).unwrap_or_else(|faults| panic!("{faults:?}"));
    Gateway::start_with(|settings| {
        settings.listener = listener;
        settings.public_url = Some(public_url);
        settings.feeds = config.feeds().unwrap();
        change(settings);
    })
}

/// Puts the charts into a FHIR server, patients first.
fn fill(base_url: &str, charts: &[Value]) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let client = reqwest::Client::new();
    let put = |resource: &Value| {
        let url = format!("{base_url}/{}/{}", resource["resourceType"].as_str().unwrap(), resource["id"].as_str().unwrap());
        client.put(url).header("content-type", "application/fhir+json").body(resource.to_string()).send()
    };
    runtime.block_on(async {
        for part in charts.chunks(8) {
            for answer in futures_util::future::join_all(part.iter().map(put)).await {
                let answer = answer.unwrap();
                assert!(answer.status().is_success(), "{}: {}", answer.status(), answer.text().await.unwrap());
            }
        }
    });
}

/// What the charts are when they are pushed.
fn pushed(charts: &[Value]) -> Held {
    let gateway = start(NOWHERE, &json!([]), |_| {});
    push(&gateway, charts);
    let held = held(&gateway.store);
    adds_up("push", &gateway.store);
    assert!(held.kinds.values().sum::<u64>() > 50, "{held:?}");
    held
}

fn push(gateway: &Gateway, charts: &[Value]) {
    for part in charts.chunks(200) {
        let lines: Vec<String> = part.iter().map(Value::to_string).collect();
        let answer = gateway.post(&format!("/fhir/{SITE}/$ingest"), "application/fhir+ndjson", lines.join("\n"));
        assert!(answer.status < 300, "{}", answer.text());
    }
}

fn searches() -> Value {
    json!([{"type": "Patient"}, {"type": "Observation"}, {"type": "Condition"}])
}

/// The feeds by which a FHIR server is read or tells.
fn poll() -> Value {
    json!([{"name": "poll", "note": "n", "poll": {"searches": searches(), "every_seconds": 1, "page_size": 100}}])
}

fn bulk() -> Value {
    json!([{"name": "bulk", "note": "n", "bulk": {"level": "system", "types": ["Patient", "Observation", "Condition"], "poll_at_most_seconds": 1}}])
}

/// Told before there is anything: all comes by notifications, since the searches are made once an hour.
fn told_while_it_is_filled(server: &str, name: &str, charts: &[Value], expected: &Held) {
    let subscription = json!([{"name": "told", "note": "n", "subscription": {
        "style": "r4", "criteria": ["Patient?", "Observation?", "Condition?"], "catch_up": {"every_minutes": 60}
    }}]);
    expect(&format!("{name}'s notifications"), expected, server, &subscription, |gateway| {
        until(gateway, "the feed has made its Subscriptions", |shown| !shown["feeds"][0]["succeeded_ms"].is_null());
        let endpoint = format!("http://{}/notify/{SITE}/told", gateway.address);
        wait_until_active(gateway, server, &endpoint, 3);
        fill(server, charts);
    });
}

#[test]
fn sekmet_is_read_by_every_door_to_the_same_facts_and_verdicts() {
    let Some(sekmet) = start_sekmet() else { return };
    let charts = charts();
    let expected = pushed(&charts);
    told_while_it_is_filled(&sekmet.base_url, "SEKMET", &charts, &expected);
    expect("polling SEKMET", &expected, &sekmet.base_url, &poll(), |_| {});
    expect("SEKMET's $export", &expected, &sekmet.base_url, &bulk(), |_| {});
}

#[test]
fn hapi_fhir_is_read_by_every_door_to_the_same_facts_and_verdicts() {
    // Of its own: its pages and its export show all that is there, and other tests keep their patients in the shared one.
    let Some(hapi) = start_hapi(false) else { return };
    let charts = charts();
    let expected = pushed(&charts);
    told_while_it_is_filled(&hapi.base_url, "HAPI FHIR", &charts, &expected);
    expect("HAPI FHIR's pages", &expected, &hapi.base_url, &poll(), |_| {});
    expect("HAPI FHIR's $export", &expected, &hapi.base_url, &bulk(), |_| {});
    let ids: Vec<&str> = charts.iter().filter(|one| one["resourceType"] == "Patient").map(|one| one["id"].as_str().unwrap()).collect();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("patients.txt");
    std::fs::write(&file, ids.join("\n")).unwrap();
    let roster = json!([{"name": "sweep", "note": "n", "poll": {"searches": searches(), "every_seconds": 1, "roster": {"file": file}}}]);
    expect("asking HAPI FHIR patient by patient", &expected, &hapi.base_url, &roster, |_| {});
}

/// HAPI HL7v2 builds the messages and sends them; only where Java and Maven are (NEPHROGATE_HAPI). HL7 v2 results and
/// patients are read, and no diagnoses.
#[test]
fn a_laboratorys_interface_brings_the_same_facts_and_verdicts_as_a_push() {
    if std::env::var_os("NEPHROGATE_HAPI").is_none() {
        eprintln!("SKIPPED: HAPI HL7v2 runs where NEPHROGATE_HAPI is set (tests/run sets it where Java and Maven are)");
        return;
    }
    let charts: Vec<Value> = charts().into_iter().filter(|one| one["resourceType"] != "Condition").collect();
    let expected = pushed(&charts);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("charts.txt");
    std::fs::write(&file, charts.iter().map(|resource| line_of_charts(resource) + "\n").collect::<String>()).unwrap();
    let gateway = start(NOWHERE, &json!([]), |settings| {
        settings.pipeline.catalogue = Arc::new(catalogue_of_v2());
        let mllp = serde_json::from_value(json!({"listen": "127.0.0.1:0"})).unwrap();
        let kind = Kind::Mllp { settings: mllp, tls: None };
        settings.feeds.push(Feed { site: SITE.to_owned(), name: "lab".to_owned(), silent_after_ms: None, kind });
    });
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/counterparts/java");
    let port = gateway.listening[0].address.port().to_string();
    let output = Command::new(program).args(["mllp", "--port", &port, "--charts"]).arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains(&format!("acknowledged {0} of {0}\n", charts.len())), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    holds("a laboratory's interface", &expected, &gateway);
}

/// The shipped catalogue, where Synthea's hospital says also what its HL7 v2 messages mean.
fn catalogue_of_v2() -> Catalogue {
    let folder = tempfile::tempdir().unwrap();
    for part in ["mappings", "studies"] {
        copy_folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join(part), &folder.path().join(part));
    }
    let file = folder.path().join("mappings/synthea/mapping.json");
    let mut mapping: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    mapping["hl7_v2"] =
        json!({"patient_identifier": {"authority": "DEMO", "type": "MR", "note": "its Patients' id"}, "note": "as the sender writes"});
    std::fs::write(&file, mapping.to_string()).unwrap();
    Catalogue::load(Some(folder.path())).unwrap_or_else(|faults| panic!("{faults:?}"))
}

/// A resource as the sender reads it.
fn line_of_charts(resource: &Value) -> String {
    // 2011-08-18T04:10:16.791+00:00 and 2011-08-18T04:10:16Z are 20110818041016.791+0000 and 20110818041016+0000.
    let time = |text: &Value| {
        let text = text.as_str().unwrap_or_default().replace('Z', "+00:00");
        let (day, clock) = text.split_once('T').unwrap_or((&text, ""));
        day.replace('-', "") + &clock.replace(':', "")
    };
    let coded = |coding: &Value| {
        let system = match coding["system"].as_str().unwrap() {
            LOINC => "LN",
            "http://snomed.info/sct" => "SCT",
            other => panic!("{other} has no name in HL7 v2 here"),
        };
        (coding["code"].as_str().unwrap().to_owned(), coding["display"].as_str().unwrap_or("a finding").to_owned(), system)
    };
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    if resource["resourceType"] == "Patient" {
        let sex = &text(&resource["gender"])[..1].to_uppercase();
        return ["P", &text(&resource["id"]), sex, &time(&resource["birthDate"]), &time(&resource["deceasedDateTime"])].join("\t");
    }
    let (code, _, system) = coded(&resource["code"]["coding"][0]);
    let (kind, value, unit) = match &resource["valueQuantity"] {
        Value::Null => {
            let (code, display, system) = coded(&resource["valueCodeableConcept"]["coding"][0]);
            ("CE", format!("{code}^{display}^{system}"), String::new())
        }
        quantity => ("NM", quantity["value"].to_string(), text(&quantity["code"])),
    };
    let patient = text(&resource["subject"]["reference"]).replace("Patient/", "");
    let (effective, issued) = (time(&resource["effectiveDateTime"]), time(&resource["issued"]));
    ["R", &patient, &text(&resource["id"]), &code, system, kind, &value, &unit, &effective, &issued].join("\t")
}

#[track_caller]
fn until(gateway: &Gateway, what: &str, is_so: impl Fn(&Value) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let shown = gateway.get(&format!("/api/sites/{SITE}/feeds")).json();
        if is_so(&shown) {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: {shown}");
        std::thread::sleep(Duration::from_millis(100));
    }
}
