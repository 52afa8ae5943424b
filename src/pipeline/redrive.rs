//! Reads what is in quarantine anew, by today's mapping.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::hl7;
use super::receive::prepare_in;
use super::{Pipeline, judge};
use crate::fhir::references::References;
use crate::hl7 as er7;
use crate::issue::Code;
use crate::store::StoreError;
use crate::store::ledger::{self, Prepared};
use crate::store::messages::{self, Message};

/// What a redrive came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Redriven {
    /// Quarantined messages that were read anew.
    pub tried: usize,
    /// Where they stand now, by disposition word.
    pub dispositions: BTreeMap<String, usize>,
    /// Subjects judged afterwards.
    pub judged: usize,
}

/// Messages read anew by one transaction.
const MESSAGES_AT_ONCE: i64 = 500;

/// Reads the quarantined messages of a site anew, by today's mapping, all or those with one issue code, and judges whom they touch.
pub fn site(pipeline: &Pipeline, site: &str, code: Option<Code>, now_ms: i64) -> Result<Redriven, StoreError> {
    let mut summary = Redriven::default();
    let Some(site_data) = pipeline.catalogue.sites.get(site) else { return Ok(summary) };
    let mut after = 0;
    loop {
        let messages = pipeline.store.read_blocking(|tx| messages::quarantined_after(tx, site, after, MESSAGES_AT_ONCE))?;
        let Some(last) = messages.last() else { break };
        after = last.message;
        let wanted = |message: &&Message| code.is_none_or(|code| message.issues.iter().any(|issue| issue.code == code));
        let prepared: Vec<(i64, Prepared)> = messages
            .par_iter()
            .filter(wanted)
            .filter_map(|message| {
                // The Bundle that it may have come in is gone; whose it is was found then.
                let references = References::kept(message.subject.as_deref());
                let body = message.body.as_ref()?;
                let prepared = match er7::is_message(body) {
                    true => hl7::prepare(&pipeline.catalogue, site_data, body),
                    false => prepare_in(&pipeline.catalogue, site_data, &references, body),
                };
                Some((message.message, prepared))
            })
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
        let judged = judge::waiting(pipeline, now_ms, 10_000)?;
        summary.judged += judged;
        if judged == 0 {
            return Ok(summary);
        }
    }
}
