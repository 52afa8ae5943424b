//! What an EHR holds against what it should hold: the stand-in always, SEKMET where it is installed, HAPI FHIR where it is
//! asked for. The hospital deletes, changes, adds and copies; what is ours is mended, and nothing else.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use nephrogate::catalogue::Catalogue;
use nephrogate::clinical::fact::{Decided, DecidedState, Decision};
use nephrogate::ehr::Ehr;
use nephrogate::http::stand_in::{self, StandIn};
use nephrogate::pipeline::deliver::{Circuit, deliver_once};
use nephrogate::pipeline::reconcile::{self, Watch, quiet_hour_ms};
use nephrogate::pipeline::{Pipeline, decide, receive};
use nephrogate::store::Store;
use nephrogate::store::outbox::{self, Item, ItemState};
use nephrogate::store::reconcile::{self as kept, Did, How, Kind, Mode, Proposal, ProposalState, Report, RunState};
use nephrogate::writeback::Receiver;
use nephrogate::writeback::receiver::Settings;
use serde_json::{Value, json};

use super::counterparts::{start_hapi, start_sekmet};
use super::deliver::{SITE, STUDY, creatinine, patient};

static NOW_MS: LazyLock<i64> = LazyLock::new(|| jiff::Timestamp::now().as_millisecond());
const SYSTEM: &str = "urn:nephrogate:write-back";

/// A gateway, one EHR, and a clock that the test moves.
struct Hospital {
    pipeline: Pipeline,
    ehr: Ehr,
    runtime: tokio::runtime::Runtime,
    now_ms: i64,
    _folder: tempfile::TempDir,
}

impl Hospital {
    /// Candidates p0, p1, ..., flagged and proven.
    fn flagged(base_url: &str, count: usize, change: impl FnOnce(Receiver) -> Receiver) -> Hospital {
        let folder = tempfile::tempdir().unwrap();
        let mut catalogue = Catalogue::load(None).unwrap_or_else(|faults| panic!("{faults:?}"));
        for studies in catalogue.studies_of_site.values_mut() {
            studies.retain(|study| study.id == STUDY);
        }
        let settings = Settings::read(&catalogue.receivers[SITE]).unwrap();
        let receiver = change(settings.receiver(SITE, base_url, [7; 32]));
        let pipeline = Pipeline {
            store: Store::open_sqlite(&folder.path().join(nephrogate::store::FILE_NAME)).unwrap(),
            catalogue: Arc::new(catalogue),
            receivers: Arc::new(BTreeMap::from([(SITE.to_owned(), receiver)])),
        };
        let ehr = Ehr::open(base_url, None).unwrap();
        let mut hospital = Hospital { pipeline, ehr, runtime: tokio::runtime::Runtime::new().unwrap(), now_ms: *NOW_MS, _folder: folder };
        for number in 0..count {
            let id = format!("p{number}");
            let old = creatinine(&format!("old-{number}"), &id, 1, "final", 130, "2.1");
            let new = creatinine(&format!("new-{number}"), &id, 1, "final", 10, "2.0");
            for resource in [patient(&id), old, new] {
                hospital.put(&resource);
                hospital.push(&resource);
            }
        }
        hospital.deliver();
        assert!(hospital.newest().values().all(|item| item.state == ItemState::Confirmed), "{:?}", hospital.newest());
        hospital
    }

    /// The hospital writes a resource into its own EHR.
    fn put(&self, resource: &Value) {
        let headers = [("Content-Type".to_owned(), "application/fhir+json".to_owned())];
        let url = format!("{}/{}", resource["resourceType"].as_str().unwrap(), resource["id"].as_str().unwrap());
        self.runtime.block_on(self.ehr.send("PUT", &url, &headers, &resource.to_string())).unwrap();
    }

    /// The hospital makes a new one; answers its id.
    fn post(&self, resource: &Value) -> String {
        let headers = [("Content-Type".to_owned(), "application/fhir+json".to_owned())];
        let kind = resource["resourceType"].as_str().unwrap();
        self.runtime.block_on(self.ehr.send("POST", kind, &headers, &resource.to_string())).unwrap().id.unwrap()
    }

    fn delete(&self, kind: &str, id: &str) {
        self.runtime.block_on(self.ehr.send("DELETE", &format!("{kind}/{id}"), &[], "")).unwrap();
    }

    /// The bytes that the EHR answers.
    fn bytes(&self, kind: &str, id: &str) -> Option<String> {
        self.runtime.block_on(self.ehr.read(kind, id)).unwrap().map(|held| held.resource)
    }

    fn read(&self, kind: &str, id: &str) -> Value {
        serde_json::from_str(&self.bytes(kind, id).unwrap_or_else(|| panic!("{kind}/{id} is not there"))).unwrap()
    }

    /// What the EHR answers to a search for one of our keys.
    fn under_key(&self, kind: &str, key: &str) -> Vec<Value> {
        let found = self.runtime.block_on(self.ehr.find(kind, key)).unwrap();
        found.iter().map(|held| serde_json::from_str(&held.resource).unwrap()).collect()
    }

    /// The hospital sends this to the gateway.
    fn push(&self, resource: &Value) {
        let site = &self.pipeline.catalogue.sites[SITE];
        let prepared = receive::prepare(&self.pipeline.catalogue, site, resource.to_string().as_bytes());
        let receipts = receive::receive(&self.pipeline, SITE, "push", self.now_ms, &[prepared]).unwrap();
        assert_eq!(receipts[0].disposition.word(), "applied", "{:?}", receipts[0].issues);
    }

    fn items(&self) -> Vec<Item> {
        self.pipeline.store.read_blocking(|tx| outbox::list(tx, None, None)).unwrap()
    }

    /// The newest item of each key.
    fn newest(&self) -> BTreeMap<String, Item> {
        self.items().into_iter().map(|item| (item.request.key.clone(), item)).collect()
    }

    /// The newest item of this type about a subject.
    fn item(&self, kind: &str, subject: &str) -> Item {
        self.newest().into_values().find(|item| item.request.resource_type == kind && item.subject == subject).unwrap()
    }

    /// Id of the Flag about a subject.
    fn flag(&self, subject: &str) -> String {
        self.item("Flag", subject).server_id.unwrap()
    }

    /// Delivers, moving the clock, until nothing is on its way.
    fn deliver(&mut self) {
        let mut circuit = Circuit::default();
        let until_ms = self.now_ms + 600_000;
        while self.items().iter().any(|item| matches!(item.state, ItemState::Planned | ItemState::Sent)) && self.now_ms < until_ms {
            let round = deliver_once(&self.pipeline, &self.ehr, &mut circuit, SITE, self.now_ms);
            if self.runtime.block_on(round).unwrap().claimed == 0 {
                self.now_ms += 1_000;
            }
        }
    }

    #[track_caller]
    fn reconcile(&mut self, mode: Mode) -> Report {
        self.now_ms += 1_000;
        let watch = Watch { tell: &|_| {}, is_stopped: &|| false };
        let run = reconcile::reconcile(&self.pipeline, &self.ehr, SITE, mode, "Dr Lin", self.now_ms, watch);
        let run = self.runtime.block_on(run).unwrap().unwrap();
        assert_eq!(run.state, RunState::Done, "{:?}", run.report);
        run.report.unwrap()
    }

    fn proposals(&self, state: ProposalState) -> Vec<Proposal> {
        self.pipeline.store.read_blocking(|tx| kept::proposals(tx, SITE, &[state])).unwrap()
    }

    /// A person accepts, and the gateway's loop does it.
    fn accept(&self, proposal: &Proposal) {
        let (id, keep, now_ms) = (proposal.id, proposal.keep.clone(), self.now_ms);
        assert!(self.pipeline.store.write_blocking(|tx| kept::accept(tx, SITE, id, &keep, "Dr Lin", now_ms)).unwrap());
        let watch = Watch { tell: &|_| {}, is_stopped: &|| false };
        let is_done = self.runtime.block_on(reconcile::merge_accepted(&self.pipeline, &self.ehr, SITE, now_ms, watch)).unwrap();
        assert!(is_done, "the EHR answered");
    }
}

/// `kind did Type`, sorted.
fn told(report: &Report) -> Vec<String> {
    let tell = |difference: &kept::Difference| format!("{} {} {}", difference.kind.word(), difference.did.word(), difference.resource_type);
    let mut all: Vec<String> = report.differences.iter().map(tell).collect();
    all.sort();
    all
}

/// The stand-in on a port of its own; it ends with the process.
fn start_stand_in() -> String {
    let data = actix_web::web::Data::new(StandIn::open(None).unwrap());
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        actix_web::rt::System::new().block_on(async move {
            let server = actix_web::HttpServer::new(move || actix_web::App::new().app_data(data.clone()).configure(stand_in::configure));
            let server = server.workers(1).disable_signals().bind(("127.0.0.1", 0)).unwrap();
            send.send(server.addrs()[0]).unwrap();
            server.run().await.unwrap();
        });
    });
    format!("http://{}{}", receive.recv().unwrap(), stand_in::BASE)
}

/// Everything the hospital may do to what we wrote, and what becomes of it.
fn what_the_hospital_does_is_found(name: &str, base_url: &str, update_creates: bool) {
    let mut hospital =
        Hospital::flagged(base_url, 5, |receiver| Receiver { update_creates, identifier_key: [20 + u8::from(update_creates); 32], ..receiver });
    let first = hospital.reconcile(Mode::Repair);
    assert_eq!(told(&first), [""; 0], "{name}: nothing happened yet");
    assert_eq!(first.counts.compared, first.counts.as_expected);
    assert!(first.counts.compared >= 16, "{name}: a study, and flag, subject and eGFR of five");
    for swept in &first.swept {
        println!("{name}, update_creates {update_creates}: {} found {} {} {}", swept.resource_type, swept.found, swept.how.word(), swept.not_seen);
    }

    // The hospital deletes one, changes one's text, adds to another, makes a second copy, and another gateway writes one too.
    let [deleted, changed, extended, copied] = ["p0", "p1", "p2", "p3"].map(|subject| hospital.flag(subject));
    hospital.delete("Flag", &deleted);
    let mut flag = hospital.read("Flag", &changed);
    flag["code"]["text"] = json!("something else");
    hospital.put(&flag);
    let mut flag = hospital.read("Flag", &extended);
    flag["extension"].as_array_mut().unwrap().push(json!({"url": "https://hospital.example/seen-by", "valueString": "ward 7"}));
    hospital.put(&flag);
    let key = hospital.item("Flag", "p3").request.key;
    let mut copy = hospital.read("Flag", &copied);
    copy.as_object_mut().unwrap().remove("id");
    copy["meta"].as_object_mut().unwrap().retain(|name, _| name == "security");
    let second = hospital.post(&copy);
    let mut foreign = copy.clone();
    foreign["identifier"] = json!([{"system": SYSTEM, "value": format!("0{}", &key[1..].replace(|c: char| c.is_ascii_digit(), "a"))}]);
    let foreign = hospital.post(&foreign);
    let theirs = [hospital.bytes("Flag", &extended), hospital.bytes("Flag", &foreign)];

    let items = hospital.items();
    let before = [&changed, &extended, &copied, &second, &foreign].map(|id| hospital.bytes("Flag", id));
    let report = hospital.reconcile(Mode::ReportOnly);
    let sees_all = report.swept.iter().any(|swept| swept.resource_type == "Flag" && matches!(swept.how, How::BySystem | How::All));
    let mut expected = vec!["changed reported Flag", "copies reported Flag", "missing reported Flag"];
    expected.extend(sees_all.then_some("unknown reported Flag"));
    assert_eq!(told(&report), expected, "{name}");
    assert_eq!(hospital.items(), items, "{name}: a report changes nothing here");
    assert_eq!([&changed, &extended, &copied, &second, &foreign].map(|id| hospital.bytes("Flag", id)), before, "{name}: and nothing there");
    assert!(hospital.proposals(ProposalState::Proposed).is_empty());

    let report = hospital.reconcile(Mode::Repair);
    let mut expected = vec!["changed planned-again Flag", "copies proposed Flag", "missing planned-again Flag"];
    expected.extend(sees_all.then_some("unknown needs-person Flag"));
    assert_eq!(told(&report), expected, "{name}");
    let difference = report.differences.iter().find(|difference| difference.kind == Kind::Changed).unwrap();
    assert_eq!(difference.elements, ["Flag.code"], "{name}");
    hospital.deliver();
    assert_eq!(hospital.read("Flag", &changed)["code"], hospital.read("Flag", &extended)["code"], "{name}: the text is ours again");
    assert_eq!(hospital.under_key("Flag", &hospital.item("Flag", "p0").request.key).len(), 1, "{name}: the deleted one is back");
    assert_eq!([hospital.bytes("Flag", &extended), hospital.bytes("Flag", &foreign)], theirs, "{name}: what is theirs is as it was, byte for byte");

    // A person accepts the merge: one active Flag is left, and it is the one that we know.
    let proposals = hospital.proposals(ProposalState::Proposed);
    let [proposal] = proposals.as_slice() else { panic!("{name}: {proposals:?}") };
    assert_eq!((proposal.keep.as_str(), proposal.copies.len(), proposal.subject.as_str()), (copied.as_str(), 2, "p3"), "{name}");
    hospital.accept(proposal);
    assert_eq!(hospital.proposals(ProposalState::Done).len(), 1, "{name}: {:?}", hospital.proposals(ProposalState::Failed));
    hospital.deliver();
    let left = hospital.under_key("Flag", &key);
    assert_eq!(left.iter().map(|flag| flag["id"].as_str().unwrap()).collect::<Vec<_>>(), [copied.as_str()], "{name}");
    assert_eq!(left[0]["status"], "active", "{name}");
    assert_eq!(hospital.read("Flag", &second)["status"], "entered-in-error", "{name}: taken back, not deleted");

    // The hospital removes what the other gateway wrote: then nothing differs any more.
    hospital.delete("Flag", &foreign);
    let report = hospital.reconcile(Mode::Repair);
    assert_eq!(told(&report), [""; 0], "{name}");
    assert!(hospital.newest().values().all(|item| item.state == ItemState::Confirmed), "{name}: {:?}", hospital.newest());

    // Somebody sets a Flag inactive: it is mended once, and then a person is asked.
    let flag_of_p4 = hospital.flag("p4");
    let set_inactive = |hospital: &Hospital| {
        let mut flag = hospital.read("Flag", &flag_of_p4);
        flag["status"] = json!("inactive");
        hospital.put(&flag);
    };
    set_inactive(&hospital);
    assert_eq!(told(&hospital.reconcile(Mode::Repair)), ["changed planned-again Flag"], "{name}");
    hospital.deliver();
    assert_eq!(hospital.read("Flag", &flag_of_p4)["status"], "active", "{name}");
    set_inactive(&hospital);
    assert_eq!(told(&hospital.reconcile(Mode::Repair)), ["changed needs-person Flag"], "{name}");
    hospital.deliver();
    assert_eq!(hospital.read("Flag", &flag_of_p4)["status"], "inactive", "{name}: nobody fights with the hospital");
    assert_eq!(told(&hospital.reconcile(Mode::Insist)), ["changed planned-again Flag"], "{name}");
    hospital.deliver();
    assert_eq!(hospital.read("Flag", &flag_of_p4)["status"], "active", "{name}");

    // What was taken back and stands there again is taken back again.
    let new = creatinine("new-4", "p4", 2, "corrected", 10, "1.0");
    hospital.push(&new);
    hospital.deliver();
    assert_eq!(hospital.read("Flag", &flag_of_p4)["status"], "inactive", "{name}");
    let mut flag = hospital.read("Flag", &flag_of_p4);
    flag["status"] = json!("active");
    hospital.put(&flag);
    let report = hospital.reconcile(Mode::Repair);
    assert_eq!(told(&report), ["reappeared planned-again Flag"], "{name}");
    hospital.deliver();
    assert_eq!(hospital.read("Flag", &flag_of_p4)["status"], "inactive", "{name}");
    assert_eq!(told(&hospital.reconcile(Mode::Repair)), [""; 0], "{name}");
}

#[test]
fn what_a_hospital_does_to_our_resources_is_found_and_only_ours_is_mended() {
    for update_creates in [true, false] {
        what_the_hospital_does_is_found("the stand-in", &start_stand_in(), update_creates);
    }
}

#[test]
fn sekmet_is_reconciled() {
    for update_creates in [true, false] {
        let Some(sekmet) = start_sekmet() else { return };
        what_the_hospital_does_is_found("SEKMET", &sekmet.base_url, update_creates);
    }
}

#[test]
fn hapi_fhir_is_reconciled() {
    for (is_strict, update_creates) in [(false, true), (true, false)] {
        let Some(hapi) = start_hapi(is_strict) else { return };
        what_the_hospital_does_is_found(if is_strict { "HAPI FHIR, strict" } else { "HAPI FHIR" }, &hapi.base_url, update_creates);
    }
}

#[test]
fn an_emptied_ehr_is_not_filled_again_until_a_person_insists() {
    let mut hospital = Hospital::flagged(&start_stand_in(), 24, |receiver| receiver);
    for item in hospital.newest().into_values() {
        hospital.delete(&item.request.resource_type, &item.server_id.unwrap());
    }
    let report = hospital.reconcile(Mode::Repair);
    assert_eq!((report.counts.planned_again, report.counts.missing), (0, report.counts.compared));
    assert!(report.differences.iter().all(|difference| difference.did == Did::NeedsPerson));
    assert!(report.notes[0].contains("until a person insists"), "{:?}", report.notes);
    let report = hospital.reconcile(Mode::Insist);
    assert_eq!(report.counts.planned_again, report.counts.missing);
    hospital.deliver();
    assert_eq!(told(&hospital.reconcile(Mode::Repair)), [""; 0]);
}

#[test]
fn a_key_that_is_planned_anew_meanwhile_is_no_difference() {
    let mut hospital = Hospital::flagged(&start_stand_in(), 1, |receiver| receiver);
    let flag = hospital.flag("p0");
    hospital.delete("Flag", &flag);
    // Consent changes what the Flag says: the new plan waits.
    let decision = Decision {
        study: STUDY.into(),
        by: "Dr Lin".into(),
        reason: "as agreed".to_owned(),
        at_ms: hospital.now_ms,
        evidence_seen: "".into(),
        what: Decided::State { to: DecidedState::Withdrawn },
    };
    decide::append(&hospital.pipeline, SITE, "p0", &decision).unwrap();
    let report = hospital.reconcile(Mode::Repair);
    assert!(!told(&report).iter().any(|told| told.ends_with("Flag")), "{:?}", told(&report));
    assert!(0 < report.counts.on_their_way);
}

#[test]
fn an_ehr_that_does_not_answer_leaves_a_failed_reconcile_and_the_next_night_does_not_wait() {
    let hospital = Hospital::flagged(&start_stand_in(), 1, |receiver| receiver);
    let closed = Ehr::open("http://127.0.0.1:9/fhir", None).unwrap();
    let watch = Watch { tell: &|_| {}, is_stopped: &|| false };
    let run = reconcile::reconcile(&hospital.pipeline, &closed, SITE, Mode::Repair, "", hospital.now_ms, watch);
    let run = hospital.runtime.block_on(run).unwrap().unwrap();
    assert_eq!(run.state, RunState::Failed);
    assert!(run.report.unwrap().notes[0].contains("the EHR cannot answer now"));
    let is_due = |at_ms| hospital.runtime.block_on(reconcile::is_due(&hospital.pipeline, SITE, at_ms)).unwrap();
    let night_ms = quiet_hour_ms(hospital.now_ms + 86_400_000, None);
    assert!(!is_due(run.finished_ms.unwrap() + 60_000));
    assert!(is_due(run.finished_ms.unwrap().max(night_ms) + 3_600_000));
}

#[test]
fn a_night_is_once_a_day_and_a_missed_one_is_made_up() {
    let instant = |text: &str| text.parse::<jiff::Timestamp>().unwrap().as_millisecond();
    for (now, zone, hour) in [
        ("2026-11-23T01:59:59Z", None, "2026-11-22T02:00:00Z"),
        ("2026-11-23T02:00:00Z", None, "2026-11-23T02:00:00Z"),
        ("2026-11-23T23:00:00Z", None, "2026-11-23T02:00:00Z"),
        ("2026-11-23T23:00:00Z", Some("Asia/Taipei"), "2026-11-23T18:00:00Z"),
        ("2026-11-23T17:00:00Z", Some("Asia/Taipei"), "2026-11-22T18:00:00Z"),
        ("2026-11-23T03:00:00Z", Some("nowhere"), "2026-11-23T02:00:00Z"),
    ] {
        assert_eq!(quiet_hour_ms(instant(now), zone), instant(hour), "{now} {zone:?}");
    }
    let mut hospital = Hospital::flagged(&start_stand_in(), 1, |receiver| receiver);
    let is_due = |hospital: &Hospital, at_ms| hospital.runtime.block_on(reconcile::is_due(&hospital.pipeline, SITE, at_ms)).unwrap();
    let night_ms = quiet_hour_ms(hospital.now_ms + 86_400_000, None);
    assert!(!is_due(&hospital, hospital.now_ms), "what was written today needs no night yet");
    assert!(!is_due(&hospital, night_ms - 1));
    assert!(is_due(&hospital, night_ms) && is_due(&hospital, night_ms + 7 * 3_600_000), "a missed night is made up");
    hospital.now_ms = night_ms + 3_600_000;
    let watch = Watch { tell: &|_| {}, is_stopped: &|| false };
    let run = reconcile::reconcile(&hospital.pipeline, &hospital.ehr, SITE, Mode::Repair, "", hospital.now_ms, watch);
    assert_eq!(hospital.runtime.block_on(run).unwrap().unwrap().state, RunState::Done);
    assert!(!is_due(&hospital, hospital.now_ms + 3_600_000));
    assert!(is_due(&hospital, night_ms + 86_400_000));
}

/// An item of the outbox that has arrived.
fn arrived(store: &Store, key: &str) -> i64 {
    let body = r#"{"resourceType":"Flag"}"#;
    let request = nephrogate::writeback::WriteBack {
        key: key.to_owned(),
        resource_type: "Flag".to_owned(),
        purpose: nephrogate::writeback::Purpose::Annotate,
        order: 1,
        method: "PUT".to_owned(),
        url: format!("Flag/{key}"),
        headers: Vec::new(),
        body: body.to_owned(),
        body_hash: "hash".to_owned(),
        search: format!("identifier={SYSTEM}|{key}"),
        rung: "flag".to_owned(),
        form: Default::default(),
        left_out: Vec::new(),
    };
    let outcome = outbox::Outcome {
        state: ItemState::Confirmed,
        next_attempt_ms: 0,
        status: None,
        error: None,
        server_id: Some("there".to_owned()),
        server_version: None,
    };
    store
        .write_blocking(|tx| {
            outbox::enqueue(tx, SITE, "p0", STUDY, false, 1_000, std::slice::from_ref(&request))?;
            let claimed = outbox::claim(tx, SITE, 1_000, 2_000, 1)?;
            assert!(outbox::finish(tx, &claimed[0], 1_500, &outcome)?);
            Ok(claimed[0].item.id)
        })
        .unwrap()
}

#[test]
fn one_reconcile_runs_at_a_site_and_what_it_planned_again_is_remembered() {
    super::stores::on_both(|store| {
        let item = arrived(store, "key-1");
        assert_eq!(store.read_blocking(|tx| outbox::first_arrived_ms(tx, SITE)).unwrap(), Some(1_000));
        let begin = |now_ms| store.write_blocking(|tx| kept::begin(tx, SITE, Mode::Repair, "", now_ms, now_ms + 100)).unwrap();
        let first = begin(10_000).unwrap();
        assert_eq!(begin(10_050), None, "one runs");
        let asked = store.write_blocking(|tx| kept::ask(tx, SITE, Mode::ReportOnly, "Dr Lin", 10_050)).unwrap();
        assert_eq!(store.write_blocking(|tx| kept::ask(tx, SITE, Mode::Repair, "Dr Wu", 10_051)).unwrap(), asked, "one waits");
        assert_eq!(store.write_blocking(|tx| kept::begin_asked(tx, SITE, 10_060, 10_160)).unwrap(), None);
        assert!(store.write_blocking(|tx| kept::renew(tx, first, 10_300)).unwrap());
        // Its gateway died: the next one takes over when its lease has ended, and the old one records nothing any more.
        let taken = store.write_blocking(|tx| kept::begin_asked(tx, SITE, 10_400, 10_500)).unwrap();
        assert_eq!(taken, Some((asked, Mode::ReportOnly)));
        assert!(!store.write_blocking(|tx| kept::finish(tx, first, RunState::Done, 10_401, &Report::default())).unwrap());

        assert!(store.write_blocking(|tx| outbox::again(tx, item, 10_450)).unwrap());
        assert!(!store.write_blocking(|tx| outbox::again(tx, item, 10_450)).unwrap(), "it is on its way already");
        let items = store.read_blocking(|tx| outbox::newest_of_each(tx, SITE, 0, 10)).unwrap();
        assert_eq!((items.len(), items[0].state, items[0].server_id.as_deref()), (1, ItemState::Planned, Some("there")));
        assert_eq!(store.read_blocking(|tx| outbox::keys(tx, SITE)).unwrap().into_iter().collect::<Vec<_>>(), ["key-1"]);
        let difference = kept::Difference {
            kind: Kind::Missing,
            did: Did::PlannedAgain,
            resource_type: "Flag".to_owned(),
            id: None,
            key: "key-1".to_owned(),
            body_hash: "hash".to_owned(),
            study: STUDY.to_owned(),
            subject: "p0".to_owned(),
            rung: "flag".to_owned(),
            elements: Vec::new(),
            why: String::new(),
        };
        let report = Report { differences: vec![difference], ..Report::default() };
        assert!(store.write_blocking(|tx| kept::finish(tx, asked, RunState::Done, 10_460, &report)).unwrap());
        let runs = store.read_blocking(|tx| kept::newest(tx, SITE, 10)).unwrap();
        assert_eq!(runs.iter().map(|run| run.state).collect::<Vec<_>>(), [RunState::Done, RunState::Failed]);
        assert_eq!(runs[0].report.as_ref(), Some(&report));
        let known = store.read_blocking(|tx| kept::planned_again_since(tx, SITE, 10_000)).unwrap();
        assert_eq!(known.into_iter().collect::<Vec<_>>(), [("key-1".to_owned(), "hash".to_owned())]);
        assert!(store.read_blocking(|tx| kept::planned_again_since(tx, SITE, 20_000)).unwrap().is_empty());
        assert_eq!(store.read_blocking(|tx| kept::last_nightly(tx, SITE)).unwrap().unwrap().id, first);
    });
}

#[test]
fn a_merge_is_accepted_once_by_one_person() {
    super::stores::on_both(|store| {
        let copy = |id: &str| kept::HeldCopy { id: id.to_owned(), version: None, last_updated: None, status: None, is_recorded: id == "a" };
        let propose = |copies: &[kept::HeldCopy]| {
            let new = kept::NewProposal { site: SITE, study: STUDY, subject: "p0", resource_type: "Flag", key: "key-1", keep: "a", copies };
            store.write_blocking(|tx| kept::propose(tx, &new, 1_000)).unwrap();
        };
        let open = || store.read_blocking(|tx| kept::proposals(tx, SITE, &[ProposalState::Proposed])).unwrap();
        propose(&[copy("a"), copy("b")]);
        propose(&[copy("a"), copy("b"), copy("c")]);
        let proposals = open();
        assert_eq!((proposals.len(), proposals[0].copies.len()), (1, 3), "an open proposal is brought up to date");
        let accept = |who: &str| store.write_blocking(|tx| kept::accept(tx, SITE, proposals[0].id, "b", who, 2_000)).unwrap();
        assert!(accept("Dr Lin") && !accept("Dr Wu"));
        propose(&[copy("a"), copy("b")]);
        assert!(open().is_empty(), "what was accepted stays as it is");
        store.write_blocking(|tx| kept::end_proposal(tx, proposals[0].id, ProposalState::Done, 3_000, None)).unwrap();
        let done = store.read_blocking(|tx| kept::proposal(tx, SITE, proposals[0].id)).unwrap().unwrap();
        assert_eq!((done.accepted_by.as_deref(), done.keep.as_str(), done.finished_ms), (Some("Dr Lin"), "b", Some(3_000)));
        propose(&[copy("a"), copy("d")]);
        assert_eq!(open().len(), 1, "new copies are proposed anew");
    });
}

#[test]
fn the_api_and_the_page_ask_for_a_reconcile_and_accept_a_merge() {
    let base_url = start_stand_in();
    let ehr = Ehr::open(&base_url, None).unwrap();
    let gateway = super::gateway::Gateway::start_with(|settings| {
        let text = &settings.pipeline.catalogue.receivers[SITE];
        let receiver = Settings::read(text).unwrap().receiver(SITE, &base_url, [9; 32]);
        settings.pipeline.receivers = Arc::new(BTreeMap::from([(SITE.to_owned(), receiver)]));
        settings.endpoints = BTreeMap::from([(SITE.to_owned(), ehr.clone())]);
        // The pages show the demo's site in the demo alone.
        let notes = nephrogate::http::pages::Notes { is_demo: true, sentences: Vec::new() };
        settings.beside = Some(Arc::new(move |config| {
            config.app_data(actix_web::web::Data::new(notes.clone()));
        }));
    });
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let headers = [("Content-Type".to_owned(), "application/fhir+json".to_owned())];
    let put = |resource: &Value| {
        let url = format!("{}/{}", resource["resourceType"].as_str().unwrap(), resource["id"].as_str().unwrap());
        runtime.block_on(ehr.send("PUT", &url, &headers, &resource.to_string())).unwrap();
    };
    put(&patient("p0"));
    let results = [patient("p0"), creatinine("old", "p0", 1, "final", 130, "2.1"), creatinine("new", "p0", 1, "final", 10, "2.0")];
    gateway.push(&results);
    let card = format!("/api/studies/{STUDY}/sites/{SITE}/subjects/p0");
    let is_confirmed = |item: &Value| item["state"] == "confirmed";
    let answer = gateway.wait_for(&card, |card| card["outbox"].as_array().is_some_and(|items| 2 < items.len() && items.iter().all(is_confirmed)));
    let flag = answer["outbox"].as_array().unwrap().iter().find(|item| item["resource_type"] == "Flag").unwrap()["server_id"].clone();
    let mut copy: Value = serde_json::from_str(&runtime.block_on(ehr.read("Flag", flag.as_str().unwrap())).unwrap().unwrap().resource).unwrap();
    copy["id"] = json!("a-second-copy");
    put(&copy);

    let reconcile = format!("/api/sites/{SITE}/reconcile");
    assert_eq!(gateway.get(&reconcile).json()["newest"], Value::Null);
    assert_eq!(gateway.post(&reconcile, "application/json", r#"{"mode":"gently"}"#).status, 400);
    assert_eq!(gateway.post("/api/sites/nowhere/reconcile", "application/json", "{}").status, 404);
    let asked = gateway.post(&reconcile, "application/json", r#"{"mode":"repair"}"#);
    assert_eq!((asked.status, asked.json()["under_way"]["who"].as_str().unwrap()), (202, "Test Person"), "{}", asked.text());
    let done = gateway.wait_for(&reconcile, |answer| answer["newest"]["state"] == "done");
    assert_eq!(done["newest"]["report"]["counts"]["copies"], 1, "{done}");

    let page = gateway.get("/write-back").text();
    for part in ["data-test=\"receiver\"", "data-test=\"reconcile\"", "data-state=\"proposed\"", "a-second-copy", "rung research-subject"] {
        assert!(page.contains(part), "{part} in {page}");
    }
    let proposals = format!("/api/sites/{SITE}/proposals");
    let id = gateway.get(&proposals).json()["proposals"][0]["id"].clone();
    assert_eq!(gateway.post(&format!("{proposals}/{id}"), "application/json", r#"{"keep":"nothing"}"#).status, 400);
    let form = |path: &str, body: &str| gateway.post(path, "application/x-www-form-urlencoded", body.to_owned());
    let nobody = form(&format!("/write-back/{SITE}/proposals/{id}"), "keep=a-second-copy");
    assert_eq!(nobody.status, 400, "a merge needs a named person");
    assert!(nobody.text().contains("data-test=\"refused\""));
    let accepted = form(&format!("/write-back/{SITE}/proposals/{id}"), &format!("by=Dr+Lin&keep={}", flag.as_str().unwrap()));
    assert_eq!((accepted.status, accepted.header("location")), (303, format!("/write-back?site={SITE}&saved=merge").as_str()));
    let done = gateway.wait_for(&proposals, |answer| answer["proposals"][0]["state"] == "done");
    assert_eq!(done["proposals"][0]["accepted_by"], "Dr Lin");
    assert_eq!(gateway.post(&format!("{proposals}/{id}"), "application/json", "").status, 409, "once");
    let copy = runtime.block_on(ehr.read("Flag", "a-second-copy")).unwrap().unwrap();
    assert_eq!(copy.index.status.as_deref(), Some("entered-in-error"));

    let stopped = form(&format!("/write-back/{SITE}/switch"), "by=Dr+Lin&is-stopped=true&reason=the+EHR+is+upgraded");
    assert_eq!(stopped.status, 303, "{}", stopped.text());
    let page = gateway.get("/write-back").text();
    assert!(page.contains("data-test=\"stopped\"") && page.contains("the EHR is upgraded"), "{page}");
}
