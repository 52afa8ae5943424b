//! The write-back page's door: what it shows is read here, and its forms (switch, reconcile, merge) do the same as the
//! API and lead back to the page.

use std::collections::BTreeSet;

use actix_web::HttpResponse;
use actix_web::http::{Method, StatusCode, header};
use actix_web::web::{self, Path};

use super::super::form::{Form, unreadable};
use super::super::{Visit, html, percent, shell, text};
use super::{Of, Page, Source, view};
use crate::catalogue::Catalogue;
use crate::http::access::{self, Who, now_ms};
use crate::http::error::Refusal;
use crate::http::switch::{self, Turn};
use crate::http::{Route, write_back};
use crate::pipeline::receivers;
use crate::store::outbox::{self, ItemState};
use crate::store::{self, StoreError};
use crate::writeback::Receiver;

pub fn routes() -> Vec<Route> {
    vec![
        Route::page(Method::GET, "/write-back", Who::Screener, || web::get().to(page)),
        Route::page(Method::POST, "/write-back/{site}/switch", Who::Admin, || web::post().to(turn_switch)),
        Route::page(Method::POST, "/write-back/{site}/reconcile", Who::Admin, || web::post().to(ask_reconcile)),
        Route::page(Method::POST, "/write-back/{site}/proposals/{proposal}", Who::Admin, || web::post().to(accept_merge)),
    ]
}

#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct Params {
    site: String,
    study: String,
    state: String,
    saved: String,
}

async fn page(visit: Visit, asked: web::Query<Params>) -> Result<HttpResponse, Refusal> {
    html(&page_of(&visit, asked.into_inner(), None).await?)
}

/// What the page says after each form.
const SAVED: [(&str, &str); 4] = [
    ("stopped", "Stopped, with your name and reason. What takes something back still goes."),
    ("resumed", "It goes on, with your name and reason."),
    ("reconcile", "A reconcile is asked for; it begins within seconds."),
    ("merge", "The merge is accepted, with your name; the other copies are taken back next."),
];

async fn page_of(visit: &Visit, asked: Params, refused: Option<String>) -> Result<Page, Refusal> {
    let Visit { request, who, pipeline, .. } = visit;
    let clock = text::Clock::new(now_ms());
    let shell = shell(request, &pipeline.catalogue, who, &clock, "write-back", "Write-back".into());
    let site = who.site_scope((!asked.site.is_empty()).then_some(asked.site.as_str()))?.unwrap_or_default();
    let own = who.site.clone();
    let shown: Vec<_> = pipeline.receivers.values().filter(|receiver| shell.sites.iter().any(|site| site.id == receiver.site)).cloned().collect();
    let catalogue = pipeline.catalogue.clone();
    let (receivers, items) = pipeline
        .store
        .read(move |tx| {
            let receivers: Result<Vec<Of>, StoreError> = shown.into_iter().map(|contract| receiver_of(tx, &catalogue, contract)).collect();
            Ok((receivers?, outbox::list(tx, own.as_deref(), None)?))
        })
        .await?;
    let mut seen: BTreeSet<(String, String)> =
        items.iter().filter(|item| !item.subject.is_empty()).map(|item| (item.site.clone(), item.subject.clone())).collect();
    seen.extend(receivers.iter().flat_map(|of| of.reconciles.seen()));
    access::record(&pipeline.store, who, "write-back", "", seen.into_iter().collect()).await?;
    let saved = SAVED.iter().find(|(word, _)| *word == asked.saved).map(|(_, sentence)| (*sentence).to_owned());
    let source = Source {
        receivers,
        items,
        site,
        study: asked.study,
        state: ItemState::from_word(&asked.state),
        may_turn: Who::Admin.allows(who.role),
        asks_name: visit.asks_name(),
        saved,
        refused,
        clock: &clock,
    };
    Ok(view(shell, source))
}

/// Merges shown that have ended.
const ENDED_MERGES: usize = 5;

fn receiver_of(tx: &mut store::Tx<'_>, catalogue: &Catalogue, contract: Receiver) -> Result<Of, StoreError> {
    use store::reconcile::ProposalState::{Accepted, Done, Failed, Proposed};
    let site = contract.site.clone();
    let mut proposals = store::reconcile::proposals(tx, &site, &[Proposed, Accepted])?;
    proposals.extend(store::reconcile::proposals(tx, &site, &[Done, Failed])?.into_iter().take(ENDED_MERGES));
    Ok(Of {
        standing: receivers::of(tx, &contract)?,
        kept: store::receivers::kept(tx, &site)?,
        findings: store::receivers::findings(tx, &site)?,
        circuit: store::circuit::standing(tx, &site)?,
        switches: store::switches::standing(tx, &site)?,
        reconciles: write_back::of_runs(&site, store::reconcile::newest(tx, &site, 10)?),
        proposals,
        name: catalogue.sites.get(&site).map_or_else(|| site.clone(), |site| site.name.clone()),
        studies: catalogue.studies_of_site.get(&site).into_iter().flatten().map(|study| study.id.clone()).collect(),
        contract,
    })
}

async fn turn_switch(visit: Visit, site: Path<String>, form: Form) -> Result<HttpResponse, Refusal> {
    let is_stopped = form.number::<bool>("is-stopped")?;
    let turned = async {
        let by = visit.signer(&form)?;
        let is_stopped = is_stopped.ok_or_else(|| unreadable("is-stopped"))?;
        let turn = Turn { study: form.text("study"), is_stopped, reason: form.text("reason").unwrap_or_default() };
        switch::turn(&visit.pipeline.store, &visit.pipeline.catalogue, &site, &by, turn).await?;
        Ok::<_, Refusal>(if is_stopped { "stopped" } else { "resumed" })
    };
    answer(&visit, &site, turned.await).await
}

async fn ask_reconcile(visit: Visit, site: Path<String>, form: Form) -> Result<HttpResponse, Refusal> {
    let mode = form.word("mode")?.unwrap_or_default();
    let asked = async {
        write_back::ask(&visit.pipeline, &site, &visit.signer(&form)?, mode).await?;
        Ok::<_, Refusal>("reconcile")
    };
    answer(&visit, &site, asked.await).await
}

async fn accept_merge(visit: Visit, path: Path<(String, i64)>, form: Form) -> Result<HttpResponse, Refusal> {
    let (site, proposal) = path.into_inner();
    let accepted = async {
        write_back::accept(&visit.pipeline, &site, proposal, &visit.signer(&form)?, form.text("keep")).await?;
        Ok::<_, Refusal>("merge")
    };
    answer(&visit, &site, accepted.await).await
}

/// Back to the page, which says what was saved; a refusal that a person can mend is shown on it.
async fn answer(visit: &Visit, site: &str, taken: Result<&'static str, Refusal>) -> Result<HttpResponse, Refusal> {
    match taken {
        Ok(saved) => {
            Ok(HttpResponse::SeeOther().insert_header((header::LOCATION, format!("/write-back?site={}&saved={saved}", percent(site)))).finish())
        }
        Err(refusal) if matches!(refusal.status, StatusCode::CONFLICT | StatusCode::BAD_REQUEST) => {
            let said = format!("Not done: {}; {}.", refusal.sentence, refusal.hint);
            let asked = Params { site: site.to_owned(), ..Params::default() };
            let mut answer = html(&page_of(visit, asked, Some(said)).await?)?;
            *answer.status_mut() = refusal.status;
            Ok(answer)
        }
        Err(refusal) => Err(refusal),
    }
}
