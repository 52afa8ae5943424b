//! A write-probe: for each rung that the site allows, what would be written about a test patient is written, read,
//! searched, compared, changed, taken back and removed. What the server was found to do is noted.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::super::receivers::Climbed;
use super::super::{Pipeline, receivers};
use crate::ehr::{Ehr, EhrError, Held, Written as Answer};
use crate::fhir::{edit, fit};
use crate::rules::{Assessment, Hidden, SubjectState, Verdict};
use crate::store::{self, StoreError};
use crate::study::Study;
use crate::writeback::ladder::{self, Finding, FindingKind, Ladder, Rung};
use crate::writeback::{self, Beside, Known, Member, Receiver, WriteBack, WriteFrom, Written, contract};

/// The tag and the language that the first version carries and the second leaves out.
const TAG: (&str, &str) = ("urn:nephrogate:probe", "probe");
const LANGUAGE: &str = "en";
/// A server that indexes late is searched again after these pauses.
const SEARCH_PAUSES: [Duration; 4] = [Duration::ZERO, Duration::from_millis(250), Duration::from_secs(1), Duration::from_secs(4)];

/// What one step tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tried {
    /// The rung was not tried; it says why.
    Skipped,
    Contract,
    Create,
    Read,
    Search,
    Compare,
    /// A PUT of what is really written, without the tag and the element that the first version had.
    Update,
    /// The tag that the update left out.
    Tag,
    /// The element that the update left out.
    Element,
    /// A PUT that names a version that is not the newest.
    StaleVersion,
    TakeBack,
    /// Whether what was taken back is absent from a search for what is active.
    Absent,
    CleanUp,
}

impl Tried {
    pub const fn word(self) -> &'static str {
        match self {
            Tried::Skipped => "skipped",
            Tried::Contract => "contract",
            Tried::Create => "create",
            Tried::Read => "read",
            Tried::Search => "search",
            Tried::Compare => "compare",
            Tried::Update => "update",
            Tried::Tag => "tag",
            Tried::Element => "element",
            Tried::StaleVersion => "stale-version",
            Tried::TakeBack => "take-back",
            Tried::Absent => "absent",
            Tried::CleanUp => "clean-up",
        }
    }
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    pub rung: Rung,
    pub resource_type: String,
    pub tried: Tried,
    pub is_good: bool,
    /// What happened, in words; never a value of a patient.
    pub says: String,
    pub took_ms: u64,
}

/// What a probe came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Probed {
    pub steps: Vec<Step>,
    pub findings: Vec<Finding>,
    pub climbed: Climbed,
    /// The server stopped answering: what was not reached says nothing.
    pub trouble: Option<EhrError>,
}

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error("this site has no receiver")]
    NoReceiver,
    #[error("the EHR has no such Patient")]
    NoPatient,
    #[error("the Patient is not labelled HTEST: a probe writes about test patients only")]
    NotATestPatient,
    #[error("the Patient record is retired or merged, or its person has died")]
    NotStanding,
    #[error("the Patient could not be read: {0}")]
    Ehr(#[from] EhrError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Writes about one test patient on every rung that the site allows and the server declares, best first; notes what was
/// found and climbs. `say` is told each step as it ends.
pub async fn probe(pipeline: &Pipeline, ehr: &Ehr, site: &str, patient: &str, now_ms: i64, mut say: impl FnMut(&Step)) -> Result<Probed, ProbeError> {
    let contract = pipeline.receivers.get(site).cloned().ok_or(ProbeError::NoReceiver)?;
    let standing = ehr.patient(patient).await?.ok_or(ProbeError::NoPatient)?;
    if !standing.is_test {
        return Err(ProbeError::NotATestPatient);
    }
    if standing.is_deceased || standing.is_retired {
        return Err(ProbeError::NotStanding);
    }
    super::ask(pipeline, ehr, site, now_ms).await?;
    let site = site.to_owned();
    let declared = pipeline.store.read(move |tx| store::receivers::kept(tx, &site)).await?.declared;
    let mut report = Report { steps: Vec::new(), findings: Vec::new(), say: &mut say };
    let mut trouble = None;
    for rung in contract.rungs.iter().copied() {
        if let Some(why) = ladder::untried(&contract, declared.as_ref(), rung) {
            report.step(rung, rung.word(), Tried::Skipped, Instant::now(), true, why);
            continue;
        }
        let attempt = Attempt { ehr, contract: &contract, rung, subject: patient, study: study_of_probe(now_ms) };
        if let Err(error) = attempt.run(&mut report).await {
            trouble = Some(error);
            break;
        }
    }
    let Report { steps, findings, say: _ } = report;
    let noted: Vec<Finding> =
        findings.into_iter().map(|(resource_type, kind, detail)| Finding { resource_type, kind, detail, found_ms: now_ms }).collect();
    let findings = noted.clone();
    let climbed = pipeline.store.write(move |tx| receivers::found(tx, &contract, &noted, now_ms)).await?;
    Ok(Probed { steps, findings, climbed, trouble })
}

/// A study of nobody's, under keys that no other probe had: each probe proves a create.
fn study_of_probe(now_ms: i64) -> Study {
    let text = r#"{"id": "probe", "title": "Probe of write-back; no study", "note": "A probe of what an EHR takes.", "criteria": []}"#;
    let mut study: Study = serde_json::from_str(text).expect("a study is plain data");
    study.id = format!("probe {now_ms}");
    study
}

fn assessment(study: &Study, state: SubjectState, hidden: Option<Hidden>) -> Assessment {
    Assessment {
        study: study.id.clone(),
        study_hash: "probe".to_owned(),
        as_of_ms: 0,
        egfr: None,
        prescreen: Verdict::Met,
        eligibility: Verdict::Unknown,
        state,
        was_enrolled: false,
        criteria: Vec::new(),
        near_miss: None,
        missing: Vec::new(),
        hidden,
        series: Vec::new(),
        alerts: Vec::new(),
    }
}

struct Report<'a> {
    steps: Vec<Step>,
    /// Type, kind, detail.
    findings: Vec<(String, FindingKind, String)>,
    say: &'a mut dyn FnMut(&Step),
}

impl Report<'_> {
    fn step(&mut self, rung: Rung, resource_type: &str, tried: Tried, began: Instant, is_good: bool, says: impl Into<String>) {
        let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let step = Step { rung, resource_type: resource_type.to_owned(), tried, is_good, says: says.into(), took_ms };
        (self.say)(&step);
        self.steps.push(step);
    }

    fn found(&mut self, resource_type: &str, kind: FindingKind, detail: impl Into<String>) {
        self.findings.push((resource_type.to_owned(), kind, detail.into()));
    }
}

/// One rung, tried about one patient.
struct Attempt<'a> {
    ehr: &'a Ehr,
    contract: &'a Receiver,
    rung: Rung,
    subject: &'a str,
    study: Study,
}

/// What stands at the server meanwhile.
struct Standing {
    request: WriteBack,
    id: String,
}

impl Attempt<'_> {
    /// Tries the rung; an error is one of the whole server.
    async fn run(&self, report: &mut Report<'_>) -> Result<(), EhrError> {
        let mut stands: Vec<Standing> = Vec::new();
        let mut all_went_well = true;
        for kind in self.rung.resource_types() {
            // Planned one by one: where the server chooses ids, the second refers to what the first was given.
            let planned = self.plan(SubjectState::Candidate, None, &stands);
            let Some(request) = planned.into_iter().find(|request| request.resource_type == *kind) else {
                report.step(self.rung, kind, Tried::Contract, Instant::now(), false, "nothing is planned for this rung");
                all_went_well = false;
                break;
            };
            all_went_well = self.write(request, &mut stands, report).await?;
            if !all_went_well {
                break;
            }
        }
        if all_went_well {
            self.take_back(&stands, report).await?;
        }
        self.clean_up(&stands, report).await
    }

    /// The contract as it is, on this rung alone, for a patient labelled HTEST.
    fn receiver(&self) -> Receiver {
        Receiver {
            ladder: Ladder { rung: Some(self.rung), with_flag: false, left_out: Vec::new() },
            write_from: WriteFrom::Candidate,
            tag_test: true,
            beside: Beside::default(),
            annotates: Vec::new(),
            ..self.contract.clone()
        }
    }

    fn plan(&self, state: SubjectState, hidden: Option<Hidden>, stands: &[Standing]) -> Vec<WriteBack> {
        let written: Vec<Written> = stands
            .iter()
            .map(|Standing { request, id }| Written {
                key: request.key.clone(),
                resource_type: request.resource_type.clone(),
                body_hash: request.body_hash.clone(),
                body: request.body.clone(),
                is_standing: true,
                server_id: Some(id.clone()),
                form: request.form,
                is_pending: false,
            })
            .collect();
        let assessment = assessment(&self.study, state, hidden);
        let known = Known { subject: self.subject, assessment: &assessment, course: None, mapping_hash: "probe" };
        let receiver = self.receiver();
        let mut requests = writeback::plan(&receiver, &self.study, known, &written);
        let member = Member { subject: self.subject, membership: writeback::membership(&receiver, writeback::Standing::of(&assessment)) };
        requests.extend((self.rung == Rung::Group).then(|| writeback::plan_group(&receiver, &self.study, &[member], &written)).flatten());
        requests
    }

    /// Creates one resource and changes it once; `false` when it cannot go on.
    async fn write(&self, request: WriteBack, stands: &mut Vec<Standing>, report: &mut Report<'_>) -> Result<bool, EhrError> {
        let (kind, rung) = (request.resource_type.clone(), self.rung);
        let mut began = Instant::now();
        if let Err(why) = contract::check(&self.receiver(), &request) {
            report.step(rung, &kind, Tried::Contract, began, false, why);
            return Ok(false);
        }
        let first = fit::marked(&request.body, TAG, LANGUAGE);
        let answer = match self.send_new(&request, &first).await {
            Ok(answer) => answer,
            Err(error) => {
                let words = refusal(error)?;
                report.step(rung, &kind, Tried::Create, began, false, &words);
                report.found(&kind, FindingKind::Unsupported, words);
                return Ok(false);
            }
        };
        let how = format!("{} answered {}", request.method, answer.status);
        report.step(rung, &kind, Tried::Create, began, true, how);

        began = Instant::now();
        let id = answer.id.clone().or_else(|| request.url.split_once('/').map(|(_, id)| id.to_owned()));
        let read = match &id {
            Some(id) => self.ehr.read(&kind, id).await?,
            None => None,
        };
        let (Some(id), Some(read)) = (id, read) else {
            report.step(rung, &kind, Tried::Read, began, false, "taken, and not found by its id");
            report.found(&kind, FindingKind::NotFoundAgain, "by its id");
            return Ok(false);
        };
        stands.push(Standing { request: request.clone(), id: id.clone() });
        let version = read.version.as_deref().map_or("no version".to_owned(), |version| format!("version {version}"));
        report.step(rung, &kind, Tried::Read, began, true, format!("found by its id, {version}"));

        began = Instant::now();
        let (found, tries) = self.found(&request, &id).await?;
        match found {
            1 => report.step(rung, &kind, Tried::Search, began, true, format!("found by its identifier at the {} search", nth(tries))),
            0 => {
                report.step(rung, &kind, Tried::Search, began, false, "not found by its identifier");
                report.found(&kind, FindingKind::NotFoundAgain, "by search for its identifier");
                return Ok(false);
            }
            copies => {
                report.step(rung, &kind, Tried::Search, began, false, format!("{copies} copies under one identifier"));
                report.found(&kind, FindingKind::NotFoundAgain, "more than one copy under one identifier");
                return Ok(false);
            }
        }

        began = Instant::now();
        let dropped = edit::missing(&request.body, &read.resource);
        let needed: Vec<&String> = dropped.iter().filter(|path| contract::is_needed(path)).collect();
        let says = match (dropped.is_empty(), needed.is_empty()) {
            (true, _) => "whole".to_owned(),
            (false, true) => format!("without {}, which is nice to have", dropped.join(", ")),
            (false, false) => format!("without {}", dropped.join(", ")),
        };
        report.step(rung, &kind, Tried::Compare, began, needed.is_empty(), says);
        if !dropped.is_empty() {
            report.found(&kind, FindingKind::DropsElements, dropped.join(", "));
        }
        if !needed.is_empty() {
            return Ok(false);
        }
        self.update(&request, &id, &read, report).await
    }

    /// Writes what is really meant, without the tag and the language of the first version.
    async fn update(&self, request: &WriteBack, id: &str, first: &Held, report: &mut Report<'_>) -> Result<bool, EhrError> {
        let (kind, rung) = (request.resource_type.as_str(), self.rung);
        let mut began = Instant::now();
        if let Err(error) = self.put(kind, id, first.version.as_deref(), &request.body).await {
            let words = refusal(error)?;
            report.step(rung, kind, Tried::Update, began, false, &words);
            report.found(kind, FindingKind::NoUpdate, words);
            return Ok(false);
        }
        let Some(second) = self.ehr.read(kind, id).await? else {
            report.step(rung, kind, Tried::Update, began, false, "gone after an update");
            report.found(kind, FindingKind::NotFoundAgain, "by its id, after an update");
            return Ok(false);
        };
        let is_whole = edit::missing(&request.body, &second.resource).iter().all(|path| !contract::is_needed(path));
        let moved = if first.version == second.version { "the version did not move" } else { "a new version" };
        report.step(rung, kind, Tried::Update, began, is_whole, if is_whole { moved } else { "came back with less than before" });

        began = Instant::now();
        let ((had_tag, had_language), (has_tag, has_language)) = (fit::marks(&first.resource, TAG), fit::marks(&second.resource, TAG));
        // A tag that stays is met by $meta-delete where it matters, so it is no failure.
        report.step(rung, kind, Tried::Tag, began, true, left_out("a tag", had_tag, has_tag));
        if has_tag {
            report.found(kind, FindingKind::TagStays, "meta.tag");
        }
        report.step(rung, kind, Tried::Element, began, !has_language, left_out("an element", had_language, has_language));

        if first.version != second.version && first.version.is_some() {
            began = Instant::now();
            let (is_good, says) = match self.put(kind, id, first.version.as_deref(), &request.body).await {
                Err(EhrError::Conflict { status }) => (true, format!("answered {status}")),
                Err(error) => (false, format!("answered otherwise than 409 or 412: {}", refusal(error)?)),
                Ok(answer) => (false, format!("overwritten, answered {}: updates are not guarded here", answer.status)),
            };
            report.step(rung, kind, Tried::StaleVersion, began, is_good, says);
        }
        Ok(is_whole)
    }

    /// Takes the rung back as a failed screening would, and proves it.
    async fn take_back(&self, stands: &[Standing], report: &mut Report<'_>) -> Result<(), EhrError> {
        let rung = self.rung;
        let retractions = self.plan(SubjectState::ScreenFailed, None, stands);
        for Standing { request: active, id } in stands {
            let kind = active.resource_type.as_str();
            let Some(retraction) = retractions.iter().find(|request| request.key == active.key) else {
                // The study itself is nobody's, and stays until it is cleaned up.
                report.found(kind, FindingKind::Works, "");
                continue;
            };
            let began = Instant::now();
            let version = self.ehr.read(kind, id).await?.and_then(|held| held.version);
            if let Err(error) = self.put(kind, id, version.as_deref(), &retraction.body).await {
                let words = refusal(error)?;
                report.step(rung, kind, Tried::TakeBack, began, false, &words);
                report.found(kind, FindingKind::NoUpdate, words);
                continue;
            }
            let read = self.ehr.read(kind, id).await?;
            let lacks = read.as_ref().map(|read| edit::missing(&retraction.body, &read.resource)).unwrap_or_default();
            let is_taken_back = read.is_some() && lacks.iter().all(|path| !contract::is_needed(path));
            let status = fit::asked(&retraction.body).and_then(|asked| asked.status).unwrap_or_else(|| "no member".to_owned());
            let says = if is_taken_back { status.clone() } else { format!("asked for {status}, came back without {}", lacks.join(", ")) };
            report.step(rung, kind, Tried::TakeBack, began, is_taken_back, says);

            let began = Instant::now();
            let is_absent = self.is_absent(active, retraction).await?;
            report.step(
                rung,
                kind,
                Tried::Absent,
                began,
                is_absent,
                if is_absent { "no search finds it active" } else { "a search still finds it active" },
            );
            match is_taken_back && is_absent {
                true => report.found(kind, FindingKind::Works, ""),
                false => report.found(kind, FindingKind::NoUpdate, "taken back, and still there as it was"),
            }
        }
        Ok(())
    }

    /// Whether every search answers the retraction and nothing else.
    async fn is_absent(&self, active: &WriteBack, retraction: &WriteBack) -> Result<bool, EhrError> {
        for pause in SEARCH_PAUSES {
            tokio::time::sleep(pause).await;
            let found = self.ehr.find(&active.resource_type, &active.key).await?;
            let says_so = |held: &Held| edit::missing(&retraction.body, &held.resource).iter().all(|path| !contract::is_needed(path));
            if !found.is_empty() && found.iter().all(says_so) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Removes what was written, the last first: some servers keep what others refer to. Where nothing may be deleted, it
    /// stays as entered in error and labelled HTEST.
    async fn clean_up(&self, stands: &[Standing], report: &mut Report<'_>) -> Result<(), EhrError> {
        let never_true = self.plan(SubjectState::None, Some(Hidden::NoPatient), stands);
        for Standing { request, id } in stands.iter().rev() {
            let (kind, began) = (request.resource_type.as_str(), Instant::now());
            let mut why = "receiver.json allows no DELETE".to_owned();
            if self.contract.deletes {
                match self.ehr.send("DELETE", &format!("{kind}/{id}"), &[], "").await {
                    Ok(_) | Err(EhrError::Absent { status: 410 }) => {
                        let is_gone = self.ehr.read(kind, id).await?.is_none();
                        report.step(self.rung, kind, Tried::CleanUp, began, is_gone, if is_gone { "deleted" } else { "deleted, and still there" });
                        continue;
                    }
                    Err(error) => why = format!("DELETE: {}", refusal(error)?),
                }
            }
            let closed = never_true.iter().find(|planned| planned.key == request.key && !planned.body.is_empty()).map(|planned| planned.body.clone());
            let closed = closed.unwrap_or_else(|| match kind {
                "ResearchSubject" => edit::with_status(&request.body, "not-registered"),
                // R4 gives a ResearchStudy no entered-in-error.
                "ResearchStudy" => edit::with_status(&request.body, "withdrawn"),
                "Group" => request.body.clone(),
                _ => edit::with_status(&request.body, "entered-in-error"),
            });
            let version = self.ehr.read(kind, id).await?.and_then(|held| held.version);
            let put = self.put(kind, id, version.as_deref(), &closed).await;
            let status = fit::asked(&closed).and_then(|asked| asked.status).unwrap_or_else(|| "closed".to_owned());
            let (is_good, says) = match put {
                Ok(_) => (true, format!("stays, {status} and labelled HTEST: {why}")),
                Err(error) => (false, format!("stays as it is, labelled HTEST: {why}; {}", refusal(error)?)),
            };
            report.step(self.rung, kind, Tried::CleanUp, began, is_good, says);
        }
        Ok(())
    }

    async fn send_new(&self, request: &WriteBack, body: &str) -> Result<Answer, EhrError> {
        let mut headers = request.headers.clone();
        let answer = self.ehr.send(&request.method, &request.url, &headers, body).await;
        if request.method != "POST" || !matches!(answer, Err(EhrError::Unsupported { .. })) {
            return answer;
        }
        // No conditional create for this type: the key is new, so nothing can stand there.
        headers.retain(|(name, _)| name != "If-None-Exist");
        self.ehr.send(&request.method, &request.url, &headers, body).await
    }

    async fn put(&self, kind: &str, id: &str, version: Option<&str>, body: &str) -> Result<Answer, EhrError> {
        let mut headers = vec![("Content-Type".to_owned(), "application/fhir+json".to_owned())];
        headers.extend(version.map(|version| ("If-Match".to_owned(), format!("W/\"{version}\""))));
        self.ehr.send("PUT", &format!("{kind}/{id}"), &headers, &edit::with_id(body, id)).await
    }

    /// How many a search finds, and at which try.
    async fn found(&self, request: &WriteBack, id: &str) -> Result<(usize, usize), EhrError> {
        for (index, pause) in SEARCH_PAUSES.into_iter().enumerate() {
            tokio::time::sleep(pause).await;
            let found = self.ehr.find(&request.resource_type, &request.key).await?;
            if found.iter().any(|held| held.index.id.as_deref() == Some(id)) {
                return Ok((found.len(), index + 1));
            }
        }
        Ok((0, SEARCH_PAUSES.len()))
    }
}

/// Why one request was refused; an error that speaks of the whole server goes on as that.
fn refusal(error: EhrError) -> Result<String, EhrError> {
    match error {
        // A server's own fault on one request (500) says that this request does not work here.
        EhrError::Retry { status: Some(500 | 501), .. } => Ok(error.to_string()),
        EhrError::Retry { .. } | EhrError::Unknown | EhrError::Unauthorized { .. } => Err(error),
        EhrError::Conflict { .. } | EhrError::Refused { .. } | EhrError::Unsupported { .. } | EhrError::Absent { .. } => Ok(error.to_string()),
    }
}

fn left_out(what: &str, was_there: bool, is_there: bool) -> String {
    match (was_there, is_there) {
        (true, false) => format!("{what} that an update leaves out is gone"),
        (_, true) => format!("{what} that an update leaves out stays"),
        (false, false) => format!("{what} was not kept in the first place"),
    }
}

fn nth(number: usize) -> &'static str {
    match number {
        1 => "first",
        2 => "second",
        3 => "third",
        _ => "last",
    }
}
