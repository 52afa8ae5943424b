//! How pages write things: numbers, instants and ages in words, and the words people read for the words we store.
//! Knows no store and no clock: "now" is an argument.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::clinical::date::PartialDate;
use crate::clinical::fact::Relation;
use crate::issue::Disposition;
use crate::rules::safety::SERIOUSNESS_CRITERIA;
use crate::rules::{Alert, Hidden, Reason, Role, Verdict};
use crate::store::outbox::ItemState;
use crate::study::{CriterionType, Origin};

/// What is right now, and in which zone this gateway tells the time.
#[derive(Clone)]
pub struct Clock {
    pub now_ms: i64,
    pub zone: TimeZone,
}

impl Clock {
    pub fn new(now_ms: i64) -> Clock {
        Clock { now_ms, zone: TimeZone::system() }
    }

    /// `09:41` for an instant of today, else `12 Nov 2026, 09:41`.
    pub fn time(&self, ms: i64) -> String {
        let (then, now) = (self.zoned(ms), self.zoned(self.now_ms));
        let format = if then.date() == now.date() { "%H:%M" } else { "%-d %b %Y, %H:%M" };
        then.strftime(format).to_string()
    }

    /// RFC 3339 UTC, for `<time datetime>`.
    pub fn machine(&self, ms: i64) -> String {
        Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    }

    /// Name of the zone, as `UTC` or `CST`.
    pub fn zone_name(&self) -> String {
        self.zoned(self.now_ms).strftime("%Z").to_string()
    }

    /// `3 min ago`, `2 days ago`.
    pub fn ago(&self, ms: i64) -> String {
        ago(self.now_ms - ms)
    }

    /// `in 14 h` for what lies ahead, `3 h overdue` for what has passed; whole units, rounded down.
    pub fn until(&self, ms: i64) -> String {
        let minutes = (ms - self.now_ms).abs() / 60_000;
        let span = match minutes {
            0..120 => format!("{minutes} min"),
            120..4_320 => format!("{} h", minutes / 60),
            _ => format!("{} days", minutes / 1_440),
        };
        if ms < self.now_ms { format!("{span} overdue") } else { format!("in {span}") }
    }

    /// The day of today in this gateway's zone, `YYYY-MM-DD`.
    pub fn today(&self) -> String {
        self.zoned(self.now_ms).strftime("%Y-%m-%d").to_string()
    }

    /// What a form says of a moment, a day and perhaps a time in this gateway's zone, as FHIR writes it; `None` where
    /// the two are no day and time.
    pub fn moment(&self, day: &str, time: Option<&str>) -> Option<String> {
        let date: jiff::civil::Date = day.parse().ok()?;
        let Some(time) = time else { return Some(date.to_string()) };
        let time: jiff::civil::Time = time.parse().ok()?;
        let zoned = date.to_datetime(time).to_zoned(self.zone.clone()).ok()?;
        Some(zoned.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string())
    }

    fn zoned(&self, ms: i64) -> jiff::Zoned {
        Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH).to_zoned(self.zone.clone())
    }
}

/// A span of time in the words of a reader; whole units, rounded down.
pub fn ago(ms: i64) -> String {
    let minutes = ms / 60_000;
    let days = minutes / 1_440;
    match (minutes, days) {
        (..0, _) => "in the future".into(),
        (0, _) => "just now".into(),
        (1..60, _) => format!("{minutes} min ago"),
        (60..1_440, _) => format!("{} h ago", minutes / 60),
        (_, 1) => "1 day ago".into(),
        (_, ..60) => format!("{days} days ago"),
        (_, ..730) => format!("{} months ago", days / 30),
        _ => format!("{} years ago", days / 365),
    }
}

/// The day of a FHIR date as written, `2026-11-01` of `2026-11-01T08:30:00+08:00`.
pub fn day(date: &str) -> String {
    date.split('T').next().unwrap_or(date).to_owned()
}

/// A FHIR date as written, easier on the eye: `2026-11-01 08:30 +08:00`.
pub fn date(date: &str) -> String {
    match date.split_once('T') {
        None => date.to_owned(),
        Some((day, time)) => {
            let zone_at = time.find(['Z', '+', '-']).unwrap_or(time.len());
            let zone = if &time[zone_at..] == "Z" { "UTC" } else { &time[zone_at..] };
            format!("{day} {} {zone}", time.get(..5).unwrap_or(time))
        }
    }
}

/// The time of a FHIR date as written, `08:30 +08:00`; empty where only a day was written.
pub fn time_of_day(written: &str) -> String {
    date(written).split_once(' ').map_or_else(String::new, |(_, time)| time.to_owned())
}

/// A number with up to `places` decimals, without trailing zeros.
pub fn number(value: f64, places: usize) -> String {
    let text = format!("{value:.places$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// eGFR, mL/min/1.73 m2 with one decimal; two where one would hide on which side of a limit it is.
pub fn egfr(value: f64, limits: Option<(f64, f64)>) -> String {
    let one = format!("{value:.1}");
    let is_hidden =
        limits.is_some_and(|(low, high)| [low, high].into_iter().any(|limit| one == format!("{limit:.1}") && (value - limit).abs() > 0.005));
    if is_hidden { format!("{value:.2}") } else { one }
}

/// A sentence of the engine for people: each part once, instants as their day, a capital at its head.
pub fn sentence(text: &str) -> String {
    let mut parts: Vec<String> = Vec::new();
    for part in text.split("; ") {
        let part = with_days(part);
        if !parts.contains(&part) {
            parts.push(part);
        }
    }
    capitalised(&parts.join("; "))
}

/// A capital at the head; "eGFR" keeps its small e.
pub fn capitalised(text: &str) -> String {
    if text.starts_with("eGFR") {
        return text.to_owned();
    }
    let mut rest = text.chars();
    rest.next().map_or_else(String::new, |first| first.to_uppercase().chain(rest).collect())
}

/// `2026-11-01T08:30:00+08:00` within a text becomes `2026-11-01`; the evidence keeps the whole instant.
fn with_days(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('T') {
        let (before, after) = rest.split_at(at);
        let is_day = before.len() >= 10 && before.is_char_boundary(before.len() - 10) && PartialDate::parse(&before[before.len() - 10..]).is_ok();
        let instant = after[1..].find(|c: char| !(c.is_ascii_digit() || matches!(c, ':' | '.' | '+' | '-' | 'Z'))).map_or(after.len(), |end| end + 1);
        shown.push_str(before);
        if is_day && instant > 9 {
            rest = &after[instant..];
        } else {
            shown.push('T');
            rest = &after[1..];
        }
    }
    shown.push_str(rest);
    shown
}

/// What a verdict or state changed from, as stored (`prescreen not-met`), for people (`not met`).
pub fn changed_from(text: &str) -> String {
    state_name(text.split_once(' ').map_or(text, |(_, word)| word))
}

/// A long id as people compare it: its head; the whole stands in the title.
pub fn short_id(id: &str) -> String {
    if id.chars().count() <= 20 { id.to_owned() } else { format!("{}…", id.chars().take(14).collect::<String>()) }
}

/// A verdict as a badge: a word, a mark and a colour, never colour alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Badge {
    pub word: &'static str,
    pub mark: &'static str,
    pub class: &'static str,
}

pub const fn badge(verdict: Verdict) -> Badge {
    match verdict {
        Verdict::Met => Badge { word: "met", mark: "✓", class: "met" },
        Verdict::NotMet => Badge { word: "not met", mark: "✕", class: "not-met" },
        Verdict::Unknown => Badge { word: "unknown", mark: "?", class: "unknown" },
    }
}

/// The badge of a verdict's stored word.
pub fn badge_of_word(word: &str) -> Badge {
    badge([Verdict::Met, Verdict::NotMet].into_iter().find(|verdict| verdict.word() == word).unwrap_or(Verdict::Unknown))
}

/// A stored word for people: `on-follow-up` reads `on follow-up`, `none` reads `not a candidate`.
pub fn state_name(word: &str) -> String {
    match word {
        "none" => "not a candidate".into(),
        "on-follow-up" => "on follow-up".into(),
        other => other.replace('-', " "),
    }
}

pub const fn reason(reason: Reason) -> &'static str {
    match reason {
        Reason::Missing => "nothing usable",
        Reason::MissingSex => "sex not known",
        Reason::MissingBirthDate => "birth date not known",
        Reason::AgeOutOfRange => "equation is not for this age",
        Reason::ImpreciseDate => "date too coarse",
        Reason::Stale => "too old",
        Reason::PossibleAki => "possible acute kidney injury",
        Reason::ConflictingResults => "results contradict",
        Reason::Boundary => "on the boundary",
        Reason::Comparator => "reported as a limit",
        Reason::ShortHistory => "history too short",
        Reason::NoReferenceRange => "no reference range",
        Reason::AbsenceNotProven => "absence not proven",
        Reason::Unconfirmed => "not confirmed",
        Reason::NotAttested => "a person must answer",
    }
}

pub const fn alert(alert: Alert) -> (&'static str, &'static str) {
    match alert {
        Alert::EligibilityDeviation => (
            "Eligibility deviation",
            "A result was corrected after enrolment and the criteria no longer pass. Nothing was taken back; a person decides.",
        ),
        Alert::AttestationLapsed => {
            ("An attestation lapsed", "The evidence changed after somebody had answered a criterion. It waits for a new answer.")
        }
    }
}

pub const fn hidden(hidden: Hidden) -> &'static str {
    match hidden {
        Hidden::OptedOut => "opted out",
        Hidden::Restricted => "restricted record",
        Hidden::TestPatient => "test patient",
        Hidden::Deceased => "deceased",
        Hidden::Merged => "merged into another record",
        Hidden::NoPatient => "no Patient record",
    }
}

/// The stored word of a hiding reason for people.
pub fn hidden_name(word: &str) -> String {
    match word {
        "merged" => "merged into another record".into(),
        "restricted" => "restricted".into(),
        "no-patient" => "without a Patient record".into(),
        other => other.replace('-', " "),
    }
}

/// "5 not listed: 2 deceased, 3 opted out"; empty where nobody is hidden.
pub fn hidden_count(reasons: &BTreeMap<String, i64>) -> String {
    let sum: i64 = reasons.values().sum();
    if sum == 0 {
        return String::new();
    }
    let each: Vec<String> = reasons.iter().filter(|(_, count)| **count > 0).map(|(word, count)| format!("{count} {}", hidden_name(word))).collect();
    format!("{sum} not listed: {}", each.join(", "))
}

/// `1 subject`, `2 subjects`.
pub fn count(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// `a`, `a and b`, `a, b and c`.
pub fn list(parts: &[&str]) -> String {
    match parts {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [before @ .., last] => format!("{} and {last}", before.join(", ")),
    }
}

/// An axis of an event that nobody gave, as the question that is open.
pub fn axis(word: &'static str) -> &'static str {
    match word {
        "term" => "what it is called",
        "grade" => "its CTCAE grade",
        "seriousness" => "whether it is serious",
        "seriousness-criteria" => "why it is serious",
        "relation" => "whether the treatment caused it",
        "expectedness" => "whether it was expected",
        "outcome" => "what became of it",
        "onset" => "when it began",
        "dose-limiting" => "whether it is dose-limiting",
        "awareness" => "when it was first known here",
        other => other,
    }
}

/// Why an event does not count in the trial's tables.
pub fn left_out(word: &'static str) -> &'static str {
    match word {
        "potential" => "It might have happened and did not: it does not count.",
        "before-enrolment" => "It began before the subject entered: it does not count.",
        "other-study" => "It belongs to another study: it does not count here.",
        "not-final" => "Its record is not final: it does not count yet.",
        other => other,
    }
}

pub const fn relation(relation: Relation) -> &'static str {
    match relation {
        Relation::NotRelated => "Not related",
        Relation::Unlikely => "Unlikely",
        Relation::Possible => "Possible",
        Relation::Probable => "Probable",
        Relation::Related => "Related",
    }
}

/// R4 code of an event's outcome for people.
pub fn outcome(code: &str) -> &'static str {
    match code {
        "resolved" => "Recovered",
        "recovering" => "Recovering",
        "ongoing" => "Goes on",
        "resolvedWithSequelae" => "Recovered with sequelae",
        "fatal" => "Fatal",
        _ => "Not known",
    }
}

/// A seriousness criterion's code for people; a code that nobody knows stands as it is.
pub fn seriousness(code: &str) -> String {
    SERIOUSNESS_CRITERIA.iter().find(|(known, _)| *known == code).map_or_else(|| code.to_owned(), |(_, word)| (*word).to_owned())
}

pub const fn origin(origin: Origin) -> (&'static str, &'static str) {
    match origin {
        Origin::Registry => ("registry", "As the trial registry says it, paraphrased"),
        Origin::Report => ("report", "As the published report says it"),
        Origin::SiteRule => ("site rule", "This site's own rule: it decides the prescreen only, never eligibility"),
    }
}

/// "met" always means that the subject passes; an exclusion says in words which way that is (rulings.md 13).
pub const fn criterion_type(kind: CriterionType, verdict: Verdict) -> &'static str {
    match (kind, verdict) {
        (CriterionType::Inclusion, _) => "inclusion",
        (CriterionType::Exclusion, Verdict::Met) => "exclusion, does not apply",
        (CriterionType::Exclusion, Verdict::NotMet) => "exclusion, applies",
        (CriterionType::Exclusion, Verdict::Unknown) => "exclusion, open",
    }
}

/// What "passes" and "does not pass" mean for a criterion.
pub const fn answers(kind: CriterionType) -> (&'static str, &'static str) {
    match kind {
        CriterionType::Inclusion => ("Yes, the subject passes", "No, the subject does not pass"),
        CriterionType::Exclusion => ("Does not apply: the subject passes", "Applies: the subject is excluded"),
    }
}

pub const fn role(role: Role) -> (&'static str, &'static str) {
    match role {
        Role::Used => ("used", "used"),
        Role::NewerUnusable => ("newer, not usable", "newer"),
        Role::Contradicting => ("contradicts", "contradicts"),
        Role::History => ("history", "history"),
        Role::IfKnown => ("if it were known", "if-known"),
    }
}

/// What a state of the outbox means, in a sentence part.
pub const fn item_state(state: ItemState) -> &'static str {
    match state {
        ItemState::Planned => "waits to be sent",
        ItemState::Shadow => "planned only: waits until a named person releases this site's write-back",
        ItemState::Sent => "the EHR said yes; the read-back is still to come",
        ItemState::Confirmed => "found again in the EHR by a read-back",
        ItemState::Superseded => "overtaken by a newer state before or after it was sent",
        ItemState::Degraded => "arrived with less than was sent",
        ItemState::Rejected => "the EHR refused it; a person can replay it",
        ItemState::Lost => "the EHR said yes, but a read-back does not find it",
    }
}

pub const fn disposition(disposition: Disposition) -> &'static str {
    match disposition {
        Disposition::Applied => "in the charts",
        Disposition::Duplicate => "the same again",
        Disposition::Superseded => "older than what was held",
        Disposition::Quarantined => "kept aside, see below",
        Disposition::Rejected => "refused with an answer",
        Disposition::OutOfScope => "not looked at, counted",
        Disposition::Echo => "our own writes seen again",
    }
}

/// A word of the missing list for people: `birth-date` reads `birth date`.
pub fn missing_name(word: &str) -> String {
    match word {
        "hemoglobin-a1c" => "HbA1c".into(),
        "ast" | "alt" => word.to_uppercase(),
        "condition" => "conditions".into(),
        "alkaline-phosphatase" => "ALP".into(),
        "cystatin-c" => "cystatin C".into(),
        other => other.replace('-', " "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_egfr_beside_a_limit_shows_on_which_side_it_is() {
        let limits = Some((15.0, 44.0));
        for (value, shown) in [(38.02, "38.0"), (44.02, "44.02"), (44.0, "44.0"), (14.96, "14.96"), (15.04, "15.04")] {
            assert_eq!(egfr(value, limits), shown);
        }
    }

    #[test]
    fn sentences_of_the_engine_are_told_once_and_by_the_day() {
        let said = "dialysis on record since 2026-08-24T04:30:00+08:00; no creatinine; no creatinine";
        assert_eq!(sentence(said), "Dialysis on record since 2026-08-24; no creatinine");
        assert_eq!(sentence("eGFR 44.6 of Tuesday, T"), "eGFR 44.6 of Tuesday, T");
        assert_eq!(changed_from("prescreen not-met"), "not met");
    }

    #[test]
    fn what_is_due_is_told_from_both_sides_of_now() {
        let clock = Clock { now_ms: 0, zone: TimeZone::UTC };
        for (hours, words) in [(0, "in 0 min"), (1, "in 60 min"), (14, "in 14 h"), (72, "in 3 days"), (-3, "3 h overdue"), (-120, "5 days overdue")] {
            assert_eq!(clock.until(hours * 3_600_000), words);
        }
    }

    #[test]
    fn a_forms_day_and_time_are_an_instant_of_the_gateways_zone() {
        let clock = Clock { now_ms: 0, zone: TimeZone::fixed(jiff::tz::offset(8)) };
        assert_eq!(clock.moment("2026-11-23", Some("09:30")).as_deref(), Some("2026-11-23T09:30:00+08:00"));
        assert_eq!(clock.moment("2026-11-23", None).as_deref(), Some("2026-11-23"));
        for (day, time) in [("23.11.2026", None), ("2026-02-30", None), ("2026-11-23", Some("25:00")), ("2026-11-23", Some("soon"))] {
            assert_eq!(clock.moment(day, time), None, "{day} {time:?}");
        }
    }

    #[test]
    fn ages_are_told_in_whole_units() {
        for (ms, words) in [(0, "just now"), (59_999, "just now"), (180_000, "3 min ago"), (7_200_000, "2 h ago"), (86_400_000 * 2, "2 days ago")] {
            assert_eq!(ago(ms), words);
        }
    }
}
