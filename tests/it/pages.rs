//! The pages, by their door: a real server on a free port, its own store, the demo's patients; and what a hostile
//! value looks like on them.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use nephrogate::app::{self, App, Settings};
use nephrogate::catalogue::Catalogue;
use nephrogate::cli::demo::patients::{self, Story};
use nephrogate::http::pages::text::ago;
use nephrogate::http::plot::{self, Kind, Mark, Plot, Point, Size};
use nephrogate::pipeline::{Pipeline, Receivers, receive};
use nephrogate::store::{FILE_NAME, Store};

/// A gateway with the demo's patients, and what a browser would do there.
struct Browser {
    base: String,
    site: String,
    study: String,
    client: reqwest::Client,
    stopper: app::Stopper,
    gateway: tokio::task::JoinHandle<anyhow::Result<()>>,
    _folder: tempfile::TempDir,
}

fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

impl Browser {
    async fn open(choose: impl Fn(&Story) -> bool, more: &[String]) -> Browser {
        let folder = tempfile::tempdir().unwrap();
        let catalogue = Arc::new(Catalogue::load(None).map_err(app::Faults).unwrap());
        let site = catalogue.sites.values().find(|site| site.is_demo).unwrap().clone();
        let study = catalogue.studies_of_site[&site.id].iter().max_by_key(|study| study.criteria.len()).unwrap().id.clone();
        let store = Store::open_sqlite(&folder.path().join(FILE_NAME)).unwrap();
        let pipeline = Pipeline { store, catalogue, receivers: Arc::new(Receivers::new()) };
        let stories = patients::stories(&site.id, now_ms());
        for round in 0..2 {
            let sent = stories.iter().filter(|story| choose(story)).flat_map(|story| &story.resources).filter(|resource| resource.round == round);
            let messages: Vec<_> = sent.map(|resource| receive::prepare(&pipeline.catalogue, &site, resource.json.as_bytes())).collect();
            receive::receive(&pipeline, &site.id, "push", now_ms(), &messages).unwrap();
        }
        let messages: Vec<_> = more.iter().map(|json| receive::prepare(&pipeline.catalogue, &site, json.as_bytes())).collect();
        receive::receive(&pipeline, &site.id, "push", now_ms(), &messages).unwrap();
        let listener = app::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let mut settings = Settings::on_loopback(pipeline, listener, "a tester");
        let notes = nephrogate::http::pages::Notes { is_demo: true, sentences: vec!["The EHR is nobody's.".into()] };
        settings.beside = Some(Arc::new(move |config| {
            config.app_data(actix_web::web::Data::new(notes.clone()));
        }));
        let app = App::build(settings).unwrap();
        let (base, stopper) = (app.url(), app.stopper());
        let gateway = tokio::spawn(app.run_until_stopped());
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        Browser { base, site: site.id.clone(), study, client, stopper, gateway, _folder: folder }
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let answer = self.client.get(format!("{}{path}", self.base)).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    async fn page(&self, path: &str) -> String {
        let (status, body) = self.get(path).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    fn card(&self, subject: &str) -> String {
        format!("/studies/{}/sites/{}/subjects/{subject}", self.study, self.site)
    }

    /// Sends a form as a browser of the same origin does; answers status and place.
    async fn submit(&self, path: &str, fields: &[(&str, &str)]) -> (u16, String, String) {
        let body: Vec<String> = fields.iter().map(|(name, value)| format!("{name}={}", nephrogate::escape::percent(value))).collect();
        let request = self.client.post(format!("{}{path}", self.base)).header("origin", &self.base);
        let request = request.header("content-type", "application/x-www-form-urlencoded").body(body.join("&"));
        let answer = request.send().await.unwrap();
        let place = answer.headers().get("location").map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
        (answer.status().as_u16(), place, answer.text().await.unwrap())
    }

    async fn close(self) {
        self.stopper.stop();
        self.gateway.await.unwrap().unwrap();
    }
}

/// The text between two marks, the first time they occur.
fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    let start = text.find(before).unwrap_or_else(|| panic!("no {before} in {text}")) + before.len();
    &text[start..start + text[start..].find(after).unwrap()]
}

fn is_one_of<'a>(subjects: &'a [&'a str]) -> impl Fn(&Story) -> bool + 'a {
    move |story| subjects.contains(&story.subject.as_str())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_answers_and_the_list_can_be_filtered() {
    let browser = Browser::open(|_| true, &[]).await;
    let list = browser.page("/").await;
    assert!(list.contains("data-subject=\"P1001\""), "a candidate is listed");
    assert!(!list.contains("data-subject=\"P1049\""), "the deceased are not listed");
    assert!(list.contains("not listed: 1 deceased"), "the hidden are counted by reason");
    assert!(list.contains("last result"), "freshness is said");
    assert!(list.contains("was not met"), "a corrected result shows what the verdict changed from");
    let met = browser.page("/?prescreen=met").await;
    assert!(met.contains("data-subject=\"P1001\"") && !met.contains("data-subject=\"P1013\""));
    let near = browser.page("/?near-miss=true").await;
    assert!(near.contains("data-subject=\"P1013\"") && !near.contains("data-subject=\"P1001\""));
    let missing = browser.page("/?missing=creatinine").await;
    assert!(missing.contains("data-subject=\"P1023\"") && !missing.contains("data-subject=\"P1001\""));
    let nobody = browser.page("/?state=completed").await;
    assert!(nobody.contains("Nobody matches these filters"));

    let card = browser.page(&browser.card("P1026")).await;
    assert!(card.contains("data-verdict=\"met\"") && card.contains("A newer result could not be used"), "the newer preliminary result is shown");
    assert!(card.contains("<svg") && card.contains("up to 44"), "the plot has the study's range");
    assert!(!card.contains("Jing-Wen"), "no page shows a name");

    let quarantine = browser.page(&format!("/sites/{}/quarantine", browser.site)).await;
    for code in ["unit-missing", "implausible", "code-unmapped"] {
        assert!(quarantine.contains(&format!("data-code=\"{code}\"")), "{code}");
    }
    assert!(quarantine.contains("adds up"), "the conservation line stands at the top");
    assert!(browser.page("/write-back").await.contains("Write-back"));
    let about = browser.page("/about").await;
    assert!(about.contains("Research decision support; a person decides") && about.contains("The EHR is nobody&#39;s."));
    assert_eq!(browser.get("/?study=no-such").await.0, 404);
    assert_eq!(browser.get(&browser.card("nobody")).await.0, 404);
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_on_the_card_makes_a_candidate_and_consent_follows() {
    let browser = Browser::open(is_one_of(&["P1011"]), &[]).await;
    let path = browser.card("P1011");
    let decisions = format!("{path}/decisions");
    let card = browser.page(&path).await;
    assert!(between(&card, "data-test=\"verdict\" data-verdict=\"", "\"").contains("unknown"));
    let form = &card[card.find("name=\"criterion\" value=\"inclusion-2\"").expect("the boundary can be answered")..];
    let hash = between(form, "name=\"evidence\" value=\"", "\"");

    let nameless =
        [("decision", "attestation"), ("criterion", "inclusion-2"), ("evidence", hash), ("passes", "true"), ("reason", "seen"), ("by", " ")];
    let (status, _, body) = browser.submit(&decisions, &nameless).await;
    assert_eq!(status, 400);
    assert!(body.contains("this needs a named person"));

    let mut answer = nameless;
    answer[5] = ("by", "Dr. Example");
    let mut stale = answer;
    stale[2] = ("evidence", "0123");
    let (status, _, body) = browser.submit(&decisions, &stale).await;
    assert_eq!(status, 409);
    assert!(body.contains("Not recorded: the evidence is not the evidence that was seen"));

    let (status, place, _) = browser.submit(&decisions, &answer).await;
    assert_eq!((status, place.as_str()), (303, format!("{path}?saved=attestation").as_str()));
    let card = browser.page(&place).await;
    assert!(card.contains("Your answer is recorded"));
    assert!(between(&card, "data-test=\"verdict\" data-verdict=\"", "\"").contains("met"));
    assert!(between(&card, "data-test=\"attestation\">", "</p>").contains("Dr. Example"));

    let consent = [("decision", "consent"), ("given", "true"), ("reason", "signed today"), ("by", "Dr. Example")];
    let (status, place, _) = browser.submit(&decisions, &consent).await;
    assert_eq!(status, 303);
    let card = browser.page(&place).await;
    assert_eq!(between(&card, "data-test=\"state\">", "</li>"), "consented");
    assert!(card.contains("Consent given") && card.contains("signed today"));
    browser.close().await;
}

/// A day as a form sends it, in this gateway's zone.
fn day_ago(days: i64) -> String {
    use jiff::ToSpan;
    jiff::Zoned::now().checked_sub(days.days()).unwrap().strftime("%Y-%m-%d").to_string()
}

/// The form, among those of a page, that holds this text; from its beginning.
fn form<'a>(page: &'a str, holds: &str) -> &'a str {
    page.split("<form ").skip(1).find(|form| form.split("</form>").next().unwrap().contains(holds)).unwrap_or_else(|| panic!("no form with {holds}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_record_leaves_open_is_said_on_the_safety_page_and_leaves_it() {
    let browser = Browser::open(is_one_of(&["P1001", "P1054", "P1055", "P1056"]), &[]).await;
    let path = format!("/studies/{}/safety", browser.study);
    let list = browser.page("/").await;
    assert!(list.contains(&format!("href=\"{path}\"")), "the trial has its place in the navigation");
    let page = browser.page(&path).await;
    let count = |page: &str, of: &str| between(between(page, &format!("data-test=\"count-{of}\">"), "</a>"), "number\">", "<").to_owned();
    assert_eq!(
        (count(&page, "overdue"), count(&page, "running"), count(&page, "completion"), count(&page, "candidates")),
        ("1".into(), "3".into(), "2".into(), "2".into())
    );
    assert!(
        page.find("data-clock=\"site-to-sponsor\" data-event=\"AdverseEvent/P1054-event\"") < page.find("AdverseEvent/P1055-event"),
        "the overdue one first"
    );
    assert!(page.contains("It runs because nobody said whether it is serious; what is not known counts as the worst."));
    assert!(page.contains(
        "Nobody said its CTCAE grade; whether it is serious; whether the treatment caused it; whether it was expected; what became of it."
    ));
    assert!(page.contains("Alanine aminotransferase increased") && page.contains("baseline within limits") && page.contains("CTCAE 5.0"));
    assert!(!page.contains("Shu-Hui"), "no page shows a name");

    let decisions = format!("{}/decisions", browser.card("P1054"));
    let axes = form(&page, "value=\"event-axes\"><input type=\"hidden\" name=\"event\" value=\"AdverseEvent/P1054-event\"");
    let hash = between(axes, "name=\"evidence\" value=\"", "\"").to_owned();
    let said = [
        ("decision", "event-axes"),
        ("event", "AdverseEvent/P1054-event"),
        ("evidence", &hash),
        ("back", "safety"),
        ("term", ""),
        ("grade", "1"),
        ("is-serious", "false"),
        ("criterion-of-seriousness", "C83052"),
        ("relation", "possible"),
        ("is-expected", "false"),
        ("outcome", "resolved"),
        ("onset", ""),
        ("onset-time", ""),
        ("reason", "examined today"),
        ("by", "Dr. Example"),
    ];
    let (status, _, body) = browser.submit(&decisions, &said).await;
    assert_eq!(status, 400);
    assert!(
        body.contains("Not recorded: seriousness criteria belong to a serious event only; mend one of the two. You had written: examined today")
            && body.contains("<h1>Safety</h1>"),
        "a refusal is a sentence on the page that was sent"
    );
    let mended: Vec<(&str, &str)> = said.into_iter().filter(|(name, _)| *name != "criterion-of-seriousness").collect();
    let (status, place, _) = browser.submit(&decisions, &mended).await;
    assert_eq!((status, place.as_str()), (303, format!("{path}?saved=event-axes").as_str()));
    let page = browser.page(&place).await;
    assert!(page.contains("What you said of the event is recorded, with your name."));
    assert_eq!((count(&page, "overdue"), count(&page, "running"), count(&page, "completion")), ("0".into(), "1".into(), "1".into()));

    // The serious one is reported, a day and a time in this gateway's zone.
    let report = form(&page, "value=\"event-reported\"");
    let hash = between(report, "name=\"evidence\" value=\"", "\"").to_owned();
    let today = day_ago(0);
    let report = [
        ("decision", "event-reported"),
        ("event", "AdverseEvent/P1055-event"),
        ("clock", "site-to-sponsor"),
        ("evidence", &hash),
        ("back", "safety"),
        ("reported-at", &today),
        ("reported-at-time", "00:00"),
        ("reason", "by telephone"),
        ("by", "Dr. Example"),
    ];
    let (status, place, _) = browser.submit(&format!("{}/decisions", browser.card("P1055")), &report).await;
    assert_eq!(status, 303);
    assert!(browser.page(&place).await.contains("No report is due."));

    // A candidate is dismissed from the card and leads back to it.
    let card = browser.page(&browser.card("P1056")).await;
    let answer = form(&card, "value=\"candidate\"");
    let (id, hash) =
        (between(answer, "name=\"candidate\" value=\"", "\"").to_owned(), between(answer, "name=\"evidence\" value=\"", "\"").to_owned());
    let answer =
        [("decision", "candidate"), ("candidate", &*id), ("evidence", &hash), ("is-event", "false"), ("reason", "a new drug"), ("by", "Dr. Example")];
    let (status, place, _) = browser.submit(&format!("{}/decisions", browser.card("P1056")), &answer).await;
    assert_eq!((status, place.as_str()), (303, format!("{}?saved=candidate", browser.card("P1056")).as_str()));
    let card = browser.page(&place).await;
    assert!(card.contains("Alanine aminotransferase increased is no adverse event") && card.contains("no adverse event, by Dr. Example: a new drug"));
    assert!(!card.contains("Confirm or dismiss"));
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn visits_show_their_states_and_a_card_takes_a_dose_and_an_event() {
    let browser = Browser::open(is_one_of(&["P1001", "P1054", "P1055", "P1056"]), &[]).await;
    let page = browser.page(&format!("/studies/{}/visits", browser.study)).await;
    let row = |subject: &str| between(&page, &format!("data-subject=\"{subject}\""), "</tr>");
    for (subject, visit, state) in
        [("P1054", "W4", "done"), ("P1054", "W12", "out"), ("P1054", "W24", "overdue"), ("P1054", "W36", "upcoming"), ("P1055", "W4", "missed")]
    {
        assert!(row(subject).contains(&format!("data-visit=\"{visit}\" data-state=\"{state}\"")), "{subject} {visit}: {}", row(subject));
    }
    assert!(page.find("data-subject=\"P1054\"") < page.find("data-subject=\"P1055\""), "overdue first");
    assert!(row("P1054").contains("Creatinine at W24, was due"));
    assert!(!page.contains("data-subject=\"P1001\""), "who did not enter has no visits");
    assert!(!browser.page(&browser.card("P1001")).await.contains("In the trial"));

    let path = browser.card("P1055");
    let decisions = format!("{path}/decisions");
    let began = day_ago(50);
    let event = [
        ("decision", "event-recorded"),
        ("term", "<b>Nausea</b>"),
        ("grade", ""),
        ("is-serious", ""),
        ("onset", &began),
        ("onset-time", "14:30"),
        ("reason", "told by telephone"),
        ("by", "Dr. Example"),
    ];
    let (status, place, body) = browser.submit(&decisions, &event).await;
    assert_eq!((status, place.as_str()), (303, format!("{path}?saved=event-recorded").as_str()), "{body}");
    let card = browser.page(&place).await;
    assert!(card.contains("&#60;b&#62;Nausea&#60;/b&#62;") && !card.contains("<b>Nausea"), "a name is text");
    assert!(card.contains("Say what is missing: its CTCAE grade, whether it is serious"));
    fn dose(day: &str) -> [(&str, &str); 7] {
        let rest = [("given-at-time", "09:00"), ("million-cells", "192"), ("reason", "ward list"), ("by", "Dr. Example")];
        [("decision", "dose"), ("arm", "middle"), ("given-at", day), rest[0], rest[1], rest[2], rest[3]]
    }
    let earlier = day_ago(80);
    let (status, _, body) = browser.submit(&decisions, &dose("2099-01-01")).await;
    assert_eq!(status, 400);
    assert!(body.contains("Not recorded: it lies in the future"));
    assert_eq!(browser.submit(&decisions, &dose(&earlier)).await.0, 303);
    let card = browser.page(&path).await;
    assert!(card.contains("192 million cells") && card.contains(&format!("Middle dose given {earlier} 09:00")));
    let nonsense = [("decision", "dose"), ("arm", "middle"), ("given-at", "soon"), ("reason", "x"), ("by", "Dr. Example")];
    let (status, _, body) = browser.submit(&decisions, &nonsense).await;
    assert_eq!(status, 400);
    assert!(body.contains("Not recorded: the field given-at cannot be read"));
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_from_another_web_site_is_refused() {
    let browser = Browser::open(is_one_of(&["P1001"]), &[]).await;
    let url = format!("{}{}/decisions", browser.base, browser.card("P1001"));
    let request = browser.client.post(url).header("origin", "https://elsewhere.example").header("content-type", "application/x-www-form-urlencoded");
    let answer = request.body("decision=opt-out&opted-out=true&reason=x&by=x").send().await.unwrap();
    assert_eq!(answer.status(), 403);
    let card = browser.page(&browser.card("P1001")).await;
    assert!(card.contains("None yet."), "nothing was decided");
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn markup_and_turned_text_are_shown_as_what_they_are() {
    let observation = |id: &str, unit: &str| {
        let day = jiff::Timestamp::from_millisecond(now_ms() - 86_400_000).unwrap().strftime("%Y-%m-%dT%H:%M:%SZ");
        format!(
            r#"{{"resourceType":"Observation","id":"{id}","meta":{{"versionId":"1","security":[{{"system":"http://terminology.hl7.org/CodeSystem/v3-ActReason","code":"HTEST"}}]}},"status":"final","code":{{"coding":[{{"system":"http://loinc.org","code":"2160-0"}}]}},"subject":{{"reference":"Patient/P1001"}},"effectiveDateTime":"{day}","valueQuantity":{{"value":2.0,"unit":"{unit}"}}}}"#
        )
    };
    let hostile = [observation("x-1", "<script>alert(1)</script>"), observation("x-2", "Ld/gm\\u202e")];
    let browser = Browser::open(is_one_of(&["P1001"]), &hostile).await;
    let path = browser.card("P1001");
    let reason = "<img src=x onerror=alert(2)> \u{202E}drawkcab";
    let fields = [("decision", "consent"), ("given", "true"), ("reason", reason), ("by", "\"><b>Eve")];
    assert_eq!(browser.submit(&format!("{path}/decisions"), &fields).await.0, 303);
    let pages =
        [browser.page(&path).await, browser.page(&format!("/sites/{}/quarantine", browser.site)).await, browser.page("/?state=%3Cscript%3E").await];
    for page in &pages {
        assert!(!page.contains("<script>") && !page.contains("<img src=x") && !page.contains("<b>Eve"), "markup stays text");
        assert!(!page.contains('\u{202E}'), "text does not turn around");
    }
    assert!(pages[0].contains("&#60;img src=x onerror=alert(2)&#62; [U+202E]drawkcab"));
    assert!(
        pages[0].contains("&#60;script&#62;alert(1)&#60;/script&#62;") && pages[0].contains("Ld/gm[U+202E]"),
        "the units stand there as received"
    );
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_assets_are_served_with_a_tag_and_pages_run_no_inline_script() {
    let browser = Browser::open(is_one_of(&["P1001"]), &[]).await;
    let answer = browser.client.get(format!("{}/assets/style.css", browser.base)).send().await.unwrap();
    let tag = answer.headers()["etag"].to_str().unwrap().to_owned();
    let again = browser.client.get(format!("{}/assets/style.css", browser.base)).header("if-none-match", &tag).send().await.unwrap();
    assert_eq!(again.status(), 304);
    let page = browser.client.get(format!("{}/", browser.base)).send().await.unwrap();
    let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.contains("script-src 'self'") && !policy.contains("unsafe-inline"));
    let text = page.text().await.unwrap();
    assert!(!text.contains("style=\"") && !text.contains("onclick") && !text.contains("http://") && !text.contains("https://"), "{text}");
    assert_eq!(browser.get("/assets/../Cargo.toml").await.0, 404);
    browser.close().await;
}

#[test]
fn the_plot_is_the_one_that_was_looked_at() {
    let day = 86_400_000;
    // 2026-11-22 00:00 UTC.
    let as_of_ms = 20_779 * day;
    let point = |days: i64, egfr: f64, kind| Point { at_ms: as_of_ms - days * day, egfr, kind, label: format!("{days} days before: {egfr}") };
    let plot = Plot {
        points: vec![point(700, 52.0, Kind::Plain), point(200, 46.5, Kind::Plain), point(9, 43.2, Kind::Used), point(2, 39.0, Kind::Unusable)],
        marks: vec![Mark { at_ms: as_of_ms - day, label: "<no unit>".into() }],
        limits: Some((15.0, 44.0)),
        as_of_ms,
    };
    let drawn = format!("{}\n{}\n", plot::egfr(&plot, Size::Wide).trim(), plot::egfr(&plot, Size::Narrow).trim());
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/plot.svg.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&file, &drawn).unwrap();
    }
    assert_eq!(drawn, std::fs::read_to_string(&file).unwrap(), "look at it, then run again with UPDATE_GOLDEN=1");
    assert!(drawn.contains("&#60;no unit&#62;"), "labels are escaped");
    let empty = plot::egfr(&Plot { as_of_ms, ..Plot::default() }, Size::Wide);
    assert!(empty.contains("No eGFR could be computed"));
}

#[test]
fn the_demo_shows_every_kind_and_is_the_same_for_the_same_start() {
    let start_ms = 1_795_000_000_000;
    let (one, two) = (patients::stories("somewhere", start_ms), patients::stories("somewhere", start_ms));
    let bodies = |stories: &[Story]| stories.iter().flat_map(|story| &story.resources).map(|resource| resource.json.clone()).collect::<Vec<_>>();
    assert_eq!(bodies(&one), bodies(&two));
    assert!(one.len() >= 40, "a hospital, not a handful");
    for story in &one {
        assert!(!story.shows.is_empty());
        for resource in &story.resources {
            assert!(resource.json.contains("\"code\":\"HTEST\""), "{} is labelled as a test", resource.id);
        }
    }
    assert_eq!(ago(0), "just now");
}
