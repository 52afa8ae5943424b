//! The store's own laws, each on SQLite and on PostgreSQL.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nephrogate::clinical::chart::Chart;
use nephrogate::clinical::date::PartialDate;
use nephrogate::clinical::fact::{Body, Fact, Measurement, Person, ResourceType, Sex, Source, Status};
use nephrogate::clinical::quantity::{Analyte, Unit};
use nephrogate::issue::{Code, Disposition, Issue};
use nephrogate::store::ledger::{self, Prepared};
use nephrogate::store::outbox::{self, ItemState};
use nephrogate::store::{Store, StoreError, body};
use nephrogate::store::{accesses, messages, schema};
use nephrogate::writeback::{Purpose, WriteBack};

pub const SITE: &str = "here";
pub const FEED: &str = "push";
pub const NOW_MS: i64 = 1_790_000_000_000;

/// Runs one test on an empty store of each kind, and checks that all counts add up afterwards.
pub fn on_both(test: impl Fn(&Store)) {
    on_sqlite(&test);
    on_postgres(&test);
}

pub fn on_sqlite(test: impl Fn(&Store)) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open_sqlite(&folder.path().join("store.db")).unwrap();
    test(&store);
    everything_adds_up(&store);
}

pub fn on_postgres(test: impl Fn(&Store)) {
    let Some(url) = empty_postgres() else { return };
    let store = Store::open_postgres(&url).unwrap();
    test(&store);
    everything_adds_up(&store);
}

/// Conservation at every site that received anything.
pub fn everything_adds_up(store: &Store) {
    let feeds = store.read_blocking(|tx| messages::freshness(tx, None)).unwrap();
    for feed in feeds {
        let counts = store.read_blocking(|tx| messages::conservation(tx, &feed.site)).unwrap();
        assert_eq!(counts.difference, 0, "{counts:?}");
        assert!(counts.rows_agree, "{counts:?}");
    }
}

/// URL of a new, empty database in the cluster of this test run; `None`, loudly, where PostgreSQL is not installed.
pub fn empty_postgres() -> Option<String> {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let port = (*cluster())?;
    let name = format!("store_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let mut client = postgres::Client::connect(&format!("postgres://postgres@127.0.0.1:{port}/postgres"), postgres::NoTls).unwrap();
    client.batch_execute(&format!("CREATE DATABASE {name}")).unwrap();
    Some(format!("postgres://postgres@127.0.0.1:{port}/{name}"))
}

/// Holds the cluster for as long as this process lives: at the end of its standard input it stops its own server and removes its folder.
const KEEPER: &str = r#"set -eu
folder=$(mktemp -d /tmp/nephrogate-postgres.XXXXXX)
trap 'rm -rf "$folder"' EXIT
"$1/initdb" -D "$folder/data" -U postgres --auth=trust --encoding=UTF8 --locale=C --no-sync >/dev/null
"$1/postgres" -D "$folder/data" -p "$2" -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off >"$folder/log" 2>&1 </dev/null &
server=$!
echo started
read -r _ || true
kill -INT "$server"
wait "$server" || true
"#;

fn cluster() -> &'static Option<u16> {
    static CLUSTER: OnceLock<Option<u16>> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        let Some(programs) = postgres_programs() else {
            assert!(
                std::env::var_os("NEPHROGATE_REQUIRE_POSTGRES").is_none_or(|value| value != "1"),
                "NEPHROGATE_REQUIRE_POSTGRES=1 and PostgreSQL is not installed: apt-get install postgresql"
            );
            // Written past the test harness, so that it is seen although the tests pass.
            let _ = writeln!(std::io::stderr(), "SKIPPED: PostgreSQL is not installed, so its half of the store's tests did not run");
            return None;
        };
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        // initdb refuses root.
        let is_root = Command::new("id").arg("-u").output().unwrap().stdout == b"0\n";
        let mut command = if is_root {
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--", "sh"]);
            command
        } else {
            Command::new("sh")
        };
        #[expect(clippy::zombie_processes, reason = "it ends when this process ends: its standard input closes")]
        let mut keeper = command
            .args(["-c", KEEPER, "keeper", &programs, &port.to_string()])
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(keeper.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "started\n", "initdb failed");
        // Its input stays open, and with it the cluster, until this process ends.
        std::mem::forget(keeper.stdin.take());
        let deadline = Instant::now() + Duration::from_secs(60);
        let url = format!("postgres://postgres@127.0.0.1:{port}/postgres");
        while postgres::Client::connect(&url, postgres::NoTls).is_err() {
            assert!(Instant::now() < deadline, "PostgreSQL did not answer within a minute");
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(port)
    })
}

/// The newest installed PostgreSQL's folder of programs.
fn postgres_programs() -> Option<String> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut versions: Vec<u32> = versions.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    versions.sort_unstable();
    let programs = format!("/usr/lib/postgresql/{}/bin", versions.last()?);
    std::path::Path::new(&programs).join("initdb").exists().then_some(programs)
}

/// A creatinine as a mapping would give it; what tells versions apart is the value.
pub fn creatinine(id: &str, version: Option<&str>, subject: &str, status: Status, value: f64) -> Prepared {
    let text = format!(
        "{{\"resourceType\":\"Observation\",\"id\":\"{id}\",\"v\":{version:?},\"subject\":\"{subject}\",\"s\":\"{status:?}\",\"value\":{value}}}"
    );
    let measurement = Measurement {
        analyte: Some(Analyte::Creatinine),
        rank: 0,
        code: "loinc|2160-0".into(),
        effective: PartialDate::parse("2026-01-02T03:04:05Z").ok(),
        value: Some(value),
        unit: Some(Unit::MgPerDl),
        comparator: None,
        value_as_received: value.to_string().into(),
        unit_as_received: "mg/dL".into(),
        reference_low: None,
        reference_high: None,
        equation: None,
        unusable: None,
    };
    message(ResourceType::Observation, id, version, subject, status, Body::Measurement(measurement), text)
}

pub fn patient(id: &str, version: Option<&str>, replaced_by: Option<&str>) -> Prepared {
    let text = format!("{{\"resourceType\":\"Patient\",\"id\":\"{id}\",\"v\":{version:?},\"link\":{replaced_by:?}}}");
    let person = Person {
        sex: Some(Sex::Female),
        birth_date: PartialDate::parse("1960-01-01").ok(),
        deceased: false,
        deceased_at: None,
        is_test: false,
        is_restricted: false,
        replaced_by: replaced_by.map(Into::into),
        replaces: Vec::new(),
    };
    message(ResourceType::Patient, id, version, id, Status::Final, Body::Person(person), text)
}

pub fn message(kind: ResourceType, id: &str, version: Option<&str>, subject: &str, status: Status, body: Body, text: String) -> Prepared {
    let source = Source { resource_type: kind, id: id.into(), version: version.map(Into::into), last_updated_ms: None, message: 0 };
    Prepared {
        resource_type: kind.word().into(),
        id: Some(id.into()),
        version: version.map(Into::into),
        last_updated_ms: None,
        body_hash: format!("hash of {text}"),
        body: body::pack(text.as_bytes()),
        subject: Some(subject.into()),
        fact: Some(Fact { source, key: None, status, issued_ms: None, body }),
        issues: Vec::new(),
        disposition: Disposition::Applied,
        code: None,
        mapping_hash: "mapping-1".into(),
        derived: Vec::new(),
    }
}

pub fn commit(store: &Store, messages: &[Prepared]) -> Vec<ledger::Receipt> {
    store.write_blocking(|tx| ledger::commit(tx, SITE, FEED, NOW_MS, messages)).unwrap()
}

fn ends(store: &Store, messages: &[Prepared]) -> Vec<Disposition> {
    commit(store, messages).into_iter().map(|receipt| receipt.disposition).collect()
}

fn withdraw(store: &Store, kind: &str, id: &str, if_match: Option<&str>) -> Option<ledger::Receipt> {
    let withdrawal =
        ledger::Withdrawal { resource_type: kind.to_owned(), id: id.to_owned(), if_match: if_match.map(str::to_owned), deleted_ms: None };
    store.write_blocking(|tx| ledger::withdraw(tx, SITE, FEED, NOW_MS, &withdrawal)).unwrap()
}

pub fn chart(store: &Store, subject: &str) -> Chart {
    Chart::fold(store.read_blocking(|tx| ledger::facts(tx, SITE, subject)).unwrap().facts, &[])
}

/// The values that stand, lowest first.
fn values(store: &Store, subject: &str) -> Vec<f64> {
    let mut values: Vec<f64> = chart(store, subject).measurements.iter().filter_map(|measurement| measurement.body.value).collect();
    values.sort_by(f64::total_cmp);
    values
}

fn merged_into(store: &Store, subject: &str) -> Option<String> {
    store.read_blocking(|tx| ledger::facts(tx, SITE, subject)).unwrap().merged_into
}

fn waiting(store: &Store) -> Vec<String> {
    let waiting = store.read_blocking(|tx| ledger::waiting(tx, 1000)).unwrap();
    waiting.into_iter().map(|(_, subject)| subject).collect()
}

#[test]
fn the_same_bytes_twice_are_one_message() {
    on_both(|store| {
        let first = creatinine("o1", Some("1"), "p1", Status::Final, 1.0);
        let receipts = commit(store, &[first.clone(), first.clone()]);
        assert_eq!(receipts[0].disposition, Disposition::Applied);
        assert_eq!(receipts[1].disposition, Disposition::Duplicate);
        assert_eq!(receipts[1].message, receipts[0].message, "a duplicate names the message that was here first");
        assert_eq!(ends(store, &[first]), [Disposition::Duplicate]);
        assert_eq!(values(store, "p1"), [1.0]);
        assert_eq!(waiting(store), ["p1"]);
    });
}

#[test]
fn received_bytes_are_kept_as_they_came() {
    on_both(|store| {
        let text = "{\"resourceType\" :\"Observation\",  \"id\":\"o1\", \"value\": 1.0e2}".to_owned();
        let prepared = message(ResourceType::Observation, "o1", None, "p1", Status::Final, Body::Nothing, text.clone());
        let number = commit(store, &[prepared])[0].message.unwrap();
        let kept = store.read_blocking(|tx| messages::message(tx, SITE, number)).unwrap().unwrap();
        assert_eq!(kept.body.as_deref(), Some(text.as_bytes()));
        assert_eq!(kept.mapping_hash, "mapping-1");
        assert!(store.read_blocking(|tx| messages::message(tx, "elsewhere", number)).unwrap().is_none(), "another site's number leads nowhere");
    });
}

#[test]
fn a_newer_version_counts_and_an_older_that_comes_late_is_superseded() {
    on_both(|store| {
        let one = creatinine("o1", Some("1"), "p1", Status::Final, 1.0);
        let two = creatinine("o1", Some("2"), "p1", Status::Corrected, 2.0);
        let ten = creatinine("o1", Some("10"), "p1", Status::Corrected, 3.0);
        assert_eq!(ends(store, &[two]), [Disposition::Applied]);
        assert_eq!(ends(store, &[ten, one]), [Disposition::Applied, Disposition::Superseded]);
        assert_eq!(values(store, "p1"), [3.0]);
    });
}

#[test]
fn the_same_version_with_another_content_is_quarantined_and_the_earlier_stays() {
    on_both(|store| {
        let one = creatinine("o1", Some("1"), "p1", Status::Final, 1.0);
        let other = creatinine("o1", Some("1"), "p1", Status::Final, 9.0);
        commit(store, &[one]);
        let receipt = commit(store, std::slice::from_ref(&other)).remove(0);
        assert_eq!(receipt.disposition, Disposition::Quarantined);
        assert_eq!(receipt.issues[0].code, Code::VersionConflict);
        assert_eq!(values(store, "p1"), [1.0]);
        assert_eq!(ends(store, &[other]), [Disposition::Duplicate]);
        let (quarantined, total) = store.read_blocking(|tx| messages::quarantine(tx, SITE, 0)).unwrap();
        assert_eq!((quarantined.len(), total), (1, 1));
        assert!(quarantined[0].body.is_some(), "the bytes of both are kept");
    });
}

#[test]
fn six_versions_give_one_chart_in_each_of_their_720_orders() {
    let versions = [
        creatinine("o1", Some("1"), "p1", Status::Preliminary, 1.0),
        creatinine("o1", Some("2"), "p1", Status::Final, 2.0),
        creatinine("o1", Some("3"), "p2", Status::Corrected, 3.0),
        creatinine("o1", Some("4"), "p1", Status::Amended, 4.0),
        creatinine("o1", Some("5"), "p2", Status::EnteredInError, 5.0),
        creatinine("o1", Some("6"), "p1", Status::Corrected, 6.0),
    ];
    let orders = orders_of(versions.len());
    assert_eq!(orders.len(), 720);
    let check = |store: &Store, orders: &[Vec<usize>]| {
        for (number, order) in orders.iter().enumerate() {
            // One resource and two subjects per order, each message in a transaction of its own, every third one twice.
            let rename = |prepared: &Prepared| {
                let mut prepared = prepared.clone();
                prepared.id = Some(format!("o{number}"));
                prepared.subject = prepared.subject.map(|subject| format!("{subject}-{number}").into());
                prepared.fact.as_mut().unwrap().source.id = format!("o{number}").into();
                prepared
            };
            for (place, version) in order.iter().enumerate() {
                let prepared = rename(&versions[*version]);
                commit(store, std::slice::from_ref(&prepared));
                if place % 3 == 0 {
                    commit(store, &[prepared]);
                }
            }
            assert_eq!(values(store, &format!("p1-{number}")), [6.0], "{order:?}");
            assert_eq!(values(store, &format!("p2-{number}")), [0.0; 0], "{order:?}");
        }
    };
    on_sqlite(|store| check(store, &orders));
    let sample: Vec<Vec<usize>> = orders.iter().step_by(37).cloned().collect();
    on_postgres(|store| check(store, &sample));
}

/// Every order of `0..count`.
pub fn orders_of(count: usize) -> Vec<Vec<usize>> {
    if count == 0 {
        return vec![Vec::new()];
    }
    let mut orders = Vec::new();
    for shorter in orders_of(count - 1) {
        for place in 0..count {
            let mut order = shorter.clone();
            order.insert(place, count - 1);
            orders.push(order);
        }
    }
    orders
}

#[test]
fn a_result_that_moves_to_another_subject_leaves_the_first_chart_in_both_orders() {
    on_both(|store| {
        commit(store, &[creatinine("o1", Some("1"), "p1", Status::Final, 1.0)]);
        commit(store, &[creatinine("o1", Some("2"), "p2", Status::Corrected, 1.0)]);
        assert_eq!((values(store, "p1"), values(store, "p2")), (vec![], vec![1.0]));
        assert_eq!(waiting(store), ["p1", "p2"]);
        commit(store, &[creatinine("o2", Some("2"), "p4", Status::Corrected, 2.0)]);
        commit(store, &[creatinine("o2", Some("1"), "p3", Status::Final, 2.0)]);
        assert_eq!((values(store, "p3"), values(store, "p4")), (vec![], vec![2.0]));
    });
}

#[test]
fn a_newer_version_that_nobody_can_read_retires_the_older() {
    on_both(|store| {
        let mut lost = creatinine("o1", Some("2"), "p1", Status::Final, 2.0);
        lost.subject = None;
        lost.fact = None;
        lost.disposition = Disposition::Quarantined;
        lost.issues = vec![Issue::new(Code::IdentityMissing, "Observation.subject")];
        commit(store, &[creatinine("o1", Some("1"), "p1", Status::Final, 1.0)]);
        assert_eq!(ends(store, std::slice::from_ref(&lost)), [Disposition::Quarantined]);
        assert_eq!(values(store, "p1"), [0.0; 0]);
        // The other way round.
        let mut lost = lost;
        lost.id = Some("o2".into());
        commit(store, &[lost]);
        assert_eq!(ends(store, &[creatinine("o2", Some("1"), "p1", Status::Final, 1.0)]), [Disposition::Superseded]);
        assert_eq!(values(store, "p1"), [0.0; 0]);
    });
}

#[test]
fn a_result_that_became_out_of_scope_leaves_the_chart() {
    on_both(|store| {
        let mut gone = creatinine("o1", Some("2"), "p1", Status::Final, 2.0);
        gone.fact = None;
        gone.disposition = Disposition::OutOfScope;
        gone.code = Some("loinc|0000-0".into());
        commit(store, &[creatinine("o1", Some("1"), "p1", Status::Final, 1.0)]);
        assert_eq!(ends(store, &[gone.clone(), gone.clone()]), [Disposition::OutOfScope, Disposition::Duplicate]);
        assert_eq!(values(store, "p1"), [0.0; 0]);
        // A history shows the newest version first.
        gone.id = Some("o2".into());
        assert_eq!(ends(store, &[gone, creatinine("o2", Some("1"), "p1", Status::Final, 1.0)]), [Disposition::OutOfScope, Disposition::Superseded]);
        assert_eq!(values(store, "p1"), [0.0; 0]);
    });
}

#[test]
fn a_delete_withdraws_what_is_held_and_late_older_versions_and_a_newer_one_restores() {
    on_both(|store| {
        assert!(withdraw(store, "Observation", "o1", None).is_none(), "nothing is known of it");
        commit(store, &[creatinine("o1", Some("3"), "p1", Status::Final, 3.0)]);
        assert_eq!(withdraw(store, "Observation", "o1", None).unwrap().disposition, Disposition::Applied);
        assert_eq!(values(store, "p1"), [0.0; 0]);
        assert_eq!(withdraw(store, "Observation", "o1", None).unwrap().disposition, Disposition::Duplicate);
        assert!(store.read_blocking(|tx| messages::newest(tx, SITE, "Observation", "o1")).unwrap().is_none());
        assert_eq!(ends(store, &[creatinine("o1", Some("2"), "p1", Status::Final, 2.0)]), [Disposition::Superseded]);
        assert_eq!(ends(store, &[creatinine("o1", Some("3"), "p1", Status::Final, 3.0)]), [Disposition::Duplicate]);
        assert_eq!(values(store, "p1"), [0.0; 0]);
        assert_eq!(ends(store, &[creatinine("o1", Some("4"), "p1", Status::Final, 4.0)]), [Disposition::Applied]);
        assert_eq!(values(store, "p1"), [4.0]);
        let newest = store.read_blocking(|tx| messages::newest(tx, SITE, "Observation", "o1")).unwrap().unwrap();
        assert_eq!(newest.version.as_deref(), Some("4"));
        // Up to a version: what is newer stays.
        assert_eq!(withdraw(store, "Observation", "o1", Some("3")).unwrap().disposition, Disposition::Duplicate);
        withdraw(store, "Observation", "o1", Some("2")).unwrap();
        assert_eq!(values(store, "p1"), [4.0]);
    });
}

#[test]
fn a_delete_that_names_its_version_holds_for_what_comes_after_it() {
    on_both(|store| {
        assert!(withdraw(store, "Observation", "o1", None).is_none(), "of what was never here nothing is known to withdraw");
        let receipt = withdraw(store, "Observation", "o1", Some("2")).unwrap();
        assert_eq!((receipt.disposition, receipt.subject), (Disposition::Applied, None));
        assert_eq!(withdraw(store, "Observation", "o1", Some("2")).unwrap().disposition, Disposition::Duplicate);
        let version = |number: &str, value| creatinine("o1", Some(number), "p1", Status::Final, value);
        assert_eq!(ends(store, &[version("1", 1.0), version("2", 2.0)]), [Disposition::Superseded, Disposition::Superseded]);
        assert_eq!(values(store, "p1"), [0.0; 0]);
        assert_eq!(ends(store, &[version("3", 3.0)]), [Disposition::Applied]);
        assert_eq!(values(store, "p1"), [3.0]);
    });
}

#[test]
fn one_version_in_other_bytes_is_a_duplicate_where_it_says_the_same() {
    on_both(|store| {
        let one = creatinine("o1", Some("1"), "p1", Status::Final, 2.1);
        let mut otherwise = one.clone();
        otherwise.body_hash = "hash of the same with blanks".into();
        let Some(Fact { body: Body::Measurement(measurement), .. }) = &mut otherwise.fact else { unreachable!() };
        measurement.value_as_received = "2.10".into();
        assert_eq!(ends(store, &[one, otherwise.clone()]), [Disposition::Applied, Disposition::Duplicate]);
        assert_eq!(ends(store, &[otherwise.clone()]), [Disposition::Duplicate], "and when it comes later");
        let Some(Fact { body: Body::Measurement(measurement), .. }) = &mut otherwise.fact else { unreachable!() };
        measurement.value = Some(2.2);
        otherwise.body_hash = "hash of another value".into();
        assert_eq!(ends(store, &[otherwise]), [Disposition::Quarantined]);
        assert_eq!(values(store, "p1"), [2.1]);
    });
}

#[test]
fn without_numbers_and_times_of_update_the_content_says_what_is_late_and_what_a_delete_takes() {
    on_both(|store| {
        let issued = |at: i64, value: f64| {
            let mut message = creatinine("o1", None, "p1", Status::Final, value);
            message.fact.as_mut().unwrap().issued_ms = Some(NOW_MS + at);
            message
        };
        assert_eq!(ends(store, &[issued(2, 2.0), issued(1, 1.0)]), [Disposition::Applied, Disposition::Superseded], "as the chart has it");
        assert_eq!(values(store, "p1"), [2.0]);
        withdraw(store, "Observation", "o1", None).unwrap();
        assert_eq!(values(store, "p1"), [0.0; 0], "the newest is taken back, not the last that came");
        assert_eq!(ends(store, &[issued(3, 3.0)]), [Disposition::Applied]);
        assert_eq!(values(store, "p1"), [3.0]);
    });
}

#[test]
fn merged_records_are_one_chart_and_part_again() {
    on_both(|store| {
        commit(store, &[patient("a", Some("1"), None), patient("b", Some("1"), None), patient("c", Some("1"), None)]);
        commit(store, &[creatinine("oa", Some("1"), "a", Status::Final, 1.0), creatinine("ob", Some("1"), "b", Status::Final, 2.0)]);
        store.write_blocking(|tx| tx_clear_waiting(tx, &["a", "b", "c"])).unwrap();
        commit(store, &[patient("a", Some("2"), Some("b"))]);
        assert_eq!(waiting(store), ["a", "b"], "both are judged again");
        commit(store, &[patient("b", Some("2"), Some("c"))]);
        assert_eq!(values(store, "c"), [1.0, 2.0], "through two merges");
        assert_eq!(chart(store, "c").person.unwrap().source.id, "c", "the surviving record says who it is");
        assert_eq!((merged_into(store, "a"), merged_into(store, "b"), merged_into(store, "c")), (Some("c".into()), Some("c".into()), None));
        store.write_blocking(|tx| tx_clear_waiting(tx, &["a", "b", "c"])).unwrap();
        commit(store, &[creatinine("oa2", Some("1"), "a", Status::Final, 3.0)]);
        assert_eq!(waiting(store), ["a", "b", "c"], "a late result of a merged record reopens the survivor");
        assert_eq!(values(store, "c"), [1.0, 2.0, 3.0]);
        commit(store, &[patient("a", Some("3"), None)]);
        assert_eq!((values(store, "a"), values(store, "c")), (vec![1.0, 3.0], vec![2.0]), "unmerged");
        withdraw(store, "Patient", "b", None).unwrap();
        assert_eq!((merged_into(store, "b"), values(store, "c")), (None, vec![]), "a deleted record is merged into nobody");
    });
}

/// As a judgement would.
fn tx_clear_waiting(tx: &mut nephrogate::store::Tx<'_>, subjects: &[&str]) -> Result<(), nephrogate::store::StoreError> {
    for subject in subjects {
        let revision = ledger::facts(tx, SITE, subject)?.revision;
        let judged = nephrogate::store::screening::Judged {
            site: SITE.into(),
            subject: (*subject).into(),
            revision,
            mapping_hash: "mapping-1".into(),
            verdicts: Vec::new(),
            plans: Vec::new(),
        };
        assert!(nephrogate::store::screening::record(tx, NOW_MS, &judged)?);
    }
    Ok(())
}

#[test]
fn records_that_name_each_other_are_not_merged_and_the_message_that_closes_the_ring_says_so() {
    on_both(|store| {
        commit(store, &[patient("a", Some("1"), Some("b")), patient("c", Some("1"), Some("a"))]);
        let receipt = commit(store, &[patient("b", Some("1"), Some("a"))]).remove(0);
        assert_eq!(receipt.disposition, Disposition::Quarantined);
        assert_eq!(receipt.issues[0].code, Code::MergeCycle);
        assert_eq!((merged_into(store, "a"), merged_into(store, "b")), (None, None));
        assert_eq!(merged_into(store, "c"), Some("a".into()));
        let itself = commit(store, &[patient("d", Some("1"), Some("d"))]).remove(0);
        assert_eq!(itself.issues[0].code, Code::MergeCycle);
        // The EHR mends one end: the other merges.
        commit(store, &[patient("a", Some("2"), None)]);
        assert_eq!((merged_into(store, "a"), merged_into(store, "b"), merged_into(store, "c")), (None, Some("a".into()), Some("a".into())));
    });
}

#[test]
fn what_is_refused_leaves_its_hash_and_reason_and_no_bytes() {
    on_both(|store| {
        let mut refused = creatinine("o1", Some("1"), "p1", Status::Final, 1.0);
        refused.disposition = Disposition::Rejected;
        refused.issues = vec![Issue::new(Code::NotJson, "").with_detail("line 17")];
        refused.fact = None;
        let receipts = commit(store, &[refused.clone(), refused]);
        assert!(receipts.iter().all(|receipt| receipt.disposition == Disposition::Rejected), "a refusal is never a duplicate that was taken");
        let kept = store.read_blocking(|tx| messages::message(tx, SITE, receipts[0].message.unwrap())).unwrap().unwrap();
        assert_eq!((kept.body, kept.issues[0].detail.as_deref()), (None, Some("line 17")));
        assert!(waiting(store).is_empty());
    });
}

#[test]
fn a_batch_ends_as_the_same_messages_one_by_one() {
    // Ids, versions and subjects drawn from few, so that versions, moves, merges and repeats meet in one batch.
    let mut seed = 7_u64;
    let mut draw = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let messages: Vec<Prepared> = (0..300)
        .map(|_| {
            let (id, version, subject) = (draw(12), draw(5), draw(4));
            if draw(6) == 0 {
                let link = (draw(2) == 0).then(|| format!("p{}", draw(4)));
                return patient(&format!("p{subject}"), Some(&version.to_string()), link.as_deref());
            }
            let status = [Status::Preliminary, Status::Final, Status::Corrected, Status::EnteredInError][draw(4) as usize];
            creatinine(&format!("o{id}"), Some(&version.to_string()), &format!("p{subject}"), status, draw(3) as f64)
        })
        .collect();
    let ends_of = |store: &Store, chunk: usize| {
        let receipts: Vec<_> = messages.chunks(chunk).flat_map(|chunk| commit(store, chunk)).collect();
        let outcomes: Vec<_> = receipts.iter().map(|receipt| (receipt.disposition, receipt.message, receipt.issues.clone())).collect();
        let charts: Vec<_> = (0..4).map(|subject| chart(store, &format!("p{subject}"))).collect();
        let merged: Vec<_> = (0..4).map(|subject| merged_into(store, &format!("p{subject}"))).collect();
        (outcomes, charts, merged)
    };
    let alone = std::cell::RefCell::new(None);
    on_both(|store| {
        let ended = ends_of(store, 1);
        assert_eq!(alone.borrow_mut().get_or_insert_with(|| ended.clone()), &ended, "both databases agree");
    });
    for chunk in [7, 300] {
        on_both(|store| assert_eq!(alone.borrow().as_ref(), Some(&ends_of(store, chunk)), "in batches of {chunk}"));
    }
}

#[test]
fn what_fails_or_panics_in_a_transaction_leaves_nothing_behind() {
    on_both(|store| {
        let message = [creatinine("o1", Some("1"), "p1", Status::Final, 1.0)];
        let failed = store.write_blocking(|tx| {
            ledger::commit(tx, SITE, FEED, NOW_MS, &message)?;
            Err::<(), _>(StoreError::Retry("made to fail".into()))
        });
        assert!(matches!(failed, Err(StoreError::Retry(_))));
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            store.write_blocking(|tx| -> Result<(), StoreError> {
                ledger::commit(tx, SITE, FEED, NOW_MS, &message)?;
                std::panic::panic_any("made to panic")
            })
        }));
        assert!(panicked.is_err());
        assert!(waiting(store).is_empty());
        assert_eq!(ends(store, &message), [Disposition::Applied], "and the store goes on");
    });
}

#[test]
fn two_writers_of_the_same_message_make_one() {
    on_both(|store| {
        for number in 0..20 {
            let message = [creatinine(&format!("o{number}"), Some("1"), "p1", Status::Final, 1.0)];
            let mut ends: Vec<Disposition> = std::thread::scope(|scope| {
                let writers: Vec<_> = (0..4).map(|_| scope.spawn(|| ends(store, &message)[0])).collect();
                writers.into_iter().map(|writer| writer.join().unwrap()).collect()
            });
            ends.sort();
            assert_eq!(ends, [Disposition::Applied, Disposition::Duplicate, Disposition::Duplicate, Disposition::Duplicate]);
        }
    });
}

#[test]
fn a_mended_mapping_redrives_what_was_quarantined_and_the_earlier_outcome_stays_known() {
    on_both(|store| {
        let good = creatinine("o1", Some("1"), "p1", Status::Final, 1.0);
        let mut unread = good.clone();
        unread.disposition = Disposition::Quarantined;
        unread.issues = vec![Issue::new(Code::UnitUnmapped, "Observation.valueQuantity.unit")];
        unread.code = Some("loinc|2160-0".into());
        unread.fact.as_mut().unwrap().body = Body::Nothing;
        let number = commit(store, &[unread.clone()])[0].message.unwrap();
        assert_eq!(values(store, "p1"), [0.0; 0]);
        store.write_blocking(|tx| tx_clear_waiting(tx, &["p1"])).unwrap();

        let mut mended = good.clone();
        mended.mapping_hash = "mapping-2".into();
        let receipt = store.write_blocking(|tx| ledger::redrive(tx, SITE, number, NOW_MS, &mended)).unwrap();
        assert_eq!((receipt.disposition, receipt.message), (Disposition::Applied, Some(number)));
        assert_eq!(values(store, "p1"), [1.0]);
        assert_eq!(waiting(store), ["p1"]);
        let kept = store.read_blocking(|tx| messages::message(tx, SITE, number)).unwrap().unwrap();
        assert_eq!((kept.disposition.as_str(), kept.mapping_hash.as_str(), kept.issues.len()), ("applied", "mapping-2", 0));
        let again = store.write_blocking(|tx| ledger::redrive(tx, SITE, number, NOW_MS, &unread)).unwrap();
        assert_eq!(again.disposition, Disposition::Applied, "only what is quarantined is driven anew");
        let history = store.read_blocking(|tx| messages::outcomes(tx, SITE, number)).unwrap();
        assert_eq!(history.len(), 1);
        assert_eq!((history[0].disposition.as_str(), history[0].mapping_hash.as_str()), ("quarantined", "mapping-1"));
        assert_eq!(history[0].issues[0].code, Code::UnitUnmapped);
        let counts = store.read_blocking(|tx| messages::conservation(tx, SITE)).unwrap();
        assert_eq!((counts.received, counts.dispositions["applied"], counts.dispositions["quarantined"]), (1, 1, 0));
    });
}

#[test]
fn the_same_bytes_under_a_mended_mapping_redrive_the_message_that_is_kept() {
    on_both(|store| {
        let good = creatinine("o1", Some("1"), "p1", Status::Final, 1.0);
        let mut unread = good.clone();
        unread.disposition = Disposition::Quarantined;
        unread.issues = vec![Issue::new(Code::UnitUnmapped, "Observation.valueQuantity.unit")];
        unread.fact.as_mut().unwrap().body = Body::Nothing;
        commit(store, &[unread.clone(), creatinine("o2", Some("1"), "p1", Status::Final, 5.0)]);
        assert_eq!(ends(store, &[unread]), [Disposition::Duplicate]);
        let mut mended = good;
        mended.mapping_hash = "mapping-2".into();
        assert_eq!(ends(store, &[mended.clone(), mended]), [Disposition::Duplicate, Disposition::Duplicate]);
        assert_eq!(values(store, "p1"), [1.0, 5.0]);
    });
}

#[test]
fn a_store_of_the_first_version_is_brought_up_to_date_and_used() {
    const FIRST: &str = include_str!("../../src/store/schema/1.sql");
    const META: &str = "CREATE TABLE meta (name TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL); INSERT INTO meta VALUES ('schema', '1');
        INSERT INTO feeds VALUES ('here', 'push', 1, 0);";
    let works = |store: &Store| {
        assert_eq!(store.read_blocking(|tx| messages::freshness(tx, None)).unwrap()[0].last_received_ms, 1, "what was there stays");
        assert_eq!(ends(store, &[creatinine("o1", Some("1"), "p1", Status::Final, 1.8)]), [Disposition::Applied]);
        enqueue(store, "p1", false, &[flag("key", "one")]);
        assert_eq!(claim(store, NOW_MS, 10).len(), 1);
        everything_adds_up(store);
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    rusqlite::Connection::open(&path).unwrap().execute_batch(&format!("{}{META}", schema::for_sqlite(FIRST))).unwrap();
    works(&Store::open_sqlite(&path).unwrap());
    if let Some(url) = empty_postgres() {
        postgres::Client::connect(&url, postgres::NoTls).unwrap().batch_execute(&format!("{}{META}", schema::for_postgres(FIRST))).unwrap();
        works(&Store::open_postgres(&url).unwrap());
    }
}

#[test]
fn a_store_of_a_newer_program_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    drop(Store::open_sqlite(&path).unwrap());
    rusqlite::Connection::open(&path).unwrap().execute("UPDATE meta SET value = '99' WHERE name = 'schema'", []).unwrap();
    let refused = Store::open_sqlite(&path).err().unwrap().to_string();
    assert!(refused.contains("schema version 99"), "{refused}");
    if let Some(url) = empty_postgres() {
        drop(Store::open_postgres(&url).unwrap());
        postgres::Client::connect(&url, postgres::NoTls).unwrap().batch_execute("UPDATE meta SET value = '99' WHERE name = 'schema'").unwrap();
        assert!(Store::open_postgres(&url).err().unwrap().to_string().contains("schema version 99"));
    }
}

#[test]
fn a_store_is_fsynced_private_and_closes_into_one_file() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let store = Store::open_sqlite(&path).unwrap();
    commit(&store, &[creatinine("o1", Some("1"), "p1", Status::Final, 1.0)]);
    for file in ["store.db", "store.db-wal"] {
        assert_eq!(std::fs::metadata(folder.path().join(file)).unwrap().permissions().mode() & 0o077, 0, "{file} is for its owner alone");
    }
    drop(store);
    assert!(!folder.path().join("store.db-wal").exists(), "a clean close leaves nothing to be recovered");
}

#[test]
fn a_backup_made_during_writes_is_whole_and_restores() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open_sqlite(&folder.path().join("store.db")).unwrap();
    let copy = folder.path().join("copy.db");
    let is_over = std::sync::atomic::AtomicBool::new(false);
    commit(&store, &[creatinine("first", Some("1"), "p1", Status::Final, 1.0)]);
    let written = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut number = 0;
            while !is_over.load(Ordering::Relaxed) || number < 20 {
                commit(&store, &[creatinine(&format!("o{number}"), Some("1"), &format!("p{number}"), Status::Final, 1.0)]);
                number += 1;
            }
            number
        });
        store.backup(&copy).unwrap();
        is_over.store(true, Ordering::Relaxed);
        writer.join().unwrap()
    });
    assert!(store.backup(&copy).is_err(), "a backup never overwrites");
    let restored = Store::open_sqlite(&copy).unwrap();
    everything_adds_up(&restored);
    let received = restored.read_blocking(|tx| messages::conservation(tx, SITE)).unwrap().received;
    assert!((1..=written + 1).contains(&received), "{received} of {written}");
    assert_eq!(ends(&restored, &[creatinine("first", Some("1"), "p1", Status::Final, 1.0)]), [Disposition::Duplicate], "and it goes on");
    drop(store);
    let store = Store::open_sqlite(&folder.path().join("store.db")).unwrap();
    let again = folder.path().join("again.db");
    store.backup(&again).unwrap();
    let counts = |store: &Store| store.read_blocking(|tx| messages::conservation(tx, SITE)).unwrap();
    assert_eq!(counts(&Store::open_sqlite(&again).unwrap()), counts(&store), "a backup of a quiet store has the same counts");
}

#[test]
fn who_looked_is_recorded() {
    on_both(|store| {
        store.write_blocking(|tx| accesses::record(tx, NOW_MS, "screener-1", "read", SITE, "p1", "study-1")).unwrap();
        let accesses = store.read_blocking(|tx| accesses::of_subject(tx, SITE, "p1")).unwrap();
        assert_eq!((accesses.len(), accesses[0].who.as_str(), accesses[0].action.as_str()), (1, "screener-1", "read"));
    });
}

/// A request as a plan would make it.
fn request(key: &str, resource_type: &str, order: i32, purpose: Purpose, body: &str) -> WriteBack {
    WriteBack {
        key: key.into(),
        resource_type: resource_type.into(),
        purpose,
        order,
        method: "PUT".into(),
        url: format!("{resource_type}/{key}"),
        headers: Vec::new(),
        body: body.into(),
        body_hash: format!("hash of {body}"),
        search: format!("identifier=system|{key}"),
        rung: "flag".into(),
        form: Default::default(),
        left_out: Vec::new(),
    }
}

fn flag(key: &str, body: &str) -> WriteBack {
    request(key, "Flag", 1, Purpose::Annotate, body)
}

fn enqueue(store: &Store, subject: &str, shadow: bool, requests: &[WriteBack]) {
    store.write_blocking(|tx| outbox::enqueue(tx, SITE, subject, "study-1", shadow, NOW_MS, requests)).unwrap();
}

fn claim(store: &Store, now_ms: i64, limit: usize) -> Vec<outbox::Claimed> {
    store.write_blocking(|tx| outbox::claim(tx, SITE, now_ms, now_ms + 1000, limit)).unwrap()
}

fn finish(store: &Store, claimed: &outbox::Claimed, now_ms: i64, state: ItemState) -> bool {
    let outcome = outbox::Outcome {
        state,
        next_attempt_ms: now_ms,
        status: Some(200),
        error: None,
        server_id: (state == ItemState::Confirmed).then(|| "at-the-server".into()),
        server_version: None,
    };
    store.write_blocking(|tx| outbox::finish(tx, claimed, now_ms, &outcome)).unwrap()
}

/// Key, body and state of every item, oldest first.
fn items(store: &Store) -> Vec<(String, String, ItemState)> {
    let items = store.read_blocking(|tx| outbox::list(tx, Some(SITE), None)).unwrap();
    items.into_iter().map(|item| (item.request.key, item.request.body, item.state)).collect()
}

#[test]
fn two_senders_never_claim_the_same_item() {
    on_both(|store| {
        let requests: Vec<WriteBack> = (0..60).map(|number| flag(&format!("k{number}"), "b")).collect();
        enqueue(store, "p1", false, &requests);
        let mut claimed: Vec<i64> = std::thread::scope(|scope| {
            let senders: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let mut mine = Vec::new();
                        loop {
                            let some = claim(store, NOW_MS, 7);
                            if some.is_empty() {
                                return mine;
                            }
                            mine.extend(some.into_iter().map(|claimed| claimed.item.id));
                        }
                    })
                })
                .collect();
            senders.into_iter().flat_map(|sender| sender.join().unwrap()).collect()
        });
        claimed.sort_unstable();
        let all = claimed.len();
        claimed.dedup();
        assert_eq!(claimed.len(), all, "an item was claimed twice");
        // A sender that met another's claim may have come away with fewer than were due; what is left is claimed now.
        assert_eq!(all + claim(store, NOW_MS, 100).len(), 60);
    });
}

#[test]
fn a_lease_that_ended_is_taken_over_and_its_first_holder_can_no_longer_finish() {
    on_both(|store| {
        enqueue(store, "p1", false, &[flag("k", "b")]);
        let first = claim(store, NOW_MS, 10).remove(0);
        assert!(claim(store, NOW_MS + 999, 10).is_empty());
        let second = claim(store, NOW_MS + 1000, 10).remove(0);
        assert!(!finish(store, &first, NOW_MS + 1001, ItemState::Sent), "fenced off");
        assert!(finish(store, &second, NOW_MS + 1002, ItemState::Sent));
        assert!(!finish(store, &second, NOW_MS + 1003, ItemState::Confirmed), "the lease went back with the first outcome");
        let third = claim(store, NOW_MS + 1003, 10).remove(0);
        assert_eq!((third.item.state, third.item.attempts), (ItemState::Sent, 1), "waits for its read-back");
        assert!(finish(store, &third, NOW_MS + 1004, ItemState::Confirmed));
        assert!(claim(store, NOW_MS + 9999, 10).is_empty());
    });
}

#[test]
fn a_newer_plan_overtakes_and_the_same_plan_adds_nothing() {
    on_both(|store| {
        enqueue(store, "p1", false, &[flag("k", "one")]);
        enqueue(store, "p1", false, &[flag("k", "one")]);
        assert_eq!(items(store).len(), 1);
        enqueue(store, "p1", false, &[flag("k", "two")]);
        assert_eq!(items(store), [("k".into(), "one".into(), ItemState::Superseded), ("k".into(), "two".into(), ItemState::Planned)]);
        // In somebody's hands: overtaken at once, and the newer waits until the lease ends.
        let in_flight = claim(store, NOW_MS, 10).remove(0);
        enqueue(store, "p1", false, &[flag("k", "three")]);
        assert!(claim(store, NOW_MS + 1, 10).is_empty(), "one at a time of one key");
        assert!(finish(store, &in_flight, NOW_MS + 2, ItemState::Sent));
        let newer = claim(store, NOW_MS + 3, 10).remove(0);
        assert_eq!(newer.item.request.body, "three");
        assert!(finish(store, &newer, NOW_MS + 4, ItemState::Sent));
        let newer = claim(store, NOW_MS + 5, 10).remove(0);
        assert!(finish(store, &newer, NOW_MS + 6, ItemState::Confirmed));
        enqueue(store, "p1", false, &[flag("k", "three")]);
        assert_eq!(items(store).len(), 3, "what is confirmed is not planned again");
        let written = store.read_blocking(|tx| outbox::written(tx, SITE, "p1", "study-1")).unwrap();
        assert_eq!(written.len(), 1);
        assert_eq!((written[0].body.as_str(), written[0].is_standing, written[0].server_id.as_deref()), ("three", true, Some("at-the-server")));
    });
}

#[test]
fn a_retraction_goes_first_and_of_what_was_never_sent_there_is_none() {
    on_both(|store| {
        let retract = |key: &str| request(key, "Flag", 1, Purpose::Retract, "inactive");
        enqueue(store, "p1", false, &[flag("never", "b"), flag("sent", "b")]);
        enqueue(store, "p1", true, &[flag("shadow", "b")]);
        for claimed in claim(store, NOW_MS, 10) {
            if claimed.item.request.key == "sent" {
                assert!(finish(store, &claimed, NOW_MS, ItemState::Sent));
            } else {
                assert!(store.write_blocking(|tx| outbox::supersede(tx, claimed.item.id)).unwrap());
            }
        }
        enqueue(store, "p1", false, &[flag("untouched", "b"), flag("other", "b")]);
        enqueue(store, "p1", true, &[retract("untouched"), retract("shadow"), retract("sent")]);
        let state_of = |key: &str| items(store).into_iter().filter(|item| item.0 == key).map(|item| item.2).collect::<Vec<_>>();
        assert_eq!(state_of("untouched"), [ItemState::Superseded]);
        assert_eq!(state_of("shadow"), [ItemState::Superseded]);
        assert_eq!(state_of("sent"), [ItemState::Superseded, ItemState::Planned], "a retraction is planned in shadow too");
        let due: Vec<String> = claim(store, NOW_MS + 5000, 10).into_iter().map(|claimed| claimed.item.request.key).collect();
        assert_eq!(due, ["sent", "other"]);
    });
}

#[test]
fn what_others_refer_to_goes_before_them() {
    on_both(|store| {
        let study = request("s", "ResearchStudy", 0, Purpose::Annotate, "b");
        enqueue(store, "p1", false, &[flag("f1", "b"), study.clone(), request("e", "Observation", 2, Purpose::Annotate, "b")]);
        enqueue(store, "p2", false, &[study, flag("f2", "b")]);
        let mut sent = Vec::new();
        loop {
            let due = claim(store, NOW_MS, 10);
            if due.is_empty() {
                break;
            }
            let keys: Vec<String> = due.iter().map(|claimed| claimed.item.request.key.clone()).collect();
            for claimed in &due {
                assert!(finish(store, claimed, NOW_MS, ItemState::Confirmed));
            }
            sent.push(keys);
        }
        assert_eq!(sent, [vec!["s"], vec!["f1", "f2"], vec!["e"]], "the study once, for both subjects");
    });
}

#[test]
fn shadow_waits_for_a_named_person() {
    on_both(|store| {
        enqueue(store, "p1", true, &[flag("k", "b")]);
        assert!(claim(store, NOW_MS, 10).is_empty());
        assert!(store.read_blocking(|tx| outbox::released(tx, SITE, "study-1")).unwrap().is_none());
        assert_eq!(store.write_blocking(|tx| outbox::release(tx, SITE, "study-1", "a person", NOW_MS)).unwrap(), 1);
        assert_eq!(store.read_blocking(|tx| outbox::released(tx, SITE, "study-1")).unwrap(), Some(("a person".into(), NOW_MS)));
        assert_eq!(claim(store, NOW_MS, 10).len(), 1);
    });
}

#[test]
fn a_dead_letter_is_replayed_unless_a_newer_plan_overtook_it() {
    on_both(|store| {
        enqueue(store, "p1", false, &[flag("k", "one")]);
        let claimed = claim(store, NOW_MS, 10).remove(0);
        assert!(finish(store, &claimed, NOW_MS, ItemState::Rejected));
        enqueue(store, "p1", false, &[flag("k", "one")]);
        assert_eq!(items(store).len(), 1, "the same plan again is the same dead letter");
        let replay = |id: i64| store.write_blocking(|tx| outbox::replay(tx, id, NOW_MS)).unwrap();
        assert!(replay(claimed.item.id));
        assert!(!replay(claimed.item.id), "planned already");
        let again = claim(store, NOW_MS, 10).remove(0);
        assert!(finish(store, &again, NOW_MS, ItemState::Rejected));
        enqueue(store, "p1", false, &[flag("k", "two")]);
        assert!(!replay(claimed.item.id), "overtaken");
    });
}

#[test]
fn a_feed_is_worked_on_by_one_gateway_at_a_time_and_a_stale_one_can_move_nothing() {
    use nephrogate::store::feeds::{self, Ended};
    on_both(|store| {
        store.write_blocking(|tx| feeds::register(tx, SITE, "lab", "poll", Some(60_000))).unwrap();
        let claim = |at_ms: i64| store.write_blocking(|tx| feeds::claim(tx, SITE, "lab", at_ms, at_ms + 1_000)).unwrap();
        let (first, state) = claim(NOW_MS).unwrap();
        assert_eq!((state.cursor.as_str(), state.complete_until_ms, state.silent_after_ms), ("", None, Some(60_000)));
        assert!(claim(NOW_MS + 1_000).is_none(), "its lease holds");
        assert!(store.write_blocking(|tx| feeds::advance(tx, &first, "{\"at\":1}")).unwrap());
        assert!(store.write_blocking(|tx| feeds::renew(tx, &first, NOW_MS + 5_000)).unwrap());
        assert!(claim(NOW_MS + 5_000).is_none());
        let (second, state) = claim(NOW_MS + 5_001).unwrap();
        assert_eq!(state.cursor, "{\"at\":1}", "who takes over goes on from there");
        assert!(!store.write_blocking(|tx| feeds::advance(tx, &first, "{}")).unwrap());
        assert!(!store.write_blocking(|tx| feeds::renew(tx, &first, NOW_MS + 9_000)).unwrap());
        let done = Ended::Done { complete_until_ms: Some(NOW_MS), remark: None, concern: None, next_attempt_ms: NOW_MS + 60_000 };
        store.write_blocking(|tx| feeds::end(tx, &first, &done, NOW_MS + 5_002)).unwrap();
        assert!(store.read_blocking(|tx| feeds::state(tx, SITE, "lab")).unwrap().unwrap().complete_until_ms.is_none());
        store.write_blocking(|tx| feeds::end(tx, &second, &done, NOW_MS + 5_003)).unwrap();
        assert!(claim(NOW_MS + 59_999).is_none(), "it is not its turn");
        assert!(store.write_blocking(|tx| feeds::ask(tx, SITE, "lab", NOW_MS + 6_000)).unwrap());
        let (third, _) = claim(NOW_MS + 6_000).unwrap();
        let failed = Ended::Failed { trouble: "the EHR cannot answer now".into(), needs_person: true, next_attempt_ms: NOW_MS + 7_000 };
        store.write_blocking(|tx| feeds::end(tx, &third, &failed, NOW_MS + 6_001)).unwrap();
        let state = store.read_blocking(|tx| feeds::states(tx, Some(SITE))).unwrap().remove(0);
        assert_eq!((state.failures, state.needs_person, state.complete_until_ms), (1, true, Some(NOW_MS)), "what was here stays here");
        store.write_blocking(|tx| feeds::register(tx, SITE, "lab", "bulk", None)).unwrap();
        let (_, state) = claim(NOW_MS + 8_000).unwrap();
        assert_eq!((state.cursor.as_str(), state.complete_until_ms, state.kind.as_str()), ("", None, "bulk"), "another kind begins anew");
    });
}

#[test]
fn hints_wait_until_they_were_followed() {
    use nephrogate::store::feeds;
    on_both(|store| {
        store
            .write_blocking(|tx| {
                feeds::hint(tx, SITE, "lab", "Observation", Some("o1"), NOW_MS)?;
                feeds::hint(tx, SITE, "lab", "", None, NOW_MS + 1)
            })
            .unwrap();
        let hints = |at_ms: i64| store.read_blocking(|tx| feeds::hints(tx, SITE, "lab", at_ms, 10)).unwrap();
        let due = hints(NOW_MS + 1);
        assert_eq!(due.iter().map(|hint| hint.resource_id.as_deref()).collect::<Vec<_>>(), [Some("o1"), None]);
        store.write_blocking(|tx| feeds::hints_later(tx, &[due[0].hint], NOW_MS + 500)).unwrap();
        store.write_blocking(|tx| feeds::hints_done(tx, &[due[1].hint])).unwrap();
        assert!(hints(NOW_MS + 499).is_empty());
        assert_eq!((hints(NOW_MS + 500).len(), hints(NOW_MS + 500)[0].attempts), (1, 1));
        assert_eq!(store.read_blocking(|tx| feeds::hints_waiting(tx, SITE, "lab")).unwrap(), (1, Some(NOW_MS)));
    });
}

#[test]
fn a_roster_keeps_how_far_each_patient_was_swept_and_comparisons_keep_what_they_found() {
    use nephrogate::store::comparisons::{self, Report};
    use nephrogate::store::rosters;
    on_both(|store| {
        let list = |subjects: &[&str], at_ms: i64| {
            let subjects = subjects.iter().map(|subject| (*subject).to_owned()).collect();
            store.write_blocking(|tx| rosters::replace(tx, SITE, "lab", &subjects, at_ms)).unwrap();
        };
        let standing = || store.read_blocking(|tx| rosters::standing(tx, SITE, "lab")).unwrap();
        list(&["a", "b", "c"], NOW_MS);
        assert_eq!((standing().listed, standing().not_asked, standing().complete_until_ms), (3, 3, None));
        let swept = |subject: &str, at_ms: i64, trouble: Option<&str>| {
            store.write_blocking(|tx| rosters::asked(tx, SITE, "lab", subject, at_ms, trouble)).unwrap();
        };
        swept("b", NOW_MS + 1, None);
        swept("a", NOW_MS + 2, Some("refused"));
        let next = store.read_blocking(|tx| rosters::next(tx, SITE, "lab", NOW_MS + 2, 10)).unwrap();
        assert_eq!(next.iter().map(|listed| listed.subject.as_str()).collect::<Vec<_>>(), ["c", "b"]);
        swept("c", NOW_MS + 3, None);
        assert_eq!((standing().refused, standing().complete_until_ms), (1, Some(NOW_MS + 1)));
        // Who was refused for a while is as far as before.
        swept("c", NOW_MS + 4, Some("refused"));
        let next = store.read_blocking(|tx| rosters::next(tx, SITE, "lab", i64::MAX, 10)).unwrap();
        assert_eq!(next.iter().map(|listed| listed.swept_ms).collect::<Vec<_>>(), [Some(NOW_MS + 1), None, Some(NOW_MS + 3)]);
        list(&["b", "d"], NOW_MS + 4);
        assert_eq!((standing().listed, standing().not_asked, standing().listed_ms), (2, 1, Some(NOW_MS + 4)));
        commit(store, &[creatinine("o1", Some("1"), "p1", Status::Final, 1.0)]);
        assert_eq!(store.read_blocking(|tx| rosters::unseen(tx, SITE, "lab", 10)).unwrap(), ["p1"]);

        let begin = |at_ms: i64| store.write_blocking(|tx| comparisons::begin(tx, SITE, "lab", "", at_ms, at_ms + 100)).unwrap();
        let first = begin(NOW_MS).unwrap();
        assert!(begin(NOW_MS + 100).is_none(), "one at a time");
        let second = begin(NOW_MS + 101).unwrap();
        let report = Report { as_expected: 7, ..Report::default() };
        store.write_blocking(|tx| comparisons::end(tx, first, &report, NOW_MS + 102)).unwrap();
        store.write_blocking(|tx| comparisons::end(tx, second, &report, NOW_MS + 103)).unwrap();
        let newest = store.read_blocking(|tx| comparisons::newest(tx, SITE, "lab")).unwrap().unwrap();
        assert_eq!((newest.comparison, newest.state.as_str(), newest.report), (second, "done", Some(report)));
        let here = || store.read_blocking(|tx| comparisons::here(tx, SITE, "Observation", &["o1".into(), "o2".into()])).unwrap();
        assert_eq!((here().len(), here()["o1"].versions[0].version.as_deref(), here()["o1"].is_withdrawn), (1, Some("1"), false));
        withdraw(store, "Observation", "o1", None).unwrap();
        assert_eq!((here()["o1"].versions.len(), here()["o1"].is_withdrawn), (1, true));
        commit(store, &[creatinine("o1", Some("2"), "p1", Status::Final, 1.0)]);
        assert_eq!((here()["o1"].versions.len(), here()["o1"].is_withdrawn), (2, false));
    });
}

#[test]
fn a_day_that_brings_little_or_much_that_cannot_be_used_is_told() {
    use nephrogate::store::drift::{self, Drift};
    const DAY_MS: i64 = 86_400_000;
    on_both(|store| {
        let mut number = 0;
        let mut bring = |days_ago: i64, count: usize, unusable: usize| {
            let messages: Vec<Prepared> = (0..count + unusable)
                .map(|place| {
                    number += 1;
                    let mut message = creatinine(&format!("o{number}"), Some("1"), "p1", Status::Final, 1.0);
                    if count <= place {
                        message.disposition = Disposition::Quarantined;
                    }
                    message
                })
                .collect();
            store.write_blocking(|tx| ledger::commit(tx, SITE, FEED, NOW_MS - days_ago * DAY_MS, &messages)).unwrap();
        };
        let drift = || store.read_blocking(|tx| drift::drift(tx, SITE, FEED, NOW_MS)).unwrap();
        for days_ago in 2..30 {
            // Weekends are quiet, and that is as usual.
            bring(days_ago, if days_ago % 7 == 3 { 2 } else { 24 }, usize::from(days_ago == 9));
        }
        assert_eq!(drift(), [Drift::Little { messages: 0, usual: 24 }]);
        bring(1, 24, 0);
        bring(0, 1, 30);
        assert_eq!(drift(), [], "today is not over");
        bring(1, 0, 12);
        let found = drift();
        assert!(matches!(found[..], [Drift::Unusable { messages: 12, share, .. }] if (share - 1.0 / 3.0).abs() < 1e-9), "{found:?}");
        assert!(found[0].words().contains("33 % where 0 % is usual"), "{}", found[0].words());
    });
}
