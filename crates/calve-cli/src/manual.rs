//! `calve man`: the help as manual pages.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::args::{Cli, ENVIRONMENT, EXIT_CODES, FILES, usage_error};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;

/// The page of the command that these words name.
pub(crate) fn find(words: &[String]) -> Result<io::Result<Vec<u8>>, clap::Error> {
    let top = built();
    let mut of = &top;
    for word in words {
        let named = of.get_subcommands().find(|it| it.get_name() == word && !it.is_hide_set());
        of = named.ok_or_else(|| usage_error("man", &format!("there is no command '{word}'")))?;
    }
    Ok(page(of, &top))
}

/// Prints a page.
pub(crate) fn print(page: io::Result<Vec<u8>>, output: Output) -> Result<Exit, Failure> {
    let page = page.map_err(|error| Failure::output(&error))?;
    output.results(&page).map(|()| Exit::Done)
}

fn built() -> Command {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    command
}

/// Writes all pages into a folder, and prints their paths.
pub(crate) fn write(folder: &Path, output: Output) -> Result<Exit, Failure> {
    let command = built();
    let failed =
        |path: &Path, error: io::Error| Failure::writing("write manual page", path, &error);
    fs::create_dir_all(folder).map_err(|error| failed(folder, error))?;
    let mut paths = Vec::new();
    for of in all(&command) {
        let path = folder.join(format!("{}.1", name(of)));
        page(of, &command)
            .and_then(|page| write_whole(&path, &page))
            .map_err(|error| failed(&path, error))?;
        paths.push(path);
    }
    output.results(&output.path_lines(paths.iter().map(PathBuf::as_path))).map(|()| Exit::Done)
}

/// Writes the page whole: after a crash, the file is the old page or the new one.
fn write_whole(path: &Path, page: &[u8]) -> io::Result<()> {
    let mut part = path.to_owned().into_os_string();
    part.push(".part");
    let part = PathBuf::from(part);
    let written = fs::write(&part, page).and_then(|()| fs::rename(&part, path));
    if written.is_err() {
        let _ = fs::remove_file(&part);
    }
    written
}

/// A command and all its subcommands.
fn all(command: &Command) -> Vec<&Command> {
    let below = command.get_subcommands().filter(|it| !it.is_hide_set()).flat_map(all);
    std::iter::once(command).chain(below).collect()
}

fn name(command: &Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

fn page(of: &Command, top: &Command) -> io::Result<Vec<u8>> {
    let version = format!("calve {}", top.get_version().unwrap_or_default());
    let man = Man::new(of.clone()).title(name(of)).source(version).manual("calve");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    // Use the usage line of the help. The one of clap_mangen repeats all common flags.
    let usage = of.clone().render_usage().to_string();
    let mut roff = Roff::new();
    roff.control("SH", ["SYNOPSIS"]);
    for (index, line) in usage.trim_start_matches("Usage:").lines().enumerate() {
        if index > 0 {
            roff.control("br", []);
        }
        roff.text([bold(line.trim())]);
    }
    roff.to_writer(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    let mut roff = Roff::new();
    let below: Vec<&Command> = of.get_subcommands().filter(|it| !it.is_hide_set()).collect();
    if !below.is_empty() {
        roff.control("SH", ["COMMANDS"]);
        for command in &below {
            roff.control("TP", []);
            roff.text([bold(format!("{}(1)", name(command)))]);
            roff.text([roman(command.get_about().map(ToString::to_string).unwrap_or_default())]);
        }
    }
    let mut texts: Vec<String> = of.get_after_help().map(ToString::to_string).into_iter().collect();
    texts.extend([EXIT_CODES, ENVIRONMENT, FILES].map(plain));
    for text in &texts {
        help_text(&mut roff, text);
    }
    roff.control("SH", ["SEE ALSO"]);
    let others = all(top).into_iter().map(name).filter(|other| *other != name(of));
    let others: Vec<String> = others.map(|other| format!("{other}(1)")).collect();
    roff.text([roman(format!("{}, gitignore(5)", others.join(", ")))]);
    roff.to_writer(&mut page)?;
    let page = ascii(&String::from_utf8_lossy(&page));
    // An empty line is not a macro, and some readers report it as an error.
    let lines = page.lines().filter(|line| !line.is_empty());
    Ok(lines.flat_map(|line| [line, "\n"]).collect::<String>().into_bytes())
}

/// Replaces other characters than ASCII by their roff names: otherwise each reader would need to
/// know the encoding. An ellipsis becomes three dots, because some devices have no other way to
/// show it.
fn ascii(page: &str) -> String {
    let mut ascii = String::with_capacity(page.len());
    for character in page.replace('…', "...").chars() {
        if character.is_ascii() {
            ascii.push(character);
        } else {
            ascii.push_str(&format!("\\[u{:04X}]", u32::from(character)));
        }
    }
    ascii
}

/// The text without style codes.
fn plain(text: &str) -> String {
    clap::builder::StyledStr::from(text.to_owned()).to_string()
}

/// Writes a text of the help. It consists of headings, examples (or words) with an explanation, and
/// paragraphs.
fn help_text(roff: &mut Roff, text: &str) {
    let mut heading = "NOTES";
    let mut fresh = true;
    for line in text.lines() {
        let said = line.trim_start();
        match line.len() - said.len() {
            _ if said.is_empty() => {}
            0 if said.ends_with(':') && fresh => {
                heading = match said {
                    "Exit codes:" => "EXIT STATUS",
                    "Environment:" => "ENVIRONMENT",
                    "Files:" => "FILES",
                    _ => "EXAMPLES",
                };
                roff.control("SH", [heading]);
            }
            // An example and, after two spaces, its explanation.
            2 => {
                let (what, why) = said.split_once("  ").unwrap_or((said, ""));
                roff.control("TP", []);
                roff.text([bold(what)]);
                if !why.is_empty() {
                    roff.text([roman(why.trim_start())]);
                }
            }
            0 => {
                if fresh && heading == "EXAMPLES" {
                    heading = "NOTES";
                    roff.control("SH", [heading]);
                } else if fresh {
                    roff.control("PP", []);
                }
                roff.text([roman(said)]);
            }
            _ => {
                roff.text([roman(said)]);
            }
        }
        fresh = said.is_empty();
    }
}
