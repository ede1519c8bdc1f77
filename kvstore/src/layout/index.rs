//! The index: a snapshot and the logs after it. Each file is a header followed by frames.
//!
//! ```text
//! file   | magic 8 | version 4 | role 4 | generation 8 | checksum 8 | frames ..
//! frame  | type 1 | zero 3 | body length 4 | checksum 8 | body
//! ```
//! The index only makes opening fast. Its claims are checked against the record itself before any
//! byte is returned, and a scan of the folders corrects it after every start.

use super::{FORMAT_VERSION, Fields, checksum};
use crate::key::{Key, Kind, Namespace};

/// First bytes of every index file.
pub const MAGIC: [u8; 8] = *b"\x89OKI\r\n\x1a\n";
/// Length of an index file's header.
pub const FILE_HEADER_LEN: usize = 32;
const FRAME_HEADER_LEN: usize = 16;
/// Longest body of a frame. A longer one is damage.
const MAX_BODY: usize = 256;

const TYPE_ADD: u8 = 1;
const TYPE_REMOVE: u8 = 2;
const TYPE_SPENT: u8 = 3;
const ADD_BODY_LEN: usize = 124;

/// Length of one [`Frame::Add`] in the index.
pub const ADD_LEN: usize = FRAME_HEADER_LEN + ADD_BODY_LEN;

/// The two types of index file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Every record that was stored at one moment.
    Snapshot,
    /// The changes since the snapshot of the same generation.
    Log,
}

/// A published record, as described in the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its key.
    pub key: Key,
    /// The key of the block before it.
    pub parent: Option<Key>,
    /// Its kind.
    pub kind: Kind,
    /// Number of times it was part of a chain that was looked up. It decays over time.
    pub uses: u8,
    /// Length of its file, in bytes.
    pub file_len: u64,
    /// Bytes that its file takes on the medium.
    pub physical: u64,
    /// When it was last used, in seconds since 1970.
    pub used_secs: u64,
}

/// One frame: a change to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A record was published.
    Add(Stored),
    /// A record's file was removed.
    Remove(Namespace, Key),
    /// Bytes written in one day, counted in days since 1970.
    Spent {
        /// The day.
        day: u64,
        /// Bytes written in that day so far.
        bytes: u64,
    },
}

/// The header of an index file.
pub fn encode_file_header(role: Role, generation: u64) -> [u8; FILE_HEADER_LEN] {
    let mut out = [0; FILE_HEADER_LEN];
    out[..8].copy_from_slice(&MAGIC);
    out[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    out[12..16].copy_from_slice(&(role as u32).to_le_bytes());
    out[16..24].copy_from_slice(&generation.to_le_bytes());
    let sum = short_checksum(&out[..24]);
    out[24..].copy_from_slice(&sum.to_le_bytes());
    out
}

/// Appends one frame to `out`.
pub fn encode_frame(frame: &Frame, out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + FRAME_HEADER_LEN, 0);
    let kind = match frame {
        Frame::Add(stored) => {
            out.extend_from_slice(&stored.namespace.0);
            out.extend_from_slice(&stored.key.0);
            out.extend_from_slice(&stored.parent.unwrap_or(Key([0; 32])).0);
            let flags = u8::from(stored.parent.is_some());
            out.extend_from_slice(&[stored.kind.index() as u8, flags, stored.uses, 0]);
            out.extend_from_slice(&stored.file_len.to_le_bytes());
            out.extend_from_slice(&stored.physical.to_le_bytes());
            out.extend_from_slice(&stored.used_secs.to_le_bytes());
            TYPE_ADD
        }
        Frame::Remove(namespace, key) => {
            out.extend_from_slice(&namespace.0);
            out.extend_from_slice(&key.0);
            TYPE_REMOVE
        }
        Frame::Spent { day, bytes } => {
            out.extend_from_slice(&day.to_le_bytes());
            out.extend_from_slice(&bytes.to_le_bytes());
            TYPE_SPENT
        }
    };
    let body_len = (out.len() - start - FRAME_HEADER_LEN) as u32;
    out[start] = kind;
    out[start + 4..start + 8].copy_from_slice(&body_len.to_le_bytes());
    let sum = frame_checksum(&out[start..]);
    out[start + 8..start + 16].copy_from_slice(&sum.to_le_bytes());
}

/// Reads an index file that is already in memory. Yields frames up to the first one that is torn,
/// damaged or unknown, and then ends.
pub struct Reader<'a> {
    bytes: &'a [u8],
    /// The generation that the file header names.
    pub generation: u64,
}

impl<'a> Reader<'a> {
    /// Checks the file header; `None` when it is not an index file of this version and role.
    pub fn new(bytes: &'a [u8], role: Role) -> Option<Reader<'a>> {
        let (header, frames) = bytes.split_first_chunk::<FILE_HEADER_LEN>()?;
        let generation = u64::from_le_bytes(header[16..24].try_into().expect("8 B"));
        (*header == encode_file_header(role, generation))
            .then_some(Reader { bytes: frames, generation })
    }
}

impl Iterator for Reader<'_> {
    type Item = Frame;

    fn next(&mut self) -> Option<Frame> {
        let header = self.bytes.get(..FRAME_HEADER_LEN)?;
        let body_len = u32::from_le_bytes(header[4..8].try_into().expect("4 B")) as usize;
        if body_len > MAX_BODY {
            return None;
        }
        let frame = self.bytes.get(..FRAME_HEADER_LEN + body_len)?;
        let stored = u64::from_le_bytes(header[8..16].try_into().expect("8 B"));
        if frame_checksum(frame) != stored {
            return None;
        }
        let decoded = decode_body(header[0], &frame[FRAME_HEADER_LEN..])?;
        self.bytes = &self.bytes[frame.len()..];
        Some(decoded)
    }
}

fn decode_body(kind: u8, body: &[u8]) -> Option<Frame> {
    let mut fields = Fields(body);
    let frame = match kind {
        TYPE_ADD => Frame::Add(decode_stored(&mut fields)?),
        TYPE_REMOVE => Frame::Remove(Namespace(fields.bytes()?), Key(fields.bytes()?)),
        TYPE_SPENT => Frame::Spent { day: fields.u64()?, bytes: fields.u64()? },
        _ => return None,
    };
    fields.0.is_empty().then_some(frame)
}

fn decode_stored(fields: &mut Fields<'_>) -> Option<Stored> {
    let namespace = Namespace(fields.bytes()?);
    let key = Key(fields.bytes()?);
    let parent = Key(fields.bytes()?);
    let [kind, flags, uses, _zero] = fields.bytes()?;
    Some(Stored {
        namespace,
        key,
        parent: (flags & 1 != 0).then_some(parent),
        kind: *Kind::ALL.get(usize::from(kind))?,
        uses,
        file_len: fields.u64()?,
        physical: fields.u64()?,
        used_secs: fields.u64()?,
    })
}

/// Gives fuzzed frames valid checksums and lengths within the limit.
#[cfg(debug_assertions)]
pub(super) fn make_frames_right(mut bytes: &mut [u8]) {
    while bytes.len() >= FRAME_HEADER_LEN {
        // In most cases, use a length that fits one of the types.
        let body_len = match bytes[4] {
            0..64 => ADD_BODY_LEN,
            64..128 => 64,
            128..192 => 16,
            other => usize::from(other),
        };
        if bytes.len() < FRAME_HEADER_LEN + body_len {
            return;
        }
        bytes[4..8].copy_from_slice(&(body_len as u32).to_le_bytes());
        let (frame, tail) = bytes.split_at_mut(FRAME_HEADER_LEN + body_len);
        let sum = frame_checksum(frame);
        frame[8..16].copy_from_slice(&sum.to_le_bytes());
        bytes = tail;
    }
}

fn short_checksum(bytes: &[u8]) -> u64 {
    checksum(bytes) as u64
}

/// The checksum of a frame's type, length and body.
fn frame_checksum(frame: &[u8]) -> u64 {
    let mut covered = [0; FRAME_HEADER_LEN - 8 + MAX_BODY];
    let body = &frame[FRAME_HEADER_LEN..];
    covered[..8].copy_from_slice(&frame[..8]);
    covered[8..8 + body.len()].copy_from_slice(body);
    short_checksum(&covered[..8 + body.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<Frame> {
        let stored = Stored {
            namespace: Namespace([1; 32]),
            key: Key([2; 32]),
            parent: Some(Key([3; 32])),
            kind: Kind::Recurrent,
            uses: 4,
            file_len: 5,
            physical: 6,
            used_secs: 7,
        };
        vec![
            Frame::Add(stored),
            Frame::Add(Stored { parent: None, ..stored }),
            Frame::Remove(Namespace([8; 32]), Key([9; 32])),
            Frame::Spent { day: 10, bytes: 11 },
        ]
    }

    fn encoded() -> Vec<u8> {
        let mut bytes = encode_file_header(Role::Log, 3).to_vec();
        sample().iter().for_each(|frame| encode_frame(frame, &mut bytes));
        bytes
    }

    #[test]
    fn round_trips() {
        let bytes = encoded();
        let reader = Reader::new(&bytes, Role::Log).unwrap();
        assert_eq!(reader.generation, 3);
        assert_eq!(reader.collect::<Vec<_>>(), sample());
        assert!(Reader::new(&bytes, Role::Snapshot).is_none());
        assert_eq!(bytes.len() - FILE_HEADER_LEN, 2 * ADD_LEN + (16 + 64) + (16 + 16));
    }

    #[test]
    fn fuzzed_frames_are_made_right() {
        let mut bytes = encoded();
        let at = FILE_HEADER_LEN;
        bytes[at + 4..at + 16].fill(0);
        assert_eq!(Reader::new(&bytes, Role::Log).unwrap().count(), 0);
        make_frames_right(&mut bytes[at..at + ADD_LEN]);
        assert_eq!(Reader::new(&bytes, Role::Log).unwrap().collect::<Vec<_>>(), sample());
    }

    #[test]
    fn a_torn_or_flipped_log_yields_a_true_prefix() {
        let bytes = encoded();
        for cut in 0..bytes.len() {
            if let Some(reader) = Reader::new(&bytes[..cut], Role::Log) {
                assert!(sample().starts_with(&reader.collect::<Vec<_>>()));
            }
        }
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            if let Some(reader) = Reader::new(&bad, Role::Log) {
                let read = reader.collect::<Vec<_>>();
                assert!(read.len() < sample().len() && sample().starts_with(&read), "bit {bit}");
            }
        }
    }
}
