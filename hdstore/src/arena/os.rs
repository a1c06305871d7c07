//! Address space and pages from the operating system.
//!
//! Invariant: a reservation is one mapping of `len` bytes that lives as long as the value, starts at a
//! multiple of 2 MiB, and is readable and writable everywhere (untouched bytes are zero). Whether a page
//! *may* be touched is a matter of the arena's accounting (`arena/mod.rs`), not of protection: a mapping per
//! committed range would run into the kernel's limit on mappings.
//!
//! What may go wrong: the reservation itself (no address space, strict overcommit), reported to the builder;
//! a rung of the ladder of page sizes, which falls to the next; advice, which is only advice. Nothing here is
//! on a read path.
#![allow(unsafe_code)] // mmap and madvise; docs/unsafe.md

use std::io;
use std::ptr::NonNull;

/// What backs a range of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum PageKind {
    /// Pages of 4 KiB.
    Small,
    /// Transparent huge pages, by advice: 2 MiB where the kernel finds them.
    Transparent,
    /// Explicit huge pages of 2 MiB.
    Huge2M,
    /// Explicit huge pages of 1 GiB.
    Huge1G,
}

/// 2 MiB.
pub(crate) const UNIT: u64 = 2 << 20;
/// 1 GiB.
pub(crate) const GIB: u64 = 1 << 30;

/// One range of address space.
pub(crate) struct Reservation {
    base: NonNull<u8>,
    len: u64,
    #[cfg(not(miri))]
    mapping: (usize, usize),
}

// SAFETY: the reservation is memory, not a handle of a thread; who may touch which byte is ruled by the
// callers.
unsafe impl Send for Reservation {}
// SAFETY: as above; the methods change no field.
unsafe impl Sync for Reservation {}

#[cfg(not(miri))]
impl Reservation {
    /// Reserves `len` bytes of address space, aligned to 1 GiB when they are that many, else to 2 MiB.
    pub(crate) fn new(len: u64) -> io::Result<Reservation> {
        let align = if len >= GIB { GIB } else { UNIT };
        let mapped = usize::try_from(len + align).map_err(|_| io::ErrorKind::OutOfMemory)?;
        // SAFETY: a new private mapping at an address of the kernel's choice touches nothing that exists.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                mapped,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = start as usize;
        let base = start.next_multiple_of(align as usize);
        let base = NonNull::new(base as *mut u8).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Reservation { base, len, mapping: (start, mapped) })
    }

    /// Puts pages of at most the kind `want` under a range that is a multiple of 2 MiB, and says which kind
    /// it is. The range's former content is lost when explicit huge pages are put there, so it must hold
    /// nothing.
    pub(crate) fn back(&self, offset: u64, len: u64, want: PageKind) -> PageKind {
        debug_assert!(offset.is_multiple_of(UNIT) && len.is_multiple_of(UNIT));
        if want >= PageKind::Huge2M && self.map_huge(offset, len, libc::MAP_HUGE_2MB) {
            return PageKind::Huge2M;
        }
        if want >= PageKind::Transparent && self.advise(offset, len, libc::MADV_HUGEPAGE) {
            return PageKind::Transparent;
        }
        PageKind::Small
    }

    /// Puts one explicit page of 1 GiB under a range of that size. False, and the range as it was, when the
    /// system has none.
    pub(crate) fn back_with_gib(&self, offset: u64) -> bool {
        debug_assert!(offset.is_multiple_of(GIB));
        self.map_huge(offset, GIB, libc::MAP_HUGE_1GB)
    }

    /// Puts explicit huge pages under a range, or leaves it as it was.
    ///
    /// They are mapped elsewhere first and then moved there: a `MAP_FIXED` of huge pages that are not to
    /// be had takes the old mapping away before it fails, and another thread's memory may get into the
    /// gap before it is closed again.
    fn map_huge(&self, offset: u64, len: u64, size_flag: libc::c_int) -> bool {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB | size_flag;
        // SAFETY: a new private mapping at an address of the kernel's choice touches nothing that exists.
        let pages =
            unsafe { libc::mmap(std::ptr::null_mut(), len as usize, protection, flags, -1, 0) };
        if pages == libc::MAP_FAILED {
            return false;
        }
        let target = self.address(offset);
        let how = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        // SAFETY: `pages` was made just now and is nobody else's; the target lies inside this reservation
        // and, by the caller's promise, holds nothing.
        let moved = unsafe { libc::mremap(pages, len as usize, len as usize, how, target) };
        if moved == target {
            return true;
        }
        // SAFETY: the mapping was made above and not moved.
        unsafe { libc::munmap(pages, len as usize) };
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
        // A kernel that cannot move huge pages may have taken the target away: an ordinary mapping goes
        // there. SAFETY: as for the move.
        let again = unsafe { libc::mmap(target, len as usize, protection, flags, -1, 0) };
        assert!(again == target, "the arena's own address range can be mapped again");
        false
    }

    /// Lets the kernel find pages for a range now, so that no later access faults. Advice: failure is silent.
    pub(crate) fn populate(&self, offset: u64, len: u64) {
        self.advise(offset, len, libc::MADV_POPULATE_WRITE);
    }

    /// Keeps huge pages out of a range that is committed in smaller steps.
    pub(crate) fn keep_small(&self, offset: u64, len: u64) {
        self.advise(offset, len, libc::MADV_NOHUGEPAGE);
    }

    /// Gives the pages of a range back; its bytes are zero afterwards. False when the kernel refused.
    pub(crate) fn give_back(&self, offset: u64, len: u64) -> bool {
        self.advise(offset, len, libc::MADV_DONTNEED)
    }

    /// Asks for the pages of a range from one NUMA node. Advice: false where the kernel has no such call.
    pub(crate) fn bind(&self, offset: u64, len: u64, node: u32) -> bool {
        const MPOL_PREFERRED: libc::c_long = 1;
        let mut mask = [0u64; 16];
        let (word, bit) = (node as usize / 64, node % 64);
        if word >= mask.len() {
            return false;
        }
        mask[word] = 1 << bit;
        // SAFETY: the range lies inside this reservation; the mask outlives the call and has as many bits as
        // said.
        let result = unsafe {
            libc::syscall(
                libc::SYS_mbind,
                self.address(offset),
                len as libc::c_ulong,
                MPOL_PREFERRED,
                mask.as_ptr(),
                (mask.len() * 64) as libc::c_ulong,
                0,
            )
        };
        result == 0
    }

    fn advise(&self, offset: u64, len: u64, advice: libc::c_int) -> bool {
        // SAFETY: the range lies inside this reservation; callers give back only ranges that hold nothing.
        unsafe { libc::madvise(self.address(offset), len as usize, advice) == 0 }
    }

    fn address(&self, offset: u64) -> *mut libc::c_void {
        debug_assert!(offset <= self.len);
        self.base.as_ptr().wrapping_add(offset as usize).cast()
    }
}

#[cfg(not(miri))]
impl Drop for Reservation {
    fn drop(&mut self) {
        // SAFETY: this value made the mapping, and every reference into it borrows the value.
        unsafe { libc::munmap(self.mapping.0 as *mut libc::c_void, self.mapping.1) };
    }
}

#[cfg(miri)]
impl Reservation {
    /// Under Miri a reservation is a plain allocation.
    pub(crate) fn new(len: u64) -> io::Result<Reservation> {
        let layout = Self::layout(len);
        // SAFETY: the layout's size is not zero.
        let base = unsafe { std::alloc::alloc_zeroed(layout) };
        let base = NonNull::new(base).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Reservation { base, len })
    }

    fn layout(len: u64) -> std::alloc::Layout {
        std::alloc::Layout::from_size_align(len as usize, UNIT as usize).expect("a valid layout")
    }

    pub(crate) fn back(&self, _: u64, _: u64, _: PageKind) -> PageKind {
        PageKind::Small
    }

    pub(crate) fn back_with_gib(&self, _: u64) -> bool {
        false
    }

    pub(crate) fn populate(&self, _: u64, _: u64) {}

    pub(crate) fn keep_small(&self, _: u64, _: u64) {}

    pub(crate) fn give_back(&self, _: u64, _: u64) -> bool {
        true
    }

    pub(crate) fn bind(&self, _: u64, _: u64, _: u32) -> bool {
        false
    }
}

#[cfg(miri)]
impl Drop for Reservation {
    fn drop(&mut self) {
        // SAFETY: allocated by `new` with this layout.
        unsafe { std::alloc::dealloc(self.base.as_ptr(), Self::layout(self.len)) };
    }
}

impl Reservation {
    /// The first byte.
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Bytes reserved.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;

    #[test]
    fn asking_for_huge_pages_in_vain_takes_no_mapping_away() {
        let memory = Reservation::new(2 * UNIT).expect("address space");
        let first = memory.base().cast::<u64>();
        // SAFETY: the first bytes of the reservation, which nobody else has.
        unsafe { first.write_volatile(7) };
        let kind = memory.back(0, UNIT, PageKind::Huge2M);
        // SAFETY: as above.
        let found = unsafe { first.read_volatile() };
        assert_eq!(found, if kind == PageKind::Huge2M { 0 } else { 7 }, "{kind:?}");
    }
}
