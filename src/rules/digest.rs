//! One hash of what is known at a site and one of what follows from it, so that two gateways, or two doors, can be shown to
//! agree. Both are independent of the order in which anything came and of the door it came by; docs/feeds.md says for the
//! people of a hospital what is in them. Knows no store.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Assessment, CriterionVerdict, Evidence, Hidden, SeriesPoint, Verdict};
use crate::clinical::chart::Chart;
use crate::clinical::date::PartialDate;
use crate::clinical::statement::{Statement, Words, statements};
use crate::digest::{hex, sha256};

/// Stands at the head of everything that is hashed. What is hashed otherwise one day gets another number here, so that two
/// programs that mean different things never seem to agree or to differ.
const FACTS: &str = "nephrogate facts 1";
const VERDICTS: &str = "nephrogate verdicts 1";

/// One subject's part of both hashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubjectDigest {
    pub subject: String,
    pub facts: [u8; 32],
    pub verdicts: [u8; 32],
}

/// Verdicts of one study.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Of those who may be named, by word of the prescreen.
    pub prescreen: BTreeMap<&'static str, u64>,
    /// Of those who may not, by reason.
    pub hidden: BTreeMap<&'static str, u64>,
}

/// Both hashes as they grow, subject by subject in any order.
#[derive(Clone, Debug, Default)]
pub struct Digest {
    subjects: Vec<SubjectDigest>,
    /// Records that were merged into another; what was told about them counts for that one.
    pub merged: u64,
    /// Facts that stand, by kind.
    pub facts: BTreeMap<&'static str, u64>,
    /// By study.
    pub verdicts: BTreeMap<String, Counts>,
}

impl Digest {
    /// Adds one subject: their folded chart, and their assessment for each study. Who nothing is known of adds nothing,
    /// since a store may know of them for no more than that something was taken back.
    pub fn add(&mut self, subject: &str, chart: &Chart, assessments: &[Assessment]) {
        let statements = statements(chart);
        if statements.is_empty() {
            return;
        }
        let mut verdicts = Words::default();
        verdicts.word(VERDICTS).word(subject);
        let mut assessments: Vec<&Assessment> = assessments.iter().collect();
        assessments.sort_unstable_by(|a, b| a.study.cmp(&b.study));
        for assessment in assessments {
            assessed(&mut verdicts, assessment);
            let counts = self.verdicts.entry(assessment.study.clone()).or_default();
            match assessment.hidden {
                None => *counts.prescreen.entry(assessment.prescreen.word()).or_default() += 1,
                Some(hidden) => *counts.hidden.entry(hidden.word()).or_default() += 1,
            }
        }
        let mut facts = Words::default();
        facts.word(FACTS).word(subject);
        for Statement { kind, words } in &statements {
            facts.word(kind).word(words.as_str());
            *self.facts.entry(kind).or_default() += 1;
        }
        self.push(subject, &facts, &verdicts);
    }

    /// Adds a record that was merged into another: of it stands that alone.
    pub fn add_merged<'s>(&mut self, subject: &str, into: &str, studies: impl IntoIterator<Item = &'s str>) {
        let mut facts = Words::default();
        facts.word(FACTS).word(subject).word("merged").word(into);
        let mut verdicts = Words::default();
        verdicts.word(VERDICTS).word(subject).word("merged");
        self.merged += 1;
        for study in studies {
            *self.verdicts.entry(study.to_owned()).or_default().hidden.entry(Hidden::Merged.word()).or_default() += 1;
        }
        self.push(subject, &facts, &verdicts);
    }

    fn push(&mut self, subject: &str, facts: &Words, verdicts: &Words) {
        self.subjects.push(SubjectDigest {
            subject: subject.to_owned(),
            facts: sha256(facts.as_str().as_bytes()),
            verdicts: sha256(verdicts.as_str().as_bytes()),
        });
    }

    /// Adds what was gathered elsewhere of other subjects.
    pub fn join(mut self, other: Digest) -> Digest {
        self.subjects.extend(other.subjects);
        self.merged += other.merged;
        for (kind, count) in other.facts {
            *self.facts.entry(kind).or_default() += count;
        }
        for (study, other) in other.verdicts {
            let counts = self.verdicts.entry(study).or_default();
            for (word, count) in other.prescreen {
                *counts.prescreen.entry(word).or_default() += count;
            }
            for (word, count) in other.hidden {
                *counts.hidden.entry(word).or_default() += count;
            }
        }
        self
    }

    /// Every subject that counts, in order of their ids.
    pub fn subjects(&self) -> Vec<&SubjectDigest> {
        let mut subjects: Vec<&SubjectDigest> = self.subjects.iter().collect();
        subjects.sort_unstable_by(|a, b| a.subject.cmp(&b.subject));
        subjects
    }

    pub fn hash_of_facts(&self) -> String {
        combined(FACTS, self.subjects.iter().map(|subject| subject.facts))
    }

    pub fn hash_of_verdicts(&self) -> String {
        combined(VERDICTS, self.subjects.iter().map(|subject| subject.verdicts))
    }
}

/// SHA-256 of the subjects' hashes in their own order; each names its subject, so that none can stand for another.
fn combined(head: &str, subjects: impl Iterator<Item = [u8; 32]>) -> String {
    let mut subjects: Vec<[u8; 32]> = subjects.collect();
    subjects.sort_unstable();
    let mut bytes = head.as_bytes().to_vec();
    bytes.extend(subjects.iter().flatten());
    hex(&sha256(&bytes))
}

/// What was judged, and on what values; not by which study file, nor as of when, nor in which words it is explained.
fn assessed(words: &mut Words, assessment: &Assessment) {
    let Assessment {
        study,
        study_hash: _,
        as_of_ms: _,
        egfr,
        prescreen,
        eligibility,
        state,
        was_enrolled,
        criteria,
        near_miss,
        missing,
        hidden,
        series,
        alerts,
    } = assessment;
    words.word(study).number(*egfr).word(prescreen.word()).word(eligibility.word()).word(state.word()).flag(Some(*was_enrolled));
    words.optional(hidden.map(|hidden| hidden.word())).set(missing);
    words.word(&criteria.len().to_string());
    for criterion in criteria {
        judged(words, criterion);
    }
    words.optional(near_miss.as_ref().map(|near| near.criterion.as_str()));
    if let Some(near) = near_miss {
        words.number(near.distance).number(near.trend_per_year);
    }
    words.set(series.iter().map(|point| {
        let SeriesPoint { date: _, at_ms, egfr, creatinine_mg_dl, resource: _, version: _ } = point;
        let mut words = Words::default();
        words.word(&at_ms.to_string()).number(Some(*egfr)).number(Some(*creatinine_mg_dl));
        words.as_str().to_owned()
    }));
    words.set(alerts.iter().map(|alert| alert.word()));
}

fn judged(words: &mut Words, criterion: &CriterionVerdict) {
    let CriterionVerdict {
        id,
        text: _,
        criterion_type: _,
        origin: _,
        stage: _,
        verdict,
        protocol_verdict,
        reason,
        explanation: _,
        evidence,
        missing,
        distance,
        attestation,
        evidence_hash: _,
    } = criterion;
    words.word(id).word(verdict.word()).word(protocol_verdict.word()).optional(reason.map(|reason| reason.word()));
    words.set(missing).number(*distance).flag(attestation.as_ref().map(|attestation| attestation.passes));
    if let Some(attestation) = attestation {
        words.word(&attestation.by).word(&attestation.reason).word(&attestation.at_ms.to_string());
    }
    words.set(evidence.iter().map(|row| {
        let mut words = Words::default();
        rested(&mut words, row);
        words.as_str().to_owned()
    }));
}

/// The values, not the resources that brought them.
fn rested(words: &mut Words, evidence: &Evidence) {
    let Evidence {
        role,
        resource: _,
        version: _,
        message: _,
        what,
        code: _,
        status: _,
        date,
        value_as_received: _,
        unit_as_received: _,
        value_used,
        unit_used,
        equation,
        egfr,
        threshold,
        unusable,
        note,
    } = evidence;
    words.word(role.word()).word(what);
    match date.as_deref().map(PartialDate::parse) {
        Some(Ok(date)) => words.date(Some(date)),
        Some(Err(_)) => words.optional(date.as_deref()),
        None => words.optional(None),
    };
    words.number(*value_used).optional(unit_used.as_deref()).optional(equation.as_deref()).number(*egfr);
    words.optional(threshold.as_deref()).optional(unusable.as_deref()).optional(note.as_deref());
}

/// The prescreen's words, in the order in which they are told.
pub const PRESCREEN: [Verdict; 3] = [Verdict::Met, Verdict::NotMet, Verdict::Unknown];
