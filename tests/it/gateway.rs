//! The gateway as a client meets it: the whole app in this process, on a free port, with a store of its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nephrogate::app::{self, App, Listening, Settings, Stopper};
use nephrogate::catalogue::Catalogue;
use nephrogate::digest::sha256;
use nephrogate::http::access::{Role, Token};
use nephrogate::pipeline::{Pipeline, Receivers};
use nephrogate::store::Store;
use serde_json::{Value, json};

pub const SITE: &str = "demo-hospital";
pub const STUDY: &str = "egfr-window";
pub const LOINC: &str = "http://loinc.org";

pub struct Gateway {
    pub address: SocketAddr,
    pub store: Store,
    /// Feeds that listen at addresses of their own.
    pub listening: Vec<Listening>,
    client: reqwest::Client,
    stopper: Stopper,
    running: Option<tokio::task::JoinHandle<anyhow::Result<()>>>,
    runtime: tokio::runtime::Runtime,
    _folder: tempfile::TempDir,
}

/// An answer, read whole.
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

impl Gateway {
    pub fn start() -> Gateway {
        Gateway::start_with(|_| {})
    }

    pub fn start_with(change: impl FnOnce(&mut Settings)) -> Gateway {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open_sqlite(&folder.path().join("store.db")).unwrap();
        let catalogue = Catalogue::load(None).unwrap_or_else(|faults| panic!("{faults:?}"));
        let pipeline = Pipeline { store: store.clone(), catalogue: Arc::new(catalogue), receivers: Arc::new(Receivers::new()) };
        let listener = app::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let mut settings = Settings::on_loopback(pipeline, listener, "Test Person");
        change(&mut settings);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let app = runtime.block_on(async { App::build(settings) }).unwrap();
        let (address, listening, stopper) = (app.address, app.listening.clone(), app.stopper());
        let running = runtime.spawn(app.run_until_stopped());
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        Gateway { address, store, listening, client, stopper, running: Some(running), runtime, _folder: folder }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method.parse().unwrap(), if path.starts_with("http") { path.to_owned() } else { self.url(path) })
    }

    #[track_caller]
    pub fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        self.try_send(request).unwrap()
    }

    pub fn try_send(&self, request: reqwest::RequestBuilder) -> reqwest::Result<Answer> {
        self.runtime.block_on(async {
            let answer = request.timeout(Duration::from_secs(60)).send().await?;
            let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
            Ok(Answer { status, headers, body: answer.bytes().await?.to_vec() })
        })
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        self.send(self.request("GET", path))
    }

    #[track_caller]
    pub fn post(&self, path: &str, content_type: &str, body: impl Into<reqwest::Body>) -> Answer {
        self.send(self.request("POST", path).header("content-type", content_type).body(body))
    }

    #[track_caller]
    pub fn post_fhir(&self, path: &str, body: &Value) -> Answer {
        self.post(path, "application/fhir+json", serde_json::to_vec(body).unwrap())
    }

    #[track_caller]
    pub fn put_fhir(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request("PUT", path).header("content-type", "application/fhir+json").body(serde_json::to_vec(body).unwrap()))
    }

    /// Pushes resources in one batch, each of which must be applied.
    #[track_caller]
    pub fn push(&self, resources: &[Value]) {
        let entry = |resource: &Value| {
            let (kind, id) = (resource["resourceType"].as_str().unwrap(), resource["id"].as_str().unwrap());
            json!({"resource": resource, "request": {"method": "PUT", "url": format!("{kind}/{id}")}})
        };
        let bundle = json!({"resourceType": "Bundle", "type": "batch", "entry": resources.iter().map(entry).collect::<Vec<_>>()});
        let answer = self.post_fhir(&format!("/fhir/{SITE}"), &bundle);
        assert_eq!(answer.status, 200, "{}", answer.text());
        for entry in answer.json()["entry"].as_array().unwrap() {
            assert_eq!(entry["response"]["status"], "200 OK", "{entry}");
        }
    }

    /// The counts of the site add up; answers them.
    #[track_caller]
    pub fn conservation(&self) -> Value {
        let counts = self.get(&format!("/api/sites/{SITE}/conservation")).json();
        assert_eq!(counts["difference"], 0, "{counts}");
        assert_eq!(counts["rows_agree"], true, "{counts}");
        counts
    }

    /// Asks until the answer is as wanted.
    #[track_caller]
    pub fn wait_for(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let answer = self.get(path).json();
            if wanted(&answer) {
                return answer;
            }
            assert!(Instant::now() < deadline, "not in time: {answer}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Stops as SIGTERM would, and waits for the end.
    pub fn stop(mut self) -> anyhow::Result<()> {
        self.stopper.stop();
        let running = self.running.take().expect("stopped once");
        self.runtime.block_on(running).unwrap()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.stopper.stop();
        if let Some(running) = self.running.take() {
            let _ = self.runtime.block_on(running);
        }
    }
}

pub fn token(name: &str, role: Role, site: Option<&str>) -> Token {
    Token { name: name.to_owned(), role, site: site.map(str::to_owned), sha256: sha256(secret(name).as_bytes()) }
}

/// The bearer token of a test's person.
pub fn secret(name: &str) -> String {
    format!("secret-of-{}", name.to_lowercase().replace(' ', "-"))
}

/// RFC 3339 UTC, this many days ago.
pub fn days_ago(days: i64) -> String {
    let now = jiff::Timestamp::now().as_second();
    jiff::Timestamp::from_second(now - days * 86_400).unwrap().to_string()
}

pub fn patient(id: &str, birth_date: &str) -> Value {
    json!({"resourceType": "Patient", "id": id, "meta": {"versionId": "1"}, "gender": "male", "birthDate": birth_date})
}

/// A final serum creatinine in mg/dL.
pub fn creatinine(id: &str, patient: &str, version: u32, days: i64, mg_dl: f64) -> Value {
    let at = days_ago(days);
    json!({
        "resourceType": "Observation", "id": id, "meta": {"versionId": version.to_string()}, "status": "final",
        "category": [{"coding": [{"system": "http://terminology.hl7.org/CodeSystem/observation-category", "code": "laboratory"}]}],
        "code": {"coding": [{"system": LOINC, "code": "2160-0"}]},
        "subject": {"reference": format!("Patient/{patient}")},
        "effectiveDateTime": at, "issued": at,
        "valueQuantity": {"value": mg_dl, "unit": "mg/dL", "system": "http://unitsofmeasure.org", "code": "mg/dL"}
    })
}
