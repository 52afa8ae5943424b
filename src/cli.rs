//! The command line: one file per command. Exit codes: 0 done, 1 the answer is "no" or "faults found", 2 wrong usage,
//! 3 a file or address could not be used, 4 the store could not be used.

pub mod backup;
pub mod check;
pub mod demo;
pub mod digest;
pub mod egfr;
pub mod feed;
pub mod import;
pub mod outbox;
pub mod receiver;
pub mod reconcile;
pub mod redrive;
pub mod report;
pub mod screen;
pub mod serve;
pub mod source;

use std::io::{self, BufWriter, StdoutLock, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::catalogue::Catalogue;
use crate::clinical::date::AsOf;
use crate::pipeline::Pipeline;

#[derive(Parser)]
#[command(
    name = "nephrogate",
    version,
    about = "A FHIR gateway for kidney trials: EHR result in, explained verdict, study flag back in the EHR, proven to have arrived.",
    after_help = "Start here:\n  nephrogate demo                      a hospital with synthetic patients, in the browser\n  nephrogate screen --help             screen FHIR files in one shot, without a store\n  nephrogate serve --config FILE       the gateway itself\n\nExit codes: 0 done; 1 the answer is no, or faults were found; 2 wrong usage; 3 a file or address cannot be used; 4 the store cannot be used."
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Run the demo hospital with synthetic patients on the embedded store
    Demo(demo::Args),
    /// Run the gateway
    Serve(serve::Args),
    /// Take FHIR NDJSON files or folders into a store
    Import(import::Args),
    /// Show how feeds stand, or run one now
    Feed(feed::Args),
    /// Screen FHIR NDJSON files in one shot, without a store
    Screen(screen::Args),
    /// Report a trial: enrolment, follow-up, safety and outcomes, from a store or from files
    Report(report::Args),
    /// Compute one eGFR by a published equation
    Egfr(egfr::Args),
    /// Check mappings, studies and profiles, and run their examples
    Check(check::Args),
    /// Show, release or replay what is written back
    Outbox(outbox::Args),
    /// Show how a site's EHR is written to, and why not better; probe it with a test patient
    Receiver(receiver::Args),
    /// Check whether a site's EHR lets this gateway in, and answers what its feeds will ask
    Source(source::Args),
    /// Compare what an EHR should hold with what it holds, and mend what is ours
    Reconcile(reconcile::Args),
    /// Print one hash of what is known at a site and one of what follows, to compare gateways or doors
    Digest(digest::Args),
    /// Put quarantined messages through the mended mapping
    Redrive(redrive::Args),
    /// Write a consistent copy of the store
    Backup(backup::Args),
}

/// Which store a command works on (rulings.md 35).
#[derive(clap::Args, Clone, Debug)]
#[group(required = true, multiple = false)]
pub struct StoreArgs {
    /// Folder of an embedded store, such as the demo's
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Configuration file of the gateway
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Opens the store of a command about what is in it: none is made where a folder was misspelt.
fn open_existing(args: &StoreArgs) -> anyhow::Result<Pipeline> {
    existing(args)?;
    crate::app::open_store(args)
}

/// An error where the folder that was named holds no store.
fn existing(args: &StoreArgs) -> anyhow::Result<()> {
    match &args.dir {
        Some(dir) if !dir.join(crate::store::FILE_NAME).exists() => {
            anyhow::bail!("{}: there is no store here: name the folder of a store", dir.display())
        }
        Some(_) | None => Ok(()),
    }
}

/// Milliseconds since 1970 UTC.
fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Demo(args) => demo::run(args),
        Command::Serve(args) => serve::run(args),
        Command::Import(args) => import::run(args),
        Command::Feed(args) => feed::run(args),
        Command::Screen(args) => screen::run(args),
        Command::Report(args) => report::run(args),
        Command::Egfr(args) => egfr::run(args),
        Command::Check(args) => check::run(args),
        Command::Outbox(args) => outbox::run(args),
        Command::Receiver(args) => receiver::run(args),
        Command::Source(args) => source::run(args),
        Command::Reconcile(args) => reconcile::run(args),
        Command::Digest(args) => digest::run(args),
        Command::Redrive(args) => redrive::run(args),
        Command::Backup(args) => backup::run(args),
    }
}

/// How a command says its answer.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Table,
    Json,
}

/// Writes an answer to the standard output. Who closes the pipe, as `| head` does, has seen enough.
fn print(what: &str, write: impl FnOnce(&mut BufWriter<StdoutLock<'static>>) -> io::Result<()>) -> anyhow::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    match write(&mut out).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).with_context(|| format!("{what} could not be printed")),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// A date with all of its day, or an instant (rulings.md 1).
fn as_of(text: &str) -> Result<AsOf, String> {
    AsOf::parse(text).map_err(|_| "not a FHIR date; write YYYY-MM-DD, or an instant such as 2026-11-01T12:00:00Z".to_owned())
}

/// The catalogue of a folder, else what is compiled in; what is wrong with it has been said on stderr.
fn load_catalogue(folder: Option<&Path>) -> Result<Catalogue, ()> {
    Catalogue::load(folder).map_err(|faults| {
        for fault in &faults {
            eprintln!("error: {} {}: {}\nhint: {}", fault.file, fault.path, fault.message, fault.hint);
        }
    })
}

fn not_known<'a>(what: &str, id: &str, known: impl Iterator<Item = &'a String>) -> ExitCode {
    let known: Vec<&str> = known.map(String::as_str).collect();
    eprintln!("error: no {what} has this id: {id}\nhint: known are {}", known.join(", "));
    ExitCode::from(2)
}
