//! Hints followed: what a source said has changed is read there, in the version that it holds now. Knows no Subscription.

use std::collections::BTreeMap;

use futures_util::StreamExt;

use crate::ehr::{Ehr, EhrError};
use crate::feeds::{Trouble, Work, withdraw_gone};
use crate::fhir::notification;
use crate::pipeline::receive::is_read;
use crate::store::feeds::{self, Hint};

/// What became of hints.
#[derive(Default)]
pub(super) struct Followed {
    /// Hints that do not say what changed.
    pub nameless: Vec<i64>,
    /// Why some could not be followed now; they are tried again.
    pub trouble: Option<String>,
}

impl Followed {
    pub fn join(&mut self, other: Followed) {
        self.nameless = other.nameless;
        self.trouble = self.trouble.take().or(other.trouble);
    }
}

/// Hints read from the store at once, and resources read at the source at once.
const HINTS_AT_ONCE: usize = 500;
const READ_AT_ONCE: usize = 4;
/// A resource that cannot be read is tried again after 10 s, doubling, up to an hour; then the searches have to find it.
const HINT_RETRY_FIRST_MS: i64 = 10_000;
const HINT_RETRY_MAX_MS: i64 = 3_600_000;
const HINT_ATTEMPTS_MAX: i64 = 10;

/// Reads at the source what due hints name.
pub(super) async fn follow(work: &mut Work<'_>, ehr: &Ehr) -> Result<Followed, Trouble> {
    let mut followed = Followed::default();
    loop {
        let (site, feed, now_ms, limit) = (work.site.to_owned(), work.feed.to_owned(), work.now_ms(), HINTS_AT_ONCE + followed.nameless.len());
        let hints = work.pipeline.store.read(move |tx| feeds::hints(tx, &site, &feed, now_ms, limit)).await?;
        let mut named: BTreeMap<(String, String), Vec<Hint>> = BTreeMap::new();
        followed.nameless.clear();
        for hint in hints {
            match &hint.resource_id {
                Some(id) => named.entry((hint.resource_type.clone(), id.clone())).or_default().push(hint),
                None => followed.nameless.push(hint.hint),
            }
        }
        if named.is_empty() {
            return Ok(followed);
        }
        let trouble = follow_some(work, ehr, named).await?;
        followed.trouble = followed.trouble.or(trouble);
    }
}

/// What the source answered to the question for one resource.
enum Read {
    Held(String),
    Gone,
    /// Not at once: it may be there in a moment, or was never to be seen.
    Later {
        words: String,
    },
}

/// One resource, and the hints that named it.
struct Told {
    resource_type: String,
    id: String,
    hints: Vec<i64>,
    attempts: i64,
}

async fn follow_some(work: &mut Work<'_>, ehr: &Ehr, named: BTreeMap<(String, String), Vec<Hint>>) -> Result<Option<String>, Trouble> {
    let told = named.into_iter().map(|((resource_type, id), hints)| {
        let attempts = hints.iter().map(|hint| hint.attempts).max().unwrap_or_default();
        Told { resource_type, id, hints: hints.iter().map(|hint| hint.hint).collect(), attempts }
    });
    // What this site does not take need not be read.
    let (told, others): (Vec<Told>, Vec<Told>) = told.partition(|told| is_read(work.pipeline, work.site, &told.resource_type));
    let mut done: Vec<i64> = others.into_iter().flat_map(|told| told.hints).collect();
    let reading = futures_util::stream::iter(told.into_iter().map(|told| async move { (read(ehr, &told).await, told) }));
    let all: Vec<(Result<Read, EhrError>, Told)> = reading.buffered(READ_AT_ONCE).collect().await;
    let (mut held, mut gone, mut later, mut trouble) = (Vec::new(), Vec::<Told>::new(), Vec::new(), None);
    for (answer, told) in all {
        match answer? {
            Read::Held(resource) => {
                held.push(resource);
                done.extend(told.hints);
            }
            Read::Gone => gone.push(told),
            Read::Later { words } if told.attempts + 1 < HINT_ATTEMPTS_MAX => {
                trouble.get_or_insert(words);
                later.push(told);
            }
            Read::Later { words } => {
                tracing::error!(site = work.site, feed = work.feed, told.resource_type, "what a source told of could not be read: {words}");
                done.extend(told.hints);
            }
        }
    }
    work.take(held).await?;
    let named: Vec<(&str, &str)> = gone.iter().map(|told| (told.resource_type.as_str(), told.id.as_str())).collect();
    withdraw_gone(work, ehr, &named).await?;
    done.extend(gone.into_iter().flat_map(|told| told.hints));
    let now_ms = work.now_ms();
    work.pipeline
        .store
        .write(move |tx| {
            feeds::hints_done(tx, &done)?;
            later.iter().try_for_each(|told| {
                let wait_ms = (HINT_RETRY_FIRST_MS << told.attempts.clamp(0, 20)).min(HINT_RETRY_MAX_MS);
                feeds::hints_later(tx, &told.hints, now_ms + wait_ms)
            })
        })
        .await?;
    Ok(trouble)
}

/// The current version of one resource. An error concerns the source as a whole.
async fn read(ehr: &Ehr, told: &Told) -> Result<Read, EhrError> {
    let later = |error: EhrError| Read::Later { words: error.to_string() };
    match ehr.document(&format!("{}/{}", told.resource_type, told.id)).await {
        Ok(document) => match notification::head(document.as_bytes()) {
            Ok((Some(resource_type), _)) if resource_type == told.resource_type => Ok(Read::Held(document)),
            // A page of some proxy in between says nothing about the resource, least of all that it is gone.
            Ok(_) | Err(_) => Ok(Read::Later { words: "the EHR answers something else than the resource that it told of".to_owned() }),
        },
        Err(EhrError::Absent { status: 410 }) => Ok(Read::Gone),
        // What was told of a moment ago may not be visible yet on the server that answers.
        Err(error @ EhrError::Absent { .. }) => Ok(if told.attempts == 0 { later(error) } else { Read::Gone }),
        Err(error @ (EhrError::Refused { .. } | EhrError::Unsupported { .. } | EhrError::Conflict { .. })) => Ok(later(error)),
        // One resource that the source fails on is no reason to wait with the others.
        Err(error @ EhrError::Retry { status: Some(500), .. }) => Ok(later(error)),
        Err(error @ (EhrError::Retry { .. } | EhrError::Unknown | EhrError::Unauthorized { .. })) => Err(error),
    }
}
