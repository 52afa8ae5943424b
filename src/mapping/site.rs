//! One hospital, compiled: the two hand-edited files become tables that answer in one look-up.

use std::collections::{HashMap, HashSet};
use std::sync::RwLock;

use compact_str::{CompactString, format_compact};
use memchr::memmem::Finder;
use serde::Deserialize;

use crate::clinical::chart::Chart;
use crate::clinical::fact::{Concept, Fact, ResourceType};
use crate::clinical::quantity::{ANALYTES, Analyte, Unit};

use super::trial::{DoseLimitingFile, EncounterFile, Parts, ProductFile, RelationFile, StudyFile, Trial};
use super::units::{self, Scale};

/// One hospital, compiled from its two files.
pub struct Site {
    pub id: String,
    pub name: String,
    /// The demo's own site: HTEST patients are real here (rulings.md 17).
    pub is_demo: bool,
    /// Types whose absence proves something (rulings.md 12).
    pub complete: Vec<ResourceType>,
    /// Which studies are judged here; `None` means all.
    pub studies: Option<Vec<String>>,
    /// FHIR bases, without a trailing slash, under which an absolute reference is this hospital's own.
    pub own_base_urls: Vec<String>,
    /// SHA-256 over site.json and mapping.json; every fact's verdict names it.
    pub hash: String,
    /// An unmapped laboratory code is kept in quarantine rather than counted.
    pub(super) keeps_unmapped_laboratory_codes: bool,
    /// Identifier system of the accession number that makes results of several doors one result.
    pub(super) result_key_system: Option<String>,
    observation_codes: HashMap<CompactString, Vec<ObservationCode>>,
    ignored_codes: HashSet<(CompactString, CompactString)>,
    /// By analyte: text parts that prove another meaning than the code's.
    pub(super) other_meanings: HashMap<Analyte, OtherMeanings>,
    condition_codes: HashMap<CompactString, Vec<ConditionCode>>,
    /// Codes of whole families, such as `N18.` for `N18.*`; in the order of the file.
    condition_families: Vec<ConditionCode>,
    grade_words: HashMap<String, u8>,
    grade_codes: HashMap<(CompactString, CompactString), u8>,
    pub(super) takes_adverse_events: bool,
    ctcae_grades: HashMap<(CompactString, CompactString), u8>,
    unit_spellings: HashMap<CompactString, String>,
    unit_codes: HashMap<(CompactString, CompactString), String>,
    /// By analyte, in the order of the enum: the codes of its kept units, which nearly every result carries.
    kept_units: Vec<Vec<(&'static str, Scale)>>,
    /// What other spellings turned out to mean; parsed once each.
    learned_units: RwLock<HashMap<(Analyte, CompactString), Meaning>>,
    /// How this hospital names studies, arms and products.
    pub(super) trial: Trial,
    entries: Vec<Entry>,
}

/// One observation code of the mapping.
#[derive(Clone, Debug)]
pub struct ObservationCode {
    system: CompactString,
    pub analyte: Analyte,
    /// Place in the analyte's list, 0 first.
    pub rank: u8,
    /// `system|code` as facts carry it.
    pub full: CompactString,
    /// For a reported eGFR: what the code says of its equation.
    pub equation: Option<CompactString>,
}

/// One condition code of the mapping.
#[derive(Clone, Debug)]
pub struct ConditionCode {
    system: CompactString,
    code: CompactString,
    pub concept: Concept,
    /// Place of the concept in the file: of a Condition with two meanings the first counts.
    pub order: usize,
}

/// What a unit's spelling means for one analyte.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Meaning {
    Scaled(Scale),
    /// A unit, but of another kind of quantity.
    OtherQuantity,
    /// Nobody says what it is.
    Unknown,
}

/// Text parts, sought in texts of any case; this runs for each result, so nothing is allocated for a usual text.
pub(super) struct OtherMeanings {
    words: Vec<(String, Finder<'static>)>,
}

/// Codes' texts are rarely longer.
const USUAL_TEXT: usize = 160;

impl OtherMeanings {
    fn new(words: &[String]) -> OtherMeanings {
        let lower = words.iter().map(|word| word.to_lowercase());
        OtherMeanings { words: lower.map(|word| (word.clone(), Finder::new(word.as_bytes()).into_owned())).collect() }
    }

    pub(super) fn found_in(&self, text: &str) -> Option<&str> {
        let seek = |text: &[u8]| self.words.iter().find(|(_, finder)| finder.find(text).is_some()).map(|(word, _)| word.as_str());
        if text.is_ascii() && text.len() <= USUAL_TEXT {
            let mut buffer = [0; USUAL_TEXT];
            let lower = &mut buffer[..text.len()];
            lower.copy_from_slice(text.as_bytes());
            lower.make_ascii_lowercase();
            seek(lower)
        } else {
            seek(text.to_lowercase().as_bytes())
        }
    }
}

/// One entry of mapping.json, so that `check` can tell which no example exercised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// JSON pointer into mapping.json.
    pub path: String,
    /// What a fact shows when the entry was used: its code, unit spelling or grade word.
    pub shows: String,
}

/// One thing wrong with site.json or mapping.json that its schema cannot say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    pub file: &'static str,
    /// JSON pointer.
    pub path: String,
    pub message: String,
    pub hint: String,
}

/// Spellings of systems that every site means alike; what is not listed stands for itself. Facts show the short form.
pub fn short_system(system: &str) -> &str {
    match system.trim_end_matches('/') {
        "http://loinc.org" | "https://loinc.org" | "urn:oid:2.16.840.1.113883.6.1" => "loinc",
        "http://snomed.info/sct" | "urn:oid:2.16.840.1.113883.6.96" => "snomed",
        "http://hl7.org/fhir/sid/icd-10-cm" | "urn:oid:2.16.840.1.113883.6.90" => "icd-10-cm",
        "http://hl7.org/fhir/sid/icd-10" | "urn:oid:2.16.840.1.113883.6.3" => "icd-10",
        "http://unitsofmeasure.org" | "urn:oid:2.16.840.1.113883.6.8" => "ucum",
        "urn:oid:2.16.840.1.113883.3.26.1.1" => "http://ncicb.nci.nih.gov/xml/owl/EVS/Thesaurus.owl",
        other => other,
    }
}

/// `system|code` as facts and counts show it; a code without a system stands alone.
pub fn full_code(system: &str, code: &str) -> CompactString {
    if system.is_empty() { CompactString::from(code) } else { format_compact!("{system}|{code}") }
}

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

/// Distinct spellings remembered per site; a feed that sends more is broken, and then each is parsed anew.
const LEARNED_UNITS: usize = 4_096;

impl Site {
    /// The chart of one subject here: what stands, which absences prove something, and whether test patients are real.
    pub fn chart(&self, facts: Vec<Fact>) -> Chart {
        Chart { tests_are_real: self.is_demo, ..Chart::fold(facts, &self.complete) }
    }

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
            hash: hash(site_json, mapping_json),
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
        if wrongs.is_empty() { Ok(compiled) } else { Err(wrongs) }
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

    /// What this code means here. `system` may be any spelling of it.
    pub fn observation_code(&self, system: &str, code: &str) -> Option<&ObservationCode> {
        let of_code = self.observation_codes.get(code)?;
        let system = short_system(system);
        of_code.iter().find(|entry| entry.system == system)
    }

    /// Codes, without their systems, that the mapping gives to one of these analytes.
    pub fn codes_of(&self, analytes: &[Analyte]) -> Vec<&str> {
        let of_analytes = |codes: &[ObservationCode]| codes.iter().any(|code| analytes.contains(&code.analyte));
        self.observation_codes.iter().filter(|(_, codes)| of_analytes(codes)).map(|(code, _)| code.as_str()).collect()
    }

    /// Whether the mapping names this code of an Observation, be it as one to ignore.
    pub fn names_code(&self, system: &str, code: &str) -> bool {
        self.observation_code(system, code).is_some() || self.ignores(system, code)
    }

    /// Whether the mapping says that this code is none of ours.
    pub fn ignores(&self, system: &str, code: &str) -> bool {
        !self.ignored_codes.is_empty() && self.ignored_codes.contains(&(short_system(system).into(), code.into()))
    }

    /// What this code means here, by itself or by its family; the longest family counts.
    pub fn condition_code(&self, system: &str, code: &str) -> Option<&ConditionCode> {
        let system = short_system(system);
        let by_itself = self.condition_codes.get(code).and_then(|of_code| of_code.iter().find(|entry| entry.system == system));
        by_itself.or_else(|| {
            let families = self.condition_families.iter().filter(|family| family.system == system && code.starts_with(family.code.as_str()));
            families.max_by_key(|family| family.code.len())
        })
    }

    /// The dipstick grade of a word, whatever its case.
    pub fn grade_of_word(&self, word: &str) -> Option<u8> {
        self.grade_words.get(&word.trim().to_lowercase()).copied()
    }

    pub fn grade_of_code(&self, system: &str, code: &str) -> Option<u8> {
        self.grade_codes.get(&(short_system(system).into(), code.into())).copied()
    }

    /// The CTCAE grade of a code.
    pub fn ctcae_grade(&self, system: &str, code: &str) -> Option<u8> {
        self.ctcae_grades.get(&(short_system(system).into(), code.into())).copied()
    }

    /// What a unit's text, or its code in UCUM, means for this analyte.
    pub fn unit(&self, analyte: Analyte, spelling: &str) -> Meaning {
        if let Some((_, scale)) = self.kept_units[analyte as usize].iter().find(|(kept, _)| *kept == spelling) {
            return Meaning::Scaled(*scale);
        }
        let key = (analyte, CompactString::from(spelling));
        let learned = self.learned_units.read().unwrap_or_else(std::sync::PoisonError::into_inner).get(&key).copied();
        learned.unwrap_or_else(|| {
            let folded = units::fold_micro(spelling);
            let meaning = match self.unit_spellings.get(&folded) {
                Some(ucum) => units::scale(analyte, ucum).map_or(Meaning::OtherQuantity, Meaning::Scaled),
                None => match units::scale(analyte, &folded) {
                    Some(scale) => Meaning::Scaled(scale),
                    None if units::is_ucum(&folded) => Meaning::OtherQuantity,
                    None => Meaning::Unknown,
                },
            };
            let mut learned = self.learned_units.write().unwrap_or_else(std::sync::PoisonError::into_inner);
            if learned.len() < LEARNED_UNITS {
                learned.insert(key, meaning);
            }
            meaning
        })
    }

    /// What a unit's code in a system other than UCUM means for this analyte: by the explicit table alone.
    pub fn unit_code(&self, analyte: Analyte, system: &str, code: &str) -> Meaning {
        match self.unit_codes.get(&(short_system(system).into(), units::fold_micro(code))) {
            Some(ucum) => units::scale(analyte, ucum).map_or(Meaning::OtherQuantity, Meaning::Scaled),
            None => Meaning::Unknown,
        }
    }

    /// The texts of all codes, without their systems, one of which must occur in a resource for it to give a fact
    /// about one of these. A family of codes gives what all its codes begin with.
    pub fn codes_for(&self, analytes: &[Analyte], concepts: &[Concept]) -> Vec<&str> {
        let of_analytes = self
            .observation_codes
            .iter()
            .filter(|(_, entries)| entries.iter().any(|entry| analytes.contains(&entry.analyte)))
            .map(|(code, _)| code.as_str());
        let of_concepts = self
            .condition_codes
            .iter()
            .filter(|(_, entries)| entries.iter().any(|entry| concepts.contains(&entry.concept)))
            .map(|(code, _)| code.as_str());
        let families = self.condition_families.iter().filter(|family| concepts.contains(&family.concept)).map(|family| family.code.as_str());
        let mut codes: Vec<&str> = of_analytes.chain(of_concepts).chain(families).collect();
        codes.sort_unstable();
        codes.dedup();
        codes
    }

    /// The analytes that a code of this site can give.
    pub fn analytes(&self) -> HashSet<Analyte> {
        self.observation_codes.values().flatten().map(|entry| entry.analyte).collect()
    }

    /// The concepts that a code of this site can give.
    pub fn concepts(&self) -> HashSet<Concept> {
        self.condition_codes.values().flatten().chain(&self.condition_families).map(|entry| entry.concept).collect()
    }

    /// Whether this mapping makes facts of such resources at all.
    pub fn takes(&self, kind: ResourceType) -> bool {
        match kind {
            ResourceType::Patient | ResourceType::Observation | ResourceType::Condition | ResourceType::Decision => true,
            ResourceType::AdverseEvent => self.takes_adverse_events,
            ResourceType::ResearchSubject => self.knows_studies(),
            ResourceType::MedicationAdministration | ResourceType::Procedure => self.knows_products(),
            ResourceType::Encounter => self.takes_stays(),
        }
    }

    /// The entries of mapping.json that an example can exercise.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }
}

impl ConditionCode {
    /// `system|code` of the code that was received.
    pub fn full(&self, code: &str) -> CompactString {
        full_code(&self.system, code)
    }
}

pub(super) fn wrong(path: impl Into<String>, message: String, hint: &str) -> Wrong {
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
