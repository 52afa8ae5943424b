//! `nephrogate serve`: the gateway itself, until SIGTERM or Ctrl-C.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use crate::app::{self, App, Faults, Settings, Stopper, StoreTrouble};
use crate::config::Config;

#[derive(clap::Args)]
pub struct Args {
    /// Configuration file, JSON; profiles/config.schema.json describes it
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
}

/// The store cannot be used.
const STORE_EXIT: u8 = 4;

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    app::start_log();
    match serve(&args) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) if error.downcast_ref::<StoreTrouble>().is_some() => {
            eprintln!("error: {error:#}\n  hint: check the store named in {}", args.config.display());
            Ok(ExitCode::from(STORE_EXIT))
        }
        Err(error) => Err(error),
    }
}

fn serve(args: &Args) -> anyhow::Result<()> {
    let config = Config::read(&args.config).map_err(Faults)?;
    let (pipeline, endpoints) = app::open_configured(&config)?;
    let one = |fault| Faults(vec![fault]);
    let settings = Settings {
        endpoints,
        feeds: config.feeds().map_err(one)?,
        sources: config.sources().map_err(one)?,
        tls: config.server_tls().map_err(one)?,
        tokens: config.tokens().map_err(one)?,
        hosts: config.hosts.clone(),
        public_url: config.public_url.clone(),
        cds_clients: config.cds_clients().map_err(one)?,
        own_keys: config.own_keys(),
        notify_hosts: config.notify_hosts(),
        limits: config.limits.limits(),
        connections: config.limits.connections,
        stop_timeout: Duration::from_secs(config.limits.stop_seconds),
        ..Settings::on_loopback(pipeline, app::bind(config.listen)?, "somebody at this machine")
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let served = runtime.block_on(async {
        let says = introduce(&settings);
        let app = App::build(settings)?;
        stop_on_signals(app.stopper())?;
        // Whoever reads this may go; the gateway stays.
        let hears: String = app.listening.iter().map(|at| format!("  feed {} of {}: HL7 v2 at {}\n", at.feed, at.site, at.address)).collect();
        let _ = write!(std::io::stdout(), "listening on {}\n{hears}{says}", app.url()).and_then(|()| std::io::stdout().flush());
        app.run_until_stopped().await
    });
    // What still blocks a thread now must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    served
}

/// What is served, in a few lines.
fn introduce(settings: &Settings) -> String {
    let catalogue = &settings.pipeline.catalogue;
    let mut text = String::new();
    for (site, studies) in &catalogue.studies_of_site {
        let studies: Vec<&str> = studies.iter().map(|study| study.id.as_str()).collect();
        let write_back = if settings.endpoints.contains_key(site) { "writes back" } else { "writes nothing back" };
        text.push_str(&format!("  site {site}: studies {}; {write_back}; FHIR at /fhir/{site}\n", studies.join(", ")));
    }
    match settings.tokens.len() {
        0 => text.push_str("  no tokens: everybody at this machine may do everything\n"),
        count => text.push_str(&format!("  {count} tokens\n")),
    }
    text.push_str("  screening list at /, API described at /openapi.json; stop with Ctrl-C or SIGTERM\n");
    text
}

/// Stops a gateway cleanly on SIGTERM and Ctrl-C. Call it inside the runtime.
pub fn stop_on_signals(stopper: Stopper) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        stopper.stop();
    });
    Ok(())
}
