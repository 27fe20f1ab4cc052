//! Tips for words that calve does not have. People try them because git or another tool has them,
//! or because they belong to `calve store`. A tip names the right command.

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::args;

/// Commands that people try, and the tip.
const COMMANDS: [(&[&str], &str); 18] = [
    (&["gc", "prune", "clean", "cleanup"], "'calve store gc' removes content that nothing needs"),
    (&["stats", "df", "info"], "'calve store stats' prints what the store holds"),
    (&["pack", "compress"], "'calve store pack' compresses content that is not in use"),
    (&["verify", "check", "fsck"], "'calve store verify' lists damaged content"),
    (&["repair"], "'calve store verify --repair' mends damaged content"),
    (&["warm", "unpack"], "'calve store warm' unpacks snapshots ahead of time"),
    (&["remove", "rm", "delete", "del"], "'calve drop NAME' removes a worktree"),
    (&["switch", "goto"], "'calve cd NAME' goes there, 'calve restore SNAPSHOT' changes files"),
    (&["reset"], "'calve restore [WORKTREE]' brings a tree back to its base snapshot"),
    (&["revert"], "'calve undo [WORKTREE]' takes back the last restore or drop"),
    (&["new", "create", "add", "worktree"], "'calve start NAME' makes a worktree"),
    (&["ls", "worktrees"], "'calve list' lists the worktrees"),
    (&["commit", "save", "capture"], "'calve snapshot [NAME]' records the tree that one is in"),
    (&["tag", "branch"], "'calve name SNAPSHOT NAME' gives a snapshot a name"),
    (&["snapshots", "history"], "'calve log' lists the snapshots"),
    (&["key", "keys", "keygen"], "'calve remote key' prints your public signing key"),
    (&["completions", "completion"], "'calve shell-init bash --completions' prints those for bash"),
    (&["copy", "cp"], "'calve clone SRC DST' clones a tree"),
];

/// The same, for commands after `calve store`.
const OF_STORE: [(&[&str], &str); 6] = [
    (&["prune", "clean", "cleanup"], "'calve store gc' removes content that nothing needs"),
    (&["du", "df", "info", "size", "list"], "'calve store stats' prints what the store holds"),
    (&["check", "fsck"], "'calve store verify' lists damaged content"),
    (&["repair"], "'calve store verify --repair' mends damaged content"),
    (&["ready", "keep"], "'calve store warm --keep 2' keeps two trees prepared"),
    (&["unpack"], "'calve store warm' unpacks snapshots ahead of time"),
];

/// Flags that people try with a command, and the tip.
const FLAGS: [(&str, &[&str], &str); 5] = [
    (
        "restore",
        &["--dropped"],
        "no flag is needed: 'calve restore NAME' brings back a dropped worktree",
    ),
    ("snapshot", &["--name"], "no flag is needed: calve snapshot NAME"),
    (
        "clone",
        &["--force", "-f"],
        "--existing replace replaces the destination, --existing merge merges into it",
    ),
    (
        "clone",
        &["--recursive", "-r", "-R", "--archive", "-a", "--preserve", "-p"],
        "no flag is needed: calve clones whole trees, with modes, times, links and attributes",
    ),
    ("diff", &["--binary"], "--patch prints binary files whole, even on a terminal"),
];

/// Puts the tip into the error, in place of clap's guess, which only looks similar. Returns the
/// tip.
pub(crate) fn put(error: &mut clap::Error) -> Option<&'static str> {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::StyledStr(text)) => text.to_string(),
        _ => String::new(),
    };
    // `Usage: calve VERB …`
    let usage = text(ContextKind::Usage);
    let verb = usage.split_whitespace().nth(2).unwrap_or_default().to_owned();
    let among = |all: &[(&[&str], &'static str)], word: &str| {
        all.iter().find(|(words, _)| words.contains(&word)).map(|(_, tip)| *tip)
    };
    let tip = match error.kind() {
        ErrorKind::InvalidSubcommand => {
            let word = text(ContextKind::InvalidSubcommand);
            among(if verb == "store" { &OF_STORE } else { &COMMANDS }, &word)?
        }
        ErrorKind::UnknownArgument => {
            let word = text(ContextKind::InvalidArg);
            let meant =
                |(of, words, _): &&(&str, &[&str], _)| *of == verb && words.contains(&&*word);
            let (.., tip) = FLAGS.iter().find(meant)?;
            // Clap's usage line is about the flag that it guessed.
            if let Some(usage) = args::usage(&verb) {
                error.insert(ContextKind::Usage, ContextValue::StyledStr(usage));
            }
            tip
        }
        _ => return None,
    };
    for kind in [ContextKind::SuggestedSubcommand, ContextKind::SuggestedArg] {
        error.remove(kind);
    }
    let styled = ContextValue::StyledStrs(vec![StyledStr::from(tip)]);
    error.insert(ContextKind::Suggested, styled);
    Some(tip)
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::*;
    use crate::args::Cli;

    #[test]
    fn what_is_taken_for_a_command_is_none_and_what_is_told_instead_is_one() {
        let command = Cli::command();
        let store = command.find_subcommand("store").unwrap();
        for (words, tip) in COMMANDS.iter().chain(&OF_STORE) {
            let told: Vec<&str> = tip.split(['\'', ' ']).filter(|word| !word.is_empty()).collect();
            let of = command.find_subcommand(told[1]).unwrap();
            assert!(of.get_name() != "store" || of.find_subcommand(told[2]).is_some(), "{tip}");
            assert!(told[0] == "calve" && tip.len() <= 80 - "  tip: ".len(), "{tip}");
            for word in *words {
                let of =
                    if OF_STORE.iter().any(|(all, _)| all == words) { store } else { &command };
                assert!(of.find_subcommand(word).is_none(), "{word}");
            }
        }
    }

    #[test]
    fn a_flag_that_a_command_lacks_has_its_tip_and_the_usage_of_the_command() {
        for (verb, flags, tip) in FLAGS {
            for flag in flags {
                let mut error = Cli::try_parse_from(["calve", verb, flag, "x"]).unwrap_err();
                assert_eq!(put(&mut error), Some(tip), "{verb} {flag}");
                let text = error.to_string();
                assert!(text.contains(&format!("\n  tip: {tip}\n")), "{text}");
                assert!(text.contains(&format!("\nUsage: calve {verb} [OPTIONS]")), "{text}");
                assert!(!text.contains("similar"), "{text}");
            }
        }
    }
}
