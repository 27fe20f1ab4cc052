//! The arguments of `calve hook`.

use clap::Subcommand;

pub(crate) const EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  In the project's .claude/settings.json:
  {\"hooks\": {
    \"WorktreeCreate\": [{\"hooks\": [
      {\"type\": \"command\", \"command\": \"calve hook claude create\"}]}],
    \"WorktreeRemove\": [{\"hooks\": [
      {\"type\": \"command\", \"command\": \"calve hook claude remove\"}]}]}}

docs/worktrees.md has the form for a file that others share who have no calve.";

const CREATE_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  echo '{\"name\": \"fix-1\", \"cwd\": \"/home/ada/app\"}' | calve hook claude create";

const REMOVE_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  echo '{\"worktree_path\": \"/home/ada/app/.claude/worktrees/fix-1\"}' |
      calve hook claude remove";

/// The tools.
#[derive(Debug, Subcommand)]
pub(crate) enum HookVerb {
    /// Hooks of Claude Code
    #[command(subcommand, arg_required_else_help = true, after_help = EXAMPLES)]
    Claude(ClaudeHook),
}

/// The hooks of Claude Code.
#[derive(Debug, Subcommand)]
pub(crate) enum ClaudeHook {
    /// Start the worktree that the JSON document on standard input names, and print its path
    ///
    /// In the name, a slash becomes a dash; the branch keeps its slashes. If the worktree exists,
    /// calve prints its path and does nothing else. With a field base_ref, the worktree starts at
    /// that commit, like 'calve start --base'. It is in .claude/worktrees of the project, or where
    /// git's setting calve.worktrees says. Where calve can have no store, git makes the worktree.
    #[command(after_help = CREATE_EXAMPLES)]
    Create,

    /// Drop the worktree whose path is in the JSON document on standard input
    ///
    /// If it is gone already, there is nothing to do.
    #[command(after_help = REMOVE_EXAMPLES)]
    Remove {
        /// Remove it even if it has changes
        #[arg(short, long)]
        force: bool,
    },
}
