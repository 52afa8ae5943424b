//! Reconciles and merges of one receiver by the API: what the newest reconcile found, asking for another one, and a named
//! person's word on copies under one key. The gateway's own loop does what is asked for here.

use actix_web::http::{Method, StatusCode};
use actix_web::web::{self, Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};

use super::Route;
use super::access::{self, Person, Who, now_ms};
use super::asked::{BAD_REQUEST, BUSY, JSON, NOT_FOUND, PROBLEM, json, known_site};
use super::body::{self, Limits};
use super::error::{Refusal, to_json};
use super::openapi::{Answer, Says};
use crate::pipeline::Pipeline;
use crate::store::Store;
use crate::store::reconcile::{self, Mode, Proposal, ProposalState, Run, RunState};

pub fn routes() -> Vec<Route> {
    const RECONCILE: &str = "/api/sites/{site}/reconcile";
    const PROPOSALS: &str = "/api/sites/{site}/proposals";
    const PROPOSAL: &str = "/api/sites/{site}/proposals/{proposal}";
    const NO_RECEIVER: Answer = Answer::json(409, PROBLEM, "Problem", "nothing is written back at this site");
    vec![
        Route::described(
            Method::GET,
            RECONCILE,
            Who::Screener,
            Says::new(
                "What the newest reconcile of a site's EHR found, and whether one is under way",
                &[Answer::json(200, JSON, "Reconciles", "the newest one that ended, and one that was asked for or runs"), NOT_FOUND, BUSY],
            ),
            || web::get().to(newest),
        ),
        Route::described(
            Method::POST,
            RECONCILE,
            Who::Admin,
            Says::new(
                "Asks for a reconcile now; it begins within seconds, and GET of the same address says what it found",
                &[
                    Answer::json(202, JSON, "Reconciles", "asked for"),
                    BAD_REQUEST,
                    NOT_FOUND,
                    NO_RECEIVER,
                    Answer::json(415, PROBLEM, "Problem", "another content type"),
                    BUSY,
                ],
            )
            .takes(&[JSON], "ReconcileWanted"),
            || web::post().to(ask_by_api),
        ),
        Route::described(
            Method::GET,
            PROPOSALS,
            Who::Screener,
            Says::new(
                "Copies under one key that a sweep found, and which to keep",
                &[Answer::json(200, JSON, "Proposals", "all of them, newest first"), NOT_FOUND, BUSY],
            ),
            || web::get().to(proposals),
        ),
        Route::described(
            Method::POST,
            PROPOSAL,
            Who::Admin,
            Says::new(
                "A named person accepts a merge: the other copies are taken back, and that is proven",
                &[
                    Answer::json(202, JSON, "Proposals", "accepted; GET of the proposals says when it is done"),
                    BAD_REQUEST,
                    NOT_FOUND,
                    Answer::json(409, PROBLEM, "Problem", "accepted or gone meanwhile"),
                    Answer::json(415, PROBLEM, "Problem", "another content type"),
                    BUSY,
                ],
            )
            .takes(&[JSON], "MergeWanted"),
            || web::post().to(accept_by_api),
        ),
    ]
}

/// Reconciles of one site.
#[derive(Serialize)]
pub struct Reconciles {
    pub site: String,
    /// The newest that ended.
    pub newest: Option<Run>,
    /// One that was asked for, or runs.
    pub under_way: Option<Run>,
}

/// What is shown of a site's reconciles.
pub async fn reconciles(store: &Store, site: &str) -> Result<Reconciles, Refusal> {
    let asked = site.to_owned();
    let runs = store.read(move |tx| reconcile::newest(tx, &asked, 10)).await?;
    Ok(of_runs(site, runs))
}

/// `runs` newest first.
pub fn of_runs(site: &str, runs: Vec<Run>) -> Reconciles {
    let (ended, under_way): (Vec<Run>, Vec<Run>) = runs.into_iter().partition(|run| match run.state {
        RunState::Done | RunState::Failed => true,
        RunState::Asked | RunState::Running => false,
    });
    Reconciles { site: site.to_owned(), newest: ended.into_iter().next(), under_way: under_way.into_iter().next() }
}

impl Reconciles {
    /// For the record of who looked at whom.
    pub fn seen(&self) -> Vec<(String, String)> {
        let differences = self.newest.iter().filter_map(|run| run.report.as_ref()).flat_map(|report| &report.differences);
        seen(&self.site, differences.map(|difference| difference.subject.as_str()))
    }
}

fn seen<'a>(site: &str, subjects: impl Iterator<Item = &'a str>) -> Vec<(String, String)> {
    let subjects: std::collections::BTreeSet<&str> = subjects.filter(|subject| !subject.is_empty()).collect();
    subjects.into_iter().map(|subject| (site.to_owned(), subject.to_owned())).collect()
}

/// Asks for a reconcile; the pages' form comes here too.
pub async fn ask(pipeline: &Pipeline, site: &str, by: &str, mode: Mode) -> Result<i64, Refusal> {
    known_site(&pipeline.catalogue, site)?;
    if !pipeline.receivers.contains_key(site) {
        return Err(Refusal::conflict("nothing is written back at this site", "give it a receiver in the configuration"));
    }
    let (asked, who) = (site.to_owned(), by.to_owned());
    let id = pipeline.store.write(move |tx| reconcile::ask(tx, &asked, mode, &who, now_ms())).await?;
    tracing::info!(site, mode = mode.word(), "a reconcile was asked for");
    Ok(id)
}

/// Accepts a merge; the pages' form comes here too. Without `keep` what was proposed is kept.
pub async fn accept(pipeline: &Pipeline, site: &str, id: i64, by: &str, keep: Option<String>) -> Result<(), Refusal> {
    known_site(&pipeline.catalogue, site)?;
    let (asked, who) = (site.to_owned(), by.to_owned());
    let no_such = || Refusal::not_found("no such proposal at this site", "GET the proposals of the site");
    let asked_for = asked.clone();
    let proposal: Proposal = pipeline.store.read(move |tx| reconcile::proposal(tx, &asked_for, id)).await?.ok_or_else(no_such)?;
    let keep = keep.unwrap_or_else(|| proposal.keep.clone());
    if !proposal.copies.iter().any(|copy| copy.id == keep) {
        return Err(Refusal::bad_request("none of the copies has this id", "keep one of the copies of the proposal"));
    }
    let is_accepted = pipeline.store.write(move |tx| reconcile::accept(tx, &asked, id, &keep, &who, now_ms())).await?;
    if !is_accepted {
        return Err(Refusal::conflict("this proposal is not open any more", "GET the proposals of the site to see what became of it"));
    }
    tracing::info!(site, proposal = id, "a merge was accepted");
    Ok(())
}

async fn newest(path: Path<String>, person: Person, pipeline: Data<Pipeline>) -> Result<HttpResponse, Refusal> {
    known_site(&pipeline.catalogue, &path)?;
    let shown = reconciles(&pipeline.store, &path).await?;
    access::record(&pipeline.store, &person, "reconcile", "", shown.seen()).await?;
    Ok(json(&shown))
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Wanted {
    mode: Mode,
}

async fn ask_by_api(
    path: Path<String>,
    request: HttpRequest,
    payload: web::Payload,
    person: Person,
    pipeline: Data<Pipeline>,
    limits: Data<Limits>,
) -> Result<HttpResponse, Refusal> {
    let wanted: Wanted = wanted(&request, payload, &limits, "ReconcileWanted").await?;
    ask(&pipeline, &path, &person.name, wanted.mode).await?;
    Ok(accepted(&reconciles(&pipeline.store, &path).await?))
}

/// A JSON body; an empty one asks for nothing in particular.
async fn wanted<T: serde::de::DeserializeOwned + Default>(
    request: &HttpRequest,
    payload: web::Payload,
    limits: &Data<Limits>,
    schema: &str,
) -> Result<T, Refusal> {
    let content_type = request.headers().get(actix_web::http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if content_type.is_some_and(|value| !value.to_ascii_lowercase().starts_with(JSON)) {
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "what is asked for is JSON", "send Content-Type: application/json"));
    }
    let whole = body::read_whole(request, payload, 16 << 10, limits).await?;
    if whole.bytes.is_empty() {
        return Ok(T::default());
    }
    // The parser's own words could quote what was sent.
    serde_json::from_slice(&whole.bytes).map_err(|_| Refusal::bad_request("the body cannot be read", format!("see {schema} in /openapi.json")))
}

fn accepted<T: Serialize>(value: &T) -> HttpResponse {
    HttpResponse::Accepted().content_type(JSON).body(to_json(value))
}

#[derive(Serialize)]
struct Proposals {
    site: String,
    proposals: Vec<Proposal>,
}

async fn shown(store: &Store, site: &str) -> Result<Proposals, Refusal> {
    let asked = site.to_owned();
    use ProposalState::{Accepted, Done, Failed, Gone, Proposed};
    let proposals = store.read(move |tx| reconcile::proposals(tx, &asked, &[Proposed, Accepted, Done, Failed, Gone])).await?;
    Ok(Proposals { site: site.to_owned(), proposals })
}

async fn proposals(path: Path<String>, person: Person, pipeline: Data<Pipeline>) -> Result<HttpResponse, Refusal> {
    known_site(&pipeline.catalogue, &path)?;
    let shown = shown(&pipeline.store, &path).await?;
    let subjects = seen(&path, shown.proposals.iter().map(|proposal| proposal.subject.as_str()));
    access::record(&pipeline.store, &person, "proposals", "", subjects).await?;
    Ok(json(&shown))
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Merge {
    keep: Option<String>,
}

async fn accept_by_api(
    path: Path<(String, i64)>,
    request: HttpRequest,
    payload: web::Payload,
    person: Person,
    pipeline: Data<Pipeline>,
    limits: Data<Limits>,
) -> Result<HttpResponse, Refusal> {
    let (site, id) = path.into_inner();
    let wanted: Merge = wanted(&request, payload, &limits, "MergeWanted").await?;
    accept(&pipeline, &site, id, &person.name, wanted.keep).await?;
    let shown = shown(&pipeline.store, &site).await?;
    let subjects = seen(&site, shown.proposals.iter().map(|proposal| proposal.subject.as_str()));
    access::record(&pipeline.store, &person, "proposals", "", subjects).await?;
    Ok(accepted(&shown))
}
