//! The story of a corrected result, from door to door: a real gateway with its loops running, a real FHIR server as the
//! EHR. The flag appears there; the correction arrives; the flag is inactive, its history whole, and the screener told.

use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nephrogate::ehr::Ehr;
use nephrogate::writeback::Receiver;
use nephrogate::writeback::ladder::Ladder;
use nephrogate::writeback::receiver::Settings;
use reqwest::header::{CACHE_CONTROL, CONTENT_TYPE};
use serde_json::Value;

use super::counterparts::{shared_hapi, start_sekmet};
use super::deliver::{SITE, STUDY, creatinine, patient};
use super::gateway::Gateway;
use super::quirks::key_of;
use super::quirks::stub::Stub;

/// A correction must have reached the EHR by then.
const TAKEN_BACK_WITHIN: Duration = Duration::from_secs(60);

/// A plain HTTP client at the EHR: what any other program there would see.
struct AtTheEhr<'a> {
    base_url: &'a str,
    client: reqwest::Client,
    runtime: tokio::runtime::Runtime,
}

impl AtTheEhr<'_> {
    #[track_caller]
    fn put(&self, resource: &Value) {
        let url = format!("{}/{}/{}", self.base_url, resource["resourceType"].as_str().unwrap(), resource["id"].as_str().unwrap());
        let request = self.client.put(url).header(CONTENT_TYPE, "application/fhir+json").body(resource.to_string());
        let (status, text) = self.runtime.block_on(async {
            let answer = request.send().await.unwrap();
            (answer.status().as_u16(), answer.text().await.unwrap())
        });
        assert!(matches!(status, 200 | 201), "{status}: {text}");
    }

    fn get(&self, path: &str) -> Value {
        let request = self.client.get(format!("{}/{path}", self.base_url)).header(CACHE_CONTROL, "no-cache");
        let text = self.runtime.block_on(async { request.send().await.unwrap().error_for_status().unwrap().text().await.unwrap() });
        serde_json::from_str(&text).unwrap()
    }

    /// What is found of ours about a patient, whatever else the server answers.
    fn ours_about(&self, kind: &str, asked: &str, subject: &str) -> Vec<Value> {
        let bundle = self.get(&format!("{kind}?{asked}&_count=200"));
        let entries = bundle["entry"].as_array().cloned().unwrap_or_default().into_iter().map(|entry| entry["resource"].clone());
        let is_about = |resource: &Value| {
            let reference = ["subject", "individual"].iter().find_map(|element| resource[element]["reference"].as_str()).unwrap_or_default();
            reference.ends_with(&format!("Patient/{subject}"))
        };
        entries.filter(|resource| key_of(resource).is_some() && is_about(resource)).collect()
    }

    #[track_caller]
    fn until<T>(&self, within: Duration, what: &str, ask: impl Fn() -> Option<T>) -> T {
        let deadline = Instant::now() + within;
        loop {
            if let Some(answer) = ask() {
                return answer;
            }
            assert!(Instant::now() < deadline, "not in time: {what}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn declares(statement: &Value, kind: &str) -> bool {
    statement["rest"][0]["resource"].as_array().unwrap().iter().any(|resource| resource["type"] == kind)
}

fn a_corrected_result_takes_its_flag_back(name: &str, base_url: &str, update_creates: bool) {
    let subject = format!("story-{}", if update_creates { "ours" } else { "theirs" });
    let ehr = AtTheEhr {
        base_url,
        client: reqwest::Client::builder().timeout(Duration::from_secs(90)).build().unwrap(),
        runtime: tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap(),
    };
    let gateway = Gateway::start_with(|settings| {
        let contract = Settings::read(&settings.pipeline.catalogue.receivers[SITE]).unwrap();
        let receiver = Receiver { update_creates, ..contract.receiver(SITE, base_url, [100 + u8::from(update_creates); 32]) };
        let receiver = Receiver { ladder: Ladder::of_contract(&receiver.rungs), ..receiver };
        settings.pipeline.receivers = Arc::new([(SITE.to_owned(), receiver)].into());
        settings.endpoints = [(SITE.to_owned(), Ehr::open(base_url, None).unwrap())].into();
    });
    let arrives = |resource: &Value| {
        ehr.put(resource);
        let path = format!("/fhir/{SITE}/{}/{}", resource["resourceType"].as_str().unwrap(), resource["id"].as_str().unwrap());
        let began = Instant::now();
        let answer = gateway.put_fhir(&path, resource);
        assert!(matches!(answer.status, 200 | 201), "{}", answer.text());
        began
    };
    let result = format!("new-{subject}");
    arrives(&patient(&subject));
    arrives(&creatinine(&format!("old-{subject}"), &subject, 1, "final", 130, "2.1"));
    let began = arrives(&creatinine(&result, &subject, 1, "final", 10, "2.0"));

    // The flag appears; a strict server takes its time over the first resource of a type.
    let by_subject = format!("subject=Patient/{subject}");
    let is_active = |flag: &Value| flag["status"] == "active";
    let flags = ehr.until(Duration::from_secs(180), "a flag appears in the EHR", || {
        let flags = ehr.ours_about("Flag", &by_subject, &subject);
        (!flags.is_empty() && flags.iter().all(is_active)).then_some(flags)
    });
    let appeared = began.elapsed();
    let card = format!("/api/studies/{STUDY}/sites/{SITE}/subjects/{subject}");
    let is_proven = |card: &Value| {
        let items = card["outbox"].as_array().unwrap();
        !items.is_empty() && items.iter().all(|item| item["state"] == "confirmed" || item["state"] == "superseded")
    };
    ehr.until(Duration::from_secs(180), "all of it is confirmed", || is_proven(&gateway.get(&card).json()).then_some(()));
    let flags = ehr.ours_about("Flag", &by_subject, &subject).into_iter().chain(flags).filter(is_active).collect::<Vec<_>>();
    let ids: std::collections::BTreeSet<String> = flags.iter().map(|flag| flag["id"].as_str().unwrap().to_owned()).collect();

    // The laboratory corrects it: receipt to inactive.
    let received = arrives(&creatinine(&result, &subject, 2, "corrected", 10, "1.0"));
    ehr.until(TAKEN_BACK_WITHIN, "the flag is inactive", || {
        ids.iter().all(|id| ehr.get(&format!("Flag/{id}"))["status"] == "inactive").then_some(())
    });
    let inactive = received.elapsed();
    assert!(inactive < TAKEN_BACK_WITHIN, "{name}: {inactive:?}");
    let still = ehr.ours_about("Flag", &by_subject, &subject);
    assert!(!still.is_empty() && !still.iter().any(is_active), "{name}: no search finds an active one: {still:#?}");
    for id in &ids {
        let history = ehr.get(&format!("Flag/{id}/_history"));
        let statuses: Vec<&str> = history["entry"].as_array().unwrap().iter().filter_map(|entry| entry["resource"]["status"].as_str()).collect();
        assert_eq!((statuses.first(), statuses.last()), (Some(&"inactive"), Some(&"active")), "{name}: the history is whole: {statuses:?}");
    }
    // Where this server has no ResearchSubject (SEKMET declares none), the Flag is the rung.
    let subjects = ehr.until(TAKEN_BACK_WITHIN, "the subject is closed", || {
        let subjects = if declares(&ehr.get("metadata"), "ResearchSubject") {
            // Without a parameter: not every server knows `individual`.
            ehr.ours_about("ResearchSubject", "_format=json", &subject)
        } else {
            Vec::new()
        };
        subjects.iter().all(|one| one["status"] == "ineligible").then_some(subjects.len())
    });
    assert_eq!(subjects != 0, declares(&ehr.get("metadata"), "ResearchSubject"), "{name}: on the right rung");

    // The screener is told: on the list, on the card.
    let list = gateway.get(&format!("/api/studies/{STUDY}/subjects?site={SITE}")).json();
    let row = list["rows"]
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["subject"] == subject.as_str())
        .unwrap_or_else(|| panic!("{name}: not on the list: {list}"));
    assert_eq!((&row["prescreen"], &row["changed_from"]), (&"not-met".into(), &"prescreen met".into()), "{name}: {row}");
    let told = gateway.wait_for(&card, is_proven);
    assert_eq!(told["row"]["changed_from"], "prescreen met", "{name}");
    let judged: Vec<&Value> = told["history"].as_array().unwrap().iter().map(|judgement| &judgement["prescreen"]).collect();
    assert!(judged.contains(&&Value::from("met")), "{name}: the card has what was judged before: {judged:?}");
    gateway.conservation();
    let _ = writeln!(
        std::io::stderr(),
        "{name} with ids of {}: active {:.1} s after the result was sent, inactive {:.1} s after its correction was",
        if update_creates { "ours" } else { "the EHR's" },
        appeared.as_secs_f64(),
        inactive.as_secs_f64()
    );
    gateway.stop().unwrap();
}

#[test]
fn a_corrected_result_takes_its_flag_back_at_the_stub() {
    for update_creates in [true, false] {
        let stub = Stub::start(&[], &[], jiff::Timestamp::now().as_millisecond());
        a_corrected_result_takes_its_flag_back("the stub", &stub.base_url, update_creates);
    }
}

#[test]
fn a_corrected_result_takes_its_flag_back_at_sekmet() {
    let Some(sekmet) = start_sekmet() else { return };
    for update_creates in [true, false] {
        a_corrected_result_takes_its_flag_back("SEKMET", &sekmet.base_url, update_creates);
    }
}

#[test]
fn a_corrected_result_takes_its_flag_back_at_hapi_fhir_as_it_comes() {
    let Some(base_url) = shared_hapi(false) else { return };
    for update_creates in [true, false] {
        a_corrected_result_takes_its_flag_back("HAPI FHIR", base_url, update_creates);
    }
}

#[test]
fn a_corrected_result_takes_its_flag_back_at_hapi_fhir_that_validates_everything() {
    let Some(base_url) = shared_hapi(true) else { return };
    for update_creates in [true, false] {
        a_corrected_result_takes_its_flag_back("HAPI FHIR, strict,", base_url, update_creates);
    }
}
