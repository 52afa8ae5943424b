//! The request that starts an export: its address and parameters, by GET or as a Parameters resource by POST. Pure.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

/// Whose data is exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    System,
    Patient,
    Group,
}

/// How an export is started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// By GET, which servers up to STU3 must take; by POST where that is refused, as STU4 has it.
    #[default]
    Either,
    Get,
    Post,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export<'a> {
    pub level: Level,
    /// Of level group.
    pub group: &'a str,
    pub types: &'a [String],
    pub type_filters: &'a [String],
    pub since: Option<&'a str>,
    pub is_partial_welcome: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Parameters<'a> {
    resource_type: &'static str,
    parameter: Vec<Parameter<'a>>,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Parameter<'a> {
    name: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_string: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_instant: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_boolean: Option<bool>,
}

/// The format that every server knows by its whole name.
const NDJSON: &str = "application/fhir+ndjson";

impl Export<'_> {
    /// Relative to the FHIR base.
    fn path(&self) -> String {
        match self.level {
            Level::System => "$export".to_owned(),
            Level::Patient => "Patient/$export".to_owned(),
            Level::Group => format!("Group/{}/$export", self.group),
        }
    }

    /// The address of a GET. Types stand in one list, as all releases have it and some servers insist; filters stand alone,
    /// since a comma may be part of one.
    pub fn by_get(&self) -> String {
        let types = self.types.join(",");
        let mut query = vec![("_outputFormat", NDJSON)];
        query.extend(self.since.map(|since| ("_since", since)));
        query.extend((!types.is_empty()).then_some(("_type", types.as_str())));
        query.extend(self.type_filters.iter().map(|filter| ("_typeFilter", filter.as_str())));
        query.extend(self.is_partial_welcome.then_some(("allowPartialManifests", "true")));
        let mut url = self.path();
        for (place, (name, value)) in query.into_iter().enumerate() {
            let _ = write!(url, "{}{name}={}", if place == 0 { '?' } else { '&' }, encoded(value));
        }
        url
    }

    /// The address and the body of a POST.
    pub fn by_post(&self) -> (String, String) {
        let types = self.types.join(",");
        let text = |name, value| Parameter { name, value_string: Some(value), ..Parameter::default() };
        let mut parameter = vec![text("_outputFormat", NDJSON)];
        parameter.extend(self.since.map(|since| Parameter { name: "_since", value_instant: Some(since), ..Parameter::default() }));
        parameter.extend((!types.is_empty()).then(|| text("_type", types.as_str())));
        parameter.extend(self.type_filters.iter().map(|filter| text("_typeFilter", filter)));
        let partial = Parameter { name: "allowPartialManifests", value_boolean: Some(true), ..Parameter::default() };
        parameter.extend(self.is_partial_welcome.then_some(partial));
        let body = serde_json::to_string(&Parameters { resource_type: "Parameters", parameter }).expect("texts are JSON");
        (self.path(), body)
    }

    /// What names this question among others: one that is put otherwise begins anew.
    pub fn question(&self) -> String {
        let mut types: Vec<&str> = self.types.iter().map(String::as_str).collect();
        types.sort_unstable();
        format!("{} {} {}", self.path(), types.join(","), self.type_filters.join(" "))
    }
}

/// A value as it stands in a query: all but unreserved characters (RFC 3986) are escaped.
fn encoded(value: &str) -> String {
    let mut text = String::new();
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}
