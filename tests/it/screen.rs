//! `nephrogate screen` by its door: files in, answers out, against the generator's own truth and a small export of ours.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn screen(study: &str, site: &str, format: &str, paths: &[&Path]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nephrogate"));
    command.args(["screen", "--study", study, "--site", site, "--as-of", "2026-11-01", "--format", format]);
    command.args(paths).output().expect("the binary runs")
}

/// The answers of `--format ndjson` by subject, and the summary.
fn answers(study: &str, site: &str, paths: &[&Path]) -> (BTreeMap<String, Value>, String) {
    let output = screen(study, site, "ndjson", paths);
    let summary = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{summary}");
    let lines = String::from_utf8(output.stdout).unwrap();
    let answers: BTreeMap<String, Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).expect("each line is one JSON object"))
        .map(|answer: Value| (answer["subject"].as_str().unwrap().to_owned(), answer))
        .collect();
    assert_eq!(answers.len(), lines.lines().count(), "no subject is listed twice");
    (answers, summary)
}

fn patient(id: &str, gender: &str, born: &str) -> String {
    format!(r#"{{"resourceType":"Patient","id":"{id}","gender":"{gender}","birthDate":"{born}"}}"#)
}

/// A creatinine in mg/dL under 2160-0; each test changes what it is about.
fn creatinine(id: &str, subject: &str, date: &str, mg_dl: &str) -> String {
    format!(
        r#"{{"resourceType":"Observation","id":"{id}","meta":{{"versionId":"1","lastUpdated":"2026-10-30T08:00:00Z"}},"status":"final","category":[{{"coding":[{{"system":"http://terminology.hl7.org/CodeSystem/observation-category","code":"laboratory"}}]}}],"code":{{"coding":[{{"system":"http://loinc.org","code":"2160-0"}}],"text":"Creatinine"}},"subject":{{"reference":"Patient/{subject}"}},"effectiveDateTime":"{date}","valueQuantity":{{"value":{mg_dl},"unit":"mg/dL","system":"http://unitsofmeasure.org","code":"mg/dL"}}}}"#
    )
}

/// A small export with one patient for each thing that can happen.
fn export(folder: &Path) {
    let patients = [
        patient("met", "male", "1966-03-01"),
        patient("molar", "female", "1961-01-01"),
        patient("too-high", "male", "1986-05-05"),
        patient("escaped", "male", "1966-03-01"),
        patient("future", "male", "1966-03-01"),
        patient("nothing", "female", "1970-01-01"),
        patient("sexless", "unknown", "1966-03-01"),
        patient("refused", "male", "1966-03-01"),
        patient("withdrawn", "male", "1966-03-01"),
    ];
    let observations = [
        creatinine("m-old", "met", "2025-01-01T08:00:00Z", "1.2"),
        creatinine("m-new", "met", "2026-10-01T08:00:00Z", "2.0"),
        creatinine("mo", "molar", "2026-10-01T08:00:00Z", "155").replace("mg/dL", "umol/L").replace("2160-0", "14682-9"),
        creatinine("th", "too-high", "2026-10-01T08:00:00Z", "0.9"),
        // \u0032 is the 2 of 2160-0: no reader may miss the newer result for that.
        creatinine("e-old", "escaped", "2025-01-01T08:00:00Z", "0.9"),
        creatinine("e-new", "escaped", "2026-10-01T08:00:00Z", "2.0").replace("2160-0", "\\u0032160-0"),
        creatinine("f-now", "future", "2026-10-01T08:00:00Z", "2.0"),
        creatinine("f-later", "future", "2026-11-02T00:00:00Z", "0.9"),
        creatinine("s", "sexless", "2026-10-01T08:00:00Z", "2.0"),
        creatinine("r", "refused", "2026-10-01T08:00:00Z", "2.0").replace("\"status\":\"final\"", "\"status\":\"final\",\"status\":\"final\""),
        creatinine("w", "withdrawn", "2026-10-01T08:00:00Z", "2.0").replace("final", "entered-in-error"),
        creatinine("urea", "met", "2026-10-02T08:00:00Z", "40").replace("2160-0", "3094-0"),
        creatinine("unitless", "met", "2026-10-03T08:00:00Z", "9")
            .replace(r#","unit":"mg/dL","system":"http://unitsofmeasure.org","code":"mg/dL""#, ""),
        creatinine("nobody", "not-in-the-export", "2026-10-01T08:00:00Z", "2.0"),
        r#"{"resourceType":"DiagnosticReport","id":"d","status":"final"}"#.to_owned(),
    ];
    fs::write(folder.join("Patient.ndjson"), patients.join("\n")).unwrap();
    fs::write(folder.join("Observation.ndjson"), observations.join("\n") + "\n").unwrap();
    fs::write(folder.join("notes.txt"), "not FHIR").unwrap();
}

#[test]
fn every_patient_gets_one_answer_whatever_became_of_the_results() {
    let folder = tempfile::tempdir().unwrap();
    export(folder.path());
    let (answers, summary) = answers("egfr-window", "generated", &[folder.path()]);
    let verdicts: Vec<(&str, &str)> = answers.iter().map(|(subject, answer)| (subject.as_str(), answer["prescreen"].as_str().unwrap())).collect();
    assert_eq!(
        verdicts,
        [
            ("escaped", "met"),
            ("future", "met"),
            ("met", "met"),
            ("molar", "met"),
            ("nothing", "unknown"),
            ("refused", "unknown"),
            ("sexless", "unknown"),
            ("too-high", "not-met"),
            ("withdrawn", "unknown"),
        ]
    );
    let egfr = |subject: &str| answers[subject]["egfr"].as_f64();
    assert!((egfr("met").unwrap() - 37.5).abs() < 0.5, "{:?}", egfr("met"));
    assert_eq!(egfr("met"), egfr("escaped"));
    assert_eq!(egfr("met"), egfr("future"));
    assert_eq!(egfr("nothing"), None);
    let evidence = &answers["met"]["criteria"][0]["evidence"];
    assert_eq!(evidence[0]["resource"], "Observation/m-new");
    assert!(evidence.as_array().unwrap().iter().any(|row| row["resource"] == "Observation/unitless" && row["unusable"] == "unit-missing"));
    for part in [
        "9 patients screened for egfr-window",
        "4 met, 1 not-met, 4 unknown",
        "read         24 resources in 2 files",
        "used         20",
        "duplicate-key 1",
        "unit-missing 1",
        "DiagnosticReport 1",
        "http://loinc.org|3094-0 1",
        "1 subject with results but without a Patient",
    ] {
        assert!(summary.contains(part), "no `{part}` in: {summary}");
    }
}

#[test]
fn the_four_formats_are_as_they_were_agreed() {
    let folder = tempfile::tempdir().unwrap();
    export(folder.path());
    for format in ["table", "json", "ndjson", "csv"] {
        let output = screen("egfr-window", "generated", format, &[folder.path()]);
        assert_eq!(output.status.code(), Some(0));
        let text = String::from_utf8(output.stdout).unwrap();
        let golden = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/screen.{format}"));
        if std::env::var_os("WRITE_GOLDEN").is_some() {
            fs::write(&golden, &text).unwrap();
        }
        assert_eq!(
            text,
            fs::read_to_string(&golden).unwrap(),
            "tests/golden/screen.{format}; WRITE_GOLDEN=1 writes it anew, then look at the difference"
        );
    }
    let array: Value = serde_json::from_slice(&screen("egfr-window", "generated", "json", &[folder.path()]).stdout).unwrap();
    assert_eq!(array.as_array().unwrap().len(), 9);
}

#[test]
fn a_path_that_is_not_there_and_an_id_that_is_not_known_say_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    export(folder.path());
    for (study, site, path, code, word) in [
        ("egfr-window", "generated", folder.path().join("absent"), 3, "absent"),
        ("no-such-study", "generated", folder.path().to_path_buf(), 2, "egfr-window"),
        ("egfr-window", "no-such-site", folder.path().to_path_buf(), 2, "generated"),
    ] {
        let output = screen(study, site, "ndjson", &[&path]);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert!(output.stdout.is_empty() && text.contains(word) && text.contains("hint: "), "{text}");
    }
}

#[test]
fn the_answers_do_not_depend_on_how_the_lines_are_spread_over_files() {
    let one = tempfile::tempdir().unwrap();
    export(one.path());
    let several = tempfile::tempdir().unwrap();
    let lines = fs::read_to_string(one.path().join("Observation.ndjson")).unwrap();
    for (index, line) in lines.lines().rev().enumerate() {
        fs::write(several.path().join(format!("{index:02}.jsonl")), line).unwrap();
    }
    fs::copy(one.path().join("Patient.ndjson"), several.path().join("zz.ndjson")).unwrap();
    let together = screen("egfr-window", "generated", "ndjson", &[one.path()]).stdout;
    let spread = screen("egfr-window", "generated", "ndjson", &[several.path()]).stdout;
    assert_eq!(String::from_utf8(together), String::from_utf8(spread));
}

#[test]
fn lines_that_look_alike_are_read_as_each_would_be_by_itself() {
    let usual = creatinine("o-1", "alike", "2026-01-01T08:00:00Z", "2.0");
    let molar = usual.replace("2160-0", "14682-9").replace("mg/dL", "umol/L").replace(":2.0,", ":155,");
    let changed = |id: &str, from: &str, to: &str| usual.replace("o-1", id).replace(from, to);
    let observations = [
        usual.clone(),
        changed("o-2", "2.0", "2.10"),
        changed("o-3", "2.0", "-2.0"),
        changed("o-4", "2.0", "02.0"),
        changed("o-5", "2.0", "2.0e0"),
        changed("o-6", "2.0", "2e999"),
        changed("o-7", "2.0", "450"),
        changed("o-8", "2.0", "\"2.0\""),
        changed("o-9", "2026-01-01T08:00:00Z", "2026-01"),
        changed("o-10", "2026-01-01T08:00:00Z", "2026-01-01T08:00:00"),
        changed("o-11", "2026-01-01T08:00:00Z", "2027-01-01T08:00:00Z"),
        changed("o-12", "2026-01-01T08:00:00Z", ""),
        changed("o-13", "Patient/alike", "Patient/alike/_history/2"),
        changed("o-14", "Patient/alike", "https://elsewhere.example.org/fhir/Patient/alike"),
        changed("o-15", "Patient/alike", "https://site-c.example.org/fhir/Patient/alike"),
        changed("o-16", "Patient/alike", "Patient/alik\\u0065"),
        changed("o-17", "Patient/alike", "Group/alike"),
        changed("o 18", "2.0", "2.3"),
        changed("o-19", "\"versionId\":\"1\"", "\"versionId\":\"1 \""),
        changed("o-20", "\"versionId\":\"1\"", "\"versionId\":\"2\""),
        changed("o-1", "\"versionId\":\"1\"", "\"versionId\":\"2\"").replace("2.0", "2.4"),
        changed("o-21", "2026-10-30T08:00:00Z", "2025-10-30T08:00:00Z"),
        changed("o-22", "final", "preliminary"),
        changed("o-23", "final", "finished"),
        changed("o-24", "\"text\":\"Creatinine\"", "\"text\":\"eGFR\""),
        molar.replace("o-1", "o-25"),
        molar.replace("o-1", "o-26").replace("155", "155.4"),
        usual.replace("o-1", "o-27") + " x",
        usual.replace("o-1", "o-28").trim_end_matches('}').to_owned(),
    ];
    let named = |id: &str, family: &str, born: &str| {
        format!(r#"{{"resourceType":"Patient","id":"{id}","name":[{{"family":"{family}","given":["A","B"]}}],"gender":"male","birthDate":"{born}"}}"#)
    };
    let patients = [
        named("alike", "Smith", "1966-03-01"),
        named("umlaut", "M\u{fc}ller", "1966-03-02"),
        named("nameless", "", "1966-03-01"),
        named("escaped", "O\\u0027Hara", "1966-03-01"),
        named("yearly", "Smith", "1966"),
        named("undated", "Smith", "1.3.1966"),
        named("timed", "Smith", "1966-03-01T08:00:00Z"),
    ];
    let together = tempfile::tempdir().unwrap();
    let by_themselves = tempfile::tempdir().unwrap();
    fs::write(together.path().join("all.ndjson"), [patients.join("\n"), observations.join("\n")].join("\n")).unwrap();
    for (index, resource) in patients.iter().chain(&observations).enumerate() {
        fs::write(by_themselves.path().join(format!("{index:02}.json")), resource).unwrap();
    }
    let (of_lines, summary_of_lines) = answers("egfr-window", "generated", &[together.path()]);
    let (of_documents, summary_of_documents) = answers("egfr-window", "generated", &[by_themselves.path()]);
    assert_eq!(of_lines, of_documents);
    assert_eq!(of_lines["alike"]["criteria"][0]["evidence"][0]["value_as_received"], "2.4", "the newer version of o-1");
    let counted = |summary: &str| {
        let lines = summary.lines().filter(|line| ["used", "passed over", "refused", "not listed"].iter().any(|word| line.starts_with(word)));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(counted(&summary_of_lines), counted(&summary_of_documents));
    assert!(counted(&summary_of_lines).len() >= 3, "{summary_of_lines}");
}

/// The generator's truth says for each patient the eGFR to four decimals and whether 15 to 44 holds.
#[test]
fn screening_generated_exports_agrees_with_their_truth_for_every_patient_and_seed() {
    let generator = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/tools/generate.py");
    if !generator.exists() {
        println!("skipped: {} is not here", generator.display());
        return;
    }
    for seed in ["7", "20261101"] {
        let folder = tempfile::tempdir().unwrap();
        let made = Command::new("python3").arg(&generator).args(["-n", "2000", "--seed", seed, "-o"]).arg(folder.path()).output();
        let made = made.expect("python3 runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let (answers, _) = answers("egfr-window", "generated", &[folder.path()]);
        let truth = fs::read_to_string(folder.path().join("truth.csv")).unwrap();
        assert_eq!(answers.len(), truth.lines().count() - 1);
        for line in truth.lines().skip(1) {
            let [patient, _, _, _, egfr, _, is_eligible] = line.split(',').collect::<Vec<_>>()[..] else { panic!("truth.csv: {line}") };
            let answer = &answers[patient];
            let computed = answer["egfr"].as_f64().map(|egfr| format!("{egfr:.4}")).unwrap_or_default();
            assert_eq!(computed, egfr, "seed {seed}, {patient}");
            let verdict = match (egfr, is_eligible) {
                ("", _) => "unknown",
                (_, "1") => "met",
                (_, _) => "not-met",
            };
            assert_eq!(answer["prescreen"], verdict, "seed {seed}, {patient}");
        }
    }
}
