//! Lines of bytes, numbered, without their LF, as long as a store can hold and no longer.
//!
//! Owns the bound on memory: a line longer than any record can be is refused instead of read. Used by
//! tsv and jsonl.

use std::io::{BufRead, Read};

use super::ReadError;

/// The longest line: the largest key, a TAB and the largest value (1 GiB), and room for a member's
/// quotes.
pub const LONGEST: u64 = (1 << 30) + (1 << 17);

/// A reader of lines.
pub struct Lines<R> {
    input: R,
    buffer: Vec<u8>,
    number: u64,
    longest: u64,
}

impl<R: BufRead> Lines<R> {
    /// Lines of `input`.
    pub fn new(input: R) -> Lines<R> {
        Lines { input, buffer: Vec::new(), number: 0, longest: LONGEST }
    }

    #[cfg(test)]
    pub fn with_longest(input: R, longest: u64) -> Lines<R> {
        Lines { longest, ..Lines::new(input) }
    }

    /// The number of the line read last, from 1.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The line read last.
    pub fn current(&self) -> &[u8] {
        &self.buffer
    }

    /// Reads the next line; false at the end. A last line without LF is a line.
    pub fn advance(&mut self) -> Result<bool, ReadError> {
        self.buffer.clear();
        let mut bounded = self.input.by_ref().take(self.longest + 1);
        let read = bounded.read_until(b'\n', &mut self.buffer)?;
        if read == 0 {
            return Ok(false);
        }
        self.number += 1;
        if self.buffer.last() == Some(&b'\n') {
            self.buffer.pop();
        } else if read as u64 > self.longest {
            let longest = self.longest;
            return Err(ReadError::line(
                self.number,
                format!("longer than {longest} bytes, the most a store holds"),
            ));
        }
        Ok(true)
    }
}
