//! How much protein the kidneys lose: ratios to creatinine as reported, or computed from the two concentrations of one
//! specimen, and the excretion of 24 hours. Kinds are never mixed, and a dipstick is none of them.

use super::limits::Interval;
use super::outcome::{self, Value, Values};
use super::results::{self, Results};
use crate::clinical::chart::Chart;
use crate::clinical::date::{AsOf, MS_PER_DAY, PartialDate, Precision};
use crate::clinical::fact::Measurement;
use crate::clinical::quantity::{Analyte, Unit};

/// Which results tell one ratio.
struct Ratio {
    reported: Analyte,
    /// The concentration above the line.
    concentration: Analyte,
}

const UPCR: Ratio = Ratio { reported: Analyte::UrineProteinCreatinineRatio, concentration: Analyte::UrineProteinConcentration };
const UACR: Ratio = Ratio { reported: Analyte::UrineAlbuminCreatinineRatio, concentration: Analyte::UrineAlbuminConcentration };

/// UPCR in mg/g, oldest first. `factor` is umol/L of creatinine in one mg/dL.
pub(super) fn upcr(chart: &Chart, as_of: AsOf, factor: f64) -> Values {
    ratio(&UPCR, chart, as_of, factor)
}

/// UACR in mg/g, oldest first.
pub(super) fn uacr(chart: &Chart, as_of: AsOf, factor: f64) -> Values {
    ratio(&UACR, chart, as_of, factor)
}

/// Protein in mg per 24 h, oldest first.
pub(super) fn per_24h(chart: &Chart, as_of: AsOf) -> Values {
    let results = read(chart, Analyte::UrineProteinPer24h, as_of, &[(Unit::MgPer24h, 1.0)]);
    outcome::exact(&results, |index| Ok(results.readings[index].value))
}

/// mg/g as reported, and as computed at the times for which nothing was reported.
fn ratio(ratio: &Ratio, chart: &Chart, as_of: AsOf, factor: f64) -> Values {
    // 1 mg/dL is 10 mg/L, so one mmol weighs 10 / factor grams: 0.1131 g by 88.42, and 1 mg/mmol is 8.842 mg/g.
    let to_mg_per_g = [(Unit::MgPerG, 1.0), (Unit::MgPerMmol, factor / 10.0)];
    let reported = read(chart, ratio.reported, as_of, &to_mg_per_g);
    let mut values = outcome::exact(&reported, |index| Ok(reported.readings[index].value));
    let computed = computed(ratio, chart, as_of, factor);
    let is_reported = |of: &Value| values.known.iter().any(|value| value.effective.overlaps(&of.effective));
    let computed: Vec<Value> = computed.into_iter().filter(|value| !is_reported(value)).collect();
    values.known.extend(computed);
    values.known.sort_by_key(|value| (value.effective.start_ms, value.effective.end_ms));
    values
}

/// Protein or albumin over creatinine of one specimen, in mg/g. Where two draws of the one may belong to a draw of the
/// other, nothing says which, and nothing is computed.
fn computed(ratio: &Ratio, chart: &Chart, as_of: AsOf, factor: f64) -> Vec<Value> {
    // Only creatinine is kept in moles here.
    let to_mg_per_dl = [(Unit::MgPerDl, 1.0), (Unit::MgPerL, 0.1), (Unit::UmolPerL, 1.0 / factor)];
    let [above, below] = [ratio.concentration, Analyte::UrineCreatinine].map(|analyte| {
        let results = read(chart, analyte, as_of, &to_mg_per_dl);
        outcome::exact(&results, |index| Ok(results.readings[index].value)).known
    });
    let partners = |of: &Value, others: &[Value]| -> Vec<usize> {
        (0..others.len()).filter(|other| is_one_specimen(&of.effective, &others[*other].effective)).collect()
    };
    let mut values = Vec::new();
    for protein in &above {
        let [creatinine] = partners(protein, &below)[..] else { continue };
        let creatinine = &below[creatinine];
        if partners(creatinine, &above).len() == 1 && 0.0 < creatinine.value {
            values.push(Value {
                effective: protein.effective,
                // mg of protein per mg of creatinine, a thousandfold.
                value: protein.value / creatinine.value * 1000.0,
                by: [&protein.by[..], &creatinine.by[..]].concat(),
            });
        }
    }
    values
}

/// Times that overlap are one (rulings.md 3); but a collection over time and a spot sample within it are two specimens.
fn is_one_specimen(a: &PartialDate, b: &PartialDate) -> bool {
    let is_collected = |date: &PartialDate| {
        let length_ms = date.end_ms - date.start_ms;
        MS_PER_DAY <= length_ms || (date.precision == Precision::Instant && 0 < length_ms)
    };
    if is_collected(a) || is_collected(b) { (a.start_ms, a.end_ms) == (b.start_ms, b.end_ms) } else { a.overlaps(b) }
}

/// Results in one unit: each unit that can be used, and what its values are multiplied with.
fn read<'c>(chart: &'c Chart, analyte: Analyte, as_of: AsOf, units: &[(Unit, f64)]) -> Results<'c> {
    results::read(chart, analyte, as_of, |of: &Measurement| {
        outcome::to_the_day(of)?;
        let value = of.value.ok_or("no-value")?;
        let unit = of.unit.ok_or("unit-missing")?;
        let (low, high) = analyte.bounds(unit).ok_or("unit-unmapped")?;
        let (_, times) = units.iter().find(|(known, _)| *known == unit).ok_or("unit-unmapped")?;
        if !(low..=high).contains(&value) {
            return Err("implausible");
        }
        let value = Interval::of(value, of.comparator);
        Ok(Interval { low: value.low * times, high: value.high * times })
    })
}
