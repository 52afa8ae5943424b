//! The web door: FHIR intake and reads, the screening API, the pages. Handlers take what they use and nothing else.
//!
//! Every route is a row of [`routes`]: that table mounts them, guards them by role, and is what /openapi.json says.

pub mod access;
pub mod asked;
pub mod body;
pub mod cds;
pub mod conduct;
pub mod decisions;
pub mod error;
pub mod feeds;
pub mod fhir;
pub mod messages;
pub mod notify;
pub mod openapi;
pub mod own_keys;
pub mod pages;
pub mod plot;
pub mod release;
pub mod screening;
pub mod stand_in;
pub mod switch;
pub mod trial;
pub mod write_back;

use std::sync::Arc;

use actix_web::http::Method;
use actix_web::middleware::from_fn;
use actix_web::web::{self, Data, ServiceConfig};

use access::{SignIns, Tokens, Who};
use body::Limits;
use error::Refusal;
use own_keys::OwnKeys;

use crate::catalogue::Catalogue;
use crate::pipeline::Pipeline;
use crate::pipeline::intake::Intake;
use crate::pipeline::notify::Hosts;

/// One route: who may call it, what it says about itself, and how it is mounted.
pub struct Route {
    pub method: Method,
    pub path: &'static str,
    pub who: Who,
    /// What /openapi.json says; `None` for pages, which are read by people.
    pub says: Option<openapi::Says>,
    pub mount: fn() -> actix_web::Route,
}

impl Route {
    /// A page or an asset.
    pub fn page(method: Method, path: &'static str, who: Who, mount: fn() -> actix_web::Route) -> Route {
        Route { method, path, who, says: None, mount }
    }

    pub fn described(method: Method, path: &'static str, who: Who, says: openapi::Says, mount: fn() -> actix_web::Route) -> Route {
        Route { method, path, who, says: Some(says), mount }
    }
}

/// Every route of the gateway. Of two addresses that fit one request the earlier row wins.
pub fn routes() -> Vec<Route> {
    let mut routes = access::routes();
    routes.extend(openapi::routes());
    routes.extend(screening::routes());
    routes.extend(decisions::routes());
    routes.extend(messages::routes());
    routes.extend(feeds::routes());
    routes.extend(release::routes());
    routes.extend(switch::routes());
    routes.extend(conduct::routes());
    routes.extend(trial::routes());
    routes.extend(write_back::routes());
    routes.extend(cds::routes());
    routes.extend(own_keys::routes());
    routes.extend(pages::routes());
    routes.extend(notify::routes());
    routes.extend(fhir::routes());
    routes
}

/// Whether the gateway is ready; set by the composer.
#[derive(Clone)]
pub struct Health(pub Arc<dyn Fn() -> Result<(), String> + Send + Sync>);

/// What the handlers are given; each takes its part as `Data`.
#[derive(Clone)]
pub struct Doors {
    pub pipeline: Pipeline,
    pub intake: Intake,
    pub tokens: Arc<Tokens>,
    pub sign_ins: Arc<SignIns>,
    pub limits: Limits,
    pub health: Health,
    pub links: Links,
    pub cds_clients: Arc<cds::Clients>,
    pub own_keys: OwnKeys,
    pub notify_hosts: Arc<Hosts>,
}

/// How links in answers begin: the public address, where one is configured.
#[derive(Clone, Debug)]
pub struct Links {
    /// Without a trailing slash.
    pub public_url: Option<String>,
    pub is_tls: bool,
}

impl Links {
    /// `https://gateway.example`, without a trailing slash.
    pub fn base(&self, request: &actix_web::HttpRequest) -> String {
        match &self.public_url {
            Some(url) => url.clone(),
            None => format!("{}://{}", if self.is_tls { "https" } else { "http" }, access::host_of(request.head()).unwrap_or("localhost")),
        }
    }
}

/// What [`configure`] set for every request.
fn configured<T: 'static>(request: &actix_web::HttpRequest) -> Data<T> {
    request.app_data::<Data<T>>().expect("http::configure sets what the doors take").clone()
}

/// Mounts the table.
pub fn configure(doors: &Doors, config: &mut ServiceConfig) {
    let catalogue: Data<Catalogue> = Data::from(doors.pipeline.catalogue.clone());
    config
        .app_data(Data::new(doors.pipeline.clone()))
        .app_data(Data::new(doors.pipeline.store.clone()))
        .app_data(catalogue)
        .app_data(Data::new(doors.intake.clone()))
        .app_data(Data::from(doors.tokens.clone()))
        .app_data(Data::from(doors.sign_ins.clone()))
        .app_data(Data::new(doors.limits.clone()))
        .app_data(Data::new(doors.health.clone()))
        .app_data(Data::new(doors.links.clone()))
        .app_data(Data::from(doors.cds_clients.clone()))
        .app_data(Data::new(doors.own_keys.clone()))
        .app_data(Data::from(doors.notify_hosts.clone()));
    let mut rest = routes();
    while !rest.is_empty() {
        let path = rest[0].path;
        let (of_path, others): (Vec<Route>, Vec<Route>) = rest.into_iter().partition(|route| route.path == path);
        rest = others;
        let allowed = of_path.iter().map(|route| route.method.as_str()).collect::<Vec<_>>().join(", ");
        let mut resource = web::resource(path);
        for route in of_path {
            let who = route.who;
            resource = resource.route((route.mount)().wrap(from_fn(move |request, next| access::admit(who, request, next))));
        }
        config.service(resource.default_service(web::to(move || wrong_method(allowed.clone()))));
    }
    config.default_service(web::to(no_such_address));
}

async fn no_such_address() -> Result<actix_web::HttpResponse, Refusal> {
    Err(Refusal::not_found("nothing is served at this address", "see /openapi.json and /fhir/{site}/metadata"))
}

async fn wrong_method(allowed: String) -> Result<actix_web::HttpResponse, Refusal> {
    let refusal = Refusal::new(
        actix_web::http::StatusCode::METHOD_NOT_ALLOWED,
        "this address does not take this method",
        "see /openapi.json and /fhir/{site}/metadata",
    );
    Err(Refusal { allow: Some(allowed.into()), ..refusal })
}
