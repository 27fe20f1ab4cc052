//! The command line from outside: the built binary, its two streams and its exit codes.

#[cfg(unix)]
mod adopted;
#[cfg(unix)]
mod changes;
mod clone;
mod doctor;
#[cfg(unix)]
mod environment;
mod errors;
#[cfg(unix)]
mod fill;
#[cfg(unix)]
mod filters;
#[cfg(unix)]
mod fork;
#[cfg(unix)]
mod guide;
#[cfg(unix)]
mod hints;
#[cfg(unix)]
mod homes;
#[cfg(unix)]
mod hooks;
mod imports;
#[cfg(target_os = "linux")]
mod living;
#[cfg(unix)]
mod lost;
#[cfg(unix)]
mod newcomer;
mod pages;
#[cfg(unix)]
mod places;
#[cfg(unix)]
mod process;
#[cfg(unix)]
mod refusals;
#[cfg(unix)]
mod remotes;
#[cfg(unix)]
mod risks;
#[cfg(target_os = "linux")]
mod run;
#[cfg(unix)]
mod scope;
#[cfg(target_os = "linux")]
mod secrets;
#[cfg(unix)]
mod shells;
#[path = "../shown/mod.rs"]
mod shown;
#[cfg(unix)]
mod snapshots;
mod streams;
#[cfg(unix)]
mod terminal;
#[cfg(target_os = "linux")]
mod tidy;
#[cfg(target_os = "linux")]
mod untouched;
#[cfg(unix)]
mod update;
#[cfg(unix)]
mod upkeep;
mod usage;
#[cfg(unix)]
mod worktrees;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::{fmt, fs};

use shown::Lines;
use tempfile::TempDir;

/// The output of a run of the command on its streams.
struct Run {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (stdout, stderr) = (Lines(&self.stdout), Lines(&self.stderr));
        write!(f, "exit code {:?}\n  stdout:{stdout:?}\n  stderr:{stderr:?}", self.code)
    }
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

impl Run {
    /// The JSON document on standard output, which is all there may be.
    #[track_caller]
    fn json(&self) -> serde_json::Value {
        assert_eq!(self.stdout.lines().count(), 1, "{self:?}");
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// The command in `directory`, without variables of the environment that would change its output.
fn command<S: AsRef<OsStr>>(directory: &Path, args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_calve"));
    command.args(args).current_dir(directory).stdin(Stdio::null());
    for variable in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "RUST_BACKTRACE", "CALVE_STORE"] {
        command.env_remove(variable);
    }
    command
}

/// Runs the command; `words` are its arguments, split at spaces.
#[track_caller]
fn calve(directory: &Path, words: &str) -> Run {
    run(command(directory, words.split_whitespace()))
}

#[track_caller]
fn run(mut command: Command) -> Run {
    let run = Run::from(command.output().unwrap());
    assert!(!run.stderr.contains("panicked"), "{run:?}");
    run
}

/// Runs a command with this text on its standard input.
#[cfg(unix)]
fn with_input(mut command: Command, input: &str) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that wants no input may be done already.
    let _ = std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes());
    child.wait_with_output().unwrap()
}

/// An empty directory on the filesystem under test.
fn scratch() -> TempDir {
    match std::env::var_os("CALVE_TEST_DIR") {
        Some(directory) => tempfile::tempdir_in(directory).unwrap(),
        None => tempfile::tempdir().unwrap(),
    }
}

/// The expected method on the filesystem under test, if the environment names one.
fn expected_method() -> Option<&'static str> {
    match std::env::var("CALVE_EXPECT").as_deref() {
        Ok("reflink") => Some("reflink"),
        Ok("copy") => Some("copy"),
        Ok(other) => panic!("CALVE_EXPECT is {other:?}"),
        Err(_) => None,
    }
}

/// Notes that a test could not run here; the runner counts these.
#[cfg(unix)]
fn not_run(test: &str, why: &str) {
    use std::io::Write;
    let line = format!("NOT RUN: {test}: {why}\n");
    match std::env::var_os("CALVE_NOT_RUN") {
        Some(path) => {
            let mut file = fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
            file.write_all(line.as_bytes()).unwrap();
        }
        None => print!("{line}"),
    }
}

/// Writes files, their directories included; a name that ends in a slash is an empty directory.
fn plant(root: &Path, files: &[(&str, &str)]) {
    for (name, content) in files {
        let path = root.join(name);
        if name.ends_with('/') {
            fs::create_dir_all(path).unwrap();
        } else {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
    }
}

/// A small tree named `src`: two files and a directory.
fn with_source() -> TempDir {
    let scratch = scratch();
    plant(scratch.path(), &[("src/a", "alpha"), ("src/dir/b", "beta")]);
    scratch
}

/// A project `p` with a store, of two files and a directory; its commands run in the second path.
#[cfg(unix)]
fn with_project() -> (TempDir, PathBuf) {
    let scratch = scratch();
    plant(scratch.path(), &[("p/a", "alpha\n"), ("p/dir/b", "beta\n")]);
    // Canonical, because the library returns paths without links.
    let project = fs::canonicalize(scratch.path()).unwrap().join("p");
    let run = calve(&project, "init");
    assert_eq!(run.code, Some(0), "{run:?}");
    (scratch, project)
}

/// Runs a command that must succeed. Returns its standard output without the end of the last line.
#[cfg(unix)]
#[track_caller]
fn done(directory: &Path, words: &str) -> String {
    let run = calve(directory, words);
    assert_eq!(run.code, Some(0), "{words}: {run:?}");
    run.stdout.trim_end().to_owned()
}

/// The folder of a project's worktrees.
#[cfg(unix)]
fn worktrees_of(project: &Path) -> PathBuf {
    project.with_file_name("p.worktrees")
}

/// Waits for the process that deletes dropped worktrees. Otherwise it would disturb the removal of
/// the scratch folder.
#[cfg(unix)]
#[track_caller]
fn until_deleted(store: &Path) {
    let started = std::time::Instant::now();
    while fs::read_dir(store.join("trash")).unwrap().count() > 0 {
        assert!(started.elapsed().as_secs() < 30, "the trash is still full");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// Every entry below `root`, sorted, with a slash after directories.
fn listing(root: &Path) -> Vec<OsString> {
    fn below(root: &Path, relative: &Path, found: &mut Vec<OsString>) {
        for entry in fs::read_dir(root.join(relative)).unwrap() {
            let entry = entry.unwrap();
            let path: PathBuf = relative.join(entry.file_name());
            let mut name = path.clone().into_os_string();
            if entry.file_type().unwrap().is_dir() {
                name.push("/");
                below(root, &path, found);
            }
            found.push(name);
        }
    }
    let mut found = Vec::new();
    below(root, Path::new(""), &mut found);
    found.sort();
    found
}
