//! Asks git about a branch that is to be deleted with its worktree, and deletes it.
//!
//! calve deletes a branch with `update-ref -d` and the commit that was checked, not with
//! `git branch -D`, which deletes whatever the branch points to by then. So calve asks the
//! questions of `git branch -d` itself.

use std::io;
use std::path::Path;

use rustix::fs;

use super::ask::is_absent;
use super::held::committed;
use super::repository::{branch_at, first_entry};
use super::run::{Git, LIST_MOST_BYTES};
use super::work::records;
use super::{Failure, Repository, branch_ref, line};
use crate::error::IfThere as _;
use crate::store::files::read_plain;
use crate::tree::staging::write_whole;

/// git's words if a working tree uses the branch that it would fetch into.
const IN_USE: &str = "refusing to fetch into";

/// A commit into which branches are merged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mainline {
    /// The branch's name, as git shows it: `main`, `origin/main`. `HEAD` if the project is on none.
    pub(crate) name: String,
    pub(crate) commit: String,
}

/// What a mainline has of a branch that was merged into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MergedBy {
    /// The commits themselves.
    Commits,
    /// Their changes, as after a squash or a rebase.
    Changes,
}

/// How a branch was merged into another commit although that commit does not have its commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Squashed {
    /// Both have the same tree.
    pub(crate) has_same_tree: bool,
    /// A merge of the branch would change nothing.
    pub(crate) would_change_nothing: bool,
    /// For each commit of the branch, the other side has a commit with the same change.
    pub(crate) has_each_change: bool,
    /// The other side has one commit with all changes of the branch.
    pub(crate) has_whole_change: bool,
}

impl Squashed {
    pub(crate) fn is_merged(self) -> bool {
        self.has_same_tree
            || self.would_change_nothing
            || self.has_each_change
            || self.has_whole_change
    }
}

/// A branch that was deleted with its worktree, as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeletedBranch {
    pub(crate) name: String,
    commit: String,
    /// The keys and values of its part of the configuration.
    settings: Vec<[String; 2]>,
}

impl DeletedBranch {
    /// In the registration of a dropped worktree: its branch. A zero byte ends each part.
    const FILE: &str = "calve-deleted-branch";

    /// Writes it into the registration in this folder.
    ///
    /// # Errors
    /// The file could not be written.
    pub(crate) fn write(&self, registration: &Path) -> io::Result<()> {
        let parts = [&self.name, &self.commit].into_iter().chain(self.settings.iter().flatten());
        let text: String = parts.flat_map(|part| [part.as_str(), "\0"]).collect();
        write_whole(registration, &registration.join(Self::FILE), text.as_bytes())
    }

    /// Removes it from the registration in this folder.
    ///
    /// # Errors
    /// The file could not be removed.
    pub(crate) fn forget(registration: &Path) -> io::Result<()> {
        std::fs::remove_file(registration.join(Self::FILE)).if_there().map(drop)
    }

    /// Reads what is there. `None`: the branch was not deleted.
    ///
    /// # Errors
    /// The file could not be read.
    pub(crate) fn read(registration: &Path) -> io::Result<Option<Self>> {
        let text = read_plain(fs::CWD, &registration.join(Self::FILE), LIST_MOST_BYTES);
        let Some(text) = text.but_for(is_absent)? else { return Ok(None) };
        let text = String::from_utf8_lossy(&text);
        let mut parts = text.split_terminator('\0').map(str::to_owned);
        let (Some(name), Some(commit)) = (parts.next(), parts.next()) else { return Ok(None) };
        let mut settings = Vec::new();
        while let (Some(key), Some(value)) = (parts.next(), parts.next()) {
            settings.push([key, value]);
        }
        Ok(Some(Self { name, commit, settings }))
    }
}

/// The patch of each commit in what `git diff-tree --stdin` printed, without what differs between
/// two commits with the same change: the numbers of lines, and the names of whole contents. Those of
/// binary files stay, because nothing else says how these differ.
fn patches_in(printed: &[u8], commits: &[&str]) -> Vec<Vec<u8>> {
    let mut patches: Vec<Vec<u8>> = Vec::new();
    let mut lines = printed.split_inclusive(|byte| *byte == b'\n').peekable();
    while let Some(line) = lines.next() {
        let mut is_binary = || lines.peek().is_some_and(|next| next.starts_with(b"Binary files "));
        // Each line of a content begins with a sign or a space.
        if commits.iter().any(|commit| line.strip_suffix(b"\n") == Some(commit.as_bytes())) {
            patches.push(Vec::new());
        } else if let Some(patch) = patches.last_mut() {
            if line.starts_with(b"@@ ") {
                patch.extend_from_slice(b"@@\n");
            } else if !line.starts_with(b"index ") || is_binary() {
                patch.extend_from_slice(line);
            }
        }
    }
    patches
}

impl Repository {
    /// Whether calve made the branch for the worktree with this token. A branch without a reflog
    /// does not say so.
    ///
    /// # Errors
    /// git could not be asked.
    pub(crate) fn is_branch_made_for(&self, name: &str, token: &str) -> Result<bool, Failure> {
        let reflog = self.reflog(&branch_ref(name))?;
        // A git that was killed before it made the branch may have left an entry before this one.
        Ok(reflog.iter().any(|entry| entry.message == first_entry(token)))
    }

    /// Whether the branch is where it was made, as far as its reflog says.
    ///
    /// # Errors
    /// git could not be asked.
    pub(crate) fn is_branch_as_made(&self, name: &str) -> Result<bool, Failure> {
        Ok(self.reflog(&branch_ref(name))?.len() == 1)
    }

    /// How the branch at `commit` was merged into one of [`Repository::mainlines`].
    ///
    /// # Errors
    /// git could not be asked.
    pub(crate) fn squashed(&self, commit: &str) -> Result<Squashed, Failure> {
        for other in self.mainlines()? {
            let squashed = self.squashed_into(commit, &other.commit)?;
            if squashed.is_merged() {
                return Ok(squashed);
            }
        }
        Ok(Squashed::default())
    }

    /// Into what branches are merged: the commit that the project has checked out, and the branch
    /// that each remote has checked out.
    ///
    /// # Errors
    /// git could not be asked.
    pub(crate) fn mainlines(&self) -> Result<Vec<Mainline>, Failure> {
        let name = branch_at(&self.git_dir).unwrap_or_else(|| "HEAD".to_owned());
        let mut found: Vec<Mainline> = self
            .head_commit()?
            .into_iter()
            .map(|commit| Mainline { name: name.clone(), commit })
            .collect();
        let format = "--format=%(objectname) %(symref:lstrip=2)";
        let remotes = self.git().args(["for-each-ref", format, "refs/remotes/*/HEAD"]).line()?;
        for remote in remotes.lines() {
            let Some((commit, name)) = remote.split_once(' ') else { continue };
            if found.iter().all(|other| other.commit != commit) {
                found.push(Mainline { name: name.to_owned(), commit: commit.to_owned() });
            }
        }
        Ok(found)
    }

    /// How `commit` was merged into the first of `mainlines` that has it or its changes.
    ///
    /// # Errors
    /// git could not be asked, or does not know the commit.
    pub(crate) fn merged<'a>(
        &self,
        commit: &str,
        mainlines: &'a [Mainline],
    ) -> Result<Option<(&'a Mainline, MergedBy)>, Failure> {
        for mainline in mainlines {
            let asked = ["merge-base", "--is-ancestor", commit, &mainline.commit];
            if self.git().args(asked).may_end_with(1).run()?.code == 0 {
                return Ok(Some((mainline, MergedBy::Commits)));
            }
            if self.squashed_into(commit, &mainline.commit)?.is_merged() {
                return Ok(Some((mainline, MergedBy::Changes)));
            }
        }
        Ok(None)
    }

    fn squashed_into(&self, commit: &str, other: &str) -> Result<Squashed, Failure> {
        let tree = |commit: &str| -> Result<String, Failure> {
            let tree = format!("{commit}^{{tree}}");
            self.git().args(["rev-parse", "-q", "--verify", &tree]).line()
        };
        // It ends with 1 if they have nothing in common.
        let base = self.git().args(["merge-base", other, commit]).may_end_with(1).line()?;
        let (is, there) = (tree(commit)?, tree(other)?);
        // A branch that changes nothing has nothing that could have been merged.
        if base.is_empty() || tree(&base)? == is {
            return Ok(Squashed::default());
        }
        let mut found = Squashed { has_same_tree: is == there, ..Default::default() };
        // It ends with 1 if there are conflicts. A git that does not know this command, and
        // histories that have nothing in common, count as not merged.
        let merge = ["merge-tree", "--write-tree", "--no-messages", other, commit];
        match self.without_merge_drivers()?.args(merge).may_end_with(1).run() {
            Ok(output) => {
                found.would_change_nothing = output.code == 0 && line(&output.bytes) == there;
            }
            Err(Failure::Refused(_)) => {}
            Err(failure) => return Err(failure),
        }
        // `git cherry` says nothing about merges.
        let range = format!("{other}..{commit}");
        let merges = self.git().args(["rev-list", "--merges", "--max-count=1", &range, "--"]);
        if merges.run()?.bytes.is_empty() {
            found.has_each_change = self.has_changes_of(other, commit)?;
        }
        if !found.is_merged() {
            // The other side may have changed the same lines since. So we make the commit that a
            // squash would make; no reference names it, and its date is always the same.
            let git = self.git().at(0);
            match committed(git, "calve compares a squash", &[base], &is) {
                Ok(whole) => found.has_whole_change = self.has_changes_of(other, &whole)?,
                // A repository in which this process may not write.
                Err(Failure::Refused(_)) => {}
                Err(failure) => return Err(failure),
            }
        }
        Ok(found)
    }

    /// A run of git in which each merge driver finds a conflict: one may keep the file of one side
    /// (`merge=ours`), or the lines of both (`merge=union`), so that a merge brings nothing although
    /// the other side does not have the change.
    fn without_merge_drivers(&self) -> Result<Git, Failure> {
        let asked = ["config", "-z", "--name-only", "--get-regexp", r"^merge\..*\.driver$"];
        let set = self.git().args(asked).may_end_with(1).list()?;
        let names = records(&set).map(String::from_utf8_lossy);
        let names = names.chain(["merge.union.driver".into()]);
        Ok(names.fold(self.git(), |git, name| git.args(["-c", &format!("{name}=false")])))
    }

    /// Whether `other` has, for each commit that only `commit` has, one with the same change, byte
    /// for byte. `git cherry` takes changes for the same that differ in white space alone.
    fn has_changes_of(&self, other: &str, commit: &str) -> Result<bool, Failure> {
        let marks = self.git().args(["cherry", other, commit]).whole().line()?;
        if marks.is_empty() || !marks.lines().all(|mark| mark.starts_with('-')) {
            return Ok(false);
        }
        let alike = ["rev-list", "--no-merges", "--left-only", "--cherry-mark"];
        let range = format!("{other}...{commit}");
        let theirs = self.git().args(alike).args([&range, "--"]).list()?;
        let theirs = line(&theirs);
        let theirs = theirs.lines().filter_map(|mark| mark.strip_prefix('='));
        let ours = marks.lines().filter_map(|mark| mark.strip_prefix("- "));
        let (Some(ours), Some(theirs)) = (self.patches(ours)?, self.patches(theirs)?) else {
            // Too large to be compared.
            return Ok(false);
        };
        Ok(ours.iter().all(|patch| theirs.contains(patch)))
    }

    /// The changes of each of these commits. `None` if git prints more than calve reads.
    fn patches<'a>(
        &self,
        commits: impl Iterator<Item = &'a str>,
    ) -> Result<Option<Vec<Vec<u8>>>, Failure> {
        let commits: Vec<&str> = commits.collect();
        let output = self
            .git()
            .args(["diff-tree", "--stdin", "--always", "--root", "-p", "--full-index"])
            .args(["--no-renames", "--no-ext-diff", "--no-textconv", "--no-color"])
            .with_input((commits.join("\n") + "\n").into_bytes())
            .whole()
            .run()?;
        Ok((!output.is_cut).then(|| patches_in(&output.bytes, &commits)))
    }

    /// Whether no working tree uses the branch.
    ///
    /// # Errors
    /// git could not be asked.
    pub(crate) fn is_unused(&self, name: &str) -> Result<bool, Failure> {
        match self.fetch_into(name) {
            Ok(()) => Ok(true),
            Err(Failure::Refused(words)) if words.contains(IN_USE) => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// The branches that working trees have checked out, also those without a commit.
    ///
    /// # Errors
    /// git could not be asked.
    pub(crate) fn checked_out(&self) -> Result<Vec<String>, Failure> {
        let output = self.git().args(["worktree", "list", "--porcelain"]).list()?;
        let text = String::from_utf8_lossy(&output).into_owned();
        Ok(text
            .lines()
            .filter_map(|it| Some(it.strip_prefix("branch refs/heads/")?.into()))
            .collect())
    }

    /// Lets git begin to fetch into a branch, and changes nothing. git refuses if a working tree
    /// has the branch checked out, or is about to come back to it after a rebase or a bisection.
    fn fetch_into(&self, name: &str) -> Result<(), Failure> {
        let reference = branch_ref(name);
        self.git()
            .fetch_here()
            .args(["--dry-run", "--", "."])
            .arg(format!("{reference}:{reference}"))
            .run()
            .map(drop)
    }

    /// A branch that is to be deleted, with its part of the repository's configuration.
    ///
    /// # Errors
    /// git could not be asked.
    pub(crate) fn to_delete(&self, name: &str, commit: &str) -> Result<DeletedBranch, Failure> {
        let listed = self.git().args(["config", "--local", "--list", "-z"]).list()?;
        let section = format!("branch.{name}.");
        let settings = records(&listed).filter_map(|record| {
            let record = String::from_utf8_lossy(record);
            let (key, value) = record.split_once('\n').unwrap_or((&record, "true"));
            // The last part of a key has no dot. A branch may have some.
            let is_its = key.strip_prefix(&section).is_some_and(|it| !it.contains('.'));
            is_its.then(|| [key.to_owned(), value.to_owned()])
        });
        let settings = settings.collect();
        Ok(DeletedBranch { name: name.to_owned(), commit: commit.to_owned(), settings })
    }

    /// Makes a branch that a drop deleted again, for the worktree with this token. `false`: git can
    /// make no branch of this name now, because another one is in the way.
    ///
    /// # Errors
    /// git could not be asked, or could not give it its settings.
    pub(crate) fn make_again(&self, branch: &DeletedBranch, token: &str) -> Result<bool, Failure> {
        let DeletedBranch { name, commit, settings } = branch;
        // Settings that somebody made for this name since stay alone.
        let is_free = self.to_delete(name, commit)?.settings.is_empty();
        for [key, value] in settings.iter().filter(|_| is_free) {
            self.git().args(["config", "--local", "--add", key, value]).run()?;
        }
        let made = self
            .git()
            .args(["update-ref", "--create-reflog", "-m", &first_entry(token)])
            .args([&branch_ref(name), commit, ""]);
        match made.run() {
            Ok(_) => Ok(true),
            Err(Failure::Refused(_)) => {
                if is_free && !settings.is_empty() {
                    self.remove_settings(name)?;
                }
                Ok(false)
            }
            Err(failure) => Err(failure),
        }
    }

    /// Deletes the branch if it still points to its commit and no working tree uses it, and its part
    /// of the repository's configuration.
    ///
    /// # Errors
    /// git refused, or could not be asked. If only the configuration stays, the error says so.
    pub(crate) fn delete_unused_branch(&self, branch: &DeletedBranch) -> Result<(), Failure> {
        let DeletedBranch { name, commit, settings } = branch;
        self.fetch_into(name)?;
        self.delete_branch(name, commit)?;
        match settings.is_empty() {
            true => Ok(()),
            false => self.remove_settings(name),
        }
    }

    fn remove_settings(&self, name: &str) -> Result<(), Failure> {
        let section = format!("branch.{name}");
        match self.git().args(["config", "--local", "--remove-section", &section]).run() {
            Err(Failure::Refused(words)) if !words.to_lowercase().contains("no such section") => {
                Err(Failure::Refused(format!("the branch is deleted, {section}.* is not: {words}")))
            }
            Err(failure @ (Failure::NotInstalled | Failure::NotRun(_))) => Err(failure),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_is_compared_byte_for_byte_but_for_its_place() {
        let patch = |commit: &str, index: &str, body: &str| {
            format!("{commit}\ndiff --git a/f b/f\nindex {index}\n{body}")
        };
        let text = "--- a/f\n+++ b/f\n";
        let hunk = |line: &str| format!("{text}@@ -1 +1 @@\n-a\n+{line}\n");
        for (row, one, other, expected) in [
            ("the same", hunk("b"), hunk("b"), true),
            ("other white space", hunk("    b"), hunk(" b"), false),
            ("white space at the end", hunk("b "), hunk("b"), false),
            ("further down", hunk("b"), format!("{text}@@ -9 +9 @@ f\n-a\n+b\n"), true),
            ("lines that look like a head", hunk("index 1..2"), hunk("index 3..4"), false),
            (
                "two binary files",
                "Binary files a/f and b/f differ\n".to_owned(),
                "Binary files a/f and b/f differ\n".to_owned(),
                false,
            ),
        ] {
            let printed = patch("1111", "0a..0b 100644", &one)
                + &patch("2222", "0c..0d 100644", &other)
                + "3333\n";
            let patches = patches_in(printed.as_bytes(), &["1111", "2222", "3333"]);
            assert_eq!(patches.len(), 3, "{row}");
            assert_eq!(patches[0] == patches[1], expected, "{row}");
            assert!(patches[2].is_empty(), "{row}");
        }
    }
}
