//! How each feed stands: what it has brought, up to when its source's data is here, what troubles it, and what the last
//! comparison with the source found. Feeds that push have no state of their own and are shown by what they brought.

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use askama::Template;

use super::super::access::{Person, now_ms};
use super::super::error::Refusal;
use super::super::feeds::{self, FeedShown};
use super::text::{self, Clock};
use super::{Shell, html, shell};
use crate::catalogue::Catalogue;
use crate::pipeline::decide;
use crate::store::comparisons::{self, Comparison};
use crate::store::drift::{self, Drift};
use crate::store::messages::{self, Freshness};
use crate::store::{Store, StoreError, Tx};

#[derive(Template)]
#[template(path = "feeds.html")]
struct Feeds {
    shell: Shell,
    rows: Vec<Row>,
}

struct Row {
    site: String,
    feed: String,
    kind: String,
    /// Class and word of the badge.
    badge: (&'static str, &'static str),
    complete: Option<Time>,
    last: Option<Time>,
    received: i64,
    says: Vec<String>,
    comparison: Option<Compared>,
    next: Option<String>,
}

struct Time {
    machine: String,
    time: String,
    ago: String,
}

struct Compared {
    at: Time,
    class: &'static str,
    says: String,
}

/// What is known of one feed.
struct Known {
    shown: FeedShown,
    comparison: Option<Comparison>,
}

pub async fn page(request: HttpRequest, person: Person, store: Data<Store>, catalogue: Data<Catalogue>) -> Result<HttpResponse, Refusal> {
    let own = person.site_scope(None)?;
    let clock = Clock::new(now_ms());
    let now_ms = clock.now_ms;
    let (known, pushed) = store
        .read(move |tx| {
            let known = known(tx, own.as_deref(), now_ms)?;
            let is_pushed = |fresh: &Freshness| {
                fresh.feed != decide::FEED && !known.iter().any(|of: &Known| of.shown.state.site == fresh.site && of.shown.state.feed == fresh.feed)
            };
            let pushed = messages::freshness(tx, own.as_deref())?.into_iter().filter(is_pushed);
            let pushed = pushed.map(|fresh| Ok((drift::drift(tx, &fresh.site, &fresh.feed, now_ms)?, fresh)));
            let pushed: Vec<(Vec<Drift>, Freshness)> = pushed.collect::<Result<_, StoreError>>()?;
            Ok((known, pushed))
        })
        .await?;
    let shell = shell(&request, &catalogue, &person, &clock, "feeds", "Feeds".to_owned());
    let pushed: Vec<Row> = pushed.iter().map(|(drift, fresh)| pushed_row(fresh, drift, &shell, &clock)).collect();
    let rows = known.iter().map(|of| row(of, &shell, &clock)).chain(pushed).collect();
    html(&Feeds { shell, rows })
}

fn known(tx: &mut Tx<'_>, site: Option<&str>, now_ms: i64) -> Result<Vec<Known>, StoreError> {
    let each = feeds::shown(tx, site, now_ms)?.into_iter().map(|shown| {
        let comparison = comparisons::newest(tx, &shown.state.site, &shown.state.feed)?;
        Ok(Known { shown, comparison })
    });
    each.collect()
}

fn site_name(shell: &Shell, site: &str) -> String {
    shell.sites.iter().find(|known| known.id == site).map_or_else(|| site.to_owned(), |known| known.name.clone())
}

fn row(known: &Known, shell: &Shell, clock: &Clock) -> Row {
    let Known { shown: FeedShown { state, silent_since_ms, drift, hints_waiting: hints, roster, .. }, comparison } = known;
    let is_silent = silent_since_ms.is_some();
    let badge = match (&state.trouble, state.needs_person) {
        (Some(_), true) => ("not-met", "needs a person"),
        (Some(_), false) => ("unknown", "waits"),
        (None, _) if is_silent => ("not-met", "silent"),
        (None, _) if state.kind == "mllp" => ("met", "listens"),
        (None, _) => ("met", "goes round"),
    };
    let mut says = Vec::new();
    if let Some(trouble) = &state.trouble {
        says.push(match state.failures {
            0 => text::sentence(trouble),
            failures => format!("{}; {failures} in a row", text::sentence(trouble)),
        });
    }
    if is_silent {
        says.push("It has brought nothing for longer than its site expects.".to_owned());
    }
    says.extend(drift.iter().map(|drift| text::sentence(&drift.words())));
    if 0 < *hints {
        says.push(format!("{hints} changes were announced and are still to be read."));
    }
    if let Some(roster) = roster {
        let refused = if roster.refused == 0 { String::new() } else { format!(", {} refused by the source", roster.refused) };
        says.push(format!(
            "Roster: {} patients, {} not asked about yet{refused}; {} known here are not on it.",
            roster.listed, roster.not_asked, roster.unseen
        ));
    }
    Row {
        site: site_name(shell, &state.site),
        feed: state.feed.clone(),
        kind: state.kind.clone(),
        badge,
        complete: state.complete_until_ms.map(|ms| time(ms, clock)),
        last: state.last_received_ms.map(|ms| time(ms, clock)),
        received: state.received,
        says,
        comparison: comparison.as_ref().map(|comparison| compared(comparison, clock)),
        next: (clock.now_ms < state.next_attempt_ms).then(|| clock.until(state.next_attempt_ms)),
    }
}

fn pushed_row(fresh: &Freshness, drift: &[Drift], shell: &Shell, clock: &Clock) -> Row {
    Row {
        site: site_name(shell, &fresh.site),
        feed: fresh.feed.clone(),
        kind: "push".to_owned(),
        badge: ("", ""),
        complete: None,
        last: Some(time(fresh.last_received_ms, clock)),
        received: fresh.received,
        says: drift.iter().map(|drift| text::sentence(&drift.words())).collect(),
        comparison: None,
        next: None,
    }
}

fn time(ms: i64, clock: &Clock) -> Time {
    Time { machine: clock.machine(ms), time: clock.time(ms), ago: clock.ago(ms) }
}

fn compared(comparison: &Comparison, clock: &Clock) -> Compared {
    let (class, says) = match &comparison.report {
        None => ("bad", "broke off".to_owned()),
        Some(report) => match &report.trouble {
            Some(trouble) => ("bad", text::sentence(trouble)),
            None if report.is_held_back => ("bad", "much is gone at the source; nothing was withdrawn until a person insists".to_owned()),
            None if report.counts.is_empty() => ("good", format!("{} as expected, nothing differed", report.as_expected)),
            None => {
                let found: Vec<String> = report.counts.iter().map(|(kind, count)| format!("{count} {}", kind.word())).collect();
                ("waiting", format!("{} as expected; {}", report.as_expected, found.join(", ")))
            }
        },
    };
    Compared { at: time(comparison.finished_ms.unwrap_or(comparison.started_ms), clock), class, says }
}
