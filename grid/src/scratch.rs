//! Buffers that a thread uses again and again, so that an operation allocates nothing.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// Buffers kept for a thread, and the longest that is kept, in bytes.
const KEPT: usize = 4;
const KEPT_BYTES: usize = 64 << 10;

thread_local! {
    static BUFFERS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer; the thread has it back when this is dropped.
#[derive(Debug)]
pub(crate) struct Scratch(Vec<u8>);

/// A buffer of this thread.
#[inline]
pub(crate) fn take() -> Scratch {
    Scratch(BUFFERS.with_borrow_mut(Vec::pop).unwrap_or_default())
}

impl Deref for Scratch {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

impl Drop for Scratch {
    #[inline]
    fn drop(&mut self) {
        let mut buffer = std::mem::take(&mut self.0);
        if buffer.capacity() > KEPT_BYTES {
            return;
        }
        buffer.clear();
        // A thread that ends has no buffers any more.
        let _ = BUFFERS.try_with(|buffers| {
            let mut buffers = buffers.borrow_mut();
            if buffers.len() < KEPT {
                buffers.push(buffer);
            }
        });
    }
}
