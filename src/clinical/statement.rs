//! What stands in a chart, as statements in the study model's words, one canonical text each: the same for everyone who was
//! told the same, whatever door it came by and in whatever order. Knows nothing about hashes, stores or feeds.
//!
//! Left out is what differs by door alone: message numbers, ids and versions that a server gave, when something was updated
//! or issued, the zone in which an instant was written, and number, unit and code of a result as received, of which the
//! study model has its own. What another resource names stays: the id of an adverse event, and the record a Patient was
//! merged into.

use super::chart::{Chart, Recorded};
use super::date::PartialDate;
use super::fact::{
    Administration, AdverseEvent, Body, Condition, Decision, Encounter, Measurement, Person, Relatedness, ResearchSubject, ResourceType, Sex, Status,
};

/// Fields put side by side with their lengths, so that neighbours stay apart whatever they hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Words(String);

impl Words {
    pub fn word(&mut self, word: &str) -> &mut Words {
        self.0.push_str(&word.len().to_string());
        self.0.push(':');
        self.0.push_str(word);
        self.0.push(',');
        self
    }

    /// Nothing is told apart from an empty word.
    pub fn optional(&mut self, word: Option<&str>) -> &mut Words {
        match word {
            Some(word) => self.word(word),
            None => {
                self.0.push_str("-,");
                self
            }
        }
    }

    /// To twelve digits: two ways to one number (12 g/dL, 120 g/L) may differ in the last of sixteen.
    pub fn number(&mut self, number: Option<f64>) -> &mut Words {
        // No zero is below zero.
        self.optional(number.map(|number| format!("{:.11e}", if number == 0.0 { 0.0 } else { number })).as_deref())
    }

    pub fn flag(&mut self, flag: Option<bool>) -> &mut Words {
        self.optional(flag.map(|flag| if flag { "yes" } else { "no" }))
    }

    /// The instants that are meant, in whatever zone they were written.
    pub fn date(&mut self, date: Option<PartialDate>) -> &mut Words {
        self.optional(date.map(|date| format!("{}..{}", date.start_ms, date.end_ms)).as_deref())
    }

    /// A set: what is said twice is said once.
    pub fn set<W: AsRef<str>>(&mut self, words: impl IntoIterator<Item = W>) -> &mut Words {
        let mut words: Vec<W> = words.into_iter().collect();
        words.sort_unstable_by(|a, b| a.as_ref().cmp(b.as_ref()));
        words.dedup_by(|a, b| a.as_ref() == b.as_ref());
        self.word(&words.len().to_string());
        for word in words {
            self.word(word.as_ref());
        }
        self
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One thing that stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Statement {
    /// Such as `measurement`.
    pub kind: &'static str,
    pub words: Words,
}

/// Everything that stands in a chart, sorted; the same said twice, as under two ids, is said once.
pub fn statements(chart: &Chart) -> Vec<Statement> {
    let mut all = Vec::with_capacity(chart.measurements.len() + 8);
    all.extend(chart.person.iter().map(|person| recorded(person, of_person)));
    all.extend(chart.measurements.iter().map(|one| recorded(one, of_measurement)));
    all.extend(chart.conditions.iter().map(|one| recorded(one, of_condition)));
    all.extend(chart.adverse_events.iter().map(|one| recorded(one, of_adverse_event)));
    all.extend(chart.research_subjects.iter().map(|one| recorded(one, of_research_subject)));
    all.extend(chart.administrations.iter().map(|one| recorded(one, of_administration)));
    all.extend(chart.encounters.iter().map(|one| recorded(one, of_encounter)));
    all.extend(chart.decisions.iter().map(|one| recorded(one, of_decision)));
    all.sort_unstable();
    all.dedup();
    all
}

/// Whether two versions of one resource say the same, whatever their bytes: a second door may write one value otherwise.
/// Of what says nothing usable that cannot be told.
pub fn say_the_same(a: &Body, b: &Body) -> bool {
    let (a, b) = (words_of(a), words_of(b));
    a.is_some() && a == b
}

fn words_of(body: &Body) -> Option<Statement> {
    Some(match body {
        Body::Person(body) => of_person(body),
        Body::Measurement(body) => of_measurement(body),
        Body::Condition(body) => of_condition(body),
        Body::AdverseEvent(body) => of_adverse_event(body),
        Body::ResearchSubject(body) => of_research_subject(body),
        Body::Administration(body) => of_administration(body),
        Body::Encounter(body) => of_encounter(body),
        Body::Decision(body) => of_decision(body),
        Body::PersonPart(_) | Body::Nothing => return None,
    })
}

fn recorded<T>(of: &Recorded<T>, statement: fn(&T) -> Statement) -> Statement {
    let Recorded { source, status, issued_ms: _, is_conflicting, body } = of;
    let mut statement = statement(body);
    if source.resource_type == ResourceType::AdverseEvent {
        // Two events may say the same of themselves, and persons' decisions name the one they mean.
        statement.words.word(&source.id);
    }
    statement.words.word(word_of(*status)).flag(Some(*is_conflicting));
    statement
}

/// HL7 v2 has one word for what FHIR calls amended and corrected, and no rule tells them apart.
fn word_of(status: Status) -> &'static str {
    match status {
        Status::Amended | Status::Corrected => Status::Corrected.word(),
        Status::Registered | Status::Unknown | Status::Preliminary | Status::Final | Status::Cancelled | Status::EnteredInError | Status::Deleted => {
            status.word()
        }
    }
}

fn of_person(person: &Person) -> Statement {
    // What a record replaces shows where those records were merged into it.
    let Person { sex, birth_date, deceased, deceased_at, is_test, is_restricted, replaced_by, replaces: _ } = person;
    let sex = sex.map(|sex| match sex {
        Sex::Female => "female",
        Sex::Male => "male",
        Sex::Other => "other",
        Sex::Unknown => "unknown",
    });
    let mut words = Words::default();
    words.optional(sex).date(*birth_date).flag(Some(*deceased)).date(*deceased_at);
    words.flag(Some(*is_test)).flag(Some(*is_restricted)).optional(replaced_by.as_deref());
    Statement { kind: "person", words }
}

fn of_measurement(measurement: &Measurement) -> Statement {
    let Measurement {
        analyte,
        // Follows from the code.
        rank: _,
        equation,
        code,
        effective,
        value,
        unit,
        comparator,
        value_as_received,
        unit_as_received: _,
        reference_low,
        reference_high,
        unusable,
    } = measurement;
    let mut words = Words::default();
    // A feed may name the same test by a code of its own; of a test that nobody mapped the code is all there is.
    words.word(analyte.map_or(code.as_str(), |analyte| analyte.word())).date(*effective).number(*value);
    words.optional(unit.map(|unit| unit.ucum())).optional(comparator.map(|comparator| comparator.sign()));
    words.number(*reference_low).number(*reference_high).optional(equation.as_deref()).optional(unusable.as_deref());
    if value.is_none() {
        // The number is all that is known of a result whose unit is not.
        words.number(value_as_received.parse().ok());
    }
    Statement { kind: "measurement", words }
}

fn of_condition(condition: &Condition) -> Statement {
    let Condition { concept, code, clinical_status, verification_status, onset, abatement, recorded } = condition;
    let mut words = Words::default();
    words.word(concept.word()).word(code).word(clinical_status).word(verification_status);
    words.date(*onset).date(*abatement).date(*recorded);
    Statement { kind: "condition", words }
}

fn of_adverse_event(event: &AdverseEvent) -> Statement {
    let AdverseEvent {
        codes,
        term,
        is_actual,
        grade,
        severity,
        is_serious,
        seriousness_criteria,
        is_expected,
        relatedness,
        outcome,
        onset,
        detected,
        recorded,
        resolved,
        is_dose_limiting,
        studies,
        names_other_study,
    } = event;
    let mut words = Words::default();
    words.set(codes).word(term).flag(Some(*is_actual)).number(grade.map(f64::from)).optional(severity.as_deref());
    words.flag(*is_serious).set(seriousness_criteria).flag(*is_expected);
    let relatedness = relatedness.iter().map(|one| {
        let Relatedness { suspect, is_study_product, code, relation } = one;
        let mut words = Words::default();
        words.word(suspect).flag(Some(*is_study_product)).word(code).optional(relation.map(|relation| relation.word()));
        words.0
    });
    words.set(relatedness).optional(outcome.as_deref());
    words.date(*onset).date(*detected).date(*recorded).date(*resolved);
    words.flag(*is_dose_limiting).set(studies).flag(Some(*names_other_study));
    Statement { kind: "adverse-event", words }
}

fn of_research_subject(subject: &ResearchSubject) -> Statement {
    let ResearchSubject { study, status, arm, is_actual_arm, start, end } = subject;
    let mut words = Words::default();
    words.word(study).word(status).optional(arm.as_deref()).flag(Some(*is_actual_arm)).date(*start).date(*end);
    Statement { kind: "research-subject", words }
}

fn of_administration(administration: &Administration) -> Statement {
    let Administration { study, code, given, ended, cells, dose_as_received } = administration;
    let mut words = Words::default();
    words.word(study).word(code).date(*given).date(*ended).number(*cells);
    if cells.is_none() {
        words.word(dose_as_received);
    }
    Statement { kind: "administration", words }
}

fn of_encounter(encounter: &Encounter) -> Statement {
    let Encounter { class, is_planned, start, end } = encounter;
    let mut words = Words::default();
    words.word(class).flag(*is_planned).date(*start).date(*end);
    Statement { kind: "encounter", words }
}

/// Made here, by one door: as it is kept.
fn of_decision(decision: &Decision) -> Statement {
    let mut words = Words::default();
    words.word(&serde_json::to_string(decision).expect("a decision is plain data"));
    Statement { kind: "decision", words }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_stay_apart_and_nothing_is_not_an_empty_word() {
        let words = |parts: &[Option<&str>]| {
            let mut words = Words::default();
            for part in parts {
                words.optional(*part);
            }
            words
        };
        let all = [&[Some("a"), Some("bc")][..], &[Some("ab"), Some("c")], &[Some("abc")], &[Some("a"), None], &[Some("a"), Some("")], &[Some("a")]];
        for (index, one) in all.iter().enumerate() {
            for other in &all[index + 1..] {
                assert_ne!(words(one), words(other), "{one:?} {other:?}");
            }
        }
    }

    #[test]
    fn numbers_that_differ_by_the_way_they_were_reached_are_one() {
        let number = |number: f64| Words::default().number(Some(number)).clone();
        assert_eq!(number(0.1 + 0.2), number(0.3));
        assert_eq!(number(-0.0), number(0.0));
        assert_ne!(number(0.3), number(0.300_000_01));
    }
}
