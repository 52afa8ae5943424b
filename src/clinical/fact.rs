//! Facts: what one version of one resource says about one subject, in the study model's words.
//!
//! A fact is never changed and never deleted; `chart` decides which facts stand. The derived serde shapes are
//! written by postcard, in the store and while files are screened: no field may be skipped, and a change of shape needs a
//! new form in `store/fact.rs`.

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use super::date::PartialDate;
use super::quantity::{Analyte, Comparator, Unit};

/// The kinds of resource that give facts; `Decision` is ours, made by a person at this gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ResourceType {
    Patient,
    Observation,
    Condition,
    AdverseEvent,
    ResearchSubject,
    MedicationAdministration,
    Procedure,
    Encounter,
    Decision,
}

impl ResourceType {
    /// The FHIR types that are read.
    pub const FHIR: [ResourceType; 8] = [
        ResourceType::Patient,
        ResourceType::Observation,
        ResourceType::Condition,
        ResourceType::AdverseEvent,
        ResourceType::ResearchSubject,
        ResourceType::MedicationAdministration,
        ResourceType::Procedure,
        ResourceType::Encounter,
    ];

    pub const fn word(self) -> &'static str {
        match self {
            ResourceType::Patient => "Patient",
            ResourceType::Observation => "Observation",
            ResourceType::Condition => "Condition",
            ResourceType::AdverseEvent => "AdverseEvent",
            ResourceType::ResearchSubject => "ResearchSubject",
            ResourceType::MedicationAdministration => "MedicationAdministration",
            ResourceType::Procedure => "Procedure",
            ResourceType::Encounter => "Encounter",
            ResourceType::Decision => "Decision",
        }
    }

    pub fn from_word(word: &str) -> Option<ResourceType> {
        [ResourceType::Decision].into_iter().chain(ResourceType::FHIR).find(|kind| kind.word() == word)
    }
}

/// Where a fact comes from: one version of one resource at one site, and the message that brought it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Source {
    pub resource_type: ResourceType,
    pub id: CompactString,
    /// `meta.versionId`.
    pub version: Option<CompactString>,
    /// `meta.lastUpdated`, ms since 1970 UTC.
    pub last_updated_ms: Option<i64>,
    /// Receipt number in the ledger; 0 while files are screened without a store.
    pub message: i64,
}

/// How far a result or event is settled; the order breaks ties between versions (rulings.md 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    Registered,
    Unknown,
    Preliminary,
    Final,
    Amended,
    Corrected,
    Cancelled,
    EnteredInError,
    /// DELETE at the source: withdraws this version and all before it.
    Deleted,
}

impl Status {
    /// Preliminary < final < amended, corrected < cancelled, entered-in-error, deleted.
    pub const fn rank(self) -> u8 {
        match self {
            Status::Registered | Status::Unknown => 0,
            Status::Preliminary => 1,
            Status::Final => 2,
            Status::Amended | Status::Corrected => 3,
            Status::Cancelled | Status::EnteredInError => 4,
            Status::Deleted => 5,
        }
    }

    /// Whether a value of this status may decide.
    pub const fn is_final(self) -> bool {
        matches!(self, Status::Final | Status::Amended | Status::Corrected)
    }

    /// Whether this status says that the result does not hold.
    pub const fn is_withdrawn(self) -> bool {
        matches!(self, Status::Cancelled | Status::EnteredInError | Status::Deleted)
    }

    pub const fn word(self) -> &'static str {
        match self {
            Status::Registered => "registered",
            Status::Unknown => "unknown",
            Status::Preliminary => "preliminary",
            Status::Final => "final",
            Status::Amended => "amended",
            Status::Corrected => "corrected",
            Status::Cancelled => "cancelled",
            Status::EnteredInError => "entered-in-error",
            Status::Deleted => "deleted",
        }
    }

    pub fn from_word(word: &str) -> Option<Status> {
        use Status::*;
        [Registered, Unknown, Preliminary, Final, Amended, Corrected, Cancelled, EnteredInError, Deleted]
            .into_iter()
            .find(|status| status.word() == word)
    }
}

/// One thing one resource version says about a subject.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fact {
    pub source: Source,
    /// What a later result replaces: the accession key the mapping names, else `None` for (type, id) (rulings.md 5).
    pub key: Option<CompactString>,
    pub status: Status,
    /// `issued`, ms since 1970 UTC, where the resource has one.
    pub issued_ms: Option<i64>,
    pub body: Body,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Body {
    Person(Person),
    Measurement(Measurement),
    Condition(Condition),
    AdverseEvent(AdverseEvent),
    ResearchSubject(ResearchSubject),
    Administration(Administration),
    Encounter(Encounter),
    Decision(Decision),
    /// A version that says nothing usable but still retires its older versions: deleted, or quarantined.
    Nothing,
    /// What a message says of a person; what it leaves out is as it was.
    PersonPart(PersonPart),
}

/// Administrative sex as FHIR spells it; equations take only female and male.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sex {
    Female,
    Male,
    Other,
    Unknown,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Person {
    pub sex: Option<Sex>,
    pub birth_date: Option<PartialDate>,
    pub deceased: bool,
    pub deceased_at: Option<PartialDate>,
    /// `meta.security` HTEST: not a real patient (rulings.md 17).
    pub is_test: bool,
    /// `meta.security` R, V or a label this gateway does not know.
    pub is_restricted: bool,
    /// Patient id this record was merged into (`link.type` replaced-by).
    pub replaced_by: Option<CompactString>,
    /// Patient ids of records that were merged into this one (`link.type` replaces).
    pub replaces: Vec<CompactString>,
}

/// What one message (HL7 v2) states of a person. It is laid over what was known before it: no record by itself, so that a
/// result's header does not undo a merge.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PersonPart {
    pub sex: Option<Sex>,
    pub birth_date: Option<PartialDate>,
    pub deceased: Option<bool>,
    pub deceased_at: Option<PartialDate>,
    /// The message is a test; one that is none says nothing of it.
    pub is_test: bool,
    pub is_restricted: Option<bool>,
    /// Patient id of the record that this one is merged into from now on.
    pub replaced_by: Option<CompactString>,
    /// Patient ids of records that this one is no longer merged into.
    pub not_replaced_by: Vec<CompactString>,
}

impl PersonPart {
    /// Under which messages that state one are counted and told from whole records.
    pub const CODE: &str = "urn:nephrogate:hl7-v2|part";

    /// Whether it says which record stands for the person.
    pub fn links(&self) -> bool {
        self.replaced_by.is_some() || !self.not_replaced_by.is_empty()
    }
}

/// One number, grade or absence, of one analyte at one time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// `None` when not even the analyte is known (an unmapped code).
    pub analyte: Option<Analyte>,
    /// Rank of the code in the mapping, 0 first: among results of one instant the lower rank counts.
    pub rank: u8,
    /// The code that was matched, as `system|code` with the system shortened where it is well known (`loinc|2160-0`).
    pub code: CompactString,
    pub effective: Option<PartialDate>,
    /// The value in `unit`, converted only between spellings of one kind of quantity.
    pub value: Option<f64>,
    pub unit: Option<Unit>,
    pub comparator: Option<Comparator>,
    /// The number and unit exactly as received, for evidence.
    pub value_as_received: CompactString,
    pub unit_as_received: CompactString,
    pub reference_low: Option<f64>,
    /// Upper limit of normal, in `unit`.
    pub reference_high: Option<f64>,
    /// For a reported eGFR: the equation its code names.
    pub equation: Option<CompactString>,
    /// Why this result may not decide, an issue code word such as `unit-missing`; `None` when it may.
    pub unusable: Option<CompactString>,
}

/// What a Condition means to a study.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Concept {
    Dialysis,
    KidneyTransplant,
    ChronicKidneyDisease,
    AcuteKidneyInjury,
    Pregnancy,
    Diabetes,
}

impl Concept {
    pub const fn word(self) -> &'static str {
        match self {
            Concept::Dialysis => "dialysis",
            Concept::KidneyTransplant => "kidney-transplant",
            Concept::ChronicKidneyDisease => "chronic-kidney-disease",
            Concept::AcuteKidneyInjury => "acute-kidney-injury",
            Concept::Pregnancy => "pregnancy",
            Concept::Diabetes => "diabetes",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Condition {
    pub concept: Concept,
    /// The code that was matched, as `system|code`.
    pub code: CompactString,
    /// `clinicalStatus`, such as `active`, `resolved`; empty when not given.
    pub clinical_status: CompactString,
    /// `verificationStatus`, such as `confirmed`, `refuted`; empty when not given.
    pub verification_status: CompactString,
    pub onset: Option<PartialDate>,
    pub abatement: Option<PartialDate>,
    pub recorded: Option<PartialDate>,
}

/// An adverse event with its axes kept apart: none is inferred from another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdverseEvent {
    /// `system|code` of each coding of the event.
    pub codes: Vec<CompactString>,
    /// The event in the source's own words; empty when there are none.
    pub term: CompactString,
    /// FHIR `actuality`: a potential event never counts.
    pub is_actual: bool,
    /// CTCAE grade 1 to 5, where the source gives one.
    pub grade: Option<u8>,
    /// R4 `severity`: mild, moderate, severe.
    pub severity: Option<CompactString>,
    pub is_serious: Option<bool>,
    /// Codes of the seriousness criteria that the source says are present.
    pub seriousness_criteria: Vec<CompactString>,
    /// Expected in this study, by the source's word.
    pub is_expected: Option<bool>,
    /// One per causality assessment.
    pub relatedness: Vec<Relatedness>,
    pub outcome: Option<CompactString>,
    pub onset: Option<PartialDate>,
    pub detected: Option<PartialDate>,
    pub recorded: Option<PartialDate>,
    pub resolved: Option<PartialDate>,
    /// Dose-limiting by the source's word; never computed from a grade.
    pub is_dose_limiting: Option<bool>,
    /// Ids of the studies that the event names, as the site's mapping knows them.
    pub studies: Vec<CompactString>,
    /// It names a study that the site's mapping does not know.
    pub names_other_study: bool,
}

impl AdverseEvent {
    /// An actual event of which nothing is known but its term.
    pub fn named(term: impl Into<CompactString>) -> AdverseEvent {
        AdverseEvent {
            codes: Vec::new(),
            term: term.into(),
            is_actual: true,
            grade: None,
            severity: None,
            is_serious: None,
            seriousness_criteria: Vec::new(),
            is_expected: None,
            relatedness: Vec::new(),
            outcome: None,
            onset: None,
            detected: None,
            recorded: None,
            resolved: None,
            is_dose_limiting: None,
            studies: Vec::new(),
            names_other_study: false,
        }
    }
}

/// How one suspect is held to be related to an event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Relatedness {
    /// Reference or code of the suspect; empty when the source names none.
    pub suspect: CompactString,
    /// The suspect is an investigational product, by the site's mapping.
    pub is_study_product: bool,
    /// The assessment as the source's code.
    pub code: CompactString,
    /// What the code means; `None` for one that nobody knows, and for "unassessable".
    pub relation: Option<Relation>,
}

/// How an event is held to be related to a treatment, from none to certain: the common ground of WHO-UMC causality
/// categories (certain, probable, possible, unlikely) and of the clinical research profile (NCI Thesaurus C53256, C53257,
/// C53258, C53259, C53260).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Relation {
    NotRelated,
    Unlikely,
    Possible,
    Probable,
    Related,
}

impl Relation {
    pub const ALL: [Relation; 5] = [Relation::NotRelated, Relation::Unlikely, Relation::Possible, Relation::Probable, Relation::Related];

    pub const fn word(self) -> &'static str {
        match self {
            Relation::NotRelated => "not-related",
            Relation::Unlikely => "unlikely",
            Relation::Possible => "possible",
            Relation::Probable => "probable",
            Relation::Related => "related",
        }
    }
}

/// What a hospital says of a subject's part in a study (FHIR ResearchSubject).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResearchSubject {
    /// Id of the study, by the site's mapping.
    pub study: CompactString,
    /// R4 `status`, such as `on-study`.
    pub status: CompactString,
    /// `actualArm`, else `assignedArm`, as the id that the site's mapping gives to its words; `None` when not given.
    pub arm: Option<CompactString>,
    /// The arm is the actual one.
    pub is_actual_arm: bool,
    pub start: Option<PartialDate>,
    pub end: Option<PartialDate>,
}

/// One dose of an investigational product (FHIR MedicationAdministration or Procedure).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Administration {
    /// Id of the study whose product it is, by the site's mapping.
    pub study: CompactString,
    /// The code that was matched, as `system|code`.
    pub code: CompactString,
    /// When it began.
    pub given: Option<PartialDate>,
    pub ended: Option<PartialDate>,
    /// Cells given, where the source counts them.
    pub cells: Option<f64>,
    /// The dose as received, number and unit; empty when not given.
    pub dose_as_received: CompactString,
}

/// A stay at the hospital.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Encounter {
    /// `class`, a v3 ActCode such as `IMP` or `EMER`.
    pub class: CompactString,
    /// Planned by the source's word, as an elective or a study admission; `None` when it does not say.
    pub is_planned: Option<bool>,
    pub start: Option<PartialDate>,
    pub end: Option<PartialDate>,
}

/// What a named person decided, with the evidence that was seen (rulings.md 18). Appended, never edited.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    pub study: CompactString,
    /// Who decided: the person of the token.
    pub by: CompactString,
    pub reason: String,
    pub at_ms: i64,
    /// Hash of the evidence on the card that was seen; empty where none is needed.
    pub evidence_seen: CompactString,
    pub what: Decided,
}

impl Decision {
    /// The fact a decision enters as; `id` is its own, the message number comes from the ledger.
    pub fn into_fact(self, id: impl Into<CompactString>) -> Fact {
        Fact {
            source: Source {
                resource_type: ResourceType::Decision,
                id: id.into(),
                version: Some(CompactString::const_new("1")),
                last_updated_ms: Some(self.at_ms),
                message: 0,
            },
            key: None,
            status: Status::Final,
            issued_ms: Some(self.at_ms),
            body: Body::Decision(self),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decided {
    /// Answers one criterion that the data leaves `unknown`.
    Attestation {
        criterion: CompactString,
        passes: bool,
    },
    Consent {
        given: bool,
    },
    OptOut {
        opted_out: bool,
    },
    State {
        to: DecidedState,
    },
    /// The dose was given; where the hospital says nothing of it, or says it otherwise.
    Dose {
        arm: CompactString,
        given: PartialDate,
        cells: Option<f64>,
    },
    /// An event that the trial's own people met: ours to author. Its id is that of this decision.
    EventRecorded {
        event: Box<AdverseEvent>,
    },
    /// Axes of an event that the source left open, or that the investigator judges otherwise. `event` is its reference,
    /// such as `AdverseEvent/7`.
    EventAxes {
        event: CompactString,
        axes: Box<EventAxes>,
    },
    /// The event was reported; stops one of the study's reporting clocks.
    EventReported {
        event: CompactString,
        /// Id of the clock in study.json.
        clock: CompactString,
        at: PartialDate,
    },
    /// Whether what the data suggest is an adverse event.
    Candidate {
        candidate: CompactString,
        is_event: bool,
    },
}

impl Decided {
    /// Whether it is about what happens in a trial, to those who entered it.
    pub const fn is_of_trial(&self) -> bool {
        match self {
            Decided::Dose { .. }
            | Decided::EventRecorded { .. }
            | Decided::EventAxes { .. }
            | Decided::EventReported { .. }
            | Decided::Candidate { .. } => true,
            Decided::Attestation { .. } | Decided::Consent { .. } | Decided::OptOut { .. } | Decided::State { .. } => false,
        }
    }
}

/// What a person says of an event, axis by axis; `None` leaves the axis as it stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EventAxes {
    /// What it is called, where the source gave no word or a wrong one.
    pub term: Option<CompactString>,
    /// CTCAE grade 1 to 5.
    pub grade: Option<u8>,
    pub is_serious: Option<bool>,
    /// Seriousness criteria that are present, as codes of the clinical research profile.
    pub seriousness_criteria: Option<Vec<CompactString>>,
    /// To the study's treatment.
    pub relation: Option<Relation>,
    pub is_expected: Option<bool>,
    /// R4 code, such as `resolved`.
    pub outcome: Option<CompactString>,
    pub onset: Option<PartialDate>,
    pub resolved: Option<PartialDate>,
    pub is_dose_limiting: Option<bool>,
}

/// States a person sets; the others follow from verdicts and the record (rulings.md 19).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DecidedState {
    Enrolled,
    OnFollowUp,
    Completed,
    ScreenFailed,
    Lost,
    Withdrawn,
}
