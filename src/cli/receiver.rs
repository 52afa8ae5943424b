//! `nephrogate receiver`: how one site's EHR is written to and why not better: what the contract allows, what the
//! server declares, what it was found to do; and a probe that writes about a test patient.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, bail};
use serde::Serialize;

use super::{Format, StoreArgs};
use crate::pipeline::Pipeline;
use crate::pipeline::probe::{self, write};
use crate::store::receivers::{self, Kept};
use crate::writeback::ladder::{self, Declared, Finding, FindingKind, LeftOut, Rung};
use crate::writeback::{Mode, Receiver};

#[derive(clap::Args)]
#[command(
    after_help = "The rung is the best way of telling this EHR about a subject that mappings/<site>/receiver.json allows, that the server declares in its \
                  CapabilityStatement, and that nothing found by a probe or a delivery speaks against: research-subject, flag, list, group, \
                  document-reference, communication. A rung that could not be taken back is never used.\n\nWithout --probe the EHR is only asked for its \
                  CapabilityStatement; where it does not answer, what it said last is shown.\n\n--probe PATIENT_ID writes to the EHR: about one Patient that it \
                  labels HTEST, and no other. On each rung the resource is created, read, searched, compared, changed, taken back, and removed (where \
                  receiver.json allows no DELETE it stays, entered in error and labelled HTEST). What is found is kept and chooses the rung; a probe is also \
                  how an EHR that was mended gets a better rung back.\n\nExit code 1 when nothing can be written to this EHR, or a step of the probe failed."
)]
pub struct Args {
    #[command(flatten)]
    store: StoreArgs,
    /// Folder of mappings/ with a receiver.json
    #[arg(long, value_name = "SITE")]
    site: String,
    /// Write about this Patient of the EHR, which it must label HTEST
    #[arg(long, value_name = "PATIENT_ID")]
    probe: Option<String>,
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    if let Some(dir) = &args.store.dir
        && !dir.join(crate::store::FILE_NAME).exists()
    {
        bail!("{}: there is no store here: name the folder of a store", dir.display());
    }
    let (pipeline, mut endpoints, unknown) = match crate::app::open_endpoints(&args.store) {
        Ok((pipeline, endpoints)) => (pipeline, endpoints, None),
        // Of a demo that does not run only what was kept can be shown.
        Err(error) if args.store.dir.is_some() && args.probe.is_none() && !error.is::<crate::app::StoreTrouble>() => {
            (crate::app::open_store(&args.store)?, crate::app::Endpoints::new(), Some(error.to_string()))
        }
        Err(error) => return Err(error),
    };
    let Some(contract) = pipeline.receivers.get(&args.site) else {
        if pipeline.receivers.is_empty() {
            eprintln!("error: nothing is written back from this store: no site has a receiver");
            return Ok(ExitCode::from(2));
        }
        return Ok(super::not_known("receiver", &args.site, pipeline.receivers.keys()));
    };
    let ehr = endpoints.remove(&args.site);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("the runtime cannot start")?;
    let now_ms = super::now_ms();
    let mut trouble = match &ehr {
        Some(ehr) => runtime.block_on(probe::ask(&pipeline, ehr, &args.site, now_ms))?.trouble.map(|error| error.to_string()),
        None => unknown,
    };
    let mut probed = None;
    if let Some(patient) = &args.probe {
        let Some(ehr) = &ehr else { bail!("the EHR's address is not known here") };
        let is_table = args.format == Format::Table;
        let say = |step: &write::Step| {
            if is_table {
                println!("{}", line_of(step));
            }
        };
        if is_table {
            println!("probe of {} about Patient/{patient}", ehr.base());
        }
        match runtime.block_on(write::probe(&pipeline, ehr, &args.site, patient, now_ms, say)) {
            Ok(done) => {
                trouble = done.trouble.as_ref().map(ToString::to_string).or(trouble);
                probed = Some(done);
            }
            Err(write::ProbeError::Store(error)) => return Err(error.into()),
            Err(error @ write::ProbeError::Ehr(_)) => return Err(error.into()),
            Err(error) => {
                eprintln!("error: nothing was written: {error}");
                return Ok(ExitCode::from(2));
            }
        }
        if is_table {
            println!();
        }
    }
    let (kept, findings) = pipeline.store.read_blocking(|tx| Ok((receivers::kept(tx, &args.site)?, receivers::findings(tx, &args.site)?)))?;
    let view = View::of(&pipeline, contract, &kept, &findings, trouble, probed.as_ref());
    let mut out = std::io::stdout().lock();
    match args.format {
        Format::Json => writeln!(out, "{}", serde_json::to_string_pretty(&view)?)?,
        Format::Table => view.print(&mut out)?,
    }
    let has_failed = probed.as_ref().is_some_and(|probed| probed.trouble.is_some() || probed.steps.iter().any(|step| !step.is_good));
    Ok(if view.rung.is_none() || has_failed { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

fn line_of(step: &write::Step) -> String {
    let mark = if step.is_good { "ok" } else { "NO" };
    let what = if step.resource_type == step.rung.word() { "" } else { step.resource_type.as_str() };
    format!("{mark}  {:18}  {:17}  {:13}  {:>6} ms  {}", step.rung.word(), what, step.tried.word(), step.took_ms, step.says)
}

/// Everything that the command says, also as JSON.
#[derive(Serialize)]
struct View<'a> {
    site: &'a str,
    base_url: &'a str,
    contract: Contract<'a>,
    declares: Option<Declares<'a>>,
    /// `null`: nothing can be written.
    rung: Option<Rung>,
    with_flag: bool,
    left_out: Vec<LeftOut>,
    beside_left_out: Vec<Beside>,
    findings: Vec<Found<'a>>,
    /// What a person must do; empty when nothing.
    for_a_person: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    probe: Option<&'a [write::Step]>,
}

#[derive(Serialize)]
struct Contract<'a> {
    mode: Mode,
    write_from: crate::writeback::WriteFrom,
    rungs: &'a [Rung],
    update_creates: bool,
    deletes: bool,
    beside: crate::writeback::Beside,
    annotates: &'a [crate::writeback::Annotates],
    takes: &'a crate::writeback::Takes,
}

#[derive(Serialize)]
struct Declares<'a> {
    /// RFC 3339 UTC.
    read: String,
    fhir_version: &'a str,
    software: Option<&'a str>,
    /// Number of types it names.
    types: usize,
    /// Of the types that a rung needs: what it declares; `null` where it does not name the type.
    needed: Vec<DeclaredType<'a>>,
}

#[derive(Serialize)]
struct DeclaredType<'a> {
    #[serde(rename = "type")]
    resource_type: &'static str,
    interactions: Option<&'a [String]>,
}

#[derive(Serialize)]
struct Beside {
    #[serde(rename = "type")]
    resource_type: &'static str,
    why: String,
}

#[derive(Serialize)]
struct Found<'a> {
    #[serde(rename = "type")]
    resource_type: &'a str,
    kind: FindingKind,
    detail: &'a str,
    found: String,
}

impl<'a> View<'a> {
    fn of(
        pipeline: &Pipeline,
        contract: &'a Receiver,
        kept: &'a Kept,
        findings: &'a [Finding],
        trouble: Option<String>,
        probed: Option<&'a write::Probed>,
    ) -> View<'a> {
        let declared = kept.declared.as_ref();
        let standing = ladder::standing(contract, declared, findings);
        let beside: Vec<Beside> =
            ladder::beside_left_out(contract, declared, findings).into_iter().map(|(resource_type, why)| Beside { resource_type, why }).collect();
        View {
            site: &contract.site,
            base_url: &contract.base_url,
            contract: Contract {
                mode: contract.mode,
                write_from: contract.write_from,
                rungs: &contract.rungs,
                update_creates: contract.update_creates,
                deletes: contract.deletes,
                beside: contract.beside,
                annotates: &contract.annotates,
                takes: &contract.takes,
            },
            declares: declared.map(|declared| declares(declared, kept.declared_ms.unwrap_or_default())),
            rung: standing.ladder.rung,
            with_flag: standing.ladder.with_flag,
            for_a_person: for_a_person(pipeline, contract, declared, findings, &standing, trouble),
            left_out: standing.ladder.left_out,
            beside_left_out: beside,
            findings: findings
                .iter()
                .map(|finding| Found {
                    resource_type: &finding.resource_type,
                    kind: finding.kind,
                    detail: &finding.detail,
                    found: instant(finding.found_ms),
                })
                .collect(),
            probe: probed.map(|probed| probed.steps.as_slice()),
        }
    }

    fn print(&self, out: &mut impl Write) -> std::io::Result<()> {
        let words = |rungs: &[Rung]| rungs.iter().map(|rung| rung.word()).collect::<Vec<_>>().join(", ");
        let yes = |is_so: bool| if is_so { "yes" } else { "no" };
        writeln!(out, "receiver of {}: {}", self.site, self.base_url)?;
        let Contract { mode, write_from, rungs, update_creates, deletes, beside, annotates, takes } = &self.contract;
        writeln!(out, "contract    {}, from {}; rungs {}", word(mode), word(write_from), words(rungs))?;
        writeln!(out, "            own ids by PUT: {}; DELETE: {}", yes(*update_creates), yes(*deletes))?;
        let mut extras = Vec::new();
        extras.extend(beside.egfr_observation.then_some("the computed eGFR".to_owned()));
        extras.extend(beside.adverse_event.map(|shape| format!("adverse events ({})", word(&shape))));
        extras.extend(beside.provenance.then_some("Provenance".to_owned()));
        extras.extend(annotates.iter().map(|annotates| format!("marks on the hospital's {}", annotates.resource_type)));
        if !extras.is_empty() {
            writeln!(out, "            beside the ladder: {}", extras.join(", "))?;
        }
        let mut limits: Vec<String> = takes.fields.iter().map(|(kind, fields)| format!("of {kind} only {}", fields.join(", "))).collect();
        limits.extend(takes.statuses.iter().map(|(kind, statuses)| format!("{kind}.status only {}", statuses.join(", "))));
        limits.extend((!takes.code_systems.is_empty()).then(|| format!("code systems {}", takes.code_systems.join(", "))));
        limits.extend(takes.bytes_max.map(|bytes| format!("at most {bytes} bytes")));
        limits.extend(takes.requests_per_minute.map(|most| format!("at most {most} requests a minute")));
        limits.extend(takes.no_extensions.then_some("no extensions".to_owned()));
        limits.extend(takes.no_modifier_extensions.then_some("no modifier extensions".to_owned()));
        for limit in limits {
            writeln!(out, "            takes {limit}")?;
        }
        match &self.declares {
            None => writeln!(out, "declares    not asked yet")?,
            Some(declares) => {
                let software = declares.software.map(|name| format!(", {name}")).unwrap_or_default();
                writeln!(out, "declares    FHIR {}{software}, {} types; read {}", declares.fhir_version, declares.types, declares.read)?;
                for DeclaredType { resource_type: kind, interactions } in &declares.needed {
                    let said = interactions.map_or_else(|| "not named".to_owned(), |interactions| interactions.join(", "));
                    writeln!(out, "            {kind:17} {said}")?;
                }
            }
        }
        let flag = if self.with_flag { ", with the Flag beside it" } else { "" };
        writeln!(out, "rung        {}{flag}", self.rung.map_or("nothing can be written", |rung| rung.word()))?;
        for LeftOut { rung, why } in &self.left_out {
            writeln!(out, "  left out  {:18} {why}", rung.word())?;
        }
        for Beside { resource_type, why } in &self.beside_left_out {
            writeln!(out, "  left out  beside: {resource_type:10} {why}")?;
        }
        for Found { resource_type, kind, detail, found } in &self.findings {
            writeln!(out, "found       {found}  {resource_type:17} {} {detail}", kind.word())?;
        }
        if self.findings.is_empty() {
            writeln!(out, "found       nothing yet; --probe PATIENT_ID tries it with a test patient")?;
        }
        for what in &self.for_a_person {
            writeln!(out, "a person    {what}")?;
        }
        if self.for_a_person.is_empty() {
            writeln!(out, "a person    has nothing to do")?;
        }
        Ok(())
    }
}

fn declares(declared: &Declared, read_ms: i64) -> Declares<'_> {
    let kinds = Rung::ALL.iter().flat_map(|rung| rung.resource_types());
    Declares {
        read: instant(read_ms),
        fhir_version: &declared.fhir_version,
        software: declared.software.as_deref(),
        types: declared.resources.len(),
        needed: kinds
            .map(|kind| DeclaredType { resource_type: kind, interactions: declared.of(kind).map(|resource| resource.interactions.as_slice()) })
            .collect(),
    }
}

fn for_a_person(
    pipeline: &Pipeline,
    contract: &Receiver,
    declared: Option<&Declared>,
    findings: &[Finding],
    standing: &Receiver,
    trouble: Option<String>,
) -> Vec<String> {
    let mut todo = Vec::new();
    todo.extend(trouble.map(|trouble| format!("the EHR was not asked, what it said last is shown: {trouble}")));
    if standing.ladder.rung.is_none() {
        todo.push("nothing can be written: agree with the EHR's team on one rung, allow it in receiver.json, then run this again".to_owned());
    }
    // A finding took away what the server declares: it may have been mended since.
    if ladder::climb(contract, declared, &[]).rung != standing.ladder.rung && !findings.is_empty() {
        todo.push("a better rung is declared and was found not to work: show the findings to the EHR's team, then run --probe".to_owned());
    }
    if contract.mode == Mode::Shadow {
        let studies = pipeline.catalogue.studies_of_site.get(&contract.site).map(Vec::as_slice).unwrap_or_default();
        let waits = |study: &&std::sync::Arc<crate::study::Study>| {
            let released = pipeline.store.read_blocking(|tx| crate::store::outbox::released(tx, &contract.site, &study.id));
            matches!(released, Ok(None))
        };
        let waiting: Vec<&str> = studies.iter().filter(waits).map(|study| study.id.as_str()).collect();
        if !waiting.is_empty() {
            todo.push(format!("in shadow, nothing is sent: nephrogate outbox release for {}", waiting.join(", ")));
        }
    }
    todo
}

/// The word of a plain enum, as receiver.json spells it.
fn word(value: &impl Serialize) -> String {
    serde_json::to_string(value).map(|text| text.trim_matches('"').to_owned()).unwrap_or_default()
}

fn instant(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map(|at| at.to_string()).unwrap_or_default()
}
