//! Hostile and broken bodies: what the gate and the profiles make of them. The doors behind (HTTP, mapping) are tested
//! where they stand.

use nephrogate::clinical::fact::ResourceType;
use nephrogate::fhir::profile::Profiles;
use nephrogate::fhir::{RawResource, view};
use nephrogate::issue::{Code, Effect, Issue};

use crate::fhir::{profiles, shared};

/// The first issue that refuses a body, if one does; every view must take or refuse what passed, without a panic.
fn refusal(profiles: &Profiles, body: &[u8]) -> Option<Issue> {
    let resource = match RawResource::parse(body) {
        Ok(resource) => resource,
        Err(issue) => return Some(issue),
    };
    let refused = profiles.check(&resource).into_iter().find(|issue| issue.code.effect() == Effect::Reject);
    if refused.is_none() {
        let viewed = match resource.resource_type {
            "Observation" => view::observation(&resource).err(),
            "Patient" => view::patient(&resource).err(),
            "Condition" => view::condition(&resource).err(),
            "AdverseEvent" => view::adverse_event(&resource).err(),
            "ResearchSubject" => view::research_subject(&resource).err(),
            "MedicationAdministration" => view::medication_administration(&resource).err(),
            "Procedure" => view::procedure(&resource).err(),
            "Encounter" => view::encounter(&resource).err(),
            _ => None,
        };
        assert_eq!(viewed, None, "what the profile accepts, the view reads");
    }
    refused
}

#[test]
fn each_case_of_the_bad_input_collection_gets_its_answer() {
    let Some(folder) = shared("data/bad-input") else { return };
    let profiles = profiles();
    let index = std::fs::read_to_string(folder.join("INDEX.tsv")).unwrap();
    let mut cases = 0;
    for row in index.lines().skip(1) {
        let fields: Vec<&str> = row.split('\t').collect();
        let (file, answer) = (fields[0], fields[3]);
        let body = std::fs::read(folder.join(file)).unwrap();
        if file.ends_with(".ndjson") {
            let lines: Vec<&[u8]> = body.split(|byte| *byte == b'\n').map(|line| line.trim_ascii()).filter(|line| !line.is_empty()).collect();
            let refused = lines.iter().filter(|line| refusal(&profiles, line).is_some()).count();
            assert_eq!((lines.len() - refused, refused), (2, 2), "{file}");
            continue;
        }
        if file == "n09-page-loop.json" {
            // A page of a server's answer, empty list and all: split, never gated whole.
            assert!(nephrogate::fhir::bundle::split(&body).is_ok_and(|bundle| bundle.next.is_some()));
            continue;
        }
        let refused = refusal(&profiles, &body);
        match answer {
            "4xx" => assert!(refused.is_some(), "{file} passed"),
            "2xx" => assert_eq!(refused, None, "{file} was refused"),
            "2xx|4xx" => {}
            other => panic!("{file}: an answer this test does not know: {other}"),
        }
        cases += 1;
    }
    assert!(cases >= 60, "{cases}");
}

/// Bodies of our own in the spirit of that collection, for a clone that stands alone.
#[test]
fn broken_bodies_of_our_own_are_refused_with_their_code() {
    let profiles = profiles();
    let body = |member: &str| {
        format!(
            r#"{{"resourceType":"Observation","id":"x1","status":"final","code":{{"coding":[{{"system":"http://loinc.org","code":"2160-0"}}]}},"subject":{{"reference":"Patient/x"}}{member}}}"#
        )
    };
    let quantity = |value: &str| body(&format!(r#","valueQuantity":{{"value":{value},"unit":"mg/dL","code":"mg/dL"}}"#));
    let dated = |date: &str| body(&format!(r#","effectiveDateTime":"{date}""#));
    for (body, expected) in [
        (body(""), None),
        (format!("\u{feff}{}", body("")), None),
        (quantity("1.73"), None),
        (quantity("-0"), None),
        (quantity("1.7300000000000000000000000001"), None),
        (quantity("9E+88888888"), Some(Code::InvalidNumber)),
        (quantity("1e-88888888"), Some(Code::InvalidNumber)),
        (quantity("NaN"), Some(Code::NotJson)),
        (quantity("-Infinity"), Some(Code::NotJson)),
        (quantity("01"), Some(Code::NotJson)),
        (quantity(".9"), Some(Code::NotJson)),
        (quantity("0x1F"), Some(Code::NotJson)),
        (quantity("1,73"), Some(Code::NotJson)),
        (quantity("null"), Some(Code::NullValue)),
        (quantity("false"), Some(Code::Shape)),
        (quantity("\"1.73\""), Some(Code::Shape)),
        (quantity("[1.73]"), Some(Code::Shape)),
        (quantity("[]"), Some(Code::EmptyElement)),
        (quantity("{}"), Some(Code::EmptyElement)),
        (body(r#","method":{"text":""}"#), Some(Code::EmptyElement)),
        (body(r#","status":"entered-in-error""#), Some(Code::DuplicateKey)),
        (body(r#","resourceType":"Patient""#), Some(Code::DuplicateKey)),
        (body(r#","note":[{"text":"a\u0007b"}]"#), Some(Code::ControlCharacter)),
        (body(r#","note":[{"text":"\ud83d"}]"#), Some(Code::NotUtf8)),
        (body("").replace("x1", "a b"), Some(Code::InvalidId)),
        (body("").replace("x1", "%2e%2e%2f"), Some(Code::InvalidId)),
        (body("").replace("x1", &"y".repeat(65)), Some(Code::InvalidId)),
        (body("").replace("\"final\"", "\"finished\""), Some(Code::Shape)),
        (body("").replace("\"Observation\"", "\"Obervation\""), Some(Code::WrongResourceType)),
        (body(r#","modifierExtension":[{"url":"http://x","valueBoolean":true}]"#), None), // the mapping quarantines it
        (dated("2025"), None),
        (dated("2025-06-01T08:00:00-05:00"), None),
        (dated("2025-06-01T08:00Z"), Some(Code::InvalidDate)),
        (dated("2025-06-01T24:00:00Z"), Some(Code::InvalidDate)),
        (dated("2025-06-01T08:00:00+16:00"), Some(Code::InvalidDate)),
        (dated("01.06.2025"), Some(Code::InvalidDate)),
        (dated("0000"), Some(Code::InvalidDate)),
        (format!("{}{}", r#"{"resourceType":"Basic","e":"#, "{\"e\":".repeat(5_000)), Some(Code::TooDeep)),
    ] {
        let found = refusal(&profiles, body.as_bytes()).map(|issue| issue.code);
        assert_eq!(found, expected, "{}", &body[..body.len().min(300)]);
    }
}

/// Official examples of the types we read that do not pass, and why.
const EXAMPLES_REFUSED: &[(&str, Code, &str)] = &[
    // 1.0E-245: no laboratory measures it, and no decimal type of ours keeps it.
    ("Observation-decimal.json", Code::InvalidNumber, "Observation.component[5].valueQuantity.value"),
];

#[test]
fn hl7s_examples_never_panic_and_the_types_we_read_pass() {
    let Some(folder) = shared("data/r4-examples") else { return };
    let profiles = profiles();
    let mut files = Vec::new();
    let mut folders = vec![folder];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path)
            } else if path.extension().is_some_and(|end| end == "json") {
                files.push(path)
            }
        }
    }
    assert_eq!(files.len(), 348);
    let mut refused = Vec::new();
    let mut read = 0;
    for path in files {
        let body = std::fs::read(&path).unwrap();
        let issue = refusal(&profiles, &body);
        let is_ours = ResourceType::FHIR.iter().any(|kind| kind.word() == path.parent().unwrap().file_name().unwrap());
        read += usize::from(is_ours);
        if let Some(issue) = issue.filter(|_| is_ours) {
            refused.push((path.file_name().unwrap().to_string_lossy().into_owned(), issue.code, issue.path));
        }
    }
    refused.sort();
    let expected: Vec<_> = EXAMPLES_REFUSED.iter().map(|(file, code, path)| (file.to_string(), *code, path.to_string())).collect();
    assert_eq!(refused, expected);
    assert_eq!(read, 126);
}
