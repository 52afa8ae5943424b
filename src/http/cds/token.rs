//! The tokens that prove who is asking: signed by the client with ES384 or RS384, made out to the one address that is called,
//! a few minutes old at most, and good once. What is not exactly so is refused, with a word for whoever mends the client.

use std::sync::Arc;

use actix_web::dev::{Payload, ServiceRequest};
use actix_web::http::StatusCode;
use actix_web::{FromRequest, HttpMessage, HttpRequest, web};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{BASE, Client, Clients};
use crate::http::access::{bearer, now_ms};
use crate::http::error::Refusal;
use crate::store::{Store, cards};

/// From `iat` to `exp`, at most.
const LIFETIME_MAX_S: f64 = 300.0;
/// How far the clocks of client and gateway may differ.
const SKEW_S: f64 = 30.0;
const JTI_MAX: usize = 255;
const TOKEN_MAX_BYTES: usize = 8 << 10;

/// The client whose token was verified.
#[derive(Clone, Debug)]
pub struct Caller(pub Arc<Client>);

impl FromRequest for Caller {
    type Error = Refusal;
    type Future = std::future::Ready<Result<Caller, Refusal>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let caller = request.extensions().get::<Caller>().cloned();
        std::future::ready(caller.ok_or_else(|| refused("no token", "send Authorization: Bearer with a JWT signed for this address")))
    }
}

fn refused(sentence: &'static str, hint: &'static str) -> Refusal {
    Refusal::new(StatusCode::UNAUTHORIZED, sentence, hint)
}

/// Verifies the token of a request and uses it up.
pub async fn admit(request: &ServiceRequest) -> Result<Caller, Refusal> {
    let clients = request.app_data::<web::Data<Clients>>().cloned().expect("http::configure sets the clients");
    let store = request.app_data::<web::Data<Store>>().cloned().expect("http::configure sets the store");
    let service = request.match_info().get("id").unwrap_or_default().to_owned();
    let is_feedback = request.path().ends_with("/feedback");
    let token = bearer(request.head()).map(str::to_owned);
    let now_ms = now_ms();
    let (client, spent) = verify(&clients, token.as_deref(), &service, is_feedback, now_ms).await?;
    let issuer = client.issuer.clone();
    let is_new = store.write(move |tx| cards::spend_token(tx, now_ms, &issuer, &spent.jti, spent.expires_ms)).await?;
    if is_new { Ok(Caller(client)) } else { Err(refused("the token was used before", "make a token with a new jti for each call")) }
}

/// What must be remembered of a token until it would expire anyway.
struct Spent {
    jti: String,
    expires_ms: i64,
}

/// Numbers of a JWT are whole or broken seconds since 1970 UTC.
#[derive(Deserialize)]
struct Claims {
    iss: Option<String>,
    aud: Option<Audience>,
    exp: Option<serde_json::Number>,
    iat: Option<serde_json::Number>,
    nbf: Option<serde_json::Number>,
    jti: Option<String>,
    tenant: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Audience {
    fn names(&self, url: &str) -> bool {
        match self {
            Audience::One(said) => said == url,
            Audience::Many(said) => said.iter().any(|said| said == url),
        }
    }
}

async fn verify(clients: &Clients, token: Option<&str>, service: &str, is_feedback: bool, now_ms: i64) -> Result<(Arc<Client>, Spent), Refusal> {
    let (Some(public_url), false) = (&clients.public_url, clients.clients.is_empty()) else {
        return Err(refused("no CDS client is registered with this gateway", "register it in cds_clients of the configuration"));
    };
    let token = token.ok_or_else(|| refused("no token", "send Authorization: Bearer with a JWT signed for this address"))?;
    let unreadable = || refused("the token cannot be read", "send a JWT signed with ES384 or RS384, with kid, and typ JWT");
    if TOKEN_MAX_BYTES < token.len() {
        return Err(unreadable());
    }
    // This also refuses `none`, and every algorithm that the library does not know.
    let header = jsonwebtoken::decode_header(token).map_err(|_| unreadable())?;
    let algorithm = match header.alg {
        Algorithm::ES384 | Algorithm::RS384 => header.alg,
        _ => return Err(refused("the token is signed in a way that is not taken", "sign it with ES384 or RS384")),
    };
    if !header.typ.as_deref().is_some_and(|typ| typ.eq_ignore_ascii_case("JWT")) || header.crit.is_some() {
        return Err(unreadable());
    }
    let kid = header.kid.as_deref().filter(|kid| !kid.is_empty()).ok_or_else(unreadable)?;
    // Read before the signature was looked at, and believed only after it: they say whose keys to look at.
    let claims: Claims = jsonwebtoken::dangerous::insecure_decode_claims(token).map_err(|_| unreadable())?;
    let client = client_of(clients, &claims)
        .ok_or_else(|| refused("the token's issuer is not registered", "register iss, and tenant where one is sent, in cds_clients"))?;
    if header.jku.is_some() && header.jku != client.jwks_url {
        return Err(refused("jku is not the address that is registered", "leave jku out, or register it as jwks_url"));
    }
    if !is_signed(&client, token, kid, algorithm, now_ms).await? {
        return Err(refused("the token's signature does not hold", "sign it with the private key of the key that kid names"));
    }
    let url = format!("{public_url}{BASE}/{service}");
    let aud = claims.aud.as_ref().ok_or_else(unreadable)?;
    let is_ours = aud.names(&url) || (is_feedback && aud.names(&format!("{url}/feedback")));
    if !is_ours {
        return Err(refused(
            "the token is made out to another address",
            "set aud to the address that is called, as public_url of the configuration begins it",
        ));
    }
    let spent = in_time(&claims, now_ms)?;
    Ok((client, spent))
}

fn client_of(clients: &Clients, claims: &Claims) -> Option<Arc<Client>> {
    let issuer = claims.iss.as_deref()?;
    let of_issuer = clients.clients.iter().filter(|client| client.issuer == issuer);
    of_issuer.into_iter().find(|client| client.tenant.is_none() || client.tenant == claims.tenant).cloned()
}

/// The times and the id. The library's own checks fail on every number where serde_json keeps numbers as they were written,
/// as it does in this program, and they read a clock of their own.
fn in_time(claims: &Claims, now_ms: i64) -> Result<Spent, Refusal> {
    let seconds = |number: &Option<serde_json::Number>| number.as_ref().and_then(serde_json::Number::as_f64).filter(|value| value.is_finite());
    let incomplete = || refused("the token lacks exp, iat or jti", "set all three; jti is 1 to 255 characters and new for each call");
    let (expires, issued) = (seconds(&claims.exp).ok_or_else(incomplete)?, seconds(&claims.iat).ok_or_else(incomplete)?);
    let jti = claims.jti.clone().filter(|jti| (1..=JTI_MAX).contains(&jti.len())).ok_or_else(incomplete)?;
    let now = now_ms as f64 / 1_000.0;
    if expires + SKEW_S <= now {
        return Err(refused("the token has expired", "make a new one for each call"));
    }
    if expires <= issued || LIFETIME_MAX_S < expires - issued {
        return Err(refused("the token is good for too long", "set exp to at most 5 minutes after iat"));
    }
    if now + SKEW_S < issued || seconds(&claims.nbf).is_some_and(|from| now + SKEW_S < from) {
        return Err(refused("the token is of the future", "set the client's clock"));
    }
    Ok(Spent { jti, expires_ms: ((expires + SKEW_S) * 1_000.0).ceil() as i64 })
}

/// Whether one of the client's keys of this name made the signature; a name that is not known is asked for once more.
async fn is_signed(client: &Client, token: &str, kid: &str, algorithm: Algorithm, now_ms: i64) -> Result<bool, Refusal> {
    let mut keys = client.keys.text(now_ms).map(|text| named(&text, kid, algorithm));
    if keys.as_ref().is_none_or(Vec::is_empty) {
        client.keys.ask_again(now_ms).await;
        keys = client.keys.text(now_ms).map(|text| named(&text, kid, algorithm));
    }
    // That is nothing the client could mend in its token.
    let keys = keys.ok_or_else(|| Refusal::busy("the client's keys cannot be fetched now", 30))?;
    if keys.is_empty() {
        return Err(refused(
            "the token's kid is not among the client's keys",
            "publish the key where jwks_url says; it is asked for again once a minute",
        ));
    }
    let Some((message, signature)) = token.rsplit_once('.') else { return Ok(false) };
    Ok(keys.iter().any(|key| jsonwebtoken::crypto::verify(signature, message.as_bytes(), key, algorithm).unwrap_or(false)))
}

#[derive(Deserialize)]
struct SetView<'a> {
    #[serde(borrow)]
    keys: Vec<&'a RawValue>,
}

/// One JSON Web Key (RFC 7517, 7518), as far as ES384 and RS384 need it.
#[derive(Deserialize)]
struct KeyView {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    alg: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
}

/// The keys of this name that are for this algorithm; a key of another kind does not spoil the set.
fn named(set: &str, kid: &str, algorithm: Algorithm) -> Vec<DecodingKey> {
    let Ok(set) = serde_json::from_str::<SetView<'_>>(set) else { return Vec::new() };
    let keys = set.keys.iter().filter_map(|key| serde_json::from_str::<KeyView>(key.get()).ok());
    keys.filter(|key| key.kid.as_deref() == Some(kid) && key.purpose.as_deref().is_none_or(|purpose| purpose == "sig"))
        .filter_map(|key| {
            let is_for = |word: &str| key.alg.as_deref().is_none_or(|alg| alg == word);
            let key = match (algorithm, key.kty.as_str()) {
                (Algorithm::ES384, "EC") if is_for("ES384") && key.crv.as_deref() == Some("P-384") => {
                    DecodingKey::from_ec_components(key.x.as_deref()?, key.y.as_deref()?)
                }
                (Algorithm::RS384, "RSA") if is_for("RS384") => DecodingKey::from_rsa_components(key.n.as_deref()?, key.e.as_deref()?),
                _ => return None,
            };
            key.ok()
        })
        .collect()
}
