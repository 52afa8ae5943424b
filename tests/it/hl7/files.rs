//! HL7 v2 by the command line: a gateway that is killed while it listens, messages in files, and what a configuration may say.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nephrogate::config::Config;
use nephrogate::store::{FILE_NAME, Store, messages};
use serde_json::{Value, json};

use super::creatinine;
use super::door::Sender;
use crate::crash::{draw, seed};
use crate::gateway::SITE;
use crate::import::{conservation, nephrogate};

fn configuration(mllp: &Value) -> Value {
    json!({
        "listen": "127.0.0.1:0", "store": {"sqlite_dir": "store"},
        "sites": [{"site": SITE, "note": "a test", "feeds": [{"name": "lab", "note": "a test", "mllp": mllp}]}]
    })
}

/// A gateway with a listener on a free port.
fn serve(folder: &Path) -> (Child, std::net::SocketAddr) {
    let file = folder.join("config.json");
    std::fs::write(&file, configuration(&json!({"listen": "127.0.0.1:0"})).to_string()).unwrap();
    let mut child = nephrogate(&["serve", "--config", file.to_str().unwrap()]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let line = lines.find(|line| line.contains("HL7 v2 at ")).expect("serve says where it listens");
    (child, line.rsplit(' ').next().unwrap().parse().unwrap())
}

#[test]
fn what_a_killed_gateway_acknowledged_over_mllp_is_there_with_all_that_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let (mut seed, mut number) = (seed(), 0);
    let mut acknowledged: BTreeSet<String> = BTreeSet::new();
    for _ in 0..3 {
        let (mut child, address) = serve(folder.path());
        let until = Instant::now() + Duration::from_millis(200 + draw(&mut seed, 600));
        std::thread::scope(|scope| {
            let senders: Vec<_> = (0..4)
                .map(|sender| {
                    scope.spawn(move || {
                        let mut lab = Sender::connect(address);
                        let mut taken = Vec::new();
                        for turn in 0.. {
                            let id = format!("K{}", number + 4 * turn + sender);
                            match lab.try_ask(&creatinine(&id, "20260301120000+0800", "p1", &id, "F", "1.80")) {
                                Some(answer) => {
                                    assert!(answer.contains(&format!("MSA|AA|{id}\r")), "{answer:?}");
                                    taken.push(id);
                                }
                                None => break,
                            }
                        }
                        taken
                    })
                })
                .collect();
            std::thread::sleep(until.saturating_duration_since(Instant::now()));
            // By the child's own id.
            child.kill().unwrap();
            child.wait().unwrap();
            for sender in senders {
                acknowledged.extend(sender.join().unwrap());
            }
        });
        number += 100_000;
    }
    assert!(!acknowledged.is_empty());
    let dir = folder.path().join("store");
    let counts = conservation(&dir, SITE);
    let store = Store::open_sqlite(&dir.join(FILE_NAME)).unwrap();
    let kept = store.read_blocking(|tx| messages::resource_ids(tx, SITE, "ORU^R01", "", 1_000_000)).unwrap();
    let kept: BTreeSet<&str> = kept.iter().map(|id| id.split('-').next().unwrap()).collect();
    for id in &acknowledged {
        assert!(kept.contains(id.as_str()), "{id} was acknowledged and is lost");
    }
    // A message and its result come together; the patient once.
    assert_eq!(counts.received, 2 * kept.len() as i64 + 1, "{} acknowledged", acknowledged.len());
    let results = store.read_blocking(|tx| messages::resource_ids(tx, SITE, "Observation", "", 1_000_000)).unwrap();
    assert_eq!(results.len(), kept.len());
}

#[test]
fn messages_and_batches_in_files_are_imported_once() {
    let folder = tempfile::tempdir().unwrap();
    let of = |id: &str| creatinine(id, "20260301120000+0800", "p1", id, "F", "1.80");
    let foreign = String::from_utf8(of("3")).unwrap().replace("^^^DEMO^", "^^^OTHER^").into_bytes();
    let file = folder.path().join("night.hl7");
    let batch = [b"FHS|^~\\&|LIS\rBHS|^~\\&|LIS\r".to_vec(), of("1"), of("2"), foreign, of("1"), b"BTS|4\rFTS|1\r".to_vec()].concat();
    std::fs::write(&file, batch).unwrap();
    std::fs::write(folder.path().join("notes.hl7"), "not a message").unwrap();
    let dir = folder.path().join("store");
    let import = |path: &Path| nephrogate(&["import", "--site", SITE, "--dir", dir.to_str().unwrap(), path.to_str().unwrap()]).output().unwrap();
    let output = import(&file);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).unwrap();
    let figure = |word: &str| said.lines().find_map(|line| line.strip_prefix(word)?.split_whitespace().next()?.parse::<i64>().ok()).unwrap_or(0);
    // Two messages with their results, the patient, one that waits; one came twice.
    assert_eq!((figure("received"), figure("applied"), figure("quarantined"), figure("duplicate")), (7, 5, 1, 1), "{said}");
    let counts = conservation(&dir, SITE);
    assert_eq!(counts.received, 7);
    let again = String::from_utf8(import(folder.path()).stdout).unwrap();
    assert!(again.contains("1 files were taken by an earlier run") && again.contains("skipped, not FHIR: "), "{again}");
    assert_eq!(conservation(&dir, SITE).received, 7);
}

#[test]
fn a_configuration_that_would_show_messages_to_a_network_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.json");
    let faults = |mllp: Value| {
        std::fs::write(&file, configuration(&mllp).to_string()).unwrap();
        match Config::read(&file) {
            Ok(config) => config.feeds().err().into_iter().map(|fault| fault.path).collect::<Vec<_>>(),
            Err(faults) => faults.into_iter().map(|fault| fault.path).collect(),
        }
    };
    assert_eq!(faults(json!({"listen": "127.0.0.1:2575"})), [""; 0]);
    assert_eq!(faults(json!({"listen": "0.0.0.0:2575"})), ["/sites/0/feeds/0/mllp/listen"]);
    assert_eq!(faults(json!({"listen": "0.0.0.0:2575", "plain_text_is_accepted": "a network of its own, agreed with IT security"})), [""; 0]);
    let files = json!({"certificate_file": "none.pem", "key_file": "none.key"});
    assert_eq!(faults(json!({"listen": "0.0.0.0:2575", "tls": files})), ["/sites/0/feeds/0/mllp/tls/certificate_file"]);
    assert!(!faults(json!({"listen": "127.0.0.1:2575", "port": 1})).is_empty());
}
