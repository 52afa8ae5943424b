//! The profiles of what we write: the schemas that the gateway checks follow from them, and HL7's validator and two others
//! that share no code with it take every body that can be sent, and refuse a broken one.

mod schema_of;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use nephrogate::catalogue::Catalogue;
use nephrogate::fhir::outgoing::{self, PROFILES};
use nephrogate::fhir::study_flagged::{Audit, Interaction, audit_event};
use nephrogate::writeback::Form;
use nephrogate::writeback::contract::needed_elements;
use nephrogate::writeback::ladder::Rung;
use serde_json::{Value, json};

use super::counterparts::every_body;
use super::gateway::{Gateway, SITE};
use super::rungs::every_request;
use schema_of::{Definitions, schema_of};

const CANONICAL: &str = "https://nephrogate.example/fhir";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where tests/run puts what it installs.
fn cache() -> PathBuf {
    std::env::var_os("NEPHROGATE_TEST_CACHE").map_or_else(|| root().join("tests/.cache"), PathBuf::from)
}

fn conformance() -> Vec<(PathBuf, Value)> {
    let files = std::fs::read_dir(root().join("profiles")).unwrap().map(|entry| entry.unwrap().path());
    let is_resource = |path: &PathBuf| path.is_file() && !path.to_str().unwrap().ends_with(".schema.json");
    let mut all: Vec<(PathBuf, Value)> = files
        .filter(is_resource)
        .map(|path| {
            let value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            (path, value)
        })
        .collect();
    all.sort_by(|one, other| one.0.cmp(&other.0));
    all
}

fn definitions() -> Definitions {
    conformance().into_iter().filter_map(|(_, resource)| Some((resource["url"].as_str()?.to_owned(), resource))).collect()
}

#[test]
fn the_schemas_that_are_checked_at_run_time_follow_from_the_profiles() {
    let definitions = definitions();
    let folder = root().join("profiles/study-flagged");
    for id in PROFILES {
        let profile = &definitions[&format!("{CANONICAL}/StructureDefinition/{id}")];
        let wanted = schema_of(&definitions, profile);
        let file = folder.join(format!("{id}.schema.json"));
        if std::env::var_os("NEPHROGATE_BLESS").is_some() {
            std::fs::write(&file, format!("{}\n", serde_json::to_string_pretty(&wanted).unwrap())).unwrap();
        }
        let found: Value = serde_json::from_slice(&std::fs::read(&file).unwrap_or_default()).unwrap_or_default();
        let hint = "mend the one that is wrong; with NEPHROGATE_BLESS=1 this test writes what follows from the profile";
        assert!(found == wanted, "{} does not follow from StructureDefinition-{id}.json: {hint}", file.display());
    }
    let others = ["mark", "types"];
    for entry in std::fs::read_dir(&folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let id = name.trim_end_matches(".schema.json");
        assert!(PROFILES.contains(&id) || others.contains(&id), "{name} belongs to no profile");
    }
}

#[test]
fn a_changed_profile_asks_for_another_schema() {
    let definitions = definitions();
    let flag = &definitions[&format!("{CANONICAL}/StructureDefinition/study-flagged-flag")];
    let schema = schema_of(&definitions, flag);
    let at = |id: &str| flag["differential"]["element"].as_array().unwrap().iter().position(|element| element["id"] == id).unwrap();
    let changes: [(&str, &str, Value); 5] = [
        ("Flag.author", "min", json!(1)),
        ("Flag.author", "max", json!("0")),
        ("Flag.identifier.system", "fixedUri", json!("urn:another")),
        ("Flag.category", "patternCodeableConcept", json!({"coding": [{"system": "urn:x", "code": "drug"}]})),
        ("Flag.status", "binding", json!({"strength": "required", "valueSet": format!("{CANONICAL}/ValueSet/list-status")})),
    ];
    for (id, name, value) in changes {
        let mut changed = flag.clone();
        changed["differential"]["element"][at(id)][name] = value;
        assert!(schema_of(&definitions, &changed) != schema, "{id} {name}");
    }
}

#[test]
fn a_profile_requires_only_what_a_contract_cannot_leave_out() {
    for (_, profile) in conformance() {
        let (id, kind) = (profile["id"].as_str().unwrap_or_default(), profile["type"].as_str().unwrap_or_default());
        // The research shape goes whole or not at all.
        if !PROFILES.contains(&id) || kind == "AuditEvent" || id.ends_with("-backport") {
            continue;
        }
        for element in profile["differential"]["element"].as_array().unwrap() {
            let path = element["path"].as_str().unwrap();
            let Some(name) = path.strip_prefix(&format!("{kind}.")).filter(|name| !name.contains('.')) else { continue };
            let is_needed = needed_elements(kind).iter().any(|needed| needed.starts_with(name.trim_end_matches("[x]")));
            assert!(is_needed || element["min"] != 1, "{id}: {path}");
        }
    }
}

fn file(name: &str) -> (PathBuf, Value) {
    let path = root().join("profiles").join(name);
    let value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    (path, value)
}

#[test]
fn the_statement_of_the_gateway_says_what_the_gateway_serves() {
    let (path, mut statement) = file("CapabilityStatement-nephrogate-gateway.json");
    let served = Gateway::start().get(&format!("/fhir/{SITE}/metadata")).json();
    if std::env::var_os("NEPHROGATE_BLESS").is_some() {
        statement["rest"] = served["rest"].clone();
        // Only an installation has an address.
        statement["messaging"] = json!([{"documentation": served["messaging"][0]["documentation"]}]);
        std::fs::write(&path, format!("{}\n", serde_json::to_string_pretty(&statement).unwrap())).unwrap();
    }
    let is_said = statement["rest"] == served["rest"] && statement["messaging"][0]["documentation"] == served["messaging"][0]["documentation"];
    assert!(is_said, "{} does not say what is served; NEPHROGATE_BLESS=1 writes what is", path.display());
}

#[test]
fn the_statement_of_an_ehr_names_for_each_rung_what_writing_and_taking_back_need() {
    let (_, statement) = file("CapabilityStatement-ehr-receiver.json");
    let resources = statement["rest"][0]["resource"].as_array().unwrap();
    for rung in Rung::ALL {
        for kind in rung.resource_types() {
            let resource = resources.iter().find(|resource| resource["type"] == *kind).unwrap_or_else(|| panic!("no {kind}"));
            assert!(resource["documentation"].as_str().unwrap().contains(&format!("Rung {}.", rung.word())), "{kind}");
            for code in ["read", "search-type", "update"] {
                assert!(resource["interaction"].as_array().unwrap().iter().any(|interaction| interaction["code"] == code), "{kind} {code}");
            }
            assert_eq!(resource["searchParam"][0]["name"], "identifier", "{kind}");
        }
    }
}

#[test]
fn the_implementation_guide_lists_every_conformance_resource() {
    let (_, guide) = file("ImplementationGuide-nephrogate.json");
    let mut listed: Vec<String> =
        guide["definition"]["resource"].as_array().unwrap().iter().map(|one| one["reference"]["reference"].as_str().unwrap().to_owned()).collect();
    listed.sort();
    let name = |resource: &Value| format!("{}/{}", resource["resourceType"].as_str().unwrap(), resource["id"].as_str().unwrap());
    let mut there: Vec<String> = conformance().iter().map(|(_, resource)| name(resource)).filter(|name| !name.starts_with("Impl")).collect();
    there.sort();
    assert_eq!(listed, there);
}

/// Every body that can be sent, by the profile that it is meant to keep.
fn bodies_by_profile() -> BTreeMap<&'static str, Vec<String>> {
    let mut by_profile: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
    for body in every_body().into_iter().chain(audit_events()) {
        by_profile.entry(outgoing::profile_of(&body).unwrap_or_else(|issue| panic!("{issue}: {body}"))).or_default().push(body);
    }
    let without: Vec<&&str> = PROFILES.iter().filter(|id| !by_profile.contains_key(**id)).collect();
    assert!(without.is_empty(), "nothing is ever written as {without:?}");
    by_profile
}

/// AuditEvents as they are served: they are no part of what is written.
fn audit_events() -> Vec<String> {
    let plain = Audit {
        id: Some("a-1"),
        is_test: false,
        interaction: Interaction::Read,
        recorded: "2026-11-23T08:00:00Z",
        failure: None,
        person: Some("Dr. Chen"),
        client: "browser",
        client_address: Some("192.0.2.7"),
        server: "https://gateway.example/fhir/north",
        patient: Some("Patient/p1"),
        resource: Some("Flag/ng-1"),
        query: None,
        study: Some("trial-7"),
        request: Some("r-1"),
    };
    let search = Audit { interaction: Interaction::Search, resource: None, query: Some("Flag?patient=p1"), is_test: true, ..plain };
    let sent = |interaction| Audit { interaction, person: None, client_address: None, study: None, request: None, ..plain };
    let failed = Audit { failure: Some("409"), patient: None, ..sent(Interaction::Update) };
    [plain, search, sent(Interaction::Create), sent(Interaction::Delete), failed].map(audit_event).to_vec()
}

#[test]
fn a_mark_on_a_resource_of_the_hospitals_holds_what_is_ours_and_nothing_else() {
    let catalogue = Catalogue::load(None).unwrap_or_else(|faults| panic!("{faults:?}"));
    let marks: Vec<String> = every_request()
        .into_iter()
        .filter(|request| request.form == Form::Fragment && !request.body.is_empty())
        .map(|request| request.body)
        .collect();
    assert!(!marks.is_empty());
    for mark in &marks {
        let issues = catalogue.outgoing.check_mark(mark);
        assert!(issues.is_empty(), "{issues:?} in {mark}");
        let mut broken: Value = serde_json::from_str(mark).unwrap();
        broken["status"] = json!("final");
        assert!(!catalogue.outgoing.check_mark(&broken.to_string()).is_empty(), "{broken}");
    }
}

/// A body and what somebody could have got wrong in it: each keeps base R4 and not the profile, but for the last, which
/// keeps neither.
fn broken(body: &str) -> Vec<(&'static str, String)> {
    let resource: Value = serde_json::from_str(body).unwrap();
    let change = |what: &'static str, change: &dyn Fn(&mut Value)| {
        let mut broken = resource.clone();
        change(&mut broken);
        (what, broken.to_string())
    };
    let mut all = Vec::new();
    if resource.get("identifier").is_some() {
        all.push(change("no identifier", &|resource| drop(resource.as_object_mut().unwrap().shift_remove("identifier"))));
        all.push(change("somebody else's identifier", &|resource| match &mut resource["identifier"] {
            Value::Array(identifiers) => identifiers.retain(|identifier| identifier["system"] != "urn:nephrogate:write-back"),
            one => one["system"] = json!("urn:somebody-else"),
        }));
        all.retain(|(_, body)| !body.contains("\"identifier\":[]"));
    }
    all.push(change("an element that R4 does not have", &|resource| resource["studyFlagged"] = json!(true)));
    all
}

#[test]
fn every_body_keeps_the_schema_of_its_profile_and_a_broken_one_does_not() {
    let catalogue = Catalogue::load(None).unwrap_or_else(|faults| panic!("{faults:?}"));
    for (profile, bodies) in bodies_by_profile() {
        for body in &bodies {
            let issues = catalogue.outgoing.check(body);
            assert!(issues.is_empty(), "{profile}: {issues:?} in {body}");
        }
        for (what, body) in broken(&bodies[0]) {
            assert!(!catalogue.outgoing.check(&body).is_empty(), "{profile} with {what}: {body}");
        }
    }
}

/// Whether a counterpart is there; said loudly where it is not.
fn is_there(what: &str, path: &Path) -> bool {
    let is_there = path.exists();
    if !is_there {
        eprintln!("SKIPPED: {what} is not installed in {} (tests/run installs it)", path.display());
    }
    is_there
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// HL7's validator over files; each is held to base R4 and, where one is named, to a profile. `None` where it is not there.
fn hl7(files: &[(Option<&str>, PathBuf)]) -> Option<Output> {
    if std::env::var_os("NEPHROGATE_HAPI").is_none() {
        eprintln!("SKIPPED: HL7's validator runs where NEPHROGATE_HAPI is set (tests/run sets it where Java and Maven are)");
        return None;
    }
    let mut command = Command::new(root().join("tests/counterparts/java"));
    command.arg("fhir-check").arg("--profiles").arg(root().join("profiles"));
    for (profile, file) in files {
        let profile = profile.map_or("base".to_owned(), |id| format!("{CANONICAL}/StructureDefinition/{id}"));
        command.arg("--as").arg(profile).arg(file);
    }
    Some(command.output().unwrap())
}

#[test]
fn the_profiles_and_every_body_pass_hl7s_own_validator() {
    let folder = tempfile::tempdir().unwrap();
    let mut files: Vec<(Option<&str>, PathBuf)> = conformance().into_iter().map(|(path, _)| (None, path)).collect();
    let mut count = files.len();
    for (profile, bodies) in bodies_by_profile() {
        let file = folder.path().join(format!("{profile}.ndjson"));
        std::fs::write(&file, bodies.join("\n")).unwrap();
        count += bodies.len();
        files.push((Some(profile), file));
    }
    eprintln!("{count} resources");
    let Some(output) = hl7(&files) else { return };
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains(&format!("{count} resources, 0 faults")), "{}", said(&output));
}

#[test]
fn hl7s_validator_refuses_what_breaks_a_profile() {
    let folder = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    for (profile, bodies) in bodies_by_profile() {
        for (index, (_, body)) in broken(&bodies[0]).into_iter().enumerate() {
            let file = folder.path().join(format!("{profile}-{index}.json"));
            std::fs::write(&file, body).unwrap();
            files.push((Some(profile), file));
        }
    }
    let Some(output) = hl7(&files) else { return };
    let said = said(&output);
    for (_, file) in &files {
        assert!(said.contains(&format!("{}, resource", file.display())), "{} was taken:\n{said}", file.display());
    }
}

/// Runs a validator of NDJSON that answers one line for each fault and a last line `N resources, M faults`.
fn validated(program: &Path, script: &str, bodies: &[String]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bodies.ndjson");
    std::fs::write(&file, bodies.join("\n")).unwrap();
    Command::new(program)
        .arg(root().join("tests/counterparts").join(script))
        .arg(&file)
        .env("NODE_PATH", cache().join("node/node_modules"))
        .output()
        .unwrap()
}

fn holds_to_base_r4(program: &Path, script: &str) {
    let bodies: Vec<String> = bodies_by_profile().into_values().flatten().collect();
    let output = validated(program, script, &bodies);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains(&format!("{} resources, 0 faults", bodies.len())), "{}", said(&output));
    for bodies in bodies_by_profile().into_values() {
        let (_, body) = broken(&bodies[0]).pop().unwrap();
        let output = validated(program, script, std::slice::from_ref(&body));
        assert!(!output.status.success() && said(&output).contains("studyFlagged"), "it was taken: {body}\n{}", said(&output));
    }
}

#[test]
fn every_body_passes_medplums_validator() {
    if is_there("@medplum/core", &cache().join("node/node_modules/@medplum/core")) {
        holds_to_base_r4(Path::new("node"), "medplum.cjs");
    }
}

#[test]
fn every_body_passes_fhirkits_validator() {
    let python = cache().join("venv/bin/python");
    let is_installed = || Command::new(&python).args(["-c", "import fhirkit"]).output().is_ok_and(|output| output.status.success());
    if is_there("fhirkit-rs", &python) && is_installed() {
        holds_to_base_r4(&python, "fhirkit.py");
    } else {
        eprintln!("SKIPPED: fhirkit-rs is not installed (tests/run installs it)");
    }
}
