//! The private keys that we sign with, from PEM files, and their public parts as a JSON Web Key Set. A file is read each
//! time it is needed, so that a key that was replaced counts without a restart. Knows nothing about what is signed.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use jsonwebtoken::jwk::{Jwk, JwkSet, PublicKeyUse, ThumbprintHash};
use jsonwebtoken::{EncodingKey, Header};
use serde::{Deserialize, Serialize};

use super::access::AccessTrouble;

/// The two algorithms that SMART App Launch 2.2 knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Algorithm {
    #[serde(rename = "ES384")]
    Es384,
    #[serde(rename = "RS384")]
    Rs384,
}

impl Algorithm {
    pub const fn word(self) -> &'static str {
        match self {
            Algorithm::Es384 => "ES384",
            Algorithm::Rs384 => "RS384",
        }
    }

    /// How such a key is made.
    pub const fn recipe(self) -> &'static str {
        match self {
            Algorithm::Es384 => "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out FILE",
            Algorithm::Rs384 => "openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:3072 -out FILE",
        }
    }

    const fn of_library(self) -> jsonwebtoken::Algorithm {
        match self {
            Algorithm::Es384 => jsonwebtoken::Algorithm::ES384,
            Algorithm::Rs384 => jsonwebtoken::Algorithm::RS384,
        }
    }
}

impl std::fmt::Display for Algorithm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.word())
    }
}

/// Where one private key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFile {
    /// PEM, PKCS#8.
    pub file: PathBuf,
    pub algorithm: Algorithm,
    /// Without it, the key's thumbprint (RFC 7638), which changes with the key.
    pub kid: Option<String>,
}

/// One private key, read.
pub struct Key {
    pub kid: String,
    pub algorithm: Algorithm,
    private: EncodingKey,
    public: Jwk,
}

impl KeyFile {
    pub fn read(&self) -> Result<Key, AccessTrouble> {
        let file = || self.file.display().to_string();
        let unfit = || AccessTrouble::KeyUnfit { file: file(), algorithm: self.algorithm };
        let pem = std::fs::read(&self.file).map_err(|_| AccessTrouble::KeyUnreadable { file: file() })?;
        let private = match self.algorithm {
            Algorithm::Es384 => EncodingKey::from_ec_pem(&pem),
            Algorithm::Rs384 => EncodingKey::from_rsa_pem(&pem),
        };
        let private = private.map_err(|_| unfit())?;
        // This reads the key itself: another curve, a short RSA key or the public half are found out here.
        let mut public = Jwk::from_encoding_key(&private, self.algorithm.of_library()).map_err(|_| unfit())?;
        let kid = match &self.kid {
            Some(kid) => kid.clone(),
            None => public.thumbprint(ThumbprintHash::SHA256).map_err(|_| unfit())?,
        };
        public.common.key_id = Some(kid.clone());
        public.common.public_key_use = Some(PublicKeyUse::Signature);
        Ok(Key { kid, algorithm: self.algorithm, private, public })
    }
}

impl Key {
    /// These claims as a signed JWT, with `alg`, `kid` and `typ`.
    pub fn sign(&self, claims: &impl Serialize) -> Option<String> {
        let header = Header { kid: Some(self.kid.clone()), ..Header::new(self.algorithm.of_library()) };
        jsonwebtoken::encode(&header, claims, &self.private).ok()
    }
}

/// The public parts of these keys as a JSON Web Key Set (RFC 7517); a key that stands twice is published once.
pub fn published<'a>(files: impl IntoIterator<Item = &'a KeyFile>) -> Result<String, AccessTrouble> {
    let mut kids = BTreeSet::new();
    let mut set = JwkSet::default();
    for file in files {
        let key = file.read()?;
        if kids.insert(key.kid) {
            set.keys.push(key.public);
        }
    }
    Ok(serde_json::to_string(&set).expect("a set of keys is JSON"))
}

/// How long a set that was read is given out: whoever asks often must not make us read files as often.
const READ_EVERY: Duration = Duration::from_secs(5);

/// Our public keys, as they are given out.
pub struct Published {
    files: Vec<KeyFile>,
    held: Mutex<Option<(Instant, String)>>,
}

impl Published {
    pub fn new(files: Vec<KeyFile>) -> Published {
        Published { files, held: Mutex::default() }
    }

    /// The set as JSON; the one that was given out last, where a file cannot be read now.
    pub fn text(&self, now: Instant) -> Result<String, AccessTrouble> {
        // A text stays a text, whoever panicked.
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((read, text)) = held.as_ref()
            && now < *read + READ_EVERY
        {
            return Ok(text.clone());
        }
        match (published(&self.files), held.as_mut()) {
            (Ok(text), _) => {
                *held = Some((now, text.clone()));
                Ok(text)
            }
            (Err(error), Some((read, text))) => {
                tracing::error!(%error, "our public keys are given out as they were");
                *read = now;
                Ok(text.clone())
            }
            (Err(error), None) => Err(error),
        }
    }
}
