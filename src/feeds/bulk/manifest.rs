//! What a Bulk Data server says about an export: the manifest in the forms of STU1 to STU4, the OperationOutcomes of its
//! error files, and whether what a file begins with is NDJSON at all. Pure; knows neither addresses nor the network.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::{Deserialize, Serialize};

/// Files of one manifest; a server with more of them pages its manifests.
const FILES_MAX: usize = 100_000;

/// One page of an export's manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// `transactionTime`: all that had changed by then is in the files.
    pub transaction_ms: i64,
    /// Whether the files are fetched with our token; `None` where the server does not say.
    pub requires_access_token: Option<bool>,
    /// In the order in which they are taken: resources, deleted resources, messages.
    pub files: Vec<File>,
    /// Where more files are named.
    pub next: Option<String>,
}

/// One file of an export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    pub content: Content,
    /// Type of its resources, where it holds one type.
    pub resource_type: Option<String>,
    pub url: String,
    /// How many resources it holds, where the server says so.
    pub count: Option<u64>,
}

/// What the lines of a file are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    Resources,
    /// Transaction Bundles of DELETEs.
    Deleted,
    /// OperationOutcomes about the export.
    Outcomes,
}

/// Why an answer is no manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoManifest {
    #[error("the export's manifest is not JSON, such as a web page: a proxy or a sign-in page may stand before the EHR")]
    NotJson,
    #[error("the export's manifest lacks what the standard asks for: transactionTime, and files with an address each")]
    Shape,
    #[error("the export's transactionTime is not an instant")]
    Time,
    #[error("the export's files are not NDJSON")]
    Format,
    #[error("the export's manifest names more than {FILES_MAX} files")]
    TooMany,
}

/// `extension`, an object up to STU3 and a list in STU4, is passed over with all that is not known.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ManifestView {
    transaction_time: String,
    requires_access_token: Option<bool>,
    output_format: Option<String>,
    output: Option<Vec<FileView>>,
    deleted: Option<Vec<FileView>>,
    /// STU1 to STU3, and STU4 as balloted.
    error: Option<Vec<FileView>>,
    /// The name that a draft of STU4 has for it.
    outcome: Option<Vec<FileView>>,
    link: Option<Vec<LinkView>>,
}

#[derive(Deserialize)]
struct FileView {
    #[serde(rename = "type")]
    resource_type: Option<String>,
    url: String,
    count: Option<u64>,
}

#[derive(Deserialize)]
struct LinkView {
    relation: String,
    url: String,
}

/// Reads a manifest, or one page of it.
pub fn read(body: &str) -> Result<Manifest, NoManifest> {
    let is_object = serde_json::from_str::<BTreeMap<String, serde::de::IgnoredAny>>(body).is_ok();
    let view: ManifestView = serde_json::from_str(body).map_err(|_| if is_object { NoManifest::Shape } else { NoManifest::NotJson })?;
    let transaction_ms = view.transaction_time.parse::<jiff::Timestamp>().map_err(|_| NoManifest::Time)?.as_millisecond();
    if view.output_format.is_some_and(|format| !format.contains("ndjson")) {
        return Err(NoManifest::Format);
    }
    let of = |content: Content, files: Option<Vec<FileView>>| {
        files.unwrap_or_default().into_iter().map(move |file| File {
            content,
            resource_type: file.resource_type.filter(|_| content == Content::Resources),
            url: file.url,
            count: file.count,
        })
    };
    let files: Vec<File> = of(Content::Resources, view.output)
        .chain(of(Content::Deleted, view.deleted))
        .chain(of(Content::Outcomes, view.error))
        .chain(of(Content::Outcomes, view.outcome))
        .collect();
    if FILES_MAX < files.len() {
        return Err(NoManifest::TooMany);
    }
    Ok(Manifest {
        transaction_ms,
        requires_access_token: view.requires_access_token,
        files,
        next: view.link.unwrap_or_default().into_iter().find(|link| link.relation == "next").map(|link| link.url),
    })
}

/// What a server told beside an export: how often each severity and code. Its free text may name patients and is not read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    counts: BTreeMap<(Severity, &'static str), usize>,
    /// Lines that are no OperationOutcome, and files that could not be had.
    pub unreadable: usize,
}

/// `OperationOutcome.issue.severity`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Fatal,
    Error,
    Warning,
    Information,
    Success,
}

impl Severity {
    const ALL: [Severity; 5] = [Severity::Fatal, Severity::Error, Severity::Warning, Severity::Information, Severity::Success];

    pub const fn word(self) -> &'static str {
        match self {
            Severity::Fatal => "fatal",
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Information => "information",
            Severity::Success => "success",
        }
    }
}

/// The codes of FHIR's issue-type; what a server writes elsewise is `other`, since it could be anything.
const ISSUE_TYPES: [&str; 33] = [
    "invalid",
    "structure",
    "required",
    "value",
    "invariant",
    "security",
    "login",
    "unknown",
    "expired",
    "forbidden",
    "suppressed",
    "processing",
    "not-supported",
    "duplicate",
    "multiple-matches",
    "not-found",
    "deleted",
    "too-long",
    "code-invalid",
    "extension",
    "too-costly",
    "business-rule",
    "conflict",
    "limited-filter",
    "transient",
    "lock-error",
    "no-store",
    "exception",
    "timeout",
    "incomplete",
    "throttled",
    "informational",
    "success",
];

#[derive(Deserialize)]
struct OutcomeView {
    #[serde(rename = "resourceType")]
    resource_type: String,
    #[serde(default)]
    issue: Vec<IssueView>,
}

#[derive(Deserialize)]
struct IssueView {
    severity: String,
    #[serde(default)]
    code: String,
}

impl Outcomes {
    /// Counts the issues of one line.
    pub fn note(&mut self, line: &[u8]) {
        let line = line.trim_ascii();
        if line.is_empty() {
            return;
        }
        let Some(outcome) = serde_json::from_slice::<OutcomeView>(line).ok().filter(|outcome| outcome.resource_type == "OperationOutcome") else {
            self.unreadable += 1;
            return;
        };
        for issue in outcome.issue {
            let Some(severity) = Severity::ALL.into_iter().find(|severity| severity.word() == issue.severity) else {
                self.unreadable += 1;
                continue;
            };
            let code = ISSUE_TYPES.into_iter().find(|code| *code == issue.code).unwrap_or("other");
            *self.counts.entry((severity, code)).or_default() += 1;
        }
    }

    pub fn is_empty(&self) -> bool {
        self.counts.is_empty() && self.unreadable == 0
    }

    /// Issues that say that something could not be exported, and what could not be read of them.
    pub fn errors(&self) -> usize {
        let of = |severity: Severity| match severity {
            Severity::Fatal | Severity::Error => true,
            Severity::Warning | Severity::Information | Severity::Success => false,
        };
        self.counts.iter().filter(|((severity, _), _)| of(*severity)).map(|(_, count)| count).sum::<usize>() + self.unreadable
    }

    /// Such as `3 error processing, 1 warning not-supported`.
    pub fn words(&self) -> String {
        let mut words = String::new();
        for ((severity, code), count) in &self.counts {
            let _ = write!(words, "{}{count} {} {code}", if words.is_empty() { "" } else { ", " }, severity.word());
        }
        if self.unreadable != 0 {
            let _ = write!(words, "{}{} unreadable", if words.is_empty() { "" } else { ", " }, self.unreadable);
        }
        words
    }
}

/// Why what a file begins with is not what its manifest says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotNdjson {
    #[error("it is no NDJSON, such as a web page: a proxy or a sign-in page may stand before the files")]
    NotJson,
    #[error("it is an OperationOutcome, with a status that says success")]
    Outcome,
    #[error("it is wrapped into a Binary: the EHR does not send files as they are")]
    Binary,
}

#[derive(Deserialize)]
struct TypeView {
    #[serde(rename = "resourceType")]
    resource_type: String,
}

/// Looks at what a file begins with; its first line need not be whole. An empty file is NDJSON.
pub fn begins_as_ndjson(start: &[u8], content: Content, resource_type: Option<&str>) -> Result<(), NotNdjson> {
    let start = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start).trim_ascii_start();
    match start.first() {
        None => return Ok(()),
        Some(b'{') => {}
        Some(_) => return Err(NotNdjson::NotJson),
    }
    let is = |word: &str| resource_type != Some(word) && has_type(start, word);
    if content != Content::Outcomes && is("OperationOutcome") {
        return Err(NotNdjson::Outcome);
    }
    if is("Binary") { Err(NotNdjson::Binary) } else { Ok(()) }
}

/// Whether the first resource is of this type: its first line says so, or its first element where the line is cut off.
fn has_type<'a>(start: &'a [u8], word: &str) -> bool {
    let line = start.split(|byte| *byte == b'\n').next().unwrap_or(start);
    if let Ok(view) = serde_json::from_slice::<TypeView>(line) {
        return view.resource_type == word;
    }
    let behind = |text: &'a [u8], expected: &str| text.trim_ascii_start().strip_prefix(expected.as_bytes());
    behind(&start[1..], "\"resourceType\"")
        .and_then(|rest| behind(rest, ":"))
        .is_some_and(|rest| rest.trim_ascii_start().starts_with(format!("\"{word}\"").as_bytes()))
}
