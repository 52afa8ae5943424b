//! The proof of what arrived: by GET of the id, and by search for our identifier. Only our own elements count; what
//! others added to our resources is theirs.

use std::time::Duration;

use super::attempt::{Attempt, End};
use super::circuit::Heard;
use super::look::History;
use super::send::id_in_url;
use super::stop_point;
use crate::ehr::{Ehr, EhrError, Held};
use crate::fhir::edit;
use crate::store::outbox::Item;
use crate::writeback::WriteBack;
use crate::writeback::contract;
use crate::writeback::ladder::FindingKind;

/// A read-back follows at once and after these pauses; then once more, later, for a server that commits late; then the
/// item is lost.
pub(super) const READ_BACK_PAUSES: [Duration; 3] = [Duration::ZERO, Duration::from_millis(250), Duration::from_millis(1_000)];

pub(super) async fn read_back(ehr: &Ehr, item: &Item, history: &History, id: Option<&str>, status: Option<u16>, is_last_look: bool) -> Attempt {
    let attempt = look_back(ehr, item, history, id, status, is_last_look).await;
    stop_point("after-read-back");
    attempt
}

/// What a read-back saw.
struct Seen {
    held: Held,
    /// What must be there and is not, or stands where it should be gone.
    needed: Vec<String>,
    /// What need not be there.
    nice: Vec<String>,
    /// Other than elements: copies, not found by search.
    faults: Vec<String>,
}

async fn look_back(ehr: &Ehr, item: &Item, history: &History, id: Option<&str>, status: Option<u16>, is_last_look: bool) -> Attempt {
    let request = &item.request;
    let id = id.or(item.server_id.as_deref()).or_else(|| id_in_url(&request.url));
    let failed = |error: EhrError| {
        let heard = Heard::from_error(&error);
        let end = match status {
            Some(status) => End::NotReadBack { status, id: id.map(str::to_owned), error },
            None => End::Failed(error),
        };
        Attempt { end, heard, finding: None }
    };
    let mut last_seen = None;
    for pause in READ_BACK_PAUSES {
        tokio::time::sleep(pause).await;
        let found = match found_by_search(ehr, request).await {
            Ok(found) => found,
            Err(error) => return failed(error),
        };
        let read = match id.or_else(|| found.as_deref()?.first()?.index.id.as_deref()) {
            Some(id) => match ehr.read(&request.resource_type, id).await {
                Ok(read) => read,
                Err(error) => return failed(error),
            },
            None => None,
        };
        if request.body.is_empty() {
            if read.is_none() && found.is_none_or(|found| found.is_empty()) {
                return Attempt::ended(End::Gone);
            }
            continue;
        }
        let Some(held) = read else { continue };
        let mut seen = compared(request, history, held);
        if let Some(found) = &found {
            if 1 < found.len() {
                seen.faults.push(format!("{} copies under one identifier: a person must merge them", found.len()));
            }
            if found.iter().all(|held| held.index.id != seen.held.index.id) {
                last_seen = Some(seen);
                continue;
            }
        }
        // A fault will not get better by waiting.
        return told(seen);
    }
    match last_seen {
        Some(mut seen) if is_last_look => {
            seen.faults.push("not found by search".to_owned());
            told(seen).with_finding(FindingKind::NotFoundAgain, "search")
        }
        Some(_) | None => {
            let attempt = Attempt::ended(End::NotFound { status, id: id.map(str::to_owned), is_last_look });
            if is_last_look { attempt.with_finding(FindingKind::NotFoundAgain, "read") } else { attempt }
        }
    }
}

/// What a search for our identifier finds; `None` where a Provenance cannot be searched for at all.
async fn found_by_search(ehr: &Ehr, request: &WriteBack) -> Result<Option<Vec<Held>>, EhrError> {
    match ehr.find(&request.resource_type, &request.key).await {
        Err(EhrError::Refused { .. } | EhrError::Unsupported { .. } | EhrError::Absent { .. }) if request.resource_type == "Provenance" => Ok(None),
        found => found.map(Some),
    }
}

fn compared(request: &WriteBack, history: &History, held: Held) -> Seen {
    let (needed, nice) = edit::missing(&request.body, &held.resource).into_iter().partition(|path| is_needed(path));
    let mut lingering = edit::merged(&history.bodies(), &request.body, &held.resource).lingering;
    lingering.dedup();
    let faults = lingering.into_iter().map(|path| format!("{path}: what we wrote before still stands")).collect();
    Seen { held, needed, nice, faults }
}

/// Of `meta` we send the label HTEST, without which nobody would know that it is a test.
fn is_needed(path: &str) -> bool {
    contract::is_needed(path) || path.ends_with(".meta")
}

fn told(seen: Seen) -> Attempt {
    let Seen { held, needed, nice, faults } = seen;
    if needed.is_empty() && faults.is_empty() {
        let note = (!nice.is_empty()).then(|| format!("the EHR dropped {}", nice.join(", ")));
        return Attempt::ended(End::Confirmed { held, note });
    }
    let dropped = needed.join(", ");
    let lacks: Vec<String> = needed.into_iter().chain(faults).collect();
    let attempt = Attempt::ended(End::Degraded { held, lacks: lacks.join(", ") });
    if dropped.is_empty() { attempt } else { attempt.with_finding(FindingKind::DropsElements, dropped) }
}
