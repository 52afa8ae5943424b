//! CDS Hooks 2.0: which services there are, and the card that tells a clinician that the patient whose chart is open may
//! qualify for a study. A card reveals who qualifies, so only a client whose signed token was verified is answered; what
//! is told follows the site's policy, the kill switch and the alert budget, and comes from what is judged already.

mod card;
mod feedback;
pub mod token;

use std::sync::{Arc, OnceLock};

use actix_web::http::Method;
use actix_web::http::header::{self, HeaderMap, HeaderValue};
use actix_web::web::{self, Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};

use super::Route;
use super::access::{Who, now_ms};
use super::asked::{BAD_REQUEST, BUSY, JSON, NOT_JSON, PROBLEM, json};
use super::body::{self, Limits};
use super::error::Refusal;
use super::openapi::{Answer, Says};
use crate::catalogue::Catalogue;
use crate::fhir::is_id;
use crate::pipeline::Pipeline;
use crate::pipeline::jwks::KeySet;
use crate::rules::SubjectState;
use crate::store::cards::{self, Asking, Budget};
use crate::store::{Store, StoreError, outbox, switches};
use crate::study::Study;
use crate::writeback::{Mode, WriteFrom, may_write};

/// Where the services are; `cds-services` is CDS Hooks' own word.
const BASE: &str = "/cds-services";
const HOOK: &str = "patient-view";

/// Largest request: a context, and whatever a client sends along without being asked.
const BODY_MAX_BYTES: usize = 1 << 20;

/// One EHR that may ask: one entry of `cds_clients` in the configuration.
#[derive(Debug)]
pub struct Client {
    /// `iss` of its tokens.
    pub issuer: String,
    /// `tenant` of its tokens, where one issuer speaks for several hospitals.
    pub tenant: Option<String>,
    /// The site whose patients it asks about.
    pub site: String,
    /// What `jku` may say.
    pub jwks_url: Option<String>,
    pub keys: KeySet,
    /// Base of the FHIR server whose patients it asks about, without a trailing slash.
    pub fhir_server: Option<String>,
    /// From which state on it may be told; `None`: as the site's receiver is written to.
    pub from: Option<WriteFrom>,
    /// Origins of browser-based clients.
    pub origins: Vec<String>,
    pub budget: Budget,
}

impl Client {
    /// As it stands in the records.
    pub fn name(&self) -> String {
        match &self.tenant {
            Some(tenant) => format!("{} {tenant}", self.issuer),
            None => self.issuer.clone(),
        }
    }
}

/// Who may ask.
#[derive(Debug, Default)]
pub struct Clients {
    /// How they reach this gateway, without a trailing slash: their tokens are made out to it.
    pub public_url: Option<String>,
    pub clients: Vec<Arc<Client>>,
    user_key: OnceLock<[u8; 32]>,
}

impl Clients {
    pub fn new(public_url: Option<String>, clients: Vec<Client>) -> Clients {
        Clients { public_url, clients: clients.into_iter().map(Arc::new).collect(), user_key: OnceLock::new() }
    }

    /// Fetches the keys that are due, of all clients.
    pub async fn keep_keys_fresh(&self) {
        for client in &self.clients {
            client.keys.keep_fresh(now_ms()).await;
        }
    }

    /// The key of the hashes of users.
    async fn user_key(&self, store: &Store) -> Result<[u8; 32], Refusal> {
        if let Some(key) = self.user_key.get() {
            return Ok(*key);
        }
        let mut random = [0; 32];
        aws_lc_rs::rand::fill(&mut random).map_err(|_| Refusal::busy("this machine gives no random bytes", 10))?;
        let key = store.write(move |tx| cards::user_key(tx, &random)).await?;
        Ok(*self.user_key.get_or_init(|| key))
    }
}

pub fn routes() -> Vec<Route> {
    const SERVICE: &str = "/cds-services/{id}";
    const FEEDBACK: &str = "/cds-services/{id}/feedback";
    let not_found = Answer::json(404, PROBLEM, "Problem", "no such service at this client's site");
    let guarded = [
        BAD_REQUEST,
        not_found,
        Answer::json(408, PROBLEM, "Problem", "the body did not arrive in time"),
        Answer::json(413, PROBLEM, "Problem", "too large"),
        NOT_JSON,
        BUSY,
    ];
    let with = |first: Answer| -> Vec<Answer> { std::iter::once(first).chain(guarded).collect() };
    let mut routes = vec![
        Route::described(
            Method::GET,
            BASE,
            Who::Anyone,
            Says::new(
                "CDS Hooks 2.0: which services there are; says nothing of any patient",
                &[Answer::json(200, JSON, "CdsServices", "one service a study; none where no client is registered")],
            ),
            || web::get().to(discovery),
        ),
        Route::described(
            Method::POST,
            SERVICE,
            Who::CdsClient,
            Says::new(
                "CDS Hooks 2.0, hook patient-view: a card where the patient may qualify for the study",
                &with(Answer::json(200, JSON, "CdsCards", "one card, or none")),
            )
            .takes(&[JSON], "CdsHook"),
            || web::post().to(service),
        ),
        Route::described(
            Method::POST,
            FEEDBACK,
            Who::CdsClient,
            Says::new("CDS Hooks 2.0: what a user did with a card", &with(Answer::json(200, JSON, "CdsFeedbackTaken", "recorded")))
                .takes(&[JSON], "CdsFeedback"),
            || web::post().to(feedback::feedback),
        ),
        feedback::counts_route(),
    ];
    routes.extend([BASE, SERVICE, FEEDBACK].map(|path| Route::page(Method::OPTIONS, path, Who::Anyone, || web::route().to(preflight))));
    routes
}

/// Whether this is an address of CDS Hooks. Its callers carry a signed token and never a cookie, so that a browser
/// elsewhere may send them.
pub fn is_here(path: &str) -> bool {
    path == BASE || path.strip_prefix(BASE).is_some_and(|rest| rest.starts_with('/'))
}

/// Cross-origin headers: everybody may read which services there are; the rest is for the origins of registered clients.
pub fn add_cors(clients: &Clients, path: &str, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
    let Some(origin) = origin else { return };
    let is_registered = origin.to_str().is_ok_and(|origin| clients.clients.iter().any(|client| client.origins.iter().any(|known| known == origin)));
    let allowed = match (path == BASE, is_registered) {
        (true, _) => HeaderValue::from_static("*"),
        (false, true) => origin.clone(),
        (false, false) => return,
    };
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, OPTIONS"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("Authorization, Content-Type"));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
}

/// What a browser asks before it sends the request itself; [`add_cors`] answers it.
async fn preflight() -> HttpResponse {
    HttpResponse::NoContent().finish()
}

#[derive(Serialize)]
struct Services<'a> {
    services: Vec<ServiceShown<'a>>,
}

#[derive(Serialize)]
struct ServiceShown<'a> {
    hook: &'static str,
    id: &'a str,
    title: String,
    description: String,
}

async fn discovery(clients: Data<Clients>, catalogue: Data<Catalogue>) -> HttpResponse {
    let is_asked_about = |study: &Study| clients.clients.iter().any(|client| judged_at(&catalogue, &client.site, &study.id).is_some());
    let services = catalogue.studies.values().filter(|study| is_asked_about(study)).map(|study| ServiceShown {
        hook: HOOK,
        id: &study.id,
        title: format!("Patients for {}", card::short_title(study)),
        // No prefetch: what is told was judged before from what the hospital sent.
        description: format!("Says when the patient whose chart is open may qualify for {}, and what is still to be checked", study.title),
    });
    json(&Services { services: services.collect() })
}

/// The study, where this site judges it.
fn judged_at<'a>(catalogue: &'a Catalogue, site: &str, study: &str) -> Option<&'a Study> {
    catalogue.studies_of_site.get(site)?.iter().find(|known| known.id == study).map(|study| study.as_ref())
}

fn known_service<'a>(catalogue: &'a Catalogue, client: &Client, id: &str) -> Result<&'a Study, Refusal> {
    judged_at(catalogue, &client.site, id)
        .ok_or_else(|| Refusal::not_found("there is no such service at this client's site", "GET /cds-services names them"))
}

/// A call of the hook. What else a client sends, its access token above all, is neither read nor kept.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Hook {
    hook: String,
    hook_instance: String,
    #[serde(default)]
    fhir_server: Option<String>,
    context: Context,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Context {
    user_id: String,
    patient_id: String,
}

impl Hook {
    fn read(bytes: &[u8], client: &Client) -> Result<Hook, Refusal> {
        // The parser's own words could quote what was sent.
        let hook: Hook = serde_json::from_slice(bytes).map_err(|_| {
            Refusal::bad_request("the call cannot be read", "send hook, hookInstance and context with userId and patientId, as CDS Hooks 2.0 says")
        })?;
        if hook.hook != HOOK {
            return Err(Refusal::bad_request("this service is for another hook", "call it with hook patient-view"));
        }
        if hook.hook_instance.trim().is_empty() {
            return Err(Refusal::bad_request("hookInstance is empty", "give each call a UUID"));
        }
        if !is_id(&hook.context.patient_id) {
            return Err(Refusal::bad_request("context.patientId is not a FHIR id", "send the id alone, without Patient/"));
        }
        if !hook.context.user_id.split_once('/').is_some_and(|(kind, id)| USERS.contains(&kind) && is_id(id)) {
            return Err(Refusal::bad_request("context.userId does not name a user", "send it as Practitioner/ID or PractitionerRole/ID"));
        }
        let is_other_server =
            hook.fhir_server.as_deref().zip(client.fhir_server.as_deref()).is_some_and(|(said, known)| said.trim_end_matches('/') != known);
        if is_other_server {
            // Ids of another server name other people.
            let hint = "ask from the server that is registered for this client, or have fhir_server mended";
            return Err(Refusal::new(actix_web::http::StatusCode::FORBIDDEN, "fhirServer is not the one of this client", hint));
        }
        Ok(hook)
    }

    /// Patients and their relatives are not told by a card.
    fn is_staff(&self) -> bool {
        self.context.user_id.starts_with("Practitioner")
    }
}

/// What `context.userId` of patient-view may name.
const USERS: [&str; 4] = ["Practitioner", "PractitionerRole", "Patient", "RelatedPerson"];

async fn read_body(request: &HttpRequest, payload: web::Payload, limits: &Limits) -> Result<body::Whole, Refusal> {
    if body::kind(request)? != body::Kind::Json {
        return Err(Refusal::new(actix_web::http::StatusCode::UNSUPPORTED_MEDIA_TYPE, "a call is JSON", "send Content-Type: application/json"));
    }
    body::read_whole(request, payload, BODY_MAX_BYTES, limits).await
}

async fn service(
    path: Path<String>,
    request: HttpRequest,
    payload: web::Payload,
    caller: token::Caller,
    clients: Data<Clients>,
    pipeline: Data<Pipeline>,
    limits: Data<Limits>,
) -> Result<HttpResponse, Refusal> {
    let client = caller.0;
    let study = known_service(&pipeline.catalogue, &client, &path)?;
    let whole = read_body(&request, payload, &limits).await?;
    let hook = Hook::read(&whole.bytes, &client)?;
    if !hook.is_staff() || !is_told(&pipeline, &client) {
        return Ok(card::none());
    }
    let key = clients.user_key(&pipeline.store).await?;
    let name = client.name();
    let asking = Asking {
        study: study.id.clone(),
        site: client.site.clone(),
        subject: hook.context.patient_id,
        user: cards::hash_user(&key, &client.site, &name, &hook.context.user_id),
        client: name,
    };
    let is_shadow = pipeline.receivers.get(&client.site).is_some_and(|receiver| receiver.mode == Mode::Shadow);
    // Most charts are of people of whom there is nothing to say; only the others are written about.
    let asked = asking.clone();
    let found = pipeline.store.read(move |tx| {
        let (site, study) = (&asked.site, &asked.study);
        let is_held_back = (is_shadow && outbox::released(tx, site, study)?.is_none()) || switches::stopped(tx, site, study)?.is_some();
        if is_held_back { Ok::<_, StoreError>(None) } else { cards::candidate(tx, study, site, &asked.subject) }
    });
    let Some(assessment) = found.await? else { return Ok(card::none()) };
    let (asked, budget, now_ms) = (asking.clone(), client.budget, now_ms());
    let shown = pipeline.store.write(move |tx| cards::show(tx, now_ms, &key, &budget, &asked)).await?;
    Ok(match (shown, &clients.public_url) {
        (Some(uuid), Some(url)) => {
            card::answer(&card::Facts { uuid: &uuid, study, site: &asking.site, subject: &asking.subject, public_url: url }, &assessment)
        }
        // Without an address of our own no token is good, so that nobody comes here.
        (None, _) | (_, None) => card::none(),
    })
}

/// Whether this client may be told of candidates at all: by its own entry, else as its site's receiver is written to.
fn is_told(pipeline: &Pipeline, client: &Client) -> bool {
    let from = client.from.or_else(|| pipeline.receivers.get(&client.site).map(|receiver| receiver.write_from));
    from.is_some_and(|from| may_write(from, SubjectState::Candidate))
}
