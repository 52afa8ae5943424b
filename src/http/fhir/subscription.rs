//! Subscriptions of EHRs to our topic, in the shape of HL7's topic-based backport for R4: made, changed, ended, and
//! asked for their status and their events. One token's subscriptions are no other token's business.

use std::pin::Pin;

use actix_web::http::{Method, StatusCode, header};
use actix_web::web::{self, Path};
use actix_web::{FromRequest, HttpRequest, HttpResponse};

use super::{FHIR, Reader, configured, etag};
use crate::fhir::build::parts::{self, Bundle, BundleEntry};
use crate::fhir::notification;
use crate::fhir::subscription::{self, Content, KEPT, TOPIC, Wanted};
use crate::fhir::{build, parameters};
use crate::http::Route;
use crate::http::access::{self, Person, Role, Who, now_ms};
use crate::http::asked::Asked;
use crate::http::body::{self, Kind, Limits};
use crate::http::error::{FHIR_JSON, Refusal};
use crate::http::openapi::{Answer, Parameter, Says};
use crate::issue::{Code, Issue};
use crate::pipeline::notify::{self, Hosts};
use crate::store::StoreError;
use crate::store::subscriptions::{self, Status, Subscription};

/// Subscriptions of one site; each costs a row for every event.
const PER_SITE: usize = 50;
/// Largest Subscription, bytes.
const BYTES_MAX: usize = 64 << 10;
/// Events that `$events` answers at once, and at most.
const EVENTS_MAX: usize = 1_000;

const MADE: &[Answer] = &[
    Answer::json(200, FHIR, "Resource", "the Subscription as it stands; header values are not shown"),
    Answer::json(201, FHIR, "Resource", "taken; a handshake follows"),
    Answer::json(400, FHIR, "OperationOutcome", "not JSON, not FHIR, or not a Subscription"),
    Answer::json(404, FHIR, "OperationOutcome", "unknown site or Subscription"),
    Answer::json(408, FHIR, "OperationOutcome", "the body did not arrive in time"),
    Answer::json(409, FHIR, "OperationOutcome", "this site has as many subscriptions as it may"),
    Answer::json(412, FHIR, "OperationOutcome", "another version than If-Match names"),
    Answer::json(413, FHIR, "OperationOutcome", "too large"),
    Answer::json(415, FHIR, "OperationOutcome", "another content type or encoding"),
    Answer::json(422, FHIR, "OperationOutcome", "a topic, filter, channel or endpoint that is not served"),
    Answer::json(503, FHIR, "OperationOutcome", "come again after Retry-After"),
];

const ASKED: &[Answer] = &[
    Answer::json(200, FHIR, "Resource", "what was asked for"),
    Answer::json(400, FHIR, "OperationOutcome", "a parameter that is not served, or not as described"),
    Answer::json(404, FHIR, "OperationOutcome", "unknown site or Subscription"),
    Answer::json(503, FHIR, "OperationOutcome", "come again after Retry-After"),
];

const BODY_REFUSED: &[Answer] = &[
    Answer::json(408, FHIR, "OperationOutcome", "the body did not arrive in time"),
    Answer::json(413, FHIR, "OperationOutcome", "too large"),
    Answer::json(415, FHIR, "OperationOutcome", "another content type or encoding"),
    Answer::json(422, FHIR, "OperationOutcome", "not Parameters with plain values"),
];

const SEARCH: &[Parameter] = &[
    Parameter::query("_id", r#"{"type":"string"}"#, "resource id"),
    Parameter::query("status", r#"{"type":"string"}"#, "requested, active, error, off; comma-separated"),
    Parameter::query("url", r#"{"type":"string"}"#, "endpoint"),
    Parameter::query("criteria", r#"{"type":"string"}"#, "the topic"),
];

const STATUS: &[Parameter] = &[
    Parameter::query("id", r#"{"type":"string"}"#, "ids, comma-separated; none means all of this token's"),
    Parameter::query("status", r#"{"type":"string"}"#, "requested, active, error, off; comma-separated"),
];

const EVENTS: &[Parameter] = &[
    Parameter::query("eventsSinceNumber", r#"{"type":"integer","minimum":1}"#, "first event, included; without it from the first"),
    Parameter::query(
        "eventsUntilNumber",
        r#"{"type":"integer","minimum":1}"#,
        "last event, included; without it up to the newest; at most 1000 at once",
    ),
    Parameter::query("content", r#"{"enum":["empty","id-only","full-resource"]}"#, "as the Subscription asks, where it is left out"),
];

const IF_MATCH: &[Parameter] = &[Parameter::header("If-Match", r#"{"type":"string"}"#, "W/\"version\" that is to be changed")];

pub fn routes() -> Vec<Route> {
    const MEDIA: &[&str] = &[FHIR, "application/json"];
    let route = |method, path, says, mount| Route::described(method, path, Who::Ehr, says, mount);
    let posted = |path, summary, mount| {
        let answers: Vec<Answer> = ASKED.iter().chain(BODY_REFUSED).copied().collect();
        route(Method::POST, path, Says::new(summary, &answers).takes(MEDIA, "Resource"), mount)
    };
    vec![
        route(
            Method::POST,
            "/fhir/{site}/Subscription",
            Says::new("Subscribes to what may be told of subjects", MADE).takes(MEDIA, "Resource"),
            || web::post().to(create),
        ),
        route(Method::GET, "/fhir/{site}/Subscription", Says::new("This token's subscriptions", ASKED).asks(SEARCH), || web::get().to(search)),
        route(Method::GET, "/fhir/{site}/Subscription/$status", Says::new("Where subscriptions stand", ASKED).asks(STATUS), || {
            web::get().to(status_of_type)
        }),
        posted("/fhir/{site}/Subscription/$status", "Where subscriptions stand", || web::post().to(status_of_type)),
        route(Method::GET, "/fhir/{site}/Subscription/{id}", Says::new("One subscription, without its secrets", ASKED), || web::get().to(read)),
        route(
            Method::PUT,
            "/fhir/{site}/Subscription/{id}",
            Says::new("Changes a subscription, ends it (off), or begins again after an error (requested)", MADE)
                .takes(MEDIA, "Resource")
                .asks(IF_MATCH),
            || web::put().to(update),
        ),
        route(Method::DELETE, "/fhir/{site}/Subscription/{id}", Says::new("Ends a subscription and forgets its events", ASKED), || {
            web::delete().to(delete)
        }),
        route(Method::GET, "/fhir/{site}/Subscription/{id}/$status", Says::new("Where one subscription stands", ASKED), || {
            web::get().to(status_of_instance)
        }),
        posted("/fhir/{site}/Subscription/{id}/$status", "Where one subscription stands", || web::post().to(status_of_instance)),
        route(
            Method::GET,
            "/fhir/{site}/Subscription/{id}/$events",
            Says::new("Events by their numbers, for whoever missed some", ASKED).asks(EVENTS),
            || web::get().to(events),
        ),
        posted("/fhir/{site}/Subscription/{id}/$events", "Events by their numbers, for whoever missed some", || web::post().to(events)),
    ]
}

/// What an operation is asked with: by GET its query, by POST a Parameters resource.
struct Operands(Asked);

impl FromRequest for Operands {
    type Error = Refusal;
    type Future = Pin<Box<dyn Future<Output = Result<Operands, Refusal>>>>;

    fn from_request(request: &HttpRequest, payload: &mut actix_web::dev::Payload) -> Self::Future {
        let (query, body) = (Asked::extract(request).into_inner(), web::Payload::from_request(request, payload));
        let request = request.clone();
        Box::pin(async move {
            let query = query?;
            if request.method() != Method::POST {
                return Ok(Operands(query));
            }
            query.only(&[], &["_format", "_pretty"])?;
            let body = body.await.expect("a payload is handed over as it is");
            let whole = body::read_whole(&request, body, BYTES_MAX, &configured::<Limits>(&request)).await?;
            if whole.bytes.is_empty() {
                return Ok(Operands(query));
            }
            if body::kind(&request)? == Kind::Ndjson {
                return Err(ndjson());
            }
            Ok(Operands(Asked::of(parameters::read(&whole.bytes).map_err(Refusal::rejected)?)?))
        })
    }
}

fn ndjson() -> Refusal {
    Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "NDJSON is not one resource", "send application/fhir+json")
}

fn no_such_subscription() -> Refusal {
    Refusal::not_found("this token has no such Subscription", "GET /fhir/{site}/Subscription lists this token's")
}

fn another_version() -> Refusal {
    Refusal::new(StatusCode::PRECONDITION_FAILED, "the Subscription has another version by now", "read it, then send it again")
}

/// Whose subscriptions somebody sees; `None`: all.
fn scope(person: &Person) -> Option<String> {
    match person.role {
        Role::Admin => None,
        Role::Feed | Role::Screener | Role::Ehr => Some(person.name.clone()),
    }
}

async fn find(reader: &Reader, id: &str) -> Result<Subscription, Refusal> {
    let (asked, scope) = ((reader.site.clone(), id.to_owned()), scope(&reader.person));
    let found = reader.store().read(move |tx| subscriptions::get(tx, &asked.0, &asked.1)).await?;
    found.filter(|found| scope.is_none_or(|who| who == found.who)).ok_or_else(no_such_subscription)
}

/// Reads what was sent and holds it against this site. `before` knows the header values that were not sent again.
async fn taken(reader: &Reader, request: &HttpRequest, payload: web::Payload, before: Option<&Wanted>) -> Result<subscription::Asked, Refusal> {
    let (pipeline, site) = (&reader.pipeline, reader.site.as_str());
    if body::kind(request)? == Kind::Ndjson {
        return Err(ndjson());
    }
    let whole = body::read_whole(request, payload, BYTES_MAX, &configured::<Limits>(request)).await?;
    let mut asked = subscription::read(&whole.bytes).map_err(Refusal::rejected)?;
    let mut issues = Vec::new();
    let studies = pipeline.catalogue.studies_of_site.get(site).map(Vec::as_slice).unwrap_or_default();
    for (index, filter) in asked.wanted.filters.iter().enumerate() {
        if !filter.studies.iter().all(|study| studies.iter().any(|known| known.id == *study)) {
            issues.push(Issue::new(Code::FilterUnknown, format!("Subscription.criteria.extension[{index}]")).with_detail("studies of this site"));
        }
    }
    let receiver = pipeline.receivers.get(site);
    if receiver.and_then(|receiver| notify::allowed(&configured::<Hosts>(request), receiver, &asked.wanted.endpoint)).is_none() {
        issues.push(Issue::new(Code::EndpointNotAllowed, "Subscription.channel.endpoint"));
    }
    for (name, value) in asked.wanted.headers.iter_mut().filter(|(_, value)| value == KEPT) {
        match before.and_then(|before| before.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name))) {
            Some((_, kept)) => value.clone_from(kept),
            None => issues.push(Issue::new(Code::ChannelUnsupported, "Subscription.channel.header").with_detail("no former value is kept")),
        }
    }
    if issues.is_empty() { Ok(asked) } else { Err(Refusal::rejected(issues)) }
}

async fn create(reader: Reader, request: HttpRequest, payload: web::Payload) -> Result<HttpResponse, Refusal> {
    let asked = taken(&reader, &request, payload, None).await?;
    let status = if asked.is_off { Status::Off } else { Status::Requested };
    let (at, id, who) = (reader.site.clone(), notify::uuid(), reader.person.name.clone());
    let made = reader
        .store()
        .write(move |tx| {
            if PER_SITE <= subscriptions::list(tx, &at, None)?.len() {
                return Ok(None);
            }
            subscriptions::create(tx, &at, &id, &who, status, &asked.wanted, now_ms())?;
            subscriptions::get(tx, &at, &id)
        })
        .await?;
    let made = made.ok_or_else(|| Refusal::conflict("this site has as many subscriptions as it may", "DELETE one that nobody needs"))?;
    tracing::info!(site = reader.site, subscription = made.id, who = made.who, "subscribed");
    let location = format!("{}/Subscription/{}", reader.base, made.id);
    shown(&made, StatusCode::CREATED, Some(location))
}

async fn update(reader: Reader, path: Path<(String, String)>, request: HttpRequest, payload: web::Payload) -> Result<HttpResponse, Refusal> {
    let (site, id) = path.into_inner();
    let before = find(&reader, &id).await?;
    if request.headers().get(header::IF_MATCH).is_some_and(|version| version.as_bytes() != etag(&before.version.to_string()).as_bytes()) {
        return Err(another_version());
    }
    let asked = taken(&reader, &request, payload, Some(&before.wanted)).await?;
    if asked.id.as_deref() != Some(id.as_str()) {
        return Err(Refusal::rejected(vec![Issue::new(Code::InvalidId, "Subscription.id")]));
    }
    let status = if asked.is_off { Status::Off } else { Status::Requested };
    let changed = reader
        .store()
        .write(move |tx| {
            // Whoever was faster has changed what this was held against, header values among it.
            if subscriptions::get(tx, &site, &id)?.is_none_or(|now| now.version != before.version) {
                return Ok(None);
            }
            subscriptions::update(tx, &site, &id, status, &asked.wanted, now_ms())?;
            subscriptions::get(tx, &site, &id)
        })
        .await?;
    shown(&changed.ok_or_else(another_version)?, StatusCode::OK, None)
}

async fn delete(reader: Reader, path: Path<(String, String)>) -> Result<HttpResponse, Refusal> {
    let (site, id) = path.into_inner();
    find(&reader, &id).await?;
    tracing::info!(site, subscription = id, who = reader.person.name, "a subscription was deleted");
    reader.store().write(move |tx| subscriptions::delete(tx, &site, &id)).await?;
    let outcome = crate::http::error::Outcome::single("information", "informational", "the Subscription is gone, and its events");
    Ok(HttpResponse::Ok().content_type(FHIR_JSON).body(outcome.to_json()))
}

async fn read(reader: Reader, path: Path<(String, String)>) -> Result<HttpResponse, Refusal> {
    shown(&find(&reader, &path.1).await?, StatusCode::OK, None)
}

fn shown(of: &Subscription, status: StatusCode, location: Option<String>) -> Result<HttpResponse, Refusal> {
    let mut answer = HttpResponse::build(status);
    answer.insert_header((header::ETAG, etag(&of.version.to_string())));
    if let Some(location) = location {
        answer.insert_header((header::LOCATION, location));
    }
    Ok(answer.content_type(FHIR_JSON).body(resource(of)?))
}

/// The Subscription without what its headers hold.
fn resource(of: &Subscription) -> Result<Vec<u8>, build::BuildError> {
    let wanted = &of.wanted;
    build::subscription(&parts::Subscription {
        id: Some(of.id.clone()),
        version: Some(of.version.to_string()),
        last_updated: Some(notify::instant(of.updated_ms)),
        status: of.status.word().to_owned(),
        end: wanted.end.clone(),
        reason: wanted.reason.clone(),
        criteria: TOPIC.to_owned(),
        filters: wanted.filters.iter().map(|filter| filter.text.clone()).collect(),
        error: of.last_error.clone(),
        endpoint: wanted.endpoint.clone(),
        payload: Some("application/fhir+json".to_owned()),
        content: Some(wanted.content.word().to_owned()),
        heartbeat_s: wanted.heartbeat_s,
        timeout_s: wanted.timeout_s,
        max_count: wanted.max_count,
        headers: wanted.headers.iter().map(|(name, _)| format!("{name}: {KEPT}")).collect(),
        tells_deletes: false,
    })
}

/// Subscriptions that somebody sees, with these ids and statuses; empty means any.
async fn seen(reader: &Reader, ids: Option<&str>, statuses: Option<&str>) -> Result<Vec<Subscription>, Refusal> {
    let names = |text: Option<&str>| -> Vec<String> { text.map(|text| text.split(',').map(str::to_owned).collect()).unwrap_or_default() };
    let (ids, statuses) = (names(ids), names(statuses));
    if statuses.iter().any(|status| Status::from_word(status).is_none()) {
        return Err(Refusal::bad_request("status is not one a Subscription has", "use requested, active, error or off"));
    }
    let (site, scope) = (reader.site.clone(), scope(&reader.person));
    let all: Vec<Subscription> = reader.store().read(move |tx| subscriptions::list(tx, &site, scope.as_deref())).await?;
    let is_asked = |names: &[String], name: &str| names.is_empty() || names.iter().any(|asked| asked == name);
    Ok(all.into_iter().filter(|one| is_asked(&ids, &one.id) && is_asked(&statuses, one.status.word())).collect())
}

async fn search(reader: Reader, asked: Asked) -> Result<HttpResponse, Refusal> {
    asked.only(&["_id", "status", "url", "criteria"], &["_format", "_pretty"])?;
    let base = &reader.base;
    let found = seen(&reader, asked.get("_id"), asked.get("status")).await?;
    let is_asked = |one: &&Subscription| {
        asked.get("url").is_none_or(|url| url == one.wanted.endpoint) && asked.get("criteria").is_none_or(|topic| topic == TOPIC)
    };
    let entry =
        |one: &Subscription| -> Result<(String, Vec<u8>), build::BuildError> { Ok((format!("{base}/Subscription/{}", one.id), resource(one)?)) };
    searchset(found.iter().filter(is_asked).map(entry).collect::<Result<_, _>>()?)
}

/// A Bundle of all that was found, by full address.
fn searchset(found: Vec<(String, Vec<u8>)>) -> Result<HttpResponse, Refusal> {
    let total = u32::try_from(found.len()).ok();
    let entry = found.into_iter().map(|(full_url, resource)| BundleEntry {
        full_url: Some(full_url),
        resource: Some(resource),
        search_mode: Some("match".to_owned()),
        ..BundleEntry::default()
    });
    let bundle = Bundle { kind: "searchset".to_owned(), total, entry: entry.collect(), ..Bundle::default() };
    Ok(HttpResponse::Ok().content_type(FHIR_JSON).body(build::bundle(&bundle)?))
}

async fn status_of_type(reader: Reader, Operands(asked): Operands) -> Result<HttpResponse, Refusal> {
    asked.only(&["id", "status"], &["_format", "_pretty"])?;
    statuses(&reader.base, &seen(&reader, asked.get("id"), asked.get("status")).await?)
}

async fn status_of_instance(reader: Reader, path: Path<(String, String)>, Operands(asked): Operands) -> Result<HttpResponse, Refusal> {
    asked.only(&[], &["_format", "_pretty"])?;
    statuses(&reader.base, &[find(&reader, &path.1).await?])
}

fn statuses(base: &str, of: &[Subscription]) -> Result<HttpResponse, Refusal> {
    let entry = |one: &Subscription| {
        let (id, status) = notify::status(base, one, notification::Kind::QueryStatus, &[], Content::Empty)?;
        Ok((format!("urn:uuid:{id}"), status))
    };
    searchset(of.iter().map(entry).collect::<Result<_, build::BuildError>>()?)
}

async fn events(reader: Reader, path: Path<(String, String)>, Operands(asked): Operands) -> Result<HttpResponse, Refusal> {
    let (site, id) = path.into_inner();
    asked.only(&["eventsSinceNumber", "eventsUntilNumber", "content"], &["_format", "_pretty"])?;
    let number = |name: &'static str, default: i64| match asked.get(name) {
        None => Ok(default),
        Some(text) => text
            .parse::<i64>()
            .ok()
            .filter(|number| 0 <= *number)
            .ok_or_else(|| Refusal::bad_request(format!("{name} is not the number of an event"), "events are numbered from 1")),
    };
    let (first, last) = (number("eventsSinceNumber", 1)?, number("eventsUntilNumber", i64::MAX)?);
    let found = find(&reader, &id).await?;
    let content = match asked.get("content") {
        None => found.wanted.content,
        Some(word) => Content::from_word(word)
            .ok_or_else(|| Refusal::bad_request("content is not one of the backport's", "use empty, id-only or full-resource"))?,
    };
    let at = site.clone();
    let read = move |tx: &mut crate::store::Tx<'_>| -> Result<_, StoreError> { subscriptions::events(tx, &at, &id, first, last, EVENTS_MAX) };
    let events = reader.store().read(read).await?;
    if content != Content::Empty {
        let told = events.iter().map(|event| (event.now.study.clone(), event.now.subject.clone())).collect::<std::collections::BTreeSet<_>>();
        for (study, subject) in told {
            access::record(reader.store(), &reader.person, "events", &study, vec![(site.clone(), subject)]).await?;
        }
    }
    let bundle = notify::notification(&reader.base, &found, notification::Kind::QueryEvent, &events, content, now_ms())?;
    Ok(HttpResponse::Ok().content_type(FHIR_JSON).body(bundle))
}
