//! profiles/, mappings/ and studies/, read once: compiled in, or from `--catalogue DIR`. Checks each file against its
//! schema, cross-checks them and hashes them; `nephrogate check` runs their examples. No site or study id stands in the code.

pub mod files;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::fhir::conformance;
use crate::fhir::outgoing::Outgoing;
use crate::fhir::profile::Profiles;
use crate::fhir::schema::Schema;
use crate::mapping::Site;
use crate::study::Study;

use files::Files;

/// Everything that is data.
pub struct Catalogue {
    pub profiles: Arc<Profiles>,
    /// The shapes of what we write.
    pub outgoing: Arc<Outgoing>,
    pub sites: BTreeMap<String, Arc<Site>>,
    pub studies: BTreeMap<String, Arc<Study>>,
    /// Which studies are judged at which site: `site.json` `studies`, else all.
    pub studies_of_site: BTreeMap<String, Vec<Arc<Study>>>,
    /// `receiver.json` of each site that has one, as text checked against its schema.
    pub receivers: BTreeMap<String, String>,
}

/// One thing wrong with one file of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub file: String,
    /// JSON pointer, empty for the whole file.
    pub path: String,
    pub message: String,
    pub hint: String,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}{}: {}; {}", self.file, if self.path.is_empty() { "" } else { " " }, self.path, self.message, self.hint)
    }
}

/// A catalogue as far as it could be read, and all that is wrong with it.
pub struct Checked {
    /// Complete only where `faults` is empty.
    pub catalogue: Option<Catalogue>,
    pub faults: Vec<Fault>,
    /// What a person should look at, though it may be meant: an analyte of a study that a site does not map.
    pub warnings: Vec<Fault>,
}

impl Catalogue {
    /// The compiled-in catalogue, or the one in `dir`: the same three folders, each of which may be left out there and
    /// is then the compiled-in one.
    pub fn load(dir: Option<&Path>) -> Result<Catalogue, Vec<Fault>> {
        let files = match dir {
            None => Files::compiled_in(),
            Some(dir) => Files::of_dir(dir).map_err(|fault| vec![fault])?,
        };
        let checked = Catalogue::check(&files);
        match checked.catalogue {
            Some(catalogue) if checked.faults.is_empty() => Ok(catalogue),
            Some(_) | None => Err(checked.faults),
        }
    }

    /// Reads and checks every file; the examples are run by `nephrogate check`.
    pub fn check(files: &Files) -> Checked {
        let mut reader = Reader { files, schemas: BTreeMap::new(), faults: Vec::new() };
        let profiles = reader.profiles().zip(reader.outgoing());
        reader.conformance();
        let studies = reader.studies();
        let (sites, receivers) = reader.sites();
        let mut studies_of_site = BTreeMap::new();
        for (id, site) in &sites {
            studies_of_site.insert(id.clone(), reader.studies_of(site, &studies));
            reader.names_of(site, &studies);
        }
        let warnings = sites.values().flat_map(|site| unmapped(site, &studies_of_site[&site.id])).collect();
        let faults = reader.faults;
        let catalogue = profiles.map(|(profiles, outgoing)| Catalogue {
            profiles: Arc::new(profiles),
            outgoing: Arc::new(outgoing),
            sites,
            studies,
            studies_of_site,
            receivers,
        });
        Checked { catalogue, faults, warnings }
    }
}

/// Walks the files and notes what is wrong with them.
struct Reader<'a> {
    files: &'a Files,
    /// Of hand-edited files, by the name before `.schema.json`; `None` where the schema itself is wrong.
    schemas: BTreeMap<String, Option<Schema>>,
    faults: Vec<Fault>,
}

impl<'a> Reader<'a> {
    fn fault(&mut self, file: &str, path: &str, message: impl Into<String>, hint: &str) {
        self.faults.push(Fault { file: file.to_owned(), path: path.to_owned(), message: message.into(), hint: hint.to_owned() });
    }

    fn profiles(&mut self) -> Option<Profiles> {
        let names: Vec<String> = self.files.schemas().map(|name| format!("{name}.schema.json")).collect();
        let texts = self.texts("profiles", &names);
        Profiles::compile(texts).map_err(|message| self.fault("profiles", "", message, "mend the schema that is named")).ok()
    }

    fn outgoing(&mut self) -> Option<Outgoing> {
        let names: Vec<String> = self.files.schemas_of_outgoing().map(str::to_owned).collect();
        let texts = self.texts(files::OUTGOING, &names);
        let hint = "copy the folder from the release, or mend the schema that is named";
        Outgoing::compile(texts).map_err(|message| self.fault(files::OUTGOING, "", message, hint)).ok()
    }

    /// The files of a folder that can be read, each by its name.
    fn texts<'n>(&mut self, folder: &str, names: &'n [String]) -> Vec<(&'n str, &'a str)> {
        let files = self.files;
        let mut texts = Vec::new();
        for name in names {
            let file = format!("{folder}/{name}");
            match files.text(&file) {
                Ok(text) => texts.push((name.as_str(), text)),
                Err(message) => self.fault(&file, "", message, "save the file as UTF-8"),
            }
        }
        texts
    }

    /// Each conformance resource is one, is named after its type and id, and has an address of its own.
    fn conformance(&mut self) {
        let names: Vec<String> = self.files.conformance().map(str::to_owned).collect();
        let mut by_url = BTreeMap::new();
        for (name, text) in self.texts("profiles", &names) {
            let file = format!("profiles/{name}");
            match conformance::read(text) {
                Err(message) => self.fault(&file, "", message, "a JSON file of profiles/ is a schema (NAME.schema.json) or a FHIR resource"),
                Ok(resource) => {
                    let wanted = format!("{}-{}.json", resource.resource_type, resource.id);
                    if wanted != name {
                        self.fault(&file, "/id", format!("by its type and id it is {wanted}"), "rename one of the two");
                    }
                    if let Some(url) = resource.url
                        && let Some(other) = by_url.insert(url, file.clone())
                    {
                        self.fault(&file, "/url", format!("{other} has the same url"), "an address names one resource");
                    }
                }
            }
        }
    }

    /// The text of a file that keeps its schema; `None`, with the faults noted, when it does not.
    fn checked(&mut self, file: &str, kind: &str) -> Option<String> {
        let files = self.files;
        let schema_file = format!("profiles/{kind}.schema.json");
        if !self.schemas.contains_key(kind) {
            let schema = files.text(&schema_file).and_then(Schema::compile);
            let schema =
                schema.map_err(|message| self.fault(&schema_file, "", message, "it must be JSON Schema and refer to nothing outside itself"));
            self.schemas.insert(kind.to_owned(), schema.ok());
        }
        let text = match files.text(file) {
            Ok(text) => text,
            Err(message) => {
                self.fault(file, "", message, "save the file as UTF-8");
                return None;
            }
        };
        let faults = self.schemas[kind].as_ref()?.check(text);
        let hint = format!("{schema_file} says what may stand here");
        for fault in &faults {
            self.fault(file, &fault.path, &fault.message, &hint);
        }
        faults.is_empty().then(|| text.to_owned())
    }

    fn studies(&mut self) -> BTreeMap<String, Arc<Study>> {
        let mut studies = BTreeMap::new();
        for folder in self.files.folders("studies") {
            let file = format!("studies/{folder}/study.json");
            if !self.files.has(&file) {
                self.fault(&file, "", "the folder has no study.json", "add it, or remove the folder");
                continue;
            }
            let Some(text) = self.checked(&file, "study") else { continue };
            match Study::parse(&text) {
                Ok(study) if study.id == folder => {
                    studies.insert(folder, Arc::new(study));
                }
                Ok(_) => self.fault(&file, "/id", format!("the id is not the folder's name, {folder}"), "rename one of the two"),
                Err(faults) => faults.into_iter().for_each(|fault| self.fault(&file, &fault.path, fault.message, &fault.hint)),
            }
        }
        studies
    }

    fn sites(&mut self) -> (BTreeMap<String, Arc<Site>>, BTreeMap<String, String>) {
        let (mut sites, mut receivers) = (BTreeMap::new(), BTreeMap::new());
        for folder in self.files.folders("mappings") {
            let at = |name: &str| format!("mappings/{folder}/{name}");
            let (site_file, mapping_file, receiver_file) = (at("site.json"), at("mapping.json"), at("receiver.json"));
            for file in [&site_file, &mapping_file] {
                if !self.files.has(file) {
                    self.fault(file, "", "the file is missing", "each folder of mappings/ needs site.json and mapping.json");
                }
            }
            if !self.files.has(&site_file) || !self.files.has(&mapping_file) {
                continue;
            }
            if self.files.has(&receiver_file)
                && let Some(text) = self.checked(&receiver_file, "receiver")
            {
                receivers.insert(folder.clone(), text);
            }
            let (site, mapping) = (self.checked(&site_file, "site"), self.checked(&mapping_file, "mapping"));
            let (Some(site), Some(mapping)) = (site, mapping) else { continue };
            match Site::compile_or_list(&site, &mapping) {
                Ok(site) if site.id == folder => {
                    sites.insert(folder, Arc::new(site));
                }
                Ok(_) => self.fault(&site_file, "/id", format!("the id is not the folder's name, {folder}"), "rename one of the two"),
                Err(wrongs) => wrongs.into_iter().for_each(|wrong| self.fault(&at(wrong.file), &wrong.path, wrong.message, &wrong.hint)),
            }
        }
        (sites, receivers)
    }

    fn studies_of(&mut self, site: &Site, studies: &BTreeMap<String, Arc<Study>>) -> Vec<Arc<Study>> {
        let Some(wanted) = &site.studies else { return studies.values().cloned().collect() };
        let mut found = Vec::new();
        for (index, id) in wanted.iter().enumerate() {
            match studies.get(id) {
                Some(study) => found.push(study.clone()),
                None => {
                    let file = format!("mappings/{}/site.json", site.id);
                    self.fault(&file, &format!("/studies/{index}"), format!("there is no study {id}"), "name a folder of studies/");
                }
            }
        }
        found
    }

    /// The studies and arms that a mapping names must be there.
    fn names_of(&mut self, site: &Site, studies: &BTreeMap<String, Arc<Study>>) {
        let file = format!("mappings/{}/mapping.json", site.id);
        for names in site.names() {
            match (studies.get(names.study.as_str()), &names.arm) {
                (None, _) => self.fault(&file, &names.path, format!("there is no study {}", names.study), "name a folder of studies/"),
                (Some(study), Some(arm)) if study.arms.iter().all(|known| known.id != arm.as_str()) => {
                    let hint = format!("use one of {}", study.arms.iter().map(|arm| arm.id.as_str()).collect::<Vec<_>>().join(", "));
                    self.fault(&file, &names.path, format!("the study {} has no arm {arm}", study.id), &hint);
                }
                (Some(_), Some(_) | None) => {}
            }
        }
    }
}

/// What a study asks for and this site can never answer.
fn unmapped(site: &Site, studies: &[Arc<Study>]) -> Vec<Fault> {
    let (analytes, concepts) = (site.analytes(), site.concepts());
    let mut warnings = Vec::new();
    for study in studies {
        let needs = study.needs();
        let missing_analytes = needs.analytes.iter().filter(|analyte| !analytes.contains(analyte)).map(|analyte| analyte.word());
        let missing_concepts = needs.concepts.iter().filter(|concept| !concepts.contains(concept)).map(|concept| concept.word());
        let missing_types = needs.types.iter().filter(|kind| !site.takes(**kind)).map(|kind| kind.word());
        let missing: Vec<&str> = missing_analytes.chain(missing_concepts).chain(missing_types).collect();
        if !missing.is_empty() {
            warnings.push(Fault {
                file: format!("mappings/{}/mapping.json", site.id),
                path: String::new(),
                message: format!("the study {} judges what this mapping does not give: {}", study.id, missing.join(", ")),
                hint: "map codes to these, or expect nothing of it and `unknown` for every subject".to_owned(),
            });
        }
    }
    warnings
}
