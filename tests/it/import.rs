//! `nephrogate import`, `redrive` and `backup` by their own door: the command line.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nephrogate::catalogue::Catalogue;
use nephrogate::clinical::chart::Chart;
use nephrogate::fhir::alike::Value;
use nephrogate::fhir::profile::Profiles;
use nephrogate::pipeline::receive::{Forms, prepare, prepare_line};
use nephrogate::store::ledger;
use nephrogate::store::messages::{self, Conservation};
use nephrogate::store::outbox::{self, Item, ItemState};
use nephrogate::store::screening::{self, ListQuery, Sort};
use nephrogate::store::{FILE_NAME, Store};
use nephrogate::writeback::Purpose;

pub const SITE: &str = "demo-hospital";

pub fn nephrogate(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nephrogate"));
    command.args(args);
    command
}

fn import(dir: &Path, site: &str, paths: &[&Path]) -> Output {
    let mut command = nephrogate(&["import", "--site", site, "--dir", dir.to_str().unwrap()]);
    command.args(paths).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub fn conservation(dir: &Path, site: &str) -> Conservation {
    let store = Store::open_sqlite(&dir.join(FILE_NAME)).unwrap();
    let counts = store.read_blocking(|tx| messages::conservation(tx, site)).unwrap();
    assert_eq!(counts.difference, 0, "{counts:?}");
    assert!(counts.rows_agree, "{counts:?}");
    counts
}

pub fn observation(id: &str, subject: &str, mg_dl: f64) -> String {
    format!(
        r#"{{"resourceType":"Observation","id":"{id}","meta":{{"versionId":"1"}},"status":"final","code":{{"coding":[{{"system":"http://loinc.org","code":"2160-0"}}]}},"subject":{{"reference":"Patient/{subject}"}},"effectiveDateTime":"2026-10-20T08:00:00Z","valueQuantity":{{"value":{mg_dl},"unit":"mg/dL","system":"http://unitsofmeasure.org","code":"mg/dL"}}}}"#
    )
}

/// `count` results of a tenth as many patients, one resource a line.
pub fn lines(count: usize) -> String {
    let mut text = String::new();
    for number in 0..count {
        let _ = writeln!(text, "{}", observation(&format!("o{number}"), &format!("p{}", number / 10), 1.0 + (number % 7) as f64 / 10.0));
    }
    text
}

#[test]
fn what_is_imported_into_a_demos_folder_is_written_back_as_the_demo_would() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("demo");
    let mut demo = nephrogate(&["demo", "--port", "0", "--dir", dir.to_str().unwrap()]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut said = BufReader::new(demo.stdout.take().unwrap()).lines().map_while(Result::ok);
    let is_up = said.any(|line| line.starts_with("Stop with"));
    let items_of = |subject: &str| -> Vec<Item> {
        let store = Store::open_sqlite(&dir.join(FILE_NAME)).unwrap();
        let items = store.read_blocking(|tx| outbox::list(tx, Some(SITE), None)).unwrap();
        items.into_iter().filter(|item| item.subject == subject).collect()
    };
    // The correction that the demo invites to send by hand: it takes a flag back.
    let correction: serde_json::Value = serde_json::from_slice(&std::fs::read(dir.join("correction.json")).unwrap()).unwrap();
    let subject = correction["subject"]["reference"].as_str().unwrap().trim_start_matches("Patient/").to_owned();
    let deadline = Instant::now() + Duration::from_secs(60);
    while is_up && Instant::now() < deadline && !items_of(&subject).iter().all(|item| item.state == ItemState::Confirmed) {
        std::thread::sleep(Duration::from_millis(50));
    }
    demo.kill().unwrap();
    demo.wait().unwrap();
    let before = items_of(&subject);
    assert!(!before.is_empty() && before.iter().all(|item| item.state == ItemState::Confirmed), "{before:#?}");
    assert!(import(&dir, SITE, &[&dir.join("correction.json")]).status.success());
    let planned = items_of(&subject).split_off(before.len());
    assert!(planned.iter().any(|item| item.request.purpose == Purpose::Retract), "{planned:#?}");
    let keys: BTreeSet<&str> = before.iter().map(|item| item.request.key.as_str()).collect();
    assert!(planned.iter().all(|item| keys.contains(item.request.key.as_str())), "under the demo's own identifiers: {planned:#?}");
}

#[test]
fn a_delete_in_the_history_of_a_file_withdraws() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("store");
    let history = format!(
        r#"{{"resourceType":"Bundle","type":"history","entry":[
            {{"request":{{"method":"DELETE","url":"Observation/gone"}}}},
            {{"resource":{},"request":{{"method":"PUT","url":"Observation/stays"}}}},
            {{"resource":{},"request":{{"method":"PUT","url":"Observation/gone"}}}}]}}"#,
        observation("stays", "p1", 2.0),
        observation("gone", "p1", 5.0)
    );
    let file = folder.path().join("history.json");
    std::fs::write(&file, history).unwrap();
    let output = import(&dir, SITE, &[&file]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(conservation(&dir, SITE).received, 3);
    let store = Store::open_sqlite(&dir.join(FILE_NAME)).unwrap();
    let facts = store.read_blocking(|tx| ledger::facts(tx, SITE, "p1")).unwrap().facts;
    let chart = Chart::fold(facts, &[]);
    let standing: Vec<&str> = chart.measurements.iter().map(|result| result.source.id.as_str()).collect();
    assert_eq!(standing, ["stays"]);
}

#[test]
fn files_and_folders_are_taken_and_a_second_run_adds_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (dir, files) = (folder.path().join("store"), folder.path().join("files"));
    std::fs::create_dir_all(files.join("more")).unwrap();
    std::fs::write(files.join("a.ndjson"), lines(3000)).unwrap();
    // No line end at its end, Windows line ends, an empty line.
    let patients = "{\"resourceType\":\"Patient\",\"id\":\"p1\",\"gender\":\"female\",\"birthDate\":\"1960-01-01\"}\r\n\r\n{\"resourceType\":\"Patient\",\"id\":\"p2\"}";
    std::fs::write(files.join("more/b.ndjson"), patients).unwrap();
    let bundle = format!(
        r#"{{"resourceType":"Bundle","type":"collection","entry":[{{"resource":{}}},{{"resource":{{"resourceType":"Device","id":"d"}}}}]}}"#,
        observation("in-a-bundle", "p1", 2.0)
    );
    std::fs::write(files.join("c.json"), bundle).unwrap();
    std::fs::write(files.join("manifest.json"), "{\"output\":[]}").unwrap();
    std::fs::write(files.join("notes.txt"), "not taken").unwrap();

    let first = import(&dir, SITE, &[&files]);
    assert!(first.status.success(), "{first:?}");
    assert!(stdout(&first).contains("skipped, not FHIR:"), "{}", stdout(&first));
    let counts = conservation(&dir, SITE);
    assert_eq!((counts.received, counts.dispositions["applied"], counts.dispositions["out-of-scope"]), (3004, 3003, 1));

    let second = import(&dir, SITE, &[&files]);
    assert!(second.status.success(), "{second:?}");
    assert!(stdout(&second).contains("3 files were taken by an earlier run"), "{}", stdout(&second));
    assert_eq!(conservation(&dir, SITE), counts);

    // The same lines in a file that grew: duplicates, and what is new.
    std::fs::write(files.join("a.ndjson"), format!("{}{}\n", lines(3000), observation("new", "p1", 1.0))).unwrap();
    assert!(import(&dir, SITE, &[&files.join("a.ndjson")]).status.success());
    let grown = conservation(&dir, SITE);
    assert_eq!((grown.dispositions["applied"], grown.dispositions["duplicate"]), (3004, 3000));
}

#[test]
fn bad_lines_are_named_by_file_and_line_and_spoil_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("store");
    let file = folder.path().join("mixed.ndjson");
    let text = [
        observation("good-1", "p1", 1.0).into_bytes(),
        b"{\"resourceType\":\"Observation\",".to_vec(),
        b"\xff\xfe not text".to_vec(),
        b"[1,2]".to_vec(),
        observation("good-2", "p1", 1.0).into_bytes(),
        observation("p1-free", "p1", 1.0).replace("\"status\":\"final\",", "").into_bytes(),
    ]
    .join(&b'\n');
    std::fs::write(&file, text).unwrap();
    let output = import(&dir, SITE, &[&file]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    for line in [2, 3, 4, 6] {
        assert!(stdout(&output).contains(&format!("mixed.ndjson:{line}: ")), "{}", stdout(&output));
    }
    let counts = conservation(&dir, SITE);
    assert_eq!((counts.dispositions["applied"], counts.dispositions["rejected"]), (2, 4));
}

#[test]
fn wrong_use_is_told_with_its_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("store");
    let file = folder.path().join("one.ndjson");
    std::fs::write(&file, observation("o1", "p1", 1.0)).unwrap();
    let output = import(&dir, "no-such-site", &[&file]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let output = import(&dir, SITE, &[&folder.path().join("missing.ndjson")]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join(FILE_NAME), "this is not a database, and long enough to be seen as something else").unwrap();
    let output = import(&dir, SITE, &[&file]);
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    let output = nephrogate(&["redrive", "--site", SITE, "--dir", folder.path().join("nowhere").to_str().unwrap()]).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(!folder.path().join("nowhere").exists(), "no empty store is made where a folder was misspelt");
}

#[test]
fn a_backup_restores_to_the_same_counts() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("store");
    let file = folder.path().join("some.ndjson");
    std::fs::write(&file, lines(500)).unwrap();
    assert!(import(&dir, SITE, &[&file]).status.success());
    let restored = folder.path().join("restored");
    std::fs::create_dir_all(&restored).unwrap();
    let copy = restored.join(FILE_NAME);
    let output = nephrogate(&["backup", "--dir", dir.to_str().unwrap(), "--to", copy.to_str().unwrap()]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(conservation(&restored, SITE), conservation(&dir, SITE));
    let again = nephrogate(&["backup", "--dir", dir.to_str().unwrap(), "--to", copy.to_str().unwrap()]).output().unwrap();
    assert_eq!(again.status.code(), Some(3), "a backup never overwrites: {again:?}");
    // The restored store goes on: it knows what it took.
    let output = import(&restored, SITE, &[&file]);
    assert!(stdout(&output).contains("1 files were taken by an earlier run"), "{}", stdout(&output));
}

#[test]
fn generated_patients_are_judged_in_the_store_as_their_truth_says() {
    let generator = Path::new("../shared/tools/generate.py");
    if !generator.exists() {
        eprintln!("SKIPPED: {} is not there", generator.display());
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let files = folder.path().join("files");
    let made = Command::new("python3").arg(generator).args(["-n", "400", "--seed", "11", "--jobs", "1", "-o"]).arg(&files).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let dir = folder.path().join("store");
    let output = import(&dir, "generated", &[&files]);
    assert!(output.status.success(), "{output:?}");
    conservation(&dir, "generated");
    let store = Store::open_sqlite(&dir.join(FILE_NAME)).unwrap();
    let query =
        ListQuery { study: "egfr-window".into(), site: Some("generated".into()), sort: Sort::Subject, limit: 100_000, ..ListQuery::default() };
    let page = store.read_blocking(|tx| screening::list(tx, &query)).unwrap();
    let mut compared = 0;
    for line in std::fs::read_to_string(files.join("truth.csv")).unwrap().lines().skip(1) {
        let fields: Vec<&str> = line.split(',').collect();
        let card = store.read_blocking(|tx| screening::card(tx, "generated", fields[0], "egfr-window")).unwrap();
        let Some(card) = card else { panic!("{line}: not judged") };
        let truth = match (fields[4], fields[6]) {
            ("", _) => "unknown",
            (_, "1") => "met",
            _ => "not-met",
        };
        assert_eq!(card.row.prescreen, truth, "{line}: {}", card.row.why);
        if let Ok(egfr) = fields[4].parse::<f64>() {
            assert!((card.row.egfr.unwrap() - egfr).abs() < 0.001, "{line}: {:?}", card.row.egfr);
        }
        compared += 1;
    }
    assert_eq!(compared, 400);
    assert!(0 < page.total && page.total <= 400);
}

/// An Observation with every value in which lines of one export differ.
const FULL_LINE: &str = r#"{"resourceType":"Observation","id":"o-1","meta":{"versionId":"3","lastUpdated":"2024-02-03T04:05:06.000Z","source":"urn:lab:1"},"identifier":[{"system":"urn:lab","value":"A 1"}],"status":"final","category":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/observation-category","code":"laboratory"}]}],"code":{"coding":[{"system":"http://loinc.org","code":"2160-0","display":"Creatinine"}],"text":"Kreatinin µ"},"subject":{"reference":"Patient/p-1"},"encounter":{"reference":"Encounter/e-1"},"effectiveDateTime":"2024-02-03T04:00:00+01:00","issued":"2024-02-03T05:00:00Z","performer":[{"reference":"Practitioner/x","display":"Dr X"}],"valueQuantity":{"value":1.50,"unit":"mg/dL","system":"http://unitsofmeasure.org","code":"mg/dL"}}"#;

#[test]
fn a_line_like_the_one_before_is_prepared_as_if_it_came_alone() {
    let catalogue = Catalogue::load(None).unwrap_or_else(|faults| panic!("{faults:?}"));
    let site = &catalogue.sites[SITE];
    let alone = |line: &[u8]| format!("{:?}", prepare(&catalogue, site, line));
    assert_eq!(prepare(&catalogue, site, FULL_LINE.as_bytes()).issues, []);
    let behind = |line: &[u8]| {
        let mut forms = Forms::default();
        prepare_line(&catalogue, site, &mut forms, FULL_LINE.as_bytes());
        let is_short = forms.read_where(line, |what, value| catalogue.profiles.holds_alike(what, value)).is_some();
        (format!("{:?}", prepare_line(&catalogue, site, &mut forms, line)), is_short)
    };
    let values = [
        ("\"o-1\"", ["\"o-2\"", "\"o_2\"", "\"\"", "7"]),
        ("\"3\"", ["\"4\"", "\"4 \"", "\"\"", "4"]),
        ("2024-02-03T04:05:06.000Z", ["2024-02-03T04:05:07Z", "2024-02-03T04:05:07", "2024-02-03", "yesterday"]),
        ("urn:lab:1", ["urn:lab:2", "urn lab", "", "\\u0041"]),
        ("A 1", ["B 2", "\u{3bc}", "", "\\n"]),
        ("Patient/p-1", ["Patient/p-2", "Group/p", "Patient/p_2", "http://other.example/Patient/p"]),
        ("Encounter/e-1", ["Encounter/e-2", "x y", "", "\u{1}"]),
        ("2024-02-03T04:00:00+01:00", ["2024-02-04T04:00:00+01:00", "2024-02", "2024-02-30", "2124-02-03T04:00:00Z"]),
        ("2024-02-03T05:00:00Z", ["2024-02-03T06:00:00Z", "2024-02-03T06:00:00", "2024-02-03", ""]),
        ("Practitioner/x", ["Practitioner/y", "x y", "", "\\t"]),
        ("Dr X", ["Dr Y", "\u{e9}", "", "\""]),
        ("1.50", ["2", "-0.0", "1e3", "01"]),
    ];
    for (was, others) in values {
        for (place, other) in others.into_iter().enumerate() {
            let line = FULL_LINE.replacen(was, other, 1);
            let (short, is_short) = behind(line.as_bytes());
            assert_eq!(short, alone(line.as_bytes()), "{line}");
            assert!(is_short || place > 0, "the first of each is read the short way: {line}");
        }
    }
    // Whatever else happens to one byte of a line.
    for place in 0..FULL_LINE.len() {
        for byte in [None, Some(b'"'), Some(b'\\'), Some(b' '), Some(b'9'), Some(0xff)] {
            let mut line = FULL_LINE.as_bytes().to_vec();
            line.splice(place..=place, byte);
            assert_eq!(behind(&line).0, alone(&line), "{}", String::from_utf8_lossy(&line));
        }
    }
}

#[test]
fn generated_lines_are_prepared_the_same_by_both_ways() {
    let generator = Path::new("../shared/tools/generate.py");
    if !generator.exists() {
        eprintln!("SKIPPED: {} is not there", generator.display());
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let made = Command::new("python3").arg(generator).args(["-n", "300", "--seed", "5", "--jobs", "1", "-o"]).arg(folder.path()).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let catalogue = Catalogue::load(None).unwrap_or_else(|faults| panic!("{faults:?}"));
    let site = &catalogue.sites["generated"];
    let bytes: Vec<u8> = ["Observation", "Condition", "Patient", "AdverseEvent"]
        .into_iter()
        .flat_map(|kind| std::fs::read(folder.path().join(format!("{kind}.000.ndjson"))).unwrap())
        .collect();
    let (mut forms, mut shadow) = (Forms::default(), Forms::default());
    let (mut observations, mut short) = (0, 0);
    for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        observations += usize::from(line.starts_with(b"{\"resourceType\":\"Observation\""));
        short += usize::from(shadow.read_where(line, |what, value| catalogue.profiles.holds_alike(what, value)).is_some());
        prepare_line(&catalogue, site, &mut shadow, line);
        let (one, other) = (prepare_line(&catalogue, site, &mut forms, line), prepare(&catalogue, site, line));
        assert_eq!(format!("{one:?}"), format!("{other:?}"), "{}", String::from_utf8_lossy(line));
    }
    assert!(observations > 1000 && short * 10 > observations * 9, "{short} of {observations}");
}

#[test]
fn only_a_schema_that_asks_each_value_for_itself_allows_the_short_way() {
    let (observation, types) = (include_str!("../../profiles/Observation.schema.json"), include_str!("../../profiles/DataTypes.schema.json"));
    let holds = |observation: &str, types: &str, what, value| {
        let files = [("Observation.schema.json", observation), ("DataTypes.schema.json", types)];
        Profiles::compile(files).unwrap().holds_alike(what, value)
    };
    assert!(holds(observation, types, Value::Identifier(0), "A 1"));
    // A stricter schema of a site is kept.
    let stricter = types.replace("\"value\": {\"$ref\": \"#/$defs/string\"}", "\"value\": {\"type\": \"string\", \"pattern\": \"^[0-9]+$\"}");
    assert_ne!(stricter, types);
    assert!(holds(observation, &stricter, Value::Identifier(0), "17"));
    assert!(!holds(observation, &stricter, Value::Identifier(0), "A 1"));
    // Where one value could be right because of another, there is no short way at all.
    for rule in ["\"allOf\": [{\"required\": [\"subject\"]}],", "\"if\": {\"required\": [\"issued\"]}, \"then\": {\"required\": [\"id\"]},"] {
        let together = observation.replacen("\"type\": \"object\",", &format!("\"type\": \"object\", {rule}"), 1);
        assert_ne!(together, observation);
        assert!(!holds(&together, types, Value::Identifier(0), "A 1"));
    }
}
