//! Who entered the trial, into which arm, and what was given: by a person's decision, else by the hospital's
//! ResearchSubject and administrations (rulings.md 18 to 20).

use serde::Serialize;

use super::SubjectState;
use super::course::{Cited, Dated};
use crate::clinical::chart::Chart;
use crate::clinical::date::AsOf;
use crate::study::Study;

/// How a subject entered.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Entered {
    pub enrolled: Dated,
    /// `None` while nobody says which.
    pub arm: Option<ArmGiven>,
    /// Oldest first.
    pub doses: Vec<Dose>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ArmGiven {
    /// Id of the arm in study.json.
    pub arm: String,
    pub by: Vec<Cited>,
    /// Two sources name different arms; the one that counts by rank stands in `arm`.
    pub is_conflicting: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Dose {
    pub given: Dated,
    pub cells: Option<f64>,
    /// Number and unit as the source wrote them; empty when it gave none.
    pub as_received: String,
    /// Whether the cells are those of the subject's arm; `None` where either is not known.
    pub fits_arm: Option<bool>,
}

/// State and entry of a subject; `None` for one who never entered the study by that time.
pub(super) fn entered(_study: &Study, _chart: &Chart, _as_of: AsOf) -> Option<(SubjectState, Entered)> {
    None
}
