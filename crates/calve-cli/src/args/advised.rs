//! Tests that each command that a message advises is one that calve or git has, with its options
//! and with all arguments that it needs. The messages are the texts in the sources.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Parser as _;

use super::Cli;

/// The string literals of a source file, as the compiler reads them.
fn literals(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = source.chars().peekable();
    while let Some(character) = rest.next() {
        match character {
            '/' if rest.peek() == Some(&'/') => while rest.next_if(|it| *it != '\n').is_some() {},
            // A character, or a lifetime.
            '\'' => match (rest.next(), rest.peek()) {
                (Some('\\'), _) => {
                    rest.next();
                    while rest.next_if(|it| *it != '\'').is_some() {}
                    rest.next();
                }
                (_, Some('\'')) => drop(rest.next()),
                _ => {}
            },
            '"' => {
                let mut text = String::new();
                while let Some(character) = rest.next() {
                    match (character, rest.peek()) {
                        ('"', _) => break,
                        ('\\', Some('\n')) => {
                            while rest.next_if(|it| it.is_whitespace()).is_some() {}
                        }
                        ('\\', _) => match rest.next() {
                            Some('n') => text.push('\n'),
                            Some(escaped) => text.push(escaped),
                            None => {}
                        },
                        _ => text.push(character),
                    }
                }
                found.push(text);
            }
            _ => {}
        }
    }
    found
}

/// The commands in quotes in a text.
fn quoted(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices('\'') {
        let (before, rest) = (&text[..at], &text[at + 1..]);
        let starts = before.chars().next_back().is_none_or(|it| it.is_whitespace() || it == '(');
        let is_command = ["calve ", "calve{", "git "].iter().any(|name| rest.starts_with(name));
        if !starts || !is_command {
            continue;
        }
        let mut ends = rest.match_indices('\'').map(|(end, _)| end);
        let closes = |end: &usize| {
            rest[end + 1..].chars().next().is_none_or(|it| !it.is_alphanumeric() && it != '{')
        };
        found.extend(ends.find(closes).map(|end| &rest[..end]));
    }
    found
}

/// The command with something in the place of what is only known when it is printed. A part that
/// follows a word directly is nothing, or another word.
fn filled(command: &str, glued: &str) -> String {
    let mut text = String::new();
    let mut rest = command;
    while let Some((before, after)) = rest.split_once('{') {
        text.push_str(before);
        let (_, after) = after.split_once('}').unwrap_or(("", after));
        text.push_str(if text.ends_with(char::is_alphanumeric) { glued } else { "8" });
        rest = after;
    }
    text + rest
}

fn is_understood(command: &str) -> bool {
    command.split(" && ").all(|one| {
        let words: Vec<&str> = one.split_whitespace().collect();
        match words.first() {
            Some(&"calve") => match Cli::try_parse_from(&words) {
                Ok(_) => true,
                Err(error) => matches!(
                    error.kind(),
                    clap::error::ErrorKind::DisplayHelp | clap::error::ErrorKind::DisplayVersion
                ),
            },
            Some(&"git") => git_has(&words[1..]),
            _ => true,
        }
    })
}

/// Whether git has the command in these words.
fn git_has(words: &[&str]) -> bool {
    let mut rest = words.iter();
    let command = loop {
        match rest.next() {
            Some(&("-C" | "-c")) => drop(rest.next()),
            Some(option) if option.starts_with('-') => {}
            command => break command,
        }
    };
    let Some(command) = command else { return false };
    // Usage is 129; a command that git does not have is 1. Without git, nobody can tell.
    Command::new("git")
        .args([command, "-h"])
        .output()
        .map_or(true, |it| it.status.code() != Some(1))
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") && !path.ends_with("tests.rs") {
            found.push(path);
        }
    }
}

#[test]
fn each_command_that_a_message_advises_is_understood() {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    let (mut count, mut wrong) = (0, BTreeSet::new());
    // The help explains commands, and need not give all of their arguments.
    let is_help = |file: &Path| file.components().any(|part| part.as_os_str() == "args");
    for file in files.iter().filter(|file| !is_help(file) && !file.ends_with("args.rs")) {
        let source = fs::read_to_string(file).unwrap();
        let code = source.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        for text in literals(code) {
            for command in quoted(&text) {
                count += 1;
                if !["", " w"].iter().any(|glued| is_understood(&filled(command, glued))) {
                    wrong.insert(format!("{}: {command}", file.display()));
                }
            }
        }
    }
    assert!(count > 40, "{count}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn what_no_command_is_would_be_found() {
    for (command, expected) in [
        ("calve drop NAME", true),
        ("calve drop", false),
        ("calve drop --git copy w", false),
        ("calve volume grow trees", false),
        ("calve nonsense", false),
        ("git worktree prune", true),
        ("git -C DIR status", true),
        ("git nonsense", false),
        ("calve list && calve nonsense", false),
    ] {
        assert_eq!(is_understood(command), expected, "{command}");
    }
    let source =
        "// 'calve a'\nlet x: &'a str = \"run 'calve \\\n   b{name}', or ('git c')\"; '\"'";
    let texts = literals(source);
    assert_eq!(quoted(&texts[0]), ["calve b{name}", "git c"]);
    assert_eq!(filled("calve{named} start {x}G", ""), "calve start 8G");
}

/// The words of a line of shell, without what follows in a comment, after a pipe or in a file.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for character in line.chars() {
        match (quote, character) {
            (None, '#') if word.is_none() => break,
            (None, '|' | '<' | '>' | ';' | '&') => break,
            (None, ' ') => words.extend(word.take()),
            (None, '\'' | '"') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (Some(open), close) if open == close => quote = None,
            _ => word.get_or_insert_default().push(character),
        }
    }
    words.extend(word);
    words
}

/// The commands of calve in a page: those in its blocks, and those in its text.
fn commands_of(page: &str) -> Vec<(bool, String)> {
    // Cargo.toml has 'calve = …'.
    let is_calve = |it: &str| it.starts_with("calve ") && !it.starts_with("calve =");
    let mut found = Vec::new();
    let mut is_code = false;
    for line in page.lines() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        } else if is_code {
            let line = line.split_once("$ ").map_or(line, |(_, command)| command);
            for part in line.trim().split(" && ").filter(|it| is_calve(it)) {
                found.push((true, part.to_owned()));
            }
        } else {
            let code = line.split('`').skip(1).step_by(2);
            found.extend(code.filter(|it| is_calve(it)).map(|it| (false, it.to_owned())));
        }
    }
    found
}

/// Pages named commands that calve no longer had. In a text, a command may leave out arguments.
#[test]
fn each_command_of_a_page_is_one_that_calve_has() {
    use clap::CommandFactory as _;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut pages = vec![root.join("README.md"), root.join("SECURITY.md")];
    for entry in fs::read_dir(root.join("docs")).unwrap() {
        let path = entry.unwrap().path();
        pages.extend(path.extension().is_some_and(|end| end == "md").then_some(path));
    }
    let command = Cli::command();
    let (mut count, mut wrong) = (0, Vec::new());
    for page in &pages {
        for (is_code, line) in commands_of(&fs::read_to_string(page).unwrap()) {
            count += 1;
            let words = words(&line);
            let has_verb = || {
                let verb = words
                    .iter()
                    .skip(1)
                    .find(|word| word.chars().all(|it| it.is_ascii_lowercase() || it == '-'));
                verb.is_none_or(|verb| {
                    verb.starts_with('-')
                        || verb == "help"
                        || command.find_subcommand(verb).is_some()
                })
            };
            // An ellipsis stands for arguments, and a variable may have any value.
            let is_sketch = line.contains(['…', '[', '$']);
            let understood = match is_code && !is_sketch {
                true => match Cli::try_parse_from(&words) {
                    Ok(_) => true,
                    Err(error) => !error.use_stderr(),
                },
                false => has_verb(),
            };
            if !understood {
                wrong.push(format!("{}: {line}", page.display()));
            }
        }
    }
    assert!(count > 200, "{count}");
    assert_eq!(wrong, [""; 0]);
}
