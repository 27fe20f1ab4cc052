//! The arguments of the verbs about worktrees.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{NonEmptyStringValueParser, RangedU64ValueParser};
use clap::{Args, ValueEnum, ValueHint};
use clap_complete::engine::ArgValueCompleter;

use super::changes::ScopeArgs;
use super::misuse::{MAX_COUNT, Misuse};
use super::units::parse_time;
use crate::candidates;
use crate::choices::StartReflink;

pub(crate) const START_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve start fix-1 fix-2
      Two worktrees of the project as it is now, with dependencies and
      uncommitted work.
  calve start feat/x
      The branch feat/x in the folder feat-x. If there is such a branch, here or
      at a remote, the worktree is at its commit; otherwise it is a new one.
  calve start pr/12
      A pull request that git fetches from the remote; mr/12 for GitLab.
  calve start -x 'npm test' try
      Also runs a command in the new worktree, and prints its exit status.
  calve start -n 8 --prefix agent
      Eight worktrees, agent-1 … agent-8.
  cd ../app.worktrees/fix-1 && calve start fix-1b
      A fork of fix-1, with its uncommitted work. --from project starts from the
      project there, and --from fix-1 forks fix-1 from anywhere.
  calve start --from ready --at /mnt/xfs/jobs job-7
      /mnt/xfs/jobs/job-7, from the snapshot with the name ready.
  calve start --base origin/main review
      A worktree at origin/main, with the project's dependencies and build
      output, and without uncommitted work.
  cd \"$(calve start -q fix-3)\"
      Standard output has only the paths, one per line.

  git config calve.afterStart 'direnv allow'
      From now on, start runs this command in each new worktree. Others:
      calve.worktrees, calve.base, calve.git (docs/worktrees.md).

New worktrees go into ../PROJECT.worktrees. If that would be another filesystem,
or you may not write there, they go into .calve/worktrees. Exits with 3 if
entries were left out; warnings name them.";

pub(crate) const FILL_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  git worktree add ../app-fix && calve fill ../app-fix
      Like 'calve start', for a worktree that git made.
  calve fill
      In the setup script of a tool that makes worktrees itself.
  calve fill --include-from .worktreeinclude
      Carries only those ignored files that this file of the project names.

No store is needed. fill does not change the content of files in the worktree,
and a second run finds nothing to do. It never carries other worktrees, .calve
or .jj. If it carries build output, a tracked file that differs from the
project's gets a new time, so that the next build compiles it.";

pub(crate) const LIST_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve list
      Prints name, state, for how long nobody worked in it, branch and path; on
      a terminal with a header. The state is what git says: merged, how many
      commits the worktree is ahead of the project and behind it, and how many
      paths have changes that are not committed (uncommitted), or clean. Else it
      is ready, starting, restoring (under way, or cut short), missing, unknown
      (calve cannot look at the folder), or made by git.
  calve list --status
      Also says whether files changed since the base snapshot, ignored ones too.
  calve list --dropped
      The dropped worktrees that 'calve undo NAME' can bring back, how long ago
      each was dropped, and until when it is kept.
  calve list --disk
      Also says what a drop of each worktree alone would free, and of how much.

On a narrow terminal calve cuts names and paths; -v prints them whole.";

pub(crate) const DU_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve du
      All worktrees, the project and its store.
  calve du fix-1 fix-2
      The last line says what a drop of both together would free. That may be
      more than the sum: they may share blocks with each other.

The columns are the sizes of the files, the unique blocks, the blocks shared
with the project, the store, other worktrees or files elsewhere, the
filesystem's own structures (about), and the space that a drop frees. calve
looks at each file and reads none.";

pub(crate) const RESHARE_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve reshare
      In all worktrees, after 'npm ci' or 'cargo build' in each of them.
  calve reshare --dry-run fix-1
      Says what it would give back, and shares nothing.
  calve reshare --from app app-copy /srv/app-2
      In two folders that calve did not make; no store is needed.

Works on XFS and btrfs, at idle priority. Exits with 3 if files with equal bytes
could not share them.";

pub(crate) const STATUS_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve status
      For the worktree, or the project, that contains the current folder.
  calve status fix-1
  calve status ../repo.worktrees/fix-1
  calve status --gitignore fix-1 -- src
      Only below src, and without files that git ignores.
  calve status -q fix-1 >/dev/null || echo changed

A file with the same content and mode is unchanged; times do not count. calve
prints names as they are; for names with line breaks, use --json.";

pub(crate) const DROP_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve drop fix-1 fix-2
  calve snapshot --of fix-3 fixed && calve drop fix-3
      Keeps the changes as a snapshot; 'calve start --from fixed again' starts a
      worktree from it.
  calve drop --force fix-4
      Removes fix-4 even if it has changes. For seven days
      'calve undo fix-4' brings it back, if it had changes.
  calve drop --delete-branch fix-5
      Removes fix-5 and, if it is merged, its branch.
  calve drop --dry-run fix-6 fix-7
      Removes nothing; says whether it could, and how much space that frees.
  calve drop --merged --idle 7d
      Removes all worktrees that are merged and in which nothing changed for a
      week, and says of each other one why it stays.

A worktree with a git repository has changes if 'git status' lists something;
files that git ignores are deleted with it. Its branch stays. Commits that no
branch or tag of the project has become refs/calve/dropped/NAME there for seven
days, with --force.";

/// The word for the project itself, for `--from`.
pub(crate) const PROJECT: &str = "project";

/// The default of `--prefix`.
const PREFIX: &str = "worktree";

/// The arguments of `calve start`.
#[derive(Debug, Default, Clone, Args)]
pub(crate) struct StartArgs {
    /// New names, or a branch to work on, or pr/N; the folder of feat/x is feat-x
    #[arg(value_name = "NAME", required_unless_present = "count", conflicts_with = "count",
        value_parser = NonEmptyStringValueParser::new())]
    names: Vec<String>,

    /// Start N worktrees, P-1 … P-N
    #[arg(short = 'n', long, value_name = "N",
        value_parser = RangedU64ValueParser::<u32>::new().range(1..=MAX_COUNT))]
    count: Option<u32>,

    /// Begin the names of -n with P, and a dash if P ends with none
    #[arg(long, value_name = "P", default_value = PREFIX,
        value_parser = NonEmptyStringValueParser::new())]
    prefix: String,

    /// Start from a snapshot (a name or an id; REMOTE/NAME is pulled first), or from a worktree as it
    /// is now (a name or a path), or from the 'project' [default: the worktree that contains the
    /// current folder, else the project]
    #[arg(long, value_name = "FROM", value_parser = NonEmptyStringValueParser::new(),
        add = ArgValueCompleter::new(candidates::snapshots))]
    pub(crate) from: Option<String>,

    /// Put the worktrees into DIR, which is made if it is missing
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) at: Option<PathBuf>,

    /// Whether the worktrees share blocks with the store
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub(crate) reflink: StartReflink,

    #[command(flatten)]
    pub(crate) git: GitArgs,

    /// Put a linked worktree on this branch, not on one of its name
    #[arg(short, long, value_name = "BRANCH", conflicts_with_all = ["detach", "count"],
        value_parser = NonEmptyStringValueParser::new())]
    branch: Option<String>,

    /// Put linked worktrees on no branch
    #[arg(long)]
    detach: bool,

    /// Start linked worktrees at this commit (a branch, a tag, an id), without work that is not
    /// committed
    #[arg(long, value_name = "COMMIT", conflicts_with = "from",
        value_parser = NonEmptyStringValueParser::new())]
    pub(crate) base: Option<String>,

    /// The folder for the worktrees if neither --at nor git's setting calve.worktrees names one.
    #[arg(skip)]
    pub(crate) default_at: Option<PathBuf>,

    /// The commit of git's setting calve.base. An existing branch is worked on all the same.
    #[arg(skip)]
    pub(crate) default_base: Option<String>,

    /// Run CMD with sh in each new worktree, and print its exit status
    #[arg(short = 'x', long, value_name = "CMD", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) execute: Option<String>,

    /// Do not run the command of git's setting calve.afterStart
    #[arg(long)]
    pub(crate) no_after_start: bool,

    /// Leave all files as the project has them, also those of Python environments that name the
    /// project
    #[arg(long)]
    pub(crate) keep_paths: bool,
}

/// What worktrees get of the project's git repository.
#[derive(Debug, Default, Clone, Args)]
pub(crate) struct GitArgs {
    /// What each worktree gets of the project's git repository [default: linked, or copy if that
    /// cannot be]
    #[arg(long = "git", value_name = "WHAT", value_enum)]
    mode: Option<GitWord>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum GitWord {
    /// It is a linked worktree, as 'git worktree add' makes them
    Linked,
    /// A copy of it: branches, stashes, and what is staged
    Copy,
    /// Nothing: files only
    None,
}

impl GitArgs {
    /// Takes the word of a setting, if none was given. `false`: there is no such word.
    #[must_use]
    pub(crate) fn or(&mut self, word: &str) -> bool {
        let meant = GitWord::from_str(word.trim(), true).ok();
        self.mode = self.mode.or(meant);
        meant.is_some()
    }

    /// Whether worktrees can be linked worktrees of git.
    pub(crate) fn may_link(&self) -> bool {
        !matches!(self.mode, Some(GitWord::Copy | GitWord::None))
    }

    /// These options for the library.
    pub(crate) fn mode(&self) -> calve::GitMode {
        match self.mode {
            None => calve::GitMode::Best,
            Some(GitWord::Linked) => calve::GitMode::Linked,
            Some(GitWord::Copy) => calve::GitMode::Copy,
            Some(GitWord::None) => calve::GitMode::None,
        }
    }
}

impl StartArgs {
    /// The arguments of a start on this branch, or on one with the worktree's name, at this commit,
    /// or at the project's, in this folder unless a setting names another one.
    pub(crate) fn for_tool(branch: Option<String>, base: Option<String>, at: PathBuf) -> Self {
        Self { branch, base, default_at: Some(at), ..Self::default() }
    }

    /// Whether flags say what the worktrees start from, or on which branches, so that the names
    /// are no more than names.
    pub(crate) fn says_what_to_start(&self) -> bool {
        let is_none = self.git.mode() == calve::GitMode::None;
        let says_branch = self.branch.is_some() || self.detach || is_none;
        let says_from = self.from.as_deref().is_some_and(|from| from != PROJECT);
        says_branch || self.base.is_some() || says_from || self.count.is_some()
    }

    /// The HEAD of linked worktrees.
    pub(crate) fn start_branch(&self) -> calve::StartBranch {
        match &self.branch {
            Some(branch) => calve::StartBranch::Named(branch.clone()),
            None if self.detach => calve::StartBranch::Detached,
            None => calve::StartBranch::OfItsName,
        }
    }

    /// The names. With `-n`, calve numbers them.
    pub(crate) fn names(&self) -> Result<Vec<String>, Misuse> {
        let says_where = self.base.is_some() || self.branch.is_some() || self.detach;
        if says_where && !self.git.may_link() {
            return Err(Misuse::new(
                "start",
                "--base, -b and --detach are for linked worktrees; --git copy has the project's commit and branch, --git none has none",
            ));
        }
        if self.branch.is_some() && self.names.len() > 1 {
            return Err(Misuse::new(
                "start",
                "-b is for one worktree: git has a branch checked out in one",
            ));
        }
        match self.count {
            Some(count) => {
                let dash = if self.prefix.ends_with(['-', '_', '.', '/']) { "" } else { "-" };
                let name = |number| format!("{}{dash}{number}", self.prefix);
                Ok((1..=count).map(name).collect())
            }
            None if self.prefix != PREFIX => {
                Err(Misuse::new("start", "--prefix needs -n, which numbers the names"))
            }
            None => Ok(self.names.clone()),
        }
    }
}

/// The arguments of `calve fill`.
#[derive(Debug, Default, Args)]
pub(crate) struct FillArgs {
    /// The root of the worktree [default: that of the current folder]
    #[arg(value_name = "PATH", value_hint = ValueHint::DirPath)]
    pub(crate) path: Option<PathBuf>,

    /// Take files from this working tree of the same repository [default: the main one]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) from: Option<PathBuf>,

    /// Carry only those ignored files that match the patterns in FILE
    ///
    /// FILE has the format of .gitignore. A relative path starts at the root of the working tree
    /// that files are taken from.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) include_from: Option<PathBuf>,

    /// Also carry files that git neither tracks nor ignores
    #[arg(long)]
    pub(crate) untracked: bool,
}

/// The arguments of `calve list`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Also say which worktrees changed since their base snapshot
    #[arg(long)]
    pub(crate) status: bool,

    /// Do not ask git about each worktree: names, states and paths alone, at once
    #[arg(long, conflicts_with = "status")]
    pub(crate) no_status: bool,

    /// List the dropped worktrees that can be brought back
    #[arg(long, conflicts_with_all = ["status", "no_status", "disk"])]
    pub(crate) dropped: bool,
    /// Also say what a drop of each worktree would free
    #[arg(long)]
    pub(crate) disk: bool,
}

/// The arguments of `calve du`.
#[derive(Debug, Args)]
pub(crate) struct DuArgs {
    /// Names or paths [default: all worktrees, the project and its store]
    #[arg(value_name = "WORKTREE", value_hint = ValueHint::DirPath,
        add = ArgValueCompleter::new(candidates::worktrees))]
    pub(crate) worktrees: Vec<PathBuf>,
}

/// The arguments of `calve reshare`.
#[derive(Debug, Args)]
pub(crate) struct ReshareArgs {
    /// Names or paths of worktrees; with --from, folders [default: all worktrees]
    #[arg(value_name = "WORKTREE", value_hint = ValueHint::DirPath,
        add = ArgValueCompleter::new(candidates::worktrees))]
    pub(crate) trees: Vec<PathBuf>,

    /// Share with the files in DIR, in any folders and without a store
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, requires = "trees")]
    pub(crate) from: Option<PathBuf>,

    /// Share nothing; say how much space it would give back
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// The arguments of `calve status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Its name or path [default: the one that contains the current folder]
    #[arg(value_name = "WORKTREE", value_hint = ValueHint::DirPath,
        add = ArgValueCompleter::new(candidates::worktrees))]
    pub(crate) worktree: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) scope: ScopeArgs,
}

/// The flags with which `calve drop` looks for worktrees itself.
const FILTERS: [&str; 3] = ["merged", "clean", "idle"];

impl DropArgs {
    /// Whether calve looks for the worktrees itself.
    pub(crate) fn is_filtered(&self) -> bool {
        self.merged || self.clean || self.idle.is_some()
    }
}

/// The arguments of `calve drop`.
#[derive(Debug, Default, Args)]
pub(crate) struct DropArgs {
    /// Names or paths of the worktrees
    #[arg(value_name = "NAME", required_unless_present_any = FILTERS, value_hint = ValueHint::DirPath,
        add = ArgValueCompleter::new(candidates::worktrees))]
    pub(crate) worktrees: Vec<PathBuf>,

    /// Of these, or of all, remove those whose commits are merged, also by a squash or a rebase
    #[arg(long)]
    pub(crate) merged: bool,

    /// Of these, or of all, remove those with which nothing is lost; the other two include this
    #[arg(long)]
    pub(crate) clean: bool,

    /// Of these, or of all, remove those in which nothing changed for TIME, such as 12h or 7d
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(crate) idle: Option<Duration>,

    /// Remove worktrees even if they have changes, or commits that only they have
    #[arg(short, long, conflicts_with_all = FILTERS)]
    pub(crate) force: bool,

    /// With --force: delete the changes now; 'calve undo' cannot bring them back
    #[arg(long, requires = "force")]
    pub(crate) discard: bool,

    /// Also delete their branches, if calve made them and they are merged
    #[arg(long)]
    pub(crate) delete_branch: bool,

    /// Remove nothing; say how much space it would free
    #[arg(long)]
    pub(crate) dry_run: bool,
}
