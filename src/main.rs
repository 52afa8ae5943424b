//! argv in, exit code out.

use std::process::ExitCode;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match nephrogate::cli::run(nephrogate::cli::Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(if error.is::<nephrogate::app::StoreTrouble>() || error.is::<nephrogate::store::StoreError>() { 4 } else { 3 })
        }
    }
}
