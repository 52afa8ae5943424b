//! Takes back the copies of an accepted merge: each is read, ended by its status (or deleted, where its type has none and the
//! site allows it), moved off our key, and looked for again. What else stands in a copy stays.

use std::time::{Duration, Instant};

use super::asker::{Asker, Stop};
use crate::ehr::{EhrError, Held};
use crate::fhir::copies;
use crate::store::reconcile::Proposal;

/// A version that changes under us is read anew this often.
const TRIES: usize = 3;
/// The proof follows at once and after these pauses.
const PROOF_PAUSES: [Duration; 3] = [Duration::ZERO, Duration::from_millis(250), Duration::from_millis(1_000)];

/// Why copies were not taken back.
pub enum NotMerged {
    /// For good; a sentence for a person.
    Refused(String),
    Stopped(Stop),
}

impl From<Stop> for NotMerged {
    fn from(stop: Stop) -> NotMerged {
        NotMerged::Stopped(stop)
    }
}

fn refused(why: impl Into<String>) -> NotMerged {
    NotMerged::Refused(why.into())
}

pub async fn merge(asker: &mut Asker<'_>, proposal: &Proposal, deletes: bool) -> Result<(), NotMerged> {
    let kind = &proposal.resource_type;
    let kept = asker.read(kind, &proposal.keep).await?.filter(|held| held.is_ours(&proposal.key));
    if kept.is_none() {
        return Err(refused("the copy to keep is no longer there"));
    }
    let others: Vec<&str> = proposal.copies.iter().map(|copy| copy.id.as_str()).filter(|id| *id != proposal.keep).collect();
    for id in &others {
        take_back(asker, proposal, id, deletes).await?;
    }
    let mut still = String::new();
    for pause in PROOF_PAUSES {
        asker.rest(Instant::now() + pause).await?;
        let found = asker.find(kind, &proposal.key).await?.map_err(|error| refused(error.to_string()))?;
        let by_search = found.iter().any(|held| held.index.id.as_deref().is_some_and(|id| others.contains(&id)));
        let mut by_id = false;
        for id in &others {
            by_id |= asker.read(kind, id).await?.is_some_and(|held| !copies::is_retired(&held.resource));
        }
        still = match (by_search, by_id) {
            (false, false) => return Ok(()),
            (true, _) => "accepted, and a copy still answers to our key".to_owned(),
            (false, true) => "accepted, and a copy still stands as it was".to_owned(),
        };
    }
    Err(NotMerged::Refused(still))
}

async fn take_back(asker: &mut Asker<'_>, proposal: &Proposal, id: &str, deletes: bool) -> Result<(), NotMerged> {
    let kind = &proposal.resource_type;
    for _ in 0..TRIES {
        // Gone, or moved off our key already: by an earlier try, or by the hospital.
        let Some(held) = asker.read(kind, id).await?.filter(|held| held.is_ours(&proposal.key)) else { return Ok(()) };
        let (method, body) = match copies::retired(&held.resource) {
            Some(body) => ("PUT", body),
            None if deletes => ("DELETE", String::new()),
            None => return Err(refused(format!("a {kind} has no status that takes it back, and this site allows no DELETE"))),
        };
        match asker.send(method, &format!("{kind}/{id}"), &headers(&held), &body).await? {
            Ok(_) => return Ok(()),
            Err(EhrError::Conflict { .. }) => {}
            Err(EhrError::Absent { .. }) => return Ok(()),
            Err(error) => return Err(refused(error.to_string())),
        }
    }
    Err(refused("it changed under us three times"))
}

fn headers(held: &Held) -> Vec<(String, String)> {
    let mut headers =
        vec![("Accept".to_owned(), "application/fhir+json".to_owned()), ("Content-Type".to_owned(), "application/fhir+json".to_owned())];
    if let Some(version) = &held.version {
        headers.push(("If-Match".to_owned(), format!("W/\"{version}\"")));
    }
    headers
}
