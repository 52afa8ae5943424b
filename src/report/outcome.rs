//! Outcomes in tables: each measure at each visit, over all subjects, by arm and by stratum of the baseline. Missing
//! stays missing: nothing is carried forward and nothing is filled in.

use serde::Serialize;

use super::Counted;
use super::cohort::{Cohort, Member};
use crate::rules::outcome::{Series, Slope, VisitValue};
use crate::rules::schedule::VisitState;
use crate::study::Visit;
use crate::study::follow_up::Measure;

/// One measure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OutcomeTable<'a> {
    pub measure: Measure,
    /// UCUM code of every value below.
    pub unit: &'a str,
    /// All subjects, then each arm, then each stratum.
    pub groups: Vec<Group<'a>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum GroupKind {
    All,
    Arm,
    /// By the baseline of this measure.
    Stratum,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Group<'a> {
    pub kind: GroupKind,
    /// Id of the arm or stratum; `all` for everybody.
    pub id: &'a str,
    pub name: &'a str,
    pub subjects: Counted,
    pub baseline: Baseline,
    pub visits: Vec<VisitOutcome<'a>>,
    pub slope: SlopeOutcome,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Baseline {
    pub known: Counted,
    pub missing: Counted,
    pub value: Summary,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VisitOutcome<'a> {
    pub visit: &'a str,
    pub week: u32,
    /// Subjects with a usable value.
    pub known: Counted,
    /// Subjects whose visit is not over yet.
    pub awaited: Counted,
    /// All others.
    pub missing: Counted,
    pub value: Summary,
    /// From the subject's own baseline, of those who have both.
    pub change: Summary,
    pub percent_change: Summary,
    /// Above their baseline, of those who have both.
    pub increased: Counted,
    /// Of those who can be judged; none where the study names no threshold.
    pub responders: Counted,
}

/// Slopes of the subjects, each fitted to the subject's own values (see [`Slope`]).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SlopeOutcome {
    pub known: Counted,
    pub per_year: Summary,
}

/// What statisticians ask of some numbers; all `None` where there are none. Quartiles are the averaged inverse of the
/// empirical distribution, type 2 of Hyndman RJ and Fan Y, Am Stat 1996;50:361-365, which agrees with the usual median;
/// the standard deviation is that of a sample (n - 1), from two numbers on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    pub n: usize,
    pub mean: Option<f64>,
    pub standard_deviation: Option<f64>,
    pub median: Option<f64>,
    pub first_quartile: Option<f64>,
    pub third_quartile: Option<f64>,
    pub minimum: Option<f64>,
    pub maximum: Option<f64>,
}

impl Summary {
    /// Of the finite ones of these numbers.
    pub fn of(values: impl Iterator<Item = f64>) -> Summary {
        let mut values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let (Some(minimum), Some(maximum)) = (values.first(), values.last()) else { return Summary::default() };
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        Summary {
            n: values.len(),
            mean: Some(mean),
            standard_deviation: (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt()),
            median: Some(quantile(&values, 2)),
            first_quartile: Some(quantile(&values, 1)),
            third_quartile: Some(quantile(&values, 3)),
            minimum: Some(*minimum),
            maximum: Some(*maximum),
        }
    }
}

/// The quantile of so many quarters of sorted numbers, at least one.
fn quantile(sorted: &[f64], quarters: usize) -> f64 {
    let position = sorted.len() * quarters;
    let above = sorted[(position / 4).min(sorted.len() - 1)];
    // Exactly between two numbers: half way.
    if position % 4 == 0 { (sorted[position / 4 - 1] + above) / 2.0 } else { above }
}

pub(crate) fn outcomes<'a>(cohort: &Cohort<'a>) -> Vec<OutcomeTable<'a>> {
    let has_any = |measure: Measure| cohort.members.iter().any(|member| member.series(measure).is_some());
    Measure::ALL
        .into_iter()
        .filter(|measure| has_any(*measure))
        .map(|measure| {
            let everybody: Vec<&Member<'a>> = cohort.members.iter().collect();
            let unit = everybody.iter().find_map(|member| Some(member.series(measure)?.unit.as_str())).unwrap_or_default();
            let visits = visits(cohort, measure);
            let mut groups = vec![group(GroupKind::All, "all", "All subjects", &everybody, measure, &visits)];
            for arm in &cohort.arms {
                let of_arm: Vec<&Member<'a>> = cohort.of_arm(arm).collect();
                groups.push(group(GroupKind::Arm, arm, cohort.arm_name(arm), &of_arm, measure, &visits));
            }
            for (stratum, name) in strata(cohort, measure) {
                let is_of_it = |member: &&Member<'a>| stratum_of(member, measure) == Some(stratum);
                let of_stratum: Vec<&Member<'a>> = cohort.members.iter().filter(is_of_it).collect();
                groups.push(group(GroupKind::Stratum, stratum, name, &of_stratum, measure, &visits));
            }
            OutcomeTable { measure, unit, groups }
        })
        .collect()
}

fn stratum_of<'a>(member: &Member<'a>, measure: Measure) -> Option<&'a str> {
    member.series(measure)?.stratum.as_deref()
}

/// Strata that subjects fall into, with what people call them.
fn strata<'a>(cohort: &Cohort<'a>, measure: Measure) -> Vec<(&'a str, &'a str)> {
    let mut strata: Vec<&'a str> = cohort.members.iter().filter_map(|member| stratum_of(member, measure)).collect();
    strata.sort_unstable();
    strata.dedup();
    strata.into_iter().map(|stratum| (stratum, stratum)).collect()
}

/// The study's visits at which this measure is looked at.
fn visits<'a>(cohort: &Cohort<'a>, measure: Measure) -> Vec<&'a Visit> {
    let is_looked_at =
        |visit: &&Visit| cohort.members.iter().filter_map(|member| member.series(measure)).any(|series| value_at(series, &visit.id).is_some());
    cohort.study.visits.iter().filter(is_looked_at).collect()
}

fn value_at<'a>(series: &'a Series, visit: &str) -> Option<&'a VisitValue> {
    series.visits.iter().find(|value| value.visit == visit)
}

fn group<'a>(kind: GroupKind, id: &'a str, name: &'a str, members: &[&Member<'a>], measure: Measure, visits: &[&'a Visit]) -> Group<'a> {
    let members: Vec<(&Member<'a>, Option<&'a Series>)> = members.iter().map(|member| (*member, member.series(measure))).collect();
    let those = |is_wanted: &dyn Fn(&Member<'a>, Option<&'a Series>) -> bool| {
        Counted::members(members.iter().filter(|(member, series)| is_wanted(member, *series)).map(|(member, _)| *member))
    };
    let baselines = || members.iter().filter_map(|(_, series)| series.as_ref()?.baseline.as_ref());
    let slopes = || members.iter().filter_map(|(_, series)| series.as_ref()?.slope.as_ref());
    Group {
        kind,
        id,
        name,
        subjects: those(&|_, _| true),
        baseline: Baseline {
            known: those(&|_, series| series.is_some_and(|series| series.baseline.is_some())),
            missing: those(&|_, series| series.is_none_or(|series| series.baseline.is_none())),
            value: Summary::of(baselines().map(|point| point.value)),
        },
        visits: visits.iter().map(|visit| visit_outcome(visit, &members)).collect(),
        slope: SlopeOutcome {
            known: those(&|_, series| series.is_some_and(|series| series.slope.is_some())),
            per_year: Summary::of(slopes().map(|Slope { per_year, .. }| *per_year)),
        },
    }
}

fn visit_outcome<'a>(visit: &'a Visit, members: &[(&Member<'a>, Option<&'a Series>)]) -> VisitOutcome<'a> {
    let values: Vec<(&Member<'a>, Option<&'a VisitValue>)> =
        members.iter().map(|(member, series)| (*member, series.and_then(|series| value_at(series, &visit.id)))).collect();
    let those = |is_wanted: &dyn Fn(&Member<'a>, Option<&'a VisitValue>) -> bool| {
        Counted::members(values.iter().filter(|(member, value)| is_wanted(member, *value)).map(|(member, _)| *member))
    };
    let is_known = |value: Option<&VisitValue>| value.is_some_and(|value| value.point.is_some());
    let is_awaited = |member: &Member<'a>| {
        let standing = member.course().schedule.visits.iter().find(|standing| standing.visit == visit.id);
        standing.is_some_and(|standing| matches!(standing.state, VisitState::Due | VisitState::Upcoming))
    };
    let found = || values.iter().filter_map(|(_, value)| *value);
    let change = Summary::of(found().filter_map(|value| value.change));
    let judged = found().filter(|value| value.is_responder.is_some()).count();
    VisitOutcome {
        visit: &visit.id,
        week: visit.week,
        known: those(&|_, value| is_known(value)),
        awaited: those(&|member, value| !is_known(value) && is_awaited(member)),
        missing: those(&|member, value| !is_known(value) && !is_awaited(member)),
        value: Summary::of(found().filter_map(|value| Some(value.point.as_ref()?.value))),
        increased: those(&|_, value| value.and_then(|value| value.change).is_some_and(|change| 0.0 < change)).out_of(change.n),
        change,
        percent_change: Summary::of(found().filter_map(|value| value.percent_change)),
        responders: those(&|_, value| value.and_then(|value| value.is_responder) == Some(true)).out_of(judged),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Quartiles as SAS gives them by default (PCTLDEF=5) and R by type 2.
    #[test]
    fn quartiles_are_those_of_the_averaged_empirical_distribution() {
        let quartiles = |values: &[f64]| {
            let summary = Summary::of(values.iter().copied());
            (summary.first_quartile, summary.median, summary.third_quartile)
        };
        assert_eq!(quartiles(&[1.0, 2.0, 3.0, 4.0]), (Some(1.5), Some(2.5), Some(3.5)));
        assert_eq!(quartiles(&[5.0, 1.0, 3.0]), (Some(1.0), Some(3.0), Some(5.0)));
        assert_eq!(quartiles(&[1.0, 2.0, 3.0, 4.0, 5.0]), (Some(2.0), Some(3.0), Some(4.0)));
        assert_eq!(quartiles(&[7.0]), (Some(7.0), Some(7.0), Some(7.0)));
        assert_eq!(quartiles(&[]), (None, None, None));
    }

    #[test]
    fn one_number_has_no_standard_deviation_and_none_has_no_mean() {
        assert_eq!(Summary::of([4.0, f64::NAN].into_iter()).standard_deviation, None);
        assert_eq!(Summary::of(std::iter::empty()), Summary::default());
        let summary = Summary::of([2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0].into_iter());
        assert_eq!(summary.mean, Some(5.0));
        assert!((summary.standard_deviation.unwrap() - (32.0f64 / 7.0).sqrt()).abs() < 1e-12);
    }
}
