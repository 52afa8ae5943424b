//! A small FHIR endpoint that stands in for a hospital's EHR in the demo, and says so: create, update, delete, read,
//! versions, and search by a few parameters, with ETags and conditional requests. It keeps whatever is FHIR-shaped and
//! judges nothing; a real EHR is stricter. What it holds is replayed from one append-only file.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};

use crate::fhir::build::{self, parts};
use crate::fhir::edit::{self, Index};

/// Where it is mounted, without a slash at the end.
pub const BASE: &str = "/ehr/fhir";

/// What it says about itself in its CapabilityStatement.
const WHAT_IT_IS: &str =
    "A stand-in for a hospital's EHR, part of the nephrogate demo. It holds synthetic data, keeps whatever is FHIR-shaped and judges nothing.";

/// Types it says it keeps; it keeps any.
const TYPES: [&str; 8] = ["AdverseEvent", "Condition", "Flag", "Group", "Observation", "Patient", "ResearchStudy", "ResearchSubject"];

const PAGE: usize = 100;

/// One version of one resource; a line of the file.
#[derive(Clone, Serialize, Deserialize)]
struct Version {
    #[serde(rename = "type")]
    resource_type: String,
    id: String,
    version: u64,
    /// The resource as text; `None` for a DELETE.
    resource: Option<String>,
}

#[derive(Default)]
struct Held {
    /// All versions of each (type, id), oldest first.
    resources: BTreeMap<(String, String), Vec<Version>>,
    file: Option<File>,
    next_id: u64,
}

/// What the stand-in holds.
#[derive(Default)]
pub struct StandIn {
    held: Mutex<Held>,
}

impl StandIn {
    /// An endpoint that keeps its resources in a file; without one, in memory.
    pub fn open(path: Option<&Path>) -> io::Result<StandIn> {
        let mut held = Held::default();
        if let Some(path) = path {
            let file = OpenOptions::new().create(true).read(true).append(true).open(path)?;
            for line in BufReader::new(&file).lines() {
                // A line cut short by a kill was never acknowledged.
                if let Ok(version) = serde_json::from_str::<Version>(&line?) {
                    held.next_id += 1;
                    held.resources.entry((version.resource_type.clone(), version.id.clone())).or_default().push(version);
                }
            }
            held.file = Some(file);
        }
        Ok(StandIn { held: Mutex::new(held) })
    }

    /// Puts resources there under their own ids, as their hospital would have; those it holds already stay as they are.
    pub fn load(&self, resources: &[String]) -> io::Result<()> {
        let mut held = self.held();
        for resource in resources {
            let index = edit::index(resource).expect("a resource to load is a FHIR resource");
            let id = index.id.expect("a resource to load has an id");
            if held.newest(&index.resource_type, &id).is_none() {
                held.keep(&index.resource_type, &id, Some(resource))?;
            }
        }
        Ok(())
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // What it holds is valid after every statement, whoever panicked.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn newest(&self, resource_type: &str, id: &str) -> Option<&Version> {
        self.resources.get(&(resource_type.to_owned(), id.to_owned())).and_then(|versions| versions.last())
    }

    /// Appends a version, to the file first.
    fn keep(&mut self, resource_type: &str, id: &str, resource: Option<&str>) -> io::Result<Version> {
        let number = self.newest(resource_type, id).map_or(1, |newest| newest.version + 1);
        let now = jiff::Timestamp::from_millisecond(jiff::Timestamp::now().as_millisecond()).expect("the clock is within range");
        let version = Version {
            resource_type: resource_type.to_owned(),
            id: id.to_owned(),
            version: number,
            resource: resource.map(|resource| edit::stamped(resource, id, number, &now.to_string())),
        };
        if let Some(file) = &mut self.file {
            let mut line = serde_json::to_string(&version).expect("a version is plain data");
            line.push('\n');
            file.write_all(line.as_bytes())?;
        }
        self.resources.entry((resource_type.to_owned(), id.to_owned())).or_default().push(version.clone());
        Ok(version)
    }

    /// The newest versions that match all parameters, in order of type and id.
    fn matching(&self, resource_type: &str, query: &[(String, String)]) -> Result<Vec<&Version>, String> {
        let mut found = Vec::new();
        for ((kind, _), versions) in &self.resources {
            let Some(newest) = versions.last().filter(|_| kind == resource_type) else { continue };
            let Some(index) = newest.resource.as_deref().and_then(edit::index) else { continue };
            let mut is_match = true;
            for (name, value) in query {
                is_match &= matches(&index, name, value)?;
            }
            if is_match {
                found.push(newest);
            }
        }
        Ok(found)
    }
}

/// Whether a resource matches one search parameter; a parameter that is not known is an error, never ignored.
fn matches(index: &Index, name: &str, value: &str) -> Result<bool, String> {
    let token = |pairs: &[(String, String)]| match value.split_once('|') {
        Some((system, code)) => pairs.iter().any(|(s, c)| s == system && (code.is_empty() || c == code)),
        None => pairs.iter().any(|(_, c)| c == value),
    };
    let reference = |elements: &[&str]| {
        index.references.iter().any(|(element, target)| {
            elements.contains(&element.as_str()) && (target == value || target.rsplit_once('/').is_some_and(|(_, id)| id == value))
        })
    };
    Ok(match name {
        "_id" => value.split(',').any(|id| index.id.as_deref() == Some(id)),
        "identifier" => token(&index.identifiers),
        "status" => value.split(',').any(|status| index.status.as_deref() == Some(status)),
        "code" | "category" => token(&index.codes),
        "_security" => token(&index.security),
        "_tag" => token(&index.tags),
        "subject" | "patient" => reference(&["subject", "individual", "patient"]),
        "individual" => reference(&["individual"]),
        "study" => reference(&["study"]),
        "_count" | "_offset" | "_summary" | "_format" | "_pretty" => true,
        _ => return Err(format!("this stand-in does not search by {name}")),
    })
}

/// Mounts the endpoint below [`BASE`]; needs a `web::Data<StandIn>`.
pub fn configure(service: &mut web::ServiceConfig) {
    service.service(
        web::scope(BASE)
            .app_data(web::PayloadConfig::new(8 << 20))
            .route("/metadata", web::get().to(metadata))
            .route("/{type}", web::get().to(search))
            .route("/{type}", web::post().to(create))
            .route("/{type}/{id}", web::get().to(read))
            .route("/{type}/{id}", web::put().to(update))
            .route("/{type}/{id}", web::delete().to(delete))
            .route("/{type}/{id}/_history/{version}", web::get().to(read_version)),
    );
}

async fn metadata(request: HttpRequest) -> HttpResponse {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<String>>();
    let parameter = |(name, kind): (&str, &str)| parts::SearchParameter { name: name.to_owned(), kind: kind.to_owned(), documentation: None };
    let parameters =
        [("_id", "token"), ("identifier", "token"), ("status", "token"), ("subject", "reference"), ("_security", "token"), ("_tag", "token")];
    let statement = parts::CapabilityStatement {
        date: "2026-11-22".to_owned(),
        software_name: "nephrogate stand-in EHR".to_owned(),
        software_version: env!("CARGO_PKG_VERSION").to_owned(),
        description: WHAT_IT_IS.to_owned(),
        url: base_of(&request),
        resources: TYPES
            .iter()
            .map(|kind| parts::ServedResource {
                resource_type: (*kind).to_owned(),
                interactions: words(&["read", "vread", "create", "update", "delete", "search-type"]),
                search_parameters: parameters.into_iter().map(parameter).collect(),
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    };
    match build::capability_statement(&statement) {
        Ok(body) => fhir(StatusCode::OK).body(body),
        Err(error) => refused(StatusCode::INTERNAL_SERVER_ERROR, "exception", &error.to_string()),
    }
}

async fn search(
    request: HttpRequest,
    stand_in: web::Data<StandIn>,
    kind: web::Path<String>,
    query: web::Query<Vec<(String, String)>>,
) -> HttpResponse {
    let held = stand_in.held();
    let found = match held.matching(&kind, &query) {
        Ok(found) => found,
        Err(why) => return refused(StatusCode::BAD_REQUEST, "not-supported", &why),
    };
    let number = |name: &str| query.iter().find(|(key, _)| key == name).and_then(|(_, value)| value.parse::<usize>().ok());
    let (count, offset) = (number("_count").unwrap_or(PAGE).clamp(1, 1_000), number("_offset").unwrap_or_default());
    let is_count_only = query.iter().any(|(name, value)| name == "_summary" && value == "count");
    let base = base_of(&request);
    let page = found.iter().skip(offset).take(if is_count_only { 0 } else { count });
    let entry = page.map(|version| parts::BundleEntry {
        full_url: Some(format!("{base}/{}/{}", version.resource_type, version.id)),
        resource: version.resource.clone().map(String::into_bytes),
        search_mode: Some("match".to_owned()),
        request: None,
        response: None,
    });
    let mut bundle =
        parts::Bundle { kind: "searchset".to_owned(), total: u32::try_from(found.len()).ok(), entry: entry.collect(), ..Default::default() };
    if !is_count_only && offset + count < found.len() {
        let kept = query.iter().filter(|(name, _)| !matches!(name.as_str(), "_offset" | "_count"));
        let mut url = url_of(&base, &kind);
        for (name, value) in kept {
            url.push_str(&format!("{}={}&", encoded(name), encoded(value)));
        }
        url.push_str(&format!("_count={count}&_offset={}", offset + count));
        bundle.link.push(parts::BundleLink { relation: "next".to_owned(), url });
    }
    match build::bundle(&bundle) {
        Ok(body) => fhir(StatusCode::OK).body(body),
        Err(error) => refused(StatusCode::INTERNAL_SERVER_ERROR, "exception", &error.to_string()),
    }
}

async fn create(request: HttpRequest, stand_in: web::Data<StandIn>, kind: web::Path<String>, body: String) -> HttpResponse {
    let mut held = stand_in.held();
    if let Some(why) = fault(&kind, None, &body) {
        return refused(StatusCode::BAD_REQUEST, "structure", why);
    }
    if let Some(condition) = request.headers().get("If-None-Exist").and_then(|value| value.to_str().ok()) {
        let query = condition.split('&').filter_map(|pair| pair.split_once('=')).map(|(name, value)| (name.to_owned(), value.to_owned()));
        match held.matching(&kind, &query.collect::<Vec<_>>()) {
            Ok(found) => match found.as_slice() {
                [] => {}
                [one] => return answered(StatusCode::OK, &base_of(&request), one),
                _ => return refused(StatusCode::PRECONDITION_FAILED, "multiple-matches", "several resources match If-None-Exist"),
            },
            Err(why) => return refused(StatusCode::BAD_REQUEST, "not-supported", &why),
        }
    }
    held.next_id += 1;
    let id = format!("ehr-{}", held.next_id);
    kept(&request, StatusCode::CREATED, held.keep(&kind, &id, Some(&body)))
}

async fn read(request: HttpRequest, stand_in: web::Data<StandIn>, path: web::Path<(String, String)>) -> HttpResponse {
    match stand_in.held().newest(&path.0, &path.1) {
        Some(version) if version.resource.is_some() => answered(StatusCode::OK, &base_of(&request), version),
        Some(_) => refused(StatusCode::GONE, "deleted", "the resource was deleted"),
        None => refused(StatusCode::NOT_FOUND, "not-found", "no such resource"),
    }
}

async fn read_version(request: HttpRequest, stand_in: web::Data<StandIn>, path: web::Path<(String, String, u64)>) -> HttpResponse {
    let (kind, id, number) = path.into_inner();
    let held = stand_in.held();
    let version = held.resources.get(&(kind, id)).and_then(|versions| versions.iter().find(|version| version.version == number));
    match version.filter(|version| version.resource.is_some()) {
        Some(version) => answered(StatusCode::OK, &base_of(&request), version),
        None => refused(StatusCode::NOT_FOUND, "not-found", "no such version"),
    }
}

async fn update(request: HttpRequest, stand_in: web::Data<StandIn>, path: web::Path<(String, String)>, body: String) -> HttpResponse {
    let (kind, id) = path.into_inner();
    if let Some(why) = fault(&kind, Some(&id), &body) {
        return refused(StatusCode::BAD_REQUEST, "structure", why);
    }
    let mut held = stand_in.held();
    if let Some(answer) = conflict(&request, held.newest(&kind, &id)) {
        return answer;
    }
    let is_new = held.newest(&kind, &id).is_none_or(|newest| newest.resource.is_none());
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    kept(&request, status, held.keep(&kind, &id, Some(&body)))
}

async fn delete(request: HttpRequest, stand_in: web::Data<StandIn>, path: web::Path<(String, String)>) -> HttpResponse {
    let mut held = stand_in.held();
    if let Some(answer) = conflict(&request, held.newest(&path.0, &path.1)) {
        return answer;
    }
    if held.newest(&path.0, &path.1).is_some_and(|newest| newest.resource.is_some())
        && let Err(error) = held.keep(&path.0, &path.1, None)
    {
        return refused(StatusCode::INSUFFICIENT_STORAGE, "no-store", &error.to_string());
    }
    fhir(StatusCode::NO_CONTENT).finish()
}

/// 412 where `If-Match` names another version than the newest.
fn conflict(request: &HttpRequest, newest: Option<&Version>) -> Option<HttpResponse> {
    let asked = request.headers().get(header::IF_MATCH)?.to_str().unwrap_or_default().trim_start_matches("W/").trim_matches('"').to_owned();
    let is_newest = newest.is_some_and(|newest| newest.version.to_string() == asked);
    (!is_newest).then(|| refused(StatusCode::PRECONDITION_FAILED, "conflict", "If-Match names another version"))
}

/// Why a body is not a FHIR-shaped resource of this type, with this id where the address names one; `None` when it is.
fn fault(kind: &str, id: Option<&str>, body: &str) -> Option<&'static str> {
    let Ok(resource) = crate::fhir::RawResource::parse(body.as_bytes()) else { return Some("not one FHIR resource in JSON") };
    if resource.resource_type != kind {
        return Some("resourceType is not the type of this address");
    }
    id.filter(|id| resource.id != Some(id)).map(|_| "the id is not the id of this address")
}

fn kept(request: &HttpRequest, status: StatusCode, version: io::Result<Version>) -> HttpResponse {
    match version {
        Ok(version) => answered(status, &base_of(request), &version),
        Err(error) => refused(StatusCode::INSUFFICIENT_STORAGE, "no-store", &error.to_string()),
    }
}

fn answered(status: StatusCode, base: &str, version: &Version) -> HttpResponse {
    fhir(status)
        .insert_header((header::ETAG, format!("W/\"{}\"", version.version)))
        .insert_header((header::LOCATION, format!("{base}/{}/{}/_history/{}", version.resource_type, version.id, version.version)))
        .body(version.resource.clone().unwrap_or_default())
}

fn refused(status: StatusCode, code: &str, why: &str) -> HttpResponse {
    let issue = parts::OutcomeIssue { severity: "error".to_owned(), code: code.to_owned(), diagnostics: Some(why.to_owned()), ..Default::default() };
    fhir(status).body(build::operation_outcome(&[issue]).unwrap_or_default())
}

fn fhir(status: StatusCode) -> actix_web::HttpResponseBuilder {
    let mut answer = HttpResponse::build(status);
    answer.insert_header((header::CONTENT_TYPE, "application/fhir+json; charset=utf-8"));
    answer
}

fn base_of(request: &HttpRequest) -> String {
    let connection = request.connection_info();
    format!("{}://{}{BASE}", connection.scheme(), connection.host())
}

fn url_of(base: &str, kind: &str) -> String {
    format!("{base}/{kind}?")
}

/// Percent-encoding of a query word.
fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
