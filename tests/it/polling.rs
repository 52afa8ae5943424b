//! Polling against a source that answers by a table: what it shows and refuses, what is asked of it, and what people are told.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Mutex, OnceLock};

use actix_web::{HttpRequest, HttpResponse, web};
use nephrogate::catalogue::Catalogue;
use nephrogate::clinical::date::PartialDate;
use nephrogate::ehr::Ehr;
use nephrogate::feeds::comparison::Mode;
use nephrogate::feeds::{self, Beside, Feed, Kind, Round, Seen, Task, Trouble};
use nephrogate::pipeline::{Pipeline, Receivers};
use nephrogate::store::Store;
use nephrogate::store::comparisons::Kind as Difference;
use nephrogate::store::{messages, rosters};
use serde_json::{Value, json};

use crate::gateway::{Gateway, LOINC, SITE};
use crate::import::nephrogate;

pub const START_MS: i64 = 1_790_000_000_000;
pub const OVERLAP_SECONDS: i64 = 120;

/// Serves what the handler answers on a loopback port until the test process ends.
pub fn serve_with<T: Send + Sync + 'static>(data: Arc<T>, mount: fn(&mut web::ServiceConfig)) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        actix_web::rt::System::new().block_on(async move {
            let data: web::Data<T> = web::Data::from(data);
            let server = actix_web::HttpServer::new(move || actix_web::App::new().app_data(data.clone()).configure(mount));
            server.workers(1).listen(listener).unwrap().run().await.unwrap();
        });
    });
    format!("http://{address}")
}

/// A store, and a feed that works on it.
pub struct Bench {
    pub pipeline: Pipeline,
    pub feed: Feed,
    seen: Seen,
    runtime: tokio::runtime::Runtime,
    _folder: Option<tempfile::TempDir>,
}

impl Bench {
    fn new(base_url: &str, settings: Value) -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open_sqlite(&folder.path().join("store.db")).unwrap();
        Bench { _folder: Some(folder), ..Bench::on(store, "lab", base_url, settings) }
    }

    pub fn on(store: Store, name: &str, base_url: &str, settings: Value) -> Bench {
        let kind = Kind::Poll { ehr: Ehr::open(base_url, None).unwrap(), settings: serde_json::from_value(settings).unwrap() };
        Bench::of(store, Feed { site: SITE.to_owned(), name: name.to_owned(), silent_after_ms: None, kind })
    }

    pub fn of(store: Store, feed: Feed) -> Bench {
        static CATALOGUE: OnceLock<Arc<Catalogue>> = OnceLock::new();
        let catalogue = CATALOGUE.get_or_init(|| Arc::new(Catalogue::load(None).unwrap())).clone();
        let pipeline = Pipeline { store, catalogue, receivers: Arc::new(Receivers::new()) };
        feeds::register(&pipeline, std::slice::from_ref(&feed)).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Bench { pipeline, feed, seen: Seen::default(), runtime, _folder: None }
    }

    /// What is to be done, if it is the feed's turn.
    pub fn turn(&mut self, task: &Task, now_ms: i64) -> Option<Result<Round, Trouble>> {
        let (beat, (_stop, mut stopped)) = (AtomicI64::new(0), tokio::sync::watch::channel(false));
        let beside = Beside { beat: &beat, stopped: &mut stopped, watch: &|_| {} };
        self.runtime.block_on(feeds::work(&self.pipeline, &self.feed, task, &mut self.seen, now_ms, beside)).unwrap()
    }

    pub fn work(&mut self, task: &Task, now_ms: i64) -> Result<Round, Trouble> {
        self.turn(task, now_ms).expect("it is the feed's turn")
    }

    pub fn state(&self) -> nephrogate::store::feeds::FeedState {
        let name = self.feed.name.clone();
        self.pipeline.store.read_blocking(|tx| nephrogate::store::feeds::state(tx, SITE, &name)).unwrap().unwrap()
    }

    pub fn version_here(&self, id: &str) -> Option<String> {
        let newest = self.pipeline.store.read_blocking(|tx| messages::newest(tx, SITE, "Observation", id)).unwrap();
        newest.map(|message| message.version.unwrap())
    }
}

pub fn creatinines() -> Value {
    json!({"searches": [{"type": "Observation", "query": {"category": "laboratory"}}], "page_size": 5, "every_seconds": 1, "overlap_seconds": OVERLAP_SECONDS})
}

/// What a source says to whatever has these words in its address.
struct Says {
    to: String,
    status: u16,
    body: Value,
    retry_after: Option<&'static str>,
}

/// A source that answers by a table: what was asked for, and what it says.
#[derive(Default)]
struct Table {
    answers: Mutex<Vec<Says>>,
    asked: Mutex<Vec<String>>,
}

impl Table {
    fn says(self: &Arc<Table>, to: &str, status: u16, body: Value) {
        self.answers.lock().unwrap().push(Says { to: to.to_owned(), status, body, retry_after: None });
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

/// Of a server that is there, and says nothing else of itself.
pub fn capabilities() -> Value {
    json!({"resourceType": "CapabilityStatement", "status": "active", "kind": "instance", "fhirVersion": "4.0.1", "format": ["json"], "rest": [{"mode": "server"}]})
}

/// The newest answer whose words stand in the address.
async fn answer(request: HttpRequest, table: web::Data<Table>) -> HttpResponse {
    let asked = percent(&request.uri().to_string());
    table.asked.lock().unwrap().push(asked.clone());
    let answers = table.answers.lock().unwrap();
    let Some(says) = answers.iter().rev().find(|says| asked.contains(says.to.as_str())) else {
        return HttpResponse::NotFound().finish();
    };
    let mut response = HttpResponse::build(actix_web::http::StatusCode::from_u16(says.status).unwrap());
    if let Some(seconds) = says.retry_after {
        response.insert_header(("retry-after", seconds));
    }
    match &says.body {
        Value::String(text) => response.content_type("text/html").body(text.clone()),
        body => response.content_type("application/fhir+json").body(body.to_string()),
    }
}

fn percent(text: &str) -> String {
    text.replace("%7C", "|").replace("%3A", ":").replace("%2F", "/").replace("%2C", ",")
}

fn table() -> (Arc<Table>, String) {
    let table = Arc::new(Table::default());
    table.says("/metadata", 200, capabilities());
    let url = serve_with(table.clone(), |config| {
        config.default_service(web::to(answer));
    });
    (table, format!("{url}/fhir"))
}

fn page(resources: &[Value], next: Option<&str>) -> Value {
    let link: Vec<Value> = next.iter().map(|url| json!({"relation": "next", "url": url})).collect();
    json!({"resourceType": "Bundle", "type": "searchset", "link": link, "entry": resources.iter().map(|resource| json!({"resource": resource})).collect::<Vec<_>>()})
}

fn creatinine(id: &str, patient: &str, stamp: &str) -> Value {
    json!({
        "resourceType": "Observation", "id": id, "meta": {"versionId": "1", "lastUpdated": stamp}, "status": "final",
        "code": {"coding": [{"system": LOINC, "code": "2160-0"}]}, "subject": {"reference": format!("Patient/{patient}")},
        "effectiveDateTime": "2026-09-01T08:00:00Z",
        "valueQuantity": {"value": 1.8, "unit": "mg/dL", "system": "http://unitsofmeasure.org", "code": "mg/dL"}
    })
}

#[test]
fn pages_that_lead_elsewhere_or_in_a_circle_end_a_round_with_a_word_and_not_as_if_all_were_seen() {
    let (source, url) = table();
    let mut bench = Bench::new(&url, json!({"searches": [{"type": "Observation"}], "sort": false}));
    let one = creatinine("a", "p", "2026-09-01T08:00:00Z");
    for (next, says) in
        [("https://elsewhere.example/fhir/Observation?page=2".to_owned(), "another server"), (format!("{url}/Observation?page=2"), "in a circle")]
    {
        source.says("/Observation", 200, page(std::slice::from_ref(&one), Some(&next)));
        let trouble = bench.work(&Task::Round, START_MS).unwrap_err();
        assert!(matches!(trouble, Trouble::Person { .. }) && trouble.to_string().contains(says), "{trouble}");
        let state = bench.state();
        assert!(state.needs_person && state.complete_until_ms.is_none() && state.trouble.unwrap().contains(says));
        assert_eq!(bench.version_here("a").as_deref(), Some("1"), "what was read is kept");
        bench.pipeline.store.write_blocking(|tx| nephrogate::store::feeds::ask(tx, SITE, "lab", START_MS)).unwrap();
    }
}

#[test]
fn a_server_whose_next_page_must_not_be_gone_to_is_not_known_to_hold_test_patients_alone() {
    let (source, url) = table();
    let label = json!({"security": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": "HTEST"}]});
    let patient = [json!({"resourceType": "Patient", "id": "a", "meta": label})];
    let ehr = Ehr::open(&url, None).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for (next, only_test_patients) in [(None, true), (Some("https://elsewhere.example/fhir/Patient?page=2"), false)] {
        source.says("/Patient", 200, page(&patient, next));
        assert_eq!(runtime.block_on(ehr.holds_only_test_patients()), Ok(only_test_patients));
    }
}

#[test]
fn a_source_that_cannot_answer_is_left_alone_for_as_long_as_it_asks() {
    let (source, url) = table();
    let mut bench = Bench::new(&url, creatinines());
    source.answers.lock().unwrap().push(Says { to: "/Observation".into(), status: 429, body: json!({}), retry_after: Some("600") });
    let trouble = bench.work(&Task::Round, START_MS).unwrap_err();
    assert!(matches!(trouble, Trouble::Later { after_ms: Some(600_000), .. }), "{trouble:?}");
    let state = bench.state();
    assert!(START_MS + 600_000 <= state.next_attempt_ms && state.failures == 1 && !state.needs_person);
    // A proxy's page in place of FHIR says nothing about the data.
    source.says("/Observation", 200, Value::String("<html>maintenance</html>".into()));
    let trouble = bench.work(&Task::Round, state.next_attempt_ms).unwrap_err();
    assert!(matches!(trouble, Trouble::Later { .. }), "{trouble:?}");
    source.says("/Observation", 200, page(&[], None));
    let now_ms = bench.state().next_attempt_ms;
    bench.work(&Task::Round, now_ms).unwrap();
    let state = bench.state();
    assert_eq!((state.failures, state.trouble), (0, None));
    assert!(Some(now_ms) <= state.complete_until_ms);
}

#[test]
fn a_source_that_refuses_to_sort_or_to_be_asked_by_time_is_read_all_the_same() {
    let (source, url) = table();
    let settings = json!({"searches": [
        {"type": "Observation", "each": {"category": ["laboratory", "vital-signs"]}, "elements": ["code", "valueQuantity"]},
        {"type": "Condition", "date_lookback_days": 30}
    ]});
    let mut bench = Bench::new(&url, settings);
    source.says("/Observation", 200, page(&[creatinine("a", "p", "2026-09-01T08:00:00Z")], None));
    source.says("_sort", 400, json!({"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": "invalid"}]}));
    source.says("/Condition", 200, page(&[], None));
    bench.work(&Task::Round, START_MS).unwrap();
    let asked = source.asked();
    assert!(asked.iter().any(|asked| asked.contains("category=laboratory") && asked.contains("_elements=code,valueQuantity")), "{asked:?}");
    assert!(asked.iter().any(|asked| asked.contains("category=vital-signs") && !asked.contains("_sort")), "{asked:?}");
    assert!(
        asked.iter().any(|asked| asked.contains("/Condition?") && asked.contains("recorded-date=ge2026-08-22") && !asked.contains("_lastUpdated")),
        "{asked:?}"
    );
    let now_ms = bench.state().next_attempt_ms;
    bench.work(&Task::Round, now_ms).unwrap();
    assert!(source.asked().iter().any(|asked| asked.contains("_lastUpdated=ge2026-09-21T")), "the next round asks for what is new");
}

#[test]
fn a_page_in_order_by_chance_is_not_taken_for_a_source_that_sorts() {
    let at = |second: u32| format!("2026-09-01T08:00:0{second}Z");
    let (one, two) = (creatinine("a", "p", &at(1)), creatinine("b", "p", &at(2)));
    // Newest first: the same order as ever; as new as the first page; newer than that, which only a source that sorts shows.
    for (newest, is_sorted) in [(&one, false), (&two, false), (&creatinine("c", "p", &at(3)), true)] {
        let (source, url) = table();
        let mut bench = Bench::new(&url, creatinines());
        source.says("/Observation", 200, page(&[one.clone(), two.clone()], Some(&format!("{url}/Observation?page=2"))));
        source.says("_sort=-_lastUpdated", 200, page(std::slice::from_ref(newest), None));
        source.says("_lastUpdated=ge2026-09-01T08:00:02Z", 200, page(&[two.clone(), creatinine("c", "p", &at(3))], None));
        source.says("page=2", 200, page(&[creatinine("older", "p", &at(0))], None));
        bench.work(&Task::Round, START_MS).unwrap();
        let asked = source.asked();
        assert_eq!(asked.iter().any(|asked| asked.contains("_lastUpdated=ge")), is_sorted, "{asked:?}");
        assert_eq!((bench.version_here("older").is_some(), bench.version_here("c").is_some()), (!is_sorted, is_sorted), "{asked:?}");
        assert_eq!(asked.iter().filter(|asked| asked.contains("_sort=-_lastUpdated")).count(), 1, "{asked:?}");
    }
}

#[test]
fn what_is_shown_again_in_the_same_bytes_is_no_message() {
    let (source, url) = table();
    let mut bench = Bench::new(&url, creatinines());
    source.says("/Observation", 200, page(&[creatinine("a", "p", "2026-09-01T08:00:00Z"), json!({"resourceType": "Observation", "id": "b"})], None));
    let first = bench.work(&Task::Round, START_MS).unwrap();
    assert_eq!((first.shown, first.taken, first.rejected), (2, 2, 1));
    let now_ms = bench.state().next_attempt_ms;
    let again = bench.work(&Task::Round, now_ms).unwrap();
    assert_eq!((again.shown, again.taken), (2, 0));
    assert_eq!(bench.state().received, 2);
    // A gateway that was started anew has forgotten: then they are duplicates, and counted as such.
    bench.seen = Seen::default();
    let now_ms = bench.state().next_attempt_ms;
    assert_eq!(bench.work(&Task::Round, now_ms).unwrap().taken, 2);
    assert!(bench.pipeline.store.read_blocking(|tx| messages::conservation(tx, SITE)).unwrap().rows_agree);
}

#[test]
fn a_roster_is_asked_about_patient_by_patient_and_says_whom_nobody_asks_about() {
    let (source, url) = table();
    let settings = json!({"searches": [{"type": "Observation", "query": {"category": "laboratory"}}], "roster": {"groups": ["trial"], "searches": [{"type": "Appointment"}]}});
    let mut bench = Bench::new(&url, settings);
    source.says("/Observation", 200, page(&[creatinine("stray", "unlisted", "2026-09-01T08:00:00Z")], None));
    source.says("/Appointment", 200, page(&[json!({"resourceType": "Appointment", "status": "booked", "participant": [{"actor": {"reference": "Patient/c"}}, {"actor": {"reference": "Practitioner/x"}}]})], None));
    source.says("/Group/trial", 200, json!({"resourceType": "Group", "id": "trial", "type": "person", "actual": true, "member": [
        {"entity": {"reference": "Patient/a"}}, {"entity": {"reference": format!("{url}/Patient/b")}}, {"entity": {"reference": "Patient/gone"}, "inactive": true}]}));
    for patient in ["a", "c"] {
        source.says(&format!("patient={patient}"), 200, page(&[creatinine(&format!("of-{patient}"), patient, "2026-09-01T08:00:00Z")], None));
    }
    source.says("patient=b", 403, json!({"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": "forbidden"}]}));
    let round = bench.work(&Task::Round, START_MS).unwrap();
    assert_eq!(round.taken, 2);
    // Somebody whom the hospital pushed, and whom the roster does not list.
    bench
        .pipeline
        .store
        .write_blocking(|tx| {
            let site = &bench.pipeline.catalogue.sites[SITE];
            let pushed = creatinine("pushed", "unlisted", "2026-09-01T08:00:00Z").to_string();
            nephrogate::store::ledger::commit(
                tx,
                SITE,
                "push",
                START_MS,
                &[nephrogate::pipeline::receive::prepare(&bench.pipeline.catalogue, site, pushed.as_bytes())],
            )
        })
        .unwrap();
    let standing = bench.pipeline.store.read_blocking(|tx| rosters::standing(tx, SITE, "lab")).unwrap();
    assert_eq!((standing.listed, standing.not_asked, standing.refused, standing.unseen), (3, 0, 1, 1));
    assert!(standing.complete_until_ms.is_some_and(|ms| (START_MS..START_MS + 60_000).contains(&ms)));
    // Refused about everybody, it is the question that is refused.
    source.says("patient=", 403, json!({}));
    let now_ms = bench.state().next_attempt_ms;
    assert!(matches!(bench.work(&Task::Round, now_ms), Err(Trouble::Person { .. })));
}

#[test]
fn a_patient_about_whom_a_source_refused_for_a_while_is_asked_about_from_where_that_began() {
    let (source, url) = table();
    let settings = json!({"searches": [{"type": "Observation"}], "overlap_seconds": 0, "roster": {"searches": [{"type": "Appointment"}]}});
    let mut bench = Bench::new(&url, settings);
    let participant: Vec<Value> = ["a", "b"].iter().map(|id| json!({"actor": {"reference": format!("Patient/{id}")}})).collect();
    source.says("/Appointment", 200, page(&[json!({"resourceType": "Appointment", "status": "booked", "participant": participant})], None));
    for patient in ["a", "b"] {
        source.says(&format!("patient={patient}"), 200, page(&[creatinine(&format!("of-{patient}"), patient, "2026-09-01T08:00:00Z")], None));
    }
    bench.work(&Task::Round, START_MS).unwrap();
    let first_ms = bench.state().complete_until_ms.unwrap();
    source.says("patient=b", 403, json!({}));
    for minute in 1..3 {
        bench.work(&Task::Round, START_MS + minute * 300_000).unwrap();
    }
    // A comparison asks about everybody else, and says of whom it could not.
    let report = bench.work(&Task::Compare { mode: Mode::ReportOnly, who: String::new() }, START_MS + 700_000).unwrap().report.unwrap();
    assert_eq!((report.trouble, report.counts, report.as_expected), (None, BTreeMap::from([(Difference::Refused, 1)]), 1));
    source.says("patient=b", 200, page(&[], None));
    source.asked();
    bench.work(&Task::Round, START_MS + 900_000).unwrap();
    let from = source.asked().into_iter().find(|asked| asked.contains("patient=b")).unwrap();
    let since = from.split("_lastUpdated=ge").nth(1).unwrap().split('&').next().unwrap().to_owned();
    assert!((first_ms - 10_000..=first_ms + 10_000).contains(&PartialDate::parse(&since).unwrap().start_ms), "{since}");
}

#[test]
fn a_comparison_asks_without_the_lookback_of_a_feed() {
    let (source, url) = table();
    let settings = json!({"searches": [{"type": "Observation", "query": {"category": "laboratory"}, "date_lookback_days": 30}]});
    let mut bench = Bench::new(&url, settings);
    source.says("/Observation?", 200, page(&[creatinine("old", "p", "2020-09-01T08:00:00Z")], None));
    source.says("date=ge", 200, page(&[], None));
    bench.work(&Task::Round, START_MS).unwrap();
    assert_eq!(bench.version_here("old"), None);
    let report = bench.work(&Task::Compare { mode: Mode::Mend, who: String::new() }, START_MS + 1).unwrap().report.unwrap();
    assert_eq!((report.counts, bench.version_here("old").as_deref()), (BTreeMap::from([(Difference::Missing, 1)]), Some("1")));
}

#[test]
fn what_a_proxy_says_is_gone_is_not_withdrawn_and_what_was_withdrawn_is_told_where_it_is_shown() {
    let (source, url) = table();
    let mut bench = Bench::new(&url, creatinines());
    source.says("/Observation?", 200, page(&[creatinine("a", "p", "2026-09-01T08:00:00Z")], None));
    bench.work(&Task::Round, START_MS).unwrap();
    source.says("/Observation?", 200, page(&[], None));
    source.says("/Observation/a", 404, Value::String("<html>no such page</html>".into()));
    source.says("/metadata", 404, Value::String("<html>no such page</html>".into()));
    let compare = |bench: &mut Bench, mode: Mode, at_ms: i64| bench.work(&Task::Compare { mode, who: String::new() }, at_ms);
    assert!(matches!(compare(&mut bench, Mode::Mend, START_MS + 1), Err(Trouble::Later { .. })));
    let fetched = bench.work(&Task::Fetch { resources: vec![("Observation".into(), "a".into())] }, START_MS + 2);
    assert!(fetched.unwrap_err().to_string().contains("does not show its CapabilityStatement"));
    assert_eq!(bench.version_here("a").as_deref(), Some("1"));
    source.says("/metadata", 200, capabilities());
    compare(&mut bench, Mode::Mend, START_MS + 3).unwrap();
    assert_eq!(bench.version_here("a"), None);
    source.says("/Observation?", 200, page(&[creatinine("a", "p", "2026-09-01T08:00:00Z")], None));
    let report = compare(&mut bench, Mode::Mend, START_MS + 4).unwrap().report.unwrap();
    assert_eq!((report.counts, report.as_expected), (BTreeMap::from([(Difference::Withdrawn, 1)]), 0));
}

#[test]
fn a_larger_page_that_cannot_be_had_is_done_without() {
    let (source, url) = table();
    let mut bench = Bench::new(&url, creatinines());
    let of = |number: u32| creatinine(&format!("o{number}"), "p", "2026-09-01T08:00:00Z");
    source.says("_count=5", 200, page(&[of(1), of(2), of(3), of(4), of(5)], Some(&format!("{url}/Observation?page=2"))));
    source.says("_count=20", 503, json!({}));
    source.says("_sort=-", 200, page(&[of(1)], None));
    source.says("page=2", 200, page(&[of(6)], None));
    bench.work(&Task::Round, START_MS).unwrap();
    assert!((1..=6).all(|number| bench.version_here(&format!("o{number}")).is_some()), "{:?}", source.asked());
}

#[test]
fn the_command_line_names_whom_a_roster_leaves_out() {
    let (source, url) = table();
    source.says("/Observation?", 200, page(&[creatinine("of-a", "a", "2026-09-01T08:00:00Z")], None));
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(at("patients.txt"), "a\n").unwrap();
    let feeds = json!([{"name": "sweep", "note": "n", "poll": {"searches": [{"type": "Observation"}], "roster": {"file": "patients.txt"}}}]);
    let text = json!({"listen": "127.0.0.1:0", "store": {"sqlite_dir": "store"}, "sites": [{"site": SITE, "note": "n", "source": {"base_url": url}, "feeds": feeds}]});
    std::fs::write(at("gateway.json"), text.to_string()).unwrap();
    let unseen = || nephrogate(&["feed", "unseen", "--site", SITE, "--feed", "sweep", "--config", &at("gateway.json")]).output().unwrap();
    let before = unseen();
    assert!(before.status.code() == Some(2) && String::from_utf8_lossy(&before.stderr).contains("has not made it yet"), "{before:?}");
    let ran = nephrogate(&["feed", "run", "--site", SITE, "--feed", "sweep", "--config", &at("gateway.json")]).output().unwrap();
    assert!(ran.status.success(), "{ran:?}");
    std::fs::write(at("pushed.ndjson"), creatinine("of-b", "b", "2026-09-01T08:00:00Z").to_string()).unwrap();
    let imported = nephrogate(&["import", "--site", SITE, "--dir", &at("store"), &at("pushed.ndjson")]).output().unwrap();
    assert!(imported.status.success(), "{imported:?}");
    assert_eq!(String::from_utf8_lossy(&unseen().stdout), "b\n");
}

#[test]
fn a_source_that_has_lost_much_is_not_believed_without_a_person() {
    let (source, url) = table();
    let mut bench = Bench::new(&url, creatinines());
    let all: Vec<Value> = (0..30).map(|number| creatinine(&format!("o{number}"), "p", "2026-09-01T08:00:00Z")).collect();
    source.says("/Observation", 200, page(&all, None));
    bench.work(&Task::Round, START_MS).unwrap();
    source.says("/Observation/o", 404, json!({}));
    source.says("/Observation?", 200, page(&all[..5], None));
    let held_back = bench.work(&Task::Compare { mode: Mode::Mend, who: String::new() }, START_MS + 1).unwrap();
    let report = held_back.report.unwrap();
    assert!(report.is_held_back && report.counts[&Difference::Deleted] == 25 && held_back.withdrawn == 0);
    assert_eq!(bench.version_here("o9").as_deref(), Some("1"));
    let insisted = bench.work(&Task::Compare { mode: Mode::Insist, who: "Dr. B".into() }, START_MS + 2).unwrap();
    assert_eq!((insisted.withdrawn, bench.version_here("o9"), bench.version_here("o1").as_deref()), (25, None, Some("1")));
    // One command reads some of them anew.
    source.says("/Observation/o9", 200, {
        let mut back = creatinine("o9", "p", "2026-09-02T08:00:00Z");
        back["meta"]["versionId"] = json!("3");
        back
    });
    let fetched = bench
        .work(&Task::Fetch { resources: vec![("Observation".into(), "o9".into()), ("Observation".into(), "o10".into())] }, START_MS + 3)
        .unwrap();
    assert_eq!((fetched.taken, bench.version_here("o9").as_deref()), (1, Some("3")));
}

fn config(url: &str, feeds: Value) -> (tempfile::TempDir, Result<nephrogate::config::Config, Vec<nephrogate::catalogue::Fault>>) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.json");
    let text = json!({"listen": "127.0.0.1:0", "store": {"sqlite_dir": "store"}, "sites": [{"site": SITE, "note": "a test", "source": {"base_url": url}, "feeds": feeds}]});
    std::fs::write(&file, text.to_string()).unwrap();
    let read = nephrogate::config::Config::read(&file);
    (folder, read)
}

#[test]
fn a_configured_feed_goes_round_by_itself_and_is_shown_to_people_and_machines() {
    let (source, url) = table();
    let stamp = PartialDate::instant(jiff::Timestamp::now().as_millisecond() / 1_000 * 1_000).to_string();
    source.says("/Observation?", 200, page(&[creatinine("a", "p", &stamp)], None));
    source.says("/Condition?", 200, page(&[], None));
    let feeds = json!([
        {"name": "lab", "note": "n", "silent_after_minutes": 60, "poll": {"searches": [{"type": "Observation"}]}},
        {"name": "refused", "note": "n", "poll": {"searches": [{"type": "Patient"}]}},
    ]);
    source.says(
        "/Patient?",
        403,
        json!({"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": "forbidden", "diagnostics": "Jane Doe"}]}),
    );
    let (_folder, config) = config(&url, feeds);
    let config = config.unwrap_or_else(|faults| panic!("{faults:?}"));
    let gateway = Gateway::start_with(|settings| settings.feeds = config.feeds().unwrap());
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let shown = loop {
        let shown = gateway.get(&format!("/api/sites/{SITE}/feeds")).json();
        let has_failed = shown["feeds"][1]["failures"].as_i64().is_some_and(|failures| 0 < failures);
        if has_failed && !shown["feeds"][0]["complete_until_ms"].is_null() {
            break shown;
        }
        assert!(std::time::Instant::now() < deadline, "{shown}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    };
    assert_eq!((shown["feeds"][0]["feed"].as_str(), shown["feeds"][0]["received"].as_i64()), (Some("lab"), Some(1)));
    assert_eq!(shown["feeds"][1]["needs_person"], true);
    assert!(!shown.to_string().contains("Jane"), "what a source says about a patient is not repeated");
    let page = gateway.get("/feeds").text();
    for words in ["lab", "needs a person", "goes round", "the EHR refused it: 403", "forbidden"] {
        assert!(page.to_lowercase().contains(&words.to_lowercase()), "{words} is missing in {page}");
    }
    assert_eq!(gateway.get(&format!("/fhir/{SITE}/Observation/a")).status, 200);
}

#[test]
fn faults_of_configured_feeds_are_told_by_their_place() {
    let poll = json!({"searches": [{"type": "Observation"}]});
    for (feeds, path) in [
        (json!([{"name": "lab", "note": "n"}]), "/sites/0/feeds/0"),
        (json!([{"name": "push", "note": "n", "poll": poll}]), "/sites/0/feeds/0/name"),
        (json!([{"name": "lab", "note": "n", "poll": poll}, {"name": "lab", "note": "n", "poll": poll}]), "/sites/0/feeds/1/name"),
        (json!([{"name": "lab", "note": "n", "poll": {"searches": []}}]), "/sites/0/feeds/0/poll/searches"),
        (json!([{"name": "lab", "note": "n", "poll": {"searches": [{"type": "observation"}]}}]), "/sites/0/feeds/0/poll/searches/0/type"),
    ] {
        let faults = config("http://127.0.0.1:1/fhir", feeds).1.expect_err("it is at fault");
        assert!(faults.iter().any(|fault| fault.path == path), "{path}: {faults:?}");
    }
}
