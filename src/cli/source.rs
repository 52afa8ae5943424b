//! `nephrogate source`: what hospital IT runs first: whether a site's EHR lets this gateway in, and declares and answers what
//! its feeds will ask. Opens no store.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;

use super::Format;
use crate::app::{self, Faults};
use crate::config::Config;
use crate::ehr::signing;
use crate::feeds::connection::{self, Mark, Step};

#[derive(clap::Args)]
#[command(
    after_help = "Run it before the gateway, and again when a feed is in trouble. It asks the EHR, in this order:\n\n  metadata             which FHIR release, software and types it declares\n  smart-configuration  where tokens are issued, and to whom (authorization smart)\n  access token         what of the configured scopes is granted\n  TYPE declared        interactions and search parameters that the feeds need\n  TYPE search          each question of each feed, for one resource; and a count\n  TYPE since           whether it can be asked what has changed (_lastUpdated, _sort)\n  TYPE read            whether what a search shows can be read by its id\n\nok: it works. --: it may work nevertheless, or could not be tried. NO: it does not, and the words say what to do.\n\nNothing of what is read is kept or shown. --keys prints the public keys to register at an EHR that\ncannot reach /.well-known/jwks.json of this gateway.\n\nExit codes: 0 nothing is NO; 1 something is NO; 2 wrong usage; 3 a file cannot be used."
)]
pub struct Args {
    /// Configuration file of the gateway
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Site whose source is looked at
    #[arg(long, value_name = "SITE")]
    site: String,
    /// Patient of the EHR to ask about, for a feed with a roster
    #[arg(long, value_name = "PATIENT_ID")]
    patient: Option<String>,
    /// Print our public keys (JSON Web Key Set) and ask nothing
    #[arg(long, conflicts_with_all = ["patient", "format"])]
    keys: bool,
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    app::install_tls_provider();
    let one = |fault| Faults(vec![fault]);
    let config = Config::read(&args.config).map_err(Faults)?;
    let known: Vec<&String> = config.sites.iter().filter(|entry| entry.source.is_some()).map(|entry| &entry.site).collect();
    let Some((index, entry)) = config.sites.iter().enumerate().find(|(_, entry)| entry.site == args.site) else {
        return Ok(super::not_known("site with a source", &args.site, known.into_iter()));
    };
    let mut out = std::io::stdout().lock();
    if args.keys {
        let keys = signing::published(&config.own_keys()).map_err(|error| anyhow::anyhow!("{error}"))?;
        writeln!(out, "{keys}")?;
        return Ok(ExitCode::SUCCESS);
    }
    let Some(source) = &entry.source else {
        return Ok(super::not_known("site with a source", &args.site, known.into_iter()));
    };
    let ehr = config.source(index, source).map_err(one)?;
    let feeds = config.feeds().map_err(one)?;
    let of_site: Vec<_> = feeds.iter().filter(|feed| feed.site == args.site).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("the runtime cannot start")?;
    let is_table = args.format == Format::Table;
    if is_table {
        writeln!(out, "source of {}: {}", args.site, ehr.base())?;
    }
    drop(out);
    let tell = |step: &Step| {
        if is_table {
            println!("{}  {:<34}  {}", step.mark.word(), step.what, step.says);
        }
    };
    let steps = runtime.block_on(connection::check(&ehr, &of_site, args.patient.as_deref(), super::now_ms(), &tell));
    if !is_table {
        println!("{}", serde_json::to_string_pretty(&steps)?);
    }
    let is_bad = steps.iter().any(|step| step.mark == Mark::Bad);
    Ok(ExitCode::from(u8::from(is_bad)))
}
