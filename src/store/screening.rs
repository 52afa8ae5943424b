//! Verdicts, in full and as a list that can be asked: one current row per (site, subject, study), every earlier one kept.

use std::collections::BTreeMap;

use serde::Serialize;

use super::ledger::hash_number;
use super::versions::{self, Audience, Change};
use super::{Bind, Row, StoreError, Tx, body, outbox};
use crate::digest::sha256_hex;
use crate::rules::{Assessment, Role, SubjectState};
use crate::writeback::telling::Telling;
use crate::writeback::{WriteBack, research_subject_status};

/// One study's judgement of a subject, ready to be kept.
pub struct Verdict {
    assessment: Assessment,
    why: String,
    egfr_date: Option<String>,
    /// SHA-256 of all but the as-of date.
    content_hash: String,
    packed: Vec<u8>,
    /// What the site's EHR may be told.
    telling: Telling,
}

impl Verdict {
    /// Packs an assessment; the costly part, done outside the transaction. Its EHR is told nothing, unless [`Verdict::told`] says so.
    pub fn new(assessment: Assessment) -> Verdict {
        let timeless = Assessment { as_of_ms: 0, ..assessment };
        let text = serde_json::to_vec(&timeless).expect("an assessment is plain data");
        Verdict {
            why: timeless.why(),
            egfr_date: egfr_date(&timeless),
            content_hash: sha256_hex(&text),
            packed: body::pack_plain(&text),
            assessment: timeless,
            telling: Telling::Nothing,
        }
    }

    pub fn told(self, telling: Telling) -> Verdict {
        Verdict { telling, ..self }
    }
}

/// What was judged about one subject, with the requests it leads to.
pub struct Judged {
    pub site: String,
    pub subject: String,
    /// Of the facts that were judged.
    pub revision: i64,
    pub mapping_hash: String,
    pub verdicts: Vec<Verdict>,
    pub plans: Vec<Plan>,
}

/// What must be sent for one study.
pub struct Plan {
    pub study: String,
    /// The receiver is in shadow and nobody released this study there.
    pub shadow: bool,
    pub requests: Vec<WriteBack>,
}

/// The date of the result whose eGFR counts, as it was written.
fn egfr_date(assessment: &Assessment) -> Option<String> {
    assessment.egfr?;
    let evidence = assessment.criteria.iter().flat_map(|criterion| &criterion.evidence);
    let used = evidence.filter(|evidence| evidence.role == Role::Used && evidence.egfr == assessment.egfr).find_map(|evidence| evidence.date.clone());
    used.or_else(|| assessment.series.last().map(|point| point.date.clone()))
}

const SQL_JUDGED: &str = "UPDATE subjects SET waiting_ms = NULL, judged_ms = $1 WHERE site = $2 AND subject = $3 AND revision = $4";
const SQL_BEFORE: &str =
    "SELECT s.judgement, s.prescreen, s.eligibility, s.state, s.changed_ms, s.changed_from, j.content_hash, j.study_hash, j.mapping
    FROM screening s JOIN judgements j ON j.judgement = s.judgement WHERE s.study = $1 AND s.site = $2 AND s.subject = $3";
const SQL_JUDGEMENT: &str =
    "INSERT INTO judgements (previous, site, subject, study, judged_ms, prescreen, eligibility, state, egfr, why, study_hash, mapping,
        content_hash, assessment)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) RETURNING judgement";
const SQL_SAME: &str = "UPDATE screening SET judged_ms = $1 WHERE study = $2 AND site = $3 AND subject = $4";
const SQL_LISTED: &str =
    "INSERT INTO screening (study, site, subject, judgement, judged_ms, prescreen, eligibility, state, egfr, egfr_date, why, missing,
        near_miss, hidden, changed_ms, changed_from)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
    ON CONFLICT (study, site, subject) DO UPDATE SET judgement = excluded.judgement, judged_ms = excluded.judged_ms, prescreen = excluded.prescreen,
        eligibility = excluded.eligibility, state = excluded.state, egfr = excluded.egfr, egfr_date = excluded.egfr_date, why = excluded.why,
        missing = excluded.missing, near_miss = excluded.near_miss, hidden = excluded.hidden, changed_ms = excluded.changed_ms,
        changed_from = excluded.changed_from";

/// Records a judgement with the requests it leads to, in one transaction, and clears the subject's waiting mark.
/// Answers `false`, changing nothing, when the chart has changed since `revision` (judge again).
/// The history gets a row only when the judgement differs from the last one in more than its as-of date.
pub fn record(tx: &mut Tx<'_>, now_ms: i64, judged: &Judged) -> Result<bool, StoreError> {
    Ok(record_all(tx, now_ms, [judged])? == 1)
}

/// As [`record`], for many; answers how many were recorded. What others see of them is numbered at the end.
pub fn record_all<'j>(tx: &mut Tx<'_>, now_ms: i64, all: impl IntoIterator<Item = &'j Judged>) -> Result<usize, StoreError> {
    let mut recorded = 0;
    let mut changes = Vec::new();
    for judged in all {
        recorded += usize::from(record_one(tx, now_ms, judged, &mut changes)?);
    }
    versions::add(tx, now_ms, &changes)?;
    Ok(recorded)
}

fn record_one(tx: &mut Tx<'_>, now_ms: i64, judged: &Judged, changes: &mut Vec<Change>) -> Result<bool, StoreError> {
    let (site, subject) = (judged.site.as_str(), judged.subject.as_str());
    if tx.execute(SQL_JUDGED, &[now_ms.into(), site.into(), subject.into(), judged.revision.into()])? == 0 {
        return Ok(false);
    }
    let mapping = hash_number(tx, &judged.mapping_hash)?;
    for verdict in &judged.verdicts {
        let (judgement, is_first) = record_verdict(tx, now_ms, site, subject, mapping, verdict)?;
        changes_of(tx, site, subject, verdict, judgement, is_first, changes)?;
    }
    for plan in &judged.plans {
        outbox::enqueue(tx, site, subject, &plan.study, plan.shadow, now_ms, &plan.requests)?;
    }
    Ok(true)
}

/// What each audience sees differently from now on.
fn changes_of(
    tx: &mut Tx<'_>,
    site: &str,
    subject: &str,
    verdict: &Verdict,
    judgement: i64,
    is_first: bool,
    changes: &mut Vec<Change>,
) -> Result<(), StoreError> {
    let assessment = &verdict.assessment;
    let listed = research_subject_status(assessment.state, assessment.was_enrolled).filter(|_| assessment.hidden.is_none());
    for audience in [Audience::List, Audience::Ehr] {
        // Who was never judged was never seen.
        let resource = versions::resource_id(&assessment.study, subject);
        let before = if is_first { None } else { versions::newest(tx, audience, site, &resource)? };
        let stands = before.as_ref().is_some_and(|before| before.is_standing);
        let from = before.and_then(|before| before.status);
        let (to, is_standing) = match (audience, verdict.telling) {
            (Audience::List, _) => (listed, listed.is_some()),
            (Audience::Ehr, Telling::Stands(status)) => (Some(status), true),
            (Audience::Ehr, Telling::Follows(status)) if stands => (Some(status), true),
            (Audience::Ehr, Telling::Closes(status)) if stands => (Some(status), false),
            (Audience::Ehr, Telling::Gone) => (None, false),
            (Audience::Ehr, Telling::Nothing | Telling::Follows(_) | Telling::Closes(_)) => continue,
        };
        if from.as_deref() != to || stands != is_standing {
            changes.push(Change {
                audience,
                site: site.to_owned(),
                study: assessment.study.clone(),
                subject: subject.to_owned(),
                from,
                to: to.map(str::to_owned),
                is_standing,
                judgement,
            });
        }
    }
    Ok(())
}

/// Answers the number of the judgement that stands now, and whether it is the first one.
fn record_verdict(tx: &mut Tx<'_>, now_ms: i64, site: &str, subject: &str, mapping: i64, verdict: &Verdict) -> Result<(i64, bool), StoreError> {
    let Verdict { assessment, why, egfr_date, content_hash, packed, telling: _ } = verdict;
    let study = assessment.study.as_str();
    let study_hash = hash_number(tx, &assessment.study_hash)?;
    let (prescreen, eligibility) = (assessment.prescreen.word(), assessment.eligibility.word());
    let state = word_of(&assessment.state);
    let before = tx.query_one(SQL_BEFORE, &[study.into(), site.into(), subject.into()])?;
    if let Some(before) = &before
        && before.text(6)? == content_hash
        && before.integer(7)? == study_hash
        && before.integer(8)? == mapping
    {
        tx.execute(SQL_SAME, &[now_ms.into(), study.into(), site.into(), subject.into()])?;
        return Ok((before.integer(0)?, false));
    }
    let (previous, changed_ms, changed_from) = match &before {
        None => (None, now_ms, None),
        Some(before) => {
            let former =
                [("prescreen", before.text(1)?, prescreen), ("state", before.text(3)?, &state), ("eligibility", before.text(2)?, eligibility)];
            let change = former.into_iter().find(|(_, from, to)| from != to).map(|(what, from, _)| format!("{what} {from}"));
            match change {
                Some(change) => (Some(before.integer(0)?), now_ms, Some(change)),
                None => (Some(before.integer(0)?), before.integer(4)?, before.optional_string(5)?),
            }
        }
    };
    let params: [Bind<'_>; 14] = [
        previous.into(),
        site.into(),
        subject.into(),
        study.into(),
        now_ms.into(),
        prescreen.into(),
        eligibility.into(),
        state.as_str().into(),
        assessment.egfr.into(),
        why.as_str().into(),
        study_hash.into(),
        mapping.into(),
        content_hash.as_str().into(),
        packed.as_slice().into(),
    ];
    let judgement = tx.query_one(SQL_JUDGEMENT, &params)?.ok_or_else(|| StoreError::Broken("a judgement got no number".into()))?.integer(0)?;
    let missing = spaced(&assessment.missing);
    let hidden = assessment.hidden.as_ref().map(word_of);
    let params: [Bind<'_>; 16] = [
        study.into(),
        site.into(),
        subject.into(),
        judgement.into(),
        now_ms.into(),
        prescreen.into(),
        eligibility.into(),
        state.as_str().into(),
        assessment.egfr.into(),
        egfr_date.as_ref().into(),
        why.as_str().into(),
        missing.as_str().into(),
        assessment.near_miss.is_some().into(),
        hidden.as_ref().into(),
        changed_ms.into(),
        changed_from.as_ref().into(),
    ];
    tx.execute(SQL_LISTED, &params)?;
    Ok((judgement, before.is_none()))
}

/// The word that a plain enum has in JSON.
fn word_of<T: Serialize>(value: &T) -> String {
    let text = serde_json::to_string(value).expect("a plain enum is a JSON string");
    text.trim_matches('"').to_owned()
}

/// Words with a blank on both sides of each, so that one can be found by ` word `.
fn spaced(words: &[String]) -> String {
    if words.is_empty() { String::new() } else { format!(" {} ", words.join(" ")) }
}

/// Filters of the screening list; `None` means any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListQuery {
    pub study: String,
    pub site: Option<String>,
    /// `met`, `not-met`, `unknown`.
    pub prescreen: Option<String>,
    pub state: Option<String>,
    /// Any of these states; empty means any.
    pub states: Vec<String>,
    /// A word of `Assessment::missing`.
    pub missing: Option<String>,
    /// Only near misses.
    pub near_miss: bool,
    pub sort: Sort,
    /// From 0.
    pub page: usize,
    /// Rows of a page; 0 means 50.
    pub limit: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    /// Newest change of verdict first.
    #[default]
    Changed,
    EgfrAscending,
    EgfrDescending,
    Subject,
}

/// One row of the list.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ListRow {
    pub site: String,
    pub subject: String,
    pub study: String,
    pub prescreen: String,
    pub eligibility: String,
    pub state: String,
    pub egfr: Option<f64>,
    /// Date of the result that counts, as written.
    pub egfr_date: Option<String>,
    /// The first sentence of why: the failing or unknown criteria.
    pub why: String,
    pub missing: Vec<String>,
    pub near_miss: bool,
    pub judged_ms: i64,
    /// When prescreen, eligibility or state last changed, and from what.
    pub changed_ms: i64,
    pub changed_from: Option<String>,
    /// The chart changed and the new judgement is not there yet.
    pub is_waiting: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ListPage {
    pub total: i64,
    pub rows: Vec<ListRow>,
    /// How many of this study and site are hidden, by reason word (rulings.md 17).
    pub hidden: BTreeMap<String, i64>,
    /// How many are listed, by prescreen word.
    pub counts: BTreeMap<String, i64>,
}

const ROW_COLUMNS: &str =
    "SELECT s.site, s.subject, s.study, s.prescreen, s.eligibility, s.state, s.egfr, s.egfr_date, s.why, s.missing, s.near_miss,
    s.judged_ms, s.changed_ms, s.changed_from, CASE WHEN p.waiting_ms IS NULL THEN 0 ELSE 1 END
    FROM screening s JOIN subjects p ON p.site = s.site AND p.subject = s.subject";

fn read_list_row(row: &Row) -> Result<ListRow, StoreError> {
    Ok(ListRow {
        site: row.string(0)?,
        subject: row.string(1)?,
        study: row.string(2)?,
        prescreen: row.string(3)?,
        eligibility: row.string(4)?,
        state: row.string(5)?,
        egfr: row.optional_real(6)?,
        egfr_date: row.optional_string(7)?,
        why: row.string(8)?,
        missing: row.text(9)?.split_whitespace().map(str::to_owned).collect(),
        near_miss: row.integer(10)? == 1,
        judged_ms: row.integer(11)?,
        changed_ms: row.integer(12)?,
        changed_from: row.optional_string(13)?,
        is_waiting: row.integer(14)? == 1,
    })
}

/// The filters, each off where its parameter is empty.
const LISTED: &str = "s.study = $1 AND ($2 = '' OR s.site = $2) AND s.hidden IS NULL AND ($3 = '' OR s.prescreen = $3)
    AND ($4 = '' OR $4 LIKE '% ' || s.state || ' %') AND ($5 = '' OR s.missing LIKE '% ' || $5 || ' %') AND ($6 = 0 OR s.near_miss = $6)";
const SQL_HIDDEN: &str = "SELECT hidden, COUNT(*) FROM screening WHERE study = $1 AND ($2 = '' OR site = $2) AND hidden IS NOT NULL GROUP BY hidden";
const SQL_COUNTS: &str =
    "SELECT prescreen, COUNT(*) FROM screening WHERE study = $1 AND ($2 = '' OR site = $2) AND hidden IS NULL GROUP BY prescreen";

pub fn list(tx: &mut Tx<'_>, query: &ListQuery) -> Result<ListPage, StoreError> {
    let site = query.site.as_deref().unwrap_or("");
    let states: Vec<String> = query.states.iter().chain(&query.state).cloned().collect();
    let states = spaced(&states);
    let filters: [Bind<'_>; 6] = [
        query.study.as_str().into(),
        site.into(),
        query.prescreen.as_deref().unwrap_or("").into(),
        states.as_str().into(),
        query.missing.as_deref().unwrap_or("").into(),
        query.near_miss.into(),
    ];
    let total = tx.query_one(&format!("SELECT COUNT(*) FROM screening s WHERE {LISTED}"), &filters)?.map_or(Ok(0), |row| row.integer(0))?;
    // NULLs sort first on SQLite and last on PostgreSQL, so the order says it.
    let order = match query.sort {
        Sort::Changed => "s.changed_ms DESC, s.site, s.subject",
        Sort::EgfrAscending => "CASE WHEN s.egfr IS NULL THEN 1 ELSE 0 END, s.egfr, s.site, s.subject",
        Sort::EgfrDescending => "CASE WHEN s.egfr IS NULL THEN 1 ELSE 0 END, s.egfr DESC, s.site, s.subject",
        Sort::Subject => "s.subject, s.site",
    };
    let limit = if query.limit == 0 { 50 } else { query.limit };
    let offset = i64::try_from(query.page.saturating_mul(limit)).unwrap_or(i64::MAX);
    let mut params = filters.to_vec();
    params.extend([Bind::Integer(i64::try_from(limit).unwrap_or(i64::MAX)), Bind::Integer(offset)]);
    let rows = tx.query(&format!("{ROW_COLUMNS} WHERE {LISTED} ORDER BY {order} LIMIT $7 OFFSET $8"), &params)?;
    let count = |tx: &mut Tx<'_>, sql: &str| -> Result<BTreeMap<String, i64>, StoreError> {
        tx.query(sql, &[query.study.as_str().into(), site.into()])?.iter().map(|row| Ok((row.string(0)?, row.integer(1)?))).collect()
    };
    Ok(ListPage {
        total,
        rows: rows.iter().map(read_list_row).collect::<Result<_, _>>()?,
        hidden: count(tx, SQL_HIDDEN)?,
        counts: count(tx, SQL_COUNTS)?,
    })
}

const SQL_MAY_HAVE_ENTERED: &str =
    "SELECT p.site, p.subject FROM subjects p LEFT JOIN screening s ON s.study = $1 AND s.site = p.site AND s.subject = p.subject
    WHERE ($2 = '' OR p.site = $2) AND (p.waiting_ms IS NOT NULL OR $3 LIKE '% ' || s.state || ' %') ORDER BY p.site, p.subject";

/// States of those who entered, or may have before they withdrew or died.
const STATES_AFTER_ENTRY: [SubjectState; 6] =
    [SubjectState::Enrolled, SubjectState::OnFollowUp, SubjectState::Completed, SubjectState::Lost, SubjectState::Withdrawn, SubjectState::Deceased];

/// Subjects who may have entered a study, the hidden ones too, in order of site and subject; whether they did, their facts say.
/// Whoever waits to be judged may have entered since.
pub fn may_have_entered(tx: &mut Tx<'_>, study: &str, site: Option<&str>) -> Result<Vec<(String, String)>, StoreError> {
    let states = spaced(&STATES_AFTER_ENTRY.map(|state| state.word().to_owned()));
    let params: [Bind<'_>; 3] = [study.into(), site.unwrap_or("").into(), states.as_str().into()];
    tx.query(SQL_MAY_HAVE_ENTERED, &params)?.iter().map(|row| Ok((row.string(0)?, row.string(1)?))).collect()
}

/// The current judgement of one subject and the earlier ones, newest first.
pub struct Card {
    pub row: ListRow,
    pub assessment: Assessment,
    pub study_hash: String,
    pub mapping_hash: String,
    pub history: Vec<HistoryRow>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HistoryRow {
    pub judged_ms: i64,
    pub prescreen: String,
    pub eligibility: String,
    pub state: String,
    pub egfr: Option<f64>,
    pub why: String,
    pub study_hash: String,
    pub mapping_hash: String,
}

const SQL_CARD: &str = "SELECT j.assessment, h.hash, m.hash, s.judgement, s.judged_ms FROM screening s JOIN judgements j ON j.judgement = s.judgement
    JOIN hashes h ON h.number = j.study_hash JOIN hashes m ON m.number = j.mapping WHERE s.study = $1 AND s.site = $2 AND s.subject = $3";
const SQL_HISTORY: &str = "WITH RECURSIVE chain (judgement) AS (
        SELECT previous FROM judgements WHERE judgement = $1
        UNION ALL SELECT j.previous FROM judgements j JOIN chain c ON j.judgement = c.judgement)
    SELECT j.judged_ms, j.prescreen, j.eligibility, j.state, j.egfr, j.why, h.hash, m.hash FROM chain c JOIN judgements j ON j.judgement = c.judgement
    JOIN hashes h ON h.number = j.study_hash JOIN hashes m ON m.number = j.mapping ORDER BY j.judgement DESC";

/// Hidden subjects have a card too; the list does not lead to it.
pub fn card(tx: &mut Tx<'_>, site: &str, subject: &str, study: &str) -> Result<Option<Card>, StoreError> {
    let key: [Bind<'_>; 3] = [study.into(), site.into(), subject.into()];
    let Some(current) = tx.query_one(SQL_CARD, &key)? else { return Ok(None) };
    let row = tx.query_one(&format!("{ROW_COLUMNS} WHERE s.study = $1 AND s.site = $2 AND s.subject = $3"), &key)?;
    let row = row.ok_or_else(|| StoreError::Broken("a subject is listed and not in the ledger".into()))?;
    let unreadable = || StoreError::Broken("a judgement cannot be read: the store is damaged or of a newer program".into());
    let text = body::unpack(current.optional_blob(0)?.ok_or_else(unreadable)?)?;
    let mut assessment: Assessment = serde_json::from_slice(&text).map_err(|_| unreadable())?;
    assessment.as_of_ms = current.integer(4)?;
    let history = tx
        .query(SQL_HISTORY, &[current.integer(3)?.into()])?
        .iter()
        .map(|row| {
            Ok(HistoryRow {
                judged_ms: row.integer(0)?,
                prescreen: row.string(1)?,
                eligibility: row.string(2)?,
                state: row.string(3)?,
                egfr: row.optional_real(4)?,
                why: row.string(5)?,
                study_hash: row.string(6)?,
                mapping_hash: row.string(7)?,
            })
        })
        .collect::<Result<_, StoreError>>()?;
    Ok(Some(Card { row: read_list_row(&row)?, assessment, study_hash: current.string(1)?, mapping_hash: current.string(2)?, history }))
}

/// One judgement as it was kept.
pub struct Judgement {
    pub number: i64,
    pub subject: String,
    pub assessment: Assessment,
    pub mapping_hash: String,
}

const SQL_JUDGEMENT_OF: &str =
    "SELECT j.judgement, j.subject, j.assessment, m.hash, j.judged_ms FROM judgements j JOIN hashes m ON m.number = j.mapping
    WHERE j.judgement = $1";

/// A judgement by its number.
pub fn judgement(tx: &mut Tx<'_>, number: i64) -> Result<Option<Judgement>, StoreError> {
    let Some(row) = tx.query_one(SQL_JUDGEMENT_OF, &[number.into()])? else { return Ok(None) };
    let unreadable = || StoreError::Broken("a judgement cannot be read: the store is damaged or of a newer program".into());
    let text = body::unpack(row.optional_blob(2)?.ok_or_else(unreadable)?)?;
    let assessment: Assessment = serde_json::from_slice(&text).map_err(|_| unreadable())?;
    let assessment = Assessment { as_of_ms: row.integer(4)?, ..assessment };
    Ok(Some(Judgement { number: row.integer(0)?, subject: row.string(1)?, assessment, mapping_hash: row.string(3)? }))
}

const SQL_JUDGEMENT_AT: &str = "WITH RECURSIVE chain (judgement) AS (
        SELECT judgement FROM screening WHERE study = $1 AND site = $2 AND subject = $3
        UNION ALL SELECT j.previous FROM judgements j JOIN chain c ON j.judgement = c.judgement WHERE j.previous IS NOT NULL)
    SELECT c.judgement FROM chain c JOIN judgements j ON j.judgement = c.judgement WHERE j.judged_ms <= $4 ORDER BY c.judgement DESC LIMIT 1";

/// The judgement that stood at a time.
pub fn judgement_at(tx: &mut Tx<'_>, site: &str, subject: &str, study: &str, at_ms: i64) -> Result<Option<Judgement>, StoreError> {
    match tx.query_one(SQL_JUDGEMENT_AT, &[study.into(), site.into(), subject.into(), at_ms.into()])? {
        Some(row) => judgement(tx, row.integer(0)?),
        None => Ok(None),
    }
}

const SQL_JUDGED_BEFORE: &str =
    "SELECT site, subject FROM subjects WHERE judged_ms < $1 AND judged_ms IS NOT NULL ORDER BY judged_ms, site, subject LIMIT $2";

/// Subjects whose judgement is older than this, for the daily judgement as of now.
pub fn judged_before(tx: &mut Tx<'_>, before_ms: i64, limit: usize) -> Result<Vec<(String, String)>, StoreError> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    tx.query(SQL_JUDGED_BEFORE, &[before_ms.into(), limit.into()])?.iter().map(|row| Ok((row.string(0)?, row.string(1)?))).collect()
}
