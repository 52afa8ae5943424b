//! An EHR that answers nothing for eight hours, while patients die, merge, opt out, enrol and are corrected. The clock is
//! moved; the EHR writes down everything it is sent, and each write is held against what is true at that moment.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;

use nephrogate::clinical::fact::{Decided, DecidedState};
use nephrogate::store::Store;
use nephrogate::store::outbox::ItemState;
use nephrogate::writeback::{Purpose, Receiver};
use serde_json::{Value, json};

use super::deliver::{creatinine, patient};
use super::quirks::stub::{Power, Write};
use super::quirks::{Gateway, each_stands_once, key_of};
use super::stores::empty_postgres;

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;
/// Told about before the outage; after these come those who are new in it.
const KNOWN: usize = 48;
const NEW: usize = 12;

/// What is true of a patient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Truth {
    Candidate,
    Enrolled,
    Died,
    Merged,
    OptedOut,
    Corrected,
}

impl Truth {
    /// Statuses of ResearchSubject that say it.
    fn subject_statuses(self) -> &'static [&'static str] {
        match self {
            Truth::Candidate => &["candidate"],
            Truth::Enrolled => &["on-study"],
            Truth::Died => &["off-study"],
            Truth::Merged => &["not-registered"],
            Truth::OptedOut => &["withdrawn"],
            Truth::Corrected => &["ineligible"],
        }
    }

    fn is_standing(self) -> bool {
        matches!(self, Truth::Candidate | Truth::Enrolled)
    }

    /// Statuses of the computed eGFR that say it.
    fn egfr_statuses(self) -> &'static [&'static str] {
        if self.is_standing() { &["final", "corrected"] } else { &["entered-in-error"] }
    }
}

struct Hospital {
    gateway: Gateway,
    truth: BTreeMap<String, Truth>,
    /// Writes that were looked at already.
    seen: usize,
    /// Whoever was told about once.
    told: BTreeSet<String>,
    /// (round, patient, whether it takes something back) of each write that was applied.
    sent: Vec<(usize, String, bool)>,
    round: usize,
}

impl Hospital {
    fn person(&mut self, id: &str, truth: Truth) {
        self.truth.insert(id.to_owned(), truth);
    }

    fn candidate(&mut self, id: &str) {
        self.gateway.candidate(id);
        self.person(id, Truth::Candidate);
    }

    fn dies(&mut self, id: &str) {
        let mut dead = patient(id);
        dead["deceasedBoolean"] = json!(true);
        dead["meta"]["versionId"] = json!("2");
        self.gateway.hospital_says(&dead);
        self.person(id, Truth::Died);
    }

    /// The record is merged into a new one, which has the results from then on.
    fn merges(&mut self, id: &str) {
        let survivor = format!("survivor-of-{id}");
        self.gateway.hospital_says(&patient(&survivor));
        let mut old = patient(id);
        old["active"] = json!(false);
        old["link"] = json!([{"other": {"reference": format!("Patient/{survivor}")}, "type": "replaced-by"}]);
        old["meta"]["versionId"] = json!("2");
        self.gateway.hospital_says(&old);
        self.person(id, Truth::Merged);
        self.person(&survivor, Truth::Candidate);
    }

    fn opts_out(&mut self, id: &str) {
        self.gateway.decide(id, Decided::OptOut { opted_out: true });
        self.person(id, Truth::OptedOut);
    }

    fn corrects(&mut self, id: &str, version: u32, mg_dl: &str) {
        self.gateway.hospital_says(&creatinine(&format!("new-{id}"), id, version, "corrected", 10, mg_dl));
        self.person(id, if mg_dl == "2.0" { Truth::Candidate } else { Truth::Corrected });
    }

    fn enrols(&mut self, id: &str) {
        self.gateway.decide(id, Decided::Consent { given: true });
        self.gateway.decide(id, Decided::State { to: DecidedState::Enrolled });
        self.person(id, Truth::Enrolled);
    }

    /// One round, with the time it took on the clock; then each write is held against the truth.
    #[track_caller]
    fn once(&mut self, least_ms: i64) -> usize {
        self.round += 1;
        let claimed = self.gateway.once().claimed;
        self.gateway.now_ms += if claimed == 0 { least_ms } else { 0 };
        let writes = self.gateway.stub.writes();
        for write in &writes[self.seen..] {
            self.is_true_now(write);
        }
        self.seen = writes.len();
        claimed
    }

    #[track_caller]
    fn is_true_now(&mut self, write: &Write) {
        let resource = write.json();
        let reference = ["subject", "individual"].iter().find_map(|element| resource[element]["reference"].as_str());
        let Some(who) = reference.and_then(|reference| reference.strip_prefix("Patient/")).map(str::to_owned) else { return };
        let truth = self.truth[&who];
        let status = resource["status"].as_str().unwrap();
        let is_true = match write.resource_type.as_str() {
            "Flag" => (status == "active") == truth.is_standing(),
            "ResearchSubject" => truth.subject_statuses().contains(&status),
            "Observation" => truth.egfr_statuses().contains(&status),
            other => panic!("nobody asked for {other}"),
        };
        assert!(is_true, "{who} is {truth:?} and this was sent: {}", write.line());
        if write.is_applied {
            let takes_back = !truth.is_standing();
            assert!(!takes_back || self.told.contains(&who), "{who} was never told about, and is taken back: {}", write.line());
            self.told.insert(who.clone());
            self.sent.push((self.round, who, takes_back));
        }
    }

    fn is_pending(&self) -> bool {
        self.gateway.items().iter().any(|item| matches!(item.state, ItemState::Planned | ItemState::Sent))
    }

    /// What stands at the EHR is what is true, once each.
    #[track_caller]
    fn all_is_said(&self) {
        each_stands_once(&self.gateway, "after the outage");
        let mut said: BTreeMap<(String, &str), Value> = BTreeMap::new();
        for kind in ["ResearchSubject", "Flag", "Observation"] {
            for resource in self.gateway.stub.standing(kind).into_iter().filter(|resource| key_of(resource).is_some()) {
                let about = ["subject", "individual"].iter().find_map(|element| resource[element]["reference"].as_str()).unwrap();
                said.insert((about.trim_start_matches("Patient/").to_owned(), kind), resource);
            }
        }
        for (who, truth) in &self.truth {
            let status = |kind| said.get(&(who.clone(), kind)).map(|resource| resource["status"].as_str().unwrap());
            let is_told = self.told.contains(who);
            assert_eq!(status("Flag").is_some(), is_told, "{who} {truth:?}");
            if truth.is_standing() {
                assert_eq!(status("Flag"), Some("active"), "{who} {truth:?}");
            } else if is_told {
                assert_eq!(status("Flag"), Some("inactive"), "{who} {truth:?}");
            }
            for (kind, statuses) in [("ResearchSubject", truth.subject_statuses()), ("Observation", truth.egfr_statuses())] {
                assert!(status(kind).is_none_or(|status| statuses.contains(&status)), "{who} {truth:?}: {:?}", status(kind));
                assert!(status(kind).is_some() || !truth.is_standing(), "{who} {truth:?} has no {kind}");
            }
        }
    }
}

fn eight_hours(name: &str, store: Store, folder: tempfile::TempDir) {
    let gateway = Gateway::on(store, folder, &[], |receiver| Receiver { identifier_key: [88; 32], ..receiver });
    let mut hospital = Hospital { gateway, truth: BTreeMap::new(), seen: 0, told: BTreeSet::new(), sent: Vec::new(), round: 0 };
    for number in 0..KNOWN {
        hospital.candidate(&format!("p{number}"));
    }
    while hospital.is_pending() {
        hospital.once(1_000);
    }
    assert_eq!(hospital.told.len(), KNOWN, "all are told about before it begins");
    hospital.all_is_said();

    // Half the time it says that it is busy, for how long, and half the time nothing.
    let began_ms = hospital.gateway.now_ms;
    let asked_before = hospital.gateway.stub.requests();
    hospital.gateway.stub.set_power(Power::Busy(900));
    let known = |kind: usize| (0..KNOWN).filter(move |number| number % 8 == kind).map(|number| format!("p{number}"));
    let new = |kind: usize| (KNOWN..KNOWN + NEW).filter(move |number| number % 4 == kind).map(|number| format!("p{number}"));
    type Event = (i64, Box<dyn FnOnce(&mut Hospital)>);
    let mut events: Vec<Event> = Vec::new();
    let mut minute = 0;
    let mut later = |event: Box<dyn FnOnce(&mut Hospital)>| {
        minute += 6;
        events.push((began_ms + minute * MINUTE_MS, event));
    };
    for id in (0..4).flat_map(new) {
        later(Box::new(move |hospital| hospital.candidate(&id)));
    }
    for (kind, change) in [(0, Hospital::dies as fn(&mut Hospital, &str)), (1, Hospital::merges), (2, Hospital::opts_out), (5, Hospital::enrols)] {
        for id in known(kind) {
            later(Box::new(move |hospital| change(hospital, &id)));
        }
    }
    for id in known(3).chain(known(4)) {
        later(Box::new(move |hospital| hospital.corrects(&id, 2, "1.0")));
    }
    // These were right after all.
    for id in known(4) {
        later(Box::new(move |hospital| hospital.corrects(&id, 3, "2.0")));
    }
    for id in new(1) {
        later(Box::new(move |hospital| hospital.dies(&id)));
    }
    for id in new(2) {
        later(Box::new(move |hospital| hospital.opts_out(&id)));
    }
    for id in new(3) {
        later(Box::new(move |hospital| hospital.corrects(&id, 2, "1.0")));
    }
    assert!(minute < 8 * 60, "{minute} minutes of events");
    let mut events = events.into_iter().peekable();
    while hospital.gateway.now_ms < began_ms + 8 * HOUR_MS {
        if began_ms + 4 * HOUR_MS <= hospital.gateway.now_ms {
            hospital.gateway.stub.set_power(Power::Silent);
        }
        while let Some((_, event)) = events.next_if(|(at_ms, _)| *at_ms <= hospital.gateway.now_ms) {
            event(&mut hospital);
        }
        hospital.once(15_000);
    }
    assert!(events.next().is_none());
    let asked = hospital.gateway.stub.requests() - asked_before;
    assert!((20..=8 * 60).contains(&asked), "{name}: {asked} requests in eight hours");

    // It is back; in the middle of the draining, two more die and one opts out.
    hospital.gateway.stub.set_power(Power::Up);
    let (back_ms, first_round, writes_before) = (hospital.gateway.now_ms, hospital.round, hospital.sent.len());
    let mut rounds = 0;
    while hospital.is_pending() {
        hospital.once(1_000);
        rounds += 1;
        if writes_before + 20 <= hospital.sent.len() && hospital.truth["p6"] == Truth::Candidate {
            hospital.dies("p6");
            hospital.dies("p14");
            hospital.opts_out("p48");
        }
        assert!(hospital.gateway.now_ms - back_ms <= 15 * MINUTE_MS, "{name}: not drained in a quarter of an hour");
    }
    assert_eq!(hospital.truth["p6"], Truth::Died);
    let took_s = (hospital.gateway.now_ms - back_ms) / 1_000;
    hospital.all_is_said();
    for item in hospital.gateway.newest() {
        let is_ended_well = matches!(item.state, ItemState::Confirmed | ItemState::Superseded);
        assert!(is_ended_well, "{name}: {item:#?}");
    }
    assert_eq!(hospital.gateway.stub.early(), Vec::<String>::new(), "{name}: asked before it said it may be asked");
    nothing_was_sent_twice(&hospital);
    in_order_per_patient(&hospital);
    // Nobody who is gone waits behind somebody who comes: while something was left to take back, it was among what was sent.
    let sent = &hospital.sent[writes_before..];
    let last_back = sent.iter().filter(|(_, who, takes_back)| *takes_back && !["p6", "p14", "p48"].contains(&who.as_str())).map(|one| one.0).max();
    let rounds_without = (first_round + 2..last_back.unwrap()).filter(|round| {
        let of_round: Vec<_> = sent.iter().filter(|(of, ..)| of == round).collect();
        !of_round.is_empty() && of_round.iter().all(|(_, _, takes_back)| !takes_back)
    });
    assert_eq!(rounds_without.count(), 0, "{name}: {sent:?}");
    let _ = writeln!(
        std::io::stderr(),
        "{name}: {asked} requests in 8 h of outage; {} writes drained in {rounds} rounds and {took_s} s; {} of {} people told about",
        sent.len(),
        hospital.told.len(),
        hospital.truth.len()
    );
}

/// No two writes that follow each other on one resource say the same.
fn nothing_was_sent_twice(hospital: &Hospital) {
    let mut last: BTreeMap<String, Value> = BTreeMap::new();
    for write in hospital.gateway.stub.writes().into_iter().filter(|write| write.is_applied) {
        let resource = write.json();
        let Some(key) = key_of(&resource) else { continue };
        let before = last.insert(key, resource.clone());
        assert_ne!(before.as_ref(), Some(&resource), "sent twice: {}", write.line());
    }
}

/// The outbox of each key ended in the order in which it was planned, and what refers to another came after it.
fn in_order_per_patient(hospital: &Hospital) {
    let writes: Vec<Write> = hospital.gateway.stub.writes().into_iter().filter(|write| write.is_applied).collect();
    let first = |kind: &str, who: &str| {
        writes.iter().position(|write| {
            let resource = write.json();
            write.resource_type == kind && ["subject", "individual"].iter().any(|element| resource[element]["reference"] == format!("Patient/{who}"))
        })
    };
    let study = writes.iter().position(|write| write.resource_type == "ResearchStudy").unwrap();
    for who in &hospital.told {
        let (subject, flag, egfr) = (first("ResearchSubject", who).unwrap(), first("Flag", who).unwrap(), first("Observation", who));
        assert!(study < subject && egfr.is_none_or(|egfr| subject < egfr && flag < egfr), "{who}: {study} {subject} {flag} {egfr:?}");
    }
    let mut confirmed: BTreeMap<String, i64> = BTreeMap::new();
    for item in hospital.gateway.items() {
        if item.state == ItemState::Confirmed {
            let before = confirmed.insert(item.request.key.clone(), item.id);
            assert!(before.is_none_or(|before| before < item.id));
        }
        assert!(item.request.purpose == Purpose::Annotate || item.attempts != 0 || item.state == ItemState::Superseded, "{item:#?}");
    }
}

#[test]
fn after_eight_hours_of_silence_only_what_is_still_true_is_sent_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open_sqlite(&folder.path().join(nephrogate::store::FILE_NAME)).unwrap();
    eight_hours("SQLite", store, folder);
}

#[test]
fn after_eight_hours_of_silence_only_what_is_still_true_is_sent_on_postgresql() {
    let Some(url) = empty_postgres() else { return };
    eight_hours("PostgreSQL", Store::open_postgres(&url).unwrap(), tempfile::tempdir().unwrap());
}
