//! The access token that all clones of one endpoint share: renewed before it expires, by one at a time, and at most once
//! where the EHR refuses it. While no token can be had, nobody asks for one again too soon. Knows no protocol.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use reqwest::header::HeaderValue;

use super::smart::TokenClient;
use super::{EhrError, scope};

/// After a failure the token endpoint is left alone for so long, doubling up to the longest.
const FAILED_FIRST: Duration = Duration::from_secs(1);
const FAILED_MAX: Duration = Duration::from_secs(60);
/// A token that the EHR refuses before its time is replaced at most so often: a server that refuses every token would
/// otherwise be sent each request twice, and its token endpoint one request for each.
const REPLACED_EVERY: Duration = Duration::from_secs(15);
/// Before it expires a token is renewed by so long, or by a quarter of its life where that is shorter.
const RENEWED_BEFORE: Duration = Duration::from_secs(60);

/// What a token endpoint granted.
#[derive(Clone)]
pub struct Granted {
    /// `Bearer ...`, out of sight of logs.
    pub header: HeaderValue,
    /// When it was asked for, which is before it was issued.
    pub asked: Instant,
    pub lifetime: Duration,
    /// As the server wrote it, or as it was asked for where the server wrote nothing.
    pub scope: String,
}

/// A token in use.
#[derive(Clone)]
pub struct Token {
    pub granted: Granted,
    number: u64,
}

/// One endpoint's token.
pub struct Tokens {
    client: TokenClient,
    held: Mutex<Held>,
    /// One asks, the others wait for what comes.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Held {
    token: Option<Token>,
    count: u64,
    replaced: Option<Instant>,
    failure: Option<Failure>,
    /// Scopes that were not granted, so that each change of them is told once.
    missing: String,
}

struct Failure {
    error: EhrError,
    until: Instant,
    in_a_row: u32,
}

impl Tokens {
    pub fn new(client: TokenClient) -> Tokens {
        Tokens { client, held: Mutex::default(), turn: tokio::sync::Mutex::new(()) }
    }

    pub fn client(&self) -> &TokenClient {
        &self.client
    }

    /// A token that can be used now.
    pub async fn current(&self) -> Result<Token, EhrError> {
        if let Some(answer) = self.held().at_hand(Instant::now()) {
            return answer;
        }
        let _turn = self.turn.lock().await;
        // Whoever had the turn before may have brought one.
        if let Some(answer) = self.held().at_hand(Instant::now()) {
            return answer;
        }
        self.renew().await
    }

    /// Another token than this one, which the EHR refused; `None` where a new one was refused a moment ago, too.
    pub async fn instead_of(&self, refused: &Token) -> Result<Option<Token>, EhrError> {
        let _turn = self.turn.lock().await;
        let now = Instant::now();
        {
            let mut held = self.held();
            if held.token.as_ref().is_some_and(|token| token.number == refused.number) {
                if held.replaced.is_some_and(|replaced| now < replaced + REPLACED_EVERY) {
                    return Ok(None);
                }
                held.replaced = Some(now);
                held.token = None;
            } else if let Some(answer) = held.at_hand(now) {
                return answer.map(Some);
            }
        }
        self.renew().await.map(Some)
    }

    /// Scopes of the token in use.
    pub fn scope(&self) -> Option<String> {
        self.held().token.as_ref().map(|token| token.granted.scope.clone())
    }

    /// Only by who has the turn.
    async fn renew(&self) -> Result<Token, EhrError> {
        let asked = self.client.ask().await;
        let mut held = self.held();
        match asked {
            Ok(granted) => {
                let missing = scope::not_granted(&self.client.settings().scopes, &granted.scope).join(" ");
                if !missing.is_empty() && held.missing != missing {
                    tracing::warn!(base = %self.client.base(), missing, "the EHR grants less than the scopes that the configuration asks for");
                }
                held.missing = missing;
                held.count += 1;
                held.failure = None;
                let token = Token { granted, number: held.count };
                held.token = Some(token.clone());
                Ok(token)
            }
            Err(error) => {
                let in_a_row = held.failure.as_ref().map_or(0, |failure| failure.in_a_row) + 1;
                let pause = (FAILED_FIRST * (1 << (in_a_row - 1).min(10))).min(FAILED_MAX);
                let asked_ms = error.after_ms().and_then(|ms| u64::try_from(ms).ok()).unwrap_or_default();
                let pause = pause.max(Duration::from_millis(asked_ms));
                let now = Instant::now();
                held.failure = Some(Failure { error, until: now + pause, in_a_row });
                held.at_hand(now).expect("a failure was noted just now")
            }
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // What is held stays what it is, whoever panicked.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// A token or a failure that still counts; an old token is good until it expires while there is no new one.
    fn at_hand(&self, now: Instant) -> Option<Result<Token, EhrError>> {
        let failure = self.failure.as_ref().filter(|failure| now < failure.until);
        if let Some(token) = &self.token {
            let granted = &token.granted;
            let spare = if failure.is_some() { Duration::ZERO } else { RENEWED_BEFORE.min(granted.lifetime / 4) };
            if now + spare < granted.asked + granted.lifetime {
                return Some(Ok(token.clone()));
            }
        }
        failure.map(|failure| Err(failure.error.clone().not_before(failure.until - now)))
    }
}
