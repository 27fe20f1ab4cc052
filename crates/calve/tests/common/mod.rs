//! Shared parts of the tests: the folder that they run in, the results that they may expect there,
//! and the comparison of two trees.

pub(crate) mod git;
pub(crate) mod mounts;
pub(crate) mod odd;
pub(crate) mod snapshot;

use std::fs;
use std::io::Write as _;
use std::num::NonZeroUsize;
use std::os::unix::process::ExitStatusExt as _;
use std::panic::Location;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use calve::{CloneOptions, ReflinkOutcome};
use rustix::process::{Gid, Uid};

/// An empty directory on the filesystem under test, removed at the end however deep and closed its
/// tree is.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        Self::made(match std::env::var_os("CALVE_TEST_DIR") {
            Some(dir) => tempfile::tempdir_in(dir),
            None => tempfile::tempdir(),
        })
    }

    /// On another filesystem than [`new`](Self::new); `None` where the machine has none to offer.
    pub(crate) fn elsewhere() -> Option<Self> {
        let here = device(Self::new().path());
        ["/tmp", "/var/tmp", "/dev/shm"].iter().find_map(|dir| {
            let made = tempfile::tempdir_in(dir).ok()?;
            (device(made.path()) != here).then(|| Self::made(Ok(made)))
        })
    }

    fn made(dir: std::io::Result<tempfile::TempDir>) -> Self {
        Self(fs::canonicalize(dir.unwrap().keep()).unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.join(name)
    }

    /// The names in it, sorted; the hidden ones, such as stages, too.
    pub(crate) fn names(&self) -> Vec<String> {
        names(&self.0)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The standard library keeps a descriptor open for each level; rm does not.
        let rm = || Command::new("rm").arg("-rf").arg(&self.0).stderr(Stdio::null()).status();
        if !rm().is_ok_and(|status| status.success()) {
            let _ = Command::new("chmod")
                .args(["-R", "u+rwX"])
                .arg(&self.0)
                .stderr(Stdio::null())
                .status();
            let _ = rm();
        }
    }
}

pub(crate) fn device(path: &Path) -> u64 {
    std::os::unix::fs::MetadataExt::dev(&fs::metadata(path).unwrap())
}

/// The names in `dir`, sorted.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Whether something is there, be it a link that points nowhere.
pub(crate) fn is_there(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// Whether files must be reflinked in `dir`: from the environment, or else from a probe.
pub(crate) fn expects_reflink(dir: &Path) -> bool {
    match std::env::var("CALVE_EXPECT").as_deref() {
        Ok("reflink") => true,
        Ok("copy") => false,
        Ok(other) => panic!("CALVE_EXPECT is {other:?}, neither reflink nor copy"),
        Err(_) => calve::probe(dir).unwrap().outcome == ReflinkOutcome::Cloned,
    }
}

/// The filesystem under test.
pub(crate) fn filesystem(dir: &Path) -> String {
    std::env::var("CALVE_FS")
        .ok()
        .or_else(|| calve::probe(dir).unwrap().dest_filesystem)
        .unwrap_or_else(|| "unknown".to_owned())
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Says that a test, or a row of it, could not be tried here. Never silent: `scripts/test` counts
/// these.
pub(crate) fn not_run(test: &str, why: &str) {
    let line = format!("NOT RUN: {test}: {why}\n");
    eprint!("{line}");
    if let Some(log) = std::env::var_os("CALVE_NOT_RUN") {
        let mut log = fs::OpenOptions::new().append(true).create(true).open(log).unwrap();
        log.write_all(line.as_bytes()).unwrap();
    }
}

pub(crate) fn jobs(options: CloneOptions, jobs: usize) -> CloneOptions {
    options.jobs(NonZeroUsize::new(jobs).unwrap())
}

const CHILD: &str = "CALVE_TEST_CHILD";
const CHILD_DONE: &str = "the child came to its end";

/// Runs `body` in its own process, because it changes process-wide state: the umask, limits, the
/// working directory, death. The process is this test binary, which runs only `test`. There the
/// same call runs `body`. `test` must be the name of the calling test, and the call must be in its
/// file; `row` tells its calls apart.
#[track_caller]
pub(crate) fn in_child(test: &str, row: &str, body: impl FnOnce()) {
    let Some(output) = child(test, row, body).map(|mut child| child.output().unwrap()) else {
        return;
    };
    assert_child_done(row, &output);
}

#[track_caller]
pub(crate) fn assert_child_done(row: &str, output: &Output) {
    if let Err(why) = child_done(output) {
        panic!("the child {row:?} {why}");
    }
}

/// Whether the child came to its end; if not, why.
pub(crate) fn child_done(output: &Output) -> Result<(), String> {
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    if output.status.success() && text.contains(CHILD_DONE) {
        return Ok(());
    }
    let (code, signal) = (output.status.code(), output.status.signal());
    Err(format!("ended with {code:?} (signal {signal:?}):\n{text}"))
}

/// As [`in_child`], but the process is only prepared, for who wants to have a say in its life.
/// `None` in the child.
#[track_caller]
pub(crate) fn child(test: &str, row: &str, body: impl FnOnce()) -> Option<Command> {
    // Each file is a module of its program, and its tests are named after it.
    let module = Path::new(Location::caller().file()).file_stem().unwrap().to_str().unwrap();
    let test = format!("{module}::{test}");
    let meant = format!("{test}={row}");
    if let Ok(which) = std::env::var(CHILD) {
        if which == meant {
            body();
            println!("{CHILD_DONE}");
        }
        return None;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([&test, "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, meant)
        .stdin(Stdio::null());
    Some(command)
}

pub(crate) const NOBODY: u32 = 65534;

/// Runs `body` in a thread that has lost root's rights (on Linux they are the thread's, and its
/// threads inherit them).
#[cfg(target_os = "linux")]
pub(crate) fn as_nobody<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
            rustix::thread::set_thread_groups(&[]).unwrap();
            rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
            rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
            body()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Fails the test if `body` hangs.
pub(crate) fn within<T: Send + 'static>(
    limit: Duration,
    body: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (send, receive) = mpsc::channel();
    let thread = thread::spawn(move || {
        let _ = send.send(body());
    });
    match receive.recv_timeout(limit) {
        Ok(value) => value,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("it hangs"),
        Err(mpsc::RecvTimeoutError::Disconnected) => match thread.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(()) => unreachable!("it sent nothing and did not panic"),
        },
    }
}

/// Runs a command that must succeed, and returns its output.
#[track_caller]
pub(crate) fn sh(command: &mut Command) -> String {
    let output = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Whether there is such a command here.
pub(crate) fn has_command(name: &str) -> bool {
    Command::new("sh")
        .args(["-c", "command -v \"$1\"", "sh", name])
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// `length` bytes that are never zero and differ from seed to seed.
pub(crate) fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            u8::try_from(state & 0xff).unwrap() | 1
        })
        .collect()
}

/// A plain tree: `folders` folders with `files` files each, and what all of them hold.
pub(crate) fn plain_tree(root: &Path, folders: usize, files: usize, length: usize) {
    fs::create_dir(root).unwrap();
    for folder in 0..folders {
        let dir = root.join(format!("d{folder}"));
        fs::create_dir(&dir).unwrap();
        for file in 0..files {
            fs::write(dir.join(format!("f{file}")), bytes((folder * files + file) as u64, length))
                .unwrap();
        }
    }
}
