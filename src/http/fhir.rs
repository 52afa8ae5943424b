//! The FHIR door of one site: resources, Bundles and NDJSON come in (rulings.md 21 to 23), and what we hold is read.
//!
//! One resource is one message. It is prepared on a blocking thread, committed by the intake line, and only then
//! answered. No answer and no log line holds a value of a patient.

mod audit;
mod bundle;
mod capability;
mod history;
mod message;
mod ndjson;
mod provenance;
mod read;
mod subscription;

use std::future::{Ready, ready};

use actix_web::http::{Method, StatusCode, header};
use actix_web::web::{self, Data, Path};
use actix_web::{FromRequest, HttpRequest, HttpResponse};

use super::access::{Person, Tokens, Who, now_ms};
use super::body::{self, Kind, Limits};
use super::error::{FHIR_JSON, Outcome, Refusal, rejection_status};
use super::openapi::{Answer, Parameter, Says};
use super::{Links, Route, configured};
use crate::catalogue::Catalogue;
use crate::fhir::build;
use crate::fhir::build::parts::{Bundle, BundleEntry, EntryResponse};
use crate::fhir::{is_id, is_type};
use crate::issue::{Code, Disposition, Effect, Issue};
use crate::pipeline::entries::{Withdrawal, version_of};
use crate::pipeline::intake::Intake;
use crate::pipeline::{Pipeline, receive};
use crate::store::Store;
use crate::store::ledger::{Prepared, Receipt};

const FHIR: &str = "application/fhir+json";

const TAKEN: &[Answer] = &[
    Answer::json(200, FHIR, "OperationOutcome", "taken, or taken before"),
    Answer::json(201, FHIR, "OperationOutcome", "taken"),
    Answer::json(202, FHIR, "OperationOutcome", "kept but not used (quarantined), or out of scope and counted"),
    Answer::json(400, FHIR, "OperationOutcome", "not JSON, not FHIR, or not this type or id"),
    Answer::json(404, FHIR, "OperationOutcome", "unknown site"),
    Answer::json(408, FHIR, "OperationOutcome", "the body did not arrive in time"),
    Answer::json(413, FHIR, "OperationOutcome", "too large"),
    Answer::json(415, FHIR, "OperationOutcome", "another content type or encoding"),
    Answer::json(422, FHIR, "OperationOutcome", "FHIR that breaks its profile"),
    Answer::json(503, FHIR, "OperationOutcome", "come again after Retry-After"),
];

const BUNDLE_TAKEN: &[Answer] = &[
    Answer::json(200, FHIR, "Bundle", "one entry for each entry or line, in their order"),
    Answer::json(201, FHIR, "OperationOutcome", "a single resource, taken"),
    Answer::json(202, FHIR, "OperationOutcome", "a single resource, kept but not used, or out of scope and counted"),
    Answer::json(400, FHIR, "OperationOutcome", "not a Bundle that can be split, or a transaction with a rejected entry"),
    Answer::json(404, FHIR, "OperationOutcome", "unknown site"),
    Answer::json(408, FHIR, "OperationOutcome", "the body did not arrive in time"),
    Answer::json(413, FHIR, "OperationOutcome", "too large"),
    Answer::json(415, FHIR, "OperationOutcome", "another content type or encoding"),
    Answer::json(422, FHIR, "OperationOutcome", "a single resource that breaks its profile"),
    Answer::json(503, FHIR, "OperationOutcome", "come again after Retry-After"),
];

const MESSAGE_TAKEN: &[Answer] = &[
    Answer::json(200, FHIR, "Bundle", "a message: ok"),
    Answer::json(400, FHIR, "OperationOutcome", "not a message Bundle with its MessageHeader first, or asked to be answered elsewhere"),
    Answer::json(404, FHIR, "OperationOutcome", "unknown site"),
    Answer::json(408, FHIR, "OperationOutcome", "the body did not arrive in time"),
    Answer::json(413, FHIR, "OperationOutcome", "too large"),
    Answer::json(415, FHIR, "OperationOutcome", "another content type or encoding"),
    Answer::json(422, FHIR, "Bundle", "a message: fatal-error; part of it was refused, or its event is not carried out"),
    Answer::json(503, FHIR, "Bundle", "a message: transient-error; come again after Retry-After"),
];

const DELETED: &[Answer] = &[
    Answer::json(200, FHIR, "OperationOutcome", "withdrawn"),
    Answer::json(404, FHIR, "OperationOutcome", "unknown site"),
    Answer::json(400, FHIR, "OperationOutcome", "not a resource id, or an If-Match that is not one version"),
    Answer::json(503, FHIR, "OperationOutcome", "come again after Retry-After"),
];

const IF_MATCH: &[Parameter] = &[Parameter::header("If-Match", r#"{"type":"string"}"#, "W/\"version\": withdraws every version up to this one")];

const PROCESSED: &[Parameter] = &[
    Parameter::query("async", r#"{"type":"boolean"}"#, "only false: messages are answered at once"),
    Parameter::query("response-url", r#"{"type":"string"}"#, "refused: the answer to the request is the response"),
];

pub fn routes() -> Vec<Route> {
    let takes = |summary, answers, shape| Says::new(summary, answers).takes(&[FHIR, "application/json"], shape);
    // `$ingest`, `$process-message`, `Bundle`, `metadata`, Subscription and `_history` stand before `{type}` and `{id}`, which would fit them too.
    let mut routes = vec![
        Route::described(
            Method::POST,
            "/fhir/{site}",
            Who::Feed,
            takes("Takes a transaction, all or nothing, or a batch or any other Bundle, entry by entry", BUNDLE_TAKEN, "Resource"),
            || web::post().to(take_bundle),
        ),
        Route::described(
            Method::POST,
            "/fhir/{site}/$ingest",
            Who::Feed,
            Says::new("Takes each entry of a Bundle of any kind, or each line of NDJSON", BUNDLE_TAKEN)
                .takes(&[FHIR, "application/json", "application/fhir+ndjson", "application/x-ndjson"], "Resource"),
            || web::post().to(take_bundle),
        ),
        Route::described(
            Method::POST,
            "/fhir/{site}/$process-message",
            Who::Feed,
            takes("Takes a message, entry by entry, and answers it by a message", MESSAGE_TAKEN, "Bundle").asks(PROCESSED),
            || web::post().to(message::process),
        ),
        Route::described(
            Method::POST,
            "/fhir/{site}/Bundle",
            Who::Feed,
            takes("Takes each entry of a Bundle, as $ingest does; the Bundle itself is not kept", BUNDLE_TAKEN, "Bundle"),
            || web::post().to(take_posted_bundle),
        ),
        Route::described(
            Method::POST,
            "/fhir/{site}/{type}",
            Who::Feed,
            takes("Takes one resource; its own id is the source's id", TAKEN, "Pushed"),
            || web::post().to(take_posted),
        ),
        Route::described(Method::PUT, "/fhir/{site}/{type}/{id}", Who::Feed, takes("Takes one version of one resource", TAKEN, "Pushed"), || {
            web::put().to(take_put)
        }),
        Route::described(
            Method::DELETE,
            "/fhir/{site}/{type}/{id}",
            Who::Feed,
            Says::new("Withdraws what the source deleted; what used it is judged again", DELETED).asks(IF_MATCH),
            || web::delete().to(withdraw),
        ),
    ];
    let mut fitting = subscription::routes();
    fitting.extend(history::routes());
    fitting.extend(read::routes());
    routes.splice(4..4, fitting);
    routes
}

/// 404 for a site that this gateway does not have.
fn known_site(catalogue: &Catalogue, site: &str) -> Result<(), Refusal> {
    if catalogue.sites.contains_key(site) {
        return Ok(());
    }
    Err(Refusal::not_found("this gateway has no such site", "use the site id of the configuration, as in /fhir/{site}"))
}

/// Prepares one resource of a known site.
fn prepare(catalogue: &Catalogue, site: &str, bytes: &[u8]) -> Prepared {
    receive::prepare(catalogue, &catalogue.sites[site], bytes)
}

fn checked_type(resource_type: &str) -> Result<(), Refusal> {
    if is_type(resource_type) { Ok(()) } else { Err(Refusal::not_found("this is not a FHIR resource type", "see metadata for what is served")) }
}

/// Runs blocking work on a blocking thread.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
    web::block(work).await.map_err(|_| Refusal::busy("the gateway is stopping", 10))
}

/// Somebody who asks for what we hold of one known site.
struct Reader {
    site: String,
    person: Person,
    /// Where addresses of this site's resources begin.
    base: String,
    pipeline: Data<Pipeline>,
}

impl FromRequest for Reader {
    type Error = Refusal;
    type Future = Ready<Result<Reader, Refusal>>;

    fn from_request(request: &HttpRequest, _: &mut actix_web::dev::Payload) -> Self::Future {
        ready(Reader::of(request))
    }
}

impl Reader {
    fn of(request: &HttpRequest) -> Result<Reader, Refusal> {
        let pipeline: Data<Pipeline> = configured(request);
        let site = request.match_info().get("site").unwrap_or_default().to_owned();
        known_site(&pipeline.catalogue, &site)?;
        let base = format!("{}/fhir/{site}", configured::<Links>(request).base(request));
        Ok(Reader { site, person: Person::extract(request).into_inner()?, base, pipeline })
    }

    fn store(&self) -> &Store {
        &self.pipeline.store
    }
}

/// One feed at one known site, for the time of one request.
struct Door {
    site: String,
    feed: String,
    /// Where links in answers begin.
    base: String,
    pipeline: Data<Pipeline>,
    intake: Data<Intake>,
    limits: Data<Limits>,
}

impl FromRequest for Door {
    type Error = Refusal;
    type Future = Ready<Result<Door, Refusal>>;

    fn from_request(request: &HttpRequest, _: &mut actix_web::dev::Payload) -> Self::Future {
        ready(Door::of(request))
    }
}

impl Door {
    fn of(request: &HttpRequest) -> Result<Door, Refusal> {
        let pipeline: Data<Pipeline> = configured(request);
        let site = request.match_info().get("site").unwrap_or_default().to_owned();
        known_site(&pipeline.catalogue, &site)?;
        let person = Person::extract(request).into_inner()?;
        let has_tokens = request.app_data::<Data<Tokens>>().is_some_and(|tokens| !tokens.tokens.is_empty());
        // The feed's name is its token's.
        let feed = if has_tokens { person.name } else { "push".to_owned() };
        let base = configured::<Links>(request).base(request);
        Ok(Door { site, feed, base, pipeline, intake: configured(request), limits: configured(request) })
    }

    /// Reads, prepares and takes one resource; `check` may turn what was prepared into a rejection.
    async fn take_one(&self, request: &HttpRequest, payload: web::Payload, check: impl FnOnce(Prepared) -> Prepared) -> Result<Receipt, Refusal> {
        if body::kind(request)? == Kind::Ndjson {
            return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "NDJSON is not one resource", "send NDJSON to /fhir/{site}/$ingest"));
        }
        let whole = body::read_whole(request, payload, self.limits.single_bytes, &self.limits).await?;
        let (catalogue, site) = (self.pipeline.catalogue.clone(), self.site.clone());
        let message = check(blocking(move || prepare(&catalogue, &site, &whole.bytes)).await?);
        Ok(one(self.intake.take(&self.site, &self.feed, vec![message]).await?))
    }

    /// Withdraws and judges again; `None` where nothing of that id was held.
    async fn withdraw(&self, withdrawal: Withdrawal) -> Result<Option<Receipt>, Refusal> {
        let (pipeline, site, feed) = (self.pipeline.clone(), self.site.clone(), self.feed.clone());
        Ok(blocking(move || receive::withdraw(&pipeline, &site, &feed, now_ms(), &withdrawal)).await??)
    }
}

async fn take_posted(path: Path<(String, String)>, request: HttpRequest, payload: web::Payload, door: Door) -> Result<HttpResponse, Refusal> {
    let (_, resource_type) = path.into_inner();
    checked_type(&resource_type)?;
    let check = |message: Prepared| match message.disposition != Disposition::Rejected && message.resource_type != resource_type {
        true => message.into_rejected(Issue::new(Code::WrongResourceType, "resourceType")),
        false => message,
    };
    let receipt = door.take_one(&request, payload, check).await?;
    answer_single(&receipt, &door, StatusCode::CREATED)
}

async fn take_put(path: Path<(String, String, String)>, request: HttpRequest, payload: web::Payload, door: Door) -> Result<HttpResponse, Refusal> {
    let (_, resource_type, id) = path.into_inner();
    checked_type(&resource_type)?;
    let receipt = door.take_one(&request, payload, |message| message.held_to_address(&resource_type, &id)).await?;
    answer_single(&receipt, &door, StatusCode::OK)
}

fn one(receipts: Vec<Receipt>) -> Receipt {
    receipts.into_iter().next().expect("one message gives one receipt")
}

async fn withdraw(path: Path<(String, String, String)>, request: HttpRequest, door: Door) -> Result<HttpResponse, Refusal> {
    let (_, resource_type, id) = path.into_inner();
    checked_type(&resource_type)?;
    if !is_id(&id) {
        return Err(Refusal::rejected(vec![Issue::new(Code::InvalidId, format!("{resource_type}.id"))]));
    }
    let not_one = || Refusal::bad_request("If-Match is not one version", "send If-Match: W/\"version\", or leave it out");
    let if_match = match request.headers().get(header::IF_MATCH) {
        None => None,
        Some(value) => Some(value.to_str().ok().and_then(version_of).ok_or_else(not_one)?),
    };
    let receipt = door.withdraw(Withdrawal { resource_type, id, if_match, deleted_ms: None }).await?;
    let outcome = match &receipt {
        Some(receipt) => Outcome::of_disposition(receipt.disposition, &receipt.issues),
        None => nothing_held(),
    };
    Ok(HttpResponse::Ok().content_type(FHIR_JSON).body(outcome.to_json()))
}

fn nothing_held() -> Outcome {
    Outcome::single("information", "informational", "nothing of this id was held; nothing to withdraw")
}

/// The status of one message: `taken` for what was applied.
fn status_of(disposition: Disposition, issues: &[Issue], taken: StatusCode) -> StatusCode {
    match disposition {
        Disposition::Applied => taken,
        Disposition::Duplicate | Disposition::Superseded | Disposition::Echo => StatusCode::OK,
        Disposition::Quarantined | Disposition::OutOfScope => StatusCode::ACCEPTED,
        Disposition::Rejected => {
            rejection_status(issues.iter().map(|issue| issue.code).find(|code| code.effect() == Effect::Reject).unwrap_or(Code::Shape))
        }
    }
}

fn etag(version: &str) -> String {
    format!("W/\"{version}\"")
}

/// Where a resource can be read here; out-of-scope and rejected ones cannot.
fn location(door: &Door, receipt: &Receipt) -> Option<String> {
    let id = receipt.id.as_deref()?;
    let is_here = matches!(receipt.disposition, Disposition::Applied | Disposition::Duplicate | Disposition::Superseded | Disposition::Quarantined);
    is_here.then(|| format!("{}/fhir/{}/{}/{id}", door.base, door.site, receipt.resource_type))
}

fn answer_single(receipt: &Receipt, door: &Door, taken: StatusCode) -> Result<HttpResponse, Refusal> {
    if receipt.disposition == Disposition::Rejected {
        return Err(Refusal::rejected(receipt.issues.clone()));
    }
    let mut answer = HttpResponse::build(status_of(receipt.disposition, &receipt.issues, taken));
    if let Some(location) = location(door, receipt) {
        answer.insert_header((header::LOCATION, location));
        if let Some(version) = receipt.version.as_deref().filter(|version| is_id(version)) {
            answer.insert_header((header::ETAG, etag(version)));
        }
    }
    let outcome = Outcome::of_disposition(receipt.disposition, &receipt.issues);
    Ok(answer.content_type(FHIR_JSON).body(outcome.to_json()))
}

/// A Bundle of any kind, a single resource, or NDJSON: the base address and `$ingest`.
async fn take_bundle(request: HttpRequest, payload: web::Payload, door: Door) -> Result<HttpResponse, Refusal> {
    match body::kind(&request)? {
        Kind::Ndjson => ndjson::take(&door, &request, payload).await,
        Kind::Json => {
            let whole = body::read_whole(&request, payload, door.limits.bundle_bytes, &door.limits).await?;
            bundle::take(&door, whole.bytes).await
        }
    }
}

/// A Bundle at the address of its type, where document sources send what they would have kept.
async fn take_posted_bundle(request: HttpRequest, payload: web::Payload, door: Door) -> Result<HttpResponse, Refusal> {
    if body::kind(&request)? == Kind::Ndjson {
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "NDJSON is not one Bundle", "send NDJSON to /fhir/{site}/$ingest"));
    }
    let whole = body::read_whole(&request, payload, door.limits.bundle_bytes, &door.limits).await?;
    bundle::take_bundle(&door, whole.bytes).await
}

/// One entry of a `batch-response` or `transaction-response`; the outcome is left out where the status says all.
fn entry_of_receipt(receipt: &Receipt, door: &Door, taken: StatusCode) -> BundleEntry {
    let is_plain = receipt.disposition == Disposition::Applied && receipt.issues.is_empty();
    let location = location(door, receipt);
    let response = EntryResponse {
        status: status_line(status_of(receipt.disposition, &receipt.issues, taken)),
        etag: location.as_ref().and(receipt.version.as_deref()).filter(|version| is_id(version)).map(etag),
        location,
        last_modified: None,
        outcome: (!is_plain).then(|| Outcome::of_disposition(receipt.disposition, &receipt.issues).to_json()),
    };
    BundleEntry { response: Some(response), ..BundleEntry::default() }
}

fn entry_of_outcome(status: StatusCode, outcome: &Outcome) -> BundleEntry {
    let response = EntryResponse { status: status_line(status), outcome: Some(outcome.to_json()), ..EntryResponse::default() };
    BundleEntry { response: Some(response), ..BundleEntry::default() }
}

fn status_line(status: StatusCode) -> String {
    format!("{} {}", status.as_u16(), status.canonical_reason().unwrap_or_default())
}

fn answer_bundle(kind: &str, entry: Vec<BundleEntry>) -> Result<HttpResponse, Refusal> {
    let bundle = Bundle { kind: kind.to_owned(), entry, ..Bundle::default() };
    Ok(HttpResponse::Ok().content_type(FHIR_JSON).body(build::bundle(&bundle)?))
}
