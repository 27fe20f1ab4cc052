//! Which way a start takes to its trees. It is decided here, by what was asked before; nothing is
//! asked here.

use std::io;
use std::path::Path;

use super::StartOptions;
use crate::error::{Error, ErrorKind, Operation};
use crate::store::id::SnapshotId;

/// What decides beside the options.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct StartFacts {
    /// The store can be read and not be written to, and not because the disk is full.
    pub(super) is_read_only: bool,
    /// The project has a snapshot, so a new one may need to read little.
    pub(super) has_snapshot: bool,
    /// Files can be cloned on the project's filesystem.
    pub(super) can_clone: bool,
}

/// What the trees of a start are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StartPlan<'o> {
    /// A snapshot; the trees are folders like any other in this folder. The store does not know
    /// them.
    Loose(SnapshotId, &'o Path),
    /// A snapshot.
    Snapshot(SnapshotId),
    /// The project's tree at this commit.
    Commit(&'o str),
    /// A new snapshot of the project.
    Project,
    /// A new snapshot of this worktree.
    Fork(&'o str),
    /// A clone of the project, whose contents get their names later. If that does not serve, a new
    /// snapshot.
    Clone {
        /// It does not serve if fewer bytes would have to be read.
        least_bytes: u64,
        /// A snapshot that reads fewer bytes is tried first.
        reads_first: bool,
    },
}

impl<'o> StartPlan<'o> {
    /// Whether it looks at files that somebody may commit meanwhile.
    pub(super) fn looks(self) -> bool {
        matches!(self, Self::Project | Self::Clone { .. } | Self::Fork(_))
    }

    /// # Errors
    /// [`ErrorKind::Git`] if the options exclude each other.
    pub(super) fn of(options: &'o StartOptions, facts: StartFacts) -> Result<Self, Error> {
        let (from, at, base) = (options.from, options.at.as_deref(), options.base.as_deref());
        let refused = |what: &str, why| {
            let cause = io::Error::new(io::ErrorKind::InvalidInput, why);
            Err(Error::new(ErrorKind::Git, Operation::CheckOut, what, cause))
        };
        if let Some(worktree) = options.fork.as_deref() {
            return match (from, base) {
                (None, None) => Ok(Self::Fork(worktree)),
                _ => refused(worktree, "a fork is of the worktree as it is now"),
            };
        }
        match (from, base, options.name_later) {
            (Some(_), Some(base), _) => {
                refused(base, "a worktree starts from a snapshot or at a commit, not both")
            }
            (Some(id), None, _) => Ok(match at.filter(|_| facts.is_read_only) {
                Some(folder) => Self::Loose(id, folder),
                None => Self::Snapshot(id),
            }),
            (None, Some(base), _) => Ok(Self::Commit(base)),
            (None, None, Some(least_bytes)) if facts.can_clone => {
                Ok(Self::Clone { least_bytes, reads_first: facts.has_snapshot })
            }
            // Where files are copied, a copy would be read again, once for nothing.
            (None, None, _) => Ok(Self::Project),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_start_is_made_of_follows_from_its_options_and_what_the_store_says() {
        let id = SnapshotId::from_bytes([7; 32]);
        let new = StartOptions::new;
        let facts = StartFacts { is_read_only: false, has_snapshot: true, can_clone: true };
        let read_only = StartFacts { is_read_only: true, ..facts };
        let folder = Path::new("/f");
        let clone = |reads_first| StartPlan::Clone { least_bytes: 9, reads_first };
        for (row, options, facts, expected) in [
            ("nothing", new(), facts, Some(StartPlan::Project)),
            ("a snapshot", new().from(id), facts, Some(StartPlan::Snapshot(id))),
            ("in a folder", new().from(id).at(folder), facts, Some(StartPlan::Snapshot(id))),
            (
                "no writing",
                new().from(id).at(folder),
                read_only,
                Some(StartPlan::Loose(id, folder)),
            ),
            ("no writing and no folder", new().from(id), read_only, Some(StartPlan::Snapshot(id))),
            ("no writing and no snapshot", new().at(folder), read_only, Some(StartPlan::Project)),
            ("a commit", new().base("main"), facts, Some(StartPlan::Commit("main"))),
            ("a commit and a snapshot", new().base("main").from(id), facts, None),
            ("a fork", new().fork("w").name_later(9), facts, Some(StartPlan::Fork("w"))),
            ("a fork at a commit", new().fork("w").base("main"), facts, None),
            ("a fork of a snapshot", new().fork("w").from(id), facts, None),
            ("later", new().name_later(9), facts, Some(clone(true))),
            (
                "later, and it is the first",
                new().name_later(9),
                StartFacts { has_snapshot: false, ..facts },
                Some(clone(false)),
            ),
            (
                "later, and files are copied",
                new().name_later(9),
                StartFacts { can_clone: false, ..facts },
                Some(StartPlan::Project),
            ),
            (
                "later, a snapshot",
                new().name_later(9).from(id),
                facts,
                Some(StartPlan::Snapshot(id)),
            ),
            ("later, a commit", new().name_later(9).base("m"), facts, Some(StartPlan::Commit("m"))),
        ] {
            assert_eq!(StartPlan::of(&options, facts).ok(), expected, "{row}");
        }
    }
}
