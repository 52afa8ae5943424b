//! `nephrogate feed`: how the configured feeds stand, and one round of one of them in the foreground.

use std::io::{self, BufWriter, Write};
use std::process::ExitCode;
use std::sync::atomic::AtomicI64;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::watch;

use crate::app::{Faults, StoreTrouble};
use crate::clinical::date::PartialDate;
use crate::config::Config;
use crate::feeds::{self, Beside, Round, Seen, Trouble};
use crate::store::feeds::FeedState;

#[derive(clap::Args)]
#[command(after_help = "A feed reads one source of one site by itself while the gateway runs (docs/feeds.md). Its state:

  complete until   everything that the source held at that time is here
  last received    when it last brought something new
  trouble          why its last round failed, and whether a person has to change something

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
        #[arg(long, value_name = "SITE")]
        site: String,
        /// Name of the feed
        #[arg(long, value_name = "NAME")]
        feed: String,
    },
}

#[derive(clap::Args)]
struct ConfigArg {
    /// Configuration file of the gateway
    #[arg(long, value_name = "FILE")]
    config: std::path::PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Table,
    Json,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    crate::app::start_log();
    match args.command {
        Command::List { config, site, format } => list(&config, site.as_deref(), format),
        Command::Run { config, site, feed } => run_once(&config, &site, &feed),
    }
}

fn list(config: &ConfigArg, site: Option<&str>, format: Format) -> anyhow::Result<ExitCode> {
    let config = Config::read(&config.config).map_err(Faults)?;
    let (pipeline, _) = crate::app::open_configured(&config)?;
    let states = pipeline.store.read_blocking(|tx| crate::store::feeds::states(tx, site)).map_err(StoreTrouble)?;
    let now_ms = super::now_ms();
    let mut out = BufWriter::new(io::stdout().lock());
    let written = match format {
        Format::Json => serde_json::to_string_pretty(&states).map_err(io::Error::other).and_then(|text| writeln!(out, "{text}")),
        Format::Table => table(&mut out, &states, now_ms),
    };
    match written.and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error).context("the feeds could not be printed"),
        Ok(()) | Err(_) => {}
    }
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

fn run_once(config: &ConfigArg, site: &str, name: &str) -> anyhow::Result<ExitCode> {
    let config = Config::read(&config.config).map_err(Faults)?;
    let (pipeline, _) = crate::app::open_configured(&config)?;
    let feeds = config.feeds().map_err(|fault| Faults(vec![fault]))?;
    let Some(feed) = feeds.iter().find(|feed| feed.site == site && feed.name == name) else {
        let known: Vec<String> = feeds.iter().map(|feed| format!("{} {}", feed.site, feed.name)).collect();
        eprintln!("error: this site has no feed of this name: {site} {name}\nhint: configured are {}", known.join(", "));
        return Ok(ExitCode::from(2));
    };
    feeds::register(&pipeline, std::slice::from_ref(feed)).map_err(StoreTrouble)?;
    let now_ms = super::now_ms();
    pipeline.store.write_blocking(|tx| crate::store::feeds::ask(tx, site, name, now_ms)).map_err(StoreTrouble)?;
    let bar = ProgressBar::new_spinner();
    bar.set_style(ProgressStyle::with_template("{spinner} {msg} {elapsed}").context("a progress bar's template")?);
    let watch = |round: &Round| {
        bar.set_message(format!("{} read, {} new", round.shown, round.taken));
        bar.tick();
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let went = runtime.block_on(async {
        let (stop, mut stopped) = watch::channel(false);
        tokio::spawn(async move {
            if tokio::signal::ctrl_c().await.is_ok() {
                stop.send_replace(true);
            }
            // Keeps its end until the round is over.
            stop.closed().await;
        });
        let beat = AtomicI64::new(now_ms);
        feeds::try_round(&pipeline, feed, &mut Seen::default(), now_ms, Beside { beat: &beat, stopped: &mut stopped, watch: &watch }).await
    });
    bar.finish_and_clear();
    match went.map_err(StoreTrouble)? {
        None => {
            eprintln!("error: another gateway works on this feed now\nhint: nephrogate feed list shows how it stands");
            Ok(ExitCode::from(1))
        }
        Some(Ok(round)) => {
            println!("{} read, {} new; {} in quarantine, {} rejected", round.shown, round.taken, round.quarantined, round.rejected);
            if let Some(complete_until_ms) = round.complete_until_ms {
                println!("everything that the source held at {} is here", at(Some(complete_until_ms)));
            }
            Ok(ExitCode::SUCCESS)
        }
        Some(Err(Trouble::Store(error))) => Err(StoreTrouble(error).into()),
        Some(Err(trouble)) => {
            eprintln!("error: {trouble}\nhint: what was read until then is kept, and the next round goes on from there");
            Ok(ExitCode::from(3))
        }
    }
}
