//! The MLLP door as a sender meets it: acknowledged when durable, in order, whatever the bytes look like on the wire.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nephrogate::app::Settings;
use nephrogate::catalogue::Catalogue;
use nephrogate::clinical::quantity::{Analyte, Comparator};
use nephrogate::config::listener_tls;
use nephrogate::feeds::{Feed, Kind, mllp};
use nephrogate::issue::Code;
use nephrogate::pipeline::{Pipeline, redrive};
use nephrogate::store::ledger;
use serde_json::{Value, json};

use super::{creatinine, message, msh, pid, segment};
use crate::certificates::folder;
use crate::gateway::{Gateway, SITE, STUDY};
use crate::intake::copy_folder;

const FEED: &str = "lab";

/// A sender with one connection.
pub struct Sender<S> {
    stream: S,
    held: Vec<u8>,
}

impl Sender<TcpStream> {
    pub fn connect(address: SocketAddr) -> Sender<TcpStream> {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Sender { stream, held: Vec::new() }
    }
}

impl<S: Read + Write> Sender<S> {
    fn send(&mut self, messages: &[&[u8]]) {
        let framed: Vec<u8> = messages.iter().flat_map(|message| [b"\x0B", *message, b"\x1C\r"].concat()).collect();
        self.stream.write_all(&framed).unwrap();
    }

    /// The next answer.
    fn answer(&mut self) -> String {
        self.try_answer().expect("an answer came")
    }

    /// The next answer; nothing where the connection ended before it.
    fn try_answer(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.held.windows(2).position(|two| two == b"\x1C\r") {
                let frame: Vec<u8> = self.held.drain(..end + 2).collect();
                assert_eq!(frame[0], 0x0B);
                return Some(String::from_utf8(frame[1..end].to_vec()).unwrap());
            }
            let mut some = [0; 4096];
            let length = self.stream.read(&mut some).ok().filter(|length| *length != 0)?;
            self.held.extend_from_slice(&some[..length]);
        }
    }

    fn ask(&mut self, message: &[u8]) -> String {
        self.send(&[message]);
        self.answer()
    }

    pub fn try_ask(&mut self, message: &[u8]) -> Option<String> {
        self.stream.write_all(&[b"\x0B", message, b"\x1C\r"].concat()).ok()?;
        self.try_answer()
    }

    fn is_closed(&mut self) -> bool {
        matches!(self.stream.read(&mut [0; 64]), Ok(0) | Err(_))
    }
}

fn settings(more: &Value) -> mllp::Settings {
    let mut settings = json!({"listen": "127.0.0.1:0"});
    for (name, value) in more.as_object().unwrap() {
        settings[name] = value.clone();
    }
    serde_json::from_value(settings).unwrap()
}

fn listens(more: Value) -> impl FnOnce(&mut Settings) {
    move |app| {
        let settings = settings(&more);
        let tls = settings.tls.as_ref().map(|files| {
            let tls = listener_tls::server(&files.certificate_file, &files.key_file, files.client_ca_file.as_deref());
            Arc::new(tls.unwrap_or_else(|unusable| panic!("{unusable:?}")))
        });
        app.feeds.push(Feed { site: SITE.to_owned(), name: FEED.to_owned(), silent_after_ms: None, kind: Kind::Mllp { settings, tls } });
    }
}

fn gateway() -> Gateway {
    Gateway::start_with(listens(json!({})))
}

fn connect(gateway: &Gateway) -> Sender<TcpStream> {
    Sender::connect(gateway.listening[0].address)
}

fn code(answer: &str) -> &str {
    &answer.split("MSA|").nth(1).expect("it is an acknowledgement")[..2]
}

fn by_disposition(gateway: &Gateway) -> (i64, i64, i64, i64, i64) {
    let counts = gateway.conservation();
    let of = |word: &str| counts["dispositions"][word].as_i64().unwrap();
    (of("applied"), of("duplicate"), of("quarantined"), of("rejected"), of("out-of-scope"))
}

fn trace(gateway: &Gateway, number: i64) -> Value {
    gateway.get(&format!("/api/sites/{SITE}/messages/{number}")).json()
}

#[test]
fn a_message_is_acknowledged_when_it_is_durable_and_its_result_is_judged() {
    let gateway = gateway();
    let mut lab = connect(&gateway);
    let today = jiff::Timestamp::now().strftime("%Y%m%d%H%M%S+0000").to_string();
    let recent = |id: &str, status: &str, value: &str| {
        String::from_utf8(creatinine(id, &today, "p1", "F-1", status, value)).unwrap().replace("20260301080000", &today).into_bytes()
    };
    let answer = lab.ask(&recent("1", "F", "1.80"));
    assert!(answer.ends_with("MSA|AA|1\r"), "{answer:?}");
    assert_eq!(by_disposition(&gateway), (3, 0, 0, 0, 0));
    let first = trace(&gateway, 1);
    assert_eq!((first["message"]["resource_type"].as_str(), first["message"]["feed"].as_str()), (Some("ORU^R01"), Some(FEED)));
    assert!(first["message"]["id"].as_str().unwrap().starts_with("1-"));
    let says: Vec<_> = first["derived"].as_array().unwrap().iter().map(|one| one["resource_type"].as_str().unwrap()).collect();
    assert_eq!(says, ["Patient", "Observation"]);
    assert_eq!(trace(&gateway, 3)["message"]["derived_from"], 1);
    let body = gateway.get(&format!("/api/sites/{SITE}/messages/1/body"));
    assert_eq!((body.header("content-type"), body.body.clone()), ("x-application/hl7-v2+er7", recent("1", "F", "1.80")));
    let path = format!("/api/studies/{STUDY}/sites/{SITE}/subjects/p1");
    gateway.wait_for(&path, |card| card["row"]["prescreen"] == "met" && card["row"]["egfr_date"].is_string());

    // The same bytes again are one duplicate; what they say is not counted a second time.
    assert_eq!(code(&lab.ask(&recent("1", "F", "1.80"))), "AA");
    assert_eq!(by_disposition(&gateway), (3, 1, 0, 0, 0));
    // The same words in another message: the result is here already, and the message is new.
    assert_eq!(code(&lab.ask(&recent("2", "F", "1.80"))), "AA");
    assert_eq!(by_disposition(&gateway), (4, 1, 0, 0, 0));
    gateway.stop().unwrap();
}

#[test]
fn many_messages_on_one_connection_are_answered_in_their_order() {
    let gateway = gateway();
    let mut lab = connect(&gateway);
    let messages: Vec<Vec<u8>> =
        (0..300).map(|n| creatinine(&format!("m{n}"), "20260301120000+0800", &format!("p{}", n % 50), &format!("F-{n}"), "F", "1.80")).collect();
    let refs: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
    lab.send(&refs);
    for n in 0..300 {
        assert!(lab.answer().contains(&format!("MSA|AA|m{n}\r")));
    }
    assert_eq!(by_disposition(&gateway), (650, 0, 0, 0, 0));
    // Each was committed by itself or with its neighbours, never in part.
    for n in [1, 100, 300] {
        assert!(!trace(&gateway, n)["message"].is_null());
    }
}

#[test]
fn what_cannot_be_kept_is_refused_with_a_reason_and_the_connection_goes_on() {
    let gateway = Gateway::start_with(listens(json!({"message_mib": 1})));
    let mut lab = connect(&gateway);
    let answer = lab.ask(br#"{"resourceType":"Patient"}"#);
    assert!(answer.contains("MSA|AR||the bytes are no HL7 v2 message\rERR|||100^"), "{answer:?}");
    let large = [creatinine("big", "20260301120000+0800", "p1", "F-1", "F", "1.80"), vec![b'x'; 1 << 20]].concat();
    let answer = lab.ask(&large);
    assert!(answer.contains("MSA|AR|big|the body is larger than this door takes\r"), "{answer:?}");
    assert_eq!(code(&lab.ask(&creatinine("1", "20260301120000+0800", "p1", "F-1", "F", "1.80"))), "AA");
    assert_eq!(by_disposition(&gateway), (3, 0, 0, 2, 0));
}

#[test]
fn what_is_wrong_in_content_is_taken_and_waits_and_names_no_value() {
    let gateway = gateway();
    let mut lab = connect(&gateway);
    let elsewhere =
        String::from_utf8(creatinine("1", "20260301120000+0800", "secret-7", "F-1", "F", "1.80")).unwrap().replace("^^^DEMO^", "^^^OTHER^");
    let answer = lab.ask(elsewhere.as_bytes());
    assert_eq!(code(&answer), "AA");
    assert!(answer.contains("ERR||PID^1^3|204^Unknown key identifier^HL70357|W|identity-missing^"), "{answer:?}");
    assert!(!answer.contains("secret-7") && !answer.contains("Doe"));
    let quarantine = gateway.get(&format!("/api/sites/{SITE}/quarantine")).json();
    assert_eq!((quarantine["total"].as_i64(), quarantine["messages"][0]["resource_type"].as_str()), (Some(1), Some("ORU^R01")));
    let page = gateway.get(&format!("/sites/{SITE}/quarantine"));
    assert!(page.status == 200 && page.text().contains("ORU^R01"));

    // One result of a message that cannot be read does not keep the others from being used.
    let two = message(&[
        msh("ORU^R01^ORU_R01", "2", "20260301120000+0800"),
        pid("p1"),
        segment("OBR", &[(3, "F-1"), (7, "20260301080000")]),
        segment("OBX", &[(2, "NM"), (3, "2160-0^^LN"), (5, "1.8"), (6, "mg/dL"), (11, "F"), (14, "soon")]),
        segment("OBX", &[(2, "NM"), (3, "33863-2^^LN"), (5, "1.1"), (6, "mg/L"), (11, "F")]),
    ]);
    let answer = lab.ask(&two);
    assert!(answer.contains("ERR||OBX^1^14|102^Data type error^HL70357|W|field-unreadable^"), "{answer:?}");
    assert_eq!(by_disposition(&gateway), (2, 0, 2, 0, 0));
}

#[test]
fn events_that_are_none_of_ours_leave_a_count() {
    let gateway = gateway();
    let mut adt = connect(&gateway);
    let transfer = message(&[msh("ADT^A02^ADT_A02", "1", "20260301120000+0800"), pid("p1"), "PV1|1|I".to_owned()]);
    assert_eq!(code(&adt.ask(&transfer)), "AA");
    assert_eq!(by_disposition(&gateway), (0, 0, 0, 0, 1));
    let counts = gateway.conservation();
    assert_eq!((counts["codes"][0]["code"].as_str(), counts["codes"][0]["count"].as_i64()), (Some("ADT^A02"), Some(1)));
}

#[test]
fn a_batch_is_taken_whole_and_answered_by_a_batch() {
    let gateway = gateway();
    let mut lab = connect(&gateway);
    let of = |id: &str| creatinine(id, "20260301120000+0800", "p1", id, "F", "1.80");
    let batch = [b"BHS|^~\\&|LIS|DEMO|NEPHROGATE|DEMO|20260301||||B7\r".to_vec(), of("1"), of("2"), b"BTS|2\r".to_vec()].concat();
    let answer = lab.ask(&batch);
    assert!(answer.starts_with("BHS|^~\\&|NEPHROGATE|DEMO|LIS|DEMO|") && answer.contains("|B7\rMSH|"), "{answer:?}");
    assert!(answer.contains("MSA|AA|1\r") && answer.contains("MSA|AA|2\r") && answer.ends_with("BTS|2\r"), "{answer:?}");
    assert_eq!(by_disposition(&gateway), (5, 0, 0, 0, 0));
}

#[test]
fn who_speaks_another_protocol_is_hung_up_on_and_so_is_who_is_no_sender() {
    let gateway = Gateway::start_with(listens(json!({"connections": 1})));
    let mut stranger = connect(&gateway);
    stranger.stream.write_all(&vec![b'x'; 70 << 10]).unwrap();
    assert!(stranger.is_closed());
    let mut lab = connect(&gateway);
    // The stranger's place is free again only when its task has ended.
    loop {
        let frame = [b"\x0B".as_slice(), &creatinine("1", "20260301120000+0800", "p1", "F-1", "F", "1.80"), b"\x1C\r"].concat();
        if lab.stream.write_all(&frame).is_ok() && lab.stream.peek(&mut [0; 1]).is_ok_and(|length| length == 1) {
            break;
        }
        lab = connect(&gateway);
    }
    assert_eq!(code(&lab.answer()), "AA");
    assert!(connect(&gateway).is_closed(), "there is one place");

    let elsewhere = Gateway::start_with(listens(json!({"senders": ["192.0.2.7"]})));
    assert!(connect(&elsewhere).is_closed());
}

#[test]
fn what_a_mended_mapping_can_read_is_driven_anew_from_the_messages_themselves() {
    // The site before somebody named its laboratory's coding system, and its authority rightly.
    let folder = tempfile::tempdir().unwrap();
    copy_folder(Path::new("mappings"), &folder.path().join("mappings"));
    let file = folder.path().join("mappings").join(SITE).join("mapping.json");
    let mended = std::fs::read_to_string(&file).unwrap();
    let unmended = mended.replace(r#"{"authority": "DEMO", "#, r#"{"authority": "DEM0", "#).replace(r#""name": "99DEMO""#, r#""name": "99DEM0""#);
    assert_ne!(mended, unmended);
    std::fs::write(&file, unmended).unwrap();
    let load = |dir: Option<&Path>| Arc::new(Catalogue::load(dir).unwrap_or_else(|faults| panic!("{faults:?}")));
    let (before, today) = (load(Some(folder.path())), load(None));
    let gateway = Gateway::start_with(|app| {
        app.pipeline = Pipeline { catalogue: before, ..app.pipeline.clone() };
        listens(json!({}))(app);
    });
    let mut lab = connect(&gateway);
    let local = |id: &str, authority: &str| {
        let text = String::from_utf8(creatinine(id, "20260301120000+0800", "p1", &format!("F-{id}"), "F", "1.80")).unwrap();
        text.replace("^^^DEMO^", &format!("^^^{authority}^")).replace("2160-0^Creatinine^LN", "CREA^Creatinine^99DEMO").into_bytes()
    };
    // The one cannot be given to anybody; of the other nobody knows the code.
    assert_eq!(code(&lab.ask(&local("1", "DEMO"))), "AA");
    assert_eq!(code(&lab.ask(&local("2", "DEM0"))), "AA");
    assert_eq!(by_disposition(&gateway), (2, 0, 2, 0, 0));
    let mended = Pipeline { store: gateway.store.clone(), catalogue: today, receivers: Arc::default() };
    let now_ms = jiff::Timestamp::now().as_millisecond();
    let redriven = redrive::site(&mended, SITE, None, now_ms).unwrap();
    assert_eq!((redriven.tried, redriven.dispositions.get("applied").copied()), (2, Some(2)));
    // Message 1 was driven anew and says a result now; the result of message 2 is used.
    assert_eq!(by_disposition(&gateway), (5, 0, 0, 0, 0));
    assert_eq!(trace(&gateway, 1)["derived"].as_array().unwrap().len(), 1);
    let freshness = gateway.get("/api/freshness").json();
    assert_eq!(freshness["feeds"][0]["received"], 5);
    assert_eq!(redrive::site(&mended, SITE, Some(Code::IdentityMissing), now_ms).unwrap().tried, 0);
}

#[test]
fn tls_asks_for_a_certificate_of_the_senders_where_the_site_wants_it() {
    let at = |name: &str| folder().join(name).to_str().unwrap().to_owned();
    let gateway = Gateway::start_with(listens(json!({"tls": {
        "certificate_file": at("listener.pem"), "key_file": at("listener.key"), "client_ca_file": at("hospital.pem")
    }})));
    let connect = |shows: Option<&str>| {
        use rustls::pki_types::pem::PemObject;
        use rustls::pki_types::{CertificateDer, PrivateKeyDer};
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(at("hospital.pem")).unwrap()).unwrap();
        let builder = rustls::ClientConfig::builder().with_root_certificates(roots);
        let config = match shows {
            None => builder.with_no_client_auth(),
            Some(name) => {
                let chain = vec![CertificateDer::from_pem_file(at(&format!("{name}.pem"))).unwrap()];
                builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(at(&format!("{name}.key"))).unwrap()).unwrap()
            }
        };
        let session = rustls::ClientConnection::new(Arc::new(config), "127.0.0.1".try_into().unwrap()).unwrap();
        let stream = TcpStream::connect(gateway.listening[0].address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Sender { stream: rustls::StreamOwned::new(session, stream), held: Vec::new() }
    };
    assert_eq!(code(&connect(Some("gateway")).ask(&creatinine("1", "20260301120000+0800", "p1", "F-1", "F", "1.80"))), "AA");
    for refused in [None, Some("impostor")] {
        let mut sender = connect(refused);
        let _ = sender.stream.write_all(b"\x0BMSH|^~\\&|\r\x1C\r");
        assert!(sender.is_closed(), "{refused:?}");
    }
    assert_eq!(by_disposition(&gateway), (3, 0, 0, 0, 0));
}

#[test]
fn an_address_that_others_can_reach_needs_tls_or_a_reason_and_a_site_that_says_what_its_messages_mean() {
    let open = |more: Value| settings(&more).fault();
    assert_eq!(open(json!({})), None);
    assert!(open(json!({"listen": "0.0.0.0:2575"})).is_some());
    assert_eq!(open(json!({"listen": "0.0.0.0:2575", "plain_text_is_accepted": "the laboratory's own VLAN, agreed with IT security"})), None);
    assert_eq!(open(json!({"listen": "0.0.0.0:2575", "tls": {"certificate_file": "c", "key_file": "k"}})), None);
}

/// HAPI HL7v2 builds, sends and reads what the gateway takes and answers; only where Java and Maven are (NEPHROGATE_HAPI).
#[test]
fn a_sender_built_on_hapi_is_understood_and_understands_its_answers() {
    if std::env::var_os("NEPHROGATE_HAPI").is_none() {
        eprintln!("SKIPPED: HAPI HL7v2 runs where NEPHROGATE_HAPI is set (tests/run sets it where Java and Maven are)");
        return;
    }
    let gateway = gateway();
    let port = gateway.listening[0].address.port().to_string();
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/counterparts/java");
    let output = std::process::Command::new(program).args(["mllp", "--port", &port, "--results", "200"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("merged: AA\n") && said.contains("of another authority: AA identity-missing\n"), "{said}");
    assert!(said.contains("acknowledged 200 of 200\n"), "{said}");
    let counts = gateway.conservation();
    // The message of another authority, and the colour of the urine, which nobody mapped.
    assert_eq!((counts["dispositions"]["quarantined"].as_i64(), counts["dispositions"]["rejected"].as_i64()), (Some(2), Some(0)), "{counts}");

    // The old number's result stands under the new one; the unlinked record stands for itself.
    let facts = |subject: &str| gateway.store.read_blocking(|tx| ledger::facts(tx, SITE, subject)).unwrap();
    assert_eq!(facts("hapi0").merged_into.as_deref(), Some("hapi1"));
    assert_eq!(facts("hapi2").merged_into, None);
    let catalogue = super::catalogue();
    let chart = catalogue.sites[SITE].chart(facts("hapi1").facts);
    let creatinines: Vec<(String, &str)> = chart
        .measurements
        .iter()
        .filter(|one| one.body.analyte == Some(Analyte::Creatinine))
        .map(|one| (one.body.value_as_received.to_string(), one.status.word()))
        .collect();
    assert_eq!(creatinines.len(), 2, "{creatinines:?}");
    assert!(creatinines.contains(&("1.90".to_owned(), "final")) && creatinines.contains(&("1.85".to_owned(), "corrected")), "{creatinines:?}");
    assert_eq!(chart.encounters.len(), 1);
    assert!(chart.encounters[0].body.end.is_some());
    let ratio = chart.measurements.iter().find(|one| one.body.analyte == Some(Analyte::UrineAlbuminCreatinineRatio)).unwrap();
    assert_eq!((ratio.body.comparator, ratio.body.value), (Some(Comparator::Less), Some(3.0)));
}
