//! Millions of facts in little memory: each is written once, compactly, behind the last, and points back to the one
//! before it of the same subject. Nothing is moved or doubled while it grows. What the measurements of one code have in
//! common is kept once.

use std::collections::HashMap;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use crate::clinical::date::PartialDate;
use crate::clinical::fact::{Body, Fact, Measurement, ResourceType, Source, Status};

const SEGMENT_BYTES: usize = 1 << 20;
/// "There is none before."
const NONE: u64 = u64::MAX;
/// "This record is the whole fact"; what is smaller is the number of what it has in common with others.
const WHOLE: u8 = u8::MAX;

/// The facts one worker met.
#[derive(Default)]
pub struct FactLog {
    segments: Vec<Vec<u8>>,
    subjects: HashMap<CompactString, usize>,
    heads: Vec<Head>,
    /// The subject of the fact before: nearly always the subject of the next.
    last: Option<(CompactString, usize)>,
    common: Vec<Common>,
    /// Numbers of `common`, the one met last first.
    common_met: Vec<u8>,
    scratch: Vec<u8>,
}

#[derive(Clone, Copy)]
struct Head {
    newest: u64,
    has_patient: bool,
}

/// What many measurements have in common; those fields that [`Own`] has stand for nothing.
struct Common {
    resource_type: ResourceType,
    status: Status,
    measurement: Measurement,
}

/// What is each measurement's own.
#[derive(Serialize, Deserialize)]
struct Own<'a> {
    id: &'a str,
    version: Option<&'a str>,
    last_updated_ms: Option<i64>,
    message: i64,
    key: Option<&'a str>,
    issued_ms: Option<i64>,
    effective: Option<PartialDate>,
    value: Option<f64>,
    value_as_received: &'a str,
}

impl<'a> Own<'a> {
    fn of(fact: &'a Fact, measurement: &'a Measurement) -> Own<'a> {
        let Fact { source, key, status: _, issued_ms, body: _ } = fact;
        let Source { resource_type: _, id, version, last_updated_ms, message } = source;
        Own {
            id,
            version: version.as_deref(),
            last_updated_ms: *last_updated_ms,
            message: *message,
            key: key.as_deref(),
            issued_ms: *issued_ms,
            effective: measurement.effective,
            value: measurement.value,
            value_as_received: &measurement.value_as_received,
        }
    }

    /// The fact that this and what it has in common with others came from.
    fn with(self, common: &Common) -> Fact {
        let measurement = Measurement {
            effective: self.effective,
            value: self.value,
            value_as_received: self.value_as_received.into(),
            ..common.measurement.clone()
        };
        Fact {
            source: Source {
                resource_type: common.resource_type,
                id: self.id.into(),
                version: self.version.map(CompactString::from),
                last_updated_ms: self.last_updated_ms,
                message: self.message,
            },
            key: self.key.map(CompactString::from),
            status: common.status,
            issued_ms: self.issued_ms,
            body: Body::Measurement(measurement),
        }
    }
}

impl Common {
    fn is_of(&self, fact: &Fact, of: &Measurement) -> bool {
        // Every field is named, so that a new one cannot be forgotten.
        let Measurement {
            analyte,
            rank,
            code,
            effective: _,
            value: _,
            unit,
            comparator,
            value_as_received: _,
            unit_as_received,
            reference_low,
            reference_high,
            equation,
            unusable,
        } = &self.measurement;
        self.status == fact.status
            && self.resource_type == fact.source.resource_type
            && (reference_low, reference_high) == (&of.reference_low, &of.reference_high)
            && (analyte, rank, unit, comparator) == (&of.analyte, &of.rank, &of.unit, &of.comparator)
            && *code == of.code
            && *unit_as_received == of.unit_as_received
            && *equation == of.equation
            && *unusable == of.unusable
    }
}

impl FactLog {
    pub fn append(&mut self, subject: &CompactString, fact: &Fact) {
        let head = match &self.last {
            Some((last, head)) if last == subject => *head,
            Some(_) | None => {
                let next = self.heads.len();
                let head = *self.subjects.entry(subject.clone()).or_insert(next);
                if head == next {
                    self.heads.push(Head { newest: NONE, has_patient: false });
                }
                self.last = Some((subject.clone(), head));
                head
            }
        };
        self.scratch.clear();
        self.scratch.extend_from_slice(&self.heads[head].newest.to_le_bytes());
        let own = if let Body::Measurement(measurement) = &fact.body { self.own(fact, measurement) } else { None };
        let mut record = std::mem::take(&mut self.scratch);
        record.push(own.as_ref().map_or(WHOLE, |(number, _)| *number));
        let record = match own {
            Some((_, own)) => postcard::to_extend(&own, record),
            None => postcard::to_extend(fact, record),
        };
        let record = record.expect("a fact has nothing that postcard cannot write");
        let fits = self.segments.last().is_some_and(|segment| segment.capacity() - segment.len() >= record.len());
        if !fits {
            self.segments.push(Vec::with_capacity(SEGMENT_BYTES.max(record.len())));
        }
        let index = self.segments.len() - 1;
        let segment = &mut self.segments[index];
        self.heads[head].newest = (index as u64) << 32 | segment.len() as u64;
        self.heads[head].has_patient |= fact.source.resource_type == ResourceType::Patient;
        segment.extend_from_slice(&record);
        self.scratch = record;
    }

    /// A measurement as what it has in common with others, by number, and its own; `None` once there are too many kinds.
    fn own<'f>(&mut self, fact: &'f Fact, measurement: &'f Measurement) -> Option<(u8, Own<'f>)> {
        let number = match self.common_met.iter().position(|number| self.common[usize::from(*number)].is_of(fact, measurement)) {
            Some(at) => {
                self.common_met[..=at].rotate_right(1);
                self.common_met[0]
            }
            None => {
                let number = u8::try_from(self.common.len()).ok().filter(|number| *number != WHOLE)?;
                let (resource_type, status) = (fact.source.resource_type, fact.status);
                self.common.push(Common { resource_type, status, measurement: measurement.clone() });
                self.common_met.insert(0, number);
                number
            }
        };
        Some((number, Own::of(fact, measurement)))
    }

    /// Each subject with its place in this log, in order of id; nothing is appended after that.
    pub fn take_subjects(&mut self) -> Vec<(CompactString, Place)> {
        let place = |head: usize| Place { newest: self.heads[head].newest, has_patient: self.heads[head].has_patient };
        let subjects = std::mem::take(&mut self.subjects);
        let mut subjects: Vec<_> = subjects.into_iter().map(|(subject, head)| (subject, place(head))).collect();
        subjects.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        subjects
    }

    /// Reads a subject's facts back, in the order they came: most exports are sorted, and so little is left to sort.
    pub fn read(&self, place: Place, facts: &mut Vec<Fact>) {
        let mut records = Vec::with_capacity(32);
        let mut at = place.newest;
        while at != NONE {
            let record = &self.segments[(at >> 32) as usize][(at & u64::from(u32::MAX)) as usize..];
            let (before, record) = record.split_first_chunk::<8>().expect("a record begins with its back pointer");
            records.push(record);
            at = u64::from_le_bytes(*before);
        }
        facts.extend(records.into_iter().rev().map(|record| {
            let (common, record) = record.split_first().expect("a record says what it has in common with others");
            let fact = match self.common.get(usize::from(*common)) {
                Some(common) => postcard::take_from_bytes(record).map(|(own, _): (Own<'_>, _)| own.with(common)),
                None => postcard::take_from_bytes(record).map(|(fact, _)| fact),
            };
            fact.expect("a fact that was written can be read")
        }));
    }
}

/// Where one subject's facts begin in one log.
#[derive(Clone, Copy)]
pub struct Place {
    newest: u64,
    pub has_patient: bool,
}
