//! What a trial takes in, by the door: the official examples of AdverseEvent and their equivalents in R5, each axis by
//! itself; and the resources of dosing, entry and stays through a running gateway.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use nephrogate::catalogue::Catalogue;
use nephrogate::clinical::date::PartialDate;
use nephrogate::clinical::fact::{AdverseEvent, Body, Relatedness, Relation, Status};
use nephrogate::fhir::WRITE_BACK_SYSTEM;
use nephrogate::fhir::edit;
use nephrogate::fhir::study_flagged::{Target, adverse_event_fragment};
use nephrogate::issue::{Code, Disposition};
use nephrogate::mapping::Site;
use nephrogate::pipeline::receive;
use serde_json::{Value, json};

use crate::fhir::shared;
use crate::gateway::{Gateway, SITE};

const NCI: &str = "http://ncicb.nci.nih.gov/xml/owl/EVS/Thesaurus.owl";
const MEDDRA: &str = "https://www.meddra.org";
const SNOMED: &str = "http://snomed.info/sct";
const BACKPORT: &str = "http://hl7.org/fhir/uv/ae-research-backport-ig/StructureDefinition/";
const RESEARCH: &str = "http://hl7.org/fhir/uv/ae-research-ig/StructureDefinition/";

/// A site that knows the trial of the guide's cancer example and its drug, and nothing else.
fn site_of_the_guide() -> Site {
    let mapping = json!({
        "note": "n", "unmapped_laboratory_codes": "count", "analytes": [], "adverse_events": {"take": true, "note": "n"},
        "studies": [{"study": "compass", "references": ["ResearchStudy/compass"], "note": "n"}],
        "products": [{"study": "compass", "references": ["MedicationAdministration/kadcyla"], "note": "n"}]
    });
    Site::compile(r#"{"id": "guide", "name": "Guide", "note": "n"}"#, &mapping.to_string()).expect("a sound mapping")
}

/// What one resource becomes: its disposition, the codes of its issues, and the event with its status.
fn prepared(site: &Site, resource: &Value) -> (Disposition, Vec<Code>, Option<(Status, AdverseEvent)>) {
    let catalogue = Catalogue::load(None).expect("the compiled-in catalogue is sound");
    of_bytes(&catalogue, site, resource.to_string().as_bytes())
}

fn of_bytes(catalogue: &Catalogue, site: &Site, bytes: &[u8]) -> (Disposition, Vec<Code>, Option<(Status, AdverseEvent)>) {
    let prepared = receive::prepare(catalogue, site, bytes);
    let codes = prepared.issues.iter().map(|issue| issue.code).collect();
    let event = prepared.fact.and_then(|fact| match fact.body {
        Body::AdverseEvent(event) => Some((fact.status, event)),
        _ => None,
    });
    (prepared.disposition, codes, event)
}

/// Each axis by itself, so that a failure names it.
#[track_caller]
fn assert_axes(name: &str, event: &AdverseEvent, expected: &AdverseEvent) {
    assert_eq!(event.codes, expected.codes, "{name}: codes");
    assert_eq!(event.term, expected.term, "{name}: term");
    assert_eq!(event.is_actual, expected.is_actual, "{name}: actuality");
    assert_eq!(event.grade, expected.grade, "{name}: grade");
    assert_eq!(event.severity, expected.severity, "{name}: severity");
    assert_eq!(event.is_serious, expected.is_serious, "{name}: seriousness");
    assert_eq!(event.seriousness_criteria, expected.seriousness_criteria, "{name}: criteria");
    assert_eq!(event.is_expected, expected.is_expected, "{name}: expectedness");
    assert_eq!(event.relatedness, expected.relatedness, "{name}: relatedness");
    assert_eq!(event.outcome, expected.outcome, "{name}: outcome");
    assert_eq!(event.onset, expected.onset, "{name}: onset");
    assert_eq!(event.detected, expected.detected, "{name}: detected");
    assert_eq!(event.recorded, expected.recorded, "{name}: recorded");
    assert_eq!(event.resolved, expected.resolved, "{name}: resolution");
    assert_eq!(event.is_dose_limiting, expected.is_dose_limiting, "{name}: dose-limiting");
    assert_eq!(event.studies, expected.studies, "{name}: studies");
    assert_eq!(event.names_other_study, expected.names_other_study, "{name}: other study");
}

fn date(text: &str) -> Option<PartialDate> {
    (!text.is_empty()).then(|| PartialDate::parse(text).expect("a date"))
}

/// The official R4 example, and the same event as R5 writes it: R5 lost `severity`, so that axis alone differs.
#[test]
fn hl7s_own_adverse_event_is_one_fact_in_r4_and_in_r5() {
    let site = site_of_the_guide();
    let expected = AdverseEvent {
        codes: vec!["snomed|304386008".into()],
        term: "This was a mild rash on the left forearm".into(),
        is_serious: Some(false),
        onset: date("2017-01-29T12:34:56+00:00"),
        ..AdverseEvent::named("")
    };
    let in_r5 = json!({
        "resourceType": "AdverseEvent", "id": "example", "status": "completed", "actuality": "actual",
        "identifier": [{"system": "http://acme.com/ids/patients/risks", "value": "49476534"}],
        "category": [{"coding": [{"system": "http://terminology.hl7.org/CodeSystem/adverse-event-category", "code": "wrong-dose"}]}],
        "code": {"coding": [{"system": SNOMED, "code": "304386008"}], "text": "This was a mild rash on the left forearm"},
        "subject": {"reference": "Patient/example"}, "occurrenceDateTime": "2017-01-29T12:34:56+00:00",
        "seriousness": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/adverse-event-seriousness", "code": "non-serious"}]},
        "recorder": {"reference": "Practitioner/example"},
        "suspectEntity": [{"instanceReference": {"reference": "Medication/example"}}]
    });
    let (disposition, issues, event) = prepared(&site, &in_r5);
    let (status, event) = event.expect("an event");
    assert_eq!((disposition, issues, status), (Disposition::Applied, vec![], Status::Final));
    assert_axes("R5", &event, &expected);

    let Some(folder) = shared("data/r4-examples/AdverseEvent") else { return };
    let files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "every official example has its axes here");
    let catalogue = Catalogue::load(None).expect("the compiled-in catalogue is sound");
    let (disposition, issues, event) = of_bytes(&catalogue, &site, &fs::read(&files[0]).unwrap());
    let (status, event) = event.expect("an event");
    assert_eq!((disposition, issues, status), (Disposition::Applied, vec![], Status::Final));
    assert_axes("R4", &event, &AdverseEvent { severity: Some("mild".into()), ..expected });
}

#[test]
fn our_own_mark_on_a_hospitals_event_does_not_say_what_the_hospital_means() {
    let site = site_of_the_guide();
    let ours = (WRITE_BACK_SYSTEM, "0123456789abcdef");
    let event = |study: Value| {
        json!({"resourceType": "AdverseEvent", "id": "e", "actuality": "actual", "subject": {"reference": "Patient/p"},
            "event": {"text": "Proteinuria"}, "study": study})
    };
    let says = |resource: &str| {
        let resource: Value = serde_json::from_str(resource).unwrap();
        let (_, event) = prepared(&site, &resource).2.expect("an event");
        (event.studies, event.names_other_study)
    };
    // At a server that takes our ids, at one that chooses them, and where it holds no ResearchStudy.
    for target in
        [Target::Marked("ResearchStudy/ng-1", ours), Target::Marked("ResearchStudy/compass", ours), Target::Named("ResearchStudy", ours, "A")]
    {
        let fragment = adverse_event_fragment("AdverseEvent/e", Some(target), None).unwrap();
        for (study, expected) in [
            (json!([{"reference": "ResearchStudy/compass"}]), (vec!["compass".into()], false)),
            (json!([{"reference": "ResearchStudy/elsewhere"}]), (vec![], true)),
            (json!([{"display": "a study"}]), (vec![], false)),
        ] {
            let before = event(study).to_string();
            let marked = edit::with_fragment(&before, &fragment).unwrap().unwrap();
            assert_eq!((says(&before), says(&marked)), (expected.clone(), expected), "{marked}");
        }
    }
}

/// One event of the clinical research guide (hl7.fhir.uv.ae-research-backport-ig 1.0.1), in our own words.
struct Example {
    /// The instance's name in the guide's FSH.
    name: &'static str,
    status: &'static str,
    code: (&'static str, &'static str, &'static str),
    term: &'static str,
    grade: &'static str,
    severity: &'static str,
    serious: &'static str,
    /// Criteria with whether they are present.
    criteria: &'static [(&'static str, bool)],
    outcome: (&'static str, &'static str),
    onset: &'static str,
    resolved: &'static str,
    expected: Option<bool>,
    suspects: &'static [(&'static str, &'static str, Relation)],
    /// `reference`, or a display alone.
    study: &'static str,
    detected: &'static str,
    recorded: &'static str,
    says: (Status, Option<u8>, bool),
}

const ALT: (&str, &str, &str) = (MEDDRA, "10001551", "https://www.meddra.org|10001551");
const REPORTABLE: (&str, &str, &str) = (SNOMED, "370901008", "snomed|370901008");
const BOTH_POSSIBLE: &[(&str, &str, Relation)] =
    &[("MedicationAdministration/kadcyla", "C53258", Relation::Possible), ("MedicationAdministration/tucatinib", "C53258", Relation::Possible)];

const PLAIN: Example = Example {
    name: "",
    status: "completed",
    code: ALT,
    term: "",
    grade: "",
    severity: "",
    serious: "non-serious",
    criteria: &[],
    outcome: ("C49498", "resolved"),
    onset: "",
    resolved: "",
    expected: None,
    suspects: &[],
    study: "ResearchStudy/compass",
    detected: "",
    recorded: "",
    says: (Status::Final, None, false),
};

/// Of the criteria of one suspected event: hospitalization, threat to life and intervention stand, the others are denied.
const THREE_CRITERIA: &[(&str, bool)] =
    &[("C11338", false), ("C83052", true), ("C48275", false), ("C84266", true), ("C83117", false), ("C82521", false), ("C201939", true)];
const NO_CRITERIA: &[(&str, bool)] =
    &[("C11338", false), ("C83052", false), ("C48275", false), ("C84266", false), ("C83117", false), ("C82521", false)];

const GUIDE: [Example; 10] = [
    Example {
        name: "adverse-event-compass-ex1",
        status: "in-progress",
        term: "Alanine aminotransferase (ALT) increased at 50",
        grade: "C41338",
        outcome: ("C49494", "ongoing"),
        onset: "2020-04-22",
        expected: Some(true),
        suspects: BOTH_POSSIBLE,
        says: (Status::Preliminary, Some(1), false),
        ..PLAIN
    },
    Example {
        name: "adverse-event-compass-ex1a",
        status: "in-progress",
        term: "Alanine aminotransferase (ALT) increased to 200",
        grade: "C41340",
        outcome: ("C49494", "ongoing"),
        onset: "2020-05-13",
        expected: Some(true),
        suspects: BOTH_POSSIBLE,
        says: (Status::Preliminary, Some(3), false),
        ..PLAIN
    },
    Example {
        name: "adverse-event-compass-ex1b",
        term: "Alanine aminotransferase (ALT) decreased to 60",
        grade: "C41338",
        onset: "2020-05-20",
        resolved: "2020-06-10",
        expected: Some(true),
        suspects: BOTH_POSSIBLE,
        says: (Status::Final, Some(1), false),
        ..PLAIN
    },
    Example {
        name: "adverse-event-compass-ex2",
        code: (MEDDRA, "10028813", "https://www.meddra.org|10028813"),
        term: "Nausea",
        grade: "C41338",
        outcome: ("C49494", "ongoing"),
        onset: "2020-05-25",
        resolved: "2021-01-21",
        expected: Some(true),
        suspects: BOTH_POSSIBLE,
        says: (Status::Final, Some(1), false),
        ..PLAIN
    },
    Example {
        name: "SeriousAdverseEventResearchStudy",
        code: (MEDDRA, "10017955", "https://www.meddra.org|10017955"),
        severity: "severe",
        serious: "serious",
        criteria: THREE_CRITERIA,
        onset: "2021-12-02",
        resolved: "2021-12-09",
        expected: Some(false),
        suspects: &[("MedicationAdministration/abc", "C53258", Relation::Possible)],
        study: "ResearchStudy/xyz",
        says: (Status::Final, None, true),
        ..PLAIN
    },
    Example {
        name: "NonSeriousAdverseEventResearchStudyMed",
        code: (MEDDRA, "10019211", "https://www.meddra.org|10019211"),
        severity: "mild",
        outcome: ("C49494", "ongoing"),
        onset: "2022-02-01",
        expected: Some(true),
        suspects: &[("MedicationAdministration/mmd", "C53257", Relation::Unlikely)],
        study: "ResearchStudy/disney",
        says: (Status::Final, None, true),
        ..PLAIN
    },
    Example {
        name: "AdverseEventFromProcedureNotStudyDrug",
        code: (MEDDRA, "10019211", "https://www.meddra.org|10019211"),
        term: "Moderate hives",
        severity: "moderate",
        onset: "2021-01-15",
        resolved: "2021-01-15",
        expected: Some(false),
        suspects: &[
            ("MedicationAdministration/wby", "C53257", Relation::Unlikely),
            ("MedicationAdministration/contrast-dye", "C53260", Relation::Related),
        ],
        study: "ResearchStudy/acme",
        says: (Status::Final, None, true),
        ..PLAIN
    },
    Example {
        name: "clinical-research-ae-example-medwatch-patient-report",
        code: REPORTABLE,
        serious: "serious",
        criteria: NO_CRITERIA,
        onset: "2023-04-10",
        suspects: &[("Medication/bresentrik", "C53258", Relation::Possible), ("ResearchStudy/breast-cancer", "C53258", Relation::Possible)],
        study: "ResearchStudy/breast-cancer",
        says: (Status::Final, None, true),
        ..PLAIN
    },
    Example {
        name: "adverse-event-device-death",
        code: (SNOMED, "370903006", "snomed|370903006"),
        term: "Patient death due to device explosion",
        // C48275 is grade 5, a criterion and an outcome: only the element tells which.
        grade: "C48275",
        serious: "serious",
        criteria: &[("C11338", false), ("C83052", false), ("C48275", true), ("C84266", false)],
        outcome: ("C48275", "fatal"),
        onset: "2020-05-20",
        expected: Some(false),
        suspects: &[("Device/infuser", "C53260", Relation::Related), ("MedicationAdministration/kadcyla", "C53256", Relation::NotRelated)],
        says: (Status::Final, Some(5), false),
        ..PLAIN
    },
    Example {
        name: "ClinicalTrialSignificantAdverseEvent",
        code: REPORTABLE,
        severity: "severe",
        serious: "serious",
        criteria: THREE_CRITERIA,
        outcome: ("C49496", "recovering"),
        suspects: &[("MedicationAdministration/0301", "C53260", Relation::Related)],
        // The guide names the study by a display alone, which names nobody.
        study: "",
        detected: "1905-08-23",
        recorded: "1905-08-24",
        says: (Status::Final, None, false),
        ..PLAIN
    },
];

fn coded(system: &str, code: &str) -> Value {
    json!({"coding": [{"system": system, "code": code}]})
}

impl Example {
    fn fact(&self) -> AdverseEvent {
        let (_, grade, names_other_study) = self.says;
        let relatedness = self.suspects.iter().map(|(suspect, code, relation)| Relatedness {
            suspect: (*suspect).into(),
            is_study_product: *suspect == "MedicationAdministration/kadcyla",
            code: (*code).into(),
            relation: Some(*relation),
        });
        AdverseEvent {
            codes: vec![self.code.2.into()],
            term: self.term.into(),
            is_actual: true,
            grade,
            severity: (!self.severity.is_empty()).then(|| self.severity.into()),
            is_serious: Some(self.serious == "serious"),
            seriousness_criteria: self.criteria.iter().filter(|(_, present)| *present).map(|(code, _)| (*code).into()).collect(),
            is_expected: self.expected,
            relatedness: relatedness.collect(),
            outcome: Some(self.outcome.1.into()),
            onset: date(self.onset),
            detected: date(self.detected),
            recorded: date(self.recorded),
            resolved: date(self.resolved),
            is_dose_limiting: None,
            studies: if self.study == "ResearchStudy/compass" { vec!["compass".into()] } else { Vec::new() },
            names_other_study,
        }
    }

    /// What the event is in either release.
    fn common(&self, base: &str) -> (Value, Vec<Value>) {
        let mut resource = json!({
            "resourceType": "AdverseEvent", "id": "e", "actuality": "actual", "subject": {"reference": "Patient/p"},
            "seriousness": coded("http://terminology.hl7.org/CodeSystem/adverse-event-seriousness", self.serious),
            "study": [if self.study.is_empty() { json!({"display": "NCT1010101"}) } else { json!({"reference": self.study}) }]
        });
        for (element, text) in [("detected", self.detected), ("recordedDate", self.recorded)] {
            if !text.is_empty() {
                resource[element] = json!(text);
            }
        }
        let mut extensions = vec![json!({"url": format!("{base}caused-subject-to-discontinue-study"), "valueBoolean": false})];
        if !self.grade.is_empty() {
            extensions.push(json!({"url": format!("{base}ae-grade"), "valueCodeableConcept": coded(NCI, self.grade)}));
        }
        extensions.extend(self.criteria.iter().map(|(code, present)| {
            json!({"url": format!("{base}seriousness-criteria"), "extension": [
                {"url": "criterionCode", "valueCodeableConcept": coded(NCI, code)}, {"url": "criterionPresent", "valueBoolean": present}]})
        }));
        (resource, extensions)
    }

    fn what(&self) -> Value {
        let mut what = coded(self.code.0, self.code.1);
        if !self.term.is_empty() {
            what["text"] = json!(self.term);
        }
        what
    }

    fn in_r4(&self) -> Value {
        let (mut resource, mut extensions) = self.common(BACKPORT);
        resource["modifierExtension"] = json!([{"url": format!("{BACKPORT}status"), "valueCode": self.status}]);
        resource["event"] = self.what();
        resource["outcome"] = coded(NCI, self.outcome.0);
        if !self.onset.is_empty() {
            resource["date"] = json!(self.onset);
        }
        if !self.severity.is_empty() {
            resource["severity"] = coded("http://terminology.hl7.org/CodeSystem/adverse-event-severity", self.severity);
        }
        if !self.resolved.is_empty() {
            extensions.push(json!({"url": format!("{BACKPORT}resolve-date"), "valueDateTime": self.resolved}));
        }
        if let Some(expected) = self.expected {
            extensions.push(json!({"url": format!("{BACKPORT}expected-in-research-study"), "valueBoolean": expected}));
        }
        extensions.extend(self.suspects.iter().map(|(suspect, code, _)| {
            let relatedness = json!({"url": "entityRelatedness", "valueCodeableConcept": coded(NCI, code)});
            json!({"url": format!("{BACKPORT}suspect-entity"), "extension": [
                {"url": "instance", "valueReference": {"reference": suspect}}, {"url": "causality", "extension": [relatedness]}]})
        }));
        resource["extension"] = json!(extensions);
        resource
    }

    fn in_r5(&self) -> Value {
        let (mut resource, mut extensions) = self.common(RESEARCH);
        resource["status"] = json!(self.status);
        resource["code"] = self.what();
        resource["outcome"] = json!([coded(NCI, self.outcome.0)]);
        match (self.onset.is_empty(), self.resolved.is_empty()) {
            (false, false) => resource["occurrencePeriod"] = json!({"start": self.onset, "end": self.resolved}),
            (false, true) => resource["occurrenceDateTime"] = json!(self.onset),
            (true, _) => {}
        }
        if !self.severity.is_empty() {
            let severity = coded("http://terminology.hl7.org/CodeSystem/adverse-event-severity", self.severity);
            extensions.push(json!({"url": format!("{RESEARCH}ae-severity"), "valueCodeableConcept": severity}));
        }
        if let Some(expected) = self.expected {
            resource["expectedInResearchStudy"] = json!(expected);
        }
        let suspect = |(suspect, code, _): &(&str, &str, Relation)| json!({"instanceReference": {"reference": suspect}, "causality": {"entityRelatedness": coded(NCI, code)}});
        resource["suspectEntity"] = self.suspects.iter().map(suspect).collect();
        resource["extension"] = json!(extensions);
        resource
    }
}

#[test]
fn every_example_of_the_research_profile_is_one_fact_in_r4_and_in_r5() {
    let catalogue = Catalogue::load(None).expect("the compiled-in catalogue is sound");
    let site = site_of_the_guide();
    for example in &GUIDE {
        for (release, resource) in [("R4", example.in_r4()), ("R5", example.in_r5())] {
            let name = format!("{} in {release}", example.name);
            let (disposition, issues, event) = of_bytes(&catalogue, &site, resource.to_string().as_bytes());
            assert_eq!((disposition, issues), (Disposition::Applied, vec![]), "{name}");
            let (status, event) = event.expect(&name);
            assert_eq!(status, example.says.0, "{name}: status");
            assert_axes(&name, &event, &example.fact());
        }
    }
    // None of the guide's examples is left out.
    let Some(folder) = shared("data/hl7-ae-backport-ig") else { return };
    assert_eq!(instances(&folder), GUIDE.iter().map(|example| example.name.to_owned()).collect::<BTreeSet<_>>());
}

/// Names of the FSH instances of the guide's profile.
fn instances(folder: &Path) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder).unwrap().flatten().filter(|entry| entry.path().extension().is_some_and(|ending| ending == "fsh")) {
        let text = fs::read_to_string(entry.path()).unwrap();
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let of_profile = lines.windows(2).filter(|pair| pair[1] == "InstanceOf: AdverseEvent-clinical-research");
        names.extend(of_profile.filter_map(|pair| Some(pair[0].strip_prefix("Instance: ")?.to_owned())));
    }
    names
}

#[test]
fn what_takes_an_r5_event_back_or_leaves_it_open_is_heard() {
    let site = site_of_the_guide();
    let changed = |change: fn(&mut Value)| {
        let mut resource = GUIDE[2].in_r5();
        change(&mut resource);
        prepared(&site, &resource)
    };
    let (disposition, _, event) = changed(|event| event["status"] = json!("entered-in-error"));
    assert_eq!((disposition, event.map(|(status, _)| status)), (Disposition::Applied, Some(Status::EnteredInError)));
    let (disposition, _, event) = changed(|event| event["actuality"] = json!("potential"));
    assert_eq!((disposition, event.map(|(_, event)| event.is_actual)), (Disposition::Applied, Some(false)));
    for (change, disposition, code) in [
        ((|event| event["status"] = json!("unknown")) as fn(&mut Value), Disposition::Quarantined, Code::StatusUnknown),
        (|event| event["subject"] = json!({"reference": "Group/g"}), Disposition::Quarantined, Code::IdentityMissing),
        (
            |event| event["modifierExtension"] = json!([{"url": "http://example.org/not", "valueBoolean": true}]),
            Disposition::Quarantined,
            Code::UnknownModifier,
        ),
        (|event| event["status"] = json!("preparation"), Disposition::Rejected, Code::Shape),
        (|event| event["date"] = json!("2020-05-20"), Disposition::Rejected, Code::MixedReleases),
        (|event| event["suspectEntity"][0]["instance"] = json!({"reference": "Medication/1"}), Disposition::Rejected, Code::MixedReleases),
        (|event| event["occurrenceDateTime"] = json!("2020-05-20"), Disposition::Rejected, Code::Shape),
        (|event| event["occurrencePeriod"] = json!({"start": "2020-06-10", "end": "2020-05-20"}), Disposition::Rejected, Code::InvalidDate),
        (|event| event["outcome"] = coded(NCI, "C49498"), Disposition::Rejected, Code::Shape),
        (|event| event["seriousness"] = coded("http://example.org", "rather"), Disposition::Applied, Code::AxisUnmapped),
    ] {
        let (found, issues, _) = changed(change);
        assert_eq!((found, issues.as_slice()), (disposition, [code].as_slice()));
    }
}

/// A pushed resource, as the demo hospital's example of this name with an id of its own.
fn example(name: &str, id: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("mappings/demo-hospital/examples").join(format!("{name}.in.json"));
    let mut resource: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    resource["id"] = json!(id);
    resource
}

#[test]
fn everything_of_a_trial_that_is_pushed_ends_in_one_disposition_and_the_counts_add_up() {
    let gateway = Gateway::start();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("mappings/demo-hospital/examples");
    let mut names: Vec<String> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let of_trial = ["adverse-event", "research-subject", "dose-", "procedure-", "stay-"];
    let names: Vec<&str> =
        names.iter().filter_map(|name| name.strip_suffix(".in.json")).filter(|name| of_trial.iter().any(|kind| name.starts_with(kind))).collect();
    let mut expected = std::collections::BTreeMap::new();
    for (index, name) in names.iter().enumerate() {
        let resource = example(name, &format!("x{index}"));
        let kind = resource["resourceType"].as_str().unwrap();
        gateway.put_fhir(&format!("/fhir/{SITE}/{kind}/x{index}"), &resource);
        let out = Path::new(env!("CARGO_MANIFEST_DIR")).join("mappings/demo-hospital/examples").join(format!("{name}.out.json"));
        let out: Value = serde_json::from_slice(&fs::read(out).unwrap()).unwrap();
        *expected.entry(out["disposition"].as_str().unwrap().to_owned()).or_insert(0u64) += 1;
    }
    assert!(80 < names.len());
    let counts = gateway.conservation();
    for (disposition, count) in expected {
        assert_eq!(counts["dispositions"][&disposition], count, "{disposition}: {counts}");
    }
}

#[test]
fn doses_entries_and_stays_are_mirrored_and_what_is_none_of_ours_is_only_counted() {
    let gateway = Gateway::start();
    let at = |rest: &str| format!("/fhir/{SITE}/{rest}");
    let put = |name: &str, path: &str| {
        let resource = example(name, path.split('/').nth(1).unwrap());
        (gateway.put_fhir(&at(path), &resource).status, resource)
    };
    let (status, dose) = put("dose-in-millilitres", "MedicationAdministration/m1");
    assert_eq!((status, gateway.get(&at("MedicationAdministration/m1")).json()), (200, dose));
    assert_eq!(put("dose-of-another-drug", "MedicationAdministration/m2").0, 202);
    assert_eq!(gateway.get(&at("MedicationAdministration/m2")).status, 404, "an aspirin is nobody's business");
    assert_eq!(gateway.get(&at("MedicationAdministration?patient=p1")).json()["total"], 1);
    assert_eq!(put("procedure-infusion", "Procedure/r1").0, 200);
    assert_eq!(gateway.get(&at("Procedure?patient=p1&code=CELL-INF-ELX")).json()["total"], 1);
    assert_eq!(put("stay-unplanned", "Encounter/e1").0, 200);
    assert_eq!(put("stay-ambulatory", "Encounter/e2").0, 202);
    assert_eq!(gateway.get(&at("Encounter?patient=p1")).json()["total"], 1);
    let (status, entry) = put("research-subject", "ResearchSubject/s1");
    assert_eq!((status, gateway.get(&at("ResearchSubject/s1")).json()), (200, entry));
    assert_eq!(put("research-subject-of-an-unknown-arm", "ResearchSubject/s2").0, 202, "kept until the mapping names the arm");
    // A later word that the drug was another one takes the dose back.
    let mut corrected = example("dose-of-another-drug", "m1");
    corrected["meta"] = json!({"versionId": "2", "lastUpdated": "2026-03-02T10:00:00Z"});
    gateway.put_fhir(&at("MedicationAdministration/m1"), &corrected);
    assert_eq!(gateway.get(&at("MedicationAdministration?patient=p1")).json()["total"], 0);
    gateway.conservation();
}
