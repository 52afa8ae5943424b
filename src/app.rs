//! The one composer: opens the store, loads the catalogue, binds the listener, starts the named loops, and stops them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use actix_web::middleware::from_fn;
use actix_web::web::ServiceConfig;
use actix_web::{App as Web, HttpServer};
use anyhow::{Context, anyhow};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};

use crate::catalogue::{Catalogue, Fault};
use crate::cli::StoreArgs;
use crate::cli::demo::folder;
use crate::config::Config;
use crate::ehr::Ehr;
use crate::ehr::hook::Hooks;
use crate::ehr::signing::{KeyFile, Published};
use crate::feeds::{self, Feed, Kind, mllp};
use crate::http::access::{self, SignIns, Token, Tokens, now_ms};
use crate::http::body::Limits;
use crate::http::own_keys::OwnKeys;
use crate::http::{self, Doors, Health, Links, cds};
use crate::pipeline::intake::Intake;
use crate::pipeline::notify::{self, Hosts, Notifier};
use crate::pipeline::{Pipeline, Receivers, deliver, judge as judging, reconcile};
use crate::store::{FILE_NAME, Location, Store, StoreError};
use crate::writeback::Receiver;
use crate::writeback::receiver::Settings as ReceiverSettings;

/// A command's store could not be opened or used: exit code 4.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct StoreTrouble(#[from] pub StoreError);

/// Faults of files that people edit, as sentences with a hint.
#[derive(Debug)]
pub struct Faults(pub Vec<Fault>);

impl std::fmt::Display for Faults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut lines = String::new();
        for fault in &self.0 {
            let place = if fault.path.is_empty() { fault.file.clone() } else { format!("{} at {}", fault.file, fault.path) };
            let _ = write!(lines, "{}{place}: {}\n  hint: {}", if lines.is_empty() { "" } else { "\n" }, fault.message, fault.hint);
        }
        f.write_str(&lines)
    }
}

impl std::error::Error for Faults {}

fn faults(faults: Vec<Fault>) -> anyhow::Error {
    anyhow!(Faults(faults))
}

/// One line for each thing that happens, on stderr; RUST_LOG says how much.
pub fn start_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn,nephrogate=info"));
    // A second start in one process keeps the first one's settings.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).try_init();
}

/// One TLS provider for everything, installed once.
pub fn install_tls_provider() {
    // An error only says that it is installed already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// Opens the store of a command, with the catalogue and receivers that judge and plan.
pub fn open_store(args: &StoreArgs) -> anyhow::Result<Pipeline> {
    install_tls_provider();
    match (&args.dir, &args.config) {
        (Some(dir), _) => {
            let store = open_location(&Location::Sqlite(dir.join(FILE_NAME)))?;
            let catalogue = Catalogue::load(None).map_err(faults)?;
            let receivers = folder::receivers(dir, &catalogue)?;
            Ok(Pipeline { store, catalogue: Arc::new(catalogue), receivers: Arc::new(receivers) })
        }
        (None, Some(file)) => {
            let config = Config::read(file).map_err(faults)?;
            Ok(open_configured(&config)?.0)
        }
        (None, None) => Err(anyhow!("no store is named; use --dir DIR or --config FILE")),
    }
}

/// As [`open_store`], with the EHRs that are written to. Of a demo's folder it is the EHR of the demo that runs there.
pub fn open_endpoints(args: &StoreArgs) -> anyhow::Result<(Pipeline, Endpoints)> {
    match (&args.dir, &args.config) {
        (None, Some(file)) => {
            install_tls_provider();
            open_configured(&Config::read(file).map_err(faults)?)
        }
        (Some(dir), _) => {
            let pipeline = open_store(args)?;
            let mut endpoints = Endpoints::new();
            for (site, receiver) in pipeline.receivers.iter() {
                endpoints.insert(site.clone(), folder::endpoint(dir)?.paced(receiver.takes.requests_per_minute));
            }
            Ok((pipeline, endpoints))
        }
        (None, None) => Ok((open_store(args)?, Endpoints::new())),
    }
}

fn open_location(location: &Location) -> anyhow::Result<Store> {
    if let Location::Sqlite(file) = location
        && let Some(dir) = file.parent()
    {
        std::fs::create_dir_all(dir).with_context(|| format!("the folder {} cannot be made", dir.display()))?;
    }
    Ok(Store::open(location).map_err(StoreTrouble)?)
}

/// EHR endpoints by site.
pub type Endpoints = BTreeMap<String, Ehr>;

/// Store, catalogue with the enabled sites alone, receivers and their endpoints, as a configuration says.
pub fn open_configured(config: &Config) -> anyhow::Result<(Pipeline, Endpoints)> {
    install_tls_provider();
    let mut catalogue = Catalogue::load(config.catalogue_dir().as_deref()).map_err(faults)?;
    let mut receivers = Receivers::new();
    let mut endpoints = Endpoints::new();
    for (index, entry) in config.sites.iter().enumerate() {
        let site = &entry.site;
        if !catalogue.sites.contains_key(site) {
            let known: Vec<&str> = catalogue.sites.keys().map(String::as_str).collect();
            let hint = format!("the catalogue has {}", known.join(", "));
            return Err(faults(vec![config.site_fault(index, "site", format!("no mapping for the site {site}"), &hint)]));
        }
        let Some(receiver) = &entry.receiver else { continue };
        let one = |fault: Fault| faults(vec![fault]);
        let text = catalogue.receivers.get(site).ok_or_else(|| {
            one(config.site_fault(index, "receiver", format!("mappings/{site} has no receiver.json"), "write one, or leave receiver out"))
        })?;
        let settings = ReceiverSettings::read(text).with_context(|| format!("mappings/{site}/receiver.json cannot be read"))?;
        let base_url = receiver.base_url.as_deref().or(settings.base_url.as_deref()).ok_or_else(|| {
            one(config.site_fault(index, "receiver/base_url", "the EHR's address is not named", "add base_url here or in receiver.json"))
        })?;
        let key = config.identifier_key(index, receiver, settings.identifier_key_env.as_deref()).map_err(one)?;
        let ehr = config.receiver(index, receiver, base_url, settings.bearer_token_env.as_deref()).map_err(one)?;
        let ehr = ehr.paced(settings.takes.requests_per_minute);
        let why_url = config.public_url.as_ref().map(|url| url.trim_end_matches('/').to_owned());
        receivers.insert(site.clone(), Receiver { why_url, ..settings.receiver(site, base_url, key) });
        endpoints.insert(site.clone(), ehr);
    }
    let is_enabled = |site: &String| config.sites.iter().any(|entry| entry.site == *site);
    catalogue.sites.retain(|site, _| is_enabled(site));
    catalogue.studies_of_site.retain(|site, _| is_enabled(site));
    let location = config.location().map_err(|fault| faults(vec![fault]))?;
    let store = open_location(&location)?;
    Ok((Pipeline { store, catalogue: Arc::new(catalogue), receivers: Arc::new(receivers) }, endpoints))
}

/// What else a process serves beside the gateway's own routes, such as the demo's stand-in for an EHR.
pub type Beside = Arc<dyn Fn(&mut ServiceConfig) + Send + Sync>;

/// Everything a running gateway is made of.
pub struct Settings {
    pub pipeline: Pipeline,
    /// EHRs that are written to, by site.
    pub endpoints: Endpoints,
    /// What is read at hospitals by this gateway itself.
    pub feeds: Vec<Feed>,
    /// EHRs that are read, by site: what removed feeds left there is taken away.
    pub sources: Endpoints,
    /// Bound already, so that its port is known.
    pub listener: TcpListener,
    pub tls: Option<rustls::ServerConfig>,
    pub tokens: Vec<Token>,
    /// The name everybody gets where there are no tokens.
    pub open_as: String,
    pub hosts: Vec<String>,
    pub public_url: Option<String>,
    /// EHRs that may ask for cards.
    pub cds_clients: Vec<cds::Client>,
    /// Keys of ours whose public parts EHRs may read.
    pub own_keys: Vec<KeyFile>,
    /// Hosts that subscribers may be at, by site.
    pub notify_hosts: Hosts,
    pub limits: Limits,
    pub connections: usize,
    pub stop_timeout: Duration,
    pub beside: Option<Beside>,
}

impl Settings {
    /// A gateway on a loopback address without tokens or TLS, for the demo and for tests.
    pub fn on_loopback(pipeline: Pipeline, listener: TcpListener, open_as: &str) -> Settings {
        Settings {
            pipeline,
            endpoints: Endpoints::new(),
            feeds: Vec::new(),
            sources: Endpoints::new(),
            listener,
            tls: None,
            tokens: Vec::new(),
            open_as: open_as.to_owned(),
            hosts: Vec::new(),
            public_url: None,
            cds_clients: Vec::new(),
            own_keys: Vec::new(),
            notify_hosts: Hosts::new(),
            limits: Limits::default(),
            connections: 1024,
            stop_timeout: Duration::from_secs(30),
            beside: None,
        }
    }
}

/// Binds an address; port 0 takes a free one.
pub fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .with_context(|| format!("the address {address} cannot be listened on; is another gateway running there? try another port"))
}

/// Where a feed that listens can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listening {
    pub site: String,
    pub feed: String,
    pub address: SocketAddr,
}

/// A gateway that runs.
pub struct App {
    pub address: SocketAddr,
    /// The feeds that listen at addresses of their own.
    pub listening: Vec<Listening>,
    is_tls: bool,
    server: JoinHandle<std::io::Result<()>>,
    handle: actix_web::dev::ServerHandle,
    stop: watch::Sender<bool>,
    loops: Vec<Loop>,
    intake: std::thread::JoinHandle<()>,
    store: Store,
    stop_timeout: Duration,
}

/// Asks a gateway to stop; cheap to clone.
#[derive(Clone)]
pub struct Stopper(watch::Sender<bool>);

impl Stopper {
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

/// Web workers; what blocks runs on other threads.
const WORKERS: usize = 2;

/// How long the loops may take to end after the requests did.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// How often the judge looks for subjects that wait.
const JUDGE_EVERY: Duration = Duration::from_millis(500);

/// Subjects judged in one go.
const JUDGE_BATCH: usize = 200;

/// Every subject is judged again at least so often (rulings.md 1).
const JUDGEMENT_MAX_AGE_MS: i64 = 24 * 3_600_000;

/// How often the judge looks for judgements that are too old.
const AGE_CHECK_EVERY_MS: i64 = 10 * 60_000;

/// A loop that has not been round for so long is dead.
const LOOP_SILENCE_MS: i64 = 120_000;

impl App {
    /// Starts the loops and the server; requests are answered when this returns.
    pub fn build(settings: Settings) -> anyhow::Result<App> {
        install_tls_provider();
        let address = settings.listener.local_addr().context("the listener has no address")?;
        let is_tls = settings.tls.is_some();
        if !address.ip().is_loopback() && (!is_tls || settings.tokens.is_empty()) {
            return Err(anyhow!("an address that others can reach needs TLS and tokens; see tls and tokens in profiles/config.schema.json"));
        }
        let (stop, stopped) = watch::channel(false);
        let store = settings.pipeline.store.clone();
        let (intake, intake_thread) = Intake::start(settings.pipeline.clone());
        let beat = Arc::new(AtomicI64::new(now_ms()));
        let mut loops = vec![Loop::start("judge".to_owned(), beat.clone(), judge(settings.pipeline.clone(), beat, stopped.clone()))];
        for (site, ehr) in settings.endpoints {
            let beat = Arc::new(AtomicI64::new(now_ms()));
            let name = format!("delivery of {site}");
            let delivery = deliver::run(settings.pipeline.clone(), ehr.clone(), site.clone(), beat.clone(), stopped.clone());
            loops.push(Loop::start(name, beat, delivery));
            let beat = Arc::new(AtomicI64::new(now_ms()));
            let name = format!("reconcile of {site}");
            let reconciling = reconcile::run_loop(settings.pipeline.clone(), ehr, site, beat.clone(), stopped.clone());
            loops.push(Loop::start(name, beat, reconciling));
        }
        let left = feeds::subscription::removed(&settings.pipeline, &settings.feeds).map_err(StoreTrouble)?;
        if !left.is_empty() {
            let with_source = |left: feeds::subscription::Left| {
                let ehr = settings.sources.get(&left.site).cloned();
                (left, ehr)
            };
            let left = left.into_iter().map(with_source).collect();
            let beat = Arc::new(AtomicI64::new(now_ms()));
            let removing = feeds::subscription::run_removals(settings.pipeline.clone(), left, beat.clone(), stopped.clone());
            loops.push(Loop::start("removal of feeds".to_owned(), beat, removing));
        }
        feeds::register(&settings.pipeline, &settings.feeds).map_err(StoreTrouble)?;
        let mut listening = Vec::new();
        for feed in settings.feeds {
            let beat = Arc::new(AtomicI64::new(now_ms()));
            let name = format!("feed {} of {}", feed.name, feed.site);
            match feed.kind {
                Kind::Mllp { settings: of_feed, tls } => {
                    let site = settings.pipeline.catalogue.sites.get(&feed.site);
                    if site.is_none_or(|site| site.hl7_v2.is_none()) {
                        return Err(anyhow!(
                            "the {name} takes HL7 v2, of which the site's mapping.json says nothing; add hl7_v2 to it (docs/feeds.md)"
                        ));
                    }
                    let listener = of_feed.bind().with_context(|| format!("the {name} cannot listen on {}", of_feed.listen))?;
                    let address = listener.local_addr().context("a listener has no address")?;
                    listening.push(Listening { site: feed.site.clone(), feed: feed.name.clone(), address });
                    let (pipeline, intake) = (settings.pipeline.clone(), intake.clone());
                    let door = mllp::Door { pipeline, intake, site: feed.site, feed: feed.name, settings: of_feed, tls };
                    loops.push(Loop::start(name, beat.clone(), mllp::run(door, listener, beat, stopped.clone())));
                }
                Kind::Poll { .. } | Kind::Subscription { .. } | Kind::Bulk { .. } | Kind::Folder { .. } => {
                    loops.push(Loop::start(name, beat.clone(), feeds::run(settings.pipeline.clone(), feed, beat, stopped.clone())))
                }
            }
        }
        let cds_clients = Arc::new(cds::Clients::new(settings.public_url.clone(), settings.cds_clients));
        if !cds_clients.clients.is_empty() {
            let beat = Arc::new(AtomicI64::new(now_ms()));
            loops.push(Loop::start("keys of CDS clients".to_owned(), beat.clone(), keep_keys(cds_clients.clone(), beat, stopped.clone())));
        }
        let beat = Arc::new(AtomicI64::new(now_ms()));
        let notify_hosts = Arc::new(settings.notify_hosts);
        let scheme = if is_tls { "https" } else { "http" };
        let url = settings.public_url.clone().unwrap_or_else(|| format!("{scheme}://{address}"));
        let notifier = Notifier { hosts: notify_hosts.clone(), hooks: Hooks::open(), url };
        let notifying = notify::run(settings.pipeline.clone(), notifier, beat.clone(), stopped.clone());
        loops.push(Loop::start("notifications".to_owned(), beat, notifying));
        let health = health(store.clone(), intake.clone(), loops.iter().map(|each| each.pulse.clone()).collect());
        let doors = Doors {
            pipeline: settings.pipeline,
            intake,
            tokens: Arc::new(Tokens {
                tokens: settings.tokens,
                open_as: settings.open_as,
                hosts: settings.hosts,
                is_loopback: address.ip().is_loopback(),
                is_tls,
            }),
            sign_ins: Arc::new(SignIns::default()),
            limits: settings.limits,
            health,
            links: Links { public_url: settings.public_url, is_tls },
            cds_clients,
            own_keys: own_keys(Published::new(settings.own_keys)),
            notify_hosts,
        };
        let beside = settings.beside;
        let server = HttpServer::new(move || {
            let doors = doors.clone();
            let beside = beside.clone();
            Web::new().wrap(from_fn(access::front)).configure(move |config| {
                if let Some(beside) = beside {
                    beside(config);
                }
                http::configure(&doors, config);
            })
        })
        .workers(WORKERS)
        .keep_alive(Duration::from_secs(75))
        .client_request_timeout(Duration::from_secs(10))
        .client_disconnect_timeout(Duration::from_secs(5))
        .max_connections(settings.connections.div_ceil(WORKERS))
        .shutdown_timeout(settings.stop_timeout.as_secs())
        .disable_signals();
        let server = match settings.tls {
            Some(tls) => server.listen_rustls_0_23(settings.listener, tls),
            None => server.listen(settings.listener),
        }
        .context("the listener cannot be used")?
        .run();
        let handle = server.handle();
        Ok(App {
            address,
            listening,
            is_tls,
            server: tokio::spawn(server),
            handle,
            stop,
            loops,
            intake: intake_thread,
            store,
            stop_timeout: settings.stop_timeout,
        })
    }

    /// `http://127.0.0.1:8080`.
    pub fn url(&self) -> String {
        format!("{}://{}", if self.is_tls { "https" } else { "http" }, self.address)
    }

    pub fn stopper(&self) -> Stopper {
        Stopper(self.stop.clone())
    }

    /// Runs until a [`Stopper`] says so; then takes no more requests, lets those that run end, and joins every loop.
    pub async fn run_until_stopped(self) -> anyhow::Result<()> {
        let App { mut server, handle, stop, loops, intake, store, stop_timeout, .. } = self;
        let mut stopped = stop.subscribe();
        let ended = tokio::select! {
            ended = &mut server => Some(ended),
            _ = stopped.wait_for(|is_stopped| *is_stopped) => None,
        };
        stop.send_replace(true);
        // Requests that run have `stop_timeout`; what has not ended a little later will not end at all.
        let deadline = tokio::time::Instant::now() + stop_timeout + STOP_GRACE;
        let ended = match ended {
            Some(ended) => Some(ended),
            None => {
                let stopping = async {
                    handle.stop(true).await;
                    server.await
                };
                tokio::time::timeout_at(deadline, stopping).await.ok()
            }
        };
        for Loop { pulse, task } in loops {
            if tokio::time::timeout_at(deadline, task).await.is_err() {
                tracing::error!(name = pulse.name, "a loop did not stop in time");
            }
        }
        // The line ends when the workers have dropped their ends of it.
        while !intake.is_finished() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if !intake.is_finished() {
            tracing::error!("the intake did not stop in time");
        }
        // The last clone of the store closes it, which folds the write-ahead log into the database.
        drop(store);
        ended.context("the server did not stop in time")?.context("the server ended badly")?.context("the server ended")?;
        Ok(())
    }
}

/// A loop that runs beside the server.
struct Loop {
    pulse: Pulse,
    task: JoinHandle<()>,
}

impl Loop {
    fn start(name: String, beat: Arc<AtomicI64>, running: impl Future<Output = ()> + Send + 'static) -> Loop {
        let task = tokio::spawn(running);
        Loop { pulse: Pulse { name, task: task.abort_handle(), beat }, task }
    }
}

/// What tells whether a loop is alive: it has not ended, and it went round lately.
#[derive(Clone, Debug)]
pub struct Pulse {
    pub name: String,
    pub task: AbortHandle,
    /// When its last round began, ms since 1970 UTC.
    pub beat: Arc<AtomicI64>,
}

impl Pulse {
    /// What is wrong with it, for a person.
    pub fn trouble(&self, now_ms: i64) -> Option<String> {
        if self.task.is_finished() {
            return Some(format!("the loop {} has ended", self.name));
        }
        let is_silent = LOOP_SILENCE_MS < now_ms - self.beat.load(Ordering::Relaxed);
        is_silent.then(|| format!("the loop {} has not gone round for {} s", self.name, LOOP_SILENCE_MS / 1_000))
    }
}

fn own_keys(published: Published) -> OwnKeys {
    OwnKeys(Arc::new(move || published.text(Instant::now()).map_err(|error| error.to_string())))
}

fn health(store: Store, intake: Intake, loops: Vec<Pulse>) -> Health {
    Health(Arc::new(move || {
        if let Some(trouble) = loops.iter().find_map(|pulse| pulse.trouble(now_ms())) {
            return Err(trouble);
        }
        if !intake.is_alive() {
            return Err("the intake has ended".to_owned());
        }
        store.read_blocking(|_| Ok(())).map_err(|error| error.to_string())
    }))
}

/// Judges subjects that wait, and each one again as days go by.
async fn judge(pipeline: Pipeline, beat: Arc<AtomicI64>, mut stopped: watch::Receiver<bool>) {
    let mut age_checked_ms = 0;
    loop {
        beat.store(now_ms(), Ordering::Relaxed);
        let round = pipeline.clone();
        let checks_age = now_ms() - age_checked_ms > AGE_CHECK_EVERY_MS;
        let judged = tokio::task::spawn_blocking(move || judge_round(&round, checks_age)).await;
        let more = match judged {
            Ok(Ok(judged)) => {
                if checks_age && judged < JUDGE_BATCH {
                    age_checked_ms = now_ms();
                }
                judged >= JUDGE_BATCH
            }
            Ok(Err(error)) => {
                tracing::error!(%error, "judging waits for the store");
                false
            }
            Err(error) => {
                tracing::error!(%error, "judging failed on some subject");
                false
            }
        };
        if *stopped.borrow() {
            return;
        }
        if !more {
            // An error here means that the sender is gone: stop too.
            let waited = tokio::time::timeout(JUDGE_EVERY, stopped.wait_for(|is_stopped| *is_stopped)).await;
            if waited.is_ok() {
                return;
            }
        }
    }
}

/// How often keys are looked at that may be due; how long they are kept, their servers say.
const KEYS_EVERY: Duration = Duration::from_secs(5);

/// Has the keys of CDS clients at hand, so that no clinician waits for them.
async fn keep_keys(clients: Arc<cds::Clients>, beat: Arc<AtomicI64>, mut stopped: watch::Receiver<bool>) {
    loop {
        beat.store(now_ms(), Ordering::Relaxed);
        tokio::select! {
            () = clients.keep_keys_fresh() => {}
            _ = stopped.wait_for(|is_stopped| *is_stopped) => return,
        }
        // An error here means that the sender is gone: stop too.
        if tokio::time::timeout(KEYS_EVERY, stopped.wait_for(|is_stopped| *is_stopped)).await.is_ok() {
            return;
        }
    }
}

/// One round; answers how many subjects it judged.
fn judge_round(pipeline: &Pipeline, checks_age: bool) -> Result<usize, StoreError> {
    let judged = judging::waiting(pipeline, now_ms(), JUDGE_BATCH)?;
    if judged >= JUDGE_BATCH || !checks_age {
        return Ok(judged);
    }
    Ok(judged + judging::again(pipeline, now_ms(), now_ms() - JUDGEMENT_MAX_AGE_MS, JUDGE_BATCH)?)
}
