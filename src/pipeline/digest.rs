//! The digest of a site: every subject's chart is folded and judged anew as of one time, in parallel, and nothing is written.
//! What stands in it is said in `rules/digest.rs`.

use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use super::Pipeline;
use crate::clinical::date::AsOf;
use crate::rules;
use crate::rules::digest::Digest;
use crate::store::ledger::{self, Extent};
use crate::store::{StoreError, Tx};

/// Subjects whose facts one read transaction loads.
const SUBJECTS_PER_READ: usize = 64;

/// A site's digest, and how far its charts had come meanwhile.
pub struct OfSite {
    pub digest: Digest,
    pub extent: Extent,
    /// Something came while the charts were read: this digest is of no one moment.
    pub has_moved: bool,
}

/// Digests one site as of a time. `tell` hears how many subjects of how many are done. Waits for the store: never from an
/// async task. A panic of ours while one subject is judged ends it, since a digest without them would seem whole.
pub fn of_site(pipeline: &Pipeline, site: &str, as_of: AsOf, tell: &(dyn Fn(usize, usize) + Sync)) -> Result<OfSite, StoreError> {
    let (before, subjects) = pipeline.store.read_blocking(|tx| Ok((ledger::extent(tx, site)?, ledger::subjects(tx, site)?)))?;
    let done = AtomicUsize::new(0);
    let digest = subjects
        .par_chunks(SUBJECTS_PER_READ)
        .map(|part| {
            let loaded = pipeline.store.read_blocking(|tx| load(tx, site, part))?;
            let mut digest = Digest::default();
            for (subject, facts) in loaded {
                add(&mut digest, pipeline, site, subject, facts, as_of);
            }
            tell(done.fetch_add(part.len(), Ordering::Relaxed) + part.len(), subjects.len());
            Ok(digest)
        })
        .try_reduce(Digest::default, |one, other| Ok(one.join(other)))?;
    let extent = pipeline.store.read_blocking(|tx| ledger::extent(tx, site))?;
    Ok(OfSite { digest, has_moved: (before.subjects, before.revisions) != (extent.subjects, extent.revisions), extent })
}

fn load<'s>(tx: &mut Tx<'_>, site: &str, subjects: &'s [String]) -> Result<Vec<(&'s str, ledger::SubjectFacts)>, StoreError> {
    subjects.iter().map(|subject| Ok((subject.as_str(), ledger::facts(tx, site, subject)?))).collect()
}

fn add(digest: &mut Digest, pipeline: &Pipeline, site: &str, subject: &str, facts: ledger::SubjectFacts, as_of: AsOf) {
    let studies = pipeline.catalogue.studies_of_site.get(site).map(Vec::as_slice).unwrap_or_default();
    if let Some(into) = &facts.merged_into {
        digest.add_merged(subject, into, studies.iter().map(|study| study.id.as_str()));
        return;
    }
    let chart = pipeline.catalogue.sites[site].chart(facts.facts);
    let assessments: Vec<_> = studies.iter().map(|study| rules::assess(study, &chart, as_of)).collect();
    digest.add(subject, &chart, &assessments);
}
