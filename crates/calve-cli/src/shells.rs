//! Output for shells: completion, and the function that `calve cd` needs.
//!
//! The completion scripts ask calve at each tab. So they know the names of worktrees and snapshots,
//! and their flags always fit the command. They set [`VARIABLE`] to the shell's name, and pass the
//! line after `--`.

use std::ffi::OsString;

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_complete::env::Shells;

#[cfg(unix)]
use crate::args::CdArgs;
use crate::args::Cli;
use crate::exit::Exit;
use crate::failure::Failure;
#[cfg(unix)]
use crate::failure::Kind;
use crate::output::Output;

/// Set by the completion scripts to the name of the shell.
const VARIABLE: &str = "CALVE_COMPLETE";

/// Answers a completion script: prints what the last word of the line may become. `None` if no
/// script asks.
pub(crate) fn complete(args: &[OsString], output: Output) -> Option<Result<Exit, Failure>> {
    let shell = std::env::var(VARIABLE).ok().filter(|shell| !shell.is_empty())?;
    let line = args.iter().skip_while(|word| *word != "--").skip(1).cloned().collect();
    let mut candidates = Vec::new();
    let mut command = Cli::command();
    command.build();
    let asked = Shells::builtins().completer(&shell)?.write_complete(
        &mut without_flags(command),
        line,
        std::env::current_dir().ok().as_deref(),
        &mut candidates,
    );
    Some(match asked {
        Ok(()) if shell == "bash" => output.results(&escaped(&candidates)).map(|()| Exit::Done),
        Ok(()) => output.results(&candidates).map(|()| Exit::Done),
        // There is nothing to offer. The user is in the middle of a line, so calve prints no error.
        Err(_) => Ok(Exit::Failed),
    })
}

/// Escapes candidates for bash, which puts them into the line unchanged. The other shells quote
/// them themselves. The script separates candidates by `\v`.
fn escaped(candidates: &[u8]) -> Vec<u8> {
    let plain = |byte: u8| {
        byte.is_ascii_alphanumeric() || !byte.is_ascii() || b"_./-+:@%,=~\x0b".contains(&byte)
    };
    let mut escaped = Vec::with_capacity(candidates.len());
    for &byte in candidates {
        if !plain(byte) {
            escaped.push(b'\\');
        }
        escaped.push(byte);
    }
    escaped
}

/// Hides flags from the candidates. The script still offers them if nothing else fits, or if the
/// word starts with a dash: otherwise they would bury the few names.
fn without_flags(command: Command) -> Command {
    command
        .mut_args(|arg| if arg.is_positional() { arg } else { arg.hide(true) })
        .mut_subcommands(without_flags)
}

fn script(shell: &str) -> Result<Vec<u8>, Failure> {
    let mut script = Vec::new();
    if let Some(shell) = Shells::builtins().completer(shell) {
        shell
            .write_registration(VARIABLE, "calve", "calve", "calve", &mut script)
            .map_err(|error| Failure::output(&error))?;
    }
    Ok(script)
}

/// For bash and zsh. The first word must be `cd`: options before a verb are rare, and then the
/// command itself says what to do.
#[cfg(unix)]
const POSIX: &str = r#"calve() {
    if [ "${1-}" != cd ]; then
        command calve "$@"
        return
    fi
    case "${2-}" in
        -h | --help)
            command calve "$@"
            return
            ;;
    esac
    shift
    [ "$#" -gt 0 ] || set -- --project
    local calve_path
    calve_path="$(command calve path "$@")" || return
    builtin cd -- "$calve_path"
}
"#;

/// The `cd` in it is fish's own function, because that one remembers the folder for `cd -`.
#[cfg(unix)]
const FISH: &str = r#"function calve
    if test "$argv[1]" != cd; or contains -- "$argv[2]" -h --help
        command calve $argv
        return
    end
    set -l calve_arguments $argv[2..-1]
    test (count $calve_arguments) -gt 0; or set calve_arguments --project
    set -l calve_path (command calve path $calve_arguments)
    or return
    cd -- $calve_path
end
"#;

/// `calve shell-init`. A shell for which calve has no function gets its completion alone.
pub(crate) fn init(shell: Shell, only_completions: bool, output: Output) -> Result<Exit, Failure> {
    let completions = script(&shell.to_string())?;
    let text = if only_completions { completions } else { with_function(shell, completions) };
    output.results(&text).map(|()| Exit::Done)
}

#[cfg(unix)]
fn with_function(shell: Shell, completions: Vec<u8>) -> Vec<u8> {
    match shell {
        Shell::Bash => [POSIX.as_bytes(), &completions].concat(),
        Shell::Fish => [FISH.as_bytes(), &completions].concat(),
        Shell::Zsh => {
            // The first line is for compinit. An interactive zsh would take it for a command.
            // Without compinit there is no compdef.
            let rest = completions.iter().position(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            let (before, after): (&[u8], &[u8]) =
                (b"if (( $+functions[compdef] )); then\n", b"fi\n");
            [POSIX.as_bytes(), before, &completions[rest..], after].concat()
        }
        _ => completions,
    }
}

/// `calve cd` is about worktrees, which need Unix.
#[cfg(not(unix))]
fn with_function(_: Shell, completions: Vec<u8>) -> Vec<u8> {
    completions
}

/// Runs for `calve cd` if the shell has no function.
#[cfg(unix)]
pub(crate) fn cd(args: &CdArgs) -> Failure {
    let shell = std::env::var("SHELL").unwrap_or_default();
    let line = match shell.rsplit('/').next() {
        Some("bash") => "put this line in ~/.bashrc: eval \"$(calve shell-init bash)\"",
        Some("zsh") => "put this line in ~/.zshrc: eval \"$(calve shell-init zsh)\"",
        Some("fish") => {
            "put this line in ~/.config/fish/config.fish: calve shell-init fish | source"
        }
        _ => "'calve help shell-init' says how to get it",
    };
    let name = args.worktree.as_deref().map(crate::text::shell_word);
    let path = name.unwrap_or_else(|| "--project".to_owned());
    let why =
        "a command cannot change the folder of its shell; the function of calve shell-init can";
    let paths: Vec<_> = args.worktree.iter().cloned().collect();
    let hint = Some(format!("{line}; or, here and now: cd \"$(calve path {path})\""));
    Failure { hint, ..Failure::new("cd", paths, Kind::NeedsShell, why) }
}
