//! The FHIR door: what is pushed is answered as rulings 21 to 23 say, and what we hold is read by plain FHIR clients.

use serde_json::{Value, json};

use crate::gateway::{Gateway, LOINC, SITE, STUDY, creatinine, patient};

fn fhir(rest: &str) -> String {
    format!("/fhir/{SITE}{rest}")
}

fn statuses(bundle: &Value) -> Vec<&str> {
    bundle["entry"].as_array().unwrap().iter().map(|entry| entry["response"]["status"].as_str().unwrap()).collect()
}

fn issue_codes(outcome: &Value) -> Vec<&str> {
    outcome["issue"].as_array().unwrap().iter().filter_map(|issue| issue["details"]["coding"][0]["code"].as_str()).collect()
}

/// The resources of all pages, by the next links.
fn all_pages(gateway: &Gateway, path: &str) -> Vec<Value> {
    let mut found = Vec::new();
    let mut next = Some(gateway.url(path));
    while let Some(address) = next {
        let page = gateway.get(&address);
        assert_eq!(page.status, 200, "{}", page.text());
        let page = page.json();
        assert_eq!(page["link"][0]["relation"], "self");
        found.extend(page["entry"].as_array().into_iter().flatten().map(|entry| entry["resource"].clone()));
        next = page["link"].as_array().unwrap().iter().find(|link| link["relation"] == "next").map(|link| link["url"].as_str().unwrap().to_owned());
        assert!(found.len() <= 1000, "the pages go round");
    }
    found
}

#[test]
fn what_was_pushed_is_read_back_byte_for_byte() {
    let gateway = Gateway::start();
    let body = creatinine("c1", "p", 3, 2, 1.5).to_string().replace("1.5", "1.50").replace(',', ", ");
    let put = gateway.send(gateway.request("PUT", &fhir("/Observation/c1")).header("content-type", "application/fhir+json").body(body.clone()));
    assert_eq!(put.status, 200, "{}", put.text());
    assert_eq!((put.header("etag"), put.header("location")), ("W/\"3\"", gateway.url(&fhir("/Observation/c1")).as_str()));
    let read = gateway.get(&fhir("/Observation/c1"));
    assert_eq!((read.status, read.header("etag"), read.text()), (200, "W/\"3\"", body.clone()));
    let again = gateway.send(gateway.request("POST", &fhir("/Observation")).header("content-type", "application/json; charset=utf-8").body(body));
    assert_eq!(again.status, 200, "the same bytes once more");
    let counts = gateway.conservation();
    assert_eq!((counts["dispositions"]["applied"].clone(), counts["dispositions"]["duplicate"].clone()), (json!(1), json!(1)));
}

#[test]
fn a_body_that_is_not_what_its_address_names_is_refused_and_counted() {
    let gateway = Gateway::start();
    let body = creatinine("c1", "p", 1, 2, 1.5);
    let other_id = gateway.put_fhir(&fhir("/Observation/c2"), &body);
    assert_eq!((other_id.status, issue_codes(&other_id.json())), (400, vec!["invalid-id"]));
    let other_type = gateway.put_fhir(&fhir("/Condition/c1"), &body);
    assert_eq!((other_type.status, issue_codes(&other_type.json())), (400, vec!["wrong-resource-type"]));
    assert_eq!(gateway.post_fhir(&fhir("/Patient"), &body).status, 400);
    let misshapen = json!({"resourceType": "Patient", "id": "zebrafish", "birthDate": "yesterday at noon"});
    let refused = gateway.put_fhir(&fhir("/Patient/zebrafish"), &misshapen);
    assert_eq!(refused.status, 422, "{}", refused.text());
    assert!(!refused.text().contains("yesterday") && !refused.text().contains("zebrafish"), "an answer holds no value: {}", refused.text());
    assert_eq!(gateway.get(&fhir("/Observation/c1")).status, 404);
    let counts = gateway.conservation();
    assert_eq!(counts["dispositions"]["rejected"], 4);
    assert_eq!(gateway.put_fhir("/fhir/nowhere/Patient/p", &patient("p", "1960-01-01")).status, 404);
    assert_eq!(gateway.put_fhir(&fhir("/patients/p"), &patient("p", "1960-01-01")).status, 404);
    let xml = gateway.post(&fhir("/Patient"), "application/fhir+xml", "<Patient/>");
    assert_eq!((xml.status, xml.json()["resourceType"].clone()), (415, json!("OperationOutcome")));
}

#[test]
fn what_is_out_of_scope_is_answered_2xx_and_leaves_a_count() {
    let gateway = Gateway::start();
    let answer =
        gateway.put_fhir(&fhir("/Encounter/e1"), &json!({"resourceType": "Encounter", "id": "e1", "status": "finished", "class": {"code": "AMB"}}));
    assert_eq!((answer.status, answer.json()["issue"][0]["severity"].clone()), (202, json!("information")));
    let counts = gateway.conservation();
    assert_eq!(counts["dispositions"]["out-of-scope"], 1);
    assert!(counts["codes"].as_array().unwrap().iter().any(|row| row["resource_type"] == "Encounter"), "{counts}");
    assert_eq!(gateway.get(&fhir("/Encounter/e1")).status, 404);
}

#[test]
fn a_batch_is_answered_entry_by_entry() {
    let gateway = Gateway::start();
    let request = |method: &str, url: &str| json!({"method": method, "url": url});
    let bundle = json!({"resourceType": "Bundle", "type": "batch", "entry": [
        {"resource": patient("p", "1960-01-01"), "request": request("PUT", "Patient/p")},
        {"resource": creatinine("c1", "p", 1, 2, 2.0), "request": request("POST", "Observation")},
        {"resource": {"resourceType": "Observation", "id": "bad", "status": []}, "request": request("POST", "Observation")},
        {"resource": creatinine("c2", "p", 1, 2, 2.0), "request": request("PUT", "Observation/other")},
        {"resource": creatinine("c3", "p", 1, 2, 2.0), "request": request("PATCH", "Observation/c3")},
        {"request": request("GET", "Observation/c1")},
        {"resource": {"resourceType": "Goal", "id": "g1"}, "request": request("PUT", "Goal/g1")},
        {"request": request("DELETE", "Observation/c9")},
    ]});
    let answer = gateway.post_fhir(&fhir(""), &bundle);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let answer = answer.json();
    assert_eq!(answer["type"], "batch-response");
    let codes: Vec<&str> = statuses(&answer).iter().map(|status| &status[..3]).collect();
    assert_eq!(codes, ["200", "201", "400", "400", "400", "400", "202", "200"]);
    assert_eq!(answer["entry"][1]["response"]["location"], gateway.url(&fhir("/Observation/c1")));
    assert_eq!(gateway.conservation()["dispositions"]["applied"], 2);
}

#[test]
fn a_transaction_is_taken_whole_or_refused_whole() {
    let gateway = Gateway::start();
    let bundle = |second: Value| {
        json!({"resourceType": "Bundle", "type": "transaction", "entry": [
            {"resource": patient("p", "1960-01-01"), "request": {"method": "PUT", "url": "Patient/p"}},
            second,
            {"request": {"method": "DELETE", "url": "Observation/gone"}},
        ]})
    };
    let refused = gateway.post_fhir(
        &fhir(""),
        &bundle(
            json!({"resource": {"resourceType": "Observation", "id": "c1", "status": {}}, "request": {"method": "PUT", "url": "Observation/c1"}}),
        ),
    );
    assert_eq!((refused.status, refused.json()["resourceType"].clone()), (400, json!("OperationOutcome")));
    assert!(refused.text().contains("Bundle.entry[1]"), "{}", refused.text());
    assert_eq!(gateway.get(&fhir("/Patient/p")).status, 404);
    assert_eq!(gateway.conservation()["dispositions"]["rejected"], 1);
    let taken = gateway
        .post_fhir(&fhir(""), &bundle(json!({"resource": creatinine("c1", "p", 1, 2, 2.0), "request": {"method": "PUT", "url": "Observation/c1"}})));
    assert_eq!((taken.status, taken.json()["type"].clone()), (200, json!("transaction-response")), "{}", taken.text());
    assert_eq!(statuses(&taken.json()), ["200 OK", "200 OK", "200 OK"]);
    assert_eq!(gateway.get(&fhir("/Patient/p")).status, 200);
    gateway.conservation();
}

#[test]
fn other_bundles_and_ndjson_are_ingested_entry_by_entry() {
    let gateway = Gateway::start();
    let entry = |resource: Value| json!({"fullUrl": "urn:uuid:0", "resource": resource});
    for (number, kind) in ["collection", "searchset", "history", "message"].into_iter().enumerate() {
        let bundle = json!({"resourceType": "Bundle", "type": kind, "entry": [
            entry(creatinine(&format!("{kind}-1"), "p", 1, 2, 2.0)),
            entry(json!({"resourceType": "MessageHeader", "id": "m"})),
            entry(json!({"resourceType": "Observation", "id": "bad id"})),
        ]});
        let answer = gateway.post_fhir(&fhir("/$ingest"), &bundle);
        assert_eq!(answer.status, 200, "{kind}: {}", answer.text());
        let codes: Vec<String> = statuses(&answer.json()).iter().map(|status| status[..3].to_owned()).collect();
        assert_eq!(codes, ["201", "202", "400"], "{kind}");
        assert_eq!(gateway.conservation()["dispositions"]["applied"], number as i64 + 1);
    }
    let lines = format!("{}\r\n\n{{\"resourceType\":\n{}\n", creatinine("n1", "p", 1, 2, 2.0), creatinine("n2", "p", 1, 2, 2.0));
    for content_type in ["application/fhir+ndjson", "application/x-ndjson"] {
        let answer = gateway.post(&fhir("/$ingest"), content_type, lines.clone()).json();
        let lines: Vec<&str> = answer["entry"].as_array().unwrap().iter().map(|entry| entry["fullUrl"].as_str().unwrap()).collect();
        assert_eq!(lines, ["urn:nephrogate:line:1", "urn:nephrogate:line:3", "urn:nephrogate:line:4"]);
        assert_eq!(statuses(&answer)[1], "400 Bad Request");
    }
    assert_eq!(gateway.post(&fhir("/Observation"), "application/fhir+ndjson", lines).status, 415);
    let counts = gateway.conservation();
    assert_eq!((counts["dispositions"]["applied"].clone(), counts["dispositions"]["duplicate"].clone()), (json!(6), json!(2)));
}

#[test]
fn ndjson_of_many_parts_is_taken_as_it_comes() {
    let gateway = Gateway::start_with(|settings| settings.limits.ndjson_bytes = 64 << 20);
    let pad = "x".repeat(900);
    let mut body = String::new();
    for number in 0..10_000 {
        let mut resource = creatinine(&format!("n{number}"), &format!("p{}", number % 50), 1, number % 80, 2.0);
        resource["note"] = json!([{"text": pad}]);
        body.push_str(&resource.to_string());
        body.push('\n');
    }
    assert!(body.len() > 3 * (4 << 20));
    let answer = gateway.post(&fhir("/$ingest"), "application/fhir+ndjson", body).json();
    assert_eq!(answer["entry"].as_array().unwrap().len(), 10_000);
    assert_eq!(answer["entry"][9_999]["fullUrl"], "urn:nephrogate:line:10000");
    assert_eq!(gateway.conservation()["dispositions"]["applied"], 10_000);
}

#[test]
fn a_deleted_result_is_gone_until_a_newer_version_comes() {
    let gateway = Gateway::start();
    gateway.push(&[patient("p", "1960-01-01"), creatinine("c1", "p", 2, 2, 2.0)]);
    let card = format!("/api/studies/{STUDY}/sites/{SITE}/subjects/p");
    gateway.wait_for(&card, |card| card["row"]["prescreen"] == "met");
    assert_eq!(gateway.send(gateway.request("DELETE", &fhir("/Observation/c1")).header("if-match", "W/\"2\"")).status, 200);
    assert_eq!(gateway.get(&fhir("/Observation/c1")).status, 404);
    gateway.wait_for(&card, |card| card["row"]["prescreen"] == "unknown");
    let late = gateway.put_fhir(&fhir("/Observation/c1"), &creatinine("c1", "p", 1, 2, 2.0));
    assert_eq!(late.status / 100, 2);
    assert_eq!(gateway.get(&fhir("/Observation/c1")).status, 404, "an older version stays withdrawn");
    gateway.push(&[creatinine("c1", "p", 3, 2, 2.1)]);
    assert_eq!(gateway.get(&fhir("/Observation/c1")).status, 200);
    gateway.wait_for(&card, |card| card["row"]["prescreen"] == "met");
    assert_eq!(gateway.send(gateway.request("DELETE", &fhir("/Observation/never"))).status, 200);
    assert_eq!(gateway.send(gateway.request("DELETE", &fhir("/Observation/c1")).header("if-match", "*")).status, 400);
    gateway.conservation();
}

#[test]
fn metadata_lists_exactly_what_is_served() {
    let gateway = Gateway::start();
    let statement = gateway.get(&fhir("/metadata")).json();
    assert_eq!((statement["resourceType"].clone(), statement["fhirVersion"].clone()), (json!("CapabilityStatement"), json!("4.0.1")));
    let resources = statement["rest"][0]["resource"].as_array().unwrap();
    for resource in resources {
        let kind = resource["type"].as_str().unwrap();
        let has = |code: &str| resource["interaction"].as_array().unwrap().iter().any(|interaction| interaction["code"] == code);
        let asks = match kind {
            "Provenance" => "target=ResearchSubject/none",
            "AuditEvent" => "patient=none",
            _ => "_id=none",
        };
        let search = gateway.get(&fhir(&format!("/{kind}?{asks}"))).status;
        assert_eq!(search == 200, has("search-type"), "{kind}: {search}");
        for parameter in resource["searchParam"].as_array().into_iter().flatten() {
            let name = parameter["name"].as_str().unwrap();
            let value = match (parameter["type"].as_str().unwrap(), kind, name) {
                ("date", _, _) => "ge2026-01-01",
                (_, "Provenance", "target") => "ResearchSubject/none",
                (_, "Subscription", "status") => "active",
                _ => "candidate",
            };
            let answer = gateway.get(&fhir(&format!("/{kind}?{name}={value}")));
            assert_eq!(answer.status, 200, "{kind}?{name}: {}", answer.text());
        }
        let update = gateway.put_fhir(&fhir(&format!("/{kind}/x")), &json!({"resourceType": kind, "id": "other"})).status;
        assert!(!has("update") || [400, 422].contains(&update) || (kind, update) == ("Subscription", 404), "{kind}: {update}");
    }
    assert_eq!(gateway.get(&fhir("/Goal?patient=p")).status, 404);
}

#[test]
fn a_search_that_is_not_served_is_an_error_and_never_shows_more() {
    let gateway = Gateway::start();
    for search in [
        "/Observation?_count=0",
        "/Observation?patient=p&category=laboratory",
        "/ResearchSubject?status=happy",
        "/Patient?name=x",
        "/ResearchSubject?studies=x",
        "/Observation?patient=p&_count=x",
    ] {
        let answer = gateway.get(&fhir(search));
        assert_eq!((answer.status, answer.json()["resourceType"].clone()), (400, json!("OperationOutcome")), "{search}");
    }
}

#[test]
fn a_client_pages_through_subjects_results_and_groups() {
    let gateway = Gateway::start();
    let mut resources = Vec::new();
    for number in 0..23 {
        resources.push(patient(&format!("p{number:02}"), "1960-01-01"));
        resources.push(creatinine(&format!("c{number:02}"), &format!("p{number:02}"), 1, 3, if number < 20 { 2.0 } else { 0.9 }));
    }
    for number in 0..12 {
        resources.push(creatinine(&format!("more{number:02}"), "p00", 1, 30 + number, 2.0));
    }
    gateway.push(&resources);
    gateway.wait_for(&format!("/api/studies/{STUDY}/subjects"), |list| {
        list["total"] == 23 && list["rows"].as_array().unwrap().iter().all(|row| row["is_waiting"] == false)
    });

    let subjects = all_pages(&gateway, &fhir(&format!("/ResearchSubject?study={STUDY}&_count=7")));
    assert_eq!(subjects.len(), 20, "who is no candidate is no subject");
    let first = &subjects[0];
    assert_eq!((first["status"].clone(), first["individual"]["reference"].clone()), (json!("candidate"), json!("Patient/p00")));
    assert_eq!(first["study"]["reference"], format!("ResearchStudy/{STUDY}"));
    let read = gateway.get(&fhir(&format!("/ResearchSubject/{}", first["id"].as_str().unwrap())));
    assert_eq!(read.json(), *first);
    assert_eq!(gateway.get(&fhir(&format!("/ResearchSubject?study=ResearchStudy/{STUDY}&status=on-study,off-study"))).json()["total"], 0);
    assert_eq!(gateway.get(&fhir(&format!("/ResearchSubject?study={STUDY}&status=candidate&_count=0"))).json()["total"], 20);
    let one = gateway.get(&fhir("/ResearchSubject?patient=Patient/p03")).json();
    assert!(one["entry"].as_array().unwrap().iter().all(|entry| entry["resource"]["individual"]["reference"] == "Patient/p03"));
    // Without a study: of every study, page after page.
    let of_all = all_pages(&gateway, &fhir("/ResearchSubject?_count=6"));
    assert_eq!(json!(of_all.len()), gateway.get(&fhir("/ResearchSubject?_count=0")).json()["total"]);
    assert!(of_all.len() >= 20);

    let group = gateway.get(&fhir(&format!("/Group/{STUDY}-prescreen"))).json();
    assert_eq!((group["member"].as_array().unwrap().len(), group["actual"].clone(), group["type"].clone()), (20, json!(true), json!("person")));
    let studies = all_pages(&gateway, &fhir("/ResearchStudy"));
    assert!(studies.iter().any(|study| study["id"] == STUDY));
    assert_eq!(gateway.get(&fhir(&format!("/ResearchStudy/{STUDY}"))).json()["resourceType"], "ResearchStudy");

    let results = all_pages(&gateway, &fhir(&format!("/Observation?patient=p00&code={LOINC}%7C2160-0&_count=5")));
    assert_eq!(results.len(), 13);
    let by_code = gateway.get(&fhir("/Observation?patient=Patient/p00&code=9999-9")).json();
    assert_eq!(by_code["total"], 0);
    assert_eq!(gateway.get(&fhir("/Observation?_id=c05")).json()["entry"][0]["resource"]["id"], "c05");
    assert_eq!(gateway.get(&fhir("/Patient?_id=p05")).json()["total"], 1);
    // Over all patients: every resource once, page after page, in order of ids.
    for (path, count) in [("/Patient?_count=4", 23), ("/Observation?code=2160-0&_count=8", 35), ("/Observation?code=9999-9", 0), ("/Condition", 0)] {
        let found = all_pages(&gateway, &fhir(path));
        let ids: std::collections::BTreeSet<&str> = found.iter().map(|resource| resource["id"].as_str().unwrap()).collect();
        assert_eq!((found.len(), ids.len()), (count, count), "{path}");
    }
}

#[test]
fn who_must_not_appear_is_in_no_list_group_or_search() {
    let gateway = Gateway::start();
    let mut restricted = patient("secret", "1960-01-01");
    restricted["meta"]["security"] = json!([{"system": "http://terminology.hl7.org/CodeSystem/v3-Confidentiality", "code": "R"}]);
    gateway.push(&[patient("open", "1960-01-01"), creatinine("c1", "open", 1, 3, 2.0), restricted, creatinine("c2", "secret", 1, 3, 2.0)]);
    let list = gateway.wait_for(&format!("/api/studies/{STUDY}/subjects"), |list| list["total"] == 1 && list["hidden"] != json!({}));
    assert_eq!(list["hidden"], json!({"restricted": 1}));
    assert_eq!(gateway.get(&fhir("/ResearchSubject?patient=secret")).json()["total"], 0);
    assert_eq!(gateway.get(&fhir(&format!("/ResearchSubject/{STUDY}.secret"))).status, 404);
    assert!(!gateway.get(&fhir(&format!("/Group/{STUDY}-prescreen"))).text().contains("secret"));
}
