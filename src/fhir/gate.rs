//! The gate: one pass over the bytes before anything else reads them. It knows JSON and the rules FHIR puts on JSON
//! (no null, nothing empty, no key twice); of FHIR itself it knows only where the id and the version stand.

use std::borrow::Cow;

use crate::issue::{Code, Issue};

/// Deepest nesting of objects and arrays; a resource of R4 with twenty nested extensions needs 42.
pub const MAX_DEPTH: usize = 64;
/// Most digits of one number. FHIR asks for 18; laboratories that print doubles send up to 28.
pub const MAX_DIGITS: usize = 40;
/// Largest exponent, up or down, of one number.
pub const MAX_EXPONENT: u32 = 30;

/// Up to here the keys of one object are compared one by one; more keys are sorted at the object's end.
const FEW_KEYS: usize = 32;
/// Longest element path that is told.
const MAX_PATH: usize = 200;

/// What the pass picked up on its way.
#[derive(Clone, Copy, Debug, Default)]
pub struct Picked<'a> {
    pub resource_type: Option<&'a str>,
    pub id: Option<&'a str>,
    pub version: Option<&'a str>,
    pub last_updated: Option<&'a str>,
}

/// Reads one whole document. The first thing wrong is the answer.
pub fn pass(text: &str) -> Result<Picked<'_>, Issue> {
    if i32::try_from(text.len()).is_err() {
        return Err(Issue::new(Code::TooLarge, ""));
    }
    let mut gate = Gate { text, bytes: text.as_bytes(), at: 0, keys: Keys::new(), picked: Picked::default() };
    match gate.document() {
        Ok(()) => Ok(gate.picked),
        Err(trouble) => Err(Issue::new(trouble.code, gate.path(&trouble))),
    }
}

/// Whether a text is a FHIR id: 1 to 64 of `A-Z a-z 0-9 - .`.
pub fn is_id(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.')
}

/// Where the value being read stands, as far as the gate cares.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The resource itself.
    Root,
    /// `meta` of the resource itself.
    Meta,
    /// The value of a `_x` key, which fills its places with null.
    Companion,
    Elsewhere,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Object,
    Array,
    Primitive,
    Null,
}

/// A string as it stands in the text, without its quotes. One word, since one is made for every key: 32 bits of start,
/// 31 bits of length, one bit that says whether it holds an escape.
#[derive(Clone, Copy, Default)]
struct Span(u64);

impl Span {
    fn new(start: usize, end: usize, has_escape: bool) -> Span {
        Span((start as u64) << 32 | ((end - start) as u64) << 1 | u64::from(has_escape))
    }

    fn start(self) -> usize {
        (self.0 >> 32) as usize
    }

    fn end(self) -> usize {
        self.start() + (self.0 as u32 >> 1) as usize
    }

    fn has_escape(self) -> bool {
        self.0 & 1 == 1
    }

    fn of(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.start()..self.end()]
    }
}

/// What is wrong, and the way back to the root, innermost step first. The path is gathered while the calls return,
/// so that a good document pays nothing for it.
struct Trouble {
    code: Code,
    steps: Vec<Step>,
}

enum Step {
    Key(Span),
    Index(usize),
}

type Checked<T> = Result<T, Box<Trouble>>;

fn fault<T>(code: Code) -> Checked<T> {
    Err(Box::new(Trouble { code, steps: Vec::new() }))
}

fn given<T>(found: Option<T>, code: Code) -> Checked<T> {
    found.map_or_else(|| fault(code), Ok)
}

fn inside(mut trouble: Box<Trouble>, step: Step) -> Box<Trouble> {
    trouble.steps.push(step);
    trouble
}

struct Gate<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    keys: Keys,
    picked: Picked<'a>,
}

impl<'a> Gate<'a> {
    fn document(&mut self) -> Checked<()> {
        self.space();
        if self.peek() != b'{' {
            return fault(Code::NotJson);
        }
        self.object(1, Place::Root)?;
        self.space();
        if self.at == self.bytes.len() { Ok(()) } else { fault(Code::NotJson) }
    }

    /// The next byte, or 0 at the end: U+0000 stands nowhere in JSON, so the end needs no case of its own.
    fn peek(&self) -> u8 {
        self.bytes.get(self.at).copied().unwrap_or(0)
    }

    fn space(&mut self) {
        while matches!(self.peek(), b' ' | b'\n' | b'\r' | b'\t') {
            self.at += 1;
        }
    }

    fn object(&mut self, depth: usize, place: Place) -> Checked<()> {
        if depth > MAX_DEPTH {
            return fault(Code::TooDeep);
        }
        self.at += 1;
        self.space();
        if self.peek() == b'}' {
            return fault(Code::EmptyElement);
        }
        let first = self.keys.len();
        loop {
            if self.peek() != b'"' {
                return fault(Code::NotJson);
            }
            let key = self.string()?;
            self.note_key(first, key)?;
            self.space();
            if self.peek() != b':' {
                return fault(Code::NotJson);
            }
            self.at += 1;
            self.space();
            self.member(depth, place, key).map_err(|trouble| inside(trouble, Step::Key(key)))?;
            self.space();
            match self.peek() {
                b',' => {
                    self.at += 1;
                    self.space();
                }
                b'}' => {
                    self.at += 1;
                    break;
                }
                _ => return fault(Code::NotJson),
            }
        }
        self.sort_out_keys(first)?;
        self.keys.truncate(first);
        Ok(())
    }

    fn member(&mut self, depth: usize, place: Place, key: Span) -> Checked<()> {
        let start = self.at;
        let first = if key.has_escape() { self.decoded(key).as_bytes()[0] } else { self.bytes[key.start()] };
        let below = match first {
            b'_' => Place::Companion,
            // No element of FHIR begins so, and serde_json reads an object under such a key of its own as a number.
            b'$' => return fault(Code::Shape),
            _ if place == Place::Root && self.is_key(key, "meta") => Place::Meta,
            _ => Place::Elsewhere,
        };
        if self.value(depth + 1, below)? == Kind::Null {
            return fault(Code::NullValue);
        }
        match place {
            Place::Root if self.is_key(key, "resourceType") => {
                let name = self.plain(start).filter(|name| name.len() <= 64 && name.bytes().all(|byte| byte.is_ascii_alphabetic()));
                self.picked.resource_type = Some(given(name, Code::WrongResourceType)?);
            }
            Place::Root if self.is_key(key, "id") => {
                self.picked.id = Some(given(self.plain(start).filter(|id| is_id(id)), Code::InvalidId)?);
            }
            Place::Meta if self.is_key(key, "versionId") => {
                self.picked.version = Some(given(self.plain(start).filter(|version| is_id(version)), Code::InvalidId)?);
            }
            Place::Meta if self.is_key(key, "lastUpdated") => self.picked.last_updated = self.plain(start),
            Place::Root | Place::Meta | Place::Companion | Place::Elsewhere => {}
        }
        Ok(())
    }

    fn is_key(&self, key: Span, name: &str) -> bool {
        if key.has_escape() { self.decoded(key) == name } else { key.of(self.bytes) == name.as_bytes() }
    }

    /// The string that was just read from `start`. One with an escape is not taken: what is asked for is plain ASCII, and
    /// what is kept is borrowed.
    fn plain(&self, start: usize) -> Option<&'a str> {
        let text = self.text[start..self.at].strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        text.filter(|text| !text.contains('\\'))
    }

    fn value(&mut self, depth: usize, place: Place) -> Checked<Kind> {
        match self.peek() {
            b'"' => {
                self.string()?;
                Ok(Kind::Primitive)
            }
            b'{' => {
                self.object(depth, place)?;
                Ok(Kind::Object)
            }
            b'[' => {
                self.array(depth, place)?;
                Ok(Kind::Array)
            }
            b'-' | b'0'..=b'9' => {
                self.number()?;
                Ok(Kind::Primitive)
            }
            b't' => self.word(b"true", Kind::Primitive),
            b'f' => self.word(b"false", Kind::Primitive),
            b'n' => self.word(b"null", Kind::Null),
            _ => fault(Code::NotJson),
        }
    }

    fn word(&mut self, word: &[u8], kind: Kind) -> Checked<Kind> {
        if !self.bytes[self.at..].starts_with(word) {
            return fault(Code::NotJson);
        }
        self.at += word.len();
        Ok(kind)
    }

    /// Null may stand in an array of primitives, and in its `_x` companion, to keep their places in step
    /// (R4 json.html, "Repeating primitive elements"); never among objects.
    fn array(&mut self, depth: usize, place: Place) -> Checked<()> {
        if depth > MAX_DEPTH {
            return fault(Code::TooDeep);
        }
        self.at += 1;
        self.space();
        if self.peek() == b']' {
            return fault(Code::EmptyElement);
        }
        let mut first_null = None;
        let mut has_object = false;
        let mut index = 0;
        loop {
            let kind = self.value(depth + 1, Place::Elsewhere).map_err(|trouble| inside(trouble, Step::Index(index)))?;
            match kind {
                Kind::Null => first_null = first_null.or(Some(index)),
                Kind::Object | Kind::Array => has_object = true,
                Kind::Primitive => {}
            }
            self.space();
            match self.peek() {
                b',' => {
                    self.at += 1;
                    self.space();
                    index += 1;
                }
                b']' => {
                    self.at += 1;
                    break;
                }
                _ => return fault(Code::NotJson),
            }
        }
        match first_null {
            Some(index) if has_object && place != Place::Companion => fault(Code::NullValue).map_err(|trouble| inside(trouble, Step::Index(index))),
            Some(_) | None => Ok(()),
        }
    }

    fn string(&mut self) -> Checked<Span> {
        let start = self.at + 1;
        let mut end = start;
        let mut has_escape = false;
        loop {
            end = next_special(self.bytes, end);
            match self.bytes.get(end) {
                Some(b'"') => break,
                Some(b'\\') => {
                    has_escape = true;
                    end = self.escape(end)?;
                }
                Some(_) => return fault(Code::ControlCharacter),
                None => return fault(Code::NotJson),
            }
        }
        if start == end {
            return fault(Code::EmptyElement);
        }
        self.at = end + 1;
        Ok(Span::new(start, end, has_escape))
    }

    /// Checks the escape at `at` and answers where the text goes on.
    fn escape(&self, at: usize) -> Checked<usize> {
        match self.bytes.get(at + 1) {
            Some(b'"' | b'\\' | b'/' | b'n' | b'r' | b't') => Ok(at + 2),
            Some(b'b' | b'f') => fault(Code::ControlCharacter),
            Some(b'u') => match self.code_unit(at)? {
                0x09 | 0x0A | 0x0D => Ok(at + 6),
                0x00..=0x1F => fault(Code::ControlCharacter),
                0xD800..=0xDBFF => match self.bytes.get(at + 6..at + 8) {
                    Some(b"\\u") if matches!(self.code_unit(at + 6)?, 0xDC00..=0xDFFF) => Ok(at + 12),
                    // Half of a pair stands for no character and has no UTF-8.
                    Some(_) | None => fault(Code::NotUtf8),
                },
                0xDC00..=0xDFFF => fault(Code::NotUtf8),
                _ => Ok(at + 6),
            },
            Some(_) | None => fault(Code::NotJson),
        }
    }

    fn code_unit(&self, at: usize) -> Checked<u32> {
        let digits = self.text.get(at + 2..at + 6).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        match digits.and_then(|digits| u32::from_str_radix(digits, 16).ok()) {
            Some(unit) => Ok(unit),
            None => fault(Code::NotJson),
        }
    }

    fn number(&mut self) -> Checked<()> {
        if self.peek() == b'-' {
            self.at += 1;
        }
        let has_leading_zero = self.peek() == b'0';
        let whole = self.digits();
        if whole == 0 || has_leading_zero && whole > 1 {
            return fault(Code::NotJson);
        }
        let mut fraction = 0;
        if self.peek() == b'.' {
            self.at += 1;
            fraction = self.digits();
            if fraction == 0 {
                return fault(Code::NotJson);
            }
        }
        let mut exponent = 0_u32;
        if matches!(self.peek(), b'e' | b'E') {
            self.at += 1;
            if matches!(self.peek(), b'+' | b'-') {
                self.at += 1;
            }
            let start = self.at;
            if self.digits() == 0 {
                return fault(Code::NotJson);
            }
            exponent = self.bytes[start..self.at].iter().fold(0, |sum: u32, digit| sum.saturating_mul(10).saturating_add(u32::from(digit - b'0')));
        }
        if whole + fraction > MAX_DIGITS || exponent > MAX_EXPONENT { fault(Code::InvalidNumber) } else { Ok(()) }
    }

    fn digits(&mut self) -> usize {
        let start = self.at;
        while self.peek().is_ascii_digit() {
            self.at += 1;
        }
        self.at - start
    }

    /// The characters a span stands for. Only called on spans that `string` has checked.
    fn decoded(&self, span: Span) -> Cow<'a, str> {
        if !span.has_escape() {
            return Cow::Borrowed(&self.text[span.start()..span.end()]);
        }
        let quoted = &self.text[span.start() - 1..=span.end()];
        Cow::Owned(serde_json::from_str(quoted).expect("a string that passed the gate is a JSON string"))
    }

    fn note_key(&mut self, first: usize, span: Span) -> Checked<()> {
        let fingerprint = if span.has_escape() { fingerprint(self.decoded(span).as_bytes()) } else { fingerprint(span.of(self.bytes)) };
        let count = self.keys.len();
        if count - first < FEW_KEYS {
            for other in first..count {
                let other = self.keys.get(other);
                if other.fingerprint == fingerprint && self.decoded(other.span) == self.decoded(span) {
                    return fault(Code::DuplicateKey).map_err(|trouble| inside(trouble, Step::Key(span)));
                }
            }
        }
        self.keys.push(Key { fingerprint, span });
        Ok(())
    }

    /// Compares the keys of an object that has too many to compare each with each.
    fn sort_out_keys(&mut self, first: usize) -> Checked<()> {
        if self.keys.len() - first <= FEW_KEYS {
            return Ok(());
        }
        let mut keys: Vec<(Cow<'a, str>, Span)> =
            (first..self.keys.len()).map(|at| self.keys.get(at).span).map(|span| (self.decoded(span), span)).collect();
        keys.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        match keys.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            Some(pair) => fault(Code::DuplicateKey).map_err(|trouble| inside(trouble, Step::Key(pair[1].1))),
            None => Ok(()),
        }
    }

    /// `Observation.category[0].coding[0].code`; a key that does not look like an element's name shows as `?`.
    fn path(&self, trouble: &Trouble) -> String {
        if trouble.steps.is_empty() && self.picked.resource_type.is_none() {
            return String::new();
        }
        let mut path = String::from(self.picked.resource_type.unwrap_or("Resource"));
        for step in trouble.steps.iter().rev() {
            match step {
                Step::Index(index) => path.push_str(&format!("[{index}]")),
                Step::Key(span) => {
                    path.push('.');
                    path.push_str(element_name(&self.decoded(*span)).unwrap_or("?"));
                }
            }
            if path.len() > MAX_PATH {
                path.truncate(MAX_PATH);
                path.push_str("...");
                break;
            }
        }
        path
    }
}

/// A key as it may be shown, if it looks like the name of an element.
pub fn element_name(key: &str) -> Option<&str> {
    let is_name = (1..=64).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
    is_name.then_some(key)
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// Position of the next quote, backslash or control character at or after `at`, or the length of the text.
pub(super) fn next_special(bytes: &[u8], mut at: usize) -> usize {
    while let Some(chunk) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        // Eight bytes at once: a byte is found by the borrow it takes in a subtraction. Higher bytes may be found
        // falsely, the lowest one never, and only the lowest is used.
        let word = u64::from_le_bytes(*chunk);
        let quote = word ^ (ONES * b'"' as u64);
        let backslash = word ^ (ONES * b'\\' as u64);
        let found = (quote.wrapping_sub(ONES) & !quote | backslash.wrapping_sub(ONES) & !backslash | word.wrapping_sub(ONES * 0x20) & !word) & HIGH;
        if found != 0 {
            return at + (found.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    while at < bytes.len() && !matches!(bytes[at], b'"' | b'\\' | 0x00..=0x1F) {
        at += 1;
    }
    at
}

#[derive(Clone, Copy, Default)]
struct Key {
    fingerprint: u64,
    span: Span,
}

/// Equal keys have equal fingerprints; what has equal fingerprints is compared in full.
fn fingerprint(key: &[u8]) -> u64 {
    let length = key.len();
    let (head, tail) = if let (Some(head), Some(tail)) = (key.first_chunk::<8>(), key.last_chunk::<8>()) {
        (u64::from_le_bytes(*head), u64::from_le_bytes(*tail))
    } else if let (Some(head), Some(tail)) = (key.first_chunk::<4>(), key.last_chunk::<4>()) {
        (u64::from(u32::from_le_bytes(*head)), u64::from(u32::from_le_bytes(*tail)))
    } else {
        (u64::from(key[0]), u64::from(key[length / 2]) << 8 | u64::from(key[length - 1]))
    };
    (head.rotate_left(31) ^ tail).wrapping_add((length as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

const STACKED_KEYS: usize = 48;

/// The keys of the objects that are open, as a stack: the first ones without a heap block.
struct Keys {
    count: usize,
    stacked: [Key; STACKED_KEYS],
    more: Vec<Key>,
}

impl Keys {
    fn new() -> Keys {
        Keys { count: 0, stacked: [Key::default(); STACKED_KEYS], more: Vec::new() }
    }

    fn len(&self) -> usize {
        self.count
    }

    fn get(&self, at: usize) -> Key {
        if at < STACKED_KEYS { self.stacked[at] } else { self.more[at - STACKED_KEYS] }
    }

    fn push(&mut self, key: Key) {
        if self.count < STACKED_KEYS {
            self.stacked[self.count] = key;
        } else {
            self.more.push(key);
        }
        self.count += 1;
    }

    fn truncate(&mut self, count: usize) {
        self.more.truncate(count.saturating_sub(STACKED_KEYS));
        self.count = count;
    }
}
