//! What may happen to what we wrote about a subject, and what each type of resource says then. Every table of this half
//! of the loop is on this page: states, statuses, what is taken back and how (rulings.md 19, 20, 28, 29).
//!
//! "Was true" and "never was" differ by type. An AdverseEvent has only the second: what happened stays true. A mark on a
//! resource of the hospital's is simply taken out again, and a Provenance tells what became of its target.

use super::super::{Membership, Purpose, Receiver, Standing, WriteFrom, may_write};
use crate::rules::{Hidden, SubjectState, Verdict};

/// What may happen to what we wrote about a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stance {
    /// New resources may be written.
    Write,
    /// What stands follows the subject's state; nothing new is written.
    Follow,
    /// What stands is taken back.
    TakeBack(Why),
}

/// Why something is taken back: decides between "was true" and "never was" (rulings.md 29).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The verdict turned, or screening failed.
    Ineligible,
    /// The person said no, or may no longer be written about.
    Withdrawn,
    Died,
    /// The record was merged into another; the survivor gets its own.
    Merged,
    /// It is told on another rung now, or nowhere: the receiver or the site does not take this one.
    Moved,
    /// A test patient, or a record that does not exist: it never was true.
    NeverTrue,
}

/// What one resource on the ladder is to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// The subject's state.
    State,
    /// That it no longer holds, or never did.
    Gone(Why),
}

/// What may happen to what stands, or may come to stand, from this state on.
pub fn stance(from: WriteFrom, of: Standing) -> Stance {
    match of.hidden {
        Some(Hidden::TestPatient | Hidden::NoPatient) => return Stance::TakeBack(Why::NeverTrue),
        Some(Hidden::Merged) => return Stance::TakeBack(Why::Merged),
        // After enrolment nothing hides that cells were given (rulings.md 20).
        Some(Hidden::OptedOut | Hidden::Restricted | Hidden::Deceased) if of.was_enrolled => return Stance::Follow,
        Some(Hidden::OptedOut | Hidden::Restricted) => return Stance::TakeBack(Why::Withdrawn),
        Some(Hidden::Deceased) => return Stance::TakeBack(Why::Died),
        None => {}
    }
    match of.state {
        SubjectState::None if of.was_enrolled => Stance::Follow,
        SubjectState::None | SubjectState::ScreenFailed => Stance::TakeBack(Why::Ineligible),
        // Until enrolment the flag stands only while the prescreen is met, consented or not (rulings.md 20).
        SubjectState::Candidate | SubjectState::Consented | SubjectState::Eligible if of.prescreen != Verdict::Met => {
            Stance::TakeBack(Why::Ineligible)
        }
        SubjectState::Candidate | SubjectState::Consented | SubjectState::Eligible | SubjectState::Enrolled | SubjectState::OnFollowUp => {
            if may_write(from, of.state) {
                Stance::Write
            } else {
                // Below the state from which this receiver is written to: consent was taken back, for one.
                Stance::TakeBack(Why::Withdrawn)
            }
        }
        SubjectState::Completed | SubjectState::Lost => Stance::Follow,
        SubjectState::Withdrawn | SubjectState::Deceased if of.was_enrolled => Stance::Follow,
        SubjectState::Withdrawn => Stance::TakeBack(Why::Withdrawn),
        SubjectState::Deceased => Stance::TakeBack(Why::Died),
    }
}

/// What a resource of the ladder says, and whether that is news or closes something.
pub fn told(stance: Stance, is_on_ladder: bool) -> (Purpose, Told) {
    match stance {
        Stance::Write if is_on_ladder => (Purpose::Annotate, Told::State),
        Stance::Write => (Purpose::Retract, Told::Gone(Why::Moved)),
        Stance::Follow => (Purpose::Retract, Told::State),
        Stance::TakeBack(why) => (Purpose::Retract, Told::Gone(why)),
    }
}

/// R4 ResearchSubject.status of a state (rulings.md 19); `None` where there is no ResearchSubject.
pub fn status_of_state(state: SubjectState, was_enrolled: bool) -> Option<&'static str> {
    match state {
        SubjectState::None => None,
        SubjectState::Candidate => Some("candidate"),
        SubjectState::Consented => Some("screening"),
        SubjectState::Eligible => Some("eligible"),
        SubjectState::Enrolled => Some("on-study"),
        SubjectState::OnFollowUp => Some("follow-up"),
        SubjectState::Completed | SubjectState::Lost | SubjectState::Deceased => Some("off-study"),
        SubjectState::Withdrawn if was_enrolled => Some("off-study"),
        SubjectState::Withdrawn => Some("withdrawn"),
        SubjectState::ScreenFailed => Some("ineligible"),
    }
}

/// R4 ResearchSubject.status of what is gone; `None`: delete it where the receiver allows that, else `not-registered`.
pub fn status_when_taken_back(why: Why) -> Option<&'static str> {
    match why {
        Why::Ineligible => Some("ineligible"),
        Why::Withdrawn => Some("withdrawn"),
        Why::Died => Some("off-study"),
        Why::Merged | Why::Moved => Some("not-registered"),
        Why::NeverTrue => None,
    }
}

/// Flag.status: on while the subject's part lasts.
pub fn flag_status(told: Told, state: SubjectState) -> &'static str {
    match (told, state) {
        (
            Told::State,
            SubjectState::Candidate | SubjectState::Consented | SubjectState::Eligible | SubjectState::Enrolled | SubjectState::OnFollowUp,
        ) => "active",
        (
            Told::State,
            SubjectState::None
            | SubjectState::Completed
            | SubjectState::Lost
            | SubjectState::ScreenFailed
            | SubjectState::Withdrawn
            | SubjectState::Deceased,
        ) => "inactive",
        (Told::Gone(why), _) => was_or_never(why, "inactive"),
    }
}

/// List.status. Whoever took part stays on a current one, so that nothing hides it.
pub fn list_status(told: Told) -> &'static str {
    match told {
        Told::State => "current",
        Told::Gone(why) => was_or_never(why, "retired"),
    }
}

/// DocumentReference.status.
pub fn document_status(told: Told) -> &'static str {
    match told {
        Told::State => "current",
        Told::Gone(why) => was_or_never(why, "superseded"),
    }
}

/// Communication.status: a message that was given is completed; one that no longer holds is stopped.
pub fn message_status(told: Told) -> &'static str {
    match told {
        Told::State => "completed",
        Told::Gone(why) => was_or_never(why, "stopped"),
    }
}

/// Provenance.activity (v3-DataOperation): it never goes, since it tells what happened to its target.
pub fn activity(told: Told) -> &'static str {
    match told {
        Told::State => "CREATE",
        Told::Gone(Why::Ineligible | Why::Withdrawn | Why::Died | Why::Merged | Why::Moved) => "UPDATE",
        Told::Gone(Why::NeverTrue) => "NULLIFY",
    }
}

fn was_or_never(why: Why, was: &'static str) -> &'static str {
    match why {
        Why::Ineligible | Why::Withdrawn | Why::Died | Why::Merged | Why::Moved => was,
        Why::NeverTrue => "entered-in-error",
    }
}

/// Group.member: taken back is no member; whoever took part and no longer does is an inactive one.
pub fn membership(receiver: &Receiver, of: Standing) -> Membership {
    match stance(receiver.write_from, of) {
        Stance::Write => Membership::Member,
        Stance::Follow => Membership::TookPart,
        Stance::TakeBack(_) => Membership::None,
    }
}

/// The line people read. It names the study by its title, as the people who read the chart know it; our identifiers do
/// not (rulings.md 26).
pub fn says(told: Told, state: SubjectState, was_enrolled: bool, title: &str) -> String {
    let says = match (told, state) {
        (Told::Gone(Why::Moved), _) => return format!("Research study: no longer noted here: {title}"),
        (Told::Gone(Why::Ineligible | Why::Withdrawn | Why::Died | Why::Merged | Why::NeverTrue), _) => "no part at present in",
        (Told::State, SubjectState::Candidate) => "may qualify for",
        (Told::State, SubjectState::Consented) => "in screening for",
        (Told::State, SubjectState::Eligible) => "eligible for",
        (Told::State, SubjectState::Enrolled) => "enrolled in",
        (Told::State, SubjectState::OnFollowUp) => "in follow-up of",
        (Told::State, SubjectState::Completed | SubjectState::Lost) => "took part in",
        (Told::State, SubjectState::None | SubjectState::ScreenFailed | SubjectState::Withdrawn | SubjectState::Deceased) => {
            if was_enrolled {
                "took part in"
            } else {
                "no part at present in"
            }
        }
    };
    format!("Research study: {says} {title}")
}
