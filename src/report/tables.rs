//! A report as sections of tables for readers: the same words and numbers in Markdown and in HTML.

use super::cohort::NOT_ASSIGNED;
use super::outcome::{Group, GroupKind, OutcomeTable, Tested, VisitOutcome};
use super::safety::ListedEvent;
use super::{Because, Counted, EventCount, Figure, InOrder, Listed, Report};
use crate::clinical::date::{Day, MS_PER_DAY, PartialDate};
use crate::rules::course::Cited;
use crate::rules::dosing::{DltStanding, DosingStanding};
use crate::rules::statistics::Summary;
use crate::study::follow_up::Measure;

/// Rows of a list of subjects or events; what is beyond stands in the JSON.
const ROWS: usize = 500;
/// Resources that a key figure names.
const RESOURCES: usize = 12;

pub struct Section {
    /// For links within the page.
    pub id: &'static str,
    pub title: String,
    pub notes: Vec<String>,
    pub tables: Vec<Table>,
}

pub struct Table {
    pub caption: String,
    pub head: Vec<String>,
    /// The first cell of a row names it.
    pub rows: Vec<Vec<String>>,
    /// All but the first column are numbers.
    pub is_of_numbers: bool,
}

impl Table {
    fn numbers(caption: &str, head: Vec<String>, rows: Vec<Vec<String>>) -> Table {
        Table { caption: caption.to_owned(), head, rows, is_of_numbers: true }
    }

    fn words(caption: &str, head: &[&str], rows: Vec<Vec<String>>) -> Table {
        Table { caption: caption.to_owned(), head: head.iter().map(|name| (*name).to_owned()).collect(), rows, is_of_numbers: false }
    }
}

/// Every section, in the order of reading.
pub fn sections(report: &Report<'_>) -> Vec<Section> {
    let mut sections = vec![figures(report), enrolment(report), follow_up(report), safety(report)];
    sections.extend(report.dosing.iter().map(|standing| dosing(report, standing)));
    sections.extend(report.outcomes.iter().map(|table| outcome(report, table)));
    sections.push(subjects(report));
    sections.push(events(report));
    sections
}

/// What people call a measure.
pub fn measure_name(measure: Measure) -> &'static str {
    match measure {
        Measure::Egfr => "eGFR",
        Measure::Upcr => "Urine protein to creatinine ratio (UPCR)",
        Measure::Uacr => "Urine albumin to creatinine ratio (UACR)",
        Measure::UrineProteinPer24h => "Urine protein per 24 h",
    }
}

/// A UCUM code as people write it.
pub fn unit_name(unit: &str) -> &str {
    match unit {
        "mL/min/{1.73_m2}" => "mL/min/1.73 m²",
        "mg/(24.h)" => "mg/24 h",
        other => other,
    }
}

/// Decimals that a measure is shown with; nothing is rounded before.
const fn decimals(measure: Measure) -> usize {
    match measure {
        Measure::Egfr => 1,
        Measure::Upcr | Measure::Uacr | Measure::UrineProteinPer24h => 0,
    }
}

fn figures(report: &Report<'_>) -> Section {
    let evidence = &report.evidence;
    let mut rows = vec![figure("Subjects who entered", &evidence.subjects)];
    rows.extend(evidence.arms.0.iter().map(|(arm, of)| figure(&format!("in arm {}", arm_name(report, arm)), of)));
    rows.push(figure("Lost to follow-up", &evidence.lost_to_follow_up));
    rows.push(figure("Treatment-related adverse events", &evidence.treatment_related_events));
    rows.push(figure("Dose-limiting toxicities", &evidence.dose_limiting_toxicities));
    rows.push(figure("Serious adverse events", &evidence.serious_events));
    rows.extend(evidence.egfr_increased.0.iter().map(|(visit, of)| figure(&format!("eGFR above baseline at {visit}"), of)));
    let mut notes = vec![format!("{} (study {}), as of {}.", report.study.title, report.study.id, as_of_name(report))];
    if report.unnamed_subjects > 0 {
        notes.push(format!(
            "{} counted without being named: they opted out, or their record is restricted.",
            plural(report.unnamed_subjects, "subject is", "subjects are")
        ));
    }
    for (reason, count) in &report.not_counted.0 {
        notes.push(format!("Not counted, {}: {count}.", reason.replace('-', " ")));
    }
    Section { id: "figures", title: "Key figures".into(), notes, tables: vec![Table::words("", &["Figure", "Number", "Resources behind it"], rows)] }
}

fn figure(name: &str, figure: &Figure<'_>) -> Vec<String> {
    let number = match figure.of {
        Some(of) => share(figure.count, of),
        None => figure.count.to_string(),
    };
    let mut named: Vec<String> = figure.because.iter().flat_map(resources).collect();
    let more = named.len().saturating_sub(RESOURCES);
    named.truncate(RESOURCES);
    if more > 0 {
        named.push(format!("and {more} more"));
    }
    vec![name.to_owned(), number, named.join(", ")]
}

fn resources<'a>(because: &'a Because<'a>) -> impl Iterator<Item = String> + 'a {
    because.facts.iter().map(|cited| format!("{}: {}", because.site, resource(cited)))
}

fn enrolment(report: &Report<'_>) -> Section {
    let enrolment = &report.enrolment;
    let arms = enrolment.arms.iter().map(|arm| {
        vec![
            arm.name.to_owned(),
            arm.cells.map_or_else(none, |cells| format!("{cells:e}").replace('e', " × 10^")),
            arm.planned_subjects.map_or_else(none, |planned| planned.to_string()),
            arm.enrolled.count.to_string(),
            arm.dosed.count.to_string(),
            arm.dosed_otherwise.count.to_string(),
            arm.conflicting.count.to_string(),
        ]
    });
    let head = words(&["Arm", "Cells of the dose", "Planned", "Entered", "Dosed", "Dosed with other cells", "Sources disagree on the arm"]);
    let arms = Table::numbers("By arm", head, arms.collect());
    let mut head = words(&["Site", "Entered"]);
    head.extend(enrolment.arms.iter().map(|arm| arm.name.to_owned()));
    head.extend(words(&["First entry", "Last entry"]));
    let sites = enrolment.sites.iter().map(|site| {
        let mut row = vec![site.site.to_owned(), site.enrolled.count.to_string()];
        row.extend(site.arms.0.iter().map(|(_, count)| count.to_string()));
        row.extend([site.first, site.last].map(|date| date.map_or_else(none, day_of)));
        row
    });
    let sites = Table::numbers("By site", head, sites.collect());
    let states = enrolment.states.0.iter().map(|(state, counted)| vec![state_name(state), counted.count.to_string()]);
    let states = Table::numbers("Where the subjects stand", words(&["State", "Subjects"]), states.collect());
    Section { id: "enrolment", title: "Enrolment".into(), notes: Vec::new(), tables: vec![arms, sites, states] }
}

fn follow_up(report: &Report<'_>) -> Section {
    let visits = report.follow_up.visits.iter().map(|visit| {
        let counts = [&visit.done, &visit.out_of_window, &visit.missed, &visit.due, &visit.upcoming, &visit.not_expected, &visit.not_scheduled];
        let mut row = vec![visit.visit.to_owned(), visit.week.to_string()];
        row.extend(counts.map(|counted| counted.count.to_string()));
        row
    });
    let head = words(&["Visit", "Week", "Done", "Out of window", "Missed", "Due", "Upcoming", "Not expected", "No day 0 yet"]);
    let mut tables = vec![Table::numbers("Visits", head, visits.collect())];
    if !report.follow_up.overdue.is_empty() {
        let rows = report.follow_up.overdue.iter().take(ROWS).map(|overdue| {
            vec![
                subject_name(overdue.site, overdue.subject),
                overdue.visit.to_owned(),
                overdue.what.iter().map(|what| what.replace('-', " ")).collect::<Vec<_>>().join(", "),
                overdue.due.to_owned(),
                overdue.closes.to_owned(),
            ]
        });
        tables.push(Table::words("Overdue", &["Subject", "Visit", "Awaited", "Due", "Window closes"], rows.collect()));
    }
    let lost = format!("{} lost to follow-up.", plural(report.follow_up.lost.count, "subject", "subjects"));
    Section { id: "follow-up", title: "Follow-up".into(), notes: vec![lost], tables }
}

fn safety(report: &Report<'_>) -> Section {
    let safety = &report.safety;
    let head = |first: &[&str]| {
        let mut head = words(first);
        head.push("All".into());
        head.extend(report.enrolment.arms.iter().map(|arm| arm.name.to_owned()));
        head
    };
    let counts = |all: &EventCount, arms: &InOrder<&str, EventCount>| {
        std::iter::once(all).chain(arms.0.iter().map(|(_, count)| count)).map(events_and_subjects).collect::<Vec<_>>()
    };
    let kinds = safety.table.iter().map(|row| {
        let mut cells = vec![row.name.to_owned()];
        cells.extend(counts(&row.all, &row.arms));
        cells
    });
    let mut tables = vec![Table::numbers("Adverse events that count: events (subjects)", head(&["Kind"]), kinds.collect())];
    if !safety.terms.is_empty() {
        let terms = safety.terms.iter().take(ROWS).map(|row| {
            let mut cells = vec![if row.term.is_empty() { "(no term shown)".into() } else { row.term.to_owned() }];
            cells.push(row.worst_grade.map_or_else(none, |grade| grade.to_string()));
            cells.extend(counts(&row.all, &row.arms));
            cells
        });
        tables.push(Table::numbers("By term, as the sources write it: events (subjects)", head(&["Term", "Worst grade"]), terms.collect()));
    }
    if !safety.left_out.0.is_empty() {
        let rows = safety.left_out.0.iter().map(|(reason, count)| vec![reason.replace('-', " "), events_and_subjects(count)]);
        tables.push(Table::numbers("Events that do not count", words(&["Reason", "Events (subjects)"]), rows.collect()));
    }
    if !safety.completion.axes.0.is_empty() {
        let rows = safety.completion.axes.0.iter().map(|(axis, count)| vec![axis.replace('-', " "), events_and_subjects(count)]);
        tables.push(Table::numbers("To be completed by a person", words(&["Missing", "Events (subjects)"]), rows.collect()));
    }
    if !safety.clocks.is_empty() {
        let rows = safety.clocks.iter().map(|row| {
            let counts = [&row.running, &row.overdue, &row.reported, &row.reported_late];
            std::iter::once(row.clock.to_owned()).chain(counts.map(|count| count.events.to_string())).collect()
        });
        tables.push(Table::numbers("Reporting clocks: events", words(&["Clock", "Running", "Overdue", "Reported", "Reported late"]), rows.collect()));
    }
    if !safety.overdue.is_empty() {
        let rows = safety.overdue.iter().take(ROWS).map(|late| {
            let event = &report.events[late.event];
            vec![
                event.event.map_or_else(|| "(not named)".into(), |event| event.id.clone()),
                subject_of(report, event),
                late.clock.to_owned(),
                instant(late.due_ms),
                late.assumed.join(", "),
            ]
        });
        tables.push(Table::words("Overdue reports", &["Event", "Subject", "Clock", "Was due", "Assumed the worst"], rows.collect()));
    }
    if safety.candidates.iter().any(|row| row.open + row.confirmed + row.dismissed > 0) {
        let rows = safety.candidates.iter().map(|row| {
            let kind = match row.kind {
                crate::rules::candidates::CandidateKind::LaboratoryShift => "Laboratory shift",
                crate::rules::candidates::CandidateKind::UnplannedStay => "Unplanned stay",
                crate::rules::candidates::CandidateKind::NewCondition => "New condition",
            };
            vec![kind.to_owned(), row.open.to_string(), row.confirmed.to_string(), row.dismissed.to_string()]
        });
        tables.push(Table::numbers("Candidates from the data", words(&["Kind", "Open", "Confirmed", "Dismissed"]), rows.collect()));
    }
    let notes = vec![
        "Subjects are those with at least one such event. Grade, seriousness, relation and dose-limiting are what the sources and persons say; none is \
         inferred from another, and what nobody said is counted as not known."
            .to_owned(),
    ];
    Section { id: "safety", title: "Safety".into(), notes, tables }
}

fn dosing(report: &Report<'_>, standing: &DosingStanding) -> Section {
    let arms = standing.arms.iter().map(|arm| {
        let counts = [arm.treated, arm.evaluable, arm.pending, arm.not_evaluable, arm.dlts];
        std::iter::once(arm_name(report, &arm.arm).to_owned()).chain(counts.map(|count| count.to_string())).collect()
    });
    let head = words(&["Arm", "Treated", "Evaluable", "Still watched", "Not evaluable", "Subjects with a DLT"]);
    let watched = standing.arms.iter().flat_map(|arm| &arm.subjects).chain(&standing.without_arm).take(ROWS).map(|watched| {
        let listed = &report.listing[watched.subject];
        let word = match watched.standing {
            DltStanding::Dlt => "DLT",
            DltStanding::NoDlt => "no DLT",
            DltStanding::Pending => "still watched",
            DltStanding::NotEvaluable => "not evaluable",
        };
        vec![
            subject_name(listed.site, listed.subject),
            arm_name(report, listed.arm).to_owned(),
            day_of(&watched.first_dose.date),
            watched.window_ends.clone(),
            word.to_owned(),
            watched.dlts.join(", "),
            watched.unassessed.join(", "),
        ]
    });
    let columns = ["Subject", "Arm", "First dose", "Window ends", "Standing", "Dose-limiting", "Not assessed"];
    let tables = vec![Table::numbers("By arm", head, arms.collect()), Table::words("Subjects", &columns, watched.collect())];
    let notes = vec![standing.says.clone(), format!("A toxicity is dose-limiting within {} days of the first dose.", standing.dlt_window_days)];
    Section { id: "dosing", title: "Dose escalation".into(), notes, tables }
}

fn outcome(report: &Report<'_>, table: &OutcomeTable<'_>) -> Section {
    let unit = unit_name(table.unit);
    let by = |kind: GroupKind, caption: &str| {
        let groups: Vec<&Group<'_>> = table.groups.iter().filter(|group| group.kind == kind).collect();
        let rows: Vec<Vec<String>> = groups.iter().flat_map(|group| outcome_rows(table.measure, group)).collect();
        let head = words(&[
            "Group, visit",
            "n",
            "Missing",
            "Awaited",
            "Mean (SD)",
            "Median (quartiles)",
            "Change, mean (SD)",
            "Change, median (quartiles)",
            "Change in %, mean (SD)",
            "Increased",
            "Responders",
            "p",
        ]);
        (!rows.is_empty()).then(|| Table::numbers(&format!("{caption}, {unit}"), head, rows))
    };
    let mut tables: Vec<Table> = [(GroupKind::All, "All subjects"), (GroupKind::Arm, "By arm"), (GroupKind::Stratum, "By stratum of the baseline")]
        .into_iter()
        .filter_map(|(kind, caption)| by(kind, caption))
        .collect();
    let slopes = table.groups.iter().filter(|group| group.slope.per_year.n > 0).map(|group| {
        let per_year = &group.slope.per_year;
        vec![group.name.to_owned(), per_year.n.to_string(), mean(per_year, 2), median(per_year, 2)]
    });
    let slopes: Vec<Vec<String>> = slopes.collect();
    if !slopes.is_empty() {
        tables.push(Table::numbers(&format!("Slope, {unit} per year"), words(&["Group", "n", "Mean (SD)", "Median (quartiles)"]), slopes));
    }
    let note = format!(
        "In {unit}. Changes are from each subject's own baseline, of those who have both values. Nothing is carried forward or filled in: missing is \
         missing, and awaited is what is not due yet or whose window is open as of {}.",
        as_of_name(report)
    );
    let mut notes = vec![note];
    if !table.unusable.0.is_empty() {
        let reasons = table.unusable.0.iter().map(|(why, count)| format!("{} {count}", why.replace('-', " ")));
        notes.push(format!("Results that exist and could not be used: {}.", reasons.collect::<Vec<_>>().join(", ")));
    }
    let mut tests = table.groups.iter().flat_map(|group| &group.visits).filter_map(|visit| visit.test.as_ref());
    if let Some(test) = tests.next() {
        notes.push(format!(
            "p: {} of the changes from baseline, level {}; {}. Not adjusted for the number of tests.",
            test.name, test.alpha, test.method
        ));
    }
    let id = match table.measure {
        Measure::Egfr => "egfr",
        Measure::Upcr => "upcr",
        Measure::Uacr => "uacr",
        Measure::UrineProteinPer24h => "urine-protein",
    };
    Section { id, title: measure_name(table.measure).into(), notes, tables }
}

fn outcome_rows(measure: Measure, group: &Group<'_>) -> Vec<Vec<String>> {
    let digits = decimals(measure);
    let baseline = &group.baseline;
    let mut rows = vec![vec![
        format!("{}, baseline", group.name),
        baseline.known.count.to_string(),
        baseline.missing.count.to_string(),
        none(),
        mean(&baseline.value, digits),
        median(&baseline.value, digits),
        none(),
        none(),
        none(),
        none(),
        none(),
        none(),
    ]];
    rows.extend(group.visits.iter().map(|visit| {
        let VisitOutcome { known, awaited, missing, value, change, percent_change, increased, responders, test, .. } = visit;
        vec![
            format!("{}, {}", group.name, visit.visit),
            known.count.to_string(),
            missing.count.to_string(),
            awaited.count.to_string(),
            mean(value, digits),
            median(value, digits),
            mean(change, digits),
            median(change, digits),
            mean(percent_change, 1),
            out_of(increased),
            out_of(responders),
            test.as_ref().map_or_else(none, p_value),
        ]
    }));
    rows
}

fn subjects(report: &Report<'_>) -> Section {
    let visits: Vec<&str> = report.egfr_increased.0.iter().map(|(visit, _)| *visit).collect();
    let mut head = words(&["Subject", "Arm", "Entered", "Dose", "State", "Baseline eGFR"]);
    head.extend(visits.iter().map(|visit| format!("eGFR at {visit}")));
    head.push("Events that count".into());
    let rows = report.listing.iter().take(ROWS).map(|listed| {
        let mut row = vec![subject_name(listed.site, listed.subject), arm_name(report, listed.arm).to_owned()];
        let Some(course) = listed.course else {
            row.resize(head.len(), "(not named)".into());
            return row;
        };
        let egfr = course.outcome.series.iter().find(|series| series.measure == Measure::Egfr);
        let doses = course.entered.doses.iter().map(|dose| format!("{} {}", day_of(&dose.given.date), dose.as_received));
        row.push(day_of(&course.entered.enrolled.date));
        row.push(doses.collect::<Vec<_>>().join("; "));
        row.push(state_name(course.state.word()));
        row.push(egfr.and_then(|series| series.baseline.as_ref()).map_or_else(none, |point| format!("{:.1}", point.value)));
        for visit in &visits {
            let value = egfr.and_then(|series| series.visits.iter().find(|value| value.visit == *visit));
            let shown = value.and_then(|value| {
                let point = value.point.as_ref()?;
                Some(match value.percent_change {
                    Some(percent) => format!("{:.1} ({percent:+.1} %)", point.value),
                    None => format!("{:.1}", point.value),
                })
            });
            row.push(shown.unwrap_or_else(none));
        }
        row.push(course.events.iter().filter(|event| event.left_out.is_none()).count().to_string());
        row
    });
    let table = Table { caption: String::new(), rows: rows.collect(), head, is_of_numbers: false };
    let notes = beyond(report.listing.len());
    Section { id: "subjects", title: "Subjects".into(), notes, tables: vec![table] }
}

fn events(report: &Report<'_>) -> Section {
    let rows = report.events.iter().take(ROWS).map(|listed| {
        let mut row = vec![subject_of(report, listed), arm_name(report, listed.arm).to_owned()];
        let Some(event) = listed.event else {
            row.resize(11, "(not named)".into());
            return row;
        };
        row.extend([
            if event.term.is_empty() { event.codes.join(" ") } else { event.term.clone() },
            event.grade.map_or_else(unknown, |grade| grade.to_string()),
            yes_no(event.is_serious),
            event.relation.map_or_else(unknown, |relation| relation.word().replace('-', " ")),
            yes_no(event.is_dose_limiting),
            event.outcome.clone().unwrap_or_else(unknown),
            event.onset.as_deref().map_or_else(unknown, day_of),
            event.left_out.map_or_else(|| "yes".into(), |reason| format!("no: {}", reason.replace('-', " "))),
            event.by.iter().map(resource).collect::<Vec<_>>().join(", "),
        ]);
        row
    });
    let head = ["Subject", "Arm", "Event", "Grade", "Serious", "Relation", "Dose-limiting", "Outcome", "Onset", "Counts", "Resources"];
    let table = Table::words("", &head, rows.collect());
    Section { id: "events", title: "Adverse events".into(), notes: beyond(report.events.len()), tables: vec![table] }
}

fn beyond(count: usize) -> Vec<String> {
    if count > ROWS { vec![format!("The first {ROWS} of {count}; the JSON names all.")] } else { Vec::new() }
}

/// `AdverseEvent/7 v2`.
fn resource(cited: &Cited) -> String {
    match &cited.version {
        Some(version) => format!("{} v{version}", cited.resource),
        None => cited.resource.clone(),
    }
}

/// `on follow-up`.
fn state_name(word: &str) -> String {
    word.replacen('-', " ", 1)
}

/// The as-of as people write it: a whole day where it is one.
pub fn as_of_name(report: &Report<'_>) -> String {
    let is_whole_day = (report.as_of_ms + 1) % MS_PER_DAY == 0;
    if is_whole_day { day(report.as_of_ms) } else { instant(report.as_of_ms) }
}

/// What people call an arm of this report.
pub fn arm_name<'r>(report: &'r Report<'_>, arm: &'r str) -> &'r str {
    match report.enrolment.arms.iter().find(|known| known.arm == arm) {
        Some(known) => known.name,
        None if arm == NOT_ASSIGNED => "Not assigned",
        None => arm,
    }
}

fn subject_of(report: &Report<'_>, event: &ListedEvent<'_>) -> String {
    let Listed { site, subject, .. } = &report.listing[event.listed];
    subject_name(site, *subject)
}

pub fn subject_name(site: &str, subject: Option<&str>) -> String {
    match subject {
        Some(subject) => format!("{site}/{subject}"),
        None => format!("{site}, not named"),
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn none() -> String {
    "-".into()
}

fn unknown() -> String {
    "not known".into()
}

fn yes_no(answer: Option<bool>) -> String {
    match answer {
        Some(true) => "yes".into(),
        Some(false) => "no".into(),
        None => unknown(),
    }
}

fn plural(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// `7 of 12 (58 %)`.
fn share(count: usize, of: usize) -> String {
    match of {
        0 => "0 of 0".into(),
        _ => format!("{count} of {of} ({:.0} %)", 100.0 * count as f64 / of as f64),
    }
}

fn out_of(counted: &Counted) -> String {
    match counted.of {
        Some(0) => none(),
        Some(of) => share(counted.count, of),
        None => counted.count.to_string(),
    }
}

fn events_and_subjects(count: &EventCount) -> String {
    format!("{} ({})", count.events, count.subjects)
}

/// A number with so many decimals; what rounds to 0 has no sign.
fn decimal(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    let is_zero = text.chars().all(|character| matches!(character, '-' | '0' | '.'));
    if is_zero { text.trim_start_matches('-').to_owned() } else { text }
}

fn mean(summary: &Summary, digits: usize) -> String {
    match (summary.mean, summary.standard_deviation) {
        (Some(mean), Some(deviation)) => format!("{} ({})", decimal(mean, digits), decimal(deviation, digits)),
        (Some(mean), None) => decimal(mean, digits),
        (None, _) => none(),
    }
}

/// `0.0342 (n 12)`.
fn p_value(test: &Tested) -> String {
    let Tested { p, n, .. } = test;
    if *p < 0.0001 { format!("<0.0001 (n {n})") } else { format!("{p:.4} (n {n})") }
}

fn median(summary: &Summary, digits: usize) -> String {
    match (summary.median, summary.first_quartile, summary.third_quartile) {
        (Some(median), Some(first), Some(third)) => {
            format!("{} ({}, {})", decimal(median, digits), decimal(first, digits), decimal(third, digits))
        }
        (median, _, _) => median.map_or_else(none, |median| decimal(median, digits)),
    }
}

/// The day of a FHIR date, as coarse as it is.
fn day_of(date: &str) -> String {
    date.split('T').next().unwrap_or(date).to_owned()
}

fn instant(ms: i64) -> String {
    PartialDate::instant(ms).to_string()
}

/// `YYYY-MM-DD` of an instant, UTC.
pub fn day(ms: i64) -> String {
    Day::from_number(ms.div_euclid(MS_PER_DAY)).to_string()
}
