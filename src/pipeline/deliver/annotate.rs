//! A fragment of ours put into a resource of the hospital's, or taken out of it (rulings.md 25): by PATCH where that is
//! declared, else by a PUT of the very bytes that were read, with only our elements changed, under `If-Match`; else not
//! at all. What others author is compared before and after.

use super::super::Pipeline;
use super::attempt::{Attempt, End};
use super::circuit::Heard;
use super::look::History;
use super::prove::READ_BACK_PAUSES;
use super::send::{CONFLICT_TRIES, id_in_url};
use super::{Clock, stop_point};
use crate::ehr::{Ehr, EhrError, Held, Written};
use crate::fhir::edit::{self, Misfit};
use crate::store::StoreError;
use crate::store::outbox::{self, Claimed, Item};
use crate::writeback::Purpose;
use crate::writeback::ladder::{Declared, FindingKind};

/// Said of a fragment that the hospital's resource held before we came; it is not taken out again.
const STOOD_THERE: &str = "the resource said so before: nothing was changed, and nothing will be taken out";

/// Said of the same when it was to be taken out.
pub(in crate::pipeline) const LEFT_THERE: &str = "it stood there before we came: nothing was taken out";

pub(super) async fn send(
    pipeline: &Pipeline,
    ehr: &Ehr,
    declared: Option<&Declared>,
    claimed: &Claimed,
    history: &History,
    clock: Clock,
) -> Result<Attempt, StoreError> {
    let item = &claimed.item;
    let request = &item.request;
    let is_added = request.purpose == Purpose::Annotate;
    let (kind, id) = (request.resource_type.as_str(), id_in_url(&request.url).unwrap_or_default());
    let mut last = EhrError::Unknown;
    for _ in 0..CONFLICT_TRIES {
        let held = match ehr.read(kind, id).await {
            Ok(Some(held)) => held,
            Ok(None) if is_added => return Ok(Attempt::ended(End::Superseded("the hospital's resource is gone"))),
            Ok(None) => return Ok(Attempt::ended(End::Gone)),
            Err(error) => return Ok(Attempt::failed(error)),
        };
        let is_ours = was_put(item) || history.earlier.iter().any(was_put);
        let change =
            if is_added { edit::with_fragment(&held.resource, &request.body) } else { edit::without_fragment(&held.resource, &request.body) };
        let change = match change {
            Err(misfit) => return Ok(refused(misfit_says(&misfit, kind))),
            Ok(None) if is_added && !is_ours => {
                return Ok(Attempt::ended(End::Confirmed { held, note: Some(STOOD_THERE.to_owned()) }));
            }
            Ok(Some(_)) if !is_added && !is_ours => {
                return Ok(Attempt::ended(End::Confirmed { held, note: Some(LEFT_THERE.to_owned()) }));
            }
            Ok(None) => return Ok(prove(ehr, item, id, None).await),
            Ok(Some(change)) => change,
        };
        // From here on what is found there may be ours, whoever dies in between.
        let (intending, seen, now_ms) = (claimed.clone(), held.version.clone().unwrap_or_else(|| "?".to_owned()), clock.now_ms());
        if !pipeline.store.write(move |tx| outbox::intend(tx, &intending, now_ms, &seen)).await? {
            return Ok(Attempt::unasked(End::Later(0)));
        }
        stop_point("before-send");
        let answer = match change_there(ehr, declared, item, &held, &change).await {
            Ok(answer) => answer,
            Err(why) => return Ok(refused(why)),
        };
        stop_point("after-send");
        match answer {
            Ok(answer) => return Ok(prove(ehr, item, id, Some((&held, &answer))).await),
            Err(error @ EhrError::Conflict { .. }) => last = error,
            Err(error) => return Ok(Attempt::failed(error)),
        }
    }
    Ok(Attempt::failed(last))
}

/// Whether an item may have put its fragment there.
fn was_put(item: &Item) -> bool {
    item.request.purpose == Purpose::Annotate && item.server_version.is_some() && item.last_error.as_deref() != Some(STOOD_THERE)
}

fn refused(why: String) -> Attempt {
    Attempt::ended(End::Refused { status: None, why })
}

fn misfit_says(misfit: &Misfit, kind: &str) -> String {
    match misfit {
        Misfit::NotReadable => format!("the {kind} names an element twice: a PUT would lose one of the two"),
        Misfit::Taken(path) => format!("another value stands in {kind}.{path}: a PUT would lose it"),
    }
}

/// Changes the resource; `Err` says what would be lost by trying.
async fn change_there(ehr: &Ehr, declared: Option<&Declared>, item: &Item, held: &Held, change: &str) -> Result<Result<Written, EhrError>, String> {
    let request = &item.request;
    let kind = request.resource_type.as_str();
    let declares = |interaction: &str| declared.and_then(|declared| declared.declares(kind, interaction));
    let is_added = request.purpose == Purpose::Annotate;
    let mut headers = vec![("Accept".to_owned(), "application/fhir+json".to_owned()), ("Prefer".to_owned(), "return=representation".to_owned())];
    if let Some(version) = &held.version {
        headers.push(("If-Match".to_owned(), format!("W/\"{version}\"")));
    }
    let with_type = |content_type: &str| {
        let mut headers = headers.clone();
        headers.push(("Content-Type".to_owned(), content_type.to_owned()));
        headers
    };
    if declares("patch") == Some(true)
        && let Ok(Some(patch)) = edit::patch_of(&held.resource, &request.body, is_added)
    {
        match ehr.send("PATCH", &request.url, &with_type("application/json-patch+json"), &patch).await {
            // Not by JSON Patch, or not as its own text stands: the whole resource can still be sent.
            Err(EhrError::Unsupported { .. } | EhrError::Refused { status: 400 | 405 | 415 | 422 | 501, .. }) => {}
            answer => return Ok(answer),
        }
    }
    if declares("update") == Some(false) {
        return Err(format!("the EHR declares neither patch nor update of {kind}"));
    }
    if held.version.is_none() {
        return Err(format!("the EHR gives the {kind} no version to match: a PUT would lose what is changed at the same moment"));
    }
    if edit::is_subset(&held.resource) {
        return Err(format!("the EHR gives only a part of the {kind} (SUBSETTED): a PUT would lose the rest"));
    }
    Ok(ehr.send("PUT", &request.url, &with_type("application/fhir+json"), change).await)
}

/// Proves that the fragment is there, or gone, and that nothing of others changed.
async fn prove(ehr: &Ehr, item: &Item, id: &str, sent: Option<(&Held, &Written)>) -> Attempt {
    let attempt = look_back(ehr, item, id, sent).await;
    stop_point("after-read-back");
    attempt
}

async fn look_back(ehr: &Ehr, item: &Item, id: &str, sent: Option<(&Held, &Written)>) -> Attempt {
    let request = &item.request;
    let (kind, fragment, is_added) = (request.resource_type.as_str(), request.body.as_str(), request.purpose == Purpose::Annotate);
    let status = sent.map(|(_, answer)| answer.status);
    let failed = |error: EhrError| {
        let heard = Heard::from_error(&error);
        let end = match status {
            Some(status) => End::NotReadBack { status, id: Some(id.to_owned()), error },
            None => End::Failed(error),
        };
        Attempt { end, heard, finding: None }
    };
    let is_right =
        |held: &Held| if is_added { edit::has_fragment(&held.resource, fragment) } else { edit::standing(&held.resource, fragment).is_empty() };
    let (mut tag_stayed, mut last_seen) = (None, None);
    for pause in READ_BACK_PAUSES {
        tokio::time::sleep(pause).await;
        let mut held = match ehr.read(kind, id).await {
            Ok(Some(held)) => held,
            Ok(None) => continue,
            Err(error) => return failed(error),
        };
        if !is_added && tag_stayed.is_none() {
            match take_tags_off(ehr, request.url.as_str(), fragment, &held).await {
                Ok(Some(after)) => {
                    tag_stayed = Some(format!("{kind}.meta.tag"));
                    held = after;
                }
                Ok(None) => {}
                Err(error) => return failed(error),
            }
        }
        let mut faults = Vec::new();
        if !is_right(&held) {
            let stays = edit::standing(&held.resource, fragment);
            faults.push(if is_added { "the EHR did not keep what we added".to_owned() } else { format!("{} still stands", stays.join(", ")) });
        }
        if let Some((before, answer)) = sent {
            match as_we_left_it(ehr, kind, id, &held, answer).await {
                Ok(Some(after)) => {
                    let changed = edit::foreign_changes(&before.resource, &after.resource, fragment);
                    if !changed.is_empty() {
                        faults.push(format!("alarm: {} of the hospital's is not as it was", changed.join(", ")));
                    }
                }
                Ok(None) => {}
                Err(error) => return failed(error),
            }
        }
        if faults.is_empty() && !is_found(ehr, kind, id, &is_right).await {
            faults.push("a search does not show it so".to_owned());
        }
        if faults.is_empty() {
            let attempt = Attempt::ended(End::Confirmed { held, note: None });
            return match tag_stayed {
                Some(path) => attempt.with_finding(FindingKind::TagStays, path),
                None => attempt,
            };
        }
        last_seen = Some((held, faults));
    }
    match last_seen {
        Some((held, faults)) => {
            if faults.iter().any(|fault| fault.starts_with("alarm")) {
                tracing::error!(item = item.id, site = item.site, kind, "a resource of the hospital's is not as it was before we marked it");
            }
            Attempt::ended(End::Degraded { held, lacks: faults.join("; ") })
        }
        None if is_added => Attempt::ended(End::NotFound { status, id: Some(id.to_owned()), is_last_look: true }),
        None => Attempt::ended(End::Gone),
    }
}

/// Takes tags off by `$meta-delete` that a change left standing, and reads again; `None` where none stand.
async fn take_tags_off(ehr: &Ehr, url: &str, fragment: &str, held: &Held) -> Result<Option<Held>, EhrError> {
    let is_meta = |path: &String| path.split('.').nth(1) == Some("meta");
    if !edit::standing(&held.resource, fragment).iter().any(is_meta) {
        return Ok(None);
    }
    let Some(parameters) = edit::meta_parameters(fragment) else { return Ok(None) };
    let headers = [("Content-Type".to_owned(), "application/fhir+json".to_owned())];
    match ehr.send("POST", &format!("{url}/$meta-delete"), &headers, &parameters).await {
        Ok(_) | Err(EhrError::Absent { .. } | EhrError::Refused { .. } | EhrError::Unsupported { .. } | EhrError::Conflict { .. }) => {}
        Err(error) => return Err(error),
    }
    let (kind, id) = url.split_once('/').unwrap_or((url, ""));
    ehr.read(kind, id).await
}

/// The resource in the version that we made; `None` where others have changed it since and that version cannot be read.
async fn as_we_left_it(ehr: &Ehr, kind: &str, id: &str, held: &Held, answer: &Written) -> Result<Option<Held>, EhrError> {
    match &answer.version {
        Some(ours) if held.version.as_ref() != Some(ours) => match ehr.read(kind, &format!("{id}/_history/{ours}")).await {
            Err(EhrError::Refused { .. } | EhrError::Unsupported { .. }) => Ok(None),
            version => version,
        },
        Some(_) | None => Ok(Some(held.clone())),
    }
}

/// Whether a search shows the resource as it should be; one that cannot be asked in this way says nothing against it.
async fn is_found(ehr: &Ehr, kind: &str, id: &str, is_right: &impl Fn(&Held) -> bool) -> bool {
    match ehr.search(kind, &[("_id", id.to_owned())]).await {
        Ok(found) => found.iter().any(|held| held.index.id.as_deref() == Some(id) && is_right(held)),
        Err(_) => true,
    }
}
