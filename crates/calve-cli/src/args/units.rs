//! Times and sizes on the command line. Each unit means one thing in the whole command.

use std::num::NonZeroU64;
use std::time::Duration;

/// The units of times, for the help.
pub(super) const TIMES: &str = "TIME is a number and a unit: s, m, h or d.";

/// The number and the unit of `value`. Only digits are a number.
fn parts(value: &str) -> Option<(&str, &str)> {
    let end = value.find(|character: char| !character.is_ascii_digit()).unwrap_or(value.len());
    let (digits, unit) = value.split_at(end);
    (!digits.is_empty()).then_some((digits, unit))
}

/// `90s`, `10m`, `2h`, `30d`. A number without a unit could mean any of them, unless it is 0.
pub(crate) fn parse_time(value: &str) -> Result<Duration, String> {
    let wrong = || "not a time such as 90s, 10m, 2h or 30d".to_owned();
    let (digits, unit) = parts(value).ok_or_else(wrong)?;
    let number = digits.parse::<u64>().ok();
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        "" if number == Some(0) => 1,
        "" => return Err(format!("it has no unit: {value}s, {value}m, {value}h or {value}d")),
        _ => return Err(wrong()),
    };
    // A hundred years is the limit, so that sums of times cannot overflow.
    let time = number.and_then(|number| number.checked_mul(seconds));
    time.filter(|time| *time <= 36_525 * 86_400).map(Duration::from_secs).ok_or_else(wrong)
}

/// `500k`, `10M`, `20G`, `1T` and `20GiB` are powers of 1024, as for truncate(1) and curl(1);
/// `10MB` is a power of 1000, as in what calve prints. A size that is too large is [`u64::MAX`].
pub(crate) fn parse_size(value: &str) -> Result<u64, String> {
    let wrong = || "not a size such as 500k, 10M or 1G".to_owned();
    let (digits, unit) = parts(value).ok_or_else(wrong)?;
    let number = digits.parse::<u64>().unwrap_or(u64::MAX);
    let unit = unit.to_ascii_lowercase();
    if unit.is_empty() {
        return Err(format!("it has no unit: {value}k, {value}M or {value}G"));
    }
    let (letter, base) = match unit.strip_suffix("ib") {
        Some(letter) => (letter, 1024_u64),
        None => unit.strip_suffix('b').map_or((&*unit, 1024), |letter| (letter, 1000)),
    };
    let power = match letter {
        "" if base == 1000 => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        _ => return Err(wrong()),
    };
    Ok(number.saturating_mul(base.pow(power)))
}

/// A number of bytes a second, as a size.
pub(super) fn parse_rate(value: &str) -> Result<NonZeroU64, String> {
    match parse_size(value)? {
        u64::MAX => {
            Err("more bytes a second than there are; without --limit-rate there is no limit"
                .to_owned())
        }
        rate => NonZeroU64::new(rate).ok_or_else(|| "nothing could be sent".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_number_with_a_unit() {
        for (value, expected) in [
            ("0", Some(0)),
            ("0s", Some(0)),
            ("90", None),
            ("30", None),
            ("90s", Some(90)),
            ("10m", Some(600)),
            ("2h", Some(7200)),
            ("30d", Some(2_592_000)),
            ("", None),
            ("d", None),
            ("-1", None),
            ("+1", None),
            ("1.5h", None),
            ("1w", None),
            ("1 d", None),
            ("10M", None),
            ("99999999999999999999", None),
            ("9999999999d", None),
            ("1ü", None),
        ] {
            assert_eq!(parse_time(value).ok().map(|time| time.as_secs()), expected, "{value}");
        }
        assert!(parse_time("30").is_err_and(|why| why.contains("30d")));
    }

    #[test]
    fn a_size_is_a_number_with_a_unit_and_one_unit_means_one_thing() {
        for (value, expected) in [
            ("0k", Some(0)),
            ("800B", Some(800)),
            ("500k", Some(500 << 10)),
            ("500K", Some(500 << 10)),
            ("500kB", Some(500_000)),
            ("10M", Some(10 << 20)),
            ("10m", Some(10 << 20)),
            ("10MiB", Some(10 << 20)),
            ("10MB", Some(10_000_000)),
            ("20G", Some(20 << 30)),
            ("20GiB", Some(20 << 30)),
            ("20GB", Some(20_000_000_000)),
            ("1T", Some(1 << 40)),
            ("99999999999999999999k", Some(u64::MAX)),
            ("99999999999999T", Some(u64::MAX)),
            ("1", None),
            ("0", None),
            ("", None),
            ("M", None),
            ("iB", None),
            ("1iB", None),
            ("-1M", None),
            ("1.5M", None),
            ("1 M", None),
            ("1P", None),
            ("10\u{e9}", None),
        ] {
            assert_eq!(parse_size(value).ok(), expected, "{value}");
        }
        for (value, part) in
            [("0k", "nothing"), ("99999999999999T", "more bytes"), ("800", "800k"), ("G", "10M")]
        {
            assert!(parse_rate(value).is_err_and(|why| why.contains(part)), "{value}");
        }
        assert_eq!(parse_rate("10M").ok().map(u64::from), Some(10 << 20));
    }
}
