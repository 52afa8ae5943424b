//! The trial's own addresses: its report, in each format. A report names subjects, so each who is named is recorded as
//! looked at before it is answered.

use actix_web::http::{Method, header};
use actix_web::web::{self, Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use askama::Template;

use super::access::{self, Person, Who, now_ms};
use super::asked::{self, Asked};
use super::error::Refusal;
use super::openapi::{Answer, Parameter, Says};
use super::pages;
use super::{Route, conduct};
use crate::clinical::date::AsOf;
use crate::escape::percent;
use crate::pipeline::Pipeline;
use crate::pipeline::trial::{self, Depth};
use crate::report::csv::{Domain, csv};
use crate::report::{Enrolled, Standing, html, markdown, report};
use crate::study::Study;

const PROBLEM: &str = "application/problem+json";

const ANSWERS: &[Answer] = &[
    Answer::json(200, "application/json", "Report", "the report; subjects who must not be named are counted without being named"),
    Answer::json(200, "text/markdown", "", "the tables, with format=md"),
    Answer::json(200, "text/html", "", "tables and plots in one file, with format=html"),
    Answer::json(200, "text/csv", "", "CDISC-shaped, with format=csv and a domain"),
    Answer::json(400, PROBLEM, "Problem", "a parameter that is not served, or not as described"),
    Answer::json(404, PROBLEM, "Problem", "unknown study or site"),
    Answer::json(503, PROBLEM, "Problem", "come again after Retry-After"),
];

const PARAMETERS: &[Parameter] = &[
    Parameter::query("as-of", r#"{"type":"string"}"#, "a date (all of that day, UTC) or an instant; now, where it is left out"),
    Parameter::query("format", r#"{"type":"string","enum":["json","md","html","csv"]}"#, "json, where it is left out"),
    Parameter::query("domain", r#"{"type":"string","enum":["lb","ae"]}"#, "which file of the CSV"),
    Parameter::query("site", r#"{"type":"string"}"#, "site id; all that the token is good for, where it is left out"),
];

pub fn routes() -> Vec<Route> {
    vec![
        Route::described(
            Method::GET,
            "/api/studies/{study}/report",
            Who::Screener,
            Says::new("The report of a trial: enrolment, follow-up, safety and outcomes, with what is behind each number", ANSWERS).asks(PARAMETERS),
            || web::get().to(answer),
        ),
        Route::page(Method::GET, "/studies/{study}/report", Who::Screener, || web::get().to(page)),
    ]
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    Markdown,
    Html,
    Csv(Domain),
}

/// What a query asks for.
struct Wanted {
    format: Format,
    as_of: Option<AsOf>,
    site: Option<String>,
}

impl Wanted {
    fn read(asked: &Asked, person: &Person, pipeline: &Pipeline) -> Result<Wanted, Refusal> {
        asked.only(&["as-of", "format", "domain", "site"], &[])?;
        let as_of = asked.get("as-of").map(AsOf::parse).transpose();
        let as_of =
            as_of.map_err(|_| Refusal::bad_request("as-of is not a FHIR date", "write YYYY-MM-DD, or an instant such as 2026-11-01T12:00:00Z"))?;
        let domain = asked.get("domain").map(|word| Domain::from_word(word).ok_or_else(no_domain)).transpose()?;
        let format = match (asked.get("format"), domain) {
            (None | Some("json"), None) => Format::Json,
            (Some("md"), None) => Format::Markdown,
            (Some("html"), None) => Format::Html,
            (Some("csv"), Some(domain)) => Format::Csv(domain),
            (Some("csv"), None) => return Err(no_domain()),
            (None | Some("json" | "md" | "html"), Some(_)) => {
                return Err(Refusal::bad_request("a domain without format=csv", "add format=csv, or leave domain out"));
            }
            (Some(_), _) => return Err(Refusal::bad_request("a format that is not served", "use json, md, html or csv")),
        };
        Ok(Wanted { format, as_of, site: conduct::scope(asked, person, pipeline)? })
    }
}

fn no_domain() -> Refusal {
    Refusal::bad_request("format=csv needs a domain", "add domain=lb or domain=ae")
}

async fn answer(path: Path<String>, asked: Asked, person: Person, pipeline: Data<Pipeline>) -> Result<HttpResponse, Refusal> {
    let wanted = Wanted::read(&asked, &person, &pipeline)?;
    let format = wanted.format;
    let name = path.into_inner();
    let text = made(&pipeline, &person, &name, wanted, move |study, as_of, enrolled| match format {
        Format::Json => report(study, as_of, enrolled).to_json(),
        Format::Markdown => markdown::markdown(&report(study, as_of, enrolled)),
        Format::Html => html::page(&report(study, as_of, enrolled)),
        Format::Csv(domain) => csv(study, enrolled, domain),
    })
    .await?;
    let mut answer = HttpResponse::Ok();
    match format {
        Format::Json => answer.content_type("application/json"),
        Format::Markdown => answer.content_type("text/markdown; charset=utf-8"),
        Format::Html => answer.content_type("text/html; charset=utf-8").insert_header(attachment(format!("{name}-report.html"))),
        Format::Csv(domain) => answer.content_type("text/csv; charset=utf-8").insert_header(attachment(format!("{name}-{}.csv", domain.word()))),
    };
    Ok(answer.body(text))
}

fn attachment(name: String) -> (header::HeaderName, String) {
    (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{name}\""))
}

/// The courses of those who entered, and what is made of them; on a thread that may block, because both take their time.
async fn made<T: Send + 'static>(
    pipeline: &Pipeline,
    person: &Person,
    study: &str,
    wanted: Wanted,
    make: impl FnOnce(&Study, AsOf, &[Enrolled]) -> T + Send + 'static,
) -> Result<T, Refusal> {
    let id = asked::known_study(&pipeline.catalogue, study)?.id.clone();
    let (pipeline, store, asked) = (pipeline.clone(), pipeline.store.clone(), id.clone());
    let (made, named) = web::block(move || {
        let study = &pipeline.catalogue.studies[&asked];
        let now_ms = now_ms();
        let as_of = wanted.as_of.unwrap_or(AsOf::instant(now_ms));
        let depth = if wanted.format == Format::Csv(Domain::Lb) { Depth::Laboratory } else { Depth::Course };
        let enrolled = trial::courses(&pipeline, study, wanted.site.as_deref(), as_of, now_ms, depth)?;
        let named = enrolled.iter().filter(|enrolled| Standing::of(enrolled.hidden) == Standing::Named);
        let named: Vec<(String, String)> = named.map(|enrolled| (enrolled.site.clone(), enrolled.subject.clone())).collect();
        Ok::<_, Refusal>((make(study, as_of, &enrolled), named))
    })
    .await
    .map_err(|_| Refusal::busy("the gateway is stopping", 10))??;
    access::record(&store, person, "report", &id, named).await?;
    Ok(made)
}

#[derive(Template)]
#[template(path = "report_page.html")]
struct ReportPage {
    shell: pages::Shell,
    /// Address of the same report below /api, with its parameters so far.
    api: String,
    body: String,
}

async fn page(request: HttpRequest, path: Path<String>, asked: Asked, person: Person, pipeline: Data<Pipeline>) -> Result<HttpResponse, Refusal> {
    asked.only(&["as-of", "site"], &[])?;
    let wanted = Wanted::read(&asked, &person, &pipeline)?;
    let name = path.into_inner();
    let (title, body) = made(&pipeline, &person, &name, wanted, |study, as_of, enrolled| {
        let report = report(study, as_of, enrolled);
        (html::title(&report), html::body(&report))
    })
    .await?;
    let pairs = asked.pairs().map(|(name, value)| format!("{}={}&", percent(name), percent(value)));
    let api = format!("/api/studies/{}/report?{}", percent(&name), pairs.collect::<String>());
    let mut shell = pages::shell(&request, &pipeline.catalogue, &person, &pages::text::Clock::new(now_ms()), "report", title);
    shell.trial = pages::trial_href(&name);
    pages::html(&ReportPage { shell, api, body })
}
