//! Compiles site.json and mapping.json into the tables of a [`Site`], and lists what no schema can say is wrong.

use std::collections::{HashMap, HashSet};
use std::sync::RwLock;

use compact_str::CompactString;
use serde::Deserialize;

use super::{ConditionCode, Entry, ObservationCode, OtherMeanings, Site, Wrong, full_code, short_system};
use crate::clinical::fact::{Concept, ResourceType};
use crate::clinical::quantity::{ANALYTES, Analyte, Unit};
use crate::hl7::Conventions;
use crate::hl7::conventions::Said;
use crate::mapping::trial::{DoseLimitingFile, EncounterFile, Parts, ProductFile, RelationFile, StudyFile, Trial};
use crate::mapping::units;

#[derive(Deserialize)]
struct SiteFile {
    id: String,
    name: String,
    #[serde(default)]
    demo: bool,
    #[serde(default)]
    own_base_urls: Vec<String>,
    #[serde(default)]
    complete: Vec<String>,
    studies: Option<Vec<String>>,
    zone: Option<String>,
}

#[derive(Deserialize)]
struct MappingFile {
    unmapped_laboratory_codes: UnmappedCodes,
    result_key: Option<ResultKeyFile>,
    analytes: Vec<AnalyteFile>,
    #[serde(default)]
    units: Vec<UnitFile>,
    #[serde(default)]
    dipstick_grades: Vec<GradeFile>,
    #[serde(default)]
    ignored_codes: Vec<CodeFile>,
    #[serde(default)]
    conditions: Vec<ConditionFile>,
    adverse_events: Option<AdverseEventFile>,
    #[serde(default)]
    studies: Vec<StudyFile>,
    #[serde(default)]
    products: Vec<ProductFile>,
    encounters: Option<EncounterFile>,
    hl7_v2: Option<Said>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum UnmappedCodes {
    Keep,
    Count,
}

#[derive(Deserialize)]
struct ResultKeyFile {
    identifier_system: String,
}

#[derive(Deserialize)]
struct AnalyteFile {
    analyte: Analyte,
    codes: Vec<CodeFile>,
    #[serde(default)]
    other_meanings: Vec<String>,
}

#[derive(Deserialize)]
struct CodeFile {
    #[serde(default)]
    system: String,
    code: String,
    equation: Option<String>,
}

#[derive(Deserialize)]
struct UnitFile {
    system: Option<String>,
    spelling: String,
    ucum: String,
}

#[derive(Deserialize)]
struct GradeFile {
    grade: u8,
    #[serde(default)]
    words: Vec<String>,
    #[serde(default)]
    codes: Vec<CodeFile>,
}

#[derive(Deserialize)]
struct ConditionFile {
    concept: Concept,
    codes: Vec<CodeFile>,
}

#[derive(Deserialize)]
struct AdverseEventFile {
    take: bool,
    #[serde(default)]
    grades: Vec<CtcaeGradeFile>,
    #[serde(default)]
    relations: Vec<RelationFile>,
    #[serde(default)]
    dose_limiting: Vec<DoseLimitingFile>,
}

#[derive(Deserialize)]
struct CtcaeGradeFile {
    system: String,
    code: String,
    grade: u8,
}

/// CTCAE grades as the research profiles code them (hl7.fhir.uv.ae-research-backport-ig 1.0.1): NCI Thesaurus, and the draft CTCAE guide's own codes.
const CTCAE_GRADES: [(&str, &str, u8); 10] = [
    ("http://ncicb.nci.nih.gov/xml/owl/EVS/Thesaurus.owl", "C41338", 1),
    ("http://ncicb.nci.nih.gov/xml/owl/EVS/Thesaurus.owl", "C41339", 2),
    ("http://ncicb.nci.nih.gov/xml/owl/EVS/Thesaurus.owl", "C41340", 3),
    ("http://ncicb.nci.nih.gov/xml/owl/EVS/Thesaurus.owl", "C41337", 4),
    ("http://ncicb.nci.nih.gov/xml/owl/EVS/Thesaurus.owl", "C48275", 5),
    ("http://hl7.org/fhir/us/ctcae/CodeSystem/ctcae-grade-code-system", "1", 1),
    ("http://hl7.org/fhir/us/ctcae/CodeSystem/ctcae-grade-code-system", "2", 2),
    ("http://hl7.org/fhir/us/ctcae/CodeSystem/ctcae-grade-code-system", "3", 3),
    ("http://hl7.org/fhir/us/ctcae/CodeSystem/ctcae-grade-code-system", "4", 4),
    ("http://hl7.org/fhir/us/ctcae/CodeSystem/ctcae-grade-code-system", "5", 5),
];

impl Site {
    /// Compiles a site from the texts of its two files, already checked against their schemas. The error is one sentence a fault.
    pub fn compile(site_json: &str, mapping_json: &str) -> Result<Site, String> {
        Site::compile_or_list(site_json, mapping_json).map_err(|wrongs| {
            let lines: Vec<String> = wrongs.iter().map(|wrong| format!("{} {}: {}; {}", wrong.file, wrong.path, wrong.message, wrong.hint)).collect();
            lines.join("\n")
        })
    }

    /// As `compile`, with each fault by itself.
    pub fn compile_or_list(site_json: &str, mapping_json: &str) -> Result<Site, Vec<Wrong>> {
        let unreadable = |file, error: serde_json::Error| {
            let hint = "compare the file with its schema in profiles/".to_owned();
            vec![Wrong { file, path: String::new(), message: error.to_string(), hint }]
        };
        let site: SiteFile = serde_json::from_str(site_json).map_err(|error| unreadable("site.json", error))?;
        let mapping: MappingFile = serde_json::from_str(mapping_json).map_err(|error| unreadable("mapping.json", error))?;
        let mut wrongs = Vec::new();
        let mut complete = Vec::new();
        for (index, word) in site.complete.iter().enumerate() {
            match ResourceType::from_word(word).filter(|kind| ResourceType::FHIR.contains(kind)) {
                Some(kind) => complete.push(kind),
                None => wrongs.push(Wrong {
                    file: "site.json",
                    path: format!("/complete/{index}"),
                    message: format!("{word} is not a type that is read"),
                    hint: format!("use one of {}", ResourceType::FHIR.map(ResourceType::word).join(", ")),
                }),
            }
        }
        let mut compiled = Site {
            id: site.id,
            name: site.name,
            is_demo: site.demo,
            complete,
            studies: site.studies,
            own_base_urls: site.own_base_urls.iter().map(|url| url.trim_end_matches('/').to_owned()).collect(),
            zone: site.zone,
            hash: hash(site_json, mapping_json),
            hl7_v2: None,
            systems_of_hl7: HashMap::new(),
            keeps_unmapped_laboratory_codes: mapping.unmapped_laboratory_codes == UnmappedCodes::Keep,
            result_key_system: mapping.result_key.as_ref().map(|key| key.identifier_system.clone()),
            observation_codes: HashMap::new(),
            ignored_codes: HashSet::new(),
            other_meanings: HashMap::new(),
            condition_codes: HashMap::new(),
            condition_families: Vec::new(),
            grade_words: HashMap::new(),
            grade_codes: HashMap::new(),
            takes_adverse_events: mapping.adverse_events.as_ref().is_some_and(|options| options.take),
            ctcae_grades: CTCAE_GRADES.iter().map(|(system, code, grade)| (((*system).into(), (*code).into()), *grade)).collect(),
            unit_spellings: HashMap::new(),
            unit_codes: HashMap::new(),
            kept_units: ANALYTES
                .iter()
                .map(|facts| facts.units.iter().filter_map(|(unit, _, _)| Some((unit.ucum(), units::scale(facts.analyte, unit.ucum())?))).collect())
                .collect(),
            learned_units: RwLock::default(),
            trial: Trial::default(),
            entries: Vec::new(),
        };
        compiled.add_units(&mapping, &mut wrongs);
        compiled.add_observation_codes(&mapping, &mut wrongs);
        compiled.add_grades(&mapping, &mut wrongs);
        compiled.add_conditions(&mapping, &mut wrongs);
        compiled.add_adverse_events(&mapping, &mut wrongs);
        let events = mapping.adverse_events.as_ref();
        let parts = Parts {
            studies: &mapping.studies,
            products: &mapping.products,
            relations: events.map_or(&[], |events| events.relations.as_slice()),
            dose_limiting: events.map_or(&[], |events| events.dose_limiting.as_slice()),
            encounters: mapping.encounters.as_ref(),
        };
        compiled.trial = Trial::compile(&parts, &mut compiled.entries, &mut wrongs);
        compiled.add_hl7_v2(&mapping, &mut wrongs);
        if wrongs.is_empty() { Ok(compiled) } else { Err(wrongs) }
    }

    fn add_hl7_v2(&mut self, mapping: &MappingFile, wrongs: &mut Vec<Wrong>) {
        let Some(said) = &mapping.hl7_v2 else { return };
        let compiled = Conventions::compile(said, self.zone.as_deref(), self.result_key_system.as_deref(), self.takes_stays());
        match compiled {
            Ok(conventions) => {
                self.systems_of_hl7 = conventions.meant_by().map(|(address, system)| (address, short_system(system).into())).collect();
                self.hl7_v2 = Some(conventions);
            }
            Err(unusable) => {
                wrongs.extend(unusable.into_iter().map(|(path, message, hint)| wrong(format!("/hl7_v2{path}"), message, hint)));
            }
        }
    }

    fn add_units(&mut self, mapping: &MappingFile, wrongs: &mut Vec<Wrong>) {
        for (index, unit) in mapping.units.iter().enumerate() {
            let path = format!("/units/{index}");
            if !units::is_ucum(&unit.ucum) {
                wrongs.push(wrong(format!("{path}/ucum"), format!("`{}` is not a UCUM unit", unit.ucum), "look the unit up at ucum.org"));
                continue;
            }
            let spelling = units::fold_micro(&unit.spelling);
            let is_new = match &unit.system {
                Some(system) => self.unit_codes.insert((short_system(system).into(), spelling), unit.ucum.clone()).is_none(),
                None => self.unit_spellings.insert(spelling, unit.ucum.clone()).is_none(),
            };
            if !is_new {
                wrongs.push(wrong(path, format!("the spelling `{}` is listed twice", unit.spelling), "keep one of the two"));
                continue;
            }
            self.entries.push(Entry { path, shows: unit.spelling.clone() });
        }
    }

    fn add_observation_codes(&mut self, mapping: &MappingFile, wrongs: &mut Vec<Wrong>) {
        let mut seen: HashMap<CompactString, String> = HashMap::new();
        let mut analytes = HashSet::new();
        for (place, analyte) in mapping.analytes.iter().enumerate() {
            if !analytes.insert(analyte.analyte) {
                let message = format!("the analyte {} is listed twice", analyte.analyte.word());
                wrongs.push(wrong(format!("/analytes/{place}"), message, "put all codes into one entry; their order is their rank"));
            }
            for (rank, code) in analyte.codes.iter().enumerate() {
                let path = format!("/analytes/{place}/codes/{rank}");
                let system = CompactString::from(short_system(&code.system));
                let full = full_code(&system, &code.code);
                note_code(&mut seen, &full, &path, wrongs);
                if code.equation.is_some() && analyte.analyte != Analyte::ReportedEgfr {
                    wrongs.push(wrong(path.clone(), "only a reported eGFR has an equation".to_owned(), "remove `equation`"));
                }
                self.entries.push(Entry { path, shows: full.to_string() });
                self.observation_codes.entry(code.code.as_str().into()).or_default().push(ObservationCode {
                    system,
                    analyte: analyte.analyte,
                    rank: u8::try_from(rank).unwrap_or(u8::MAX),
                    full,
                    equation: code.equation.as_deref().map(CompactString::from),
                });
            }
            if !analyte.other_meanings.is_empty() {
                self.other_meanings.insert(analyte.analyte, OtherMeanings::new(&analyte.other_meanings));
            }
        }
        for (index, code) in mapping.ignored_codes.iter().enumerate() {
            let system = CompactString::from(short_system(&code.system));
            note_code(&mut seen, &full_code(&system, &code.code), &format!("/ignored_codes/{index}"), wrongs);
            self.ignored_codes.insert((system, code.code.as_str().into()));
        }
    }

    fn add_grades(&mut self, mapping: &MappingFile, wrongs: &mut Vec<Wrong>) {
        for (index, grade) in mapping.dipstick_grades.iter().enumerate() {
            let path = format!("/dipstick_grades/{index}");
            if Analyte::UrineProteinDipstick.bounds(Unit::Grade).is_some_and(|(_, high)| f64::from(grade.grade) > high) {
                wrongs.push(wrong(format!("{path}/grade"), format!("{} is not a grade", grade.grade), "use 0 (negative) to 5 (4+)"));
            }
            for (place, word) in grade.words.iter().enumerate() {
                let path = format!("{path}/words/{place}");
                if self.grade_words.insert(word.to_lowercase(), grade.grade).is_some() {
                    wrongs.push(wrong(path.clone(), format!("the word `{word}` is listed twice"), "keep one of the two"));
                }
                self.entries.push(Entry { path, shows: word.clone() });
            }
            for (place, code) in grade.codes.iter().enumerate() {
                let path = format!("{path}/codes/{place}");
                let system = CompactString::from(short_system(&code.system));
                self.entries.push(Entry { path: path.clone(), shows: full_code(&system, &code.code).to_string() });
                if self.grade_codes.insert((system, code.code.as_str().into()), grade.grade).is_some() {
                    wrongs.push(wrong(path, format!("the code `{}` is listed twice", code.code), "keep one of the two"));
                }
            }
        }
    }

    fn add_conditions(&mut self, mapping: &MappingFile, wrongs: &mut Vec<Wrong>) {
        let mut seen = HashMap::new();
        for (order, condition) in mapping.conditions.iter().enumerate() {
            for (place, code) in condition.codes.iter().enumerate() {
                let path = format!("/conditions/{order}/codes/{place}");
                let system = CompactString::from(short_system(&code.system));
                note_code(&mut seen, &full_code(&system, &code.code), &path, wrongs);
                self.entries.push(Entry { path, shows: full_code(&system, &code.code).to_string() });
                match code.code.strip_suffix('*') {
                    Some(family) => {
                        self.condition_families.push(ConditionCode { system, code: family.into(), concept: condition.concept, order });
                    }
                    None => self.condition_codes.entry(code.code.as_str().into()).or_default().push(ConditionCode {
                        system,
                        code: code.code.as_str().into(),
                        concept: condition.concept,
                        order,
                    }),
                }
            }
        }
    }

    fn add_adverse_events(&mut self, mapping: &MappingFile, wrongs: &mut Vec<Wrong>) {
        for (index, grade) in mapping.adverse_events.iter().flat_map(|options| &options.grades).enumerate() {
            let path = format!("/adverse_events/grades/{index}");
            if !(1..=5).contains(&grade.grade) {
                wrongs.push(wrong(format!("{path}/grade"), format!("{} is not a CTCAE grade", grade.grade), "use 1 to 5"));
            }
            self.ctcae_grades.insert((short_system(&grade.system).into(), grade.code.as_str().into()), grade.grade);
        }
    }
}

pub(in crate::mapping) fn wrong(path: impl Into<String>, message: String, hint: &str) -> Wrong {
    Wrong { file: "mapping.json", path: path.into(), message, hint: hint.to_owned() }
}

/// One code means one thing.
fn note_code(seen: &mut HashMap<CompactString, String>, full: &CompactString, path: &str, wrongs: &mut Vec<Wrong>) {
    if let Some(first) = seen.insert(full.clone(), path.to_owned()) {
        wrongs.push(wrong(path, format!("the code {full} is mapped twice, first at {first}"), "keep one of the two; one code means one thing"));
    }
}

fn hash(site_json: &str, mapping_json: &str) -> String {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    // The length in front keeps a text that moved from one file to the other from giving the same hash.
    context.update(&(site_json.len() as u64).to_be_bytes());
    context.update(site_json.as_bytes());
    context.update(mapping_json.as_bytes());
    context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
