//! `nephrogate redrive`

use std::process::ExitCode;

use super::StoreArgs;
use crate::issue::Code;
use crate::pipeline::redrive::{self, Redriven};

#[derive(clap::Args)]
#[command(
    after_help = "Exit codes: 0 nothing is quarantined any more (of this issue code, where one is given); 1 some messages stay quarantined; 2 wrong usage; 3 a file cannot be read; 4 the store cannot be used."
)]
pub struct Args {
    /// Site whose quarantined messages are read anew
    #[arg(long, value_name = "SITE")]
    site: String,
    /// Only messages with this issue code, such as code-unmapped
    #[arg(long, value_name = "CODE", value_parser = read_code)]
    code: Option<Code>,
    #[command(flatten)]
    store: StoreArgs,
}

fn read_code(word: &str) -> Result<Code, String> {
    Code::from_word(word).ok_or_else(|| "not an issue code; docs/issues.md lists them".into())
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    crate::app::start_log();
    let pipeline = super::open_existing(&args.store)?;
    if !pipeline.catalogue.sites.contains_key(&args.site) {
        return Ok(super::not_known("site", &args.site, pipeline.catalogue.sites.keys()));
    }
    let redriven = redrive::site(&pipeline, &args.site, args.code, super::now_ms()).map_err(crate::app::StoreTrouble::from)?;
    let Redriven { tried, dispositions, judged } = redriven;
    println!("read anew     {tried:>10}");
    for (disposition, count) in &dispositions {
        println!("{disposition:<13} {count:>10}");
    }
    println!("judged        {judged:>10}  subjects");
    Ok(if dispositions.contains_key("quarantined") { ExitCode::from(1) } else { ExitCode::SUCCESS })
}
