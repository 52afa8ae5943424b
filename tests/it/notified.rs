//! Subscriptions of ours at a source: what it notifies of in every release's words, who may, and that nothing is lost where
//! notifications are lost, doubled or overtaken; against a simulated EHR, SEKMET, and a real HAPI FHIR.

pub mod servers;
pub mod shapes;
mod source;

use std::sync::atomic::AtomicI64;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use nephrogate::catalogue::Catalogue;
use nephrogate::ehr::Ehr;
use nephrogate::feeds::{self, Beside, Feed, Kind, Round, Seen, Task, Trouble, subscription};
use nephrogate::fhir::notification::{self, Event, Focus, Kind as Told, Notification};
use nephrogate::pipeline::{Pipeline, Receivers};
use nephrogate::store::{Store, messages, notified};
use serde_json::{Value, json};

use crate::gateway::{Gateway, SITE, creatinine};
use crate::stores::on_both;
use shapes::{bundle, status_entry};
use source::{Source, at};

const FEED: &str = "told";
pub const TOPIC: &str = "https://ehr.example/SubscriptionTopic/results";

fn focus(resource_type: &str, id: &str) -> Option<Focus> {
    Some(Focus { resource_type: resource_type.to_owned(), id: id.to_owned() })
}

fn feed_of(ehr_url: &str, endpoint: &str, settings: Value) -> Feed {
    let settings: subscription::Settings = serde_json::from_value(settings).unwrap();
    assert_eq!(settings.fault(), None);
    let ehr = Ehr::open(ehr_url, None).unwrap();
    Feed {
        site: SITE.to_owned(),
        name: FEED.to_owned(),
        silent_after_ms: None,
        kind: Kind::Subscription { ehr, settings, endpoint: endpoint.to_owned() },
    }
}

const ENDPOINT: &str = "http://127.0.0.1:9/notify/demo-hospital/told";

/// A store, a source, and a feed between them whose clock the test moves.
struct Bench {
    pipeline: Pipeline,
    feed: Feed,
    source: Source,
    seen: Seen,
    runtime: tokio::runtime::Runtime,
    _folder: tempfile::TempDir,
}

impl Bench {
    fn new(settings: Value) -> Bench {
        nephrogate::app::install_tls_provider();
        static CATALOGUE: OnceLock<Arc<Catalogue>> = OnceLock::new();
        let catalogue = CATALOGUE.get_or_init(|| Arc::new(Catalogue::load(None).unwrap())).clone();
        let (folder, source) = (tempfile::tempdir().unwrap(), Source::start());
        let store = Store::open_sqlite(&folder.path().join("store.db")).unwrap();
        let pipeline = Pipeline { store, catalogue, receivers: Arc::new(Receivers::new()) };
        let feed = feed_of(&source.url, ENDPOINT, settings);
        feeds::register(&pipeline, std::slice::from_ref(&feed)).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        Bench { pipeline, feed, source, seen: Seen::default(), runtime, _folder: folder }
    }

    fn reconfigure(&mut self, settings: Value) {
        self.feed = feed_of(&self.source.url, ENDPOINT, settings);
    }

    /// A round, if it is the feed's turn.
    fn turn(&mut self, now_ms: i64) -> Option<Result<Round, Trouble>> {
        let (beat, (_stop, mut stopped)) = (AtomicI64::new(0), tokio::sync::watch::channel(false));
        let beside = Beside { beat: &beat, stopped: &mut stopped, watch: &|_| {} };
        self.runtime.block_on(feeds::work(&self.pipeline, &self.feed, &Task::Round, &mut self.seen, now_ms, beside)).unwrap()
    }

    #[track_caller]
    fn round(&mut self, now_ms: i64) -> Round {
        self.turn(now_ms).expect("it is the feed's turn").unwrap_or_else(|trouble| panic!("{trouble}"))
    }

    fn hear(&self, notification: &Notification, now_ms: i64) {
        self.pipeline.store.write_blocking(|tx| notified::hear(tx, SITE, FEED, notification, now_ms)).unwrap();
    }

    /// Makes it the feed's turn.
    fn ask(&self, now_ms: i64) {
        self.pipeline.store.write_blocking(|tx| nephrogate::store::feeds::ask(tx, SITE, FEED, now_ms)).unwrap();
    }

    fn state(&self) -> nephrogate::store::feeds::FeedState {
        self.pipeline.store.read_blocking(|tx| nephrogate::store::feeds::state(tx, SITE, FEED)).unwrap().unwrap()
    }

    fn here(&self, id: &str) -> Option<String> {
        let newest = self.pipeline.store.read_blocking(|tx| messages::newest(tx, SITE, "Observation", id)).unwrap();
        newest.map(|message| message.version.unwrap())
    }

    fn hints(&self) -> i64 {
        self.pipeline.store.read_blocking(|tx| nephrogate::store::feeds::hints_waiting(tx, SITE, FEED)).unwrap().0
    }

    fn secrets(&self, now_ms: i64) -> Vec<String> {
        self.pipeline.store.read_blocking(|tx| notified::secrets(tx, SITE, FEED, now_ms)).unwrap()
    }

    /// The one Subscription that stands at the source.
    #[track_caller]
    fn subscription(&self) -> (String, Value) {
        let mut all = self.source.subscriptions();
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }

    /// Rounds until nothing is due at this time.
    fn settle(&mut self, now_ms: i64) -> Round {
        let mut last = self.round(now_ms);
        for _ in 0..5 {
            match self.turn(now_ms) {
                Some(round) => last = round.unwrap(),
                None => break,
            }
        }
        last
    }
}

fn result(id: &str) -> Value {
    let mut result = creatinine(id, "p1", 1, 1, 2.0);
    result.as_object_mut().unwrap().remove("meta");
    result
}

fn named(id: &str) -> Notification {
    Notification::of_address(Focus { resource_type: "Observation".into(), id: id.into() })
}

fn of_r4() -> Value {
    json!({"style": "r4", "criteria": ["Observation?category=laboratory"], "payload": "full-resource", "check_minutes": 30})
}

fn of_topic() -> Value {
    json!({"style": "r4-backport", "topics": [{"topic": TOPIC}], "payload": "id-only", "heartbeat_seconds": 60,
        "catch_up": {"searches": [{"type": "Observation"}]}})
}

fn start_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

const MINUTE: i64 = 60_000;

#[test]
fn what_a_hint_names_is_read_at_the_source_whatever_was_sent_and_in_whatever_order() {
    let mut bench = Bench::new(of_r4());
    let now_ms = start_ms();
    bench.source.put(result("before"), now_ms - 10 * MINUTE);
    let first = bench.settle(now_ms);
    assert_eq!(bench.here("before").as_deref(), Some("1"), "what there was before the Subscription is searched for");
    assert!(first.complete_until_ms.is_some() || bench.state().complete_until_ms.is_some());
    // Two versions, told of five times, the older last: one reading, one fact.
    bench.source.put(result("a"), now_ms);
    bench.source.put(result("a"), now_ms);
    for _ in 0..5 {
        bench.hear(&named("a"), now_ms + 1_000);
    }
    bench.source.asked();
    let round = bench.settle(now_ms + 2_000);
    assert_eq!((bench.here("a").as_deref(), bench.hints()), (Some("2"), 0));
    assert_eq!((bench.source.asked_for("GET /fhir/Observation/a"), round.concern), (1, None));
    // Of a type that this site does not take nothing is asked.
    bench.hear(&Notification::of_address(Focus { resource_type: "Practitioner".into(), id: "x".into() }), now_ms + 3_000);
    bench.settle(now_ms + 3_000);
    assert_eq!((bench.source.asked_for("Practitioner"), bench.hints()), (0, 0));
    // A DELETE is a hint as well: gone is gone, and comes back when it does.
    bench.source.delete("Observation", "a");
    bench.hear(&named("a"), now_ms + 4_000);
    let gone = bench.settle(now_ms + 4_000);
    assert_eq!((bench.here("a"), bench.hints(), gone.withdrawn <= 1), (None, 0, true));
    bench.source.put(result("a"), now_ms + 5_000);
    bench.hear(&named("a"), now_ms + 5_000);
    bench.settle(now_ms + 5_000);
    assert_eq!(bench.here("a").as_deref(), Some("4"));
    assert!(bench.pipeline.store.read_blocking(|tx| messages::conservation(tx, SITE)).unwrap().rows_agree);
}

#[test]
fn what_cannot_be_seen_yet_is_asked_for_again_and_only_then_believed_to_be_gone() {
    let mut bench = Bench::new(of_r4());
    let now_ms = start_ms();
    bench.source.put(result("known"), now_ms - MINUTE);
    bench.settle(now_ms);
    // Told of, and not yet visible on the server that answers.
    bench.hear(&named("late"), now_ms + 1_000);
    let round = bench.settle(now_ms + 1_000);
    assert_eq!((bench.hints(), round.concern.is_some()), (1, true));
    bench.source.put(result("late"), now_ms + 2_000);
    assert!(bench.turn(now_ms + 5_000).is_none(), "not before its time");
    bench.settle(now_ms + 12_000);
    assert_eq!((bench.here("late").as_deref(), bench.hints(), bench.state().trouble), (Some("1"), 0, None));
    // 404 twice: the source does not have it.
    bench.source.state().refusals.push(("GET /fhir/Observation/known".into(), 404, 2));
    bench.hear(&named("known"), now_ms + 20_000);
    bench.settle(now_ms + 20_000);
    assert_eq!(bench.here("known").as_deref(), Some("1"));
    bench.settle(now_ms + 31_000);
    assert_eq!((bench.here("known"), bench.hints()), (None, 0));
    // One resource that the source fails on holds up no other.
    bench.source.put(result("broken"), now_ms + 40_000);
    bench.source.put(result("whole"), now_ms + 40_000);
    bench.source.state().refusals.push(("GET /fhir/Observation/broken".into(), 500, 3));
    bench.hear(&named("broken"), now_ms + 40_000);
    bench.hear(&named("whole"), now_ms + 40_000);
    let round = bench.settle(now_ms + 40_000);
    assert_eq!((bench.here("whole").as_deref(), bench.here("broken"), bench.hints()), (Some("1"), None, 1));
    let words = round.concern.unwrap();
    assert!(!words.contains("Jane") && words.contains("500"), "{words}");
    for minutes in [1, 2, 3] {
        bench.settle(now_ms + 40_000 + minutes * MINUTE);
    }
    assert_eq!((bench.here("broken").as_deref(), bench.hints()), (Some("1"), 0));
    // A proxy's page says nothing about a resource, least of all that it is gone.
    bench.source.state().is_html = true;
    bench.hear(&named("whole"), now_ms + 5 * MINUTE);
    bench.settle(now_ms + 5 * MINUTE);
    assert_eq!((bench.here("whole").as_deref(), bench.hints()), (Some("1"), 1));
    bench.source.state().is_html = false;
    // The whole source is away: it is left alone, and what it says of itself is no reason to ask before the time.
    bench.source.state().refusals.push(("GET".into(), 503, 1));
    let later = bench.turn(now_ms + 6 * MINUTE).unwrap();
    assert!(matches!(later, Err(Trouble::Later { .. })), "{later:?}");
    bench.hear(&named("whole"), now_ms + 6 * MINUTE + 1);
    assert!(bench.turn(now_ms + 6 * MINUTE + 1_000).is_none());
    let next_ms = bench.state().next_attempt_ms;
    bench.settle(next_ms);
    assert_eq!((bench.hints(), bench.state().failures), (0, 0));
}

#[test]
fn a_hint_that_comes_while_a_round_goes_on_is_followed_by_the_next_at_once() {
    let bench = Bench::new(of_r4());
    let now_ms = start_ms();
    let store = &bench.pipeline.store;
    let (lease, _) = store.write_blocking(|tx| nephrogate::store::feeds::claim(tx, SITE, FEED, now_ms, now_ms + MINUTE)).unwrap().unwrap();
    bench.hear(&named("a"), now_ms + 1_000);
    assert!(store.write_blocking(|tx| nephrogate::store::feeds::renew(tx, &lease, now_ms + 2 * MINUTE)).unwrap());
    let done = nephrogate::store::feeds::Ended::Done { complete_until_ms: None, remark: None, concern: None, next_attempt_ms: now_ms + 3_600_000 };
    store.write_blocking(|tx| nephrogate::store::feeds::end(tx, &lease, &done, now_ms + 2_000)).unwrap();
    assert!(bench.state().next_attempt_ms <= now_ms + 2_000, "{}", bench.state().next_attempt_ms);
}

#[test]
fn an_empty_rest_hook_is_caught_up_with_by_a_search_and_the_search_is_made_from_time_to_time_anyway() {
    let mut settings = of_r4();
    settings["payload"] = json!("empty");
    let mut bench = Bench::new(settings);
    let now_ms = start_ms();
    bench.settle(now_ms);
    bench.source.put(result("pinged"), now_ms + MINUTE);
    bench.hear(&notification::read(b"").unwrap(), now_ms + MINUTE);
    bench.hear(&notification::read(b"").unwrap(), now_ms + MINUTE);
    bench.source.asked();
    bench.settle(now_ms + MINUTE);
    assert_eq!((bench.here("pinged").as_deref(), bench.hints()), (Some("1"), 0));
    let asked = bench.source.asked();
    let searches: Vec<&String> = asked.iter().filter(|asked| asked.contains("GET /fhir/Observation?")).collect();
    assert!(searches.len() == 1 && searches[0].contains("category=laboratory") && searches[0].contains("_lastUpdated=ge"), "{searches:?}");
    // Nobody tells of this one.
    bench.source.put(result("untold"), now_ms + 2 * MINUTE);
    bench.settle(now_ms + 40 * MINUTE);
    assert_eq!(bench.here("untold"), None);
    let round = bench.settle(now_ms + 62 * MINUTE);
    assert_eq!(bench.here("untold").as_deref(), Some("1"));
    assert!(Some(now_ms + 62 * MINUTE) <= bench.state().complete_until_ms, "{round:?}");
}

fn topic_told(subscription: &str, kind: Told, so_far: u64, events: &[(u64, &str)]) -> Notification {
    let event = |(number, id): &(u64, &str)| Event { number: Some(*number), at_ms: None, focus: focus("Observation", id) };
    Notification {
        kind,
        subscription: Some(subscription.to_owned()),
        topic: Some(TOPIC.to_owned()),
        events_since_start: Some(so_far),
        events: events.iter().map(event).collect(),
        is_in_trouble: false,
    }
}

/// A topic's Subscription that was made and greeted, with nothing left to do.
fn greeted(has_events: bool, now_ms: i64) -> (Bench, String) {
    let mut bench = Bench::new(of_topic());
    bench.source.state().has_events = has_events;
    bench.round(now_ms);
    let (id, _) = bench.subscription();
    bench.hear(&topic_told(&id, Told::Handshake, 0, &[]), now_ms + 100);
    bench.settle(now_ms + 6_000);
    bench.source.asked();
    (bench, id)
}

#[test]
fn a_gap_is_filled_by_asking_for_the_events_or_by_a_search_where_they_cannot_be_asked_for() {
    let now_ms = start_ms();
    for has_events in [true, false] {
        let (mut bench, id) = greeted(has_events, now_ms);
        for (number, name) in ["one", "two", "three"].into_iter().enumerate() {
            bench.source.put(result(name), now_ms + 7_000 + number as i64);
        }
        bench.source.state().events.insert(id.clone(), ["one", "two", "three"].map(|id| format!("Observation/{id}")).to_vec());
        let event = Told::EventNotification;
        bench.hear(&topic_told(&id, event, 1, &[(1, "one")]), now_ms + 7_000);
        bench.hear(&topic_told(&id, event, 3, &[(3, "three")]), now_ms + 7_100);
        bench.settle(now_ms + 8_000);
        assert_eq!((bench.here("one").as_deref(), bench.here("two"), bench.here("three").as_deref()), (Some("1"), None, Some("1")));
        bench.settle(now_ms + 38_000);
        assert_eq!(bench.here("two").as_deref(), Some("1"), "events can be asked for: {has_events}");
        let asked = bench.source.asked();
        let count = |part: &str| asked.iter().filter(|asked| asked.contains(part)).count();
        assert_eq!((count("$events") > 0, count("/Observation?") > 0), (true, !has_events), "{asked:?}");
        assert!(!has_events || asked.iter().any(|asked| asked.contains("eventsSinceNumber=2&eventsUntilNumber=3")), "{asked:?}");
        let heard = bench.pipeline.store.read_blocking(|tx| notified::heard(tx, SITE, FEED)).unwrap();
        assert_eq!((heard[0].numbers.heard, heard[0].numbers.is_missing()), (3, false));
        // A heartbeat that counts more than was heard: the same.
        bench.source.put(result("four"), now_ms + 50_000);
        bench.source.state().events.get_mut(&id).unwrap().push("Observation/four".into());
        bench.hear(&topic_told(&id, Told::Heartbeat, 4, &[]), now_ms + 60_000);
        bench.settle(now_ms + 91_000);
        assert_eq!(bench.here("four").as_deref(), Some("1"));
        // Once it is known that they cannot be asked for, it is not tried again.
        assert_eq!(bench.source.asked().iter().any(|asked| asked.contains("$events")), has_events);
    }
}

#[test]
fn what_the_source_counts_is_asked_for_where_it_can_be_so_that_a_loss_shows_without_a_heartbeat() {
    let now_ms = start_ms();
    let mut bench = Bench::new(of_topic());
    (bench.source.state().has_status, bench.source.state().has_events) = (true, true);
    bench.settle(now_ms);
    let (id, _) = bench.subscription();
    bench.source.put(result("lost"), now_ms + MINUTE);
    bench.source.state().events.insert(id, vec!["Observation/lost".into()]);
    for minutes in [2, 6, 7, 8] {
        if bench.turn(now_ms + minutes * MINUTE).is_some() {
            bench.turn(now_ms + minutes * MINUTE);
        }
    }
    assert_eq!(bench.here("lost").as_deref(), Some("1"));
}

#[test]
fn a_new_beginning_and_a_silence_are_caught_up_with_and_a_silence_is_told() {
    let now_ms = start_ms();
    let (mut bench, id) = greeted(false, now_ms);
    bench.source.put(result("one"), now_ms + 10_000);
    bench.hear(&topic_told(&id, Told::EventNotification, 1, &[(1, "one")]), now_ms + 10_000);
    bench.settle(now_ms + 10_000);
    // The source was restored from a backup and greets again: what happened meanwhile cannot be counted.
    bench.source.put(result("restored"), now_ms + 20_000);
    bench.hear(&topic_told(&id, Told::Handshake, 0, &[]), now_ms + 30_000);
    bench.settle(now_ms + 30_000);
    assert_eq!(bench.here("restored").as_deref(), Some("1"));
    // Heartbeats say that nothing is missing: the data is complete as of then, without any search.
    bench.source.asked();
    for at_ms in [90_000, 150_000, 210_000, 270_000, 330_000] {
        bench.hear(&topic_told(&id, Told::Heartbeat, 0, &[]), now_ms + at_ms);
    }
    // What tells of an event may be late, or repeated: it says nothing of what else happened by now.
    bench.hear(&topic_told(&id, Told::EventNotification, 1, &[(1, "one")]), now_ms + 331_000);
    bench.settle(now_ms + 331_000);
    assert_eq!(bench.state().complete_until_ms, Some(now_ms + 270_000), "a whole heartbeat is left to what is under way");
    assert_eq!((bench.source.asked_for("/Observation?"), bench.state().trouble), (0, None));
    // Then nothing comes any more.
    bench.source.put(result("unheard"), now_ms + 400_000);
    let mut at_ms = now_ms + 331_000;
    while bench.here("unheard").is_none() && at_ms < now_ms + 600_000 {
        at_ms += 10_000;
        bench.turn(at_ms);
    }
    assert!((now_ms + 460_000..now_ms + 480_000).contains(&at_ms), "two heartbeats were missed: {}", at_ms - now_ms);
    let state = bench.state();
    assert!(state.needs_person && state.trouble.as_deref().is_some_and(|words| words.contains("no heartbeat comes")), "{state:?}");
    for later_ms in [1_000, 61_000, 121_000] {
        bench.hear(&topic_told(&id, Told::Heartbeat, 0, &[]), at_ms + later_ms);
    }
    bench.settle(at_ms + 135_000);
    assert_eq!(bench.state().trouble, None);
}

#[test]
fn a_subscription_that_falls_is_written_anew_and_one_that_falls_again_and_again_with_pauses() {
    let now_ms = start_ms();
    let (mut bench, id) = greeted(false, now_ms);
    bench.source.set(&id, |subscription| subscription["status"] = json!("error"));
    bench.source.put(result("meanwhile"), now_ms + 10_000);
    let troubled = Notification { is_in_trouble: true, ..topic_told(&id, Told::Heartbeat, 0, &[]) };
    bench.hear(&troubled, now_ms + 20_000);
    let before = bench.subscription().1["channel"]["header"].clone();
    bench.settle(now_ms + 20_000);
    let (same, mended) = bench.subscription();
    assert_eq!((&same, &mended["status"]), (&id, &json!("active")));
    assert_ne!(mended["channel"]["header"], before, "with a new secret");
    assert_eq!(bench.here("meanwhile").as_deref(), Some("1"), "what happened while it lay is searched for");
    assert!(bench.state().trouble.unwrap().contains("ended its Subscription"));
    assert_eq!(bench.source.asked_for("PUT /fhir/Subscription"), 1);
    bench.settle(now_ms + 90_000);
    assert_eq!((bench.state().trouble, bench.source.asked_for("PUT")), (None, 0), "it stands");
    // A source that cannot reach us ends it each time: it is asked less and less often.
    let mut at_ms = now_ms + 90_000;
    let mut puts = Vec::new();
    while at_ms < now_ms + 4 * 60 * MINUTE {
        at_ms += 30_000;
        bench.source.set(&id, |subscription| subscription["status"] = json!("off"));
        if bench.turn(at_ms).is_some() && 0 < bench.source.asked_for("PUT /fhir/Subscription") {
            puts.push(at_ms - now_ms);
        }
    }
    assert!((5..=10).contains(&puts.len()), "{puts:?}");
    let pauses: Vec<i64> = puts.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(pauses.is_sorted(), "{pauses:?}");
}

#[test]
fn after_a_crash_the_subscription_is_found_again_and_copies_are_taken_away() {
    let mut bench = Bench::new(of_r4());
    for (now_ms, ignores_url) in [(start_ms(), false), (start_ms() + 10 * MINUTE, true)] {
        bench.source.state().ignores_url = ignores_url;
        bench.ask(now_ms);
        bench.settle(now_ms);
        let (id, _) = bench.subscription();
        // The gateway dies before it has kept what it made: another process begins with nothing but the settings.
        bench.pipeline.store.write_blocking(|tx| nephrogate::store::feeds::register(tx, SITE, FEED, "bulk", None)).unwrap();
        feeds::register(&bench.pipeline, std::slice::from_ref(&bench.feed)).unwrap();
        bench.ask(now_ms);
        // Somebody else's, a copy of ours, and one of ours that is not asked for any more.
        let mut other = bench.subscription().1;
        other["id"] = json!("of-somebody-else");
        other["channel"]["endpoint"] = json!("https://elsewhere.example/hook");
        let mut copy = bench.subscription().1;
        copy["id"] = json!("z-copy");
        let mut old = bench.subscription().1;
        old["id"] = json!("old");
        old["criteria"] = json!("Patient?");
        for resource in [other, copy, old] {
            bench.source.put(resource, now_ms);
        }
        bench.settle(now_ms + 1_000);
        let left: Vec<String> = bench.source.subscriptions().into_iter().map(|(id, _)| id).collect();
        let ours = left.iter().filter(|left| **left == id || *left == "z-copy").count();
        assert_eq!((left.len(), left[0].as_str(), ours), (2, "of-somebody-else", 1), "{left:?}");
        bench.source.delete("Subscription", "of-somebody-else");
        bench.settle(now_ms + 2 * MINUTE);
        bench.subscription();
    }
}

#[test]
fn a_subscription_is_renewed_long_before_its_end_and_the_old_secret_holds_for_a_while() {
    const DAY: i64 = 24 * 60 * MINUTE;
    let now_ms = start_ms();
    let mut settings = of_r4();
    settings["lifetime_days"] = json!(10);
    settings["catch_up"] = json!({"every_minutes": 10080});
    let mut bench = Bench::new(settings.clone());
    bench.settle(now_ms);
    let (id, first) = bench.subscription();
    let ends: jiff::Timestamp = first["end"].as_str().unwrap().parse().unwrap();
    assert!((now_ms + 10 * DAY..now_ms + 10 * DAY + MINUTE).contains(&ends.as_millisecond()), "{ends}");
    let old = bench.secrets(now_ms);
    assert_eq!(old.len(), 1);
    let header = first["channel"]["header"][0].as_str().unwrap().strip_prefix("Authorization: Bearer ").unwrap().to_owned();
    assert_eq!(nephrogate::digest::sha256_hex(header.as_bytes()), old[0], "only the hash is kept");
    let texts = bench.state().cursor + &format!("{old:?}");
    assert!(!texts.contains(&header), "the secret itself is nowhere here");
    bench.settle(now_ms + 4 * DAY);
    assert_eq!(bench.secrets(now_ms + 4 * DAY), old);
    let renewed_ms = now_ms + 5 * DAY + MINUTE;
    bench.settle(renewed_ms);
    let (same, second) = bench.subscription();
    assert_eq!(same, id);
    assert_ne!(second["channel"]["header"], first["channel"]["header"]);
    assert!(at(renewed_ms + 9 * DAY).as_str() < second["end"].as_str().unwrap());
    assert_eq!(bench.secrets(renewed_ms + 1_000).len(), 2, "a notification that was under way is heard");
    let left = bench.secrets(renewed_ms + 61 * MINUTE);
    assert!(left.len() == 1 && left != old);
    // Other settings are written into the same Subscription.
    settings["payload"] = json!("empty");
    bench.reconfigure(settings);
    bench.settle(renewed_ms + 2 * 60 * MINUTE);
    let (same, third) = bench.subscription();
    assert_eq!((same, &third["channel"]["payload"]), (id, &Value::Null));
}

#[test]
fn a_source_that_takes_no_subscription_is_told_of_and_polled() {
    let now_ms = start_ms();
    let mut bench = Bench::new(of_r4());
    bench.source.state().refusals.push(("POST /fhir/Subscription".into(), 403, usize::MAX));
    bench.source.put(result("a"), now_ms - MINUTE);
    bench.settle(now_ms);
    let state = bench.state();
    let words = state.trouble.clone().unwrap();
    assert!(words.contains("Observation?category=laboratory") && words.contains("403") && !words.contains("Jane"), "{words}");
    assert!(state.needs_person && state.complete_until_ms.is_some(), "it is read all the same: {state:?}");
    bench.source.put(result("b"), now_ms + MINUTE);
    let mut at_ms = now_ms;
    let (mut tries, mut seen_ms) = (0, None);
    while at_ms < now_ms + 60 * MINUTE {
        at_ms += 10_000;
        if bench.turn(at_ms).is_some() {
            tries += bench.source.asked_for("POST /fhir/Subscription");
        }
        if seen_ms.is_none() && bench.here("b").is_some() {
            seen_ms = Some(at_ms - now_ms);
        }
    }
    assert!((3..=7).contains(&tries), "with pauses that grow: {tries}");
    assert!(seen_ms.unwrap() <= 6 * MINUTE, "deaf, it is searched more often: {seen_ms:?}");
    // Somebody at the hospital gives the right.
    bench.source.state().refusals.clear();
    bench.settle(now_ms + 3 * 60 * MINUTE);
    bench.subscription();
    assert_eq!(bench.state().trouble, None);
}

#[test]
fn a_feed_that_is_removed_leaves_no_subscription_and_no_secret_behind() {
    let now_ms = start_ms();
    let mut bench = Bench::new(of_r4());
    bench.settle(now_ms);
    bench.subscription();
    bench.hear(&named("x"), now_ms + 1);
    let removed = |feeds: &[Feed]| subscription::removed(&bench.pipeline, feeds).unwrap();
    assert!(removed(std::slice::from_ref(&bench.feed)).is_empty());
    let ehr = Ehr::open(&bench.source.url, None).unwrap();
    let settings = serde_json::from_value(json!({"searches": [{"type": "Observation"}]})).unwrap();
    let of_another_kind = Feed { kind: Kind::Poll { ehr: ehr.clone(), settings }, ..bench.feed.clone() };
    assert_eq!(removed(&[of_another_kind]).len(), 1, "one that became another kind is removed as well");
    let gone = removed(&[]);
    assert_eq!((gone.len(), gone[0].site.as_str(), gone[0].feed.as_str()), (1, SITE, FEED));
    bench.source.state().refusals.push(("DELETE".into(), 503, 1));
    let failed = bench.runtime.block_on(subscription::remove(&bench.pipeline, &ehr, &gone[0]));
    assert!(matches!(failed, Err(Trouble::Later { .. })), "{failed:?}");
    assert_eq!(bench.secrets(now_ms).len(), 1, "as long as it stands it is heard");
    let count = bench.runtime.block_on(subscription::remove(&bench.pipeline, &ehr, &gone[0])).unwrap();
    assert_eq!((count, bench.source.subscriptions().len()), (1, 0));
    assert_eq!((bench.secrets(now_ms).len(), bench.hints()), (0, 0));
    assert!(subscription::left(&bench.pipeline, SITE, FEED).unwrap().is_none());
}

#[test]
fn two_gateways_that_hear_at_once_lose_no_number_and_no_hint() {
    on_both(|store| {
        nephrogate::app::install_tls_provider();
        store.write_blocking(|tx| nephrogate::store::feeds::register(tx, SITE, FEED, "subscription", None)).unwrap();
        let hear = |notification: &Notification| store.write_blocking(|tx| notified::hear(tx, SITE, FEED, notification, 1_000)).unwrap();
        hear(&topic_told("s1", Told::Handshake, 0, &[]));
        std::thread::scope(|scope| {
            for first in 1..=4_u64 {
                let hear = &hear;
                scope.spawn(move || {
                    for number in (first..=40).step_by(4) {
                        hear(&topic_told("s1", Told::EventNotification, number, &[(number, &format!("o{number}"))]));
                    }
                });
            }
        });
        let heard = store.read_blocking(|tx| notified::heard(tx, SITE, FEED)).unwrap();
        assert_eq!((heard.len(), heard[0].numbers.heard, heard[0].numbers.is_missing(), heard[0].heard_ms), (1, 40, false, 1_000));
        assert_eq!(store.read_blocking(|tx| nephrogate::store::feeds::hints_waiting(tx, SITE, FEED)).unwrap().0, 40);
        // Secrets: those of one Subscription crowd out its oldest, and no other's.
        let secret = |made_for: &str, number: u32, at_ms: i64| {
            store.write_blocking(|tx| notified::add_secret(tx, SITE, FEED, made_for, &format!("{made_for}{number}"), at_ms)).unwrap()
        };
        secret("other", 0, 0);
        (0..8).for_each(|number| secret("s", number, i64::from(number)));
        let mut known = store.read_blocking(|tx| notified::secrets(tx, SITE, FEED, 10)).unwrap();
        known.sort();
        assert_eq!(known, ["other0", "s3", "s4", "s5", "s6", "s7"]);
        store.write_blocking(|tx| notified::replace_secrets(tx, SITE, FEED, "s", "s7", 100)).unwrap();
        assert_eq!(store.read_blocking(|tx| notified::secrets(tx, SITE, FEED, 99)).unwrap().len(), 6);
        assert_eq!(store.read_blocking(|tx| notified::secrets(tx, SITE, FEED, 100)).unwrap(), ["other0", "s7"]);
        store.write_blocking(|tx| notified::forget(tx, SITE, FEED)).unwrap();
        assert!(store.read_blocking(|tx| notified::heard(tx, SITE, FEED)).unwrap().is_empty());
    });
}

fn door(rest: &str) -> String {
    format!("/notify/{SITE}/{FEED}{rest}")
}

/// A gateway that people at a source were given a secret of.
fn listening() -> (Gateway, Source) {
    let source = Source::start();
    let mut settings = of_r4();
    settings["secret_sha256"] = json!(nephrogate::digest::sha256_hex(b"zebra-crossing"));
    settings["catch_up"] = json!({"searches": [{"type": "Observation"}]});
    let feed = feed_of(&source.url, ENDPOINT, settings);
    let gateway = Gateway::start_with(|app| app.feeds = vec![feed]);
    gateway.wait_for(&format!("/api/sites/{SITE}/feeds"), |shown| !shown["feeds"][0]["succeeded_ms"].is_null());
    (gateway, source)
}

#[test]
fn only_who_knows_the_secret_is_heard_and_only_what_is_a_notification_is_taken() {
    let (gateway, source) = listening();
    let body = creatinine("o1", "p1", 9, 1, 9.9).to_string();
    let send = |method: &str, path: &str, authorization: Option<&str>, media: &str, body: &str| {
        let mut request = gateway.request(method, path).header("content-type", media).body(body.to_owned());
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization);
        }
        gateway.send(request)
    };
    const FHIR: &str = "application/fhir+json";
    const GOOD: Option<&str> = Some("Bearer zebra-crossing");
    let strangers = [
        (door(""), None),
        (door(""), Some("Bearer zebra")),
        (door(""), Some("Bearer ")),
        (door(""), Some("Basic zebra-crossing")),
        (door(""), Some("zebra-crossing")),
        (format!("/notify/{SITE}/other"), GOOD),
        (format!("/notify/elsewhere/{FEED}"), GOOD),
        (door("/Observation/o1"), Some("Bearer zebra")),
    ];
    for (path, authorization) in strangers {
        for method in ["POST", "PUT"] {
            let refused = send(method, &path, authorization, FHIR, &body);
            assert_eq!(refused.status, 401, "{method} {path} {authorization:?}: {}", refused.text());
            assert_eq!(refused.json()["resourceType"], "OperationOutcome");
            assert!(!refused.text().contains("zebra"));
        }
    }
    assert_eq!(send("DELETE", &door("/Observation/o1"), None, FHIR, "").status, 401);
    let large = format!("{{\"resourceType\":\"Observation\",\"id\":\"x\",\"note\":\"{}\"}}", "x".repeat(17 << 20));
    let table = [
        ("POST", door(""), FHIR, "<html>sign in</html>", 400, "not-json"),
        ("POST", door(""), "text/html", "<html>sign in</html>", 415, ""),
        ("POST", door(""), "application/fhir+xml", "<Observation/>", 415, ""),
        ("POST", door(""), "application/fhir+ndjson", "{}\n{}", 415, ""),
        ("POST", door(""), FHIR, "{}", 400, "wrong-resource-type"),
        ("POST", door(""), FHIR, r#"{"resourceType":"Bundle","type":"history","entry":[]}"#, 400, "invalid-bundle"),
        ("PUT", door("/Observation/other"), FHIR, body.as_str(), 400, "invalid-id"),
        ("PUT", door("/Patient/o1"), FHIR, body.as_str(), 400, "wrong-resource-type"),
        ("PUT", door("/observation/o1"), FHIR, "", 400, "wrong-resource-type"),
        ("PUT", door("/Observation/o%201"), FHIR, "", 400, "invalid-id"),
        ("POST", door(""), FHIR, large.as_str(), 413, "too-large"),
    ];
    for (method, path, media, body, status, code) in table {
        let refused = send(method, &path, GOOD, media, body);
        let short = &body[..body.len().min(60)];
        assert_eq!(
            (refused.status, refused.json()["resourceType"].as_str()),
            (status, Some("OperationOutcome")),
            "{path} {short}: {}",
            refused.text()
        );
        assert!(code.is_empty() || refused.json()["issue"][0]["details"]["coding"][0]["code"] == code, "{path} {short}: {}", refused.text());
    }
    assert_eq!(gateway.send(gateway.request("GET", &door("")).header("authorization", "Bearer zebra-crossing")).status, 405);
    let hints = gateway.store.read_blocking(|tx| nephrogate::store::feeds::hints_waiting(tx, SITE, FEED)).unwrap();
    assert_eq!(hints.0, 0, "nothing of it was kept");
    // A handshake and a heartbeat are answered; HAPI FHIR calls an empty body a form.
    for kind in ["handshake", "heartbeat"] {
        let bundle = bundle("R4", vec![status_entry("R4", kind, "active", 0, &[])]).to_string();
        assert_eq!(send("POST", &door(""), GOOD, FHIR, &bundle).status, 200, "{kind}");
    }
    assert_eq!(send("POST", &door(""), Some("bearer zebra-crossing"), "application/x-www-form-urlencoded", "").status, 200);
    // What was sent says 9.9; the source says 2.0, and that is the fact.
    source.put(result("o1"), start_ms());
    assert_eq!(send("PUT", &door("/Observation/o1"), GOOD, "application/fhir+json; charset=utf-8", &body).status, 200);
    let path = format!("/fhir/{SITE}/Observation/o1");
    wait_for_status(&gateway, &path, 200);
    let here = gateway.get(&path).json();
    assert_eq!((&here["valueQuantity"]["value"], &here["meta"]["versionId"]), (&json!(2.0), &json!("1")));
    source.delete("Observation", "o1");
    assert_eq!(send("DELETE", &door("/Observation/o1"), GOOD, FHIR, "").status, 200);
    wait_for_status(&gateway, &path, 404);
    assert_eq!(source.subscriptions().len(), 0, "where people made the Subscription, none is made");
    gateway.conservation();
}

#[track_caller]
fn wait_for_status(gateway: &Gateway, path: &str, status: u16) {
    let deadline = Instant::now() + Duration::from_secs(90);
    while gateway.get(path).status != status {
        assert!(Instant::now() < deadline, "not in time: {path} {status}; {}", gateway.get(&format!("/api/sites/{SITE}/feeds")).text());
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_configured_subscription_names_its_endpoint_and_its_faults() {
    let config = |public_url: Option<&str>, subscription: Value, has_source: bool| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("gateway.json");
        let mut site = json!({"site": SITE, "note": "a test", "feeds": [{"name": FEED, "note": "n", "subscription": subscription}]});
        if has_source {
            site["source"] = json!({"base_url": "https://ehr.example/fhir"});
        }
        let mut text = json!({"listen": "127.0.0.1:0", "store": {"sqlite_dir": "store"}, "sites": [site]});
        if let Some(public_url) = public_url {
            text["public_url"] = json!(public_url);
        }
        std::fs::write(&file, text.to_string()).unwrap();
        nephrogate::config::Config::read(&file)
    };
    nephrogate::app::install_tls_provider();
    const URL: Option<&str> = Some("https://gateway.example");
    for settings in [of_r4(), of_topic()] {
        let feeds = config(URL, settings, true).unwrap().feeds().unwrap();
        let Kind::Subscription { endpoint, .. } = &feeds[0].kind else { panic!("another kind") };
        assert_eq!(endpoint, &format!("https://gateway.example/notify/{SITE}/{FEED}"));
    }
    let with = |mut settings: Value, name: &str, value: Value| {
        settings[name] = value;
        settings
    };
    let table = [
        (URL, of_r4(), false, ""),
        (None, of_r4(), true, "/public_url"),
        (Some("http://gateway.example"), of_r4(), true, "/public_url"),
        (URL, with(of_r4(), "public_url", json!("http://10.0.0.7:8080")), true, "/public_url"),
        (URL, with(of_r4(), "criteria", json!(["Observation"])), true, "/criteria"),
        (URL, with(of_r4(), "criteria", json!(["Observation?code=a b"])), true, "/criteria"),
        (URL, with(of_r4(), "criteria", json!(["Observation?date=ge2026&date=lt2027"])), true, "/catch_up"),
        (URL, with(of_r4(), "heartbeat_seconds", json!(60)), true, "/style"),
        (URL, with(of_r4(), "payload", json!("id-only")), true, "/style"),
        (URL, with(of_r4(), "topics", json!([{"topic": TOPIC}])), true, "/criteria"),
        (URL, with(of_topic(), "criteria", json!(["Observation?"])), true, "/topics"),
        (URL, with(of_topic(), "catch_up", json!({})), true, "/catch_up"),
        (URL, json!({"style": "r5"}), true, "/topics"),
        (URL, with(of_topic(), "style", json!("r6")), true, "/style"),
        (URL, with(of_topic(), "heartbeat_seconds", json!(1)), true, "/heartbeat_seconds"),
    ];
    for (url, settings, has_source, field) in table {
        let faults = config(url, settings.clone(), has_source).err().unwrap_or_else(|| panic!("no fault: {settings}"));
        assert!(faults.iter().any(|fault| fault.path == format!("/sites/0/feeds/0/subscription{field}")), "{field}: {faults:?}");
    }
}
