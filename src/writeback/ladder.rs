//! The ladder: the best way of telling one EHR about a subject, chosen from what the site allows, what the server
//! declares, and what it was found to do. A rung that cannot be taken back is not allowed (rulings.md 29).

use serde::{Deserialize, Serialize};

use super::{AdverseEventShape, Beside, Receiver, contract};

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

impl std::fmt::Display for Rung {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.word())
    }
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
    /// A PUT to an id that is not there creates it; `None` where the statement does not say.
    pub update_creates: Option<bool>,
    pub conditional_create: bool,
    /// Names of search parameters; empty where the statement names none.
    pub search_parameters: Vec<String>,
}

impl Declared {
    /// What is said of one type; `None` where it is not named.
    pub fn of(&self, resource_type: &str) -> Option<&DeclaredResource> {
        self.resources.iter().find(|resource| resource.resource_type == resource_type)
    }

    /// Whether an interaction is declared for a type; `None` where the statement names no type at all.
    pub fn declares(&self, resource_type: &str, interaction: &str) -> Option<bool> {
        (!self.resources.is_empty()).then(|| self.of(resource_type).is_some_and(|resource| resource.declares(interaction)))
    }
}

impl DeclaredResource {
    fn declares(&self, interaction: &str) -> bool {
        self.interactions.iter().any(|declared| declared == interaction)
    }
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

impl FindingKind {
    pub const ALL: [FindingKind; 8] = [
        FindingKind::Works,
        FindingKind::Unsupported,
        FindingKind::DropsElements,
        FindingKind::NotFoundAgain,
        FindingKind::NoUpdate,
        FindingKind::TagStays,
        FindingKind::RefusesModifiers,
        FindingKind::RefusesReference,
    ];

    pub const fn word(self) -> &'static str {
        match self {
            FindingKind::Works => "works",
            FindingKind::Unsupported => "unsupported",
            FindingKind::DropsElements => "drops-elements",
            FindingKind::NotFoundAgain => "not-found-again",
            FindingKind::NoUpdate => "no-update",
            FindingKind::TagStays => "tag-stays",
            FindingKind::RefusesModifiers => "refuses-modifiers",
            FindingKind::RefusesReference => "refuses-reference",
        }
    }

    pub fn from_word(word: &str) -> Option<FindingKind> {
        FindingKind::ALL.into_iter().find(|kind| kind.word() == word)
    }
}

/// The rung a receiver is written to, and why not a better one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ladder {
    /// `None`: nothing can be written; `left_out` says why.
    pub rung: Option<Rung>,
    /// On the first rung: the Flag goes beside.
    pub with_flag: bool,
    /// Better rungs than this one, and why each is left out; and the Flag, where it should go beside and cannot.
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

/// What a rung needs of each of its types: to be written, read, found again, and changed, since every way of taking
/// something back but one is a change of its status.
const NEEDED: [&str; 4] = ["create", "read", "search-type", "update"];
/// A Provenance says what happened: it is never changed, and it has no identifier to search by.
const NEEDED_OF_PROVENANCE: [&str; 2] = ["create", "read"];

/// Chooses the rung: the first that the site allows, the server declares, nothing found speaks against, and that can be
/// taken back. `declared` is `None` while the server was not asked; `findings` are in the order in which they were made.
pub fn climb(receiver: &Receiver, declared: Option<&Declared>, findings: &[Finding]) -> Ladder {
    let mut ladder = Ladder::default();
    for rung in receiver.rungs.iter().copied() {
        match rung.resource_types().iter().find_map(|kind| obstacle(receiver, declared, findings, kind)) {
            Some(why) => ladder.left_out.push(LeftOut { rung, why }),
            None => {
                ladder.rung = Some(rung);
                break;
            }
        }
    }
    for rung in Rung::ALL {
        let is_better = ladder.rung.is_none_or(|chosen| rung < chosen);
        if is_better && ladder.left_out.iter().all(|left_out| left_out.rung != rung) {
            let why = if receiver.rungs.contains(&rung) { "receiver.json puts it lower" } else { "receiver.json does not allow it" };
            ladder.left_out.push(LeftOut { rung, why: why.to_owned() });
        }
    }
    if ladder.rung == Some(Rung::ResearchSubject) && receiver.rungs.contains(&Rung::Flag) {
        match obstacle(receiver, declared, findings, "Flag") {
            None => ladder.with_flag = true,
            Some(why) => ladder.left_out.push(LeftOut { rung: Rung::Flag, why }),
        }
    }
    ladder.left_out.sort_by_key(|left_out| left_out.rung);
    ladder
}

/// The receiver as it is written to now: on its rung, and without what its server does not do.
pub fn standing(receiver: &Receiver, declared: Option<&Declared>, findings: &[Finding]) -> Receiver {
    let mut standing = receiver.clone();
    standing.ladder = climb(receiver, declared, findings);
    standing.deletes &= declared.and_then(|declared| declared.declares("ResearchSubject", "delete")) != Some(false);
    standing.takes.no_modifier_extensions |=
        findings.iter().any(|finding| counts(findings, finding) && finding.kind == FindingKind::RefusesModifiers);
    if standing.beside.adverse_event.is_some() && (standing.takes.no_modifier_extensions || standing.takes.no_extensions) {
        standing.beside.adverse_event = Some(AdverseEventShape::Plain);
    }
    for (kind, _) in beside_left_out(receiver, declared, findings) {
        match kind {
            "Observation" => standing.beside.egfr_observation = false,
            "AdverseEvent" => standing.beside.adverse_event = None,
            _ => standing.beside.provenance = false,
        }
    }
    standing
}

/// Why a rung cannot be tried at all, whatever was found: the contract or the server's declaration speaks against it.
pub fn untried(receiver: &Receiver, declared: Option<&Declared>, rung: Rung) -> Option<String> {
    rung.resource_types().iter().find_map(|kind| obstacle(receiver, declared, &[], kind))
}

/// What `receiver.json` asks for beside the ladder and this server does not take: type, and why.
pub fn beside_left_out(receiver: &Receiver, declared: Option<&Declared>, findings: &[Finding]) -> Vec<(&'static str, String)> {
    let Beside { egfr_observation, adverse_event, provenance } = receiver.beside;
    let asked = [("Observation", egfr_observation), ("AdverseEvent", adverse_event.is_some()), ("Provenance", provenance)];
    let asked = asked.into_iter().filter(|(_, is_asked)| *is_asked);
    asked.filter_map(|(kind, _)| obstacle(receiver, declared, findings, kind).map(|why| (kind, why))).collect()
}

/// Why resources of this type cannot be written, proven and taken back; `None`: nothing is known to speak against it.
fn obstacle(receiver: &Receiver, declared: Option<&Declared>, findings: &[Finding], resource_type: &str) -> Option<String> {
    contract::obstacle(receiver, resource_type)
        .or_else(|| declared.and_then(|declared| not_declared(receiver, declared, resource_type)))
        .or_else(|| findings.iter().filter(|finding| finding.resource_type == resource_type && counts(findings, finding)).find_map(speaks_against))
}

fn not_declared(receiver: &Receiver, declared: &Declared, resource_type: &str) -> Option<String> {
    let Declared { fhir_version, resources, .. } = declared;
    if !fhir_version.is_empty() && !fhir_version.starts_with("4.") {
        return Some(format!("the server speaks FHIR {fhir_version}, and what is written is R4"));
    }
    // A statement that lists no type says nothing about any.
    if resources.is_empty() {
        return None;
    }
    let Some(resource) = declared.of(resource_type) else { return Some(format!("{resource_type} is not declared")) };
    let is_provenance = resource_type == "Provenance";
    let needed = if is_provenance { NEEDED_OF_PROVENANCE.as_slice() } else { NEEDED.as_slice() };
    let needed = needed.iter().copied().filter(|interaction| *interaction != "create" || !receiver.update_creates);
    let (there, lacking): (Vec<&str>, Vec<&str>) = needed.partition(|interaction| resource.declares(interaction));
    if !lacking.is_empty() {
        let so = match (there.contains(&"create"), lacking.contains(&"update")) {
            (true, true) => ", so it could not be taken back",
            (_, false) if !lacking.contains(&"create") => ", so it could not be proven to have arrived",
            (true, false) | (false, true | false) => "",
        };
        let there = if there.is_empty() { String::new() } else { format!("{}, ", listed(&there, "declared")) };
        return Some(format!("{resource_type}: {there}{}{so}", listed(&lacking, "not")));
    }
    if receiver.update_creates && resource.update_creates == Some(false) {
        return Some(format!(
            "{resource_type}: receiver.json says update_creates, and the server declares that a PUT to a new id creates nothing (updateCreate false)"
        ));
    }
    let parameters = &resource.search_parameters;
    let is_findable =
        super::search_parameter(resource_type) != "identifier" || parameters.is_empty() || parameters.iter().any(|name| name == "identifier");
    (!is_findable).then(|| format!("{resource_type}: search by identifier is not declared, so it could not be found again"))
}

/// `create and read are declared`.
fn listed(words: &[&str], end: &str) -> String {
    let words: Vec<&str> = words.iter().map(|word| word.trim_end_matches("-type")).collect();
    match words.as_slice() {
        [] => String::new(),
        [one] => format!("{one} is {end}"),
        [most @ .., last] => format!("{} and {last} are {end}", most.join(", ")),
    }
}

/// Whether a finding still counts: no later probe has shown that this type works after all.
fn counts(findings: &[Finding], finding: &Finding) -> bool {
    let is_healed =
        |other: &Finding| other.kind == FindingKind::Works && other.resource_type == finding.resource_type && finding.found_ms < other.found_ms;
    !findings.iter().any(is_healed)
}

/// What a finding says against its type.
fn speaks_against(finding: &Finding) -> Option<String> {
    let Finding { resource_type, kind, detail, .. } = finding;
    let because = if detail.is_empty() { String::new() } else { format!(": {detail}") };
    match kind {
        FindingKind::Unsupported => Some(format!("{resource_type} was refused as not supported{because}")),
        FindingKind::NotFoundAgain => Some(format!("{resource_type} was taken and not found again{because}")),
        FindingKind::NoUpdate => Some(format!("{resource_type} could not be changed once it was written, so it could not be taken back{because}")),
        FindingKind::DropsElements => {
            let needed: Vec<&str> = detail.split(", ").filter(|path| contract::is_needed(path)).collect();
            (!needed.is_empty()).then(|| format!("{resource_type} came back without what we need: {}", needed.join(", ")))
        }
        // Each is met when it is sent.
        FindingKind::Works | FindingKind::TagStays | FindingKind::RefusesModifiers | FindingKind::RefusesReference => None,
    }
}
