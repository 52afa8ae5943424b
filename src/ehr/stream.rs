//! What comes piece by piece or is worked on for long: files too large to hold (Bulk Data's output), and the asynchronous
//! request pattern. Knows neither manifests nor NDJSON.

use std::time::Duration;

use reqwest::header::{self, HeaderName, HeaderValue};
use reqwest::{Response, Url};

use super::{Ehr, EhrError, is_loopback, not_reached, read_body, refused_here, retry_after, text_of};

/// Longest wait for the next piece of a file; the whole of it may take as long as it takes, up to [`FILE_TIMEOUT`].
const PIECE_TIMEOUT: Duration = Duration::from_secs(60);
/// A file that takes longer than a day will never end.
const FILE_TIMEOUT: Duration = Duration::from_secs(86_400);

/// A file on its way.
pub struct Stream {
    response: Response,
}

impl Stream {
    /// The next piece, decompressed; `None` behind the last one. A file that breaks off is an error, not an end.
    pub async fn chunk(&mut self) -> Result<Option<impl AsRef<[u8]> + Send + use<>>, EhrError> {
        let piece = tokio::time::timeout(PIECE_TIMEOUT, self.response.chunk()).await.map_err(|_| not_reached())?;
        piece.map_err(|_| not_reached())
    }

    /// Length as it is sent, where the server says it and sends the file as it is.
    pub fn length(&self) -> Option<u64> {
        self.response.content_length()
    }

    /// `Content-Type` without its parameters, lower case.
    pub fn media_type(&self) -> String {
        let said = text_of(self.response.headers(), &header::CONTENT_TYPE).unwrap_or_default();
        said.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
    }
}

/// A whole answer with what the asynchronous request pattern says beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    pub status: u16,
    /// Where the work that was begun can be asked about.
    pub content_location: Option<String>,
    /// ms from now.
    pub retry_after_ms: Option<i64>,
    /// `X-Progress`, as the server words it.
    pub progress: Option<String>,
    /// When what the body names is gone, as an HTTP date.
    pub expires: Option<String>,
    pub body: String,
}

impl Ehr {
    /// Opens a file to be read piece by piece. With a token only on the EHR's own origin; without one also on a host that the
    /// configuration names for its files, and there by https.
    pub async fn open_stream(&self, url: &str, accept: &str, with_token: bool) -> Result<Stream, EhrError> {
        let url = self.file_url(url, with_token)?;
        let accept = HeaderValue::from_str(accept).expect("a media type is visible ASCII");
        let request = self.client.get(url).header(header::ACCEPT, accept).timeout(FILE_TIMEOUT).build().map_err(|_| not_reached())?;
        let response = if with_token { self.exchange(request).await? } else { self.send_now(request).await? };
        if !response.status().is_success() {
            return Err(self.refusal_of(response).await);
        }
        Ok(Stream { response })
    }

    /// Sends a request of the asynchronous pattern, `Prefer: respond-async` included, and answers where its work can be asked about.
    pub async fn kick_off(&self, method: &str, url: &str, headers: &[(String, String)], body: &str) -> Result<String, EhrError> {
        let prefer = ("prefer".to_owned(), "respond-async".to_owned());
        let headers: Vec<(String, String)> = headers.iter().cloned().chain([prefer]).collect();
        let answer = self.ask(method, url, &headers, body).await?;
        match (answer.status, answer.content_location) {
            (202, Some(status_url)) => Ok(status_url),
            (status, _) => Err(EhrError::Refused { status, outcome: "it was not answered with 202 and Content-Location".to_owned() }),
        }
    }

    /// Sends a request to an address on the EHR's own origin, below the base or not, and answers with headers and body.
    pub async fn ask(&self, method: &str, url: &str, headers: &[(String, String)], body: &str) -> Result<Answered, EhrError> {
        let url = self.file_url(url, true)?;
        let request = self.request(method, url, headers, body).header(header::CACHE_CONTROL, "no-cache");
        let response = self.exchange(request.build().map_err(|_| not_reached())?).await?;
        if !response.status().is_success() {
            return Err(self.refusal_of(response).await);
        }
        let of = |name: &HeaderName| text_of(response.headers(), name);
        Ok(Answered {
            status: response.status().as_u16(),
            content_location: of(&header::CONTENT_LOCATION),
            retry_after_ms: retry_after(response.headers()),
            progress: of(&HeaderName::from_static("x-progress")),
            expires: of(&header::EXPIRES),
            body: read_body(response).await.map_err(|_| not_reached())?,
        })
    }

    /// Whether an address is on the EHR's own origin, where our token may go.
    pub fn is_own(&self, url: &str) -> bool {
        self.base.join(url).is_ok_and(|url| self.is_same_origin(&url))
    }

    fn file_url(&self, url: &str, with_token: bool) -> Result<Url, EhrError> {
        let url = self.base.join(url).map_err(|_| refused_here("the file has no address"))?;
        if self.is_same_origin(&url) {
            return Ok(url);
        }
        if with_token {
            return Err(refused_here("the address is on another server than the FHIR base, where our token must not go"));
        }
        let is_safe = url.scheme() == "https" || (url.scheme() == "http" && is_loopback(&url) && self.is_loopback());
        let host = url.host_str().unwrap_or_default();
        let with_port = format!("{host}:{}", url.port_or_known_default().unwrap_or_default());
        let is_named = self.file_hosts.iter().any(|named| named.eq_ignore_ascii_case(host) || named.eq_ignore_ascii_case(&with_port));
        match (is_safe && url.username().is_empty(), is_named) {
            (true, true) => Ok(url),
            (false, _) => Err(refused_here("the file is not at an https address")),
            (true, false) => Err(refused_here("the file is on a host that file_hosts of this source does not name")),
        }
    }
}
