//! Sizes and durations as they are typed on the command line.
//!
//! Owns one rule: a size is plain bytes or a whole or decimal number of KiB, MiB or GiB, and nothing
//! else, so that no reader has to guess whether "GB" was meant decimally. Called by the argument parser
//! only. Wrong input is refused with what was expected. See docs/benchmarking.md, "Flags".

/// Parses `4096`, `64KiB`, `1.5GiB`.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let trimmed = text.trim();
    let (number, unit) = match trimmed.find(|c: char| !c.is_ascii_digit() && c != '.') {
        None => (trimmed, 1_u64),
        Some(at) => {
            let unit = match trimmed[at..].trim() {
                "B" => 1,
                "KiB" => 1 << 10,
                "MiB" => 1 << 20,
                "GiB" => 1 << 30,
                other => return Err(format!("unknown unit '{other}': use B, KiB, MiB or GiB")),
            };
            (trimmed[..at].trim(), unit)
        }
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(unit).ok_or_else(|| format!("'{text}' is too large"));
    }
    match number.parse::<f64>() {
        Ok(value) if unit > 1 && value.is_finite() && value * (unit as f64) < 9e18 => {
            Ok((value * unit as f64) as u64)
        }
        _ => Err("expected bytes or a number with KiB, MiB or GiB".to_owned()),
    }
}

/// Parses a size that must fit a `u32`, such as a key or value size.
pub fn parse_size_u32(text: &str) -> Result<u32, String> {
    let size = parse_size(text)?;
    u32::try_from(size).map_err(|_| format!("{size} is over {}", u32::MAX))
}

/// Parses seconds, whole or decimal, zero or more.
pub fn parse_seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds.is_finite() && (0.0..=1e7).contains(&seconds) => Ok(seconds),
        _ => Err("expected seconds from 0 to 10000000".to_owned()),
    }
}

/// Parses operations per second, more than zero.
pub fn parse_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate > 0.0 && rate <= 1e9 => Ok(rate),
        _ => Err("expected operations per second, more than 0".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_read_as_binary_units_only() {
        assert_eq!(parse_size("4096"), Ok(4096));
        assert_eq!(parse_size("64KiB"), Ok(65_536));
        assert_eq!(parse_size("64 MiB"), Ok(67_108_864));
        assert_eq!(parse_size("1.5GiB"), Ok(1_610_612_736));
        for refused in
            ["", "GiB", "1GB", "1k", "-1", "1.5", "18446744073709551616", "20000000000GiB"]
        {
            assert!(parse_size(refused).is_err(), "{refused} was taken");
        }
    }

    #[test]
    fn a_rate_of_zero_and_endless_seconds_are_refused() {
        assert!(parse_rate("0").is_err());
        assert!(parse_seconds("inf").is_err());
        assert!(parse_seconds("NaN").is_err());
        assert_eq!(parse_seconds("0"), Ok(0.0));
    }
}
