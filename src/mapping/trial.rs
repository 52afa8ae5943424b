//! What one hospital says about trials: how it names a study, an arm and an investigational product, which of its codes
//! say how an event is related, which extension says "dose-limiting", and whether its stays are taken at all.

use std::collections::HashMap;

use compact_str::CompactString;
use serde::Deserialize;

use crate::clinical::fact::Relation;
use crate::fhir::WRITE_BACK_SYSTEM;
use crate::fhir::view::{CodeableConcept, Contained, Reference};

use super::site::{Entry, Site, Wrong, full_code, short_system, wrong};
use super::units;

/// The tables of one site, compiled.
#[derive(Default)]
pub(super) struct Trial {
    studies_by_reference: HashMap<CompactString, CompactString>,
    studies_by_identifier: HashMap<(CompactString, CompactString), CompactString>,
    /// By study and word; words in lower case.
    arms: HashMap<(CompactString, String), CompactString>,
    products: Vec<Product>,
    products_by_code: HashMap<(CompactString, CompactString), usize>,
    products_by_reference: HashMap<CompactString, usize>,
    /// Codes as the site writes them.
    relations: HashMap<(CompactString, CompactString), Option<Relation>>,
    dose_limiting: Vec<String>,
    pub(super) stays: Option<Stays>,
    names: Vec<Names>,
}

/// An investigational product as a site records it.
pub(super) struct Product {
    pub(super) study: CompactString,
    /// A unit of the dose, UCUM or a word such as `bag`, and the cells in one of it.
    cells_per_unit: Option<(String, f64)>,
    /// Extensions that carry the dose where the type has no element for it.
    pub(super) dose_extensions: Vec<String>,
}

/// Which Encounters become facts.
pub(super) struct Stays {
    pub(super) classes: Vec<String>,
    /// Codes of type, priority or serviceType that say that a stay was planned.
    planned: Vec<(CompactString, CompactString)>,
}

/// A study that the mapping names, and one of its arms: both must exist in the catalogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// JSON pointer into mapping.json.
    pub path: String,
    pub study: CompactString,
    pub arm: Option<CompactString>,
}

/// Whom a reference to a study names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StudyNamed<'a> {
    Ours(&'a CompactString),
    /// A study that the mapping does not know.
    Other,
    /// Neither a reference nor an identifier: a display names nobody.
    Nothing,
}

#[derive(Deserialize)]
pub(super) struct StudyFile {
    study: CompactString,
    #[serde(default)]
    references: Vec<CompactString>,
    #[serde(default)]
    identifiers: Vec<IdentifierFile>,
    #[serde(default)]
    arms: Vec<ArmFile>,
}

#[derive(Deserialize)]
struct IdentifierFile {
    #[serde(default)]
    system: CompactString,
    value: CompactString,
}

#[derive(Deserialize)]
struct ArmFile {
    arm: CompactString,
    words: Vec<String>,
}

#[derive(Deserialize)]
pub(super) struct ProductFile {
    study: CompactString,
    #[serde(default)]
    codes: Vec<CodedFile>,
    #[serde(default)]
    references: Vec<CompactString>,
    dose_unit: Option<String>,
    cells_per_unit: Option<f64>,
    #[serde(default)]
    dose_extensions: Vec<String>,
}

#[derive(Deserialize)]
struct CodedFile {
    #[serde(default)]
    system: String,
    code: CompactString,
}

#[derive(Deserialize)]
pub(super) struct RelationFile {
    #[serde(default)]
    system: String,
    code: CompactString,
    relation: RelationWord,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RelationWord {
    NotRelated,
    Unlikely,
    Possible,
    Probable,
    Related,
    /// Somebody assessed it and could not tell: the axis stays open.
    Unassessable,
}

impl RelationWord {
    fn relation(self) -> Option<Relation> {
        match self {
            RelationWord::NotRelated => Some(Relation::NotRelated),
            RelationWord::Unlikely => Some(Relation::Unlikely),
            RelationWord::Possible => Some(Relation::Possible),
            RelationWord::Probable => Some(Relation::Probable),
            RelationWord::Related => Some(Relation::Related),
            RelationWord::Unassessable => None,
        }
    }
}

#[derive(Deserialize)]
pub(super) struct DoseLimitingFile {
    url: String,
}

#[derive(Deserialize)]
pub(super) struct EncounterFile {
    take: bool,
    #[serde(default)]
    classes: Vec<String>,
    #[serde(default)]
    planned: Vec<CodedFile>,
}

const NCI_THESAURUS: &str = "http://ncicb.nci.nih.gov/xml/owl/EVS/Thesaurus.owl";
const WHO_UMC: &str = "http://terminology.hl7.org/CodeSystem/adverse-event-causality-assess";

/// Codes of relatedness that every site means alike, in lower case, since R4 printed those of HL7 with capitals: the
/// WHO-UMC categories (The use of the WHO-UMC system for standardised case causality assessment, Uppsala Monitoring
/// Centre), as HL7 codes them, and the NCI Thesaurus as the research profiles use it (hl7.fhir.uv.ae-research-ig and
/// -backport-ig 1.0.1; C53259 and C68618 stand in the draft CTCAE guide alone). `None`: assessed, and nothing came of it.
const RELATIONS: [(&str, &str, Option<Relation>); 12] = [
    (WHO_UMC, "certain", Some(Relation::Related)),
    (WHO_UMC, "probably-likely", Some(Relation::Probable)),
    (WHO_UMC, "possible", Some(Relation::Possible)),
    (WHO_UMC, "unlikely", Some(Relation::Unlikely)),
    (WHO_UMC, "conditional-classified", None),
    (WHO_UMC, "unassessable-unclassifiable", None),
    (NCI_THESAURUS, "c53256", Some(Relation::NotRelated)),
    (NCI_THESAURUS, "c53257", Some(Relation::Unlikely)),
    (NCI_THESAURUS, "c53258", Some(Relation::Possible)),
    (NCI_THESAURUS, "c53259", Some(Relation::Probable)),
    (NCI_THESAURUS, "c53260", Some(Relation::Related)),
    (NCI_THESAURUS, "c68618", None),
];

/// The parts of mapping.json that this module compiles.
pub(super) struct Parts<'a> {
    pub(super) studies: &'a [StudyFile],
    pub(super) products: &'a [ProductFile],
    pub(super) relations: &'a [RelationFile],
    pub(super) dose_limiting: &'a [DoseLimitingFile],
    pub(super) encounters: Option<&'a EncounterFile>,
}

impl Trial {
    pub(super) fn compile(parts: &Parts<'_>, entries: &mut Vec<Entry>, wrongs: &mut Vec<Wrong>) -> Trial {
        let mut trial = Trial::default();
        for (index, study) in parts.studies.iter().enumerate() {
            trial.add_study(study, &format!("/studies/{index}"), entries, wrongs);
        }
        for (index, product) in parts.products.iter().enumerate() {
            trial.add_product(product, index, entries, wrongs);
        }
        for (index, relation) in parts.relations.iter().enumerate() {
            let path = format!("/adverse_events/relations/{index}");
            let key = (CompactString::from(short_system(&relation.system)), relation.code.clone());
            note_once(trial.relations.insert(key, relation.relation.relation()), &path, &relation.code, wrongs);
            entries.push(Entry { path, shows: relation.code.to_string() });
        }
        for (index, extension) in parts.dose_limiting.iter().enumerate() {
            let path = format!("/adverse_events/dose_limiting/{index}");
            if trial.dose_limiting.contains(&extension.url) {
                wrongs.push(wrong(path.clone(), format!("the extension {} is listed twice", extension.url), "keep one of the two"));
            }
            trial.dose_limiting.push(extension.url.clone());
            entries.push(Entry { path, shows: DOSE_LIMITING.to_owned() });
        }
        trial.stays = parts.encounters.filter(|encounters| encounters.take).map(|encounters| {
            let classes = encounters.classes.iter().enumerate();
            entries.extend(classes.map(|(index, class)| Entry { path: format!("/encounters/classes/{index}"), shows: class.clone() }));
            Stays {
                classes: encounters.classes.clone(),
                planned: encounters.planned.iter().map(|code| (short_system(&code.system).into(), code.code.clone())).collect(),
            }
        });
        trial
    }

    fn add_study(&mut self, study: &StudyFile, path: &str, entries: &mut Vec<Entry>, wrongs: &mut Vec<Wrong>) {
        self.names.push(Names { path: format!("{path}/study"), study: study.study.clone(), arm: None });
        entries.push(Entry { path: format!("{path}/study"), shows: study.study.to_string() });
        if study.references.is_empty() && study.identifiers.is_empty() {
            wrongs.push(wrong(path, "nothing says how this hospital names the study".to_owned(), "list its references or identifiers"));
        }
        for (place, reference) in study.references.iter().enumerate() {
            let before = self.studies_by_reference.insert(reference.clone(), study.study.clone());
            note_once(before, &format!("{path}/references/{place}"), reference, wrongs);
        }
        for (place, identifier) in study.identifiers.iter().enumerate() {
            let key = (CompactString::from(short_system(&identifier.system)), identifier.value.clone());
            note_once(self.studies_by_identifier.insert(key, study.study.clone()), &format!("{path}/identifiers/{place}"), &identifier.value, wrongs);
        }
        for (index, arm) in study.arms.iter().enumerate() {
            let path = format!("{path}/arms/{index}");
            self.names.push(Names { path: format!("{path}/arm"), study: study.study.clone(), arm: Some(arm.arm.clone()) });
            entries.push(Entry { path: format!("{path}/arm"), shows: arm.arm.to_string() });
            for (place, word) in arm.words.iter().enumerate() {
                let before = self.arms.insert((study.study.clone(), folded(word)), arm.arm.clone());
                note_once(before, &format!("{path}/words/{place}"), word, wrongs);
            }
        }
    }

    fn add_product(&mut self, product: &ProductFile, index: usize, entries: &mut Vec<Entry>, wrongs: &mut Vec<Wrong>) {
        let path = format!("/products/{index}");
        self.names.push(Names { path: format!("{path}/study"), study: product.study.clone(), arm: None });
        if product.codes.is_empty() && product.references.is_empty() {
            wrongs.push(wrong(path.clone(), "nothing says how this hospital records the product".to_owned(), "list its codes or references"));
        }
        for (place, code) in product.codes.iter().enumerate() {
            let path = format!("{path}/codes/{place}");
            let system = CompactString::from(short_system(&code.system));
            entries.push(Entry { path: path.clone(), shows: full_code(&system, &code.code).to_string() });
            note_once(self.products_by_code.insert((system, code.code.clone()), index), &path, &code.code, wrongs);
        }
        for (place, reference) in product.references.iter().enumerate() {
            let path = format!("{path}/references/{place}");
            note_once(self.products_by_reference.insert(reference.clone(), index), &path, reference, wrongs);
            entries.push(Entry { path, shows: reference.to_string() });
        }
        self.products.push(Product {
            study: product.study.clone(),
            cells_per_unit: product.dose_unit.clone().zip(product.cells_per_unit),
            dose_extensions: product.dose_extensions.clone(),
        });
    }
}

/// What `check` shows for the extension that says whether an event was dose-limiting.
pub const DOSE_LIMITING: &str = "dose-limiting";

/// Words of an arm are typed by people: case and the blanks around them say nothing.
fn folded(word: &str) -> String {
    word.trim().to_lowercase()
}

/// One name means one thing.
fn note_once<T>(before: Option<T>, path: &str, name: &str, wrongs: &mut Vec<Wrong>) {
    if before.is_some() {
        wrongs.push(wrong(path, format!("`{name}` is listed twice"), "keep one of the two; one name means one thing"));
    }
}

impl Site {
    /// A reference as this hospital's own server would write it: relative, and without a version.
    fn own_reference<'a>(&self, text: &'a str) -> &'a str {
        let own = self.own_base_urls.iter().find_map(|base| text.strip_prefix(base.as_str())?.strip_prefix('/'));
        let relative = own.unwrap_or(text);
        relative.split_once("/_history/").map_or(relative, |(reference, _)| reference)
    }

    pub(super) fn study_named(&self, reference: &Reference<'_>) -> StudyNamed<'_> {
        // Our own mark on a hospital's event, come back with it: it says nothing of what the hospital means.
        if reference.identifier.as_ref().is_some_and(|identifier| identifier.system.as_deref() == Some(WRITE_BACK_SYSTEM)) {
            return StudyNamed::Nothing;
        }
        let text = reference.reference.as_deref();
        let identifier = reference.identifier.as_ref().and_then(|identifier| {
            Some((CompactString::from(short_system(identifier.system.as_deref().unwrap_or(""))), CompactString::from(identifier.value.as_deref()?)))
        });
        let by_reference = text.and_then(|text| self.trial.studies_by_reference.get(self.own_reference(text)));
        let known = by_reference.or_else(|| self.trial.studies_by_identifier.get(identifier.as_ref()?));
        match known {
            Some(study) => StudyNamed::Ours(study),
            None if text.is_some() || identifier.is_some() => StudyNamed::Other,
            None => StudyNamed::Nothing,
        }
    }

    /// Whether the mapping names a study at all.
    pub(super) fn knows_studies(&self) -> bool {
        !self.trial.studies_by_reference.is_empty() || !self.trial.studies_by_identifier.is_empty()
    }

    pub(super) fn knows_products(&self) -> bool {
        !self.trial.products.is_empty()
    }

    pub(super) fn takes_stays(&self) -> bool {
        self.trial.stays.is_some()
    }

    /// The id of the arm that a word, or in R5 the id of a comparison group, means in a study.
    pub(super) fn arm(&self, study: &str, word: &str) -> Option<&CompactString> {
        self.trial.arms.get(&(study.into(), folded(word)))
    }

    /// The product of a code, with the code as `system|code`.
    pub(super) fn product_of_concept(&self, concept: &CodeableConcept<'_>) -> Option<(&Product, CompactString)> {
        concept.coding.iter().find_map(|coding| {
            let (system, code) = (short_system(coding.system.as_deref().unwrap_or("")), coding.code.as_deref()?);
            let index = self.trial.products_by_code.get(&(system.into(), code.into()))?;
            Some((&self.trial.products[*index], full_code(system, code)))
        })
    }

    /// The product of a reference that the mapping lists, or of the contained Medication that it points to.
    pub(super) fn product_of_reference(&self, text: &str, contained: &[Contained<'_>]) -> Option<(&Product, CompactString)> {
        if let Some(id) = text.strip_prefix('#') {
            let medication = contained.iter().find(|one| one.id.as_deref() == Some(id))?;
            return self.product_of_concept(&medication.medication_code()?);
        }
        let own = self.own_reference(text);
        let index = self.trial.products_by_reference.get(own)?;
        Some((&self.trial.products[*index], CompactString::from(own)))
    }

    /// What an assessment of relatedness means: the site's own codes first. `None` when nobody knows the code.
    pub(super) fn relation(&self, system: &str, code: &str) -> Option<Option<Relation>> {
        let system = short_system(system);
        let own = self.trial.relations.get(&(system.into(), code.into())).copied();
        own.or_else(|| {
            let of_all = RELATIONS.iter().find(|(known, word, _)| *known == system && word.eq_ignore_ascii_case(code));
            of_all.map(|(_, _, relation)| *relation)
        })
    }

    /// Whether an extension says that an event was, or was not, dose-limiting.
    pub(super) fn is_dose_limiting_url(&self, url: &str) -> bool {
        self.trial.dose_limiting.iter().any(|known| known == url)
    }

    /// The studies and arms that mapping.json names.
    pub fn names(&self) -> &[Names] {
        &self.trial.names
    }
}

impl Stays {
    pub(super) fn is_planned_code(&self, system: &str, code: &str) -> bool {
        let system = short_system(system);
        self.planned.iter().any(|(known, planned)| known == system && planned == code)
    }
}

impl Product {
    /// The cells in one unit of a dose: by the unit itself where it counts cells, else by what the mapping says of the
    /// product's own unit. `None` for a unit that counts nothing.
    pub(super) fn cells_in_one(&self, unit: &str, says_cells: bool) -> Option<f64> {
        units::cells(unit, says_cells).or_else(|| {
            let (own, cells) = self.cells_per_unit.as_ref()?;
            let ratio = if own == unit { Some(1.0) } else { units::ratio(unit, own) };
            ratio.map(|ratio| ratio * cells)
        })
    }
}
