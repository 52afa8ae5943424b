//! Reading request bodies within limits: content type, encoding, decompressed size, and patience. Knows no FHIR.

use std::sync::Arc;
use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::dev::Decompress;
use actix_web::http::StatusCode;
use actix_web::http::header;
use actix_web::web::{self, Bytes};
use futures_util::StreamExt;
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::Refusal;
use crate::issue::{Code, Issue};

/// How much one request may ask for.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of one resource, decompressed.
    pub single_bytes: usize,
    /// Bytes of one Bundle, decompressed.
    pub bundle_bytes: usize,
    /// Bytes of one NDJSON body, decompressed.
    pub ndjson_bytes: usize,
    /// A body that brings nothing for so long is given up.
    pub idle: Duration,
    /// A body that is not an NDJSON stream must be there within this time.
    pub whole: Duration,
    /// Bodies over [`LARGE_BYTES`] held in memory at the same time.
    pub large_bodies: Arc<Semaphore>,
}

/// From here on a body needs one of the few places for large ones.
const LARGE_BYTES: usize = 1 << 20;

/// How many large bodies may be in memory at once.
pub const LARGE_BODIES: usize = 4;

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            single_bytes: 16 << 20,
            bundle_bytes: 64 << 20,
            ndjson_bytes: 256 << 20,
            idle: Duration::from_secs(30),
            whole: Duration::from_secs(120),
            large_bodies: Arc::new(Semaphore::new(LARGE_BODIES)),
        }
    }
}

/// What the client says the body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Json,
    Ndjson,
}

/// The kind by content type; 415 for every other one. A missing content type is JSON.
pub fn kind(request: &HttpRequest) -> Result<Kind, Refusal> {
    let Some(value) = request.headers().get(header::CONTENT_TYPE) else { return Ok(Kind::Json) };
    let refuse = || {
        Refusal::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "this content type is not taken here",
            "send application/fhir+json, application/json, or for $ingest application/fhir+ndjson",
        )
    };
    let text = value.to_str().map_err(|_| refuse())?;
    let mut parts = text.split(';').map(str::trim);
    let media = parts.next().unwrap_or_default().to_ascii_lowercase();
    let is_utf8 = parts.all(|parameter| {
        parameter
            .split_once('=')
            .is_none_or(|(name, value)| !name.trim().eq_ignore_ascii_case("charset") || value.trim_matches('"').eq_ignore_ascii_case("utf-8"))
    });
    match media.as_str() {
        _ if !is_utf8 => Err(refuse()),
        "application/fhir+json" | "application/json" | "application/json+fhir" => Ok(Kind::Json),
        "application/fhir+ndjson" | "application/x-ndjson" | "application/ndjson" => Ok(Kind::Ndjson),
        _ => Err(refuse()),
    }
}

/// A body that arrives piece by piece, decompressed and counted.
pub struct Body {
    stream: Decompress<web::Payload>,
    limit: usize,
    idle: Duration,
    read: usize,
}

impl Body {
    pub fn open(request: &HttpRequest, payload: web::Payload, limit: usize, limits: &Limits) -> Result<Body, Refusal> {
        if let Some(encoding) = request.headers().get(header::CONTENT_ENCODING) {
            let is_known =
                encoding.to_str().is_ok_and(|encoding| matches!(encoding.trim().to_ascii_lowercase().as_str(), "gzip" | "deflate" | "identity"));
            if !is_known {
                return Err(Refusal::new(
                    StatusCode::UNSUPPORTED_MEDIA_TYPE,
                    "this content encoding is not taken here",
                    "send gzip, deflate or none",
                ));
            }
        }
        let announced =
            request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()).and_then(|value| value.parse::<usize>().ok());
        if announced.is_some_and(|length| length > limit) {
            return Err(too_large());
        }
        Ok(Body { stream: Decompress::from_headers(payload, request.headers()), limit, idle: limits.idle, read: 0 })
    }

    /// The next piece; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        let piece = match tokio::time::timeout(self.idle, self.stream.next()).await {
            Err(_) => return Err(too_slow()),
            Ok(None) => return Ok(None),
            Ok(Some(Err(_))) => {
                return Err(Refusal::bad_request("the body broke off or is not compressed as it says", "send it again, whole"));
            }
            Ok(Some(Ok(piece))) => piece,
        };
        self.read = self.read.saturating_add(piece.len());
        if self.read > self.limit { Err(too_large()) } else { Ok(Some(piece)) }
    }
}

/// A whole body, with its place among the large ones held for as long as it is in memory.
pub struct Whole {
    pub bytes: Vec<u8>,
    _place: Option<OwnedSemaphorePermit>,
}

pub async fn read_whole(request: &HttpRequest, payload: web::Payload, limit: usize, limits: &Limits) -> Result<Whole, Refusal> {
    let mut body = Body::open(request, payload, limit, limits)?;
    let reading = async {
        let mut bytes = Vec::new();
        let mut place = None;
        while let Some(piece) = body.next().await? {
            if place.is_none() && bytes.len() + piece.len() > LARGE_BYTES {
                place = Some(large_place(limits).await?);
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(Whole { bytes, _place: place })
    };
    tokio::time::timeout(limits.whole, reading).await.map_err(|_| too_slow())?
}

/// Largest body of a person's or an admin's request, bytes.
const WORDS_BYTES: usize = 64 << 10;

/// A JSON body as `schema` of the description says; `None` where nothing was sent.
pub async fn read_json<T: DeserializeOwned>(
    request: &HttpRequest,
    payload: web::Payload,
    limits: &Limits,
    schema: &str,
) -> Result<Option<T>, Refusal> {
    let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let is_json = content_type.is_some_and(|value| value.to_ascii_lowercase().starts_with(super::asked::JSON));
    let not_json = || Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "what is sent here is JSON", "send Content-Type: application/json");
    if content_type.is_some() && !is_json {
        return Err(not_json());
    }
    let whole = read_whole(request, payload, WORDS_BYTES, limits).await?;
    match (whole.bytes.is_empty(), is_json) {
        (true, _) => Ok(None),
        (false, false) => Err(not_json()),
        // The parser's own words could quote what was sent.
        (false, true) => serde_json::from_slice(&whole.bytes).map(Some).map_err(|_| unreadable(schema)),
    }
}

/// The same, where something must be sent.
pub async fn need_json<T: DeserializeOwned>(request: &HttpRequest, payload: web::Payload, limits: &Limits, schema: &str) -> Result<T, Refusal> {
    read_json(request, payload, limits, schema).await?.ok_or_else(|| unreadable(schema))
}

fn unreadable(schema: &str) -> Refusal {
    Refusal::bad_request("the body cannot be read", format!("see {schema} in /openapi.json"))
}

/// One of the few places for large bodies.
pub async fn large_place(limits: &Limits) -> Result<OwnedSemaphorePermit, Refusal> {
    match tokio::time::timeout(limits.idle, limits.large_bodies.clone().acquire_owned()).await {
        Ok(Ok(place)) => Ok(place),
        Ok(Err(_)) | Err(_) => Err(Refusal::busy("too many large bodies at once", 10)),
    }
}

fn too_large() -> Refusal {
    Refusal::rejected(vec![Issue::new(Code::TooLarge, "")])
}

fn too_slow() -> Refusal {
    Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time", "send it faster, or in smaller parts")
}
