//! Facts built by hand, as the mapping would give them, and the door to judgement.

use nephrogate::clinical::chart::Chart;
use nephrogate::clinical::date::{AsOf, PartialDate};
use nephrogate::clinical::fact::{
    Administration, AdverseEvent, Body, Concept, Condition, Decided, Decision, Encounter, Fact, Measurement, Person, ResearchSubject, ResourceType,
    Sex, Source, Status,
};
use nephrogate::clinical::quantity::{Analyte, Comparator, Unit};
use nephrogate::rules::{Assessment, CriterionVerdict, assess};
use nephrogate::study::Study;

pub fn study_text(id: &str) -> String {
    let root = env!("CARGO_MANIFEST_DIR");
    let folder = if id == "anaemia-1" { "tests/catalogue/studies" } else { "studies" };
    std::fs::read_to_string(format!("{root}/{folder}/{id}/study.json")).unwrap()
}

pub fn study(id: &str) -> Study {
    Study::parse(&study_text(id)).unwrap()
}

pub fn date(text: &str) -> PartialDate {
    PartialDate::parse(text).unwrap()
}

pub fn ms(text: &str) -> i64 {
    date(text).start_ms
}

fn fact(resource_type: ResourceType, id: &str, body: Body) -> Fact {
    let source = Source { resource_type, id: id.into(), version: Some("1".into()), last_updated_ms: None, message: 0 };
    Fact { source, key: None, status: Status::Final, issued_ms: None, body }
}

pub fn person(birth: &str, sex: Sex) -> Fact {
    person_with(|person| {
        person.sex = Some(sex);
        person.birth_date = Some(date(birth));
    })
}

pub fn person_with(change: impl FnOnce(&mut Person)) -> Fact {
    let mut body = Person {
        sex: None,
        birth_date: None,
        deceased: false,
        deceased_at: None,
        is_test: false,
        is_restricted: false,
        replaced_by: None,
        replaces: Vec::new(),
    };
    change(&mut body);
    fact(ResourceType::Patient, "p", Body::Person(body))
}

/// A man of 60 on every day of 2026.
pub fn man_of_60() -> Fact {
    person("1966-01-01", Sex::Male)
}

pub fn lab(id: &str, analyte: Analyte, when: &str, value: f64, unit: Unit) -> Fact {
    let body = Measurement {
        analyte: Some(analyte),
        rank: 0,
        code: "loinc|0000-0".into(),
        effective: Some(date(when)),
        value: Some(value),
        unit: Some(unit),
        comparator: None,
        value_as_received: value.to_string().into(),
        unit_as_received: unit.ucum().into(),
        reference_low: None,
        reference_high: None,
        equation: None,
        unusable: None,
    };
    fact(ResourceType::Observation, id, Body::Measurement(body))
}

pub fn creatinine(id: &str, when: &str, mg_dl: f64) -> Fact {
    lab(id, Analyte::Creatinine, when, mg_dl, Unit::MgPerDl)
}

pub fn condition(id: &str, concept: Concept, clinical: &str, verification: &str) -> Fact {
    let body = Condition {
        concept,
        code: "snomed|0".into(),
        clinical_status: clinical.into(),
        verification_status: verification.into(),
        onset: Some(date("2024-01-01")),
        abatement: None,
        recorded: None,
    };
    fact(ResourceType::Condition, id, Body::Condition(body))
}

pub fn decision(id: &str, study: &str, when: &str, seen: &str, what: Decided) -> Fact {
    let body =
        Decision { study: study.into(), by: "Dr. Chen".into(), reason: "seen on the ward".into(), at_ms: ms(when), evidence_seen: seen.into(), what };
    fact(ResourceType::Decision, id, Body::Decision(body))
}

/// What a hospital says of a subject's part in a study.
pub fn research_subject(id: &str, study: &str, status: &str, arm: Option<&str>, start: &str, end: Option<&str>) -> Fact {
    let body = ResearchSubject {
        study: study.into(),
        status: status.into(),
        arm: arm.map(Into::into),
        is_actual_arm: true,
        start: Some(date(start)),
        end: end.map(date),
    };
    fact(ResourceType::ResearchSubject, id, Body::ResearchSubject(body))
}

/// One dose of the study's product, as a MedicationAdministration.
pub fn administration(id: &str, study: &str, given: &str, cells: Option<f64>) -> Fact {
    let body = Administration {
        study: study.into(),
        code: "local|CELLS".into(),
        given: Some(date(given)),
        ended: None,
        cells,
        dose_as_received: cells.map(|cells| format!("{cells:e} cells").into()).unwrap_or_default(),
    };
    fact(ResourceType::MedicationAdministration, id, Body::Administration(body))
}

pub fn encounter(id: &str, class: &str, is_planned: Option<bool>, start: &str) -> Fact {
    let body = Encounter { class: class.into(), is_planned, start: Some(date(start)), end: None };
    fact(ResourceType::Encounter, id, Body::Encounter(body))
}

pub fn adverse_event(id: &str, term: &str, change: impl FnOnce(&mut AdverseEvent)) -> Fact {
    let mut body = AdverseEvent::named(term);
    change(&mut body);
    fact(ResourceType::AdverseEvent, id, Body::AdverseEvent(body))
}

/// Changes of one fact, to be chained.
pub trait Changed {
    fn version(self, version: &str) -> Fact;
    fn status(self, status: Status) -> Fact;
    fn issued(self, when: &str) -> Fact;
    fn key(self, key: &str) -> Fact;
    fn rank(self, rank: u8) -> Fact;
    fn comparator(self, comparator: Comparator) -> Fact;
    fn upper(self, limit: f64) -> Fact;
    fn measured(self, change: impl FnOnce(&mut Measurement)) -> Fact;
    fn conditioned(self, change: impl FnOnce(&mut Condition)) -> Fact;
}

impl Changed for Fact {
    fn version(mut self, version: &str) -> Fact {
        self.source.version = Some(version.into());
        self
    }

    fn status(mut self, status: Status) -> Fact {
        self.status = status;
        self
    }

    fn issued(mut self, when: &str) -> Fact {
        self.issued_ms = Some(ms(when));
        self
    }

    fn key(mut self, key: &str) -> Fact {
        self.key = Some(key.into());
        self
    }

    fn rank(self, rank: u8) -> Fact {
        self.measured(|measurement| measurement.rank = rank)
    }

    fn comparator(self, comparator: Comparator) -> Fact {
        self.measured(|measurement| measurement.comparator = Some(comparator))
    }

    fn upper(self, limit: f64) -> Fact {
        self.measured(|measurement| measurement.reference_high = Some(limit))
    }

    fn measured(mut self, change: impl FnOnce(&mut Measurement)) -> Fact {
        let Body::Measurement(measurement) = &mut self.body else { panic!("only measurements are measured") };
        change(measurement);
        self
    }

    fn conditioned(mut self, change: impl FnOnce(&mut Condition)) -> Fact {
        let Body::Condition(condition) = &mut self.body else { panic!("only conditions are conditioned") };
        change(condition);
        self
    }
}

/// A chart of a site that declares its Conditions complete.
pub fn chart(facts: &[Fact]) -> Chart {
    Chart::fold(facts.to_vec(), &[ResourceType::Condition])
}

pub fn judged(study: &Study, facts: &[Fact], as_of: &str) -> Assessment {
    assess(study, &chart(facts), AsOf::parse(as_of).unwrap())
}

pub fn criterion<'a>(assessment: &'a Assessment, id: &str) -> &'a CriterionVerdict {
    assessment.criteria.iter().find(|criterion| criterion.id == id).unwrap_or_else(|| panic!("no criterion {id}"))
}

/// The creatinine in mg/dL at which CKD-EPI 2021 gives this eGFR for a man of 60 (above 0.9 mg/dL).
pub fn creatinine_of(egfr: f64) -> f64 {
    0.9 * (egfr / (142.0 * 0.9938_f64.powi(60))).powf(-1.0 / 1.2)
}
