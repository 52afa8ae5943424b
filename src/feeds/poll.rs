//! Polling: the source is searched again and again for what has changed since the last whole round.
//!
//! A resource may become visible later than its `meta.lastUpdated` says (it is stamped when its transaction begins), so that
//! each round begins an overlap before the last one began. Where pages come in ascending order, each is a search of its own
//! from the newest `lastUpdated` of the page before, that instant included: a resource that changes while pages are read
//! moves to the end, and would push another one over the edge of a page behind which nobody looks. Newest-first pages are
//! followed by their links, and so is a run of equal instants that fills a page: what moves is read twice there, and only a
//! delete meanwhile may push one over the edge, which a comparison finds.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::comparison::{self, Asked, Mode, Showing};
use super::{Round, Trouble, Work, roster};
use crate::clinical::date::{Day, PartialDate};
use crate::ehr::pages::{Next, Page, Trail};
use crate::ehr::{Ehr, EhrError};
use crate::fhir::RawResource;

/// What is asked for, and how often.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub searches: Vec<Search>,
    /// Between the end of a round and the next one.
    #[serde(default = "every")]
    pub every_seconds: u32,
    /// Longest time from the stamp of a change at the source until a search finds it, and what the clocks may differ.
    #[serde(default = "overlap")]
    pub overlap_seconds: u32,
    #[serde(default = "page_size")]
    pub page_size: u32,
    /// Whether the source is asked to sort; some refuse to.
    #[serde(default = "yes")]
    pub sort: bool,
    /// Whether each night everything that the source shows is compared with what is here.
    #[serde(default = "yes")]
    pub compare_nightly: bool,
    /// Where the source answers only about one patient at a time.
    #[serde(default)]
    pub roster: Option<roster::Settings>,
}

fn every() -> u32 {
    60
}

/// LinuxForHealth's default transaction time-out is 120 s, SQL servers' are of that order; the rest is for clocks.
pub(super) fn overlap() -> u32 {
    300
}

pub(super) fn page_size() -> u32 {
    200
}

fn yes() -> bool {
    true
}

/// One search, or one for each value of `each`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Search {
    #[serde(rename = "type")]
    pub resource_type: String,
    /// Search parameters as the source knows them, such as `{"category": "laboratory"}`.
    #[serde(default)]
    pub query: BTreeMap<String, String>,
    /// Parameters of which the source takes one value at a time: a search for each.
    #[serde(default)]
    pub each: BTreeMap<String, Vec<String>>,
    /// Only these elements (`_elements`), beside those that FHIR makes mandatory.
    #[serde(default)]
    pub elements: Vec<String>,
    /// For a source that cannot be searched by `_lastUpdated`: everything whose `date` lies within so many days is read each
    /// round. What is corrected later than that is found by a comparison alone.
    #[serde(default)]
    pub date_lookback_days: Option<u32>,
}

/// One question that is put to the source again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub resource_type: String,
    pub query: Vec<(String, String)>,
    /// The one patient whom it is about, where it is about one.
    pub about: Option<String>,
    /// Resources on a page.
    pub page_size: u32,
    pub window: Window,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    LastUpdated,
    Date { lookback_days: u32 },
}

impl Question {
    /// Its name in the cursor: a question that is put otherwise begins anew.
    fn key(&self) -> String {
        let query: Vec<String> = self.query.iter().map(|(name, value)| format!("{name}={value}")).collect();
        format!("{}?{}", self.resource_type, query.join("&"))
    }
}

impl Settings {
    /// Every question that a round puts.
    pub fn questions(&self) -> Vec<Question> {
        self.searches.iter().flat_map(|search| search.questions(self.page_size)).collect()
    }
}

impl Search {
    fn questions(&self, page_size: u32) -> Vec<Question> {
        let mut queries: Vec<Vec<(String, String)>> = vec![self.query.clone().into_iter().collect()];
        for (name, values) in &self.each {
            let with = |query: &Vec<(String, String)>, value: &String| query.iter().cloned().chain([(name.clone(), value.clone())]).collect();
            queries = queries.iter().flat_map(|query| values.iter().map(move |value| with(query, value))).collect();
        }
        let window = self.date_lookback_days.map_or(Window::LastUpdated, |lookback_days| Window::Date { lookback_days });
        for query in &mut queries {
            if !self.elements.is_empty() {
                query.push(("_elements".to_owned(), self.elements.join(",")));
            }
        }
        queries.into_iter().map(|query| Question { resource_type: self.resource_type.clone(), query, about: None, page_size, window }).collect()
    }
}

/// How far each question was read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Cursor {
    questions: BTreeMap<String, Read>,
}

/// How far one question was read, ms since 1970 UTC.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Read {
    /// When the last whole reading began: what was visible then is here.
    until_ms: Option<i64>,
    /// A reading that was begun then, and through which instant it has come.
    begun: Option<(i64, i64)>,
}

/// Puts every question once, and reads each answer to its end.
pub(super) async fn round(mut work: Work<'_>, ehr: &Ehr, settings: &Settings, cursor: &str) -> Result<Round, Trouble> {
    // A cursor that cannot be read is one of an older form: everything is read once more.
    let mut cursor: Cursor = serde_json::from_str(cursor).unwrap_or_default();
    let complete_until_ms = read(&mut work, ehr, settings, &mut cursor, &to_json).await?;
    Ok(Round { complete_until_ms, next_in_ms: i64::from(settings.every_seconds) * 1_000, ..work.round })
}

/// Puts every question once, for a feed whose cursor holds more than ours: `keep` writes the whole of it. Answers up to when
/// everything is here.
pub(super) async fn read(
    work: &mut Work<'_>,
    ehr: &Ehr,
    settings: &Settings,
    cursor: &mut Cursor,
    keep: &(dyn Fn(&Cursor) -> String + Sync),
) -> Result<Option<i64>, Trouble> {
    if let Some(roster) = &settings.roster {
        return roster::sweep(work, ehr, settings, roster).await;
    }
    let questions = settings.questions();
    let keys: Vec<String> = questions.iter().map(Question::key).collect();
    cursor.questions.retain(|key, _| keys.contains(key));
    let overlap_ms = i64::from(settings.overlap_seconds) * 1_000;
    let mut complete_until_ms = i64::MAX;
    for (question, key) in questions.iter().zip(&keys) {
        let read = cursor.questions.get(key).cloned().unwrap_or_default();
        let now_ms = work.now_ms();
        let (began_ms, from_ms) = match read.begun {
            Some((began_ms, through_ms)) => (began_ms, Some(through_ms)),
            None => (now_ms, read.until_ms.map(|until_ms| until_ms - overlap_ms)),
        };
        let mut reading = Reading::new(question, settings.sort, from_ms, began_ms);
        while let Some(resources) = reading.next(ehr).await? {
            work.take(resources).await?;
            if let Some(through_ms) = reading.through_ms() {
                let read = Read { until_ms: read.until_ms, begun: Some((began_ms, through_ms)) };
                cursor.questions.insert(key.clone(), read);
                work.advance(keep(cursor)).await?;
            }
        }
        cursor.questions.insert(key.clone(), Read { until_ms: Some(began_ms), begun: None });
        work.advance(keep(cursor)).await?;
        complete_until_ms = complete_until_ms.min(began_ms);
    }
    Ok(Some(complete_until_ms))
}

/// Compares what the questions show without a limit of time with what is here.
pub(super) async fn compare(mut work: Work<'_>, ehr: &Ehr, settings: &Settings, mode: Mode, who: &str) -> Result<Round, Trouble> {
    let questions = if settings.roster.is_some() { roster::questions(&work, settings).await? } else { settings.questions() };
    let asked = Asked { ehr, showing: Showing::Search { questions: &questions, sort: settings.sort }, mode };
    let report = comparison::run(&mut work, asked, who).await?;
    Ok(Round { report, ..work.round })
}

fn to_json(cursor: &Cursor) -> String {
    serde_json::to_string(cursor).expect("a cursor is JSON")
}

/// Pages of one search that are read in vain before it is given up; a source that ignores `_count` stays far below.
const PAGES_MAX: usize = 100_000;
/// Largest page that is asked for where more resources than fit on one bear the same stamp.
const PAGE_SIZE_MAX: u32 = 5_000;

/// One question, read page by page to its end.
pub(super) struct Reading<'q> {
    question: &'q Question,
    sort: bool,
    from_ms: Option<i64>,
    began_ms: i64,
    /// Nothing is left out, however old.
    is_of_everything: bool,
    page_size: u32,
    /// Resources on the page before that began where this search does.
    before: usize,
    /// Pages larger than asked for at first are not tried any more: they could not be had.
    has_enlarged_in_vain: bool,
    trail: Trail,
    next: Step,
    /// Every page until now was in ascending order, and joined the one before.
    is_ascending: bool,
    is_known_to_sort: bool,
    newest_ms: Option<i64>,
    pages: usize,
}

enum Step {
    Search,
    Follow(Next),
    /// The page behind must not be gone to: not all was seen.
    Refused(EhrError),
    End,
}

impl<'q> Reading<'q> {
    pub(super) fn new(question: &'q Question, sort: bool, from_ms: Option<i64>, began_ms: i64) -> Reading<'q> {
        Reading {
            question,
            sort,
            from_ms,
            began_ms,
            is_of_everything: false,
            page_size: question.page_size,
            before: 0,
            has_enlarged_in_vain: false,
            trail: Trail::default(),
            next: Step::Search,
            is_ascending: true,
            is_known_to_sort: false,
            newest_ms: None,
            pages: 0,
        }
    }

    /// Without a limit of time.
    pub(super) fn of_everything(question: &'q Question, sort: bool, began_ms: i64) -> Reading<'q> {
        Reading { is_of_everything: true, ..Reading::new(question, sort, None, began_ms) }
    }

    /// Through which instant everything was read; `None` while that cannot be told.
    pub(super) fn through_ms(&self) -> Option<i64> {
        let is_sorted = self.is_ascending && self.is_known_to_sort;
        self.newest_ms.filter(|_| is_sorted && self.question.window == Window::LastUpdated)
    }

    /// The resources of the next page; `None` behind the last one.
    pub(super) async fn next(&mut self, ehr: &Ehr) -> Result<Option<Vec<String>>, EhrError> {
        let page = match std::mem::replace(&mut self.next, Step::End) {
            Step::End => return Ok(None),
            Step::Refused(error) => return Err(error),
            Step::Search => match self.search(ehr).await {
                Err(error) if self.page_size != self.question.page_size => {
                    tracing::debug!(%error, "a larger page could not be had; links are followed");
                    (self.page_size, self.has_enlarged_in_vain) = (self.question.page_size, true);
                    self.search(ehr).await?
                }
                found => found?,
            },
            Step::Follow(next) => ehr.page_behind(&next, &mut self.trail).await?,
        };
        self.pages += 1;
        if PAGES_MAX < self.pages {
            return Err(EhrError::Refused { status: 0, outcome: "the pages of a search have no end".to_owned() });
        }
        if !page.warnings.is_empty() {
            tracing::warn!(resource_type = self.question.resource_type, warnings = page.warnings.join(", "), "the source warns of a search");
        }
        self.next = self.step(ehr, &page).await?;
        Ok(Some(page.resources.into_iter().chain(page.included).collect()))
    }

    async fn search(&mut self, ehr: &Ehr) -> Result<Page, EhrError> {
        // A search that begins anew where the last page ended is no circle.
        self.trail = Trail::default();
        let found = ehr.first_page(&self.question.resource_type, &self.query(), &mut self.trail).await;
        match found {
            // Not every source sorts, and some refuse a search that asks for it.
            Err(EhrError::Refused { status: 400 | 403 | 404 | 422 | 501, .. } | EhrError::Unsupported { .. }) if self.sort && self.pages == 0 => {
                self.sort = false;
                ehr.first_page(&self.question.resource_type, &self.query(), &mut self.trail).await
            }
            found => found,
        }
    }

    /// Whether the source sorts: a page may be in order by chance, or of one instant alone. Newest first it begins with what is
    /// newer than all that was read, if there is anything. What begins with something older is not sorted at all.
    async fn sorts(&mut self, ehr: &Ehr) -> Result<bool, EhrError> {
        if self.is_known_to_sort {
            return Ok(true);
        }
        let mut query = self.question.query.clone();
        query.extend([("_count", "1"), ("_sort", "-_lastUpdated")].map(|(name, value)| (name.to_owned(), value.to_owned())));
        query.extend(self.since());
        let newest_ms = match ehr.first_page(&self.question.resource_type, &query, &mut Trail::default()).await {
            Ok(page) => page.resources.first().and_then(|newest| last_updated_ms(newest)),
            Err(EhrError::Refused { .. } | EhrError::Unsupported { .. }) => None,
            Err(error) => return Err(error),
        };
        self.is_known_to_sort = self.newest_ms < newest_ms;
        self.is_ascending &= self.newest_ms <= newest_ms;
        Ok(self.is_known_to_sort)
    }

    fn since(&self) -> Option<(String, String)> {
        self.from_ms.map(|from_ms| ("_lastUpdated".to_owned(), format!("ge{}", PartialDate::instant(from_ms))))
    }

    fn query(&self) -> Vec<(String, String)> {
        let mut query = self.question.query.clone();
        query.push(("_count".to_owned(), self.page_size.to_string()));
        match self.question.window {
            Window::LastUpdated => {
                query.extend(self.since());
                if self.sort {
                    query.push(("_sort".to_owned(), "_lastUpdated".to_owned()));
                }
            }
            Window::Date { .. } if self.is_of_everything => {}
            Window::Date { lookback_days } => {
                let day = Day::from_number(self.began_ms.div_euclid(86_400_000) - i64::from(lookback_days));
                query.push((date_parameter(&self.question.resource_type).to_owned(), format!("ge{day}")));
            }
        }
        query
    }

    /// Where to go from this page.
    async fn step(&mut self, ehr: &Ehr, page: &Page) -> Result<Step, EhrError> {
        let stamps: Vec<Option<i64>> = page.resources.iter().map(|resource| last_updated_ms(resource)).collect();
        let in_order = stamps.iter().all(Option::is_some) && stamps.is_sorted() && stamps.first().is_none_or(|first| self.newest_ms <= *first);
        self.is_ascending &= in_order;
        let newest_ms = stamps.iter().copied().max().flatten();
        let has_moved = self.newest_ms < newest_ms && self.from_ms < newest_ms;
        self.newest_ms = self.newest_ms.max(newest_ms);
        if page.next.as_ref().is_some_and(Result::is_ok) && self.is_ascending && self.sort && self.question.window == Window::LastUpdated {
            if has_moved && self.sorts(ehr).await? {
                (self.from_ms, self.page_size, self.before) = (newest_ms, self.question.page_size, 0);
                return Ok(Step::Search);
            }
            // The newest instant of all, or one of which there is more than fits on a page. By links one would slip by when another
            // is changed meanwhile; a larger page may hold them all, if the source makes any.
            let may_enlarge = self.page_size < PAGE_SIZE_MAX && !self.has_enlarged_in_vain;
            if self.is_ascending && may_enlarge && self.before < page.resources.len() {
                (self.page_size, self.before) = (self.page_size.saturating_mul(4).min(PAGE_SIZE_MAX), page.resources.len());
                return Ok(Step::Search);
            }
        }
        Ok(match page.next.clone() {
            None => Step::End,
            Some(Err(error)) => Step::Refused(error),
            Some(Ok(next)) => Step::Follow(next),
        })
    }
}

/// `None` also of what is no FHIR at all: it is taken, and refused with a word, like everything else.
fn last_updated_ms(resource: &str) -> Option<i64> {
    RawResource::parse(resource.as_bytes()).ok()?.last_updated_ms
}

/// R4's search parameter for when something happened.
pub(super) fn date_parameter(resource_type: &str) -> &'static str {
    match resource_type {
        "Condition" => "recorded-date",
        "MedicationAdministration" => "effective-time",
        _ => "date",
    }
}
