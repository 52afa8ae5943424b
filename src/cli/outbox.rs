//! `nephrogate outbox`: what is written back to EHRs, one line an item; a named person's release of a study from
//! shadow; a dead letter put back to work; the kill switch. Sends nothing itself: a running gateway does.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::process::ExitCode;

use serde::Serialize;
use serde_json::value::RawValue;

use super::StoreArgs;
use crate::pipeline::{Pipeline, judge};
use crate::store::outbox::{self, Item, ItemState};
use crate::store::switches::{self, Switch};

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Show what was planned, sent and proven
    List {
        #[command(flatten)]
        store: StoreArgs,
        /// planned, shadow, sent, confirmed, superseded, degraded, rejected or lost
        #[arg(long, value_name = "STATE", value_parser = state_of_word)]
        state: Option<ItemState>,
        #[arg(long, value_name = "SITE")]
        site: Option<String>,
        #[arg(long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Put a rejected or lost item back to work
    Replay {
        #[command(flatten)]
        store: StoreArgs,
        /// Number of the item, as `outbox list` shows it
        item: i64,
    },
    /// Let a study's write-back out of shadow at one site; without --by, show what would be sent
    Release {
        #[command(flatten)]
        store: StoreArgs,
        #[arg(long, value_name = "STUDY")]
        study: String,
        #[arg(long, value_name = "SITE")]
        site: String,
        /// Who releases it, by name; it is recorded
        #[arg(long, value_name = "NAME")]
        by: Option<String>,
    },
    /// Stop writing to one site's EHR, or about one study there; what takes something back goes on
    Stop(Turn),
    /// Let a stopped write-back go on
    Resume(Turn),
}

#[derive(clap::Args)]
struct Turn {
    #[command(flatten)]
    store: StoreArgs,
    #[arg(long, value_name = "SITE")]
    site: String,
    /// The whole site, where it is left out
    #[arg(long, value_name = "STUDY")]
    study: Option<String>,
    /// Who says so, by name; it is recorded
    #[arg(long, value_name = "NAME")]
    by: String,
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Table,
    Ndjson,
}

fn state_of_word(word: &str) -> Result<ItemState, String> {
    ItemState::from_word(word).ok_or_else(|| "one of planned, shadow, sent, confirmed, superseded, degraded, rejected, lost".to_owned())
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::List { store, state, site, format } => {
            let pipeline = super::open_existing(&store)?;
            let items = pipeline.store.read_blocking(|tx| outbox::list(tx, site.as_deref(), state))?;
            print(&items, format)
        }
        Command::Replay { store, item } => {
            let pipeline = super::open_existing(&store)?;
            if pipeline.store.write_blocking(|tx| outbox::replay(tx, item, super::now_ms()))? {
                println!("item {item} is planned again");
                return Ok(ExitCode::SUCCESS);
            }
            eprintln!("item {item} is neither rejected nor lost, or a newer plan overtook it; outbox list shows the items");
            Ok(ExitCode::from(1))
        }
        Command::Release { store, study, site, by } => release(&super::open_existing(&store)?, &study, &site, by.as_deref()),
        Command::Stop(turn) => turn_switch(turn, true),
        Command::Resume(turn) => turn_switch(turn, false),
    }
}

/// Turns the kill switch; a gateway that runs heeds it before its next request.
fn turn_switch(turn: Turn, is_stopped: bool) -> anyhow::Result<ExitCode> {
    let pipeline = super::open_existing(&turn.store)?;
    let study = turn.study.unwrap_or_default();
    if !study.is_empty() && !pipeline.catalogue.studies.contains_key(&study) {
        return Ok(super::not_known("study", &study, pipeline.catalogue.studies.keys()));
    }
    if !pipeline.catalogue.sites.contains_key(&turn.site) {
        return Ok(super::not_known("site", &turn.site, pipeline.catalogue.sites.keys()));
    }
    let (by, reason) = (turn.by.trim(), turn.reason.trim());
    if by.is_empty() || reason.is_empty() {
        eprintln!("a switch is turned by a named person for a reason: give --by and --reason");
        return Ok(ExitCode::from(2));
    }
    let what = if study.is_empty() { turn.site.clone() } else { format!("{study} at {}", turn.site) };
    let switch = Switch { site: turn.site, study, is_stopped, at_ms: super::now_ms(), who: by.to_owned(), reason: reason.to_owned() };
    pipeline.store.write_blocking(|tx| switches::turn(tx, &switch))?;
    if is_stopped {
        println!("write-back of {what} is stopped by {by}; what takes something back still goes");
    } else {
        println!("write-back of {what} goes on, says {by}");
    }
    Ok(ExitCode::SUCCESS)
}

/// Plans anew from today's state, shows what waits, and lets it go when a name stands for it (rulings.md 24).
fn release(pipeline: &Pipeline, study: &str, site: &str, by: Option<&str>) -> anyhow::Result<ExitCode> {
    if !pipeline.catalogue.studies.contains_key(study) {
        return Ok(super::not_known("study", study, pipeline.catalogue.studies.keys()));
    }
    if !pipeline.catalogue.sites.contains_key(site) {
        return Ok(super::not_known("site", site, pipeline.catalogue.sites.keys()));
    }
    let now_ms = super::now_ms();
    while 0 < judge::waiting(pipeline, now_ms, 1_000)? {}
    judge::plan_for_release(pipeline, site, study, now_ms)?;
    let items = pipeline.store.read_blocking(|tx| outbox::list(tx, Some(site), Some(ItemState::Shadow)))?;
    let items: Vec<Item> = items.into_iter().filter(|item| item.study == study).collect();
    print(&items, Format::Table)?;
    let Some(by) = by.map(str::trim).filter(|by| !by.is_empty()) else {
        println!("nothing was released: run this again with --by and the name of the person who releases it");
        return Ok(ExitCode::from(1));
    };
    let released = pipeline.store.write_blocking(|tx| outbox::release(tx, site, study, by, now_ms))?;
    judge::tell_after_release(pipeline, site, study, now_ms)?;
    println!("{released} items released by {by}; the gateway sends them");
    Ok(ExitCode::SUCCESS)
}

/// One item as a line of JSON; `body` is the resource itself, so that anyone can validate what is written.
#[derive(Serialize)]
struct Line<'a> {
    item: i64,
    state: &'a str,
    site: &'a str,
    study: &'a str,
    subject: &'a str,
    rung: &'a str,
    key: &'a str,
    purpose: crate::writeback::Purpose,
    method: &'a str,
    /// Relative to the FHIR base of the receiver.
    url: &'a str,
    headers: BTreeMap<&'a str, &'a str>,
    /// `null` for a DELETE.
    body: Option<&'a RawValue>,
    /// Paths of what receiver.json leaves out of the body.
    left_out: &'a [String],
    attempts: i64,
    last_status: Option<i64>,
    last_error: Option<&'a str>,
    server_id: Option<&'a str>,
    server_version: Option<&'a str>,
    /// RFC 3339 UTC.
    created: String,
    next_attempt: Option<String>,
}

fn print(items: &[Item], format: Format) -> anyhow::Result<ExitCode> {
    super::print("the list", |out| match format {
        Format::Ndjson => items.iter().try_for_each(|item| writeln!(out, "{}", line(item)?)),
        Format::Table => table(out, items),
    })?;
    Ok(ExitCode::SUCCESS)
}

fn line(item: &Item) -> io::Result<String> {
    let request = &item.request;
    let is_pending = matches!(item.state, ItemState::Planned | ItemState::Sent);
    let line = Line {
        item: item.id,
        state: item.state.word(),
        site: &item.site,
        study: &item.study,
        subject: &item.subject,
        rung: &request.rung,
        key: &request.key,
        purpose: request.purpose,
        method: &request.method,
        url: &request.url,
        headers: request.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect(),
        body: if request.body.is_empty() { None } else { Some(serde_json::from_str(&request.body).map_err(io::Error::other)?) },
        left_out: &request.left_out,
        attempts: item.attempts,
        last_status: item.last_status,
        last_error: item.last_error.as_deref(),
        server_id: item.server_id.as_deref(),
        server_version: item.server_version.as_deref(),
        created: instant(item.created_ms),
        next_attempt: is_pending.then(|| instant(item.next_attempt_ms)),
    };
    serde_json::to_string(&line).map_err(io::Error::other)
}

fn table(out: &mut impl Write, items: &[Item]) -> io::Result<()> {
    writeln!(
        out,
        "{:>6}  {:10}  {:16}  {:16}  {:12}  {:5}  {:8}  what the last attempt said",
        "item", "state", "what", "study", "subject", "tries", "created"
    )?;
    for item in items {
        let created = instant(item.created_ms);
        let said = item.last_error.as_deref().unwrap_or_default();
        let (id, state, what) = (item.id, item.state.word(), &item.request.resource_type);
        writeln!(out, "{id:>6}  {state:10}  {what:16}  {:16}  {:12}  {:5}  {created}  {said}", item.study, item.subject, item.attempts)?;
    }
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for item in items {
        *counts.entry(item.state.word()).or_default() += 1;
    }
    let counts: Vec<String> = counts.iter().map(|(state, count)| format!("{count} {state}")).collect();
    writeln!(out, "{} items{}{}", items.len(), if counts.is_empty() { "" } else { ": " }, counts.join(", "))
}

fn instant(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map(|at| at.to_string()).unwrap_or_default()
}
