//! Where pure floors meet IO: receive (prepare, commit, judge), decide (a person's word), deliver (claim, send, read back), and screen (the
//! same floors over files, without a store).

pub mod backfill;
pub mod decide;
pub mod deliver;
pub mod digest;
pub mod entries;
pub mod groups;
pub mod hl7;
pub mod import;
pub mod intake;
pub mod judge;
pub mod jwks;
pub mod notify;
pub mod probe;
pub mod receive;
pub mod receivers;
pub mod reconcile;
pub mod redrive;
pub mod screen;
pub mod trial;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::catalogue::Catalogue;
use crate::store::Store;
use crate::writeback::Receiver;

/// The receivers that are configured, by site; empty where nothing is written back.
pub type Receivers = BTreeMap<String, Receiver>;

/// What receiving, judging and delivering need; cheap to clone.
#[derive(Clone)]
pub struct Pipeline {
    pub store: Store,
    pub catalogue: Arc<Catalogue>,
    pub receivers: Arc<Receivers>,
}
