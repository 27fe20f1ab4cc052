//! The big table: makes every system call that changes files fail, with every errno that matters.
//!
//! strace counts `when=` for each thread separately. With `-j 1` the only worker makes every call
//! on files, and the main thread makes the calls on the stage.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::tree::{State, difference, one_of_everything, remove_tree, state};
use crate::{Run, calve, can_strace, is_root, is_shared, names, scratch, straced};

/// The command that a row of the table runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Setting {
    /// To a new destination.
    Fresh,
    /// The same, flushed, to two destinations.
    Durable,
    /// By reading and writing.
    Never,
    /// On a filesystem without clones.
    Copied,
    /// Over another tree.
    Replace,
    /// Into another tree.
    Merge,
    /// Into a tree that is not there.
    MergeNew,
    /// By hard links, into another tree.
    Hardlink,
    /// By symbolic links.
    Symlink,
}

use Setting::{Copied, Durable, Fresh, Hardlink, Merge, MergeNew, Never, Replace, Symlink};

impl Setting {
    pub(super) fn words(self) -> &'static str {
        match self {
            Fresh | Copied => "clone --json -j 1 src dst",
            Durable => "clone --json -j 1 --durable src dst other",
            Never => "clone --json -j 1 --reflink never src dst",
            Replace => "clone --json -j 1 --existing replace src dst",
            Merge | MergeNew => "clone --json -j 1 --existing merge src dst",
            Hardlink => "clone --json -j 1 --mode hardlink --existing merge src dst",
            Symlink => "clone --json -j 1 --mode symlink src dst",
        }
    }

    pub(super) fn has_old_tree(self) -> bool {
        matches!(self, Replace | Merge | Hardlink)
    }

    fn merges(self) -> bool {
        matches!(self, Merge | MergeNew | Hardlink)
    }
}

/// What may become of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ends {
    /// Exit code 1.
    Fails,
    /// The command succeeds, and the fault has no effect.
    Masked,
    /// Either: it depends on which of the calls it was.
    Either,
    /// 0, 1, or 3 with the finding named.
    Told,
}

use Ends::{Either, Fails, Masked, Told};

/// Calls, what each errno of theirs may end in, at which of the calls, and in which settings.
type Row = (&'static str, &'static [(&'static str, Ends)], &'static [u32], &'static [Setting]);

const ROWS: &[Row] = &[
    // Names pick the files: the loader opens files, too.
    (
        "openat@f0",
        &[
            ("EIO", Fails),
            ("EMFILE", Fails),
            ("ENOMEM", Fails),
            ("EACCES", Fails),
            ("EINTR", Either),
        ],
        &[1, 2],
        &[Fresh, Never, Merge, MergeNew, Replace],
    ),
    ("openat@f0", &[("ENOSPC", Fails), ("EDQUOT", Fails), ("EROFS", Fails)], &[2], &[Fresh]),
    ("openat@f0", &[("ENOENT", Masked), ("ELOOP", Masked)], &[1], &[Fresh]),
    (
        "openat@dir",
        &[("EIO", Fails), ("EMFILE", Fails), ("EACCES", Fails)],
        &[1, 2],
        &[Fresh, Merge, MergeNew],
    ),
    ("openat@dst", &[("EIO", Fails), ("EMFILE", Fails), ("EACCES", Fails)], &[1], &[Merge]),
    (
        "mkdirat",
        &[
            ("EIO", Fails),
            ("ENOSPC", Fails),
            ("EACCES", Fails),
            ("ENOMEM", Fails),
            ("EDQUOT", Fails),
            ("EMLINK", Fails),
        ],
        &[1, 2],
        &[Fresh, Durable, Merge, MergeNew, Replace, Hardlink],
    ),
    (
        "symlinkat",
        &[("EIO", Fails), ("ENOSPC", Fails), ("EACCES", Fails), ("ENOMEM", Fails)],
        &[1, 2],
        &[Fresh, Merge, MergeNew, Symlink],
    ),
    ("mknodat", &[("EIO", Fails), ("ENOSPC", Fails), ("EPERM", Fails)], &[1], &[Fresh, Merge]),
    ("readlinkat@link", &[("EIO", Fails), ("EACCES", Fails), ("EINVAL", Masked)], &[1], &[Fresh]),
    (
        "linkat",
        &[
            ("EIO", Fails),
            ("ENOSPC", Fails),
            ("EDQUOT", Fails),
            ("ENOMEM", Fails),
            ("EACCES", Told),
            ("EPERM", Told),
            ("EMLINK", Told),
            ("EXDEV", Told),
        ],
        &[1, 2],
        &[Fresh, Merge, Hardlink],
    ),
    // Mounts and sandboxes refuse times, modes and owners with these errnos: what is lost is named.
    (
        "utimensat",
        &[("EIO", Fails), ("ENOSPC", Fails), ("EACCES", Told), ("EPERM", Told), ("EROFS", Fails)],
        &[1, 3, 9],
        &[Fresh, Copied, Merge],
    ),
    (
        "fchmod",
        &[("EIO", Fails), ("ENOSPC", Fails), ("EACCES", Told), ("EPERM", Told)],
        &[1, 2],
        &[Fresh, Never, MergeNew],
    ),
    (
        "fchown",
        &[("EIO", Fails), ("EDQUOT", Fails), ("EPERM", Told), ("EINVAL", Told)],
        &[1],
        &[Fresh, Merge],
    ),
    (
        "fsetxattr",
        &[
            ("EIO", Fails),
            ("ENOSPC", Told),
            ("EDQUOT", Fails),
            ("ENOMEM", Fails),
            ("EACCES", Told),
            ("EOPNOTSUPP", Told),
        ],
        &[1, 3],
        &[Fresh, Never, Merge],
    ),
    (
        "flistxattr",
        &[("EIO", Fails), ("ENOMEM", Fails), ("EOPNOTSUPP", Told)],
        &[1, 4],
        &[Fresh, Replace],
    ),
    (
        "fgetxattr",
        &[("EIO", Fails), ("ENODATA", Told), ("EPERM", Told), ("ENOSYS", Told)],
        &[1, 2],
        &[Fresh],
    ),
    (
        "fremovexattr",
        &[("EIO", Fails), ("EOPNOTSUPP", Masked)],
        &[1, 2],
        &[Fresh, MergeNew, Durable],
    ),
    // The third of the main thread is the removal of the stage.
    ("getdents64", &[("EIO", Fails), ("ENOENT", Either)], &[1, 2], &[Fresh, Merge]),
    (
        "flock",
        &[("ENOLCK", Masked), ("EINTR", Masked), ("EOPNOTSUPP", Masked)],
        &[1],
        &[Fresh, Merge],
    ),
    (
        "renameat2",
        &[
            ("EIO", Fails),
            ("ENOSPC", Fails),
            ("EACCES", Fails),
            ("EDQUOT", Fails),
            ("ENOENT", Fails),
        ],
        &[1, 2],
        &[Fresh, Durable],
    ),
    ("renameat2", &[("EIO", Fails), ("ENOSPC", Fails)], &[1, 2], &[Replace]),
    (
        "renameat2",
        // If nothing can be renamed out of the stage, calve stages the entry beside its place. If a
        // rename cannot show whether the name exists, calve looks.
        &[("EIO", Fails), ("ENOSPC", Fails), ("EACCES", Fails), ("EINVAL", Masked)],
        &[1, 5],
        &[Merge, MergeNew],
    ),
    // Another thread makes the links, and strace counts its calls separately. It renames within a
    // folder, so there is no EXDEV.
    ("renameat2@f0", &[("EXDEV", Masked)], &[1], &[Merge]),
    (
        "renameat",
        &[("EIO", Fails), ("ENOSPC", Fails), ("EACCES", Fails), ("EXDEV", Masked)],
        &[1],
        &[Merge],
    ),
    // Some filesystems answer EIO to this call alone. The file is then read, which tells.
    (
        "copy_file_range",
        &[
            ("EIO", Masked),
            ("ENOSPC", Fails),
            ("EDQUOT", Fails),
            ("ENOMEM", Fails),
            ("EFBIG", Fails),
            ("EACCES", Masked),
        ],
        &[1, 2],
        &[Copied],
    ),
    (
        "pwrite64",
        &[
            ("EIO", Fails),
            ("ENOSPC", Fails),
            ("EDQUOT", Fails),
            ("EFBIG", Fails),
            ("EINTR", Masked),
        ],
        &[1, 4],
        &[Never, Copied],
    ),
    ("pread64", &[("EIO", Fails), ("EINTR", Masked)], &[4, 6], &[Never]),
    ("ftruncate", &[("EIO", Fails), ("ENOSPC", Fails), ("EACCES", Fails)], &[1], &[Never, Copied]),
    ("lseek", &[("EIO", Fails)], &[1, 2, 3], &[Never]),
    ("syncfs", &[("EIO", Fails), ("ENOSPC", Fails)], &[1, 2], &[Durable]),
    ("fsync", &[("EIO", Fails), ("ENOSPC", Fails)], &[1, 2], &[Durable]),
];

fn names_a_finding(run: &Run) -> bool {
    run.json()["destinations"][0]["skipped"].as_array().is_some_and(|skipped| !skipped.is_empty())
}

/// The faults after one row's run, in words.
pub(super) fn judge(
    directory: &Path,
    setting: Setting,
    end: Ends,
    run: &Run,
    source: &State,
    old: Option<&State>,
) -> String {
    let mut wrong = Vec::new();
    let fired = run.injected() > 0;
    let codes: &[i32] = match end {
        _ if !fired => &[0],
        Fails => &[1],
        Masked => &[0],
        Either => &[0, 1],
        Told => &[0, 1, 3],
    };
    if run.stderr.contains("panicked") {
        wrong.push("it panicked".to_owned());
    }
    let Some(code) = run.code.filter(|code| codes.contains(code)) else {
        return format!("exit code {:?}, not one of {codes:?}", run.code);
    };
    let expected: &[&str] = match (code, setting) {
        (0 | 3, Durable) => &["dst", "other", "src"],
        (0 | 3, _) => &["dst", "src"],
        (_, Replace | Merge | Hardlink) => &["dst", "src"],
        (_, MergeNew) if directory.join("dst").is_dir() => &["dst", "src"],
        _ => &["src"],
    };
    let found = names(directory);
    if found != expected {
        wrong.push(format!("there is {found:?}, not {expected:?}"));
        return wrong.join("; ");
    }
    // strace may say something first, about the path that it was given.
    if code == 1 && !(run.stderr.contains("error: ") && run.json()["error"]["cause"].is_string()) {
        wrong.push("the error is not told".to_owned());
    }
    let differs = |tree: &str| {
        let got = state(&directory.join(tree));
        difference(source, &got)
    };
    match (code, setting) {
        (0, Symlink) => {}
        (0, Merge | Hardlink) | (3, Merge | Hardlink | MergeNew) => {
            let got = state(&directory.join("dst"));
            // Directories that were there stay as they are.
            for (path, entry) in source.iter().filter(|(_, entry)| !entry.is_dir()) {
                if !got.get(path).is_some_and(|got| got.same_file(entry)) && code == 0 {
                    wrong.push(format!("{path:?} is not as in the source"));
                }
            }
        }
        (0, _) => {
            // calve ignores a refused owner, like cp -a. A failing list of attributes counts as
            // empty.
            let masked = run.log.contains("fchown") || run.log.contains("xattr");
            for tree in expected.iter().filter(|name| **name != "src") {
                let difference = differs(tree);
                if !(difference.is_empty() || masked && fired) {
                    wrong.push(format!("{tree}: {difference}"));
                }
            }
        }
        (3, _) if !names_a_finding(run) => {
            wrong.push("there is a finding, and it is not named".to_owned());
        }
        (1, Replace) => {
            let got = state(&directory.join("dst"));
            if old != Some(&got) && *source != got {
                wrong.push(
                    "what was to be replaced is neither the old tree nor the new one".to_owned(),
                );
            }
        }
        (_, Merge | MergeNew | Hardlink) => {
            if !directory.join("dst").is_dir() {
                return wrong.join("; ");
            }
            let got = state(&directory.join("dst"));
            if setting == MergeNew && got.len() == 1 {
                wrong.push("an empty destination was left".to_owned());
            }
            for (path, entry) in &got {
                let was = old.and_then(|old| old.get(path));
                let is = source.get(path);
                let whole =
                    |it: Option<&crate::tree::Entry>| it.is_some_and(|it| it.same_file(entry));
                if !entry.is_dir() && !whole(was) && !whole(is) {
                    wrong.push(format!("{path:?} is neither the old file nor the new one"));
                }
            }
        }
        _ => {}
    }
    wrong.join("; ")
}

/// Only root may merge into a folder that is closed to its owner.
fn open_for_a_merge(directory: &Path) {
    let closed = directory.join("dst/dir/closed");
    if !is_root() && closed.is_dir() {
        fs::set_permissions(closed, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

fn run_rows(rows: &[Row], wrong: &mut Vec<String>) -> (usize, usize) {
    let (mut tried, mut fired, mut faults) = (0, 0, 1..);
    for (calls, ends, whens, settings) in rows {
        let (mut fired_here, before) = (0, tried);
        for setting in *settings {
            let ends = ends.iter().flat_map(|end| whens.iter().map(move |when| (end, when)));
            let shared = ends.filter(|_| faults.next().is_some_and(is_shared));
            let shared: Vec<_> = shared.collect();
            if shared.is_empty() {
                continue;
            }
            let scratch = scratch();
            let directory = scratch.path();
            one_of_everything(&directory.join("src"), "content");
            let source = state(&directory.join("src"));
            let mut old = None;
            for ((errno, end), when) in shared {
                if setting.has_old_tree() && !directory.join("dst").is_dir() {
                    one_of_everything(&directory.join("dst"), "old");
                    open_for_a_merge(directory);
                    old = Some(state(&directory.join("dst")));
                }
                let (calls, path) = calls
                    .split_once('@')
                    .map_or((*calls, None), |(calls, path)| (calls, Some(path)));
                let mut options = vec!["-e".to_owned(), format!("trace={calls},ioctl")];
                options
                    .extend(["-e".to_owned(), format!("inject={calls}:error={errno}:when={when}")]);
                if *setting == Copied {
                    options.extend([
                        "-e".to_owned(),
                        "inject=ioctl:error=EOPNOTSUPP:when=1..2".to_owned(),
                    ]);
                }
                if let Some(path) = path {
                    options.extend(["-P".to_owned(), path.to_owned()]);
                }
                let options: Vec<&str> = options.iter().map(String::as_str).collect();
                let mut run = straced(directory, &options, setting.words());
                run.log = run
                    .log
                    .lines()
                    .filter(|line| !line.contains("ioctl"))
                    .collect::<Vec<_>>()
                    .join("\n");
                tried += 1;
                fired_here += usize::from(run.injected() > 0);
                let row = format!("{calls} {path:?} {errno} at {when}, {setting:?}");
                let judged = judge(directory, *setting, *end, &run, &source, old.as_ref());
                if !judged.is_empty() {
                    wrong.push(format!(
                        "{row}: {judged}\n    {}\n    {}",
                        run.stderr.trim(),
                        run.log.trim()
                    ));
                }
                for name in names(directory) {
                    if name != "src" && !(name == "dst" && setting.merges()) {
                        remove_tree(&directory.join(name));
                    }
                }
                open_for_a_merge(directory);
                // Files that the failed run left must not block the next run.
                let again = calve(directory, setting.words());
                if again.code != Some(0) {
                    wrong.push(format!("{row}: the same command without the fault: {again:?}"));
                }
                for name in names(directory) {
                    if name != "src" {
                        remove_tree(&directory.join(name));
                    }
                }
            }
        }
        // Not every filesystem and user needs every call (nobody but root gives files away).
        if fired_here == 0
            && tried > before
            && !matches!(*calls, "fchown" | "fgetxattr" | "fsetxattr" | "copy_file_range")
        {
            wrong.push(format!("{calls}: the fault never happened"));
        }
        fired += fired_here;
    }
    (tried, fired)
}

/// Every call that changes files fails once with every errno that matters: the command fails (or
/// says what is missing, or knows better), nothing half is left, and without the fault the same
/// command succeeds.
#[test]
fn whichever_call_fails_a_tree_is_whole_or_absent_and_the_next_command_succeeds() {
    if !can_strace("the table of failing calls") {
        return;
    }
    let mut wrong = Vec::new();
    let (one, other) = ROWS.split_at(ROWS.len() / 2);
    let (mut tried, mut fired) = (0, 0);
    std::thread::scope(|scope| {
        let run = |rows: &'static [Row]| {
            let mut wrong = Vec::new();
            let counts = run_rows(rows, &mut wrong);
            (counts, wrong)
        };
        let halves = [one, other].map(|rows| scope.spawn(move || run(rows)));
        for half in halves {
            let ((tried_there, fired_there), wrong_there) = half.join().unwrap();
            tried += tried_there;
            fired += fired_there;
            wrong.extend(wrong_there);
        }
    });
    println!("{tried} faults tried, {fired} happened");
    assert!(wrong.is_empty(), "{} of {tried} faults:\n{}", wrong.len(), wrong.join("\n"));
}
