//! The Group of each study at the sites whose EHRs are told by one: planned from where all subjects stand, not one by one.

use std::collections::BTreeSet;

use super::{Pipeline, receivers};
use crate::store::{StoreError, Tx, outbox, standings};
use crate::study::Study;
use crate::writeback::{self, Member, Mode, Receiver, WriteBack, Written};

/// Plans the Groups of these sites anew, where one must change.
pub fn plan<'s>(pipeline: &Pipeline, now_ms: i64, sites: impl IntoIterator<Item = &'s str>) -> Result<(), StoreError> {
    let sites: BTreeSet<&str> = sites.into_iter().collect();
    for contract in sites.iter().filter_map(|site| pipeline.receivers.get(*site)) {
        let site = contract.site.as_str();
        for study in pipeline.catalogue.studies_of_site.get(site).map(Vec::as_slice).unwrap_or_default() {
            // Most sites have no Group: they are not worth a write.
            if pipeline.store.read_blocking(|tx| due(tx, contract, study))?.is_none() {
                continue;
            }
            pipeline.store.write_blocking(|tx| match due(tx, contract, study)? {
                Some((request, shadow)) => outbox::enqueue(tx, site, "", &study.id, shadow, now_ms, &[request]),
                None => Ok(()),
            })?;
        }
    }
    Ok(())
}

/// The request that is due, and whether it has to wait for a release.
fn due(tx: &mut Tx<'_>, contract: &Receiver, study: &Study) -> Result<Option<(WriteBack, bool)>, StoreError> {
    let receiver = receivers::of(tx, contract)?;
    let written: Vec<Written> = outbox::written(tx, &receiver.site, "", &study.id)?;
    if !writeback::needs_group(&receiver, study, &written) {
        return Ok(None);
    }
    let request = with_members(tx, &receiver, study, |members| writeback::plan_group(&receiver, study, members, &written))?;
    let shadow = receiver.mode == Mode::Shadow && outbox::released(tx, &receiver.site, &study.id)?.is_none();
    Ok(request.map(|request| (request, shadow)))
}

/// The look before a Group is sent: whether nobody has left since it was planned.
pub(super) fn is_still_wanted(tx: &mut Tx<'_>, receiver: &Receiver, study: &Study, request: &WriteBack) -> Result<bool, StoreError> {
    with_members(tx, receiver, study, |members| writeback::is_group_still_wanted(receiver, study, members, request))
}

fn with_members<T>(tx: &mut Tx<'_>, receiver: &Receiver, study: &Study, ask: impl FnOnce(&[Member<'_>]) -> T) -> Result<T, StoreError> {
    let standings = standings::of_study(tx, &receiver.site, &study.id)?;
    let members: Vec<Member<'_>> =
        standings.iter().map(|(subject, standing)| Member { subject, membership: writeback::membership(receiver, *standing) }).collect();
    Ok(ask(&members))
}
