//! The progress bar. calve shows it only on a terminal, and only for work that takes a while.

use std::collections::VecDeque;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use calve::{Cancel, Progress};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::text;

/// Work that ends sooner than this shows no bar.
const PATIENCE: Duration = Duration::from_millis(500);
const REDRAW: Duration = Duration::from_millis(100);

/// The state that the bar shows.
pub(crate) struct Watched<'a> {
    pub(crate) progress: &'a Progress,
    pub(crate) cancel: &'a Cancel,
    pub(crate) total: Total<'a>,
}

/// The number of files that the bar counts up to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Total<'a> {
    /// The number that the library gives, if any. With filters, only the work itself knows how many
    /// files it has.
    Unknown,
    /// Like `Unknown`, for contents of the store instead of files.
    #[cfg(unix)]
    Contents,
    /// The bytes of contents that go to a remote, or come from one.
    #[cfg(unix)]
    Transfer,
    /// This number.
    #[cfg(unix)]
    Files(u64),
    /// The number of files below `root`, this many times. `own`: without calve's own folders, and
    /// unknown if an ignore file may leave something out.
    Tree { root: &'a Path, times: u64, own: bool },
}

/// Does `work`, and shows the bar in the meantime.
pub(crate) fn shown_while<T>(watched: &Watched<'_>, work: impl FnOnce() -> T) -> T {
    thread::scope(|scope| {
        let (working, ended) = mpsc::channel::<()>();
        // Without this thread there is no bar, but the work goes on.
        let _ = thread::Builder::new()
            .name("progress".to_owned())
            .spawn_scoped(scope, move || watch(watched, &ended));
        let result = work();
        drop(working);
        result
    })
}

fn watch(watched: &Watched<'_>, ended: &Receiver<()>) {
    let started = Instant::now();
    if !still_working(ended, PATIENCE) {
        return;
    }
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let counted = OnceLock::new();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        match watched.total {
            #[cfg(unix)]
            Total::Contents | Total::Transfer => {}
            Total::Unknown => {}
            #[cfg(unix)]
            Total::Files(files) => {
                let _ = counted.set(files);
            }
            Total::Tree { root, times, own } => {
                let (counted, stop) = (&counted, &stop);
                let count = move || {
                    if let Some(files) = count_files(root, own, stop) {
                        let _ = counted.set(files.saturating_mul(times));
                    }
                };
                let _ = thread::Builder::new().name("count".to_owned()).spawn_scoped(scope, count);
            }
        }
        let mut pace = Pace::default();
        loop {
            let mut now = Now::of(watched, counted.get().copied(), started.elapsed());
            let (done, all) = now.measure();
            now.recent = pace.note(now.elapsed, done);
            bar.set_style(style(if all.is_some() { BAR } else { SPINNER }));
            // The work may have more files than expected. The bar is full then.
            bar.set_length(all.unwrap_or(0).max(done));
            bar.set_position(done);
            bar.set_message(now.message(columns()));
            bar.tick();
            if !still_working(ended, REDRAW) {
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    bar.finish_and_clear();
}

const BAR: &str = "{wide_bar} {msg}";
const SPINNER: &str = "{spinner} {msg}";

/// The width of the terminal.
fn columns() -> usize {
    terminal_size::terminal_size_of(std::io::stderr()).map_or(80, |(width, _)| width.0.into())
}

fn still_working(ended: &Receiver<()>, time: Duration) -> bool {
    ended.recv_timeout(time) == Err(RecvTimeoutError::Timeout)
}

/// The pace of the last few seconds.
#[derive(Default)]
struct Pace(VecDeque<(Duration, u64)>);

impl Pace {
    /// Notes the number of files so far. Returns the files of the last few seconds and the length
    /// of that time, or `None` if too little time has passed.
    fn note(&mut self, elapsed: Duration, files: u64) -> Option<(u64, Duration)> {
        const LEAST: Duration = Duration::from_secs(1);
        const MOST: Duration = Duration::from_secs(5);
        self.0.push_back((elapsed, files));
        while self.0.get(1).is_some_and(|(then, _)| elapsed.saturating_sub(*then) >= MOST) {
            self.0.pop_front();
        }
        let (then, before) = *self.0.front()?;
        let time = elapsed.saturating_sub(then);
        (time >= LEAST).then(|| (files.saturating_sub(before), time))
    }
}

/// The progress of the work.
struct Now {
    files: u64,
    bytes: u64,
    total: Option<u64>,
    /// The number of bytes, if bytes matter more than files.
    total_bytes: Option<u64>,
    elapsed: Duration,
    /// The files (or bytes) of the last few seconds, and the length of that time.
    recent: Option<(u64, Duration)>,
    noun: &'static str,
    publishing: bool,
    stopping: bool,
}

impl Now {
    fn of(watched: &Watched<'_>, counted: Option<u64>, elapsed: Duration) -> Self {
        let progress = watched.progress;
        let noun = match watched.total {
            #[cfg(unix)]
            Total::Contents | Total::Transfer => "contents",
            _ => "files",
        };
        Self {
            files: progress.files(),
            bytes: progress.bytes(),
            total: counted.or(Some(progress.expected_files())).filter(|total| *total > 0),
            total_bytes: match watched.total {
                #[cfg(unix)]
                Total::Transfer => Some(progress.expected_bytes()).filter(|total| *total > 0),
                _ => None,
            },
            elapsed,
            recent: None,
            noun,
            publishing: progress.is_publishing(),
            stopping: watched.cancel.is_cancelled(),
        }
    }

    /// How much is done, and how much there is in all.
    fn measure(&self) -> (u64, Option<u64>) {
        match self.total_bytes {
            Some(total) => (self.bytes, Some(total)),
            None => (self.files, self.total),
        }
    }

    /// The text beside the bar, with as many parts as fit into the line. Rates are averages over
    /// the whole time: the bar comes late, so a rate since its beginning would count earlier work
    /// as a burst.
    fn message(&self, columns: usize) -> String {
        /// The columns of the bar itself, with the space after it.
        const LEAST: usize = 6;
        if self.stopping {
            return "stopping".to_owned();
        }
        let millis = self.elapsed.as_millis();
        let scaled = |amount: u64, by: u128, over: u128| {
            u64::try_from(u128::from(amount) * by / over.max(1)).unwrap_or(u64::MAX)
        };
        let all = self
            .total
            .map_or_else(String::new, |total| format!("/{}", text::count(total.max(self.files))));
        let mut parts = vec![format!("{}{all} {}", text::count(self.files), self.noun)];
        let mut rates = Vec::new();
        if let Some(total) = self.total_bytes {
            parts.insert(0, format!("{}/{}", text::bytes(self.bytes), text::bytes(total)));
        } else if self.bytes > 0 {
            parts.push(text::bytes(self.bytes));
        }
        if self.bytes > 0 {
            rates.push(format!("{}/s", text::bytes(scaled(self.bytes, 1000, millis))));
        }
        if self.files > 0 && self.total_bytes.is_none() {
            let rate = text::count(scaled(self.files, 1000, millis));
            rates.insert(0, format!("{rate} {}/s", self.noun));
        }
        if self.files == 0 && self.total.is_none() {
            parts = vec!["working".to_owned()];
        }
        let (done, all) = self.measure();
        let time = match all {
            _ if self.publishing => "publishing".to_owned(),
            Some(total) if done > 0 && done < total => {
                // The work before the files (a snapshot, a ready tree) is slow, and so is one large
                // file. The higher of the two rates is the better estimate of the rest.
                let at = |amount: u64, millis| scaled(total - done, millis, amount.into());
                let left = self
                    .recent
                    .filter(|(amount, _)| *amount > 0)
                    .map_or(u64::MAX, |(amount, time)| at(amount, time.as_millis()));
                format!("{} left", seconds(left.min(at(done, millis))))
            }
            _ => seconds(u64::try_from(millis).unwrap_or(u64::MAX)),
        };
        while !rates.is_empty() {
            let line = [&parts[..], &rates[..], std::slice::from_ref(&time)].concat().join(", ");
            if line.chars().count() + LEAST <= columns {
                return line;
            }
            rates.pop();
        }
        parts.push(time);
        parts.join(", ")
    }
}

/// Whole seconds: fractions would flicker.
fn seconds(millis: u64) -> String {
    match millis.div_ceil(1000) {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds => text::duration(Duration::from_secs(seconds)),
    }
}

/// The template is a constant. If it were wrong, the default of indicatif would do.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("━━╌")
}

/// Counts everything except directories, by the type of the entries and without a `stat`. `None` if
/// it was stopped, or cannot know the number.
fn count_files(root: &Path, own: bool, stop: &AtomicBool) -> Option<u64> {
    let mut files = 0;
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        // calve's own folder in the repository.
        if directory.ends_with(".git/calve") {
            continue;
        }
        // The clone reports folders that it cannot read.
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        for entry in entries {
            if stop.load(Ordering::Relaxed) {
                return None;
            }
            let Ok(entry) = entry else { break };
            match entry.file_name().to_str() {
                Some(".calve") if own => continue,
                Some(".calveignore") if own => return None,
                _ => {}
            }
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => pending.push(entry.path()),
                _ => files += 1,
            }
        }
    }
    Some(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_of_everything_but_directories_and_can_be_stopped() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("a/b")).unwrap();
        for name in ["x", "a/y", "a/b/z"] {
            fs::write(root.path().join(name), name).unwrap();
        }
        let count = |root: &Path, own, stop| count_files(root, own, &AtomicBool::new(stop));
        assert_eq!(count(root.path(), false, false), Some(3));
        assert_eq!(count(root.path(), false, true), None);
        assert_eq!(count(&root.path().join("none"), false, false), Some(0));
        fs::create_dir(root.path().join(".calve")).unwrap();
        fs::write(root.path().join(".calve/index.db"), "").unwrap();
        assert_eq!(count(root.path(), true, false), Some(3));
        assert_eq!(count(root.path(), false, false), Some(4));
        fs::write(root.path().join("a/.calveignore"), "y").unwrap();
        assert_eq!(count(root.path(), true, false), None);
    }

    #[test]
    fn the_result_of_the_work_comes_back_whether_or_not_a_bar_was_shown() {
        let (progress, cancel) = (Progress::default(), Cancel::new());
        for pause in [Duration::ZERO, PATIENCE + 3 * REDRAW] {
            let total = Total::Tree { root: Path::new("."), times: 2, own: false };
            let watched = Watched { progress: &progress, cancel: &cancel, total };
            let result = shown_while(&watched, || {
                thread::sleep(pause);
                42
            });
            assert_eq!(result, 42);
        }
    }

    #[test]
    fn the_bar_says_what_is_known_and_no_more_than_there_is_room_for() {
        let now = |files, bytes, total| Now {
            files,
            bytes,
            total,
            total_bytes: None,
            elapsed: Duration::from_secs(10),
            recent: None,
            noun: "files",
            publishing: false,
            stopping: false,
        };
        let whole = now(628_000, 1_300_000_000, Some(628_632));
        for (now, columns, expected) in [
            (&whole, 80, "628,000/628,632 files, 1.3 GB, 62,800 files/s, 130.0 MB/s, 1 s left"),
            (&whole, 70, "628,000/628,632 files, 1.3 GB, 62,800 files/s, 1 s left"),
            (&whole, 60, "628,000/628,632 files, 1.3 GB, 1 s left"),
            (&whole, 10, "628,000/628,632 files, 1.3 GB, 1 s left"),
            (&now(10, 0, Some(1000)), 80, "10/1,000 files, 1 files/s, 16 min 30 s left"),
            (&now(10, 0, Some(10)), 80, "10/10 files, 1 files/s, 10 s"),
            (&now(20, 0, Some(10)), 80, "20/20 files, 2 files/s, 10 s"),
            (&now(0, 0, Some(10)), 80, "0/10 files, 10 s"),
            (&now(20, 1000, None), 80, "20 files, 1.0 kB, 2 files/s, 100 B/s, 10 s"),
            (&now(0, 0, None), 80, "working, 10 s"),
            // The slow beginning no longer counts.
            (
                &Now { recent: Some((400, Duration::from_secs(4))), ..now(500, 0, Some(1000)) },
                80,
                "500/1,000 files, 50 files/s, 5 s left",
            ),
            // One large file says nothing about the small files after it. A moment without any file
            // says nothing at all.
            (
                &Now { recent: Some((1, Duration::from_secs(5))), ..now(500, 0, Some(1000)) },
                80,
                "500/1,000 files, 50 files/s, 10 s left",
            ),
            (
                &Now { recent: Some((0, Duration::from_secs(5))), ..now(500, 0, Some(1000)) },
                80,
                "500/1,000 files, 50 files/s, 10 s left",
            ),
            (
                &Now { publishing: true, ..now(1, 0, Some(2)) },
                80,
                "1/2 files, 0 files/s, publishing",
            ),
            (
                &Now { total_bytes: Some(400_000_000), ..now(10, 100_000_000, Some(1000)) },
                80,
                "100.0 MB/400.0 MB, 10/1,000 files, 10.0 MB/s, 30 s left",
            ),
            (
                &Now { total_bytes: Some(400_000_000), ..now(10, 100_000_000, Some(1000)) },
                60,
                "100.0 MB/400.0 MB, 10/1,000 files, 30 s left",
            ),
            (
                &Now { total_bytes: Some(400_000_000), ..now(0, 0, Some(1000)) },
                80,
                "0 B/400.0 MB, 0/1,000 files, 10 s",
            ),
            (&Now { stopping: true, ..now(1, 0, Some(2)) }, 80, "stopping"),
        ] {
            assert_eq!(now.message(columns), expected);
        }
    }

    /// One minute without a file, then 1,000 files a second. An average over the whole time said
    /// "12 min left" two seconds before the end.
    #[test]
    fn the_time_left_is_near_to_the_truth_where_the_work_began_slowly() {
        let mut pace = Pace::default();
        let mut recent = None;
        let total = 10_000;
        for tenth in 0..=640_u64 {
            let files = tenth.saturating_sub(600) * 100;
            recent = pace.note(Duration::from_millis(tenth * 100), files);
            assert_eq!(recent.is_some(), tenth >= 10, "{tenth}");
        }
        let now = Now {
            files: 4_000,
            bytes: 0,
            total: Some(total),
            total_bytes: None,
            elapsed: Duration::from_secs(64),
            recent,
            noun: "files",
            publishing: false,
            stopping: false,
        };
        assert_eq!(now.message(80), "4,000/10,000 files, 62 files/s, 8 s left");
    }

    #[test]
    fn the_templates_are_understood() {
        for template in [BAR, SPINNER] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}
