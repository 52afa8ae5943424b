//! What is known of each receiver beside its contract: what its server declared, the rung it is written to, what it was
//! found to do. (`circuit` keeps until when it asked for silence.)

use super::{Bind, StoreError, Tx};
use crate::writeback::ladder::{Declared, Finding, FindingKind, Ladder};

/// What is kept of one receiver.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kept {
    /// `None` before its CapabilityStatement was read.
    pub declared: Option<Declared>,
    pub declared_ms: Option<i64>,
    /// `None` before it was chosen.
    pub ladder: Option<Ladder>,
    pub ladder_ms: Option<i64>,
    /// It asked for silence until then; 0: it did not.
    pub quiet_until_ms: i64,
}

const SQL_KEPT: &str = "SELECT declared, declared_ms, ladder, ladder_ms, quiet_until_ms FROM receivers WHERE site = $1";

/// What is kept of a site's receiver; empty where nothing is.
pub fn kept(tx: &mut Tx<'_>, site: &str) -> Result<Kept, StoreError> {
    let Some(row) = tx.query_one(SQL_KEPT, &[site.into()])? else { return Ok(Kept::default()) };
    Ok(Kept {
        declared: read(row.text(0)?)?,
        declared_ms: row.optional_integer(1)?,
        ladder: read(row.text(2)?)?,
        ladder_ms: row.optional_integer(3)?,
        quiet_until_ms: row.integer(4)?,
    })
}

fn read<T: serde::de::DeserializeOwned>(json: &str) -> Result<Option<T>, StoreError> {
    if json.is_empty() {
        return Ok(None);
    }
    serde_json::from_str(json).map(Some).map_err(|_| StoreError::Broken("what is kept of a receiver cannot be read".into()))
}

const SQL_KEEP_DECLARED: &str = "INSERT INTO receivers (site, declared, declared_ms, ladder, ladder_ms, quiet_until_ms)
    VALUES ($1, $2, $3, '', NULL, 0) ON CONFLICT (site) DO UPDATE SET declared = excluded.declared, declared_ms = excluded.declared_ms";

/// Keeps what a server declared at `now_ms`.
pub fn keep_declared(tx: &mut Tx<'_>, site: &str, declared: &Declared, now_ms: i64) -> Result<(), StoreError> {
    let text = serde_json::to_string(declared).expect("plain data");
    tx.execute(SQL_KEEP_DECLARED, &[site.into(), text.as_str().into(), now_ms.into()]).map(drop)
}

const SQL_KEEP_LADDER: &str = "INSERT INTO receivers (site, declared, declared_ms, ladder, ladder_ms, quiet_until_ms)
    VALUES ($1, '', NULL, $2, $3, 0) ON CONFLICT (site) DO UPDATE SET ladder = excluded.ladder, ladder_ms = excluded.ladder_ms";

/// Keeps the ladder that was chosen at `now_ms`.
pub fn keep_ladder(tx: &mut Tx<'_>, site: &str, ladder: &Ladder, now_ms: i64) -> Result<(), StoreError> {
    let text = serde_json::to_string(ladder).expect("plain data");
    tx.execute(SQL_KEEP_LADDER, &[site.into(), text.as_str().into(), now_ms.into()]).map(drop)
}

const SQL_FINDINGS: &str = "SELECT resource_type, kind, detail, found_ms FROM findings WHERE site = $1 ORDER BY finding";

/// What a site's receiver was found to do, oldest first.
pub fn findings(tx: &mut Tx<'_>, site: &str) -> Result<Vec<Finding>, StoreError> {
    let rows = tx.query(SQL_FINDINGS, &[site.into()])?;
    rows.iter()
        .map(|row| {
            let kind = FindingKind::from_word(row.text(1)?);
            let kind = kind.ok_or_else(|| StoreError::Broken("a finding has a kind that this program does not know".into()))?;
            Ok(Finding { resource_type: row.string(0)?, kind, detail: row.string(2)?, found_ms: row.integer(3)? })
        })
        .collect()
}

const SQL_SAME_FINDING: &str =
    "UPDATE findings SET found_ms = $1 WHERE site = $2 AND resource_type = $3 AND kind = $4 AND detail = $5 AND found_ms <= $1";
const SQL_ADD_FINDING: &str = "INSERT INTO findings (site, resource_type, kind, detail, found_ms) VALUES ($1, $2, $3, $4, $5)";

/// Notes a finding; the same one made again only gets its new date.
pub fn add_finding(tx: &mut Tx<'_>, site: &str, finding: &Finding) -> Result<(), StoreError> {
    let Finding { resource_type, kind, detail, found_ms } = finding;
    let (kind, at) = (kind.word(), *found_ms);
    let same: [Bind<'_>; 5] = [at.into(), site.into(), resource_type.into(), kind.into(), detail.into()];
    if tx.execute(SQL_SAME_FINDING, &same)? == 0 {
        tx.execute(SQL_ADD_FINDING, &[site.into(), resource_type.into(), kind.into(), detail.into(), at.into()])?;
    }
    Ok(())
}

/// The revision moves, so that a judgement that is under way with the old ladder is made again.
const SQL_MARK: &str = "UPDATE subjects SET revision = revision + 1, waiting_ms = COALESCE(waiting_ms, $1) WHERE site = $2
    AND (subject IN (SELECT subject FROM outbox WHERE site = $2) OR subject IN (SELECT subject FROM screening WHERE site = $2 AND state <> 'none'))";

/// Marks as waiting whoever something was planned for at a site, or could be: they are judged and planned anew. Answers how many.
pub fn mark_subjects(tx: &mut Tx<'_>, site: &str, now_ms: i64) -> Result<u64, StoreError> {
    tx.execute(SQL_MARK, &[now_ms.into(), site.into()])
}
