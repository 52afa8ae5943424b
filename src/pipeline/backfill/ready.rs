//! Prepares blocks: each line or document becomes messages, or withdrawals. One worker's work, pure but for its channels.

use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Mutex, PoisonError};

use super::blocks::{Block, Part};
use crate::catalogue::Catalogue;
use crate::fhir::bundle;
use crate::hl7 as er7;
use crate::issue::{Code, Disposition, Issue};
use crate::mapping::Site;
use crate::pipeline::entries::{Asked, Reader, Withdrawal};
use crate::pipeline::hl7;
use crate::pipeline::receive::{Forms, prepare, prepare_line};
use crate::store::ledger::Prepared;

/// A block whose messages can be committed.
pub struct Ready {
    pub block: Block,
    pub messages: Vec<(u64, Prepared)>,
    /// DELETEs of history and transaction Bundles; they come after the messages beside them.
    pub withdrawals: Vec<Withdrawal>,
    /// Lines that are not empty, or one document.
    pub resources: u64,
}

/// Prepares blocks until there are no more.
pub fn prepare_blocks(catalogue: &Catalogue, site: &Site, blocks: &Mutex<Receiver<Block>>, send: &SyncSender<Ready>) {
    let mut forms = Forms::default();
    loop {
        let next = blocks.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(mut block) = next else { return };
        let mut taken = Taken { catalogue, site, messages: Vec::new(), withdrawals: Vec::new(), resources: 0 };
        match std::mem::replace(&mut block.part, Part::Lines(Vec::new())) {
            Part::Lines(bytes) => {
                for (number, line) in (block.first_line..).zip(lines_of(&bytes)) {
                    let line = line.strip_suffix(b"\r").unwrap_or(line);
                    if !line.iter().all(u8::is_ascii_whitespace) {
                        let message = prepare_line(catalogue, site, &mut forms, line);
                        taken.take(line, number, message);
                    }
                }
            }
            Part::Document(bytes) if er7::is_message(&bytes) => {
                // Messages have no lines: each is named by its place in the file.
                for (number, message) in (block.first_line..).zip(er7::messages(&bytes)) {
                    taken.messages.push((number, hl7::prepare(catalogue, site, &bytes[message])));
                }
                taken.resources += 1;
            }
            Part::Document(bytes) => taken.take(&bytes, block.first_line, prepare(catalogue, site, &bytes)),
            Part::TooLong(hash) => {
                let refused = Prepared::rejected("-", &[], &site.hash, vec![Issue::new(Code::TooLarge, "")]);
                taken.messages.push((block.first_line, Prepared { body_hash: hash, ..refused }));
                taken.resources += 1;
            }
        }
        for (line, message) in &mut taken.messages {
            if message.disposition == Disposition::Rejected {
                for issue in &mut message.issues {
                    let detail = match &issue.detail {
                        Some(detail) => format!("line {line}: {detail}"),
                        None => format!("line {line}"),
                    };
                    *issue = Issue::new(issue.code, std::mem::take(&mut issue.path)).with_detail(detail);
                }
            }
        }
        let Taken { messages, withdrawals, resources, .. } = taken;
        if send.send(Ready { block, messages, withdrawals, resources }).is_err() {
            return;
        }
    }
}

/// Lines, without their ends; a byte is looked at with many others at once.
fn lines_of(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut from = 0;
    memchr::memchr_iter(b'\n', bytes).chain(std::iter::once(bytes.len())).map(move |end| &bytes[std::mem::replace(&mut from, end + 1)..end])
}

/// What one block gives.
struct Taken<'a> {
    catalogue: &'a Catalogue,
    site: &'a Site,
    messages: Vec<(u64, Prepared)>,
    withdrawals: Vec<Withdrawal>,
    resources: u64,
}

impl Taken<'_> {
    /// Adds one message, or what each entry of a Bundle asks for.
    fn take(&mut self, bytes: &[u8], line: u64, message: Prepared) {
        self.resources += 1;
        if message.resource_type != "Bundle" || message.disposition == Disposition::Rejected {
            self.messages.push((line, message));
            return;
        }
        match bundle::split(bytes) {
            Ok(bundle) => {
                let reader = Reader::new(self.catalogue, self.site, &bundle);
                for index in 0..bundle.entries.len() {
                    match reader.read(index) {
                        Asked::Message { message, .. } => self.messages.push((line, *message)),
                        Asked::Withdraw(withdrawal) => self.withdrawals.push(withdrawal),
                    }
                }
            }
            Err(issue) => self.messages.push((line, message.into_rejected(issue))),
        }
    }
}
