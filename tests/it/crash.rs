//! Kill -9 at random points: what was acknowledged is there, nothing is there twice, and the work goes on.
//! Ten points by default, fifty with NEPHROGATE_SOAK=1.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nephrogate::store::{FILE_NAME, Store};
use nephrogate::store::{ledger, messages};

use crate::import::{SITE, conservation, lines, nephrogate, observation};

fn points() -> usize {
    if std::env::var_os("NEPHROGATE_SOAK").is_some_and(|value| value == "1") { 50 } else { 10 }
}

/// Random enough to hit different moments, and printed so that a failure can be met again.
pub fn seed() -> u64 {
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    println!("seed {seed}");
    seed
}

pub fn draw(seed: &mut u64, below: u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 33) % below
}

/// Kills by the child's own id.
fn kill(child: &mut Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn an_import_that_is_killed_goes_on_and_takes_each_line_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("many.ndjson");
    let count = 40_000;
    std::fs::write(&file, lines(count)).unwrap();
    let mut seed = seed();
    let dir = folder.path().join("store");
    let started = || {
        let mut command = nephrogate(&["import", "--site", SITE, "--dir", dir.to_str().unwrap(), file.to_str().unwrap()]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let mut received = 0;
    let mut kills = 0;
    for _ in 0..points() {
        let mut child = started();
        // A moment of the import, not of its start: wait for its store to hold more, then a little longer.
        let patience = Duration::from_millis(draw(&mut seed, 400));
        let deadline = Instant::now() + Duration::from_secs(60);
        while !dir.join(FILE_NAME).exists() && Instant::now() < deadline && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(patience);
        kills += usize::from(child.try_wait().unwrap().is_none());
        kill(&mut child);
        let counts = conservation(&dir, SITE);
        assert!(received <= counts.received, "what was committed stays: {received} then {}", counts.received);
        received = counts.received;
    }
    println!("{kills} of {} imports were killed at work", points());
    assert!(started().wait().unwrap().success());
    let counts = conservation(&dir, SITE);
    assert_eq!(counts.received, count as i64, "each line once, whatever was killed: {counts:?}");
    assert_eq!(counts.dispositions["applied"], count as i64);
    let store = Store::open_sqlite(&dir.join(FILE_NAME)).unwrap();
    assert!(store.read_blocking(|tx| ledger::waiting(tx, 10)).unwrap().is_empty(), "and everybody is judged");
}

/// A gateway on a free port, with its store in `dir`.
fn serve(dir: &Path) -> (Child, String) {
    let config = dir.join("config.json");
    let text =
        format!(r#"{{"listen": "127.0.0.1:0", "store": {{"sqlite_dir": "store"}}, "sites": [{{"site": "{SITE}", "note": "a test of crashes"}}]}}"#);
    std::fs::write(&config, text).unwrap();
    let mut child = nephrogate(&["serve", "--config", config.to_str().unwrap()]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("listening on http://").unwrap_or_else(|| panic!("serve said {line:?}")).to_owned();
    (child, address)
}

/// One PUT on a connection of its own; `None` where no answer came.
fn put(address: &str, id: &str, body: &str) -> Option<u16> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
    let request = format!(
        "PUT /fhir/{SITE}/Observation/{id} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/fhir+json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let text = String::from_utf8_lossy(&answer);
    text.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()
}

#[test]
fn what_a_killed_gateway_acknowledged_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let mut seed = seed();
    let mut acknowledged: Vec<String> = Vec::new();
    let mut number = 0;
    for _ in 0..points() {
        let (mut child, address) = serve(folder.path());
        let until = Instant::now() + Duration::from_millis(100 + draw(&mut seed, 600));
        let (from, enough) = (number, Instant::now() + Duration::from_secs(30));
        std::thread::scope(|scope| {
            let senders: Vec<_> = (0..3)
                .map(|sender| {
                    let address = &address;
                    scope.spawn(move || {
                        let mut taken = Vec::new();
                        for turn in 0.. {
                            let id = format!("o{}", from + 3 * turn + sender);
                            match put(address, &id, &observation(&id, "p1", 1.0)) {
                                Some(200 | 201) => taken.push(id),
                                // No answer, or half of one: not acknowledged.
                                Some(_) | None => break,
                            }
                            if enough < Instant::now() {
                                break;
                            }
                        }
                        taken
                    })
                })
                .collect();
            std::thread::sleep(until.saturating_duration_since(Instant::now()));
            kill(&mut child);
            for sender in senders {
                acknowledged.extend(sender.join().unwrap());
            }
        });
        number += 10_000;
        let store = Store::open_sqlite(&folder.path().join("store").join(FILE_NAME)).unwrap();
        for id in &acknowledged {
            let kept = store.read_blocking(|tx| messages::newest(tx, SITE, "Observation", id)).unwrap();
            let kept = kept.unwrap_or_else(|| panic!("{id} was acknowledged and is lost"));
            assert_eq!(kept.body.as_deref(), Some(observation(id, "p1", 1.0).as_bytes()));
        }
        drop(store);
        conservation(&folder.path().join("store"), SITE);
    }
    println!("{} acknowledged over {} kills", acknowledged.len(), points());
    assert!(points() <= acknowledged.len(), "the gateway took something between the kills");
}
