//! What the demo keeps in its folder beside its store: the key of its identifiers, and which EHR it belongs to.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, anyhow};

use crate::catalogue::Catalogue;
use crate::ehr::Ehr;
use crate::pipeline::Receivers;
use crate::writeback::receiver::Settings;

pub const KEY_FILE: &str = "identifier-key";
pub const EHR_FILE: &str = "ehr";
/// Base address of the EHR of the demo that runs, or ran last, in this folder.
pub const ADDRESS_FILE: &str = "ehr-address";

/// Says where the EHR of this demo is reached, for other commands.
pub fn say_address(dir: &Path, base_url: &str) -> anyhow::Result<()> {
    let file = dir.join(ADDRESS_FILE);
    std::fs::write(&file, base_url).with_context(|| format!("{} cannot be written", file.display()))
}

/// The EHR of a demo's folder; the stand-in answers only while its demo runs.
pub fn endpoint(dir: &Path) -> anyhow::Result<Ehr> {
    let file = dir.join(ADDRESS_FILE);
    let address = std::fs::read_to_string(&file).with_context(|| format!("{}: no demo ran here\n  hint: start the demo first", dir.display()))?;
    Ehr::open(address.trim(), None).with_context(|| format!("{} holds no address of an EHR", file.display()))
}

/// A store remembers what stands in one EHR; with another one it would believe what is not there.
pub fn same_ehr_as_before(dir: &Path, target: &str) -> anyhow::Result<()> {
    let file = dir.join(EHR_FILE);
    match std::fs::read_to_string(&file) {
        Ok(before) if before.trim() != target => Err(anyhow!(
            "the demo in {} belongs to another EHR: {}\n  hint: use --reset to start anew, or another --dir",
            dir.display(),
            before.trim()
        )),
        Ok(_) => Ok(()),
        Err(_) => std::fs::write(&file, target).with_context(|| format!("{} cannot be written", file.display())),
    }
}

/// The key of the identifiers we write (rulings.md 26): random, made once, kept beside the store for this user alone.
pub fn identifier_key(dir: &Path) -> anyhow::Result<[u8; 32]> {
    use std::os::unix::fs::OpenOptionsExt;
    let file = dir.join(KEY_FILE);
    if file.exists() {
        return read_key(&file);
    }
    let mut key = [0; 32];
    aws_lc_rs::rand::fill(&mut key).map_err(|_| anyhow!("this machine gives no random bytes"))?;
    let mut opened = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&file)
        .with_context(|| format!("{} cannot be made", file.display()))?;
    opened.write_all(&key)?;
    Ok(key)
}

fn read_key(file: &Path) -> anyhow::Result<[u8; 32]> {
    let bytes = std::fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?;
    bytes.try_into().map_err(|_| anyhow!("{} is not a key of 32 bytes\n  hint: start the demo with --reset", file.display()))
}

/// The receiver of a demo's folder, so that what another command takes into its store is written back as the demo
/// itself would; none where the folder is no demo's.
pub fn receivers(dir: &Path, catalogue: &Catalogue) -> anyhow::Result<Receivers> {
    let (key, ehr) = (dir.join(KEY_FILE), dir.join(EHR_FILE));
    let site = catalogue.sites.values().find(|site| site.is_demo);
    let Some((site, text)) = site.and_then(|site| Some((site, catalogue.receivers.get(&site.id)?))) else { return Ok(Receivers::new()) };
    if !key.exists() || !ehr.exists() {
        return Ok(Receivers::new());
    }
    let settings = Settings::read(text).context("the demo's receiver.json cannot be read")?;
    let target = std::fs::read_to_string(&ehr).with_context(|| format!("{} cannot be read", ehr.display()))?;
    // The commands plan and send nothing, so it does not matter that the stand-in has no address while no demo runs.
    Ok(Receivers::from([(site.id.clone(), settings.receiver(&site.id, target.trim(), read_key(&key)?))]))
}
