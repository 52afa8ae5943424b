//! SMART App Launch 2.2, Backend Services, as a client: finds the token endpoint, signs an assertion, exchanges it for an
//! access token. The assertion goes to that one endpoint alone. Keeps no token and repeats nothing.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::header::{self, HeaderMap};
use reqwest::{Client, StatusCode, Url};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::access::{AccessTrouble, Declarable, Tls, secret_header, tls_trouble};
use super::signing::{Key, KeyFile};
use super::token::Granted;
use super::{AddressError, CONNECT_TIMEOUT, EhrError, USER_AGENT, http_date_ms, is_loopback, retry_after, text_of};

/// How we present ourselves to one authorization server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub client_id: String,
    /// `system/Observation.rs`, or `system/Observation.read` of SMART 1.
    pub scopes: Vec<String>,
    /// Without it, what `.well-known/smart-configuration` below the FHIR base says.
    pub token_endpoint: Option<String>,
    /// The first signs; one behind it only where the server does not know those before it.
    pub keys: Vec<KeyFile>,
}

/// A token endpoint answers at once or not at all.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
const BODY_MAX_BYTES: usize = 256 << 10;
/// SMART allows an assertion 5 minutes; a minute less leaves room for a clock that is ahead of the server's.
const ASSERTION_LIFETIME_S: i64 = 240;
/// How far our clock may differ before it is named as the trouble: by so much the assertion may be refused.
const SKEW_MAX_S: i64 = 60;
/// What SMART recommends as a token's longest life; assumed where the server does not say.
const LIFETIME_ASSUMED_S: f64 = 300.0;
/// Nobody's token is good for longer than a day, whatever is said.
const LIFETIME_MAX_S: f64 = 86_400.0;
/// What was discovered is looked up again after so long, and after every failure.
const DISCOVERED_FOR: Duration = Duration::from_secs(3_600);
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// Asks one authorization server for tokens.
pub struct TokenClient {
    client: Client,
    base: Url,
    settings: Settings,
    has_identity: bool,
    discovered: Mutex<Option<(Instant, Discovered)>>,
}

/// What a smart-configuration says, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discovered {
    /// As it is written, since it is compared with the audience of the assertion.
    pub token_endpoint: String,
    /// Algorithms of assertions; empty where none are declared.
    pub algorithms: Vec<String>,
}

/// An assertion (RFC 7523). `iat` and `nbf` are left out: SMART does not ask for them, and a clock that is a second ahead
/// would make them of the future.
#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    exp: i64,
    jti: String,
}

impl TokenClient {
    pub fn open(base: &Url, settings: Settings, tls: &Tls) -> Result<TokenClient, AddressError> {
        if let Some(endpoint) = &settings.token_endpoint {
            safe_endpoint(endpoint, base).ok_or(AddressError::TokenEndpoint)?;
        }
        let mut client = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(ANSWER_TIMEOUT)
            .user_agent(USER_AGENT);
        if is_loopback(base) {
            client = client.no_proxy();
        }
        let client = tls.apply(client)?.build().map_err(|_| AddressError::ClientCertificate)?;
        Ok(TokenClient { client, base: base.clone(), settings, has_identity: tls.identity.is_some(), discovered: Mutex::default() })
    }

    pub fn base(&self) -> &Url {
        &self.base
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// One access token.
    pub async fn ask(&self) -> Result<Granted, EhrError> {
        let granted = self.ask_with_each_key().await;
        if granted.is_err() {
            // What was discovered may be what is wrong.
            *self.discovered.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        granted
    }

    async fn ask_with_each_key(&self) -> Result<Granted, EhrError> {
        let discovered = match &self.settings.token_endpoint {
            Some(endpoint) => Discovered { token_endpoint: endpoint.clone(), algorithms: Vec::new() },
            None => self.discovered().await?,
        };
        let is_taken = |file: &&KeyFile| discovered.algorithms.is_empty() || discovered.algorithms.iter().any(|word| word == file.algorithm.word());
        let mut refused = None;
        for file in self.settings.keys.iter().filter(is_taken) {
            let key = file.read().map_err(of_our_own)?;
            match self.ask_with(&discovered.token_endpoint, &key).await {
                // Not yet known there, or not any longer: the key behind it may be.
                Err(error) if is_about_the_key(&error) => refused = refused.or(Some(error)),
                answer => return answer,
            }
        }
        let ours = || self.settings.keys.iter().map(|file| file.algorithm.word()).collect::<Vec<_>>().join(" or ");
        Err(refused.unwrap_or_else(|| of_our_own(AccessTrouble::NotDeclared { what: Declarable::Algorithms(ours()) })))
    }

    async fn discovered(&self) -> Result<Discovered, EhrError> {
        let kept = self.discovered.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((read, discovered)) = kept
            && read.elapsed() < DISCOVERED_FOR
        {
            return Ok(discovered);
        }
        let discovered = self.discover().await?;
        *self.discovered.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), discovered.clone()));
        Ok(discovered)
    }

    /// Reads the smart-configuration, without a token.
    pub async fn discover(&self) -> Result<Discovered, EhrError> {
        let url = self.base.join(".well-known/smart-configuration").expect("a fixed path below a base");
        let request = self.client.get(url.clone()).header(header::ACCEPT, "application/json");
        let response =
            request.send().await.map_err(|error| EhrError::Retry { status: None, after_ms: None, why: tls_trouble(&error, self.has_identity) })?;
        let (status, after_ms) = (response.status(), retry_after(response.headers()));
        if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() {
            return Err(EhrError::Retry { status: Some(status.as_u16()), after_ms, why: None });
        }
        if !status.is_success() {
            return Err(of_our_own(AccessTrouble::NoDiscovery { status: status.as_u16() }));
        }
        let body = read_body(response).await;
        let view: DiscoveryView = serde_json::from_str(&body).map_err(|_| later(AccessTrouble::DiscoveryPage, None))?;
        let declares = |declared: &Option<Vec<String>>, word: &str| declared.as_ref().is_none_or(|words| words.iter().any(|said| said == word));
        let token_endpoint = view.token_endpoint.ok_or_else(|| of_our_own(AccessTrouble::NoTokenEndpoint))?;
        safe_endpoint(&token_endpoint, &self.base).ok_or_else(|| of_our_own(AccessTrouble::TokenEndpointUnsafe))?;
        if !declares(&view.grants, "client_credentials") {
            return Err(of_our_own(AccessTrouble::NotDeclared { what: Declarable::ClientCredentials }));
        }
        if !declares(&view.methods, "private_key_jwt") {
            return Err(of_our_own(AccessTrouble::NotDeclared { what: Declarable::PrivateKeyJwt }));
        }
        Ok(Discovered { token_endpoint, algorithms: view.algorithms.unwrap_or_default() })
    }

    async fn ask_with(&self, endpoint: &str, key: &Key) -> Result<Granted, EhrError> {
        let url = safe_endpoint(endpoint, &self.base).ok_or_else(|| of_our_own(AccessTrouble::TokenEndpointUnsafe))?;
        let host = url.host_str().unwrap_or_default().to_owned();
        let (id, scope) = (self.settings.client_id.as_str(), self.settings.scopes.join(" "));
        let exp = jiff::Timestamp::now().as_second() + ASSERTION_LIFETIME_S;
        let assertion = key.sign(&Claims { iss: id, sub: id, aud: endpoint, exp, jti: random_id() }).expect("a key that was read can sign");
        let fields = [
            ("grant_type", "client_credentials"),
            ("scope", scope.as_str()),
            ("client_assertion_type", ASSERTION_TYPE),
            ("client_assertion", assertion.as_str()),
        ];
        let asked = Instant::now();
        let request = self.client.post(url).header(header::ACCEPT, "application/json");
        let request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded").body(form(&fields));
        let response = request.send().await.map_err(|error| {
            let why = tls_trouble(&error, self.has_identity).unwrap_or_else(|| AccessTrouble::TokenUnreachable { host: host.clone() });
            later(why, None)
        })?;
        let (status, after_ms, skew_s) = (response.status(), retry_after(response.headers()), skew_s(response.headers()));
        let code = status.as_u16();
        if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() {
            return Err(later(AccessTrouble::TokenBusy { host, status: code }, after_ms));
        }
        if status.is_redirection() {
            return Err(of_our_own(AccessTrouble::TokenElsewhere { host, status: code }));
        }
        let body = read_body(response).await;
        if status.is_success() {
            let view: TokenView<'_> =
                serde_json::from_str(&body).map_err(|_| later(AccessTrouble::TokenPage { host: host.clone(), status: code }, None))?;
            let is_bearer = view.token_type.as_deref().is_none_or(|kind| kind.eq_ignore_ascii_case("bearer"));
            let token = view.access_token.filter(|_| is_bearer);
            let header = token.and_then(|token| secret_header(&format!("Bearer {token}")).ok());
            let header = header.ok_or_else(|| of_our_own(AccessTrouble::NoToken { host }))?;
            let lifetime = Duration::from_secs_f64(view.expires_in.and_then(seconds).unwrap_or(LIFETIME_ASSUMED_S).clamp(1.0, LIFETIME_MAX_S));
            return Ok(Granted { header, asked, lifetime, scope: view.scope.map_or(scope, |scope| visible(&scope, 1_000)) });
        }
        let Ok(view) = serde_json::from_str::<RefusalView>(&body) else {
            return Err(later(AccessTrouble::TokenPage { host, status: code }, None));
        };
        let refusal = self.refusal(view, host, endpoint, &key.kid, skew_s);
        Err(EhrError::Unauthorized { status: code, why: self.named_otherwise(endpoint, &refusal).await.unwrap_or(refusal) })
    }

    /// Why the server refused the assertion: by its code, by what its own clock shows, and by what its words are about.
    fn refusal(&self, view: RefusalView, host: String, endpoint: &str, kid: &str, skew_s: Option<i64>) -> AccessTrouble {
        let says = visible(&view.description, 160);
        let is_about = |words: &[&str]| words.iter().any(|word| says.to_ascii_lowercase().contains(word));
        let kid = || kid.to_owned();
        match view.error.as_str() {
            "invalid_client" | "invalid_grant" | "invalid_request" => match skew_s.filter(|skew_s| SKEW_MAX_S < skew_s.abs()) {
                Some(skew_s) => AccessTrouble::Clock { host, skew_s },
                None if is_about(&["audience", "\"aud\"", "'aud'", "aud claim", "aud "]) => AccessTrouble::Audience { aud: endpoint.to_owned() },
                None if is_about(&["signature", "kid", "jwks", "public key", "keys"]) => AccessTrouble::Key { host, kid: kid() },
                None if is_about(&["expire", "minutes", "not before", "future", "clock"]) => AccessTrouble::Time { host },
                None if view.error == "invalid_client" => AccessTrouble::Client { host, says },
                None => AccessTrouble::TokenRefused { host, code: view.error, says },
            },
            "invalid_scope" => AccessTrouble::Scope { host },
            "unauthorized_client" | "unsupported_grant_type" => AccessTrouble::Grant { code: view.error },
            _ => AccessTrouble::TokenRefused { host, code: visible(&view.error, 60), says },
        }
    }

    /// Where we were told another name for the token endpoint than the server gives itself, that is what is wrong.
    async fn named_otherwise(&self, endpoint: &str, refusal: &AccessTrouble) -> Option<AccessTrouble> {
        let is_proof_refused = matches!(refusal, AccessTrouble::Client { .. } | AccessTrouble::Key { .. } | AccessTrouble::TokenRefused { .. });
        if self.settings.token_endpoint.is_none() || !is_proof_refused {
            return None;
        }
        let declared = self.discover().await.ok()?;
        (declared.token_endpoint != endpoint).then(|| AccessTrouble::Audience { aud: endpoint.to_owned() })
    }
}

/// Trouble that only a person ends.
fn of_our_own(why: AccessTrouble) -> EhrError {
    EhrError::Unauthorized { status: 0, why }
}

/// Trouble that may pass.
fn later(why: AccessTrouble, after_ms: Option<i64>) -> EhrError {
    EhrError::Retry { status: None, after_ms, why: Some(why) }
}

fn is_about_the_key(error: &EhrError) -> bool {
    matches!(error, EhrError::Unauthorized { why: AccessTrouble::Key { .. } | AccessTrouble::Client { .. }, .. })
}

/// A token endpoint that an assertion may be sent to: https, or on this machine where the FHIR base is.
fn safe_endpoint(endpoint: &str, base: &Url) -> Option<Url> {
    let url = Url::parse(endpoint).ok().filter(|url| url.host_str().is_some() && url.username().is_empty() && url.fragment().is_none())?;
    let is_near = is_loopback(&url);
    let is_safe = match url.scheme() {
        "https" => !is_near || is_loopback(base),
        "http" => is_near && is_loopback(base),
        _ => false,
    };
    is_safe.then_some(url)
}

/// 128 bits by chance, so that no two assertions are the same.
fn random_id() -> String {
    let mut random = [0_u8; 16];
    aws_lc_rs::rand::fill(&mut random).expect("the system gives random bytes");
    random.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A form (application/x-www-form-urlencoded), which is how a query is written, too.
fn form(fields: &[(&str, &str)]) -> String {
    let mut url = Url::parse("form:").expect("an address");
    url.query_pairs_mut().extend_pairs(fields);
    url.query().unwrap_or_default().to_owned()
}

/// By how much our clock is ahead of the server's, as its `Date` shows it.
fn skew_s(headers: &HeaderMap) -> Option<i64> {
    let theirs_ms = text_of(headers, &header::DATE).and_then(|date| http_date_ms(&date))?;
    Some((jiff::Timestamp::now().as_millisecond() - theirs_ms) / 1_000)
}

/// A body within its limit; what is longer or breaks off is as if nothing came.
async fn read_body(mut response: reqwest::Response) -> String {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        if BODY_MAX_BYTES < body.len() + chunk.len() {
            return String::new();
        }
        body.extend_from_slice(&chunk);
    }
    String::from_utf8(body).unwrap_or_default()
}

/// Seconds, also where a server writes them as a string.
fn seconds(raw: &RawValue) -> Option<f64> {
    raw.get().trim_matches('"').parse().ok().filter(|seconds: &f64| seconds.is_finite())
}

/// Text of a server for a person: printable, short, and without anything that could be a token.
fn visible(text: &str, most: usize) -> String {
    let words = text.split_whitespace().filter(|word| word.len() <= 64);
    let text: String = words.collect::<Vec<_>>().join(" ");
    text.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(most).collect()
}

#[derive(Deserialize)]
struct DiscoveryView {
    #[serde(default)]
    token_endpoint: Option<String>,
    #[serde(default, rename = "token_endpoint_auth_methods_supported")]
    methods: Option<Vec<String>>,
    #[serde(default, rename = "token_endpoint_auth_signing_alg_values_supported")]
    algorithms: Option<Vec<String>>,
    #[serde(default, rename = "grant_types_supported")]
    grants: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct TokenView<'a> {
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    token_type: Option<String>,
    #[serde(borrow, default)]
    expires_in: Option<&'a RawValue>,
    #[serde(default)]
    scope: Option<String>,
}

#[derive(Deserialize)]
struct RefusalView {
    error: String,
    #[serde(default, rename = "error_description")]
    description: String,
}
