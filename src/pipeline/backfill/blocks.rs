//! Cuts a reader into blocks of whole lines, or takes it as one document. Knows no JSON, and not where the bytes come from.

use std::io::{Error, ErrorKind, Read, Result};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use aws_lc_rs::digest::{Context, SHA256};

use super::Place;
use crate::digest::hex;

/// Bytes that one worker takes at a time; about a thousand laboratory results.
pub const BLOCK_BYTES: usize = 1 << 20;
/// A longer line or document is refused, so that one broken source cannot fill the memory.
pub const LONGEST_BYTES: usize = 64 << 20;

/// Some whole lines of one source, or one document.
pub struct Block {
    /// Place in the order of all blocks.
    pub number: u64,
    pub source: usize,
    pub place: Arc<Place>,
    pub part: Part,
    /// Bytes of the source that came before this block.
    pub from_byte: u64,
    /// Where the source has been read to when this block is done.
    pub bytes_done: i64,
    pub lines_done: i64,
    pub is_finished: bool,
    /// Hash of the source's bytes up to there; empty where nobody asks.
    pub hash_so_far: String,
    pub first_line: u64,
}

pub enum Part {
    Lines(Vec<u8>),
    Document(Vec<u8>),
    /// A line that is too long, by the hash of its bytes; the bytes are gone.
    TooLong(String),
}

/// A source that is about to be read, from where it was left.
pub struct Source {
    /// For whoever names a rejected line.
    pub index: usize,
    pub place: Place,
    pub bytes_done: i64,
    pub lines_done: i64,
    /// Has taken in the bytes before, where the hash of what was read is kept.
    pub hash_so_far: Option<Context>,
    /// Whether a last line that is plainly cut off means that the source was: then it is an error, and the line is not taken.
    pub is_cut_where_a_line_is: bool,
}

/// How a source was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    Whole,
    /// Nobody takes blocks any more: the committer has failed and says why.
    Stopped,
}

/// The way to the workers.
pub struct Blocks<'a> {
    send: &'a SyncSender<Block>,
    number: u64,
}

impl<'a> Blocks<'a> {
    pub fn new(send: &'a SyncSender<Block>) -> Blocks<'a> {
        Blocks { send, number: 0 }
    }

    /// Cuts lines into blocks.
    pub fn lines(&mut self, source: Source, reader: impl Read) -> Result<Cut> {
        Reading::new(self, source, reader).lines()
    }

    /// Takes one document, of which no more was read than tells that it is too long; it has `length` bytes.
    pub fn document(&mut self, source: Source, document: Vec<u8>, length: u64) -> Cut {
        let part = match &source.place {
            Place::File { hash, .. } if LONGEST_BYTES < document.len() => Part::TooLong(hash.clone()),
            Place::File { .. } | Place::Download { .. } => Part::Document(document),
        };
        let given = Reading::new(self, source, std::io::empty()).give(length, 1, true, part);
        if given { Cut::Whole } else { Cut::Stopped }
    }
}

/// One source on its way to the workers.
struct Reading<'b, 'a, R> {
    blocks: &'b mut Blocks<'a>,
    index: usize,
    place: Arc<Place>,
    reader: R,
    bytes_done: i64,
    lines_done: i64,
    hash_so_far: Option<Context>,
    is_cut_where_a_line_is: bool,
}

impl<'b, 'a, R: Read> Reading<'b, 'a, R> {
    fn new(blocks: &'b mut Blocks<'a>, source: Source, reader: R) -> Reading<'b, 'a, R> {
        let Source { index, place, bytes_done, lines_done, hash_so_far, is_cut_where_a_line_is } = source;
        Reading { blocks, index, place: Arc::new(place), reader, bytes_done, lines_done, hash_so_far, is_cut_where_a_line_is }
    }

    fn lines(&mut self) -> Result<Cut> {
        let mut rest: Vec<u8> = Vec::new();
        loop {
            let mut block = std::mem::take(&mut rest);
            let before = block.len();
            let is_end = (&mut self.reader).take(BLOCK_BYTES as u64).read_to_end(&mut block)? == 0;
            if is_end && self.is_cut_where_a_line_is && is_cut_off(&block) {
                return Err(Error::from(ErrorKind::UnexpectedEof));
            }
            // Only what is new can hold the first line end.
            let end = if is_end { Some(block.len()) } else { memchr::memrchr(b'\n', &block[before..]).map(|place| before + place + 1) };
            match end {
                Some(end) => {
                    rest = block.split_off(end);
                    let lines = memchr::memchr_iter(b'\n', &block).count() as u64 + u64::from(block.last().is_some_and(|last| *last != b'\n'));
                    self.hash(&block);
                    if !self.give(block.len() as u64, lines, is_end, Part::Lines(block)) {
                        return Ok(Cut::Stopped);
                    }
                }
                None if LONGEST_BYTES < block.len() => match self.skip_line(block)? {
                    Some(after) => rest = after,
                    None => return Ok(Cut::Stopped),
                },
                None => rest = block,
            }
            if is_end {
                return Ok(Cut::Whole);
            }
        }
    }

    /// Passes over the rest of a line that is too long, keeping only its hash; answers what was read behind it.
    fn skip_line(&mut self, start: Vec<u8>) -> Result<Option<Vec<u8>>> {
        let mut context = Context::new(&SHA256);
        context.update(&start);
        self.hash(&start);
        let mut length = start.len() as u64;
        drop(start);
        let mut buffer = vec![0; BLOCK_BYTES];
        let mut after = Vec::new();
        loop {
            let read = self.reader.read(&mut buffer)?;
            let place = memchr::memchr(b'\n', &buffer[..read]);
            let of_line = place.unwrap_or(read);
            let with_its_end = of_line + usize::from(place.is_some());
            context.update(&buffer[..of_line]);
            self.hash(&buffer[..with_its_end]);
            length += with_its_end as u64;
            if let Some(place) = place {
                after.extend_from_slice(&buffer[place + 1..read]);
            }
            if place.is_some() || read == 0 {
                break;
            }
        }
        let is_given = self.give(length, 1, false, Part::TooLong(hex(context.finish().as_ref())));
        Ok(is_given.then_some(after))
    }

    fn hash(&mut self, bytes: &[u8]) {
        if let Some(context) = &mut self.hash_so_far {
            context.update(bytes);
        }
    }

    fn give(&mut self, bytes: u64, lines: u64, is_finished: bool, part: Part) -> bool {
        let (from_byte, first_line) = (self.bytes_done, self.lines_done);
        self.bytes_done += i64::try_from(bytes).unwrap_or(i64::MAX);
        self.lines_done += i64::try_from(lines).unwrap_or(i64::MAX);
        self.blocks.number += 1;
        let block = Block {
            number: self.blocks.number,
            source: self.index,
            place: self.place.clone(),
            part,
            from_byte: u64::try_from(from_byte).unwrap_or(0),
            bytes_done: self.bytes_done,
            lines_done: self.lines_done,
            is_finished,
            hash_so_far: self.hash_so_far.as_ref().map(|context| hex(context.clone().finish().as_ref())).unwrap_or_default(),
            first_line: u64::try_from(first_line).unwrap_or(0) + 1,
        };
        self.blocks.send.send(block).is_ok()
    }
}

/// Whether the last line has neither an end of its own nor the end of a JSON object.
fn is_cut_off(block: &[u8]) -> bool {
    block.last().is_some_and(|last| *last != b'\n') && block.trim_ascii_end().last().is_some_and(|last| *last != b'}')
}
