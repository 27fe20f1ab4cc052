//! Copies repositories of git, in which other processes may work meanwhile.
//!
//! calve copies the files that refer to objects before the objects, because git writes objects
//! before the files that refer to them. A repack moves objects from one file to another: if the
//! folder of packs changed, calve copies the objects again. calve does not copy locks, because they
//! belong to commands that run in the repository. It does not copy the folder `worktrees` either.
//! That folder registers trees whose `.git` files lead to the repository, so `git worktree remove`
//! in the copy would delete one of them. Nor does it copy the folder `calve`: the store is the
//! project's.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, Mode};

use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::reflink::imp::DIR_FLAGS;
use crate::reflink::meta::Meta;
use crate::report::DestinationReport;
use crate::store::git::modules::{MODULES, repositories_in, settle_alternates};
use crate::tree::running::Running;
use crate::tree::{CloneOptions, clone_tree, removal, tally};

/// Patterns of the files that are not copied from a repository; its objects are copied separately.
/// See above. The sockets of git's own daemon belong to one folder.
const NOT_COPIED: [&str; 11] = [
    "/objects",
    "/calve",
    "/calve-worktree",
    "/worktrees",
    "/*.lock",
    "/refs/**/*.lock",
    "/reftable/*.lock",
    "/modules",
    "/gc.pid",
    "/fsmonitor--daemon",
    "/fsmonitor--daemon.ipc",
];

/// Patterns of the files in `objects` that are not copied: those that are not complete yet.
const OBJECTS_NOT_COPIED: [&str; 3] = ["*.lock", "tmp_*", "incoming-*"];

/// How often calve copies the objects before it gives up.
const REPACKS_MOST: u32 = 5;

/// Copies a repository to each of the paths. Repositories of submodules inside are copied in the
/// same way. `left_out` is a folder in it that is not copied.
///
/// # Errors
/// [`ErrorKind::Busy`] if git repacks the repository all the time; the errors of [`clone_tree`].
/// Parts of the copies may be there.
pub(super) fn copy(
    repository: &Path,
    into: &[PathBuf],
    left_out: Option<&Path>,
    operation: &Running,
) -> Result<Vec<DestinationReport>, Error> {
    let mut reports = copy_one(repository, into, left_out, operation)?;
    let read = |error: io::Error| Error::io(Operation::CopyRepository, repository, error);
    for name in repositories_in(&repository.join(MODULES)).map_err(read)? {
        let name = Path::new(MODULES).join(name);
        let into: Vec<PathBuf> = into.iter().map(|git| git.join(&name)).collect();
        for parent in into.iter().filter_map(|path| path.parent()) {
            std::fs::create_dir_all(parent).context(Operation::MakeFolder, || parent)?;
        }
        let copied = copy_one(&repository.join(&name), &into, None, operation)?;
        for (report, copied) in reports.iter_mut().zip(&copied) {
            tally::add(report, copied);
        }
    }
    Ok(reports)
}

/// Copies a repository without those of its submodules.
pub(super) fn copy_one(
    repository: &Path,
    into: &[PathBuf],
    left_out: Option<&Path>,
    operation: &Running,
) -> Result<Vec<DestinationReport>, Error> {
    let store = left_out.and_then(Path::to_str).map(|path| format!("/{}", literally(path)));
    let clone = |part: &str, left_out: &[&str]| {
        let options = operation.clone_options();
        let left_out = left_out.iter().copied().chain(store.as_deref());
        let options = left_out.fold(options, CloneOptions::exclude);
        let into: Vec<PathBuf> = into.iter().map(|git| git.join(part)).collect();
        let cloned = clone_tree(repository.join(part), &into, &options);
        cloned.map(|report| report.destinations)
    };
    let mut reports = clone("", &NOT_COPIED)?;
    let packs = || changed(&repository.join("objects/pack"));
    let mut tries = 0;
    let objects = loop {
        let before = packs();
        if before.is_none() && changed(&repository.join("objects")).is_none() {
            break Vec::new();
        }
        let cloned = clone("objects", &OBJECTS_NOT_COPIED)?;
        if packs() == before {
            break cloned;
        }
        tries += 1;
        if tries == REPACKS_MOST {
            let cause = io::Error::new(io::ErrorKind::WouldBlock, "git repacks it all the time");
            return Err(Error::new(ErrorKind::Busy, Operation::CopyRepository, repository, cause));
        }
        for git in into {
            let again = || -> io::Result<()> {
                removal::remove(&fs::open(git, DIR_FLAGS, Mode::empty())?, c"objects")
            };
            again().context(Operation::RemoveStage, || git)?;
        }
    };
    for (report, objects) in reports.iter_mut().zip(&objects) {
        tally::add(report, objects);
    }
    for git in into {
        settle_alternates(git, repository).context(Operation::CopyRepository, || git)?;
    }
    Ok(reports)
}

/// When a folder last changed, if there is one.
fn changed(path: &Path) -> Option<(i64, i64)> {
    let stat = fs::statat(fs::CWD, path, AtFlags::empty()).ok()?;
    Some(Meta::of(&stat).changed)
}

/// Returns a pattern that matches only this path.
fn literally(path: &str) -> String {
    let special = |char: char| matches!(char, '*' | '?' | '[' | ']' | '\\' | '!' | '#' | ' ');
    let mut pattern = String::with_capacity(path.len());
    for char in path.chars() {
        if special(char) {
            pattern.push('\\');
        }
        pattern.push(char);
    }
    pattern
}
