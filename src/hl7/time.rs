//! Times as HL7 v2 writes them (`YYYY[MM[DD[HH[MM[SS[.S...]]]]]][+/-ZZZZ]`), as FHIR writes them, with a zone or not at all.

use jiff::civil;
use jiff::tz::{Offset, TimeZone};

use crate::clinical::date::{PartialDate, Precision};

/// A time in FHIR's words, with what it means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Time {
    pub text: String,
    pub date: PartialDate,
}

impl Time {
    /// Whether it has hours, minutes and a zone.
    pub fn is_instant(&self) -> bool {
        self.date.precision == Precision::Instant
    }

    /// The zone that it is written in; `None` of a day.
    pub fn zone(&self) -> Option<TimeZone> {
        let offset = self.text.split_once('T').map(|(_, clock)| clock.trim_start_matches(|c: char| c.is_ascii_digit() || c == ':' || c == '.'))?;
        let minutes = if offset == "Z" { 0 } else { offset_of(&offset.replace(':', ""))? };
        Some(TimeZone::fixed(Offset::from_seconds(minutes * 60).ok()?))
    }
}

/// Why a time is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeFault {
    Syntax,
    /// It has hours but no zone, and the site names none.
    NoZone,
}

/// Reads a time. One without a zone is of the site's; where clocks were set back the earlier of two instants is meant, where
/// they were set forward the later. Seconds that are not written are zero, since FHIR has no minutes without them.
pub fn read(text: &str, zone: Option<&TimeZone>) -> Result<Time, TimeFault> {
    let text = text.trim();
    let (local, offset) = match text.find(['+', '-']) {
        Some(place) => (&text[..place], Some(&text[place..])),
        None => (text, None),
    };
    let (digits, fraction) = local.split_once('.').unwrap_or((local, ""));
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let is_long = digits.len() == 14 || fraction.is_empty();
    if !is_number(digits) || !is_number(fraction) || !is_long || 6 < fraction.len() || !matches!(digits.len(), 4 | 6 | 8 | 10 | 12 | 14) {
        return Err(TimeFault::Syntax);
    }
    let offset = offset.map(|offset| offset_of(offset).ok_or(TimeFault::Syntax)).transpose()?;
    let part = |from: usize| digits.get(from..from + 2);
    let mut written = digits[..4].to_owned();
    for from in [4, 6] {
        if let Some(part) = part(from) {
            written.push('-');
            written.push_str(part);
        }
    }
    if let Some(hour) = part(8) {
        written.push_str(&format!("T{hour}:{}:{}", part(10).unwrap_or("00"), part(12).unwrap_or("00")));
        let offset = match offset {
            Some(offset) => offset,
            None => {
                let naive: civil::DateTime = written.parse().map_err(|_| TimeFault::Syntax)?;
                let zoned = naive.to_zoned(zone.ok_or(TimeFault::NoZone)?.clone()).map_err(|_| TimeFault::Syntax)?;
                written = zoned.strftime("%Y-%m-%dT%H:%M:%S").to_string();
                zoned.offset().seconds() / 60
            }
        };
        if !fraction.is_empty() {
            written.push('.');
            written.push_str(fraction);
        }
        match offset {
            0 => written.push('Z'),
            _ => written.push_str(&format!("{}{:02}:{:02}", if offset < 0 { '-' } else { '+' }, offset.abs() / 60, offset.abs() % 60)),
        }
    }
    let date = PartialDate::parse(&written).map_err(|_| TimeFault::Syntax)?;
    Ok(Time { text: written, date })
}

/// `+0800` in minutes east of UTC.
fn offset_of(text: &str) -> Option<i32> {
    let (sign, digits) = text.split_at(1);
    if digits.len() != 4 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let minutes = digits[..2].parse::<i32>().ok()? * 60 + digits[2..].parse::<i32>().ok()?;
    Some(if sign == "-" { -minutes } else { minutes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_their_own_zone_or_the_sites_and_with_no_other() {
        let taipei = TimeZone::fixed(jiff::tz::offset(8));
        for (written, means) in [
            ("1966", "1966"),
            ("196602", "1966-02"),
            ("19660203", "1966-02-03"),
            ("20260301101500", "2026-03-01T10:15:00+08:00"),
            ("202603011015", "2026-03-01T10:15:00+08:00"),
            ("2026030110", "2026-03-01T10:00:00+08:00"),
            ("20260301101500.1234+0530", "2026-03-01T10:15:00.1234+05:30"),
            ("20260301101500-0500", "2026-03-01T10:15:00-05:00"),
            ("20260301101500+0000", "2026-03-01T10:15:00Z"),
        ] {
            assert_eq!(read(written, Some(&taipei)).unwrap().text, means, "{written}");
        }
        for written in
            ["", "2", "19661301", "20260229", "2026030125", "20260301.5", "2026-03-01", "20260301101500+8", "yesterday", "20260301101500+1500"]
        {
            assert_eq!(read(written, Some(&taipei)), Err(TimeFault::Syntax), "{written}");
        }
        assert_eq!(read("202603011015", None), Err(TimeFault::NoZone));
        for (written, offset) in
            [("20260301101500+0530", Some(19_800)), ("20260301101500.25-0500", Some(-18_000)), ("20260301101500+0000", Some(0)), ("20260301", None)]
        {
            assert_eq!(
                read(written, None).unwrap().zone(),
                offset.map(|seconds| TimeZone::fixed(Offset::from_seconds(seconds).unwrap())),
                "{written}"
            );
        }
        assert_eq!(read("20260301", None).unwrap().text, "2026-03-01");
    }

    #[test]
    fn an_hour_that_comes_twice_is_the_first_and_one_that_is_left_out_is_the_next() {
        let berlin = TimeZone::get("Europe/Berlin").unwrap();
        assert_eq!(read("20261025023000", Some(&berlin)).unwrap().text, "2026-10-25T02:30:00+02:00");
        assert_eq!(read("20260329023000", Some(&berlin)).unwrap().date.start_ms, read("20260329013000+0000", None).unwrap().date.start_ms);
    }
}
