//! Who is whom, by messages: what states a part is laid over the record, merges hold until they are undone, and no order of
//! arrival changes that.

use std::sync::Arc;

use nephrogate::clinical::fact::{Fact, Sex};
use nephrogate::issue::{Code, Disposition};
use nephrogate::pipeline::hl7::prepare;
use nephrogate::pipeline::{Pipeline, Receivers, receive};
use nephrogate::store::ledger::{self, Receipt};
use nephrogate::store::{Store, messages};

use super::{catalogue, creatinine, fact, message, msh, part_of, person_of, pid, prepared};
use crate::gateway::SITE;
use crate::stores::on_both;

const NOW_MS: i64 = 1_780_000_000_000;

fn adt(event: &str, minute: u32, segments: &[String]) -> Vec<u8> {
    let head = msh(&format!("ADT^{event}"), &format!("{event}-{minute}"), &format!("2026030112{minute:02}00+0800"));
    message(&[&[head, format!("EVN|{event}|20260301120000")], segments].concat())
}

fn merge(minute: u32, from: &str, into: &str) -> Vec<u8> {
    adt("A40", minute, &[pid(into), format!("MRG|{from}^^^DEMO^MR")])
}

fn pipeline(store: &Store) -> Pipeline {
    Pipeline { store: store.clone(), catalogue: Arc::new(catalogue()), receivers: Arc::new(Receivers::new()) }
}

fn take(pipeline: &Pipeline, bytes: &[u8]) -> Receipt {
    let prepared = prepare(&pipeline.catalogue, &pipeline.catalogue.sites[SITE], bytes);
    receive::receive(pipeline, SITE, "adt", NOW_MS, &[prepared]).unwrap().remove(0)
}

fn take_fhir(pipeline: &Pipeline, json: &str) -> Receipt {
    let prepared = receive::prepare(&pipeline.catalogue, &pipeline.catalogue.sites[SITE], json.as_bytes());
    receive::receive(pipeline, SITE, "push", NOW_MS, &[prepared]).unwrap().remove(0)
}

fn merged_into(pipeline: &Pipeline, subject: &str) -> Option<String> {
    pipeline.store.read_blocking(|tx| ledger::facts(tx, SITE, subject)).unwrap().merged_into
}

fn measurements(pipeline: &Pipeline, subject: &str) -> usize {
    let facts = pipeline.store.read_blocking(|tx| ledger::facts(tx, SITE, subject)).unwrap().facts;
    pipeline.catalogue.sites[SITE].chart(facts).measurements.len()
}

#[test]
fn a_merge_moves_the_results_holds_through_later_messages_and_is_undone_by_a37() {
    on_both(|store| {
        let pipeline = pipeline(store);
        assert_eq!(take(&pipeline, &adt("A28", 1, &[pid("old")])).disposition, Disposition::Applied);
        take(&pipeline, &adt("A28", 2, &[pid("new")]));
        take(&pipeline, &creatinine("o1", "20260301120300+0800", "old", "F-1", "F", "1.80"));
        assert_eq!((measurements(&pipeline, "old"), measurements(&pipeline, "new")), (1, 0));

        assert_eq!(take(&pipeline, &merge(4, "old", "new")).disposition, Disposition::Applied);
        assert_eq!(merged_into(&pipeline, "old").as_deref(), Some("new"));
        assert_eq!(measurements(&pipeline, "new"), 1);

        // Neither what the admission office nor what the laboratory says later of the old number undoes it.
        take(&pipeline, &adt("A08", 5, &[pid("old")]));
        take(&pipeline, &creatinine("o2", "20260301120600+0800", "old", "F-2", "F", "1.90"));
        assert_eq!(merged_into(&pipeline, "old").as_deref(), Some("new"));
        assert_eq!(measurements(&pipeline, "new"), 2);

        assert_eq!(take(&pipeline, &adt("A37", 7, &[pid("new"), pid("old")])).disposition, Disposition::Applied);
        assert_eq!(merged_into(&pipeline, "old"), None);
        assert_eq!((measurements(&pipeline, "old"), measurements(&pipeline, "new")), (2, 0));

        // A number that changes is a merge too; a link reads the first under the second.
        take(&pipeline, &adt("A47", 8, &[pid("new"), "MRG|former^^^DEMO^MR".to_owned()]));
        assert_eq!(merged_into(&pipeline, "former").as_deref(), Some("new"));
        take(&pipeline, &adt("A24", 9, &[pid("old"), pid("new")]));
        assert_eq!(merged_into(&pipeline, "old").as_deref(), Some("new"));
        let counts = store.read_blocking(|tx| messages::conservation(tx, SITE)).unwrap();
        assert!(counts.difference == 0 && counts.rows_agree, "{counts:?}");
    });
}

#[test]
fn a_merge_that_comes_late_is_a_merge_and_one_that_closes_a_ring_waits() {
    on_both(|store| {
        let pipeline = pipeline(store);
        take(&pipeline, &adt("A08", 30, &[pid("old")]));
        // Written before that update, and overtaken by it on the way.
        let late = take(&pipeline, &merge(10, "old", "new"));
        assert_eq!(late.derived.iter().map(|one| one.disposition).collect::<Vec<_>>(), [Disposition::Applied; 2]);
        assert_eq!(merged_into(&pipeline, "old").as_deref(), Some("new"));
        let ring = take(&pipeline, &merge(40, "new", "old"));
        let waits = ring.derived.iter().find(|one| one.disposition == Disposition::Quarantined).expect("the ring's last link waits");
        assert_eq!(waits.issues[0].code, Code::MergeCycle);
        // Records that name each other stand for themselves until the hospital says which of them does.
        assert_eq!((merged_into(&pipeline, "old"), merged_into(&pipeline, "new")), (None, None));
        take(&pipeline, &adt("A37", 50, &[pid("new"), pid("old")]));
        take(&pipeline, &merge(51, "old", "new"));
        assert_eq!((merged_into(&pipeline, "old").as_deref(), merged_into(&pipeline, "new")), (Some("new"), None));
    });
}

#[test]
fn what_a_message_leaves_out_stays_as_the_record_has_it() {
    let record = |updated: &str, more: &str| {
        let catalogue = catalogue();
        let text = format!(
            r#"{{"resourceType":"Patient","id":"p1","meta":{{"versionId":"3","lastUpdated":"{updated}","security":[{{"system":"http://terminology.hl7.org/CodeSystem/v3-Confidentiality","code":"R"}}]}},"gender":"male","birthDate":"1950-05-05"{more}}}"#
        );
        fact(&receive::prepare(&catalogue, &catalogue.sites[SITE], text.as_bytes())).clone()
    };
    let update = |minute, segments: &[String]| part_of(&prepared(&adt("A08", minute, segments)), "p1");
    let older = record("2026-03-01T11:00:00+08:00", "");
    // A later message changes what it says, and takes nothing else back.
    let person = person_of(vec![older.clone(), update(5, &[pid("p1")])]).unwrap();
    assert_eq!((person.sex, person.birth_date.unwrap().to_string().as_str(), person.is_restricted), (Some(Sex::Female), "1966-01-01", true));
    let sexless = update(5, &["PID|1||p1^^^DEMO^MR".to_owned()]);
    let person = person_of(vec![older.clone(), sexless]).unwrap();
    assert_eq!((person.sex, person.birth_date.unwrap().to_string().as_str()), (Some(Sex::Male), "1950-05-05"));
    // A record that was written later knows better; the header of a result never does.
    let newer = record("2026-03-01T13:00:00+08:00", "");
    assert_eq!(person_of(vec![newer.clone(), update(5, &[pid("p1")])]).unwrap().sex, Some(Sex::Male));
    let mentioned = part_of(&prepared(&creatinine("1", "20260301235900+0800", "p1", "F-1", "F", "1.8")), "p1");
    assert_eq!(person_of(vec![older, mentioned.clone()]).unwrap().sex, Some(Sex::Male));
    // Where nobody else says who it is, it is all there is.
    assert_eq!(person_of(vec![mentioned]).unwrap().sex, Some(Sex::Female));
}

#[test]
fn protection_and_death_are_taken_back_only_by_who_says_so() {
    let protect = |minute, word: &str| part_of(&prepared(&adt("A08", minute, &[pid("p1"), format!("PD1||||||||||||{word}")])), "p1");
    let dies = |minute, word: &str| part_of(&prepared(&adt("A08", minute, &[format!("{}{}{word}", pid("p1"), "|".repeat(22))])), "p1");
    let plain = |minute| part_of(&prepared(&adt("A08", minute, &[pid("p1")])), "p1");
    let is_restricted = |facts| person_of(facts).unwrap().is_restricted;
    assert!(is_restricted(vec![protect(1, "Y"), plain(2)]));
    assert!(!is_restricted(vec![protect(1, "Y"), protect(2, "N")]));
    let is_dead = |facts| person_of(facts).unwrap().deceased;
    assert!(is_dead(vec![dies(1, "Y"), plain(2)]));
    assert!(!is_dead(vec![dies(1, "Y"), dies(2, "N")]));
    assert!(!is_dead(vec![dies(3, "N"), dies(1, "Y")]));
    // Two words about one moment contradict each other.
    let both = nephrogate::clinical::chart::Chart::fold(vec![dies(1, "Y"), dies(1, "N")], &[]).person.unwrap();
    assert!(both.is_conflicting);
}

#[test]
fn every_order_of_merges_updates_and_results_gives_the_same_person() {
    let catalogue = catalogue();
    let record = r#"{"resourceType":"Patient","id":"old","meta":{"versionId":"1","lastUpdated":"2026-03-01T12:15:00+08:00"},"gender":"male","birthDate":"1966-01-01"}"#;
    let record = fact(&receive::prepare(&catalogue, &catalogue.sites[SITE], record.as_bytes())).clone();
    let facts: Vec<Fact> = vec![
        part_of(&prepared(&adt("A28", 10, &[pid("old")])), "old"),
        record,
        part_of(&prepared(&merge(20, "old", "new")), "old"),
        part_of(&prepared(&adt("A08", 30, &["PID|1||old^^^DEMO^MR||||19660202".to_owned()])), "old"),
        part_of(&prepared(&adt("A37", 40, &[pid("new"), pid("old")])), "old"),
        part_of(&prepared(&creatinine("1", "20260301235900+0800", "old", "F-1", "F", "1.8")), "old"),
    ];
    let mut orders = vec![Vec::new()];
    for fact in 0..facts.len() {
        orders = orders
            .into_iter()
            .flat_map(|order: Vec<usize>| {
                (0..=order.len()).map(move |place| {
                    let mut order = order.clone();
                    order.insert(place, fact);
                    order
                })
            })
            .collect();
    }
    assert_eq!(orders.len(), 720);
    let folded = |order: &[usize]| {
        // Each came twice.
        let facts: Vec<Fact> = order
            .iter()
            .chain(order)
            .enumerate()
            .map(|(message, index)| {
                let mut fact = facts[*index].clone();
                fact.source.message = message as i64;
                fact
            })
            .collect();
        nephrogate::clinical::chart::Chart::fold(facts, &[]).person.map(|person| (person.body, person.is_conflicting))
    };
    let first = folded(&orders[0]).unwrap();
    assert_eq!((first.0.sex, first.0.birth_date.unwrap().to_string().as_str(), first.0.replaced_by.clone()), (Some(Sex::Male), "1966-02-02", None));
    for order in &orders {
        assert_eq!(folded(order).as_ref(), Some(&first), "{order:?}");
    }
    let before_the_undoing: Vec<usize> = orders[0].iter().copied().filter(|index| *index != 4).collect();
    assert_eq!(folded(&before_the_undoing).unwrap().0.replaced_by.as_deref(), Some("new"));
}

#[test]
fn a_record_that_came_by_fhir_is_read_rather_than_what_a_message_stated() {
    on_both(|store| {
        let pipeline = pipeline(store);
        take(&pipeline, &creatinine("1", "20260301120000+0800", "p1", "F-1", "F", "1.8"));
        let newest = |store: &Store| store.read_blocking(|tx| messages::newest(tx, SITE, "Patient", "p1")).unwrap().unwrap();
        assert!(String::from_utf8(newest(store).body.unwrap()).unwrap().contains("urn:nephrogate:hl7-v2"));
        let record = r#"{"resourceType":"Patient","id":"p1","meta":{"versionId":"1","lastUpdated":"2026-03-01T12:00:00Z"},"gender":"female"}"#;
        assert_eq!(take_fhir(&pipeline, record).disposition, Disposition::Applied);
        take(&pipeline, &adt("A08", 59, &[pid("p1")]));
        assert_eq!(newest(store).body.unwrap(), record.as_bytes());
    });
}
