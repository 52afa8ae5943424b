//! MLLP's frames: 0x0B, a message, 0x1C 0x0D. What stands between frames means nothing; what does not end belongs to
//! nobody. Knows no socket.

use aws_lc_rs::digest::{Context, SHA256};

use crate::digest::hex;

const BEGIN: u8 = 0x0B;
const END: u8 = 0x1C;
const CARRIAGE_RETURN: u8 = 0x0D;

/// What one frame held.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    Whole(Vec<u8>),
    /// Longer than is taken: its beginning, for the answer, and the SHA-256 of all of it.
    TooLarge {
        begin: Vec<u8>,
        hash: String,
    },
}

/// Bytes kept of a frame that is too long: more than any MSH.
const BEGIN_BYTES: usize = 4 << 10;

/// Cuts what comes into frames.
pub struct Frames {
    limit: usize,
    state: State,
    /// Bytes since the last frame that were in none.
    pub junk: usize,
}

enum State {
    Between,
    Inside(Vec<u8>),
    /// Too long: it is passed over to its end.
    Passing {
        begin: Vec<u8>,
        context: Context,
    },
}

impl Frames {
    /// Takes frames of up to so many bytes.
    pub fn new(limit: usize) -> Frames {
        Frames { limit, state: State::Between, junk: 0 }
    }

    /// Whether a frame was begun and has not ended.
    pub fn is_inside(&self) -> bool {
        !matches!(self.state, State::Between)
    }

    /// The frames that end in these bytes. The end is 0x1C with or without the 0x0D behind it.
    pub fn push(&mut self, mut bytes: &[u8]) -> Vec<Frame> {
        let mut complete = Vec::new();
        while !bytes.is_empty() {
            if !self.is_inside() {
                let begin = memchr::memchr(BEGIN, bytes);
                let passed = &bytes[..begin.unwrap_or(bytes.len())];
                self.junk += passed.iter().filter(|byte| !byte.is_ascii_whitespace()).count();
                let Some(begin) = begin else { break };
                bytes = &bytes[begin + 1..];
                self.state = State::Inside(Vec::new());
                continue;
            }
            let end = memchr::memchr(END, bytes);
            self.append(&bytes[..end.unwrap_or(bytes.len())]);
            let Some(end) = end else { break };
            bytes = &bytes[end + 1..];
            bytes = bytes.strip_prefix(&[CARRIAGE_RETURN]).unwrap_or(bytes);
            complete.push(self.finish());
            self.junk = 0;
        }
        complete
    }

    fn append(&mut self, bytes: &[u8]) {
        match &mut self.state {
            State::Between => {}
            State::Inside(held) => {
                held.extend_from_slice(bytes);
                if self.limit < held.len() {
                    let mut context = Context::new(&SHA256);
                    context.update(held);
                    held.truncate(BEGIN_BYTES);
                    held.shrink_to_fit();
                    self.state = State::Passing { begin: std::mem::take(held), context };
                }
            }
            State::Passing { context, .. } => context.update(bytes),
        }
    }

    fn finish(&mut self) -> Frame {
        match std::mem::replace(&mut self.state, State::Between) {
            State::Between => Frame::Whole(Vec::new()),
            State::Inside(held) => match memchr::memmem::rfind(&held, b"\x0BMSH") {
                // The sender began anew without ending what it had begun.
                Some(anew) => Frame::Whole(held[anew + 1..].to_vec()),
                None => Frame::Whole(held),
            },
            State::Passing { begin, context } => Frame::TooLarge { begin, hash: hex(context.finish().as_ref()) },
        }
    }
}

/// One frame around these bytes.
pub fn framed(parts: &[&[u8]]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(3 + parts.iter().map(|part| part.len()).sum::<usize>());
    frame.push(BEGIN);
    for part in parts {
        frame.extend_from_slice(part);
    }
    frame.extend_from_slice(&[END, CARRIAGE_RETURN]);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(text: &str) -> Frame {
        Frame::Whole(text.as_bytes().to_vec())
    }

    #[test]
    fn frames_are_found_however_their_bytes_arrive() {
        let stream = b"\r\njunk\x0BMSH|one\r\x1C\r\n\x0BMSH|two\r\x1C\x0BMSH|broken\x0BMSH|three\r\x1C\r";
        for size in 1..=stream.len() {
            let mut frames = Frames::new(1_000);
            let complete: Vec<Frame> = stream.chunks(size).flat_map(|chunk| frames.push(chunk)).collect();
            assert_eq!(complete, [whole("MSH|one\r"), whole("MSH|two\r"), whole("MSH|three\r")], "{size}");
            assert!(!frames.is_inside());
        }
    }

    #[test]
    fn a_frame_that_is_too_long_is_passed_over_and_the_next_one_is_taken() {
        let mut frames = Frames::new(10);
        let complete = frames.push(b"\x0BMSH|far too long\x1C\r\x0BMSH|ok\x1C\r");
        let hash = crate::digest::sha256_hex(b"MSH|far too long");
        assert_eq!(complete, [Frame::TooLarge { begin: b"MSH|far too long".to_vec(), hash }, whole("MSH|ok")]);
    }

    #[test]
    fn what_is_no_frame_is_counted_until_a_frame_comes() {
        let mut frames = Frames::new(10);
        assert!(frames.push(b"GET / HTTP/1.1\r\n").is_empty());
        assert_eq!(frames.junk, 12);
        frames.push(b"\x0BMSH\x1C\r");
        assert_eq!(frames.junk, 0);
    }
}
