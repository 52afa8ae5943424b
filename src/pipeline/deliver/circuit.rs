//! What an attempt's end says about the EHR as a whole, and what follows for all senders.

use super::super::Pipeline;
use super::attempt::Ended;
use crate::ehr::EhrError;
use crate::store::{StoreError, circuit};

/// An EHR that is silent for so long is said so, once.
const ALARM_AFTER_MS: i64 = 900_000;

/// What an attempt heard of the EHR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// It was not asked.
    Nothing,
    Answer,
    /// The EHR as a whole did not answer, or asked for time: not before so many ms from now.
    Trouble(i64),
}

impl Heard {
    /// Whether an error speaks of the whole EHR rather than of one request.
    pub(super) fn from_error(error: &EhrError) -> Heard {
        match error {
            EhrError::Retry { status: None | Some(429 | 502 | 503 | 504), after_ms, .. } => Heard::Trouble(after_ms.unwrap_or_default()),
            EhrError::Retry { status: Some(_), after_ms: Some(after_ms), .. } => Heard::Trouble(*after_ms),
            EhrError::Unknown | EhrError::Unauthorized { .. } => Heard::Trouble(0),
            EhrError::Retry { status: Some(_), after_ms: None, .. }
            | EhrError::Conflict { .. }
            | EhrError::Refused { .. }
            | EhrError::Unsupported { .. }
            | EhrError::Absent { .. } => Heard::Answer,
        }
    }
}

/// What this process has heard of a site's EHR; how it stands is kept in the store, for all gateways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Circuit {
    /// When it last answered.
    answered_ms: Option<i64>,
    is_silent: bool,
    is_alarm_raised: bool,
}

impl Circuit {
    pub(super) async fn note(&mut self, pipeline: &Pipeline, site: &str, ended: &Ended) -> Result<(), StoreError> {
        let (name, at_ms) = (site.to_owned(), ended.at_ms);
        match ended.heard {
            Heard::Nothing if ended.silent_since_ms.is_some() => pipeline.store.write(move |tx| circuit::free_probe(tx, &name, at_ms)).await,
            Heard::Nothing => Ok(()),
            Heard::Answer => {
                self.answered_ms = Some(at_ms);
                self.is_alarm_raised = false;
                if !std::mem::take(&mut self.is_silent) && ended.silent_since_ms.is_none() {
                    return Ok(());
                }
                tracing::info!(site, "the EHR answers again");
                pipeline.store.write(move |tx| circuit::note_answer(tx, &name)).await
            }
            Heard::Trouble(after_ms) => {
                // While others are answered, it is this request's trouble; a time that it asked for holds for all.
                let is_silent = self.answered_ms.is_none_or(|answered_ms| answered_ms < ended.began_ms);
                self.is_silent |= is_silent;
                let since_ms = pipeline
                    .store
                    .write(move |tx| {
                        if 0 < after_ms {
                            circuit::note_quiet(tx, &name, at_ms + after_ms)?;
                        }
                        if is_silent { circuit::note_silence(tx, &name, at_ms) } else { Ok(at_ms) }
                    })
                    .await?;
                if !self.is_alarm_raised && since_ms + ALARM_AFTER_MS <= at_ms {
                    self.is_alarm_raised = true;
                    tracing::error!(site, "the EHR has not answered for a quarter of an hour; what is written back waits");
                }
                Ok(())
            }
        }
    }
}
