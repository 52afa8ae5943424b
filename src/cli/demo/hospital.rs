//! What the demo's hospital does: puts its patients into its EHR, sends its results to the gateway in rounds, and has
//! persons who decided about some of them.

use anyhow::{Context, anyhow, bail};
use indicatif::{ProgressBar, ProgressStyle};

use super::patients::{CONSENTED, ENROLLED, HIGH_DOSE_DAYS_AGO, OPTED_OUT, SCREEN_FAILED, Story, TREATED, WITHDRAWN};
use super::resource::Resource;
use crate::clinical::date::{Day, MS_PER_DAY};
use crate::clinical::fact::{DecidedState, Relation};
use crate::ehr::Ehr;
use crate::http::access::now_ms;
use crate::http::decisions::{self, DecisionKind, Wanted, WantedAxes};
use crate::http::stand_in::StandIn;
use crate::mapping::Site;
use crate::pipeline::{Pipeline, receive};
use crate::rules::Verdict;
use crate::store::{self, StoreError};

/// The feed that the demo's results come by.
const FEED: &str = "push";

/// Who decided in the demo's past.
const DECIDED_BY: &str = "Dr. Demo (synthetic)";

fn progress(length: usize, what: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(length as u64).with_message(what);
    bar.set_style(ProgressStyle::with_template("{msg} {bar:30} {pos}/{len}").unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

/// Rounds of resources in the order in which they are sent; in each, Patients first, so that references hold.
fn rounds(stories: &[Story]) -> Vec<Vec<&Resource>> {
    let all: Vec<&Resource> = stories.iter().flat_map(|story| &story.resources).collect();
    let last = all.iter().map(|resource| resource.round).max().unwrap_or(0);
    (0..=last)
        .map(|round| {
            let mut of_round: Vec<&Resource> = all.iter().filter(|resource| resource.round == round).copied().collect();
            of_round.sort_by_key(|resource| resource.resource_type != "Patient");
            of_round
        })
        .collect()
}

/// Refuses a server that holds a Patient without the label HTEST, or that does not show all of them.
pub async fn refuse_real_patients(ehr: &Ehr) -> anyhow::Result<()> {
    let holds_only_test_patients = ehr
        .holds_only_test_patients()
        .await
        .with_context(|| format!("the patients at {} cannot be looked at, so nothing is written there", ehr.base()))?;
    if !holds_only_test_patients {
        bail!(
            "{} holds a Patient that is not labelled HTEST, or does not show all of its Patients; nothing was written there\n  hint: use an empty test server; the demo never writes beside patients that may be real",
            ehr.base()
        );
    }
    Ok(())
}

/// Puts what is valid into the EHR, as the hospital would have: one PUT each, so that any server takes it (a strict one
/// judges the references of a transaction's entries without looking at what it holds already).
pub async fn put_into_ehr(ehr: &Ehr, stories: &[Story]) -> anyhow::Result<()> {
    let valid: Vec<&Resource> = rounds(stories).into_iter().flatten().filter(|resource| resource.is_valid).collect();
    let bar = progress(valid.len(), "into the EHR   ");
    let headers = [("content-type".to_owned(), "application/fhir+json".to_owned())];
    for resource in valid {
        let place = format!("{}/{}", resource.resource_type, resource.id);
        ehr.send("PUT", &place, &headers, &resource.json).await.with_context(|| format!("{} does not take the demo's {place}", ehr.base()))?;
        bar.inc(1);
    }
    bar.finish();
    Ok(())
}

/// The same for the stand-in of this process: of each resource the newest version.
pub fn put_into_stand_in(stand_in: &StandIn, stories: &[Story]) -> anyhow::Result<()> {
    let newest_first: Vec<String> =
        rounds(stories).into_iter().rev().flatten().filter(|resource| resource.is_valid).map(|resource| resource.json.clone()).collect();
    stand_in.load(&newest_first).context("the stand-in's file cannot be written")
}

/// Sends everything, valid or not, through the gateway's own front door, round by round.
pub async fn send_to_gateway(pipeline: &Pipeline, site: &Site, stories: &[Story]) -> Result<(), StoreError> {
    let rounds = rounds(stories);
    let bar = progress(rounds.iter().map(Vec::len).sum(), "to the gateway ");
    for round in rounds {
        let messages: Vec<_> = round.iter().map(|resource| receive::prepare(&pipeline.catalogue, site, resource.json.as_bytes())).collect();
        let (pipeline, site, count) = (pipeline.clone(), site.id.clone(), messages.len() as u64);
        tokio::task::spawn_blocking(move || receive::receive(&pipeline, &site, FEED, now_ms(), &messages))
            .await
            .map_err(|error| StoreError::Broken(error.to_string()))??;
        bar.inc(count);
    }
    bar.finish();
    Ok(())
}

/// What persons decided before the demo began: every state has somebody in it.
pub async fn decide(pipeline: &Pipeline, site: &str) -> anyhow::Result<()> {
    // The trial itself, not a study of one criterion for counting.
    let trial = pipeline.catalogue.studies_of_site.get(site).and_then(|studies| studies.iter().max_by_key(|study| study.criteria.len()));
    let study = trial.context("the demo's hospital takes part in no study")?.id.clone();
    let office = Office { pipeline, site, study };
    office.decide(OPTED_OUT, opt_out("asked by letter not to be contacted about studies")).await?;
    for subject in CONSENTED {
        office.decide(subject, consent("signed at the clinic visit, both copies filed")).await?;
    }
    for subject in ENROLLED {
        office.decide(subject, consent("signed at the clinic visit, both copies filed")).await?;
        office.answer_what_is_open(subject).await?;
        office.decide(subject, state(DecidedState::Enrolled, "infusion day agreed")).await?;
    }
    office.decide(SCREEN_FAILED, state(DecidedState::ScreenFailed, "HbA1c above the limit; the clinic knows")).await?;
    office.decide(WITHDRAWN, consent("signed at the clinic visit, both copies filed")).await?;
    office.decide(WITHDRAWN, state(DecidedState::Withdrawn, "moved to another city")).await?;
    if let Some(subject) = ENROLLED.last() {
        office.decide(subject, state(DecidedState::OnFollowUp, "cells given, week 0 done")).await?;
    }
    office.decide(TREATED[0], fever()).await?;
    Ok(())
}

struct Office<'a> {
    pipeline: &'a Pipeline,
    site: &'a str,
    study: String,
}

impl Office<'_> {
    async fn decide(&self, subject: &str, wanted: Wanted) -> anyhow::Result<()> {
        decisions::take_decision(self.pipeline, &self.study, self.site, subject, DECIDED_BY, wanted)
            .await
            .map(|_| ())
            .map_err(|refusal| anyhow!("the demo's own decision about {subject} was refused: {refusal}"))
    }

    /// Answers every screening criterion that the data leave open.
    async fn answer_what_is_open(&self, subject: &str) -> anyhow::Result<()> {
        let (site, asked, study) = (self.site.to_owned(), subject.to_owned(), self.study.clone());
        let card = self.pipeline.store.read(move |tx| store::screening::card(tx, &site, &asked, &study)).await?;
        let card = card.with_context(|| format!("{subject} was not judged"))?;
        for criterion in card.assessment.criteria.iter().filter(|criterion| criterion.verdict == Verdict::Unknown) {
            let wanted = Wanted {
                criterion: Some(criterion.id.clone()),
                passes: Some(true),
                evidence_hash: criterion.evidence_hash.clone(),
                ..Wanted::new(DecisionKind::Attestation, "asked and examined at the screening visit")
            };
            self.decide(subject, wanted).await?;
        }
        Ok(())
    }
}

/// An event that the trial's own people met the day after the infusion, with every axis.
fn fever() -> Wanted {
    let onset = Day::from_number(now_ms().div_euclid(MS_PER_DAY) - HIGH_DOSE_DAYS_AGO + 1);
    let axes = WantedAxes {
        term: Some("Fever".into()),
        grade: Some(1),
        is_serious: Some(false),
        relation: Some(Relation::Possible),
        is_expected: Some(true),
        outcome: Some("resolved".into()),
        onset: Some(onset.to_string()),
        resolved: Some(onset.to_string()),
        is_dose_limiting: Some(false),
        ..WantedAxes::default()
    };
    Wanted { axes: Some(axes), ..Wanted::new(DecisionKind::EventRecorded, "told at the visit of week 2, from the subject's diary") }
}

fn consent(reason: &str) -> Wanted {
    Wanted { given: Some(true), ..Wanted::new(DecisionKind::Consent, reason) }
}

fn opt_out(reason: &str) -> Wanted {
    Wanted { opted_out: Some(true), ..Wanted::new(DecisionKind::OptOut, reason) }
}

fn state(to: DecidedState, reason: &str) -> Wanted {
    Wanted { to: Some(to), ..Wanted::new(DecisionKind::State, reason) }
}
