//! Whether a subscription's events have all been heard, by their numbers: each has one, from 1 without a gap, and what comes
//! later may come first. Knows neither what an event is about nor how what is missing is found.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Kind, Notification};

/// Numbers beyond a gap that are kept apart; with more of them the gap is what matters.
const AHEAD_MAX: usize = 10_000;

/// An event that did not come for so long is asked for: notifications are sent side by side and repeated after seconds, so
/// that a later one often comes first.
const PATIENCE_MS: i64 = 30_000;

/// What was heard of one subscription.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Numbers {
    /// Every event up to this one was heard, or is known otherwise.
    pub heard: u64,
    /// Heard beyond a gap.
    ahead: BTreeSet<u64>,
    /// The newest event that the source spoke of.
    pub told: u64,
    /// Since when an event is missing and none of the missing ones came, ms since 1970 UTC.
    pub missing_since_ms: Option<i64>,
    /// Counting began, or began anew: what happened before cannot be told by numbers.
    pub unsure_since_ms: Option<i64>,
    /// The source said that the subscription is in error or off.
    pub trouble_since_ms: Option<i64>,
    /// When the newest heartbeat came: it alone says how many events there were by then. What tells of an event may be late,
    /// or repeated.
    #[serde(default)]
    pub beat_ms: Option<i64>,
}

impl Numbers {
    /// Takes a notification in. `None` before the first one of a subscription.
    pub fn after(before: Option<Numbers>, notification: &Notification, now_ms: i64) -> Numbers {
        let mut numbers = before.unwrap_or_else(|| Numbers::beginning(notification, now_ms));
        let (heard, so_far) = (numbers.heard, notification.events_since_start);
        let begins_anew = match notification.kind {
            Kind::Handshake => true,
            // Fewer than were heard: the source has lost count, as after a restart or a restore.
            Kind::Heartbeat | Kind::QueryStatus => so_far.is_some_and(|so_far| so_far < heard),
            // An event that was overtaken says less as well, and means nothing by it.
            Kind::EventNotification | Kind::QueryEvent => false,
        };
        if begins_anew {
            numbers = Numbers { trouble_since_ms: numbers.trouble_since_ms, ..Numbers::beginning(notification, now_ms) };
        }
        if notification.kind == Kind::Heartbeat {
            numbers.beat_ms = Some(now_ms);
        }
        let new = notification.events.iter().filter_map(|event| event.number).filter(|number| numbers.heard < *number);
        numbers.ahead.extend(new);
        numbers.told = numbers.told.max(so_far.unwrap_or_default()).max(numbers.ahead.last().copied().unwrap_or_default());
        numbers.close_up();
        if AHEAD_MAX < numbers.ahead.len() {
            numbers.unsure_since_ms = Some(now_ms);
            numbers.heard = numbers.told;
            numbers.ahead.clear();
        }
        if !numbers.is_missing() {
            numbers.missing_since_ms = None;
        } else if heard < numbers.heard || numbers.missing_since_ms.is_none() {
            numbers.missing_since_ms = Some(now_ms);
        }
        if notification.is_in_trouble {
            numbers.trouble_since_ms.get_or_insert(now_ms);
        }
        numbers
    }

    /// Everything before the first notification counts as heard, and as unsure.
    fn beginning(notification: &Notification, now_ms: i64) -> Numbers {
        let first = notification.events.iter().filter_map(|event| event.number).min();
        let heard = first.map(|first| first.saturating_sub(1)).or(notification.events_since_start).unwrap_or_default();
        Numbers { heard, told: heard, unsure_since_ms: Some(now_ms), ..Numbers::default() }
    }

    /// From when on something is to be done about what was not heard.
    pub fn due_ms(&self) -> Option<i64> {
        let missing_ms = self.missing_since_ms.map(|since_ms| since_ms + PATIENCE_MS);
        [missing_ms, self.unsure_since_ms, self.trouble_since_ms].into_iter().flatten().min()
    }

    pub fn is_missing(&self) -> bool {
        self.heard < self.told
    }

    /// All that happened up to event `until` is known, as it was asked for at `asked_ms`.
    pub fn caught_up(&mut self, until: u64, asked_ms: i64) {
        self.heard = self.heard.max(until.min(self.told));
        self.close_up();
        if !self.is_missing() {
            self.missing_since_ms = None;
        }
        self.unsure_since_ms = self.unsure_since_ms.filter(|since_ms| asked_ms < *since_ms);
    }

    /// What the source said of trouble until then is known.
    pub fn looked_after(&mut self, until_ms: i64) {
        self.trouble_since_ms = self.trouble_since_ms.filter(|since_ms| until_ms < *since_ms);
    }

    fn close_up(&mut self) {
        while let Some(next) = self.ahead.first().copied().filter(|next| *next <= self.heard.saturating_add(1)) {
            self.ahead.remove(&next);
            self.heard = self.heard.max(next);
        }
    }
}
