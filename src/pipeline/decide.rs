//! What persons decide about a subject: checked against what is judged now, then taken as an inbound message
//! (rulings.md 18). Every door for decisions ends here.

use compact_str::CompactString;

use super::{Pipeline, receive};
use crate::clinical::date::AsOf;
use crate::clinical::fact::{Decision, ResourceType};
use crate::digest::{hex, sha256_hex};
use crate::issue::Disposition;
use crate::rules::course;
use crate::rules::state::{self, NotPossible};
use crate::store::accesses;
use crate::store::ledger::{self, Prepared, Receipt};
use crate::store::screening::{self, Card};
use crate::store::{StoreError, body};

/// The feed under which decisions of persons are counted.
pub const FEED: &str = "decisions";

/// Why a decision was not taken; nothing is recorded then.
#[derive(Debug, thiserror::Error)]
pub enum DecideError {
    #[error("nobody is judged under this id in this study at this site")]
    NoSuchSubject,
    #[error("the decision does not fit what is judged now")]
    NotPossible(NotPossible),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A decision that was taken, and the card as it is now.
pub struct Taken {
    pub receipt: Receipt,
    pub card: Card,
}

/// Takes a decision: what was seen must still be so, and the state must allow it. The subject is judged again before
/// this answers.
pub fn decide(pipeline: &Pipeline, site: &str, subject: &str, decision: &Decision) -> Result<Taken, DecideError> {
    let read = || {
        let card = pipeline.store.read_blocking(|tx| screening::card(tx, site, subject, &decision.study))?;
        card.ok_or(DecideError::NoSuchSubject)
    };
    state::check(&read()?.assessment, decision).map_err(DecideError::NotPossible)?;
    if decision.what.is_of_trial() {
        check_course(pipeline, site, subject, decision)?;
    }
    let receipt = append(pipeline, site, subject, decision)?;
    let (now_ms, by, study) = (decision.at_ms, decision.by.as_str(), decision.study.as_str());
    pipeline.store.write_blocking(|tx| accesses::record(tx, now_ms, by, "decide", site, subject, study))?;
    Ok(Taken { receipt, card: read()? })
}

/// Asks the course of a subject who entered the trial.
fn check_course(pipeline: &Pipeline, site: &str, subject: &str, decision: &Decision) -> Result<(), DecideError> {
    let (Some(study), Some(at)) = (pipeline.catalogue.studies.get(decision.study.as_str()), pipeline.catalogue.sites.get(site)) else {
        return Err(DecideError::NoSuchSubject);
    };
    let facts = pipeline.store.read_blocking(|tx| ledger::facts(tx, site, subject))?;
    let course = course::course(study, &at.chart(facts.facts), AsOf::instant(decision.at_ms));
    course.map_or(Ok(()), |course| course::check(study, &course, decision)).map_err(DecideError::NotPossible)
}

/// Enters a decision as an inbound message, unchecked, and judges the subject.
pub fn append(pipeline: &Pipeline, site: &str, subject: &str, decision: &Decision) -> Result<Receipt, StoreError> {
    let mut random = [0; 16];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| StoreError::Retry("the system gave no random number".into()))?;
    let id = hex(&random);
    let bytes = serde_json::to_vec(decision).expect("a decision is plain data");
    let prepared = Prepared {
        resource_type: ResourceType::Decision.word().into(),
        id: Some(id.clone()),
        version: Some("1".into()),
        last_updated_ms: Some(decision.at_ms),
        body_hash: sha256_hex(&bytes),
        body: body::pack(&bytes),
        subject: Some(CompactString::from(subject)),
        fact: Some(decision.clone().into_fact(id)),
        issues: Vec::new(),
        disposition: Disposition::Applied,
        code: None,
        mapping_hash: String::new(),
        derived: Vec::new(),
    };
    let receipts = receive::receive(pipeline, site, FEED, decision.at_ms, std::slice::from_ref(&prepared))?;
    Ok(receipts.into_iter().next().expect("one message, one receipt"))
}
