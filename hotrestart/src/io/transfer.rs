//! What is left to do of one operation after each answer of the system: the rules of short transfers.
//!
//! Invariant: an operation ends whole or in an error. What was transferred beyond the last multiple of the
//! alignment is done again, since under O_DIRECT the rest must begin aligned. EINTR and EAGAIN are tried
//! again, a bounded number of times in a row. All backends drive their operations through it.

use super::error::{IoError, IoErrorClass, IoOperation};
use crate::format::ALIGNMENT;

/// How often in a row an operation may be interrupted or told to come again before that is a failure.
const FRUITLESS_MAX: u32 = 1000;

/// One operation, as far as it has come.
#[derive(Clone, Debug)]
pub(super) struct Transfer {
    operation: IoOperation,
    offset: u64,
    len: usize,
    done: usize,
    fruitless: u32,
}

/// What to do next.
#[derive(Debug)]
pub(super) enum Progress {
    /// Ask the system for the rest.
    Again,
    /// The operation has ended.
    Ended(Result<usize, IoError>),
}

impl Transfer {
    pub(super) fn new(operation: IoOperation, offset: u64, len: usize) -> Transfer {
        Transfer { operation, offset, len, done: 0, fruitless: 0 }
    }

    pub(super) fn operation(&self) -> IoOperation {
        self.operation
    }

    /// Where the rest begins in the file.
    pub(super) fn rest_offset(&self) -> u64 {
        self.offset + self.done as u64
    }

    /// Where the rest begins in the buffer.
    pub(super) fn done(&self) -> usize {
        self.done
    }

    /// The bytes that are left.
    pub(super) fn rest_len(&self) -> usize {
        self.len - self.done
    }

    /// Takes the system's answer: the bytes it transferred, or an errno.
    pub(super) fn advance(&mut self, answer: Result<usize, i32>, file: &str) -> Progress {
        let moved = match answer {
            Ok(moved) => moved,
            Err(libc::EINTR | libc::EAGAIN) if self.fruitless < FRUITLESS_MAX => {
                self.fruitless += 1;
                return Progress::Again;
            }
            Err(errno) => {
                let error = IoError::from_errno(self.operation, file, errno);
                return Progress::Ended(Err(error.at(self.offset, self.len as u64)));
            }
        };
        if self.operation == IoOperation::Flush || self.done + moved >= self.len {
            return Progress::Ended(Ok(self.len));
        }
        let whole = moved / ALIGNMENT * ALIGNMENT;
        if whole > 0 {
            self.done += whole;
            self.fruitless = 0;
            return Progress::Again;
        }
        let class = match self.operation {
            IoOperation::Read => IoErrorClass::PastEnd { available: (self.done + moved) as u64 },
            _ if moved > 0 && self.fruitless < FRUITLESS_MAX => {
                self.fruitless += 1;
                return Progress::Again;
            }
            _ => IoErrorClass::Failed,
        };
        let (offset, len) = (self.offset, self.len as u64);
        let (operation, file) = (self.operation, file.to_owned());
        Progress::Ended(Err(IoError { operation, file, offset, len, errno: None, class }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write() -> Transfer {
        Transfer::new(IoOperation::Write, 8192, 12_288)
    }

    #[test]
    fn a_short_write_goes_on_at_the_last_aligned_byte() {
        let mut transfer = write();
        assert!(matches!(transfer.advance(Ok(5000), "f"), Progress::Again));
        assert_eq!(
            (transfer.rest_offset(), transfer.done(), transfer.rest_len()),
            (12_288, 4096, 8192)
        );
        assert!(matches!(transfer.advance(Ok(8192), "f"), Progress::Ended(Ok(12_288))));
    }

    #[test]
    fn a_write_that_makes_no_progress_ends_as_a_failure() {
        let mut transfer = write();
        assert!(matches!(transfer.advance(Ok(0), "f"), Progress::Ended(Err(_))));
        for answer in [Err(libc::EINTR), Err(libc::EAGAIN), Ok(100)] {
            let mut transfer = write();
            let ended = (0..=FRUITLESS_MAX).find_map(|_| match transfer.advance(answer, "f") {
                Progress::Again => None,
                Progress::Ended(result) => Some(result),
            });
            let error = ended.expect("it ends").expect_err("and not well");
            assert_eq!(
                (error.class, error.offset, error.len),
                (IoErrorClass::Failed, 8192, 12_288)
            );
        }
    }

    #[test]
    fn no_space_under_a_preallocated_write_is_a_failure_of_unknown_extent() {
        let Progress::Ended(Err(error)) = write().advance(Err(libc::ENOSPC), "f") else { panic!() };
        assert!(error.is_of_unknown_extent());
    }

    #[test]
    fn a_read_beyond_the_end_says_how_much_there_was() {
        let mut transfer = Transfer::new(IoOperation::Read, 0, 12_288);
        assert!(matches!(transfer.advance(Ok(5000), "f"), Progress::Again));
        let Progress::Ended(Err(error)) = transfer.advance(Ok(904), "f") else { panic!() };
        assert_eq!(error.class, IoErrorClass::PastEnd { available: 5000 });
    }
}
