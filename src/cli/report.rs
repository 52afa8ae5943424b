//! `nephrogate report`: everything a trial's report states, from a store or in one shot from files.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::ValueEnum;

use super::StoreArgs;
use crate::app::StoreTrouble;
use crate::clinical::date::AsOf;
use crate::issue::Disposition;
use crate::pipeline::trial::{self, Depth, FilesError, Summary};
use crate::report::csv::{self, Domain};
use crate::report::{Enrolled, html, markdown, report};
use crate::study::Study;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  nephrogate report --study STUDY --format json export/            files: each folder below export/ is a site
  nephrogate report --study STUDY --config FILE --format html > report.html
  nephrogate report --study STUDY --dir D --format csv --domain lb > lb.csv

json is one line and begins with the figures of the trial; evidence, listing and events name the resources behind every
number. md and html show the same tables, html with plots, in one file without scripts. csv is CDISC-shaped: --domain lb
(laboratory) or ae (adverse events).

From a store the report is as of now, from files as of the day of the newest fact, unless --as-of says otherwise. From a
store, subjects who opted out or whose record is restricted are counted but never named, and test patients are not
counted; files are reported as they are. Only the report goes to stdout; stderr ends with what was read.

Exit codes: 0 done; 2 wrong usage; 3 a file cannot be used; 4 the store cannot be used.")]
pub struct Args {
    /// Id of the study to report
    #[arg(long, value_name = "STUDY")]
    study: String,
    /// Report as of this date (all of that day, UTC) or instant; what is later does not count
    #[arg(long, value_name = "DATE", value_parser = super::as_of)]
    as_of: Option<AsOf>,
    /// How to print the report
    #[arg(long, value_enum, default_value_t = Format::Md)]
    format: Format,
    /// Which file of the CSV
    #[arg(long, value_enum, required_if_eq("format", "csv"))]
    domain: Option<DomainArg>,
    /// Folder of an embedded store, such as the demo's
    #[arg(long, value_name = "DIR", group = "source")]
    dir: Option<PathBuf>,
    /// Configuration file of the gateway
    #[arg(long, value_name = "FILE", group = "source")]
    config: Option<PathBuf>,
    /// With files: use the profiles, mappings and studies of this folder, not those compiled in
    #[arg(long, value_name = "DIR", conflicts_with_all = ["dir", "config"])]
    catalogue: Option<PathBuf>,
    /// Folders of FHIR files; each folder below is a site and its name the site's id
    #[arg(value_name = "PATH", group = "source", required_unless_present_any = ["dir", "config"])]
    paths: Vec<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Markdown
    Md,
    /// One line
    Json,
    /// One page, with plots
    Html,
    /// CDISC-shaped, one domain
    Csv,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DomainArg {
    /// Laboratory results
    Lb,
    /// Adverse events
    Ae,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let depth = match args.domain {
        Some(DomainArg::Lb) => Depth::Laboratory,
        Some(DomainArg::Ae) | None => Depth::Course,
    };
    let started = Instant::now();
    if args.dir.is_some() || args.config.is_some() {
        crate::app::start_log();
        let store = StoreArgs { dir: args.dir.clone(), config: args.config.clone() };
        let pipeline = super::open_existing(&store)?;
        let Some(study) = pipeline.catalogue.studies.get(&args.study) else {
            return Ok(super::not_known("study", &args.study, pipeline.catalogue.studies.keys()));
        };
        let now_ms = super::now_ms();
        let as_of = args.as_of.unwrap_or(AsOf::instant(now_ms));
        let enrolled = trial::courses(&pipeline, study, None, as_of, now_ms, depth).map_err(StoreTrouble::from)?;
        let code = print(&args, study, as_of, &enrolled)?;
        eprintln!("{} of {} as of {as_of}, in {:.2} s", subjects(&enrolled), study.id, started.elapsed().as_secs_f64());
        return Ok(code);
    }
    let Ok(catalogue) = super::load_catalogue(args.catalogue.as_deref()) else { return Ok(ExitCode::from(3)) };
    let Some(study) = catalogue.studies.get(&args.study) else {
        return Ok(super::not_known("study", &args.study, catalogue.studies.keys()));
    };
    let gathered = match trial::courses_of_files(&catalogue, study, &args.paths, args.as_of, depth) {
        Ok(gathered) => gathered,
        Err(error) => {
            let hint = match &error {
                FilesError::File(_) => "give folders that can be read".to_owned(),
                FilesError::NoSites { .. } => "give the folder that holds one folder per site, named by the site's id".to_owned(),
                FilesError::UnknownSite { .. } => {
                    format!("sites are {}", catalogue.sites.keys().map(String::as_str).collect::<Vec<_>>().join(", "))
                }
                FilesError::NoDate => "give --as-of".to_owned(),
            };
            eprintln!("error: {error}\nhint: {hint}");
            return Ok(ExitCode::from(3));
        }
    };
    let code = print(&args, study, gathered.as_of, &gathered.enrolled)?;
    summarise(&gathered.summary);
    eprintln!("entered      {} of {} as of {}, in {:.2} s", subjects(&gathered.enrolled), study.id, gathered.as_of, started.elapsed().as_secs_f64());
    Ok(code)
}

fn print(args: &Args, study: &Study, as_of: AsOf, enrolled: &[Enrolled]) -> anyhow::Result<ExitCode> {
    let text = match args.format {
        Format::Csv => csv::csv(study, enrolled, if args.domain == Some(DomainArg::Ae) { Domain::Ae } else { Domain::Lb }),
        Format::Json => report(study, as_of, enrolled).to_json() + "\n",
        Format::Md => markdown::markdown(&report(study, as_of, enrolled)),
        Format::Html => html::page(&report(study, as_of, enrolled)),
    };
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        // Whoever reads the report has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        Err(error) => {
            eprintln!("error: the report cannot be written: {error}\nhint: check the space and rights of where stdout goes");
            Ok(ExitCode::from(3))
        }
    }
}

fn subjects(enrolled: &[Enrolled]) -> String {
    match enrolled.len() {
        1 => "1 subject".into(),
        count => format!("{count} subjects"),
    }
}

/// Codes that the summary names.
const CODES_NAMED: usize = 10;

fn summarise(summary: &Summary) {
    let megabytes = summary.bytes as f64 / 1e6;
    eprintln!("read         {} resources in {} files ({megabytes:.1} MB) of {}", summary.received, summary.files, summary.sites.join(", "));
    for disposition in Disposition::ALL {
        if let Some(count) = summary.dispositions.get(&disposition) {
            eprintln!("{:<12} {count}", disposition.word());
        }
    }
    if !summary.refused.is_empty() {
        let refused: Vec<String> = summary.refused.iter().map(|(code, count)| format!("{code} {count}")).collect();
        eprintln!("refused      {}", refused.join(", "));
    }
    let mut unmapped: Vec<(&String, &usize)> = summary.unmapped.iter().collect();
    unmapped.sort_by_key(|(code, count)| (std::cmp::Reverse(**count), code.to_string()));
    for (code, count) in unmapped.iter().take(CODES_NAMED) {
        eprintln!("unmapped     {code} {count}");
    }
    if unmapped.len() > CODES_NAMED {
        eprintln!("             and {} more", unmapped.len() - CODES_NAMED);
    }
}
