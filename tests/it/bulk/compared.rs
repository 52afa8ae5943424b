//! What is here, compared with an export of everything.

use std::collections::BTreeMap;

use nephrogate::feeds::comparison::Mode;
use nephrogate::feeds::{Round, Task, Trouble};
use nephrogate::pipeline::receive;
use nephrogate::store::comparisons::{self, Kind, Report};
use nephrogate::store::messages;
use serde_json::json;

use super::stub::{Fault, Stub};
use super::{Gateway, PATIENTS, SITE, START_MS, later, person, stub};
use crate::import::observation;

fn compare(gateway: &Gateway, mode: Mode) -> Result<Round, Trouble> {
    gateway.work_at(&Task::Compare { mode, who: String::new() }, START_MS + 1, &|_| {})
}

#[track_caller]
fn report(gateway: &Gateway, mode: Mode) -> Report {
    compare(gateway, mode).unwrap_or_else(|trouble| panic!("{trouble}")).report.unwrap()
}

fn here(gateway: &Gateway, id: &str) -> Option<String> {
    let newest = gateway.pipeline.store.read_blocking(|tx| messages::newest(tx, SITE, "Observation", id)).unwrap();
    newest.map(|message| message.version.unwrap())
}

/// The hospital deletes `o2`, corrects `o3`, exports `o1` no more, and has a result that no export told of.
fn move_on(stub: &Stub) {
    let (of_o1, of_o2) = (observation("o1", "p1", 1.1), observation("o2", "p2", 1.2));
    let corrected = observation("o3", "p3", 7.0).replace("\"versionId\":\"1\"", "\"versionId\":\"2\"");
    let mut world = stub.world();
    let lines: Vec<String> = world.files[2].1.lines().map(str::to_owned).collect();
    let kept = lines.into_iter().filter(|line| *line != of_o1 && *line != of_o2 && !line.contains("\"o3\""));
    let lines: Vec<String> = kept.chain([corrected, observation("late", "p5", 2.0)]).collect();
    world.files[2].1 = lines.join("\n");
    world.by_id = BTreeMap::from([("Observation/o1".to_owned(), of_o1)]);
}

#[test]
fn a_comparison_by_an_export_takes_what_had_not_come_and_withdraws_what_is_gone() {
    let stub = stub([Fault::Busy]);
    let gateway = Gateway::new(&stub.base_url(), &json!({}));
    gateway.round().unwrap();
    let first = report(&gateway, Mode::ReportOnly);
    assert_eq!((first.counts, first.there["Patient"]), (BTreeMap::new(), PATIENTS as u64));
    // The line that is no JSON, and the device that this site does not read.
    assert_eq!(first.not_kept, 2);
    move_on(&stub);
    let before = gateway.held();
    let expected = BTreeMap::from([(Kind::Missing, 1), (Kind::Outdated, 1), (Kind::Deleted, 1), (Kind::Unsearchable, 1)]);
    assert_eq!(report(&gateway, Mode::ReportOnly).counts, expected);
    assert_eq!(gateway.held(), before, "a report changes nothing");
    let state = gateway.state();
    let mended = report(&gateway, Mode::Mend);
    assert_eq!((mended.counts, mended.is_held_back), (expected, false));
    assert_eq!(["o1", "o2", "o3", "late"].map(|id| here(&gateway, id)), [Some("1".into()), None, Some("2".into()), Some("1".into())]);
    assert_eq!(gateway.state().cursor, state.cursor, "the feed's own exports go on as before");
    assert_eq!(report(&gateway, Mode::ReportOnly).counts, BTreeMap::from([(Kind::Unsearchable, 1)]));
    gateway.held();
    let world = stub.world();
    assert!(world.asked.iter().filter(|asked| asked.target.contains("$export")).all(|asked| !asked.target.contains("_since")));
    assert!(world.jobs.is_empty(), "the source is told that each is done with");
}

#[test]
fn an_export_that_breaks_off_withdraws_nothing_and_says_why() {
    for (fault, words) in [
        (Fault::SecondAlwaysCut, "file 2 of 3 of the export (Observation)"),
        (Fault::SecondAlwaysGone, "file 2 of 3 of the export (Observation)"),
        (Fault::Fails, "500"),
    ] {
        let stub = stub([]);
        let gateway = Gateway::new(&stub.base_url(), &json!({}));
        gateway.round().unwrap();
        move_on(&stub);
        stub.world().faults.insert(fault);
        let (told, _) = later(compare(&gateway, Mode::Mend));
        assert!(told.contains(words), "{fault:?}: {told}");
        assert!(here(&gateway, "o2").is_some(), "{fault:?}");
        let kept = gateway.pipeline.store.read_blocking(|tx| comparisons::newest(tx, SITE, super::FEED)).unwrap().unwrap();
        assert_eq!(kept.report.unwrap().trouble, Some(told));
    }
    let stub = stub([Fault::SecondPage]);
    let gateway = Gateway::new(&stub.base_url(), &json!({}));
    assert!(person(compare(&gateway, Mode::Mend)).contains("file 2 of 3"));
    gateway.held();
}

#[test]
fn a_comparison_answers_for_what_other_feeds_brought_where_nobody_else_does() {
    let stub = stub([]);
    let gateway = Gateway::new(&stub.base_url(), &json!({}));
    gateway.round().unwrap();
    let store = &gateway.pipeline.store;
    store.write_blocking(|tx| nephrogate::store::feeds::register(tx, SITE, "poll", "poll", None)).unwrap();
    let site = &gateway.pipeline.catalogue.sites[SITE];
    let prepared = receive::prepare(&gateway.pipeline.catalogue, site, observation("polled", "p1", 1.0).as_bytes());
    receive::receive(&gateway.pipeline, SITE, "poll", START_MS, &[prepared]).unwrap();
    assert_eq!(report(&gateway, Mode::ReportOnly).counts, BTreeMap::from([(Kind::Deleted, 1)]), "gone at the source, whoever brought it");
    // A Group is not everybody: who is not in it is not gone.
    let mut of_group = gateway;
    of_group.change(&json!({"level": "group", "group": "g"}));
    assert_eq!(report(&of_group, Mode::ReportOnly).counts, BTreeMap::new());
    of_group.change(&json!({}));
    // A feed that is compared itself answers for itself.
    let store = &of_group.pipeline.store;
    let compare_poll = |tx: &mut nephrogate::store::Tx<'_>| {
        let comparison = comparisons::begin(tx, SITE, "poll", "", START_MS, START_MS + 1)?.expect("no other one runs");
        comparisons::end(tx, comparison, &Report::default(), START_MS)
    };
    store.write_blocking(compare_poll).unwrap();
    assert_eq!(report(&of_group, Mode::ReportOnly).counts, BTreeMap::new());
}
