//! The public parts of the keys that this gateway signs with, for EHRs that check who asks them for a token. Knows no key.

use std::sync::Arc;

use actix_web::HttpResponse;
use actix_web::http::Method;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use actix_web::web::{self, Data};

use super::Route;
use super::access::Who;
use super::asked::{BUSY, JSON};
use super::error::Refusal;
use super::openapi::{Answer, Says};

/// For how long an EHR may keep our keys; a new key is published for longer than that before it signs (docs/feeds.md).
const CACHING: &str = "public, max-age=300";

/// The key set as JSON (RFC 7517); set by the composer.
#[derive(Clone)]
pub struct OwnKeys(pub Arc<dyn Fn() -> Result<String, String> + Send + Sync>);

pub fn routes() -> Vec<Route> {
    vec![Route::described(
        Method::GET,
        "/.well-known/jwks.json",
        Who::Anyone,
        Says::new(
            "The public keys of this gateway, for EHRs that it asks for access tokens",
            &[Answer::json(200, JSON, "KeySet", "JSON Web Key Set; empty where no site is read or written by SMART Backend Services"), BUSY],
        ),
        || web::get().to(keys),
    )]
}

async fn keys(own: Data<OwnKeys>) -> Result<HttpResponse, Refusal> {
    match (own.0)() {
        Ok(text) => Ok(HttpResponse::Ok().insert_header((CACHE_CONTROL, CACHING)).insert_header((CONTENT_TYPE, JSON)).body(text)),
        Err(error) => {
            tracing::error!(error, "our public keys cannot be given out");
            Err(Refusal::busy("the keys cannot be read now", 30))
        }
    }
}
