//! The encoding of HL7 v2 by bars and hats (ER7): delimiters, segments, fields, repetitions, components, subcomponents and
//! escapes. Knows no segment's meaning but that MSH says how it is written.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use super::charset::Charset;
use crate::issue::{Code, Issue};

/// How one message is written.
#[derive(Clone, Copy, Debug)]
pub struct Encoding {
    field: char,
    component: char,
    repetition: Option<char>,
    escape: Option<char>,
    subcomponent: Option<char>,
    charset: Charset,
}

/// A message cut into segments.
#[derive(Debug)]
pub struct Message<'t> {
    pub encoding: Encoding,
    pub segments: Vec<Segment<'t>>,
}

/// One segment, without its end.
#[derive(Debug)]
pub struct Segment<'t> {
    pub name: &'t str,
    /// Which of its name it is, from 1.
    pub number: usize,
    /// Among all segments of its message, from 0.
    pub place: usize,
    text: Cow<'t, str>,
}

/// Whether bytes begin as a message or a batch of messages does.
pub fn is_message(bytes: &[u8]) -> bool {
    separator(bytes, &[b"MSH"]).is_some() || is_batch(bytes)
}

/// Whether bytes begin as a batch does.
pub fn is_batch(bytes: &[u8]) -> bool {
    separator(bytes, &[b"FHS", b"BHS"]).is_some()
}

/// The field separator behind one of these names.
fn separator(bytes: &[u8], names: &[&[u8]]) -> Option<u8> {
    let bytes = begun(bytes);
    let rest = names.iter().find_map(|name| bytes.strip_prefix(*name))?;
    rest.first().copied().filter(u8::is_ascii_punctuation)
}

/// Without what some senders put in front: a byte order mark, line ends, blanks.
fn begun(bytes: &[u8]) -> &[u8] {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    bytes.trim_ascii_start()
}

/// Where the messages of a batch stand, or the one message that the bytes are: each from its MSH to the next, without the
/// batch's own segments. Bytes that hold no message are one, to be refused.
pub fn messages(bytes: &[u8]) -> Vec<Range<usize>> {
    let mut messages = Vec::new();
    let mut from = None;
    let mut at = bytes.len() - begun(bytes).len();
    while at < bytes.len() {
        let end = memchr::memchr2(b'\r', b'\n', &bytes[at..]).map_or(bytes.len(), |place| at + place);
        let line = &bytes[at..end];
        let begins = |name: &[u8]| line.strip_prefix(name).and_then(<[u8]>::first).is_some_and(u8::is_ascii_punctuation);
        let ends_batch = [b"FHS", b"BHS", b"BTS", b"FTS"].iter().any(|name| line == *name || begins(*name));
        if begins(b"MSH") || ends_batch {
            messages.extend(from.take().map(|from| from..at));
            from = (!ends_batch).then_some(at);
        }
        at = end + 1;
    }
    messages.extend(from.map(|from| from..bytes.len()));
    if messages.is_empty() || !is_message(bytes) {
        messages.clear();
        messages.push(0..bytes.len());
    }
    messages
}

/// The text of a message, by MSH-18 or else by what the site says, with the set it was read by.
pub fn text<'b>(bytes: &'b [u8], by_site: Option<Charset>) -> Result<(Cow<'b, str>, Charset), Issue> {
    let bytes = begun(bytes);
    let named = raw_field(bytes, 18);
    let unknown = |detail: &str| Issue::new(Code::CharsetUnknown, "MSH-18").with_detail(detail);
    // A second repetition names a set that escape sequences switch to; what they hold is left out.
    let first = named.split(|byte| !matches!(byte, b' ' | b'-' | b'/' | b'.') && !byte.is_ascii_alphanumeric()).next().unwrap_or_default();
    let declared = match String::from_utf8_lossy(first).trim() {
        "" => None,
        word => Some(Charset::named(word).ok_or_else(|| unknown(word))?),
    };
    let charset = match (declared, by_site) {
        (Some(Charset::Of(encoding)), _) => Charset::Of(encoding),
        // What is declared as seven bits and is not is read as the site says.
        (Some(Charset::Ascii) | None, Some(by_site)) => by_site,
        (Some(Charset::Ascii), None) => Charset::Ascii,
        // ASCII is UTF-8, and text beyond it that happens to be valid UTF-8 is nothing else.
        (None, None) => Charset::UTF_8,
    };
    let text = charset.decode(bytes).ok_or_else(|| unknown("bytes that do not fit it"))?;
    Ok((text, charset))
}

/// One field of MSH as bytes, before any character set is known.
fn raw_field(bytes: &[u8], number: usize) -> &[u8] {
    let end = memchr::memchr2(b'\r', b'\n', bytes).unwrap_or(bytes.len());
    let Some(separator) = bytes.get(3) else { return &[] };
    // The separator itself is MSH-1.
    bytes[..end].split(|byte| byte == separator).nth(number - 1).unwrap_or_default()
}

impl<'t> Message<'t> {
    /// Cuts a text that begins with MSH. Segments end with CR; a text without any CR may end them with LF. A line that is
    /// no segment goes on what the segment before it says, since a line end in a field is the sender's commonest mistake.
    pub fn parse(text: &'t str, charset: Charset) -> Option<Message<'t>> {
        let mut signs = text.strip_prefix("MSH")?.chars();
        let field = signs.next().filter(char::is_ascii_punctuation)?;
        let mut written = signs.take_while(|sign| *sign != field && sign.is_ascii_graphic() && !sign.is_ascii_alphanumeric());
        let encoding =
            Encoding { field, component: written.next()?, repetition: written.next(), escape: written.next(), subcomponent: written.next(), charset };
        let end = if text.contains('\r') { '\r' } else { '\n' };
        let mut segments: Vec<Segment<'t>> = Vec::new();
        let mut numbers: HashMap<&str, usize> = HashMap::new();
        for line in text.split(end) {
            let line = if end == '\r' { line.strip_prefix('\n').unwrap_or(line) } else { line };
            if line.trim().is_empty() {
                continue;
            }
            match segment_name(line, field) {
                Some(name) => {
                    let number = numbers.entry(name).or_default();
                    *number += 1;
                    segments.push(Segment { name, number: *number, place: segments.len(), text: Cow::Borrowed(line) });
                }
                None => {
                    let before = segments.last_mut()?.text.to_mut();
                    before.push('\n');
                    before.push_str(line);
                }
            }
        }
        Some(Message { encoding, segments })
    }

    pub fn first(&self, name: &str) -> Option<&Segment<'t>> {
        self.segments.iter().find(|segment| segment.name == name)
    }

    /// One field of a segment of this message.
    pub fn field<'m>(&'m self, segment: &'m Segment<'m>, number: usize) -> Piece<'m> {
        let place = if segment.name == "MSH" { number.saturating_sub(1) } else { number };
        Piece { text: segment.text.split(self.encoding.field).nth(place).unwrap_or(""), encoding: &self.encoding }
    }
}

fn segment_name(line: &str, field: char) -> Option<&str> {
    let name = line.get(..3).filter(|name| name.starts_with(|c: char| c.is_ascii_uppercase()))?;
    let is_name = name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
    (is_name && line[3..].chars().next().is_none_or(|next| next == field)).then_some(name)
}

impl Segment<'_> {
    /// `OBX[2]-5`, as issues name a field.
    pub fn path(&self, field: usize) -> String {
        format!("{}[{}]-{field}", self.name, self.number)
    }
}

/// A field, or a part of one.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'m> {
    text: &'m str,
    encoding: &'m Encoding,
}

impl<'m> Piece<'m> {
    pub fn repetitions(self) -> impl Iterator<Item = Piece<'m>> {
        let encoding = self.encoding;
        split(self.text, encoding.repetition).map(move |text| Piece { text, encoding })
    }

    /// Of the first repetition, from 1; empty where there is none.
    pub fn component(self, number: usize) -> Piece<'m> {
        let first = split(self.text, self.encoding.repetition).next().unwrap_or("");
        Piece { text: first.split(self.encoding.component).nth(number - 1).unwrap_or(""), ..self }
    }

    pub fn subcomponent(self, number: usize) -> Piece<'m> {
        Piece { text: split(self.text, self.encoding.subcomponent).nth(number - 1).unwrap_or(""), ..self }
    }

    /// Nothing is said.
    pub fn is_empty(self) -> bool {
        self.text.trim().is_empty()
    }

    /// `""`: what was said before is taken back.
    pub fn is_null(self) -> bool {
        self.text.trim() == "\"\""
    }

    /// As it is written, delimiters and escapes included.
    pub fn raw(self) -> &'m str {
        self.text
    }

    /// What is said, escapes resolved; empty for nothing and for `""`.
    pub fn value(self) -> Cow<'m, str> {
        if self.is_null() {
            return Cow::Borrowed("");
        }
        let text = match self.encoding.escape {
            Some(escape) if self.text.contains(escape) => Cow::Owned(unescaped(self.text, escape, self.encoding)),
            Some(_) | None => Cow::Borrowed(self.text),
        };
        without_controls(text)
    }
}

fn split(text: &str, separator: Option<char>) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let cut = separator.and_then(|separator| text.split_once(separator));
        rest = cut.map(|(_, after)| after);
        Some(cut.map_or(text, |(before, _)| before))
    })
}

/// Line ends and tabs stay; other control characters mean nothing and no JSON string may hold them here.
fn without_controls(text: Cow<'_, str>) -> Cow<'_, str> {
    let is_plain = |c: char| !c.is_control() || c == '\n' || c == '\t';
    if !text.chars().all(is_plain) {
        return Cow::Owned(text.replace("\r\n", "\n").replace('\r', "\n").chars().filter(|c| is_plain(*c)).collect::<String>().trim().to_owned());
    }
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.trim()),
        Cow::Owned(text) => Cow::Owned(text.trim().to_owned()),
    }
}

/// Blanks and lines that one formatting command may ask for.
const MOST_BLANKS: usize = 80;

/// A backslash that begins no sequence stands for itself.
fn unescaped(text: &str, escape: char, encoding: &Encoding) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(escape) {
        out.push_str(before);
        let sequence = after.split_once(escape).and_then(|(sequence, behind)| Some((meaning(sequence, escape, encoding)?, behind)));
        match sequence {
            Some((means, behind)) => {
                out.push_str(&means);
                rest = behind;
            }
            None => {
                out.push(escape);
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

/// What stands between two escape characters (HL7 v2.5.1, 2.7); `None` where that is no sequence.
fn meaning<'s>(sequence: &'s str, escape: char, encoding: &Encoding) -> Option<Cow<'s, str>> {
    let one = |sign: Option<char>| Some(Cow::Owned(sign.map(String::from).unwrap_or_default()));
    let count = |text: &str| text.trim_start_matches('+').trim().parse().unwrap_or(1_usize).min(MOST_BLANKS);
    match sequence {
        "F" => one(Some(encoding.field)),
        "S" => one(Some(encoding.component)),
        "R" => one(encoding.repetition),
        "T" => one(encoding.subcomponent),
        "E" => one(Some(escape)),
        "P" => one(Some('#')),
        // Highlighting begins and ends.
        "H" | "N" => Some(Cow::Borrowed("")),
        ".br" | ".ce" => Some(Cow::Borrowed("\n")),
        ".fi" | ".nf" => Some(Cow::Borrowed("")),
        _ => {
            if let Some(lines) = sequence.strip_prefix(".sp") {
                return Some(Cow::Owned("\n".repeat(count(lines))));
            }
            if let Some(blanks) = sequence.strip_prefix(".sk") {
                return Some(Cow::Owned(" ".repeat(count(blanks))));
            }
            if sequence.starts_with(".in") || sequence.starts_with(".ti") {
                return Some(Cow::Borrowed(""));
            }
            if let Some(digits) = sequence.strip_prefix('X') {
                // Bytes that do not fit the character set stay as they are written: a unit must not lose its prefix.
                let bytes = from_hex(digits)?;
                return Some(Cow::Owned(encoding.charset.decode(&bytes)?.into_owned()));
            }
            // Another character set for what follows, or something of the sender's own: left out.
            let is_switch = (sequence.starts_with('C') || sequence.starts_with('M')) && from_hex(&sequence[1..]).is_some();
            let is_local = sequence.starts_with('Z') && sequence.len() <= 20 && sequence.bytes().all(|byte| byte.is_ascii_alphanumeric());
            (is_switch || is_local).then_some(Cow::Borrowed(""))
        }
    }
}

fn from_hex(digits: &str) -> Option<Vec<u8>> {
    let digits = digits.as_bytes();
    if digits.is_empty() || !digits.len().is_multiple_of(2) {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    digits.chunks(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Message<'_> {
        Message::parse(text, Charset::UTF_8).unwrap()
    }

    fn value(field: &str) -> String {
        let text = format!("MSH|^~\\&|\rOBX|{field}");
        let message = parsed(&text);
        message.field(&message.segments[1], 1).value().into_owned()
    }

    #[test]
    fn escapes_mean_what_the_standard_says_and_a_lone_backslash_stands_for_itself() {
        for (written, means) in [
            (r"a\F\b", "a|b"),
            (r"a\S\b", "a^b"),
            (r"a\T\b", "a&b"),
            (r"a\R\b", "a~b"),
            (r"a\E\b", r"a\b"),
            (r"\H\high\N\", "high"),
            (r"one\.br\two", "one\ntwo"),
            (r"one\.sp2\two", "one\n\ntwo"),
            (r"one\.sp+1\two", "one\ntwo"),
            (r"one\.sk3\two", "one   two"),
            (r"\.in5\one\.ti-2\", "one"),
            (r"\XC2B5\mol", "\u{b5}mol"),
            (r"tab\X09\tab", "tab\ttab"),
            (r"no\X0\hex", r"no\X0\hex"),
            (r"\XB5\mol", r"\XB5\mol"),
            (r"\C2842\kanji\M2442\", "kanji"),
            (r"\Zlocal\own", "own"),
            (r"C:\lab\result", r"C:\lab\result"),
            (r"5\10", r"5\10"),
            (r"a\", r"a\"),
            (r"\\F\", r"\|"),
            (r"", ""),
            ("\"\"", ""),
            ("  spaces  ", "spaces"),
            ("bell\u{7}", "bell"),
        ] {
            assert_eq!(value(written), means, "{written}");
        }
    }

    #[test]
    fn a_message_is_cut_by_its_own_delimiters() {
        let message = parsed("MSH*:+!%*LAB\rPID***one:two%three:four+five*\r");
        let pid = message.first("PID").unwrap();
        let field = message.field(pid, 3);
        assert_eq!(field.component(2).subcomponent(2).value(), "three");
        assert_eq!(field.repetitions().map(|one| one.component(1).value().into_owned()).collect::<Vec<_>>(), ["one", "five"]);
        assert_eq!(message.field(message.first("MSH").unwrap(), 3).value(), "LAB");
        assert!(message.field(pid, 9).is_empty() && field.component(9).is_empty());
    }

    #[test]
    fn segments_end_with_any_line_end_and_a_stray_one_is_mended() {
        for text in ["MSH|^~\\&|A\rPID|1\rOBX|1|TX\r", "MSH|^~\\&|A\nPID|1\nOBX|1|TX\n", "MSH|^~\\&|A\r\nPID|1\r\n\r\nOBX|1|TX\r\n"] {
            let message = parsed(text);
            assert_eq!(message.segments.iter().map(|segment| segment.name).collect::<Vec<_>>(), ["MSH", "PID", "OBX"]);
            assert_eq!(message.field(&message.segments[2], 2).value(), "TX");
        }
        let message = parsed("MSH|^~\\&|A\rOBX|1|TX|a line\rand another|F\rOBX|2");
        assert_eq!(message.field(&message.segments[1], 3).value(), "a line\nand another");
        assert_eq!(message.field(&message.segments[1], 4).value(), "F");
        assert_eq!(message.segments[2].path(5), "OBX[2]-5");
    }

    #[test]
    fn a_batch_is_cut_into_its_messages() {
        let text = b"FHS|^~\\&|A\rBHS|^~\\&|A\rMSH|^~\\&|1\rPID|1\rMSH|^~\\&|2\rBTS|2\rFTS|1\r";
        let found: Vec<&[u8]> = messages(text).into_iter().map(|range| &text[range]).collect();
        assert_eq!(found, [b"MSH|^~\\&|1\rPID|1\r".as_slice(), b"MSH|^~\\&|2\r"]);
        assert_eq!(messages(b"{}"), std::slice::from_ref(&(0..2)));
        assert_eq!(messages(b"BHS|^~\\&|A\rBTS|0\r").len(), 1, "a batch of nothing is refused as one");
    }

    #[test]
    fn character_sets_are_named_by_the_message_or_by_the_site_and_never_guessed_beyond_utf_8() {
        let message = |named: &str, name: &[u8]| [format!("MSH|^~\\&||||||||||||||||{named}\rPID|").as_bytes(), name].concat();
        let latin = b"M\xFCller".as_slice();
        let read = |named, name, by_site| text(&message(named, name), by_site).map(|(text, _)| text.rsplit('|').next().unwrap().to_owned()).ok();
        assert_eq!(read("8859/1", latin, None).as_deref(), Some("Müller"));
        assert_eq!(read("UNICODE UTF-8", "Müller".as_bytes(), None).as_deref(), Some("Müller"));
        assert_eq!(read("BIG-5", b"\xA4\xFD\xA5\x5C", None).as_deref(), Some("王功"), "a second byte that looks like a delimiter is none");
        assert_eq!(read("UNICODE UTF-8~ISO IR87", "Müller".as_bytes(), None).as_deref(), Some("Müller"));
        assert_eq!(read("", "Müller".as_bytes(), None).as_deref(), Some("Müller"));
        assert_eq!(read("", latin, Charset::named("8859/1")).as_deref(), Some("Müller"));
        assert_eq!(read("ASCII", latin, Charset::named("8859/1")).as_deref(), Some("Müller"));
        assert_eq!(read("", latin, None), None);
        assert_eq!(read("ASCII", "Müller".as_bytes(), None), None);
        assert_eq!(read("UNICODE UTF-8", latin, None), None);
        assert_eq!(read("ISO IR87", b"x", None), None);
    }
}
