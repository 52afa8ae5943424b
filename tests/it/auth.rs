//! How EHRs let the gateway in: access tokens, keys, client certificates, files elsewhere, and every way of not being let in,
//! each with its sentence and without a loop. Against a server of our own, and against a strict one that is not.

mod certificates;
mod stub;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::JwkSet;
use nephrogate::catalogue::Fault;
use nephrogate::config::Config;
use nephrogate::ehr::access::{Access, Credentials, Tls};
use nephrogate::ehr::signing::{self, Algorithm, KeyFile};
use nephrogate::ehr::smart::Settings;
use nephrogate::ehr::{Ehr, EhrError, scope};
use serde_json::{Value, json};
use stub::{Answer, Asked, DISCOVERY_PATH, Stub, TOKEN_PATH, resource_at, smart_configuration};

use crate::counterparts::start_sekmet_with;
use crate::gateway::{Gateway, SITE};

const CLIENT: &str = "nephrogate-at-this-hospital";

/// A private key, made as the gateway tells people to; the same one each time it is asked for.
fn key(algorithm: Algorithm, number: usize) -> PathBuf {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    static MAKING: Mutex<()> = Mutex::new(());
    let _making = MAKING.lock().unwrap();
    let file = FOLDER.get_or_init(|| tempfile::tempdir().unwrap()).path().join(format!("{algorithm}-{number}.pem"));
    if !file.exists() {
        let recipe = algorithm.recipe().replace("FILE", file.to_str().unwrap());
        let made = Command::new("sh").args(["-c", &recipe]).output().unwrap();
        assert!(made.status.success(), "openssl is needed: {}", String::from_utf8_lossy(&made.stderr));
    }
    file
}

fn key_file(algorithm: Algorithm, number: usize) -> KeyFile {
    KeyFile { file: key(algorithm, number), algorithm, kid: None }
}

fn settings() -> Settings {
    let scopes = ["system/Patient.rs", "system/Observation.rs"].map(str::to_owned).to_vec();
    Settings { client_id: CLIENT.to_owned(), scopes, token_endpoint: None, keys: vec![key_file(Algorithm::Es384, 1)] }
}

fn smart(base_url: &str, settings: Settings) -> Ehr {
    nephrogate::app::install_tls_provider();
    Ehr::open_with(base_url, Access { credentials: Credentials::Smart(settings), ..Access::default() }).unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Header and claims of an assertion whose signature one of these keys made.
fn verified(assertion: &str, keys: &[KeyFile]) -> (Value, Value) {
    let set: JwkSet = serde_json::from_str(&signing::published(keys).unwrap()).unwrap();
    let header = jsonwebtoken::decode_header(assertion).unwrap();
    let jwk = set.find(header.kid.as_deref().unwrap()).expect("kid names a published key");
    let (message, signature) = assertion.rsplit_once('.').unwrap();
    let key = DecodingKey::from_jwk(jwk).unwrap();
    assert!(jsonwebtoken::crypto::verify(signature, message.as_bytes(), &key, header.alg).unwrap(), "the signature holds");
    let claims = jsonwebtoken::dangerous::insecure_decode_claims::<Value>(assertion).unwrap();
    (serde_json::to_value(&header).unwrap(), claims)
}

fn error_of(asked: Result<Option<nephrogate::ehr::Held>, EhrError>) -> EhrError {
    asked.expect_err("it is not let in")
}

// --- tokens

#[test]
fn a_token_is_had_by_a_signed_assertion_and_goes_to_the_fhir_base_alone() {
    for algorithm in [Algorithm::Es384, Algorithm::Rs384] {
        let stub = Stub::start();
        let keys = vec![key_file(algorithm, 1)];
        let ehr = smart(&stub.base_url(), Settings { keys: keys.clone(), ..settings() });
        let now = jiff::Timestamp::now().as_second();
        assert!(runtime().block_on(ehr.read("Patient", "p")).unwrap().is_some());

        let discovery = &stub.asked_at(DISCOVERY_PATH)[0];
        assert_eq!((discovery.header("accept"), discovery.header("authorization")), ("application/json", ""));
        let asked = &stub.asked_at(TOKEN_PATH)[0];
        assert_eq!((asked.method.as_str(), asked.header("authorization")), ("POST", ""));
        assert_eq!(asked.header("content-type"), "application/x-www-form-urlencoded");
        assert_eq!(asked.field("grant_type"), "client_credentials");
        assert_eq!(asked.field("scope"), "system/Patient.rs system/Observation.rs");
        assert_eq!(asked.field("client_assertion_type"), "urn:ietf:params:oauth:client-assertion-type:jwt-bearer");
        let (header, claims) = verified(&asked.field("client_assertion"), &keys);
        assert_eq!((&header["alg"], &header["typ"]), (&json!(algorithm.word()), &json!("JWT")));
        assert_eq!((&claims["iss"], &claims["sub"], &claims["aud"]), (&json!(CLIENT), &json!(CLIENT), &json!(stub.token_url())));
        let lifetime = claims["exp"].as_i64().unwrap() - now;
        assert!((200..=300).contains(&lifetime), "at most 5 minutes, whatever the clocks differ: {lifetime}");
        assert_eq!(claims["jti"].as_str().unwrap().len(), 32);

        let read = &stub.asked_at("/fhir/Patient/p")[0];
        assert_eq!(read.header("authorization"), "Bearer access-token-1");
        assert!(!stub.asked().iter().any(|asked| asked.path.contains("access-token")), "never in an address");
    }
}

#[test]
fn all_clones_share_one_token_and_one_of_them_asks_for_it() {
    let stub = Stub::start();
    let ehr = smart(&stub.base_url(), settings());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    let reads = (0..32).map(|number| {
        let ehr = ehr.clone().paced(Some(100_000)).first_in_line();
        runtime.spawn(async move { ehr.read("Patient", &format!("p{number}")).await.map(|held| held.is_some()) })
    });
    for read in reads.collect::<Vec<_>>() {
        assert_eq!(runtime.block_on(read).unwrap(), Ok(true));
    }
    assert_eq!(stub.counts(), (1, 32));
    assert_eq!(stub.asked_at(DISCOVERY_PATH).len(), 1);
}

#[test]
fn no_two_assertions_are_the_same() {
    let stub = Stub::start();
    let runtime = runtime();
    let keys = vec![key_file(Algorithm::Es384, 1)];
    // Answered so that no token is ever at hand, and with nothing that must be waited for.
    stub.when(|asked, _| asked.is(TOKEN_PATH).then(|| Answer::json(200, &json!({"access_token": "t", "token_type": "Bearer", "expires_in": 0}))));
    for _ in 0..20 {
        let ehr = smart(&stub.base_url(), settings());
        runtime.block_on(ehr.granted()).unwrap();
    }
    let ids: BTreeSet<String> = stub
        .asked_at(TOKEN_PATH)
        .iter()
        .map(|asked| verified(&asked.field("client_assertion"), &keys).1["jti"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ids.len(), 20);
}

#[test]
fn a_token_that_ended_is_renewed_and_the_request_done_once_for_reads_and_writes() {
    let stub = Stub::start();
    let runtime = runtime();
    let ehr = smart(&stub.base_url(), settings());
    runtime.block_on(ehr.read("Patient", "p")).unwrap();
    stub.forget_tokens();
    let body = r#"{"resourceType":"Flag"}"#;
    let written = runtime.block_on(ehr.send("POST", "Flag", &[("if-none-exist".to_owned(), "identifier=a".to_owned())], body)).unwrap();
    assert_eq!(written.status, 201);
    let posts = stub.asked_at("/fhir/Flag");
    assert_eq!(posts.len(), 2, "refused once, done once");
    assert!(posts.iter().all(|post| post.body == body && post.header("if-none-exist") == "identifier=a"));
    assert_eq!((posts[0].header("authorization"), posts[1].header("authorization")), ("Bearer access-token-1", "Bearer access-token-2"));
    assert_eq!(stub.counts().0, 2);
}

#[test]
fn many_requests_whose_token_ended_at_once_bring_one_new_token() {
    let stub = Stub::start();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    let ehr = smart(&stub.base_url(), settings());
    runtime.block_on(ehr.read("Patient", "p")).unwrap();
    stub.forget_tokens();
    let reads = (0..16).map(|number| {
        let ehr = ehr.clone();
        runtime.spawn(async move { ehr.read("Patient", &format!("p{number}")).await.map(|held| held.is_some()) })
    });
    for read in reads.collect::<Vec<_>>() {
        assert_eq!(runtime.block_on(read).unwrap(), Ok(true));
    }
    assert_eq!(stub.counts().0, 2);
}

#[test]
fn a_server_that_refuses_every_token_is_told_and_not_asked_in_a_loop() {
    let stub = Stub::start();
    let runtime = runtime();
    stub.when(|asked, _| asked.path.starts_with("/fhir/Patient").then(|| Answer::json(401, &json!({}))));
    let ehr = smart(&stub.base_url(), settings());
    let error = error_of(runtime.block_on(ehr.read("Patient", "p")));
    assert!(matches!(error, EhrError::Unauthorized { status: 401, .. }), "{error:?}");
    assert!(error.to_string().contains("issued just now"), "{error}");
    assert_eq!(stub.counts(), (2, 2), "one token, one more, and that was it");
    for _ in 0..5 {
        assert_eq!(error_of(runtime.block_on(ehr.read("Patient", "p"))), error);
    }
    assert_eq!(stub.counts(), (2, 7), "each request once, and no further token");
}

#[test]
fn what_the_scopes_do_not_allow_is_said_with_what_was_granted() {
    let stub = Stub::start();
    let runtime = runtime();
    stub.when(|asked, _| match asked.path.as_str() {
        TOKEN_PATH => {
            Some(Answer::json(200, &json!({"access_token": "t", "token_type": "Bearer", "expires_in": "60", "scope": "system/Patient.rs"})))
        }
        path if path.starts_with("/fhir/Observation") => {
            let issue = json!([{"severity": "error", "code": "forbidden", "diagnostics": "Jane Roe is not for you"}]);
            Some(Answer::json(403, &json!({"resourceType": "OperationOutcome", "issue": issue})))
        }
        _ => None,
    });
    let ehr = smart(&stub.base_url(), settings());
    let error = error_of(runtime.block_on(ehr.read("Observation", "o")));
    assert!(matches!(error, EhrError::Refused { status: 403, .. }), "{error:?}");
    let words = error.to_string();
    assert!(words.contains("granted system/Patient.rs") && words.contains("administrators") && !words.contains("Jane"), "{words}");
    assert_eq!(stub.counts(), (1, 1), "asked once: a new token would fare no better");
    let granted = runtime.block_on(ehr.granted()).unwrap().unwrap();
    assert_eq!(granted.missing, ["system/Observation.rs"]);
}

#[test]
fn while_no_new_token_can_be_had_the_old_one_is_used_until_it_ends() {
    let stub = Stub::start();
    let runtime = runtime();
    stub.set_lifetime_s(3);
    let ehr = smart(&stub.base_url(), settings());
    runtime.block_on(ehr.read("Patient", "p")).unwrap();
    stub.when(|asked, _| asked.is(TOKEN_PATH).then(|| Answer::page(503)));
    // Renewed a quarter of its life before its end.
    std::thread::sleep(Duration::from_millis(2_400));
    runtime.block_on(ehr.read("Patient", "p")).unwrap();
    assert_eq!(stub.counts(), (2, 2), "it tried to renew it");
    std::thread::sleep(Duration::from_millis(700));
    let error = error_of(runtime.block_on(ehr.read("Patient", "p")));
    assert!(matches!(error, EhrError::Retry { .. }) && error.to_string().contains("cannot answer now (503)"), "{error:?}");
    // And when it answers again, all goes on.
    stub.when(|_, _| None);
    std::thread::sleep(Duration::from_millis(1_100));
    runtime.block_on(ehr.read("Patient", "p")).unwrap();
}

// --- every way of not getting one

/// An answer of the token endpoint, what our error says of it, and whether waiting may help.
fn refusals(stub: &Stub) -> Vec<(Answer, Vec<String>, bool)> {
    let oauth = |status, error: &str, description: &str| Answer::json(status, &json!({"error": error, "error_description": description}));
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let kid = key_file(Algorithm::Es384, 1).read().unwrap().kid;
    let late = "Thu, 01 Jan 2026 00:00:00 GMT".to_owned();
    vec![
        (Answer::page(200), words(&["answered 200", "web page", "proxy"]), true),
        (Answer::page(404), words(&["answered 404", "correct its address"]), true),
        (Answer::page(503), words(&["cannot answer now (503)"]), true),
        (Answer::json(429, &json!({})).with("retry-after", "7"), words(&["cannot answer now (429)"]), true),
        (Answer::json(302, &json!({})).with("location", "/elsewhere"), words(&["sends us elsewhere (302)", "no redirect is followed"]), false),
        (Answer::json(200, &json!({"access_token": "t".repeat(300 << 10)})), words(&["something that is not OAuth's JSON"]), true),
        (Answer::json(200, &json!({"token_type": "Bearer"})), words(&["no", "bearer access token"]), false),
        (Answer::json(200, &json!({"access_token": "t", "token_type": "DPoP"})), words(&["bearer access token"]), false),
        (oauth(400, "invalid_client", ""), words(&["invalid_client", "client_id", "/.well-known/jwks.json"]), false),
        (oauth(401, "invalid_client", "Unknown client"), words(&["invalid_client", "Unknown client"]), false),
        (
            oauth(401, "invalid_client", "Signature verification failed"),
            vec![format!("does not accept our key {kid}"), "again if the key was changed".to_owned()],
            false,
        ),
        (oauth(401, "invalid_client", "Unable to find kid in JWKS"), vec![kid, "register it".to_owned()], false),
        (oauth(401, "invalid_client", "Audience doesn't match"), vec![stub.token_url(), "as the server knows itself".to_owned()], false),
        (oauth(400, "invalid_grant", "exp must be no more than 5 minutes"), words(&["too old, too young", "clock"]), false),
        (oauth(401, "invalid_client", "expired").with("date", late), words(&["differs from its own by", "ours is ahead", "clock"]), false),
        (oauth(400, "invalid_scope", "none of these"), words(&["none of the scopes", "allowed for our client"]), false),
        (oauth(400, "unauthorized_client", ""), words(&["client_credentials", "Backend Services"]), false),
        (oauth(400, "unsupported_grant_type", ""), words(&["client_credentials (unsupported_grant_type)"]), false),
        (oauth(400, "temporarily_odd", "come\u{1b}[31m back"), words(&["temporarily_odd", "come[31m back"]), false),
    ]
}

#[test]
fn each_refusal_of_the_token_endpoint_is_one_clear_sentence_and_it_is_left_alone_afterwards() {
    let stub = Stub::start();
    let runtime = runtime();
    for (answer, says, passes) in refusals(&stub) {
        let status = answer.status;
        stub.when(move |asked, _| asked.is(TOKEN_PATH).then(|| answer.clone()));
        let ehr = smart(&stub.base_url(), settings());
        let before = stub.counts();
        let errors: Vec<EhrError> = (0..5).map(|_| error_of(runtime.block_on(ehr.read("Patient", "p")))).collect();
        let sentence = errors[0].to_string();
        for word in says {
            assert!(sentence.contains(&word), "{status}: {word:?} is not in: {sentence}");
        }
        assert!(errors.iter().all(|error| error.to_string() == sentence), "{errors:?}");
        match (&errors[0], passes) {
            (EhrError::Retry { status: None, after_ms: Some(after_ms), .. }, true) => {
                let least = if status == 429 { 6_900 } else { 900 };
                assert!(least < *after_ms, "{sentence}: {after_ms}");
            }
            (EhrError::Unauthorized { status: said, .. }, false) => assert!([0, status].contains(said), "{sentence}: {said}"),
            (error, _) => panic!("{sentence}: {error:?}"),
        }
        let after = stub.counts();
        assert_eq!((after.0 - before.0, after.1 - before.1), (1, 0), "{sentence}: asked once, and the EHR not at all");
        let whole = format!("{errors:?} {sentence}");
        assert!(!whole.contains("eyJ") && !whole.contains("Bearer t"), "no assertion and no token: {whole}");
        assert!(!sentence.contains('\u{1b}') && !sentence.contains('\n'), "{sentence:?}");
    }
    assert!(stub.asked_at("/elsewhere").is_empty(), "no assertion goes where a redirect points");
}

#[test]
fn a_token_endpoint_that_cannot_be_reached_is_named() {
    let stub = Stub::start();
    let closed = crate::counterparts::free_port();
    let endpoint = format!("http://127.0.0.1:{closed}/auth/token");
    let ehr = smart(&stub.base_url(), Settings { token_endpoint: Some(endpoint), ..settings() });
    let error = error_of(runtime().block_on(ehr.read("Patient", "p")));
    assert!(matches!(error, EhrError::Retry { status: None, .. }), "{error:?}");
    assert!(error.to_string().contains("127.0.0.1 cannot be reached"), "{error}");
    assert_eq!(stub.counts(), (0, 0));
}

#[test]
fn what_discovery_lacks_is_said_and_no_assertion_is_sent() {
    let stub = Stub::start();
    let runtime = runtime();
    let with = |field: &str, value: Value| {
        let mut declared = smart_configuration(&stub.origin);
        declared[field] = value;
        Answer::json(200, &declared)
    };
    let table = [
        (Answer::page(404), "(404)", false),
        (Answer::page(200), "a web page rather than JSON", true),
        (with("token_endpoint", Value::Null), "names no token_endpoint", false),
        (with("token_endpoint", json!("http://auth.example.org/token")), "not an https address", false),
        (with("token_endpoint", json!("file:///etc/passwd")), "not an https address", false),
        (with("token_endpoint_auth_methods_supported", json!(["client_secret_post"])), "does not declare private_key_jwt", false),
        (with("grant_types_supported", json!(["authorization_code"])), "does not declare client_credentials", false),
        (with("token_endpoint_auth_signing_alg_values_supported", json!(["RS384"])), "does not declare ES384", false),
    ];
    for (answer, says, passes) in table {
        stub.when(move |asked, _| asked.is(DISCOVERY_PATH).then(|| answer.clone()));
        let ehr = smart(&stub.base_url(), settings());
        let before = stub.asked().len();
        let errors: Vec<EhrError> = (0..3).map(|_| error_of(runtime.block_on(ehr.read("Patient", "p")))).collect();
        assert!(errors[0].to_string().contains(says), "{says}: {}", errors[0]);
        assert_eq!(matches!(errors[0], EhrError::Retry { .. }), passes, "{:?}", errors[0]);
        assert_eq!((stub.asked().len() - before, stub.counts()), (1, (0, 0)), "{says}: looked up once, nothing else");
    }
    // What is not declared at all is tried; of two keys the one whose algorithm is declared signs.
    let mut silent = smart_configuration(&stub.origin);
    for field in ["token_endpoint_auth_methods_supported", "grant_types_supported", "token_endpoint_auth_signing_alg_values_supported"] {
        silent.as_object_mut().unwrap().remove(field);
    }
    let only_rsa = with("token_endpoint_auth_signing_alg_values_supported", json!(["RS384"]));
    for (answer, algorithm) in [(Answer::json(200, &silent), "ES384"), (only_rsa, "RS384")] {
        stub.when(move |asked, _| asked.is(DISCOVERY_PATH).then(|| answer.clone()));
        let keys = vec![key_file(Algorithm::Es384, 1), key_file(Algorithm::Rs384, 1)];
        runtime.block_on(smart(&stub.base_url(), Settings { keys: keys.clone(), ..settings() }).read("Patient", "p")).unwrap();
        let (header, _) = verified(&stub.asked_at(TOKEN_PATH).last().unwrap().field("client_assertion"), &keys);
        assert_eq!(header["alg"], algorithm);
    }
    // Named in the configuration, nothing is looked up.
    stub.when(|asked, _| asked.is(DISCOVERY_PATH).then(|| Answer::page(404)));
    let looked_up = stub.asked_at(DISCOVERY_PATH).len();
    runtime.block_on(smart(&stub.base_url(), Settings { token_endpoint: Some(stub.token_url()), ..settings() }).read("Patient", "p")).unwrap();
    assert_eq!(stub.asked_at(DISCOVERY_PATH).len(), looked_up);
}

#[test]
fn a_token_endpoint_by_another_name_than_its_own_is_told_as_that() {
    let stub = Stub::start();
    stub.when(|asked, _| asked.is(TOKEN_PATH).then(|| Answer::json(401, &json!({"error": "invalid_client"}))));
    let endpoint = stub.token_url().replace("127.0.0.1", "localhost");
    let ehr = smart(&stub.base_url(), Settings { token_endpoint: Some(endpoint.clone()), ..settings() });
    let error = error_of(runtime().block_on(ehr.read("Patient", "p")));
    assert!(error.to_string().contains(&format!("{endpoint} as the audience")), "{error}");
}

// --- keys

#[test]
fn the_next_key_signs_where_the_first_is_not_known_and_a_replaced_file_counts_at_once() {
    let stub = Stub::start();
    let runtime = runtime();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key.pem");
    let copy = |number| std::fs::copy(key(Algorithm::Es384, number), &file).map(drop).unwrap();
    let first = KeyFile { file: file.clone(), algorithm: Algorithm::Es384, kid: None };
    copy(1);
    let keys = vec![first.clone(), key_file(Algorithm::Rs384, 1)];
    // Each token is good for nothing but one request.
    stub.set_lifetime_s(0);
    let known = |kids: Vec<String>| {
        move |asked: &Asked, _: usize| {
            let kid = || jsonwebtoken::decode_header(asked.field("client_assertion")).unwrap().kid.unwrap();
            (asked.is(TOKEN_PATH) && !kids.contains(&kid())).then(|| Answer::json(401, &json!({"error": "invalid_client"})))
        }
    };
    let old = keys[1].read().unwrap().kid;
    stub.when(known(vec![old.clone()]));
    let ehr = smart(&stub.base_url(), Settings { keys: keys.clone(), ..settings() });
    assert!(runtime.block_on(ehr.granted()).unwrap().is_some());
    assert_eq!(stub.counts().0, 2, "the new key first, the old one behind it");
    // The EHR has read the new key meanwhile.
    let new = first.read().unwrap().kid;
    stub.when(known(vec![new.clone()]));
    let ehr = smart(&stub.base_url(), Settings { keys: vec![first.clone()], ..settings() });
    assert!(runtime.block_on(ehr.granted()).unwrap().is_some());
    // The file is replaced while the gateway runs.
    copy(2);
    let newest = first.read().unwrap().kid;
    assert!(newest != new && newest != old);
    stub.when(known(vec![newest]));
    std::thread::sleep(Duration::from_millis(1_050));
    assert!(runtime.block_on(ehr.granted()).unwrap().is_some());
    // And when it is gone, that is said.
    std::fs::remove_file(&file).unwrap();
    std::thread::sleep(Duration::from_millis(1_050));
    let error = runtime.block_on(ehr.granted()).unwrap_err();
    assert!(error.to_string().contains("key.pem cannot be read"), "{error}");
}

#[test]
fn only_fit_private_keys_are_taken_and_only_their_public_parts_given_out() {
    let folder = tempfile::tempdir().unwrap();
    let make = |name: &str, command: &str| {
        let file = folder.path().join(name);
        let made = Command::new("sh").args(["-c", &command.replace("FILE", file.to_str().unwrap())]).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        file
    };
    let unfit = [
        (make("p256.pem", "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out FILE"), Algorithm::Es384),
        (make("short.pem", "openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:1024 -out FILE"), Algorithm::Rs384),
        (make("public.pem", &format!("openssl pkey -in {} -pubout -out FILE", key(Algorithm::Es384, 1).display())), Algorithm::Es384),
        (key(Algorithm::Es384, 1), Algorithm::Rs384),
        (key(Algorithm::Rs384, 1), Algorithm::Es384),
        (make("empty.pem", ": > FILE"), Algorithm::Es384),
    ];
    for (file, algorithm) in unfit {
        let error = KeyFile { file: file.clone(), algorithm, kid: None }.read().map(|key| key.kid).unwrap_err();
        assert!(error.to_string().contains("openssl genpkey"), "{}: {error}", file.display());
    }
    let keys = [
        KeyFile { kid: Some("named".to_owned()), ..key_file(Algorithm::Rs384, 1) },
        key_file(Algorithm::Es384, 1),
        // Used for another site, too.
        key_file(Algorithm::Es384, 1),
    ];
    let gateway = Gateway::start_with(|settings| settings.own_keys = keys.to_vec());
    let answer = gateway.get("/.well-known/jwks.json");
    assert_eq!((answer.status, answer.header("content-type"), answer.header("cache-control")), (200, "application/json", "public, max-age=300"));
    let set = answer.json();
    let all = set["keys"].as_array().unwrap();
    assert_eq!(all.len(), 2, "{set}");
    let members = |key: &Value| key.as_object().unwrap().keys().cloned().collect::<BTreeSet<String>>();
    let named = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<String>>();
    assert_eq!(members(&all[0]), named(&["kty", "kid", "alg", "use", "n", "e"]), "nothing private");
    assert_eq!(members(&all[1]), named(&["kty", "kid", "alg", "use", "crv", "x", "y"]), "nothing private");
    assert_eq!((&all[0]["kid"], &all[0]["alg"], &all[1]["crv"], &all[1]["use"]), (&json!("named"), &json!("RS384"), &json!("P-384"), &json!("sig")));
    assert_eq!(Gateway::start().get("/.well-known/jwks.json").json(), json!({"keys": []}));
}

// --- older ways, and addresses

#[test]
fn basic_and_bearer_say_where_to_put_right_what_is_refused() {
    let stub = Stub::start();
    let runtime = runtime();
    stub.when(|asked, _| {
        let is_let_in = ["Basic bmVwaHJvOnPDpGw6dA==", "Bearer right"].contains(&asked.header("authorization"));
        Some(if is_let_in { resource_at(asked) } else { Answer::json(401, &json!({})) })
    });
    nephrogate::app::install_tls_provider();
    let open = |credentials| Ehr::open_with(&stub.base_url(), Access { credentials, ..Access::default() }).unwrap();
    let basic = |password: &str| Credentials::Basic { user: "nephro".to_owned(), password: password.to_owned() };
    for credentials in [basic("s\u{e4}l:t"), Credentials::Bearer("right".to_owned())] {
        assert!(runtime.block_on(open(credentials).read("Patient", "p")).unwrap().is_some());
    }
    let table =
        [(basic("wrong"), "user and password"), (Credentials::Bearer("wrong".to_owned()), "bearer token"), (Credentials::None, "add authorization")];
    for (credentials, says) in table {
        let before = stub.counts().1;
        let error = error_of(runtime.block_on(open(credentials).read("Patient", "p")));
        assert!(matches!(error, EhrError::Unauthorized { status: 401, .. }) && error.to_string().contains(says), "{error:?}");
        assert_eq!(stub.counts().1 - before, 1);
    }
    let broken =
        [basic("line\nbreak"), Credentials::Bearer("line\nbreak".to_owned()), Credentials::Basic { user: "a:b".to_owned(), password: String::new() }];
    for (index, credentials) in broken.into_iter().enumerate() {
        let opened = Ehr::open_with(&stub.base_url(), Access { credentials, ..Access::default() });
        // A line break inside Base64 is a byte like others.
        assert_eq!(opened.is_ok(), index == 0);
    }
}

#[test]
fn a_page_where_fhir_was_expected_and_a_redirect_are_told_as_such() {
    let stub = Stub::start();
    let runtime = runtime();
    stub.when(|asked, _| asked.path.starts_with("/fhir/Patient").then(|| Answer::page(200)));
    let ehr = smart(&stub.base_url(), settings());
    for error in [error_of(runtime.block_on(ehr.read("Patient", "p"))), runtime.block_on(ehr.search("Patient", &[])).unwrap_err()] {
        assert!(matches!(error, EhrError::Retry { .. }) && error.to_string().contains("web page where FHIR was expected"), "{error:?}");
    }
    let elsewhere = Stub::start();
    for status in [301, 302, 303, 307, 308] {
        let location = elsewhere.base_url();
        stub.when(move |asked, _| {
            asked.path.starts_with("/fhir/Patient").then(|| Answer::json(status, &json!({})).with("location", format!("{location}/Patient/p")))
        });
        assert!(matches!(error_of(runtime.block_on(ehr.read("Patient", "p"))), EhrError::Refused { .. }));
    }
    assert!(elsewhere.asked().is_empty());
}

#[test]
fn files_are_read_piece_by_piece_and_a_token_goes_only_where_it_belongs() {
    let (stub, elsewhere) = (Stub::start(), Stub::start());
    let runtime = runtime();
    let big = "{\"resourceType\":\"Observation\"}\n".repeat(400_000);
    let body = big.clone();
    let file = move |asked: &Asked, _: usize| {
        asked.path.starts_with("/files/").then(|| Answer {
            status: 200,
            headers: vec![("content-type".into(), "application/fhir+ndjson; charset=utf-8".into())],
            body: body.clone(),
        })
    };
    stub.when(file.clone());
    elsewhere.when(file);
    let host = |stub: &Stub| stub.origin.trim_start_matches("http://").to_owned();
    let access = Access { credentials: Credentials::Smart(settings()), file_hosts: vec![host(&elsewhere)], ..Access::default() };
    nephrogate::app::install_tls_provider();
    let ehr = Ehr::open_with(&stub.base_url(), access).unwrap();
    let length = |url: String, with_token: bool| {
        runtime.block_on(async {
            let mut stream = ehr.open_stream(&url, "application/fhir+ndjson", with_token).await?;
            assert_eq!(stream.media_type(), "application/fhir+ndjson");
            let (mut length, mut largest) = (0, 0);
            while let Some(piece) = stream.chunk().await? {
                length += piece.as_ref().len();
                largest = largest.max(piece.as_ref().len());
            }
            assert!(largest < 1 << 20, "it comes in pieces: {largest}");
            Ok::<usize, EhrError>(length)
        })
    };
    // Larger than what is read of an ordinary answer.
    assert!(8 << 20 < big.len());
    assert_eq!(length(format!("{}/files/own", stub.origin), true), Ok(big.len()));
    assert_eq!(length(format!("{}/files/open", stub.origin), false), Ok(big.len()));
    assert_eq!(length(format!("{}/files/there", elsewhere.origin), false), Ok(big.len()));
    assert_eq!(stub.asked_at("/files/own")[0].header("authorization"), "Bearer access-token-1");
    assert_eq!(stub.asked_at("/files/own")[0].header("accept"), "application/fhir+ndjson");
    assert_eq!(stub.asked_at("/files/open")[0].header("authorization"), "");
    assert_eq!(elsewhere.asked()[0].header("authorization"), "");

    // Nowhere else, whatever a manifest says.
    let refused = [
        (format!("{}/files/there", elsewhere.origin), true),
        ("https://files.example.org/x".to_owned(), false),
        ("http://169.254.169.254/latest/meta-data".to_owned(), false),
        ("http://2852039166/latest/meta-data".to_owned(), false),
        ("http://[::1]:80/x".to_owned(), false),
        ("https://127.0.0.1.example.org/x".to_owned(), false),
        (format!("http://somebody@{}/files/there", host(&elsewhere)), false),
        ("file:///etc/passwd".to_owned(), false),
        ("http://".to_owned(), true),
    ];
    let before = (stub.asked().len(), elsewhere.asked().len());
    for (url, with_token) in refused {
        let error = length(url.clone(), with_token).unwrap_err();
        assert!(matches!(error, EhrError::Refused { status: 0, .. }), "{url}: {error:?}");
    }
    assert_eq!((stub.asked().len(), elsewhere.asked().len()), before);
    stub.when(|asked, _| asked.path.starts_with("/files/").then(|| Answer::json(410, &json!({}))));
    assert_eq!(length(format!("{}/files/gone", stub.origin), true), Err(EhrError::Absent { status: 410 }));
}

#[test]
fn a_file_that_breaks_off_is_an_error_and_no_end() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let base_url = format!("http://{}/fhir", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut line, _) = listener.accept().unwrap();
        let _ = line.read(&mut [0; 4096]).unwrap();
        line.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/fhir+ndjson\r\ncontent-length: 1000\r\n\r\n{\"resourceType\":\"Patient\"}\n")
            .unwrap();
    });
    let ehr = Ehr::open(&base_url, None).unwrap();
    let ended = runtime().block_on(async {
        let mut stream = ehr.open_stream("files/1", "application/fhir+ndjson", true).await?;
        assert_eq!(stream.length(), Some(1000));
        while stream.chunk().await?.is_some() {}
        Ok::<(), EhrError>(())
    });
    assert!(matches!(ended, Err(EhrError::Retry { .. })), "{ended:?}");
    server.join().unwrap();
}

#[test]
fn long_work_is_begun_and_asked_about_at_the_ehr_itself() {
    let stub = Stub::start();
    let runtime = runtime();
    let origin = stub.origin.clone();
    stub.when(move |asked, before| match (asked.method.as_str(), asked.path.as_str()) {
        (_, path) if path.starts_with("/fhir/$export") => Some(Answer::json(202, &json!({})).with("content-location", format!("{origin}/jobs/7"))),
        ("GET", "/jobs/7") if before == 0 => Some(Answer::json(202, &json!({})).with("retry-after", "120").with("x-progress", "12 %")),
        ("GET", "/jobs/7") => Some(Answer::json(200, &json!({"output": []})).with("expires", "Thu, 01 Jan 2026 00:00:00 GMT")),
        ("DELETE", "/jobs/7") => Some(Answer::json(202, &json!({}))),
        _ => None,
    });
    let ehr = smart(&stub.base_url(), settings());
    let status_url = runtime.block_on(ehr.kick_off("GET", "$export?_type=Patient", &[], "")).unwrap();
    assert_eq!(status_url, format!("{}/jobs/7", stub.origin));
    let begun = stub.asked_at("/fhir/$export").pop().unwrap();
    assert_eq!((begun.header("prefer"), begun.header("authorization")), ("respond-async", "Bearer access-token-1"));
    let ask = |method: &str| runtime.block_on(ehr.ask(method, &status_url, &[], "")).unwrap();
    let waiting = ask("GET");
    assert_eq!((waiting.status, waiting.retry_after_ms, waiting.progress.as_deref()), (202, Some(120_000), Some("12 %")));
    let done = ask("GET");
    assert_eq!((done.status, done.body.as_str()), (200, r#"{"output":[]}"#));
    assert_eq!(ask("DELETE").status, 202);
    let parameters = r#"{"resourceType":"Parameters"}"#;
    let header = [("content-type".to_owned(), "application/fhir+json".to_owned())];
    runtime.block_on(ehr.kick_off("POST", "$export", &header, parameters)).unwrap();
    assert_eq!(stub.asked_at("/fhir/$export").pop().unwrap().body, parameters);
    for url in ["https://elsewhere.example.org/jobs/7", "http://169.254.169.254/"] {
        assert!(matches!(runtime.block_on(ehr.ask("GET", url, &[], "")), Err(EhrError::Refused { status: 0, .. })), "{url}");
    }
}

#[test]
fn scopes_of_both_versions_are_understood() {
    let asked = ["system/Patient.rs", "system/Observation.rs?category=laboratory", "system/Flag.cu", "launch"].map(str::to_owned);
    let missing = |granted: &str| scope::not_granted(&asked, granted).join(" ");
    assert_eq!(missing("launch system/*.cruds"), "");
    assert_eq!(missing("launch system/*.*"), "");
    assert_eq!(missing("system/Patient.read system/Observation.rs system/Flag.write launch"), "");
    assert_eq!(missing("system/Patient.rs?_id=1 system/Observation.rs?category=vital-signs system/Flag.c user/*.cruds"), asked.join(" "));
    assert_eq!(missing(""), asked.join(" "));
    assert!(scope::allows("system/Observation.rs?category=laboratory", "Observation", 's'));
    assert!(!scope::allows("system/Observation.r system/Patient.cruds", "Observation", 's'));
}

// --- configuration and the command that looks

/// A configuration with one site in a folder of its own.
struct Configured {
    folder: tempfile::TempDir,
    file: PathBuf,
}

fn configured(site: &Value) -> Configured {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.json");
    let mut entry = json!({"site": SITE, "note": "test"});
    entry.as_object_mut().unwrap().extend(site.as_object().unwrap().clone());
    let text = json!({"listen": "127.0.0.1:0", "store": {"sqlite_dir": "store"}, "sites": [entry]});
    std::fs::write(&file, text.to_string()).unwrap();
    Configured { folder, file }
}

fn smart_entry(keys: &[(&Path, &str)]) -> Value {
    let keys: Vec<Value> = keys.iter().map(|(file, algorithm)| json!({"file": file, "algorithm": algorithm})).collect();
    json!({"smart": {"client_id": CLIENT, "scopes": ["system/Patient.rs", "system/Observation.rs"], "keys": keys}})
}

#[test]
fn the_configuration_names_secrets_and_says_which_one_is_not_there() {
    nephrogate::app::install_tls_provider();
    let es384 = key(Algorithm::Es384, 1);
    let base_url = "https://ehr.example.org/fhir";
    let opened = |source: Value| -> Result<Config, Vec<Fault>> {
        let configured = configured(&json!({"source": source}));
        std::fs::write(configured.folder.path().join("secret.txt"), "a secret\n").unwrap();
        std::fs::write(configured.folder.path().join("no-pem.pem"), "not a certificate").unwrap();
        let config = Config::read(&configured.file)?;
        config.source(0, config.sites[0].source.as_ref().unwrap()).map_err(|fault| vec![fault])?;
        Ok(config)
    };
    let source = |more: Value| {
        let mut source = json!({"base_url": base_url});
        source.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        source
    };
    let fit = [
        json!({}),
        json!({"authorization": {"bearer": {"token_file": "secret.txt"}}, "requests_per_minute": 600}),
        json!({"authorization": {"basic": {"user": "nephro", "password_file": "secret.txt"}}}),
        json!({"authorization": smart_entry(&[(&es384, "ES384")]), "file_hosts": ["files.example.org:8443"]}),
    ];
    for more in fit {
        opened(source(more.clone())).unwrap_or_else(|faults| panic!("{more}: {faults:?}"));
    }
    let absent = Path::new("absent.pem");
    let unfit = [
        (json!({"authorization": {"bearer": {"token_env": "NEPHROGATE_TEST_NO_SUCH"}}}), "/sites/0/source/authorization/bearer/token_env"),
        (json!({"authorization": {"basic": {"user": "nephro", "password_file": "absent.txt"}}}), "/sites/0/source/authorization/basic/password_file"),
        (json!({"authorization": smart_entry(&[(&es384, "ES384"), (absent, "ES384")])}), "/sites/0/source/authorization/smart/keys/1"),
        (json!({"authorization": smart_entry(&[(&es384, "RS384")])}), "/sites/0/source/authorization/smart/keys/0"),
        (json!({"tls": {"ca_file": "no-pem.pem"}}), "/sites/0/source/tls/ca_file"),
        (json!({"tls": {"certificate_file": "no-pem.pem", "key_file": "no-pem.pem"}}), "/sites/0/source/tls/certificate_file"),
        // What the schema sees.
        (json!({"tls": {"certificate_file": "no-pem.pem"}}), "/sites/0/source/tls"),
        (json!({"authorization": {"bearer": {"token": "in the clear"}}}), "/sites/0/source/authorization/bearer"),
        (json!({"authorization": {"bearer": {"token_file": "a"}, "basic": {"user": "a", "password_file": "b"}}}), "/sites/0/source/authorization"),
        (json!({"authorization": smart_entry(&[(&es384, "HS256")])}), "/sites/0/source/authorization/smart/keys/0/algorithm"),
    ];
    for (more, place) in unfit {
        let faults = opened(source(more.clone())).map(|_| ()).unwrap_err();
        assert!(faults.iter().any(|fault| fault.path == place), "{more}: {faults:?}");
        assert!(!format!("{faults:?}").contains("in the clear"), "{faults:?}");
    }
    let mut endpoint = smart_entry(&[(&es384, "ES384")]);
    endpoint["smart"]["token_endpoint"] = json!("http://auth.example.org/token");
    let faults = opened(source(json!({"authorization": endpoint}))).map(|_| ()).unwrap_err();
    assert_eq!(faults[0].path, "/sites/0/source/authorization/smart/token_endpoint");

    let both = configured(&json!({"receiver": {"bearer_token_env": "A", "authorization": smart_entry(&[(&es384, "ES384")])}}));
    assert_eq!(Config::read(&both.file).unwrap_err()[0].path, "/sites/0/receiver/authorization");
    let receiver = configured(&json!({"receiver": {"authorization": smart_entry(&[(&es384, "ES384")])}, "source": {"base_url": base_url}}));
    let config = Config::read(&receiver.file).unwrap();
    config.receiver(0, config.sites[0].receiver.as_ref().unwrap(), base_url, Some("NOT_ASKED_FOR")).unwrap();
    assert_eq!(config.own_keys(), [key_file(Algorithm::Es384, 1)]);
}

/// `nephrogate source` on a configuration: exit code, and what it says.
fn look(configured: &Configured, more: &[&str]) -> (i32, String) {
    let done = Command::new(env!("CARGO_BIN_EXE_nephrogate"))
        .args(["source", "--site", SITE, "--config"])
        .arg(&configured.file)
        .args(more)
        .env_remove("RUST_LOG")
        .output()
        .unwrap();
    (done.status.code().unwrap(), format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr)))
}

#[test]
fn the_command_that_looks_at_a_source_says_what_works_and_what_to_do_about_the_rest() {
    let stub = Stub::start();
    let es384 = key(Algorithm::Es384, 1);
    let search = json!({"type": "Observation", "query": {"category": "laboratory"}});
    let poll = json!([{"name": "results", "note": "test", "poll": {"searches": [{"type": "Patient"}, search]}}]);
    let source = json!({"base_url": stub.base_url(), "authorization": smart_entry(&[(&es384, "ES384")])});
    let with_feeds = configured(&json!({"source": source, "feeds": poll}));
    let (code, says) = look(&with_feeds, &[]);
    assert_eq!(code, 0, "{says}");
    for line in [
        "FHIR 4.0.1, stub, 2 types",
        "smart-configuration",
        "granted system/Patient.rs system/Observation.rs",
        "ok  Observation declared",
        "Observation by category is answered; 42 in all",
        "ok  Observation since (results)",
        "ok  Patient read",
    ] {
        assert!(says.contains(line), "{line:?} is not in\n{says}");
    }
    assert!(!says.contains("x1") && !says.contains("access-token"), "no id and no token: {says}");
    let asked = stub.asked_at("/fhir/Observation");
    assert!(asked.iter().all(|asked| asked.path.contains("category=laboratory")), "as the feed asks");
    assert!(asked.iter().any(|asked| asked.path.contains("_lastUpdated=ge") && asked.path.contains("_sort=_lastUpdated")));

    let (code, says) = look(&with_feeds, &["--format", "json"]);
    let steps: Value = serde_json::from_str(&says).unwrap();
    assert!(code == 0 && steps.as_array().unwrap().iter().all(|step| step["mark"] == "good"), "{says}");
    let (code, says) = look(&with_feeds, &["--keys"]);
    assert!(code == 0 && says.contains("\"ES384\"") && !says.contains("\"d\""), "{says}");

    // Less was granted, one type is refused, and sorting as well.
    stub.when(|asked, _| match asked.path.as_str() {
        TOKEN_PATH => {
            Some(Answer::json(200, &json!({"access_token": "t", "token_type": "Bearer", "expires_in": 60, "scope": "system/Patient.read"})))
        }
        path if path.starts_with("/fhir/Observation") => Some(Answer::json(403, &json!({}))),
        path if path.contains("_sort") => Some(Answer::json(400, &json!({}))),
        path if path.starts_with("/fhir/Patient") => Some(resource_at(asked)),
        _ => None,
    });
    let (code, says) = look(&with_feeds, &[]);
    assert_eq!(code, 1, "{says}");
    for line in [
        "NO  access token",
        "not granted: system/Observation.rs",
        "NO  Observation scope",
        "system/Observation.rs: have the EHR's administrators allow it",
        "NO  Observation search",
        "--  Patient since (results)",
        "set sort to false",
        "ok  Patient read",
    ] {
        assert!(says.contains(line), "{line:?} is not in\n{says}");
    }
    // Not let in at all: it says so and asks no more.
    stub.when(|asked, _| asked.is(TOKEN_PATH).then(|| Answer::json(401, &json!({"error": "invalid_client"}))));
    let before = stub.counts();
    let (code, says) = look(&with_feeds, &[]);
    assert!(code == 1 && says.contains("NO  access token") && says.contains("invalid_client"), "{says}");
    assert_eq!((stub.counts().0 - before.0, stub.counts().1 - before.1), (1, 1), "one assertion, and the open metadata");

    // The feed itself says the same, to whoever looks at it.
    let feed = |arguments: &[&str]| {
        let done = Command::new(env!("CARGO_BIN_EXE_nephrogate")).arg("feed").args(arguments).arg("--config").arg(&with_feeds.file).output().unwrap();
        (done.status.code().unwrap(), format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr)))
    };
    let (code, says) = feed(&["run", "--site", SITE, "--feed", "results"]);
    assert!(code == 3 && says.contains("(invalid_client): have the EHR's administrators check"), "{code} {says}");
    let (code, says) = feed(&["list"]);
    assert!(code == 1 && says.contains("(invalid_client)") && says.contains("needs a person"), "{code} {says}");

    // Without feeds the two types that every site needs are asked for; another site is named.
    let open = Stub::start();
    open.when(|asked, _| (!asked.is("/fhir/metadata")).then(|| resource_at(asked)));
    let without_feeds = configured(&json!({"source": {"base_url": open.base_url()}}));
    let (code, says) = look(&without_feeds, &[]);
    assert!(code == 0 && says.contains("ok  Observation search (no poll)") && !says.contains("token"), "{says}");
    let (code, says) = look(&configured(&json!({})), &[]);
    assert!(code == 2 && says.contains("no site with a source"), "{says}");
    let gone = configured(&json!({"source": {"base_url": format!("http://127.0.0.1:{}/fhir", crate::counterparts::free_port())}}));
    let (code, says) = look(&gone, &[]);
    assert!(code == 1 && says.contains("NO  metadata") && says.contains("cannot answer now"), "{says}");
}

#[test]
fn a_source_that_answers_about_one_patient_at_a_time_is_asked_about_one() {
    let stub = Stub::start();
    stub.when(|asked, _| {
        let group = json!({"resourceType": "Group", "id": "ward", "member": [{"entity": {"reference": "Patient/p7"}}]});
        match asked.path.as_str() {
            "/fhir/Group/ward" => Some(Answer::json(200, &group)),
            "/fhir/Group/gone" => Some(Answer::json(404, &json!({}))),
            "/fhir/metadata" => None,
            path if path.starts_with("/fhir/Observation?") && !path.contains("patient=") => Some(Answer::json(400, &json!({}))),
            _ => Some(resource_at(asked)),
        }
    });
    let roster = |groups: Value| {
        let poll = json!({"searches": [{"type": "Observation"}], "roster": {"groups": groups}});
        configured(&json!({"source": {"base_url": stub.base_url()}, "feeds": [{"name": "ward", "note": "test", "poll": poll}]}))
    };
    let (code, says) = look(&roster(json!(["ward"])), &[]);
    assert!(code == 0 && says.contains("Group/ward names 1 patients") && says.contains("Observation by patient is answered"), "{says}");
    assert!(!says.contains("p7"), "{says}");
    let (code, says) = look(&roster(json!(["gone"])), &[]);
    assert!(code == 1 && says.contains("has no Group/gone") && says.contains("name a patient of the EHR by --patient"), "{says}");
    let (code, says) = look(&roster(json!(["gone"])), &["--patient", "p9"]);
    assert!(code == 1 && says.contains("Observation by patient is answered"), "{says}");
    assert!(stub.asked().iter().any(|asked| asked.path.contains("patient=p9")));
}

// --- a strict server that is not ours

/// SEKMET's settings for clients of this name, each with its keys.
fn strict(clients: &[(&str, Value, &str)], lifetime_s: u64) -> String {
    let clients: Vec<Value> = clients
        .iter()
        .map(|(id, keys, scopes)| {
            let mut client = json!({"client_id": id, "scopes": scopes});
            client.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
            client
        })
        .collect();
    format!("server_auth: {}\n", json!({"types": ["smart"], "smart_clients": clients, "token_lifetime": lifetime_s}))
}

#[test]
fn a_strict_server_that_reads_our_keys_from_the_gateway_lets_us_in_and_says_why_not() {
    let keys = [key_file(Algorithm::Es384, 1), key_file(Algorithm::Rs384, 1)];
    // It tries every key of a set on every assertion, whatever kid says, and fails on one of another kind: a set for each.
    let gateways = keys.clone().map(|key| Gateway::start_with(|settings| settings.own_keys = vec![key]));
    let by_url = |index: usize| json!({"jwks_url": gateways[index].url("/.well-known/jwks.json")});
    let by_set = json!({"jwks": serde_json::from_str::<Value>(&signing::published(&keys[..1]).unwrap()).unwrap()});
    let all = "system/Patient.cruds system/Observation.rs system/Flag.cu";
    let clients = [("by-url-0", by_url(0), all), ("by-url-1", by_url(1), all), ("by-set", by_set, "system/Patient.read")];
    let Some(server) = start_sekmet_with(&strict(&clients, 3)) else { return };
    let runtime = runtime();
    let client = |id: &str, keys: &[KeyFile], scopes: &[&str]| {
        let scopes = scopes.iter().map(|scope| (*scope).to_owned()).collect();
        smart(&server.base_url, Settings { client_id: id.to_owned(), scopes, keys: keys.to_vec(), token_endpoint: None })
    };
    let write_patient = |ehr: &Ehr, id: &str| {
        let headers = [("content-type".to_owned(), "application/fhir+json".to_owned())];
        runtime.block_on(ehr.send("PUT", &format!("Patient/{id}"), &headers, &format!(r#"{{"resourceType":"Patient","id":"{id}","gender":"male"}}"#)))
    };
    // Both algorithms, keys read from our own address.
    for (index, key) in keys.iter().enumerate() {
        let ehr = client(&format!("by-url-{index}"), std::slice::from_ref(key), &["system/Patient.cruds"]);
        let id = format!("p{index}");
        assert_eq!(write_patient(&ehr, &id).unwrap().status, 201);
        assert!(runtime.block_on(ehr.read("Patient", &id)).unwrap().is_some());
        assert_eq!(runtime.block_on(ehr.search("Patient", &[("_id", id)])).unwrap().len(), 1);
    }
    // Its tokens live for 3 s here: nobody notices.
    let ehr = client("by-url-0", &keys[..1], &["system/Patient.cruds"]);
    let until = std::time::Instant::now() + Duration::from_secs(5);
    while std::time::Instant::now() < until {
        assert!(runtime.block_on(ehr.read("Patient", "p0")).unwrap().is_some());
        std::thread::sleep(Duration::from_millis(200));
    }
    // Scopes.
    let narrow = client("by-set", &keys[..1], &["system/Patient.rs", "system/Observation.rs"]);
    assert_eq!(runtime.block_on(narrow.granted()).unwrap().unwrap().missing, ["system/Observation.rs"]);
    for error in [error_of(runtime.block_on(narrow.read("Observation", "o"))), write_patient(&narrow, "p9").unwrap_err()] {
        assert!(matches!(error, EhrError::Refused { status: 403, .. }) && error.to_string().contains("granted system/Patient.rs"), "{error:?}");
    }
    let sentence = |ehr: &Ehr| runtime.block_on(ehr.granted()).unwrap_err().to_string();
    assert!(sentence(&client("by-set", &keys[..1], &["system/Flag.cruds"])).contains("none of the scopes"));
    // A key that it does not know, a client that it does not know, another name for its token endpoint.
    let strange = client("by-set", &[key_file(Algorithm::Es384, 2)], &["system/Patient.rs"]);
    assert!(sentence(&strange).contains("does not accept our key"), "{}", sentence(&strange));
    let nobody = client("nobody", &keys[..1], &["system/Patient.rs"]);
    assert!(sentence(&nobody).contains("invalid_client") && sentence(&nobody).contains("Unknown client_id"), "{}", sentence(&nobody));
    let token_endpoint = Some(server.base_url.replace("/fhir", "/auth/token").replace("127.0.0.1", "localhost"));
    let scopes = vec!["system/Patient.rs".to_owned()];
    let misnamed = smart(&server.base_url, Settings { client_id: "by-set".to_owned(), scopes, keys: keys[..1].to_vec(), token_endpoint });
    assert!(sentence(&misnamed).contains("as the audience of our assertion"), "{}", sentence(&misnamed));
    // A new key first and the old one behind it, while the server knows the old one alone.
    let rotating = client("by-set", &[key_file(Algorithm::Es384, 2), keys[0].clone()], &["system/Patient.rs"]);
    assert!(runtime.block_on(rotating.read("Patient", "p0")).unwrap().is_some());
    // And no credentials at all.
    let error = error_of(runtime.block_on(Ehr::open(&server.base_url, None).unwrap().read("Patient", "p0")));
    assert!(error.to_string().contains("none are configured"), "{error}");
}

#[test]
fn the_command_that_looks_is_content_with_a_strict_server() {
    let es384 = key(Algorithm::Es384, 1);
    let set = json!({"jwks": serde_json::from_str::<Value>(&signing::published(&[key_file(Algorithm::Es384, 1)]).unwrap()).unwrap()});
    let Some(server) = start_sekmet_with(&strict(&[(CLIENT, set, "system/Patient.cruds system/Observation.rs")], 60)) else { return };
    let ehr = smart(&server.base_url, Settings { scopes: vec!["system/Patient.cruds".to_owned()], ..settings() });
    let headers = [("content-type".to_owned(), "application/fhir+json".to_owned())];
    runtime().block_on(ehr.send("PUT", "Patient/p", &headers, r#"{"resourceType":"Patient","id":"p"}"#)).unwrap();
    let searches = json!([{"type": "Patient"}, {"type": "Observation", "query": {"category": "laboratory"}}]);
    let site = json!({
        "source": {"base_url": server.base_url, "authorization": smart_entry(&[(&es384, "ES384")])},
        "feeds": [{"name": "results", "note": "test", "poll": {"searches": searches}}]
    });
    let configured = configured(&site);
    let (code, says) = look(&configured, &[]);
    assert_eq!(code, 0, "{says}");
    assert!(says.contains("ok  access token") && says.contains("ok  Patient read"), "{says}");
    // And a feed of that configuration reads it.
    let run = Command::new(env!("CARGO_BIN_EXE_nephrogate"))
        .args(["feed", "run", "--site", SITE, "--feed", "results", "--config"])
        .arg(&configured.file)
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    assert!(String::from_utf8_lossy(&run.stdout).contains("1 read, 1 new"), "{}", String::from_utf8_lossy(&run.stdout));
}
