//! How a receiver is written to: the rung that its contract, its server's declaration and what was found leave; the
//! contract itself; the shipped templates; and the probe on every EHR that is here.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use nephrogate::catalogue::Catalogue;
use nephrogate::catalogue::files::Files;
use nephrogate::ehr::Ehr;
use nephrogate::fhir::schema::Schema;
use nephrogate::pipeline::probe::write::{self, ProbeError, Probed, Tried};
use nephrogate::pipeline::{Pipeline, judge, probe, receive};
use nephrogate::rules::SubjectState;
use nephrogate::store::outbox::{self, ItemState};
use nephrogate::store::{Store, receivers};
use nephrogate::writeback::ladder::{self, Declared, DeclaredResource, Finding, FindingKind, Ladder, Rung, climb};
use nephrogate::writeback::receiver::Settings;
use nephrogate::writeback::{Beside, Purpose, Receiver, Takes, WriteBack, contract};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::counterparts::{start_hapi, start_sekmet};
use super::deliver::{self, SITE, creatinine, patient, start_stand_in};
use super::writeback::{assessment, plan, receiver, study};

const INTERACTIONS: [&str; 6] = ["create", "read", "search-type", "update", "delete", "patch"];

/// The types that rungs need.
fn kinds() -> Vec<&'static str> {
    Rung::ALL.iter().flat_map(|rung| rung.resource_types()).copied().collect()
}

fn declares(kind: &str, interactions: &[&str]) -> DeclaredResource {
    DeclaredResource {
        resource_type: kind.to_owned(),
        interactions: interactions.iter().map(|word| (*word).to_owned()).collect(),
        ..DeclaredResource::default()
    }
}

fn everything() -> Declared {
    Declared { fhir_version: "4.0.1".to_owned(), software: None, resources: kinds().into_iter().map(|kind| declares(kind, &INTERACTIONS)).collect() }
}

/// Why a rung is left out; empty where it is not.
fn why(ladder: &Ladder, rung: Rung) -> &str {
    ladder.left_out.iter().find(|left_out| left_out.rung == rung).map_or("", |left_out| &left_out.why)
}

fn finding(kind: &str, what: FindingKind, detail: &str, found_ms: i64) -> Finding {
    Finding { resource_type: kind.to_owned(), kind: what, detail: detail.to_owned(), found_ms }
}

#[test]
fn a_server_that_does_everything_is_written_to_on_the_first_rung_with_the_flag_beside() {
    let ladder = climb(&receiver(), Some(&everything()), &[]);
    assert_eq!((ladder.rung, ladder.with_flag, ladder.left_out.len()), (Some(Rung::ResearchSubject), true, 0));
}

#[test]
fn a_flag_that_could_be_created_and_not_changed_is_left_out_and_the_reason_says_so() {
    let mut declared = everything();
    declared.resources.retain(|resource| !resource.resource_type.starts_with("Research"));
    declared.resources[0].interactions.retain(|word| word != "update");
    let contract = Receiver { update_creates: false, ..receiver() };
    let ladder = climb(&contract, Some(&declared), &[]);
    assert_eq!(ladder.rung, Some(Rung::List));
    assert_eq!(why(&ladder, Rung::ResearchSubject), "ResearchStudy is not declared");
    assert_eq!(why(&ladder, Rung::Flag), "Flag: create, read and search are declared, update is not, so it could not be taken back");
}

#[test]
fn what_a_statement_does_not_say_at_all_is_not_refused() {
    for declared in [None, Some(Declared::default())] {
        assert_eq!(climb(&receiver(), declared.as_ref(), &[]).rung, Some(Rung::ResearchSubject), "{declared:?}");
    }
}

#[test]
fn a_server_of_another_release_is_sent_nothing() {
    let declared = Declared { fhir_version: "5.0.0".to_owned(), ..everything() };
    let ladder = climb(&receiver(), Some(&declared), &[]);
    assert_eq!(ladder.rung, None);
    assert_eq!(ladder.left_out.len(), Rung::ALL.len());
    assert_eq!(why(&ladder, Rung::Flag), "the server speaks FHIR 5.0.0, and what is written is R4");
}

#[test]
fn a_server_that_cannot_search_by_identifier_could_not_prove_what_arrived() {
    let mut declared = everything();
    for resource in &mut declared.resources {
        resource.search_parameters = vec!["_id".to_owned(), if resource.resource_type == "List" { "identifier" } else { "patient" }.to_owned()];
    }
    let ladder = climb(&receiver(), Some(&declared), &[]);
    assert_eq!(ladder.rung, Some(Rung::List));
    assert_eq!(why(&ladder, Rung::Flag), "Flag: search by identifier is not declared, so it could not be found again");
}

#[test]
fn what_a_receiver_was_found_to_do_lowers_the_rung_until_a_probe_shows_that_it_works() {
    let contract = receiver();
    let mut findings = vec![finding("ResearchSubject", FindingKind::Unsupported, "405", 1)];
    assert_eq!(climb(&contract, Some(&everything()), &findings).rung, Some(Rung::Flag));
    // A nice element that is dropped changes nothing; a needed one does.
    findings.push(finding("Flag", FindingKind::DropsElements, "Flag.author, Flag.extension", 2));
    assert_eq!(climb(&contract, Some(&everything()), &findings).rung, Some(Rung::Flag));
    findings.push(finding("Flag", FindingKind::DropsElements, "Flag.author, Flag.category", 3));
    let ladder = climb(&contract, Some(&everything()), &findings);
    assert_eq!(ladder.rung, Some(Rung::List));
    assert_eq!(why(&ladder, Rung::Flag), "Flag came back without what we need: Flag.category");
    findings.push(finding("Flag", FindingKind::Works, "", 4));
    findings.push(finding("ResearchSubject", FindingKind::Works, "", 4));
    assert_eq!(climb(&contract, Some(&everything()), &findings).rung, Some(Rung::ResearchSubject));
    findings.push(finding("Flag", FindingKind::NoUpdate, "405", 5));
    let ladder = climb(&contract, Some(&everything()), &findings);
    assert_eq!((ladder.rung, ladder.with_flag), (Some(Rung::ResearchSubject), false));
    assert!(why(&ladder, Rung::Flag).contains("could not be changed"), "{ladder:?}");
}

#[test]
fn what_the_server_does_not_do_beside_the_ladder_is_not_planned_either() {
    let beside = Beside { egfr_observation: true, provenance: true, adverse_event: Some(nephrogate::writeback::AdverseEventShape::Backport) };
    let contract = Receiver { beside, deletes: true, ..receiver() };
    let mut declared = everything();
    declared.resources.push(declares("AdverseEvent", &["read", "search-type", "update"]));
    declared.resources.push(declares("Provenance", &["read"]));
    for resource in &mut declared.resources {
        resource.interactions.retain(|word| word != "delete");
    }
    let contract = Receiver { update_creates: false, ..contract };
    let standing = ladder::standing(&contract, Some(&declared), &[]);
    assert_eq!((standing.beside.egfr_observation, standing.beside.provenance, standing.beside.adverse_event), (false, false, None));
    assert!(!standing.deletes, "nothing is deleted where DELETE is not declared");
    let refuses = [finding("AdverseEvent", FindingKind::RefusesModifiers, "", 1)];
    let standing = ladder::standing(&contract, None, &refuses);
    assert_eq!(standing.beside.adverse_event, Some(nephrogate::writeback::AdverseEventShape::Plain));
    assert!(standing.takes.no_modifier_extensions);
}

/// What of a receiver decides its rung; the whole one holds a key and is not printed.
#[derive(Clone, Debug)]
struct Contract {
    rungs: Vec<Rung>,
    update_creates: bool,
    deletes: bool,
    tag_test: bool,
    takes: Takes,
}

impl Contract {
    fn receiver(&self) -> Receiver {
        let Contract { rungs, update_creates, deletes, tag_test, takes } = self.clone();
        Receiver { rungs, update_creates, deletes, tag_test, takes, ..receiver() }
    }
}

fn some_contract() -> impl Strategy<Value = Contract> {
    let rungs =
        Just(Rung::ALL.to_vec()).prop_shuffle().prop_flat_map(|rungs| prop::sample::subsequence(rungs.clone(), 1..=rungs.len())).prop_shuffle();
    let statuses = prop::collection::btree_map(
        prop::sample::select(vec!["Flag", "ResearchSubject", "List"]),
        prop::sample::subsequence(vec!["active", "inactive", "entered-in-error", "retired", "withdrawn"], 0..=5),
        0..2,
    );
    let fields = prop::collection::btree_map(
        prop::sample::select(kinds()),
        prop::sample::subsequence(vec!["identifier", "status", "category", "code", "subject", "content", "meta", "study", "individual"], 0..=9),
        0..2,
    );
    let words = |map: BTreeMap<&str, Vec<&str>>| -> BTreeMap<String, Vec<String>> {
        map.into_iter().map(|(kind, words)| (kind.to_owned(), words.into_iter().map(str::to_owned).collect())).collect()
    };
    (rungs, any::<bool>(), any::<bool>(), any::<bool>(), statuses, fields).prop_map(
        move |(rungs, update_creates, deletes, tag_test, statuses, fields)| {
            let takes = Takes { statuses: words(statuses), fields: words(fields), ..Takes::default() };
            Contract { rungs, update_creates, deletes, tag_test, takes }
        },
    )
}

fn some_declared() -> impl Strategy<Value = Declared> {
    let resource = |kind: &'static str| {
        let interactions = prop_oneof![3 => Just(INTERACTIONS.to_vec()), 2 => prop::sample::subsequence(INTERACTIONS.to_vec(), 0..=6)];
        let parameters = prop_oneof![2 => Just(vec![]), 2 => Just(vec!["identifier", "_id"]), 1 => Just(vec!["_id"])];
        (interactions, prop::option::of(any::<bool>()), parameters, prop::bool::weighted(0.85)).prop_map(
            move |(interactions, update_creates, parameters, is_there)| {
                let parameters = parameters.into_iter().map(str::to_owned).collect();
                is_there.then(|| DeclaredResource { update_creates, search_parameters: parameters, ..declares(kind, &interactions) })
            },
        )
    };
    let resources: Vec<_> = kinds().into_iter().map(resource).collect();
    let version = prop_oneof![8 => Just("4.0.1"), 1 => Just("4.3.0"), 1 => Just("5.0.0"), 1 => Just("")];
    (version, resources).prop_map(|(version, resources)| Declared {
        fhir_version: version.to_owned(),
        software: None,
        resources: resources.into_iter().flatten().collect(),
    })
}

fn some_findings() -> impl Strategy<Value = Vec<Finding>> {
    let detail = prop::sample::select(vec!["", "Flag.author", "Flag.code", "ResearchSubject.study, ResearchSubject.consent", "List.entry"]);
    let one = (prop::sample::select(kinds()), prop::sample::select(FindingKind::ALL.to_vec()), detail, 0_i64..20)
        .prop_map(|(kind, what, detail, at)| finding(kind, what, detail, at));
    prop::collection::vec(one, 0..6)
}

/// Place of a rung on the site's own list; behind all of them where there is none.
fn place(contract: &Receiver, ladder: &Ladder) -> usize {
    ladder.rung.and_then(|rung| contract.rungs.iter().position(|one| *one == rung)).unwrap_or(contract.rungs.len())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn a_chosen_rung_is_allowed_and_declared_and_can_be_taken_back_and_every_better_one_has_its_reason(
        contract in some_contract(), declared in some_declared(), findings in some_findings(),
    ) {
        let contract = contract.receiver();
        let ladder = climb(&contract, Some(&declared), &findings);
        if let Some(rung) = ladder.rung {
            prop_assert!(contract.rungs.contains(&rung));
            for kind in rung.resource_types() {
                for needed in ["read", "search-type", "update"] {
                    prop_assert_ne!(declared.declares(kind, needed), Some(false), "{} {}", kind, needed);
                }
                let creates = if contract.update_creates { "update" } else { "create" };
                prop_assert_ne!(declared.declares(kind, creates), Some(false));
                if let Some(statuses) = contract.takes.statuses.get(*kind) {
                    let closing = ["inactive", "retired", "superseded", "entered-in-error", "withdrawn"];
                    prop_assert!(statuses.iter().any(|status| closing.contains(&status.as_str())), "{} {:?}", kind, statuses);
                }
                if let Some(fields) = contract.takes.fields.get(*kind) {
                    prop_assert!(contract::needed_elements(kind).iter().all(|element| fields.iter().any(|field| field == element)));
                }
            }
        }
        for better in contract.rungs.iter().take(place(&contract, &ladder)) {
            prop_assert!(!why(&ladder, *better).is_empty(), "{better:?} of {ladder:?}");
        }
        prop_assert!(!ladder.with_flag || (ladder.rung == Some(Rung::ResearchSubject) && contract.rungs.contains(&Rung::Flag)));
    }

    #[test]
    fn a_server_that_can_do_less_is_never_written_to_on_a_better_rung(
        contract in some_contract(), declared in some_declared(), findings in some_findings(),
        kind in prop::sample::select(kinds()), interaction in prop::sample::select(INTERACTIONS.to_vec()),
    ) {
        let contract = contract.receiver();
        let before = climb(&contract, Some(&declared), &findings);
        let mut less = declared;
        for resource in less.resources.iter_mut().filter(|resource| resource.resource_type == kind) {
            resource.interactions.retain(|word| word != interaction);
        }
        prop_assert!(place(&contract, &before) <= place(&contract, &climb(&contract, Some(&less), &findings)));
    }

    #[test]
    fn what_was_found_never_raises_the_rung(contract in some_contract(), declared in some_declared(), findings in some_findings()) {
        let contract = contract.receiver();
        let unknown = climb(&contract, Some(&declared), &[]);
        let found = climb(&contract, Some(&declared), &findings);
        prop_assert!(place(&contract, &unknown) <= place(&contract, &found));
        prop_assert!(unknown.with_flag || !found.with_flag || unknown.rung != found.rung);
    }
}

// --- the contract

fn takes(change: impl FnOnce(&mut Takes)) -> Receiver {
    let mut takes = Takes::default();
    change(&mut takes);
    Receiver { takes, ..receiver() }
}

/// The Flag that is planned for a candidate.
fn flag() -> WriteBack {
    plan(&receiver(), &study(), "p1", &assessment(SubjectState::Candidate), &[]).into_iter().find(|request| request.resource_type == "Flag").unwrap()
}

#[test]
fn what_does_not_fit_the_contract_is_named_by_path_and_never_by_value() {
    let flag = flag();
    assert_eq!(contract::check(&receiver(), &flag), Ok(()));
    type Limit = (fn(&mut Takes), &'static str);
    let limits: [Limit; 5] = [
        (
            |takes| {
                drop(
                    takes.fields.insert("Flag".into(), vec!["status".into(), "code".into(), "category".into(), "identifier".into(), "author".into()]),
                )
            },
            "Flag.subject is not among the fields it takes",
        ),
        (|takes| drop(takes.statuses.insert("Flag".into(), vec!["inactive".into()])), "Flag.status active is not among the statuses it takes"),
        (
            |takes| takes.code_systems = vec!["http://loinc.org".into()],
            "Flag.category.coding has the code system http://terminology.hl7.org/CodeSystem/flag-category",
        ),
        (|takes| takes.bytes_max = Some(100), "bytes, and it takes 100"),
        (|takes| drop(takes.statuses.insert("Observation".into(), Vec::new())), ""),
    ];
    for (limit, said) in limits {
        let answer = contract::check(&takes(limit), &flag);
        match said {
            "" => assert_eq!(answer, Ok(()), "another type's limit is none of this one"),
            said => assert!(answer.as_ref().is_err_and(|why| why.contains(said) && !why.contains("p1")), "{said}: {answer:?}"),
        }
    }
}

#[test]
fn extensions_that_are_not_taken_are_left_out_with_what_is_empty_without_them_and_modifiers_never_are() {
    let body = json!({"resourceType": "Flag", "status": "active", "identifier": [{"value": "k"}], "code": {"text": "x"}, "category": [{"text": "y"}],
        "subject": {"reference": "Patient/p1", "_display": {"extension": [{"url": "http://x/why", "valueString": "z"}]}},
        "extension": [{"url": "https://nephrogate.example/fhir/StructureDefinition/verdict-evidence", "extension": [{"url": "verdict", "valueCode": "met"}]}]});
    let contract = takes(|takes| takes.no_extensions = true);
    let (fitted, dropped) = contract::fitted(&contract, &body.to_string());
    assert_eq!(dropped, ["Flag.extension:verdict-evidence", "Flag.subject.display.extension:why"]);
    let fitted_body: Value = serde_json::from_str(&fitted).unwrap();
    assert_eq!(fitted_body["subject"], json!({"reference": "Patient/p1"}));
    assert_eq!(contract::check(&contract, &WriteBack { body: fitted, ..flag() }), Ok(()));
    assert!(contract::check(&contract, &WriteBack { body: body.to_string(), ..flag() }).is_err());
    assert_eq!(contract::fitted(&receiver(), &body.to_string()), (body.to_string(), Vec::new()), "whoever takes all gets all");

    let mut modified = body.clone();
    modified["modifierExtension"] = json!([{"url": "http://x/status", "valueCode": "unknown"}]);
    let (fitted, _) = contract::fitted(&contract, &modified.to_string());
    let why = contract::check(&contract, &WriteBack { body: fitted, ..flag() }).unwrap_err();
    assert!(why.contains("Flag.modifierExtension:status: it takes no modifier extensions"), "{why}");
}

#[test]
fn nice_elements_are_left_out_and_needed_ones_make_the_rung_impossible() {
    let mut contract =
        takes(|takes| drop(takes.fields.insert("Flag".into(), ["identifier", "status", "category", "code", "subject"].map(String::from).to_vec())));
    let (fitted, dropped) = contract::fitted(&contract, &flag().body);
    assert_eq!(dropped, ["Flag.author", "Flag.extension"]);
    assert_eq!(contract::check(&contract, &WriteBack { body: fitted, ..flag() }), Ok(()));
    let planned = plan(&contract, &study(), "p1", &assessment(SubjectState::Candidate), &[]);
    let left_out = |request: &WriteBack| (request.resource_type.clone(), request.left_out.clone());
    assert!(planned.iter().map(left_out).any(|(kind, paths)| kind == "Flag" && paths == dropped), "the outbox says what stayed at home");
    assert!(planned.iter().map(left_out).all(|(kind, paths)| kind == "Flag" || paths.is_empty()));
    contract.rungs = vec![Rung::Flag, Rung::DocumentReference];
    assert_eq!(climb(&contract, None, &[]).rung, Some(Rung::Flag));
    contract.takes.fields.get_mut("Flag").unwrap().retain(|field| field != "identifier");
    let ladder = climb(&contract, None, &[]);
    assert_eq!(ladder.rung, Some(Rung::DocumentReference));
    assert_eq!(why(&ladder, Rung::Flag), "Flag: receiver.json says that it does not keep identifier, which we need");
}

#[test]
fn whatever_is_planned_keeps_a_contract_without_extensions() {
    for rung in Rung::ALL {
        let contract = takes(|takes| takes.no_extensions = true);
        let contract = Receiver { ladder: Ladder { rung: Some(rung), ..Ladder::default() }, ..contract };
        for request in plan(&contract, &study(), "p1", &assessment(SubjectState::Candidate), &[]) {
            assert_eq!(contract::check(&contract, &request), Ok(()), "{}", request.body);
        }
    }
}

#[test]
fn a_retraction_by_delete_has_nothing_to_check() {
    let contract = takes(|takes| takes.bytes_max = Some(1));
    assert_eq!(contract::check(&contract, &WriteBack { body: String::new(), purpose: Purpose::Retract, ..flag() }), Ok(()));
}

// --- the shipped templates

/// Name of a template and the rung that docs/receivers.md names for it.
const TEMPLATES: [(&str, Rung, bool); 4] = [
    ("epic-like", Rung::DocumentReference, false),
    ("oracle-health-like", Rung::DocumentReference, false),
    ("hapi-like", Rung::ResearchSubject, true),
    ("blaze-like", Rung::ResearchSubject, true),
];

fn template(name: &str) -> Receiver {
    let files = Files::compiled_in();
    let text = files.text(&format!("profiles/receivers/{name}.json")).unwrap();
    Settings::read(text).unwrap().receiver(SITE, "http://127.0.0.1:1/fhir", [7; 32])
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A server that has nothing but a CapabilityStatement.
fn serve_statement(statement: String) -> (String, actix_web::dev::ServerHandle) {
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        actix_web::rt::System::new().block_on(async move {
            let server = actix_web::HttpServer::new(move || {
                let statement = statement.clone();
                let metadata = move || {
                    let statement = statement.clone();
                    async move { actix_web::HttpResponse::Ok().content_type("application/fhir+json").body(statement) }
                };
                actix_web::App::new().route("/fhir/metadata", actix_web::web::get().to(metadata))
            });
            let server = server.workers(1).disable_signals().bind(("127.0.0.1", 0)).unwrap();
            let address = server.addrs()[0];
            let server = server.run();
            send.send((format!("http://{address}/fhir"), server.handle())).unwrap();
            server.await.unwrap();
        });
    });
    receive.recv().unwrap()
}

#[test]
fn each_shipped_template_keeps_its_schema_and_leads_to_the_rung_that_the_documentation_names() {
    let files = Files::compiled_in();
    let schema = Schema::compile(files.text("profiles/receiver.schema.json").unwrap()).unwrap();
    let shipped: Vec<&str> = files.below("profiles/receivers").collect();
    assert_eq!(shipped.len(), TEMPLATES.len(), "{shipped:?}");
    let docs = std::fs::read_to_string(root().join("docs/receivers.md")).unwrap();
    for (name, rung, with_flag) in TEMPLATES {
        let text = files.text(&format!("profiles/receivers/{name}.json")).unwrap();
        assert_eq!(schema.check(text), [], "{name}");
        let contract = template(name);
        assert_eq!(contract.mode, nephrogate::writeback::Mode::Shadow, "a hospital starts in shadow");

        let statement = std::fs::read_to_string(root().join(format!("tests/receivers/{name}.capabilities.json"))).unwrap();
        let (base_url, handle) = serve_statement(statement);
        let gateway = Gateway::new(&base_url, |_| contract.clone());
        let ehr = Ehr::open(&base_url, None).unwrap();
        let asked = gateway.runtime.block_on(probe::ask(&gateway.pipeline, &ehr, SITE, 1)).unwrap();
        drop(handle.stop(false));
        assert_eq!(asked.trouble, None);
        let ladder = asked.climbed.ladder;
        assert_eq!((ladder.rung, ladder.with_flag), (Some(rung), with_flag), "{name}: {ladder:?}");
        assert!(ladder.left_out.iter().all(|left_out| !left_out.why.is_empty()));
        let row = docs.lines().find(|line| line.contains(&format!("`{name}`")) && line.starts_with('|'));
        assert!(row.is_some_and(|row| row.contains(rung.word())), "docs/receivers.md names another rung for {name}: {row:?}");
    }
}

#[test]
fn a_template_that_is_copied_into_a_site_is_a_receiver() {
    for (name, _, _) in TEMPLATES {
        let folder = tempfile::tempdir().unwrap();
        let site = folder.path().join("mappings").join(SITE);
        std::fs::create_dir_all(&site).unwrap();
        for file in ["site.json", "mapping.json"] {
            std::fs::copy(root().join("mappings").join(SITE).join(file), site.join(file)).unwrap();
        }
        std::fs::copy(root().join(format!("profiles/receivers/{name}.json")), site.join("receiver.json")).unwrap();
        let catalogue = Catalogue::load(Some(folder.path())).unwrap_or_else(|faults| panic!("{faults:?}"));
        assert!(catalogue.receivers[SITE].contains("Template for"), "{name}");
    }
}

#[test]
fn the_oracle_like_template_never_sends_an_observation_that_would_come_back_with_less() {
    let mut contract = template("oracle-health-like");
    contract.beside.egfr_observation = true;
    let standing = ladder::standing(&contract, None, &[]);
    assert!(!standing.beside.egfr_observation);
    let left_out = ladder::beside_left_out(&contract, None, &[]);
    assert_eq!(left_out.len(), 1);
    assert_eq!(left_out[0].1, "Observation: receiver.json says that it does not keep identifier, which we need");
}

// --- kept, and planned anew

struct Gateway {
    pipeline: Pipeline,
    runtime: tokio::runtime::Runtime,
    folder: tempfile::TempDir,
}

impl Gateway {
    /// A gateway with one study and one receiver, made from the demo's.
    fn new(base_url: &str, change: impl FnOnce(Receiver) -> Receiver) -> Gateway {
        let folder = tempfile::tempdir().unwrap();
        let mut catalogue = Catalogue::load(None).unwrap_or_else(|faults| panic!("{faults:?}"));
        for studies in catalogue.studies_of_site.values_mut() {
            studies.retain(|study| study.id == deliver::STUDY);
        }
        let contract = Settings::read(&catalogue.receivers[SITE]).unwrap().receiver(SITE, base_url, [9; 32]);
        let pipeline = Pipeline {
            store: Store::open_sqlite(&folder.path().join(nephrogate::store::FILE_NAME)).unwrap(),
            catalogue: Arc::new(catalogue),
            receivers: Arc::new(BTreeMap::from([(SITE.to_owned(), change(contract))])),
        };
        Gateway { pipeline, runtime: tokio::runtime::Runtime::new().unwrap(), folder }
    }

    fn now_ms(&self) -> i64 {
        jiff::Timestamp::now().as_millisecond()
    }

    fn push(&self, resource: &Value) {
        let site = &self.pipeline.catalogue.sites[SITE];
        let prepared = receive::prepare(&self.pipeline.catalogue, site, resource.to_string().as_bytes());
        receive::receive(&self.pipeline, SITE, "push", self.now_ms(), &[prepared]).unwrap();
    }

    /// `Type purpose state` of what is planned, sorted.
    fn planned(&self) -> Vec<String> {
        let items = self.pipeline.store.read_blocking(|tx| outbox::list(tx, Some(SITE), None)).unwrap();
        let items = items.iter().filter(|item| item.state != ItemState::Superseded);
        let mut planned: Vec<String> = items
            .map(|item| format!("{} {}", item.request.resource_type, if item.request.purpose == Purpose::Annotate { "annotate" } else { "retract" }))
            .collect();
        planned.sort();
        planned
    }

    fn probe(&self, base_url: &str, patient: &str) -> Result<Probed, ProbeError> {
        let ehr = Ehr::open(base_url, None).unwrap();
        self.runtime.block_on(write::probe(&self.pipeline, &ehr, SITE, patient, self.now_ms(), |_| {}))
    }
}

#[test]
fn a_ladder_that_changes_plans_every_subject_of_the_site_anew_and_one_that_does_not_leaves_them_alone() {
    let gateway = Gateway::new("http://127.0.0.1:1/fhir", |receiver| Receiver { beside: Beside::default(), ..receiver });
    for resource in [patient("p0"), creatinine("old", "p0", 1, "final", 130, "2.1"), creatinine("new", "p0", 1, "final", 10, "2.0")] {
        gateway.push(&resource);
    }
    assert_eq!(gateway.planned(), ["Flag annotate", "ResearchStudy annotate", "ResearchSubject annotate"]);
    let contract = gateway.pipeline.receivers[SITE].clone();
    let store = &gateway.pipeline.store;
    let tell = |declared: &Declared, now_ms: i64| {
        store.write_blocking(|tx| nephrogate::pipeline::receivers::declared(tx, &contract, declared, now_ms)).unwrap()
    };
    let same = tell(&everything(), 1_000);
    assert_eq!((same.is_changed, same.marked), (false, 0));

    let mut less = everything();
    less.resources.retain(|resource| resource.resource_type != "ResearchSubject");
    let lower = tell(&less, 2_000);
    assert_eq!((lower.ladder.rung, lower.is_changed, lower.marked), (Some(Rung::Flag), true, 1));
    assert_eq!(judge::waiting(&gateway.pipeline, gateway.now_ms(), 10).unwrap(), 1);
    // Never sent, so nothing has to be taken back at the EHR.
    let of_subject: Vec<String> = gateway.planned().into_iter().filter(|item| !item.starts_with("ResearchStudy")).collect();
    assert_eq!(of_subject, ["Flag annotate"]);
    assert!(!tell(&less, 3_000).is_changed);

    let kept = store.read_blocking(|tx| receivers::kept(tx, SITE)).unwrap();
    assert_eq!((kept.declared, kept.declared_ms), (Some(less), Some(3_000)));
    assert_eq!((kept.ladder.unwrap().rung, kept.ladder_ms), (Some(Rung::Flag), Some(2_000)));

    let found = gateway.runtime.block_on(probe::found(&gateway.pipeline, SITE, finding("Flag", FindingKind::NoUpdate, "405", 4_000))).unwrap();
    assert_eq!((found.ladder.rung, found.marked), (Some(Rung::List), 1));
    let again = gateway.runtime.block_on(probe::found(&gateway.pipeline, SITE, finding("Flag", FindingKind::NoUpdate, "405", 5_000))).unwrap();
    assert!(!again.is_changed);
    let findings = store.read_blocking(|tx| receivers::findings(tx, SITE)).unwrap();
    assert_eq!(findings, [finding("Flag", FindingKind::NoUpdate, "405", 5_000)], "the same finding is kept once, with its newest date");
}

#[test]
fn a_server_that_does_not_answer_keeps_what_it_declared_before() {
    let gateway = Gateway::new("http://127.0.0.1:1/fhir", |receiver| receiver);
    let contract = gateway.pipeline.receivers[SITE].clone();
    let mut less = everything();
    less.resources.retain(|resource| resource.resource_type == "Flag");
    gateway.pipeline.store.write_blocking(|tx| nephrogate::pipeline::receivers::declared(tx, &contract, &less, 1)).unwrap();
    let ehr = Ehr::open("http://127.0.0.1:1/fhir", None).unwrap();
    let asked = gateway.runtime.block_on(probe::ask(&gateway.pipeline, &ehr, SITE, 2)).unwrap();
    assert!(asked.trouble.is_some());
    assert_eq!(asked.climbed.ladder.rung, Some(Rung::Flag));
}

// --- the probe

/// The hospital has this Patient.
fn put(gateway: &Gateway, base_url: &str, resource: &Value) {
    let ehr = Ehr::open(base_url, None).unwrap();
    let headers = [("Content-Type".to_owned(), "application/fhir+json".to_owned())];
    let url = format!("{}/{}", resource["resourceType"].as_str().unwrap(), resource["id"].as_str().unwrap());
    gateway.runtime.block_on(ehr.send("PUT", &url, &headers, &resource.to_string())).unwrap();
}

/// All of a type that carry an identifier of ours.
fn ours(gateway: &Gateway, base_url: &str, kind: &str) -> Vec<Value> {
    let ehr = Ehr::open(base_url, None).unwrap();
    let found = gateway.runtime.block_on(ehr.search(kind, &[])).unwrap_or_default();
    let found = found.iter().filter(|held| held.index.identifiers.iter().any(|(system, _)| system == nephrogate::fhir::WRITE_BACK_SYSTEM));
    found.map(|held| serde_json::from_str(&held.resource).unwrap()).collect()
}

/// Probes an EHR and shows what came of it; answers the rung it got.
fn probed(name: &str, base_url: &str, update_creates: bool) -> Probed {
    let gateway = Gateway::new(base_url, |receiver| Receiver { update_creates, ..receiver });
    put(&gateway, base_url, &patient("probe-patient"));
    let began = std::time::Instant::now();
    let probed = gateway.probe(base_url, "probe-patient").unwrap();
    let (rung, took) = (probed.climbed.ladder.rung.map_or("nothing", Rung::word), began.elapsed().as_millis());
    println!(
        "{name}, {}: rung {rung}, with flag {}, {} steps in {took} ms",
        if update_creates { "own ids" } else { "its ids" },
        probed.climbed.ladder.with_flag,
        probed.steps.len()
    );
    for step in &probed.steps {
        println!(
            "  {} {:18} {:17} {:13} {:>5} ms  {}",
            if step.is_good { "ok" } else { "NO" },
            step.rung.word(),
            step.resource_type,
            step.tried.word(),
            step.took_ms,
            step.says
        );
    }
    for left_out in &probed.climbed.ladder.left_out {
        println!("  left out {}: {}", left_out.rung, left_out.why);
    }
    assert_eq!(probed.trouble, None);
    // It cleans up after itself: nothing of ours that it could delete is left.
    for kind in kinds() {
        assert_eq!(ours(&gateway, base_url, kind), Vec::<Value>::new(), "{name} {kind}");
    }
    probed
}

fn tried_well(probed: &Probed, rung: Rung, tried: Tried) -> bool {
    let steps: Vec<_> = probed.steps.iter().filter(|step| step.rung == rung && step.tried == tried).collect();
    !steps.is_empty() && steps.iter().all(|step| step.is_good)
}

#[test]
fn a_probe_proves_each_rung_on_the_stand_in_and_cleans_up_after_itself() {
    let server = start_stand_in();
    for update_creates in [true, false] {
        let probed = probed("the stand-in", &server.base_url, update_creates);
        assert_eq!((probed.climbed.ladder.rung, probed.climbed.ladder.with_flag), (Some(Rung::ResearchSubject), true));
        for rung in [Rung::ResearchSubject, Rung::Flag] {
            for tried in [
                Tried::Create,
                Tried::Read,
                Tried::Search,
                Tried::Compare,
                Tried::Update,
                Tried::Element,
                Tried::StaleVersion,
                Tried::TakeBack,
                Tried::Absent,
                Tried::CleanUp,
            ] {
                assert!(tried_well(&probed, rung, tried), "{rung:?} {tried:?}");
            }
        }
    }
}

#[test]
fn sekmet_declares_no_research_subject_and_gets_a_flag() {
    let Some(server) = start_sekmet() else { return };
    for update_creates in [true, false] {
        let probed = probed("SEKMET", &server.base_url, update_creates);
        let ladder = &probed.climbed.ladder;
        assert_eq!(ladder.rung, Some(Rung::Flag), "{ladder:?}");
        assert_eq!(why(ladder, Rung::ResearchSubject), "ResearchStudy is not declared");
        for rung in [Rung::Flag, Rung::Group, Rung::DocumentReference, Rung::Communication] {
            assert!(tried_well(&probed, rung, Tried::Absent) && tried_well(&probed, rung, Tried::CleanUp), "{rung}");
        }
    }
}

#[test]
fn hapi_gets_research_subjects_and_is_found_to_keep_a_tag_that_an_update_leaves_out() {
    for is_strict in [false, true] {
        let Some(server) = start_hapi(is_strict) else { return };
        let name = if is_strict { "HAPI FHIR, strict" } else { "HAPI FHIR" };
        for update_creates in [true, false] {
            let probed = probed(name, &server.base_url, update_creates);
            let ladder = &probed.climbed.ladder;
            assert_eq!((ladder.rung, ladder.with_flag), (Some(Rung::ResearchSubject), true), "{name}: {ladder:?}");
            for rung in Rung::ALL {
                assert!(tried_well(&probed, rung, Tried::Absent) && tried_well(&probed, rung, Tried::CleanUp), "{name} {rung}");
            }
            assert!(probed.findings.iter().any(|finding| finding.kind == FindingKind::TagStays), "{name}: {:?}", probed.findings);
        }
    }
}

#[test]
fn a_probe_refuses_whoever_is_not_a_test_patient_and_writes_nothing() {
    let server = start_stand_in();
    let gateway = Gateway::new(&server.base_url, |receiver| receiver);
    let mut real = patient("real");
    real["meta"].as_object_mut().unwrap().remove("security");
    let mut dead = patient("dead");
    dead["deceasedBoolean"] = json!(true);
    put(&gateway, &server.base_url, &real);
    put(&gateway, &server.base_url, &dead);
    assert!(matches!(gateway.probe(&server.base_url, "real"), Err(ProbeError::NotATestPatient)));
    assert!(matches!(gateway.probe(&server.base_url, "dead"), Err(ProbeError::NotStanding)));
    assert!(matches!(gateway.probe(&server.base_url, "nobody"), Err(ProbeError::NoPatient)));
    for kind in kinds() {
        assert!(ours(&gateway, &server.base_url, kind).is_empty(), "{kind}");
    }
}

#[test]
fn where_nothing_may_be_deleted_a_probe_leaves_what_was_entered_in_error_and_labelled() {
    let server = start_stand_in();
    let gateway = Gateway::new(&server.base_url, |receiver| Receiver { deletes: false, rungs: vec![Rung::ResearchSubject, Rung::Flag], ..receiver });
    put(&gateway, &server.base_url, &patient("probe-patient"));
    let probed = gateway.probe(&server.base_url, "probe-patient").unwrap();
    assert!(probed.steps.iter().all(|step| step.is_good), "{:?}", probed.steps);
    for (kind, status) in [("Flag", "entered-in-error"), ("ResearchSubject", "not-registered"), ("ResearchStudy", "withdrawn")] {
        let left = ours(&gateway, &server.base_url, kind);
        assert_eq!(left.len(), 1, "{kind}");
        assert_eq!(left[0]["status"], status, "{}", left[0]);
        assert_eq!(left[0]["meta"]["security"][0]["code"], "HTEST");
    }
}

// --- the command

#[test]
fn the_command_says_how_an_ehr_is_written_to_and_why_not_better() {
    let server = start_stand_in();
    let gateway = Gateway::new(&server.base_url, |receiver| receiver);
    put(&gateway, &server.base_url, &patient("probe-patient"));
    let folder = gateway.folder.path().to_owned();
    std::fs::write(folder.join("identifier-key"), [3; 32]).unwrap();
    for file in ["ehr", "ehr-address"] {
        std::fs::write(folder.join(file), &server.base_url).unwrap();
    }
    let run = |more: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_nephrogate")).args(["receiver", "--dir"]).arg(&folder).args(more).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), said, String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said, errors) = run(&["--site", SITE]);
    assert_eq!(code, Some(0), "{said}{errors}");
    for line in [
        "contract    live, from candidate",
        "declares    FHIR 4.0.1, nephrogate stand-in EHR",
        "rung        research-subject, with the Flag beside it",
    ] {
        assert!(said.contains(line), "{line} in {said}");
    }
    let (code, said, errors) = run(&["--site", SITE, "--probe", "probe-patient", "--format", "json"]);
    let view: Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}{errors}"));
    assert_eq!(view["rung"], "research-subject", "{view}");
    assert!(10 < view["probe"].as_array().unwrap().len(), "{view}");
    assert_eq!(code, Some(i32::from(view["probe"].as_array().unwrap().iter().any(|step| step["is_good"] == false))));
    let (code, _, errors) = run(&["--site", SITE, "--probe", "nobody"]);
    assert_eq!((code, errors.contains("the EHR has no such Patient")), (Some(2), true), "{errors}");
    let (code, _, errors) = run(&["--site", "elsewhere"]);
    assert_eq!((code, errors.contains("no receiver has this id")), (Some(2), true), "{errors}");
    drop(server);
    let (code, said, _) = run(&["--site", SITE]);
    assert_eq!(code, Some(0), "what was declared before is kept");
    assert!(said.contains("a person    the EHR was not asked"), "{said}");
}
