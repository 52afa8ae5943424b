//! Versions of our ResearchSubjects: what each audience saw of a subject in a study, and from when on. They are
//! numbered in commit order and their times never go back, so whoever polls by either misses nothing.

use super::{Bind, Row, StoreError, Tx, subscriptions};
use crate::digest::sha256_hex;

/// Who sees what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Whoever reads the screening list.
    List,
    /// The site's EHR: what may be written there, no more.
    Ehr,
}

impl Audience {
    pub const fn word(self) -> &'static str {
        match self {
            Audience::List => "list",
            Audience::Ehr => "ehr",
        }
    }
}

/// One version of one ResearchSubject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubjectVersion {
    pub version: i64,
    pub at_ms: i64,
    pub study: String,
    pub subject: String,
    /// Id of the ResearchSubject.
    pub resource: String,
    /// R4 research-subject-status; `None`: from this version on it is no longer there.
    pub status: Option<String>,
    pub is_standing: bool,
    pub judgement: i64,
}

/// Id of our ResearchSubject: study and patient; where that is longer than an id may be, a hash of both.
pub fn resource_id(study: &str, subject: &str) -> String {
    let plain = format!("{study}.{subject}");
    if plain.len() <= 64 { plain } else { sha256_hex(plain.as_bytes()) }
}

/// A version to be: what one audience is to see from now on.
#[derive(Clone, Debug)]
pub struct Change {
    pub audience: Audience,
    pub site: String,
    pub study: String,
    pub subject: String,
    /// What it saw before; `None`: nothing.
    pub from: Option<String>,
    /// `None`: no longer there.
    pub to: Option<String>,
    pub is_standing: bool,
    pub judgement: i64,
}

const SQL_NEXT: &str = "UPDATE counters SET value = value + $1 WHERE name = 'subject-version' RETURNING value";
const SQL_TIME: &str = "UPDATE counters SET value = CASE WHEN value < $1 THEN $1 ELSE value END WHERE name = 'subject-version-ms' RETURNING value";
const SQL_ADD: &str = "INSERT INTO subject_versions (version, audience, site, resource, study, subject, at_ms, status, is_standing, judgement)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";

/// Records changes, and the events of whoever subscribed to them. Call it last in a transaction: from here to the commit nobody
/// else numbers anything, which keeps the numbers in commit order.
pub fn add(tx: &mut Tx<'_>, now_ms: i64, changes: &[Change]) -> Result<(), StoreError> {
    if changes.is_empty() {
        return Ok(());
    }
    let no_counter = || StoreError::Broken("the store has no counter of versions".into());
    let count = i64::try_from(changes.len()).unwrap_or(i64::MAX);
    let last = tx.query_one(SQL_NEXT, &[count.into()])?.ok_or_else(no_counter)?.integer(0)?;
    let at_ms = tx.query_one(SQL_TIME, &[now_ms.into()])?.ok_or_else(no_counter)?.integer(0)?;
    for (version, change) in (last - count + 1..).zip(changes) {
        let resource = resource_id(&change.study, &change.subject);
        let params: [Bind<'_>; 10] = [
            version.into(),
            change.audience.word().into(),
            change.site.as_str().into(),
            resource.as_str().into(),
            change.study.as_str().into(),
            change.subject.as_str().into(),
            at_ms.into(),
            change.to.as_deref().unwrap_or_default().into(),
            change.is_standing.into(),
            change.judgement.into(),
        ];
        tx.execute(SQL_ADD, &params)?;
        if change.audience == Audience::Ehr {
            subscriptions::note(tx, at_ms, version, change)?;
        }
    }
    Ok(())
}

const COLUMNS: &str = "SELECT v.version, v.at_ms, v.study, v.subject, v.resource, v.status, v.is_standing, v.judgement FROM subject_versions v";
const NEWEST: &str = "NOT EXISTS (SELECT 1 FROM subject_versions n WHERE n.audience = v.audience AND n.site = v.site AND n.resource = v.resource
    AND v.version < n.version)";

fn read_version(row: &Row) -> Result<SubjectVersion, StoreError> {
    Ok(SubjectVersion {
        version: row.integer(0)?,
        at_ms: row.integer(1)?,
        study: row.string(2)?,
        subject: row.string(3)?,
        resource: row.string(4)?,
        status: Some(row.string(5)?).filter(|status| !status.is_empty()),
        is_standing: row.integer(6)? == 1,
        judgement: row.integer(7)?,
    })
}

const SQL_NEWEST: &str = "WHERE v.audience = $1 AND v.site = $2 AND v.resource = $3 ORDER BY v.version DESC LIMIT 1";

/// The newest version of one ResearchSubject, also one that says that it is gone.
pub fn newest(tx: &mut Tx<'_>, audience: Audience, site: &str, resource: &str) -> Result<Option<SubjectVersion>, StoreError> {
    let sql = format!("{COLUMNS} {SQL_NEWEST}");
    tx.query_one(&sql, &[audience.word().into(), site.into(), resource.into()])?.as_ref().map(read_version).transpose()
}

const SQL_ONE: &str = "WHERE v.audience = $1 AND v.site = $2 AND v.version = $3";

/// One version by its number.
pub fn version(tx: &mut Tx<'_>, audience: Audience, site: &str, version: i64) -> Result<Option<SubjectVersion>, StoreError> {
    let sql = format!("{COLUMNS} {SQL_ONE}");
    tx.query_one(&sql, &[audience.word().into(), site.into(), version.into()])?.as_ref().map(read_version).transpose()
}

/// Which current versions are looked for; what is left empty means any.
#[derive(Clone, Debug, Default)]
pub struct Query {
    pub studies: Vec<String>,
    pub statuses: Vec<String>,
    pub subject: String,
    pub resource: String,
    /// Not before, ms since 1970 UTC.
    pub from_ms: Option<i64>,
    /// Before.
    pub until_ms: Option<i64>,
    /// Versions after this number.
    pub after: i64,
    pub limit: usize,
}

/// Current versions that are there, oldest change first, so that who follows the pages meets each change.
pub fn search(tx: &mut Tx<'_>, audience: Audience, site: &str, query: &Query) -> Result<Vec<SubjectVersion>, StoreError> {
    let sql = format!(
        "{COLUMNS} WHERE v.audience = $1 AND v.site = $2 AND $3 < v.version AND $4 <= v.at_ms AND v.at_ms < $5 AND v.status <> ''
            AND ($6 = '' OR $6 LIKE '% ' || v.study || ' %') AND ($7 = '' OR $7 LIKE '% ' || v.status || ' %') AND ($8 = '' OR v.subject = $8)
            AND ($9 = '' OR v.resource = $9) AND {NEWEST} ORDER BY v.version LIMIT $10"
    );
    let (studies, statuses) = (spaced(&query.studies), spaced(&query.statuses));
    let params: [Bind<'_>; 10] = [
        audience.word().into(),
        site.into(),
        query.after.into(),
        query.from_ms.unwrap_or(i64::MIN).into(),
        query.until_ms.unwrap_or(i64::MAX).into(),
        studies.as_str().into(),
        statuses.as_str().into(),
        query.subject.as_str().into(),
        query.resource.as_str().into(),
        i64::try_from(query.limit).unwrap_or(i64::MAX).into(),
    ];
    tx.query(&sql, &params)?.iter().map(read_version).collect()
}

/// All versions of one ResearchSubject, or of all of a site where `resource` is empty: newest first, not before `since_ms`, and
/// below the number `before`.
pub fn history(
    tx: &mut Tx<'_>,
    audience: Audience,
    site: &str,
    resource: &str,
    since_ms: i64,
    before: i64,
    limit: usize,
) -> Result<Vec<SubjectVersion>, StoreError> {
    let sql = format!(
        "{COLUMNS} WHERE v.audience = $1 AND v.site = $2 AND ($3 = '' OR v.resource = $3) AND $4 <= v.at_ms AND v.version < $5
            ORDER BY v.version DESC LIMIT $6"
    );
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let params: [Bind<'_>; 6] = [audience.word().into(), site.into(), resource.into(), since_ms.into(), before.into(), limit.into()];
    tx.query(&sql, &params)?.iter().map(read_version).collect()
}

/// Words with a blank on both sides of each, so that one can be found by ` word `.
fn spaced(words: &[String]) -> String {
    if words.is_empty() { String::new() } else { format!(" {} ", words.join(" ")) }
}
