//! What persons answer: consent, and the criteria that data leave open. An answer stands for the evidence that was
//! seen and lapses when that changes (rulings.md 18).

use super::person::decisions;
use super::{Attestation, CriterionVerdict, Finding, Reason, Verdict, evidence};
use crate::clinical::chart::Chart;
use crate::clinical::date::AsOf;
use crate::clinical::fact::{Decided, Decision};
use crate::study::{Criterion, Study};

/// A criterion that only a person can answer.
pub(super) fn open() -> Finding {
    Finding::unknown(Reason::NotAttested, "a person must answer this".to_string())
}

/// The newest decision on consent.
pub(super) fn consent(study: &Study, chart: &Chart, as_of: AsOf) -> Finding {
    let newest = decisions(study, chart, as_of).filter_map(|decision| match decision.body.what {
        Decided::Consent { given } => Some((decision, given)),
        Decided::Attestation { .. }
        | Decided::OptOut { .. }
        | Decided::State { .. }
        | Decided::Dose { .. }
        | Decided::EventRecorded { .. }
        | Decided::EventAxes { .. }
        | Decided::EventReported { .. }
        | Decided::Candidate { .. } => None,
    });
    let Some((decision, given)) = newest.last() else {
        return Finding::unknown(Reason::NotAttested, "no consent is recorded".to_string());
    };
    let (verdict, words, value) = if given {
        (Verdict::Met, format!("consent recorded by {}", decision.body.by), "given")
    } else {
        (Verdict::NotMet, format!("consent refused or withdrawn, recorded by {}", decision.body.by), "not given")
    };
    Finding { evidence: vec![evidence::decision(decision, "consent", value)], ..Finding::new(verdict, words) }
}

/// The criterion's verdict, by a person's answer where the data leave it open; and whether an answer has lapsed.
pub(super) fn answer(study: &Study, criterion: &Criterion, finding: Finding, chart: &Chart, as_of: AsOf) -> (CriterionVerdict, bool) {
    let evidence_hash = evidence::hash(criterion, &finding);
    let answer = if finding.verdict == Verdict::Unknown { newest_answer(study, criterion, chart, as_of) } else { None };
    let has_lapsed = answer.is_some_and(|(decision, _)| decision.evidence_seen != evidence_hash);
    let mut verdict = CriterionVerdict {
        id: criterion.id.clone(),
        text: criterion.text.clone(),
        criterion_type: criterion.criterion_type,
        origin: criterion.origin,
        stage: criterion.stage,
        verdict: finding.verdict,
        protocol_verdict: finding.protocol_verdict,
        reason: finding.reason,
        explanation: finding.explanation,
        evidence: finding.evidence,
        missing: finding.missing.into_iter().map(str::to_string).collect(),
        distance: finding.distance,
        attestation: None,
        evidence_hash,
    };
    if let Some((decision, passes)) = answer.filter(|_| !has_lapsed) {
        verdict.verdict = if passes { Verdict::Met } else { Verdict::NotMet };
        // A person who answers what a site rule held back does not overrule what the protocol's words gave.
        if verdict.protocol_verdict == Verdict::Unknown {
            verdict.protocol_verdict = verdict.verdict;
        }
        verdict.attestation = Some(Attestation { by: decision.by.to_string(), reason: decision.reason.clone(), at_ms: decision.at_ms, passes });
    }
    (verdict, has_lapsed)
}

fn newest_answer<'c>(study: &Study, criterion: &Criterion, chart: &'c Chart, as_of: AsOf) -> Option<(&'c Decision, bool)> {
    decisions(study, chart, as_of)
        .filter_map(|decision| {
            let Decided::Attestation { criterion: id, passes } = &decision.body.what else { return None };
            (*id == criterion.id).then_some((&decision.body, *passes))
        })
        .last()
}
