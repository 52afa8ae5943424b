//! What the FHIR door shows: the resources we mirror, byte for byte as received, and our own view of studies, subjects
//! and prescreened groups, built from the screening list. Each view of a subject's data is recorded.

use std::collections::BTreeSet;
use std::fmt::Write;

use actix_web::http::{Method, StatusCode, header};
use actix_web::web::{self, Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use serde::Deserialize;

use super::{FHIR, audit, capability, checked_type, etag, history, known_site, provenance};
use crate::catalogue::Catalogue;
use crate::clinical::fact::ResourceType;
use crate::fhir::build::BuildError;
use crate::fhir::build::parts::{self, Bundle, BundleEntry, BundleLink};
use crate::fhir::study_flagged::{self, Identity, Target};
use crate::fhir::subscription::RESEARCH_SUBJECT_STATUSES;
use crate::fhir::{build, edit, is_id, without_bom};
use crate::http::access::{self, Person, Role, Who};
use crate::http::asked::Asked;
use crate::http::error::{FHIR_JSON, Refusal};
use crate::http::openapi::{Answer, Parameter, Says};
use crate::http::{Links, Route};
use crate::pipeline::Pipeline;
use crate::pipeline::notify::instant;
use crate::rules::SubjectState;
use crate::store::screening::{ListQuery, ListRow, Sort};
use crate::store::versions::Audience;
use crate::store::{Store, StoreError, Tx, ledger, messages, screening, versions};
use crate::study::Study;
use crate::writeback::research_subject_status;

/// Entries of a page where `_count` says nothing, and at most.
pub(super) const COUNT: usize = 50;
pub(super) const COUNT_MAX: usize = 500;

const READ: &[Answer] = &[
    Answer::json(200, FHIR, "Resource", "the resource; what we mirror comes byte for byte as received"),
    Answer::json(404, FHIR, "OperationOutcome", "unknown site, type or id"),
    Answer::json(503, FHIR, "OperationOutcome", "come again after Retry-After"),
];

const SEARCHED: &[Answer] = &[
    Answer::json(200, FHIR, "Bundle", "a searchset with total, self and next"),
    Answer::json(400, FHIR, "OperationOutcome", "a search parameter that is not served; none is silently ignored"),
    Answer::json(404, FHIR, "OperationOutcome", "unknown site or type"),
    Answer::json(503, FHIR, "OperationOutcome", "come again after Retry-After"),
];

const METADATA: &[Answer] = &[
    Answer::json(200, FHIR, "Resource", "CapabilityStatement: exactly what is served"),
    Answer::json(404, FHIR, "OperationOutcome", "unknown site"),
];

const SEARCH: &[Parameter] = &[
    Parameter::query("patient", r#"{"type":"string"}"#, "Patient id or Patient/id; without it all patients, in order of ids and without a total"),
    Parameter::query("code", r#"{"type":"string"}"#, "Observation, Condition, Procedure: code, or system|code"),
    Parameter::query("study", r#"{"type":"string"}"#, "ResearchSubject: study id"),
    Parameter::query("status", r#"{"type":"string"}"#, "ResearchSubject: R4 status codes, comma-separated"),
    Parameter::query(
        "_lastUpdated",
        r#"{"type":"string"}"#,
        "ResearchSubject: date or instant after ge, gt, le, lt or nothing; then oldest change first and without a total",
    ),
    Parameter::query("target", r#"{"type":"string"}"#, "Provenance: ResearchSubject/id, or what was written to the EHR, such as Flag/id"),
    Parameter::query("date", r#"{"type":"string"}"#, "AuditEvent: date or instant after ge, gt, le, lt or nothing"),
    Parameter::query("agent", r#"{"type":"string"}"#, "AuditEvent: name of who looked"),
    Parameter::query("_id", r#"{"type":"string"}"#, "resource id"),
    Parameter::query("_count", r#"{"type":"integer","minimum":0,"maximum":500}"#, "entries of a page; 0 asks for the total alone"),
    Parameter::query("page", r#"{"type":"integer","minimum":0,"maximum":1000000}"#, "as the next link says"),
];

pub fn routes() -> Vec<Route> {
    vec![
        Route::described(Method::GET, "/fhir/{site}/metadata", Who::Anyone, Says::new("What this FHIR door serves", METADATA), || {
            web::get().to(metadata)
        }),
        Route::described(
            Method::GET,
            "/fhir/{site}/{type}",
            Who::Reader,
            Says::new("Searches what we mirror, our own view of studies and subjects, and why and by whom", SEARCHED).asks(SEARCH),
            || web::get().to(search),
        ),
        Route::described(Method::GET, "/fhir/{site}/{type}/{id}", Who::Reader, Says::new("Reads one resource", READ), || web::get().to(read)),
    ]
}

async fn metadata(path: Path<String>, request: HttpRequest, catalogue: Data<Catalogue>, links: Data<Links>) -> Result<HttpResponse, Refusal> {
    let site = path.into_inner();
    known_site(&catalogue, &site)?;
    Ok(HttpResponse::Ok().content_type(FHIR_JSON).body(capability::statement(&format!("{}/fhir/{site}", links.base(&request)))?))
}

pub(super) fn no_such_resource() -> Refusal {
    Refusal::not_found("nothing that stands is held under this id", "search for it, or push it first")
}

pub(super) fn no_such_type() -> Refusal {
    Refusal::not_found("this type is not served", "see metadata for what is served")
}

/// The types whose received bytes we show.
pub(super) fn mirrored(resource_type: &str) -> Option<ResourceType> {
    ResourceType::FHIR.into_iter().find(|kind| kind.word() == resource_type)
}

async fn read(path: Path<(String, String, String)>, person: Person, store: Data<Store>, catalogue: Data<Catalogue>) -> Result<HttpResponse, Refusal> {
    let (site, resource_type, id) = path.into_inner();
    known_site(&catalogue, &site)?;
    checked_type(&resource_type)?;
    if !is_id(&id) {
        return Err(no_such_resource());
    }
    if person.role == Role::Ehr {
        for_ehrs(&resource_type)?;
        if resource_type == "ResearchSubject" {
            return history::read_told(&store, &person, &site, &id).await;
        }
    }
    match resource_type.as_str() {
        "ResearchStudy" => {
            let study = studies_at(&catalogue, &site).into_iter().find(|study| study.id == id).ok_or_else(no_such_resource)?;
            Ok(resource(research_study(study)))
        }
        "ResearchSubject" => {
            // Ours first; else what the hospital pushed under its own id.
            let Some(row) = find_subject(&store, &catalogue, &site, &id).await? else {
                return as_received(&store, &person, site, resource_type, id).await;
            };
            access::record(&store, &person, "read ResearchSubject", &row.0.study, vec![(site.clone(), row.0.subject.clone())]).await?;
            let (_, version, shown) = versioned(&store, &site, vec![row]).await?.remove(0);
            let mut answer = HttpResponse::Ok();
            if let Some(version) = version {
                answer.insert_header((header::ETAG, etag(&version)));
            }
            Ok(answer.content_type(FHIR_JSON).body(shown))
        }
        "Group" => {
            let study = studies_at(&catalogue, &site).into_iter().find(|study| group_id(study) == id).ok_or_else(no_such_resource)?;
            let subjects = prescreened(&store, &site, &study.id).await?;
            access::record(&store, &person, "read Group", &study.id, subjects.iter().map(|subject| (site.clone(), subject.clone())).collect())
                .await?;
            Ok(resource(group(study, &subjects)?))
        }
        other if mirrored(other).is_some() => as_received(&store, &person, site, resource_type, id).await,
        _ => Err(no_such_type()),
    }
}

/// The newest standing version of a resource that we mirror, byte for byte.
async fn as_received(store: &Store, person: &Person, site: String, resource_type: String, id: String) -> Result<HttpResponse, Refusal> {
    let asked_site = site.clone();
    let message = store.read(move |tx| messages::newest(tx, &asked_site, &resource_type, &id)).await?.ok_or_else(no_such_resource)?;
    let body = message.body.ok_or_else(no_such_resource)?;
    access::record(store, person, "read FHIR", "", message.subject.iter().map(|subject| (site.clone(), subject.clone())).collect()).await?;
    let mut answer = HttpResponse::Ok();
    if let Some(version) = message.version.as_deref().filter(|version| is_id(version)) {
        answer.insert_header((header::ETAG, etag(version)));
    }
    Ok(answer.content_type(FHIR_JSON).body(body))
}

fn resource(bytes: Vec<u8>) -> HttpResponse {
    HttpResponse::Ok().content_type(FHIR_JSON).body(bytes)
}

async fn search(
    path: Path<(String, String)>,
    request: HttpRequest,
    asked: Asked,
    person: Person,
    pipeline: Data<Pipeline>,
    links: Data<Links>,
) -> Result<HttpResponse, Refusal> {
    let (site, resource_type) = path.into_inner();
    let (store, catalogue) = (&pipeline.store, &pipeline.catalogue);
    known_site(catalogue, &site)?;
    checked_type(&resource_type)?;
    if person.role == Role::Ehr {
        for_ehrs(&resource_type)?;
    }
    let base = format!("{}/fhir/{site}", links.base(&request));
    let page = Page::of(&asked, base.clone(), &resource_type)?;
    let search = Search { asked: &asked, page: &page, site: &site, person: &person, store };
    match resource_type.as_str() {
        "ResearchStudy" => {
            asked.only(&["_id"], PAGING)?;
            let studies: Vec<&Study> =
                studies_at(catalogue, &site).into_iter().filter(|study| asked.get("_id").is_none_or(|id| id == study.id)).collect();
            let shown = page.of_all(&studies).iter().map(|study| (study.id.clone(), research_study(study))).collect();
            page.answer(&asked, Some(studies.len()), shown, page.next_of(studies.len()))
        }
        "ResearchSubject" => {
            asked.only(&["study", "status", "patient", "individual", "_id", "_lastUpdated"], PAGING)?;
            if person.role == Role::Ehr || asked.get("_lastUpdated").is_some() {
                return history::search(&asked, &page, &site, &person, store, catalogue).await;
            }
            search.subjects(catalogue).await
        }
        "Provenance" => {
            asked.only(&["target"], PAGING)?;
            provenance::search(&pipeline, &asked, &page, &site, &person).await
        }
        "AuditEvent" => {
            if person.role != Role::Admin {
                return Err(Refusal::new(StatusCode::FORBIDDEN, "the record of who looked is for admins", "ask whoever runs this gateway"));
            }
            asked.only(&["date", "patient", "agent"], PAGING)?;
            audit::search(&pipeline, &asked, &page, &site, &base).await
        }
        other if mirrored(other).is_some() => {
            let served: &[&str] = match other {
                "Patient" => &["_id"],
                "AdverseEvent" => &["subject", "_id"],
                "MedicationAdministration" | "Encounter" => &["patient", "subject", "_id"],
                _ => &["patient", "subject", "code", "_id"],
            };
            asked.only(served, PAGING)?;
            search.mirrored(other).await
        }
        _ => Err(no_such_type()),
    }
}

/// Parameters of paging, and those that change nothing here.
const PAGING: &[&str] = &["_count", "page", "_format", "_pretty", "_total", "_totalMethod", "_summary", "of", "after"];

/// Which part of a result is asked for.
pub(super) struct Page {
    base: String,
    resource_type: String,
    /// 0 asks for the total alone.
    pub(super) count: usize,
    pub(super) page: usize,
}

impl Page {
    fn of(asked: &Asked, base: String, resource_type: &str) -> Result<Page, Refusal> {
        let count = match asked.number("_count", COUNT)? {
            _ if asked.get("_summary") == Some("count") => 0,
            count => count.min(COUNT_MAX),
        };
        Ok(Page { base, resource_type: resource_type.to_owned(), count, page: asked.number("page", 0)? })
    }

    fn of_all<'a, T>(&self, all: &'a [T]) -> &'a [T] {
        let start = self.page.saturating_mul(self.count).min(all.len());
        &all[start..(start + self.count).min(all.len())]
    }

    fn next_of(&self, total: usize) -> Option<Vec<(&'static str, String)>> {
        let has_more = self.count > 0 && self.page.saturating_add(1).saturating_mul(self.count) < total;
        has_more.then(|| vec![("page", (self.page + 1).to_string())])
    }

    /// A searchset; `next` replaces parameters of the address that was asked. The total is left out where not all was looked at.
    pub(super) fn answer(
        &self,
        asked: &Asked,
        total: Option<usize>,
        shown: Vec<(String, Vec<u8>)>,
        next: Option<Vec<(&'static str, String)>>,
    ) -> Result<HttpResponse, Refusal> {
        let mut link = vec![BundleLink { relation: "self".to_owned(), url: self.address(asked, &[]) }];
        if let Some(next) = next {
            link.push(BundleLink { relation: "next".to_owned(), url: self.address(asked, &next) });
        }
        let entry = shown
            .into_iter()
            .map(|(id, resource)| BundleEntry {
                full_url: Some(format!("{}/{}/{id}", self.base, self.resource_type)),
                resource: Some(resource),
                search_mode: Some("match".to_owned()),
                ..BundleEntry::default()
            })
            .collect();
        let total = total.map(|total| u32::try_from(total).unwrap_or(u32::MAX));
        let bundle = Bundle { kind: "searchset".to_owned(), total, link, entry, ..Bundle::default() };
        Ok(HttpResponse::Ok().content_type(FHIR_JSON).body(build::bundle(&bundle)?))
    }

    fn address(&self, asked: &Asked, changed: &[(&'static str, String)]) -> String {
        let mut pairs: Vec<(&str, &str)> = asked.pairs().filter(|(name, _)| !changed.iter().any(|(other, _)| other == name)).collect();
        pairs.extend(changed.iter().map(|(name, value)| (*name, value.as_str())));
        let query = pairs.iter().fold(String::new(), |mut text, (name, value)| {
            let _ = write!(text, "{}{}={}", if text.is_empty() { "?" } else { "&" }, percent(name), percent(value));
            text
        });
        format!("{}/{}{query}", self.base, self.resource_type)
    }
}

pub(super) fn percent(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'/' | b',') {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

/// `Patient/x` and `x` name the same patient here.
pub(super) fn patient_id<'a>(asked: &'a Asked, names: &[&str]) -> Option<&'a str> {
    let value = names.iter().find_map(|name| asked.get(name))?;
    Some(value.strip_prefix("Patient/").unwrap_or(value))
}

/// The one field of a received resource that searching by code needs.
#[derive(Deserialize)]
struct Coded<'a> {
    #[serde(borrow, default)]
    code: crate::fhir::view::CodeableConcept<'a>,
}

/// `code`, `system|code` or `|code` against the codings as received.
fn has_code(body: &[u8], asked: &str) -> bool {
    let Ok(coded) = serde_json::from_slice::<Coded<'_>>(without_bom(body)) else { return false };
    asked.split(',').any(|token| {
        let (system, code) = match token.split_once('|') {
            Some((system, code)) => (Some(system), code),
            None => (None, token),
        };
        coded.code.coding.iter().any(|coding| {
            let of = |text: &Option<crate::fhir::view::Text<'_>>| text.as_ref().map(|text| text.0.to_string()).unwrap_or_default();
            of(&coding.code) == code && system.is_none_or(|system| of(&coding.system) == system)
        })
    })
}

/// One search at one site: what is asked, which part of it, by whom.
#[derive(Clone, Copy)]
struct Search<'a> {
    asked: &'a Asked,
    page: &'a Page,
    site: &'a str,
    person: &'a Person,
    store: &'a Store,
}

impl Search<'_> {
    /// Resources of a type that we mirror.
    async fn mirrored(self, resource_type: &str) -> Result<HttpResponse, Refusal> {
        let Search { asked, page, site, person, store } = self;
        let id = asked.get("_id").map(str::to_owned);
        let patient = patient_id(asked, &["patient", "subject"]).map(str::to_owned);
        let code = asked.get("code").map(str::to_owned);
        let is_of_all = id.is_none() && patient.is_none();
        if is_of_all && page.count == 0 {
            return Err(Refusal::bad_request("over all patients nothing is counted", "add patient=, or leave _count=0 and _summary out"));
        }
        let (asked_site, asked_type, count, after) =
            (site.to_owned(), resource_type.to_owned(), page.count, asked.get("after").unwrap_or_default().to_owned());
        let found = store
            .read(move |tx| {
                let ids: BTreeSet<String> = match (&patient, &id) {
                    (None, None) => return found_after(tx, &asked_site, &asked_type, code.as_deref(), after, count),
                    (None, Some(id)) => id.split(',').map(str::to_owned).collect(),
                    (Some(patient), id) => {
                        ids_of(tx, &asked_site, &asked_type, patient)?.into_iter().filter(|held| id.as_ref().is_none_or(|id| id == held)).collect()
                    }
                };
                let mut found = Found::default();
                for id in ids {
                    found.messages.extend(standing(tx, &asked_site, &asked_type, &id, code.as_deref())?);
                }
                Ok(found)
            })
            .await?;
        let shown = if is_of_all { &found.messages[..] } else { page.of_all(&found.messages) };
        let seen: BTreeSet<(String, String)> = shown.iter().filter_map(|message| Some((site.to_owned(), message.subject.clone()?))).collect();
        access::record(store, person, "search FHIR", "", seen.into_iter().collect()).await?;
        let shown = shown.iter().filter_map(|message| Some((message.id.clone()?, without_bom(message.body.as_deref()?).to_vec()))).collect();
        if is_of_all {
            return page.answer(asked, None, shown, found.after.map(|after| vec![("after", after)]));
        }
        page.answer(asked, Some(found.messages.len()), shown, page.next_of(found.messages.len()))
    }

    async fn subjects(self, catalogue: &Catalogue) -> Result<HttpResponse, Refusal> {
        let Search { asked, page, site, store, .. } = self;
        let studies: Vec<String> = match asked.get("study") {
            Some(study) => vec![study.strip_prefix("ResearchStudy/").unwrap_or(study).to_owned()],
            None => studies_at(catalogue, site).iter().map(|study| study.id.clone()).collect(),
        };
        let states = states_of(asked.get("status"))?;
        let statuses: Option<Vec<String>> = asked.get("status").map(|statuses| statuses.split(',').map(str::to_owned).collect());
        if asked.get("patient").is_some() || asked.get("individual").is_some() || asked.get("_id").is_some() {
            return self.one_subject(catalogue, studies, statuses).await;
        }
        // A page shows the subjects of one study; `of` says which, and the next link leads through all of them.
        let of = asked.number("of", 0)?;
        let (count, at, asked_site) = (page.count, page.page, site.to_owned());
        let (total, rows, next) = store
            .read(move |tx| {
                let mut total = 0;
                let mut rows = Vec::new();
                let mut next = None;
                for (index, study) in studies.iter().enumerate() {
                    let query = ListQuery {
                        study: study.clone(),
                        site: Some(asked_site.clone()),
                        states: states.clone(),
                        sort: Sort::Subject,
                        page: if index == of { at } else { 0 },
                        limit: count.max(1),
                        ..ListQuery::default()
                    };
                    let list = screening::list(tx, &query)?;
                    let of_study = usize::try_from(list.total).unwrap_or(0);
                    total += of_study;
                    if count == 0 {
                        continue;
                    }
                    if index == of {
                        for row in list.rows {
                            rows.push(with_enrolment(tx, row)?);
                        }
                        if (at + 1) * count < of_study {
                            next = Some((index, at + 1));
                        }
                    } else if index > of && next.is_none() && of_study > 0 {
                        next = Some((index, 0));
                    }
                }
                Ok((total, rows, next))
            })
            .await?;
        let next = next.map(|(index, at)| vec![("of", index.to_string()), ("page", at.to_string())]);
        // Withdrawn before and after enrolment share a state, not a status.
        let rows: Vec<(ListRow, bool)> = rows.into_iter().filter(|(row, was)| has_status(statuses.as_deref(), row, *was)).collect();
        self.answer_subjects(total, rows, next).await
    }

    /// By its id or its patient.
    async fn one_subject(self, catalogue: &Catalogue, studies: Vec<String>, statuses: Option<Vec<String>>) -> Result<HttpResponse, Refusal> {
        let Search { asked, page, site, store, .. } = self;
        let mut rows = match asked.get("_id") {
            Some(id) => find_subject(store, catalogue, site, id).await?.into_iter().filter(|(row, _)| studies.contains(&row.study)).collect(),
            None => {
                let (subject, site) = (patient_id(asked, &["patient", "individual"]).unwrap_or_default().to_owned(), site.to_owned());
                store
                    .read(move |tx| {
                        let mut rows = Vec::new();
                        for study in &studies {
                            rows.extend(shown_card(tx, &site, &subject, study)?);
                        }
                        Ok(rows)
                    })
                    .await?
            }
        };
        if let Some(patient) = patient_id(asked, &["patient", "individual"]) {
            rows.retain(|(row, _)| row.subject == patient);
        }
        rows.retain(|(row, was)| has_status(statuses.as_deref(), row, *was));
        let total = rows.len();
        if page.count == 0 {
            rows.clear();
        }
        self.answer_subjects(total, rows, None).await
    }

    async fn answer_subjects(
        self,
        total: usize,
        rows: Vec<(ListRow, bool)>,
        next: Option<Vec<(&'static str, String)>>,
    ) -> Result<HttpResponse, Refusal> {
        let Search { asked, page, site, person, store } = self;
        let seen: BTreeSet<(String, String)> = rows.iter().map(|(row, _)| (site.to_owned(), row.subject.clone())).collect();
        access::record(store, person, "search ResearchSubject", asked.get("study").unwrap_or_default(), seen.into_iter().collect()).await?;
        let shown = versioned(store, site, rows).await?.into_iter().map(|(id, _, resource)| (id, resource)).collect();
        page.answer(asked, Some(total), shown, next)
    }
}

/// What a search found; `after` is where to go on, when there may be more.
#[derive(Default)]
struct Found {
    messages: Vec<messages::Message>,
    after: Option<String>,
}

/// Ids looked at for one page of a search over all patients; a page may be short, or empty, before the last one.
const SCAN_IDS: usize = 5_000;

/// One page over all patients, in order of ids.
fn found_after(tx: &mut Tx<'_>, site: &str, resource_type: &str, code: Option<&str>, after: String, count: usize) -> Result<Found, StoreError> {
    let ids = messages::resource_ids(tx, site, resource_type, &after, SCAN_IDS)?;
    let is_all = ids.len() < SCAN_IDS;
    let mut found = Found { messages: Vec::new(), after: ids.last().filter(|_| !is_all).cloned() };
    let last = ids.last().cloned();
    for id in ids {
        found.messages.extend(standing(tx, site, resource_type, &id, code)?);
        if found.messages.len() == count {
            if Some(&id) != last.as_ref() {
                found.after = Some(id);
            }
            break;
        }
    }
    Ok(found)
}

/// The newest standing version of a resource, where it carries the code that was asked for.
fn standing(tx: &mut Tx<'_>, site: &str, resource_type: &str, id: &str, code: Option<&str>) -> Result<Option<messages::Message>, StoreError> {
    let is_asked = |message: &messages::Message| message.body.as_deref().is_some_and(|body| code.is_none_or(|code| has_code(body, code)));
    Ok(messages::newest(tx, site, resource_type, id)?.filter(is_asked))
}

/// Ids of one type that gave facts about a patient, or about a record merged into it.
fn ids_of(tx: &mut Tx<'_>, site: &str, resource_type: &str, patient: &str) -> Result<BTreeSet<String>, StoreError> {
    let facts = ledger::facts(tx, site, patient)?.facts;
    Ok(facts.iter().filter(|fact| fact.source.resource_type.word() == resource_type).map(|fact| fact.source.id.to_string()).collect())
}

pub(super) fn studies_at<'a>(catalogue: &'a Catalogue, site: &str) -> Vec<&'a Study> {
    catalogue.studies_of_site.get(site).into_iter().flatten().map(|study| study.as_ref()).collect()
}

fn research_study(study: &Study) -> Vec<u8> {
    let identifiers: Vec<(&str, &str)> = study.registry.iter().map(|registry| (registry.system.as_str(), registry.value.as_str())).collect();
    let arm = |arm: &crate::study::Arm| (arm.name.clone(), format!("{} cells; {} subjects planned", arm.cells, arm.planned_subjects));
    let arms: Vec<(String, String)> = study.arms.iter().map(arm).collect();
    study_flagged::research_study(identity(&study.id, &identifiers), &study.title, &arms).into_bytes()
}

fn identity<'a>(id: &'a str, identifiers: &'a [(&'a str, &'a str)]) -> Identity<'a> {
    Identity { id: Some(id), identifiers, is_test: false }
}

/// Rows as ResearchSubjects: id, version, resource. A row that was judged before versions were kept has none until it is judged again.
async fn versioned(store: &Store, site: &str, rows: Vec<(ListRow, bool)>) -> Result<Vec<(String, Option<String>, Vec<u8>)>, Refusal> {
    let ids: Vec<String> = rows.iter().map(|(row, _)| versions::resource_id(&row.study, &row.subject)).collect();
    let (asked, at) = (ids.clone(), site.to_owned());
    let newest = store.read(move |tx| asked.iter().map(|id| versions::newest(tx, Audience::List, &at, id)).collect::<Result<Vec<_>, _>>()).await?;
    let shown = rows.iter().zip(ids).zip(newest).map(|(((row, was_enrolled), id), newest)| {
        let plain = research_subject(row, *was_enrolled);
        let resource = match &newest {
            Some(newest) => edit::stamped(&plain, &id, u64::try_from(newest.version).unwrap_or_default(), &instant(newest.at_ms)),
            None => plain,
        };
        (id, newest.map(|newest| newest.version.to_string()), resource.into_bytes())
    });
    Ok(shown.collect())
}

/// What an EHR may ask for; what else is here is for people, or its own.
fn for_ehrs(resource_type: &str) -> Result<(), Refusal> {
    match resource_type {
        "ResearchStudy" | "ResearchSubject" | "Provenance" => Ok(()),
        _ => Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "this type is not shown to EHRs",
            "ask for ResearchStudy, ResearchSubject, Provenance or Subscription",
        )),
    }
}

fn research_subject(row: &ListRow, was_enrolled: bool) -> String {
    let id = versions::resource_id(&row.study, &row.subject);
    let status = r4_status(&row.state, was_enrolled).unwrap_or("candidate");
    let study = format!("ResearchStudy/{}", row.study);
    study_flagged::research_subject(identity(&id, &[]), status, Target::Literal(&study), &format!("Patient/{}", row.subject), None)
}

/// The states of who is a subject of a study: all but `none`.
fn subject_states() -> impl Iterator<Item = SubjectState> {
    SubjectState::ALL.into_iter().filter(|state| *state != SubjectState::None)
}

/// R4 research-subject-status of a state word (rulings.md 19); `None` for `none`.
fn r4_status(state: &str, was_enrolled: bool) -> Option<&'static str> {
    subject_states().find(|known| known.word() == state).and_then(|state| research_subject_status(state, was_enrolled))
}

/// The state words that may have one of these R4 statuses.
fn states_of(statuses: Option<&str>) -> Result<Vec<String>, Refusal> {
    let Some(statuses) = statuses else { return Ok(subject_states().map(|state| state.word().to_owned()).collect()) };
    let asked: Vec<&str> = statuses.split(',').collect();
    if asked.iter().any(|status| !RESEARCH_SUBJECT_STATUSES.contains(status)) {
        return Err(Refusal::bad_request(
            "status is not an R4 research-subject-status",
            "use candidate, screening, eligible, on-study, follow-up, off-study, withdrawn or ineligible",
        ));
    }
    let may_be =
        |state: SubjectState| [false, true].into_iter().any(|was| research_subject_status(state, was).is_some_and(|status| asked.contains(&status)));
    Ok(subject_states().filter(|state| may_be(*state)).map(|state| state.word().to_owned()).collect())
}

/// A row with whether the subject was ever enrolled, which decides between two statuses of who withdrew.
fn with_enrolment(tx: &mut Tx<'_>, row: ListRow) -> Result<(ListRow, bool), StoreError> {
    let needs_card = [SubjectState::Withdrawn, SubjectState::Deceased].iter().any(|state| state.word() == row.state);
    let was_enrolled = needs_card && screening::card(tx, &row.site, &row.subject, &row.study)?.is_some_and(|card| card.assessment.was_enrolled);
    Ok((row, was_enrolled))
}

/// One subject's card as a row; `None` for those who never appear and for those who are no subject of the study.
fn shown_card(tx: &mut Tx<'_>, site: &str, subject: &str, study: &str) -> Result<Option<(ListRow, bool)>, StoreError> {
    let card = screening::card(tx, site, subject, study)?;
    Ok(card
        .filter(|card| card.assessment.hidden.is_none() && card.row.state != SubjectState::None.word())
        .map(|card| (card.row, card.assessment.was_enrolled)))
}

async fn find_subject(store: &Store, catalogue: &Catalogue, site: &str, id: &str) -> Result<Option<(ListRow, bool)>, Refusal> {
    let studies: Vec<String> = studies_at(catalogue, site).iter().map(|study| study.id.clone()).collect();
    let (site, id) = (site.to_owned(), id.to_owned());
    let found = store
        .read(move |tx| {
            for study in &studies {
                if let Some(subject) = id.strip_prefix(study.as_str()).and_then(|rest| rest.strip_prefix('.'))
                    && let Some(found) = shown_card(tx, &site, subject, study)?
                {
                    return Ok(Some(found));
                }
            }
            Ok(None)
        })
        .await?;
    Ok(found)
}

fn has_status(statuses: Option<&[String]>, row: &ListRow, was_enrolled: bool) -> bool {
    statuses.is_none_or(|statuses| r4_status(&row.state, was_enrolled).is_some_and(|status| statuses.iter().any(|asked| asked == status)))
}

fn group_id(study: &Study) -> String {
    format!("{}-prescreen", study.id)
}

/// Everybody whose prescreen is met.
async fn prescreened(store: &Store, site: &str, study: &str) -> Result<Vec<String>, Refusal> {
    let (site, study) = (site.to_owned(), study.to_owned());
    let subjects = store
        .read(move |tx| {
            let mut subjects = Vec::new();
            for page in 0.. {
                let query = ListQuery {
                    study: study.clone(),
                    site: Some(site.clone()),
                    prescreen: Some("met".to_owned()),
                    sort: Sort::Subject,
                    page,
                    limit: COUNT_MAX,
                    ..ListQuery::default()
                };
                let rows = screening::list(tx, &query)?.rows;
                let is_last = rows.len() < COUNT_MAX;
                subjects.extend(rows.into_iter().map(|row| row.subject));
                if is_last {
                    break;
                }
            }
            Ok(subjects)
        })
        .await?;
    Ok(subjects)
}

fn group(study: &Study, subjects: &[String]) -> Result<Vec<u8>, BuildError> {
    build::group(&parts::Group {
        id: Some(group_id(study)),
        identifiers: Vec::new(),
        name: format!("Prescreen met: {}", study.title),
        members: subjects.iter().map(|subject| format!("Patient/{subject}")).collect(),
    })
}
