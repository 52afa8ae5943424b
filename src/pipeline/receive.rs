//! Bytes in, receipts out: prepare (pure, in parallel), commit (one transaction, fsynced), and judge whom it touched.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::entries::Withdrawal;
use super::{Pipeline, judge};
use crate::catalogue::Catalogue;
use crate::fhir::alike::Patterns;
use crate::fhir::references::References;
use crate::fhir::{RawResource, view};
use crate::issue::{Code, Disposition, Effect, Issue};
use crate::mapping::{self, Head, Normalised, Site, observation};
use crate::store::ledger::{self, Prepared, Receipt};
use crate::store::{StoreError, body};

/// Everything about a message that needs no store, with its bytes packed where they are kept. Never panics: a panic below
/// becomes `internal`.
pub fn prepare(catalogue: &Catalogue, site: &Site, bytes: &[u8]) -> Prepared {
    prepare_in(catalogue, site, &References::default(), bytes)
}

/// As [`prepare`], for an entry of a Bundle whose resources name each other by URNs. Only what is read of it is resolved;
/// the bytes that are hashed and kept are the entry's own.
pub fn prepare_in(catalogue: &Catalogue, site: &Site, references: &References, bytes: &[u8]) -> Prepared {
    with_body(examine_in(catalogue, site, references, bytes), bytes)
}

/// Whether resources of this type are read at this site at all.
pub fn is_read(pipeline: &Pipeline, site: &str, resource_type: &str) -> bool {
    pipeline.catalogue.sites.get(site).is_some_and(|site| mapping::is_read(site, resource_type))
}

/// Gate, schema, mapping: what a message says and where it ends, without its bytes.
pub fn examine(catalogue: &Catalogue, site: &Site, bytes: &[u8]) -> Prepared {
    examine_in(catalogue, site, &References::default(), bytes)
}

/// As [`examine`], for an entry of a Bundle.
pub fn examine_in(catalogue: &Catalogue, site: &Site, references: &References, bytes: &[u8]) -> Prepared {
    or_internal(site, bytes, || read(catalogue, site, references, bytes, None))
}

/// What Observations of one pattern have in common. Learned only of lines that the schema finds no fault with.
pub type Forms<'s> = Patterns<observation::Form<'s>>;

/// As [`prepare`], for one of many lines: one that looks like a line before it is read by a short way, with the same answer.
pub fn prepare_line<'s>(catalogue: &Catalogue, site: &'s Site, forms: &mut Forms<'s>, line: &[u8]) -> Prepared {
    let examined = or_internal(site, line, || match forms.read_where(line, |what, value| catalogue.profiles.holds_alike(what, value)) {
        Some((values, form)) => {
            read_to_the_end(named(site, "Observation", Head::of_values(&values), line), Vec::new(), form.normalise(site, &values))
        }
        None => read(catalogue, site, &References::default(), line, Some(forms)),
    });
    with_body(examined, line)
}

fn with_body(examined: Prepared, bytes: &[u8]) -> Prepared {
    let is_kept = matches!(examined.disposition, Disposition::Applied | Disposition::Superseded | Disposition::Quarantined);
    Prepared { body: if is_kept { body::pack(bytes) } else { Vec::new() }, ..examined }
}

fn or_internal(site: &Site, bytes: &[u8], read: impl FnOnce() -> Prepared) -> Prepared {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| {
        tracing::error!(site = site.id, "a message could not be read because of a fault of ours; it is kept");
        Prepared { disposition: Disposition::Quarantined, ..Prepared::rejected("-", bytes, &site.hash, vec![Issue::new(Code::Internal, "")]) }
    })
}

fn read<'s>(catalogue: &Catalogue, site: &'s Site, references: &References, bytes: &[u8], forms: Option<&mut Forms<'s>>) -> Prepared {
    let resource = match RawResource::parse(bytes) {
        Ok(resource) => resource,
        Err(issue) => return Prepared::rejected("-", bytes, &site.hash, vec![issue]),
    };
    let named = named(site, resource.resource_type, Head::of(&resource), bytes);
    let issues = if mapping::is_read(site, resource.resource_type) { catalogue.profiles.check(&resource) } else { Vec::new() };
    if issues.iter().any(|issue| issue.code.effect() == Effect::Reject) {
        return Prepared { issues, ..named };
    }
    if let Some(forms) = forms
        && issues.is_empty()
        && let Ok(view) = view::observation(&resource)
        && let Ok(form) = observation::Form::of(site, &view)
    {
        forms.learn(&resource, form);
    }
    let normalised = mapping::normalise_in(site, &resource, references);
    read_to_the_end(named, issues, normalised)
}

/// What the gate knows of a message; refused, unless the caller knows better.
fn named(site: &Site, resource_type: &str, head: Head<'_>, bytes: &[u8]) -> Prepared {
    Prepared {
        id: head.id.map(str::to_owned),
        version: head.version.map(str::to_owned),
        last_updated_ms: head.last_updated_ms,
        ..Prepared::rejected(resource_type, bytes, &site.hash, Vec::new())
    }
}

/// Brings together what schema and mapping say.
fn read_to_the_end(named: Prepared, mut issues: Vec<Issue>, normalised: Normalised) -> Prepared {
    issues.extend(normalised.issues);
    let effect = |wanted| issues.iter().any(|issue| issue.code.effect() == wanted);
    let disposition = match normalised.disposition {
        Disposition::Applied if effect(Effect::Reject) => Disposition::Rejected,
        Disposition::Applied if effect(Effect::Quarantine) => Disposition::Quarantined,
        other => other,
    };
    if disposition == Disposition::Rejected {
        return Prepared { issues, ..named };
    }
    Prepared { subject: normalised.subject, fact: normalised.fact, issues, disposition, code: normalised.code, ..named }
}

/// Commits prepared messages of one site and judges the subjects they touched; the receipts are durable when this
/// returns. A judgement that fails is logged and left waiting for `judge::waiting`; it never fails a receipt.
pub fn receive(pipeline: &Pipeline, site: &str, feed: &str, now_ms: i64, messages: &[Prepared]) -> Result<Vec<Receipt>, StoreError> {
    let receipts = pipeline.store.write_blocking(|tx| ledger::commit(tx, site, feed, now_ms, messages))?;
    judge::touched(pipeline, site, now_ms, &receipts);
    Ok(receipts)
}

/// Withdraws a resource (DELETE) and judges whom it touched; `None` when it was never seen here.
pub fn withdraw(pipeline: &Pipeline, site: &str, feed: &str, now_ms: i64, withdrawal: &Withdrawal) -> Result<Option<Receipt>, StoreError> {
    let receipt = pipeline.store.write_blocking(|tx| ledger::withdraw(tx, site, feed, now_ms, withdrawal))?;
    judge::touched(pipeline, site, now_ms, receipt.as_slice());
    Ok(receipt)
}

/// Messages and withdrawals of one transaction Bundle: all are committed, or none.
pub fn receive_and_withdraw(
    pipeline: &Pipeline,
    site: &str,
    feed: &str,
    now_ms: i64,
    messages: &[Prepared],
    withdrawals: &[Withdrawal],
) -> Result<(Vec<Receipt>, Vec<Option<Receipt>>), StoreError> {
    let (receipts, withdrawn) = pipeline.store.write_blocking(|tx| {
        let receipts = ledger::commit(tx, site, feed, now_ms, messages)?;
        let withdrawn = withdrawals.iter().map(|withdrawal| ledger::withdraw(tx, site, feed, now_ms, withdrawal)).collect::<Result<Vec<_>, _>>()?;
        Ok((receipts, withdrawn))
    })?;
    let touched: Vec<Receipt> = receipts.iter().chain(withdrawn.iter().flatten()).cloned().collect();
    judge::touched(pipeline, site, now_ms, &touched);
    Ok((receipts, withdrawn))
}
