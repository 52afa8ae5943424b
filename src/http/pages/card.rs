//! The why-card: one subject, one study, every criterion with its evidence, and what a person may decide.

use askama::Template;

use compact_str::CompactString;

use super::Shell;
use super::course::{self, TrialView};
use super::text::{self, Badge, Clock};
use crate::clinical::date::PartialDate;
use crate::clinical::fact::{Decided, DecidedState, Decision, EventAxes};
use crate::http::conduct;
use crate::http::plot::{self, Kind, Mark, Plot, Point, Size};
use crate::report::Enrolled;
use crate::rules::course::Course;
use crate::rules::{Assessment, CriterionVerdict, Evidence, Role, SubjectState, Verdict, state};
use crate::store::outbox::{Item, ItemState};
use crate::store::screening;
use crate::study::{Rule, Stage, Study};
use crate::writeback::Purpose;

/// Characters of a hash that people compare by eye.
const SHORT_HASH: usize = 10;

#[derive(Template)]
#[template(path = "card.html")]
pub struct Card {
    shell: Shell,
    list: String,
    action: String,
    json: String,
    saved: Option<String>,
    refused: Option<String>,
    hidden: Option<&'static str>,
    is_waiting: bool,
    site: String,
    site_name: String,
    subject: String,
    study: String,
    study_title: String,
    badge: Badge,
    sentence: String,
    eligibility: Badge,
    eligibility_note: &'static str,
    egfr: Option<String>,
    egfr_date: Option<String>,
    steps: Vec<Step>,
    alerts: Vec<(&'static str, &'static str)>,
    near_miss: Option<String>,
    plot_wide: String,
    plot_narrow: String,
    has_unusable: bool,
    series: Vec<SeriesRow>,
    stages: Vec<StageView>,
    /// What became of one who entered the trial.
    trial: Option<TrialView>,
    back: &'static str,
    today: String,
    zone: String,
    may_decide: bool,
    asks_name: bool,
    who: String,
    evidence: String,
    decisions: Vec<Offer>,
    /// Why what comes next cannot be recorded yet.
    not_yet: Option<&'static str>,
    said: Vec<Said>,
    writes: Vec<Write>,
    ehr_note: String,
    history: Vec<HistoryEntry>,
    judged: String,
    judged_machine: String,
    study_hash: String,
    mapping_hash: String,
    equation: Option<String>,
}

struct Step {
    name: String,
    class: &'static str,
    is_here: bool,
}

struct SeriesRow {
    date: String,
    creatinine: String,
    egfr: String,
    resource: String,
    is_used: bool,
}

struct StageView {
    id: &'static str,
    title: &'static str,
    note: &'static str,
    criteria: Vec<CriterionView>,
}

struct CriterionView {
    id: String,
    text: String,
    badge: Badge,
    protocol: Option<Badge>,
    explanation: String,
    reason: Option<&'static str>,
    missing: String,
    kind: &'static str,
    /// What the two answers of an attestation mean here.
    yes: &'static str,
    no: &'static str,
    origin: (&'static str, &'static str),
    distance: Option<String>,
    attestation: Option<AttestationView>,
    evidence: Vec<EvidenceRow>,
    evidence_count: String,
    is_open: bool,
    /// A newer or contradicting result stands beside the one that was used.
    is_beside: bool,
    can_attest: bool,
    evidence_hash: String,
    short_hash: String,
}

struct AttestationView {
    by: String,
    answer: &'static str,
    at: String,
    machine: String,
    reason: String,
}

struct EvidenceRow {
    role: &'static str,
    class: &'static str,
    what: String,
    code: String,
    received: String,
    used: String,
    egfr: String,
    equation: Option<String>,
    date: String,
    time: String,
    status: String,
    unusable: Option<String>,
    note: Option<String>,
    threshold: String,
    resource: String,
    version: Option<String>,
}

/// A decision that may be made now.
struct Offer {
    test: String,
    kind: &'static str,
    field: &'static str,
    value: &'static str,
    label: &'static str,
    note: &'static str,
    button: &'static str,
}

struct Said {
    what: String,
    by: String,
    at: String,
    machine: String,
    reason: String,
}

struct Write {
    what: String,
    rung: String,
    state: &'static str,
    meaning: &'static str,
    proof: Option<String>,
    proof_title: String,
    error: Option<String>,
}

struct HistoryEntry {
    badge: Badge,
    state: String,
    egfr: Option<String>,
    why: String,
    at: String,
    machine: String,
    study_hash: String,
    mapping_hash: String,
}

/// Everything the card is made of.
pub struct Source<'a> {
    pub card: screening::Card,
    pub study: &'a Study,
    pub site_name: String,
    /// Decisions of this study with their ids, oldest first.
    pub decisions: Vec<(CompactString, Decision)>,
    /// The course of a subject who entered.
    pub enrolled: Option<Enrolled>,
    /// Newest first.
    pub items: Vec<Item>,
    pub may_decide: bool,
    /// Nobody signs in here, so the form asks who decides.
    pub asks_name: bool,
    pub saved: Option<String>,
    pub refused: Option<String>,
    /// Hash of all evidence on the card, named by every decision that is no attestation.
    pub evidence: String,
    pub ehr_note: String,
    pub clock: &'a Clock,
}

pub fn view(shell: Shell, source: Source<'_>) -> Card {
    let Source { card, study, site_name, decisions, enrolled, items, may_decide, asks_name, saved, refused, evidence, ehr_note, clock } = source;
    let screening::Card { row, assessment, study_hash, mapping_hash, history } = card;
    let plot = draw(&assessment, study);
    let base = super::card_href(&row.study, &row.site, &row.subject);
    // A form that asks for a name starts empty: nobody signs for somebody else by default.
    let who = String::new();
    Card {
        list: format!("/?study={}", super::percent(&row.study)),
        action: format!("{base}/decisions"),
        json: format!("/api{base}"),
        saved,
        refused,
        hidden: assessment.hidden.map(text::hidden),
        is_waiting: row.is_waiting,
        badge: text::badge(assessment.prescreen),
        sentence: sentence(&assessment, &row.why),
        eligibility: text::badge(assessment.eligibility),
        eligibility_note: match assessment.eligibility {
            Verdict::Met => "",
            Verdict::NotMet => "",
            Verdict::Unknown => "until the open criteria below are answered",
        },
        egfr: assessment.egfr.map(|egfr| text::egfr(egfr, super::limits(study))),
        egfr_date: row.egfr_date.as_deref().map(text::date),
        steps: steps(assessment.state),
        alerts: assessment.alerts.iter().map(|alert| text::alert(*alert)).collect(),
        near_miss: near_miss(&assessment),
        plot_wide: plot::egfr(&plot, Size::Wide),
        plot_narrow: plot::egfr(&plot, Size::Narrow),
        has_unusable: !plot.marks.is_empty() || plot.points.iter().any(|point| point.kind == Kind::Unusable),
        series: series(&assessment),
        stages: stages(&assessment, study, clock),
        trial: enrolled.as_ref().map(|enrolled| course::trial(study, enrolled, &conduct::day_of(clock.now_ms), clock)),
        back: "card",
        today: clock.today(),
        zone: clock.zone_name(),
        may_decide,
        asks_name,
        who,
        evidence,
        decisions: offers(&assessment, &decisions),
        not_yet: match assessment.state {
            SubjectState::None => Some("Consent can be recorded once the prescreen is met: answer what is open, or wait for the data."),
            SubjectState::Consented => {
                Some("Enrolment becomes possible when every criterion is met; what is open waits for data or for your answer.")
            }
            SubjectState::Candidate
            | SubjectState::Eligible
            | SubjectState::Enrolled
            | SubjectState::OnFollowUp
            | SubjectState::Completed
            | SubjectState::ScreenFailed
            | SubjectState::Lost
            | SubjectState::Withdrawn
            | SubjectState::Deceased => None,
        },
        said: {
            let of = Spoken { assessment: &assessment, study, course: enrolled.as_ref().map(|enrolled| &enrolled.course), decisions: &decisions };
            decisions.iter().rev().map(|(_, decision)| said(decision, &of, clock)).collect()
        },
        writes: items.iter().map(write).collect(),
        ehr_note,
        history: history
            .into_iter()
            .map(|entry| HistoryEntry {
                badge: text::badge_of_word(&entry.prescreen),
                state: text::state_name(&entry.state),
                egfr: entry.egfr.map(|egfr| text::egfr(egfr, super::limits(study))),
                why: text::sentence(&entry.why),
                at: clock.time(entry.judged_ms),
                machine: clock.machine(entry.judged_ms),
                study_hash: short(&entry.study_hash),
                mapping_hash: short(&entry.mapping_hash),
            })
            .collect(),
        judged: clock.time(row.judged_ms),
        judged_machine: clock.machine(row.judged_ms),
        study_hash: short(&study_hash),
        mapping_hash: short(&mapping_hash),
        equation: study
            .egfr
            .as_ref()
            .map(|policy| format!("{}, {} µmol/L in 1 mg/dL", policy.equation.id(), text::number(policy.creatinine_factor_umol_l_per_mg_dl, 3))),
        site: row.site,
        site_name,
        subject: row.subject,
        study: row.study,
        study_title: study.title.clone(),
        shell,
    }
}

/// The verdict in one sentence.
fn sentence(assessment: &Assessment, why: &str) -> String {
    let of_stage =
        |verdict: Verdict| assessment.criteria.iter().filter(|criterion| criterion.stage == Stage::Prescreen && criterion.verdict == verdict).count();
    let all = assessment.criteria.iter().filter(|criterion| criterion.stage == Stage::Prescreen).count();
    let criteria = |count: usize| if count == 1 { "1 prescreen criterion".to_owned() } else { format!("{count} prescreen criteria") };
    let head = match assessment.prescreen {
        Verdict::Met => return format!("Passes all {}.", criteria(all)),
        Verdict::NotMet => format!("Fails {} of {all}", criteria(of_stage(Verdict::NotMet))),
        Verdict::Unknown => format!("Cannot be told: {} of {all} open", criteria(of_stage(Verdict::Unknown))),
    };
    if why.is_empty() { format!("{head}.") } else { format!("{head}: {}.", uncapitalised(&text::sentence(why)).trim_end_matches('.')) }
}

/// Goes on in a sentence.
fn uncapitalised(text: &str) -> String {
    let is_word = text.chars().nth(1).is_some_and(char::is_lowercase);
    let mut rest = text.chars();
    if is_word { rest.next().map_or_else(String::new, |first| first.to_lowercase().chain(rest).collect()) } else { text.to_owned() }
}

fn steps(state: SubjectState) -> Vec<Step> {
    use SubjectState::{Candidate, Completed, Consented, Deceased, Eligible, Enrolled, Lost, None, OnFollowUp, ScreenFailed, Withdrawn};
    let way = [Candidate, Consented, Eligible, Enrolled, OnFollowUp, Completed];
    let place = way.iter().position(|step| *step == state);
    let mut steps: Vec<Step> = way
        .iter()
        .enumerate()
        .map(|(index, step)| Step {
            name: text::state_name(step.word()),
            class: match place {
                Some(place) if index < place => "done",
                Some(place) if index == place => "here",
                _ => "ahead",
            },
            is_here: place == Some(index),
        })
        .collect();
    match state {
        Candidate | Consented | Eligible | Enrolled | OnFollowUp | Completed => {}
        None => steps.insert(0, Step { name: text::state_name("none"), class: "here", is_here: true }),
        ScreenFailed | Lost | Withdrawn | Deceased => {
            steps.push(Step { name: text::state_name(state.word()), class: "here ended", is_here: true });
        }
    }
    steps
}

fn near_miss(assessment: &Assessment) -> Option<String> {
    let near = assessment.near_miss.as_ref()?;
    let text =
        assessment.criteria.iter().find(|criterion| criterion.id == near.criterion).map_or(near.criterion.as_str(), |found| found.text.as_str());
    let mut said = format!("Only one prescreen criterion fails: {}", text.trim_end_matches('.'));
    if let Some(distance) = near.distance {
        said.push_str(&format!(", by {}", text::number(distance.abs(), 2)));
    }
    said.push('.');
    if let Some(trend) = near.trend_per_year {
        let word = if trend < 0.0 { "falling" } else { "rising" };
        said.push_str(&format!(" eGFR is {word} by {} a year; look again at the next result.", text::number(trend.abs(), 1)));
    }
    Some(said)
}

/// Resource and version that decided the eGFR criterion.
fn used(assessment: &Assessment) -> impl Iterator<Item = &Evidence> {
    assessment.criteria.iter().flat_map(|criterion| &criterion.evidence).filter(|evidence| evidence.role == Role::Used && evidence.egfr.is_some())
}

fn is_used(assessment: &Assessment, resource: &str, version: Option<&str>) -> bool {
    used(assessment).any(|evidence| evidence.resource == resource && evidence.version.as_deref() == version)
}

fn draw(assessment: &Assessment, study: &Study) -> Plot {
    let mut plot = Plot { limits: super::limits(study), as_of_ms: assessment.as_of_ms, ..Plot::default() };
    for point in &assessment.series {
        plot.points.push(Point {
            at_ms: point.at_ms,
            egfr: point.egfr,
            kind: if is_used(assessment, &point.resource, point.version.as_deref()) { Kind::Used } else { Kind::Plain },
            label: format!(
                "{}: eGFR {} from creatinine {} mg/dL, {}",
                text::date(&point.date),
                text::number(point.egfr, 2),
                text::number(point.creatinine_mg_dl, 2),
                named(&point.resource, point.version.as_deref())
            ),
        });
    }
    let mut seen: Vec<(&str, Option<&str>)> = Vec::new();
    for evidence in assessment.criteria.iter().flat_map(|criterion| &criterion.evidence) {
        let key = (evidence.resource.as_str(), evidence.version.as_deref());
        let is_beside = match evidence.role {
            Role::NewerUnusable | Role::Contradicting => true,
            Role::Used | Role::History | Role::IfKnown => false,
        };
        if !is_beside || evidence.what != "creatinine" || seen.contains(&key) {
            continue;
        }
        let Some(at_ms) = evidence.date.as_deref().and_then(|date| PartialDate::parse(date).ok()).map(|date| date.start_ms) else { continue };
        seen.push(key);
        let label = format!(
            "{}: {} {}, {}, {}",
            text::date(evidence.date.as_deref().unwrap_or_default()),
            evidence.value_as_received,
            evidence.unit_as_received,
            evidence.unusable.as_deref().unwrap_or(text::role(evidence.role).0),
            named(&evidence.resource, evidence.version.as_deref())
        );
        match evidence.egfr {
            Some(egfr) => {
                plot.points.retain(|point| point.at_ms != at_ms || point.egfr != egfr);
                plot.points.push(Point { at_ms, egfr, kind: Kind::Unusable, label });
            }
            None => plot.marks.push(Mark { at_ms, label }),
        }
    }
    plot
}

fn series(assessment: &Assessment) -> Vec<SeriesRow> {
    assessment
        .series
        .iter()
        .rev()
        .map(|point| SeriesRow {
            date: text::date(&point.date),
            creatinine: text::number(point.creatinine_mg_dl, 3),
            egfr: format!("{:.2}", point.egfr),
            resource: named(&point.resource, point.version.as_deref()),
            is_used: is_used(assessment, &point.resource, point.version.as_deref()),
        })
        .collect()
}

fn named(resource: &str, version: Option<&str>) -> String {
    version.map_or_else(|| resource.to_owned(), |version| format!("{resource} version {version}"))
}

fn stages(assessment: &Assessment, study: &Study, clock: &Clock) -> Vec<StageView> {
    let of = |stage: Stage| -> Vec<CriterionView> {
        assessment.criteria.iter().filter(|criterion| criterion.stage == stage).map(|criterion| criterion_view(criterion, study, clock)).collect()
    };
    [
        StageView {
            id: "prescreen",
            title: "Prescreen",
            note: "What the EHR can tell. All must be met for a candidate.",
            criteria: of(Stage::Prescreen),
        },
        StageView {
            id: "screening",
            title: "Screening",
            note: "Laboratory exclusions, and what a person must answer.",
            criteria: of(Stage::Screening),
        },
    ]
    .into_iter()
    .filter(|stage| !stage.criteria.is_empty())
    .collect()
}

fn criterion_view(criterion: &CriterionVerdict, study: &Study, clock: &Clock) -> CriterionView {
    // Consent is a decision of its own, not an answer.
    let is_consent = study.criteria.iter().any(|known| known.id == criterion.id && matches!(known.rule, Rule::Consent {}));
    let is_beside = criterion.evidence.iter().any(|evidence| evidence.role == Role::NewerUnusable);
    let evidence: Vec<EvidenceRow> = criterion.evidence.iter().map(evidence_row).collect();
    CriterionView {
        id: criterion.id.clone(),
        text: criterion.text.clone(),
        badge: text::badge(criterion.verdict),
        protocol: (criterion.protocol_verdict != criterion.verdict && criterion.attestation.is_none())
            .then(|| text::badge(criterion.protocol_verdict)),
        explanation: text::sentence(&criterion.explanation),
        reason: criterion.reason.filter(|_| criterion.verdict == Verdict::Unknown).map(text::reason),
        missing: criterion.missing.iter().map(|word| text::missing_name(word)).collect::<Vec<_>>().join(", "),
        kind: text::criterion_type(criterion.criterion_type, criterion.verdict),
        yes: text::answers(criterion.criterion_type).0,
        no: text::answers(criterion.criterion_type).1,
        origin: text::origin(criterion.origin),
        distance: criterion.distance.map(|distance| {
            let by = text::number(distance.abs(), 2);
            match criterion.verdict {
                Verdict::NotMet => format!("fails by {by}"),
                Verdict::Unknown if distance < 0.0 => format!("{by} beyond the limit"),
                Verdict::Met | Verdict::Unknown => format!("{by} from the limit"),
            }
        }),
        attestation: criterion.attestation.as_ref().map(|attestation| AttestationView {
            by: attestation.by.clone(),
            answer: if attestation.passes { "passes" } else { "does not pass" },
            at: clock.time(attestation.at_ms),
            machine: clock.machine(attestation.at_ms),
            reason: attestation.reason.clone(),
        }),
        evidence_count: match evidence.len() {
            1 => "1 entry".into(),
            count => format!("{count} entries"),
        },
        is_open: (criterion.verdict != Verdict::Met && criterion.stage == Stage::Prescreen) || is_beside,
        is_beside,
        evidence,
        can_attest: criterion.verdict == Verdict::Unknown && !is_consent,
        short_hash: short(&criterion.evidence_hash),
        evidence_hash: criterion.evidence_hash.clone(),
    }
}

fn evidence_row(evidence: &Evidence) -> EvidenceRow {
    let (role, class) = text::role(evidence.role);
    EvidenceRow {
        role,
        class,
        what: text::missing_name(&evidence.what),
        code: evidence.code.clone(),
        received: format!("{} {}", evidence.value_as_received, evidence.unit_as_received).trim().to_owned(),
        used: evidence.value_used.map_or_else(String::new, |value| {
            format!("{} {}", text::number(value, 4), evidence.unit_used.as_deref().unwrap_or_default()).trim().to_owned()
        }),
        egfr: evidence.egfr.map_or_else(String::new, |egfr| format!("{egfr:.2}")),
        equation: evidence.equation.clone(),
        date: evidence.date.as_deref().map_or_else(String::new, text::day),
        time: evidence.date.as_deref().map_or_else(String::new, text::time_of_day),
        status: evidence.status.clone(),
        unusable: evidence.unusable.as_ref().map(|word| word.replace('-', " ")),
        note: evidence.note.clone(),
        threshold: evidence.threshold.clone().unwrap_or_default(),
        resource: evidence.resource.clone(),
        version: evidence.version.clone(),
    }
}

/// What a person may decide in this state (rulings.md 19); the door asks the same question again.
fn offers(assessment: &Assessment, decisions: &[(CompactString, Decision)]) -> Vec<Offer> {
    let is_opted_out = decisions.iter().rev().find_map(|(_, decision)| {
        let Decided::OptOut { opted_out } = decision.what else { return None };
        Some(opted_out)
    });
    // Before consent there is none to take back.
    let makes_sense = |decided: &Decided| {
        *decided != Decided::Consent { given: false } || matches!(assessment.state, SubjectState::Consented | SubjectState::Eligible)
    };
    let moves = |decided: &Decided| *decided != Decided::OptOut { opted_out: is_opted_out.unwrap_or(false) };
    OFFERS
        .iter()
        .filter(|(decided, ..)| state::allowed(assessment.state, assessment.was_enrolled, decided) && makes_sense(decided) && moves(decided))
        .map(|(_, [kind, field, value], label, note, button)| Offer { test: format!("{kind}-{value}"), kind, field, value, label, note, button })
        .collect()
}

/// In the order in which they are met: the decision, how a form says it (kind, field, value), its name, what it means,
/// the word on its button.
const OFFERS: [(Decided, [&str; 3], &str, &str, &str); 10] = [
    (
        Decided::Consent { given: true },
        ["consent", "given", "true"],
        "Record consent",
        "The subject signed the informed consent of this study.",
        "Record consent",
    ),
    (
        Decided::State { to: DecidedState::Enrolled },
        ["state", "to", word(DecidedState::Enrolled)],
        "Enrol",
        "Prescreen and eligibility are met. From here on the state drives what the EHR shows.",
        "Enrol",
    ),
    (
        Decided::State { to: DecidedState::OnFollowUp },
        ["state", "to", word(DecidedState::OnFollowUp)],
        "Start follow-up",
        "The cells were given; the visits go on.",
        "Start follow-up",
    ),
    (
        Decided::State { to: DecidedState::Completed },
        ["state", "to", word(DecidedState::Completed)],
        "Complete",
        "The subject finished the study as planned.",
        "Complete",
    ),
    (
        Decided::State { to: DecidedState::Lost },
        ["state", "to", word(DecidedState::Lost)],
        "Lost to follow-up",
        "The subject can no longer be reached.",
        "Record as lost",
    ),
    (
        Decided::State { to: DecidedState::ScreenFailed },
        ["state", "to", word(DecidedState::ScreenFailed)],
        "Screen-failed",
        "The subject will not enter the study; your reason goes to the screening log.",
        "Record screen failure",
    ),
    (
        Decided::Consent { given: false },
        ["consent", "given", "false"],
        "Take consent back",
        "The subject withdrew the consent and leaves the study.",
        "Record it",
    ),
    (
        Decided::State { to: DecidedState::Withdrawn },
        ["state", "to", word(DecidedState::Withdrawn)],
        "Withdraw",
        "The subject leaves the study. What the EHR shows changes its status; nothing is hidden.",
        "Withdraw",
    ),
    (
        Decided::OptOut { opted_out: true },
        ["opt-out", "opted-out", "true"],
        "Opt out",
        "The subject does not want to be screened: off every list, and what was written is taken back.",
        "Opt out",
    ),
    (
        Decided::OptOut { opted_out: false },
        ["opt-out", "opted-out", "false"],
        "Undo the opt-out",
        "The subject may be screened again.",
        "Undo the opt-out",
    ),
];

/// The stored word of a decided state.
pub const fn word(state: DecidedState) -> &'static str {
    match state {
        DecidedState::Enrolled => "enrolled",
        DecidedState::OnFollowUp => "on-follow-up",
        DecidedState::Completed => "completed",
        DecidedState::ScreenFailed => "screen-failed",
        DecidedState::Lost => "lost",
        DecidedState::Withdrawn => "withdrawn",
    }
}

/// What decisions speak of, by name.
struct Spoken<'a> {
    assessment: &'a Assessment,
    study: &'a Study,
    course: Option<&'a Course>,
    decisions: &'a [(CompactString, Decision)],
}

impl Spoken<'_> {
    /// The name of an event, of one that was confirmed, or of one recorded here.
    fn event(&self, id: &str) -> String {
        let known = self.course.and_then(|course| course.events.iter().find(|event| event.id == id)).map(|event| event.term.as_str());
        let recorded = || {
            let (_, decision) = self.decisions.iter().find(|(own, _)| id.strip_prefix("Decision/") == Some(own.as_str()))?;
            let Decided::EventRecorded { event } = &decision.what else { return None };
            Some(event.term.as_str())
        };
        known.or_else(recorded).filter(|term| !term.is_empty()).map_or_else(|| id.to_owned(), text::capitalised)
    }

    fn candidate(&self, id: &str) -> String {
        let known = self.course.and_then(|course| course.candidates.iter().find(|candidate| candidate.id == id));
        known.map_or_else(|| id.to_owned(), |candidate| text::capitalised(&candidate.term))
    }

    fn clock(&self, id: &str) -> String {
        let known = self.study.safety.iter().flat_map(|safety| &safety.clocks).find(|clock| clock.id == id);
        known.map_or_else(|| id.to_owned(), |clock| clock.name.clone())
    }
}

/// What a person said of an event, axis by axis.
fn axes_said(axes: &EventAxes) -> String {
    let EventAxes { term, grade, is_serious, seriousness_criteria, relation, is_expected, outcome, onset, resolved, is_dose_limiting } = axes;
    let either = |answer: &Option<bool>, yes: &str, no: &str| answer.map(|is_so| if is_so { yes } else { no }.to_owned());
    let criteria = seriousness_criteria.as_ref().filter(|codes| !codes.is_empty());
    let parts = [
        term.as_ref().map(|term| format!("called {term}")),
        grade.map(|grade| format!("grade {grade}")),
        either(is_serious, "serious", "not serious"),
        criteria.map(|codes| codes.iter().map(|code| text::seriousness(code)).collect::<Vec<_>>().join(" and ")),
        relation.map(|relation| format!("relation: {}", text::relation(relation).to_lowercase())),
        either(is_expected, "expected", "not expected"),
        outcome.as_ref().map(|code| format!("outcome: {}", text::outcome(code).to_lowercase())),
        onset.map(|onset| format!("began {}", text::date(&onset.to_string()))),
        resolved.map(|resolved| format!("ended {}", text::date(&resolved.to_string()))),
        either(is_dose_limiting, "dose-limiting", "not dose-limiting"),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn said(decision: &Decision, of: &Spoken<'_>, clock: &Clock) -> Said {
    let what = match &decision.what {
        Decided::Attestation { criterion, passes } => {
            let known = of.assessment.criteria.iter().find(|found| found.id == *criterion);
            let text = known.map_or(criterion.as_str(), |found| found.text.as_str());
            format!("{}: {text}", if *passes { "Passes" } else { "Does not pass" })
        }
        Decided::Consent { given: true } => "Consent given".into(),
        Decided::Consent { given: false } => "Consent taken back".into(),
        Decided::OptOut { opted_out: true } => "Opted out".into(),
        Decided::OptOut { opted_out: false } => "Opt-out undone".into(),
        Decided::State { to } => text::capitalised(&text::state_name(word(*to))),
        Decided::Dose { arm, given, .. } => format!("{} given {}", course::arm_name(of.study, arm), text::date(&given.to_string())),
        Decided::EventRecorded { event } => format!("Adverse event recorded: {}", event.term),
        Decided::EventAxes { event, axes } => format!("{}: {}", of.event(event), axes_said(axes)),
        Decided::EventReported { event, clock, at } => {
            format!("{} reported {} ({})", of.event(event), text::date(&at.to_string()), of.clock(clock))
        }
        Decided::Candidate { candidate, is_event: true } => format!("{} is an adverse event", of.candidate(candidate)),
        Decided::Candidate { candidate, is_event: false } => format!("{} is no adverse event", of.candidate(candidate)),
    };
    Said {
        what,
        by: decision.by.to_string(),
        at: clock.time(decision.at_ms),
        machine: clock.machine(decision.at_ms),
        reason: decision.reason.clone(),
    }
}

fn write(item: &Item) -> Write {
    let verb = match item.request.purpose {
        Purpose::Annotate => "",
        Purpose::Retract => ", taken back",
    };
    Write {
        what: format!("{}{verb}", item.request.resource_type),
        rung: item.request.rung.clone(),
        state: item.state.word(),
        meaning: text::item_state(item.state),
        proof: item.server_id.as_ref().filter(|_| item.state == ItemState::Confirmed).map(|id| {
            let resource = format!("{}/{}", item.request.resource_type, text::short_id(id));
            item.server_version
                .as_ref()
                .map_or_else(|| format!("read back as {resource}"), |version| format!("read back as {resource} version {version}"))
        }),
        proof_title: item.server_id.clone().unwrap_or_default(),
        error: item.last_error.clone().filter(|_| !matches!(item.state, ItemState::Confirmed | ItemState::Superseded)),
    }
}

fn short(hash: &str) -> String {
    hash.chars().take(SHORT_HASH).collect()
}
