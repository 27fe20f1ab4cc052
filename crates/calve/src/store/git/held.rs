//! The commits that a working tree holds, and which of them nothing else holds.

use std::path::Path;

use rustix::fs;

use super::registration::Registration;
use super::repository::Repository;
use super::run::{Failure, Git};
use super::{PATH_MOST_BYTES, line};
use crate::store::files::read_plain;

/// A commit with its subject, or an annotated tag with its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Commit {
    pub(crate) id: String,
    pub(crate) subject: String,
}

impl Commit {
    pub(super) fn parse(line: &str) -> Option<Self> {
        let (id, subject) = line.split_once(' ')?;
        Some(Self { id: id.to_owned(), subject: subject.to_owned() })
    }

    /// A commit of which only the id is known.
    pub(crate) fn unknown(id: &str) -> Self {
        Self { id: id.to_owned(), subject: String::new() }
    }
}

/// The commits that the references of `root` hold: its `HEAD`, its branches, its tags and its
/// stashes. `root` is a whole repository that is a copy of another.
///
/// # Errors
/// git could not be asked.
pub(crate) fn tips_of_copy(root: &Path) -> Result<Vec<String>, Failure> {
    tips(|| Git::new(root), &[])
}

/// The same for the repository that `git` runs in, but for the references that `but` excludes.
pub(super) fn tips(git: impl Fn() -> Git, but: &[&str]) -> Result<Vec<String>, Failure> {
    let mut tips = Vec::new();
    let all = ["rev-list", "--no-walk", "--ignore-missing"];
    for asked in [
        git().args(all).args(but).args(["--all", "HEAD", "--"]),
        // `--all` covers only the last stash; this lists all of them.
        git().args(["stash", "list", "--no-show-signature", "--format=%H"]),
    ] {
        match asked.run() {
            Ok(output) => {
                tips.extend(String::from_utf8_lossy(&output.bytes).lines().map(str::to_owned));
            }
            // The repository has no commit yet.
            Err(Failure::Refused(words)) if words.contains("bad revision 'HEAD'") => {}
            Err(failure) => return Err(failure),
        }
    }
    tips.sort();
    tips.dedup();
    Ok(tips)
}

/// The annotated tags of a repository. They are objects of their own that no commit leads to.
///
/// # Errors
/// git could not be asked.
pub(crate) fn tags(root: &Path) -> Result<Vec<Commit>, Failure> {
    let output = Git::new(root)
        .args([
            "for-each-ref",
            "--format=%(objecttype) %(objectname) %(refname:short)",
            "refs/tags",
        ])
        .run()?;
    let text = String::from_utf8_lossy(&output.bytes);
    Ok(text.lines().filter_map(|line| Commit::parse(line.strip_prefix("tag ")?)).collect())
}

impl Repository {
    /// The commits at `tips`, and their ancestors, that are lost when a worktree is removed: no
    /// branch, tag, stash or other shared reference holds them. The reference `but` does not count
    /// as holding them. The newest come first, at most `most` of them. If the repository does not
    /// have the commits, they are in `objects`.
    ///
    /// # Errors
    /// git could not be asked, or does not know a commit.
    pub(crate) fn unheld(
        &self,
        tips: &[String],
        most: usize,
        but: Option<&str>,
        objects: Option<&Path>,
    ) -> Result<Vec<Commit>, Failure> {
        if tips.is_empty() {
            return Ok(Vec::new());
        }
        let git = self
            .git()
            .args(["rev-list", "--topo-order", &format!("--max-count={most}")])
            .args(["--no-commit-header", "--format=%H %s"])
            .args(tips)
            .arg("--not")
            // These references belong to one working tree alone.
            .args(["bisect", "rewritten", "worktree"].map(|own| format!("--exclude=refs/{own}/*")))
            .args(but.map(|reference| format!("--exclude={reference}")))
            .args(["--glob=refs/*", "--"]);
        let git = match objects {
            Some(objects) => git.with_objects_of(objects),
            None => git,
        };
        let output = git.run()?;
        let commits = String::from_utf8_lossy(&output.bytes);
        Ok(commits.lines().filter_map(Commit::parse).collect())
    }

    /// The commits of a linked worktree that nothing else may hold: its `HEAD`, its own references,
    /// and the changes that a merge or a rebase put aside. The worktree's tree may be gone.
    ///
    /// # Errors
    /// git could not be asked.
    pub(crate) fn tips_of(&self, registration: &Registration) -> Result<Vec<String>, Failure> {
        let own = format!("worktrees/{}", registration.id().to_string_lossy());
        let mut tips = Vec::new();
        let names = ["HEAD", "refs/bisect/bad"].map(|name| format!("{own}/{name}"));
        for name in names {
            let asked = ["rev-parse", "-q", "--verify", &format!("{name}^{{commit}}")];
            match self.git().args(asked).run() {
                Ok(output) => tips.push(line(&output.bytes)),
                Err(Failure::Refused(_)) => {}
                Err(failure) => return Err(failure),
            }
        }
        for aside in ["rebase-merge/autostash", "rebase-apply/autostash", "MERGE_AUTOSTASH"] {
            let path = registration.folder.join(aside);
            if let Ok(text) = read_plain(fs::CWD, &path, PATH_MOST_BYTES) {
                let id = line(&text);
                tips.extend(id.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some(id));
            }
        }
        Ok(tips)
    }

    /// Keeps a commit with a reference of calve's, and returns the reference's name. The reference
    /// has the name of the worktree that the commit is from, with a number if that name is taken.
    /// If this repository does not have the commit, `from` is one that does.
    ///
    /// # Errors
    /// git could not do it. The reference was not made.
    pub(crate) fn keep_dropped(
        &self,
        name: &str,
        commit: &str,
        from: Option<&Path>,
    ) -> Result<String, Failure> {
        if let Some(from) = from {
            // This fetches the commit by its id and stores it under no reference yet.
            self.git()
                // In this version of the protocol git may ask for any commit.
                .args(["-c", "protocol.version=2"])
                .args([
                    "fetch",
                    "-q",
                    "--no-tags",
                    "--no-write-fetch-head",
                    "--no-recurse-submodules",
                ])
                .arg("--no-auto-maintenance")
                .arg("--")
                .arg(from)
                .arg(commit)
                .run()?;
        }
        let base = format!("refs/calve/dropped/{}", as_reference(name));
        let mut number = 1;
        loop {
            let reference = if number == 1 { base.clone() } else { format!("{base}-{number}") };
            let made = self
                .git()
                .args(["update-ref", "--create-reflog", "-m", "calve drop"])
                .args([&reference, commit, ""])
                .run();
            match made {
                Err(Failure::Refused(words)) if words.contains("already exists") => {
                    let there =
                        self.git().args(["rev-parse", "-q", "--verify", &reference]).run()?;
                    if line(&there.bytes) == commit {
                        return Ok(reference);
                    }
                    number += 1;
                }
                made => return made.map(|_| reference),
            }
        }
    }
}

/// A worktree's name as a part of a reference's name. Characters that git does not allow there
/// become underscores.
pub(super) fn as_reference(name: &str) -> String {
    let fits =
        |char: char| char.is_alphanumeric() || matches!(char, '-' | '_' | '+' | '=' | ',' | '%');
    let mut text: String =
        name.chars().map(|char| if fits(char) || char == '.' { char } else { '_' }).collect();
    while text.contains("..") {
        text = text.replace("..", "._");
    }
    if text.ends_with('.') || text.to_ascii_lowercase().ends_with(".lock") {
        text.push('_');
    }
    text
}
