//! The worktrees that the user asks `start` for, and what calve knows of them before it makes any.

use std::path::Path;

use calve::{CopyCost, PathMode, Reflink, Snapshot, SnapshotId, StartBranch, StartOptions, Store};

use super::words::Asked;
use crate::args::StartArgs;
use crate::choices::StartReflink;
use crate::failure::Failure;
use crate::failure::stored::store_failure;
use crate::progress::Total;
use crate::session::Session;

/// calve reads a smaller project in less than a second, so it names the contents before the
/// worktrees appear.
const NAMED_LATER_LEAST_BYTES: u64 = 64 * 1024 * 1024;

/// A start that names contents later clones every file of the project; one that reads first makes
/// only the files that changed. To clone a file takes about as long as to read this many bytes.
const BYTES_READ_PER_CLONE: u64 = 4096;

/// What the user wants to start, and from where.
pub(super) struct Wanted<'a> {
    pub(super) args: &'a StartArgs,
    pub(super) asked: &'a Asked,
    pub(super) store: &'a Store,
    pub(super) project: &'a Path,
    pub(super) session: Session<'a>,
}

/// What calve knows before a start about the tree that it makes.
pub(super) struct Basis {
    /// The snapshot that the user named. Without one, the project as it is.
    from: Option<SnapshotId>,
    /// That snapshot, or the last one of the project. The project has about as many files as its
    /// last snapshot, so nobody has to count them.
    snapshot: Option<Snapshot>,
}

impl Basis {
    pub(super) fn size(&self) -> Option<CopyCost> {
        self.snapshot.as_ref().map(|snapshot| CopyCost::new(snapshot.files, snapshot.bytes))
    }

    /// The number of files of the project's last snapshot.
    pub(super) fn files_before(&self) -> Option<u64> {
        let snapshot = self.snapshot.as_ref().filter(|_| self.from.is_none());
        snapshot.map(|snapshot| snapshot.files)
    }
}

impl Wanted<'_> {
    pub(super) fn basis(&self) -> Result<Basis, Failure> {
        let failed = |error: calve::Error| store_failure(&error);
        let from = match &self.args.from {
            Some(from) => Some(crate::remote::pull::resolve(self.store, from, self.session)?),
            None => None,
        };
        let id = match from {
            Some(id) => Some(id),
            None => self.store.project_worktree().map_err(failed)?.snapshot(),
        };
        let snapshot = id.map(|id| self.store.show(id).map_err(failed)).transpose()?;
        Ok(Basis { from, snapshot })
    }

    /// What the progress bar counts up to.
    pub(super) fn total(&self, basis: &Basis) -> Total<'_> {
        if calve::Filesystem::of(self.store.path()).has_subvolumes {
            // A snapshot of a subvolume takes no time, however many files it has. Only the library
            // knows how much other work there is.
            return Total::Unknown;
        }
        let times = self.asked.names.len() as u64;
        match &basis.snapshot {
            Some(snapshot) if basis.from.is_some() => {
                Total::Files(snapshot.files.saturating_mul(times))
            }
            // calve looks at each file once, and then makes it once per worktree.
            Some(snapshot) => Total::Files(snapshot.files.saturating_mul(times + 1)),
            None => Total::Tree { root: self.project, times: times + 1, own: true },
        }
    }

    pub(super) fn options(&self, basis: &Basis) -> StartOptions {
        let args = self.args;
        let branch = match args.start_branch() {
            StartBranch::OfItsName => StartBranch::Each(self.asked.branches.clone()),
            branch => branch,
        };
        let mut options = StartOptions::new().git(args.git.mode()).branch(branch);
        if let Some(id) = basis.from {
            options = options.from(id);
        }
        if let Some(at) = &args.at {
            options = options.at(self.session.common.resolve(at));
        }
        if let Some(base) = &self.asked.base {
            options = options.base(base.as_str());
        }
        if args.keep_paths {
            options = options.paths(PathMode::Keep);
        }
        if args.reflink == StartReflink::Always {
            options = options.reflink(Reflink::Always);
        }
        let worth = basis.files_before().unwrap_or(0).saturating_mul(BYTES_READ_PER_CLONE);
        options.name_later(NAMED_LATER_LEAST_BYTES.max(worth))
    }
}
