//! The pages: the screening list, the why-card with its forms, the quarantine, the outbox. They show what the API
//! shows and decide by the same function; every value goes through the escaper of [`crate::escape`]. No page fetches anything
//! from elsewhere, and all of them work without a script.

pub mod about;
pub mod card;
pub mod course;
pub mod feeds;
pub mod list;
pub mod quarantine;
pub mod safety;
pub mod text;
pub mod visits;
pub mod write_back;

use std::collections::BTreeSet;
use std::str::FromStr;

use actix_web::http::header::{self, ContentType, ETag, EntityTag, Header, IfNoneMatch};
use actix_web::http::{Method, StatusCode};
use actix_web::web::{self, Data};
use actix_web::{HttpRequest, HttpResponse};
use askama::Template;
use compact_str::CompactString;
use serde::de::DeserializeOwned;
use serde::de::value::{Error as ValueError, StrDeserializer};

use super::access::{self, Person, Tokens, Who, now_ms};
use super::asked::{self, Asked};
use super::decisions::{self, DecisionKind, Wanted, WantedAxes};
use super::error::Refusal;
use super::{Route, conduct, switch};
use crate::catalogue::Catalogue;
use crate::clinical::date::AsOf;
use crate::clinical::fact::{Body, Decision};
use crate::pipeline::{Pipeline, receivers};
use crate::report::Enrolled;
use crate::rules::course::course;
use crate::store::outbox::ItemState;
use crate::store::{self, Store, ledger, messages, outbox};
use crate::study::{Rule, Study};
use crate::writeback::Receiver;

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
    vec![
        Route::page(Method::GET, "/", Who::Screener, || web::get().to(list_page)),
        Route::page(Method::GET, "/studies/{study}/sites/{site}/subjects/{id}", Who::Screener, || web::get().to(card_page)),
        Route::page(Method::POST, "/studies/{study}/sites/{site}/subjects/{id}/decisions", Who::Screener, || web::post().to(decide)),
        Route::page(Method::GET, "/studies/{study}/safety", Who::Screener, || web::get().to(safety_page)),
        Route::page(Method::GET, "/studies/{study}/visits", Who::Screener, || web::get().to(visits_page)),
        Route::page(Method::GET, "/sites/{site}/quarantine", Who::Screener, || web::get().to(quarantine_page)),
        Route::page(Method::GET, "/feeds", Who::Screener, || web::get().to(feeds::page)),
        Route::page(Method::GET, "/write-back", Who::Screener, || web::get().to(write_back_page)),
        Route::page(Method::POST, "/write-back/{site}/switch", Who::Admin, || web::post().to(turn_switch)),
        Route::page(Method::POST, "/write-back/{site}/reconcile", Who::Admin, || web::post().to(ask_reconcile)),
        Route::page(Method::POST, "/write-back/{site}/proposals/{proposal}", Who::Admin, || web::post().to(accept_merge)),
        Route::page(Method::GET, "/about", Who::Screener, || web::get().to(about_page)),
        Route::page(Method::GET, "/assets/{name}", Who::Anyone, || web::get().to(asset)),
    ]
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

/// Percent-encodes one part of an address (RFC 3986: everything but the unreserved characters).
pub fn percent(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
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

async fn card_page(
    request: HttpRequest,
    who: Person,
    pipeline: Data<Pipeline>,
    tokens: Data<Tokens>,
    path: web::Path<(String, String, String)>,
    said: web::Query<Said>,
) -> Result<HttpResponse, Refusal> {
    let page = card_of(&request, &who, &pipeline, &tokens, path.into_inner(), sentence_saved(&said.saved), None).await?;
    html(&page)
}

async fn card_of(
    request: &HttpRequest,
    who: &Person,
    pipeline: &Pipeline,
    tokens: &Tokens,
    (study, site, subject): (String, String, String),
    saved: Option<String>,
    refused: Option<String>,
) -> Result<card::Card, Refusal> {
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
            asks_name: tokens.tokens.is_empty(),
            saved,
            refused,
            evidence,
            ehr_note,
            clock: &clock,
        },
    ))
}

/// The fields of a form; which ones count depends on `decision`. A field that stays empty says nothing.
struct Form(Vec<(String, String)>);

impl Form {
    fn all(&self, name: &'static str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.trim()).filter(|value| !value.is_empty())
    }

    fn text(&self, name: &'static str) -> Option<String> {
        self.all(name).next().map(str::to_owned)
    }

    /// One of the words of a type.
    fn word<T: DeserializeOwned>(&self, name: &'static str) -> Result<Option<T>, Refusal> {
        let read = |text: &str| T::deserialize(StrDeserializer::<ValueError>::new(text)).map_err(|_| unreadable(name));
        self.all(name).next().map(read).transpose()
    }

    fn number<T: FromStr>(&self, name: &'static str) -> Result<Option<T>, Refusal> {
        self.all(name).next().map(|text| text.parse().map_err(|_| unreadable(name))).transpose()
    }

    /// A day, and perhaps the time beside it.
    fn moment(&self, clock: &text::Clock, day: &'static str, time: &'static str) -> Result<Option<String>, Refusal> {
        match (self.text(day), self.text(time)) {
            (None, None) => Ok(None),
            (None, Some(_)) => Err(Refusal::bad_request("a time without its day", "give the day too")),
            (Some(on), at) => clock.moment(&on, at.as_deref()).map(Some).ok_or_else(|| unreadable(day)),
        }
    }

    fn wanted(&self, clock: &text::Clock) -> Result<Wanted, Refusal> {
        let kind = self.word("decision")?.ok_or_else(|| unreadable("decision"))?;
        let axes = match kind {
            DecisionKind::EventRecorded | DecisionKind::EventAxes => Some(self.axes(clock)?),
            DecisionKind::Attestation
            | DecisionKind::Consent
            | DecisionKind::OptOut
            | DecisionKind::State
            | DecisionKind::Dose
            | DecisionKind::EventReported
            | DecisionKind::Candidate => None,
        };
        Ok(Wanted {
            criterion: self.text("criterion"),
            passes: self.number("passes")?,
            given: self.number("given")?,
            opted_out: self.number("opted-out")?,
            to: self.word("to")?,
            arm: self.text("arm"),
            given_at: self.moment(clock, "given-at", "given-at-time")?,
            cells: self.number::<f64>("million-cells")?.map(|millions| millions * 1e6),
            event: self.text("event"),
            axes,
            clock: self.text("clock"),
            reported_at: self.moment(clock, "reported-at", "reported-at-time")?,
            candidate: self.text("candidate"),
            is_event: self.number("is-event")?,
            evidence_hash: self.text("evidence").unwrap_or_default(),
            ..Wanted::new(kind, self.text("reason").unwrap_or_default())
        })
    }

    fn axes(&self, clock: &text::Clock) -> Result<WantedAxes, Refusal> {
        let criteria: Vec<String> = self.all("criterion-of-seriousness").map(str::to_owned).collect();
        Ok(WantedAxes {
            term: self.text("term"),
            grade: self.number("grade")?,
            is_serious: self.number("is-serious")?,
            seriousness_criteria: (!criteria.is_empty()).then_some(criteria),
            relation: self.word("relation")?,
            is_expected: self.number("is-expected")?,
            outcome: self.text("outcome"),
            onset: self.moment(clock, "onset", "onset-time")?,
            resolved: self.moment(clock, "resolved", "resolved-time")?,
            is_dose_limiting: self.number("is-dose-limiting")?,
        })
    }
}

fn unreadable(field: &'static str) -> Refusal {
    Refusal::bad_request(format!("the field {field} cannot be read"), "use the form of this page")
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

/// Longest name a form takes, in characters.
const NAME_MAX: usize = 80;

/// The same as the API's decision, then back to the page it came from; a refusal is shown on that page as it is now.
async fn decide(
    request: HttpRequest,
    who: Person,
    pipeline: Data<Pipeline>,
    tokens: Data<Tokens>,
    path: web::Path<(String, String, String)>,
    form: web::Form<Vec<(String, String)>>,
) -> Result<HttpResponse, Refusal> {
    let (study, site, subject) = path.into_inner();
    let form = Form(form.into_inner());
    let back = if form.text("back").as_deref() == Some("safety") { Back::Safety } else { Back::Card };
    // Where nobody signs in, the form asks who decides; elsewhere the token says it.
    let by = if tokens.tokens.is_empty() { form.text("by").unwrap_or_default() } else { who.name.clone() };
    let wanted = if by.is_empty() || by.chars().count() > NAME_MAX {
        Err(Refusal::bad_request("a decision needs a named person", format!("give your name, in at most {NAME_MAX} characters")))
    } else {
        form.wanted(&text::Clock::new(now_ms()))
    };
    let taken = match wanted {
        Ok(wanted) => {
            let kind = wanted.kind;
            decisions::take_decision(&pipeline, &study, &site, &subject, &by, wanted).await.map(|_| kind)
        }
        Err(refusal) => Err(refusal),
    };
    match taken {
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
            let said = format!("Not recorded: {}; {}.{wrote}", refusal.sentence, refusal.hint);
            let mut answer = match back {
                Back::Card => html(&card_of(&request, &who, &pipeline, &tokens, (study, site, subject), None, Some(said)).await?)?,
                Back::Safety => html(
                    &safety_of(&request, &who, &pipeline, &tokens, &study, who.site.clone(), Notice { saved: None, refused: Some(said) }).await?,
                )?,
            };
            *answer.status_mut() = refusal.status;
            Ok(answer)
        }
        Err(refusal) => Err(refusal),
    }
}

async fn safety_page(
    request: HttpRequest,
    who: Person,
    pipeline: Data<Pipeline>,
    tokens: Data<Tokens>,
    path: web::Path<String>,
    asked: Asked,
) -> Result<HttpResponse, Refusal> {
    asked.only(&["site", "saved"], &[])?;
    let site = conduct::scope(&asked, &who, &pipeline)?;
    let saved = asked.get("saved").and_then(sentence_saved);
    html(&safety_of(&request, &who, &pipeline, &tokens, &path, site, Notice { saved, refused: None }).await?)
}

/// What became of a form that was sent from the page.
struct Notice {
    saved: Option<String>,
    refused: Option<String>,
}

async fn safety_of(
    request: &HttpRequest,
    who: &Person,
    pipeline: &Pipeline,
    tokens: &Tokens,
    study: &str,
    site: Option<String>,
    notice: Notice,
) -> Result<safety::Safety, Refusal> {
    let study = asked::known_study(&pipeline.catalogue, study)?;
    let entered = conduct::entered(pipeline, study, site).await?;
    access::record(&pipeline.store, who, "safety", &study.id, entered.seen()).await?;
    let clock = text::Clock::new(entered.as_of_ms);
    let mut shell = shell(request, &pipeline.catalogue, who, &clock, "safety", format!("Safety of {}", study.id));
    shell.trial = trial_href(&study.id);
    let may_decide = Who::Screener.allows(who.role);
    let asks_name = tokens.tokens.is_empty();
    let Notice { saved, refused } = notice;
    Ok(safety::view(shell, safety::Source { study, entered: &entered, may_decide, asks_name, saved, refused, clock: &clock }))
}

async fn visits_page(
    request: HttpRequest,
    who: Person,
    pipeline: Data<Pipeline>,
    path: web::Path<String>,
    asked: Asked,
) -> Result<HttpResponse, Refusal> {
    asked.only(&["site"], &[])?;
    let site = conduct::scope(&asked, &who, &pipeline)?;
    let study = asked::known_study(&pipeline.catalogue, &path)?;
    let entered = conduct::entered(&pipeline, study, site).await?;
    access::record(&pipeline.store, &who, "visits", &study.id, entered.seen()).await?;
    let clock = text::Clock::new(entered.as_of_ms);
    let mut shell = shell(&request, &pipeline.catalogue, &who, &clock, "visits", format!("Visits of {}", study.id));
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

#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct OfWriteBack {
    site: String,
    study: String,
    state: String,
    saved: String,
}

async fn write_back_page(
    request: HttpRequest,
    who: Person,
    pipeline: Data<Pipeline>,
    tokens: Data<Tokens>,
    asked: web::Query<OfWriteBack>,
) -> Result<HttpResponse, Refusal> {
    html(&write_back_of(&request, &who, &pipeline, &tokens, asked.into_inner(), None).await?)
}

/// What the write-back page says after each form.
const WRITE_BACK_SAVED: [(&str, &str); 4] = [
    ("stopped", "Stopped, with your name and reason. What takes something back still goes."),
    ("resumed", "It goes on, with your name and reason."),
    ("reconcile", "A reconcile is asked for; it begins within seconds."),
    ("merge", "The merge is accepted, with your name; the other copies are taken back next."),
];

async fn write_back_of(
    request: &HttpRequest,
    who: &Person,
    pipeline: &Pipeline,
    tokens: &Tokens,
    asked: OfWriteBack,
    refused: Option<String>,
) -> Result<write_back::Page, Refusal> {
    let clock = text::Clock::new(now_ms());
    let shell = shell(request, &pipeline.catalogue, who, &clock, "write-back", "Write-back".into());
    let site = who.site_scope((!asked.site.is_empty()).then_some(asked.site.as_str()))?.unwrap_or_default();
    let own = who.site.clone();
    let shown: Vec<_> = pipeline.receivers.values().filter(|receiver| shell.sites.iter().any(|site| site.id == receiver.site)).cloned().collect();
    let catalogue = pipeline.catalogue.clone();
    let (receivers, items) = pipeline
        .store
        .read(move |tx| {
            let receivers: Result<Vec<write_back::Of>, store::StoreError> =
                shown.into_iter().map(|contract| receiver_of(tx, &catalogue, contract)).collect();
            Ok((receivers?, outbox::list(tx, own.as_deref(), None)?))
        })
        .await?;
    let mut seen: BTreeSet<(String, String)> =
        items.iter().filter(|item| !item.subject.is_empty()).map(|item| (item.site.clone(), item.subject.clone())).collect();
    seen.extend(receivers.iter().flat_map(|of| of.reconciles.seen()));
    access::record(&pipeline.store, who, "write-back", "", seen.into_iter().collect()).await?;
    let saved = WRITE_BACK_SAVED.iter().find(|(word, _)| *word == asked.saved).map(|(_, sentence)| (*sentence).to_owned());
    let source = write_back::Source {
        receivers,
        items,
        site,
        study: asked.study,
        state: ItemState::from_word(&asked.state),
        may_turn: Who::Admin.allows(who.role),
        asks_name: tokens.tokens.is_empty(),
        saved,
        refused,
        clock: &clock,
    };
    Ok(write_back::view(shell, source))
}

/// Merges shown that have ended.
const ENDED_MERGES: usize = 5;

fn receiver_of(tx: &mut store::Tx<'_>, catalogue: &Catalogue, contract: Receiver) -> Result<write_back::Of, store::StoreError> {
    use store::reconcile::ProposalState::{Accepted, Done, Failed, Proposed};
    let site = contract.site.clone();
    let mut proposals = store::reconcile::proposals(tx, &site, &[Proposed, Accepted])?;
    proposals.extend(store::reconcile::proposals(tx, &site, &[Done, Failed])?.into_iter().take(ENDED_MERGES));
    Ok(write_back::Of {
        standing: receivers::of(tx, &contract)?,
        kept: store::receivers::kept(tx, &site)?,
        findings: store::receivers::findings(tx, &site)?,
        circuit: store::circuit::standing(tx, &site)?,
        switches: store::switches::standing(tx, &site)?,
        reconciles: super::write_back::of_runs(&site, store::reconcile::newest(tx, &site, 10)?),
        proposals,
        name: catalogue.sites.get(&site).map_or_else(|| site.clone(), |site| site.name.clone()),
        studies: catalogue.studies_of_site.get(&site).into_iter().flatten().map(|study| study.id.clone()).collect(),
        contract,
    })
}

/// Which form of the write-back page was sent.
enum WriteBackForm {
    Switch,
    Reconcile,
    Merge(i64),
}

async fn turn_switch(
    request: HttpRequest,
    who: Person,
    pipeline: Data<Pipeline>,
    tokens: Data<Tokens>,
    path: web::Path<String>,
    form: web::Form<Vec<(String, String)>>,
) -> Result<HttpResponse, Refusal> {
    write_back_form(&request, &who, &pipeline, &tokens, (path.into_inner(), WriteBackForm::Switch), Form(form.into_inner())).await
}

async fn ask_reconcile(
    request: HttpRequest,
    who: Person,
    pipeline: Data<Pipeline>,
    tokens: Data<Tokens>,
    path: web::Path<String>,
    form: web::Form<Vec<(String, String)>>,
) -> Result<HttpResponse, Refusal> {
    write_back_form(&request, &who, &pipeline, &tokens, (path.into_inner(), WriteBackForm::Reconcile), Form(form.into_inner())).await
}

async fn accept_merge(
    request: HttpRequest,
    who: Person,
    pipeline: Data<Pipeline>,
    tokens: Data<Tokens>,
    path: web::Path<(String, i64)>,
    form: web::Form<Vec<(String, String)>>,
) -> Result<HttpResponse, Refusal> {
    let (site, id) = path.into_inner();
    write_back_form(&request, &who, &pipeline, &tokens, (site, WriteBackForm::Merge(id)), Form(form.into_inner())).await
}

/// The same as the API does, then back to the page; a refusal is shown on it.
async fn write_back_form(
    request: &HttpRequest,
    who: &Person,
    pipeline: &Pipeline,
    tokens: &Tokens,
    (site, kind): (String, WriteBackForm),
    form: Form,
) -> Result<HttpResponse, Refusal> {
    let by = if tokens.tokens.is_empty() { form.text("by").unwrap_or_default() } else { who.name.clone() };
    let taken = if by.is_empty() || by.chars().count() > NAME_MAX {
        Err(Refusal::bad_request("this needs a named person", format!("give your name, in at most {NAME_MAX} characters")))
    } else {
        match kind {
            WriteBackForm::Switch => match form.number::<bool>("is-stopped")? {
                Some(is_stopped) => {
                    let turn = switch::Turn { study: form.text("study"), is_stopped, reason: form.text("reason").unwrap_or_default() };
                    let word = if is_stopped { "stopped" } else { "resumed" };
                    switch::turn(&pipeline.store, &pipeline.catalogue, &site, &by, turn).await.map(|_| word)
                }
                None => Err(unreadable("is-stopped")),
            },
            WriteBackForm::Reconcile => {
                let mode = form.word("mode")?.unwrap_or_default();
                super::write_back::ask(pipeline, &site, &by, mode).await.map(|_| "reconcile")
            }
            WriteBackForm::Merge(id) => super::write_back::accept(pipeline, &site, id, &by, form.text("keep")).await.map(|()| "merge"),
        }
    };
    match taken {
        Ok(saved) => {
            Ok(HttpResponse::SeeOther().insert_header((header::LOCATION, format!("/write-back?site={}&saved={saved}", percent(&site)))).finish())
        }
        Err(refusal) if matches!(refusal.status, StatusCode::CONFLICT | StatusCode::BAD_REQUEST) => {
            let said = format!("Not done: {}; {}.", refusal.sentence, refusal.hint);
            let asked = OfWriteBack { site, ..OfWriteBack::default() };
            let mut answer = html(&write_back_of(request, who, pipeline, tokens, asked, Some(said)).await?)?;
            *answer.status_mut() = refusal.status;
            Ok(answer)
        }
        Err(refusal) => Err(refusal),
    }
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
