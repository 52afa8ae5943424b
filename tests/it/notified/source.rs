//! A small EHR that takes Subscriptions: it keeps versions, answers searches by `_lastUpdated`, counts events, and does what
//! the test says of the rest. It notifies nobody by itself: the test does, as it likes. Shares no code with the gateway.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::{Value, json};

use crate::polling::serve_with;

/// Newest version of one resource; `None` where it was deleted.
struct Held {
    version: u32,
    stamp: String,
    resource: Option<Value>,
}

#[derive(Default)]
pub struct State {
    held: BTreeMap<(String, String), Held>,
    made: u32,
    /// Answers this status, by a part of method and path, as often as said.
    pub refusals: Vec<(String, u16, usize)>,
    /// Answers a page of some proxy.
    pub is_html: bool,
    /// Searches for Subscriptions answer everybody's.
    pub ignores_url: bool,
    pub has_status: bool,
    pub has_events: bool,
    /// Events of each Subscription: what they are about, numbered from 1.
    pub events: HashMap<String, Vec<String>>,
    pub asked: Vec<String>,
}

pub struct Source {
    pub url: String,
    state: Arc<Mutex<State>>,
}

/// RFC 3339 of ms since 1970 UTC.
pub fn at(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).unwrap().to_string()
}

impl Source {
    pub fn start() -> Source {
        let state: Arc<Mutex<State>> = Arc::default();
        let url = serve_with(state.clone(), |config| {
            config.default_service(web::to(serve));
        });
        Source { url: format!("{url}/fhir"), state }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Writes a resource, stamped at `ms`.
    pub fn put(&self, resource: Value, ms: i64) {
        self.state().put(resource, &at(ms));
    }

    pub fn delete(&self, resource_type: &str, id: &str) {
        let mut state = self.state();
        let held = state.held.get_mut(&(resource_type.to_owned(), id.to_owned())).expect("it is held");
        held.version += 1;
        held.resource = None;
    }

    /// Ids and resources of the Subscriptions that stand.
    pub fn subscriptions(&self) -> Vec<(String, Value)> {
        let state = self.state();
        let all = state.held.iter().filter(|((kind, _), _)| kind == "Subscription");
        all.filter_map(|((_, id), held)| Some((id.clone(), held.resource.clone()?))).collect()
    }

    pub fn set(&self, id: &str, change: impl FnOnce(&mut Value)) {
        let mut state = self.state();
        let held = state.held.get_mut(&("Subscription".to_owned(), id.to_owned())).expect("it is held");
        change(held.resource.as_mut().expect("it stands"));
    }

    /// What was asked since the last time.
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.state().asked)
    }

    pub fn asked_for(&self, part: &str) -> usize {
        self.asked().iter().filter(|asked| asked.contains(part)).count()
    }
}

impl State {
    fn put(&mut self, mut resource: Value, stamp: &str) -> (u32, Value) {
        let key = (resource["resourceType"].as_str().unwrap().to_owned(), resource["id"].as_str().unwrap().to_owned());
        let version = self.held.get(&key).map_or(0, |held| held.version) + 1;
        resource["meta"] = json!({"versionId": version.to_string(), "lastUpdated": stamp});
        self.held.insert(key, Held { version, stamp: stamp.to_owned(), resource: Some(resource.clone()) });
        (version, resource)
    }

    fn search(&self, kind: &str, query: &HashMap<String, String>) -> Value {
        let since = query.get("_lastUpdated").and_then(|text| text.strip_prefix("ge")).map(|text| text.parse::<jiff::Timestamp>().unwrap());
        let url = query.get("url").filter(|_| !self.ignores_url);
        let is_found = |held: &&Held| {
            let resource = held.resource.as_ref();
            let endpoint =
                resource.map(|resource| if resource["endpoint"].is_null() { &resource["channel"]["endpoint"] } else { &resource["endpoint"] });
            resource.is_some()
                && since.is_none_or(|since| since <= held.stamp.parse().unwrap())
                && (kind != "Subscription" || url.is_none_or(|url| endpoint.and_then(Value::as_str) == Some(url)))
        };
        let mut found: Vec<&Held> = self.held.iter().filter(|((of, _), _)| of == kind).map(|(_, held)| held).filter(is_found).collect();
        found.sort_by_key(|held| held.stamp.clone());
        let entry: Vec<Value> = found.iter().map(|held| json!({"resource": held.resource, "search": {"mode": "match"}})).collect();
        json!({"resourceType": "Bundle", "type": "searchset", "total": entry.len(), "entry": entry})
    }

    fn status(&self, base: &str, id: &str, kind: &str, events: Vec<Value>, bundle: &str) -> Value {
        let mut parameter = vec![
            json!({"name": "subscription", "valueReference": {"reference": format!("{base}/Subscription/{id}")}}),
            json!({"name": "status", "valueCode": "active"}),
            json!({"name": "type", "valueCode": kind}),
            json!({"name": "events-since-subscription-start", "valueString": self.events.get(id).map_or(0, Vec::len).to_string()}),
        ];
        parameter.extend(events);
        json!({"resourceType": "Bundle", "type": bundle, "entry": [{"fullUrl": "urn:uuid:1f8a9d3e-0000-4000-8000-000000000001",
            "resource": {"resourceType": "Parameters", "parameter": parameter}}]})
    }
}

async fn serve(request: HttpRequest, body: web::Bytes, state: web::Data<Mutex<State>>) -> HttpResponse {
    let mut state = state.lock().unwrap();
    let query = web::Query::<HashMap<String, String>>::from_query(request.query_string()).unwrap().into_inner();
    let asked = format!("{} {}?{}", request.method(), request.path(), request.query_string());
    state.asked.push(asked.clone());
    if let Some((_, status, times)) = state.refusals.iter_mut().find(|(part, _, times)| asked.contains(part.as_str()) && 0 < *times) {
        *times -= 1;
        return HttpResponse::build(StatusCode::from_u16(*status).unwrap())
            .json(json!({"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": "processing", "diagnostics": "Jane Doe"}]}));
    }
    if state.is_html {
        return HttpResponse::Ok().content_type("text/html").body("<html>maintenance</html>");
    }
    let base = format!("http://{}/fhir", request.connection_info().host());
    let path: Vec<String> = request.path().trim_start_matches("/fhir/").split('/').map(str::to_owned).collect();
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    let now = jiff::Timestamp::now().to_string();
    let answer = |status: StatusCode, body: &Value| HttpResponse::build(status).content_type("application/fhir+json").body(body.to_string());
    match (request.method().as_str(), path.as_slice()) {
        ("GET", ["metadata"]) => answer(StatusCode::OK, &crate::polling::capabilities()),
        ("GET", [kind]) => answer(StatusCode::OK, &state.search(kind, &query)),
        ("GET", ["Subscription", id, "$status"]) if state.has_status => {
            answer(StatusCode::OK, &state.status(&base, id, "query-status", Vec::new(), "searchset"))
        }
        ("GET", ["Subscription", id, "$events"]) if state.has_events => {
            let number = |name: &str| query[name].parse::<usize>().unwrap();
            let (first, last) = (number("eventsSinceNumber"), number("eventsUntilNumber"));
            let all = state.events.get(*id).cloned().unwrap_or_default();
            let events = (first..=last.min(all.len())).map(|number| {
                json!({"name": "notification-event", "part": [
                    {"name": "event-number", "valueString": number.to_string()},
                    {"name": "focus", "valueReference": {"reference": format!("{base}/{}", all[number - 1])}}]})
            });
            answer(StatusCode::OK, &state.status(&base, id, "query-event", events.collect(), "history"))
        }
        ("GET", [kind, id]) => match state.held.get(&((*kind).to_owned(), (*id).to_owned())) {
            Some(Held { resource: Some(resource), .. }) => answer(StatusCode::OK, resource),
            Some(Held { resource: None, .. }) => HttpResponse::Gone().finish(),
            None => HttpResponse::NotFound().finish(),
        },
        ("POST", [kind]) => {
            let mut resource: Value = serde_json::from_slice(&body).unwrap();
            state.made += 1;
            let id = format!("{}-{}", kind.to_lowercase(), state.made);
            resource["id"] = json!(id);
            if *kind == "Subscription" {
                resource["status"] = json!("active");
            }
            let (_, resource) = state.put(resource, &now);
            HttpResponse::Created()
                .insert_header(("location", format!("{base}/{kind}/{id}/_history/1")))
                .content_type("application/fhir+json")
                .body(resource.to_string())
        }
        ("PUT", [kind, _]) => {
            let mut resource: Value = serde_json::from_slice(&body).unwrap();
            if *kind == "Subscription" {
                resource["status"] = json!("active");
            }
            let (_, resource) = state.put(resource, &now);
            answer(StatusCode::OK, &resource)
        }
        ("DELETE", [kind, id]) => match state.held.get_mut(&((*kind).to_owned(), (*id).to_owned())) {
            Some(held) => {
                held.resource = None;
                HttpResponse::NoContent().finish()
            }
            None => HttpResponse::NotFound().finish(),
        },
        _ => HttpResponse::NotFound().finish(),
    }
}
