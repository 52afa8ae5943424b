//! Runs the examples of sites and studies through the very code that reads a feed, and says where the outcome differs.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::catalogue::Catalogue;
use crate::catalogue::files::Files;
use crate::clinical::date::AsOf;
use crate::clinical::fact::{Body, Decision, Fact};
use crate::fhir::{self, RawResource};
use crate::issue::Disposition;
use crate::mapping::trial::DOSE_LIMITING;
use crate::mapping::{Normalised, Site, outcome};
use crate::pipeline::{hl7, receive};
use crate::rules::{self, Assessment};
use crate::store::body;
use crate::store::ledger::Prepared;
use crate::study::Study;

/// The examples of one folder.
#[derive(Default)]
pub struct Run {
    pub examples: Vec<Example>,
    /// Codes, unit spellings and grade words that the facts show.
    pub exercised: BTreeSet<String>,
    pub opinions: Opinions,
}

/// What the typed reader (feature `strict`) says of the resources that are applied.
#[derive(Default)]
pub struct Opinions {
    pub asked: usize,
    /// Where, and what: `mappings/x/examples/a.in.json: missing field ...`.
    pub objections: Vec<String>,
}

impl Opinions {
    pub fn add(&mut self, other: &mut Opinions) {
        self.asked += other.asked;
        self.objections.append(&mut other.objections);
    }

    pub fn sentence(&self) -> String {
        match (self.asked, self.objections.len()) {
            (0, _) if !fhir::HAS_STRICT_OPINION => "typed reader: not in this build (cargo build --features strict)".to_owned(),
            (asked, 0) => format!("typed reader: {asked} applied resources asked about, no objection"),
            (asked, objections) => format!("typed reader: {asked} applied resources asked about, {objections} objections"),
        }
    }

    /// Adds what it says of one resource; nothing where this build lacks it.
    fn ask(&mut self, place: &str, bytes: &[u8]) {
        let Some(opinion) = RawResource::parse(bytes).ok().and_then(|resource| fhir::strict_opinion(&resource)) else { return };
        self.asked += 1;
        if let Err(objection) = opinion {
            self.objections.push(format!("{place}: {objection}"));
        }
    }
}

pub struct Example {
    pub out_file: String,
    pub outcome: Outcome,
}

pub enum Outcome {
    Agrees,
    Differs {
        found: Value,
        differences: Vec<Difference>,
    },
    /// There is no `.out.json`.
    Missing {
        found: Value,
    },
    /// One of the two files cannot be read.
    Broken {
        file: String,
        message: String,
        hint: &'static str,
    },
}

/// One place where two documents differ; `nothing` stands for a member that is not there.
pub struct Difference {
    /// JSON pointer.
    pub path: String,
    pub expected: String,
    pub found: String,
}

impl Example {
    /// What `--bless` writes.
    pub fn blessed(&self) -> Option<String> {
        match &self.outcome {
            Outcome::Differs { found, .. } | Outcome::Missing { found } => {
                Some(format!("{}\n", serde_json::to_string_pretty(found).expect("a JSON value is JSON")))
            }
            Outcome::Agrees | Outcome::Broken { .. } => None,
        }
    }
}

/// Runs `mappings/<site>/examples/*.in.json`, one resource each, and `*.in.hl7`, one HL7 v2 message each.
pub fn of_site(catalogue: &Catalogue, files: &Files, site: &Site) -> Run {
    let folder = format!("mappings/{}/examples", site.id);
    let mut run = Run::default();
    let mut known = BTreeSet::new();
    for in_file in files.below(&folder) {
        let (name, is_message) = match (in_file.strip_suffix(".in.json"), in_file.strip_suffix(".in.hl7")) {
            (Some(name), _) => (name, false),
            (None, Some(name)) => (name, true),
            (None, None) => continue,
        };
        let out_file = format!("{name}.out.json");
        let bytes = files.bytes(in_file).expect("the path was listed");
        let found = if is_message {
            read_message(catalogue, site, bytes, in_file, &mut run)
        } else {
            let normalised = read(catalogue, site, bytes, in_file, &mut run.opinions);
            run.exercised.extend(normalised.fact.iter().flat_map(shown));
            outcome::to_json(&normalised)
        };
        run.examples.push(Example { outcome: compare(files, &out_file, found), out_file: out_file.clone() });
        known.insert(out_file);
    }
    add_orphans(files, &folder, &known, &mut run);
    run
}

/// Runs `studies/<study>/examples/*.in.ndjson`.
pub fn of_study(catalogue: &Catalogue, files: &Files, study: &Study) -> Run {
    let folder = format!("studies/{}/examples", study.id);
    let mut run = Run::default();
    let mut known = BTreeSet::new();
    for in_file in files.below(&folder).filter(|path| path.ends_with(".in.ndjson")) {
        let out_file = format!("{}.out.json", in_file.trim_end_matches(".in.ndjson"));
        let judged = files.text(in_file).and_then(|text| judge(catalogue, study, text, in_file, &mut run.opinions));
        let outcome = match judged {
            Ok(found) => compare(files, &out_file, found),
            Err(message) => {
                let hint = "the first line is {\"site\": ..., \"as_of\": ..., \"note\": ...}, each other a resource or {\"subject\": ..., \"decision\": ...}";
                Outcome::Broken { file: in_file.to_owned(), message, hint }
            }
        };
        run.examples.push(Example { outcome, out_file: out_file.clone() });
        known.insert(out_file);
    }
    add_orphans(files, &folder, &known, &mut run);
    run
}

/// An expectation whose input is gone tests nothing.
fn add_orphans(files: &Files, folder: &str, known: &BTreeSet<String>, run: &mut Run) {
    for file in files.below(folder).filter(|path| path.ends_with(".out.json") && !known.contains(*path)) {
        let outcome = Outcome::Broken {
            file: file.to_owned(),
            message: "there is no input of this name".to_owned(),
            hint: "add the .in file, or remove this one",
        };
        run.examples.push(Example { out_file: file.to_owned(), outcome });
    }
}

/// One resource, read as a feed's would be.
fn read(catalogue: &Catalogue, site: &Site, bytes: &[u8], place: &str, opinions: &mut Opinions) -> Normalised {
    let prepared = receive::prepare(catalogue, site, bytes);
    if prepared.disposition == Disposition::Applied {
        opinions.ask(place, bytes);
    }
    normalised(prepared)
}

/// One HL7 v2 message, read as a feed's would be, with what became of each resource that it says.
fn read_message(catalogue: &Catalogue, site: &Site, bytes: &[u8], place: &str, run: &mut Run) -> Value {
    let mut prepared = hl7::prepare(catalogue, site, bytes);
    let derived: Vec<Value> = std::mem::take(&mut prepared.derived)
        .into_iter()
        .map(|derived| {
            if derived.disposition == Disposition::Applied {
                run.opinions.ask(place, &body::unpack(&derived.body).expect("it was packed a moment ago"));
            }
            let normalised = normalised(derived);
            run.exercised.extend(normalised.fact.iter().flat_map(shown));
            outcome::to_json(&normalised)
        })
        .collect();
    let message_type = prepared.resource_type.clone();
    json!({ "message": message_type, "outcome": outcome::to_json(&normalised(prepared)), "says": derived })
}

fn normalised(prepared: Prepared) -> Normalised {
    Normalised { subject: prepared.subject, fact: prepared.fact, issues: prepared.issues, disposition: prepared.disposition, code: prepared.code }
}

/// What a fact shows of the mapping's entries.
fn shown(fact: &Fact) -> Vec<String> {
    match &fact.body {
        Body::Measurement(measurement) => {
            vec![measurement.code.to_string(), measurement.unit_as_received.to_string(), measurement.value_as_received.to_string()]
        }
        Body::Condition(condition) => vec![condition.code.to_string()],
        Body::AdverseEvent(event) => {
            let words = event.codes.iter().chain(&event.studies).chain(event.relatedness.iter().map(|one| &one.code));
            let suspects = event.relatedness.iter().map(|one| &one.suspect);
            let dose_limiting = event.is_dose_limiting.map(|_| DOSE_LIMITING.to_owned());
            words.chain(suspects).map(|word| word.to_string()).chain(dose_limiting).collect()
        }
        Body::ResearchSubject(subject) => subject.arm.iter().map(|arm| arm.to_string()).chain([subject.study.to_string()]).collect(),
        Body::Administration(dose) => vec![dose.code.to_string()],
        Body::Encounter(stay) => vec![stay.class.to_string()],
        Body::Person(_) | Body::PersonPart(_) | Body::Decision(_) | Body::Nothing => Vec::new(),
    }
}

#[derive(Deserialize)]
struct Header {
    site: String,
    as_of: String,
    /// What the example shows.
    #[serde(rename = "note")]
    _note: String,
}

/// A line that is not a resource: what a person decided.
#[derive(Deserialize)]
struct DecisionLine<'a> {
    #[serde(borrow)]
    subject: &'a str,
    #[serde(borrow)]
    decision: &'a RawValue,
}

/// Judges every subject of an example's input.
fn judge(catalogue: &Catalogue, study: &Study, text: &str, in_file: &str, opinions: &mut Opinions) -> Result<Value, String> {
    let mut lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let (_, first) = lines.next().ok_or("the file is empty")?;
    let header: Header = serde_json::from_str(first).map_err(|error| format!("line 1: {error}"))?;
    let site = catalogue.sites.get(&header.site).ok_or_else(|| format!("line 1: there is no site {}", header.site))?;
    let as_of = AsOf::parse(&header.as_of).map_err(|_| "line 1: as_of is not a FHIR date".to_owned())?;
    let mut of_subject: BTreeMap<String, Vec<Fact>> = BTreeMap::new();
    let mut dispositions: BTreeMap<&str, u64> = BTreeMap::new();
    for (index, line) in lines {
        let message = index as i64;
        if let Ok(decided) = serde_json::from_str::<DecisionLine<'_>>(line) {
            let decision: Decision = serde_json::from_str(decided.decision.get()).map_err(|error| format!("line {}: {error}", index + 1))?;
            let mut fact = decision.into_fact(format!("line-{}", index + 1));
            fact.source.message = message;
            of_subject.entry(decided.subject.to_owned()).or_default().push(fact);
            continue;
        }
        let normalised = read(catalogue, site, line.as_bytes(), &format!("{in_file} line {}", index + 1), opinions);
        *dispositions.entry(normalised.disposition.word()).or_default() += 1;
        if let (Some(subject), Some(mut fact)) = (normalised.subject, normalised.fact) {
            fact.source.message = message;
            of_subject.entry(subject.into()).or_default().push(fact);
        }
    }
    let subjects: Map<String, Value> =
        of_subject.into_iter().map(|(subject, facts)| (subject, of_assessment(&rules::assess(study, &site.chart(facts), as_of)))).collect();
    Ok(json!({ "dispositions": dispositions, "subjects": subjects }))
}

/// The part of a judgement that a reviewer of the protocol can read; hashes and receipt numbers are left out.
fn of_assessment(assessment: &Assessment) -> Value {
    let mut criteria = Map::new();
    for criterion in &assessment.criteria {
        let mut verdict = Map::new();
        verdict.insert("verdict".to_owned(), json!(criterion.verdict));
        if let Some(reason) = criterion.reason {
            verdict.insert("reason".to_owned(), json!(reason));
        }
        verdict.insert("explanation".to_owned(), json!(criterion.explanation));
        criteria.insert(criterion.id.clone(), Value::Object(verdict));
    }
    json!({
        "prescreen": assessment.prescreen,
        "eligibility": assessment.eligibility,
        // Four decimals tell one equation from another without a last digit that a machine decides.
        "egfr": assessment.egfr.map(|egfr| (egfr * 10_000.0).round() / 10_000.0),
        "state": assessment.state,
        "hidden": assessment.hidden,
        "near_miss": assessment.near_miss.as_ref().map(|near| near.criterion.clone()),
        "missing": assessment.missing,
        "criteria": criteria,
    })
}

fn compare(files: &Files, out_file: &str, found: Value) -> Outcome {
    if !files.has(out_file) {
        return Outcome::Missing { found };
    }
    let expected = files.text(out_file).and_then(|text| serde_json::from_str::<Value>(text).map_err(|error| format!("not JSON: {error}")));
    match expected {
        Err(message) => Outcome::Broken { file: out_file.to_owned(), message, hint: "mend the file, or let `check --bless DIR` write it" },
        Ok(expected) => {
            // Numbers keep their text here, so both sides go through text once.
            let found: Value = serde_json::from_str(&found.to_string()).expect("a JSON value is JSON");
            let mut differences = Vec::new();
            differ("", Some(&expected), Some(&found), &mut differences);
            if differences.is_empty() { Outcome::Agrees } else { Outcome::Differs { found, differences } }
        }
    }
}

fn differ(path: &str, expected: Option<&Value>, found: Option<&Value>, differences: &mut Vec<Difference>) {
    match (expected, found) {
        (Some(Value::Object(expected)), Some(Value::Object(found))) => {
            let names: BTreeSet<&String> = expected.keys().chain(found.keys()).collect();
            for name in names {
                differ(&format!("{path}/{name}"), expected.get(name), found.get(name), differences);
            }
        }
        (Some(Value::Array(expected)), Some(Value::Array(found))) => {
            for index in 0..expected.len().max(found.len()) {
                differ(&format!("{path}/{index}"), expected.get(index), found.get(index), differences);
            }
        }
        (expected, found) if expected == found => {}
        (expected, found) => {
            let text = |value: Option<&Value>| value.map_or_else(|| "nothing".to_owned(), Value::to_string);
            let path = if path.is_empty() { "/".to_owned() } else { path.to_owned() };
            differences.push(Difference { path, expected: text(expected), found: text(found) });
        }
    }
}
