//! Each type that is read, as R4, R4B and R5 write it: one fact.

use nephrogate::catalogue::Catalogue;
use nephrogate::clinical::fact::Fact;
use nephrogate::issue::{Code, Disposition};
use nephrogate::pipeline::receive;
use nephrogate::store::ledger::Prepared;
use serde_json::{Value, json};

const SITE: &str = "demo-hospital";

fn prepared(resource: &Value) -> Prepared {
    let catalogue = Catalogue::load(None).map_err(|faults| format!("{faults:?}")).unwrap();
    receive::prepare(&catalogue, &catalogue.sites[SITE], resource.to_string().as_bytes())
}

#[track_caller]
fn fact(resource: &Value) -> Fact {
    let prepared = prepared(resource);
    assert_eq!((prepared.disposition, &prepared.issues), (Disposition::Applied, &Vec::new()), "{resource}");
    prepared.fact.unwrap()
}

/// What is applied without a word in both releases, as one fact.
#[track_caller]
fn one_fact(r4: &Value, r5: &Value) -> Fact {
    let fact_in_r4 = fact(r4);
    assert_eq!(fact_in_r4, fact(r5));
    fact_in_r4
}

fn with(resource: &Value, more: Value) -> Value {
    let mut all = resource.clone();
    for (name, value) in more.as_object().unwrap() {
        all[name] = value.clone();
    }
    all
}

fn base(resource_type: &str, status: &str) -> Value {
    json!({"resourceType": resource_type, "id": "x1", "meta": {"versionId": "3"}, "status": status, "subject": {"reference": "Patient/p1"}})
}

const PRODUCT: &str = "https://demo-hospital.example.org/pharmacy";

fn concept(system: &str, code: &str) -> Value {
    json!({"coding": [{"system": system, "code": code}]})
}

#[test]
fn a_dose_is_one_fact_in_each_release() {
    let dose = json!({"dose": {"value": 24, "unit": "mL", "system": "http://unitsofmeasure.org", "code": "mL"}});
    let administration = with(&base("MedicationAdministration", "completed"), json!({"dosage": dose}));
    let at = "2026-10-20T08:00:00Z";
    let period = json!({"start": at, "end": "2026-10-20T09:00:00Z"});
    let product = concept(PRODUCT, "ELX-ADSC");
    let r4 = with(&administration, json!({"medicationCodeableConcept": product, "effectiveDateTime": at, "category": {"text": "inpatient"}}));
    let in_r5 = json!({"medication": {"concept": product}, "category": [{"text": "inpatient"}], "recorded": "2026-10-21", "isSubPotent": false});
    let r5 = with(&administration, in_r5);
    one_fact(&r4, &with(&r5, json!({"occurenceDateTime": at})));
    one_fact(&r4, &with(&r5, json!({"occurrenceDateTime": at})));
    let r4 = with(&administration, json!({"medicationReference": {"reference": "Medication/elixcyte"}, "effectivePeriod": period}));
    let r5 = with(&administration, json!({"medication": {"reference": {"reference": "Medication/elixcyte"}}, "occurencePeriod": period}));
    one_fact(&r4, &r5);

    let procedure = base("Procedure", "completed");
    let infusion = json!({"code": concept("https://demo-hospital.example.org/procedures", "CELL-INF-ELX")});
    let procedure = with(&procedure, infusion);
    let r4 = with(&procedure, json!({"performedDateTime": at, "reasonCode": [{"text": "trial"}]}));
    one_fact(&r4, &with(&procedure, json!({"occurrenceDateTime": at, "reason": [{"concept": {"text": "trial"}}], "recorded": "2026-10-21"})));
    one_fact(&with(&procedure, json!({"performedPeriod": period})), &with(&procedure, json!({"occurrencePeriod": period, "reportedBoolean": true})));
}

#[test]
fn a_stay_is_one_fact_in_each_release() {
    const ACT: &str = "http://terminology.hl7.org/CodeSystem/v3-ActCode";
    let planned = concept("https://demo-hospital.example.org/visit-types", "STUDY-ADM");
    let period = json!({"start": "2026-10-20T08:00:00Z", "end": "2026-10-22T09:00:00Z"});
    let in_r4 = json!({"class": {"system": ACT, "code": "IMP"}, "serviceType": planned, "period": period,
        "hospitalization": {"dischargeDisposition": {"text": "home"}}});
    let r4 = with(&base("Encounter", "finished"), in_r4);
    let in_r5 = json!({"class": [concept(ACT, "IMP")], "serviceType": [{"concept": planned}], "actualPeriod": period,
        "admission": {"dischargeDisposition": {"text": "home"}}, "plannedStartDate": "2026-10-20"});
    for status in ["completed", "discharged", "discontinued", "on-hold", "in-progress"] {
        one_fact(&r4, &with(&base("Encounter", status), in_r5.clone()));
    }
    // Of several classes the one that the mapping takes counts.
    let mut several = with(&base("Encounter", "completed"), in_r5.clone());
    several["class"] = json!([concept(ACT, "PRENC"), concept(ACT, "IMP")]);
    one_fact(&r4, &several);
    let mut none = several;
    none["class"] = json!([concept(ACT, "AMB")]);
    let counted = prepared(&none);
    assert_eq!(counted.disposition, Disposition::OutOfScope);
    assert!(counted.code.unwrap().ends_with("AMB"));
    // A stay that is over has begun.
    let mut without_time = with(&base("Encounter", "completed"), in_r5);
    without_time.as_object_mut().unwrap().remove("actualPeriod");
    assert!(prepared(&without_time).issues.iter().any(|issue| issue.code == Code::TimeMissing));
}

#[test]
fn what_r5_adds_to_a_result_a_patient_or_a_condition_changes_no_fact_and_raises_nothing() {
    let result = with(
        &base("Observation", "final"),
        json!({"code": concept("http://loinc.org", "2160-0"), "effectiveDateTime": "2026-10-20T08:00:00Z",
            "valueQuantity": {"value": 2.1, "unit": "mg/dL", "system": "http://unitsofmeasure.org", "code": "mg/dL"}}),
    );
    one_fact(&result, &with(&result, json!({"triggeredBy": [{"observation": {"reference": "Observation/x0"}, "type": "repeat"}]})));
    one_fact(&result, &with(&result, json!({"bodyStructure": {"reference": "BodyStructure/b"}, "instantiatesCanonical": "https://example.org/x"})));
    let clinical = concept("http://terminology.hl7.org/CodeSystem/condition-clinical", "active");
    let mut condition = base("Condition", "");
    condition.as_object_mut().unwrap().remove("status");
    let condition = with(
        &condition,
        json!({"clinicalStatus": clinical, "code": concept("http://snomed.info/sct", "46177005"), "recordedDate": "2026-10-20",
            "verificationStatus": concept("http://terminology.hl7.org/CodeSystem/condition-ver-status", "confirmed")}),
    );
    let by = json!({"reference": "Practitioner/d"});
    let r4 = with(&condition, json!({"recorder": by, "evidence": [{"detail": [{"reference": "Observation/x1"}]}]}));
    let r5 = with(&condition, json!({"participant": [{"actor": by}], "evidence": [{"reference": {"reference": "Observation/x1"}}]}));
    one_fact(&r4, &r5);
}

#[test]
fn elements_of_two_releases_in_one_resource_are_refused() {
    let product = concept(PRODUCT, "ELX-ADSC");
    let at = "2026-10-20T08:00:00Z";
    let stay = json!({"class": [concept("http://terminology.hl7.org/CodeSystem/v3-ActCode", "IMP")], "period": {"start": at}});
    let mixed = [
        with(&base("MedicationAdministration", "completed"), json!({"medication": {"concept": product}, "effectiveDateTime": at})),
        with(&base("MedicationAdministration", "completed"), json!({"medicationCodeableConcept": product, "occurenceDateTime": at})),
        with(&base("Procedure", "completed"), json!({"performedDateTime": at, "occurrenceDateTime": "2026-10-21T08:00:00Z"})),
        with(&base("Encounter", "completed"), stay),
    ];
    for resource in &mixed {
        let prepared = prepared(resource);
        assert_eq!((prepared.disposition, prepared.issues[0].code), (Disposition::Rejected, Code::MixedReleases), "{resource}");
    }
    // A word of the other release alone is a wrong word.
    let finished = json!({"class": [concept("http://terminology.hl7.org/CodeSystem/v3-ActCode", "IMP")], "actualPeriod": {"start": at}});
    assert_eq!(prepared(&with(&base("Encounter", "finished"), finished)).disposition, Disposition::Rejected);
}
