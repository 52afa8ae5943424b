//! An EHR with named quirks: a small FHIR server that keeps every version, knows what it was asked and when, and does one
//! or several of the odd things that real servers were seen to do. Shares no code with the gateway or its stand-in.
//!
//! It has a clock of its own that the test moves, and goes on by itself from there. Bytes that nobody changes come back
//! as they came: it works on the texts of elements, not on values.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::value::RawValue;
use serde_json::{Value, json};

pub const OURS: &str = "urn:nephrogate:write-back";

/// Something a server does that the standard does not promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Quirk {
    /// Answers 201 and keeps no `meta.tag`.
    DropsTags,
    /// Keeps the elements on its list and says nothing of the others.
    IgnoresUnknownFields,
    /// Keeps no identifier, so that nothing of ours is found by it.
    DropsIdentifiers,
    /// A modifier extension anywhere: 422.
    RefusesModifiers,
    /// The first update of each type meets somebody else's: 412.
    PreconditionOnce,
    /// The first create of each type: 409, nothing kept; the same again goes through.
    ConflictOnceOnCreate,
    /// The first write: 429 with Retry-After of two minutes, and silence expected until then.
    TooManyRequests,
    /// Each answer takes a while.
    Slow,
    /// The first write of each type is done and never answered.
    TimeoutAfterApply,
    /// What was written is read and found only later.
    CommitsLate,
    /// `If-None-Exist` is not looked at: a POST always creates.
    NoConditionalCreate,
    /// `If-None-Exist` is answered `not-supported`.
    RefusesConditionalCreate,
    /// PUT to an id it does not know: 404.
    NoUpdateCreates,
    /// A tag that an update leaves out stays, and the version does not move if that was all.
    TagStays,
    /// A stale `If-Match`: 409 in place of 412.
    StaleIsConflict,
    /// A search is answered from a cache of a minute, unless asked with `no-cache`.
    CachedSearch,
    /// A reference to what it does not hold: 400.
    RefusesUnknownReferences,
    /// An id of digits alone, chosen by a client: 400.
    IdsNeedALetter,
    /// PATCH: 405, and not declared.
    NoPatch,
    /// Numbers come back in another spelling: `41.30` as `41.3`.
    ReSpellsNumbers,
    /// Written once, for ever: each update is 405.
    NoUpdate,
}

impl Quirk {
    pub const ALL: [Quirk; 21] = [
        Quirk::DropsTags,
        Quirk::IgnoresUnknownFields,
        Quirk::DropsIdentifiers,
        Quirk::RefusesModifiers,
        Quirk::PreconditionOnce,
        Quirk::ConflictOnceOnCreate,
        Quirk::TooManyRequests,
        Quirk::Slow,
        Quirk::TimeoutAfterApply,
        Quirk::CommitsLate,
        Quirk::NoConditionalCreate,
        Quirk::RefusesConditionalCreate,
        Quirk::NoUpdateCreates,
        Quirk::TagStays,
        Quirk::StaleIsConflict,
        Quirk::CachedSearch,
        Quirk::RefusesUnknownReferences,
        Quirk::IdsNeedALetter,
        Quirk::NoPatch,
        Quirk::ReSpellsNumbers,
        Quirk::NoUpdate,
    ];

    pub const fn word(self) -> &'static str {
        match self {
            Quirk::DropsTags => "drops-tags",
            Quirk::IgnoresUnknownFields => "ignores-unknown-fields",
            Quirk::DropsIdentifiers => "drops-identifiers",
            Quirk::RefusesModifiers => "refuses-modifiers",
            Quirk::PreconditionOnce => "412-once",
            Quirk::ConflictOnceOnCreate => "409-once-on-create",
            Quirk::TooManyRequests => "429-with-retry-after",
            Quirk::Slow => "slow",
            Quirk::TimeoutAfterApply => "timeout-after-apply",
            Quirk::CommitsLate => "commits-late",
            Quirk::NoConditionalCreate => "no-conditional-create",
            Quirk::RefusesConditionalCreate => "refuses-conditional-create",
            Quirk::NoUpdateCreates => "no-update-creates",
            Quirk::TagStays => "tag-stays",
            Quirk::StaleIsConflict => "stale-is-409",
            Quirk::CachedSearch => "cached-search",
            Quirk::RefusesUnknownReferences => "refuses-unknown-references",
            Quirk::IdsNeedALetter => "ids-need-a-letter",
            Quirk::NoPatch => "no-patch",
            Quirk::ReSpellsNumbers => "re-spells-numbers",
            Quirk::NoUpdate => "no-update",
        }
    }
}

/// Elements that `ignores-unknown-fields` keeps beside `resourceType`, `id`, `meta` and `identifier`: for Observation what
/// Oracle Health documents, for the others what is at the heart of them.
const KEPT: [(&str, &[&str]); 9] = [
    ("Flag", &["status", "category", "code", "subject", "period"]),
    ("List", &["status", "mode", "title", "code", "subject", "entry"]),
    ("Group", &["active", "type", "actual", "code", "name", "member"]),
    ("DocumentReference", &["status", "docStatus", "type", "category", "subject", "date", "description", "content"]),
    ("Communication", &["status", "category", "subject", "sent", "payload"]),
    ("ResearchStudy", &["status", "title"]),
    ("ResearchSubject", &["status", "study", "individual", "period"]),
    ("AdverseEvent", &["actuality", "event", "subject", "date", "outcome", "seriousness", "severity", "study"]),
    (
        "Observation",
        &[
            "status",
            "category",
            "code",
            "subject",
            "encounter",
            "effectiveDateTime",
            "effectivePeriod",
            "issued",
            "performer",
            "valueQuantity",
            "valueString",
            "interpretation",
            "note",
            "referenceRange",
            "component",
        ],
    ),
];

/// How long a slow server takes over each answer.
const SLOW: Duration = Duration::from_millis(120);
/// How late one that commits late does so, ms.
pub const LATE_MS: i64 = 20_000;
/// How long a search is answered from the cache, ms.
const CACHE_MS: i64 = 60_000;
/// What a busy server asks for, s.
pub const RETRY_AFTER_S: i64 = 120;
/// A request that was under way when the answer asked for silence is no fault: this long after it.
const UNDER_WAY: Duration = Duration::from_millis(500);
const PAGE: usize = 100;

/// Whether it works at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    Up,
    /// Takes the request and closes the line.
    Silent,
    /// 503, with Retry-After in seconds.
    Busy(i64),
}

/// One write as it was asked, and what became of it.
#[derive(Clone, Debug)]
pub struct Write {
    /// By the stub's clock.
    pub at_ms: i64,
    pub method: String,
    pub resource_type: String,
    pub id: Option<String>,
    pub body: String,
    /// Status of the answer; 0 where none was given.
    pub status: u16,
    /// Whether anything was kept.
    pub is_applied: bool,
}

impl Write {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }

    /// For the message of a test that fails.
    pub fn line(&self) -> String {
        let Write { at_ms, method, resource_type, id, body, status, is_applied } = self;
        let place = id.as_deref().map(|id| format!("{resource_type}/{id}")).unwrap_or_else(|| resource_type.clone());
        format!("at {at_ms}: {method} {place}, answered {status}, {}: {body}", if *is_applied { "kept" } else { "not kept" })
    }
}

/// The texts of a resource's elements, in order.
type Fields = Vec<(String, String)>;

#[derive(Clone)]
struct Version {
    number: u64,
    method: &'static str,
    /// The text with its id, `meta.versionId` and `meta.lastUpdated`; `None` after DELETE.
    text: Option<String>,
    visible_from_ms: i64,
}

struct Clock {
    base_ms: i64,
    set: Instant,
    rounds: u64,
}

#[derive(Default)]
struct Held {
    resources: BTreeMap<(String, String), Vec<Version>>,
    /// What happened once already.
    once: BTreeSet<String>,
    cache: BTreeMap<String, (i64, Vec<String>)>,
    writes: Vec<Write>,
    next_id: u64,
    quiet: Option<Quiet>,
    early: Vec<String>,
    requests: u64,
}

struct Quiet {
    until_ms: i64,
    told: Instant,
    told_in: u64,
}

struct Shared {
    quirks: Vec<Quirk>,
    /// Types it serves; empty: any.
    types: Vec<String>,
    clock: Mutex<Clock>,
    power: Mutex<Power>,
    held: Mutex<Held>,
}

/// A running stub; it stops when dropped.
pub struct Stub {
    pub base_url: String,
    shared: Arc<Shared>,
    handle: actix_web::dev::ServerHandle,
}

impl Drop for Stub {
    fn drop(&mut self) {
        // Asks the server's own thread to end; it does so without us.
        drop(self.handle.stop(false));
    }
}

impl Stub {
    pub fn start(quirks: &[Quirk], types: &[&str], now_ms: i64) -> Stub {
        let shared = Arc::new(Shared {
            quirks: quirks.to_vec(),
            types: types.iter().map(|kind| (*kind).to_owned()).collect(),
            clock: Mutex::new(Clock { base_ms: now_ms, set: Instant::now(), rounds: 0 }),
            power: Mutex::new(Power::Up),
            held: Mutex::default(),
        });
        let (send, receive) = std::sync::mpsc::channel();
        let data = web::Data::from(shared.clone());
        std::thread::spawn(move || {
            actix_web::rt::System::new().block_on(async move {
                let server = actix_web::HttpServer::new(move || {
                    actix_web::App::new().app_data(data.clone()).app_data(web::PayloadConfig::new(8 << 20)).default_service(web::to(serve))
                });
                let server = server.workers(1).disable_signals().on_connect(keep_the_line).bind(("127.0.0.1", 0)).unwrap();
                let address = server.addrs()[0];
                let server = server.run();
                send.send((address, server.handle())).unwrap();
                server.await.unwrap();
            });
        });
        let (address, handle) = receive.recv().unwrap();
        Stub { base_url: format!("http://{address}/fhir"), shared, handle }
    }

    /// Sets the clock; each call is a new round to those who were asked for silence.
    pub fn set_clock(&self, now_ms: i64) {
        let mut clock = self.shared.clock.lock().unwrap();
        *clock = Clock { base_ms: now_ms, set: Instant::now(), rounds: clock.rounds + 1 };
    }

    pub fn set_power(&self, power: Power) {
        *self.shared.power.lock().unwrap() = power;
    }

    /// The hospital itself puts a text there, byte for byte, whatever the quirks.
    pub fn hospital_puts(&self, text: &str) {
        let value: Value = serde_json::from_str(text).unwrap();
        let (kind, id) = (value["resourceType"].as_str().unwrap(), value["id"].as_str().unwrap());
        let now_ms = self.shared.now_ms();
        self.shared.held().keep("PUT", kind, id, Some(fields_of(text).unwrap()), now_ms, i64::MIN);
    }

    /// The newest text, whether it can be read yet or not; `None` where absent or deleted.
    pub fn text(&self, kind: &str, id: &str) -> Option<String> {
        self.shared.held().newest(kind, id).and_then(|version| version.text.clone())
    }

    /// Everything that stands, as JSON.
    pub fn standing(&self, kind: &str) -> Vec<Value> {
        let held = self.shared.held();
        let all = held.resources.iter().filter(|((of, _), _)| of == kind);
        all.filter_map(|(_, versions)| versions.last()?.text.as_deref().map(|text| serde_json::from_str(text).unwrap())).collect()
    }

    /// Texts of all versions, oldest first; `None` for a DELETE.
    pub fn history(&self, kind: &str, id: &str) -> Vec<Option<Value>> {
        let held = self.shared.held();
        let versions = held.resources.get(&(kind.to_owned(), id.to_owned()));
        versions.into_iter().flatten().map(|version| version.text.as_deref().map(|text| serde_json::from_str(text).unwrap())).collect()
    }

    /// Every write that was asked, in order.
    pub fn writes(&self) -> Vec<Write> {
        self.shared.held().writes.clone()
    }

    /// Requests that came although silence was asked for.
    pub fn early(&self) -> Vec<String> {
        self.shared.held().early.clone()
    }

    pub fn requests(&self) -> u64 {
        self.shared.held().requests
    }
}

/// Keeps a second handle of the connection, so that an answer can be withheld.
fn keep_the_line(connection: &dyn Any, kept: &mut actix_web::dev::Extensions) {
    let connection = connection.downcast_ref::<actix_web::rt::net::TcpStream>().expect("plain TCP");
    let second: OwnedFd = connection.as_fd().try_clone_to_owned().unwrap();
    kept.insert(TcpStream::from(second));
}

enum Answer {
    /// Nothing: the line is closed.
    None,
    Some(u16, Vec<(&'static str, String)>, String),
}

struct Asked {
    method: String,
    path: Vec<String>,
    query: Vec<(String, String)>,
    whole_query: String,
    if_match: Option<String>,
    if_none_exist: Option<String>,
    is_no_cache: bool,
    body: String,
}

async fn serve(request: HttpRequest, body: web::Bytes, shared: web::Data<Shared>) -> HttpResponse {
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let pairs = |text: &str| web::Query::<Vec<(String, String)>>::from_query(text).map(web::Query::into_inner).unwrap_or_default();
    let asked = Asked {
        method: request.method().to_string(),
        path: request.path().trim_start_matches("/fhir").split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect(),
        query: pairs(request.query_string()),
        whole_query: request.query_string().to_owned(),
        if_match: header("If-Match").map(|tag| tag.trim_start_matches("W/").trim_matches('"').to_owned()),
        if_none_exist: header("If-None-Exist"),
        is_no_cache: header("Cache-Control").is_some_and(|value| value.contains("no-cache")),
        body: String::from_utf8_lossy(&body).into_owned(),
    };
    if shared.has(Quirk::Slow) {
        actix_web::rt::time::sleep(SLOW).await;
    }
    let answer = shared.answer(&asked);
    match answer {
        Answer::None => {
            // Both ways: the client sees the line end without a byte.
            let _ = request.conn_data::<TcpStream>().expect("kept at connect").shutdown(Shutdown::Both);
            HttpResponse::Ok().finish()
        }
        Answer::Some(status, headers, body) => {
            let mut response = HttpResponse::build(StatusCode::from_u16(status).unwrap());
            response.content_type("application/fhir+json");
            for (name, value) in headers {
                response.insert_header((name, value));
            }
            response.body(body)
        }
    }
}

fn refused(status: u16, code: &str, says: &str) -> Answer {
    let outcome = json!({"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": code, "diagnostics": says}]});
    Answer::Some(status, Vec::new(), outcome.to_string())
}

impl Shared {
    fn has(&self, quirk: Quirk) -> bool {
        self.quirks.contains(&quirk)
    }

    fn now_ms(&self) -> i64 {
        let clock = self.clock.lock().unwrap();
        clock.base_ms + clock.set.elapsed().as_millis() as i64
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap()
    }

    fn answer(&self, asked: &Asked) -> Answer {
        let now_ms = self.now_ms();
        let round = self.clock.lock().unwrap().rounds;
        let power = *self.power.lock().unwrap();
        let held = &mut *self.held();
        held.requests += 1;
        if let Some(quiet) = &held.quiet
            && now_ms < quiet.until_ms
        {
            if quiet.told_in < round || UNDER_WAY < quiet.told.elapsed() {
                held.early.push(format!("{} {} {} ms early", asked.method, asked.path.join("/"), quiet.until_ms - now_ms));
            }
            let left_s = (quiet.until_ms - now_ms + 999) / 1_000;
            return busy(429, left_s);
        }
        match power {
            Power::Up => {}
            Power::Silent => return Answer::None,
            Power::Busy(seconds) => {
                held.quiet = Some(Quiet { until_ms: now_ms + seconds * 1_000, told: Instant::now(), told_in: round });
                return busy(503, seconds);
            }
        }
        if asked.method == "GET" {
            return self.read(held, asked, now_ms);
        }
        if self.has(Quirk::TooManyRequests) && held.once.insert("429".to_owned()) {
            held.quiet = Some(Quiet { until_ms: now_ms + RETRY_AFTER_S * 1_000, told: Instant::now(), told_in: round });
            return busy(429, RETRY_AFTER_S);
        }
        let before = held.versions();
        let answer = self.write(held, asked, now_ms);
        let kind = asked.path.first().cloned().unwrap_or_default();
        let is_applied = before < held.versions();
        let answer = match answer {
            _ if is_applied && self.has(Quirk::TimeoutAfterApply) && held.once.insert(format!("silent {kind}")) => Answer::None,
            answer => answer,
        };
        let status = if let Answer::Some(status, ..) = answer { status } else { 0 };
        held.writes.push(Write {
            at_ms: now_ms,
            method: asked.method.clone(),
            resource_type: kind,
            id: asked.path.get(1).cloned(),
            body: asked.body.clone(),
            status,
            is_applied,
        });
        answer
    }

    fn serves(&self, kind: &str) -> bool {
        self.types.is_empty() || self.types.iter().any(|served| served == kind)
    }

    fn read(&self, held: &mut Held, asked: &Asked, now_ms: i64) -> Answer {
        let path: Vec<&str> = asked.path.iter().map(String::as_str).collect();
        match path.as_slice() {
            ["metadata"] => Answer::Some(200, Vec::new(), self.statement()),
            [kind, ..] if !self.serves(kind) => refused(404, "not-supported", "this type is not served"),
            [kind] => self.search(held, asked, kind, now_ms),
            [kind, id] => match held.visible(kind, id, now_ms) {
                Some(Version { text: Some(text), number, .. }) => Answer::Some(200, vec![("ETag", format!("W/\"{number}\""))], text.clone()),
                Some(_) => refused(410, "deleted", "deleted"),
                None => refused(404, "not-found", "no such resource"),
            },
            [kind, id, "_history"] => {
                let versions = held.resources.get(&((*kind).to_owned(), (*id).to_owned()));
                let entries: Vec<String> = versions
                    .into_iter()
                    .flatten()
                    .rev()
                    .map(|version| {
                        let resource = version.text.as_ref().map(|text| format!(r#""resource":{text},"#)).unwrap_or_default();
                        format!(r#"{{{resource}"request":{{"method":"{}","url":"{kind}/{id}"}}}}"#, version.method)
                    })
                    .collect();
                Answer::Some(200, Vec::new(), format!(r#"{{"resourceType":"Bundle","type":"history","entry":[{}]}}"#, entries.join(",")))
            }
            [kind, id, "_history", number] => {
                let versions = held.resources.get(&((*kind).to_owned(), (*id).to_owned()));
                match versions.into_iter().flatten().find(|version| version.number.to_string() == *number).and_then(|version| version.text.clone()) {
                    Some(text) => Answer::Some(200, vec![("ETag", format!("W/\"{number}\""))], text),
                    None => refused(404, "not-found", "no such version"),
                }
            }
            _ => refused(404, "not-found", "no such address"),
        }
    }

    fn search(&self, held: &mut Held, asked: &Asked, kind: &str, now_ms: i64) -> Answer {
        let question = format!("{kind}?{}", asked.whole_query);
        let cached = held.cache.get(&question).filter(|(at_ms, _)| now_ms < at_ms + CACHE_MS).map(|(_, found)| found.clone());
        let found = match cached {
            Some(found) if self.has(Quirk::CachedSearch) && !asked.is_no_cache => found,
            Some(_) | None => match held.found(kind, &asked.query, now_ms, true) {
                Ok(found) => {
                    held.cache.insert(question, (now_ms, found.clone()));
                    found
                }
                Err(why) => return refused(400, "not-supported", &why),
            },
        };
        let number = |name: &str| asked.query.iter().find(|(key, _)| key == name).and_then(|(_, value)| value.parse::<usize>().ok());
        let (count, offset) = (number("_count").unwrap_or(PAGE).clamp(1, 200), number("_offset").unwrap_or_default());
        let entries: Vec<String> =
            found.iter().skip(offset).take(count).map(|text| format!(r#"{{"resource":{text},"search":{{"mode":"match"}}}}"#)).collect();
        let kept: Vec<&str> = asked.whole_query.split('&').filter(|pair| !pair.starts_with("_offset=") && !pair.is_empty()).collect();
        let next = format!("{kind}?{}&_offset={}", kept.join("&"), offset + count);
        let link = if offset + count < found.len() { format!(r#""link":[{{"relation":"next","url":{}}}],"#, json!(next)) } else { String::new() };
        let bundle = format!(r#"{{"resourceType":"Bundle","type":"searchset","total":{},{link}"entry":[{}]}}"#, found.len(), entries.join(","));
        Answer::Some(200, Vec::new(), bundle)
    }

    fn write(&self, held: &mut Held, asked: &Asked, now_ms: i64) -> Answer {
        let path: Vec<&str> = asked.path.iter().map(String::as_str).collect();
        match (asked.method.as_str(), path.as_slice()) {
            (_, [kind, ..]) if !self.serves(kind) => refused(404, "not-supported", "this type is not served"),
            ("POST", [kind]) => self.create(held, asked, kind, now_ms),
            ("POST", [kind, id, "$meta-delete"]) => self.meta_delete(held, asked, kind, id, now_ms),
            ("PUT", [kind, id]) => self.update(held, asked, kind, id, now_ms),
            ("PATCH", [kind, id]) => self.patch(held, asked, kind, id, now_ms),
            ("DELETE", [kind, id]) => {
                if let Some(answer) = self.stale(held, asked, kind, id) {
                    return answer;
                }
                if held.newest(kind, id).is_some_and(|newest| newest.text.is_some()) {
                    held.keep("DELETE", kind, id, None, now_ms, self.visible_from(now_ms));
                }
                Answer::Some(204, Vec::new(), String::new())
            }
            _ => refused(405, "not-supported", "no such interaction"),
        }
    }

    fn visible_from(&self, now_ms: i64) -> i64 {
        if self.has(Quirk::CommitsLate) { now_ms + LATE_MS } else { now_ms }
    }

    /// The elements that this server would keep of a body, or why it takes none of them.
    fn taken(&self, held: &Held, kind: &str, id: Option<&str>, body: &str) -> Result<Fields, Answer> {
        let Some(mut fields) = fields_of(body) else { return Err(refused(400, "structure", "not one JSON object")) };
        let value: Value = serde_json::from_str(body).unwrap_or_default();
        if value["resourceType"] != kind {
            return Err(refused(400, "invalid", "another type than the address"));
        }
        if id.is_some() && value["id"].as_str() != id {
            return Err(refused(400, "invalid", "another id than the address"));
        }
        if self.has(Quirk::RefusesModifiers) && body.contains("\"modifierExtension\"") {
            return Err(refused(422, "not-supported-element", "modifier extensions are not taken"));
        }
        if self.has(Quirk::RefusesUnknownReferences) {
            let mut references = Vec::new();
            literal_references(&value, &mut references);
            for reference in references {
                let plain = reference.split("/_history/").next().unwrap_or_default();
                let (of, target) = plain.split_once('/').unwrap_or_default();
                if held.newest(of, target).is_none_or(|newest| newest.text.is_none()) {
                    return Err(refused(400, "not-found", "a reference leads nowhere"));
                }
            }
        }
        if self.has(Quirk::IgnoresUnknownFields) {
            let kept = KEPT.iter().find(|(of, _)| *of == kind).map(|(_, kept)| *kept);
            fields.retain(|(name, _)| {
                ["resourceType", "id", "meta", "identifier"].contains(&name.as_str()) || kept.is_none_or(|kept| kept.contains(&name.as_str()))
            });
        }
        if self.has(Quirk::DropsIdentifiers) {
            fields.retain(|(name, _)| name != "identifier");
        }
        if self.has(Quirk::DropsTags) {
            change_meta(&mut fields, |meta| meta.retain(|(name, _)| name != "tag"));
        }
        if self.has(Quirk::ReSpellsNumbers) {
            for (_, text) in &mut fields {
                *text = re_spelt(&serde_json::from_str(text).unwrap()).to_string();
            }
        }
        Ok(fields)
    }

    fn create(&self, held: &mut Held, asked: &Asked, kind: &str, now_ms: i64) -> Answer {
        if let Some(condition) = &asked.if_none_exist {
            if self.has(Quirk::RefusesConditionalCreate) {
                return refused(400, "not-supported", "no conditional create");
            }
            if !self.has(Quirk::NoConditionalCreate) {
                let query: Vec<(String, String)> =
                    condition.split('&').filter_map(|pair| pair.split_once('=')).map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
                match held.found(kind, &query, now_ms, false) {
                    Err(why) => return refused(400, "not-supported", &why),
                    Ok(found) => match found.as_slice() {
                        [] => {}
                        [one] => {
                            let value: Value = serde_json::from_str(one).unwrap();
                            let id = value["id"].as_str().unwrap();
                            return Answer::Some(200, vec![("Location", format!("{kind}/{id}"))], one.clone());
                        }
                        _ => return refused(412, "multiple-matches", "several match"),
                    },
                }
            }
        }
        let fields = match self.taken(held, kind, None, &asked.body) {
            Ok(fields) => fields,
            Err(answer) => return answer,
        };
        if self.has(Quirk::ConflictOnceOnCreate) && held.once.insert(format!("409 {kind}")) {
            return refused(409, "conflict", "somebody creates this at the same time");
        }
        held.next_id += 1;
        let id = format!("e{}", held.next_id);
        let number = held.keep("POST", kind, &id, Some(fields), now_ms, self.visible_from(now_ms));
        created(held, kind, &id, number, 201)
    }

    /// 412 (or 409) where `If-Match` names another version than the newest.
    fn stale(&self, held: &mut Held, asked: &Asked, kind: &str, id: &str) -> Option<Answer> {
        let status = if self.has(Quirk::StaleIsConflict) { 409 } else { 412 };
        let asked = asked.if_match.as_ref()?;
        if self.has(Quirk::PreconditionOnce) && held.once.insert(format!("412 {kind}")) {
            return Some(refused(412, "conflict", "somebody else was faster"));
        }
        let is_newest = held.newest(kind, id).is_some_and(|newest| newest.number.to_string() == *asked);
        (!is_newest).then(|| refused(status, "conflict", "another version stands there"))
    }

    fn update(&self, held: &mut Held, asked: &Asked, kind: &str, id: &str, now_ms: i64) -> Answer {
        let mut fields = match self.taken(held, kind, Some(id), &asked.body) {
            Ok(fields) => fields,
            Err(answer) => return answer,
        };
        if let Some(answer) = self.stale(held, asked, kind, id) {
            return answer;
        }
        let before = held.newest(kind, id).and_then(|newest| newest.text.clone());
        match &before {
            None if self.has(Quirk::NoUpdateCreates) => return refused(404, "not-found", "clients do not choose ids here"),
            None if self.has(Quirk::IdsNeedALetter) && id.chars().all(|c| c.is_ascii_digit()) => {
                return refused(400, "value", "an id needs a letter");
            }
            None if self.has(Quirk::ConflictOnceOnCreate) && held.once.insert(format!("409 {kind}")) => {
                return refused(409, "conflict", "somebody creates this at the same time");
            }
            Some(_) if self.has(Quirk::NoUpdate) => return refused(405, "not-supported", "what was written stays as it is"),
            None | Some(_) => {}
        }
        if self.has(Quirk::TagStays)
            && let Some(before) = &before
        {
            let stood = meta_of(before, "tag");
            let sent: Vec<Value> = fields.iter().find(|(name, _)| name == "meta").map(|(_, text)| list_in(text, "tag")).unwrap_or_default();
            let mut all = stood.clone();
            all.extend(sent.into_iter().filter(|tag| !stood.contains(tag)));
            if !all.is_empty() {
                change_meta(&mut fields, |meta| {
                    meta.retain(|(name, _)| name != "tag");
                    meta.push(("tag".to_owned(), Value::Array(all).to_string()));
                });
            }
            if without_stamps(&joined(&fields)) == without_stamps(before) {
                let number = held.newest(kind, id).unwrap().number;
                return created(held, kind, id, number, 200);
            }
        }
        let status = if before.is_some() { 200 } else { 201 };
        let number = held.keep("PUT", kind, id, Some(fields), now_ms, self.visible_from(now_ms));
        created(held, kind, id, number, status)
    }

    fn meta_delete(&self, held: &mut Held, asked: &Asked, kind: &str, id: &str, now_ms: i64) -> Answer {
        let Some(text) = held.newest(kind, id).and_then(|newest| newest.text.clone()) else { return refused(404, "not-found", "no such resource") };
        let parameters: Value = serde_json::from_str(&asked.body).unwrap_or_default();
        let meta = parameters["parameter"].as_array().into_iter().flatten().find(|parameter| parameter["name"] == "meta");
        let Some(meta) = meta.map(|parameter| &parameter["valueMeta"]) else { return refused(400, "required", "no parameter meta") };
        let gone: Vec<(Value, Value)> =
            meta["tag"].as_array().into_iter().flatten().map(|tag| (tag["system"].clone(), tag["code"].clone())).collect();
        let left: Vec<Value> =
            meta_of(&text, "tag").into_iter().filter(|tag| !gone.contains(&(tag["system"].clone(), tag["code"].clone()))).collect();
        let mut fields = fields_of(&text).unwrap();
        change_meta(&mut fields, |meta| {
            meta.retain(|(name, _)| name != "tag");
            if !left.is_empty() {
                meta.push(("tag".to_owned(), Value::Array(left).to_string()));
            }
        });
        held.keep("POST", kind, id, Some(fields), now_ms, self.visible_from(now_ms));
        Answer::Some(200, Vec::new(), json!({"resourceType": "Parameters"}).to_string())
    }

    /// JSON Patch (RFC 6902): add, remove, replace, test.
    fn patch(&self, held: &mut Held, asked: &Asked, kind: &str, id: &str, now_ms: i64) -> Answer {
        if self.has(Quirk::NoPatch) || self.has(Quirk::NoUpdate) {
            return refused(405, "not-supported", "no PATCH here");
        }
        if let Some(answer) = self.stale(held, asked, kind, id) {
            return answer;
        }
        let Some(text) = held.newest(kind, id).and_then(|newest| newest.text.clone()) else { return refused(404, "not-found", "no such resource") };
        let Ok(Value::Array(steps)) = serde_json::from_str(&asked.body) else { return refused(400, "structure", "not a JSON Patch") };
        let mut fields = fields_of(&text).unwrap();
        for step in &steps {
            if let Err(why) = patched(&mut fields, step) {
                return refused(422, "processing", &why);
            }
        }
        let mut fields = match self.taken(held, kind, Some(id), &joined(&fields)) {
            Ok(fields) => fields,
            Err(answer) => return answer,
        };
        fields.retain(|(_, text)| text != "[]");
        let number = held.keep("PATCH", kind, id, Some(fields), now_ms, self.visible_from(now_ms));
        created(held, kind, id, number, 200)
    }

    fn statement(&self) -> String {
        let types: Vec<String> = match self.types.is_empty() {
            true => KEPT.iter().map(|(kind, _)| (*kind).to_owned()).chain(["Patient", "Condition", "Provenance"].map(str::to_owned)).collect(),
            false => self.types.clone(),
        };
        let mut interactions = vec!["read", "vread", "history-instance", "create", "search-type", "delete"];
        interactions.extend((!self.has(Quirk::NoUpdate)).then_some("update"));
        interactions.extend((!self.has(Quirk::NoPatch) && !self.has(Quirk::NoUpdate)).then_some("patch"));
        let interactions: Vec<Value> = interactions.into_iter().map(|code| json!({"code": code})).collect();
        let parameters: Vec<Value> =
            [("_id", "token"), ("identifier", "token"), ("status", "token"), ("subject", "reference"), ("patient", "reference")]
                .into_iter()
                .map(|(name, kind)| json!({"name": name, "type": kind}))
                .collect();
        let resources: Vec<Value> = types
            .iter()
            .map(|kind| {
                json!({"type": kind, "interaction": interactions, "versioning": "versioned", "readHistory": true,
                    "updateCreate": !self.has(Quirk::NoUpdateCreates),
                    "conditionalCreate": !self.has(Quirk::NoConditionalCreate) && !self.has(Quirk::RefusesConditionalCreate),
                    "searchParam": parameters})
            })
            .collect();
        let quirks: Vec<&str> = self.quirks.iter().map(|quirk| quirk.word()).collect();
        json!({"resourceType": "CapabilityStatement", "status": "active", "date": "2026-11-01", "kind": "instance",
            "software": {"name": format!("a stub with quirks: {}", quirks.join(", "))},
            "fhirVersion": "4.0.1", "format": ["json"], "rest": [{"mode": "server", "resource": resources}]})
        .to_string()
    }
}

fn busy(status: u16, seconds: i64) -> Answer {
    Answer::Some(status, vec![("Retry-After", seconds.to_string())], String::new())
}

fn created(held: &Held, kind: &str, id: &str, number: u64, status: u16) -> Answer {
    let text = held.newest(kind, id).and_then(|newest| newest.text.clone()).unwrap_or_default();
    let headers = vec![("Location", format!("{kind}/{id}/_history/{number}")), ("ETag", format!("W/\"{number}\""))];
    Answer::Some(status, headers, text)
}

impl Held {
    fn newest(&self, kind: &str, id: &str) -> Option<&Version> {
        self.resources.get(&(kind.to_owned(), id.to_owned())).and_then(|versions| versions.last())
    }

    fn visible(&self, kind: &str, id: &str, now_ms: i64) -> Option<&Version> {
        let versions = self.resources.get(&(kind.to_owned(), id.to_owned()))?;
        versions.iter().rev().find(|version| version.visible_from_ms <= now_ms)
    }

    fn versions(&self) -> usize {
        self.resources.values().map(Vec::len).sum()
    }

    fn keep(&mut self, method: &'static str, kind: &str, id: &str, fields: Option<Fields>, now_ms: i64, visible_from_ms: i64) -> u64 {
        let number = self.newest(kind, id).map_or(1, |newest| newest.number + 1);
        let at = jiff::Timestamp::from_millisecond(now_ms).unwrap().to_string();
        let text = fields.map(|mut fields| {
            fields.retain(|(name, _)| name != "id");
            fields.insert(1, ("id".to_owned(), Value::from(id).to_string()));
            change_meta(&mut fields, |meta| {
                meta.retain(|(name, _)| name != "versionId" && name != "lastUpdated");
                meta.insert(0, ("lastUpdated".to_owned(), Value::from(at).to_string()));
                meta.insert(0, ("versionId".to_owned(), format!("\"{number}\"")));
            });
            joined(&fields)
        });
        self.resources.entry((kind.to_owned(), id.to_owned())).or_default().push(Version { number, method, text, visible_from_ms });
        number
    }

    /// Texts of what matches; with `is_outside`, as far as it can be seen from outside.
    fn found(&self, kind: &str, query: &[(String, String)], now_ms: i64, is_outside: bool) -> Result<Vec<String>, String> {
        let mut found = Vec::new();
        for ((of, id), versions) in &self.resources {
            let version = if is_outside { self.visible(of, id, now_ms) } else { versions.last() };
            let Some(text) = version.filter(|_| of == kind).and_then(|version| version.text.as_deref()) else { continue };
            let value: Value = serde_json::from_str(text).unwrap();
            let mut is_match = true;
            for (name, asked) in query {
                is_match &= matches(&value, name, asked)?;
            }
            if is_match {
                found.push(text.to_owned());
            }
        }
        Ok(found)
    }
}

fn each(value: &Value) -> Vec<&Value> {
    match value {
        Value::Null => Vec::new(),
        Value::Array(items) => items.iter().collect(),
        one => vec![one],
    }
}

/// One search parameter; what is not known is an error, so that nobody leans on its being ignored.
fn matches(value: &Value, name: &str, asked: &str) -> Result<bool, String> {
    let token = |system: &Value, code: &Value| match asked.split_once('|') {
        Some((wanted, "")) => system == wanted,
        Some((wanted, of)) => system == wanted && code == of,
        None => code == asked,
    };
    let coded = |elements: &[&str]| {
        let concepts = elements.iter().flat_map(|element| each(&value[*element]));
        concepts.flat_map(|concept| each(&concept["coding"])).any(|coding| token(&coding["system"], &coding["code"]))
    };
    let labelled = |element: &str| each(&value["meta"][element]).into_iter().any(|coding| token(&coding["system"], &coding["code"]));
    let refers = |elements: &[&str]| {
        let references = elements.iter().flat_map(|element| each(&value[*element])).filter_map(|target| target["reference"].as_str());
        references.into_iter().any(|found| found == asked || found.rsplit_once('/').is_some_and(|(_, id)| id == asked))
    };
    Ok(match name {
        "_id" => asked.split(',').any(|id| value["id"] == id),
        "identifier" => each(&value["identifier"]).into_iter().any(|one| token(&one["system"], &one["value"])),
        "status" => asked.split(',').any(|status| value["status"] == status),
        "code" => coded(&["code"]),
        "category" => coded(&["category"]),
        "_tag" => labelled("tag"),
        "_security" => labelled("security"),
        "subject" | "patient" => refers(&["subject", "individual", "patient"]),
        "individual" => refers(&["individual"]),
        "study" => refers(&["study"]),
        "target" => refers(&["target"]),
        "_count" | "_offset" | "_summary" | "_format" | "_sort" => true,
        _ => return Err(format!("no search by {name} here")),
    })
}

/// `Type/id` of every literal reference to this server.
fn literal_references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            if let Some(reference) = fields.get("reference").and_then(Value::as_str)
                && !reference.starts_with('#')
                && !reference.contains(':')
            {
                found.push(reference.to_owned());
            }
            fields.values().for_each(|value| literal_references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| literal_references(value, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn re_spelt(value: &Value) -> Value {
    match value {
        Value::Number(number) => json!(number.as_f64().unwrap_or_default()),
        Value::Array(items) => items.iter().map(re_spelt).collect(),
        Value::Object(fields) => Value::Object(fields.iter().map(|(name, value)| (name.clone(), re_spelt(value))).collect()),
        other => other.clone(),
    }
}

/// The elements of an object with their texts as they stand, in order; `None` where it is not an object.
pub fn fields_of(text: &str) -> Option<Fields> {
    struct InOrder;
    impl<'de> serde::de::Visitor<'de> for InOrder {
        type Value = Fields;
        fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            formatter.write_str("an object")
        }
        fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
            let mut fields = Fields::new();
            while let Some((name, value)) = map.next_entry::<String, Box<RawValue>>()? {
                fields.push((name, value.get().to_owned()));
            }
            Ok(fields)
        }
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let fields = serde::Deserializer::deserialize_map(&mut deserializer, InOrder).ok()?;
    deserializer.end().ok()?;
    Some(fields)
}

fn joined(fields: &Fields) -> String {
    let fields: Vec<String> = fields.iter().map(|(name, text)| format!("{}:{text}", Value::from(name.as_str()))).collect();
    format!("{{{}}}", fields.join(","))
}

/// Changes `meta`, made where it is missing and left out where it is empty.
fn change_meta(fields: &mut Fields, change: impl FnOnce(&mut Fields)) {
    let at = fields.iter().position(|(name, _)| name == "meta");
    let mut meta = at.map(|at| fields_of(&fields[at].1).unwrap()).unwrap_or_default();
    change(&mut meta);
    match at {
        Some(at) if meta.is_empty() => drop(fields.remove(at)),
        Some(at) => fields[at].1 = joined(&meta),
        None if meta.is_empty() => {}
        None => fields.insert(fields.len().min(2), ("meta".to_owned(), joined(&meta))),
    }
}

fn list_in(meta: &str, name: &str) -> Vec<Value> {
    let meta: Value = serde_json::from_str(meta).unwrap();
    meta[name].as_array().cloned().unwrap_or_default()
}

fn meta_of(text: &str, name: &str) -> Vec<Value> {
    fields_of(text).unwrap().iter().find(|(field, _)| field == "meta").map(|(_, meta)| list_in(meta, name)).unwrap_or_default()
}

/// The elements with their texts, but for what a server writes itself: id, version and time.
pub fn without_stamps(text: &str) -> Fields {
    let mut fields = fields_of(text).unwrap();
    fields.retain(|(name, _)| name != "id");
    change_meta(&mut fields, |meta| meta.retain(|(name, _)| name != "versionId" && name != "lastUpdated"));
    fields
}

fn patched(fields: &mut Fields, step: &Value) -> Result<(), String> {
    let (Some(does), Some(path)) = (step["op"].as_str(), step["path"].as_str()) else { return Err("no op or path".to_owned()) };
    let mut parts: Vec<String> = path.split('/').skip(1).map(|part| part.replace("~1", "/").replace("~0", "~")).collect();
    if parts.is_empty() {
        return Err("the whole resource is not replaced".to_owned());
    }
    let top = parts.remove(0);
    let at = fields.iter().position(|(name, _)| *name == top);
    if parts.is_empty() {
        match (does, at) {
            ("add", Some(at)) | ("replace", Some(at)) => fields[at].1 = step["value"].to_string(),
            ("add", None) => fields.push((top, step["value"].to_string())),
            ("remove", Some(at)) => drop(fields.remove(at)),
            ("test", Some(at)) => {
                let stands: Value = serde_json::from_str(&fields[at].1).unwrap();
                if stands != step["value"] {
                    return Err(format!("{path} says something else"));
                }
            }
            _ => return Err(format!("{does} {path}: no such element")),
        }
        return Ok(());
    }
    let Some(at) = at else { return Err(format!("{does} {path}: no such element")) };
    let mut whole: Value = serde_json::from_str(&fields[at].1).unwrap();
    let last = parts.pop().unwrap();
    let mut place = &mut whole;
    for part in &parts {
        let next = match place {
            Value::Array(items) => part.parse::<usize>().ok().and_then(|index| items.get_mut(index)),
            Value::Object(fields) => fields.get_mut(part),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
        };
        place = next.ok_or_else(|| format!("{does} {path}: no such place"))?;
    }
    let value = step["value"].clone();
    let missing = || format!("{does} {path}: no such place");
    match place {
        Value::Array(items) => {
            let index = if last == "-" { items.len() } else { last.parse().map_err(|_| missing())? };
            match does {
                "add" if index <= items.len() => items.insert(index, value),
                "replace" if index < items.len() => items[index] = value,
                "remove" if index < items.len() => drop(items.remove(index)),
                "test" if items.get(index) == Some(&value) => {}
                _ => return Err(missing()),
            }
        }
        Value::Object(inner) => match does {
            "add" => drop(inner.insert(last, value)),
            "replace" if inner.contains_key(&last) => drop(inner.insert(last, value)),
            "remove" => drop(inner.shift_remove(&last).ok_or_else(missing)?),
            "test" if inner.get(&last) == Some(&value) => {}
            _ => return Err(missing()),
        },
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => return Err(missing()),
    }
    fields[at].1 = whole.to_string();
    Ok(())
}
