//! `receiver.json`: what one hospital's EHR takes from us, from when on, and how. Secrets stand elsewhere; the file
//! names their environment variables.

use serde::Deserialize;

use super::ladder::{Ladder, Rung};
use super::{Annotates, Beside, Mode, Receiver, Takes, WriteFrom};

/// The file, as `profiles/receiver.schema.json` describes it.
#[derive(Clone, Debug, Deserialize)]
pub struct Settings {
    /// Why, who agreed, when.
    pub note: String,
    /// FHIR base; absent where the command line gives it (the demo).
    #[serde(default)]
    pub base_url: Option<String>,
    pub mode: Mode,
    pub write_from: WriteFrom,
    pub update_creates: bool,
    pub deletes: bool,
    /// Best first.
    pub rungs: Vec<Rung>,
    #[serde(default)]
    pub beside: Beside,
    #[serde(default)]
    pub annotates: Vec<Annotates>,
    #[serde(default)]
    pub takes: Takes,
    pub organization: String,
    #[serde(default)]
    pub tag_test: bool,
    /// Environment variable that holds the secret of our identifiers.
    #[serde(default)]
    pub identifier_key_env: Option<String>,
    /// Environment variable that holds a bearer token, where the EHR asks for one.
    #[serde(default)]
    pub bearer_token_env: Option<String>,
}

impl Settings {
    /// Reads a text that passed its schema.
    pub fn read(json: &str) -> Result<Settings, serde_json::Error> {
        serde_json::from_str(json)
    }

    /// The receiver of a site, with its base address and the key of its identifiers.
    pub fn receiver(&self, site: &str, base_url: &str, identifier_key: [u8; 32]) -> Receiver {
        Receiver {
            site: site.to_owned(),
            base_url: base_url.trim_end_matches('/').to_owned(),
            mode: self.mode,
            write_from: self.write_from,
            update_creates: self.update_creates,
            rungs: self.rungs.clone(),
            beside: self.beside,
            annotates: self.annotates.clone(),
            takes: self.takes.clone(),
            identifier_key,
            tag_test: self.tag_test,
            deletes: self.deletes,
            organization: self.organization.clone(),
            why_url: None,
            ladder: Ladder::of_contract(&self.rungs),
        }
    }
}
