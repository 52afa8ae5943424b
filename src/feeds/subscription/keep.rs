//! Our Subscriptions at a source: made, found again after a crash, renewed and mended. A source knows ours by the
//! endpoint, which names the site and the feed. Each time one is written it gets a new secret, of which only the hash stays.

use serde::{Deserialize, Serialize};

use super::{Cursor, Settings};
use crate::digest::{hex, sha256_hex};
use crate::ehr::{Ehr, EhrError};
use crate::feeds::{Trouble, Work};
use crate::fhir::notification::{self, Notification};
use crate::fhir::subscribe::{self, Ask, Shown, Standing};
use crate::store::{Tx, notified};

/// One Subscription of ours at the source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Made {
    /// What it is about.
    pub key: String,
    /// Its id at the source.
    pub id: String,
    /// Hash of what was asked for, without the secret and the end.
    asked: String,
    /// When it was last written, and until when.
    pub asked_ms: i64,
    end_ms: i64,
    /// How often in a row it was written anew because it did not stand.
    tries: u32,
}

/// How long a secret holds after the source has learnt another: notifications under way and their repetitions.
const OLD_SECRET_MS: i64 = 3_600_000;
/// How long a source may take to make a Subscription active; HAPI FHIR looks for new ones once a minute.
const ACTIVATION_MS: i64 = 900_000;
/// It is looked soon whether what was just written stands.
const LOOK_SOON_MS: i64 = 60_000;
/// One that falls again and again is written anew after a minute, doubling, up to six hours.
const MEND_FIRST_MS: i64 = 60_000;
const MEND_MAX_MS: i64 = 6 * 3_600_000;
/// A source that cannot be asked about Subscriptions is asked again after a minute, doubling, up to an hour.
const RETRY_FIRST_MS: i64 = 60_000;
const RETRY_MAX_MS: i64 = 3_600_000;
const MS_PER_DAY: i64 = 86_400_000;

/// Lets in who shows the secret that people at the source were given.
pub(super) async fn let_in(work: &Work<'_>, sha256: &str) -> Result<(), Trouble> {
    let (site, feed, sha256, now_ms) = (work.site.to_owned(), work.feed.to_owned(), sha256.to_owned(), work.now_ms());
    let asked = sha256.clone();
    let is_known = {
        let (site, feed) = (site.clone(), feed.clone());
        work.pipeline.store.read(move |tx| Ok(notified::secrets(tx, &site, &feed, now_ms)?.contains(&asked))).await?
    };
    if is_known {
        return Ok(());
    }
    // Whatever was let in before is not any more.
    let change = move |tx: &mut Tx<'_>| {
        notified::forget_secrets(tx, &site, &feed, "")?;
        notified::add_secret(tx, &site, &feed, "made at the source", &sha256, now_ms)
    };
    Ok(work.pipeline.store.write(change).await?)
}

/// Where people at the source make Subscriptions, one that is silent while another is heard was replaced by it.
const REPLACED_MS: i64 = MS_PER_DAY;

/// Forgets the numbers of Subscriptions that people at the source have replaced.
pub(super) async fn forget_replaced(work: &Work<'_>) -> Result<(), Trouble> {
    let heard = super::heard(work).await?;
    let Some(newest_ms) = heard.iter().map(|of| of.heard_ms).max() else { return Ok(()) };
    let replaced: Vec<String> = heard.into_iter().filter(|of| of.heard_ms + REPLACED_MS < newest_ms).map(|of| of.subscription).collect();
    if replaced.is_empty() {
        return Ok(());
    }
    let (site, feed) = (work.site.to_owned(), work.feed.to_owned());
    let forget = move |tx: &mut Tx<'_>| replaced.iter().try_for_each(|subscription| notified::forget_numbers(tx, &site, &feed, subscription));
    Ok(work.pipeline.store.write(forget).await?)
}

/// Sees to it that exactly what is asked for stands at the source. What goes wrong is kept in the cursor as a concern: what
/// was told until then is read all the same.
pub(super) async fn keep(work: &mut Work<'_>, ehr: &Ehr, settings: &Settings, endpoint: &str, cursor: &mut Cursor) -> Result<(), Trouble> {
    let began_ms = work.now_ms();
    cursor.endpoint = endpoint.to_owned();
    let kept = keep_all(work, ehr, settings, cursor).await;
    let regular_ms = began_ms + i64::from(settings.check_minutes) * 60_000;
    match kept {
        Ok(concern) => {
            let is_new = cursor.made.iter().any(|made| began_ms <= made.asked_ms);
            cursor.keep_failures = 0;
            cursor.keep_at_ms = if is_new { regular_ms.min(began_ms + LOOK_SOON_MS) } else { regular_ms };
            cursor.concern = concern.map(|words| (words, false));
            let (site, feed) = (work.site.to_owned(), work.feed.to_owned());
            let ids: Vec<String> = cursor.made.iter().map(|made| made.id.clone()).collect();
            let forget = move |tx: &mut Tx<'_>| {
                // Numbers of what does not stand any more, or was never ours, say nothing. Some sources do not say whose they are.
                let is_other = |of: &notified::Heard| !of.subscription.is_empty() && !ids.contains(&of.subscription);
                let others = notified::heard(tx, &site, &feed)?.into_iter().filter(is_other);
                others.into_iter().try_for_each(|of| notified::forget_numbers(tx, &site, &feed, &of.subscription))
            };
            work.pipeline.store.write(forget).await?;
            ask_for_status(work, ehr, settings, cursor).await
        }
        Err(Trouble::Later { words, after_ms }) => {
            wait(cursor, words, false, began_ms, after_ms.unwrap_or_default());
            Ok(())
        }
        Err(Trouble::Person { words }) => {
            wait(cursor, words, true, began_ms, 0);
            Ok(())
        }
        Err(trouble @ (Trouble::TakenOver | Trouble::Stopped | Trouble::Store(_))) => Err(trouble),
    }
}

fn wait(cursor: &mut Cursor, words: String, needs_person: bool, now_ms: i64, at_least_ms: i64) {
    let wait_ms = (RETRY_FIRST_MS << cursor.keep_failures.min(20)).min(RETRY_MAX_MS).max(at_least_ms);
    cursor.keep_failures += 1;
    cursor.keep_at_ms = now_ms + wait_ms;
    cursor.concern = Some((words, needs_person));
}

/// Answers what is not as it should be.
async fn keep_all(work: &mut Work<'_>, ehr: &Ehr, settings: &Settings, cursor: &mut Cursor) -> Result<Option<String>, Trouble> {
    let asks = settings.asks(work.site, work.feed, &cursor.endpoint);
    let mut held = find(ehr, &cursor.endpoint, &cursor.made).await?;
    let mut concern = None;
    for ask in &asks {
        let key = ask.key();
        let remembered = cursor.made.iter().find(|made| made.key == key).cloned();
        // The one that is remembered, else the first: the others are copies.
        let is_remembered = |id: &String| remembered.as_ref().is_some_and(|made| made.id == *id);
        let mut same: Vec<(String, Shown)> = held.extract_if(.., |(id, shown)| is_remembered(id) || shown.key == key).collect();
        same.sort_by_key(|(id, _)| !is_remembered(id));
        let mut same = same.into_iter();
        match same.next() {
            None => create(work, ehr, settings, cursor, ask).await?,
            Some((id, shown)) => {
                let made = remembered.filter(|made| made.id == id).unwrap_or_else(|| Made { key: key.clone(), id: id.clone(), ..Made::default() });
                concern = hold(work, ehr, settings, cursor, ask, made, &shown).await?.or(concern);
            }
        }
        for (id, _) in same {
            tracing::warn!(site = work.site, feed = work.feed, "a copy of a Subscription of ours is taken away");
            delete(ehr, &id).await?;
        }
    }
    // What notifies our endpoint and is not asked for (any more) was ours.
    for (id, _) in held {
        delete(ehr, &id).await?;
    }
    let gone: Vec<Made> = cursor.made.extract_if(.., |made| !asks.iter().any(|ask| ask.key() == made.key)).collect();
    let (site, feed) = (work.site.to_owned(), work.feed.to_owned());
    let forget = move |tx: &mut Tx<'_>| gone.iter().try_for_each(|made| notified::forget_secrets(tx, &site, &feed, &made.key));
    work.pipeline.store.write(forget).await?;
    Ok(concern)
}

/// Every Subscription that notifies our endpoint, and those that we remember; a source that cannot be searched for them shows
/// the latter alone.
pub(super) async fn find(ehr: &Ehr, endpoint: &str, made: &[Made]) -> Result<Vec<(String, Shown)>, Trouble> {
    let found = match ehr.search("Subscription", &[("url", endpoint.to_owned()), ("_count", "200".to_owned())]).await {
        Ok(found) => found,
        Err(EhrError::Refused { .. } | EhrError::Unsupported { .. } | EhrError::Absent { .. }) => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    // Some sources ignore parameters that they do not know, and answer everybody's.
    let ours = |held: crate::ehr::Held| {
        let (id, shown) = (held.index.id?, subscribe::shown(&held.resource)?);
        (shown.endpoint.as_deref() == Some(endpoint)).then_some((id, shown))
    };
    let mut all: Vec<(String, Shown)> = found.into_iter().filter_map(ours).collect();
    for made in made {
        if all.iter().any(|(id, _)| *id == made.id) {
            continue;
        }
        if let Some(shown) = ehr.read("Subscription", &made.id).await?.and_then(|held| subscribe::shown(&held.resource)) {
            all.push((made.id.clone(), shown));
        }
    }
    Ok(all)
}

/// A secret of 256 bits by chance, and its hash.
fn secret() -> (String, String) {
    let mut bytes = [0_u8; 32];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system gives random bytes");
    let secret = hex(&bytes);
    let hash = sha256_hex(secret.as_bytes());
    (secret, hash)
}

/// Hash of what is asked for: another one is written anew.
fn asked(ask: &Ask, settings: &Settings) -> String {
    sha256_hex(format!("{ask:?} {}", settings.lifetime_days).as_bytes())
}

async fn create(work: &mut Work<'_>, ehr: &Ehr, settings: &Settings, cursor: &mut Cursor, ask: &Ask) -> Result<(), Trouble> {
    let key = ask.key();
    let made = Made { key: key.clone(), ..Made::default() };
    cursor.made.retain(|made| made.key != key);
    write(work, ehr, settings, cursor, ask, made).await
}

/// Holds one that is there to what is asked for; answers what is not as it should be.
async fn hold(
    work: &mut Work<'_>,
    ehr: &Ehr,
    settings: &Settings,
    cursor: &mut Cursor,
    ask: &Ask,
    mut made: Made,
    shown: &Shown,
) -> Result<Option<String>, Trouble> {
    let now_ms = work.now_ms();
    let stands = match shown.standing {
        Standing::Active => true,
        Standing::Requested => now_ms < made.asked_ms + ACTIVATION_MS,
        Standing::Ended => false,
    };
    let notifies_us = shown.endpoint.as_deref().map(|endpoint| endpoint.trim_end_matches('/')) == Some(ask.endpoint.as_str());
    if stands && notifies_us && made.asked == asked(ask, settings) {
        if shown.standing == Standing::Active {
            made.tries = 0;
        }
        remember(cursor, made.clone());
        let ends_ms = shown.end_ms.unwrap_or(i64::MAX).min(made.end_ms);
        if now_ms + lifetime_ms(settings) / 2 < ends_ms {
            return Ok(None);
        }
        // Renewed, with nothing lost.
        write(work, ehr, settings, cursor, ask, made).await?;
        return Ok(None);
    }
    if stands {
        // Asked for otherwise by now, changed at the source, or found again without its secret being known to be ours.
        cursor.unsure_since_ms.get_or_insert(now_ms);
        write(work, ehr, settings, cursor, ask, made).await?;
        return Ok(None);
    }
    cursor.unsure_since_ms.get_or_insert(now_ms);
    let words = match shown.standing {
        Standing::Ended => format!("the source ended its Subscription to {}: can it reach {}?", ask.about, ask.endpoint),
        Standing::Requested | Standing::Active => format!("the source has not made its Subscription to {} active", ask.about),
    };
    let wait_ms = (MEND_FIRST_MS << made.tries.min(20)).min(MEND_MAX_MS);
    if made.tries == 0 || made.asked_ms + wait_ms <= now_ms {
        tracing::warn!(site = work.site, feed = work.feed, tries = made.tries, "a Subscription that did not stand is written anew");
        made.tries += 1;
        write(work, ehr, settings, cursor, ask, made).await?;
    } else {
        remember(cursor, made);
    }
    Ok(Some(words))
}

fn lifetime_ms(settings: &Settings) -> i64 {
    i64::from(settings.lifetime_days) * MS_PER_DAY
}

fn remember(cursor: &mut Cursor, made: Made) {
    cursor.made.retain(|other| other.key != made.key);
    cursor.made.push(made);
}

/// Writes one with a new secret: let in before the source learns it, so that whatever breaks, whoever notifies is heard.
async fn write(work: &mut Work<'_>, ehr: &Ehr, settings: &Settings, cursor: &mut Cursor, ask: &Ask, made: Made) -> Result<(), Trouble> {
    let (secret, hash) = secret();
    let now_ms = work.now_ms();
    let end_ms = now_ms + lifetime_ms(settings);
    let is_new = made.id.is_empty();
    let body = ask
        .resource(Some(made.id.as_str()).filter(|id| !id.is_empty()), &secret, end_ms)
        .map_err(|error| Trouble::Person { words: format!("a Subscription to {} cannot be written: {error}", ask.about) })?;
    let (site, feed, key, added) = (work.site.to_owned(), work.feed.to_owned(), made.key.clone(), hash.clone());
    work.pipeline.store.write(move |tx| notified::add_secret(tx, &site, &feed, &key, &added, now_ms)).await?;
    let headers = [("content-type".to_owned(), "application/fhir+json".to_owned())];
    let (method, url) = if is_new { ("POST", "Subscription".to_owned()) } else { ("PUT", format!("Subscription/{}", made.id)) };
    let written = ehr.send(method, &url, &headers, &body).await.map_err(|error| refused(error, &ask.about))?;
    let nameless = || Trouble::Later { words: "the source does not say which Subscription it made".into(), after_ms: None };
    let id = if is_new { written.id.ok_or_else(nameless)? } else { made.id.clone() };
    tracing::info!(site = work.site, feed = work.feed, is_new, "a Subscription was written at the source");
    if is_new {
        cursor.unsure_since_ms.get_or_insert(now_ms);
    }
    let key = made.key.clone();
    remember(cursor, Made { id, asked: asked(ask, settings), asked_ms: now_ms, end_ms, ..made });
    work.advance(cursor.to_json()).await?;
    let (site, feed) = (work.site.to_owned(), work.feed.to_owned());
    let replace = move |tx: &mut Tx<'_>| notified::replace_secrets(tx, &site, &feed, &key, &hash, now_ms + OLD_SECRET_MS);
    Ok(work.pipeline.store.write(replace).await?)
}

fn refused(error: EhrError, about: &str) -> Trouble {
    let words = format!("a Subscription to {about} could not be written: {error}");
    match Trouble::from(error) {
        Trouble::Later { after_ms, .. } => Trouble::Later { words, after_ms },
        Trouble::Person { .. } => Trouble::Person { words },
        other @ (Trouble::TakenOver | Trouble::Stopped | Trouble::Store(_)) => other,
    }
}

pub(super) async fn delete(ehr: &Ehr, id: &str) -> Result<(), Trouble> {
    match ehr.send("DELETE", &format!("Subscription/{id}"), &[], "").await {
        Ok(_) | Err(EhrError::Absent { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Asks how many events there were, so that a lost notification shows also where no heartbeat comes.
async fn ask_for_status(work: &mut Work<'_>, ehr: &Ehr, settings: &Settings, cursor: &mut Cursor) -> Result<(), Trouble> {
    if !settings.style.has_topics() || cursor.has_no_status {
        return Ok(());
    }
    for made in cursor.made.clone() {
        match ehr.document(&format!("Subscription/{}/$status", made.id)).await {
            Ok(answer) => {
                let Ok(status) = notification::read_status(answer.as_bytes()) else {
                    cursor.has_no_status = true;
                    return Ok(());
                };
                // How it stands was just read; here the count matters.
                let status = Notification { subscription: Some(made.id), is_in_trouble: false, ..status };
                let (site, feed, now_ms) = (work.site.to_owned(), work.feed.to_owned(), work.now_ms());
                work.pipeline.store.write(move |tx| notified::hear(tx, &site, &feed, &status, now_ms)).await?;
            }
            Err(EhrError::Refused { .. } | EhrError::Unsupported { .. } | EhrError::Absent { .. }) => cursor.has_no_status = true,
            // It is asked again with the next look.
            Err(EhrError::Retry { .. } | EhrError::Unknown | EhrError::Conflict { .. } | EhrError::Unauthorized { .. }) => {}
        }
    }
    Ok(())
}
