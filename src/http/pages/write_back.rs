//! The write-back of each receiver as a page: how it is written to and why not better, whether it is stopped, what the last
//! reconcile found, which copies wait for a person; and the outbox below.

mod forms;

use askama::Template;

pub use forms::routes;

use super::Shell;
use super::text::{self, Clock};
use crate::http::write_back::Reconciles;
use crate::store::circuit::Circuit;
use crate::store::outbox::{Item, ItemState};
use crate::store::receivers::Kept;
use crate::store::reconcile::{Did, Difference, Kind, Mode, Proposal, ProposalState, RunState};
use crate::store::switches::Switch;
use crate::writeback::ladder::{self, Finding};
use crate::writeback::{Mode as ReceiverMode, Purpose, Receiver, WriteFrom};

/// Rows shown; the command prints all.
const ROWS: usize = 200;
/// Differences shown of one reconcile; the API answers all that are kept.
const DIFFERENCES: usize = 50;

const STATES: [ItemState; 8] = [
    ItemState::Planned,
    ItemState::Shadow,
    ItemState::Sent,
    ItemState::Confirmed,
    ItemState::Superseded,
    ItemState::Degraded,
    ItemState::Rejected,
    ItemState::Lost,
];

#[derive(Template)]
#[template(path = "write_back.html")]
pub struct Page {
    shell: Shell,
    saved: Option<String>,
    refused: Option<String>,
    receivers: Vec<Card>,
    may_turn: bool,
    asks_name: bool,
    sites: Vec<Choice>,
    studies: Vec<Choice>,
    state: &'static str,
    tiles: Vec<Tile>,
    meaning: Option<&'static str>,
    rows: Vec<Row>,
    more: usize,
}

struct Choice {
    value: String,
    label: String,
    is_current: bool,
}

struct Tile {
    word: &'static str,
    count: usize,
    href: String,
    is_current: bool,
}

struct Row {
    id: i64,
    subject: String,
    card: Option<String>,
    study: String,
    method: String,
    url: String,
    short_url: String,
    rung: String,
    is_retraction: bool,
    state: &'static str,
    says: String,
    attempts: i64,
    ago: String,
}

/// One receiver.
struct Card {
    site: String,
    name: String,
    address: String,
    is_live: bool,
    write_from: &'static str,
    rung: Option<&'static str>,
    rung_says: String,
    left_out: Vec<Line>,
    findings: Vec<Line>,
    software: String,
    declared: Option<String>,
    quiet: Option<String>,
    silent: Option<String>,
    switches: Vec<Turned>,
    is_stopped: bool,
    studies: Vec<String>,
    last: Option<Last>,
    under_way: Option<String>,
    proposals: Vec<Merge>,
}

struct Line {
    word: String,
    why: String,
    at: String,
}

struct Turned {
    what: String,
    is_stopped: bool,
    who: String,
    reason: String,
    ago: String,
}

/// The newest reconcile that ended.
struct Last {
    ago: String,
    at: String,
    machine: String,
    by: String,
    mode: &'static str,
    is_failed: bool,
    is_clean: bool,
    compared: i64,
    as_expected: i64,
    on_their_way: i64,
    planned_again: i64,
    needs_person: i64,
    notes: Vec<String>,
    differences: Vec<Differs>,
    more: i64,
    swept: Vec<Line>,
}

struct Differs {
    kind: &'static str,
    says: &'static str,
    did: &'static str,
    class: &'static str,
    resource: String,
    resource_full: String,
    subject: String,
    card: Option<String>,
    elements: String,
    why: String,
}

struct Merge {
    id: i64,
    state: &'static str,
    is_open: bool,
    resource_type: String,
    subject: String,
    card: Option<String>,
    study: String,
    ago: String,
    says: String,
    copies: Vec<Copied>,
}

struct Copied {
    id: String,
    is_kept: bool,
    status: String,
    updated: String,
    version: String,
    is_recorded: bool,
}

/// What is known of one receiver.
pub struct Of {
    pub contract: Receiver,
    pub standing: Receiver,
    pub kept: Kept,
    pub findings: Vec<Finding>,
    pub circuit: Circuit,
    pub switches: Vec<Switch>,
    pub reconciles: Reconciles,
    pub proposals: Vec<Proposal>,
    pub name: String,
    pub studies: Vec<String>,
}

/// What the page shows; `items` oldest first, of all states, of the sites that may be seen.
pub struct Source<'a> {
    pub receivers: Vec<Of>,
    pub items: Vec<Item>,
    pub site: String,
    pub study: String,
    pub state: Option<ItemState>,
    pub may_turn: bool,
    pub asks_name: bool,
    pub saved: Option<String>,
    pub refused: Option<String>,
    pub clock: &'a Clock,
}

pub fn view(shell: Shell, source: Source<'_>) -> Page {
    let Source { receivers, items, site, study, state, may_turn, asks_name, saved, refused, clock } = source;
    let mut all_studies: Vec<&str> = items.iter().map(|item| item.study.as_str()).collect();
    all_studies.sort_unstable();
    all_studies.dedup();
    let choice = |value: &str, label: &str, current: &str| Choice { value: value.to_owned(), label: label.to_owned(), is_current: value == current };
    let sites: Vec<Choice> = shell.sites.iter().map(|known| choice(&known.id, &known.name, &site)).collect();
    let studies = all_studies.into_iter().map(|known| choice(known, known, &study)).collect();
    let items: Vec<Item> =
        items.into_iter().filter(|item| (site.is_empty() || item.site == site) && (study.is_empty() || item.study == study)).collect();
    let href = |state: &str| {
        let asked = [("site", site.as_str()), ("study", study.as_str()), ("state", state)];
        let asked: Vec<String> =
            asked.into_iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| format!("{name}={}", super::percent(value))).collect();
        if asked.is_empty() { "/write-back#outbox".to_owned() } else { format!("/write-back?{}#outbox", asked.join("&")) }
    };
    let tiles = STATES
        .into_iter()
        .map(|of| Tile {
            word: of.word(),
            count: items.iter().filter(|item| item.state == of).count(),
            href: href(if state == Some(of) { "" } else { of.word() }),
            is_current: state == Some(of),
        })
        .filter(|tile| tile.count > 0 || tile.is_current || matches!(tile.word, "planned" | "sent" | "confirmed"))
        .collect();
    let shown: Vec<Item> = items.into_iter().rev().filter(|item| state.is_none_or(|state| item.state == state)).collect();
    Page {
        saved,
        refused,
        receivers: receivers.into_iter().filter(|of| site.is_empty() || of.contract.site == site).map(|of| card(of, clock)).collect(),
        may_turn,
        asks_name,
        sites,
        studies,
        state: state.map_or("", ItemState::word),
        tiles,
        meaning: state.map(text::item_state),
        more: shown.len().saturating_sub(ROWS),
        rows: shown.into_iter().take(ROWS).map(|item| row(item, clock)).collect(),
        shell,
    }
}

fn card(of: Of, clock: &Clock) -> Card {
    let Of { contract, standing, kept, findings, circuit, switches, reconciles, proposals, name, studies } = of;
    let chosen = &standing.ladder;
    let declared = kept.declared.as_ref();
    let mut left_out: Vec<Line> =
        chosen.left_out.iter().map(|left_out| Line { word: left_out.rung.word().to_owned(), why: left_out.why.clone(), at: String::new() }).collect();
    for (kind, why) in ladder::beside_left_out(&contract, declared, &findings) {
        left_out.push(Line { word: format!("{kind}, beside"), why, at: String::new() });
    }
    let software = match declared {
        None => "not asked yet".to_owned(),
        Some(declared) => {
            let software = declared.software.clone().unwrap_or_else(|| "a server that does not say its name".to_owned());
            let version = &declared.fhir_version;
            if version.is_empty() { software } else { format!("{software}, FHIR {version}") }
        }
    };
    let under_way = reconciles.under_way.as_ref().map(|run| match run.state {
        RunState::Running => format!("running since {}", clock.ago(run.started_ms.unwrap_or(run.asked_ms))),
        RunState::Asked | RunState::Done | RunState::Failed => "asked for; it begins within seconds".to_owned(),
    });
    Card {
        address: contract.base_url.clone(),
        is_live: contract.mode == ReceiverMode::Live,
        write_from: match contract.write_from {
            WriteFrom::Candidate => "candidate (prescreen met)",
            WriteFrom::Consented => "consented",
            WriteFrom::Eligible => "eligible",
            WriteFrom::Enrolled => "enrolled",
        },
        rung: chosen.rung.map(|rung| rung.word()),
        rung_says: match chosen.rung {
            None => "nothing can be written".to_owned(),
            Some(rung) => {
                let types = rung.resource_types().join(" and ");
                if chosen.with_flag { format!("{types}, and a Flag beside") } else { types }
            }
        },
        left_out,
        findings: findings
            .iter()
            .rev()
            .take(20)
            .map(|finding| Line {
                word: format!("{} {}", finding.resource_type, finding.kind.word()),
                why: finding.detail.clone(),
                at: clock.ago(finding.found_ms),
            })
            .collect(),
        software,
        declared: kept.declared_ms.map(|ms| clock.ago(ms)),
        quiet: (clock.now_ms < circuit.quiet_until_ms).then(|| clock.time(circuit.quiet_until_ms)),
        silent: circuit.silent_since_ms.map(|ms| clock.ago(ms)),
        is_stopped: switches.iter().any(|switch| switch.is_stopped),
        switches: switches
            .into_iter()
            .map(|switch| Turned {
                what: if switch.study.is_empty() { "the whole site".to_owned() } else { switch.study },
                is_stopped: switch.is_stopped,
                who: switch.who,
                reason: switch.reason,
                ago: clock.ago(switch.at_ms),
            })
            .collect(),
        studies,
        last: last(&reconciles, clock),
        under_way,
        proposals: proposals.into_iter().map(|proposal| merge(proposal, clock)).collect(),
        site: contract.site,
        name,
    }
}

fn last(reconciles: &Reconciles, clock: &Clock) -> Option<Last> {
    let run = reconciles.newest.as_ref()?;
    let at_ms = run.finished_ms.or(run.started_ms).unwrap_or(run.asked_ms);
    let report = run.report.clone().unwrap_or_default();
    let counts = report.counts;
    Some(Last {
        ago: clock.ago(at_ms),
        at: clock.time(at_ms),
        machine: clock.machine(at_ms),
        by: if run.who.is_empty() { "the nightly one".to_owned() } else { format!("asked for by {}", run.who) },
        mode: match run.mode {
            Mode::ReportOnly => "only reported",
            Mode::Repair => "mended what is ours",
            Mode::Insist => "insisted: planned again whatever differed",
        },
        is_failed: run.state == RunState::Failed,
        is_clean: counts.differences() == 0,
        compared: counts.compared,
        as_expected: counts.as_expected,
        on_their_way: counts.on_their_way,
        planned_again: counts.planned_again,
        needs_person: counts.needs_person,
        notes: report.notes,
        more: counts.differences() - i64::try_from(report.differences.len().min(DIFFERENCES)).unwrap_or(i64::MAX),
        differences: report.differences.iter().take(DIFFERENCES).map(|difference| differs(&run.site, difference)).collect(),
        swept: report
            .swept
            .iter()
            .map(|swept| Line {
                word: swept.resource_type.clone(),
                why: swept.not_seen.clone(),
                at: format!("{} found, {}", swept.found, swept.how.word()),
            })
            .collect(),
    })
}

fn differs(site: &str, difference: &Difference) -> Differs {
    let Difference { kind, did, resource_type, id, study, subject, elements, why, .. } = difference;
    let full = format!("{resource_type}/{}", id.as_deref().unwrap_or("?"));
    Differs {
        kind: kind.word(),
        says: match kind {
            Kind::Missing => "we wrote it, and it is gone",
            Kind::Changed => "elements of ours say otherwise",
            Kind::Reappeared => "taken back, and there again",
            Kind::Copies => "several under one key",
            Kind::Unproven => "there, and our record does not say so",
            Kind::Unknown => "our system, a key we never wrote",
        },
        did: match did {
            Did::PlannedAgain => "planned again",
            Did::Reported => "reported",
            Did::NeedsPerson => "needs a person",
            Did::Proposed => "merge proposed",
        },
        class: match did {
            Did::PlannedAgain => "good",
            Did::Reported | Did::Proposed => "waiting",
            Did::NeedsPerson => "bad",
        },
        resource: format!("{resource_type}/{}", text::short_id(id.as_deref().unwrap_or("?"))),
        resource_full: full,
        card: (!subject.is_empty()).then(|| super::card_href(study, site, subject)),
        subject: subject.clone(),
        elements: elements.join(", "),
        why: why.clone(),
    }
}

fn merge(proposal: Proposal, clock: &Clock) -> Merge {
    let accepted = proposal.accepted_by.clone().unwrap_or_default();
    Merge {
        id: proposal.id,
        state: proposal.state.word(),
        is_open: proposal.state == ProposalState::Proposed,
        card: (!proposal.subject.is_empty()).then(|| super::card_href(&proposal.study, &proposal.site, &proposal.subject)),
        says: match proposal.state {
            ProposalState::Proposed => String::new(),
            ProposalState::Accepted => format!("accepted by {accepted}; the copies are taken back next"),
            ProposalState::Done => format!("accepted by {accepted}; taken back, and proven"),
            ProposalState::Failed => format!("accepted by {accepted}; not done: {}", proposal.last_error.clone().unwrap_or_default()),
            ProposalState::Gone => "the copies were gone before anybody accepted".to_owned(),
        },
        copies: proposal
            .copies
            .iter()
            .map(|copy| Copied {
                is_kept: copy.id == proposal.keep,
                status: copy.status.clone().unwrap_or_default(),
                updated: copy.last_updated.as_deref().map(text::date).unwrap_or_default(),
                version: copy.version.clone().unwrap_or_default(),
                is_recorded: copy.is_recorded,
                id: copy.id.clone(),
            })
            .collect(),
        resource_type: proposal.resource_type,
        subject: proposal.subject,
        study: proposal.study,
        ago: clock.ago(proposal.proposed_ms),
    }
}

fn row(item: Item, clock: &Clock) -> Row {
    let proof = match (&item.server_id, &item.server_version) {
        (Some(id), Some(version)) => format!("read back as {}/{} version {version}", item.request.resource_type, text::short_id(id)),
        (Some(id), None) => format!("read back as {}/{}", item.request.resource_type, text::short_id(id)),
        (None, _) => text::item_state(item.state).to_owned(),
    };
    let left_out = match item.request.left_out.as_slice() {
        [] => String::new(),
        paths => format!("; receiver.json leaves out {}", paths.join(", ")),
    };
    Row {
        id: item.id,
        card: (!item.subject.is_empty()).then(|| super::card_href(&item.study, &item.site, &item.subject)),
        subject: item.subject,
        study: item.study,
        method: item.request.method,
        short_url: match item.request.url.split_once('/') {
            Some((kind, id)) => format!("{kind}/{}", text::short_id(id)),
            None => text::short_id(&item.request.url),
        },
        url: item.request.url,
        rung: item.request.rung,
        is_retraction: item.request.purpose == Purpose::Retract,
        state: item.state.word(),
        says: match item.state {
            ItemState::Confirmed => match item.last_error {
                Some(note) => format!("{proof}; {note}{left_out}"),
                None => format!("{proof}{left_out}"),
            },
            ItemState::Planned
            | ItemState::Sent
            | ItemState::Shadow
            | ItemState::Superseded
            | ItemState::Degraded
            | ItemState::Rejected
            | ItemState::Lost => item.last_error.unwrap_or_else(|| text::item_state(item.state).to_owned()),
        },
        attempts: item.attempts,
        ago: clock.ago(item.created_ms),
    }
}
