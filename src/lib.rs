//! nephrogate: a FHIR gateway for kidney trials. Floors, from the ground up, are listed in ARCHITECTURE.md and
//! held apart by `tests/it/floors.rs`.

pub mod app;
pub mod catalogue;
pub mod cli;
pub mod clinical;
pub mod config;
pub mod digest;
pub mod egfr;
pub mod ehr;
pub mod escape;
pub mod feeds;
pub mod fhir;
pub mod hl7;
pub mod http;
pub mod issue;
pub mod mapping;
pub mod pipeline;
pub mod report;
pub mod rules;
pub mod store;
pub mod study;
pub mod writeback;
