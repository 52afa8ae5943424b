//! What an EHR should hold about a subject, as complete HTTP requests: planned from an assessment, what this
//! receiver can take, and what was written before. Sends nothing; reads no clock.

pub mod contract;
pub mod keys;
pub mod ladder;
mod plan;
pub mod receiver;
pub mod telling;

use serde::{Deserialize, Serialize};

use crate::rules::course::Course;
use crate::rules::{Assessment, Hidden, SubjectState, Verdict};
use crate::study::Study;

use ladder::{Ladder, Rung};

/// One EHR as a target: `mappings/<site>/receiver.json`, plus the key that was read from the environment.
#[derive(Clone)]
pub struct Receiver {
    pub site: String,
    /// FHIR base without a trailing slash.
    pub base_url: String,
    /// `shadow` plans and sends nothing until a named person releases (rulings.md 24).
    pub mode: Mode,
    /// Nothing about a subject is written before this state.
    pub write_from: WriteFrom,
    /// PUT to our own id creates; otherwise conditional create.
    pub update_creates: bool,
    /// Rungs of the ladder that the site allows, best first.
    pub rungs: Vec<Rung>,
    /// What is written beside the ladder.
    pub beside: Beside,
    /// Types of the hospital's own resources that we may mark (rulings.md 25); empty unless the site opted in.
    pub annotates: Vec<Annotates>,
    /// What it takes on the wire.
    pub takes: Takes,
    /// Key of the identifiers we write (rulings.md 26). Never printed.
    pub identifier_key: [u8; 32],
    /// Label everything HTEST (the demo), and write only about patients that the EHR labels HTEST.
    pub tag_test: bool,
    /// DELETE is allowed for what never was true; otherwise a status says so.
    pub deletes: bool,
    /// The organisation that answers for what we compute: performer of our Observations, author of our Flags.
    pub organization: String,
    /// Where this gateway's pages are read, without a trailing slash, for links to the why-card; `None`: no link.
    pub why_url: Option<String>,
    /// The rung it is written to, chosen from all this, its CapabilityStatement and what it was found to do.
    pub ladder: Ladder,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    Shadow,
    Live,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WriteFrom {
    Candidate,
    Consented,
    Eligible,
    Enrolled,
}

/// What is written beside the ladder, each only where the site asked for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Beside {
    /// The computed eGFR as an Observation (rulings.md 27).
    pub egfr_observation: bool,
    /// Adverse events that a person recorded in this gateway.
    pub adverse_event: Option<AdverseEventShape>,
    /// A Provenance for each resource on the ladder.
    pub provenance: bool,
}

/// How an AdverseEvent that we author is spelt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AdverseEventShape {
    /// The profile of the Vulcan research backport (R4), with its modifier extension for the status.
    Backport,
    /// Base R4 alone, for receivers that refuse modifier extensions.
    Plain,
}

/// One type of the hospital's own resources that the site lets us mark, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Annotates {
    /// Why, who agreed, when.
    pub note: String,
    #[serde(rename = "type")]
    pub resource_type: String,
    /// The standard extension `workflow-researchStudy`; for AdverseEvent its element `study`.
    pub study: bool,
    /// A tag in `meta.tag` besides.
    #[serde(default)]
    pub tag: bool,
}

/// What a receiver takes on the wire; looked at before each send.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Takes {
    /// Elements that it keeps, by resource type; a type that is not named keeps all.
    pub fields: std::collections::BTreeMap<String, Vec<String>>,
    /// Statuses that it takes, by resource type; a type that is not named takes all.
    pub statuses: std::collections::BTreeMap<String, Vec<String>>,
    /// Code systems that it takes; empty: all.
    pub code_systems: Vec<String>,
    /// Largest body, bytes.
    pub bytes_max: Option<usize>,
    /// Most requests in a minute, reads included.
    pub requests_per_minute: Option<u32>,
    /// Extensions may not be sent.
    pub no_extensions: bool,
    /// Modifier extensions may not be sent.
    pub no_modifier_extensions: bool,
}

/// What was planned or written before for one key.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// Our own identifier value, the same for ever for one (site, study, subject, kind).
    pub key: String,
    pub resource_type: String,
    /// `WriteBack::body_hash` of the newest plan for this key.
    pub body_hash: String,
    /// `WriteBack::body` of the newest plan for this key.
    pub body: String,
    /// Whether that plan puts something there (`false`: it takes it back).
    pub is_standing: bool,
    /// Id at the server, once a read-back found it.
    pub server_id: Option<String>,
    pub form: Form,
    /// That plan is still to be carried out: planned, in shadow, or sent and not read back.
    pub is_pending: bool,
}

/// One complete request, ready to send.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WriteBack {
    pub key: String,
    pub resource_type: String,
    /// Why: `annotate` or `retract`. Retractions go first.
    pub purpose: Purpose,
    /// Order in which a server that checks references accepts them: ResearchStudy 0, the ladder 1, what refers to either 2 and 3.
    pub order: i32,
    pub method: String,
    /// Relative to the receiver's base: `Flag/ng-...`.
    pub url: String,
    pub headers: Vec<(String, String)>,
    /// The resource itself; empty for a DELETE.
    pub body: String,
    /// SHA-256 of what the resource says, hex: the body without its id, so that it does not change when the server chose one.
    pub body_hash: String,
    /// What a read-back must find: search parameters, `identifier=system|key`; `_tag=system|key` for the types that R4 gives
    /// no search by identifier (AdverseEvent, Provenance); `_id=id` for a mark on a resource of the hospital's.
    pub search: String,
    /// Word of the rung it belongs to, or `beside` the ladder, or `annotation` of a resource of the hospital's.
    pub rung: String,
    #[serde(default)]
    pub form: Form,
    /// Paths of what the contract leaves out of the body, such as `Flag.period`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
}

/// What the body of a request is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// A whole resource that we author.
    #[default]
    Resource,
    /// A fragment of a resource of the hospital's: type, id, and only the elements that are ours. It is added to what
    /// the EHR holds, or taken out of it, and nothing else is changed.
    Fragment,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    Annotate,
    Retract,
}

/// What is known of one subject in one study.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    pub subject: &'a str,
    pub assessment: &'a Assessment,
    /// The course of who entered, where the receiver is sent something of it ([`needs_course`]).
    pub course: Option<&'a Course>,
    /// SHA-256 of the site's mapping, 64 hex digits.
    pub mapping_hash: &'a str,
}

/// What decides whether a subject may be told about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    pub hidden: Option<Hidden>,
    pub prescreen: Verdict,
    pub state: SubjectState,
    pub was_enrolled: bool,
}

impl Standing {
    pub fn of(assessment: &Assessment) -> Standing {
        let Assessment { hidden, prescreen, state, was_enrolled, .. } = *assessment;
        Standing { hidden, prescreen, state, was_enrolled }
    }
}

/// How a subject belongs to the Group of a study.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Membership {
    Member,
    /// Took part: stays, as an inactive member, where they were in it.
    TookPart,
    None,
}

/// One subject of a study before its Group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member<'a> {
    pub subject: &'a str,
    pub membership: Membership,
}

/// How a subject belongs to the Group of a study at this receiver.
pub fn membership(receiver: &Receiver, standing: Standing) -> Membership {
    plan::membership(receiver, standing)
}

/// Whether this receiver is told by a Group, or was: then its Group is planned beside the subjects.
pub fn needs_group(receiver: &Receiver, study: &Study, written: &[Written]) -> bool {
    let key = keys::identifier(&receiver.identifier_key, &receiver.site, &study.id, "", "Group");
    receiver.ladder.rung == Some(Rung::Group) || written.iter().any(|before| before.key == key)
}

/// Plans the Group of a study at a site, if it must change: `members` are all its subjects that may belong to it, `written`
/// is what was planned before for the study itself. Who leaves goes first, in a plan that adds nobody; so plan again once
/// that is done.
pub fn plan_group(receiver: &Receiver, study: &Study, members: &[Member<'_>], written: &[Written]) -> Option<WriteBack> {
    plan::plan_group(receiver, study, members, written).map(|request| as_taken(receiver, request))
}

/// Whether a Group still says what should be said; looked at again just before it is sent.
pub fn is_group_still_wanted(receiver: &Receiver, study: &Study, members: &[Member<'_>], request: &WriteBack) -> bool {
    plan::is_group_still_wanted(receiver, study, members, request)
}

/// Whether plans for this receiver depend on a subject's course.
pub fn needs_course(receiver: &Receiver) -> bool {
    receiver.beside.adverse_event.is_some() || receiver.annotates.iter().any(|annotates| annotates.resource_type == "AdverseEvent")
}

/// The search parameter by which our identifier is found. R4 knows no search by identifier for AdverseEvent and
/// Provenance: there it stands as a tag too.
pub fn search_parameter(resource_type: &str) -> &'static str {
    if matches!(resource_type, "AdverseEvent" | "Provenance") { "_tag" } else { "identifier" }
}

/// Plans what must be sent so that the EHR holds what is known of this subject; empty when it already does.
/// `written` is what was planned before for this subject and for the study itself; the ResearchStudy is among the
/// requests where it is due, with the key of the study.
pub fn plan(receiver: &Receiver, study: &Study, known: Known<'_>, written: &[Written]) -> Vec<WriteBack> {
    plan::requests(receiver, study, known, written).into_iter().map(|request| as_taken(receiver, request)).collect()
}

/// What the contract does not take and we only like to have stays at home. The hash is of what is said, whole or not.
fn as_taken(receiver: &Receiver, mut request: WriteBack) -> WriteBack {
    if request.form == Form::Resource && !request.body.is_empty() {
        (request.body, request.left_out) = contract::fitted(receiver, &request.body);
    }
    request
}

/// Whether a request still says what should be said; looked at again just before each send (rulings.md 28).
/// `subject` is empty for the ResearchStudy.
pub fn is_still_wanted(receiver: &Receiver, study: &Study, known: Known<'_>, written: &[Written], request: &WriteBack) -> bool {
    plan::is_still_wanted(receiver, study, known, written, request)
}

/// The same for the ResearchStudy, which has no assessment: nothing refers to it on a rung without ResearchSubjects.
pub fn is_of_current_study(receiver: &Receiver, study: &Study, request: &WriteBack) -> bool {
    plan::is_of_current_study(receiver, study, request)
}

/// R4 `ResearchSubject.status` of a state (rulings.md 19); `None` where there is nothing to say.
pub fn research_subject_status(state: SubjectState, was_enrolled: bool) -> Option<&'static str> {
    plan::status_of_state(state, was_enrolled)
}

/// Whether new things may be written about a subject in this state. States that close (completed, lost, withdrawn,
/// deceased, screen-failed) change what stands and start nothing.
pub fn may_write(from: WriteFrom, state: SubjectState) -> bool {
    let reached = match state {
        SubjectState::Candidate => 1,
        SubjectState::Consented => 2,
        SubjectState::Eligible => 3,
        SubjectState::Enrolled | SubjectState::OnFollowUp => 4,
        SubjectState::None
        | SubjectState::Completed
        | SubjectState::ScreenFailed
        | SubjectState::Lost
        | SubjectState::Withdrawn
        | SubjectState::Deceased => return false,
    };
    let needed = match from {
        WriteFrom::Candidate => 1,
        WriteFrom::Consented => 2,
        WriteFrom::Eligible => 3,
        WriteFrom::Enrolled => 4,
    };
    needed <= reached
}
