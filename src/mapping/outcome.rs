//! What became of a resource, as people read it: the `*.out.json` beside an example. Dates in FHIR's syntax, values
//! with their units, nothing that a reviewer would have to decode.

use serde_json::{Map, Value, json};

use crate::clinical::date::{PartialDate, Precision};
use crate::clinical::fact::{Administration, AdverseEvent, Body, Condition, Encounter, Fact, Measurement, Person, PersonPart, ResearchSubject};

use super::Normalised;

/// The outcome as JSON; absent members mean nothing was said.
pub fn to_json(normalised: &Normalised) -> Value {
    let mut object = Map::new();
    object.insert("disposition".to_owned(), json!(normalised.disposition.word()));
    put(&mut object, "subject", normalised.subject.as_deref());
    put(&mut object, "counted_as", normalised.code.as_deref());
    if !normalised.issues.is_empty() {
        let issues = normalised.issues.iter().map(|issue| {
            let mut object = Map::new();
            object.insert("code".to_owned(), json!(issue.code.word()));
            object.insert("path".to_owned(), json!(issue.path));
            put(&mut object, "detail", issue.detail.as_deref());
            Value::Object(object)
        });
        object.insert("issues".to_owned(), issues.collect());
    }
    if let Some(fact) = &normalised.fact {
        object.insert("fact".to_owned(), of_fact(fact));
    }
    Value::Object(object)
}

fn of_fact(fact: &Fact) -> Value {
    let mut object = Map::new();
    object.insert("source".to_owned(), json!(format!("{}/{}", fact.source.resource_type.word(), fact.source.id)));
    put(&mut object, "version", fact.source.version.as_deref());
    put(&mut object, "key", fact.key.as_deref());
    object.insert("status".to_owned(), json!(fact.status.word()));
    put(&mut object, "issued", fact.issued_ms.map(|ms| PartialDate::instant(ms).to_string()));
    match &fact.body {
        Body::Person(person) => object.insert("person".to_owned(), of_person(person)),
        Body::PersonPart(part) => object.insert("person_part".to_owned(), of_person_part(part)),
        Body::Measurement(measurement) => object.insert("measurement".to_owned(), of_measurement(measurement)),
        Body::Condition(condition) => object.insert("condition".to_owned(), of_condition(condition)),
        Body::AdverseEvent(event) => object.insert("adverse_event".to_owned(), of_adverse_event(event)),
        Body::ResearchSubject(subject) => object.insert("research_subject".to_owned(), of_research_subject(subject)),
        Body::Administration(dose) => object.insert("administration".to_owned(), of_administration(dose)),
        Body::Encounter(stay) => object.insert("encounter".to_owned(), of_encounter(stay)),
        Body::Decision(_) => None,
        Body::Nothing => object.insert("nothing".to_owned(), json!(true)),
    };
    Value::Object(object)
}

fn of_person(person: &Person) -> Value {
    let mut object = Map::new();
    put(&mut object, "sex", person.sex.map(|sex| json!(sex)));
    put(&mut object, "birth_date", person.birth_date.map(date));
    object.insert("deceased".to_owned(), json!(person.deceased));
    put(&mut object, "deceased_at", person.deceased_at.map(date));
    object.insert("is_test".to_owned(), json!(person.is_test));
    object.insert("is_restricted".to_owned(), json!(person.is_restricted));
    put(&mut object, "replaced_by", person.replaced_by.as_deref());
    Value::Object(object)
}

fn of_person_part(part: &PersonPart) -> Value {
    let mut object = Map::new();
    put(&mut object, "sex", part.sex.map(|sex| json!(sex)));
    put(&mut object, "birth_date", part.birth_date.map(date));
    put(&mut object, "deceased", part.deceased);
    put(&mut object, "deceased_at", part.deceased_at.map(date));
    put(&mut object, "is_test", part.is_test.then_some(true));
    put(&mut object, "is_restricted", part.is_restricted);
    put(&mut object, "replaced_by", part.replaced_by.as_deref());
    put(&mut object, "not_replaced_by", (!part.not_replaced_by.is_empty()).then(|| json!(part.not_replaced_by)));
    Value::Object(object)
}

fn of_measurement(measurement: &Measurement) -> Value {
    let mut object = Map::new();
    put(&mut object, "analyte", measurement.analyte.map(|analyte| analyte.word()));
    object.insert("rank".to_owned(), json!(measurement.rank));
    object.insert("code".to_owned(), json!(measurement.code.as_str()));
    put(&mut object, "effective", measurement.effective.map(date));
    put(&mut object, "comparator", measurement.comparator.map(|comparator| comparator.sign()));
    put(&mut object, "value", measurement.value);
    put(&mut object, "unit", measurement.unit.map(|unit| unit.ucum()));
    put(&mut object, "value_as_received", Some(measurement.value_as_received.as_str()).filter(|text| !text.is_empty()));
    put(&mut object, "unit_as_received", Some(measurement.unit_as_received.as_str()).filter(|text| !text.is_empty()));
    put(&mut object, "reference_low", measurement.reference_low);
    put(&mut object, "reference_high", measurement.reference_high);
    put(&mut object, "equation", measurement.equation.as_deref());
    put(&mut object, "unusable", measurement.unusable.as_deref());
    Value::Object(object)
}

fn of_condition(condition: &Condition) -> Value {
    let mut object = Map::new();
    object.insert("concept".to_owned(), json!(condition.concept));
    object.insert("code".to_owned(), json!(condition.code.as_str()));
    put(&mut object, "clinical_status", Some(condition.clinical_status.as_str()).filter(|text| !text.is_empty()));
    put(&mut object, "verification_status", Some(condition.verification_status.as_str()).filter(|text| !text.is_empty()));
    put(&mut object, "onset", condition.onset.map(date));
    put(&mut object, "abatement", condition.abatement.map(date));
    put(&mut object, "recorded", condition.recorded.map(date));
    Value::Object(object)
}

fn of_adverse_event(event: &AdverseEvent) -> Value {
    let mut object = Map::new();
    object.insert("codes".to_owned(), event.codes.iter().map(|code| json!(code.as_str())).collect());
    put(&mut object, "term", Some(event.term.as_str()).filter(|text| !text.is_empty()));
    object.insert("is_actual".to_owned(), json!(event.is_actual));
    put(&mut object, "grade", event.grade);
    put(&mut object, "severity", event.severity.as_deref());
    put(&mut object, "is_serious", event.is_serious);
    object.insert("seriousness_criteria".to_owned(), event.seriousness_criteria.iter().map(|code| json!(code.as_str())).collect());
    put(&mut object, "is_expected", event.is_expected);
    let relatedness = event.relatedness.iter().map(|one| {
        json!({ "suspect": one.suspect.as_str(), "is_study_product": one.is_study_product, "code": one.code.as_str(), "relation": one.relation })
    });
    object.insert("relatedness".to_owned(), relatedness.collect());
    put(&mut object, "outcome", event.outcome.as_deref());
    put(&mut object, "onset", event.onset.map(date));
    put(&mut object, "detected", event.detected.map(date));
    put(&mut object, "recorded", event.recorded.map(date));
    put(&mut object, "resolved", event.resolved.map(date));
    put(&mut object, "is_dose_limiting", event.is_dose_limiting);
    object.insert("studies".to_owned(), event.studies.iter().map(|study| json!(study.as_str())).collect());
    object.insert("names_other_study".to_owned(), json!(event.names_other_study));
    Value::Object(object)
}

fn of_research_subject(subject: &ResearchSubject) -> Value {
    let mut object = Map::new();
    object.insert("study".to_owned(), json!(subject.study.as_str()));
    object.insert("status".to_owned(), json!(subject.status.as_str()));
    put(&mut object, "arm", subject.arm.as_deref());
    object.insert("is_actual_arm".to_owned(), json!(subject.is_actual_arm));
    put(&mut object, "start", subject.start.map(date));
    put(&mut object, "end", subject.end.map(date));
    Value::Object(object)
}

fn of_administration(dose: &Administration) -> Value {
    let mut object = Map::new();
    object.insert("study".to_owned(), json!(dose.study.as_str()));
    object.insert("code".to_owned(), json!(dose.code.as_str()));
    put(&mut object, "given", dose.given.map(date));
    put(&mut object, "ended", dose.ended.map(date));
    put(&mut object, "cells", dose.cells);
    put(&mut object, "dose_as_received", Some(dose.dose_as_received.as_str()).filter(|text| !text.is_empty()));
    Value::Object(object)
}

fn of_encounter(stay: &Encounter) -> Value {
    let mut object = Map::new();
    object.insert("class".to_owned(), json!(stay.class.as_str()));
    put(&mut object, "is_planned", stay.is_planned);
    put(&mut object, "start", stay.start.map(date));
    put(&mut object, "end", stay.end.map(date));
    Value::Object(object)
}

fn put<T: Into<Value>>(object: &mut Map<String, Value>, name: &str, value: Option<T>) {
    if let Some(value) = value {
        object.insert(name.to_owned(), value.into());
    }
}

/// A date as written, or both ends of a span.
fn date(date: PartialDate) -> String {
    let end = match date.precision {
        Precision::Instant => (date.end_ms != date.start_ms).then_some(date.end_ms),
        Precision::Year | Precision::Month | Precision::Day => None,
    };
    match end {
        Some(end_ms) => format!("{date}/{}", PartialDate { start_ms: end_ms, ..date }),
        None => date.to_string(),
    }
}
