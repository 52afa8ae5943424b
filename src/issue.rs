//! What can be wrong with data, as a closed list of codes, and the places where a message can end.
//!
//! An [`Issue`] is collected, never thrown past its neighbour. It says what, where and what to do; it has no
//! field that could hold a patient's value. Knows nothing about FHIR parsing, stores or HTTP.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

/// What becomes of a message that carries this issue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Not FHIR, not JSON, not this type: answered 4xx, only hash and reason are kept.
    Reject,
    /// Kept, visible, re-drivable: answered 2xx with a warning.
    Quarantine,
    /// Taken; the issue is shown beside the fact.
    Warn,
}

/// The closed list of issue codes; `docs/issues.md` explains each, a test compares the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Code {
    NotJson,
    NotUtf8,
    DuplicateKey,
    TooDeep,
    TooLarge,
    EmptyElement,
    NullValue,
    ControlCharacter,
    WrongResourceType,
    InvalidId,
    Shape,
    MixedReleases,
    InvalidDate,
    InvalidNumber,
    InvalidBundle,
    TopicUnknown,
    FilterUnknown,
    EndpointNotAllowed,
    ChannelUnsupported,
    NotHl7V2,
    CharsetUnknown,
    FieldUnreadable,
    ZoneMissing,
    EventNotFollowed,
    IdentityMissing,
    MergeCycle,
    MergeWithTest,
    UnknownModifier,
    StatusUnknown,
    CodeConflict,
    CodeUnmapped,
    UnitMissing,
    UnitUnmapped,
    UnitConflict,
    Implausible,
    NotANumber,
    OrdinalUnmapped,
    ArmUnmapped,
    TimeMissing,
    VersionConflict,
    AmbiguousEquation,
    Internal,
    NoValue,
    UnknownElement,
    FutureDated,
    ValueIgnored,
    AxisUnmapped,
    DoseUncounted,
}

/// One line of the table: the word in answers, stores and pages; the effect; what is wrong; what to do.
struct Row(&'static str, Effect, &'static str, &'static str);

impl Code {
    /// Every code, in the order of `docs/issues.md`.
    pub const ALL: &'static [Code] = &[
        Code::NotJson,
        Code::NotUtf8,
        Code::DuplicateKey,
        Code::TooDeep,
        Code::TooLarge,
        Code::EmptyElement,
        Code::NullValue,
        Code::ControlCharacter,
        Code::WrongResourceType,
        Code::InvalidId,
        Code::Shape,
        Code::MixedReleases,
        Code::InvalidDate,
        Code::InvalidNumber,
        Code::InvalidBundle,
        Code::TopicUnknown,
        Code::FilterUnknown,
        Code::EndpointNotAllowed,
        Code::ChannelUnsupported,
        Code::NotHl7V2,
        Code::CharsetUnknown,
        Code::FieldUnreadable,
        Code::ZoneMissing,
        Code::EventNotFollowed,
        Code::IdentityMissing,
        Code::MergeCycle,
        Code::MergeWithTest,
        Code::UnknownModifier,
        Code::StatusUnknown,
        Code::CodeConflict,
        Code::CodeUnmapped,
        Code::UnitMissing,
        Code::UnitUnmapped,
        Code::UnitConflict,
        Code::Implausible,
        Code::NotANumber,
        Code::OrdinalUnmapped,
        Code::ArmUnmapped,
        Code::TimeMissing,
        Code::VersionConflict,
        Code::AmbiguousEquation,
        Code::Internal,
        Code::NoValue,
        Code::UnknownElement,
        Code::FutureDated,
        Code::ValueIgnored,
        Code::AxisUnmapped,
        Code::DoseUncounted,
    ];

    const fn row(self) -> Row {
        use Effect::{Quarantine, Reject, Warn};
        match self {
            Code::NotJson => Row("not-json", Reject, "the body is not one JSON document", "send exactly one JSON object, UTF-8, nothing behind it"),
            Code::NotUtf8 => Row("not-utf8", Reject, "the body is not UTF-8", "encode the body as UTF-8"),
            Code::DuplicateKey => {
                Row("duplicate-key", Reject, "an object names the same key twice", "send each key once; two readers could take different values")
            }
            Code::TooDeep => Row("too-deep", Reject, "the body is nested deeper than 64 levels", "send the resource without runaway nesting"),
            Code::TooLarge => {
                Row("too-large", Reject, "the body is larger than this door takes", "send smaller Bundles, or NDJSON by $ingest or import")
            }
            Code::EmptyElement => Row("empty-element", Reject, "an element is an empty string, array or object", "leave the element out"),
            Code::NullValue => Row("null-value", Reject, "an element is null", "leave the element out"),
            Code::ControlCharacter => {
                Row("control-character", Reject, "a string holds a control character", "remove U+0000 to U+001F other than tab and line ends")
            }
            Code::WrongResourceType => Row(
                "wrong-resource-type",
                Reject,
                "resourceType is missing or not the type of this address",
                "send the resource to the address of its type",
            ),
            Code::InvalidId => Row("invalid-id", Reject, "the id is missing or not a FHIR id", "use 1 to 64 of A-Z a-z 0-9 - ."),
            Code::Shape => {
                Row("shape", Reject, "an element has the wrong type, a wrong code or is missing", "compare the element with the profile in profiles/")
            }
            Code::MixedReleases => {
                Row("mixed-releases", Reject, "elements of FHIR R4 and of R5 stand in one resource", "send the resource as one release has it")
            }
            Code::InvalidDate => Row(
                "invalid-date",
                Reject,
                "a date is not a FHIR date, or has a time without a zone",
                "send YYYY, YYYY-MM, YYYY-MM-DD or a full dateTime with seconds and zone",
            ),
            Code::InvalidNumber => {
                Row("invalid-number", Reject, "a number cannot be kept exactly", "send a decimal of at most 18 digits without a huge exponent")
            }
            Code::InvalidBundle => {
                Row("invalid-bundle", Reject, "the Bundle cannot be split into requests", "check Bundle.type, entry.request and entry.resource")
            }
            Code::TopicUnknown => {
                Row("topic-unknown", Reject, "the Subscription names a topic that is not served", "use the topic that metadata names")
            }
            Code::FilterUnknown => Row(
                "filter-unknown",
                Reject,
                "a filter of the Subscription is not one the topic has, or names what this site does not have",
                "filter by study and by status of ResearchSubject",
            ),
            Code::EndpointNotAllowed => Row(
                "endpoint-not-allowed",
                Reject,
                "notifications may not be sent to this address",
                "use https, and let whoever runs this gateway add the host to notify_hosts",
            ),
            Code::ChannelUnsupported => Row(
                "channel-unsupported",
                Reject,
                "the Subscription's channel asks for what is not served",
                "send a rest-hook with application/fhir+json and the backport's extensions",
            ),
            Code::NotHl7V2 => {
                Row("not-hl7-v2", Reject, "the bytes are no HL7 v2 message", "send one message that begins with MSH and its delimiters")
            }
            Code::CharsetUnknown => Row(
                "charset-unknown",
                Quarantine,
                "the character set of an HL7 v2 message is not read here, or its bytes do not fit it",
                "name the set in MSH-18 or in mapping.json, then run redrive",
            ),
            Code::FieldUnreadable => Row(
                "field-unreadable",
                Quarantine,
                "a field of an HL7 v2 message does not hold what belongs there",
                "mend the field at the sender and send the message again",
            ),
            Code::ZoneMissing => Row(
                "zone-missing",
                Quarantine,
                "a time of an HL7 v2 message has no zone, and the site names none",
                "name the zone in mapping.json, then run redrive",
            ),
            Code::EventNotFollowed => Row(
                "event-not-followed",
                Quarantine,
                "an HL7 v2 event says that data belong to another record, in a way that is not followed here",
                "look what it changes; send A40, A24 or A37, or the resources as they are now",
            ),
            Code::IdentityMissing => Row(
                "identity-missing",
                Quarantine,
                "the subject is missing or is not one Patient of this site",
                "send subject.reference as Patient/<id> of this hospital",
            ),
            Code::MergeCycle => Row(
                "merge-cycle",
                Quarantine,
                "Patient.link leads back to the same patient",
                "mend the links in the EHR, then send both patients again",
            ),
            Code::MergeWithTest => Row(
                "merge-with-test",
                Quarantine,
                "Patient.link makes one patient of a test record and a real one; they are kept apart",
                "mend the link or the HTEST label in the EHR, then send the patient again",
            ),
            Code::UnknownModifier => Row(
                "unknown-modifier",
                Quarantine,
                "a modifierExtension that this gateway does not know may negate the meaning",
                "agree on the extension with the site, then re-drive",
            ),
            Code::StatusUnknown => Row(
                "status-unknown",
                Quarantine,
                "the status is unknown, so nobody says whether the result holds",
                "send the result again with its real status",
            ),
            Code::CodeConflict => Row(
                "code-conflict",
                Quarantine,
                "the codings of one code name different analytes",
                "mend the code in the feed or map the local code alone",
            ),
            Code::CodeUnmapped => Row(
                "code-unmapped",
                Quarantine,
                "a laboratory code that the site mapping does not name",
                "add the code to mapping.json, then run redrive",
            ),
            Code::UnitMissing => Row("unit-missing", Quarantine, "the quantity has no unit", "send the unit; none is ever assumed"),
            Code::UnitUnmapped => Row(
                "unit-unmapped",
                Quarantine,
                "the unit is not one this analyte can be measured in",
                "send a UCUM code, or add the spelling to mapping.json, then run redrive",
            ),
            Code::UnitConflict => Row("unit-conflict", Quarantine, "the unit shown and the unit coded disagree", "mend the unit in the feed"),
            Code::Implausible => {
                Row("implausible", Quarantine, "the value is outside what this analyte can be", "check value and unit at the source")
            }
            Code::NotANumber => {
                Row("not-a-number", Quarantine, "the result is text where a quantity is needed; free text is never parsed", "send valueQuantity")
            }
            Code::OrdinalUnmapped => Row(
                "ordinal-unmapped",
                Quarantine,
                "the dipstick grade is not one the site mapping names",
                "add the grade to mapping.json, then run redrive",
            ),
            Code::ArmUnmapped => {
                Row("arm-unmapped", Quarantine, "the arm is not one the site mapping names", "add the arm's word to mapping.json, then run redrive")
            }
            Code::TimeMissing => Row("time-missing", Quarantine, "the result has no time of its own", "send effectiveDateTime or effectivePeriod"),
            Code::VersionConflict => Row(
                "version-conflict",
                Quarantine,
                "the same id and version came with another content",
                "find out which is true and send it with a new versionId",
            ),
            Code::AmbiguousEquation => Row(
                "ambiguous-equation",
                Quarantine,
                "an eGFR without a code that names its equation",
                "map the code to an equation, or leave it out of scope",
            ),
            Code::Internal => Row(
                "internal",
                Quarantine,
                "the gateway failed on this message; it is kept",
                "report the message number; run redrive after the upgrade",
            ),
            Code::NoValue => Row("no-value", Warn, "the result carries no value (dataAbsentReason)", "nothing; it is shown as pending"),
            Code::UnknownElement => {
                Row("unknown-element", Warn, "an element that FHIR R4 does not have; it was kept and not used", "remove it or use an extension")
            }
            Code::FutureDated => Row(
                "future-dated",
                Warn,
                "the result is dated in the future; it does not exist for judgements before that",
                "check the clock at the source",
            ),
            Code::ValueIgnored => Row("value-ignored", Warn, "a reported value is kept beside the computed one and decides nothing", "nothing"),
            Code::AxisUnmapped => Row(
                "axis-unmapped",
                Warn,
                "an axis of an adverse event has a code that nobody knows, or codes that contradict each other; the axis stays open",
                "add the code to mapping.json, or let a person complete the event",
            ),
            Code::DoseUncounted => Row(
                "dose-uncounted",
                Warn,
                "the unit of the dose counts no cells; the dose is kept as received",
                "send the dose in cells, or say in mapping.json how many cells one unit holds",
            ),
        }
    }

    /// The word that stands in answers, stores and pages.
    pub const fn word(self) -> &'static str {
        self.row().0
    }

    pub const fn effect(self) -> Effect {
        self.row().1
    }

    /// What is wrong, in a sentence part without a full stop.
    pub const fn meaning(self) -> &'static str {
        self.row().2
    }

    /// What to do about it.
    pub const fn action(self) -> &'static str {
        self.row().3
    }
}

impl Code {
    /// The code of a word, as stored.
    pub fn from_word(word: &str) -> Option<Code> {
        Code::ALL.iter().copied().find(|code| code.word() == word)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.word())
    }
}

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Code, D::Error> {
        let word = Cow::<str>::deserialize(deserializer)?;
        Code::from_word(&word).ok_or_else(|| serde::de::Error::custom("not an issue code"))
    }
}

/// One thing wrong with one message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issue {
    pub code: Code,
    /// FHIRPath-like element path, such as `Observation.valueQuantity.unit`; empty for the whole body.
    pub path: String,
    /// Vocabulary only (a code, a unit, a type name, a line number), at most 80 characters; never a value of a patient.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl Issue {
    pub fn new(code: Code, path: impl Into<String>) -> Issue {
        Issue { code, path: path.into(), detail: None }
    }

    /// Adds a word of vocabulary: a code, a unit, a type. Control characters are dropped and the text is cut at 80 characters.
    pub fn with_detail(mut self, detail: impl AsRef<str>) -> Issue {
        self.detail = Some(detail.as_ref().chars().filter(|c| !c.is_control()).take(80).collect());
        self
    }
}

impl fmt::Display for Issue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code.meaning())?;
        if !self.path.is_empty() {
            write!(f, ": {}", self.path)?;
        }
        if let Some(detail) = &self.detail {
            write!(f, " ({detail})")?;
        }
        write!(f, "; {}", self.code.action())
    }
}

/// Where a message ends. Each message ends in exactly one, and the counts add up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Disposition {
    /// Its facts are in the chart.
    Applied,
    /// The same bytes of the same resource were here before.
    Duplicate,
    /// A newer version of the same resource was here already; kept as history.
    Superseded,
    /// Kept, visible, waits for a mended mapping or a person.
    Quarantined,
    /// Refused: hash and reason only.
    Rejected,
    /// Not a type or code this gateway looks at: counted by type and code, not stored.
    OutOfScope,
    /// Our own write seen again in the feed.
    Echo,
}

impl Disposition {
    pub const ALL: [Disposition; 7] = [
        Disposition::Applied,
        Disposition::Duplicate,
        Disposition::Superseded,
        Disposition::Quarantined,
        Disposition::Rejected,
        Disposition::OutOfScope,
        Disposition::Echo,
    ];

    pub const fn word(self) -> &'static str {
        match self {
            Disposition::Applied => "applied",
            Disposition::Duplicate => "duplicate",
            Disposition::Superseded => "superseded",
            Disposition::Quarantined => "quarantined",
            Disposition::Rejected => "rejected",
            Disposition::OutOfScope => "out-of-scope",
            Disposition::Echo => "echo",
        }
    }

    pub fn from_word(word: &str) -> Option<Disposition> {
        Disposition::ALL.into_iter().find(|disposition| disposition.word() == word)
    }
}
