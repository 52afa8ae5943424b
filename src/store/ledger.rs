//! What comes in and what becomes of it: messages are committed, withdrawn and driven anew; the facts they give, and who waits to be judged.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::rc::Rc;

use compact_str::CompactString;

use super::messages::message;
use super::{Bind, Insert, Kind, Row, StoreError, Tx, fact};
use crate::clinical::chart::Chart;
use crate::clinical::fact::{Body, Fact, Person, PersonPart, ResourceType, Source, Status};
use crate::clinical::statement::say_the_same;
use crate::clinical::version::{self, Meta, Version};
use crate::digest::sha256_hex;
use crate::issue::{Code, Disposition, Issue};

/// A message that was prepared (gate, schema, mapping) and waits to be committed.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// Type as read from the body; `-` where it could not be read.
    pub resource_type: String,
    pub id: Option<String>,
    pub version: Option<String>,
    pub last_updated_ms: Option<i64>,
    /// SHA-256 of the received bytes, hex.
    pub body_hash: String,
    /// The received bytes as they are kept, packed by [`body::pack`]; empty for what is refused or only counted.
    pub body: Vec<u8>,
    pub subject: Option<CompactString>,
    pub fact: Option<Fact>,
    pub issues: Vec<Issue>,
    /// What shape and mapping say; the ledger may turn `Applied` into `Duplicate`, `Superseded` or, on a version conflict, `Quarantined`.
    pub disposition: Disposition,
    /// Counted for what is out of scope or unmapped.
    pub code: Option<String>,
    /// Hash of the site mapping that read it.
    pub mapping_hash: String,
    /// What an HL7 v2 message says, each resource by itself; committed with the message or not at all.
    pub derived: Vec<Prepared>,
}

impl Prepared {
    /// Bytes of which nothing more is known, refused for these issues: only their hash is kept.
    pub fn rejected(resource_type: &str, bytes: &[u8], mapping_hash: &str, issues: Vec<Issue>) -> Prepared {
        Prepared {
            resource_type: resource_type.to_owned(),
            id: None,
            version: None,
            last_updated_ms: None,
            body_hash: sha256_hex(bytes),
            body: Vec::new(),
            subject: None,
            fact: None,
            issues,
            disposition: Disposition::Rejected,
            code: None,
            mapping_hash: mapping_hash.to_owned(),
            derived: Vec::new(),
        }
    }

    /// Turned into a rejection, of which only hash and reason are kept.
    pub fn into_rejected(mut self, issue: Issue) -> Prepared {
        self.issues = vec![issue];
        self.disposition = Disposition::Rejected;
        self.fact = None;
        self.body = Vec::new();
        self
    }

    /// Rejected where the body is not the resource that its address names.
    pub fn held_to_address(self, resource_type: &str, id: &str) -> Prepared {
        if self.disposition == Disposition::Rejected {
            self
        } else if self.resource_type != resource_type {
            self.into_rejected(Issue::new(Code::WrongResourceType, "resourceType"))
        } else if self.id.as_deref() != Some(id) {
            self.into_rejected(Issue::new(Code::InvalidId, format!("{resource_type}.id")).with_detail("the body's id is not the address's"))
        } else {
            self
        }
    }
}

/// A resource that its source deleted, up to a version or a time where one is named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Withdrawal {
    pub resource_type: String,
    pub id: String,
    pub if_match: Option<String>,
    /// When the source deleted it, where it says so: what is newer stands.
    pub deleted_ms: Option<i64>,
}

/// What became of one message.
#[derive(Clone, Debug)]
pub struct Receipt {
    /// Number in the ledger; `None` for what only leaves a count (out of scope).
    pub message: Option<i64>,
    pub disposition: Disposition,
    pub issues: Vec<Issue>,
    pub resource_type: String,
    pub id: Option<String>,
    pub version: Option<String>,
    pub subject: Option<CompactString>,
    /// Of the resources that an HL7 v2 message was found to say; those that were here before, byte for byte, are duplicates that are
    /// counted nowhere.
    pub derived: Vec<Receipt>,
}

impl Receipt {
    /// Everybody whose chart this may have changed.
    pub fn subjects(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self).chain(&self.derived).filter_map(|receipt| receipt.subject.as_deref())
    }
}

/// Commits prepared messages of one site and feed, in order: deduplicates, keeps bytes and facts, counts, and marks
/// every subject whose chart changed as waiting for judgement. The facts' `source.message` is set here.
///
/// The same bytes of the same resource are a duplicate; bytes that a mended mapping can read now redrive the message that
/// brought them first. The same version with other bytes is a conflict: quarantined, and what came first stays. An older
/// version that comes late is kept, and the chart's fold decides.
pub fn commit(tx: &mut Tx<'_>, site: &str, feed: &str, now_ms: i64, messages: &[Prepared]) -> Result<Vec<Receipt>, StoreError> {
    commit_refs(tx, site, feed, now_ms, &messages.iter().collect::<Vec<_>>())
}

/// As [`commit`], for messages that do not lie side by side.
pub fn commit_refs(tx: &mut Tx<'_>, site: &str, feed: &str, now_ms: i64, messages: &[&Prepared]) -> Result<Vec<Receipt>, StoreError> {
    if messages.is_empty() {
        return Ok(Vec::new());
    }
    let mut batch = Batch::begin(tx, site, feed, now_ms)?;
    batch.learn(tx, messages)?;
    let receipts = messages.iter().map(|message| batch.take(tx, message)).collect::<Result<Vec<_>, _>>()?;
    batch.end(tx)?;
    Ok(receipts)
}

/// What is known of one earlier version of a resource.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) message: i64,
    pub(super) version: Option<String>,
    pub(super) last_updated_ms: Option<i64>,
    subject: Option<String>,
    disposition: Disposition,
    pub(super) body_hash: String,
    /// Quarantined because another content has its version: it gave no fact.
    is_conflict: bool,
    /// It states a part of a Patient (HL7 v2), and is no version of the record.
    pub(super) is_part: bool,
    mapping: i64,
    /// Status and issue of its fact, where this batch brought it: what the batch has not written yet need not be asked for.
    told: Option<(Status, Option<i64>)>,
}

impl Known {
    /// A DELETE has no bytes.
    pub(super) fn is_withdrawal(&self) -> bool {
        self.body_hash.is_empty()
    }

    /// The same bytes about the same subject; in a Bundle `urn:uuid:` may mean somebody else by the same bytes.
    fn is_again(&self, message: &Prepared) -> bool {
        let names_another = matches!((&self.subject, &message.subject), (Some(own), Some(other)) if own != other.as_str());
        self.body_hash == message.body_hash && !names_another
    }

    /// Whether this message says something about the resource that a later one has to reckon with.
    pub(super) fn counts(&self) -> bool {
        !self.is_conflict && self.disposition != Disposition::Rejected && self.disposition != Disposition::Echo
    }

    fn meta(&self) -> Meta<'_> {
        Meta { version: self.version.as_deref(), last_updated_ms: self.last_updated_ms }
    }

    /// With what its fact says of itself, where what is kept beside the message does not tell.
    fn whole(&self, tx: &mut Tx<'_>, site: &str) -> Result<Version<'_>, StoreError> {
        let stored = match (&self.subject, self.told) {
            (_, Some(told)) => Some(told),
            (Some(subject), None) => status_of(tx, site, subject, self.message)?,
            (None, None) => None,
        };
        let (status, issued_ms) = match stored {
            Some(stored) => stored,
            // Of somebody that nobody knew yet.
            None if self.is_withdrawal() => (Status::Deleted, None),
            None => (Status::Unknown, None),
        };
        Ok(Version { meta: self.meta(), issued_ms, status })
    }
}

/// The newest of one id's versions, by the one rule of `clinical/version.rs`; of those that nothing tells apart the last.
pub(super) fn newest_of(tx: &mut Tx<'_>, site: &str, known: impl Iterator<Item = Known>) -> Result<Option<Known>, StoreError> {
    let mut newest: Option<Known> = None;
    for known in known {
        let is_older = match &newest {
            None => false,
            Some(newest) => is_newer(tx, site, newest, &known)?,
        };
        if !is_older {
            newest = Some(known);
        }
    }
    Ok(newest)
}

fn is_newer(tx: &mut Tx<'_>, site: &str, one: &Known, other: &Known) -> Result<bool, StoreError> {
    match version::compare_meta(one.meta(), other.meta()) {
        Some(order) if order != Ordering::Equal => Ok(order == Ordering::Greater),
        Some(_) | None => Ok(version::compare(one.whole(tx, site)?, other.whole(tx, site)?) == Some(Ordering::Greater)),
    }
}

struct MessageRow<'m> {
    message: i64,
    prepared: &'m Prepared,
    disposition: Disposition,
    issues: Option<String>,
    mapping: i64,
    derived_from: Option<i64>,
}

/// One row of `facts`.
struct FactRow {
    subject: CompactString,
    message: i64,
    packed: Vec<u8>,
}

impl FactRow {
    fn new(subject: &str, message: i64, fact: &Fact) -> FactRow {
        FactRow { subject: subject.into(), message, packed: fact::pack(fact) }
    }
}

const INSERT_MESSAGES: Insert<15> = Insert {
    table: "messages",
    columns: [
        ("message", Kind::Integer),
        ("site", Kind::Text),
        ("feed", Kind::Text),
        ("received_ms", Kind::Integer),
        ("resource_type", Kind::Text),
        ("resource_id", Kind::Text),
        ("version", Kind::Text),
        ("last_updated_ms", Kind::Integer),
        ("subject", Kind::Text),
        ("disposition", Kind::Text),
        ("issues", Kind::Text),
        ("code", Kind::Text),
        ("body_hash", Kind::Text),
        ("mapping", Kind::Integer),
        ("derived_from", Kind::Integer),
    ],
    on_conflict: "",
};

const INSERT_BODIES: Insert<2> = Insert { table: "bodies", columns: [("message", Kind::Integer), ("body", Kind::Blob)], on_conflict: "" };

const INSERT_FACTS: Insert<4> = Insert {
    table: "facts",
    columns: [("site", Kind::Text), ("subject", Kind::Text), ("message", Kind::Integer), ("fact", Kind::Blob)],
    on_conflict: "",
};

const INSERT_SUBJECTS: Insert<4> = Insert {
    table: "subjects",
    columns: [("site", Kind::Text), ("subject", Kind::Text), ("revision", Kind::Integer), ("waiting_ms", Kind::Integer)],
    // A subject that waits already keeps its place in the queue.
    on_conflict: "ON CONFLICT (site, subject) DO UPDATE SET revision = subjects.revision + 1, waiting_ms = COALESCE(subjects.waiting_ms, excluded.waiting_ms)",
};

const INSERT_TALLIES: Insert<6> = Insert {
    table: "tallies",
    columns: [
        ("site", Kind::Text),
        ("feed", Kind::Text),
        ("resource_type", Kind::Text),
        ("code", Kind::Text),
        ("disposition", Kind::Text),
        ("messages", Kind::Integer),
    ],
    on_conflict: "ON CONFLICT (site, feed, resource_type, code, disposition) DO UPDATE SET messages = tallies.messages + excluded.messages",
};

const INSERT_DAYS: Insert<5> = Insert {
    table: "feed_days",
    columns: [("site", Kind::Text), ("feed", Kind::Text), ("day", Kind::Integer), ("disposition", Kind::Text), ("messages", Kind::Integer)],
    on_conflict: "ON CONFLICT (site, feed, day, disposition) DO UPDATE SET messages = feed_days.messages + excluded.messages",
};

/// Taking the counter's row first makes whoever writes the ledger wait for whoever does already, so that what is known
/// of a resource stays true until the commit.
const SQL_LOCK_LEDGER: &str = "UPDATE counters SET value = value WHERE name = 'message' RETURNING value";
const SQL_END_NUMBERS: &str = "UPDATE counters SET value = $1 WHERE name = 'message'";
const SQL_FEED: &str = "INSERT INTO feeds (site, feed, last_received_ms, received) VALUES ($1, $2, $3, $4)
    ON CONFLICT (site, feed) DO UPDATE SET received = feeds.received + excluded.received,
    last_received_ms = CASE WHEN feeds.last_received_ms < excluded.last_received_ms THEN excluded.last_received_ms ELSE feeds.last_received_ms END";

/// Ids looked up by one statement. SQLite and PostgreSQL both walk the index once per id.
const IDS_AT_ONCE: usize = 200;

/// `$from, $from+1, ...`
fn places(from: usize, count: usize) -> String {
    (from..from + count).map(|place| format!("${place}")).collect::<Vec<_>>().join(", ")
}

/// Asks `sql` (with `{}` for the list) for these ids: a few hundred at a time, the last statement filled up by repetition
/// so that only two texts are ever prepared.
fn query_by_ids(tx: &mut Tx<'_>, sql: &str, first: &[Bind<'_>], ids: &[&str]) -> Result<Vec<Row>, StoreError> {
    let mut rows = Vec::new();
    for chunk in ids.chunks(IDS_AT_ONCE) {
        let width = if chunk.len() == 1 { 1 } else { IDS_AT_ONCE };
        let text = sql.replace("{}", &places(first.len() + 1, width));
        let mut params = first.to_vec();
        params.extend((0..width).map(|place| Bind::Text(chunk[place.min(chunk.len() - 1)])));
        rows.extend(tx.query(&text, &params)?);
    }
    Ok(rows)
}

const SQL_KNOWN: &str = "SELECT resource_id, message, version, last_updated_ms, subject, disposition, body_hash, issues, mapping, code FROM messages
    WHERE site = $1 AND resource_type = $2 AND resource_id IN ({}) AND disposition <> 'rejected' ORDER BY message";

pub(super) fn known_of(tx: &mut Tx<'_>, site: &str, resource_type: &str, ids: &[&str]) -> Result<Vec<(String, Known)>, StoreError> {
    let rows = query_by_ids(tx, SQL_KNOWN, &[site.into(), resource_type.into()], ids)?;
    rows.iter()
        .map(|row| {
            let is_conflict = row.optional_text(7)?.is_some_and(|issues| issues.contains("\"code\":\"version-conflict\""));
            let known = Known {
                message: row.integer(1)?,
                version: row.optional_string(2)?,
                last_updated_ms: row.optional_integer(3)?,
                subject: row.optional_string(4)?,
                disposition: disposition(row.text(5)?)?,
                body_hash: row.string(6)?,
                is_conflict,
                is_part: row.optional_text(9)? == Some(PersonPart::CODE),
                mapping: row.integer(8)?,
                told: None,
            };
            Ok((row.string(0)?, known))
        })
        .collect()
}

fn disposition(word: &str) -> Result<Disposition, StoreError> {
    Disposition::from_word(word).ok_or_else(|| StoreError::Broken("a message has a disposition that this program does not know".into()))
}

const SQL_HASH: &str = "SELECT number FROM hashes WHERE hash = $1";
const SQL_ADD_HASH: &str = "INSERT INTO hashes (hash) VALUES ($1) ON CONFLICT (hash) DO NOTHING";

/// The number under which rows name a mapping's or study's hash.
pub(super) fn hash_number(tx: &mut Tx<'_>, hash: &str) -> Result<i64, StoreError> {
    if let Some(row) = tx.query_one(SQL_HASH, &[hash.into()])? {
        return row.integer(0);
    }
    tx.execute(SQL_ADD_HASH, &[hash.into()])?;
    tx.query_one(SQL_HASH, &[hash.into()])?.ok_or_else(|| StoreError::Retry("a hash just added is not there".into()))?.integer(0)
}

/// What is gathered of one commit before it is written in bulk.
struct Batch<'m> {
    site: &'m str,
    feed: &'m str,
    now_ms: i64,
    /// When its feed brought this: earlier than now where something is driven anew.
    heard_ms: i64,
    number: i64,
    received: i64,
    /// By type and id.
    known: HashMap<(&'m str, &'m str), Rc<Vec<Known>>>,
    /// Of which the batch itself holds something in scope: of them a version that is out of scope is kept, whichever comes first.
    in_scope: HashSet<(&'m str, &'m str)>,
    /// Patients of this batch whose record was merged into another before, or said of others that they were merged into it.
    linked: HashSet<String>,
    mappings: HashMap<&'m str, i64>,
    messages: Vec<MessageRow<'m>>,
    facts: Vec<FactRow>,
    tallies: HashMap<(&'m str, &'m str, Disposition), i64>,
    touched: BTreeSet<CompactString>,
}

const SQL_CLAIMING: &str = "SELECT DISTINCT claimed_by FROM merge_claims WHERE site = $1 AND claimed_by IN ({})";
const SQL_LINKED: &str = "SELECT subject FROM subjects WHERE site = $1 AND replaced_by IS NOT NULL AND subject IN ({})";

impl<'m> Batch<'m> {
    fn begin(tx: &mut Tx<'_>, site: &'m str, feed: &'m str, now_ms: i64) -> Result<Batch<'m>, StoreError> {
        let number = lock_ledger(tx)?;
        Ok(Batch {
            site,
            feed,
            now_ms,
            heard_ms: now_ms,
            number,
            received: 0,
            known: HashMap::new(),
            in_scope: HashSet::new(),
            linked: HashSet::new(),
            mappings: HashMap::new(),
            messages: Vec::new(),
            facts: Vec::new(),
            tallies: HashMap::new(),
            touched: BTreeSet::new(),
        })
    }

    /// Looks up what was here before of every resource of the batch.
    fn learn(&mut self, tx: &mut Tx<'_>, messages: &[&'m Prepared]) -> Result<(), StoreError> {
        let mut ids: BTreeMap<&'m str, BTreeSet<&'m str>> = BTreeMap::new();
        let all = messages.iter().flat_map(|message| std::iter::once(*message).chain(&message.derived));
        for message in all.filter(|message| message.disposition != Disposition::Rejected) {
            if let Some(id) = &message.id {
                ids.entry(&message.resource_type).or_default().insert(id);
                if message.disposition != Disposition::OutOfScope {
                    self.in_scope.insert((&message.resource_type, id));
                }
            }
            if !self.mappings.contains_key(message.mapping_hash.as_str()) {
                self.mappings.insert(&message.mapping_hash, hash_number(tx, &message.mapping_hash)?);
            }
        }
        for (resource_type, ids) in &ids {
            let ids: Vec<&'m str> = ids.iter().copied().collect();
            for (id, known) in known_of(tx, self.site, resource_type, &ids)? {
                let place = ids.binary_search(&id.as_str()).expect("only what was asked for is answered");
                Rc::make_mut(self.known.entry((*resource_type, ids[place])).or_default()).push(known);
            }
        }
        let patients: Vec<&str> =
            self.known.keys().filter(|(resource_type, _)| *resource_type == ResourceType::Patient.word()).map(|(_, id)| *id).collect();
        for sql in [SQL_LINKED, SQL_CLAIMING] {
            for row in query_by_ids(tx, sql, &[self.site.into()], &patients)? {
                self.linked.insert(row.string(0)?);
            }
        }
        Ok(())
    }

    fn take(&mut self, tx: &mut Tx<'_>, message: &'m Prepared) -> Result<Receipt, StoreError> {
        let mut receipt = self.take_one(tx, message, None)?;
        if receipt.disposition != Disposition::Duplicate {
            receipt.derived = self.take_derived(tx, message, receipt.message)?;
        }
        Ok(receipt)
    }

    /// Takes what a message says. What is here already, byte for byte, was said before and is no message again.
    fn take_derived(&mut self, tx: &mut Tx<'_>, message: &'m Prepared, from: Option<i64>) -> Result<Vec<Receipt>, StoreError> {
        let mut receipts = Vec::with_capacity(message.derived.len());
        for derived in &message.derived {
            let known = derived.id.as_deref().and_then(|id| self.known.get(&(derived.resource_type.as_str(), id)));
            match known.and_then(|known| known.iter().find(|known| known.body_hash == derived.body_hash)) {
                Some(known) => receipts.push(receipt(Some(known.message), derived, Disposition::Duplicate, Vec::new())),
                None => receipts.push(self.take_one(tx, derived, from)?),
            }
        }
        Ok(receipts)
    }

    fn take_one(&mut self, tx: &mut Tx<'_>, message: &'m Prepared, from: Option<i64>) -> Result<Receipt, StoreError> {
        self.received += 1;
        let mapping = match self.mappings.get(message.mapping_hash.as_str()) {
            Some(mapping) => *mapping,
            None => hash_number(tx, &message.mapping_hash)?,
        };
        if message.disposition == Disposition::Rejected {
            return Ok(self.keep(message, Disposition::Rejected, message.issues.clone(), mapping, from));
        }
        let key = message.id.as_deref().map(|id| (message.resource_type.as_str(), id));
        let known = key.and_then(|key| self.known.get(&key)).cloned().unwrap_or_default();
        if let Some(first) = known.iter().find(|known| known.is_again(message)) {
            return self.take_again(tx, message, first.clone(), mapping);
        }
        if let Some(first) = self.said_before(tx, message, &known)? {
            return self.take_again(tx, message, first, mapping);
        }
        if message.disposition == Disposition::OutOfScope && known.is_empty() && key.is_none_or(|key| !self.in_scope.contains(&key)) {
            self.count(message, Disposition::OutOfScope);
            return Ok(receipt(None, message, Disposition::OutOfScope, Vec::new()));
        }
        let (disposition, issues) = self.place(tx, message, &known)?;
        let is_conflict = issues.iter().any(|issue| issue.code == Code::VersionConflict);
        let receipt = self.keep(message, disposition, issues, mapping, from);
        if !is_conflict && disposition != Disposition::Echo {
            self.add_facts(tx, self.number, message, &known)?;
        }
        if let Some(key) = key {
            // Nobody else holds the list any more, so that it is not copied.
            drop(known);
            Rc::make_mut(self.known.entry(key).or_default()).push(Known {
                message: self.number,
                version: message.version.clone(),
                last_updated_ms: message.last_updated_ms,
                subject: message.subject.as_ref().map(|subject| subject.to_string()),
                disposition,
                body_hash: message.body_hash.clone(),
                is_conflict,
                is_part: message.code.as_deref() == Some(PersonPart::CODE),
                mapping,
                told: message.fact.as_ref().map(|fact| (fact.status, fact.issued_ms)),
            });
        }
        Ok(receipt)
    }

    /// The same bytes once more: a duplicate. Where a mended mapping can read now what it could not then, the message that
    /// brought them first is driven anew.
    fn take_again(&mut self, tx: &mut Tx<'_>, message: &'m Prepared, first: Known, mapping: i64) -> Result<Receipt, StoreError> {
        self.count(message, Disposition::Duplicate);
        let is_mended = first.disposition == Disposition::Quarantined && first.mapping != mapping && message.disposition != Disposition::Quarantined;
        let mut derived = Vec::new();
        if is_mended {
            self.flush(tx)?;
            self.drive(tx, first.message, message)?;
            derived = self.take_derived(tx, message, Some(first.message))?;
        }
        let issues = if first.disposition == Disposition::Quarantined && !is_mended { message.issues.clone() } else { Vec::new() };
        Ok(Receipt { derived, ..receipt(Some(first.message), message, Disposition::Duplicate, issues) })
    }

    /// The message that brought this version before, where it says the same in other bytes: what two doors, or two servers,
    /// write differently.
    fn said_before(&mut self, tx: &mut Tx<'_>, message: &Prepared, known: &[Known]) -> Result<Option<Known>, StoreError> {
        let (Some(version), Some(subject), Some(fact)) = (&message.version, &message.subject, &message.fact) else { return Ok(None) };
        let is_it = |known: &&Known| {
            known.counts()
                && known.version.as_ref() == Some(version)
                && known.subject.as_deref() == Some(subject)
                && known.disposition != Disposition::OutOfScope
                && !known.is_withdrawal()
        };
        let Some(first) = known.iter().find(is_it) else { return Ok(None) };
        self.flush(tx)?;
        let Some(stored) = fact_of(tx, self.site, subject, first.message)? else { return Ok(None) };
        let says_the_same = stored.status == fact.status && stored.key == fact.key && say_the_same(&stored.body, &fact.body);
        Ok(says_the_same.then(|| first.clone()))
    }

    /// Where a message ends, given what was here before, and the issues that this adds.
    fn place(&mut self, tx: &mut Tx<'_>, message: &Prepared, known: &[Known]) -> Result<(Disposition, Vec<Issue>), StoreError> {
        let mut issues = message.issues.clone();
        if !matches!(message.disposition, Disposition::Applied | Disposition::Quarantined) {
            return Ok((message.disposition, issues));
        }
        let same_version = |known: &&Known| known.version.is_some() && known.version == message.version;
        if known.iter().filter(same_version).any(|known| known.counts() && !known.is_withdrawal() && known.disposition != Disposition::OutOfScope) {
            issues.push(Issue::new(Code::VersionConflict, format!("{}.meta.versionId", message.resource_type)));
            return Ok((Disposition::Quarantined, issues));
        }
        if let Some(code) = self.fault_of_merge(tx, message)? {
            issues.push(Issue::new(code, "Patient.link"));
            return Ok((Disposition::Quarantined, issues));
        }
        match message.disposition {
            Disposition::Applied if self.is_late(tx, message, known)? => Ok((Disposition::Superseded, issues)),
            other => Ok((other, issues)),
        }
    }

    /// Whether something newer is here already.
    fn is_late(&mut self, tx: &mut Tx<'_>, message: &Prepared, known: &[Known]) -> Result<bool, StoreError> {
        // What states a part of a Patient is neither newer nor older than a record: it is laid over it, or is not.
        if message.code.as_deref() == Some(PersonPart::CODE) {
            return Ok(false);
        }
        let meta = Meta { version: message.version.as_deref(), last_updated_ms: message.last_updated_ms };
        let (status, issued_ms) = message.fact.as_ref().map_or((Status::Unknown, None), |fact| (fact.status, fact.issued_ms));
        let own = Version { meta, issued_ms, status };
        for known in known.iter().filter(|known| known.counts() && !known.is_part) {
            let is_newer = match version::compare_meta(known.meta(), meta) {
                Some(order) if order != Ordering::Equal => order == Ordering::Greater,
                Some(_) | None => {
                    if known.told.is_none() {
                        self.flush(tx)?;
                    }
                    version::compare(known.whole(tx, self.site)?, own) == Some(Ordering::Greater)
                }
            };
            if is_newer {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Why a Patient's links cannot be followed: they lead back to it, or to the other side of what is real.
    fn fault_of_merge(&mut self, tx: &mut Tx<'_>, message: &Prepared) -> Result<Option<Code>, StoreError> {
        let (Some(subject), Some(fact)) = (&message.subject, &message.fact) else { return Ok(None) };
        let says_so = match &fact.body {
            Body::Person(said) => said.replaced_by.is_some() || !said.replaces.is_empty(),
            Body::PersonPart(said) => said.replaced_by.is_some(),
            Body::Measurement(_)
            | Body::Condition(_)
            | Body::AdverseEvent(_)
            | Body::ResearchSubject(_)
            | Body::Administration(_)
            | Body::Encounter(_)
            | Body::Decision(_)
            | Body::Nothing => false,
        };
        if !says_so {
            return Ok(None);
        }
        self.flush(tx)?;
        let Some(person) = person_of(tx, self.site, subject, Some(fact))? else { return Ok(None) };
        let link = match &person.replaced_by {
            Some(link) => Some(link.to_string()),
            None => claimed_by(tx, self.site, subject)?,
        };
        let mut way = Vec::new();
        if let Some(link) = link {
            way.extend(walk(tx, self.site, &link)?);
            way.insert(0, link);
        }
        let mut replaced = Vec::new();
        for other in &person.replaces {
            let own = person_of(tx, self.site, other, None)?;
            // A record's own word goes before what another says of it.
            if own.as_ref().and_then(|own| own.replaced_by.as_ref()).is_none() {
                replaced.push((other.to_string(), own));
            }
        }
        if way.contains(&subject.to_string()) || replaced.iter().any(|(other, _)| way.contains(other)) {
            return Ok(Some(Code::MergeCycle));
        }
        let survivor = match way.first() {
            Some(link) => person_of(tx, self.site, link, None)?,
            None => None,
        };
        let others = replaced.into_iter().filter_map(|(_, own)| own).chain(survivor);
        Ok(others.into_iter().any(|other| other.is_test != person.is_test).then_some(Code::MergeWithTest))
    }

    /// Adds a row for the message, and its bytes where they are to be kept.
    fn keep(&mut self, message: &'m Prepared, disposition: Disposition, issues: Vec<Issue>, mapping: i64, derived_from: Option<i64>) -> Receipt {
        self.number += 1;
        let text = (!issues.is_empty()).then(|| serde_json::to_string(&issues).expect("issues are plain data"));
        self.messages.push(MessageRow { message: self.number, prepared: message, disposition, issues: text, mapping, derived_from });
        self.count(message, disposition);
        receipt(Some(self.number), message, disposition, issues)
    }

    fn count(&mut self, message: &'m Prepared, disposition: Disposition) {
        let code = tally_code(disposition, message.code.as_deref());
        *self.tallies.entry((&message.resource_type, code, disposition)).or_default() += 1;
    }

    /// Adds what this version says to its subject's chart, and lets versions of a resource that changed its subject retire
    /// each other in every chart they ever stood in, in whatever order they come.
    fn add_facts(&mut self, tx: &mut Tx<'_>, number: i64, message: &Prepared, known: &[Known]) -> Result<(), StoreError> {
        if let (Some(subject), Some(fact)) = (&message.subject, &message.fact) {
            self.facts.push(FactRow::new(subject, number, fact));
            self.touched.insert(subject.clone());
        }
        let own = message.subject.as_deref();
        // A version that says nothing still retires the older ones, wherever they stand.
        let says_nothing = own.is_some() && message.fact.is_none();
        if says_nothing || known.iter().any(|known| known.counts() && known.subject.as_deref() != own) {
            self.add_facts_across_subjects(tx, number, message, known)?;
        }
        if let (Some(subject), Some(fact)) = (own, &message.fact)
            && fact.source.resource_type == ResourceType::Patient
        {
            let mut has_link = false;
            if let Body::Person(person) = &fact.body {
                has_link = person.replaced_by.is_some() || !person.replaces.is_empty();
                for replaced in &person.replaces {
                    tx.execute(SQL_CLAIM, &[self.site.into(), replaced.as_str().into(), subject.into()])?;
                }
            }
            if let Body::PersonPart(part) = &fact.body {
                has_link = part.links();
            }
            // A version that cannot be read unsays the links of the one before.
            if has_link || self.linked.contains::<str>(subject) {
                self.relink_all(tx, subject)?;
            }
        }
        Ok(())
    }

    fn add_facts_across_subjects(&mut self, tx: &mut Tx<'_>, number: i64, message: &Prepared, known: &[Known]) -> Result<(), StoreError> {
        let (Some(resource_type), Some(id)) = (ResourceType::from_word(&message.resource_type), &message.id) else { return Ok(()) };
        let own = message.subject.as_deref();
        let known: Vec<&Known> = known.iter().filter(|known| known.counts()).collect();
        let named = known.iter().filter_map(|known| known.subject.as_deref()).chain(own);
        let others: BTreeSet<&str> = named.filter(|other| message.fact.is_none() || Some(*other) != own).collect();
        let nothing = |version: &Option<String>, last_updated_ms, status, issued_ms| Fact {
            source: Source {
                resource_type,
                id: id.as_str().into(),
                version: version.as_deref().map(CompactString::from),
                last_updated_ms,
                message: 0,
            },
            key: None,
            status,
            issued_ms,
            body: Body::Nothing,
        };
        for other in &others {
            let (status, issued_ms) = message.fact.as_ref().map_or((Status::Unknown, None), |fact| (fact.status, fact.issued_ms));
            self.facts.push(FactRow::new(other, number, &nothing(&message.version, message.last_updated_ms, status, issued_ms)));
            self.touched.insert((*other).into());
        }
        let Some(own) = own else { return Ok(()) };
        if known.iter().any(|known| known.subject.as_deref() == Some(own)) {
            return Ok(());
        }
        self.flush(tx)?;
        for earlier in known {
            let Version { status, issued_ms, .. } = earlier.whole(tx, self.site)?;
            self.facts.push(FactRow::new(own, earlier.message, &nothing(&earlier.version, earlier.last_updated_ms, status, issued_ms)));
        }
        Ok(())
    }

    /// As [`Batch::relink`], for a Patient of whom a version came and for all whom it ever said to replace.
    fn relink_all(&mut self, tx: &mut Tx<'_>, subject: &str) -> Result<(), StoreError> {
        self.relink(tx, subject)?;
        for row in tx.query(SQL_CLAIMED, &[self.site.into(), subject.into()])? {
            // A later version in this very batch may unsay it.
            self.linked.insert(subject.to_owned());
            self.relink(tx, row.text(0)?)?;
        }
        Ok(())
    }

    /// Brings `subjects.replaced_by` to what the patient's standing version says, and touches everyone along the old and the new way.
    fn relink(&mut self, tx: &mut Tx<'_>, subject: &str) -> Result<(), StoreError> {
        self.flush(tx)?;
        let link = link_of(tx, self.site, subject)?;
        let former = replaced_by(tx, self.site, subject)?;
        if link == former {
            return Ok(());
        }
        // A later version in this very batch may undo it.
        self.linked.insert(subject.to_owned());
        self.touched.insert(subject.into());
        for passed in walk(tx, self.site, subject)? {
            self.touched.insert(passed.into());
        }
        tx.execute(SQL_LINK, &[self.site.into(), subject.into(), self.now_ms.into(), link.as_ref().into()])?;
        for passed in walk(tx, self.site, subject)? {
            self.touched.insert(passed.into());
        }
        Ok(())
    }

    /// Writes what was gathered, so that statements can see it.
    fn flush(&mut self, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        let (site, feed, now_ms) = (self.site, self.feed, self.now_ms);
        tx.insert_many(
            &INSERT_MESSAGES,
            self.messages.iter().map(|row| {
                [
                    row.message.into(),
                    site.into(),
                    feed.into(),
                    now_ms.into(),
                    row.prepared.resource_type.as_str().into(),
                    row.prepared.id.as_deref().into(),
                    row.prepared.version.as_deref().into(),
                    row.prepared.last_updated_ms.into(),
                    row.prepared.subject.as_deref().into(),
                    row.disposition.word().into(),
                    row.issues.as_deref().into(),
                    row.prepared.code.as_deref().into(),
                    row.prepared.body_hash.as_str().into(),
                    row.mapping.into(),
                    row.derived_from.into(),
                ]
            }),
        )?;
        let is_kept = |row: &&MessageRow<'_>| {
            matches!(row.disposition, Disposition::Applied | Disposition::Superseded | Disposition::Quarantined) && !row.prepared.body.is_empty()
        };
        tx.insert_many(&INSERT_BODIES, self.messages.iter().filter(is_kept).map(|row| [row.message.into(), row.prepared.body.as_slice().into()]))?;
        self.messages.clear();
        tx.insert_many(
            &INSERT_FACTS,
            self.facts.iter().map(|row| [site.into(), row.subject.as_str().into(), row.message.into(), row.packed.as_slice().into()]),
        )?;
        self.facts.clear();
        Ok(())
    }

    fn end(mut self, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        self.flush(tx)?;
        touch(tx, self.site, self.now_ms, std::mem::take(&mut self.touched))?;
        let (site, feed) = (self.site, self.feed);
        tx.insert_many(
            &INSERT_TALLIES,
            self.tallies.iter().map(|((resource_type, code, disposition), messages)| {
                [site.into(), feed.into(), (*resource_type).into(), (*code).into(), disposition.word().into(), (*messages).into()]
            }),
        )?;
        let mut ends: BTreeMap<&str, i64> = BTreeMap::new();
        for ((_, _, disposition), messages) in self.tallies.iter().filter(|(_, messages)| 0 < **messages) {
            *ends.entry(disposition.word()).or_default() += messages;
        }
        let day = self.now_ms.div_euclid(86_400_000);
        let days = ends.into_iter().map(|(disposition, messages)| [site.into(), feed.into(), day.into(), disposition.into(), messages.into()]);
        tx.insert_many(&INSERT_DAYS, days)?;
        if 0 < self.received {
            tx.execute(SQL_FEED, &[site.into(), feed.into(), self.heard_ms.into(), self.received.into()])?;
        }
        tx.execute(SQL_END_NUMBERS, &[self.number.into()]).map(drop)
    }

    /// Replaces the outcome of a quarantined message by what `prepared` says now.
    fn drive(&mut self, tx: &mut Tx<'_>, number: i64, prepared: &Prepared) -> Result<Receipt, StoreError> {
        let Some(current) = message(tx, self.site, number)? else {
            return Err(StoreError::Broken(format!("message {number} is not in the ledger")));
        };
        if current.disposition != Disposition::Quarantined.word() {
            let is = disposition(&current.disposition)?;
            return Ok(receipt(Some(number), prepared, is, current.issues));
        }
        let known: Vec<Known> = match &prepared.id {
            Some(id) => known_of(tx, self.site, &prepared.resource_type, &[id])?.into_iter().map(|(_, known)| known).collect(),
            None => Vec::new(),
        };
        let others: Vec<Known> = known.iter().filter(|known| known.message != number).cloned().collect();
        let (disposition, issues) = if prepared.disposition == Disposition::Rejected {
            // What was taken is never handed back: it stays, with what is wrong with it now.
            (Disposition::Quarantined, prepared.issues.clone())
        } else {
            self.place(tx, prepared, &others)?
        };
        let is_conflict = issues.iter().any(|issue| issue.code == Code::VersionConflict);
        let mapping = hash_number(tx, &prepared.mapping_hash)?;
        let subjects: BTreeSet<&str> = known.iter().filter_map(|known| known.subject.as_deref()).chain(prepared.subject.as_deref()).collect();
        let mut former = None;
        for subject in &subjects {
            if let Some(row) = tx.query_one(SQL_FACT, &[self.site.into(), (*subject).into(), number.into()])? {
                if current.subject.as_deref() == Some(*subject) {
                    former = Some(serde_json::to_string(&read_fact(&row)?.body).expect("a fact is plain data"));
                }
                tx.execute(SQL_REPLACE_FACT, &[self.site.into(), (*subject).into(), number.into()])?;
                self.touched.insert((*subject).into());
            }
        }
        let issues_before = serde_json::to_string(&current.issues).expect("issues are plain data");
        let params: [Bind<'_>; 6] = [
            number.into(),
            self.now_ms.into(),
            current.disposition.as_str().into(),
            issues_before.as_str().into(),
            current.mapping_hash.as_str().into(),
            former.as_ref().into(),
        ];
        tx.execute(SQL_ADD_OUTCOME, &params)?;
        let text = (!issues.is_empty()).then(|| serde_json::to_string(&issues).expect("issues are plain data"));
        let params: [Bind<'_>; 7] = [
            disposition.word().into(),
            text.as_ref().into(),
            prepared.code.as_ref().into(),
            mapping.into(),
            prepared.subject.as_deref().into(),
            self.site.into(),
            number.into(),
        ];
        tx.execute(SQL_SET_OUTCOME, &params)?;
        if disposition == Disposition::OutOfScope {
            tx.execute(SQL_DROP_BODY, &[number.into()])?;
        }
        let moves = [
            (tally_code(Disposition::Quarantined, current.code.as_deref()), Disposition::Quarantined, -1),
            (tally_code(disposition, prepared.code.as_deref()), disposition, 1),
        ];
        let (site, resource_type, feed) = (self.site, current.resource_type.as_str(), current.feed.as_str());
        for (code, disposition, by) in moves {
            tx.insert_many(
                &INSERT_TALLIES,
                [[site.into(), feed.into(), resource_type.into(), code.into(), disposition.word().into(), Bind::Integer(by)]],
            )?;
        }
        if !is_conflict {
            self.add_facts(tx, number, prepared, &others)?;
        }
        Ok(receipt(Some(number), prepared, disposition, issues))
    }
}

/// What is out of scope or quarantined is counted by its code; of the rest the type is enough.
fn tally_code(disposition: Disposition, code: Option<&str>) -> &str {
    match disposition {
        Disposition::OutOfScope | Disposition::Quarantined => code.unwrap_or(""),
        Disposition::Applied | Disposition::Duplicate | Disposition::Superseded | Disposition::Rejected | Disposition::Echo => "",
    }
}

fn receipt(number: Option<i64>, message: &Prepared, disposition: Disposition, issues: Vec<Issue>) -> Receipt {
    Receipt {
        message: number,
        disposition,
        issues,
        resource_type: message.resource_type.clone(),
        id: message.id.clone(),
        version: message.version.clone(),
        subject: message.subject.clone(),
        derived: Vec::new(),
    }
}

fn lock_ledger(tx: &mut Tx<'_>) -> Result<i64, StoreError> {
    tx.query_one(SQL_LOCK_LEDGER, &[])?.ok_or_else(|| StoreError::Broken("the counter of messages is gone".into()))?.integer(0)
}

/// Marks subjects as waiting for judgement, and whoever they were merged into.
fn touch(tx: &mut Tx<'_>, site: &str, now_ms: i64, subjects: BTreeSet<CompactString>) -> Result<(), StoreError> {
    if subjects.is_empty() {
        return Ok(());
    }
    let ids: Vec<&str> = subjects.iter().map(CompactString::as_str).collect();
    let mut survivors: BTreeSet<CompactString> = BTreeSet::new();
    for row in query_by_ids(tx, SQL_LINKED, &[site.into()], &ids)? {
        survivors.extend(walk(tx, site, row.text(0)?)?.into_iter().map(CompactString::from));
    }
    let all: BTreeSet<&str> = ids.into_iter().chain(survivors.iter().map(CompactString::as_str)).collect();
    tx.insert_many(&INSERT_SUBJECTS, all.into_iter().map(|subject| [site.into(), subject.into(), Bind::Integer(1), now_ms.into()]))
}

fn status_of(tx: &mut Tx<'_>, site: &str, subject: &str, message: i64) -> Result<Option<(Status, Option<i64>)>, StoreError> {
    Ok(fact_of(tx, site, subject, message)?.map(|fact| (fact.status, fact.issued_ms)))
}

fn fact_of(tx: &mut Tx<'_>, site: &str, subject: &str, message: i64) -> Result<Option<Fact>, StoreError> {
    tx.query_one(SQL_FACT, &[site.into(), subject.into(), message.into()])?.as_ref().map(read_fact).transpose()
}

const SQL_REPLACED_BY: &str = "SELECT replaced_by FROM subjects WHERE site = $1 AND subject = $2";

fn replaced_by(tx: &mut Tx<'_>, site: &str, subject: &str) -> Result<Option<String>, StoreError> {
    match tx.query_one(SQL_REPLACED_BY, &[site.into(), subject.into()])? {
        Some(row) => row.optional_string(0),
        None => Ok(None),
    }
}

const SQL_LINK: &str = "INSERT INTO subjects (site, subject, revision, waiting_ms, replaced_by) VALUES ($1, $2, 0, $3, $4)
    ON CONFLICT (site, subject) DO UPDATE SET replaced_by = excluded.replaced_by";

/// The records that `subject` was merged into, in order; stops before it would pass one twice. A loop ends with its first record.
fn walk(tx: &mut Tx<'_>, site: &str, subject: &str) -> Result<Vec<String>, StoreError> {
    let mut passed: Vec<String> = Vec::new();
    let mut at = subject.to_owned();
    while let Some(next) = replaced_by(tx, site, &at)? {
        if passed.contains(&next) {
            break;
        }
        passed.push(next.clone());
        at = next;
    }
    Ok(passed)
}

const SQL_CLAIM: &str = "INSERT INTO merge_claims (site, subject, claimed_by) VALUES ($1, $2, $3) ON CONFLICT (site, subject, claimed_by) DO NOTHING";
const SQL_CLAIMED: &str = "SELECT subject FROM merge_claims WHERE site = $1 AND claimed_by = $2 ORDER BY subject";
const SQL_CLAIMS: &str = "SELECT claimed_by FROM merge_claims WHERE site = $1 AND subject = $2 ORDER BY claimed_by";

/// The record that a Patient was merged into: the one it names itself as `replaced-by`, else the one that says to replace it.
fn link_of(tx: &mut Tx<'_>, site: &str, subject: &str) -> Result<Option<String>, StoreError> {
    if let Some(link) = person_of(tx, site, subject, None)?.and_then(|person| person.replaced_by) {
        return Ok(Some(link.to_string()));
    }
    claimed_by(tx, site, subject)
}

/// Who says to replace a Patient; of several the first by id.
fn claimed_by(tx: &mut Tx<'_>, site: &str, subject: &str) -> Result<Option<String>, StoreError> {
    let mut claiming = Vec::new();
    for row in tx.query(SQL_CLAIMS, &[site.into(), subject.into()])? {
        let by = row.text(0)?;
        if person_of(tx, site, by, None)?.is_some_and(|person| person.replaces.iter().any(|replaced| replaced == subject)) {
            claiming.push(by.to_owned());
        }
    }
    Ok(claiming.into_iter().min())
}

/// What the standing version of a Patient says; `more` is a version that is not in the store yet.
fn person_of(tx: &mut Tx<'_>, site: &str, subject: &str, more: Option<&Fact>) -> Result<Option<Person>, StoreError> {
    let mut facts = facts_of_record(tx, site, subject)?;
    facts.retain(|fact| fact.source.resource_type == ResourceType::Patient);
    facts.extend(more.cloned());
    Ok(Chart::fold(facts, &[]).person.map(|person| person.body))
}

/// Reads `message, fact`.
fn read_fact(row: &Row) -> Result<Fact, StoreError> {
    fact::unpack(row.blob(1)?, row.integer(0)?)
}

/// Withdraws a resource (DELETE): every version up to `if_match`, else up to when its source deleted it, else the newest
/// held (rulings.md 23). `None` when this resource was never seen, unless the DELETE can be ordered among versions that may
/// come yet: then it is kept, and what is older stays withdrawn.
pub fn withdraw(tx: &mut Tx<'_>, site: &str, feed: &str, now_ms: i64, withdrawal: &Withdrawal) -> Result<Option<Receipt>, StoreError> {
    let Withdrawal { resource_type, id, if_match, deleted_ms } = withdrawal;
    let (if_match, deleted_ms) = (if_match.as_deref(), *deleted_ms);
    let Some(kind) = ResourceType::FHIR.into_iter().find(|kind| kind.word() == *resource_type) else { return Ok(None) };
    let mut batch = Batch::begin(tx, site, feed, now_ms)?;
    let known: Vec<Known> = known_of(tx, site, resource_type, &[id])?.into_iter().map(|(_, known)| known).filter(Known::counts).collect();
    let newest = newest_of(tx, site, known.iter().filter(|known| !known.is_withdrawal()).cloned())?;
    let is_ordered = if_match.is_some() || deleted_ms.is_some();
    if newest.is_none() && !is_ordered {
        return Ok(None);
    }
    let up_to = match if_match {
        Some(version) => known.iter().find(|known| !known.is_withdrawal() && known.version.as_deref() == Some(version)),
        None if deleted_ms.is_some() => None,
        None => newest.as_ref(),
    };
    // A DELETE that knows its time alone is no version of its own: the fold compares it by the time.
    let version = if_match.map(str::to_owned).or_else(|| up_to.and_then(|known| known.version.clone()));
    let last_updated_ms = deleted_ms.or(up_to.and_then(|known| known.last_updated_ms));
    let issued_ms = match up_to {
        Some(Known { message, subject: Some(subject), .. }) => status_of(tx, site, subject, *message)?.and_then(|(_, issued_ms)| issued_ms),
        Some(_) | None => None,
    };
    let fact = Fact {
        source: Source {
            resource_type: kind,
            id: id.as_str().into(),
            version: version.as_deref().map(CompactString::from),
            last_updated_ms,
            message: 0,
        },
        key: None,
        status: Status::Deleted,
        issued_ms,
        body: Body::Nothing,
    };
    let subject = newest.as_ref().and_then(|newest| newest.subject.as_deref()).map(CompactString::from);
    // Of what was never here the message alone is kept, for versions that come late.
    let prepared = Prepared {
        resource_type: resource_type.to_owned(),
        id: Some(id.to_owned()),
        version,
        last_updated_ms,
        body_hash: String::new(),
        body: Vec::new(),
        fact: subject.is_some().then_some(fact),
        subject,
        issues: Vec::new(),
        disposition: Disposition::Applied,
        code: None,
        mapping_hash: String::new(),
        derived: Vec::new(),
    };
    batch.received = 1;
    let before = known.iter().find(|known| known.is_withdrawal() && known.version == prepared.version && known.last_updated_ms == last_updated_ms);
    if let Some(before) = before {
        batch.count(&prepared, Disposition::Duplicate);
        batch.end(tx)?;
        return Ok(Some(receipt(Some(before.message), &prepared, Disposition::Duplicate, Vec::new())));
    }
    let mapping = hash_number(tx, "")?;
    let receipt = batch.keep(&prepared, Disposition::Applied, Vec::new(), mapping, None);
    batch.add_facts(tx, batch.number, &prepared, &known)?;
    if kind == ResourceType::Patient {
        batch.relink_all(tx, id)?;
    }
    batch.end(tx)?;
    Ok(Some(receipt))
}

const SQL_WAITING: &str = "SELECT site, subject FROM subjects WHERE waiting_ms IS NOT NULL ORDER BY waiting_ms, site, subject LIMIT $1";

/// Subjects whose chart changed since they were judged, oldest change first.
pub fn waiting(tx: &mut Tx<'_>, limit: usize) -> Result<Vec<(String, String)>, StoreError> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    tx.query(SQL_WAITING, &[limit.into()])?.iter().map(|row| Ok((row.string(0)?, row.string(1)?))).collect()
}

const SQL_WAITING_OF: &str = "SELECT subject FROM subjects WHERE site = $1 AND waiting_ms IS NOT NULL AND subject IN ({})";
const SQL_WAITING_SINCE: &str = "SELECT subject FROM subjects WHERE waiting_ms = $1 AND site = $2";

/// Those of these subjects who wait for judgement, and whoever else a commit at `now_ms` touched: the records that they
/// are, or were, merged into.
pub fn waiting_of(tx: &mut Tx<'_>, site: &str, now_ms: i64, subjects: &[&str]) -> Result<Vec<(String, String)>, StoreError> {
    let mut rows = query_by_ids(tx, SQL_WAITING_OF, &[site.into()], subjects)?;
    rows.extend(tx.query(SQL_WAITING_SINCE, &[now_ms.into(), site.into()])?);
    let waiting: BTreeSet<String> = rows.iter().map(|row| row.string(0)).collect::<Result<_, _>>()?;
    Ok(waiting.into_iter().map(|subject| (site.to_owned(), subject)).collect())
}

const SQL_POSTPONE: &str = "UPDATE subjects SET waiting_ms = $1 WHERE site = $2 AND subject = $3 AND waiting_ms IS NOT NULL";

/// Sends a subject that could not be judged to the end of the queue, so that it keeps nobody waiting.
pub fn postpone(tx: &mut Tx<'_>, site: &str, subject: &str, now_ms: i64) -> Result<(), StoreError> {
    tx.execute(SQL_POSTPONE, &[now_ms.into(), site.into(), subject.into()]).map(drop)
}

/// All facts of one subject, with those of the records merged into it; `merged_into` when the subject itself was merged away.
pub struct SubjectFacts {
    /// Of merged records all but the Patient: who the person is, the surviving record says.
    pub facts: Vec<Fact>,
    pub merged_into: Option<String>,
    /// Changes when any fact is added; `screening::record` checks it, so that a judgement never overtakes a fact.
    pub revision: i64,
}

const SQL_FACTS: &str = "SELECT message, fact FROM facts WHERE site = $1 AND subject = $2 ORDER BY message";
const SQL_FACT: &str = "SELECT message, fact FROM facts WHERE site = $1 AND subject = $2 AND message = $3";
const SQL_REPLACE_FACT: &str = "DELETE FROM facts WHERE site = $1 AND subject = $2 AND message = $3";
const SQL_SUBJECT: &str = "SELECT revision, replaced_by FROM subjects WHERE site = $1 AND subject = $2";
const SQL_MERGED: &str = "SELECT subject FROM subjects WHERE site = $1 AND replaced_by = $2 ORDER BY subject";

pub fn facts(tx: &mut Tx<'_>, site: &str, subject: &str) -> Result<SubjectFacts, StoreError> {
    let (revision, is_linked) = match tx.query_one(SQL_SUBJECT, &[site.into(), subject.into()])? {
        Some(row) => (row.integer(0)?, row.optional_text(1)?.is_some()),
        None => (0, false),
    };
    let merged_into = if is_linked { survivor(tx, site, subject)? } else { None };
    let mut facts = facts_of_record(tx, site, subject)?;
    if is_linked && merged_into.is_none() {
        // Linked, and yet nobody else stands for it: it is not away.
        for fact in &mut facts {
            if let Body::Person(person) = &mut fact.body {
                person.replaced_by = None;
            }
        }
    }
    let mut open = vec![subject.to_owned()];
    let mut seen: HashSet<String> = HashSet::from([subject.to_owned()]);
    while let Some(record) = open.pop() {
        for row in tx.query(SQL_MERGED, &[site.into(), record.as_str().into()])? {
            let merged = row.string(0)?;
            // Records that name each other in a ring are not merged.
            if seen.insert(merged.clone()) && survivor(tx, site, &merged)?.is_some() {
                facts.extend(facts_of_record(tx, site, &merged)?.into_iter().filter(|fact| fact.source.resource_type != ResourceType::Patient));
                open.push(merged);
            }
        }
    }
    Ok(SubjectFacts { facts, merged_into, revision })
}

fn facts_of_record(tx: &mut Tx<'_>, site: &str, subject: &str) -> Result<Vec<Fact>, StoreError> {
    tx.query(SQL_FACTS, &[site.into(), subject.into()])?.iter().map(read_fact).collect()
}

/// The record that stands for `subject`; `None` when it stands for itself, as the members of a ring do, and a test record
/// that is said to be one with a real one.
fn survivor(tx: &mut Tx<'_>, site: &str, subject: &str) -> Result<Option<String>, StoreError> {
    let way = walk(tx, site, subject)?;
    if way.iter().any(|passed| passed == subject) {
        return Ok(None);
    }
    let mut stands: Option<&str> = None;
    let mut is_test = is_test(tx, site, subject)?;
    for passed in &way {
        let is_next_test = self::is_test(tx, site, passed)?;
        if is_test.is_some_and(|is_test| is_next_test.is_some_and(|next| next != is_test)) {
            break;
        }
        stands = Some(passed);
        is_test = is_test.or(is_next_test);
        // The first on the way that is merged no further: the last one, or the first member of a ring.
        if walk(tx, site, passed)?.contains(passed) {
            break;
        }
    }
    Ok(stands.map(str::to_owned))
}

/// Whether a record is labelled as a test; `None` while no Patient came.
fn is_test(tx: &mut Tx<'_>, site: &str, subject: &str) -> Result<Option<bool>, StoreError> {
    Ok(person_of(tx, site, subject, None)?.map(|person| person.is_test))
}

const SQL_SUBJECTS: &str = "SELECT subject FROM subjects WHERE site = $1";

/// Everyone at a site of whom something was ever told.
pub fn subjects(tx: &mut Tx<'_>, site: &str) -> Result<Vec<String>, StoreError> {
    tx.query(SQL_SUBJECTS, &[site.into()])?.iter().map(|row| row.string(0)).collect()
}

/// How far a site's charts have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub subjects: i64,
    /// Grows with every change of any chart.
    pub revisions: i64,
    /// Subjects whose chart changed since they were judged.
    pub waiting: i64,
}

const SQL_EXTENT: &str = "SELECT COUNT(*), CAST(COALESCE(SUM(revision), 0) AS BIGINT), COUNT(waiting_ms) FROM subjects WHERE site = $1";

pub fn extent(tx: &mut Tx<'_>, site: &str) -> Result<Extent, StoreError> {
    let row = tx.query_one(SQL_EXTENT, &[site.into()])?.ok_or_else(|| StoreError::Broken("a count gave no row".into()))?;
    Ok(Extent { subjects: row.integer(0)?, revisions: row.integer(1)?, waiting: row.integer(2)? })
}

const SQL_ADD_OUTCOME: &str = "INSERT INTO outcomes (message, outcome, replaced_ms, disposition, issues, mapping_hash, fact)
    SELECT $1, COUNT(*), $2, $3, $4, $5, $6 FROM outcomes WHERE message = $1";
const SQL_SET_OUTCOME: &str =
    "UPDATE messages SET disposition = $1, issues = $2, code = $3, mapping = $4, subject = $5 WHERE site = $6 AND message = $7";
const SQL_DROP_BODY: &str = "DELETE FROM bodies WHERE message = $1";

/// Replaces the outcome of a quarantined message after it was prepared anew; counts follow; the earlier outcome stays in the
/// history. What an HL7 v2 message says now and did not say before is received from its feed, at the time of the message.
pub fn redrive(tx: &mut Tx<'_>, site: &str, message: i64, now_ms: i64, prepared: &Prepared) -> Result<Receipt, StoreError> {
    let brought = if prepared.derived.is_empty() { None } else { super::messages::message(tx, site, message)? };
    let feed = brought.as_ref().map_or("", |brought| brought.feed.as_str());
    let mut batch = Batch::begin(tx, site, feed, now_ms)?;
    batch.heard_ms = brought.as_ref().map_or(now_ms, |brought| brought.received_ms);
    let mut receipt = batch.drive(tx, message, prepared)?;
    if !prepared.derived.is_empty() {
        batch.learn(tx, &[prepared])?;
        receipt.derived = batch.take_derived(tx, prepared, Some(message))?;
    }
    batch.end(tx)?;
    Ok(receipt)
}
