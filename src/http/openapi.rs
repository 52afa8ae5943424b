//! /openapi.json: OpenAPI 3.1, written from the table of routes, so that it cannot say what is not mounted.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use actix_web::http::Method;
use actix_web::{HttpResponse, web};
use serde::Serialize;
use serde_json::value::RawValue;

use super::Route;
use super::access::{Tokens, Who};
use super::error::to_json;

/// What a route says about itself.
pub struct Says {
    pub summary: &'static str,
    parameters: &'static [Parameter],
    body: Option<(&'static [&'static str], &'static str)>,
    answers: Vec<Answer>,
}

/// One possible answer.
#[derive(Clone, Copy)]
pub struct Answer {
    pub status: u16,
    media: &'static str,
    /// Name in schemas.json; empty for text.
    schema: &'static str,
    description: &'static str,
}

/// One query parameter or header; those of the path follow from the path.
pub struct Parameter {
    name: &'static str,
    place: &'static str,
    /// JSON Schema text.
    schema: &'static str,
    description: &'static str,
}

impl Answer {
    pub const fn json(status: u16, media: &'static str, schema: &'static str, description: &'static str) -> Answer {
        Answer { status, media, schema, description }
    }
}

impl Parameter {
    pub const fn query(name: &'static str, schema: &'static str, description: &'static str) -> Parameter {
        Parameter { name, place: "query", schema, description }
    }

    pub const fn header(name: &'static str, schema: &'static str, description: &'static str) -> Parameter {
        Parameter { name, place: "header", schema, description }
    }
}

impl Says {
    pub fn new(summary: &'static str, answers: &[Answer]) -> Says {
        Says { summary, parameters: &[], body: None, answers: answers.to_vec() }
    }

    pub fn asks(mut self, parameters: &'static [Parameter]) -> Says {
        self.parameters = parameters;
        self
    }

    /// Takes a body of one of these content types.
    pub fn takes(mut self, media: &'static [&'static str], schema: &'static str) -> Says {
        self.body = Some((media, schema));
        self
    }
}

pub fn routes() -> Vec<Route> {
    let says = Says::new("This description", &[Answer::json(200, "application/json", "Description", "OpenAPI 3.1")]);
    vec![Route::described(Method::GET, "/openapi.json", Who::Anyone, says, || web::get().to(openapi))]
}

async fn openapi(tokens: web::Data<Tokens>) -> HttpResponse {
    static GUARDED: LazyLock<Vec<u8>> = LazyLock::new(|| to_json(&document(&super::routes(), true)));
    static OPEN: LazyLock<Vec<u8>> = LazyLock::new(|| to_json(&document(&super::routes(), false)));
    let text = if tokens.tokens.is_empty() { &OPEN } else { &GUARDED };
    HttpResponse::Ok().content_type("application/json").body(text.as_slice())
}

/// Shapes that the routes name.
const SCHEMAS: &str = include_str!("schemas.json");

#[derive(Serialize)]
struct Document {
    openapi: &'static str,
    info: Info,
    paths: BTreeMap<&'static str, BTreeMap<String, Operation>>,
    components: Components,
}

#[derive(Serialize)]
struct Info {
    title: &'static str,
    version: &'static str,
    description: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Components {
    schemas: Box<RawValue>,
    security_schemes: SecuritySchemes,
}

#[derive(Serialize)]
struct SecuritySchemes {
    token: SecurityScheme,
    #[serde(rename = "cds-client")]
    cds_client: SecurityScheme,
    source: SecurityScheme,
}

#[derive(Serialize)]
struct SecurityScheme {
    #[serde(rename = "type")]
    kind: &'static str,
    scheme: &'static str,
    description: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Operation {
    operation_id: String,
    summary: &'static str,
    tags: [&'static str; 1],
    parameters: Vec<ParameterShown>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_body: Option<Body>,
    responses: BTreeMap<String, Response>,
    security: Vec<BTreeMap<&'static str, [&'static str; 0]>>,
}

#[derive(Serialize)]
struct ParameterShown {
    name: String,
    #[serde(rename = "in")]
    place: &'static str,
    required: bool,
    description: &'static str,
    schema: Box<RawValue>,
}

#[derive(Serialize)]
struct Body {
    required: bool,
    content: BTreeMap<&'static str, Media>,
}

#[derive(Serialize)]
struct Response {
    description: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    content: BTreeMap<&'static str, Media>,
}

#[derive(Serialize)]
struct Media {
    schema: Box<RawValue>,
}

fn schema(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).expect("the schemas in the table are JSON")
}

fn media(name: &str) -> Media {
    Media { schema: if name.is_empty() { schema(r#"{"type":"string"}"#) } else { schema(&format!(r##"{{"$ref":"#/components/schemas/{name}"}}"##)) } }
}

/// `has_tokens`: without any, which is allowed on a loopback address alone, nobody is asked for one.
fn document(routes: &[Route], has_tokens: bool) -> Document {
    let mut paths: BTreeMap<&'static str, BTreeMap<String, Operation>> = BTreeMap::new();
    for route in routes {
        let Some(says) = &route.says else { continue };
        paths.entry(route.path).or_default().insert(route.method.as_str().to_ascii_lowercase(), operation(route, says, has_tokens));
    }
    Document {
        openapi: "3.1.0",
        info: Info {
            title: "nephrogate",
            version: env!("CARGO_PKG_VERSION"),
            description: "A FHIR gateway for kidney trials: EHR result in, explained verdict, study flag back in the EHR. \
                          Instants named _ms are milliseconds since 1970 UTC.",
        },
        paths,
        components: Components {
            schemas: schema(SCHEMAS),
            security_schemes: SecuritySchemes {
                token: SecurityScheme {
                    kind: "http",
                    scheme: "bearer",
                    description: "A token with the role feed, ehr, screener or admin. A gateway on a loopback address may have none.",
                },
                cds_client: SecurityScheme {
                    kind: "http",
                    scheme: "bearer",
                    description: "A JWT that a registered CDS client signed with ES384 or RS384 for this one call, as CDS Hooks 2.0 says (docs/cds.md).",
                },
                source: SecurityScheme {
                    kind: "http",
                    scheme: "bearer",
                    description: "The secret that a Subscription of this gateway holds at a source (docs/feeds.md).",
                },
            },
        },
    }
}

fn operation(route: &Route, says: &Says, has_tokens: bool) -> Operation {
    let tag = match route.path {
        path if path.starts_with("/fhir/") || path.starts_with("/notify/") => "FHIR",
        path if super::cds::is_here(path) => "CDS Hooks",
        _ => "Screening",
    };
    let refusal = if tag == "FHIR" { ("application/fhir+json", "OperationOutcome") } else { ("application/problem+json", "Problem") };
    let parameters = path_parameters(route.path).chain(says.parameters.iter().map(|parameter| ParameterShown {
        name: parameter.name.to_owned(),
        place: parameter.place,
        required: false,
        description: parameter.description,
        schema: schema(parameter.schema),
    }));
    let guard = [
        Answer::json(401, refusal.0, refusal.1, "no valid token"),
        Answer::json(403, refusal.0, refusal.1, "another role or site, or a request from another web site"),
    ];
    let guard = if route.who == Who::Anyone { &guard[..0] } else { &guard[..] };
    let mut responses: BTreeMap<String, Response> = BTreeMap::new();
    for answer in says.answers.iter().chain(guard) {
        let response =
            responses.entry(answer.status.to_string()).or_insert_with(|| Response { description: String::new(), content: BTreeMap::new() });
        if !response.description.is_empty() {
            response.description.push_str("; or ");
        }
        response.description.push_str(answer.description);
        response.content.insert(answer.media, media(answer.schema));
    }
    Operation {
        operation_id: operation_id(&route.method, route.path),
        summary: says.summary,
        tags: [tag],
        parameters: parameters.collect(),
        request_body: says.body.map(|(types, name)| Body { required: true, content: types.iter().map(|kind| (*kind, media(name))).collect() }),
        responses,
        security: match route.who {
            Who::Anyone => Vec::new(),
            Who::CdsClient => vec![BTreeMap::from([("cds-client", [])])],
            Who::Source => vec![BTreeMap::from([("source", [])])],
            Who::Feed | Who::Ehr | Who::Screener | Who::Reader | Who::Admin if !has_tokens => Vec::new(),
            Who::Feed | Who::Ehr | Who::Screener | Who::Reader | Who::Admin => vec![BTreeMap::from([("token", [])])],
        },
    }
}

/// `get_api_studies_study_subjects`.
fn operation_id(method: &Method, path: &str) -> String {
    let words = path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.fold(method.as_str().to_ascii_lowercase(), |id, word| id + "_" + word)
}

fn path_parameters(path: &'static str) -> impl Iterator<Item = ParameterShown> {
    path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).map(|name| {
        let (text, description) = match name {
            "study" => (r#"{"type":"string","pattern":"^[a-z0-9][a-z0-9-]{0,62}$"}"#, "study id"),
            "site" => (r#"{"type":"string","pattern":"^[a-z0-9][a-z0-9-]{0,62}$"}"#, "site id"),
            "feed" => (r#"{"type":"string","pattern":"^[a-z0-9][a-z0-9-]{0,62}$"}"#, "name of a feed of the site"),
            "type" => (r#"{"type":"string","pattern":"^[A-Z][A-Za-z]{2,39}$"}"#, "FHIR R4 resource type"),
            "proposal" => (r#"{"type":"integer","minimum":1}"#, "number of the merge proposal"),
            "message" => (r#"{"type":"integer","minimum":1}"#, "number of the message"),
            _ => (r#"{"type":"string","pattern":"^[A-Za-z0-9.-]{1,64}$"}"#, "FHIR id"),
        };
        ParameterShown { name: name.to_owned(), place: "path", required: true, description, schema: schema(text) }
    })
}
