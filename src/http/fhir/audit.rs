//! Who looked at whom, and what was sent where, as AuditEvents in the manner of IHE's Basic Audit Log Patterns: read from
//! the rows that were written when it happened. For admins.

use actix_web::HttpResponse;

use super::history::range;
use super::read::{Page, patient_id};
use crate::fhir::study_flagged::{self, Audit, Interaction};
use crate::http::asked::Asked;
use crate::http::error::Refusal;
use crate::pipeline::Pipeline;
use crate::pipeline::notify::instant;
use crate::store::audit::{self, Done, Query, What};
use crate::store::versions;

/// `?date=ge2026-11-01&patient=id&agent=name`, newest first.
pub(super) async fn search(pipeline: &Pipeline, asked: &Asked, page: &Page, site: &str, server: &str) -> Result<HttpResponse, Refusal> {
    let (from_ms, until_ms) = asked.get("date").map(range).transpose()?.unwrap_or_default();
    let query = Query {
        site: site.to_owned(),
        from_ms,
        until_ms,
        subject: patient_id(asked, &["patient"]).unwrap_or_default().to_owned(),
        who: asked.get("agent").unwrap_or_default().to_owned(),
        page: page.page,
        limit: page.count,
    };
    let next_query = Query { page: page.page + 1, ..query.clone() };
    let (found, has_more) = pipeline
        .store
        .read(move |tx| {
            let found = audit::done(tx, &query)?;
            let has_more = query.limit != 0 && found.len() == query.limit && !audit::done(tx, &next_query)?.is_empty();
            Ok((found, has_more))
        })
        .await?;
    let ehr = pipeline.receivers.get(site).map_or("the EHR", |receiver| receiver.base_url.as_str());
    let shown = found.iter().map(|done| (done.id.clone(), event(done, server, ehr).into_bytes())).collect();
    page.answer(asked, None, shown, has_more.then(|| vec![("page", (page.page + 1).to_string())]))
}

fn event(done: &Done, server: &str, ehr: &str) -> String {
    let recorded = instant(done.at_ms);
    let patient = (!done.subject.is_empty()).then(|| format!("Patient/{}", done.subject));
    let study = Some(done.study.as_str()).filter(|study| !study.is_empty());
    let subject = study.map(|study| format!("ResearchSubject/{}", versions::resource_id(study, &done.subject)));
    let plain = Audit {
        id: Some(&done.id),
        is_test: false,
        interaction: Interaction::Read,
        recorded: &recorded,
        failure: None,
        person: None,
        client: "nephrogate",
        client_address: None,
        server,
        patient: patient.as_deref(),
        resource: None,
        query: None,
        study,
        request: None,
    };
    match &done.what {
        What::Access { who, action } => {
            let interaction = interaction(action);
            let is_search = interaction == Interaction::Search;
            let resource = subject.as_deref().or(patient.as_deref()).filter(|_| !is_search);
            // Subscribers are told without asking: nobody looked.
            let person = Some(who.as_str()).filter(|_| action != "notify");
            study_flagged::audit_event(Audit {
                interaction,
                person,
                client: who,
                resource,
                query: Some(action.as_str()).filter(|_| is_search),
                ..plain
            })
        }
        What::Attempt { method, resource, status } => {
            let interaction = match method.as_str() {
                "POST" => Interaction::Create,
                "DELETE" => Interaction::Delete,
                _ => Interaction::Update,
            };
            let failure = (!(200..300).contains(status)).then(|| format!("the EHR answered {status}"));
            study_flagged::audit_event(Audit { interaction, server: ehr, resource: Some(resource), failure: failure.as_deref(), ..plain })
        }
    }
}

/// What an action of the record comes to in REST: one subject's data read or changed, or many looked through.
fn interaction(action: &str) -> Interaction {
    match action {
        "decide" => Interaction::Update,
        _ if action.starts_with("search") || action.starts_with("list") || action.starts_with("history") => Interaction::Search,
        "quarantine" | "safety" | "visits" | "report" | "release preview" | "write-back" | "events" => Interaction::Search,
        _ => Interaction::Read,
    }
}
