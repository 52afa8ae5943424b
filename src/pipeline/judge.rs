//! Judges whose chart changed, or whose judgement grew old: facts are loaded and assessed in parallel, the write-backs
//! planned, and everything recorded in one transaction a chunk.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;

use rayon::prelude::*;

use super::{Pipeline, Receivers, groups, receivers};
use crate::clinical::date::AsOf;
use crate::rules::course::Course;
use crate::rules::{self, Hidden, course};
use crate::store::ledger::{self, Receipt, SubjectFacts};
use crate::store::outbox::{self, ItemState};
use crate::store::screening::{self, Judged, Plan, Verdict};
use crate::store::{StoreError, Tx};
use crate::study::Study;
use crate::writeback::telling::{Telling, telling};
use crate::writeback::{self, Known, Mode, Receiver, Written};

/// Subjects that one transaction records.
const SUBJECTS_AT_ONCE: usize = 512;
/// Subjects whose facts one read transaction loads.
const SUBJECTS_PER_READ: usize = 32;
/// Up to here a batch is judged where it stands, without a second thread.
const FEW_SUBJECTS: usize = 4;

/// Judges the subjects of these receipts and whoever they were merged into. The messages are safe whatever happens here.
pub(super) fn touched(pipeline: &Pipeline, site: &str, now_ms: i64, receipts: &[Receipt]) {
    let touched: BTreeSet<&str> = receipts.iter().flat_map(Receipt::subjects).collect();
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
pub fn waiting(pipeline: &Pipeline, now_ms: i64, limit: usize) -> Result<usize, StoreError> {
    let subjects = pipeline.store.read_blocking(|tx| ledger::waiting(tx, limit))?;
    judge(pipeline, now_ms, &subjects)
}

/// Judges up to `limit` subjects again whose last judgement is older than `before_ms`, because days pass and results
/// grow stale. Answers how many.
pub fn again(pipeline: &Pipeline, now_ms: i64, before_ms: i64, limit: usize) -> Result<usize, StoreError> {
    let subjects = pipeline.store.read_blocking(|tx| screening::judged_before(tx, before_ms, limit))?;
    let recorded = judge(pipeline, now_ms, &subjects)?;
    // Whoever had to wait until somebody else had left their Group.
    groups::plan(pipeline, now_ms, pipeline.receivers.keys().map(String::as_str))?;
    Ok(recorded)
}

/// Judges again, as of `now_ms`, whoever has a write-back of this study in shadow at this site, and plans it anew: what a
/// release lets go is of today (rulings.md 24).
pub fn plan_for_release(pipeline: &Pipeline, site: &str, study: &str, now_ms: i64) -> Result<(), StoreError> {
    again_in_state(pipeline, site, study, ItemState::Shadow, now_ms)
}

/// Judges whom a release let go once more: from now on whoever listens may be told of them.
pub fn tell_after_release(pipeline: &Pipeline, site: &str, study: &str, now_ms: i64) -> Result<(), StoreError> {
    again_in_state(pipeline, site, study, ItemState::Planned, now_ms)
}

fn again_in_state(pipeline: &Pipeline, site: &str, study: &str, state: ItemState, now_ms: i64) -> Result<(), StoreError> {
    let items = pipeline.store.read_blocking(|tx| outbox::list(tx, Some(site), Some(state)))?;
    // The study's own item belongs to no subject.
    let of_study = items.into_iter().filter(|item| item.study == study && !item.subject.is_empty());
    let subjects: BTreeSet<(String, String)> = of_study.map(|item| (item.site, item.subject)).collect();
    judge(pipeline, now_ms, &subjects.into_iter().collect::<Vec<_>>())?;
    Ok(())
}

/// Judges subjects as of `now_ms`: facts are loaded and assessed in parallel while the ones before are recorded.
/// Answers how many were recorded; the others wait, or were judged by somebody else meanwhile.
pub fn judge(pipeline: &Pipeline, now_ms: i64, subjects: &[(String, String)]) -> Result<usize, StoreError> {
    let recorded = judge_all(pipeline, now_ms, subjects)?;
    if 0 < recorded {
        groups::plan(pipeline, now_ms, subjects.iter().map(|(site, _)| site.as_str()))?;
    }
    Ok(recorded)
}

fn judge_all(pipeline: &Pipeline, now_ms: i64, subjects: &[(String, String)]) -> Result<usize, StoreError> {
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
    let (receivers, loaded) = pipeline.store.read_blocking(|tx| {
        let mut receivers = Receivers::new();
        for (site, _) in subjects {
            if let (Some(contract), false) = (pipeline.receivers.get(site), receivers.contains_key(site)) {
                receivers.insert(site.clone(), receivers::of(tx, contract)?);
            }
        }
        let loaded = subjects
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
            .collect::<Result<Vec<_>, StoreError>>()?;
        Ok((receivers, loaded))
    })?;
    let judged = loaded.into_iter().map(|(site, subject, facts, writing)| {
        match catch_unwind(AssertUnwindSafe(|| assess_one(pipeline, receivers.get(site), now_ms, site, subject, facts, writing))) {
            Ok(judged) => Assessed::Judged(Box::new(judged)),
            Err(_) => {
                tracing::error!(site, "a subject could not be judged because of a fault of ours; it stays waiting");
                Assessed::Failed { site: site.to_owned(), subject: subject.to_owned() }
            }
        }
    });
    Ok(judged.collect())
}

/// The course of a subject as of `now_ms`, where what this receiver is sent depends on it: for the look before a send.
pub(super) fn course_of(
    tx: &mut Tx<'_>,
    pipeline: &Pipeline,
    receiver: &Receiver,
    study: &Study,
    subject: &str,
    now_ms: i64,
) -> Result<Option<Course>, StoreError> {
    match pipeline.catalogue.sites.get(&receiver.site) {
        Some(site) if writeback::needs_course(receiver) => {
            let facts = ledger::facts(tx, &receiver.site, subject)?;
            Ok(course::course(study, &site.chart(facts.facts), AsOf::instant(now_ms)))
        }
        Some(_) | None => Ok(None),
    }
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

fn assess_one(
    pipeline: &Pipeline,
    receiver: Option<&Receiver>,
    now_ms: i64,
    site: &str,
    subject: &str,
    facts: SubjectFacts,
    writing: Vec<Writing>,
) -> Judged {
    let site_data = &pipeline.catalogue.sites[site];
    let chart = site_data.chart(facts.facts);
    let mut verdicts = Vec::new();
    let mut plans = Vec::new();
    for study in pipeline.catalogue.studies_of_site.get(site).map(Vec::as_slice).unwrap_or_default() {
        let mut assessment = rules::assess(study, &chart, AsOf::instant(now_ms));
        if facts.merged_into.is_some() {
            assessment.hidden = Some(Hidden::Merged);
        }
        let mut told = Telling::Nothing;
        if let Some(receiver) = receiver
            && let Some(writing) = writing.iter().find(|writing| writing.study == study.id)
        {
            let course = writeback::needs_course(receiver).then(|| course::course(study, &chart, AsOf::instant(now_ms))).flatten();
            let known = Known { subject, assessment: &assessment, course: course.as_ref(), mapping_hash: &site_data.hash };
            let requests = writeback::plan(receiver, study, known, &writing.written);
            let shadow = receiver.mode == Mode::Shadow && !writing.is_released;
            told = telling(receiver.write_from, shadow, &assessment);
            plans.push(Plan { study: study.id.clone(), shadow, requests });
        }
        verdicts.push(Verdict::new(assessment).told(told));
    }
    Judged { site: site.to_owned(), subject: subject.to_owned(), revision: facts.revision, mapping_hash: site_data.hash.clone(), verdicts, plans }
}

fn record(pipeline: &Pipeline, now_ms: i64, assessed: Vec<Assessed>) -> Result<usize, StoreError> {
    if assessed.is_empty() {
        return Ok(0);
    }
    pipeline.store.write_blocking(|tx| {
        let mut judged = Vec::new();
        for assessed in &assessed {
            match assessed {
                Assessed::Judged(one) => judged.push(one.as_ref()),
                Assessed::Failed { site, subject } => ledger::postpone(tx, site, subject, now_ms)?,
            }
        }
        screening::record_all(tx, now_ms, judged)
    })
}
