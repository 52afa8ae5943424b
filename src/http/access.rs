//! Who may do what: bearer tokens with a role, the look at host and origin, the headers every answer carries, and the
//! record of who looked at whom. Knows no resource.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::panic::AssertUnwindSafe;
use std::sync::Mutex;
use std::time::Instant;

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{RequestHead, ServiceRequest, ServiceResponse};
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::Next;
use actix_web::{FromRequest, HttpMessage, HttpRequest, HttpResponse, web};
use futures_util::FutureExt;

use super::error::{Face, Refusal, render};
use super::{Route, cds, notify};
use crate::digest::sha256;
use crate::store::{Store, accesses};

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// A machine that pushes what the hospital holds.
    Feed,
    /// A machine of the hospital's EHR, which asks what is said of its patients, or subscribes to it.
    Ehr,
    /// A person who reads lists and decides.
    Screener,
    Admin,
}

impl Role {
    pub const ALL: [Role; 4] = [Role::Feed, Role::Ehr, Role::Screener, Role::Admin];

    pub const fn word(self) -> &'static str {
        match self {
            Role::Feed => "feed",
            Role::Ehr => "ehr",
            Role::Screener => "screener",
            Role::Admin => "admin",
        }
    }
}

/// Who may call a route; an admin may call each that is for people and feeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Anyone,
    Feed,
    Ehr,
    Screener,
    /// A person or an EHR; each sees its own view.
    Reader,
    Admin,
    /// A registered CDS client with a token that it signed, and nobody of our own.
    CdsClient,
    /// A source whose Subscription of ours holds a secret, and nobody of our own.
    Source,
}

impl Who {
    pub const fn allows(self, role: Role) -> bool {
        match (self, role) {
            (Who::CdsClient | Who::Source, _) => false,
            (Who::Anyone, _) | (_, Role::Admin) => true,
            (Who::Feed, Role::Feed) | (Who::Ehr, Role::Ehr) | (Who::Screener, Role::Screener) | (Who::Reader, Role::Screener | Role::Ehr) => true,
            (Who::Feed, Role::Screener | Role::Ehr) | (Who::Screener, Role::Feed | Role::Ehr) | (Who::Ehr, Role::Feed | Role::Screener) => false,
            (Who::Reader, Role::Feed) | (Who::Admin, Role::Feed | Role::Screener | Role::Ehr) => false,
        }
    }
}

/// One bearer token; the token itself is not kept, only its SHA-256.
#[derive(Clone)]
pub struct Token {
    /// The person, or the feed. It is the decider's name in the record.
    pub name: String,
    pub role: Role,
    /// The only site it is good for; `None` for all.
    pub site: Option<String>,
    pub sha256: [u8; 32],
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({}, {})", self.name, self.role.word())
    }
}

/// Whom the gateway knows.
#[derive(Clone, Debug)]
pub struct Tokens {
    pub tokens: Vec<Token>,
    /// Without tokens, which is allowed on a loopback address only: the name everybody gets.
    pub open_as: String,
    /// Host names a request may name, besides loopback ones on a loopback address; empty means any on other addresses.
    pub hosts: Vec<String>,
    pub is_loopback: bool,
    /// Set the Secure mark on cookies.
    pub is_tls: bool,
}

/// Who is calling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    pub name: String,
    pub role: Role,
    pub site: Option<String>,
}

impl Person {
    /// The site a list must be kept to; an error when another one was asked for.
    pub fn site_scope(&self, asked: Option<&str>) -> Result<Option<String>, Refusal> {
        match (&self.site, asked) {
            (Some(own), Some(asked)) if own != asked => Err(other_site()),
            (Some(own), _) => Ok(Some(own.clone())),
            (None, asked) => Ok(asked.map(str::to_owned)),
        }
    }
}

impl FromRequest for Person {
    type Error = Refusal;
    type Future = std::future::Ready<Result<Person, Refusal>>;

    fn from_request(request: &HttpRequest, _: &mut actix_web::dev::Payload) -> Self::Future {
        std::future::ready(request.extensions().get::<Person>().cloned().ok_or_else(no_token))
    }
}

const COOKIE: &str = "nephrogate_token";

fn no_token() -> Refusal {
    Refusal::new(StatusCode::UNAUTHORIZED, "no valid token", "send Authorization: Bearer TOKEN, or sign in at /sign-in")
}

fn other_site() -> Refusal {
    Refusal::new(StatusCode::FORBIDDEN, "this token is for another site", "ask whoever runs this gateway for a token of this site")
}

impl Tokens {
    /// Compares with every token, in constant time for each.
    fn find(&self, token: &str) -> Option<&Token> {
        let hash = sha256(token.as_bytes());
        let mut found = None;
        for known in &self.tokens {
            if aws_lc_rs::constant_time::verify_slices_are_equal(&known.sha256, &hash).is_ok() {
                found = Some(known);
            }
        }
        found
    }

    fn identify(&self, head: &RequestHead) -> Result<Person, Refusal> {
        if self.tokens.is_empty() {
            return Ok(Person { name: self.open_as.clone(), role: Role::Admin, site: None });
        }
        let token = bearer(head).or_else(|| cookie(head)).ok_or_else(no_token)?;
        let token = self.find(token).ok_or_else(no_token)?;
        Ok(Person { name: token.name.clone(), role: token.role, site: token.site.clone() })
    }
}

pub(super) fn bearer(head: &RequestHead) -> Option<&str> {
    let value = head.headers().get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn cookie(head: &RequestHead) -> Option<&str> {
    head.headers().get_all(header::COOKIE).filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(';')).find_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        (name == COOKIE).then_some(value)
    })
}

/// The host a request names, with its port: `Host`, or the authority of HTTP/2.
pub fn host_of(head: &RequestHead) -> Option<&str> {
    match head.headers().get(header::HOST) {
        Some(value) => value.to_str().ok(),
        None => head.uri.authority().map(|authority| authority.as_str()),
    }
}

fn without_port(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split_once(']').map_or(rest, |(address, _)| address);
    }
    host.split_once(':').map_or(host, |(name, _)| name)
}

/// Against DNS rebinding: on a loopback address only loopback names, elsewhere the configured ones.
fn check_host(tokens: &Tokens, head: &RequestHead) -> Result<(), Refusal> {
    let wrong = || {
        Refusal::new(
            StatusCode::MISDIRECTED_REQUEST,
            "this gateway does not answer to that host name",
            "use the address it prints, or add the name to hosts",
        )
    };
    let host = without_port(host_of(head).ok_or_else(wrong)?);
    let is_named = tokens.hosts.iter().any(|name| name.eq_ignore_ascii_case(host));
    let is_loopback_name = host.eq_ignore_ascii_case("localhost") || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    if is_named || is_loopback_name || (!tokens.is_loopback && tokens.hosts.is_empty()) { Ok(()) } else { Err(wrong()) }
}

/// Against cross-site requests: a browser says where a state-changing request comes from, and it must be us.
fn check_origin(head: &RequestHead) -> Result<(), Refusal> {
    if matches!(head.method, Method::GET | Method::HEAD | Method::OPTIONS) {
        return Ok(());
    }
    let wrong = || {
        Refusal::new(
            StatusCode::FORBIDDEN,
            "a request from another web site",
            "send it from this gateway's own pages, or with a token and no browser",
        )
    };
    if let Some(fetch_site) = head.headers().get("sec-fetch-site") {
        return if matches!(fetch_site.as_bytes(), b"same-origin" | b"none") { Ok(()) } else { Err(wrong()) };
    }
    if let Some(origin) = head.headers().get(header::ORIGIN) {
        let is_own = origin.to_str().ok().and_then(|origin| origin.split_once("://")).is_some_and(|(_, authority)| Some(authority) == host_of(head));
        return if is_own { Ok(()) } else { Err(wrong()) };
    }
    // No browser of this decade: then the token must not come from a cookie.
    if bearer(head).is_none() && cookie(head).is_some() { Err(wrong()) } else { Ok(()) }
}

/// Lets one request through to its route, or not: token, role, site. A panic behind it stays one answer.
pub async fn admit(who: Who, request: ServiceRequest, next: Next<BoxBody>) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let tokens = request.app_data::<web::Data<Tokens>>().cloned().expect("http::configure sets the tokens");
    if who == Who::CdsClient {
        let caller = match cds::token::admit(&request).await {
            Ok(caller) => caller,
            Err(refusal) => return Ok(request.error_response(refusal)),
        };
        request.extensions_mut().insert(caller);
    } else if who == Who::Source {
        if let Err(refusal) = notify::admit(&request).await {
            return Ok(request.error_response(refusal));
        }
    } else if who != Who::Anyone {
        let person = match tokens.identify(request.head()) {
            Ok(person) => person,
            Err(refusal) => return Ok(request.error_response(refusal)),
        };
        if !who.allows(person.role) {
            let refusal = Refusal::new(StatusCode::FORBIDDEN, "this token's role may not do this", "ask whoever runs this gateway for another role");
            return Ok(request.error_response(refusal));
        }
        let is_other_site = person.site.as_deref().zip(request.match_info().get("site")).is_some_and(|(own, asked)| own != asked);
        if is_other_site {
            return Ok(request.error_response(other_site()));
        }
        request.extensions_mut().insert(person);
    }
    // Cloned only now: actix forbids a second owner of a request that is still being routed.
    let http_request = request.request().clone();
    match AssertUnwindSafe(next.call(request)).catch_unwind().await {
        Ok(answer) => answer,
        Err(_) => {
            let refusal = Refusal::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the gateway failed on this request",
                "tell whoever runs this gateway; what was acknowledged before is safe",
            );
            Ok(ServiceResponse::new(http_request, HttpResponse::from_error(refusal)))
        }
    }
}

/// Around every request: host, origin, refusals as the reader understands them, headers, one log line.
pub async fn front(request: ServiceRequest, next: Next<impl MessageBody + 'static>) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let started = Instant::now();
    let face = Face::of(request.path());
    let method = request.method().clone();
    // The pattern, not the path: a path holds patients' ids.
    let pattern = request.match_pattern().unwrap_or_default();
    let tokens = request.app_data::<web::Data<Tokens>>().cloned().expect("http::configure sets the tokens");
    let is_cds = cds::is_here(request.path());
    let cors = is_cds.then(|| {
        let clients = request.app_data::<web::Data<cds::Clients>>().cloned().expect("http::configure sets the clients");
        (clients, request.path().to_owned(), request.headers().get(header::ORIGIN).cloned())
    });
    let looked = check_host(&tokens, request.head()).and_then(|()| if is_cds { Ok(()) } else { check_origin(request.head()) });
    let answer = match looked {
        Ok(()) => next.call(request).await?.map_into_boxed_body(),
        Err(refusal) => request.error_response(refusal),
    };
    let mut answer = match answer.response().error() {
        Some(error) => {
            let refusal = error.as_error::<Refusal>().cloned().unwrap_or_else(|| of_framework(answer.status()));
            let shown = if face == Face::Page && refusal.status == StatusCode::UNAUTHORIZED {
                HttpResponse::SeeOther().insert_header((header::LOCATION, "/sign-in")).finish()
            } else {
                render(face, &refusal)
            };
            answer.into_response(shown)
        }
        None => answer,
    };
    add_headers(answer.headers_mut(), tokens.is_tls);
    if let Some((clients, path, origin)) = cors {
        cds::add_cors(&clients, &path, origin.as_ref(), answer.headers_mut());
    }
    tracing::info!(%method, pattern, status = answer.status().as_u16(), duration_ms = started.elapsed().as_millis() as u64, "answered");
    Ok(answer)
}

/// A refusal that actix made itself, in our words.
fn of_framework(status: StatusCode) -> Refusal {
    match status.as_u16() {
        404 => Refusal::not_found("nothing is served at this address", "see /openapi.json"),
        413 => Refusal::new(status, "the body is larger than this door takes", "send less at once"),
        415 => Refusal::new(status, "this content type is not taken here", "see /openapi.json"),
        400..500 => Refusal::new(status, "the request cannot be read", "see /openapi.json"),
        _ => Refusal::new(status, "the gateway failed on this request", "tell whoever runs this gateway"),
    }
}

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; font-src 'self'; \
                      form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

fn add_headers(headers: &mut header::HeaderMap, is_tls: bool) {
    let mut set = |name: HeaderName, value: &'static str| {
        if !headers.contains_key(&name) {
            headers.insert(name, HeaderValue::from_static(value));
        }
    };
    set(header::CACHE_CONTROL, "no-store");
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(header::CONTENT_SECURITY_POLICY, POLICY);
    // Not no-referrer: browsers then hide the origin of our own forms.
    set(header::REFERRER_POLICY, "same-origin");
    set(HeaderName::from_static("cross-origin-opener-policy"), "same-origin");
    set(HeaderName::from_static("cross-origin-resource-policy"), "same-origin");
    if is_tls {
        set(header::STRICT_TRANSPORT_SECURITY, "max-age=31536000");
    }
}

/// Records that somebody looked at these subjects; the answer waits for it (rulings.md 18).
pub async fn record(store: &Store, who: &Person, action: &'static str, study: &str, subjects: Vec<(String, String)>) -> Result<(), Refusal> {
    if subjects.is_empty() {
        return Ok(());
    }
    let (name, study, now_ms) = (who.name.clone(), study.to_owned(), now_ms());
    store
        .write(move |tx| {
            for (site, subject) in &subjects {
                accesses::record(tx, now_ms, &name, action, site, subject, &study)?;
            }
            Ok(())
        })
        .await?;
    Ok(())
}

/// Milliseconds since 1970 UTC. The web door is one of the few places that read the clock.
pub fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

pub fn routes() -> Vec<Route> {
    vec![
        Route::page(Method::GET, "/sign-in", Who::Anyone, || web::get().to(sign_in_page)),
        Route::page(Method::POST, "/sign-in", Who::Anyone, || web::post().to(sign_in)),
        Route::page(Method::POST, "/sign-out", Who::Anyone, || web::post().to(sign_out)),
    ]
}

const SIGN_IN: &str = "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
<title>Sign in</title><link rel=\"stylesheet\" href=\"/assets/style.css\"></head><body><main><h1>Sign in</h1>\
<form method=\"post\" action=\"/sign-in\"><p><label>Your personal token <input type=\"password\" name=\"token\" required autofocus autocomplete=\"current-password\"></label></p>\
<p><button>Sign in</button></p></form></main></body></html>";

async fn sign_in_page() -> HttpResponse {
    HttpResponse::Ok().content_type("text/html; charset=utf-8").body(SIGN_IN)
}

#[derive(serde::Deserialize)]
struct SignIn {
    token: String,
}

/// So many failed sign-ins from one address within a minute, and it has to wait until the minute is over.
const FAILURES_MAX: u32 = 10;
const FAILURES_FOR_MS: i64 = 60_000;

/// Addresses that are counted apart; beyond that all others share one count.
const ADDRESSES_MAX: usize = 1_000;

/// Failed sign-ins of the last minute, by address, so that nobody tries tokens in bulk. Kept in memory alone: each
/// gateway counts for itself, and behind a reverse proxy everybody has the proxy's address.
#[derive(Debug, Default)]
pub struct SignIns(Mutex<HashMap<IpAddr, Failures>>);

#[derive(Debug)]
struct Failures {
    since_ms: i64,
    count: u32,
}

impl SignIns {
    /// ms until this address may try again; `None`: now.
    fn wait_ms(&self, address: IpAddr, now_ms: i64) -> Option<i64> {
        let failures = self.0.lock().expect("nobody fails while counting");
        let of_address = failures.get(&network(address)).or_else(|| failures.get(&OTHERS).filter(|_| ADDRESSES_MAX <= failures.len()))?;
        let wait_ms = of_address.since_ms + FAILURES_FOR_MS - now_ms;
        (FAILURES_MAX <= of_address.count && 0 < wait_ms).then_some(wait_ms)
    }

    fn note_failure(&self, address: IpAddr, now_ms: i64) {
        let mut failures = self.0.lock().expect("nobody fails while counting");
        failures.retain(|_, of_address| now_ms < of_address.since_ms + FAILURES_FOR_MS);
        let network = network(address);
        let counted = if failures.contains_key(&network) || failures.len() < ADDRESSES_MAX { network } else { OTHERS };
        failures.entry(counted).or_insert(Failures { since_ms: now_ms, count: 0 }).count += 1;
    }
}

/// Nobody calls from here.
const OTHERS: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// One host has a whole /64 of IPv6 addresses to choose from.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}

/// Puts the token into a cookie that scripts cannot read and other sites cannot send.
async fn sign_in(
    request: HttpRequest,
    tokens: web::Data<Tokens>,
    sign_ins: web::Data<SignIns>,
    form: web::Form<SignIn>,
) -> Result<HttpResponse, Refusal> {
    let token = form.into_inner().token;
    let address = request.peer_addr().map_or(OTHERS, |peer| peer.ip());
    if let Some(wait_ms) = sign_ins.wait_ms(address, now_ms()) {
        let refusal = Refusal::new(StatusCode::TOO_MANY_REQUESTS, "too many failed sign-ins from this address", "wait a minute, then try again");
        return Err(Refusal { retry_after_s: Some(wait_ms.div_euclid(1_000) as u32 + 1), ..refusal });
    }
    // Only what may stand in a cookie; a token of other characters is used by Authorization alone.
    let is_plain = token.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b';' | b',' | b'"' | b'\\'));
    if !is_plain || tokens.find(&token).is_none() {
        sign_ins.note_failure(address, now_ms());
        return Err(Refusal::new(StatusCode::FORBIDDEN, "this token is not known", "ask whoever runs this gateway for your personal token"));
    }
    Ok(HttpResponse::SeeOther()
        .insert_header((header::LOCATION, "/"))
        .insert_header((header::SET_COOKIE, set_cookie(&token, tokens.is_tls, 28_800)))
        .finish())
}

async fn sign_out(tokens: web::Data<Tokens>) -> HttpResponse {
    HttpResponse::SeeOther()
        .insert_header((header::LOCATION, "/sign-in"))
        .insert_header((header::SET_COOKIE, set_cookie("", tokens.is_tls, 0)))
        .finish()
}

fn set_cookie(token: &str, is_tls: bool, seconds: u32) -> String {
    format!("{COOKIE}={token}; Path=/; HttpOnly; SameSite=Strict; Max-Age={seconds}{}", if is_tls { "; Secure" } else { "" })
}
