//! What a why-card shows beneath a verdict: rows of evidence, and the hash by which a person's answer names them.

use super::results::Results;
use super::{Evidence, Finding, Role};
use crate::clinical::chart::Recorded;
use crate::clinical::date::PartialDate;
use crate::clinical::fact::{Condition, Decision, Measurement, Person, Source, Status};
use crate::digest::sha256_hex;
use crate::study::Criterion;

fn row(role: Role, source: &Source, status: Status, what: &str) -> Evidence {
    Evidence {
        role,
        resource: resource(source),
        version: source.version.as_ref().map(|version| version.to_string()),
        message: source.message,
        what: what.to_string(),
        code: String::new(),
        status: status.word().to_string(),
        date: None,
        value_as_received: String::new(),
        unit_as_received: String::new(),
        value_used: None,
        unit_used: None,
        equation: None,
        egfr: None,
        threshold: None,
        unusable: None,
        note: None,
    }
}

/// `Observation/abc`.
pub(super) fn resource(source: &Source) -> String {
    [source.resource_type.word(), "/", source.id.as_str()].concat()
}

pub(super) fn measurement(role: Role, of: &Recorded<Measurement>) -> Evidence {
    let sign = of.body.comparator.map_or("", |comparator| comparator.sign());
    let value = of.body.value_as_received.as_str();
    Evidence {
        code: of.body.code.to_string(),
        date: of.body.effective.map(|effective| effective.to_string()),
        value_as_received: [if value.starts_with(sign) { "" } else { sign }, value].concat(),
        unit_as_received: of.body.unit_as_received.to_string(),
        ..row(role, &of.source, of.status, of.body.analyte.map_or("unmapped", |analyte| analyte.word()))
    }
}

/// The newer results that could not be used.
pub(super) fn newer_unusable(results: &Results<'_>) -> impl Iterator<Item = Evidence> {
    results.newer_unusable().map(|(of, why)| Evidence { unusable: Some(why.to_string()), ..measurement(Role::NewerUnusable, of) })
}

/// `what` is `birth-date` or `sex`.
pub(super) fn person(of: &Recorded<Person>, what: &str, value: String) -> Evidence {
    Evidence { value_as_received: value, ..row(Role::Used, &of.source, of.status, what) }
}

pub(super) fn condition(of: &Recorded<Condition>, what: &str) -> Evidence {
    let words = [of.body.clinical_status.as_str(), of.body.verification_status.as_str()];
    Evidence {
        code: of.body.code.to_string(),
        date: of.body.onset.or(of.body.recorded).map(|date| date.to_string()),
        value_as_received: words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(", "),
        ..row(Role::Used, &of.source, of.status, what)
    }
}

pub(super) fn decision(of: &Recorded<Decision>, what: &str, value: &str) -> Evidence {
    Evidence {
        date: Some(PartialDate::instant(of.body.at_ms).to_string()),
        value_as_received: value.to_string(),
        ..row(Role::Used, &of.source, of.status, what)
    }
}

/// SHA-256, in hexadecimal, of what a person sees when they answer a criterion: its words, the open question, and
/// the evidence with its values. Leaves out what changes without changing the question: receipt and version
/// numbers, and the explanation, which counts days.
pub(super) fn hash(criterion: &Criterion, finding: &Finding) -> String {
    let mut text = String::with_capacity(1024);
    let mut field = |field: &str| {
        // Lengths keep neighbours apart whatever they hold.
        push_number(&mut text, field.len());
        text.push(':');
        text.push_str(field);
        text.push(',');
    };
    field(&criterion.id);
    field(&criterion.text);
    field(finding.verdict.word());
    field(finding.reason.map_or("", |reason| reason.word()));
    for row in &finding.evidence {
        field(row.role.word());
        for word in [&row.resource, &row.what, &row.code, &row.status, &row.value_as_received, &row.unit_as_received] {
            field(word);
        }
        for word in [&row.date, &row.equation, &row.threshold, &row.unusable, &row.note] {
            field(word.as_deref().unwrap_or_default());
        }
        for number in [row.value_used, row.egfr] {
            field(&number.map_or_else(String::new, |number| number.to_string()));
        }
    }
    sha256_hex(text.as_bytes())
}

/// Nearly all are below 100, and formatting is dear where there are millions.
fn push_number(text: &mut String, number: usize) {
    match number {
        0..=9 => text.push(char::from(b'0' + number as u8)),
        10..=99 => {
            text.push(char::from(b'0' + (number / 10) as u8));
            text.push(char::from(b'0' + (number % 10) as u8));
        }
        _ => text.push_str(&number.to_string()),
    }
}
