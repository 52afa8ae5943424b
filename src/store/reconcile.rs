//! What each reconcile of an EHR found, which ones were asked for, and which copies a person let us take back.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Bind, Row, StoreError, Tx};

/// What a reconcile does about what it finds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Nothing is changed.
    ReportOnly,
    /// What is ours is planned again, once; what differs again is left to a person.
    #[default]
    Repair,
    /// A person decided: also what was repaired before, and however much is missing.
    Insist,
}

impl Mode {
    pub const fn word(self) -> &'static str {
        match self {
            Mode::ReportOnly => "report-only",
            Mode::Repair => "repair",
            Mode::Insist => "insist",
        }
    }

    pub fn from_word(word: &str) -> Option<Mode> {
        [Mode::ReportOnly, Mode::Repair, Mode::Insist].into_iter().find(|mode| mode.word() == word)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    Asked,
    Running,
    Done,
    /// It broke off; what it had found until then stands in its report.
    Failed,
}

impl RunState {
    pub const fn word(self) -> &'static str {
        match self {
            RunState::Asked => "asked",
            RunState::Running => "running",
            RunState::Done => "done",
            RunState::Failed => "failed",
        }
    }

    fn from_word(word: &str) -> Option<RunState> {
        use RunState::*;
        [Asked, Running, Done, Failed].into_iter().find(|state| state.word() == word)
    }
}

/// What is different between our record and the EHR.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// It stood there, and is not found any more.
    Missing,
    /// It stands there, and elements of ours say otherwise.
    Changed,
    /// It was taken back, and stands there again.
    Reappeared,
    /// Several resources under one key.
    Copies,
    /// It stands there under a key of ours, and our record does not say that it should.
    Unproven,
    /// It carries our identifier system and a key that was never ours.
    Unknown,
}

impl Kind {
    pub const ALL: [Kind; 6] = [Kind::Missing, Kind::Changed, Kind::Reappeared, Kind::Copies, Kind::Unproven, Kind::Unknown];

    pub const fn word(self) -> &'static str {
        match self {
            Kind::Missing => "missing",
            Kind::Changed => "changed",
            Kind::Reappeared => "reappeared",
            Kind::Copies => "copies",
            Kind::Unproven => "unproven",
            Kind::Unknown => "unknown",
        }
    }
}

/// What was done about a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Did {
    /// It is planned again and goes out like everything else.
    PlannedAgain,
    /// Nothing, since this reconcile only reports.
    Reported,
    /// Nothing: a person must look.
    NeedsPerson,
    /// A merge is proposed, which a person accepts.
    Proposed,
}

impl Did {
    pub const fn word(self) -> &'static str {
        match self {
            Did::PlannedAgain => "planned-again",
            Did::Reported => "reported",
            Did::NeedsPerson => "needs-person",
            Did::Proposed => "proposed",
        }
    }
}

/// One difference; the values of elements are never told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    pub kind: Kind,
    pub did: Did,
    pub resource_type: String,
    /// Id at the server, where it is known.
    pub id: Option<String>,
    pub key: String,
    /// Of what our record says should stand there; empty where it says nothing.
    pub body_hash: String,
    pub study: String,
    pub subject: String,
    pub rung: String,
    /// Paths of the elements that are not as we wrote them.
    pub elements: Vec<String>,
    pub why: String,
}

/// How the resources of one type were looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// One search for our identifier system: what others wrote under it is seen too.
    BySystem,
    /// One search for each key that we know.
    ByKey,
    /// All resources of the type, because the server ignores what a search asks.
    All,
    /// Not at all; the sentence of the sweep says why.
    Not,
}

impl How {
    pub const fn word(self) -> &'static str {
        match self {
            How::BySystem => "by-system",
            How::ByKey => "by-key",
            How::All => "all",
            How::Not => "not",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Swept {
    pub resource_type: String,
    pub how: How,
    /// Resources that carry our identifier system.
    pub found: i64,
    /// What this way of looking could not see; empty where it saw all.
    pub not_seen: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Keys whose newest item has arrived: each was read and compared.
    pub compared: i64,
    pub as_expected: i64,
    pub missing: i64,
    pub changed: i64,
    pub reappeared: i64,
    pub copies: i64,
    pub unproven: i64,
    pub unknown: i64,
    /// Keys with something on its way, which are not compared.
    pub on_their_way: i64,
    pub planned_again: i64,
    pub needs_person: i64,
}

impl Counts {
    pub fn of(&self, kind: Kind) -> i64 {
        match kind {
            Kind::Missing => self.missing,
            Kind::Changed => self.changed,
            Kind::Reappeared => self.reappeared,
            Kind::Copies => self.copies,
            Kind::Unproven => self.unproven,
            Kind::Unknown => self.unknown,
        }
    }

    pub fn add(&mut self, kind: Kind) {
        match kind {
            Kind::Missing => self.missing += 1,
            Kind::Changed => self.changed += 1,
            Kind::Reappeared => self.reappeared += 1,
            Kind::Copies => self.copies += 1,
            Kind::Unproven => self.unproven += 1,
            Kind::Unknown => self.unknown += 1,
        }
    }

    pub fn differences(&self) -> i64 {
        Kind::ALL.into_iter().map(|kind| self.of(kind)).sum()
    }
}

/// What one reconcile found and did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// All was looked at that this server lets us look at.
    pub is_complete: bool,
    pub counts: Counts,
    /// Sent to the EHR.
    pub requests: i64,
    pub swept: Vec<Swept>,
    /// At most a thousand, those that were planned again first; `counts` counts all.
    pub differences: Vec<Difference>,
    /// What a person should know of the whole; empty: nothing.
    pub notes: Vec<String>,
}

/// One reconcile.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Run {
    pub id: i64,
    pub site: String,
    pub state: RunState,
    pub mode: Mode,
    /// Who asked for it; empty for the nightly one.
    pub who: String,
    pub asked_ms: i64,
    pub started_ms: Option<i64>,
    pub finished_ms: Option<i64>,
    pub report: Option<Report>,
}

const RUN_COLUMNS: &str = "SELECT reconcile, site, state, mode, who, asked_ms, started_ms, finished_ms, report FROM reconciles";

fn read_run(row: &Row) -> Result<Run, StoreError> {
    let unreadable = || StoreError::Broken("a reconcile cannot be read: the store is damaged or of a newer program".into());
    let report = match row.text(8)? {
        "" => None,
        text => Some(serde_json::from_str(text).map_err(|_| unreadable())?),
    };
    Ok(Run {
        id: row.integer(0)?,
        site: row.string(1)?,
        state: RunState::from_word(row.text(2)?).ok_or_else(unreadable)?,
        mode: Mode::from_word(row.text(3)?).ok_or_else(unreadable)?,
        who: row.string(4)?,
        asked_ms: row.integer(5)?,
        started_ms: row.optional_integer(6)?,
        finished_ms: row.optional_integer(7)?,
        report,
    })
}

const SQL_ASKED: &str = "SELECT reconcile FROM reconciles WHERE site = $1 AND state = 'asked' ORDER BY reconcile LIMIT 1";
const SQL_ASK: &str = "INSERT INTO reconciles (site, state, mode, who, asked_ms, report) VALUES ($1, 'asked', $2, $3, $4, '') RETURNING reconcile";

/// Asks for a reconcile, which the gateway's loop begins soon; one that waits already is answered instead.
pub fn ask(tx: &mut Tx<'_>, site: &str, mode: Mode, who: &str, now_ms: i64) -> Result<i64, StoreError> {
    if let Some(row) = tx.query_one(SQL_ASKED, &[site.into()])? {
        return row.integer(0);
    }
    let row = tx.query_one(SQL_ASK, &[site.into(), mode.word().into(), who.into(), now_ms.into()])?;
    row.ok_or_else(|| StoreError::Broken("a row just written has no number".into()))?.integer(0)
}

/// Whether somebody asked for a reconcile that has not begun.
pub fn waits(tx: &mut Tx<'_>, site: &str) -> Result<bool, StoreError> {
    Ok(tx.query_one(SQL_ASKED, &[site.into()])?.is_some())
}

const SQL_FAIL_STALE: &str =
    "UPDATE reconciles SET state = 'failed', finished_ms = $1 WHERE site = $2 AND state = 'running' AND lease_until_ms <= $1";
const SQL_BEGIN: &str = "INSERT INTO reconciles (site, state, mode, who, asked_ms, started_ms, lease_until_ms, report)
    VALUES ($1, 'running', $2, $3, $4, $4, $5, '') ON CONFLICT DO NOTHING RETURNING reconcile";

/// Begins a reconcile; `None` while another one runs at this site.
pub fn begin(tx: &mut Tx<'_>, site: &str, mode: Mode, who: &str, now_ms: i64, lease_until_ms: i64) -> Result<Option<i64>, StoreError> {
    tx.execute(SQL_FAIL_STALE, &[now_ms.into(), site.into()])?;
    let row = tx.query_one(SQL_BEGIN, &[site.into(), mode.word().into(), who.into(), now_ms.into(), lease_until_ms.into()])?;
    row.map(|row| row.integer(0)).transpose()
}

const SQL_TAKE_ASKED: &str = "UPDATE reconciles SET state = 'running', started_ms = $1, lease_until_ms = $2 WHERE reconcile = $3 AND state = 'asked'
    AND NOT EXISTS (SELECT 1 FROM reconciles other WHERE other.site = reconciles.site AND other.state = 'running') RETURNING mode";

/// Begins the oldest reconcile that somebody asked for; `None` where none waits, or another one runs.
pub fn begin_asked(tx: &mut Tx<'_>, site: &str, now_ms: i64, lease_until_ms: i64) -> Result<Option<(i64, Mode)>, StoreError> {
    let Some(row) = tx.query_one(SQL_ASKED, &[site.into()])? else { return Ok(None) };
    tx.execute(SQL_FAIL_STALE, &[now_ms.into(), site.into()])?;
    let id = row.integer(0)?;
    let Some(row) = tx.query_one(SQL_TAKE_ASKED, &[now_ms.into(), lease_until_ms.into(), id.into()])? else { return Ok(None) };
    Ok(Some((id, Mode::from_word(row.text(0)?).unwrap_or_default())))
}

const SQL_RENEW: &str = "UPDATE reconciles SET lease_until_ms = $1 WHERE reconcile = $2 AND state = 'running'";

/// Says that a reconcile still runs; `false` when it was given up meanwhile.
pub fn renew(tx: &mut Tx<'_>, id: i64, lease_until_ms: i64) -> Result<bool, StoreError> {
    Ok(tx.execute(SQL_RENEW, &[lease_until_ms.into(), id.into()])? == 1)
}

const SQL_FINISH: &str =
    "UPDATE reconciles SET state = $1, finished_ms = $2, report = $3, lease_until_ms = NULL WHERE reconcile = $4 AND state = 'running'";

/// Ends a reconcile with what it found; `false` when it was given up meanwhile.
pub fn finish(tx: &mut Tx<'_>, id: i64, state: RunState, now_ms: i64, report: &Report) -> Result<bool, StoreError> {
    let text = serde_json::to_string(report).expect("a report is plain data");
    Ok(tx.execute(SQL_FINISH, &[state.word().into(), now_ms.into(), text.as_str().into(), id.into()])? == 1)
}

/// The newest reconciles of a site, newest first.
pub fn newest(tx: &mut Tx<'_>, site: &str, limit: usize) -> Result<Vec<Run>, StoreError> {
    let sql = format!("{RUN_COLUMNS} WHERE site = $1 ORDER BY reconcile DESC LIMIT $2");
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    tx.query(&sql, &[site.into(), limit.into()])?.iter().map(read_run).collect()
}

/// One reconcile by its number.
pub fn run(tx: &mut Tx<'_>, id: i64) -> Result<Option<Run>, StoreError> {
    tx.query_one(&format!("{RUN_COLUMNS} WHERE reconcile = $1"), &[id.into()])?.as_ref().map(read_run).transpose()
}

/// The newest nightly reconcile of a site.
pub fn last_nightly(tx: &mut Tx<'_>, site: &str) -> Result<Option<Run>, StoreError> {
    let sql = format!("{RUN_COLUMNS} WHERE site = $1 AND who = '' ORDER BY reconcile DESC LIMIT 1");
    tx.query_one(&sql, &[site.into()])?.as_ref().map(read_run).transpose()
}

/// What was planned again since this time, as (key, hash of what should stand there).
pub fn planned_again_since(tx: &mut Tx<'_>, site: &str, since_ms: i64) -> Result<BTreeSet<(String, String)>, StoreError> {
    let sql = format!("{RUN_COLUMNS} WHERE site = $1 AND $2 <= started_ms AND report <> ''");
    let runs = tx.query(&sql, &[site.into(), since_ms.into()])?;
    let mut known = BTreeSet::new();
    for row in &runs {
        let differences = read_run(row)?.report.unwrap_or_default().differences;
        let planned = differences.into_iter().filter(|difference| difference.did == Did::PlannedAgain);
        known.extend(planned.map(|difference| (difference.key, difference.body_hash)));
    }
    Ok(known)
}

/// Where a proposal stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProposalState {
    Proposed,
    /// A person accepted it; the copies are taken back next.
    Accepted,
    /// Taken back, and proven.
    Done,
    /// It could not be done; the next sweep proposes anew.
    Failed,
    /// The copies were gone before anybody accepted.
    Gone,
}

impl ProposalState {
    pub const fn word(self) -> &'static str {
        match self {
            ProposalState::Proposed => "proposed",
            ProposalState::Accepted => "accepted",
            ProposalState::Done => "done",
            ProposalState::Failed => "failed",
            ProposalState::Gone => "gone",
        }
    }

    fn from_word(word: &str) -> Option<ProposalState> {
        use ProposalState::*;
        [Proposed, Accepted, Done, Failed, Gone].into_iter().find(|state| state.word() == word)
    }
}

/// One of several resources under one key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeldCopy {
    pub id: String,
    pub version: Option<String>,
    /// `meta.lastUpdated` as written.
    pub last_updated: Option<String>,
    /// `status`, where the type has one.
    pub status: Option<String>,
    /// The one that our record names.
    pub is_recorded: bool,
}

/// Which copy to keep and which to take back.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Proposal {
    pub id: i64,
    pub site: String,
    pub study: String,
    pub subject: String,
    pub resource_type: String,
    pub key: String,
    pub state: ProposalState,
    pub keep: String,
    pub copies: Vec<HeldCopy>,
    pub proposed_ms: i64,
    pub accepted_by: Option<String>,
    pub accepted_ms: Option<i64>,
    pub finished_ms: Option<i64>,
    pub last_error: Option<String>,
}

const PROPOSAL_COLUMNS: &str =
    "SELECT proposal, site, study, subject, resource_type, written_key, state, keep_id, copies, proposed_ms, who, accepted_ms,
    finished_ms, last_error FROM proposals";

fn read_proposal(row: &Row) -> Result<Proposal, StoreError> {
    let unreadable = || StoreError::Broken("a merge proposal cannot be read: the store is damaged or of a newer program".into());
    Ok(Proposal {
        id: row.integer(0)?,
        site: row.string(1)?,
        study: row.string(2)?,
        subject: row.string(3)?,
        resource_type: row.string(4)?,
        key: row.string(5)?,
        state: ProposalState::from_word(row.text(6)?).ok_or_else(unreadable)?,
        keep: row.string(7)?,
        copies: serde_json::from_str(row.text(8)?).map_err(|_| unreadable())?,
        proposed_ms: row.integer(9)?,
        accepted_by: row.optional_string(10)?,
        accepted_ms: row.optional_integer(11)?,
        finished_ms: row.optional_integer(12)?,
        last_error: row.optional_string(13)?,
    })
}

/// What a sweep proposes.
pub struct NewProposal<'a> {
    pub site: &'a str,
    pub study: &'a str,
    pub subject: &'a str,
    pub resource_type: &'a str,
    pub key: &'a str,
    pub keep: &'a str,
    pub copies: &'a [HeldCopy],
}

const SQL_PROPOSE_ANEW: &str = "UPDATE proposals SET keep_id = $1, copies = $2 WHERE site = $3 AND written_key = $4 AND state = 'proposed'";
const SQL_PROPOSE: &str = "INSERT INTO proposals (site, study, subject, resource_type, written_key, state, keep_id, copies, proposed_ms)
    VALUES ($1, $2, $3, $4, $5, 'proposed', $6, $7, $8) ON CONFLICT DO NOTHING";

/// Proposes a merge, or brings an open proposal of the key up to date; one that was accepted stays as it is.
pub fn propose(tx: &mut Tx<'_>, new: &NewProposal<'_>, now_ms: i64) -> Result<(), StoreError> {
    let copies = serde_json::to_string(new.copies).expect("copies are plain data");
    if 0 < tx.execute(SQL_PROPOSE_ANEW, &[new.keep.into(), copies.as_str().into(), new.site.into(), new.key.into()])? {
        return Ok(());
    }
    let params: [Bind<'_>; 8] = [
        new.site.into(),
        new.study.into(),
        new.subject.into(),
        new.resource_type.into(),
        new.key.into(),
        new.keep.into(),
        copies.as_str().into(),
        now_ms.into(),
    ];
    tx.execute(SQL_PROPOSE, &params).map(drop)
}

/// Proposals of a site in these states, newest first.
pub fn proposals(tx: &mut Tx<'_>, site: &str, states: &[ProposalState]) -> Result<Vec<Proposal>, StoreError> {
    let sql = format!("{PROPOSAL_COLUMNS} WHERE site = $1 ORDER BY proposal DESC");
    let all: Vec<Proposal> = tx.query(&sql, &[site.into()])?.iter().map(read_proposal).collect::<Result<_, _>>()?;
    Ok(all.into_iter().filter(|proposal| states.contains(&proposal.state)).collect())
}

/// One proposal by its number.
pub fn proposal(tx: &mut Tx<'_>, site: &str, id: i64) -> Result<Option<Proposal>, StoreError> {
    let row = tx.query_one(&format!("{PROPOSAL_COLUMNS} WHERE site = $1 AND proposal = $2"), &[site.into(), id.into()])?;
    row.as_ref().map(read_proposal).transpose()
}

const SQL_ACCEPT: &str =
    "UPDATE proposals SET state = 'accepted', keep_id = $1, who = $2, accepted_ms = $3 WHERE site = $4 AND proposal = $5 AND state = 'proposed'";

/// A named person accepts a proposal, perhaps with another copy to keep; `false` when it is not open any more.
pub fn accept(tx: &mut Tx<'_>, site: &str, id: i64, keep: &str, who: &str, now_ms: i64) -> Result<bool, StoreError> {
    Ok(tx.execute(SQL_ACCEPT, &[keep.into(), who.into(), now_ms.into(), site.into(), id.into()])? == 1)
}

const SQL_END_PROPOSAL: &str =
    "UPDATE proposals SET state = $1, finished_ms = $2, last_error = $3 WHERE proposal = $4 AND state IN ('proposed', 'accepted')";

/// Ends a proposal: done, failed or gone.
pub fn end_proposal(tx: &mut Tx<'_>, id: i64, state: ProposalState, now_ms: i64, error: Option<&str>) -> Result<(), StoreError> {
    tx.execute(SQL_END_PROPOSAL, &[state.word().into(), now_ms.into(), error.into(), id.into()]).map(drop)
}
