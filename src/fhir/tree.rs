//! A resource as a tree of borrowed slices, for the schema check alone: read in a seventh of the time of a
//! `serde_json::Value`. It trusts the gate: its text is JSON, nested less deeply than the gate allows.

use std::borrow::Cow;

use jsonschema::JsonType;
use jsonschema::json::{Array, Json, JsonNumber, Node, NodeIdentity, Object};
use serde_json::Value;

/// One JSON value. Names and texts are borrowed unless they hold an escape.
#[derive(Debug, Default)]
pub enum Tree<'a> {
    #[default]
    Null,
    Boolean(bool),
    /// The digits as written.
    Number(&'a str),
    Text(Cow<'a, str>),
    List(Vec<Tree<'a>>),
    Members(Vec<(Cow<'a, str>, Tree<'a>)>),
}

impl<'a> Tree<'a> {
    /// Reads a text that has passed the gate.
    pub fn read(text: &'a str) -> Tree<'a> {
        Reader { text, at: 0 }.value()
    }

    /// The names of an object's members.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let members = if let Tree::Members(members) = self { members.as_slice() } else { &[] };
        members.iter().map(|(name, _)| name.as_ref())
    }

    /// A member of an object.
    pub fn member(&self, name: &str) -> Option<&Tree<'a>> {
        let members = if let Tree::Members(members) = self { members.as_slice() } else { &[] };
        members.iter().find(|(member, _)| member == name).map(|(_, value)| value)
    }

    /// The items of a list.
    pub fn items(&self) -> impl Iterator<Item = &Tree<'a>> {
        let items = if let Tree::List(items) = self { items.as_slice() } else { &[] };
        items.iter()
    }

    fn to_serde(&self) -> Value {
        match self {
            Tree::Null => Value::Null,
            Tree::Boolean(value) => Value::Bool(*value),
            Tree::Number(digits) => Value::Number(number(digits)),
            Tree::Text(text) => Value::String(text.to_string()),
            Tree::List(items) => Value::Array(items.iter().map(Tree::to_serde).collect()),
            Tree::Members(members) => Value::Object(members.iter().map(|(name, value)| (name.to_string(), value.to_serde())).collect()),
        }
    }
}

fn number(digits: &str) -> serde_json::Number {
    digits.parse().expect("the gate let only JSON numbers pass")
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    /// The next byte that is not a blank; 0 at the end.
    fn peek(&mut self) -> u8 {
        let bytes = self.text.as_bytes();
        while self.at < bytes.len() && matches!(bytes[self.at], b' ' | b'\t' | b'\n' | b'\r') {
            self.at += 1;
        }
        bytes.get(self.at).copied().unwrap_or(0)
    }

    fn value(&mut self) -> Tree<'a> {
        match self.peek() {
            b'{' => {
                self.at += 1;
                let mut members = Vec::new();
                while self.peek() == b'"' {
                    let name = self.string();
                    self.peek();
                    // The colon.
                    self.at += 1;
                    members.push((name, self.value()));
                    if self.peek() == b',' {
                        self.at += 1;
                    }
                }
                self.at += 1;
                Tree::Members(members)
            }
            b'[' => {
                self.at += 1;
                let mut items = Vec::new();
                while !matches!(self.peek(), b']' | 0) {
                    items.push(self.value());
                    if self.peek() == b',' {
                        self.at += 1;
                    }
                }
                self.at += 1;
                Tree::List(items)
            }
            b'"' => Tree::Text(self.string()),
            _ => {
                let rest = &self.text[self.at..];
                let length = rest.find([',', '}', ']', ' ', '\t', '\n', '\r']).unwrap_or(rest.len());
                // At least one byte is taken, so that not even a broken text could hold the reader up.
                self.at += length.max(1);
                match &rest[..length] {
                    "null" | "" => Tree::Null,
                    "true" => Tree::Boolean(true),
                    "false" => Tree::Boolean(false),
                    digits => Tree::Number(digits),
                }
            }
        }
    }

    /// A string from its opening quote on.
    fn string(&mut self) -> Cow<'a, str> {
        let start = self.at + 1;
        let bytes = self.text.as_bytes();
        let mut at = start;
        let mut is_plain = true;
        while let Some(place) = memchr::memchr2(b'"', b'\\', &bytes[at.min(bytes.len())..]) {
            at += place;
            if bytes[at] == b'"' {
                break;
            }
            is_plain = false;
            at += 2;
        }
        let end = at.min(bytes.len());
        self.at = end + 1;
        if is_plain {
            return Cow::Borrowed(&self.text[start..end]);
        }
        let quoted = &self.text[start - 1..self.at.min(bytes.len())];
        Cow::Owned(serde_json::from_str(quoted).expect("the gate let only JSON strings pass"))
    }
}

/// The representation that the schema checker is told to read.
pub struct Borrowed;

impl Json for Borrowed {
    type Node<'a> = &'a Tree<'a>;
    type PreparedKey = String;
    type StringBuffer = Tree<'static>;

    // Members lie in the order they were sent, so a lookup passes them one by one.
    const KEYS_PER_LOOKUP: usize = 4;

    fn prepare_key(key: &str) -> String {
        key.to_owned()
    }

    fn with_string_node<T>(buffer: &mut Tree<'static>, string: &str, f: impl FnOnce(Self::Node<'_>) -> T) -> T {
        *buffer = Tree::Text(Cow::Owned(string.to_owned()));
        f(buffer)
    }
}

/// A number by its digits.
#[derive(Clone, Copy)]
pub struct Digits<'a>(&'a str);

impl JsonNumber for Digits<'_> {
    fn as_u64(&self) -> Option<u64> {
        self.0.parse().ok()
    }

    fn as_i64(&self) -> Option<i64> {
        self.0.parse().ok()
    }

    fn as_f64(&self) -> Option<f64> {
        self.0.parse().ok()
    }

    fn as_str(&self) -> Cow<'_, str> {
        Cow::Borrowed(self.0)
    }

    fn to_number(&self) -> Cow<'_, serde_json::Number> {
        Cow::Owned(number(self.0))
    }
}

impl<'a> Node<'a, Borrowed> for &'a Tree<'a> {
    type Object = &'a [(Cow<'a, str>, Tree<'a>)];
    type Array = &'a [Tree<'a>];
    type Number = Digits<'a>;

    fn as_object(&self) -> Option<Self::Object> {
        if let Tree::Members(members) = self { Some(members) } else { None }
    }

    fn as_array(&self) -> Option<Self::Array> {
        if let Tree::List(items) = self { Some(items) } else { None }
    }

    fn as_string(&self) -> Option<Cow<'a, str>> {
        if let Tree::Text(text) = self { Some(Cow::Borrowed(text)) } else { None }
    }

    fn as_number(&self) -> Option<Digits<'a>> {
        if let Tree::Number(digits) = self { Some(Digits(digits)) } else { None }
    }

    fn as_boolean(&self) -> Option<bool> {
        if let Tree::Boolean(value) = self { Some(*value) } else { None }
    }

    fn is_null(&self) -> bool {
        matches!(self, Tree::Null)
    }

    fn json_type(&self) -> JsonType {
        match self {
            Tree::Null => JsonType::Null,
            Tree::Boolean(_) => JsonType::Boolean,
            Tree::Number(_) => JsonType::Number,
            Tree::Text(_) => JsonType::String,
            Tree::List(_) => JsonType::Array,
            Tree::Members(_) => JsonType::Object,
        }
    }

    fn equals_value(&self, expected: &Value) -> bool {
        match (self, expected) {
            (Tree::Text(text), Value::String(expected)) => text == expected,
            (Tree::Text(_), _) | (_, Value::String(_)) => false,
            _ => jsonschema::json::cmp::equal(&self.to_serde(), expected),
        }
    }

    fn to_value(&self) -> Cow<'a, Value> {
        Cow::Owned(self.to_serde())
    }

    fn identity(&self) -> Option<NodeIdentity> {
        Some(NodeIdentity::new(std::ptr::from_ref::<Tree<'_>>(self) as usize))
    }
}

type Named<'a> = (&'a str, &'a Tree<'a>);

impl<'a> Object<'a, Borrowed> for &'a [(Cow<'a, str>, Tree<'a>)] {
    type Node = &'a Tree<'a>;
    type MemberName = &'a str;
    type MembersIter = std::iter::Map<std::slice::Iter<'a, (Cow<'a, str>, Tree<'a>)>, fn(&'a (Cow<'a, str>, Tree<'a>)) -> Named<'a>>;

    fn len(&self) -> usize {
        <[_]>::len(self)
    }

    fn get(&self, key: &String) -> Option<&'a Tree<'a>> {
        self.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    fn members(&self) -> Self::MembersIter {
        self.iter().map(|(name, value)| (name.as_ref(), value))
    }
}

impl<'a> Array<'a, Borrowed> for &'a [Tree<'a>] {
    type Node = &'a Tree<'a>;
    type ElementsIter = std::slice::Iter<'a, Tree<'a>>;

    fn len(&self) -> usize {
        <[_]>::len(self)
    }

    fn elements(&self) -> Self::ElementsIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::Tree;

    #[test]
    fn the_tree_says_what_serde_json_says() {
        let texts = [
            r#"{"a":1,"b":[true,false,null,-1.50e+3],"c":{"d":"x \" \\ é \n","é":"\ud83d\ude00"},"e":"","f":[],"g":{}}"#,
            " { \"a\" :\n[ 1 ,\t2 ] , \"b\":\"q\\\\\" }\r\n",
            "[]",
            "0",
            "\"\\u0022\"",
        ];
        for text in texts {
            assert_eq!(Tree::read(text).to_serde(), serde_json::from_str::<serde_json::Value>(text).unwrap(), "{text}");
        }
    }
}
