//! Hooks: commands that agents' tools run to make or remove a worktree.
//!
//! Claude Code writes one JSON document to the standard input of its hooks. `WorktreeCreate` takes
//! the last line of the standard output as the path of the worktree, and any exit code except 0 as
//! a failure. `WorktreeRemove` may run twice, from any folder.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use calve::{ErrorKind, Store, Worktree, WorktreeState};
use serde::Deserialize;

use crate::args::{DropArgs, FillArgs, HookVerb, StartArgs};
use crate::common::Common;
use crate::exit::Exit;
use crate::failure::stored::{store_failure, worktree_failure};
use crate::failure::{Failure, Kind};
use crate::output::Output;
use crate::places;
use crate::session::Session;
use crate::settings::{git_in, said};
use crate::system::{OTHER_MOST, lock_within};
use crate::text::shell_word;
use crate::worktrees::{drop, fill, start};

/// Where the tool expects its worktrees, below the project's root; the setting `calve.worktrees`
/// counts before it.
const PLACE: &str = ".claude/worktrees";

/// A longer input is not the message of a hook.
const MOST_BYTES: u64 = 1024 * 1024;

/// The message of a tool. The names of its fields changed over time: calve knows all of them, and
/// ignores other fields.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Message {
    name: Option<String>,
    worktree_name: Option<String>,
    worktree_path: Option<PathBuf>,
    cwd: Option<PathBuf>,
    base_ref: Option<String>,
}

impl Message {
    /// Reads one document. It does not wait for the end of the input, because some tools do not
    /// close it.
    fn read(input: impl Read) -> Result<Self, Failure> {
        let documents = serde_json::Deserializer::from_reader(input.take(MOST_BYTES));
        let message = match documents.into_iter().next() {
            Some(Ok(message)) => Ok(message),
            Some(Err(error)) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            None => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "there is none")),
        };
        message.map_err(|error| {
            unread(&error).hinted(
                "this command is for the settings of an agent's tool; you start a worktree with \
                 'calve start NAME'",
            )
        })
    }

    /// The name that the tool gave.
    fn given(&self) -> Option<String> {
        let of_path = || self.worktree_path.as_deref()?.file_name()?.to_str().map(str::to_owned);
        self.name.clone().or_else(|| self.worktree_name.clone()).or_else(of_path)
    }

    /// The name for a new worktree. It is the name of a folder, so a slash becomes a dash.
    fn wanted(&self) -> Option<String> {
        let name = folder_of(&self.given()?);
        (!name.is_empty()).then_some(name)
    }
}

/// The name of the folder for a worktree of this name.
fn folder_of(given: &str) -> String {
    let plain = given.replace(|character: char| character == '/' || character.is_control(), "-");
    plain.trim_matches(|character| matches!(character, '-' | '.' | ' ')).to_owned()
}

/// Whether the worktree `name` was made for another branch than `given`: `feat/x` and `feat-x`
/// would have one folder, so the second gets a number.
fn is_of_another_branch(name: &str, started_on: Option<&str>, given: &str) -> bool {
    let Some(branch) = started_on.filter(|branch| *branch != given) else { return false };
    name.strip_prefix(&folder_of(branch)).is_some_and(|rest| rest.is_empty() || is_number(rest))
}

/// Whether this is a dash and a number.
fn is_number(rest: &str) -> bool {
    let digits = rest.strip_prefix('-').unwrap_or_default();
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

pub(crate) fn run(verb: &HookVerb, session: Session<'_>) -> Result<Exit, Failure> {
    let HookVerb::Claude(verb) = verb;
    let message = Message::read(io::stdin().lock())?;
    let common = Common {
        // The tool defines the output.
        json: false,
        directory: message.cwd.clone().or_else(|| session.common.directory.clone()),
        ..session.common.clone()
    };
    let mut output = session.output;
    output.json = false;
    let session = Session { common: &common, output, ..session };
    match verb {
        crate::args::ClaudeHook::Create => create(&message, session),
        crate::args::ClaudeHook::Remove { force } => remove(&message, *force, session),
    }
}

/// How often another process may begin the worktree and give it up.
const TRIES: u32 = 5;
/// How long another process may take to start the worktree.
const PATIENCE: Duration = Duration::from_secs(600);

fn create(message: &Message, session: Session<'_>) -> Result<Exit, Failure> {
    let (Some(wanted), Some(given)) = (message.wanted(), message.given()) else {
        return Err(incomplete("'name'"));
    };
    let base = message.base_ref.as_deref().map(str::trim).filter(|base| !base.is_empty());
    let store = match session.store_to_start_from() {
        Ok(store) => store,
        // The tool's session begins in any case.
        Err(failure) => return by_git((&wanted, &given), base, failure, session),
    };
    let project = store.project()?;
    let place = project.join(PLACE);
    if let Some(path) = made_by_git(&project, (&wanted, &given))
        && !is_calves(&store, &path)?
    {
        return print_filled(&path, session);
    }
    let mut tries = 0;
    loop {
        tries += 1;
        let (name, known) = name_for(&store, &place, (&wanted, &given))?;
        // A second call for the same branch gets the worktree that the first one made.
        if let Some(worktree) = known
            && is_started(&worktree, session)?
        {
            session.output.results(&session.output.path_lines([worktree.path()]))?;
            return Ok(Exit::Done);
        }
        match start_one(&name, &given, (base, &place), session) {
            // Another process was quicker.
            Err(failure) if tries < TRIES && is_taken(&failure) && is_starting(&store, &name) => {}
            // A warning has named what was left out (exit code 3). For the tool, the worktree was
            // made.
            made => return made.map(|_| Exit::Done),
        }
    }
}

/// The name for the worktree, and the worktree that was made for the same branch before. A folder in
/// `place` that is no worktree of calve's belongs to somebody else.
fn name_for(
    store: &Store,
    place: &Path,
    (wanted, given): (&str, &str),
) -> Result<(String, Option<Worktree>), Failure> {
    let mut name = wanted.to_owned();
    for number in 2_u64.. {
        // Before the row: another start makes the row first.
        let is_folder = std::fs::symlink_metadata(place.join(&name)).is_ok();
        match store.worktree(&name) {
            Ok(worktree) if is_of_another_branch(&name, worktree.started_on(), given) => {}
            Ok(worktree) => return Ok((name, Some(worktree))),
            Err(error) if error.kind() == ErrorKind::WorktreeNotFound && is_folder => {}
            Err(error) if error.kind() == ErrorKind::WorktreeNotFound => break,
            Err(error) => return Err(error.into()),
        }
        name = format!("{wanted}-{number}");
    }
    Ok((name, None))
}

/// Whether the store knows the worktree at a path.
fn is_calves(store: &Store, path: &Path) -> Result<bool, Failure> {
    let known = store.worktrees()?;
    Ok(known.iter().any(|worktree| worktree.path() == path))
}

/// The linked worktree in [`PLACE`] that is on the branch `given`, and in a folder that was made for
/// it. git says so: another folder with a `.git` may be there.
fn made_by_git(root: &Path, (wanted, given): (&str, &str)) -> Option<PathBuf> {
    let place = std::fs::canonicalize(root.join(PLACE)).ok()?;
    let is_its_folder = |path: &Path| {
        let inside = path.strip_prefix(&place).ok().and_then(Path::to_str);
        let number = inside.and_then(|inside| inside.strip_prefix(wanted));
        // The hook without calve makes the folder of the name as it is, slashes and all.
        inside == Some(given) || number.is_some_and(|rest| rest.is_empty() || is_number(rest))
    };
    let list = git(root, &["worktree", "list", "--porcelain"]).ok()?;
    let branch = format!("branch refs/heads/{given}");
    let found = list.split("\n\n").filter(|entry| entry.lines().any(|line| line == branch));
    let mut paths = found.filter_map(|entry| entry.lines().next()?.strip_prefix("worktree "));
    let is_it =
        |path: &&str| is_its_folder(Path::new(path)) && Path::new(path).join(".git").is_file();
    paths.find(is_it).map(PathBuf::from)
}

/// Whether the worktree is there. If another process is starting it, waits for that.
fn is_started(worktree: &Worktree, session: Session<'_>) -> Result<bool, Failure> {
    let begun = Instant::now();
    loop {
        match worktree.state() {
            Ok(WorktreeState::Starting) if begun.elapsed() < PATIENCE => {
                if session.signals.cancel().is_cancelled() {
                    let path = vec![worktree.path().to_owned()];
                    return Err(Failure::cancelled("start worktree", path));
                }
                std::thread::sleep(Duration::from_millis(20));
                // This gives up the row of a process that died.
                worktree.store().worktrees()?;
            }
            Ok(state) => return Ok(state == WorktreeState::Ready),
            // The other process failed.
            Err(error) if error.kind() == ErrorKind::WorktreeNotFound => return Ok(false),
            Err(error) => return Err(worktree_failure(&error, worktree)),
        }
    }
}

/// Whether a start may have failed because another process starts the same worktree.
fn is_taken(failure: &Failure) -> bool {
    use ErrorKind::{BranchExists, Busy, DestinationExists, Git, WorktreeExists, WorktreeNotFound};
    let Kind::Library(kind) = failure.kind else { return false };
    matches!(
        kind,
        WorktreeExists | BranchExists | Busy | DestinationExists | Git | WorktreeNotFound
    )
}

/// Whether the worktree is there, or is being started.
fn is_starting(store: &Store, name: &str) -> bool {
    let state = store.worktree(name).and_then(|worktree| worktree.state());
    matches!(state, Ok(WorktreeState::Starting | WorktreeState::Ready))
}

fn start_one(
    name: &str,
    given: &str,
    (base, place): (Option<&str>, &Path),
    session: Session<'_>,
) -> Result<Exit, Failure> {
    // A branch can have the slashes that a folder's name cannot have.
    let branch = Some(given.to_owned()).filter(|given| *given != *name);
    let has_branch = branch.is_some();
    let names = [name.to_owned()];
    let args = |branch| StartArgs::for_tool(branch, base.map(str::to_owned), place.to_owned());
    match start::run(&args(branch), &names, session) {
        // git refuses the name as a branch, or the project has no linked worktrees.
        Err(failure) if has_branch && has_no_such_branch(&failure) => {
            start::run(&args(None), &names, session)
        }
        made => made,
    }
}

/// Lets git make the worktree, and fills it, where calve can have no store.
///
/// # Errors
/// `failure`, why there is no store, if there is no repository either; git refused.
fn by_git(
    (wanted, given): (&str, &str),
    base: Option<&str>,
    failure: Failure,
    session: Session<'_>,
) -> Result<Exit, Failure> {
    // A worktree that git makes there would have other paths outside.
    if failure.kind == Kind::Library(ErrorKind::StoreHidden) {
        return Err(failure);
    }
    let Some(root) = places::repository_around(&session.common.resolve(Path::new("."))) else {
        return Err(failure);
    };
    // git checks out while others already see the folder. Where the folder cannot be locked, another
    // hook at the same time may fail.
    let lock = std::fs::File::open(&root);
    let _alone = lock.and_then(|folder| lock_within(&folder, OTHER_MOST).map(|()| folder));
    let path = match made_by_git(&root, (wanted, given)) {
        Some(path) => path,
        None => {
            let why = failure.message();
            session.output.warning(format_args!("{why}: git alone makes the worktree"));
            add_by_git(&root, (wanted, given), base)?
        }
    };
    print_filled(&path, session)
}

/// Lets git make a worktree on the branch `given` in the first free folder for it.
fn add_by_git(
    root: &Path,
    (wanted, given): (&str, &str),
    base: Option<&str>,
) -> Result<PathBuf, Failure> {
    let place = root.join(PLACE);
    let numbered = (2_u64..).map(|number| place.join(format!("{wanted}-{number}")));
    let is_free = |path: &PathBuf| std::fs::symlink_metadata(path).is_err();
    let mut paths = std::iter::once(place.join(wanted)).chain(numbered).filter(is_free);
    let path = paths.next().unwrap_or(place);
    let branch = format!("refs/heads/{given}");
    let is_there = git(root, &["show-ref", "--verify", "--quiet", &branch]).is_ok();
    let at = path.to_string_lossy();
    let mut words = vec!["worktree", "add", "-q"];
    match is_there {
        true => words.extend([&*at, given]),
        false => words.extend(["-b", given, &*at].into_iter().chain(base)),
    }
    git(root, &words)?;
    Ok(path)
}

/// Fills a worktree of git and prints its path.
fn print_filled(path: &Path, session: Session<'_>) -> Result<Exit, Failure> {
    let filling = FillArgs { path: Some(path.to_owned()), ..FillArgs::default() };
    let output = Output { quiet: true, ..session.output };
    // It prints the path, too.
    if let Err(failure) = fill::run(&filling, Session { output, ..session }) {
        output.warning(failure.message());
        output.results(&output.path_lines([path]))?;
    }
    Ok(Exit::Done)
}

/// Runs git, and returns what it says.
fn git(root: &Path, words: &[&str]) -> Result<String, Failure> {
    let said = said(git_in(root).args(words)).map_err(|error| {
        let failure = Failure::io("run git in", vec![root.to_owned()], &error);
        Failure { kind: Kind::Library(ErrorKind::Git), ..failure }
    })?;
    Ok(String::from_utf8_lossy(&said).into_owned())
}

fn has_no_such_branch(failure: &Failure) -> bool {
    matches!(failure.kind, Kind::Library(ErrorKind::Git | ErrorKind::InvalidName))
}

fn remove(message: &Message, force: bool, session: Session<'_>) -> Result<Exit, Failure> {
    let Some(path) = &message.worktree_path else {
        return Err(incomplete("'worktree_path'"));
    };
    let is_gone = |path: &Path| {
        std::fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    };
    let was_gone = is_gone(path);
    let args = DropArgs { worktrees: vec![path.clone()], force, ..DropArgs::default() };
    match drop::run(&args, session) {
        // The store does not know the worktree any more, or another process removed it first.
        Err(_) if was_gone || is_gone(path) => Ok(Exit::Done),
        // git made it: there was no store, or no calve.
        Err(_) if is_of_git_alone(path) => remove_by_git(path, force),
        done => done,
    }
}

/// Whether calve neither made the working tree at `path` nor has it for its project.
fn is_of_git_alone(path: &Path) -> bool {
    let is_its_root = |root: &Path| std::fs::canonicalize(path).is_ok_and(|path| path == root);
    let is_known =
        Store::discover(path).is_ok_and(|it| !it.is_only_gits() && is_its_root(&it.root));
    path.join(".git").is_file() && !is_known
}

/// Lets git remove a worktree, without what git deletes unasked: what it ignores or was told to take
/// for unchanged, and what a rebase or a detached `HEAD` alone has.
fn remove_by_git(path: &Path, force: bool) -> Result<Exit, Failure> {
    if !force {
        calve::must_lose_no_work(path).map_err(|error| {
            store_failure(&error).hinted(format!(
                "commit it to a branch, or move it out; 'git worktree remove --force {}' deletes it",
                shell_word(path)
            ))
        })?;
    }
    let at = path.to_string_lossy();
    let flag: &[&str] = if force { &["--force"] } else { &[] };
    git(path, &[&["worktree", "remove"], flag, &[&*at]].concat())?;
    Ok(Exit::Done)
}

fn incomplete(field: &str) -> Failure {
    unread(&io::Error::new(io::ErrorKind::InvalidData, format!("it has no {field}")))
}

fn unread(cause: &io::Error) -> Failure {
    Failure::io("read the JSON document on standard input", Vec::new(), cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_that_of_any_generation_of_the_message() {
        for (message, expected) in [
            (r#"{"name":"sad-tharp"}"#, Some("sad-tharp")),
            (r#"{"worktree_name":"feat-auth","base_path":"/p/.worktrees"}"#, Some("feat-auth")),
            (r#"{"worktree_path":"/p/.claude/worktrees/agent-7"}"#, Some("agent-7")),
            (r#"{"name":"one","worktree_path":"/p/two"}"#, Some("one")),
            (r#"{"name":"feat/04-config"}"#, Some("feat-04-config")),
            (r#"{"name":"../../etc"}"#, Some("etc")),
            (r#"{"name":"-n"}"#, Some("n")),
            (r#"{"name":"a\u0000b\nc"}"#, Some("a-b-c")),
            (r#"{"name":"/"}"#, None),
            (r#"{"name":""}"#, None),
            (r#"{"cwd":"/p"}"#, None),
        ] {
            let wanted = Message::read(message.as_bytes()).unwrap().wanted();
            assert_eq!(wanted.as_deref(), expected, "{message}");
        }
    }

    #[test]
    fn branches_whose_names_differ_in_slashes_alone_are_told_apart() {
        for (name, started_on, given, expected) in [
            ("feat-x", Some("feat/x"), "feat/x", false),
            ("feat-x", Some("feat-x"), "feat/x", true),
            ("feat-x", Some("feat/x"), "feat-x", true),
            ("feat-x-2", Some("feat-x"), "feat-x", false),
            ("feat-x-2", Some("feat-x"), "feat-x-2", true),
            // The worktree is on a branch of another name, or on none.
            ("feat-x", Some("main"), "feat-x", false),
            ("feat-x", Some("feat"), "feat-x", false),
            ("feat-x", None, "feat/x", false),
        ] {
            let found = is_of_another_branch(name, started_on, given);
            assert_eq!(found, expected, "{name} {started_on:?} {given}");
        }
    }

    #[test]
    fn what_is_no_document_is_an_error_and_what_follows_one_is_not_read() {
        assert!(Message::read(&b"{\"name\":\"a\"} and more"[..]).is_ok());
        for message in ["", "{", "\"name\"", "{\"name\":7}", "name"] {
            assert!(Message::read(message.as_bytes()).is_err(), "{message}");
        }
    }
}
