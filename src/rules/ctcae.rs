//! Laboratory grades of the CTCAE v5.0 (National Cancer Institute, 27 November 2017), as pharmaverse/admiral@1df3973 quotes
//! them in data-raw/adlb_grading/ncictcaev5.json, compared exactly instead of by significant digits. What a laboratory
//! cannot know (symptoms, transfusion, death) is graded by nobody here. Proteinuria is left out: its v5 wording was not
//! readable. Creatinine of v6 differs (its baseline arm holds only for a low baseline), so the version is recorded.

use crate::clinical::quantity::{Analyte, Unit};

/// Limits of normal and baseline, all in the unit of the result.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Against {
    pub lower: Option<f64>,
    pub upper: Option<f64>,
    pub baseline: Option<f64>,
    /// The baseline was above its own upper limit of normal.
    pub is_baseline_high: bool,
}

/// A grade by each arm of its definition, 0 where an arm gives none. The arms are not comparable with each other: a
/// creatinine of 1.7 upper limits that never moved is grade 2 by the one and no change by the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grade {
    pub by_limits: u8,
    pub by_baseline: u8,
}

impl Grade {
    pub fn worst(self) -> u8 {
        self.by_limits.max(self.by_baseline)
    }

    /// Higher by an arm than the baseline was by the same arm.
    pub fn is_above(self, baseline: Grade) -> bool {
        self.by_limits > baseline.by_limits || self.by_baseline > baseline.by_baseline
    }
}

/// The CTCAE term of an analyte, and other words for the same finding: MedDRA's preferred term, common names.
pub(super) const fn terms(analyte: Analyte) -> &'static [&'static str] {
    match analyte {
        Analyte::Creatinine => &["Creatinine increased", "Blood creatinine increased"],
        Analyte::NeutrophilCount => &["Neutrophil count decreased", "Neutropenia"],
        Analyte::PlateletCount => &["Platelet count decreased", "Thrombocytopenia"],
        Analyte::Hemoglobin => &["Anemia", "Anaemia", "Hemoglobin decreased", "Haemoglobin decreased"],
        Analyte::Bilirubin => &["Blood bilirubin increased", "Hyperbilirubinemia", "Hyperbilirubinaemia"],
        Analyte::Ast => &["Aspartate aminotransferase increased", "AST increased"],
        Analyte::Alt => &["Alanine aminotransferase increased", "ALT increased"],
        Analyte::AlkalinePhosphatase => &["Alkaline phosphatase increased", "Blood alkaline phosphatase increased"],
        Analyte::CystatinC
        | Analyte::ReportedEgfr
        | Analyte::UrineProteinCreatinineRatio
        | Analyte::UrineAlbuminCreatinineRatio
        | Analyte::UrineProteinPer24h
        | Analyte::UrineProteinConcentration
        | Analyte::UrineAlbuminConcentration
        | Analyte::UrineProteinDipstick
        | Analyte::UrineCreatinine
        | Analyte::HemoglobinA1c => &[],
    }
}

/// Whether a high value is what is graded; a low one otherwise.
pub(super) const fn is_graded_when_high(analyte: Analyte) -> bool {
    !matches!(analyte, Analyte::NeutrophilCount | Analyte::PlateletCount | Analyte::Hemoglobin)
}

/// The grade of one value, 0 where it is none; `None` where the limits it would be held against are not known, and for
/// an analyte that is not graded.
pub(super) fn grade(analyte: Analyte, value: f64, unit: Unit, against: &Against) -> Option<Grade> {
    match analyte {
        Analyte::Creatinine => creatinine(value, against),
        Analyte::Ast | Analyte::Alt => multiples(value, against, [1.0, 3.0, 5.0, 20.0], Least::Reached(1.5)),
        Analyte::AlkalinePhosphatase => multiples(value, against, [1.0, 2.5, 5.0, 20.0], Least::Reached(2.0)),
        Analyte::Bilirubin => multiples(value, against, [1.0, 1.5, 3.0, 10.0], Least::Exceeded(1.0)),
        Analyte::NeutrophilCount => falls(value, against, &[1.5, 1.0, 0.5]),
        Analyte::PlateletCount => falls(value, against, &[75.0, 50.0, 25.0]),
        // Grade 4 of anemia is by its consequences.
        Analyte::Hemoglobin if unit == Unit::MmolPerL => falls(value, against, &[6.2, 4.9]),
        Analyte::Hemoglobin => falls(value, against, &[10.0, 8.0]),
        Analyte::CystatinC
        | Analyte::ReportedEgfr
        | Analyte::UrineProteinCreatinineRatio
        | Analyte::UrineAlbuminCreatinineRatio
        | Analyte::UrineProteinPer24h
        | Analyte::UrineProteinConcentration
        | Analyte::UrineAlbuminConcentration
        | Analyte::UrineProteinDipstick
        | Analyte::UrineCreatinine
        | Analyte::HemoglobinA1c => None,
    }
}

/// Grade 1 above the upper limit, 2 above 1.5 times the limit or the baseline, 3 above 3 times either, 4 above 6 times
/// the limit. Without a limit the baseline arm can still tell grades 2 and 3.
fn creatinine(value: f64, against: &Against) -> Option<Grade> {
    let by_baseline = against.baseline.map_or(0, |baseline| match steps_above(value, baseline, &[1.5, 3.0]) {
        0 => 0,
        steps => steps + 1,
    });
    let by_limits = against.upper.map(|upper| steps_above(value, upper, &[1.0, 1.5, 3.0, 6.0]));
    match by_limits {
        Some(by_limits) => Some(Grade { by_limits, by_baseline }),
        None => (by_baseline > 0).then_some(Grade { by_limits: 0, by_baseline }),
    }
}

/// The multiple of an abnormal baseline that begins grade 1.
enum Least {
    Reached(f64),
    Exceeded(f64),
}

/// Multiples of the upper limit if the baseline was normal, of the baseline if it was not; from grade 2 on the same ones.
fn multiples(value: f64, against: &Against, times: [f64; 4], least: Least) -> Option<Grade> {
    if let (Some(baseline), true) = (against.baseline, against.is_baseline_high) {
        let is_first = match least {
            Least::Reached(times) => !is_below(value, baseline * times),
            Least::Exceeded(times) => is_above(value, baseline * times),
        };
        let by_baseline = match steps_above(value, baseline, &times[1..]) {
            0 => u8::from(is_first),
            steps => steps + 1,
        };
        return Some(Grade { by_limits: 0, by_baseline });
    }
    Some(Grade { by_limits: steps_above(value, against.upper?, &times), by_baseline: 0 })
}

/// Grade 1 below the lower limit of normal, then one more below each of `limits`.
fn falls(value: f64, against: &Against, limits: &[f64]) -> Option<Grade> {
    let steps = limits.iter().filter(|limit| is_below(value, **limit)).count() as u8;
    let by_limits = if steps > 0 { steps + 1 } else { u8::from(is_below(value, against.lower?)) };
    Some(Grade { by_limits, by_baseline: 0 })
}

/// How many of the multiples the value exceeds.
fn steps_above(value: f64, of: f64, times: &[f64]) -> u8 {
    times.iter().filter(|times| is_above(value, of * **times)).count() as u8
}

/// Products such as 1.5 times 1.2 fall short of 1.8 by a last bit.
const LAST_BITS: f64 = 1e-9;

fn is_above(value: f64, limit: f64) -> bool {
    value > limit * (1.0 + LAST_BITS)
}

fn is_below(value: f64, limit: f64) -> bool {
    value < limit * (1.0 - LAST_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(analyte: Analyte, value: f64, unit: Unit, against: Against) -> Option<u8> {
        grade(analyte, value, unit, &against).map(Grade::worst)
    }

    #[test]
    fn each_grade_begins_beyond_its_limit_as_the_ctcae_writes_it() {
        let normal = Against { lower: Some(12.0), upper: Some(40.0), baseline: Some(30.0), is_baseline_high: false };
        let high = Against { baseline: Some(50.0), is_baseline_high: true, ..normal };
        let counts = |lower: f64| Against { lower: Some(lower), ..Against::default() };
        type Row = (Analyte, Unit, Against, &'static [(f64, u8)]);
        let table: [Row; 9] = [
            (Analyte::Alt, Unit::UPerL, normal, &[(40.0, 0), (40.1, 1), (120.0, 1), (120.1, 2), (200.0, 2), (200.1, 3), (800.0, 3), (800.1, 4)]),
            (Analyte::Ast, Unit::UPerL, high, &[(74.9, 0), (75.0, 1), (150.0, 1), (150.1, 2), (250.1, 3), (1000.0, 3), (1000.1, 4)]),
            (Analyte::AlkalinePhosphatase, Unit::UPerL, normal, &[(40.0, 0), (40.1, 1), (100.0, 1), (100.1, 2), (200.1, 3), (800.1, 4)]),
            (Analyte::AlkalinePhosphatase, Unit::UPerL, high, &[(99.9, 0), (100.0, 1), (125.0, 1), (125.1, 2), (250.1, 3), (1000.1, 4)]),
            (
                Analyte::Bilirubin,
                Unit::MgPerDl,
                Against { upper: Some(1.2), baseline: Some(2.0), is_baseline_high: true, lower: None },
                &[(2.0, 0), (2.1, 1), (3.0, 1), (3.1, 2), (6.1, 3), (20.1, 4)],
            ),
            (Analyte::NeutrophilCount, Unit::ThousandPerUl, counts(2.0), &[(2.0, 0), (1.9, 1), (1.5, 1), (1.4, 2), (0.9, 3), (0.5, 3), (0.4, 4)]),
            (Analyte::PlateletCount, Unit::ThousandPerUl, counts(150.0), &[(150.0, 0), (149.0, 1), (75.0, 1), (74.0, 2), (49.0, 3), (24.0, 4)]),
            (Analyte::Hemoglobin, Unit::GPerDl, counts(13.0), &[(13.0, 0), (12.9, 1), (10.0, 1), (9.9, 2), (8.0, 2), (7.9, 3), (3.0, 3)]),
            (Analyte::Hemoglobin, Unit::MmolPerL, counts(8.0), &[(8.0, 0), (6.2, 1), (6.1, 2), (4.8, 3)]),
        ];
        for (analyte, unit, against, values) in table {
            for (value, expected) in values {
                assert_eq!(by(analyte, *value, unit, against), Some(*expected), "{} {value}", analyte.word());
            }
        }
    }

    #[test]
    fn creatinine_takes_the_worse_of_its_two_arms() {
        let against = Against { upper: Some(1.2), baseline: Some(1.0), ..Against::default() };
        let table = [(1.2, 0), (1.3, 1), (1.5, 1), (1.6, 2), (1.8, 2), (3.0, 2), (3.1, 3), (7.2, 3), (7.3, 4)];
        for (mg_dl, expected) in table {
            assert_eq!(by(Analyte::Creatinine, mg_dl, Unit::MgPerDl, against), Some(expected), "{mg_dl}");
        }
        // Baseline 2.0 with an upper limit of 1.2 is grade 2 with no change.
        let chronic = Against { upper: Some(1.2), baseline: Some(2.0), ..Against::default() };
        let of = |mg_dl| grade(Analyte::Creatinine, mg_dl, Unit::MgPerDl, &chronic).unwrap();
        assert_eq!((of(2.0).worst(), of(2.2).is_above(of(2.0))), (2, false));
        assert!(of(3.7).is_above(of(2.0)), "grade 3 by the limit");
        assert!(of(3.1).is_above(of(2.0)), "more than 1.5 times baseline, which the baseline was not");
        assert_eq!(by(Analyte::Creatinine, 2.0, Unit::MgPerDl, Against::default()), None);
        assert_eq!(by(Analyte::Creatinine, 3.1, Unit::MgPerDl, Against { upper: None, ..chronic }), Some(2));
    }

    #[test]
    fn without_its_limit_a_value_has_no_grade_unless_another_limit_tells() {
        assert_eq!(by(Analyte::Alt, 900.0, Unit::UPerL, Against::default()), None);
        assert_eq!(by(Analyte::Hemoglobin, 11.0, Unit::GPerDl, Against::default()), None);
        assert_eq!(by(Analyte::Hemoglobin, 7.0, Unit::GPerDl, Against::default()), Some(3));
        assert_eq!(by(Analyte::HemoglobinA1c, 12.0, Unit::Percent, Against::default()), None);
    }
}
