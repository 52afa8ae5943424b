//! A study's write-back leaves shadow at a site: what would be sent, and a named person's release.

use actix_web::HttpResponse;
use actix_web::http::Method;
use actix_web::web::{self, Data, Path};
use serde::Serialize;

use super::Route;
use super::access::{self, Person, Who, now_ms};
use super::asked::{BUSY, JSON, NOT_FOUND, PROBLEM, json, known_site, known_study, no_such_study};
use super::error::Refusal;
use super::openapi::{Answer, Says};
use super::screening::ItemShown;
use crate::catalogue::Catalogue;
use crate::pipeline::{Pipeline, judge};
use crate::store::Store;
use crate::store::outbox::{self, Item, ItemState};

pub fn routes() -> Vec<Route> {
    const RELEASE: &str = "/api/sites/{site}/studies/{study}/release";
    vec![
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
    let planned = web::block(move || judge::plan_for_release(&pipeline, &site, &study, now_ms())).await;
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
    let (after, told) = (pipeline.clone(), (site.clone(), study.clone()));
    let told = web::block(move || judge::tell_after_release(&after, &told.0, &told.1, now_ms)).await;
    // The release stands; whoever listens is told by the next judgement at the latest.
    if !matches!(told, Ok(Ok(()))) {
        tracing::warn!(site, study, "who was released is told to subscribers later");
    }
    tracing::info!(site, study, count, "write-back released");
    Ok(json(&Release { site: &site, study: &study, released_by: Some(&person.name), released_ms: Some(now_ms), count, waiting: Vec::new() }))
}
