//! Two CDISC-shaped CSV files: LB (laboratory results) and AE (adverse events), with SDTM's variable names in SDTM's
//! order, after the FHIR to CDISC Joint Mapping Implementation Guide 1.0.0 (hl7.org/fhir/uv/cdisc-mapping, pages LB and
//! AE). Shaped, not a submission: no define.xml, and terms are not coded. What the guide leaves to the sponsor stays
//! empty: AEDECOD (nobody here has a MedDRA licence to code by), EPOCH, VISITDY. Subjects who must not be named are left out,
//! since every row names its subject.

use std::collections::HashMap;

use super::cohort::{Cohort, Member};
use super::{Enrolled, safety};
use crate::clinical::chart::Chart;
use crate::clinical::date::{AsOf, PartialDate, Precision};
use crate::clinical::fact::Relation;
use crate::clinical::quantity::{Analyte, Comparator, Unit};
use crate::escape::csv_cell_or_number;
use crate::rules::course::{Cited, Course};
use crate::rules::outcome::{Point, Series};
use crate::study::Study;
use crate::study::follow_up::Measure;

/// A domain of SDTM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Domain {
    Lb,
    Ae,
}

impl Domain {
    pub const ALL: [Domain; 2] = [Domain::Lb, Domain::Ae];

    pub const fn word(self) -> &'static str {
        match self {
            Domain::Lb => "lb",
            Domain::Ae => "ae",
        }
    }

    pub fn from_word(word: &str) -> Option<Domain> {
        Domain::ALL.into_iter().find(|domain| domain.word() == word)
    }
}

/// One laboratory result in force, as it was received and as it is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Laboratory {
    pub by: Cited,
    pub analyte: Analyte,
    /// `system|code`, such as `loinc|2160-0`.
    pub code: String,
    /// FHIR syntax.
    pub date: Option<PartialDate>,
    pub comparator: Option<Comparator>,
    pub value_as_received: String,
    pub unit_as_received: String,
    pub value: Option<f64>,
    pub unit: Option<Unit>,
    pub reference_low: Option<f64>,
    pub reference_high: Option<f64>,
    /// For a reported eGFR: the equation its code names.
    pub equation: Option<String>,
}

/// The settled results of a subject as of a time, oldest first. One that may not decide is a result all the same, without a
/// standard value.
pub fn laboratory(chart: &Chart, as_of: AsOf) -> Vec<Laboratory> {
    let in_force = chart
        .measurements
        .iter()
        .filter(|recorded| recorded.status.is_final() && recorded.body.effective.as_ref().is_none_or(|date| as_of.includes(date)));
    let mut results: Vec<Laboratory> = in_force
        .filter_map(|recorded| {
            let body = &recorded.body;
            let usable = body.unusable.is_none() && !recorded.is_conflicting;
            Some(Laboratory {
                by: Cited::of(&recorded.source),
                analyte: body.analyte?,
                code: body.code.to_string(),
                date: body.effective,
                comparator: body.comparator,
                value_as_received: body.value_as_received.to_string(),
                unit_as_received: body.unit_as_received.to_string(),
                value: body.value.filter(|_| usable),
                unit: body.unit.filter(|_| usable),
                reference_low: body.reference_low,
                reference_high: body.reference_high,
                equation: body.equation.as_ref().map(|equation| equation.to_string()),
            })
        })
        .collect();
    results.sort_by_key(|result| (result.date.map(|date| date.start_ms), result.analyte));
    results
}

/// One file, with a line of names at its head and CR LF line ends (RFC 4180).
pub fn csv(study: &Study, courses: &[Enrolled], domain: Domain) -> String {
    let cohort = Cohort::of(study, courses);
    let mut text = String::new();
    let named = || cohort.members.iter().filter(|member| member.is_named());
    match domain {
        Domain::Lb => {
            line(&mut text, LB.iter().map(|name| (*name).to_owned()));
            named().for_each(|member| laboratory_lines(&mut text, study, member));
        }
        Domain::Ae => {
            line(&mut text, AE.iter().map(|name| (*name).to_owned()));
            named().for_each(|member| event_lines(&mut text, study, member));
        }
    }
    text
}

fn line(text: &mut String, cells: impl Iterator<Item = String>) {
    for (index, cell) in cells.enumerate() {
        if index > 0 {
            text.push(',');
        }
        text.push_str(&csv_cell_or_number(&cell));
    }
    text.push_str("\r\n");
}

const LB: [&str; 26] = [
    "STUDYID", "DOMAIN", "USUBJID", "LBSEQ", "LBREFID", "LBTESTCD", "LBTEST", "LBORRES", "LBORRESU", "LBSTRESC", "LBSTRESN", "LBSTRESU", "LBSTNRLO",
    "LBSTNRHI", "LBLOINC", "LBSPEC", "LBMETHOD", "LBBLFL", "LBDRVFL", "VISITNUM", "VISIT", "LBDTC", "LBDY", "SITEID", "SUBJID", "ARMCD",
];

/// The last four are supplemental qualifiers, as SUPPAE would carry them: SDTM has no variable of its own for them.
const AE: [&str; 28] = [
    "STUDYID", "DOMAIN", "USUBJID", "AESEQ", "AEREFID", "AETERM", "AEDECOD", "AESER", "AEREL", "AEOUT", "AESCONG", "AESDISAB", "AESDTH", "AESHOSP",
    "AESLIFE", "AESMIE", "AESINTV", "AETOXGR", "AESTDTC", "AEENDTC", "AESTDY", "AEENDY", "SITEID", "SUBJID", "AEDLT", "AETRTEM", "AEEXPECT",
    "AECODES",
];

/// What LB says of an analyte: test code, test name, specimen. Codes and names are CDISC controlled terminology (LBTESTCD,
/// LBTEST, SPECTYPE), from general knowledge; the sponsor's own version of it rules.
const fn test(analyte: Analyte) -> (&'static str, &'static str, &'static str) {
    match analyte {
        Analyte::Creatinine => ("CREAT", "Creatinine", SERUM),
        Analyte::CystatinC => ("CYSTATC", "Cystatin C", SERUM),
        Analyte::ReportedEgfr => ("GFRE", "Glomerular Filtration Rate, Estimated", SERUM),
        Analyte::UrineProteinCreatinineRatio => ("PROTCRT", "Protein/Creatinine", URINE),
        Analyte::UrineAlbuminCreatinineRatio => ("ALBCREAT", "Albumin/Creatinine", URINE),
        Analyte::UrineProteinPer24h | Analyte::UrineProteinConcentration | Analyte::UrineProteinDipstick => ("PROT", "Protein", URINE),
        Analyte::UrineAlbuminConcentration => ("ALB", "Albumin", URINE),
        Analyte::UrineCreatinine => ("CREAT", "Creatinine", URINE),
        Analyte::NeutrophilCount => ("NEUT", "Neutrophils", BLOOD),
        Analyte::PlateletCount => ("PLAT", "Platelets", BLOOD),
        Analyte::Hemoglobin => ("HGB", "Hemoglobin", BLOOD),
        Analyte::Bilirubin => ("BILI", "Bilirubin", SERUM),
        Analyte::Ast => ("AST", "Aspartate Aminotransferase", SERUM),
        Analyte::Alt => ("ALT", "Alanine Aminotransferase", SERUM),
        Analyte::AlkalinePhosphatase => ("ALP", "Alkaline Phosphatase", SERUM),
        Analyte::HemoglobinA1c => ("HBA1C", "Hemoglobin A1C", BLOOD),
    }
}

const SERUM: &str = "SERUM OR PLASMA";
const URINE: &str = "URINE";
const BLOOD: &str = "BLOOD";

/// LOINC codes of creatinine in whole blood, mass and moles; all others that sites map are of serum or plasma.
const BLOOD_CREATININE: [&str; 2] = ["38483-4", "59826-8"];

const fn derived_test(measure: Measure) -> (&'static str, &'static str, &'static str) {
    match measure {
        Measure::Egfr => ("GFRBSCRT", "GFR from Creatinine Adjusted for BSA", SERUM),
        Measure::Upcr => test(Analyte::UrineProteinCreatinineRatio),
        Measure::Uacr => test(Analyte::UrineAlbuminCreatinineRatio),
        Measure::UrineProteinPer24h => test(Analyte::UrineProteinPer24h),
    }
}

fn laboratory_lines(text: &mut String, study: &Study, member: &Member<'_>) {
    let course = member.course();
    let places = Places::of(study, course);
    let mut sequence = 0;
    let mut put = |text: &mut String, row: LbRow<'_>| {
        sequence += 1;
        let LbRow { test: (code, name, specimen), by, at, .. } = row;
        let (number, visit) = by.iter().find_map(|cited| places.visits.get(&cited.resource)).cloned().unwrap_or_default();
        let is_baseline = by.iter().any(|cited| places.baselines.contains(&cited.resource.as_str()));
        let fields = [
            study.id.clone(),
            "LB".into(),
            usubjid(study, member),
            sequence.to_string(),
            references(by),
            code.into(),
            name.into(),
            row.received.0.to_owned(),
            row.received.1.to_owned(),
            row.standard_text,
            row.standard.map(|value| value.to_string()).unwrap_or_default(),
            row.unit.to_owned(),
            row.range.0.map(|value| value.to_string()).unwrap_or_default(),
            row.range.1.map(|value| value.to_string()).unwrap_or_default(),
            row.loinc.to_owned(),
            specimen.into(),
            row.method.to_owned(),
            flag(is_baseline),
            flag(row.is_derived),
            number,
            visit,
            at.map(|date| date.to_string()).unwrap_or_default(),
            study_day(course, at),
            member.site().to_owned(),
            member.enrolled.subject.clone(),
            member.arm.to_owned(),
        ];
        line(text, fields.into_iter());
    };
    for result in &member.enrolled.laboratory {
        let loinc = result.code.strip_prefix("loinc|").unwrap_or_default();
        let (code, name, specimen) = test(result.analyte);
        let specimen = if BLOOD_CREATININE.contains(&loinc) { BLOOD } else { specimen };
        let value = result.value.map(|value| value.to_string()).unwrap_or_default();
        let standard_text = format!("{}{value}", result.comparator.filter(|_| result.value.is_some()).map_or("", Comparator::sign));
        let row = LbRow {
            test: (code, name, specimen),
            received: (&result.value_as_received, &result.unit_as_received),
            standard_text,
            // "<0.5" is no number.
            standard: result.value.filter(|_| result.comparator.is_none()),
            unit: result.unit.map_or("", Unit::ucum),
            range: (result.reference_low, result.reference_high),
            loinc,
            method: if result.analyte == Analyte::UrineProteinDipstick { "DIPSTICK" } else { result.equation.as_deref().unwrap_or_default() },
            is_derived: false,
            by: std::slice::from_ref(&result.by),
            at: result.date,
        };
        put(text, row);
    }
    for series in &course.outcome.series {
        let method = match (&study.egfr, series.measure) {
            (Some(policy), Measure::Egfr) => policy.equation.id(),
            (Some(_) | None, _) => "",
        };
        for point in series.points.iter().filter(|point| is_derived(series, point)) {
            let row = LbRow {
                test: derived_test(series.measure),
                received: ("", ""),
                standard_text: point.value.to_string(),
                standard: Some(point.value),
                unit: &series.unit,
                range: (None, None),
                loinc: "",
                method,
                is_derived: true,
                by: &point.by,
                at: PartialDate::parse(&point.date).ok(),
            };
            put(text, row);
        }
    }
}

/// An eGFR is always computed; a ratio is when it comes from two results of one specimen, else it is a result as received.
fn is_derived(series: &Series, point: &Point) -> bool {
    match series.measure {
        Measure::Egfr => true,
        Measure::Upcr | Measure::Uacr | Measure::UrineProteinPer24h => point.by.len() > 1,
    }
}

struct LbRow<'a> {
    test: (&'static str, &'static str, &'static str),
    /// Number and unit.
    received: (&'a str, &'a str),
    standard_text: String,
    standard: Option<f64>,
    unit: &'a str,
    range: (Option<f64>, Option<f64>),
    loinc: &'a str,
    method: &'a str,
    is_derived: bool,
    by: &'a [Cited],
    at: Option<PartialDate>,
}

/// Which result belongs to which visit, by reference.
struct Places<'a> {
    /// VISITNUM and VISIT.
    visits: HashMap<&'a String, (String, String)>,
    baselines: Vec<&'a str>,
}

impl<'a> Places<'a> {
    fn of(study: &Study, course: &'a Course) -> Places<'a> {
        let mut visits = HashMap::new();
        let mut put = |cited: &'a Cited, visit: &str| {
            if let Some(index) = study.visits.iter().position(|known| known.id == visit) {
                visits.entry(&cited.resource).or_insert(((index + 1).to_string(), format!("WEEK {}", study.visits[index].week)));
            }
        };
        for value in course.outcome.series.iter().flat_map(|series| &series.visits) {
            value.point.iter().flat_map(|point| &point.by).for_each(|cited| put(cited, &value.visit));
        }
        for standing in &course.schedule.visits {
            standing.on.iter().for_each(|on| put(&on.by, &standing.visit));
        }
        let baselines = course.outcome.series.iter().filter_map(|series| series.baseline.as_ref());
        Places { visits, baselines: baselines.flat_map(|point| &point.by).map(|cited| cited.resource.as_str()).collect() }
    }
}

fn event_lines(text: &mut String, study: &Study, member: &Member<'_>) {
    let course = member.course();
    for (index, event) in course.events.iter().filter(|event| event.left_out.is_none()).enumerate() {
        let at = |date: &Option<String>| date.as_deref().and_then(|date| PartialDate::parse(date).ok());
        let criterion = |code: &str| flag(event.seriousness_criteria.iter().any(|known| known.rsplit('|').next() == Some(code)));
        let fields = [
            study.id.clone(),
            "AE".into(),
            usubjid(study, member),
            (index + 1).to_string(),
            references(&event.by),
            event.term.clone(),
            String::new(),
            yes_no(event.is_serious),
            event.relation.map_or("", relation).to_owned(),
            event.outcome.as_deref().map_or("", outcome).to_owned(),
            // NCI Thesaurus codes of http://terminology.hl7.org/ValueSet/adverse-event-seriousness-criteria.
            criterion("C83117"),
            criterion("C11338"),
            criterion("C48275"),
            criterion("C83052"),
            criterion("C84266"),
            criterion("C82521"),
            criterion("C201939"),
            event.grade.map(|grade| grade.to_string()).unwrap_or_default(),
            event.onset.clone().unwrap_or_default(),
            event.resolved.clone().unwrap_or_default(),
            study_day(course, at(&event.onset)),
            study_day(course, at(&event.resolved)),
            member.site().to_owned(),
            member.enrolled.subject.clone(),
            yes_no(event.is_dose_limiting),
            yes_no(event.is_treatment_emergent),
            yes_no(event.is_expected),
            event.codes.join(" "),
        ];
        line(text, fields.into_iter());
    }
}

/// Unique over all sites: ids collide across hospitals.
fn usubjid(study: &Study, member: &Member<'_>) -> String {
    format!("{}-{}-{}", study.id, member.site(), member.enrolled.subject)
}

/// `Observation/7/_history/2`, several parted by a blank.
fn references(cited: &[Cited]) -> String {
    cited.iter().map(safety::reference).collect::<Vec<_>>().join(" ")
}

/// SDTM's study day: 1 is the day of the first dose, the day before it is -1, and there is no day 0. Empty where a date is
/// coarser than a day or no dose was given.
fn study_day(course: &Course, at: Option<PartialDate>) -> String {
    let day = |date: PartialDate| (date.precision >= Precision::Day).then(|| date.day().number());
    let reference = course.entered.doses.first().and_then(|dose| PartialDate::parse(&dose.given.date).ok());
    match (reference.and_then(day), at.and_then(day)) {
        (Some(reference), Some(at)) if reference <= at => (at - reference + 1).to_string(),
        (Some(reference), Some(at)) => (at - reference).to_string(),
        (Some(_) | None, Some(_) | None) => String::new(),
    }
}

fn flag(is_set: bool) -> String {
    if is_set { "Y".into() } else { String::new() }
}

fn yes_no(answer: Option<bool>) -> String {
    match answer {
        Some(true) => "Y".into(),
        Some(false) => "N".into(),
        None => String::new(),
    }
}

const fn relation(relation: Relation) -> &'static str {
    match relation {
        Relation::NotRelated => "NOT RELATED",
        Relation::Unlikely => "UNLIKELY RELATED",
        Relation::Possible => "POSSIBLY RELATED",
        Relation::Probable => "PROBABLY RELATED",
        Relation::Related => "RELATED",
    }
}

/// CDISC's OUT terms for FHIR's adverse-event-outcome.
fn outcome(code: &str) -> &str {
    match code {
        "resolved" => "RECOVERED/RESOLVED",
        "recovering" => "RECOVERING/RESOLVING",
        "ongoing" => "NOT RECOVERED/NOT RESOLVED",
        "resolvedWithSequelae" => "RECOVERED/RESOLVED WITH SEQUELAE",
        "fatal" => "FATAL",
        "unknown" => "UNKNOWN",
        other => other,
    }
}
