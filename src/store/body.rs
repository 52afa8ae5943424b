//! Received bytes and verdicts at rest: zstd, level 1. Resources are small and all alike, so a dictionary of our own
//! making (`body/1.txt`, with the tables that `body/finish.py` adds) takes most of what they share. The first byte says
//! which dictionary; a dictionary that was used is kept for ever.

use std::cell::RefCell;
use std::sync::LazyLock;

use zstd::bulk::{Compressor, Decompressor};
use zstd::dict::{DecoderDictionary, EncoderDictionary};

use super::StoreError;

/// Level 1: 2 and above cost twice the time for a tenth of the size (measured on laboratory results).
const LEVEL: i32 = 1;
/// What no packed body can exceed; guards against damaged rows. Far above the limits of the doors.
const LARGEST_BYTES: usize = 256 << 20;

/// A thread keeps no more room than this between bodies.
const LARGEST_SCRATCH_BYTES: usize = 1 << 20;

const PLAIN: u8 = 0;
const RESOURCE: u8 = 1;

const RESOURCE_DICTIONARY: &[u8] = include_bytes!("body/1.zdict");
static RESOURCE_ENCODER: LazyLock<EncoderDictionary<'static>> = LazyLock::new(|| EncoderDictionary::copy(RESOURCE_DICTIONARY, LEVEL));
static RESOURCE_DECODER: LazyLock<DecoderDictionary<'static>> = LazyLock::new(|| DecoderDictionary::copy(RESOURCE_DICTIONARY));

thread_local! {
    // A context is dear to make and cheap to use again.
    static RESOURCE_COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static PLAIN_COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    // Most bodies shrink to a fifth of what they might need: the room for it is made once.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Packs the bytes of one FHIR resource.
pub fn pack(bytes: &[u8]) -> Vec<u8> {
    RESOURCE_COMPRESSOR.with_borrow_mut(|compressor| {
        let compressor = compressor
            .get_or_insert_with(|| Compressor::with_prepared_dictionary(&RESOURCE_ENCODER).expect("zstd makes a context unless memory is out"));
        packed(RESOURCE, compressor, bytes)
    })
}

/// Packs a text that is not a FHIR resource.
pub fn pack_plain(bytes: &[u8]) -> Vec<u8> {
    PLAIN_COMPRESSOR.with_borrow_mut(|compressor| {
        let compressor = compressor.get_or_insert_with(|| Compressor::new(LEVEL).expect("zstd makes a context unless memory is out"));
        packed(PLAIN, compressor, bytes)
    })
}

fn packed(mark: u8, compressor: &mut Compressor<'static>, bytes: &[u8]) -> Vec<u8> {
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.clear();
        scratch.reserve(zstd::zstd_safe::compress_bound(bytes.len()));
        compressor.compress_to_buffer(bytes, scratch).expect("zstd compresses into a buffer of its own bound");
        let mut out = Vec::with_capacity(1 + scratch.len());
        out.push(mark);
        out.extend_from_slice(scratch);
        scratch.shrink_to(LARGEST_SCRATCH_BYTES);
        out
    })
}

/// The bytes as they were packed.
pub fn unpack(packed: &[u8]) -> Result<Vec<u8>, StoreError> {
    let damaged = || StoreError::Broken("a kept body does not unpack: the store is damaged".into());
    let (mark, frame) = packed.split_first().ok_or_else(damaged)?;
    let length = zstd::zstd_safe::get_frame_content_size(frame).ok().flatten().ok_or_else(damaged)?;
    let length = usize::try_from(length).ok().filter(|length| *length <= LARGEST_BYTES).ok_or_else(damaged)?;
    let mut decompressor = match *mark {
        PLAIN => Decompressor::new(),
        RESOURCE => Decompressor::with_prepared_dictionary(&RESOURCE_DECODER),
        _ => return Err(StoreError::Broken("a kept body was packed by a newer program: use that one".into())),
    }
    .map_err(|error| StoreError::Retry(error.to_string()))?;
    decompressor.decompress(frame, length).map_err(|_| damaged())
}
