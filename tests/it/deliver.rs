//! The outbox delivered to EHRs: the stand-in always, SEKMET where it is installed, HAPI FHIR where it is asked for;
//! and what happens when the network or the server does its worst.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use nephrogate::catalogue::Catalogue;
use nephrogate::clinical::fact::{Decided, DecidedState, Decision};
use nephrogate::ehr::{Ehr, EhrError};
use nephrogate::fhir::edit;
use nephrogate::http::stand_in::{self, StandIn};
use nephrogate::pipeline::deliver::{Circuit, Summary, deliver_once};
use nephrogate::pipeline::{Pipeline, decide, judge, probe, receive, reconcile};
use nephrogate::store::Store;
use nephrogate::store::outbox::{self, Item, ItemState};
use nephrogate::store::{receivers, switches};
use nephrogate::writeback::ladder::{Finding, FindingKind, Rung};
use nephrogate::writeback::receiver::Settings;
use nephrogate::writeback::{Annotates, Form, Mode, Purpose, Receiver, WriteFrom};
use serde_json::{Value, json};

use super::counterparts::{shared_hapi, start_sekmet};

pub const SITE: &str = "demo-hospital";
pub const STUDY: &str = "elixcyte-1";
/// When these tests began: the command judges as of now, so the results must be of these days.
static NOW_MS: LazyLock<i64> = LazyLock::new(|| jiff::Timestamp::now().as_millisecond());
const DAY_MS: i64 = 86_400_000;

/// A gateway with a store of its own and one receiver, and a clock that the test moves.
struct Gateway {
    pipeline: Pipeline,
    runtime: tokio::runtime::Runtime,
    now_ms: i64,
    folder: tempfile::TempDir,
}

impl Gateway {
    fn new(base_url: &str, change: impl FnOnce(Receiver) -> Receiver) -> Gateway {
        let folder = tempfile::tempdir().unwrap();
        let mut catalogue = Catalogue::load(None).unwrap_or_else(|faults| panic!("{faults:?}"));
        // One study is enough here.
        for studies in catalogue.studies_of_site.values_mut() {
            studies.retain(|study| study.id == STUDY);
        }
        let settings = Settings::read(&catalogue.receivers[SITE]).unwrap();
        let receiver = change(settings.receiver(SITE, base_url, [5; 32]));
        let pipeline = Pipeline {
            store: Store::open_sqlite(&folder.path().join(nephrogate::store::FILE_NAME)).unwrap(),
            catalogue: Arc::new(catalogue),
            receivers: Arc::new(BTreeMap::from([(SITE.to_owned(), receiver)])),
        };
        Gateway { pipeline, runtime: tokio::runtime::Runtime::new().unwrap(), now_ms: *NOW_MS, folder }
    }

    /// The hospital sends this to the gateway.
    fn push(&self, resource: &Value) {
        let site = &self.pipeline.catalogue.sites[SITE];
        let prepared = receive::prepare(&self.pipeline.catalogue, site, resource.to_string().as_bytes());
        let receipts = receive::receive(&self.pipeline, SITE, "push", self.now_ms, &[prepared]).unwrap();
        assert_eq!(receipts[0].disposition.word(), "applied", "{:?}", receipts[0].issues);
    }

    fn decide(&self, subject: &str, what: Decided) {
        let decision =
            Decision { study: STUDY.into(), by: "Dr Lin".into(), reason: "as agreed".to_owned(), at_ms: self.now_ms, evidence_seen: "".into(), what };
        decide::append(&self.pipeline, SITE, subject, &decision).unwrap();
    }

    fn items(&self) -> Vec<Item> {
        self.pipeline.store.read_blocking(|tx| outbox::list(tx, None, None)).unwrap()
    }

    /// `Type state` of the newest item of each key, sorted.
    fn states(&self) -> Vec<String> {
        let newest: BTreeMap<String, Item> = self.items().into_iter().map(|item| (item.request.key.clone(), item)).collect();
        let mut states: Vec<String> = newest.values().map(|item| format!("{} {}", item.request.resource_type, item.state.word())).collect();
        states.sort();
        states
    }

    fn once(&self, ehr: &Ehr, circuit: &mut Circuit) -> Summary {
        self.runtime.block_on(deliver_once(&self.pipeline, ehr, circuit, SITE, self.now_ms)).unwrap()
    }

    /// Delivers, moving the clock, until nothing is planned or sent; at most so long.
    fn deliver(&mut self, ehr: &Ehr, at_most_ms: i64) {
        let mut circuit = Circuit::default();
        let until_ms = self.now_ms + at_most_ms;
        while self.items().iter().any(|item| matches!(item.state, ItemState::Planned | ItemState::Sent)) && self.now_ms < until_ms {
            if self.once(ehr, &mut circuit).claimed == 0 {
                self.now_ms += 1_000;
            }
        }
    }
}

pub fn patient(id: &str) -> Value {
    json!({"resourceType": "Patient", "id": id, "gender": "male", "birthDate": "1960-05-04",
        "meta": {"versionId": "1", "lastUpdated": "2026-01-01T00:00:00Z", "security": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": "HTEST"}]}})
}

/// A creatinine `days` days before the start; 2.0 mg/dL is an eGFR of about 36 in these patients, 1.0 of about 83.
pub fn creatinine(id: &str, patient: &str, version: u32, status: &str, days: i64, mg_dl: &str) -> Value {
    let at = jiff::Timestamp::from_millisecond(*NOW_MS - days * DAY_MS).unwrap().to_string();
    json!({"resourceType": "Observation", "id": id, "meta": {"versionId": version.to_string(), "lastUpdated": at}, "status": status,
        "category": [{"coding": [{"system": "http://terminology.hl7.org/CodeSystem/observation-category", "code": "laboratory"}]}],
        "code": {"coding": [{"system": "http://loinc.org", "code": "2160-0"}]}, "subject": {"reference": format!("Patient/{patient}")},
        "effectiveDateTime": at, "issued": at,
        "valueQuantity": {"value": serde_json::from_str::<Value>(mg_dl).unwrap(), "unit": "mg/dL", "system": "http://unitsofmeasure.org", "code": "mg/dL"}})
}

/// Patients who pass the prescreen, as their hospital holds them.
fn candidates(count: usize) -> Vec<Value> {
    let mut resources = Vec::new();
    for number in 0..count {
        let id = format!("p{number}");
        resources.push(patient(&id));
        resources.push(creatinine(&format!("old-{number}"), &id, 1, "final", 130, "2.1"));
        resources.push(creatinine(&format!("new-{number}"), &id, 1, "final", 10, "2.0"));
    }
    resources
}

/// The hospital puts its own data there.
fn load(gateway: &Gateway, ehr: &Ehr, resources: &[Value]) {
    let headers = [("Content-Type".to_owned(), "application/fhir+json".to_owned())];
    for resource in resources {
        let url = format!("{}/{}", resource["resourceType"].as_str().unwrap(), resource["id"].as_str().unwrap());
        gateway.runtime.block_on(ehr.send("PUT", &url, &headers, &resource.to_string())).unwrap();
    }
}

/// The stand-in on a port of its own.
pub struct StandInServer {
    pub base_url: String,
    handle: actix_web::dev::ServerHandle,
}

pub fn start_stand_in() -> StandInServer {
    let data = actix_web::web::Data::new(StandIn::open(None).unwrap());
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        actix_web::rt::System::new().block_on(async move {
            let server = actix_web::HttpServer::new(move || actix_web::App::new().app_data(data.clone()).configure(stand_in::configure));
            let server = server.workers(1).disable_signals().bind(("127.0.0.1", 0)).unwrap();
            let address = server.addrs()[0];
            let server = server.run();
            send.send((address, server.handle())).unwrap();
            server.await.unwrap();
        });
    });
    let (address, handle) = receive.recv().unwrap();
    StandInServer { base_url: format!("http://{address}{}", stand_in::BASE), handle }
}

impl Drop for StandInServer {
    fn drop(&mut self) {
        // Asks the server's own thread to end; it does so without us.
        drop(self.handle.stop(false));
    }
}

/// Runs a test against every EHR that is here.
fn on_each_ehr(test: impl Fn(&str, &str)) {
    let stand_in = start_stand_in();
    test("the stand-in", &stand_in.base_url);
    if let Some(sekmet) = start_sekmet() {
        test("SEKMET", &sekmet.base_url);
    }
}

fn found(gateway: &Gateway, ehr: &Ehr, kind: &str) -> Vec<Value> {
    let held = gateway.runtime.block_on(ehr.search(kind, &[])).unwrap();
    held.iter().map(|held| serde_json::from_str(&held.resource).unwrap()).collect()
}

/// What this gateway wrote, by type, as `Type status`.
fn ours(gateway: &Gateway, ehr: &Ehr) -> Vec<String> {
    let keys: BTreeSet<String> = gateway.items().into_iter().map(|item| item.request.key).collect();
    let mut all = Vec::new();
    for kind in ["ResearchStudy", "ResearchSubject", "Flag", "Observation"] {
        for resource in found(gateway, ehr, kind) {
            if resource["identifier"][0]["value"].as_str().is_some_and(|key| keys.contains(key)) {
                all.push(format!("{kind} {}", resource["status"].as_str().unwrap()));
            }
        }
    }
    all
}

const ALL_CONFIRMED: [&str; 4] = ["Flag confirmed", "Observation confirmed", "ResearchStudy confirmed", "ResearchSubject confirmed"];

/// The story of one candidate on one EHR: flagged, consented, corrected, taken back; each step proven at the EHR.
fn a_flag_comes_and_goes(base_url: &str, update_creates: bool) {
    let mut gateway = Gateway::new(base_url, |receiver| Receiver { update_creates, identifier_key: [u8::from(update_creates); 32], ..receiver });
    let ehr = Ehr::open(base_url, None).unwrap();
    load(&gateway, &ehr, &candidates(1));
    for resource in candidates(1) {
        gateway.push(&resource);
    }
    gateway.deliver(&ehr, 600_000);
    assert_eq!(gateway.states(), ALL_CONFIRMED, "{:#?}", gateway.items());
    assert_eq!(ours(&gateway, &ehr), ["ResearchStudy active", "ResearchSubject candidate", "Flag active", "Observation final"]);
    let key = gateway.items().into_iter().find(|item| item.request.resource_type == "Flag").unwrap().request.key;
    let flags = found(&gateway, &ehr, "Flag");
    let flag = flags.iter().find(|flag| flag["identifier"][0]["value"] == key.as_str()).unwrap();
    assert_eq!(flag["subject"]["reference"], "Patient/p0");
    assert_eq!(flag["id"].as_str().unwrap().starts_with("ng-"), update_creates);

    gateway.decide("p0", Decided::Consent { given: true });
    gateway.deliver(&ehr, 600_000);
    assert_eq!(gateway.states(), ALL_CONFIRMED, "{:#?}", gateway.items());
    assert_eq!(ours(&gateway, &ehr), ["ResearchStudy active", "ResearchSubject screening", "Flag active", "Observation final"]);

    // The newest result was wrong: it is corrected to a normal value, in the EHR and in the feed.
    gateway.decide("p0", Decided::Consent { given: false });
    let corrected = creatinine("new-0", "p0", 2, "corrected", 10, "1.0");
    load(&gateway, &ehr, std::slice::from_ref(&corrected));
    gateway.push(&corrected);
    gateway.deliver(&ehr, 600_000);
    assert_eq!(gateway.states(), ALL_CONFIRMED, "{:#?}", gateway.items());
    let standing = ours(&gateway, &ehr);
    assert_eq!(standing[2], "Flag inactive");
    assert!(["ResearchSubject ineligible", "ResearchSubject withdrawn"].contains(&standing[1].as_str()), "{standing:?}");
    assert_eq!(standing[3], "Observation entered-in-error", "it was calculated from a value that was wrong");
    // Judged again without news, nothing more is sent.
    let before = gateway.items().len();
    judge::judge(&gateway.pipeline, gateway.now_ms, &[(SITE.to_owned(), "p0".to_owned())]).unwrap();
    assert_eq!(gateway.items().len(), before);
}

#[test]
fn a_flag_comes_and_goes_at_the_stand_in_and_at_sekmet() {
    for update_creates in [true, false] {
        on_each_ehr(|_, base_url| a_flag_comes_and_goes(base_url, update_creates));
    }
}

#[test]
fn a_flag_comes_and_goes_at_a_strict_hapi_fhir() {
    let Some(base_url) = shared_hapi(true) else { return };
    a_flag_comes_and_goes(base_url, true);
    a_flag_comes_and_goes(base_url, false);
    let gateway = Gateway::new(base_url, |receiver| receiver);
    let ehr = Ehr::open(base_url, None).unwrap();
    assert_eq!(gateway.runtime.block_on(ehr.holds_only_test_patients()), Ok(true));
    let mut real = patient("real");
    real.as_object_mut().unwrap().remove("meta");
    load(&gateway, &ehr, &[real]);
    assert_eq!(gateway.runtime.block_on(ehr.holds_only_test_patients()), Ok(false));
}

/// What the proxy does with one request.
#[derive(Clone)]
enum Fault {
    /// Lets it through.
    None,
    /// Lets it through and never answers: applied, and nobody knows.
    AppliedButSilent,
    /// Answers this itself; nothing reaches the EHR.
    Answer(u16, &'static str),
    /// Answers 200 with this body; nothing reaches the EHR.
    Body(String),
    /// Lets it through and takes one element out of the answer.
    Drop(&'static str),
}

/// A proxy in front of an EHR: `choose` sees method, path and number of each request and says what becomes of it.
struct Proxy {
    base_url: String,
    seen: Arc<Mutex<Vec<String>>>,
    is_stopped: Arc<AtomicBool>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.is_stopped.store(true, Ordering::Relaxed);
    }
}

fn proxy(upstream: &str, choose: impl Fn(&str, &str, usize) -> Fault + Send + Sync + 'static) -> Proxy {
    let (host, path) = upstream.trim_start_matches("http://").split_once('/').unwrap();
    let (host, path) = (host.to_owned(), format!("/{path}"));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base_url = format!("http://{}{path}", listener.local_addr().unwrap());
    let proxy = Proxy { base_url, seen: Arc::default(), is_stopped: Arc::default() };
    let (seen, is_stopped, choose) = (proxy.seen.clone(), proxy.is_stopped.clone(), Arc::new(choose));
    std::thread::spawn(move || {
        for client in listener.incoming() {
            if is_stopped.load(Ordering::Relaxed) {
                return;
            }
            let (seen, host, choose) = (seen.clone(), host.clone(), choose.clone());
            std::thread::spawn(move || pass(client.unwrap(), &host, &seen, &*choose));
        }
    });
    proxy
}

/// One connection, one request: `Connection: close` both ways.
fn pass(mut client: TcpStream, host: &str, seen: &Mutex<Vec<String>>, choose: &(impl Fn(&str, &str, usize) -> Fault + ?Sized)) -> Option<()> {
    let (head, body) = message(&mut client)?;
    let mut lines = head.lines();
    let first = lines.next()?.to_owned();
    let (method, target) = first.split_once(' ').map(|(method, rest)| (method, rest.split(' ').next().unwrap()))?;
    let number = {
        let mut seen = seen.lock().unwrap();
        seen.push(format!("{method} {target}"));
        seen.len()
    };
    let fault = choose(method, target, number);
    if let Fault::Answer(status, headers) = fault {
        client.write_all(format!("HTTP/1.1 {status} Fault\r\n{headers}Content-Length: 0\r\nConnection: close\r\n\r\n").as_bytes()).ok()?;
        return None;
    }
    if let Fault::Body(body) = fault {
        client.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len()).as_bytes()).ok()?;
        return None;
    }
    let kept = lines.filter(|line| !["host:", "connection:", "accept-encoding:"].iter().any(|name| line.to_lowercase().starts_with(name)));
    let head = format!("{first}\r\nHost: {host}\r\nConnection: close\r\n{}\r\n\r\n", kept.collect::<Vec<_>>().join("\r\n"));
    let mut upstream = TcpStream::connect(host).unwrap();
    upstream.write_all(head.as_bytes()).ok()?;
    upstream.write_all(&body).ok()?;
    let (head, mut body) = message(&mut upstream)?;
    match fault {
        Fault::AppliedButSilent => return None,
        Fault::Drop(element) => {
            if let Ok(mut resource) = serde_json::from_slice::<Value>(&body) {
                if let Some(fields) = resource.as_object_mut() {
                    fields.remove(element);
                    for entry in fields.get_mut("entry").and_then(Value::as_array_mut).into_iter().flatten() {
                        entry["resource"].as_object_mut().map(|fields| fields.remove(element));
                    }
                }
                body = resource.to_string().into_bytes();
            }
        }
        Fault::None | Fault::Answer(..) | Fault::Body(_) => {}
    }
    let kept = head.lines().filter(|line| {
        !["content-length:", "transfer-encoding:", "connection:"].iter().any(|name| line.to_lowercase().starts_with(name)) && !line.is_empty()
    });
    let head = format!("{}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", kept.collect::<Vec<_>>().join("\r\n"), body.len());
    client.write_all(head.as_bytes()).ok()?;
    client.write_all(&body).ok()
}

/// Head and body of one HTTP/1.1 message: by Content-Length, chunked, or to the end.
fn message(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut bytes = Vec::new();
    let mut buffer = [0; 65536];
    let split = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at;
        }
        match stream.read(&mut buffer).ok()? {
            0 => return None,
            read => bytes.extend_from_slice(&buffer[..read]),
        }
    };
    let head = String::from_utf8(bytes[..split].to_vec()).ok()?;
    let mut body = bytes[split + 4..].to_vec();
    let header =
        |name: &str| head.lines().find_map(|line| line.to_lowercase().strip_prefix(&format!("{name}:")).map(|value| value.trim().to_owned()));
    if let Some(length) = header("content-length").and_then(|length| length.parse::<usize>().ok()) {
        while body.len() < length {
            match stream.read(&mut buffer).ok()? {
                0 => return None,
                read => body.extend_from_slice(&buffer[..read]),
            }
        }
        return Some((head, body));
    }
    let is_chunked = header("transfer-encoding").is_some_and(|coding| coding == "chunked");
    let is_response = head.starts_with("HTTP/");
    if is_chunked || is_response {
        while !(is_chunked && body.ends_with(b"0\r\n\r\n")) {
            match stream.read(&mut buffer).ok()? {
                0 => break,
                read => body.extend_from_slice(&buffer[..read]),
            }
        }
    }
    Some((head, if is_chunked { unchunked(&body) } else { body }))
}

fn unchunked(mut chunks: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(at) = chunks.windows(2).position(|window| window == b"\r\n") {
        let Ok(length) = usize::from_str_radix(std::str::from_utf8(&chunks[..at]).unwrap_or("0").trim(), 16) else { break };
        if length == 0 || chunks.len() < at + 2 + length {
            break;
        }
        body.extend_from_slice(&chunks[at + 2..at + 2 + length]);
        chunks = &chunks[(at + 4 + length).min(chunks.len())..];
    }
    body
}

/// A gateway whose EHR is behind a proxy, with one candidate received and the EHR loaded; and the EHR without the proxy.
fn behind(upstream: &str, proxy: &Proxy, change: impl FnOnce(Receiver) -> Receiver) -> (Gateway, Ehr, Ehr) {
    let gateway = Gateway::new(&proxy.base_url, change);
    let (ehr, direct) = (Ehr::open(&proxy.base_url, None).unwrap(), Ehr::open(upstream, None).unwrap());
    load(&gateway, &direct, &candidates(1));
    for resource in candidates(1) {
        gateway.push(&resource);
    }
    (gateway, ehr, direct)
}

fn is_write(method: &str) -> bool {
    matches!(method, "PUT" | "POST" | "DELETE")
}

#[test]
fn a_write_that_was_applied_without_an_answer_leaves_one_resource() {
    on_each_ehr(|name, upstream| {
        for update_creates in [true, false] {
            let writes = Arc::new(Mutex::new(BTreeSet::new()));
            let proxy = proxy(upstream, move |method, target, _| {
                // The first write of each type is applied and never answered.
                let kind = target.split('/').nth(if target.starts_with("/ehr/") { 3 } else { 2 }).unwrap_or_default().to_owned();
                if is_write(method) && writes.lock().unwrap().insert(kind) { Fault::AppliedButSilent } else { Fault::None }
            });
            let (mut gateway, ehr, direct) =
                behind(upstream, &proxy, |receiver| Receiver { update_creates, identifier_key: [update_creates.into(); 32], ..receiver });
            gateway.deliver(&ehr, 3_600_000);
            assert_eq!(gateway.states(), ALL_CONFIRMED, "{name}: {:#?}", gateway.items());
            let keys: BTreeSet<String> = gateway.items().into_iter().map(|item| item.request.key).collect();
            for (kind, key) in gateway.items().iter().map(|item| (&item.request.resource_type, &item.request.key)) {
                assert_eq!(gateway.runtime.block_on(direct.find(kind, key)).unwrap().len(), 1, "{name}: {kind}");
            }
            assert_eq!(keys.len(), 4);
        }
    });
}

#[test]
fn a_conflict_is_read_again_and_written_again_and_three_in_a_row_wait_for_a_person() {
    on_each_ehr(|name, upstream| {
        for status in [409, 412] {
            let refused = Arc::new(Mutex::new(0));
            let proxy = proxy(upstream, move |method, target, _| {
                let mut refused = refused.lock().unwrap();
                if is_write(method) && target.contains("/Flag") && *refused < 2 {
                    *refused += 1;
                    return Fault::Answer(status, "");
                }
                Fault::None
            });
            let (mut gateway, ehr, _) = behind(upstream, &proxy, |receiver| Receiver { identifier_key: [status as u8; 32], ..receiver });
            gateway.deliver(&ehr, 3_600_000);
            assert_eq!(gateway.states(), ALL_CONFIRMED, "{name} {status}: {:#?}", gateway.items());
        }
        let proxy =
            proxy(upstream, |method, target, _| if is_write(method) && target.contains("/Flag") { Fault::Answer(412, "") } else { Fault::None });
        let (mut gateway, ehr, _) = behind(upstream, &proxy, |receiver| Receiver { identifier_key: [99; 32], ..receiver });
        gateway.deliver(&ehr, 3_600_000);
        assert_eq!(gateway.states()[0], "Flag rejected", "{name}");
        assert_eq!(proxy.seen.lock().unwrap().iter().filter(|seen| seen.starts_with("PUT") && seen.contains("/Flag")).count(), 3, "{name}");
    });
}

#[test]
fn no_request_comes_before_the_time_the_server_asked_for() {
    let server = start_stand_in();
    // Seconds, garbage, nothing, and a whole day, of which an hour is honoured.
    for (header, at_least_ms) in [
        ("Retry-After: 120\r\n", 120_000),
        ("Date: Mon, 21 Sep 2026 10:00:00 GMT\r\nRetry-After: Mon, 21 Sep 2026 10:02:00 GMT\r\n", 120_000),
        ("Retry-After: soon\r\n", 1),
        ("", 1),
        ("Retry-After: 86400\r\n", 3_600_000),
    ] {
        let is_busy = Arc::new(AtomicBool::new(true));
        let choice = is_busy.clone();
        let proxy = proxy(&server.base_url, move |_, _, _| if choice.load(Ordering::Relaxed) { Fault::Answer(429, header) } else { Fault::None });
        let (mut gateway, ehr, _) = behind(&server.base_url, &proxy, |receiver| Receiver { identifier_key: [at_least_ms as u8; 32], ..receiver });
        let began_ms = gateway.now_ms;
        let mut circuit = Circuit::default();
        assert_eq!(gateway.once(&ehr, &mut circuit).waiting, 1);
        let asked = proxy.seen.lock().unwrap().len();
        // Up to that time: silence, whatever else is waiting.
        for part in 1..=20 {
            gateway.now_ms = began_ms + (at_least_ms - 1) * part / 20;
            gateway.once(&ehr, &mut circuit);
        }
        assert_eq!(proxy.seen.lock().unwrap().len(), asked, "{header:?}");
        is_busy.store(false, Ordering::Relaxed);
        gateway.now_ms = began_ms + at_least_ms;
        gateway.deliver(&ehr, 3_600_000);
        assert_eq!(gateway.states(), ALL_CONFIRMED, "{header:?}");
        assert!(gateway.now_ms - began_ms < at_least_ms + 120_000, "{header:?}: delivered soon after, not much later");
    }
}

#[test]
fn an_ehr_that_is_down_for_eight_hours_is_asked_seldom_and_gets_only_what_still_holds() {
    on_each_ehr(|name, upstream| {
        let is_down = Arc::new(AtomicBool::new(true));
        let choice = is_down.clone();
        let proxy = proxy(upstream, move |_, _, _| if choice.load(Ordering::Relaxed) { Fault::Answer(503, "") } else { Fault::None });
        let mut gateway = Gateway::new(&proxy.base_url, |receiver| Receiver { identifier_key: [8; 32], ..receiver });
        let (ehr, direct) = (Ehr::open(&proxy.base_url, None).unwrap(), Ehr::open(upstream, None).unwrap());
        load(&gateway, &direct, &candidates(4));
        for resource in candidates(4) {
            gateway.push(&resource);
        }
        let mut circuit = Circuit::default();
        let began_ms = gateway.now_ms;
        while gateway.now_ms < began_ms + 8 * 3_600_000 {
            gateway.once(&ehr, &mut circuit);
            gateway.now_ms += 15_000;
        }
        let asked = proxy.seen.lock().unwrap().len();
        assert!((8 * 20..=8 * 62).contains(&asked), "{name}: {asked} requests in 8 h");
        // Meanwhile: one said no, one was corrected, one died.
        gateway.decide("p1", Decided::OptOut { opted_out: true });
        gateway.push(&creatinine("new-2", "p2", 2, "corrected", 10, "1.0"));
        let mut dead = patient("p3");
        dead["deceasedBoolean"] = json!(true);
        dead["meta"]["versionId"] = json!("2");
        gateway.push(&dead);

        is_down.store(false, Ordering::Relaxed);
        let back_ms = gateway.now_ms;
        gateway.deliver(&ehr, 3_600_000);
        assert!(gateway.now_ms - back_ms <= 15 * 60_000, "{name}: drained after {} ms", gateway.now_ms - back_ms);
        assert_eq!(ours(&gateway, &direct), ["ResearchStudy active", "ResearchSubject candidate", "Flag active", "Observation final"], "{name}");
    });
}

#[test]
fn what_one_item_is_refused_for_blocks_no_other() {
    on_each_ehr(|name, upstream| {
        for status in [400, 422, 404, 410, 403, 302] {
            let proxy = proxy(upstream, move |method, target, _| {
                if is_write(method) && target.contains("/Observation") {
                    Fault::Answer(status, "Location: http://elsewhere.example.org/\r\n")
                } else {
                    Fault::None
                }
            });
            let (mut gateway, ehr, _) = behind(upstream, &proxy, |receiver| Receiver { identifier_key: [(status % 251) as u8; 32], ..receiver });
            gateway.deliver(&ehr, 60_000);
            let states = gateway.states();
            assert_eq!(states, ["Flag confirmed", "Observation rejected", "ResearchStudy confirmed", "ResearchSubject confirmed"], "{name} {status}");
            let item = gateway.items().into_iter().find(|item| item.state == ItemState::Rejected).unwrap();
            assert_eq!((item.attempts, item.last_status), (1, Some(i64::from(status))), "{name}");
            // A person can replay it.
            assert!(gateway.pipeline.store.write_blocking(|tx| outbox::replay(tx, item.id, *NOW_MS)).unwrap());
            let direct = Ehr::open(upstream, None).unwrap();
            gateway.deliver(&direct, 60_000);
            assert_eq!(gateway.states(), ALL_CONFIRMED, "{name} {status}");
        }
    });
}

#[test]
fn credentials_that_do_not_hold_stop_the_site_and_lose_nothing() {
    let server = start_stand_in();
    let proxy = proxy(&server.base_url, |_, _, _| Fault::Answer(401, ""));
    let (mut gateway, ehr, direct) = behind(&server.base_url, &proxy, |receiver| receiver);
    let mut circuit = Circuit::default();
    for _ in 0..3600 {
        gateway.once(&ehr, &mut circuit);
        gateway.now_ms += 1_000;
    }
    assert!(proxy.seen.lock().unwrap().len() <= 75, "{} requests in an hour", proxy.seen.lock().unwrap().len());
    gateway.deliver(&direct, 3_600_000);
    assert_eq!(gateway.states(), ALL_CONFIRMED);
}

#[test]
fn a_server_that_drops_a_field_is_degraded_and_one_that_keeps_nothing_is_lost() {
    on_each_ehr(|name, upstream| {
        let dropping = proxy(upstream, |_, target, _| if target.contains("/Flag") { Fault::Drop("category") } else { Fault::None });
        let (mut gateway, ehr, _) = behind(upstream, &dropping, |receiver| Receiver { identifier_key: [1; 32], ..receiver });
        gateway.deliver(&ehr, 60_000);
        let degraded = gateway.items().into_iter().find(|item| item.state == ItemState::Degraded).unwrap();
        assert_eq!(degraded.last_error.as_deref(), Some("Flag.category"), "{name}");

        let keeping_nothing =
            proxy(upstream, |method, target, _| if is_write(method) && target.contains("/Flag") { Fault::Answer(201, "") } else { Fault::None });
        let (mut gateway, ehr, _) = behind(upstream, &keeping_nothing, |receiver| Receiver { identifier_key: [2; 32], ..receiver });
        gateway.deliver(&ehr, 3_600_000);
        assert_eq!(gateway.states()[0], "Flag lost", "{name}: {:#?}", gateway.items());
    });
}

#[test]
fn two_senders_and_one_that_died_between_send_and_record_leave_one_resource_each() {
    on_each_ehr(|name, upstream| {
        for update_creates in [true, false] {
            let mut gateway =
                Gateway::new(upstream, |receiver| Receiver { update_creates, identifier_key: [20 + u8::from(update_creates); 32], ..receiver });
            let ehr = Ehr::open(upstream, None).unwrap();
            load(&gateway, &ehr, &candidates(8));
            for resource in candidates(8) {
                gateway.push(&resource);
            }
            // A sender that claims, sends and is killed before it records.
            let claimed = gateway.pipeline.store.write_blocking(|tx| outbox::claim(tx, SITE, *NOW_MS, *NOW_MS + 60_000, 1)).unwrap();
            let request = &claimed[0].item.request;
            // SEKMET has no conditional create for a ResearchStudy.
            let headers: Vec<_> = request.headers.iter().filter(|(name, _)| name != "If-None-Exist").cloned().collect();
            gateway.runtime.block_on(ehr.send(&request.method, &request.url, &headers, &request.body)).unwrap();
            // Two others, at once, until all is done.
            for _ in 0..200 {
                let (mut one, mut other) = (Circuit::default(), Circuit::default());
                let now_ms = gateway.now_ms;
                let (a, b) = gateway.runtime.block_on(async {
                    tokio::join!(
                        deliver_once(&gateway.pipeline, &ehr, &mut one, SITE, now_ms),
                        deliver_once(&gateway.pipeline, &ehr, &mut other, SITE, now_ms)
                    )
                });
                if a.unwrap().claimed + b.unwrap().claimed == 0 {
                    gateway.now_ms += 5_000;
                }
            }
            let items = gateway.items();
            assert!(items.iter().all(|item| item.state == ItemState::Confirmed), "{name}: {:?}", gateway.states());
            assert_eq!(items.len(), 1 + 3 * 8, "{name}");
            for item in &items {
                let copies = gateway.runtime.block_on(ehr.find(&item.request.resource_type, &item.request.key)).unwrap();
                assert_eq!(copies.len(), 1, "{name}: {}", item.request.resource_type);
            }
            // The sender that came back from the dead has lost its lease: it records nothing.
            let outcome =
                outbox::Outcome { state: ItemState::Lost, next_attempt_ms: 0, status: None, error: None, server_id: None, server_version: None };
            assert!(!gateway.pipeline.store.write_blocking(|tx| outbox::finish(tx, &claimed[0], gateway.now_ms, &outcome)).unwrap(), "{name}");
        }
    });
}

#[test]
fn each_send_looks_at_the_patient_in_the_ehr_first() {
    on_each_ehr(|name, upstream| {
        type Change = fn(&mut Value);
        let table: [(u8, Change, &str); 4] = [
            (31, |patient| patient["deceasedBoolean"] = json!(true), "superseded"),
            (32, |patient| patient["active"] = json!(false), "superseded"),
            (33, |patient| patient["link"] = json!([{"other": {"reference": "Patient/survivor"}, "type": "replaced-by"}]), "superseded"),
            (34, |patient| patient["meta"]["security"] = json!([]), "rejected"),
        ];
        for (key, change, expected) in table {
            let mut gateway = Gateway::new(upstream, |receiver| Receiver { identifier_key: [key; 32], ..receiver });
            let ehr = Ehr::open(upstream, None).unwrap();
            let mut at_the_ehr = patient("p0");
            change(&mut at_the_ehr);
            at_the_ehr["meta"].as_object_mut().unwrap().retain(|_, value| *value != json!([]));
            load(&gateway, &ehr, &[patient("survivor"), at_the_ehr]);
            for resource in candidates(1) {
                gateway.push(&resource);
            }
            gateway.deliver(&ehr, 60_000);
            let expected = ["Flag", "Observation", "ResearchStudy", "ResearchSubject"]
                .map(|kind| format!("{kind} {}", if kind == "ResearchStudy" { "confirmed" } else { expected }));
            assert_eq!(gateway.states(), expected, "{name} {key}");
            let flags = gateway.items().into_iter().filter(|item| item.request.resource_type == "Flag");
            for item in flags {
                assert_eq!(gateway.runtime.block_on(ehr.find("Flag", &item.request.key)).unwrap(), [], "{name} {key}");
            }
        }
    });
}

#[test]
fn what_was_overtaken_while_it_waited_is_never_sent() {
    let server = start_stand_in();
    let ehr = Ehr::open(&server.base_url, None).unwrap();
    let mut gateway = Gateway::new(&server.base_url, |receiver| receiver);
    load(&gateway, &ehr, &candidates(1));
    for resource in candidates(1) {
        gateway.push(&resource);
    }
    gateway.decide("p0", Decided::OptOut { opted_out: true });
    gateway.deliver(&ehr, 60_000);
    assert_eq!(ours(&gateway, &ehr).into_iter().filter(|one| !one.starts_with("ResearchStudy")).count(), 0);
    assert!(gateway.items().iter().all(|item| item.subject.is_empty() || item.state == ItemState::Superseded), "{:?}", gateway.states());
}

#[test]
fn nothing_is_written_before_consent_and_enrolment_is_never_un_flagged() {
    on_each_ehr(|name, upstream| {
        let mut gateway = Gateway::new(upstream, |receiver| Receiver { write_from: WriteFrom::Consented, identifier_key: [40; 32], ..receiver });
        let ehr = Ehr::open(upstream, None).unwrap();
        load(&gateway, &ehr, &candidates(1));
        for resource in candidates(1) {
            gateway.push(&resource);
        }
        assert_eq!(gateway.items().len(), 0, "{name}: a candidate is not written");
        gateway.decide("p0", Decided::Consent { given: true });
        gateway.decide("p0", Decided::State { to: DecidedState::Enrolled });
        gateway.deliver(&ehr, 60_000);
        assert_eq!(ours(&gateway, &ehr)[..3], ["ResearchStudy active", "ResearchSubject on-study", "Flag active"], "{name}");
        // The result that counted turns out wrong: a deviation for a person, and the flag stays.
        gateway.push(&creatinine("new-0", "p0", 2, "corrected", 10, "1.0"));
        gateway.deliver(&ehr, 60_000);
        assert_eq!(ours(&gateway, &ehr)[1..3], ["ResearchSubject on-study", "Flag active"], "{name}");
        gateway.decide("p0", Decided::State { to: DecidedState::Withdrawn });
        gateway.deliver(&ehr, 60_000);
        assert_eq!(ours(&gateway, &ehr)[1..3], ["ResearchSubject off-study", "Flag inactive"], "{name}");
        assert!(gateway.states().iter().all(|state| state.ends_with("confirmed")), "{name}: {:?}", gateway.states());
    });
}

#[test]
fn a_receiver_in_shadow_is_sent_nothing_until_a_named_person_releases_it() {
    let server = start_stand_in();
    let ehr = Ehr::open(&server.base_url, None).unwrap();
    let mut gateway = Gateway::new(&server.base_url, |receiver| Receiver { mode: Mode::Shadow, ..receiver });
    load(&gateway, &ehr, &candidates(1));
    for resource in candidates(1) {
        gateway.push(&resource);
    }
    gateway.deliver(&ehr, 60_000);
    assert_eq!(gateway.states(), ["Flag shadow", "Observation shadow", "ResearchStudy shadow", "ResearchSubject shadow"]);
    assert_eq!(ours(&gateway, &ehr), [""; 0]);
    let released = gateway.pipeline.store.write_blocking(|tx| outbox::release(tx, SITE, STUDY, "Dr Lin", *NOW_MS)).unwrap();
    assert_eq!(released, 4);
    gateway.deliver(&ehr, 60_000);
    assert_eq!(gateway.states(), ALL_CONFIRMED);
}

#[test]
fn what_grew_stale_in_shadow_is_not_released() {
    let server = start_stand_in();
    let ehr = Ehr::open(&server.base_url, None).unwrap();
    let mut gateway = Gateway::new(&server.base_url, |receiver| Receiver { mode: Mode::Shadow, ..receiver });
    let mut all = candidates(2);
    // The second patient has a result of today, so that it still counts in three months.
    all[5] = creatinine("new-1", "p1", 1, "final", 0, "2.0");
    load(&gateway, &ehr, &all);
    for resource in &all {
        gateway.push(resource);
    }
    let in_shadow = |gateway: &Gateway| gateway.items().iter().filter(|item| item.state == ItemState::Shadow).count();
    assert_eq!(in_shadow(&gateway), 7, "the study, and three resources of each of two");
    // Nothing was sent or judged meanwhile; after 85 days the first one's newest result is too old to decide anything.
    gateway.now_ms += 85 * DAY_MS;
    judge::plan_for_release(&gateway.pipeline, SITE, STUDY, gateway.now_ms).unwrap();
    let now_ms = gateway.now_ms;
    let released = gateway.pipeline.store.write_blocking(|tx| outbox::release(tx, SITE, STUDY, "Dr Lin", now_ms)).unwrap();
    assert_eq!(released, 4, "{:#?}", gateway.items());
    gateway.deliver(&ehr, 60_000);
    let subjects: BTreeSet<String> =
        gateway.items().iter().filter(|item| item.state == ItemState::Confirmed).map(|item| item.subject.clone()).collect();
    assert_eq!(subjects, BTreeSet::from([String::new(), "p1".to_owned()]));
    assert_eq!(in_shadow(&gateway), 0);
}

#[test]
fn the_client_stays_with_its_own_server() {
    assert!(Ehr::open("http://ehr.example.org/fhir", None).is_err(), "plain http beyond loopback");
    assert!(Ehr::open("file:///etc/passwd", None).is_err());
    assert!(Ehr::open("https://someone@ehr.example.org/fhir", None).is_err());
    assert!(Ehr::open("https://ehr.example.org/fhir", Some("a\nb")).is_err());
    let server = start_stand_in();
    let ehr = Ehr::open(&server.base_url, Some("secret")).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for url in ["http://127.0.0.1:1/Flag", "//elsewhere.example.org/Flag", "../../healthz", "/healthz"] {
        let answer = runtime.block_on(ehr.send("PUT", url, &[], "{}"));
        assert!(matches!(answer, Err(EhrError::Refused { status: 0, .. })), "{url}: {answer:?}");
    }
    let capabilities = runtime.block_on(ehr.capabilities()).unwrap();
    assert_eq!(capabilities.fhir_version, "4.0.1");
    assert!(capabilities.software.unwrap().contains("stand-in"), "it says what it is");
}

#[test]
fn pages_that_lead_elsewhere_or_never_end_and_bodies_that_are_no_fhir_are_survived() {
    let server = start_stand_in();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let page = |next: &str| format!(r#"{{"resourceType":"Bundle","type":"searchset","link":[{{"relation":"next","url":"{next}"}}]}}"#);
    // where the next page is said to be, and how many pages are asked for
    let table = [("http://169.254.169.254/latest/meta-data", 1), ("https://127.0.0.1/ehr/fhir/Flag", 1), ("Flag?identifier=x", 2), ("COUNT", 20)];
    for (next, expected) in table {
        let proxy = proxy(&server.base_url, move |_, _, number| Fault::Body(page(&next.replace("COUNT", &format!("Flag?page={number}")))));
        let ehr = Ehr::open(&proxy.base_url, None).unwrap();
        assert_eq!(runtime.block_on(ehr.search("Flag", &[])), Ok(vec![]), "{next}");
        assert_eq!(proxy.seen.lock().unwrap().len(), expected, "{next}");
    }
    let outcome = r#"{"resourceType":"OperationOutcome","issue":[{"severity":"error","code":"transient"}]}"#;
    for body in ["<html>maintenance</html>".to_owned(), "{}".to_owned(), outcome.to_owned(), String::new(), " ".repeat(9 << 20)] {
        let proxy = proxy(&server.base_url, move |_, _, _| Fault::Body(body.clone()));
        let ehr = Ehr::open(&proxy.base_url, None).unwrap();
        // Never "it is not there": a retraction would count as done.
        assert!(matches!(runtime.block_on(ehr.read("Flag", "x")), Err(EhrError::Retry { .. })));
        assert!(matches!(runtime.block_on(ehr.find("Flag", "x")), Err(EhrError::Retry { .. })));
    }
}

#[test]
fn copies_that_somebody_else_made_are_shown_to_a_person_and_never_multiplied() {
    let server = start_stand_in();
    let ehr = Ehr::open(&server.base_url, None).unwrap();
    let mut gateway = Gateway::new(&server.base_url, |receiver| Receiver { update_creates: false, ..receiver });
    load(&gateway, &ehr, &candidates(1));
    for resource in candidates(1) {
        gateway.push(&resource);
    }
    let flag = gateway.items().into_iter().find(|item| item.request.resource_type == "Flag").unwrap();
    for _ in 0..2 {
        gateway.runtime.block_on(ehr.send("POST", "Flag", &[], &flag.request.body)).unwrap();
    }
    gateway.deliver(&ehr, 60_000);
    let item = gateway.items().into_iter().find(|item| item.id == flag.id).unwrap();
    assert_eq!(item.state, ItemState::Degraded);
    assert!(item.last_error.as_deref().unwrap().starts_with("2 copies"), "{:?}", item.last_error);
    assert_eq!(found(&gateway, &ehr, "Flag").len(), 2);
}

#[test]
fn a_flag_that_cannot_be_asked_about_is_never_called_gone() {
    let server = start_stand_in();
    let (mut gateway, ehr) = (Gateway::new(&server.base_url, |receiver| receiver), Ehr::open(&server.base_url, None).unwrap());
    load(&gateway, &ehr, &candidates(1));
    for resource in candidates(1) {
        gateway.push(&resource);
    }
    gateway.deliver(&ehr, 60_000);
    gateway.decide("p0", Decided::OptOut { opted_out: true });
    let lost_route = proxy(&server.base_url, |_, _, _| Fault::Answer(404, ""));
    gateway.deliver(&Ehr::open(&lost_route.base_url, None).unwrap(), 600_000);
    assert!(gateway.items().iter().filter(|item| item.id > 4).all(|item| item.state == ItemState::Rejected), "{:?}", gateway.states());
    for item in gateway.items() {
        gateway.pipeline.store.write_blocking(|tx| outbox::replay(tx, item.id, gateway.now_ms)).unwrap();
    }
    gateway.deliver(&ehr, 600_000);
    assert_eq!(ours(&gateway, &ehr)[1..3], ["ResearchSubject withdrawn", "Flag inactive"]);
    assert_eq!(gateway.states(), ALL_CONFIRMED);
}

/// The command, on a gateway's own folder: exit code and standard output.
fn outbox_command(gateway: &Gateway, words: &[&str]) -> (Option<i32>, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_nephrogate"));
    command.arg("outbox").arg(words[0]).arg("--dir").arg(gateway.folder.path()).args(&words[1..]);
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn the_outbox_command_lists_releases_and_replays() {
    let server = start_stand_in();
    let proxy =
        proxy(&server.base_url, |method, target, _| if is_write(method) && target.contains("/Flag") { Fault::Answer(422, "") } else { Fault::None });
    let (mut gateway, ehr, _) = behind(&server.base_url, &proxy, |receiver| Receiver { mode: Mode::Shadow, ..receiver });

    let (code, said) = outbox_command(&gateway, &["release", "--study", STUDY, "--site", SITE]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("4 items: 4 shadow") && said.contains("nothing was released"), "{said}");
    let (code, said) = outbox_command(&gateway, &["release", "--study", STUDY, "--site", SITE, "--by", "Dr Lin"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("4 items released by Dr Lin"), "{said}");

    gateway.now_ms = jiff::Timestamp::now().as_millisecond();
    gateway.deliver(&ehr, 60_000);
    let (code, said) = outbox_command(&gateway, &["list", "--format", "ndjson"]);
    assert_eq!((code, said.lines().count()), (Some(0), 4));
    for line in said.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let is_flag = line["rung"] == "flag";
        assert_eq!(line["state"], if is_flag { "rejected" } else { "confirmed" });
        assert_eq!((line["method"].as_str().unwrap(), line["body"]["identifier"][0]["value"] == line["key"]), ("PUT", true));
        assert_eq!(
            line["url"].as_str().unwrap(),
            format!("{}/{}", line["body"]["resourceType"].as_str().unwrap(), line["body"]["id"].as_str().unwrap())
        );
        assert_eq!(line["headers"]["Content-Type"], "application/fhir+json");
    }
    let (_, said) = outbox_command(&gateway, &["list", "--state", "rejected", "--format", "ndjson"]);
    let rejected: Value = serde_json::from_str(&said).unwrap();
    let number = rejected["item"].to_string();
    assert_eq!(outbox_command(&gateway, &["replay", &number]).0, Some(0));
    assert_eq!(outbox_command(&gateway, &["replay", &number]).0, Some(1), "it is planned already");
    assert_eq!(outbox_command(&gateway, &["list", "--state", "nonsense"]).0, Some(2));
    let (_, table) = outbox_command(&gateway, &["list"]);
    assert!(table.ends_with("4 items: 3 confirmed, 1 planned\n"), "{table}");
}

/// Items of the newest plan, by type.
fn newest(gateway: &Gateway, kind: &str) -> Item {
    gateway.items().into_iter().rfind(|item| item.request.resource_type == kind).unwrap()
}

#[test]
fn a_type_that_the_ehr_does_not_take_is_found_out_and_the_site_is_written_to_in_another_way() {
    let server = start_stand_in();
    let proxy = proxy(
        &server.base_url,
        |method, target, _| if is_write(method) && target.contains("/ResearchSubject") { Fault::Answer(405, "") } else { Fault::None },
    );
    let (mut gateway, ehr, _) = behind(&server.base_url, &proxy, |receiver| receiver);
    gateway.deliver(&ehr, 30_000);
    assert_eq!(newest(&gateway, "ResearchSubject").state, ItemState::Rejected);
    let findings = gateway.pipeline.store.read_blocking(|tx| receivers::findings(tx, SITE)).unwrap();
    assert_eq!(
        findings.iter().map(|finding| (finding.resource_type.as_str(), finding.kind)).collect::<Vec<_>>(),
        [("ResearchSubject", FindingKind::Unsupported)]
    );
    let ladder = gateway.pipeline.store.read_blocking(|tx| receivers::kept(tx, SITE)).unwrap().ladder.unwrap();
    assert_ne!(ladder.rung, Some(Rung::ResearchSubject));
    while 0 < judge::waiting(&gateway.pipeline, gateway.now_ms, 100).unwrap() {}
    gateway.deliver(&ehr, 60_000);
    assert_eq!(newest(&gateway, "Flag").state, ItemState::Confirmed, "{:#?}", gateway.items());
}

#[test]
fn a_hospitals_event_that_comes_back_with_our_mark_stays_an_event_of_the_study() {
    for update_creates in [true, false] {
        let server = start_stand_in();
        let ehr = Ehr::open(&server.base_url, None).unwrap();
        let mark = Annotates { note: "agreed".to_owned(), resource_type: "AdverseEvent".to_owned(), study: true, tag: false };
        let mut gateway = Gateway::new(&server.base_url, |receiver| Receiver { update_creates, annotates: vec![mark], ..receiver });
        load(&gateway, &ehr, &candidates(1));
        for resource in candidates(1) {
            gateway.push(&resource);
        }
        gateway.decide("p0", Decided::Consent { given: true });
        gateway.decide("p0", Decided::State { to: DecidedState::Enrolled });
        gateway.deliver(&ehr, 60_000);
        gateway.now_ms += DAY_MS;
        let at = jiff::Timestamp::from_millisecond(gateway.now_ms - 60_000).unwrap().to_string();
        let event = json!({"resourceType": "AdverseEvent", "id": "ae-0", "actuality": "actual", "event": {"text": "Proteinuria"},
            "subject": {"reference": "Patient/p0"}, "date": at, "recordedDate": at});
        load(&gateway, &ehr, &[event]);
        let come = |gateway: &mut Gateway| {
            let held = gateway.runtime.block_on(ehr.read("AdverseEvent", "ae-0")).unwrap().unwrap().resource;
            gateway.push(&serde_json::from_str(&held).unwrap());
            gateway.now_ms += 60_000;
            gateway.deliver(&ehr, 60_000);
            gateway.items().into_iter().filter(|item| item.request.form == Form::Fragment).collect::<Vec<Item>>()
        };
        let marks = come(&mut gateway);
        assert!(marks.len() == 1 && marks[0].state == ItemState::Confirmed, "{update_creates}: {marks:#?}");
        let again = come(&mut gateway);
        assert!(again.len() == 1 && again[0].request.purpose == Purpose::Annotate, "{update_creates}: {again:#?}");
    }
}

#[test]
fn a_mark_that_the_hospital_made_before_us_stays_and_is_no_difference() {
    let server = start_stand_in();
    let ehr = Ehr::open(&server.base_url, None).unwrap();
    let mark = Annotates { note: "agreed".to_owned(), resource_type: "Observation".to_owned(), study: true, tag: false };
    let mut gateway = Gateway::new(&server.base_url, |receiver| Receiver { annotates: vec![mark], rungs: vec![Rung::Flag], ..receiver });
    load(&gateway, &ehr, &candidates(1));
    for resource in candidates(1) {
        gateway.push(&resource);
    }
    let marks = |gateway: &Gateway| -> Vec<Item> { gateway.items().into_iter().filter(|item| item.request.form == Form::Fragment).collect() };
    for item in marks(&gateway) {
        let (kind, id) = item.request.url.split_once('/').unwrap();
        let held = gateway.runtime.block_on(ehr.read(kind, id)).unwrap().unwrap().resource;
        let already: Value = serde_json::from_str(&edit::with_fragment(&held, &item.request.body).unwrap().unwrap()).unwrap();
        load(&gateway, &ehr, &[already]);
    }
    gateway.deliver(&ehr, 60_000);
    gateway.decide("p0", Decided::OptOut { opted_out: true });
    gateway.deliver(&ehr, 60_000);
    let taken_out: Vec<Item> = marks(&gateway).into_iter().filter(|item| item.request.purpose == Purpose::Retract).collect();
    assert!(!taken_out.is_empty() && taken_out.iter().all(|item| item.state == ItemState::Confirmed), "{taken_out:#?}");
    let watch = reconcile::Watch { tell: &|_| {}, is_stopped: &|| false };
    let reconciled = reconcile::reconcile(&gateway.pipeline, &ehr, SITE, nephrogate::store::reconcile::Mode::Repair, "", gateway.now_ms, watch);
    let report = gateway.runtime.block_on(reconciled).unwrap().unwrap().report.unwrap();
    assert!(report.is_complete && report.differences.is_empty(), "{:#?}", report.differences);
    for item in &taken_out {
        let (kind, id) = item.request.url.split_once('/').unwrap();
        let held = gateway.runtime.block_on(ehr.read(kind, id)).unwrap().unwrap().resource;
        assert!(edit::has_fragment(&held, &item.request.body), "{held}");
    }
}

#[test]
fn a_study_that_was_not_sent_before_the_ladder_dropped_below_it_is_not_sent_any_more() {
    let server = start_stand_in();
    let ehr = Ehr::open(&server.base_url, None).unwrap();
    let mut gateway = Gateway::new(&server.base_url, |receiver| receiver);
    load(&gateway, &ehr, &candidates(1));
    for resource in candidates(1) {
        gateway.push(&resource);
    }
    assert_eq!(newest(&gateway, "ResearchStudy").state, ItemState::Planned);
    let finding =
        Finding { resource_type: "ResearchSubject".to_owned(), kind: FindingKind::Unsupported, detail: "405".to_owned(), found_ms: *NOW_MS };
    gateway.runtime.block_on(probe::found(&gateway.pipeline, SITE, finding)).unwrap();
    while 0 < judge::waiting(&gateway.pipeline, gateway.now_ms, 100).unwrap() {}
    gateway.deliver(&ehr, 60_000);
    assert_eq!(newest(&gateway, "ResearchStudy").state, ItemState::Superseded, "{:#?}", gateway.items());
    assert_eq!(newest(&gateway, "Flag").state, ItemState::Confirmed);
    assert_eq!(found(&gateway, &ehr, "ResearchStudy"), [] as [Value; 0]);
}

#[test]
fn a_stopped_study_is_sent_nothing_but_what_takes_something_back() {
    let server = start_stand_in();
    let ehr = Ehr::open(&server.base_url, None).unwrap();
    let mut gateway = Gateway::new(&server.base_url, |receiver| receiver);
    load(&gateway, &ehr, &candidates(2));
    for resource in &candidates(2)[..3] {
        gateway.push(resource);
    }
    gateway.deliver(&ehr, 60_000);
    assert_eq!(gateway.states(), ALL_CONFIRMED);
    let words = ["--site", SITE, "--by", "Dr Lin", "--reason", "an audit"];
    assert_eq!(outbox_command(&gateway, &[["stop"].as_slice(), &words, &["--study", STUDY]].concat()).0, Some(0));
    assert_eq!(outbox_command(&gateway, &["stop", "--site", "nowhere", "--by", "Dr Lin", "--reason", "x"]).0, Some(2));
    // The first says no; the second is new. Intake is not touched.
    gateway.decide("p0", Decided::OptOut { opted_out: true });
    for resource in &candidates(2)[3..] {
        gateway.push(resource);
    }
    gateway.deliver(&ehr, 60_000);
    let of = |subject: &str| -> Vec<ItemState> {
        gateway.items().iter().filter(|item| item.subject == subject && 4 < item.id).map(|item| item.state).collect()
    };
    assert!(!of("p0").is_empty() && of("p0").iter().all(|state| *state == ItemState::Confirmed), "{:?}", of("p0"));
    assert_eq!(of("p1"), [ItemState::Planned; 3]);
    assert_eq!(ours(&gateway, &ehr)[1..3], ["ResearchSubject withdrawn", "Flag inactive"]);
    // The whole site is another switch: its study stays stopped.
    assert_eq!(outbox_command(&gateway, &[["stop"].as_slice(), &words].concat()).0, Some(0));
    assert_eq!(outbox_command(&gateway, &[["resume"].as_slice(), &words, &["--study", STUDY]].concat()).0, Some(0));
    assert_eq!(gateway.once(&ehr, &mut Circuit::default()).claimed, 0);
    assert_eq!(outbox_command(&gateway, &[["resume"].as_slice(), &words].concat()).0, Some(0));
    gateway.deliver(&ehr, 60_000);
    assert!(gateway.items().iter().all(|item| item.state == ItemState::Confirmed || item.state == ItemState::Superseded), "{:?}", gateway.states());
    let turns = gateway.pipeline.store.read_blocking(|tx| switches::turns(tx, SITE)).unwrap();
    assert_eq!(
        turns.iter().map(|turn| (turn.is_stopped, turn.who.as_str())).collect::<Vec<_>>(),
        [(false, "Dr Lin"), (false, "Dr Lin"), (true, "Dr Lin"), (true, "Dr Lin")]
    );
}

#[test]
fn a_retraction_reaches_the_ehr_within_a_minute_even_when_its_sender_is_killed() {
    let server = start_stand_in();
    let ehr = Ehr::open(&server.base_url, None).unwrap();
    let mut gateway = Gateway::new(&server.base_url, |receiver| receiver);
    load(&gateway, &ehr, &candidates(1));
    for resource in candidates(1) {
        gateway.push(&resource);
    }
    gateway.deliver(&ehr, 60_000);
    gateway.decide("p0", Decided::OptOut { opted_out: true });
    let received_ms = gateway.now_ms;
    // Its first sender claims all of it, as a delivery does, and is killed.
    let held = gateway.pipeline.store.write_blocking(|tx| outbox::claim(tx, SITE, received_ms, received_ms + 15_000, 10)).unwrap();
    assert_eq!(held.len(), 3);
    assert_eq!(gateway.once(&ehr, &mut Circuit::default()).claimed, 0, "a lease that lives is respected");
    gateway.deliver(&ehr, 60_000);
    assert_eq!(ours(&gateway, &ehr)[1..3], ["ResearchSubject withdrawn", "Flag inactive"]);
    assert!(gateway.now_ms - received_ms < 60_000, "{} ms", gateway.now_ms - received_ms);
}

#[test]
fn a_lease_is_renewed_by_who_holds_it_and_by_nobody_else() {
    let gateway = Gateway::new("http://127.0.0.1:1", |receiver| receiver);
    for resource in candidates(1) {
        gateway.push(&resource);
    }
    let store = &gateway.pipeline.store;
    let claim = |now_ms: i64| store.write_blocking(|tx| outbox::claim(tx, SITE, now_ms, now_ms + 15_000, 1)).unwrap();
    let renew = |claimed: &outbox::Claimed, now_ms: i64| store.write_blocking(|tx| outbox::renew(tx, claimed, now_ms, now_ms + 15_000)).unwrap();
    let first = claim(*NOW_MS).remove(0);
    assert_eq!(renew(&first, *NOW_MS + 14_000), outbox::Renewed::Held);
    assert!(claim(*NOW_MS + 28_000).is_empty(), "it was renewed");
    let second = claim(*NOW_MS + 29_000).remove(0);
    assert_eq!((second.item.id, second.lease), (first.item.id, first.lease + 1));
    assert_eq!(renew(&first, *NOW_MS + 29_500), outbox::Renewed::Lost);
    assert_eq!(renew(&second, *NOW_MS + 29_500), outbox::Renewed::Held);
    store.write_blocking(|tx| outbox::supersede(tx, second.item.id)).unwrap();
    assert_eq!(renew(&second, *NOW_MS + 30_000), outbox::Renewed::Overtaken);
}

#[test]
fn a_silence_that_an_ehr_asked_for_holds_for_every_gateway_and_after_a_restart() {
    let server = start_stand_in();
    let proxy = proxy(&server.base_url, |_, _, _| Fault::Answer(429, "Retry-After: 120\r\n"));
    let (mut gateway, ehr, direct) = behind(&server.base_url, &proxy, |receiver| receiver);
    gateway.once(&ehr, &mut Circuit::default());
    gateway.now_ms += 100_000;
    assert_eq!(gateway.once(&direct, &mut Circuit::default()).claimed, 0, "another process knows of it");
    gateway.deliver(&direct, 120_000);
    assert_eq!(gateway.states(), ALL_CONFIRMED);
}

#[test]
fn what_the_hospital_added_to_our_flag_stays_when_we_change_it() {
    on_each_ehr(|name, base_url| {
        let mut gateway = Gateway::new(base_url, |receiver| Receiver { identifier_key: [77; 32], ..receiver });
        let ehr = Ehr::open(base_url, None).unwrap();
        load(&gateway, &ehr, &candidates(1));
        for resource in candidates(1) {
            gateway.push(&resource);
        }
        gateway.deliver(&ehr, 60_000);
        let item = newest(&gateway, "Flag");
        let id = item.server_id.unwrap();
        let mut flag: Value = serde_json::from_str(&gateway.runtime.block_on(ehr.read("Flag", &id)).unwrap().unwrap().resource).unwrap();
        flag["extension"].as_array_mut().map(|all| all.push(json!({"url": "http://hospital.example/seen", "valueBoolean": true}))).unwrap_or_else(
            || {
                flag["extension"] = json!([{"url": "http://hospital.example/seen", "valueBoolean": true}]);
            },
        );
        flag["period"] = json!({"start": "2026-01-01"});
        load(&gateway, &ehr, &[flag]);
        gateway.decide("p0", Decided::Consent { given: true });
        gateway.deliver(&ehr, 60_000);
        assert_eq!(newest(&gateway, "Flag").state, ItemState::Confirmed, "{name}: {:?}", newest(&gateway, "Flag").last_error);
        let flag: Value = serde_json::from_str(&gateway.runtime.block_on(ehr.read("Flag", &id)).unwrap().unwrap().resource).unwrap();
        assert!(flag["code"]["text"].as_str().unwrap().contains("in screening"), "{name}: {flag}");
        assert_eq!(flag["period"]["start"], "2026-01-01", "{name}");
        assert!(flag["extension"].as_array().unwrap().iter().any(|one| one["url"] == "http://hospital.example/seen"), "{name}");
    });
}

#[test]
fn a_mark_on_the_hospitals_own_result_comes_and_goes_and_leaves_the_result_as_it_was() {
    let server = start_stand_in();
    let ehr = Ehr::open(&server.base_url, None).unwrap();
    let mark = Annotates { note: "agreed".to_owned(), resource_type: "Observation".to_owned(), study: true, tag: true };
    let mut gateway = Gateway::new(&server.base_url, |receiver| Receiver { annotates: vec![mark], ..receiver });
    load(&gateway, &ehr, &candidates(1));
    for resource in candidates(1) {
        gateway.push(&resource);
    }
    let read = |gateway: &Gateway| gateway.runtime.block_on(ehr.read("Observation", "new-0")).unwrap().unwrap().resource;
    let before = read(&gateway);
    gateway.deliver(&ehr, 60_000);
    let fragments = |gateway: &Gateway| -> Vec<Item> { gateway.items().into_iter().filter(|item| item.request.form == Form::Fragment).collect() };
    assert!(!fragments(&gateway).is_empty(), "{:#?}", gateway.items());
    assert!(fragments(&gateway).iter().all(|item| item.state == ItemState::Confirmed), "{:#?}", fragments(&gateway));
    let fragment = fragments(&gateway).into_iter().find(|item| item.request.url == "Observation/new-0").unwrap().request.body;
    let marked = read(&gateway);
    assert!(edit::has_fragment(&marked, &fragment) && !edit::has_fragment(&before, &fragment), "{marked}");
    assert_eq!(edit::foreign_changes(&before, &marked, &fragment), [""; 0]);
    gateway.decide("p0", Decided::OptOut { opted_out: true });
    gateway.deliver(&ehr, 60_000);
    assert!(fragments(&gateway).iter().all(|item| item.state == ItemState::Confirmed), "{:#?}", fragments(&gateway));
    let after: Value = serde_json::from_str(&read(&gateway)).unwrap();
    let mut expected: Value = serde_json::from_str(&before).unwrap();
    for name in ["versionId", "lastUpdated"] {
        expected["meta"][name] = after["meta"][name].clone();
    }
    assert_eq!(after, expected);
}
