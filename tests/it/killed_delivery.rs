//! Kill -9 in the middle of the delivery to a real FHIR server: the gateway's own process, started and killed again and
//! again while the feed goes on. At the end the server is asked by a plain HTTP client: each resource stands there once,
//! and says what was planned last. Three kills by default, fifty with NEPHROGATE_SOAK=1.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nephrogate::fhir::edit;
use nephrogate::store::outbox::{self, Item, ItemState};
use nephrogate::store::{FILE_NAME, Store};
use nephrogate::writeback::Purpose;
use reqwest::header::CONTENT_TYPE;
use serde_json::Value;

use super::counterparts::start_sekmet;
use super::crash::{draw, seed};
use super::deliver::{SITE, STUDY, creatinine, patient};
use super::import::{conservation, nephrogate};
use super::intake::copy_folder;
use super::quirks::ours;
use super::quirks::stub::Stub;

const IDENTIFIER_SYSTEM: &str = "urn:nephrogate:write-back";
const WRITTEN_TYPES: [&str; 4] = ["ResearchStudy", "ResearchSubject", "Flag", "Observation"];
/// As the delivery has it: what a killed sender held is free again after this time.
const LEASE_MS: i64 = 15_000;

fn kills() -> usize {
    if std::env::var_os("NEPHROGATE_SOAK").is_some_and(|value| value == "1") { 50 } else { 3 }
}

/// A plain HTTP client, for both servers.
struct Http {
    client: reqwest::Client,
    runtime: tokio::runtime::Runtime,
}

impl Http {
    fn new() -> Http {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        // Nobody watches idle connections between two requests, so none is kept.
        let client = reqwest::Client::builder().timeout(Duration::from_secs(20)).pool_max_idle_per_host(0).build().unwrap();
        Http { client, runtime }
    }

    /// Status of a PUT; `None` where no answer came.
    fn put(&self, base_url: &str, resource: &Value) -> Option<u16> {
        let url = format!("{base_url}/{}", place(resource));
        let request = self.client.put(url).header(CONTENT_TYPE, "application/fhir+json").body(resource.to_string());
        self.runtime.block_on(async { request.send().await.ok().map(|answer| answer.status().as_u16()) })
    }

    fn get(&self, url: &str) -> String {
        self.runtime.block_on(async { self.client.get(url).send().await.unwrap().error_for_status().unwrap().text().await.unwrap() })
    }

    /// Every resource of a type.
    fn all(&self, base_url: &str, kind: &str) -> Vec<Value> {
        self.search(format!("{base_url}/{kind}?_count=200"))
    }

    /// What a search finds, on all its pages.
    fn search(&self, url: String) -> Vec<Value> {
        let mut all = Vec::new();
        let mut next = Some(url);
        while let Some(url) = next.take() {
            let bundle: Value = serde_json::from_str(&self.get(&url)).unwrap();
            all.extend(bundle["entry"].as_array().into_iter().flatten().map(|entry| entry["resource"].clone()));
            next = bundle["link"]
                .as_array()
                .into_iter()
                .flatten()
                .find(|link| link["relation"] == "next")
                .map(|link| link["url"].as_str().unwrap().to_owned());
        }
        all
    }
}

fn place(resource: &Value) -> String {
    format!("{}/{}", resource["resourceType"].as_str().unwrap(), resource["id"].as_str().unwrap())
}

/// A gateway's process that does not outlive its test.
struct Process {
    child: Child,
    /// FHIR base of the site.
    fhir: String,
    started_ms: i64,
}

impl Drop for Process {
    fn drop(&mut self) {
        // SIGKILL, by its own id.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

fn serve(config: &Path) -> Process {
    serve_until(config, None)
}

/// A gateway that dies where it is told to: the n-th time that it passes a named point of the delivery.
fn serve_until(config: &Path, stop_at: Option<&str>) -> Process {
    let started_ms = now_ms();
    let mut command = nephrogate(&["serve", "--config", config.to_str().unwrap()]);
    command.envs(stop_at.map(|at| ("NEPHROGATE_STOP_AT", at)));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let url = line.trim().strip_prefix("listening on ").unwrap_or_else(|| panic!("serve said {line:?}"));
    Process { fhir: format!("{url}/fhir/{SITE}"), child, started_ms }
}

/// The demo's hospital with its EHR at `base_url`.
fn configure(folder: &Path, base_url: &str, update_creates: bool) -> PathBuf {
    let mappings = folder.join("catalogue/mappings").join(SITE);
    copy_folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("mappings").join(SITE), &mappings);
    let receiver = std::fs::read_to_string(mappings.join("receiver.json")).unwrap();
    assert!(receiver.contains("\"update_creates\": true"));
    let receiver = receiver.replace("\"update_creates\": true", &format!("\"update_creates\": {update_creates}"));
    std::fs::write(mappings.join("receiver.json"), receiver).unwrap();
    std::fs::write(folder.join("key"), "sixteen characters and more").unwrap();
    let config = folder.join("config.json");
    let text = format!(
        r#"{{"listen": "127.0.0.1:0", "store": {{"sqlite_dir": "store"}}, "catalogue_dir": "catalogue", "sites": [{{"site": "{SITE}",
            "note": "a test of crashes", "receiver": {{"base_url": "{base_url}", "identifier_key_file": "key"}}}}]}}"#
    );
    std::fs::write(&config, text).unwrap();
    config
}

/// Items that a sender holds which started after `since_ms`.
fn in_hand(store: &Path, since_ms: i64) -> Vec<i64> {
    let connection = rusqlite::Connection::open(store).unwrap();
    connection.busy_timeout(Duration::from_secs(5)).unwrap();
    let mut asked = connection.prepare("SELECT item FROM outbox WHERE state IN ('planned', 'sent') AND $1 < lease_until_ms").unwrap();
    asked.query_map([since_ms + LEASE_MS], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
}

fn items(store: &Path) -> Vec<Item> {
    Store::open_sqlite(store).unwrap().read_blocking(|tx| outbox::list(tx, None, None)).unwrap()
}

/// Waits until the question is answered with yes.
#[track_caller]
fn wait_until(limit: Duration, what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + limit;
    while !is_so() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What the hospital's laboratory sends: one creatinine for each patient, corrected again and again. A resource that
/// was not acknowledged is sent again, as a feed does.
struct Feed {
    /// Version and value of each patient's newest result; 2.0 makes a candidate, 1.0 does not.
    newest: Vec<(u32, &'static str)>,
    unacknowledged: Vec<Value>,
    /// Newest acknowledged text by place.
    acknowledged: BTreeMap<String, Value>,
    count: usize,
}

impl Feed {
    fn resource(&self, number: usize) -> Value {
        let (version, mg_dl) = self.newest[number];
        let status = if version == 1 { "final" } else { "corrected" };
        creatinine(&format!("new-{number}"), &format!("p{number}"), version, status, 10, mg_dl)
    }

    /// The next results: patients who are new, then corrections of random ones.
    fn next(&mut self, seed: &mut u64) {
        for _ in 0..4 {
            let number = self.newest.len();
            let id = format!("p{number}");
            self.newest.push((1, "2.0"));
            self.unacknowledged.extend([patient(&id), creatinine(&format!("old-{number}"), &id, 1, "final", 130, "2.1"), self.resource(number)]);
        }
        for _ in 0..4 {
            let number = draw(seed, self.newest.len() as u64) as usize;
            let (version, mg_dl) = self.newest[number];
            self.newest[number] = (version + 1, if mg_dl == "2.0" { "1.0" } else { "2.0" });
            self.unacknowledged.push(self.resource(number));
        }
    }

    /// Sends what waits until all is acknowledged or nobody answers.
    fn send(&mut self, http: &Http, fhir: &str, is_killed: &AtomicBool) {
        while !self.unacknowledged.is_empty() && !is_killed.load(Ordering::Relaxed) {
            match http.put(fhir, &self.unacknowledged[0]) {
                Some(200 | 201) => {
                    let resource = self.unacknowledged.remove(0);
                    self.acknowledged.insert(place(&resource), resource);
                    self.count += 1;
                }
                Some(status) => panic!("{status} for {}", self.unacknowledged[0]),
                None => return,
            }
        }
    }
}

/// The delivery survives its kills; with `update_creates` we choose the ids at the EHR, otherwise it does.
fn kill_in_mid_delivery(update_creates: bool) {
    let Some(ehr) = start_sekmet() else { return };
    let folder = tempfile::tempdir().unwrap();
    let config = configure(folder.path(), &ehr.base_url, update_creates);
    let store = folder.path().join("store").join(FILE_NAME);
    let http = Http::new();
    let mut seed = seed();
    let mut feed = Feed { newest: Vec::new(), unacknowledged: Vec::new(), acknowledged: BTreeMap::new(), count: 0 };
    let (mut killed_in_hand, mut items_in_hand, mut arrived_unrecorded) = (0, 0, 0);
    // A kill may come when nothing is under way; only those in mid-delivery count.
    let mut all_kills = 0;
    while killed_in_hand < kills() && all_kills < 4 * kills() {
        all_kills += 1;
        let before = feed.unacknowledged.len();
        feed.next(&mut seed);
        // The EHR holds what its laboratory sends.
        for resource in &feed.unacknowledged[before..] {
            let status = http.put(&ehr.base_url, resource);
            assert!(matches!(status, Some(200 | 201)), "{status:?} for {resource}");
        }
        let mut process = serve(&config);
        let is_killed = AtomicBool::new(false);
        let patience = Duration::from_millis(draw(&mut seed, 600));
        std::thread::scope(|scope| {
            let feeding = scope.spawn(|| feed.send(&Http::new(), &process.fhir, &is_killed));
            // A moment of the delivery, not of the start: until something is under way, then a little longer.
            // Where that went by unseen, the kill does not count.
            let deadline = Instant::now() + Duration::from_secs(20);
            while in_hand(&store, process.started_ms).is_empty() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(2));
            }
            std::thread::sleep(patience);
            is_killed.store(true, Ordering::Relaxed);
            // By its own id; the feed's open request breaks off.
            std::process::Command::new("kill").args(["-KILL", &process.child.id().to_string()]).status().unwrap();
            feeding.join().unwrap();
        });
        process.child.wait().unwrap();
        let held = in_hand(&store, process.started_ms);
        killed_in_hand += usize::from(!held.is_empty());
        items_in_hand += held.len();
        for item in items(&store).iter().filter(|item| held.contains(&item.id)) {
            let kind = &item.request.resource_type;
            let stands = http.all(&ehr.base_url, kind);
            let there = found(&stands, &item.request.key);
            let is_there = |resource: &&Value| edit::missing(&item.request.body, &resource.to_string()).is_empty();
            arrived_unrecorded += usize::from(!item.request.body.is_empty() && there.into_iter().any(|resource| is_there(&resource)));
        }
    }

    // The last one lives until nothing waits; what the killed ones held is free again after its lease.
    let process = serve(&config);
    feed.send(&http, &process.fhir, &AtomicBool::new(false));
    assert_eq!(feed.unacknowledged, Vec::<Value>::new());
    let is_pending = |item: &Item| matches!(item.state, ItemState::Planned | ItemState::Sent);
    wait_until(Duration::from_secs(400), "everything is delivered", || !items(&store).iter().any(is_pending));
    for (place, resource) in &feed.acknowledged {
        assert_eq!(http.get(&format!("{}/{place}", process.fhir)), resource.to_string(), "{place} was acknowledged and is lost");
    }
    drop(process);
    let counts = conservation(store.parent().unwrap(), SITE);
    assert!(feed.count as i64 <= counts.received, "{} acknowledged, {counts:?}", feed.count);
    assert_eq!(feed.acknowledged.len() + feed.newest.iter().map(|(version, _)| *version as usize - 1).sum::<usize>(), feed.count);

    let items = items(&store);
    let states = items.iter().fold(BTreeMap::<_, usize>::new(), |mut states, item| {
        *states.entry(item.state.word()).or_default() += 1;
        states
    });
    println!(
        "update_creates {update_creates}: {all_kills} kills, {killed_in_hand} in mid-delivery with {items_in_hand} items in hand, {arrived_unrecorded} of them \
         applied and not recorded; {} results acknowledged; outbox {states:?}",
        feed.count
    );
    for item in &items {
        assert!(matches!(item.state, ItemState::Confirmed | ItemState::Superseded), "{item:#?}");
    }
    assert_eq!(killed_in_hand, kills(), "kills that fell into the delivery");
    what_stands_is_what_was_planned(&http, &ehr.base_url, &items);
    let candidates = feed.newest.iter().filter(|(_, mg_dl)| *mg_dl == "2.0").count();
    let keys: BTreeSet<&str> =
        items.iter().filter(|item| item.study == STUDY && item.request.resource_type == "Flag").map(|item| item.request.key.as_str()).collect();
    let flags = http.all(&ehr.base_url, "Flag");
    let active = flags.iter().filter(|flag| flag["status"] == "active" && key_of(flag).is_some_and(|key| keys.contains(key))).count();
    assert_eq!(active, candidates, "flags of {STUDY}");
}

/// The identifier we gave a resource.
fn key_of(resource: &Value) -> Option<&str> {
    let identifiers = resource["identifier"].as_array()?;
    identifiers.iter().find(|identifier| identifier["system"] == IDENTIFIER_SYSTEM)?["value"].as_str()
}

fn found<'a>(resources: &'a [Value], key: &str) -> Vec<&'a Value> {
    resources.iter().filter(|resource| key_of(resource) == Some(key)).collect()
}

/// Each key stands once at the EHR and says what its newest plan says; nothing else of ours is there.
fn what_stands_is_what_was_planned(http: &Http, base_url: &str, items: &[Item]) {
    let stands: Vec<Value> = WRITTEN_TYPES.into_iter().flat_map(|kind| http.all(base_url, kind)).collect();
    let newest: BTreeMap<&str, &Item> =
        items.iter().filter(|item| item.state == ItemState::Confirmed).map(|item| (item.request.key.as_str(), item)).collect();
    for resource in &stands {
        if let Some(key) = key_of(resource) {
            assert!(newest.contains_key(key), "nobody planned {resource}");
        }
    }
    assert!(!newest.is_empty());
    for (key, item) in &newest {
        let there = found(&stands, key);
        let is_taken_back = item.request.purpose == Purpose::Retract;
        // What never arrived before it was taken back is not there at all.
        assert!(there.len() == 1 || (is_taken_back && there.is_empty()), "{} copies of {item:#?}", there.len());
        let Some(resource) = there.first() else { continue };
        let planned: Value = serde_json::from_str(&item.request.body).unwrap();
        assert_eq!(resource["resourceType"], planned["resourceType"]);
        assert_eq!(resource["status"], planned["status"], "{item:#?}");
    }
    // Some of them by search as well, as any other client would; SEKMET answers some types whole, whatever is asked.
    for item in newest.values().filter(|item| item.request.purpose == Purpose::Annotate).step_by(1 + newest.len() / 50) {
        let (kind, key) = (&item.request.resource_type, &item.request.key);
        let by_search = http.search(format!("{base_url}/{kind}?identifier={IDENTIFIER_SYSTEM}|{key}&_count=200"));
        assert_eq!(found(&by_search, key).len(), 1, "{kind} {key}");
    }
}

#[test]
fn a_killed_delivery_leaves_one_resource_of_each_where_we_choose_the_ids() {
    kill_in_mid_delivery(true);
}

#[test]
fn a_killed_delivery_leaves_one_resource_of_each_where_the_ehr_chooses_the_ids() {
    kill_in_mid_delivery(false);
}

/// The named points of the delivery where a gateway can be made to die, in order.
const STOP_POINTS: [&str; 7] = ["after-claim", "after-look", "before-send", "after-send", "after-read-back", "before-finish", "after-finish"];
/// From the receipt of a correction to an inactive flag, with a gateway that dies meanwhile.
const TAKEN_BACK_WITHIN: Duration = Duration::from_secs(60);

/// Sends until all is acknowledged, or the gateway is gone; answers what was not acknowledged.
fn send_all(http: &Http, fhir: &str, resources: Vec<Value>) -> Vec<Value> {
    let mut waiting = resources.into_iter().peekable();
    while let Some(resource) = waiting.peek() {
        match http.put(fhir, resource) {
            Some(200 | 201) => drop(waiting.next()),
            Some(status) => panic!("{status} for {resource}"),
            None => break,
        }
    }
    waiting.collect()
}

/// A gateway that dies at this point while it writes, is started again, dies there while it takes back, and is started again.
/// Answers how long the taking back took, from the receipt of the correction.
fn kill_at(point: &str, time: usize, update_creates: bool) -> Duration {
    let case = format!("{point}:{time} with ids of {}", if update_creates { "ours" } else { "the EHR's" });
    let stub = Stub::start(&[], &[], now_ms());
    let folder = tempfile::tempdir().unwrap();
    let config = configure(folder.path(), &stub.base_url, update_creates);
    let store = folder.path().join("store").join(FILE_NAME);
    let http = Http::new();
    let is_pending = |item: &Item| matches!(item.state, ItemState::Planned | ItemState::Sent);
    let dies_and_comes_back = |resources: Vec<Value>| {
        for resource in &resources {
            stub.hospital_puts(&resource.to_string());
        }
        let mut dying = serve_until(&config, Some(&format!("{point}:{time}")));
        let began = Instant::now();
        let left = send_all(&http, &dying.fhir, resources.clone());
        let deadline = Instant::now() + Duration::from_secs(60);
        let status = loop {
            if let Some(status) = dying.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "{case}: it never came there: {:#?}", items(&store));
            std::thread::sleep(Duration::from_millis(10));
        };
        assert!(status.code().is_none(), "{case}: killed by a signal, not ended: {status}");
        let process = serve(&config);
        assert_eq!(send_all(&http, &process.fhir, left), Vec::<Value>::new(), "{case}");
        wait_until(Duration::from_secs(120), &case, || !items(&store).iter().any(is_pending));
        for resource in &resources {
            assert_eq!(http.get(&format!("{}/{}", process.fhir, place(resource))), resource.to_string(), "{case}: acknowledged and lost");
        }
        began.elapsed()
    };
    dies_and_comes_back(vec![patient("p0"), creatinine("old-0", "p0", 1, "final", 130, "2.1"), creatinine("new-0", "p0", 1, "final", 10, "2.0")]);
    let each_once = |status: &str| {
        let ours = ours(&stub);
        assert!(ours.values().all(|copies| copies.len() == 1), "{case}: {ours:#?}");
        let flags: Vec<Value> = ours.into_values().flatten().filter(|resource| resource["resourceType"] == "Flag").collect();
        assert!(!flags.is_empty() && flags.iter().all(|flag| flag["status"] == status), "{case}: {flags:#?}");
    };
    each_once("active");
    let took = dies_and_comes_back(vec![creatinine("new-0", "p0", 2, "corrected", 10, "1.0")]);
    each_once("inactive");
    for item in items(&store) {
        assert!(matches!(item.state, ItemState::Confirmed | ItemState::Superseded), "{case}: {item:#?}");
    }
    assert!(took < TAKEN_BACK_WITHIN, "{case}: {took:?}");
    took
}

#[test]
fn a_gateway_that_dies_at_any_named_point_of_the_delivery_leaves_one_resource_of_each() {
    if !cfg!(debug_assertions) {
        eprintln!("SKIPPED: a release build has no named stop points");
        return;
    }
    let is_soak = std::env::var_os("NEPHROGATE_SOAK").is_some_and(|value| value == "1");
    let cases: Vec<(&str, usize, bool)> = match is_soak {
        true => STOP_POINTS
            .into_iter()
            .flat_map(|point| [1, 2, 3].into_iter().flat_map(move |time| [(point, time, true), (point, time, false)]))
            .collect(),
        false => STOP_POINTS.into_iter().enumerate().map(|(number, point)| (point, 1 + number % 2, number % 3 != 0)).collect(),
    };
    // They mostly wait for a dead sender's lease to end.
    for some in cases.chunks(STOP_POINTS.len()) {
        let took: Vec<Duration> = std::thread::scope(|scope| {
            let running: Vec<_> = some.iter().map(|(point, time, update_creates)| scope.spawn(|| kill_at(point, *time, *update_creates))).collect();
            running.into_iter().map(|running| running.join().unwrap()).collect()
        });
        let slowest = took.iter().max().unwrap();
        println!("{} kills at {some:?}; taken back within {:.1} s of the correction", 2 * some.len(), slowest.as_secs_f64());
    }
}

#[test]
fn every_named_point_of_the_delivery_is_in_the_list_above() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/pipeline/deliver");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder.clone()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.push(folder.with_extension("rs"));
    let mut named = BTreeSet::new();
    for text in files.iter().map(|file| std::fs::read_to_string(file).unwrap()) {
        named.extend(text.split("stop_point(\"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()));
    }
    assert_eq!(named, STOP_POINTS.map(str::to_owned).into());
}
