//! The looks before a send (rulings.md 28): at our own record, and at the Patient in the EHR. What is overtaken is not
//! sent.

use super::super::{Pipeline, groups, judge};
use super::attempt::{Attempt, End};
use crate::ehr::Ehr;
use crate::store::outbox::{self, Item, ItemState};
use crate::store::{StoreError, screening, switches};
use crate::writeback::{self, Known, Mode, Purpose, Receiver};

/// How long an item waits whose subject's chart changed and is not judged yet.
const JUDGE_FIRST_MS: i64 = 1_000;

/// What was planned, and perhaps sent, for this key before.
#[derive(Default)]
pub(super) struct History {
    /// Earlier items of the key, newest first.
    pub(super) earlier: Vec<Item>,
}

impl History {
    pub(super) async fn of(pipeline: &Pipeline, item: &Item) -> Result<History, StoreError> {
        let item = item.clone();
        pipeline.store.read(move |tx| Ok(History { earlier: outbox::earlier(tx, &item)? })).await
    }

    /// Whether an earlier request may still be on its way: then a look that finds nothing proves nothing yet. A sender
    /// that was killed left no attempt behind, so any earlier item may have been sent.
    pub(super) fn has_predecessor(&self) -> bool {
        !self.earlier.is_empty()
    }

    /// Everything of ours that may stand in the EHR: what was sent last and proven, and all that was planned since.
    pub(super) fn bodies(&self) -> Vec<&str> {
        let is_proven = |item: &Item| matches!(item.state, ItemState::Confirmed | ItemState::Degraded);
        let proven = self.earlier.iter().position(is_proven).map_or(self.earlier.len(), |at| at + 1);
        self.earlier[..proven].iter().map(|item| item.request.body.as_str()).filter(|body| !body.is_empty()).collect()
    }
}

/// The look at our own record; the end of the attempt, where it ends here.
pub(super) async fn look_here(pipeline: &Pipeline, receiver: &Receiver, item: &Item) -> Result<Result<History, End>, StoreError> {
    let is_annotation = item.request.purpose == Purpose::Annotate;
    let (site, subject, study_id) = (item.site.clone(), item.subject.clone(), item.study.clone());
    let (judging, to, looked_at) = (pipeline.clone(), receiver.clone(), item.clone());
    let (card, course, is_group_wanted, written, is_released, stopped, earlier) = pipeline
        .store
        .read(move |tx| {
            let mut written = outbox::written(tx, &site, "", &study_id)?;
            let study = judging.catalogue.studies.get(&study_id);
            let (mut card, mut course, mut is_group_wanted) = (None, None, true);
            if !subject.is_empty() {
                written.extend(outbox::written(tx, &site, &subject, &study_id)?);
                card = screening::card(tx, &site, &subject, &study_id)?;
                if let (Some(study), Some(card)) = (study, &card) {
                    course = judge::course_of(tx, &judging, &to, study, &subject, card.assessment.as_of_ms)?;
                }
            } else if let Some(study) = study
                && looked_at.request.resource_type == "Group"
            {
                is_group_wanted = groups::is_still_wanted(tx, &to, study, &looked_at.request)?;
            }
            let earlier = outbox::earlier(tx, &looked_at)?;
            let is_released = outbox::released(tx, &site, &study_id)?.is_some();
            Ok((card, course, is_group_wanted, written, is_released, switches::stopped(tx, &site, &study_id)?, earlier))
        })
        .await?;
    let history = History { earlier };
    let overtaken = |why: &'static str| Ok(Err(End::Superseded(why)));
    if is_annotation && stopped.is_some() {
        // Stopped since it was claimed.
        return Ok(Err(End::Later(0)));
    }
    if is_annotation && receiver.mode == Mode::Shadow && !is_released {
        return Ok(Err(End::Shadow));
    }
    let Some(study) = pipeline.catalogue.studies.get(&item.study) else {
        // A study that was taken out of the catalogue is judged no more; what stands can still be taken back.
        return if is_annotation { overtaken("the study is not in the catalogue") } else { Ok(Ok(history)) };
    };
    if item.subject.is_empty() && item.request.resource_type == "Group" {
        return if is_group_wanted { Ok(Ok(history)) } else { overtaken("somebody has left the group") };
    }
    if item.subject.is_empty() {
        let is_current = writeback::is_of_current_study(receiver, study, &item.request);
        return if is_current { Ok(Ok(history)) } else { overtaken("the study says otherwise now, or nothing refers to it any more") };
    }
    let Some(card) = card else {
        return if is_annotation { overtaken("the subject is not judged for this study") } else { Ok(Ok(history)) };
    };
    if is_annotation && card.row.is_waiting {
        return Ok(Err(End::Later(JUDGE_FIRST_MS)));
    }
    let known = Known { subject: &item.subject, assessment: &card.assessment, course: course.as_ref(), mapping_hash: &card.mapping_hash };
    let is_wanted = writeback::is_still_wanted(receiver, study, known, &written, &item.request);
    if is_wanted { Ok(Ok(history)) } else { overtaken("state or verdict changed") }
}

/// The look at the Patient in the EHR: still there, alive, the same kind of record. `None`: go on.
pub(super) async fn look_there(ehr: &Ehr, receiver: &Receiver, item: &Item) -> Option<Attempt> {
    let patient = match ehr.patient(&item.subject).await {
        Ok(patient) => patient,
        Err(error) => return Some(Attempt::failed(error)),
    };
    let refused = |why: &str| Some(Attempt::ended(End::Refused { status: None, why: why.to_owned() }));
    let Some(patient) = patient else { return refused("the EHR has no such Patient") };
    if patient.is_deceased {
        return Some(Attempt::ended(End::Superseded("the Patient has died")));
    }
    if patient.is_retired {
        return Some(Attempt::ended(End::Superseded("the Patient record was retired or merged")));
    }
    match (receiver.tag_test, patient.is_test) {
        (true, false) => refused("the Patient is not labelled HTEST, and this receiver is for test data"),
        (false, true) => Some(Attempt::ended(End::Superseded("the Patient is labelled HTEST"))),
        (true, true) | (false, false) => None,
    }
}
