//! Versions of our ResearchSubjects, for whoever polls: what changed since a time, what a subject's part in a study was
//! before. A hospital's EHR sees what it may know, everybody else the screening list; each has versions of its own.

use std::collections::BTreeSet;

use actix_web::HttpResponse;
use actix_web::http::{StatusCode, header};
use actix_web::web::Path;

use super::read::{COUNT, COUNT_MAX, Page, no_such_resource, no_such_type, patient_id, studies_at};
use super::{FHIR, Reader, etag};
use crate::catalogue::Catalogue;
use crate::clinical::date::PartialDate;
use crate::fhir::build;
use crate::fhir::build::parts::{Bundle, BundleEntry, BundleLink, EntryResponse};
use crate::fhir::is_id;
use crate::fhir::subscription::RESEARCH_SUBJECT_STATUSES;
use crate::http::Route;
use crate::http::access::{self, Person, Role, Who};
use crate::http::asked::Asked;
use crate::http::error::{FHIR_JSON, Refusal};
use crate::http::openapi::{Answer, Parameter, Says};
use crate::pipeline::notify::{instant, research_subject};
use crate::store::Store;
use crate::store::versions::{self, Audience, Query, SubjectVersion};

const HISTORY: &[Answer] = &[
    Answer::json(200, FHIR, "Bundle", "versions, newest first, with self and next; what is no longer there is a DELETE"),
    Answer::json(400, FHIR, "OperationOutcome", "a parameter that is not served, or not as described"),
    Answer::json(404, FHIR, "OperationOutcome", "unknown site or id, or a type without versions"),
    Answer::json(503, FHIR, "OperationOutcome", "come again after Retry-After"),
];

const VREAD: &[Answer] = &[
    Answer::json(200, FHIR, "Resource", "the resource as it was"),
    Answer::json(404, FHIR, "OperationOutcome", "unknown site, id or version, or a type without versions"),
    Answer::json(410, FHIR, "OperationOutcome", "from this version on it is no longer there"),
    Answer::json(503, FHIR, "OperationOutcome", "come again after Retry-After"),
];

const PARAMETERS: &[Parameter] = &[
    Parameter::query("_since", r#"{"type":"string"}"#, "FHIR instant: versions from then on"),
    Parameter::query("_count", r#"{"type":"integer","minimum":1,"maximum":500}"#, "entries of a page"),
    Parameter::query("before", r#"{"type":"integer"}"#, "as the next link says"),
];

pub fn routes() -> Vec<Route> {
    let route = |path, says, mount| Route::described(actix_web::http::Method::GET, path, Who::Reader, says, mount);
    vec![
        route("/fhir/{site}/{type}/_history", Says::new("Versions of all ResearchSubjects", HISTORY).asks(PARAMETERS), || {
            actix_web::web::get().to(of_type)
        }),
        route("/fhir/{site}/{type}/{id}/_history", Says::new("Versions of one ResearchSubject", HISTORY).asks(PARAMETERS), || {
            actix_web::web::get().to(of_instance)
        }),
        route("/fhir/{site}/{type}/{id}/_history/{version}", Says::new("One version of a ResearchSubject", VREAD), || {
            actix_web::web::get().to(vread)
        }),
    ]
}

/// What somebody's view of subjects is.
pub fn audience(person: &Person) -> Audience {
    match person.role {
        Role::Ehr => Audience::Ehr,
        Role::Feed | Role::Screener | Role::Admin => Audience::List,
    }
}

/// The ResearchSubject as the EHR may know it.
pub async fn read_told(store: &Store, person: &Person, site: &str, id: &str) -> Result<HttpResponse, Refusal> {
    let asked = (site.to_owned(), id.to_owned());
    let newest = store.read(move |tx| versions::newest(tx, Audience::Ehr, &asked.0, &asked.1)).await?.ok_or_else(no_such_resource)?;
    one(store, person, site, &newest).await
}

async fn one(store: &Store, person: &Person, site: &str, version: &SubjectVersion) -> Result<HttpResponse, Refusal> {
    let Some(resource) = research_subject(version) else {
        return Err(Refusal::new(StatusCode::GONE, "it is no longer there", "its history says since when"));
    };
    access::record(store, person, "read ResearchSubject", &version.study, vec![(site.to_owned(), version.subject.clone())]).await?;
    Ok(HttpResponse::Ok().insert_header((header::ETAG, etag(&version.version.to_string()))).content_type(FHIR_JSON).body(resource))
}

/// A search for current versions, oldest change first: by time, or of the view of an EHR.
pub(super) async fn search(
    asked: &Asked,
    page: &Page,
    site: &str,
    person: &Person,
    store: &Store,
    catalogue: &Catalogue,
) -> Result<HttpResponse, Refusal> {
    let mut studies: Vec<String> = studies_at(catalogue, site).into_iter().map(|study| study.id.clone()).collect();
    if let Some(study) = asked.get("study") {
        studies.retain(|known| *known == study.strip_prefix("ResearchStudy/").unwrap_or(study));
    }
    let statuses: Vec<String> = asked.get("status").map(|statuses| statuses.split(',').map(str::to_owned).collect()).unwrap_or_default();
    if !statuses.iter().all(|status| RESEARCH_SUBJECT_STATUSES.contains(&status.as_str())) {
        return Err(Refusal::bad_request("status is not an R4 research-subject-status", "use candidate, screening, eligible, on-study and the like"));
    }
    let (from_ms, until_ms) = asked.get("_lastUpdated").map(range).transpose()?.unwrap_or_default();
    let query = Query {
        subject: patient_id(asked, &["patient", "individual"]).unwrap_or_default().to_owned(),
        resource: asked.get("_id").unwrap_or_default().to_owned(),
        from_ms,
        until_ms,
        after: number(asked, "after", 0)?,
        limit: page.count + 1,
        studies,
        statuses,
    };
    let is_nobody = query.studies.is_empty();
    let (at, audience) = (site.to_owned(), audience(person));
    let mut found = if is_nobody { Vec::new() } else { store.read(move |tx| versions::search(tx, audience, &at, &query)).await? };
    let has_more = page.count < found.len();
    found.truncate(page.count);
    let next = found.last().filter(|_| has_more).map(|last| vec![("after", last.version.to_string())]);
    record(store, person, site, "search ResearchSubject", &found).await?;
    let shown = found.iter().filter_map(|version| Some((version.resource.clone(), research_subject(version)?.into_bytes()))).collect();
    page.answer(asked, None, shown, next)
}

/// `ge2026-11-23T05:00:00Z` as the instants it means: not before, before.
pub(super) fn range(text: &str) -> Result<(Option<i64>, Option<i64>), Refusal> {
    let refuse = || Refusal::bad_request("this is not a date with a prefix", "send a FHIR date or instant after ge, gt, le, lt, eq or nothing");
    let (prefix, date) = match text.as_bytes() {
        [b'a'..=b'z', b'a'..=b'z', ..] => text.split_at(2),
        _ => ("eq", text),
    };
    let date = PartialDate::parse(date).map_err(|_| refuse())?;
    let after_ms = date.end_ms.saturating_add(1);
    match prefix {
        "eq" => Ok((Some(date.start_ms), Some(after_ms))),
        "ge" => Ok((Some(date.start_ms), None)),
        "gt" | "sa" => Ok((Some(after_ms), None)),
        "le" => Ok((None, Some(after_ms))),
        "lt" | "eb" => Ok((None, Some(date.start_ms))),
        _ => Err(refuse()),
    }
}

fn number(asked: &Asked, name: &'static str, default: i64) -> Result<i64, Refusal> {
    match asked.get(name) {
        None => Ok(default),
        Some(text) => text.parse().map_err(|_| Refusal::bad_request(format!("{name} is not as the next link says"), "begin anew without it")),
    }
}

async fn record(store: &Store, person: &Person, site: &str, action: &'static str, shown: &[SubjectVersion]) -> Result<(), Refusal> {
    let studies: BTreeSet<&str> = shown.iter().map(|version| version.study.as_str()).collect();
    for study in studies {
        let of_study = shown.iter().filter(|version| version.study == study);
        let seen: BTreeSet<(String, String)> = of_study.map(|version| (site.to_owned(), version.subject.clone())).collect();
        access::record(store, person, action, study, seen.into_iter().collect()).await?;
    }
    Ok(())
}

async fn of_type(reader: Reader, path: Path<(String, String)>, asked: Asked) -> Result<HttpResponse, Refusal> {
    has_versions(&path.1)?;
    history(&reader, "", &asked).await
}

async fn of_instance(reader: Reader, path: Path<(String, String, String)>, asked: Asked) -> Result<HttpResponse, Refusal> {
    let (_, resource_type, id) = path.into_inner();
    has_versions(&resource_type)?;
    if !is_id(&id) {
        return Err(no_such_resource());
    }
    history(&reader, &id, &asked).await
}

fn has_versions(resource_type: &str) -> Result<(), Refusal> {
    if resource_type == "ResearchSubject" { Ok(()) } else { Err(no_such_type()) }
}

/// Of one resource, or with an empty id of all.
async fn history(reader: &Reader, id: &str, asked: &Asked) -> Result<HttpResponse, Refusal> {
    asked.only(&["_since", "_count"], &["before", "_format", "_pretty"])?;
    let (site, person, store) = (reader.site.as_str(), &reader.person, reader.store());
    let base = format!("{}/ResearchSubject", reader.base);
    let since_ms = match asked.get("_since") {
        None => i64::MIN,
        Some(since) => {
            PartialDate::parse(since)
                .map_err(|_| Refusal::bad_request("_since is not an instant", "send a FHIR instant, such as 2026-11-23T05:00:00Z"))?
                .start_ms
        }
    };
    let count = asked.number("_count", COUNT)?.clamp(1, COUNT_MAX);
    let before = number(asked, "before", i64::MAX)?;
    let (at, of, audience) = (site.to_owned(), id.to_owned(), audience(person));
    let mut found = store.read(move |tx| versions::history(tx, audience, &at, &of, since_ms, before, count + 1)).await?;
    if found.is_empty() && !id.is_empty() && before == i64::MAX {
        let asked = (site.to_owned(), id.to_owned());
        store.read(move |tx| versions::newest(tx, audience, &asked.0, &asked.1)).await?.ok_or_else(no_such_resource)?;
    }
    let has_more = count < found.len();
    found.truncate(count);
    record(store, person, site, "history of ResearchSubject", &found).await?;
    let address = if id.is_empty() { format!("{base}/_history") } else { format!("{base}/{id}/_history") };
    let link = |relation: &str, before: Option<i64>| {
        let mut url = format!("{address}?_count={count}");
        if let Some(since) = asked.get("_since") {
            url.push_str(&format!("&_since={}", super::read::percent(since)));
        }
        if let Some(before) = before {
            url.push_str(&format!("&before={before}"));
        }
        BundleLink { relation: relation.to_owned(), url }
    };
    let mut links = vec![link("self", Some(before).filter(|before| *before != i64::MAX))];
    links.extend(found.last().filter(|_| has_more).map(|last| link("next", Some(last.version))));
    let bundle =
        Bundle { kind: "history".to_owned(), link: links, entry: found.iter().map(|version| entry(&base, version)).collect(), ..Bundle::default() };
    Ok(HttpResponse::Ok().content_type(FHIR_JSON).body(build::bundle(&bundle)?))
}

fn entry(base: &str, version: &SubjectVersion) -> BundleEntry {
    let resource = research_subject(version).map(String::into_bytes);
    let (method, status) = if resource.is_some() { ("PUT", "200") } else { ("DELETE", "204") };
    BundleEntry {
        full_url: Some(format!("{base}/{}", version.resource)),
        resource,
        request: Some((method.to_owned(), format!("ResearchSubject/{}", version.resource))),
        response: Some(EntryResponse {
            status: status.to_owned(),
            etag: Some(etag(&version.version.to_string())),
            last_modified: Some(instant(version.at_ms)),
            ..EntryResponse::default()
        }),
        ..BundleEntry::default()
    }
}

async fn vread(reader: Reader, path: Path<(String, String, String, String)>) -> Result<HttpResponse, Refusal> {
    let (_, resource_type, id, version) = path.into_inner();
    has_versions(&resource_type)?;
    let number: i64 = version.parse().map_err(|_| no_such_resource())?;
    let (at, audience) = (reader.site.clone(), audience(&reader.person));
    let found = reader.store().read(move |tx| versions::version(tx, audience, &at, number)).await?.filter(|found| found.resource == id);
    one(reader.store(), &reader.person, &reader.site, &found.ok_or_else(no_such_resource)?).await
}
