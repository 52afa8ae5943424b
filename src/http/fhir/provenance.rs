//! Why something is there: the Provenance of a ResearchSubject that we show, or of a resource that we wrote to the EHR,
//! built from the judgement that was kept when it was made.

use super::history::audience;
use super::read::{Page, mirrored};
use crate::fhir::is_id;
use crate::fhir::study_flagged::{self, Identity, Provenance, Target};
use crate::http::access::{self, Person};
use crate::http::asked::Asked;
use crate::http::error::Refusal;
use crate::pipeline::Pipeline;
use crate::pipeline::notify::instant;
use crate::rules::Role;
use crate::store::screening::{self, Judgement};
use crate::store::versions::{self, Audience};
use crate::store::{StoreError, Tx, audit};

use actix_web::HttpResponse;

/// One target, and the judgement that it goes back to.
struct Found {
    judgement: Judgement,
    is_retraction: bool,
    recorded_ms: i64,
}

/// `?target=ResearchSubject/id` or any other resource of ours, such as `Flag/ng-...`.
pub(super) async fn search(pipeline: &Pipeline, asked: &Asked, page: &Page, site: &str, person: &Person) -> Result<HttpResponse, Refusal> {
    let no_target =
        || Refusal::bad_request("a Provenance is asked for by its target", "add target=ResearchSubject/id, or target=Flag/ng-... and the like");
    let (kind, id) = asked.get("target").and_then(|target| target.split_once('/')).filter(|(_, id)| is_id(id)).ok_or_else(no_target)?;
    let (at, of_kind, of_id, audience) = (site.to_owned(), kind.to_owned(), id.to_owned(), audience(person));
    let found = pipeline.store.read(move |tx| find(tx, audience, &at, &of_kind, &of_id)).await?;
    let Some(found) = found else { return page.answer(asked, Some(0), Vec::new(), None) };
    let judgement = &found.judgement;
    access::record(&pipeline.store, person, "read Provenance", &judgement.assessment.study, vec![(site.to_owned(), judgement.subject.clone())])
        .await?;
    let organization = pipeline.receivers.get(site).map_or(site, |receiver| receiver.organization.as_str());
    let (target, own_id) = (format!("{kind}/{id}"), crate::digest::sha256_hex(format!("{kind}/{id} {}", judgement.number).as_bytes()));
    let identity = Identity { id: Some(&own_id), identifiers: &[], is_test: false };
    let sources = sources(judgement);
    let provenance = study_flagged::provenance(
        identity,
        Provenance {
            target: Target::Literal(&target),
            recorded: &instant(found.recorded_ms),
            activity: if found.is_retraction { "NULLIFY" } else { "UPDATE" },
            on_behalf_of: organization,
            sources: &sources,
            files: &[("study.json", &judgement.assessment.study_hash), ("mapping.json", &judgement.mapping_hash)],
        },
    );
    page.answer(asked, Some(1), vec![(own_id, provenance.into_bytes())], None)
}

fn find(tx: &mut Tx<'_>, audience: Audience, site: &str, kind: &str, id: &str) -> Result<Option<Found>, StoreError> {
    if kind == "ResearchSubject"
        && let Some(version) = versions::newest(tx, audience, site, id)?
    {
        let judgement = screening::judgement(tx, version.judgement)?;
        return Ok(judgement.filter(|_| version.status.is_some()).map(|judgement| Found {
            judgement,
            is_retraction: !version.is_standing,
            recorded_ms: version.at_ms,
        }));
    }
    let Some(written) = audit::written_from(tx, site, kind, id)? else { return Ok(None) };
    let judgement = screening::judgement_at(tx, site, &written.subject, &written.study, written.planned_ms)?;
    Ok(judgement.map(|judgement| Found { judgement, is_retraction: written.is_retraction, recorded_ms: written.planned_ms }))
}

/// The results that counted, each once, with their versions.
fn sources(judgement: &Judgement) -> Vec<String> {
    let mut sources = Vec::new();
    for evidence in judgement.assessment.criteria.iter().flat_map(|criterion| &criterion.evidence).filter(|evidence| evidence.role == Role::Used) {
        if evidence.resource.split_once('/').is_none_or(|(kind, _)| mirrored(kind).is_none()) {
            continue;
        }
        let source = match evidence.version.as_deref().filter(|version| is_id(version)) {
            Some(version) => format!("{}/_history/{version}", evidence.resource),
            None => evidence.resource.clone(),
        };
        if !sources.contains(&source) {
            sources.push(source);
        }
    }
    sources
}
