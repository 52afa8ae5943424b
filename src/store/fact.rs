//! Facts at rest: one byte that numbers the form, then postcard. Half the bytes of JSON and a fifth of its time, both of
//! which an import and a judgement of everybody spend millions of times.

use super::StoreError;
use crate::clinical::fact::Fact;

/// The form that is written: the shape of `Fact` today. Once a version is released, a change of shape needs a new number
/// and a reader for each form that was released; postcard cannot tell one from another.
const FORM: u8 = 2;

/// As form 2, without what a Patient record replaces, which is its last field.
const FORM_WITHOUT_REPLACES: u8 = 1;

pub fn pack(fact: &Fact) -> Vec<u8> {
    postcard::to_extend(fact, vec![FORM]).expect("a fact has nothing that postcard cannot write")
}

/// The fact that one message brought.
pub fn unpack(packed: &[u8], message: i64) -> Result<Fact, StoreError> {
    let damaged = || StoreError::Broken("a fact in the store cannot be read: the store is damaged or of a newer program".into());
    let (form, rest) = packed.split_first().ok_or_else(damaged)?;
    let mut fact: Fact = match *form {
        FORM => postcard::from_bytes(rest),
        // An empty list is one zero byte; facts of other kinds are read to their end before it.
        FORM_WITHOUT_REPLACES => postcard::from_bytes(&[rest, &[0]].concat()),
        _ => return Err(damaged()),
    }
    .map_err(|_| damaged())?;
    fact.source.message = message;
    Ok(fact)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clinical::date::PartialDate;
    use crate::clinical::fact::{Body, Person, ResourceType, Sex, Source, Status};

    #[test]
    fn a_fact_comes_back_as_it_was_and_a_damaged_one_is_refused() {
        let person = Person {
            sex: Some(Sex::Male),
            birth_date: PartialDate::parse("1960-02").ok(),
            deceased: false,
            deceased_at: None,
            is_test: false,
            is_restricted: true,
            replaced_by: Some("p2".into()),
            replaces: vec!["p3".into()],
        };
        let source = Source {
            resource_type: ResourceType::Patient,
            id: "p1".into(),
            version: Some("2".into()),
            last_updated_ms: Some(1_700_000_000_000),
            message: 7,
        };
        let fact = Fact { source, key: None, status: Status::Unknown, issued_ms: None, body: Body::Person(person) };
        let packed = pack(&fact);
        assert_eq!(unpack(&packed, 7).unwrap(), fact);
        assert_eq!(unpack(&packed, 8).unwrap().source.message, 8);
        for length in 0..packed.len() {
            assert!(unpack(&packed[..length], 7).is_err(), "{length}");
        }
        assert!(unpack(&[&[FORM + 1], &packed[1..]].concat(), 7).is_err());
        let Body::Person(person) = &fact.body else { unreachable!() };
        let former = Fact { body: Body::Person(Person { replaces: Vec::new(), ..person.clone() }), ..fact.clone() };
        let packed = pack(&former);
        assert_eq!(unpack(&[&[1], &packed[1..packed.len() - 1]].concat(), 7).unwrap(), former, "as the first form wrote it");
    }
}
