//! The folder feed: files that a hospital renames into a folder are taken, each once, and end in `done` or `failed` with a
//! word about them; wherever it breaks off, nothing is lost. The clock is moved where time decides.

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use nephrogate::catalogue::Catalogue;
use nephrogate::clinical::chart::Chart;
use nephrogate::config::Config;
use nephrogate::feeds::folder::{self, Settings, Watched};
use nephrogate::feeds::{Round, Trouble};
use nephrogate::pipeline::backfill::Beside;
use nephrogate::pipeline::import::{self, Source};
use nephrogate::pipeline::{Pipeline, Receivers};
use nephrogate::store::messages::{self, Conservation};
use nephrogate::store::{FILE_NAME, Store, ledger};
use serde_json::{Value, json};

use crate::crash::{draw, seed};
use crate::gateway::Gateway;
use crate::import::{SITE, lines, nephrogate, observation};
use crate::stores::on_both;

const FEED: &str = "laboratory-files";

fn real_now_ms() -> i64 {
    i64::try_from(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// A gateway's work on one folder, with a clock of its own.
struct Bench {
    pipeline: Pipeline,
    settings: Settings,
    watched: Watched,
    now_ms: i64,
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open_sqlite(&folder.path().join("store.db")).unwrap();
        Bench::on(&store, folder)
    }

    fn on(store: &Store, folder: tempfile::TempDir) -> Bench {
        let catalogue = Catalogue::load(None).unwrap_or_else(|faults| panic!("{faults:?}"));
        let pipeline = Pipeline { store: store.clone(), catalogue: Arc::new(catalogue), receivers: Arc::new(Receivers::new()) };
        let dir = folder.path().join("in");
        std::fs::create_dir(&dir).unwrap();
        let settings = Settings { dir, every_seconds: 5, settle_seconds: 0, keep_done_days: None, ignore: vec!["md5".into()] };
        Bench { pipeline, settings, watched: Watched::default(), now_ms: real_now_ms(), folder }
    }

    fn place(&self, name: impl AsRef<Path>) -> PathBuf {
        self.settings.dir.join(name)
    }

    fn write(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) {
        std::fs::write(self.place(name), content).unwrap();
    }

    fn try_round(&mut self) -> Result<Round, Trouble> {
        let now_ms = self.now_ms;
        let beside = Beside { now_ms: &|| now_ms, is_stopped: &|| false, watch: &|_| {} };
        folder::round(&self.pipeline, SITE, FEED, &self.settings, &mut self.watched, beside)
    }

    #[track_caller]
    fn round(&mut self) -> Round {
        self.try_round().unwrap_or_else(|trouble| panic!("{trouble:?}"))
    }

    /// Names in a place, in their order, without what is said beside them.
    #[track_caller]
    fn names(&self, place: &str) -> Vec<String> {
        let path = self.place(place);
        let mut names: Vec<String> =
            std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.retain(|name| !name.ends_with(".outcome.json"));
        names.sort();
        names
    }

    #[track_caller]
    fn said(&self, file: &str) -> Value {
        let text = std::fs::read(self.place(format!("{file}.outcome.json"))).unwrap_or_else(|error| panic!("{file}: {error}"));
        serde_json::from_slice(&text).unwrap()
    }

    #[track_caller]
    fn counts(&self) -> Conservation {
        let counts = self.pipeline.store.read_blocking(|tx| messages::conservation(tx, SITE)).unwrap();
        assert!(counts.difference == 0 && counts.rows_agree, "{counts:?}");
        counts
    }

    fn standing(&self, subject: &str) -> Vec<String> {
        let facts = self.pipeline.store.read_blocking(|tx| ledger::facts(tx, SITE, subject)).unwrap().facts;
        let mut ids: Vec<String> = Chart::fold(facts, &[]).measurements.iter().map(|result| result.source.id.to_string()).collect();
        ids.sort();
        ids
    }
}

fn zipped(content: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packer.write_all(content).unwrap();
    packer.finish().unwrap()
}

#[test]
fn a_file_is_taken_when_it_is_whole() {
    let mut bench = Bench::new();
    bench.settings.settle_seconds = 2;
    let unfinished = [".hidden.ndjson", "a.ndjson.tmp", "b.ndjson.part", "c.json.filepart", "d.ndjson~"];
    for name in unfinished {
        bench.write(name, lines(1));
    }
    bench.write("results.ndjson", lines(5));
    let began_ms = bench.now_ms;
    let first = bench.round();
    assert_eq!((first.shown, first.complete_until_ms, first.next_in_ms), (0, None, 5_000), "it may still be written to");
    // It grows: the time begins anew.
    bench.now_ms = began_ms + 1_999;
    bench.write("results.ndjson", lines(6));
    assert_eq!(bench.round().shown, 0);
    bench.now_ms = began_ms + 3_998;
    assert_eq!(bench.round().shown, 0);
    bench.now_ms = began_ms + 3_999;
    let taken = bench.round();
    assert_eq!((taken.shown, taken.taken, taken.complete_until_ms, taken.remark), (6, 6, Some(bench.now_ms), None));
    assert_eq!((bench.names("done"), bench.names(".taking")), (vec!["results.ndjson".to_owned()], vec![]));
    for name in unfinished {
        assert!(bench.place(name).exists(), "{name}");
    }
    // Renamed into place, it is found like any other; last written long ago, it is whole at the first look.
    std::fs::rename(bench.place("b.ndjson.part"), bench.place("b.ndjson")).unwrap();
    bench.now_ms = real_now_ms() + 3_600_000;
    assert_eq!(bench.round().shown, 1);
}

#[test]
fn what_became_of_a_file_stands_beside_it_without_a_value() {
    on_both(|store| {
        let mut bench = Bench::on(store, tempfile::tempdir().unwrap());
        let broken = "{\"resourceType\":\"Observation\",\"id\":\"jane-doe\",\"status\":[";
        let text = format!("{}\r\n\n{broken}\n{}", observation("o1", "p1", 1.5), r#"{"resourceType":"Device","id":"d"}"#);
        bench.write("mixed.ndjson", text);
        let ten = lines(10).replace("\"id\":\"o", "\"id\":\"ten-");
        bench.write("packed.ndjson.gz", zipped(ten.as_bytes()));
        bench.write("UPPER.NDJSON", observation("o2", "p1", 1.7));
        bench.write("one.json", observation("o3", "p1", 1.8));
        let bundle = format!(
            r#"{{"resourceType":"Bundle","type":"document","entry":[
            {{"fullUrl":"urn:uuid:0c","resource":{{"resourceType":"Composition","id":"c"}}}},
            {{"fullUrl":"urn:uuid:0a","resource":{{"resourceType":"Patient","id":"p1","gender":"female"}}}},
            {{"fullUrl":"urn:uuid:0b","resource":{}}}]}}"#,
            observation("o4", "p1", 1.9).replace("Patient/p1", "urn:uuid:0A")
        );
        bench.write("document.json", bundle);
        bench.write("empty.ndjson", "");
        let round = bench.round();
        assert_eq!((round.shown, round.taken, round.rejected, round.remark.as_deref()), (18, 18, 1, None));
        assert_eq!(bench.names("done"), ["UPPER.NDJSON", "document.json", "empty.ndjson", "mixed.ndjson", "one.json", "packed.ndjson.gz"]);
        let said = bench.said("done/mixed.ndjson");
        assert_eq!((said["state"].as_str(), said["site"].as_str(), said["feed"].as_str()), (Some("done"), Some(SITE), Some(FEED)), "{said}");
        assert_eq!((said["received"].clone(), said["dispositions"].clone()), (json!(3), json!({"applied": 1, "rejected": 1, "out-of-scope": 1})));
        assert_eq!((said["rejected"][0]["line"].clone(), said["rejected"][0]["issue"]["code"].clone()), (json!(3), json!("not-json")));
        assert!(!said.to_string().contains("jane"), "{said}");
        assert_eq!(bench.said("done/packed.ndjson.gz")["dispositions"]["applied"], 10);
        assert_eq!(bench.said("done/document.json")["dispositions"], json!({"applied": 2, "out-of-scope": 1}));
        assert_eq!(bench.said("done/empty.ndjson")["received"], 0);
        assert!(bench.standing("p1").contains(&"o4".to_owned()), "a document's result is its patient's");
        let counts = bench.counts();
        assert_eq!((counts.received, counts.dispositions["applied"]), (18, 15));
        // The same bytes once more, also packed: nothing is to be taken, and that is said.
        bench.write("again.ndjson", &ten);
        let again = bench.round();
        assert_eq!((again.shown, again.complete_until_ms), (0, Some(bench.now_ms)));
        assert!(bench.said("done/again.ndjson")["meaning"].as_str().unwrap().contains("taken before"));
        assert_eq!(bench.counts(), counts);
    });
}

#[test]
fn what_cannot_be_taken_waits_in_failed_until_a_person_has_mended_it() {
    let mut bench = Bench::new();
    bench.write("manifest.json", r#"{"output":[]}"#);
    bench.write("table.ndjson", "patient;value\np1;1.5\n");
    bench.write("half.ndjson.gz", &zipped(lines(5_000).as_bytes())[..2_000]);
    bench.write("no.json.gz", "this is no gzip");
    bench.write("bundle.json", r#"{"resourceType":"Bundle","type":"collage"}"#);
    let round = bench.round();
    assert_eq!(bench.names("failed"), ["bundle.json", "half.ndjson.gz", "manifest.json", "no.json.gz", "table.ndjson"]);
    assert_eq!((round.complete_until_ms, round.rejected), (None, 3));
    assert!(round.remark.as_deref().is_some_and(|remark| remark.starts_with("files in failed: 5;")), "{round:?}");
    let reason = |file: &str| bench.said(&format!("failed/{file}"))["reason"].as_str().unwrap_or_default().to_owned();
    let reasons = ["bundle.json", "half.ndjson.gz", "manifest.json", "no.json.gz", "table.ndjson"].map(reason);
    assert_eq!(reasons, ["all-rejected", "broken-archive", "not-fhir", "broken-archive", "all-rejected"]);
    assert_eq!(bench.said("failed/bundle.json")["rejected"][0]["issue"]["code"], "invalid-bundle");
    assert_eq!(bench.counts().received, 3, "of a broken archive nothing is taken");
    // Put back as it was, it is read anew; mended, it is taken.
    for name in ["table.ndjson", "half.ndjson.gz", "manifest.json", "bundle.json", "no.json.gz"] {
        std::fs::remove_file(bench.place(format!("failed/{name}.outcome.json"))).unwrap();
        std::fs::rename(bench.place(format!("failed/{name}")), bench.place(name)).unwrap();
    }
    bench.write("half.ndjson.gz", zipped(lines(5_000).as_bytes()));
    std::fs::remove_file(bench.place("manifest.json")).unwrap();
    std::fs::remove_file(bench.place("bundle.json")).unwrap();
    std::fs::remove_file(bench.place("no.json.gz")).unwrap();
    let again = bench.round();
    assert_eq!((again.shown, again.taken, again.rejected), (5_002, 5_002, 2), "a rejected line leaves nothing that a second one would repeat");
    assert_eq!((bench.names("failed"), bench.names("done")), (vec!["table.ndjson".to_owned()], vec!["half.ndjson.gz".to_owned()]));
    std::fs::remove_file(bench.place("failed/table.ndjson")).unwrap();
    assert_eq!(bench.round().remark, None);
}

#[test]
fn a_file_that_the_gateway_may_not_read_waits_in_failed() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut bench = Bench::new();
    bench.write("locked.ndjson", lines(3));
    std::fs::set_permissions(bench.place("locked.ndjson"), std::fs::Permissions::from_mode(0o000)).unwrap();
    if std::fs::File::open(bench.place("locked.ndjson")).is_ok() {
        println!("skipped: this user may read everything");
        return;
    }
    bench.round();
    assert_eq!(bench.said("failed/locked.ndjson")["reason"], "unreadable");
    std::fs::set_permissions(bench.place("failed/locked.ndjson"), std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::rename(bench.place("failed/locked.ndjson"), bench.place("locked.ndjson")).unwrap();
    assert_eq!(bench.round().taken, 3);
}

#[test]
fn wherever_it_breaks_off_the_file_goes_on_from_there() {
    let mut bench = Bench::new();
    let done = |bench: &Bench| bench.names("done");
    // After the claim.
    bench.round();
    bench.write(".taking/claimed.ndjson", lines(30));
    assert_eq!(bench.round().taken, 30);
    // In the middle of the file: what was committed stays, and the rest follows.
    let many: String = (0..60_000).map(|number| format!("{}\n", observation(&format!("m{number}"), &format!("q{}", number / 10), 1.1))).collect();
    bench.write("many.ndjson", &many);
    let (now_ms, has_begun) = (bench.now_ms, AtomicBool::new(false));
    let beside =
        Beside { now_ms: &|| now_ms, is_stopped: &|| has_begun.load(Ordering::Relaxed), watch: &|_| has_begun.store(true, Ordering::Relaxed) };
    let stopped = folder::round(&bench.pipeline, SITE, FEED, &bench.settings, &mut bench.watched, beside);
    assert!(matches!(stopped, Err(Trouble::Stopped)), "{stopped:?}");
    assert_eq!(bench.names(".taking"), ["many.ndjson"]);
    let taken = bench.counts().received - 30;
    assert!((1..60_000).contains(&taken), "it was stopped in the middle: {taken}");
    bench.round();
    assert_eq!((bench.counts().received, bench.counts().dispositions["applied"]), (60_030, 60_030));
    assert_eq!(bench.said("done/many.ndjson")["dispositions"], json!({"applied": 60_000}), "of both halves");
    // After the last line, before the move.
    bench.write(".taking/taken.ndjson", observation("t1", "p9", 1.2));
    let source = Source { path: bench.place(".taking/taken.ndjson"), bytes: 1, is_named: false };
    let beside = Beside { now_ms: &|| now_ms, is_stopped: &|| false, watch: &|_| {} };
    import::import(&bench.pipeline, &bench.pipeline.catalogue.sites[SITE], FEED, &[source], beside).unwrap();
    bench.round();
    let said = bench.said("done/taken.ndjson");
    assert!(said["received"] == 1 && said["meaning"].as_str().unwrap().starts_with("every line was taken"), "{said}");
    // Between what is said about it and the move.
    bench.write(".taking/moved.ndjson", observation("t2", "p9", 1.2));
    bench.write("done/moved.ndjson.outcome.json", "{}");
    bench.write("done/.moved.ndjson.part", "{");
    bench.round();
    assert_eq!(bench.said("done/moved.ndjson")["received"], 1);
    assert_eq!(done(&bench).iter().filter(|name| !name.starts_with('.')).count(), 4);
    assert!(bench.names(".taking").is_empty());
    assert_eq!(bench.counts().dispositions["applied"], 60_032);
}

#[test]
fn a_writer_who_was_not_done_loses_nothing() {
    let mut bench = Bench::new();
    bench.write("slow.ndjson", lines(3));
    let path = bench.place(".taking/slow.ndjson");
    let has_written = AtomicBool::new(false);
    let now_ms = bench.now_ms;
    let beside = Beside {
        now_ms: &|| now_ms,
        is_stopped: &|| false,
        watch: &|_| {
            if !has_written.swap(true, Ordering::Relaxed) {
                let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
                writeln!(file, "{}", observation("late", "p0", 1.3)).unwrap();
            }
        },
    };
    let round = folder::round(&bench.pipeline, SITE, FEED, &bench.settings, &mut bench.watched, beside).unwrap();
    assert_eq!((round.complete_until_ms, bench.names(".taking")), (None, vec!["slow.ndjson".to_owned()]));
    bench.round();
    assert_eq!(bench.names("done"), ["slow.ndjson"]);
    let counts = bench.counts();
    assert_eq!((counts.received, counts.dispositions["applied"], counts.dispositions["duplicate"]), (7, 4, 3));
}

#[test]
fn names_that_meet_get_a_number_and_nothing_is_overwritten() {
    let mut bench = Bench::new();
    for number in 0..3 {
        bench.write("daily.ndjson.gz", zipped(observation(&format!("d{number}"), "p1", 1.5).as_bytes()));
        assert_eq!(bench.round().taken, 1);
    }
    assert_eq!(bench.names("done"), ["daily.2.ndjson.gz", "daily.3.ndjson.gz", "daily.ndjson.gz"]);
    for name in bench.names("done") {
        assert_eq!(bench.said(&format!("done/{name}"))["received"], 1, "{name}");
    }
    // What one claimed and left, and one of the same name behind it.
    bench.write(".taking/daily.ndjson.gz", zipped(observation("d3", "p1", 1.5).as_bytes()));
    bench.write("daily.ndjson.gz", zipped(observation("d4", "p1", 1.5).as_bytes()));
    assert_eq!(bench.round().taken, 2);
    assert_eq!(bench.names("done").len(), 5);
    // A name as long as a file system takes, and one that is no text.
    bench.write(format!("{}.ndjson", "x".repeat(248)), observation("d5", "p1", 1.5));
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::ffi::OsStrExt as _;
        bench.write(OsStr::from_bytes(b"M\xFCller.ndjson"), observation("d6", "p1", 1.5));
    }
    bench.round();
    assert!(bench.names(".taking").is_empty() && bench.names("failed").is_empty());
    assert_eq!(bench.standing("p1").len(), bench.names("done").len());
    let done = bench.names("done");
    assert!(done.iter().all(|name| bench.place(format!("done/{name}.outcome.json")).exists()), "{done:?}");
}

#[test]
fn what_is_no_file_of_ours_stays_where_it_is_and_is_told() {
    let mut bench = Bench::new();
    bench.write("real.ndjson", lines(2));
    let outside = bench.folder.path().join("outside.ndjson");
    std::fs::write(&outside, lines(7)).unwrap();
    std::os::unix::fs::symlink(&outside, bench.place("link.ndjson")).unwrap();
    std::os::unix::fs::symlink("nowhere", bench.place("dangling.ndjson")).unwrap();
    assert!(Command::new("mkfifo").arg(bench.place("pipe.ndjson")).status().unwrap().success());
    std::fs::create_dir(bench.place("archive.ndjson")).unwrap();
    bench.write("archive.ndjson/old.ndjson", lines(9));
    bench.write("scan.pdf", "%PDF");
    bench.write("real.ndjson.md5", "d41d8cd9");
    bench.write("real.ndjson.outcome.json", "{}");
    let round = bench.round();
    assert_eq!(round.shown, 2);
    assert!(
        round.remark.as_deref().is_some_and(|remark| remark.starts_with("links, devices and files of another kind in the folder: 5;")),
        "{round:?}"
    );
    assert_eq!(round.complete_until_ms, None);
    for name in ["link.ndjson", "dangling.ndjson", "pipe.ndjson", "archive.ndjson/old.ndjson", "scan.pdf", "real.ndjson.md5"] {
        assert!(std::fs::symlink_metadata(bench.place(name)).is_ok(), "{name}");
    }
    for name in ["link.ndjson", "dangling.ndjson", "pipe.ndjson", "scan.pdf", "real.ndjson.outcome.json"] {
        std::fs::remove_file(bench.place(name)).unwrap();
    }
    let cleared = bench.round();
    assert_eq!((cleared.remark, cleared.complete_until_ms), (None, Some(bench.now_ms)));
}

#[test]
fn a_folder_that_cannot_be_used_is_told_in_one_sentence_and_loses_nothing() {
    let mut bench = Bench::new();
    let away = bench.folder.path().join("away");
    std::fs::rename(&bench.settings.dir, &away).unwrap();
    let Err(Trouble::Later { words, .. }) = bench.try_round() else { panic!("a share that is away comes back") };
    assert_eq!(words, "the folder cannot be used: entity not found");
    std::fs::rename(&away, &bench.settings.dir).unwrap();
    bench.write("done", "a file where a folder belongs");
    bench.write("waits.ndjson", lines(2));
    assert!(matches!(bench.try_round(), Err(Trouble::Person { .. })));
    assert!(bench.place("waits.ndjson").exists());
    std::fs::remove_file(bench.place("done")).unwrap();
    assert_eq!(bench.round().taken, 2);
    // A file that cannot be moved in the end waits in `.taking`, is told of, and holds up nobody else.
    std::fs::remove_dir_all(bench.place("done")).unwrap();
    bench.write("stuck.ndjson", observation("s1", "p1", 1.5));
    bench.write("wrong.json", "{}");
    let place = bench.place("done");
    let now_ms = bench.now_ms;
    let beside = Beside {
        now_ms: &|| now_ms,
        is_stopped: &|| false,
        watch: &|_| {
            let _ = std::fs::remove_dir_all(&place);
        },
    };
    let stuck = folder::round(&bench.pipeline, SITE, FEED, &bench.settings, &mut bench.watched, beside);
    assert!(matches!(stuck, Err(Trouble::Later { .. })), "{stuck:?}");
    assert_eq!((bench.names(".taking"), bench.names("failed")), (vec!["stuck.ndjson".to_owned()], vec!["wrong.json".to_owned()]));
    bench.round();
    assert_eq!(bench.said("done/stuck.ndjson")["dispositions"], json!({"applied": 1}));
}

#[test]
fn two_gateways_on_one_folder_take_each_file_once() {
    let bench = Bench::new();
    for number in 0..40 {
        bench.write(format!("f{number:02}.ndjson"), observation(&format!("o{number}"), "p1", 1.5));
    }
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let now_ms = bench.now_ms;
                for _ in 0..3 {
                    let beside = Beside { now_ms: &|| now_ms, is_stopped: &|| false, watch: &|_| {} };
                    let round = folder::round(&bench.pipeline, SITE, FEED, &bench.settings, &mut Watched::default(), beside);
                    assert!(round.is_ok(), "a file that the other one moved away under this one's hands is no trouble: {round:?}");
                }
            });
        }
    });
    assert_eq!((bench.names("done").len(), bench.names(".taking").len(), bench.names("failed").len()), (40, 0, 0));
    assert_eq!((bench.counts().dispositions["applied"], bench.standing("p1").len()), (40, 40));
}

#[test]
fn what_was_taken_is_kept_for_as_long_as_the_site_says() {
    let mut bench = Bench::new();
    bench.write("old.ndjson", lines(2));
    bench.write("wrong.json", "{}");
    bench.round();
    bench.write("done/somebody-elses.txt", "");
    bench.settings.keep_done_days = Some(30);
    bench.now_ms += 29 * 86_400_000;
    bench.round();
    assert_eq!(bench.names("done"), ["old.ndjson", "somebody-elses.txt"]);
    bench.now_ms += 2 * 86_400_000;
    bench.round();
    assert_eq!(bench.names("done"), ["somebody-elses.txt"]);
    assert!(!bench.place("done/old.ndjson.outcome.json").exists());
    assert_eq!(bench.names("failed"), ["wrong.json"], "what nobody looked at is never deleted");
}

fn config(folder: &Path, feeds: Value) -> PathBuf {
    let file = folder.join("gateway.json");
    let text = json!({"listen": "127.0.0.1:0", "store": {"sqlite_dir": "store"}, "sites": [{"site": SITE, "note": "a test", "feeds": feeds}]});
    std::fs::write(&file, text.to_string()).unwrap();
    file
}

#[test]
fn a_folder_feed_that_is_killed_goes_on_and_takes_each_line_once() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("in");
    std::fs::create_dir(&dir).unwrap();
    let config = config(folder.path(), json!([{"name": FEED, "note": "n", "folder": {"dir": "in", "settle_seconds": 0}}]));
    let count = 40_000;
    std::fs::write(dir.join("many.ndjson"), lines(count)).unwrap();
    let mut seed = seed();
    let mut kills = 0;
    let store = || Store::open_sqlite(&folder.path().join("store").join(FILE_NAME)).unwrap();
    for _ in 0..6 {
        let mut command = nephrogate(&["feed", "run", "--config", config.to_str().unwrap(), "--site", SITE, "--feed", FEED]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while !dir.join(".taking").exists() && Instant::now() < deadline && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(draw(&mut seed, 1_500)));
        kills += usize::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
        // Whoever held the feed is dead: its lease runs out by itself, here by a word.
        drop(store());
        let connection = rusqlite::Connection::open(folder.path().join("store").join(FILE_NAME)).unwrap();
        connection.execute("UPDATE feed_states SET lease_until_ms = NULL, next_attempt_ms = 0", []).unwrap();
    }
    println!("{kills} of 6 rounds were killed at work");
    let output = nephrogate(&["feed", "run", "--config", config.to_str().unwrap(), "--site", SITE, "--feed", FEED]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let counts = store().read_blocking(|tx| messages::conservation(tx, SITE)).unwrap();
    assert!(counts.difference == 0 && counts.rows_agree, "{counts:?}");
    assert_eq!((counts.received, counts.dispositions["applied"]), (count as i64, count as i64), "each line once, whatever was killed");
    let said: Value = serde_json::from_slice(&std::fs::read(dir.join("done/many.ndjson.outcome.json")).unwrap()).unwrap();
    assert_eq!(said["dispositions"], json!({"applied": count}));
}

#[test]
fn a_configured_folder_is_watched_and_shown() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("in");
    std::fs::create_dir(&dir).unwrap();
    let feeds = json!([{"name": FEED, "note": "n", "folder": {"dir": "in", "every_seconds": 1, "settle_seconds": 0}}]);
    let config = Config::read(&config(folder.path(), feeds)).unwrap_or_else(|faults| panic!("{faults:?}"));
    std::fs::write(dir.join(".results.ndjson"), lines(25)).unwrap();
    std::fs::rename(dir.join(".results.ndjson"), dir.join("results.ndjson")).unwrap();
    std::fs::write(dir.join("jane-doe.json"), "{}").unwrap();
    let gateway = Gateway::start_with(|settings| settings.feeds = config.feeds().unwrap());
    let shown =
        gateway.wait_for(&format!("/api/sites/{SITE}/feeds"), |shown| shown["feeds"][0]["received"] == 25 && !shown["feeds"][0]["trouble"].is_null());
    let feed = &shown["feeds"][0];
    assert_eq!((feed["kind"].as_str(), feed["failures"].as_i64(), feed["needs_person"].as_bool()), (Some("folder"), Some(0), Some(true)), "{feed}");
    assert!(feed["trouble"].as_str().unwrap().starts_with("files in failed: 1;"), "{feed}");
    assert!(!shown.to_string().contains("jane"), "a file's name is told nowhere");
    std::fs::remove_file(dir.join("failed/jane-doe.json")).unwrap();
    gateway.wait_for(&format!("/api/sites/{SITE}/feeds"), |shown| {
        shown["feeds"][0]["trouble"].is_null() && !shown["feeds"][0]["complete_until_ms"].is_null()
    });
    assert_eq!(gateway.get(&format!("/fhir/{SITE}/Observation/o7")).status, 200);
    gateway.conservation();
}

#[test]
fn faults_of_a_configured_folder_are_told_by_their_place() {
    let folder = tempfile::tempdir().unwrap();
    for (feeds, path) in [
        (json!([{"name": "a", "note": "n", "folder": {}}]), "/sites/0/feeds/0/folder"),
        (json!([{"name": "a", "note": "n", "folder": {"dir": "in", "keep_done_days": 0}}]), "/sites/0/feeds/0/folder/keep_done_days"),
        (
            json!([{"name": "a", "note": "n", "folder": {"dir": "in"}}, {"name": "b", "note": "n", "folder": {"dir": "in"}}]),
            "/sites/0/feeds/1/folder/dir",
        ),
        (json!([{"name": "a", "note": "n", "folder": {"dir": "in"}, "poll": {"searches": [{"type": "Patient"}]}}]), "/sites/0/feeds/0"),
    ] {
        let faults = Config::read(&config(folder.path(), feeds)).expect_err("it is at fault");
        assert!(faults.iter().any(|fault| fault.path.starts_with(path)), "{path}: {faults:?}");
    }
}
