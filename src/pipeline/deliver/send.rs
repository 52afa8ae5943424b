//! Looks what the EHR holds under our key, sends what makes it right, and has it proven.

use super::attempt::{Attempt, End};
use super::look::History;
use super::{prove, stop_point};
use crate::ehr::{Ehr, EhrError, Held};
use crate::fhir::edit;
use crate::store::outbox::Item;
use crate::writeback::ladder::FindingKind;
use crate::writeback::{Purpose, Receiver};

/// A version that changes under us is read and written anew this often before a person looks.
pub(super) const CONFLICT_TRIES: usize = 3;
/// How long after it found nothing a retraction looks again for a create that got no answer.
const LATE_CREATE_MS: i64 = 30_000;

pub(super) async fn send(ehr: &Ehr, receiver: &Receiver, item: &Item, history: &History) -> Attempt {
    let request = &item.request;
    let mut last = EhrError::Unknown;
    for _ in 0..CONFLICT_TRIES {
        let held = match current(ehr, item).await {
            Ok(held) => held,
            Err(error) => return Attempt::failed(error),
        };
        let is_delete = request.body.is_empty();
        match &held {
            None if request.purpose == Purpose::Retract => return gone(ehr, item, history).await,
            Some(_) | None => {}
        }
        let Some((method, url, mut headers, body)) = as_sent(receiver, item, held.as_ref(), history) else {
            // It says so already.
            let id = held.and_then(|held| held.index.id);
            return prove::read_back(ehr, item, history, id.as_deref(), None, false).await;
        };
        stop_point("before-send");
        let mut answer = ehr.send(&method, &url, &headers, &body).await;
        if method == "POST" && matches!(answer, Err(EhrError::Unsupported { .. })) {
            // No conditional create for this type (SEKMET has none for ResearchStudy): the look found nothing, and
            // nobody else sends this key meanwhile.
            headers.retain(|(name, _)| name != "If-None-Exist");
            answer = ehr.send(&method, &url, &headers, &body).await;
        }
        stop_point("after-send");
        match answer {
            Ok(answer) => {
                let id = answer.id.or_else(|| held.and_then(|held| held.index.id));
                return prove::read_back(ehr, item, history, id.as_deref(), Some(answer.status), false).await;
            }
            // A DELETE of what is gone already.
            Err(EhrError::Absent { .. }) if is_delete => return prove::read_back(ehr, item, history, None, None, false).await,
            // 412 on an update, 409 on either: somebody was faster. Read again, decide again; for a create that is
            // the same request, once the look has shown that it is still needed.
            Err(error @ EhrError::Conflict { .. }) => last = error,
            Err(EhrError::Absent { status }) => {
                if let Err(EhrError::Absent { .. } | EhrError::Unsupported { .. }) = ehr.find(&request.resource_type, &request.key).await {
                    let refused = End::Refused { status: Some(status), why: format!("the EHR has no {}", request.resource_type) };
                    return Attempt::ended(refused).with_finding(FindingKind::Unsupported, status.to_string());
                }
                let why = "not found where it should be written: does this server let clients choose ids (update_creates)?".to_owned();
                return Attempt::ended(End::Refused { status: Some(status), why });
            }
            Err(error) => {
                let attempt = Attempt::failed(error.clone());
                return match refused_kind(&error, held.is_some(), is_delete) {
                    Some((kind, status)) => attempt.with_finding(kind, status.to_string()),
                    None => attempt,
                };
            }
        }
    }
    Attempt::failed(last)
}

/// What a refusal says about the type as a whole; one subject's refused body says nothing about it.
fn refused_kind(error: &EhrError, is_update: bool, is_delete: bool) -> Option<(FindingKind, u16)> {
    match error {
        _ if is_delete => None,
        EhrError::Unsupported { status } | EhrError::Refused { status: status @ (405 | 501), .. } => {
            Some((if is_update { FindingKind::NoUpdate } else { FindingKind::Unsupported }, *status))
        }
        EhrError::Refused { .. }
        | EhrError::Retry { .. }
        | EhrError::Unknown
        | EhrError::Conflict { .. }
        | EhrError::Unauthorized { .. }
        | EhrError::Absent { .. } => None,
    }
}

/// What is to be taken back is not there by its id.
async fn gone(ehr: &Ehr, item: &Item, history: &History) -> Attempt {
    // One answer "not there" could be a wrong address; a search must agree before a flag counts as gone.
    match ehr.find(&item.request.resource_type, &item.request.key).await {
        Ok(found) if found.is_empty() => {}
        Ok(_) => return Attempt::ended(End::Refused { status: None, why: "not found by its id, yet found by search".to_owned() }),
        Err(error) => return Attempt::failed(error),
    }
    // An earlier create that got no answer may still be applied: it is looked for once more, later.
    match history.has_predecessor() && item.attempts == 0 {
        true => Attempt::ended(End::Later(LATE_CREATE_MS)),
        false => Attempt::ended(End::Gone),
    }
}

/// What the EHR holds under our key: by the id we know, else by search; of several copies the oldest.
async fn current(ehr: &Ehr, item: &Item) -> Result<Option<Held>, EhrError> {
    let request = &item.request;
    if let Some(id) = item.server_id.as_deref().or_else(|| id_in_url(&request.url)) {
        return ehr.read(&request.resource_type, id).await;
    }
    let mut found = ehr.find(&request.resource_type, &request.key).await?;
    found.sort_by(|a, b| (&a.last_updated, &a.index.id).cmp(&(&b.last_updated, &b.index.id)));
    Ok(found.into_iter().next())
}

/// The id in `Type/id`.
pub(super) fn id_in_url(url: &str) -> Option<&str> {
    url.split_once('/').map(|(_, id)| id)
}

/// Method, address, headers and body.
type Sent = (String, String, Vec<(String, String)>, String);

/// The planned request, turned into the update of what the look found: our elements as they should be, and everything
/// that others added as it is. `None` where that says so already.
fn as_sent(receiver: &Receiver, item: &Item, held: Option<&Held>, history: &History) -> Option<Sent> {
    let request = &item.request;
    let kind = &request.resource_type;
    let mut headers: Vec<(String, String)> = request.headers.iter().filter(|(name, _)| name != "If-None-Exist").cloned().collect();
    match held.and_then(|held| held.index.id.clone().map(|id| (id, held))) {
        Some((id, held)) => {
            if let Some(version) = &held.version {
                headers.push(("If-Match".to_owned(), format!("W/\"{version}\"")));
            }
            let url = format!("{kind}/{id}");
            if request.body.is_empty() {
                return Some(("DELETE".to_owned(), url, headers, String::new()));
            }
            let body = edit::merged(&history.bodies(), &edit::with_id(&request.body, &id), &held.resource).resource?;
            Some(("PUT".to_owned(), url, headers, body))
        }
        // What stood there was removed at the hospital, on a server that chooses ids: it is created anew.
        None if !receiver.update_creates => {
            headers.push(("If-None-Exist".to_owned(), request.search.clone()));
            Some(("POST".to_owned(), kind.clone(), headers, edit::without_id(&request.body)))
        }
        None => {
            // A create that was held up on its way must not overwrite what was written since; servers that do not know
            // this header let it be.
            headers.push(("If-None-Match".to_owned(), "*".to_owned()));
            Some((request.method.clone(), request.url.clone(), headers, request.body.clone()))
        }
    }
}
