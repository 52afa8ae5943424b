//! How often an EHR may be asked: a bucket of requests that fills evenly, so that no minute sees more than agreed.
//! One process counts its own requests alone.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Part of a minute's requests that may go at once.
const BURST_PART: u32 = 10;

pub struct Pace {
    burst: f64,
    per_second: f64,
    bucket: Mutex<Bucket>,
}

struct Bucket {
    requests: f64,
    filled: Instant,
    /// Requests that go first and wait.
    first_in_line: usize,
}

impl Pace {
    /// At most so many requests in any minute: the burst, and what fills up in that minute.
    pub fn new(requests_per_minute: u32) -> Pace {
        let most = requests_per_minute.max(1);
        let burst = f64::from(most.div_ceil(BURST_PART));
        let per_second = if most == 1 { 1.0 } else { f64::from(most) - burst } / 60.0;
        Pace { burst, per_second, bucket: Mutex::new(Bucket { requests: burst, filled: Instant::now(), first_in_line: 0 }) }
    }

    /// Waits for one request's turn; who is first in line goes before all who are not.
    pub async fn take_turn(&self, is_first_in_line: bool) {
        let _waiting = is_first_in_line.then(|| Waiting::begin(self));
        while let Some(wait) = self.try_turn(is_first_in_line) {
            tokio::time::sleep(wait).await;
        }
    }

    /// Takes a request out of the bucket, or says how long until there is one.
    fn try_turn(&self, is_first_in_line: bool) -> Option<Duration> {
        let mut bucket = self.bucket();
        let now = Instant::now();
        bucket.requests = (bucket.requests + now.duration_since(bucket.filled).as_secs_f64() * self.per_second).min(self.burst);
        bucket.filled = now;
        let ahead = if is_first_in_line { 0.0 } else { bucket.first_in_line as f64 };
        if 1.0 + ahead <= bucket.requests {
            bucket.requests -= 1.0;
            return None;
        }
        // A full bucket may hold less than those ahead need: then it is looked at again when one has gone.
        let lacks = (1.0 + ahead).min(self.burst.max(1.0)) - bucket.requests;
        Some(Duration::from_secs_f64((lacks / self.per_second).max(0.01)))
    }

    fn bucket(&self) -> MutexGuard<'_, Bucket> {
        // A count stays a count, whoever panicked.
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request that goes first, from its asking to its turn.
struct Waiting<'a>(&'a Pace);

impl Waiting<'_> {
    fn begin(pace: &Pace) -> Waiting<'_> {
        pace.bucket().first_in_line += 1;
        Waiting(pace)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.bucket().first_in_line -= 1;
    }
}
