//! Messages as they are read: counts that must add up, the quarantine, one message with its bytes, what became of it before.

use std::collections::{BTreeMap, HashMap};

use super::ledger::{Known, known_of, newest_of};
use super::{Row, StoreError, Tx, body};
use crate::issue::{Disposition, Issue};

/// Counts that must add up: received = applied + duplicate + superseded + quarantined + rejected + out-of-scope + echo.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Conservation {
    pub site: String,
    pub received: i64,
    /// By disposition word.
    pub dispositions: BTreeMap<String, i64>,
    /// received minus the sum; 0 or something is lost.
    pub difference: i64,
    /// Rows kept per disposition agree with the counts.
    pub rows_agree: bool,
    /// Out-of-scope and unmapped, by type and code, most frequent first, at most 500.
    pub codes: Vec<CodeCount>,
}

#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct CodeCount {
    pub disposition: String,
    pub resource_type: String,
    pub code: String,
    pub count: i64,
}

const SQL_RECEIVED: &str = "SELECT CAST(COALESCE(SUM(received), 0) AS BIGINT) FROM feeds WHERE site = $1";
const SQL_TALLIES: &str = "SELECT disposition, CAST(SUM(messages) AS BIGINT) FROM tallies WHERE site = $1 GROUP BY disposition";
const SQL_ROWS: &str = "SELECT disposition, COUNT(*) FROM messages WHERE site = $1 GROUP BY disposition";
const SQL_CODES: &str = "SELECT disposition, resource_type, code, CAST(SUM(messages) AS BIGINT) FROM tallies
    WHERE site = $1 AND code <> '' AND messages <> 0 GROUP BY disposition, resource_type, code ORDER BY 4 DESC, 1, 2, 3 LIMIT 500";

pub fn conservation(tx: &mut Tx<'_>, site: &str) -> Result<Conservation, StoreError> {
    let received = tx.query_one(SQL_RECEIVED, &[site.into()])?.map_or(Ok(0), |row| row.integer(0))?;
    let mut dispositions: BTreeMap<String, i64> = Disposition::ALL.iter().map(|disposition| (disposition.word().to_owned(), 0)).collect();
    for row in tx.query(SQL_TALLIES, &[site.into()])? {
        dispositions.insert(row.string(0)?, row.integer(1)?);
    }
    let mut rows: HashMap<String, i64> = HashMap::new();
    for row in tx.query(SQL_ROWS, &[site.into()])? {
        rows.insert(row.string(0)?, row.integer(1)?);
    }
    let rows_agree = Disposition::ALL.iter().all(|disposition| {
        let kept = rows.get(disposition.word()).copied().unwrap_or(0);
        let counted = dispositions[disposition.word()];
        match disposition {
            Disposition::Applied | Disposition::Superseded | Disposition::Quarantined | Disposition::Rejected | Disposition::Echo => kept == counted,
            Disposition::Duplicate => kept == 0,
            // Only what retires an earlier version has a row.
            Disposition::OutOfScope => kept <= counted,
        }
    });
    let codes = tx
        .query(SQL_CODES, &[site.into()])?
        .iter()
        .map(|row| Ok(CodeCount { disposition: row.string(0)?, resource_type: row.string(1)?, code: row.string(2)?, count: row.integer(3)? }))
        .collect::<Result<Vec<_>, StoreError>>()?;
    let difference = received - dispositions.values().sum::<i64>();
    Ok(Conservation { site: site.to_owned(), received, dispositions, difference, rows_agree, codes })
}

/// One message as kept.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Message {
    pub message: i64,
    pub site: String,
    pub feed: String,
    pub received_ms: i64,
    pub resource_type: String,
    pub id: Option<String>,
    pub version: Option<String>,
    pub subject: Option<String>,
    pub disposition: String,
    pub issues: Vec<Issue>,
    pub code: Option<String>,
    pub body_hash: String,
    pub mapping_hash: String,
    /// The HL7 v2 message that says this.
    pub derived_from: Option<i64>,
    /// The received bytes, where they are kept.
    #[serde(skip)]
    pub body: Option<Vec<u8>>,
}

const MESSAGE_COLUMNS: &str = "SELECT m.message, m.site, m.feed, m.received_ms, m.resource_type, m.resource_id, m.version, m.subject, m.disposition,
    m.issues, m.code, m.body_hash, h.hash, b.body, m.derived_from
    FROM messages m JOIN hashes h ON h.number = m.mapping LEFT JOIN bodies b ON b.message = m.message";

fn read_message(row: &Row) -> Result<Message, StoreError> {
    let issues = match row.optional_text(9)? {
        Some(text) => serde_json::from_str(text).map_err(|_| StoreError::Broken("the issues of a message cannot be read".into()))?,
        None => Vec::new(),
    };
    Ok(Message {
        message: row.integer(0)?,
        site: row.string(1)?,
        feed: row.string(2)?,
        received_ms: row.integer(3)?,
        resource_type: row.string(4)?,
        id: row.optional_string(5)?,
        version: row.optional_string(6)?,
        subject: row.optional_string(7)?,
        disposition: row.string(8)?,
        issues,
        code: row.optional_string(10)?,
        body_hash: row.string(11)?,
        mapping_hash: row.string(12)?,
        derived_from: row.optional_integer(14)?,
        body: row.optional_blob(13)?.map(body::unpack).transpose()?,
    })
}

const SQL_QUARANTINED: &str = "SELECT COUNT(*) FROM messages WHERE site = $1 AND disposition = 'quarantined'";

/// Quarantined messages, newest first, `page` from 0 of 100, with the total.
pub fn quarantine(tx: &mut Tx<'_>, site: &str, page: usize) -> Result<(Vec<Message>, i64), StoreError> {
    let total = tx.query_one(SQL_QUARANTINED, &[site.into()])?.map_or(Ok(0), |row| row.integer(0))?;
    let sql = format!("{MESSAGE_COLUMNS} WHERE m.site = $1 AND m.disposition = 'quarantined' ORDER BY m.message DESC LIMIT 100 OFFSET $2");
    let offset = i64::try_from(page.saturating_mul(100)).unwrap_or(i64::MAX);
    let rows = tx.query(&sql, &[site.into(), offset.into()])?;
    Ok((rows.iter().map(read_message).collect::<Result<_, _>>()?, total))
}

/// Quarantined messages behind `after` in order of their numbers, at most `limit`, to drive them anew.
pub fn quarantined_after(tx: &mut Tx<'_>, site: &str, after: i64, limit: i64) -> Result<Vec<Message>, StoreError> {
    let sql = format!("{MESSAGE_COLUMNS} WHERE m.site = $1 AND m.disposition = 'quarantined' AND m.message > $2 ORDER BY m.message LIMIT $3");
    tx.query(&sql, &[site.into(), after.into(), limit.into()])?.iter().map(read_message).collect()
}

pub fn message(tx: &mut Tx<'_>, site: &str, message: i64) -> Result<Option<Message>, StoreError> {
    let sql = format!("{MESSAGE_COLUMNS} WHERE m.message = $1 AND m.site = $2");
    tx.query_one(&sql, &[message.into(), site.into()])?.as_ref().map(read_message).transpose()
}

const SQL_DERIVED: &str =
    "SELECT message, resource_type, resource_id, disposition FROM messages WHERE site = $1 AND derived_from = $2 ORDER BY message";

/// A resource that an HL7 v2 message was found to say.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Derived {
    pub message: i64,
    pub resource_type: String,
    pub id: Option<String>,
    pub disposition: String,
}

/// What one message was found to say and nobody had said before.
pub fn derived(tx: &mut Tx<'_>, site: &str, message: i64) -> Result<Vec<Derived>, StoreError> {
    tx.query(SQL_DERIVED, &[site.into(), message.into()])?
        .iter()
        .map(|row| Ok(Derived { message: row.integer(0)?, resource_type: row.string(1)?, id: row.optional_string(2)?, disposition: row.string(3)? }))
        .collect()
}

/// The newest standing version of one received resource, for the FHIR read of what we mirror; `None` when it was never
/// seen or is withdrawn.
pub fn newest(tx: &mut Tx<'_>, site: &str, resource_type: &str, id: &str) -> Result<Option<Message>, StoreError> {
    let known = known_of(tx, site, resource_type, &[id])?.into_iter().map(|(_, known)| known).filter(Known::counts);
    let mut known: Vec<Known> = known.collect();
    // What messages stated of a Patient stands in for a record only where there is none.
    if known.iter().any(|known| !known.is_part) {
        known.retain(|known| !known.is_part);
    }
    let newest = newest_of(tx, site, known.into_iter())?;
    match newest {
        Some(newest) if !newest.is_withdrawal() => message(tx, site, newest.message),
        Some(_) | None => Ok(None),
    }
}

const SQL_RESOURCE_IDS: &str = "SELECT DISTINCT resource_id FROM messages WHERE site = $1 AND resource_type = $2 AND resource_id > $3
    AND disposition <> 'rejected' ORDER BY resource_id LIMIT $4";

/// Ids of one type that were ever received, in the database's own order, after one of them (empty: from the first). Some may be withdrawn.
pub fn resource_ids(tx: &mut Tx<'_>, site: &str, resource_type: &str, after: &str, limit: usize) -> Result<Vec<String>, StoreError> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    tx.query(SQL_RESOURCE_IDS, &[site.into(), resource_type.into(), after.into(), limit.into()])?.iter().map(|row| row.string(0)).collect()
}

/// An outcome that a redrive replaced.
#[derive(Clone, Debug, serde::Serialize)]
pub struct EarlierOutcome {
    pub replaced_ms: i64,
    pub disposition: String,
    pub issues: Vec<Issue>,
    pub mapping_hash: String,
}

const SQL_OUTCOMES: &str = "SELECT o.replaced_ms, o.disposition, o.issues, o.mapping_hash FROM outcomes o JOIN messages m ON m.message = o.message
    WHERE m.site = $1 AND o.message = $2 ORDER BY o.outcome";

/// The outcomes that a message had before its current one, oldest first.
pub fn outcomes(tx: &mut Tx<'_>, site: &str, message: i64) -> Result<Vec<EarlierOutcome>, StoreError> {
    tx.query(SQL_OUTCOMES, &[site.into(), message.into()])?
        .iter()
        .map(|row| {
            Ok(EarlierOutcome {
                replaced_ms: row.integer(0)?,
                disposition: row.string(1)?,
                issues: serde_json::from_str(row.text(2)?).map_err(|_| StoreError::Broken("the issues of a message cannot be read".into()))?,
                mapping_hash: row.string(3)?,
            })
        })
        .collect()
}

/// When each feed of a site last brought something.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Freshness {
    pub site: String,
    pub feed: String,
    pub last_received_ms: i64,
    pub received: i64,
}

const SQL_FRESHNESS: &str = "SELECT site, feed, last_received_ms, received FROM feeds WHERE $1 = '' OR site = $1 ORDER BY site, feed";

pub fn freshness(tx: &mut Tx<'_>, site: Option<&str>) -> Result<Vec<Freshness>, StoreError> {
    tx.query(SQL_FRESHNESS, &[site.unwrap_or("").into()])?
        .iter()
        .map(|row| Ok(Freshness { site: row.string(0)?, feed: row.string(1)?, last_received_ms: row.integer(2)?, received: row.integer(3)? }))
        .collect()
}
