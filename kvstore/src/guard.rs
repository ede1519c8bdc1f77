//! The result of a hit: the block's bytes, kept alive while they are used.

use crate::core::Core;
use crate::error::Corrupt;
use crate::key::{BlockId, Kind};
use crate::layout::Damage;
use crate::record::Bytes;
use crate::stats::Tier;
use std::fmt;
use std::ops::Index;
use std::sync::{Arc, Weak};

/// A block's bytes. A guard keeps the memory, or the mapping of the file, alive even if the store
/// evicts the block meanwhile.
///
/// Use the bytes, **then call [`Guard::check`]**, then trust what was computed. A block in the RAM
/// tier is a verified copy and always passes. A mapped block passes unless its file was truncated,
/// changed, or became unreadable while it was in use; its bytes may then read as zeros, but reading
/// them never ends the process.
#[derive(Clone)]
pub struct Guard {
    pub(crate) bytes: Bytes,
    pub(crate) tier: Tier,
    pub(crate) id: BlockId,
    /// Weak, so that guards that outlive the store do not keep its root locked.
    pub(crate) core: Weak<Core>,
}

impl Guard {
    /// The kind of data in the block.
    pub fn kind(&self) -> Kind {
        self.bytes.kind()
    }

    /// The tier in which the block was found.
    pub fn tier(&self) -> Tier {
        self.tier
    }

    /// True when the bytes are mapped from the file and not copied.
    pub fn is_mapped(&self) -> bool {
        matches!(self.bytes, Bytes::Mapped(_))
    }

    /// Number of parts.
    pub fn len(&self) -> usize {
        self.bytes.layout().parts.len()
    }

    /// True for a block with no parts.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of one part. They start at a multiple of 16 KiB. In a mapped block they start at a
    /// multiple of the system's page size: also 16 KiB on Apple Silicon, and 4 KiB on most Linux
    /// machines.
    pub fn part(&self, index: usize) -> Option<&[u8]> {
        self.bytes.layout().parts.get(index).map(|range| self.bytes.part(range))
    }

    /// The bytes of every part, in order.
    pub fn parts(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.bytes.layout().parts.iter().map(|range| self.bytes.part(range))
    }

    /// Call this after the last use of the bytes. An error means that some of them may have been
    /// wrong. The store has then set the block aside, and the next lookup is a miss.
    ///
    /// # Errors
    /// [`Corrupt`] when the file changed or failed under the mapping.
    pub fn check(&self) -> Result<(), Corrupt> {
        if self.bytes.is_intact() {
            return Ok(());
        }
        if let Some(core) = self.core.upgrade() {
            core.distrust(&self.id, &self.bytes);
        }
        Err(Corrupt)
    }
}

impl Index<usize> for Guard {
    type Output = [u8];

    /// The bytes of one part.
    ///
    /// # Panics
    /// Panics if there is no such part.
    fn index(&self, index: usize) -> &[u8] {
        self.bytes.part(&self.bytes.layout().parts[index])
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("key", &self.id.key)
            .field("kind", &self.kind())
            .field("parts", &self.len())
            .field("mapped", &self.is_mapped())
            .finish_non_exhaustive()
    }
}

impl Core {
    /// Sets a block aside because its mapping broke, unless the block was replaced meanwhile or
    /// another guard has reported the same mapping already.
    pub(crate) fn distrust(&self, id: &BlockId, bytes: &Bytes) {
        let Bytes::Mapped(broken) = bytes else { return };
        let mut state = self.state();
        let current = state.blocks.get(id).and_then(|block| block.mapped.upgrade());
        if current.is_some_and(|current| Arc::ptr_eq(&current, broken)) {
            state.discard_damaged(id, Damage::ShortRead, self.now_secs());
            drop(state);
            self.wake.notify_all();
        }
    }
}

/// Keeps blocks from being evicted to free space, in either tier, until dropped. Blocks that are
/// damaged, cleared or removed leave despite the pin.
pub struct Pin {
    pub(crate) ids: Vec<BlockId>,
    /// Weak, so that pins that outlive the store do not keep its root locked.
    pub(crate) core: Weak<Core>,
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pin").field("blocks", &self.ids.len()).finish_non_exhaustive()
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        if let Some(core) = self.core.upgrade() {
            let mut state = core.state();
            self.ids.iter().for_each(|id| state.pins.remove(id));
        }
    }
}
