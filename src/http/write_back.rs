//! Reconciles and merges of one receiver by the API: what the newest reconcile found, asking for another one, and a named
//! person's word on copies under one key. The gateway's own loop does what is asked for here.

use actix_web::http::Method;
use actix_web::web::{self, Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};

use super::Route;
use super::access::{self, Person, Who, now_ms};
use super::asked::{BAD_REQUEST, BUSY, JSON, NOT_FOUND, NOT_JSON, PROBLEM, json, known_site};
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
    let read = |path, summary, found, mount| Route::described(Method::GET, path, Who::Screener, Says::new(summary, &[found, NOT_FOUND, BUSY]), mount);
    let take = |path, summary, taken, conflict, schema, mount| {
        let answers = [taken, BAD_REQUEST, NOT_FOUND, Answer::json(409, PROBLEM, "Problem", conflict), NOT_JSON, BUSY];
        Route::described(Method::POST, path, Who::Admin, Says::new(summary, &answers).takes(&[JSON], schema), mount)
    };
    vec![
        read(
            RECONCILE,
            "What the newest reconcile of a site's EHR found, and whether one is under way",
            Answer::json(200, JSON, "Reconciles", "the newest one that ended, and one that was asked for or runs"),
            || web::get().to(newest),
        ),
        take(
            RECONCILE,
            "Asks for a reconcile now; it begins within seconds, and GET of the same address says what it found",
            Answer::json(202, JSON, "Reconciles", "asked for"),
            "nothing is written back at this site",
            "ReconcileWanted",
            || web::post().to(ask_by_api),
        ),
        read(
            PROPOSALS,
            "Copies under one key that a sweep found, and which to keep",
            Answer::json(200, JSON, "Proposals", "all of them, newest first"),
            || web::get().to(proposals),
        ),
        take(
            PROPOSAL,
            "A named person accepts a merge: the other copies are taken back, and that is proven",
            Answer::json(202, JSON, "Proposals", "accepted; GET of the proposals says when it is done"),
            "accepted or gone meanwhile",
            "MergeWanted",
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
    let wanted: Wanted = body::read_json(&request, payload, &limits, "ReconcileWanted").await?.unwrap_or_default();
    ask(&pipeline, &path, &person.name, wanted.mode).await?;
    Ok(accepted(&reconciles(&pipeline.store, &path).await?))
}

fn accepted<T: Serialize>(value: &T) -> HttpResponse {
    HttpResponse::Accepted().content_type(JSON).body(to_json(value))
}

#[derive(Serialize)]
struct Proposals {
    site: String,
    proposals: Vec<Proposal>,
}

/// All proposals of a site; who looks is recorded.
async fn shown(store: &Store, person: &Person, site: &str) -> Result<Proposals, Refusal> {
    let asked = site.to_owned();
    use ProposalState::{Accepted, Done, Failed, Gone, Proposed};
    let proposals = store.read(move |tx| reconcile::proposals(tx, &asked, &[Proposed, Accepted, Done, Failed, Gone])).await?;
    access::record(store, person, "proposals", "", seen(site, proposals.iter().map(|proposal| proposal.subject.as_str()))).await?;
    Ok(Proposals { site: site.to_owned(), proposals })
}

async fn proposals(path: Path<String>, person: Person, pipeline: Data<Pipeline>) -> Result<HttpResponse, Refusal> {
    known_site(&pipeline.catalogue, &path)?;
    Ok(json(&shown(&pipeline.store, &person, &path).await?))
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
    let wanted: Merge = body::read_json(&request, payload, &limits, "MergeWanted").await?.unwrap_or_default();
    accept(&pipeline, &site, id, &person.name, wanted.keep).await?;
    Ok(accepted(&shown(&pipeline.store, &person, &site).await?))
}
