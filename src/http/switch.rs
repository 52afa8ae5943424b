//! The kill switch of write-back by its API: how it stands, and a named person's turn. It stops what is written about
//! subjects; what takes something back goes on, and intake is not touched.

use actix_web::http::Method;
use actix_web::web::{self, Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};

use super::Route;
use super::access::{Person, Who, now_ms};
use super::asked::{BAD_REQUEST, BUSY, JSON, NOT_FOUND, NOT_JSON, json, known_site, known_study};
use super::body::{self, Limits};
use super::error::Refusal;
use super::openapi::{Answer, Says};
use crate::catalogue::Catalogue;
use crate::store::Store;
use crate::store::switches::{self, Switch};

/// Longest reason, in characters.
const REASON_MAX: usize = 2_000;

pub fn routes() -> Vec<Route> {
    const SWITCH: &str = "/api/sites/{site}/write-back/switch";
    vec![
        Route::described(
            Method::GET,
            SWITCH,
            Who::Screener,
            Says::new(
                "Whether write-back is stopped at a site, or for a study at it, by whom and why",
                &[Answer::json(200, JSON, "Switches", "the newest turn of each switch, and all turns, newest first"), NOT_FOUND, BUSY],
            ),
            || web::get().to(standing),
        ),
        Route::described(
            Method::POST,
            SWITCH,
            Who::Admin,
            Says::new(
                "A named person stops write-back at a site, or for one study at it, or lets it go on; retractions always go",
                &[Answer::json(200, JSON, "Switches", "turned; it holds from now on"), BAD_REQUEST, NOT_FOUND, NOT_JSON, BUSY],
            )
            .takes(&[JSON], "SwitchTurn"),
            || web::post().to(turn_by_api),
        ),
    ]
}

/// A turn as it is sent.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Turn {
    /// Left out for the whole site.
    #[serde(default)]
    pub study: Option<String>,
    pub is_stopped: bool,
    pub reason: String,
}

/// How the switches of a site stand.
#[derive(Clone, Debug, Serialize)]
pub struct Switches {
    pub site: String,
    /// The newest turn of each switch; an empty study is the whole site.
    pub standing: Vec<Switch>,
    pub turns: Vec<Switch>,
}

/// How the switches of a site stand, and how they were turned.
pub async fn switches(store: &Store, site: &str) -> Result<Switches, Refusal> {
    let site = site.to_owned();
    Ok(store.read(move |tx| Ok(Switches { standing: switches::standing(tx, &site)?, turns: switches::turns(tx, &site)?, site })).await?)
}

/// Turns a switch; the pages' form comes here too.
pub async fn turn(store: &Store, catalogue: &Catalogue, site: &str, by: &str, turn: Turn) -> Result<Switches, Refusal> {
    known_site(catalogue, site)?;
    let study = turn.study.unwrap_or_default();
    if !study.is_empty() {
        known_study(catalogue, &study)?;
    }
    let reason = turn.reason.trim();
    if reason.is_empty() || REASON_MAX < reason.chars().count() {
        return Err(Refusal::bad_request("a switch is turned for a reason", format!("say why, in at most {REASON_MAX} characters")));
    }
    let switch = Switch { site: site.to_owned(), study, is_stopped: turn.is_stopped, at_ms: now_ms(), who: by.to_owned(), reason: reason.to_owned() };
    let turned = switch.clone();
    store.write(move |tx| switches::turn(tx, &turned)).await?;
    tracing::warn!(site, study = switch.study, is_stopped = switch.is_stopped, "write-back switch turned");
    switches(store, site).await
}

async fn standing(path: Path<String>, store: Data<Store>, catalogue: Data<Catalogue>) -> Result<HttpResponse, Refusal> {
    known_site(&catalogue, &path)?;
    Ok(json(&switches(&store, &path).await?))
}

async fn turn_by_api(
    path: Path<String>,
    request: HttpRequest,
    payload: web::Payload,
    person: Person,
    store: Data<Store>,
    catalogue: Data<Catalogue>,
    limits: Data<Limits>,
) -> Result<HttpResponse, Refusal> {
    let wanted: Turn = body::need_json(&request, payload, &limits, "SwitchTurn").await?;
    Ok(json(&turn(&store, &catalogue, &path, &person.name, wanted).await?))
}
