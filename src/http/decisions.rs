//! The door of decisions: what a named person sends, checked and turned into a word of the study.

use actix_web::http::Method;
use actix_web::web::{self, Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use super::Route;
use super::access::{Person, Who, now_ms};
use super::asked::{BAD_REQUEST, BUSY, JSON, NOT_FOUND, NOT_JSON, PROBLEM, known_site, known_study, no_such_subject};
use super::body::{self, Limits};
use super::error::{Refusal, to_json};
use super::openapi::{Answer, Says};
use crate::clinical::date::PartialDate;
use crate::clinical::fact::{AdverseEvent, Decided, DecidedState, Decision, EventAxes, Relatedness, Relation};
use crate::pipeline::Pipeline;
use crate::pipeline::decide::{self, DecideError};
use crate::rules::safety::OUTCOMES;
use crate::rules::state::NotPossible;

/// Longest reason of a decision, in characters.
const REASON_MAX: usize = 2_000;

pub fn routes() -> Vec<Route> {
    const DECISIONS: &str = "/api/studies/{study}/sites/{site}/subjects/{id}/decisions";
    vec![Route::described(
        Method::POST,
        DECISIONS,
        Who::Screener,
        Says::new(
            "A named person's decision; it is appended, never edited",
            &[
                Answer::json(201, JSON, "DecisionTaken", "taken, and judged again"),
                BAD_REQUEST,
                NOT_FOUND,
                Answer::json(408, PROBLEM, "Problem", "the body did not arrive in time"),
                Answer::json(409, PROBLEM, "Problem", "the evidence changed meanwhile, or the subject's state does not allow it"),
                Answer::json(413, PROBLEM, "Problem", "too large"),
                NOT_JSON,
                BUSY,
            ],
        )
        .takes(&[JSON], "Decision"),
        || web::post().to(decide_by_api),
    )]
}

/// What a person decides, as it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DecisionKind {
    Attestation,
    Consent,
    OptOut,
    State,
    Dose,
    EventRecorded,
    EventAxes,
    EventReported,
    Candidate,
}

/// The axes of an event, as they are sent; what is left out stays as it is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WantedAxes {
    pub term: Option<String>,
    pub grade: Option<u8>,
    pub is_serious: Option<bool>,
    pub seriousness_criteria: Option<Vec<String>>,
    pub relation: Option<Relation>,
    pub is_expected: Option<bool>,
    pub outcome: Option<String>,
    pub onset: Option<String>,
    pub resolved: Option<String>,
    pub is_dose_limiting: Option<bool>,
}

/// Longest name of an event, in characters.
const TERM_MAX: usize = 200;

fn date_of(text: &str, field: &'static str) -> Result<PartialDate, Refusal> {
    let hint = "write YYYY-MM-DD, or an instant such as 2026-11-01T12:00:00Z";
    PartialDate::parse(text).map_err(|_| Refusal::bad_request(format!("{field} is not a FHIR date"), hint))
}

impl WantedAxes {
    fn axes(&self) -> Result<EventAxes, Refusal> {
        if self.grade.is_some_and(|grade| !(1..=5).contains(&grade)) {
            return Err(Refusal::bad_request("there is no such grade", "CTCAE grades are 1 to 5"));
        }
        if self.outcome.as_deref().is_some_and(|outcome| !OUTCOMES.contains(&outcome)) {
            return Err(Refusal::bad_request("there is no such outcome", format!("use one of {}", OUTCOMES.join(", "))));
        }
        let date = |text: &Option<String>, field| text.as_deref().map(|text| date_of(text, field)).transpose();
        let term = self.term.as_deref().map(str::trim).filter(|term| !term.is_empty());
        if term.is_some_and(|term| term.chars().count() > TERM_MAX) {
            return Err(Refusal::bad_request("the name of the event is too long", format!("use at most {TERM_MAX} characters")));
        }
        Ok(EventAxes {
            term: term.map(CompactString::from),
            grade: self.grade,
            is_serious: self.is_serious,
            seriousness_criteria: self.seriousness_criteria.as_ref().map(|codes| codes.iter().map(CompactString::from).collect()),
            relation: self.relation,
            is_expected: self.is_expected,
            outcome: self.outcome.as_deref().map(CompactString::from),
            onset: date(&self.onset, "onset")?,
            resolved: date(&self.resolved, "resolved")?,
            is_dose_limiting: self.is_dose_limiting,
        })
    }

    /// An event that the trial's own people record, on that day.
    fn event(&self, study: &str, recorded_ms: i64) -> Result<AdverseEvent, Refusal> {
        let EventAxes { term, grade, is_serious, seriousness_criteria, relation, is_expected, outcome, onset, resolved, is_dose_limiting } =
            self.axes()?;
        let term = term.ok_or_else(|| Refusal::bad_request("an event needs a name", "give term"))?;
        let assessed = |relation: Relation| Relatedness {
            suspect: CompactString::default(),
            is_study_product: true,
            code: CompactString::const_new(relation.word()),
            relation: Some(relation),
        };
        Ok(AdverseEvent {
            grade,
            is_serious,
            seriousness_criteria: seriousness_criteria.unwrap_or_default(),
            is_expected,
            relatedness: relation.map(assessed).into_iter().collect(),
            outcome,
            onset,
            recorded: Some(PartialDate::instant(recorded_ms)),
            resolved,
            is_dose_limiting,
            studies: vec![study.into()],
            ..AdverseEvent::named(term)
        })
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    pub kind: DecisionKind,
    #[serde(default)]
    pub criterion: Option<String>,
    #[serde(default)]
    pub passes: Option<bool>,
    #[serde(default)]
    pub given: Option<bool>,
    #[serde(default)]
    pub opted_out: Option<bool>,
    #[serde(default)]
    pub to: Option<DecidedState>,
    /// Of a dose.
    #[serde(default)]
    pub arm: Option<String>,
    #[serde(default)]
    pub given_at: Option<String>,
    #[serde(default)]
    pub cells: Option<f64>,
    /// `AdverseEvent/7`, as the course names it.
    #[serde(default)]
    pub event: Option<String>,
    #[serde(default)]
    pub axes: Option<WantedAxes>,
    #[serde(default)]
    pub clock: Option<String>,
    #[serde(default)]
    pub reported_at: Option<String>,
    #[serde(default)]
    pub candidate: Option<String>,
    #[serde(default)]
    pub is_event: Option<bool>,
    pub reason: String,
    /// Of the criterion for an attestation, of the event or candidate for what is said of one, of the card otherwise.
    #[serde(default)]
    pub evidence_hash: String,
}

impl Wanted {
    /// A decision with no fields of its kind yet.
    pub fn new(kind: DecisionKind, reason: impl Into<String>) -> Wanted {
        Wanted {
            kind,
            criterion: None,
            passes: None,
            given: None,
            opted_out: None,
            to: None,
            arm: None,
            given_at: None,
            cells: None,
            event: None,
            axes: None,
            clock: None,
            reported_at: None,
            candidate: None,
            is_event: None,
            reason: reason.into(),
            evidence_hash: String::new(),
        }
    }

    fn what(&self, study: &str, now_ms: i64) -> Result<Decided, Refusal> {
        let lacks = |field: &'static str| Refusal::bad_request(format!("this kind of decision needs {field}"), "see Decision in /openapi.json");
        let text = |value: &Option<String>, field| value.as_deref().map(CompactString::from).ok_or_else(|| lacks(field));
        Ok(match self.kind {
            DecisionKind::Attestation => Decided::Attestation {
                criterion: CompactString::from(self.criterion.as_deref().ok_or_else(|| lacks("criterion"))?),
                passes: self.passes.ok_or_else(|| lacks("passes"))?,
            },
            DecisionKind::Consent => Decided::Consent { given: self.given.ok_or_else(|| lacks("given"))? },
            DecisionKind::OptOut => Decided::OptOut { opted_out: self.opted_out.ok_or_else(|| lacks("opted_out"))? },
            DecisionKind::State => Decided::State { to: self.to.ok_or_else(|| lacks("to"))? },
            DecisionKind::Dose if self.cells.is_some_and(|cells| !cells.is_finite() || cells <= 0.0) => {
                return Err(Refusal::bad_request("cells is not a number of cells", "give how many cells were infused, or leave it out"));
            }
            DecisionKind::Dose => {
                Decided::Dose { arm: text(&self.arm, "arm")?, given: date_of(&text(&self.given_at, "given_at")?, "given_at")?, cells: self.cells }
            }
            DecisionKind::EventRecorded => {
                Decided::EventRecorded { event: Box::new(self.axes.as_ref().ok_or_else(|| lacks("axes"))?.event(study, now_ms)?) }
            }
            DecisionKind::EventAxes => {
                Decided::EventAxes { event: text(&self.event, "event")?, axes: Box::new(self.axes.as_ref().ok_or_else(|| lacks("axes"))?.axes()?) }
            }
            DecisionKind::EventReported => Decided::EventReported {
                event: text(&self.event, "event")?,
                clock: text(&self.clock, "clock")?,
                at: date_of(&text(&self.reported_at, "reported_at")?, "reported_at")?,
            },
            DecisionKind::Candidate => {
                Decided::Candidate { candidate: text(&self.candidate, "candidate")?, is_event: self.is_event.ok_or_else(|| lacks("is_event"))? }
            }
        })
    }
}

/// What a decision led to.
#[derive(Clone, Debug, Serialize)]
pub struct DecisionTaken {
    /// Number of the message it entered as.
    pub message: Option<i64>,
    pub prescreen: String,
    pub eligibility: String,
    pub state: String,
    /// Of the card as it is now.
    pub evidence_hash: String,
}

async fn decide_by_api(
    path: Path<(String, String, String)>,
    request: HttpRequest,
    payload: web::Payload,
    person: Person,
    pipeline: Data<Pipeline>,
    limits: Data<Limits>,
) -> Result<HttpResponse, Refusal> {
    let (study, site, subject) = path.into_inner();
    let wanted: Wanted = body::need_json(&request, payload, &limits, "Decision").await?;
    let taken = take_decision(&pipeline, &study, &site, &subject, &person.name, wanted).await?;
    Ok(HttpResponse::Created().content_type(JSON).body(to_json(&taken)))
}

/// Takes a decision: what was seen must still be so, and the state must allow it. It enters as an inbound message, and
/// the subject is judged again before this answers. The pages' forms come here too.
pub async fn take_decision(pipeline: &Pipeline, study: &str, site: &str, subject: &str, by: &str, wanted: Wanted) -> Result<DecisionTaken, Refusal> {
    known_study(&pipeline.catalogue, study)?;
    known_site(&pipeline.catalogue, site)?;
    let now_ms = now_ms();
    let what = wanted.what(study, now_ms)?;
    let reason = wanted.reason.trim();
    if reason.is_empty() || reason.chars().count() > REASON_MAX {
        return Err(Refusal::bad_request("a decision needs a reason", format!("say why, in at most {REASON_MAX} characters")));
    }
    let decision = Decision {
        study: study.into(),
        by: by.into(),
        reason: reason.to_owned(),
        at_ms: now_ms,
        evidence_seen: wanted.evidence_hash.as_str().into(),
        what,
    };
    let (pipeline, site, subject) = (pipeline.clone(), site.to_owned(), subject.to_owned());
    let taken = web::block(move || decide::decide(&pipeline, &site, &subject, &decision))
        .await
        .map_err(|_| Refusal::busy("the gateway is stopping", 10))??;
    Ok(DecisionTaken {
        message: taken.receipt.message,
        prescreen: taken.card.row.prescreen,
        eligibility: taken.card.row.eligibility,
        state: taken.card.row.state,
        evidence_hash: taken.card.assessment.evidence_hash(),
    })
}

impl From<DecideError> for Refusal {
    fn from(error: DecideError) -> Refusal {
        let not_possible = match error {
            DecideError::NoSuchSubject => return no_such_subject(),
            DecideError::Store(error) => return error.into(),
            DecideError::NotPossible(not_possible) => not_possible,
        };
        match not_possible {
            NotPossible::NoSuch(what) => {
                Refusal::bad_request(format!("there is no such {what}"), "the card and GET /api/studies/{study}/safety name what there is")
            }
            NotPossible::Contradiction(words) => Refusal::bad_request(words, "mend one of the two"),
            NotPossible::EvidenceChanged { current } => Refusal {
                current_evidence_hash: Some(current.into()),
                ..Refusal::conflict("the evidence is not the evidence that was seen", "look at the card again, and decide on what it says now")
            },
            NotPossible::DataDecide => Refusal::conflict(
                "the data already decide this criterion",
                "an attestation answers only what is unknown; mend the data at the source",
            ),
            NotPossible::State(state) => {
                Refusal::conflict("the subject's state does not allow this step", format!("the subject's state is {}", state.word()))
            }
        }
    }
}
