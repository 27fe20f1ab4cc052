//! Files that name their tree by its absolute path: the warning of `start`, what `doctor` says, and
//! JSON.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use calve::{PathKept, PathKind, PathMeaning, PathMention, SkipReason, Skipped};

use crate::output::{Output, PathFields, document};
use crate::text::{counted, shell_word, shown};

mod false_green;
#[cfg(unix)]
pub(crate) mod pnpm;

document! {
    /// A file that names its tree, in JSON; docs/json.md says what the fields mean.
    pub(crate) struct MentionDocument(mention: &PathMention) {
        #[serde(flatten)]
        path: PathFields = PathFields::new(&mention.path),
        kind: &'static str = mention.kind.as_str(),
        rewritten: bool = mention.kept.is_none(),
        kept_because: Option<&'static str> = mention.kept.map(PathKept::as_str),
        meaning: &'static str = mention.meaning().as_str(),
        tool: Option<&'static str> = Some(mention.tool()).filter(|tool| !tool.is_empty()),
        process: Option<u32> = mention.process,
    }
}

impl MentionDocument {
    pub(crate) fn all(mentions: &[PathMention]) -> Vec<Self> {
        mentions.iter().map(Self::new).collect()
    }
}

/// The warnings about files that still name the project: one for each build folder's tool, each
/// process that runs, and one for all others.
pub(crate) fn warnings(mentions: &[PathMention], project: &Path) -> Vec<String> {
    let mut lines = false_green::lines(mentions, project);
    let living = mentions.iter().filter(|it| it.meaning() == PathMeaning::Living);
    lines.extend(living.map(|mention| {
        let file = shown(&mention.path);
        format!(
            "{file} came along, and names {}, which runs: if that is a server of the project, a second one may not \
             start because of the file, and what stops it stops the project's. In the worktree: 'rm {}'; to leave it \
             out: printf '%s\\n' {} >> .calveignore",
            process(mention),
            shell_word(&mention.path),
            shell_word(&pattern(&mention.path))
        )
    }));
    let mut out = mentions.iter().filter(|it| it.meaning() == PathMeaning::LeadsElsewhere);
    if let Some(first) = out.next() {
        let (subject, s) = subject(first, out.count());
        lines.push(format!(
            "{subject} lead{s} out of the project by a relative path: from the worktree that is elsewhere, or nowhere. An \
             absolute path in its place, in the project, leads to one place from everywhere"
        ));
    }
    let project = shell_word(project);
    lines.extend(still_name(mentions).map(|still| {
        format!(
            "{still} the project's folder by its absolute path: 'calve doctor {project}' says what that means"
        )
    }));
    lines
}

/// Whether some of these are builds or environments that are the project's still.
#[cfg(target_os = "linux")]
pub(crate) fn any_is_the_projects(mentions: &[PathMention]) -> bool {
    mentions.iter().any(false_green::is_said)
}

/// Prints which files stayed with the processes that they belong to.
pub(crate) fn tell_living(skipped: &[Skipped], output: Output) {
    for Skipped { path, reason, .. } in skipped {
        let SkipReason::Living(pid) = reason else { continue };
        let file = shown(path);
        output.summary(format_args!("{file} belongs to {} and was left out", process_of(*pid)));
        if path.file_name().is_some_and(|name| name == "postmaster.pid") {
            let folder = path.parent().unwrap_or(path);
            output.warning(format_args!(
                "a PostgreSQL server runs in {}: its files may be of several moments in the copy, which is no sound \
                 database then. Stop the server first, or leave the folder out: printf '%s\\n' {} >> .calveignore",
                shown(folder),
                shell_word(&pattern(folder))
            ));
        }
    }
}

/// The line of `.calveignore` that means this entry alone.
pub(crate) fn pattern(path: &Path) -> PathBuf {
    let mut line = b"/".to_vec();
    for byte in path.as_os_str().as_encoded_bytes() {
        if b"*?[\\ ".contains(byte) {
            line.push(b'\\');
        }
        line.push(*byte);
    }
    PathBuf::from(std::ffi::OsString::from_vec(line))
}

/// The running process that a file names.
fn process(mention: &PathMention) -> String {
    mention.process.map_or_else(|| "its process".to_owned(), process_of)
}

fn process_of(pid: u32) -> String {
    match std::fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(program) => format!("process {pid} ({})", program.trim_end()),
        Err(_) => format!("process {pid}"),
    }
}

/// The part of a warning that says which files name another root than their own, beside those that
/// have a warning of their own: `a and 3 other files still name`.
fn still_name(mentions: &[PathMention]) -> Option<String> {
    let is_covered = false_green::covers(mentions);
    let points_back = |mention: &&PathMention| match mention.meaning() {
        PathMeaning::LeadsBack => !is_covered(mention),
        PathMeaning::FalseGreen => !false_green::is_said(mention),
        _ => false,
    };
    let back: Vec<&PathMention> = mentions.iter().filter(points_back).collect();
    let (file, s) = subject(back.first()?, back.len() - 1);
    Some(format!("{file} still name{s}"))
}

/// The first of some files, with the number of the others, and the ending of the verb after it.
fn subject(first: &PathMention, others: usize) -> (String, &'static str) {
    let file = shown(&first.path);
    match others {
        0 => (file, "s"),
        n => (format!("{file} and {}", counted(n as u64, "other file")), ""),
    }
}

/// Prints which files of the tree at `path`, which came from `project`, name this tree now, and
/// which still name the project.
pub(crate) fn tell(mentions: &[PathMention], path: &Path, project: &Path, output: Output) {
    tell_rewritten(mentions, path, output);
    output.warnings(&warnings(mentions, project));
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
fn advice(mention: &PathMention) -> (&'static str, &'static str) {
    match (mention.kind, mention.tool()) {
        (
            PathKind::EnvironmentConfig
            | PathKind::Activation
            | PathKind::Script
            | PathKind::PathFile
            | PathKind::EditableFinder
            | PathKind::DirectUrl
            | PathKind::Record,
            _,
        ) => (
            "of Python environments",
            "programs in a worktree would run the project's code and install into its environment; 'uv venv \
             --relocatable', or a new environment in the worktree, mends that",
        ),
        (PathKind::Link, _) => (
            "that are absolute links",
            "they lead to the project's files from every worktree; relative links ('ln -sr') do not",
        ),
        (PathKind::LinkBack, "bazel") => (
            "that are bazel's links",
            "they lead to what bazel built of the project's sources; 'bazel build' in the worktree makes them anew",
        ),
        (PathKind::LinkBack, _) => (
            "that are links which lead out and back",
            "what runs through them in a worktree is the project's; relative links that stay inside ('ln -sr') are not",
        ),
        (PathKind::LinkOut, _) => (
            "with a relative path out of this folder",
            "from a worktree it leads elsewhere, or nowhere; an absolute path leads to one place from everywhere",
        ),
        (PathKind::Conda, tool) => (
            if tool == "pixi" { "of pixi environments" } else { "of conda environments" },
            "programs in them start the project's Python, which imports the project's code; make the environment \
             again in the worktree",
        ),
        (PathKind::Build, "configure") => (
            "that ./configure wrote",
            "make may take the project's sources and tests; configure again in the worktree",
        ),
        (PathKind::Build | PathKind::BuildRecord, "cargo") => {
            ("of cargo's build folder", "nothing to do: cargo sees that the folder is another")
        }
        (PathKind::Build, _) if mention.meaning() == PathMeaning::Harmless => {
            ("that are logs of builds", "nothing to do: no build reads them")
        }
        (PathKind::Build, _) if mention.meaning() == PathMeaning::LeadsBack => (
            "that tell tools about a build",
            "editors and other tools find the project's sources; a build in the worktree writes the files again",
        ),
        (PathKind::Build, _) => (
            "of build folders",
            "a build there compiles and tests the project's sources, or is refused (CMake); remove the build folder \
             in the worktree and configure again",
        ),
        (PathKind::NodeShim, _) => (
            "in node_modules/.bin",
            "NODE_PATH in them leads to the project's packages if the worktree lacks one; 'pnpm install' in the \
             worktree writes them again",
        ),
        (PathKind::ShellEnvironment, "pdm") => {
            ("of pdm", "pdm takes the project's Python; 'rm .pdm-python' in the worktree")
        }
        (PathKind::ShellEnvironment, _) => (
            "with settings for shells",
            "they set the project's paths in every worktree; $PWD or direnv's 'PATH_add' name the folder itself",
        ),
        (PathKind::DependencyInfo, _) => (
            "that list sources for build tools",
            "cargo ignores them; make and ninja may take the project's headers: build once from scratch in the worktree",
        ),
        (PathKind::Process, _) => (
            "with a process",
            "the process runs, and a copy of the file in a worktree leads to it: a second server may not start, and \
             what stops it stops this one; a line in .calveignore leaves such files out",
        ),
        _ => ("of other kinds", "programs that read them find the project's files"),
    }
}

/// What `doctor` says about the files of a tree that name it.
pub(crate) fn lines(mentions: &[PathMention], verbose: bool) -> Vec<String> {
    type Group = (PathMeaning, &'static str, &'static str, Option<PathKept>);
    let mut groups: BTreeMap<Group, Vec<&PathMention>> = BTreeMap::new();
    for mention in mentions {
        let (what, meaning) = advice(mention);
        groups.entry((mention.meaning(), what, meaning, mention.kept)).or_default().push(mention);
    }
    let mut lines = Vec::new();
    for ((means, what, meaning, kept), of) in groups {
        let count = counted(of.len() as u64, "file");
        let names = match (means, of.len()) {
            (PathMeaning::Living | PathMeaning::LeadsElsewhere, 1) => "is here",
            (PathMeaning::Living | PathMeaning::LeadsElsewhere, _) => "are here",
            (_, 1) => "names this folder",
            _ => "name this folder",
        };
        let why = match kept {
            Some(PathKept::Tracked) => " (git tracks them, so calve leaves them alone)",
            Some(PathKept::OtherRepository) => {
                " (they are in another repository, so calve leaves them alone)"
            }
            _ => "",
        };
        lines.push(match means {
            PathMeaning::Rewritten => {
                format!("{count} {what} {names}: each worktree gets its own path there")
            }
            _ => format!("{count} {what} {names}{why}: {meaning}"),
        });
        let listed = if verbose { of.len() } else { 3 };
        lines.extend(of.iter().take(listed).map(|mention| match mention.process {
            Some(_) => format!("  {}: {}", shown(&mention.path), process(mention)),
            None => format!("  {}", shown(&mention.path)),
        }));
        if of.len() > listed {
            lines.push(format!("  and {} more (-v lists them)", of.len() - listed));
        }
    }
    lines
}
