//! The forms of the pages: their fields by name, and a decision read from them. Knows what a field may say; what it leads
//! to is the business of the API's own functions.

use std::pin::Pin;
use std::str::FromStr;

use actix_web::{FromRequest, HttpRequest, web};
use serde::de::DeserializeOwned;
use serde::de::value::{Error as ValueError, StrDeserializer};

use super::text;
use crate::http::decisions::{DecisionKind, Wanted, WantedAxes};
use crate::http::error::Refusal;

/// The fields of a form; which ones count depends on `decision`. A field that stays empty says nothing.
pub struct Form(Vec<(String, String)>);

impl FromRequest for Form {
    type Error = actix_web::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Form, actix_web::Error>>>>;

    fn from_request(request: &HttpRequest, payload: &mut actix_web::dev::Payload) -> Self::Future {
        let fields = web::Form::<Vec<(String, String)>>::from_request(request, payload);
        Box::pin(async move { Ok(Form(fields.await?.into_inner())) })
    }
}

impl Form {
    fn all(&self, name: &'static str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.trim()).filter(|value| !value.is_empty())
    }

    pub fn text(&self, name: &'static str) -> Option<String> {
        self.all(name).next().map(str::to_owned)
    }

    /// One of the words of a type.
    pub fn word<T: DeserializeOwned>(&self, name: &'static str) -> Result<Option<T>, Refusal> {
        let read = |text: &str| T::deserialize(StrDeserializer::<ValueError>::new(text)).map_err(|_| unreadable(name));
        self.all(name).next().map(read).transpose()
    }

    pub fn number<T: FromStr>(&self, name: &'static str) -> Result<Option<T>, Refusal> {
        self.all(name).next().map(|text| text.parse().map_err(|_| unreadable(name))).transpose()
    }

    /// A day, and perhaps the time beside it.
    fn moment(&self, clock: &text::Clock, day: &'static str, time: &'static str) -> Result<Option<String>, Refusal> {
        match (self.text(day), self.text(time)) {
            (None, None) => Ok(None),
            (None, Some(_)) => Err(Refusal::bad_request("a time without its day", "give the day too")),
            (Some(on), at) => clock.moment(&on, at.as_deref()).map(Some).ok_or_else(|| unreadable(day)),
        }
    }

    pub fn wanted(&self, clock: &text::Clock) -> Result<Wanted, Refusal> {
        let kind = self.word("decision")?.ok_or_else(|| unreadable("decision"))?;
        let axes = match kind {
            DecisionKind::EventRecorded | DecisionKind::EventAxes => Some(self.axes(clock)?),
            DecisionKind::Attestation
            | DecisionKind::Consent
            | DecisionKind::OptOut
            | DecisionKind::State
            | DecisionKind::Dose
            | DecisionKind::EventReported
            | DecisionKind::Candidate => None,
        };
        Ok(Wanted {
            criterion: self.text("criterion"),
            passes: self.number("passes")?,
            given: self.number("given")?,
            opted_out: self.number("opted-out")?,
            to: self.word("to")?,
            arm: self.text("arm"),
            given_at: self.moment(clock, "given-at", "given-at-time")?,
            cells: self.number::<f64>("million-cells")?.map(|millions| millions * 1e6),
            event: self.text("event"),
            axes,
            clock: self.text("clock"),
            reported_at: self.moment(clock, "reported-at", "reported-at-time")?,
            candidate: self.text("candidate"),
            is_event: self.number("is-event")?,
            evidence_hash: self.text("evidence").unwrap_or_default(),
            ..Wanted::new(kind, self.text("reason").unwrap_or_default())
        })
    }

    fn axes(&self, clock: &text::Clock) -> Result<WantedAxes, Refusal> {
        let criteria: Vec<String> = self.all("criterion-of-seriousness").map(str::to_owned).collect();
        Ok(WantedAxes {
            term: self.text("term"),
            grade: self.number("grade")?,
            is_serious: self.number("is-serious")?,
            seriousness_criteria: (!criteria.is_empty()).then_some(criteria),
            relation: self.word("relation")?,
            is_expected: self.number("is-expected")?,
            outcome: self.text("outcome"),
            onset: self.moment(clock, "onset", "onset-time")?,
            resolved: self.moment(clock, "resolved", "resolved-time")?,
            is_dose_limiting: self.number("is-dose-limiting")?,
        })
    }
}

pub fn unreadable(field: &'static str) -> Refusal {
    Refusal::bad_request(format!("the field {field} cannot be read"), "use the form of this page")
}
