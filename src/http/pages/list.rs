//! The screening list as a page: who passes, who does not, what is missing, and how fresh it is.

use std::collections::BTreeMap;

use askama::Template;
use serde::Deserialize;

use super::Shell;
use super::text::{self, Badge, Clock};
use crate::clinical::quantity::ANALYTES;
use crate::pipeline::decide;
use crate::rules::{SubjectState, Verdict};
use crate::store::messages::Freshness;
use crate::store::screening::{ListPage, ListQuery, ListRow, Sort};
use crate::study::{Rule, Study};

/// A feed that brought nothing for this long greys the list: one day, so that a hospital that sends nightly stays
/// black. The gateway's own choice; it decides nothing else.
pub const STALE_AFTER_MS: i64 = 26 * 60 * 60 * 1000;

/// Rows of one page.
const ROWS: usize = 50;

/// Chips of missing words in one row.
const CHIPS: usize = 3;

/// The address line of the list; what it does not understand counts as "any".
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Params {
    pub study: String,
    pub site: String,
    pub prescreen: String,
    pub state: String,
    pub missing: String,
    pub near_miss: String,
    pub sort: String,
    pub page: String,
}

impl Params {
    /// The question for the store.
    pub fn query(&self, study: &Study) -> ListQuery {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        ListQuery {
            study: study.id.clone(),
            site: some(&self.site),
            prescreen: some(&self.prescreen),
            state: some(&self.state),
            states: Vec::new(),
            missing: some(&self.missing),
            near_miss: self.is_near_miss(),
            sort: SORTS.iter().find(|(_, word, _)| *word == self.sort).map_or(Sort::Changed, |(sort, _, _)| *sort),
            page: self.page.parse().unwrap_or(0),
            limit: ROWS,
        }
    }

    fn is_near_miss(&self) -> bool {
        matches!(self.near_miss.as_str(), "true" | "1" | "on" | "yes")
    }

    fn is_filtered(&self) -> bool {
        self.is_near_miss() || [&self.site, &self.prescreen, &self.state, &self.missing].iter().any(|text| !text.is_empty())
    }

    /// The address of the same list with these parameters, after `path`.
    fn href(&self, path: &str, study: &str) -> String {
        let pairs = [
            ("study", study),
            ("prescreen", &self.prescreen),
            ("state", &self.state),
            ("missing", &self.missing),
            ("site", &self.site),
            ("near-miss", if self.is_near_miss() { "true" } else { "" }),
            ("sort", &self.sort),
            ("page", if self.page == "0" { "" } else { &self.page }),
        ];
        let query: Vec<String> =
            pairs.into_iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| format!("{name}={}", super::percent(value))).collect();
        format!("{path}?{}", query.join("&"))
    }
}

const SORTS: [(Sort, &str, &str); 4] = [
    (Sort::Changed, "changed", "Newest change first"),
    (Sort::EgfrAscending, "egfr", "eGFR, lowest first"),
    (Sort::EgfrDescending, "-egfr", "eGFR, highest first"),
    (Sort::Subject, "subject", "Subject"),
];

#[derive(Template)]
#[template(path = "list.html")]
pub struct List {
    shell: Shell,
    studies: Vec<StudyTab>,
    study: String,
    title: String,
    registry: Vec<String>,
    listed: String,
    hidden: String,
    csv: String,
    /// Address of the study's report; empty for a study without arms, which is no trial.
    report: String,
    tiles: Vec<Tile>,
    feeds: Vec<Feed>,
    choices: Vec<Choice>,
    near_miss: bool,
    is_filtered: bool,
    clear: String,
    is_stale: bool,
    now_ms: i64,
    stale_after_ms: i64,
    has_sites: bool,
    rows: Vec<Row>,
    shown: String,
    previous: Option<String>,
    next: Option<String>,
}

struct StudyTab {
    id: String,
    href: String,
    is_current: bool,
}

struct Tile {
    class: &'static str,
    mark: &'static str,
    label: &'static str,
    count: i64,
    href: String,
    is_current: bool,
}

struct Feed {
    site: String,
    name: String,
    last_ms: i64,
    machine: String,
    time: String,
    ago: String,
    is_stale: bool,
}

struct Choice {
    name: &'static str,
    label: &'static str,
    options: Vec<ChoiceOption>,
}

struct ChoiceOption {
    value: String,
    label: String,
    is_selected: bool,
}

struct Row {
    site: String,
    subject: String,
    href: String,
    badge: Badge,
    state: String,
    egfr: Option<String>,
    egfr_date: Option<String>,
    why: String,
    missing: Vec<String>,
    more_missing: usize,
    all_missing: String,
    near_miss: bool,
    is_waiting: bool,
    changed_from: Option<String>,
    changed_ms: i64,
    changed_ago: String,
}

/// Everything the page is made of, for one study.
pub struct Source<'a> {
    pub params: &'a Params,
    pub study: &'a Study,
    pub studies: Vec<&'a Study>,
    pub page: ListPage,
    pub freshness: Vec<Freshness>,
    pub clock: &'a Clock,
}

pub fn view(shell: Shell, source: Source<'_>) -> List {
    let Source { params, study, studies, page, freshness, clock } = source;
    let number = params.page.parse::<usize>().unwrap_or(0);
    let last = (number * ROWS + page.rows.len()) as i64;
    let turned = |to: usize| Params { page: to.to_string(), ..params.clone() }.href("/", &study.id);
    // A decision of a person brings no result: it does not make a list fresh.
    let feeds: Vec<Feed> = freshness.iter().filter(|feed| feed.feed != decide::FEED).map(|feed| feed_view(feed, &shell, clock)).collect();
    let is_stale = !feeds.is_empty() && feeds.iter().all(|feed| feed.is_stale);
    let has_sites = shell.sites.len() > 1;
    List {
        studies: studies
            .iter()
            .map(|other| StudyTab { id: other.id.clone(), href: format!("/?study={}", super::percent(&other.id)), is_current: other.id == study.id })
            .collect(),
        study: study.id.clone(),
        title: study.title.clone(),
        registry: {
            // The same number under two spellings of its register is shown once.
            let mut values: Vec<String> = study.registry.iter().map(|id| id.value.clone()).collect();
            values.dedup();
            values
        },
        listed: count_of(page.counts.values().sum(), "subject", "subjects"),
        hidden: text::hidden_count(&page.hidden),
        csv: Params { page: String::new(), ..params.clone() }
            .href(&format!("/api/studies/{}/subjects", super::percent(&study.id)), "")
            .replace("?&", "?")
            + "&format=csv",
        report: if study.arms.is_empty() { String::new() } else { format!("/studies/{}/report", super::percent(&study.id)) },
        tiles: tiles(params, study, &page.counts),
        feeds,
        choices: choices(params, study, &shell),
        near_miss: params.is_near_miss(),
        is_filtered: params.is_filtered(),
        clear: format!("/?study={}", super::percent(&study.id)),
        is_stale,
        now_ms: clock.now_ms,
        stale_after_ms: STALE_AFTER_MS,
        has_sites,
        shown: match page.total {
            0 => "none".into(),
            total => format!("{} to {last} of {total}", number * ROWS + 1),
        },
        previous: number.checked_sub(1).map(turned),
        next: (last < page.total).then(|| turned(number + 1)),
        rows: page.rows.into_iter().map(|row| row_view(row, study, clock)).collect(),
        shell,
    }
}

fn feed_view(feed: &Freshness, shell: &Shell, clock: &Clock) -> Feed {
    Feed {
        site: shell.sites.iter().find(|site| site.id == feed.site).map_or_else(|| feed.site.clone(), |site| site.name.clone()),
        name: feed.feed.clone(),
        last_ms: feed.last_received_ms,
        machine: clock.machine(feed.last_received_ms),
        time: clock.time(feed.last_received_ms),
        ago: clock.ago(feed.last_received_ms),
        is_stale: clock.now_ms - feed.last_received_ms > STALE_AFTER_MS,
    }
}

fn tiles(params: &Params, study: &Study, counts: &BTreeMap<String, i64>) -> Vec<Tile> {
    [(Verdict::Met, "met"), (Verdict::Unknown, "unknown"), (Verdict::NotMet, "not met")]
        .into_iter()
        .map(|(verdict, label)| {
            let badge = text::badge(verdict);
            let is_current = params.prescreen == verdict.word();
            let prescreen = if is_current { String::new() } else { verdict.word().to_owned() };
            Tile {
                class: badge.class,
                mark: badge.mark,
                label,
                count: counts.get(verdict.word()).copied().unwrap_or(0),
                href: Params { prescreen, page: String::new(), ..params.clone() }.href("/", &study.id),
                is_current,
            }
        })
        .collect()
}

fn choices(params: &Params, study: &Study, shell: &Shell) -> Vec<Choice> {
    let choice = |name, label, current: &str, options: Vec<(String, String)>| Choice {
        name,
        label,
        options: [(String::new(), "Any".to_owned())]
            .into_iter()
            .chain(options)
            .map(|(value, label)| ChoiceOption { is_selected: value == current, value, label })
            .collect(),
    };
    let verdicts = [Verdict::Met, Verdict::Unknown, Verdict::NotMet];
    let mut choices = vec![
        choice(
            "prescreen",
            "Prescreen",
            &params.prescreen,
            verdicts.iter().map(|verdict| (verdict.word().to_owned(), text::badge(*verdict).word.to_owned())).collect(),
        ),
        choice(
            "state",
            "State",
            &params.state,
            SubjectState::ALL.map(SubjectState::word).map(|word| (word.to_owned(), text::state_name(word))).into(),
        ),
        choice(
            "missing",
            "Missing",
            &params.missing,
            missing_words(study).into_iter().map(|word| (word.to_owned(), text::missing_name(word))).collect(),
        ),
    ];
    if shell.sites.len() > 1 {
        choices.push(choice("site", "Site", &params.site, shell.sites.iter().map(|site| (site.id.clone(), site.name.clone())).collect()));
    }
    choices.push(Choice {
        name: "sort",
        label: "Order",
        options: SORTS
            .into_iter()
            .map(|(sort, word, label)| ChoiceOption {
                value: word.into(),
                label: label.into(),
                is_selected: if params.sort.is_empty() { sort == Sort::Changed } else { params.sort == word },
            })
            .collect(),
    });
    choices
}

/// What can be missing for this study: what its criteria ask for.
fn missing_words(study: &Study) -> Vec<&'static str> {
    let mut words = Vec::new();
    for criterion in &study.criteria {
        match &criterion.rule {
            Rule::Age { .. } => words.push("birth-date"),
            Rule::Sex { .. } => words.push("sex"),
            Rule::EgfrRange { .. } | Rule::EgfrSustained { .. } => words.extend(["creatinine", "birth-date", "sex"]),
            Rule::ConditionAbsent { .. } | Rule::ConditionPresent { .. } => words.push("condition"),
            Rule::LabLimit { analyte, .. } => words.push(analyte.word()),
            Rule::LabUpperLimit { analytes, .. } => words.extend(analytes.iter().map(|analyte| analyte.word())),
            Rule::Consent {} | Rule::Attested {} => {}
        }
    }
    let order = |word: &&str| ANALYTES.iter().position(|facts| facts.word == *word).map_or(ANALYTES.len(), |index| index);
    words.sort_by_key(|word| (order(word), *word));
    words.dedup();
    words
}

fn row_view(row: ListRow, study: &Study, clock: &Clock) -> Row {
    let missing: Vec<String> = row.missing.iter().map(|word| text::missing_name(word)).collect();
    Row {
        href: super::card_href(&row.study, &row.site, &row.subject),
        badge: text::badge_of_word(&row.prescreen),
        state: text::state_name(&row.state),
        egfr: row.egfr.map(|egfr| text::egfr(egfr, super::limits(study))),
        egfr_date: row.egfr_date.as_deref().map(text::day),
        why: text::sentence(&row.why),
        more_missing: missing.len().saturating_sub(CHIPS),
        all_missing: missing.join(", "),
        missing: missing.into_iter().take(CHIPS).collect(),
        near_miss: row.near_miss,
        is_waiting: row.is_waiting,
        changed_from: row.changed_from.as_deref().map(text::changed_from),
        changed_ms: row.changed_ms,
        changed_ago: clock.ago(row.changed_ms),
        site: row.site,
        subject: row.subject,
    }
}

fn count_of(count: i64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}
