//! A search read page by page with nothing left out: every entry as the EHR wrote it, and a word for each way in which
//! the pages cannot be followed. Who only looks for something of ours reads the same pages by [`Pages`].

use std::collections::BTreeSet;

use reqwest::Url;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Ehr, EhrError, Held, LinkView, OutcomeIssueView, SearchView, held, not_reached, read_json};

/// One page as the EHR answered it.
#[derive(Debug, Default)]
pub struct Page {
    /// Matches, byte for byte, in the page's order.
    pub resources: Vec<String>,
    /// What the EHR put beside them, such as what they refer to.
    pub included: Vec<String>,
    /// What the EHR said beside them: codes and places of OperationOutcomes, without their free text.
    pub warnings: Vec<String>,
    /// How many matches there are in all, where the EHR says so.
    pub total: Option<u64>,
    /// The way to the page behind this one, or why it must not be gone.
    pub next: Option<Result<Next, EhrError>>,
}

/// The way to the page behind one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Next(Url);

/// The pages of one search that were read, so that a circle is seen.
#[derive(Debug, Default)]
pub struct Trail(BTreeSet<String>);

/// Where a search for something of ours stands: what cannot be followed ends it.
pub struct Pages {
    next: Option<Next>,
    /// There is a page behind, and it must not be gone to.
    is_cut: bool,
    trail: Trail,
    pub(super) total: Option<u64>,
}

impl Pages {
    /// Whether the server has said that there is more than was read.
    pub fn has_more(&self) -> bool {
        self.is_cut || self.next.is_some()
    }
}

impl Ehr {
    /// A search that is read page by page, for whoever must pause between pages.
    pub fn pages(&self, resource_type: &str, query: &[(&str, String)]) -> Result<Pages, EhrError> {
        let mut url = self.url(resource_type)?;
        url.query_pairs_mut().extend_pairs(query);
        Ok(Pages { next: Some(Next(url)), is_cut: false, trail: Trail::default(), total: None })
    }

    /// The next page of a search: its matches of this type; `None` behind the last one, or when `most` were read.
    pub async fn next_page(&self, resource_type: &str, pages: &mut Pages, most: usize) -> Result<Option<Vec<Held>>, EhrError> {
        if most <= pages.trail.0.len() {
            return Ok(None);
        }
        let Some(next) = pages.next.take() else { return Ok(None) };
        let page = self.page_behind(&next, &mut pages.trail).await?;
        pages.total = pages.total.or(page.total);
        pages.is_cut = page.next.as_ref().is_some_and(Result::is_err);
        pages.next = page.next.and_then(Result::ok);
        let held = page.resources.into_iter().filter_map(|resource| held(resource, None)).filter(|held| held.index.resource_type == resource_type);
        Ok(Some(held.collect()))
    }

    /// The first page of a search.
    pub async fn first_page(&self, resource_type: &str, query: &[(String, String)], trail: &mut Trail) -> Result<Page, EhrError> {
        let mut url = self.url(resource_type)?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        self.page(url, trail).await
    }

    /// The page that an earlier one named.
    pub async fn page_behind(&self, next: &Next, trail: &mut Trail) -> Result<Page, EhrError> {
        self.page(next.0.clone(), trail).await
    }

    async fn page(&self, url: Url, trail: &mut Trail) -> Result<Page, EhrError> {
        trail.0.insert(url.to_string());
        let answer = self.fetch(url).await?;
        // Not JSON, or JSON of something else: a proxy's page, a login form, a server that is starting.
        let bundle: PageView<'_> = read_json(&answer.body)?;
        if bundle.resource_type != "Bundle" {
            return Err(not_reached());
        }
        let mut page = Page { total: bundle.total, ..Page::default() };
        for entry in bundle.entry {
            let Some(resource) = entry.resource else { continue };
            match entry.search.and_then(|search| search.mode).as_deref() {
                Some("outcome") => page.warnings.extend(warnings(resource.get())),
                Some("match") | None => page.resources.push(resource.get().to_owned()),
                Some(_) => page.included.push(resource.get().to_owned()),
            }
        }
        page.next = bundle.link.into_iter().find(|link| link.relation == "next").map(|link| self.next_of(&link.url, trail));
        Ok(page)
    }

    /// A page elsewhere would take our token there; a page seen before would never end. Neither may end a search as if
    /// all had been seen.
    fn next_of(&self, link: &str, trail: &Trail) -> Result<Next, EhrError> {
        let refused = |why: &str| Err(EhrError::Refused { status: 0, outcome: why.to_owned() });
        match self.base.join(link) {
            Err(_) => refused("the next page of a search has no address"),
            Ok(url) if !self.is_same_origin(&url) => refused("the next page of a search is on another server than the FHIR base"),
            Ok(url) if trail.0.contains(url.as_str()) => refused("the pages of a search lead in a circle"),
            Ok(url) => Ok(Next(url)),
        }
    }
}

fn warnings(outcome: &str) -> Vec<String> {
    let Ok(outcome) = serde_json::from_str::<WarningsView>(outcome) else { return Vec::new() };
    let of_note = outcome.issue.into_iter().filter(|issue| matches!(issue.severity.as_str(), "fatal" | "error" | "warning"));
    of_note.map(|issue| format!("{} {}", issue.severity, issue.code).chars().filter(|c| !c.is_control()).take(80).collect()).collect()
}

#[derive(Deserialize)]
struct PageView<'a> {
    #[serde(rename = "resourceType", default)]
    resource_type: String,
    #[serde(default)]
    total: Option<u64>,
    #[serde(borrow, default)]
    entry: Vec<PageEntryView<'a>>,
    #[serde(default)]
    link: Vec<LinkView>,
}

#[derive(Deserialize)]
struct PageEntryView<'a> {
    #[serde(borrow, default)]
    resource: Option<&'a RawValue>,
    #[serde(default)]
    search: Option<SearchView>,
}

#[derive(Deserialize)]
struct WarningsView {
    #[serde(default)]
    issue: Vec<OutcomeIssueView>,
}
