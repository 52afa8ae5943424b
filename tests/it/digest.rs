//! `nephrogate digest` by its own door: the same by every order and door of arrival, another where anything that counts is another.

use std::path::Path;
use std::process::Output;

use nephrogate::store::FILE_NAME;

use crate::import::{SITE, nephrogate};

const AS_OF: &str = "2026-11-01";

fn patient(id: &str, more: &str) -> String {
    format!(r#"{{"resourceType":"Patient","id":"{id}","gender":"female","birthDate":"1960-03-04"{more}}}"#)
}

fn result(id: &str, patient: &str, more: &str, date: &str, value: &str, unit: &str) -> String {
    format!(
        r#"{{"resourceType":"Observation","id":"{id}"{more},"status":"final","code":{{"coding":[{{"system":"http://loinc.org","code":"2160-0"}}]}},"subject":{{"reference":"Patient/{patient}"}},"effectiveDateTime":"{date}","valueQuantity":{{"value":{value},"unit":"{unit}","system":"http://unitsofmeasure.org","code":"{unit}"}}}}"#
    )
}

/// Two patients with two results each.
fn history() -> Vec<String> {
    let mut lines = Vec::new();
    for id in ["p1", "p2"] {
        lines.push(patient(id, ""));
        lines.push(result(&format!("{id}-a"), id, "", "2026-04-01T08:00:00Z", "2.0", "mg/dL"));
        lines.push(result(&format!("{id}-b"), id, "", "2026-10-20T08:00:00Z", "2.1", "mg/dL"));
    }
    lines
}

fn import(dir: &Path, lines: &[String]) {
    let file = dir.with_extension("ndjson");
    std::fs::write(&file, lines.join("\n")).unwrap();
    let output = nephrogate(&["import", "--site", SITE, "--dir", dir.to_str().unwrap(), file.to_str().unwrap()]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

fn run(dir: &Path, more: &[&str]) -> Output {
    let mut args = vec!["digest", "--site", SITE, "--dir", dir.to_str().unwrap(), "--as-of", AS_OF];
    args.extend(more);
    nephrogate(&args).output().unwrap()
}

fn json(dir: &Path) -> serde_json::Value {
    let output = run(dir, &["--json"]);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn list(dir: &Path) -> Vec<Vec<String>> {
    let output = run(dir, &["--list"]);
    String::from_utf8(output.stdout).unwrap().lines().map(|line| line.split(' ').map(str::to_owned).collect()).collect()
}

/// Both hashes of a store that was told these lines.
fn hashes(folder: &Path, name: &str, lines: &[String]) -> (String, String) {
    let dir = folder.join(name);
    import(&dir, lines);
    let digest = json(&dir);
    (digest["facts"].as_str().unwrap().to_owned(), digest["verdicts"].as_str().unwrap().to_owned())
}

#[test]
fn a_digest_says_what_is_known_and_is_the_same_for_all_who_were_told_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let told = hashes(folder.path(), "first", &history());
    let digest = json(&folder.path().join("first"));
    assert_eq!(
        (digest["subjects"].as_u64(), digest["counts"]["measurement"].as_u64(), digest["counts"]["person"].as_u64()),
        (Some(2), Some(4), Some(2))
    );
    let study = digest["studies"].as_array().unwrap().iter().find(|study| study["study"] == "elixcyte-1").unwrap();
    assert_eq!(study["prescreen"], serde_json::json!({"met": 2}));
    assert_eq!((told.0.len(), told.1.len()), (64, 64));

    // Another order, in two loads, the first with a result that is taken back later.
    let dir = folder.path().join("second");
    let mut backwards = history();
    backwards.reverse();
    let wrong = result("p1-c", "p1", r#","meta":{"versionId":"1"}"#, "2026-10-25T08:00:00Z", "0.7", "mg/dL");
    import(&dir, std::slice::from_ref(&wrong));
    assert_ne!(json(&dir)["facts"].as_str(), Some(told.0.as_str()));
    import(&dir, &[backwards, vec![wrong.replace("\"final\"", "\"entered-in-error\"").replace(r#""1"}"#, r#""2"}"#)]].concat());
    assert_eq!(json(&dir)["facts"].as_str(), Some(told.0.as_str()));
    assert_eq!(json(&dir)["verdicts"].as_str(), Some(told.1.as_str()));

    // Another server: its own ids, versions and times, another zone, another spelling of number and unit.
    let elsewhere: Vec<String> = ["p1", "p2"]
        .into_iter()
        .flat_map(|id| {
            let meta = r#","meta":{"versionId":"41","lastUpdated":"2026-10-30T08:00:00Z"},"issued":"2026-10-21T08:00:00Z""#;
            [
                patient(id, r#","meta":{"versionId":"7"},"active":true"#),
                result(&format!("{id}-8841"), id, meta, "2026-04-01T10:00:00+02:00", "2.00", "mg/dL"),
                result(&format!("{id}-8842"), id, meta, "2026-10-20T08:00:00.000Z", "21", "mg/L"),
                // And one result under a second id: said twice is said once.
                result(&format!("{id}-8843"), id, meta, "2026-10-20T08:00:00Z", "2.1", "mg/dL"),
            ]
        })
        .collect();
    assert_eq!(hashes(folder.path(), "third", &elsewhere), told);
}

#[test]
fn results_of_one_draw_that_contradict_each_other_weigh_the_same_under_whatever_ids() {
    // Synthea 3.3.0 writes such pairs. Whoever gives ids of its own, as a laboratory's interface does, must not turn them round.
    let folder = tempfile::tempdir().unwrap();
    let told = |name: &str, low: &str, high: &str| {
        let of = |id: &str, value: &str| result(id, "p1", "", "2026-10-20T08:00:00Z", value, "mg/dL");
        let earlier = result("p1-a", "p1", "", "2026-04-01T08:00:00Z", "2.0", "mg/dL");
        hashes(folder.path(), name, &[patient("p1", ""), earlier, of(low, "1.2"), of(high, "2.6")])
    };
    assert_eq!(told("one", "p1-b", "p1-c"), told("other", "p1-c", "p1-b"));
}

#[test]
fn what_counts_changes_the_digest_and_the_list_says_of_whom() {
    let folder = tempfile::tempdir().unwrap();
    let told = hashes(folder.path(), "first", &history());
    let changed = |from: &str, to: &str| history().iter().map(|line| line.replacen(from, to, 1)).collect::<Vec<_>>();
    let others = [
        ("value", changed("\"value\":2.1", "\"value\":2.2"), true),
        ("unit", changed("mg/dL", "umol/L"), true),
        ("time", changed("2026-10-20T08", "2026-10-20T09"), true),
        ("status", changed("\"final\"", "\"preliminary\""), true),
        ("birth", changed("1960-03-04", "1960-03-05"), false),
        ("sex", changed("female", "male"), true),
        ("missing", history()[..5].to_vec(), true),
        ("patient", changed("\"Patient/p2\"", "\"Patient/p1\""), true),
    ];
    let mut seen = std::collections::BTreeSet::from([told.clone()]);
    for (name, lines, changes_verdicts) in others {
        let other = hashes(folder.path(), name, &lines);
        assert_ne!(other.0, told.0, "{name}");
        assert_eq!(other.1 != told.1, changes_verdicts, "{name}");
        assert!(seen.insert(other), "{name} is told from all others");
    }
    let mut one = history();
    one[5] = one[5].replace("2.1", "2.3");
    hashes(folder.path(), "one", &one);
    let (before, after) = (list(&folder.path().join("first")), list(&folder.path().join("one")));
    assert_eq!(before.iter().map(|line| line[0].as_str()).collect::<Vec<_>>(), ["p1", "p2"]);
    assert_eq!(before[0], after[0]);
    assert!(before[1][1] != after[1][1] && before[1][2] != after[1][2], "p2 is another now");
}

#[test]
fn a_digest_that_cannot_be_made_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("store");
    import(&dir, &history());
    assert!(dir.join(FILE_NAME).exists());
    let unknown = nephrogate(&["digest", "--site", "nowhere", "--dir", dir.to_str().unwrap()]).output().unwrap();
    assert_eq!(unknown.status.code(), Some(2), "{unknown:?}");
    assert_ne!(run(&folder.path().join("misspelt"), &[]).status.code(), Some(0));
    let table = String::from_utf8(run(&dir, &[]).stdout).unwrap();
    for words in ["facts     ", "verdicts  ", "as of 2026-11-01T23:59:59.999Z", "measurement", "elixcyte-1  met 2"] {
        assert!(table.contains(words), "{words}: {table}");
    }
}
