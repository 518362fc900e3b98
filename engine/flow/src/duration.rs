//! Lengths of time as flows write them: `60s`, `5m`, `1h30m`, `500ms`, `2d`.

/// The longest length of time a flow may name, milliseconds: a year.
pub const LONGEST: u64 = 366 * 86_400_000;

/// Milliseconds of a length of time. The error says what is wrong.
pub fn parse_duration(text: &str) -> Result<u64, String> {
    let trimmed = text.trim();
    if trimmed.starts_with('-') {
        return Err(format!("`{text}` is negative"));
    }
    let mut rest = trimmed;
    let mut total = 0.0f64;
    if rest.is_empty() {
        return Err("it is empty".to_owned());
    }
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest[..number_end].parse().map_err(|_| format!("`{text}` is not a length of time"))?;
        rest = rest[number_end..].trim_start();
        let unit_end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let factor = match &rest[..unit_end] {
            "ms" => 1.0,
            "s" | "sec" => 1_000.0,
            "m" | "min" => 60_000.0,
            "h" => 3_600_000.0,
            "d" => 86_400_000.0,
            "" => return Err(format!("`{text}` has no unit")),
            other => return Err(format!("`{other}` is not a unit of time")),
        };
        total += number * factor;
        rest = rest[unit_end..].trim_start();
    }
    if total > LONGEST as f64 {
        return Err(format!("`{text}` is longer than a year"));
    }
    Ok(total.round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_read_and_everything_else_is_refused() {
        for (text, ms) in
            [("60s", 60_000), ("1h30m", 5_400_000), ("500ms", 500), ("2d", 172_800_000), ("1.5 min", 90_000), ("0s", 0)]
        {
            assert_eq!(parse_duration(text), Ok(ms), "{text}");
        }
        for bad in ["", "60", "-5s", "5 parsecs", "1e9s", "s", "99999d", "18446744073709551616s"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
