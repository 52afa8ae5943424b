//! What came in and what became of it: counts, quarantine, traces, bytes, freshness.

use actix_web::HttpResponse;
use actix_web::http::Method;
use actix_web::web::{self, Data, Path};
use serde::Serialize;

use super::Route;
use super::access::{self, Person, Who};
use super::asked::{Asked, BAD_REQUEST, BUSY, JSON, NOT_FOUND, PAGE_PARAMETER, json, known_site};
use super::error::Refusal;
use super::openapi::{Answer, Says};
use crate::catalogue::Catalogue;
use crate::hl7;
use crate::rules::CriterionVerdict;
use crate::store::Store;
use crate::store::messages::{self, Conservation, Derived, Freshness, Message};
use crate::store::screening::{self, Card};

/// Messages of a page of the quarantine.
const QUARANTINE_ROWS: usize = 100;

pub fn routes() -> Vec<Route> {
    vec![
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
    ]
}

async fn conservation(path: Path<String>, store: Data<Store>, catalogue: Data<Catalogue>) -> Result<HttpResponse, Refusal> {
    let site = path.into_inner();
    known_site(&catalogue, &site)?;
    let counts: Conservation = store.read(move |tx| messages::conservation(tx, &site)).await?;
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
    let (messages, total) = store.read(move |tx| messages::quarantine(tx, &asked_site, page)).await?;
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
    /// What an HL7 v2 message says.
    derived: &'a [Derived],
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
            let Some(message) = messages::message(tx, &asked_site, number)? else { return Ok(None) };
            let mut verdicts = Vec::new();
            for study in message.subject.iter().flat_map(|_| &studies) {
                let subject = message.subject.as_deref().unwrap_or_default();
                verdicts.extend(screening::card(tx, &asked_site, subject, study)?.map(|card| verdict_trace(&card, number)));
            }
            let derived = messages::derived(tx, &asked_site, number)?;
            Ok(Some((message, derived, verdicts)))
        })
        .await?;
    let (message, derived, verdicts) = found.ok_or_else(no_such_message)?;
    access::record(&store, &person, "message", "", subjects_of_messages(std::slice::from_ref(&message))).await?;
    Ok(json(&Trace { has_body: message.body.is_some(), message: &message, derived: &derived, verdicts }))
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
    let message = store.read(move |tx| messages::message(tx, &site, number)).await?.ok_or_else(no_such_message)?;
    access::record(&store, &person, "message body", "", subjects_of_messages(std::slice::from_ref(&message))).await?;
    let body =
        message.body.ok_or_else(|| Refusal::not_found("no bytes of this message are kept", "only hash and reason are kept of what was rejected"))?;
    let content_type = if hl7::is_message(&body) { "x-application/hl7-v2+er7" } else { "application/fhir+json" };
    Ok(HttpResponse::Ok().content_type(content_type).body(body))
}

async fn freshness(person: Person, store: Data<Store>) -> Result<HttpResponse, Refusal> {
    #[derive(Serialize)]
    struct FreshnessList {
        feeds: Vec<Freshness>,
    }
    let site = person.site_scope(None)?;
    let feeds = store.read(move |tx| messages::freshness(tx, site.as_deref())).await?;
    Ok(json(&FreshnessList { feeds }))
}
