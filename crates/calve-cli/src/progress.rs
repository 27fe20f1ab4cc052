//! The progress bar: shown on a terminal only, and only for work that lasts.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use calve::{Cancel, Progress};
use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::text;

/// Work that ends sooner than this shows no bar.
const PATIENCE: Duration = Duration::from_millis(500);
const REDRAW: Duration = Duration::from_millis(100);

/// What the bar shows.
pub(crate) struct Watched<'a> {
    pub(crate) progress: &'a Progress,
    pub(crate) cancel: &'a Cancel,
    pub(crate) total: Total<'a>,
}

/// How many files there are to do.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Total<'a> {
    /// Nobody knows: with filters, counting by other rules than the work's would be a lie.
    Unknown,
    /// So many.
    #[cfg(unix)]
    Files(u64),
    /// As many as there are below `root`, so many times. `own`: without calve's own folders, and unknown
    /// where an ignore file may leave something out.
    Tree { root: &'a Path, times: u64, own: bool },
}

/// Does `work`, and shows the bar meanwhile.
pub(crate) fn shown_while<T>(watched: &Watched<'_>, work: impl FnOnce() -> T) -> T {
    thread::scope(|scope| {
        let (working, ended) = mpsc::channel::<()>();
        // A thread that cannot be had costs the bar and not the work.
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
    bar.set_style(style("{spinner} {human_pos} files, {msg}"));
    let total = OnceLock::new();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        match watched.total {
            Total::Unknown => {}
            #[cfg(unix)]
            Total::Files(files) => {
                let _ = total.set(files);
            }
            Total::Tree { root, times, own } => {
                let (total, stop) = (&total, &stop);
                let count = move || {
                    if let Some(files) = count_files(root, own, stop) {
                        let _ = total.set(files.saturating_mul(times));
                    }
                };
                let _ = thread::Builder::new().name("count".to_owned()).spawn_scoped(scope, count);
            }
        }
        loop {
            if let (None, Some(&total)) = (bar.length(), total.get()) {
                bar.set_length(total);
                bar.set_style(style("{wide_bar} {human_pos}/{human_len} files, {msg}"));
            }
            bar.set_position(watched.progress.files());
            bar.set_message(message(watched, started.elapsed(), total.get().copied()));
            bar.tick();
            if !still_working(ended, REDRAW) {
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    bar.finish_and_clear();
}

fn still_working(ended: &Receiver<()>, time: Duration) -> bool {
    ended.recv_timeout(time) == Err(RecvTimeoutError::Timeout)
}

/// Bytes, rates and the time left. Rates are of the whole time, since the bar comes late: an estimate from its
/// own beginning would take what was done before for a burst.
fn message(watched: &Watched<'_>, elapsed: Duration, total: Option<u64>) -> String {
    let progress = watched.progress;
    if watched.cancel.is_cancelled() {
        return "stopping: removing what was staged".to_owned();
    }
    let (files, bytes) = (progress.files(), progress.bytes());
    let scaled = |amount: u64, by: u128, over: u128| {
        u64::try_from(u128::from(amount) * by / over.max(1)).unwrap_or(u64::MAX)
    };
    let millis = elapsed.as_millis();
    let mut message = format!(
        "{}, {} files/s, {}/s",
        text::bytes(bytes),
        text::count(scaled(files, 1000, millis)),
        text::bytes(scaled(bytes, 1000, millis))
    );
    if progress.is_publishing() {
        message.push_str(", publishing");
    } else if let (Some(total), 1..) = (total, files) {
        let left = scaled(total.saturating_sub(files), millis, files.into());
        message.push_str(&format!(", {} left", HumanDuration(Duration::from_millis(left))));
    }
    message
}

/// The template is a constant: were it wrong, indicatif's own would do.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("━━╌")
}

/// Everything but directories, by the entries' types alone, without a stat; `None` if stopped, or not to be known.
fn count_files(root: &Path, own: bool, stop: &AtomicBool) -> Option<u64> {
    let mut files = 0;
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        // What cannot be read is the clone's to report.
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
    fn the_templates_are_understood() {
        for template in [
            "{spinner} {human_pos} files, {msg}",
            "{wide_bar} {human_pos}/{human_len} files, {msg}",
        ] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}
