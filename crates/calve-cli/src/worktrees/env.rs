//! `calve env`.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt as _;

use calve::{ErrorKind, Worktree};

use crate::args::{EnvArgs, EnvFormat};
use crate::environment::{Environment, NOT_ALWAYS, NumberedTree, Ports};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::failure::stored::own;
use crate::session::Session;
use crate::settings::Settings;

/// What all trees of the worktree's project have in common.
///
/// # Errors
/// A setting is wrong, or the store could not be read.
pub(super) fn of(worktree: &Worktree) -> Result<Environment, Failure> {
    let project = worktree.store().project()?;
    let ports = Settings::usable(&project, Ports::of)?;
    Ok(Environment::of(worktree.store(), Some(ports))?)
}

pub(crate) fn run(args: &EnvArgs, session: Session<'_>) -> Result<Exit, Failure> {
    let output = session.output;
    let worktree = session.worktree(args.worktree.as_deref())?;
    let environment = of(&worktree)?;
    let tree = NumberedTree {
        name: (!worktree.is_project()).then(|| worktree.name()),
        path: worktree.path(),
        slot: worktree.slot(),
    };
    let variables = environment.variables(tree);
    let exit = match environment.why_no_port(tree.slot) {
        Some(why) => {
            output.warning(why);
            Exit::Findings
        }
        None => Exit::Done,
    };
    let format = if output.json { EnvFormat::Json } else { args.format };
    if format == EnvFormat::Shell {
        let lines = variables.iter().flat_map(|(name, value)| {
            [b"export ", name.as_bytes(), b"=", &in_quotes(value.as_bytes()), b"\n"].concat()
        });
        let mut lines = lines.collect::<Vec<u8>>();
        // The shell may have those of another tree.
        let is_missing = |name: &&str| variables.iter().all(|(known, _)| known != name);
        for name in NOT_ALWAYS.iter().copied().filter(is_missing) {
            lines.extend_from_slice(format!("unset {name}\n").as_bytes());
        }
        output.results(&lines)?;
        return Ok(exit);
    }
    let text = |value: &std::ffi::OsStr| value.to_str().map(str::to_owned);
    let texts: Option<BTreeMap<&str, String>> =
        variables.iter().map(|(name, value)| Some((*name, text(value)?))).collect();
    let unfit = |why| {
        own(
            "write the variables of",
            worktree.path(),
            ErrorKind::InvalidName,
            why,
            "--format shell takes every path",
        )
    };
    let texts = texts.ok_or_else(|| unfit("a path is not UTF-8"))?;
    if format == EnvFormat::Json {
        output.document(&texts)?;
        return Ok(exit);
    }
    let mut lines = String::new();
    for (name, value) in texts {
        let value = in_dotenv(&value).ok_or_else(|| unfit("a path has a line break"))?;
        lines.push_str(&format!("{name}={value}\n"));
    }
    output.results(lines.as_bytes())?;
    Ok(exit)
}

/// A word of every shell that knows single quotes, whatever its bytes.
fn in_quotes(value: &[u8]) -> Vec<u8> {
    let mut word = vec![b'\''];
    for byte in value {
        match byte {
            b'\'' => word.extend_from_slice(br"'\''"),
            byte => word.push(*byte),
        }
    }
    word.push(b'\'');
    word
}

/// A value as the readers of `.env` files agree on: plain, or in single quotes, which they take to
/// the letter, or else in double quotes. `None`: a line break, which they read in different ways.
fn in_dotenv(value: &str) -> Option<String> {
    let is_plain = |char: char| char.is_ascii_alphanumeric() || "_./-:@%+,".contains(char);
    if value.contains(['\n', '\r']) {
        return None;
    }
    if value.chars().all(is_plain) {
        return Some(value.to_owned());
    }
    if !value.contains('\'') {
        return Some(format!("'{value}'"));
    }
    let escaped: String = value
        .chars()
        .flat_map(|char| {
            matches!(char, '"' | '\\' | '$' | '`').then_some('\\').into_iter().chain([char])
        })
        .collect();
    Some(format!("\"{escaped}\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_one_word_of_a_shell_and_one_line_of_a_dotenv_file() {
        for (value, shell, dotenv) in [
            ("/a/b", "'/a/b'", Some("/a/b")),
            ("", "''", Some("")),
            ("/a b/$x", "'/a b/$x'", Some("'/a b/$x'")),
            ("it's", r"'it'\''s'", Some("\"it's\"")),
            ("it's $x \"y\" \\", r#"'it'\''s $x "y" \'"#, Some(r#""it's \$x \"y\" \\""#)),
            ("a\nb", "'a\nb'", None),
            ("größe", "'größe'", Some("'größe'")),
        ] {
            assert_eq!(in_quotes(value.as_bytes()), shell.as_bytes(), "{value}");
            assert_eq!(in_dotenv(value).as_deref(), dotenv, "{value}");
        }
    }
}
