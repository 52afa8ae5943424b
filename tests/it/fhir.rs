//! The gate, the views, the profiles, the split of Bundles, and what we author.

use std::path::{Path, PathBuf};
use std::process::Command;

use nephrogate::fhir::build::{self, parts};
use nephrogate::fhir::bundle::{self, Kind, Method};
use nephrogate::fhir::profile::Profiles;
use nephrogate::fhir::schema::Schema;
use nephrogate::fhir::study_flagged::{self, Audit, Egfr, Identity, Interaction, Note, Target};
use nephrogate::fhir::{RawResource, WRITE_BACK_SYSTEM, strict_opinion, view};
use nephrogate::issue::Code;
use proptest::prelude::*;
use serde_json::Value;

/// A creatinine result with one thing replaced.
fn result_with(from: &str, to: &str) -> String {
    let text = r#"{"resourceType":"Observation","id":"o1","meta":{"versionId":"7","lastUpdated":"2026-03-01T11:00:00+01:00"},"status":"final","category":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/observation-category","code":"laboratory"}]}],"code":{"coding":[{"system":"http://loinc.org","code":"2160-0"}],"text":"Creatinine"},"subject":{"reference":"Patient/p1"},"effectiveDateTime":"2026-03-01T09:30:00Z","valueQuantity":{"value":2.10,"unit":"mg/dL","system":"http://unitsofmeasure.org","code":"mg/dL"}}"#;
    assert!(from.is_empty() || text.contains(from), "the sample does not hold {from}");
    if from.is_empty() { text.to_string() } else { text.replacen(from, to, 1) }
}

fn nested_objects(levels: usize) -> String {
    format!("{{\"resourceType\":\"Basic\",{}\"x\":1{}}}", "\"a\":{".repeat(levels), "}".repeat(levels))
}

fn many_keys(count: usize, last: &str) -> String {
    let mut text = String::from(r#"{"resourceType":"Basic""#);
    (0..count).for_each(|n| text.push_str(&format!(r#","key{n}":{n}"#)));
    text + last + "}"
}

/// Where the gate refuses: body, code, element path. An empty path is the whole body.
fn refused() -> Vec<(String, Code, &'static str)> {
    use Code::*;
    let unit = r#""unit":"mg/dL""#;
    let value = r#""value":2.10"#;
    vec![
        (String::new(), NotJson, ""),
        ("   ".into(), NotJson, ""),
        ("[]".into(), NotJson, ""),
        ("\"Observation\"".into(), NotJson, ""),
        ("{".into(), NotJson, ""),
        ("{}".into(), EmptyElement, ""),
        (r#"{"id":"x"}"#.into(), WrongResourceType, "resourceType"),
        (r#"{"id":"x","resourceType":"Observaton"}"#.into(), WrongResourceType, "resourceType"),
        (r#"{"resourceType":7}"#.into(), WrongResourceType, "Resource.resourceType"),
        (r#"{"resourceType":"Obs ervation"}"#.into(), WrongResourceType, "Resource.resourceType"),
        (r#"{"id":"a b","resourceType":"Patient"}"#.into(), InvalidId, "Resource.id"),
        (result_with("", "") + "x", NotJson, "Observation"),
        (result_with("", "") + &result_with("", ""), NotJson, "Observation"),
        (format!("\u{feff}\u{feff}{}", result_with("", "")), NotJson, ""),
        (result_with(r#""status":"final","#, r#""status":"final",,"#), NotJson, "Observation"),
        (result_with(r#""status":"final","#, r#"status:"final","#), NotJson, "Observation"),
        (result_with(r#""status":"final","#, r#"/* */"status":"final","#), NotJson, "Observation"),
        (result_with("}}", "},}"), NotJson, "Observation"),
        (result_with(r#""id":"o1""#, r#""id":"../../etc/passwd""#), InvalidId, "Observation.id"),
        (result_with(r#""id":"o1""#, r#""id":"o1%2e""#), InvalidId, "Observation.id"),
        (result_with(r#""id":"o1""#, &format!(r#""id":"{}""#, "x".repeat(65))), InvalidId, "Observation.id"),
        (result_with(r#""id":"o1""#, r#""id":17"#), InvalidId, "Observation.id"),
        (result_with(r#""id":"o1""#, r#""id":["o1"]"#), InvalidId, "Observation.id"),
        (result_with(r#""id":"o1""#, r#""\u0069d":"o/1""#), InvalidId, "Observation.id"),
        (result_with(r#""versionId":"7""#, r#""versionId":"W/7""#), InvalidId, "Observation.meta.versionId"),
        (result_with(r#""status":"final""#, r#""status":"final","status":"final""#), DuplicateKey, "Observation.status"),
        (result_with(r#""status":"final""#, r#""status":"final","st\u0061tus":"amended""#), DuplicateKey, "Observation.status"),
        (result_with(r#""code":"laboratory""#, r#""code":"laboratory","code":"x""#), DuplicateKey, "Observation.category[0].coding[0].code"),
        (many_keys(10_000, r#","key9999":1"#), DuplicateKey, "Basic.key9999"),
        (many_keys(10_000, r#","\u006bey17":1"#), DuplicateKey, "Basic.key17"),
        (result_with(unit, r#""unit":"""#), EmptyElement, "Observation.valueQuantity.unit"),
        (result_with(unit, r#""unit":{}"#), EmptyElement, "Observation.valueQuantity.unit"),
        (result_with(unit, r#""unit":[ ]"#), EmptyElement, "Observation.valueQuantity.unit"),
        (result_with(unit, r#""":1"#), EmptyElement, "Observation.valueQuantity"),
        (result_with(unit, r#""unit":null"#), NullValue, "Observation.valueQuantity.unit"),
        (result_with(r#""category":[{"#, r#""category":[null,{"#), NullValue, "Observation.category[0]"),
        (result_with(value, r#""value":{"$serde_json::private::Number":"9"}"#), Shape, "Observation.valueQuantity.value.?"),
        (result_with(value, r#""value":{"\u0024serde_json::private::Number":"x"}"#), Shape, "Observation.valueQuantity.value.?"),
        (result_with(unit, "\"unit\":\"mg\u{1}\""), ControlCharacter, "Observation.valueQuantity.unit"),
        (result_with(unit, "\"unit\":\"mg\tdL\""), ControlCharacter, "Observation.valueQuantity.unit"),
        (result_with(unit, r#""unit":"mg\u0000""#), ControlCharacter, "Observation.valueQuantity.unit"),
        (result_with(unit, r#""unit":"mg\u001f""#), ControlCharacter, "Observation.valueQuantity.unit"),
        (result_with(unit, r#""unit":"mg\b""#), ControlCharacter, "Observation.valueQuantity.unit"),
        (result_with(unit, r#""unit":"\ud800""#), NotUtf8, "Observation.valueQuantity.unit"),
        (result_with(unit, r#""unit":"\ud800\u0041""#), NotUtf8, "Observation.valueQuantity.unit"),
        (result_with(unit, r#""unit":"\udc00\ud800""#), NotUtf8, "Observation.valueQuantity.unit"),
        (result_with(unit, r#""unit":"\u12g4""#), NotJson, "Observation.valueQuantity.unit"),
        (result_with(unit, r#""unit":"\u+123""#), NotJson, "Observation.valueQuantity.unit"),
        (result_with(unit, r#""unit":"\x""#), NotJson, "Observation.valueQuantity.unit"),
        (result_with(value, r#""value":1E+999999999"#), InvalidNumber, "Observation.valueQuantity.value"),
        (result_with(value, r#""value":1e-400"#), InvalidNumber, "Observation.valueQuantity.value"),
        (result_with(value, &format!(r#""value":0.{}"#, "1".repeat(40))), InvalidNumber, "Observation.valueQuantity.value"),
        (result_with(value, r#""value":Infinity"#), NotJson, "Observation.valueQuantity.value"),
        (result_with(value, r#""value":NaN"#), NotJson, "Observation.valueQuantity.value"),
        (result_with(value, r#""value":02.1"#), NotJson, "Observation.valueQuantity.value"),
        (result_with(value, r#""value":.5"#), NotJson, "Observation.valueQuantity.value"),
        (result_with(value, r#""value":+2.1"#), NotJson, "Observation.valueQuantity.value"),
        (result_with(value, r#""value":2."#), NotJson, "Observation.valueQuantity.value"),
        (result_with(value, r#""value":2e"#), NotJson, "Observation.valueQuantity.value"),
        (result_with(value, r#""value":0x2"#), NotJson, "Observation.valueQuantity"),
        (result_with(value, r#""value":2,1"#), NotJson, "Observation.valueQuantity"),
        (result_with(value, r#""value":tru"#), NotJson, "Observation.valueQuantity.value"),
    ]
}

#[test]
fn the_gate_says_what_is_wrong_and_where() {
    for (body, code, path) in refused() {
        let issue = RawResource::parse(body.as_bytes()).expect_err(&body);
        assert_eq!((issue.code, issue.path.as_str()), (code, path), "{}", &body[..body.len().min(200)]);
    }
}

#[test]
fn the_gate_lets_pass_what_fhir_allows() {
    let unit = r#""unit":"mg/dL""#;
    let value = r#""value":2.10"#;
    for body in [
        result_with("", ""),
        format!("\u{feff}{}", result_with("", "")),
        format!(" \r\n\t{}\n", result_with("", "").replace(',', " ,\n\t")),
        result_with(value, r#""value":-0"#),
        result_with(value, r#""value":2.1000000000000000000000000001"#),
        result_with(value, r#""value":1.0e2"#),
        result_with(unit, r#""unit":"a\tb\nc\r\u000a\/\\\"""#),
        result_with(unit, r#""unit":"\ud83d\ude00 µ ü""#),
        result_with(unit, r#""given":["a",null],"_given":[null,{"id":"x"}]"#),
        many_keys(10_000, ""),
        nested_objects(63),
    ] {
        assert_eq!(RawResource::parse(body.as_bytes()).map(|_| ()), Ok(()), "{}", &body[..body.len().min(200)]);
    }
}

#[test]
fn the_gate_picks_up_type_id_version_and_time() {
    let body = format!("\u{feff}{}", result_with("", ""));
    let resource = RawResource::parse(body.as_bytes()).unwrap();
    assert_eq!(resource.resource_type, "Observation");
    assert_eq!(resource.id, Some("o1"));
    assert_eq!(resource.version, Some("7"));
    assert_eq!(resource.last_updated_ms, Some(1_772_359_200_000)); // 2026-03-01T10:00:00Z
    assert_eq!(resource.bytes[0], b'{');
    // Only the resource's own: an id further down is not the resource's.
    let other = r#"{"contained":[{"resourceType":"Patient","id":"c","meta":{"versionId":"9"}}],"resourceType":"Observation"}"#;
    let resource = RawResource::parse(other.as_bytes()).unwrap();
    assert_eq!((resource.resource_type, resource.id, resource.version), ("Observation", None, None));
}

#[test]
fn a_body_nested_without_end_is_refused_at_once() {
    for body in
        ["[".repeat(100_000), format!(r#"{{"resourceType":"Basic","a":{}"#, "[".repeat(100_000)), nested_objects(64), r#"{"a":"#.repeat(50_000)]
    {
        let code = RawResource::parse(body.as_bytes()).unwrap_err().code;
        assert!(matches!(code, Code::TooDeep | Code::NotJson), "{code}");
    }
    assert_eq!(RawResource::parse(nested_objects(64).as_bytes()).unwrap_err().code, Code::TooDeep);
}

#[test]
fn bytes_that_are_not_utf8_are_refused() {
    let mut body = result_with("", "").into_bytes();
    let at = body.iter().position(|byte| *byte == b'C').unwrap();
    body.splice(at..at, [0xFF, 0xFE]);
    assert_eq!(RawResource::parse(&body).unwrap_err().code, Code::NotUtf8);
    let utf16: Vec<u8> = result_with("", "").encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert!(RawResource::parse(&utf16).is_err());
}

#[test]
fn no_issue_of_the_gate_holds_a_value() {
    let body = result_with(r#""reference":"Patient/p1""#, r#""display":"Wang Xiaoming\u0001","Wang Xiaoming":"x""#);
    let issue = RawResource::parse(body.as_bytes()).unwrap_err();
    assert!(!format!("{issue} {issue:?}").contains("Wang"));
    let body = result_with(r#""reference":"Patient/p1""#, r#""Wang Xiaoming":null"#);
    let issue = RawResource::parse(body.as_bytes()).unwrap_err();
    assert_eq!((issue.code, issue.path.as_str()), (Code::NullValue, "Observation.subject.?"));
}

#[test]
fn a_view_keeps_the_digits_and_undoes_escapes() {
    let body = result_with(r#""unit":"mg/dL""#, r#""unit":"mg\/dL""#).replace("2160-0", r"2160\u002d0");
    let view = view::observation(&RawResource::parse(body.as_bytes()).unwrap()).unwrap();
    let quantity = view.value_quantity.unwrap();
    assert_eq!(quantity.value.unwrap().text(), "2.10");
    assert_eq!(quantity.unit.as_deref(), Some("mg/dL"));
    assert!(view.code.has("http://loinc.org", "2160-0"));
    assert_eq!(view.subject.unwrap().reference.as_deref(), Some("Patient/p1"));
    assert_eq!(view.effective_date_time.as_deref(), Some("2026-03-01T09:30:00Z"));
}

/// JSON values as FHIR may hold them: nothing null, nothing empty.
fn fhir_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1e12..1e12_f64).prop_map(Value::from),
        "[ -~\t\n\u{a0}-\u{d7ff}\u{10000}-\u{10ffff}]{1,20}".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 1..6).prop_map(Value::from),
            prop::collection::vec(("[ -#%-~][ -~]{0,11}", inner), 1..40).prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn resource_json() -> impl Strategy<Value = Value> {
    prop::collection::vec(("_?[a-zA-Z]{3,12}", fhir_json()), 0..50).prop_map(|members| {
        let mut object = serde_json::Map::from_iter(members.into_iter().filter(|(key, _)| key != "meta"));
        object.insert("resourceType".into(), "Observation".into());
        Value::Object(object)
    })
}

proptest! {
    #[test]
    fn what_a_good_writer_writes_passes(resource in resource_json(), is_pretty in any::<bool>()) {
        let text = if is_pretty { serde_json::to_string_pretty(&resource) } else { serde_json::to_string(&resource) }.unwrap();
        prop_assert_eq!(RawResource::parse(text.as_bytes()).map(|found| found.resource_type), Ok("Observation"));
    }

    #[test]
    fn what_passes_is_json_to_everybody_and_mutations_never_panic(
        resource in resource_json(),
        at in any::<prop::sample::Index>(),
        length in 0..4_usize,
        with in prop::sample::select(vec!["", "\"", "\\", "{", "}", "[", "]", ",", ":", "null", "0", "-", "e9", "\u{0}", "\\u", "\\ud800", "{\"a\":1}", "\"a\":1,"]),
    ) {
        let mut bytes = serde_json::to_vec(&resource).unwrap();
        let at = at.index(bytes.len());
        let end = (at + length).min(bytes.len());
        bytes.splice(at..end, with.bytes());
        let outcome = RawResource::parse(&bytes).map(|_| ());
        let others: Result<Value, _> = serde_json::from_slice(&bytes);
        if outcome.is_ok() {
            prop_assert!(others.is_ok());
        }
        if others.is_err() {
            prop_assert!(outcome.is_err());
        }
    }
}

/// The schemas of this repository, as the catalogue hands them over.
pub fn profiles() -> Profiles {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("profiles");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.ends_with(".schema.json") {
            files.push((name, std::fs::read_to_string(path).unwrap()));
        }
    }
    Profiles::compile(files.iter().map(|(name, text)| (name.as_str(), text.as_str()))).unwrap()
}

/// Third-party data beside the repository, where it is present.
pub fn shared(path: &str) -> Option<PathBuf> {
    let found = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared").join(path);
    if found.exists() {
        return Some(found);
    }
    println!("skipped: ../shared/{path} is not here");
    None
}

#[test]
fn the_profile_faults_shapes_codes_and_dates_by_their_path() {
    use Code::*;
    let profiles = profiles();
    let unit = r#""unit":"mg/dL""#;
    let value = r#""value":2.10"#;
    let time = r#""effectiveDateTime":"2026-03-01T09:30:00Z""#;
    let dated = |date: &str| result_with(time, &format!(r#""effectiveDateTime":"{date}""#));
    let table: Vec<(String, Vec<(Code, &str)>)> = vec![
        (result_with("", ""), vec![]),
        (dated("2026"), vec![]),
        (dated("2026-03"), vec![]),
        (dated("2026-03-01T09:30:00"), vec![]), // a site may declare its zone
        (dated("2026-03-01T09:30:00.123456+14:00"), vec![]),
        (dated("2026-03-01T10:00Z"), vec![(InvalidDate, "Observation.effectiveDateTime")]),
        (dated("2026-03-01T24:00:00Z"), vec![(InvalidDate, "Observation.effectiveDateTime")]),
        (dated("2026-03-01T10:00:00+15:00"), vec![(InvalidDate, "Observation.effectiveDateTime")]),
        (dated("2026-02-30"), vec![(InvalidDate, "Observation.effectiveDateTime")]),
        (dated("20260301"), vec![(InvalidDate, "Observation.effectiveDateTime")]),
        (dated("0000-01-01"), vec![(InvalidDate, "Observation.effectiveDateTime")]),
        (result_with(time, r#""effectivePeriod":{"end":"yesterday"}"#), vec![(InvalidDate, "Observation.effectivePeriod.end")]),
        (result_with(time, r#""issued":"2026-03-01""#), vec![(InvalidDate, "Observation.issued")]),
        (result_with(r#""status":"final","#, ""), vec![(Shape, "Observation.status")]),
        (result_with(r#""status":"final""#, r#""status":"done""#), vec![(Shape, "Observation.status")]),
        (result_with(r#""status":"final""#, r#""status":["final"]"#), vec![(Shape, "Observation.status")]),
        (result_with(r#""id":"o1","#, ""), vec![(InvalidId, "Observation.id")]),
        (result_with(value, r#""value":"2.10""#), vec![(Shape, "Observation.valueQuantity.value")]),
        (result_with(value, r#""value":true"#), vec![(Shape, "Observation.valueQuantity.value")]),
        (result_with(unit, r#""unit":7"#), vec![(Shape, "Observation.valueQuantity.unit")]),
        (result_with(unit, r#""comparator":"about""#), vec![(Shape, "Observation.valueQuantity.comparator")]),
        (
            result_with(r#""coding":[{"system":"http://loinc.org","code":"2160-0"}]"#, r#""coding":{"code":"2160-0"}"#),
            vec![(Shape, "Observation.code.coding")],
        ),
        (result_with(r#""code":"2160-0""#, r#""code":21600"#), vec![(Shape, "Observation.code.coding[0].code")]),
        (result_with(time, r#""valueString":"2.1""#), vec![(Shape, "Observation.value")]),
        (result_with(unit, r#""unti":"mg/dL""#), vec![(UnknownElement, "Observation.valueQuantity.unti")]),
        (result_with(time, r#""extra":1,"Wang Xiaoming":2"#), vec![(UnknownElement, "Observation.extra"), (UnknownElement, "Observation.?")]),
        (result_with(time, r#""_status":{"extension":[{"url":"http://e","valueString":"x"}]}"#), vec![]),
        (
            r#"{"resourceType":"Patient","id":"p","gender":"m","birthDate":"1960-13"}"#.into(),
            vec![(Shape, "Patient.gender"), (InvalidDate, "Patient.birthDate")],
        ),
        (r#"{"resourceType":"Patient","id":"p","link":[{"other":{"reference":"Patient/q"}}]}"#.into(), vec![(Shape, "Patient.link[0].type")]),
        (r#"{"resourceType":"Condition","id":"c"}"#.into(), vec![(Shape, "Condition.subject")]),
        (
            r#"{"resourceType":"AdverseEvent","id":"a","subject":{"reference":"Patient/p"},"actuality":"actual","recoder":7}"#.into(),
            vec![(UnknownElement, "AdverseEvent.recoder")],
        ),
        (
            r#"{"resourceType":"AdverseEvent","id":"a","subject":{"reference":"Patient/p"},"actuality":"actual","status":"done","outcome":{"text":"x"}}"#.into(),
            vec![(Shape, "AdverseEvent.status"), (Shape, "AdverseEvent.outcome")],
        ),
        (
            r#"{"resourceType":"AdverseEvent","id":"a","subject":{"reference":"Patient/p"},"actuality":"actual","code":{"text":"x"},"suspectEntity":[{"causality":{"author":{"display":"x"}}}]}"#.into(),
            vec![(Shape, "AdverseEvent.status"), (Shape, "AdverseEvent.suspectEntity[0]")],
        ),
        (
            r#"{"resourceType":"AdverseEvent","id":"a","subject":{"reference":"Patient/p"},"actuality":"actual","status":"completed","date":"2026"}"#.into(),
            vec![(MixedReleases, "AdverseEvent.date")],
        ),
        (
            r#"{"resourceType":"AdverseEvent","id":"a","subject":{"reference":"Patient/p"},"actuality":"actual","status":"completed","suspectEntity":[{"instanceReference":{"display":"x"}},{"instance":{"display":"x"}}]}"#.into(),
            vec![(MixedReleases, "AdverseEvent.suspectEntity[1].instance")],
        ),
        (
            r#"{"resourceType":"ResearchSubject","id":"s","study":{"reference":"ResearchStudy/1"},"individual":{"reference":"Patient/p"},"status":"active"}"#.into(),
            vec![(Shape, "ResearchSubject.status")],
        ),
        (
            r#"{"resourceType":"ResearchSubject","id":"s","study":{"reference":"ResearchStudy/1"},"subject":{"reference":"Patient/p"},"status":"on-study"}"#.into(),
            vec![(Shape, "ResearchSubject.status")],
        ),
        (
            r#"{"resourceType":"MedicationAdministration","id":"m","subject":{"reference":"Patient/p"},"status":"completed"}"#.into(),
            vec![(Shape, "MedicationAdministration")],
        ),
        (r#"{"resourceType":"MedicationAdministration","id":"m","subject":{"reference":"Patient/p"},"status":"entered-in-error"}"#.into(), vec![]),
        (r#"{"resourceType":"Procedure","id":"m","subject":{"reference":"Patient/p"},"status":"done"}"#.into(), vec![(Shape, "Procedure.status")]),
        (r#"{"resourceType":"Encounter","id":"e","status":7}"#.into(), vec![(Shape, "Encounter.status"), (Shape, "Encounter.class")]),
        (r#"{"resourceType":"Goal","status":7}"#.into(), vec![]),
    ];
    for (body, expected) in table {
        let issues = profiles.check(&RawResource::parse(body.as_bytes()).expect(&body));
        let found: Vec<(Code, &str)> = issues.iter().map(|issue| (issue.code, issue.path.as_str())).collect();
        assert_eq!(found.len(), expected.len(), "{body}\n{issues:?}");
        assert!(expected.iter().all(|fault| found.contains(fault)), "{body}\n{issues:?}");
    }
}

#[test]
fn no_issue_of_the_profile_holds_a_value() {
    let profiles = profiles();
    for body in [
        r#"{"resourceType":"Patient","id":"p","gender":"Wang","birthDate":"Wang","active":"Wang","link":[{"other":"Wang","type":"Wang"}],"Wang.":"Wang"}"#,
        r#"{"resourceType":"Observation","id":"o","status":"Wang","code":"Wang","subject":"Wang","valueQuantity":{"value":"Wang","comparator":"Wang"},"effectivePeriod":{"start":"Wang"}}"#,
    ] {
        let issues = profiles.check(&RawResource::parse(body.as_bytes()).unwrap());
        assert!(issues.len() >= 6, "{issues:?}");
        for issue in issues {
            assert!(!format!("{issue} {issue:?}").contains("Wang"), "{issue:?}");
        }
    }
}

#[test]
fn a_file_of_the_catalogue_is_faulted_by_json_pointer() {
    let schema = r#"{"$schema":"https://json-schema.org/draft/2020-12/schema","type":"object","required":["id"],"properties":{"id":{"type":"string"},"codes":{"type":"array","items":{"enum":["a","b"]}}},"additionalProperties":false}"#;
    let schema = Schema::compile(schema).unwrap();
    assert_eq!(schema.check(r#"{"id":"x","codes":["a","b"]}"#), vec![]);
    let mut faults = schema.check(r#"{"codes":["a","c"]}"#);
    faults.sort_by(|a, b| a.path.cmp(&b.path));
    assert_eq!(faults.iter().map(|fault| fault.path.as_str()).collect::<Vec<_>>(), vec!["", "/codes/1"]);
    assert!(faults[1].message.contains("\"c\""), "{faults:?}");
    let twice = schema.check("{\"id\":\"x\",\n\"id\":\"y\"}");
    assert!(twice[0].message.contains("`id` stands twice") && twice[0].message.contains("line 2"), "{twice:?}");
    assert!(schema.check("{").len() == 1 && schema.check("{} x").len() == 1);
    assert!(schema.check(r#"{"id":1.5}"#)[0].message.contains("string"));
}

#[test]
fn a_batch_is_split_and_one_bad_entry_spoils_no_other() {
    let resource = result_with(r#""value":2.10"#, r#""value":02.1"#);
    let good = result_with("", "");
    let body = format!(
        r#"{{"resourceType":"Bundle","id":"b1","type":"batch","link":[{{"relation":"next","url":"http://x?page=2"}}],"entry":[
        {{"fullUrl":"urn:uuid:1","resource":{good},"request":{{"method":"PUT","url":"Observation/o1","ifMatch":"W/\"3\"","ifNoneExist":"identifier=a|b"}}}},
        {{"resource":{good}}},
        {{"resource":{good},"request":{{"method":"BREW","url":"Observation"}}}},
        {{"request":{{"method":"POST","url":"Observation"}}}},
        {{"resource":{good},"resource":{good},"request":{{"method":"POST","url":"Observation"}}}},
        {{"request":{{"method":"DELETE","url":"Observation/o2"}}}},
        "entry",
        {good}
        ]}}"#
    );
    let found = bundle::split(body.as_bytes()).unwrap();
    assert_eq!((found.kind, found.id.as_deref(), found.next.as_deref()), (Kind::Batch, Some("b1"), Some("http://x?page=2")));
    let faults: Vec<&str> = found.entries.iter().map(|entry| entry.as_ref().err().map_or("", |issue| &issue.path)).collect();
    assert_eq!(
        faults,
        vec![
            "",
            "Bundle.entry[1].request",
            "Bundle.entry[2].request.method",
            "Bundle.entry[3].resource",
            "Bundle.entry[4]",
            "",
            "Bundle.entry[6]",
            "Bundle.entry[7].request"
        ]
    );
    let first = found.entries[0].as_ref().unwrap();
    assert_eq!(first.resource.unwrap(), good.as_bytes());
    let request = first.request.as_ref().unwrap();
    assert_eq!(
        (request.method, &*request.url, request.if_match.as_deref(), request.if_none_exist.as_deref()),
        (Method::Put, "Observation/o1", Some("W/\"3\""), Some("identifier=a|b"))
    );
    assert_eq!(found.entries[5].as_ref().unwrap().request.as_ref().unwrap().method, Method::Delete);
    // A resource whose number is no number makes the body no JSON at all, and the answer says where.
    let broken = body.replacen(&good, &resource, 1);
    let issue = bundle::split(broken.as_bytes()).unwrap_err();
    assert_eq!((issue.code, issue.path.as_str()), (Code::NotJson, "Bundle.entry[0].resource.valueQuantity.value"));
}

#[test]
fn an_envelope_that_is_no_bundle_is_refused() {
    let entries = |count: usize| format!(r#"{{"resourceType":"Bundle","type":"collection","entry":[{}]}}"#, vec!["{}"; count].join(","));
    for (body, code, path) in [
        ("".to_string(), Code::NotJson, ""),
        (r#"{"resourceType":"Patient"}"#.into(), Code::WrongResourceType, "Bundle.resourceType"),
        (r#"{"resourceType":"Bundle"}"#.into(), Code::InvalidBundle, "Bundle.type"),
        (r#"{"resourceType":"Bundle","type":"batch-response"}"#.into(), Code::InvalidBundle, "Bundle.type"),
        (r#"{"resourceType":"Bundle","type":"batch","type":"transaction"}"#.into(), Code::DuplicateKey, "Bundle.type"),
        (r#"{"resourceType":"Bundle","type":"batch","entry":{"a":1}}"#.into(), Code::InvalidBundle, "Bundle"),
        (entries(10_001), Code::InvalidBundle, "Bundle.entry"),
    ] {
        let issue = bundle::split(body.as_bytes()).unwrap_err();
        assert_eq!((issue.code, issue.path.as_str()), (code, path), "{}", &body[..body.len().min(200)]);
    }
    assert_eq!(bundle::split(entries(10_000).as_bytes()).unwrap().entries.len(), 10_000);
    assert_eq!(bundle::split(br#"{"resourceType":"Bundle","type":"searchset"}"#).unwrap().entries.len(), 0);
}

fn coding(system: &str, code: &str) -> parts::Coding {
    parts::Coding { system: system.into(), code: code.into(), display: None }
}

/// One sample of everything we author: file name and bytes.
fn samples() -> Vec<(&'static str, Vec<u8>)> {
    let key = [(WRITE_BACK_SYSTEM, "4f1c0d")];
    let identity = |id: &'static str| Identity { id: Some(id), identifiers: &key, is_test: true };
    let arms = [("low".to_string(), "6.4e7 cells".to_string())];
    let study = Target::Literal("ResearchStudy/ng-study");
    let egfr = Egfr {
        status: "final",
        loinc: Some("98979-8"),
        name: "eGFR, CKD-EPI 2021 creatinine",
        method: "ckd-epi-2021-creatinine",
        patient: "Patient/p1",
        effective: "2026-03-01T09:30:00Z",
        value: "36.4",
        derived_from: "Observation/o1",
        performer: "Study centre",
        note: "research calculation, not a laboratory result",
        study: Some(study),
    };
    let audit = |interaction| {
        let is_search = interaction == Interaction::Search;
        let audit = Audit {
            id: Some("audit-1"),
            is_test: true,
            interaction,
            recorded: "2026-03-01T09:30:00Z",
            failure: None,
            person: Some("Dr Lin"),
            client: "screening page",
            client_address: Some("127.0.0.1"),
            server: "https://gateway.example",
            patient: Some("Patient/p1"),
            resource: (!is_search).then_some("Flag/ng-flag/_history/2"),
            query: is_search.then_some("Flag?patient=p1"),
            study: Some("trial-7"),
            request: Some("r-1"),
        };
        study_flagged::audit_event(audit).into_bytes()
    };
    let group = parts::Group {
        id: Some("ng-group".into()),
        identifiers: vec![parts::Identifier { system: WRITE_BACK_SYSTEM.into(), value: "4f1c0e".into() }],
        name: "Candidates".into(),
        members: vec!["Patient/p1".into(), "Patient/p2".into()],
    };
    let outcome = build::operation_outcome(&[parts::OutcomeIssue {
        severity: "error".into(),
        code: "value".into(),
        details: Some(parts::Concept {
            codings: vec![coding("https://nephrogate.example/issues", "invalid-number")],
            text: Some("a sentence".into()),
        }),
        diagnostics: Some("what to do".into()),
        expression: vec!["Observation.valueQuantity.value".into()],
    }])
    .unwrap();
    let observation = study_flagged::egfr_observation(identity("ng-egfr"), egfr).into_bytes();
    let searchset = parts::Bundle {
        kind: "searchset".into(),
        total: Some(1),
        link: vec![parts::BundleLink { relation: "self".into(), url: "http://127.0.0.1/fhir/s/Observation".into() }],
        entry: vec![
            parts::BundleEntry {
                full_url: Some("http://127.0.0.1/fhir/s/Observation/ng-egfr".into()),
                resource: Some(observation.clone()),
                search_mode: Some("match".into()),
                ..Default::default()
            },
            parts::BundleEntry {
                full_url: Some("urn:uuid:0b2e5d0c-6f0e-4c3a-9d6a-2f6f3c9f1a11".into()),
                resource: Some(outcome.clone()),
                search_mode: Some("outcome".into()),
                ..Default::default()
            },
        ],
        ..Default::default()
    };
    let response = |status: &str, outcome: Option<Vec<u8>>| parts::BundleEntry {
        response: Some(parts::EntryResponse {
            status: status.into(),
            location: Some("Observation/o1/_history/1".into()),
            etag: Some("W/\"1\"".into()),
            last_modified: Some("2026-03-01T10:00:00Z".into()),
            outcome,
        }),
        ..Default::default()
    };
    let responses = |kind: &str| parts::Bundle {
        kind: kind.into(),
        entry: vec![response("201 Created", None), response("400 Bad Request", Some(outcome.clone()))],
        ..Default::default()
    };
    let capability = parts::CapabilityStatement {
        date: "2026-03-01".into(),
        software_name: "nephrogate".into(),
        software_version: "0.1.0".into(),
        description: "FHIR gateway for kidney trials".into(),
        url: "http://127.0.0.1/fhir/s".into(),
        security_description: Some("bearer tokens".into()),
        resources: vec![parts::ServedResource {
            resource_type: "Observation".into(),
            interactions: vec!["read".into(), "create".into(), "search-type".into()],
            documentation: None,
            search_parameters: vec![parts::SearchParameter { name: "code".into(), kind: "token".into(), documentation: Some("system|code".into()) }],
            ..Default::default()
        }],
        interactions: vec!["batch".into(), "transaction".into()],
        operations: vec![parts::Operation {
            name: "ingest".into(),
            definition: "http://127.0.0.1/fhir/s/OperationDefinition/ingest".into(),
            documentation: None,
        }],
        messaging: Some(parts::Messaging { address: "http://127.0.0.1/fhir/s/$process-message".into(), documentation: "messages".into() }),
    };
    vec![
        ("research-study.json", study_flagged::research_study(identity("ng-study"), "A study of the kidney", &arms).into_bytes()),
        ("research-subject.json", study_flagged::research_subject(identity("ng-subject"), "on-study", study, "Patient/p1", None).into_bytes()),
        ("flag.json", study_flagged::flag(identity("ng-flag"), "active", "Candidate for a study", "Patient/p1", "Study centre", None).into_bytes()),
        ("observation.json", observation),
        ("group.json", build::group(&group).unwrap()),
        ("operation-outcome.json", outcome.clone()),
        ("searchset.json", build::bundle(&searchset).unwrap()),
        ("batch-response.json", build::bundle(&responses("batch-response")).unwrap()),
        ("transaction-response.json", build::bundle(&responses("transaction-response")).unwrap()),
        ("capability-statement.json", build::capability_statement(&capability).unwrap()),
        ("audit-event-read.json", audit(Interaction::Read)),
        ("audit-event-search.json", audit(Interaction::Search)),
    ]
}

#[test]
fn everything_we_author_passes_our_own_gate_and_says_what_was_asked() {
    for (name, bytes) in samples() {
        RawResource::parse(&bytes).unwrap_or_else(|issue| panic!("{name}: {issue}"));
    }
    let flag: Value = serde_json::from_slice(&samples()[2].1).unwrap();
    assert_eq!(flag["category"][0]["coding"][0]["code"], "research");
    assert_eq!(flag["meta"]["security"][0]["code"], "HTEST");
    assert_eq!(flag["subject"]["reference"], "Patient/p1");
    let observation: Value = serde_json::from_slice(&samples()[3].1).unwrap();
    assert_eq!(observation["category"], Value::Null);
    assert_eq!(observation["derivedFrom"][0]["reference"], "Observation/o1");
    assert!(String::from_utf8_lossy(&samples()[3].1).contains("\"value\":36.4"));
}

#[test]
fn a_note_in_the_chart_is_spelt_in_base64() {
    // RFC 4648, section 10, test vectors.
    for (plain, encoded) in [("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE="), ("foobar", "Zm9vYmFy")] {
        let note = Note {
            status: "current",
            title: "A note",
            text: plain,
            patient: "Patient/p1",
            author: "Study centre",
            study: Target::Display("ResearchStudy", "A study of the kidney"),
        };
        let text = study_flagged::document_reference(Identity { id: None, identifiers: &[], is_test: false }, note);
        let document: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(document["content"][0]["attachment"]["data"], encoded);
        assert_eq!(document["content"][0]["attachment"]["contentType"], "text/plain");
    }
}

#[test]
fn a_bundle_holds_mirrored_resources_byte_for_byte() {
    let mirrored = result_with(r#""value":2.10"#, r#""value":2.10e0"#).replace("{\"value\"", "{ \"value\" ");
    let bytes = build::bundle(&parts::Bundle {
        kind: "searchset".into(),
        entry: vec![parts::BundleEntry {
            // A text that looks like the placeholder is only a text.
            full_url: Some(r#"urn:{"resourceType":"Basic","id":"placeholder","code":{"text":"placeholder"}}"#.into()),
            resource: Some(mirrored.clone().into_bytes()),
            ..Default::default()
        }],
        ..Default::default()
    })
    .unwrap();
    assert!(String::from_utf8(bytes.clone()).unwrap().contains(&mirrored));
    assert_eq!(bundle::split(&bytes).unwrap().entries[0].as_ref().unwrap().resource.unwrap(), mirrored.as_bytes());
}

#[test]
fn parts_that_would_make_bad_fhir_are_refused() {
    let group = |id: &str, name: &str| {
        build::group(&parts::Group { id: Some(id.into()), name: name.into(), members: vec!["Patient/p1".into()], ..Default::default() })
    };
    assert!(group("g1", "Candidates").is_ok());
    assert!(group("g/1", "Candidates").is_err());
    assert!(group("g1", "").is_err());
    assert!(build::operation_outcome(&[]).is_err());
}

#[test]
fn hl7s_own_validator_accepts_everything_we_author() {
    let Some(check) = shared("tools/fhir-check/check") else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    for (name, bytes) in samples() {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        files.push(path);
    }
    let output = Command::new(check).args(&files).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains(&format!("{} checked, 0 failed", files.len())), "{said}");
}

#[test]
fn the_typed_reader_gives_a_second_opinion_where_it_is_built_in() {
    let good = result_with("", "");
    let Some(opinion) = strict_opinion(&RawResource::parse(good.as_bytes()).unwrap()) else {
        println!("skipped: built without the feature strict");
        return;
    };
    assert_eq!(opinion, Ok(()));
    let opinion_of = |body: String| strict_opinion(&RawResource::parse(body.as_bytes()).unwrap()).unwrap();
    assert!(opinion_of(result_with(r#""status":"final","#, "")).unwrap_err().contains("status"));
    let unknown = opinion_of(result_with(r#""text":"Creatinine""#, r#""wang":"Wang""#)).unwrap_err();
    assert!(!unknown.to_lowercase().contains("wang"), "{unknown}");
    assert!(opinion_of(result_with(r#""subject":{"#, r#""subject":["Wang"],"focus":{"#)).is_err_and(|error| !error.contains("Wang")));
}
