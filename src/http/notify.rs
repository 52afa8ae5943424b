//! Where a source's Subscriptions notify: `/notify/{site}/{feed}`, and `/{type}/{id}` behind it, as servers write that send a
//! rest-hook as if they wrote the resource. What is told is kept as hints before it is answered, and read at the source by
//! its feed; nothing that was sent here becomes a fact. The source proves itself by the secret that its Subscription holds.

use actix_web::dev::ServiceRequest;
use actix_web::http::{Method, StatusCode};
use actix_web::web::{self, Data};
use actix_web::{HttpRequest, HttpResponse};

use super::Route;
use super::access::{Who, bearer, now_ms};
use super::body::{self, Kind, Limits};
use super::error::{FHIR_JSON, Outcome, Refusal};
use super::openapi::{Answer, Says};
use crate::digest::sha256_hex;
use crate::fhir::notification::{self, Focus, Notification};
use crate::fhir::{is_id, is_type};
use crate::issue::{Code, Issue};
use crate::store::{Store, notified};

const FHIR: &str = "application/fhir+json";

const HEARD: &[Answer] = &[
    Answer::json(200, FHIR, "OperationOutcome", "heard, and kept: what changed is read at the source"),
    Answer::json(400, FHIR, "OperationOutcome", "not JSON, or no notification"),
    Answer::json(408, FHIR, "OperationOutcome", "the body did not arrive in time"),
    Answer::json(413, FHIR, "OperationOutcome", "too large"),
    Answer::json(415, FHIR, "OperationOutcome", "another content type or encoding"),
    Answer::json(422, FHIR, "OperationOutcome", "a notification whose status cannot be read"),
    Answer::json(503, FHIR, "OperationOutcome", "come again after Retry-After"),
];

pub fn routes() -> Vec<Route> {
    const MEDIA: &[&str] = &[FHIR, "application/json"];
    const ANY: &str = "/notify/{site}/{feed}";
    const ONE: &str = "/notify/{site}/{feed}/{type}/{id}";
    let route = |method, path, says, mount| Route::described(method, path, Who::Source, says, mount);
    let takes = |summary| Says::new(summary, HEARD).takes(MEDIA, "Resource");
    vec![
        route(Method::POST, ANY, takes("Hears a notification of a Subscription of this gateway at a source; the body may be empty"), || {
            web::post().to(of_body)
        }),
        route(Method::PUT, ANY, takes("As POST, for sources that write so"), || web::put().to(of_body)),
        route(Method::PUT, ONE, takes("Hears that this resource changed at the source"), || web::put().to(of_address)),
        route(Method::POST, ONE, takes("As PUT, for sources that write so"), || web::post().to(of_address)),
        route(Method::DELETE, ONE, Says::new("Hears that this resource was deleted at the source", HEARD), || web::delete().to(of_address)),
    ]
}

/// The feed that an address names.
#[derive(serde::Deserialize)]
struct Named {
    site: String,
    feed: String,
    #[serde(rename = "type")]
    resource_type: Option<String>,
    id: Option<String>,
}

/// Lets in who shows a secret of the feed that the address names. Who does not learns nothing, not even whether there is such
/// a feed.
pub(super) async fn admit(request: &ServiceRequest) -> Result<(), Refusal> {
    let refuse = || Refusal::new(StatusCode::UNAUTHORIZED, "no feed here listens to this secret", "send the header that the Subscription holds");
    let hash = sha256_hex(bearer(request.head()).ok_or_else(refuse)?.as_bytes());
    let part = |name: &str| request.match_info().get(name).unwrap_or_default().to_owned();
    let (site, feed, now_ms) = (part("site"), part("feed"), now_ms());
    let store = request.app_data::<Data<Store>>().cloned().expect("http::configure sets the store");
    let known = store.read(move |tx| notified::secrets(tx, &site, &feed, now_ms)).await?;
    let is_same = |known: &&String| aws_lc_rs::constant_time::verify_slices_are_equal(known.as_bytes(), hash.as_bytes()).is_ok();
    // Each is compared, so that the time tells nothing.
    if known.iter().filter(is_same).count() == 0 { Err(refuse()) } else { Ok(()) }
}

async fn read_body(request: &HttpRequest, payload: web::Payload, limits: &Limits) -> Result<Vec<u8>, Refusal> {
    let bytes = body::read_whole(request, payload, limits.single_bytes, limits).await?.bytes;
    // Without a body its type says nothing: HAPI FHIR then calls it a form.
    if !bytes.trim_ascii().is_empty() && body::kind(request)? == Kind::Ndjson {
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "NDJSON is no notification", "send application/fhir+json"));
    }
    Ok(bytes)
}

async fn of_body(
    named: web::Path<Named>,
    request: HttpRequest,
    payload: web::Payload,
    store: Data<Store>,
    limits: Data<Limits>,
) -> Result<HttpResponse, Refusal> {
    let bytes = read_body(&request, payload, &limits).await?;
    let notification = notification::read(&bytes).map_err(|issue| Refusal::rejected(vec![issue]))?;
    hear(&store, &named, notification).await
}

async fn of_address(
    named: web::Path<Named>,
    request: HttpRequest,
    payload: web::Payload,
    store: Data<Store>,
    limits: Data<Limits>,
) -> Result<HttpResponse, Refusal> {
    let rejected = |code, path: &str| Refusal::rejected(vec![Issue::new(code, path)]);
    let resource_type = named.resource_type.clone().filter(|word| is_type(word)).ok_or_else(|| rejected(Code::WrongResourceType, "resourceType"))?;
    let id = named.id.clone().filter(|id| is_id(id)).ok_or_else(|| rejected(Code::InvalidId, "id"))?;
    let bytes = read_body(&request, payload, &limits).await?;
    if !bytes.trim_ascii().is_empty() {
        let (sent_type, sent_id) = notification::head(&bytes).map_err(|issue| Refusal::rejected(vec![issue]))?;
        if sent_type.as_ref() != Some(&resource_type) {
            return Err(rejected(Code::WrongResourceType, "resourceType"));
        }
        if sent_id.as_ref() != Some(&id) {
            return Err(rejected(Code::InvalidId, "id"));
        }
    }
    hear(&store, &named, Notification::of_address(Focus { resource_type, id })).await
}

async fn hear(store: &Store, named: &Named, notification: Notification) -> Result<HttpResponse, Refusal> {
    let (kind, events) = (notification.kind.word(), notification.events.len());
    let (site, feed, now_ms) = (named.site.clone(), named.feed.clone(), now_ms());
    let delay_ms = notification.events.iter().filter_map(|event| event.at_ms).min().map(|at_ms| now_ms - at_ms);
    store.write(move |tx| notified::hear(tx, &site, &feed, &notification, now_ms)).await?;
    tracing::info!(site = named.site, feed = named.feed, kind, events, delay_ms, "a source notifies");
    let outcome = Outcome::single("information", "informational", "heard: what changed is read at the source");
    Ok(HttpResponse::Ok().content_type(FHIR_JSON).body(outcome.to_json()))
}
