//! Defines every byte offset of the format and nothing else. `docs/kvstore-format.md` draws the
//! layouts. All integers are little-endian.

// Fuzz targets and tests call it; release builds do not contain it.
#[cfg(debug_assertions)]
pub mod fuzz;
pub mod index;
pub mod record;

use xxhash_rust::xxh3::xxh3_128;

/// Alignment of every part, equal to the virtual-memory page size of Apple Silicon, so that each
/// part can be mapped and used by a GPU without a copy.
pub const ALIGN: u64 = 16 * 1024;

/// The newest format this build writes, and the only one it reads.
pub const FORMAT_VERSION: u32 = 1;

/// `len` rounded up to the next multiple of [`ALIGN`].
pub const fn align_up(len: u64) -> u64 {
    len.div_ceil(ALIGN) * ALIGN
}

/// Why bytes were refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// The header does not parse, fails its checksum, or has an unknown version.
    Header,
    /// The payload fails its checksum, or cannot be decrypted.
    Checksum,
    /// The file names another block than the requested one.
    Namespace,
    /// The file is shorter or longer than its header says, or its pages cannot be read.
    ShortRead,
}

impl Damage {
    /// Every damage, in the order that [`Damage::index`] counts them.
    pub const ALL: [Damage; 4] =
        [Damage::Header, Damage::Checksum, Damage::Namespace, Damage::ShortRead];

    /// The damage's index in [`Damage::ALL`].
    pub fn index(self) -> usize {
        match self {
            Damage::Header => 0,
            Damage::Checksum => 1,
            Damage::Namespace => 2,
            Damage::ShortRead => 3,
        }
    }

    /// The damage's label in metrics.
    pub fn name(self) -> &'static str {
        ["header", "checksum", "namespace", "short_read"][self.index()]
    }
}

/// Reads fields one after the other. Returns `None` when the bytes run out.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk::<N>()?;
        self.0 = tail;
        Some(*head)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.bytes::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.bytes().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.bytes().map(u64::from_le_bytes)
    }

    pub(crate) fn u128(&mut self) -> Option<u128> {
        self.bytes().map(u128::from_le_bytes)
    }
}

/// The checksum of headers and index frames.
pub(crate) fn checksum(bytes: &[u8]) -> u128 {
    xxh3_128(bytes)
}
