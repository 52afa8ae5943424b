//! Observation to measurement. The order of the questions is the order of the code: is it ours, what does the code
//! say, may it be seen, whose is it, does it stand, when was it, what is the value.

use compact_str::{CompactString, format_compact};

use crate::clinical::date::PartialDate;
use crate::clinical::fact::{Body, Fact, Measurement, ResourceType, Status};
use crate::clinical::quantity::{Analyte, Comparator, Unit};
use crate::fhir::alike;
use crate::fhir::view::{CodeableConcept, ObservationView, Quantity};
use crate::issue::{Code, Effect, Issue};

use super::guard::{self, Labels};
use super::site::{Meaning, ObservationCode, Site, full_code, short_system};
use super::units::Scale;
use super::{Head, Normalised, nothing};

/// A day: what is dated that much after its own record's time is dated in the future.
const CLOCK_SLACK_MS: i64 = 86_400_000;

/// Longest unit text kept as evidence; what is longer is prose.
const LONGEST_UNIT: usize = 40;

/// Turns one Observation into a fact or a coded refusal.
pub fn normalise_view(site: &Site, view: &ObservationView<'_>, head: Head<'_>) -> Normalised {
    let form = match Form::of(site, view) {
        Ok(form) => form,
        Err(normalised) => return *normalised,
    };
    form.read(
        site,
        Values {
            subject: view.subject.as_ref().and_then(|subject| subject.reference.as_deref()),
            effective_date_time: view.effective_date_time.as_deref(),
            issued: view.issued.as_deref(),
            number: view.value_quantity.as_ref().and_then(|quantity| Some(quantity.value?.text())),
            accession: form.accession.and_then(|index| view.identifier.get(index)?.value.as_deref()),
        },
        head,
    )
}

/// What an Observation says that the next result of the same test says too: all but whose it is, when, and the number.
/// Millions of lines have some ten forms.
pub struct Form<'s> {
    status: Status,
    /// Whether the subject is refused, whatever its id.
    subject: Option<Issue>,
    modifiers: Option<Issue>,
    /// Why no result of this form is in scope, for the counts.
    out_of_scope: Option<String>,
    /// The mapped code; `None` for a laboratory code that is kept without one.
    entry: Option<&'s ObservationCode>,
    /// `system|code` for the counts, where there is no entry.
    counted: String,
    conflict: Option<Issue>,
    /// When it was, by what is not `effectiveDateTime`.
    other_effective: Result<Option<PartialDate>, Issue>,
    value: FormOfValue,
    unit_as_received: CompactString,
    /// Which identifier is the accession of the result key.
    accession: Option<usize>,
}

/// How the value is told.
enum FormOfValue {
    Quantity {
        comparator: Result<Option<Comparator>, Issue>,
        scale: Result<Scale, Issue>,
        reference: (Option<f64>, Option<f64>),
    },
    /// A number under an ordinal analyte.
    NotGraded,
    /// A grade, or no value that could decide.
    Other(Value, Option<Issue>),
}

/// What differs between the results of one form, as it stands in the resource.
#[derive(Clone, Copy)]
struct Values<'a> {
    subject: Option<&'a str>,
    effective_date_time: Option<&'a str>,
    issued: Option<&'a str>,
    number: Option<&'a str>,
    accession: Option<&'a str>,
}

impl<'s> Form<'s> {
    /// Reads all that does not differ; the error is the answer for every Observation of this form.
    pub fn of(site: &'s Site, view: &ObservationView<'_>) -> Result<Form<'s>, Box<Normalised>> {
        if guard::is_echo(&view.meta, &view.identifier) {
            return Err(Box::new(Normalised::echo("Observation")));
        }
        let status = status(view.status.as_deref()).map_err(|issue| Box::new(Normalised::rejected(issue)))?;
        let read = read_code(site, &view.code);
        let is_laboratory = view.category.is_empty()
            || view.category.iter().flat_map(|category| &category.coding).any(|coding| coding.code.as_deref() == Some("laboratory"));
        let may_be_ours = is_laboratory && !read.is_ignored && (site.keeps_unmapped_laboratory_codes || status.is_withdrawn());
        let counted = if read.entry.is_none() { read.counted() } else { String::new() };
        let out_of_scope = match Labels::of(site, &view.meta.security).reason() {
            Some(reason) => Some(reason.to_owned()),
            None => (read.entry.is_none() && !may_be_ours).then(|| counted.clone()),
        };
        let conflict = read.entry.and_then(|entry| read.conflict.clone().or_else(|| other_meaning(site, entry.analyte, &view.code)));
        let system = site.result_key_system.as_deref();
        Ok(Form {
            status,
            subject: guard::reference(view.subject.as_ref(), "Observation.subject").err(),
            modifiers: guard::modifiers("Observation", view.implicit_rules, &view.modifier_extension, |_| false),
            out_of_scope,
            entry: read.entry,
            counted,
            conflict,
            other_effective: other_effective(view),
            value: form_of_value(site, read.entry, view),
            unit_as_received: view.value_quantity.as_ref().map(unit_as_received).unwrap_or_default(),
            accession: system.and_then(|system| view.identifier.iter().position(|identifier| identifier.system.as_deref() == Some(system))),
        })
    }

    /// Turns a line that looks like the one whose form this is into a fact or a coded refusal.
    pub fn normalise(&self, site: &Site, values: &alike::Values<'_>) -> Normalised {
        let head = Head::of_values(values);
        let &alike::Values { subject, effective_date_time, issued, number, .. } = values;
        let accession = self.accession.and_then(|index| *values.identifiers.get(index)?);
        self.read(site, Values { subject, effective_date_time, issued, number, accession }, head)
    }

    fn read(&self, site: &Site, values: Values<'_>, head: Head<'_>) -> Normalised {
        let status = self.status;
        let subject = match &self.subject {
            Some(issue) => Err(issue.clone()),
            None => guard::patient_id_of(site, values.subject.unwrap_or_default(), "Observation.subject"),
        };
        if let Some(reason) = &self.out_of_scope {
            // The nothing-fact of what is not kept: it retires an older version of this id that was in scope.
            let retiring = head.id.map(|id| nothing(head.source(ResourceType::Observation, id), status, None));
            return Normalised::out_of_scope(reason.clone(), subject.ok(), retiring);
        }

        let Some(id) = head.id else {
            return Normalised::rejected(Issue::new(Code::InvalidId, "Observation.id"));
        };
        let mut issues = Vec::new();
        issues.extend(self.modifiers.clone());
        let subject = keep(&mut issues, subject);
        let effective = keep(&mut issues, self.effective(values.effective_date_time));
        let issued_ms = keep(&mut issues, guard::instant_ms(values.issued, "Observation.issued")).flatten();
        let Some(entry) = self.entry else {
            // Withdrawn and no longer coded: it takes back whatever this id said before.
            if !status.is_withdrawn() {
                issues.push(Issue::new(Code::CodeUnmapped, "Observation.code").with_detail(self.counted.clone()));
            }
            let mut fact = nothing(head.source(ResourceType::Observation, id), status, issued_ms);
            if !status.is_withdrawn() {
                fact.body = Body::Measurement(self.unmapped(effective.flatten(), values.number));
            }
            return Normalised::ended(subject, Some(fact).filter(|_| subject.is_some()), issues, Some(self.counted.clone()));
        };

        // Whether the version holds at all is asked of a withdrawn one too; what its value would have been is not.
        if status == Status::Unknown {
            issues.push(Issue::new(Code::StatusUnknown, "Observation.status"));
        }
        let mut content = Vec::new();
        content.extend(self.conflict.clone());
        match effective {
            Some(None) => content.push(Issue::new(Code::TimeMissing, "Observation.effective")),
            Some(Some(date)) => {
                let recorded_ms = head.last_updated_ms.max(issued_ms);
                if recorded_ms.is_some_and(|recorded_ms| date.start_ms > recorded_ms + CLOCK_SLACK_MS) {
                    content.push(Issue::new(Code::FutureDated, "Observation.effective"));
                }
            }
            // Refused above, with its path.
            None => {}
        }
        let value = self.read_value(entry.analyte, values.number, &mut content);
        if entry.analyte == Analyte::ReportedEgfr && value.number.is_some() {
            content.push(match entry.equation {
                Some(_) => Issue::new(Code::ValueIgnored, "Observation.value"),
                None => Issue::new(Code::AmbiguousEquation, "Observation.code").with_detail(entry.full.as_str()),
            });
        }
        if status.is_withdrawn() {
            content.retain(|issue| issue.code.effect() == Effect::Reject);
        }
        issues.extend(content);

        let unusable =
            issues.iter().find(|issue| issue.code.effect() == Effect::Quarantine || issue.code == Code::NoValue).map(|issue| issue.code.word());
        let effective = effective.flatten();
        let measurement = Measurement {
            analyte: Some(entry.analyte),
            rank: entry.rank,
            code: entry.full.clone(),
            effective,
            value: value.number,
            unit: value.number.and(value.unit),
            comparator: value.comparator,
            value_as_received: value.as_received,
            unit_as_received: value.unit_as_received,
            reference_low: value.reference.0,
            reference_high: value.reference.1,
            equation: entry.equation.clone(),
            unusable: unusable.map(CompactString::const_new),
        };
        let key = result_key(values.accession, entry, effective);
        let source = head.source(ResourceType::Observation, id);
        let fact = subject.map(|_| Fact { source, key, status, issued_ms, body: Body::Measurement(measurement) });
        Normalised::ended(subject, fact, issues, None)
    }

    fn effective(&self, date_time: Option<&str>) -> Result<Option<PartialDate>, Issue> {
        match date_time {
            Some(text) => guard::date(text, "Observation.effectiveDateTime").map(Some),
            None => self.other_effective.clone(),
        }
    }

    /// An unmapped laboratory result as far as it can be shown: when, and under which code; what it measures nobody knows.
    fn unmapped(&self, effective: Option<PartialDate>, number: Option<&str>) -> Measurement {
        Measurement {
            analyte: None,
            rank: u8::MAX,
            code: CompactString::from(self.counted.as_str()),
            effective,
            value: None,
            unit: None,
            comparator: None,
            value_as_received: number.map(CompactString::from).unwrap_or_default(),
            unit_as_received: self.unit_as_received.clone(),
            reference_low: None,
            reference_high: None,
            equation: None,
            unusable: Some(CompactString::const_new(Code::CodeUnmapped.word())),
        }
    }

    fn read_value(&self, analyte: Analyte, number: Option<&str>, issues: &mut Vec<Issue>) -> Value {
        let mut value = match &self.value {
            FormOfValue::Other(value, issue) => {
                issues.extend(issue.clone());
                return value.clone();
            }
            FormOfValue::Quantity { .. } | FormOfValue::NotGraded => Value {
                as_received: number.map(CompactString::from).unwrap_or_default(),
                unit_as_received: self.unit_as_received.clone(),
                ..Value::default()
            },
        };
        if let Err(issue) = self.read_quantity(analyte, number, &mut value) {
            issues.push(issue);
        }
        value
    }

    fn read_quantity(&self, analyte: Analyte, number: Option<&str>, value: &mut Value) -> Result<(), Issue> {
        let FormOfValue::Quantity { comparator, scale, reference } = &self.value else {
            return Err(Issue::new(Code::OrdinalUnmapped, "Observation.valueQuantity"));
        };
        value.comparator = comparator.clone()?;
        let Some(decimal) = number else {
            return Err(Issue::new(Code::NoValue, "Observation.valueQuantity.value"));
        };
        let invalid = || Issue::new(Code::InvalidNumber, "Observation.valueQuantity.value");
        let scale = match scale {
            Ok(scale) => *scale,
            Err(issue) => {
                // A number that is none is refused whatever its unit.
                decimal.parse::<f64>().ok().filter(|number| number.is_finite()).ok_or_else(invalid)?;
                return Err(issue.clone());
            }
        };
        let number = scale.apply(decimal).ok_or_else(invalid)?;
        value.number = Some(number);
        value.unit = Some(scale.unit);
        value.reference = *reference;
        match analyte.bounds(scale.unit) {
            Some((low, high)) if (low..=high).contains(&number) => Ok(()),
            Some(_) | None => Err(Issue::new(Code::Implausible, "Observation.valueQuantity.value").with_detail(scale.unit.ucum())),
        }
    }
}

/// Keeps what was read, or the issue that says why not.
fn keep<T>(issues: &mut Vec<Issue>, read: Result<T, Issue>) -> Option<T> {
    read.map_err(|issue| issues.push(issue)).ok()
}

/// `Observation.status` of R4. A status with a blank behind it is refused like any other word that FHIR does not have.
fn status(word: Option<&str>) -> Result<Status, Issue> {
    match word {
        Some("final") => Ok(Status::Final),
        Some("registered") => Ok(Status::Registered),
        Some("preliminary") => Ok(Status::Preliminary),
        Some("amended") => Ok(Status::Amended),
        Some("corrected") => Ok(Status::Corrected),
        Some("cancelled") => Ok(Status::Cancelled),
        Some("entered-in-error") => Ok(Status::EnteredInError),
        Some("unknown") => Ok(Status::Unknown),
        Some(_) | None => Err(Issue::new(Code::Shape, "Observation.status")),
    }
}

/// What the codings of `Observation.code` say together.
struct ReadCode<'s, 'a> {
    /// The mapped coding of the lowest rank.
    entry: Option<&'s ObservationCode>,
    conflict: Option<Issue>,
    is_ignored: bool,
    concept: &'a CodeableConcept<'a>,
}

impl ReadCode<'_, '_> {
    /// `system|code` for the counts: the entry's, else that of the first coding.
    fn counted(&self) -> String {
        if let Some(entry) = self.entry {
            return entry.full.to_string();
        }
        match self.concept.coding.iter().find_map(|coding| Some((coding.system.as_deref().unwrap_or(""), coding.code.as_deref()?))) {
            Some((system, code)) => full_code(short_system(system), code).to_string(),
            None => "Observation without a code".to_owned(),
        }
    }
}

fn read_code<'s, 'a>(site: &'s Site, concept: &'a CodeableConcept<'a>) -> ReadCode<'s, 'a> {
    let mut read = ReadCode { entry: None, conflict: None, is_ignored: false, concept };
    let mut foreign_loinc = None;
    for coding in &concept.coding {
        let Some(code) = coding.code.as_deref() else { continue };
        let system = coding.system.as_deref().unwrap_or("");
        match (site.observation_code(system, code), read.entry) {
            (Some(entry), Some(other)) if entry.analyte != other.analyte => {
                read.conflict = Some(Issue::new(Code::CodeConflict, "Observation.code").with_detail(format!("{} and {}", other.full, entry.full)));
            }
            (Some(entry), Some(other)) if entry.rank >= other.rank => {}
            (Some(entry), _) => read.entry = Some(entry),
            (None, _) if site.ignores(system, code) => read.is_ignored = true,
            (None, _) if foreign_loinc.is_none() && short_system(system) == "loinc" => foreign_loinc = Some(code),
            (None, _) => {}
        }
    }
    // A second LOINC code that nobody mapped to the same analyte may be another test; a local code beside it is usual.
    if let (Some(entry), Some(code), None) = (read.entry, foreign_loinc, &read.conflict) {
        read.conflict = Some(Issue::new(Code::CodeConflict, "Observation.code").with_detail(format!("{} and loinc|{code}", entry.full)));
    }
    read
}

/// A text beside the code that says another test: an eGFR filed under a creatinine code.
fn other_meaning(site: &Site, analyte: Analyte, concept: &CodeableConcept<'_>) -> Option<Issue> {
    let meanings = site.other_meanings.get(&analyte)?;
    let mut texts = concept.text.iter().chain(concept.coding.iter().filter_map(|coding| coding.display.as_ref()));
    let word = texts.find_map(|text| meanings.found_in(text))?;
    Some(Issue::new(Code::CodeConflict, "Observation.code.text").with_detail(word))
}

/// When it was, where there is no `effectiveDateTime`.
fn other_effective(view: &ObservationView<'_>) -> Result<Option<PartialDate>, Issue> {
    if view.effective_date_time.is_some() {
        return Ok(None);
    }
    if let Some(period) = view.effective_period.as_ref() {
        return guard::period(period, "Observation.effectivePeriod");
    }
    guard::optional_date(view.effective_instant.as_deref(), "Observation.effectiveInstant")
}

#[derive(Clone, Default)]
struct Value {
    number: Option<f64>,
    unit: Option<Unit>,
    comparator: Option<Comparator>,
    as_received: CompactString,
    unit_as_received: CompactString,
    /// Low and high, in `unit`.
    reference: (Option<f64>, Option<f64>),
}

fn form_of_value(site: &Site, entry: Option<&ObservationCode>, view: &ObservationView<'_>) -> FormOfValue {
    let Some(ObservationCode { analyte, .. }) = entry else { return FormOfValue::Other(Value::default(), None) };
    let none = |code, path| FormOfValue::Other(Value::default(), Some(Issue::new(code, path)));
    // FHIR allows no value beside a reason for its absence; where both came the value is not believed.
    if view.data_absent_reason.is_some() {
        return none(Code::NoValue, "Observation.dataAbsentReason");
    }
    if *analyte == Analyte::UrineProteinDipstick {
        return read_grade(site, view);
    }
    if let Some(quantity) = &view.value_quantity {
        let comparator = match quantity.comparator.as_deref() {
            None => Ok(None),
            Some("<") => Ok(Some(Comparator::Less)),
            Some("<=") => Ok(Some(Comparator::LessOrEqual)),
            Some(">=") => Ok(Some(Comparator::GreaterOrEqual)),
            Some(">") => Ok(Some(Comparator::Greater)),
            Some(_) => Err(Issue::new(Code::Shape, "Observation.valueQuantity.comparator")),
        };
        let scale = read_unit(site, *analyte, quantity, "Observation.valueQuantity");
        let reference = scale.as_ref().map_or((None, None), |scale| reference_range(site, *analyte, view, *scale));
        return FormOfValue::Quantity { comparator, scale, reference };
    }
    let other = if view.value_string.is_some() {
        Some("Observation.valueString")
    } else if view.value_codeable_concept.is_some() {
        Some("Observation.valueCodeableConcept")
    } else {
        view.other_value()
    };
    match other {
        Some(path) => none(Code::NotANumber, path),
        // Nothing, or components alone: a panel's parent carries no number of its own.
        None => none(Code::NoValue, "Observation.value"),
    }
}

/// The scale of a quantity's unit: by its UCUM code, else by the table for codes of other systems, else by its text.
/// Where code and text are both units and differ, neither is believed; a text that is no unit proves nothing.
fn read_unit(site: &Site, analyte: Analyte, quantity: &Quantity<'_>, path: &str) -> Result<Scale, Issue> {
    let text = quantity.unit.as_deref();
    let code = quantity.code.as_deref();
    let system = quantity.system.as_deref().map_or("ucum", short_system);
    let Some(coded) = code else {
        let text = text.ok_or_else(|| Issue::new(Code::UnitMissing, path))?;
        return match site.unit(analyte, text) {
            Meaning::Scaled(scale) => Ok(scale),
            Meaning::OtherQuantity | Meaning::Unknown => Err(Issue::new(Code::UnitUnmapped, format!("{path}.unit")).with_detail(short(text))),
        };
    };
    let meaning = if system == "ucum" { site.unit(analyte, coded) } else { site.unit_code(analyte, system, coded) };
    if let Some(text) = text.filter(|text| *text != coded) {
        let shown = site.unit(analyte, text);
        let differ = match (meaning, shown) {
            (Meaning::Scaled(coded), Meaning::Scaled(shown)) => coded != shown,
            (Meaning::Scaled(_), Meaning::OtherQuantity) | (Meaning::OtherQuantity, Meaning::Scaled(_)) => true,
            (_, Meaning::Unknown) | (Meaning::Unknown, _) | (Meaning::OtherQuantity, Meaning::OtherQuantity) => false,
        };
        if differ {
            return Err(Issue::new(Code::UnitConflict, path).with_detail(format!("{} and {}", short(text), short(coded))));
        }
    }
    match meaning {
        Meaning::Scaled(scale) => Ok(scale),
        Meaning::OtherQuantity | Meaning::Unknown => Err(Issue::new(Code::UnitUnmapped, format!("{path}.code")).with_detail(short(coded))),
    }
}

/// A dipstick grade: a coded concept or a word that the mapping lists, never a number and never part of a text.
fn read_grade(site: &Site, view: &ObservationView<'_>) -> FormOfValue {
    let graded = |grade: u8, word: &str| {
        let as_received = CompactString::from(word);
        FormOfValue::Other(Value { number: Some(f64::from(grade)), unit: Some(Unit::Grade), as_received, ..Value::default() }, None)
    };
    let none = |code, path| FormOfValue::Other(Value::default(), Some(Issue::new(code, path)));
    if let Some(concept) = &view.value_codeable_concept {
        let mut found: Option<(u8, CompactString)> = None;
        let mut differ = false;
        let mut note = |grade: u8, word: CompactString| match &found {
            Some((first, _)) => differ |= *first != grade,
            None => found = Some((grade, word)),
        };
        for coding in &concept.coding {
            let (system, code) = (coding.system.as_deref().unwrap_or(""), coding.code.as_deref().unwrap_or(""));
            if let Some(grade) = site.grade_of_code(system, code) {
                note(grade, full_code(site.short_system(system), code));
            }
        }
        if let Some(text) = concept.text.as_deref()
            && let Some(grade) = site.grade_of_word(text)
        {
            note(grade, CompactString::from(text));
        }
        if let Some((grade, word)) = found.filter(|_| !differ) {
            return graded(grade, &word);
        }
        none(Code::OrdinalUnmapped, "Observation.valueCodeableConcept")
    } else if let Some(text) = view.value_string.as_deref() {
        if let Some(grade) = site.grade_of_word(text) {
            return graded(grade, text);
        }
        none(Code::OrdinalUnmapped, "Observation.valueString")
    } else if view.value_quantity.is_some() {
        FormOfValue::NotGraded
    } else if let Some(path) = view.other_value() {
        none(Code::OrdinalUnmapped, path)
    } else {
        none(Code::NoValue, "Observation.value")
    }
}

/// Low and high of the one range that is for everybody, in the unit of the value. Several ranges, or one for some
/// people only, answer neither: a limit is never guessed (rulings.md 11). Nor is the unit of a limit.
fn reference_range(site: &Site, analyte: Analyte, view: &ObservationView<'_>, of_value: Scale) -> (Option<f64>, Option<f64>) {
    let is_normal = |kind: &Option<CodeableConcept<'_>>| {
        kind.as_ref().is_none_or(|kind| kind.coding.iter().any(|coding| coding.code.as_deref() == Some("normal")))
    };
    let mut ranges = view.reference_range.iter().filter(|range| is_normal(&range.kind));
    let (Some(range), None) = (ranges.next(), ranges.next()) else { return (None, None) };
    if range.applies_to.0 || range.age.0 {
        return (None, None);
    }
    let limit = |quantity: &Option<Quantity<'_>>| {
        let quantity = quantity.as_ref()?;
        let scale = read_unit(site, analyte, quantity, "Observation.referenceRange").ok().filter(|scale| scale.unit == of_value.unit)?;
        scale.apply(quantity.value?.text())
    };
    (limit(&range.low), limit(&range.high))
}

/// What a later result replaces: accession, code and specimen time, where the mapping names the accession (rulings.md 5).
fn result_key(accession: Option<&str>, entry: &ObservationCode, effective: Option<PartialDate>) -> Option<CompactString> {
    Some(format_compact!("{}|{}|{}", accession?, entry.full, effective?.start_ms))
}

fn unit_as_received(quantity: &Quantity<'_>) -> CompactString {
    quantity.unit.as_deref().or(quantity.code.as_deref()).map(|unit| CompactString::from(short(unit))).unwrap_or_default()
}

fn short(text: &str) -> &str {
    text.char_indices().nth(LONGEST_UNIT).map_or(text, |(end, _)| &text[..end])
}
