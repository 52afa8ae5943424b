//! Asks a receiver's server what it can do: its CapabilityStatement, again each day; and, when a person wants it, by
//! writing about a test patient, reading back, changing, and taking back. What it is found to do chooses its ladder.

pub mod write;

use super::Pipeline;
use super::receivers::{self, Climbed};
use crate::ehr::{Ehr, EhrError};
use crate::store::StoreError;
use crate::writeback::ladder::Finding;

/// A CapabilityStatement is read again after a day, since servers are upgraded.
const ASK_EVERY_MS: i64 = 24 * 3_600_000;
/// A server that did not answer is asked again after a minute.
const ASK_AGAIN_MS: i64 = 60_000;

/// When a delivery loop asks next; a new one asks at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asker {
    next_ms: i64,
}

impl Asker {
    /// Asks if it is time to; a delivery loop calls this each round.
    pub async fn round(&mut self, pipeline: &Pipeline, ehr: &Ehr, site: &str, now_ms: i64) -> Result<(), StoreError> {
        if now_ms < self.next_ms {
            return Ok(());
        }
        let trouble = ask(pipeline, ehr, site, now_ms).await?.trouble;
        self.next_ms = now_ms + if trouble.is_some() { ASK_AGAIN_MS } else { ASK_EVERY_MS };
        Ok(())
    }
}

/// What asking came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    pub climbed: Climbed,
    /// The server did not say what it can do; what it said before holds.
    pub trouble: Option<EhrError>,
}

/// Reads a server's CapabilityStatement, keeps it, and climbs; a site without a receiver is left alone.
pub async fn ask(pipeline: &Pipeline, ehr: &Ehr, site: &str, now_ms: i64) -> Result<Asked, StoreError> {
    let Some(contract) = pipeline.receivers.get(site).cloned() else {
        return Ok(Asked { climbed: Climbed::default(), trouble: None });
    };
    let (declared, trouble) = match ehr.capabilities().await {
        Ok(declared) => (Some(declared), None),
        Err(error) => {
            tracing::warn!(site, %error, "the EHR does not say what it can do");
            (None, Some(error))
        }
    };
    let climbed = pipeline.store.write(move |tx| match &declared {
        Some(declared) => receivers::declared(tx, &contract, declared, now_ms),
        None => receivers::climb(tx, &contract, now_ms),
    });
    Ok(Asked { climbed: climbed.await?, trouble })
}

/// Notes what a receiver was found to do by a delivery, and climbs. One subject's refused body is no finding.
pub async fn found(pipeline: &Pipeline, site: &str, finding: Finding) -> Result<Climbed, StoreError> {
    let Some(contract) = pipeline.receivers.get(site).cloned() else { return Ok(Climbed::default()) };
    pipeline.store.write(move |tx| receivers::found(tx, &contract, std::slice::from_ref(&finding), finding.found_ms)).await
}
