//! HL7 v2 messages: what they become, what they become together with what comes by FHIR, in any order, and what their sender
//! is told, over real sockets. Single messages with their outcomes are examples of the demo's site (`v2-*.in.hl7`).

mod door;
mod files;
mod identity;

use nephrogate::catalogue::Catalogue;
use nephrogate::clinical::fact::{Body, Fact};
use nephrogate::clinical::statement::statements;
use nephrogate::hl7;
use nephrogate::hl7::ack::{Verdict, acknowledgements};
use nephrogate::hl7::conventions::Conventions;
use nephrogate::issue::{Code, Disposition, Issue};
use nephrogate::pipeline::hl7::prepare;
use nephrogate::pipeline::receive;
use nephrogate::store::ledger::Prepared;
use proptest::prelude::*;

use super::gateway::SITE;

/// A segment by its numbered fields.
pub fn segment(name: &str, fields: &[(usize, &str)]) -> String {
    let last = fields.iter().map(|(number, _)| *number).max().unwrap_or(0);
    let mut written = vec![""; last];
    for (number, text) in fields {
        written[number - 1] = text;
    }
    format!("{name}|{}", written.join("|"))
}

pub fn msh(kind: &str, id: &str, at: &str) -> String {
    format!("MSH|^~\\&|LIS|DEMO|NEPHROGATE|DEMO|{at}||{kind}|{id}|P|2.5.1|||||TWN|UNICODE UTF-8")
}

pub fn pid(id: &str) -> String {
    format!("PID|1||{id}^^^DEMO^MR||Doe^Jane||19660101|F")
}

pub fn message(segments: &[String]) -> Vec<u8> {
    segments.iter().flat_map(|segment| [segment.as_bytes(), b"\r"].concat()).collect()
}

/// A serum creatinine in mg/dL of an order, taken on 2026-03-01 at 08:00 in Taipei.
pub fn creatinine(id: &str, at: &str, patient: &str, order: &str, status: &str, mg_dl: &str) -> Vec<u8> {
    message(&[
        msh("ORU^R01^ORU_R01", id, at),
        pid(patient),
        segment("OBR", &[(1, "1"), (3, order), (4, "24362-6^Renal^LN"), (7, "20260301080000"), (22, "20260301110000"), (25, "F")]),
        segment(
            "OBX",
            &[(1, "1"), (2, "NM"), (3, "2160-0^Creatinine^LN"), (5, mg_dl), (6, "mg/dL^^UCUM"), (7, "0.6-1.2"), (11, status), (14, "20260301080000")],
        ),
    ])
}

pub fn catalogue() -> Catalogue {
    Catalogue::load(None).unwrap_or_else(|faults| panic!("{faults:?}"))
}

fn prepared(bytes: &[u8]) -> Prepared {
    let catalogue = catalogue();
    prepare(&catalogue, &catalogue.sites[SITE], bytes)
}

fn fact(prepared: &Prepared) -> &Fact {
    prepared.fact.as_ref().unwrap_or_else(|| panic!("{:?}", prepared.issues))
}

#[test]
fn the_same_result_by_fhir_and_by_hl7_is_the_same_fact() {
    let catalogue = catalogue();
    let site = &catalogue.sites[SITE];
    let by_fhir = receive::prepare(&catalogue, site, fhir_creatinine("1", "2026-03-01T12:00:00+08:00", "final", "1.80").as_bytes());
    let message = prepare(&catalogue, site, &creatinine("1", "20260301120000+0800", "p1", "F-1", "F", "1.80"));
    assert_eq!((message.disposition, message.derived.len()), (Disposition::Applied, 2));
    let by_hl7 = &message.derived[1];
    assert_eq!(by_hl7.subject, by_fhir.subject);
    let (by_hl7, by_fhir) = (fact(by_hl7), fact(&by_fhir));
    assert_eq!(by_hl7.body, by_fhir.body);
    assert_eq!((&by_hl7.key, by_hl7.status, by_hl7.issued_ms), (&by_fhir.key, by_fhir.status, by_fhir.issued_ms));
    assert!(by_hl7.key.is_some());
}

#[test]
fn a_patient_with_a_corrected_result_is_the_same_chart_by_either_door() {
    let catalogue = catalogue();
    let site = &catalogue.sites[SITE];
    let by_fhir = [
        r#"{"resourceType":"Patient","id":"p1","meta":{"versionId":"1","lastUpdated":"2026-03-01T00:00:00Z"},"gender":"female","birthDate":"1966-01-01"}"#.to_owned(),
        fhir_creatinine("1", "2026-03-01T12:00:00+08:00", "final", "1.80"),
        fhir_creatinine("2", "2026-03-02T09:00:00+08:00", "corrected", "1.40"),
    ];
    let by_fhir: Vec<Fact> = by_fhir.iter().map(|body| fact(&receive::prepare(&catalogue, site, body.as_bytes())).clone()).collect();
    let by_hl7 = [
        message(&[msh("ADT^A28^ADT_A05", "0", "20260301080000+0800"), pid("p1")]),
        creatinine("1", "20260301120000+0800", "p1", "F-1", "F", "1.80"),
        creatinine("2", "20260302090000+0800", "p1", "F-1", "C", "1.40"),
    ];
    let by_hl7: Vec<Fact> =
        by_hl7.iter().flat_map(|message| prepare(&catalogue, site, message).derived).map(|derived| fact(&derived).clone()).collect();
    let said = |facts: Vec<Fact>| statements(&site.chart(facts));
    let (by_fhir, by_hl7) = (said(by_fhir), said(by_hl7));
    assert_eq!(by_hl7, by_fhir);
    assert_eq!(by_hl7.iter().map(|statement| statement.kind).collect::<Vec<_>>(), ["measurement", "person"]);
}

fn fhir_creatinine(version: &str, updated: &str, status: &str, mg_dl: &str) -> String {
    format!(
        r#"{{"resourceType":"Observation","id":"o1","meta":{{"versionId":"{version}","lastUpdated":"{updated}"}},"status":"{status}",
            "identifier":[{{"system":"https://demo-hospital.example.org/accession","value":"F-1"}}],
            "code":{{"coding":[{{"system":"http://loinc.org","code":"2160-0"}}]}},"subject":{{"reference":"Patient/p1"}},
            "effectiveDateTime":"2026-03-01T08:00:00+08:00","issued":"2026-03-01T11:00:00+08:00",
            "valueQuantity":{{"value":{mg_dl},"unit":"mg/dL","system":"http://unitsofmeasure.org","code":"mg/dL"}},
            "referenceRange":[{{"low":{{"value":0.6,"unit":"mg/dL"}},"high":{{"value":1.2,"unit":"mg/dL"}}}}]}}"#
    )
}

#[test]
fn a_correction_has_the_id_of_what_it_corrects_whatever_time_it_brings() {
    let first = prepared(&creatinine("1", "20260301120000+0800", "p1", "F-1", "F", "1.80"));
    let text = String::from_utf8(creatinine("2", "20260302090000+0800", "p1", "F-1", "C", "1.40")).unwrap();
    let later = prepared(text.replace("|20260301080000\r", "|20260301093000\r").as_bytes());
    assert_eq!(first.derived[1].id, later.derived[1].id);
    assert!(first.derived[1].last_updated_ms < later.derived[1].last_updated_ms);
    // Another order, another code, another patient, and no order number at all are other results.
    let others = [
        creatinine("3", "20260301120000+0800", "p1", "F-2", "F", "1.80"),
        creatinine("4", "20260301120000+0800", "p2", "F-1", "F", "1.80"),
        creatinine("5", "20260301120000+0800", "p1", "", "F", "1.80"),
        String::from_utf8(creatinine("6", "20260301120000+0800", "p1", "F-1", "F", "1.80")).unwrap().replace("2160-0", "38483-4").into_bytes(),
    ];
    let mut ids: Vec<_> = others.iter().map(|other| prepared(other).derived[1].id.clone().unwrap()).collect();
    ids.push(first.derived[1].id.clone().unwrap());
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 5);
}

#[test]
fn results_of_several_times_under_one_order_are_told_apart_and_contradictions_are_not() {
    let of_times = |second: &str, value: &str| {
        let text = String::from_utf8(creatinine("1", "20260301120000+0800", "p1", "F-1", "F", "1.80")).unwrap();
        let obx = text.lines().last().unwrap().rsplit('\r').find(|line| line.starts_with("OBX")).unwrap().to_owned();
        let again = obx.replace("OBX|1", "OBX|2").replace("|1.80|", &format!("|{value}|")).replace("20260301080000", second);
        prepared(format!("{text}{again}\r").as_bytes()).derived.into_iter().skip(1).collect::<Vec<_>>()
    };
    let two_times = of_times("20260301100000", "1.90");
    assert_ne!(two_times[0].id, two_times[1].id);
    // Two values of one test at one time: one result that contradicts itself, which decides nothing.
    let one_time = of_times("20260301080000", "1.90");
    assert_eq!(one_time[0].id, one_time[1].id);
    let chart = nephrogate::clinical::chart::Chart::fold(one_time.iter().map(|one| fact(one).clone()).collect(), &[]);
    assert!(chart.measurements.iter().all(|measurement| measurement.is_conflicting), "{:?}", chart.measurements);
}

#[test]
fn a_message_says_nothing_of_a_name_an_address_or_a_telephone_number() {
    let text = String::from_utf8(message(&[
        msh("ADT^A31^ADT_A05", "1", "20260301120000+0800"),
        segment(
            "PID",
            &[
                (3, "p1^^^DEMO^MR"),
                (5, "Mustermann^Erika^^^^^L"),
                (7, "19660101"),
                (8, "F"),
                (11, "Heidestrasse 17^^Koeln"),
                (13, "0221-555"),
                (29, "20260228"),
                (30, "Y"),
            ],
        ),
        "NK1|1|Mustermann^Max".to_owned(),
    ]))
    .unwrap();
    let site = catalogue();
    let converted = hl7::convert(text.as_bytes(), site.sites[SITE].hl7_v2.as_ref()).unwrap();
    let said: String = converted.resources.iter().map(|resource| String::from_utf8_lossy(&resource.json).into_owned()).collect();
    for word in ["Mustermann", "Erika", "Heidestrasse", "Koeln", "0221"] {
        assert!(!said.contains(word), "{said}");
    }
    assert!(said.contains("1966-01-01") && said.contains("2026-02-28"), "{said}");
}

#[test]
fn what_is_sent_for_training_is_counted_and_says_nothing_of_anybody() {
    let of = |processing: &str| {
        let text = String::from_utf8(creatinine("1", "20260301120000+0800", "p1", "F-1", "F", "1.80")).unwrap();
        let prepared = prepared(text.replace("|P|2.5.1", &format!("|{processing}|2.5.1")).as_bytes());
        (prepared.disposition, prepared.derived.len(), prepared.subject)
    };
    for test in ["T", "D^A"] {
        assert_eq!(of(test), (Disposition::OutOfScope, 0, None), "{test}");
    }
    for real in ["P", ""] {
        assert_eq!(of(real), (Disposition::Applied, 2, Some("p1".into())), "{real}");
    }
}

#[test]
fn an_authority_without_a_number_names_no_order() {
    let id = |order: &str, taken: &str| {
        let text = String::from_utf8(creatinine("1", "20260301120000+0800", "p1", order, "F", "1.80")).unwrap();
        prepared(text.replace("|20260301080000", &format!("|{taken}")).as_bytes()).derived[1].id.clone().unwrap()
    };
    for nothing in ["", "^LAB", "\"\""] {
        assert_ne!(id(nothing, "20260301080000"), id(nothing, "20260305080000"), "{nothing}");
    }
    assert_eq!(id("F-1^LAB", "20260301080000"), id("F-1^LAB", "20260305080000"));
    assert_ne!(id("F-1^LAB", "20260301080000"), id("F-1^OTHER", "20260301080000"));
}

#[test]
fn a_zone_that_the_site_does_not_name_is_that_of_the_message() {
    let mut said = serde_json::json!({"patient_identifier": {"authority": "DEMO", "type": "MR"}});
    let mut taken = |zone: Option<&str>| {
        if let Some(zone) = zone {
            said["zone"] = serde_json::json!(zone);
        }
        let conventions = Conventions::compile(&serde_json::from_value(said.clone()).unwrap(), None, None, false).unwrap();
        let converted = hl7::convert(&creatinine("1", "20260301120000+0530", "p1", "F-1", "F", "1.80"), Some(&conventions)).unwrap();
        let result: serde_json::Value = serde_json::from_slice(&converted.resources[1].json).unwrap();
        result["effectiveDateTime"].as_str().unwrap().to_owned()
    };
    assert_eq!(taken(None), "2026-03-01T08:00:00+05:30");
    assert_eq!(taken(Some("+08:00")), "2026-03-01T08:00:00+08:00");
}

#[test]
fn a_protected_record_is_protected_by_its_own_segment_in_results_too() {
    let text = String::from_utf8(creatinine("1", "20260301120000+0800", "p1", "F-1", "F", "1.80")).unwrap();
    let shown = |text: &str| {
        String::from_utf8(hl7::convert(text.as_bytes(), catalogue().sites[SITE].hl7_v2.as_ref()).unwrap().resources[0].json.clone()).unwrap()
    };
    assert!(!shown(&text).contains("v3-Confidentiality"));
    let protected = text.replace("\rOBR", &format!("\r{}\rOBR", segment("PD1", &[(12, "Y")])));
    assert!(shown(&protected).contains("v3-Confidentiality"));
    // Of two records that are merged each has its own.
    let merge = message(&[
        msh("ADT^A40^ADT_A39", "1", "20260301120000+0800"),
        pid("p1"),
        segment("PD1", &[(12, "Y")]),
        segment("MRG", &[(1, "p0^^^DEMO^MR")]),
        pid("p2"),
        segment("MRG", &[(1, "p3^^^DEMO^MR")]),
    ]);
    let resources = hl7::convert(&merge, catalogue().sites[SITE].hl7_v2.as_ref()).unwrap().resources;
    let protected: Vec<serde_json::Value> = resources
        .iter()
        .map(|resource| serde_json::from_slice(&resource.json).unwrap())
        .filter(|patient: &serde_json::Value| patient.to_string().contains("v3-Confidentiality"))
        .collect();
    assert_eq!((protected.len(), &protected[0]["id"]), (1, &serde_json::json!("p1")));
}

#[test]
fn without_a_word_of_the_site_nobody_is_guessed() {
    let catalogue = catalogue();
    let silent = prepare(&catalogue, &catalogue.sites["synthea"], &creatinine("1", "20260301120000+0800", "p1", "F-1", "F", "1.80"));
    assert_eq!((silent.disposition, silent.derived.len()), (Disposition::Quarantined, 0));
    assert_eq!(silent.issues[0].code, Code::IdentityMissing);
    assert!(!silent.body.is_empty(), "it can be read anew");
}

#[test]
fn an_acknowledgement_turns_the_header_round_in_the_senders_own_delimiters() {
    let told = |message: &[u8], verdict: &Verdict| -> Vec<String> {
        acknowledgements(message, verdict, "20260301120001+0000", "N1").into_iter().map(|one| String::from_utf8(one).unwrap()).collect()
    };
    let plain = creatinine("CTRL-7", "20260301120000+0800", "p1", "F-1", "F", "1.80");
    assert_eq!(
        told(&plain, &Verdict::Taken(Vec::new())),
        ["MSH|^~\\&|NEPHROGATE|DEMO|LIS|DEMO|20260301120001+0000||ACK^R01^ACK|N1|P|2.5.1||||||UNICODE UTF-8\rMSA|AA|CTRL-7\r"]
    );
    let kept = Verdict::Taken(vec![Issue::new(Code::IdentityMissing, "PID[1]-3").with_detail("no identifier")]);
    let answer = told(&plain, &kept).remove(0);
    assert!(
        answer.contains("MSA|AA|CTRL-7\rERR||PID^1^3|204^Unknown key identifier^HL70357|W|identity-missing^^urn.nephrogate.issue|"),
        "{answer:?}"
    );
    // Before 2.5 ERR had no fields for it; whoever asked for none gets none.
    let old = String::from_utf8(plain.clone()).unwrap().replace("|P|2.5.1|", "|P|2.3|");
    assert!(!told(old.as_bytes(), &kept)[0].contains("ERR"));
    let own = b"MSH*:+!%*LAB*DEMO****20260301*ADT:A08*9*P*2.4\r";
    assert_eq!(told(own, &Verdict::Later("no room")), ["MSH*:+!%***LAB*DEMO*20260301120001+0000**ACK:A08:ACK*N1*P*2.4\rMSA*AE*9*no room\r"]);
    let refused = told(b"{}", &Verdict::Refused(vec![Issue::new(Code::NotHl7V2, "")])).remove(0);
    assert!(
        refused.starts_with("MSH|^~\\&|||||20260301120001+0000||ACK|N1|P|2.5.1\rMSA|AR||the bytes are no HL7 v2 message\rERR|||100^"),
        "{refused:?}"
    );
    // The enhanced rules: who only wants to know that it was taken, only that it was not, or both.
    let asks = |accept: &str, application: &str| {
        let text = String::from_utf8(plain.clone()).unwrap().replace("|2.5.1|||||", &format!("|2.5.1|||{accept}|{application}|"));
        let codes = |verdict: &Verdict| -> Vec<String> {
            told(text.as_bytes(), verdict).iter().map(|one| one.split("MSA|").nth(1).unwrap()[..2].to_owned()).collect()
        };
        (codes(&Verdict::Taken(Vec::new())), codes(&Verdict::Later("later")))
    };
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    assert_eq!(asks("AL", "NE"), (words(&["CA"]), words(&["CE"])));
    assert_eq!(asks("ER", "AL"), (words(&["AA"]), words(&["CE", "AE"])));
    assert_eq!(asks("NE", "NE"), (words(&[]), words(&[])));
    assert_eq!(asks("SU", "SU"), (words(&["CA", "AA"]), words(&[])));
}

/// Messages that are nearly right: pieces of real ones, put together and broken.
fn nearly_a_message() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        8 => prop::sample::select(vec![
            "MSH|^~\\&|A|B|C|D|20260301||ORU^R01|1|P|2.5", "MSH|^~\\&|||||20260301120000+0800||ADT^A40|2|P|2.5", "MSH|", "MSH|^", "MSH", "MSH||||",
            "\r", "\n", "\r\n", "PID|1||p1^^^DEMO^MR", "PID|||~~^^^DEMO&&ISO^MR", "MRG|p9^^^DEMO^MR", "OBR|1||F-1|||| 2026", "OBX|1|NM|2160-0^^LN||1.8",
            "OBX|1|SN|2160-0^^LN||<^5^-^", "OBX|", "PV1|1|I", "|", "^", "~", "&", "\\", "\\X", "\\X0D\\", "\\.sp999999\\", "\"\"", "FHS|", "BHS|^~\\&", "BTS|9",
            "20260230", "-", "+", "9999999999999999999999", "é", "王",
        ]).prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..6),
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_bytes_make_the_reader_panic_and_what_it_answers_is_fhir(bytes in nearly_a_message()) {
        thread_local! {
            static CATALOGUE: Catalogue = catalogue();
        }
        CATALOGUE.with(|catalogue| {
            let site = &catalogue.sites[SITE];
            for range in hl7::messages(&bytes) {
                let message = &bytes[range];
                if let Ok(converted) = hl7::convert(message, site.hl7_v2.as_ref()) {
                    for resource in converted.resources {
                        let read = receive::prepare(catalogue, site, &resource.json);
                        prop_assert!(read.issues.iter().all(|issue| issue.code != Code::NotJson && issue.code != Code::EmptyElement), "{:?}", read.issues);
                        prop_assert_ne!(read.resource_type.as_str(), "-");
                    }
                }
                let prepared = prepare(catalogue, site, message);
                prop_assert!(prepared.issues.iter().all(|issue| issue.code != Code::Internal));
                for one in acknowledgements(message, &Verdict::Taken(prepared.issues.clone()), "20260301", "1") {
                    prop_assert!(one.windows(3).any(|three| three == b"MSA"));
                }
            }
            Ok(())
        })?;
    }
}

/// What a person is said to be, of all facts of one Patient.
fn person_of(facts: Vec<Fact>) -> Option<nephrogate::clinical::fact::Person> {
    nephrogate::clinical::chart::Chart::fold(facts, &[]).person.map(|person| person.body)
}

fn part_of(prepared: &Prepared, id: &str) -> Fact {
    let is_it =
        |derived: &&Prepared| derived.id.as_deref() == Some(id) && matches!(derived.fact.as_ref().map(|fact| &fact.body), Some(Body::PersonPart(_)));
    fact(prepared.derived.iter().find(is_it).expect("it is stated")).clone()
}
