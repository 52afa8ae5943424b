//! The floors of the house: who may name whom, and which words stop at which door. ARCHITECTURE.md explains the table.

use std::fs;
use std::path::{Path, PathBuf};

/// A module of `src/` and the modules it may name, from the ground up.
const FLOORS: &[(&str, &[&str])] = &[
    ("digest", &[]),
    ("escape", &[]),
    ("issue", &[]),
    ("clinical", &[]),
    ("egfr", &["clinical"]),
    ("fhir", &["clinical", "issue"]),
    ("hl7", &["clinical", "digest", "escape", "fhir", "issue"]),
    ("study", &["clinical", "digest", "egfr"]),
    ("mapping", &["clinical", "fhir", "hl7", "issue"]),
    ("rules", &["clinical", "digest", "egfr", "study"]),
    ("writeback", &["clinical", "digest", "escape", "fhir", "rules", "study"]),
    ("report", &["clinical", "digest", "egfr", "escape", "rules", "study"]),
    ("store", &["clinical", "digest", "fhir", "issue", "rules", "writeback"]),
    ("ehr", &["fhir", "writeback"]),
    ("catalogue", &["clinical", "digest", "egfr", "fhir", "issue", "mapping", "rules", "study", "writeback"]),
    ("pipeline", &["catalogue", "clinical", "digest", "ehr", "fhir", "hl7", "issue", "mapping", "report", "rules", "store", "study", "writeback"]),
    ("feeds", &["clinical", "digest", "ehr", "escape", "fhir", "hl7", "issue", "mapping", "pipeline", "store", "writeback"]),
    ("http", &["catalogue", "clinical", "digest", "escape", "fhir", "hl7", "issue", "pipeline", "report", "rules", "store", "study", "writeback"]),
];

/// Words that may stand only in the named modules (and in those that compose everything: app, cli, config).
const WORDS: &[(&str, &[&str])] = &[
    ("fhirbolt", &["fhir"]),
    ("jsonschema::", &["fhir"]),
    ("rusqlite::", &["store"]),
    ("postgres::", &["store"]),
    ("reqwest::", &["ehr"]),
    ("jsonwebtoken::", &["ehr", "http"]),
    ("actix_web::", &["http"]),
    ("serde_json::Value", &["fhir", "mapping", "catalogue", "http"]),
];

/// What pure code does not know: everything below `store` is pure.
const WORLD: &[&str] =
    &["async fn", ".await", "SystemTime", "Instant::now", "Timestamp::now", "std::fs", "std::env", "std::net", "tokio::", "rand::"];
const PURE: &[&str] = &["digest", "escape", "issue", "clinical", "egfr", "fhir", "hl7", "study", "mapping", "rules", "report", "writeback"];
const COMPOSERS: &[&str] = &["app", "cli", "config", "main", "lib"];

#[test]
fn no_floor_names_a_higher_one() {
    let mut faults = Vec::new();
    for (file, module, number, line) in lines() {
        let at = format!("{}:{number}", file.display());
        for named in line.split("crate::").skip(1) {
            let named: String = named.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let allowed = FLOORS.iter().find(|(floor, _)| *floor == module).map(|(_, allowed)| *allowed);
            let is_module = FLOORS.iter().any(|(floor, _)| *floor == named) || COMPOSERS.contains(&named.as_str());
            if is_module && named != module && allowed.is_some_and(|allowed| !allowed.contains(&named.as_str())) {
                faults.push(format!("{at}: {module} must not name {named}"));
            }
        }
        for (word, modules) in WORDS {
            if line.contains(word) && !modules.contains(&module.as_str()) && !COMPOSERS.contains(&module.as_str()) {
                faults.push(format!("{at}: {word} stops in {}", modules.join(", ")));
            }
        }
        for word in WORLD {
            if PURE.contains(&module.as_str()) && line.contains(word) {
                faults.push(format!("{at}: {module} is pure and must not know {word}"));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn no_site_and_no_study_is_named_in_the_code() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let ids: Vec<String> = ["mappings", "studies"]
        .iter()
        .flat_map(|folder| fs::read_dir(root.join(folder)).into_iter().flatten())
        .filter_map(|entry| entry.ok().filter(|entry| entry.path().is_dir()).map(|entry| entry.file_name().to_string_lossy().into_owned()))
        .collect();
    assert!(ids.len() >= 5, "three sites and two studies are shipped");
    let quoted: Vec<String> = ids.iter().map(|id| format!("\"{id}")).collect();
    let faults: Vec<String> = lines()
        .filter(|(_, _, _, line)| {
            quoted.iter().any(|id| line.contains(id.as_str())) || ids.iter().any(|id| id.contains('-') && line.contains(id.as_str()))
        })
        .map(|(file, _, number, _)| format!("{}:{number}", file.display()))
        .collect();
    assert!(faults.is_empty(), "a site or study id stands in the code\n{}", faults.join("\n"));
}

/// Every line of code under `src/`, comments left out, with the name of its top module.
fn lines() -> impl Iterator<Item = (PathBuf, String, usize, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    let mut folders = vec![src.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("src can be read").flatten() {
            match entry.path() {
                path if path.is_dir() => folders.push(path),
                path if path.extension().is_some_and(|end| end == "rs") => files.push(path),
                _ => {}
            }
        }
    }
    files.sort();
    files.into_iter().flat_map(move |path| {
        let file = path.strip_prefix(&src).expect("found under src").to_path_buf();
        let module = file.components().next().expect("has a name").as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned();
        let text = fs::read_to_string(&path).expect("is UTF-8");
        let code = |line: &str| !line.trim_start().starts_with("//");
        let lines: Vec<_> = text.lines().enumerate().filter(|(_, line)| code(line)).map(|(index, line)| (index + 1, line.to_owned())).collect();
        lines.into_iter().map(move |(number, line)| (file.clone(), module.clone(), number, line))
    })
}
