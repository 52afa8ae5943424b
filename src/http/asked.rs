//! What API requests ask, and the answers they share: query parameters, known names, refusals.

use actix_web::web;
use actix_web::{FromRequest, HttpRequest, HttpResponse};
use serde::Serialize;

use super::error::{Refusal, to_json};
use super::openapi::{Answer, Parameter};
use crate::catalogue::Catalogue;
use crate::study::Study;

pub const JSON: &str = "application/json";
pub const PROBLEM: &str = "application/problem+json";
pub const NOT_FOUND: Answer = Answer::json(404, PROBLEM, "Problem", "unknown study, site, subject or message");
pub const BAD_REQUEST: Answer = Answer::json(400, PROBLEM, "Problem", "a parameter or field that is not served, or not as described");
pub const NOT_JSON: Answer = Answer::json(415, PROBLEM, "Problem", "another content type");
pub const BUSY: Answer = Answer::json(503, PROBLEM, "Problem", "come again after Retry-After");

pub const PAGE_PARAMETER: &[Parameter] = &[Parameter::query("page", r#"{"type":"integer","minimum":0,"maximum":1000000}"#, "from 0")];

/// The query of a request, each parameter at most once.
pub struct Asked(Vec<(String, String)>);

impl FromRequest for Asked {
    type Error = Refusal;
    type Future = std::future::Ready<Result<Asked, Refusal>>;

    fn from_request(request: &HttpRequest, _: &mut actix_web::dev::Payload) -> Self::Future {
        let pairs = web::Query::<Vec<(String, String)>>::from_query(request.query_string());
        let asked = pairs.map_err(|_| Refusal::bad_request("the query cannot be read", "send name=value pairs, percent-encoded"));
        std::future::ready(asked.and_then(|pairs| Asked::of(pairs.into_inner())))
    }
}

impl Asked {
    /// What was asked in another way than by a query.
    pub fn of(pairs: Vec<(String, String)>) -> Result<Asked, Refusal> {
        let is_twice = pairs.iter().enumerate().any(|(index, (name, _))| pairs[..index].iter().any(|(other, _)| other == name));
        if is_twice { Err(Refusal::bad_request("a parameter stands twice", "send each parameter once")) } else { Ok(Asked(pairs)) }
    }

    /// The value of a parameter; an empty one is none.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, value)| known == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }

    pub fn number(&self, name: &'static str, default: usize) -> Result<usize, Refusal> {
        match self.get(name) {
            None => Ok(default),
            Some(text) => text
                .parse()
                .ok()
                .filter(|number| *number <= 1_000_000)
                .ok_or_else(|| Refusal::bad_request(format!("{name} is not a whole number from 0 to 1000000"), "leave it out for the first page")),
        }
    }

    /// Refuses parameters that are not served: one that is silently ignored would show more than was asked for.
    pub fn only(&self, names: &[&str], more: &[&str]) -> Result<(), Refusal> {
        if self.0.iter().all(|(name, _)| names.contains(&name.as_str()) || more.contains(&name.as_str())) {
            return Ok(());
        }
        Err(Refusal::bad_request("a parameter that is not served here", format!("this address takes {}", names.join(", "))))
    }

    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

pub fn json<T: Serialize>(value: &T) -> HttpResponse {
    HttpResponse::Ok().content_type(JSON).body(to_json(value))
}

pub fn no_such_study() -> Refusal {
    Refusal::not_found("this gateway has no such study", "GET /api/studies names them")
}

pub fn no_such_site() -> Refusal {
    Refusal::not_found("this gateway has no such site", "use the site id of the configuration")
}

pub fn no_such_subject() -> Refusal {
    Refusal::not_found("nobody is judged under this id in this study at this site", "look the subject up in the list; the route names study and site")
}

pub fn known_study<'a>(catalogue: &'a Catalogue, study: &str) -> Result<&'a Study, Refusal> {
    catalogue.studies.get(study).map(|study| study.as_ref()).ok_or_else(no_such_study)
}

pub fn known_site(catalogue: &Catalogue, site: &str) -> Result<(), Refusal> {
    if catalogue.sites.contains_key(site) { Ok(()) } else { Err(no_such_site()) }
}
