//! Outcomes in tables: each measure at each visit, over all subjects, by arm and by stratum of the baseline. Missing
//! stays missing: nothing is carried forward and nothing is filled in.

use std::collections::BTreeMap;

use serde::Serialize;

use super::cohort::{Cohort, Member};
use super::{Counted, InOrder};
use crate::rules::outcome::{Series, Slope, VisitValue};
use crate::rules::schedule::VisitState;
use crate::rules::statistics::{Summary, summary, wilcoxon_signed_rank};
use crate::study::Visit;
use crate::study::follow_up::{Measure, OutcomePolicy, PairedTest};

/// One measure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OutcomeTable<'a> {
    pub measure: Measure,
    /// UCUM code of every value below.
    pub unit: &'a str,
    /// All subjects, then each arm, then each stratum.
    pub groups: Vec<Group<'a>>,
    /// Results that exist and could not be used, by reason; `listing` names each.
    pub unusable: InOrder<&'a str, usize>,
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
    /// At the visits that the study compares; `None` elsewhere, and where no value changed.
    pub test: Option<Tested>,
}

/// Slopes of the subjects, each fitted to the subject's own values (see [`Slope`]).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SlopeOutcome {
    pub known: Counted,
    pub per_year: Summary,
}

/// Whether the changes from baseline lean to one side.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tested {
    pub test: PairedTest,
    /// In words: "two-sided Wilcoxon signed-rank test".
    pub name: &'static str,
    /// How p was computed, in words.
    pub method: &'static str,
    /// Subjects with both values.
    pub n: usize,
    /// Of them, those whose change is exactly 0 and is not ranked.
    pub zeros_dropped: usize,
    /// Sum of the ranks of the positive changes.
    pub statistic: f64,
    pub p: f64,
    /// The study's two-sided level.
    pub alpha: f64,
    pub is_significant: bool,
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
            let policy = cohort.study.outcome.as_ref();
            let of = |kind, id, name, members: &[&Member<'a>]| group(kind, id, name, members, measure, &visits, policy);
            let mut groups = vec![of(GroupKind::All, "all", "All subjects", &everybody)];
            for arm in &cohort.arms {
                let of_arm: Vec<&Member<'a>> = cohort.of_arm(arm).collect();
                groups.push(of(GroupKind::Arm, arm, cohort.arm_name(arm), &of_arm));
            }
            for stratum in cohort.study.outcome.iter().flat_map(|policy| &policy.strata) {
                let is_of_it = |member: &&Member<'a>| member.series(measure).and_then(|series| series.stratum.as_ref()) == Some(&stratum.id);
                let of_stratum: Vec<&Member<'a>> = cohort.members.iter().filter(is_of_it).collect();
                groups.push(of(GroupKind::Stratum, &stratum.id, &stratum.name, &of_stratum));
            }
            let mut unusable: BTreeMap<&'a str, usize> = BTreeMap::new();
            for result in everybody.iter().filter_map(|member| member.series(measure)).flat_map(|series| &series.unusable) {
                *unusable.entry(&result.why).or_default() += 1;
            }
            OutcomeTable { measure, unit, groups, unusable: InOrder(unusable.into_iter().collect()) }
        })
        .collect()
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

fn group<'a>(
    kind: GroupKind,
    id: &'a str,
    name: &'a str,
    members: &[&Member<'a>],
    measure: Measure,
    visits: &[&'a Visit],
    policy: Option<&OutcomePolicy>,
) -> Group<'a> {
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
            value: summary(&finite(baselines().map(|point| point.value))),
        },
        visits: visits.iter().map(|visit| visit_outcome(visit, &members, policy)).collect(),
        slope: SlopeOutcome {
            known: those(&|_, series| series.is_some_and(|series| series.slope.is_some())),
            per_year: summary(&finite(slopes().map(|Slope { per_year, .. }| *per_year))),
        },
    }
}

fn visit_outcome<'a>(visit: &'a Visit, members: &[(&Member<'a>, Option<&'a Series>)], policy: Option<&OutcomePolicy>) -> VisitOutcome<'a> {
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
    let changes = finite(found().filter_map(|value| value.change));
    let change = summary(&changes);
    let judged = found().filter(|value| value.is_responder.is_some()).count();
    VisitOutcome {
        visit: &visit.id,
        week: visit.week,
        known: those(&|_, value| is_known(value)),
        awaited: those(&|member, value| !is_known(value) && is_awaited(member)),
        missing: those(&|member, value| !is_known(value) && !is_awaited(member)),
        value: summary(&finite(found().filter_map(|value| Some(value.point.as_ref()?.value)))),
        increased: those(&|_, value| value.and_then(|value| value.change).is_some_and(|change| 0.0 < change)).out_of(change.n),
        change,
        percent_change: summary(&finite(found().filter_map(|value| value.percent_change))),
        responders: those(&|_, value| value.and_then(|value| value.is_responder) == Some(true)).out_of(judged),
        test: policy.filter(|policy| policy.compare_at.contains(&visit.id)).and_then(|policy| tested(policy, &changes)),
    }
}

/// A value that is no number would be a fault of the rules; it never reaches a table.
fn finite(values: impl Iterator<Item = f64>) -> Vec<f64> {
    values.filter(|value| value.is_finite()).collect()
}

fn tested(policy: &OutcomePolicy, changes: &[f64]) -> Option<Tested> {
    match policy.test {
        PairedTest::WilcoxonSignedRank => {
            let test = wilcoxon_signed_rank(changes)?;
            Some(Tested {
                test: policy.test,
                name: "two-sided Wilcoxon signed-rank test",
                method: test.method.words(),
                n: changes.len(),
                zeros_dropped: test.zeros_dropped,
                statistic: test.statistic,
                p: test.p_two_sided,
                alpha: policy.alpha,
                is_significant: test.p_two_sided < policy.alpha,
            })
        }
    }
}
