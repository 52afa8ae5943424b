//! What was done with subjects' data, from the rows that were written when it was done: who looked and who changed, and what
//! the site's EHR answered to what was sent there.

use super::{Bind, StoreError, Tx};
use crate::writeback::WriteBack;

/// One thing that was done.
#[derive(Clone, Debug, PartialEq)]
pub struct Done {
    /// `access-12` or `attempt-7-2`.
    pub id: String,
    pub at_ms: i64,
    pub subject: String,
    pub study: String,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// Somebody looked at, or changed, what this gateway holds.
    Access { who: String, action: String },
    /// This gateway asked the EHR, and the EHR answered.
    Attempt { method: String, resource: String, status: i64 },
}

/// Which are looked for; what is empty means any.
#[derive(Clone, Debug, Default)]
pub struct Query {
    pub site: String,
    /// Not before, ms since 1970 UTC.
    pub from_ms: Option<i64>,
    /// Before.
    pub until_ms: Option<i64>,
    pub subject: String,
    pub who: String,
    /// From 0.
    pub page: usize,
    pub limit: usize,
}

// Attempts that got no answer may have changed nothing, and are on their item.
const SQL_DONE: &str = "SELECT at_ms, is_attempt, number, attempt, who, action, subject, study, request, server_id, status FROM (
        SELECT at_ms, CAST(0 AS BIGINT) AS is_attempt, access AS number, CAST(0 AS BIGINT) AS attempt, who, action, subject, study, '' AS request,
            '' AS server_id, CAST(0 AS BIGINT) AS status FROM accesses WHERE site = $1
        UNION ALL
        SELECT a.at_ms, CAST(1 AS BIGINT), a.item, a.attempt, 'nephrogate', '', o.subject, o.study, o.request, COALESCE(o.server_id, ''), a.status
            FROM attempts a JOIN outbox o ON o.item = a.item WHERE o.site = $1 AND a.status IS NOT NULL) AS done
    WHERE $2 <= at_ms AND at_ms < $3 AND ($4 = '' OR subject = $4) AND ($5 = '' OR who = $5)
    ORDER BY at_ms DESC, is_attempt, number DESC, attempt DESC LIMIT $6 OFFSET $7";

/// Newest first.
pub fn done(tx: &mut Tx<'_>, query: &Query) -> Result<Vec<Done>, StoreError> {
    let bound = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    let params: [Bind<'_>; 7] = [
        query.site.as_str().into(),
        query.from_ms.unwrap_or(i64::MIN).into(),
        query.until_ms.unwrap_or(i64::MAX).into(),
        query.subject.as_str().into(),
        query.who.as_str().into(),
        bound(query.limit).into(),
        bound(query.page.saturating_mul(query.limit)).into(),
    ];
    tx.query(SQL_DONE, &params)?
        .iter()
        .map(|row| {
            let number = row.integer(2)?;
            let (id, what) = if row.integer(1)? == 0 {
                (format!("access-{number}"), What::Access { who: row.string(4)?, action: row.string(5)? })
            } else {
                let request: WriteBack =
                    serde_json::from_str(row.text(8)?).map_err(|_| StoreError::Broken("a request in the outbox cannot be read".into()))?;
                let resource = match row.text(9)? {
                    "" => request.url.split('?').next().unwrap_or(&request.resource_type).to_owned(),
                    id => format!("{}/{id}", request.resource_type),
                };
                let what = What::Attempt { method: request.method, resource, status: row.integer(10)? };
                (format!("attempt-{number}-{}", row.integer(3)?), what)
            };
            Ok(Done { id, at_ms: row.integer(0)?, subject: row.string(6)?, study: row.string(7)?, what })
        })
        .collect()
}

/// What one written resource goes back to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenFrom {
    pub study: String,
    pub subject: String,
    pub planned_ms: i64,
    pub is_retraction: bool,
}

const SQL_WRITTEN_FROM: &str = "SELECT study, subject, created_ms, purpose, request FROM outbox
    WHERE site = $1 AND (server_id = $2 OR (written_key LIKE $3 || '%')) AND state IN ('sent', 'confirmed', 'degraded') ORDER BY item DESC";

/// What a resource in the EHR goes back to, by its type and id there: the newest request that was answered well.
pub fn written_from(tx: &mut Tx<'_>, site: &str, resource_type: &str, id: &str) -> Result<Option<WrittenFrom>, StoreError> {
    // Ids of our own are the begin of the key.
    let own = id.strip_prefix("ng-").filter(|rest| rest.len() == 48 && rest.bytes().all(|byte| byte.is_ascii_hexdigit())).unwrap_or("-");
    for row in tx.query(SQL_WRITTEN_FROM, &[site.into(), id.into(), own.into()])? {
        let request: WriteBack =
            serde_json::from_str(row.text(4)?).map_err(|_| StoreError::Broken("a request in the outbox cannot be read".into()))?;
        if request.resource_type == resource_type {
            return Ok(Some(WrittenFrom {
                study: row.string(0)?,
                subject: row.string(1)?,
                planned_ms: row.integer(2)?,
                is_retraction: row.text(3)? == "retract",
            }));
        }
    }
    Ok(None)
}
