//! The keys of each client, as they were fetched last: kept as long as their server says, within bounds, and asked for
//! again, not too often, when a token names a key that is not among them.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::ehr::jwks::{Fetched, KeyServer};

/// A key that was withdrawn is taken at most so long.
const KEPT_MAX: Duration = Duration::from_secs(3_600);
/// However short the server says.
const KEPT_MIN: Duration = Duration::from_secs(60);
const KEPT_WITHOUT_A_WORD: Duration = Duration::from_secs(600);
/// While their server does not answer, keys go on being taken so long after they were fetched.
const KEPT_WITHOUT_AN_ANSWER_MS: i64 = 24 * 3_600_000;
/// Between two attempts at a server that does not answer.
const ATTEMPT_EVERY_MS: i64 = 15_000;
/// An unknown key makes us ask again at most so often: whoever sends made-up keys must not make us flood the client's server.
const ASKED_AGAIN_EVERY_MS: i64 = 60_000;

/// One client's keys.
#[derive(Debug)]
pub struct KeySet {
    source: Source,
    held: Mutex<Held>,
    /// One asks, the others wait for what comes.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
enum Source {
    Url(Box<KeyServer>),
    /// Read again as if it were fetched, so that a new file counts without a restart.
    File(PathBuf),
}

/// What every set of keys has.
#[derive(serde::Deserialize)]
struct SetView {
    #[serde(rename = "keys")]
    _keys: Vec<serde::de::IgnoredAny>,
}

#[derive(Clone, Debug)]
struct Held {
    text: Option<Arc<str>>,
    /// How often keys came.
    fetches: u64,
    fetched_ms: i64,
    due_ms: i64,
    asked_again_ms: i64,
}

impl KeySet {
    pub fn of_url(server: KeyServer) -> KeySet {
        KeySet::new(Source::Url(Box::new(server)))
    }

    pub fn of_file(file: PathBuf) -> KeySet {
        KeySet::new(Source::File(file))
    }

    fn new(source: Source) -> KeySet {
        let held = Held { text: None, fetches: 0, fetched_ms: 0, due_ms: 0, asked_again_ms: i64::MIN };
        KeySet { source, held: Mutex::new(held), turn: tokio::sync::Mutex::new(()) }
    }

    /// The set as JSON; `None` where none was fetched lately.
    pub fn text(&self, now_ms: i64) -> Option<Arc<str>> {
        let held = self.held();
        held.text.filter(|_| now_ms < held.fetched_ms + KEPT_WITHOUT_AN_ANSWER_MS)
    }

    /// Fetches what is due.
    pub async fn keep_fresh(&self, now_ms: i64) {
        if self.held().due_ms <= now_ms {
            let _turn = self.turn.lock().await;
            if self.held().due_ms <= now_ms {
                self.fetch(now_ms).await;
            }
        }
    }

    /// A key is not among those held: asks again, unless that was done lately. Whoever waited looks again.
    pub async fn ask_again(&self, now_ms: i64) {
        let seen = self.held();
        let _turn = self.turn.lock().await;
        let held = self.held();
        // What came while this one waited for its turn is new enough.
        let is_new = held.fetches != seen.fetches;
        let too_soon = match held.text {
            Some(_) => now_ms < held.asked_again_ms.saturating_add(ASKED_AGAIN_EVERY_MS),
            None => now_ms < held.due_ms,
        };
        if is_new || too_soon {
            return;
        }
        if held.text.is_some() {
            self.held.lock().expect("nobody fails while holding keys").asked_again_ms = now_ms;
        }
        self.fetch(now_ms).await;
    }

    fn held(&self) -> Held {
        self.held.lock().expect("nobody fails while holding keys").clone()
    }

    async fn fetch(&self, now_ms: i64) {
        let fetched = match &self.source {
            Source::Url(server) => server.fetch().await,
            Source::File(file) => std::fs::read_to_string(file).ok().map(|text| Fetched { text, max_age: None }),
        };
        // A page of some proxy in between must not take the place of keys.
        let fetched = fetched.filter(|fetched| serde_json::from_str::<SetView>(&fetched.text).is_ok());
        let mut held = self.held.lock().expect("nobody fails while holding keys");
        match fetched {
            Some(Fetched { text, max_age }) => {
                let kept = max_age.unwrap_or(KEPT_WITHOUT_A_WORD).clamp(KEPT_MIN, KEPT_MAX);
                held.text = Some(text.into());
                held.fetches += 1;
                held.fetched_ms = now_ms;
                held.due_ms = now_ms + i64::try_from(kept.as_millis()).unwrap_or(i64::MAX);
            }
            None => {
                tracing::warn!("the keys of a CDS client cannot be fetched; those held are used until they are a day old");
                held.due_ms = now_ms + ATTEMPT_EVERY_MS;
            }
        }
    }
}
