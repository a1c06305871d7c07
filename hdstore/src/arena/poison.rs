//! Free slots under AddressSanitizer (`--cfg asan`, see `scripts/asan`): whoever reads a slot after it was
//! freed is caught.
//!
//! The sanitizer knows allocations, not slots of a mapping, so the slabs tell it. The first 16 bytes of a
//! free slot stay readable: the second word holds the link of its list. Without the sanitizer nothing
//! here exists at run time.
#![cfg_attr(asan, allow(unsafe_code))] // calls of the sanitizer; docs/unsafe.md

use super::Arena;

/// Bytes of a free slot that stay in use.
#[cfg(asan)]
const KEPT: u64 = 16;

#[cfg(asan)]
unsafe extern "C" {
    fn __asan_poison_memory_region(address: *const std::ffi::c_void, bytes: usize);
    fn __asan_unpoison_memory_region(address: *const std::ffi::c_void, bytes: usize);
}

impl Arena {
    /// Says that a slot is free.
    #[inline]
    pub(crate) fn poison(&self, offset: u64, bytes: u64) {
        #[cfg(asan)]
        if bytes > KEPT {
            let address = self.address(offset + KEPT).cast_const().cast();
            // SAFETY: the range lies in the arena's mapping, and the slot is nobody's.
            unsafe { __asan_poison_memory_region(address, (bytes - KEPT) as usize) };
        }
        #[cfg(not(asan))]
        let _ = (offset, bytes);
    }

    /// Says that a slot is in use, or that a range is no longer parted as it was.
    #[inline]
    pub(crate) fn unpoison(&self, offset: u64, bytes: u64) {
        #[cfg(asan)]
        // SAFETY: the range lies in the arena's mapping.
        unsafe {
            __asan_unpoison_memory_region(self.address(offset).cast_const().cast(), bytes as usize);
        }
        #[cfg(not(asan))]
        let _ = (offset, bytes);
    }
}
