//! Character sets by the names that MSH-18 gives them (HL7 table 0211).

use std::borrow::Cow;

use encoding_rs::Encoding;

/// A character set that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Charset {
    /// Seven bits: what HL7 means where MSH-18 is empty.
    Ascii,
    /// Any of which the WHATWG has a table.
    Of(&'static Encoding),
}

impl Charset {
    pub const UTF_8: Charset = Charset::Of(encoding_rs::UTF_8);

    /// By its name in MSH-18. ISO 8859/1 is read as Windows-1252, which adds signs where it has control characters.
    /// Sets that switch by escape sequences (ISO IR87, IR159) and UTF-16 or UTF-32 are not read.
    pub fn named(word: &str) -> Option<Charset> {
        let folded: String = word.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_uppercase()).collect();
        let encoding = match folded.as_str() {
            "ASCII" => return Some(Charset::Ascii),
            "UNICODE" | "UNICODEUTF8" | "UTF8" => encoding_rs::UTF_8,
            "88591" | "ISO88591" => encoding_rs::WINDOWS_1252,
            "88592" => encoding_rs::ISO_8859_2,
            "88593" => encoding_rs::ISO_8859_3,
            "88594" => encoding_rs::ISO_8859_4,
            "88595" => encoding_rs::ISO_8859_5,
            "88596" => encoding_rs::ISO_8859_6,
            "88597" => encoding_rs::ISO_8859_7,
            "88598" => encoding_rs::ISO_8859_8,
            "88599" => encoding_rs::WINDOWS_1254,
            "885915" => encoding_rs::ISO_8859_15,
            "BIG5" => encoding_rs::BIG5,
            "GB18030" | "GB180302000" => encoding_rs::GB18030,
            "KSX1001" => encoding_rs::EUC_KR,
            _ => return None,
        };
        Some(Charset::Of(encoding))
    }

    /// The text of these bytes; `None` where they do not fit.
    pub fn decode(self, bytes: &[u8]) -> Option<Cow<'_, str>> {
        match self {
            Charset::Ascii => std::str::from_utf8(bytes).ok().filter(|text| text.is_ascii()).map(Cow::Borrowed),
            Charset::Of(encoding) => encoding.decode_without_bom_handling_and_without_replacement(bytes),
        }
    }
}
