//! Who works on a remote at this moment: what pushers and collectors tell each other.
//!
//! ```text
//! underway/push-TOKEN     the record that a pusher is about to rely on; before it, if the name will
//!                         have a list of files that name the root: "calve pushing 1", "found ID"
//! underway/collect-TOKEN  the keys that a collector is about to remove, one a line
//! underway/clock-TOKEN    empty: its time is that of the place's own clock
//! ```
//! A pusher announces its record, then looks for collectors, and then whether all objects of the
//! record are there. A collector announces its keys, then reads the announced records and all
//! others, and then removes the keys that none of them needs. Each writes before it reads, so at
//! least one of two sees the other. `docs/design/remote.md` has the whole argument.
//!
//! # Those who died
//! An announcement counts for [`AnnouncementTimes::life`] by the place's clock. The process that made it acts
//! on it for at most half of that time by its own clock, so that a request that is under way at the
//! end of this half still arrives in time.

use std::collections::HashSet;
use std::io;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use super::super::id::{from_hex, is_token, token};
use super::Remote;
use super::objects::ListedObject;
use super::record::{ObjectId, RECORD_MOST_BYTES};
use crate::error::{Error, ErrorKind, Operation};
use crate::tree::running::Running;

pub(super) const FOLDER: &str = "underway/";
pub(super) const PUSHER: &str = "underway/push-";
pub(super) const COLLECTOR: &str = "underway/collect-";
pub(super) const CLOCK: &str = "underway/clock-";

const COLLECTING_FIRST_LINE: &str = "calve collecting 1\n";
/// No collector's announcement is longer: a collector removes so many keys in several rounds.
const COLLECTING_MOST_BYTES: u64 = 16 << 20;

const PUSHING_FIRST_LINE: &[u8] = b"calve pushing 1\nfound ";
/// No pusher's announcement is longer.
pub(super) const PUSHING_MOST_BYTES: u64 = RECORD_MOST_BYTES + 1024;

/// What a pusher announces: its record, and the list that its name will have.
pub(super) fn pushing(record: &[u8], found: Option<ObjectId>) -> Vec<u8> {
    match found {
        None => record.to_vec(),
        Some(found) => [PUSHING_FIRST_LINE, format!("{found}\n").as_bytes(), record].concat(),
    }
}

/// The record and the list in a pusher's announcement. What is none is no record, either.
pub(super) fn pushed(announced: &[u8]) -> (&[u8], Option<ObjectId>) {
    let split = || {
        let (id, rest) = announced.strip_prefix(PUSHING_FIRST_LINE)?.split_at_checked(64)?;
        let id = from_hex(std::str::from_utf8(id).ok()?)?;
        Some((rest.strip_prefix(b"\n")?, Some(ObjectId::from_bytes(id))))
    };
    split().unwrap_or((announced, None))
}

/// How long announcements count, and how long a pusher waits for a collector.
#[derive(Debug, Clone, Copy)]
pub(super) struct AnnouncementTimes {
    pub(super) life: Duration,
    pub(super) patience: Duration,
    pub(super) poll: Duration,
}

impl AnnouncementTimes {
    pub(super) const USUAL: Self = Self {
        life: Duration::from_secs(3600),
        patience: Duration::from_secs(60),
        poll: Duration::from_secs(1),
    };

    /// The life in whole seconds, as objects have their times.
    pub(super) fn life_seconds(self) -> i64 {
        i64::try_from(self.life.as_secs()).unwrap_or(i64::MAX)
    }
}

/// The time since a moment, by the clock that ran further: the one stands still while the machine
/// sleeps, and the other one may be set back.
#[derive(Debug, Clone, Copy)]
struct Since(Instant, SystemTime);

impl Since {
    fn now() -> Self {
        Self(Instant::now(), SystemTime::now())
    }

    fn elapsed(&self) -> Duration {
        self.0.elapsed().max(self.1.elapsed().unwrap_or_default())
    }
}

/// An announcement, which ends when it is dropped.
#[derive(Debug)]
pub(super) struct Announced<'a> {
    remote: &'a Remote,
    key: String,
    since: Since,
}

impl<'a> Announced<'a> {
    /// `kind` is [`PUSHER`], [`COLLECTOR`] or [`CLOCK`].
    pub(super) fn make(
        remote: &'a Remote,
        operation: Operation,
        kind: &str,
        content: &[u8],
    ) -> Result<Self, Error> {
        let key = format!("{kind}{}", token());
        let announced = Self { remote, key, since: Since::now() };
        // Nobody else has this key: if it exists, the answer to the first attempt was lost.
        remote.create(operation, &announced.key, content)?;
        Ok(announced)
    }

    pub(super) fn collecting<'k>(
        remote: &'a Remote,
        keys: impl Iterator<Item = &'k str>,
    ) -> Result<Self, Error> {
        let mut text = COLLECTING_FIRST_LINE.to_owned();
        for key in keys {
            text += key;
            text.push('\n');
        }
        Self::make(remote, Operation::CollectRemote, COLLECTOR, text.as_bytes())
    }

    /// Whether the process that made it may still act on it.
    pub(super) fn holds(&self) -> bool {
        self.since.elapsed() < self.remote.place.times.life / 2
    }

    /// The time now by the place's clock. `None`: somebody removed the announcement.
    pub(super) fn time(&self, listed: &[ListedObject]) -> Option<i64> {
        let own = listed.iter().find(|one| one.key == self.key)?;
        let passed = i64::try_from(self.since.elapsed().as_secs()).unwrap_or(i64::MAX);
        Some(own.modified.saturating_add(passed))
    }
}

impl Drop for Announced<'_> {
    fn drop(&mut self) {
        // If this fails, it stands until its life is over.
        let _ = self.remote.objects().remove(&self.key);
    }
}

/// Whether a key is that of an announcement. Other keys in the folder are not calve's.
pub(super) fn is_announcement(key: &str) -> bool {
    [PUSHER, COLLECTOR, CLOCK].iter().any(|kind| key.strip_prefix(kind).is_some_and(is_token))
}

/// Whether an announcement of this time still counts. If the place's clock was set back, the time may
/// be in the future. If it is more than a life in the future, the process that announced it has died.
pub(super) fn counts(modified: i64, now: i64, life: i64) -> bool {
    now.abs_diff(modified) <= life.unsigned_abs()
}

impl Remote {
    /// Waits until no collector is about to remove one of these keys. `false`: the announcement of
    /// the caller is gone.
    pub(super) fn wait_for_collectors(
        &self,
        own: &Announced<'_>,
        keys: &HashSet<String>,
        operation: &Running,
    ) -> Result<bool, Error> {
        let times = self.place.times;
        let started = Instant::now();
        loop {
            let listed = self.list(FOLDER)?;
            let Some(now) = own.time(&listed) else { return Ok(false) };
            let mut in_the_way = None;
            for one in &listed {
                if one.key.starts_with(COLLECTOR)
                    && counts(one.modified, now, times.life_seconds())
                    && self.will_remove(&one.key, keys)?
                {
                    in_the_way = Some(one);
                    break;
                }
            }
            let Some(collector) = in_the_way else { return Ok(true) };
            operation.check(Operation::Push, self.url().as_ref())?;
            if started.elapsed() >= times.patience {
                let end = collector.modified.saturating_add(times.life_seconds());
                let left = end.saturating_sub(now) / 60 + 1;
                let why = format!(
                    "a collector is about to remove objects that this snapshot needs; if it died, it is in the way for {left} min more"
                );
                let cause = io::Error::new(io::ErrorKind::ResourceBusy, why);
                return Err(Error::new(
                    ErrorKind::Busy,
                    Operation::Push,
                    self.at(&collector.key),
                    cause,
                ));
            }
            sleep(times.poll);
        }
    }

    /// Whether a collector's list has one of these keys. A list that cannot be read has them all.
    fn will_remove(&self, collector: &str, keys: &HashSet<String>) -> Result<bool, Error> {
        let Some(text) = self.read(collector, COLLECTING_MOST_BYTES)? else { return Ok(false) };
        let text = std::str::from_utf8(&text).ok();
        Ok(text
            .and_then(|text| text.strip_prefix(COLLECTING_FIRST_LINE))
            .is_none_or(|list| list.lines().any(|key| keys.contains(key))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_commands_announce_is_an_announcement() {
        let token = token();
        for (key, expected) in [
            (format!("underway/push-{token}"), true),
            (format!("underway/collect-{token}"), true),
            (format!("underway/clock-{token}"), true),
            (format!("underway/push-{}", token.to_uppercase() + "A"), false),
            (format!("underway/push-{token}.txt"), false),
            (format!("underway/{token}"), false),
            (format!("underway/push-x/{token}"), false),
            ("underway/work.txt".to_owned(), false),
            (format!("packs/push-{token}"), false),
        ] {
            assert_eq!(is_announcement(&key), expected, "{key}");
        }
    }

    #[test]
    fn a_pusher_announces_its_record_and_the_list_of_its_name() {
        let id = ObjectId::of(b"list");
        for (record, found) in [(&b"record"[..], None), (b"record", Some(id)), (b"", Some(id))] {
            assert_eq!(pushed(&pushing(record, found)), (record, found));
        }
        let whole = pushing(b"record", Some(id));
        for cut in [&whole[..50], &whole[..80], b"calve pushing 1\nfound x", b""] {
            assert_eq!(pushed(cut), (cut, None));
        }
    }

    #[test]
    fn an_announcement_counts_for_its_life_by_the_clock_of_the_place() {
        for (modified, now, expected) in [
            (100, 100, true),
            (100, 160, true),
            (100, 161, false),
            // The clock of the place was set back, by less than a life or by more.
            (100, 50, true),
            (160, 100, true),
            (161, 100, false),
            (i64::MIN, i64::MAX, false),
            (i64::MAX, i64::MIN, false),
        ] {
            assert_eq!(counts(modified, now, 60), expected, "{modified} {now}");
        }
    }

    /// The place's clock was ahead when a collector died: each push failed until then.
    #[test]
    fn what_was_announced_in_the_far_future_delays_no_push_and_a_collector_removes_it() {
        let scratch = tempfile::tempdir().unwrap();
        let url = format!("file://{}/remote", scratch.path().display());
        let mut remote = Remote::init(&url, &super::super::RemoteSettings::new()).unwrap();
        let place = std::sync::Arc::get_mut(&mut remote.place).unwrap();
        place.times.patience = Duration::ZERO;
        let keys = HashSet::from(["packs/a".to_owned()]);
        let collector = format!("{COLLECTOR}{}", token());
        let path = scratch.path().join("remote").join(&collector);
        for (minutes, expected) in [
            (0, Some("for 60 min more")),
            (-50, Some("for 10 min more")),
            (-61, None),
            (50, Some("for 110 min more")),
            (61, None),
            (24 * 365 * 60, None),
        ] {
            let list = format!("{COLLECTING_FIRST_LINE}packs/a\n");
            assert!(remote.objects().create(&collector, list.as_bytes()).unwrap());
            let file = std::fs::File::open(&path).unwrap();
            // A few seconds later it counts as it does now.
            let then = super::super::super::clock::now().0 + minutes * 60 - 30;
            let then = u64::try_from(then).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(then)).unwrap();
            let own = Announced::make(&remote, Operation::Push, PUSHER, b"").unwrap();
            let waited = remote.wait_for_collectors(&own, &keys, &Running::default());
            drop(own);
            match (waited, expected) {
                (Ok(is_there), None) => assert!(is_there, "{minutes}"),
                (Err(error), Some(expected)) => {
                    assert_eq!(error.path(), remote.at(&collector), "{minutes}");
                    assert!(error.to_string().contains(expected), "{minutes}: {error}");
                }
                (waited, _) => panic!("{minutes}: {waited:?}"),
            }
            let options = super::super::RemoteGcOptions::new();
            remote.gc(&options, &crate::store::StoreOptions::new()).unwrap();
            assert_eq!(path.try_exists().unwrap(), expected.is_some(), "{minutes}");
            if expected.is_some() {
                std::fs::remove_file(&path).unwrap();
            }
        }
    }
}
