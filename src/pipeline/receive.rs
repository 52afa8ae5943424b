//! Bytes in, receipts out: prepare (pure, in parallel), commit (one transaction, fsynced), judge (what changed).

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;

use rayon::prelude::*;

use super::Pipeline;
use super::entries::Withdrawal;
use crate::catalogue::Catalogue;
use crate::clinical::date::AsOf;
use crate::fhir::alike::Patterns;
use crate::fhir::{RawResource, view};
use crate::issue::{Code, Disposition, Effect, Issue};
use crate::mapping::{self, Head, Normalised, Site, observation};
use crate::rules::{self, Hidden, course};
use crate::store::ledger::{self, Prepared, Receipt, SubjectFacts};
use crate::store::messages;
use crate::store::outbox::{self, ItemState};
use crate::store::screening::{self, Judged, Plan, Verdict};
use crate::store::{StoreError, Tx, body};
use crate::writeback::{self, Known, Mode, Written};

/// Subjects that one transaction records.
const SUBJECTS_AT_ONCE: usize = 512;
/// Subjects whose facts one read transaction loads.
const SUBJECTS_PER_READ: usize = 32;
/// Up to here a batch is judged where it stands, without a second thread.
const FEW_SUBJECTS: usize = 4;

/// Everything about a message that needs no store, with its bytes packed where they are kept. Never panics: a panic below
/// becomes `internal`.
pub fn prepare(catalogue: &Catalogue, site: &Site, bytes: &[u8]) -> Prepared {
    with_body(examine(catalogue, site, bytes), bytes)
}

/// Gate, schema, mapping: what a message says and where it ends, without its bytes.
pub fn examine(catalogue: &Catalogue, site: &Site, bytes: &[u8]) -> Prepared {
    or_internal(site, bytes, || read(catalogue, site, bytes, None))
}

/// What Observations of one pattern have in common. Learned only of lines that the schema finds no fault with.
pub type Forms<'s> = Patterns<observation::Form<'s>>;

/// As [`prepare`], for one of many lines: one that looks like a line before it is read by a short way, with the same answer.
pub fn prepare_line<'s>(catalogue: &Catalogue, site: &'s Site, forms: &mut Forms<'s>, line: &[u8]) -> Prepared {
    let examined = or_internal(site, line, || match forms.read_where(line, |what, value| catalogue.profiles.holds_alike(what, value)) {
        Some((values, form)) => {
            read_to_the_end(named(site, "Observation", Head::of_values(&values), line), Vec::new(), form.normalise(site, &values))
        }
        None => read(catalogue, site, line, Some(forms)),
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

fn read<'s>(catalogue: &Catalogue, site: &'s Site, bytes: &[u8], forms: Option<&mut Forms<'s>>) -> Prepared {
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
    let normalised = mapping::normalise(site, &resource);
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
/// returns. A judgement that fails is logged and left waiting for `judge_waiting`; it never fails a receipt.
pub fn receive(pipeline: &Pipeline, site: &str, feed: &str, now_ms: i64, messages: &[Prepared]) -> Result<Vec<Receipt>, StoreError> {
    let receipts = pipeline.store.write_blocking(|tx| ledger::commit(tx, site, feed, now_ms, messages))?;
    judge_touched(pipeline, site, now_ms, &receipts);
    Ok(receipts)
}

/// Withdraws a resource (DELETE) and judges whom it touched; `None` when it was never seen here.
pub fn withdraw(pipeline: &Pipeline, site: &str, feed: &str, now_ms: i64, withdrawal: &Withdrawal) -> Result<Option<Receipt>, StoreError> {
    let receipt = pipeline.store.write_blocking(|tx| withdraw_in(tx, site, feed, now_ms, withdrawal))?;
    judge_touched(pipeline, site, now_ms, receipt.as_slice());
    Ok(receipt)
}

/// A withdrawal inside a transaction that holds more.
pub(super) fn withdraw_in(tx: &mut Tx<'_>, site: &str, feed: &str, now_ms: i64, withdrawal: &Withdrawal) -> Result<Option<Receipt>, StoreError> {
    let Withdrawal { resource_type, id, if_match } = withdrawal;
    ledger::withdraw(tx, site, feed, now_ms, resource_type, id, if_match.as_deref())
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
        let withdrawn =
            withdrawals.iter().map(|withdrawal| withdraw_in(tx, site, feed, now_ms, withdrawal)).collect::<Result<Vec<_>, StoreError>>()?;
        Ok((receipts, withdrawn))
    })?;
    let touched: Vec<Receipt> = receipts.iter().chain(withdrawn.iter().flatten()).cloned().collect();
    judge_touched(pipeline, site, now_ms, &touched);
    Ok((receipts, withdrawn))
}

/// Judges the subjects of these receipts and whoever they were merged into. The messages are safe whatever happens here.
fn judge_touched(pipeline: &Pipeline, site: &str, now_ms: i64, receipts: &[Receipt]) {
    let touched: BTreeSet<&str> = receipts.iter().filter_map(|receipt| receipt.subject.as_deref()).collect();
    if touched.is_empty() {
        return;
    }
    let waiting = pipeline.store.read_blocking(|tx| ledger::waiting_of(tx, site, now_ms, &touched.iter().copied().collect::<Vec<_>>()));
    let judged = waiting.and_then(|waiting| judge(pipeline, now_ms, &waiting));
    if let Err(error) = judged {
        tracing::warn!(site, %error, "the judgement has to wait; what was received is kept");
    }
}

/// Judges up to `limit` subjects whose chart changed, as of `now_ms`, and plans their write-backs. Answers how many.
pub fn judge_waiting(pipeline: &Pipeline, now_ms: i64, limit: usize) -> Result<usize, StoreError> {
    let subjects = pipeline.store.read_blocking(|tx| ledger::waiting(tx, limit))?;
    judge(pipeline, now_ms, &subjects)
}

/// Judges up to `limit` subjects again whose last judgement is older than `before_ms`, because days pass and results
/// grow stale. Answers how many.
pub fn judge_again(pipeline: &Pipeline, now_ms: i64, before_ms: i64, limit: usize) -> Result<usize, StoreError> {
    let subjects = pipeline.store.read_blocking(|tx| screening::judged_before(tx, before_ms, limit))?;
    judge(pipeline, now_ms, &subjects)
}

/// Judges again, as of `now_ms`, whoever has a write-back of this study in shadow at this site, and plans it anew: what a
/// release lets go is of today (rulings.md 24).
pub fn plan_for_release(pipeline: &Pipeline, site: &str, study: &str, now_ms: i64) -> Result<(), StoreError> {
    let items = pipeline.store.read_blocking(|tx| outbox::list(tx, Some(site), Some(ItemState::Shadow)))?;
    // The study's own item belongs to no subject.
    let of_study = items.into_iter().filter(|item| item.study == study && !item.subject.is_empty());
    let subjects: BTreeSet<(String, String)> = of_study.map(|item| (item.site, item.subject)).collect();
    judge(pipeline, now_ms, &subjects.into_iter().collect::<Vec<_>>())?;
    Ok(())
}

/// Judges subjects as of `now_ms`: facts are loaded and assessed in parallel while the ones before are recorded.
/// Answers how many were recorded; the others wait, or were judged by somebody else meanwhile.
pub fn judge(pipeline: &Pipeline, now_ms: i64, subjects: &[(String, String)]) -> Result<usize, StoreError> {
    if subjects.len() <= FEW_SUBJECTS {
        return record(pipeline, now_ms, assess(pipeline, now_ms, subjects)?);
    }
    std::thread::scope(|scope| {
        let (send, receive) = mpsc::sync_channel(1);
        scope.spawn(move || {
            for chunk in subjects.chunks(SUBJECTS_AT_ONCE) {
                let assessed: Result<Vec<_>, StoreError> = chunk.par_chunks(SUBJECTS_PER_READ).map(|part| assess(pipeline, now_ms, part)).collect();
                let failed = assessed.is_err();
                // The receiver is gone when recording failed: then nobody needs the rest.
                if send.send(assessed.map(|parts| parts.into_iter().flatten().collect::<Vec<_>>())).is_err() || failed {
                    return;
                }
            }
        });
        let mut recorded = 0;
        for assessed in receive {
            recorded += record(pipeline, now_ms, assessed?)?;
        }
        Ok(recorded)
    })
}

/// What came of one subject: a judgement, or a fault of ours that lets it wait.
enum Assessed {
    Judged(Box<Judged>),
    Failed { site: String, subject: String },
}

fn assess(pipeline: &Pipeline, now_ms: i64, subjects: &[(String, String)]) -> Result<Vec<Assessed>, StoreError> {
    let loaded = pipeline.store.read_blocking(|tx| {
        subjects
            .iter()
            .filter(|(site, _)| pipeline.catalogue.sites.contains_key(site))
            .map(|(site, subject)| {
                let facts = ledger::facts(tx, site, subject)?;
                let writing = match pipeline.receivers.get(site) {
                    Some(_) => written(tx, pipeline, site, subject)?,
                    None => Vec::new(),
                };
                Ok((site.as_str(), subject.as_str(), facts, writing))
            })
            .collect::<Result<Vec<_>, StoreError>>()
    })?;
    let judged = loaded.into_iter().map(|(site, subject, facts, writing)| {
        match catch_unwind(AssertUnwindSafe(|| assess_one(pipeline, now_ms, site, subject, facts, writing))) {
            Ok(judged) => Assessed::Judged(Box::new(judged)),
            Err(_) => {
                tracing::error!(site, "a subject could not be judged because of a fault of ours; it stays waiting");
                Assessed::Failed { site: site.to_owned(), subject: subject.to_owned() }
            }
        }
    });
    Ok(judged.collect())
}

/// What the EHR holds for one study about a subject, and whether a person released that study's write-back.
struct Writing {
    study: String,
    written: Vec<Written>,
    is_released: bool,
}

fn written(tx: &mut Tx<'_>, pipeline: &Pipeline, site: &str, subject: &str) -> Result<Vec<Writing>, StoreError> {
    let studies = pipeline.catalogue.studies_of_site.get(site).map(Vec::as_slice).unwrap_or_default();
    studies
        .iter()
        .map(|study| {
            let mut written = outbox::written(tx, site, subject, &study.id)?;
            written.extend(outbox::written(tx, site, "", &study.id)?);
            Ok(Writing { study: study.id.clone(), written, is_released: outbox::released(tx, site, &study.id)?.is_some() })
        })
        .collect()
}

fn assess_one(pipeline: &Pipeline, now_ms: i64, site: &str, subject: &str, facts: SubjectFacts, writing: Vec<Writing>) -> Judged {
    let site_data = &pipeline.catalogue.sites[site];
    let chart = site_data.chart(facts.facts);
    let mut verdicts = Vec::new();
    let mut plans = Vec::new();
    for study in pipeline.catalogue.studies_of_site.get(site).map(Vec::as_slice).unwrap_or_default() {
        let mut assessment = rules::assess(study, &chart, AsOf::instant(now_ms));
        if facts.merged_into.is_some() {
            assessment.hidden = Some(Hidden::Merged);
        }
        if let Some(receiver) = pipeline.receivers.get(site)
            && let Some(writing) = writing.iter().find(|writing| writing.study == study.id)
        {
            let course = writeback::needs_course(receiver).then(|| course::course(study, &chart, AsOf::instant(now_ms))).flatten();
            let known = Known { subject, assessment: &assessment, course: course.as_ref() };
            let requests = writeback::plan(receiver, study, known, &writing.written);
            let shadow = receiver.mode == Mode::Shadow && !writing.is_released;
            plans.push(Plan { study: study.id.clone(), shadow, requests });
        }
        verdicts.push(Verdict::new(assessment));
    }
    Judged { site: site.to_owned(), subject: subject.to_owned(), revision: facts.revision, mapping_hash: site_data.hash.clone(), verdicts, plans }
}

fn record(pipeline: &Pipeline, now_ms: i64, assessed: Vec<Assessed>) -> Result<usize, StoreError> {
    if assessed.is_empty() {
        return Ok(0);
    }
    pipeline.store.write_blocking(|tx| {
        let mut recorded = 0;
        for assessed in &assessed {
            match assessed {
                Assessed::Judged(judged) => recorded += usize::from(screening::record(tx, now_ms, judged)?),
                Assessed::Failed { site, subject } => ledger::postpone(tx, site, subject, now_ms)?,
            }
        }
        Ok(recorded)
    })
}

/// What a redrive came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Redriven {
    /// Quarantined messages that were read anew.
    pub tried: usize,
    /// Where they stand now, by disposition word.
    pub dispositions: std::collections::BTreeMap<String, usize>,
    /// Subjects judged afterwards.
    pub judged: usize,
}

/// Messages read anew by one transaction.
const MESSAGES_AT_ONCE: i64 = 500;

/// Reads the quarantined messages of a site anew, by today's mapping, all or those with one issue code, and judges whom they touch.
pub fn redrive_site(pipeline: &Pipeline, site: &str, code: Option<Code>, now_ms: i64) -> Result<Redriven, StoreError> {
    let mut summary = Redriven::default();
    let Some(site_data) = pipeline.catalogue.sites.get(site) else { return Ok(summary) };
    let mut after = 0;
    loop {
        let messages = pipeline.store.read_blocking(|tx| messages::quarantined_after(tx, site, after, MESSAGES_AT_ONCE))?;
        let Some(last) = messages.last() else { break };
        after = last.message;
        let wanted = |message: &&messages::Message| code.is_none_or(|code| message.issues.iter().any(|issue| issue.code == code));
        let prepared: Vec<(i64, Prepared)> = messages
            .par_iter()
            .filter(wanted)
            .filter_map(|message| message.body.as_ref().map(|body| (message.message, prepare(&pipeline.catalogue, site_data, body))))
            .collect();
        let receipts = pipeline.store.write_blocking(|tx| {
            prepared.iter().map(|(number, prepared)| ledger::redrive(tx, site, *number, now_ms, prepared)).collect::<Result<Vec<_>, _>>()
        })?;
        summary.tried += receipts.len();
        for receipt in &receipts {
            *summary.dispositions.entry(receipt.disposition.word().to_owned()).or_default() += 1;
        }
    }
    loop {
        let judged = judge_waiting(pipeline, now_ms, 10_000)?;
        summary.judged += judged;
        if judged == 0 {
            return Ok(summary);
        }
    }
}
