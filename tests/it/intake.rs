//! From received bytes to the screening list and the outbox, through the store: corrections, withdrawals, merges,
//! decisions, mended mappings.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use nephrogate::catalogue::Catalogue;
use nephrogate::clinical::date::PartialDate;
use nephrogate::clinical::fact::{Decided, DecidedState, Decision};
use nephrogate::issue::{Code, Disposition};
use nephrogate::pipeline::decide;
use nephrogate::pipeline::entries::Withdrawal;
use nephrogate::pipeline::receive::{self, prepare};
use nephrogate::pipeline::{Pipeline, Receivers};
use nephrogate::pipeline::{judge, redrive};
use nephrogate::store::ledger::Receipt;
use nephrogate::store::messages;
use nephrogate::store::outbox::{self, ItemState};
use nephrogate::store::screening::{self, Card, ListPage, ListQuery, Sort};
use nephrogate::store::{Store, StoreError};
use nephrogate::writeback::Purpose;
use nephrogate::writeback::receiver::Settings;

use crate::stores::on_both;

pub const SITE: &str = "demo-hospital";
const STUDY: &str = "elixcyte-1";
const FEED: &str = "push";

pub fn now_ms() -> i64 {
    PartialDate::parse("2026-11-01T12:00:00Z").unwrap().start_ms
}

pub fn pipeline(store: &Store) -> Pipeline {
    let catalogue = Catalogue::load(None).map_err(|faults| format!("{faults:?}")).unwrap();
    Pipeline { store: store.clone(), catalogue: Arc::new(catalogue), receivers: Arc::new(Receivers::new()) }
}

/// With the demo hospital's own receiver: live, from the candidate state on.
pub fn pipeline_that_writes_back(store: &Store) -> Pipeline {
    let mut pipeline = pipeline(store);
    let settings = Settings::read(&pipeline.catalogue.receivers[SITE]).unwrap();
    let receiver = settings.receiver(SITE, "http://127.0.0.1:1/fhir", [7; 32]);
    pipeline.receivers = Arc::new(BTreeMap::from([(SITE.to_owned(), receiver)]));
    pipeline
}

pub fn push(pipeline: &Pipeline, body: &str) -> Receipt {
    let prepared = prepare(&pipeline.catalogue, &pipeline.catalogue.sites[SITE], body.as_bytes());
    receive::receive(pipeline, SITE, FEED, now_ms(), &[prepared]).unwrap().remove(0)
}

pub fn patient(id: &str, version: u32, more: &str) -> String {
    format!(r#"{{"resourceType":"Patient","id":"{id}","meta":{{"versionId":"{version}"}},"gender":"female","birthDate":"1960-03-04"{more}}}"#)
}

pub fn creatinine(id: &str, version: u32, subject: &str, status: &str, date: &str, mg_dl: f64) -> String {
    format!(
        r#"{{"resourceType":"Observation","id":"{id}","meta":{{"versionId":"{version}"}},"status":"{status}","category":[{{"coding":[{{"system":"http://terminology.hl7.org/CodeSystem/observation-category","code":"laboratory"}}]}}],"code":{{"coding":[{{"system":"http://loinc.org","code":"2160-0"}}]}},"subject":{{"reference":"Patient/{subject}"}},"effectiveDateTime":"{date}","valueQuantity":{{"value":{mg_dl},"unit":"mg/dL","system":"http://unitsofmeasure.org","code":"mg/dL"}}}}"#
    )
}

/// A candidate: two creatinines far enough apart, both well inside the band.
pub fn push_candidate(pipeline: &Pipeline, id: &str) {
    push(pipeline, &patient(id, 1, ""));
    push(pipeline, &creatinine(&format!("{id}-old"), 1, id, "final", "2026-04-01T08:00:00Z", 2.0));
    push(pipeline, &creatinine(&format!("{id}-new"), 1, id, "final", "2026-10-20T08:00:00Z", 2.1));
}

pub fn card(pipeline: &Pipeline, subject: &str) -> Card {
    pipeline.store.read_blocking(|tx| screening::card(tx, SITE, subject, STUDY)).unwrap().expect("the subject is judged")
}

fn list(pipeline: &Pipeline, query: ListQuery) -> ListPage {
    pipeline.store.read_blocking(|tx| screening::list(tx, &query)).unwrap()
}

pub fn listed(pipeline: &Pipeline) -> ListPage {
    list(pipeline, ListQuery { study: STUDY.into(), sort: Sort::Subject, ..ListQuery::default() })
}

pub fn decision(what: Decided) -> Decision {
    Decision { study: STUDY.into(), by: "a screener".into(), reason: "asked at the visit".into(), at_ms: now_ms(), evidence_seen: "".into(), what }
}

pub fn withdrawal(resource_type: &str, id: &str) -> Withdrawal {
    Withdrawal { resource_type: resource_type.to_owned(), id: id.to_owned(), if_match: None, deleted_ms: None }
}

#[test]
fn what_is_pushed_is_judged_and_listed() {
    on_both(|store| {
        let pipeline = pipeline(store);
        push_candidate(&pipeline, "p1");
        let page = listed(&pipeline);
        assert_eq!((page.total, page.rows.len()), (1, 1));
        let row = &page.rows[0];
        assert_eq!((row.subject.as_str(), row.prescreen.as_str(), row.state.as_str(), row.is_waiting), ("p1", "met", "candidate", false), "{row:?}");
        assert!((20.0..30.0).contains(&row.egfr.unwrap()), "{row:?}");
        assert_eq!(row.egfr_date.as_deref(), Some("2026-10-20T08:00:00Z"));
        assert_eq!(page.counts, BTreeMap::from([("met".to_owned(), 1)]));
        let card = card(&pipeline, "p1");
        assert_eq!(card.assessment.egfr, row.egfr);
        assert_eq!(card.study_hash, pipeline.catalogue.studies[STUDY].hash);
        assert_eq!(card.mapping_hash, pipeline.catalogue.sites[SITE].hash);
        let used =
            card.assessment.criteria.iter().flat_map(|criterion| &criterion.evidence).find(|evidence| evidence.resource == "Observation/p1-new");
        let kept = pipeline.store.read_blocking(|tx| messages::message(tx, SITE, used.unwrap().message)).unwrap().unwrap();
        assert_eq!(kept.id.as_deref(), Some("p1-new"), "the evidence names the message that brought it");
    });
}

#[test]
fn a_corrected_creatinine_reopens_the_verdict_and_the_list_says_from_what() {
    on_both(|store| {
        let pipeline = pipeline(store);
        push_candidate(&pipeline, "p1");
        let before = card(&pipeline, "p1");
        push(&pipeline, &creatinine("p1-new", 2, "p1", "corrected", "2026-10-20T08:00:00Z", 0.8));
        let after = card(&pipeline, "p1");
        assert_eq!((before.row.prescreen.as_str(), after.row.prescreen.as_str()), ("met", "not-met"));
        assert_eq!(after.row.changed_from.as_deref(), Some("prescreen met"));
        assert!(after.history.iter().any(|row| row.prescreen == "met"), "the earlier judgement is kept");
        // The older version once more, late, changes nothing.
        let late = push(&pipeline, &creatinine("p1-new", 1, "p1", "final", "2026-10-20T08:00:00Z", 2.1));
        assert_eq!(late.disposition, Disposition::Duplicate);
        assert_eq!(card(&pipeline, "p1").row.prescreen, "not-met");
    });
}

#[test]
fn judging_again_without_news_adds_no_history() {
    on_both(|store| {
        let pipeline = pipeline(store);
        push_candidate(&pipeline, "p1");
        let before = card(&pipeline, "p1");
        assert_eq!(judge::waiting(&pipeline, now_ms(), 10).unwrap(), 0, "nobody waits");
        assert_eq!(judge::again(&pipeline, now_ms() + 1000, now_ms() + 1, 10).unwrap(), 1);
        let after = card(&pipeline, "p1");
        assert_eq!(after.history.len(), before.history.len());
        assert_eq!(after.assessment.as_of_ms, now_ms() + 1000, "but says as of when it holds");
        assert_eq!((after.row.changed_ms, after.row.judged_ms), (before.row.changed_ms, now_ms() + 1000));
        // Days pass, and the result goes stale.
        let later_ms = now_ms() + 200 * 86_400_000;
        assert_eq!(judge::again(&pipeline, later_ms, later_ms, 10).unwrap(), 1);
        assert_eq!(card(&pipeline, "p1").row.prescreen, "unknown");
    });
}

#[test]
fn a_deleted_result_and_a_deleted_patient_reopen_the_verdict() {
    on_both(|store| {
        let pipeline = pipeline(store);
        push_candidate(&pipeline, "p1");
        receive::withdraw(&pipeline, SITE, FEED, now_ms(), &withdrawal("Observation", "p1-new")).unwrap().unwrap();
        assert_ne!(card(&pipeline, "p1").row.prescreen, "met");
        push(&pipeline, &creatinine("p1-new", 2, "p1", "final", "2026-10-20T08:00:00Z", 2.1));
        assert_eq!(card(&pipeline, "p1").row.prescreen, "met", "a newer version restores");
        receive::withdraw(&pipeline, SITE, FEED, now_ms(), &withdrawal("Patient", "p1")).unwrap().unwrap();
        let page = listed(&pipeline);
        assert_eq!((page.total, page.hidden.get("no-patient").copied()), (0, Some(1)));
    });
}

#[test]
fn a_merged_record_disappears_and_its_results_count_for_the_survivor() {
    on_both(|store| {
        let pipeline = pipeline(store);
        push_candidate(&pipeline, "old");
        push(&pipeline, &patient("new", 1, ""));
        assert_eq!(card(&pipeline, "new").row.prescreen, "unknown");
        let link = r#","link":[{"other":{"reference":"Patient/new"},"type":"replaced-by"}]"#;
        push(&pipeline, &patient("old", 2, link));
        let page = listed(&pipeline);
        let subjects: Vec<&str> = page.rows.iter().map(|row| row.subject.as_str()).collect();
        assert_eq!(subjects, ["new"]);
        assert_eq!(page.hidden.get("merged").copied(), Some(1));
        assert_eq!(card(&pipeline, "new").row.prescreen, "met");
        push(&pipeline, &patient("old", 3, ""));
        assert_eq!(
            (card(&pipeline, "old").row.prescreen.as_str(), card(&pipeline, "new").row.prescreen.as_str()),
            ("met", "unknown"),
            "parted again"
        );
    });
}

#[test]
fn decisions_enter_as_messages_and_drive_the_state() {
    on_both(|store| {
        let pipeline = pipeline(store);
        push_candidate(&pipeline, "p1");
        let receipt = decide::append(&pipeline, SITE, "p1", &decision(Decided::Consent { given: true })).unwrap();
        assert_eq!(receipt.disposition, Disposition::Applied);
        assert_eq!(card(&pipeline, "p1").row.state, "consented");
        let kept = pipeline.store.read_blocking(|tx| messages::message(tx, SITE, receipt.message.unwrap())).unwrap().unwrap();
        assert_eq!((kept.feed.as_str(), kept.resource_type.as_str()), ("decisions", "Decision"));
        assert!(String::from_utf8(kept.body.unwrap()).unwrap().contains("asked at the visit"));
        // The same decision twice is two decisions: each was made.
        assert_eq!(decide::append(&pipeline, SITE, "p1", &decision(Decided::Consent { given: true })).unwrap().disposition, Disposition::Applied);
        decide::append(&pipeline, SITE, "p1", &decision(Decided::OptOut { opted_out: true })).unwrap();
        assert_eq!(listed(&pipeline).hidden.get("opted-out").copied(), Some(1));
        let _ = Decided::State { to: DecidedState::Enrolled };
    });
}

#[test]
fn the_list_can_be_asked() {
    on_both(|store| {
        let pipeline = pipeline(store);
        for number in 0..4 {
            push_candidate(&pipeline, &format!("p{number}"));
        }
        push(&pipeline, &patient("empty", 1, ""));
        push(&pipeline, &creatinine("p0-newer", 1, "p0", "final", "2026-10-25T08:00:00Z", 0.7));
        push(&pipeline, &creatinine("p2-newer", 1, "p2", "final", "2026-10-25T08:00:00Z", 2.6));
        let asked = |query: ListQuery| -> Vec<String> {
            list(&pipeline, ListQuery { study: STUDY.into(), ..query }).rows.into_iter().map(|row| row.subject).collect()
        };
        assert_eq!(asked(ListQuery { prescreen: Some("met".into()), sort: Sort::Subject, ..ListQuery::default() }), ["p1", "p2", "p3"]);
        assert_eq!(asked(ListQuery { prescreen: Some("not-met".into()), ..ListQuery::default() }), ["p0"]);
        assert_eq!(asked(ListQuery { missing: Some("creatinine".into()), ..ListQuery::default() }), ["empty"]);
        assert_eq!(
            asked(ListQuery { states: vec!["candidate".into(), "enrolled".into()], sort: Sort::Subject, ..ListQuery::default() }),
            ["p1", "p2", "p3"]
        );
        assert_eq!(asked(ListQuery { sort: Sort::EgfrAscending, ..ListQuery::default() }).first().map(String::as_str), Some("p2"));
        assert_eq!(
            asked(ListQuery { sort: Sort::EgfrDescending, ..ListQuery::default() }).last().map(String::as_str),
            Some("empty"),
            "no eGFR comes last"
        );
        assert_eq!(asked(ListQuery { sort: Sort::Subject, limit: 2, page: 1, ..ListQuery::default() }), ["p1", "p2"]);
        assert_eq!(asked(ListQuery { site: Some("elsewhere".into()), ..ListQuery::default() }), [""; 0]);
        assert_eq!(list(&pipeline, ListQuery { study: STUDY.into(), limit: 2, ..ListQuery::default() }).total, 5);
    });
}

/// The demo hospital before somebody mapped its local code of creatinine.
pub fn before_mending(mended: &Pipeline) -> Pipeline {
    let folder = tempfile::tempdir().unwrap();
    copy_folder(Path::new("mappings"), &folder.path().join("mappings"));
    let file = folder.path().join("mappings").join(SITE).join("mapping.json");
    let mapping = std::fs::read_to_string(&file).unwrap();
    let local =
        r#"{"system": "https://demo-hospital.example.org/lab-codes", "code": "CREA", "note": "Creatinine, serum: the laboratory's own code"},"#;
    assert!(mapping.contains(local));
    std::fs::write(&file, mapping.replace(local, "")).unwrap();
    let catalogue = Catalogue::load(Some(folder.path())).map_err(|faults| format!("{faults:?}")).unwrap();
    Pipeline { catalogue: Arc::new(catalogue), ..mended.clone() }
}

#[test]
fn a_mended_mapping_redrives_the_quarantine_and_the_verdict_follows() {
    on_both(|store| {
        let mended = pipeline(store);
        let unmended = before_mending(&mended);

        push_candidate(&unmended, "p1");
        let local_code = creatinine("p1-local", 1, "p1", "final", "2026-10-30T08:00:00Z", 0.7)
            .replace("http://loinc.org", "https://demo-hospital.example.org/lab-codes")
            .replace("2160-0", "CREA");
        let receipt = push(&unmended, &local_code);
        assert_eq!((receipt.disposition, receipt.issues[0].code), (Disposition::Quarantined, Code::CodeUnmapped));
        assert_eq!(card(&unmended, "p1").row.prescreen, "met");
        let counts = store.read_blocking(|tx| messages::conservation(tx, SITE)).unwrap();
        assert!(
            counts.codes.iter().any(|count| count.disposition == "quarantined" && count.code.ends_with("CREA") && count.count == 1),
            "{counts:?}"
        );

        let none = redrive::site(&mended, SITE, Some(Code::UnitUnmapped), now_ms()).unwrap();
        assert_eq!(none.tried, 0, "only what was asked for");
        let redriven = redrive::site(&mended, SITE, None, now_ms()).unwrap();
        assert_eq!((redriven.tried, redriven.dispositions.get("applied").copied(), redriven.judged), (1, Some(1), 1));
        assert_eq!(card(&mended, "p1").row.prescreen, "not-met");
    });
}

pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &to.join(entry.file_name()));
        } else {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

#[test]
fn what_is_out_of_scope_leaves_a_count_by_type_and_code_alone() {
    on_both(|store| {
        let pipeline = pipeline(store);
        let receipt = push(&pipeline, r#"{"resourceType":"Practitioner","id":"x1"}"#);
        assert_eq!((receipt.disposition, receipt.message), (Disposition::OutOfScope, None));
        let counts = store.read_blocking(|tx| messages::conservation(tx, SITE)).unwrap();
        assert_eq!((counts.received, counts.dispositions["out-of-scope"]), (1, 1));
        assert_eq!(counts.codes.len(), 1, "{counts:?}");
    });
}

/// All that is planned is sent and found, in the order that a server accepts.
pub fn everything_arrives(store: &Store) {
    loop {
        let due = store.write_blocking(|tx| outbox::claim(tx, SITE, now_ms(), now_ms() + 1000, 10)).unwrap();
        if due.is_empty() {
            break;
        }
        for claimed in due {
            let outcome = outbox::Outcome {
                state: ItemState::Confirmed,
                next_attempt_ms: now_ms(),
                status: Some(200),
                error: None,
                server_id: Some(claimed.item.request.key.clone()),
                server_version: Some("1".into()),
            };
            assert!(store.write_blocking(|tx| outbox::finish(tx, &claimed, now_ms(), &outcome)).unwrap());
        }
    }
}

#[test]
fn a_state_that_is_reached_is_planned_and_one_that_turns_is_taken_back() {
    on_both(|store| {
        let pipeline = pipeline_that_writes_back(store);
        push_candidate(&pipeline, "p1");
        let pending = |state: ItemState| store.read_blocking(|tx| outbox::list(tx, Some(SITE), Some(state))).unwrap();
        let planned = pending(ItemState::Planned);
        assert!(planned.iter().any(|item| item.request.resource_type == "ResearchStudy" && item.subject.is_empty()), "{planned:?}");
        assert!(planned.iter().any(|item| item.request.resource_type == "ResearchSubject" && item.subject == "p1"), "{planned:?}");
        assert_eq!(judge::again(&pipeline, now_ms() + 1, now_ms() + 1, 10).unwrap(), 1);
        assert_eq!(pending(ItemState::Planned).len(), planned.len(), "judging again plans nothing twice");
        everything_arrives(store);
        assert_eq!(pending(ItemState::Confirmed).len(), planned.len());
        push(&pipeline, &creatinine("p1-new", 2, "p1", "corrected", "2026-10-20T08:00:00Z", 0.8));
        let back = pending(ItemState::Planned);
        assert!(!back.is_empty(), "the state turned");
        assert!(back.iter().any(|item| item.request.purpose == Purpose::Retract), "{back:?}");
    });
}

#[test]
fn a_judgement_that_a_fact_overtook_is_not_recorded() {
    on_both(|store| {
        let pipeline = pipeline(store);
        push_candidate(&pipeline, "p1");
        let stale = screening::Judged {
            site: SITE.into(),
            subject: "p1".into(),
            revision: 1,
            mapping_hash: String::new(),
            verdicts: Vec::new(),
            plans: Vec::new(),
        };
        let recorded: Result<bool, StoreError> = store.write_blocking(|tx| screening::record(tx, now_ms(), &stale));
        assert!(!recorded.unwrap());
        assert_eq!(card(&pipeline, "p1").row.prescreen, "met");
    });
}
