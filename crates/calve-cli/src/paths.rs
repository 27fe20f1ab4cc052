//! Files that name their tree by its absolute path: the warning of `start`, what `doctor` says, and
//! JSON.

use std::collections::BTreeMap;
use std::path::Path;

use calve::{PathKept, PathKind, PathMention};
use serde::Serialize;

use crate::output::{Output, PathFields};
use crate::text::{counted, shell_word, shown};

/// A file that names its tree, in JSON; docs/json.md says what the fields mean.
#[derive(Serialize)]
pub(crate) struct MentionDocument {
    #[serde(flatten)]
    path: PathFields,
    kind: &'static str,
    rewritten: bool,
    kept_because: Option<&'static str>,
}

impl MentionDocument {
    pub(crate) fn all(mentions: &[PathMention]) -> Vec<Self> {
        let new = |mention: &PathMention| Self {
            path: PathFields::new(&mention.path),
            kind: mention.kind.as_str(),
            rewritten: mention.kept.is_none(),
            kept_because: mention.kept.map(PathKept::as_str),
        };
        mentions.iter().map(new).collect()
    }
}

/// Whether a worktree that has this file unchanged may use the project's files because of it. A
/// build tool only compares a list of sources: if it finds other paths, it builds again.
fn points_back(mention: &PathMention) -> bool {
    mention.kept.is_some() && mention.kind != PathKind::DependencyInfo
}

/// The warning about files that still name the project.
pub(crate) fn warning(mentions: &[PathMention], project: &Path) -> Option<String> {
    let project = shell_word(project);
    let still = still_name(mentions)?;
    Some(format!(
        "{still} the project's folder by its absolute path: 'calve doctor {project}' says what that means"
    ))
}

/// The part of a warning that says which files name another root than their own: `a and 3 other
/// files still name`.
fn still_name(mentions: &[PathMention]) -> Option<String> {
    let back: Vec<&PathMention> = mentions.iter().filter(|it| points_back(it)).collect();
    let first = back.first()?;
    let (file, names) = match back.len() {
        1 => (shown(&first.path), "names"),
        n => {
            (format!("{} and {}", shown(&first.path), counted(n as u64 - 1, "other file")), "name")
        }
    };
    Some(format!("{file} still {names}"))
}

/// Prints which files of the tree at `path`, which came from `project`, name this tree now, and
/// which still name the project.
pub(crate) fn tell(mentions: &[PathMention], path: &Path, project: &Path, output: Output) {
    tell_rewritten(mentions, path, output);
    if let Some(warning) = warning(mentions, project) {
        output.warning(warning);
    }
}

/// Like [`tell`], for a project that came from another machine.
#[cfg(unix)]
pub(crate) fn tell_checkout(mentions: &[PathMention], path: &Path, output: Output) {
    tell_rewritten(mentions, path, output);
    if let Some(still) = still_name(mentions) {
        output.warning(format_args!(
            "{still} the folder of the project that the snapshot was taken of, which may not be on this machine"
        ));
    }
}

fn tell_rewritten(mentions: &[PathMention], path: &Path, output: Output) {
    let rewritten = mentions.iter().filter(|mention| mention.kept.is_none()).count();
    if rewritten > 0 {
        let (path, files) = (shown(path), counted(rewritten as u64, "file"));
        output.summary(format_args!("{path}: {files} rewritten to name this folder"));
    }
}

/// What a kind is called, what it means in a worktree, and what to do.
fn advice(kind: PathKind) -> (&'static str, &'static str) {
    match kind {
        PathKind::EnvironmentConfig
        | PathKind::Activation
        | PathKind::Script
        | PathKind::PathFile
        | PathKind::EditableFinder
        | PathKind::DirectUrl
        | PathKind::Record => (
            "of Python environments",
            "programs in a worktree would run the project's code and install into its environment; 'uv venv \
             --relocatable', or a new environment in the worktree, mends that",
        ),
        PathKind::Link => (
            "that are absolute links",
            "they lead to the project's files from every worktree; relative links ('ln -sr') do not",
        ),
        PathKind::Build => (
            "of build folders",
            "CMake refuses to build in a copy of its build folder, and other tools build the project's sources; \
             remove the build folder in the worktree and configure again",
        ),
        PathKind::NodeShim => (
            "in node_modules/.bin",
            "NODE_PATH in them leads to the project's packages if the worktree lacks one; 'pnpm install' in the \
             worktree writes them again",
        ),
        PathKind::ShellEnvironment => (
            "with settings for shells",
            "they set the project's paths in every worktree; $PWD or direnv's 'PATH_add' name the folder itself",
        ),
        PathKind::DependencyInfo => (
            "that list sources for build tools",
            "cargo ignores them; make and ninja may take the project's headers: build once from scratch in the worktree",
        ),
        _ => ("of other kinds", "programs that read them find the project's files"),
    }
}

/// What `doctor` says about the files of a tree that name it.
pub(crate) fn lines(mentions: &[PathMention], verbose: bool) -> Vec<String> {
    let mut groups: BTreeMap<(bool, &str, &str, Option<PathKept>), Vec<&PathMention>> =
        BTreeMap::new();
    for mention in mentions {
        let (what, meaning) = advice(mention.kind);
        let is_own = mention.kept.is_none();
        groups.entry((!is_own, what, meaning, mention.kept)).or_default().push(mention);
    }
    let mut lines = Vec::new();
    for ((stays, what, meaning, kept), of) in groups {
        let count = counted(of.len() as u64, "file");
        let names = if of.len() == 1 { "names" } else { "name" };
        let why = match kept {
            Some(PathKept::Tracked) => " (git tracks them, so calve leaves them alone)",
            Some(PathKept::OtherRepository) => {
                " (they are in another repository, so calve leaves them alone)"
            }
            _ => "",
        };
        lines.push(match stays {
            false => {
                format!("{count} {what} {names} this folder: each worktree gets its own path there")
            }
            true => format!("{count} {what} {names} this folder{why}: {meaning}"),
        });
        let listed = if verbose { of.len() } else { 3 };
        lines.extend(of.iter().take(listed).map(|mention| format!("  {}", shown(&mention.path))));
        if of.len() > listed {
            lines.push(format!("  and {} more (-v lists them)", of.len() - listed));
        }
    }
    lines
}
