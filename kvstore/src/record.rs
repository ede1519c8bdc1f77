//! Records as they are put, as they stay in memory, and as they are returned.

use crate::buffer::{Buffer, MemoryShare};
use crate::disk::Mapped;
use crate::key::{Key, Kind};
use crate::layout::record::Layout;
use crate::stats::DropReason;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// A block handed to [`Store::put`](crate::Store::put).
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// The kind of data in the block.
    pub kind: Kind,
    /// The block's key, derived from its content.
    pub key: Key,
    /// The key of the block before it in its chain.
    pub parent: Option<Key>,
    /// Stored with the block and compared, byte by byte, on every hit.
    pub witness: &'a [u8],
    /// The bytes. Each part is returned aligned, see [`Guard::part`](crate::Guard::part).
    pub parts: &'a [&'a [u8]],
}

/// A [`Record`] whose bytes are not computed yet, see [`Store::put_with`](crate::Store::put_with).
#[derive(Clone, Copy, Debug)]
pub struct RecordShape<'a> {
    /// The kind of data in the block.
    pub kind: Kind,
    /// The block's key, derived from its content.
    pub key: Key,
    /// The key of the block before it in its chain.
    pub parent: Option<Key>,
    /// Stored with the block and compared, byte by byte, on every hit.
    pub witness: &'a [u8],
    /// Length in bytes of each part.
    pub part_lens: &'a [usize],
}

impl RecordShape<'_> {
    /// The record's layout, or `None` when it exceeds a limit of the format.
    pub(crate) fn layout(&self) -> Option<Layout> {
        let lens: Vec<u64> = self.part_lens.iter().map(|len| *len as u64).collect();
        Layout::new(self.witness.len(), &lens)
    }
}

/// The result of [`Store::put`](crate::Store::put). The block may be requested at once in every
/// case; only a [`PutOutcome::Dropped`] block is certain to be a miss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutOutcome {
    /// It is readable and will be written.
    Queued,
    /// A block with that key is stored or waiting to be written.
    AlreadyStored,
    /// It is readable while the RAM tier keeps it, but will not be written.
    RamOnly(DropReason),
    /// It is not kept.
    Dropped(DropReason),
}

/// A block in our own memory.
#[derive(Debug)]
pub(crate) struct Resident {
    pub(crate) kind: Kind,
    pub(crate) parent: Option<Key>,
    pub(crate) witness: Box<[u8]>,
    pub(crate) layout: Layout,
    pub(crate) payload: Buffer,
}

/// Memory that a block of this layout takes.
pub(crate) fn memory_len(layout: &Layout, witness_len: usize) -> u64 {
    layout.payload_len + witness_len as u64
}

impl Resident {
    /// Makes a block of zeros. Returns `None` when the system has no memory left.
    pub(crate) fn blank(
        shape: &RecordShape<'_>,
        layout: Layout,
        share: MemoryShare,
    ) -> Option<Resident> {
        let payload = Buffer::new(layout.payload_len as usize, share)?;
        Some(Resident {
            kind: shape.kind,
            parent: shape.parent,
            witness: shape.witness.into(),
            layout,
            payload,
        })
    }

    /// The bytes of every part, without the padding between them.
    pub(crate) fn parts_mut(&mut self) -> Vec<&mut [u8]> {
        let (mut rest, mut at) = (self.payload.bytes_mut(), 0);
        let cut = |range: &Range<u64>| {
            let (_, from) = std::mem::take(&mut rest).split_at_mut((range.start - at) as usize);
            let (part, after) = from.split_at_mut((range.end - range.start) as usize);
            (rest, at) = (after, range.end);
            part
        };
        self.layout.parts.iter().map(cut).collect()
    }

    pub(crate) fn memory_len(&self) -> u64 {
        memory_len(&self.layout, self.witness.len())
    }
}

/// A block in a mapped file that was verified when it was mapped.
pub(crate) struct MappedBlock {
    pub(crate) kind: Kind,
    pub(crate) witness: Box<[u8]>,
    pub(crate) layout: Layout,
    pub(crate) map: Arc<dyn Mapped>,
}

impl fmt::Debug for MappedBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MappedBlock").field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// The memory that holds a guard's bytes.
#[derive(Clone)]
pub(crate) enum Bytes {
    Resident(Arc<Resident>),
    Mapped(Arc<MappedBlock>),
}

impl Bytes {
    pub(crate) fn layout(&self) -> &Layout {
        match self {
            Bytes::Resident(block) => &block.layout,
            Bytes::Mapped(block) => &block.layout,
        }
    }

    pub(crate) fn kind(&self) -> Kind {
        match self {
            Bytes::Resident(block) => block.kind,
            Bytes::Mapped(block) => block.kind,
        }
    }

    pub(crate) fn witness(&self) -> &[u8] {
        match self {
            Bytes::Resident(block) => &block.witness,
            Bytes::Mapped(block) => &block.witness,
        }
    }

    pub(crate) fn part(&self, range: &Range<u64>) -> &[u8] {
        let (payload, start) = match self {
            Bytes::Resident(block) => (block.payload.bytes(), 0),
            Bytes::Mapped(block) => (block.map.bytes(), block.layout.header_len),
        };
        &payload[(start + range.start) as usize..(start + range.end) as usize]
    }

    pub(crate) fn is_intact(&self) -> bool {
        match self {
            Bytes::Resident(_) => true,
            Bytes::Mapped(block) => block.map.is_intact(),
        }
    }
}
