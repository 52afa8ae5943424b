//! What is usual for a feed, and what is not: a day that brought far less than its weekday does, or of which far more could not
//! be used. The bounds are ours; they are wide, so that what is told is worth a look.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{StoreError, Tx};
use crate::issue::Disposition;

/// Days before the one that is looked at; four of each weekday.
const USUAL_DAYS: i64 = 28;
/// Weekdays with something, at least, before anything is called usual.
const WEEKDAYS_MIN: usize = 3;
/// Less than this part of what is usual is little.
const LITTLE_PART: i64 = 4;
/// A feed that usually brings fewer messages in a day is too small to tell.
const USUAL_MIN: i64 = 20;
/// So many times the usual share of unusable messages is much, from so many messages on.
const UNUSABLE_TIMES: f64 = 3.0;
const UNUSABLE_MIN: i64 = 10;

/// Something unusual about the last whole day of a feed.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Drift {
    /// It brought so much less than the same weekday usually does.
    Little { messages: i64, usual: i64 },
    /// So much more of it than usual ended in quarantine or was rejected; shares from 0 to 1.
    Unusable { messages: i64, share: f64, usual_share: f64 },
}

impl Drift {
    /// For a person.
    pub fn words(&self) -> String {
        match self {
            Drift::Little { messages, usual } => format!("yesterday brought {messages} messages where this weekday usually brings {usual}"),
            Drift::Unusable { messages, share, usual_share } => {
                format!("yesterday {messages} messages could not be used, {:.0} % where {:.0} % is usual", share * 100.0, usual_share * 100.0)
            }
        }
    }
}

const SQL_DAYS: &str = "SELECT day, disposition, messages FROM feed_days WHERE site = $1 AND feed = $2 AND day >= $3 AND day < $4";

/// What was unusual about the last whole UTC day before `now_ms`.
pub fn drift(tx: &mut Tx<'_>, site: &str, feed: &str, now_ms: i64) -> Result<Vec<Drift>, StoreError> {
    let today = now_ms.div_euclid(86_400_000);
    let mut days: BTreeMap<i64, Day> = BTreeMap::new();
    for row in tx.query(SQL_DAYS, &[site.into(), feed.into(), (today - 1 - USUAL_DAYS).into(), today.into()])? {
        let day = days.entry(row.integer(0)?).or_default();
        match Disposition::from_word(row.text(1)?) {
            // What comes again says nothing about what the hospital does.
            Some(Disposition::Duplicate) => {}
            Some(Disposition::Quarantined | Disposition::Rejected) => day.unusable += row.integer(2)?,
            Some(Disposition::Applied | Disposition::Superseded | Disposition::OutOfScope | Disposition::Echo) => day.usable += row.integer(2)?,
            None => return Err(StoreError::Broken("a day of a feed has a disposition that this program does not know".into())),
        }
    }
    Ok(unusual(&days, today - 1))
}

#[derive(Clone, Copy, Debug, Default)]
struct Day {
    usable: i64,
    unusable: i64,
}

impl Day {
    fn all(&self) -> i64 {
        self.usable + self.unusable
    }
}

fn unusual(days: &BTreeMap<i64, Day>, day: i64) -> Vec<Drift> {
    let mut found = Vec::new();
    let of_day = days.get(&day).copied().unwrap_or_default();
    let mut weekdays: Vec<i64> = (1..=4).filter_map(|weeks| days.get(&(day - 7 * weeks))).map(Day::all).collect();
    weekdays.sort_unstable();
    if WEEKDAYS_MIN <= weekdays.len() {
        let usual = weekdays[weekdays.len() / 2];
        if USUAL_MIN <= usual && of_day.all() * LITTLE_PART < usual {
            found.push(Drift::Little { messages: of_day.all(), usual });
        }
    }
    let before =
        days.range(..day).fold(Day::default(), |sum, (_, day)| Day { usable: sum.usable + day.usable, unusable: sum.unusable + day.unusable });
    if USUAL_MIN <= before.all() && UNUSABLE_MIN <= of_day.unusable {
        let (share, usual_share) = (of_day.unusable as f64 / of_day.all() as f64, before.unusable as f64 / before.all() as f64);
        if UNUSABLE_TIMES * usual_share < share {
            found.push(Drift::Unusable { messages: of_day.unusable, share, usual_share });
        }
    }
    found
}
