//! A first look at a site's source, before any feed runs: does it let us in, does it declare and answer what the feeds will
//! ask. Asks the feeds' own questions for one resource each, and keeps nothing of what it reads.

use std::collections::BTreeSet;

use serde::Serialize;

use super::poll::{self, Question, Window};
use super::{Feed, Kind, roster};
use crate::clinical::date::PartialDate;
use crate::ehr::pages::{Page, Trail};
use crate::ehr::{Ehr, EhrError, scope};
use crate::fhir::RawResource;
use crate::fhir::patients::named_by;
use crate::writeback::ladder::Declared;

/// How one step went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mark {
    Good,
    /// It may work nevertheless, or could not be tried.
    Unsure,
    Bad,
}

impl Mark {
    pub const fn word(self) -> &'static str {
        match self {
            Mark::Good => "ok",
            Mark::Unsure => "--",
            Mark::Bad => "NO",
        }
    }
}

/// One thing that was tried, and a sentence; never a patient's value or id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    pub mark: Mark,
    pub what: String,
    pub says: String,
}

/// What is asked for where no feed polls, or none is configured yet.
const NOT_POLLED: [&str; 2] = ["Patient", "Observation"];

struct Steps<'a> {
    done: Vec<Step>,
    tell: &'a dyn Fn(&Step),
}

impl Steps<'_> {
    fn add(&mut self, mark: Mark, what: impl Into<String>, says: impl Into<String>) {
        let step = Step { mark, what: what.into(), says: says.into() };
        (self.tell)(&step);
        self.done.push(step);
    }
}

/// Looks at the source of these feeds, which are of one site; `patient` is somebody who may be asked about, for a source that
/// answers about one patient at a time. Each step is told as it is done.
pub async fn check(ehr: &Ehr, feeds: &[&Feed], patient: Option<&str>, now_ms: i64, tell: &dyn Fn(&Step)) -> Vec<Step> {
    let mut steps = Steps { done: Vec::new(), tell };
    let public = ehr.anonymous().capabilities().await;
    match &public {
        Ok(declared) => release(&mut steps, declared),
        Err(EhrError::Unauthorized { .. } | EhrError::Refused { status: 403, .. }) => {
            steps.add(Mark::Unsure, "metadata", "asked for again with our credentials, since the EHR does not show it to everybody");
        }
        Err(error) => steps.add(Mark::Bad, "metadata", error.to_string()),
    }
    if let Err(EhrError::Retry { .. } | EhrError::Unknown) = public {
        return steps.done;
    }
    let Ok(granted) = token(&mut steps, ehr).await else { return steps.done };
    let declared = match public {
        Ok(declared) => Some(declared),
        Err(_) => match ehr.capabilities().await {
            Ok(declared) => {
                release(&mut steps, &declared);
                Some(declared)
            }
            Err(error) => {
                steps.add(Mark::Bad, "metadata", error.to_string());
                None
            }
        },
    };
    let mut types = BTreeSet::new();
    for asked in asked(&mut steps, ehr, feeds, patient).await {
        if types.insert(asked.question.resource_type.clone()) {
            type_declared(&mut steps, &asked.question, declared.as_ref(), granted.as_deref());
        }
        answered(&mut steps, ehr, &asked, now_ms).await;
    }
    steps.done
}

fn release(steps: &mut Steps<'_>, declared: &Declared) {
    let software = declared.software.as_deref().unwrap_or("software without a name");
    let says = format!("FHIR {}, {software}, {} types", declared.fhir_version, declared.resources.len());
    // R4, R4B and R5.
    let is_read = ["4.0.", "4.3.", "5.0."].iter().any(|release| declared.fhir_version.starts_with(release));
    steps.add(
        if is_read { Mark::Good } else { Mark::Bad },
        "metadata",
        if is_read { says } else { format!("{says}: this gateway reads R4, R4B and R5") },
    );
}

/// What an access token was granted, where one is needed; an error when none can be had.
async fn token(steps: &mut Steps<'_>, ehr: &Ehr) -> Result<Option<String>, ()> {
    let declared = ehr.declared_token_endpoint().await;
    match declared {
        Ok(None) => {}
        Ok(Some(found)) => {
            let algorithms = if found.algorithms.is_empty() { "no algorithms declared".to_owned() } else { found.algorithms.join(", ") };
            steps.add(Mark::Good, "smart-configuration", format!("token endpoint {}; {algorithms}", found.token_endpoint));
        }
        Err(error) => {
            steps.add(Mark::Bad, "smart-configuration", error.to_string());
            return Err(());
        }
    }
    match ehr.granted().await {
        Ok(None) => Ok(None),
        Ok(Some(granted)) => {
            let missing = granted.missing.join(" ");
            if missing.is_empty() {
                steps.add(Mark::Good, "access token", format!("granted {}", granted.scope));
            } else {
                steps.add(
                    Mark::Bad,
                    "access token",
                    format!("granted {}; not granted: {missing}: have the EHR's administrators allow it", granted.scope),
                );
            }
            Ok(Some(granted.scope))
        }
        Err(error) => {
            steps.add(Mark::Bad, "access token", error.to_string());
            Err(())
        }
    }
}

/// One question and whose it is.
struct Asked {
    feed: String,
    question: Question,
    sort: bool,
}

/// Every question of the feeds; about one patient where they have a roster.
async fn asked(steps: &mut Steps<'_>, ehr: &Ehr, feeds: &[&Feed], patient: Option<&str>) -> Vec<Asked> {
    let mut all: Vec<Asked> = Vec::new();
    let mut is_polled = false;
    for feed in feeds {
        let settings = match &feed.kind {
            Kind::Poll { settings, .. } => settings.clone(),
            Kind::Subscription { settings, .. } => settings.poll(),
            Kind::Bulk { .. } => {
                let says = "an export is long work for the EHR and is not started to try it: nephrogate feed run does";
                steps.add(Mark::Unsure, format!("export of {}", feed.name), says);
                continue;
            }
            Kind::Folder { .. } | Kind::Mllp { .. } => continue,
        };
        is_polled = true;
        let one = match &settings.roster {
            Some(roster) => Some(somebody(steps, ehr, &feed.name, roster, patient).await),
            None => None,
        };
        for question in settings.questions() {
            let question = match &one {
                Some(Some(subject)) => roster::of_patient(question, subject),
                Some(None) => continue,
                None => question,
            };
            all.push(Asked { feed: feed.name.clone(), question, sort: settings.sort });
        }
    }
    if !is_polled {
        let plain = |kind: &str| Question {
            resource_type: kind.to_owned(),
            query: Vec::new(),
            about: None,
            page_size: poll::page_size(),
            window: Window::LastUpdated,
        };
        all.extend(NOT_POLLED.map(|kind| Asked { feed: "no poll".to_owned(), question: plain(kind), sort: false }));
    }
    all
}

/// Somebody of the roster, from the lists that the source holds itself.
async fn somebody(steps: &mut Steps<'_>, ehr: &Ehr, feed: &str, roster: &roster::Settings, patient: Option<&str>) -> Option<String> {
    let base = ehr.base().as_str();
    let mut found = patient.map(str::to_owned);
    for group in &roster.groups {
        let what = format!("roster of {feed}: Group");
        match ehr.read("Group", group).await {
            Ok(Some(held)) => {
                let members = named_by(&held.resource, base);
                steps.add(Mark::Good, what, format!("Group/{group} names {} patients", members.len()));
                found = found.or_else(|| members.into_iter().next());
            }
            Ok(None) => steps.add(Mark::Bad, what, format!("the EHR has no Group/{group}: correct the roster's groups")),
            Err(error) => steps.add(Mark::Bad, what, error.to_string()),
        }
    }
    for search in &roster.searches {
        let what = format!("roster of {feed}: {}", search.resource_type);
        let query: Vec<(String, String)> = search.query.clone().into_iter().chain([("_count".to_owned(), "1".to_owned())]).collect();
        match ehr.first_page(&search.resource_type, &query, &mut Trail::default()).await {
            Ok(page) => {
                let named: Vec<String> = page.resources.iter().chain(&page.included).flat_map(|resource| named_by(resource, base)).collect();
                let says = if named.is_empty() { "answered, and names nobody now" } else { "answered, and names somebody" };
                steps.add(Mark::Good, what, says);
                found = found.or_else(|| named.into_iter().next());
            }
            Err(error) => steps.add(Mark::Bad, what, error.to_string()),
        }
    }
    if found.is_none() {
        steps.add(Mark::Unsure, format!("roster of {feed}"), "nobody to ask about was found: name a patient of the EHR by --patient");
    }
    found
}

/// A result parameter, which CapabilityStatements do not list.
const NOT_LISTED: &str = "_elements";

fn type_declared(steps: &mut Steps<'_>, question: &Question, declared: Option<&Declared>, granted: Option<&str>) {
    let kind = question.resource_type.as_str();
    if let Some(granted) = granted {
        let lacks: String = ['r', 's'].into_iter().filter(|right| !scope::allows(granted, kind, *right)).collect();
        if !lacks.is_empty() {
            let says =
                format!("no scope that was granted allows system/{kind}.{lacks}: have the EHR's administrators allow it, and ask for it in scopes");
            steps.add(Mark::Bad, format!("{kind} scope"), says);
        }
    }
    let Some(declared) = declared else { return };
    let mut lacks: Vec<String> = Vec::new();
    for interaction in ["read", "search-type"] {
        if declared.declares(kind, interaction) == Some(false) {
            lacks.push(interaction.to_owned());
        }
    }
    if let Some(resource) = declared.of(kind).filter(|resource| !resource.search_parameters.is_empty()) {
        let window = match question.window {
            Window::LastUpdated => "_lastUpdated",
            Window::Date { .. } => poll::date_parameter(kind),
        };
        let needed = question.query.iter().map(|(name, _)| name.split(':').next().unwrap_or(name)).chain([window]);
        let needed: BTreeSet<&str> = needed.filter(|name| *name != NOT_LISTED).collect();
        let is_declared = |name: &str| resource.search_parameters.iter().any(|declared| declared == name);
        lacks.extend(needed.into_iter().filter(|name| !is_declared(name)).map(|name| format!("search by {name}")));
    }
    let what = format!("{kind} declared");
    if lacks.is_empty() {
        steps.add(Mark::Good, what, "read, search, and every parameter that is asked by");
    } else {
        steps.add(Mark::Unsure, what, format!("not declared: {}; whether it works is seen below", lacks.join(", ")));
    }
}

/// A day back: enough to see whether the window is understood.
const WINDOW_MS: i64 = 86_400_000;

/// Puts the question for one resource, counts, and reads that resource by its id.
async fn answered(steps: &mut Steps<'_>, ehr: &Ehr, asked: &Asked, now_ms: i64) {
    let Question { resource_type: kind, query, .. } = &asked.question;
    let with = |more: &[(&str, String)]| -> Vec<(String, String)> {
        query.iter().cloned().chain(more.iter().map(|(name, value)| ((*name).to_owned(), value.clone()))).collect()
    };
    let names: BTreeSet<&str> = query.iter().map(|(name, _)| name.as_str()).filter(|name| *name != NOT_LISTED).collect();
    let by = if names.is_empty() { String::new() } else { format!(" by {}", names.into_iter().collect::<Vec<_>>().join(", ")) };
    let what = format!("{kind} search ({})", asked.feed);
    let page = ehr.first_page(kind, &with(&[("_count", "1".to_owned())]), &mut Trail::default()).await;
    let page = match page {
        Ok(page) => page,
        Err(error) => return steps.add(Mark::Bad, what, format!("{kind}{by}: {error}")),
    };
    let count = ehr.first_page(kind, &with(&[("_summary", "count".to_owned())]), &mut Trail::default()).await;
    let count = count.ok().and_then(|page| page.total).or(page.total).map(|total| format!("; {total} in all")).unwrap_or_default();
    let warned = if page.warnings.is_empty() { String::new() } else { format!("; it warns: {}", page.warnings.join(", ")) };
    let mark = if page.warnings.is_empty() { Mark::Good } else { Mark::Unsure };
    steps.add(mark, what, format!("{kind}{by} is answered{count}{warned}"));
    if asked.question.window == Window::LastUpdated {
        window(steps, ehr, asked, &with(&[("_count", "1".to_owned())]), now_ms).await;
    }
    by_id(steps, ehr, kind, &page).await;
}

/// Whether the source searches by `_lastUpdated`, and sorts by it.
async fn window(steps: &mut Steps<'_>, ehr: &Ehr, asked: &Asked, query: &[(String, String)], now_ms: i64) {
    let kind = &asked.question.resource_type;
    let what = format!("{kind} since ({})", asked.feed);
    let mut since: Vec<(String, String)> = query.to_vec();
    since.push(("_lastUpdated".to_owned(), format!("ge{}", PartialDate::instant(now_ms - WINDOW_MS))));
    let mut sorted = since.clone();
    sorted.push(("_sort".to_owned(), "_lastUpdated".to_owned()));
    let first = if asked.sort { &sorted } else { &since };
    match ehr.first_page(kind, first, &mut Trail::default()).await {
        Ok(_) => steps.add(Mark::Good, what, "what has changed since yesterday can be asked for"),
        Err(_) if asked.sort && ehr.first_page(kind, &since, &mut Trail::default()).await.is_ok() => {
            steps.add(Mark::Unsure, what, "the EHR does not sort by _lastUpdated: set sort to false in this feed");
        }
        Err(error) => {
            steps.add(Mark::Bad, what, format!("the EHR does not search by _lastUpdated: use date_lookback_days in this feed ({error})"));
        }
    }
}

async fn by_id(steps: &mut Steps<'_>, ehr: &Ehr, kind: &str, page: &Page) {
    let what = format!("{kind} read");
    let found =
        page.resources.iter().filter_map(|resource| RawResource::parse(resource.as_bytes()).ok()).find(|resource| resource.resource_type == kind);
    let Some(id) = found.and_then(|resource| resource.id.map(|id| id.to_string())) else {
        return steps.add(Mark::Unsure, what, "no resource was shown that could be read by its id");
    };
    match ehr.read(kind, &id).await {
        Ok(Some(_)) => steps.add(Mark::Good, what, "what a search shows can be read by its id"),
        Ok(None) => steps.add(Mark::Bad, what, "what a search shows is not found by its id: ask the EHR's administrators"),
        Err(error) => steps.add(Mark::Bad, what, error.to_string()),
    }
}
