//! `nephrogate digest`: one hash of what is known at a site and one of what follows from it.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::StoreArgs;
use crate::app::StoreTrouble;
use crate::clinical::date::AsOf;
use crate::digest::hex;
use crate::pipeline::Pipeline;
use crate::pipeline::digest::{self, OfSite};
use crate::rules::digest::{Counts, PRESCREEN};

#[derive(clap::Args)]
#[command(after_help = "Two gateways that were told the same of the same patients print the same, in whatever order and by whatever door it came:
pushed, polled, imported, exported in bulk. Give both the same --as-of, since verdicts are judged anew for it.

  facts     what stands of each subject after corrections, withdrawals and merges, in the study model's words
  verdicts  what each study says of them as of that time, and on which values

Neither holds ids and versions of resources, times of arrival, names of feeds, or the site's own name; docs/feeds.md says
what is in them to the last word. Two digests that differ are told apart by their subjects:

  nephrogate digest --site S --as-of D --config A.json --list > a
  nephrogate digest --site S --as-of D --config B.json --list > b
  diff a b

A hash is not an anonymous thing: who knows what may be in a record can try it out. Treat --list as you treat a record.

Exit codes: 0 done; 1 something came while it was computed, so it is of no one moment; 2 wrong usage; 4 the store cannot
be used.")]
pub struct Args {
    /// Site to digest
    #[arg(long, value_name = "SITE")]
    site: String,
    #[command(flatten)]
    store: StoreArgs,
    /// Judge as of this date (all of that day, UTC) or instant; now, if not given
    #[arg(long, value_name = "DATE", value_parser = super::as_of)]
    as_of: Option<AsOf>,
    /// Print one JSON object
    #[arg(long, conflicts_with = "list")]
    json: bool,
    /// Print a line for each subject: id, hash of facts, hash of verdicts; the digest goes to stderr
    #[arg(long)]
    list: bool,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    crate::app::start_log();
    let pipeline = super::open_existing(&args.store)?;
    if !pipeline.catalogue.sites.contains_key(&args.site) {
        return Ok(super::not_known("site", &args.site, pipeline.catalogue.sites.keys()));
    }
    let as_of = args.as_of.unwrap_or(AsOf::instant(super::now_ms()));
    let bar = ProgressBar::new(0);
    bar.set_style(ProgressStyle::with_template("{wide_bar} {pos}/{len} subjects, eta {eta}").context("a progress bar's template")?);
    let tell = |done, of| {
        bar.set_length(of as u64);
        bar.set_position(done as u64);
    };
    let of_site = digest::of_site(&pipeline, &args.site, as_of, &tell).map_err(StoreTrouble::from)?;
    bar.finish_and_clear();
    let answer = Answer::new(&pipeline, &args.site, as_of, &of_site);
    super::print("the digest", |out| {
        if args.list {
            list(out, &of_site).and_then(|()| table(&mut io::stderr().lock(), &answer))
        } else if args.json {
            serde_json::to_writer(&mut *out, &answer).map_err(io::Error::other).and_then(|()| writeln!(out))
        } else {
            table(out, &answer)
        }
    })?;
    if of_site.has_moved {
        eprintln!("error: something came while the charts were read: this digest is of no one moment\nhint: stop the feeds, or try again");
        return Ok(ExitCode::from(1));
    }
    Ok(ExitCode::SUCCESS)
}

/// The digest, as it is printed and as JSON.
#[derive(Serialize)]
struct Answer<'d> {
    site: &'d str,
    as_of: String,
    facts: String,
    verdicts: String,
    subjects: usize,
    /// Records among them that were merged into another.
    merged: u64,
    /// Subjects whose list row is older than their chart.
    waiting: i64,
    /// Facts that stand, by kind.
    counts: &'d std::collections::BTreeMap<&'static str, u64>,
    studies: Vec<OfStudy<'d>>,
    /// Hash of the site's mapping: another one reads the same resources otherwise.
    mapping: &'d str,
}

#[derive(Serialize)]
struct OfStudy<'d> {
    study: &'d str,
    /// Hash of the study's file.
    study_hash: &'d str,
    #[serde(flatten)]
    counts: Counts,
}

impl<'d> Answer<'d> {
    fn new(pipeline: &'d Pipeline, site: &'d str, as_of: AsOf, of_site: &'d OfSite) -> Answer<'d> {
        let digest = &of_site.digest;
        let studies = pipeline.catalogue.studies_of_site.get(site).map(Vec::as_slice).unwrap_or_default();
        let studies = studies.iter().map(|study| OfStudy {
            study: &study.id,
            study_hash: &study.hash,
            counts: digest.verdicts.get(&study.id).cloned().unwrap_or_default(),
        });
        Answer {
            site,
            as_of: as_of.to_string(),
            facts: digest.hash_of_facts(),
            verdicts: digest.hash_of_verdicts(),
            subjects: digest.subjects().len(),
            merged: digest.merged,
            waiting: of_site.extent.waiting,
            counts: &digest.facts,
            studies: studies.collect(),
            mapping: &pipeline.catalogue.sites[site].hash,
        }
    }
}

fn list(out: &mut impl Write, of_site: &OfSite) -> io::Result<()> {
    of_site
        .digest
        .subjects()
        .into_iter()
        .try_for_each(|subject| writeln!(out, "{} {} {}", subject.subject, hex(&subject.facts), hex(&subject.verdicts)))
}

fn table(out: &mut impl Write, answer: &Answer<'_>) -> io::Result<()> {
    writeln!(out, "facts     {}", answer.facts)?;
    writeln!(out, "verdicts  {}  as of {}", answer.verdicts, answer.as_of)?;
    writeln!(out, "\nsubjects            {:>9}", answer.subjects)?;
    if answer.merged != 0 {
        writeln!(out, "merged into another {:>9}", answer.merged)?;
    }
    for (kind, count) in answer.counts {
        writeln!(out, "{kind:<19} {count:>9}")?;
    }
    for study in &answer.studies {
        write!(out, "\n{}", study.study)?;
        for verdict in PRESCREEN {
            write!(out, "  {} {}", verdict.word(), study.counts.prescreen.get(verdict.word()).copied().unwrap_or(0))?;
        }
        for (reason, count) in &study.counts.hidden {
            write!(out, "  {reason} {count}")?;
        }
    }
    writeln!(out)?;
    if answer.waiting != 0 {
        writeln!(out, "\n{} subjects wait for judgement: the list is older than this digest", answer.waiting)?;
    }
    Ok(())
}
