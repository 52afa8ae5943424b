//! Bulk Data exports taken from a server with named faults, from SEKMET and from HAPI FHIR: whatever happens on the way, what
//! is here in the end is what an import of the same files brings.

mod compared;
mod stub;

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use nephrogate::catalogue::Catalogue;
use nephrogate::clinical::chart::Chart;
use nephrogate::clinical::date::AsOf;
use nephrogate::config::Config;
use nephrogate::ehr::Ehr;
use nephrogate::ehr::access::{Access, Credentials};
use nephrogate::feeds::bulk::kick_off::{Export, Level};
use nephrogate::feeds::bulk::manifest::{self, Content, NoManifest, NotNdjson, Outcomes};
use nephrogate::feeds::bulk::{Settings, Stage};
use nephrogate::feeds::{self, Beside, Feed, Kind, Round, Seen, Task, Trouble};
use nephrogate::pipeline::backfill;
use nephrogate::pipeline::{Pipeline, Receivers, digest, import};
use nephrogate::store::messages::{self, Conservation};
use nephrogate::store::{FILE_NAME, Store, ledger};
use serde_json::{Value, json};

use self::stub::{Fault, File, Stub, World};
use crate::counterparts::{shared_hapi, start_sekmet};
use crate::import::{conservation, nephrogate, observation};
use crate::stores::empty_postgres;

const SITE: &str = "demo-hospital";
const FEED: &str = "export";
/// After the stub's transaction time, by our clock.
const START_MS: i64 = 1_793_000_000_000;
const TRANSACTION_TIME: &str = "2026-10-25T12:00:00.250Z";
const TRANSACTION_MS: i64 = 1_792_929_600_250;

struct Gateway {
    pipeline: Pipeline,
    feed: Feed,
    runtime: tokio::runtime::Runtime,
    _folder: Option<tempfile::TempDir>,
}

fn catalogue() -> Arc<Catalogue> {
    static CATALOGUE: OnceLock<Arc<Catalogue>> = OnceLock::new();
    CATALOGUE.get_or_init(|| Arc::new(Catalogue::load(None).unwrap_or_else(|faults| panic!("{faults:?}")))).clone()
}

fn pipeline(store: Store) -> Pipeline {
    Pipeline { store, catalogue: catalogue(), receivers: Arc::new(Receivers::new()) }
}

/// Settings as they stand in the configuration, with short waits.
fn settings(more: &Value) -> Settings {
    let mut all = json!({"level": "system", "types": ["Patient", "Observation"], "poll_at_most_seconds": 1});
    for (name, value) in more.as_object().unwrap() {
        all[name] = value.clone();
    }
    serde_json::from_str(&all.to_string()).unwrap()
}

impl Gateway {
    fn new(base_url: &str, more: &Value) -> Gateway {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open_sqlite(&folder.path().join(FILE_NAME)).unwrap();
        Gateway::on(store, Some(folder), Ehr::open(base_url, None).unwrap(), more)
    }

    fn on(store: Store, folder: Option<tempfile::TempDir>, ehr: Ehr, more: &Value) -> Gateway {
        let pipeline = pipeline(store);
        let kind = Kind::Bulk { ehr, settings: settings(more) };
        let feed = Feed { site: SITE.to_owned(), name: FEED.to_owned(), silent_after_ms: None, kind };
        feeds::register(&pipeline, std::slice::from_ref(&feed)).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        Gateway { pipeline, feed, runtime, _folder: folder }
    }

    fn change(&mut self, more: &Value) {
        let Kind::Bulk { settings: current, .. } = &mut self.feed.kind else { panic!("a feed by Bulk Data") };
        *current = settings(more);
    }

    /// A round at this time, whoever is due.
    fn round_at(&self, now_ms: i64) -> Result<Round, Trouble> {
        self.watched_round_at(now_ms, &|_| {})
    }

    fn watched_round_at(&self, now_ms: i64, watch: &(dyn Fn(&Round) + Sync)) -> Result<Round, Trouble> {
        self.work_at(&Task::Round, now_ms, watch)
    }

    fn work_at(&self, task: &Task, now_ms: i64, watch: &(dyn Fn(&Round) + Sync)) -> Result<Round, Trouble> {
        self.pipeline.store.write_blocking(|tx| nephrogate::store::feeds::ask(tx, SITE, FEED, now_ms)).unwrap();
        let (_stop, mut stopped) = tokio::sync::watch::channel(false);
        let beat = AtomicI64::new(now_ms);
        let beside = Beside { beat: &beat, stopped: &mut stopped, watch };
        let worked = self.runtime.block_on(feeds::work(&self.pipeline, &self.feed, task, &mut Seen::default(), now_ms, beside));
        worked.unwrap().expect("it is this feed's turn")
    }

    fn round(&self) -> Result<Round, Trouble> {
        self.round_at(START_MS)
    }

    fn state(&self) -> nephrogate::store::feeds::FeedState {
        self.pipeline.store.read_blocking(|tx| nephrogate::store::feeds::state(tx, SITE, FEED)).unwrap().unwrap()
    }

    fn held(&self) -> Held {
        Held::of(&self.pipeline)
    }
}

/// What a store holds, whichever door it came by.
#[derive(Debug, PartialEq)]
struct Held {
    counts: Conservation,
    /// Digest of the facts and of the verdicts of each subject.
    subjects: BTreeMap<String, ([u8; 32], [u8; 32])>,
}

impl Held {
    fn of(pipeline: &Pipeline) -> Held {
        let counts = pipeline.store.read_blocking(|tx| messages::conservation(tx, SITE)).unwrap();
        assert_eq!(counts.difference, 0, "{counts:?}");
        assert!(counts.rows_agree, "{counts:?}");
        let of_site = digest::of_site(pipeline, SITE, AsOf::instant(START_MS), &|_, _| {}).unwrap();
        let subjects = of_site.digest.subjects().into_iter().map(|digest| (digest.subject.clone(), (digest.facts, digest.verdicts)));
        Held { counts, subjects: subjects.collect() }
    }

    /// Of these subjects alone.
    fn only(&self, subjects: &[String]) -> BTreeMap<String, ([u8; 32], [u8; 32])> {
        self.subjects.iter().filter(|(subject, _)| subjects.contains(subject)).map(|(subject, digests)| (subject.clone(), *digests)).collect()
    }
}

/// What an import of the same files brings.
fn imported() -> &'static Held {
    static IMPORTED: OnceLock<Held> = OnceLock::new();
    IMPORTED.get_or_init(|| Held::of(&import_of(&export()).0))
}

/// A gateway into whose store these files were imported, and its folder.
fn import_of(files: &[File]) -> (Pipeline, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    for (number, (resource_type, text)) in files.iter().enumerate() {
        std::fs::write(folder.path().join(format!("{number}.{resource_type}.ndjson")), text).unwrap();
    }
    let pipeline = pipeline(Store::open_sqlite(&folder.path().join("store").join(FILE_NAME)).unwrap());
    let found = import::find_files(&[folder.path().to_owned()]).unwrap();
    let beside = backfill::Beside { now_ms: &|| START_MS, is_stopped: &|| false, watch: &|_| {} };
    import::import(&pipeline, &pipeline.catalogue.sites[SITE], import::FEED, &found, beside).unwrap();
    (pipeline, folder)
}

const PATIENTS: usize = 40;
/// The second file is some blocks long, of a megabyte each.
const RESULTS: usize = 8500;

fn patient(number: usize) -> String {
    json!({"resourceType": "Patient", "id": format!("p{number}"), "meta": {"versionId": "1", "lastUpdated": "2026-10-01T00:00:00Z"},
        "gender": "female", "birthDate": "1960-01-01"})
    .to_string()
}

/// Patients, and two files of results with what a real export has: unmapped codes, a correction, a type that is not read, a line
/// that is no JSON, a line twice, Windows line ends and an empty line.
fn export() -> Vec<File> {
    let patients: String = (0..PATIENTS).map(|number| patient(number) + "\n").collect();
    let result = |number: usize| observation(&format!("o{number}"), &format!("p{}", number % PATIENTS), 1.0 + (number % 17) as f64 / 10.0);
    let third: String = (0..1500).map(|number| result(number) + "\n").collect();
    let mut second: Vec<String> = (1500..RESULTS).map(result).collect();
    second[10] = second[10].replace("2160-0", "99999-9");
    second[20] = result(5).replace("\"versionId\":\"1\"", "\"versionId\":\"2\"").replace("\"final\"", "\"corrected\"").replace("1.5", "3.5");
    second[30] = json!({"resourceType": "Device", "id": "d1"}).to_string();
    second[40] = "{\"resourceType\":\"Observation\",".to_owned();
    second[50] = second[49].clone();
    second[60].push('\r');
    second[70].push('\n');
    // No line end at its end.
    vec![("Patient", patients), ("Observation", second.join("\n")), ("Observation", third)]
}

fn stub(faults: impl IntoIterator<Item = Fault>) -> Stub {
    Stub::start(world(faults))
}

fn world(faults: impl IntoIterator<Item = Fault>) -> World {
    World {
        files: export(),
        faults: faults.into_iter().collect(),
        transaction_time: TRANSACTION_TIME.to_owned(),
        requires_access_token: true,
        ..World::default()
    }
}

#[track_caller]
fn later(round: Result<Round, Trouble>) -> (String, Option<i64>) {
    match round {
        Err(Trouble::Later { words, after_ms }) => (words, after_ms),
        other => panic!("it should be tried again later: {other:?}"),
    }
}

#[track_caller]
fn person(round: Result<Round, Trouble>) -> String {
    match round {
        Err(Trouble::Person { words }) => words,
        other => panic!("a person should be needed: {other:?}"),
    }
}

#[test]
fn an_export_is_asked_for_waited_for_taken_and_ended_and_brings_what_an_import_brings() {
    let stub = stub([Fault::Busy]);
    let gateway = Gateway::new(&stub.base_url(), &json!({}));
    let percent = std::sync::Mutex::new(Vec::new());
    let watch = |round: &Round| {
        if let Some(Stage::Preparing { percent: Some(at) }) = round.stage {
            percent.lock().unwrap().push(at);
        }
    };
    let round = gateway.watched_round_at(START_MS, &watch).unwrap();
    assert_eq!(gateway.held(), *imported());
    assert_eq!(percent.into_inner().unwrap(), [40, 40, 40]);
    assert_eq!((round.shown, round.rejected, round.remark), (PATIENTS + RESULTS, 1, None));
    assert_eq!(round.complete_until_ms, Some(TRANSACTION_MS));
    assert_eq!(round.next_in_ms, 24 * 3_600_000);
    assert!(gateway.pipeline.store.read_blocking(|tx| ledger::waiting(tx, 1)).unwrap().is_empty(), "everybody is judged");

    let asked = stub.world().asked.clone();
    let kick_off = &asked[0];
    assert_eq!(
        (kick_off.method.as_str(), kick_off.target.as_str()),
        ("GET", "/fhir/$export?_outputFormat=application%2Ffhir%2Bndjson&_type=Patient%2CObservation")
    );
    assert_eq!((kick_off.headers["prefer"].as_str(), kick_off.headers["accept"].as_str()), ("respond-async", "application/fhir+json"));
    let look = asked.iter().find(|asked| asked.target == "/fhir/jobs/1" && asked.method == "GET").unwrap();
    assert_eq!(look.headers["accept"], "application/json");
    let file = asked.iter().find(|asked| asked.target == "/files/1/0.ndjson").unwrap();
    assert_eq!(file.headers["accept"], "application/fhir+ndjson");
    assert_eq!(stub.targets("DELETE"), ["/fhir/jobs/1"], "the server is told that it may forget");
    assert!(stub.world().jobs.is_empty());
}

#[test]
fn the_next_export_is_of_what_changed_since_less_an_overlap_and_what_was_deleted_is_withdrawn() {
    let stub = stub([]);
    let gateway = Gateway::new(&stub.base_url(), &json!({"overlap_seconds": 60}));
    gateway.round().unwrap();
    let of_both = |id: &str, other: &str| {
        let entry = |id: &str| json!({"request": {"method": "DELETE", "url": format!("Observation/{id}")}});
        json!({"resourceType": "Bundle", "type": "transaction", "entry": [entry(id), entry(other)]}).to_string()
    };
    {
        let mut world = stub.world();
        world.files = vec![("Observation", observation("new", "p1", 2.0) + "\n")];
        world.deleted = vec![of_both("o1", "o2"), of_both("o3", "never-came")];
        world.transaction_time = "2026-10-26T12:00:00Z".to_owned();
    }
    let before = gateway.held();
    let round = gateway.round_at(START_MS + 86_400_000).unwrap();
    assert_eq!((round.shown, round.taken, round.withdrawn), (4, 4, 3));
    assert!(stub.kick_offs()[1].target.contains("&_type="), "{}", stub.kick_offs()[1].target);
    assert!(stub.kick_offs()[1].target.contains("_since=2026-10-25T11%3A59%3A00.25Z"), "{}", stub.kick_offs()[1].target);
    let held = gateway.held();
    assert_eq!(held.counts.received, before.counts.received + 4);
    let chart = |id: &str, subject: &str| {
        let facts = gateway.pipeline.store.read_blocking(|tx| ledger::facts(tx, SITE, subject)).unwrap().facts;
        Chart::fold(facts, &[]).measurements.iter().any(|result| result.source.id == id)
    };
    assert!(!chart("o1", "p1") && !chart("o2", "p2") && !chart("o3", "p3"), "withdrawn");
    assert!(chart("o4", "p4") && chart("new", "p1"), "and all else stands");
}

#[test]
fn what_changed_after_it_was_asked_for_is_asked_for_again_whatever_the_server_stamps() {
    let stub = stub([]);
    // A server that stamps the end of its work, by a clock ahead of ours.
    stub.world().transaction_time = "2026-12-31T00:00:00Z".to_owned();
    let gateway = Gateway::new(&stub.base_url(), &json!({"overlap_seconds": 0, "whole_every_days": 7}));
    let round = gateway.round().unwrap();
    let asked_ms = round.complete_until_ms.unwrap();
    assert!((START_MS..START_MS + 60_000).contains(&asked_ms), "{asked_ms}");
    gateway.round_at(START_MS + 86_400_000).unwrap();
    assert!(stub.kick_offs()[1].target.contains("_since="));
    gateway.round_at(START_MS + 8 * 86_400_000).unwrap();
    assert!(!stub.kick_offs()[2].target.contains("_since="), "and everything once a week");
}

#[test]
fn manifests_that_come_in_parts_are_followed_to_the_last() {
    let stub = stub([Fault::Parts]);
    stub.world().errors =
        vec![json!({"resourceType": "OperationOutcome", "issue": [{"severity": "information", "code": "informational"}]}).to_string()];
    let gateway = Gateway::new(&stub.base_url(), &json!({"partial_manifests": true}));
    let round = gateway.round().unwrap();
    assert_eq!(gateway.held(), *imported());
    assert_eq!((round.remark, round.complete_until_ms), (None, Some(TRANSACTION_MS)));
    assert!(stub.kick_offs()[0].target.ends_with("&allowPartialManifests=true"));
    let fetched: Vec<String> = stub.targets("GET").into_iter().filter(|target| target.starts_with("/files") || target.contains("more")).collect();
    assert_eq!(fetched[0], "/files/1/0.ndjson", "the first file is taken while the server works on the others: {fetched:?}");
}

#[test]
fn manifests_that_lead_back_to_one_another_are_told_once_and_end_the_round() {
    let stub = stub([Fault::Circle]);
    let gateway = Gateway::new(&stub.base_url(), &json!({"partial_manifests": true}));
    assert_eq!(person(gateway.round()), "the export's manifests lead back to one another");
    let counts = gateway.held().counts;
    assert_eq!(counts.received, (PATIENTS + RESULTS) as i64, "each file once");
}

#[test]
fn a_configured_export_is_checked_and_faults_are_named_by_their_place() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.json");
    let read = |bulk: &Value, source: &Value| {
        let feed = json!({"name": FEED, "note": "a test", "bulk": bulk});
        let mut site = json!({"site": SITE, "note": "a test", "feeds": [feed]});
        if !source.is_null() {
            site["source"] = source.clone();
        }
        let config = json!({"listen": "127.0.0.1:0", "store": {"sqlite_dir": "store"}, "sites": [site]});
        std::fs::write(&file, config.to_string()).unwrap();
        Config::read(&file)
    };
    let source = json!({"base_url": "https://ehr.example.org/fhir"});
    let good = json!({"level": "group", "group": "ckd-clinic", "types": ["Patient", "Observation"], "type_filters": ["Observation?category=laboratory"],
        "method": "post", "every_hours": 12, "whole_every_days": 7, "partial_manifests": true, "accepts_gaps": true, "give_up_hours": 48,
        "poll_at_most_seconds": 60, "overlap_seconds": 0});
    let feeds = read(&good, &source).unwrap().feeds().unwrap();
    let Kind::Bulk { settings, .. } = &feeds[0].kind else { panic!("a feed by Bulk Data") };
    assert_eq!((settings.level, settings.group.as_deref(), settings.every_hours), (Level::Group, Some("ckd-clinic"), 12));
    assert!(read(&json!({"level": "system"}), &source).is_ok());
    for (bulk, place) in [
        (json!({"level": "group"}), "/sites/0/feeds/0/bulk"),
        (json!({"level": "patient", "group": "x"}), "/sites/0/feeds/0/bulk"),
        (json!({"level": "everything"}), "/sites/0/feeds/0/bulk/level"),
        (json!({"level": "group", "group": "../Patient"}), "/sites/0/feeds/0/bulk/group"),
        (json!({"level": "system", "type_filters": ["category=laboratory"]}), "/sites/0/feeds/0/bulk/type_filters/0"),
        (json!({"level": "system", "every_days": 1}), "/sites/0/feeds/0/bulk"),
    ] {
        let faults = read(&bulk, &source).unwrap_err();
        assert!(faults.iter().any(|fault| fault.path.starts_with(place)), "{bulk}: {faults:?}");
    }
    let faults = read(&json!({"level": "system"}), &Value::Null).unwrap_err();
    assert_eq!(faults[0].path, "/sites/0/feeds/0/bulk", "{faults:?}");
}

#[test]
fn what_the_server_could_not_export_is_told_and_asked_for_again() {
    let outcome = |severity: &str, code: &str| {
        json!({"resourceType": "OperationOutcome", "issue": [{"severity": severity, "code": code, "diagnostics": "Mrs Example, born 1960"}]})
            .to_string()
    };
    let stub = stub([]);
    stub.world().errors = vec![outcome("error", "processing"), outcome("error", "processing"), outcome("warning", "Mrs-Example")];
    let mut gateway = Gateway::new(&stub.base_url(), &json!({}));
    let round = gateway.round().unwrap();
    assert_eq!(round.remark.as_deref(), Some("the EHR could not export everything: 2 error processing, 1 warning other"));
    assert_eq!(round.complete_until_ms, None);
    assert_eq!(gateway.held(), *imported(), "what came is kept");
    let state = gateway.state();
    assert_eq!((state.trouble, state.needs_person, state.failures, state.complete_until_ms), (round.remark, true, 0, None));

    gateway.change(&json!({"accepts_gaps": true}));
    let round = gateway.round_at(START_MS + 86_400_000).unwrap();
    assert!(!stub.kick_offs()[1].target.contains("_since"), "an export with gaps is no ground to stand on");
    assert!(round.remark.is_some() && round.complete_until_ms == Some(TRANSACTION_MS), "unless a site knows that it has some");
}

#[test]
fn a_count_that_disagrees_with_a_file_is_told() {
    let stub = stub([Fault::Miscounted]);
    let gateway = Gateway::new(&stub.base_url(), &json!({}));
    let round = gateway.round().unwrap();
    assert_eq!(round.remark.as_deref(), Some("1 files hold another number of resources than the manifest says"));
    assert_eq!(gateway.held(), *imported());
}

#[test]
fn packed_files_and_wrong_content_types_are_taken_as_they_are() {
    for fault in [Fault::Gzip, Fault::GzipFiles, Fault::WrongType] {
        let stub = stub([fault]);
        let gateway = Gateway::new(&stub.base_url(), &json!({}));
        assert_eq!(gateway.round().unwrap().remark, None, "{fault:?}");
        assert_eq!(gateway.held(), *imported(), "{fault:?}");
    }
}

#[test]
fn a_file_that_is_cut_off_goes_on_in_the_same_line_and_each_line_is_taken_once() {
    let stub = stub([Fault::SecondCut, Fault::TooManyLooks]);
    let gateway = Gateway::new(&stub.base_url(), &json!({}));
    gateway.round().unwrap();
    assert_eq!(gateway.held(), *imported());
    assert_eq!(stub.targets("GET").iter().filter(|target| *target == "/files/1/1.ndjson").count(), 2);
    assert_eq!(stub.targets("GET").iter().filter(|target| *target == "/files/1/0.ndjson").count(), 1);
}

#[test]
fn a_file_that_comes_back_in_another_order_is_taken_from_its_start() {
    let stub = stub([Fault::SecondCutAndReordered]);
    let gateway = Gateway::new(&stub.base_url(), &json!({}));
    assert_eq!(gateway.round().unwrap().remark, None);
    let (held, imported) = (gateway.held(), imported());
    assert_eq!(held.subjects, imported.subjects);
    assert_eq!(held.counts.dispositions["applied"], imported.counts.dispositions["applied"]);
    let twice = held.counts.received - imported.counts.received;
    assert!(0 < twice && twice < RESULTS as i64 - 1500, "what was taken before comes as duplicates: {twice}");
}

#[test]
fn a_file_that_is_cut_off_each_time_ends_the_round_and_the_next_goes_on_with_the_same_job() {
    for fault in [Fault::SecondAlwaysCut, Fault::SecondTruncated] {
        let stub = stub([fault]);
        let gateway = Gateway::new(&stub.base_url(), &json!({}));
        let (words, _) = later(gateway.round());
        assert_eq!(words, "file 2 of 3 of the export (Observation) broke off", "{fault:?}");
        let received = gateway.held().counts.received;
        assert!(40 < received && received < (PATIENTS + RESULTS) as i64 - 1500, "{fault:?}: {received}");
        stub.world().faults.clear();
        gateway.round_at(START_MS + 86_400_000).unwrap();
        assert_eq!(gateway.held(), *imported(), "{fault:?}");
        assert_eq!(stub.kick_offs().len(), 1, "{fault:?}");
    }
}

#[test]
fn an_export_whose_file_is_gone_is_asked_for_again_and_what_came_is_kept() {
    let stub = stub([]);
    let gateway = Gateway::new(&stub.base_url(), &json!({}));
    gateway.round().unwrap();
    let before = gateway.held().counts;
    let fresh = |id: &str| observation(id, "p1", 2.0) + "\n";
    {
        let mut world = stub.world();
        world.faults.insert(Fault::SecondGone);
        world.files = vec![("Observation", fresh("new-1")), ("Observation", fresh("new-2"))];
    }
    let round = gateway.round_at(START_MS + 86_400_000).unwrap();
    assert_eq!((round.remark, round.shown, round.taken), (None, 3, 2), "the first file came twice");
    let counts = gateway.held().counts;
    assert_eq!(counts.dispositions["applied"], before.dispositions["applied"] + 2);
    assert_eq!(counts.dispositions["duplicate"], before.dispositions["duplicate"] + 1);
    let kick_offs = stub.kick_offs();
    assert_eq!(kick_offs.len(), 3);
    assert!(kick_offs[1].target.contains("_since="), "{}", kick_offs[1].target);
    assert_eq!(kick_offs[1].target, kick_offs[2].target, "with the same _since");
    assert!(stub.world().jobs.is_empty(), "all jobs are ended");
}

#[test]
fn exports_whose_files_are_always_gone_do_not_go_round_for_ever() {
    let stub = stub([Fault::SecondAlwaysGone]);
    let gateway = Gateway::new(&stub.base_url(), &json!({}));
    let (words, _) = later(gateway.round());
    assert_eq!(words, "3 exports in a row were gone before all their files were taken");
    assert_eq!(stub.kick_offs().len(), 3);
    assert!(stub.world().jobs.is_empty());
}

#[test]
fn a_file_whose_address_was_renewed_is_taken_from_there_with_the_same_job() {
    let stub = stub([Fault::SecondMoved]);
    let gateway = Gateway::new(&stub.base_url(), &json!({}));
    gateway.round().unwrap();
    assert_eq!(gateway.held(), *imported());
    assert_eq!(stub.kick_offs().len(), 1);
}

#[test]
fn a_job_that_is_gone_is_asked_for_again() {
    let stub = stub([Fault::JobGone]);
    let gateway = Gateway::new(&stub.base_url(), &json!({}));
    gateway.round().unwrap();
    assert_eq!(gateway.held(), *imported());
    assert_eq!(stub.kick_offs().len(), 2);
}

#[test]
fn a_job_that_is_never_ready_is_given_up_and_told() {
    let stub = stub([Fault::NeverReady]);
    let gateway = Gateway::new(&stub.base_url(), &json!({"give_up_hours": 5}));
    let stopped = gateway.runtime.block_on(async {
        let (stop, mut stopped) = tokio::sync::watch::channel(false);
        let beat = AtomicI64::new(START_MS);
        let stop_at_once = |_: &Round| {
            stop.send_replace(true);
        };
        let beside = Beside { beat: &beat, stopped: &mut stopped, watch: &stop_at_once };
        feeds::work(&gateway.pipeline, &gateway.feed, &Task::Round, &mut Seen::default(), START_MS, beside).await
    });
    assert!(matches!(stopped, Ok(Some(Err(Trouble::Stopped)))), "{stopped:?}");
    let (words, _) = later(gateway.round_at(START_MS + 6 * 3_600_000));
    assert_eq!(words, "the EHR did not finish an export within 5 h; it was given up");
    assert_eq!(stub.targets("DELETE"), ["/fhir/jobs/1"]);
    assert_eq!(stub.kick_offs().len(), 1, "until then it was one job");
    stub.world().faults.clear();
    gateway.round_at(START_MS + 7 * 3_600_000).unwrap();
    assert_eq!(stub.kick_offs().len(), 2);
}

#[test]
fn an_export_that_fails_is_told_and_asked_for_anew() {
    let stub = stub([Fault::Fails]);
    let gateway = Gateway::new(&stub.base_url(), &json!({}));
    let (words, _) = later(gateway.round());
    assert_eq!(words, "the EHR failed to make an export: 500; it is asked for again");
    stub.world().faults.clear();
    gateway.round_at(START_MS + 3_600_000).unwrap();
    assert_eq!(stub.kick_offs().len(), 2);
    assert_eq!(gateway.held(), *imported());
}

#[test]
fn what_stands_in_the_way_is_told_in_one_sentence_and_without_any_address_of_a_file() {
    let page = "it is no NDJSON, such as a web page: a proxy or a sign-in page may stand before the files";
    let wrapped = "it is wrapped into a Binary: the EHR does not send files as they are";
    let outcome = "it is an OperationOutcome, with a status that says success";
    for (fault, expected) in [(Fault::SecondPage, page), (Fault::SecondWrapped, wrapped), (Fault::SecondOutcome, outcome)] {
        let stub = stub([fault]);
        let gateway = Gateway::new(&stub.base_url(), &json!({}));
        assert_eq!(person(gateway.round()), format!("file 2 of 3 of the export (Observation): {expected}"), "{fault:?}");
        assert_eq!(gateway.held().counts.received, PATIENTS as i64, "nothing of that file is taken for a message: {fault:?}");
        assert_eq!(stub.targets("GET").iter().filter(|target| *target == "/files/1/1.ndjson").count(), 1, "{fault:?}");
    }
    let gateway_of = |fault| {
        let stub = stub([fault]);
        (Gateway::new(&stub.base_url(), &json!({})), stub)
    };
    let (gateway, stub) = gateway_of(Fault::NoExport);
    assert_eq!(person(gateway.round()), "the EHR has no such export: 404; check level and group, and whether it offers Bulk Data");
    assert_eq!(stub.world().asked.len(), 1);
    let (gateway, _stub) = gateway_of(Fault::OneAtATime);
    assert_eq!(later(gateway.round()), ("the EHR cannot answer now: 429".to_owned(), Some(120_000)));
    let (gateway, _stub) = gateway_of(Fault::ManifestPage);
    let (words, _) = later(gateway.round());
    assert_eq!(words, "the export's manifest is not JSON, such as a web page: a proxy or a sign-in page may stand before the EHR");
}

#[test]
fn our_token_goes_to_the_ehrs_own_server_alone() {
    let elsewhere = Stub::start(world([]));
    let address = format!("http://{}", elsewhere.address);
    let here = |requires_access_token: bool| Stub::start(World { files_at: Some(address.clone()), requires_access_token, ..world([]) });
    let gateway_of = |stub: &Stub, file_hosts: &[String]| {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open_sqlite(&folder.path().join(FILE_NAME)).unwrap();
        let access = Access { credentials: Credentials::Bearer("secret".to_owned()), file_hosts: file_hosts.to_vec(), ..Access::default() };
        Gateway::on(store, Some(folder), Ehr::open_with(&stub.base_url(), access).unwrap(), &json!({}))
    };
    let authorized = |stub: &Stub| stub.world().asked.iter().filter(|asked| asked.headers.contains_key("authorization")).count();

    let own = stub([]);
    gateway_of(&own, &[]).round().unwrap();
    assert_eq!(authorized(&own), own.world().asked.len(), "every request of our own server's");
    let open = Stub::start(World { requires_access_token: false, ..world([]) });
    gateway_of(&open, &[]).round().unwrap();
    let without: Vec<String> =
        open.world().asked.iter().filter(|asked| !asked.headers.contains_key("authorization")).map(|asked| asked.target.clone()).collect();
    assert_eq!(without, ["/files/1/0.ndjson", "/files/1/1.ndjson", "/files/1/2.ndjson"], "files that are open to who knows them get none");

    let unnamed = here(false);
    let words = person(gateway_of(&unnamed, &[]).round());
    assert!(words.contains("file_hosts"), "{words}");
    assert!(!words.contains("ndjson"), "{words}");
    assert!(elsewhere.world().asked.is_empty(), "nobody else is asked");
    let named = here(false);
    let gateway = gateway_of(&named, &[elsewhere.address.to_string()]);
    gateway.round().unwrap();
    assert_eq!(gateway.held(), *imported());
    assert_eq!((authorized(&elsewhere), elsewhere.world().asked.len()), (0, 3));
}

#[test]
fn another_question_begins_anew_and_the_old_job_is_ended() {
    let stub = stub([Fault::SecondPage]);
    let mut gateway = Gateway::new(&stub.base_url(), &json!({}));
    person(gateway.round());
    gateway.change(&json!({"types": ["Observation"], "type_filters": ["Observation?category=laboratory"], "method": "post"}));
    stub.world().faults.clear();
    gateway.round_at(START_MS + 3_600_000).unwrap();
    assert_eq!(stub.targets("DELETE"), ["/fhir/jobs/1", "/fhir/jobs/2"]);
    let kick_off = &stub.kick_offs()[1];
    assert_eq!((kick_off.method.as_str(), kick_off.target.as_str()), ("POST", "/fhir/$export"));
    let parameters: Value = serde_json::from_str(&kick_off.body).unwrap();
    assert_eq!(parameters["parameter"][1], json!({"name": "_type", "valueString": "Observation"}));
    assert_eq!(kick_off.headers["content-type"], "application/fhir+json");
}

#[test]
fn a_server_that_starts_exports_by_post_alone_is_asked_by_post() {
    let stub = stub([Fault::PostOnly]);
    let gateway = Gateway::new(&stub.base_url(), &json!({}));
    gateway.round().unwrap();
    assert_eq!(gateway.held(), *imported());
    let methods: Vec<String> = stub.kick_offs().into_iter().map(|asked| asked.method).collect();
    assert_eq!(methods, ["GET", "POST"]);
}

#[test]
fn a_round_that_is_dropped_in_the_middle_of_a_file_goes_on_there_and_each_line_is_taken_once() {
    let stub = stub([Fault::SecondHeld]);
    let gateway = Gateway::new(&stub.base_url(), &json!({}));
    gateway.runtime.block_on(async {
        let (_stop, mut stopped) = tokio::sync::watch::channel(false);
        let beat = AtomicI64::new(START_MS);
        let beside = Beside { beat: &beat, stopped: &mut stopped, watch: &|_| {} };
        let mut seen = Seen::default();
        let working = feeds::work(&gateway.pipeline, &gateway.feed, &Task::Round, &mut seen, START_MS, beside);
        let halfway = async {
            while !stub.targets("GET").iter().any(|target| target == "/files/1/1.ndjson") {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        };
        tokio::select! {
            worked = working => panic!("the file is held: {worked:?}"),
            () = halfway => {}
        }
    });
    stub.let_go();
    stub.world().faults.clear();
    // What had come is durable as soon as the reader has seen that nobody sends more.
    let deadline = Instant::now() + Duration::from_secs(20);
    while gateway.held().counts.received <= 40 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    let received = gateway.held().counts.received;
    assert!(40 < received && received < (PATIENTS + RESULTS) as i64 - 1500, "in the middle of the second file: {received}");
    // The lease runs out by itself, since nobody gave it back.
    gateway.round_at(START_MS + 120_000).unwrap();
    assert_eq!(gateway.held(), *imported());
    assert_eq!(stub.kick_offs().len(), 1, "it is the same job");
}

#[test]
fn a_killed_gateway_goes_on_with_the_same_export_without_loss_or_duplicate() {
    let count = 80_000;
    let text: String = (0..count).map(|number| observation(&format!("o{number}"), &format!("p{}", number % PATIENTS as i64), 1.0) + "\n").collect();
    let stub = Stub::start(World { files: vec![("Observation", text)], ..world([]) });
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("gateway.json");
    let text = json!({"listen": "127.0.0.1:0", "store": {"sqlite_dir": "store"}, "sites": [{"site": SITE, "note": "a test of crashes",
        "source": {"base_url": stub.base_url()},
        "feeds": [{"name": FEED, "note": "a test", "bulk": {"level": "system", "poll_at_most_seconds": 1}}]}]});
    std::fs::write(&config, text.to_string()).unwrap();
    let dir = folder.path().join("store");
    let run = || {
        let mut command = nephrogate(&["feed", "run", "--config", config.to_str().unwrap(), "--site", SITE, "--feed", FEED]);
        command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
    };
    // A killed gateway leaves its lease, which runs out within a minute.
    let a_minute_later = || {
        let store = rusqlite::Connection::open(dir.join(FILE_NAME)).unwrap();
        store.execute("UPDATE feed_states SET lease_until_ms = NULL", []).unwrap();
    };
    // Without a look at the schema, which would wait for the gateway's transactions.
    let committed = || -> i64 {
        let store = rusqlite::Connection::open_with_flags(dir.join(FILE_NAME), rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE);
        let asked = store.and_then(|store| store.query_row("SELECT COALESCE(SUM(received), 0) FROM feeds", [], |row| row.get(0)));
        asked.unwrap_or_default()
    };
    let mut received = 0;
    for _ in 0..2 {
        let mut child = run();
        let deadline = Instant::now() + Duration::from_secs(300);
        while committed() <= received {
            assert!(child.try_wait().unwrap().is_none() && Instant::now() < deadline, "it ended before it was killed");
            std::thread::sleep(Duration::from_millis(5));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let now = conservation(&dir, SITE).received;
        assert!(received < now && now < count, "killed in the middle of the file: {received}, then {now}");
        received = now;
        a_minute_later();
    }
    let output = run().wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.starts_with(&format!("{} read, {} new;", count - received, count - received)), "{said}");
    let counts = conservation(&dir, SITE);
    assert_eq!((counts.received, counts.dispositions["applied"]), (count, count), "each line once: {counts:?}");
    assert_eq!(stub.kick_offs().len(), 1, "it is the same export");
    let store = Store::open_sqlite(&dir.join(FILE_NAME)).unwrap();
    assert!(store.read_blocking(|tx| ledger::waiting(tx, 10)).unwrap().is_empty(), "and everybody is judged");
}

#[test]
fn postgresql_holds_what_sqlite_holds() {
    let Some(url) = empty_postgres() else { return };
    let stub = stub([Fault::SecondCut]);
    let gateway = Gateway::on(Store::open_postgres(&url).unwrap(), None, Ehr::open(&stub.base_url(), None).unwrap(), &json!({}));
    gateway.round().unwrap();
    assert_eq!(gateway.held(), *imported());
}

/// Resources with ids of their own at a server that others use, too.
struct Loaded {
    ehr: Ehr,
    patients: Vec<String>,
    observations: Vec<String>,
    group: String,
}

impl Loaded {
    fn put(&self, runtime: &tokio::runtime::Runtime, resource: &Value) {
        let headers = [("Content-Type".to_owned(), "application/fhir+json".to_owned())];
        let url = format!("{}/{}", resource["resourceType"].as_str().unwrap(), resource["id"].as_str().unwrap());
        runtime.block_on(self.ehr.send("PUT", &url, &headers, &resource.to_string())).unwrap();
    }

    fn observation(&self, number: usize, mg_dl: f64) -> Value {
        let subject = &self.patients[number % self.patients.len()];
        let mut resource: Value = serde_json::from_str(&observation(&self.observations[number], subject, mg_dl)).unwrap();
        resource.as_object_mut().unwrap().remove("meta");
        resource
    }

    fn load(base_url: &str, runtime: &tokio::runtime::Runtime) -> Loaded {
        let mark = format!("b{:x}", jiff::Timestamp::now().as_nanosecond());
        let named = |what: &str, count: usize| (0..count).map(|number| format!("{mark}-{what}{number}")).collect();
        let loaded =
            Loaded { ehr: Ehr::open(base_url, None).unwrap(), patients: named("p", 5), observations: named("o", 40), group: format!("{mark}-g") };
        for id in &loaded.patients {
            loaded.put(runtime, &json!({"resourceType": "Patient", "id": id, "gender": "female", "birthDate": "1960-01-01"}));
        }
        for number in 0..loaded.observations.len() {
            loaded.put(runtime, &loaded.observation(number, 1.0 + number as f64 / 10.0));
        }
        let member: Vec<Value> = loaded.patients.iter().map(|id| json!({"entity": {"reference": format!("Patient/{id}")}})).collect();
        loaded.put(runtime, &json!({"resourceType": "Group", "id": loaded.group, "type": "person", "actual": true, "member": member}));
        loaded
    }

    /// What the server holds of these, as files.
    fn files(&self, runtime: &tokio::runtime::Runtime) -> Vec<File> {
        let read = |kind, ids: &[String]| -> String {
            ids.iter().map(|id| runtime.block_on(self.ehr.read(kind, id)).unwrap().unwrap().resource.replace(['\n', '\r'], " ") + "\n").collect()
        };
        vec![("Patient", read("Patient", &self.patients)), ("Observation", read("Observation", &self.observations))]
    }
}

/// A real server, at each level: what its export brings is what an import of what it holds brings, and after a change only
/// what changed comes.
fn a_real_server_at_every_level(base_url: &str, is_ours_alone: bool) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let loaded = Loaded::load(base_url, &runtime);
    let imported = Held::of(&import_of(&loaded.files(&runtime)).0);
    assert_eq!((imported.counts.dispositions["applied"], imported.subjects.len()), (45, 5));
    let group = json!({"level": "group", "group": loaded.group, "overlap_seconds": 0, "poll_at_most_seconds": 2});
    for more in [json!({"level": "system"}), json!({"level": "patient", "method": "post"}), group.clone()] {
        let gateway = Gateway::new(base_url, &more);
        let now_ms = jiff::Timestamp::now().as_millisecond();
        let round = gateway.round_at(now_ms).unwrap_or_else(|trouble| panic!("{more}: {trouble}"));
        assert_eq!(round.remark, None, "{more}");
        assert!((now_ms - 60_000..now_ms + 60_000).contains(&round.complete_until_ms.unwrap()), "{more}");
        let held = gateway.held();
        assert_eq!(held.only(&loaded.patients), imported.subjects, "{more}");
        if is_ours_alone || more["level"] == "group" {
            assert_eq!(held, imported, "{more}");
        }
    }
    let gateway = Gateway::new(base_url, &group);
    gateway.round_at(jiff::Timestamp::now().as_millisecond()).unwrap();
    // Stamped later than the export, whatever the server rounds to.
    std::thread::sleep(Duration::from_millis(1_100));
    loaded.put(&runtime, &loaded.observation(7, 9.0));
    let round = gateway.round_at(jiff::Timestamp::now().as_millisecond() + 86_400_000).unwrap();
    assert_eq!(round.taken, 1, "of {} that came", round.shown);
    let now = Held::of(&import_of(&loaded.files(&runtime)).0);
    assert_ne!(now.subjects, imported.subjects);
    assert_eq!(gateway.held().subjects, now.subjects, "the newer version stands");
}

#[test]
fn sekmet_exports_at_every_level_what_an_import_of_its_resources_brings() {
    let Some(server) = start_sekmet() else { return };
    a_real_server_at_every_level(&server.base_url, true);
}

#[test]
fn hapi_fhir_exports_at_every_level_what_an_import_of_its_resources_brings() {
    let Some(base_url) = shared_hapi(false) else { return };
    a_real_server_at_every_level(base_url, false);
}

#[test]
fn each_level_has_an_address_of_its_own_and_a_body_where_it_is_posted() {
    let types = ["Patient".to_owned(), "Observation".to_owned()];
    let filters = ["Observation?category=laboratory,vital-signs&date=gt2020".to_owned(), "Observation?code=2160-0".to_owned()];
    let of = |level, group| Export { level, group, types: &types, type_filters: &[], since: None, is_partial_welcome: false };
    for (export, address) in
        [(of(Level::System, ""), "$export"), (of(Level::Patient, ""), "Patient/$export"), (of(Level::Group, "ckd.1"), "Group/ckd.1/$export")]
    {
        assert_eq!(export.by_get(), format!("{address}?_outputFormat=application%2Ffhir%2Bndjson&_type=Patient%2CObservation"));
        assert_eq!(export.by_post().0, address);
    }
    let all = Export { type_filters: &filters, since: Some("2026-01-01T00:00:00.5Z"), is_partial_welcome: true, ..of(Level::System, "") };
    let expected = [
        "$export?_outputFormat=application%2Ffhir%2Bndjson",
        "_since=2026-01-01T00%3A00%3A00.5Z",
        "_type=Patient%2CObservation",
        "_typeFilter=Observation%3Fcategory%3Dlaboratory%2Cvital-signs%26date%3Dgt2020",
        "_typeFilter=Observation%3Fcode%3D2160-0",
        "allowPartialManifests=true",
    ];
    assert_eq!(all.by_get(), expected.join("&"));
    let parameter = |name: &str, kind: &str, value: Value| json!({"name": name, kind: value});
    let body: Value = serde_json::from_str(&all.by_post().1).unwrap();
    let parameters = [
        parameter("_outputFormat", "valueString", json!("application/fhir+ndjson")),
        parameter("_since", "valueInstant", json!("2026-01-01T00:00:00.5Z")),
        parameter("_type", "valueString", json!("Patient,Observation")),
        parameter("_typeFilter", "valueString", json!(filters[0])),
        parameter("_typeFilter", "valueString", json!(filters[1])),
        parameter("allowPartialManifests", "valueBoolean", json!(true)),
    ];
    assert_eq!(body, json!({"resourceType": "Parameters", "parameter": parameters}));
}

#[test]
fn manifests_of_every_release_are_read() {
    let file = |content, resource_type: Option<&str>, url: &str, count| manifest::File {
        content,
        resource_type: resource_type.map(str::to_owned),
        url: url.to_owned(),
        count,
    };
    let first = json!({"transactionTime": "2021-01-01T00:00:00Z", "request": "https://example.org/$export", "requiresAccessToken": true,
        "output": [{"type": "Patient", "url": "https://example.org/1"}], "error": [], "extension": {"https://example.org/x": true}});
    let read = manifest::read(&first.to_string()).unwrap();
    assert_eq!((read.transaction_ms, read.requires_access_token, read.next.clone()), (1_609_459_200_000, Some(true), None));
    assert_eq!(read.files, [file(Content::Resources, Some("Patient"), "https://example.org/1", None)]);

    let second = json!({"transactionTime": "2021-01-01T01:00:00.000+01:00", "request": "x", "requiresAccessToken": false,
        "output": [{"type": "Observation", "url": "u2", "count": 7}], "deleted": [{"type": "Bundle", "url": "u3"}],
        "error": [{"type": "OperationOutcome", "url": "u1"}]});
    let read = manifest::read(&second.to_string()).unwrap();
    assert_eq!((read.transaction_ms, read.requires_access_token), (1_609_459_200_000, Some(false)));
    let expected = [
        file(Content::Resources, Some("Observation"), "u2", Some(7)),
        file(Content::Deleted, None, "u3", None),
        file(Content::Outcomes, None, "u1", None),
    ];
    assert_eq!(read.files, expected, "resources, then what was deleted, then messages");

    let third = json!({"transactionTime": "2021-01-01T00:00:00Z", "request": "x", "requiresAccessToken": true, "outputOrganizedBy": "Patient",
        "output": [{"url": "u1", "continuesInFile": "u2"}, {"url": "u2"}], "error": [], "link": [{"relation": "next", "url": "u9"}]});
    let read = manifest::read(&third.to_string()).unwrap();
    assert_eq!((read.files.len(), read.next.as_deref()), (2, Some("u9")));

    let fourth = json!({"manifestType": "http://hl7.org/fhir/uv/bulkdata/OperationDefinition/export", "transactionTime": "2021-01-01T00:00:00Z",
        "requiresAccessToken": true, "outputFormat": "application/fhir+ndjson", "output": [{"type": "Patient", "url": "u1", "fileSize": 12}],
        "error": [{"url": "u2", "countSeverity": [{"code": "error", "count": 1}]}], "outcome": [{"url": "u3"}],
        "extension": [{"url": "https://example.org/x", "valueBoolean": true}]});
    let read = manifest::read(&fourth.to_string()).unwrap();
    let contents: Vec<Content> = read.files.iter().map(|file| file.content).collect();
    assert_eq!(contents, [Content::Resources, Content::Outcomes, Content::Outcomes]);

    // Lists that are left out are empty, and a server may say nothing of tokens.
    let least = manifest::read(r#"{"transactionTime": "2021-01-01T00:00:00Z"}"#).unwrap();
    assert_eq!((least.files.len(), least.requires_access_token), (0, None));
    for (body, fault) in [
        ("<html>", NoManifest::NotJson),
        ("", NoManifest::NotJson),
        (r#"{"resourceType":"OperationOutcome","issue":[]}"#, NoManifest::Shape),
        (r#"{"transactionTime":"2021-01-01T00:00:00Z","output":[{"type":"Patient"}]}"#, NoManifest::Shape),
        (r#"{"transactionTime":"2021-01-01T00:00:00","output":[]}"#, NoManifest::Time),
        (r#"{"transactionTime":"yesterday"}"#, NoManifest::Time),
        (r#"{"transactionTime":"2021-01-01T00:00:00Z","outputFormat":"text/csv","output":[]}"#, NoManifest::Format),
    ] {
        assert_eq!(manifest::read(body), Err(fault), "{body}");
    }
}

#[test]
fn messages_about_an_export_are_counted_by_words_of_the_standard_alone() {
    let mut outcomes = Outcomes::default();
    for line in [
        r#"{"resourceType":"OperationOutcome","issue":[{"severity":"error","code":"not-found","diagnostics":"Mrs Example"}]}"#,
        r#"{"resourceType":"OperationOutcome","issue":[{"severity":"fatal","code":"exception"},{"severity":"information","code":"Mrs Example"}]}"#,
        "",
        "  \r",
        r#"{"resourceType":"OperationOutcome","issue":[{"severity":"success","code":"success"}]}"#,
    ] {
        outcomes.note(line.as_bytes());
    }
    assert_eq!(outcomes.words(), "1 fatal exception, 1 error not-found, 1 information other, 1 success success");
    assert_eq!(outcomes.errors(), 2);
    for line in [r#"{"resourceType":"Patient"}"#, "<html>", r#"{"resourceType":"OperationOutcome","issue":[{"severity":"Mrs Example","code":"x"}]}"#]
    {
        outcomes.note(line.as_bytes());
    }
    assert_eq!((outcomes.errors(), outcomes.unreadable), (5, 3), "what cannot be read may say anything");
    assert!(!outcomes.words().contains("Example"));
    assert!(Outcomes::default().is_empty());
}

#[test]
fn what_a_file_begins_with_shows_whether_it_is_what_its_manifest_says() {
    let begins = |start: &str, resource_type| manifest::begins_as_ndjson(start.as_bytes(), Content::Resources, resource_type);
    for (start, resource_type) in [
        ("", Some("Patient")),
        ("\n\n", Some("Patient")),
        ("{\"resourceType\":\"Patient\"}\n{", Some("Patient")),
        ("\u{feff}{\"resourceType\":\"Patient\"}", None),
        ("{\"id\":\"1\",\"resourceType\":\"Patient\",\"contained\":[{\"resourceType\":\"Binary\"", Some("Patient")),
        ("{\"resourceType\":\"Binary\",\"data\":\"e30", Some("Binary")),
        ("{\"resourceType\":\"OperationOutcome\"}", Some("OperationOutcome")),
    ] {
        assert_eq!(begins(start, resource_type), Ok(()), "{start}");
    }
    for (start, fault) in [
        ("<!DOCTYPE html>", NotNdjson::NotJson),
        ("[{\"resourceType\":\"Patient\"}]", NotNdjson::NotJson),
        ("id,name", NotNdjson::NotJson),
        ("{\"resourceType\":\"Binary\",\"data\":\"e30", NotNdjson::Binary),
        ("{\n  \"resourceType\" : \"Binary\",\n", NotNdjson::Binary),
        ("{\"id\":\"1\",\"resourceType\":\"OperationOutcome\"}\n", NotNdjson::Outcome),
    ] {
        assert_eq!(begins(start, Some("Patient")), Err(fault), "{start}");
    }
    let outcome = b"{\"resourceType\":\"OperationOutcome\"}";
    assert_eq!(manifest::begins_as_ndjson(outcome, Content::Outcomes, None), Ok(()));
}
