//! `nephrogate feed`: how the configured feeds stand; a round, a comparison or a fetch by ids of one of them in the foreground.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicI64;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::watch;

use super::Format;
use crate::app::{Faults, StoreTrouble};
use crate::clinical::date::PartialDate;
use crate::config::Config;
use crate::feeds::bulk::Stage;
use crate::feeds::comparison::Mode;
use crate::feeds::{self, Beside, Round, Seen, Task, Trouble};
use crate::fhir::{is_id, is_type};
use crate::store::comparisons::{Kind, Report};
use crate::store::feeds::FeedState;
use crate::store::rosters;

#[derive(clap::Args)]
#[command(after_help = "A feed reads one source of one site by itself while the gateway runs (docs/feeds.md). Its state:

  complete until   everything that the source held at that time is here
  last received    when it last brought something new
  trouble          why its last round failed, and whether a person has to change something

What a comparison finds:

  missing          the source holds it, and it had not come: taken
  outdated         the source holds a newer version: taken
  deleted          the source does not hold it any more, and nobody had said so: withdrawn
  unsearchable     the source holds it, and its searches do not show it: taken
  withdrawn        the source shows what was withdrawn here, in no newer version: a person has to see which is right
  refused          the source does not let us read it

Exit codes: 0 done; 1 a feed is in trouble, or silent for longer than its site expects; 2 wrong usage; 3 the source cannot be read;
4 the store cannot be used.")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Show how every feed stands
    List {
        #[command(flatten)]
        config: ConfigArg,
        /// Only the feeds of this site
        #[arg(long, value_name = "SITE")]
        site: Option<String>,
        #[arg(long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Read one feed's source now, once, and show what it brought
    Run {
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        which: Which,
    },
    /// Compare all that a feed's source shows with what is here, and mend what differs
    Compare {
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        which: Which,
        /// Say what differs and change nothing
        #[arg(long, conflicts_with = "insist")]
        report_only: bool,
        /// Also withdraw what is gone at the source where that is much; NAME is who decided that
        #[arg(long, value_name = "NAME")]
        insist: Option<String>,
    },
    /// List whom a feed's roster does not name, though they are known here: nobody asks about them. One Patient id a line
    Unseen {
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        which: Which,
    },
    /// Take away what a feed has at its source: its Subscriptions. A gateway makes them anew as long as the feed is configured
    Unsubscribe {
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        which: Which,
    },
    /// Read resources anew by their ids, and withdraw those that the source does not hold any more
    Fetch {
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        which: Which,
        /// File with one Type/id a line
        #[arg(long, value_name = "FILE")]
        ids: Option<PathBuf>,
        /// Type/id, such as Observation/123
        #[arg(value_name = "TYPE/ID", required_unless_present = "ids")]
        resources: Vec<String>,
    },
}

#[derive(clap::Args)]
struct Which {
    #[arg(long, value_name = "SITE")]
    site: String,
    /// Name of the feed
    #[arg(long, value_name = "NAME")]
    feed: String,
}

#[derive(clap::Args)]
struct ConfigArg {
    /// Configuration file of the gateway
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Who asks, in the record of comparisons.
const COMMAND_LINE: &str = "command line";

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    crate::app::start_log();
    match args.command {
        Command::List { config, site, format } => list(&config, site.as_deref(), format),
        Command::Run { config, which } => on_feed(&config, &which, &Task::Round),
        Command::Compare { config, which, report_only, insist } => {
            let (mode, who) = match insist {
                Some(name) => (Mode::Insist, name),
                None if report_only => (Mode::ReportOnly, COMMAND_LINE.to_owned()),
                None => (Mode::Mend, COMMAND_LINE.to_owned()),
            };
            on_feed(&config, &which, &Task::Compare { mode, who })
        }
        Command::Unseen { config, which } => unseen(&config, &which),
        Command::Unsubscribe { config, which } => unsubscribe(&config, &which),
        Command::Fetch { config, which, ids, resources } => {
            on_feed(&config, &which, &Task::Fetch { resources: self::resources(&resources, ids.as_deref())? })
        }
    }
}

fn list(config: &ConfigArg, site: Option<&str>, format: Format) -> anyhow::Result<ExitCode> {
    let config = Config::read(&config.config).map_err(Faults)?;
    let (pipeline, _) = crate::app::open_configured(&config)?;
    let states = pipeline.store.read_blocking(|tx| crate::store::feeds::states(tx, site)).map_err(StoreTrouble)?;
    let now_ms = super::now_ms();
    super::print("the feeds", |out| match format {
        Format::Json => serde_json::to_string_pretty(&states).map_err(io::Error::other).and_then(|text| writeln!(out, "{text}")),
        Format::Table => table(out, &states, now_ms),
    })?;
    let is_in_trouble = states.iter().any(|state| state.trouble.is_some() || state.silent_since_ms(now_ms).is_some());
    Ok(ExitCode::from(u8::from(is_in_trouble)))
}

fn table(out: &mut impl Write, states: &[FeedState], now_ms: i64) -> io::Result<()> {
    if states.is_empty() {
        return writeln!(out, "no feed has run yet; feeds stand in the configuration, under sites");
    }
    writeln!(out, "{:<20} {:<20} {:<12} {:<20} {:<20} {:>10}  trouble", "site", "feed", "kind", "complete until", "last received", "received")?;
    for state in states {
        let trouble = match (&state.trouble, state.silent_since_ms(now_ms)) {
            (Some(words), _) if state.failures == 0 => format!("{words} (needs a person)"),
            (Some(words), _) => format!("{words} ({} in a row{})", state.failures, if state.needs_person { "; needs a person" } else { "" }),
            (None, Some(_)) => "silent for longer than its site expects".to_owned(),
            (None, None) => String::new(),
        };
        let (complete, last) = (at(state.complete_until_ms), at(state.last_received_ms));
        writeln!(out, "{:<20} {:<20} {:<12} {complete:<20} {last:<20} {:>10}  {trouble}", state.site, state.feed, state.kind, state.received)?;
    }
    Ok(())
}

/// An instant to the second, or a dash.
fn at(ms: Option<i64>) -> String {
    ms.map_or_else(|| "-".to_owned(), |ms| PartialDate::instant(ms.div_euclid(1_000) * 1_000).to_string())
}

fn unseen(config: &ConfigArg, which: &Which) -> anyhow::Result<ExitCode> {
    let config = Config::read(&config.config).map_err(Faults)?;
    let (pipeline, _) = crate::app::open_configured(&config)?;
    let asked = pipeline.store.read_blocking(|tx| {
        let has_listed = rosters::standing(tx, &which.site, &which.feed)?.listed != 0;
        has_listed.then(|| rosters::unseen(tx, &which.site, &which.feed, usize::MAX)).transpose()
    });
    let Some(unseen) = asked.map_err(StoreTrouble)? else {
        eprintln!("error: this feed has no roster, or has not made it yet\nhint: nephrogate feed list shows which feeds there are");
        return Ok(ExitCode::from(2));
    };
    super::print("who is unseen", |out| unseen.iter().try_for_each(|subject| writeln!(out, "{subject}")))?;
    Ok(ExitCode::SUCCESS)
}

/// The feed itself may be gone from the configuration; its site's source must still be there.
fn unsubscribe(config: &ConfigArg, which: &Which) -> anyhow::Result<ExitCode> {
    let config = Config::read(&config.config).map_err(Faults)?;
    let (pipeline, _) = crate::app::open_configured(&config)?;
    let sources = config.sources().map_err(|fault| Faults(vec![fault]))?;
    let Some(ehr) = sources.get(&which.site) else {
        eprintln!("error: no source is configured for the site {}\nhint: add source with its base_url to the site", which.site);
        return Ok(ExitCode::from(2));
    };
    let Some(left) = feeds::subscription::left(&pipeline, &which.site, &which.feed).map_err(StoreTrouble)? else {
        println!("this feed has no Subscriptions at its source");
        return Ok(ExitCode::SUCCESS);
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    match runtime.block_on(feeds::subscription::remove(&pipeline, ehr, &left)) {
        Ok(count) => {
            println!("{count} Subscriptions were taken away");
            Ok(ExitCode::SUCCESS)
        }
        Err(Trouble::Store(error)) => Err(StoreTrouble(error).into()),
        Err(trouble) => {
            eprintln!("error: {trouble}\nhint: what stands at the source goes on notifying, and is not heard once the feed is gone");
            Ok(ExitCode::from(3))
        }
    }
}

/// What a command does with one feed.
fn on_feed(config: &ConfigArg, which: &Which, task: &Task) -> anyhow::Result<ExitCode> {
    let config = Config::read(&config.config).map_err(Faults)?;
    let (pipeline, _) = crate::app::open_configured(&config)?;
    let feeds = config.feeds().map_err(|fault| Faults(vec![fault]))?;
    let Some(feed) = feeds.iter().find(|feed| feed.site == which.site && feed.name == which.feed) else {
        let known: Vec<String> = feeds.iter().map(|feed| format!("{} of {}", feed.name, feed.site)).collect();
        eprintln!("error: this site has no feed of this name: {} of {}\nhint: configured are {}", which.feed, which.site, known.join(", "));
        return Ok(ExitCode::from(2));
    };
    feeds::register(&pipeline, std::slice::from_ref(feed)).map_err(StoreTrouble)?;
    let now_ms = super::now_ms();
    pipeline.store.write_blocking(|tx| crate::store::feeds::ask(tx, &feed.site, &feed.name, now_ms)).map_err(StoreTrouble)?;
    let bar = ProgressBar::new_spinner();
    bar.set_style(ProgressStyle::with_template("{spinner} {msg} {elapsed}").context("a progress bar's template")?);
    let watch = |round: &Round| {
        bar.set_message(match round.stage {
            None => format!("{} read, {} new", round.shown, round.taken),
            Some(stage) => export_words(stage),
        });
        bar.tick();
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let worked = runtime.block_on(async {
        let (stop, mut stopped) = watch::channel(false);
        tokio::spawn(async move {
            if tokio::signal::ctrl_c().await.is_ok() {
                stop.send_replace(true);
            }
            // Keeps its end until the work is over.
            stop.closed().await;
        });
        let beat = AtomicI64::new(now_ms);
        feeds::work(&pipeline, feed, task, &mut Seen::default(), now_ms, Beside { beat: &beat, stopped: &mut stopped, watch: &watch }).await
    });
    bar.finish_and_clear();
    match worked.map_err(StoreTrouble)? {
        None => {
            eprintln!("error: a gateway works on this feed now\nhint: try again when its round is over; nephrogate feed list shows how it stands");
            Ok(ExitCode::from(1))
        }
        Some(Ok(round)) => {
            if let Some(words) = &round.remark {
                eprintln!("warning: not everything came: {words}");
            }
            println!(
                "{} read, {} new; {} in quarantine, {} rejected, {} withdrawn",
                round.shown, round.taken, round.quarantined, round.rejected, round.withdrawn
            );
            if let Some(complete_until_ms) = round.complete_until_ms {
                println!("everything that the source held at {} is here", at(Some(complete_until_ms)));
            }
            let ended = ExitCode::from(u8::from(round.remark.is_some()));
            Ok(round.report.map_or(ended, |report| compared(&report)))
        }
        Some(Err(Trouble::Store(error))) => Err(StoreTrouble(error).into()),
        Some(Err(trouble)) => {
            eprintln!("error: {trouble}\nhint: what was read until then is kept, and the next round goes on from there");
            Ok(ExitCode::from(3))
        }
    }
}

/// What an export is at.
fn export_words(stage: Stage) -> String {
    match stage {
        Stage::Preparing { percent: None } => "the source prepares its export".to_owned(),
        Stage::Preparing { percent: Some(percent) } => format!("the source prepares its export: {percent} %"),
        Stage::Taking { files_done, files, bytes } => format!("{files_done} of {files} files taken, {} MB", bytes >> 20),
        Stage::Judging { subjects } => format!("{subjects} subjects judged"),
    }
}

fn compared(report: &Report) -> ExitCode {
    for (resource_type, count) in &report.there {
        println!("{resource_type:<28} {count:>10} at the source");
    }
    println!("{:<28} {:>10}\n{:<28} {:>10}", "as expected", report.as_expected, "out of scope or refused here", report.not_kept);
    for kind in Kind::ALL {
        if let Some(count) = report.counts.get(&kind) {
            println!("{:<28} {count:>10}", kind.word());
        }
    }
    for hole in &report.by_code_and_day {
        let (code, day) = (hole.code.as_deref().unwrap_or("-"), hole.day.as_deref().unwrap_or("-"));
        println!("  {:<13} {:<20} {day:<10} {code:<40} {:>8}", hole.kind.word(), hole.resource_type, hole.count);
    }
    for difference in &report.differences {
        println!("  {:<13} {}/{}", difference.kind.word(), difference.resource_type, difference.id);
    }
    if report.is_held_back {
        println!("much is gone at the source, and nothing was withdrawn: look there, then use --insist NAME");
    }
    ExitCode::from(u8::from(report.is_held_back || report.counts.contains_key(&Kind::Refused) || report.counts.contains_key(&Kind::Withdrawn)))
}

/// `Type/id` of each line of a file, and of each argument.
fn resources(named: &[String], file: Option<&Path>) -> anyhow::Result<Vec<(String, String)>> {
    let text = file.map(|file| std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))).transpose()?;
    let lines = text.iter().flat_map(|text| text.lines()).map(str::trim).filter(|line| !line.is_empty());
    let all = lines.chain(named.iter().map(String::as_str)).map(|resource| match resource.split_once('/') {
        Some((resource_type, id)) if is_type(resource_type) && is_id(id) => Ok((resource_type.to_owned(), id.to_owned())),
        Some(_) | None => Err(anyhow::anyhow!("not a resource's place: {resource}; write Type/id, such as Observation/123")),
    });
    all.collect()
}
