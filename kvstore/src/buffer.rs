//! Page-aligned memory that is counted against a limit before it is allocated.

use crate::layout::ALIGN;
use crate::platform;
use memmap2::MmapMut;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Filling shorter buffers ahead of use is not worth an extra system call.
const FILL_FROM: usize = 256 << 10;

/// Counts the bytes of every live buffer: in the RAM tier, in the write queue or lent to a caller.
#[derive(Debug)]
pub(crate) struct MemoryGauge {
    live: AtomicU64,
    limit: u64,
}

impl MemoryGauge {
    pub(crate) fn new(limit: u64) -> Arc<Self> {
        Arc::new(MemoryGauge { live: AtomicU64::new(0), limit })
    }

    pub(crate) fn live(&self) -> u64 {
        self.live.load(Ordering::Relaxed)
    }

    /// Takes `bytes` out of the limit before they are allocated; `None` when they do not fit.
    pub(crate) fn reserve(self: &Arc<Self>, bytes: u64) -> Option<MemoryShare> {
        self.live
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |live| {
                live.checked_add(bytes).filter(|&sum| sum <= self.limit)
            })
            .ok()?;
        Some(MemoryShare { gauge: Arc::clone(self), bytes })
    }
}

/// A part of the memory limit. Dropping it returns the bytes.
#[derive(Debug)]
pub(crate) struct MemoryShare {
    gauge: Arc<MemoryGauge>,
    bytes: u64,
}

impl MemoryShare {
    /// Returns the bytes beyond `bytes` to the limit.
    pub(crate) fn shrink_to(&mut self, bytes: u64) {
        let spare = self.bytes.saturating_sub(bytes);
        self.bytes -= spare;
        self.gauge.live.fetch_sub(spare, Ordering::Relaxed);
    }
}

impl Drop for MemoryShare {
    fn drop(&mut self) {
        self.gauge.live.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Zeroed memory that starts at a multiple of [`ALIGN`]. Dropping it returns it to the system.
#[derive(Debug)]
pub(crate) struct Buffer {
    map: MmapMut,
    start: usize,
    len: usize,
    _share: MemoryShare,
}

impl Buffer {
    /// Returns `None` when the system has no memory left.
    pub(crate) fn new(len: usize, share: MemoryShare) -> Option<Buffer> {
        // A mapping starts at a system page, which may be smaller than ours.
        let map = MmapMut::map_anon(len.checked_add(ALIGN as usize)?).ok()?;
        if len >= FILL_FROM {
            platform::fill_pages(&map);
        }
        let start = map.as_ptr().align_offset(ALIGN as usize);
        Some(Buffer { map, start, len, _share: share })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map[self.start..self.start + self.len]
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.map[self.start..self.start + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_counted() {
        let gauge = MemoryGauge::new(100_000);
        for len in [0, 1, 16_384, 50_000] {
            let mut buffer = Buffer::new(len, gauge.reserve(len as u64).unwrap()).unwrap();
            assert_eq!(buffer.bytes().as_ptr() as usize % ALIGN as usize, 0);
            assert_eq!((buffer.bytes().len(), gauge.live()), (len, len as u64));
            buffer.bytes_mut().fill(7);
        }
        assert_eq!(gauge.live(), 0);
        let held = gauge.reserve(60_000).unwrap();
        assert!(gauge.reserve(40_001).is_none() && gauge.reserve(u64::MAX).is_none());
        drop(held);
        assert!(gauge.reserve(100_000).is_some());
    }
}
