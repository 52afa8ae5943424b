//! `nephrogate import`

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};

use super::StoreArgs;
use crate::issue::Disposition;
use crate::pipeline::backfill::{Beside, Step};
use crate::pipeline::import::{self, ImportError, Summary};

/// Unmapped codes that the summary names.
const CODES_NAMED: usize = 10;

#[derive(clap::Args)]
#[command(
    after_help = "A file is known by its bytes: a second run skips what was taken and goes on where an interrupted one stopped.\nExit codes: 0 everything was taken; 1 lines were rejected, and are named; 2 wrong usage; 3 a file cannot be read; 4 the store cannot be used."
)]
pub struct Args {
    /// Site whose mapping reads the files
    #[arg(long, value_name = "SITE")]
    site: String,
    #[command(flatten)]
    store: StoreArgs,
    /// NDJSON files, JSON files of one resource or Bundle, each also as .gz, files of HL7 v2 messages, or folders of them
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    crate::app::start_log();
    let files = import::find_files(&args.paths)?;
    if files.is_empty() {
        bail!("no .ndjson, .json or .hl7 file, or .gz of one, below the given paths");
    }
    let pipeline = crate::app::open_store(&args.store)?;
    let Some(site) = pipeline.catalogue.sites.get(&args.site).cloned() else {
        return Ok(super::not_known("site", &args.site, pipeline.catalogue.sites.keys()));
    };
    let bar = ProgressBar::new(files.iter().map(|file| file.bytes).sum());
    bar.set_style(
        ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} eta {eta}").context("a progress bar's template")?,
    );
    bar.set_message("taking");
    let watch = |step| match step {
        Step::Taken { bytes, is_end: _ } => bar.inc(bytes),
        Step::Judged { subjects } => {
            if bar.length().is_some() {
                bar.finish_and_clear();
            }
            bar.println(format!("judged {subjects} subjects"));
        }
    };
    let beside = Beside { now_ms: &super::now_ms, is_stopped: &|| false, watch: &watch };
    let summary = import::import(&pipeline, &site, import::FEED, &files, beside);
    bar.finish_and_clear();
    match summary {
        Ok(summary) => {
            print(&summary);
            let is_clean = !summary.dispositions.contains_key(&Disposition::Rejected);
            Ok(if is_clean { ExitCode::SUCCESS } else { ExitCode::from(1) })
        }
        Err(ImportError::Store(error)) => {
            Err(crate::app::StoreTrouble::from(error)).context("what was taken before is kept; run the same command again")
        }
        Err(error @ (ImportError::File { .. } | ImportError::Stopped)) => {
            Err(error).context("what was taken before is kept; run the same command again")
        }
    }
}

fn print(summary: &Summary) {
    let seconds = |time: Duration| format!("{:.1} s", time.as_secs_f64());
    println!("received      {:>10}  from {} files in {}", summary.received, summary.files, seconds(summary.taking));
    for disposition in Disposition::ALL {
        if let Some(count) = summary.dispositions.get(&disposition) {
            println!("{:<13} {count:>10}", disposition.word());
        }
    }
    println!("judged        {:>10}  subjects in {}", summary.judged, seconds(summary.judging));
    if summary.files_known != 0 {
        println!("{} files were taken by an earlier run and were skipped", summary.files_known);
    }
    for path in &summary.files_not_fhir {
        println!("skipped, not FHIR: {}", path.display());
    }
    if !summary.unmapped.is_empty() {
        println!("codes that the mapping does not name (add them to mapping.json, then run redrive):");
        for (code, count) in summary.unmapped.iter().take(CODES_NAMED) {
            println!("  {count:>8}  {code}");
        }
    }
    if !summary.rejected.is_empty() {
        println!("rejected lines:");
        for rejected in &summary.rejected {
            println!("  {}:{}: {} ({})", rejected.path.display(), rejected.line, rejected.issue.code, rejected.issue.path);
        }
        let all = summary.dispositions.get(&Disposition::Rejected).copied().unwrap_or(0);
        if summary.rejected.len() < all {
            println!("  and {} more", all - summary.rejected.len());
        }
    }
}
