//! Whatever the order of arrival and however often each came: one state, shown by the digest.

use std::sync::Arc;

use nephrogate::catalogue::Catalogue;
use nephrogate::clinical::date::{AsOf, PartialDate};
use nephrogate::pipeline::entries::Withdrawal;
use nephrogate::pipeline::{Pipeline, Receivers, digest, receive};
use nephrogate::store::screening::{self, ListQuery, Sort};
use nephrogate::store::{Store, messages};

use crate::stores::{on_postgres, on_sqlite, orders_of};

const SITE: &str = "demo-hospital";
const STUDY: &str = "elixcyte-1";
const NOW: &str = "2026-11-01T12:00:00Z";

pub fn pipeline(store: &Store) -> Pipeline {
    let catalogue = Catalogue::load(None).map_err(|faults| format!("{faults:?}")).unwrap();
    Pipeline { store: store.clone(), catalogue: Arc::new(catalogue), receivers: Arc::new(Receivers::new()) }
}

fn now_ms() -> i64 {
    PartialDate::parse(NOW).unwrap().start_ms
}

/// What is sent of one thing: a version of it, or its end.
#[derive(Clone)]
enum Sent {
    Version(String),
    Delete { id: String, if_match: &'static str },
}

/// One version of a creatinine; `more` stands beside its id.
fn creatinine(id: &str, patient: &str, more: &str, status: &str, mg_dl: &str) -> Sent {
    Sent::Version(format!(
        r#"{{"resourceType":"Observation","id":"{id}",{more},"status":"{status}","code":{{"coding":[{{"system":"http://loinc.org","code":"2160-0"}}]}},"subject":{{"reference":"Patient/{patient}"}},"effectiveDateTime":"2026-10-20T08:00:00Z","valueQuantity":{{"value":{mg_dl},"unit":"mg/dL","system":"http://unitsofmeasure.org","code":"mg/dL"}}}}"#
    ))
}

const STATUSES: [&str; 6] = ["preliminary", "final", "corrected", "entered-in-error", "amended", "final"];
const VALUES: [&str; 6] = ["1.9", "2.0", "2.1", "2.2", "2.3", "2.4"];

/// Six versions each of four results of one patient, in the order in which they were made: told apart by number, deleted
/// and restored; by number, and deleted for good; by time of update alone; by time of issue alone.
fn six_versions(patient: &str) -> [Vec<Sent>; 4] {
    let number = |place: usize| format!(r#""meta":{{"versionId":"{}"}}"#, place + 1);
    let id = |name: &str| format!("{patient}-{name}");
    let version = |name: &str, more: String, place: usize| creatinine(&id(name), patient, &more, STATUSES[place], VALUES[place]);
    let restored = (0..6).map(|place| match place {
        4 => Sent::Delete { id: id("restored"), if_match: "4" },
        place => version("restored", number(place), place),
    });
    let deleted = (0..6).map(|place| match place {
        5 => Sent::Delete { id: id("deleted"), if_match: "5" },
        place => version("deleted", number(place), place),
    });
    let updated = (0..6).map(|place| version("updated", format!(r#""meta":{{"lastUpdated":"2026-10-2{}T08:00:00Z"}}"#, place + 1), place));
    let issued = (0..6).map(|place| version("issued", format!(r#""issued":"2026-10-2{}T08:00:00Z""#, place + 1), place));
    [restored.collect(), deleted.collect(), updated.collect(), issued.collect()]
}

fn send(pipeline: &Pipeline, sent: &[Sent]) {
    let site = &pipeline.catalogue.sites[SITE];
    let versions: Vec<_> = sent
        .iter()
        .filter_map(|sent| match sent {
            Sent::Version(body) => Some(receive::prepare(&pipeline.catalogue, site, body.as_bytes())),
            Sent::Delete { .. } => None,
        })
        .collect();
    let withdrawals: Vec<_> = sent
        .iter()
        .filter_map(|sent| match sent {
            Sent::Delete { id, if_match } => {
                Some(Withdrawal { resource_type: "Observation".into(), id: id.clone(), if_match: Some((*if_match).to_owned()), deleted_ms: None })
            }
            Sent::Version(_) => None,
        })
        .collect();
    receive::receive_and_withdraw(pipeline, SITE, "push", now_ms(), &versions, &withdrawals).unwrap();
}

/// The same again: byte for byte, or as another door writes it.
fn again(sent: &Sent, is_otherwise: bool) -> Sent {
    match sent {
        Sent::Version(body) if is_otherwise => Sent::Version(body.replace("\"status\"", " \"status\"").replace("\"value\":2.4,", "\"value\":2.40,")),
        other => other.clone(),
    }
}

/// What a site shows of everyone: the list, and the digest of facts and verdicts.
#[derive(Debug, PartialEq)]
struct Shown {
    list: Vec<(String, String, String, Option<f64>, String)>,
    facts: String,
    verdicts: String,
    counts: Vec<(&'static str, u64)>,
}

fn shown(pipeline: &Pipeline) -> Shown {
    let query = ListQuery { study: STUDY.into(), sort: Sort::Subject, limit: 10_000, ..ListQuery::default() };
    let rows = pipeline.store.read_blocking(|tx| screening::list(tx, &query)).unwrap().rows;
    assert!(rows.iter().all(|row| !row.is_waiting));
    let of_site = digest::of_site(pipeline, SITE, AsOf::parse(NOW).unwrap(), &|_, _| {}).unwrap();
    assert!(!of_site.has_moved);
    Shown {
        list: rows.into_iter().map(|row| (row.subject, row.prescreen, row.state, row.egfr, row.why)).collect(),
        facts: of_site.digest.hash_of_facts(),
        verdicts: of_site.digest.hash_of_verdicts(),
        counts: of_site.digest.facts.into_iter().collect(),
    }
}

/// A patient for each order, all in one store; `in_batches` sends the six versions of everyone in as few batches as they
/// may be, else each place of the order by itself, every second time with what was sent before once more.
fn sent_in(store: &Store, orders: &[Vec<usize>], in_batches: bool) -> Shown {
    let pipeline = pipeline(store);
    let patients: Vec<(String, [Vec<Sent>; 4])> =
        (0..orders.len()).map(|number| format!("p{number}")).map(|id| (id.clone(), six_versions(&id))).collect();
    let mut records: Vec<Sent> = Vec::new();
    for (id, _) in &patients {
        records.push(Sent::Version(format!(
            r#"{{"resourceType":"Patient","id":"{id}","meta":{{"versionId":"1"}},"gender":"female","birthDate":"1960-03-04"}}"#
        )));
        let Sent::Version(old) = creatinine(&format!("{id}-old"), id, r#""meta":{"versionId":"1"}"#, "final", "2.0") else { unreachable!() };
        records.push(Sent::Version(old.replace("2026-10-20", "2026-04-20")));
    }
    send(&pipeline, &records);
    let at = |place: usize, is_again: bool| -> Vec<Sent> {
        let of_patient = patients.iter().zip(orders).flat_map(move |((_, results), order)| {
            results
                .iter()
                .map(move |versions| if is_again { again(&versions[order[place]], place.is_multiple_of(2)) } else { versions[order[place]].clone() })
        });
        of_patient.collect()
    };
    if in_batches {
        send(&pipeline, &(0..6).flat_map(|place| [at(place, false), at(place, true)].concat()).collect::<Vec<_>>());
    } else {
        for place in 0..6 {
            send(&pipeline, &at(place, false));
            if !place.is_multiple_of(2) {
                send(&pipeline, &at(place / 2, true));
            }
        }
        send(&pipeline, &at(5, true));
    }
    let counts = pipeline.store.read_blocking(|tx| messages::conservation(tx, SITE)).unwrap();
    assert_eq!((counts.difference, counts.rows_agree, counts.dispositions["quarantined"]), (0, true, 0), "{counts:?}");
    shown(&pipeline)
}

#[test]
fn six_versions_with_duplicates_give_one_state_in_each_of_their_720_orders() {
    let orders = orders_of(6);
    let made_in_order = vec![vec![0, 1, 2, 3, 4, 5]; orders.len()];
    let expected = std::cell::OnceCell::new();
    on_sqlite(|store| {
        let shown = sent_in(store, &made_in_order, false);
        // Of each patient the record, the old result, and what is left of the four: all but the deleted one say 2.4 mg/dL.
        assert_eq!(shown.counts, [("measurement", 2 * 720), ("person", 720)]);
        let first = &shown.list[0];
        assert!(shown.list.iter().all(|row| (&row.1, row.3, &row.4) == (&first.1, first.3, &first.4)), "everyone was told the same");
        assert_eq!(first.1, "met");
        expected.set(shown).unwrap();
    });
    let expected = expected.into_inner().unwrap();
    for in_batches in [false, true] {
        on_sqlite(|store| assert_eq!(sent_in(store, &orders, in_batches), expected, "in batches: {in_batches}"));
    }
    let some: Vec<Vec<usize>> = orders.iter().step_by(37).cloned().collect();
    on_postgres(|store| {
        let shown = sent_in(store, &some, false);
        assert_eq!(shown.counts, [("measurement", 2 * some.len() as u64), ("person", some.len() as u64)]);
        assert!(shown.list.iter().all(|row| row.1 == "met" && row.3 == expected.list[0].3));
    });
}
