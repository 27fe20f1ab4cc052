//! A limit of bandwidth: how long to wait before bytes may go.

use std::num::NonZeroU64;
use std::sync::Mutex;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::report::Cancel;
use crate::tree::pool::lock;

/// A wait is looked at this often, should somebody cancel it.
const SLICE: Duration = Duration::from_millis(50);
/// What was not used in this time before may be used at once.
const BURST: Duration = Duration::from_millis(500);
const NANOS: u128 = 1_000_000_000;

/// A token bucket that may be overdrawn: a thread that asks while it is empty waits until it is
/// not, and then takes as much as it needs. So an object that is larger than the bucket passes, and
/// those after it wait for it.
#[derive(Debug)]
struct Bucket {
    bytes_per_second: NonZeroU64,
    /// When what was taken so far is paid for.
    paid: Duration,
}

impl Bucket {
    /// How long to wait at the time `now`, before anything is taken.
    fn wait(&self, now: Duration) -> Duration {
        self.paid.saturating_sub(now)
    }

    /// Takes bytes at the time `now`.
    fn spend(&mut self, now: Duration, bytes: u64) {
        let nanos = u128::from(bytes) * NANOS / u128::from(self.bytes_per_second.get());
        let time = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.paid = self.paid.max(now.saturating_sub(BURST)).saturating_add(time);
    }
}

/// The limit that all threads of a remote share; at first there is none.
#[derive(Debug, Default)]
pub(crate) struct Limit(Mutex<Option<Limited>>);

#[derive(Debug)]
struct Limited {
    bucket: Bucket,
    started: Instant,
    cancel: Cancel,
}

impl Limit {
    pub(crate) fn set(&self, bytes_per_second: NonZeroU64, cancel: &Cancel) {
        let bucket = Bucket { bytes_per_second, paid: Duration::ZERO };
        let (started, cancel) = (Instant::now(), cancel.clone());
        *lock(&self.0) = Some(Limited { bucket, started, cancel });
    }

    /// Waits until bytes may go, or until the operation is cancelled. Only contents and directories
    /// wait. Records, names and announcements count, but go at once: the process that announced
    /// them must make them within a time.
    pub(crate) fn wait(&self) {
        loop {
            let left = match &*lock(&self.0) {
                Some(limited) if !limited.cancel.is_cancelled() => {
                    limited.bucket.wait(limited.started.elapsed())
                }
                _ => return,
            };
            if left.is_zero() {
                return;
            }
            sleep(left.min(SLICE));
        }
    }

    /// Counts bytes that go now, or that have arrived.
    pub(crate) fn spend(&self, bytes: u64) {
        if let Some(limited) = &mut *lock(&self.0) {
            limited.bucket.spend(limited.started.elapsed(), bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(bytes_per_second: u64) -> Bucket {
        let bytes_per_second = NonZeroU64::new(bytes_per_second).unwrap();
        Bucket { bytes_per_second, paid: Duration::ZERO }
    }

    #[test]
    fn who_asks_waits_until_what_was_taken_before_is_paid_for() {
        let ms = Duration::from_millis;
        // At 1,000 bytes a second: when so many bytes are taken, and how long the next one waits.
        for (row, steps) in [
            ("the first one does not wait", vec![(0, 1000, 1000)]),
            ("what is taken adds up", vec![(0, 1000, 1000), (500, 1000, 1500)]),
            ("a large object passes, and is paid for", vec![(0, 60_000, 60_000)]),
            ("half a second is saved, no more", vec![(0, 0, 0), (60_000, 1000, 500)]),
            ("little is free after a pause", vec![(0, 100, 100), (10_000, 400, 0)]),
            ("nothing costs nothing", vec![(0, 0, 0)]),
        ] {
            let mut bucket = bucket(1000);
            for (now, bytes, wait) in steps {
                bucket.spend(ms(now), bytes);
                assert_eq!(bucket.wait(ms(now)), ms(wait), "{row}");
            }
        }
    }

    #[test]
    fn no_number_is_too_large() {
        let mut bucket = bucket(1);
        for _ in 0..3 {
            bucket.spend(Duration::from_secs(u64::MAX), u64::MAX);
        }
        assert!(bucket.wait(Duration::ZERO) > Duration::from_secs(1 << 34));
    }

    proptest::proptest! {
        #[test]
        fn over_any_time_no_more_goes_than_the_rate_and_what_was_saved(
            objects in proptest::collection::vec((0..3000_u64, 0..5000_u64), 1..100),
        ) {
            let (mut bucket, mut now, mut sent) = (bucket(1000), Duration::ZERO, 0);
            for (pause, bytes) in objects {
                now += Duration::from_millis(pause);
                now += bucket.wait(now);
                let most = u64::try_from(now.as_millis()).unwrap() + 500;
                proptest::prop_assert!(sent <= most, "{sent} bytes before {now:?}");
                bucket.spend(now, bytes);
                sent += bytes;
            }
        }
    }

    #[test]
    fn a_wait_ends_when_the_operation_is_cancelled() {
        let (limit, cancel) = (Limit::default(), Cancel::new());
        limit.wait();
        limit.set(NonZeroU64::new(1).unwrap(), &cancel);
        limit.spend(1 << 40);
        cancel.cancel();
        limit.wait();
    }
}
