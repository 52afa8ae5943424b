//! Every quirk that servers were seen to have, one at a time and in pairs, on every rung and with ids of ours and of the
//! server's: what is written ends confirmed, or visibly not, with a reason; never twice; and it is taken back.

pub mod stub;

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use nephrogate::catalogue::Catalogue;
use nephrogate::clinical::fact::{Decided, Decision};
use nephrogate::ehr::Ehr;
use nephrogate::pipeline::deliver::{Circuit, Summary, deliver_once};
use nephrogate::pipeline::{Pipeline, decide, judge, receive};
use nephrogate::store::Store;
use nephrogate::store::outbox::{self, Item, ItemState};
use nephrogate::writeback::ladder::{Ladder, Rung};
use nephrogate::writeback::receiver::Settings;
use nephrogate::writeback::{Annotates, Beside, Receiver};
use serde_json::Value;

use super::deliver::{SITE, STUDY, creatinine, patient};
use stub::{OURS, Quirk, Stub, fields_of, without_stamps};

/// Types that we write; what else stands is the hospital's.
const WRITTEN_TYPES: [&str; 10] =
    ["ResearchStudy", "ResearchSubject", "Flag", "List", "Group", "DocumentReference", "Communication", "Observation", "AdverseEvent", "Provenance"];
const HOUR_MS: i64 = 3_600_000;

/// The catalogue with one study, read once.
static CATALOGUE: LazyLock<Arc<Catalogue>> = LazyLock::new(|| {
    let mut catalogue = Catalogue::load(None).unwrap_or_else(|faults| panic!("{faults:?}"));
    for studies in catalogue.studies_of_site.values_mut() {
        studies.retain(|study| study.id == STUDY);
    }
    Arc::new(catalogue)
});

pub fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// The demo's receiver at this address, with these changes.
pub fn receiver(base_url: &str, change: impl FnOnce(Receiver) -> Receiver) -> Receiver {
    let settings = Settings::read(&CATALOGUE.receivers[SITE]).unwrap();
    let changed = change(settings.receiver(SITE, base_url, [5; 32]));
    Receiver { ladder: Ladder::of_contract(&changed.rungs), ..changed }
}

/// What judges, plans and delivers for one receiver, on this store.
pub fn pipeline(store: Store, receiver: Receiver) -> Pipeline {
    Pipeline { store, catalogue: CATALOGUE.clone(), receivers: Arc::new(BTreeMap::from([(SITE.to_owned(), receiver)])) }
}

/// A gateway that is driven by hand, its EHR, and one clock for both.
pub struct Gateway {
    pub pipeline: Pipeline,
    pub stub: Stub,
    pub ehr: Ehr,
    pub now_ms: i64,
    circuit: Circuit,
    runtime: tokio::runtime::Runtime,
    _folder: tempfile::TempDir,
}

impl Gateway {
    pub fn new(quirks: &[Quirk], change: impl FnOnce(Receiver) -> Receiver) -> Gateway {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open_sqlite(&folder.path().join(nephrogate::store::FILE_NAME)).unwrap();
        Gateway::on(store, folder, quirks, change)
    }

    pub fn on(store: Store, folder: tempfile::TempDir, quirks: &[Quirk], change: impl FnOnce(Receiver) -> Receiver) -> Gateway {
        let now_ms = now_ms();
        let stub = Stub::start(quirks, &[], now_ms);
        let pipeline = pipeline(store, receiver(&stub.base_url, change));
        let ehr = Ehr::open(&stub.base_url, None).unwrap();
        Gateway { pipeline, stub, ehr, now_ms, circuit: Circuit::default(), runtime: tokio::runtime::Runtime::new().unwrap(), _folder: folder }
    }

    /// The hospital sends this to the gateway, and holds it itself.
    pub fn hospital_says(&self, resource: &Value) {
        self.stub.hospital_puts(&resource.to_string());
        self.push(resource);
    }

    pub fn push(&self, resource: &Value) {
        self.push_text(&resource.to_string());
    }

    /// The same, byte for byte.
    pub fn hospital_says_text(&self, text: &str) {
        self.stub.hospital_puts(text);
        self.push_text(text);
    }

    fn push_text(&self, text: &str) {
        let site = &self.pipeline.catalogue.sites[SITE];
        let prepared = receive::prepare(&self.pipeline.catalogue, site, text.as_bytes());
        let receipts = receive::receive(&self.pipeline, SITE, "push", self.now_ms, &[prepared]).unwrap();
        assert_eq!(receipts[0].disposition.word(), "applied", "{:?}", receipts[0].issues);
    }

    pub fn decide(&self, subject: &str, what: Decided) {
        let decision =
            Decision { study: STUDY.into(), by: "Dr Lin".into(), reason: "as agreed".to_owned(), at_ms: self.now_ms, evidence_seen: "".into(), what };
        decide::append(&self.pipeline, SITE, subject, &decision).unwrap();
    }

    pub fn items(&self) -> Vec<Item> {
        self.pipeline.store.read_blocking(|tx| outbox::list(tx, None, None)).unwrap()
    }

    /// The newest item of each key.
    pub fn newest(&self) -> Vec<Item> {
        let newest: BTreeMap<String, Item> = self.items().into_iter().map(|item| (item.request.key.clone(), item)).collect();
        newest.into_values().collect()
    }

    /// One round; the clock goes on by the time that it takes.
    pub fn once(&mut self) -> Summary {
        self.stub.set_clock(self.now_ms);
        // Whoever a changed ladder or a new judgement left waiting.
        judge::waiting(&self.pipeline, self.now_ms, 1_000).unwrap();
        let began = Instant::now();
        let summary = self.runtime.block_on(deliver_once(&self.pipeline, &self.ehr, &mut self.circuit, SITE, self.now_ms)).unwrap();
        self.now_ms += began.elapsed().as_millis() as i64;
        summary
    }

    /// Delivers, moving the clock, until nothing is planned or sent; at most so long.
    pub fn deliver(&mut self, at_most_ms: i64) {
        let until_ms = self.now_ms + at_most_ms;
        while self.items().iter().any(|item| matches!(item.state, ItemState::Planned | ItemState::Sent)) && self.now_ms < until_ms {
            if self.once().claimed == 0 {
                self.now_ms += 1_000;
            }
        }
    }

    /// A patient who passes the prescreen.
    pub fn candidate(&self, id: &str) {
        self.hospital_says(&patient(id));
        self.hospital_says(&creatinine(&format!("old-{id}"), id, 1, "final", 130, "2.1"));
        self.hospital_says(&creatinine(&format!("new-{id}"), id, 1, "final", 10, "2.0"));
    }

    /// Everything of ours that stands, by our identifier.
    pub fn ours(&self) -> BTreeMap<String, Vec<Value>> {
        ours(&self.stub)
    }
}

/// Everything of ours that stands at the stub, by our identifier.
pub fn ours(stub: &Stub) -> BTreeMap<String, Vec<Value>> {
    let mut ours: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for resource in WRITTEN_TYPES.into_iter().flat_map(|kind| stub.standing(kind)) {
        if let Some(key) = key_of(&resource) {
            ours.entry(key).or_default().push(resource);
        }
    }
    ours
}

/// The identifier we gave a resource; a DocumentReference or Group carries several.
pub fn key_of(resource: &Value) -> Option<String> {
    let identifiers = match &resource["identifier"] {
        Value::Array(identifiers) => identifiers.clone(),
        other => vec![other.clone()],
    };
    identifiers.iter().find(|identifier| identifier["system"] == OURS)?["value"].as_str().map(str::to_owned)
}

/// How what a rung writes about one subject ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Confirmed,
    /// Confirmed, or degraded where we need it; either way an item names what was dropped.
    Dropped,
    /// Not whole, and an item names this.
    Degraded(&'static str),
    /// Refused, nothing of it is there, and an item says so.
    Rejected(&'static str),
}

/// What is expected of each quirk: how the first writing ends, and whether it is taken back in the end. Everything that
/// is not named here ends confirmed and is taken back.
fn expected(quirks: &[Quirk], update_creates: bool) -> (End, bool) {
    if update_creates && quirks.contains(&Quirk::NoUpdateCreates) {
        return (End::Rejected("does this server let clients choose ids"), true);
    }
    if quirks.contains(&Quirk::DropsIdentifiers) {
        return (End::Degraded("identifier"), true);
    }
    if quirks.contains(&Quirk::IgnoresUnknownFields) {
        return (End::Dropped, true);
    }
    // A contract that names the rung all the same; the ladder does not climb it where the server is asked first.
    (End::Confirmed, !quirks.contains(&Quirk::NoUpdate))
}

/// One candidate comes, is told about, and is corrected away, at an EHR with these quirks.
fn comes_and_goes(quirks: &[Quirk], update_creates: bool, rung: Rung) {
    let words: Vec<&str> = quirks.iter().map(|quirk| quirk.word()).collect();
    let case = format!("{} with ids of {} on {}", words.join(" and "), if update_creates { "ours" } else { "the EHR's" }, rung.word());
    let rungs = if rung == Rung::ResearchSubject { vec![rung, Rung::Flag] } else { vec![rung] };
    let mut gateway = Gateway::new(quirks, |receiver| Receiver { update_creates, rungs, ..receiver });
    gateway.candidate("p0");
    gateway.deliver(2 * HOUR_MS);
    let (end, is_taken_back) = expected(quirks, update_creates);

    let kind = *rung.resource_types().last().unwrap();
    let said: Vec<Item> = gateway.newest();
    let told = said.iter().find(|item| item.request.resource_type == kind).unwrap_or_else(|| panic!("{case}: nothing was planned"));
    each_ends_and_says_why(&said, &case);
    match end {
        End::Confirmed => {
            assert!(said.iter().all(|item| item.state == ItemState::Confirmed), "{case}:\n{}", brief(&said));
        }
        End::Dropped => {
            let is_there = |item: &Item| matches!(item.state, ItemState::Confirmed | ItemState::Degraded);
            assert!(said.iter().all(is_there) && said.iter().any(|item| item.last_error.is_some()), "{case}:\n{}", brief(&said));
        }
        End::Degraded(lacks) => {
            let is_named = |item: &&Item| item.last_error.as_deref().is_some_and(|error| error.contains(lacks));
            assert!(said.iter().any(|item| item.state == ItemState::Degraded && is_named(&item)), "{case}:\n{}", brief(&said));
        }
        End::Rejected(why) => {
            assert!(
                told.state == ItemState::Rejected && told.last_error.as_deref().is_some_and(|error| error.contains(why)),
                "{case}:\n{}",
                brief(&said)
            );
            assert_eq!(gateway.ours(), BTreeMap::new(), "{case}");
        }
    }
    each_stands_once(&gateway, &case);

    // The result was wrong.
    let corrected = creatinine("new-p0", "p0", 2, "corrected", 10, "1.0");
    gateway.hospital_says(&corrected);
    gateway.deliver(2 * HOUR_MS);
    let said = gateway.newest();
    each_ends_and_says_why(&said, &case);
    each_stands_once(&gateway, &case);
    let active = active(&gateway, kind);
    match is_taken_back {
        true => assert_eq!(active, Vec::<Value>::new(), "{case}:\n{}", brief(&said)),
        false => {
            let is_seen = |item: &Item| item.request.resource_type == kind && item.state == ItemState::Rejected;
            assert!(said.iter().any(is_seen), "{case}: what stays is shown:\n{}", brief(&said));
        }
    }
    assert!(gateway.stub.standing(kind).len() <= 1, "{case}: copies under no identifier");
    if matches!(end, End::Confirmed | End::Dropped) && is_taken_back {
        let stands = gateway.ours();
        let [resource] = stands[&told.request.key].as_slice() else { panic!("{case}: {stands:?}") };
        let history = gateway.stub.history(kind, resource["id"].as_str().unwrap());
        assert!(2 <= history.len() && history.iter().all(Option::is_some), "{case}: the version that was active is in the history: {history:?}");
    }
    assert_eq!(gateway.stub.early(), Vec::<String>::new(), "{case}: asked although it asked for silence");
}

/// Items without their bodies.
fn brief(items: &[Item]) -> String {
    let lines = items.iter().map(|item| {
        let (request, error) = (&item.request, item.last_error.as_deref().unwrap_or_default());
        format!("  {} {} {} after {} attempts: {error}", request.method, request.url, item.state.word(), item.attempts)
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Each item has ended, and what is not confirmed says why.
#[track_caller]
fn each_ends_and_says_why(items: &[Item], case: &str) {
    for item in items {
        match item.state {
            ItemState::Confirmed => {}
            ItemState::Superseded | ItemState::Degraded | ItemState::Rejected | ItemState::Lost => {
                assert!(item.last_error.as_deref().is_some_and(|error| !error.is_empty()), "{case}: no reason:\n{}", brief(items));
            }
            ItemState::Planned | ItemState::Sent | ItemState::Shadow => panic!("{case}: it never ended:\n{}", brief(items)),
        }
    }
}

#[track_caller]
pub fn each_stands_once(gateway: &Gateway, case: &str) {
    for (key, copies) in gateway.ours() {
        assert_eq!(copies.len(), 1, "{case}: {key}: {copies:#?}");
    }
}

/// What still says that the subject takes part.
fn active(gateway: &Gateway, kind: &str) -> Vec<Value> {
    let is_active = |resource: &Value| match kind {
        "ResearchSubject" => ["candidate", "screening", "eligible", "on-study"].iter().any(|status| resource["status"] == *status),
        "Flag" => resource["status"] == "active",
        "List" | "DocumentReference" => resource["status"] == "current",
        "Group" => resource["member"].as_array().is_some_and(|members| members.iter().any(|member| member["inactive"] != true)),
        "Communication" => ["in-progress", "completed"].iter().any(|status| resource["status"] == *status),
        other => panic!("{other} is on no rung"),
    };
    // The hospital has none of its own here, so what lost its identifier counts too.
    gateway.stub.standing(kind).into_iter().filter(is_active).collect()
}

/// Quirks that meet in one server.
const TOGETHER: [&[Quirk]; 6] = [
    &[Quirk::TimeoutAfterApply, Quirk::CommitsLate],
    &[Quirk::TimeoutAfterApply, Quirk::NoConditionalCreate],
    &[Quirk::CachedSearch, Quirk::RefusesConditionalCreate],
    &[Quirk::PreconditionOnce, Quirk::StaleIsConflict, Quirk::ConflictOnceOnCreate],
    &[Quirk::TagStays, Quirk::RefusesUnknownReferences, Quirk::IdsNeedALetter, Quirk::StaleIsConflict],
    &[Quirk::TooManyRequests, Quirk::CommitsLate],
];

fn every_quirk_on(rung: Rung) {
    let mut cases: Vec<(Vec<Quirk>, bool)> = Vec::new();
    for update_creates in [true, false] {
        cases.extend(Quirk::ALL.map(|quirk| (vec![quirk], update_creates)));
        cases.extend(TOGETHER.map(|quirks| (quirks.to_vec(), update_creates)));
    }
    let faults: Vec<String> = cases
        .into_iter()
        .filter_map(|(quirks, update_creates)| {
            let ended = std::panic::catch_unwind(|| comes_and_goes(&quirks, update_creates, rung));
            ended.err().map(|panic| panic.downcast_ref::<String>().cloned().unwrap_or_default())
        })
        .collect();
    assert!(faults.is_empty(), "{} cases:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn every_quirk_ends_confirmed_or_says_why_on_the_rung_of_research_subjects() {
    every_quirk_on(Rung::ResearchSubject);
}

#[test]
fn every_quirk_ends_confirmed_or_says_why_on_the_rung_of_flags() {
    every_quirk_on(Rung::Flag);
}

#[test]
fn every_quirk_ends_confirmed_or_says_why_on_the_rung_of_lists() {
    every_quirk_on(Rung::List);
}

#[test]
fn every_quirk_ends_confirmed_or_says_why_on_the_rung_of_groups() {
    every_quirk_on(Rung::Group);
}

#[test]
fn every_quirk_ends_confirmed_or_says_why_on_the_rung_of_document_references() {
    every_quirk_on(Rung::DocumentReference);
}

#[test]
fn every_quirk_ends_confirmed_or_says_why_on_the_rung_of_communications() {
    every_quirk_on(Rung::Communication);
}

/// An element of the hospital's with texts that a parser would spell otherwise.
const FOREIGN: &str = r#"{ "reference" : "Encounter/7", "extension":[{"url":"https://hospital.example/ward","valueDecimal":1.50e1 }] }"#;

/// Texts of the named element of a resource; `None` where it has none.
fn element(text: &str, name: &str) -> Option<String> {
    fields_of(text).unwrap().into_iter().find(|(of, _)| of == name).map(|(_, text)| text)
}

#[test]
fn what_the_hospital_adds_to_our_flag_stays_there_byte_for_byte() {
    for quirks in [&[][..], &[Quirk::NoPatch], &[Quirk::TagStays, Quirk::StaleIsConflict], &[Quirk::PreconditionOnce]] {
        for update_creates in [true, false] {
            let mut gateway = Gateway::new(quirks, |receiver| Receiver { update_creates, ..receiver });
            gateway.candidate("p0");
            gateway.deliver(HOUR_MS);
            let flag = gateway.stub.standing("Flag").remove(0);
            let id = flag["id"].as_str().unwrap();
            let text = gateway.stub.text("Flag", id).unwrap();
            gateway.stub.hospital_puts(&format!(r#"{},"encounter":{FOREIGN}}}"#, text.strip_suffix('}').unwrap()));
            gateway.decide("p0", Decided::OptOut { opted_out: true });
            gateway.deliver(HOUR_MS);
            let text = gateway.stub.text("Flag", id).unwrap();
            assert_eq!(element(&text, "status").as_deref(), Some("\"inactive\""), "{quirks:?} {update_creates}:\n{}", brief(&gateway.newest()));
            assert_eq!(element(&text, "encounter").as_deref(), Some(FOREIGN), "{quirks:?} {update_creates}: {text}");
        }
    }
}

/// A creatinine as a laboratory system might spell it: spaces, exponents, an extension and a tag of its own.
fn laboratory_text(id: &str, subject: &str, days: i64, mg_dl: &str) -> String {
    let at = jiff::Timestamp::from_millisecond(now_ms() - days * 24 * HOUR_MS).unwrap();
    format!(
        r#"{{"resourceType":"Observation","id":"{id}","meta":{{"versionId":"1","lastUpdated":"{at}","tag":[{{"system":"https://hospital.example/tags","code":"night-shift"}}]}},"extension":[{{"url":"https://hospital.example/drift","valueDecimal":0.10e1}}],"status":"final",
 "category":[{{"coding":[{{"system":"http://terminology.hl7.org/CodeSystem/observation-category","code":"laboratory"}}]}}],
 "code":{{"coding":[{{"system":"http://loinc.org","code":"2160-0"}}],"text":"Kreatinin \u00e4"}},"subject":{{"reference":"Patient/{subject}"}},
 "effectiveDateTime":"{at}","issued":"{at}", "valueQuantity" : {{ "value" : {mg_dl}, "unit":"mg/dL","system":"http://unitsofmeasure.org","code":"mg/dL"}} }}"#
    )
}

#[test]
fn a_result_that_was_marked_and_unmarked_is_the_hospitals_again_byte_for_byte() {
    let annotates = || Annotates { note: "agreed for this test".to_owned(), resource_type: "Observation".to_owned(), study: true, tag: true };
    for quirks in [
        &[][..],
        &[Quirk::NoPatch],
        &[Quirk::TagStays],
        &[Quirk::TagStays, Quirk::NoPatch, Quirk::StaleIsConflict],
        &[Quirk::PreconditionOnce],
        &[Quirk::TimeoutAfterApply],
    ] {
        let mut gateway = Gateway::new(quirks, |receiver| Receiver { annotates: vec![annotates()], beside: Beside::default(), ..receiver });
        gateway.hospital_says(&patient("p0"));
        let texts = [laboratory_text("old", "p0", 130, "2.10"), laboratory_text("new", "p0", 10, "2.0e0")];
        for text in &texts {
            gateway.hospital_says_text(text);
        }
        let before = ["old", "new"].map(|id| without_stamps(&gateway.stub.text("Observation", id).unwrap()));
        gateway.deliver(HOUR_MS);
        let marked = gateway.stub.text("Observation", "new").unwrap();
        assert!(marked.contains("workflow-researchStudy"), "{quirks:?}: {marked}\n{}", brief(&gateway.newest()));
        for (name, text) in without_stamps(&marked).into_iter().filter(|(name, _)| name != "extension" && name != "meta") {
            assert_eq!(Some(text), element(&texts[1], &name), "{quirks:?}: {name}");
        }
        assert!(marked.contains(r#"{"url":"https://hospital.example/drift","valueDecimal":0.10e1}"#) && marked.contains("night-shift"), "{marked}");

        gateway.decide("p0", Decided::OptOut { opted_out: true });
        gateway.deliver(HOUR_MS);
        let after = ["old", "new"].map(|id| without_stamps(&gateway.stub.text("Observation", id).unwrap()));
        assert_eq!(before, after, "{quirks:?}:\n{}", brief(&gateway.newest()));
        each_ends_and_says_why(&gateway.newest(), "marks");
    }
}
