//! One integration binary; each module tests one door.

mod bad_input;
mod counterparts;
mod crash;
mod deliver;
mod egfr;
mod facts;
mod fhir;
mod fhir_api;
mod floors;
mod gateway;
mod http;
mod import;
mod intake;
mod issues;
mod killed_delivery;
mod laws;
mod mapping;
mod pages;
mod rules;
mod screen;
mod statistics;
mod stores;
mod trial_intake;
mod trial_outcome;
mod trial_safety;
mod writeback;
