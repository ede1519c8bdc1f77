//! Reads whole files without filling the system's cache.
//!
//! A record that is read becomes the RAM tier's copy. A second copy in the system's cache would
//! take memory from the model. The disk reads into a *window*, one huge page of memory that is
//! reused for the next file, and not into the record's own buffer: disks were measured to read up
//! to twice as fast into contiguous memory as into the scattered small pages of a new buffer.

use crate::disk::ReadFile;
use crate::platform;
use memmap2::MmapMut;
use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes read from the disk at a time, and the alignment of their memory: the size of a huge page
/// on most systems, and a multiple of every disk's block size.
const WINDOW: usize = 2 << 20;
/// Number of windows kept for later files, so that an idle store holds at most 8 MiB.
const MAX_SPARE: usize = 4;

/// The pool of unused windows.
#[derive(Debug, Default)]
pub(crate) struct Windows(Mutex<Vec<Window>>);

impl Windows {
    fn take(&self) -> io::Result<Window> {
        let spare = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        spare.map_or_else(Window::new, Ok)
    }

    fn give_back(&self, window: Window) {
        let mut spare = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < MAX_SPARE {
            spare.push(window);
        }
    }
}

/// A file that is read once, from start to end.
pub(crate) struct DirectReader {
    file: File,
    len: u64,
    /// `None` once the window has returned to the pool.
    window: RefCell<Option<Window>>,
    windows: Arc<Windows>,
}

impl DirectReader {
    pub(crate) fn new(file: File, windows: &Arc<Windows>) -> io::Result<DirectReader> {
        let len = file.metadata()?.len();
        platform::read_directly(&file, len);
        let mut window = windows.take()?;
        window.holds = 0..0;
        Ok(DirectReader { file, len, window: Some(window).into(), windows: Arc::clone(windows) })
    }
}

impl Drop for DirectReader {
    fn drop(&mut self) {
        if let Some(window) = self.window.take() {
            self.windows.give_back(window);
        }
    }
}

impl ReadFile for DirectReader {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut window = self.window.borrow_mut();
        let Some(window) = window.as_mut() else { return Ok(0) };
        let mut done = 0;
        while done < buffer.len() {
            let at = offset + done as u64;
            if !window.holds.contains(&at) {
                window.fill(&self.file, self.len, at)?;
            }
            let from = window.bytes_from(at);
            if from.is_empty() {
                break;
            }
            let count = from.len().min(buffer.len() - done);
            buffer[done..done + count].copy_from_slice(&from[..count]);
            done += count;
        }
        Ok(done)
    }
}

/// A window onto one piece of a file.
#[derive(Debug)]
struct Window {
    map: MmapMut,
    /// Offset of the first aligned byte in `map`.
    start: usize,
    /// The range of the file whose bytes are in the window.
    holds: Range<u64>,
}

impl Window {
    fn new() -> io::Result<Window> {
        // Reserves twice the length in address space, so that it surely contains an aligned piece.
        let map = MmapMut::map_anon(2 * WINDOW)?;
        platform::wish_for_huge_pages(&map);
        let start = map.as_ptr().align_offset(WINDOW);
        Ok(Window { map, start, holds: 0..0 })
    }

    /// Returns the bytes from file offset `at` on.
    fn bytes_from(&self, at: u64) -> &[u8] {
        if !self.holds.contains(&at) {
            return &[];
        }
        let len = (self.holds.end - self.holds.start) as usize;
        &self.map[self.start..self.start + len][(at - self.holds.start) as usize..]
    }

    /// Reads the piece that contains offset `at`, up to the end of the file, which had `len` bytes.
    fn fill(&mut self, file: &File, len: u64, at: u64) -> io::Result<()> {
        let begin = at - at % WINDOW as u64;
        let want = len.saturating_sub(begin).min(WINDOW as u64) as usize;
        self.holds = 0..0;
        let bytes = &mut self.map[self.start..self.start + WINDOW];
        let mut done = 0;
        while done < want {
            // Ask for bytes up to the window's end even if the file ends earlier: reads that bypass
            // the cache must have a length that is a multiple of the disk's block size.
            match file.read_at(&mut bytes[done..], begin + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The disk has larger blocks, or an earlier read stopped at an unaligned offset.
                Err(error)
                    if error.kind() == io::ErrorKind::InvalidInput
                        && platform::read_through_cache(file) => {}
                Err(error) => return Err(error),
            }
        }
        self.holds = begin..begin + done as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// Creates a file that is on the medium and not in the system's cache.
    fn file(len: usize) -> (tempfile::TempDir, Vec<u8>, File) {
        let dir = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..len).map(|n| (n * 31 / 7) as u8).collect();
        fs::write(dir.path().join("file"), &bytes).unwrap();
        let file = File::open(dir.path().join("file")).unwrap();
        file.sync_all().unwrap();
        #[cfg(target_os = "linux")]
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        (dir, bytes, file)
    }

    fn read(file: &DirectReader, at: usize, len: usize) -> Vec<u8> {
        let mut bytes = vec![0xee; len];
        let count = file.read_at(&mut bytes, at as u64).unwrap();
        bytes.truncate(count);
        bytes
    }

    #[test]
    fn any_piece_of_a_file_reads_as_it_is() {
        for len in [0, 1, 4096, WINDOW, 2 * WINDOW + 16_384, 3 * WINDOW + 777] {
            let (_dir, bytes, file) = file(len);
            let windows = Arc::new(Windows::default());
            let whole = DirectReader::new(file, &windows).unwrap();
            assert_eq!(whole.len(), len as u64);
            for at in [0, 1, 5000, WINDOW - 1, WINDOW, 2 * WINDOW - 3, len.saturating_sub(1), len] {
                for want in [0, 1, 16_384, WINDOW + 5, 4 * WINDOW] {
                    let there = &bytes[at.min(len)..(at + want).min(len)];
                    assert_eq!(read(&whole, at, want), there, "{want} at {at} of {len}");
                }
            }
        }
    }

    #[test]
    fn a_file_that_became_shorter_reads_short() {
        let (dir, bytes, file) = file(2 * WINDOW);
        let whole = DirectReader::new(file, &Arc::new(Windows::default())).unwrap();
        assert_eq!(read(&whole, 0, 100), bytes[..100]);
        let other = fs::OpenOptions::new().write(true).open(dir.path().join("file")).unwrap();
        other.set_len(WINDOW as u64 + 1000).unwrap();
        assert_eq!(read(&whole, WINDOW - 10, 5000), bytes[WINDOW - 10..WINDOW + 1000]);
        other.set_len(10).unwrap();
        assert_eq!(read(&whole, 0, 5000).len(), 10);
    }

    #[test]
    fn unaligned_reads_go_through_the_cache() {
        let (_dir, bytes, file) = file(WINDOW + 5000);
        let whole = DirectReader::new(file, &Arc::new(Windows::default())).unwrap();
        // No disk reads directly into memory at an odd address.
        whole.window.borrow_mut().as_mut().unwrap().start += 1;
        assert_eq!(read(&whole, 0, 2 * WINDOW), bytes);
    }

    #[test]
    fn windows_are_reused_and_few_are_kept() {
        let (dir, bytes, _file) = file(5000);
        let windows = Arc::new(Windows::default());
        let open = || {
            let file = File::open(dir.path().join("file")).unwrap();
            DirectReader::new(file, &windows).unwrap()
        };
        let many: Vec<_> = (0..2 * MAX_SPARE).map(|_| open()).collect();
        assert!(many.iter().all(|file| read(file, 0, 5000) == bytes));
        drop(many);
        assert_eq!(windows.0.lock().unwrap().len(), MAX_SPARE);
        // Bytes of another file that are left in a window must not be taken for this file's.
        fs::write(dir.path().join("file"), vec![1; 3000]).unwrap();
        assert_eq!(read(&open(), 0, 5000), vec![1; 3000]);
        assert_eq!(windows.0.lock().unwrap().len(), MAX_SPARE);
    }
}
