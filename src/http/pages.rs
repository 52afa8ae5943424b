//! The pages: the screening list, the why-card with its forms, the quarantine, the outbox. They show what the API
//! shows and decide by the same function; every value goes through the escaper of [`crate::escape`]. No page fetches anything
//! from elsewhere, and all of them work without a script.

pub mod about;
pub mod card;
pub mod course;
pub mod feeds;
mod form;
pub mod list;
pub mod quarantine;
pub mod safety;
pub mod text;
pub mod visits;
pub mod write_back;

use std::future::{Ready, ready};

use actix_web::http::header::{self, ContentType, ETag, EntityTag, Header, IfNoneMatch};
use actix_web::http::{Method, StatusCode};
use actix_web::web::{self, Data};
use actix_web::{FromRequest, HttpRequest, HttpResponse};
use askama::Template;
use compact_str::CompactString;

use super::access::{self, Person, Tokens, Who, now_ms};
use super::asked::{self, Asked};
use super::decisions::{self, DecisionKind};
use super::error::Refusal;
use super::{Route, conduct, configured};
use crate::catalogue::Catalogue;
use crate::clinical::date::AsOf;
use crate::clinical::fact::{Body, Decision};
use crate::escape::percent;
use crate::pipeline::Pipeline;
use crate::report::Enrolled;
use crate::rules::course::course;
use crate::store::{self, Store, ledger, messages, outbox};
use crate::study::{Rule, Study};

use form::Form;

/// What the composer wants said on every page: that this is the demo, that the EHR is a stand-in.
#[derive(Clone, Debug, Default)]
pub struct Notes {
    pub is_demo: bool,
    pub sentences: Vec<String>,
}

/// What stands around every page.
pub struct Shell {
    pub title: String,
    pub here: &'static str,
    /// Site that a page of one site is about; empty elsewhere.
    pub site: String,
    pub sites: Vec<SiteLink>,
    /// Address of the trial that the page is about, else of the first one here; empty where no study has arms.
    pub trial: String,
    pub who: String,
    pub is_demo: bool,
    pub notes: Vec<String>,
    pub version: &'static str,
    pub now: String,
    pub now_machine: String,
    pub zone: String,
    /// Tag of the assets, so that a new version is fetched at once.
    pub assets: &'static str,
}

#[derive(Clone)]
pub struct SiteLink {
    pub id: String,
    pub name: String,
}

pub fn routes() -> Vec<Route> {
    let mut routes = vec![
        Route::page(Method::GET, "/", Who::Screener, || web::get().to(list_page)),
        Route::page(Method::GET, "/studies/{study}/sites/{site}/subjects/{id}", Who::Screener, || web::get().to(card_page)),
        Route::page(Method::POST, "/studies/{study}/sites/{site}/subjects/{id}/decisions", Who::Screener, || web::post().to(decide)),
        Route::page(Method::GET, "/studies/{study}/safety", Who::Screener, || web::get().to(safety_page)),
        Route::page(Method::GET, "/studies/{study}/visits", Who::Screener, || web::get().to(visits_page)),
        Route::page(Method::GET, "/sites/{site}/quarantine", Who::Screener, || web::get().to(quarantine_page)),
        Route::page(Method::GET, "/feeds", Who::Screener, || web::get().to(feeds::page)),
        Route::page(Method::GET, "/about", Who::Screener, || web::get().to(about_page)),
        Route::page(Method::GET, "/assets/{name}", Who::Anyone, || web::get().to(asset)),
    ];
    routes.extend(write_back::routes());
    routes
}

/// Whoever asks for a page or sends a form, and what both are answered from.
struct Visit {
    request: HttpRequest,
    who: Person,
    pipeline: Data<Pipeline>,
    tokens: Data<Tokens>,
}

impl FromRequest for Visit {
    type Error = Refusal;
    type Future = Ready<Result<Visit, Refusal>>;

    fn from_request(request: &HttpRequest, _: &mut actix_web::dev::Payload) -> Self::Future {
        let who = Person::extract(request).into_inner();
        ready(who.map(|who| Visit { request: request.clone(), who, pipeline: configured(request), tokens: configured(request) }))
    }
}

/// Longest name a form takes, in characters.
const NAME_MAX: usize = 80;

impl Visit {
    /// Where nobody signs in, a form asks who sends it; elsewhere the token says it.
    fn asks_name(&self) -> bool {
        self.tokens.tokens.is_empty()
    }

    /// The named person who sends a form.
    fn signer(&self, form: &Form) -> Result<String, Refusal> {
        let by = if self.asks_name() { form.text("by").unwrap_or_default() } else { self.who.name.clone() };
        if by.is_empty() || NAME_MAX < by.chars().count() {
            return Err(Refusal::bad_request("this needs a named person", format!("give your name, in at most {NAME_MAX} characters")));
        }
        Ok(by)
    }
}

/// Address of a why-card below `/` and below `/api`.
pub fn card_href(study: &str, site: &str, subject: &str) -> String {
    format!("/studies/{}/sites/{}/subjects/{}", percent(study), percent(site), percent(subject))
}

/// Address below which a trial's pages lie.
pub fn trial_href(study: &str) -> String {
    format!("/studies/{}", percent(study))
}

/// The range of eGFR a study takes, both ends inclusive; mL/min/1.73 m2.
fn limits(study: &Study) -> Option<(f64, f64)> {
    study.criteria.iter().find_map(|criterion| match &criterion.rule {
        Rule::EgfrRange { low, high, .. } => Some((low.0, high.0)),
        Rule::Age { .. }
        | Rule::Sex { .. }
        | Rule::EgfrSustained { .. }
        | Rule::ConditionAbsent { .. }
        | Rule::ConditionPresent { .. }
        | Rule::LabLimit { .. }
        | Rule::LabUpperLimit { .. }
        | Rule::Consent {}
        | Rule::Attested {} => None,
    })
}

pub(super) fn shell(request: &HttpRequest, catalogue: &Catalogue, who: &Person, clock: &text::Clock, here: &'static str, title: String) -> Shell {
    let notes = request.app_data::<Data<Notes>>().map(|notes| Notes::clone(notes)).unwrap_or_default();
    let sites: Vec<SiteLink> = catalogue
        .sites
        .values()
        .filter(|site| who.site.as_ref().is_none_or(|own| *own == site.id))
        // The demo shows its own hospital; elsewhere the demo's hospital is not shown.
        .filter(|site| site.is_demo == notes.is_demo)
        .map(|site| SiteLink { id: site.id.clone(), name: site.name.clone() })
        .collect();
    let judged = sites.iter().filter_map(|site| catalogue.studies_of_site.get(&site.id)).flatten();
    let trial = judged.filter(|study| !study.arms.is_empty()).max_by_key(|study| study.criteria.len());
    Shell {
        title,
        here,
        site: String::new(),
        trial: trial.map_or_else(String::new, |study| trial_href(&study.id)),
        sites,
        who: who.name.clone(),
        is_demo: notes.is_demo,
        notes: notes.sentences,
        version: env!("CARGO_PKG_VERSION"),
        now: clock.time(clock.now_ms),
        now_machine: clock.machine(clock.now_ms),
        zone: clock.zone_name(),
        assets: assets_tag(),
    }
}

pub(super) fn html(page: &impl Template) -> Result<HttpResponse, Refusal> {
    let body = page
        .render()
        .map_err(|_| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the page could not be written", "tell whoever runs this gateway"))?;
    Ok(HttpResponse::Ok().content_type(ContentType::html()).body(body))
}

async fn list_page(
    request: HttpRequest,
    who: Person,
    store: Data<Store>,
    catalogue: Data<Catalogue>,
    params: web::Query<list::Params>,
) -> Result<HttpResponse, Refusal> {
    let clock = text::Clock::new(now_ms());
    let mut params = params.into_inner();
    let mut shell = shell(&request, &catalogue, &who, &clock, "list", String::new());
    let mut studies: Vec<_> = catalogue
        .studies
        .values()
        .filter(|study| {
            shell.sites.iter().any(|site| catalogue.studies_of_site.get(&site.id).is_some_and(|of| of.iter().any(|one| one.id == study.id)))
        })
        .map(|study| study.as_ref())
        .collect();
    // The trial with the most criteria first: a study of one criterion is there for counting.
    studies.sort_by_key(|study| std::cmp::Reverse(study.criteria.len()));
    let study = match studies.iter().find(|study| study.id == params.study) {
        Some(study) => *study,
        None if params.study.is_empty() => {
            *studies.first().ok_or_else(|| Refusal::not_found("no study is judged here", "add a study to studies/, then start again"))?
        }
        None => return Err(Refusal::not_found("no such study", "choose one on the list's page")),
    };
    params.site = who.site_scope((!params.site.is_empty()).then_some(params.site.as_str()))?.unwrap_or_default();
    shell.title = study.title.clone();
    let query = params.query(study);
    let own = who.site.clone();
    let (page, freshness) = store.read(move |tx| Ok((store::screening::list(tx, &query)?, messages::freshness(tx, own.as_deref())?))).await?;
    let seen = page.rows.iter().map(|row| (row.site.clone(), row.subject.clone())).collect();
    access::record(&store, &who, "list", &study.id, seen).await?;
    html(&list::view(shell, list::Source { params: &params, study, studies, page, freshness, clock: &clock }))
}

/// What a redirect after a decision says.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct Said {
    saved: String,
}

/// What became of a form that was sent from the page.
struct Notice {
    saved: Option<String>,
    refused: Option<String>,
}

async fn card_page(visit: Visit, path: web::Path<(String, String, String)>, said: web::Query<Said>) -> Result<HttpResponse, Refusal> {
    let notice = Notice { saved: sentence_saved(&said.saved), refused: None };
    html(&card_of(&visit, path.into_inner(), notice).await?)
}

async fn card_of(visit: &Visit, (study, site, subject): (String, String, String), notice: Notice) -> Result<card::Card, Refusal> {
    let Visit { request, who, pipeline, .. } = visit;
    let Notice { saved, refused } = notice;
    let clock = text::Clock::new(now_ms());
    let catalogue = &pipeline.catalogue;
    let study = catalogue.studies.get(&study).ok_or_else(|| Refusal::not_found("no such study", "choose one on the list's page"))?;
    let site_name = catalogue.sites.get(&site).ok_or_else(|| Refusal::not_found("no such site", "choose a subject on the list's page"))?.name.clone();
    let (site_id, subject_id, study_id) = (site.clone(), subject.clone(), study.id.clone());
    let (found, facts, items) = pipeline
        .store
        .read(move |tx| {
            let found = store::screening::card(tx, &site_id, &subject_id, &study_id)?;
            let facts = ledger::facts(tx, &site_id, &subject_id)?;
            let items = outbox::of_subject(tx, &site_id, &subject_id, &study_id)?;
            Ok((found, facts, items))
        })
        .await?;
    let found = found.ok_or_else(|| Refusal::not_found("nobody of that id was judged for this study", "choose a subject on the list's page"))?;
    access::record(&pipeline.store, who, "card", &study.id, vec![(site.clone(), subject.clone())]).await?;
    let mut decisions: Vec<(CompactString, Decision)> = facts
        .facts
        .iter()
        .filter_map(|fact| {
            let Body::Decision(decision) = &fact.body else { return None };
            Some((fact.source.id.clone(), decision.clone()))
        })
        .filter(|(_, decision)| decision.study == study.id)
        .collect();
    decisions.sort_by_key(|(_, decision)| decision.at_ms);
    let course = course(study, &catalogue.sites[&site].chart(facts.facts), AsOf::instant(clock.now_ms));
    let enrolled = course.map(|course| Enrolled::new(&site, &subject, course));
    let evidence = found.assessment.evidence_hash();
    let mut shell = shell(request, catalogue, who, &clock, "card", format!("{subject}, {}", study.title));
    if !study.arms.is_empty() {
        shell.trial = trial_href(&study.id);
    }
    let ehr_note = match pipeline.receivers.get(&site) {
        Some(_) => shell.notes.first().cloned().unwrap_or_default(),
        None => "This site writes nothing back: it has no receiver.json.".into(),
    };
    Ok(card::view(
        shell,
        card::Source {
            card: found,
            study,
            site_name,
            decisions,
            enrolled,
            items,
            may_decide: Who::Screener.allows(who.role),
            asks_name: visit.asks_name(),
            saved,
            refused,
            evidence,
            ehr_note,
            clock: &clock,
        },
    ))
}

/// The page that a form stands on, to which it leads back.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Back {
    Card,
    Safety,
}

/// What a page says after each kind of decision.
const SAVED: [(DecisionKind, &str, &str); 9] = [
    (DecisionKind::Attestation, "attestation", "Your answer is recorded, with your name, and the verdict was made anew."),
    (DecisionKind::Consent, "consent", "The decision on consent is recorded."),
    (DecisionKind::OptOut, "opt-out", "The decision on opting out is recorded."),
    (DecisionKind::State, "state", "The new state is recorded."),
    (DecisionKind::Dose, "dose", "The dose is recorded; the visits count from the first one."),
    (DecisionKind::EventRecorded, "event-recorded", "The adverse event is recorded; what you left open waits on the safety page."),
    (DecisionKind::EventAxes, "event-axes", "What you said of the event is recorded, with your name."),
    (DecisionKind::EventReported, "event-reported", "The report is recorded and its clock stands."),
    (DecisionKind::Candidate, "candidate", "Your answer is recorded, with your name."),
];

/// The sentence of a redirect; only our own words come back, never the address line's.
fn sentence_saved(word: &str) -> Option<String> {
    SAVED.iter().find(|(_, known, _)| *known == word).map(|(_, _, sentence)| (*sentence).to_owned())
}

/// The same as the API's decision, then back to the page it came from; a refusal is shown on that page as it is now.
async fn decide(visit: Visit, path: web::Path<(String, String, String)>, form: Form) -> Result<HttpResponse, Refusal> {
    let (study, site, subject) = path.into_inner();
    let back = if form.text("back").as_deref() == Some("safety") { Back::Safety } else { Back::Card };
    let taken = async {
        let by = visit.signer(&form)?;
        let wanted = form.wanted(&text::Clock::new(now_ms()))?;
        let kind = wanted.kind;
        decisions::take_decision(&visit.pipeline, &study, &site, &subject, &by, wanted).await.map(|_| kind)
    };
    match taken.await {
        Ok(taken) => {
            let word = SAVED.iter().find(|(kind, _, _)| *kind == taken).map_or("", |(_, word, _)| *word);
            let place = match back {
                Back::Card => card_href(&study, &site, &subject),
                Back::Safety => format!("{}/safety", trial_href(&study)),
            };
            Ok(HttpResponse::SeeOther().insert_header((header::LOCATION, format!("{place}?saved={word}"))).finish())
        }
        Err(refusal) if refusal.status == StatusCode::CONFLICT || refusal.status == StatusCode::BAD_REQUEST => {
            // The form comes back empty; what was written must not be lost with it.
            let wrote = form.text("reason").map_or_else(String::new, |reason| format!(" You had written: {reason}"));
            let notice = Notice { saved: None, refused: Some(format!("Not recorded: {}; {}.{wrote}", refusal.sentence, refusal.hint)) };
            let mut answer = match back {
                Back::Card => html(&card_of(&visit, (study, site, subject), notice).await?)?,
                Back::Safety => html(&safety_of(&visit, &study, visit.who.site.clone(), notice).await?)?,
            };
            *answer.status_mut() = refusal.status;
            Ok(answer)
        }
        Err(refusal) => Err(refusal),
    }
}

async fn safety_page(visit: Visit, study: web::Path<String>, asked: Asked) -> Result<HttpResponse, Refusal> {
    asked.only(&["site", "saved"], &[])?;
    let site = conduct::scope(&asked, &visit.who, &visit.pipeline)?;
    let saved = asked.get("saved").and_then(sentence_saved);
    html(&safety_of(&visit, &study, site, Notice { saved, refused: None }).await?)
}

async fn safety_of(visit: &Visit, study: &str, site: Option<String>, notice: Notice) -> Result<safety::Safety, Refusal> {
    let Visit { request, who, pipeline, .. } = visit;
    let study = asked::known_study(&pipeline.catalogue, study)?;
    let entered = conduct::entered(pipeline, study, site).await?;
    access::record(&pipeline.store, who, "safety", &study.id, entered.seen()).await?;
    let clock = text::Clock::new(entered.as_of_ms);
    let mut shell = shell(request, &pipeline.catalogue, who, &clock, "safety", format!("Safety of {}", study.id));
    shell.trial = trial_href(&study.id);
    let may_decide = Who::Screener.allows(who.role);
    let asks_name = visit.asks_name();
    let Notice { saved, refused } = notice;
    Ok(safety::view(shell, safety::Source { study, entered: &entered, may_decide, asks_name, saved, refused, clock: &clock }))
}

async fn visits_page(visit: Visit, study: web::Path<String>, asked: Asked) -> Result<HttpResponse, Refusal> {
    asked.only(&["site"], &[])?;
    let Visit { request, who, pipeline, .. } = &visit;
    let site = conduct::scope(&asked, who, pipeline)?;
    let study = asked::known_study(&pipeline.catalogue, &study)?;
    let entered = conduct::entered(pipeline, study, site).await?;
    access::record(&pipeline.store, who, "visits", &study.id, entered.seen()).await?;
    let clock = text::Clock::new(entered.as_of_ms);
    let mut shell = shell(request, &pipeline.catalogue, who, &clock, "visits", format!("Visits of {}", study.id));
    shell.trial = trial_href(&study.id);
    html(&visits::view(shell, study, &entered, &clock))
}

#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct Page {
    page: usize,
}

async fn quarantine_page(
    request: HttpRequest,
    who: Person,
    store: Data<Store>,
    catalogue: Data<Catalogue>,
    path: web::Path<String>,
    page: web::Query<Page>,
) -> Result<HttpResponse, Refusal> {
    let clock = text::Clock::new(now_ms());
    let site = path.into_inner();
    let site_name = catalogue.sites.get(&site).ok_or_else(|| Refusal::not_found("no such site", "choose one at the head of the page"))?.name.clone();
    let mut shell = shell(&request, &catalogue, &who, &clock, "quarantine", format!("Quarantine of {site_name}"));
    shell.site.clone_from(&site);
    let study = catalogue
        .studies_of_site
        .get(&site)
        .and_then(|studies| studies.iter().max_by_key(|study| study.criteria.len()))
        .map(|study| study.id.clone());
    let (asked, number) = (site.clone(), page.page);
    let (conservation, (messages, total)) =
        store.read(move |tx| Ok((messages::conservation(tx, &asked)?, messages::quarantine(tx, &asked, number)?))).await?;
    let seen = messages.iter().filter_map(|message| Some((site.clone(), message.subject.clone()?))).collect();
    access::record(&store, &who, "quarantine", "", seen).await?;
    html(&quarantine::view(shell, quarantine::Source { site, site_name, conservation, messages, total, page: page.page, study, clock: &clock }))
}

async fn about_page(request: HttpRequest, who: Person, catalogue: Data<Catalogue>) -> Result<HttpResponse, Refusal> {
    let clock = text::Clock::new(now_ms());
    let shell = shell(&request, &catalogue, &who, &clock, "about", "About".into());
    html(&about::view(shell, &catalogue))
}

/// What the pages load: name, type, bytes; compiled in.
const ASSETS: [(&str, &str, &[u8]); 3] = [
    ("style.css", "text/css; charset=utf-8", include_bytes!("assets/style.css")),
    ("script.js", "text/javascript; charset=utf-8", include_bytes!("assets/script.js")),
    ("icon.svg", "image/svg+xml", include_bytes!("assets/icon.svg")),
];

/// Changes with every byte of every asset.
fn assets_tag() -> &'static str {
    static TAG: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| {
        let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        for (_, _, bytes) in ASSETS {
            context.update(bytes);
        }
        context.finish().as_ref().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
    });
    &TAG
}

async fn asset(request: HttpRequest, name: web::Path<String>) -> Result<HttpResponse, Refusal> {
    let (_, content_type, bytes) = ASSETS
        .iter()
        .find(|(known, _, _)| *known == name.as_str())
        .ok_or_else(|| Refusal::not_found("no such file", "the pages name the files they use"))?;
    let tag = EntityTag::new_strong(assets_tag().to_owned());
    // With the tag in the address the bytes never change; without it the browser asks each time.
    let caching = if request.query_string().contains(assets_tag()) { "public, max-age=31536000, immutable" } else { "no-cache" };
    let is_known = IfNoneMatch::parse(&request).is_ok_and(|known| match known {
        IfNoneMatch::Any => true,
        IfNoneMatch::Items(tags) => tags.iter().any(|known| known.weak_eq(&tag)),
    });
    let mut answer = if is_known { HttpResponse::NotModified() } else { HttpResponse::Ok() };
    answer.insert_header(ETag(tag)).insert_header((header::CACHE_CONTROL, caching));
    if is_known { Ok(answer.finish()) } else { Ok(answer.content_type(*content_type).body(*bytes)) }
}
