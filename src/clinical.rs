//! The study model's words: analytes and units, partial dates, facts, and one subject's chart.
//!
//! Everything a verdict can rest on is spelled here, in the field's terms. Knows nothing about FHIR, sites,
//! studies or stores; no clock, no IO.

pub mod chart;
pub mod date;
pub mod fact;
pub mod quantity;
pub mod statement;
pub mod version;
