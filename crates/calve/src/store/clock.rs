//! The current time, and how long ago another time was.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Seconds since 1970, and nanoseconds.
pub(crate) fn now() -> (i64, u32) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (i64::try_from(now.as_secs()).unwrap_or(i64::MAX), now.subsec_nanos())
}

/// Nanoseconds since 1970, until 2262.
pub(crate) fn nanoseconds() -> i64 {
    let (seconds, nanoseconds) = now();
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds.into())
}

/// Whether a time was longer ago than `age`. `None` if it is in the future.
pub(crate) fn older_than((seconds, nanoseconds): (i64, i64), age: Duration) -> Option<bool> {
    let (now, now_nanoseconds) = now();
    let passed = i128::from(now) * 1_000_000_000 + i128::from(now_nanoseconds)
        - (i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds));
    u128::try_from(passed).ok().map(|passed| passed >= age.as_nanos())
}
