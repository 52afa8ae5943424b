//! Which lines may concern a study, told without reading them as JSON: by the first key, and by the codes they hold.
//!
//! A line is passed over only when it is sure to be none of ours. A line with a backslash is never passed over by its
//! codes, since `\u0032` may hide one; a line that does not begin with its resourceType is read in full.

use std::collections::HashSet;

use memchr::memmem::Finder;

use crate::clinical::fact::ResourceType;
use crate::mapping::Site;
use crate::study::{Needs, Study};

/// What one study needs of one site's data.
pub struct Concern {
    /// Codes (without system) the site maps to an analyte that this study judges by.
    codes: HashSet<Vec<u8>>,
    longest_code: usize,
    /// Whether one of the codes begins with this byte.
    begins_code: [bool; 256],
    needs_conditions: bool,
    code_key: Finder<'static>,
}

/// What the head of a line says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head<'a> {
    Type(ResourceType),
    /// A type that no study reads.
    OtherType(&'a str),
    /// The line does not begin with its type; only a reader can tell.
    Unclear,
}

/// How one line of a block is to be handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handling<'a> {
    Read,
    /// None of the study's: the type, and for an Observation where its code may be found, for the counts.
    PassOver(&'a str, Option<Code<'a>>),
}

/// `system` and `code` of the first coding as they stand in the bytes; only ever counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code<'a> {
    pub system: &'a [u8],
    pub code: &'a [u8],
}

impl Concern {
    pub fn of(study: &Study, site: &Site) -> Concern {
        let Needs { analytes, concepts, .. } = study.needs_of_criteria();
        let codes: HashSet<Vec<u8>> = site.codes_of(&analytes).into_iter().map(|code| code.as_bytes().to_vec()).collect();
        let longest_code = codes.iter().map(Vec::len).max().unwrap_or(0);
        let mut begins_code = [false; 256];
        for first in codes.iter().filter_map(|code| code.first()) {
            begins_code[usize::from(*first)] = true;
        }
        Concern { codes, longest_code, begins_code, needs_conditions: !concepts.is_empty(), code_key: Finder::new("\"code\"") }
    }

    /// Gives each line of a block of whole lines to `each`, with how it is to be handled.
    pub fn sort<'a>(&self, block: &'a [u8], mut each: impl FnMut(&'a [u8], Handling<'a>)) {
        let mut code_keys = self.code_key.find_iter(block).peekable();
        let mut backslash = memchr::memchr(b'\\', block);
        let mut start = 0;
        while start < block.len() {
            let end = memchr::memchr(b'\n', &block[start..]).map_or(block.len(), |length| start + length);
            let line = block[start..end].trim_ascii();
            while backslash.is_some_and(|at| at < start) {
                backslash = memchr::memchr(b'\\', &block[start..]).map(|at| start + at);
            }
            let has_backslash = backslash.is_some_and(|at| at < end);
            while code_keys.next_if(|at| *at < start).is_some() {}
            if !line.is_empty() {
                let handling = match head(line) {
                    Head::Unclear | Head::Type(ResourceType::Patient) => Handling::Read,
                    Head::Type(ResourceType::Condition) if self.needs_conditions => Handling::Read,
                    Head::Type(
                        kind @ (ResourceType::Condition
                        | ResourceType::AdverseEvent
                        | ResourceType::ResearchSubject
                        | ResourceType::MedicationAdministration
                        | ResourceType::Procedure
                        | ResourceType::Encounter
                        | ResourceType::Decision),
                    ) => Handling::PassOver(kind.word(), None),
                    Head::OtherType(word) => Handling::PassOver(word, None),
                    Head::Type(ResourceType::Observation) => {
                        let mut first = None;
                        let mut is_ours = has_backslash;
                        while let Some(at) = code_keys.next_if(|at| !is_ours && *at < end) {
                            let value = &block[at + b"\"code\"".len()..end];
                            match value_of_key(value) {
                                Some(value) if value.first() == Some(&b'"') => is_ours = self.is_wanted(&value[1..]),
                                Some(value) if first.is_none() => first = Some(value),
                                Some(_) | None => {}
                            }
                        }
                        if is_ours { Handling::Read } else { Handling::PassOver(ResourceType::Observation.word(), first.and_then(first_coding)) }
                    }
                };
                each(line, handling);
            }
            start = end + 1;
        }
    }

    /// Whether the string that begins here is one of the codes.
    fn is_wanted(&self, text: &[u8]) -> bool {
        let window = &text[..text.len().min(self.longest_code + 1)];
        // A code that is padded with spaces is still read; whether it then counts is the mapping's word.
        match memchr::memchr2(b'"', b' ', window) {
            Some(end) if window[end] == b'"' => self.begins_code[usize::from(window[0])] && self.codes.contains(&window[..end]),
            Some(_) => true,
            None => false,
        }
    }
}

/// What follows a key: its value, where the bytes behind the key are a colon and space.
fn value_of_key(rest: &[u8]) -> Option<&[u8]> {
    Some(rest.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start())
}

/// `system` and `code` of the first coding of a CodeableConcept, where they are written in the usual way.
fn first_coding(concept: &[u8]) -> Option<Code<'_>> {
    let coding = concept.strip_prefix(b"{\"coding\":[{")?;
    let coding = &coding[..memchr::memchr(b'}', coding)?];
    let until_quote = |text: &'_ [u8]| memchr::memchr(b'"', text);
    // The usual order needs no search.
    if let Some(rest) = coding.strip_prefix(b"\"system\":\"") {
        let (system, rest) = rest.split_at(until_quote(rest)?);
        if let Some(code) = rest.strip_prefix(b"\",\"code\":\"") {
            return Some(Code { system, code: &code[..until_quote(code)?] });
        }
    }
    let string = |key: &[u8]| {
        let at = memchr::memmem::find(coding, key)? + key.len();
        let rest = &coding[at..];
        Some(&rest[..until_quote(rest)?])
    };
    Some(Code { system: string(b"\"system\":\"").unwrap_or_default(), code: string(b"\"code\":\"")? })
}

/// The resource type of a line that begins with it.
fn head(line: &[u8]) -> Head<'_> {
    let Some(rest) = line.strip_prefix(b"{\"resourceType\":\"") else { return Head::Unclear };
    let word = rest.get(..rest.len().min(64)).and_then(|rest| rest.split(|byte| *byte == b'"').next()).unwrap_or_default();
    match std::str::from_utf8(word) {
        Ok("Bundle") => Head::Unclear,
        Ok(word) if !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphabetic()) => match ResourceType::from_word(word) {
            Some(kind) => Head::Type(kind),
            None => Head::OtherType(word),
        },
        Ok(_) | Err(_) => Head::Unclear,
    }
}
