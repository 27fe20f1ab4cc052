//! The list of all commands in the help of calve itself, by what one wants to do.
//!
//! The short help fits on a screen: it has the main commands of each group with what they do, and
//! the others by name. The long help has all of them, and the manual page, too.

use std::ffi::OsString;

use clap::builder::StyledStr;
use clap::error::ErrorKind;
use clap::{Command, CommandFactory as _};

use crate::args::Cli;

/// What some commands are for.
struct Group {
    title: &'static str,
    /// The commands that the short help explains.
    main: &'static [&'static str],
    /// Those that it only names.
    more: &'static [&'static str],
}

/// All commands. Each is in one group; a command that this platform does not have is left out. The
/// short help must stay below 45 lines and 21 commands: a test counts them.
const GROUPS: [Group; 6] = [
    Group {
        title: "Worktrees",
        main: &["start", "list", "cd", "status", "diff", "update", "drop"],
        more: &["run", "path", "env"],
    },
    Group {
        title: "Snapshots",
        main: &["snapshot", "restore", "undo", "log"],
        more: &["show", "name"],
    },
    Group { title: "Disk", main: &["du", "tidy"], more: &["reshare", "store"] },
    Group { title: "Other machines", main: &["push", "pull"], more: &["remote", "checkout"] },
    Group { title: "Without a store", main: &["clone", "fill"], more: &["hook"] },
    Group { title: "Setup", main: &["doctor"], more: &["init", "volume", "shell-init", "man"] },
];

/// The common options are explained in the long help of each command.
const OPTIONS: &str = "\
Each command has -q -v --json -C DIR --store DIR -j N --color WHEN.
'calve start -h' explains one command, 'calve --help' all of them.";

const TEMPLATE: &str = "{about}\n\n{usage-heading} {usage}\n\n{before-help}{options}{after-help}";

/// Gives the help of calve itself its groups: clap, which made it, knows none.
pub(crate) fn with_groups(error: clap::Error, args: &[OsString]) -> clap::Error {
    if error.kind() != ErrorKind::DisplayHelp {
        return error;
    }
    command().try_get_matches_from(args).err().unwrap_or(error)
}

/// The whole command line, with its groups.
fn command() -> Command {
    let command = Cli::command();
    let (short, long) = (text(&command, false), text(&command, true));
    let command = command.help_template(TEMPLATE).before_help(short).before_long_help(long);
    command.after_help(OPTIONS)
}

/// The groups and their commands.
fn text(command: &Command, all: bool) -> StyledStr {
    let about = |verb: &&str| {
        let about = command.find_subcommand(verb)?.get_about()?;
        Some(format!("  \u{1b}[1m{verb:<10}\u{1b}[0m  {about}\n"))
    };
    let mut text = String::new();
    for Group { title, main, more } in &GROUPS {
        let more = if all { more } else { &[][..] };
        let lines: Vec<String> = main.iter().chain(more).filter_map(about).collect();
        if !lines.is_empty() {
            text.push_str(&format!("\u{1b}[1;4m{title}:\u{1b}[0m\n{}\n", lines.concat()));
        }
    }
    if all {
        text.push_str("\u{1b}[1;4mOptions:\u{1b}[0m");
    } else {
        let is_known = |verb: &&&str| command.find_subcommand(verb).is_some();
        let more: Vec<&str> =
            GROUPS.iter().flat_map(|it| it.more).filter(is_known).copied().collect();
        text.push_str(&format!("Also: {}", more.join(", ")));
    }
    StyledStr::from(text.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(command: &Command) -> Vec<&Command> {
        command.get_subcommands().filter(|it| !it.is_hide_set()).collect()
    }

    #[test]
    fn each_command_is_in_one_group_and_each_main_one_is_told_in_few_words() {
        let command = Cli::command();
        let mut grouped: Vec<&str> =
            GROUPS.iter().flat_map(|it| it.main.iter().chain(it.more)).copied().collect();
        grouped.sort_unstable();
        if cfg!(not(target_os = "linux")) {
            grouped.retain(|verb| command.find_subcommand(verb).is_some());
        }
        let mut known: Vec<&str> = shown(&command).iter().map(|it| it.get_name()).collect();
        known.sort_unstable();
        assert_eq!(grouped, known);
        let main: Vec<&str> = GROUPS.iter().flat_map(|it| it.main).copied().collect();
        for of in shown(&command) {
            let about = of.get_about().map(ToString::to_string).unwrap_or_default();
            let most = if main.contains(&of.get_name()) { 6 } else { 7 };
            assert!(about.split_whitespace().count() <= most, "{}: {about}", of.get_name());
        }
    }

    #[test]
    fn the_short_help_fits_on_a_screen_and_names_each_command_and_common_option() {
        let help = command().render_help().to_string();
        assert!(help.lines().count() < 45, "{help}");
        for line in help.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
        let main: usize = GROUPS.iter().map(|it| it.main.len()).sum();
        assert!(main <= 20, "{main}");
        let words: Vec<&str> = help.split([' ', ',', '\n']).collect();
        let command = Cli::command();
        for of in shown(&command) {
            assert!(words.contains(&of.get_name()), "{}: {help}", of.get_name());
        }
        for option in command.get_arguments() {
            let short = option.get_short().map(|it| format!("-{it}"));
            let long = option.get_long().map(|it| format!("--{it}"));
            let is_named = |it: &String| words.contains(&it.as_str());
            assert!([short, long].iter().flatten().any(is_named), "{option:?}");
        }
    }

    #[test]
    fn the_long_help_tells_all_commands() {
        let help = command().render_long_help().to_string();
        for of in shown(&Cli::command()) {
            let about = of.get_about().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains(&format!("  {about}\n")), "{}: {help}", of.get_name());
        }
        assert!(help.contains("Examples:") && help.contains("Exit codes:"), "{help}");
        assert!(!help.contains("Also:"), "{help}");
    }
}
