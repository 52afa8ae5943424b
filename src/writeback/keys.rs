//! Our identifiers in an EHR: keyed hashes that say nothing to whoever lacks the key (rulings.md 26).

use aws_lc_rs::hmac;

use crate::digest::hex;

/// The identifier of one thing we write: HMAC-SHA256 over site, study, subject and kind, 64 hex digits.
/// The same for ever, so that a retry or a second gateway meets what the first one wrote.
pub fn identifier(key: &[u8; 32], site: &str, study: &str, subject: &str, kind: &str) -> String {
    let mut message = Vec::new();
    for part in [site, study, subject, kind] {
        // The length goes first, so that ("ab", "c") and ("a", "bc") differ.
        message.extend((part.len() as u64).to_be_bytes());
        message.extend(part.as_bytes());
    }
    hex(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), &message).as_ref())
}

/// The id we choose where the receiver lets us: `ng-` and 192 bits of the identifier. HAPI FHIR refuses ids without a
/// letter, and FHIR allows 64 characters.
pub fn own_id(identifier: &str) -> String {
    format!("ng-{}", &identifier[..48])
}
