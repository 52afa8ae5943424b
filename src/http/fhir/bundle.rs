//! Bundles are split on receipt: each entry is a message of its own. A batch and every other kind is taken entry by
//! entry; a transaction is taken whole or refused whole.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use rayon::prelude::*;

use super::{
    Door, answer_bundle, answer_single, blocking, entry_of_outcome, entry_of_receipt, held_to_address, is_id, is_type, nothing_held, one, prepare,
    version_of,
};
use crate::catalogue::Catalogue;
use crate::fhir::RawResource;
use crate::fhir::build::parts::BundleEntry;
use crate::fhir::bundle::{self, Entry, Kind, Method};
use crate::http::access::now_ms;
use crate::http::error::{Outcome, Refusal};
use crate::issue::{Code, Disposition, Issue};
use crate::pipeline::receive;
use crate::store::ledger::{Prepared, Receipt};

/// What one entry asks for.
enum Asked {
    /// A resource, prepared; `is_put` decides between 200 and 201.
    Message {
        message: Box<Prepared>,
        is_put: bool,
    },
    Withdraw {
        resource_type: String,
        id: String,
        if_match: Option<String>,
    },
}

struct Split {
    kind: Kind,
    entries: Vec<Asked>,
}

enum Body {
    Bundle(Split),
    /// Not a Bundle, or one that cannot be split.
    Single(Box<Prepared>),
}

/// Takes the body of the base address or of `$ingest`.
pub async fn take(door: &Door, bytes: Vec<u8>) -> Result<HttpResponse, Refusal> {
    let (pipeline, site, single_bytes) = (door.pipeline.clone(), door.site.clone(), door.limits.single_bytes);
    let body = blocking(move || read(&pipeline.catalogue, &site, &bytes, single_bytes)).await?;
    match body {
        Body::Single(message) => {
            let receipt = one(door.intake.take(&door.site, &door.feed, vec![*message]).await?);
            answer_single(&receipt, door, StatusCode::CREATED)
        }
        Body::Bundle(split) if split.kind == Kind::Transaction => take_transaction(door, split.entries).await,
        Body::Bundle(split) => take_each(door, split.entries).await,
    }
}

fn read(catalogue: &Catalogue, site: &str, bytes: &[u8], single_bytes: usize) -> Body {
    let issue = match bundle::split(bytes) {
        Ok(split) => {
            let entries =
                split.entries.par_iter().enumerate().map(|(index, entry)| prepare_entry(catalogue, site, split.kind, index, entry)).collect();
            return Body::Bundle(Split { kind: split.kind, entries });
        }
        Err(issue) => issue,
    };
    let mapping = &catalogue.sites[site].hash;
    let is_bundle = RawResource::parse(bytes).is_ok_and(|resource| resource.resource_type == "Bundle");
    Body::Single(Box::new(match is_bundle {
        true => Prepared::rejected("Bundle", bytes, mapping, vec![issue]),
        false if bytes.len() > single_bytes => Prepared::rejected("-", bytes, mapping, vec![Issue::new(Code::TooLarge, "")]),
        false => prepare(catalogue, site, bytes),
    }))
}

/// Batch and transaction entries say what to do; in other Bundles a resource is taken, and a DELETE of a history withdraws.
fn prepare_entry(catalogue: &Catalogue, site: &str, kind: Kind, index: usize, entry: &Result<Entry<'_>, Issue>) -> Asked {
    let mapping = &catalogue.sites[site].hash;
    let entry = match entry {
        Ok(entry) => entry,
        Err(issue) => return message(Prepared::rejected("-", &[], mapping, vec![issue.clone()]), false),
    };
    let bytes = entry.resource.unwrap_or_default();
    let bad = |element: &str| {
        let issue = Issue::new(Code::InvalidBundle, format!("Bundle.entry[{index}]{element}"));
        message(Prepared::rejected("-", bytes, mapping, vec![issue]), false)
    };
    let request = entry.request.as_ref();
    match (request.map(|request| request.method), entry.resource) {
        (Some(Method::Delete), _) => {
            let request = request.expect("a method stands in a request");
            let Some((resource_type, id)) = address(&request.url) else { return bad(".request.url") };
            let if_match = match request.if_match.as_deref().map(version_of) {
                Some(None) => return bad(".request.ifMatch"),
                Some(version) => version,
                None => None,
            };
            Asked::Withdraw { resource_type: resource_type.to_owned(), id: id.to_owned(), if_match }
        }
        (Some(Method::Put), Some(resource)) if kind.has_requests() => {
            let Some((resource_type, id)) = request.and_then(|request| address(&request.url)) else { return bad(".request.url") };
            message(held_to_address(prepare(catalogue, site, resource), resource_type, id), true)
        }
        (Some(Method::Post), Some(resource)) if kind.has_requests() => {
            let prepared = prepare(catalogue, site, resource);
            let is_type_asked = request.is_some_and(|request| last_segment(&request.url) == prepared.resource_type);
            if prepared.disposition != Disposition::Rejected && !is_type_asked { bad(".request.url") } else { message(prepared, false) }
        }
        (Some(Method::Get | Method::Head | Method::Patch | Method::Post | Method::Put), _) if kind.has_requests() => bad(".request.method"),
        (_, Some(resource)) => message(prepare(catalogue, site, resource), false),
        (_, None) => bad(".resource"),
    }
}

fn message(prepared: Prepared, is_put: bool) -> Asked {
    Asked::Message { message: Box::new(prepared), is_put }
}

fn last_segment(url: &str) -> &str {
    url.rsplit_once('/').map_or(url, |(_, last)| last)
}

/// `Type/id`, also behind a base URL; a search (`Type?...`) is none.
fn address(url: &str) -> Option<(&str, &str)> {
    let (rest, id) = url.rsplit_once('/')?;
    let resource_type = last_segment(rest);
    (is_type(resource_type) && is_id(id)).then_some((resource_type, id))
}

/// Entry by entry: messages are committed together, withdrawals after them.
async fn take_each(door: &Door, entries: Vec<Asked>) -> Result<HttpResponse, Refusal> {
    let mut answers: Vec<Option<BundleEntry>> = Vec::with_capacity(entries.len());
    let mut messages = Vec::new();
    let mut places = Vec::new();
    let mut withdrawals = Vec::new();
    for (index, asked) in entries.into_iter().enumerate() {
        answers.push(None);
        match asked {
            Asked::Message { message, is_put } => {
                places.push((index, taken(is_put)));
                messages.push(*message);
            }
            Asked::Withdraw { resource_type, id, if_match } => withdrawals.push((index, resource_type, id, if_match)),
        }
    }
    let receipts = door.intake.take(&door.site, &door.feed, messages).await?;
    for ((index, taken), receipt) in places.into_iter().zip(&receipts) {
        answers[index] = Some(entry_of_receipt(receipt, door, taken));
    }
    for (index, resource_type, id, if_match) in withdrawals {
        let receipt = door.withdraw(resource_type, id, if_match).await?;
        answers[index] = Some(of_withdrawal(receipt.as_ref()));
    }
    let answers: Vec<BundleEntry> = answers.into_iter().map(|answer| answer.expect("each entry is answered")).collect();
    answer_bundle("batch-response", answers)
}

fn taken(is_put: bool) -> StatusCode {
    if is_put { StatusCode::OK } else { StatusCode::CREATED }
}

fn of_withdrawal(receipt: Option<&Receipt>) -> BundleEntry {
    let outcome = match receipt {
        Some(receipt) => Outcome::of_disposition(receipt.disposition, &receipt.issues),
        None => nothing_held(),
    };
    entry_of_outcome(StatusCode::OK, &outcome)
}

/// All or nothing: one rejected entry refuses the whole Bundle, which then leaves one rejected message behind.
async fn take_transaction(door: &Door, entries: Vec<Asked>) -> Result<HttpResponse, Refusal> {
    let mut issues = Vec::new();
    for (index, asked) in entries.iter().enumerate() {
        if let Asked::Message { message, .. } = asked
            && message.disposition == Disposition::Rejected
        {
            issues.extend(message.issues.iter().map(|issue| in_entry(index, issue)));
        }
    }
    if !issues.is_empty() {
        let hashes: Vec<u8> = entries
            .iter()
            .flat_map(|asked| if let Asked::Message { message, .. } = asked { message.body_hash.clone().into_bytes() } else { Vec::new() })
            .collect();
        let whole = Prepared::rejected("Bundle", &hashes, &door.pipeline.catalogue.sites[&door.site].hash, issues.clone());
        door.intake.take(&door.site, &door.feed, vec![whole]).await?;
        return Err(Refusal::rejected(issues));
    }
    let mut messages = Vec::new();
    let mut withdrawals = Vec::new();
    let mut order = Vec::new();
    for asked in entries {
        match asked {
            Asked::Message { message, is_put } => {
                order.push((true, taken(is_put)));
                messages.push(*message);
            }
            Asked::Withdraw { resource_type, id, if_match } => {
                order.push((false, StatusCode::OK));
                withdrawals.push((resource_type, id, if_match));
            }
        }
    }
    let (pipeline, site, feed) = (door.pipeline.clone(), door.site.clone(), door.feed.clone());
    let (receipts, withdrawn) = if withdrawals.is_empty() {
        (door.intake.take(&door.site, &door.feed, messages).await?, Vec::new())
    } else {
        blocking(move || receive::receive_and_withdraw(&pipeline, &site, &feed, now_ms(), &messages, &withdrawals)).await??
    };
    let (mut receipts, mut withdrawn) = (receipts.iter(), withdrawn.iter());
    let answers: Vec<BundleEntry> = order
        .into_iter()
        .map(|(is_message, taken)| match is_message {
            true => entry_of_receipt(receipts.next().expect("one message gives one receipt"), door, taken),
            false => of_withdrawal(withdrawn.next().expect("one withdrawal gives one answer").as_ref()),
        })
        .collect();
    answer_bundle("transaction-response", answers)
}

/// An issue of one entry, with the entry's place in its path.
fn in_entry(index: usize, issue: &Issue) -> Issue {
    if issue.path.starts_with("Bundle.entry") {
        return issue.clone();
    }
    let path = match issue.path.split_once('.') {
        Some((_, element)) => format!("Bundle.entry[{index}].resource.{element}"),
        None => format!("Bundle.entry[{index}].resource"),
    };
    Issue { code: issue.code, path, detail: issue.detail.clone() }
}
