//! OBR and OBX: each result becomes an Observation. What its code and unit mean is for the site's mapping to say; here they
//! are only told in FHIR's words.

use std::collections::HashMap;

use serde_json::value::RawValue;

use super::conventions::TimeField;
use super::convert::{Reading, made_id};
use super::er7::{Piece, Segment};
use super::patient::{self, Identity};
use super::resource::{Coding, Concept, Identifier, Observation, Period, Quantity, Range, Ratio, Reference, Unit, Value};
use super::time::Time;
use crate::issue::{Code, Issue};

/// What an OBR says of the results behind it.
#[derive(Default)]
struct Order {
    /// Filler order number, else placer order number, as written; empty where there is neither.
    number: String,
    accession: Option<String>,
    /// OBR-7 and OBR-8.
    began: Option<Time>,
    ended: Option<Time>,
    issued: Option<Time>,
    /// OBR-24.
    section: String,
    /// OBR-25.
    status: String,
    /// OBR-7 or OBR-8 cannot be read: then no result of this order has a time that can be trusted.
    is_undated: bool,
}

/// An Observation whose id is still to be made.
struct Draft {
    subject: String,
    order: String,
    code: String,
    sub_id: String,
    observation: Observation,
}

impl Draft {
    fn key(&self) -> [&str; 4] {
        [&self.subject, &self.order, &self.code, &self.sub_id]
    }

    fn when(&self) -> &str {
        let period = || self.observation.effective_period.as_ref().and_then(|period| period.start.as_deref());
        self.observation.effective_date_time.as_deref().or_else(period).unwrap_or("")
    }
}

/// Reads all results of a message; answers whose they are, where that is one person.
pub(super) fn read(reading: &mut Reading<'_, '_>) -> Option<String> {
    let message = reading.message;
    let mut person: Option<Option<Identity>> = None;
    let mut order = Order::default();
    let mut drafts: Vec<Draft> = Vec::new();
    let mut subjects: Vec<String> = Vec::new();
    for segment in &message.segments {
        match segment.name {
            "PID" => {
                let identity = patient::of_pid(reading, segment);
                if let Some(identity) = &identity {
                    patient::mentioned(reading, segment, identity);
                    subjects.push(identity.id.clone());
                }
                person = Some(identity);
                order = Order::default();
            }
            "OBR" => order = read_order(reading, segment),
            "OBX" => match &person {
                Some(Some(identity)) => drafts.extend(read_result(reading, segment, identity, &order)),
                // Its PID was faulted already.
                Some(None) => {}
                None => {
                    reading.issues.push(Issue::new(Code::IdentityMissing, "PID"));
                    person = Some(None);
                }
            },
            _ => {}
        }
    }
    for (id, draft) in ids(&drafts).into_iter().zip(drafts) {
        reading.add(&Observation { id, ..draft.observation }, false);
    }
    subjects.sort();
    subjects.dedup();
    if subjects.len() == 1 { subjects.pop() } else { None }
}

/// An order number, a code and a sub-id name one result, whichever version of it comes: a correction may well bring another
/// time. Where there is no number, or one message tells several times of one such name, the time tells them apart.
fn ids(drafts: &[Draft]) -> Vec<String> {
    let mut times: HashMap<[&str; 4], Vec<&str>> = HashMap::new();
    for draft in drafts {
        let of_key = times.entry(draft.key()).or_default();
        if !of_key.contains(&draft.when()) {
            of_key.push(draft.when());
        }
    }
    let id = |draft: &Draft| {
        let is_named = !draft.order.is_empty() && times[&draft.key()].len() == 1;
        let [subject, order, code, sub_id] = draft.key();
        made_id(&["Observation", subject, order, code, sub_id, if is_named { "" } else { draft.when() }])
    };
    drafts.iter().map(id).collect()
}

fn read_order<'m>(reading: &mut Reading<'m, '_>, obr: &'m Segment<'m>) -> Order {
    // All components: a number means something only under the authority that gave it, and an authority alone is no number.
    let whole = |field: usize| {
        let number = reading.message.field(obr, field).repetitions().next().filter(|number| !number.component(1).value().trim().is_empty());
        number.map(|number| number.raw().trim().to_owned()).unwrap_or_default()
    };
    let (filler, placer) = (whole(3), whole(2));
    let (accession, section, status) = (reading.value(obr, reading.conventions.accession.number()), reading.value(obr, 24), reading.value(obr, 25));
    let (began, ended) = (reading.time_or_fault(obr, 7), reading.time_or_fault(obr, 8));
    let is_undated = began.is_err() || ended.is_err();
    Order {
        number: if filler.is_empty() { placer } else { filler },
        accession: Some(accession).filter(|accession| !accession.is_empty()),
        began: began.unwrap_or_default(),
        ended: ended.unwrap_or_default(),
        issued: reading.time(obr, 22).filter(Time::is_instant),
        section,
        status,
        is_undated,
    }
}

fn read_result<'m>(reading: &mut Reading<'m, '_>, obx: &'m Segment<'m>, person: &Identity, order: &Order) -> Option<Draft> {
    let status = match status(&reading.value(obx, 11), &order.status) {
        Told::Is(status) => status,
        Told::NoResult => return None,
        Told::FinalAsSentBefore if !reading.message.field(obx, 5).is_empty() => "final",
        Told::FinalAsSentBefore => {
            // The value is that of an earlier message; which one, nobody says.
            reading.issues.push(Issue::new(Code::StatusUnknown, obx.path(11)).with_detail("U without a value"));
            return None;
        }
    };
    let code = concept(reading, reading.message.field(obx, 3));
    if code.is_empty() {
        reading.unreadable(obx, 3, "no code");
        return None;
    }
    // A result whose time is written but cannot be read is not given another one.
    let own = match reading.conventions.time_of_result {
        TimeField::Obx14 => reading.time_or_fault(obx, 14).ok()?,
        TimeField::Obr7 => None,
    };
    if own.is_none() && order.is_undated {
        return None;
    }
    let mut observation = Observation {
        resource_type: "Observation",
        meta: reading.meta(),
        identifier: order.accession.iter().map(|value| accession(reading, value)).collect(),
        status,
        category: category(&order.section).into_iter().collect(),
        subject: Some(Reference::to_patient(&person.id)),
        issued: order.issued.as_ref().map(|time| time.text.clone()),
        ..Observation::default()
    };
    match (own, &order.began, &order.ended) {
        (Some(own), _, _) => observation.effective_date_time = Some(own.text),
        // Collected over a time, as urine is.
        (None, Some(began), Some(ended)) if began.date.start_ms < ended.date.start_ms => {
            observation.effective_period = Some(Period { start: Some(began.text.clone()), end: Some(ended.text.clone()) });
        }
        (None, began, _) => observation.effective_date_time = began.as_ref().map(|time| time.text.clone()),
    }
    let unit = unit(reading, reading.message.field(obx, 6));
    observation.value = value(reading, obx, &unit);
    observation.interpretation = reading.message.field(obx, 8).repetitions().filter_map(|flag| interpretation(&flag.component(1).value())).collect();
    let is_quantity = matches!(observation.value, Some(Value::Quantity(_)));
    observation.reference_range = range(&reading.message.field(obx, 7).value(), is_quantity.then_some(&unit)).into_iter().collect();
    let named = reading.message.field(obx, 3);
    let triplet = |from: usize| format!("{}^{}", named.component(from).value(), named.component(from + 2).value());
    let (first, second) = (triplet(1), triplet(4));
    let code_as_key = match (first.as_str(), second.as_str()) {
        ("^", "^") => code.text.clone().unwrap_or_default(),
        ("^", _) => second,
        _ => first,
    };
    observation.code = code;
    let sub_id = reading.message.field(obx, 4).value().into_owned();
    Some(Draft { subject: person.id.clone(), order: order.number.clone(), code: code_as_key, sub_id, observation })
}

enum Told {
    Is(&'static str),
    /// It describes the order, and is no result.
    NoResult,
    /// "Results status change to final without retransmitting results already sent as preliminary".
    FinalAsSentBefore,
}

/// OBX-11 in FHIR's words (HL7 table 0085, by the v2-to-FHIR guide where that says something); OBR-25 (table 0123) where a
/// sender leaves it empty. Anything else is unknown, and the mapping quarantines it.
fn status(of_result: &str, of_order: &str) -> Told {
    Told::Is(match (of_result, of_order) {
        ("F", _) | ("V", _) => "final",
        ("C", _) => "corrected",
        // Amended, or something was added to it.
        ("A" | "B", _) => "amended",
        // Preliminary, partial, entered and not verified.
        ("P" | "S" | "R", _) => "preliminary",
        ("I", _) => "registered",
        // Cannot be obtained; was not asked for.
        ("X" | "N", _) => "cancelled",
        // Deleted; posted as wrong, for the wrong patient too.
        ("D" | "W", _) => "entered-in-error",
        ("O", _) => return Told::NoResult,
        ("U", _) => return Told::FinalAsSentBefore,
        ("", "F") => "final",
        ("", "C") => "corrected",
        ("", "P" | "R" | "A") => "preliminary",
        ("", "I" | "S") => "registered",
        ("", "X") => "cancelled",
        _ => "unknown",
    })
}

fn accession(reading: &Reading<'_, '_>, value: &str) -> Identifier {
    let filler = Coding::new("http://terminology.hl7.org/CodeSystem/v2-0203", "FILL");
    Identifier { kind: Some(Concept::of(filler)), system: reading.conventions.accession_system.clone(), value: value.to_owned() }
}

/// OBR-24 (HL7 table 0074): sections of a laboratory are its category; of the others their code, so that nobody takes their
/// results for laboratory results. Where it is empty nothing is said.
fn category(section: &str) -> Option<Concept> {
    const LABORATORY: [&str; 12] = ["LAB", "CH", "HM", "SR", "MB", "BG", "BLB", "CG", "IMM", "MCB", "MYC", "TX"];
    match section {
        "" => None,
        section if LABORATORY.contains(&section) => {
            Some(Concept::of(Coding::new("http://terminology.hl7.org/CodeSystem/observation-category", "laboratory")))
        }
        section => Some(Concept::of(Coding::new("http://terminology.hl7.org/CodeSystem/v2-0074", section))),
    }
}

/// The two or three triplets of a coded element, and its text: the original one, else what the first code is called.
fn concept(reading: &Reading<'_, '_>, piece: Piece<'_>) -> Concept {
    let text_of = |number: usize| Some(piece.component(number).value().into_owned()).filter(|text| !text.is_empty());
    let mut coding = Vec::new();
    for [code, display, system] in [[1, 2, 3], [4, 5, 6], [10, 11, 12]] {
        if let Some(code) = text_of(code) {
            let system = text_of(system).map(|name| reading.conventions.system(&name));
            coding.push(Coding { system, code: Some(code), display: text_of(display) });
        }
    }
    let text = [9, 2, 5].into_iter().find_map(text_of);
    Concept { coding, text }
}

/// OBX-6. Only UCUM makes a code; of any other system what stands there is a unit as people write it, which the site's mapping
/// reads as such.
fn unit(reading: &Reading<'_, '_>, piece: Piece<'_>) -> Unit {
    const UCUM: &str = "http://unitsofmeasure.org";
    let text_of = |number: usize| Some(piece.component(number).value().into_owned()).filter(|text| !text.is_empty());
    let coded = [1, 4].into_iter().find_map(|from| {
        let (code, name) = (text_of(from)?, text_of(from + 2)?);
        let is_ucum = reading.conventions.known_system(&name) == Some(UCUM);
        is_ucum.then(|| Unit { unit: Some(text_of(from + 1).unwrap_or_else(|| code.clone())), system: Some(UCUM.to_owned()), code: Some(code) })
    });
    coded.unwrap_or_else(|| Unit { unit: [1, 2, 4, 5].into_iter().find_map(text_of), ..Unit::default() })
}

/// OBX-5 by OBX-2. Several values in one result are no value that could decide, and stay text.
fn value<'m>(reading: &Reading<'m, '_>, obx: &'m Segment<'m>, unit: &Unit) -> Option<Value> {
    let field = reading.message.field(obx, 5);
    let texts: Vec<String> = field.repetitions().map(|one| one.value().into_owned()).filter(|text| !text.is_empty()).collect();
    let text = texts.join("\n");
    if text.is_empty() {
        return None;
    }
    let quantity = |comparator, number: &str| Some(Value::Quantity(Quantity { value: decimal(number)?, comparator, unit: unit.clone() }));
    let value_type = reading.value(obx, 2);
    let read = match value_type.as_str() {
        "NM" if texts.len() == 1 => quantity(None, &text),
        "SN" if texts.len() == 1 => structured(field, unit),
        "CE" | "CWE" | "CNE" | "CF" if texts.len() == 1 => {
            let concept = concept(reading, field);
            (!concept.is_empty()).then_some(Value::Concept(concept))
        }
        "ST" | "TX" | "FT" | "" if texts.len() == 1 && reading.conventions.reads_numbers_in_text => {
            let (comparator, number) = compared(&text);
            quantity(comparator, number)
        }
        "DT" | "TS" | "DTM" if texts.len() == 1 => {
            super::time::read(&field.component(1).value(), reading.zone.as_ref()).ok().map(|time| Value::Time(time.text))
        }
        _ => None,
    };
    Some(read.unwrap_or_else(|| match value_type.as_str() {
        // Scans, addresses and the like are not kept a second time; that one stands there is said.
        "NM" | "SN" | "CE" | "CWE" | "CNE" | "CF" | "ST" | "TX" | "FT" | "IS" | "ID" | "DT" | "TS" | "DTM" | "TM" | "" => Value::Text(text),
        other => Value::Text(format!("OBX-2 {other}")),
    }))
}

/// SN: `comparator^number^separator^number` (HL7 v2.5.1, 2.A.71). What has another form stays text.
fn structured(field: Piece<'_>, unit: &Unit) -> Option<Value> {
    let part = |number: usize| field.component(number).value().into_owned();
    let quantity = |number: &str| Some(Quantity { value: decimal(number)?, comparator: None, unit: unit.clone() });
    let (comparator, first, separator, second) = (part(1), part(2), part(3), part(4));
    match (comparator.as_str(), separator.as_str(), second.as_str()) {
        ("" | "=", "", "") => quantity(&first).map(Value::Quantity),
        (sign, "", "") => Some(Value::Quantity(Quantity { comparator: Some(fhir_comparator(sign)?), ..quantity(&first)? })),
        ("" | "=", "-", second) => Some(Value::Range(Range { low: Some(quantity(&first)?), high: Some(quantity(second)?), text: None })),
        ("" | "=", ":" | "/", second) => {
            let plain = |number: &str| Some(Quantity { value: decimal(number)?, comparator: None, unit: Unit::default() });
            Some(Value::Ratio(Ratio { numerator: plain(&first)?, denominator: plain(second)? }))
        }
        _ => None,
    }
}

fn fhir_comparator(sign: &str) -> Option<&'static str> {
    ["<=", ">=", "<", ">"].into_iter().find(|known| *known == sign)
}

/// A comparator in front of a text, and what stands behind it.
fn compared(text: &str) -> (Option<&'static str>, &str) {
    let sign = ["<=", ">=", "<", ">"].into_iter().find(|sign| text.starts_with(sign));
    (sign, text[sign.map_or(0, str::len)..].trim_start())
}

/// NM: digits with at most one point and a sign, as JSON writes them; the digits stay the sender's.
fn decimal(text: &str) -> Option<Box<RawValue>> {
    let text = text.trim();
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() && fraction.is_empty() || !is_number(whole) || !is_number(fraction) {
        return None;
    }
    let whole = match whole.trim_start_matches('0') {
        "" => "0",
        whole => whole,
    };
    let written = if fraction.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") };
    RawValue::from_string(written).ok()
}

/// OBX-7: `low-high`, `< high` or `> low`, in the unit of the value (HL7 v2.5.1, 7.4.2.7). What has another form is text alone.
fn range(text: &str, unit: Option<&Unit>) -> Option<Range> {
    if text.is_empty() {
        return None;
    }
    let quantity = |number: &str, unit: &Unit| Some(Quantity { value: decimal(number)?, comparator: None, unit: unit.clone() });
    let limits = unit.and_then(|unit| {
        let plain = match unit.unit.as_deref() {
            // Some senders write the unit once more.
            Some(written) => text.strip_suffix(written).unwrap_or(text).trim_end(),
            None => text,
        };
        match compared(plain) {
            (Some("<" | "<="), high) => Some((None, Some(quantity(high, unit)?))),
            (Some(_), low) => Some((Some(quantity(low, unit)?), None)),
            (None, both) => {
                // The first sign may be that of the lower limit.
                let place = both.char_indices().skip(1).find(|(_, c)| *c == '-')?.0;
                Some((Some(quantity(&both[..place], unit)?), Some(quantity(&both[place + 1..], unit)?)))
            }
        }
    });
    let (low, high) = limits.unwrap_or_default();
    Some(Range { low, high, text: Some(text.to_owned()) })
}

/// OBX-8 (HL7 table 0078); FHIR took its codes over as they were.
fn interpretation(flag: &str) -> Option<Concept> {
    let is_code = !flag.is_empty() && flag.len() <= 8 && flag.bytes().all(|byte| byte.is_ascii_graphic());
    is_code.then(|| Concept::of(Coding::new("http://terminology.hl7.org/CodeSystem/v3-ObservationInterpretation", flag)))
}
