//! One Group of the subjects of one study at one site: not planned subject by subject, but from all who may be told about.
//!
//! Whoever has to leave leaves at once: a plan that takes somebody out adds nobody, so that neither the kill switch nor
//! shadow holds it back. Whoever is to come in comes with the plan after it.

use serde::Deserialize;

use super::super::ladder::Rung;
use super::super::{Member, Membership, Purpose, Receiver, WriteBack, Written};
use super::case::{build, key};
use super::request::{Wanted, due};
use crate::digest::sha256_hex;
use crate::fhir::study_flagged;
use crate::study::Study;

/// The part of our own Group that is read again.
#[derive(Deserialize)]
struct Held {
    #[serde(default)]
    member: Vec<HeldMember>,
}

#[derive(Deserialize)]
struct HeldMember {
    entity: Entity,
    #[serde(default)]
    inactive: bool,
}

#[derive(Deserialize)]
struct Entity {
    reference: String,
}

/// Members by our own record, in order.
fn held(body: &str) -> Vec<study_flagged::Member> {
    let held: Held = serde_json::from_str(body).unwrap_or(Held { member: Vec::new() });
    held.member.into_iter().map(|member| study_flagged::Member { patient: member.entity.reference, is_inactive: member.inactive }).collect()
}

/// Who belongs to it: members, and of those who took part the ones that are in it already. Sorted.
fn belonging(members: &[Member<'_>], held: &[study_flagged::Member]) -> Vec<study_flagged::Member> {
    let mut all: Vec<study_flagged::Member> = members
        .iter()
        .filter_map(|member| {
            let patient = format!("Patient/{}", member.subject);
            let is_inactive = match member.membership {
                Membership::Member => false,
                Membership::TookPart if held.iter().any(|held| held.patient == patient) => true,
                Membership::TookPart | Membership::None => return None,
            };
            Some(study_flagged::Member { patient, is_inactive })
        })
        .collect();
    all.sort_by(|a, b| a.patient.cmp(&b.patient));
    all.dedup_by(|a, b| a.patient == b.patient);
    all
}

/// The request that is due so that the Group holds who belongs to it, if any.
pub fn plan_group(receiver: &Receiver, study: &Study, members: &[Member<'_>], written: &[Written]) -> Option<WriteBack> {
    let key = key(receiver, study, "", "Group");
    let before = written.iter().find(|before| before.key == key);
    let is_on_ladder = receiver.ladder.rung == Some(Rung::Group);
    let stood = before.map(|before| held(&before.body)).unwrap_or_default();
    let belonging = if is_on_ladder { belonging(members, &stood) } else { Vec::new() };
    let is_in = |all: &[study_flagged::Member], one: &study_flagged::Member| all.iter().any(|other| other.patient == one.patient);
    let is_somebody_leaving = stood
        .iter()
        .any(|stood| !is_in(&belonging, stood) || (!stood.is_inactive && belonging.iter().any(|b| b.patient == stood.patient && b.is_inactive)));
    let is_leaving_on_its_way = before.is_some_and(|before| before.is_pending && !before.is_standing);
    let (purpose, members) = if is_somebody_leaving || !is_on_ladder || is_leaving_on_its_way {
        (Purpose::Retract, belonging.into_iter().filter(|one| is_in(&stood, one)).collect())
    } else {
        (Purpose::Annotate, belonging)
    };
    if before.is_none() && members.is_empty() {
        return None;
    }
    let content = content(receiver, study, &key, is_on_ladder, &members);
    let hash = sha256_hex(content.as_bytes());
    due(receiver, Wanted::resource("Group", key, purpose, content, hash), written)
}

/// Whether a Group that waits to be sent holds nobody who no longer belongs to it. One that takes somebody out goes
/// whatever else has changed.
pub fn is_group_still_wanted(receiver: &Receiver, study: &Study, members: &[Member<'_>], request: &WriteBack) -> bool {
    let key = key(receiver, study, "", "Group");
    let sent = held(&request.body);
    key == request.key
        && match request.purpose {
            Purpose::Retract => true,
            Purpose::Annotate => {
                receiver.ladder.rung == Some(Rung::Group) && {
                    let belonging = belonging(members, &sent);
                    sent.iter().all(|one| belonging.contains(one))
                }
            }
        }
}

fn content(receiver: &Receiver, study: &Study, key: &str, is_active: bool, members: &[study_flagged::Member]) -> String {
    let name = format!("Research study: subjects of {}", study.title);
    build(receiver, key, |identity| study_flagged::group(identity, is_active, &name, members))
}
