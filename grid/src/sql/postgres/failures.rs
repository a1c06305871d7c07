//! Which failures of PostgreSQL pass by themselves.

use tokio_postgres::error::SqlState;

/// What may help after a failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Remedy {
    /// Nothing that is done here.
    None,
    /// The same once more.
    Again,
    /// The same on another connection, which may lead to another server.
    Elsewhere,
}

/// Of an SQLSTATE (<https://www.postgresql.org/docs/current/errcodes-appendix.html>). A timeout of a
/// statement or of a lock has waited already, and is no reason to wait as long again.
pub(super) fn remedy(state: &SqlState) -> Remedy {
    match state.code() {
        // Serialization failure, deadlock.
        "40001" | "40P01" => Remedy::Again,
        // Read-only: a server that was the primary before.
        "25006" => Remedy::Elsewhere,
        // Shutdown by an administrator or a crash, start-up, a session that was idle too long.
        "57P01" | "57P02" | "57P03" | "57P05" => Remedy::Elsewhere,
        // Connection exceptions, a pooler's too; no connections, memory or space left.
        code if code.starts_with("08") || code.starts_with("53") => Remedy::Elsewhere,
        _ => Remedy::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_passes_is_tried_again() {
        let of = |code| remedy(&SqlState::from_code(code));
        for (code, expected) in [
            ("40001", Remedy::Again),
            ("40P01", Remedy::Again),
            ("25006", Remedy::Elsewhere),
            ("57P01", Remedy::Elsewhere),
            ("08P01", Remedy::Elsewhere),
            ("53300", Remedy::Elsewhere),
            ("57014", Remedy::None),
            ("55P03", Remedy::None),
            ("23505", Remedy::None),
            ("42501", Remedy::None),
        ] {
            assert_eq!(of(code), expected, "{code}");
        }
    }
}
