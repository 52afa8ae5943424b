//! The report of a trial: who entered, what was given, what happened, what became of the kidneys; each count with what
//! is behind it. Pure: made of the courses of all who entered, and of nothing else. Knows no site, no store, no clock.
//!
//! Three places say where a number comes from. `evidence` names the resources behind each figure of the head. Every
//! count in a table is a [`Counted`] or an [`EventCount`]: positions in `listing` (one entry a subject, with the whole
//! course) and in `events` (one entry an event), where the resources stand.

pub mod cohort;
pub mod csv;
pub mod enrolment;
pub mod html;
pub mod markdown;
pub mod outcome;
pub mod plot;
pub mod safety;
pub mod tables;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use crate::clinical::date::AsOf;
use crate::rules::course::{Cited, Course};
use crate::rules::dosing::{self, DosingStanding};
use crate::rules::outcome::Series;
use crate::rules::{Hidden, SubjectState};
use crate::study::follow_up::Measure;
use crate::study::{Study, Visit};
use cohort::{Cohort, Member};

/// One subject who entered, as a report takes them.
#[derive(Clone, Debug, PartialEq)]
pub struct Enrolled {
    pub site: String,
    /// Patient id at that site.
    pub subject: String,
    /// Why the subject is not named, or not counted (see [`Standing`]); `None` where they are.
    pub hidden: Option<Hidden>,
    pub course: Course,
    /// Every result in force; filled only where LB is asked for.
    pub laboratory: Vec<csv::Laboratory>,
}

impl Enrolled {
    pub fn new(site: &str, subject: &str, course: Course) -> Enrolled {
        Enrolled { site: site.to_owned(), subject: subject.to_owned(), hidden: None, course, laboratory: Vec::new() }
    }
}

/// What a report does with somebody who must not appear on lists (rulings.md 17).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Named,
    /// Counted, or a trial's safety would be told wrongly; without id, dates, words or resources.
    Unnamed,
    /// No subject of the trial: a test patient, or a record whose facts count under the one it was merged into.
    NotCounted,
}

impl Standing {
    pub const fn of(hidden: Option<Hidden>) -> Standing {
        match hidden {
            None => Standing::Named,
            Some(Hidden::OptedOut | Hidden::Restricted | Hidden::Deceased | Hidden::NoPatient) => Standing::Unnamed,
            Some(Hidden::TestPatient | Hidden::Merged) => Standing::NotCounted,
        }
    }
}

/// Pairs that JSON shows as an object in this order.
#[derive(Clone, Debug, PartialEq)]
pub struct InOrder<K, T>(pub Vec<(K, T)>);

impl<K: AsRef<str>, T> InOrder<K, T> {
    pub fn get(&self, key: &str) -> Option<&T> {
        self.0.iter().find(|(known, _)| known.as_ref() == key).map(|(_, value)| value)
    }
}

impl<K: AsRef<str>, T: Serialize> Serialize for InOrder<K, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in &self.0 {
            map.serialize_entry(key.as_ref(), value)?;
        }
        map.end()
    }
}

/// Subjects, by their position in `listing`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counted {
    pub count: usize,
    /// Out of how many, where that is not the whole group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of: Option<usize>,
    pub listed: Vec<usize>,
}

impl Counted {
    pub(crate) fn members<'a, 'c: 'a>(members: impl Iterator<Item = &'a Member<'c>>) -> Counted {
        let listed: Vec<usize> = members.map(|member| member.number).collect();
        Counted { count: listed.len(), of: None, listed }
    }

    fn out_of(self, of: usize) -> Counted {
        Counted { of: Some(of), ..self }
    }
}

/// Adverse events, by their position in `events`, and how many subjects had them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct EventCount {
    pub events: usize,
    pub subjects: usize,
    pub listed: Vec<usize>,
}

/// One number of the head, with what is behind it: one entry for each thing that was counted.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure<'a> {
    pub count: usize,
    /// Out of how many who have what is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of: Option<usize>,
    pub because: Vec<Because<'a>>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Because<'a> {
    pub site: &'a str,
    /// `None` for a subject who must not be named; then nothing else stands here either.
    pub subject: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<&'a str>,
    pub facts: Vec<&'a Cited>,
}

/// What is behind the head of the report, by the head's own words.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evidence<'a> {
    pub subjects: Figure<'a>,
    pub arms: InOrder<&'a str, Figure<'a>>,
    pub lost_to_follow_up: Figure<'a>,
    pub treatment_related_events: Figure<'a>,
    pub dose_limiting_toxicities: Figure<'a>,
    pub serious_events: Figure<'a>,
    pub egfr_increased: InOrder<&'a str, Figure<'a>>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StudyShown<'a> {
    pub id: &'a str,
    pub title: &'a str,
    /// SHA-256 of the study.json that judged.
    pub hash: &'a str,
}

/// Everything a report states. JSON keeps the order of the fields: the head first.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report<'a> {
    /// Who entered.
    pub subjects: usize,
    /// Of them, in the study's order; `not-assigned` where nobody says which arm.
    pub arms: InOrder<&'a str, usize>,
    pub lost_to_follow_up: usize,
    /// Events that count in the study and whose relation the study counts as related.
    pub treatment_related_events: usize,
    /// Asserted by a person or the source, never computed from a grade.
    pub dose_limiting_toxicities: usize,
    pub serious_events: usize,
    /// Subjects whose eGFR is above their baseline, at the visits that the study compares.
    pub egfr_increased: InOrder<&'a str, usize>,
    pub study: StudyShown<'a>,
    /// RFC 3339 UTC, inclusive.
    pub as_of: String,
    pub as_of_ms: i64,
    /// Counted without being named (rulings.md 17).
    pub unnamed_subjects: usize,
    /// Not counted, by reason: test patients, records merged into another.
    pub not_counted: InOrder<&'static str, usize>,
    pub evidence: Evidence<'a>,
    pub enrolment: enrolment::Enrolment<'a>,
    pub follow_up: enrolment::FollowUp<'a>,
    pub safety: safety::Safety<'a>,
    /// What the dose escalation counts and what its scheme says; the decision is the safety board's. `null` where the study
    /// escalates no doses. Subjects by their position in `listing`, those who must not be named only in the counts.
    pub dosing: Option<DosingStanding>,
    pub outcomes: Vec<outcome::OutcomeTable<'a>>,
    /// Every event, those that do not count with the reason.
    pub events: Vec<safety::ListedEvent<'a>>,
    pub listing: Vec<Listed<'a>>,
}

/// One subject, with the course as it was judged.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Listed<'a> {
    /// Position in `listing`, from 0.
    pub number: usize,
    pub arm: &'a str,
    pub site: &'a str,
    /// `None` where the subject must not be named; then `hidden` says why and there is no course.
    pub subject: Option<&'a str>,
    pub hidden: Option<Hidden>,
    pub course: Option<&'a Course>,
}

impl Report<'_> {
    /// One line of JSON, without a line end.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a report has nothing that JSON cannot write")
    }
}

/// Makes the report of a study as of a time. `courses` stand in order of site and subject, each judged as of that time.
pub fn report<'a>(study: &'a Study, as_of: AsOf, courses: &'a [Enrolled]) -> Report<'a> {
    let cohort = Cohort::of(study, courses);
    let events = safety::listed(&cohort);
    let evidence = evidence(&cohort, &events);
    let count = |figures: &InOrder<&'a str, Figure<'a>>| InOrder(figures.0.iter().map(|(key, figure)| (*key, figure.count)).collect());
    Report {
        subjects: evidence.subjects.count,
        arms: count(&evidence.arms),
        lost_to_follow_up: evidence.lost_to_follow_up.count,
        treatment_related_events: evidence.treatment_related_events.count,
        dose_limiting_toxicities: evidence.dose_limiting_toxicities.count,
        serious_events: evidence.serious_events.count,
        egfr_increased: count(&evidence.egfr_increased),
        study: StudyShown { id: &study.id, title: &study.title, hash: &study.hash },
        as_of: as_of.to_string(),
        as_of_ms: as_of.until_ms,
        unnamed_subjects: cohort.members.iter().filter(|member| !member.is_named()).count(),
        not_counted: InOrder(cohort.not_counted.clone()),
        evidence,
        enrolment: enrolment::enrolment(&cohort),
        follow_up: enrolment::follow_up(&cohort),
        safety: safety::safety(&cohort, &events),
        dosing: dosing(&cohort),
        outcomes: outcome::outcomes(&cohort),
        listing: cohort
            .members
            .iter()
            .map(|member| Listed {
                number: member.number,
                arm: member.arm,
                site: member.site(),
                subject: member.subject(),
                hidden: member.enrolled.hidden,
                course: member.is_named().then_some(member.course()),
            })
            .collect(),
        events,
    }
}

fn dosing(cohort: &Cohort<'_>) -> Option<DosingStanding> {
    let courses: Vec<&Course> = cohort.members.iter().map(Member::course).collect();
    let mut standing = dosing::standing(cohort.study, &courses)?;
    standing.without_arm.retain(|watched| cohort.members[watched.subject].is_named());
    for arm in &mut standing.arms {
        arm.subjects.retain(|watched| cohort.members[watched.subject].is_named());
    }
    Some(standing)
}

/// Whether a subject is lost: a person or the hospital says so.
pub(crate) fn is_lost(course: &Course) -> bool {
    course.state == SubjectState::Lost || course.schedule.lost.is_some()
}

/// Visits at which a study compares eGFR with its baseline; none where it does not measure eGFR.
fn compared(study: &Study) -> impl Iterator<Item = &Visit> {
    let is_wanted = |visit: &&Visit| match &study.outcome {
        Some(policy) => policy.measures.contains(&Measure::Egfr) && policy.compare_at.contains(&visit.id),
        None => study.egfr.is_some() && visit.week > 0,
    };
    study.visits.iter().filter(is_wanted)
}

fn evidence<'a>(cohort: &Cohort<'a>, events: &[safety::ListedEvent<'a>]) -> Evidence<'a> {
    let enrolled = |member: &Member<'a>| member.because(None, std::iter::once(&member.course().entered.enrolled.by));
    let lost = |member: &Member<'a>| member.because(None, member.course().schedule.lost.iter());
    let figure = |because: Vec<Because<'a>>| Figure { count: because.len(), of: None, because };
    let events_that = |is_wanted: fn(&crate::rules::safety::Event) -> bool| {
        let wanted = events.iter().filter(|listed| listed.counts() && is_wanted(listed.is));
        figure(wanted.map(|listed| cohort.members[listed.listed].because(Some(&listed.is.id), listed.is.by.iter())).collect())
    };
    Evidence {
        subjects: figure(cohort.members.iter().map(enrolled).collect()),
        arms: InOrder(
            cohort
                .arms
                .iter()
                .map(|arm| {
                    let of_arm = cohort.members.iter().filter(|member| member.arm == *arm);
                    let why = of_arm.map(|member| member.because(None, member.course().entered.arm.iter().flat_map(|given| &given.by)));
                    (*arm, figure(why.collect()))
                })
                .collect(),
        ),
        lost_to_follow_up: figure(cohort.members.iter().filter(|member| is_lost(member.course())).map(lost).collect()),
        treatment_related_events: events_that(|event| event.is_related == Some(true)),
        dose_limiting_toxicities: events_that(|event| event.is_dose_limiting == Some(true)),
        serious_events: events_that(|event| event.is_serious == Some(true)),
        egfr_increased: InOrder(
            compared(cohort.study).filter(|_| cohort.study.egfr.is_some()).map(|visit| (visit.id.as_str(), increased(cohort, &visit.id))).collect(),
        ),
    }
}

/// Subjects whose eGFR at a visit is above their baseline, out of those who have both; behind each, the results of both.
fn increased<'a>(cohort: &Cohort<'a>, visit: &str) -> Figure<'a> {
    let changes: Vec<(&Member<'a>, &'a Series, f64)> = cohort
        .members
        .iter()
        .filter_map(|member| {
            let series = member.series(Measure::Egfr)?;
            Some((member, series, member.at(Measure::Egfr, visit)?.change?))
        })
        .collect();
    let because: Vec<Because<'a>> = changes
        .iter()
        .filter(|(_, _, change)| 0.0 < *change)
        .map(|(member, series, _)| {
            let at = series.visits.iter().find(|value| value.visit == visit).and_then(|value| value.point.as_ref());
            member.because(None, series.baseline.iter().chain(at).flat_map(|point| &point.by))
        })
        .collect();
    Figure { count: because.len(), of: Some(changes.len()), because }
}
