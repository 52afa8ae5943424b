//! Our elements put into a resource of others and taken out of it, and our own resources brought up to date: every
//! byte that is not ours stays.

use nephrogate::fhir::edit::{self, Misfit};
use proptest::prelude::*;
use serde_json::{Value, json};

const EXTENSION: &str = "http://hl7.org/fhir/StructureDefinition/workflow-researchStudy";

fn fragment() -> String {
    json!({"resourceType": "Observation", "id": "o1",
        "meta": {"tag": [{"system": "https://nephrogate.example/fhir/CodeSystem/study-tag", "code": "ng-1"}]},
        "extension": [{"url": EXTENSION, "valueReference": {"reference": "ResearchStudy/ng-1"}}]})
    .to_string()
}

/// A result as a hospital might spell it.
const ODD: &str = "{ \"resourceType\":\"Observation\" ,\n\t\"id\": \"o1\", \"status\":\"final\",\r\n  \"valueQuantity\" : {\"value\":1.0e2,\"unit\":\"\\u00b5mol\\/L\"},\
    \"note\":[ {\"text\":\"\\ud83d\\ude00 a, \\\"b\\\" } ]\"} ] , \"extension\" : [ {\"url\":\"http://hl7.org/fhir/StructureDefinition/workflow-researchStudy\",\
    \"valueReference\":{\"reference\":\"ResearchStudy/another\"}}, {\"url\":\"http://hospital.example/x\",\"valueDecimal\":2.50 } ] }\n";

#[test]
fn a_fragment_goes_in_and_out_and_leaves_every_other_byte() {
    let marked = edit::with_fragment(ODD, &fragment()).unwrap().unwrap();
    assert!(edit::has_fragment(&marked, &fragment()) && !edit::has_fragment(ODD, &fragment()));
    assert!(marked.contains("1.0e2,\"unit\":\"\\u00b5mol\\/L\"") && marked.contains("2.50 }"));
    let value: Value = serde_json::from_str(&marked).unwrap();
    assert_eq!(value["extension"].as_array().unwrap().len(), 3);
    assert_eq!(value["meta"]["tag"][0]["code"], "ng-1");
    assert_eq!(edit::with_fragment(&marked, &fragment()), Ok(None), "it is not added twice");
    assert_eq!(edit::without_fragment(&marked, &fragment()), Ok(Some(ODD.to_owned())));
    assert_eq!(edit::without_fragment(ODD, &fragment()), Ok(None), "another study's extension is not ours");
}

#[test]
fn of_two_equal_elements_the_one_that_came_last_is_ours() {
    let ours = json!({"url": EXTENSION, "valueReference": {"reference": "ResearchStudy/ng-1"}});
    let theirs = json!({"url": EXTENSION, "valueReference": {"reference": "ResearchStudy/ng-1", "display": "a study"}});
    let held = json!({"resourceType": "Observation", "id": "o1", "extension": [theirs, ours]}).to_string();
    let after = edit::without_fragment(&held, &fragment()).unwrap().unwrap();
    assert_eq!(after, json!({"resourceType": "Observation", "id": "o1", "extension": [theirs]}).to_string());
}

#[test]
fn an_element_that_is_named_twice_is_not_edited() {
    let twice = r#"{"resourceType":"Observation","id":"o1","meta":{},"meta":{"tag":[]}}"#;
    assert_eq!(edit::with_fragment(twice, &fragment()), Err(Misfit::NotReadable));
    assert_eq!(edit::with_fragment("[]", &fragment()), Err(Misfit::NotReadable));
    let taken = r#"{"resourceType":"Observation","id":"o1","meta":"?"}"#;
    assert_eq!(edit::with_fragment(taken, &fragment()), Err(Misfit::Taken("meta".to_owned())));
}

/// Applies a JSON Patch (RFC 6902), as far as ours go; `None` where a test fails.
fn patched(resource: &str, patch: &str) -> Option<Value> {
    let mut resource: Value = serde_json::from_str(resource).unwrap();
    for operation in serde_json::from_str::<Vec<Value>>(patch).unwrap() {
        let path = operation["path"].as_str().unwrap();
        let (parent, last) = path.rsplit_once('/').unwrap();
        match operation["op"].as_str().unwrap() {
            "test" if resource.pointer(path) == Some(&operation["value"]) => {}
            "test" => return None,
            "add" => match resource.pointer_mut(parent)? {
                Value::Array(items) if last == "-" => items.push(operation["value"].clone()),
                Value::Object(fields) => drop(fields.insert(last.to_owned(), operation["value"].clone())),
                _ => return None,
            },
            "remove" => match resource.pointer_mut(parent)? {
                Value::Array(items) => drop(items.remove(last.parse().unwrap())),
                Value::Object(fields) => drop(fields.shift_remove(last)?),
                _ => return None,
            },
            other => panic!("{other} is not among our operations"),
        }
    }
    Some(resource)
}

#[test]
fn the_patch_does_what_the_splice_does_and_tests_what_it_saw() {
    let read = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let patch = edit::patch_of(ODD, &fragment(), true).unwrap().unwrap();
    let marked = edit::with_fragment(ODD, &fragment()).unwrap().unwrap();
    assert_eq!(patched(ODD, &patch), Some(read(&marked)));
    let back = edit::patch_of(&marked, &fragment(), false).unwrap().unwrap();
    assert_eq!(patched(&marked, &back), Some(read(ODD)));
    assert_eq!(edit::patch_of(&marked, &fragment(), true), Ok(None));
    // Somebody put another extension before ours meanwhile: the patch of the old text must not hit theirs.
    let mut moved = read(&marked);
    moved["extension"].as_array_mut().unwrap().insert(0, json!({"url": "http://hospital.example/new", "valueCode": "x"}));
    assert_eq!(patched(&moved.to_string(), &back), None);
}

#[test]
fn what_others_author_is_compared_to_the_last_digit() {
    let marked = edit::with_fragment(ODD, &fragment()).unwrap().unwrap();
    assert_eq!(edit::foreign_changes(ODD, &marked, &fragment()), [""; 0]);
    // (what a server did, what is said of it)
    let table = [
        (("1.0e2", "100"), "Observation.valueQuantity.value"),
        (("2.50", "2.5"), "Observation.extension[1].valueDecimal"),
        (("\"final\"", "\"amended\""), "Observation.status"),
        (("ResearchStudy/another", "ResearchStudy/other"), "Observation.extension[0].valueReference.reference"),
    ];
    for ((from, to), path) in table {
        assert_eq!(edit::foreign_changes(ODD, &marked.replacen(from, to, 1), &fragment()), [path]);
    }
    let stamped = edit::stamped(&marked, "o1", 7, "2026-11-23T00:00:00Z");
    assert_eq!(edit::foreign_changes(ODD, &stamped, &fragment()), [""; 0], "what a server writes into meta is its own");
}

fn flag(status: &str, extra: &str) -> String {
    format!(
        r#"{{"resourceType":"Flag","id":"ng-1","identifier":[{{"system":"urn:nephrogate:write-back","value":"k"}}],"status":"{status}",
        "category":[{{"coding":[{{"system":"http://terminology.hl7.org/CodeSystem/flag-category","code":"research"}}]}}]{extra},
        "code":{{"text":"eligible"}},"subject":{{"reference":"Patient/p1"}}}}"#
    )
}

#[test]
fn our_own_resource_keeps_what_the_hospital_added_to_it() {
    let added = r#","priority" : 1.0e1,"extension":[ {"url":"http://hospital.example/seen","valueBoolean":true} ]"#;
    let held = edit::stamped(&flag("active", added), "ng-1", 3, "2026-11-23T00:00:00Z").replace("1.0e+1", "1.0e1");
    let held = held.replace("\"subject\":{\"reference\":\"Patient/p1\"}", "\"subject\":{\"reference\":\"http://ehr.example/fhir/Patient/p1\"}");
    let merge = edit::merged(&[&flag("active", "")], &flag("inactive", ""), &held);
    assert_eq!(merge.resource.as_deref(), Some(held.replace("\"active\"", "\"inactive\"").as_str()), "one word changes");
    assert_eq!(edit::merged(&[], &flag("active", ""), &held).resource, None, "it says so already");
    // What we said and no longer say goes; what others added beside it stays.
    let with_note = r#","note":[{"text":"ours"}]"#;
    let both = flag("active", r#","note":[{"text":"theirs"} , {"text":"ours"}]"#);
    let merge = edit::merged(&[&flag("active", with_note)], &flag("active", ""), &both);
    assert_eq!(merge.resource, Some(flag("active", r#","note":[{"text":"theirs"}]"#)));
    assert_eq!(merge.lingering, ["Flag.note"]);
    // A value of ours that changed takes the place of the old one.
    let merge = edit::merged(&[&flag("active", with_note)], &flag("active", r#","note":[{"text":"new"}]"#), &both);
    assert_eq!(merge.resource, Some(flag("active", r#","note":[{"text":"theirs"} , {"text":"new"}]"#)));
    assert_eq!(merge.lingering, [""; 0]);
}

#[test]
fn a_member_of_our_group_is_taken_out_and_the_hospitals_own_members_stay() {
    let member = |id: &str| json!({"entity": {"reference": format!("Patient/{id}")}});
    let group = |ids: &[&str]| {
        let members: Vec<Value> = ids.iter().map(|id| member(id)).collect();
        json!({"resourceType": "Group", "id": "ng-2", "type": "person", "actual": true, "member": members}).to_string()
    };
    let merge = edit::merged(&[&group(&["p1", "p2"])], &group(&["p2", "p3"]), &group(&["theirs", "p1", "p2"]));
    assert_eq!(merge.resource, Some(group(&["theirs", "p3", "p2"])));
    let merge = edit::merged(&[&group(&["p1", "p2"])], &group(&["p2"]), &group(&["theirs", "p1", "p2"]));
    assert_eq!((merge.resource, merge.lingering), (Some(group(&["theirs", "p2"])), vec!["Group.member".to_owned()]));
}

/// JSON text with odd spacing, escapes and numbers.
fn odd_json() -> impl Strategy<Value = String> {
    let space = prop::sample::select(vec!["", " ", "\n", "\t ", "\r\n  "]);
    let scalar = prop::sample::select(vec![
        "1.0e2",
        "-0.50",
        "1.500",
        "0",
        "true",
        "null",
        "\"\"",
        "\"a\\u00e9\\\"}\"",
        "\"\\ud83d\\ude00\"",
        "\"ResearchStudy\\/ng-1\"",
        "\"]},\"",
    ]);
    let scalar = scalar.prop_map(str::to_owned);
    scalar.prop_recursive(3, 20, 4, move |inner| {
        let (name, space) = (prop::sample::select(vec!["url", "a", "valueReference", "\\u0062", "tag", "c\\\"d"]), space.clone());
        let members = prop::collection::btree_map(name, (inner.clone(), space.clone()), 0..4);
        let items = prop::collection::vec((inner, space), 0..4);
        let parts = |parts: Vec<String>, open: char, close: char| format!("{open}{}{close}", parts.join(","));
        prop_oneof![
            members.prop_map(move |members| {
                parts(members.iter().map(|(name, (value, space))| format!("{space}\"{name}\"{space}:{space}{value}{space}")).collect(), '{', '}')
            }),
            items.prop_map(move |items| parts(items.iter().map(|(value, space)| format!("{space}{value}{space}")).collect(), '[', ']')),
        ]
    })
}

proptest! {
    #[test]
    fn whatever_stands_around_it_a_fragment_comes_out_as_it_went_in(
        x in odd_json(), y in odd_json(),
        extensions in prop::collection::vec(odd_json(), 0..4),
        tags in prop::collection::vec(odd_json(), 0..3),
        (has_extension, has_meta) in (any::<bool>(), any::<bool>()),
        space in prop::sample::select(vec!["", " ", "\n  "]),
    ) {
        let mut parts = vec!["\"resourceType\":\"Observation\"".to_owned(), format!("\"x\"{space}:{x}")];
        if has_extension && !extensions.is_empty() {
            parts.push(format!("\"extension\":{space}[{}]", extensions.join(&format!("{space},{space}"))));
        }
        if has_meta {
            let tags = if tags.is_empty() { String::new() } else { format!(",\"tag\":[{space}{}]", tags.join(",")) };
            parts.push(format!("\"meta\":{{\"versionId\":\"1\"{tags}{space}}}"));
        }
        parts.push(format!("\"y\":{y}"));
        let resource = format!("{space}{{{space}{}{space}}}{space}", parts.join(&format!("{space},{space}")));
        let marked = edit::with_fragment(&resource, &fragment()).unwrap().unwrap();
        prop_assert!(edit::has_fragment(&marked, &fragment()), "{}", marked);
        prop_assert_eq!(edit::foreign_changes(&resource, &marked, &fragment()), Vec::<String>::new());
        prop_assert_eq!(edit::without_fragment(&marked, &fragment()), Ok(Some(resource.clone())));
        let patch = edit::patch_of(&resource, &fragment(), true).unwrap().unwrap();
        prop_assert_eq!(patched(&resource, &patch), serde_json::from_str(&marked).ok());
    }
}
