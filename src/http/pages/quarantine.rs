//! What was kept and not used, with its reason, and the sum that shows that nothing is lost.

use std::collections::BTreeMap;

use askama::Template;

use super::Shell;
use super::text::{self, Clock};
use crate::issue::{Disposition, Effect};
use crate::store::messages::{CodeCount, Conservation, Message};

/// Messages of one page, as the store gives them.
const ROWS: usize = 100;

#[derive(Template)]
#[template(path = "quarantine.html")]
pub struct Quarantine {
    shell: Shell,
    site_name: String,
    received: i64,
    parts: Vec<Part>,
    adds_up: bool,
    difference: i64,
    page: usize,
    rows: Vec<Row>,
    shown: String,
    previous: Option<String>,
    next: Option<String>,
    codes: Vec<CodeCount>,
}

struct Part {
    word: &'static str,
    meaning: &'static str,
    count: i64,
}

struct Row {
    message: i64,
    resource: String,
    subject: String,
    card: Option<String>,
    code: &'static str,
    meaning: &'static str,
    action: &'static str,
    detail: Option<String>,
    path: String,
    alike: usize,
    at: String,
    machine: String,
    ago: String,
    feed: String,
}

pub struct Source<'a> {
    pub site: String,
    pub site_name: String,
    pub conservation: Conservation,
    pub messages: Vec<Message>,
    pub total: i64,
    pub page: usize,
    /// Studies that this site is judged for; the first one's card is linked.
    pub study: Option<String>,
    pub clock: &'a Clock,
}

pub fn view(shell: Shell, source: Source<'_>) -> Quarantine {
    let Source { site, site_name, conservation, messages, total, page, study, clock } = source;
    let rows: Vec<Row> = messages.into_iter().map(|message| row(message, study.as_deref(), clock)).collect();
    let mut alike: BTreeMap<(&'static str, String), usize> = BTreeMap::new();
    for row in &rows {
        *alike.entry((row.code, row.path.clone())).or_default() += 1;
    }
    let first = page * ROWS + 1;
    let last = page * ROWS + rows.len();
    let turned = |to: usize| format!("/sites/{}/quarantine?page={to}", super::percent(&site));
    Quarantine {
        site_name,
        received: conservation.received,
        parts: Disposition::ALL
            .into_iter()
            .map(|disposition| Part {
                word: disposition.word(),
                meaning: text::disposition(disposition),
                count: conservation.dispositions.get(disposition.word()).copied().unwrap_or(0),
            })
            .filter(|part| part.count > 0 || part.word == Disposition::Applied.word())
            .collect(),
        adds_up: conservation.difference == 0 && conservation.rows_agree,
        difference: conservation.difference,
        page,
        shown: format!("{first} to {last} of {total}"),
        previous: page.checked_sub(1).map(turned),
        next: ((last as i64) < total).then(|| turned(page + 1)),
        rows: rows.into_iter().map(|row| Row { alike: alike[&(row.code, row.path.clone())], ..row }).collect(),
        codes: conservation.codes,
        shell,
    }
}

fn row(message: Message, study: Option<&str>, clock: &Clock) -> Row {
    // What holds it back comes before what merely was noticed.
    let holds = |effect: Effect| match effect {
        Effect::Quarantine | Effect::Reject => true,
        Effect::Warn => false,
    };
    let issue = message.issues.iter().find(|issue| holds(issue.code.effect())).or(message.issues.first());
    Row {
        message: message.message,
        resource: match &message.id {
            Some(id) => format!("{}/{id}", message.resource_type),
            None => message.resource_type.clone(),
        },
        card: message.subject.as_deref().zip(study).map(|(subject, study)| super::card_href(study, &message.site, subject)),
        subject: message.subject.unwrap_or_default(),
        code: issue.map_or("", |issue| issue.code.word()),
        meaning: issue.map_or("no reason was kept", |issue| issue.code.meaning()),
        action: issue.map_or("", |issue| issue.code.action()),
        detail: issue.and_then(|issue| issue.detail.clone()).or(message.code),
        path: issue.map(|issue| issue.path.clone()).unwrap_or_default(),
        alike: 0,
        at: clock.time(message.received_ms),
        machine: clock.machine(message.received_ms),
        ago: clock.ago(message.received_ms),
        feed: message.feed,
    }
}
