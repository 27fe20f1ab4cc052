//! Runs the `git` program: without a terminal, in English, and with bounds on how much of its
//! output is kept.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

use super::line;
use super::work::records;
use crate::store::stopping::{STOPPED_MOST, is_stopping};

/// calve keeps at most this much of git's output.
const OUTPUT_MOST_BYTES: u64 = 4 * 1024 * 1024;
/// calve keeps at most this much of a list of paths. Each of a million paths may have 256 bytes.
pub(super) const LIST_MOST_BYTES: u64 = 256 * 1024 * 1024;
/// calve keeps at most this much of git's messages.
const WORDS_MOST_BYTES: usize = 16 * 1024;
/// calve reads so much of a pipe at once. A pipe holds no more.
const BUFFER_BYTES: usize = 64 * 1024;
/// If a command meets the lock of another git, calve tries it again for this time, and pauses this
/// long between two tries. Each try may take a second: git itself waits for some locks.
const LOCKED_MOST: Duration = Duration::from_secs(5);
const LOCKED_PAUSE: Duration = Duration::from_millis(50);
/// How often calve looks whether it is to end git.
const STOPPED_PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// The variables of git that name a repository, or that hold for one command. If a hook or an alias
/// of git runs a program, some are set. calve removes them before it runs git or a command of the
/// user, because git would otherwise answer for another repository, or with settings that hide
/// work. `git rev-parse --local-env-vars` lists them, and a test compares the two.
pub const GIT_VARIABLES: [&str; 17] = [
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_CONFIG",
    "GIT_CONFIG_COUNT",
    "GIT_CONFIG_PARAMETERS",
    "GIT_DIR",
    "GIT_GRAFT_FILE",
    "GIT_IMPLICIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_INTERNAL_SUPER_PREFIX",
    "GIT_NAMESPACE",
    "GIT_NO_REPLACE_OBJECTS",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_REPLACE_REF_BASE",
    "GIT_SHALLOW_FILE",
    "GIT_WORK_TREE",
];

/// More variables that change an answer. git does not list them, because they may be the user's own.
const FOR_QUESTIONS: [&str; 6] = [
    "GIT_ATTR_SOURCE",
    "GIT_CEILING_DIRECTORIES",
    "GIT_GLOB_PATHSPECS",
    "GIT_ICASE_PATHSPECS",
    "GIT_LITERAL_PATHSPECS",
    "GIT_NOGLOB_PATHSPECS",
];

/// Why git did not do what it was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// There is no `git` program.
    NotInstalled,
    /// git ran and refused, in these words.
    Refused(String),
    /// git could not be run.
    NotRun(io::Error),
}

/// What git printed.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) bytes: Vec<u8>,
    /// Whether git printed more than this.
    pub(crate) is_cut: bool,
    /// The exit code, which may be the one of [`Git::may_end_with`].
    pub(crate) code: i32,
    /// git's messages.
    pub(crate) words: String,
}

/// One run of git.
#[derive(Debug)]
pub(crate) struct Git {
    command: Command,
    /// What git reads in place of `input`.
    lock: Option<File>,
    input: Vec<u8>,
    most_bytes: u64,
    may_end_with: i32,
}

impl Failure {
    fn says(&self, words: &str) -> bool {
        matches!(self, Self::Refused(said) if said.contains(words))
    }

    /// Names the lock that another git seems to have left, and the command that removes it.
    fn with_way_out(self) -> Self {
        let Self::Refused(words) = self else { return self };
        let lock = words.split_once("Unable to create '").and_then(|(_, rest)| {
            let (lock, rest) = rest.split_once('\'')?;
            (lock.ends_with(".lock") && rest.starts_with(": File exists")).then_some(lock)
        });
        Self::Refused(match lock {
            Some(lock) => {
                format!(
                    "{words}\nIf no git works there any more, this removes the lock: rm '{lock}'"
                )
            }
            None => words,
        })
    }

    /// Whether the failure is due to another git that changes the same thing and will be done soon.
    fn is_for_a_moment(&self) -> bool {
        self.says(".lock': File exists")
            // Another git removed the last worktree, and the empty folder `worktrees` with it.
            || self.says("could not create directory of") && self.says("No such file or directory")
            // Another git has begun to add or to remove a worktree. A git that looks at all
            // worktrees dies of that.
            || self.says("failed to read") && self.says("/commondir")
            || self.says("Invalid path") && self.says("/worktrees/") && self.says("No such file or directory")
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotInstalled => f.write_str("git is not installed, or not on the PATH"),
            Self::Refused(words) => f.write_str(&in_one_line(words)),
            Self::NotRun(error) if error.raw_os_error() == Some(Errno::CHILD.raw_os_error()) => {
                write!(
                    f,
                    "git ran, and its answer is lost, because the program that started calve ignores SIGCHLD: {error}"
                )
            }
            Self::NotRun(error) if error.raw_os_error() == Some(Errno::AGAIN.raw_os_error()) => f
                .write_str(
                    "git could not be run, because a limit of processes is reached (ulimit -u, or \
                     a container's): raise it, or try again later (EAGAIN)",
                ),
            Self::NotRun(error) if error.raw_os_error() == Some(Errno::MFILE.raw_os_error()) => f
                .write_str(
                    "git could not be run, because the limit of open files is reached (ulimit -n)",
                ),
            Self::NotRun(error) => write!(f, "git could not be run: {error}"),
        }
    }
}

/// Why git could not be run, and what the user may do about it: for programs that run git
/// themselves and want to say the same as this library.
#[must_use]
pub fn why_git_did_not_run(error: io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => Failure::NotInstalled.to_string(),
        _ => Failure::NotRun(error).to_string(),
    }
}

/// git's messages as one line of text, without its hints about settings.
fn in_one_line(words: &str) -> String {
    let mut text = String::with_capacity(words.len());
    let lines = words.lines().map(str::trim).filter(|line| !line.is_empty());
    for line in lines.filter(|line| !line.starts_with("hint:")) {
        if !text.is_empty() {
            // A line that ends like this goes on, or was a whole sentence.
            let goes_on = text.ends_with([':', ',', '.', ';', '!', '?']);
            text.push_str(if goes_on { " " } else { "; " });
        }
        text.push_str(line);
    }
    if text.is_empty() { words.trim().to_owned() } else { text }
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NotRun(error) => error,
            failure => Self::other(failure.to_string()),
        }
    }
}

impl Git {
    /// A run of git in `dir`, for the repository that contains it.
    pub(crate) fn new(dir: &Path) -> Self {
        let mut command = Command::new("git");
        command
            .current_dir(dir)
            .env("LC_ALL", "C")
            .env("GIT_TERMINAL_PROMPT", "0")
            // Without optional locks, a command that only looks changes nothing and blocks no other
            // git.
            .env("GIT_OPTIONAL_LOCKS", "0");
        for name in GIT_VARIABLES.iter().chain(&FOR_QUESTIONS) {
            command.env_remove(name);
        }
        // A file monitor is a hook of another program, or a process that stays. A command that only
        // looks needs neither.
        command.args(["-c", "core.fsmonitor=false"]);
        // calve's own steps run no hook: see docs/design/git.md.
        command.args(["-c", "core.hooksPath=/dev/null"]);
        // A folder that only looks like a repository is none.
        command.args(["-c", "safe.bareRepository=explicit"]);
        // Submodules are asked and changed by commands of their own.
        command.args(["-c", "submodule.recurse=false"]);
        Self {
            command,
            lock: None,
            input: Vec::new(),
            most_bytes: OUTPUT_MOST_BYTES,
            may_end_with: 0,
        }
    }

    pub(crate) fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Lets git also see the objects of another repository, if one is given.
    pub(crate) fn with_objects_of(mut self, objects: Option<&Path>) -> Self {
        self.command.envs(objects.map(|it| ("GIT_ALTERNATE_OBJECT_DIRECTORIES", it)));
        self
    }

    /// Lets git work with another index.
    pub(crate) fn with_index(mut self, index: &Path) -> Self {
        self.command.env("GIT_INDEX_FILE", index);
        self
    }

    /// Lets git work with this working tree of a repository.
    pub(crate) fn in_tree(mut self, git_dir: &Path, tree: &Path) -> Self {
        self.command.env("GIT_DIR", git_dir).env("GIT_WORK_TREE", tree);
        self
    }

    /// Lets git work with this repository, without a word about its working tree.
    pub(super) fn of_repository(mut self, git_dir: &Path) -> Self {
        self.command.env("GIT_DIR", git_dir);
        self
    }

    /// Lets git read the repository's own settings alone.
    pub(super) fn without_users_settings(mut self) -> Self {
        self.command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
        self
    }

    /// Lets git fetch from a repository on this machine, whatever the user's settings hide from,
    /// forbid to or demand of repositories that others name. Nothing is written but objects and the
    /// references that are asked for.
    pub(super) fn fetch_here(mut self) -> Self {
        // It overrides `protocol.allow` and `protocol.file.allow`.
        self.command.env("GIT_ALLOW_PROTOCOL", "file");
        // In this version of the protocol git may ask for any commit.
        self.args(["-c", "protocol.version=2", "-c", "fetch.fsckObjects=false"])
            .args(["fetch", "-q", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules"])
            .arg("--no-auto-maintenance")
            // A repository of a submodule names its working tree, which may be gone. git would not
            // start there. This git does not get the settings of the other one.
            .arg("--upload-pack=git --work-tree=. -c transfer.hideRefs=!refs upload-pack")
    }

    /// Lets git find the repository of the working tree at `tree` itself, but in no folder above.
    pub(super) fn found_in(mut self, tree: &Path) -> Self {
        self.command.env("GIT_WORK_TREE", tree);
        self.not_above(tree)
    }

    /// Lets git look for a repository in the folder `tree`, but in no folder above.
    pub(super) fn not_above(mut self, tree: &Path) -> Self {
        self.command.env("GIT_CEILING_DIRECTORIES", tree.parent().unwrap_or(tree));
        self
    }

    /// Lets git see the commits as they were made, and not what `git replace` shows in their place,
    /// nor the parents that `info/grafts` gives them: only the objects themselves say what git would
    /// delete.
    pub(super) fn without_replacements(mut self) -> Self {
        self.command.env("GIT_NO_REPLACE_OBJECTS", "1").env("GIT_GRAFT_FILE", "/dev/null");
        self
    }

    /// Lets git take this for the time, in seconds since 1970, whatever the caller's variables say.
    pub(super) fn at(mut self, seconds: i64) -> Self {
        let date = format!("@{seconds} +0000");
        self.command.env("GIT_AUTHOR_DATE", &date).env("GIT_COMMITTER_DATE", &date);
        self
    }

    /// Lets git hold a lock for as long as it lives, even if calve is killed: the locked file,
    /// which is empty, becomes its standard input. So no process treats the change as abandoned
    /// while git still works on it.
    ///
    /// # Errors
    /// The process has no free file descriptors.
    pub(crate) fn holding(mut self, lock: &File) -> io::Result<Self> {
        self.lock = Some(lock.try_clone()?);
        Ok(self)
    }

    /// Gives git this standard input.
    pub(crate) fn with_input(mut self, input: Vec<u8>) -> Self {
        self.input = input;
        self
    }

    /// Paths that git reads, with a zero byte behind each.
    pub(super) fn with_paths<P: AsRef<[u8]>>(self, paths: impl IntoIterator<Item = P>) -> Self {
        let ends = |path: P| [path.as_ref(), b"\0"].concat();
        self.with_input(paths.into_iter().flat_map(ends).collect())
    }

    /// Keeps all of git's output: it is a list of paths, of which each is needed.
    pub(crate) fn whole(mut self) -> Self {
        self.most_bytes = LIST_MOST_BYTES;
        self
    }

    /// Takes this exit code of git for no failure.
    pub(crate) fn may_end_with(mut self, code: i32) -> Self {
        self.may_end_with = code;
        self
    }

    /// The whole list that git prints. A list that is longer than calve reads is refused.
    pub(crate) fn list(self) -> Result<Vec<u8>, Failure> {
        let output = self.whole().run()?;
        match output.is_cut {
            true => Err(Failure::Refused("git lists more paths than calve reads".to_owned())),
            false => Ok(output.bytes),
        }
    }

    /// The records of that list, which end in a zero byte each.
    pub(super) fn paths<C: FromIterator<Vec<u8>>>(self) -> Result<C, Failure> {
        Ok(records(&self.list()?).map(<[u8]>::to_owned).collect())
    }

    /// The one line that git prints.
    pub(super) fn line(self) -> Result<String, Failure> {
        Ok(line(&self.run()?.bytes))
    }

    /// Runs git and waits for it. If another git is in the way, this tries again for some seconds.
    ///
    /// # Errors
    /// All of [`Failure`].
    pub(crate) fn run(mut self) -> Result<Output, Failure> {
        let began = Instant::now();
        loop {
            match self.once() {
                Err(failure) if failure.is_for_a_moment() && began.elapsed() < LOCKED_MOST => {
                    std::thread::sleep(LOCKED_PAUSE);
                }
                Err(failure) => return Err(failure.with_way_out()),
                result => return result,
            }
        }
    }

    fn once(&mut self) -> Result<Output, Failure> {
        let stdin = match &self.lock {
            Some(lock) => Stdio::from(lock.try_clone().map_err(Failure::NotRun)?),
            // A pipe even if there is no input: a sandbox may have no `/dev/null`.
            None => Stdio::piped(),
        };
        let command = self.command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = match command.spawn() {
            Ok(child) => child,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // If the folder to run in does not exist, the system returns the same error.
                return Err(match self.command.get_current_dir().map(Path::is_dir) {
                    Some(false) => Failure::NotRun(error),
                    _ => not_found(&self.command),
                });
            }
            Err(error) => return Err(Failure::NotRun(error)),
        };
        let (status, output) =
            collect(child, &self.input, self.most_bytes).map_err(Failure::NotRun)?;
        // If git printed more than calve keeps, it ended because its output was closed.
        if status.success() || status.code() == Some(self.may_end_with) || output.is_cut {
            return Ok(output);
        }
        let mut words = output.words;
        if words.is_empty() {
            words = format!("git ended with {status}");
        }
        Err(Failure::Refused(words))
    }
}

/// Why the system finds no git: there is none on the PATH, or there is one that needs a program or
/// a library that is not there.
fn not_found(git: &Command) -> Failure {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "command -v git"]);
    for (name, value) in git.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    match output_of(&mut shell) {
        Ok(found) if found.status.success() => Failure::NotRun(io::Error::new(
            io::ErrorKind::NotFound,
            format!(
                "{} is there, but the interpreter or the loader that it names is not",
                String::from_utf8_lossy(&found.stdout).trim()
            ),
        )),
        _ => Failure::NotInstalled,
    }
}

/// Runs a program without input to its end. [`Command::output`] panics where a sandbox refuses the
/// calls by which it reads two pipes.
///
/// # Errors
/// The program did not run, or [`end_waits_with`](crate::end_waits_with) ended it.
pub fn output_of(command: &mut Command) -> io::Result<std::process::Output> {
    // A pipe as the input, because a sandbox may have no `/dev/null`.
    let all = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = all.spawn()?;
    let exchanged = exchange(&mut child, &[], u64::MAX);
    let status = child.wait()?;
    let (stdout, stderr) = exchanged?;
    Ok(std::process::Output { status, stdout, stderr })
}

/// Gives a child its input, waits for its end, and keeps its output and its messages up to the
/// bounds.
fn collect(mut child: Child, input: &[u8], most_bytes: u64) -> io::Result<(ExitStatus, Output)> {
    let exchanged = exchange(&mut child, input, most_bytes);
    let status = child.wait()?;
    let (mut bytes, words) = exchanged?;
    let is_cut = bytes.len() as u64 > most_bytes;
    bytes.truncate(usize::try_from(most_bytes).unwrap_or(usize::MAX));
    let words = String::from_utf8_lossy(&words).trim().to_owned();
    let code = status.code().unwrap_or_default();
    Ok((status, Output { bytes, is_cut, code, words }))
}

/// Serves all pipes of a child from this thread, because the system may refuse further threads.
/// Returns the output, which is longer than `most_bytes` if there was more, and the messages.
fn exchange(
    child: &mut Child,
    mut input: &[u8],
    most_bytes: u64,
) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let (mut stdin, mut stdout, mut stderr) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let pipes = [
        stdin.as_ref().map(AsFd::as_fd),
        stdout.as_ref().map(AsFd::as_fd),
        stderr.as_ref().map(AsFd::as_fd),
    ];
    for pipe in pipes.into_iter().flatten() {
        fcntl_setfl(pipe, OFlags::NONBLOCK)?;
    }
    let (mut bytes, mut words) = (Vec::new(), Vec::new());
    let mut buffer = vec![0; BUFFER_BYTES];
    let began = Instant::now();
    loop {
        if began.elapsed() >= STOPPED_MOST
            && let Some(why) = why_to_end(child)
        {
            // git takes its locks with it. Its helpers may keep the pipes open.
            kill_process(Pid::from_child(child), Signal::TERM)?;
            return Err(io::Error::new(io::ErrorKind::Interrupted, why));
        }
        let mut waiting = Vec::with_capacity(3);
        waiting.extend(stdin.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::OUT)));
        waiting.extend(stdout.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        waiting.extend(stderr.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        if waiting.is_empty() {
            return Ok((bytes, words));
        }
        match poll(&mut waiting, Some(&STOPPED_PAUSE)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        if let Some(pipe) = &mut stdin {
            // A child that does not want all of its input says why.
            let written = moved(pipe.write(input)).unwrap_or(Some(0));
            input = &input[written.unwrap_or_default()..];
            if written == Some(0) {
                stdin = None;
            }
        }
        if let Some(pipe) = &mut stdout
            && let Some(read) = moved(pipe.read(&mut buffer))?
        {
            bytes.extend_from_slice(&buffer[..read]);
            if read == 0 || bytes.len() as u64 > most_bytes {
                stdout = None;
            }
        }
        if let Some(pipe) = &mut stderr
            // Messages that cannot be read are left out; git itself has continued or ended.
            && let Some(read) = moved(pipe.read(&mut buffer)).unwrap_or(Some(0))
        {
            words.extend_from_slice(&buffer[..read]);
            words.truncate(WORDS_MOST_BYTES);
            if read == 0 {
                stderr = None;
            }
        }
    }
}

/// Why a git that has run for some time is to be ended: the program is to stop, or git waits for
/// the other end of a pipe that has the name of a file that git reads (`.gitignore`,
/// `.gitattributes`). Linux says so, to those who may trace the process.
fn why_to_end(child: &Child) -> Option<&'static str> {
    if is_stopping() {
        return Some("it was stopped together with this command");
    }
    let waits = std::fs::read(format!("/proc/{}/wchan", child.id()));
    (waits.is_ok_and(|at| at == b"wait_for_partner"))
        .then_some("it waits for a pipe that is named as a file that git reads, as .gitignore is")
}

/// How many bytes went through a pipe. `None` if it has to wait.
fn moved(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error)
            if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// git lists more of them from version to version.
    #[test]
    fn the_variables_that_gits_own_list_has_are_removed() {
        let listed = Command::new("git").args(["rev-parse", "--local-env-vars"]).output().unwrap();
        let listed = String::from_utf8(listed.stdout).unwrap();
        let missing: Vec<_> = listed.lines().filter(|it| !GIT_VARIABLES.contains(it)).collect();
        assert_eq!(missing, [""; 0]);
    }

    #[test]
    fn a_lock_that_stays_is_named_with_the_command_that_removes_it() {
        for (words, expected) in [
            (
                "fatal: Unable to create '/p/.git/packed-refs.lock': File exists.",
                "fatal: Unable to create '/p/.git/packed-refs.lock': File exists. If no git works there any more, this removes the lock: rm '/p/.git/packed-refs.lock'",
            ),
            (
                "fatal: Unable to create '/p/x': File exists.",
                "fatal: Unable to create '/p/x': File exists.",
            ),
            ("fatal: no", "fatal: no"),
        ] {
            assert_eq!(Failure::Refused(words.to_owned()).with_way_out().to_string(), expected);
        }
    }

    #[test]
    fn only_the_lock_of_another_git_is_waited_for() {
        for (words, expected) in [
            (
                "fatal: Unable to create '/p/.git/packed-refs.lock': File exists.\n\nAnother git process",
                true,
            ),
            (
                "fatal: cannot lock ref 'refs/heads/a': Unable to create '/p/.git/refs/heads/a.lock': File exists.",
                true,
            ),
            (
                "fatal: could not create directory of '.git/worktrees/a': No such file or directory",
                true,
            ),
            ("fatal: failed to read .git/worktrees/a/commondir: Success", true),
            ("fatal: Invalid path '/p/.git/worktrees/a': No such file or directory", true),
            ("fatal: Invalid path '/p/w': No such file or directory", false),
            ("fatal: cannot lock ref 'refs/heads/a': reference already exists", false),
            ("fatal: could not create directory of '.git/worktrees/a': Permission denied", false),
            ("fatal: '/p/w' already exists", false),
        ] {
            assert_eq!(Failure::Refused(words.to_owned()).is_for_a_moment(), expected, "{words}");
        }
        assert!(!Failure::NotInstalled.is_for_a_moment());
    }

    #[test]
    fn the_lines_of_git_are_one_sentence_after_the_other() {
        for (words, expected) in [
            ("fatal: no", "fatal: no"),
            (
                "fatal: detected dubious ownership in repository at '/p'\nTo add an exception for this directory, call:\n\n\tgit config --global --add safe.directory /p",
                "fatal: detected dubious ownership in repository at '/p'; To add an exception for this directory, call: git config --global --add safe.directory /p",
            ),
            (
                "Preparing worktree\nerror: unable to write file\nhint: see\nfatal: no space\n",
                "Preparing worktree; error: unable to write file; fatal: no space",
            ),
            (
                "fatal: Unable to create '/p/index.lock': File exists.\n\nAnother git process seems to be running",
                "fatal: Unable to create '/p/index.lock': File exists. Another git process seems to be running",
            ),
            ("hint: only this", "hint: only this"),
            ("", ""),
        ] {
            assert_eq!(Failure::Refused(words.to_owned()).to_string(), expected);
        }
    }

    #[test]
    fn more_than_is_kept_is_cut_and_said_to_be() {
        let child = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]).stdout(Stdio::piped()).stderr(Stdio::piped());
            collect(command.spawn().unwrap(), b"", OUTPUT_MOST_BYTES).unwrap()
        };
        let (status, output) = child("echo out; yes no | head -c 1000000 >&2; exit 3");
        assert_eq!((status.code(), output.code), (Some(3), 3));
        assert_eq!((output.bytes.as_slice(), output.is_cut), (&b"out\n"[..], false));
        assert_eq!(output.words.len(), WORDS_MOST_BYTES);
        let (_, output) = child("yes");
        assert_eq!((output.bytes.len() as u64, output.is_cut), (OUTPUT_MOST_BYTES, true));
    }

    #[test]
    fn a_git_that_cannot_start_is_not_taken_for_none() {
        let folder = tempfile::tempdir().unwrap();
        let run_with = |path: &str| {
            let mut git = Git::new(folder.path()).arg("version");
            git.command.env("PATH", path);
            git.run().unwrap_err().to_string()
        };
        let empty = folder.path().to_str().unwrap();
        assert_eq!(run_with(empty), "git is not installed, or not on the PATH");
        let git = folder.path().join("git");
        std::fs::write(&git, "#!/nowhere/interpreter\n").unwrap();
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&git, executable).unwrap();
        assert!(run_with(empty).ends_with("the interpreter or the loader that it names is not"));
    }

    /// The command resets it; another user of the library may ignore SIGCHLD.
    #[test]
    fn an_answer_that_is_lost_is_explained() {
        let lost = Failure::NotRun(Errno::CHILD.into()).to_string();
        assert!(lost.contains("ignores SIGCHLD"), "{lost}");
    }

    #[test]
    fn a_folder_that_is_not_there_is_not_taken_for_a_missing_git() {
        let failure = Git::new(Path::new("/nowhere/at/all")).arg("version").run().unwrap_err();
        assert!(matches!(failure, Failure::NotRun(_)), "{failure:?}");
    }
}
