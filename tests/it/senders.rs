//! Thirty-two gateways send from one store at once, to an EHR of our own making, to SEKMET and to HAPI FHIR: each thing
//! stands there once, and says what was planned last.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nephrogate::ehr::Ehr;
use nephrogate::pipeline::deliver::{Circuit, deliver_once};
use nephrogate::pipeline::{Pipeline, judge, receive};
use nephrogate::store::Store;
use nephrogate::store::outbox::{self, Item, ItemState};
use nephrogate::writeback::Receiver;
use serde_json::Value;

use super::counterparts::{shared_hapi, start_sekmet};
use super::deliver::{SITE, creatinine, patient};
use super::quirks::stub::{Quirk, Stub};
use super::quirks::{now_ms, ours, pipeline, receiver};
use super::stores::empty_postgres;

const SENDERS: usize = 32;

fn patients() -> usize {
    if std::env::var_os("NEPHROGATE_SOAK").is_some_and(|value| value == "1") { 100 } else { 8 }
}

/// What senders and feed have in common.
struct Trial<'a> {
    name: &'a str,
    base_url: &'a str,
    /// Begins the ids of its patients, since some share a server.
    prefix: String,
    update_creates: bool,
    runtime: tokio::runtime::Runtime,
    ehr: Ehr,
}

impl Trial<'_> {
    /// The hospital holds this and sends it to one of the gateways.
    fn hospital_says(&self, gateway: &Pipeline, resource: &Value) {
        let headers = [("Content-Type".to_owned(), "application/fhir+json".to_owned())];
        let url = format!("{}/{}", resource["resourceType"].as_str().unwrap(), resource["id"].as_str().unwrap());
        // A server with quirks has them for the hospital too.
        let is_put = || self.runtime.block_on(self.ehr.send("PUT", &url, &headers, &resource.to_string())).is_ok();
        assert!((0..3).any(|_| is_put()), "{}: {url}", self.name);
        let prepared = receive::prepare(&gateway.catalogue, &gateway.catalogue.sites[SITE], resource.to_string().as_bytes());
        let receipts = receive::receive(gateway, SITE, "push", now_ms(), &[prepared]).unwrap();
        assert_eq!(receipts[0].disposition.word(), "applied", "{:?}", receipts[0].issues);
    }

    fn id(&self, number: usize) -> String {
        format!("{}{number}", self.prefix)
    }

    fn run(&self, stores: &[Store]) {
        let key = [self.prefix.bytes().fold(7, |sum: u8, byte| sum.wrapping_mul(31).wrapping_add(byte)); 32];
        let contract = receiver(self.base_url, |receiver| Receiver { update_creates: self.update_creates, identifier_key: key, ..receiver });
        let gateways: Vec<Pipeline> = (0..SENDERS).map(|number| pipeline(stores[number % stores.len()].clone(), contract.clone())).collect();
        let began = Instant::now();
        let is_over = Arc::new(AtomicBool::new(false));
        let senders: Vec<_> = gateways
            .iter()
            .map(|gateway| {
                let (gateway, ehr, is_over) = (gateway.clone(), Ehr::open(self.base_url, None).unwrap(), is_over.clone());
                self.runtime.spawn(async move {
                    let mut circuit = Circuit::default();
                    let mut claimed = 0;
                    while !is_over.load(Ordering::Relaxed) {
                        let round = deliver_once(&gateway, &ehr, &mut circuit, SITE, now_ms()).await.unwrap();
                        claimed += round.claimed;
                        if round.claimed == 0 {
                            tokio::time::sleep(Duration::from_millis(100)).await;
                        }
                    }
                    claimed
                })
            })
            .collect();
        for number in 0..patients() {
            let id = self.id(number);
            let gateway = &gateways[number % SENDERS];
            self.hospital_says(gateway, &patient(&id));
            self.hospital_says(gateway, &creatinine(&format!("old-{id}"), &id, 1, "final", 130, "2.1"));
            self.hospital_says(gateway, &creatinine(&format!("new-{id}"), &id, 1, "final", 10, "2.0"));
        }
        // Half of them are corrected while the senders are at it; by another gateway than the first.
        for number in (0..patients()).step_by(2) {
            let id = self.id(number);
            self.hospital_says(&gateways[(number + 5) % SENDERS], &creatinine(&format!("new-{id}"), &id, 2, "corrected", 10, "1.0"));
        }
        let deadline = Instant::now() + Duration::from_secs(300);
        while items(&gateways[0]).iter().any(|item| matches!(item.state, ItemState::Planned | ItemState::Sent)) {
            assert!(Instant::now() < deadline, "{}: not drained: {:?}", self.name, states(&items(&gateways[0])));
            judge::waiting(&gateways[0], now_ms(), 1_000).unwrap();
            std::thread::sleep(Duration::from_millis(100));
        }
        is_over.store(true, Ordering::Relaxed);
        let claimed: Vec<usize> = self.runtime.block_on(async {
            let mut claimed = Vec::new();
            for sender in senders {
                claimed.push(sender.await.unwrap());
            }
            claimed
        });
        let items = items(&gateways[0]);
        self.each_stands_once_and_says_what_was_planned(&items);
        let took = began.elapsed();
        let _ = writeln!(
            std::io::stderr(),
            "{} with ids of {}: {SENDERS} senders, {} of which sent something; {} items {:?} in {:.1} s; 0 duplicates",
            self.name,
            if self.update_creates { "ours" } else { "the EHR's" },
            claimed.iter().filter(|claimed| **claimed != 0).count(),
            items.len(),
            states(&items),
            took.as_secs_f64()
        );
    }

    #[track_caller]
    fn each_stands_once_and_says_what_was_planned(&self, items: &[Item]) {
        let newest: BTreeMap<&str, &Item> = items.iter().map(|item| (item.request.key.as_str(), item)).collect();
        let mut flags = BTreeMap::<String, usize>::new();
        for (key, item) in newest {
            assert!(matches!(item.state, ItemState::Confirmed | ItemState::Superseded), "{}: {item:#?}", self.name);
            let kind = &item.request.resource_type;
            let copies = self.runtime.block_on(self.ehr.find(kind, key)).unwrap();
            assert!(copies.len() <= 1, "{}: {} copies of {kind} {key}", self.name, copies.len());
            if item.state == ItemState::Superseded {
                continue;
            }
            if let Some(copy) = copies.first() {
                let (planned, stands): (Value, Value) =
                    (serde_json::from_str(&item.request.body).unwrap(), serde_json::from_str(&copy.resource).unwrap());
                assert_eq!(planned["status"], stands["status"], "{}: {kind}", self.name);
                if kind == "Flag" {
                    *flags.entry(stands["status"].as_str().unwrap().to_owned()).or_default() += 1;
                }
            }
        }
        assert_eq!(flags.get("active").copied(), Some(patients() / 2), "{}: {flags:?}", self.name);
    }
}

fn items(gateway: &Pipeline) -> Vec<Item> {
    gateway.store.read_blocking(|tx| outbox::list(tx, None, None)).unwrap()
}

fn states(items: &[Item]) -> BTreeMap<&'static str, usize> {
    let mut states = BTreeMap::new();
    for item in items {
        *states.entry(item.state.word()).or_default() += 1;
    }
    states
}

/// On one PostgreSQL store and on one SQLite store, with ids of ours and of the EHR's.
fn thirty_two_senders_on(name: &str, base_url: &str) {
    for update_creates in [true, false] {
        let policy = if update_creates { "ours" } else { "theirs" };
        let trial = |store: &str| Trial {
            name,
            base_url,
            prefix: format!("{store}-{policy}-"),
            update_creates,
            runtime: tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap(),
            ehr: Ehr::open(base_url, None).unwrap(),
        };
        let folder = tempfile::tempdir().unwrap();
        trial("sqlite").run(&[Store::open_sqlite(&folder.path().join(nephrogate::store::FILE_NAME)).unwrap()]);
        let Some(url) = empty_postgres() else { continue };
        // Eight pools of connections; more would use up what the cluster has.
        let stores: Vec<Store> = (0..8).map(|_| Store::open_postgres(&url).unwrap()).collect();
        trial("postgres").run(&stores);
    }
}

#[test]
fn thirty_two_senders_leave_one_resource_of_each_at_an_ehr_that_answers_late_conflicts_and_loses_answers() {
    let stub = Stub::start(&[Quirk::ConflictOnceOnCreate, Quirk::TimeoutAfterApply, Quirk::PreconditionOnce], &[], now_ms());
    thirty_two_senders_on("the stub", &stub.base_url);
    for (key, copies) in ours(&stub) {
        assert_eq!(copies.len(), 1, "{key}: {copies:#?}");
    }
}

#[test]
fn thirty_two_senders_leave_one_resource_of_each_at_sekmet() {
    let Some(sekmet) = start_sekmet() else { return };
    thirty_two_senders_on("SEKMET", &sekmet.base_url);
}

#[test]
fn thirty_two_senders_leave_one_resource_of_each_at_hapi_fhir() {
    let Some(base_url) = shared_hapi(false) else { return };
    thirty_two_senders_on("HAPI FHIR", base_url);
}
