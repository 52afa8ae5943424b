//! TLS of whatever listens here, the web door and HL7 v2 feeds alike, from PEM files. Knows no configuration.

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

/// A file that cannot be used: the field that names it, and why.
#[derive(Debug)]
pub struct Unusable {
    pub field: &'static str,
    pub message: String,
}

/// The server's certificate chain with its key, and, where they are named, the authorities of which a client must show a
/// certificate.
pub fn server(certificate_file: &Path, key_file: &Path, client_ca_file: Option<&Path>) -> Result<ServerConfig, Unusable> {
    let chain = certificates("certificate_file", certificate_file)?;
    let key = PrivateKeyDer::from_pem_file(key_file).map_err(|error| unusable("key_file", key_file, &error))?;
    let builder = match client_ca_file {
        None => ServerConfig::builder().with_no_client_auth(),
        Some(file) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates("client_ca_file", file)? {
                roots.add(certificate).map_err(|error| unusable("client_ca_file", file, &error))?;
            }
            let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build();
            ServerConfig::builder().with_client_cert_verifier(verifier.map_err(|error| unusable("client_ca_file", file, &error))?)
        }
    };
    builder.with_single_cert(chain, key).map_err(|error| unusable("certificate_file", certificate_file, &error))
}

fn certificates(field: &'static str, file: &Path) -> Result<Vec<CertificateDer<'static>>, Unusable> {
    let all = CertificateDer::pem_file_iter(file).and_then(|all| all.collect::<Result<Vec<_>, _>>());
    all.map_err(|error| unusable(field, file, &error))
}

fn unusable(field: &'static str, file: &Path, error: &dyn Display) -> Unusable {
    Unusable { field, message: format!("{} cannot be used: {error}", file.display()) }
}
