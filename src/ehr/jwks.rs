//! The public keys of a client, fetched as its JSON Web Key Set (RFC 7517) from the one address that was registered.
//! Knows nothing about what the keys are for; keeps nothing.

use std::time::Duration;

use reqwest::header::{self, HeaderMap};
use reqwest::{Client, Url};

use super::{AddressError, is_loopback};

/// A request waits for these keys at worst, so that it must not wait long.
const TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A set of keys is a few kilobytes.
const BODY_MAX_BYTES: usize = 256 << 10;

/// Where one client's keys are; cheap to clone.
#[derive(Clone, Debug)]
pub struct KeyServer {
    client: Client,
    url: Url,
}

/// A set of keys as it came, and how long it may be kept by its `Cache-Control`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    pub text: String,
    pub max_age: Option<Duration>,
}

impl KeyServer {
    /// Plain http only on loopback. Nothing is sent yet.
    pub fn open(url: &str) -> Result<KeyServer, AddressError> {
        let url = Url::parse(url).map_err(|_| AddressError::NotAnAddress)?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() || !url.username().is_empty() {
            return Err(AddressError::NotAnAddress);
        }
        if url.scheme() == "http" && !is_loopback(&url) {
            return Err(AddressError::NotEncrypted);
        }
        let mut client = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TIMEOUT)
            .user_agent(concat!("nephrogate/", env!("CARGO_PKG_VERSION")));
        if is_loopback(&url) {
            client = client.no_proxy();
        }
        Ok(KeyServer { client: client.build().expect("the TLS provider and its roots are compiled in"), url })
    }

    /// `None` where no whole answer came.
    pub async fn fetch(&self) -> Option<Fetched> {
        let request = self.client.get(self.url.clone()).header(header::ACCEPT, "application/jwk-set+json, application/json");
        let mut response = request.send().await.ok().filter(|response| response.status().is_success())?;
        let max_age = max_age(response.headers());
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.ok()? {
            if BODY_MAX_BYTES < body.len() + chunk.len() {
                return None;
            }
            body.extend_from_slice(&chunk);
        }
        Some(Fetched { text: String::from_utf8(body).ok()?, max_age })
    }
}

/// `max-age` of `Cache-Control`; nothing is kept where it says so.
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let said = headers.get(header::CACHE_CONTROL)?.to_str().ok()?.to_ascii_lowercase();
    let mut words = said.split(',').map(str::trim);
    if words.clone().any(|word| matches!(word, "no-store" | "no-cache")) {
        return Some(Duration::ZERO);
    }
    words.find_map(|word| word.strip_prefix("max-age=")?.trim_matches('"').parse().ok()).map(Duration::from_secs)
}
