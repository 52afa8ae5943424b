//! The endpoint of one subscriber as a client: one POST, bounded in time, no redirect followed. Knows neither
//! subscriptions nor what it sends; whether an address may be sent to at all is for the caller to say.

use std::time::Duration;

use reqwest::header::{self, HeaderName, HeaderValue};
use reqwest::{Client, Url};

use super::{AddressError, CONNECT_TIMEOUT, is_loopback};

/// An address that notifications can be sent to: https, or http on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint(Url);

impl Endpoint {
    pub fn parse(text: &str) -> Result<Endpoint, AddressError> {
        let url = Url::parse(text).map_err(|_| AddressError::NotAnAddress)?;
        let is_plain = url.username().is_empty() && url.password().is_none() && url.fragment().is_none() && url.host_str().is_some();
        if !matches!(url.scheme(), "http" | "https") || !is_plain {
            return Err(AddressError::NotAnAddress);
        }
        if url.scheme() == "http" && !is_loopback(&url) {
            return Err(AddressError::NotEncrypted);
        }
        Ok(Endpoint(url))
    }

    /// As an address writes it: lower case, IPv6 in brackets.
    pub fn host(&self) -> &str {
        self.0.host_str().unwrap_or_default()
    }

    pub fn port(&self) -> Option<u16> {
        self.0.port_or_known_default()
    }
}

/// Why a notification did not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HookError {
    /// Not reached, or no answer in time.
    #[error("no-response")]
    NoResponse,
    /// Another answer than 2xx.
    #[error("error-response")]
    Answered(u16),
}

/// The client that notifies; cheap to clone.
#[derive(Clone)]
pub struct Hooks {
    /// On this machine, past any proxy.
    near: Client,
    far: Client,
}

impl Hooks {
    pub fn open() -> Hooks {
        let client = || {
            Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .connect_timeout(CONNECT_TIMEOUT)
                .user_agent(concat!("nephrogate/", env!("CARGO_PKG_VERSION")))
        };
        let built = "the TLS provider and its roots are compiled in";
        Hooks { near: client().no_proxy().build().expect(built), far: client().build().expect(built) }
    }

    /// Sends FHIR JSON with these headers; a 2xx answer within the time is a success, and its body is not read.
    pub async fn post(&self, endpoint: &Endpoint, headers: &[(String, String)], body: Vec<u8>, timeout: Duration) -> Result<(), HookError> {
        let client = if is_loopback(&endpoint.0) { &self.near } else { &self.far };
        let mut request = client.post(endpoint.0.clone()).timeout(timeout).header(header::CONTENT_TYPE, "application/fhir+json");
        for (name, value) in headers {
            let (Ok(name), Ok(mut value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value)) else { continue };
            value.set_sensitive(true);
            request = request.header(name, value);
        }
        let response = request.body(body).send().await.map_err(|_| HookError::NoResponse)?;
        if response.status().is_success() { Ok(()) } else { Err(HookError::Answered(response.status().as_u16())) }
    }
}
