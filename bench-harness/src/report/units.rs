//! How figures are spelt for people: three significant digits and a unit.
//!
//! Bytes are binary where they are capacities and decimal where they are rates (GB/s), as the JSON
//! fields are.

/// Bytes as a capacity: `1.50 GiB`.
pub fn bytes(value: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut scaled = value as f64;
    let mut unit = 0;
    while scaled >= 1024.0 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{value} B") } else { format!("{} {}", digits(scaled), UNITS[unit]) }
}

/// Bytes per second as GB/s.
pub fn gigabytes_per_second(value: f64) -> String {
    format!("{} GB/s", digits(value / 1e9))
}

/// A count with thousands: `1,234,567`.
pub fn count(value: u64) -> String {
    let plain = value.to_string();
    let mut out = String::with_capacity(plain.len() + plain.len() / 3);
    for (position, digit) in plain.chars().enumerate() {
        if position > 0 && (plain.len() - position).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Operations or entries per second.
pub fn per_second(value: f64) -> String {
    format!("{}/s", count(value.round() as u64))
}

/// Microseconds, as us, ms or s.
pub fn microseconds(value: f64) -> String {
    if value < 1e3 {
        format!("{} us", digits(value))
    } else if value < 1e6 {
        format!("{} ms", digits(value / 1e3))
    } else {
        format!("{} s", digits(value / 1e6))
    }
}

/// Seconds.
pub fn seconds(value: f64) -> String {
    format!("{} s", digits(value))
}

/// A share: `63 %`.
pub fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// Three significant digits, without an exponent.
pub fn digits(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude >= 99.95 {
        format!("{value:.0}")
    } else if magnitude >= 9.995 {
        format!("{value:.1}")
    } else if magnitude >= 0.01 || magnitude == 0.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.4}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_keep_their_size_when_spelt() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(3 << 29), "1.50 GiB");
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(microseconds(0.52), "0.52 us");
        assert_eq!(microseconds(209_000.0), "209 ms");
        assert_eq!(gigabytes_per_second(1.2e9), "1.20 GB/s");
    }
}
