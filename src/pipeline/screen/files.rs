//! Files in pieces: which files there are, and the whole lines of one piece of one file. Knows nothing of FHIR.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Bytes of one piece; small enough to stay in a core's cache while it is looked through several times.
const PIECE_BYTES: u64 = 1 << 19;
/// How much is read at a time to find the end of a piece's last line.
const TAIL_BYTES: u64 = 1 << 12;

/// How a file holds resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One resource a line (NDJSON).
    Lines,
    /// One JSON document: a resource or a Bundle.
    Document,
}

#[derive(Clone, Debug)]
pub struct InputFile {
    pub path: PathBuf,
    pub layout: Layout,
    pub bytes: u64,
}

/// The lines of `file` that begin in `start..end`; a whole document where the layout is one.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    pub file: usize,
    pub start: u64,
    pub end: u64,
}

/// Finds the files of the paths: a file is taken as it is named, a folder with all below it, in order of name.
/// In a folder `.ndjson` and `.jsonl` are lines, `.json` a document, and everything else is left alone.
pub fn find(paths: &[PathBuf]) -> Result<Vec<InputFile>, (PathBuf, io::Error)> {
    let mut found = Vec::new();
    for path in paths {
        let kind = std::fs::metadata(path).map_err(|error| (path.clone(), error))?;
        if kind.is_dir() {
            find_below(path, &mut found)?;
        } else {
            let layout = layout(path).unwrap_or(Layout::Lines);
            found.push(InputFile { path: path.clone(), layout, bytes: kind.len() });
        }
    }
    Ok(found)
}

fn find_below(folder: &Path, found: &mut Vec<InputFile>) -> Result<(), (PathBuf, io::Error)> {
    let of_folder = |error| (folder.to_path_buf(), error);
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(of_folder)? {
        paths.push(entry.map_err(of_folder)?.path());
    }
    paths.sort();
    for path in paths {
        let kind = std::fs::metadata(&path).map_err(|error| (path.clone(), error))?;
        if kind.is_dir() {
            find_below(&path, found)?;
        } else if let Some(layout) = layout(&path) {
            found.push(InputFile { path, layout, bytes: kind.len() });
        }
    }
    Ok(())
}

fn layout(path: &Path) -> Option<Layout> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("ndjson" | "jsonl") => Some(Layout::Lines),
        Some("json") => Some(Layout::Document),
        Some(_) | None => None,
    }
}

/// Cuts the files into pieces, in the order of the files.
pub fn pieces(files: &[InputFile]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for (file, input) in files.iter().enumerate() {
        match input.layout {
            Layout::Document => pieces.push(Piece { file, start: 0, end: input.bytes }),
            Layout::Lines => {
                let starts = (0..input.bytes).step_by(PIECE_BYTES as usize);
                pieces.extend(starts.map(|start| Piece { file, start, end: (start + PIECE_BYTES).min(input.bytes) }));
            }
        }
    }
    pieces
}

/// Reads the whole lines that begin in this piece into `buffer`, and answers where in it they stand.
pub fn read(input: &InputFile, piece: Piece, buffer: &mut Vec<u8>) -> io::Result<std::ops::Range<usize>> {
    buffer.clear();
    let mut file = File::open(&input.path)?;
    // One byte before the piece tells whether a line begins just at its start.
    let from = piece.start.saturating_sub(1);
    file.seek(SeekFrom::Start(from))?;
    (&mut file).take(piece.end - from).read_to_end(buffer)?;
    if input.layout == Layout::Document {
        return Ok(0..buffer.len());
    }
    while piece.end < input.bytes && buffer.last() != Some(&b'\n') {
        let known = buffer.len();
        if (&mut file).take(TAIL_BYTES).read_to_end(buffer)? == 0 {
            break;
        }
        if let Some(end) = memchr::memchr(b'\n', &buffer[known..]) {
            buffer.truncate(known + end + 1);
        }
    }
    let first = match piece.start {
        0 => 0,
        _ => memchr::memchr(b'\n', buffer).map_or(buffer.len(), |newline| newline + 1),
    };
    Ok(first..buffer.len())
}
