//! Unit spellings to the units a fact is kept in: UCUM decides what is commensurable and by which exact factor;
//! what UCUM cannot know (moles are not a plain number, annotations mean something) is added here.

use compact_str::{CompactString, format_compact};
use octofhir_ucum::{Case, Dimension, Number, UnitExpr, evaluate, lookup_unit, parse_expression};

use crate::clinical::quantity::{Analyte, Unit};

/// How a received number becomes one in the kept unit: `value * times / over`, where one of both is 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    pub unit: Unit,
    times: f64,
    over: f64,
    /// The power of ten that the scale is, as nearly all are: then the decimal point moves and no digit is rounded.
    exponent: Option<i8>,
}

impl Scale {
    fn new(unit: Unit, forth: f64, back: f64) -> Scale {
        let (times, over) = if forth >= 1.0 { (forth, 1.0) } else { (1.0, back) };
        let exponent = if over == 1.0 { power_of_ten(times) } else { power_of_ten(over).map(|exponent| -exponent) };
        Scale { unit, times, over, exponent }
    }

    /// The value of a JSON number in the kept unit; `None` when it is no finite number.
    pub fn apply(&self, decimal: &str) -> Option<f64> {
        let value = match self.exponent {
            Some(0) => decimal.parse().ok()?,
            Some(exponent) if !decimal.contains(['e', 'E']) => format_compact!("{decimal}e{exponent}").parse().ok()?,
            Some(_) | None => decimal.parse::<f64>().ok()? * self.times / self.over,
        };
        Some(value).filter(|value: &f64| value.is_finite())
    }
}

/// Powers of ten up to this one are exact in a double.
fn power_of_ten(factor: f64) -> Option<i8> {
    (0..=22).find(|exponent| 10f64.powi(i32::from(*exponent)) == factor)
}

/// Replaces both micro signs (U+00B5 and U+03BC) by UCUM's `u`; the only spelling that is folded for every site.
pub fn fold_micro(spelling: &str) -> CompactString {
    if spelling.is_ascii() {
        return CompactString::from(spelling);
    }
    spelling.chars().map(|c| if matches!(c, '\u{b5}' | '\u{3bc}') { 'u' } else { c }).collect()
}

/// The scale from a UCUM expression to the one unit of this analyte that it is commensurable with; `None` when there
/// is none: another dimension, a unit on a scale of its own, moles where mass is kept, an annotation that means something else.
pub fn scale(analyte: Analyte, ucum: &str) -> Option<Scale> {
    let received = Kind::of(ucum)?;
    analyte.facts().units.iter().find_map(|(unit, _, _)| {
        let kept = Kind::of(unit.ucum())?;
        let matches = kept.is_same_quantity(&received) && received.tags.iter().all(|tag| allowed_tags(*unit).contains(&tag.as_str()));
        if !matches || *unit == Unit::Grade {
            return None;
        }
        let forth = received.factor.checked_div(kept.factor)?.to_f64();
        let back = kept.factor.checked_div(received.factor)?.to_f64();
        Some(Scale::new(*unit, forth, back))
    })
}

/// Whether a text is UCUM at all; what is not is free text and proves nothing against the coded unit beside it.
pub fn is_ucum(spelling: &str) -> bool {
    Kind::of(spelling).is_some()
}

/// How many cells one of this unit is, such as a million for `10*6.{cells}`; `None` for anything but a plain number. A
/// number that no annotation calls cells counts them only where the text beside it does (`says_cells`).
pub fn cells(ucum: &str, says_cells: bool) -> Option<f64> {
    let (unit, one) = (Kind::of(ucum)?, Kind::of("1")?);
    let is_of_cells = |tag: &String| matches!(tag.as_str(), "cells" | "cell");
    let counts = if unit.tags.is_empty() { says_cells } else { unit.tags.iter().all(is_of_cells) };
    (counts && unit.is_same_quantity(&one)).then(|| unit.factor.to_f64())
}

/// How many of `to` one of `from` is; `None` where both are not units of one kind of quantity.
pub fn ratio(from: &str, to: &str) -> Option<f64> {
    let (from, to) = (Kind::of(from)?, Kind::of(to)?);
    let is_alike = from.is_same_quantity(&to) && from.tags == to.tags;
    if is_alike { Some(from.factor.checked_div(to.factor)?.to_f64()) } else { None }
}

/// Annotations that may stand in a unit without changing what the kept unit means. UCUM ignores annotations and would
/// take a unit per gram of stool for one per gram of creatinine. `{1.73_m2}` stands or is implied in eGFR alone:
/// there the code says that the value is indexed to the body surface, and no other analyte lists it.
fn allowed_tags(unit: Unit) -> &'static [&'static str] {
    match unit {
        Unit::MlPerMinPer173 => &["1.73_m2", "1.73m2"],
        Unit::MgPerG | Unit::MgPerMmol => &["creat", "creatinine"],
        Unit::ThousandPerUl => &["cells", "cell"],
        Unit::MgPerDl
        | Unit::UmolPerL
        | Unit::MgPerL
        | Unit::MgPer24h
        | Unit::GPerDl
        | Unit::MmolPerL
        | Unit::UPerL
        | Unit::Percent
        | Unit::MmolPerMol
        | Unit::Grade => &[],
    }
}

/// What kind of quantity an expression measures. To UCUM a mole is a number, so that `umol/L` and `/uL` agree in
/// dimension, and so do `%`, `mmol/mol` and `mg/g`; here the amounts and masses above and below the line count too.
struct Kind {
    factor: Number,
    dimension: Dimension,
    arbitrary: Vec<(&'static str, i32)>,
    /// Exponents above and below the line of mol, eq, osm.
    amounts: [(i32, i32); 3],
    has_mass_below: bool,
    tags: Vec<String>,
}

const AMOUNTS: [&str; 3] = ["mol", "eq", "osm"];

impl Kind {
    fn of(ucum: &str) -> Option<Kind> {
        // Spellings are short; what is longer is free text, and the parser need not see it.
        if ucum.is_empty() || ucum.len() > 64 {
            return None;
        }
        let expression = parse_expression(ucum).ok()?;
        let value = evaluate(&expression).ok()?;
        if value.special.is_some() {
            return None;
        }
        let mut kind = Kind {
            factor: value.factor,
            dimension: value.dim,
            arbitrary: value.arbitrary,
            amounts: [(0, 0); 3],
            has_mass_below: false,
            tags: Vec::new(),
        };
        kind.walk(&expression, 1);
        Some(kind)
    }

    fn is_same_quantity(&self, other: &Kind) -> bool {
        self.dimension == other.dimension
            && self.arbitrary == other.arbitrary
            && self.amounts == other.amounts
            && self.has_mass_below == other.has_mass_below
    }

    fn walk(&mut self, expression: &UnitExpr, exponent: i32) {
        match expression {
            UnitExpr::Symbol(symbol) => {
                let Some((_, atom)) = lookup_unit(symbol, Case::Sensitive) else { return };
                if let Some(place) = AMOUNTS.iter().position(|amount| *amount == atom.code) {
                    let (above, below) = &mut self.amounts[place];
                    if exponent > 0 { *above += exponent } else { *below -= exponent }
                }
                self.has_mass_below |= atom.code == "g" && exponent < 0;
            }
            UnitExpr::Numeric(_) => {}
            UnitExpr::Power(base, power) => self.walk(base, exponent.saturating_mul(*power)),
            UnitExpr::Annotation(tag) => self.tags.push(tag.to_lowercase()),
            UnitExpr::Annotated(base, tag) => {
                self.tags.push(tag.to_lowercase());
                self.walk(base, exponent);
            }
            UnitExpr::Product(terms) => terms.iter().for_each(|term| self.walk(term, exponent)),
            UnitExpr::Quotient(above, below) => {
                self.walk(above, exponent);
                self.walk(below, -exponent);
            }
            UnitExpr::Reciprocal(below) => self.walk(below, -exponent),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clinical::quantity::ANALYTES;

    #[test]
    fn each_kept_unit_is_its_own_kind_and_scales_by_one() {
        for facts in ANALYTES {
            for (unit, _, _) in facts.units {
                if *unit != Unit::Grade {
                    assert_eq!(scale(facts.analyte, unit.ucum()), Some(Scale::new(*unit, 1.0, 1.0)), "{} {}", facts.word, unit.ucum());
                }
            }
        }
    }

    #[test]
    fn commensurable_units_scale_exactly() {
        let scaled = |analyte, ucum, value| scale(analyte, ucum).and_then(|scale| Some((scale.apply(value)?, scale.unit)));
        assert_eq!(scaled(Analyte::Creatinine, "g/L", "0.021"), Some((2.1, Unit::MgPerDl)));
        assert_eq!(scaled(Analyte::Creatinine, "mmol/L", "0.1856"), Some((185.6, Unit::UmolPerL)));
        assert_eq!(scaled(Analyte::UrineProteinCreatinineRatio, "g/g", "0.25"), Some((250.0, Unit::MgPerG)));
        assert_eq!(scaled(Analyte::UrineProteinCreatinineRatio, "mg/g{creat}", "250.0"), Some((250.0, Unit::MgPerG)));
        assert_eq!(scaled(Analyte::UrineProteinCreatinineRatio, "g/mol", "28.0"), Some((28.0, Unit::MgPerMmol)));
        assert_eq!(scaled(Analyte::UrineProteinPer24h, "g/d", "1.5"), Some((1500.0, Unit::MgPer24h)));
        assert_eq!(scaled(Analyte::NeutrophilCount, "/uL", "1500.0"), Some((1.5, Unit::ThousandPerUl)));
        assert_eq!(scaled(Analyte::PlateletCount, "10*9/L", "150.0"), Some((150.0, Unit::ThousandPerUl)));
        assert_eq!(scaled(Analyte::Hemoglobin, "g/L", "92.0"), Some((9.2, Unit::GPerDl)));
        assert_eq!(scaled(Analyte::ReportedEgfr, "mL/min", "45.4"), Some((45.4, Unit::MlPerMinPer173)));
        assert_eq!(scaled(Analyte::Ast, "ukat/L", "1.0"), Some((60.0, Unit::UPerL)));
        assert_eq!(scaled(Analyte::CystatinC, "mg/dL", "0.14"), Some((1.4, Unit::MgPerL)));
        assert_eq!(scaled(Analyte::CystatinC, "mg/dL", "1.4e-1"), Some((0.14 * 10.0, Unit::MgPerL)));
        assert_eq!(scaled(Analyte::CystatinC, "mg/dL", "1e999"), None);
    }

    #[test]
    fn what_ucum_would_equate_but_medicine_does_not_is_refused() {
        for (analyte, ucum) in [
            (Analyte::Creatinine, "10*3/uL"),
            (Analyte::Creatinine, "mL/min"),
            (Analyte::Creatinine, "mg/dL{1.73_m2}"),
            (Analyte::Creatinine, "MG/DL"),
            (Analyte::Creatinine, "meq/L"),
            (Analyte::PlateletCount, "umol/L"),
            (Analyte::PlateletCount, "meq/L"),
            (Analyte::HemoglobinA1c, "mg/g"),
            (Analyte::UrineProteinCreatinineRatio, "%"),
            (Analyte::UrineProteinCreatinineRatio, "mg/g{stool}"),
            (Analyte::UrineProteinPer24h, "mg/24.h"),
            (Analyte::UrineProteinPer24h, "g/{24h}"),
            (Analyte::ReportedEgfr, "mL/min/m2"),
            (Analyte::ReportedEgfr, "mg/mmol"),
            (Analyte::UrineProteinDipstick, "{grade}"),
            (Analyte::Bilirubin, "Cel"),
        ] {
            assert_eq!(scale(analyte, ucum), None, "{} {ucum}", analyte.word());
        }
        assert_eq!(scale(Analyte::HemoglobinA1c, "mmol/mol").unwrap().unit, Unit::MmolPerMol);
        assert_eq!(scale(Analyte::HemoglobinA1c, "%").unwrap().unit, Unit::Percent);
    }

    #[test]
    fn a_unit_of_cells_counts_them_and_any_other_counts_nothing() {
        assert_eq!(cells("10*6.{cells}", false), Some(1e6));
        assert_eq!(cells("10*6{cells}", false), Some(1e6));
        assert_eq!(cells("{cells}", false), Some(1.0));
        assert_eq!(cells("10*6", true), Some(1e6));
        for (ucum, says_cells) in [("10*6", false), ("1", false), ("10*6.{bags}", true), ("mL", true), ("10*6.{cells}/kg", false), ("umol", true)] {
            assert_eq!(cells(ucum, says_cells), None, "{ucum}");
        }
        assert_eq!(ratio("L", "mL"), Some(1000.0));
        assert_eq!(ratio("mg", "mL"), None);
    }

    #[test]
    fn both_micro_signs_are_folded() {
        assert_eq!(fold_micro("\u{b5}mol/l"), "umol/l");
        assert_eq!(fold_micro("\u{3bc}mol/L"), "umol/L");
    }
}
