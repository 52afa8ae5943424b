//! How the endpoints of a configuration are reached: `authorization` and `tls`, with every secret read from the environment
//! variable or file that is named. A fault tells where, and what to write there.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Config, ReceiverEntry, SourceEntry};
use crate::catalogue::Fault;
use crate::ehr::access::{Access, Credentials, Tls};
use crate::ehr::signing::{Algorithm, KeyFile};
use crate::ehr::smart;
use crate::ehr::{AddressError, Ehr};

/// How requests say who sends them.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthorizationEntry {
    Bearer(BearerEntry),
    Basic(BasicEntry),
    Smart(SmartEntry),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BearerEntry {
    #[serde(default)]
    token_env: Option<String>,
    #[serde(default)]
    token_file: Option<PathBuf>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BasicEntry {
    user: String,
    #[serde(default)]
    password_env: Option<String>,
    #[serde(default)]
    password_file: Option<PathBuf>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SmartEntry {
    client_id: String,
    scopes: Vec<String>,
    #[serde(default)]
    token_endpoint: Option<String>,
    keys: Vec<KeyEntry>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyEntry {
    #[serde(default, rename = "note")]
    _note: Option<String>,
    file: PathBuf,
    algorithm: Algorithm,
    #[serde(default)]
    kid: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointTls {
    #[serde(default, rename = "note")]
    _note: Option<String>,
    #[serde(default)]
    certificate_file: Option<PathBuf>,
    #[serde(default)]
    key_file: Option<PathBuf>,
    #[serde(default)]
    ca_file: Option<PathBuf>,
}

impl Config {
    /// The FHIR endpoint that a site is read from.
    pub fn source(&self, index: usize, entry: &SourceEntry) -> Result<Ehr, Fault> {
        let path = format!("/sites/{index}/source");
        let credentials = self.credentials(&path, entry.authorization.as_ref())?;
        let access = Access { credentials, tls: self.endpoint_tls(&path, entry.tls.as_ref())?, file_hosts: entry.file_hosts.clone() };
        Ok(self.endpoint(&path, &entry.base_url, access)?.paced(entry.requests_per_minute))
    }

    /// The FHIR endpoint that a site is written to; `token_there` is the environment variable that receiver.json names.
    pub fn receiver(&self, index: usize, entry: &ReceiverEntry, base_url: &str, token_there: Option<&str>) -> Result<Ehr, Fault> {
        let path = format!("/sites/{index}/receiver");
        let credentials = match &entry.authorization {
            Some(authorization) => self.credentials(&path, Some(authorization))?,
            None => self.bearer_token(index, entry, token_there)?.map_or(Credentials::None, Credentials::Bearer),
        };
        let access = Access { credentials, tls: self.endpoint_tls(&path, entry.tls.as_ref())?, file_hosts: Vec::new() };
        self.endpoint(&path, base_url, access)
    }

    /// The keys that any endpoint is signed for, to be published.
    pub fn own_keys(&self) -> Vec<KeyFile> {
        let of_site = self.sites.iter().flat_map(|site| {
            let source = site.source.as_ref().and_then(|source| source.authorization.as_ref());
            let receiver = site.receiver.as_ref().and_then(|receiver| receiver.authorization.as_ref());
            source.into_iter().chain(receiver)
        });
        let keys = of_site.flat_map(|authorization| match authorization {
            AuthorizationEntry::Smart(entry) => self.key_files(entry),
            AuthorizationEntry::Bearer(_) | AuthorizationEntry::Basic(_) => Vec::new(),
        });
        keys.collect()
    }

    fn endpoint(&self, path: &str, base_url: &str, access: Access) -> Result<Ehr, Fault> {
        Ehr::open_with(base_url, access).map_err(|error| {
            let (field, hint) = match error {
                AddressError::NotAnAddress | AddressError::NotEncrypted => ("base_url", "use the https address of the EHR's FHIR base"),
                AddressError::Token => ("authorization", "look for a line break or a colon that does not belong there"),
                AddressError::ClientCertificate => ("tls/certificate_file", "give PEM files: the certificate chain, and its key"),
                AddressError::Authorities => ("tls/ca_file", "give a PEM file of certificates"),
                AddressError::TokenEndpoint => ("authorization/smart/token_endpoint", "use the https address of the token endpoint"),
            };
            self.fault(format!("{path}/{field}"), error.to_string(), hint)
        })
    }

    fn credentials(&self, path: &str, authorization: Option<&AuthorizationEntry>) -> Result<Credentials, Fault> {
        let path = |field: &str| format!("{path}/authorization/{field}");
        match authorization {
            None => Ok(Credentials::None),
            Some(AuthorizationEntry::Bearer(entry)) => {
                Ok(Credentials::Bearer(self.secret(&path("bearer/token"), entry.token_env.as_deref(), entry.token_file.as_deref())?))
            }
            Some(AuthorizationEntry::Basic(entry)) => {
                let password = self.secret(&path("basic/password"), entry.password_env.as_deref(), entry.password_file.as_deref())?;
                Ok(Credentials::Basic { user: entry.user.clone(), password })
            }
            Some(AuthorizationEntry::Smart(entry)) => {
                let keys = self.key_files(entry);
                for (place, key) in keys.iter().enumerate() {
                    let hint = "without a key no token can be asked for; its public part is published at /.well-known/jwks.json";
                    key.read().map_err(|error| self.fault(path(&format!("smart/keys/{place}")), error.to_string(), hint))?;
                }
                let SmartEntry { client_id, scopes, token_endpoint, .. } = entry.clone();
                Ok(Credentials::Smart(smart::Settings { client_id, scopes, token_endpoint, keys }))
            }
        }
    }

    /// A secret by the name of an environment variable or file; the schema asks for one of both.
    fn secret(&self, path: &str, env: Option<&str>, file: Option<&Path>) -> Result<String, Fault> {
        match (env, file) {
            (Some(name), _) => self.env(format!("{path}_env"), name),
            (None, Some(file)) => self.secret_file(format!("{path}_file"), file),
            (None, None) => Err(self.fault(path, "the secret is not named", "name an environment variable or a file that holds it")),
        }
    }

    fn key_files(&self, entry: &SmartEntry) -> Vec<KeyFile> {
        entry.keys.iter().map(|key| KeyFile { file: self.path(&key.file), algorithm: key.algorithm, kid: key.kid.clone() }).collect()
    }

    fn endpoint_tls(&self, path: &str, entry: Option<&EndpointTls>) -> Result<Tls, Fault> {
        let Some(entry) = entry else { return Ok(Tls::default()) };
        let read = |field: &str, file: &PathBuf| {
            let file = self.path(file);
            let path = format!("{path}/tls/{field}");
            std::fs::read(&file).map_err(|error| {
                self.fault(path, format!("the file {} cannot be read: {error}", file.display()), "check its path and who may read it")
            })
        };
        let mut tls = Tls::default();
        if let (Some(certificate), Some(key)) = (&entry.certificate_file, &entry.key_file) {
            let mut pem = read("certificate_file", certificate)?;
            pem.push(b'\n');
            pem.extend(read("key_file", key)?);
            tls.identity = Some(pem);
        }
        if let Some(file) = &entry.ca_file {
            tls.authorities = Some(read("ca_file", file)?);
        }
        Ok(tls)
    }
}
