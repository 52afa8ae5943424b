//! Acknowledgements: what a sender is told of its message, by the original and the enhanced rules (HL7 v2.5.1, 2.9), in the
//! sender's own delimiters. Nothing of a message comes back but its header and places in it; never a value.

use super::er7::{is_batch, is_message};
use crate::issue::{Effect, Issue};

/// What became of a message, as its sender has to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is kept. Issues are what keeps it, or something in it, from being used.
    Taken(Vec<Issue>),
    /// It cannot be kept, whenever it is sent again.
    Refused(Vec<Issue>),
    /// It cannot be kept now; the same may go through later.
    Later(&'static str),
}

impl Verdict {
    /// MSA-1 as an application says it, and as whoever only took a message says it.
    const fn codes(&self) -> (&'static str, &'static str) {
        match self {
            Verdict::Taken(_) => ("AA", "CA"),
            Verdict::Refused(_) => ("AR", "CR"),
            Verdict::Later(_) => ("AE", "CE"),
        }
    }

    const fn is_taken(&self) -> bool {
        matches!(self, Verdict::Taken(_))
    }
}

/// What of a message its acknowledgement repeats, as bytes, whatever their character set.
#[derive(Debug, Default)]
struct Head<'b> {
    field: u8,
    encoding: &'b [u8],
    /// MSH-3 to MSH-6.
    from: [&'b [u8]; 4],
    trigger: &'b [u8],
    control_id: &'b [u8],
    processing: &'b [u8],
    version: &'b [u8],
    accept: &'b [u8],
    application: &'b [u8],
    charset: &'b [u8],
}

impl<'b> Head<'b> {
    fn read(bytes: &'b [u8]) -> Head<'b> {
        let usual = Head { field: b'|', encoding: b"^~\\&", processing: b"P", version: b"2.5.1", ..Head::default() };
        let bytes = head(bytes);
        if !is_message(bytes) || is_batch(bytes) {
            return usual;
        }
        let separator = bytes[3];
        let fields: Vec<&[u8]> = bytes.split(|byte| *byte == separator).collect();
        let field = |number: usize| fields.get(number - 1).copied().unwrap_or_default();
        let encoding = field(2);
        if encoding.is_empty() {
            return usual;
        }
        let component = |number: usize, place: usize| field(number).split(|byte| *byte == encoding[0]).nth(place - 1).unwrap_or_default();
        let or = |found: &'b [u8], usual: &'b [u8]| if found.is_empty() { usual } else { found };
        Head {
            field: separator,
            encoding,
            from: [field(3), field(4), field(5), field(6)],
            trigger: component(9, 2),
            control_id: field(10),
            processing: or(field(11), b"P"),
            version: or(field(12), b"2.5.1"),
            accept: field(15),
            application: field(16),
            charset: field(18),
        }
    }

    /// From 2.5 on ERR has fields for what was wrong.
    fn has_errors_in_fields(&self) -> bool {
        let version: String = self.version.iter().take_while(|byte| byte.is_ascii_digit() || **byte == b'.').map(|byte| char::from(*byte)).collect();
        let mut numbers = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
        (2, 5) <= (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
    }
}

/// Longest header that an acknowledgement repeats.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// What of a message or batch its acknowledgement needs: its first segment.
pub fn head(bytes: &[u8]) -> &[u8] {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes).trim_ascii_start();
    &bytes[..memchr::memchr2(b'\r', b'\n', bytes).unwrap_or(bytes.len()).min(HEAD_BYTES_MAX)]
}

/// The acknowledgements of one message that its sender waits for: one, by the original rules; by the enhanced ones, none, one
/// or two. `at` is the time as HL7 writes it, `id` the control id of ours.
pub fn acknowledgements(message: &[u8], verdict: &Verdict, at: &str, id: &str) -> Vec<Vec<u8>> {
    let head = Head::read(message);
    let (by_application, by_acceptance) = verdict.codes();
    let wants = |said: &[u8]| match said {
        b"AL" => true,
        b"ER" => !verdict.is_taken(),
        b"SU" => verdict.is_taken(),
        _ => false,
    };
    if head.accept.is_empty() && head.application.is_empty() {
        return vec![written(&head, verdict, by_application, at, id)];
    }
    let mut answers = Vec::new();
    if wants(head.accept) {
        answers.push(written(&head, verdict, by_acceptance, at, id));
    }
    if wants(head.application) {
        answers.push(written(&head, verdict, by_application, at, &format!("{id}A")));
    }
    answers
}

/// Segment by segment; each ends with CR.
struct Writer<'h> {
    head: &'h Head<'h>,
    out: Vec<u8>,
}

impl Writer<'_> {
    fn segment(&mut self, name: &str, fields: &[&[u8]]) {
        self.out.extend_from_slice(name.as_bytes());
        let filled = fields.iter().rposition(|field| !field.is_empty()).map_or(0, |last| last + 1);
        for field in &fields[..filled] {
            self.out.push(self.head.field);
            self.out.extend_from_slice(field);
        }
        self.out.push(b'\r');
    }

    /// Components; a delimiter in one of our own words is left out.
    fn composed(&self, parts: &[&str]) -> Vec<u8> {
        let component = self.head.encoding.first().copied().unwrap_or(b'^');
        let is_plain = |byte: &u8| *byte != self.head.field && !self.head.encoding.contains(byte) && !byte.is_ascii_control();
        let filled = parts.iter().rposition(|part| !part.is_empty()).map_or(0, |last| last + 1);
        let parts: Vec<Vec<u8>> = parts[..filled].iter().map(|part| part.bytes().filter(is_plain).collect()).collect();
        parts.join(&component)
    }
}

fn written(head: &Head<'_>, verdict: &Verdict, code: &str, at: &str, id: &str) -> Vec<u8> {
    let mut writer = Writer { head, out: Vec::with_capacity(256) };
    let [from_application, from_facility, to_application, to_facility] = head.from;
    let kind = match String::from_utf8_lossy(head.trigger) {
        trigger if trigger.is_empty() => writer.composed(&["ACK"]),
        trigger => writer.composed(&["ACK", &trigger, "ACK"]),
    };
    let fields: [&[u8]; 17] = [
        head.encoding,
        to_application,
        to_facility,
        from_application,
        from_facility,
        at.as_bytes(),
        b"",
        &kind,
        id.as_bytes(),
        head.processing,
        head.version,
        b"",
        b"",
        b"",
        b"",
        b"",
        head.charset,
    ];
    writer.segment("MSH", &fields);
    let issues = match verdict {
        Verdict::Taken(issues) | Verdict::Refused(issues) => issues.as_slice(),
        Verdict::Later(_) => &[],
    };
    let words = match verdict {
        Verdict::Taken(_) => String::new(),
        Verdict::Refused(issues) => issues.first().map_or_else(|| "refused".to_owned(), |issue| issue.code.meaning().to_owned()),
        Verdict::Later(words) => (*words).to_owned(),
    };
    let words = writer.composed(&[&words]);
    writer.segment("MSA", &[code.as_bytes(), head.control_id, &words]);
    if head.has_errors_in_fields() {
        for issue in issues {
            write_error(&mut writer, issue);
        }
        if let Verdict::Later(_) = verdict {
            let condition = writer.composed(&["207", "Application internal error", "HL70357"]);
            writer.segment("ERR", &[b"", b"", &condition, b"E", b"", b"", b"", &words]);
        }
    }
    writer.out
}

fn write_error(writer: &mut Writer<'_>, issue: &Issue) {
    let place = match located(&issue.path) {
        Some((segment, number, field)) => writer.composed(&[segment, number, field]),
        None => Vec::new(),
    };
    let (number, name) = condition(issue);
    let condition = writer.composed(&[number, name, "HL70357"]);
    let severity: &[u8] = match issue.code.effect() {
        Effect::Reject => b"E",
        Effect::Quarantine => b"W",
        Effect::Warn => b"I",
    };
    let code = writer.composed(&[issue.code.word(), "", "urn.nephrogate.issue"]);
    let words = writer.composed(&[&format!("{}; {}", issue.code.meaning(), issue.code.action())]);
    writer.segment("ERR", &[b"", &place, &condition, severity, &code, b"", b"", &words]);
}

/// `OBX[2]-5` as segment, which of its name, and field; `None` for a path into a resource.
fn located(path: &str) -> Option<(&str, &str, &str)> {
    let (place, field) = path.split_once('-').unwrap_or((path, ""));
    let (segment, number) = match place.split_once('[') {
        Some((segment, number)) => (segment, number.strip_suffix(']')?),
        None => (place, "1"),
    };
    let is_name = segment.len() == 3 && segment.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
    is_name.then_some((segment, number, field))
}

/// HL7 table 0357.
fn condition(issue: &Issue) -> (&'static str, &'static str) {
    use crate::issue::Code;
    match issue.code {
        Code::NotHl7V2 => ("100", "Segment sequence error"),
        Code::IdentityMissing => ("204", "Unknown key identifier"),
        Code::TimeMissing => ("101", "Required field missing"),
        Code::FieldUnreadable | Code::ZoneMissing | Code::CharsetUnknown => ("102", "Data type error"),
        Code::StatusUnknown => ("103", "Table value not found"),
        Code::EventNotFollowed => ("201", "Unsupported event code"),
        _ => ("207", "Application internal error"),
    }
}

/// What opens and closes the answer to a batch, in its own delimiters; the acknowledgements stand between.
pub fn batch_ends(batch: &[u8], count: usize, at: &str, id: &str) -> (Vec<u8>, Vec<u8>) {
    let bytes = head(batch);
    let field = bytes.get(3).copied().filter(u8::is_ascii_punctuation).unwrap_or(b'|');
    let fields: Vec<&[u8]> = bytes.split(|byte| *byte == field).collect();
    let of = |number: usize| fields.get(number - 1).copied().unwrap_or_default();
    let head = Head { field, encoding: if of(2).is_empty() { b"^~\\&" } else { of(2) }, ..Head::default() };
    let mut begin = Writer { head: &head, out: Vec::new() };
    // BHS-12 names the batch that is answered.
    begin.segment("BHS", &[head.encoding, of(5), of(6), of(3), of(4), at.as_bytes(), b"", b"", b"", id.as_bytes(), of(11)]);
    let mut ends = Writer { head: &head, out: Vec::new() };
    ends.segment("BTS", &[count.to_string().as_bytes()]);
    (begin.out, ends.out)
}
