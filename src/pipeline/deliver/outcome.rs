//! What is recorded of an attempt: the item's next state, and when it is its turn again.

use super::super::Pipeline;
use super::attempt::End;
use super::circuit::Heard;
use crate::ehr::EhrError;
use crate::store::StoreError;
use crate::store::outbox::{self, Claimed, Item, ItemState, Outcome};
use crate::writeback::Purpose;

/// Retries go from 1 s, doubling, to 15 min, with full jitter, for 7 days; then a person decides.
const BACKOFF_FIRST_MS: i64 = 1_000;
const BACKOFF_MAX_MS: i64 = 900_000;
const GIVE_UP_AFTER_MS: i64 = 7 * 86_400_000;
/// While the whole EHR is silent its circuit sets the pace; an item that waited a quarter of an hour beyond that would
/// hold up all that comes after it when the EHR is back.
const BACKOFF_SILENT_MAX_MS: i64 = 60_000;
/// When it is looked for once more what was answered as done and is not found.
const LATE_READ_BACK_MS: i64 = 60_000;

/// What is recorded of an attempt that ended at `at_ms`.
pub(super) fn outcome(item: &Item, end: End, at_ms: i64) -> Outcome {
    let mut outcome = Outcome {
        state: item.state,
        next_attempt_ms: at_ms,
        status: None,
        error: None,
        server_id: item.server_id.clone(),
        server_version: item.server_version.clone(),
    };
    match end {
        End::Confirmed { held, note } => {
            outcome.state = ItemState::Confirmed;
            outcome.error = note;
            outcome.server_id = held.index.id;
            outcome.server_version = held.version;
        }
        End::Gone => outcome.state = ItemState::Confirmed,
        End::Degraded { held, lacks } => {
            outcome.state = ItemState::Degraded;
            outcome.error = Some(lacks);
            outcome.server_id = held.index.id;
            outcome.server_version = held.version;
        }
        End::NotFound { status, id, is_last_look } => {
            outcome.state = if is_last_look { ItemState::Lost } else { ItemState::Sent };
            outcome.next_attempt_ms = at_ms + LATE_READ_BACK_MS;
            outcome.status = status.map(i64::from);
            outcome.error = Some("answered as done, and not found by a read-back".to_owned());
            outcome.server_id = id;
        }
        End::Superseded(why) => {
            outcome.state = ItemState::Superseded;
            outcome.error = Some(why.to_owned());
        }
        End::Shadow => outcome.state = ItemState::Shadow,
        End::Later(ms) => outcome.next_attempt_ms = at_ms + ms,
        End::Refused { status, why } => {
            outcome.state = ItemState::Rejected;
            outcome.status = status.map(i64::from);
            outcome.error = Some(why);
        }
        End::NotReadBack { status, id, error } => {
            outcome.state = ItemState::Sent;
            outcome.next_attempt_ms = at_ms + wait_ms(item.attempts, &error);
            outcome.status = Some(i64::from(status));
            outcome.error = Some(format!("read-back: {error}"));
            outcome.server_id = id;
        }
        End::Failed(error) => {
            outcome.next_attempt_ms = at_ms + wait_ms(item.attempts, &error);
            outcome.status = status_of(&error);
            outcome.error = Some(error.to_string());
            let is_for_good = match error {
                EhrError::Refused { .. } | EhrError::Unsupported { .. } | EhrError::Absent { .. } => true,
                // A flag must never stay because its version moved: a retraction goes on trying.
                EhrError::Conflict { .. } => item.request.purpose == Purpose::Annotate,
                EhrError::Retry { .. } | EhrError::Unknown | EhrError::Unauthorized { .. } => false,
            };
            if is_for_good || item.created_ms + GIVE_UP_AFTER_MS <= at_ms {
                outcome.state = ItemState::Rejected;
            }
        }
    }
    outcome
}

fn status_of(error: &EhrError) -> Option<i64> {
    match error {
        EhrError::Retry { status, .. } => status.map(i64::from),
        EhrError::Unknown => None,
        EhrError::Conflict { status }
        | EhrError::Refused { status, .. }
        | EhrError::Unsupported { status }
        | EhrError::Unauthorized { status, .. }
        | EhrError::Absent { status } => Some(i64::from(*status)),
    }
}

/// ms until the next attempt: full jitter below a doubling bound, and never before the server allows.
fn wait_ms(attempts: i64, error: &EhrError) -> i64 {
    let most_ms = if matches!(Heard::from_error(error), Heard::Trouble(_)) { BACKOFF_SILENT_MAX_MS } else { BACKOFF_MAX_MS };
    let bound_ms = (BACKOFF_FIRST_MS << attempts.clamp(0, 20)).min(most_ms);
    let mut random = [0; 8];
    aws_lc_rs::rand::fill(&mut random).expect("the system gives random bytes");
    // Not quite zero, so that full jitter never makes a busy loop.
    let jitter_ms = 100 + i64::try_from(u64::from_le_bytes(random) % u64::try_from(bound_ms).unwrap_or(1)).unwrap_or_default();
    match error.after_ms() {
        Some(after_ms) => jitter_ms.max(after_ms) + jitter_ms.min(1_000),
        None => jitter_ms,
    }
}

/// Records the outcome; `false` when the lease was lost and nothing was recorded.
pub(super) async fn record(pipeline: &Pipeline, claimed: Claimed, at_ms: i64, outcome: Outcome) -> Result<bool, StoreError> {
    let (item, site, kind) = (claimed.item.id, claimed.item.site.clone(), claimed.item.request.resource_type.clone());
    let (state, status) = (outcome.state, outcome.status);
    let is_recorded = pipeline.store.write(move |tx| outbox::finish(tx, &claimed, at_ms, &outcome)).await?;
    let word = state.word();
    match state {
        _ if !is_recorded => tracing::warn!(item, site, kind, "another sender took over the item; nothing recorded"),
        ItemState::Lost | ItemState::Rejected | ItemState::Degraded => {
            tracing::error!(item, site, kind, state = word, status, "a write-back needs a person");
        }
        ItemState::Planned | ItemState::Sent | ItemState::Shadow | ItemState::Confirmed | ItemState::Superseded => {
            tracing::info!(item, site, kind, state = word, status, "write-back");
        }
    }
    Ok(is_recorded)
}
