//! Refusals of the web door: one type, shown as an OperationOutcome under /fhir, as a JSON problem (RFC 9457)
//! under /api, and as a plain page elsewhere. Knows no handler. What the client reads never holds a patient's value.

use std::borrow::Cow;
use std::fmt;

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpResponse, HttpResponseBuilder, ResponseError};
use serde::Serialize;

use crate::fhir::build;
use crate::fhir::build::parts::{Coding, Concept, OutcomeIssue};
use crate::issue::{Code, Disposition, Effect, Issue};
use crate::pipeline::intake::Untaken;
use crate::store::StoreError;

/// A request that is not answered as asked: what is wrong, and what to do.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub status: StatusCode,
    /// What is wrong, in a sentence part without a full stop.
    pub sentence: Cow<'static, str>,
    /// What to do about it.
    pub hint: Cow<'static, str>,
    pub issues: Vec<Issue>,
    pub retry_after_s: Option<u32>,
    /// On a 405: the methods that are taken.
    pub allow: Option<Box<str>>,
    /// On a 409 of a decision: the hash of the evidence as it is now.
    pub current_evidence_hash: Option<Box<str>>,
}

impl Refusal {
    pub fn new(status: StatusCode, sentence: impl Into<Cow<'static, str>>, hint: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal {
            status,
            sentence: sentence.into(),
            hint: hint.into(),
            issues: Vec::new(),
            retry_after_s: None,
            allow: None,
            current_evidence_hash: None,
        }
    }

    pub fn bad_request(sentence: impl Into<Cow<'static, str>>, hint: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, sentence, hint)
    }

    pub fn not_found(sentence: impl Into<Cow<'static, str>>, hint: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal::new(StatusCode::NOT_FOUND, sentence, hint)
    }

    pub fn conflict(sentence: impl Into<Cow<'static, str>>, hint: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal::new(StatusCode::CONFLICT, sentence, hint)
    }

    /// The gateway cannot take this now, and says when to come again.
    pub fn busy(sentence: &'static str, retry_after_s: u32) -> Refusal {
        let mut refusal = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, sentence, "send the same again later; what was taken twice counts once");
        refusal.retry_after_s = Some(retry_after_s);
        refusal
    }

    /// A message that was rejected: the status follows from its first rejecting issue.
    pub fn rejected(issues: Vec<Issue>) -> Refusal {
        let code = issues.iter().map(|issue| issue.code).find(|code| code.effect() == Effect::Reject).unwrap_or(Code::Shape);
        Refusal { issues, ..Refusal::new(rejection_status(code), code.meaning(), code.action()) }
    }
}

/// 400 for what is not FHIR JSON, 413 for what is too large, 422 for FHIR that breaks its profile.
pub fn rejection_status(code: Code) -> StatusCode {
    match code {
        Code::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Code::Shape | Code::MixedReleases | Code::InvalidDate | Code::InvalidNumber => StatusCode::UNPROCESSABLE_ENTITY,
        Code::TopicUnknown | Code::FilterUnknown | Code::EndpointNotAllowed | Code::ChannelUnsupported => StatusCode::UNPROCESSABLE_ENTITY,
        _ => StatusCode::BAD_REQUEST,
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.sentence, self.hint)
    }
}

impl std::error::Error for Refusal {}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Refusal {
        tracing::error!(%error, "the store refused");
        match error {
            StoreError::Retry(_) => Refusal::busy("the store is busy", 2),
            StoreError::Full(_) => Refusal::busy("the store has no room, and nothing was taken", 60),
            StoreError::Broken(_) => Refusal::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the store is not usable",
                "tell whoever runs this gateway; nothing was taken by this request",
            ),
        }
    }
}

impl From<Untaken> for Refusal {
    fn from(untaken: Untaken) -> Refusal {
        match untaken {
            Untaken::TooMuch => Refusal::busy("too much is waiting to be taken", 5),
            Untaken::Stopping => Refusal::busy("the gateway is stopping", 10),
            Untaken::Store(error) => error.into(),
        }
    }
}

impl ResponseError for Refusal {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    /// Rendered by [`render`] once the address is known.
    fn error_response(&self) -> HttpResponse {
        HttpResponse::new(self.status)
    }
}

/// Who reads the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Face {
    Fhir,
    Api,
    Page,
}

impl Face {
    pub fn of(path: &str) -> Face {
        if path == "/fhir" || path.starts_with("/fhir/") || path.starts_with("/notify/") {
            Face::Fhir
        } else if path.starts_with("/api/") || super::cds::is_here(path) || matches!(path, "/openapi.json" | "/healthz" | "/.well-known/jwks.json") {
            Face::Api
        } else {
            Face::Page
        }
    }
}

/// One refusal as the reader of this address understands it.
pub fn render(face: Face, refusal: &Refusal) -> HttpResponse {
    let mut answer = HttpResponseBuilder::new(refusal.status);
    if let Some(seconds) = refusal.retry_after_s {
        answer.insert_header((header::RETRY_AFTER, seconds.to_string()));
    }
    if let Some(methods) = &refusal.allow {
        answer.insert_header((header::ALLOW, methods.as_ref()));
    }
    if refusal.status == StatusCode::UNAUTHORIZED {
        answer.insert_header((header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"nephrogate\"")));
    }
    match face {
        Face::Fhir => answer.content_type(FHIR_JSON).body(Outcome::of_refusal(refusal).to_json()),
        Face::Api => answer.content_type("application/problem+json").body(to_json(&Problem {
            problem_type: "about:blank",
            title: &refusal.sentence,
            status: refusal.status.as_u16(),
            detail: &refusal.hint,
            issues: &refusal.issues,
            current_evidence_hash: refusal.current_evidence_hash.as_deref(),
        })),
        Face::Page => answer.content_type("text/html; charset=utf-8").body(page(refusal)),
    }
}

/// The code system of our issue codes; docs/issues.md lists them.
const ISSUE_SYSTEM: &str = "urn:nephrogate:issue";

pub const FHIR_JSON: &str = "application/fhir+json; charset=utf-8";

/// Serialises one of our own shapes; they hold nothing that can fail.
pub fn to_json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("our own shapes are plain JSON")
}

fn page(refusal: &Refusal) -> String {
    let title = escape(&refusal.sentence);
    let hint = escape(&refusal.hint);
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
         <link rel=\"stylesheet\" href=\"/assets/style.css\"></head><body><main><h1>{title}</h1><p>{hint}.</p><p><a href=\"/\">Back to the list</a></p></main></body></html>"
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// RFC 9457, with our issue codes.
#[derive(Serialize)]
struct Problem<'a> {
    #[serde(rename = "type")]
    problem_type: &'static str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "<[Issue]>::is_empty")]
    issues: &'a [Issue],
    #[serde(skip_serializing_if = "Option::is_none")]
    current_evidence_hash: Option<&'a str>,
}

/// An OperationOutcome, as issues that are still to be written.
#[derive(Clone, Debug)]
pub struct Outcome(Vec<OutcomeIssue>);

impl Outcome {
    pub fn of_refusal(refusal: &Refusal) -> Outcome {
        if refusal.issues.is_empty() {
            return Outcome::single("error", refusal_code(refusal.status), &format!("{}; {}", refusal.sentence, refusal.hint));
        }
        Outcome(refusal.issues.iter().map(of_issue).collect())
    }

    /// What became of a message that was taken; its issues, or one word of information.
    pub fn of_disposition(disposition: Disposition, issues: &[Issue]) -> Outcome {
        let mut lines: Vec<OutcomeIssue> = issues.iter().map(of_issue).collect();
        let (severity, text) = match disposition {
            Disposition::Applied => ("information", "taken"),
            Disposition::Duplicate => ("information", "taken before: the same bytes of the same resource"),
            Disposition::Superseded => ("information", "kept as history: a newer version was here already"),
            Disposition::Quarantined => ("warning", "kept, but not used until the mapping or the data is mended"),
            Disposition::Rejected => ("error", "refused; only a hash and the reason were kept"),
            Disposition::OutOfScope => ("information", "not a type or code this gateway looks at: counted, not kept"),
            Disposition::Echo => ("information", "written by this gateway itself: not evidence"),
        };
        let is_said_by_issues = matches!(disposition, Disposition::Quarantined | Disposition::Rejected) && !lines.is_empty();
        if !is_said_by_issues {
            lines.push(line(severity, if severity == "information" { "informational" } else { "business-rule" }, text));
        }
        Outcome(lines)
    }

    pub fn single(severity: &str, code: &str, text: &str) -> Outcome {
        Outcome(vec![line(severity, code, text)])
    }

    /// What is wrong or was noted in several places, behind one line that says what it came to.
    pub fn of_issues(severity: &str, code: &str, text: &str, issues: &[Issue]) -> Outcome {
        Outcome(std::iter::once(line(severity, code, text)).chain(issues.iter().map(of_issue)).collect())
    }

    /// The OperationOutcome itself.
    pub fn to_json(&self) -> Vec<u8> {
        build::operation_outcome(&self.0).unwrap_or_else(|error| {
            tracing::error!(%error, "an OperationOutcome could not be built");
            br#"{"resourceType":"OperationOutcome","issue":[{"severity":"error","code":"exception"}]}"#.to_vec()
        })
    }
}

fn line(severity: &str, code: &str, text: &str) -> OutcomeIssue {
    OutcomeIssue {
        severity: severity.to_owned(),
        code: code.to_owned(),
        details: Some(Concept { codings: Vec::new(), text: Some(text.to_owned()) }),
        ..OutcomeIssue::default()
    }
}

fn of_issue(issue: &Issue) -> OutcomeIssue {
    let severity = match issue.code.effect() {
        Effect::Reject => "error",
        Effect::Quarantine => "warning",
        Effect::Warn => "information",
    };
    let coding = Coding { system: ISSUE_SYSTEM.to_owned(), code: issue.code.word().to_owned(), display: None };
    OutcomeIssue {
        severity: severity.to_owned(),
        code: fhir_code(issue.code).to_owned(),
        details: Some(Concept { codings: vec![coding], text: Some(format!("{}; {}", issue.code.meaning(), issue.code.action())) }),
        diagnostics: issue.detail.clone().filter(|detail| !detail.trim().is_empty()),
        expression: if issue.path.is_empty() { Vec::new() } else { vec![issue.path.clone()] },
    }
}

/// FHIR's own issue-type for one of our codes (http://hl7.org/fhir/issue-type, R4).
fn fhir_code(code: Code) -> &'static str {
    match code {
        Code::NotJson | Code::NotUtf8 | Code::DuplicateKey | Code::EmptyElement | Code::NullValue | Code::Shape | Code::MixedReleases => "structure",
        Code::TooDeep | Code::TooLarge => "too-long",
        Code::ControlCharacter | Code::InvalidId | Code::InvalidDate | Code::InvalidNumber => "value",
        Code::WrongResourceType | Code::InvalidBundle => "invalid",
        Code::TopicUnknown | Code::FilterUnknown | Code::ChannelUnsupported => "not-supported",
        Code::EndpointNotAllowed => "security",
        Code::NotHl7V2 | Code::FieldUnreadable | Code::CharsetUnknown => "structure",
        Code::ZoneMissing => "required",
        Code::EventNotFollowed => "not-supported",
        Code::IdentityMissing | Code::UnitMissing | Code::TimeMissing => "required",
        Code::UnknownModifier => "extension",
        Code::CodeUnmapped | Code::UnitUnmapped | Code::OrdinalUnmapped | Code::ArmUnmapped | Code::StatusUnknown => "code-invalid",
        Code::VersionConflict => "conflict",
        Code::Internal => "exception",
        Code::MergeCycle | Code::MergeWithTest | Code::CodeConflict | Code::UnitConflict | Code::Implausible | Code::NotANumber => "business-rule",
        Code::AmbiguousEquation => "business-rule",
        Code::NoValue | Code::UnknownElement | Code::FutureDated | Code::ValueIgnored => "informational",
        Code::AxisUnmapped | Code::DoseUncounted => "informational",
    }
}

/// A resource that could not be built is our bug: it is logged, and answered without its text.
impl From<build::BuildError> for Refusal {
    fn from(error: build::BuildError) -> Refusal {
        tracing::error!(%error, "a resource could not be built");
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the gateway failed on this request", "tell whoever runs this gateway")
    }
}

fn refusal_code(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => "login",
        403 => "forbidden",
        404 => "not-found",
        405 | 415 | 501 => "not-supported",
        408 | 503 => "transient",
        409 | 412 => "conflict",
        413 => "too-long",
        500 => "exception",
        _ => "invalid",
    }
}
