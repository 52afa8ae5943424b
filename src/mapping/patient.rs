//! Patient to person: sex, birth, death, labels, and the record it was merged into. No name is read.

use compact_str::CompactString;

use crate::clinical::date::Precision;
use crate::clinical::fact::{Body, Fact, Person, PersonPart, ResourceType, Sex, Status};
use crate::fhir::alike;
use crate::fhir::view::PatientView;
use crate::hl7::{NOT_REPLACED_BY, PART_CODE, PART_SYSTEM};
use crate::issue::{Code, Effect, Issue};

use super::guard::{self, Labels};
use super::site::Site;
use super::{Head, Normalised};

/// Turns one Patient into a fact or a coded refusal.
pub fn normalise_view(site: &Site, view: &PatientView<'_>, head: Head<'_>) -> Normalised {
    match Form::of(site, view) {
        Ok(form) => form.read(view.birth_date.as_deref(), view.deceased_date_time.as_deref(), head),
        Err(normalised) => *normalised,
    }
}

/// What many Patients say alike: all but id, birth and death.
pub struct Form {
    modifiers: Option<Issue>,
    sex: Result<Option<Sex>, Issue>,
    /// It states only what stands in it, as messages do.
    is_part: bool,
    deceased: Option<bool>,
    labels: Labels,
    /// Whether a label says that everybody may see it.
    is_labelled_open: bool,
    /// Of each `link` of type replaced-by the Patient id.
    replaced_by: Vec<Result<CompactString, Issue>>,
    /// Of each `link` of type replaces the Patient id; a record of another server is none of ours.
    replaces: Vec<CompactString>,
    not_replaced_by: Vec<Result<CompactString, Issue>>,
}

impl Form {
    /// Reads all that does not differ; the error is the answer for every Patient of this form.
    pub fn of(site: &Site, view: &PatientView<'_>) -> Result<Form, Box<Normalised>> {
        if guard::is_echo(&view.meta, &view.identifier) {
            return Err(Box::new(Normalised::echo("Patient")));
        }
        let sex = match view.gender.as_deref() {
            None => Ok(None),
            Some("female") => Ok(Some(Sex::Female)),
            Some("male") => Ok(Some(Sex::Male)),
            Some("other") => Ok(Some(Sex::Other)),
            Some("unknown") => Ok(Some(Sex::Unknown)),
            Some(_) => Err(Issue::new(Code::Shape, "Patient.gender")),
        };
        // `refer` and `seealso` leave both records in use, and say nothing of what is in either.
        let links = |kind: &'static str| view.link.iter().filter(move |link| link.kind.as_deref() == Some(kind));
        let replaced = links("replaces").filter_map(|link| guard::patient_id(site, Some(&link.other), "Patient.link.other").ok());
        let is_part = view.meta.tag.iter().any(|tag| tag.system.as_deref() == Some(PART_SYSTEM) && tag.code.as_deref() == Some(PART_CODE));
        let undone = view.extension.iter().filter(|extension| is_part && extension.url.as_deref() == Some(NOT_REPLACED_BY));
        Ok(Form {
            modifiers: guard::modifiers("Patient", view.implicit_rules, &view.modifier_extension, |_| false),
            sex,
            is_part,
            deceased: view.deceased_boolean,
            labels: Labels::of(site, &view.meta.security),
            is_labelled_open: view.meta.security.iter().any(|label| matches!(label.code.as_deref(), Some("U" | "L" | "M" | "N"))),
            replaces: replaced.map(CompactString::from).collect(),
            replaced_by: links("replaced-by")
                .map(|link| guard::patient_id(site, Some(&link.other), "Patient.link.other").map(CompactString::from))
                .collect(),
            not_replaced_by: undone
                .map(|extension| guard::patient_id(site, extension.value_reference.as_ref(), "Patient.extension").map(CompactString::from))
                .collect(),
        })
    }

    /// Turns a line that looks like the one whose form this is into a fact or a coded refusal.
    pub fn normalise(&self, values: &alike::Values<'_>) -> Normalised {
        self.read(values.birth_date, values.deceased_date_time, Head::of_values(values))
    }

    fn read(&self, birth_date: Option<&str>, deceased_date_time: Option<&str>, head: Head<'_>) -> Normalised {
        let Some(id) = head.id else {
            return Normalised::rejected(Issue::new(Code::InvalidId, "Patient.id"));
        };
        let mut issues = Vec::new();
        issues.extend(self.modifiers.clone());
        let sex = self.sex.clone().unwrap_or_else(|issue| {
            issues.push(issue);
            None
        });
        let mut date = |text, path| {
            guard::optional_date(text, path).unwrap_or_else(|issue| {
                issues.push(issue);
                None
            })
        };
        let birth_date = date(birth_date, "Patient.birthDate");
        let deceased_at = date(deceased_date_time, "Patient.deceasedDateTime");
        if birth_date.is_some_and(|date| date.precision == Precision::Instant) {
            issues.push(Issue::new(Code::InvalidDate, "Patient.birthDate"));
        }
        let mut replaced_by = None;
        for other in &self.replaced_by {
            match other {
                // A longer cycle takes several Patients and is found where they meet.
                Ok(other) if other == id => issues.push(Issue::new(Code::MergeCycle, "Patient.link.other")),
                Ok(other) if replaced_by.is_some_and(|first| first != other) => {
                    issues.push(Issue::new(Code::IdentityMissing, "Patient.link").with_detail("replaced by two records"));
                }
                Ok(other) => replaced_by = Some(other),
                Err(issue) => issues.push(issue.clone()),
            }
        }
        if self.replaces.iter().any(|other| other == id) {
            issues.push(Issue::new(Code::MergeCycle, "Patient.link.other"));
        }
        let mut not_replaced_by = Vec::new();
        for other in &self.not_replaced_by {
            match other {
                Ok(other) => not_replaced_by.push(other.clone()),
                Err(issue) => issues.push(issue.clone()),
            }
        }
        let is_quarantined = issues.iter().any(|issue| issue.code.effect() == Effect::Quarantine);
        if self.is_part {
            let part = PersonPart {
                sex,
                birth_date,
                deceased: self.deceased.or(deceased_at.map(|_| true)),
                deceased_at,
                is_test: self.labels.is_test,
                is_restricted: if self.labels.is_restricted { Some(true) } else { self.is_labelled_open.then_some(false) },
                replaced_by: replaced_by.cloned(),
                not_replaced_by,
            };
            // What is quarantined of it takes nothing back of what others said.
            let body = Body::PersonPart(if is_quarantined { PersonPart::default() } else { part });
            let fact = Fact { source: head.source(ResourceType::Patient, id), key: None, status: Status::Final, issued_ms: None, body };
            return Normalised::ended(Some(id), Some(fact), issues, Some(PersonPart::CODE.to_owned()));
        }
        let person = Person {
            sex,
            birth_date,
            deceased: deceased_at.is_some() || self.deceased == Some(true),
            deceased_at,
            is_test: self.labels.is_test,
            is_restricted: self.labels.is_restricted,
            replaced_by: replaced_by.cloned(),
            replaces: self.replaces.clone(),
        };
        let body = if is_quarantined { Body::Nothing } else { Body::Person(person) };
        let fact = Fact { source: head.source(ResourceType::Patient, id), key: None, status: Status::Final, issued_ms: None, body };
        Normalised::ended(Some(id), Some(fact), issues, None)
    }
}
