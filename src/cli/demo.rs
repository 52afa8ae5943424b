//! `nephrogate demo`: a hospital of synthetic patients on the embedded store, in one process, in the browser. With
//! `--ehr` the hospital's EHR is somebody's FHIR server: it gets the patients first, as their hospital would have put
//! them there, and then what this gateway writes back.

pub mod folder;
mod hospital;
pub mod patients;
pub mod resource;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use actix_web::web::Data;
use anyhow::{Context, bail};

use crate::app::{self, App, Faults, Settings, StoreTrouble};
use crate::catalogue::Catalogue;
use crate::cli::serve::stop_on_signals;
use crate::ehr::Ehr;
use crate::http::access::now_ms;
use crate::http::pages::Notes;
use crate::http::stand_in::{self, StandIn};
use crate::mapping::Site;
use crate::pipeline::{Pipeline, Receivers};
use crate::store::{FILE_NAME, Store, messages};
use crate::writeback::receiver::Settings as ReceiverSettings;

#[derive(clap::Args)]
#[command(after_help = "Without --ehr, the EHR is a small stand-in FHIR endpoint in this same process; every page says so.\n\
With --ehr, the synthetic patients are put into that server first. A server that holds one Patient without the security\n\
label HTEST (test health data) is always refused and left untouched.")]
pub struct Args {
    /// Port on 127.0.0.1; 0 takes a free one
    #[arg(long, default_value_t = 8080)]
    pub port: u16,
    /// Folder of the demo's store; made where it is not there
    #[arg(long, value_name = "DIR", default_value = ".nephrogate-demo")]
    pub dir: PathBuf,
    /// Forget what the folder holds and start anew
    #[arg(long)]
    pub reset: bool,
    /// FHIR R4 server that stands for the hospital's EHR
    #[arg(long, value_name = "URL")]
    pub ehr: Option<String>,
    /// Yes, the server of --ehr is a test server, although its address is not this machine's
    #[arg(long, requires = "ehr")]
    pub test_server: bool,
}

/// The store cannot be used.
const STORE_EXIT: u8 = 4;

/// Files of ours in the folder, beside those that every command reads.
const STAND_IN_FILE: &str = "stand-in-ehr.ndjson";
const CORRECTION_FILE: &str = "correction.json";

/// Name under which everybody at this machine acts until the forms ask for another.
const OPEN_AS: &str = "somebody at this machine";

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    start_log();
    match demo(&args) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) if error.downcast_ref::<StoreTrouble>().is_some() => {
            eprintln!("error: {error:#}\n  hint: start with --reset, or give another folder with --dir");
            Ok(ExitCode::from(STORE_EXIT))
        }
        Err(error) => Err(error),
    }
}

/// Only what needs a look: the terminal belongs to what the demo says.
fn start_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    // A second start in one process keeps the first one's settings.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).try_init();
}

fn demo(args: &Args) -> anyhow::Result<()> {
    app::install_tls_provider();
    let mut catalogue = Catalogue::load(None).map_err(Faults)?;
    let site = catalogue.sites.values().find(|site| site.is_demo).cloned().context("no site of the catalogue marks itself as the demo's")?;
    catalogue.sites.retain(|id, _| *id == site.id);
    catalogue.studies_of_site.retain(|id, _| *id == site.id);
    std::fs::create_dir_all(&args.dir).with_context(|| format!("the folder {} cannot be made", args.dir.display()))?;
    if args.reset {
        reset(&args.dir)?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(run_demo(args, catalogue, site))
}

async fn run_demo(args: &Args, catalogue: Catalogue, site: Arc<Site>) -> anyhow::Result<()> {
    let listener = app::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, args.port)))?;
    let own_url = format!("http://{}", listener.local_addr()?);
    let outside = match &args.ehr {
        Some(url) => Some(open_ehr(url, args.test_server)?),
        None => None,
    };
    let target = args.ehr.as_deref().unwrap_or("stand-in");
    folder::same_ehr_as_before(&args.dir, target)?;
    let stand_in = Data::new(
        StandIn::open(Some(&args.dir.join(STAND_IN_FILE))).with_context(|| format!("{} cannot be used", args.dir.join(STAND_IN_FILE).display()))?,
    );
    let base_url = match &outside {
        Some(ehr) => ehr.base().as_str().trim_end_matches('/').to_owned(),
        None => format!("{own_url}{}", stand_in::BASE),
    };
    folder::say_address(&args.dir, &base_url)?;
    let text = catalogue.receivers.get(&site.id).context("the demo's site has no receiver.json")?;
    let receiver = ReceiverSettings::read(text).context("the demo's receiver.json cannot be read")?.receiver(
        &site.id,
        &base_url,
        folder::identifier_key(&args.dir)?,
    );
    let store = Store::open_sqlite(&args.dir.join(FILE_NAME)).map_err(StoreTrouble)?;
    let pipeline = Pipeline { store, catalogue: Arc::new(catalogue), receivers: Arc::new(Receivers::from([(site.id.clone(), receiver)])) };

    let asked = site.id.clone();
    let is_new = pipeline.store.read(move |tx| messages::conservation(tx, &asked)).await.map_err(StoreTrouble)?.received == 0;
    let stories = patients::stories(&site.id, now_ms());
    if let Some(ehr) = &outside {
        hospital::refuse_real_patients(ehr).await?;
    }
    if is_new {
        match &outside {
            Some(ehr) => hospital::put_into_ehr(ehr, &stories).await?,
            None => hospital::put_into_stand_in(&stand_in, &stories)?,
        }
        hospital::send_to_gateway(&pipeline, &site, &stories).await.map_err(StoreTrouble)?;
        hospital::decide(&pipeline, &site.id).await?;
    }

    let notes = Notes { is_demo: true, sentences: vec![says_of_ehr(args.ehr.as_deref(), &base_url)] };
    let ehr = match outside {
        Some(ehr) => ehr,
        None => Ehr::open(&base_url, None).context("the stand-in's own address cannot be used")?,
    };
    let is_stand_in = args.ehr.is_none();
    let settings = Settings {
        endpoints: BTreeMap::from([(site.id.clone(), ehr)]),
        beside: Some(Arc::new(move |config| {
            config.app_data(Data::new(notes.clone()));
            if is_stand_in {
                config.app_data(stand_in.clone());
                stand_in::configure(config);
            }
        })),
        ..Settings::on_loopback(pipeline, listener, OPEN_AS)
    };
    let says = introduction(args, &site, &own_url, &base_url, stories.len(), &write_correction(&args.dir, &stories)?);
    let app = App::build(settings)?;
    stop_on_signals(app.stopper())?;
    let mut out = std::io::stdout().lock();
    // Whoever reads this may go; the demo stays.
    let _ = out.write_all(says.as_bytes()).and_then(|()| out.flush());
    drop(out);
    app.run_until_stopped().await
}

/// Removes what the demo made in its folder, and nothing else.
fn reset(dir: &Path) -> anyhow::Result<()> {
    let names = [
        FILE_NAME.to_owned(),
        format!("{FILE_NAME}-wal"),
        format!("{FILE_NAME}-shm"),
        folder::KEY_FILE.into(),
        folder::EHR_FILE.into(),
        folder::ADDRESS_FILE.into(),
        STAND_IN_FILE.into(),
        CORRECTION_FILE.into(),
    ];
    for name in names {
        let file = dir.join(name);
        match std::fs::remove_file(&file) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("{} cannot be removed; is a demo still running there?", file.display())),
        }
    }
    Ok(())
}

/// The server of `--ehr`, unless its address is one that nobody called a test server.
fn open_ehr(url: &str, is_test_server: bool) -> anyhow::Result<Ehr> {
    let ehr = Ehr::open(url, None).with_context(|| format!("--ehr {url} cannot be used"))?;
    if !ehr.is_loopback() && !is_test_server {
        bail!(
            "--ehr {url} is not an address of this machine, and the demo writes patients there\n  hint: if it is a test server, say so with --test-server"
        );
    }
    Ok(ehr)
}

fn says_of_ehr(ehr: Option<&str>, base_url: &str) -> String {
    match ehr {
        Some(_) => format!("The EHR is the FHIR server at {base_url}."),
        None => {
            format!("The EHR is the demo's built-in stand-in at {base_url}: a small FHIR endpoint in this same process, not a hospital's server.")
        }
    }
}

/// A correction that can be sent by hand: of whom, of which resource, and the file it was written to.
struct Correction {
    subject: String,
    id: String,
    file: PathBuf,
}

fn write_correction(dir: &Path, stories: &[patients::Story]) -> anyhow::Result<Correction> {
    let found = stories.iter().find_map(|story| story.correction.as_ref().map(|resource| (story.subject.clone(), resource)));
    let (subject, resource) = found.context("one of the demo's patients has a correction to try")?;
    let file = dir.join(CORRECTION_FILE);
    std::fs::write(&file, &resource.json).with_context(|| format!("{} cannot be written", file.display()))?;
    Ok(Correction { subject, id: resource.id.clone(), file })
}

fn introduction(args: &Args, site: &Site, url: &str, base_url: &str, count: usize, correction: &Correction) -> String {
    let boundary = patients::ON_THE_BOUNDARY;
    format!(
        "nephrogate demo: {name}, {count} synthetic patients\n\n  {url}/\n\n  store  {dir} (use --reset to start anew)\n  EHR    {base_url}{stand_in}\n\n\
         Four things to try:\n\
         1. Open {boundary}: its eGFR stands on the boundary. Answer that criterion as a named person, then record consent,\n   and see under \"In the EHR\" how the flag is read back.\n\
         2. Correct a result of {subject}, as the laboratory would, and see its flag go inactive:\n   curl -X PUT -H 'Content-Type: application/fhir+json' --data-binary @{file} {url}/fhir/{site}/Observation/{id}\n\
         3. Open Trial at the head of the page: which report is due, which event says too little, who missed a visit.\n\
         4. Ask as a machine would: curl '{url}/fhir/{site}/ResearchSubject?status=candidate'\n\n\
         Stop with Ctrl-C.\n",
        name = site.name,
        dir = args.dir.display(),
        stand_in = if args.ehr.is_none() { " (built-in stand-in, not a hospital's server)" } else { "" },
        subject = correction.subject,
        file = correction.file.display(),
        id = correction.id,
        site = site.id,
    )
}
