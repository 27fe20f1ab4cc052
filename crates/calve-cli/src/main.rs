//! The calve command: isolated copies of directory trees, by reflink.
//!
//! The `calve` library does the work. This crate has the command line ([`args`], [`common`]), the
//! meaning of its words ([`session`]), the two output streams ([`output`], [`table`],
//! [`progress`]), the texts ([`text`], [`summary`], [`failure`], [`tips`], [`filesystems`], [`here`]) and
//! the exit codes ([`exit`]).

mod args;
#[cfg(unix)]
mod candidates;
#[cfg(unix)]
mod changes;
mod choices;
mod clone;
mod common;
mod doctor;
#[cfg(unix)]
mod environment;
mod exit;
mod failure;
mod filesystems;
mod groups;
#[cfg(unix)]
mod here;
#[cfg(unix)]
mod hints;
#[cfg(not(unix))]
mod hints {
    /// Without stores each command works anywhere.
    pub(crate) fn placed(message: &str) -> std::borrow::Cow<'_, str> {
        message.into()
    }
}
#[cfg(unix)]
mod hook;
mod manual;
#[cfg(target_os = "linux")]
mod mounts;
mod output;
#[cfg(unix)]
mod paths;
#[cfg(unix)]
mod places;
mod progress;
#[cfg(unix)]
mod prompt;
#[cfg(unix)]
mod remote;
#[cfg(unix)]
mod secrets;
#[cfg(unix)]
mod session;
#[cfg(unix)]
mod settings;
mod shells;
#[cfg(unix)]
mod similar;
#[cfg(unix)]
mod snapshots;
#[cfg(unix)]
mod store;
mod summary;
mod system;
#[cfg(unix)]
mod table;
mod text;
#[cfg(unix)]
mod tips;
/// All tips are about commands that only Unix has.
#[cfg(not(unix))]
mod tips {
    pub(crate) fn put(_: &mut clap::Error) -> Option<&'static str> {
        None
    }
}
#[cfg(unix)]
mod refill;
#[cfg(unix)]
mod trash;
#[cfg(target_os = "linux")]
mod volume;
#[cfg(unix)]
mod worktrees;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

#[cfg(unix)]
use crate::args::StoreCommand;
use crate::args::{Cli, Verb};
use crate::exit::Exit;
use crate::failure::{Failure, Kind};
use crate::output::Output;
use crate::system::Signals;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let quiet = Output { json: false, quiet: true, verbose: false, color: Default::default() };
    if let Some(completed) = shells::complete(&args, quiet) {
        return completed.unwrap_or(Exit::Failed).into();
    }
    match Cli::try_parse_from(&args).map_err(|it| groups::with_groups(it, &args)).and_then(run) {
        Ok(exit) => exit,
        Err(error) => not_run(error, &args),
    }
    .into()
}

/// Runs a command. An error means that the command line is wrong and that nothing was begun.
fn run(cli: Cli) -> Result<Exit, clap::Error> {
    let common = &cli.common;
    let output = Output {
        json: common.json,
        quiet: common.quiet,
        verbose: common.verbose,
        color: common.color,
    };
    system::reset_inherited();
    if !cli.verb.keeps_limits() {
        system::raise_open_files();
    }
    let signals = match Signals::register() {
        Ok(signals) => signals,
        Err(error) => {
            let failure = Failure::io("catch signals", Vec::new(), &error);
            output.failure(&failure);
            return Ok(failure.exit());
        }
    };
    #[cfg(unix)]
    output.tells_of_waits();
    let done = work(&cli.verb, common, output, &signals)?;
    #[cfg(unix)]
    let done = with_what_stays(done, output);
    Ok(done.unwrap_or_else(|failure| {
        output.failure(&failure);
        // A git that the signal ended has an error of its own.
        match failure.kind == Kind::CANCELLED || signals.cancel().is_cancelled() {
            true => signals.exit(),
            false => failure.exit(),
        }
    }))
}

/// Does what a verb asks for.
///
/// # Errors
/// Arguments contradict each other. This is found before any work begins.
fn work(
    verb: &Verb,
    common: &common::Common,
    output: Output,
    signals: &Signals,
) -> Result<Result<Exit, Failure>, clap::Error> {
    Ok(match verb {
        Verb::Clone(args) => clone::run(args, &args.destinations()?, common, output, signals),
        Verb::Doctor(args) => doctor::run(args, common, output, signals),
        #[cfg(unix)]
        Verb::Store(verb) => work_in_store(verb, session::Session { common, output, signals })?,
        Verb::ShellInit { shell, completions } => shells::init(*shell, *completions, output),
        Verb::Man { dir: Some(dir), .. } => manual::write(&common.resolve(dir), output),
        Verb::Man { command, dir: None } => manual::print(manual::find(command)?, output),
    })
}

/// Does what a verb asks for that only Unix has.
#[cfg(unix)]
fn work_in_store(
    verb: &StoreCommand,
    session: session::Session<'_>,
) -> Result<Result<Exit, Failure>, clap::Error> {
    Ok(match verb {
        StoreCommand::Init(args) => snapshots::init(args, session),
        StoreCommand::Snapshot(args) => snapshots::snapshot(args, session),
        StoreCommand::Start(args) => worktrees::start::run(args, &args.names()?, session),
        StoreCommand::Fill(args) => worktrees::fill::run(args, session),
        StoreCommand::Update(args) => worktrees::update::run(args, session),
        StoreCommand::List(args) => worktrees::list::run(args, session),
        StoreCommand::Du(args) => worktrees::du::run(args, session),
        StoreCommand::Reshare(args) => worktrees::reshare::run(args, session),
        StoreCommand::Tidy(args) => worktrees::tidy::run(args, session),
        StoreCommand::Status(args) => worktrees::status::run(args, session),
        StoreCommand::Diff(args) => changes::diff(args, session),
        StoreCommand::Drop(args) => worktrees::drop::run(args, session),
        StoreCommand::Restore(args) => worktrees::restore::run(args, session),
        StoreCommand::Undo(args) => worktrees::restore::undo(args, session),
        StoreCommand::Log(args) => snapshots::log(args, session),
        StoreCommand::Show(args) => snapshots::show(args, session),
        StoreCommand::Name(args) => snapshots::name(args.naming()?, session),
        StoreCommand::Push(args) => remote::push::run(args.checked()?, session),
        StoreCommand::Pull(args) => remote::pull::run(args, session),
        StoreCommand::Checkout(args) => remote::checkout::run(args, session),
        StoreCommand::Remote(verb) => remote::run(verb, session),
        StoreCommand::Store(verb) => store::run(verb, session),
        #[cfg(target_os = "linux")]
        StoreCommand::Volume(verb) => volume::run(verb, session),
        StoreCommand::Hook(verb) => hook::run(verb, session),
        StoreCommand::Path(args) => worktrees::path(args, session),
        StoreCommand::Run(args) => worktrees::run::run(args, session),
        StoreCommand::Env(args) => worktrees::env::run(args, session),
        StoreCommand::Cd(args) => Err(shells::cd(args)),
    })
}

/// Names what calve staged and could not remove: with the failure, or as a warning.
#[cfg(unix)]
fn with_what_stays(done: Result<Exit, Failure>, output: Output) -> Result<Exit, Failure> {
    let left = calve::left_behind();
    let [first, ..] = &*left else { return done };
    let paths: Vec<_> = left.iter().map(|path| text::shell_word(path)).collect();
    let above = first.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(first);
    let remark = format!(
        "what calve staged stays, because nothing may be deleted there: allow that ('lsattr -d {}' shows a flag), \
         then rm -rf {}",
        text::shell_word(above),
        paths.join(" ")
    );
    match done {
        Ok(exit) => {
            output.warning(remark);
            Ok(exit)
        }
        Err(failure) => Err(failure.remarked(&remark)),
    }
}

/// Prints help and the version, which clap returns as errors, or says why the command line is
/// wrong.
fn not_run(mut error: clap::Error, args: &[OsString]) -> Exit {
    let (json, color) = args::json_and_color(args);
    let output = Output { json, quiet: false, verbose: false, color };
    #[cfg(unix)]
    if args.len() == 1 {
        output.say(here::greeting(&common::Common::default()));
        return Exit::Usage;
    }
    let tip = tips::put(&mut error);
    let styled = error.render().ansi().to_string();
    if !error.use_stderr() {
        return match output.styled_results(&styled) {
            Ok(()) => Exit::Done,
            Err(failure) => {
                output.failure(&failure);
                failure.exit()
            }
        };
    }
    // Clap repeats arguments as they were given. A hostile one must not reach the terminal.
    let is_control = |character: char| character.is_control() && character != '\n';
    let plain = error.render().to_string();
    if plain.contains(is_control) {
        let lines: Vec<_> = plain.trim_end().split('\n').map(text::harmless).collect();
        output.say(lines.join("\n"));
    } else {
        output.say(styled.trim_end());
    }
    let cause = first_paragraph(&plain);
    output.failure_document(
        &Failure::new("parse the command line", [], Kind::Usage, cause)
            .hinted(tip.unwrap_or("calve --help")),
    );
    Exit::Usage
}

/// The error of clap without its tips and usage, on one line.
fn first_paragraph(message: &str) -> String {
    let paragraph = message.split("\n\n").next().unwrap_or(message);
    let words: Vec<&str> = paragraph.split_whitespace().collect();
    let line = words.join(" ");
    line.strip_prefix("error: ").unwrap_or(&line).to_owned()
}

#[cfg(test)]
mod tests {
    use super::first_paragraph;

    #[test]
    fn the_first_paragraph_of_a_usage_error_is_its_cause() {
        for (message, expected) in [
            (
                "error: unexpected argument '-x' found\n\nUsage: calve\n",
                "unexpected argument '-x' found",
            ),
            (
                "error: these are missing:\n  <SRC>\n  <DST>...\n\nUsage: calve",
                "these are missing: <SRC> <DST>...",
            ),
            ("", ""),
        ] {
            assert_eq!(first_paragraph(message), expected);
        }
    }
}
