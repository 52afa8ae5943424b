//! Where the catalogue's files come from: the binary itself, or a folder of the same layout.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use rust_embed::RustEmbed;

use super::Fault;

#[derive(RustEmbed)]
#[folder = "profiles"]
struct Profiles;

#[derive(RustEmbed)]
#[folder = "mappings"]
struct Mappings;

#[derive(RustEmbed)]
#[folder = "studies"]
#[allow_missing = true]
struct Studies;

/// The three folders, in the order in which messages name them.
pub const FOLDERS: [&str; 3] = ["profiles", "mappings", "studies"];

/// Where the schemas of what we write lie.
pub const OUTGOING: &str = "profiles/study-flagged";

/// Files deeper than this below a folder are none of the catalogue's; it also ends a loop of links.
const DEEPEST: usize = 6;

/// All files of a catalogue, by their path with `/`: `mappings/<site>/site.json`.
#[derive(Clone, Debug, Default)]
pub struct Files {
    by_path: BTreeMap<String, Cow<'static, [u8]>>,
    /// Which part of the paths lies where on disk; what is compiled in lies nowhere.
    on_disk: Vec<(String, PathBuf)>,
}

impl Files {
    pub fn compiled_in() -> Files {
        let mut files = Files::default();
        files.embed::<Profiles>("profiles");
        files.embed::<Mappings>("mappings");
        files.embed::<Studies>("studies");
        files
    }

    fn embed<E: RustEmbed>(&mut self, folder: &str) {
        for path in E::iter() {
            if let Some(file) = E::get(&path) {
                self.by_path.insert(format!("{folder}/{path}"), file.data);
            }
        }
    }

    /// The catalogue in a folder; of profiles/, mappings/ and studies/ those that are not there are the compiled-in ones.
    /// A folder that holds one site or one study is put in the place of the compiled-in one of its name.
    pub fn of_dir(dir: &Path) -> Result<Files, Fault> {
        let fault = |path: &Path, message: String| Fault {
            file: path.display().to_string(),
            path: String::new(),
            message,
            hint: "name a folder that holds profiles/, mappings/ or studies/, or one site or study".to_owned(),
        };
        let dir = &dir.canonicalize().map_err(|error| fault(dir, error.to_string()))?;
        let name = dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let parts: Vec<(String, PathBuf)> = if dir.join("site.json").is_file() {
            vec![(format!("mappings/{name}"), dir.clone())]
        } else if dir.join("study.json").is_file() {
            vec![(format!("studies/{name}"), dir.clone())]
        } else {
            FOLDERS.into_iter().filter(|folder| dir.join(folder).is_dir()).map(|folder| (folder.to_owned(), dir.join(folder))).collect()
        };
        if parts.is_empty() {
            return Err(fault(dir, "the folder holds none of profiles/, mappings/ and studies/".to_owned()));
        }
        let mut files = Files::compiled_in();
        for (part, folder) in &parts {
            let prefix = format!("{part}/");
            files.by_path.retain(|path, _| !path.starts_with(&prefix));
            files.read_folder(folder, part, 0).map_err(|error| fault(folder, error.to_string()))?;
        }
        files.on_disk = parts;
        Ok(files)
    }

    /// Where a file lies, or would lie; `None` for what is compiled in.
    pub fn on_disk(&self, path: &str) -> Option<PathBuf> {
        self.on_disk.iter().find_map(|(part, folder)| path.strip_prefix(part.as_str())?.strip_prefix('/').map(|rest| folder.join(rest)))
    }

    fn read_folder(&mut self, folder: &Path, at: &str, depth: usize) -> std::io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let (path, at) = (entry.path(), format!("{at}/{name}"));
            if name.starts_with('.') {
                continue;
            }
            if path.is_dir() {
                if depth < DEEPEST {
                    self.read_folder(&path, &at, depth + 1)?;
                }
            } else {
                self.by_path.insert(at, Cow::Owned(fs::read(&path)?));
            }
        }
        Ok(())
    }

    pub fn has(&self, path: &str) -> bool {
        self.by_path.contains_key(path)
    }

    /// A file's text; the error is a sentence part.
    pub fn text(&self, path: &str) -> Result<&str, String> {
        let bytes = self.by_path.get(path).ok_or("the file is missing")?;
        std::str::from_utf8(bytes).map_err(|error| format!("not UTF-8: {error}"))
    }

    pub fn bytes(&self, path: &str) -> Option<&[u8]> {
        self.by_path.get(path).map(|bytes| bytes.as_ref())
    }

    /// Paths below a folder, in order.
    pub fn below<'a>(&'a self, folder: &'a str) -> impl Iterator<Item = &'a str> {
        self.by_path.keys().map(String::as_str).filter(move |path| path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/')))
    }

    /// The sub-folders of one of the three folders.
    pub fn folders(&self, folder: &str) -> BTreeSet<String> {
        self.below(folder).filter_map(|path| path.split('/').nth(1).filter(|_| path.split('/').count() > 2)).map(str::to_owned).collect()
    }

    /// The names before `.schema.json` in profiles/, without those of what we write.
    pub fn schemas(&self) -> impl Iterator<Item = &str> {
        self.below("profiles").filter_map(|path| path.strip_prefix("profiles/")?.strip_suffix(".schema.json")).filter(|name| !name.contains('/'))
    }

    /// Names of the schemas of what we write, in profiles/study-flagged/.
    pub fn schemas_of_outgoing(&self) -> impl Iterator<Item = &str> {
        self.below(OUTGOING).filter_map(|path| path.strip_prefix(OUTGOING)?.strip_prefix('/')).filter(|name| name.ends_with(".schema.json"))
    }

    /// Names of the FHIR conformance resources in profiles/.
    pub fn conformance(&self) -> impl Iterator<Item = &str> {
        let is_resource = |name: &&str| !name.contains('/') && name.ends_with(".json") && !name.ends_with(".schema.json");
        self.below("profiles").filter_map(|path| path.strip_prefix("profiles/")).filter(is_resource)
    }
}
