//! One hospital's FHIR endpoint as a client: read, search, create, update, delete; TLS by rustls.
//!
//! The base address is fixed when it is opened: no redirect is followed, and a token goes to the base's own origin alone.
//! Every answer is bounded in time and size. Knows nothing about studies or stores; repeats nothing, but once what was
//! refused since its access token had ended.

pub mod access;
pub mod hook;
pub mod jwks;
mod pace;
pub mod pages;
pub mod scope;
pub mod signing;
pub mod smart;
pub mod stream;
mod token;

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method, Request, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;

use crate::fhir::WRITE_BACK_SYSTEM;
use crate::fhir::edit::{self, Index};
use crate::writeback;
use crate::writeback::ladder::{Declared, DeclaredResource};

use access::{Access, AccessTrouble, Credentials, secret_header, tls_trouble};
use pace::Pace;
use smart::TokenClient;
use token::Tokens;

/// Longest wait for a whole answer; a strict HAPI FHIR takes half a minute over the first resource it validates.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest body that is read; a search page of large resources stays far below.
const BODY_MAX_BYTES: usize = 8 << 20;
/// Pages of one search that are followed; a receiver that needs more for one identifier ignores the identifier.
const PAGES_MAX: usize = 20;
/// Pages that are followed where everything must be seen.
const ALL_PAGES_MAX: usize = 5_000;
/// Longest wait that a Retry-After can ask for.
const RETRY_AFTER_MAX_MS: i64 = 3_600_000;
const USER_AGENT: &str = concat!("nephrogate/", env!("CARGO_PKG_VERSION"));

/// What the caller would do differently.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EhrError {
    /// Not reached, busy or broken on its side: the same request may go through later, not before `after_ms` from now.
    #[error("{}", why.as_ref().map_or_else(|| cannot_answer(*status), ToString::to_string))]
    Retry { status: Option<u16>, after_ms: Option<i64>, why: Option<AccessTrouble> },
    /// Sent, and no whole answer came: it may or may not have been applied. Look before sending again.
    #[error("the EHR did not answer: the request may have been applied")]
    Unknown,
    /// 409 or 412: changed under us. Read again, decide again.
    #[error("the EHR holds another version: {status}")]
    Conflict { status: u16 },
    /// For good: the same request will be refused again. Status 0: it was refused here, since its address leads where no
    /// token of ours may go, or nowhere.
    #[error("{}", if *status == 0 { format!("it cannot be followed: {outcome}") } else { format!("the EHR refused it: {status} {outcome}") })]
    Refused { status: u16, outcome: String },
    /// It does not do what was asked in this way (OperationOutcome `not-supported`): ask in another.
    #[error("the EHR does not support it: {status}")]
    Unsupported { status: u16 },
    /// 401 from the EHR, or no access token to be had (then it is the token endpoint's status, or 0): our credentials do not
    /// hold, and no other request will fare better before a person has done what the words say.
    #[error("{why}")]
    Unauthorized { status: u16, why: AccessTrouble },
    /// 404 or 410 on something that must be there.
    #[error("the EHR does not have it: {status}")]
    Absent { status: u16 },
}

impl EhrError {
    /// ms before which the EHR asked not to be asked again.
    pub fn after_ms(&self) -> Option<i64> {
        match self {
            EhrError::Retry { after_ms, .. } => *after_ms,
            EhrError::Unknown
            | EhrError::Conflict { .. }
            | EhrError::Refused { .. }
            | EhrError::Unsupported { .. }
            | EhrError::Unauthorized { .. }
            | EhrError::Absent { .. } => None,
        }
    }

    /// The same; where trying again makes sense, not before so long from now.
    fn not_before(self, wait: Duration) -> EhrError {
        if let EhrError::Retry { status, why, .. } = self {
            return EhrError::Retry { status, after_ms: i64::try_from(wait.as_millis()).ok(), why };
        }
        self
    }
}

fn cannot_answer(status: Option<u16>) -> String {
    format!("the EHR cannot answer now{}", status.map(|status| format!(": {status}")).unwrap_or_default())
}

/// An address or something secret that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("not an http or https address of a FHIR server, such as https://ehr.example.org/fhir")]
    NotAnAddress,
    #[error("plain http is for loopback addresses only: use https")]
    NotEncrypted,
    #[error("the token, user or password holds characters that cannot stand in a header")]
    Token,
    #[error("the client certificate and its key cannot be used: they are PEM, a certificate chain and the private key of its first certificate")]
    ClientCertificate,
    #[error("the certificate authorities cannot be used: they are certificates in PEM")]
    Authorities,
    #[error("token_endpoint is not an https address (http only on this machine, and only for an EHR on this machine)")]
    TokenEndpoint,
}

/// One resource as the EHR holds it.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    pub resource: String,
    pub index: Index,
    /// `meta.versionId`, else the ETag.
    pub version: Option<String>,
    /// `meta.lastUpdated` as written.
    pub last_updated: Option<String>,
}

impl Held {
    /// Whether it carries this identifier of ours, as an identifier or, where R4 has none, as a tag.
    pub fn is_ours(&self, key: &str) -> bool {
        self.index.identifiers.iter().chain(&self.index.tags).any(|(system, value)| system == WRITE_BACK_SYSTEM && value == key)
    }

    /// Whether it is labelled HTEST.
    pub fn is_test(&self) -> bool {
        self.index.security.iter().any(|(_, code)| code == "HTEST")
    }
}

/// What the EHR says of one Patient, as far as a send depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PatientStanding {
    pub is_deceased: bool,
    /// `active: false`, or replaced by another record.
    pub is_retired: bool,
    pub is_test: bool,
}

/// The answer to a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    pub status: u16,
    /// Id from `Location`, `Content-Location` or the body.
    pub id: Option<String>,
    pub version: Option<String>,
}

/// What an access token was granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scopes {
    /// In the server's words.
    pub scope: String,
    /// Asked for and not granted.
    pub missing: Vec<String>,
}

/// One endpoint; cheap to clone.
#[derive(Clone)]
pub struct Ehr {
    client: Client,
    base: Url,
    guard: Guard,
    has_identity: bool,
    /// Hosts besides its own that its files may be on.
    file_hosts: Arc<[String]>,
    pace: Option<Arc<Pace>>,
    is_first_in_line: bool,
}

/// What goes with each request so that it is let in.
#[derive(Clone)]
enum Guard {
    Open,
    Fixed { header: HeaderValue, refused: AccessTrouble },
    Smart(Arc<Tokens>),
}

impl Guard {
    /// What a 401 means.
    fn refused(&self) -> AccessTrouble {
        match self {
            Guard::Open => AccessTrouble::NoCredentials,
            Guard::Fixed { refused, .. } => refused.clone(),
            Guard::Smart(_) => AccessTrouble::FreshToken,
        }
    }

    /// What the access token in use was granted.
    fn scope(&self) -> Option<String> {
        match self {
            Guard::Open | Guard::Fixed { .. } => None,
            Guard::Smart(tokens) => tokens.scope(),
        }
    }
}

impl Ehr {
    /// Opens an endpoint by its FHIR base, with a bearer token or nothing; plain http only on loopback. Nothing is sent yet.
    pub fn open(base_url: &str, bearer_token: Option<&str>) -> Result<Ehr, AddressError> {
        let credentials = bearer_token.map_or(Credentials::None, |token| Credentials::Bearer(token.to_owned()));
        Ehr::open_with(base_url, Access { credentials, ..Access::default() })
    }

    /// Opens an endpoint that is reached as `access` says. Nothing is sent yet.
    pub fn open_with(base_url: &str, access: Access) -> Result<Ehr, AddressError> {
        let mut base = Url::parse(base_url).map_err(|_| AddressError::NotAnAddress)?;
        if !matches!(base.scheme(), "http" | "https") || base.host_str().is_none() || !base.username().is_empty() || base.query().is_some() {
            return Err(AddressError::NotAnAddress);
        }
        if base.scheme() == "http" && !is_loopback(&base) {
            return Err(AddressError::NotEncrypted);
        }
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/fhir+json"));
        let mut client = Client::builder()
            .default_headers(headers)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(ANSWER_TIMEOUT)
            .user_agent(USER_AGENT);
        if is_loopback(&base) {
            client = client.no_proxy();
        }
        // The TLS provider and its roots are compiled in: only a certificate and key that do not fit each other can fail here.
        let client = access.tls.apply(client)?.build().map_err(|_| AddressError::ClientCertificate)?;
        let guard = match access.credentials {
            Credentials::None => Guard::Open,
            Credentials::Bearer(token) => Guard::Fixed { header: secret_header(&format!("Bearer {token}"))?, refused: AccessTrouble::Bearer },
            Credentials::Basic { user, password } => Guard::Fixed { header: basic(&client, &user, &password)?, refused: AccessTrouble::Basic },
            Credentials::Smart(settings) => Guard::Smart(Arc::new(Tokens::new(TokenClient::open(&base, settings, &access.tls)?))),
        };
        let has_identity = access.tls.identity.is_some();
        Ok(Ehr { client, base, guard, has_identity, file_hosts: access.file_hosts.into(), pace: None, is_first_in_line: false })
    }

    /// The same endpoint, asked at most so many times in any minute, reads included; all clones count together.
    pub fn paced(self, requests_per_minute: Option<u32>) -> Ehr {
        Ehr { pace: requests_per_minute.map(|most| Arc::new(Pace::new(most))), ..self }
    }

    /// The same endpoint for requests that go before those of others where requests are counted.
    pub fn first_in_line(&self) -> Ehr {
        Ehr { is_first_in_line: true, ..self.clone() }
    }

    /// Waits until one more request may be sent.
    async fn take_turn(&self) {
        if let Some(pace) = &self.pace {
            pace.take_turn(self.is_first_in_line).await;
        }
    }

    /// What the EHR declares about its token endpoint; `None` where no access token is asked for, or its address is configured.
    pub async fn declared_token_endpoint(&self) -> Result<Option<smart::Discovered>, EhrError> {
        match &self.guard {
            Guard::Smart(tokens) if tokens.client().settings().token_endpoint.is_none() => tokens.client().discover().await.map(Some),
            Guard::Open | Guard::Fixed { .. } | Guard::Smart(_) => Ok(None),
        }
    }

    /// Gets an access token, unless one is at hand, and says what it was granted; `None` where none is asked for.
    pub async fn granted(&self) -> Result<Option<Scopes>, EhrError> {
        let Guard::Smart(tokens) = &self.guard else { return Ok(None) };
        let scope = tokens.current().await?.granted.scope;
        let missing = scope::not_granted(&tokens.client().settings().scopes, &scope).into_iter().map(str::to_owned).collect();
        Ok(Some(Scopes { scope, missing }))
    }

    /// The same endpoint, asked without credentials.
    pub fn anonymous(&self) -> Ehr {
        Ehr { guard: Guard::Open, ..self.clone() }
    }

    /// FHIR base with a slash at its end.
    pub fn base(&self) -> &Url {
        &self.base
    }

    /// Whether the endpoint is on this machine.
    pub fn is_loopback(&self) -> bool {
        is_loopback(&self.base)
    }

    /// What the server says it can do.
    pub async fn capabilities(&self) -> Result<Declared, EhrError> {
        let answer = self.get("metadata").await?;
        let statement: CapabilityView = read_json(&answer.body)?;
        // What it does as a client is no matter of ours.
        let as_server = statement.rest.into_iter().filter(|rest| rest.mode != "client");
        let resources = as_server.flat_map(|rest| rest.resource).map(|resource| DeclaredResource {
            resource_type: resource.kind,
            interactions: resource.interaction.into_iter().map(|interaction| interaction.code).collect(),
            update_creates: resource.update_create,
            conditional_create: resource.conditional_create,
            search_parameters: resource.search_param.into_iter().map(|parameter| parameter.name).collect(),
        });
        Ok(Declared {
            fhir_version: statement.fhir_version,
            software: statement.software.map(|software| software.name),
            resources: resources.collect(),
        })
    }

    /// Reads one resource; `None` where it is absent or deleted.
    pub async fn read(&self, resource_type: &str, id: &str) -> Result<Option<Held>, EhrError> {
        match self.get(&format!("{resource_type}/{id}")).await {
            // A page of some proxy in between says nothing about the resource, least of all that it is gone.
            Ok(answer) => {
                let nothing = not_fhir(&answer.body);
                held(answer.body, answer.version).filter(|held| held.index.resource_type == resource_type).map(Some).ok_or(nothing)
            }
            Err(EhrError::Absent { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What the EHR says of a Patient; `None` where it has no such Patient.
    pub async fn patient(&self, id: &str) -> Result<Option<PatientStanding>, EhrError> {
        let Some(held) = self.read("Patient", id).await? else { return Ok(None) };
        let patient: PatientView = read_json(&held.resource)?;
        Ok(Some(PatientStanding {
            is_deceased: patient.deceased_boolean == Some(true) || patient.deceased_date_time.is_some(),
            is_retired: patient.active == Some(false) || patient.link.iter().any(|link| link.kind == "replaced-by"),
            is_test: held.is_test(),
        }))
    }

    /// Everything of this type that carries our identifier, by search; what the server adds without being asked is
    /// dropped (SEKMET ignores parameters that it does not know and answers everything).
    pub async fn find(&self, resource_type: &str, key: &str) -> Result<Vec<Held>, EhrError> {
        let query = [(writeback::search_parameter(resource_type), format!("{WRITE_BACK_SYSTEM}|{key}")), ("_count", "200".to_owned())];
        let found = self.search(resource_type, &query).await?;
        Ok(found.into_iter().filter(|held| held.is_ours(key)).collect())
    }

    /// All pages of a search, up to twenty; only matches, no included resources.
    pub async fn search(&self, resource_type: &str, query: &[(&str, String)]) -> Result<Vec<Held>, EhrError> {
        let mut pages = self.pages(resource_type, query)?;
        let mut found = Vec::new();
        while let Some(page) = self.next_page(resource_type, &mut pages, PAGES_MAX).await? {
            found.extend(page);
        }
        Ok(found)
    }

    /// Whether this server holds no Patient but those labelled HTEST; every Patient is looked at, since a server may
    /// ignore a search by label. `false` also where not all could be seen.
    pub async fn holds_only_test_patients(&self) -> Result<bool, EhrError> {
        let mut pages = self.pages("Patient", &[("_count", "200".to_owned())])?;
        let mut seen = 0;
        while let Some(page) = self.next_page("Patient", &mut pages, ALL_PAGES_MAX).await? {
            if page.iter().any(|patient| !patient.is_test()) {
                return Ok(false);
            }
            seen += page.len() as u64;
        }
        let is_complete = !pages.has_more() && pages.total.is_none_or(|total| total <= seen);
        Ok(is_complete)
    }

    /// Sends one write: `PUT`, `POST`, `PATCH` or `DELETE` to an address below the base, with its headers.
    pub async fn send(&self, method: &str, url: &str, headers: &[(String, String)], body: &str) -> Result<Written, EhrError> {
        let request = self.request(method, self.url(url)?, headers, body);
        let response = self.exchange(request.build().map_err(|_| not_reached())?).await?;
        if !response.status().is_success() {
            return Err(self.refusal_of(response).await);
        }
        let status = response.status();
        let location = [header::LOCATION, header::CONTENT_LOCATION].iter().find_map(|name| text_of(response.headers(), name));
        let version = etag(response.headers());
        let body = read_body(response).await;
        let in_body = body.ok().and_then(|body| held(body, None));
        Ok(Written {
            status: status.as_u16(),
            id: location.as_deref().and_then(id_of_location).or_else(|| in_body.as_ref().and_then(|held| held.index.id.clone())),
            version: version.or_else(|| in_body.and_then(|held| held.version)),
        })
    }

    /// A request of ours, whose words are known to be words of HTTP.
    fn request(&self, method: &str, url: Url, headers: &[(String, String)], body: &str) -> RequestBuilder {
        let method = Method::from_bytes(method.as_bytes()).expect("a method of ours is a token");
        let mut request = self.client.request(method, url);
        for (name, value) in headers {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a header name of ours is a token");
            let value = HeaderValue::from_str(value).expect("a header value of ours is visible ASCII");
            request = request.header(name, value);
        }
        if body.is_empty() { request } else { request.body(body.to_owned()) }
    }

    /// One document below the base, in the bytes in which the EHR wrote it: a resource, or what an operation answers.
    pub async fn document(&self, url: &str) -> Result<String, EhrError> {
        Ok(self.get(url).await?.body)
    }

    async fn get(&self, url: &str) -> Result<Answer, EhrError> {
        self.fetch(self.url(url)?).await
    }

    async fn fetch(&self, url: Url) -> Result<Answer, EhrError> {
        // Without `no-cache` HAPI FHIR may answer a search from a cache of 60 s.
        let request = self.client.get(url).header(header::CACHE_CONTROL, "no-cache").build().map_err(|_| not_reached())?;
        let response = self.exchange(request).await?;
        if !response.status().is_success() {
            return Err(self.refusal_of(response).await);
        }
        let version = etag(response.headers());
        Ok(Answer { body: read_body(response).await.map_err(|_| not_reached())?, version })
    }

    /// Sends one request with our credentials. Where an access token is refused before its time, it is renewed and the
    /// request sent once more: what was refused so was not done.
    async fn exchange(&self, mut request: Request) -> Result<Response, EhrError> {
        let tokens = match &self.guard {
            Guard::Open => return self.send_now(request).await,
            Guard::Fixed { header, .. } => {
                request.headers_mut().insert(header::AUTHORIZATION, header.clone());
                return self.send_now(request).await;
            }
            Guard::Smart(tokens) => tokens,
        };
        let token = tokens.current().await?;
        let again = request.try_clone();
        request.headers_mut().insert(header::AUTHORIZATION, token.granted.header.clone());
        let response = self.send_now(request).await?;
        let Some(mut again) = again.filter(|_| response.status() == StatusCode::UNAUTHORIZED) else { return Ok(response) };
        let Some(token) = tokens.instead_of(&token).await? else { return Ok(response) };
        again.headers_mut().insert(header::AUTHORIZATION, token.granted.header);
        self.send_now(again).await
    }

    /// Sends one request as it is, in its turn, and waits for the head of its answer.
    async fn send_now(&self, request: Request) -> Result<Response, EhrError> {
        self.take_turn().await;
        let is_read = request.method() == Method::GET;
        let sent = tokio::time::timeout(ANSWER_TIMEOUT, self.client.execute(request)).await;
        // A connection that was never made has sent nothing; after that only an answer tells.
        let lost = if is_read { not_reached() } else { EhrError::Unknown };
        match sent {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => match tls_trouble(&error, self.has_identity) {
                Some(why) => Err(EhrError::Retry { status: None, after_ms: None, why: Some(why) }),
                None => Err(if error.is_connect() { not_reached() } else { lost }),
            },
            Err(_) => Err(lost),
        }
    }

    /// What an answer other than 2xx means.
    async fn refusal_of(&self, response: Response) -> EhrError {
        let (status, after_ms) = (response.status(), retry_after(response.headers()));
        let body = read_body(response).await.unwrap_or_default();
        match status {
            StatusCode::UNAUTHORIZED => EhrError::Unauthorized { status: 401, why: self.guard.refused() },
            StatusCode::FORBIDDEN if !is_not_supported(&body) => {
                let granted = self.guard.scope().map(|scope| format!(", which were granted {scope}")).unwrap_or_default();
                let words = outcome_words(&body);
                let colon = if words.is_empty() { "" } else { ": " };
                let outcome = format!("{words}{colon}our credentials{granted} do not allow this; have the EHR's administrators allow it");
                EhrError::Refused { status: 403, outcome }
            }
            _ => refusal(status, after_ms, &body),
        }
    }

    /// An address below the base; one that leads elsewhere is refused.
    fn url(&self, relative: &str) -> Result<Url, EhrError> {
        let url = self.base.join(relative).ok().filter(|url| self.is_same_origin(url) && url.path().starts_with(self.base.path()));
        url.ok_or_else(|| refused_here("the address is not below the EHR's base"))
    }

    fn is_same_origin(&self, url: &Url) -> bool {
        url.origin() == self.base.origin()
    }
}

struct Answer {
    body: String,
    version: Option<String>,
}

fn is_loopback(url: &Url) -> bool {
    url.host_str().is_some_and(|host| {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    })
}

fn not_reached() -> EhrError {
    EhrError::Retry { status: None, after_ms: None, why: None }
}

/// An answer that is no FHIR at all: a proxy's page, a truncated body. It may be better later.
fn not_fhir(body: &str) -> EhrError {
    EhrError::Retry { status: None, after_ms: None, why: body.trim_start().starts_with('<').then_some(AccessTrouble::Page) }
}

/// Something that is not sent at all, so that nothing of ours goes where it must not.
fn refused_here(why: &str) -> EhrError {
    EhrError::Refused { status: 0, outcome: why.to_owned() }
}

/// `Basic ...` (RFC 7617), as reqwest writes it.
fn basic(client: &Client, user: &str, password: &str) -> Result<HeaderValue, AddressError> {
    if user.contains(':') {
        return Err(AddressError::Token);
    }
    let request = client.get("http://localhost/").basic_auth(user, Some(password)).build();
    let mut value = request.ok().and_then(|request| request.headers().get(header::AUTHORIZATION).cloned()).ok_or(AddressError::Token)?;
    value.set_sensitive(true);
    Ok(value)
}

/// Reads a body up to its limit; an answer that breaks off or never ends is none.
async fn read_body(mut response: reqwest::Response) -> Result<String, EhrError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|_| EhrError::Unknown)? {
        if BODY_MAX_BYTES < body.len() + chunk.len() {
            return Err(EhrError::Unknown);
        }
        body.extend_from_slice(&chunk);
    }
    String::from_utf8(body).map_err(|_| EhrError::Unknown)
}

fn refusal(status: StatusCode, after_ms: Option<i64>, body: &str) -> EhrError {
    let code = status.as_u16();
    match code {
        404 | 410 => EhrError::Absent { status: code },
        409 | 412 => EhrError::Conflict { status: code },
        408 | 425 | 429 | 500 | 502 | 503 | 504 => EhrError::Retry { status: Some(code), after_ms, why: None },
        506.. => EhrError::Retry { status: Some(code), after_ms, why: None },
        // 3xx as well: a redirect is never followed, so the address in receiver.json must be mended.
        _ if is_not_supported(body) => EhrError::Unsupported { status: code },
        _ => EhrError::Refused { status: code, outcome: outcome_words(body) },
    }
}

fn is_not_supported(body: &str) -> bool {
    serde_json::from_str::<OutcomeView>(body).is_ok_and(|outcome| outcome.issue.iter().any(|issue| issue.code == "not-supported"))
}

/// The codes and places of an OperationOutcome; its free text may quote a patient and stays out.
fn outcome_words(body: &str) -> String {
    let Ok(outcome) = serde_json::from_str::<OutcomeView>(body) else { return String::new() };
    let mut words: Vec<String> = Vec::new();
    for issue in outcome.issue.into_iter().filter(|issue| matches!(issue.severity.as_str(), "fatal" | "error")).take(5) {
        let places: Vec<String> = issue.expression.into_iter().chain(issue.location).take(3).collect();
        words.push(format!("{} {}", issue.code, places.join(" ")).trim().to_owned());
    }
    words.join("; ").chars().filter(|c| !c.is_control()).take(300).collect()
}

fn read_json<'a, T: Deserialize<'a>>(body: &'a str) -> Result<T, EhrError> {
    serde_json::from_str(body).map_err(|_| not_fhir(body))
}

fn held(resource: String, etag: Option<String>) -> Option<Held> {
    let index = edit::index(&resource)?;
    let meta = serde_json::from_str::<MetaView>(&resource).ok().and_then(|view| view.meta).unwrap_or_default();
    Some(Held { index, version: meta.version_id.or(etag), last_updated: meta.last_updated, resource })
}

fn text_of(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

/// The version in `W/"7"`.
fn etag(headers: &HeaderMap) -> Option<String> {
    let tag = text_of(headers, &header::ETAG)?;
    Some(tag.trim_start_matches("W/").trim_matches('"').to_owned())
}

/// `Retry-After` as ms from now, from seconds or an HTTP date (against the server's own `Date`, whose clock it is by);
/// at most an hour. Garbage is as if it were not there.
fn retry_after(headers: &HeaderMap) -> Option<i64> {
    let text = text_of(headers, &header::RETRY_AFTER)?;
    let text = text.trim();
    let ms = match text.parse::<i64>() {
        Ok(seconds) => seconds.checked_mul(1000).unwrap_or(RETRY_AFTER_MAX_MS),
        Err(_) => {
            let at = http_date_ms(text)?;
            let now = text_of(headers, &header::DATE).and_then(|date| http_date_ms(&date))?;
            at - now
        }
    };
    Some(ms.clamp(0, RETRY_AFTER_MAX_MS))
}

/// ms since 1970 of an HTTP date.
fn http_date_ms(text: &str) -> Option<i64> {
    jiff::fmt::rfc2822::parse(text).ok().map(|date| date.timestamp().as_millisecond())
}

/// The id in `.../Type/id` or `.../Type/id/_history/version`.
fn id_of_location(location: &str) -> Option<String> {
    let path = location.split_once("/_history/").map_or(location, |(path, _)| path);
    path.rsplit('/').next().filter(|id| !id.is_empty()).map(str::to_owned)
}

#[derive(Deserialize)]
struct CapabilityView {
    #[serde(rename = "fhirVersion", default)]
    fhir_version: String,
    #[serde(default)]
    software: Option<SoftwareView>,
    #[serde(default)]
    rest: Vec<RestView>,
}

#[derive(Deserialize)]
struct SoftwareView {
    name: String,
}

#[derive(Deserialize)]
struct RestView {
    #[serde(default)]
    mode: String,
    #[serde(default)]
    resource: Vec<RestResourceView>,
}

#[derive(Deserialize)]
struct RestResourceView {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    interaction: Vec<InteractionView>,
    #[serde(rename = "updateCreate")]
    update_create: Option<bool>,
    #[serde(rename = "conditionalCreate", default)]
    conditional_create: bool,
    #[serde(rename = "searchParam", default)]
    search_param: Vec<SearchParamView>,
}

#[derive(Deserialize)]
struct SearchParamView {
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct InteractionView {
    code: String,
}

#[derive(Deserialize)]
struct PatientView {
    active: Option<bool>,
    #[serde(rename = "deceasedBoolean")]
    deceased_boolean: Option<bool>,
    #[serde(rename = "deceasedDateTime")]
    deceased_date_time: Option<String>,
    #[serde(default)]
    link: Vec<PatientLinkView>,
}

#[derive(Deserialize)]
struct PatientLinkView {
    #[serde(rename = "type", default)]
    kind: String,
}

#[derive(Deserialize)]
struct SearchView {
    #[serde(default)]
    mode: Option<String>,
}

#[derive(Deserialize)]
struct LinkView {
    #[serde(default)]
    relation: String,
    #[serde(default)]
    url: String,
}

#[derive(Deserialize)]
struct MetaView {
    meta: Option<MetaFields>,
}

#[derive(Default, Deserialize)]
struct MetaFields {
    #[serde(rename = "versionId")]
    version_id: Option<String>,
    #[serde(rename = "lastUpdated")]
    last_updated: Option<String>,
}

#[derive(Deserialize)]
struct OutcomeView {
    #[serde(default)]
    issue: Vec<OutcomeIssueView>,
}

#[derive(Deserialize)]
struct OutcomeIssueView {
    #[serde(default)]
    severity: String,
    #[serde(default)]
    code: String,
    #[serde(default)]
    expression: Vec<String>,
    #[serde(default)]
    location: Vec<String>,
}
