//! The screening API: studies, sites, the list, the why-card. JSON, and CSV for the list.
//!
//! Each view of a subject's data is recorded before it is answered.

use std::collections::BTreeMap;

use actix_web::http::{Method, StatusCode, header};
use actix_web::web::{self, Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;

use super::access::{self, Person, Who};
use super::asked::{Asked, BAD_REQUEST, BUSY, JSON, NOT_FOUND, PROBLEM, json, known_site, known_study, no_such_subject};
use super::error::Refusal;
use super::openapi::{Answer, Parameter, Says};
use super::{Health, Route};
use crate::catalogue::Catalogue;
use crate::escape::csv_cell;
use crate::rules::{Assessment, SubjectState};
use crate::store::Store;
use crate::store::messages::{self, Freshness};
use crate::store::outbox::{self, Item, ItemState};
use crate::store::screening::{self, HistoryRow, ListQuery, ListRow, Sort};

/// Rows of a page of the list.
const PAGE_ROWS: usize = 50;

/// Rows read at once for a CSV file.
const CSV_ROWS: usize = 1_000;

const LIST: &[Answer] = &[
    Answer::json(200, JSON, "SubjectList", "one page of the list, as of when each feed last brought something"),
    Answer::json(200, "text/csv", "", "every row, with format=csv or Accept: text/csv"),
    BAD_REQUEST,
    NOT_FOUND,
    BUSY,
];

const LIST_PARAMETERS: &[Parameter] = &[
    Parameter::query("prescreen", r#"{"type":"string","enum":["met","not-met","unknown"]}"#, "verdict of the prescreen"),
    Parameter::query(
        "state",
        r#"{"type":"string","enum":["none","candidate","consented","eligible","enrolled","on-follow-up","completed","screen-failed","lost","withdrawn","deceased"]}"#,
        "where the subject stands",
    ),
    Parameter::query("missing", r#"{"type":"string"}"#, "a word of what is missing, such as serum-creatinine"),
    Parameter::query("site", r#"{"type":"string"}"#, "site id"),
    Parameter::query("near-miss", r#"{"type":"boolean"}"#, "only subjects who fail exactly one criterion"),
    Parameter::query("sort", r#"{"type":"string","enum":["changed","egfr","-egfr","subject"]}"#, "newest change first, or by eGFR, or by subject"),
    Parameter::query("page", r#"{"type":"integer","minimum":0,"maximum":1000000}"#, "from 0"),
    Parameter::query("format", r#"{"type":"string","enum":["json","csv"]}"#, "csv gives every row"),
];

pub fn routes() -> Vec<Route> {
    const SUBJECT: &str = "/api/studies/{study}/sites/{site}/subjects/{id}";
    vec![
        Route::described(
            Method::GET,
            "/healthz",
            Who::Anyone,
            Says::new(
                "Whether the gateway is ready: store open, loops alive",
                &[Answer::json(200, JSON, "Health", "ready"), Answer::json(503, PROBLEM, "Problem", "not ready")],
            ),
            || web::get().to(health),
        ),
        Route::described(
            Method::GET,
            "/api/studies",
            Who::Screener,
            Says::new("The studies, their criteria and hashes", &[Answer::json(200, JSON, "Studies", "every study")]),
            || web::get().to(studies),
        ),
        Route::described(
            Method::GET,
            "/api/sites",
            Who::Screener,
            Says::new("The sites and what is judged at each", &[Answer::json(200, JSON, "Sites", "every site this token is good for")]),
            || web::get().to(sites),
        ),
        Route::described(
            Method::GET,
            "/api/studies/{study}/subjects",
            Who::Screener,
            Says::new("The screening list", LIST).asks(LIST_PARAMETERS),
            || web::get().to(list),
        ),
        Route::described(
            Method::GET,
            SUBJECT,
            Who::Screener,
            Says::new(
                "The why-card of one subject",
                &[Answer::json(200, JSON, "Card", "assessment, history, write-backs, freshness"), NOT_FOUND, BUSY],
            ),
            || web::get().to(card),
        ),
    ]
}

async fn health(health: Data<Health>) -> Result<HttpResponse, Refusal> {
    #[derive(Serialize)]
    struct Ready {
        status: &'static str,
        version: &'static str,
    }
    let health = health.clone();
    let said = web::block(move || (health.0)()).await.map_err(|_| Refusal::busy("the gateway is stopping", 10))?;
    match said {
        Ok(()) => Ok(json(&Ready { status: "ready", version: env!("CARGO_PKG_VERSION") })),
        Err(why) => Err(Refusal { retry_after_s: Some(5), ..Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "not ready", why) }),
    }
}

#[derive(Serialize)]
struct StudyShown<'a> {
    id: &'a str,
    title: &'a str,
    note: &'a str,
    hash: &'a str,
    sites: Vec<&'a str>,
    criteria: Vec<CriterionShown<'a>>,
}

#[derive(Serialize)]
struct CriterionShown<'a> {
    id: &'a str,
    text: &'a str,
    #[serde(rename = "type")]
    criterion_type: crate::study::CriterionType,
    origin: crate::study::Origin,
    stage: crate::study::Stage,
}

async fn studies(catalogue: Data<Catalogue>) -> HttpResponse {
    #[derive(Serialize)]
    struct Studies<'a> {
        studies: Vec<StudyShown<'a>>,
    }
    let studies = catalogue
        .studies
        .values()
        .map(|study| StudyShown {
            id: &study.id,
            title: &study.title,
            note: &study.note,
            hash: &study.hash,
            sites: catalogue
                .studies_of_site
                .iter()
                .filter(|(_, judged)| judged.iter().any(|other| other.id == study.id))
                .map(|(site, _)| site.as_str())
                .collect(),
            criteria: study
                .criteria
                .iter()
                .map(|criterion| CriterionShown {
                    id: &criterion.id,
                    text: &criterion.text,
                    criterion_type: criterion.criterion_type,
                    origin: criterion.origin,
                    stage: criterion.stage,
                })
                .collect(),
        })
        .collect();
    json(&Studies { studies })
}

async fn sites(person: Person, catalogue: Data<Catalogue>) -> HttpResponse {
    #[derive(Serialize)]
    struct SiteShown<'a> {
        id: &'a str,
        name: &'a str,
        studies: Vec<&'a str>,
        mapping_hash: &'a str,
    }
    let studies_of = |site: &str| catalogue.studies_of_site.get(site).into_iter().flatten().map(|study| study.id.as_str()).collect();
    let is_shown = |site: &str| person.site.as_deref().is_none_or(|own| own == site);
    let sites: Vec<SiteShown<'_>> = catalogue
        .sites
        .values()
        .filter(|site| is_shown(&site.id))
        .map(|site| SiteShown { id: &site.id, name: &site.name, studies: studies_of(&site.id), mapping_hash: &site.hash })
        .collect();
    json(&sites)
}

/// The question a list request asks.
fn list_query(asked: &Asked, study: &str, site: Option<String>) -> Result<ListQuery, Refusal> {
    asked.only(&["prescreen", "state", "missing", "site", "near-miss", "sort", "page", "format"], &["study"])?;
    let word = |name: &'static str, known: &[&'static str]| match asked.get(name) {
        Some(word) if !known.contains(&word) => {
            Err(Refusal::bad_request(format!("{name} is not one of its words"), format!("use one of {}", known.join(", "))))
        }
        word => Ok(word.map(str::to_owned)),
    };
    let sort = match word("sort", &["changed", "egfr", "-egfr", "subject"])?.as_deref() {
        Some("egfr") => Sort::EgfrAscending,
        Some("-egfr") => Sort::EgfrDescending,
        Some("subject") => Sort::Subject,
        Some(_) | None => Sort::Changed,
    };
    word("format", &["json", "csv"])?;
    Ok(ListQuery {
        study: study.to_owned(),
        site,
        prescreen: word("prescreen", &["met", "not-met", "unknown"])?,
        state: word("state", &SubjectState::ALL.map(SubjectState::word))?,
        states: Vec::new(),
        missing: asked.get("missing").map(str::to_owned),
        near_miss: word("near-miss", &["true", "false", "1", "0"])?.is_some_and(|word| word == "true" || word == "1"),
        sort,
        page: asked.number("page", 0)?,
        limit: PAGE_ROWS,
    })
}

#[derive(Serialize)]
struct SubjectList<'a> {
    study: &'a str,
    study_hash: &'a str,
    as_of: Vec<Freshness>,
    total: i64,
    page: usize,
    page_size: usize,
    next: Option<String>,
    counts: BTreeMap<String, i64>,
    hidden: BTreeMap<String, i64>,
    rows: Vec<ListRow>,
}

async fn list(
    path: Path<String>,
    request: HttpRequest,
    asked: Asked,
    person: Person,
    store: Data<Store>,
    catalogue: Data<Catalogue>,
) -> Result<HttpResponse, Refusal> {
    let study_id = path.into_inner();
    let study = known_study(&catalogue, &study_id)?;
    let site = person.site_scope(asked.get("site"))?;
    if let Some(site) = &site {
        known_site(&catalogue, site)?;
    }
    let query = list_query(&asked, &study_id, site.clone())?;
    let accepts_csv =
        request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok()).is_some_and(|accept| accept.starts_with("text/csv"));
    if asked.get("format") == Some("csv") || (asked.get("format").is_none() && accepts_csv) {
        return list_csv(&store, &person, query).await;
    }
    let page = query.page;
    let (list, as_of) = store.read(move |tx| Ok((screening::list(tx, &query)?, messages::freshness(tx, site.as_deref())?))).await?;
    access::record(&store, &person, "list", &study_id, subjects_of(&list.rows)).await?;
    let has_more = i64::try_from((page + 1).saturating_mul(PAGE_ROWS)).is_ok_and(|shown| shown < list.total);
    Ok(json(&SubjectList {
        study: &study.id,
        study_hash: &study.hash,
        as_of,
        total: list.total,
        page,
        page_size: PAGE_ROWS,
        next: has_more.then(|| next_address(&request, page + 1)),
        counts: list.counts,
        hidden: list.hidden,
        rows: list.rows,
    }))
}

fn subjects_of(rows: &[ListRow]) -> Vec<(String, String)> {
    rows.iter().map(|row| (row.site.clone(), row.subject.clone())).collect()
}

/// The same address with another page, relative to the host.
fn next_address(request: &HttpRequest, page: usize) -> String {
    let rest: Vec<&str> = request.query_string().split('&').filter(|pair| !pair.is_empty() && !pair.starts_with("page=")).collect();
    let joint = if rest.is_empty() { "" } else { "&" };
    format!("{}?{}{joint}page={page}", request.path(), rest.join("&"))
}

const CSV_HEAD: &str =
    "site,subject,study,prescreen,eligibility,state,egfr_ml_min_173,egfr_date,why,missing,near_miss,judged,changed,changed_from,is_waiting\r\n";

/// Every row that fits, as a file for a spreadsheet.
async fn list_csv(store: &Store, person: &Person, query: ListQuery) -> Result<HttpResponse, Refusal> {
    let mut text = String::from(CSV_HEAD);
    for page in 0.. {
        let part = ListQuery { page, limit: CSV_ROWS, ..query.clone() };
        let rows = store.read(move |tx| screening::list(tx, &part)).await?.rows;
        access::record(store, person, "list as CSV", &query.study, subjects_of(&rows)).await?;
        rows.iter().for_each(|row| csv_row(&mut text, row));
        if rows.len() < CSV_ROWS {
            break;
        }
    }
    let name = format!("attachment; filename=\"{}-screening-list.csv\"", query.study);
    Ok(HttpResponse::Ok().content_type("text/csv; charset=utf-8").insert_header((header::CONTENT_DISPOSITION, name)).body(text))
}

fn csv_row(text: &mut String, row: &ListRow) {
    let egfr = row.egfr.map(|egfr| egfr.to_string()).unwrap_or_default();
    let missing = row.missing.join(" ");
    let (judged, changed) = (instant(row.judged_ms), instant(row.changed_ms));
    let cells = [
        row.site.as_str(),
        &row.subject,
        &row.study,
        &row.prescreen,
        &row.eligibility,
        &row.state,
        &egfr,
        row.egfr_date.as_deref().unwrap_or_default(),
        &row.why,
        &missing,
        if row.near_miss { "true" } else { "false" },
        &judged,
        &changed,
        row.changed_from.as_deref().unwrap_or_default(),
        if row.is_waiting { "true" } else { "false" },
    ];
    text.push_str(&cells.map(csv_cell).join(","));
    text.push_str("\r\n");
}

/// RFC 3339, UTC.
fn instant(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map(|instant| instant.to_string()).unwrap_or_default()
}

#[derive(Serialize)]
struct CardShown<'a> {
    row: &'a ListRow,
    assessment: &'a Assessment,
    /// To be named by consent, opt-out and state decisions.
    evidence_hash: String,
    study_hash: &'a str,
    mapping_hash: &'a str,
    history: &'a [HistoryRow],
    outbox: Vec<ItemShown<'a>>,
    as_of: Vec<Freshness>,
}

/// One write-back, without its body.
#[derive(Serialize)]
pub struct ItemShown<'a> {
    id: i64,
    /// Empty for what belongs to no single subject.
    subject: &'a str,
    state: ItemState,
    resource_type: &'a str,
    purpose: crate::writeback::Purpose,
    method: &'a str,
    url: &'a str,
    rung: &'a str,
    attempts: i64,
    created_ms: i64,
    next_attempt_ms: i64,
    last_status: Option<i64>,
    last_error: Option<&'a str>,
    server_id: Option<&'a str>,
}

impl ItemShown<'_> {
    pub fn of(item: &Item) -> ItemShown<'_> {
        ItemShown {
            id: item.id,
            subject: &item.subject,
            state: item.state,
            resource_type: &item.request.resource_type,
            purpose: item.request.purpose,
            method: &item.request.method,
            url: &item.request.url,
            rung: &item.request.rung,
            attempts: item.attempts,
            created_ms: item.created_ms,
            next_attempt_ms: item.next_attempt_ms,
            last_status: item.last_status,
            last_error: item.last_error.as_deref(),
            server_id: item.server_id.as_deref(),
        }
    }
}

async fn card(path: Path<(String, String, String)>, person: Person, store: Data<Store>, catalogue: Data<Catalogue>) -> Result<HttpResponse, Refusal> {
    let (study, site, subject) = path.into_inner();
    known_study(&catalogue, &study)?;
    known_site(&catalogue, &site)?;
    let asked = (study.clone(), site.clone(), subject.clone());
    let (card, items, as_of) = store
        .read(move |tx| {
            let (study, site, subject) = &asked;
            Ok((screening::card(tx, site, subject, study)?, outbox::of_subject(tx, site, subject, study)?, messages::freshness(tx, Some(site))?))
        })
        .await?;
    let card = card.ok_or_else(no_such_subject)?;
    access::record(&store, &person, "card", &study, vec![(site, subject)]).await?;
    Ok(json(&CardShown {
        row: &card.row,
        evidence_hash: card.assessment.evidence_hash(),
        assessment: &card.assessment,
        study_hash: &card.study_hash,
        mapping_hash: &card.mapping_hash,
        history: &card.history,
        outbox: items.iter().map(ItemShown::of).collect(),
        as_of,
    }))
}
