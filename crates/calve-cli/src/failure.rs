//! Says why the command failed, and what to do now.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use calve::{DestinationReport, ErrorKind, Operation};

use crate::exit::Exit;
use crate::text::{cause, shell_word};

#[cfg(unix)]
pub(crate) mod stored;
mod wrong;

use wrong::Told;

/// An operation that failed, in a form for people and for programs.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) operation: &'static str,
    pub(crate) paths: Box<[PathBuf]>,
    /// The word between the paths.
    pub(crate) joint: &'static str,
    /// The paths that are in the way, if there may be many.
    pub(crate) details: Box<[PathBuf]>,
    pub(crate) kind: Kind,
    pub(crate) cause: Box<str>,
    pub(crate) hint: Option<String>,
}

/// Why the operation failed, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An error of the library.
    Library(ErrorKind),
    /// calve cannot write to standard output, and writes nothing more there.
    Output,
    /// The process that read standard output has ended, so there is nobody to tell.
    BrokenPipe,
    /// The command line was not understood.
    Usage,
    /// `calve cd` was run without the function of `calve shell-init`.
    #[cfg_attr(not(unix), expect(dead_code, reason = "only stores have worktrees to go to"))]
    NeedsShell,
    /// A push would send files that look like secrets.
    #[cfg_attr(not(unix), expect(dead_code, reason = "only stores have remotes"))]
    Secrets,
}

impl Kind {
    /// A signal stopped it.
    pub(crate) const CANCELLED: Self = Self::Library(ErrorKind::Cancelled);

    /// The name that the JSON output uses.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Library(kind) => kind.as_str(),
            Self::Output => "output",
            Self::BrokenPipe => "broken_pipe",
            Self::Usage => "usage",
            Self::NeedsShell => "needs_shell",
            Self::Secrets => "secrets",
        }
    }
}

impl Failure {
    /// One without a hint.
    pub(crate) fn new(
        operation: &'static str,
        paths: impl Into<Box<[PathBuf]>>,
        kind: Kind,
        cause: impl Into<Box<str>>,
    ) -> Self {
        let (paths, cause, details) = (paths.into(), cause.into(), Box::default());
        Self { operation, paths, joint: "and", details, kind, cause, hint: None }
    }

    /// Standard output could not be written to.
    pub(crate) fn output(error: &io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::BrokenPipe => Kind::BrokenPipe,
            _ => Kind::Output,
        };
        Self::new("write standard output", [], kind, cause(error))
    }

    /// If only the output failed, adds that the trees were made and stay, and where they are.
    pub(crate) fn but_stands(self, what: &str, trees: &[DestinationReport]) -> Self {
        /// A line names this many trees at most.
        const NAMED: usize = 8;
        if self.kind != Kind::Output {
            return self;
        }
        let mut paths: Vec<String> =
            trees.iter().take(NAMED).map(|tree| shell_word(&tree.path)).collect();
        if let more @ 1.. = trees.len().saturating_sub(NAMED) {
            paths.push(format!("{} more", crate::text::count(more as u64)));
        }
        let made = if trees.len() == 1 { "was made and stays" } else { "were made and stay" };
        Self { hint: Some(format!("{what} {made}: {}", paths.join(", "))), ..self }
    }

    /// A signal stopped the operation.
    pub(crate) fn cancelled(operation: &'static str, paths: Vec<PathBuf>) -> Self {
        Self::new(operation, paths, Kind::CANCELLED, "cancelled")
    }

    /// The operating system refused a call that the command itself made.
    pub(crate) fn io(operation: &'static str, paths: Vec<PathBuf>, error: &io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::NotFound => ErrorKind::SourceNotFound,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::StorageFull,
            io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
            _ => ErrorKind::Io,
        };
        let hint = paths.first().and_then(|path| hint(kind, path, error));
        Self { hint, ..Self::new(operation, paths, Kind::Library(kind), cause(error)) }
    }

    /// Like [`Failure::io`], for something that the command makes or changes.
    pub(crate) fn writing(operation: &'static str, path: &Path, error: &io::Error) -> Self {
        let failure = Self::io(operation, vec![path.to_owned()], error);
        match error.kind() {
            io::ErrorKind::NotFound => {
                let (folder, _) = as_far_as_there(path);
                Self {
                    kind: Kind::Library(ErrorKind::Io),
                    hint: Some(refuses_files(folder)),
                    ..failure
                }
            }
            _ => failure,
        }
    }

    /// The same with this hint.
    pub(crate) fn hinted(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// Adds a remark before the hint.
    #[cfg(unix)]
    pub(crate) fn remarked(self, remark: &str) -> Self {
        let hint = match self.hint {
            Some(hint) => format!("{remark}; {hint}"),
            None => remark.to_owned(),
        };
        Self { hint: Some(hint), ..self }
    }

    /// The exit code of the command.
    pub(crate) fn exit(&self) -> Exit {
        if self.kind == Kind::Usage { Exit::Usage } else { Exit::Failed }
    }

    /// Adds what the user may have meant.
    #[cfg(unix)]
    pub(crate) fn meant(self, words: &[String]) -> Self {
        let question = match self.cause.contains(crate::similar::QUESTION) {
            true => String::new(),
            false => crate::similar::question(words).unwrap_or_default(),
        };
        Self { cause: format!("{}{question}", self.cause).into(), ..self }
    }

    /// What is wrong, on one line.
    pub(crate) fn message(&self) -> String {
        let Self { operation, joint, paths, cause, .. } = self;
        let kind = match self.kind {
            Kind::NeedsShell => return cause.to_string(),
            Kind::Library(kind) => Some(kind),
            _ => None,
        };
        wrong::sentence(&Told { operation, paths, joint, kind, cause })
    }
}

/// An error of a clone. `source` and `destinations` are the paths that the user gave.
pub(crate) fn clone_failure(
    error: &calve::Error,
    source: &Path,
    destinations: &[PathBuf],
) -> Failure {
    let kind = error.kind();
    let hint = match (kind, destinations) {
        (ErrorKind::ReflinkRefused, [first, ..]) => {
            let (source, first) = (shell_word(source), shell_word(first));
            Some(format!(
                "'calve doctor {source} {first}' says why; --reflink auto copies what cannot be reflinked"
            ))
        }
        (ErrorKind::SourceNotADirectory, [first, ..]) => Some(format!(
            "calve clones directory trees; for one file, run: cp --reflink=auto {} {}",
            shell_word(source),
            shell_word(first)
        )),
        // A merge follows a link in the place of its destination.
        (ErrorKind::Conflict, _) if error.other_path().is_none() && error.path().is_symlink() => {
            Some(format!(
                "make the folder that the link points to, or remove the link; 'readlink {}' prints where it points",
                shell_word(error.path())
            ))
        }
        // The second path is the destination, and that filesystem is full.
        (ErrorKind::StorageFull, _) => {
            hint(kind, error.other_path().unwrap_or(error.path()), error.io_error())
        }
        (ErrorKind::PermissionDenied, _)
            if not_by_this_filesystem(error, source, destinations).is_some() =>
        {
            not_by_this_filesystem(error, source, destinations)
        }
        (ErrorKind::PermissionDenied, _) if error.other_path().is_none() => {
            let hint = hint(kind, error.path(), error.io_error());
            match error.path().strip_prefix(source) {
                Ok(below) if below != Path::new("") => hint.map(|hint| {
                    let pattern = shell_word(&Path::new("/").join(below));
                    format!("to leave it out: --exclude {pattern}; or {hint}")
                }),
                _ => hint,
            }
        }
        _ => not_by_this_filesystem(error, source, destinations)
            .or_else(|| hint(kind, error.path(), error.io_error())),
    };
    told(error, hint)
}

/// What to do about an entry that the destination's filesystem does not take.
fn not_by_this_filesystem(
    error: &calve::Error,
    source: &Path,
    destinations: &[PathBuf],
) -> Option<String> {
    if error.operation() != Operation::Make {
        return None;
    }
    let errno = error.io_error().raw_os_error().and_then(crate::text::errno_name)?;
    let below = destinations.iter().find_map(|dest| error.path().strip_prefix(dest).ok())?;
    let is_link = std::fs::symlink_metadata(source.join(below)).is_ok_and(|it| it.is_symlink());
    let (what, else_do) = match errno {
        "EINVAL" | "EILSEQ" | "ENAMETOOLONG" => {
            ("the filesystem does not allow this name", "rename it")
        }
        "EPERM" | "EACCES" | "ENOSYS" | "EOPNOTSUPP" if is_link => {
            ("the filesystem takes no symbolic links", "choose another filesystem")
        }
        _ => return None,
    };
    let pattern = shell_word(&Path::new("/").join(below));
    Some(format!("{what}; to leave it out: --exclude {pattern}; or {else_do}"))
}

/// An error of the library, with its hint.
fn told(error: &calve::Error, hint: Option<String>) -> Failure {
    let paths: Vec<PathBuf> = [Some(error.path()), error.other_path()]
        .into_iter()
        .flatten()
        .map(Path::to_owned)
        .collect();
    if error.kind() == ErrorKind::Cancelled {
        return Failure::cancelled(error.operation().as_str(), paths);
    }
    let (kind, joint) = (Kind::Library(error.kind()), error.joint());
    let failure = Failure::new(error.operation().as_str(), paths, kind, cause(error.io_error()));
    Failure { joint, details: error.details().into(), hint, ..failure }
}

/// What to do, if there is something to do.
fn hint(kind: ErrorKind, path: &Path, error: &io::Error) -> Option<String> {
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let hint = match kind {
        ErrorKind::SourceNotFound => not_there(path),
        ErrorKind::Io if error.kind() == io::ErrorKind::NotFound => not_there(path),
        ErrorKind::SourceNotADirectory => {
            "calve clones directory trees; for one file, run: cp --reflink=auto SRC DST".to_owned()
        }
        ErrorKind::DestinationExists => {
            "say what to do with it: --existing skip leaves it as it is, --existing replace replaces \
             the whole tree, --existing merge merges into it, --existing keep adds only what is missing"
                .to_owned()
        }
        ErrorKind::ParentNotFound => format!("make that folder first: mkdir -p {}", shell_word(path)),
        ErrorKind::Overlap => {
            "give each destination a path of its own; the source must not be in it".to_owned()
        }
        ErrorKind::Conflict => {
            "a merge replaces files by files and folders by folders only: remove that entry at the \
             destination, leave it out with --exclude, or use --existing replace"
                .to_owned()
        }
        ErrorKind::InvalidPattern => {
            "write patterns as in .gitignore, such as '*.o', '/target/' or 'docs/**', and quote them \
             for the shell"
                .to_owned()
        }
        ErrorKind::StorageFull => {
            // What calve staged is gone by now.
            let (there, _) = as_far_as_there(path);
            format!(
                "free some space ({}); 'calve doctor {}' says whether files can share blocks there, \
                 which takes no space",
                df(there, error),
                shell_word(there)
            )
        }
        ErrorKind::PermissionDenied if path.symlink_metadata().is_err() => {
            format!(
                "change the owner or the mode, or run calve as a user who has access; to see who has: ls -ld {}",
                shell_word(as_far_as_there(path).0)
            )
        }
        ErrorKind::PermissionDenied => {
            format!(
                "change the owner or the mode, or run calve as a user who has access; to see who has: \
                 ls -ld {} {}",
                shell_word(parent),
                shell_word(path)
            )
        }
        _ => return io_hint(error).map(str::to_owned),
    };
    Some(hint)
}

/// The command that shows what has run out in the nearest folder above `path` that exists: see
/// [`df`].
#[cfg(unix)]
fn df_above(path: &Path, error: &io::Error) -> String {
    df(as_far_as_there(path).0, error)
}

/// The command that shows what has run out at `path`: blocks, inodes, or a quota.
fn df(path: &Path, error: &io::Error) -> String {
    let flag = if has_no_inodes(path) { "-hi" } else { "-h" };
    let quota = match error.kind() {
        io::ErrorKind::QuotaExceeded => "; quota -s or btrfs qgroup show for what a quota leaves",
        _ => "",
    };
    format!("df {flag} {}{quota}", shell_word(path))
}

#[cfg(unix)]
fn has_no_inodes(path: &Path) -> bool {
    // btrfs has no fixed number of inodes, and reports 0. XFS makes inodes from free blocks: if it
    // has no blocks left, it has no inodes either.
    rustix::fs::statvfs(path).is_ok_and(|stat| {
        stat.f_files > 0
            && stat.f_favail < 16
            && stat.f_bavail.saturating_mul(stat.f_frsize) > 1 << 20
    })
}

#[cfg(not(unix))]
fn has_no_inodes(_: &Path) -> bool {
    false
}

/// The nearest folder above `path` that exists, and the name that is missing in it.
fn as_far_as_there(path: &Path) -> (&Path, Option<&OsStr>) {
    let current = Path::new(".");
    let mut below = path;
    for above in path.ancestors().skip(1) {
        let above = if above == Path::new("") { current } else { above };
        if above.is_dir() {
            return (above, below.file_name());
        }
        below = above;
    }
    (current, None)
}

const CURRENT_IS_GONE: &str =
    "the current folder was deleted: 'cd' to another one, or name one with -C";

/// What to do if the system takes no new file in this folder, as in /proc.
fn refuses_files(folder: &Path) -> String {
    format!("choose another folder: {} takes no new files", shell_word(folder))
}

/// The hint for a path that does not exist: it names the folder where the path ends.
fn not_there(path: &Path) -> String {
    if path.is_relative() && std::env::current_dir().is_err() {
        return CURRENT_IS_GONE.to_owned();
    }
    if path.is_dir() {
        return refuses_files(path);
    }
    let (folder, name) = as_far_as_there(path);
    let start = match path.is_relative() {
        true => " (-C DIR starts relative paths elsewhere)",
        false => "",
    };
    let name = name.map(Path::new).unwrap_or(path);
    if folder.join(name).is_symlink() {
        let link = shell_word(&folder.join(name));
        return format!("{link} is a symbolic link, and what it points to does not exist");
    }
    let folder = match folder == Path::new(".") {
        true => "the current folder".to_owned(),
        false => shell_word(folder),
    };
    format!("check the path: there is no {} in {folder}{start}", shell_word(name))
}

fn io_hint(error: &io::Error) -> Option<&'static str> {
    match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => Some(
            "the filesystem is mounted read-only: choose another one, or remount it; a subvolume of btrfs: btrfs property set SUBVOLUME ro false",
        ),
        io::ErrorKind::FileTooLarge => Some(
            "a file is larger than the filesystem or the limit allows: raise the limit (ulimit -f), \
                 or choose another filesystem",
        ),
        io::ErrorKind::InvalidFilename => Some(
            "the filesystem does not allow this name: shorten it, or replace its unusual characters",
        ),
        _ => match error.raw_os_error().and_then(crate::text::errno_name) {
            Some("EMFILE") => {
                Some("raise the open file limit (ulimit -n), or use fewer threads (-j 1)")
            }
            Some("ENFILE") => Some(
                "the whole system has too many open files: use fewer threads (-j 1), or try again later",
            ),
            Some("EBUSY") => Some(
                "a mount or another process holds it: try again when it is free, or choose another folder, on another filesystem",
            ),
            Some("EXDEV") => Some(
                "the filesystem, a mount or a sandbox refuses to rename it: choose another folder, on another filesystem",
            ),
            Some("ENOSYS" | "EOPNOTSUPP" | "EINVAL") => Some(
                "the filesystem or a sandbox cannot do this: choose a folder on another filesystem ('calve doctor DIR' says what one can do)",
            ),
            Some("EAGAIN") => Some(
                "a limit of processes or threads is reached (ulimit -u, or a container's): raise it, or try again later",
            ),
            Some("ESTALE" | "ENOTCONN" | "ETIMEDOUT" | "ENODEV" | "ENXIO") => Some(
                "the server or the program behind this filesystem is gone: mount it again, and try again",
            ),
            Some("ENOLCK") => Some(
                "the filesystem gives no locks: choose a folder on another filesystem ('calve doctor DIR' says what one can do)",
            ),
            Some("EIO") => {
                Some("the disk or its driver failed: see 'dmesg', and save what you can still read")
            }
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_but_plain_io_has_a_way_out() {
        let other = io::Error::other("cause");
        for (kind, expected) in [
            (ErrorKind::SourceNotFound, Some("check the path: there is no 'a b' in /")),
            (ErrorKind::SourceNotADirectory, Some("cp --reflink")),
            (ErrorKind::DestinationExists, Some("--existing merge")),
            (ErrorKind::ParentNotFound, Some("mkdir -p '/a b/c'")),
            (ErrorKind::Overlap, Some("path of its own; the source must not be in it")),
            (ErrorKind::Conflict, Some("--exclude")),
            (ErrorKind::InvalidPattern, Some("gitignore")),
            (ErrorKind::StorageFull, Some("(df -h /); 'calve doctor /'")),
            (ErrorKind::PermissionDenied, Some("who has: ls -ld /")),
            (ErrorKind::Io, None),
        ] {
            let got = hint(kind, Path::new("/a b/c"), &other);
            match expected {
                Some(part) => assert!(got.is_some_and(|got| got.contains(part)), "{part}"),
                None => assert_eq!(got, None),
            }
        }
    }

    #[cfg(unix)]
    #[test]
    fn an_errno_has_its_name_and_a_way_out() {
        use rustix::io::Errno;
        for (errno, name, expected) in [
            (Errno::IO, "EIO", "dmesg"),
            (Errno::ROFS, "EROFS", "remount"),
            (Errno::STALE, "ESTALE", "mount it again"),
            (Errno::NOTCONN, "ENOTCONN", "mount it again"),
            (Errno::TIMEDOUT, "ETIMEDOUT", "mount it again"),
            (Errno::NOLCK, "ENOLCK", "calve doctor"),
            (Errno::BUSY, "EBUSY", "try again"),
            (Errno::XDEV, "EXDEV", "another folder"),
            (Errno::FBIG, "EFBIG", "ulimit -f"),
            (Errno::MFILE, "EMFILE", "ulimit -n"),
            (Errno::AGAIN, "EAGAIN", "ulimit -u"),
            (Errno::NOSYS, "ENOSYS", "calve doctor"),
        ] {
            let error = io::Error::from(errno);
            let got = hint(ErrorKind::Io, Path::new("/a"), &error);
            assert!(got.as_ref().is_some_and(|got| got.contains(expected)), "{name}: {got:?}");
            assert!(cause(&error).ends_with(&format!("({name})")), "{name}");
        }
    }

    #[test]
    fn what_is_not_there_is_told_by_where_the_way_to_it_ends() {
        let root = tempfile::tempdir().unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink("nowhere", root.path().join("link")).unwrap();
        let folder = shell_word(root.path());
        #[cfg(unix)]
        let link =
            format!("{folder}/link is a symbolic link, and what it points to does not exist");
        let none = format!("check the path: there is no none in {folder}");
        for (path, expected) in [
            (root.path().join("none"), none.clone()),
            (root.path().join("none/below/it"), none),
            (
                "none/below".into(),
                "check the path: there is no none in the current folder (-C DIR starts relative paths elsewhere)"
                    .to_owned(),
            ),
            #[cfg(unix)]
            (root.path().join("link"), link.clone()),
            #[cfg(unix)]
            (root.path().join("link/below"), link),
        ] {
            assert_eq!(not_there(&path), expected);
        }
    }

    #[test]
    fn a_message_stays_on_one_line_and_names_every_path() {
        let failure =
            Failure::io("clone", vec!["a\nb".into(), "c".into()], &io::Error::other("x\u{1b}[2Jy"));
        assert_eq!(failure.message(), r#"cannot clone "a\nb" and c: x\u{1b}[2Jy"#);
    }
}
