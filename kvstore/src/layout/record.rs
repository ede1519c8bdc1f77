//! The record file: one header region, then the parts.
//!
//! ```text
//! 0         256            256 + 8*parts      + witness   header_len                   file_len
//! +---------+--------------+------------------+-----------+----------------------------+
//! | fixed   | part lengths | witness          | zeros     | part 0 .. part n-1         |
//! | 256 B   | 8 B each     | witness_len B    |           | each padded to 16 KiB      |
//! +---------+--------------+------------------+-----------+----------------------------+
//! ```

use super::{ALIGN, Damage, FORMAT_VERSION, Fields, align_up, checksum};
use crate::key::{Key, Kind, Namespace};
use std::ops::Range;

/// First bytes of every record. The high bit, the line ends and the end-of-file mark reveal damage
/// by a transfer in text mode.
pub const MAGIC: [u8; 8] = *b"\x89OKV\r\n\x1a\n";

/// Most parts one record may have.
pub const MAX_PARTS: usize = 65_536;
/// Longest witness, in bytes.
pub const MAX_WITNESS: usize = 1 << 20;
/// Longest payload region, in bytes.
pub const MAX_PAYLOAD: u64 = 1 << 32;

/// Length of the fixed fields.
pub const FIXED_LEN: usize = 256;
const CHECKSUM_AT: usize = FIXED_LEN - 16;
const PART_ENTRY_LEN: usize = 8;

const FLAG_PARENT: u8 = 1;
const FLAG_SEALED: u8 = 2;

/// Nonce and tags of an encrypted record. The nonce is public; the tags authenticate the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seal {
    /// Random, and never used twice with the same key.
    pub nonce: [u8; 24],
    /// Authenticates the payload region.
    pub payload_tag: [u8; 16],
    /// Authenticates the witness.
    pub witness_tag: [u8; 16],
}

/// A record's header, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The type of data in the record.
    pub kind: Kind,
    /// The namespace it belongs to.
    pub namespace: Namespace,
    /// Its own key.
    pub key: Key,
    /// The key of the block before it in its chain.
    pub parent: Option<Key>,
    /// When it was written, in seconds since 1970.
    pub created_secs: u64,
    /// xxh3-128 of the payload region as stored (of the cipher text when sealed).
    pub payload_checksum: u128,
    /// Set when witness and payload are encrypted.
    pub seal: Option<Seal>,
    /// Length in bytes of each part.
    pub parts: Vec<u64>,
    /// The bytes compared on every hit, as stored (cipher text when sealed).
    pub witness: Vec<u8>,
}

/// Where the bytes of a record lie. All offsets are computed here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Length of the header region; the payload region starts here.
    pub header_len: u64,
    /// Each part, relative to the start of the payload region.
    pub parts: Vec<Range<u64>>,
    /// Length of the payload region, padding included.
    pub payload_len: u64,
}

impl Layout {
    /// Computes the layout of a record. Returns `None` when it exceeds a limit of the format.
    pub fn new(witness_len: usize, part_lens: &[u64]) -> Option<Layout> {
        if witness_len > MAX_WITNESS || part_lens.len() > MAX_PARTS {
            return None;
        }
        let used = FIXED_LEN + part_lens.len() * PART_ENTRY_LEN + witness_len;
        let mut at = 0u64;
        let mut parts = Vec::with_capacity(part_lens.len());
        for &len in part_lens {
            if len > MAX_PAYLOAD || at > MAX_PAYLOAD {
                return None;
            }
            parts.push(at..at + len);
            at = align_up(at + len);
        }
        (at <= MAX_PAYLOAD).then(|| Layout {
            header_len: align_up(used as u64),
            parts,
            payload_len: at,
        })
    }

    /// Length of the whole file.
    pub fn file_len(&self) -> u64 {
        self.header_len + self.payload_len
    }
}

/// The fixed fields, which tell how much more of the header to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// Length of the header region.
    pub header_len: u64,
    part_count: usize,
    witness_len: usize,
}

impl Prefix {
    /// True for the start of a record with a later version than this build reads.
    pub fn is_newer(bytes: &[u8]) -> bool {
        let mut fields = Fields(bytes);
        fields.bytes() == Some(MAGIC) && fields.u32().is_some_and(|v| v > FORMAT_VERSION)
    }

    /// Reads the sizes from the first [`FIXED_LEN`] bytes. Nothing is verified yet: the sizes are
    /// only compared with the format's limits, so that a damaged number causes no large allocation.
    pub fn decode(bytes: &[u8]) -> Result<Prefix, Damage> {
        let mut fields = Fields(bytes.get(..FIXED_LEN).ok_or(Damage::ShortRead)?);
        let read = (|| Some((fields.bytes::<8>()?, fields.u32()?, fields.u32()?)))();
        let (magic, version, _kind_and_flags) = read.ok_or(Damage::ShortRead)?;
        if magic != MAGIC || version != FORMAT_VERSION {
            return Err(Damage::Header);
        }
        let sizes = (|| Some((fields.u32()?, fields.u32()?, fields.u32()?)))();
        let (header_len, part_count, witness_len) = sizes.ok_or(Damage::ShortRead)?;
        let (part_count, witness_len) = (part_count as usize, witness_len as usize);
        if part_count > MAX_PARTS || witness_len > MAX_WITNESS {
            return Err(Damage::Header);
        }
        let used = FIXED_LEN + part_count * PART_ENTRY_LEN + witness_len;
        let header_len = u64::from(header_len);
        if header_len != align_up(used as u64) {
            return Err(Damage::Header);
        }
        Ok(Prefix { header_len, part_count, witness_len })
    }
}

impl Header {
    /// The layout that this header describes.
    pub fn layout(&self) -> Option<Layout> {
        Layout::new(self.witness.len(), &self.parts)
    }

    /// The identity fields, which the seal authenticates.
    pub fn identity(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(112 + 8 * self.parts.len());
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(&[self.kind.index() as u8, u8::from(self.parent.is_some())]);
        out.extend_from_slice(&self.namespace.0);
        out.extend_from_slice(&self.key.0);
        out.extend_from_slice(&self.parent.unwrap_or(Key([0; 32])).0);
        self.parts.iter().for_each(|len| out.extend_from_slice(&len.to_le_bytes()));
        out
    }

    /// Returns the whole header region, zero-padded to its aligned length. Returns `None` when the
    /// record exceeds a limit of the format.
    pub fn encode(&self) -> Option<Vec<u8>> {
        let layout = self.layout()?;
        let mut out = Vec::with_capacity(layout.header_len as usize);
        let mut flags = 0;
        if self.parent.is_some() {
            flags |= FLAG_PARENT;
        }
        if self.seal.is_some() {
            flags |= FLAG_SEALED;
        }
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(&[self.kind.index() as u8, flags, 0, 0]);
        out.extend_from_slice(&(layout.header_len as u32).to_le_bytes());
        out.extend_from_slice(&(self.parts.len() as u32).to_le_bytes());
        out.extend_from_slice(&(self.witness.len() as u32).to_le_bytes());
        out.extend_from_slice(&0u32.to_le_bytes());
        out.extend_from_slice(&self.namespace.0);
        out.extend_from_slice(&self.key.0);
        out.extend_from_slice(&self.parent.unwrap_or(Key([0; 32])).0);
        out.extend_from_slice(&layout.payload_len.to_le_bytes());
        out.extend_from_slice(&self.created_secs.to_le_bytes());
        out.extend_from_slice(&self.payload_checksum.to_le_bytes());
        let seal = self.seal.unwrap_or(Seal {
            nonce: [0; 24],
            payload_tag: [0; 16],
            witness_tag: [0; 16],
        });
        out.extend_from_slice(&seal.nonce);
        out.extend_from_slice(&seal.payload_tag);
        out.extend_from_slice(&seal.witness_tag);
        out.resize(FIXED_LEN, 0);
        self.parts.iter().for_each(|len| out.extend_from_slice(&len.to_le_bytes()));
        out.extend_from_slice(&self.witness);
        let sum = header_checksum(&out);
        out[CHECKSUM_AT..FIXED_LEN].copy_from_slice(&sum.to_le_bytes());
        out.resize(layout.header_len as usize, 0);
        Some(out)
    }

    /// Decodes a header region, which must reach at least to the end of the witness.
    pub fn decode(bytes: &[u8]) -> Result<Header, Damage> {
        let prefix = Prefix::decode(bytes)?;
        let table_end = FIXED_LEN + prefix.part_count * PART_ENTRY_LEN;
        let end = table_end + prefix.witness_len;
        let bytes = bytes.get(..end).ok_or(Damage::ShortRead)?;
        let stored = u128::from_le_bytes(bytes[CHECKSUM_AT..FIXED_LEN].try_into().expect("16 B"));
        if header_checksum(bytes) != stored {
            return Err(Damage::Header);
        }
        let parts = bytes[FIXED_LEN..table_end]
            .chunks_exact(PART_ENTRY_LEN)
            .map(|len| u64::from_le_bytes(len.try_into().expect("8 B")))
            .collect();
        let witness = bytes[table_end..].to_vec();
        let header = decode_fixed(&bytes[12..CHECKSUM_AT], parts, witness).ok_or(Damage::Header)?;
        let stored_payload_len = Fields(&bytes[PAYLOAD_LEN_AT..]).u64();
        match header.layout() {
            Some(layout) if Some(layout.payload_len) == stored_payload_len => Ok(header),
            _ => Err(Damage::Header),
        }
    }
}

const PAYLOAD_LEN_AT: usize = 128;

/// Decodes the fixed fields. `fixed` starts at the kind byte.
fn decode_fixed(fixed: &[u8], parts: Vec<u64>, witness: Vec<u8>) -> Option<Header> {
    let mut fields = Fields(fixed);
    let kind = *Kind::ALL.get(usize::from(fields.u8()?))?;
    let flags = fields.u8()?;
    if flags & !(FLAG_PARENT | FLAG_SEALED) != 0 {
        return None;
    }
    fields.bytes::<18>()?; // reserved, and the sizes, which `Prefix::decode` reads
    let namespace = Namespace(fields.bytes()?);
    let key = Key(fields.bytes()?);
    let parent = Key(fields.bytes()?);
    let _payload_len = fields.u64()?;
    let created_secs = fields.u64()?;
    let payload_checksum = fields.u128()?;
    let seal =
        Seal { nonce: fields.bytes()?, payload_tag: fields.bytes()?, witness_tag: fields.bytes()? };
    Some(Header {
        kind,
        namespace,
        key,
        parent: (flags & FLAG_PARENT != 0).then_some(parent),
        created_secs,
        payload_checksum,
        seal: (flags & FLAG_SEALED != 0).then_some(seal),
        parts,
        witness,
    })
}

/// The checksum of everything up to the end of the witness except the checksum itself.
fn header_checksum(bytes: &[u8]) -> u128 {
    let mut covered = Vec::with_capacity(bytes.len() - 16);
    covered.extend_from_slice(&bytes[..CHECKSUM_AT]);
    covered.extend_from_slice(&bytes[FIXED_LEN..]);
    checksum(&covered)
}

/// Gives fuzzed bytes a valid magic, version, lengths and checksum for their other fields. Returns
/// false when those fields exceed a limit.
#[cfg(debug_assertions)]
pub(super) fn make_right(bytes: &mut Vec<u8>) -> bool {
    bytes.resize(bytes.len().max(FIXED_LEN), 0);
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    let read = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 B")) as usize;
    let (part_count, witness_len) = (read(20), read(24));
    if part_count > MAX_PARTS || witness_len > MAX_WITNESS {
        return false;
    }
    let table_end = FIXED_LEN + part_count * PART_ENTRY_LEN;
    let used = table_end + witness_len;
    bytes.resize(used, 0);
    let lens: Vec<u64> = bytes[FIXED_LEN..table_end]
        .chunks_exact(PART_ENTRY_LEN)
        .map(|len| u64::from_le_bytes(len.try_into().expect("8 B")))
        .collect();
    let payload_len = Layout::new(witness_len, &lens).map_or(0, |layout| layout.payload_len);
    bytes[16..20].copy_from_slice(&(align_up(used as u64) as u32).to_le_bytes());
    bytes[PAYLOAD_LEN_AT..PAYLOAD_LEN_AT + 8].copy_from_slice(&payload_len.to_le_bytes());
    let sum = header_checksum(bytes);
    bytes[CHECKSUM_AT..FIXED_LEN].copy_from_slice(&sum.to_le_bytes());
    true
}

/// The longest header region that the format allows.
pub const MAX_HEADER: u64 = align_up((FIXED_LEN + MAX_PARTS * PART_ENTRY_LEN + MAX_WITNESS) as u64);
const _: () = assert!(MAX_HEADER.is_multiple_of(ALIGN) && MAX_HEADER < u32::MAX as u64);

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn sample() -> Header {
        Header {
            kind: Kind::Rotating,
            namespace: Namespace([7; 32]),
            key: Key([8; 32]),
            parent: Some(Key([9; 32])),
            created_secs: 1_700_000_000,
            payload_checksum: 0x0123_4567_89ab_cdef,
            seal: None,
            parts: vec![1, 0, ALIGN, ALIGN + 1],
            witness: vec![1, 2, 3, 4],
        }
    }

    #[test]
    fn parts_are_aligned_and_do_not_overlap() {
        let layout = sample().layout().unwrap();
        assert_eq!(layout.header_len, ALIGN);
        assert_eq!(
            layout.parts,
            vec![0..1, ALIGN..ALIGN, ALIGN..2 * ALIGN, 2 * ALIGN..3 * ALIGN + 1]
        );
        assert_eq!(layout.payload_len, 4 * ALIGN);
    }

    #[test]
    fn limits_are_enforced() {
        assert!(Layout::new(MAX_WITNESS, &[]).is_some());
        assert!(Layout::new(MAX_WITNESS + 1, &[]).is_none());
        assert!(Layout::new(0, &vec![0; MAX_PARTS]).is_some());
        assert!(Layout::new(0, &vec![0; MAX_PARTS + 1]).is_none());
        assert!(Layout::new(0, &[MAX_PAYLOAD]).is_some());
        assert!(Layout::new(0, &[MAX_PAYLOAD, 1]).is_none());
        assert!(Layout::new(0, &[u64::MAX]).is_none());
    }

    #[test]
    fn round_trips() {
        let mut header = sample();
        assert_eq!(Header::decode(&header.encode().unwrap()), Ok(header.clone()));
        header.parent = None;
        header.seal = Some(Seal { nonce: [1; 24], payload_tag: [2; 16], witness_tag: [3; 16] });
        assert_eq!(Header::decode(&header.encode().unwrap()), Ok(header));
    }

    #[test]
    fn fuzzed_bytes_are_made_right() {
        let good = sample().encode().unwrap();
        let end = FIXED_LEN + 4 * PART_ENTRY_LEN + 4;
        let mut bytes = good[..end].to_vec();
        for range in [0..20, 128..136, CHECKSUM_AT..FIXED_LEN] {
            bytes[range].fill(0);
        }
        bytes[12..14].copy_from_slice(&good[12..14]);
        assert!(make_right(&mut bytes));
        assert_eq!(Header::decode(&bytes), Ok(sample()));
        bytes[20..24].fill(255);
        assert!(!make_right(&mut bytes));
    }

    #[test]
    fn every_flipped_bit_before_the_padding_is_seen() {
        let header = sample();
        let good = header.encode().unwrap();
        let end = FIXED_LEN + header.parts.len() * PART_ENTRY_LEN + header.witness.len();
        for bit in 0..end * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(&bad).is_err(), "bit {bit} went unseen");
        }
    }

    #[test]
    fn a_later_version_is_rejected() {
        let mut bytes = sample().encode().unwrap();
        bytes[8] = 2;
        let sum = header_checksum(&bytes[..FIXED_LEN + 4 * PART_ENTRY_LEN + 4]);
        bytes[CHECKSUM_AT..FIXED_LEN].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(Header::decode(&bytes), Err(Damage::Header));
    }
}
