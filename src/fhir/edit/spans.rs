//! A JSON text as a tree of places in it, and changes by cutting and inserting there: every byte that is not meant
//! stays as it is.

use std::ops::Range;

use serde_json::Value;

/// One value and where it stands.
pub(super) struct Node {
    pub(super) span: Range<usize>,
    pub(super) kind: Kind,
}

pub(super) enum Kind {
    Members(Vec<Member>),
    Items(Vec<Node>),
    Scalar,
}

pub(super) struct Member {
    pub(super) name: String,
    /// Where its name begins, at the quote.
    pub(super) at: usize,
    pub(super) value: Node,
}

impl Node {
    /// Reads one JSON object; `None` for anything else, and where an object names an element twice: nobody could say
    /// which of the two a change means.
    pub(super) fn read(text: &str) -> Option<Node> {
        // Proves that it is JSON, nested no deeper than serde_json goes; the reader below may trust it.
        serde_json::from_str::<Value>(text).ok().filter(Value::is_object)?;
        Reader { text, at: 0 }.value()
    }

    pub(super) fn member(&self, name: &str) -> Option<&Node> {
        match &self.kind {
            Kind::Members(members) => members.iter().find(|member| member.name == name).map(|member| &member.value),
            Kind::Items(_) | Kind::Scalar => None,
        }
    }

    /// What stands there.
    pub(super) fn value(&self, text: &str) -> Value {
        serde_json::from_str(&text[self.span.clone()]).expect("a part of a JSON text is JSON")
    }

    /// Where something is added at the end of an object or array, and whether something stands before it.
    pub(super) fn end(&self) -> (usize, bool) {
        let last = match &self.kind {
            Kind::Members(members) => members.last().map(|member| member.value.span.end),
            Kind::Items(items) => items.last().map(|item| item.span.end),
            Kind::Scalar => None,
        };
        (last.unwrap_or(self.span.start + 1), last.is_some())
    }

    /// Where its members or items stand, from name to value.
    fn parts(&self) -> Vec<Range<usize>> {
        match &self.kind {
            Kind::Members(members) => members.iter().map(|member| member.at..member.value.span.end).collect(),
            Kind::Items(items) => items.iter().map(|item| item.span.clone()).collect(),
            Kind::Scalar => Vec::new(),
        }
    }

    /// What to cut so that these parts, in order, are gone together with their commas.
    pub(super) fn cuts(&self, gone: &[usize]) -> Vec<Range<usize>> {
        let parts = self.parts();
        let mut cuts = Vec::new();
        let mut rest = gone;
        while let Some(&first) = rest.first() {
            let length = rest.iter().zip(first..).take_while(|(gone, at)| **gone == *at).count();
            let behind = first + length;
            cuts.push(match first {
                0 if behind < parts.len() => parts[0].start..parts[behind].start,
                0 => parts[0].start..parts[behind - 1].end,
                _ => parts[first - 1].end..parts[behind - 1].end,
            });
            rest = &rest[length..];
        }
        cuts
    }
}

/// Changes to one text, each at a place of its own.
#[derive(Default)]
pub(super) struct Splices(Vec<(Range<usize>, String)>);

impl Splices {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn append(&mut self, mut more: Splices) {
        self.0.append(&mut more.0);
    }

    pub(super) fn replace(&mut self, span: Range<usize>, with: String) {
        self.0.push((span, with));
    }

    pub(super) fn cut(&mut self, node: &Node, gone: &[usize]) {
        self.0.extend(node.cuts(gone).into_iter().map(|span| (span, String::new())));
    }

    /// Adds parts at the end of an object or array of which `is_empty` tells whether nothing of it stays.
    pub(super) fn add(&mut self, node: &Node, is_empty: bool, parts: &[String]) {
        if parts.is_empty() {
            return;
        }
        let (at, has_parts) = node.end();
        let comma = if has_parts && !is_empty { "," } else { "" };
        self.0.push((at..at, format!("{comma}{}", parts.join(","))));
    }

    pub(super) fn apply(mut self, text: &str) -> String {
        self.0.sort_by_key(|(span, _)| (span.start, span.end));
        let mut spliced = String::with_capacity(text.len() + 256);
        let mut from = 0;
        for (span, with) in self.0 {
            spliced.push_str(&text[from..span.start]);
            spliced.push_str(&with);
            from = span.end;
        }
        spliced.push_str(&text[from..]);
        spliced
    }
}

/// `"name":value`
pub(super) fn member_text(name: &str, value: &Value) -> String {
    format!("{}:{value}", Value::from(name))
}

/// Reads a text that is JSON.
struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn peek(&mut self) -> u8 {
        let bytes = self.text.as_bytes();
        while matches!(bytes[self.at], b' ' | b'\t' | b'\n' | b'\r') {
            self.at += 1;
        }
        bytes[self.at]
    }

    fn value(&mut self) -> Option<Node> {
        let first = self.peek();
        let start = self.at;
        let kind = match first {
            b'{' => {
                self.at += 1;
                let mut members: Vec<Member> = Vec::new();
                while self.peek() == b'"' {
                    let at = self.at;
                    self.string();
                    let name: String = serde_json::from_str(&self.text[at..self.at]).expect("a name in a JSON text is a string");
                    if members.iter().any(|member| member.name == name) {
                        return None;
                    }
                    self.peek();
                    // The colon.
                    self.at += 1;
                    let value = self.value()?;
                    members.push(Member { name, at, value });
                    if self.peek() == b',' {
                        self.at += 1;
                    }
                }
                self.at += 1;
                Kind::Members(members)
            }
            b'[' => {
                self.at += 1;
                let mut items = Vec::new();
                while self.peek() != b']' {
                    items.push(self.value()?);
                    if self.peek() == b',' {
                        self.at += 1;
                    }
                }
                self.at += 1;
                Kind::Items(items)
            }
            b'"' => {
                self.string();
                Kind::Scalar
            }
            _ => {
                let rest = &self.text[self.at..];
                self.at += rest.find([',', '}', ']', ' ', '\t', '\n', '\r']).unwrap_or(rest.len());
                Kind::Scalar
            }
        };
        Some(Node { span: start..self.at, kind })
    }

    /// Goes past the string that begins here.
    fn string(&mut self) {
        let bytes = self.text.as_bytes();
        self.at += 1;
        while bytes[self.at] != b'"' {
            self.at += if bytes[self.at] == b'\\' { 2 } else { 1 };
        }
        self.at += 1;
    }
}
