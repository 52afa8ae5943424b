//! The courses of all who entered a trial: from the store, or in one shot from files without one. Both are the gateway's own
//! way (gate, schema, mapping, fold, judgement), so that a report of files says what the store would say.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use compact_str::CompactString;
use rayon::prelude::*;

use super::Pipeline;
use super::receive::examine_in;
use super::screen::FileError;
use super::screen::files::{self, InputFile, Layout, Piece};
use crate::catalogue::Catalogue;
use crate::clinical::chart::Chart;
use crate::clinical::date::{AsOf, MS_PER_DAY, PartialDate};
use crate::clinical::fact::{Body, Fact, Person, ResourceType};
use crate::fhir::references::References;
use crate::fhir::{RawResource, bundle};
use crate::issue::{Code, Disposition, Effect};
use crate::mapping::Site;
use crate::report::{Enrolled, csv};
use crate::rules::course::course;
use crate::rules::{self, Hidden};
use crate::store::{StoreError, ledger, screening};
use crate::study::Study;

/// How much is wanted of each subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    Course,
    /// With every laboratory result, for LB.
    Laboratory,
}

/// Subjects whose facts one read transaction loads.
const SUBJECTS_PER_READ: usize = 64;

/// Those who entered as of a time, in order of site and subject; one site's, or all. Who must not be named is said as of
/// `now_ms`, whatever time the report is of. Waits for the store: never from an async task.
pub fn courses(pipeline: &Pipeline, study: &Study, site: Option<&str>, as_of: AsOf, now_ms: i64, depth: Depth) -> Result<Vec<Enrolled>, StoreError> {
    let subjects = pipeline.store.read_blocking(|tx| screening::may_have_entered(tx, &study.id, site))?;
    let entered: Vec<Vec<Enrolled>> = subjects
        .par_chunks(SUBJECTS_PER_READ)
        .map(|part| {
            let loaded = pipeline.store.read_blocking(|tx| {
                let known = part.iter().filter(|(site, _)| pipeline.catalogue.sites.contains_key(site));
                known.map(|(site, subject)| Ok((site, subject, ledger::facts(tx, site, subject)?))).collect::<Result<Vec<_>, StoreError>>()
            })?;
            let enrolled = loaded.into_iter().filter_map(|(site, subject, facts)| {
                let chart = pipeline.catalogue.sites[site].chart(facts.facts);
                let hidden = match facts.merged_into {
                    Some(_) => Some(Hidden::Merged),
                    None => rules::hidden(study, &chart, AsOf::instant(now_ms), true),
                };
                Some(Enrolled { hidden, ..enrolled(study, site, subject, &chart, as_of, depth)? })
            });
            Ok(enrolled.collect())
        })
        .collect::<Result<_, StoreError>>()?;
    Ok(entered.into_iter().flatten().collect())
}

fn enrolled(study: &Study, site: &str, subject: &str, chart: &Chart, as_of: AsOf, depth: Depth) -> Option<Enrolled> {
    let course = course(study, chart, as_of)?;
    let laboratory = match depth {
        Depth::Course => Vec::new(),
        Depth::Laboratory => csv::laboratory(chart, as_of),
    };
    Some(Enrolled { laboratory, ..Enrolled::new(site, subject, course) })
}

/// Files that a report cannot be made of.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{path}: no folder of a site is below it")]
    NoSites { path: PathBuf },
    #[error("{path}: {name:?} is no site of the catalogue")]
    UnknownSite { path: PathBuf, name: String },
    /// Then there is no newest fact to report as of.
    #[error("no fact with a date was read")]
    NoDate,
}

/// What was read of files; the dispositions add up to what was received.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub sites: Vec<String>,
    pub files: usize,
    pub bytes: u64,
    pub received: usize,
    pub dispositions: BTreeMap<Disposition, usize>,
    /// Why messages were quarantined or rejected, by issue code word.
    pub refused: BTreeMap<&'static str, usize>,
    /// Codes that the mappings do not name, `site system|code`.
    pub unmapped: BTreeMap<String, usize>,
}

/// What files gave.
pub struct FromFiles {
    pub as_of: AsOf,
    pub enrolled: Vec<Enrolled>,
    pub summary: Summary,
}

/// Reads folders in which each folder is a site and its name the site's id (rulings.md 33), and judges as of `as_of`, else as
/// of the day of the newest fact. Everyone who entered is named, as `screen` lists everyone: files are no store's list.
pub fn courses_of_files(catalogue: &Catalogue, study: &Study, paths: &[PathBuf], as_of: Option<AsOf>, depth: Depth) -> Result<FromFiles, FilesError> {
    let folders = site_folders(catalogue, paths)?;
    let mut inputs: Vec<(&Arc<Site>, InputFile)> = Vec::new();
    for (site, folder) in &folders {
        let found = files::find(std::slice::from_ref(folder)).map_err(|(path, source)| FileError { path, source })?;
        inputs.extend(found.into_iter().map(|file| (site, file)));
    }
    let only: Vec<InputFile> = inputs.iter().map(|(_, file)| file.clone()).collect();
    let parts: Vec<Part> = files::pieces(&only)
        .into_par_iter()
        .map(|piece| Part::read(catalogue, inputs[piece.file].0, &inputs[piece.file].1, piece))
        .collect::<Result<_, FileError>>()?;
    let mut summary = Summary { files: inputs.len(), bytes: only.iter().map(|file| file.bytes).sum(), ..Summary::default() };
    summary.sites = folders.iter().map(|(site, _)| site.id.clone()).collect();
    summary.sites.dedup();
    let mut seen = HashSet::new();
    let mut newest_ms: Option<i64> = None;
    let mut by_subject: BTreeMap<(&str, CompactString), Vec<Fact>> = BTreeMap::new();
    for part in parts {
        part.add_to(&mut summary, &mut seen);
        newest_ms = newest_ms.max(part.newest_ms);
        for (subject, fact) in part.facts {
            by_subject.entry((catalogue.sites[&part.site].id.as_str(), subject)).or_default().push(fact);
        }
    }
    let as_of = match (as_of, newest_ms) {
        (Some(as_of), _) => as_of,
        (None, Some(newest_ms)) => AsOf::instant((newest_ms.div_euclid(MS_PER_DAY) + 1) * MS_PER_DAY - 1),
        (None, None) => return Err(FilesError::NoDate),
    };
    let subjects: Vec<((&str, CompactString), Vec<Fact>)> = merged(by_subject).into_iter().collect();
    let enrolled: Vec<Enrolled> = subjects
        .into_par_iter()
        .filter_map(|((site, subject), facts)| enrolled(study, site, &subject, &catalogue.sites[site].chart(facts), as_of, depth))
        .collect();
    Ok(FromFiles { as_of, enrolled, summary })
}

/// The folders of sites below the paths, in order of site.
fn site_folders(catalogue: &Catalogue, paths: &[PathBuf]) -> Result<Vec<(Arc<Site>, PathBuf)>, FilesError> {
    let mut folders = Vec::new();
    for path in paths {
        let at = |source| FileError { path: path.clone(), source };
        let before = folders.len();
        for entry in std::fs::read_dir(path).map_err(at)? {
            let folder = entry.map_err(at)?.path();
            let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if !folder.is_dir() || name.starts_with('.') {
                continue;
            }
            match catalogue.sites.get(&name) {
                Some(site) => folders.push((site.clone(), folder)),
                None => return Err(FilesError::UnknownSite { path: folder, name }),
            }
        }
        if folders.len() == before {
            return Err(FilesError::NoSites { path: path.clone() });
        }
    }
    folders.sort_by(|a, b| (&a.0.id, &a.1).cmp(&(&b.0.id, &b.1)));
    Ok(folders)
}

/// What one piece of one file gave.
struct Part {
    site: String,
    facts: Vec<(CompactString, Fact)>,
    /// The hash of its bytes, where it ended, and why.
    messages: Vec<(String, Disposition, Option<&'static str>)>,
    unmapped: Vec<String>,
    newest_ms: Option<i64>,
}

impl Part {
    fn read(catalogue: &Catalogue, site: &Site, file: &InputFile, piece: Piece) -> Result<Part, FileError> {
        let mut buffer = Vec::new();
        let lines = files::read(file, piece, &mut buffer).map_err(|source| FileError { path: file.path.clone(), source })?;
        let bytes = &buffer[lines];
        let mut part = Part { site: site.id.clone(), facts: Vec::new(), messages: Vec::new(), unmapped: Vec::new(), newest_ms: None };
        match file.layout {
            // A document that names no resourceType is none of FHIR's, such as a study's notes beside its data.
            Layout::Document if memchr::memmem::find(bytes, b"\"resourceType\"").is_none() => {}
            Layout::Document => part.take(catalogue, site, bytes),
            Layout::Lines => {
                let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
                lines.for_each(|line| part.take(catalogue, site, line));
            }
        }
        Ok(part)
    }

    /// One resource is one message; a Bundle gives its entries (rulings.md 21).
    fn take(&mut self, catalogue: &Catalogue, site: &Site, bytes: &[u8]) {
        let is_bundle = RawResource::parse(bytes).is_ok_and(|resource| resource.resource_type == "Bundle");
        match is_bundle.then(|| bundle::split(bytes)) {
            Some(Ok(bundle)) => {
                let references = References::of(&bundle);
                for entry in bundle.entries {
                    match entry {
                        Ok(entry) => entry.resource.into_iter().for_each(|resource| self.take_one(catalogue, site, &references, resource)),
                        Err(issue) => self.messages.push((String::new(), Disposition::Rejected, Some(issue.code.word()))),
                    }
                }
            }
            Some(Err(issue)) => self.messages.push((String::new(), Disposition::Rejected, Some(issue.code.word()))),
            None => self.take_one(catalogue, site, &References::default(), bytes),
        }
    }

    fn take_one(&mut self, catalogue: &Catalogue, site: &Site, references: &References, bytes: &[u8]) {
        let prepared = examine_in(catalogue, site, references, bytes);
        let cause = prepared.issues.iter().find(|issue| issue.code.effect() != Effect::Warn).map(|issue| issue.code.word());
        self.messages.push((prepared.body_hash, prepared.disposition, cause));
        if prepared.issues.iter().any(|issue| issue.code == Code::CodeUnmapped)
            && let Some(code) = prepared.code
        {
            self.unmapped.push(code);
        }
        if let (Some(subject), Some(fact)) = (prepared.subject, prepared.fact) {
            self.newest_ms = self.newest_ms.max(newest(&fact));
            self.facts.push((subject.as_str().into(), fact));
        }
    }

    fn add_to(&self, summary: &mut Summary, seen: &mut HashSet<(String, String)>) {
        for (hash, disposition, cause) in &self.messages {
            summary.received += 1;
            let is_again = !hash.is_empty() && !seen.insert((self.site.clone(), hash.clone()));
            let is_kept = matches!(disposition, Disposition::Applied | Disposition::Quarantined);
            let disposition = if is_again && is_kept { Disposition::Duplicate } else { *disposition };
            *summary.dispositions.entry(disposition).or_default() += 1;
            if let (Some(cause), Disposition::Quarantined | Disposition::Rejected) = (cause, disposition) {
                *summary.refused.entry(cause).or_default() += 1;
            }
        }
        for code in &self.unmapped {
            *summary.unmapped.entry(format!("{} {code}", self.site)).or_default() += 1;
        }
    }
}

/// The newest instant at which a fact says that something was so; what is planned (the end of a subject's part) does not count.
fn newest(fact: &Fact) -> Option<i64> {
    let of = |dates: &[Option<PartialDate>]| dates.iter().flatten().map(|date| date.start_ms).max();
    match &fact.body {
        Body::Measurement(measurement) => of(&[measurement.effective]),
        Body::Condition(condition) => of(&[condition.onset, condition.recorded]),
        Body::AdverseEvent(event) => of(&[event.onset, event.detected, event.recorded, event.resolved]),
        Body::ResearchSubject(subject) => of(&[subject.start]),
        Body::Administration(administration) => of(&[administration.given, administration.ended]),
        Body::Encounter(encounter) => of(&[encounter.start, encounter.end]),
        Body::Person(_) | Body::PersonPart(_) | Body::Decision(_) | Body::Nothing => None,
    }
}

/// Brings the facts of records that were merged into others to the record that stands; of merged records all but the Patient,
/// as the store does it. Records that name each other in a ring stand for themselves.
fn merged(mut by_subject: BTreeMap<(&str, CompactString), Vec<Fact>>) -> BTreeMap<(&str, CompactString), Vec<Fact>> {
    let mut persons: BTreeMap<(&str, CompactString), Person> = BTreeMap::new();
    for ((site, subject), facts) in &by_subject {
        let of_patient = facts.iter().filter(|fact| fact.source.resource_type == ResourceType::Patient).cloned().collect();
        if let Some(person) = Chart::fold(of_patient, &[]).person {
            persons.insert((site, subject.clone()), person.body);
        }
    }
    let is_apart = |site, one: &CompactString, other: &CompactString| {
        let is_test = |subject: &CompactString| persons.get(&(site, subject.clone())).map(|person: &Person| person.is_test);
        is_test(one).is_some_and(|one| is_test(other).is_some_and(|other| one != other))
    };
    let mut links: HashMap<(&str, CompactString), CompactString> = HashMap::new();
    for ((site, subject), person) in &persons {
        // A record's own word goes before what another says of it; of several the first by id.
        for replaced in &person.replaces {
            let is_own = persons.get(&(*site, replaced.clone())).is_some_and(|person| person.replaced_by.is_some());
            if !is_own && !is_apart(*site, subject, replaced) {
                links.entry((*site, replaced.clone())).or_insert_with(|| subject.clone());
            }
        }
        if let Some(link) = person.replaced_by.as_ref().filter(|link| !is_apart(*site, subject, link)) {
            links.insert((*site, subject.clone()), link.clone());
        }
    }
    for ((site, subject), first) in &links {
        let mut stands = first;
        let mut passed = HashSet::from([subject]);
        while let Some(next) = links.get(&(*site, stands.clone())) {
            if !passed.insert(stands) {
                break;
            }
            stands = next;
        }
        if passed.contains(stands) {
            continue;
        }
        let mut facts = by_subject.remove(&(*site, subject.clone())).unwrap_or_default();
        facts.retain(|fact| fact.source.resource_type != ResourceType::Patient);
        by_subject.entry((site, stands.clone())).or_default().extend(facts);
    }
    // Who is left stands for itself, whatever its record says.
    for fact in by_subject.values_mut().flatten() {
        if let Body::Person(person) = &mut fact.body {
            person.replaced_by = None;
        }
    }
    by_subject
}
