//! What is planned for an EHR: each state against what was written before, as requests.

use nephrogate::digest::sha256;
use nephrogate::rules::{Assessment, CriterionVerdict, Evidence, Hidden, Role, SeriesPoint, SubjectState, Verdict};
use nephrogate::study::{CriterionType, Origin, Stage, Study};
use nephrogate::writeback::ladder::{Ladder, Rung};
use nephrogate::writeback::receiver::Settings;
use nephrogate::writeback::{self, Beside, Known, Mode, Purpose, Receiver, Takes, WriteBack, WriteFrom, Written};
use serde_json::Value;

/// SHA-256 of a mapping.
pub const MAPPING_HASH: &str = "0b14d501a594442a01c6859541bcb3e8164d183d32937b851835442f69d5c94e";

pub fn study() -> Study {
    let mut study: Study = serde_json::from_str(
        r#"{"id":"trial-7","title":"A trial of cells in chronic kidney disease","note":"-",
            "registry":[{"system":"https://clinicaltrials.gov","value":"NCT00000000","note":"-"}],
            "arms":[{"id":"low","name":"Low dose","cells":64000000,"planned_subjects":3,"note":"-"}],
            "egfr":{"equation":"ckd-epi-2021-creatinine","creatinine_factor_umol_l_per_mg_dl":88.42,"which_result":"newest-uncontradicted","note":"-"},
            "criteria":[]}"#,
    )
    .expect("the study reads");
    study.hash = "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b".to_owned();
    study
}

pub fn receiver() -> Receiver {
    Receiver {
        site: "north".to_owned(),
        base_url: "http://127.0.0.1:1/fhir".to_owned(),
        mode: Mode::Live,
        write_from: WriteFrom::Candidate,
        update_creates: true,
        rungs: Rung::ALL.to_vec(),
        beside: Beside { egfr_observation: true, ..Beside::default() },
        annotates: Vec::new(),
        takes: Takes::default(),
        identifier_key: sha256(b"a secret of this test"),
        tag_test: false,
        deletes: false,
        organization: "Trial office".to_owned(),
        why_url: None,
        ladder: Ladder::of_contract(&Rung::ALL),
    }
}

/// The plan for a subject without a course.
pub fn plan(receiver: &Receiver, study: &Study, subject: &str, assessment: &Assessment, written: &[Written]) -> Vec<WriteBack> {
    writeback::plan(receiver, study, Known { subject, assessment, course: None, mapping_hash: MAPPING_HASH }, written)
}

pub fn assessment(state: SubjectState) -> Assessment {
    let point = |resource: &str, date: &str, egfr: f64| SeriesPoint {
        date: date.to_owned(),
        at_ms: 0,
        egfr,
        creatinine_mg_dl: 2.0,
        resource: resource.to_owned(),
        version: Some("1".to_owned()),
    };
    Assessment {
        study: "trial-7".to_owned(),
        study_hash: "study-hash".to_owned(),
        as_of_ms: 1_700_000_000_000,
        egfr: Some(36.3642),
        prescreen: Verdict::Met,
        eligibility: Verdict::Unknown,
        state,
        was_enrolled: matches!(state, SubjectState::Enrolled | SubjectState::OnFollowUp | SubjectState::Completed | SubjectState::Lost),
        criteria: vec![CriterionVerdict {
            id: "egfr".to_owned(),
            text: "eGFR 15 to 44".to_owned(),
            criterion_type: CriterionType::Inclusion,
            origin: Origin::Registry,
            stage: Stage::Prescreen,
            verdict: Verdict::Met,
            protocol_verdict: Verdict::Met,
            reason: None,
            explanation: String::new(),
            evidence: vec![Evidence {
                role: Role::Used,
                resource: "Observation/cr-2".to_owned(),
                version: Some("1".to_owned()),
                message: 2,
                what: "creatinine".to_owned(),
                code: "loinc|2160-0".to_owned(),
                status: "final".to_owned(),
                date: Some("2025-03-02".to_owned()),
                value_as_received: "2.0".to_owned(),
                unit_as_received: "mg/dL".to_owned(),
                value_used: Some(2.0),
                unit_used: Some("mg/dL".to_owned()),
                equation: Some("ckd-epi-2021-creatinine".to_owned()),
                egfr: Some(36.3642),
                threshold: None,
                unusable: None,
                note: None,
            }],
            missing: vec![],
            distance: None,
            attestation: None,
            evidence_hash: String::new(),
        }],
        near_miss: None,
        missing: vec![],
        hidden: None,
        series: vec![point("Observation/cr-1", "2024-11-02", 40.0), point("Observation/cr-2", "2025-03-02T08:30:00+08:00", 36.3642)],
        alerts: vec![],
    }
}

/// What the outbox would remember after these requests arrived.
fn remember(written: &mut Vec<Written>, requests: &[WriteBack], server_id: impl Fn(&WriteBack) -> Option<String>) {
    for request in requests {
        written.retain(|before| before.key != request.key);
        written.push(Written {
            key: request.key.clone(),
            resource_type: request.resource_type.clone(),
            body_hash: request.body_hash.clone(),
            body: request.body.clone(),
            is_standing: request.purpose == Purpose::Annotate,
            server_id: server_id(request),
            form: request.form,
            is_pending: false,
        });
    }
}

fn id_in_url(request: &WriteBack) -> Option<String> {
    request.url.split_once('/').map(|(_, id)| id.to_owned())
}

fn body(request: &WriteBack) -> Value {
    serde_json::from_str(&request.body).expect("a body is JSON")
}

/// `Type status` of each request, in order.
fn statuses(requests: &[WriteBack]) -> Vec<String> {
    requests.iter().map(|request| format!("{} {}", request.resource_type, body_status(request))).collect()
}

fn body_status(request: &WriteBack) -> String {
    if request.body.is_empty() { request.method.clone() } else { body(request)["status"].as_str().expect("a status").to_owned() }
}

fn of_type<'a>(requests: &'a [WriteBack], kind: &str) -> &'a WriteBack {
    requests.iter().find(|request| request.resource_type == kind).expect("a request of this type")
}

#[test]
fn a_candidate_gets_study_subject_flag_and_egfr_in_the_order_that_references_need() {
    let requests = plan(&receiver(), &study(), "p1", &assessment(SubjectState::Candidate), &[]);
    assert_eq!(statuses(&requests), ["ResearchStudy active", "ResearchSubject candidate", "Flag active", "Observation final"]);
    assert!(requests.is_sorted_by_key(|request| request.order));
    assert!(requests.iter().all(|request| request.method == "PUT" && request.purpose == Purpose::Annotate));
    for request in &requests {
        let body = body(request);
        assert_eq!(request.url, format!("{}/{}", request.resource_type, body["id"].as_str().unwrap()));
        assert!(body["id"].as_str().unwrap().starts_with("ng-") && body["id"].as_str().unwrap().len() <= 64);
    }
    let subject = body(of_type(&requests, "ResearchSubject"));
    assert_eq!(subject["study"]["reference"].as_str().unwrap(), of_type(&requests, "ResearchStudy").url);
    assert_eq!(subject["individual"]["reference"], "Patient/p1");
    let flag = body(of_type(&requests, "Flag"));
    assert_eq!(flag["category"][0]["coding"][0]["code"], "research");
    assert_eq!(flag["code"]["text"], "Research study: may qualify for A trial of cells in chronic kidney disease");
}

#[test]
fn each_state_is_written_from_the_state_the_site_chose_on() {
    use SubjectState::*;
    // state; ResearchSubject and Flag status once written; the states to write from that allow it
    let table = [
        (Candidate, "candidate", "active", "candidate"),
        (Consented, "screening", "active", "candidate consented"),
        (Eligible, "eligible", "active", "candidate consented eligible"),
        (Enrolled, "on-study", "active", "candidate consented eligible enrolled"),
        (OnFollowUp, "follow-up", "active", "candidate consented eligible enrolled"),
        (None, "", "", ""),
        (Completed, "", "", ""),
        (ScreenFailed, "", "", ""),
        (Lost, "", "", ""),
        (Withdrawn, "", "", ""),
        (Deceased, "", "", ""),
    ];
    for (state, subject_status, flag_status, allowed) in table {
        for from in [WriteFrom::Candidate, WriteFrom::Consented, WriteFrom::Eligible, WriteFrom::Enrolled] {
            let word = serde_json::to_value(from).unwrap();
            let receiver = Receiver { write_from: from, ..receiver() };
            let requests = plan(&receiver, &study(), "p1", &assessment(state), &[]);
            if allowed.split(' ').any(|allowed| allowed == word) {
                assert_eq!(body_status(of_type(&requests, "ResearchSubject")), subject_status, "{state:?} from {word}");
                assert_eq!(body_status(of_type(&requests, "Flag")), flag_status, "{state:?} from {word}");
            } else {
                assert_eq!(statuses(&requests), Vec::<String>::new(), "{state:?} from {word}");
            }
        }
    }
}

#[test]
fn what_stands_follows_the_subject_and_an_unchanged_subject_sends_nothing() {
    use SubjectState::*;
    // from, to, was enrolled, what is sent
    let table: &[(SubjectState, SubjectState, bool, &[&str])] = &[
        (Candidate, Candidate, false, &[]),
        (Candidate, Consented, false, &["ResearchSubject screening", "Flag active"]),
        (Candidate, None, false, &["ResearchSubject ineligible", "Flag inactive"]),
        (Consented, ScreenFailed, false, &["ResearchSubject ineligible", "Flag inactive"]),
        (Consented, Withdrawn, false, &["ResearchSubject withdrawn", "Flag inactive", "Observation entered-in-error"]),
        (Consented, Deceased, false, &["ResearchSubject off-study", "Flag inactive", "Observation entered-in-error"]),
        (Enrolled, OnFollowUp, true, &["ResearchSubject follow-up", "Flag active"]),
        (OnFollowUp, Completed, true, &["ResearchSubject off-study", "Flag inactive"]),
        (Enrolled, Lost, true, &["ResearchSubject off-study", "Flag inactive"]),
        (Enrolled, Withdrawn, true, &["ResearchSubject off-study", "Flag inactive"]),
        (Enrolled, Deceased, true, &["ResearchSubject off-study", "Flag inactive"]),
    ];
    for (from, to, was_enrolled, expected) in table {
        let mut written = Vec::new();
        let first = plan(&receiver(), &study(), "p1", &assessment(*from), &written);
        remember(&mut written, &first, id_in_url);
        let turned = Assessment { was_enrolled: *was_enrolled, as_of_ms: 1_800_000_000_000, ..assessment(*to) };
        let requests = plan(&receiver(), &study(), "p1", &turned, &written);
        assert_eq!(statuses(&requests), *expected, "{from:?} to {to:?}");
        remember(&mut written, &requests, id_in_url);
        assert_eq!(plan(&receiver(), &study(), "p1", &turned, &written), [], "{from:?} to {to:?}, again");
    }
}

#[test]
fn after_enrolment_nothing_un_flags_and_opt_out_adds_nothing() {
    let mut written = Vec::new();
    remember(&mut written, &plan(&receiver(), &study(), "p1", &assessment(SubjectState::Enrolled), &[]), id_in_url);
    for hidden in [Hidden::OptedOut, Hidden::Restricted, Hidden::Deceased] {
        let hidden = Assessment { hidden: Some(hidden), ..assessment(SubjectState::Enrolled) };
        assert_eq!(plan(&receiver(), &study(), "p1", &hidden, &written), []);
        assert_eq!(plan(&receiver(), &study(), "p1", &hidden, &[]), [], "and nothing new about a hidden subject");
    }
    // The verdict turned: a deviation for a person, never an un-flag.
    let deviation = Assessment { prescreen: Verdict::NotMet, eligibility: Verdict::NotMet, ..assessment(SubjectState::Enrolled) };
    assert_eq!(plan(&receiver(), &study(), "p1", &deviation, &written), []);
}

#[test]
fn before_enrolment_consent_does_not_hold_a_flag_that_the_prescreen_no_longer_carries() {
    for state in [SubjectState::Candidate, SubjectState::Consented, SubjectState::Eligible] {
        for prescreen in [Verdict::NotMet, Verdict::Unknown] {
            let mut written = Vec::new();
            remember(&mut written, &plan(&receiver(), &study(), "p1", &assessment(state), &[]), id_in_url);
            let turned = Assessment { prescreen, ..assessment(state) };
            let requests = plan(&receiver(), &study(), "p1", &turned, &written);
            assert_eq!(statuses(&requests), ["ResearchSubject ineligible", "Flag inactive"], "{state:?} {prescreen:?}");
            remember(&mut written, &requests, id_in_url);
            let again = plan(&receiver(), &study(), "p1", &assessment(state), &written);
            assert!(statuses(&again).contains(&"Flag active".to_owned()), "{state:?}: it comes back with the prescreen");
        }
    }
}

#[test]
fn before_enrolment_a_hidden_subject_is_taken_back_and_what_never_was_says_so() {
    let table: &[(Hidden, bool, &[&str])] = &[
        (Hidden::OptedOut, false, &["ResearchSubject withdrawn", "Flag inactive", "Observation entered-in-error"]),
        (Hidden::Restricted, false, &["ResearchSubject withdrawn", "Flag inactive", "Observation entered-in-error"]),
        (Hidden::Deceased, false, &["ResearchSubject off-study", "Flag inactive", "Observation entered-in-error"]),
        (Hidden::Merged, false, &["ResearchSubject not-registered", "Flag inactive", "Observation entered-in-error"]),
        (Hidden::TestPatient, false, &["ResearchSubject not-registered", "Flag entered-in-error", "Observation entered-in-error"]),
        (Hidden::NoPatient, true, &["ResearchSubject DELETE", "Flag entered-in-error", "Observation entered-in-error"]),
    ];
    for (hidden, deletes, expected) in table {
        let receiver = Receiver { deletes: *deletes, ..receiver() };
        let mut written = Vec::new();
        remember(&mut written, &plan(&receiver, &study(), "p1", &assessment(SubjectState::Candidate), &[]), id_in_url);
        let hidden_now = Assessment { hidden: Some(*hidden), ..assessment(SubjectState::Candidate) };
        let requests = plan(&receiver, &study(), "p1", &hidden_now, &written);
        assert_eq!(statuses(&requests), *expected, "{hidden:?}");
        assert!(requests.iter().all(|request| request.purpose == Purpose::Retract), "{hidden:?}");
        remember(&mut written, &requests, id_in_url);
        assert_eq!(plan(&receiver, &study(), "p1", &hidden_now, &written), [], "{hidden:?}, again");
        assert_eq!(plan(&receiver, &study(), "p1", &hidden_now, &[]), [], "{hidden:?}: nothing stood, nothing is sent");
        // And it can come back.
        let back = plan(&receiver, &study(), "p1", &assessment(SubjectState::Candidate), &written);
        assert_eq!(statuses(&back)[..2], ["ResearchSubject candidate", "Flag active"], "{hidden:?}, back");
    }
}

#[test]
fn identifiers_and_ids_say_nothing_about_the_patient_or_the_study() {
    let requests = plan(&receiver(), &study(), "mrn-4711", &assessment(SubjectState::Candidate), &[]);
    let other_site = Receiver { site: "south".to_owned(), ..receiver() };
    let other_key = Receiver { identifier_key: [7; 32], ..receiver() };
    for request in &requests {
        let body = body(request);
        assert_eq!(body["identifier"][0]["system"], nephrogate::fhir::WRITE_BACK_SYSTEM);
        assert_eq!(body["identifier"][0]["value"].as_str().unwrap(), request.key);
        assert!(request.key.len() == 64 && request.key.bytes().all(|byte| byte.is_ascii_hexdigit()));
        for word in ["4711", "trial-7", "north"] {
            assert!(!request.url.contains(word) && !request.search.contains(word) && !body["identifier"][0].to_string().contains(word));
        }
        for other in [&other_site, &other_key] {
            let others = plan(other, &study(), "mrn-4711", &assessment(SubjectState::Candidate), &[]);
            assert!(others.iter().all(|other| other.key != request.key));
        }
    }
    let keys: std::collections::BTreeSet<&str> = requests.iter().map(|request| request.key.as_str()).collect();
    assert_eq!(keys.len(), requests.len());
}

#[test]
fn the_computed_egfr_is_no_laboratory_result() {
    let observation = body(of_type(&plan(&receiver(), &study(), "p1", &assessment(SubjectState::Candidate), &[]), "Observation"));
    assert!(observation.get("category").is_none());
    assert_eq!(observation["code"]["coding"][0]["code"], "98979-8");
    assert_eq!(observation["valueQuantity"]["value"].to_string(), "36.4");
    assert_eq!(observation["valueQuantity"]["code"], "mL/min/{1.73_m2}");
    assert_eq!(observation["method"]["text"], "ckd-epi-2021-creatinine");
    assert_eq!(observation["derivedFrom"][0]["reference"], "Observation/cr-2");
    assert_eq!(observation["effectiveDateTime"], "2025-03-02T08:30:00+08:00");
    assert_eq!(observation["note"][0]["text"], "research calculation, not a laboratory result");
    assert_eq!(observation["performer"][0]["reference"], "#performer");
    assert_eq!(observation["device"]["reference"], "#device");
    assert_eq!(observation["contained"][0]["name"], "Trial office");
    let quiet = Receiver { beside: Beside::default(), ..receiver() };
    assert_eq!(statuses(&plan(&quiet, &study(), "p1", &assessment(SubjectState::Candidate), &[])).len(), 3);
}

#[test]
fn a_corrected_creatinine_corrects_the_egfr_and_a_withdrawn_one_withdraws_it() {
    let mut written = Vec::new();
    remember(&mut written, &plan(&receiver(), &study(), "p1", &assessment(SubjectState::Candidate), &[]), id_in_url);
    let key = of_type(&plan(&receiver(), &study(), "p1", &assessment(SubjectState::Candidate), &[]), "Observation").key.clone();

    let mut corrected = assessment(SubjectState::Candidate);
    corrected.egfr = Some(30.04);
    corrected.series[1].egfr = 30.04;
    corrected.criteria[0].evidence[0].egfr = Some(30.04);
    let requests = plan(&receiver(), &study(), "p1", &corrected, &written);
    assert_eq!(statuses(&requests), ["Observation corrected"]);
    assert_eq!((requests[0].key.as_str(), body(&requests[0])["valueQuantity"]["value"].to_string().as_str()), (key.as_str(), "30.0"));
    remember(&mut written, &requests, id_in_url);
    assert_eq!(plan(&receiver(), &study(), "p1", &corrected, &written), []);

    // The source is withdrawn: the older result counts now, and what came from the withdrawn one never was.
    let mut withdrawn = assessment(SubjectState::Candidate);
    withdrawn.egfr = Some(40.0);
    withdrawn.series.truncate(1);
    withdrawn.criteria[0].evidence[0].egfr = Some(40.0);
    withdrawn.criteria[0].evidence[0].resource = "Observation/cr-1".to_owned();
    let requests = plan(&receiver(), &study(), "p1", &withdrawn, &written);
    let expected = ["ResearchSubject candidate", "Flag active", "Observation final", "Observation entered-in-error"];
    assert_eq!(statuses(&requests), expected, "the subject and the flag say that they rest on another result now");
    assert_ne!(requests[2].key, key, "another source, another resource");
    assert_eq!((requests[3].key.as_str(), requests[3].purpose), (key.as_str(), Purpose::Retract));
    remember(&mut written, &requests, id_in_url);
    assert_eq!(plan(&receiver(), &study(), "p1", &withdrawn, &written), []);
}

#[test]
fn a_server_that_chooses_ids_is_sent_conditional_creates_and_then_its_own_ids() {
    let receiver = Receiver { update_creates: false, ..receiver() };
    let mut written = Vec::new();
    let requests = plan(&receiver, &study(), "p1", &assessment(SubjectState::Candidate), &written);
    for request in &requests {
        assert_eq!((request.method.as_str(), request.url.as_str()), ("POST", request.resource_type.as_str()));
        assert!(request.headers.contains(&("If-None-Exist".to_owned(), request.search.clone())));
        assert!(body(request).get("id").is_none());
    }
    let subject = body(of_type(&requests, "ResearchSubject"));
    assert_eq!(subject["study"]["identifier"]["value"].as_str().unwrap(), of_type(&requests, "ResearchStudy").key, "a reference by identifier");

    remember(&mut written, &requests, |request| Some(format!("{}-77", request.resource_type)));
    let requests = plan(&receiver, &study(), "p1", &assessment(SubjectState::None), &written);
    let flag = of_type(&requests, "Flag");
    assert_eq!((flag.method.as_str(), flag.url.as_str()), ("PUT", "Flag/Flag-77"));
    assert_eq!(body(flag)["id"], "Flag-77");
    let subject = body(of_type(&requests, "ResearchSubject"));
    assert_eq!(subject["study"]["reference"], "ResearchStudy/ResearchStudy-77");
}

#[test]
fn test_data_is_labelled_and_real_data_is_not() {
    for tag_test in [true, false] {
        let receiver = Receiver { tag_test, ..receiver() };
        for request in plan(&receiver, &study(), "p1", &assessment(SubjectState::Candidate), &[]) {
            assert_eq!(body(&request)["meta"]["security"][0]["code"] == "HTEST", tag_test, "{}", request.resource_type);
        }
    }
}

#[test]
fn the_look_before_sending_finds_what_was_overtaken() {
    let (receiver, study) = (receiver(), study());
    let candidate = assessment(SubjectState::Candidate);
    let requests = plan(&receiver, &study, "p1", &candidate, &[]);
    let mut written = Vec::new();
    remember(&mut written, &requests, id_in_url);
    let still = |assessment: &Assessment, request: &WriteBack| {
        writeback::is_still_wanted(
            &receiver,
            &study,
            Known { subject: "p1", assessment, course: None, mapping_hash: MAPPING_HASH },
            &written,
            request,
        )
    };
    for request in &requests[1..] {
        assert!(still(&candidate, request), "{}", request.resource_type);
        assert!(!still(&Assessment { hidden: Some(Hidden::OptedOut), ..candidate.clone() }, request), "{}", request.resource_type);
    }
    assert!(!still(&assessment(SubjectState::None), of_type(&requests, "Flag")));
    assert!(writeback::is_of_current_study(&receiver, &study, &requests[0]));
    let retractions = plan(&receiver, &study, "p1", &assessment(SubjectState::None), &written);
    assert!(!still(&candidate, of_type(&retractions, "Flag")), "a retraction is overtaken too, by a verdict that turned back");
}

#[test]
fn every_receiver_file_fits_its_schema_and_reads() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let schema: Value = serde_json::from_slice(&std::fs::read(root.join("profiles/receiver.schema.json")).unwrap()).unwrap();
    let schema = jsonschema::validator_for(&schema).unwrap();
    let mut read = 0;
    for site in std::fs::read_dir(root.join("mappings")).unwrap() {
        let Ok(text) = std::fs::read_to_string(site.unwrap().path().join("receiver.json")) else { continue };
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(schema.iter_errors(&value).map(|error| error.to_string()).collect::<Vec<_>>(), Vec::<String>::new());
        let receiver = Settings::read(&text).unwrap().receiver("a-site", "http://127.0.0.1:8090/fhir/", [1; 32]);
        assert_eq!(receiver.base_url, "http://127.0.0.1:8090/fhir");
        read += 1;
    }
    assert!(0 < read);
}
