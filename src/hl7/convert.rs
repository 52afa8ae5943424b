//! One message becomes resources: which kind of message it is, when it was written, and what each of its parts says. What
//! cannot be read is an issue of the message; the rest of it is read all the same.

use jiff::tz::TimeZone;

use super::conventions::Conventions;
use super::er7::{Message, Piece, Segment, text};
use super::patient;
use super::resource::{Meta, to_json};
use super::time::{self, Time, TimeFault};
use super::{encounter, observation};
use crate::digest::sha256_hex;
use crate::issue::{Code, Issue};

/// What a message became.
#[derive(Debug)]
pub struct Converted {
    /// `ORU^R01`; `HL7-v2` where MSH-9 is none that HL7 could have.
    pub message_type: String,
    /// MSH-10.
    pub control_id: Option<String>,
    /// Whom it is about, where that is one.
    pub subject: Option<String>,
    pub resources: Vec<Resource>,
    /// What of it could not be read.
    pub issues: Vec<Issue>,
}

/// One FHIR R4 resource of a message.
#[derive(Debug)]
pub struct Resource {
    pub json: Vec<u8>,
    /// Said beside the point: worth nothing without the others.
    pub is_aside: bool,
}

/// What is done about a kind of message (HL7 v2.5.1 chapters 3 and 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Results,
    /// Who the patient is, and the stay that the event is about.
    Visit(encounter::Event),
    Person,
    /// MRG names records that PID replaces. Where it need not be our kind of identifier that changes, none need be found.
    Replaced {
        must_be_ours: bool,
    },
    Linked,
    Unlinked,
    /// It changes whose data is whose in a way that cannot be followed here.
    NotFollowed,
    NotOurs,
}

fn kind(code: &str, trigger: &str) -> Kind {
    use encounter::Event;
    match (code, trigger) {
        ("ORU", "R01" | "") => Kind::Results,
        ("ADT", "A01" | "A04") => Kind::Visit(Event::Began),
        ("ADT", "A03") => Kind::Visit(Event::Ended),
        ("ADT", "A08") => Kind::Visit(Event::Is),
        ("ADT", "A13") => Kind::Visit(Event::GoesOn),
        ("ADT", "A11") => Kind::Visit(Event::Cancelled),
        ("ADT", "A05" | "A28" | "A31") => Kind::Person,
        ("ADT", "A18" | "A30" | "A34" | "A36" | "A40") => Kind::Replaced { must_be_ours: true },
        ("ADT", "A46" | "A47") => Kind::Replaced { must_be_ours: false },
        ("ADT", "A24") => Kind::Linked,
        ("ADT", "A37") => Kind::Unlinked,
        // Delete a person, merge a person, move a patient's identifiers, accounts or visits.
        ("ADT", "A29" | "A39" | "A43" | "A44" | "A45") => Kind::NotFollowed,
        _ => Kind::NotOurs,
    }
}

/// Turns one message into resources. The error is for bytes that are no message at all; without conventions of the site
/// nobody can say whose the message is.
pub fn convert(bytes: &[u8], conventions: Option<&Conventions>) -> Result<Converted, Issue> {
    let not_hl7 = || Issue::new(Code::NotHl7V2, "");
    if !super::is_message(bytes) || super::is_batch(bytes) {
        return Err(not_hl7());
    }
    let (text, charset) = match text(bytes, conventions.and_then(|said| said.charset)) {
        Ok(text) => text,
        Err(issue) => {
            // Its header can be read whatever its bytes mean.
            let lossy = String::from_utf8_lossy(bytes);
            let message = Message::parse(lossy.trim_start_matches('\u{feff}').trim_start(), super::Charset::Ascii).ok_or_else(not_hl7)?;
            return Ok(Converted { issues: vec![issue], ..header(&message) });
        }
    };
    let message = Message::parse(&text, charset).ok_or_else(not_hl7)?;
    let mut converted = header(&message);
    let Some(conventions) = conventions else {
        converted.issues.push(Issue::new(Code::IdentityMissing, "PID-3").with_detail("mapping.json has no hl7_v2"));
        return Ok(converted);
    };
    let (code, trigger) = converted.message_type.split_once('^').unwrap_or((&converted.message_type, ""));
    let kind = kind(code, trigger);
    // What is sent for training or debugging leaves a count: it must not be newer than what is real.
    if kind == Kind::NotOurs || is_test(&message) {
        return Ok(converted);
    }
    if kind == Kind::NotFollowed {
        converted.issues.push(Issue::new(Code::EventNotFollowed, "MSH-9").with_detail(&converted.message_type));
        return Ok(converted);
    }
    let mut reading = Reading { message: &message, conventions, written: None, zone: conventions.zone.clone(), out: Vec::new(), issues: Vec::new() };
    reading.written = reading.when_written();
    // "It will be used throughout the message as the default" (HL7 v2.5.1, 2.15.9.7), where the site does not know better.
    reading.zone = reading.zone.take().or_else(|| reading.written.as_ref().and_then(Time::zone));
    if reading.written.is_some() {
        converted.subject = reading.read(kind);
    }
    converted.resources = reading.out;
    converted.issues.append(&mut reading.issues);
    Ok(converted)
}

fn header(message: &Message<'_>) -> Converted {
    let (mut message_type, mut control_id) = ("HL7-v2".to_owned(), None);
    if let Some(msh) = message.first("MSH") {
        let kind = message.field(msh, 9);
        let (code, trigger) = (kind.component(1).value().into_owned(), kind.component(2).value().into_owned());
        let is_word = |word: &str| word.len() == 3 && word.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
        if is_word(&code) && is_word(&trigger) {
            message_type = format!("{code}^{trigger}");
        } else if is_word(&code) && trigger.is_empty() {
            message_type = code;
        }
        control_id = Some(message.field(msh, 10).value().into_owned()).filter(|id| !id.is_empty());
    }
    Converted { message_type, control_id, subject: None, resources: Vec::new(), issues: Vec::new() }
}

/// Training and debugging are not production (HL7 table 0103).
fn is_test(message: &Message<'_>) -> bool {
    message.first("MSH").is_some_and(|msh| matches!(message.field(msh, 11).component(1).value().as_ref(), "D" | "T"))
}

/// One message on its way.
pub(super) struct Reading<'m, 't> {
    pub message: &'m Message<'t>,
    pub conventions: &'m Conventions,
    /// MSH-7, which orders versions.
    pub written: Option<Time>,
    /// Of times that are written without one.
    pub zone: Option<TimeZone>,
    out: Vec<Resource>,
    pub issues: Vec<Issue>,
}

impl<'m, 't> Reading<'m, 't> {
    /// Answers whom the message is about, where that is one.
    fn read(&mut self, kind: Kind) -> Option<String> {
        match kind {
            Kind::Results => observation::read(self),
            Kind::Visit(event) => {
                let (identity, segment) = patient::read_one(self)?;
                patient::states(self, segment, &identity);
                encounter::read(self, event, &identity.id);
                Some(identity.id)
            }
            Kind::Person => {
                let (identity, segment) = patient::read_one(self)?;
                patient::states(self, segment, &identity);
                Some(identity.id)
            }
            Kind::Replaced { must_be_ours } => patient::replaced(self, must_be_ours),
            Kind::Linked => patient::linked(self, true),
            Kind::Unlinked => patient::linked(self, false),
            Kind::NotFollowed | Kind::NotOurs => None,
        }
    }

    /// MSH-7, else EVN-2: without it nobody can tell which of two messages is newer.
    fn when_written(&mut self) -> Option<Time> {
        for (name, field) in [("MSH", 7), ("EVN", 2)] {
            if let Some(segment) = self.message.first(name)
                && !self.message.field(segment, field).is_empty()
            {
                return match self.time(segment, field) {
                    Some(time) if !time.is_instant() => {
                        self.issues.push(Issue::new(Code::FieldUnreadable, segment.path(field)).with_detail("no hours"));
                        None
                    }
                    time => time,
                };
            }
        }
        self.issues.push(Issue::new(Code::TimeMissing, "MSH-7"));
        None
    }

    pub fn field(&self, segment: &'m Segment<'m>, number: usize) -> Piece<'m> {
        self.message.field(segment, number)
    }

    pub fn value(&self, segment: &'m Segment<'m>, number: usize) -> String {
        self.field(segment, number).component(1).value().into_owned()
    }

    /// A time of a field; `None` where there is none, or none that can be read, which is an issue.
    pub fn time(&mut self, segment: &'m Segment<'m>, number: usize) -> Option<Time> {
        let text = self.value(segment, number);
        if text.is_empty() {
            return None;
        }
        match time::read(&text, self.zone.as_ref()) {
            Ok(time) => Some(time),
            Err(fault) => {
                let code = match fault {
                    TimeFault::Syntax => Code::FieldUnreadable,
                    TimeFault::NoZone => Code::ZoneMissing,
                };
                self.issues.push(Issue::new(code, segment.path(number)));
                None
            }
        }
    }

    /// As [`Reading::time`], where a time that cannot be read is another thing than none.
    pub fn time_or_fault(&mut self, segment: &'m Segment<'m>, number: usize) -> Result<Option<Time>, ()> {
        let issues = self.issues.len();
        let time = self.time(segment, number);
        if self.issues.len() == issues { Ok(time) } else { Err(()) }
    }

    pub fn unreadable(&mut self, segment: &Segment<'_>, number: usize, detail: &str) {
        let issue = Issue::new(Code::FieldUnreadable, segment.path(number));
        self.issues.push(if detail.is_empty() { issue } else { issue.with_detail(detail) });
    }

    /// `meta` of a version of a resource: the time of the message.
    pub fn meta(&self) -> Meta {
        Meta { last_updated: self.written.as_ref().map(|time| time.text.clone()), ..Meta::default() }
    }

    pub fn add<T: serde::Serialize>(&mut self, resource: &T, is_aside: bool) {
        self.out.push(Resource { json: to_json(resource), is_aside });
    }
}

/// An id of our own making: the same for the same words, whoever makes it.
pub(super) fn made_id(words: &[&str]) -> String {
    // A FHIR id has at most 64 characters; 160 bits tell any number of results apart.
    format!("v2-{}", &sha256_hex(words.join("\u{1f}").as_bytes())[..40])
}
