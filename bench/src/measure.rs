//! Seconds, memory and disk.

use std::error::Error;
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// The cost of one run.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Run {
    pub(crate) wall_seconds: f64,
    pub(crate) cpu_seconds: f64,
    /// The peak of the largest process.
    pub(crate) peak_memory_bytes: u64,
}

/// Runs `commands` one after the other. The inner error is the output of the first one that failed.
///
/// Each runs under time(1). A child that this program starts directly would be charged with this
/// program's own memory, because the kernel carries the peak over from the process that called
/// exec.
pub(crate) fn run(commands: &[Vec<OsString>]) -> Result<Result<Run, String>, Box<dyn Error>> {
    let mut total = Run::default();
    for words in commands {
        let started = Instant::now();
        let output = Command::new("time")
            .args(["-q", "-f", "%M %U %S", "--"])
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .output()
            .map_err(|error| format!("time(1) is needed (package `time`): {error}"))?;
        total.wall_seconds += started.elapsed().as_secs_f64();

        // The output of the command, and then the line of time(1).
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.trim_end();
        let (said, usage) = said.rsplit_once('\n').unwrap_or(("", said));
        if !output.status.success() {
            let why = said.lines().next();
            return Ok(Err(
                why.map_or_else(|| output.status.to_string().replace(": ", " "), str::to_owned)
            ));
        }
        let numbers: Vec<f64> = usage
            .split(' ')
            .map(str::parse)
            .collect::<Result<_, _>>()
            .map_err(|error| format!("time(1) said {usage:?}: {error}"))?;
        let [peak_kib, user, system] = numbers[..] else {
            return Err(format!("time(1) said {usage:?}").into());
        };
        total.cpu_seconds += user + system;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a process's size"
        )]
        let peak = peak_kib as u64 * 1024;
        total.peak_memory_bytes = total.peak_memory_bytes.max(peak);
    }
    Ok(Ok(total))
}

/// The filesystem that is measured.
#[derive(Debug)]
pub(crate) struct Volume(File);

impl Volume {
    pub(crate) fn of(directory: &Path) -> io::Result<Self> {
        Ok(Self(File::open(directory)?))
    }

    /// Writes everything back; how many seconds that took.
    pub(crate) fn flush(&self) -> io::Result<f64> {
        let started = Instant::now();
        rustix::fs::syncfs(&self.0)?;
        Ok(started.elapsed().as_secs_f64())
    }

    /// The free space when it no longer changes: XFS frees removed inodes, and btrfs frees removed
    /// extents, a while after the call.
    pub(crate) fn settled_free_bytes(&self) -> io::Result<u64> {
        const PAUSE: Duration = Duration::from_millis(300);
        let mut last = None;
        let mut unchanged = 0;
        for _ in 0..60 {
            self.flush()?;
            let stat = rustix::fs::fstatvfs(&self.0)?;
            let free_bytes = stat.f_bfree * stat.f_frsize;
            unchanged = if last == Some(free_bytes) { unchanged + 1 } else { 0 };
            last = Some(free_bytes);
            if unchanged == 3 {
                break;
            }
            sleep(PAUSE);
        }
        Ok(last.unwrap_or_default())
    }
}

/// The contents of a tree.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Census {
    /// Entries of every kind, without the root.
    pub(crate) entries: u64,
    pub(crate) regular_files: u64,
    pub(crate) content_bytes: u64,
}

/// Counts the entries below `root`.
pub(crate) fn census(root: &Path) -> io::Result<Census> {
    let mut census = Census::default();
    walk(root, |_, metadata| {
        census.entries += 1;
        if metadata.is_file() {
            census.regular_files += 1;
            census.content_bytes += metadata.len();
        }
        Ok(())
    })?;
    Ok(census)
}

/// Brings the content of every file below `root` into the page cache.
pub(crate) fn read_files(root: &Path) -> io::Result<()> {
    walk(root, |path, metadata| {
        if metadata.is_file() {
            io::copy(&mut File::open(path)?, &mut io::sink())?;
        }
        Ok(())
    })
}

fn walk(root: &Path, mut visit: impl FnMut(&Path, &Metadata) -> io::Result<()>) -> io::Result<()> {
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            visit(&entry.path(), &metadata)?;
            if metadata.is_dir() {
                directories.push(entry.path());
            }
        }
    }
    Ok(())
}
