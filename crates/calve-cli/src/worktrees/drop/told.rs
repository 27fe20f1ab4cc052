//! What `drop` says about the worktrees that it dropped.

use std::path::{Path, PathBuf};

use calve::{DroppedWorktree, Store, Worktree};
use serde::Serialize;

use super::left::LeftDocument;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::failure::stored::store_failure;
use crate::hints;
use crate::output::{Output, PathFields, document};
use crate::text::{self, harmless, shell_word, shown};
use crate::trash;
use crate::worktrees::LivingDocument;

pub(super) fn add_store(stores: &mut Vec<Store>, store: &Store) {
    if stores.iter().all(|other| other.path() != store.path()) {
        stores.push(store.clone());
    }
}

/// Adds to a failure which worktrees were dropped before it.
pub(super) fn by_then(failure: Failure, dropped: &[String], left: &[String]) -> Failure {
    match (dropped, left) {
        ([], [_]) => failure,
        ([], _) => failure.remarked("nothing was dropped"),
        (dropped, left) => {
            let (dropped, left) = (listed(dropped), listed(left));
            failure.remarked(&format!("dropped by then: {dropped}; not dropped: {left}"))
        }
    }
}

pub(super) fn listed(names: &[String]) -> String {
    harmless(&names.join(", ")).into_owned()
}

/// What is to be said about the worktrees that were dropped.
#[derive(Default)]
pub(super) struct Done {
    /// As the user is told them.
    pub(super) names: Vec<String>,
    documents: Vec<DroppedDocument>,
    /// Their stores, and what is to be deleted of them.
    stores: Vec<Store>,
    remains: Vec<DroppedWorktree>,
    notes: Vec<String>,
    /// The processes that work in them.
    told: Vec<String>,
    problems: Vec<String>,
    missing: Vec<Worktree>,
    /// The project, if the current folder was dropped.
    pub(super) stood_in: Option<PathBuf>,
    /// Those that a filter left.
    pub(super) left: Vec<LeftDocument>,
}

impl Done {
    pub(super) fn add(&mut self, worktree: &Worktree, name: String, dropped: DroppedWorktree) {
        self.names.push(name);
        self.documents.push(DroppedDocument::new(worktree, &dropped));
        add_store(&mut self.stores, worktree.store());
        self.notes.extend(dropped_notes(worktree, &dropped));
        self.told.extend(dropped.living().iter().map(|process| {
            let (pid, command) = (process.pid, &process.command);
            format!("process {pid} ({command}) works in {}, which is dropped", worktree.name())
        }));
        self.problems.extend(dropped.problems().iter().map(|error| store_failure(error).message()));
        match dropped.was_missing() {
            true => self.missing.push(worktree.clone()),
            false => self.remains.push(dropped),
        }
    }

    /// Deletes them in the background. Warns of the processes that work in them, and of what could
    /// not be done.
    pub(super) fn empty_trash(&mut self, output: Output) {
        trash::empty_behind(&self.stores, std::mem::take(&mut self.remains), output);
        for line in self.told.iter().chain(&self.problems) {
            output.warning(line);
        }
    }

    /// Says what was dropped.
    pub(super) fn tell(self, output: Output) -> Result<Exit, Failure> {
        let mut names = self.names;
        names.retain(|name| self.missing.iter().all(|worktree| worktree.name() != name));
        if !names.is_empty() {
            output.summary(format_args!("dropped {}", listed(&names)));
        }
        for worktree in &self.missing {
            output.summary(forgot(worktree));
        }
        for note in self.notes {
            output.summary(note);
        }
        for left in &self.left {
            output.summary(left.line());
        }
        if let Some(project) = self.stood_in {
            output.summary(format_args!(
                "the current folder was dropped, too: cd {}",
                shell_word(&project)
            ));
        }
        if output.json {
            output.document(&DropDocument { dropped: self.documents, left: self.left })?;
        }
        Ok(if self.problems.is_empty() { Exit::Done } else { Exit::Findings })
    }
}

/// What became of the commits and the branch of a dropped worktree.
fn dropped_notes(worktree: &Worktree, dropped: &DroppedWorktree) -> Vec<String> {
    let name = harmless(worktree.name());
    let until = dropped.can_be_restored_until().map(|until| {
        let word = harmless(&shell_word(Path::new(worktree.name()))).into_owned();
        format!(
            "the changes of {name} are kept until {}: 'calve undo {word}' brings it back",
            text::utc(until)
        )
    });
    let kept = dropped.kept().iter().map(|reference| {
        format!(
            "the commits of {name} are kept for seven days: '{} branch NEW {reference}' makes a branch of them",
            hints::git()
        )
    });
    let in_submodules = dropped.kept_in_submodules().iter().map(|(repository, reference)| {
        let repository = shell_word(repository);
        format!(
            "commits in a submodule of {name} are kept: 'git --git-dir={repository} branch NEW {reference}' makes a branch of them"
        )
    });
    let branch = dropped.deleted_branch().map(|branch| {
        let branch = harmless(branch);
        format!("deleted the branch {branch}")
    });
    until.into_iter().chain(kept).chain(in_submodules).chain(branch).collect()
}

/// The message about a worktree that was missing: calve forgot it, and deleted no files.
fn forgot(worktree: &Worktree) -> String {
    let (name, path) = (harmless(worktree.name()), shown(worktree.path()));
    match worktree.path().symlink_metadata() {
        Ok(_) => format!("forgot {name}: {path} is not this worktree, so calve left it there"),
        Err(_) => format!("forgot {name}: nothing is at {path}, so calve deleted no files"),
    }
}

#[derive(Serialize)]
struct DropDocument {
    dropped: Vec<DroppedDocument>,
    left: Vec<LeftDocument>,
}

document! {
    pub(super) struct DroppedDocument(worktree: &Worktree, dropped: &DroppedWorktree) {
        name: String = worktree.name().to_owned(),
        #[serde(flatten)]
        path: PathFields = PathFields::new(worktree.path()),
        missing: bool = dropped.was_missing(),
        kept_until: Option<String> = dropped.can_be_restored_until().map(text::utc),
        kept: Vec<String> = dropped.kept().to_vec(),
        kept_in_submodules: Vec<KeptInSubmodule> = dropped
            .kept_in_submodules()
            .iter()
            .map(|(repository, reference)| KeptInSubmodule {
                repository: PathFields::new(repository),
                reference: reference.clone(),
            })
            .collect(),
        deleted_branch: Option<String> = dropped.deleted_branch().map(str::to_owned),
        problems: Vec<String> =
            dropped.problems().iter().map(|it| store_failure(it).message()).collect(),
        living: Vec<LivingDocument> = dropped.living().iter().map(LivingDocument::new).collect(),
    }
}

#[derive(Serialize)]
struct KeptInSubmodule {
    #[serde(flatten)]
    repository: PathFields,
    reference: String,
}
