//! Memory that a disk may read and write: owned, aligned to 4096, and never freed under an operation.
//!
//! Invariant: whoever holds an `IoBuf` owns its bytes; a queue takes it by value and gives it back, so no
//! caller can free or reuse memory that the kernel still transfers. A region is one stretch of memory
//! that is shared in slices; making a slice of it by hand is unsafe, because two slices must not overlap.
//! Callers: the log buffers (a region in shared memory), writers, loader and compactor (own allocations).
#![allow(
    unsafe_code,
    reason = "aligned allocation, and slices of memory that the kernel also accesses"
)]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

use memmap2::MmapRaw;

use crate::format::ALIGNMENT;

/// An allocation of its own, aligned to 4096 bytes and initialised.
pub struct AlignedBuf {
    memory: NonNull<u8>,
    len: usize,
    capacity: usize,
}

// SAFETY: the buffer owns its allocation alone, as a `Vec` does.
unsafe impl Send for AlignedBuf {}
// SAFETY: shared references only read.
unsafe impl Sync for AlignedBuf {}

impl AlignedBuf {
    /// `len` bytes of zeros; the memory is a multiple of 4096 bytes, at least one.
    ///
    /// # Panics
    /// When `len` exceeds what an allocation may have.
    #[must_use]
    pub fn zeroed(len: usize) -> AlignedBuf {
        let capacity = len.max(1).next_multiple_of(ALIGNMENT);
        let layout = layout_of(capacity);
        // SAFETY: the layout's size is at least 4096.
        let memory = unsafe { alloc_zeroed(layout) };
        let Some(memory) = NonNull::new(memory) else { handle_alloc_error(layout) };
        AlignedBuf { memory, len, capacity }
    }

    /// A copy of `bytes`, with zeros up to the next multiple of 4096.
    #[must_use]
    pub fn padded_copy(bytes: &[u8]) -> AlignedBuf {
        let mut buf = AlignedBuf::zeroed(bytes.len().max(1).next_multiple_of(ALIGNMENT));
        buf[..bytes.len()].copy_from_slice(bytes);
        buf
    }

    /// The most that `set_len` takes.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Changes the length; bytes keep what they had.
    ///
    /// # Panics
    /// When `len` exceeds the capacity.
    pub fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity, "{len} of {} bytes", self.capacity);
        self.len = len;
    }
}

fn layout_of(capacity: usize) -> Layout {
    Layout::from_size_align(capacity, ALIGNMENT)
        .expect("a buffer is smaller than the address space")
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        // SAFETY: `memory` came from `alloc_zeroed` with this layout and is freed once.
        unsafe { dealloc(self.memory.as_ptr(), layout_of(self.capacity)) }
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `capacity >= len` bytes are allocated, initialised and owned by `self`.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr(), self.len) }
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` excludes every other access.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_ptr(), self.len) }
    }
}

impl fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBuf({} bytes)", self.len)
    }
}

/// One stretch of memory, aligned to 4096, of which slices go to queues while others are written.
#[derive(Debug)]
pub struct Region {
    memory: NonNull<u8>,
    len: usize,
    owner: Owner,
}

#[derive(Debug)]
enum Owner {
    Heap { _buf: AlignedBuf },
    Mapping { _map: MmapRaw },
}

// SAFETY: a region is only an address and a length; every access goes through a slice or an unsafe block
// whose author answers for its exclusiveness.
unsafe impl Send for Region {}
// SAFETY: as for `Send`.
unsafe impl Sync for Region {}

impl Region {
    /// A region around a memory mapping.
    #[must_use]
    pub fn from_mapping(map: MmapRaw) -> Arc<Region> {
        let memory = NonNull::new(map.as_mut_ptr()).expect("a mapping is never at address 0");
        Arc::new(Region { memory, len: map.len(), owner: Owner::Mapping { _map: map } })
    }

    /// A region around an allocation, with its content.
    #[must_use]
    pub fn from_buf(buf: AlignedBuf) -> Arc<Region> {
        Arc::new(Region { memory: buf.memory, len: buf.len, owner: Owner::Heap { _buf: buf } })
    }

    /// The length, in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True for a region without bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// True when the region is an allocation of this process, not a mapping.
    #[must_use]
    pub fn is_heap(&self) -> bool {
        matches!(self.owner, Owner::Heap { .. })
    }

    /// The first byte. Valid for reads and writes of `len` bytes as long as the region lives; who uses it
    /// answers for excluding other accesses to the same bytes.
    #[must_use]
    pub fn base(&self) -> NonNull<u8> {
        self.memory
    }
}

/// A part of a region that belongs to whoever holds it.
#[derive(Debug)]
pub struct RegionSlice {
    region: Arc<Region>,
    offset: usize,
    len: usize,
}

impl RegionSlice {
    /// Claims `len` bytes from `offset` of `region`.
    ///
    /// # Panics
    /// When they are not within the region.
    ///
    /// # Safety
    /// As long as the slice exists, in whoever's hands, nothing else writes these bytes; and if the slice
    /// is read into or written through, nothing else reads them either.
    #[must_use]
    pub unsafe fn claim(region: Arc<Region>, offset: usize, len: usize) -> RegionSlice {
        assert!(offset <= region.len && len <= region.len - offset, "{len} bytes at {offset}");
        RegionSlice { region, offset, len }
    }

    /// Cuts an allocation into slices of `piece` bytes, the last one perhaps shorter.
    ///
    /// # Panics
    /// When `piece` is 0.
    #[must_use]
    pub fn split(buf: AlignedBuf, piece: usize) -> Vec<RegionSlice> {
        let region = Region::from_buf(buf);
        let starts = (0..region.len).step_by(piece);
        let len_at = |offset| piece.min(region.len - offset);
        // SAFETY: the region was made of an owned buffer just now, nobody else has it, and the slices do
        // not overlap.
        let slice = |offset| unsafe { RegionSlice::claim(region.clone(), offset, len_at(offset)) };
        starts.map(slice).collect()
    }

    /// Where the slice begins in its region, in bytes.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.offset
    }

    fn first(&self) -> *mut u8 {
        // SAFETY: `claim` has checked that the offset lies within the region.
        unsafe { self.region.memory.as_ptr().add(self.offset) }
    }
}

/// Memory that a queue transfers from or to.
#[derive(Debug)]
pub enum IoBuf {
    /// An allocation of its own.
    Aligned(AlignedBuf),
    /// A part of a shared region.
    Slice(RegionSlice),
}

impl IoBuf {
    /// The length, in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            IoBuf::Aligned(buf) => buf.len,
            IoBuf::Slice(slice) => slice.len,
        }
    }

    /// True for a buffer without bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The allocation, if it is one.
    #[must_use]
    pub fn into_aligned(self) -> Option<AlignedBuf> {
        match self {
            IoBuf::Aligned(buf) => Some(buf),
            IoBuf::Slice(_) => None,
        }
    }

    /// The slice of a region, if it is one.
    #[must_use]
    pub fn into_slice(self) -> Option<RegionSlice> {
        match self {
            IoBuf::Aligned(_) => None,
            IoBuf::Slice(slice) => Some(slice),
        }
    }

    pub(super) fn pointer(&self) -> *mut u8 {
        match self {
            IoBuf::Aligned(buf) => buf.memory.as_ptr(),
            IoBuf::Slice(slice) => slice.first(),
        }
    }

    pub(super) fn address(&self) -> usize {
        self.pointer() as usize
    }
}

impl Deref for IoBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the bytes are allocated or mapped as long as `self` lives, and nobody else writes them:
        // they are owned, or the maker of the slice has promised it in `claim`.
        unsafe { std::slice::from_raw_parts(self.pointer(), self.len()) }
    }
}

impl DerefMut for IoBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; nobody else reads them either, by ownership or by the promise in `claim`.
        unsafe { std::slice::from_raw_parts_mut(self.pointer(), self.len()) }
    }
}

impl From<AlignedBuf> for IoBuf {
    fn from(buf: AlignedBuf) -> IoBuf {
        IoBuf::Aligned(buf)
    }
}

impl From<RegionSlice> for IoBuf {
    fn from(slice: RegionSlice) -> IoBuf {
        IoBuf::Slice(slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_aligned_zeroed_and_big_enough_at_every_length() {
        for len in [0, 1, 4095, 4096, 4097, 1 << 20] {
            let buf = AlignedBuf::zeroed(len);
            assert!((buf.memory.as_ptr() as usize).is_multiple_of(ALIGNMENT));
            assert_eq!((buf.len(), buf.capacity() % ALIGNMENT), (len, 0));
            assert!(buf.capacity() >= len && buf.iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn slices_of_a_region_outlive_their_maker_and_do_not_overlap() {
        let mut slices = RegionSlice::split(AlignedBuf::zeroed(10_000), 4096);
        let mut last = IoBuf::from(slices.pop().expect("three slices"));
        let mut first = IoBuf::from(slices.swap_remove(0));
        drop(slices);
        last.fill(2);
        first.fill(1);
        assert_eq!((first.len(), last.len()), (4096, 10_000 - 8192));
        assert!(first.iter().all(|byte| *byte == 1) && last.iter().all(|byte| *byte == 2));
    }

    #[test]
    #[should_panic(expected = "bytes at")]
    fn a_slice_beyond_its_region_is_refused() {
        let region = Region::from_buf(AlignedBuf::zeroed(4096));
        // SAFETY: nothing else has the region.
        let _ = unsafe { RegionSlice::claim(region, 4096, 1) };
    }

    #[test]
    #[should_panic(expected = "changed in flight")]
    fn a_buffer_that_changes_under_its_write_is_noticed_by_the_simulated_disk() {
        use crate::io::sim::SimDisk;
        use crate::io::{Disk, Fill, Op};

        let disk = SimDisk::new(1);
        let file = disk.create("f", 4096, Fill::Zero).expect("a new disk takes a file");
        let mut queue = disk.queue(1).expect("a new disk has queues");
        let region = Region::from_buf(AlignedBuf::zeroed(4096));
        // SAFETY: the bytes are written below, before the queue looks at them again on this thread.
        let slice = unsafe { RegionSlice::claim(region.clone(), 0, 4096) };
        queue.submit(0, Op::Write { file, offset: 0, buf: slice.into() });
        // SAFETY: the region has 4096 bytes, and nothing reads them at this moment.
        unsafe { region.base().write(1) };
        let _ = queue.poll(&mut Vec::new());
    }
}
