//! The commits that a working tree holds, and which of them nothing else holds.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs;

use super::PATH_MOST_BYTES;
use super::ask::{head_in, identity, is_absent};
use super::registration::Registration;
use super::repository::Repository;
use super::run::{Failure, Git, LIST_MOST_BYTES, Output};
use super::work::{patches_in, records};
use crate::error::IfThere as _;
use crate::store::clock::{self, older_than};
use crate::store::files::{listed_at, path_from, read_plain};
use crate::tree::staging::write_whole;

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

/// What the references and the state of one working tree lead to.
#[derive(Debug, Default)]
pub(crate) struct Tips {
    /// Each commit is here once.
    pub(crate) commits: Vec<String>,
    /// Objects of other kinds that a reference names, such as annotated tags. No commit leads to
    /// them. The subject is the reference's name.
    pub(crate) objects: Vec<Commit>,
}

/// The references that each working tree has of its own.
const OWN: [&str; 3] = ["refs/bisect", "refs/rewritten", "refs/worktree"];
/// The references that hold no commit for another working tree, or not for long.
const NOT_HOLDING: [&str; 4] = [OWN[0], OWN[1], OWN[2], DROPPED];
/// The references that keep what dropped worktrees had, for as long as a drop can be undone. So they
/// hold nothing for another worktree.
const DROPPED: &str = "refs/calve/dropped";
/// Files of a working tree that name a commit, beside those that git calls `…_HEAD`. Each begins
/// with the commit's id.
const STATES: [&str; 9] = [
    "BISECT_EXPECTED_REV",
    "BISECT_START",
    "MERGE_AUTOSTASH",
    "NOTES_MERGE_PARTIAL",
    "rebase-apply/autostash",
    "rebase-apply/orig-head",
    "rebase-merge/autostash",
    "rebase-merge/orig-head",
    "sequencer/head",
];
/// Files that name commits which are not done yet, anywhere in their lines and perhaps shortened.
const TODO: [&str; 4] = [
    "rebase-merge/done",
    "rebase-merge/git-rebase-todo",
    "rebase-merge/stopped-sha",
    "sequencer/todo",
];
/// A word of these files that is shorter is hardly an id.
const SHORT_ID: usize = 7;
/// A reference that keeps a commit keeps it for another drop, too, if it is no older than this.
const YOUNG: Duration = Duration::from_secs(3600);
/// `FETCH_HEAD` names commits of another repository, which still has them. `ORIG_HEAD` names where
/// a branch was before: see [`Repository::left_by`].
const NOT_OWN: [&str; 2] = ["FETCH_HEAD", "ORIG_HEAD"];

impl Tips {
    /// Adds the references that a `for-each-ref` printed in the format [`FORMAT`].
    fn add(&mut self, output: &Output, is_wanted: impl Fn(&str) -> bool) -> Result<(), Failure> {
        // git goes on without such a reference, and its commit is not known.
        if output.is_cut || output.words.contains("ignoring broken ref") {
            return Err(Failure::Refused(output.words.clone()));
        }
        for line in String::from_utf8_lossy(&output.bytes).lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            let &[kind, id, of_tag, tagged, name, leads_to] = fields.as_slice() else { continue };
            if !is_wanted(name) || leads_to.starts_with("refs/heads/") {
                continue;
            }
            if kind != "commit" {
                self.objects.push(Commit { id: id.to_owned(), subject: name.to_owned() });
            }
            match (kind, of_tag) {
                ("commit", _) => self.commits.push(id.to_owned()),
                (_, "commit") => self.commits.push(tagged.to_owned()),
                _ => {}
            }
        }
        Ok(())
    }

    /// Adds the commit of `HEAD`, unless it is that of a branch, and those of the states that git
    /// is in the middle of. `git_dir` is the folder that belongs to the working tree alone.
    ///
    /// # Errors
    /// A file could not be read, or `HEAD` is damaged.
    fn add_state(&mut self, git_dir: &Path) -> io::Result<()> {
        let names = listed_at(git_dir)?;
        let names = names.iter().filter_map(|(name, _)| name.to_str());
        let heads = names.filter(|name| name.ends_with("_HEAD") && !NOT_OWN.contains(name));
        for name in heads.chain(STATES) {
            let text =
                read_plain(fs::CWD, &git_dir.join(name), PATH_MOST_BYTES).but_for(is_absent)?;
            let Some(text) = text else { continue };
            // In the middle of a merge of several branches, each line is a commit.
            self.commits.extend(text.split(|byte| *byte == b'\n').filter_map(id_in));
        }
        let head = head_in(git_dir)?;
        match id_in(&head) {
            Some(id) => self.commits.push(id),
            None if head.starts_with(b"ref: ") => {}
            None => {
                let why =
                    format!("{}: it names no branch and no commit", git_dir.join("HEAD").display());
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
        }
        Ok(())
    }

    fn in_order(mut self) -> Self {
        self.commits.sort();
        self.commits.dedup();
        self
    }
}

/// The id at the begin of a line.
fn id_in(line: &[u8]) -> Option<String> {
    let id = line.trim_ascii_end().split(|byte| byte.is_ascii_whitespace()).next()?;
    let is_id = matches!(id.len(), 40 | 64) && id.iter().all(u8::is_ascii_hexdigit);
    is_id.then(|| String::from_utf8_lossy(id).into_owned())
}

const FORMAT: &str =
    "--format=%(objecttype) %(objectname) %(*objecttype) %(*objectname) %(refname) %(symref)";

/// An entry of a reflog.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LogEntry {
    pub(super) seconds: i64,
    pub(super) message: String,
}

impl LogEntry {
    /// The entry in a line of the file. A power cut may have left something else there.
    fn in_file(line: &str) -> Option<Self> {
        let (state, message) = line.split_once('\t').unwrap_or((line, ""));
        id_in(state.as_bytes())?;
        // The last word is the time zone.
        let seconds = state.rsplit(' ').nth(1)?.parse().ok()?;
        Some(Self { seconds, message: message.to_owned() })
    }

    /// The same in git's words.
    fn told(line: &str) -> Option<Self> {
        let (name, message) = line.split_once('\t')?;
        let seconds = name.rsplit_once("@{")?.1.strip_suffix('}')?.parse().ok()?;
        Some(Self { seconds, message: message.to_owned() })
    }
}

/// Whether a repository keeps its references in tables, and `HEAD` with them.
fn has_tables(git_dir: &Path) -> io::Result<bool> {
    Ok(identity(&git_dir.join("reftable"))?.is_some())
}

/// Whether a folder has a file in it, or further down.
fn has_files(folder: &Path) -> io::Result<bool> {
    for (name, kind) in listed_at(folder)? {
        if kind != fs::FileType::Directory || has_files(&folder.join(name))? {
            return Ok(true);
        }
    }
    Ok(false)
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
            .without_replacements()
            .args(["rev-list", "--topo-order", &format!("--max-count={most}")])
            .args(["--no-commit-header", "--format=%H %s", "--stdin"])
            .with_input((tips.join("\n") + "\n").into_bytes())
            .arg("--not")
            .args(NOT_HOLDING.map(|own| format!("--exclude={own}/*")))
            .args(but.map(|reference| format!("--exclude={reference}")))
            .arg("--glob=refs/*");
        let output = git.with_objects_of(objects).run()?;
        let commits = String::from_utf8_lossy(&output.bytes);
        Ok(commits.lines().filter_map(Commit::parse).collect())
    }

    /// All references with what they name, as git prints them.
    ///
    /// # Errors
    /// git could not be asked.
    pub(crate) fn references(&self) -> Result<BTreeSet<Vec<u8>>, Failure> {
        let format = "--format=%(objectname) %(refname)";
        let output = self.git().args(["for-each-ref", format]).list()?;
        Ok(output.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect())
    }

    /// The folders in which git has references, packed ones apart. Some may not exist.
    pub(crate) fn folders_of_references(&self) -> [PathBuf; 4] {
        let of = |folder: &Path| ["refs", "reftable"].map(|name| folder.join(name));
        let ([common, tables], [own, own_tables]) = (of(&self.common), of(&self.git_dir));
        [common, tables, own, own_tables]
    }

    /// When the file of packed references was last changed. git replaces the file, never writes
    /// into it. The inner `None`: there is none. `None`: it could not be looked at.
    pub(crate) fn packed_references(&self) -> Option<Option<(i64, i64)>> {
        match std::fs::symlink_metadata(self.common.join("packed-refs")) {
            Ok(found) => Some(Some((found.ctime(), found.ctime_nsec()))),
            Err(error) => is_absent(&error).then_some(None),
        }
    }

    /// What a linked worktree has that nothing else may hold: its `HEAD`, its own references, and
    /// the commits of a merge, a rebase or another state under way. The worktree's tree may be gone.
    /// git is asked only if there are references.
    ///
    /// # Errors
    /// The registration could not be read, or git could not be asked.
    pub(crate) fn tips_of(&self, registration: &Registration) -> Result<Tips, Failure> {
        own_tips(&registration.folder).map(Tips::in_order)
    }

    /// The same of a copy of the repository, with all that its references and stashes lead to. The
    /// references that it has of dropped worktrees are copies of the project's.
    ///
    /// # Errors
    /// Those of [`Repository::all_tips`].
    pub(crate) fn tips_of_copy(&self) -> Result<Tips, Failure> {
        self.all_tips(Some(DROPPED))
    }

    /// What this repository has of its own: the same for each of its working trees, and all its
    /// references and stashes, but for those whose names start with `but`.
    ///
    /// # Errors
    /// The repository could not be read, or git could not be asked.
    pub(crate) fn all_tips(&self, but: Option<&str>) -> Result<Tips, Failure> {
        let mut tips = own_tips(&self.git_dir)?;
        let output = self.git().args(["for-each-ref", FORMAT]).whole().run()?;
        tips.add(&output, |name| but.is_none_or(|but| !name.starts_with(but)))?;
        let has_stashes = has_tables(&self.common).map_err(Failure::NotRun)?
            || identity(&self.common.join("logs/refs/stash")).map_err(Failure::NotRun)?.is_some();
        if has_stashes {
            // A reference holds only the last stash; this lists all of them.
            let asked = ["stash", "list", "--no-show-signature", "--format=%H"];
            let output = self.git().args(asked).run()?;
            tips.commits.extend(String::from_utf8_lossy(&output.bytes).lines().map(str::to_owned));
        }
        for registration in self.registrations().map_err(Failure::NotRun)? {
            let own = own_tips(&registration.folder)?;
            tips.commits.extend(own.commits);
            tips.objects.extend(own.objects);
        }
        Ok(tips.in_order())
    }

    /// The commits that a working tree has left, or was to come to: those of the reflog of its
    /// `HEAD`, of `ORIG_HEAD`, and of what a rebase or a cherry-pick has still to do. An amended
    /// commit is one of these. `git_dir` is the folder that belongs to the working tree alone. Ids
    /// may be shortened, and their commits may be gone. `but` is left out.
    ///
    /// # Errors
    /// A file could not be read, or git could not be asked.
    pub(crate) fn left_by(git_dir: &Path, but: Option<&str>) -> Result<Vec<String>, Failure> {
        let read = |name: &str| {
            let text = read_plain(fs::CWD, &git_dir.join(name), LIST_MOST_BYTES).but_for(is_absent);
            Ok(text.map_err(Failure::NotRun)?.unwrap_or_default())
        };
        let mut left = id_in(&read("ORIG_HEAD")?).into_iter().collect::<Vec<_>>();
        // Each line begins with two ids.
        let log = read("logs/HEAD")?;
        for line in log.split(|byte| *byte == b'\n') {
            left.extend(line.splitn(3, |byte| *byte == b' ').take(2).filter_map(id_in));
        }
        for name in TODO {
            let text = read(name)?;
            let words = text.split(u8::is_ascii_whitespace);
            let is_id = |it: &&[u8]| it.len() >= SHORT_ID && it.iter().all(u8::is_ascii_hexdigit);
            left.extend(words.filter(is_id).map(|it| String::from_utf8_lossy(it).into_owned()));
        }
        if has_tables(git_dir).map_err(Failure::NotRun)? {
            let git = || Git::new(git_dir).in_tree(git_dir, git_dir);
            for name in ["HEAD", "ORIG_HEAD"] {
                let asked = git().args(["rev-parse", "-q", "--verify", name]).may_end_with(1);
                left.push(asked.line()?);
            }
            if left.last_chunk().is_some_and(|[head, _]: &[String; 2]| !head.is_empty()) {
                let asked = git().args(["log", "-g", "--no-show-signature", "--format=%H", "HEAD"]);
                let log = asked.arg("--").whole().run()?;
                left.extend(String::from_utf8_lossy(&log.bytes).lines().map(str::to_owned));
            }
        }
        left.sort();
        left.dedup();
        left.retain(|id| id.bytes().any(|digit| digit != b'0') && Some(id.as_str()) != but);
        Ok(left)
    }

    /// Those of the commits that no shared reference and none of `tips` holds, and that no other
    /// one of them holds. Commits that are gone do not count. `copy` is a copy of this repository
    /// that has the commits; then those in the reflogs of this one do not count either.
    ///
    /// # Errors
    /// git could not be asked.
    pub(crate) fn unheld_heads(
        &self,
        commits: &[String],
        tips: &[String],
        copy: Option<&Self>,
    ) -> Result<Vec<String>, Failure> {
        if commits.is_empty() {
            return Ok(Vec::new());
        }
        let mut lines = commits.to_vec();
        lines.extend(tips.iter().map(|tip| format!("^{tip}")));
        let git = self
            .git()
            .without_replacements()
            .args(["rev-list", "--ignore-missing", "--parents", "--stdin"])
            .with_input((lines.join("\n") + "\n").into_bytes())
            .arg("--not")
            .args(NOT_HOLDING.map(|own| format!("--exclude={own}/*")))
            .arg("--glob=refs/*")
            .args(copy.map(|_| "--reflog"));
        let objects = copy.map(|copy| copy.common.join("objects"));
        let output = git.with_objects_of(objects.as_deref()).list()?;
        let listed = String::from_utf8_lossy(&output).into_owned();
        let ids = listed.lines().filter_map(|line| line.split(' ').next());
        let parents: HashSet<&str> =
            listed.lines().flat_map(|line| line.split(' ').skip(1)).collect();
        Ok(ids.filter(|id| !parents.contains(id)).map(str::to_owned).collect())
    }

    /// A commit that holds all of these, so that one reference keeps them: the only one, or a new
    /// one with all as its parents. `None` if there are none.
    ///
    /// # Errors
    /// git could not make it.
    pub(crate) fn holder_of(&self, heads: &[String]) -> Result<Option<String>, Failure> {
        let [first, others @ ..] = heads else { return Ok(None) };
        if others.is_empty() {
            return Ok(Some(first.clone()));
        }
        let words = "commits that a dropped worktree had left";
        committed(self.git(), words, heads, &format!("{first}^{{tree}}")).map(Some)
    }

    /// Keeps a commit as [`Repository::keep_dropped`] does, where git cannot be asked. `None`: this
    /// repository keeps its references in tables, which only git can write.
    ///
    /// # Errors
    /// The file of the reference could not be written.
    pub(crate) fn keep_dropped_unasked(
        &self,
        name: &str,
        commit: &str,
    ) -> io::Result<Option<String>> {
        if has_tables(&self.common)? {
            return Ok(None);
        }
        let packed = self.packed_text()?;
        let packed = String::from_utf8_lossy(&packed);
        let base = format!("{DROPPED}/{}", as_reference(name));
        let numbered = (2..).map(|number| format!("{base}-{number}"));
        for reference in std::iter::once(base.clone()).chain(numbered) {
            let path = self.common.join(&reference);
            let is_packed = packed.lines().any(|line| line.split(' ').nth(1) == Some(&reference));
            if is_packed || identity(&path)?.is_some() {
                continue;
            }
            let folder = path.parent().unwrap_or(&self.common);
            std::fs::create_dir_all(folder)?;
            write_whole(folder, &path, format!("{commit}\n").as_bytes())?;
            return Ok(Some(reference));
        }
        Ok(None)
    }

    /// Those of the objects that no shared reference of this repository names.
    ///
    /// # Errors
    /// git could not be asked.
    pub(crate) fn not_named(&self, mut objects: Vec<Commit>) -> Result<Vec<Commit>, Failure> {
        if !objects.is_empty() {
            let mut named = Tips::default();
            let output = self.git().args(["for-each-ref", FORMAT]).whole().run()?;
            named.add(&output, |name| !NOT_HOLDING.iter().any(|own| name.starts_with(own)))?;
            objects.retain(|object| named.objects.iter().all(|named| named.id != object.id));
        }
        Ok(objects)
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
            self.git().fetch_here().arg("--").arg(from).arg(commit).run()?;
        }
        let base = format!("{DROPPED}/{}", as_reference(name));
        let mut number = 1;
        loop {
            let reference = if number == 1 { base.clone() } else { format!("{base}-{number}") };
            let made = self
                .git()
                .at(clock::now().0)
                .args(["update-ref", "--create-reflog", "-m", "calve drop"])
                .args([&reference, commit, ""])
                .run();
            let lock = self.common.join(format!("{reference}.lock"));
            match made {
                // A git that was killed left it, or another one is at it.
                Err(Failure::Refused(_)) if std::fs::symlink_metadata(lock).is_ok() => number += 1,
                Err(Failure::Refused(words)) if words.contains("already exists") => {
                    let there =
                        self.git().args(["rev-parse", "-q", "--verify", &reference]).line()?;
                    // An older one would expire too early.
                    if there == commit && !self.is_older(&reference, YOUNG)? {
                        return Ok(reference);
                    }
                    number += 1;
                }
                made => return made.map(|_| reference),
            }
        }
    }

    /// Removes the references that kept what dropped worktrees had, if they were made longer ago
    /// than `age`. Those of the worktrees called `kept` stay, and one without a reflog, of which
    /// nobody knows when it was made. Returns how many were removed.
    ///
    /// # Errors
    /// git could not be asked, or could not remove one. Then none is removed.
    pub(crate) fn expire_dropped(&self, age: Duration, kept: &[&str]) -> Result<u64, Failure> {
        if !self.may_have_dropped().map_err(Failure::NotRun)? {
            return Ok(0);
        }
        let format = "--format=%(objectname) %(refname)";
        let listed = self.git().args(["for-each-ref", format, DROPPED]).list()?;
        let kept: Vec<String> =
            kept.iter().map(|name| format!("{DROPPED}/{}", as_reference(name))).collect();
        // Of several references of one worktree, all but the first have a number.
        let is_of = |reference: &str, base: &String| {
            let number = reference.strip_prefix(base.as_str()).map(|it| it.strip_prefix('-'));
            reference == base || number.flatten().is_some_and(|it| it.parse::<u32>().is_ok())
        };
        let mut doomed = Vec::new();
        for line in String::from_utf8_lossy(&listed).lines() {
            let Some((commit, reference)) = line.split_once(' ') else { continue };
            if !kept.iter().any(|base| is_of(reference, base)) && self.is_older(reference, age)? {
                doomed.extend([format!("delete {reference}"), commit.to_owned()]);
            }
        }
        let removed = doomed.len() as u64 / 2;
        if removed > 0 {
            self.git().args(["update-ref", "-z", "--stdin"]).with_paths(doomed).run()?;
        }
        Ok(removed)
    }

    /// Whether git need be asked for these references: its files name some, or do not say.
    fn may_have_dropped(&self) -> io::Result<bool> {
        let is_packed = memchr::memmem::find(&self.packed_text()?, DROPPED.as_bytes()).is_some();
        Ok(is_packed || has_tables(&self.common)? || has_files(&self.common.join(DROPPED))?)
    }

    /// The text of the file of packed references. Empty if there is none.
    fn packed_text(&self) -> io::Result<Vec<u8>> {
        let packed = read_plain(fs::CWD, &self.common.join("packed-refs"), LIST_MOST_BYTES);
        Ok(packed.but_for(is_absent)?.unwrap_or_default())
    }

    /// Whether the last entry in the reflog of a reference is older than `age`.
    fn is_older(&self, reference: &str, age: Duration) -> Result<bool, Failure> {
        let last = self.reflog(reference)?.into_iter().next();
        Ok(last.is_some_and(|last| older_than((last.seconds, 0), age) == Some(true)))
    }

    /// The reflog of a reference, the newest entry first. git need not be asked for a file that has
    /// each entry in a line.
    ///
    /// # Errors
    /// git could not be asked.
    pub(super) fn reflog(&self, reference: &str) -> Result<Vec<LogEntry>, Failure> {
        let file = self.common.join("logs").join(reference);
        if !has_tables(&self.common).map_err(Failure::NotRun)?
            && let Ok(text) = read_plain(fs::CWD, &file, LIST_MOST_BYTES)
        {
            let text = String::from_utf8_lossy(&text);
            return Ok(text.lines().rev().filter_map(LogEntry::in_file).collect());
        }
        let asked = ["log", "-g", "--no-show-signature", "--date=unix", "--format=%gd%x09%gs"];
        let listed = self.git().args(asked).args([reference, "--"]).list()?;
        Ok(String::from_utf8_lossy(&listed).lines().filter_map(LogEntry::told).collect())
    }
}

/// What belongs to one working tree alone.
fn own_tips(git_dir: &Path) -> Result<Tips, Failure> {
    let mut tips = Tips::default();
    let git = || Git::new(git_dir).in_tree(git_dir, git_dir).arg("for-each-ref").arg(FORMAT);
    if has_tables(git_dir).map_err(Failure::NotRun)? {
        let output = git().arg("--include-root-refs").run()?;
        let is_root = |name: &str| !name.contains('/') && !NOT_OWN.contains(&name);
        tips.add(&output, |name| is_root(name) || OWN.iter().any(|own| name.starts_with(own)))?;
    } else if OWN
        .iter()
        .map(|own| has_files(&git_dir.join(own)))
        .collect::<io::Result<Vec<_>>>()
        .map_err(Failure::NotRun)?
        .contains(&true)
    {
        tips.add(&git().args(OWN).run()?, |_| true)?;
    }
    tips.add_state(git_dir).map_err(Failure::NotRun)?;
    Ok(tips)
}

/// Makes a commit that no reference names yet, and returns its id.
pub(super) fn committed(
    git: Git,
    words: &str,
    parents: &[impl AsRef<str>],
    tree: &str,
) -> Result<String, Failure> {
    git.args(["-c", "user.name=calve", "-c", "user.email=calve@localhost"])
        .args(["commit-tree", "-m", words])
        .args(parents.iter().flat_map(|parent| ["-p", parent.as_ref()]))
        .arg(tree)
        .line()
}

/// What only git's folder of a working tree has when the tree is gone.
#[derive(Debug, Default)]
pub(crate) struct StagedWork {
    /// A new commit with all that is staged and has no conflict, if that is not what `HEAD` has.
    pub(crate) commit: Option<String>,
    /// What no commit can hold: paths with conflicts, and patches that `git am` has still to apply.
    pub(crate) others: Vec<PathBuf>,
}

/// The folder for the stages of conflicts in the commit of what is staged.
const STAGES: &[u8] = b".calve-conflicts/";

/// Looks into git's folder of a working tree, and changes nothing there. `copy` is a path for a copy
/// of the index, into which git writes what it finds out.
///
/// # Errors
/// git could not be asked, or could not make the commit. The copy may stay.
pub(crate) fn staged_in(git_dir: &Path, copy: &Path) -> Result<StagedWork, Failure> {
    let git = || Git::new(git_dir).in_tree(git_dir, git_dir);
    let mut staged =
        StagedWork { commit: None, others: patches_in(git_dir).map_err(Failure::NotRun)? };
    let index = git_dir.join("index");
    if identity(&index).map_err(Failure::NotRun)?.is_none() {
        return Ok(staged);
    }
    let conflicts = git().args(["ls-files", "--unmerged", "-z"]).list()?;
    let stages = records(&conflicts).filter_map(|record| {
        let at = record.iter().position(|byte| *byte == b'\t')?;
        Some((&record[..at], &record[at + 1..]))
    });
    let stages: Vec<_> = stages.collect();
    staged.others.extend(stages.iter().map(|(_, path)| path_from(path)));
    staged.others.dedup();
    let head = git().args(["rev-parse", "--quiet", "--verify", "HEAD"]).may_end_with(1).run()?;
    let has_head = !head.bytes.is_empty();
    let shown = match has_head {
        true => git().args(["diff-index", "--cached", "--name-only", "HEAD"]).run()?,
        false => git().arg("ls-files").run()?,
    };
    if shown.bytes.is_empty() {
        return Ok(staged);
    }
    let copied =
        || std::io::copy(&mut std::fs::File::open(&index)?, &mut std::fs::File::create_new(copy)?);
    copied().map_err(Failure::NotRun)?;
    if !conflicts.is_empty() {
        // A tree has one content for each path. The stages are in it beside the paths, or a `git gc`
        // would delete what only they have.
        let beside = stages.iter().flat_map(|(words, path)| {
            let mut words = words.split(|byte| *byte == b' ');
            let [mode, id, stage] = [(); 3].map(|()| words.next().unwrap_or_default());
            let removed = [&b"0 "[..], &b"0".repeat(id.len()), b" 0\t", path].concat();
            [removed, [mode, b" ", id, b" 0\t", STAGES, stage, b"/", path].concat()]
        });
        let changes = ["update-index", "-z", "--index-info"];
        git().with_index(copy).args(changes).with_paths(beside).run()?;
    }
    let tree = git().with_index(copy).arg("write-tree").line()?;
    std::fs::remove_file(copy).map_err(Failure::NotRun)?;
    let words = "what was staged in a dropped worktree";
    let parents = if has_head { &["HEAD"][..] } else { &[] };
    staged.commit = Some(committed(git().at(0), words, parents, &tree)?);
    Ok(staged)
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
