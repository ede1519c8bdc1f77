//! The few calls that differ between macOS and Linux. The Apple half also compiles into Linux's
//! unit tests, so that it is type-checked there.

#[cfg(target_vendor = "apple")]
pub(crate) use apple::{
    barrier, fill_pages, is_fault, read_ahead, read_directly, read_through_cache, set_thread_class,
    set_up_map, wish_for_huge_pages,
};
#[cfg(not(target_vendor = "apple"))]
pub(crate) use linux::{
    barrier, fill_pages, is_fault, read_ahead, read_directly, read_through_cache, set_thread_class,
    set_up_map, wish_for_huge_pages,
};

/// What a thread is for, so that the system can share the machine out: people's programs come
/// before the model, and the model before what can wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    /// Computes what a client waits for.
    Compute,
    /// Reads what a computation waits for.
    Restore,
    /// Writes and deletes; nobody waits.
    Background,
}

/// Tells the system what the calling thread, and those that it starts from now on, are for. A
/// refusal changes nothing but the sharing.
pub fn set_intent(intent: Intent) {
    set_thread_class(intent);
}

#[cfg(any(target_vendor = "apple", test))]
#[cfg_attr(not(target_vendor = "apple"), expect(dead_code, reason = "compiled for its types"))]
mod apple {
    use std::fs::File;
    use std::io;
    use std::os::fd::AsRawFd;

    // From <sys/fcntl.h>; spelled out so that this compiles where libc does not define them.
    const F_NOCACHE: libc::c_int = 48;
    const F_BARRIERFSYNC: libc::c_int = 85;

    /// Orders everything written to `file` before everything written later, without waiting for
    /// the drive to empty its cache (that would be F_FULLFSYNC, some 18 ms).
    pub(crate) fn barrier(file: &File) -> io::Result<()> {
        // SAFETY: `file` keeps the descriptor open during the call, and F_BARRIERFSYNC takes no
        // pointer.
        match unsafe { libc::fcntl(file.as_raw_fd(), F_BARRIERFSYNC) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }

    /// Reads of `file` that are aligned leave nothing in the system's cache, and take from it what
    /// is there.
    pub(crate) fn read_directly(file: &File, _len: u64) {
        // SAFETY: `file` keeps the descriptor open during the call, and F_NOCACHE takes an int.
        // A refusal only means that the read goes through the cache.
        unsafe { libc::fcntl(file.as_raw_fd(), F_NOCACHE, 1 as libc::c_int) };
    }

    /// False: reads that are not aligned go through the cache by themselves.
    pub(crate) fn read_through_cache(_file: &File) -> bool {
        false
    }

    /// Nothing to do: a mapping's pages cannot be asked to be larger.
    pub(crate) fn wish_for_huge_pages(_memory: &memmap2::MmapMut) {}

    /// Asks the system to read a file ahead into its cache. A refusal only means a slower read.
    pub(crate) fn read_ahead(file: &File, len: u64) {
        const F_RDADVISE: libc::c_int = 44;
        // `struct radvisory` of <sys/fcntl.h>.
        #[repr(C)]
        struct ReadAdvice {
            offset: libc::off_t,
            count: libc::c_int,
        }
        let count = len.min(libc::c_int::MAX as u64) as libc::c_int;
        let advice = ReadAdvice { offset: 0, count };
        // SAFETY: `file` keeps the descriptor open and `advice` lives during the call, which only
        // reads it.
        unsafe { libc::fcntl(file.as_raw_fd(), F_RDADVISE, &raw const advice) };
    }

    unsafe extern "C" {
        // <pthread/qos.h>
        fn pthread_set_qos_class_self_np(class: libc::c_uint, priority: libc::c_int)
        -> libc::c_int;
    }

    /// The quality-of-service class of the calling thread.
    pub(crate) fn set_thread_class(intent: super::Intent) {
        // From <sys/qos.h>.
        const USER_INITIATED: libc::c_uint = 0x19;
        const UTILITY: libc::c_uint = 0x11;
        let class = match intent {
            super::Intent::Compute | super::Intent::Restore => USER_INITIATED,
            super::Intent::Background => UTILITY,
        };
        // SAFETY: takes no pointer and concerns only the calling thread.
        unsafe { pthread_set_qos_class_self_np(class, 0) };
    }

    /// Starts reading the whole file ahead. A refusal only means a slower read.
    pub(crate) fn set_up_map(map: &memmap2::Mmap) {
        let _ = map.advise(memmap2::Advice::Sequential);
        let _ = map.advise(memmap2::Advice::WillNeed);
    }

    /// Nothing to do: pages of 16 KiB are cheap enough to fault in one by one.
    pub(crate) fn fill_pages(_memory: &memmap2::MmapMut) {}

    /// True for a SIGBUS that the kernel raised for a bad access; codes of sent signals start at
    /// SI_USER, 0x10001.
    pub(crate) fn is_fault(si_code: libc::c_int) -> bool {
        si_code < 0x10000
    }
}

#[cfg(not(target_vendor = "apple"))]
mod linux {
    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
    use rustix::io::{ReadWriteFlags, preadv2};
    use std::fs::File;
    use std::io::{self, IoSliceMut};

    /// The calling thread's nice value: positive, so that other programs come first.
    pub(crate) fn set_thread_class(intent: super::Intent) {
        let nice = match intent {
            super::Intent::Compute | super::Intent::Restore => 5,
            super::Intent::Background => 10,
        };
        // Zero means the calling thread.
        let _ = rustix::process::setpriority_process(None, nice);
    }

    /// Linux has no barrier without a flush.
    pub(crate) fn barrier(file: &File) -> io::Result<()> {
        file.sync_data()
    }

    /// Reads of `file`, which must be aligned, go past the system's cache, unless its end is there
    /// already: then so is the rest, most likely, and no disk is as fast. A refusal means reads
    /// through the cache.
    pub(crate) fn read_directly(file: &File, len: u64) {
        let mut last = [0];
        let mut into = [IoSliceMut::new(&mut last)];
        let end = len.saturating_sub(1);
        if preadv2(file, &mut into, end, ReadWriteFlags::NOWAIT).is_err() {
            let _ = fcntl_setfl(file, OFlags::DIRECT);
        }
    }

    /// Ends [`read_directly`]; false when it was not in effect.
    pub(crate) fn read_through_cache(file: &File) -> bool {
        let direct = fcntl_getfl(file).is_ok_and(|flags| flags.contains(OFlags::DIRECT));
        direct && fcntl_setfl(file, OFlags::empty()).is_ok()
    }

    /// Memory in one piece: the disk reads faster into it, and it costs one fault. A refusal costs
    /// only time.
    pub(crate) fn wish_for_huge_pages(memory: &memmap2::MmapMut) {
        let _ = memory.advise(memmap2::Advice::HugePage);
    }

    /// Brings a file into the system's cache, in pages as large as a mapping gets them (reading it
    /// gives small ones, at twice the processor time). A refusal only means a slower read later.
    pub(crate) fn read_ahead(file: &File, _len: u64) {
        // SAFETY: nothing reads through this mapping, so that it does not matter who changes the
        // file meanwhile; a page that cannot be had ends the advice with an error, not a signal.
        if let Ok(map) = unsafe { memmap2::Mmap::map(file) } {
            set_up_map(&map);
        }
    }

    /// Has the file read, in large pieces into large pages, and maps all of them at once instead of
    /// by one fault for every few. Where a page cannot be had this stops, and touching it faults as
    /// it would have.
    pub(crate) fn set_up_map(map: &memmap2::Mmap) {
        let _ = map.advise(memmap2::Advice::HugePage);
        let _ = map.advise(memmap2::Advice::PopulateRead);
    }

    /// Has the pages of new memory made at once: fault by fault they cost more than what is copied
    /// into them. Not large ones: while the page cache fills, making room for those was measured to
    /// cost more than everything else about a read. A refusal costs only time.
    pub(crate) fn fill_pages(memory: &memmap2::MmapMut) {
        let _ = memory.advise(memmap2::Advice::PopulateWrite);
    }

    /// True for a SIGBUS that the kernel raised for a bad access; sent signals have codes <= 0.
    pub(crate) fn is_fault(si_code: libc::c_int) -> bool {
        si_code > 0
    }
}
