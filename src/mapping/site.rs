//! One hospital, compiled: the two hand-edited files become tables that answer in one look-up.

mod compile;

use std::collections::{HashMap, HashSet};
use std::sync::RwLock;

use compact_str::{CompactString, format_compact};
use memchr::memmem::Finder;

use crate::clinical::chart::Chart;
use crate::clinical::fact::{Concept, Fact, ResourceType};
use crate::clinical::quantity::Analyte;
use crate::hl7::{CODING_SYSTEM, Conventions};

pub(in crate::mapping) use compile::wrong;

use super::trial::Trial;
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
    /// IANA name of the zone whose nights are quiet here; `None`: UTC's.
    pub zone: Option<String>,
    /// SHA-256 over site.json and mapping.json; every fact's verdict names it.
    pub hash: String,
    /// What this hospital says of its HL7 v2 messages.
    pub hl7_v2: Option<Conventions>,
    /// By the addresses that stand for coding systems which the mapping did not know when a message came.
    systems_of_hl7: HashMap<String, CompactString>,
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

/// Distinct spellings remembered per site; a feed that sends more is broken, and then each is parsed anew.
const LEARNED_UNITS: usize = 4_096;

impl Site {
    /// The chart of one subject here: what stands, which absences prove something, and whether test patients are real.
    pub fn chart(&self, facts: Vec<Fact>) -> Chart {
        Chart { tests_are_real: self.is_demo, ..Chart::fold(facts, &self.complete) }
    }

    /// As [`short_system`]; what stands for an HL7 v2 name is the system that the mapping gives to that name today.
    pub(super) fn short_system<'a>(&'a self, system: &'a str) -> &'a str {
        if system.starts_with(CODING_SYSTEM) {
            return self.systems_of_hl7.get(system).map_or(system, |known| known.as_str());
        }
        short_system(system)
    }

    /// What this code means here. `system` may be any spelling of it.
    pub fn observation_code(&self, system: &str, code: &str) -> Option<&ObservationCode> {
        let of_code = self.observation_codes.get(code)?;
        let system = self.short_system(system);
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
        !self.ignored_codes.is_empty() && self.ignored_codes.contains(&(self.short_system(system).into(), code.into()))
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
        self.grade_codes.get(&(self.short_system(system).into(), code.into())).copied()
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
        match self.unit_codes.get(&(self.short_system(system).into(), units::fold_micro(code))) {
            Some(ucum) => units::scale(analyte, ucum).map_or(Meaning::OtherQuantity, Meaning::Scaled),
            None => Meaning::Unknown,
        }
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
