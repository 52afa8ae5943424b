//! What each resource is asked before its content: is it our own, does something negate it, may it be seen, and whose is it.

use crate::clinical::date::{DateError, PartialDate, Precision};
use crate::fhir::view::{Coding, Extension, Identifier, Meta, Period, Present, Reference, Text};
use crate::fhir::{WRITE_BACK_SYSTEM, is_id};
use crate::issue::{Code, Issue};

use super::site::Site;

/// Our own write, seen again in the feed.
pub fn is_echo<'a>(meta: &Meta<'_>, identifiers: impl IntoIterator<Item = &'a Identifier<'a>>) -> bool {
    let is_ours = |system: &Option<Text<'_>>| system.as_deref() == Some(WRITE_BACK_SYSTEM);
    identifiers.into_iter().any(|identifier| is_ours(&identifier.system)) || meta.tag.iter().any(|tag| is_ours(&tag.system))
}

/// `implicitRules` and every modifierExtension may negate what the resource says; none may be overlooked.
pub fn modifiers(type_name: &str, implicit_rules: Present, extensions: &[Extension<'_>], is_known: impl Fn(&str) -> bool) -> Option<Issue> {
    if implicit_rules.0 {
        return Some(Issue::new(Code::UnknownModifier, format!("{type_name}.implicitRules")));
    }
    extensions
        .iter()
        .map(|extension| extension.url.as_deref().unwrap_or(""))
        .find(|url| !is_known(url))
        .map(|url| Issue::new(Code::UnknownModifier, format!("{type_name}.modifierExtension")).with_detail(url))
}

/// What `meta.security` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    /// HTEST, at a site where that does not mean the demo's own patients.
    pub is_test: bool,
    /// R, V, or a label that this gateway does not know: the unknown counts as the most restrictive (rulings.md 17).
    pub is_restricted: bool,
}

impl Labels {
    pub fn of(site: &Site, security: &[Coding<'_>]) -> Labels {
        let mut labels = Labels::default();
        for label in security {
            let system = label.system.as_deref().unwrap_or("").trim_end_matches('/');
            let code = label.code.as_deref().unwrap_or("");
            match system.rsplit('/').next() {
                Some("v3-ActReason") if code == "HTEST" => labels.is_test = !site.is_demo,
                // Unrestricted, low, moderate and normal are what everyday care may see.
                Some("v3-Confidentiality") if matches!(code, "U" | "L" | "M" | "N") => {}
                Some(_) | None => labels.is_restricted = true,
            }
        }
        labels
    }

    /// What is counted instead of being kept, for a result whose patient is not labelled so.
    pub fn reason(self) -> Option<&'static str> {
        if self.is_test {
            Some("test record (HTEST)")
        } else if self.is_restricted {
            Some("restricted record")
        } else {
            None
        }
    }
}

/// The Patient id of a reference: relative, or absolute under one of this hospital's own base URLs.
pub fn patient_id<'a>(site: &Site, reference: Option<&'a Reference<'_>>, path: &str) -> Result<&'a str, Issue> {
    patient_id_of(site, self::reference(reference, path)?, path)
}

/// The text of a reference that may be one to a Patient.
pub fn reference<'a>(reference: Option<&'a Reference<'_>>, path: &str) -> Result<&'a str, Issue> {
    let reference = reference.ok_or_else(|| no_patient(path, "", ""))?;
    if let Some(kind) = reference.kind.as_deref()
        && kind != "Patient"
    {
        return Err(no_patient(path, ".type", kind));
    }
    if let Some(why) = reference.dangling {
        return Err(no_patient(path, ".reference", why));
    }
    reference.reference.as_deref().ok_or_else(|| no_patient(path, "", "no reference"))
}

/// The Patient id of a reference's text.
pub fn patient_id_of<'a>(site: &Site, text: &'a str, path: &str) -> Result<&'a str, Issue> {
    let relative = if let Some(rest) = text.strip_prefix("Patient/") {
        rest
    } else {
        let own = site.own_base_urls.iter().find_map(|base| text.strip_prefix(base.as_str())?.strip_prefix("/Patient/"));
        own.ok_or_else(|| no_patient(path, ".reference", kind_of_reference(text)))?
    };
    // An id holds no slash; nearly every reference is one, and a search in each text would be dear.
    let id = if is_id(relative) { relative } else { relative.split_once("/_history/").map_or(relative, |(id, _)| id) };
    if is_id(id) { Ok(id) } else { Err(no_patient(path, ".reference", "not a FHIR id")) }
}

fn no_patient(path: &str, element: &str, detail: &str) -> Issue {
    let issue = Issue::new(Code::IdentityMissing, format!("{path}{element}"));
    if detail.is_empty() { issue } else { issue.with_detail(detail) }
}

/// A word for what the reference is instead; never the reference itself.
fn kind_of_reference(text: &str) -> &'static str {
    const TYPES: [&str; 6] = ["Group", "Device", "Location", "Practitioner", "RelatedPerson", "ResearchSubject"];
    if text.starts_with('#') {
        "contained"
    } else if text.starts_with("urn:") {
        "urn"
    } else if text.contains("://") {
        "another server"
    } else {
        TYPES.into_iter().find(|kind| text.strip_prefix(kind).is_some_and(|rest| rest.starts_with('/'))).unwrap_or("not a Patient reference")
    }
}

/// A FHIR dateTime, with the refusal that names its element.
pub fn date(text: &str, path: &str) -> Result<PartialDate, Issue> {
    PartialDate::parse(text).map_err(|error| match error {
        DateError::Syntax => Issue::new(Code::InvalidDate, path),
        DateError::NoZone => Issue::new(Code::InvalidDate, path).with_detail("no zone"),
    })
}

/// An optional FHIR dateTime.
pub fn optional_date(text: Option<impl AsRef<str>>, path: &str) -> Result<Option<PartialDate>, Issue> {
    text.map(|text| date(text.as_ref(), path)).transpose()
}

/// A FHIR instant, as ms since 1970 UTC.
pub fn instant_ms(text: Option<impl AsRef<str>>, path: &str) -> Result<Option<i64>, Issue> {
    match optional_date(text, path)? {
        Some(date) if date.precision == Precision::Instant => Ok(Some(date.start_ms)),
        Some(_) => Err(Issue::new(Code::InvalidDate, path)),
        None => Ok(None),
    }
}

/// A Period as the interval it spans; one open end leaves the other. `None` when it is empty.
pub fn period(period: &Period<'_>, path: &str) -> Result<Option<PartialDate>, Issue> {
    Ok(match ends(period, path)? {
        (Some(start), Some(end)) => Some(PartialDate::spanning(start, end)),
        (start, end) => start.or(end),
    })
}

/// Start and end of a Period, of which either may be open.
pub fn ends(period: &Period<'_>, path: &str) -> Result<(Option<PartialDate>, Option<PartialDate>), Issue> {
    let start = optional_date(period.start.as_ref(), path)?;
    let end = optional_date(period.end.as_ref(), path)?;
    match (start, end) {
        (Some(start), Some(end)) if end.end_ms < start.start_ms => {
            Err(Issue::new(Code::InvalidDate, path).with_detail("the end is before the start"))
        }
        ends => Ok(ends),
    }
}
