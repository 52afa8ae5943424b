//! A simulated EHR whose data moves while it is read: late commits, equal stamps, pages in every order that shift under the
//! reader, deletes that nobody tells, and notifications that are dropped, doubled, overtaken or sent too early. Polled, and
//! told: after a comparison nothing differs. NEPHROGATE_SOAK=1 runs 1,000 seeds of each; a failure names its
//! seed, and NEPHROGATE_SEED=N runs that one alone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, OnceLock};

use actix_web::{HttpRequest, HttpResponse, web};
use nephrogate::clinical::date::PartialDate;
use nephrogate::digest::sha256_hex;
use nephrogate::ehr::Ehr;
use nephrogate::feeds::comparison::Mode;
use nephrogate::feeds::{Feed, Kind, Task};
use nephrogate::fhir::notification;
use nephrogate::store::{Store, messages, notified};
use serde_json::{Value, json};

use crate::gateway::{LOINC, SITE};
use crate::notified::TOPIC;
use crate::notified::shapes::{bundle, status_entry};
use crate::polling::{Bench, OVERLAP_SECONDS, START_MS, capabilities, creatinines, serve_with};

/// What the simulated EHR's transactions may take; less than the overlap that the feeds allow for.
const LATE_MAX_MS: i64 = 100_000;

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
    telling: Option<Telling>,
}

impl Sim {
    fn new(seed: u64) -> Sim {
        let mut luck = Luck(seed);
        let order = [Order::Ascending, Order::Ascending, Order::NewestFirst, Order::None][luck.below(4) as usize];
        let filters = luck.below(8) != 0;
        let mut sim = Sim { seed, luck, now_ms: START_MS, order, filters, resources: BTreeMap::new(), moves: true, telling: None };
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
        self.visible_at(id, self.now_ms)
    }

    fn visible_at(&self, id: &str, ms: i64) -> Option<&Version> {
        self.resources.get(id)?.iter().rev().find(|version| version.visible_ms <= ms)
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
            Order::Ascending => {
                found.sort_by_key(|(id, version)| (version.stamp_ms, id.clone()));
                if query.get("_sort").is_some_and(|sort| sort.starts_with('-')) {
                    found.reverse();
                }
            }
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

/// How the EHR tells of what changes, and what the network makes of it.
struct Telling {
    /// The words of which release; none: the bare rest-hook of R4, without numbers.
    release: Option<&'static str>,
    /// Tells of a change before anybody can see it.
    is_hasty: bool,
    /// Can be asked for events by their numbers.
    has_events: bool,
    /// Its handshake was not lost: it is known from which event on they are counted.
    is_greeted: bool,
    /// Versions that were told of, lost or not.
    told: BTreeSet<(String, u32)>,
    /// What each event was about, numbered from 1.
    events: Vec<String>,
    heartbeat_ms: i64,
    /// On its way, and when it arrives.
    sent: Vec<(i64, String)>,
}

const HEARTBEAT_SECONDS: i64 = 60;
/// How long a notification may be on its way.
const DELAY_MAX_MS: u64 = 40_000;

impl Telling {
    fn words(&self, kind: &str, events: &[(u64, Option<&str>)]) -> Option<String> {
        let release = self.release?;
        Some(bundle(release, vec![status_entry(release, kind, "active", self.events.len() as u64, events)]).to_string())
    }
}

impl Sim {
    /// One that also tells of what happens from now on.
    fn telling(seed: u64) -> Sim {
        let mut sim = Sim::new(seed);
        let release = [None, Some("R4"), Some("R4B"), Some("R5")][sim.luck.below(4) as usize];
        let (is_hasty, has_events) = (sim.luck.below(6) == 0, sim.luck.below(2) == 0);
        let seen = |id: &String| sim.visible(id).map(|version| (id.clone(), version.number));
        let told = sim.resources.keys().filter_map(seen).collect();
        let telling =
            Telling { release, is_hasty, has_events, is_greeted: false, told, events: Vec::new(), heartbeat_ms: sim.now_ms, sent: Vec::new() };
        let handshake = telling.words("handshake", &[]);
        sim.telling = Some(telling);
        if let Some(handshake) = handshake {
            sim.send(handshake, 3);
            let telling = sim.telling.as_mut().expect("it tells");
            telling.is_greeted = !telling.sent.is_empty();
        }
        sim
    }

    /// One in `lost` is lost, and of the others some arrive twice.
    fn send(&mut self, words: String, lost: u64) {
        if self.luck.below(lost) == 0 {
            return;
        }
        for _ in 0..if self.luck.below(5) == 0 { 2 } else { 1 } {
            let arrives_ms = self.now_ms + self.luck.below(DELAY_MAX_MS) as i64;
            self.telling.as_mut().expect("it tells").sent.push((arrives_ms, words.clone()));
        }
    }

    /// Tells of what happened until now; answers what arrives.
    fn notify(&mut self) -> Vec<String> {
        let Some(mut telling) = self.telling.take() else { return Vec::new() };
        let all = self.resources.iter().flat_map(|(id, versions)| versions.iter().map(move |version| (id, version)));
        let mut new: Vec<(String, Version)> = all
            .filter(|(_, version)| telling.is_hasty || version.visible_ms <= self.now_ms)
            .filter(|(id, version)| !telling.told.contains(&((*id).clone(), version.number)))
            .map(|(id, version)| (id.clone(), version.clone()))
            .collect();
        new.sort_by_key(|(id, version)| (version.visible_ms, id.clone(), version.number));
        let mut words = Vec::new();
        for (id, version) in new {
            telling.events.push(id.clone());
            telling.told.insert((id.clone(), version.number));
            let about = format!("Observation/{id}");
            // One that names nothing leads to a search, which shows no deletes.
            let about = (version.value.is_none() || self.luck.below(6) != 0).then_some(about.as_str());
            // What a hook holds is not believed: it says another value here.
            let hook = || about.map_or_else(String::new, |_| json!({"resourceType": "Observation", "id": id, "valueInteger": 999}).to_string());
            words.push(telling.words("event-notification", &[(telling.events.len() as u64, about)]).unwrap_or_else(hook));
        }
        if telling.heartbeat_ms + HEARTBEAT_SECONDS * 1_000 <= self.now_ms {
            telling.heartbeat_ms = self.now_ms;
            words.extend(telling.words("heartbeat", &[]));
        }
        self.telling = Some(telling);
        for words in words {
            self.send(words, 5);
        }
        let sent = &mut self.telling.as_mut().expect("it tells").sent;
        let mut arrived: Vec<(i64, String)> = sent.extract_if(.., |(arrives_ms, _)| *arrives_ms <= self.now_ms).collect();
        arrived.sort();
        arrived.into_iter().map(|(_, words)| words).collect()
    }

    /// What can be asked for by the numbers of events.
    fn asked_for_events(&self, query: &HashMap<String, String>) -> Option<String> {
        let telling = self.telling.as_ref().filter(|telling| telling.has_events)?;
        let number = |name: &str| query[name].parse::<u64>().unwrap();
        let about: Vec<(u64, String)> = (number("eventsSinceNumber")..=number("eventsUntilNumber").min(telling.events.len() as u64))
            .map(|number| (number, format!("Observation/{}", telling.events[number as usize - 1])))
            .collect();
        let events: Vec<(u64, Option<&str>)> = about.iter().map(|(number, about)| (*number, Some(about.as_str()))).collect();
        telling.words("query-event", &events)
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
        ["metadata"] => capabilities(),
        ["Subscription", _, "$events"] => {
            let query = web::Query::<HashMap<String, String>>::from_query(request.query_string()).unwrap().into_inner();
            match sim.asked_for_events(&query) {
                Some(body) => return HttpResponse::Ok().content_type("application/fhir+json").body(body),
                None => return HttpResponse::NotFound().finish(),
            }
        }
        _ => return HttpResponse::NotFound().finish(),
    };
    HttpResponse::Ok().content_type("application/fhir+json").body(body.to_string())
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

/// Until when a feed says that everything is here, and until when that is held against it: not after the round began that said
/// so, since the feed's clock goes on by itself while the simulated one stands.
#[derive(Default)]
struct Claim {
    said_ms: Option<i64>,
    held_ms: i64,
}

/// What is not here of all that the feed says is, as the source held it then.
fn claimed_and_missing(bench: &Bench, seed: u64, began_ms: i64, claim: &mut Claim) -> Vec<String> {
    let Some(said_ms) = bench.state().complete_until_ms else { return Vec::new() };
    if claim.said_ms != Some(said_ms) {
        *claim = Claim { said_ms: Some(said_ms), held_ms: said_ms.min(began_ms) };
    }
    let until_ms = claim.held_ms;
    let sims = sims().0.lock().unwrap();
    let sim = &sims[&seed];
    let missing = |id: &String| {
        let was = sim.visible_at(id, until_ms).filter(|version| version.value.is_some())?;
        let is_deleted = sim.visible(id).is_some_and(|version| version.value.is_none());
        let here = bench.version_here(id).map(|version| version.parse::<u32>().unwrap());
        let words = || {
            format!(
                "{id} {}, stamped {} ms and visible {} ms before {until_ms}, here {here:?}",
                was.number,
                until_ms - was.stamp_ms,
                until_ms - was.visible_ms
            )
        };
        (!is_deleted && here < Some(was.number)).then(words)
    };
    sim.resources.keys().filter_map(missing).collect()
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
    // Pages by their links lose one over the edge when something on an earlier page is deleted meanwhile (seed 235); those of a
    // source that sorts and filters are searches of their own.
    let is_sure = sim.order == Order::Ascending && sim.filters;
    sims().0.lock().unwrap().insert(seed, sim);
    let mut bench = Bench::on(store.clone(), &format!("seed-{seed}"), &format!("{}/{seed}", sims().1), creatinines());
    let mut claim = Claim::default();
    for round in 0..5_u64 {
        let began_ms = now_ms(seed);
        bench.work(&Task::Round, began_ms).unwrap_or_else(|trouble| panic!("seed {seed}: {trouble}"));
        if is_sure {
            assert_eq!(claimed_and_missing(&bench, seed, began_ms, &mut claim), [""; 0], "seed {seed}: said to be here");
        }
        advance(seed, 60_000, 2 + (seed + round) % 4);
    }
    // All transactions end; one more round sees what they left.
    advance(seed, LATE_MAX_MS + 1_000, 0);
    let last = bench.work(&Task::Round, now_ms(seed)).unwrap();
    assert!(Some(now_ms(seed)) <= last.complete_until_ms, "seed {seed}");
    let (stale, _) = differences(&bench, seed);
    if is_sure {
        assert!(stale.is_empty(), "seed {seed}: rounds alone lost {stale:?}");
    }
    nothing_differs_after_a_comparison(&mut bench, seed);
}

fn nothing_differs_after_a_comparison(bench: &mut Bench, seed: u64) {
    let compared = bench.work(&Task::Compare { mode: Mode::Mend, who: String::new() }, now_ms(seed)).unwrap();
    let (stale, undead) = differences(bench, seed);
    assert!(stale.is_empty() && undead.is_empty(), "seed {seed}: after a comparison {stale:?} and {undead:?} differ");
    let report = compared.report.unwrap();
    assert!(!report.is_held_back && report.trouble.is_none(), "seed {seed}");
    let again = bench.work(&Task::Compare { mode: Mode::ReportOnly, who: String::new() }, now_ms(seed)).unwrap().report.unwrap();
    assert_eq!(again.counts, BTreeMap::new(), "seed {seed}: nothing is left to be found");
}

/// A feed that this EHR tells.
fn told_by(url: &str, release: Option<&str>) -> Feed {
    let catch_up = json!({"searches": creatinines()["searches"], "every_minutes": 60, "page_size": 5, "overlap_seconds": OVERLAP_SECONDS});
    let settings = match release {
        None => json!({"style": "r4", "criteria": ["Observation?category=laboratory"]}),
        Some(release) => {
            let style = if release == "R5" { "r5" } else { "r4-backport" };
            json!({"style": style, "topics": [{"topic": TOPIC}], "heartbeat_seconds": HEARTBEAT_SECONDS})
        }
    };
    let mut settings = settings;
    settings["catch_up"] = catch_up;
    settings["secret_sha256"] = json!(sha256_hex(b"people at the source made the Subscription"));
    let kind =
        Kind::Subscription { ehr: Ehr::open(url, None).unwrap(), settings: serde_json::from_value(settings).unwrap(), endpoint: String::new() };
    Feed { site: SITE.to_owned(), name: url.rsplit_once('/').unwrap().1.to_owned(), silent_after_ms: None, kind }
}

/// Hears what arrives until now, and does what is due; answers when that was.
fn hear(bench: &mut Bench, seed: u64) -> i64 {
    let (arrived, now_ms) = {
        let mut sims = sims().0.lock().unwrap();
        let sim = sims.get_mut(&seed).unwrap();
        (sim.notify(), sim.now_ms)
    };
    for words in arrived {
        let notification = notification::read(words.as_bytes()).unwrap_or_else(|issue| panic!("seed {seed}: {issue:?} in {words}"));
        let feed = bench.feed.name.clone();
        bench.pipeline.store.write_blocking(|tx| notified::hear(tx, SITE, &feed, &notification, now_ms)).unwrap();
    }
    if let Some(Err(trouble)) = bench.turn(&Task::Round, now_ms) {
        panic!("seed {seed}: {trouble}");
    }
    now_ms
}

fn run_told(store: &Store, seed: u64) {
    let sim = Sim::telling(seed);
    let telling = sim.telling.as_ref().unwrap();
    let (order, filters, release) = (sim.order, sim.filters, telling.release);
    let (is_hasty, has_events, is_greeted) = (telling.is_hasty, telling.has_events, telling.is_greeted);
    sims().0.lock().unwrap().insert(seed, sim);
    let how = format!("seed {seed}, {release:?}, pages {order:?}, filters {filters}, hasty {is_hasty}, events {has_events}");
    let mut bench = Bench::of(store.clone(), told_by(&format!("{}/{seed}", sims().1), release));
    let is_sure = order == Order::Ascending && filters && !is_hasty;
    let mut claim = Claim::default();
    for step in 0..24_u64 {
        let began_ms = hear(&mut bench, seed);
        if is_sure {
            assert_eq!(claimed_and_missing(&bench, seed, began_ms, &mut claim), [""; 0], "{how}: said to be here");
        }
        advance(seed, 15_000, (seed + step) % 3);
    }
    // All transactions end; what is on its way arrives, and heartbeats go on for some minutes.
    advance(seed, LATE_MAX_MS + 1_000, 0);
    for _ in 0..60 {
        hear(&mut bench, seed);
        advance(seed, 10_000, 0);
    }
    let (stale, undead) = differences(&bench, seed);
    if release.is_some() && is_sure {
        assert!(stale.is_empty(), "{how}: numbers and heartbeats alone lost {stale:?}");
        assert!(!has_events || !is_greeted || undead.is_empty(), "{how}: events that were asked for leave {undead:?}");
    }
    // What was neither told nor numbered is found by the hourly search.
    advance(seed, 3_600_000, 0);
    for _ in 0..3 {
        hear(&mut bench, seed);
        advance(seed, 10_000, 0);
    }
    if order == Order::Ascending && filters {
        let (stale, _) = differences(&bench, seed);
        assert!(stale.is_empty(), "{how}: searches alone lost {stale:?}");
    }
    nothing_differs_after_a_comparison(&mut bench, seed);
}

fn whatever_happens(run: fn(&Store, u64), first: u64) {
    let seeds = if std::env::var_os("NEPHROGATE_SOAK").is_some() { 1_000 } else { 60 };
    let alone: Option<u64> = std::env::var("NEPHROGATE_SEED").ok().map(|seed| seed.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open_sqlite(&folder.path().join("store.db")).unwrap();
    for seed in (first..first + seeds).filter(|seed| alone.is_none_or(|alone| alone == *seed)) {
        run(&store, seed);
    }
    let counts = store.read_blocking(|tx| messages::conservation(tx, SITE)).unwrap();
    assert!(counts.difference == 0 && counts.rows_agree, "{counts:?}");
}

#[test]
fn whatever_moves_while_it_is_read_nothing_is_lost_and_after_a_comparison_nothing_differs() {
    whatever_happens(run_seed, 0);
}

#[test]
fn whatever_notifications_are_dropped_doubled_overtaken_or_early_nothing_differs_after_a_comparison() {
    whatever_happens(run_told, 100_000);
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
