//! What one site's EHR may be told of a subject when it asks or listens: the same that would be written there.
//! Nobody may learn by a subscription what the site does not let us write.

use super::{WriteFrom, plan};
use crate::rules::Assessment;

/// What may be said of a subject's part in a study.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Telling {
    /// Nothing; what was told before stays as it is.
    Nothing,
    /// The R4 research-subject-status, also to whoever knew nothing.
    Stands(&'static str),
    /// The status, only to whoever was told before, and it stands there.
    Follows(&'static str),
    /// The status that ends it, only to whoever was told before, and it stands there.
    Closes(&'static str),
    /// It never was true: what was told is gone.
    Gone,
}

/// What may be told from these states on. `is_held` says that a named person's release is still awaited (rulings.md 24):
/// then nothing new is told, and what was told is closed all the same.
pub fn telling(from: WriteFrom, is_held: bool, assessment: &Assessment) -> Telling {
    let status = plan::status_of_state(assessment.state, assessment.was_enrolled);
    match plan::stance(from, assessment) {
        plan::Stance::Write if is_held => status.map_or(Telling::Nothing, Telling::Follows),
        plan::Stance::Write => status.map_or(Telling::Nothing, Telling::Stands),
        plan::Stance::Follow => status.map_or(Telling::Nothing, Telling::Follows),
        plan::Stance::TakeBack(why) => plan::status_when_taken_back(why).map_or(Telling::Gone, Telling::Closes),
    }
}
