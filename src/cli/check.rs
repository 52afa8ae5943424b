//! `nephrogate check`: every file of a catalogue against its schema and against the others, and every example.

mod examples;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;

use crate::catalogue::Catalogue;
use crate::catalogue::files::Files;

use examples::{Opinions, Outcome, Run};

/// Entries that no example exercises, named before the rest is counted.
const NAMED_ENTRIES: usize = 8;

#[derive(clap::Args)]
#[command(after_help = "Examples are pairs of files. mappings/<site>/examples/NAME.in.json is one resource as the hospital sends it, or \
                  NAME.in.hl7 one HL7 v2 message; NAME.out.json is what becomes of it. studies/<study>/examples/NAME.in.ndjson begins with {\"site\": ..., \"as_of\": ..., \"note\": ...}; each further line \
                  is a resource, or {\"subject\": ..., \"decision\": ...}; NAME.out.json is the judgement.\n\nExit code 1 when anything is wrong.")]
pub struct Args {
    /// Folders with profiles/, mappings/ or studies/, or of one site or study; without any, what is compiled in
    #[arg(value_name = "DIR")]
    dirs: Vec<PathBuf>,
    /// Write the outcome of each example into its .out.json; look at the difference before you commit it
    #[arg(long, requires = "dirs")]
    bless: bool,
    /// Name every entry of a mapping that no example exercises
    #[arg(long)]
    all: bool,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut is_sound = true;
    if args.dirs.is_empty() {
        is_sound &= check("compiled in", &Files::compiled_in(), &args)?;
    }
    for dir in &args.dirs {
        is_sound &= match Files::of_dir(dir) {
            Ok(files) => check(&dir.display().to_string(), &files, &args)?,
            Err(fault) => {
                println!("FAULT    {fault}");
                false
            }
        };
    }
    Ok(if is_sound { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Checks one catalogue and prints the report; answers whether all is well.
fn check(name: &str, files: &Files, args: &Args) -> anyhow::Result<bool> {
    let checked = Catalogue::check(files);
    for fault in &checked.faults {
        println!("FAULT    {fault}");
    }
    for warning in &checked.warnings {
        println!("warning  {warning}");
    }
    let Some(catalogue) = &checked.catalogue else {
        println!("{name}: {} faults; examples need a catalogue without", checked.faults.len());
        return Ok(false);
    };
    let mut wrong = checked.faults.len();
    let mut opinions = Opinions::default();
    for site in catalogue.sites.values() {
        let mut run = examples::of_site(catalogue, files, site);
        wrong += report(&mut run, files, args)?;
        opinions.add(&mut run.opinions);
        println!("mappings/{}: {}", site.id, sentence(&run));
        let idle: Vec<String> = site
            .entries()
            .iter()
            .filter(|entry| !run.exercised.contains(&entry.shows))
            .map(|entry| format!("{} ({})", entry.shows, entry.path))
            .collect();
        if !idle.is_empty() {
            let shown = if args.all { idle.len() } else { NAMED_ENTRIES.min(idle.len()) };
            let more = if shown < idle.len() { format!(" and {} more (--all names them)", idle.len() - shown) } else { String::new() };
            println!("         {} of {} entries are exercised by no example: {}{more}", idle.len(), site.entries().len(), idle[..shown].join(", "));
        }
    }
    for study in catalogue.studies.values() {
        let mut run = examples::of_study(catalogue, files, study);
        wrong += report(&mut run, files, args)?;
        opinions.add(&mut run.opinions);
        println!("studies/{}: {}", study.id, sentence(&run));
    }
    for objection in &opinions.objections {
        println!("warning  {objection} (the typed reader)");
    }
    println!("{}", opinions.sentence());
    let end = match wrong {
        0 => "all is well".to_owned(),
        1 => "1 thing is wrong".to_owned(),
        more => format!("{more} things are wrong"),
    };
    let schemas = files.schemas().count() + files.schemas_of_outgoing().count();
    let (sites, studies, resources) = (catalogue.sites.len(), catalogue.studies.len(), files.conformance().count());
    println!("{name}: {sites} sites, {studies} studies, {schemas} schemas, {resources} conformance resources; {end}");
    Ok(wrong == 0)
}

/// Prints what differs, or writes it; answers how many examples are wrong afterwards.
fn report(run: &mut Run, files: &Files, args: &Args) -> anyhow::Result<usize> {
    let mut wrong = 0;
    for example in &mut run.examples {
        if args.bless
            && let Some(text) = example.blessed()
            && let Some(path) = files.on_disk(&example.out_file)
        {
            write(&path, &text)?;
            println!("blessed  {}", example.out_file);
            example.outcome = Outcome::Agrees;
        }
        match &example.outcome {
            Outcome::Agrees => continue,
            Outcome::Broken { file, message, hint } => println!("FAULT    {file}: {message}; {hint}"),
            Outcome::Missing { .. } => {
                println!("FAULT    {}: the file is missing; write it, or let `check --bless DIR` write what happens now", example.out_file)
            }
            Outcome::Differs { differences, .. } => {
                println!("FAILED   {}", example.out_file);
                for difference in differences {
                    println!("         {}: expected {}, is {}", difference.path, difference.expected, difference.found);
                }
            }
        }
        wrong += 1;
    }
    Ok(wrong)
}

fn sentence(run: &Run) -> String {
    let agree = run.examples.iter().filter(|example| matches!(example.outcome, Outcome::Agrees)).count();
    match run.examples.len() {
        0 => "no examples".to_owned(),
        all if all == agree => format!("{all} examples agree"),
        all => format!("{agree} of {all} examples agree"),
    }
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("{} cannot be written; check the folder's permissions", path.display()))
}
