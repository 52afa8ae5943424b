//! PID, PD1 and MRG: whose a message is, what it states of that person, and which records became one. No name, address or
//! telephone number is read.

use super::convert::{Reading, made_id};
use super::er7::{Piece, Segment};
use super::resource::{Coding, Concept, Extension, Identifier, Link, Meta, Patient, Reference};
use super::{NOT_REPLACED_BY, PART_CODE, PART_SYSTEM};
use crate::fhir::is_id;
use crate::issue::{Code, Issue};

/// Whose a message is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Id of the Patient.
    pub id: String,
    /// The identifier as the hospital knows it.
    pub number: String,
}

/// The one PID of a message, and whose it is.
pub(super) fn read_one<'m>(reading: &mut Reading<'m, '_>) -> Option<(Identity, &'m Segment<'m>)> {
    let Some(segment) = reading.message.first("PID") else {
        reading.issues.push(Issue::new(Code::IdentityMissing, "PID"));
        return None;
    };
    Some((of_pid(reading, segment)?, segment))
}

/// Whose a PID is.
pub(super) fn of_pid<'m>(reading: &mut Reading<'m, '_>, segment: &'m Segment<'m>) -> Option<Identity> {
    match identities(reading, reading.message.field(segment, 3)).as_slice() {
        [one] => return Some(one.clone()),
        [] => reading
            .issues
            .push(Issue::new(Code::IdentityMissing, segment.path(3)).with_detail("no identifier of the authority and type that mapping.json names")),
        [_, ..] => {
            reading.issues.push(Issue::new(Code::IdentityMissing, segment.path(3)).with_detail("several identifiers fit what mapping.json names"))
        }
    }
    None
}

/// The identifiers of a list that are of the kind that the site names.
fn identities(reading: &Reading<'_, '_>, list: Piece<'_>) -> Vec<Identity> {
    let said = reading.conventions;
    let mut found: Vec<Identity> = Vec::new();
    for identifier in list.repetitions() {
        let number = identifier.component(1).value();
        let authority = identifier.component(4);
        let is_of = |wanted: &str| (1..=2).any(|part| authority.subcomponent(part).value() == wanted);
        let fits = said.authority.as_deref().is_none_or(is_of)
            && said.identifier_type.as_deref().is_none_or(|wanted| identifier.component(5).value() == wanted);
        if number.is_empty() || !fits || found.iter().any(|other| other.number == number) {
            continue;
        }
        let id = if is_id(&number) { number.to_string() } else { made_id(&["Patient", said.authority.as_deref().unwrap_or(""), &number]) };
        found.push(Identity { id, number: number.into_owned() });
    }
    found
}

/// A Patient that states only what stands in it.
fn part(reading: &Reading<'_, '_>, identity: &Identity) -> Patient {
    let meta = reading.meta();
    let kind = Coding::new("http://terminology.hl7.org/CodeSystem/v2-0203", reading.conventions.identifier_type.as_deref().unwrap_or("PI"));
    Patient {
        resource_type: "Patient",
        id: identity.id.clone(),
        meta: Meta { tag: vec![Coding::new(PART_SYSTEM, PART_CODE)], ..meta },
        extension: Vec::new(),
        identifier: vec![Identifier { kind: Some(Concept::of(kind)), system: None, value: identity.number.clone() }],
        gender: None,
        birth_date: None,
        deceased_boolean: None,
        deceased_date_time: None,
        link: Vec::new(),
    }
}

/// What a message about a person states of them.
pub(super) fn states<'m>(reading: &mut Reading<'m, '_>, pid: &'m Segment<'m>, identity: &Identity) {
    let mut patient = described(reading, pid, identity);
    if let Some(restricted) = protection(reading, pid) {
        patient.meta.security.push(confidentiality(restricted));
    }
    reading.add(&patient, false);
}

fn confidentiality(restricted: bool) -> Coding {
    Coding::new("http://terminology.hl7.org/CodeSystem/v3-Confidentiality", if restricted { "R" } else { "N" })
}

/// What a result says of the person beside the point: it fills what nobody else states, so it has no time of its own.
pub(super) fn mentioned<'m>(reading: &mut Reading<'m, '_>, pid: &'m Segment<'m>, identity: &Identity) {
    let mut patient = described(reading, pid, identity);
    patient.meta.last_updated = None;
    let is_protected = protection(reading, pid) == Some(true);
    patient.meta.security.extend(is_protected.then(|| confidentiality(true)));
    if patient.gender.is_some() || patient.birth_date.is_some() || is_protected {
        reading.add(&patient, true);
    }
}

fn described<'m>(reading: &mut Reading<'m, '_>, pid: &'m Segment<'m>, identity: &Identity) -> Patient {
    let mut patient = part(reading, identity);
    patient.birth_date = birth_date(reading, pid);
    let sex = reading.message.field(pid, 8);
    // HL7 table 0001; FHIR has no word for ambiguous.
    patient.gender = match reading.value(pid, 8).to_ascii_uppercase().as_str() {
        "F" => Some("female"),
        "M" => Some("male"),
        "O" | "A" => Some("other"),
        "U" | "N" => Some("unknown"),
        "" => sex.is_null().then_some("unknown"),
        _ => {
            reading.unreadable(pid, 8, "not of table 0001");
            None
        }
    };
    let died = reading.time(pid, 29);
    let (indicator, died_null) = (reading.message.field(pid, 30), reading.message.field(pid, 29).is_null());
    match (died, indicator.component(1).value().as_ref()) {
        (Some(time), _) => patient.deceased_date_time = Some(time.text),
        (None, "Y") => patient.deceased_boolean = Some(true),
        (None, "N") => patient.deceased_boolean = Some(false),
        (None, "") if indicator.is_null() || died_null => patient.deceased_boolean = Some(false),
        (None, "") => {}
        (None, _) => reading.unreadable(pid, 30, "neither Y nor N"),
    }
    patient
}

fn birth_date<'m>(reading: &mut Reading<'m, '_>, pid: &'m Segment<'m>) -> Option<String> {
    if reading.message.field(pid, 7).is_null() {
        // A date that was said before is wrong and no other is known: a person has to look.
        reading.unreadable(pid, 7, "the date of birth is taken back");
        return None;
    }
    let written = reading.value(pid, 7);
    // A day is meant, whatever clock stands behind it.
    let day = written.get(..8).unwrap_or(&written);
    if day.is_empty() {
        return None;
    }
    match super::time::read(day, None) {
        Ok(time) => Some(time.text),
        Err(_) => {
            reading.unreadable(pid, 7, "");
            None
        }
    }
}

/// PD1-12 of this PID: whether the record is protected from being shown.
fn protection(reading: &Reading<'_, '_>, pid: &Segment<'_>) -> Option<bool> {
    let behind = &reading.message.segments[pid.place + 1..];
    let segment = behind.iter().take_while(|segment| segment.name != "PID").find(|segment| segment.name == "PD1")?;
    match reading.value(segment, 12).as_str() {
        "Y" => Some(true),
        "N" => Some(false),
        _ => None,
    }
}

/// Each MRG names records that the PID before it replaces.
pub(super) fn replaced(reading: &mut Reading<'_, '_>, must_be_ours: bool) -> Option<String> {
    let message = reading.message;
    let mut standing: Option<Identity> = None;
    let mut subjects = Vec::new();
    let mut has_merged = false;
    for segment in &message.segments {
        match segment.name {
            "PID" => {
                standing = of_pid(reading, segment);
                if let Some(identity) = &standing {
                    states(reading, segment, identity);
                    subjects.push(identity.id.clone());
                }
            }
            "MRG" => {
                has_merged = true;
                let Some(into) = &standing else { continue };
                let former = identities(reading, message.field(segment, 1));
                if former.is_empty() && must_be_ours {
                    let issue = Issue::new(Code::IdentityMissing, segment.path(1));
                    reading.issues.push(issue.with_detail("no identifier of the authority and type that mapping.json names"));
                }
                for identity in former.iter().filter(|former| former.id != into.id) {
                    let mut patient = part(reading, identity);
                    patient.link.push(Link { other: Reference::to_patient(&into.id), kind: "replaced-by" });
                    reading.add(&patient, false);
                }
            }
            _ => {}
        }
    }
    if !has_merged {
        reading.issues.push(Issue::new(Code::IdentityMissing, "MRG"));
    } else if subjects.is_empty() && reading.issues.is_empty() {
        reading.issues.push(Issue::new(Code::IdentityMissing, "PID"));
    }
    subjects.dedup();
    if subjects.len() == 1 { subjects.pop() } else { None }
}

/// A24 and A37: two PIDs are, or are not, one person. Of two records that are linked the first is read under the second, as
/// the first is the one "to be linked to the second" (HL7 v2.5.1, 3.3.24).
pub(super) fn linked(reading: &mut Reading<'_, '_>, are_one: bool) -> Option<String> {
    let message = reading.message;
    let pids: Vec<_> = message.segments.iter().filter(|segment| segment.name == "PID").collect();
    let [first, second] = pids.as_slice() else {
        reading.issues.push(Issue::new(Code::IdentityMissing, "PID").with_detail("two are needed"));
        return None;
    };
    let (first, second) = (of_pid(reading, first)?, of_pid(reading, second)?);
    if first.id == second.id {
        return Some(first.id);
    }
    if are_one {
        let mut patient = part(reading, &first);
        patient.link.push(Link { other: Reference::to_patient(&second.id), kind: "replaced-by" });
        reading.add(&patient, false);
    } else {
        for (one, other) in [(&first, &second), (&second, &first)] {
            let mut patient = part(reading, one);
            patient.extension.push(Extension { url: NOT_REPLACED_BY, value_reference: Reference::to_patient(&other.id) });
            reading.add(&patient, false);
        }
    }
    Some(second.id)
}
