//! The screening API: lists, why-cards, decisions, what came in, what is sent out. JSON, and CSV for the list.
//!
//! Each view of a subject's data is recorded before it is answered; each decision has a named person.

use std::collections::BTreeMap;

use actix_web::http::{Method, StatusCode, header};
use actix_web::web::{self, Data, Path};
use actix_web::{FromRequest, HttpRequest, HttpResponse};
use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use super::access::{self, Person, Who, now_ms};
use super::body::{self, Limits};
use super::error::{Refusal, to_json};
use super::openapi::{Answer, Parameter, Says};
use super::{Health, Route};
use crate::catalogue::Catalogue;
use crate::clinical::date::PartialDate;
use crate::clinical::fact::{AdverseEvent, Decided, DecidedState, Decision, EventAxes, Relatedness, Relation};
use crate::escape::csv_cell;
use crate::pipeline::decide::{self, DecideError};
use crate::pipeline::{Pipeline, receive};
use crate::rules::safety::OUTCOMES;
use crate::rules::state::NotPossible;
use crate::rules::{Assessment, CriterionVerdict, SubjectState};
use crate::store::Store;
use crate::store::ledger::{self, Conservation, Freshness, Message};
use crate::store::outbox::{self, Item, ItemState};
use crate::store::screening::{self, Card, HistoryRow, ListQuery, ListRow, Sort};
use crate::study::Study;

/// Rows of a page of the list.
const PAGE_ROWS: usize = 50;

/// Messages of a page of the quarantine.
const QUARANTINE_ROWS: usize = 100;

/// Rows read at once for a CSV file.
const CSV_ROWS: usize = 1_000;

/// Longest reason of a decision, in characters.
const REASON_MAX: usize = 2_000;

pub(super) const JSON: &str = "application/json";
const PROBLEM: &str = "application/problem+json";
pub(super) const NOT_FOUND: Answer = Answer::json(404, PROBLEM, "Problem", "unknown study, site, subject or message");
pub(super) const BAD_REQUEST: Answer = Answer::json(400, PROBLEM, "Problem", "a parameter or field that is not served, or not as described");
pub(super) const BUSY: Answer = Answer::json(503, PROBLEM, "Problem", "come again after Retry-After");

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

const PAGE_PARAMETER: &[Parameter] = &[Parameter::query("page", r#"{"type":"integer","minimum":0,"maximum":1000000}"#, "from 0")];

pub fn routes() -> Vec<Route> {
    const SUBJECT: &str = "/api/studies/{study}/sites/{site}/subjects/{id}";
    const DECISIONS: &str = "/api/studies/{study}/sites/{site}/subjects/{id}/decisions";
    const RELEASE: &str = "/api/sites/{site}/studies/{study}/release";
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
        Route::described(
            Method::POST,
            DECISIONS,
            Who::Screener,
            Says::new(
                "A named person's decision; it is appended, never edited",
                &[
                    Answer::json(201, JSON, "DecisionTaken", "taken, and judged again"),
                    BAD_REQUEST,
                    NOT_FOUND,
                    Answer::json(408, PROBLEM, "Problem", "the body did not arrive in time"),
                    Answer::json(409, PROBLEM, "Problem", "the evidence changed meanwhile, or the subject's state does not allow it"),
                    Answer::json(413, PROBLEM, "Problem", "too large"),
                    Answer::json(415, PROBLEM, "Problem", "another content type"),
                    BUSY,
                ],
            )
            .takes(&[JSON], "Decision"),
            || web::post().to(decide_by_api),
        ),
        Route::described(
            Method::GET,
            "/api/sites/{site}/conservation",
            Who::Screener,
            Says::new(
                "Counts that must add up: what was received is in exactly one place",
                &[Answer::json(200, JSON, "Conservation", "the counts"), NOT_FOUND, BUSY],
            ),
            || web::get().to(conservation),
        ),
        Route::described(
            Method::GET,
            "/api/sites/{site}/quarantine",
            Who::Screener,
            Says::new(
                "Messages that are kept but not used, newest first",
                &[Answer::json(200, JSON, "Quarantine", "one page"), BAD_REQUEST, NOT_FOUND, BUSY],
            )
            .asks(PAGE_PARAMETER),
            || web::get().to(quarantine),
        ),
        Route::described(
            Method::GET,
            "/api/sites/{site}/messages/{message}",
            Who::Screener,
            Says::new("What became of one message, and which verdicts name it", &[Answer::json(200, JSON, "Trace", "the trace"), NOT_FOUND, BUSY]),
            || web::get().to(trace),
        ),
        Route::described(
            Method::GET,
            "/api/sites/{site}/messages/{message}/body",
            Who::Admin,
            Says::new(
                "The received bytes of one message",
                &[Answer::json(200, "application/fhir+json", "Resource", "byte for byte"), NOT_FOUND, BUSY],
            ),
            || web::get().to(message_body),
        ),
        Route::described(
            Method::GET,
            "/api/freshness",
            Who::Screener,
            Says::new("When each feed last brought something", &[Answer::json(200, JSON, "FreshnessList", "every feed"), BUSY]),
            || web::get().to(freshness),
        ),
        Route::described(
            Method::GET,
            RELEASE,
            Who::Screener,
            Says::new(
                "What leaving shadow would send, judged and planned anew",
                &[Answer::json(200, JSON, "Release", "released or not, and what waits"), NOT_FOUND, BUSY],
            ),
            || web::get().to(release_preview),
        ),
        Route::described(
            Method::POST,
            RELEASE,
            Who::Admin,
            Says::new(
                "A named person lets a study's write-back at a site leave shadow, judged and planned anew",
                &[Answer::json(200, JSON, "Release", "released"), NOT_FOUND, Answer::json(409, PROBLEM, "Problem", "released before"), BUSY],
            ),
            || web::post().to(release),
        ),
    ]
}

/// The query of a request, each parameter at most once.
pub struct Asked(Vec<(String, String)>);

impl FromRequest for Asked {
    type Error = Refusal;
    type Future = std::future::Ready<Result<Asked, Refusal>>;

    fn from_request(request: &HttpRequest, _: &mut actix_web::dev::Payload) -> Self::Future {
        let pairs = web::Query::<Vec<(String, String)>>::from_query(request.query_string());
        let asked = pairs.map_err(|_| Refusal::bad_request("the query cannot be read", "send name=value pairs, percent-encoded")).and_then(|pairs| {
            let pairs = pairs.into_inner();
            let is_twice = pairs.iter().enumerate().any(|(index, (name, _))| pairs[..index].iter().any(|(other, _)| other == name));
            if is_twice { Err(Refusal::bad_request("a parameter stands twice", "send each parameter once")) } else { Ok(Asked(pairs)) }
        });
        std::future::ready(asked)
    }
}

impl Asked {
    /// The value of a parameter; an empty one is none.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, value)| known == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }

    pub fn number(&self, name: &'static str, default: usize) -> Result<usize, Refusal> {
        match self.get(name) {
            None => Ok(default),
            Some(text) => text
                .parse()
                .ok()
                .filter(|number| *number <= 1_000_000)
                .ok_or_else(|| Refusal::bad_request(format!("{name} is not a whole number from 0 to 1000000"), "leave it out for the first page")),
        }
    }

    /// Refuses parameters that are not served: one that is silently ignored would show more than was asked for.
    pub fn only(&self, names: &[&str], more: &[&str]) -> Result<(), Refusal> {
        if self.0.iter().all(|(name, _)| names.contains(&name.as_str()) || more.contains(&name.as_str())) {
            return Ok(());
        }
        Err(Refusal::bad_request("a parameter that is not served here", format!("this address takes {}", names.join(", "))))
    }

    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

pub(super) fn json<T: Serialize>(value: &T) -> HttpResponse {
    HttpResponse::Ok().content_type(JSON).body(to_json(value))
}

fn no_such_study() -> Refusal {
    Refusal::not_found("this gateway has no such study", "GET /api/studies names them")
}

fn no_such_site() -> Refusal {
    Refusal::not_found("this gateway has no such site", "use the site id of the configuration")
}

fn no_such_subject() -> Refusal {
    Refusal::not_found("nobody is judged under this id in this study at this site", "look the subject up in the list; the route names study and site")
}

pub(super) fn known_study<'a>(catalogue: &'a Catalogue, study: &str) -> Result<&'a Study, Refusal> {
    catalogue.studies.get(study).map(|study| study.as_ref()).ok_or_else(no_such_study)
}

pub(super) fn known_site(catalogue: &Catalogue, site: &str) -> Result<(), Refusal> {
    if catalogue.sites.contains_key(site) { Ok(()) } else { Err(no_such_site()) }
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
    let (list, as_of) = store.read(move |tx| Ok((screening::list(tx, &query)?, ledger::freshness(tx, site.as_deref())?))).await?;
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
struct ItemShown<'a> {
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
    fn of(item: &Item) -> ItemShown<'_> {
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
            Ok((screening::card(tx, site, subject, study)?, outbox::of_subject(tx, site, subject, study)?, ledger::freshness(tx, Some(site))?))
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

/// What a person decides, as it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DecisionKind {
    Attestation,
    Consent,
    OptOut,
    State,
    Dose,
    EventRecorded,
    EventAxes,
    EventReported,
    Candidate,
}

/// The axes of an event, as they are sent; what is left out stays as it is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WantedAxes {
    pub term: Option<String>,
    pub grade: Option<u8>,
    pub is_serious: Option<bool>,
    pub seriousness_criteria: Option<Vec<String>>,
    pub relation: Option<Relation>,
    pub is_expected: Option<bool>,
    pub outcome: Option<String>,
    pub onset: Option<String>,
    pub resolved: Option<String>,
    pub is_dose_limiting: Option<bool>,
}

/// Longest name of an event, in characters.
const TERM_MAX: usize = 200;

fn date_of(text: &str, field: &'static str) -> Result<PartialDate, Refusal> {
    let hint = "write YYYY-MM-DD, or an instant such as 2026-11-01T12:00:00Z";
    PartialDate::parse(text).map_err(|_| Refusal::bad_request(format!("{field} is not a FHIR date"), hint))
}

impl WantedAxes {
    fn axes(&self) -> Result<EventAxes, Refusal> {
        if self.grade.is_some_and(|grade| !(1..=5).contains(&grade)) {
            return Err(Refusal::bad_request("there is no such grade", "CTCAE grades are 1 to 5"));
        }
        if self.outcome.as_deref().is_some_and(|outcome| !OUTCOMES.contains(&outcome)) {
            return Err(Refusal::bad_request("there is no such outcome", format!("use one of {}", OUTCOMES.join(", "))));
        }
        let date = |text: &Option<String>, field| text.as_deref().map(|text| date_of(text, field)).transpose();
        let term = self.term.as_deref().map(str::trim).filter(|term| !term.is_empty());
        if term.is_some_and(|term| term.chars().count() > TERM_MAX) {
            return Err(Refusal::bad_request("the name of the event is too long", format!("use at most {TERM_MAX} characters")));
        }
        Ok(EventAxes {
            term: term.map(CompactString::from),
            grade: self.grade,
            is_serious: self.is_serious,
            seriousness_criteria: self.seriousness_criteria.as_ref().map(|codes| codes.iter().map(CompactString::from).collect()),
            relation: self.relation,
            is_expected: self.is_expected,
            outcome: self.outcome.as_deref().map(CompactString::from),
            onset: date(&self.onset, "onset")?,
            resolved: date(&self.resolved, "resolved")?,
            is_dose_limiting: self.is_dose_limiting,
        })
    }

    /// An event that the trial's own people record, on that day.
    fn event(&self, study: &str, recorded_ms: i64) -> Result<AdverseEvent, Refusal> {
        let EventAxes { term, grade, is_serious, seriousness_criteria, relation, is_expected, outcome, onset, resolved, is_dose_limiting } =
            self.axes()?;
        let term = term.ok_or_else(|| Refusal::bad_request("an event needs a name", "give term"))?;
        let assessed = |relation: Relation| Relatedness {
            suspect: CompactString::default(),
            is_study_product: true,
            code: CompactString::const_new(relation.word()),
            relation: Some(relation),
        };
        Ok(AdverseEvent {
            grade,
            is_serious,
            seriousness_criteria: seriousness_criteria.unwrap_or_default(),
            is_expected,
            relatedness: relation.map(assessed).into_iter().collect(),
            outcome,
            onset,
            recorded: Some(PartialDate::instant(recorded_ms)),
            resolved,
            is_dose_limiting,
            studies: vec![study.into()],
            ..AdverseEvent::named(term)
        })
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    pub kind: DecisionKind,
    #[serde(default)]
    pub criterion: Option<String>,
    #[serde(default)]
    pub passes: Option<bool>,
    #[serde(default)]
    pub given: Option<bool>,
    #[serde(default)]
    pub opted_out: Option<bool>,
    #[serde(default)]
    pub to: Option<DecidedState>,
    /// Of a dose.
    #[serde(default)]
    pub arm: Option<String>,
    #[serde(default)]
    pub given_at: Option<String>,
    #[serde(default)]
    pub cells: Option<f64>,
    /// `AdverseEvent/7`, as the course names it.
    #[serde(default)]
    pub event: Option<String>,
    #[serde(default)]
    pub axes: Option<WantedAxes>,
    #[serde(default)]
    pub clock: Option<String>,
    #[serde(default)]
    pub reported_at: Option<String>,
    #[serde(default)]
    pub candidate: Option<String>,
    #[serde(default)]
    pub is_event: Option<bool>,
    pub reason: String,
    /// Of the criterion for an attestation, of the event or candidate for what is said of one, of the card otherwise.
    #[serde(default)]
    pub evidence_hash: String,
}

impl Wanted {
    /// A decision with no fields of its kind yet.
    pub fn new(kind: DecisionKind, reason: impl Into<String>) -> Wanted {
        Wanted {
            kind,
            criterion: None,
            passes: None,
            given: None,
            opted_out: None,
            to: None,
            arm: None,
            given_at: None,
            cells: None,
            event: None,
            axes: None,
            clock: None,
            reported_at: None,
            candidate: None,
            is_event: None,
            reason: reason.into(),
            evidence_hash: String::new(),
        }
    }

    fn what(&self, study: &str, now_ms: i64) -> Result<Decided, Refusal> {
        let lacks = |field: &'static str| Refusal::bad_request(format!("this kind of decision needs {field}"), "see Decision in /openapi.json");
        let text = |value: &Option<String>, field| value.as_deref().map(CompactString::from).ok_or_else(|| lacks(field));
        Ok(match self.kind {
            DecisionKind::Attestation => Decided::Attestation {
                criterion: CompactString::from(self.criterion.as_deref().ok_or_else(|| lacks("criterion"))?),
                passes: self.passes.ok_or_else(|| lacks("passes"))?,
            },
            DecisionKind::Consent => Decided::Consent { given: self.given.ok_or_else(|| lacks("given"))? },
            DecisionKind::OptOut => Decided::OptOut { opted_out: self.opted_out.ok_or_else(|| lacks("opted_out"))? },
            DecisionKind::State => Decided::State { to: self.to.ok_or_else(|| lacks("to"))? },
            DecisionKind::Dose if self.cells.is_some_and(|cells| !cells.is_finite() || cells <= 0.0) => {
                return Err(Refusal::bad_request("cells is not a number of cells", "give how many cells were infused, or leave it out"));
            }
            DecisionKind::Dose => {
                Decided::Dose { arm: text(&self.arm, "arm")?, given: date_of(&text(&self.given_at, "given_at")?, "given_at")?, cells: self.cells }
            }
            DecisionKind::EventRecorded => {
                Decided::EventRecorded { event: Box::new(self.axes.as_ref().ok_or_else(|| lacks("axes"))?.event(study, now_ms)?) }
            }
            DecisionKind::EventAxes => {
                Decided::EventAxes { event: text(&self.event, "event")?, axes: Box::new(self.axes.as_ref().ok_or_else(|| lacks("axes"))?.axes()?) }
            }
            DecisionKind::EventReported => Decided::EventReported {
                event: text(&self.event, "event")?,
                clock: text(&self.clock, "clock")?,
                at: date_of(&text(&self.reported_at, "reported_at")?, "reported_at")?,
            },
            DecisionKind::Candidate => {
                Decided::Candidate { candidate: text(&self.candidate, "candidate")?, is_event: self.is_event.ok_or_else(|| lacks("is_event"))? }
            }
        })
    }
}

/// What a decision led to.
#[derive(Clone, Debug, Serialize)]
pub struct DecisionTaken {
    /// Number of the message it entered as.
    pub message: Option<i64>,
    pub prescreen: String,
    pub eligibility: String,
    pub state: String,
    /// Of the card as it is now.
    pub evidence_hash: String,
}

async fn decide_by_api(
    path: Path<(String, String, String)>,
    request: HttpRequest,
    payload: web::Payload,
    person: Person,
    pipeline: Data<Pipeline>,
    limits: Data<Limits>,
) -> Result<HttpResponse, Refusal> {
    let (study, site, subject) = path.into_inner();
    let is_json = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.to_ascii_lowercase().starts_with(JSON));
    if !is_json {
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "a decision is JSON", "send Content-Type: application/json"));
    }
    let whole = body::read_whole(&request, payload, 64 << 10, &limits).await?;
    // The parser's own words could quote what was sent.
    let wanted: Wanted = serde_json::from_slice(&whole.bytes)
        .map_err(|_| Refusal::bad_request("the decision cannot be read", "see Decision in /openapi.json: kind, reason and the fields of its kind"))?;
    let taken = take_decision(&pipeline, &study, &site, &subject, &person.name, wanted).await?;
    Ok(HttpResponse::Created().content_type(JSON).body(to_json(&taken)))
}

/// Takes a decision: what was seen must still be so, and the state must allow it. It enters as an inbound message, and
/// the subject is judged again before this answers. The pages' forms come here too.
pub async fn take_decision(pipeline: &Pipeline, study: &str, site: &str, subject: &str, by: &str, wanted: Wanted) -> Result<DecisionTaken, Refusal> {
    known_study(&pipeline.catalogue, study)?;
    known_site(&pipeline.catalogue, site)?;
    let now_ms = now_ms();
    let what = wanted.what(study, now_ms)?;
    let reason = wanted.reason.trim();
    if reason.is_empty() || reason.chars().count() > REASON_MAX {
        return Err(Refusal::bad_request("a decision needs a reason", format!("say why, in at most {REASON_MAX} characters")));
    }
    let decision = Decision {
        study: study.into(),
        by: by.into(),
        reason: reason.to_owned(),
        at_ms: now_ms,
        evidence_seen: wanted.evidence_hash.as_str().into(),
        what,
    };
    let (pipeline, site, subject) = (pipeline.clone(), site.to_owned(), subject.to_owned());
    let taken = web::block(move || decide::decide(&pipeline, &site, &subject, &decision))
        .await
        .map_err(|_| Refusal::busy("the gateway is stopping", 10))??;
    Ok(DecisionTaken {
        message: taken.receipt.message,
        prescreen: taken.card.row.prescreen,
        eligibility: taken.card.row.eligibility,
        state: taken.card.row.state,
        evidence_hash: taken.card.assessment.evidence_hash(),
    })
}

impl From<DecideError> for Refusal {
    fn from(error: DecideError) -> Refusal {
        let not_possible = match error {
            DecideError::NoSuchSubject => return no_such_subject(),
            DecideError::Store(error) => return error.into(),
            DecideError::NotPossible(not_possible) => not_possible,
        };
        match not_possible {
            NotPossible::NoSuch(what) => {
                Refusal::bad_request(format!("there is no such {what}"), "the card and GET /api/studies/{study}/safety name what there is")
            }
            NotPossible::Contradiction(words) => Refusal::bad_request(words, "mend one of the two"),
            NotPossible::EvidenceChanged { current } => Refusal {
                current_evidence_hash: Some(current.into()),
                ..Refusal::conflict("the evidence is not the evidence that was seen", "look at the card again, and decide on what it says now")
            },
            NotPossible::DataDecide => Refusal::conflict(
                "the data already decide this criterion",
                "an attestation answers only what is unknown; mend the data at the source",
            ),
            NotPossible::State(state) => {
                Refusal::conflict("the subject's state does not allow this step", format!("the subject's state is {}", state.word()))
            }
        }
    }
}

async fn conservation(path: Path<String>, store: Data<Store>, catalogue: Data<Catalogue>) -> Result<HttpResponse, Refusal> {
    let site = path.into_inner();
    known_site(&catalogue, &site)?;
    let counts: Conservation = store.read(move |tx| ledger::conservation(tx, &site)).await?;
    Ok(json(&counts))
}

async fn quarantine(
    path: Path<String>,
    asked: Asked,
    person: Person,
    store: Data<Store>,
    catalogue: Data<Catalogue>,
) -> Result<HttpResponse, Refusal> {
    #[derive(Serialize)]
    struct Quarantine {
        site: String,
        total: i64,
        page: usize,
        page_size: usize,
        messages: Vec<Message>,
    }
    let site = path.into_inner();
    known_site(&catalogue, &site)?;
    asked.only(&["page"], &[])?;
    let page = asked.number("page", 0)?;
    let asked_site = site.clone();
    let (messages, total) = store.read(move |tx| ledger::quarantine(tx, &asked_site, page)).await?;
    access::record(&store, &person, "quarantine", "", subjects_of_messages(&messages)).await?;
    Ok(json(&Quarantine { site, total, page, page_size: QUARANTINE_ROWS, messages }))
}

fn subjects_of_messages(messages: &[Message]) -> Vec<(String, String)> {
    let subjects: std::collections::BTreeSet<_> =
        messages.iter().filter_map(|message| Some((message.site.clone(), message.subject.clone()?))).collect();
    subjects.into_iter().collect()
}

fn no_such_message() -> Refusal {
    Refusal::not_found("this site has no such message", "out-of-scope messages leave a count, not a message")
}

fn message_number(text: &str) -> Result<i64, Refusal> {
    text.parse().ok().filter(|number| *number > 0).ok_or_else(no_such_message)
}

#[derive(Serialize)]
struct Trace<'a> {
    message: &'a Message,
    has_body: bool,
    verdicts: Vec<VerdictTrace>,
}

/// A current verdict of the message's subject, and the criteria whose evidence names the message.
#[derive(Serialize)]
struct VerdictTrace {
    study: String,
    prescreen: String,
    eligibility: String,
    judged_ms: i64,
    criteria: Vec<String>,
}

async fn trace(path: Path<(String, String)>, person: Person, store: Data<Store>, catalogue: Data<Catalogue>) -> Result<HttpResponse, Refusal> {
    let (site, number) = path.into_inner();
    known_site(&catalogue, &site)?;
    let number = message_number(&number)?;
    let studies: Vec<String> = catalogue.studies_of_site.get(&site).into_iter().flatten().map(|study| study.id.clone()).collect();
    let asked_site = site.clone();
    let found = store
        .read(move |tx| {
            let Some(message) = ledger::message(tx, &asked_site, number)? else { return Ok(None) };
            let mut verdicts = Vec::new();
            for study in message.subject.iter().flat_map(|_| &studies) {
                let subject = message.subject.as_deref().unwrap_or_default();
                verdicts.extend(screening::card(tx, &asked_site, subject, study)?.map(|card| verdict_trace(&card, number)));
            }
            Ok(Some((message, verdicts)))
        })
        .await?;
    let (message, verdicts) = found.ok_or_else(no_such_message)?;
    access::record(&store, &person, "message", "", subjects_of_messages(std::slice::from_ref(&message))).await?;
    Ok(json(&Trace { has_body: message.body.is_some(), message: &message, verdicts }))
}

fn verdict_trace(card: &Card, message: i64) -> VerdictTrace {
    let names_it = |criterion: &&CriterionVerdict| criterion.evidence.iter().any(|evidence| evidence.message == message);
    VerdictTrace {
        study: card.row.study.clone(),
        prescreen: card.row.prescreen.clone(),
        eligibility: card.row.eligibility.clone(),
        judged_ms: card.row.judged_ms,
        criteria: card.assessment.criteria.iter().filter(names_it).map(|criterion| criterion.id.clone()).collect(),
    }
}

async fn message_body(path: Path<(String, String)>, person: Person, store: Data<Store>, catalogue: Data<Catalogue>) -> Result<HttpResponse, Refusal> {
    let (site, number) = path.into_inner();
    known_site(&catalogue, &site)?;
    let number = message_number(&number)?;
    let message = store.read(move |tx| ledger::message(tx, &site, number)).await?.ok_or_else(no_such_message)?;
    access::record(&store, &person, "message body", "", subjects_of_messages(std::slice::from_ref(&message))).await?;
    let body =
        message.body.ok_or_else(|| Refusal::not_found("no bytes of this message are kept", "only hash and reason are kept of what was rejected"))?;
    Ok(HttpResponse::Ok().content_type("application/fhir+json").body(body))
}

async fn freshness(person: Person, store: Data<Store>) -> Result<HttpResponse, Refusal> {
    #[derive(Serialize)]
    struct FreshnessList {
        feeds: Vec<Freshness>,
    }
    let site = person.site_scope(None)?;
    let feeds = store.read(move |tx| ledger::freshness(tx, site.as_deref())).await?;
    Ok(json(&FreshnessList { feeds }))
}

#[derive(Serialize)]
struct Release<'a> {
    site: &'a str,
    study: &'a str,
    released_by: Option<&'a str>,
    released_ms: Option<i64>,
    /// How many requests wait for the release, or left with it.
    count: i64,
    /// What waits, at most 500, without bodies.
    waiting: Vec<ItemShown<'a>>,
}

fn judged_at(catalogue: &Catalogue, site: &str, study: &str) -> Result<(), Refusal> {
    known_site(catalogue, site)?;
    known_study(catalogue, study)?;
    let is_judged = catalogue.studies_of_site.get(site).is_some_and(|studies| studies.iter().any(|known| known.id == study));
    if is_judged { Ok(()) } else { Err(no_such_study()) }
}

async fn release_preview(
    path: Path<(String, String)>,
    person: Person,
    pipeline: Data<Pipeline>,
    store: Data<Store>,
) -> Result<HttpResponse, Refusal> {
    let (site, study) = path.into_inner();
    judged_at(&pipeline.catalogue, &site, &study)?;
    plan_anew(&pipeline, &site, &study).await?;
    let asked = (site.clone(), study.clone());
    let (released, items) =
        store.read(move |tx| Ok((outbox::released(tx, &asked.0, &asked.1)?, outbox::list(tx, Some(&asked.0), Some(ItemState::Shadow))?))).await?;
    let items: Vec<Item> = items.into_iter().filter(|item| item.study == study).collect();
    let shown = &items[..items.len().min(500)];
    let seen = shown.iter().filter(|item| !item.subject.is_empty()).map(|item| (item.site.clone(), item.subject.clone())).collect();
    access::record(&store, &person, "release preview", &study, seen).await?;
    Ok(json(&Release {
        site: &site,
        study: &study,
        released_by: released.as_ref().map(|(by, _)| by.as_str()),
        released_ms: released.as_ref().map(|(_, at)| *at),
        count: i64::try_from(items.len()).unwrap_or(i64::MAX),
        waiting: shown.iter().map(ItemShown::of).collect(),
    }))
}

/// What is shown, and what is let go, is of today.
async fn plan_anew(pipeline: &Data<Pipeline>, site: &str, study: &str) -> Result<(), Refusal> {
    let (pipeline, site, study) = (pipeline.clone(), site.to_owned(), study.to_owned());
    let planned = web::block(move || receive::plan_for_release(&pipeline, &site, &study, now_ms())).await;
    planned.map_err(|_| Refusal::busy("the gateway is stopping", 10))?.map_err(Refusal::from)
}

async fn release(path: Path<(String, String)>, person: Person, pipeline: Data<Pipeline>, store: Data<Store>) -> Result<HttpResponse, Refusal> {
    let (site, study) = path.into_inner();
    judged_at(&pipeline.catalogue, &site, &study)?;
    plan_anew(&pipeline, &site, &study).await?;
    let (asked, by, now_ms) = ((site.clone(), study.clone()), person.name.clone(), now_ms());
    let count = store
        .write(move |tx| {
            if outbox::released(tx, &asked.0, &asked.1)?.is_some() {
                return Ok(None);
            }
            Ok(Some(outbox::release(tx, &asked.0, &asked.1, &by, now_ms)?))
        })
        .await?;
    let count = count.ok_or_else(|| Refusal::conflict("this study's write-back was released here before", "GET the same address to see by whom"))?;
    tracing::info!(site, study, count, "write-back released");
    Ok(json(&Release { site: &site, study: &study, released_by: Some(&person.name), released_ms: Some(now_ms), count, waiting: Vec::new() }))
}
