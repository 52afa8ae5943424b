//! What should stand in the EHR about one subject, what stands there by our own record, and the requests between the
//! two. The tables are in `stance`; each kind of resource has a file that says how it is written and taken back.

mod adverse_event;
mod annotation;
mod case;
mod egfr;
mod flag;
mod group;
mod list;
mod note;
mod provenance;
mod request;
mod research;
mod stance;

use super::{Known, Purpose, Receiver, Standing, WriteBack, WriteFrom, Written};
use crate::rules::Assessment;
use crate::study::Study;
use case::Case;
use request::Wanted;

pub(super) use group::{is_group_still_wanted, plan_group};
pub(super) use stance::{Stance, membership, status_of_state, status_when_taken_back};

/// Requests that bring the EHR from what was written to what should stand.
pub(super) fn requests(receiver: &Receiver, study: &Study, known: Known<'_>, written: &[Written]) -> Vec<WriteBack> {
    let case = Case::new(receiver, study, known, written);
    let mut requests: Vec<WriteBack> = wanted(&case).into_iter().filter_map(|wanted| request::due(receiver, wanted, written)).collect();
    // The study goes only where something refers to it, and before that.
    let refers = |request: &WriteBack| request.purpose == Purpose::Annotate && case.refers_to_study(request);
    if receiver.ladder.writes("ResearchStudy") && requests.iter().any(refers) {
        let study = request::due(receiver, research::study(receiver, study), written);
        requests.splice(0..0, study);
    }
    requests
}

/// Whether the request still says what should be said; looked at just before it is sent (rulings.md 28).
pub(super) fn is_still_wanted(receiver: &Receiver, study: &Study, known: Known<'_>, written: &[Written], request: &WriteBack) -> bool {
    wanted(&Case::new(receiver, study, known, written)).iter().any(|wanted| wanted.is_met_by(request))
}

pub(super) fn is_of_current_study(receiver: &Receiver, study: &Study, request: &WriteBack) -> bool {
    receiver.ladder.writes("ResearchStudy") && research::study(receiver, study).is_met_by(request)
}

/// What may happen to what stands, or may come to stand, from this state on.
pub(super) fn stance(from: WriteFrom, assessment: &Assessment) -> Stance {
    stance::stance(from, Standing::of(assessment))
}

fn wanted(case: &Case<'_>) -> Vec<Wanted> {
    let mut all: Vec<Wanted> =
        [research::subject(case), flag::flag(case), list::list(case), note::document(case), note::message(case)].into_iter().flatten().collect();
    all.extend(egfr::observations(case));
    all.extend(adverse_event::events(case));
    all.extend(annotation::annotations(case));
    all.extend(provenance::provenances(case));
    all
}
