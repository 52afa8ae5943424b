//! HL7 v2 messages on their way into the ledger: the message itself, and every resource that it says, prepared by the same
//! code that reads a FHIR feed.

use std::panic::{AssertUnwindSafe, catch_unwind};

use compact_str::CompactString;

use super::receive;
use crate::catalogue::Catalogue;
use crate::digest::sha256_hex;
use crate::hl7::{self, Converted};
use crate::issue::{Code, Disposition, Effect, Issue};
use crate::mapping::Site;
use crate::store::body;
use crate::store::ledger::Prepared;

/// Everything about one message that needs no store. Never panics: a panic below becomes `internal`, and the message is kept.
pub fn prepare(catalogue: &Catalogue, site: &Site, bytes: &[u8]) -> Prepared {
    let prepared = catch_unwind(AssertUnwindSafe(|| read(catalogue, site, bytes))).unwrap_or_else(|_| {
        tracing::error!(site = site.id, "an HL7 v2 message could not be read because of a fault of ours; it is kept");
        let refused = Prepared::rejected("HL7-v2", bytes, &site.hash, vec![Issue::new(Code::Internal, "")]);
        Prepared { id: Some(id_of(None, &refused.body_hash)), disposition: Disposition::Quarantined, ..refused }
    });
    let is_kept = matches!(prepared.disposition, Disposition::Applied | Disposition::Quarantined);
    Prepared { body: if is_kept { body::pack_plain(bytes) } else { Vec::new() }, ..prepared }
}

fn read(catalogue: &Catalogue, site: &Site, bytes: &[u8]) -> Prepared {
    let Converted { message_type, control_id, subject, resources, mut issues } = match hl7::convert(bytes, site.hl7_v2.as_ref()) {
        Ok(converted) => converted,
        Err(issue) => return Prepared::rejected("-", bytes, &site.hash, vec![issue]),
    };
    let (mut derived, mut asides) = (Vec::new(), Vec::new());
    for resource in resources {
        let prepared = receive::prepare(catalogue, site, &resource.json);
        if prepared.disposition == Disposition::Rejected {
            // What a message says in a way that no resource can is wrong with the message, which is kept.
            issues.extend(prepared.issues);
        } else if resource.is_aside {
            asides.push(prepared);
        } else {
            derived.push(prepared);
        }
    }
    let has_ours = derived.iter().any(|prepared| prepared.disposition != Disposition::OutOfScope);
    if has_ours {
        derived.splice(0..0, asides);
    }
    let is_faulted = issues.iter().any(|issue| issue.code.effect() != Effect::Warn);
    let disposition = if is_faulted {
        Disposition::Quarantined
    } else if has_ours {
        Disposition::Applied
    } else {
        Disposition::OutOfScope
    };
    let body_hash = sha256_hex(bytes);
    Prepared {
        id: Some(id_of(control_id.as_deref(), &body_hash)),
        code: (disposition == Disposition::OutOfScope).then(|| message_type.clone()),
        resource_type: message_type,
        version: None,
        last_updated_ms: None,
        body_hash,
        body: Vec::new(),
        subject: subject.map(CompactString::from),
        fact: None,
        issues,
        disposition,
        mapping_hash: site.hash.clone(),
        derived,
    }
}

/// MSH-10 with the beginning of the bytes' hash: senders that begin to count anew, or never count, tell no two messages apart.
fn id_of(control_id: Option<&str>, body_hash: &str) -> String {
    let short = &body_hash[..16];
    match control_id {
        // HL7 allows 199 characters from 2.5 on.
        Some(id) => format!("{}-{short}", id.chars().take(199).collect::<String>()),
        None => short.to_owned(),
    }
}
