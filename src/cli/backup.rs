//! `nephrogate backup`

use std::path::PathBuf;
use std::process::ExitCode;

use super::StoreArgs;

#[derive(clap::Args)]
#[command(
    after_help = "The gateway may run meanwhile. To restore, stop it, put the copy in the store's place and start it.\nExit codes: 0 the copy is whole and safe on disk; 2 wrong usage; 3 the copy's file is there already, or a file cannot be read; 4 the store cannot be used or the copy cannot be made."
)]
pub struct Args {
    #[command(flatten)]
    store: StoreArgs,
    /// File to be made; it must not be there yet
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    crate::app::start_log();
    if args.to.exists() {
        anyhow::bail!("{} is there already: name a new file", args.to.display());
    }
    let pipeline = super::open_existing(&args.store)?;
    pipeline.store.backup(&args.to).map_err(crate::app::StoreTrouble::from)?;
    println!("{} is a complete copy and passed its integrity check", args.to.display());
    Ok(ExitCode::SUCCESS)
}
