//! Text that came from elsewhere, made harmless for where it is shown: HTML and SVG, a spreadsheet's cell, a table in
//! Markdown, an address. Knows nothing else.

use std::fmt::{self, Write};

/// Escapes HTML and makes visible what a reader must not miss: controls that turn the direction of text, or have no
/// width, are written out as `[U+202E]`. A laboratory comment can then neither become markup nor reorder a line.
#[derive(Clone, Copy, Debug, Default)]
pub struct Visible;

impl askama::filters::Escaper for Visible {
    fn write_escaped_str<W: Write>(&self, mut dest: W, string: &str) -> fmt::Result {
        let mut plain = 0;
        for (at, character) in string.char_indices() {
            if !is_special(character) {
                continue;
            }
            dest.write_str(&string[plain..at])?;
            plain = at + character.len_utf8();
            self.write_escaped_char(&mut dest, character)?;
        }
        dest.write_str(&string[plain..])
    }

    fn write_escaped_char<W: Write>(&self, mut dest: W, character: char) -> fmt::Result {
        match character {
            '&' => dest.write_str("&#38;"),
            '<' => dest.write_str("&#60;"),
            '>' => dest.write_str("&#62;"),
            '"' => dest.write_str("&#34;"),
            '\'' => dest.write_str("&#39;"),
            hidden if is_hidden(hidden) => write!(dest, "[U+{:04X}]", u32::from(hidden)),
            other => dest.write_char(other),
        }
    }
}

fn is_special(character: char) -> bool {
    matches!(character, '&' | '<' | '>' | '"' | '\'') || is_hidden(character)
}

/// Direction marks, embeddings, overrides and isolates; zero-width characters; controls other than tab and line ends.
fn is_hidden(character: char) -> bool {
    matches!(character, '\u{061C}' | '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FEFF}')
        || (character.is_control() && !matches!(character, '\t' | '\n' | '\r'))
}

/// One cell of a CSV file (RFC 4180): quoted where it must be, and never a formula for the spreadsheet that opens it.
pub fn csv_cell(text: &str) -> String {
    let is_formula = text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']);
    let text = if is_formula { format!("'{text}") } else { text.to_owned() };
    if text.contains([',', '"', '\r', '\n', ';']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

/// One cell of a CSV file whose columns may hold numbers: a negative one stays a number.
pub fn csv_cell_or_number(text: &str) -> String {
    if text.parse::<f64>().is_ok() { text.to_owned() } else { csv_cell(text) }
}

/// One cell of a Markdown table: on one line, and without markup of its own, neither Markdown's nor HTML's.
pub fn markdown_cell(text: &str) -> String {
    let mut cell = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\\' | '|' | '`' | '*' | '_' | '[' | ']' | '#' | '~' | '!' => cell.extend(['\\', character]),
            '<' => cell.push_str("&lt;"),
            '>' => cell.push_str("&gt;"),
            '&' => cell.push_str("&amp;"),
            '\n' | '\r' | '\t' => cell.push(' '),
            hidden if is_hidden(hidden) => cell.push_str(&format!("[U+{:04X}]", u32::from(hidden))),
            other => cell.push(other),
        }
    }
    cell
}

/// Percent-encodes one part of an address (RFC 3986: everything but the unreserved characters).
pub fn percent(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use askama::filters::Escaper;

    use super::*;

    #[test]
    fn markup_and_direction_controls_of_a_source_are_shown_not_obeyed() {
        let mut shown = String::new();
        Visible.write_escaped_str(&mut shown, "a<script>\u{202E}\"é'&\u{0007}\u{200B}µ").unwrap();
        assert_eq!(shown, "a&#60;script&#62;[U+202E]&#34;é&#39;&#38;[U+0007][U+200B]µ");
        assert_eq!(markdown_cell("a|b\n<i>*\u{202E}"), "a\\|b &lt;i&gt;\\*[U+202E]");
    }

    #[test]
    fn a_cell_is_never_a_formula() {
        for text in ["=1+1", "+A1", "-1+1", "@SUM(A1)", "\t=1"] {
            assert!(csv_cell(text).trim_start_matches('"').starts_with('\''), "{text}");
        }
        assert_eq!((csv_cell("-7"), csv_cell_or_number("-7")), ("'-7".to_owned(), "-7".to_owned()), "a number is no formula");
        assert_eq!(csv_cell("a,\"b\""), "\"a,\"\"b\"\"\"");
    }
}
