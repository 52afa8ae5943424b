//! How the configured feeds of a site stand: up to when each source's data is here, and what troubles it.

use actix_web::HttpResponse;
use actix_web::http::Method;
use actix_web::web::{self, Data, Path};
use serde::Serialize;

use super::Route;
use super::access::{Who, now_ms};
use super::asked::{BUSY, JSON, NOT_FOUND, json, known_site};
use super::error::Refusal;
use super::openapi::{Answer, Says};
use crate::catalogue::Catalogue;
use crate::store::drift::{self, Drift};
use crate::store::feeds::{self, FeedState};
use crate::store::rosters::{self, Standing};
use crate::store::{Store, StoreError, Tx};

pub fn routes() -> Vec<Route> {
    vec![Route::described(
        Method::GET,
        "/api/sites/{site}/feeds",
        Who::Screener,
        Says::new(
            "How each configured feed of a site stands: as of when its source's data is here, and what troubles it",
            &[Answer::json(200, JSON, "FeedList", "every configured feed"), NOT_FOUND, BUSY],
        ),
        || web::get().to(list),
    )]
}

#[derive(Serialize)]
struct FeedList {
    site: String,
    feeds: Vec<FeedShown>,
}

#[derive(Serialize)]
pub struct FeedShown {
    #[serde(flatten)]
    pub state: FeedState,
    /// It brought its last message then, and should have brought another.
    pub silent_since_ms: Option<i64>,
    /// What was unusual about its last whole day.
    pub drift: Vec<Drift>,
    /// Hints of changes at the source that were not followed yet, and the oldest of them.
    pub hints_waiting: i64,
    oldest_hint_ms: Option<i64>,
    /// Where the source is asked patient by patient.
    pub roster: Option<Standing>,
}

/// Every configured feed of a site, or of all, as it stands.
pub fn shown(tx: &mut Tx<'_>, site: Option<&str>, now_ms: i64) -> Result<Vec<FeedShown>, StoreError> {
    let each = feeds::states(tx, site)?.into_iter().map(|state| {
        let (hints_waiting, oldest_hint_ms) = feeds::hints_waiting(tx, &state.site, &state.feed)?;
        let roster = Some(rosters::standing(tx, &state.site, &state.feed)?).filter(|standing| standing.listed_ms.is_some());
        let drift = drift::drift(tx, &state.site, &state.feed, now_ms)?;
        Ok(FeedShown { silent_since_ms: state.silent_since_ms(now_ms), drift, hints_waiting, oldest_hint_ms, roster, state })
    });
    each.collect()
}

async fn list(path: Path<String>, store: Data<Store>, catalogue: Data<Catalogue>) -> Result<HttpResponse, Refusal> {
    let site = path.into_inner();
    known_site(&catalogue, &site)?;
    let now_ms = now_ms();
    let asked = site.clone();
    let feeds = store.read(move |tx| shown(tx, Some(&asked), now_ms)).await?;
    Ok(json(&FeedList { site, feeds }))
}
