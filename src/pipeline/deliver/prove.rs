//! The proof of what arrived: by GET of the id, and by search for our identifier.

use std::time::Duration;

use super::attempt::{Attempt, End};
use super::circuit::Heard;
use super::send::id_in_url;
use super::stop_point;
use crate::ehr::{Ehr, EhrError};
use crate::fhir::edit;
use crate::store::outbox::Item;
use crate::writeback::contract::is_needed;

/// A read-back follows at once and after these pauses; then once more, later, for a server that commits late; then the
/// item is lost.
const READ_BACK_PAUSES: [Duration; 3] = [Duration::ZERO, Duration::from_millis(250), Duration::from_millis(1_000)];

pub(super) async fn read_back(ehr: &Ehr, item: &Item, id: Option<&str>, status: Option<u16>, is_last_look: bool) -> Attempt {
    let attempt = look_back(ehr, item, id, status, is_last_look).await;
    stop_point("after-read-back");
    attempt
}

async fn look_back(ehr: &Ehr, item: &Item, id: Option<&str>, status: Option<u16>, is_last_look: bool) -> Attempt {
    let request = &item.request;
    let id = id.or(item.server_id.as_deref()).or_else(|| id_in_url(&request.url));
    let failed = |error: EhrError| {
        let heard = Heard::from_error(&error);
        let end = match status {
            Some(status) => End::NotReadBack { status, id: id.map(str::to_owned), error },
            None => End::Failed(error),
        };
        Attempt { end, heard }
    };
    let mut last_seen = None;
    for pause in READ_BACK_PAUSES {
        tokio::time::sleep(pause).await;
        let found = match ehr.find(&request.resource_type, &request.key).await {
            Ok(found) => found,
            Err(error) => return failed(error),
        };
        let read = match id.or_else(|| found.first().and_then(|held| held.index.id.as_deref())) {
            Some(id) => match ehr.read(&request.resource_type, id).await {
                Ok(read) => read,
                Err(error) => return failed(error),
            },
            None => None,
        };
        if request.body.is_empty() {
            if read.is_none() && found.is_empty() {
                return Attempt::ended(End::Gone);
            }
            continue;
        }
        let Some(read) = read else { continue };
        let (mut needed, nice): (Vec<String>, Vec<String>) =
            edit::missing(&request.body, &read.resource).into_iter().partition(|path| is_needed(path));
        if 1 < found.len() {
            needed.push(format!("{} copies under one identifier: a person must merge them", found.len()));
        }
        let is_found_by_search = found.iter().any(|held| held.index.id == read.index.id);
        match (needed.is_empty(), is_found_by_search) {
            (true, true) => {
                let note = (!nice.is_empty()).then(|| format!("the EHR dropped {}", nice.join(", ")));
                return Attempt::ended(End::Confirmed { held: read, note });
            }
            // It will not get better by waiting.
            (false, true) => return Attempt::ended(End::Degraded { held: read, lacks: needed.join(", ") }),
            (_, false) => {
                needed.push("not found by search".to_owned());
                last_seen = Some((read, needed));
            }
        }
    }
    let end = match last_seen {
        Some((held, lacks)) if is_last_look => End::Degraded { held, lacks: lacks.join(", ") },
        Some(_) | None => End::NotFound { status, id: id.map(str::to_owned), is_last_look },
    };
    Attempt::ended(end)
}
