//! What the mapping reads of a resource, borrowed from its bytes; everything else is skipped where it stands.
//! Decimals keep their text, dates theirs. Knows no site's habits: a view is what was said, not what it means.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::RawResource;
use crate::issue::{Code, Issue};

/// A string, borrowed unless it holds an escape.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Text<'a>(#[serde(borrow)] pub Cow<'a, str>);

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Text<'_> {
    fn as_ref(&self) -> &str {
        self
    }
}

/// A FHIR decimal as it was written, digit for digit.
#[derive(Clone, Copy, Debug)]
pub struct Decimal<'a>(&'a str);

impl<'a> Decimal<'a> {
    /// JSON number syntax: `2.10`, `1.5E3`.
    pub fn text(self) -> &'a str {
        self.0
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Decimal<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Decimal<'a>, D::Error> {
        let text = <&'de RawValue>::deserialize(deserializer)?.get();
        match text.as_bytes().first() {
            Some(b'-' | b'0'..=b'9') => Ok(Decimal(text)),
            Some(_) | None => Err(serde::de::Error::custom("not a number")),
        }
    }
}

/// Whether an element is there, whatever it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Present(pub bool);

impl<'de> Deserialize<'de> for Present {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Present, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Present(true))
    }
}

/// An element that one release of FHIR gives once and another several times.
#[derive(Clone, Debug)]
pub struct Several<T>(pub Vec<T>);

impl<T> Default for Several<T> {
    fn default() -> Several<T> {
        Several(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Several<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Several<T>, D::Error> {
        struct OneOrMore<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for OneOrMore<T> {
            type Value = Several<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an element or a list of them")
            }

            fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Several<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(members)).map(|one| Several(vec![one]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Several<T>, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(items)).map(Several)
            }
        }

        deserializer.deserialize_any(OneOrMore(PhantomData))
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
pub struct Coding<'a> {
    #[serde(borrow)]
    pub system: Option<Text<'a>>,
    #[serde(borrow)]
    pub code: Option<Text<'a>>,
    #[serde(borrow)]
    pub display: Option<Text<'a>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub struct CodeableConcept<'a> {
    #[serde(borrow, default)]
    pub coding: Vec<Coding<'a>>,
    #[serde(borrow)]
    pub text: Option<Text<'a>>,
}

impl CodeableConcept<'_> {
    /// Whether one of the codings is this one.
    pub fn has(&self, system: &str, code: &str) -> bool {
        self.coding.iter().any(|coding| coding.is(system, code))
    }
}

impl Coding<'_> {
    pub fn is(&self, system: &str, code: &str) -> bool {
        self.system.as_deref() == Some(system) && self.code.as_deref() == Some(code)
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
pub struct Identifier<'a> {
    #[serde(borrow)]
    pub system: Option<Text<'a>>,
    #[serde(borrow)]
    pub value: Option<Text<'a>>,
    #[serde(borrow, rename = "type")]
    pub kind: Option<CodeableConcept<'a>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub struct Reference<'a> {
    #[serde(borrow)]
    pub reference: Option<Text<'a>>,
    /// `Reference.type`: the resource type, where the reference itself does not say it.
    #[serde(borrow, rename = "type")]
    pub kind: Option<Text<'a>>,
    #[serde(borrow)]
    pub identifier: Option<Identifier<'a>>,
    /// Why nobody is meant, of a reference into a Bundle (`references`); it stands in no resource.
    #[serde(skip)]
    pub dangling: Option<&'static str>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub struct Period<'a> {
    #[serde(borrow)]
    pub start: Option<Text<'a>>,
    #[serde(borrow)]
    pub end: Option<Text<'a>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub struct Quantity<'a> {
    #[serde(borrow)]
    pub value: Option<Decimal<'a>>,
    #[serde(borrow)]
    pub comparator: Option<Text<'a>>,
    #[serde(borrow)]
    pub unit: Option<Text<'a>>,
    #[serde(borrow)]
    pub system: Option<Text<'a>>,
    #[serde(borrow)]
    pub code: Option<Text<'a>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Meta<'a> {
    #[serde(borrow)]
    pub version_id: Option<Text<'a>>,
    #[serde(borrow)]
    pub last_updated: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub security: Vec<Coding<'a>>,
    #[serde(borrow, default)]
    pub tag: Vec<Coding<'a>>,
}

/// An extension with the values that the profiles we read give to one.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Extension<'a> {
    #[serde(borrow)]
    pub url: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub extension: Vec<Extension<'a>>,
    pub value_boolean: Option<bool>,
    #[serde(borrow)]
    pub value_code: Option<Text<'a>>,
    #[serde(borrow)]
    pub value_string: Option<Text<'a>>,
    #[serde(borrow)]
    pub value_date_time: Option<Text<'a>>,
    #[serde(borrow)]
    pub value_codeable_concept: Option<CodeableConcept<'a>>,
    #[serde(borrow)]
    pub value_coding: Option<Coding<'a>>,
    #[serde(borrow)]
    pub value_reference: Option<Reference<'a>>,
    #[serde(borrow)]
    pub value_quantity: Option<Quantity<'a>>,
}

/// A contained resource, of which only a Medication's code is ever read.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Contained<'a> {
    #[serde(borrow)]
    pub resource_type: Option<Text<'a>>,
    #[serde(borrow)]
    pub id: Option<Text<'a>>,
    /// Of any shape: other types have a `code` too.
    #[serde(borrow)]
    code: Option<&'a RawValue>,
}

impl<'a> Contained<'a> {
    /// The code, where this is a Medication.
    pub fn medication_code(&self) -> Option<CodeableConcept<'a>> {
        let is_medication = self.resource_type.as_deref() == Some("Medication");
        self.code.filter(|_| is_medication).and_then(|code| serde_json::from_str(code.get()).ok())
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
pub struct ReferenceRange<'a> {
    #[serde(borrow)]
    pub low: Option<Quantity<'a>>,
    #[serde(borrow)]
    pub high: Option<Quantity<'a>>,
    /// What kind of range (normal, therapeutic); absent means normal.
    #[serde(borrow, rename = "type")]
    pub kind: Option<CodeableConcept<'a>>,
    #[serde(rename = "appliesTo", default)]
    pub applies_to: Present,
    #[serde(default)]
    pub age: Present,
    #[serde(borrow)]
    pub text: Option<Text<'a>>,
}

/// What is read of an Observation.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObservationView<'a> {
    #[serde(borrow)]
    pub resource_type: Option<Text<'a>>,
    #[serde(default)]
    pub implicit_rules: Present,
    #[serde(borrow)]
    pub id: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub meta: Meta<'a>,
    #[serde(borrow, default)]
    pub identifier: Vec<Identifier<'a>>,
    #[serde(borrow)]
    pub status: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub category: Vec<CodeableConcept<'a>>,
    #[serde(borrow, default)]
    pub code: CodeableConcept<'a>,
    #[serde(borrow)]
    pub subject: Option<Reference<'a>>,
    #[serde(borrow)]
    pub effective_date_time: Option<Text<'a>>,
    #[serde(borrow)]
    pub effective_period: Option<Period<'a>>,
    #[serde(borrow)]
    pub effective_instant: Option<Text<'a>>,
    #[serde(borrow)]
    pub issued: Option<Text<'a>>,
    #[serde(borrow)]
    pub value_quantity: Option<Quantity<'a>>,
    #[serde(borrow)]
    pub value_codeable_concept: Option<CodeableConcept<'a>>,
    #[serde(borrow)]
    pub value_string: Option<Text<'a>>,
    #[serde(default)]
    pub value_boolean: Present,
    #[serde(default)]
    pub value_integer: Present,
    #[serde(default)]
    pub value_range: Present,
    #[serde(default)]
    pub value_ratio: Present,
    #[serde(default)]
    pub value_sampled_data: Present,
    #[serde(default)]
    pub value_time: Present,
    #[serde(default)]
    pub value_date_time: Present,
    #[serde(default)]
    pub value_period: Present,
    #[serde(borrow)]
    pub data_absent_reason: Option<CodeableConcept<'a>>,
    #[serde(borrow, default)]
    pub reference_range: Vec<ReferenceRange<'a>>,
    #[serde(borrow, default)]
    pub modifier_extension: Vec<Extension<'a>>,
    #[serde(borrow)]
    pub specimen: Option<Reference<'a>>,
    #[serde(borrow)]
    pub method: Option<CodeableConcept<'a>>,
    #[serde(default)]
    pub contained: Present,
    #[serde(default)]
    pub component: Present,
    #[serde(default)]
    pub has_member: Present,
}

impl ObservationView<'_> {
    /// The element of a value that is neither a quantity, a concept nor a string.
    pub fn other_value(&self) -> Option<&'static str> {
        let others = [
            (self.value_boolean, "Observation.valueBoolean"),
            (self.value_integer, "Observation.valueInteger"),
            (self.value_range, "Observation.valueRange"),
            (self.value_ratio, "Observation.valueRatio"),
            (self.value_sampled_data, "Observation.valueSampledData"),
            (self.value_time, "Observation.valueTime"),
            (self.value_date_time, "Observation.valueDateTime"),
            (self.value_period, "Observation.valuePeriod"),
        ];
        others.into_iter().find(|(present, _)| present.0).map(|(_, path)| path)
    }
}

/// `Patient.link`.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct PatientLink<'a> {
    #[serde(borrow, default)]
    pub other: Reference<'a>,
    /// `replaced-by`, `replaces`, `refer` or `seealso`.
    #[serde(borrow, rename = "type")]
    pub kind: Option<Text<'a>>,
}

/// What is read of a Patient: no name, no address, no telephone number.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PatientView<'a> {
    #[serde(borrow)]
    pub resource_type: Option<Text<'a>>,
    #[serde(default)]
    pub implicit_rules: Present,
    #[serde(borrow)]
    pub id: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub meta: Meta<'a>,
    #[serde(borrow, default)]
    pub identifier: Vec<Identifier<'a>>,
    pub active: Option<bool>,
    #[serde(borrow)]
    pub gender: Option<Text<'a>>,
    #[serde(borrow)]
    pub birth_date: Option<Text<'a>>,
    pub deceased_boolean: Option<bool>,
    #[serde(borrow)]
    pub deceased_date_time: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub link: Vec<PatientLink<'a>>,
    #[serde(borrow, default)]
    pub extension: Vec<Extension<'a>>,
    #[serde(borrow, default)]
    pub modifier_extension: Vec<Extension<'a>>,
}

/// What is read of a Condition.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConditionView<'a> {
    #[serde(borrow)]
    pub resource_type: Option<Text<'a>>,
    #[serde(default)]
    pub implicit_rules: Present,
    #[serde(borrow)]
    pub id: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub meta: Meta<'a>,
    #[serde(borrow, default)]
    pub identifier: Vec<Identifier<'a>>,
    #[serde(borrow)]
    pub clinical_status: Option<CodeableConcept<'a>>,
    #[serde(borrow)]
    pub verification_status: Option<CodeableConcept<'a>>,
    #[serde(borrow, default)]
    pub category: Vec<CodeableConcept<'a>>,
    #[serde(borrow)]
    pub code: Option<CodeableConcept<'a>>,
    #[serde(borrow)]
    pub subject: Option<Reference<'a>>,
    #[serde(borrow)]
    pub onset_date_time: Option<Text<'a>>,
    #[serde(borrow)]
    pub onset_period: Option<Period<'a>>,
    #[serde(borrow)]
    pub abatement_date_time: Option<Text<'a>>,
    #[serde(borrow)]
    pub abatement_period: Option<Period<'a>>,
    #[serde(default)]
    pub abatement_age: Present,
    #[serde(default)]
    pub abatement_range: Present,
    #[serde(default)]
    pub abatement_string: Present,
    #[serde(borrow)]
    pub recorded_date: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub modifier_extension: Vec<Extension<'a>>,
    #[serde(default)]
    pub contained: Present,
}

/// `AdverseEvent.suspectEntity.causality`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Causality<'a> {
    /// R4.
    #[serde(borrow)]
    pub assessment: Option<CodeableConcept<'a>>,
    /// R5.
    #[serde(borrow)]
    pub entity_relatedness: Option<CodeableConcept<'a>>,
}

/// `AdverseEvent.suspectEntity`: `instance` is R4, the other two are R5.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SuspectEntity<'a> {
    #[serde(borrow)]
    pub instance: Option<Reference<'a>>,
    #[serde(borrow)]
    pub instance_reference: Option<Reference<'a>>,
    #[serde(borrow)]
    pub instance_codeable_concept: Option<CodeableConcept<'a>>,
    #[serde(borrow, default)]
    pub causality: Several<Causality<'a>>,
}

/// What is read of an AdverseEvent of R4 or R5, with the extensions of the clinical research profiles where they stand.
/// No resource holds elements of both: `release::of` refuses it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AdverseEventView<'a> {
    #[serde(borrow)]
    pub resource_type: Option<Text<'a>>,
    #[serde(default)]
    pub implicit_rules: Present,
    #[serde(borrow)]
    pub id: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub meta: Meta<'a>,
    #[serde(borrow, default)]
    pub identifier: Several<Identifier<'a>>,
    /// R5; in R4 the backport's `modifierExtension` carries it, and is read first.
    #[serde(borrow)]
    pub status: Option<Text<'a>>,
    #[serde(borrow)]
    pub actuality: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub category: Vec<CodeableConcept<'a>>,
    /// R4.
    #[serde(borrow)]
    pub event: Option<CodeableConcept<'a>>,
    /// R5.
    #[serde(borrow)]
    pub code: Option<CodeableConcept<'a>>,
    #[serde(borrow)]
    pub subject: Option<Reference<'a>>,
    /// R4.
    #[serde(borrow)]
    pub date: Option<Text<'a>>,
    /// R5.
    #[serde(borrow)]
    pub occurrence_date_time: Option<Text<'a>>,
    /// R5.
    #[serde(borrow)]
    pub occurrence_period: Option<Period<'a>>,
    #[serde(borrow)]
    pub detected: Option<Text<'a>>,
    #[serde(borrow)]
    pub recorded_date: Option<Text<'a>>,
    #[serde(borrow)]
    pub seriousness: Option<CodeableConcept<'a>>,
    /// R4.
    #[serde(borrow)]
    pub severity: Option<CodeableConcept<'a>>,
    #[serde(borrow, default)]
    pub outcome: Several<CodeableConcept<'a>>,
    #[serde(borrow, default)]
    pub suspect_entity: Vec<SuspectEntity<'a>>,
    #[serde(borrow, default)]
    pub study: Vec<Reference<'a>>,
    /// R5.
    pub expected_in_research_study: Option<bool>,
    #[serde(borrow, default)]
    pub extension: Vec<Extension<'a>>,
    #[serde(borrow, default)]
    pub modifier_extension: Vec<Extension<'a>>,
    #[serde(borrow, default)]
    pub contained: Vec<Contained<'a>>,
}

/// `ResearchSubject.progress` of R5.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress<'a> {
    #[serde(borrow)]
    pub subject_state: Option<CodeableConcept<'a>>,
    #[serde(borrow)]
    pub start_date: Option<Text<'a>>,
}

/// What is read of a ResearchSubject of R4 or R5.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResearchSubjectView<'a> {
    #[serde(borrow)]
    pub resource_type: Option<Text<'a>>,
    #[serde(default)]
    pub implicit_rules: Present,
    #[serde(borrow)]
    pub id: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub meta: Meta<'a>,
    #[serde(borrow, default)]
    pub identifier: Vec<Identifier<'a>>,
    /// In R4 where the subject stands; in R5 whether the record is published.
    #[serde(borrow)]
    pub status: Option<Text<'a>>,
    #[serde(borrow)]
    pub period: Option<Period<'a>>,
    #[serde(borrow)]
    pub study: Option<Reference<'a>>,
    /// R4.
    #[serde(borrow)]
    pub individual: Option<Reference<'a>>,
    /// R5.
    #[serde(borrow)]
    pub subject: Option<Reference<'a>>,
    /// R4.
    #[serde(borrow)]
    pub assigned_arm: Option<Text<'a>>,
    #[serde(borrow)]
    pub actual_arm: Option<Text<'a>>,
    /// R5: ids of `ResearchStudy.comparisonGroup`.
    #[serde(borrow)]
    pub assigned_comparison_group: Option<Text<'a>>,
    #[serde(borrow)]
    pub actual_comparison_group: Option<Text<'a>>,
    /// R5.
    #[serde(borrow, default)]
    pub progress: Vec<Progress<'a>>,
    #[serde(borrow, default)]
    pub modifier_extension: Vec<Extension<'a>>,
}

/// `MedicationAdministration.dosage`.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Dosage<'a> {
    #[serde(borrow)]
    pub dose: Option<Quantity<'a>>,
    #[serde(borrow, default)]
    pub extension: Vec<Extension<'a>>,
}

/// A concept, or a reference to what it is, in one element (R5).
#[derive(Clone, Debug, Default, Deserialize)]
pub struct CodeableReference<'a> {
    #[serde(borrow)]
    pub concept: Option<CodeableConcept<'a>>,
    #[serde(borrow)]
    pub reference: Option<Reference<'a>>,
}

/// What is read of a MedicationAdministration of R4 or R5.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MedicationAdministrationView<'a> {
    #[serde(borrow)]
    pub resource_type: Option<Text<'a>>,
    #[serde(default)]
    pub implicit_rules: Present,
    #[serde(borrow)]
    pub id: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub meta: Meta<'a>,
    #[serde(borrow, default)]
    pub identifier: Vec<Identifier<'a>>,
    #[serde(borrow)]
    pub status: Option<Text<'a>>,
    #[serde(borrow)]
    pub medication_codeable_concept: Option<CodeableConcept<'a>>,
    #[serde(borrow)]
    pub medication_reference: Option<Reference<'a>>,
    /// R5.
    #[serde(borrow)]
    pub medication: Option<CodeableReference<'a>>,
    #[serde(borrow)]
    pub subject: Option<Reference<'a>>,
    #[serde(borrow)]
    pub effective_date_time: Option<Text<'a>>,
    #[serde(borrow)]
    pub effective_period: Option<Period<'a>>,
    /// R5, which spells it so.
    #[serde(borrow, alias = "occurrenceDateTime")]
    pub occurence_date_time: Option<Text<'a>>,
    #[serde(borrow, alias = "occurrencePeriod")]
    pub occurence_period: Option<Period<'a>>,
    #[serde(borrow)]
    pub dosage: Option<Dosage<'a>>,
    #[serde(borrow, default)]
    pub extension: Vec<Extension<'a>>,
    #[serde(borrow, default)]
    pub modifier_extension: Vec<Extension<'a>>,
    #[serde(borrow, default)]
    pub contained: Vec<Contained<'a>>,
}

/// What is read of a Procedure of R4 or R5.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcedureView<'a> {
    #[serde(borrow)]
    pub resource_type: Option<Text<'a>>,
    #[serde(default)]
    pub implicit_rules: Present,
    #[serde(borrow)]
    pub id: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub meta: Meta<'a>,
    #[serde(borrow, default)]
    pub identifier: Vec<Identifier<'a>>,
    #[serde(borrow)]
    pub status: Option<Text<'a>>,
    #[serde(borrow)]
    pub code: Option<CodeableConcept<'a>>,
    #[serde(borrow)]
    pub subject: Option<Reference<'a>>,
    #[serde(borrow)]
    pub performed_date_time: Option<Text<'a>>,
    #[serde(borrow)]
    pub performed_period: Option<Period<'a>>,
    /// R5.
    #[serde(borrow)]
    pub occurrence_date_time: Option<Text<'a>>,
    #[serde(borrow)]
    pub occurrence_period: Option<Period<'a>>,
    #[serde(borrow, default)]
    pub extension: Vec<Extension<'a>>,
    #[serde(borrow, default)]
    pub modifier_extension: Vec<Extension<'a>>,
}

/// `Encounter.class`: one Coding in R4, several CodeableConcepts in R5.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct EncounterClass<'a> {
    /// R4.
    #[serde(borrow)]
    pub system: Option<Text<'a>>,
    #[serde(borrow)]
    pub code: Option<Text<'a>>,
    /// R5.
    #[serde(borrow, default)]
    pub coding: Vec<Coding<'a>>,
}

impl EncounterClass<'_> {
    /// System and code of each coding.
    pub fn codes(&self) -> impl Iterator<Item = (&str, &str)> {
        let in_r5 = self.coding.iter().map(|coding| (&coding.system, &coding.code));
        let all = std::iter::once((&self.system, &self.code)).chain(in_r5);
        all.filter_map(|(system, code)| Some((system.as_deref().unwrap_or(""), code.as_deref()?)))
    }
}

/// `Encounter.serviceType`: one CodeableConcept in R4, several CodeableReferences in R5.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ServiceType<'a> {
    /// R4.
    #[serde(borrow, default)]
    pub coding: Vec<Coding<'a>>,
    /// R5.
    #[serde(borrow, default)]
    pub concept: CodeableConcept<'a>,
}

/// What is read of an Encounter of R4 or R5: neither reason nor diagnosis.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EncounterView<'a> {
    #[serde(borrow)]
    pub resource_type: Option<Text<'a>>,
    #[serde(default)]
    pub implicit_rules: Present,
    #[serde(borrow)]
    pub id: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub meta: Meta<'a>,
    #[serde(borrow, default)]
    pub identifier: Vec<Identifier<'a>>,
    #[serde(borrow)]
    pub status: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub class: Several<EncounterClass<'a>>,
    #[serde(borrow, rename = "type", default)]
    pub kind: Vec<CodeableConcept<'a>>,
    #[serde(borrow, default)]
    pub service_type: Several<ServiceType<'a>>,
    #[serde(borrow)]
    pub priority: Option<CodeableConcept<'a>>,
    #[serde(borrow)]
    pub subject: Option<Reference<'a>>,
    #[serde(borrow)]
    pub period: Option<Period<'a>>,
    /// R5.
    #[serde(borrow)]
    pub actual_period: Option<Period<'a>>,
    #[serde(borrow, default)]
    pub modifier_extension: Vec<Extension<'a>>,
}

/// What is read of a MessageHeader of R4 or R5.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MessageHeaderView<'a> {
    #[serde(borrow)]
    pub id: Option<Text<'a>>,
    #[serde(borrow)]
    pub event_coding: Option<Coding<'a>>,
    /// R4.
    #[serde(borrow)]
    pub event_uri: Option<Text<'a>>,
    /// R5.
    #[serde(borrow)]
    pub event_canonical: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub source: MessageSource<'a>,
}

/// `MessageHeader.source`: `endpoint` is R4, `endpointUrl` is R5.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MessageSource<'a> {
    #[serde(borrow)]
    pub endpoint: Option<Text<'a>>,
    #[serde(borrow)]
    pub endpoint_url: Option<Text<'a>>,
}

/// Reads an Observation that passed the gate.
pub fn observation<'a>(resource: &RawResource<'a>) -> Result<ObservationView<'a>, Issue> {
    of_resource(resource, "Observation")
}

/// Reads a Patient that passed the gate.
pub fn patient<'a>(resource: &RawResource<'a>) -> Result<PatientView<'a>, Issue> {
    of_resource(resource, "Patient")
}

/// Reads a Condition that passed the gate.
pub fn condition<'a>(resource: &RawResource<'a>) -> Result<ConditionView<'a>, Issue> {
    of_resource(resource, "Condition")
}

/// Reads an AdverseEvent that passed the gate.
pub fn adverse_event<'a>(resource: &RawResource<'a>) -> Result<AdverseEventView<'a>, Issue> {
    of_resource(resource, "AdverseEvent")
}

/// Reads a ResearchSubject that passed the gate.
pub fn research_subject<'a>(resource: &RawResource<'a>) -> Result<ResearchSubjectView<'a>, Issue> {
    of_resource(resource, "ResearchSubject")
}

/// Reads a MedicationAdministration that passed the gate.
pub fn medication_administration<'a>(resource: &RawResource<'a>) -> Result<MedicationAdministrationView<'a>, Issue> {
    of_resource(resource, "MedicationAdministration")
}

/// Reads a Procedure that passed the gate.
pub fn procedure<'a>(resource: &RawResource<'a>) -> Result<ProcedureView<'a>, Issue> {
    of_resource(resource, "Procedure")
}

/// Reads an Encounter that passed the gate.
pub fn encounter<'a>(resource: &RawResource<'a>) -> Result<EncounterView<'a>, Issue> {
    of_resource(resource, "Encounter")
}

/// Reads a MessageHeader that passed the gate.
pub fn message_header<'a>(resource: &RawResource<'a>) -> Result<MessageHeaderView<'a>, Issue> {
    of_resource(resource, "MessageHeader")
}

fn of_resource<'a, V: Deserialize<'a>>(resource: &RawResource<'a>, type_name: &str) -> Result<V, Issue> {
    if resource.resource_type != type_name {
        return Err(Issue::new(Code::WrongResourceType, resource.resource_type));
    }
    serde_json::from_str(resource.text()).map_err(|_| Issue::new(Code::Shape, type_name))
}
