//! One subject of one study before one receiver: what every kind of resource asks about it.

use super::super::{Form, Known, Receiver, Standing, WriteBack, Written, keys};
use super::stance::{self, Stance, Told};
use crate::digest::sha256_hex;
use crate::escape::percent;
use crate::fhir::study_flagged::{Identity, Target, VerdictEvidence};
use crate::fhir::{WRITE_BACK_SYSTEM, is_id};
use crate::rules::course::Course;
use crate::rules::{Assessment, Evidence, Role};
use crate::study::{Stage, Study};

pub struct Case<'a> {
    pub receiver: &'a Receiver,
    pub study: &'a Study,
    pub subject: &'a str,
    pub assessment: &'a Assessment,
    pub course: Option<&'a Course>,
    pub mapping_hash: &'a str,
    pub written: &'a [Written],
    pub stance: Stance,
    /// `Patient/id`.
    pub patient: String,
    /// The results that count, each once.
    counting: Vec<&'a Evidence>,
    /// References to them, with their version.
    sources: Vec<String>,
    /// Address of the why-card.
    pub why: Option<String>,
}

impl<'a> Case<'a> {
    pub fn new(receiver: &'a Receiver, study: &'a Study, known: Known<'a>, written: &'a [Written]) -> Case<'a> {
        let Known { subject, assessment, course, mapping_hash } = known;
        let counting = counting(assessment);
        Case {
            receiver,
            study,
            subject,
            assessment,
            course,
            mapping_hash,
            written,
            stance: stance::stance(receiver.write_from, Standing::of(assessment)),
            patient: format!("Patient/{subject}"),
            sources: counting.iter().map(|evidence| versioned(evidence)).collect(),
            counting,
            why: receiver.why_url.as_ref().map(|base| why_card(base, &study.id, &receiver.site, subject)),
        }
    }

    /// The key of one kind of resource about this subject.
    pub fn key(&self, kind: &str) -> String {
        key(self.receiver, self.study, self.subject, kind)
    }

    pub fn before(&self, key: &str) -> Option<&'a Written> {
        self.written.iter().find(|before| before.key == key)
    }

    pub fn build(&self, key: &str, with: impl FnOnce(Identity<'_>) -> String) -> String {
        build(self.receiver, key, with)
    }

    /// Whether the verdict still drives what is written: from enrolment on the subject's state does (rulings.md 20).
    pub fn is_driven_by_verdict(&self) -> bool {
        self.stance == Stance::Write && !self.assessment.was_enrolled
    }

    /// The line that people read.
    pub fn says(&self, told: Told) -> String {
        stance::says(told, self.assessment.state, self.assessment.was_enrolled, &self.study.title)
    }

    /// References to the results on which this rests, while the verdict drives it.
    pub fn sources(&self) -> &[String] {
        if self.is_driven_by_verdict() { &self.sources } else { &[] }
    }

    /// The same, as the hospital has them now.
    pub fn results(&self) -> &[&'a Evidence] {
        if self.is_driven_by_verdict() { &self.counting } else { &[] }
    }

    /// Every result that counts, whatever drives the state.
    pub fn counting(&self) -> &[&'a Evidence] {
        &self.counting
    }

    /// Our extension for what says a state; what is taken back says nothing more.
    pub fn evidence(&self, told: Told) -> Option<VerdictEvidence<'_>> {
        (told == Told::State && !self.receiver.takes.no_extensions).then(|| VerdictEvidence {
            verdict: self.is_driven_by_verdict().then(|| self.assessment.prescreen.word()),
            study_hash: some(&self.study.hash),
            mapping_hash: some(self.mapping_hash),
            sources: self.sources(),
            why: self.why.as_deref(),
        })
    }

    /// Hash of what a resource says. An edit of the study's or the mapping's file alone does not make it say anything
    /// else: nothing is written anew for that.
    pub fn hash(&self, content: &str) -> String {
        sha256_hex(content.replace(&self.study.hash, "").replace(self.mapping_hash, "").as_bytes())
    }

    /// `ResearchStudy/id`, where we keep one there and know its id.
    pub fn study_url(&self) -> Option<String> {
        if !self.receiver.ladder.writes("ResearchStudy") {
            return None;
        }
        let key = key(self.receiver, self.study, "", "ResearchStudy");
        let id = if self.receiver.update_creates { Some(keys::own_id(&key)) } else { self.before(&key).and_then(|before| before.server_id.clone()) };
        id.map(|id| format!("ResearchStudy/{id}"))
    }

    /// The study by its number in a registry, else by our identifier: right everywhere, and looked up nowhere.
    pub fn with_named_study<T>(&self, with: impl FnOnce(Target<'_>) -> T) -> T {
        let key = key(self.receiver, self.study, "", "ResearchStudy");
        let pair = match self.study.registry.first() {
            Some(registry) => (registry.system.as_str(), registry.value.as_str()),
            None => (WRITE_BACK_SYSTEM, key.as_str()),
        };
        with(Target::Named("ResearchStudy", pair, &self.study.title))
    }

    /// What is built with a reference to the study: as it is best, and as it was right before the study's id was known.
    pub fn with_study(&self, build: impl Fn(Target<'_>) -> String) -> (String, Option<String>) {
        match self.study_url() {
            Some(url) => (build(Target::Literal(&url)), Some(self.with_named_study(build))),
            None => (self.with_named_study(build), None),
        }
    }

    /// Whether a request refers to the ResearchStudy that we keep there.
    pub fn refers_to_study(&self, request: &WriteBack) -> bool {
        request.resource_type == "ResearchSubject" || request.form == Form::Fragment || request.resource_type == "AdverseEvent"
    }
}

/// The results that carried the prescreen.
fn counting(assessment: &Assessment) -> Vec<&Evidence> {
    let criteria = assessment.criteria.iter().filter(|criterion| criterion.stage == Stage::Prescreen);
    let used = criteria.flat_map(|criterion| &criterion.evidence).filter(|evidence| evidence.role == Role::Used);
    let mut results: Vec<&Evidence> =
        used.filter(|evidence| ["Observation/", "DiagnosticReport/"].iter().any(|kind| evidence.resource.starts_with(kind))).collect();
    results.sort_by_key(|evidence| &evidence.resource);
    results.dedup_by_key(|evidence| &evidence.resource);
    results
}

/// `Observation/abc/_history/2`, where the source has a version.
fn versioned(evidence: &Evidence) -> String {
    match evidence.version.as_deref().filter(|version| is_id(version)) {
        Some(version) => format!("{}/_history/{version}", evidence.resource),
        None => evidence.resource.clone(),
    }
}

/// `https://gateway.example/studies/...`: the page of the why-card, each part percent-encoded.
fn why_card(base: &str, study: &str, site: &str, subject: &str) -> String {
    format!("{base}/studies/{}/sites/{}/subjects/{}", percent(study), percent(site), percent(subject))
}

fn some(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// The key of one kind of resource about one subject of one study; without a subject, about the study itself.
pub fn key(receiver: &Receiver, study: &Study, subject: &str, kind: &str) -> String {
    keys::identifier(&receiver.identifier_key, &receiver.site, &study.id, subject, kind)
}

/// Builds a resource that carries our identifier.
pub fn build(receiver: &Receiver, key: &str, with: impl FnOnce(Identity<'_>) -> String) -> String {
    let identifiers = [(WRITE_BACK_SYSTEM, key)];
    with(Identity { id: None, identifiers: &identifiers, is_test: receiver.tag_test })
}
