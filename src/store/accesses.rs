//! Who looked at, or changed, a subject's data, and when.

use super::{StoreError, Tx};

const SQL_ACCESS: &str = "INSERT INTO accesses (at_ms, who, action, site, subject, study) VALUES ($1, $2, $3, $4, $5, $6)";

/// Records that somebody looked at, or changed, a subject's data (rulings.md 18).
pub fn record(tx: &mut Tx<'_>, now_ms: i64, who: &str, action: &str, site: &str, subject: &str, study: &str) -> Result<(), StoreError> {
    tx.execute(SQL_ACCESS, &[now_ms.into(), who.into(), action.into(), site.into(), subject.into(), study.into()]).map(drop)
}

/// One line of the record of who looked.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Access {
    pub at_ms: i64,
    pub who: String,
    pub action: String,
    pub site: String,
    pub subject: String,
    pub study: String,
}

const SQL_ACCESSES: &str =
    "SELECT at_ms, who, action, site, subject, study FROM accesses WHERE site = $1 AND subject = $2 ORDER BY access DESC LIMIT 500";

/// Who looked at, or changed, one subject's data, newest first, at most 500.
pub fn of_subject(tx: &mut Tx<'_>, site: &str, subject: &str) -> Result<Vec<Access>, StoreError> {
    tx.query(SQL_ACCESSES, &[site.into(), subject.into()])?
        .iter()
        .map(|row| {
            Ok(Access {
                at_ms: row.integer(0)?,
                who: row.string(1)?,
                action: row.string(2)?,
                site: row.string(3)?,
                subject: row.string(4)?,
                study: row.string(5)?,
            })
        })
        .collect()
}
