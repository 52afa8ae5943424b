//! Dose escalation: what the cohorts so far say by the 3+3 scheme, and who can be counted for it. States the count and
//! the rule; the decision is the safety board's.

use serde::Serialize;

use super::SubjectState;
use super::course::{Cited, Course, Dated};
use super::enrolment::Entered;
use super::safety::Event;
use crate::clinical::date::{Day, PartialDate};
use crate::study::{DosingScheme, Study};

/// Subjects who were given one dose together and can be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Cohort {
    /// From 1, the lowest, on.
    pub dose: usize,
    pub subjects: usize,
    /// Subjects with a dose-limiting toxicity.
    pub dlts: usize,
}

/// What the scheme says after some cohorts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Advice {
    pub step: Step,
    /// The dose of the last cohort, from 1 on; the lowest before the first.
    pub at: usize,
    /// Counted at that dose.
    pub subjects: usize,
    pub dlts: usize,
    /// The dose that comes next, or that is recommended where the scheme stops; `None` where even the lowest is too high.
    pub dose: Option<usize>,
    pub continues: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Nobody was treated yet.
    Begin,
    /// Fewer than three, or between three and six.
    CompleteCohort,
    /// One of three had a DLT: three more at this dose.
    Expand,
    Escalate,
    /// The highest dose is the recommended one.
    StopAtTop,
    /// Two or more: the dose below is the recommended one.
    StopBelow,
}

/// Why a sequence of cohorts is none of this scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum InvalidOrder {
    /// The scheme asked for another dose, or (`expected` is `None`) for no more. `cohort` counts from 0.
    WrongDose { cohort: usize, given: usize, expected: Option<usize> },
    /// More subjects than three, or six, at one dose.
    TooMany { cohort: usize },
    /// Nobody, or more toxicities than subjects.
    NoCohort { cohort: usize },
}

/// The 3+3 scheme without de-escalation over `doses` doses (at least one): with fewer than three subjects at a dose stay;
/// with three, none toxic: go on, one: three more, two or more: stop; with six, at most one toxic: go on, else stop.
/// What is stopped at the top recommends the top, what is stopped for toxicity the dose below. As brockk/escalation@021c306,
/// tests/testthat/test_three_plus_three.R, has it; two toxicities in an unfinished cohort do not stop it there either.
///
/// # Errors
/// Cohorts that this scheme would not have treated in this order.
pub fn three_plus_three(doses: usize, cohorts: &[Cohort]) -> Result<Advice, InvalidOrder> {
    assert!(doses > 0, "a scheme escalates over at least one dose");
    let mut advice = Advice { step: Step::Begin, at: 1, subjects: 0, dlts: 0, dose: Some(1), continues: true };
    for (cohort, next) in cohorts.iter().enumerate() {
        if next.subjects == 0 || next.dlts > next.subjects {
            return Err(InvalidOrder::NoCohort { cohort });
        }
        let expected = advice.dose.filter(|_| advice.continues);
        if expected != Some(next.dose) {
            return Err(InvalidOrder::WrongDose { cohort, given: next.dose, expected });
        }
        let (before, dlts_before) = if next.dose == advice.at { (advice.subjects, advice.dlts) } else { (0, 0) };
        let subjects = before + next.subjects;
        if subjects > if before < 3 { 3 } else { 6 } {
            return Err(InvalidOrder::TooMany { cohort });
        }
        advice = advise(doses, next.dose, subjects, dlts_before + next.dlts);
    }
    Ok(advice)
}

fn advise(doses: usize, at: usize, subjects: usize, dlts: usize) -> Advice {
    let is_whole = subjects == 3 || subjects == 6;
    let step = if !is_whole {
        Step::CompleteCohort
    } else if dlts >= 2 {
        Step::StopBelow
    } else if subjects == 3 && dlts == 1 {
        Step::Expand
    } else if at < doses {
        Step::Escalate
    } else {
        Step::StopAtTop
    };
    let (dose, continues) = match step {
        Step::Begin | Step::CompleteCohort | Step::Expand => (Some(at), true),
        Step::Escalate => (Some(at + 1), true),
        Step::StopAtTop => (Some(at), false),
        Step::StopBelow => (Some(at - 1).filter(|below| *below > 0), false),
    };
    Advice { step, at, subjects, dlts, dose, continues }
}

/// Where the escalation of a study stands.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DosingStanding {
    pub scheme: DosingScheme,
    pub dlt_window_days: u32,
    /// In the study's order, the lowest dose first.
    pub arms: Vec<ArmStanding>,
    /// Who was given a dose of which nobody names the arm; they are in no cohort.
    pub without_arm: Vec<Watched>,
    /// Of those who can be counted, in order of first dose, in threes.
    pub cohorts: Vec<Cohort>,
    /// `None` where the cohorts do not follow the scheme.
    pub advice: Option<Advice>,
    pub invalid: Option<InvalidOrder>,
    /// The count and what the scheme says, in sentences.
    pub says: String,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ArmStanding {
    /// Id of the arm in study.json.
    pub arm: String,
    pub treated: usize,
    /// Subjects with a DLT in the window, or watched to its end.
    pub evaluable: usize,
    /// Still watched.
    pub pending: usize,
    /// Left or died in the window without a DLT: replaced in a 3+3.
    pub not_evaluable: usize,
    /// Subjects with a DLT in the window.
    pub dlts: usize,
    /// In order of first dose.
    pub subjects: Vec<Watched>,
}

/// One treated subject, as far as the scheme counts them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Watched {
    /// Position among the courses that were given.
    pub subject: usize,
    pub first_dose: Dated,
    /// Last day of the window, `YYYY-MM-DD`.
    pub window_ends: String,
    pub standing: DltStanding,
    /// Ids of the events that are dose-limiting, in the window.
    pub dlts: Vec<String>,
    /// Ids of events in the window of which nobody said whether they are dose-limiting: the count may still rise.
    pub unassessed: Vec<String>,
    /// The doses, the events that count, and who says that the subject left.
    pub by: Vec<Cited>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DltStanding {
    Dlt,
    NoDlt,
    /// The window is not over.
    Pending,
    /// Left, was lost or died in the window without a DLT, or at a time that nobody gives.
    NotEvaluable,
}

impl DltStanding {
    pub const fn is_evaluable(self) -> bool {
        matches!(self, DltStanding::Dlt | DltStanding::NoDlt)
    }
}

/// The days in which a toxicity is dose-limiting: from the day of the first dose to the last of the window, both as written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    first: i64,
    last: i64,
}

/// `None` for a study that escalates no doses, and for a subject who was given none.
pub(super) fn window(study: &Study, entered: &Entered) -> Option<Window> {
    let first = entered.doses.first()?.given.read().day().number();
    Some(Window { first, last: first + i64::from(study.dosing.as_ref()?.dlt_window_days) })
}

impl Window {
    /// Whether something that began then may have begun in the window; what nobody dates may have.
    pub fn may_hold(self, onset: Option<&PartialDate>) -> bool {
        onset.is_none_or(|onset| self.first <= onset.last_day().number() && onset.day().number() <= self.last)
    }
}

/// Counts and advice for the subjects of a study, by their courses; `None` where the study escalates no doses.
pub fn standing(study: &Study, courses: &[&Course]) -> Option<DosingStanding> {
    let dosing = study.dosing.as_ref()?;
    let mut watched: Vec<(Option<usize>, Watched)> = courses
        .iter()
        .enumerate()
        .filter_map(|(subject, course)| {
            let arm = course.entered.arm.as_ref().and_then(|given| study.arms.iter().position(|arm| arm.id == given.arm));
            Some((arm, watch(study, subject, course)?))
        })
        .collect();
    watched.sort_by_key(|(_, watched)| (watched.first_dose.at_ms, watched.subject));
    let cohorts = cohorts(&watched);
    let (advice, invalid) = match three_plus_three(study.arms.len(), &cohorts) {
        Ok(advice) => (Some(advice), None),
        Err(invalid) => (None, Some(invalid)),
    };
    let mut arms: Vec<ArmStanding> = study.arms.iter().map(|arm| ArmStanding::of(&arm.id)).collect();
    let mut without_arm = Vec::new();
    for (arm, watched) in watched {
        match arm {
            Some(arm) => arms[arm].add(watched),
            None => without_arm.push(watched),
        }
    }
    let says = say(study, &arms, without_arm.len(), advice, invalid);
    Some(DosingStanding { scheme: dosing.scheme, dlt_window_days: dosing.dlt_window_days, arms, without_arm, cohorts, advice, invalid, says })
}

impl ArmStanding {
    fn of(arm: &str) -> ArmStanding {
        ArmStanding { arm: arm.to_string(), treated: 0, evaluable: 0, pending: 0, not_evaluable: 0, dlts: 0, subjects: Vec::new() }
    }

    fn add(&mut self, watched: Watched) {
        self.treated += 1;
        self.evaluable += usize::from(watched.standing.is_evaluable());
        match watched.standing {
            DltStanding::Dlt => self.dlts += 1,
            DltStanding::NoDlt => {}
            DltStanding::Pending => self.pending += 1,
            DltStanding::NotEvaluable => self.not_evaluable += 1,
        }
        self.subjects.push(watched);
    }
}

/// `None` for a subject without a dose.
fn watch(study: &Study, subject: usize, course: &Course) -> Option<Watched> {
    let entered = &course.entered;
    let window = window(study, entered)?;
    let onset = |event: &Event| event.onset.as_deref().and_then(|onset| PartialDate::parse(onset).ok());
    let inside: Vec<&Event> = course.events.iter().filter(|event| event.left_out.is_none() && window.may_hold(onset(event).as_ref())).collect();
    let dlts: Vec<&Event> = inside.iter().copied().filter(|event| event.is_dose_limiting == Some(true)).collect();
    let has_left_in_window = match (&entered.ended, course.state) {
        (Some(ended), _) => ended.read().day().number() <= window.last,
        (None, SubjectState::Lost | SubjectState::Withdrawn | SubjectState::Deceased) => true,
        (
            None,
            SubjectState::None
            | SubjectState::Candidate
            | SubjectState::Consented
            | SubjectState::Eligible
            | SubjectState::Enrolled
            | SubjectState::OnFollowUp
            | SubjectState::Completed
            | SubjectState::ScreenFailed,
        ) => false,
    };
    let window_end_ms = (window.last + 1) * crate::clinical::date::MS_PER_DAY - 1;
    let standing = if !dlts.is_empty() {
        DltStanding::Dlt
    } else if has_left_in_window {
        DltStanding::NotEvaluable
    } else if course.as_of_ms >= window_end_ms {
        DltStanding::NoDlt
    } else {
        DltStanding::Pending
    };
    let mut by: Vec<Cited> = entered.doses.iter().flat_map(|dose| dose.by.iter().cloned()).collect();
    by.extend(dlts.iter().flat_map(|event| event.by.iter().cloned()));
    by.extend(entered.ended.iter().filter(|_| has_left_in_window).map(|ended| ended.by.clone()));
    Some(Watched {
        subject,
        first_dose: entered.doses[0].given.clone(),
        window_ends: Day::from_number(window.last).to_string(),
        standing,
        dlts: dlts.iter().map(|event| event.id.clone()).collect(),
        unassessed: inside.iter().filter(|event| event.is_dose_limiting.is_none()).map(|event| event.id.clone()).collect(),
        by,
    })
}

/// Those who can be counted, in the order they were treated, in threes of one dose.
fn cohorts(watched: &[(Option<usize>, Watched)]) -> Vec<Cohort> {
    let mut cohorts: Vec<Cohort> = Vec::new();
    for (arm, watched) in watched.iter().filter(|(_, watched)| watched.standing.is_evaluable()) {
        let Some(dose) = arm.map(|arm| arm + 1) else { continue };
        let dlts = usize::from(watched.standing == DltStanding::Dlt);
        match cohorts.last_mut().filter(|last| last.dose == dose && last.subjects < 3) {
            Some(last) => {
                last.subjects += 1;
                last.dlts += dlts;
            }
            None => cohorts.push(Cohort { dose, subjects: 1, dlts }),
        }
    }
    cohorts
}

fn say(study: &Study, arms: &[ArmStanding], without_arm: usize, advice: Option<Advice>, invalid: Option<InvalidOrder>) -> String {
    let name = |dose: usize| study.arms[dose - 1].name.as_str();
    let counts: Vec<String> = arms
        .iter()
        .zip(&study.arms)
        .map(|(standing, arm)| {
            let mut count = format!("{}: {} treated, {} evaluable, {} with DLT", arm.name, standing.treated, standing.evaluable, standing.dlts);
            if standing.pending > 0 {
                count.push_str(&format!(", {} still watched", standing.pending));
            }
            if standing.not_evaluable > 0 {
                count.push_str(&format!(", {} not evaluable", standing.not_evaluable));
            }
            count
        })
        .collect();
    let scheme = study.dosing.as_ref().map_or("", |dosing| dosing.scheme.name());
    let rule = match (advice, invalid) {
        (Some(advice), _) => {
            let Advice { step, at, subjects, dlts, dose, continues: _ } = advice;
            let counted = format!("{dlts} of {subjects} at {}", name(at));
            match step {
                Step::Begin => format!("begin with {}", name(at)),
                Step::CompleteCohort if dlts >= 2 => format!("{counted}: complete the cohort, which cannot pass any more"),
                Step::CompleteCohort => format!("{counted}: complete the cohort"),
                Step::Expand => format!("{counted}: treat three more at {}", name(at)),
                Step::Escalate => format!("{counted}: go on to {}", name(at + 1)),
                Step::StopAtTop => format!("{counted}, the highest: stop; recommended is {}", name(at)),
                Step::StopBelow => format!("{counted}: stop; recommended is {}", dose.map_or("no dose", name)),
            }
        }
        (None, Some(InvalidOrder::WrongDose { given, expected, .. })) => {
            let asked = expected.map_or("no more subjects".to_string(), |dose| format!("{} next", name(dose)));
            format!("the order of treatment does not follow it: {} was given where it asks for {asked}", name(given))
        }
        (None, Some(InvalidOrder::TooMany { .. } | InvalidOrder::NoCohort { .. }) | None) => "the cohorts do not follow it".to_string(),
    };
    let mut says = format!("{}. By {scheme}, {rule}.", counts.join("; "));
    let unassessed: usize = arms.iter().flat_map(|arm| &arm.subjects).map(|watched| watched.unassessed.len()).sum();
    if unassessed > 0 {
        let events = if unassessed == 1 { "event" } else { "events" };
        says.push_str(&format!(" Of {unassessed} {events} in the window nobody has said whether they are dose-limiting."));
    }
    if without_arm > 0 {
        says.push_str(&format!(" Of {without_arm} treated the arm is not known."));
    }
    says.push_str(" The decision is the safety board's.");
    says
}
