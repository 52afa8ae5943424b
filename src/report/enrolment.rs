//! Who entered, into which arm and where; and how follow-up stands at each visit.

use serde::Serialize;

use super::cohort::{Cohort, Member};
use super::{Counted, InOrder, is_lost};
use crate::rules::SubjectState;
use crate::rules::schedule::{VisitStanding, VisitState};

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Enrolment<'a> {
    pub arms: Vec<ArmEnrolment<'a>>,
    pub sites: Vec<SiteEnrolment<'a>>,
    /// First and last date of entry, FHIR syntax; of those who are named.
    pub first: Option<&'a str>,
    pub last: Option<&'a str>,
    /// Where the subjects stand, states without subjects left out.
    pub states: InOrder<&'static str, Counted>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ArmEnrolment<'a> {
    pub arm: &'a str,
    pub name: &'a str,
    /// Cells of the single dose, by study.json.
    pub cells: Option<f64>,
    pub planned_subjects: Option<u32>,
    pub enrolled: Counted,
    pub dosed: Counted,
    /// Dosed with cells that are not the arm's.
    pub dosed_otherwise: Counted,
    /// Two sources name different arms.
    pub conflicting: Counted,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SiteEnrolment<'a> {
    pub site: &'a str,
    pub enrolled: Counted,
    pub arms: InOrder<&'a str, usize>,
    pub first: Option<&'a str>,
    pub last: Option<&'a str>,
}

pub(crate) fn enrolment<'a>(cohort: &Cohort<'a>) -> Enrolment<'a> {
    let arms = cohort
        .arms
        .iter()
        .map(|arm| {
            let planned = cohort.study.arms.iter().find(|known| known.id == *arm);
            let of = |is_wanted: fn(&Member<'_>) -> bool| Counted::members(cohort.of_arm(arm).filter(|member| is_wanted(member)));
            ArmEnrolment {
                arm,
                name: cohort.arm_name(arm),
                cells: planned.map(|arm| arm.cells),
                planned_subjects: planned.map(|arm| arm.planned_subjects),
                enrolled: of(|_| true),
                dosed: of(|member| !member.course().entered.doses.is_empty()),
                dosed_otherwise: of(|member| member.course().entered.doses.iter().any(|dose| dose.fits_arm == Some(false))),
                conflicting: of(|member| member.course().entered.arm.as_ref().is_some_and(|given| given.is_conflicting)),
            }
        })
        .collect();
    let mut sites: Vec<&'a str> = cohort.members.iter().map(Member::site).collect();
    sites.sort_unstable();
    sites.dedup();
    let sites = sites
        .into_iter()
        .map(|site| {
            let of_site = || cohort.members.iter().filter(move |member| member.site() == site);
            let (first, last) = first_and_last(of_site());
            SiteEnrolment {
                site,
                enrolled: Counted::members(of_site()),
                arms: InOrder(cohort.arms.iter().map(|arm| (*arm, of_site().filter(|member| member.arm == *arm).count())).collect()),
                first,
                last,
            }
        })
        .collect();
    let (first, last) = first_and_last(cohort.members.iter());
    let states = SubjectState::ALL
        .iter()
        .map(|state| (state.word(), Counted::members(cohort.members.iter().filter(|member| member.course().state == *state))))
        .filter(|(_, counted)| counted.count > 0)
        .collect();
    Enrolment { arms, sites, first, last, states: InOrder(states) }
}

fn first_and_last<'a, 'c>(members: impl Iterator<Item = &'c Member<'a>>) -> (Option<&'a str>, Option<&'a str>)
where
    'a: 'c,
{
    let mut dates: Vec<(i64, &'a str)> = members
        .filter(|member| member.is_named())
        .map(|member| (member.course().entered.enrolled.at_ms, member.course().entered.enrolled.date.as_str()))
        .collect();
    dates.sort_unstable();
    (dates.first().map(|(_, date)| *date), dates.last().map(|(_, date)| *date))
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FollowUp<'a> {
    /// In the study's order.
    pub visits: Vec<VisitFollowUp<'a>>,
    pub lost: Counted,
    /// Results whose due day has passed, the longest overdue first.
    pub overdue: Vec<Overdue<'a>>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VisitFollowUp<'a> {
    pub visit: &'a str,
    pub week: u32,
    pub done: Counted,
    /// A result came, but outside the window.
    pub out_of_window: Counted,
    /// The window closed and nothing came.
    pub missed: Counted,
    /// The window is open and nothing came yet.
    pub due: Counted,
    pub upcoming: Counted,
    /// The subject left, died or was lost before it.
    pub not_expected: Counted,
    /// No day 0 yet, so nothing is due.
    pub not_scheduled: Counted,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Overdue<'a> {
    /// Position in `listing`.
    pub listed: usize,
    pub site: &'a str,
    pub subject: Option<&'a str>,
    pub visit: &'a str,
    /// Analyte words.
    pub what: &'a [String],
    /// `YYYY-MM-DD`.
    pub due: &'a str,
    pub closes: &'a str,
}

pub(crate) fn follow_up<'a>(cohort: &Cohort<'a>) -> FollowUp<'a> {
    let standing = |member: &Member<'a>, visit: &str| -> Option<&'a VisitStanding> {
        member.course().schedule.visits.iter().find(|standing| standing.visit == visit)
    };
    let visits = cohort
        .study
        .visits
        .iter()
        .map(|visit| {
            let of = |wanted: Option<VisitState>| {
                Counted::members(cohort.members.iter().filter(|member| standing(member, &visit.id).map(|standing| standing.state) == wanted))
            };
            VisitFollowUp {
                visit: &visit.id,
                week: visit.week,
                done: of(Some(VisitState::Done)),
                out_of_window: of(Some(VisitState::OutOfWindow)),
                missed: of(Some(VisitState::Missed)),
                due: of(Some(VisitState::Due)),
                upcoming: of(Some(VisitState::Upcoming)),
                not_expected: of(Some(VisitState::NotExpected)),
                not_scheduled: of(None),
            }
        })
        .collect();
    let mut overdue: Vec<Overdue<'a>> = cohort
        .members
        .iter()
        .filter_map(|member| {
            let next = member.course().schedule.next.as_ref().filter(|next| next.is_overdue)?;
            Some(Overdue {
                listed: member.number,
                site: member.site(),
                subject: member.subject(),
                visit: &next.visit,
                what: &next.what,
                due: &next.due,
                closes: &next.closes,
            })
        })
        .collect();
    overdue.sort_by_key(|overdue| overdue.due);
    FollowUp { visits, lost: Counted::members(cohort.members.iter().filter(|member| is_lost(member.course()))), overdue }
}
