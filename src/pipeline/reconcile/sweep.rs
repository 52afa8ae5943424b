//! Their side: everything in the EHR that carries our identifier system, type by type; copies under one key, what our
//! record does not know, and what it knows and does not expect. Servers differ in what a search may ask, so each answer is
//! looked at before it is believed.

use std::collections::{BTreeMap, BTreeSet};

use super::asker::{Asker, Stop};
use super::{Phase, Work, id_of};
use crate::ehr::Held;
use crate::fhir::{WRITE_BACK_SYSTEM, copies, edit};
use crate::store::outbox::{self, Item, ItemState};
use crate::store::reconcile::{Did, Difference, HeldCopy, How, Kind, Mode, Swept};
use crate::writeback::{Form, Purpose};

/// What a server that filters by nothing is read for, resources of one type.
const ALL_MAX: usize = 20_000;

/// Copies under one key, and which of them to keep.
pub struct Copies {
    pub key: String,
    pub study: String,
    pub subject: String,
    pub resource_type: String,
    pub keep: String,
    pub copies: Vec<HeldCopy>,
}

/// What one type's sweep found.
struct Found {
    swept: Swept,
    held: Vec<Held>,
}

impl Work<'_> {
    pub(super) async fn sweep(&mut self, asker: &mut Asker<'_>, items: &[Item], now_ms: i64) -> Result<(), Stop> {
        let site = self.site.to_owned();
        let known = self.pipeline.store.read(move |tx| outbox::keys(tx, &site)).await?;
        let by_key: BTreeMap<&str, &Item> = items.iter().map(|item| (item.request.key.as_str(), item)).collect();
        let types = self.types(items);
        let mut proposals = Vec::new();
        let mut seen_whole = BTreeSet::new();
        for (done, resource_type) in types.iter().enumerate() {
            asker.tell(Phase::Sweep, done, types.len());
            let of_type: Vec<&Item> =
                items.iter().filter(|item| item.request.resource_type == *resource_type && item.request.form == Form::Resource).collect();
            let found = self.search(asker, resource_type, &of_type).await?;
            let mut under_key: BTreeMap<String, Vec<Held>> = BTreeMap::new();
            for held in found.held {
                if let Some(key) = our_key(&held) {
                    under_key.entry(key).or_default().push(held);
                }
            }
            for (key, held) in under_key {
                match by_key.get(key.as_str()) {
                    _ if !known.contains(&key) => self.unknown(resource_type, &key, &held),
                    Some(item) if 1 < held.len() => proposals.push(self.copies(item, &held)),
                    item => self.unproven(resource_type, &key, item.copied(), &held),
                }
            }
            if found.swept.how != How::Not {
                seen_whole.insert(resource_type.clone());
            }
            // What was never written here and cannot be asked for needs no word.
            if found.swept.how != How::Not || !of_type.is_empty() {
                self.report.swept.push(found.swept);
            }
        }
        asker.tell(Phase::Sweep, types.len(), types.len());
        if self.mode != Mode::ReportOnly {
            self.propose(proposals, seen_whole, now_ms).await?;
        }
        Ok(())
    }

    /// Types that we wrote here, or may write.
    fn types(&self, items: &[Item]) -> BTreeSet<String> {
        let written = items.iter().filter(|item| item.request.form == Form::Resource).map(|item| item.request.resource_type.clone());
        let rungs = self.pipeline.receivers.get(self.site).map(|receiver| receiver.rungs.as_slice()).unwrap_or_default();
        let allowed = rungs.iter().flat_map(|rung| rung.resource_types()).map(|name| (*name).to_owned());
        written.chain(allowed).collect()
    }

    async fn search(&mut self, asker: &mut Asker<'_>, resource_type: &str, items: &[&Item]) -> Result<Found, Stop> {
        let swept = |how: How, held: &[Held], not_seen: &str| Swept {
            resource_type: resource_type.to_owned(),
            how,
            found: i64::try_from(held.len()).unwrap_or(i64::MAX),
            not_seen: not_seen.to_owned(),
        };
        // What has no search by identifier was planned with another one.
        let by_identifier: Vec<&&Item> = items.iter().filter(|item| item.request.search.starts_with("identifier=")).collect();
        if by_identifier.len() < items.len() {
            let not_seen = "this type has no search by identifier: only what we know by its id was looked at";
            return Ok(Found { swept: swept(How::Not, &[], not_seen), held: Vec::new() });
        }
        let whole_system = [("identifier", format!("{WRITE_BACK_SYSTEM}|")), ("_count", "200".to_owned())];
        let asked = self.only_ours(asker, resource_type, &whole_system).await?;
        let seen = self.seen.get(resource_type);
        if let Some(asked) = asked
            && !asked.has_others
            && asked.is_whole
        {
            let ids: BTreeSet<&str> = asked.ours.iter().filter_map(|held| held.index.id.as_deref()).collect();
            // A server that answers such a question with nothing does not understand it.
            if seen.is_none_or(|seen| seen.iter().all(|id| ids.contains(id.as_str()))) {
                return Ok(Found { swept: swept(How::BySystem, &asked.ours, ""), held: asked.ours });
            }
        }
        let Some(first) = items.first() else {
            let held = Vec::new();
            return Ok(Found { swept: swept(How::Not, &held, "it cannot be asked for what carries our identifier system, and we wrote none"), held });
        };
        let one_key = [("identifier", format!("{WRITE_BACK_SYSTEM}|{}", first.request.key)), ("_count", "200".to_owned())];
        let is_filtered = match self.only_ours(asker, resource_type, &one_key).await? {
            Some(asked) => !asked.has_others,
            None => {
                let held = Vec::new();
                return Ok(Found { swept: swept(How::Not, &held, "it cannot be asked by identifier"), held });
            }
        };
        if is_filtered {
            let mut held = Vec::new();
            for (done, item) in items.iter().enumerate() {
                asker.tell(Phase::Sweep, done, items.len());
                match asker.find(resource_type, &item.request.key).await? {
                    Ok(found) => held.extend(found),
                    Err(_) => break,
                }
            }
            let not_seen = "it was asked key by key: what others wrote under our identifier system was not seen";
            return Ok(Found { swept: swept(How::ByKey, &held, not_seen), held });
        }
        let everything = [("_count", "200".to_owned())];
        let asked = self.everything(asker, resource_type, &everything).await?;
        let not_seen = if asked.is_whole { "" } else { "it ignores what a search asks and holds more than was read" };
        Ok(Found { swept: swept(How::All, &asked.ours, not_seen), held: asked.ours })
    }

    /// All pages of a search that should answer only what is ours; stops at the first page with something else.
    async fn only_ours(&self, asker: &mut Asker<'_>, resource_type: &str, query: &[(&str, String)]) -> Result<Option<Asked>, Stop> {
        let mut pages = asker.pages(resource_type, query)?;
        let mut asked = Asked { ours: Vec::new(), has_others: false, is_whole: false };
        loop {
            match asker.page(resource_type, &mut pages).await? {
                Ok(Some(page)) => {
                    let (ours, others): (Vec<Held>, Vec<Held>) = page.into_iter().partition(|held| our_key(held).is_some());
                    asked.ours.extend(ours);
                    if !others.is_empty() {
                        asked.has_others = true;
                        return Ok(Some(asked));
                    }
                }
                Ok(None) => {
                    asked.is_whole = !pages.has_more();
                    return Ok(Some(asked));
                }
                Err(_) => return Ok(None),
            }
        }
    }

    /// Everything of a type, of which only ours is kept.
    async fn everything(&self, asker: &mut Asker<'_>, resource_type: &str, query: &[(&str, String)]) -> Result<Asked, Stop> {
        let mut pages = asker.pages(resource_type, query)?;
        let mut asked = Asked { ours: Vec::new(), has_others: true, is_whole: false };
        let mut read = 0;
        while read < ALL_MAX {
            match asker.page(resource_type, &mut pages).await? {
                Ok(Some(page)) => {
                    read += page.len();
                    asked.ours.extend(page.into_iter().filter(|held| our_key(held).is_some()));
                }
                Ok(None) => {
                    asked.is_whole = !pages.has_more();
                    break;
                }
                Err(_) => break,
            }
        }
        Ok(asked)
    }

    fn unknown(&mut self, resource_type: &str, key: &str, held: &[Held]) {
        for held in held {
            let why = "this store never wrote it: an older store or another gateway may have; it is left alone";
            self.add(self.stray(Kind::Unknown, resource_type, key, held, why));
        }
    }

    /// What stands at the EHR under a key of ours and no item of ours accounts for: a person must look.
    fn stray(&self, kind: Kind, resource_type: &str, key: &str, held: &Held, why: &str) -> Difference {
        Difference {
            kind,
            did: if self.mode == Mode::ReportOnly { Did::Reported } else { Did::NeedsPerson },
            resource_type: resource_type.to_owned(),
            id: held.index.id.clone(),
            key: key.to_owned(),
            body_hash: String::new(),
            study: String::new(),
            subject: String::new(),
            rung: String::new(),
            elements: Vec::new(),
            why: why.to_owned(),
        }
    }

    fn copies(&mut self, item: &Item, held: &[Held]) -> Copies {
        let recorded = id_of(item);
        let mut copies: Vec<HeldCopy> = held
            .iter()
            .filter_map(|held| {
                let id = held.index.id.clone()?;
                Some(HeldCopy {
                    is_recorded: recorded == Some(id.as_str()),
                    id,
                    version: held.version.clone(),
                    last_updated: held.last_updated.clone(),
                    status: held.index.status.clone(),
                })
            })
            .collect();
        copies.sort_by(|a, b| (&a.last_updated, &a.id).cmp(&(&b.last_updated, &b.id)));
        // What our record names is what our requests go to; without it the oldest.
        let keep = copies.iter().find(|copy| copy.is_recorded).or_else(|| copies.first()).map(|copy| copy.id.clone()).unwrap_or_default();
        let request = &item.request;
        let mut difference = super::describe(item, Kind::Copies, Some(keep.clone()), Vec::new());
        difference.did = if self.mode == Mode::ReportOnly { Did::Reported } else { Did::Proposed };
        difference.why = format!("{} resources under one key: a person accepts which to keep", copies.len());
        self.add(difference);
        Copies {
            key: request.key.clone(),
            study: item.study.clone(),
            subject: item.subject.clone(),
            resource_type: request.resource_type.clone(),
            keep,
            copies,
        }
    }

    /// One resource under a key of ours, of which our record does not say that it should stand there.
    fn unproven(&mut self, resource_type: &str, key: &str, item: Option<&Item>, held: &[Held]) {
        let is_expected = item.is_some_and(|item| match item.state {
            ItemState::Confirmed | ItemState::Degraded | ItemState::Planned | ItemState::Shadow | ItemState::Sent => true,
            ItemState::Lost | ItemState::Rejected | ItemState::Superseded => false,
        });
        let Some(held) = held.first().filter(|held| !is_expected && !copies::is_retired(&held.resource)) else { return };
        // A refused update leaves what was there before, and the item says so itself.
        let says_already =
            item.is_some_and(|item| item.request.purpose == Purpose::Annotate && edit::missing(&item.request.body, &held.resource).is_empty());
        let why = match (item, says_already) {
            (Some(_), true) => "it stands there as planned, although it was refused or lost: replay the item",
            (Some(_), false) => "it stands there, and the newest item of its key was refused or lost: replay the item",
            (None, _) => "it stands there, and nothing of its key should: every plan was overtaken before it was seen to arrive",
        };
        let mut difference = self.stray(Kind::Unproven, resource_type, key, held, why);
        if let Some(item) = item {
            difference = Difference { study: item.study.clone(), subject: item.subject.clone(), rung: item.request.rung.clone(), ..difference };
        }
        self.add(difference);
    }
}

/// What a search answered.
struct Asked {
    ours: Vec<Held>,
    /// It answered what was not asked for.
    has_others: bool,
    /// The last page was reached.
    is_whole: bool,
}

/// The value of our identifier.
fn our_key(held: &Held) -> Option<String> {
    held.index.identifiers.iter().find(|(system, _)| system == WRITE_BACK_SYSTEM).map(|(_, value)| value.clone())
}
