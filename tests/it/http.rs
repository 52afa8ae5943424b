//! The web door as a whole: who may do what, limits, the screening API, the description, start and stop.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use nephrogate::app::Pulse;
use nephrogate::catalogue::Catalogue;
use nephrogate::config::Config;
use nephrogate::http::access::{self, Role, Who};
use nephrogate::pipeline::{Receivers, receive};
use nephrogate::store::{ledger, outbox};
use nephrogate::writeback::receiver::Settings as ReceiverSettings;
use nephrogate::writeback::{Mode, Receiver};
use serde_json::{Value, json};

use crate::gateway::{Answer, Gateway, SITE, STUDY, creatinine, patient, secret, token};

/// An address of a route with every parameter filled in.
fn filled(path: &str, site: &str) -> String {
    path.replace("{site}", site)
        .replace("{study}", STUDY)
        .replace("{type}", "Observation")
        .replace("{message}", "1")
        .replace("{proposal}", "1")
        .replace("{feed}", "f1")
        .replace("{id}", "x1")
}

fn three_roles() -> Gateway {
    Gateway::start_with(|settings| {
        settings.tokens = vec![
            token("Lab Feed", Role::Feed, None),
            token("Dr Screener", Role::Screener, None),
            token("Admin", Role::Admin, None),
            token("Far Admin", Role::Admin, Some("synthea")),
        ];
    })
}

fn as_person(gateway: &Gateway, method: &str, path: &str, name: Option<&str>) -> Answer {
    let request = gateway.request(method, path).header("content-type", "application/fhir+json");
    gateway.send(match name {
        Some(name) => request.bearer_auth(secret(name)),
        None => request,
    })
}

#[test]
fn every_route_of_the_table_lets_in_the_roles_it_names_and_no_other() {
    let gateway = three_roles();
    for route in nephrogate::http::routes() {
        let (method, path) = (route.method.as_str(), filled(route.path, SITE));
        let is_page = !path.starts_with("/api/") && !path.starts_with("/fhir/") && route.says.is_none();
        let nobody = as_person(&gateway, method, &path, None);
        if route.who == Who::Anyone {
            assert!(![401, 403].contains(&nobody.status) || path == "/sign-in", "{method} {path} is for anyone: {}", nobody.status);
            continue;
        }
        assert_eq!(nobody.status, if is_page { 303 } else { 401 }, "{method} {path} without a token");
        if matches!(route.who, Who::CdsClient | Who::Source) {
            for name in ["Lab Feed", "Dr Screener", "Admin"] {
                assert_eq!(as_person(&gateway, method, &path, Some(name)).status, 401, "{method} {path} is for nobody of our own");
            }
            continue;
        }
        let wrong = gateway.send(gateway.request(method, &path).bearer_auth("guessed"));
        assert_eq!(wrong.status, if is_page { 303 } else { 401 }, "{method} {path} with a token that nobody has");
        for (name, role) in [("Lab Feed", Role::Feed), ("Dr Screener", Role::Screener), ("Admin", Role::Admin)] {
            let answer = as_person(&gateway, method, &path, Some(name));
            if route.who.allows(role) {
                assert!(![401, 403].contains(&answer.status), "{method} {path} as {name}: {} {}", answer.status, answer.text());
                assert!(answer.status < 500, "{method} {path} as {name}: {}", answer.text());
            } else {
                assert_eq!(answer.status, 403, "{method} {path} as {name}");
            }
        }
        if route.path.contains("{site}") {
            assert_eq!(as_person(&gateway, method, &path, Some("Far Admin")).status, 403, "{method} {path} with a token of another site");
        }
    }
}

#[test]
fn a_token_of_one_site_sees_the_list_of_that_site_alone() {
    let gateway = three_roles();
    let of = |query: &str| as_person(&gateway, "GET", &format!("/api/studies/{STUDY}/subjects{query}"), Some("Far Admin")).status;
    assert_eq!(of(""), 200);
    assert_eq!(of("?site=synthea"), 200);
    assert_eq!(of(&format!("?site={SITE}")), 403);
}

#[test]
fn the_description_names_every_described_route_and_each_of_them_is_mounted() {
    let gateway = Gateway::start();
    let description = gateway.get("/openapi.json").json();
    assert_eq!(description["openapi"], "3.1.0");
    assert_eq!(description["paths"]["/api/studies"]["get"]["security"], json!([]), "this gateway has no tokens");
    let guarded = three_roles().get("/openapi.json").json();
    assert_eq!(guarded["paths"]["/api/studies"]["get"]["security"], json!([{"token": []}]));
    let mut named = BTreeSet::new();
    for (path, operations) in description["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            named.insert((method.to_uppercase(), path.clone()));
            assert!(!operation["responses"].as_object().unwrap().is_empty());
            let answer = gateway.send(gateway.request(&method.to_uppercase(), &filled(path, SITE)).header("content-type", "application/fhir+json"));
            assert_ne!(answer.status, 405, "{method} {path}");
            assert!(!answer.text().contains("nothing is served at this address"), "{method} {path}");
            let status = answer.status.to_string();
            assert!(operation["responses"].get(&status).is_some(), "{method} {path} answered {status}, which it does not describe");
        }
    }
    let table: BTreeSet<(String, String)> = nephrogate::http::routes()
        .iter()
        .filter(|route| route.says.is_some())
        .map(|route| (route.method.to_string(), route.path.to_owned()))
        .collect();
    assert_eq!(named, table);
    // Every shape that is named is there.
    let text = description.to_string();
    for (start, _) in text.match_indices("#/components/schemas/") {
        let name: String = text[start + 21..].chars().take_while(|c| c.is_alphanumeric()).collect();
        assert!(description["components"]["schemas"].get(&name).is_some(), "{name}");
    }
}

#[test]
fn an_address_that_is_not_served_and_a_method_that_is_not_taken_are_said_so() {
    let gateway = Gateway::start();
    let unknown = gateway.get("/api/nothing");
    assert_eq!((unknown.status, unknown.header("content-type")), (404, "application/problem+json"));
    let method = gateway.send(gateway.request("PATCH", "/api/studies"));
    assert_eq!((method.status, method.json()["status"].clone()), (405, json!(405)));
    assert_eq!(method.header("allow"), "GET");
    let fhir = gateway.get("/fhir/nowhere/Patient/x");
    assert_eq!(fhir.status, 404);
    assert_eq!(fhir.json()["resourceType"], "OperationOutcome");
}

#[test]
fn a_foreign_host_name_and_a_foreign_web_site_are_turned_away() {
    let gateway = Gateway::start();
    let rebound = gateway.send(gateway.request("GET", "/api/studies").header("host", "evil.example"));
    assert_eq!(rebound.status, 421);
    let path = format!("/api/studies/{STUDY}/sites/{SITE}/subjects/x1/decisions");
    let foreign = gateway.send(gateway.request("POST", &path).header("origin", "http://evil.example").json(&json!({})));
    assert_eq!(foreign.status, 403);
    let foreign = gateway.send(gateway.request("POST", &path).header("sec-fetch-site", "cross-site").json(&json!({})));
    assert_eq!(foreign.status, 403);
    let own = gateway.send(gateway.request("POST", &path).header("origin", format!("http://{}", gateway.address)).json(&json!({})));
    assert_eq!(own.status, 400, "our own page is let in, and its decision is looked at");
}

#[test]
fn answers_are_not_cached_not_sniffed_not_framed_and_do_not_say_what_made_them() {
    let gateway = Gateway::start();
    for path in ["/api/studies", "/healthz", "/fhir/demo-hospital/metadata", "/nothing"] {
        let answer = gateway.get(path);
        assert_eq!(answer.header("cache-control"), "no-store", "{path}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        let policy = answer.header("content-security-policy");
        assert!(policy.contains("frame-ancestors 'none'") && policy.contains("script-src 'self'") && !policy.contains("unsafe"), "{policy}");
        assert!(answer.headers.get("server").is_none());
    }
}

#[test]
fn a_person_signs_in_by_token_and_the_cookie_is_good_for_own_pages_alone() {
    let gateway = three_roles();
    let form = |token: &str| {
        gateway.send(gateway.request("POST", "/sign-in").header("content-type", "application/x-www-form-urlencoded").body(format!("token={token}")))
    };
    assert_eq!(form("guessed").status, 403);
    let signed_in = form(&secret("Dr Screener"));
    assert_eq!(signed_in.status, 303);
    let cookie = signed_in.header("set-cookie");
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    let cookie = cookie.split(';').next().unwrap().to_owned();
    assert_eq!(gateway.send(gateway.request("GET", "/api/studies").header("cookie", &cookie)).status, 200);
    let path = format!("/api/studies/{STUDY}/sites/{SITE}/subjects/x1/decisions");
    let blind = gateway.send(gateway.request("POST", &path).header("cookie", &cookie).json(&json!({})));
    assert_eq!(blind.status, 403, "a cookie without a word about where the request comes from");
    let own = gateway.send(gateway.request("POST", &path).header("cookie", &cookie).header("sec-fetch-site", "same-origin").json(&json!({})));
    assert_eq!(own.status, 400);
}

#[test]
fn a_body_that_is_too_large_is_refused_whether_it_says_so_or_not() {
    let gateway = Gateway::start_with(|settings| {
        settings.limits.single_bytes = 200_000;
        settings.limits.bundle_bytes = 400_000;
        settings.limits.ndjson_bytes = 400_000;
    });
    let large = vec![b' '; 500_000];
    for path in [format!("/fhir/{SITE}/Observation"), format!("/fhir/{SITE}"), format!("/fhir/{SITE}/$ingest")] {
        let answer = gateway.post(&path, "application/fhir+json", large.clone());
        assert_eq!(answer.status, 413, "{path}");
        assert_eq!(answer.json()["issue"][0]["details"]["coding"][0]["code"], "too-large");
    }
    // Chunked, so that no length is announced: by hand, since the client knows the length.
    let mut stream = TcpStream::connect(gateway.address).unwrap();
    write!(
        stream,
        "POST /fhir/{SITE}/$ingest HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/fhir+ndjson\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    .unwrap();
    for _ in 0..50 {
        if write!(stream, "4000\r\n{}\r\n", " ".repeat(0x4000)).is_err() {
            break;
        }
    }
    assert_eq!(status_line(stream), 413);
    assert_eq!(gateway.get("/healthz").status, 200);
}

/// The status of a raw answer.
fn status_line(stream: TcpStream) -> u16 {
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line.split(' ').nth(1).unwrap_or_else(|| panic!("no status in {line:?}")).parse().unwrap()
}

#[test]
fn a_small_body_that_unpacks_to_a_giant_is_refused() {
    let gateway = Gateway::start_with(|settings| settings.limits.bundle_bytes = 1 << 20);
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let zeros = vec![b' '; 1 << 20];
    (0..64).for_each(|_| packer.write_all(&zeros).unwrap());
    let bomb = packer.finish().unwrap();
    assert!(bomb.len() < 100_000);
    let request = gateway
        .request("POST", &format!("/fhir/{SITE}"))
        .header("content-type", "application/fhir+json")
        .header("content-encoding", "gzip")
        .body(bomb);
    assert_eq!(gateway.send(request).status, 413);
    let unknown = gateway.request("POST", &format!("/fhir/{SITE}")).header("content-encoding", "br").body("{}");
    assert_eq!(gateway.send(unknown).status, 415);
    let broken = gateway.request("POST", &format!("/fhir/{SITE}")).header("content-encoding", "gzip").body("this is no gzip, though it says so");
    assert_eq!(gateway.send(broken).status, 400);
}

#[test]
fn a_gzipped_resource_is_taken() {
    let gateway = Gateway::start();
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packer.write_all(patient("zip", "1960-01-01").to_string().as_bytes()).unwrap();
    let request = gateway
        .request("PUT", &format!("/fhir/{SITE}/Patient/zip"))
        .header("content-type", "application/fhir+json")
        .header("content-encoding", "gzip");
    assert_eq!(gateway.send(request.body(packer.finish().unwrap())).status, 200);
}

#[test]
fn a_body_that_trickles_is_given_up() {
    let gateway = Gateway::start_with(|settings| settings.limits.idle = Duration::from_millis(200));
    let mut stream = TcpStream::connect(gateway.address).unwrap();
    write!(stream, "POST /fhir/{SITE}/Observation HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{{")
        .unwrap();
    assert_eq!(status_line(stream), 408);
}

#[test]
fn every_case_of_the_bad_input_collection_is_answered_by_its_class_and_nothing_is_lost() {
    let Some(folder) = crate::fhir::shared("data/bad-input") else { return };
    let gateway = Gateway::start();
    let index = std::fs::read_to_string(folder.join("INDEX.tsv")).unwrap();
    let mut sent = 0;
    for row in index.lines().skip(1) {
        let fields: Vec<&str> = row.split('\t').collect();
        let (file, classes) = (fields[0], fields[3]);
        let body = std::fs::read(folder.join(file)).unwrap();
        let is_ndjson = file.ends_with(".ndjson");
        let path = if is_ndjson { format!("/fhir/{SITE}/$ingest") } else { format!("/fhir/{SITE}") };
        let answer = gateway.post(&path, if is_ndjson { "application/fhir+ndjson" } else { "application/fhir+json" }, body);
        let class = format!("{}xx", answer.status / 100);
        assert!(classes.split('|').any(|allowed| allowed == class), "{file}: {} is not {classes}: {}", answer.status, answer.text());
        let outcome = answer.json();
        if is_ndjson {
            let statuses: Vec<&str> =
                outcome["entry"].as_array().unwrap().iter().map(|entry| entry["response"]["status"].as_str().unwrap()).collect();
            assert_eq!(statuses.iter().filter(|status| status.starts_with('2')).count(), 2, "{statuses:?}");
            assert_eq!(statuses.iter().filter(|status| status.starts_with('4')).count(), 2, "{statuses:?}");
        } else if class == "4xx" {
            assert_eq!(outcome["resourceType"], "OperationOutcome", "{file}");
        }
        sent += 1;
    }
    assert!(sent >= 60, "{sent}");
    gateway.conservation();
    assert_eq!(gateway.get("/healthz").status, 200);
}

/// Five subjects of one study: eGFR far below, below, inside, inside and above, and one without any result.
fn five_subjects(gateway: &Gateway) {
    let mut resources = Vec::new();
    for (id, mg_dl) in [("a", 9.0), ("b", 4.4), ("c", 2.5), ("d", 2.0), ("e", 0.9)] {
        resources.push(patient(id, "1960-01-01"));
        resources.push(creatinine(&format!("cr-{id}"), id, 1, 10, mg_dl));
    }
    resources.push(patient("f", "1970-05-05"));
    gateway.push(&resources);
}

fn list_path(query: &str) -> String {
    format!("/api/studies/{STUDY}/subjects{query}")
}

fn subjects(list: &Value) -> Vec<&str> {
    list["rows"].as_array().unwrap().iter().map(|row| row["subject"].as_str().unwrap()).collect()
}

#[test]
fn the_list_is_filtered_sorted_and_says_as_of_when() {
    let gateway = Gateway::start();
    five_subjects(&gateway);
    let list = gateway.wait_for(&list_path("?sort=egfr"), |list| {
        list["total"] == 6 && list["rows"].as_array().unwrap().iter().all(|row| row["is_waiting"] == false)
    });
    assert_eq!(subjects(&list)[..5], ["a", "b", "c", "d", "e"]);
    assert_eq!(list["counts"], json!({"met": 2, "not-met": 3, "unknown": 1}));
    assert_eq!(list["as_of"][0]["feed"], "push");
    let met = gateway.get(&list_path("?prescreen=met&sort=-egfr")).json();
    assert_eq!(subjects(&met), ["d", "c"]);
    let unknown = gateway.get(&list_path("?prescreen=unknown")).json();
    assert_eq!(subjects(&unknown), ["f"]);
    let missing = unknown["rows"][0]["missing"][0].as_str().unwrap();
    assert_eq!(subjects(&gateway.get(&list_path(&format!("?missing={missing}"))).json()), ["f"]);
    for query in ["?prescreen=perhaps", "?page=-1", "?sort=size", "?limit=5", "?page=1&page=2"] {
        assert_eq!(gateway.get(&list_path(query)).status, 400, "{query}");
    }
    assert_eq!(gateway.get("/api/studies/none/subjects").status, 404);
    assert_eq!(gateway.get(&list_path("?site=nowhere")).status, 404);
}

#[test]
fn each_view_of_a_subject_is_recorded_with_who_when_and_which() {
    let gateway = Gateway::start();
    five_subjects(&gateway);
    let seen = |subject: &str| {
        let accesses = gateway.store.read_blocking(|tx| nephrogate::store::accesses::of_subject(tx, SITE, subject)).unwrap();
        accesses.into_iter().map(|access| (access.who, access.action)).collect::<Vec<_>>()
    };
    assert_eq!(gateway.get(&format!("/api/studies/{STUDY}/sites/{SITE}/subjects/c")).status, 200);
    assert_eq!(seen("c"), [("Test Person".to_owned(), "card".to_owned())]);
    gateway.get(&list_path("?prescreen=not-met"));
    assert!(seen("a").iter().any(|(_, action)| action == "list") && seen("d").is_empty());
    gateway.get(&format!("/fhir/{SITE}/Observation?patient=d"));
    assert!(seen("d").iter().any(|(_, action)| action == "search FHIR"));
    // The pages show the same, and record the same.
    assert_eq!(gateway.get("/").status, 200);
    assert_eq!(seen("b").iter().filter(|(_, action)| action == "list").count(), 2);
    let mut odd = creatinine("cr-odd", "g", 1, 10, 2.0);
    odd["valueQuantity"] = json!({"value": 2, "unit": "furlongs"});
    assert_eq!(gateway.post_fhir(&format!("/fhir/{SITE}/Observation"), &odd).status, 202);
    assert_eq!(gateway.get(&format!("/sites/{SITE}/quarantine")).status, 200);
    assert!(seen("g").iter().any(|(_, action)| action == "quarantine"));
}

#[test]
fn the_list_as_csv_is_whole_and_holds_no_formula() {
    let gateway = Gateway::start();
    let mut resources = Vec::new();
    for number in 0..60 {
        resources.push(patient(&format!("p{number}"), "1960-01-01"));
        resources.push(creatinine(&format!("c{number}"), &format!("p{number}"), 1, 3, 2.0));
    }
    resources.push(patient("-1.2", "1960-01-01"));
    gateway.push(&resources);
    gateway.wait_for(&list_path(""), |list| list["total"] == 61);
    for answer in [gateway.get(&list_path("?format=csv")), gateway.send(gateway.request("GET", &list_path("")).header("accept", "text/csv"))] {
        assert_eq!((answer.status, answer.header("content-type")), (200, "text/csv; charset=utf-8"));
        let text = answer.text();
        assert_eq!(text.lines().count(), 62);
        assert!(text.starts_with("site,subject,study,prescreen,"));
        assert!(text.contains(",'-1.2,"), "a subject id that a spreadsheet would compute");
    }
    // The pages of the JSON list lead through all of it.
    let first = gateway.get(&list_path("?sort=subject")).json();
    let second = gateway.get(first["next"].as_str().unwrap()).json();
    assert_eq!((subjects(&first).len(), subjects(&second).len(), second["next"].clone()), (50, 11, Value::Null));
    let all: BTreeSet<&str> = subjects(&first).into_iter().chain(subjects(&second)).collect();
    assert_eq!(all.len(), 61);
}

#[test]
fn a_decision_has_a_person_and_a_reason_and_fits_what_was_seen() {
    let gateway = Gateway::start();
    let study = "elixcyte-1";
    let mut resources = vec![patient("p", "1960-01-01")];
    resources.push(creatinine("old", "p", 1, 200, 2.0));
    resources.push(creatinine("new", "p", 1, 5, 2.0));
    gateway.push(&resources);
    let path = format!("/api/studies/{study}/sites/{SITE}/subjects/p");
    let card = gateway.wait_for(&path, |card| card["row"]["prescreen"] == "met");
    assert_eq!(card["row"]["state"], "candidate");
    let decisions = format!("{path}/decisions");
    let decide = |body: Value| gateway.send(gateway.request("POST", &decisions).json(&body));
    assert_eq!(decide(json!({"kind": "consent", "given": true, "reason": "  "})).status, 400);
    assert_eq!(decide(json!({"kind": "consent", "reason": "signed"})).status, 400);
    assert_eq!(decide(json!({"kind": "state", "to": "enrolled", "reason": "too early"})).status, 409);
    let stale = decide(json!({"kind": "consent", "given": true, "reason": "signed", "evidence_hash": "0".repeat(64)}));
    assert_eq!((stale.status, stale.json()["current_evidence_hash"].clone()), (409, card["evidence_hash"].clone()));
    let taken = decide(json!({"kind": "consent", "given": true, "reason": "form of today, signed", "evidence_hash": card["evidence_hash"]}));
    assert_eq!(taken.status, 201, "{}", taken.text());
    assert_eq!(taken.json()["state"], "consented");

    let card = gateway.get(&path).json();
    let criterion = card["assessment"]["criteria"].as_array().unwrap().iter().find(|criterion| criterion["id"] == "exclusion-1").unwrap().clone();
    assert_eq!(criterion["verdict"], "unknown");
    let attest = |id: &str, hash: &Value| {
        decide(json!({"kind": "attestation", "criterion": id, "passes": true, "reason": "asked the patient", "evidence_hash": hash}))
    };
    assert_eq!(attest("exclusion-1", &json!("")).status, 409);
    assert_eq!(attest("exclusion-1", &criterion["evidence_hash"]).status, 201);
    let card = gateway.get(&path).json();
    let of = |id: &str| card["assessment"]["criteria"].as_array().unwrap().iter().find(|criterion| criterion["id"] == id).unwrap().clone();
    assert_eq!(of("exclusion-1")["verdict"], "met");
    assert_eq!(of("exclusion-1")["attestation"]["by"], "Test Person");
    assert_eq!(attest("inclusion-1", &of("inclusion-1")["evidence_hash"]).status, 409, "the data already decide the age");
    assert_eq!(
        gateway
            .send(gateway.request("POST", &decisions.replace("/p/", "/nobody/")).json(&json!({"kind": "consent", "given": true, "reason": "x"})))
            .status,
        404
    );
    let form = gateway.send(gateway.request("POST", &decisions).header("content-type", "text/plain").body("{}"));
    assert_eq!(form.status, 415);
    assert!(card["history"].as_array().unwrap().len() >= 2);
    gateway.conservation();
}

#[test]
fn a_message_is_traced_to_the_verdict_that_used_it() {
    let gateway = Gateway::start();
    gateway.push(&[patient("p", "1960-01-01"), creatinine("c1", "p", 1, 3, 2.5)]);
    let card = gateway.wait_for(&format!("/api/studies/{STUDY}/sites/{SITE}/subjects/p"), |card| card["row"]["prescreen"] == "met");
    let evidence = &card["assessment"]["criteria"][0]["evidence"];
    let message = evidence
        .as_array()
        .unwrap()
        .iter()
        .find_map(|evidence| (evidence["resource"] == "Observation/c1").then(|| evidence["message"].as_i64().unwrap()))
        .unwrap();
    let trace = gateway.get(&format!("/api/sites/{SITE}/messages/{message}")).json();
    assert_eq!(trace["message"]["disposition"], "applied");
    let verdict = trace["verdicts"].as_array().unwrap().iter().find(|verdict| verdict["study"] == STUDY).unwrap();
    assert_eq!(verdict["criteria"], json!([card["assessment"]["criteria"][0]["id"]]));
    let body = gateway.get(&format!("/api/sites/{SITE}/messages/{message}/body"));
    assert_eq!(body.json()["id"], "c1");
    assert_eq!(gateway.get(&format!("/api/sites/{SITE}/messages/999999")).status, 404);
    assert_eq!(gateway.get(&format!("/api/sites/{SITE}/messages/one")).status, 404);
}

#[test]
fn the_quarantine_lists_what_waits_for_a_mended_mapping() {
    let gateway = Gateway::start();
    let mut unmapped = creatinine("u1", "p", 1, 3, 2.5);
    unmapped["valueQuantity"] = json!({"value": 2.5, "unit": "furlong"});
    let answer = gateway.put_fhir(&format!("/fhir/{SITE}/Observation/u1"), &unmapped);
    assert_eq!((answer.status, answer.json()["issue"][0]["severity"].clone()), (202, json!("warning")), "{}", answer.text());
    let quarantine = gateway.get(&format!("/api/sites/{SITE}/quarantine")).json();
    assert_eq!((quarantine["total"].clone(), quarantine["messages"][0]["id"].clone()), (json!(1), json!("u1")));
    assert_eq!(gateway.get(&format!("/api/sites/{SITE}/quarantine?page=x")).status, 400);
}

#[test]
fn a_write_back_in_shadow_is_shown_before_a_named_person_releases_it() {
    let gateway = Gateway::start_with(|settings| {
        let catalogue = &settings.pipeline.catalogue;
        let receiver = ReceiverSettings::read(&catalogue.receivers[SITE]).unwrap().receiver(SITE, "http://127.0.0.1:1/fhir", [7; 32]);
        // Nobody delivers here: there is no endpoint.
        settings.pipeline.receivers = Arc::new(Receivers::from([(SITE.to_owned(), Receiver { mode: Mode::Shadow, ..receiver })]));
    });
    let path = format!("/api/sites/{SITE}/studies/{STUDY}/release");
    for id in ["stays", "turns"] {
        gateway.push(&[patient(id, "1960-01-01"), creatinine(&format!("cr-{id}"), id, 1, 3, 2.0)]);
    }
    let before = gateway.get(&path).json();
    assert_eq!(before["released_by"], Value::Null);
    let waiting = |shown: &Value, subject: &str| shown["waiting"].as_array().unwrap().iter().filter(|item| item["subject"] == subject).count();
    assert!(0 < waiting(&before, "stays") && waiting(&before, "stays") == waiting(&before, "turns"), "{before}");
    assert!(before["waiting"].as_array().unwrap().iter().all(|item| item["state"] == "shadow"), "{before}");

    // A correction that is committed and not judged yet, as by another gateway on the same store.
    let corrected = creatinine("cr-turns", "turns", 2, 3, 0.9);
    let catalogue = Catalogue::load(None).unwrap();
    let prepared = receive::prepare(&catalogue, &catalogue.sites[SITE], corrected.to_string().as_bytes());
    gateway.store.write_blocking(|tx| ledger::commit(tx, SITE, "push", access::now_ms(), std::slice::from_ref(&prepared))).unwrap();
    let released = gateway.send(gateway.request("POST", &path));
    assert_eq!((released.status, released.json()["released_by"].clone()), (200, json!("Test Person")));
    let items = gateway.store.read_blocking(|tx| outbox::list(tx, Some(SITE), None)).unwrap();
    let states = |subject: &str| -> BTreeSet<&str> {
        items.iter().filter(|item| item.study == STUDY && item.subject == subject).map(|item| item.state.word()).collect()
    };
    assert_eq!(states("stays"), BTreeSet::from(["planned"]), "{items:#?}");
    assert_eq!(states("turns"), BTreeSet::from(["superseded"]), "what was overtaken does not leave: {items:#?}");
    let planned = items.iter().filter(|item| item.study == STUDY && item.state.word() == "planned").count();
    assert_eq!(released.json()["count"], json!(planned));
    assert_eq!(gateway.send(gateway.request("POST", &path)).status, 409);
    let after = gateway.get(&path).json();
    assert_eq!((after["released_by"].clone(), after["waiting"].clone()), (json!("Test Person"), json!([])));
}

#[test]
fn ten_failed_sign_ins_make_an_address_wait_and_nobody_else() {
    let gateway = three_roles();
    let sign_in = |token: &str| {
        gateway.send(gateway.request("POST", "/sign-in").header("content-type", "application/x-www-form-urlencoded").body(format!("token={token}")))
    };
    for attempt in 0..10 {
        assert_eq!(sign_in(&format!("guess-{attempt}")).status, 403);
    }
    let refused = sign_in("guess-10");
    assert_eq!(refused.status, 429);
    assert!((1..=60).contains(&refused.header("retry-after").parse::<u32>().unwrap()), "{:?}", refused.headers);
    assert_eq!(sign_in(&secret("Dr Screener")).status, 429, "the right one would tell a guesser that it is right");
    let bearer = gateway.request("GET", "/api/sites").bearer_auth(secret("Dr Screener"));
    assert_eq!(gateway.send(bearer).status, 200, "who has a token goes on working");
}

#[test]
fn a_loop_that_ended_or_went_silent_is_told() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let now_ms = access::now_ms();
        let task = tokio::spawn(std::future::pending::<()>());
        let beat = Arc::new(AtomicI64::new(now_ms));
        let pulse = Pulse { name: "delivery of north".to_owned(), task: task.abort_handle(), beat: beat.clone() };
        assert_eq!(pulse.trouble(now_ms + 119_000), None);
        assert!(pulse.trouble(now_ms + 121_000).unwrap().contains("delivery of north has not gone round"));
        beat.store(now_ms + 121_000, Ordering::Relaxed);
        assert_eq!(pulse.trouble(now_ms + 121_000), None);
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        assert!(pulse.trouble(now_ms + 121_000).unwrap().contains("delivery of north has ended"));
    });
}

#[test]
fn many_single_pushes_at_once_are_all_taken() {
    let gateway = Gateway::start();
    let gateway = &gateway;
    std::thread::scope(|scope| {
        for lane in 0..8 {
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let client = reqwest::Client::new();
                for number in 0..25 {
                    let id = format!("l{lane}n{number}");
                    let request =
                        client.put(gateway.url(&format!("/fhir/{SITE}/Observation/{id}"))).json(&creatinine(&id, &format!("lane{lane}"), 1, 3, 2.0));
                    let answer = runtime.block_on(async { request.send().await }).unwrap();
                    assert_eq!(answer.status().as_u16(), 200);
                }
            });
        }
    });
    assert_eq!(gateway.conservation()["dispositions"]["applied"], 200);
}

#[test]
fn a_stopped_gateway_has_answered_what_it_took() {
    let gateway = Gateway::start();
    gateway.push(&[patient("p", "1960-01-01")]);
    let address = gateway.address;
    gateway.stop().unwrap();
    assert!(TcpStream::connect(address).is_err());
}

/// A configuration in a folder of its own.
fn config(folder: &std::path::Path, text: &Value) -> std::path::PathBuf {
    let file = folder.join("config.json");
    std::fs::write(&file, text.to_string()).unwrap();
    file
}

fn plain_config() -> Value {
    json!({"listen": "127.0.0.1:0", "store": {"sqlite_dir": "store"}, "sites": [{"site": SITE, "note": "for a test"}]})
}

#[test]
fn an_address_that_others_can_reach_is_refused_without_tls_and_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let mut text = plain_config();
    text["listen"] = json!("0.0.0.0:0");
    let faults = Config::read(&config(folder.path(), &text)).unwrap_err();
    let messages: Vec<&str> = faults.iter().map(|fault| fault.message.as_str()).collect();
    assert_eq!(messages, ["an address that others can reach needs TLS", "an address that others can reach needs tokens"]);
    assert!(faults.iter().all(|fault| fault.path == "/listen" && !fault.hint.is_empty()));
}

#[test]
fn a_fault_of_the_configuration_names_its_place_and_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let mut text = plain_config();
    text["tokens"] = json!([{"name": "Dr A", "role": "screener", "site": "elsewhere", "env": "NEPHROGATE_TEST_UNSET"}]);
    let faults = Config::read(&config(folder.path(), &text)).unwrap_err();
    assert_eq!(faults[0].path, "/tokens/0/site");
    text["tokens"][0]["site"] = json!(SITE);
    let read = Config::read(&config(folder.path(), &text)).unwrap();
    assert_eq!(read.tokens().unwrap_err().path, "/tokens/0/env");
    text["tokens"][0]["password"] = json!("in the clear");
    assert_eq!(Config::read(&config(folder.path(), &text)).unwrap_err()[0].path, "/tokens/0");
    assert!(!Config::read(&folder.path().join("absent.json")).unwrap_err()[0].hint.is_empty());
}

/// A process that does not outlive its test.
struct Process(std::process::Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn serve_prints_its_address_answers_and_ends_well_on_sigterm() {
    let folder = tempfile::tempdir().unwrap();
    let file = config(folder.path(), &plain_config());
    let mut command = Command::new(env!("CARGO_BIN_EXE_nephrogate"));
    let mut process = Process(command.args(["serve", "--config"]).arg(&file).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(process.0.stdout.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    let url = first.strip_prefix("listening on ").unwrap_or_else(|| panic!("{first}")).to_owned();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let status = runtime.block_on(async { reqwest::get(format!("{url}/healthz")).await.unwrap().status().as_u16() });
    assert_eq!(status, 200);
    let push = reqwest::Client::new().put(format!("{url}/fhir/{SITE}/Patient/p")).json(&patient("p", "1960-01-01"));
    assert_eq!(runtime.block_on(async { push.send().await.unwrap().status().as_u16() }), 200);
    assert!(Command::new("kill").args(["-TERM", &process.0.id().to_string()]).status().unwrap().success());
    let mut said = String::new();
    process.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(process.0.wait().unwrap().success(), "{said}");
    assert!(!folder.path().join("store/nephrogate.db-wal").exists(), "the write-ahead log is folded in");
    let faulty = Command::new(env!("CARGO_BIN_EXE_nephrogate")).args(["serve", "--config", "absent.json"]).output().unwrap();
    assert_eq!(faulty.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&faulty.stderr).contains("hint:"), "{}", String::from_utf8_lossy(&faulty.stderr));
}
