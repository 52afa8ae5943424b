//! Polling against a simulated EHR whose data moves while it is read: late commits, equal stamps, pages in every order that
//! shift under the reader, deletes that nobody tells. NEPHROGATE_SOAK=1 runs 1,000 seeds; a failure names its seed.

use std::collections::{BTreeMap, HashMap};
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

const START_MS: i64 = 1_790_000_000_000;
/// What the simulated EHR's transactions may take, and what the feed allows for.
const LATE_MAX_MS: i64 = 100_000;
const OVERLAP_SECONDS: i64 = 120;

/// SplitMix64: a few lines, and the same numbers everywhere.
struct Luck(u64);

impl Luck {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Ascending,
    NewestFirst,
    /// Neither sorted when asked nor in any order of time.
    None,
}

/// One version of one resource; without a value it is deleted.
#[derive(Clone)]
struct Version {
    number: u32,
    stamp_ms: i64,
    visible_ms: i64,
    value: Option<u64>,
}

struct Sim {
    seed: u64,
    luck: Luck,
    now_ms: i64,
    order: Order,
    filters: bool,
    resources: BTreeMap<String, Vec<Version>>,
    /// Something happens between two pages.
    moves: bool,
}

impl Sim {
    fn new(seed: u64) -> Sim {
        let mut luck = Luck(seed);
        let order = [Order::Ascending, Order::Ascending, Order::NewestFirst, Order::None][luck.below(4) as usize];
        let filters = luck.below(8) != 0;
        let mut sim = Sim { seed, luck, now_ms: START_MS, order, filters, resources: BTreeMap::new(), moves: true };
        for _ in 0..5 + sim.luck.below(20) {
            sim.happen();
        }
        sim
    }

    /// Something is created, changed or deleted: stamped to the second, visible at once or a while later.
    fn happen(&mut self) {
        let stamp_ms = self.now_ms / 1_000 * 1_000;
        let visible_ms = if self.luck.below(4) == 0 { self.now_ms + self.luck.below(LATE_MAX_MS as u64) as i64 } else { self.now_ms };
        let settled: Vec<String> = self
            .resources
            .iter()
            .filter(|(_, versions)| versions.last().is_some_and(|last| last.visible_ms <= self.now_ms && last.value.is_some()))
            .map(|(id, _)| id.clone())
            .collect();
        let value = Some(80 + self.luck.below(200));
        if settled.is_empty() || self.luck.below(3) != 0 {
            let id = format!("s{}-{}", self.seed, self.resources.len());
            self.resources.insert(id, vec![Version { number: 1, stamp_ms, visible_ms, value }]);
            return;
        }
        let id = settled[self.luck.below(settled.len() as u64) as usize].clone();
        let is_deleted = self.luck.below(5) == 0;
        let versions = self.resources.get_mut(&id).expect("it was listed");
        let number = versions.last().expect("each has a version").number + 1;
        versions.push(Version { number, stamp_ms, visible_ms, value: value.filter(|_| !is_deleted) });
    }

    fn visible(&self, id: &str) -> Option<&Version> {
        self.resources.get(id)?.iter().rev().find(|version| version.visible_ms <= self.now_ms)
    }

    fn search(&mut self, query: &HashMap<String, String>, base: &str) -> Value {
        let from_ms = query.get("_lastUpdated").map(|text| PartialDate::parse(text.strip_prefix("ge").unwrap()).unwrap().start_ms);
        let mut found: Vec<(String, Version)> = self
            .resources
            .keys()
            .filter_map(|id| Some((id.clone(), self.visible(id)?.clone())))
            .filter(|(_, version)| version.value.is_some())
            .filter(|(_, version)| !self.filters || from_ms.is_none_or(|from_ms| from_ms <= version.stamp_ms))
            .collect();
        match self.order {
            Order::Ascending => found.sort_by_key(|(id, version)| (version.stamp_ms, id.clone())),
            Order::NewestFirst => found.sort_by_key(|(id, version)| (-version.stamp_ms, id.clone())),
            Order::None => found.sort_by_key(|(id, _)| Luck(id.bytes().map(u64::from).sum::<u64>()).next()),
        }
        let count: usize = query.get("_count").map_or(50, |text| text.parse().unwrap());
        let offset: usize = query.get("offset").map_or(0, |text| text.parse().unwrap());
        let page: Vec<Value> = found.iter().skip(offset).take(count).map(|(id, version)| json!({"resource": self.resource(id, version)})).collect();
        let mut link = Vec::new();
        if offset + count < found.len() {
            let mut next: Vec<String> = query.iter().filter(|(name, _)| *name != "offset").map(|(name, value)| format!("{name}={value}")).collect();
            next.push(format!("offset={}", offset + count));
            link.push(json!({"relation": "next", "url": format!("{base}Observation?{}", next.join("&"))}));
        }
        if self.moves {
            self.now_ms += self.luck.below(3_000) as i64;
            for _ in 0..self.luck.below(3) {
                self.happen();
            }
        }
        json!({"resourceType": "Bundle", "type": "searchset", "link": link, "entry": page})
    }

    fn resource(&self, id: &str, version: &Version) -> Value {
        json!({
            "resourceType": "Observation", "id": id,
            "meta": {"versionId": version.number.to_string(), "lastUpdated": PartialDate::instant(version.stamp_ms).to_string()},
            "status": "final", "code": {"coding": [{"system": LOINC, "code": "2160-0"}]},
            "subject": {"reference": format!("Patient/p{}", self.seed)}, "effectiveDateTime": "2026-09-01T08:00:00Z",
            "valueQuantity": {"value": version.value.unwrap() as f64 / 100.0, "unit": "mg/dL", "system": "http://unitsofmeasure.org", "code": "mg/dL"}
        })
    }
}

type Sims = Arc<Mutex<HashMap<u64, Sim>>>;

async fn serve(request: HttpRequest, sims: web::Data<Mutex<HashMap<u64, Sim>>>) -> HttpResponse {
    let path: Vec<&str> = request.path().trim_matches('/').split('/').collect();
    let seed: u64 = path[0].parse().unwrap();
    let mut sims = sims.lock().unwrap();
    let sim = sims.get_mut(&seed).unwrap();
    let body = match path[1..] {
        ["Observation"] => {
            let query = web::Query::<HashMap<String, String>>::from_query(request.query_string()).unwrap().into_inner();
            sim.search(&query, &format!("http://{}/{seed}/", request.connection_info().host()))
        }
        ["Observation", id] => match sim.visible(id) {
            Some(version) if version.value.is_some() => sim.resource(id, version),
            Some(_) => return HttpResponse::Gone().finish(),
            None => return HttpResponse::NotFound().finish(),
        },
        _ => return HttpResponse::NotFound().finish(),
    };
    HttpResponse::Ok().content_type("application/fhir+json").body(body.to_string())
}

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

fn sims() -> &'static (Sims, String) {
    static SIMS: OnceLock<(Sims, String)> = OnceLock::new();
    SIMS.get_or_init(|| {
        let sims: Sims = Arc::default();
        let url = serve_with(sims.clone(), |config| {
            config.default_service(web::to(serve));
        });
        (sims, url)
    })
}

/// A store, and a feed that works on it.
struct Bench {
    pipeline: Pipeline,
    feed: Feed,
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

    fn on(store: Store, name: &str, base_url: &str, settings: Value) -> Bench {
        static CATALOGUE: OnceLock<Arc<Catalogue>> = OnceLock::new();
        let catalogue = CATALOGUE.get_or_init(|| Arc::new(Catalogue::load(None).unwrap())).clone();
        let pipeline = Pipeline { store, catalogue, receivers: Arc::new(Receivers::new()) };
        let kind = Kind::Poll { ehr: Ehr::open(base_url, None).unwrap(), settings: serde_json::from_value(settings).unwrap() };
        let feed = Feed { site: SITE.to_owned(), name: name.to_owned(), silent_after_ms: None, kind };
        feeds::register(&pipeline, std::slice::from_ref(&feed)).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Bench { pipeline, feed, seen: Seen::default(), runtime, _folder: None }
    }

    fn work(&mut self, task: &Task, now_ms: i64) -> Result<Round, Trouble> {
        let (beat, (_stop, mut stopped)) = (AtomicI64::new(0), tokio::sync::watch::channel(false));
        let beside = Beside { beat: &beat, stopped: &mut stopped, watch: &|_| {} };
        let worked = self.runtime.block_on(feeds::work(&self.pipeline, &self.feed, task, &mut self.seen, now_ms, beside));
        worked.unwrap().expect("it is the feed's turn")
    }

    fn state(&self) -> nephrogate::store::feeds::FeedState {
        let name = self.feed.name.clone();
        self.pipeline.store.read_blocking(|tx| nephrogate::store::feeds::state(tx, SITE, &name)).unwrap().unwrap()
    }

    fn version_here(&self, id: &str) -> Option<String> {
        let newest = self.pipeline.store.read_blocking(|tx| messages::newest(tx, SITE, "Observation", id)).unwrap();
        newest.map(|message| message.version.unwrap())
    }
}

fn creatinines() -> Value {
    json!({"searches": [{"type": "Observation", "query": {"category": "laboratory"}}], "page_size": 5, "every_seconds": 1, "overlap_seconds": OVERLAP_SECONDS})
}

/// What differs between the EHR as everybody can see it now and the store, deletes apart.
fn differences(bench: &Bench, seed: u64) -> (Vec<String>, Vec<String>) {
    let sims = sims().0.lock().unwrap();
    let sim = &sims[&seed];
    let (mut stale, mut undead) = (Vec::new(), Vec::new());
    for id in sim.resources.keys() {
        let there = sim.visible(id).and_then(|version| version.value.map(|_| version.number.to_string()));
        let here = bench.version_here(id);
        match (&there, &here) {
            (None, Some(_)) => undead.push(id.clone()),
            (there, here) if there != here => stale.push(format!("{id}: there {there:?}, here {here:?}")),
            (_, _) => {}
        }
    }
    (stale, undead)
}

fn now_ms(seed: u64) -> i64 {
    sims().0.lock().unwrap()[&seed].now_ms
}

fn advance(seed: u64, ms: i64, events: u64) {
    let mut sims = sims().0.lock().unwrap();
    let sim = sims.get_mut(&seed).unwrap();
    for _ in 0..events {
        sim.now_ms += ms / events.max(1) as i64;
        sim.happen();
    }
    if events == 0 {
        sim.now_ms += ms;
        sim.moves = false;
    }
}

fn run_seed(store: &Store, seed: u64) {
    let sim = Sim::new(seed);
    let order = sim.order;
    sims().0.lock().unwrap().insert(seed, sim);
    let mut bench = Bench::on(store.clone(), &format!("seed-{seed}"), &format!("{}/{seed}", sims().1), creatinines());
    for round in 0..5_u64 {
        bench.work(&Task::Round, now_ms(seed)).unwrap_or_else(|trouble| panic!("seed {seed}: {trouble}"));
        advance(seed, 60_000, 2 + (seed + round) % 4);
    }
    // All transactions end; one more round sees what they left.
    advance(seed, LATE_MAX_MS + 1_000, 0);
    let last = bench.work(&Task::Round, now_ms(seed)).unwrap();
    assert!(Some(now_ms(seed)) <= last.complete_until_ms, "seed {seed}");
    let (stale, _) = differences(&bench, seed);
    // Pages by their links lose one over the edge when something on an earlier page is deleted meanwhile (seed 235).
    if order == Order::Ascending {
        assert!(stale.is_empty(), "seed {seed}, pages {order:?}: rounds alone lost {stale:?}");
    }
    let compared = bench.work(&Task::Compare { mode: Mode::Mend, who: String::new() }, now_ms(seed)).unwrap();
    let (stale, undead) = differences(&bench, seed);
    assert!(stale.is_empty() && undead.is_empty(), "seed {seed}, pages {order:?}: after a comparison {stale:?} and {undead:?} differ");
    let report = compared.report.unwrap();
    assert!(!report.is_held_back && report.trouble.is_none(), "seed {seed}");
    let again = bench.work(&Task::Compare { mode: Mode::ReportOnly, who: String::new() }, now_ms(seed)).unwrap().report.unwrap();
    assert_eq!(again.counts, BTreeMap::new(), "seed {seed}: nothing is left to be found");
}

#[test]
fn whatever_moves_while_it_is_read_nothing_is_lost_and_after_a_comparison_nothing_differs() {
    let seeds = if std::env::var_os("NEPHROGATE_SOAK").is_some() { 1_000 } else { 60 };
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open_sqlite(&folder.path().join("store.db")).unwrap();
    for seed in 0..seeds {
        run_seed(&store, seed);
    }
    let counts = store.read_blocking(|tx| messages::conservation(tx, SITE)).unwrap();
    assert!(counts.difference == 0 && counts.rows_agree, "{counts:?}");
}

#[test]
fn without_an_overlap_the_simulated_hospital_would_lose_its_late_commits() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open_sqlite(&folder.path().join("store.db")).unwrap();
    let mut settings = creatinines();
    settings["overlap_seconds"] = json!(0);
    let lost = (10_000..10_012_u64).filter(|seed| {
        sims().0.lock().unwrap().insert(*seed, Sim::new(*seed));
        let mut bench = Bench::on(store.clone(), &format!("seed-{seed}"), &format!("{}/{seed}", sims().1), settings.clone());
        for _ in 0..4 {
            bench.work(&Task::Round, now_ms(*seed)).unwrap();
            advance(*seed, 60_000, 4);
        }
        advance(*seed, LATE_MAX_MS + 1_000, 0);
        bench.work(&Task::Round, now_ms(*seed)).unwrap();
        !differences(&bench, *seed).0.is_empty()
    });
    assert!(0 < lost.count(), "the simulation shows no loss where there must be some");
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
