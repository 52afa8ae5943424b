//! HL7 v2 as bytes: cut by its own delimiters, turned into FHIR R4 resources by what a site says of its messages, and
//! acknowledged. Knows no ledger, no network, no clock and no mapping of codes; names of persons are not read.

pub mod ack;
mod charset;
pub mod conventions;
mod convert;
mod encounter;
mod er7;
mod observation;
mod patient;
mod resource;
mod time;

pub use charset::Charset;
pub use conventions::Conventions;
pub use convert::{Converted, Resource, convert};
pub use er7::{is_batch, is_message, messages};

/// `meta.tag` system of a resource that states only what stands in it, as messages do: what it leaves out is as it was.
pub const PART_SYSTEM: &str = "urn:nephrogate:hl7-v2";
/// Its code.
pub const PART_CODE: &str = "part";
/// Extension of such a Patient: a record that it is no longer replaced by.
pub const NOT_REPLACED_BY: &str = "urn:nephrogate:hl7-v2:not-replaced-by";

/// What the FHIR system of a coding system begins with that the site's mapping does not know by its v2 name.
pub const CODING_SYSTEM: &str = "urn:nephrogate:hl7-v2:coding-system:";
