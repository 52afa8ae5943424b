//! What became of cards: each client tells what its users did, and the study sees how its cards are taken.

use actix_web::http::Method;
use actix_web::web::{self, Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};

use super::{card, known_service, read_body, token};
use crate::http::Route;
use crate::http::access::{Person, Who, now_ms};
use crate::http::asked::{Asked, BAD_REQUEST, BUSY, JSON, NOT_FOUND, json, known_site, known_study};
use crate::http::body::Limits;
use crate::http::error::Refusal;
use crate::http::openapi::{Answer, Parameter, Says};
use crate::pipeline::Pipeline;
use crate::store::Store;
use crate::store::cards::{self, Counts, Outcome, OverrideReason};

/// Answers in one call.
const ENTRIES_MAX: usize = 200;

#[derive(Deserialize)]
struct Told {
    feedback: Vec<Entry>,
}

/// What one user did with one card. A comment may say anything about the patient, so that it is not read.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    card: String,
    outcome: OutcomeWord,
    #[serde(default)]
    override_reason: Option<Overridden>,
    outcome_timestamp: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum OutcomeWord {
    Accepted,
    Overridden,
}

#[derive(Deserialize)]
struct Overridden {
    #[serde(default)]
    reason: Option<Coding>,
}

#[derive(Deserialize)]
struct Coding {
    #[serde(default)]
    system: Option<String>,
    #[serde(default)]
    code: Option<String>,
}

/// What was recorded.
#[derive(Serialize)]
struct Taken {
    recorded: usize,
    /// Cards that this client was not given here.
    unknown: usize,
}

pub async fn feedback(
    path: Path<String>,
    request: HttpRequest,
    payload: web::Payload,
    caller: token::Caller,
    pipeline: Data<Pipeline>,
    limits: Data<Limits>,
) -> Result<HttpResponse, Refusal> {
    let client = caller.0;
    let study = known_service(&pipeline.catalogue, &client, &path)?.id.clone();
    let whole = read_body(&request, payload, &limits).await?;
    let unreadable =
        |what: &'static str| Refusal::bad_request(what, "send feedback as CDS Hooks 2.0 says: card, outcome and outcomeTimestamp of each");
    let told: Told = serde_json::from_slice(&whole.bytes).map_err(|_| unreadable("the feedback cannot be read"))?;
    if told.feedback.is_empty() || ENTRIES_MAX < told.feedback.len() {
        return Err(Refusal::bad_request("feedback is empty or too long", format!("send 1 to {ENTRIES_MAX} answers at once")));
    }
    let now_ms = now_ms();
    let answers = told
        .feedback
        .into_iter()
        .map(|entry| {
            let at: jiff::Timestamp = entry.outcome_timestamp.parse().map_err(|_| unreadable("an outcomeTimestamp is not an instant"))?;
            let reason = entry.override_reason.and_then(|overridden| overridden.reason);
            let reason: Option<OverrideReason> = reason.map(|coding| card::override_reason(coding.system.as_deref(), coding.code.as_deref()));
            let outcome = match entry.outcome {
                OutcomeWord::Accepted => Outcome::Accepted,
                OutcomeWord::Overridden => Outcome::Overridden(reason),
            };
            // A clock that runs ahead must not make this the last word for ever.
            Ok((entry.card, outcome, at.as_millisecond().min(now_ms)))
        })
        .collect::<Result<Vec<_>, Refusal>>()?;
    let count = answers.len();
    let recorded = pipeline
        .store
        .write(move |tx| {
            let mut recorded = 0;
            for (card, outcome, at_ms) in &answers {
                recorded += usize::from(cards::answer(tx, &client.site, &study, &client.name(), card, *outcome, *at_ms)?);
            }
            Ok(recorded)
        })
        .await?;
    Ok(json(&Taken { recorded, unknown: count - recorded }))
}

/// Days that are counted where nothing is asked.
const DAYS: usize = 30;
const DAYS_MAX: usize = 3_660;
const DAY_MS: i64 = 86_400_000;

const PARAMETERS: &[Parameter] = &[
    Parameter::query("site", r#"{"type":"string"}"#, "site id; all that the token is good for, where it is left out"),
    Parameter::query("days", r#"{"type":"integer","minimum":1,"maximum":3660}"#, "cards shown in so many days before now; 30, where it is left out"),
];

pub fn counts_route() -> Route {
    Route::described(
        Method::GET,
        "/api/studies/{study}/cards",
        Who::Screener,
        Says::new(
            "How clinicians took the cards of a study: shown, accepted, overridden and why, unanswered, kept back by the alert budget",
            &[Answer::json(200, JSON, "CardCounts", "counts; names nobody"), BAD_REQUEST, NOT_FOUND, BUSY],
        )
        .asks(PARAMETERS),
        || web::get().to(counts),
    )
}

async fn counts(path: Path<String>, asked: Asked, person: Person, pipeline: Data<Pipeline>, store: Data<Store>) -> Result<HttpResponse, Refusal> {
    #[derive(Serialize)]
    struct Shown {
        study: String,
        site: Option<String>,
        since_ms: i64,
        cards: Counts,
    }
    asked.only(&["site", "days"], &[])?;
    let study = known_study(&pipeline.catalogue, &path)?.id.clone();
    let site = person.site_scope(asked.get("site"))?;
    if let Some(site) = &site {
        known_site(&pipeline.catalogue, site)?;
    }
    let days = asked.number("days", DAYS)?;
    if !(1..=DAYS_MAX).contains(&days) {
        return Err(Refusal::bad_request(format!("days is not from 1 to {DAYS_MAX}"), format!("leave it out for {DAYS}")));
    }
    let since_ms = now_ms() - DAY_MS * i64::try_from(days).unwrap_or(i64::MAX / DAY_MS);
    let (of, at) = (study.clone(), site.clone());
    let cards = store.read(move |tx| cards::counts(tx, &of, at.as_deref(), since_ms)).await?;
    Ok(json(&Shown { study, site, since_ms, cards }))
}
