//! The conduct of a trial by its API: what happened to those who entered and is to be done about it, and which visits
//! are due. Courses are judged on demand; who must not be named is counted, and each who is shown is recorded as looked at.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use actix_web::HttpResponse;
use actix_web::http::Method;
use actix_web::web::{self, Data, Path};
use serde::Serialize;

use super::Route;
use super::access::{self, Person, Who, now_ms};
use super::asked::{self, Asked};
use super::error::Refusal;
use super::openapi::{Answer, Parameter, Says};
use crate::clinical::date::AsOf;
use crate::pipeline::Pipeline;
use crate::pipeline::trial::{self, Depth};
use crate::report::Enrolled;
use crate::rules::candidates::{Candidate, CandidateStatus};
use crate::rules::course::{Cited, Course};
use crate::rules::safety::{ClockStanding, ClockState, Event};
use crate::rules::schedule::{Expected, Schedule, VisitState};
use crate::rules::{Hidden, SubjectState};
use crate::study::Study;

const PARAMETERS: &[Parameter] = &[Parameter::query("site", r#"{"type":"string"}"#, "site id; all that the token is good for, where it is left out")];

pub fn routes() -> Vec<Route> {
    let answers = |schema, description| {
        let answer = Answer::json(200, asked::JSON, schema, description);
        [answer, asked::BAD_REQUEST, asked::NOT_FOUND, asked::BUSY]
    };
    vec![
        Route::described(
            Method::GET,
            "/api/studies/{study}/safety",
            Who::Screener,
            Says::new(
                "Adverse events of all who entered: what is missing, which reporting clocks run, what the data suggest",
                &answers("Safety", "events, and what is to be done about them, most urgent first"),
            )
            .asks(PARAMETERS),
            || web::get().to(safety),
        ),
        Route::described(
            Method::GET,
            "/api/studies/{study}/visits",
            Who::Screener,
            Says::new(
                "Visits of all who entered: due, overdue, missed, out of window, and the next expected result",
                &answers("Visits", "one entry a subject, overdue first"),
            )
            .asks(PARAMETERS),
            || web::get().to(visits),
        ),
    ]
}

/// Those who entered a study, as one person may see them.
pub struct Entered {
    pub as_of_ms: i64,
    /// In order of site and subject.
    pub named: Vec<Enrolled>,
    /// Who must not be named, by reason.
    pub hidden: BTreeMap<String, i64>,
    /// Reporting clocks of those, which run whoever may see them.
    pub hidden_open_clocks: usize,
}

/// Judges everyone who entered, as of now.
pub(super) async fn entered(pipeline: &Pipeline, study: &Study, site: Option<String>) -> Result<Entered, Refusal> {
    let (pipeline, id, as_of_ms) = (pipeline.clone(), study.id.clone(), now_ms());
    let courses = web::block(move || {
        let study = &pipeline.catalogue.studies[&id];
        trial::courses(&pipeline, study, site.as_deref(), AsOf::instant(as_of_ms), as_of_ms, Depth::Course)
    })
    .await
    .map_err(|_| Refusal::busy("the gateway is stopping", 10))??;
    let mut entered = Entered { as_of_ms, named: Vec::new(), hidden: BTreeMap::new(), hidden_open_clocks: 0 };
    for enrolled in courses {
        match enrolled.hidden {
            None => entered.named.push(enrolled),
            Some(hidden) => {
                *entered.hidden.entry(hidden.word().to_owned()).or_default() += 1;
                let is_counted = !matches!(hidden, Hidden::TestPatient | Hidden::Merged);
                entered.hidden_open_clocks += if is_counted { open_clocks(&enrolled.course).count() } else { 0 };
            }
        }
    }
    Ok(entered)
}

impl Entered {
    /// For the record of who looked at whom.
    pub fn seen(&self) -> Vec<(String, String)> {
        self.named.iter().map(|enrolled| (enrolled.site.clone(), enrolled.subject.clone())).collect()
    }

    /// Events of which somebody has to say more: those with a clock first, by its due time, then the oldest.
    pub fn to_complete(&self) -> Vec<(&Enrolled, &Event)> {
        let mut open: Vec<_> = self.events().filter(|(_, event)| !event.missing.is_empty()).collect();
        let due_ms = |event: &Event| event.clocks.iter().filter(|clock| is_open(clock)).map(|clock| clock.due_ms).min();
        open.sort_by_key(|(_, event)| (due_ms(event).unwrap_or(i64::MAX), event.aware_ms.unwrap_or(i64::MIN)));
        open
    }

    /// Clocks that nobody stopped, by due time, so that those overdue come first.
    pub fn clocks(&self) -> Vec<(&Enrolled, &Event, &ClockStanding)> {
        let mut clocks: Vec<_> = self
            .events()
            .flat_map(|(enrolled, event)| event.clocks.iter().map(move |clock| (enrolled, event, clock)))
            .filter(|of| is_open(of.2))
            .collect();
        clocks.sort_by_key(|(_, _, clock)| clock.due_ms);
        clocks
    }

    /// What the data suggest and nobody answered, the newest first.
    pub fn candidates(&self) -> Vec<(&Enrolled, &Candidate)> {
        let all = self.named.iter().flat_map(|enrolled| enrolled.course.candidates.iter().map(move |candidate| (enrolled, candidate)));
        let mut open: Vec<_> = all.filter(|(_, candidate)| candidate.status == CandidateStatus::Open).collect();
        open.sort_by_key(|(_, candidate)| Reverse(candidate.at.at_ms));
        open
    }

    pub fn events(&self) -> impl Iterator<Item = (&Enrolled, &Event)> {
        self.named.iter().flat_map(|enrolled| enrolled.course.events.iter().map(move |event| (enrolled, event)))
    }

    /// Everyone with their visits: who is overdue first, then by what is expected next; who awaits nothing last.
    pub fn by_visits(&self) -> Vec<&Enrolled> {
        let mut subjects: Vec<&Enrolled> = self.named.iter().collect();
        subjects.sort_by_key(|enrolled| {
            let schedule = &enrolled.course.schedule;
            let next = schedule.next.as_ref().map(|next| next.due.as_str());
            let is_urgent = has_overdue(schedule) || schedule.is_silent;
            (!is_urgent, next.is_none(), next.unwrap_or_default(), enrolled.site.as_str(), enrolled.subject.as_str())
        });
        subjects
    }
}

fn is_open(clock: &ClockStanding) -> bool {
    matches!(clock.state, ClockState::Running | ClockState::Overdue)
}

pub(super) fn open_clocks(course: &Course) -> impl Iterator<Item = &ClockStanding> {
    course.events.iter().flat_map(|event| &event.clocks).filter(|clock| is_open(clock))
}

/// A visit whose window is open and whose due day has passed.
fn has_overdue(schedule: &Schedule) -> bool {
    schedule.next.as_ref().is_some_and(|next| next.is_overdue)
}

/// The site that a request is kept to.
pub(super) fn scope(asked: &Asked, person: &Person, pipeline: &Pipeline) -> Result<Option<String>, Refusal> {
    let site = person.site_scope(asked.get("site"))?;
    site.iter().try_for_each(|site| asked::known_site(&pipeline.catalogue, site))?;
    Ok(site)
}

#[derive(Serialize)]
struct Safety<'a> {
    study: &'a str,
    study_hash: &'a str,
    as_of_ms: i64,
    /// Who entered and is named.
    subjects: usize,
    hidden: &'a BTreeMap<String, i64>,
    hidden_open_clocks: usize,
    completion: Vec<ToComplete<'a>>,
    clocks: Vec<ClockShown<'a>>,
    candidates: Vec<CandidateShown<'a>>,
    events: Vec<EventShown<'a>>,
}

#[derive(Serialize)]
struct ToComplete<'a> {
    site: &'a str,
    subject: &'a str,
    event: &'a str,
    term: &'a str,
    missing: &'a [&'static str],
    evidence_hash: String,
}

#[derive(Serialize)]
struct ClockShown<'a> {
    site: &'a str,
    subject: &'a str,
    event: &'a str,
    term: &'a str,
    evidence_hash: String,
    standing: &'a ClockStanding,
}

#[derive(Serialize)]
struct CandidateShown<'a> {
    site: &'a str,
    subject: &'a str,
    evidence_hash: String,
    candidate: &'a Candidate,
}

#[derive(Serialize)]
struct EventShown<'a> {
    site: &'a str,
    subject: &'a str,
    /// To be named by what is decided about the event.
    evidence_hash: String,
    event: &'a Event,
}

async fn safety(path: Path<String>, asked: Asked, person: Person, pipeline: Data<Pipeline>) -> Result<HttpResponse, Refusal> {
    asked.only(&["site"], &[])?;
    let study = asked::known_study(&pipeline.catalogue, &path)?;
    let entered = entered(&pipeline, study, scope(&asked, &person, &pipeline)?).await?;
    access::record(&pipeline.store, &person, "safety", &study.id, entered.seen()).await?;
    Ok(asked::json(&Safety {
        study: &study.id,
        study_hash: &study.hash,
        as_of_ms: entered.as_of_ms,
        subjects: entered.named.len(),
        hidden: &entered.hidden,
        hidden_open_clocks: entered.hidden_open_clocks,
        completion: entered
            .to_complete()
            .into_iter()
            .map(|(of, event)| ToComplete {
                site: &of.site,
                subject: &of.subject,
                event: &event.id,
                term: &event.term,
                missing: &event.missing,
                evidence_hash: event.evidence_hash(),
            })
            .collect(),
        clocks: entered
            .clocks()
            .into_iter()
            .map(|(of, event, standing)| ClockShown {
                site: &of.site,
                subject: &of.subject,
                event: &event.id,
                term: &event.term,
                evidence_hash: event.evidence_hash(),
                standing,
            })
            .collect(),
        candidates: entered
            .candidates()
            .into_iter()
            .map(|(of, candidate)| CandidateShown { site: &of.site, subject: &of.subject, evidence_hash: candidate.evidence_hash(), candidate })
            .collect(),
        events: entered
            .events()
            .map(|(of, event)| EventShown { site: &of.site, subject: &of.subject, evidence_hash: event.evidence_hash(), event })
            .collect(),
    }))
}

#[derive(Serialize)]
struct Visits<'a> {
    study: &'a str,
    study_hash: &'a str,
    as_of_ms: i64,
    hidden: &'a BTreeMap<String, i64>,
    counts: Counts,
    subjects: Vec<SubjectVisits<'a>>,
}

/// Subjects with at least one such visit; a subject may stand under several.
#[derive(Default, Serialize)]
struct Counts {
    due: usize,
    overdue: usize,
    missed: usize,
    out_of_window: usize,
    lost: usize,
}

#[derive(Serialize)]
struct SubjectVisits<'a> {
    site: &'a str,
    subject: &'a str,
    state: SubjectState,
    /// Id of the arm; `null` while nobody says which.
    arm: Option<&'a str>,
    due: Vec<&'a str>,
    /// Of those that are due.
    overdue: Vec<&'a str>,
    missed: Vec<&'a str>,
    out_of_window: Vec<&'a str>,
    next: Option<&'a Expected>,
    lost: Option<&'a Cited>,
    schedule: &'a Schedule,
}

impl<'a> SubjectVisits<'a> {
    fn of(enrolled: &'a Enrolled, today: &str) -> SubjectVisits<'a> {
        let course = &enrolled.course;
        let schedule = &course.schedule;
        let of_state = |state: VisitState, only_overdue: bool| {
            let visits = schedule.visits.iter().filter(move |visit| visit.state == state && (!only_overdue || visit.due.as_str() < today));
            visits.map(|visit| visit.visit.as_str()).collect::<Vec<_>>()
        };
        SubjectVisits {
            site: &enrolled.site,
            subject: &enrolled.subject,
            state: course.state,
            arm: course.entered.arm.as_ref().map(|given| given.arm.as_str()),
            due: of_state(VisitState::Due, false),
            overdue: of_state(VisitState::Due, true),
            missed: of_state(VisitState::Missed, false),
            out_of_window: of_state(VisitState::OutOfWindow, false),
            next: schedule.next.as_ref(),
            lost: schedule.lost.as_ref(),
            schedule,
        }
    }
}

/// The day of an instant, as visits write theirs.
pub(super) fn day_of(ms: i64) -> String {
    AsOf::instant(ms).day().to_string()
}

async fn visits(path: Path<String>, asked: Asked, person: Person, pipeline: Data<Pipeline>) -> Result<HttpResponse, Refusal> {
    asked.only(&["site"], &[])?;
    let study = asked::known_study(&pipeline.catalogue, &path)?;
    let entered = entered(&pipeline, study, scope(&asked, &person, &pipeline)?).await?;
    access::record(&pipeline.store, &person, "visits", &study.id, entered.seen()).await?;
    let today = day_of(entered.as_of_ms);
    let subjects: Vec<SubjectVisits<'_>> = entered.by_visits().into_iter().map(|enrolled| SubjectVisits::of(enrolled, &today)).collect();
    let count = |of: fn(&SubjectVisits<'_>) -> bool| subjects.iter().filter(|subject| of(subject)).count();
    Ok(asked::json(&Visits {
        study: &study.id,
        study_hash: &study.hash,
        as_of_ms: entered.as_of_ms,
        hidden: &entered.hidden,
        counts: Counts {
            due: count(|subject| !subject.due.is_empty()),
            overdue: count(|subject| !subject.overdue.is_empty()),
            missed: count(|subject| !subject.missed.is_empty()),
            out_of_window: count(|subject| !subject.out_of_window.is_empty()),
            lost: count(|subject| subject.lost.is_some()),
        },
        subjects,
    }))
}
