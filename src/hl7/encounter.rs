//! PV1: the stay that an admission, discharge or transfer message is about, at sites whose mapping makes stays of
//! Encounters. Neither ward nor diagnosis is read.

use super::convert::{Reading, made_id};
use super::resource::{Coding, Concept, Encounter, Identifier, Period, Reference};
use crate::fhir::is_id;

/// What happened to a stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A01, A04.
    Began,
    /// A03.
    Ended,
    /// A08: what it is now.
    Is,
    /// A13: its end is taken back.
    GoesOn,
    /// A11.
    Cancelled,
}

pub(super) fn read(reading: &mut Reading<'_, '_>, event: Event, subject: &str) {
    if !reading.conventions.takes_stays {
        return;
    }
    let message = reading.message;
    let Some(pv1) = message.first("PV1") else { return };
    let number = reading.value(pv1, 19);
    let class = match reading.value(pv1, 2).as_str() {
        "" | "N" => return,
        "E" => Coding::new(ACT_CODE, "EMER"),
        "I" => Coding::new(ACT_CODE, "IMP"),
        "O" => Coding::new(ACT_CODE, "AMB"),
        "P" => Coding::new(ACT_CODE, "PRENC"),
        other => Coding::new("http://terminology.hl7.org/CodeSystem/v2-0004", other),
    };
    // An update without a visit number is one of the person, not of a stay.
    if number.is_empty() {
        if event != Event::Is {
            reading.unreadable(pv1, 19, "no visit number");
        }
        return;
    }
    let Ok(admitted) = reading.time_or_fault(pv1, 44) else { return };
    let Ok(discharged) = reading.time_or_fault(pv1, 45) else { return };
    let happened = match message.first("EVN") {
        Some(evn) if matches!(event, Event::Began | Event::Ended) => {
            let Ok(occurred) = reading.time_or_fault(evn, 6) else { return };
            let Ok(recorded) = reading.time_or_fault(evn, 2) else { return };
            occurred.or(recorded)
        }
        Some(_) | None => None,
    };
    let (status, start, end) = match event {
        Event::Began => ("in-progress", admitted.or(happened), None),
        Event::Ended => ("finished", admitted, discharged.or(happened)),
        Event::Is if discharged.is_some() => ("finished", admitted, discharged),
        Event::Is | Event::GoesOn => ("in-progress", admitted, None),
        Event::Cancelled => ("cancelled", admitted, None),
    };
    if start.is_none() && event == Event::Is {
        return;
    }
    if start.is_none() && matches!(event, Event::Ended | Event::GoesOn) {
        // An end alone would take away the beginning that an earlier message told.
        reading.unreadable(pv1, 44, "no admission time");
        return;
    }
    // HL7 table 0007 in the words of v3 ActPriority.
    let priority = match reading.value(pv1, 4).as_str() {
        "C" => Some("EL"),
        "E" | "A" => Some("EM"),
        "U" => Some("UR"),
        _ => None,
    };
    // All components: a number means something only under the authority that gave it.
    let whole = reading.message.field(pv1, 19).raw().trim().to_owned();
    let id = if is_id(&whole) { whole } else { made_id(&["Encounter", subject, &whole]) };
    let encounter = Encounter {
        resource_type: "Encounter",
        id,
        meta: reading.meta(),
        identifier: vec![Identifier {
            kind: Some(Concept::of(Coding::new("http://terminology.hl7.org/CodeSystem/v2-0203", "VN"))),
            system: None,
            value: number,
        }],
        status,
        class,
        priority: priority.map(|code| Concept::of(Coding::new("http://terminology.hl7.org/CodeSystem/v3-ActPriority", code))),
        subject: Reference::to_patient(subject),
        period: (start.is_some() || end.is_some()).then(|| Period { start: start.map(|time| time.text), end: end.map(|time| time.text) }),
    };
    reading.add(&encounter, false);
}

const ACT_CODE: &str = "http://terminology.hl7.org/CodeSystem/v3-ActCode";
