//! Hand-edited files against their JSON Schemas: what is wrong, by JSON pointer. Resources of patients are checked in
//! `profile`, where values are masked; here the values are ours, and the message shows them unless a secret may stand among them.

use std::collections::BTreeSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// One thing a schema faults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaFault {
    /// JSON pointer, empty for the whole document.
    pub path: String,
    pub message: String,
}

/// A compiled schema.
pub struct Schema {
    validator: jsonschema::Validator,
}

impl Schema {
    /// Compiles a schema that refers to nothing outside itself. The error is a sentence.
    pub fn compile(text: &str) -> Result<Schema, String> {
        let schema: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        jsonschema::validator_for(&schema).map(|validator| Schema { validator }).map_err(|error| error.to_string())
    }

    /// Everything that is wrong with a document; a text that is not JSON, or names a key twice, is one fault.
    pub fn check(&self, text: &str) -> Vec<SchemaFault> {
        self.faults(text, |fault| shortened(&fault.to_string()))
    }

    /// The same without the values, for a file into which somebody may have written a secret.
    pub fn check_unseen(&self, text: &str) -> Vec<SchemaFault> {
        self.faults(text, |fault| shortened(&fault.masked().to_string()))
    }

    fn faults(&self, text: &str, message: impl Fn(&jsonschema::ValidationError<'_>) -> String) -> Vec<SchemaFault> {
        let read = serde_json::from_str::<NoKeyTwice>(text).and_then(|_| serde_json::from_str::<Value>(text));
        match read {
            Err(error) => vec![SchemaFault { path: String::new(), message: format!("not JSON: {error}") }],
            Ok(document) => {
                let faults = self.validator.iter_errors(&document);
                faults.map(|fault| SchemaFault { path: fault.instance_path().to_string(), message: message(&fault) }).collect()
            }
        }
    }
}

/// A message quotes the faulted value, which may be a whole entry.
fn shortened(message: &str) -> String {
    const LONGEST: usize = 300;
    match message.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{} ...", &message[..end]),
        None => message.to_owned(),
    }
}

/// Any JSON without a key twice in one object: a reader keeps the last silently, and no schema can see it.
struct NoKeyTwice;

impl<'de> Deserialize<'de> for NoKeyTwice {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<NoKeyTwice, D::Error> {
        deserializer.deserialize_any(NoKeyTwice)
    }
}

impl<'de> Visitor<'de> for NoKeyTwice {
    type Value = NoKeyTwice;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<NoKeyTwice, E> {
        Ok(NoKeyTwice)
    }

    fn visit_i64<E>(self, _: i64) -> Result<NoKeyTwice, E> {
        Ok(NoKeyTwice)
    }

    fn visit_u64<E>(self, _: u64) -> Result<NoKeyTwice, E> {
        Ok(NoKeyTwice)
    }

    fn visit_f64<E>(self, _: f64) -> Result<NoKeyTwice, E> {
        Ok(NoKeyTwice)
    }

    fn visit_str<E>(self, _: &str) -> Result<NoKeyTwice, E> {
        Ok(NoKeyTwice)
    }

    fn visit_unit<E>(self) -> Result<NoKeyTwice, E> {
        Ok(NoKeyTwice)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<NoKeyTwice, A::Error> {
        while items.next_element::<NoKeyTwice>()?.is_some() {}
        Ok(NoKeyTwice)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<NoKeyTwice, A::Error> {
        let mut keys = BTreeSet::new();
        while let Some(key) = members.next_key::<String>()? {
            members.next_value::<NoKeyTwice>()?;
            if let Some(twice) = keys.replace(key) {
                return Err(serde::de::Error::custom(format!("the key `{twice}` stands twice in one object")));
            }
        }
        Ok(NoKeyTwice)
    }
}
