//! Which files an import has taken, so that a second run skips them and an interrupted one goes on where it stopped.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Bind, Row, StoreError, Tx};
use crate::issue::{Disposition, Issue};

/// How far one file was taken; committed with the messages it counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    pub bytes_done: i64,
    pub lines_done: i64,
    pub finished_ms: Option<i64>,
    pub outcome: Outcome,
}

/// What became of the messages of one file, over all runs that it took.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    #[serde(default)]
    pub received: u64,
    #[serde(default)]
    pub dispositions: BTreeMap<Disposition, u64>,
    /// The first rejected lines.
    #[serde(default)]
    pub rejected: Vec<RejectedLine>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectedLine {
    /// From 1; of a JSON document always 1.
    pub line: u64,
    pub issue: Issue,
}

/// Rejected lines that an outcome names.
const LINES_NAMED: usize = 50;

impl Outcome {
    /// Counts one message.
    pub fn add(&mut self, disposition: Disposition, rejected: impl FnOnce() -> RejectedLine) {
        self.received += 1;
        *self.dispositions.entry(disposition).or_default() += 1;
        if disposition == Disposition::Rejected && self.rejected.len() < LINES_NAMED {
            self.rejected.push(rejected());
        }
    }

    pub fn count(&self, disposition: Disposition) -> u64 {
        self.dispositions.get(&disposition).copied().unwrap_or(0)
    }
}

const SQL_PROGRESS: &str = "SELECT bytes_done, lines_done, finished_ms, outcome FROM imports WHERE site = $1 AND file_hash = $2";

/// How far a file with these bytes was taken into this site before.
pub fn progress(tx: &mut Tx<'_>, site: &str, file_hash: &str) -> Result<Option<Progress>, StoreError> {
    let row = tx.query_one(SQL_PROGRESS, &[site.into(), file_hash.into()])?;
    row.map(|row| {
        Ok(Progress { bytes_done: row.integer(0)?, lines_done: row.integer(1)?, finished_ms: row.optional_integer(2)?, outcome: outcome(&row)? })
    })
    .transpose()
}

fn outcome(row: &Row) -> Result<Outcome, StoreError> {
    serde_json::from_str(row.text(3)?).map_err(|_| StoreError::Broken("what became of an imported file cannot be read".into()))
}

const SQL_ADVANCE: &str =
    "INSERT INTO imports (site, file_hash, bytes, bytes_done, lines_done, started_ms, finished_ms, outcome) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
    ON CONFLICT (site, file_hash) DO UPDATE SET bytes_done = excluded.bytes_done, lines_done = excluded.lines_done, finished_ms = excluded.finished_ms,
        outcome = excluded.outcome";

pub fn advance(tx: &mut Tx<'_>, site: &str, file_hash: &str, bytes: i64, now_ms: i64, progress: &Progress) -> Result<(), StoreError> {
    let outcome = serde_json::to_string(&progress.outcome).expect("counts and issues are plain data");
    let params: [Bind<'_>; 8] = [
        site.into(),
        file_hash.into(),
        bytes.into(),
        progress.bytes_done.into(),
        progress.lines_done.into(),
        now_ms.into(),
        progress.finished_ms.into(),
        outcome.as_str().into(),
    ];
    tx.execute(SQL_ADVANCE, &params).map(drop)
}

const SQL_FORGET: &str = "DELETE FROM imports WHERE site = $1 AND file_hash = $2";

/// Forgets that a file was taken, so that it is taken anew when it comes again.
pub fn forget(tx: &mut Tx<'_>, site: &str, file_hash: &str) -> Result<(), StoreError> {
    tx.execute(SQL_FORGET, &[site.into(), file_hash.into()]).map(drop)
}
