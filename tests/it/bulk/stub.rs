//! A Bulk Data server with named faults, written against sockets so that an answer can be cut anywhere. Shares no code with
//! the gateway.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use serde_json::{Value, json};

/// What a server does wrong, or only otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// 202 three times, with Retry-After and a percentage.
    Busy,
    /// 202 for ever.
    NeverReady,
    /// The first look at a job: 429 with Retry-After.
    TooManyLooks,
    /// Every look at a job: 500.
    Fails,
    /// The first job is gone when it is looked at.
    JobGone,
    /// The manifest is a sign-in page.
    ManifestPage,
    /// No GET starts an export.
    PostOnly,
    /// A job runs already: 429 with Retry-After of two minutes.
    OneAtATime,
    /// The server knows no $export.
    NoExport,
    /// The manifest comes in parts: one file, then a link, then the rest (STU3).
    Parts,
    /// As that, and the last part links to the first.
    Circle,
    /// The second file of the job of which it is asked for first: 410.
    SecondGone,
    /// The second file of every job: 410.
    SecondAlwaysGone,
    /// The second file stands elsewhere by now: 404 where it was, and the manifest names where it is.
    SecondMoved,
    /// The second file is cut off in the middle of a line, the first time.
    SecondCut,
    /// As that, and it is written in another order the next time.
    SecondCutAndReordered,
    /// The second file is cut off in the same place each time.
    SecondAlwaysCut,
    /// The last line of the second file lacks its end, and its length says that this is all.
    SecondTruncated,
    /// The second file is held after its half, until the test lets go.
    SecondHeld,
    /// Files are packed for the way (Content-Encoding).
    Gzip,
    /// Files are gzip themselves.
    GzipFiles,
    /// Files are `application/octet-stream`.
    WrongType,
    /// The second file is a sign-in page with status 200.
    SecondPage,
    /// The second file is wrapped into a Binary.
    SecondWrapped,
    /// The second file is an OperationOutcome with status 200.
    SecondOutcome,
    /// The manifest counts one resource too many in the second file.
    Miscounted,
}

/// What was asked.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    pub target: String,
    /// By name in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

/// One file: type and content.
pub type File = (&'static str, String);

#[derive(Default)]
pub struct World {
    pub files: Vec<File>,
    pub deleted: Vec<String>,
    pub errors: Vec<String>,
    pub faults: BTreeSet<Fault>,
    pub transaction_time: String,
    /// Where files are, if not here.
    pub files_at: Option<String>,
    pub requires_access_token: bool,
    pub asked: Vec<Asked>,
    /// Jobs that were started and not ended.
    pub jobs: BTreeSet<usize>,
    pub started: usize,
    pub looks: BTreeMap<String, usize>,
    pub fetched: BTreeMap<String, usize>,
    pub gone_of: Option<String>,
    /// What can be read by `Type/id`.
    pub by_id: BTreeMap<String, String>,
}

struct Shared {
    world: Mutex<World>,
    held: (Mutex<bool>, Condvar),
}

/// A server that ends with the test's process.
#[derive(Clone)]
pub struct Stub {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

/// An answer, cut off behind so many bytes of its body, or held there.
struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    cut: Option<usize>,
    held: Option<usize>,
}

impl Reply {
    fn new(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Reply {
        Reply { status, headers: vec![("Content-Type", content_type.to_owned())], body: body.into(), cut: None, held: None }
    }

    fn json(status: u16, body: &Value) -> Reply {
        Reply::new(status, "application/json", body.to_string())
    }

    fn outcome(status: u16, code: &str) -> Reply {
        let issue = json!([{"severity": "error", "code": code, "diagnostics": "free text that may name Mrs Example"}]);
        Reply::new(status, "application/fhir+json", json!({"resourceType": "OperationOutcome", "issue": issue}).to_string())
    }

    fn page() -> Reply {
        Reply::new(200, "text/html", "<!DOCTYPE html><html><body>Please sign in</body></html>")
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Reply {
        self.headers.push((name, value.into()));
        self
    }
}

impl Stub {
    pub fn start(world: World) -> Stub {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { world: Mutex::new(world), held: (Mutex::new(true), Condvar::new()) });
        let stub = Stub { address, shared };
        let server = stub.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let server = server.clone();
                std::thread::spawn(move || {
                    // A client that is gone has asked nothing.
                    let _ = server.serve(stream.unwrap());
                });
            }
        });
        stub
    }

    pub fn base_url(&self) -> String {
        format!("http://{}/fhir", self.address)
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        self.shared.world.lock().unwrap()
    }

    /// Lets go of a file that is held.
    pub fn let_go(&self) {
        *self.shared.held.0.lock().unwrap() = false;
        self.shared.held.1.notify_all();
    }

    /// What was asked by this method, target by target.
    pub fn targets(&self, method: &str) -> Vec<String> {
        self.world().asked.iter().filter(|asked| asked.method == method).map(|asked| asked.target.clone()).collect()
    }

    /// The requests that started an export.
    pub fn kick_offs(&self) -> Vec<Asked> {
        self.world().asked.iter().filter(|asked| asked.target.contains("$export")).cloned().collect()
    }

    fn serve(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let mut words = line.split_whitespace();
        let (method, target) = (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            headers.insert(name.to_ascii_lowercase(), value.to_owned());
        }
        let length: usize = headers.get("content-length").map_or(0, |text| text.parse().unwrap());
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let asked = Asked { method, target, headers, body: String::from_utf8(body).unwrap() };
        let reply = {
            let mut world = self.world();
            world.asked.push(asked.clone());
            let base = format!("http://{}", self.address);
            world.answer(&asked, &base)
        };
        self.send(stream, &reply)
    }

    fn send(&self, mut stream: TcpStream, reply: &Reply) -> std::io::Result<()> {
        let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\nContent-Length: {}\r\n", reply.status, reply.body.len());
        for (name, value) in &reply.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        stream.write_all(head.as_bytes())?;
        stream.write_all(b"\r\n")?;
        stream.write_all(&reply.body[..reply.cut.or(reply.held).unwrap_or(reply.body.len())])?;
        if let Some(held) = reply.held {
            stream.flush()?;
            let mut is_held = self.shared.held.0.lock().unwrap();
            while *is_held {
                is_held = self.shared.held.1.wait(is_held).unwrap();
            }
            drop(is_held);
            stream.write_all(&reply.body[held..])?;
        }
        stream.flush()?;
        let _ = stream.shutdown(Shutdown::Write);
        Ok(())
    }
}

impl World {
    fn has(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }

    fn answer(&mut self, asked: &Asked, base: &str) -> Reply {
        let path = asked.target.split('?').next().unwrap_or_default().to_owned();
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        match parts[..] {
            [.., "$export"] => self.start(asked, base),
            ["fhir", "jobs", job] | ["fhir", "jobs", job, _] => {
                let Ok(job) = job.parse::<usize>() else { return Reply::outcome(404, "not-found") };
                if asked.method == "DELETE" {
                    return Reply::outcome(if self.jobs.remove(&job) { 202 } else { 404 }, "informational");
                }
                self.look(job, &asked.target, base)
            }
            ["files", job, name] => self.file(job, name, asked),
            ["fhir", "metadata"] => Reply::json(200, &crate::polling::capabilities()),
            ["fhir", resource_type, id] => match self.by_id.get(&format!("{resource_type}/{id}")) {
                Some(resource) => Reply::new(200, "application/fhir+json", resource.as_str()),
                None => Reply::outcome(404, "not-found"),
            },
            _ => Reply::outcome(404, "not-found"),
        }
    }

    fn start(&mut self, asked: &Asked, base: &str) -> Reply {
        if self.has(Fault::NoExport) {
            return Reply::outcome(404, "not-found");
        }
        if self.has(Fault::PostOnly) && asked.method == "GET" {
            return Reply::outcome(405, "processing");
        }
        if asked.headers.get("prefer").is_none_or(|prefer| prefer != "respond-async") {
            return Reply::outcome(400, "invalid");
        }
        if self.has(Fault::OneAtATime) {
            return Reply::outcome(429, "throttled").with("Retry-After", "120");
        }
        self.started += 1;
        self.jobs.insert(self.started);
        Reply::new(202, "text/plain", "").with("Content-Location", format!("{base}/fhir/jobs/{}", self.started))
    }

    fn look(&mut self, job: usize, target: &str, base: &str) -> Reply {
        let looks = self.looks.entry(target.to_owned()).or_default();
        *looks += 1;
        let looks = *looks;
        if !self.jobs.contains(&job) || (self.has(Fault::JobGone) && job == 1) {
            return Reply::outcome(404, "not-found");
        }
        let busy = || Reply::new(202, "text/plain", "").with("Retry-After", "0").with("X-Progress", "Mrs Example is 40% ready");
        if self.has(Fault::NeverReady) || (self.has(Fault::Busy) && looks <= 3) {
            return busy();
        }
        if self.has(Fault::TooManyLooks) && looks == 1 {
            return Reply::outcome(429, "throttled").with("Retry-After", "1");
        }
        if self.has(Fault::Fails) {
            return Reply::outcome(500, "processing");
        }
        if self.has(Fault::ManifestPage) {
            return Reply::page();
        }
        if !self.has(Fault::Parts) && !self.has(Fault::Circle) {
            return Reply::json(200, &self.manifest(job, base, 0..self.files.len(), looks));
        }
        // First one file of the first part, then a link to the second part, which is ready when it is asked for again.
        if target.ends_with("/more") {
            let mut manifest = self.manifest(job, base, 1..self.files.len(), looks);
            if self.has(Fault::Circle) {
                manifest["link"] = json!([{"relation": "next", "url": format!("{base}/fhir/jobs/{job}")}]);
            }
            return if looks == 1 { busy() } else { Reply::json(200, &manifest) };
        }
        let mut manifest = self.manifest(job, base, 0..1, looks);
        manifest.as_object_mut().unwrap().remove("deleted");
        manifest.as_object_mut().unwrap().remove("error");
        if 1 < looks {
            manifest["link"] = json!([{"relation": "next", "url": format!("{base}/fhir/jobs/{job}/more")}]);
        }
        Reply::json(202, &manifest)
    }

    fn manifest(&self, job: usize, base: &str, files: std::ops::Range<usize>, looks: usize) -> Value {
        let at = self.files_at.as_deref().unwrap_or(base);
        let output: Vec<Value> = files
            .map(|number| {
                let (resource_type, text) = &self.files[number];
                let lines = text.lines().filter(|line| !line.trim().is_empty()).count();
                let more = usize::from(self.has(Fault::Miscounted) && number == 1);
                let place = if self.has(Fault::SecondMoved) && number == 1 && 1 < looks { "moved-" } else { "" };
                json!({"type": resource_type, "url": format!("{at}/files/{job}/{place}{number}.ndjson"), "count": lines + more})
            })
            .collect();
        let mut manifest = json!({"transactionTime": self.transaction_time, "request": "x", "requiresAccessToken": self.requires_access_token,
            "output": output, "error": [], "extension": {"https://example.org/any": true}});
        if !self.errors.is_empty() {
            manifest["error"] = json!([{"type": "OperationOutcome", "url": format!("{at}/files/{job}/errors.ndjson")}]);
        }
        if !self.deleted.is_empty() {
            manifest["deleted"] = json!([{"type": "Bundle", "url": format!("{at}/files/{job}/deleted.ndjson")}]);
        }
        manifest
    }

    fn file(&mut self, job: &str, name: &str, asked: &Asked) -> Reply {
        let fetched = self.fetched.entry(name.to_owned()).or_default();
        *fetched += 1;
        let fetched = *fetched;
        let text = match name {
            "errors.ndjson" => self.errors.join("\n"),
            "deleted.ndjson" => self.deleted.join("\n"),
            name => {
                let number: usize = name.trim_start_matches("moved-").trim_end_matches(".ndjson").parse().unwrap();
                self.files[number].1.clone()
            }
        };
        let is_second = matches!(name, "1.ndjson" | "moved-1.ndjson");
        let half = text.len() / 2 + 7;
        if is_second {
            if self.has(Fault::SecondGone) {
                self.gone_of.get_or_insert_with(|| job.to_owned());
            }
            if self.gone_of.as_deref() == Some(job) || self.has(Fault::SecondAlwaysGone) {
                return Reply::outcome(410, "expired");
            }
            if self.has(Fault::SecondMoved) && !name.starts_with("moved-") {
                return Reply::outcome(404, "not-found");
            }
            if self.has(Fault::SecondPage) {
                return Reply::page();
            }
            if self.has(Fault::SecondWrapped) {
                let binary = json!({"resourceType": "Binary", "contentType": "application/fhir+ndjson", "data": "e30K".repeat(4000)});
                return Reply::new(200, "application/fhir+json", binary.to_string());
            }
            if self.has(Fault::SecondOutcome) {
                let outcome = Reply::outcome(200, "processing");
                return Reply { status: 200, ..outcome };
            }
        }
        let mut text = text;
        if is_second && self.has(Fault::SecondCutAndReordered) && 1 < fetched {
            text = text.lines().rev().map(|line| format!("{line}\n")).collect();
        }
        if is_second && self.has(Fault::SecondTruncated) {
            text.truncate(half);
        }
        let content_type = if self.has(Fault::WrongType) { "application/octet-stream" } else { "application/fhir+ndjson" };
        let reply = Reply::new(200, content_type, text);
        if self.has(Fault::Gzip) && asked.headers.get("accept-encoding").is_some_and(|accepted| accepted.contains("gzip")) {
            let body = gzip(&reply.body);
            return Reply { body, ..reply }.with("Content-Encoding", "gzip");
        }
        if self.has(Fault::GzipFiles) {
            return Reply::new(200, "application/gzip", gzip(&reply.body));
        }
        let first_time = fetched == 1 && (self.has(Fault::SecondCut) || self.has(Fault::SecondCutAndReordered));
        if is_second && (first_time || self.has(Fault::SecondAlwaysCut)) {
            return Reply { cut: Some(half), ..reply };
        }
        if is_second && self.has(Fault::SecondHeld) {
            return Reply { held: Some(half), ..reply };
        }
        reply
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}
