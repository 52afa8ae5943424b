//! The card itself: what is open in words, and where to read why. It holds no value, name, date or id of a patient but the
//! id in the link's address, which the client named itself. Pure.

use actix_web::HttpResponse;
use serde::Serialize;

use crate::digest::sha256_hex;
use crate::escape::markdown_cell;
use crate::http::asked::json;
use crate::http::pages::{card_href, text};
use crate::rules::{Assessment, CriterionVerdict, Reason, Verdict};
use crate::store::cards::{OverrideReason, uuid};
use crate::study::{Criterion, CriterionType, Rule, Study};

/// Longest summary by the specification is below 140 characters; the study's name gets what the rest leaves.
const NAME_MAX: usize = 60;

/// The code system of the reasons that a card offers for dismissing it.
const OVERRIDE_SYSTEM: &str = "https://nephrogate.example/fhir/CodeSystem/card-override-reason";

/// What a card says beside the judgement.
pub struct Facts<'a> {
    pub uuid: &'a str,
    pub study: &'a Study,
    pub site: &'a str,
    pub subject: &'a str,
    pub public_url: &'a str,
}

#[derive(Serialize)]
struct Cards {
    cards: Vec<Card>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Card {
    uuid: String,
    summary: String,
    detail: String,
    indicator: &'static str,
    source: Source,
    suggestions: [Suggestion; 1],
    selection_behavior: &'static str,
    override_reasons: Vec<Coding>,
    links: [Link; 1],
}

#[derive(Serialize)]
struct Source {
    label: String,
}

/// Without actions: accepting it says that somebody takes it up, and orders nothing.
#[derive(Serialize)]
struct Suggestion {
    label: &'static str,
    uuid: String,
}

#[derive(Serialize)]
struct Coding {
    system: &'static str,
    code: &'static str,
    display: &'static str,
}

#[derive(Serialize)]
struct Link {
    label: &'static str,
    url: String,
    #[serde(rename = "type")]
    kind: &'static str,
}

/// There is nothing to say.
pub fn none() -> HttpResponse {
    json(&Cards { cards: Vec::new() })
}

pub fn answer(facts: &Facts<'_>, assessment: &Assessment) -> HttpResponse {
    json(&Cards { cards: vec![card(facts, assessment)] })
}

/// The study's name as people call it: its title up to the colon.
pub fn short_title(study: &Study) -> String {
    let name = study.title.split_once(": ").map_or(study.title.as_str(), |(name, _)| name);
    if name.chars().count() <= NAME_MAX { name.to_owned() } else { format!("{}…", name.chars().take(NAME_MAX - 1).collect::<String>().trim_end()) }
}

fn card(facts: &Facts<'_>, assessment: &Assessment) -> Card {
    let name = short_title(facts.study);
    // Whether the patient consents is not for a colleague to check.
    let is_asked = |criterion: &&Criterion| !matches!(criterion.rule, Rule::Consent {});
    let asked = facts.study.criteria.iter().filter(is_asked).count();
    let open: Vec<&CriterionVerdict> = facts
        .study
        .criteria
        .iter()
        .filter(is_asked)
        .filter_map(|criterion| assessment.criteria.iter().find(|judged| judged.id == criterion.id && judged.verdict == Verdict::Unknown))
        .collect();
    let to_check = match open.len() {
        0 => "every criterion on record is met".to_owned(),
        1 => format!("1 of {asked} criteria needs checking"),
        count => format!("{count} of {asked} criteria need checking"),
    };
    Card {
        uuid: facts.uuid.to_owned(),
        summary: format!("This patient may qualify for {name}: {to_check}"),
        detail: detail(&open),
        indicator: "info",
        source: Source { label: format!("nephrogate: {name}") },
        suggestions: [Suggestion { label: "I will take it up with the study team", uuid: uuid(&sha256_hex(facts.uuid.as_bytes())) }],
        selection_behavior: "at-most-one",
        override_reasons: OverrideReason::ALL.into_iter().filter_map(coding).collect(),
        links: [Link {
            label: "Each criterion with its evidence",
            url: format!("{}{}", facts.public_url, card_href(&facts.study.id, facts.site, facts.subject)),
            kind: "absolute",
        }],
    }
}

/// A reason as the card offers it; what is a client's own is not offered.
fn coding(reason: OverrideReason) -> Option<Coding> {
    let display = match reason {
        OverrideReason::NotNow => "Not at this visit",
        OverrideReason::AlreadyKnown => "The study team knows already",
        OverrideReason::NotSuitable => "Not suitable for this patient",
        OverrideReason::Declined => "The patient does not wish to take part",
        OverrideReason::Other => return None,
    };
    Some(Coding { system: OVERRIDE_SYSTEM, code: reason.word(), display })
}

/// The reason that a client's answer names, by its code in our system; any other is one of the client's own.
pub fn override_reason(system: Option<&str>, code: Option<&str>) -> OverrideReason {
    let is_ours = system.is_none_or(|system| system == OVERRIDE_SYSTEM);
    OverrideReason::ALL.into_iter().find(|known| is_ours && code == Some(known.word())).unwrap_or(OverrideReason::Other)
}

/// Markdown: what is open by the record, and what only a person can answer. The criteria's own words and the closed lists of
/// reasons and of what can be missing; never an explanation, which quotes values.
fn detail(open: &[&CriterionVerdict]) -> String {
    let (of_person, of_record): (Vec<&CriterionVerdict>, Vec<&CriterionVerdict>) =
        open.iter().partition(|criterion| criterion.reason == Some(Reason::NotAttested));
    let mut detail = "The results on record meet the prescreen. That is not a decision: the study team checks, and asks the patient.".to_owned();
    for (head, criteria) in [("The record does not decide", of_record), ("A person must answer", of_person)] {
        if !criteria.is_empty() {
            detail.push_str(&format!("\n\n**{head}**\n"));
        }
        for criterion in criteria {
            detail.push_str(&format!("\n- {}", line(criterion)));
        }
    }
    detail
}

fn line(criterion: &CriterionVerdict) -> String {
    let kind = match criterion.criterion_type {
        CriterionType::Inclusion => "Inclusion",
        CriterionType::Exclusion => "Exclusion",
    };
    let mut line = format!("{kind}: {}", markdown_cell(&criterion.text));
    let missing: Vec<String> = criterion.missing.iter().map(|word| text::missing_name(word)).collect();
    let missing = text::list(&missing.iter().map(String::as_str).collect::<Vec<_>>());
    match criterion.reason.filter(|reason| *reason != Reason::NotAttested) {
        Some(reason) if missing.is_empty() => line.push_str(&format!(" ({})", text::reason(reason))),
        Some(reason) => line.push_str(&format!(" ({}: {missing})", text::reason(reason))),
        None => {}
    }
    line
}
