//! Why a resource is there: who wrote it, from which versions of which results, by which rules.

use fhirbolt::model::r4::Resource;
use fhirbolt::model::r4::resources::{Provenance as R4Provenance, ProvenanceAgent, ProvenanceEntity};
use fhirbolt::model::r4::types::Reference;

use super::{Identity, Target, concept, identifier, reference, tagged_meta, text};

/// `identifier.system` of a file that is named by the SHA-256 of its bytes.
const CONTENT_HASH_SYSTEM: &str = "urn:nephrogate:content-sha256";

/// What a Provenance says.
#[derive(Clone, Copy, Debug)]
pub struct Provenance<'a> {
    pub target: Target<'a>,
    /// FHIR instant.
    pub recorded: &'a str,
    /// Code of v3-DataOperation: `CREATE`, `UPDATE` or `NULLIFY`.
    pub activity: &'a str,
    /// Name of the organisation on whose behalf the gateway writes.
    pub on_behalf_of: &'a str,
    /// References to the results that counted, with their version where the source has one.
    pub sources: &'a [String],
    /// (name, SHA-256 in hex) of the files that decided: the study's rules, the site's mapping.
    pub files: &'a [(&'a str, &'a str)],
}

/// A Provenance by this gateway. R4 gives it no identifier: ours stands as a tag.
pub fn provenance(identity: Identity<'_>, of: Provenance<'_>) -> String {
    let source = |what: Box<Reference>| ProvenanceEntity { role: "source".into(), what, ..Default::default() };
    let file = |(name, hash): &(&str, &str)| Reference {
        identifier: Some(Box::new(identifier((CONTENT_HASH_SYSTEM, hash)))),
        display: Some((*name).into()),
        ..Default::default()
    };
    let results = of.sources.iter().map(|result| source(reference(Target::Literal(result))));
    let files = of.files.iter().map(|named| source(Box::new(file(named))));
    text(Resource::Provenance(Box::new(R4Provenance {
        id: identity.id.map(Into::into),
        meta: tagged_meta(identity),
        target: vec![*reference(of.target)],
        recorded: of.recorded.into(),
        activity: Some(Box::new(concept("http://terminology.hl7.org/CodeSystem/v3-DataOperation", of.activity))),
        agent: vec![ProvenanceAgent {
            r#type: Some(Box::new(concept("http://terminology.hl7.org/CodeSystem/provenance-participant-type", "assembler"))),
            who: reference(Target::Display("Device", "nephrogate")),
            on_behalf_of: Some(reference(Target::Display("Organization", of.on_behalf_of))),
            ..Default::default()
        }],
        entity: results.chain(files).collect(),
        ..Default::default()
    })))
}
