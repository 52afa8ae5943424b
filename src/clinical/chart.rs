//! One subject's chart: the fold of all facts about them, in any order of arrival.
//!
//! Corrections supersede, withdrawals withdraw, nothing is deleted. The law, tested by property: the same set of
//! facts gives the same chart whatever their order and however often each came.

mod person;

use std::cmp::Ordering;

use super::fact::{
    Administration, AdverseEvent, Body, Condition, Decision, Encounter, Fact, Measurement, Person, ResearchSubject, ResourceType, Source, Status,
};
use super::statement::say_the_same;
use super::version::{self, Version};

/// What stands of one thing a source said.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded<T> {
    pub source: Source,
    pub status: Status,
    pub issued_ms: Option<i64>,
    /// Two versions contradict each other and nothing says which is newer (rulings.md 6).
    pub is_conflicting: bool,
    pub body: T,
}

/// What a judgement may rest on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chart {
    pub person: Option<Recorded<Person>>,
    /// Every current result, usable or not, withdrawn ones left out.
    pub measurements: Vec<Recorded<Measurement>>,
    pub conditions: Vec<Recorded<Condition>>,
    pub adverse_events: Vec<Recorded<AdverseEvent>>,
    pub research_subjects: Vec<Recorded<ResearchSubject>>,
    pub administrations: Vec<Recorded<Administration>>,
    pub encounters: Vec<Recorded<Encounter>>,
    /// In order of time.
    pub decisions: Vec<Recorded<Decision>>,
    /// Types whose absence proves something here: the site declares them complete (rulings.md 12).
    pub complete: Vec<ResourceType>,
    /// Test patients are real people here: the demo's own site (rulings.md 17). Set by who folds for that site.
    pub tests_are_real: bool,
    /// The facts that gave way, for the history on the why-card: the source and what it was replaced by.
    pub retired: Vec<(Source, Source)>,
}

impl Chart {
    /// Folds facts into what stands.
    pub fn fold(mut facts: Vec<Fact>, complete: &[ResourceType]) -> Chart {
        // A canonical order first, so that nothing below can depend on arrival.
        facts.sort_by(canonical);
        facts.dedup_by(|later, first| same_statement(later, first));
        let mut chart = Chart { complete: complete.to_vec(), measurements: Vec::with_capacity(facts.len()), ..Chart::default() };
        let parts: Vec<Fact> = facts.extract_if(.., |fact| matches!(fact.body, Body::PersonPart(_))).collect();
        let mut standing = newest_versions(facts, &mut chart.retired);
        retire_by_key(&mut standing, &mut chart.retired);
        let mut persons = Vec::new();
        let mut silent = Vec::new();
        for Standing { fact, is_conflicting } in standing {
            let Fact { source, status, issued_ms, body, key: _ } = fact;
            if source.resource_type == ResourceType::Patient && (status.is_withdrawn() || body == Body::Nothing) {
                silent.push(source);
                continue;
            }
            if status.is_withdrawn() {
                continue;
            }
            match body {
                Body::Person(body) => persons.push(Recorded { source, status, issued_ms, is_conflicting, body }),
                Body::Measurement(body) => chart.measurements.push(Recorded { source, status, issued_ms, is_conflicting, body }),
                Body::Condition(body) => chart.conditions.push(Recorded { source, status, issued_ms, is_conflicting, body }),
                Body::AdverseEvent(body) => chart.adverse_events.push(Recorded { source, status, issued_ms, is_conflicting, body }),
                Body::ResearchSubject(body) => chart.research_subjects.push(Recorded { source, status, issued_ms, is_conflicting, body }),
                Body::Administration(body) => chart.administrations.push(Recorded { source, status, issued_ms, is_conflicting, body }),
                Body::Encounter(body) => chart.encounters.push(Recorded { source, status, issued_ms, is_conflicting, body }),
                Body::Decision(body) => chart.decisions.push(Recorded { source, status, issued_ms, is_conflicting, body }),
                Body::Nothing | Body::PersonPart(_) => {}
            }
        }
        person::lay_over(&mut persons, &silent, parts, &mut chart.retired);
        chart.person = person::one_person(persons);
        chart.decisions.sort_by(|a, b| (a.body.at_ms, a.source.message, &a.source.id).cmp(&(b.body.at_ms, b.source.message, &b.source.id)));
        chart
    }
}

/// A fact that no newer version has replaced.
struct Standing {
    fact: Fact,
    is_conflicting: bool,
}

fn same_id(a: &Fact, b: &Fact) -> bool {
    a.source.resource_type == b.source.resource_type && a.source.id == b.source.id
}

/// The same version saying the same, whichever message brought it.
fn same_statement(a: &Fact, b: &Fact) -> bool {
    same_id(a, b)
        && a.source.version == b.source.version
        && a.source.last_updated_ms == b.source.last_updated_ms
        && a.status == b.status
        && a.issued_ms == b.issued_ms
        && a.key == b.key
        && a.body == b.body
}

/// A total order over content; the message number comes last, so that arrival decides only between equals.
fn canonical(a: &Fact, b: &Fact) -> Ordering {
    let id = |fact: &Fact| fact.source.resource_type;
    id(a)
        .cmp(&id(b))
        .then_with(|| a.source.id.cmp(&b.source.id))
        .then_with(|| a.source.version.cmp(&b.source.version))
        .then_with(|| a.source.last_updated_ms.cmp(&b.source.last_updated_ms))
        .then_with(|| (a.issued_ms, a.status, &a.key).cmp(&(b.issued_ms, b.status, &b.key)))
        .then_with(|| match a.body == b.body {
            true => Ordering::Equal,
            // Rare: versions that agree in everything but their content. Any fixed order will do.
            false => format!("{:?}", a.body).cmp(&format!("{:?}", b.body)),
        })
        .then_with(|| a.source.message.cmp(&b.source.message))
}

/// Another spelling of one value, as a second door may write it, contradicts nothing.
fn contradict(a: &Fact, b: &Fact) -> bool {
    a.body != b.body && !say_the_same(&a.body, &b.body)
}

/// For each fact, what beats it; `None` for those that nothing beats. Where each is beaten by another in a circle
/// (they compare by different fields), all stand as rivals.
fn beaten_by(facts: &[&Fact], compare: fn(Version<'_>, Version<'_>) -> Option<Ordering>) -> Vec<Option<usize>> {
    let beats = |other: &usize, one: usize| compare(Version::of(facts[*other]), Version::of(facts[one])) == Some(Ordering::Greater);
    // The canonical order puts the newest near the end, so looking from there ends soon.
    let beaten: Vec<Option<usize>> = (0..facts.len()).map(|one| (0..facts.len()).rev().find(|other| beats(other, one))).collect();
    if beaten.iter().all(Option::is_some) { vec![None; facts.len()] } else { beaten }
}

/// Of each id the newest version; where no single one is newest, the rivals. `facts` are in canonical order.
fn newest_versions(facts: Vec<Fact>, retired: &mut Vec<(Source, Source)>) -> Vec<Standing> {
    if !facts.windows(2).any(|pair| same_id(&pair[0], &pair[1])) {
        return facts.into_iter().map(|fact| Standing { fact, is_conflicting: false }).collect();
    }
    let mut standing = Vec::with_capacity(facts.len());
    let mut rest = facts.into_iter().peekable();
    while let Some(first) = rest.next() {
        if !rest.peek().is_some_and(|next| same_id(&first, next)) {
            standing.push(Standing { fact: first, is_conflicting: false });
            continue;
        }
        let mut versions = vec![first];
        while let Some(next) = rest.next_if(|next| same_id(&versions[0], next)) {
            versions.push(next);
        }
        let beaten = beaten_by(&versions.iter().collect::<Vec<_>>(), version::compare);
        let top: Vec<usize> = (0..versions.len()).filter(|index| beaten[*index].is_none()).collect();
        let is_conflicting = top.iter().any(|index| contradict(&versions[*index], &versions[top[0]]));
        let newest = versions[top[0]].source.clone();
        for (fact, beaten) in versions.into_iter().zip(beaten) {
            match beaten {
                None => standing.push(Standing { fact, is_conflicting }),
                Some(_) => retired.push((fact.source, newest.clone())),
            }
        }
    }
    standing
}

/// Across ids of one result key the newest retires the others (rulings.md 5 and 6); what contradicts it and is no
/// older is a rival. A result and its exact copy under a new id are none.
fn retire_by_key(standing: &mut Vec<Standing>, retired: &mut Vec<(Source, Source)>) {
    let mut keyed: Vec<usize> = (0..standing.len()).filter(|index| standing[*index].fact.key.is_some()).collect();
    if keyed.is_empty() {
        return;
    }
    keyed.sort_by(|a, b| standing[*a].fact.key.cmp(&standing[*b].fact.key).then(a.cmp(b)));
    let mut is_retired = vec![false; standing.len()];
    let mut rivals = Vec::new();
    for group in keyed.chunk_by(|a, b| standing[*a].fact.key == standing[*b].fact.key).filter(|group| group.len() > 1) {
        let beaten = beaten_by(&group.iter().map(|index| &standing[*index].fact).collect::<Vec<_>>(), version::compare_content);
        for (one, newer) in group.iter().zip(&beaten) {
            if let Some(newer) = newer {
                is_retired[*one] = true;
                retired.push((standing[*one].fact.source.clone(), standing[group[*newer]].fact.source.clone()));
            }
        }
        let left: Vec<usize> = group.iter().copied().filter(|index| !is_retired[*index]).collect();
        if left.iter().any(|index| contradict(&standing[*index].fact, &standing[left[0]].fact)) {
            rivals.extend(left);
        }
    }
    for index in rivals {
        standing[index].is_conflicting = true;
    }
    let mut retired_in_order = is_retired.into_iter();
    standing.retain(|_| !retired_in_order.next().unwrap_or(false));
}
