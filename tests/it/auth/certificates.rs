//! TLS towards an EHR: client certificates, authorities of the hospital's own, and each way in which it fails, with its sentence.

use std::sync::Arc;

use nephrogate::ehr::{AddressError, EhrError};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;

use super::stub::{Stub, TOKEN_PATH};
use super::{Access, Credentials, Ehr, Tls, error_of, runtime, settings};
use crate::certificates::folder;

fn pem(name: &str) -> Vec<u8> {
    std::fs::read(folder().join(name)).unwrap()
}

/// A server with this certificate, which asks for one of the hospital's where `asks`.
fn server(certificate: &str, asks: bool) -> Stub {
    nephrogate::app::install_tls_provider();
    let chain = vec![CertificateDer::from_pem_file(folder().join(format!("{certificate}.pem"))).unwrap()];
    let key = PrivateKeyDer::from_pem_file(folder().join(format!("{certificate}.key"))).unwrap();
    let builder = rustls::ServerConfig::builder();
    let builder = if asks {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(folder().join("hospital.pem")).unwrap()).unwrap();
        builder.with_client_cert_verifier(WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap())
    } else {
        builder.with_no_client_auth()
    };
    Stub::start_tls(builder.with_single_cert(chain, key).unwrap())
}

fn identity(name: &str) -> Option<Vec<u8>> {
    Some([pem(&format!("{name}.pem")), pem(&format!("{name}.key"))].concat())
}

fn open(stub: &Stub, identity: Option<Vec<u8>>, authorities: Option<Vec<u8>>) -> Ehr {
    let access = Access { credentials: Credentials::Smart(settings()), tls: Tls { identity, authorities }, file_hosts: Vec::new() };
    Ehr::open_with(&stub.base_url(), access).unwrap()
}

#[test]
fn a_client_certificate_is_shown_to_the_fhir_endpoint_and_the_token_endpoint() {
    let stub = server("server", true);
    let ehr = open(&stub, identity("gateway"), Some(pem("hospital.pem")));
    assert!(runtime().block_on(ehr.read("Patient", "p")).unwrap().is_some());
    assert_eq!((stub.counts(), stub.asked_at(TOKEN_PATH).len()), ((1, 1), 1));
    // Several authorities in one file, such as a hospital's old and new one.
    let both = [pem("stranger.pem"), pem("hospital.pem")].concat();
    assert!(runtime().block_on(open(&stub, identity("gateway"), Some(both)).read("Patient", "p")).unwrap().is_some());
}

#[test]
fn each_failure_of_tls_is_one_clear_sentence_and_nothing_is_sent() {
    let table = [
        ("server", true, None, Some("hospital"), "asks for a client certificate"),
        ("server", true, Some("impostor"), Some("hospital"), "does not accept our client certificate"),
        ("server", false, None, None, "an authority that this machine does not know"),
        ("server", false, None, Some("stranger"), "an authority that this machine does not know"),
        ("elsewhere", false, None, Some("hospital"), "certificate is for another host"),
        ("expired", false, None, Some("hospital"), "has expired"),
    ];
    for (certificate, asks, ours, authority, says) in table {
        let stub = server(certificate, asks);
        let authorities = authority.map(|name| pem(&format!("{name}.pem")));
        let with_token = open(&stub, ours.and_then(identity), authorities.clone());
        let tls = Tls { identity: ours.and_then(identity), authorities };
        let without = Ehr::open_with(&stub.base_url(), Access { tls, ..Access::default() }).unwrap();
        for ehr in [with_token, without] {
            let error = error_of(runtime().block_on(ehr.read("Patient", "p")));
            assert!(matches!(error, EhrError::Retry { status: None, .. }), "{error:?}");
            assert!(error.to_string().contains(says), "{certificate} {asks} {ours:?} {authority:?}: {error}");
            let error = runtime().block_on(ehr.send("POST", "Flag", &[], "{}")).unwrap_err();
            assert!(matches!(error, EhrError::Retry { status: None, .. }), "never that it may have been applied: {error:?}");
        }
        assert!(stub.asked().is_empty(), "{says}");
    }
}

#[test]
fn a_certificate_without_its_key_is_no_identity() {
    let no_key = Some(pem("gateway.pem"));
    let other_key = Some([pem("gateway.pem"), pem("server.key")].concat());
    for identity in [no_key, other_key, Some(b"nothing".to_vec())] {
        let access = Access { tls: Tls { identity, authorities: None }, ..Access::default() };
        assert_eq!(Ehr::open_with("https://localhost:1/fhir", access).map(|_| ()).unwrap_err(), AddressError::ClientCertificate);
    }
    let access = Access { tls: Tls { identity: None, authorities: Some(b"nothing".to_vec()) }, ..Access::default() };
    assert_eq!(Ehr::open_with("https://localhost:1/fhir", access).map(|_| ()).unwrap_err(), AddressError::Authorities);
}
