//! CDS Hooks: whom a card may speak of, the alert budget of those who are shown cards, what came back, and the ids of
//! tokens that were used. Who was shown a card is kept as a keyed hash.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{StoreError, Tx, accesses, body};
use crate::digest::hex;
use crate::rules::Assessment;
use crate::writeback::keys;

/// Budgets are counted over this time.
const DAY_MS: i64 = 86_400_000;

/// How often people may be told; a study that speaks too often is no longer heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Budget {
    /// Cards that one user is shown in 24 hours, over all studies of the site.
    pub per_user_and_day: u32,
    /// Cards of one study at this site in 24 hours, over all users.
    pub per_study_and_day: u32,
    /// After so many cards about one patient that a user left without an answer or dismissed, that user is not told of this
    /// patient again.
    pub silent_after: u32,
}

impl Default for Budget {
    fn default() -> Budget {
        Budget { per_user_and_day: 5, per_study_and_day: 100, silent_after: 2 }
    }
}

/// Why a card was dismissed, as the card offers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverrideReason {
    NotNow,
    AlreadyKnown,
    NotSuitable,
    Declined,
    /// A reason of the client's own.
    Other,
}

impl OverrideReason {
    pub const ALL: [OverrideReason; 5] =
        [OverrideReason::NotNow, OverrideReason::AlreadyKnown, OverrideReason::NotSuitable, OverrideReason::Declined, OverrideReason::Other];

    pub const fn word(self) -> &'static str {
        match self {
            OverrideReason::NotNow => "not-now",
            OverrideReason::AlreadyKnown => "already-known",
            OverrideReason::NotSuitable => "not-suitable",
            OverrideReason::Declined => "declined",
            OverrideReason::Other => "other",
        }
    }

    /// Whether this user need not be told of this patient again.
    const fn is_final(self) -> bool {
        match self {
            OverrideReason::AlreadyKnown | OverrideReason::NotSuitable | OverrideReason::Declined => true,
            OverrideReason::NotNow | OverrideReason::Other => false,
        }
    }
}

/// What a user did with a card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Accepted,
    Overridden(Option<OverrideReason>),
}

impl Outcome {
    const fn word(self) -> &'static str {
        match self {
            Outcome::Accepted => ACCEPTED,
            Outcome::Overridden(_) => OVERRIDDEN,
        }
    }
}

const ACCEPTED: &str = "accepted";
const OVERRIDDEN: &str = "overridden";
/// The budget kept it back.
const SILENT: &str = "silent";

const SQL_FORGET_TOKENS: &str = "DELETE FROM token_ids WHERE expires_ms < $1";
const SQL_SPEND: &str = "INSERT INTO token_ids (issuer, jti, expires_ms) VALUES ($1, $2, $3) ON CONFLICT (issuer, jti) DO NOTHING";

/// Uses a token up, on all gateways of this store; `false` where it was used before.
pub fn spend_token(tx: &mut Tx<'_>, now_ms: i64, issuer: &str, jti: &str, expires_ms: i64) -> Result<bool, StoreError> {
    tx.execute(SQL_FORGET_TOKENS, &[now_ms.into()])?;
    Ok(tx.execute(SQL_SPEND, &[issuer.into(), jti.into(), expires_ms.into()])? == 1)
}

const SQL_KEY: &str = "SELECT value FROM meta WHERE name = 'hook-user-key'";
const SQL_SET_KEY: &str = "INSERT INTO meta (name, value) VALUES ('hook-user-key', $1) ON CONFLICT (name) DO NOTHING";

/// The key of the hashes of users: made once for a store, from the random bytes that the first caller brings.
pub fn user_key(tx: &mut Tx<'_>, random: &[u8; 32]) -> Result<[u8; 32], StoreError> {
    tx.execute(SQL_SET_KEY, &[(&hex(random)).into()])?;
    let row = tx.query_one(SQL_KEY, &[])?.ok_or_else(|| StoreError::Broken("the key of the users' hashes is gone".into()))?;
    let text = row.text(0)?;
    let byte = |at: usize| text.get(at * 2..at * 2 + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    let mut key = [0; 32];
    for (at, place) in key.iter_mut().enumerate() {
        *place = byte(at).ok_or_else(|| StoreError::Broken("the key of the users' hashes is not 64 hex digits".into()))?;
    }
    Ok(key)
}

/// One user of one client, as a hash.
pub fn hash_user(key: &[u8; 32], site: &str, client: &str, user: &str) -> String {
    keys::identifier(key, site, client, user, "hook-user")
}

/// Only who is a candidate now: listed, the prescreen met, nothing known against eligibility, and judged on all that is held.
const SQL_CANDIDATE: &str = "SELECT j.assessment FROM screening s JOIN judgements j ON j.judgement = s.judgement
    JOIN subjects p ON p.site = s.site AND p.subject = s.subject
    WHERE s.study = $1 AND s.site = $2 AND s.subject = $3 AND s.state = 'candidate' AND s.prescreen = 'met' AND s.eligibility <> 'not-met'
    AND s.hidden IS NULL AND p.waiting_ms IS NULL";

/// What is judged of a subject of whom a card may speak; `None` for everybody else.
pub fn candidate(tx: &mut Tx<'_>, study: &str, site: &str, subject: &str) -> Result<Option<Assessment>, StoreError> {
    let Some(row) = tx.query_one(SQL_CANDIDATE, &[study.into(), site.into(), subject.into()])? else { return Ok(None) };
    let unreadable = || StoreError::Broken("a judgement cannot be read: the store is damaged or of a newer program".into());
    let text = body::unpack(row.optional_blob(0)?.ok_or_else(unreadable)?)?;
    serde_json::from_slice(&text).map(Some).map_err(|_| unreadable())
}

/// Who asks about whom.
#[derive(Clone, Debug)]
pub struct Asking {
    pub study: String,
    pub site: String,
    pub subject: String,
    pub client: String,
    /// [`hash_user`].
    pub user: String,
}

impl Asking {
    /// As it stands in the record of who looked.
    pub fn who(&self) -> String {
        format!("{} user {}", self.client, &self.user[..12])
    }
}

const SQL_BEFORE: &str = "SELECT card, shown_ms, outcome, override_reason FROM cards
    WHERE site = $1 AND study = $2 AND subject = $3 AND hook_user = $4 ORDER BY shown_ms, card";
const SQL_OF_USER: &str =
    "SELECT COUNT(*) FROM cards WHERE site = $1 AND hook_user = $2 AND shown_ms > $3 AND (outcome IS NULL OR outcome <> 'silent')";
const SQL_OF_STUDY: &str = "SELECT COUNT(*) FROM cards WHERE site = $1 AND study = $2 AND shown_ms > $3 AND (outcome IS NULL OR outcome <> 'silent')";
const SQL_CARD: &str = "INSERT INTO cards (card, site, study, subject, client, hook_user, shown_ms, outcome, outcome_ms)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (card) DO NOTHING";

/// Spends the budget: the UUID of the card to show, which is the same when a chart is opened again within a day; `None` where
/// the user is better left alone. Both are recorded, and so is the look at the subject.
pub fn show(tx: &mut Tx<'_>, now_ms: i64, key: &[u8; 32], budget: &Budget, asking: &Asking) -> Result<Option<String>, StoreError> {
    let (site, study, subject, user) = (asking.site.as_str(), asking.study.as_str(), asking.subject.as_str(), asking.user.as_str());
    let before = tx.query(SQL_BEFORE, &[site.into(), study.into(), subject.into(), user.into()])?;
    let since_ms = now_ms - DAY_MS;
    let (mut shown, mut is_silent, mut was_silent_lately) = (0_i64, false, false);
    for row in &before {
        let is_lately = since_ms < row.integer(1)?;
        let reason = row.optional_text(3)?;
        match row.optional_text(2)? {
            Some(SILENT) => {
                was_silent_lately |= is_lately;
                continue;
            }
            Some(ACCEPTED) => is_silent = true,
            Some(_) => is_silent |= is_lately || OverrideReason::ALL.iter().any(|known| known.is_final() && reason == Some(known.word())),
            None if is_lately => {
                accesses::record(tx, now_ms, &asking.who(), ACTION, site, subject, study)?;
                return row.string(0).map(Some);
            }
            None => {}
        }
        shown += 1;
    }
    let count =
        |tx: &mut Tx<'_>, sql: &str, of: &str| tx.query_one(sql, &[site.into(), of.into(), since_ms.into()])?.map_or(Ok(0), |row| row.integer(0));
    let is_silent = is_silent
        || i64::from(budget.silent_after) <= shown
        || i64::from(budget.per_user_and_day) <= count(tx, SQL_OF_USER, user)?
        || i64::from(budget.per_study_and_day) <= count(tx, SQL_OF_STUDY, study)?;
    if is_silent && was_silent_lately {
        return Ok(None);
    }
    // Two gateways that are asked at once make the same card.
    let card = uuid(&keys::identifier(key, site, study, subject, &format!("card {user} {}", before.len())));
    let outcome = is_silent.then_some(SILENT);
    let outcome_ms = is_silent.then_some(now_ms);
    let params = [
        card.as_str().into(),
        site.into(),
        study.into(),
        subject.into(),
        asking.client.as_str().into(),
        user.into(),
        now_ms.into(),
        outcome.into(),
        outcome_ms.into(),
    ];
    tx.execute(SQL_CARD, &params)?;
    if is_silent {
        return Ok(None);
    }
    accesses::record(tx, now_ms, &asking.who(), ACTION, site, subject, study)?;
    Ok(Some(card))
}

/// In the record of who looked.
const ACTION: &str = "cds-hooks";

/// A UUID (RFC 9562, version 8: made from a hash) from at least 32 hex digits.
pub fn uuid(digits: &str) -> String {
    format!("{}-{}-8{}-a{}-{}", &digits[..8], &digits[8..12], &digits[13..16], &digits[17..20], &digits[20..32])
}

const SQL_KNOWN: &str =
    "SELECT 1 FROM cards WHERE card = $1 AND site = $2 AND study = $3 AND client = $4 AND (outcome IS NULL OR outcome <> 'silent')";
const SQL_ANSWER: &str =
    "UPDATE cards SET outcome = $1, outcome_ms = $2, override_reason = $3 WHERE card = $4 AND (outcome IS NULL OR outcome_ms < $2)";

/// Records what came of a card that this client was given; `false` where it never was given one like that. The newest
/// answer counts, however often and in whichever order they come.
pub fn answer(tx: &mut Tx<'_>, site: &str, study: &str, client: &str, card: &str, outcome: Outcome, at_ms: i64) -> Result<bool, StoreError> {
    if tx.query_one(SQL_KNOWN, &[card.into(), site.into(), study.into(), client.into()])?.is_none() {
        return Ok(false);
    }
    let reason = match outcome {
        Outcome::Accepted | Outcome::Overridden(None) => None,
        Outcome::Overridden(Some(reason)) => Some(reason.word()),
    };
    tx.execute(SQL_ANSWER, &[outcome.word().into(), at_ms.into(), reason.into(), card.into()])?;
    Ok(true)
}

/// What became of the cards of one study.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub shown: i64,
    pub accepted: i64,
    pub overridden: i64,
    /// By reason; `none` where no reason was given.
    pub override_reasons: BTreeMap<String, i64>,
    pub unanswered: i64,
    /// Kept back by the alert budget, at most one a day for each user and patient.
    pub silent: i64,
}

const SQL_COUNTS: &str = "SELECT outcome, override_reason, COUNT(*) FROM cards WHERE study = $1 AND ($2 = '' OR site = $2) AND shown_ms >= $3
    GROUP BY outcome, override_reason";

pub fn counts(tx: &mut Tx<'_>, study: &str, site: Option<&str>, since_ms: i64) -> Result<Counts, StoreError> {
    let mut counts = Counts::default();
    for row in tx.query(SQL_COUNTS, &[study.into(), site.unwrap_or("").into(), since_ms.into()])? {
        let count = row.integer(2)?;
        match row.optional_text(0)? {
            Some(SILENT) => {
                counts.silent += count;
                continue;
            }
            Some(ACCEPTED) => counts.accepted += count,
            Some(_) => {
                counts.overridden += count;
                *counts.override_reasons.entry(row.optional_text(1)?.unwrap_or("none").to_owned()).or_default() += count;
            }
            None => counts.unanswered += count,
        }
        counts.shown += count;
    }
    Ok(counts)
}
