//! A download that is read by a thread that may block: pieces come through a bounded channel, are unpacked where they are
//! gzip, skipped where they were taken before, and cut into blocks. Whatever is not an end said as such is a break.

use std::io::{BufRead, BufReader, Cursor, Error, ErrorKind, Read, Result, Write};

use aws_lc_rs::digest::{Context, SHA256};
use flate2::read::MultiGzDecoder;
use tokio::sync::mpsc;

use super::manifest::{self, Content, NotNdjson, Outcomes};
use crate::digest::hex;
use crate::ehr::EhrError;
use crate::ehr::stream::Stream;
use crate::pipeline::backfill::{Blocks, Cut, LONGEST_BYTES, Place, Source};
use crate::store::downloads::Download;

/// Pieces of a file that may wait; one is some ten to some hundred kilobytes.
const PIECES_WAITING: usize = 16;
/// What is looked at to see whether a file is what its manifest says.
const START_BYTES: usize = 4096;
/// Longest line of an error file.
const OUTCOME_BYTES: u64 = 1 << 20;
/// Resources that are handed on at once, and after how many bytes fewer of them are.
const RESOURCES_AT_ONCE: usize = 1_000;
const BYTES_AT_ONCE: usize = 4 << 20;

/// A piece of a file, or that it is whole.
pub enum Piece {
    Bytes(Vec<u8>),
    End,
}

/// The end of the channel that is read.
pub struct Pieces {
    from: mpsc::Receiver<Piece>,
    at_hand: Cursor<Vec<u8>>,
    is_ended: bool,
}

pub fn channel() -> (mpsc::Sender<Piece>, Pieces) {
    let (send, from) = mpsc::channel(PIECES_WAITING);
    (send, Pieces { from, at_hand: Cursor::default(), is_ended: false })
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        loop {
            let read = self.at_hand.read(buffer)?;
            if read != 0 || buffer.is_empty() || self.is_ended {
                return Ok(read);
            }
            match self.from.blocking_recv() {
                Some(Piece::Bytes(bytes)) => self.at_hand = Cursor::new(bytes),
                Some(Piece::End) => self.is_ended = true,
                None => return Err(Error::from(ErrorKind::ConnectionAborted)),
            }
        }
    }
}

/// Hands a file on, piece by piece, until it ends, breaks off, or nobody wants more of it.
pub async fn pump(mut stream: Stream, send: mpsc::Sender<Piece>) -> std::result::Result<(), EhrError> {
    while let Some(piece) = stream.chunk().await? {
        if send.send(Piece::Bytes(piece.as_ref().to_vec())).await.is_err() {
            return Ok(());
        }
    }
    // Whoever does not want more does not want to know of its end either.
    let _ = send.send(Piece::End).await;
    Ok(())
}

/// A file that was opened.
pub struct Opened {
    /// Among those of one attempt.
    pub index: usize,
    /// Its name in the store.
    pub file: String,
    pub content: Content,
    pub resource_type: Option<String>,
    pub before: Option<Download>,
    pub pieces: Pieces,
}

/// Why a file was not taken to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It broke off.
    Broken,
    /// It is not the file of which something was taken before.
    Changed,
    NotNdjson(NotNdjson),
    /// The store has failed, and says why.
    Store,
}

/// Cuts files into blocks as they are opened; answers at which one it stopped, and why.
pub fn read_all(blocks: &mut Blocks<'_>, mut opened: mpsc::Receiver<Opened>) -> Option<(usize, Stop)> {
    while let Some(opened) = opened.blocking_recv() {
        let index = opened.index;
        match read(blocks, opened) {
            Ok(None) => {}
            Ok(Some(stop)) => return Some((index, stop)),
            // The network's breaks, and what cannot be unpacked: it is fetched again.
            Err(_) => return Some((index, Stop::Broken)),
        }
    }
    None
}

fn read(blocks: &mut Blocks<'_>, opened: Opened) -> Result<Option<Stop>> {
    let mut reader = match begun(opened.pieces, opened.content, opened.resource_type.as_deref())? {
        Ok(reader) => reader,
        Err(fault) => return Ok(Some(Stop::NotNdjson(fault))),
    };
    let mut hash = Context::new(&SHA256);
    let (mut bytes_done, mut lines_done) = (0, 0);
    if let Some(before) = opened.before {
        let length = u64::try_from(before.bytes_done).unwrap_or_default();
        let skipped = std::io::copy(&mut reader.by_ref().take(length), &mut Hashing(&mut hash))?;
        if skipped != length || hex(hash.clone().finish().as_ref()) != before.hash_so_far {
            return Ok(Some(Stop::Changed));
        }
        (bytes_done, lines_done) = (before.bytes_done, before.lines_done);
    }
    let place = Place::Download { file: opened.file };
    let source = Source { index: opened.index, place, bytes_done, lines_done, hash_so_far: Some(hash), is_cut_where_a_line_is: true };
    Ok(match blocks.lines(source, reader)? {
        Cut::Whole => None,
        Cut::Stopped => Some(Stop::Store),
    })
}

/// A file that begins as its manifest says.
fn begun(pieces: Pieces, content: Content, resource_type: Option<&str>) -> Result<std::result::Result<impl Read + Send, NotNdjson>> {
    let mut reader = unpacked(pieces)?;
    let mut start = Vec::new();
    reader.by_ref().take(START_BYTES as u64).read_to_end(&mut start)?;
    Ok(manifest::begins_as_ndjson(&start, content, resource_type).map(|()| Cursor::new(start).chain(reader)))
}

/// Hands on the resources of a file, some at once, until it ends or nobody wants more of it. A line that is no text is an
/// empty one; one that is too long comes as several that are no resources.
pub fn read_resources(
    pieces: Pieces,
    resource_type: Option<&str>,
    mut each: impl FnMut(Vec<String>) -> bool,
) -> Result<std::result::Result<(), NotNdjson>> {
    let mut reader = match begun(pieces, Content::Resources, resource_type)? {
        Ok(reader) => BufReader::new(reader),
        Err(fault) => return Ok(Err(fault)),
    };
    let (mut some, mut bytes) = (Vec::new(), 0);
    loop {
        let mut line = Vec::new();
        let read = reader.by_ref().take(LONGEST_BYTES as u64).read_until(b'\n', &mut line)?;
        if !line.trim_ascii().is_empty() {
            bytes += read;
            some.push(String::from_utf8(line.trim_ascii().to_vec()).unwrap_or_default());
        }
        let is_end = read == 0;
        if !some.is_empty() && (is_end || RESOURCES_AT_ONCE <= some.len() || BYTES_AT_ONCE <= bytes) {
            bytes = 0;
            if !each(std::mem::take(&mut some)) {
                return Ok(Ok(()));
            }
        }
        if is_end {
            return Ok(Ok(()));
        }
    }
}

/// The bytes themselves, where a file is sent as the gzip that it is; what was packed for the way only, the client unpacks.
fn unpacked(mut pieces: Pieces) -> Result<Box<dyn Read + Send>> {
    let mut magic = Vec::new();
    pieces.by_ref().take(2).read_to_end(&mut magic)?;
    let is_gzip = magic == [0x1f, 0x8b];
    let whole = Cursor::new(magic).chain(pieces);
    Ok(if is_gzip { Box::new(MultiGzDecoder::new(whole)) } else { Box::new(whole) })
}

struct Hashing<'a>(&'a mut Context);

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Counts the OperationOutcomes of an error file.
pub fn read_outcomes(pieces: Pieces, outcomes: &mut Outcomes) -> Result<()> {
    let mut reader = BufReader::new(unpacked(pieces)?);
    let mut line = Vec::new();
    loop {
        line.clear();
        if reader.by_ref().take(OUTCOME_BYTES).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        // A line that is longer is told as several that are none.
        outcomes.note(&line);
    }
}
