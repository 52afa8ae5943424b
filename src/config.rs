//! The gateway's configuration file: JSON, checked by profiles/config.schema.json; secrets only by the name of an
//! environment variable or a file.

pub mod access;
pub mod listener_tls;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use access::{AuthorizationEntry, EndpointTls};

use crate::catalogue::Fault;
use crate::digest::sha256;
use crate::ehr::Ehr;
use crate::ehr::jwks::KeyServer;
use crate::feeds::{Feed, Kind, bulk, folder, mllp, poll, roster, subscription};
use crate::fhir::schema::Schema;
use crate::http::access::{Role, Token};
use crate::http::body::Limits;
use crate::http::cds::Client;
use crate::pipeline::jwks::KeySet;
use crate::pipeline::notify::Hosts;
use crate::store::cards::Budget;
use crate::store::{FILE_NAME, Location};
use crate::writeback::WriteFrom;

const SCHEMA: &str = include_str!("../profiles/config.schema.json");

/// A configuration that was read and checked; secrets are still only named.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    #[serde(default, rename = "$schema")]
    pub schema: Option<String>,
    #[serde(default)]
    pub note: Option<String>,
    pub listen: SocketAddr,
    #[serde(default)]
    pub public_url: Option<String>,
    #[serde(default)]
    pub hosts: Vec<String>,
    #[serde(default)]
    pub tls: Option<TlsFiles>,
    store: StoreNamed,
    #[serde(default)]
    catalogue_dir: Option<PathBuf>,
    pub sites: Vec<SiteEntry>,
    #[serde(default)]
    tokens: Vec<TokenEntry>,
    #[serde(default)]
    cds_clients: Vec<CdsClientEntry>,
    #[serde(default)]
    pub limits: LimitsEntry,
    /// The file itself, for messages and relative paths.
    #[serde(skip)]
    file: PathBuf,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    #[serde(default)]
    pub note: Option<String>,
    pub certificate_file: PathBuf,
    pub key_file: PathBuf,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoreNamed {
    #[serde(default, rename = "note")]
    _note: Option<String>,
    #[serde(default)]
    sqlite_dir: Option<PathBuf>,
    #[serde(default)]
    postgres_url_env: Option<String>,
}

/// One enabled site.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiteEntry {
    pub site: String,
    pub note: String,
    #[serde(default)]
    pub receiver: Option<ReceiverEntry>,
    /// Hosts that subscribers of this site may be at, besides the receiver's own.
    #[serde(default)]
    pub notify_hosts: Vec<String>,
    /// The FHIR endpoint that this site's feeds read.
    #[serde(default)]
    pub source: Option<SourceEntry>,
    #[serde(default)]
    pub feeds: Vec<FeedEntry>,
}

/// The FHIR endpoint that a site is read from.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceEntry {
    #[serde(default, rename = "note")]
    _note: Option<String>,
    pub base_url: String,
    #[serde(default)]
    pub requests_per_minute: Option<u32>,
    #[serde(default)]
    authorization: Option<AuthorizationEntry>,
    #[serde(default)]
    tls: Option<EndpointTls>,
    /// Hosts besides its own that its Bulk Data files may be on.
    #[serde(default)]
    file_hosts: Vec<String>,
}

/// One feed; the schema sees to it that it is of exactly one kind.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeedEntry {
    pub name: String,
    #[serde(rename = "note")]
    _note: String,
    #[serde(default)]
    silent_after_minutes: Option<u32>,
    #[serde(default)]
    poll: Option<poll::Settings>,
    #[serde(default)]
    subscription: Option<subscription::Settings>,
    #[serde(default)]
    folder: Option<folder::Settings>,
    #[serde(default)]
    bulk: Option<bulk::Settings>,
    #[serde(default)]
    mllp: Option<mllp::Settings>,
}

/// Where a site's write-back goes; what is left out stands in its receiver.json.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReceiverEntry {
    #[serde(default)]
    pub note: Option<String>,
    #[serde(default)]
    pub base_url: Option<String>,
    #[serde(default)]
    bearer_token_env: Option<String>,
    #[serde(default)]
    bearer_token_file: Option<PathBuf>,
    #[serde(default)]
    authorization: Option<AuthorizationEntry>,
    #[serde(default)]
    tls: Option<EndpointTls>,
    #[serde(default)]
    identifier_key_env: Option<String>,
    #[serde(default)]
    identifier_key_file: Option<PathBuf>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenEntry {
    #[serde(default, rename = "note")]
    _note: Option<String>,
    name: String,
    role: Role,
    #[serde(default)]
    site: Option<String>,
    #[serde(default)]
    sha256: Option<String>,
    #[serde(default)]
    env: Option<String>,
    #[serde(default)]
    file: Option<PathBuf>,
}

/// One EHR that may ask for cards (docs/cds.md).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CdsClientEntry {
    #[serde(rename = "note")]
    _note: String,
    issuer: String,
    #[serde(default)]
    tenant: Option<String>,
    site: String,
    #[serde(default)]
    jwks_url: Option<String>,
    #[serde(default)]
    jwks_file: Option<PathBuf>,
    #[serde(default)]
    fhir_server: Option<String>,
    #[serde(default)]
    from: Option<WriteFrom>,
    #[serde(default)]
    origins: Vec<String>,
    #[serde(default)]
    budget: Budget,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsEntry {
    #[serde(rename = "note")]
    _note: Option<String>,
    resource_mib: usize,
    bundle_mib: usize,
    ndjson_mib: usize,
    idle_seconds: u64,
    body_seconds: u64,
    pub connections: usize,
    pub stop_seconds: u64,
}

impl Default for LimitsEntry {
    fn default() -> LimitsEntry {
        LimitsEntry {
            _note: None,
            resource_mib: 16,
            bundle_mib: 64,
            ndjson_mib: 256,
            idle_seconds: 30,
            body_seconds: 120,
            connections: 1024,
            stop_seconds: 30,
        }
    }
}

impl LimitsEntry {
    pub fn limits(&self) -> Limits {
        Limits {
            single_bytes: self.resource_mib << 20,
            bundle_bytes: self.bundle_mib << 20,
            ndjson_bytes: self.ndjson_mib << 20,
            idle: Duration::from_secs(self.idle_seconds),
            whole: Duration::from_secs(self.body_seconds),
            ..Limits::default()
        }
    }
}

/// Names under which what is pushed or imported is counted.
const PUSH_FEEDS: [&str; 2] = ["push", "import"];

/// Shortest secret that may key our identifiers, in characters.
const KEY_MIN: usize = 16;

impl Config {
    /// Reads and checks a file; every fault that can be told is told at once.
    pub fn read(file: &Path) -> Result<Config, Vec<Fault>> {
        let fault = |path: &str, message: String, hint: &str| Fault {
            file: file.display().to_string(),
            path: path.to_owned(),
            message,
            hint: hint.to_owned(),
        };
        let text = std::fs::read_to_string(file).map_err(|error| {
            vec![fault("", format!("the configuration cannot be read: {error}"), "give the path of a JSON file that this user may read")]
        })?;
        let schema = Schema::compile(SCHEMA).expect("profiles/config.schema.json is a schema");
        let faults = schema.check_unseen(&text);
        if !faults.is_empty() {
            return Err(faults.into_iter().map(|found| fault(&found.path, found.message, "compare with profiles/config.schema.json")).collect());
        }
        let mut config: Config = serde_json::from_str(&text)
            .map_err(|error| vec![fault("", format!("the configuration cannot be read: {error}"), "compare with profiles/config.schema.json")])?;
        config.file = file.to_owned();
        let faults = config.check();
        if faults.is_empty() { Ok(config) } else { Err(faults) }
    }

    fn fault(&self, path: impl Into<String>, message: impl Into<String>, hint: &str) -> Fault {
        Fault { file: self.file.display().to_string(), path: path.into(), message: message.into(), hint: hint.to_owned() }
    }

    /// What a schema cannot see.
    fn check(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        if !self.listen.ip().is_loopback() {
            if self.tls.is_none() {
                faults.push(self.fault(
                    "/listen",
                    "an address that others can reach needs TLS",
                    "add tls with certificate_file and key_file, or listen on 127.0.0.1",
                ));
            }
            if self.tokens.is_empty() {
                faults.push(self.fault(
                    "/listen",
                    "an address that others can reach needs tokens",
                    "add tokens, one for each person and feed, or listen on 127.0.0.1",
                ));
            }
        }
        for (index, entry) in self.sites.iter().enumerate() {
            if self.sites[..index].iter().any(|other| other.site == entry.site) {
                faults.push(self.fault(format!("/sites/{index}/site"), "this site stands twice", "keep one entry of each site"));
            }
        }
        for (index, entry) in self.sites.iter().enumerate() {
            let has_token = entry.receiver.as_ref().is_some_and(|entry| entry.bearer_token_env.is_some() || entry.bearer_token_file.is_some());
            if has_token && entry.receiver.as_ref().is_some_and(|entry| entry.authorization.is_some()) {
                let path = format!("/sites/{index}/receiver/authorization");
                faults.push(self.fault(path, "a bearer token is named beside authorization", "keep one of the two"));
            }
            for (place, feed) in entry.feeds.iter().enumerate() {
                let path = |field: &str| format!("/sites/{index}/feeds/{place}/{field}");
                if PUSH_FEEDS.contains(&feed.name.as_str()) || entry.feeds[..place].iter().any(|other| other.name == feed.name) {
                    faults.push(self.fault(path("name"), "this name is taken", "give each feed of a site a name of its own"));
                }
                if let Some(fault) = feed.mllp.as_ref().and_then(mllp::Settings::fault) {
                    let hint =
                        "add tls with certificate_file and key_file, or plain_text_is_accepted with who accepts it and why, or listen on 127.0.0.1";
                    faults.push(self.fault(path("mllp/listen"), fault, hint));
                }
                let reads = [("poll", feed.poll.is_some()), ("bulk", feed.bulk.is_some())];
                for (kind, _) in reads.into_iter().filter(|(_, is_kind)| *is_kind && entry.source.is_none()) {
                    faults.push(self.fault(path(kind), "the FHIR endpoint to be read is not named", "add source with its base_url to the site"));
                }
                if let Some(settings) = &feed.subscription {
                    faults.extend(self.subscription_faults(&path("subscription"), entry, settings));
                }
            }
        }
        let folders: Vec<(usize, usize, &Path)> = self
            .sites
            .iter()
            .enumerate()
            .flat_map(|(index, entry)| entry.feeds.iter().enumerate().map(move |(place, feed)| (index, place, feed)))
            .filter_map(|(index, place, feed)| Some((index, place, feed.folder.as_ref()?.dir.as_path())))
            .collect();
        for (number, (index, place, dir)) in folders.iter().enumerate() {
            if folders[..number].iter().any(|(_, _, other)| other == dir) {
                let path = format!("/sites/{index}/feeds/{place}/folder/dir");
                faults.push(self.fault(path, "another feed watches this folder", "give each feed a folder of its own"));
            }
        }
        for (index, entry) in self.tokens.iter().enumerate() {
            if let Some(site) = &entry.site
                && !self.sites.iter().any(|known| known.site == *site)
            {
                faults.push(self.fault(
                    format!("/tokens/{index}/site"),
                    "this token is for a site that is not enabled",
                    "name a site of sites, or leave site out",
                ));
            }
        }
        for (index, entry) in self.cds_clients.iter().enumerate() {
            let path = |field: &str| format!("/cds_clients/{index}/{field}");
            if !self.sites.iter().any(|known| known.site == entry.site) {
                faults.push(self.fault(path("site"), "this client is for a site that is not enabled", "name a site of sites"));
            }
            let others = || self.cds_clients[..index].iter().filter(|other| other.issuer == entry.issuer);
            if others().any(|other| other.tenant.is_none() || entry.tenant.is_none() || other.tenant == entry.tenant) {
                faults.push(self.fault(path("issuer"), "another client has this issuer", "tell them apart by tenant, or keep one entry"));
            }
        }
        if !self.cds_clients.is_empty() && !self.public_url.as_deref().is_some_and(is_safe) {
            let hint = "add public_url, beginning with https: the clients' tokens are made out to it, and cards link to it";
            faults.push(self.fault("/public_url", "CDS clients need the address by which they reach this gateway", hint));
        }
        faults
    }

    fn subscription_faults(&self, path: &str, entry: &SiteEntry, settings: &subscription::Settings) -> Vec<Fault> {
        let mut faults = Vec::new();
        if entry.source.is_none() {
            faults.push(self.fault(path, "the FHIR endpoint to be read is not named", "add source with its base_url to the site"));
        }
        if let Some((field, message, hint)) = settings.fault() {
            faults.push(self.fault(format!("{path}/{field}"), message, hint));
        }
        if !self.notified_at(settings).is_some_and(is_safe) {
            let hint = "add public_url, beginning with https: the source sends a secret to it";
            faults.push(self.fault(format!("{path}/public_url"), "the source is to notify at an address that it can reach safely", hint));
        }
        faults
    }

    /// How a source reaches this gateway.
    fn notified_at<'a>(&'a self, settings: &'a subscription::Settings) -> Option<&'a str> {
        settings.public_url.as_deref().or(self.public_url.as_deref()).map(|url| url.trim_end_matches('/'))
    }

    /// The FHIR endpoints that sites are read from.
    pub fn sources(&self) -> Result<BTreeMap<String, Ehr>, Fault> {
        let with_source = self.sites.iter().enumerate().filter_map(|(index, entry)| Some((index, entry, entry.source.as_ref()?)));
        with_source.map(|(index, entry, source)| Ok((entry.site.clone(), self.source(index, source)?))).collect()
    }

    /// The feeds of all sites.
    pub fn feeds(&self) -> Result<Vec<Feed>, Fault> {
        let mut feeds = Vec::new();
        let at_file = |roster: Option<&mut roster::Settings>| {
            if let Some(roster) = roster {
                roster.file = roster.file.as_ref().map(|file| self.path(file));
            }
        };
        for (index, entry) in self.sites.iter().enumerate() {
            let source = entry.source.as_ref().map(|source| self.source(index, source)).transpose()?;
            for (place, feed) in entry.feeds.iter().enumerate() {
                let place = format!("/sites/{index}/feeds/{place}");
                let unusable = || self.fault(place.clone(), "a feed of no kind", "give it one of poll, subscription, bulk, folder, mllp");
                let kind = match (&source, feed.clone()) {
                    (Some(ehr), FeedEntry { poll: Some(mut settings), .. }) => {
                        at_file(settings.roster.as_mut());
                        Kind::Poll { ehr: ehr.clone(), settings }
                    }
                    (Some(ehr), FeedEntry { subscription: Some(mut settings), .. }) => {
                        at_file(settings.catch_up.roster.as_mut());
                        let url = self.notified_at(&settings).ok_or_else(unusable)?;
                        let endpoint = format!("{url}/notify/{}/{}", entry.site, feed.name);
                        Kind::Subscription { ehr: ehr.clone(), settings, endpoint }
                    }
                    (Some(ehr), FeedEntry { bulk: Some(settings), .. }) => Kind::Bulk { ehr: ehr.clone(), settings },
                    (_, FeedEntry { folder: Some(settings), .. }) => {
                        Kind::Folder { settings: folder::Settings { dir: self.path(&settings.dir), ..settings }, watched: Arc::default() }
                    }
                    (_, FeedEntry { mllp: Some(settings), .. }) => self.mllp(&format!("{place}/mllp"), settings)?,
                    // The schema lets only one kind through, and the check asks for a source.
                    (_, FeedEntry { .. }) => return Err(unusable()),
                };
                let silent_after_ms = feed.silent_after_minutes.map(|minutes| i64::from(minutes) * 60_000);
                feeds.push(Feed { site: entry.site.clone(), name: feed.name.clone(), silent_after_ms, kind });
            }
        }
        Ok(feeds)
    }

    /// A listener for HL7 v2, with its certificates.
    fn mllp(&self, path: &str, settings: mllp::Settings) -> Result<Kind, Fault> {
        let Some(files) = &settings.tls else { return Ok(Kind::Mllp { settings, tls: None }) };
        let client_ca = files.client_ca_file.as_ref().map(|file| self.path(file));
        let tls = listener_tls::server(&self.path(&files.certificate_file), &self.path(&files.key_file), client_ca.as_deref());
        let tls = tls.map_err(|unusable| {
            let hint = "give PEM files: the listener's certificate chain, its key, and the authorities of its senders' certificates";
            self.fault(format!("{path}/tls/{}", unusable.field), unusable.message, hint)
        })?;
        Ok(Kind::Mllp { settings, tls: Some(Arc::new(tls)) })
    }

    /// The EHRs that may ask for cards.
    pub fn cds_clients(&self) -> Result<Vec<Client>, Fault> {
        self.cds_clients.iter().enumerate().map(|(index, entry)| self.cds_client(index, entry)).collect()
    }

    fn cds_client(&self, index: usize, entry: &CdsClientEntry) -> Result<Client, Fault> {
        let path = |field: &str| format!("/cds_clients/{index}/{field}");
        let keys = match (&entry.jwks_file, &entry.jwks_url) {
            (Some(file), _) => {
                self.secret_file(path("jwks_file"), file)?;
                KeySet::of_file(self.path(file))
            }
            (None, Some(url)) => KeySet::of_url(KeyServer::open(url).map_err(|_| {
                self.fault(path("jwks_url"), "the keys' address cannot be used", "use the https address of the client's JSON Web Key Set")
            })?),
            (None, None) => return Err(self.fault(path("jwks_url"), "the client's keys are not named", "add jwks_url or jwks_file")),
        };
        Ok(Client {
            issuer: entry.issuer.clone(),
            tenant: entry.tenant.clone(),
            site: entry.site.clone(),
            jwks_url: entry.jwks_url.clone(),
            keys,
            fhir_server: entry.fhir_server.as_deref().map(|url| url.trim_end_matches('/').to_owned()),
            from: entry.from,
            origins: entry.origins.clone(),
            budget: entry.budget,
        })
    }

    /// A path of the file, relative to the file's own folder.
    fn path(&self, path: &Path) -> PathBuf {
        self.file.parent().unwrap_or(Path::new(".")).join(path)
    }

    fn env(&self, path: String, name: &str) -> Result<String, Fault> {
        match std::env::var(name) {
            Ok(value) if !value.trim().is_empty() => Ok(value.trim().to_owned()),
            Ok(_) | Err(_) => Err(self.fault(path, format!("the environment variable {name} is not set"), "set it before starting the gateway")),
        }
    }

    fn secret_file(&self, path: String, file: &Path) -> Result<String, Fault> {
        let file = self.path(file);
        let text = std::fs::read_to_string(&file).map_err(|error| {
            self.fault(path.clone(), format!("the file {} cannot be read: {error}", file.display()), "check its path and who may read it")
        })?;
        match text.trim() {
            "" => Err(self.fault(path, format!("the file {} is empty", file.display()), "put the secret into it")),
            secret => Ok(secret.to_owned()),
        }
    }

    /// Where the store is.
    pub fn location(&self) -> Result<Location, Fault> {
        match (&self.store.sqlite_dir, &self.store.postgres_url_env) {
            (Some(dir), _) => Ok(Location::Sqlite(self.path(dir).join(FILE_NAME))),
            (None, Some(name)) => Ok(Location::Postgres(self.env("/store/postgres_url_env".to_owned(), name)?)),
            (None, None) => Err(self.fault("/store", "no store is named", "add sqlite_dir or postgres_url_env")),
        }
    }

    pub fn notify_hosts(&self) -> Hosts {
        self.sites.iter().map(|entry| (entry.site.clone(), entry.notify_hosts.clone())).collect()
    }

    pub fn catalogue_dir(&self) -> Option<PathBuf> {
        self.catalogue_dir.as_ref().map(|dir| self.path(dir))
    }

    /// The tokens, as hashes.
    pub fn tokens(&self) -> Result<Vec<Token>, Fault> {
        let hash = |index: usize, entry: &TokenEntry| match (&entry.sha256, &entry.env, &entry.file) {
            (Some(hex), _, _) => Ok(from_hex(hex)),
            (None, Some(name), _) => Ok(sha256(self.env(format!("/tokens/{index}/env"), name)?.as_bytes())),
            (None, None, Some(file)) => Ok(sha256(self.secret_file(format!("/tokens/{index}/file"), file)?.as_bytes())),
            (None, None, None) => Err(self.fault(format!("/tokens/{index}"), "the token is not named", "add sha256, env or file")),
        };
        let tokens: Vec<Token> = self
            .tokens
            .iter()
            .enumerate()
            .map(|(index, entry)| Ok(Token { name: entry.name.clone(), role: entry.role, site: entry.site.clone(), sha256: hash(index, entry)? }))
            .collect::<Result<_, Fault>>()?;
        for (index, token) in tokens.iter().enumerate() {
            if tokens[..index].iter().any(|other| other.sha256 == token.sha256) {
                return Err(self.fault(
                    format!("/tokens/{index}"),
                    "two entries hold the same token",
                    "give each person and feed a token of their own",
                ));
            }
        }
        Ok(tokens)
    }

    /// The key of the identifiers written at a site: SHA-256 of the secret. `named_there` is what receiver.json names.
    pub fn identifier_key(&self, index: usize, entry: &ReceiverEntry, named_there: Option<&str>) -> Result<[u8; 32], Fault> {
        let path = |field: &str| format!("/sites/{index}/receiver/{field}");
        let secret = match (&entry.identifier_key_file, entry.identifier_key_env.as_deref().or(named_there)) {
            (Some(file), _) => self.secret_file(path("identifier_key_file"), file)?,
            (None, Some(name)) => self.env(path("identifier_key_env"), name)?,
            (None, None) => {
                return Err(self.fault(
                    path("identifier_key_env"),
                    "no secret for our identifiers is named",
                    "add identifier_key_env or identifier_key_file",
                ));
            }
        };
        if secret.chars().count() < KEY_MIN {
            return Err(self.fault(
                path("identifier_key_env"),
                "the secret for our identifiers is short",
                "use at least 16 characters by chance, and never change them",
            ));
        }
        Ok(sha256(secret.as_bytes()))
    }

    /// The bearer token of a site's EHR, where one is named.
    pub fn bearer_token(&self, index: usize, entry: &ReceiverEntry, named_there: Option<&str>) -> Result<Option<String>, Fault> {
        let path = |field: &str| format!("/sites/{index}/receiver/{field}");
        match (&entry.bearer_token_file, entry.bearer_token_env.as_deref().or(named_there)) {
            (Some(file), _) => self.secret_file(path("bearer_token_file"), file).map(Some),
            (None, Some(name)) => self.env(path("bearer_token_env"), name).map(Some),
            (None, None) => Ok(None),
        }
    }

    /// A fault of one site's entry.
    pub fn site_fault(&self, index: usize, field: &str, message: impl Into<String>, hint: &str) -> Fault {
        self.fault(format!("/sites/{index}/{field}"), message, hint)
    }

    /// The TLS settings of the listener, read from their files.
    pub fn server_tls(&self) -> Result<Option<rustls::ServerConfig>, Fault> {
        let Some(files) = &self.tls else { return Ok(None) };
        let tls = listener_tls::server(&self.path(&files.certificate_file), &self.path(&files.key_file), None);
        let hint = "give PEM files: the server's certificate chain, and its key";
        tls.map(Some).map_err(|unusable| self.fault(format!("/tls/{}", unusable.field), unusable.message, hint))
    }
}

/// Whether what is sent there cannot be read on the way.
fn is_safe(url: &str) -> bool {
    let host = |rest: &str| rest.split(['/', ':']).next().is_some_and(|host| matches!(host, "localhost" | "127.0.0.1"));
    url.starts_with("https://") || url.strip_prefix("http://").is_some_and(host)
}

/// Hex that the schema checked.
fn from_hex(hex: &str) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks(2)) {
        *byte = std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok()).expect("the schema asks for 64 hex digits");
    }
    bytes
}
