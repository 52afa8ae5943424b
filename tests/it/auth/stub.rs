//! An EHR and its token endpoint in one small server, well-mannered unless a test says otherwise; it knows what it was asked.
//! Shares no code with the gateway.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::{Value, json};

/// One request as it came.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    /// With its query.
    pub path: String,
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

impl Asked {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub fn is(&self, place: &str) -> bool {
        self.path.split('?').next() == Some(place)
    }

    /// A field of a form.
    pub fn field(&self, name: &str) -> String {
        let url = reqwest::Url::parse(&format!("form:?{}", self.body)).unwrap();
        url.query_pairs().find(|(found, _)| found == name).map(|(_, value)| value.into_owned()).unwrap_or_default()
    }
}

#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    pub fn json(status: u16, body: &Value) -> Answer {
        Answer { status, headers: vec![("content-type".to_owned(), "application/json".to_owned())], body: body.to_string() }
    }

    pub fn page(status: u16) -> Answer {
        let body = "<!DOCTYPE html><html><body>Please sign in</body></html>".to_owned();
        Answer { status, headers: vec![("content-type".to_owned(), "text/html".to_owned())], body }
    }

    pub fn with(mut self, name: &str, value: impl Into<String>) -> Answer {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

/// What a test makes of a request, given how many came to the same path before; `None` where the server does as it always does.
type Odd = dyn Fn(&Asked, usize) -> Option<Answer> + Send + Sync;

struct Shared {
    odd: Mutex<Arc<Odd>>,
    asked: Mutex<Vec<Asked>>,
    issued: Mutex<BTreeSet<String>>,
    lifetime_s: Mutex<u64>,
    origin: Mutex<String>,
}

pub struct Stub {
    pub origin: String,
    shared: Arc<Shared>,
    handle: actix_web::dev::ServerHandle,
}

impl Drop for Stub {
    fn drop(&mut self) {
        // Returns once the order is given.
        drop(self.handle.stop(false));
    }
}

pub const TOKEN_PATH: &str = "/auth/token";
pub const DISCOVERY_PATH: &str = "/fhir/.well-known/smart-configuration";

impl Stub {
    pub fn start() -> Stub {
        Stub::start_by(None)
    }

    /// On https://localhost.
    pub fn start_tls(tls: rustls::ServerConfig) -> Stub {
        Stub::start_by(Some(tls))
    }

    fn start_by(tls: Option<rustls::ServerConfig>) -> Stub {
        let shared = Arc::new(Shared {
            odd: Mutex::new(Arc::new(|_, _| None)),
            asked: Mutex::default(),
            issued: Mutex::default(),
            lifetime_s: Mutex::new(300),
            origin: Mutex::default(),
        });
        let data = web::Data::from(shared.clone());
        let (send, receive) = std::sync::mpsc::channel();
        let is_tls = tls.is_some();
        std::thread::spawn(move || {
            actix_web::rt::System::new().block_on(async move {
                let server = actix_web::HttpServer::new(move || {
                    actix_web::App::new().app_data(data.clone()).app_data(web::PayloadConfig::new(8 << 20)).default_service(web::to(serve))
                });
                let server = server.workers(1).disable_signals();
                let server = match tls {
                    Some(tls) => server.bind_rustls_0_23(("127.0.0.1", 0), tls).unwrap(),
                    None => server.bind(("127.0.0.1", 0)).unwrap(),
                };
                let address = server.addrs()[0];
                let server = server.run();
                send.send((address, server.handle())).unwrap();
                server.await.unwrap();
            });
        });
        let (address, handle) = receive.recv().unwrap();
        let origin = if is_tls { format!("https://localhost:{}", address.port()) } else { format!("http://{address}") };
        shared.origin.lock().unwrap().clone_from(&origin);
        Stub { origin, shared, handle }
    }

    pub fn base_url(&self) -> String {
        format!("{}/fhir", self.origin)
    }

    pub fn token_url(&self) -> String {
        format!("{}{TOKEN_PATH}", self.origin)
    }

    /// From now on.
    pub fn when(&self, odd: impl Fn(&Asked, usize) -> Option<Answer> + Send + Sync + 'static) {
        *self.shared.odd.lock().unwrap() = Arc::new(odd);
    }

    pub fn set_lifetime_s(&self, lifetime_s: u64) {
        *self.shared.lifetime_s.lock().unwrap() = lifetime_s;
    }

    /// As if the server had been started anew: it knows none of its tokens any more.
    pub fn forget_tokens(&self) {
        self.shared.issued.lock().unwrap().clear();
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().unwrap().clone()
    }

    pub fn asked_at(&self, place: &str) -> Vec<Asked> {
        self.asked().into_iter().filter(|asked| asked.is(place)).collect()
    }

    /// How often the token endpoint, and the FHIR endpoint besides discovery, were asked.
    pub fn counts(&self) -> (usize, usize) {
        let asked = self.asked();
        let of_fhir = asked.iter().filter(|asked| asked.path.starts_with("/fhir/") && !asked.is(DISCOVERY_PATH));
        (asked.iter().filter(|asked| asked.is(TOKEN_PATH)).count(), of_fhir.count())
    }
}

async fn serve(shared: web::Data<Shared>, request: HttpRequest, body: web::Bytes) -> HttpResponse {
    let headers = request.headers().iter().map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
    let asked = Asked {
        method: request.method().to_string(),
        path: request.uri().path_and_query().map(ToString::to_string).unwrap_or_default(),
        headers: headers.collect(),
        body: String::from_utf8_lossy(&body).into_owned(),
    };
    let before = {
        let mut all = shared.asked.lock().unwrap();
        let place = asked.path.split('?').next().unwrap().to_owned();
        let before = all.iter().filter(|earlier| earlier.is(&place)).count();
        all.push(asked.clone());
        before
    };
    let odd = shared.odd.lock().unwrap().clone();
    let answer = odd(&asked, before).unwrap_or_else(|| as_always(&shared, &asked));
    let mut response = HttpResponse::build(StatusCode::from_u16(answer.status).unwrap());
    for (name, value) in answer.headers {
        response.insert_header((name, value));
    }
    response.body(answer.body)
}

fn as_always(shared: &Shared, asked: &Asked) -> Answer {
    if asked.is(DISCOVERY_PATH) {
        return Answer::json(200, &smart_configuration(&shared.origin.lock().unwrap()));
    }
    if asked.is(TOKEN_PATH) {
        let mut issued = shared.issued.lock().unwrap();
        let token = format!("access-token-{}", shared.asked.lock().unwrap().iter().filter(|asked| asked.is(TOKEN_PATH)).count());
        issued.insert(token.clone());
        let lifetime_s = *shared.lifetime_s.lock().unwrap();
        return Answer::json(200, &json!({"access_token": token, "token_type": "bearer", "expires_in": lifetime_s, "scope": asked.field("scope")}));
    }
    if asked.is("/fhir/metadata") {
        let of = |kind: &str| {
            let parameters: Vec<Value> = ["_lastUpdated", "patient", "category", "code"].map(|name| json!({"name": name})).to_vec();
            json!({"type": kind, "interaction": [{"code": "read"}, {"code": "search-type"}], "searchParam": parameters})
        };
        let rest = json!([{"mode": "server", "resource": [of("Patient"), of("Observation")]}]);
        return Answer::json(
            200,
            &json!({"resourceType": "CapabilityStatement", "fhirVersion": "4.0.1", "software": {"name": "stub"}, "rest": rest}),
        );
    }
    let token = asked.header("authorization").strip_prefix("Bearer ").unwrap_or_default();
    if !shared.issued.lock().unwrap().contains(token) {
        let outcome = json!({"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": "login", "diagnostics": "no such token"}]});
        return Answer::json(401, &outcome);
    }
    resource_at(asked)
}

/// What a server that lets everybody in answers.
pub fn resource_at(asked: &Asked) -> Answer {
    let path = asked.path.trim_start_matches("/fhir/");
    let (place, query) = path.split_once('?').unwrap_or((path, ""));
    match (asked.method.as_str(), place.split_once('/')) {
        ("GET", Some((kind, id))) => Answer::json(200, &json!({"resourceType": kind, "id": id, "meta": {"versionId": "1"}})),
        ("GET", None) if query.contains("_summary=count") => Answer::json(200, &json!({"resourceType": "Bundle", "type": "searchset", "total": 42})),
        ("GET", None) => {
            let resource = json!({"resourceType": place, "id": "x1", "meta": {"versionId": "1", "lastUpdated": "2026-11-01T12:00:00Z"}});
            Answer::json(200, &json!({"resourceType": "Bundle", "type": "searchset", "entry": [{"resource": resource, "search": {"mode": "match"}}]}))
        }
        (_, _) => Answer::json(201, &json!({})).with("location", format!("{place}/1/_history/1")),
    }
}

pub fn smart_configuration(origin: &str) -> Value {
    json!({
        "token_endpoint": format!("{origin}{TOKEN_PATH}"),
        "token_endpoint_auth_methods_supported": ["private_key_jwt", "client_secret_basic"],
        "token_endpoint_auth_signing_alg_values_supported": ["RS384", "ES384"],
        "grant_types_supported": ["client_credentials"],
        "capabilities": ["client-confidential-asymmetric", "permission-v2"]
    })
}
