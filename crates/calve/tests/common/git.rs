//! Asks git about a tree, as the tree is, and as git would answer if it read every file.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, SystemTime};

use super::odd::{self, set_mtime};
use super::sh;

pub(crate) fn git(dir: &Path) -> Command {
    let mut command = Command::new("git");
    command
        .current_dir(dir)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null")
        // Asking must not change the index.
        .env("GIT_OPTIONAL_LOCKS", "0")
        .env_remove("GIT_DIR")
        .args(["-c", "protocol.file.allow=always", "-c", "user.name=n", "-c", "user.email=e"]);
    command
}

/// Runs a script in which `git` is that of the tests, and `tick` waits until the clocks of files
/// have moved on.
pub(crate) fn script(dir: &Path, text: &str) {
    let head = "set -e; \
        tick() { local since file now=0; since=$(date +%s%N); \
            until [ $now -gt $since ]; do sleep 0.01; file=$(mktemp); now=$(date -r \"$file\" +%s%N); rm \"$file\"; done; sleep 0.01; }; \
        git() { command git -c protocol.file.allow=always -c user.name=n -c user.email=e \"$@\"; };";
    sh(Command::new("bash")
        .current_dir(dir)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null")
        .env_remove("GIT_DIR")
        .args(["-c", &format!("{head}\n{text}")]));
}

/// Waits until the clocks of files have moved on. They stand still for longer than a tick while a
/// virtual machine does not run.
pub(crate) fn tick() {
    let since = SystemTime::now();
    let now = || tempfile::tempfile().unwrap().metadata().unwrap().modified().unwrap();
    while now() <= since {
        thread::sleep(Duration::from_millis(5));
    }
    thread::sleep(Duration::from_millis(10));
}

pub(crate) const STATUS: [&str; 4] =
    ["status", "--porcelain=v2", "--branch", "--untracked-files=all"];

pub(crate) fn status(dir: &Path) -> String {
    sh(git(dir).args(STATUS))
}

/// The output of git if it must read every file.
pub(crate) fn truth(dir: &Path) -> String {
    let entries = sh(git(dir).args(["ls-files", "--stage", "-z"]));
    let index = sh(git(dir).args(["rev-parse", "--absolute-git-dir"]));
    let index = Path::new(index.trim_end()).join("index-without-stats");
    let _ = fs::remove_file(&index);
    let mut update = git(dir)
        .env("GIT_INDEX_FILE", &index)
        .args(["update-index", "-z", "--index-info"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = update.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, entries.as_bytes()).unwrap();
    drop(stdin);
    assert!(update.wait().unwrap().success());
    let answer = sh(git(dir).env("GIT_INDEX_FILE", &index).args(STATUS));
    let _ = fs::remove_file(&index);
    answer
}

/// The tracked files that git would read, since their stat is not the recorded one.
pub(crate) fn not_ready(dir: &Path) -> String {
    sh(git(dir).args(["diff-files", "--name-only"]))
}

pub(crate) fn entries(dir: &Path) -> u64 {
    sh(git(dir).args(["ls-files", "-z"])).matches('\0').count() as u64
}

/// Twelve tracked files, among them one that may be run, a link and an empty one, which rest.
pub(crate) const PROJECT: &str = "
    mkdir -p src/deep/er
    for name in a b src/a src/b src/deep/a src/deep/er/a src/deep/er/b 'with space' z; do echo \"in $name\" > \"$name\"; done
    echo run > run.sh; chmod +x run.sh
    : > empty
    ln -s src/a link
    tick
    git add -A; git commit -qm one
    tick
";

/// The files of that project which [`edit`] edits.
pub(crate) const FILES: [&str; 6] = ["a", "b", "src/a", "src/deep/a", "run.sh", "empty"];

/// The seeds of this many rounds of random edits, or of `CALVE_ROUNDS` rounds.
pub(crate) fn rounds(few: u64) -> std::ops::RangeInclusive<u64> {
    1..=std::env::var("CALVE_ROUNDS").map_or(few, |number| number.parse().unwrap())
}

/// A simple generator of random numbers.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % sides
    }
}

pub(crate) fn edit(project: &Path, name: &str, kind: usize, dice: &mut Dice) -> &'static str {
    let path = project.join(name);
    let is_file = fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_file());
    // git's own answer is undefined where a file changes twice in a tick.
    let quiet = |args: &[&str]| {
        let _ = git(project).args(args).stdout(Stdio::null()).stderr(Stdio::null()).status();
        tick();
    };
    match kind {
        0..=3 if is_file => {
            let meta = fs::metadata(&path).unwrap();
            let mut text = fs::read(&path).unwrap();
            if let Some(first) = text.first_mut() {
                *first = first.wrapping_add(1) % 64 + 32;
            }
            fs::write(&path, text).unwrap();
            if kind < 2 {
                return "wrote the same size to";
            }
            set_mtime(&path, meta.mtime(), meta.mtime_nsec());
            "wrote the same size and time to"
        }
        4 => {
            let _ = fs::remove_file(&path);
            fs::write(&path, vec![b'n'; dice.roll(30)]).unwrap();
            "wrote anew"
        }
        5 if is_file => {
            let seconds = [-5, 1_000_000_000, 4_000_000_000][dice.roll(3)];
            set_mtime(&path, seconds, 0);
            "set the time of"
        }
        6 if is_file => {
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            odd::chmod(&path, mode ^ 0o111);
            "changed the mode of"
        }
        7 => {
            let _ = fs::remove_file(&path);
            "removed"
        }
        8 => {
            let _ = fs::remove_file(&path);
            std::os::unix::fs::symlink("src/a", &path).unwrap();
            "made a link of"
        }
        9 => {
            quiet(&["add", "--", name]);
            "added"
        }
        10 => {
            quiet(&["add", "-A"]);
            quiet(&["commit", "-qm", "more"]);
            "committed, not only"
        }
        11 => {
            // Without the lock git would look, and record nothing.
            let _ = git(project)
                .env_remove("GIT_OPTIONAL_LOCKS")
                .args(["status", "--porcelain"])
                .stdout(Stdio::null())
                .status();
            tick();
            "let git look, not only at"
        }
        12 => {
            quiet(&["checkout", "-q", "-f", "HEAD", "--", name]);
            "checked out"
        }
        _ => {
            tick();
            "waited, not for"
        }
    }
}
