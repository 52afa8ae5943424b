//! How an EHR lets us in: our credentials, TLS, and everything that can stand in the way, each in one sentence that says
//! what to do. Sentences name addresses, client ids and keys of ours; no patient is known here.

use std::error::Error as _;

use reqwest::header::HeaderValue;
use reqwest::{Certificate, ClientBuilder, Identity};
use rustls::{AlertDescription, CertificateError};

use super::AddressError;
use super::smart;

/// How one endpoint is reached.
#[derive(Clone, Default)]
pub struct Access {
    pub credentials: Credentials,
    pub tls: Tls,
    /// Hosts besides the endpoint's own that its files may be on, `name` for any port or `name:port`; no token goes there.
    pub file_hosts: Vec<String>,
}

/// How requests say who sends them.
#[derive(Clone, Default)]
pub enum Credentials {
    #[default]
    None,
    Bearer(String),
    Basic {
        user: String,
        password: String,
    },
    /// SMART App Launch 2.2, Backend Services.
    Smart(smart::Settings),
}

/// What TLS needs beyond the system's certificate authorities; PEM.
#[derive(Clone, Default)]
pub struct Tls {
    /// Our certificate chain and its key, for servers that ask for one.
    pub identity: Option<Vec<u8>>,
    /// Further certificate authorities.
    pub authorities: Option<Vec<u8>>,
}

impl Tls {
    /// A client that shows our certificate and knows these authorities besides the system's. It speaks HTTP/1.1: TLS 1.3 asks
    /// for a client certificate when the handshake is over, and over HTTP/2 the alert that says so is lost.
    pub(super) fn apply(&self, client: ClientBuilder) -> Result<ClientBuilder, AddressError> {
        let mut client = client.http1_only();
        if let Some(pem) = &self.identity {
            client = client.identity(Identity::from_pem(pem).map_err(|_| AddressError::ClientCertificate)?);
        }
        if let Some(pem) = &self.authorities {
            let authorities = Certificate::from_pem_bundle(pem).ok().filter(|authorities| !authorities.is_empty());
            client = client.tls_certs_merge(authorities.ok_or(AddressError::Authorities)?);
        }
        Ok(client)
    }
}

/// A header that never changes, out of sight of logs.
pub(super) fn secret_header(text: &str) -> Result<HeaderValue, AddressError> {
    let mut value = HeaderValue::from_str(text).map_err(|_| AddressError::Token)?;
    value.set_sensitive(true);
    Ok(value)
}

/// Why an EHR does not let us in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessTrouble {
    // --- the FHIR endpoint
    #[error("the EHR asks for credentials and none are configured: add authorization where this site names its base_url")]
    NoCredentials,
    #[error("the EHR does not accept the bearer token (401): put a valid one where the configuration names it, and restart the gateway")]
    Bearer,
    #[error("the EHR does not accept the user and password (401): put the right ones where the configuration names them, and restart the gateway")]
    Basic,
    #[error(
        "the EHR does not accept an access token that its token endpoint issued just now (401): ask its administrators whether the token endpoint \
         issues tokens for this FHIR base, and whether the clocks of both servers are right"
    )]
    FreshToken,
    #[error(
        "the EHR answered with a web page where FHIR was expected: correct base_url, or have the proxy or sign-in page before it let this gateway through"
    )]
    Page,

    // --- discovery
    #[error(
        "the EHR has no .well-known/smart-configuration below its base_url ({status}): correct base_url, or name token_endpoint in the configuration"
    )]
    NoDiscovery { status: u16 },
    #[error(
        "the EHR's .well-known/smart-configuration is a web page rather than JSON: correct base_url, have the proxy before it let this gateway through, \
         or name token_endpoint in the configuration"
    )]
    DiscoveryPage,
    #[error("the EHR's .well-known/smart-configuration names no token_endpoint: name it in the configuration")]
    NoTokenEndpoint,
    #[error(
        "the EHR's .well-known/smart-configuration names a token_endpoint that is not an https address: have its administrators correct it, or name \
         the right one in the configuration"
    )]
    TokenEndpointUnsafe,
    #[error(
        "the EHR's .well-known/smart-configuration does not declare {what}: have its administrators allow it, or name token_endpoint in the \
         configuration to try it nevertheless"
    )]
    NotDeclared { what: Declarable },

    // --- our keys
    #[error("the key file {file} cannot be read: check that it is there and that the gateway may read it")]
    KeyUnreadable { file: String },
    #[error("the key file {file} holds no private key for {algorithm}: make one with `{}`", algorithm.recipe())]
    KeyUnfit { file: String, algorithm: super::signing::Algorithm },

    // --- the token endpoint
    #[error("the token endpoint at {host} cannot be reached or does not answer: check its address, and that the firewall lets this gateway through")]
    TokenUnreachable { host: String },
    #[error("the token endpoint at {host} cannot answer now ({status}); it is asked again, less and less often")]
    TokenBusy { host: String, status: u16 },
    #[error(
        "the token endpoint at {host} answered {status} with something that is not OAuth's JSON, such as a web page: correct its address, or have the \
         proxy before it let this gateway through"
    )]
    TokenPage { host: String, status: u16 },
    #[error("the token endpoint at {host} sends us elsewhere ({status}), and no redirect is followed: name the right token_endpoint")]
    TokenElsewhere { host: String, status: u16 },
    #[error("the token endpoint at {host} issued nothing that is a bearer access token: ask the EHR's administrators what it issues")]
    NoToken { host: String },
    #[error(
        "the token endpoint at {host} does not accept our key {kid}: have the EHR's administrators register it, or have their server read \
         /.well-known/jwks.json of this gateway again if the key was changed"
    )]
    Key { host: String, kid: String },
    #[error(
        "the token endpoint does not accept {aud} as the audience of our assertion: name token_endpoint in the configuration as the server knows itself"
    )]
    Audience { aud: String },
    #[error("the token endpoint at {host} does not accept our assertion, and our clock differs from its own by {} s ({}): set this machine's clock, or have theirs set",
        skew_s.unsigned_abs(), if *skew_s < 0 { "ours is behind" } else { "ours is ahead" })]
    Clock { host: String, skew_s: i64 },
    #[error(
        "the token endpoint at {host} finds our assertion too old, too young or good for too long: compare this machine's clock with the server's"
    )]
    Time { host: String },
    #[error(
        "the token endpoint at {host} does not know our client or does not accept its proof (invalid_client): have the EHR's administrators check that \
         client_id is registered, with the keys at /.well-known/jwks.json of this gateway{}",
        quoted(says)
    )]
    Client { host: String, says: String },
    #[error(
        "the token endpoint at {host} grants none of the scopes that the configuration asks for: have them allowed for our client, or ask for others"
    )]
    Scope { host: String },
    #[error(
        "the EHR has not allowed our client to get tokens by client_credentials ({code}): have its administrators register it for Backend Services"
    )]
    Grant { code: String },
    #[error("the token endpoint at {host} refuses our request ({code}): show this to the EHR's administrators{}", quoted(says))]
    TokenRefused { host: String, code: String, says: String },

    // --- TLS
    #[error("the server's certificate has expired or is not valid yet: have its administrators renew it, and compare the clocks")]
    CertificateExpired,
    #[error("the server's certificate is for another host: correct the address, or have its administrators install the right certificate")]
    CertificateOtherHost,
    #[error("the server's certificate is signed by an authority that this machine does not know: name that authority's certificate in tls.ca_file")]
    CertificateUnknownIssuer,
    #[error("the server's certificate cannot be accepted: have its administrators check it")]
    CertificateUnfit,
    #[error("the server asks for a client certificate: name one in tls.certificate_file and tls.key_file")]
    ClientCertificateMissing,
    #[error(
        "the server does not accept our client certificate: have its administrators check that it is registered, and whether it has expired; it \
         stands in tls.certificate_file"
    )]
    ClientCertificateRefused,
    #[error("no TLS 1.2 or later could be agreed on with the server: have its administrators enable it")]
    TlsVersion,
}

/// What a smart-configuration can declare and this gateway needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Declarable {
    PrivateKeyJwt,
    ClientCredentials,
    /// None of our keys' algorithms.
    Algorithms(String),
}

impl std::fmt::Display for Declarable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Declarable::PrivateKeyJwt => f.write_str("private_key_jwt among token_endpoint_auth_methods_supported"),
            Declarable::ClientCredentials => f.write_str("client_credentials among grant_types_supported"),
            Declarable::Algorithms(ours) => write!(f, "{ours} among token_endpoint_auth_signing_alg_values_supported"),
        }
    }
}

fn quoted(says: &str) -> String {
    if says.is_empty() { String::new() } else { format!("; it says: {says:?}") }
}

/// What TLS had against a connection, if it was TLS.
pub(super) fn tls_trouble(error: &reqwest::Error, has_identity: bool) -> Option<AccessTrouble> {
    let mut next = error.source();
    while let Some(cause) = next {
        // An IO error that wraps another names that one's cause as its own.
        let inner = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref).map(|inner| inner as &(dyn std::error::Error + 'static));
        if let Some(tls) = cause.downcast_ref::<rustls::Error>().or_else(|| inner?.downcast_ref::<rustls::Error>()) {
            return of_tls(tls, has_identity);
        }
        next = inner.or_else(|| cause.source());
    }
    None
}

fn of_alert(alert: AlertDescription, has_identity: bool) -> Option<AccessTrouble> {
    match alert {
        AlertDescription::CertificateRequired
        | AlertDescription::NoCertificate
        | AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnknownCA
        | AlertDescription::AccessDenied => {
            Some(if has_identity { AccessTrouble::ClientCertificateRefused } else { AccessTrouble::ClientCertificateMissing })
        }
        AlertDescription::ProtocolVersion | AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity => {
            Some(AccessTrouble::TlsVersion)
        }
        _ => None,
    }
}

fn of_tls(error: &rustls::Error, has_identity: bool) -> Option<AccessTrouble> {
    match error {
        rustls::Error::InvalidCertificate(fault) => Some(match fault {
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => AccessTrouble::CertificateExpired,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => AccessTrouble::CertificateOtherHost,
            CertificateError::UnknownIssuer => AccessTrouble::CertificateUnknownIssuer,
            _ => AccessTrouble::CertificateUnfit,
        }),
        rustls::Error::AlertReceived(alert) => of_alert(*alert, has_identity),
        rustls::Error::PeerIncompatible(_) => Some(AccessTrouble::TlsVersion),
        _ => None,
    }
}
