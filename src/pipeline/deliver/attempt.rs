//! One attempt at one item, under a lease that is renewed while it lasts.

use std::time::Instant;

use super::super::{Pipeline, probe};
use super::circuit::Heard;
use super::look::History;
use super::{Clock, LEASE_MS, RENEW_EVERY, Turn, annotate, attempt_max, look, outcome, prove, send, stop_point};
use crate::ehr::{Ehr, EhrError, Held};
use crate::store::StoreError;
use crate::store::outbox::{self, Claimed, Item, ItemState, Renewed};
use crate::writeback::ladder::{Declared, Finding, FindingKind};
use crate::writeback::{Form, Purpose, Receiver, contract};

/// How long a sender goes on with an item that a newer plan has overtaken: what it sent may be answered yet, but a
/// retraction must not wait for a slow annotation of the same key.
const OVERTAKEN_MAX_MS: u128 = 10_000;

/// How one attempt ended.
pub(super) enum End {
    /// Found again; with a note where something was dropped that need not be there, or nothing had to be done.
    Confirmed {
        held: Held,
        note: Option<String>,
    },
    /// Taken back, and found gone.
    Gone,
    /// There, but not all of it.
    Degraded {
        held: Held,
        lacks: String,
    },
    /// Answered 2xx, not found yet.
    NotFound {
        status: Option<u16>,
        id: Option<String>,
        is_last_look: bool,
    },
    Superseded(&'static str),
    /// Waits for a named person's release.
    Shadow,
    /// Not its turn yet; ms from now.
    Later(i64),
    Refused {
        status: Option<u16>,
        why: String,
    },
    Failed(EhrError),
    /// Sent, and the read-back could not be asked.
    NotReadBack {
        status: u16,
        id: Option<String>,
        error: EhrError,
    },
}

pub(super) struct Attempt {
    pub(super) end: End,
    pub(super) heard: Heard,
    /// What the receiver was found to do, beyond this one item.
    pub(super) finding: Option<(FindingKind, String)>,
}

impl Attempt {
    /// It ended by what the EHR said.
    pub(super) fn ended(end: End) -> Attempt {
        Attempt { end, heard: Heard::Answer, finding: None }
    }

    /// It ended without a word from the EHR.
    pub(super) fn unasked(end: End) -> Attempt {
        Attempt { end, heard: Heard::Nothing, finding: None }
    }

    pub(super) fn failed(error: EhrError) -> Attempt {
        let heard = Heard::from_error(&error);
        Attempt { end: End::Failed(error), heard, finding: None }
    }

    pub(super) fn with_finding(self, kind: FindingKind, detail: impl Into<String>) -> Attempt {
        Attempt { finding: Some((kind, detail.into())), ..self }
    }
}

/// An attempt that is over, as far as the other senders of its site need to know.
pub(super) struct Ended {
    pub(super) state: ItemState,
    /// `false`: the lease was lost, and somebody else has the item.
    pub(super) is_recorded: bool,
    pub(super) heard: Heard,
    pub(super) began_ms: i64,
    pub(super) at_ms: i64,
    /// It was the one request that asks a silent EHR; since when that was silent.
    pub(super) silent_since_ms: Option<i64>,
}

pub(super) async fn run(pipeline: &Pipeline, ehr: &Ehr, turn: Turn, clock: Clock) -> Result<Ended, StoreError> {
    let Turn { claimed, receiver, declared, silent_since_ms } = turn;
    let began_ms = clock.now_ms();
    let ehr = if claimed.item.request.purpose == Purpose::Retract { ehr.first_in_line() } else { ehr.clone() };
    let attempt = tokio::time::timeout(attempt_max(&receiver), attempt(pipeline, &ehr, &receiver, declared.as_ref(), &claimed, clock));
    let attempt = tokio::select! {
        attempt = attempt => match attempt {
            Ok(attempt) => attempt?,
            Err(_) => Attempt::failed(EhrError::Unknown),
        },
        parted = keep_lease(pipeline, &claimed, clock) => match parted {
            Parted::Lost => {
                tracing::warn!(item = claimed.item.id, site = claimed.item.site, "the lease ended under its sender; nothing recorded");
                let state = claimed.item.state;
                return Ok(Ended { state, is_recorded: false, heard: Heard::Nothing, began_ms, at_ms: clock.now_ms(), silent_since_ms });
            }
            Parted::Overtaken => Attempt::unasked(End::Superseded("a newer plan did not wait for the EHR's answer")),
        },
    };
    let at_ms = clock.now_ms();
    let (site, resource_type) = (claimed.item.site.clone(), claimed.item.request.resource_type.clone());
    let outcome = outcome::outcome(&claimed.item, attempt.end, at_ms);
    let state = outcome.state;
    stop_point("before-finish");
    let is_recorded = outcome::record(pipeline, claimed, at_ms, outcome).await?;
    stop_point("after-finish");
    if let Some((kind, detail)) = attempt.finding
        && is_recorded
    {
        tracing::warn!(site, resource_type, kind = kind.word(), detail, "the EHR was found to do this");
        probe::found(pipeline, &site, Finding { resource_type, kind, detail, found_ms: at_ms }).await?;
    }
    Ok(Ended { state, is_recorded, heard: attempt.heard, began_ms, at_ms, silent_since_ms })
}

/// Why a sender must let go of an item before its attempt has ended.
enum Parted {
    Lost,
    Overtaken,
}

/// Renews the lease as long as it can be; ends when the sender has to let go.
async fn keep_lease(pipeline: &Pipeline, claimed: &Claimed, clock: Clock) -> Parted {
    let mut until_ms = clock.now_ms() + LEASE_MS;
    let mut overtaken: Option<Instant> = None;
    loop {
        tokio::time::sleep(RENEW_EVERY).await;
        if overtaken.is_some_and(|since| OVERTAKEN_MAX_MS <= since.elapsed().as_millis()) {
            return Parted::Overtaken;
        }
        let (renewing, now_ms) = (claimed.clone(), clock.now_ms());
        match pipeline.store.write(move |tx| outbox::renew(tx, &renewing, now_ms, now_ms + LEASE_MS)).await {
            Ok(Renewed::Held) => until_ms = now_ms + LEASE_MS,
            Ok(Renewed::Overtaken) => {
                until_ms = now_ms + LEASE_MS;
                overtaken.get_or_insert_with(Instant::now);
            }
            Ok(Renewed::Lost) => return Parted::Lost,
            Err(error) => {
                tracing::warn!(item = claimed.item.id, %error, "a lease could not be renewed");
                if until_ms <= clock.now_ms() {
                    return Parted::Lost;
                }
            }
        }
    }
}

/// What in a body faults its own profile, as paths and words; `None`: nothing. It would be a fault of ours.
fn breaks_its_profile(pipeline: &Pipeline, item: &Item) -> Option<String> {
    let (request, shapes) = (&item.request, &pipeline.catalogue.outgoing);
    let issues = match request.form {
        // A DELETE has no body.
        _ if request.body.is_empty() => return None,
        Form::Resource => shapes.check(&request.body),
        Form::Fragment => shapes.check_mark(&request.body),
    };
    let words: Vec<String> = issues.iter().map(ToString::to_string).collect();
    (!words.is_empty()).then(|| format!("profiles/study-flagged: {}", words.join("; ")))
}

async fn attempt(
    pipeline: &Pipeline,
    ehr: &Ehr,
    receiver: &Receiver,
    declared: Option<&Declared>,
    claimed: &Claimed,
    clock: Clock,
) -> Result<Attempt, StoreError> {
    let item = &claimed.item;
    if item.state == ItemState::Sent {
        let history = History::of(pipeline, item).await?;
        return Ok(prove::read_back(ehr, item, &history, item.server_id.as_deref(), None, true).await);
    }
    let history = match look::look_here(pipeline, receiver, item).await? {
        Ok(history) => history,
        Err(end) => return Ok(Attempt::unasked(end)),
    };
    if let Err(why) = contract::check(receiver, &item.request)
        && item.request.purpose == Purpose::Annotate
    {
        return Ok(Attempt::unasked(End::Refused { status: None, why }));
    }
    if let Some(why) = breaks_its_profile(pipeline, item) {
        tracing::error!(item = item.id, site = item.site, why, "a body of ours breaks its own profile");
        // What is taken back has to go all the same: what stands does more harm than how it is closed.
        if item.request.purpose == Purpose::Annotate {
            return Ok(Attempt::unasked(End::Refused { status: None, why }));
        }
    }
    if item.request.purpose == Purpose::Annotate
        && !item.subject.is_empty()
        && let Some(attempt) = look::look_there(ehr, receiver, item).await
    {
        return Ok(attempt);
    }
    stop_point("after-look");
    match item.request.form {
        Form::Resource => Ok(send::send(ehr, receiver, item, &history).await),
        Form::Fragment => annotate::send(pipeline, ehr, declared, claimed, &history, clock).await,
    }
}
