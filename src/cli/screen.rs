//! `nephrogate screen`: files in, one answer a subject out; a summary of what was read on stderr.

use std::io::{self, IsTerminal, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::clinical::date::AsOf;
use crate::pipeline::screen::{Counts, Gathered, gather};
use crate::rules::{CriterionVerdict, Screened, Verdict};
use crate::study::{Stage, Study};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  nephrogate screen --study STUDY --site SITE --as-of 2026-11-01 export/
  nephrogate screen --study STUDY --site SITE --as-of 2026-11-01 --format ndjson export/*.ndjson > screened.ndjson

Every Patient of the files gets one answer, in order of id: met, not-met or unknown, with the eGFR in mL/min/1.73 m2 that
decided. Only the answers go to stdout; stderr ends with what was read, used and refused. Nothing is stored.
ndjson and json carry every criterion with its evidence; csv has one column a criterion; table is for reading.

The eGFR is unrounded except in the table. A folder is read with all .ndjson, .jsonl and .json files below it. Resources
that this study does not judge by are passed over without being checked. Each file should hold one state of each
resource, as bulk exports do.

Exit codes: 0 files were read, whatever was refused; 2 wrong usage; 3 a file cannot be used.")]
pub struct Args {
    /// Id of the study to judge by
    #[arg(long, value_name = "STUDY")]
    study: String,
    /// Id of the site whose mapping reads the files
    #[arg(long, value_name = "SITE")]
    site: String,
    /// Judge as of this date (all of that day, UTC) or instant; later results do not count
    #[arg(long, value_name = "DATE", value_parser = super::as_of)]
    as_of: AsOf,
    /// Use the profiles, mappings and studies of this folder, not those compiled in
    #[arg(long, value_name = "DIR")]
    catalogue: Option<PathBuf>,
    /// How to print the answers
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// FHIR files or folders
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For reading
    Table,
    /// One array
    Json,
    /// One object a line
    Ndjson,
    /// One column a criterion
    Csv,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Ok(catalogue) = super::load_catalogue(args.catalogue.as_deref()) else { return Ok(ExitCode::from(3)) };
    let Some(study) = catalogue.studies.get(&args.study) else {
        return Ok(super::not_known("study", &args.study, catalogue.studies.keys()));
    };
    let Some(site) = catalogue.sites.get(&args.site) else {
        return Ok(super::not_known("site", &args.site, catalogue.sites.keys()));
    };
    let started = Instant::now();
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
    if io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(10));
        bar.set_style(ProgressStyle::with_template("reading {wide_bar} {bytes} of {total_bytes}, {eta} left").expect("the template is well formed"));
    }
    let gathered = gather(site, study, &args.paths, &|bytes, of| {
        bar.set_length(of);
        bar.inc(bytes);
    });
    bar.finish_and_clear();
    let gathered = match gathered {
        Ok(gathered) => gathered,
        Err(error) => {
            eprintln!("error: {error}\nhint: give FHIR files or folders that can be read");
            return Ok(ExitCode::from(3));
        }
    };
    let read_in = started.elapsed();
    let mut output = Output { out: io::stdout().lock(), format: args.format, is_first: true };
    let totals = Totals::default();
    let printed = output.print(&gathered, study, |render, write| gathered.judge(site, study, args.as_of, render, write), &totals);
    match printed {
        // Whoever reads our answers has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(ExitCode::SUCCESS),
        Err(error) => {
            eprintln!("error: the answers cannot be written: {error}\nhint: check the space and rights of where stdout goes");
            return Ok(ExitCode::from(3));
        }
        Ok(()) => {}
    }
    let took = started.elapsed();
    summarise(&gathered, &totals, &args, took.as_secs_f64(), read_in.as_secs_f64());
    Ok(ExitCode::SUCCESS)
}

/// Prescreen verdicts given, for the summary; counted on all cores.
#[derive(Default)]
struct Totals {
    met: std::sync::atomic::AtomicU64,
    not_met: std::sync::atomic::AtomicU64,
    unknown: std::sync::atomic::AtomicU64,
}

impl Totals {
    fn count(&self, verdict: Verdict) {
        let total = match verdict {
            Verdict::Met => &self.met,
            Verdict::NotMet => &self.not_met,
            Verdict::Unknown => &self.unknown,
        };
        total.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}

/// One subject's answer, as json and ndjson print it.
#[derive(Serialize)]
struct Answer<'a> {
    subject: &'a str,
    prescreen: Verdict,
    egfr: Option<f64>,
    criteria: &'a [CriterionVerdict],
}

struct Output<W> {
    out: W,
    format: Format,
    is_first: bool,
}

type Render<'a> = &'a (dyn Fn(&str, &Screened, &mut Vec<u8>) + Sync);
type Write<'a> = &'a mut dyn FnMut(&[u8]) -> io::Result<()>;

impl<W: io::Write> Output<W> {
    /// Prints head, answers and foot; `judge` gives the answers to what it is handed.
    fn print(
        &mut self,
        gathered: &Gathered,
        study: &Study,
        judge: impl FnOnce(Render<'_>, Write<'_>) -> io::Result<()>,
        totals: &Totals,
    ) -> io::Result<()> {
        let format = self.format;
        let width = gathered.longest_subject().max("SUBJECT".len());
        match format {
            Format::Table => writeln!(self.out, "{:width$}  PRESCREEN    EGFR  WHY", "SUBJECT")?,
            Format::Json => self.out.write_all(b"[")?,
            Format::Ndjson => {}
            Format::Csv => {
                let mut head = vec!["subject", "prescreen", "egfr"];
                head.extend(study.criteria.iter().map(|criterion| criterion.id.as_str()));
                head.push("reasons");
                let mut line = Vec::new();
                csv_line(&head, &mut line);
                self.out.write_all(&line)?;
            }
        }
        let render = |subject: &str, screened: &Screened, bytes: &mut Vec<u8>| {
            totals.count(screened.prescreen);
            match format {
                Format::Table => table_line(subject, width, screened, bytes),
                Format::Json => {
                    bytes.extend_from_slice(b",\n");
                    answer(subject, screened, bytes);
                }
                Format::Ndjson => {
                    answer(subject, screened, bytes);
                    bytes.push(b'\n');
                }
                Format::Csv => {
                    let egfr = screened.egfr.map(|egfr| egfr.to_string()).unwrap_or_default();
                    let mut fields = vec![subject, screened.prescreen.word(), &egfr];
                    fields.extend(screened.criteria.iter().map(|criterion| criterion.verdict.word()));
                    let reasons = reasons(screened);
                    fields.push(&reasons);
                    csv_line(&fields, bytes);
                }
            }
        };
        let Output { out, is_first, .. } = self;
        judge(&render, &mut |mut bytes| {
            if format == Format::Json && *is_first && !bytes.is_empty() {
                // The first answer has none before it to be parted from.
                bytes = &bytes[1..];
                *is_first = false;
            }
            out.write_all(bytes)
        })?;
        if format == Format::Json {
            self.out.write_all(b"\n]\n")?;
        }
        self.out.flush()
    }
}

fn answer(subject: &str, screened: &Screened, bytes: &mut Vec<u8>) {
    let answer = Answer { subject, prescreen: screened.prescreen, egfr: screened.egfr, criteria: &screened.criteria };
    serde_json::to_writer(bytes, &answer).expect("an answer has nothing that JSON cannot write");
}

fn table_line(subject: &str, width: usize, screened: &Screened, bytes: &mut Vec<u8>) {
    let egfr = screened.egfr.map_or_else(|| "-".to_owned(), |egfr| format!("{egfr:.2}"));
    let of_prescreen = || screened.criteria.iter().filter(|criterion| criterion.stage == Stage::Prescreen);
    let why = of_prescreen().find(|criterion| criterion.verdict == screened.prescreen).or_else(|| of_prescreen().next());
    let why = why.map(|criterion| criterion.explanation.as_str()).unwrap_or_default();
    writeln!(bytes, "{subject:width$}  {:9}  {egfr:>6}  {why}", screened.prescreen.word()).expect("memory can be written");
}

/// `criterion: reason` of every criterion that is unknown.
fn reasons(screened: &Screened) -> String {
    let unknown = screened.criteria.iter().filter_map(|criterion| {
        let reason = serde_json::to_string(&criterion.reason?).expect("a reason is a word");
        Some(format!("{}: {}", criterion.id, reason.trim_matches('"')))
    });
    unknown.collect::<Vec<_>>().join("; ")
}

/// RFC 4180, with LF: a field with comma, quote or line end is quoted.
fn csv_line(fields: &[&str], bytes: &mut Vec<u8>) {
    for (index, field) in fields.iter().enumerate() {
        if index > 0 {
            bytes.push(b',');
        }
        if field.contains([',', '"', '\n', '\r']) {
            bytes.push(b'"');
            bytes.extend_from_slice(field.replace('"', "\"\"").as_bytes());
            bytes.push(b'"');
        } else {
            bytes.extend_from_slice(field.as_bytes());
        }
    }
    bytes.push(b'\n');
}

/// Unmapped codes that the summary names; the others are only counted.
const UNMAPPED_SHOWN: usize = 10;

fn summarise(gathered: &Gathered, totals: &Totals, args: &Args, took_seconds: f64, read_seconds: f64) {
    let Counts { read, used, quarantined, rejected, passed_over, unmapped_codes } = &gathered.counts;
    let load = |total: &std::sync::atomic::AtomicU64| total.load(std::sync::atomic::Ordering::Relaxed);
    let list = |counts: &mut dyn Iterator<Item = (&str, u64)>| {
        let parts: Vec<String> = counts.map(|(word, count)| format!("{word} {count}")).collect();
        if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) }
    };
    let megabytes = gathered.bytes as f64 / 1e6;
    eprintln!(
        "\n{} screened for {} as of {}: {} met, {} not-met, {} unknown",
        plural(gathered.subject_count() as u64, "patient"),
        args.study,
        args.as_of,
        load(&totals.met),
        load(&totals.not_met),
        load(&totals.unknown)
    );
    eprintln!(
        "read         {} in {} ({megabytes:.1} MB) in {took_seconds:.2} s, of which {read_seconds:.2} s for the files",
        plural(*read, "resource"),
        plural(gathered.files as u64, "file")
    );
    eprintln!("used         {used}");
    eprintln!("passed over  {}{}", passed_over.values().sum::<u64>(), list(&mut passed_over.iter().map(|(kind, count)| (kind.as_str(), *count))));
    let refused = quarantined.values().sum::<u64>() + rejected.values().sum::<u64>();
    eprintln!("refused      {refused}{}", list(&mut rejected.iter().chain(quarantined).map(|(code, count)| (*code, *count))));
    if gathered.subjects_without_patient > 0 {
        eprintln!("not listed   {} with results but without a Patient", plural(gathered.subjects_without_patient as u64, "subject"));
    }
    let mut unmapped: Vec<(&str, u64)> = unmapped_codes.iter().map(|(code, count)| (code.as_str(), *count)).collect();
    unmapped.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    eprintln!("unmapped     {}", plural(unmapped.len() as u64, "code"));
    for (code, count) in unmapped.iter().take(UNMAPPED_SHOWN) {
        eprintln!("             {code} {count}");
    }
    if unmapped.len() > UNMAPPED_SHOWN {
        eprintln!("             and {} more", unmapped.len() - UNMAPPED_SHOWN);
    }
}

fn plural(count: u64, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}
