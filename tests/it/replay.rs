//! The replayed trial by its own door: `nephrogate report` on twelve invented subjects states what the trial published,
//! and each figure comes from the input: one thing is changed there, and just the right figures move.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

const STUDY: &str = "elixcyte-1";
const SITES: [&str; 2] = ["north-hospital", "south-hospital"];
/// Week 24 of the first subject at the northern hospital, whose eGFR had risen.
const W24_OF_1002: &str = "2023-08-";
const NEVER: &str = "the replay holds it";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("studies").join(STUDY).join("examples/replay")
}

fn nephrogate(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_nephrogate")).args(args).output().expect("the binary runs")
}

fn succeeded(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn report_text(folder: &Path) -> String {
    succeeded(nephrogate(&["report", "--study", STUDY, "--format", "json", folder.to_str().expect("UTF-8")]))
}

fn report(folder: &Path) -> Value {
    serde_json::from_str(&report_text(folder)).expect("JSON")
}

/// The replay as files that a test may change.
struct Replay {
    folder: tempfile::TempDir,
}

impl Replay {
    fn new() -> Replay {
        let copy = tempfile::tempdir().expect("a folder");
        for site in SITES {
            fs::create_dir(copy.path().join(site)).expect("a folder");
            for entry in fs::read_dir(folder().join(site)).expect("the replay") {
                let path = entry.expect("an entry").path();
                fs::copy(&path, copy.path().join(site).join(path.file_name().expect("a name"))).expect("a copy");
            }
        }
        Replay { folder: copy }
    }

    fn lines(&self, site: &str, resource_type: &str) -> (PathBuf, Vec<Value>) {
        let path = self.folder.path().join(site).join(format!("{resource_type}.ndjson"));
        let text = fs::read_to_string(&path).expect(NEVER);
        (path, text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect())
    }

    fn write(path: &Path, lines: &[Value]) {
        fs::write(path, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).expect("written");
    }

    /// Changes every version that `which` finds; there must be one.
    fn change(&self, site: &str, resource_type: &str, which: impl Fn(&Value) -> bool, change: impl Fn(&mut Value)) {
        let (path, mut lines) = self.lines(site, resource_type);
        let found = lines.iter_mut().filter(|line| which(line)).map(&change).count();
        assert!(found > 0, "nothing was found to be changed");
        Replay::write(&path, &lines);
    }

    /// Adds a newer version of the one resource that `which` finds, in whatever file it stands.
    fn correct(&self, site: &str, resource_type: &str, which: impl Fn(&Value) -> bool, change: impl Fn(&mut Value)) {
        let (path, mut lines) = self.lines(site, resource_type);
        let mut newest = lines.iter().chain(&self.bundled(site)).rfind(|line| which(line)).expect(NEVER).clone();
        let version: u32 = newest["meta"]["versionId"].as_str().expect("a version").parse().expect("a number");
        newest["meta"]["versionId"] = json!((version + 1).to_string());
        change(&mut newest);
        lines.push(newest);
        Replay::write(&path, &lines);
    }

    /// What the site sends as a Bundle.
    fn bundled(&self, site: &str) -> Vec<Value> {
        let files = fs::read_dir(self.folder.path().join(site)).expect("the site").map(|entry| entry.expect("an entry").path());
        let bundles = files.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
        bundles
            .flat_map(|path| {
                let bundle: Value = serde_json::from_str(&fs::read_to_string(path).expect("read")).expect("JSON");
                bundle["entry"].as_array().expect("entries").iter().map(|entry| entry["resource"].clone()).collect::<Vec<_>>()
            })
            .collect()
    }

    fn report(&self) -> Value {
        report(self.folder.path())
    }
}

/// The creatinine of a subject on a day.
fn creatinine(patient: &'static str, day: &'static str) -> impl Fn(&Value) -> bool {
    move |resource| {
        let codes = resource["code"]["coding"].as_array().expect("codings");
        let is_creatinine = codes.iter().any(|coding| ["2160-0", "14682-9", "B-KREA"].contains(&coding["code"].as_str().expect("a code")));
        is_creatinine && of_patient(resource, patient) && resource["effectiveDateTime"].as_str().is_some_and(|text| text.starts_with(day))
    }
}

fn of_patient(resource: &Value, patient: &str) -> bool {
    resource["subject"]["reference"].as_str().is_some_and(|reference| reference.ends_with(&format!("Patient/{patient}")))
}

fn event(term: &'static str) -> impl Fn(&Value) -> bool {
    move |resource| resource["event"]["text"] == term || resource["code"]["text"] == term
}

/// A report as names and values: `listing/north-hospital 1019/course/state`. Positions in lists become the names of what
/// stands there, so that nothing moves but what changed.
fn flatten(report: &Value) -> BTreeMap<String, String> {
    let named = |list: &str, name: &dyn Fn(&Value) -> String| -> Vec<String> { report[list].as_array().expect("a list").iter().map(name).collect() };
    let subjects = named("listing", &|listed| format!("{} {}", text(&listed["site"]), text(&listed["subject"])));
    let events = named("events", &|event| {
        let subject = event["listed"].as_u64().expect("a position") as usize;
        format!("{} {}", subjects[subject], text(&event["event"]["id"]))
    });
    let mut flat = BTreeMap::new();
    walk("", report, &Names { subjects, events }, &mut flat);
    flat
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

struct Names {
    subjects: Vec<String>,
    events: Vec<String>,
}

fn walk(path: &str, value: &Value, names: &Names, flat: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(members) => {
            for (key, member) in members {
                let at = if path.is_empty() { key.clone() } else { format!("{path}/{key}") };
                let position = |position: &Value| position.as_u64().map(|position| position as usize);
                match key.as_str() {
                    "number" => {}
                    "listed" if members.contains_key("events") => {
                        list(&at, member, |one| names.events[position(one).expect("a position")].clone(), flat)
                    }
                    "listed" if member.is_array() => list(&at, member, |one| names.subjects[position(one).expect("a position")].clone(), flat),
                    "listed" | "subject" if member.is_u64() => drop(flat.insert(at, names.subjects[position(member).expect("a position")].clone())),
                    _ => walk(&at, member, names, flat),
                }
            }
        }
        Value::Array(members) => {
            let is_events = path == "events";
            for (index, member) in members.iter().enumerate() {
                let key = match member["subject"].as_u64() {
                    _ if is_events => names.events[index].clone(),
                    Some(subject) => names.subjects[subject as usize].clone(),
                    None => name(member).unwrap_or_else(|| index.to_string()),
                };
                walk(&format!("{path}/{key}"), member, names, flat);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => drop(flat.insert(path.to_owned(), value.to_string())),
    }
}

/// Positions as one value of names.
fn list(at: &str, positions: &Value, name: impl Fn(&Value) -> String, flat: &mut BTreeMap<String, String>) {
    let names: Vec<String> = positions.as_array().expect("positions").iter().map(name).collect();
    flat.insert(at.to_owned(), names.join(", "));
}

/// What an element of a list calls itself.
fn name(element: &Value) -> Option<String> {
    let words = |keys: &[&str]| -> Option<String> {
        let words: Vec<&str> = keys.iter().filter_map(|key| element[*key].as_str()).collect();
        (words.len() == keys.len()).then(|| words.join(" "))
    };
    let by: [&[&str]; 13] = [
        &["site", "subject", "event"],
        &["site", "subject"],
        &["kind", "id"],
        &["id"],
        &["visit"],
        &["measure"],
        &["what"],
        &["term"],
        &["arm"],
        &["clock"],
        &["kind"],
        &["resource"],
        &["date"],
    ];
    by.iter().find_map(|keys| words(keys))
}

/// Numbers agree when they agree in twelve digits: 88.42 times a number over 88.42 is not always that number.
fn is_same(before: &str, after: &str) -> bool {
    match (before.parse::<f64>(), after.parse::<f64>()) {
        (Ok(before), Ok(after)) => (before - after).abs() <= 1e-12 * before.abs().max(after.abs()),
        _ => before == after,
    }
}

/// Where two reports differ.
fn moved(before: &Value, after: &Value) -> BTreeSet<String> {
    let (before, after) = (flatten(before), flatten(after));
    let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let differs = |key: &&&String| match (before.get(**key), after.get(**key)) {
        (Some(before), Some(after)) => !is_same(before, after),
        _ => true,
    };
    keys.iter().filter(differs).map(|key| (*key).clone()).collect()
}

#[test]
fn the_head_of_the_report_is_what_the_trial_published() {
    let text = report_text(&folder());
    let head = r#"{"subjects":12,"arms":{"low":3,"middle":3,"high":6},"lost_to_follow_up":0,"treatment_related_events":2,"dose_limiting_toxicities":1,"serious_events":1,"egfr_increased":{"W24":7,"W48":6},"#;
    assert!(text.starts_with(head), "{}", &text[..text.len().min(400)]);
}

/// The element of a list that says so.
fn of<'a>(list: &'a Value, key: &str, value: &str) -> &'a Value {
    let elements = list.as_array().unwrap_or_else(|| panic!("{list} is no list"));
    elements.iter().find(|element| element[key] == value).unwrap_or_else(|| panic!("nothing has {key} {value}"))
}

fn subject<'a>(report: &'a Value, site: &str, id: &str) -> &'a Value {
    let listing = report["listing"].as_array().expect("a listing");
    &listing.iter().find(|listed| listed["site"] == site && listed["subject"] == id).expect("a subject")["course"]
}

/// Of a measure: everybody, an arm or a stratum, at a visit.
fn at<'a>(report: &'a Value, measure: &str, group: &str, visit: &str) -> &'a Value {
    of(&of(&of(&report["outcomes"], "measure", measure)["groups"], "id", group)["visits"], "visit", visit)
}

fn series<'a>(course: &'a Value, measure: &str) -> &'a Value {
    of(&course["outcome"]["series"], "measure", measure)
}

#[test]
fn each_published_event_stands_in_its_arm_with_its_axes() {
    let report = report(&folder());
    let of_term = |term: &str| {
        let events = report["events"].as_array().expect("events").iter();
        events.filter(|event| event["left_out"].is_null()).find(|event| event["event"]["term"] == term).expect("the event")
    };
    let axes = |event: &Value| {
        let of = &event["event"];
        json!([event["arm"], of["grade"], of["is_serious"], of["relation"], of["is_related"], of["is_dose_limiting"], of["outcome"]])
    };
    let speech = of_term("Slow speech");
    // ASN Kidney Week 2020 PO0559; J Cell Mol Med 2022;26:2972.
    assert_eq!(axes(speech), json!(["high", 1, false, "possible", true, true, "resolved"]));
    assert_eq!((&speech["event"]["onset"], &speech["event"]["resolved"]), (&json!("2023-09-12T11:45:00+08:00"), &json!("2023-09-13")));
    assert_eq!(axes(of_term("Bradyphrenia")), json!(["high", 1, false, "possible", true, false, "resolved"]));
    assert_ne!(speech["listed"], of_term("Bradyphrenia")["listed"], "two subjects");
    assert_eq!(axes(of_term("Proteinuria")), json!(["middle", 2, true, "unlikely", false, false, "resolved"]));
    let dlts = |arm: &str| of(&report["dosing"]["arms"], "arm", arm)["dlts"].as_u64();
    assert_eq!((dlts("low"), dlts("middle"), dlts("high")), (Some(0), Some(0), Some(1)));
    let table = &report["safety"]["table"];
    assert_eq!(of(table, "what", "fatal")["all"]["events"], 0);
    assert_eq!(of(table, "what", "any")["all"]["events"], 9);
    let left_out = &report["safety"]["left_out"];
    assert_eq!(json!([left_out["potential"]["events"], left_out["other-study"]["events"], left_out["before-enrolment"]["events"]]), json!([1, 1, 1]));
    assert_eq!(of(&report["safety"]["candidates"], "kind", "unplanned-stay")["open"], 1);
}

#[test]
fn the_published_outcomes_stand_in_the_tables_with_their_tests() {
    let report = report(&folder());
    // J Cell Mol Med 2022;26:2972: above 20 % in all with a baseline of 30 or more, and in two below.
    let above = &at(&report, "egfr", "egfr-30-or-above", "W24")["responders"];
    assert_eq!((&above["count"], &above["of"]), (&json!(3), &json!(3)));
    let below = &at(&report, "egfr", "egfr-below-30", "W24")["responders"];
    assert_eq!((&below["count"], &below["of"]), (&json!(2), &json!(9)));
    for (visit, p) in [("W24", 0.4697265625), ("W48", 0.5693359375)] {
        let at = at(&report, "upcr", "all", visit);
        assert_eq!((&at["known"]["count"], &at["test"]["n"], &at["test"]["is_significant"]), (&json!(12), &json!(12), &json!(false)));
        // What make.py counts by all 4,096 signs.
        assert_eq!(at["test"]["p"].as_f64(), Some(p));
    }
    for visit in report["follow_up"]["visits"].as_array().expect("visits") {
        assert_eq!(visit["done"]["count"], 12, "{visit}");
    }
    for arm in report["enrolment"]["arms"].as_array().expect("arms") {
        assert_eq!((&arm["dosed"]["count"], &arm["dosed_otherwise"]["count"]), (&arm["planned_subjects"], &json!(0)), "{arm}");
    }
}

#[test]
fn the_quirks_of_the_two_hospitals_are_read_as_they_are_meant() {
    let report = report(&folder());
    let north = |id| subject(&report, "north-hospital", id);
    let south = |id| subject(&report, "south-hospital", id);
    let anchor = |course: &Value| course["schedule"]["anchor"]["date"].as_str().expect("a day 0").to_owned();
    // One id at two hospitals is two persons.
    assert_eq!((north("1007")["entered"]["arm"]["arm"].as_str(), south("1007")["entered"]["arm"]["arm"].as_str()), (Some("low"), Some("middle")));
    // An infusion that was put off is none, and one that is known by its day alone is one.
    assert!(anchor(north("1024")).starts_with("2023-11-28T"), "{}", anchor(north("1024")));
    assert_eq!(anchor(south("50021783")), "2023-03-21");
    assert_eq!((&north("1024")["entered"]["doses"][0]["cells"], &south("1007")["entered"]["doses"][0]["cells"]), (&json!(32.0e7), &json!(19.2e7)));
    // A copy under another id, a preliminary result and a corrected one count once: two of the past, screening, seven visits.
    for course in [south("50040277"), south("50021783"), north("1024")] {
        assert_eq!(series(course, "egfr")["points"].as_array().expect("points").len(), 10);
    }
    let at = |course: &'_ Value, visit: &str| of(&series(course, "egfr")["visits"], "visit", visit).clone();
    assert!(at(south("50021783"), "W24")["change"].as_f64().expect("a change") < 0.0, "the preliminary result was higher than the baseline");
    let corrected = at(north("1024"), "W48");
    assert_eq!(corrected["point"]["by"][0]["version"], "2");
    assert!(corrected["change"].as_f64().expect("a change") < 0.0, "the result that was corrected was higher than the baseline");
    // 29.7 is not 30, and 19.5 % is not 20 %.
    assert_eq!(series(north("1011"), "egfr")["stratum"], "egfr-below-30");
    assert_eq!(at(north("1007"), "W24")["is_responder"], false);
    // A ratio names both results that it was made of.
    assert_eq!(series(south("1007"), "upcr")["baseline"]["by"].as_array().expect("results").len(), 2);
}

#[test]
fn all_twelve_pass_the_prescreen_on_the_day_before_their_infusion() {
    let report = report(&folder());
    for listed in report["listing"].as_array().expect("a listing") {
        let (site, id) = (text(&listed["site"]), text(&listed["subject"]));
        let dosed: String = listed["course"]["entered"]["doses"][0]["given"]["date"].as_str().expect("a dose").chars().take(10).collect();
        let day: i64 = dosed[8..].parse().expect("a day");
        let eve = format!("{}{:02}", &dosed[..8], day - 1);
        let files = folder().join(site);
        let answers = succeeded(nephrogate(&[
            "screen",
            "--study",
            STUDY,
            "--site",
            site,
            "--as-of",
            &eve,
            "--format",
            "ndjson",
            files.to_str().expect("UTF-8"),
        ]));
        let answer = answers.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")).find(|answer| answer["subject"] == id);
        assert_eq!(answer.expect("an answer")["prescreen"], "met", "{site} {id} on {eve}");
    }
}

/// Asserts that just these places moved: each pattern (`*` for anything) names at least one, and none moved beside them.
#[track_caller]
fn assert_moved(before: &Value, after: &Value, patterns: &[&str]) {
    let moved = moved(before, after);
    let idle: Vec<&&str> = patterns.iter().filter(|pattern| !moved.iter().any(|key| fits(pattern, key))).collect();
    let others: Vec<&String> = moved.iter().filter(|key| !patterns.iter().any(|pattern| fits(pattern, key))).collect();
    assert!(idle.is_empty() && others.is_empty(), "did not move: {idle:#?}\nmoved beside: {others:#?}");
}

fn fits(pattern: &str, key: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = key.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut parts = parts.peekable();
    while let Some(part) = parts.next() {
        match (parts.peek(), rest.find(part)) {
            (None, _) if part.is_empty() => return true,
            (None, _) => return rest.ends_with(part),
            (Some(_), Some(at)) => rest = &rest[at + part.len()..],
            (Some(_), None) => return false,
        }
    }
    rest.is_empty()
}

#[test]
fn an_event_that_is_held_for_possibly_related_adds_to_the_related_ones_and_to_nothing_else() {
    let before = report(&folder());
    let replay = Replay::new();
    replay.change("north-hospital", "AdverseEvent", event("Constipation"), |event| {
        let text = event.to_string();
        assert!(text.contains("C53257"), "{text}");
        *event = serde_json::from_str(&text.replace("C53257", "C53258")).expect("JSON");
    });
    let after = replay.report();
    assert_eq!(after["treatment_related_events"], 3);
    assert_moved(
        &before,
        &after,
        &[
            "treatment_related_events",
            "evidence/treatment_related_events/*",
            "events/north-hospital 1011 AdverseEvent/*/is_related",
            "events/north-hospital 1011 AdverseEvent/*/event/relation",
            "listing/north-hospital 1011/course/events/AdverseEvent/*/relation",
            "listing/north-hospital 1011/course/events/AdverseEvent/*/is_related",
            "safety/table/related/all/*",
            "safety/table/related/arms/middle/*",
            "safety/table/not-related/all/*",
            "safety/table/not-related/arms/middle/*",
        ],
    );
}

#[test]
fn an_event_that_is_held_for_unlikely_related_is_taken_off_the_related_ones() {
    let before = report(&folder());
    let replay = Replay::new();
    replay.change("south-hospital", "AdverseEvent", event("Bradyphrenia"), |event| {
        event["suspectEntity"][0]["causality"][0]["assessment"]["coding"][0]["code"] = json!("unlikely");
    });
    let after = replay.report();
    assert_eq!(after["treatment_related_events"], 1);
    assert_moved(
        &before,
        &after,
        &[
            "treatment_related_events",
            "evidence/treatment_related_events/*",
            "events/south-hospital 50054408 AdverseEvent/*/is_related",
            "events/south-hospital 50054408 AdverseEvent/*/event/relation",
            "listing/south-hospital 50054408/course/events/AdverseEvent/*/relation",
            "listing/south-hospital 50054408/course/events/AdverseEvent/*/is_related",
            "safety/table/related/all/*",
            "safety/table/related/arms/high/*",
            "safety/table/not-related/all/*",
            "safety/table/not-related/arms/high/*",
        ],
    );
}

#[test]
fn a_creatinine_in_another_unit_with_its_right_number_moves_nothing() {
    let before = report(&folder());
    let replay = Replay::new();
    replay.change("north-hospital", "Observation", creatinine("1002", W24_OF_1002), |result| {
        let mg_dl = result["valueQuantity"]["value"].as_f64().expect("a number");
        let umol_l = |mg_dl: f64| json!({"value": mg_dl * 88.42, "unit": "\u{b5}mol/L", "system": "http://unitsofmeasure.org", "code": "umol/L"});
        let high = result["referenceRange"][0]["high"]["value"].as_f64().expect("a number");
        result["valueQuantity"] = umol_l(mg_dl);
        result["referenceRange"][0]["high"] = umol_l(high);
    });
    assert_moved(&before, &replay.report(), &[]);
}

#[test]
fn a_creatinine_in_a_unit_that_nobody_knows_is_missing_at_its_visit_alone() {
    let before = report(&folder());
    let replay = Replay::new();
    replay.change("north-hospital", "Observation", creatinine("1002", W24_OF_1002), |result| {
        result["valueQuantity"] =
            json!({"value": result["valueQuantity"]["value"], "unit": "mg/dL serum", "system": "http://unitsofmeasure.org", "code": "mg/dLs"});
    });
    let after = replay.report();
    assert_eq!(after["egfr_increased"], json!({"W24": 6, "W48": 6}));
    assert_moved(
        &before,
        &after,
        &[
            "egfr_increased/W24",
            "evidence/egfr_increased/W24/*",
            "follow_up/visits/W24/done/*",
            "follow_up/visits/W24/missed/*",
            "listing/north-hospital 1002/course/schedule/visits/W24/*",
            "listing/north-hospital 1002/course/outcome/series/egfr/visits/W24/*",
            "listing/north-hospital 1002/course/outcome/series/egfr/points/2023-08-20T08:10:00+08:00/*",
            "listing/north-hospital 1002/course/outcome/series/egfr/unusable/2023-08-20T08:10:00+08:00/*",
            "listing/north-hospital 1002/course/outcome/series/egfr/slope/*",
            "outcomes/egfr/groups/all all/visits/W24/*",
            "outcomes/egfr/groups/all all/slope/*",
            "outcomes/egfr/groups/arm low/visits/W24/*",
            "outcomes/egfr/groups/arm low/slope/*",
            "outcomes/egfr/groups/stratum egfr-30-or-above/visits/W24/*",
            "outcomes/egfr/groups/stratum egfr-30-or-above/slope/*",
            "outcomes/egfr/unusable/unit-unmapped",
        ],
    );
    let at_w24 = at(&after, "egfr", "all", "W24");
    assert_eq!((&at_w24["known"]["count"], &at_w24["missing"]["count"]), (&json!(11), &json!(1)));
}

#[test]
fn a_correction_after_the_fact_moves_its_own_visit() {
    let before = report(&folder());
    let replay = Replay::new();
    // Six of twelve were up at week 48, and this man was not.
    replay.correct("south-hospital", "Observation", creatinine("50054408", "2024-10-"), |result| {
        let value = result["valueQuantity"]["value"].as_f64().expect("a number");
        result["valueQuantity"]["value"] = json!((value * 0.85).round());
        result["status"] = json!("corrected");
        result["meta"]["lastUpdated"] = json!("2024-10-12T09:00:00+08:00");
    });
    let after = replay.report();
    assert_eq!(after["egfr_increased"], json!({"W24": 7, "W48": 7}));
    assert_moved(
        &before,
        &after,
        &[
            "egfr_increased/W48",
            "evidence/egfr_increased/W48/*",
            "listing/south-hospital 50054408/course/schedule/visits/W48/on/by/version",
            "listing/south-hospital 50054408/course/schedule/last_seen/by/version",
            "listing/south-hospital 50054408/course/outcome/series/egfr/visits/W48/*",
            "listing/south-hospital 50054408/course/outcome/series/egfr/points/2024-10-03T08:10:00+08:00/*",
            "listing/south-hospital 50054408/course/outcome/series/egfr/slope/*",
            "outcomes/egfr/groups/all all/visits/W48/*",
            "outcomes/egfr/groups/all all/slope/*",
            "outcomes/egfr/groups/arm high/visits/W48/*",
            "outcomes/egfr/groups/arm high/slope/*",
            "outcomes/egfr/groups/stratum egfr-below-30/visits/W48/*",
            "outcomes/egfr/groups/stratum egfr-below-30/slope/*",
        ],
    );
}

#[test]
fn without_the_word_of_the_source_there_is_no_dose_limiting_toxicity() {
    let before = report(&folder());
    let replay = Replay::new();
    replay.change("north-hospital", "AdverseEvent", event("Slow speech"), |event| {
        let extensions = event["extension"].as_array_mut().expect("extensions");
        let all = extensions.len();
        extensions.retain(|extension| !extension["url"].as_str().expect("a url").ends_with("dose-limiting-toxicity"));
        assert_eq!(extensions.len(), all - 1);
    });
    let after = replay.report();
    assert_eq!(after["dose_limiting_toxicities"], 0);
    assert_moved(
        &before,
        &after,
        &[
            "dose_limiting_toxicities",
            "evidence/dose_limiting_toxicities/*",
            "events/north-hospital 1019 AdverseEvent/*/is_dose_limiting",
            "events/north-hospital 1019 AdverseEvent/*/event/missing/0",
            "listing/north-hospital 1019/course/events/AdverseEvent/*/is_dose_limiting",
            "listing/north-hospital 1019/course/events/AdverseEvent/*/missing/0",
            "safety/table/dose-limiting/all/*",
            "safety/table/dose-limiting/arms/high/*",
            "safety/completion/waiting/*",
            "safety/completion/axes/dose-limiting/*",
            "dosing/arms/high/dlts",
            "dosing/arms/high/subjects/north-hospital 1019/*",
            "dosing/cohorts/2/dlts",
            // Three without a toxicity at the highest dose end a 3+3: the three after them were not its own.
            "dosing/advice",
            "dosing/advice/*",
            "dosing/invalid",
            "dosing/invalid/*",
            "dosing/says",
        ],
    );
}

#[test]
fn a_serious_event_that_was_entered_in_error_is_none() {
    let before = report(&folder());
    let replay = Replay::new();
    replay.correct("south-hospital", "AdverseEvent", event("Proteinuria"), |event| {
        event["status"] = json!("entered-in-error");
        event["meta"]["lastUpdated"] = json!("2024-02-01T09:00:00+08:00");
    });
    let after = replay.report();
    assert_eq!(after["serious_events"], 0);
    assert_moved(
        &before,
        &after,
        &[
            "serious_events",
            "evidence/serious_events/*",
            "events/south-hospital 50033410 AdverseEvent/*",
            "listing/south-hospital 50033410/course/events/AdverseEvent/*",
            // Nothing explains the stay any more.
            "listing/south-hospital 50033410/course/candidates/unplanned-stay *",
            "safety/candidates/unplanned-stay/open",
            "safety/clocks/site-to-sponsor/*",
            "safety/overdue/site-to-sponsor/*",
            "safety/table/any/all/*",
            "safety/table/any/arms/middle/*",
            "safety/table/treatment-emergent/all/*",
            "safety/table/treatment-emergent/arms/middle/*",
            "safety/table/not-related/all/*",
            "safety/table/not-related/arms/middle/*",
            "safety/table/serious/all/*",
            "safety/table/serious/arms/middle/*",
            "safety/table/grade-2/all/*",
            "safety/table/grade-2/arms/middle/*",
            "safety/terms/Proteinuria/*",
        ],
    );
}

#[test]
fn a_store_that_took_the_same_files_reports_the_same() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path().to_str().expect("UTF-8");
    for site in SITES {
        succeeded(nephrogate(&["import", "--site", site, "--dir", dir, folder().join(site).to_str().expect("UTF-8")]));
    }
    let of_files = report(&folder());
    let as_of = text(&of_files["as_of"]);
    let of_store = succeeded(nephrogate(&["report", "--study", STUDY, "--format", "json", "--as-of", as_of, "--dir", dir]));
    let mut of_store: Value = serde_json::from_str(&of_store).expect("JSON");
    let mut of_files = of_files.clone();
    without_receipts(&mut of_files);
    without_receipts(&mut of_store);
    assert_moved(&of_files, &of_store, &[]);
    assert_eq!(of_files, of_store);
}

/// Files have no receipt numbers.
fn without_receipts(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.remove("message");
            members.values_mut().for_each(without_receipts);
        }
        Value::Array(members) => members.iter_mut().for_each(without_receipts),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn the_script_writes_the_files_as_they_are_committed() {
    let made = tempfile::tempdir().expect("a folder");
    let script = Command::new("python3").arg("-B").arg(folder().join("make.py")).arg(made.path()).output();
    let Ok(script) = script else {
        println!("skipped: python3 is not here");
        return;
    };
    assert!(script.status.success(), "{}", String::from_utf8_lossy(&script.stderr));
    for site in SITES {
        let names = |folder: &Path| -> BTreeSet<_> {
            fs::read_dir(folder.join(site)).expect("files").map(|entry| entry.expect("an entry").file_name()).collect()
        };
        assert_eq!(names(made.path()), names(&folder()));
        for name in names(&folder()) {
            let read = |folder: &Path| fs::read(folder.join(site).join(&name)).expect("a file");
            assert!(read(made.path()) == read(&folder()), "{site}/{} is not what make.py writes", name.display());
        }
    }
}
