//! Bundles are split on receipt: each entry is a message of its own. A batch and every other kind is taken entry by
//! entry; a transaction is taken whole or refused whole.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use rayon::prelude::*;

use super::{Door, answer_bundle, answer_single, blocking, entry_of_outcome, entry_of_receipt, nothing_held, one, prepare};
use crate::catalogue::Catalogue;
use crate::fhir::RawResource;
use crate::fhir::build::parts::BundleEntry;
use crate::fhir::bundle::{self, Kind};
use crate::http::access::now_ms;
use crate::http::error::{Outcome, Refusal};
use crate::issue::{Code, Disposition, Issue};
use crate::pipeline::entries::{Asked, Reader};
use crate::pipeline::receive;
use crate::store::ledger::{Prepared, Receipt};

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
    take_checked(door, bytes, |message| message).await
}

/// Takes the body of the address of Bundles.
pub async fn take_bundle(door: &Door, bytes: Vec<u8>) -> Result<HttpResponse, Refusal> {
    let check = |message: Prepared| match message.disposition {
        Disposition::Rejected => message,
        Disposition::Applied
        | Disposition::Duplicate
        | Disposition::Superseded
        | Disposition::Quarantined
        | Disposition::OutOfScope
        | Disposition::Echo => message.into_rejected(Issue::new(Code::WrongResourceType, "resourceType")),
    };
    take_checked(door, bytes, check).await
}

/// `check` may turn a single resource into a rejection.
async fn take_checked(door: &Door, bytes: Vec<u8>, check: fn(Prepared) -> Prepared) -> Result<HttpResponse, Refusal> {
    let (pipeline, site, single_bytes) = (door.pipeline.clone(), door.site.clone(), door.limits.single_bytes);
    let body = blocking(move || read(&pipeline.catalogue, &site, &bytes, single_bytes)).await?;
    match body {
        Body::Single(message) => {
            let receipt = one(door.intake.take(&door.site, &door.feed, vec![check(*message)]).await?);
            answer_single(&receipt, door, StatusCode::CREATED)
        }
        Body::Bundle(split) if split.kind == Kind::Transaction => take_transaction(door, split.entries).await,
        Body::Bundle(split) => take_each(door, split.entries).await,
    }
}

fn read(catalogue: &Catalogue, site: &str, bytes: &[u8], single_bytes: usize) -> Body {
    let issue = match bundle::split(bytes) {
        Ok(split) => {
            return Body::Bundle(Split { kind: split.kind, entries: ask(catalogue, site, &split) });
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

/// What each entry of a Bundle asks for, in its order.
pub(super) fn ask(catalogue: &Catalogue, site: &str, bundle: &bundle::Bundle<'_>) -> Vec<Asked> {
    let reader = Reader::new(catalogue, &catalogue.sites[site], bundle);
    (0..bundle.entries.len()).into_par_iter().map(|index| reader.read(index)).collect()
}

/// What became of one entry.
pub(super) enum Became {
    /// `status` is that of one that was applied.
    Taken { receipt: Receipt, status: StatusCode },
    /// `None` where nothing was held.
    Withdrawn(Option<Receipt>),
}

impl Became {
    pub(super) fn answer(&self, door: &Door) -> BundleEntry {
        match self {
            Became::Taken { receipt, status } => entry_of_receipt(receipt, door, *status),
            Became::Withdrawn(receipt) => of_withdrawal(receipt.as_ref()),
        }
    }
}

/// Entry by entry: messages are committed together, withdrawals after them.
async fn take_each(door: &Door, entries: Vec<Asked>) -> Result<HttpResponse, Refusal> {
    let became = take_all(door, entries).await?;
    answer_bundle("batch-response", became.iter().map(|became| became.answer(door)).collect())
}

/// What becomes of each entry, in their order.
pub(super) async fn take_all(door: &Door, entries: Vec<Asked>) -> Result<Vec<Became>, Refusal> {
    let mut became: Vec<Option<Became>> = Vec::with_capacity(entries.len());
    let mut messages = Vec::new();
    let mut places = Vec::new();
    let mut withdrawals = Vec::new();
    for (index, asked) in entries.into_iter().enumerate() {
        became.push(None);
        match asked {
            Asked::Message { message, is_put } => {
                places.push((index, taken(is_put)));
                messages.push(*message);
            }
            Asked::Withdraw(withdrawal) => withdrawals.push((index, withdrawal)),
        }
    }
    let receipts = door.intake.take(&door.site, &door.feed, messages).await?;
    for ((index, status), receipt) in places.into_iter().zip(receipts) {
        became[index] = Some(Became::Taken { receipt, status });
    }
    for (index, withdrawal) in withdrawals {
        became[index] = Some(Became::Withdrawn(door.withdraw(withdrawal).await?));
    }
    Ok(became.into_iter().map(|became| became.expect("something becomes of each entry")).collect())
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
            Asked::Withdraw(withdrawal) => {
                order.push((false, StatusCode::OK));
                withdrawals.push(withdrawal);
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
pub(super) fn in_entry(index: usize, issue: &Issue) -> Issue {
    if issue.path.starts_with("Bundle.entry") {
        return issue.clone();
    }
    let path = match issue.path.split_once('.') {
        Some((_, element)) => format!("Bundle.entry[{index}].resource.{element}"),
        None => format!("Bundle.entry[{index}].resource"),
    };
    Issue { code: issue.code, path, detail: issue.detail.clone() }
}
