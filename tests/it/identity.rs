//! Who is who, by the door: records merged into another, in chains and rings and back, in any order; tests kept apart.

use nephrogate::clinical::date::AsOf;
use nephrogate::clinical::fact::{Decided, DecidedState};
use nephrogate::issue::{Code, Disposition};
use nephrogate::pipeline::{Pipeline, digest, receive};
use nephrogate::store::Store;
use nephrogate::store::ledger::Receipt;
use nephrogate::store::outbox::{self, Item, ItemState};
use nephrogate::store::screening::{self, ListQuery, Sort};
use nephrogate::writeback::Purpose;

use crate::intake::{
    SITE, card, creatinine, decision, everything_arrives, listed, now_ms, patient, pipeline, pipeline_that_writes_back, push, push_candidate,
    withdrawal,
};
use crate::stores::{on_both, on_sqlite};

/// Another hospital: HTEST means a test there.
const NORTH: &str = "north-hospital";

fn link(kind: &str, other: &str) -> String {
    format!(r#","link":[{{"other":{{"reference":"Patient/{other}"}},"type":"{kind}"}}]"#)
}

fn push_at(pipeline: &Pipeline, site: &str, body: &str) -> Receipt {
    let prepared = receive::prepare(&pipeline.catalogue, &pipeline.catalogue.sites[site], body.as_bytes());
    receive::receive(pipeline, site, "push", now_ms(), &[prepared]).unwrap().remove(0)
}

/// Ids on the list, at the demo's hospital.
fn list(pipeline: &Pipeline) -> Vec<String> {
    listed(pipeline).rows.into_iter().map(|row| row.subject).collect()
}

fn list_at(pipeline: &Pipeline, site: &str) -> Vec<(String, String)> {
    let query = ListQuery { study: "elixcyte-1".into(), site: Some(site.into()), sort: Sort::Subject, ..ListQuery::default() };
    let rows = pipeline.store.read_blocking(|tx| screening::list(tx, &query)).unwrap().rows;
    rows.into_iter().map(|row| (row.subject, row.prescreen)).collect()
}

fn hidden(pipeline: &Pipeline, reason: &str) -> i64 {
    listed(pipeline).hidden.get(reason).copied().unwrap_or(0)
}

fn prescreen(pipeline: &Pipeline, subject: &str) -> String {
    card(pipeline, subject).row.prescreen
}

/// A record with a result that alone makes nobody a candidate; with the other's it does.
fn push_half(pipeline: &Pipeline, id: &str, date: &str) {
    push(pipeline, &patient(id, 1, ""));
    push(pipeline, &creatinine(&format!("{id}-result"), 1, id, "final", date, 2.1));
}

fn digest_of(pipeline: &Pipeline) -> (String, String) {
    let of_site = digest::of_site(pipeline, SITE, AsOf::instant(now_ms()), &|_, _| {}).unwrap();
    (of_site.digest.hash_of_facts(), of_site.digest.hash_of_verdicts())
}

fn planned(store: &Store, subject: &str) -> Vec<Item> {
    let planned = store.read_blocking(|tx| outbox::list(tx, Some(SITE), Some(ItemState::Planned))).unwrap();
    planned.into_iter().filter(|item| item.subject == subject).collect()
}

#[test]
fn a_merged_record_is_taken_back_from_the_ehr_and_stands_there_again_when_it_is_unmerged() {
    on_both(|store| {
        let pipeline = pipeline_that_writes_back(store);
        push_candidate(&pipeline, "old");
        push(&pipeline, &patient("new", 1, ""));
        everything_arrives(store);
        push(&pipeline, &patient("old", 2, &link("replaced-by", "new")));
        assert_eq!(list(&pipeline), ["new"]);
        assert!(planned(store, "old").iter().any(|item| item.request.purpose == Purpose::Retract), "the flag of the merged record is taken back");
        assert!(planned(store, "old").iter().all(|item| item.request.purpose == Purpose::Retract));
        assert!(planned(store, "new").iter().any(|item| item.request.purpose == Purpose::Annotate), "the survivor gets its own");
        everything_arrives(store);
        push(&pipeline, &patient("old", 3, ""));
        assert_eq!(list(&pipeline), ["new", "old"]);
        assert_eq!((prescreen(&pipeline, "old"), prescreen(&pipeline, "new")), ("met".into(), "unknown".into()), "each has its own results again");
        assert!(planned(store, "new").iter().any(|item| item.request.purpose == Purpose::Retract));
        assert!(planned(store, "old").iter().any(|item| item.request.purpose == Purpose::Annotate));
    });
}

#[test]
fn a_chain_ends_in_its_last_record_in_every_order_of_arrival() {
    let sent = |place: usize| match place {
        0 => patient("a", 2, &link("replaced-by", "b")),
        1 => patient("b", 2, &link("replaced-by", "c")),
        2 => patient("c", 1, ""),
        3 => creatinine("a-result", 1, "a", "final", "2026-04-01T08:00:00Z", 2.0),
        4 => creatinine("b-result", 1, "b", "final", "2026-10-20T08:00:00Z", 2.1),
        _ => unreachable!("five are sent"),
    };
    let mut seen = std::collections::BTreeSet::new();
    let seen = std::cell::RefCell::new(&mut seen);
    for order in crate::stores::orders_of(5) {
        on_sqlite(|store| {
            let pipeline = pipeline(store);
            for place in &order {
                push(&pipeline, &sent(*place));
            }
            assert_eq!((list(&pipeline), hidden(&pipeline, "merged")), (vec!["c".into()], 2), "{order:?}");
            assert_eq!(prescreen(&pipeline, "c"), "met", "{order:?}");
            seen.borrow_mut().insert(digest_of(&pipeline));
        });
    }
    assert_eq!(seen.borrow().len(), 1, "one digest");
}

#[test]
fn of_records_that_name_each_other_nobody_disappears_and_the_last_is_quarantined() {
    on_both(|store| {
        let pipeline = pipeline(store);
        push_half(&pipeline, "a", "2026-04-01T08:00:00Z");
        push_half(&pipeline, "b", "2026-10-20T08:00:00Z");
        push(&pipeline, &patient("a", 2, &link("replaced-by", "b")));
        assert_eq!(list(&pipeline), ["b"]);
        let receipt = push(&pipeline, &patient("b", 2, &link("replaced-by", "a")));
        assert_eq!((receipt.disposition, receipt.issues[0].code), (Disposition::Quarantined, Code::MergeCycle));
        assert_eq!((list(&pipeline), hidden(&pipeline, "merged")), (vec!["a".into(), "b".into()], 0), "both are there, each with its own results");
        assert!(card(&pipeline, "a").row.egfr.is_some() && card(&pipeline, "b").row.egfr.is_some());
        push(&pipeline, &patient("b", 3, ""));
        assert_eq!(list(&pipeline), ["b"], "the EHR mended it");
        assert_eq!(prescreen(&pipeline, "b"), "met");
    });
}

#[test]
fn a_survivor_that_says_what_it_replaces_is_enough_in_both_orders_until_it_says_so_no_more() {
    on_both(|store| {
        let pipeline = pipeline(store);
        // The survivor first, then the record it replaces, which says nothing of it.
        push(&pipeline, &patient("b", 2, &link("replaces", "a")));
        push_candidate(&pipeline, "a");
        assert_eq!((list(&pipeline), hidden(&pipeline, "merged")), (vec!["b".into()], 1));
        assert_eq!(prescreen(&pipeline, "b"), "met");
        push(&pipeline, &patient("b", 3, ""));
        assert_eq!(list(&pipeline), ["a", "b"]);
        assert_eq!((prescreen(&pipeline, "a"), prescreen(&pipeline, "b")), ("met".into(), "unknown".into()));
        // And the record first.
        push(&pipeline, &patient("b", 4, &link("replaces", "a")));
        assert_eq!(list(&pipeline), ["b"]);
        // An older version of the survivor that comes late unsays nothing.
        push(&pipeline, &patient("b", 1, ""));
        assert_eq!(list(&pipeline), ["b"]);
        // The record's own word goes first.
        push(&pipeline, &patient("c", 1, ""));
        push(&pipeline, &patient("a", 5, &link("replaced-by", "c")));
        assert_eq!((prescreen(&pipeline, "b"), prescreen(&pipeline, "c")), ("unknown".into(), "met".into()));
        push(&pipeline, &patient("a", 6, ""));
        assert_eq!((prescreen(&pipeline, "b"), prescreen(&pipeline, "c")), ("met".into(), "unknown".into()), "b says so still");
        // Who replaces, and is replaced by, the same record.
        let receipt = push(
            &pipeline,
            &patient(
                "b",
                7,
                &format!("{},{}", link("replaces", "a").replace("]", ""), r#"{"other":{"reference":"Patient/a"},"type":"replaced-by"}]"#),
            ),
        );
        assert_eq!((receipt.disposition, receipt.issues[0].code), (Disposition::Quarantined, Code::MergeCycle));
        assert_eq!(list(&pipeline), ["a", "b", "c"], "nobody disappears");
    });
}

#[test]
fn the_merged_record_may_be_deleted_where_the_survivor_says_what_it_replaces() {
    on_both(|store| {
        let pipeline = pipeline(store);
        push_candidate(&pipeline, "a");
        push(&pipeline, &patient("b", 1, ""));
        push(&pipeline, &patient("a", 2, &link("replaced-by", "b")));
        assert_eq!(prescreen(&pipeline, "b"), "met");
        receive::withdraw(&pipeline, SITE, "push", now_ms(), &withdrawal("Patient", "a")).unwrap().unwrap();
        // The merge was the deleted record's word alone: its results are of nobody known, counted as such, and not lost.
        assert_eq!((prescreen(&pipeline, "b").as_str(), hidden(&pipeline, "no-patient")), ("unknown", 1));
        push(&pipeline, &patient("b", 2, &link("replaces", "a")));
        assert_eq!((prescreen(&pipeline, "b").as_str(), hidden(&pipeline, "no-patient"), hidden(&pipeline, "merged")), ("met", 0, 1));
        // The survivor deleted: what it replaced stands for itself, and no Patient tells of it.
        receive::withdraw(&pipeline, SITE, "push", now_ms(), &withdrawal("Patient", "b")).unwrap().unwrap();
        assert_eq!((hidden(&pipeline, "no-patient"), hidden(&pipeline, "merged")), (2, 0));
    });
}

#[test]
fn records_that_only_point_to_each_other_stay_two() {
    on_both(|store| {
        let pipeline = pipeline(store);
        for (id, date) in [("a", "2026-04-01T08:00:00Z"), ("b", "2026-10-20T08:00:00Z")] {
            push_half(&pipeline, id, date);
        }
        for (version, kind) in [(2, "seealso"), (3, "refer")] {
            assert_eq!(push(&pipeline, &patient("a", version, &link(kind, "b"))).disposition, Disposition::Applied);
            assert_eq!(list(&pipeline), ["a", "b"]);
            assert_eq!(card(&pipeline, "b").assessment.series.len(), 1, "{kind} brings no results of the other");
        }
        // Several identifiers are one patient, whose id at the source is what counts.
        let numbers = r#","identifier":[{"system":"urn:oid:1.2.3","value":"10"},{"system":"urn:oid:1.2.4","value":"20"}]"#;
        assert_eq!(push(&pipeline, &patient("a", 4, numbers)).disposition, Disposition::Applied);
        assert_eq!(list(&pipeline), ["a", "b"]);
    });
}

#[test]
fn a_subject_in_the_trial_goes_on_under_the_surviving_record() {
    on_both(|store| {
        let pipeline = pipeline_that_writes_back(store);
        push_candidate(&pipeline, "a");
        push(&pipeline, &patient("b", 1, ""));
        receive_decision(&pipeline, "a", Decided::Consent { given: true });
        receive_decision(&pipeline, "a", Decided::State { to: DecidedState::Enrolled });
        everything_arrives(store);
        assert_eq!(card(&pipeline, "a").row.state, "enrolled");
        push(&pipeline, &patient("a", 2, &link("replaced-by", "b")));
        let of_b = card(&pipeline, "b");
        assert_eq!((of_b.row.state.as_str(), of_b.assessment.was_enrolled), ("enrolled", true), "what persons decided went with the record");
        assert_eq!((list(&pipeline), hidden(&pipeline, "merged")), (vec!["b".into()], 1));
        assert!(planned(store, "a").iter().all(|item| item.request.purpose == Purpose::Retract));
        assert!(planned(store, "b").iter().any(|item| item.request.purpose == Purpose::Annotate), "the EHR is told where the subject is now");
        push(&pipeline, &patient("a", 3, ""));
        assert_eq!((card(&pipeline, "a").row.state.as_str(), card(&pipeline, "b").row.state.as_str()), ("enrolled", "none"));
    });
}

fn receive_decision(pipeline: &Pipeline, subject: &str, what: Decided) {
    nephrogate::pipeline::decide::append(pipeline, SITE, subject, &decision(what)).unwrap();
}

#[test]
fn a_test_record_and_a_real_one_are_never_made_one() {
    on_both(|store| {
        let pipeline = pipeline(store);
        let test = r#","security":[{"system":"http://terminology.hl7.org/CodeSystem/v3-ActReason","code":"HTEST"}]"#;
        let test_patient =
            |id: &str, version: u32, more: &str| patient(id, version, more).replace("\"},\"gender\"", &format!("\"{test}}},\"gender\""));
        let result = |id: &str, subject: &str, date: &str| creatinine(id, 1, subject, "final", date, 2.1);
        push_at(&pipeline, NORTH, &patient("real", 1, ""));
        push_at(&pipeline, NORTH, &result("real-1", "real", "2026-04-01T08:00:00Z"));
        // The link first, then what it leads to.
        push_at(&pipeline, NORTH, &test_patient("test", 1, &link("replaced-by", "real")));
        push_at(&pipeline, NORTH, &result("test-1", "test", "2026-10-20T08:00:00Z"));
        assert_eq!(list_at(&pipeline, NORTH), [("real".into(), "unknown".into())], "the test's result is not the real patient's");
        let receipt = push_at(&pipeline, NORTH, &test_patient("test", 2, &link("replaced-by", "real")));
        assert_eq!((receipt.disposition, receipt.issues[0].code), (Disposition::Quarantined, Code::MergeWithTest));
        // A real record that is said to have become a test stays on the list.
        let receipt = push_at(&pipeline, NORTH, &patient("real", 2, &link("replaced-by", "test")));
        assert_eq!(receipt.disposition, Disposition::Quarantined);
        assert_eq!(list_at(&pipeline, NORTH), [("real".into(), "unknown".into())]);
        // Two tests are one test, and two real records are one.
        push_at(&pipeline, NORTH, &test_patient("test", 3, ""));
        push_at(&pipeline, NORTH, &patient("real", 3, ""));
        push_at(&pipeline, NORTH, &patient("twin", 1, &link("replaced-by", "real")));
        push_at(&pipeline, NORTH, &result("twin-1", "twin", "2026-10-20T08:00:00Z"));
        assert_eq!(list_at(&pipeline, NORTH), [("real".into(), "met".into())]);
    });
}

#[test]
fn the_same_id_at_two_hospitals_is_two_patients() {
    on_both(|store| {
        let pipeline = pipeline(store);
        for site in [SITE, NORTH] {
            push_at(&pipeline, site, &patient("p1", 1, ""));
            push_at(&pipeline, site, &patient("p2", 1, ""));
        }
        for (id, date) in [("o1", "2026-04-01T08:00:00Z"), ("o2", "2026-10-20T08:00:00Z")] {
            push_at(&pipeline, SITE, &creatinine(id, 1, "p1", "final", date, 2.1));
        }
        push_at(&pipeline, NORTH, &creatinine("o1", 1, "p1", "final", "2026-10-20T08:00:00Z", 0.7));
        let met = |id: &str, prescreen: &str| (id.to_owned(), prescreen.to_owned());
        assert_eq!(list_at(&pipeline, SITE), [met("p1", "met"), met("p2", "unknown")]);
        assert_eq!(list_at(&pipeline, NORTH), [met("p1", "not-met"), met("p2", "unknown")]);
        push_at(&pipeline, NORTH, &patient("p1", 2, &link("replaced-by", "p2")));
        assert_eq!(list_at(&pipeline, SITE), [met("p1", "met"), met("p2", "unknown")], "a merge at one is none at the other");
        assert_eq!(list_at(&pipeline, NORTH), [met("p2", "not-met")]);
    });
}
