//! What is left of a feed at its source when it is taken out of the configuration, or becomes another kind: its Subscriptions
//! are taken away, and its secrets forgotten.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use super::Cursor;
use super::keep::{delete, find};
use crate::ehr::Ehr;
use crate::feeds::{Feed, Trouble, asked_to_stop, now_ms};
use crate::pipeline::Pipeline;
use crate::store::feeds::{self, FeedState};
use crate::store::{StoreError, Tx, notified};

/// The kind's word in the store.
const KIND: &str = "subscription";
/// What could not be taken away is tried again so often.
const REMOVE_EVERY_MS: i64 = 600_000;
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What a feed has at its source, for whoever takes it away.
pub struct Left {
    pub site: String,
    pub feed: String,
    cursor: Cursor,
}

/// What a feed has at its source, by the store; `None` where that is nothing.
pub fn left(pipeline: &Pipeline, site: &str, feed: &str) -> Result<Option<Left>, StoreError> {
    Ok(pipeline.store.read_blocking(|tx| feeds::state(tx, site, feed))?.and_then(left_by))
}

fn left_by(state: FeedState) -> Option<Left> {
    let cursor: Cursor = Some(state.cursor).filter(|_| state.kind == KIND).and_then(|cursor| serde_json::from_str(&cursor).ok())?;
    (!cursor.made.is_empty()).then_some(Left { site: state.site, feed: state.feed, cursor })
}

/// What is left of feeds that are no subscriptions any more by the configuration. To be asked before the feeds are
/// registered: who becomes another kind begins anew.
pub fn removed(pipeline: &Pipeline, feeds: &[Feed]) -> Result<Vec<Left>, StoreError> {
    let left = pipeline.store.read_blocking(|tx| feeds::states(tx, None))?.into_iter().filter_map(left_by);
    let stands = |left: &Left| feeds.iter().any(|feed| feed.site == left.site && feed.name == left.feed && feed.kind.word() == KIND);
    Ok(left.filter(|left| !stands(left)).collect())
}

/// Takes away what a feed has at its source and forgets what it was told of; answers how many Subscriptions there were.
pub async fn remove(pipeline: &Pipeline, ehr: &Ehr, left: &Left) -> Result<usize, Trouble> {
    let found = find(ehr, &left.cursor.endpoint, &left.cursor.made).await?;
    for (id, _) in &found {
        delete(ehr, id).await?;
    }
    let (site, feed) = (left.site.clone(), left.feed.clone());
    let forget = move |tx: &mut Tx<'_>| {
        notified::forget(tx, &site, &feed)?;
        feeds::begin_anew(tx, &site, &feed, KIND)
    };
    pipeline.store.write(forget).await?;
    Ok(found.len())
}

/// Takes away, as long as the gateway runs, what is left of removed feeds: it is tried again until it is done. Without a
/// source nobody can be asked.
pub async fn run_removals(pipeline: Pipeline, mut all: Vec<(Left, Option<Ehr>)>, beat: Arc<AtomicI64>, mut stopped: watch::Receiver<bool>) {
    let mut try_at_ms = 0;
    loop {
        beat.store(now_ms(), Ordering::Relaxed);
        if !all.is_empty() && try_at_ms <= now_ms() {
            try_at_ms = now_ms() + REMOVE_EVERY_MS;
            let mut again = Vec::new();
            for (left, ehr) in all {
                let (site, feed) = (left.site.as_str(), left.feed.as_str());
                let removed = match &ehr {
                    Some(ehr) => remove(&pipeline, ehr, &left).await,
                    None => Err(Trouble::Person { words: "the site has no source in the configuration".to_owned() }),
                };
                match removed {
                    Ok(subscriptions) => tracing::info!(site, feed, subscriptions, "a feed was removed, and its Subscriptions are taken away"),
                    Err(trouble) => {
                        tracing::warn!(site, feed, "Subscriptions of a removed feed still stand at the source: {trouble}");
                        again.push((left, ehr));
                    }
                }
            }
            all = again;
        }
        if tokio::time::timeout(LOOK_EVERY, asked_to_stop(&mut stopped)).await.is_ok() {
            return;
        }
    }
}
