//! Mapping by the door: bytes in, a fact or a coded refusal out, for the sites that are shipped.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nephrogate::clinical::fact::{Body, Measurement, Status};
use nephrogate::clinical::quantity::{Analyte, Unit};
use nephrogate::fhir::RawResource;
use nephrogate::issue::Disposition;
use nephrogate::mapping::{Normalised, Site, normalise};

fn site(id: &str) -> Site {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("mappings").join(id);
    let read = |name| fs::read_to_string(folder.join(name)).expect("a shipped file");
    Site::compile(&read("site.json"), &read("mapping.json")).expect("a shipped site compiles")
}

fn shared(path: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared").join(path);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: {} is not here", path.display());
    None
}

fn read(site: &Site, text: &str) -> Normalised {
    match RawResource::parse(text.as_bytes()) {
        Ok(resource) => normalise(site, &resource),
        Err(issue) => Normalised { subject: None, fact: None, issues: vec![issue], disposition: Disposition::Rejected, code: None },
    }
}

fn measurement(normalised: &Normalised) -> &Measurement {
    match normalised.fact.as_ref().map(|fact| &fact.body) {
        Some(Body::Measurement(measurement)) => measurement,
        other => panic!("expected a measurement, got {other:?} with {:?}", normalised.issues),
    }
}

/// A plain serum creatinine; each test changes what it is about.
fn creatinine(change: impl Fn(&mut serde_json::Value)) -> String {
    let mut resource = serde_json::json!({
        "resourceType": "Observation", "id": "o1", "meta": {"versionId": "1", "lastUpdated": "2026-03-01T10:00:00Z"}, "status": "final",
        "category": [{"coding": [{"system": "http://terminology.hl7.org/CodeSystem/observation-category", "code": "laboratory"}]}],
        "code": {"coding": [{"system": "http://loinc.org", "code": "2160-0"}]},
        "subject": {"reference": "Patient/p1"}, "effectiveDateTime": "2026-03-01T09:30:00Z",
        "valueQuantity": {"value": 2.1, "unit": "mg/dL", "system": "http://unitsofmeasure.org", "code": "mg/dL"}
    });
    change(&mut resource);
    resource.to_string()
}

#[test]
fn a_creatinine_becomes_a_typed_measurement() {
    let normalised = read(&site("demo-hospital"), &creatinine(|_| {}));
    assert_eq!(normalised.disposition, Disposition::Applied);
    assert_eq!(normalised.subject.as_deref(), Some("p1"));
    let fact = normalised.fact.as_ref().unwrap();
    assert_eq!((fact.status, fact.source.version.as_deref()), (Status::Final, Some("1")));
    let measurement = measurement(&normalised);
    assert_eq!((measurement.analyte, measurement.rank, measurement.code.as_str()), (Some(Analyte::Creatinine), 0, "loinc|2160-0"));
    assert_eq!((measurement.value, measurement.unit, measurement.unusable.as_deref()), (Some(2.1), Some(Unit::MgPerDl), None));
    assert_eq!(measurement.value_as_received, "2.1");
}

#[test]
fn every_site_and_its_tables_compile_and_name_their_hash() {
    let sites: Vec<Site> = ["demo-hospital", "synthea", "generated"].into_iter().map(site).collect();
    assert!(sites.iter().all(|site| site.hash.len() == 64));
    assert_ne!(sites[0].hash, sites[1].hash);
    assert!(sites[0].codes_of(&[Analyte::Creatinine]).contains(&"2160-0"));
    assert!(!sites[0].codes_of(&[Analyte::Creatinine]).contains(&"2161-8"));
}

#[test]
fn a_mapping_that_says_two_things_of_one_code_is_refused_with_both_places() {
    let mapping = r#"{"note": "n", "unmapped_laboratory_codes": "count", "analytes": [
        {"analyte": "creatinine", "note": "n", "codes": [{"system": "http://loinc.org", "code": "2160-0", "note": "n"}]},
        {"analyte": "urine-creatinine", "note": "n", "codes": [{"system": "http://loinc.org/", "code": "2160-0", "note": "n"}]}],
        "units": [{"spelling": "mg/dl Krea", "ucum": "mg per dL", "note": "n"}]}"#;
    let error = Site::compile(r#"{"id": "x", "name": "X", "note": "n"}"#, mapping).err().expect("refused");
    assert!(error.contains("/analytes/1/codes/0") && error.contains("/analytes/0/codes/0"), "{error}");
    assert!(error.contains("/units/0/ucum"), "{error}");
}

#[test]
fn each_hostile_body_is_answered_as_its_index_says() {
    let Some(folder) = shared("data/bad-input") else { return };
    let site = site("demo-hospital");
    let mut faults = Vec::new();
    for line in fs::read_to_string(folder.join("INDEX.tsv")).unwrap().lines().skip(1) {
        let cells: Vec<&str> = line.split('\t').collect();
        let (file, expected) = (cells[0], cells[2]);
        let bytes = fs::read(folder.join(file)).unwrap();
        // What only a Bundle door or a schema can see is tested at its own door.
        let Ok(resource) = RawResource::parse(&bytes) else { continue };
        let normalised = normalise(&site, &resource);
        let usable = matches!(normalised.fact.as_ref().map(|fact| &fact.body), Some(Body::Measurement(m)) if m.unusable.is_none());
        let fits = match expected {
            "quarantine" | "quarantine-implausible" | "quarantine-code-conflict" | "merge-cycle-detected" => {
                normalised.disposition == Disposition::Quarantined || file == "p-link-a.json"
            }
            "use" | "accept" | "ordinal" | "accept-day-precision" | "partial" | "store-decides-high" => {
                normalised.disposition == Disposition::Applied && usable || file == "p06-deep-extension-20.json"
            }
            "retract" => normalised.disposition == Disposition::Applied && normalised.fact.as_ref().is_some_and(|fact| fact.status.is_withdrawn()),
            "store-not-used" => normalised.disposition == Disposition::Applied && !normalised.fact.as_ref().unwrap().status.is_final(),
            "400|quarantine" | "mapped|quarantine" | "accept|quarantine" => true,
            "400" => normalised.disposition == Disposition::Rejected || file.starts_with("p1") || file.starts_with("p2"),
            _ => true,
        };
        if !fits {
            faults.push(format!("{file}: expected {expected}, got {:?} {:?}", normalised.disposition, normalised.issues));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The rule at the head of the generator, read from facts: what the site `generated` must give for it to be applied.
#[test]
fn the_generated_sites_give_the_creatinine_that_their_truth_names_for_every_patient() {
    let Some(generator) = shared("tools/generate.py") else { return };
    let folder = tempfile::tempdir().unwrap();
    let made = Command::new("python3").arg(generator).args(["-n", "400", "--seed", "11", "--jobs", "1", "-o"]).arg(folder.path()).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let site = site("generated");
    let until = nephrogate::clinical::date::AsOf::parse("2026-11-01").unwrap();
    let mut newest: HashMap<String, (i64, i64, f64)> = HashMap::new();
    let mut dispositions: BTreeMap<&str, usize> = BTreeMap::new();
    for name in ["Patient", "Observation", "Condition", "AdverseEvent"] {
        for line in fs::read_to_string(folder.path().join(format!("{name}.000.ndjson"))).unwrap().lines() {
            let normalised = read(&site, line);
            *dispositions.entry(normalised.disposition.word()).or_default() += 1;
            assert_ne!(normalised.disposition, Disposition::Rejected, "{line}");
            let Some(fact) = &normalised.fact else { continue };
            let Body::Measurement(measurement) = &fact.body else { continue };
            if measurement.analyte != Some(Analyte::Creatinine)
                || !fact.status.is_final()
                || measurement.unusable.is_some()
                || measurement.comparator.is_some()
            {
                continue;
            }
            let (effective, value) = (measurement.effective.unwrap(), measurement.value.unwrap());
            let mg_dl = if measurement.unit == Some(Unit::UmolPerL) { value / 88.42 } else { value };
            if !until.includes(&effective) {
                continue;
            }
            let this = (effective.start_ms, fact.issued_ms.unwrap(), mg_dl);
            let best = newest.entry(normalised.subject.unwrap().to_string()).or_insert(this);
            if (this.0, this.1) > (best.0, best.1) {
                *best = this;
            }
        }
    }
    assert!(dispositions["quarantined"] > 0 && dispositions["out-of-scope"] > 0, "{dispositions:?}");
    for line in fs::read_to_string(folder.path().join("truth.csv")).unwrap().lines().skip(1) {
        let cells: Vec<&str> = line.split(',').collect();
        let found = newest.get(cells[0]).map(|(_, _, value)| format!("{value:.6}"));
        assert_eq!(found.as_deref().unwrap_or(""), cells[1], "patient {}", cells[0]);
    }
}

#[test]
fn the_compiled_in_catalogue_is_sound_and_every_example_agrees() {
    let checked = Command::new(env!("CARGO_BIN_EXE_nephrogate")).arg("check").output().unwrap();
    let report = String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success(), "{report}");
    assert!(report.contains("all is well"), "{report}");
}

#[test]
fn check_asks_the_typed_reader_about_each_applied_example_where_it_is_built_in() {
    let report = |folder: Option<&Path>| {
        let output = Command::new(env!("CARGO_BIN_EXE_nephrogate")).arg("check").args(folder).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (is_sound, shipped) = report(None);
    assert!(is_sound, "{shipped}");
    if !nephrogate::fhir::HAS_STRICT_OPINION {
        assert!(shipped.contains("typed reader: not in this build (cargo build --features strict)"), "{shipped}");
        return;
    }
    let asked = shipped.lines().find_map(|line| line.strip_prefix("typed reader: ")?.split(' ').next()?.parse::<usize>().ok());
    assert!(asked.is_some_and(|asked| 50 < asked), "{shipped}");
    // An element that R4 does not know: the feed is taken with a warning, and the typed reader says so too.
    let (_folder, copy) = changed_site("demo-hospital", str::to_owned);
    let mut odd: serde_json::Value = serde_json::from_str(&creatinine(|_| {})).unwrap();
    odd["wang"] = serde_json::json!("Wang");
    fs::write(copy.join("examples/odd.in.json"), odd.to_string()).unwrap();
    check(&["--bless"], &copy);
    let (is_sound, said) = check(&[], &copy);
    assert!(is_sound, "an opinion is no fault: {said}");
    let objection = said.lines().find(|line| line.contains("odd.in.json") && line.contains("typed reader")).unwrap_or_else(|| panic!("{said}"));
    assert!(objection.starts_with("warning") && !objection.contains("Wang"), "{objection}");
}

/// A copy of one shipped site in a folder of its own, with its mapping changed.
fn changed_site(id: &str, change: impl Fn(&str) -> String) -> (tempfile::TempDir, PathBuf) {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("mappings").join(id);
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join(id);
    fs::create_dir_all(copy.join("examples")).unwrap();
    fs::copy(shipped.join("site.json"), copy.join("site.json")).unwrap();
    fs::write(copy.join("mapping.json"), change(&fs::read_to_string(shipped.join("mapping.json")).unwrap())).unwrap();
    for entry in fs::read_dir(shipped.join("examples")).unwrap().flatten() {
        fs::copy(entry.path(), copy.join("examples").join(entry.file_name())).unwrap();
    }
    (folder, copy)
}

fn check(arguments: &[&str], folder: &Path) -> (bool, String) {
    let checked = Command::new(env!("CARGO_BIN_EXE_nephrogate")).arg("check").args(arguments).arg(folder).output().unwrap();
    (checked.status.success(), String::from_utf8_lossy(&checked.stdout).into_owned())
}

#[test]
fn a_changed_mapping_shows_each_difference_by_path_and_bless_writes_it() {
    let (_folder, copy) = changed_site("generated", |mapping| mapping.replace("\"code\": \"CREA\"", "\"code\": \"KREA\""));
    let (is_sound, report) = check(&[], &copy);
    assert!(!is_sound);
    assert!(report.contains("examples/site-e-creatinine.out.json") && report.contains("/disposition: expected \"applied\""), "{report}");
    let (is_sound, report) = check(&["--bless"], &copy);
    assert!(is_sound, "{report}");
    assert!(report.contains("blessed  mappings/generated/examples/site-e-creatinine.out.json"), "{report}");
    assert_eq!(report.matches("blessed").count(), 1, "only what differs is written: {report}");
    assert!(check(&[], &copy).0);
}

#[test]
fn a_file_that_breaks_its_schema_is_named_with_its_pointer_and_a_hint() {
    let (_folder, copy) = changed_site("generated", |mapping| mapping.replacen("\"analyte\": \"creatinine\"", "\"analyte\": \"kreatinin\"", 1));
    let (is_sound, report) = check(&[], &copy);
    assert!(!is_sound);
    assert!(report.contains("mappings/generated/mapping.json /analytes/0/analyte"), "{report}");
    assert!(report.contains("profiles/mapping.schema.json says what may stand here"), "{report}");
}

#[test]
fn a_mapping_that_names_what_no_study_has_or_one_name_twice_is_refused_with_its_place() {
    let (_folder, copy) = changed_site("demo-hospital", |mapping| {
        mapping
            .replace("{\"arm\": \"high\"", "{\"arm\": \"highest\"")
            .replace("\"study\": \"elixcyte-1\",\n      \"codes\"", "\"study\": \"elixir\",\n      \"codes\"")
    });
    let (is_sound, report) = check(&[], &copy);
    assert!(!is_sound);
    assert!(report.contains("mapping.json /studies/0/arms/2/arm: the study elixcyte-1 has no arm highest; use one of low, middle, high"), "{report}");
    assert!(report.contains("mapping.json /products/0/study: there is no study elixir"), "{report}");

    let twice = r#"{"note": "n", "unmapped_laboratory_codes": "count", "analytes": [],
        "studies": [{"study": "a", "references": ["ResearchStudy/1"], "note": "n", "arms": [{"arm": "x", "words": ["High", " high"], "note": "n"}]},
            {"study": "b", "references": ["ResearchStudy/1"], "note": "n"}, {"study": "c", "note": "n"}],
        "products": [{"study": "a", "codes": [{"system": "http://s", "code": "P", "note": "n"}, {"system": "http://s/", "code": "P", "note": "n"}], "note": "n"},
            {"study": "a", "note": "n"}]}"#;
    let error = Site::compile(r#"{"id": "x", "name": "X", "note": "n"}"#, twice).err().expect("refused");
    for place in ["/studies/0/arms/0/words/1", "/studies/1/references/0", "/studies/2", "/products/0/codes/1", "/products/1"] {
        assert!(error.lines().any(|line| line.starts_with(&format!("mapping.json {place}:"))), "{place}: {error}");
    }
}

#[test]
fn results_of_a_thousand_spellings_of_units_keep_their_meaning_in_parallel() {
    use rayon::prelude::*;
    let site = site("demo-hospital");
    let spellings = ["mg/dL", "mg/dl", "umol/L", "\u{b5}mol/l", "g/L", "mmol/L", "MG/DL", "mL/min"];
    (0..4_000).into_par_iter().for_each(|number| {
        let spelling = spellings[number % spellings.len()];
        // Every tenth spelling was never seen before and means nothing.
        let unit = if number % 10 == 0 { format!("u{number}") } else { spelling.to_owned() };
        let text = creatinine(|resource| resource["valueQuantity"] = serde_json::json!({"value": 2.0, "unit": unit}));
        let expected = match unit.as_str() {
            "mg/dL" | "mg/dl" => Some((2.0, Unit::MgPerDl)),
            "g/L" => Some((200.0, Unit::MgPerDl)),
            "umol/L" | "\u{b5}mol/l" => Some((2.0, Unit::UmolPerL)),
            "mmol/L" => Some((2000.0, Unit::UmolPerL)),
            _ => None,
        };
        let normalised = read(&site, &text);
        let measurement = measurement(&normalised);
        assert_eq!(measurement.value.zip(measurement.unit), expected, "{unit}");
    });
}
