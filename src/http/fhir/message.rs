//! `$process-message`: a message Bundle is taken entry by entry, as at `$ingest`, and answered by a message that says what
//! became of it. What the event means beyond the resources in the message is not carried out, and that is said.

use std::collections::BTreeMap;

use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, web};

use super::bundle::{self, Became};
use super::{Door, blocking, one};
use crate::catalogue::Catalogue;
use crate::fhir::build;
use crate::fhir::build::parts::{Bundle, BundleEntry, Event, MessageAnswer};
use crate::fhir::bundle::{Kind, split};
use crate::fhir::{RawResource, is_id, view};
use crate::http::access::now_ms;
use crate::http::asked::Asked as Query;
use crate::http::body;
use crate::http::error::{FHIR_JSON, Outcome, Refusal};
use crate::issue::{Code, Disposition, Issue};
use crate::pipeline::entries::Asked;
use crate::pipeline::notify::{instant, uuid};
use crate::store::ledger::Prepared;

/// Issues that one answer names; the rest is counted.
const ISSUES_NAMED: usize = 100;

/// Events of HL7's list that ask for more than that the resources beside them be taken.
const COMMANDS: [&str; 4] = ["patient-link", "patient-unlink", "valueset-expand", "CodeSystem-expand"];

/// What is needed of a message to answer it.
struct Header {
    id: String,
    event: Event,
    source: Option<String>,
}

/// Takes one message.
pub async fn process(request: HttpRequest, payload: web::Payload, query: Query, door: Door) -> Result<HttpResponse, Refusal> {
    if query.get("async").is_some_and(|word| word != "false") || query.get("response-url").is_some() {
        return Err(Refusal::bad_request(
            "messages are answered at once",
            "leave out async and response-url; the answer to this request is the response",
        ));
    }
    if body::kind(&request)? == body::Kind::Ndjson {
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "NDJSON is not one message", "send NDJSON to /fhir/{site}/$ingest"));
    }
    let whole = body::read_whole(&request, payload, door.limits.bundle_bytes, &door.limits).await?;
    let (pipeline, site) = (door.pipeline.clone(), door.site.clone());
    let reading = move || {
        let catalogue = &pipeline.catalogue;
        read(catalogue, &site, &whole.bytes)
            .map_err(|issue| Box::new(Prepared::rejected("Bundle", &whole.bytes, &catalogue.sites[&site].hash, vec![issue])))
    };
    let (header, entries) = match blocking(reading).await? {
        Ok(message) => message,
        Err(refused) => {
            let receipt = one(door.intake.take(&door.site, &door.feed, vec![*refused]).await?);
            return Err(Refusal::rejected(receipt.issues));
        }
    };
    match bundle::take_all(&door, entries).await {
        Ok(became) => {
            let (status, code, outcome) = told(&header.event, &became);
            answer(&door, &header, status, code, &outcome, None)
        }
        // Nothing is lost: the sender keeps the message, and what was taken of it already counts once.
        Err(refusal) => answer(&door, &header, refusal.status, "transient-error", &Outcome::of_refusal(&refusal), refusal.retry_after_s),
    }
}

/// The error is about the envelope: without a header there is nothing to answer to.
fn read(catalogue: &Catalogue, site: &str, bytes: &[u8]) -> Result<(Header, Vec<Asked>), Issue> {
    let message = split(bytes)?;
    if message.kind != Kind::Message {
        return Err(Issue::new(Code::InvalidBundle, "Bundle.type").with_detail(message.kind.word()));
    }
    let first = match message.entries.first() {
        Some(Ok(entry)) => entry.resource,
        Some(Err(issue)) => return Err(issue.clone()),
        None => None,
    };
    let at = |element: &str| format!("Bundle.entry[0].resource{element}");
    let header = RawResource::parse(first.ok_or_else(|| Issue::new(Code::InvalidBundle, at("")))?).map_err(|issue| bundle::in_entry(0, &issue))?;
    let view = view::message_header(&header).map_err(|issue| match issue.code {
        Code::WrongResourceType => Issue::new(Code::InvalidBundle, at("")).with_detail("the first resource of a message is its MessageHeader"),
        _ => bundle::in_entry(0, &issue),
    })?;
    let id = view.id.filter(|id| is_id(id)).ok_or_else(|| Issue::new(Code::InvalidId, at(".id")))?.to_string();
    let event = match (view.event_coding, view.event_uri.or(view.event_canonical)) {
        (Some(coding), _) if coding.code.is_some() => {
            Event::Coding { system: coding.system.map(|system| system.to_string()), code: coding.code.as_deref().unwrap_or_default().to_owned() }
        }
        (_, Some(uri)) => Event::Uri(uri.to_string()),
        (_, None) => return Err(Issue::new(Code::Shape, at(".event"))),
    };
    let source = view.source.endpoint.or(view.source.endpoint_url).map(|endpoint| endpoint.to_string());
    Ok((Header { id, event, source }, bundle::ask(catalogue, site, &message)))
}

/// Status, response code and outcome of a message whose entries were taken.
fn told(event: &Event, became: &[Became]) -> (StatusCode, &'static str, Outcome) {
    let mut counts: BTreeMap<Disposition, usize> = BTreeMap::new();
    let mut nothing_held = 0;
    let mut issues = Vec::new();
    for (index, became) in became.iter().enumerate() {
        match became {
            Became::Taken { receipt, .. } | Became::Withdrawn(Some(receipt)) => {
                *counts.entry(receipt.disposition).or_default() += 1;
                issues.extend(receipt.issues.iter().map(|issue| bundle::in_entry(index, issue)));
            }
            Became::Withdrawn(None) => nothing_held += 1,
        }
    }
    let mut parts: Vec<String> = counts.iter().map(|(disposition, count)| format!("{count} {}", disposition.word())).collect();
    if 0 < nothing_held {
        parts.push(format!("{nothing_held} to withdraw that were not held"));
    }
    if ISSUES_NAMED < issues.len() {
        parts.push(format!("the first {ISSUES_NAMED} of {} issues follow", issues.len()));
        issues.truncate(ISSUES_NAMED);
    }
    let counted = parts.join(", ");
    let is_command = matches!(event, Event::Coding { code, .. } if COMMANDS.contains(&code.as_str()));
    if is_command {
        let text = format!("this event asks for more than taking resources, which is not done here; send Patient.link instead ({counted})");
        (StatusCode::UNPROCESSABLE_ENTITY, "fatal-error", Outcome::of_issues("error", "not-supported", &text, &issues))
    } else if counts.contains_key(&Disposition::Rejected) {
        let text = format!("part of this message was refused, the rest is taken; mend it and send it again ({counted})");
        (StatusCode::UNPROCESSABLE_ENTITY, "fatal-error", Outcome::of_issues("error", "processing", &text, &issues))
    } else {
        (StatusCode::OK, "ok", Outcome::of_issues("information", "informational", &format!("taken: {counted}"), &issues))
    }
}

fn answer(
    door: &Door,
    header: &Header,
    status: StatusCode,
    code: &str,
    outcome: &Outcome,
    retry_after_s: Option<u32>,
) -> Result<HttpResponse, Refusal> {
    let (id, outcome_url) = (uuid(), format!("urn:uuid:{}", uuid()));
    let answering = build::message_answer(&MessageAnswer {
        id: id.clone(),
        event: header.event.clone(),
        destination: header.source.clone(),
        source_name: "nephrogate".to_owned(),
        source: format!("{}/fhir/{}/$process-message", door.base, door.site),
        answers: header.id.clone(),
        code: code.to_owned(),
        outcome: outcome_url.clone(),
    })?;
    let entry = |full_url, resource| BundleEntry { full_url: Some(full_url), resource: Some(resource), ..BundleEntry::default() };
    let message = Bundle {
        id: Some(uuid()),
        kind: "message".to_owned(),
        timestamp: Some(instant(now_ms())),
        entry: vec![entry(format!("urn:uuid:{id}"), answering), entry(outcome_url, outcome.to_json())],
        ..Bundle::default()
    };
    let mut response = HttpResponse::build(status);
    if let Some(seconds) = retry_after_s {
        response.insert_header((header::RETRY_AFTER, seconds.to_string()));
    }
    Ok(response.content_type(FHIR_JSON).body(build::bundle(&message)?))
}
