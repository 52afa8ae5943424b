//! From criteria to one answer: Kleene AND over those that count, and who misses by one.

use super::{CriterionVerdict, NearMiss, SeriesPoint, Verdict, statistics};
use crate::clinical::date::MS_PER_DAY;
use crate::study::{Origin, Stage};

/// Over the criteria of the first stage, site rules included.
pub(super) fn prescreen(criteria: &[CriterionVerdict]) -> Verdict {
    first_stage(criteria).fold(Verdict::Met, |all, criterion| all.and(criterion.verdict))
}

/// Over the protocol's own criteria by its own words (rulings.md 14).
pub(super) fn eligibility(criteria: &[CriterionVerdict]) -> Verdict {
    criteria.iter().filter(|criterion| criterion.origin != Origin::SiteRule).fold(Verdict::Met, |all, criterion| all.and(criterion.protocol_verdict))
}

fn first_stage(criteria: &[CriterionVerdict]) -> impl Iterator<Item = &CriterionVerdict> {
    criteria.iter().filter(|criterion| criterion.stage == Stage::Prescreen)
}

/// Of a single criterion nobody can miss by one.
pub(super) fn near_miss(criteria: &[CriterionVerdict], series: &[SeriesPoint]) -> Option<NearMiss> {
    let mut failing = first_stage(criteria).filter(|criterion| criterion.verdict != Verdict::Met);
    let only = failing.next().filter(|only| only.verdict == Verdict::NotMet)?;
    if failing.next().is_some() || first_stage(criteria).count() < 2 {
        return None;
    }
    Some(NearMiss { criterion: only.id.clone(), distance: only.distance, trend_per_year: trend_per_year(series) })
}

/// Least-squares slope in mL/min/1.73 m2 per year; told from three results over 90 days on (our choice, for display;
/// it decides nothing).
fn trend_per_year(series: &[SeriesPoint]) -> Option<f64> {
    let (first, last) = (series.first()?, series.last()?);
    if series.len() < 3 || last.at_ms - first.at_ms < 90 * MS_PER_DAY {
        return None;
    }
    let years = |point: &SeriesPoint| (point.at_ms - first.at_ms) as f64 / (365.25 * MS_PER_DAY as f64);
    let points: Vec<(f64, f64)> = series.iter().map(|point| (years(point), point.egfr)).collect();
    statistics::least_squares(&points).map(|line| line.slope)
}
