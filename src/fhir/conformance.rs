//! The conformance resources of profiles/ (StructureDefinition, ValueSet, ...) as far as the catalogue looks into them: what
//! each is and by which address others name it. What they say is judged by HL7's validator in the tests.

use super::RawResource;
use super::tree::Tree;

/// One conformance resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conformance {
    pub resource_type: String,
    pub id: String,
    /// Its canonical address; a NamingSystem of R4 has none.
    pub url: Option<String>,
}

/// Reads a file of profiles/; the error is a sentence part.
pub fn read(text: &str) -> Result<Conformance, String> {
    let resource = RawResource::parse(text.as_bytes()).map_err(|issue| issue.to_string())?;
    let id = resource.id.ok_or("it has no id")?;
    let url = match Tree::read(resource.text()).member("url") {
        Some(Tree::Text(url)) => Some(url.to_string()),
        Some(_) => return Err("its url is no text".to_owned()),
        None => None,
    };
    Ok(Conformance { resource_type: resource.resource_type.to_owned(), id: id.to_owned(), url })
}
