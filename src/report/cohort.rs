//! Those who are counted, as every part of a report sees them.

use super::{Because, Enrolled, Standing};
use crate::rules::Hidden;
use crate::rules::course::{Cited, Course};
use crate::rules::outcome::{Series, VisitValue};
use crate::study::Study;
use crate::study::follow_up::Measure;

/// The arm of those of whom nobody says which one.
pub const NOT_ASSIGNED: &str = "not-assigned";

pub(crate) struct Cohort<'a> {
    pub study: &'a Study,
    /// In the order of `listing`.
    pub members: Vec<Member<'a>>,
    /// The study's arms in its order, then what the sources say beside them, then [`NOT_ASSIGNED`] where it is needed.
    pub arms: Vec<&'a str>,
    pub not_counted: Vec<(&'static str, usize)>,
}

pub(crate) struct Member<'a> {
    /// Position in `listing`.
    pub number: usize,
    pub enrolled: &'a Enrolled,
    pub arm: &'a str,
}

impl<'a> Cohort<'a> {
    pub fn of(study: &'a Study, courses: &'a [Enrolled]) -> Cohort<'a> {
        let mut members: Vec<Member<'a>> = Vec::with_capacity(courses.len());
        for enrolled in courses.iter().filter(|enrolled| Standing::of(enrolled.hidden) != Standing::NotCounted) {
            let arm = enrolled.course.entered.arm.as_ref().map_or(NOT_ASSIGNED, |given| given.arm.as_str());
            members.push(Member { number: members.len(), enrolled, arm });
        }
        let mut arms: Vec<&'a str> = study.arms.iter().map(|arm| arm.id.as_str()).collect();
        let mut others: Vec<&'a str> = members.iter().map(|member| member.arm).filter(|arm| !arms.contains(arm) && *arm != NOT_ASSIGNED).collect();
        others.sort_unstable();
        others.dedup();
        arms.extend(others);
        if members.iter().any(|member| member.arm == NOT_ASSIGNED) {
            arms.push(NOT_ASSIGNED);
        }
        let left_out = |reason: Hidden| courses.iter().filter(|enrolled| enrolled.hidden == Some(reason)).count();
        let reasons = [("test-patient", Hidden::TestPatient), ("merged", Hidden::Merged)];
        let not_counted = reasons.into_iter().map(|(word, reason)| (word, left_out(reason))).filter(|(_, count)| *count > 0).collect();
        Cohort { study, members, arms, not_counted }
    }

    pub fn of_arm<'c>(&'c self, arm: &'c str) -> impl Iterator<Item = &'c Member<'a>> {
        self.members.iter().filter(move |member| member.arm == arm)
    }

    /// What people call an arm.
    pub fn arm_name(&self, arm: &'a str) -> &'a str {
        match self.study.arms.iter().find(|known| known.id == arm) {
            Some(known) => &known.name,
            None if arm == NOT_ASSIGNED => "Not assigned",
            None => arm,
        }
    }
}

impl<'a> Member<'a> {
    pub fn course(&self) -> &'a Course {
        &self.enrolled.course
    }

    pub fn is_named(&self) -> bool {
        Standing::of(self.enrolled.hidden) == Standing::Named
    }

    pub fn site(&self) -> &'a str {
        &self.enrolled.site
    }

    pub fn subject(&self) -> Option<&'a str> {
        self.is_named().then_some(self.enrolled.subject.as_str())
    }

    pub fn series(&self, measure: Measure) -> Option<&'a Series> {
        self.course().outcome.series.iter().find(|series| series.measure == measure)
    }

    pub fn at(&self, measure: Measure, visit: &str) -> Option<&'a VisitValue> {
        self.series(measure)?.visits.iter().find(|value| value.visit == visit)
    }

    /// What a number rests on; of somebody who is not named only that they were counted.
    pub fn because(&self, event: Option<&'a str>, facts: impl Iterator<Item = &'a Cited>) -> Because<'a> {
        match self.subject() {
            Some(subject) => Because { site: self.site(), subject: Some(subject), event, facts: facts.collect() },
            None => Because { site: self.site(), subject: None, event: None, facts: Vec::new() },
        }
    }
}
