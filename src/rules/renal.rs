//! From creatinine to eGFR by the study's equation and factor: each result's eGFR, or what is missing for it.

use std::ops::Range;

use super::limits::{Interval, Limits};
use super::results::{self, Reading, Results, Said};
use super::{Evidence, Finding, Reason, Role, SeriesPoint, evidence, outcome};
use crate::clinical::chart::{Chart, Recorded};
use crate::clinical::date::{AsOf, PartialDate, Precision};
use crate::clinical::fact::{Measurement, Person, Sex};
use crate::clinical::quantity::{Analyte, Unit};
use crate::egfr::{self, Inputs};
use crate::study::{EgfrPolicy, WhichResult};

/// The unit of eGFR, for people.
pub(super) const ML_MIN_173: &str = "mL/min/1.73 m2";

/// A subject's creatinines and what they mean in this study.
pub(super) struct Renal<'c> {
    pub policy: &'c EgfrPolicy,
    person: Option<&'c Recorded<Person>>,
    /// Values in mg/dL.
    pub creatinine: Results<'c>,
}

impl<'c> Renal<'c> {
    pub fn read(policy: &'c EgfrPolicy, chart: &'c Chart, as_of: AsOf) -> Renal<'c> {
        let creatinine = results::read(chart, Analyte::Creatinine, as_of, |measurement| creatinine_mg_dl(policy, measurement));
        Renal { policy, person: chart.person.as_ref(), creatinine }
    }

    /// Without the results that are known to the month or year only.
    pub fn read_dated(policy: &'c EgfrPolicy, chart: &'c Chart, as_of: AsOf) -> Renal<'c> {
        let value = |measurement: &Measurement| outcome::to_the_day(measurement).and_then(|()| creatinine_mg_dl(policy, measurement));
        Renal { policy, person: chart.person.as_ref(), creatinine: results::read(chart, Analyte::Creatinine, as_of, value) }
    }

    /// eGFR of one reading; `None` where the equation lacks an input. Worked out when asked: of a long history a
    /// verdict may need one.
    pub fn egfr(&self, index: usize) -> Option<Interval> {
        self.estimate(&self.creatinine.readings[index], self.birth_date()?, self.sex())
    }

    /// Equations need the day of birth; a coarser date is as good as none.
    fn birth_date(&self) -> Option<PartialDate> {
        self.person?.body.birth_date.filter(|birth| birth.precision >= Precision::Day)
    }

    fn sex(&self) -> Option<Sex> {
        self.person?.body.sex
    }

    fn estimate(&self, reading: &Reading<'_>, birth: PartialDate, sex: Option<Sex>) -> Option<Interval> {
        let age_years = Some(f64::from(age_at(reading.effective, birth)?));
        let egfr = |creatinine_mg_dl: f64| {
            // The open ends of a comparator's interval; eGFR falls as creatinine rises.
            if creatinine_mg_dl == 0.0 {
                return Some(f64::INFINITY);
            }
            if creatinine_mg_dl == f64::INFINITY {
                return Some(0.0);
            }
            let inputs = Inputs { creatinine_mg_dl: Some(creatinine_mg_dl), age_years, sex, ..Inputs::default() };
            egfr::estimate(self.policy.equation, &inputs).ok()
        };
        match reading.value.point() {
            Some(value) => egfr(value).map(Interval::exact),
            None => Some(Interval { low: egfr(reading.value.high)?, high: egfr(reading.value.low)? }),
        }
    }

    /// The eGFR of the result that counts.
    pub fn counting_egfr(&self) -> Option<f64> {
        if self.creatinine.readings.is_empty() { None } else { self.egfr(0).and_then(Interval::point) }
    }

    /// What a draw says against limits of eGFR.
    pub fn weigh(&self, draw: Range<usize>, limits: &Limits) -> Said {
        self.creatinine.weigh(draw, self.policy.which_result, |index| limits.place_of(self.egfr(index)?))
    }

    /// One point for the exact result that counts in each draw, oldest first.
    pub fn series(&self) -> Vec<SeriesPoint> {
        let mut series: Vec<SeriesPoint> = Vec::with_capacity(self.creatinine.readings.len());
        for draw in self.creatinine.draws() {
            let reading = &self.creatinine.readings[draw.start];
            if let (Some(creatinine_mg_dl), Some(egfr)) = (reading.value.point(), self.egfr(draw.start).and_then(Interval::point)) {
                series.push(SeriesPoint {
                    date: reading.effective.to_string(),
                    at_ms: reading.effective.start_ms,
                    egfr,
                    creatinine_mg_dl,
                    resource: evidence::resource(&reading.of.source),
                    version: reading.of.source.version.as_ref().map(|version| version.to_string()),
                });
            }
        }
        series.reverse();
        series
    }

    /// Evidence of one creatinine with the eGFR it gives.
    pub fn evidence(&self, role: Role, index: usize, threshold: &str) -> Evidence {
        self.evidence_with(role, &self.creatinine.readings[index], self.egfr(index), threshold)
    }

    fn evidence_with(&self, role: Role, reading: &Reading<'_>, egfr: Option<Interval>, threshold: &str) -> Evidence {
        Evidence {
            value_used: reading.value.point(),
            unit_used: Some(Unit::MgPerDl.ucum().to_string()),
            equation: Some(self.policy.equation.id().to_string()),
            egfr: egfr.and_then(Interval::point),
            threshold: Some(threshold.to_string()),
            note: egfr.filter(|egfr| egfr.point().is_none()).map(|egfr| format!("eGFR {}", words(egfr))),
            ..evidence::measurement(role, reading.of)
        }
    }

    /// The other results of the draw that name another value, and the newer ones that cannot be used.
    pub fn beside(&self, draw: Range<usize>, threshold: &str) -> Vec<Evidence> {
        let counting = self.creatinine.readings[draw.start].value;
        draw.skip(1)
            .filter(|index| self.creatinine.readings[*index].value != counting)
            .map(|index| self.evidence(Role::Contradicting, index, threshold))
            .chain(evidence::newer_unusable(&self.creatinine))
            .collect()
    }

    /// Why the newest draw has no eGFR, with what it would be where only the sex or the day of birth is open
    /// (rulings.md 10); `None` when it has one.
    pub fn lacking(&self, threshold: &str) -> Option<Finding> {
        if self.creatinine.readings.is_empty() {
            let count = self.creatinine.unusable.len();
            let words = if count == 0 { "no creatinine".to_string() } else { format!("no usable creatinine, {count} cannot be used") };
            return Some(Finding {
                missing: vec![Analyte::Creatinine.word()],
                evidence: evidence::newer_unusable(&self.creatinine).collect(),
                ..Finding::unknown(Reason::Missing, words)
            });
        }
        if self.egfr(0).is_some() {
            return None;
        }
        let newest = &self.creatinine.readings[0];
        let mut evidence = vec![self.evidence(Role::Used, 0, threshold)];
        let mut would_be = Vec::new();
        for (birth, sex, note) in self.if_known() {
            if let Some(egfr) = self.estimate(newest, birth, sex) {
                would_be.push(format!("{} {note}", words(egfr)));
                evidence.push(Evidence { note: Some(note), ..self.evidence_with(Role::IfKnown, newest, Some(egfr), threshold) });
            }
        }
        let (reason, missing, mut explanation) = self.missing_input(newest);
        if !would_be.is_empty() {
            explanation = format!("{explanation}; eGFR would be {}", would_be.join(", "));
        }
        evidence.extend(self.beside(self.creatinine.newest_draw(), threshold));
        Some(Finding { missing, evidence, ..Finding::unknown(reason, explanation) })
    }

    fn is_sexed(&self) -> bool {
        matches!(self.sex(), Some(Sex::Female | Sex::Male)) || !self.policy.equation.needs().contains(&egfr::Input::Sex)
    }

    pub fn missing_input(&self, newest: &Reading<'_>) -> (Reason, Vec<&'static str>, String) {
        let mut missing = Vec::new();
        let written = self.person.and_then(|person| person.body.birth_date);
        let (mut reason, explanation) = match (self.birth_date(), written) {
            (None, None) => (Reason::MissingBirthDate, "the birth date is not known".to_string()),
            (None, Some(coarse)) => (Reason::ImpreciseDate, format!("the birth date is known only as {coarse}")),
            (Some(birth), _) => match age_at(newest.effective, birth) {
                None => (Reason::ImpreciseDate, format!("the creatinine is dated only {}, and the age changed in that time", newest.effective)),
                Some(years) if !self.policy.equation.age_range().contains(&f64::from(years)) => {
                    (Reason::AgeOutOfRange, format!("aged {years} on {}; the equation is not for that age", newest.effective))
                }
                Some(_) => (Reason::MissingSex, "the record says neither female nor male".to_string()),
            },
        };
        if self.birth_date().is_none() {
            missing.push("birth-date");
        }
        if !self.is_sexed() {
            missing.push("sex");
        }
        if !missing.is_empty() && self.person.is_some_and(|person| person.is_conflicting) {
            reason = Reason::ConflictingResults;
        }
        (reason, missing, explanation)
    }

    /// The persons the record may mean: both sexes, both ends of a coarse birth date.
    fn if_known(&self) -> Vec<(PartialDate, Option<Sex>, String)> {
        let Some(birth) = self.person.and_then(|person| person.body.birth_date) else { return Vec::new() };
        let sexes = if self.is_sexed() { vec![(self.sex(), "")] } else { vec![(Some(Sex::Female), "if female"), (Some(Sex::Male), "if male")] };
        let births = if birth.precision >= Precision::Day {
            vec![(birth, String::new())]
        } else {
            let ends = [birth.day(), birth.last_day()].map(|day| day.to_string());
            ends.map(|day| (PartialDate::parse(&day).expect("a Day is a FHIR date"), format!("if born on {day}"))).to_vec()
        };
        let mut persons = Vec::new();
        for (born, if_born) in births {
            for (sex, if_sex) in &sexes {
                persons.push((born, *sex, format!("{if_born} {if_sex}").trim().to_string()));
            }
        }
        persons
    }
}

/// Completed years on the specimen's date as written (rulings.md 2); `None` where that date is too coarse to tell.
fn age_at(specimen: PartialDate, birth: PartialDate) -> Option<i32> {
    let years = birth.day().completed_years(specimen.day());
    (birth.day().completed_years(specimen.last_day()) == years).then_some(years)
}

/// Creatinine in mg/dL by the study's factor, or the word why it cannot be used.
fn creatinine_mg_dl(policy: &EgfrPolicy, of: &Measurement) -> Result<Interval, &'static str> {
    let value = of.value.ok_or("no-value")?;
    let unit = of.unit.ok_or("unit-missing")?;
    let mg_dl = if unit == Unit::MgPerDl {
        value
    } else if unit == Unit::UmolPerL {
        value / policy.creatinine_factor_umol_l_per_mg_dl
    } else {
        return Err("unit-unmapped");
    };
    let (low, high) = Analyte::Creatinine.bounds(Unit::MgPerDl).expect("creatinine is kept in mg/dL");
    if !(low..=high).contains(&mg_dl) {
        return Err("implausible");
    }
    if policy.which_result == WhichResult::NewestRankedIssued && of.comparator.is_some() {
        return Err("comparator");
    }
    Ok(Interval::of(mg_dl, of.comparator))
}

/// "38.2", "below 36.4", with one decimal, as laboratories report at most.
pub(super) fn words(egfr: Interval) -> String {
    match egfr.point() {
        Some(value) => format!("{value:.1}"),
        None if egfr.high.is_finite() => format!("below {:.1}", egfr.high),
        None => format!("above {:.1}", egfr.low),
    }
}
