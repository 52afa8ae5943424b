//! Resources of one export look alike: the same keys, systems, codes and units in the same order, other values. A line
//! that differs from one that passed the gate only in such values needs no second parse: its fixed parts are compared,
//! its values are cut out, and what was worked out from the fixed parts of the first line holds for it too.
//!
//! Nothing is guessed. A line is only read this way when gate and view would have to answer the same: the fixed parts
//! are equal byte for byte, no value is empty or holds an escape or control character, ids are FHIR ids, and numbers
//! are plain. Any doubt answers `None`, and the line goes through [`RawResource::parse`] and its view.

use std::ops::Range;

use super::{RawResource, gate};

/// Patterns kept at once; an export of many sites and codes has some twenty, and what is met most is asked first.
const MAX_PATTERNS: usize = 32;

/// Most values of one pattern; a line with more is read the long way.
const MAX_VALUES: usize = 24;

/// Most identifiers of a line that is read this way.
const MAX_IDENTIFIERS: usize = 4;

/// The patterns that were learned, each with `T`: what the fixed parts of its lines mean to whoever learned it.
pub struct Patterns<T> {
    /// What was met last comes first; boxed, since that moves them with nearly every line.
    patterns: Vec<Box<Pattern<T>>>,
}

/// One line that passed the gate, cut at its values.
struct Pattern<T> {
    /// Each value with the fixed bytes before it.
    cuts: Vec<Cut>,
    /// The fixed bytes behind the last value.
    end: Box<[u8]>,
    meaning: T,
}

struct Cut {
    before: Box<[u8]>,
    what: Value,
}

/// The values that may differ between lines that look alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    Id,
    Version,
    LastUpdated,
    /// `identifier[n].value`
    Identifier(usize),
    SubjectReference,
    EffectiveDateTime,
    Issued,
    /// `valueQuantity.value`
    Number,
    BirthDate,
    DeceasedDateTime,
    /// `meta.source`, which no view reads.
    Source,
    /// Another string that no view reads: the encounter, the performer, a name, an address.
    NotRead,
}

/// The values of one line, as they stand in it; `None` where its pattern has none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Values<'a> {
    pub id: Option<&'a str>,
    /// `meta.versionId`.
    pub version: Option<&'a str>,
    /// `meta.lastUpdated`.
    pub last_updated: Option<&'a str>,
    /// `identifier[n].value`
    pub identifiers: [Option<&'a str>; MAX_IDENTIFIERS],
    /// `subject.reference`
    pub subject: Option<&'a str>,
    pub effective_date_time: Option<&'a str>,
    pub issued: Option<&'a str>,
    /// `valueQuantity.value`, a plain decimal.
    pub number: Option<&'a str>,
    pub birth_date: Option<&'a str>,
    pub deceased_date_time: Option<&'a str>,
}

impl<T> Default for Patterns<T> {
    fn default() -> Patterns<T> {
        Patterns { patterns: Vec::new() }
    }
}

impl<T> Patterns<T> {
    /// Reads a line that looks like one that was learned.
    pub fn read<'a>(&mut self, line: &'a [u8]) -> Option<(Values<'a>, &T)> {
        self.read_where(line, |_, _| true)
    }

    /// Reads a line that looks like one that was learned and whose own values are all such that `holds`.
    pub fn read_where<'a>(&mut self, line: &'a [u8], holds: impl Fn(Value, &str) -> bool) -> Option<(Values<'a>, &T)> {
        let (index, values) = self.patterns.iter().enumerate().find_map(|(index, pattern)| Some((index, pattern.read(line, &holds)?)))?;
        // What was met just now is likely met again.
        self.patterns[..=index].rotate_right(1);
        Some((values, &self.patterns[0].meaning))
    }

    /// Learns the pattern of a line that passed the gate, with what its fixed parts mean. `meaning` must not rest on
    /// anything that [`Values`] carries.
    pub fn learn(&mut self, resource: &RawResource<'_>, meaning: T) {
        let text = resource.text();
        if !is_plain(resource.bytes) {
            return;
        }
        let mut cuts = Vec::new();
        let mut from = 0;
        for (value, span) in values(text) {
            if matches!(value, Value::Identifier(index) if index >= MAX_IDENTIFIERS) {
                return;
            }
            cuts.push(Cut { before: text.as_bytes()[from..span.start].into(), what: value });
            from = span.end;
        }
        if cuts.len() > MAX_VALUES {
            return;
        }
        self.patterns.truncate(MAX_PATTERNS - 1);
        self.patterns.insert(0, Box::new(Pattern { cuts, end: text.as_bytes()[from..].into(), meaning }));
    }
}

impl<T> Pattern<T> {
    fn read<'a>(&self, line: &'a [u8], holds: impl Fn(Value, &str) -> bool) -> Option<Values<'a>> {
        // Only when all fixed parts are found are the values worth more than a look.
        let mut lengths = [0; MAX_VALUES];
        let mut rest = line;
        for (cut, length) in self.cuts.iter().zip(lengths.iter_mut()) {
            rest = rest.strip_prefix(&*cut.before)?;
            *length = if cut.what == Value::Number { plain_number(rest)? } else { plain_string(rest)? };
            rest = &rest[*length..];
        }
        if rest != &*self.end {
            return None;
        }
        let mut values = Values::default();
        let mut rest = line;
        for (cut, length) in self.cuts.iter().zip(lengths) {
            let (value, behind) = rest[cut.before.len()..].split_at(length);
            rest = behind;
            // The fixed parts are UTF-8, as those of the first line were.
            let text = Some(std::str::from_utf8(value).ok().filter(|text| holds(cut.what, text))?);
            match cut.what {
                Value::Id => values.id = text,
                Value::Version => values.version = text,
                Value::LastUpdated => values.last_updated = text,
                Value::Identifier(index) => values.identifiers[index] = text,
                Value::SubjectReference => values.subject = text,
                Value::EffectiveDateTime => values.effective_date_time = text,
                Value::Issued => values.issued = text,
                Value::Number => values.number = text,
                Value::BirthDate => values.birth_date = text,
                Value::DeceasedDateTime => values.deceased_date_time = text,
                Value::Source | Value::NotRead => {}
            }
        }
        let are_ids = [values.id, values.version].into_iter().flatten().all(gate::is_id);
        are_ids.then_some(values)
    }
}

/// Whether nothing in these bytes is an escape or a control character.
fn is_plain(bytes: &[u8]) -> bool {
    !bytes.iter().any(|byte| *byte < 0x20 || *byte == b'\\')
}

/// Length of the string that begins here and ends at the next quote; `None` when it is empty or holds an escape or a
/// control character.
fn plain_string(bytes: &[u8]) -> Option<usize> {
    let length = gate::next_special(bytes, 0);
    (length > 0 && bytes.get(length) == Some(&b'"')).then_some(length)
}

/// Length of the plain decimal that begins here (`-1.50`); an exponent or a leading zero is for the gate to judge.
fn plain_number(bytes: &[u8]) -> Option<usize> {
    let digits = |from: usize| bytes[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let sign = usize::from(bytes.first() == Some(&b'-'));
    let whole = digits(sign);
    if whole == 0 || whole > 1 && bytes[sign] == b'0' {
        return None;
    }
    let mut end = sign + whole;
    if bytes.get(end) == Some(&b'.') {
        let fraction = digits(end + 1);
        if fraction == 0 {
            return None;
        }
        end += 1 + fraction;
    }
    (end <= gate::MAX_DIGITS && matches!(bytes.get(end), Some(b',' | b'}'))).then_some(end)
}

/// Where the values stand in a line that passed the gate and has no escape, in the order of the line.
fn values(text: &str) -> Vec<(Value, Range<usize>)> {
    let mut found = Vec::new();
    let string = |span: Range<usize>| text[span.clone()].starts_with('"').then_some(span.start + 1..span.end - 1);
    members(text, 0, &mut |key, span| {
        let top = match key {
            "id" => Some(Value::Id),
            "effectiveDateTime" => Some(Value::EffectiveDateTime),
            "issued" => Some(Value::Issued),
            "birthDate" => Some(Value::BirthDate),
            "deceasedDateTime" => Some(Value::DeceasedDateTime),
            _ => None,
        };
        if let (Some(value), Some(span)) = (top, string(span.clone())) {
            found.push((value, span));
            return;
        }
        match key {
            "meta" => members(text, span.start, &mut |key, span| match (key, string(span)) {
                ("versionId", Some(span)) => found.push((Value::Version, span)),
                ("lastUpdated", Some(span)) => found.push((Value::LastUpdated, span)),
                ("source", Some(span)) => found.push((Value::Source, span)),
                _ => {}
            }),
            "identifier" => elements(text, span.start, &mut |index, start| {
                members(text, start, &mut |key, span| {
                    if let ("value", Some(span)) = (key, string(span)) {
                        found.push((Value::Identifier(index), span));
                    }
                });
            }),
            "subject" | "encounter" => {
                let value = if key == "subject" { Value::SubjectReference } else { Value::NotRead };
                members(text, span.start, &mut |key, span| {
                    if let ("reference", Some(span)) = (key, string(span)) {
                        found.push((value, span));
                    }
                });
            }
            "performer" => elements(text, span.start, &mut |_, start| {
                members(text, start, &mut |key, span| {
                    if let ("reference" | "display", Some(span)) = (key, string(span)) {
                        found.push((Value::NotRead, span));
                    }
                });
            }),
            "name" | "address" | "telecom" => elements(text, span.start, &mut |_, start| {
                members(text, start, &mut |key, span| match (key, string(span.clone())) {
                    ("use" | "system" | "period" | "extension", _) => {}
                    (_, Some(span)) => found.push((Value::NotRead, span)),
                    (_, None) => elements(text, span.start, &mut |_, start| {
                        if let Some(span) = string(start..past(text.as_bytes(), start)) {
                            found.push((Value::NotRead, span));
                        }
                    }),
                });
            }),
            "valueQuantity" => members(text, span.start, &mut |key, span| {
                if key == "value" {
                    found.push((Value::Number, span));
                }
            }),
            _ => {}
        }
    });
    found
}

/// Gives key and value span of each member of the object that begins at `at`; of anything else nothing.
fn members(text: &str, at: usize, each: &mut dyn FnMut(&str, Range<usize>)) {
    let bytes = text.as_bytes();
    if bytes[at] != b'{' {
        return;
    }
    let mut at = space(bytes, at + 1);
    while bytes[at] == b'"' {
        let key = at + 1..past(bytes, at) - 1;
        let start = space(bytes, space(bytes, key.end + 1) + 1);
        let end = past(bytes, start);
        each(&text[key], start..end);
        at = space(bytes, end);
        if bytes[at] == b',' {
            at = space(bytes, at + 1);
        }
    }
}

/// Gives index and start of each element of the array that begins at `at`; of anything else nothing.
fn elements(text: &str, at: usize, each: &mut dyn FnMut(usize, usize)) {
    let bytes = text.as_bytes();
    if bytes[at] != b'[' {
        return;
    }
    let mut at = space(bytes, at + 1);
    let mut index = 0;
    while bytes[at] != b']' {
        each(index, at);
        index += 1;
        at = space(bytes, past(bytes, at));
        if bytes[at] == b',' {
            at = space(bytes, at + 1);
        }
    }
}

fn space(bytes: &[u8], at: usize) -> usize {
    at + bytes[at..].iter().take_while(|byte| **byte == b' ').count()
}

/// Where the value that begins at `at` ends.
fn past(bytes: &[u8], at: usize) -> usize {
    let string_end = |at: usize| at + 2 + memchr::memchr(b'"', &bytes[at + 1..]).expect("a string that passed the gate ends");
    match bytes[at] {
        b'"' => string_end(at),
        b'{' | b'[' => {
            let mut depth = 0;
            let mut at = at;
            loop {
                match bytes[at] {
                    b'"' => {
                        at = string_end(at);
                        continue;
                    }
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => depth -= 1,
                    _ => {}
                }
                at += 1;
                if depth == 0 {
                    return at;
                }
            }
        }
        _ => at + bytes[at..].iter().take_while(|byte| !matches!(byte, b',' | b'}' | b']' | b' ')).count(),
    }
}
