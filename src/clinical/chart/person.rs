//! Who a person is: the record that stands, with what messages have said of it since laid over it.

use super::{Recorded, same_id};
use crate::clinical::fact::{Body, Fact, Person, PersonPart, Source, Status};

/// Lays what messages said over the newest record of their Patient, in the order of their time; `parts` are in canonical
/// order. What was said before that record was written is in it, or was wrong; what has no time fills only where there is no
/// record, and gives way to all that has one. `silent` are Patients whose newest version says nothing.
pub(super) fn lay_over(persons: &mut Vec<Recorded<Person>>, silent: &[Source], parts: Vec<Fact>, retired: &mut Vec<(Source, Source)>) {
    for of_patient in parts.chunk_by(same_id) {
        let id = &of_patient[0].source.id;
        let whole =
            persons.iter().map(|person| &person.source).chain(silent).filter(|source| source.id == *id).max_by_key(|source| source.last_updated_ms);
        let whole = whole.cloned();
        let is_newer = |part: &&Fact| match (part.source.last_updated_ms, &whole) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(said), Some(whole)) => whole.last_updated_ms.is_none_or(|written| written <= said),
        };
        let (newer, older): (Vec<&Fact>, Vec<&Fact>) = of_patient.iter().partition(is_newer);
        retired.extend(older.into_iter().filter_map(|part| Some((part.source.clone(), whole.clone()?))));
        let Some(newest) = newer.last() else { continue };
        if persons.iter().all(|person| person.source.id != *id) {
            let source = newest.source.clone();
            persons.push(Recorded { source, status: Status::Final, issued_ms: None, is_conflicting: false, body: Person::default() });
        }
        for person in persons.iter_mut().filter(|person| person.source.id == *id) {
            person.is_conflicting |= lay(&mut person.body, &newer);
            person.source = newest.source.clone();
        }
    }
}

/// One thing that messages say, and when it was said last.
#[derive(Default)]
struct Telling {
    at: Option<Option<i64>>,
    is_contradicted: bool,
}

impl Telling {
    /// What is said later counts; what is said of one moment must agree.
    fn tell<T: PartialEq>(&mut self, held: &mut T, at: Option<i64>, said: T) {
        let is_same_moment = self.at == Some(at);
        self.is_contradicted = is_same_moment && (self.is_contradicted || *held != said);
        self.at = Some(at);
        *held = said;
    }
}

/// Answers whether what was said last contradicts itself.
fn lay(person: &mut Person, parts: &[&Fact]) -> bool {
    let [mut sex, mut birth_date, mut deceased, mut restricted, mut link] = std::array::from_fn(|_| Telling::default());
    for part in parts {
        let at = part.source.last_updated_ms;
        let Body::PersonPart(PersonPart {
            sex: said_sex,
            birth_date: said_birth,
            deceased: said_deceased,
            deceased_at,
            is_test,
            is_restricted,
            replaced_by,
            not_replaced_by,
        }) = &part.body
        else {
            continue;
        };
        if said_sex.is_some() {
            sex.tell(&mut person.sex, at, *said_sex);
        }
        if said_birth.is_some() {
            birth_date.tell(&mut person.birth_date, at, *said_birth);
        }
        if let Some(said) = said_deceased {
            deceased.tell(&mut person.deceased, at, *said);
            person.deceased_at = deceased_at.or(person.deceased_at).filter(|_| *said);
        }
        person.is_test |= is_test;
        if let Some(said) = is_restricted {
            restricted.tell(&mut person.is_restricted, at, *said);
        }
        if person.replaced_by.as_ref().is_some_and(|stands| not_replaced_by.contains(stands)) {
            link.tell(&mut person.replaced_by, at, None);
        }
        if replaced_by.is_some() {
            link.tell(&mut person.replaced_by, at, replaced_by.clone());
        }
    }
    [sex, birth_date, deceased, restricted, link].iter().any(|telling| telling.is_contradicted)
}

/// The record that is not merged away; where several stand, what they agree on, and every reason to be careful.
pub(super) fn one_person(mut persons: Vec<Recorded<Person>>) -> Option<Recorded<Person>> {
    if persons.iter().any(|person| person.body.replaced_by.is_none()) {
        persons.retain(|person| person.body.replaced_by.is_none());
    }
    persons.into_iter().reduce(|mut all, other| {
        all.is_conflicting |= other.is_conflicting || all.body != other.body;
        let (body, other) = (&mut all.body, other.body);
        body.sex = body.sex.filter(|_| body.sex == other.sex);
        body.birth_date = body.birth_date.filter(|_| body.birth_date == other.birth_date);
        body.deceased_at = match (body.deceased, other.deceased) {
            (true, true) => body.deceased_at.filter(|_| body.deceased_at == other.deceased_at),
            (true, false) => body.deceased_at,
            (false, true | false) => other.deceased_at,
        };
        body.deceased |= other.deceased;
        body.is_test |= other.is_test;
        body.is_restricted |= other.is_restricted;
        all
    })
}
