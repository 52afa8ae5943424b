//! CDS Hooks by its door: real HTTP, real keys, the card as a clinician reads it, and every way of not being answered.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA384, RsaKeyPair};
use nephrogate::app::{self, Settings};
use nephrogate::config::Config;
use nephrogate::digest::hex;
use nephrogate::ehr::jwks::KeyServer;
use nephrogate::http::access::Role;
use nephrogate::http::cds::Client;
use nephrogate::pipeline::Receivers;
use nephrogate::pipeline::jwks::KeySet;
use nephrogate::store::accesses;
use nephrogate::store::cards::{self, Asking, Budget, Outcome, OverrideReason};
use nephrogate::store::outbox;
use nephrogate::writeback::receiver::Settings as ReceiverSettings;
use nephrogate::writeback::{Mode, Receiver, WriteFrom};
use serde_json::{Value, json};

use crate::gateway::{Answer, Gateway, LOINC, SITE, creatinine, days_ago, patient, secret, token};

/// The study with criteria of every kind.
const TRIAL: &str = "elixcyte-1";
const ISSUER: &str = "https://ehr.example.org/cds";
const FHIR_SERVER: &str = "https://ehr.example.org/fhir";
const DAY_MS: i64 = 86_400_000;

/// Base64 of a JWT: URL-safe, without padding (RFC 7515).
fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0_u32, |group, byte| group << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..=chunk.len() {
            text.push(char::from(DIGITS[(group >> (18 - 6 * place) & 63) as usize]));
        }
    }
    text
}

#[test]
fn the_tests_own_base64_is_that_of_the_standard() {
    // RFC 4648, section 10, without padding; the last one needs both special digits.
    for (bytes, text) in [("", ""), ("f", "Zg"), ("fo", "Zm8"), ("foo", "Zm9v"), ("foob", "Zm9vYg"), ("fooba", "Zm9vYmE"), ("foobar", "Zm9vYmFy")] {
        assert_eq!(base64url(bytes.as_bytes()), text);
    }
    assert_eq!(base64url(&[0xfb, 0xff, 0xfe]), "-__-");
}

/// A private key of a client.
enum Key {
    Es384(EcdsaKeyPair),
    Rs384(Box<RsaKeyPair>),
}

impl Key {
    fn es384() -> Key {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &SystemRandom::new()).unwrap();
        Key::Es384(EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, document.as_ref()).unwrap())
    }

    fn rs384() -> Key {
        Key::Rs384(Box::new(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()))
    }

    const fn algorithm(&self) -> &'static str {
        match self {
            Key::Es384(_) => "ES384",
            Key::Rs384(_) => "RS384",
        }
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Key::Es384(pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Key::Rs384(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA384, &random, message, &mut signature).unwrap();
                signature
            }
        }
    }

    /// As the client publishes it.
    fn jwk(&self, kid: &str) -> Value {
        match self {
            Key::Es384(pair) => {
                let point = pair.public_key().as_ref();
                assert_eq!((point.len(), point[0]), (97, 4), "an uncompressed point of P-384");
                json!({"kty": "EC", "use": "sig", "crv": "P-384", "kid": kid, "alg": "ES384", "x": base64url(&point[1..49]), "y": base64url(&point[49..])})
            }
            Key::Rs384(pair) => {
                let public = pair.public_key();
                let (n, e) = (public.modulus().big_endian_without_leading_zero(), public.exponent().big_endian_without_leading_zero());
                json!({"kty": "RSA", "kid": kid, "n": base64url(n), "e": base64url(e), "iat": 1_700_000_000})
            }
        }
    }

    fn token(&self, kid: &str, claims: &Value) -> String {
        self.token_with(&json!({"alg": self.algorithm(), "typ": "JWT", "kid": kid}), claims)
    }

    fn token_with(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", base64url(header.to_string().as_bytes()), base64url(claims.to_string().as_bytes()));
        let signature = self.sign(message.as_bytes());
        format!("{message}.{}", base64url(&signature))
    }
}

fn now_s() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// A claim set that is right, with a `jti` of its own.
fn claims(aud: &str) -> Value {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let jti = format!("call-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
    json!({"iss": ISSUER, "aud": aud, "iat": now_s(), "exp": now_s() + 240, "jti": jti})
}

/// The claim set with one claim changed; `null` leaves it out.
fn with(mut claims: Value, name: &str, value: Value) -> Value {
    let all = claims.as_object_mut().unwrap();
    if value.is_null() {
        all.remove(name)
    } else {
        all.insert(name.to_owned(), value)
    };
    claims
}

/// The client's own server, which publishes its keys; counts who asked.
struct KeyHost {
    address: SocketAddr,
    keys: Arc<Mutex<Vec<Value>>>,
    asked: Arc<AtomicUsize>,
    stopped: Arc<AtomicBool>,
    running: Option<std::thread::JoinHandle<()>>,
}

impl KeyHost {
    fn start(keys: Vec<Value>) -> KeyHost {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (keys, asked, stopped) = (Arc::new(Mutex::new(keys)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (held, counted, ends) = (keys.clone(), asked.clone(), stopped.clone());
        let running = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if ends.load(Ordering::Relaxed) {
                    return;
                }
                let mut stream = stream.unwrap();
                let lines = BufReader::new(stream.try_clone().unwrap()).lines();
                lines.map_while(Result::ok).take_while(|line| !line.is_empty()).for_each(drop);
                counted.fetch_add(1, Ordering::Relaxed);
                let body = json!({"keys": *held.lock().unwrap()}).to_string();
                let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncache-control: max-age=3600\r\nconnection: close";
                let _ = write!(stream, "{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            }
        });
        KeyHost { address, keys, asked, stopped, running: Some(running) }
    }

    fn url(&self) -> String {
        format!("http://{}/jwks.json", self.address)
    }

    fn key_set(&self) -> KeySet {
        app::install_tls_provider();
        KeySet::of_url(KeyServer::open(&self.url()).unwrap())
    }
}

impl Drop for KeyHost {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
        if let Some(running) = self.running.take() {
            let _ = running.join();
        }
    }
}

/// A gateway with one registered client, and that client.
struct Hooks {
    gateway: Gateway,
    key: Key,
    host: KeyHost,
}

fn client(host: &KeyHost) -> Client {
    Client {
        issuer: ISSUER.to_owned(),
        tenant: None,
        site: SITE.to_owned(),
        jwks_url: Some(host.url()),
        keys: host.key_set(),
        fhir_server: Some(FHIR_SERVER.to_owned()),
        from: Some(WriteFrom::Candidate),
        origins: vec!["https://sandbox.example.org".to_owned()],
        budget: Budget::default(),
    }
}

impl Hooks {
    fn start() -> Hooks {
        Hooks::start_with(|_, _| {})
    }

    fn start_with(change: impl FnOnce(&mut Settings, &mut Client)) -> Hooks {
        Hooks::start_signing(Key::es384(), change)
    }

    fn start_signing(key: Key, change: impl FnOnce(&mut Settings, &mut Client)) -> Hooks {
        let host = KeyHost::start(vec![key.jwk("first")]);
        let mut client = client(&host);
        let gateway = Gateway::start_with(|settings| {
            settings.public_url = Some(format!("http://{}", settings.listener.local_addr().unwrap()));
            change(settings, &mut client);
            settings.cds_clients = vec![client];
        });
        Hooks { gateway, key, host }
    }

    fn address(&self) -> String {
        self.gateway.url(&format!("/cds-services/{TRIAL}"))
    }

    /// Calls with a token; no token with an empty one.
    fn call(&self, path: &str, token: &str, body: &Value) -> Answer {
        let request = self.gateway.request("POST", path).json(body);
        self.gateway.send(if token.is_empty() { request } else { request.bearer_auth(token) })
    }

    fn token(&self) -> String {
        self.key.token("first", &claims(&self.address()))
    }

    #[track_caller]
    fn cards(&self, subject: &str, user: &str) -> Vec<Value> {
        let answer = self.call(&self.address(), &self.token(), &hook(subject, user));
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["cards"].as_array().unwrap().clone()
    }

    #[track_caller]
    fn card(&self, subject: &str, user: &str) -> Value {
        let mut cards = self.cards(subject, user);
        assert_eq!(cards.len(), 1, "{cards:?}");
        cards.remove(0)
    }

    #[track_caller]
    fn feedback(&self, entries: &Value) -> Value {
        let address = format!("{}/feedback", self.address());
        let answer = self.call(&address, &self.key.token("first", &claims(&address)), &json!({"feedback": entries}));
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    fn counts(&self) -> Value {
        self.gateway.get(&format!("/api/studies/{TRIAL}/cards")).json()["cards"].clone()
    }

    /// A person's decision about a subject.
    #[track_caller]
    fn decide(&self, subject: &str, decision: Value) {
        let path = format!("/api/studies/{TRIAL}/sites/{SITE}/subjects/{subject}/decisions");
        let answer = self.gateway.send(self.gateway.request("POST", &path).json(&decision));
        assert_eq!(answer.status, 201, "{}", answer.text());
    }
}

fn hook(subject: &str, user: &str) -> Value {
    json!({
        "hook": "patient-view", "hookInstance": "d1577c69-dfbe-44ad-ba6d-3e05e953b2ea", "fhirServer": FHIR_SERVER,
        "fhirAuthorization": {"access_token": "an-access-token-of-the-ehr", "token_type": "Bearer", "expires_in": 300, "scope": "user/*.rs", "subject": "x"},
        "context": {"userId": user, "patientId": subject, "encounterId": "e1"},
        "prefetch": {"patient": {"resourceType": "Patient", "id": subject, "name": [{"family": "Prefetched"}]}}
    })
}

const NURSE: &str = "Practitioner/nurse-okapi";

/// What makes a candidate: two creatinines of about 2 mg/dL, half a year apart.
fn candidate(id: &str) -> Vec<Value> {
    vec![patient(id, "1960-02-03"), creatinine(&format!("{id}-old"), id, 1, 200, 2.0), creatinine(&format!("{id}-new"), id, 1, 3, 2.1)]
}

fn with_candidate(id: &str) -> Hooks {
    let hooks = Hooks::start();
    hooks.gateway.push(&candidate(id));
    hooks
}

#[test]
fn discovery_names_one_service_a_study_and_none_where_nobody_is_registered() {
    let hooks = Hooks::start();
    let services = hooks.gateway.get("/cds-services").json();
    let ids: Vec<&str> = services["services"].as_array().unwrap().iter().map(|service| service["id"].as_str().unwrap()).collect();
    assert!(ids.contains(&TRIAL), "{services}");
    for service in services["services"].as_array().unwrap() {
        assert_eq!(service["hook"], "patient-view");
        assert!(!service["description"].as_str().unwrap().is_empty() && service.get("prefetch").is_none(), "{service}");
    }
    let nobody = Gateway::start();
    assert_eq!(nobody.get("/cds-services").json(), json!({"services": []}));
    let answer = nobody.send(nobody.request("POST", &format!("/cds-services/{TRIAL}")).json(&hook("p", NURSE)));
    assert_eq!((answer.status, answer.json()["title"].clone()), (401, json!("no CDS client is registered with this gateway")));
}

#[test]
fn a_candidates_card_is_as_agreed_to_the_letter() {
    let hooks = with_candidate("quagga-7");
    let mut card = hooks.card("quagga-7", NURSE);
    let uuid = card["uuid"].as_str().unwrap().to_owned();
    assert_eq!((uuid.len(), uuid.as_bytes()[14], uuid.as_bytes()[19]), (36, b'8', b'a'), "{uuid}");
    assert_ne!(card["uuid"], card["suggestions"][0]["uuid"]);
    card["uuid"] = json!("UUID");
    card["suggestions"][0]["uuid"] = json!("UUID");
    let text = serde_json::to_string_pretty(&card).unwrap().replace(&hooks.gateway.url(""), "https://gateway.example.org");
    let golden = include_str!("../golden/cds-card.json");
    assert_eq!(text.trim(), golden.trim(), "tests/golden/cds-card.json should read:\n{text}");
    assert!(card["summary"].as_str().unwrap().chars().count() < 140);
    let link = card["links"][0]["url"].as_str().unwrap();
    assert_eq!(hooks.gateway.get(link).status, 200, "the link leads to the why-card");
}

#[test]
fn tokens_of_either_algorithm_are_taken_and_an_audience_among_others_is_enough() {
    for key in [Key::es384(), Key::rs384()] {
        let algorithm = key.algorithm();
        let hooks = Hooks::start_signing(key, |_, _| {});
        hooks.gateway.push(&candidate("p"));
        assert_eq!(hooks.cards("p", NURSE).len(), 1, "{algorithm}");
        let many = with(claims(""), "aud", json!(["https://elsewhere.example.org", hooks.address()]));
        assert_eq!(hooks.call(&hooks.address(), &hooks.key.token("first", &many), &hook("p", NURSE)).status, 200, "{algorithm}");
        let jku = json!({"alg": algorithm, "typ": "JWT", "kid": "first", "jku": hooks.host.url()});
        assert_eq!(
            hooks.call(&hooks.address(), &hooks.key.token_with(&jku, &claims(&hooks.address())), &hook("p", NURSE)).status,
            200,
            "{algorithm}"
        );
    }
}

#[test]
fn whoever_is_not_proven_to_be_a_registered_client_is_refused_and_told_why() {
    let hooks = with_candidate("p");
    let (key, address) = (&hooks.key, hooks.address());
    let right = || claims(&address);
    let header = |name: &str, value: Value| with(json!({"alg": "ES384", "typ": "JWT", "kid": "first"}), name, value);
    let of_claims = |claims: Value| key.token("first", &claims);
    let of_header = |header: Value| key.token_with(&header, &right());
    let unsigned =
        |header: &Value, claims: &Value| format!("{}.{}", base64url(header.to_string().as_bytes()), base64url(claims.to_string().as_bytes()));
    let none = format!("{}.", unsigned(&header("alg", json!("none")), &right()));
    // The oldest trick: the public key taken for a shared secret.
    let by_public_key = {
        let message = unsigned(&header("alg", json!("HS256")), &right());
        let public = key.jwk("first").to_string();
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, public.as_bytes()), message.as_bytes());
        format!("{message}.{}", base64url(tag.as_ref()))
    };
    let tampered = {
        let honest = of_claims(right());
        let [head, _, signature] = <[&str; 3]>::try_from(honest.split('.').collect::<Vec<_>>()).unwrap();
        format!("{head}.{}.{signature}", base64url(with(right(), "tenant", json!("another")).to_string().as_bytes()))
    };
    let broken_signature = {
        let honest = of_claims(right());
        let (message, signature) = honest.rsplit_once('.').unwrap();
        let first = if signature.starts_with('A') { "B" } else { "A" };
        format!("{message}.{first}{}", &signature[1..])
    };
    let cut = |parts: usize| of_claims(right()).split('.').take(parts).collect::<Vec<_>>().join(".");
    let now = now_s();
    let unreadable = "the token cannot be read";
    let not_signed = "the token's signature does not hold";
    let elsewhere = "the token is made out to another address";
    let incomplete = "the token lacks exp, iat or jti";
    let issuer = "the token's issuer is not registered";
    let cases: Vec<(&str, String, &str)> = vec![
        ("no token", String::new(), "no token"),
        ("a word", "guessed".to_owned(), unreadable),
        ("no signature", cut(2), unreadable),
        ("an empty signature", format!("{}.", cut(2)), not_signed),
        ("alg none", none, unreadable),
        ("HS256 by the public key", by_public_key, "the token is signed in a way that is not taken"),
        ("ES256 in the header", of_header(header("alg", json!("ES256"))), "the token is signed in a way that is not taken"),
        ("RS384 in the header", of_header(header("alg", json!("RS384"))), "the token's kid is not among the client's keys"),
        ("no typ", of_header(header("typ", Value::Null)), unreadable),
        ("another typ", of_header(header("typ", json!("at+jwt"))), unreadable),
        ("no kid", of_header(header("kid", Value::Null)), unreadable),
        ("an unknown kid", of_header(header("kid", json!("second"))), "the token's kid is not among the client's keys"),
        ("something critical", of_header(header("crit", json!(["b64"]))), unreadable),
        ("another jku", of_header(header("jku", json!("https://evil.example/jwks.json"))), "jku is not the address that is registered"),
        ("another key", Key::es384().token("first", &right()), not_signed),
        ("a changed claim", tampered, not_signed),
        ("a changed signature", broken_signature, not_signed),
        ("another issuer", of_claims(with(right(), "iss", json!("https://evil.example"))), issuer),
        ("no issuer", of_claims(with(right(), "iss", Value::Null)), issuer),
        ("no audience", of_claims(with(right(), "aud", Value::Null)), unreadable),
        ("the discovery's audience", of_claims(claims(&hooks.gateway.url("/cds-services"))), elsewhere),
        ("the feedback's audience", of_claims(claims(&format!("{address}/feedback"))), elsewhere),
        ("an audience with a slash more", of_claims(claims(&format!("{address}/"))), elsewhere),
        ("another service's audience", of_claims(claims(&hooks.gateway.url("/cds-services/egfr-window"))), elsewhere),
        ("an audience of another host", of_claims(claims(&format!("https://other.example.org/cds-services/{TRIAL}"))), elsewhere),
        ("expired", of_claims(with(with(right(), "iat", json!(now - 400)), "exp", json!(now - 120))), "the token has expired"),
        ("good for an hour", of_claims(with(right(), "exp", json!(now + 3_600))), "the token is good for too long"),
        ("expires before it began", of_claims(with(right(), "exp", json!(now - 5))), "the token is good for too long"),
        ("of tomorrow", of_claims(with(with(right(), "iat", json!(now + 86_400)), "exp", json!(now + 86_500))), "the token is of the future"),
        ("not before tomorrow", of_claims(with(right(), "nbf", json!(now + 86_400))), "the token is of the future"),
        ("no exp", of_claims(with(right(), "exp", Value::Null)), incomplete),
        ("no iat", of_claims(with(right(), "iat", Value::Null)), incomplete),
        ("no jti", of_claims(with(right(), "jti", Value::Null)), incomplete),
        ("an empty jti", of_claims(with(right(), "jti", json!(""))), incomplete),
        ("an endless jti", of_claims(with(right(), "jti", json!("x".repeat(256)))), incomplete),
        ("times as words", of_claims(with(right(), "exp", json!("soon"))), unreadable),
        ("an endless token", of_claims(with(right(), "tenant", json!("x".repeat(9_000)))), unreadable),
    ];
    for (what, token, sentence) in cases {
        for path in [address.clone(), format!("{address}/feedback")] {
            if what == "the feedback's audience" && path.ends_with("/feedback") {
                continue;
            }
            let answer = hooks.call(&path, &token, &hook("p", NURSE));
            assert_eq!((answer.status, answer.header("content-type")), (401, "application/problem+json"), "{what}: {}", answer.text());
            assert_eq!(answer.json()["title"], sentence, "{what}");
            assert!(!answer.json()["detail"].as_str().unwrap().is_empty() && answer.header("www-authenticate").starts_with("Bearer"), "{what}");
            for held in ["evil", "guessed", NURSE, "second"] {
                assert!(!answer.text().contains(held), "{what} is quoted: {}", answer.text());
            }
        }
    }
    assert_eq!(hooks.counts()["shown"], 0, "nobody of these was shown a card");
    assert_eq!(hooks.cards("p", NURSE).len(), 1, "and the right token is still good");
}

#[test]
fn a_token_is_good_once_on_all_gateways_of_a_store() {
    let hooks = with_candidate("p");
    let token = hooks.token();
    assert_eq!(hooks.call(&hooks.address(), &token, &hook("p", NURSE)).status, 200);
    let again = hooks.call(&hooks.address(), &token, &hook("p", NURSE));
    assert_eq!((again.status, again.json()["title"].clone()), (401, json!("the token was used before")));
    // A second gateway beside it, behind the same public address.
    let mut client = client(&hooks.host);
    client.keys = hooks.host.key_set();
    let beside = Gateway::start_with(|settings| {
        settings.pipeline.store = hooks.gateway.store.clone();
        settings.public_url = Some(hooks.gateway.url(""));
        settings.cds_clients = vec![client];
    });
    let send = |token: &str| beside.send(beside.request("POST", &format!("/cds-services/{TRIAL}")).bearer_auth(token).json(&hook("p", NURSE)));
    assert_eq!(send(&token).status, 401);
    assert_eq!(send(&hooks.token()).status, 200);
}

#[test]
fn a_new_key_is_found_when_a_token_names_it_and_made_up_ones_do_not_flood_the_client() {
    let hooks = with_candidate("p");
    assert_eq!(hooks.cards("p", NURSE).len(), 1);
    let before = hooks.host.asked.load(Ordering::Relaxed);
    let next = Key::rs384();
    hooks.host.keys.lock().unwrap().push(next.jwk("second"));
    let rotated = hooks.call(&hooks.address(), &next.token("second", &claims(&hooks.address())), &hook("p", NURSE));
    assert_eq!((rotated.status, hooks.host.asked.load(Ordering::Relaxed)), (200, before + 1), "{}", rotated.text());
    for number in 0..5 {
        let made_up = hooks.call(&hooks.address(), &next.token(&format!("third-{number}"), &claims(&hooks.address())), &hook("p", NURSE));
        assert_eq!(made_up.status, 401);
    }
    assert_eq!(hooks.host.asked.load(Ordering::Relaxed), before + 1, "asked again at most once a minute");
}

#[test]
fn a_client_whose_keys_cannot_be_fetched_is_asked_to_come_again() {
    let key = Key::es384();
    let host = KeyHost::start(vec![key.jwk("first")]);
    let mut client = client(&host);
    // Nothing listens there any more.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    client.keys = KeySet::of_url(KeyServer::open(&format!("http://{closed}/jwks.json")).unwrap());
    let gateway = Gateway::start_with(|settings| {
        settings.public_url = Some(format!("http://{}", settings.listener.local_addr().unwrap()));
        settings.cds_clients = vec![client];
    });
    let address = gateway.url(&format!("/cds-services/{TRIAL}"));
    let answer = gateway.send(gateway.request("POST", &address).bearer_auth(key.token("first", &claims(&address))).json(&hook("p", NURSE)));
    assert_eq!((answer.status, answer.header("retry-after")), (503, "30"), "{}", answer.text());
}

#[test]
fn a_call_that_is_not_a_patient_view_of_this_client_is_refused() {
    let hooks = with_candidate("p");
    let status = |change: &dyn Fn(&mut Value)| {
        let mut body = hook("p", NURSE);
        change(&mut body);
        hooks.call(&hooks.address(), &hooks.token(), &body).status
    };
    assert_eq!(status(&|_| {}), 200);
    assert_eq!(status(&|body| body["hook"] = json!("order-sign")), 400);
    assert_eq!(status(&|body| drop(body.as_object_mut().unwrap().remove("hookInstance"))), 400);
    assert_eq!(status(&|body| drop(body.as_object_mut().unwrap().remove("context"))), 400);
    assert_eq!(status(&|body| body["context"]["patientId"] = json!("Patient/p")), 400);
    assert_eq!(status(&|body| body["context"]["patientId"] = json!("' OR 1=1")), 400);
    assert_eq!(status(&|body| body["context"]["userId"] = json!("somebody")), 400);
    assert_eq!(status(&|body| drop(body["context"].as_object_mut().unwrap().remove("userId"))), 400);
    assert_eq!(status(&|body| body["fhirServer"] = json!("https://test.ehr.example.org/fhir")), 403, "its ids name other people");
    assert_eq!(status(&|body| body["fhirServer"] = json!(format!("{FHIR_SERVER}/"))), 200);
    assert_eq!(status(&|body| drop(body.as_object_mut().unwrap().remove("fhirServer"))), 200);
    let text = hooks
        .gateway
        .send(hooks.gateway.request("POST", &hooks.address()).bearer_auth(hooks.token()).header("content-type", "text/plain").body("{}"));
    assert_eq!(text.status, 415);
    let no_json = hooks
        .gateway
        .send(hooks.gateway.request("POST", &hooks.address()).bearer_auth(hooks.token()).header("content-type", "application/json").body("{"));
    assert_eq!(no_json.status, 400);
    let unknown = hooks.gateway.url("/cds-services/no-such-study");
    assert_eq!(hooks.call(&unknown, &hooks.key.token("first", &claims(&unknown)), &hook("p", NURSE)).status, 404);
}

#[test]
fn no_card_is_shown_of_anybody_but_a_candidate() {
    let hooks = Hooks::start();
    let mut refused = candidate("platelets-low");
    let at = days_ago(2);
    refused.push(json!({
        "resourceType": "Observation", "id": "plt", "meta": {"versionId": "1"}, "status": "final",
        "code": {"coding": [{"system": LOINC, "code": "777-3"}]}, "subject": {"reference": "Patient/platelets-low"},
        "effectiveDateTime": at, "issued": at,
        "valueQuantity": {"value": 60, "unit": "10*3/uL", "system": "http://unitsofmeasure.org", "code": "10*3/uL"}
    }));
    hooks.gateway.push(&refused);
    for id in ["candidate", "consented", "opted-out", "corrected"] {
        hooks.gateway.push(&candidate(id));
    }
    hooks.gateway.push(&[patient("healthy", "1960-01-01"), creatinine("healthy-1", "healthy", 1, 3, 0.9)]);
    hooks.gateway.push(&[patient("short-history", "1960-01-01"), creatinine("short-1", "short-history", 1, 3, 2.0)]);
    let mut dead = candidate("dead");
    dead[0]["deceasedBoolean"] = json!(true);
    hooks.gateway.push(&dead);
    let mut restricted = candidate("restricted");
    restricted[0]["meta"]["security"] = json!([{"system": "http://terminology.hl7.org/CodeSystem/v3-Confidentiality", "code": "R"}]);
    hooks.gateway.push(&restricted);
    hooks.decide("consented", json!({"kind": "consent", "given": true, "reason": "asked at the visit"}));
    hooks.decide("opted-out", json!({"kind": "opt-out", "opted_out": true, "reason": "said no"}));
    assert_eq!(hooks.cards("candidate", NURSE).len(), 1);
    for nobody in ["consented", "opted-out", "healthy", "short-history", "dead", "restricted", "platelets-low", "nobody-knows-them"] {
        assert_eq!(hooks.cards(nobody, NURSE), Vec::<Value>::new(), "{nobody}");
    }
    assert_eq!(hooks.cards("corrected", NURSE).len(), 1);
    hooks.gateway.push(&[creatinine("corrected-new", "corrected", 2, 3, 0.9)]);
    assert_eq!(hooks.cards("corrected", NURSE), Vec::<Value>::new(), "a correction takes the card away");
    for relative in ["Patient/candidate", "RelatedPerson/r1"] {
        assert_eq!(hooks.cards("candidate", relative), Vec::<Value>::new(), "{relative} is not told by a card");
    }
    assert_eq!(hooks.counts()["shown"], 2);
}

#[test]
fn a_site_is_told_of_candidates_only_where_its_policy_says_so() {
    let shown = |from: Option<WriteFrom>, receiver: Option<(WriteFrom, Mode)>, is_released: bool| {
        let hooks = Hooks::start_with(|settings, client| {
            client.from = from;
            if let Some((write_from, mode)) = receiver {
                let text = &settings.pipeline.catalogue.receivers[SITE];
                let receiver = ReceiverSettings::read(text).unwrap().receiver(SITE, "http://127.0.0.1:1/fhir", [7; 32]);
                settings.pipeline.receivers = Arc::new(Receivers::from([(SITE.to_owned(), Receiver { write_from, mode, ..receiver })]));
            }
        });
        hooks.gateway.push(&candidate("p"));
        if is_released {
            hooks.gateway.store.write_blocking(|tx| outbox::release(tx, SITE, TRIAL, "Dr Release", 1)).unwrap();
        }
        hooks.cards("p", NURSE).len()
    };
    use WriteFrom::{Candidate, Consented};
    assert_eq!(shown(None, None, false), 0, "nobody said anything");
    assert_eq!(shown(Some(Candidate), None, false), 1);
    assert_eq!(shown(Some(Consented), None, false), 0);
    assert_eq!(shown(None, Some((Candidate, Mode::Live)), false), 1);
    assert_eq!(shown(None, Some((Consented, Mode::Live)), false), 0);
    assert_eq!(shown(Some(Candidate), Some((Consented, Mode::Live)), false), 1, "cards leave nothing in the chart: the site may allow them alone");
    assert_eq!(shown(Some(Candidate), Some((Candidate, Mode::Shadow)), false), 0, "in shadow nothing is told");
    assert_eq!(shown(Some(Candidate), Some((Candidate, Mode::Shadow)), true), 1);
}

#[test]
fn a_chart_opened_again_shows_the_same_card_and_an_answered_one_comes_back_no_more() {
    let hooks = with_candidate("p");
    let first = hooks.card("p", NURSE);
    assert_eq!(hooks.card("p", NURSE), first);
    let other = hooks.card("p", "PractitionerRole/nephrologist-1");
    assert_ne!(other["uuid"], first["uuid"]);
    assert_eq!(hooks.counts()["shown"], 2);
    let accepted = json!([{"card": first["uuid"], "outcome": "accepted", "outcomeTimestamp": days_ago(0), "acceptedSuggestions": [{"id": first["suggestions"][0]["uuid"]}]}]);
    assert_eq!(hooks.feedback(&accepted), json!({"recorded": 1, "unknown": 0}));
    assert_eq!(hooks.cards("p", NURSE), Vec::<Value>::new());
    assert_eq!(hooks.card("p", "PractitionerRole/nephrologist-1"), other, "who did not answer is still shown it");
    assert_eq!(hooks.counts()["silent"], 1);
}

#[test]
fn feedback_counts_once_and_the_newest_word_counts() {
    let hooks = with_candidate("p");
    hooks.gateway.push(&candidate("q"));
    let [one, two] = [hooks.card("p", NURSE), hooks.card("q", NURSE)].map(|card| card["uuid"].clone());
    let system = "https://nephrogate.example/fhir/CodeSystem/card-override-reason";
    let declined = json!({
        "card": one, "outcome": "overridden", "outcomeTimestamp": days_ago(1),
        "overrideReason": {"reason": {"system": system, "code": "declined"}, "userComment": "Mr Okapi told me on the phone"}
    });
    let entries = json!([declined, declined, {"card": two, "outcome": "overridden", "outcomeTimestamp": days_ago(1)}]);
    assert_eq!(hooks.feedback(&entries), json!({"recorded": 3, "unknown": 0}));
    let counts = json!({"shown": 2, "accepted": 0, "overridden": 2, "override_reasons": {"declined": 1, "none": 1}, "unanswered": 0, "silent": 0});
    assert_eq!(hooks.counts(), counts);
    assert_eq!(hooks.feedback(&entries)["recorded"], 3, "the same again");
    assert_eq!(hooks.counts(), counts);
    let older = json!([{"card": one, "outcome": "accepted", "outcomeTimestamp": days_ago(2)}]);
    assert_eq!(hooks.feedback(&older)["recorded"], 1);
    assert_eq!(hooks.counts(), counts, "what happened before does not undo what happened after");
    let own = json!({"system": "https://ehr.example.org/reasons", "code": "declined"});
    let newer = json!([{"card": one, "outcome": "overridden", "outcomeTimestamp": days_ago(0), "overrideReason": {"reason": own}}]);
    assert_eq!(hooks.feedback(&newer)["recorded"], 1);
    assert_eq!(hooks.counts()["override_reasons"], json!({"none": 1, "other": 1}), "a client's own code is not ours");
    let unknown = json!([{"card": "00000000-0000-8000-a000-000000000000", "outcome": "accepted", "outcomeTimestamp": days_ago(0)}]);
    assert_eq!(hooks.feedback(&unknown), json!({"recorded": 0, "unknown": 1}));
    let address = format!("{}/feedback", hooks.address());
    for wrong in [
        json!({}),
        json!({"feedback": []}),
        json!({"feedback": [{"card": one, "outcome": "ignored", "outcomeTimestamp": days_ago(0)}]}),
        json!({"feedback": [{"card": one, "outcome": "accepted", "outcomeTimestamp": "today"}]}),
    ] {
        assert_eq!(hooks.call(&address, &hooks.token(), &wrong).status, 400, "{wrong}");
    }
}

#[test]
fn the_alert_budget_keeps_cards_back_by_user_by_study_and_by_patient() {
    let hooks = Hooks::start_with(|_, client| client.budget = Budget { per_user_and_day: 2, per_study_and_day: 3, silent_after: 2 });
    for id in ["a", "b", "c", "d"] {
        hooks.gateway.push(&candidate(id));
    }
    assert_eq!((hooks.cards("a", NURSE).len(), hooks.cards("b", NURSE).len(), hooks.cards("c", NURSE).len()), (1, 1, 0), "two a day for one user");
    assert_eq!((hooks.cards("a", NURSE).len(), hooks.counts()["shown"].clone()), (1, json!(2)), "one that was shown goes on being shown");
    let other = "Practitioner/dr-tapir";
    assert_eq!((hooks.cards("c", other).len(), hooks.cards("d", other).len()), (1, 0), "three a day for the study");
    assert_eq!(hooks.counts()["silent"], 2);
    assert_eq!((hooks.cards("d", other).len(), hooks.counts()["silent"].clone()), (0, json!(2)), "counted once a day");
}

#[test]
fn a_user_who_did_not_answer_twice_is_left_alone_about_this_patient() {
    let hooks = with_candidate("p");
    hooks.gateway.push(&candidate("q"));
    let now_ms = jiff::Timestamp::now().as_millisecond();
    let key = hooks.gateway.store.write_blocking(|tx| cards::user_key(tx, &[9; 32])).unwrap();
    let asking = |subject: &str| Asking {
        study: TRIAL.to_owned(),
        site: SITE.to_owned(),
        subject: subject.to_owned(),
        client: ISSUER.to_owned(),
        user: cards::hash_user(&key, SITE, ISSUER, NURSE),
    };
    let shown = |days: i64, subject: &str| {
        hooks.gateway.store.write_blocking(|tx| cards::show(tx, now_ms - days * DAY_MS, &key, &Budget::default(), &asking(subject))).unwrap()
    };
    let uuids = [shown(5, "p").unwrap(), shown(3, "p").unwrap()];
    assert_ne!(uuids[0], uuids[1], "a card of another day is another card");
    assert_eq!(shown(1, "p"), None);
    assert_eq!(hooks.cards("p", NURSE), Vec::<Value>::new(), "days ago, twice, without an answer");
    assert!(shown(2, "q").is_some());
    assert_eq!(hooks.cards("q", NURSE).len(), 1, "once is not twice");
    // "Not at this visit" leaves it open; the patient's own word does not.
    hooks.gateway.push(&candidate("r"));
    hooks.gateway.push(&candidate("s"));
    for (subject, code, days, again) in [("r", "not-now", 2, 1), ("s", "declined", 2, 0)] {
        let uuid = shown(days, subject).unwrap();
        let at = days_ago(days);
        let entry = json!([{"card": uuid, "outcome": "overridden", "outcomeTimestamp": at, "overrideReason": {"reason": {"code": code}}}]);
        assert_eq!(hooks.feedback(&entry)["recorded"], 1);
        assert_eq!(hooks.cards(subject, NURSE).len(), again, "{code}");
    }
}

#[test]
fn each_card_is_in_the_record_of_who_looked_and_no_name_of_a_user_is_kept() {
    let hooks = with_candidate("p");
    hooks.card("p", NURSE);
    hooks.card("p", NURSE);
    assert_eq!(hooks.cards("nobody", NURSE).len(), 0);
    let looked = hooks.gateway.store.read_blocking(|tx| accesses::of_subject(tx, SITE, "p")).unwrap();
    assert_eq!(looked.iter().filter(|access| access.action == "cds-hooks" && access.study == TRIAL).count(), 2, "{looked:?}");
    let key = hooks.gateway.store.write_blocking(|tx| cards::user_key(tx, &[9; 32])).unwrap();
    let user = cards::hash_user(&key, SITE, ISSUER, NURSE);
    assert_eq!(looked[0].who, format!("{ISSUER} user {}", &user[..12]));
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy.db");
    hooks.gateway.store.backup(&copy).unwrap();
    let bytes = std::fs::read(&copy).unwrap();
    for never in ["nurse-okapi", "an-access-token-of-the-ehr", "Prefetched", hex(b"nurse-okapi").as_str()] {
        assert!(!bytes.windows(never.len()).any(|window| window == never.as_bytes()), "{never} is kept");
    }
}

#[test]
fn a_card_says_the_same_of_everybody_with_the_same_open_criteria() {
    let hooks = Hooks::start_with(|_, client| client.budget = Budget { per_user_and_day: 100, ..Budget::default() });
    let laboratory = [("777-3", 211.0, "10*3/uL"), ("718-7", 11.37, "g/dL"), ("4548-4", 6.73, "%")];
    let mut by_open: BTreeMap<String, (String, String)> = BTreeMap::new();
    for number in 0..24_u32 {
        let id = format!("zebu{number}");
        let birth = format!("19{}-0{}-1{}", 50 + number, 1 + number % 9, number % 9);
        let (old, new) = (1.9517 + f64::from(number) / 1_000.0, 2.0531 + f64::from(number) / 1_000.0);
        let mut person = patient(&id, &birth);
        person["gender"] = json!(if number % 2 == 0 { "male" } else { "female" });
        person["name"] = json!([{"family": format!("Quaggason{number}"), "given": ["Okapia"]}]);
        person["identifier"] = json!([{"system": "urn:mrn", "value": format!("MRN-883{number}")}]);
        let mut resources = vec![person, creatinine(&format!("{id}-a"), &id, 1, 200, old), creatinine(&format!("{id}-b"), &id, 1, 3, new)];
        for (place, (code, value, unit)) in laboratory.into_iter().enumerate() {
            if number >> place & 1 == 1 {
                let value = value + f64::from(number) / 100.0;
                let mut result = creatinine(&format!("{id}-{place}"), &id, 1, 3, value);
                result["code"]["coding"][0]["code"] = json!(code);
                result["valueQuantity"] = json!({"value": value, "unit": unit, "system": "http://unitsofmeasure.org", "code": unit});
                resources.push(result);
            }
        }
        hooks.gateway.push(&resources);
        let why = hooks.gateway.get(&format!("/api/studies/{TRIAL}/sites/{SITE}/subjects/{id}")).json();
        assert_eq!(why["row"]["state"], "candidate", "{}", why["row"]);
        let open: Vec<Value> = why["assessment"]["criteria"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|criterion| criterion["verdict"] == "unknown")
            .map(|criterion| json!([criterion["id"], criterion["reason"], criterion["missing"]]))
            .collect();
        let mut card = hooks.card(&id, NURSE);
        let link = card["links"][0]["url"].take();
        assert!(link.as_str().unwrap().ends_with(&format!("/{id}")));
        card["uuid"] = Value::Null;
        card["suggestions"][0]["uuid"] = Value::Null;
        let text = card.to_string();
        let egfr = why["row"]["egfr"].as_f64().unwrap();
        let never = [id.clone(), birth.clone(), birth[..4].to_owned(), old.to_string(), new.to_string(), format!("{egfr:.1}"), format!("{egfr:.2}")];
        for never in never.iter().map(String::as_str).chain(["Quaggason", "Okapia", "MRN-883", "male", &days_ago(3)[..10], &days_ago(200)[..10]]) {
            assert!(!text.contains(never), "{never} in {text}");
        }
        let (other, before) = by_open.entry(json!(open).to_string()).or_insert_with(|| (id.clone(), text.clone()));
        assert_eq!(*before, text, "{other} and {id} have the same open criteria");
    }
    assert!(4 <= by_open.len(), "the patients differ in what is open: {}", by_open.len());
}

#[test]
fn browsers_of_registered_origins_may_call_and_everybody_may_read_what_there_is() {
    let hooks = with_candidate("p");
    let from = |method: &str, path: &str, origin: &str| hooks.gateway.send(hooks.gateway.request(method, path).header("origin", origin));
    let discovery = from("GET", "/cds-services", "https://anywhere.example");
    assert_eq!((discovery.status, discovery.header("access-control-allow-origin")), (200, "*"));
    let asked = from("OPTIONS", &hooks.address(), "https://sandbox.example.org");
    assert_eq!((asked.status, asked.header("access-control-allow-origin")), (204, "https://sandbox.example.org"));
    assert!(asked.header("access-control-allow-headers").contains("Authorization") && asked.header("access-control-allow-methods").contains("POST"));
    assert_eq!(from("OPTIONS", &hooks.address(), "https://evil.example").header("access-control-allow-origin"), "");
    let called =
        hooks.gateway.request("POST", &hooks.address()).header("origin", "https://sandbox.example.org").header("sec-fetch-site", "cross-site");
    let called = hooks.gateway.send(called.bearer_auth(hooks.token()).json(&hook("p", NURSE)));
    assert_eq!((called.status, called.header("access-control-allow-origin")), (200, "https://sandbox.example.org"));
    let refused = from("POST", &hooks.address(), "https://sandbox.example.org");
    assert_eq!((refused.status, refused.header("access-control-allow-origin")), (401, "https://sandbox.example.org"), "the client may read why");
    let api = from("GET", "/api/studies", "https://sandbox.example.org");
    assert_eq!(api.header("access-control-allow-origin"), "", "nothing else is opened");
}

#[test]
fn one_issuer_of_several_hospitals_is_told_apart_by_tenant_and_asks_about_its_own_site() {
    let key = Key::es384();
    let host = KeyHost::start(vec![key.jwk("first")]);
    let of = |tenant: &str, site: &str| Client { tenant: Some(tenant.to_owned()), site: site.to_owned(), ..client(&host) };
    let clients = vec![of("north", "synthea"), of("demo", SITE)];
    let gateway = Gateway::start_with(|settings| {
        settings.public_url = Some(format!("http://{}", settings.listener.local_addr().unwrap()));
        settings.cds_clients = clients;
    });
    gateway.push(&candidate("p"));
    let address = gateway.url(&format!("/cds-services/{TRIAL}"));
    let ask = |tenant: Value| {
        let token = key.token("first", &with(claims(&address), "tenant", tenant));
        gateway.send(gateway.request("POST", &address).bearer_auth(token).json(&hook("p", NURSE)))
    };
    assert_eq!(ask(json!("demo")).json()["cards"].as_array().unwrap().len(), 1);
    assert_eq!(ask(json!("north")).json()["cards"], json!([]), "the same id at another hospital is another person");
    assert_eq!((ask(json!("south")).status, ask(Value::Null).status), (401, 401));
}

#[test]
fn how_cards_are_taken_is_for_screeners_and_names_nobody() {
    let hooks = Hooks::start_with(|settings, _| {
        settings.tokens = vec![
            token("Dr Screener", Role::Screener, None),
            token("Lab Feed", Role::Feed, None),
            token("Far Screener", Role::Screener, Some("synthea")),
        ];
    });
    let ask = |query: &str, name: &str| {
        hooks.gateway.send(hooks.gateway.request("GET", &format!("/api/studies/{TRIAL}/cards{query}")).bearer_auth(secret(name)))
    };
    let counts = ask("", "Dr Screener");
    assert_eq!((counts.status, counts.json()["cards"]["shown"].clone()), (200, json!(0)));
    assert_eq!((ask("", "Lab Feed").status, ask("?site=demo-hospital", "Far Screener").status), (403, 403));
    assert_eq!(ask("", "Far Screener").json()["site"], "synthea");
    assert_eq!((ask("?days=0", "Dr Screener").status, ask("?user=x", "Dr Screener").status, ask("?days=365", "Dr Screener").status), (400, 400, 200));
}

#[test]
fn the_configuration_of_a_client_is_checked_before_it_is_believed() {
    let folder = tempfile::tempdir().unwrap();
    app::install_tls_provider();
    let read = |client: Value, public_url: Option<&str>| {
        let mut text = json!({"listen": "127.0.0.1:0", "store": {"sqlite_dir": "store"}, "sites": [{"site": SITE, "note": "for a test"}], "cds_clients": client});
        if let Some(url) = public_url {
            text["public_url"] = json!(url);
        }
        let file = folder.path().join("config.json");
        std::fs::write(&file, text.to_string()).unwrap();
        Config::read(&file)
    };
    let place = |result: Result<Config, Vec<nephrogate::catalogue::Fault>>| result.unwrap_err()[0].path.clone();
    let entry =
        json!({"note": "agreed", "issuer": ISSUER, "site": SITE, "jwks_url": "https://ehr.example.org/jwks.json", "budget": {"per_user_and_day": 3}});
    let url = Some("https://gateway.example.org");
    let clients = read(json!([entry]), url).unwrap().cds_clients().unwrap();
    assert_eq!((clients[0].budget, clients[0].from), (Budget { per_user_and_day: 3, ..Budget::default() }, None));
    assert_eq!(place(read(json!([entry]), None)), "/public_url");
    assert_eq!(place(read(json!([entry]), Some("http://gateway.example.org"))), "/public_url", "tokens and cards do not travel in the clear");
    assert_eq!(place(read(json!([entry, entry]), url)), "/cds_clients/1/issuer");
    assert_eq!(place(read(json!([with(entry.clone(), "site", json!("elsewhere"))]), url)), "/cds_clients/0/site");
    assert_eq!(place(read(json!([with(entry.clone(), "jwks_url", Value::Null)]), url)), "/cds_clients/0");
    assert_eq!(place(read(json!([with(entry.clone(), "note", Value::Null)]), url)), "/cds_clients/0");
    let clear = read(json!([with(entry.clone(), "jwks_url", json!("http://ehr.example.org/jwks.json"))]), url).unwrap();
    assert_eq!(clear.cds_clients().unwrap_err().path, "/cds_clients/0/jwks_url");
    let absent = read(json!([with(entry, "jwks_file", json!("absent.json"))]), url).unwrap();
    assert_eq!(absent.cds_clients().unwrap_err().path, "/cds_clients/0/jwks_file");
}

#[test]
fn the_script_beside_the_document_makes_a_token_that_is_taken() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/cds-try.sh");
    let folder = tempfile::tempdir().unwrap();
    let (key, jwks) = (folder.path().join("key.pem"), folder.path().join("jwks.json"));
    let run = |program: &str, args: &[&str]| {
        let done = Command::new(program).args(args).output().unwrap_or_else(|error| panic!("{program} is needed: {error}"));
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        done.stdout
    };
    let path = key.to_str().unwrap();
    run("openssl", &["genrsa", "-out", path, "2048"]);
    std::fs::write(&jwks, run(script, &["--jwks", path])).unwrap();
    let hooks = Hooks::start_with(|_, client| client.keys = KeySet::of_file(jwks.clone()));
    hooks.gateway.push(&candidate("p"));
    let answer: Value = serde_json::from_slice(&run(script, &[&hooks.address(), path, ISSUER, "p"])).unwrap();
    assert_eq!(answer["cards"].as_array().map(Vec::len), Some(1), "{answer}");
}

#[test]
fn cards_and_used_tokens_are_kept_alike_by_both_stores() {
    crate::stores::on_both(|store| {
        let now_ms = 1_790_000_000_000;
        let key = store.write_blocking(|tx| cards::user_key(tx, &[1; 32])).unwrap();
        assert_eq!(store.write_blocking(|tx| cards::user_key(tx, &[2; 32])).unwrap(), key, "made once");
        let spend = |now_ms, jti: &str| store.write_blocking(|tx| cards::spend_token(tx, now_ms, ISSUER, jti, now_ms + 1_000)).unwrap();
        assert!(spend(now_ms, "a") && !spend(now_ms + 900, "a") && spend(now_ms, "b"));
        assert!(spend(now_ms + 1_001, "a"), "forgotten when it would have expired anyway");
        let asking = Asking {
            study: TRIAL.into(),
            site: SITE.into(),
            subject: "p".into(),
            client: ISSUER.into(),
            user: cards::hash_user(&key, SITE, ISSUER, NURSE),
        };
        let show = |at_ms| store.write_blocking(|tx| cards::show(tx, at_ms, &key, &Budget::default(), &asking)).unwrap();
        let at_once: Vec<Option<String>> = std::thread::scope(|scope| {
            let asked: Vec<_> = (0..4).map(|_| scope.spawn(|| show(now_ms))).collect();
            asked.into_iter().map(|asked| asked.join().unwrap()).collect()
        });
        assert!(at_once.iter().all(|card| card.is_some() && *card == at_once[0]), "asked at once, shown once: {at_once:?}");
        let card = at_once[0].clone().unwrap();
        let answer = |outcome, at_ms| store.write_blocking(|tx| cards::answer(tx, SITE, TRIAL, ISSUER, &card, outcome, at_ms)).unwrap();
        assert!(answer(Outcome::Overridden(Some(OverrideReason::NotNow)), now_ms + 5) && answer(Outcome::Accepted, now_ms + 3));
        assert!(!store.write_blocking(|tx| cards::answer(tx, SITE, TRIAL, "another client", &card, Outcome::Accepted, now_ms)).unwrap());
        assert_eq!(show(now_ms + 6), None, "dismissed for today");
        assert!(show(now_ms + 2 * DAY_MS).is_some());
        let counts = store.read_blocking(|tx| cards::counts(tx, TRIAL, Some(SITE), now_ms)).unwrap();
        assert_eq!((counts.shown, counts.overridden, counts.unanswered, counts.silent), (2, 1, 1, 1));
        assert_eq!(counts.override_reasons, BTreeMap::from([("not-now".to_owned(), 1)]));
    });
}

#[test]
fn a_stopped_study_shows_no_card_until_somebody_lets_it_go_on() {
    let hooks = with_candidate("p");
    let turn = |study: Option<&str>, is_stopped: bool| {
        let turned = json!({"study": study, "is_stopped": is_stopped, "reason": "the safety board meets"});
        let turned = if study.is_some() { turned } else { with(turned, "study", Value::Null) };
        let path = format!("/api/sites/{SITE}/write-back/switch");
        let answer = hooks.gateway.send(hooks.gateway.request("POST", &path).json(&turned));
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    for study in [Some(TRIAL), None] {
        turn(study, true);
        assert_eq!(hooks.cards("p", NURSE), Vec::<Value>::new(), "{study:?}");
        turn(study, false);
        assert_eq!(hooks.cards("p", NURSE).len(), 1, "{study:?}");
    }
}
