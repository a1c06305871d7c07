//! How a command ended when it did not fail.
//!
//! Owns the difference between "done", "done, but something is lost or wrong" and "interrupted": the
//! report is written for all three, the exit status differs (docs/benchmarking.md, "Exit status").

/// A command's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything was done, nothing lost or wrong.
    Sound,
    /// Something is lost or wrong; the report says what.
    Wrong,
    /// The user interrupted; the report is partial.
    Interrupted,
}

impl Outcome {
    /// The exit status. 130 is the shell's for a process ended by SIGINT; the contract's four stay free
    /// of it.
    pub fn exit_status(self) -> u8 {
        match self {
            Outcome::Sound => 0,
            Outcome::Wrong => 1,
            Outcome::Interrupted => 130,
        }
    }

    /// `Wrong` if any count is not zero, else `Interrupted` if so, else `Sound`.
    pub fn of(interrupted: bool, bad: u64) -> Outcome {
        match (bad, interrupted) {
            (1.., _) => Outcome::Wrong,
            (0, true) => Outcome::Interrupted,
            (0, false) => Outcome::Sound,
        }
    }
}
