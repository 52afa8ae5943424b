//! `nephrogate reconcile`: compares what one EHR should hold with what it holds, both ways, and plans again what is ours
//! and is not as it was. Sends nothing but questions itself: a running gateway sends what is planned.

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};

use super::{Format, StoreArgs};
use crate::app::StoreTrouble;
use crate::pipeline::reconcile::{self, Phase, Progress, Watch};
use crate::store::reconcile::{Difference, Kind, Mode, Run, RunState};

#[derive(clap::Args)]
#[command(after_help = "Both ways: each thing this gateway wrote or took back is read at the EHR by its id, and everything there that carries our
identifier system is searched for.

  missing     we wrote it, and it is gone: planned again
  changed     elements of ours say otherwise now: planned again
  reappeared  we took it back, and it stands there again: taken back again
  copies      several under one key: a merge is proposed, which a person accepts on the write-back page or by the API
  unproven    it stands under a key of ours, and our record says that it should not: a person looks
  unknown     our identifier system, and a key this store never wrote: never touched

Only elements that we wrote count; what the hospital added beside them is neither compared nor changed. What was planned
again once and differs again within 90 days is left to a person, because somebody at the hospital may mean it.
The gateway does the same each night by itself, at 02:00 UTC or of the zone in site.json.

Exit codes: 0 the EHR holds what it should, or will when what was planned again has arrived; 1 differences remain that need a person;
2 wrong usage; 3 the EHR or a file cannot be used; 4 the store cannot be used.")]
pub struct Args {
    /// Site whose EHR is looked at
    #[arg(long, value_name = "SITE")]
    site: String,
    #[command(flatten)]
    store: StoreArgs,
    /// Say what differs and change nothing
    #[arg(long, conflicts_with = "insist")]
    report_only: bool,
    /// Also plan again what was planned again before, and however much is missing; NAME is who decided that
    #[arg(long, value_name = "NAME")]
    insist: Option<String>,
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

/// Who asks, in the record of reconciles.
const COMMAND_LINE: &str = "command line";

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    crate::app::start_log();
    super::existing(&args.store)?;
    let (pipeline, endpoints) = crate::app::open_endpoints(&args.store)?;
    if !pipeline.catalogue.sites.contains_key(&args.site) {
        return Ok(super::not_known("site", &args.site, pipeline.catalogue.sites.keys()));
    }
    let Some(ehr) = endpoints.get(&args.site) else {
        eprintln!("error: nothing is written back at this site: {}\nhint: give it a receiver in the configuration", args.site);
        return Ok(ExitCode::from(2));
    };
    let (mode, who) = match &args.insist {
        Some(name) => (Mode::Insist, name.as_str()),
        None if args.report_only => (Mode::ReportOnly, COMMAND_LINE),
        None => (Mode::Repair, COMMAND_LINE),
    };
    let bar = ProgressBar::new(0);
    bar.set_style(ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} eta {eta}").context("a progress bar's template")?);
    let tell = |progress: Progress| {
        bar.set_message(match progress.phase {
            Phase::Compare => "reading what we wrote",
            Phase::Sweep => "searching by type",
        });
        bar.set_length(progress.total as u64);
        bar.set_position(progress.done as u64);
    };
    let is_interrupted = AtomicBool::new(false);
    let watch = Watch { tell: &tell, is_stopped: &|| is_interrupted.load(Ordering::Relaxed) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(async {
        let reconciling = reconcile::reconcile(&pipeline, ehr, &args.site, mode, who, super::now_ms(), watch);
        tokio::pin!(reconciling);
        tokio::select! {
            ended = &mut reconciling => ended,
            _ = tokio::signal::ctrl_c() => {
                // What was found until now is recorded.
                is_interrupted.store(true, Ordering::Relaxed);
                reconciling.await
            }
        }
    });
    bar.finish_and_clear();
    let Some(run) = ended.map_err(StoreTrouble::from)? else {
        eprintln!("error: another reconcile of this site is running\nhint: wait until it has ended; the write-back page shows it");
        return Ok(ExitCode::from(1));
    };
    super::print("the report", |out| match args.format {
        Format::Json => serde_json::to_string_pretty(&run).map_err(io::Error::other).and_then(|text| writeln!(out, "{text}")),
        Format::Table => table(out, &run),
    })?;
    Ok(match run.state {
        RunState::Done if run.report.is_none_or(|report| report.counts.needs_person == 0) => ExitCode::SUCCESS,
        RunState::Done => ExitCode::from(1),
        RunState::Failed | RunState::Asked | RunState::Running => ExitCode::from(3),
    })
}

fn table(out: &mut impl Write, run: &Run) -> io::Result<()> {
    let Some(report) = &run.report else { return Ok(()) };
    let counts = &report.counts;
    writeln!(out, "compared       {:>8}  of what we wrote or took back", counts.compared)?;
    writeln!(out, "as expected    {:>8}", counts.as_expected)?;
    for kind in Kind::ALL {
        if 0 < counts.of(kind) {
            writeln!(out, "{:<14} {:>8}", kind.word(), counts.of(kind))?;
        }
    }
    if 0 < counts.on_their_way {
        writeln!(out, "on their way   {:>8}  not compared", counts.on_their_way)?;
    }
    writeln!(out, "planned again  {:>8}", counts.planned_again)?;
    writeln!(out, "need a person  {:>8}", counts.needs_person)?;
    writeln!(out, "requests       {:>8}", report.requests)?;
    for note in &report.notes {
        writeln!(out, "note: {note}")?;
    }
    for swept in &report.swept {
        let but = if swept.not_seen.is_empty() { String::new() } else { format!("; {}", swept.not_seen) };
        writeln!(out, "searched {} {}: {} found{but}", swept.resource_type, swept.how.word(), swept.found)?;
    }
    if !report.differences.is_empty() {
        writeln!(out, "\n{:11}  {:13}  {:36}  {:16}  {:12}  what", "difference", "done", "resource", "study", "subject")?;
    }
    for difference in &report.differences {
        line(out, difference)?;
    }
    if run.state == RunState::Failed {
        writeln!(out, "it broke off: the rest was not looked at")?;
    }
    Ok(())
}

fn line(out: &mut impl Write, difference: &Difference) -> io::Result<()> {
    let Difference { kind, did, resource_type, id, study, subject, elements, why, .. } = difference;
    let resource = format!("{resource_type}/{}", id.as_deref().unwrap_or("?"));
    let elements = if elements.is_empty() { String::new() } else { format!("{}: ", elements.join(", ")) };
    writeln!(out, "{:11}  {:13}  {resource:36}  {study:16}  {subject:12}  {elements}{why}", kind.word(), did.word())
}
