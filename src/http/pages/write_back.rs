//! The outbox as a page: what waits, what was confirmed, what a person must look at.

use askama::Template;

use super::Shell;
use super::text::{self, Clock};
use crate::store::outbox::{Item, ItemState};
use crate::writeback::Purpose;

/// Rows shown; the command prints all.
const ROWS: usize = 200;

const STATES: [ItemState; 8] = [
    ItemState::Planned,
    ItemState::Shadow,
    ItemState::Sent,
    ItemState::Confirmed,
    ItemState::Superseded,
    ItemState::Degraded,
    ItemState::Rejected,
    ItemState::Lost,
];

#[derive(Template)]
#[template(path = "write_back.html")]
pub struct Outbox {
    shell: Shell,
    tiles: Vec<Tile>,
    meaning: Option<&'static str>,
    rows: Vec<Row>,
    more: usize,
}

struct Tile {
    word: &'static str,
    count: usize,
    href: String,
    is_current: bool,
}

struct Row {
    id: i64,
    subject: String,
    card: Option<String>,
    study: String,
    method: String,
    url: String,
    short_url: String,
    is_retraction: bool,
    state: &'static str,
    says: String,
    attempts: i64,
    ago: String,
}

/// `items` oldest first, of all states.
pub fn view(shell: Shell, items: Vec<Item>, state: Option<ItemState>, clock: &Clock) -> Outbox {
    let tiles = STATES
        .into_iter()
        .map(|of| Tile {
            word: of.word(),
            count: items.iter().filter(|item| item.state == of).count(),
            href: if state == Some(of) { "/write-back".into() } else { format!("/write-back?state={}", of.word()) },
            is_current: state == Some(of),
        })
        .filter(|tile| tile.count > 0 || tile.is_current || matches!(tile.word, "planned" | "sent" | "confirmed"))
        .collect();
    let shown: Vec<Item> = items.into_iter().rev().filter(|item| state.is_none_or(|state| item.state == state)).collect();
    Outbox {
        shell,
        tiles,
        meaning: state.map(text::item_state),
        more: shown.len().saturating_sub(ROWS),
        rows: shown.into_iter().take(ROWS).map(|item| row(item, clock)).collect(),
    }
}

fn row(item: Item, clock: &Clock) -> Row {
    let proof = match (&item.server_id, &item.server_version) {
        (Some(id), Some(version)) => format!("read back as {}/{} version {version}", item.request.resource_type, text::short_id(id)),
        (Some(id), None) => format!("read back as {}/{}", item.request.resource_type, text::short_id(id)),
        (None, _) => text::item_state(item.state).to_owned(),
    };
    Row {
        id: item.id,
        card: (!item.subject.is_empty()).then(|| super::card_href(&item.study, &item.site, &item.subject)),
        subject: item.subject,
        study: item.study,
        method: item.request.method,
        short_url: match item.request.url.split_once('/') {
            Some((kind, id)) => format!("{kind}/{}", text::short_id(id)),
            None => text::short_id(&item.request.url),
        },
        url: item.request.url,
        is_retraction: item.request.purpose == Purpose::Retract,
        state: item.state.word(),
        says: match item.state {
            ItemState::Confirmed => proof,
            ItemState::Planned
            | ItemState::Sent
            | ItemState::Shadow
            | ItemState::Superseded
            | ItemState::Degraded
            | ItemState::Rejected
            | ItemState::Lost => item.last_error.unwrap_or_else(|| text::item_state(item.state).to_owned()),
        },
        attempts: item.attempts,
        ago: clock.ago(item.created_ms),
    }
}
