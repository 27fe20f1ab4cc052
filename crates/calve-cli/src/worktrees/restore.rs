//! `calve restore` and `calve undo`.

use std::ffi::OsStr;
use std::path::Path;
use std::time::Instant;

use calve::{
    ErrorKind, FoundBranch, GitMode, GitOutcome, KeptWorktree, Secret, SnapshotId, StartedWorktree,
    Store, StoreOptions, SwitchOptions, SwitchReport, Worktree, WorktreeState,
};

use super::WorktreeFields;
use super::fill::policy;
use super::start::document::StartedDocument;
use super::start::tell::{tell_git, tell_trees};
use crate::args::{RestoreArgs, UndoArgs};
use crate::clone::SkippedDocument;
use crate::exit::Exit;
use crate::failure::stored::{no_worktree, of_argument, own, store_failure, worktree_failure};
use crate::failure::{Failure, Kind};
use crate::output::{PathFields, document};
use crate::progress::Total;
use crate::prompt;
use crate::secrets::SecretPolicy;
use crate::session::{self, Session};
use crate::similar;
use crate::snapshots::tell_skipped;
use crate::text::{self, count, counted, harmless, shell_word, short};

/// What `calve restore` is to do.
enum Wanted {
    /// Give a tree the content of this snapshot, or of its base.
    Content(Worktree, Option<SnapshotId>),
    /// Make a worktree whose folder was deleted.
    Deleted(Worktree),
    /// Bring back a worktree that was dropped.
    Dropped(Store, KeptWorktree),
}

pub(crate) fn run(args: &RestoreArgs, session: Session<'_>) -> Result<Exit, Failure> {
    let wanted = match (&args.first, &args.second) {
        (None, _) => Wanted::Content(session.here()?, None),
        (Some(word), None) => meant(word, session)?,
        (Some(snapshot), Some(word)) => {
            let worktree = session
                .worktree(Some(word))
                .map_err(|failure| in_other_order(snapshot, word, session).unwrap_or(failure))?;
            let id = session.resolve(worktree.store(), &snapshot.to_string_lossy())?;
            Wanted::Content(worktree, Some(id))
        }
    };
    match wanted {
        Wanted::Content(worktree, to) => content(&worktree, to, args, session),
        Wanted::Deleted(worktree) => make_again(&worktree, args.git.mode(), session),
        Wanted::Dropped(store, kept) => bring_back(&store, &kept, &kept.name, session),
    }
}

/// What a single word means: a snapshot for the tree that one is in, or a worktree.
fn meant(word: &Path, session: Session<'_>) -> Result<Wanted, Failure> {
    let of_tree = |worktree: Worktree| {
        let state = worktree.state().map_err(|error| worktree_failure(&error, &worktree))?;
        Ok(match state {
            WorktreeState::Missing => Wanted::Deleted(worktree),
            _ => Wanted::Content(worktree, None),
        })
    };
    let Some(name) = session::name(word) else {
        return match session.worktree(Some(word)) {
            Err(failure) => match dropped(word, session)? {
                Some((store, kept)) => Ok(Wanted::Dropped(store, kept)),
                None => Err(failure),
            },
            worktree => of_tree(worktree?),
        };
    };
    let worktree = match session.worktree(Some(word)) {
        Err(failure) if failure.kind == Kind::Library(ErrorKind::WorktreeNotFound) => Err(failure),
        worktree => Ok(worktree?),
    };
    let store = match &worktree {
        Ok(worktree) => worktree.store().clone(),
        Err(_) => session.store()?,
    };
    let dropped = match worktree.is_err() {
        true => last_kept(&store, |it| it.name == name)?,
        false => None,
    };
    let was_dropped = dropped.is_some();
    let snapshot = match store.resolve(name) {
        Err(error) if error.kind() == ErrorKind::SnapshotNotFound => None,
        // No single snapshot is meant by the start of several ids.
        Err(error)
            if error.kind() == ErrorKind::SnapshotAmbiguous
                && (was_dropped || worktree.is_ok()) =>
        {
            None
        }
        id => Some(id?),
    };
    match (worktree, snapshot) {
        (Ok(worktree), None) => of_tree(worktree),
        (Err(_), None) if let Some(kept) = dropped => Ok(Wanted::Dropped(store, kept)),
        (Err(failure), None) => Err(Failure {
            cause: "no worktree and no snapshot has this name".into(),
            hint: Some("'calve list' lists the worktrees, 'calve log' the snapshots".to_owned()),
            ..failure
        }
        .meant(&like(&store, name))),
        (Err(_), Some(id)) if !was_dropped => {
            session.warn_of_namesake(&store, name, id);
            Ok(Wanted::Content(session.here()?, Some(id)))
        }
        (worktree, Some(_)) => Err(ambiguous(name, worktree.ok().as_ref())),
    }
}

/// The names of worktrees and snapshots that are like this one.
fn like(store: &Store, name: &str) -> Vec<String> {
    let (mut like, others) = (similar::worktrees(store, name), similar::snapshots(store, name));
    like.extend(others);
    like.dedup();
    like
}

/// The worktree that was dropped last of those that can be brought back and are meant.
fn last_kept(
    store: &Store,
    is_meant: impl Fn(&KeptWorktree) -> bool,
) -> Result<Option<KeptWorktree>, Failure> {
    let kept = store.dropped_worktrees()?;
    Ok(kept.into_iter().find(is_meant))
}

/// The dropped worktree that had this name, or was at this path if the word can only be a path.
fn dropped(word: &Path, session: Session<'_>) -> Result<Option<(Store, KeptWorktree)>, Failure> {
    let (store, kept) = match session::name(word) {
        Some(name) => {
            let store = session.store()?;
            let kept = last_kept(&store, |it| it.name == name)?;
            (store, kept)
        }
        None => {
            let path = session::absolute(&session.common.resolve(word))?;
            let Ok(store) = session.store() else { return Ok(None) };
            let kept = last_kept(&store, |it| it.path == path)?;
            (store, kept)
        }
    };
    Ok(kept.map(|kept| (store, kept)))
}

/// `name` is a snapshot, and a worktree, or a dropped one.
fn ambiguous(name: &str, worktree: Option<&Worktree>) -> Failure {
    let word = shell_word(Path::new(name));
    let is_there = |it: &&Worktree| it.state().is_ok_and(|it| it != WorktreeState::Missing);
    let other = match worktree.filter(is_there) {
        Some(worktree) => {
            format!("'calve restore {}' restores the worktree", shell_word(worktree.path()))
        }
        None => format!("'calve undo {word}' brings back the worktree"),
    };
    own(
        "restore",
        Path::new(name),
        ErrorKind::SnapshotAmbiguous,
        "this is the name of a worktree, and also means a snapshot",
        format!(
            "{other}; 'calve restore {word} .' gives the snapshot's content to the tree that contains the current folder"
        ),
    )
}

/// The error if somebody wrote the worktree before the snapshot.
fn in_other_order(first: &Path, second: &Path, session: Session<'_>) -> Option<Failure> {
    let worktree = session.worktree(Some(first)).ok()?;
    worktree.store().resolve(second.to_str()?).ok()?;
    Some(own(
        "restore",
        worktree.path(),
        ErrorKind::WorktreeNotFound,
        "the snapshot comes before the worktree",
        format!("calve restore {} {}", shell_word(second), shell_word(first)),
    ))
}

/// Gives a tree the content of a snapshot.
fn content(
    worktree: &Worktree,
    to: Option<SnapshotId>,
    args: &RestoreArgs,
    session: Session<'_>,
) -> Result<Exit, Failure> {
    let path = worktree.path().to_owned();
    // A setting that nobody can read takes nothing away.
    let leaves = move |_: &[Secret]| policy(&path).map_or(true, SecretPolicy::may_leave);
    let how = SwitchOptions::new().whole(true).leave_secrets(leaves);
    let failed = |error: calve::Error| worktree_failure(&error, worktree);
    if worktree.is_project() && !args.force {
        let planned = session
            .work(Total::Unknown, |options| worktree.would_switch(to, &how, options))
            .map_err(failed)?;
        let word = to
            .and(args.first.as_deref())
            .map_or_else(String::new, |word| format!(" {}", shell_word(word)));
        let others = match to {
            Some(_) => format!("'calve restore{word} WORKTREE' changes a worktree"),
            None => "'calve restore WORKTREE' changes a worktree".to_owned(),
        };
        confirm(
            "restore",
            worktree,
            &planned,
            &format!("restore --force{word}"),
            &others,
            session,
        )?;
    }
    let report = session
        .work(Total::Unknown, |options| worktree.switch(to, &how, options))
        .map_err(failed)?;
    tell(worktree, &report, "moved aside", session)
}

/// Asks whether to change files of the project itself, and says which. A user in one of its folders
/// may only have forgotten to name a worktree.
fn confirm(
    verb: &'static str,
    project: &Worktree,
    planned: &SwitchReport,
    forced: &str,
    others: &str,
    session: Session<'_>,
) -> Result<(), Failure> {
    if (planned.changed, planned.removed) == (0, 0) && planned.kept.is_empty() {
        return Ok(());
    }
    let path = project.path();
    let name = path.file_name().unwrap_or(path.as_os_str());
    let mut what = format!(
        "{} would change and {} be removed",
        counted(planned.changed, "entry"),
        count(planned.removed)
    );
    if !planned.kept.is_empty() {
        let kept = match verb {
            "undo" => "come back",
            _ => "with local changes would be moved aside ('calve undo' brings them back)",
        };
        what.push_str(&format!("; {} {kept}", counted(planned.kept.len() as u64, "file")));
    }
    if planned.discards_earlier {
        what.push_str("; what an earlier restore moved aside would be deleted");
    }
    let refused = |why: &str| Failure {
        details: planned.kept.clone().into(),
        ..own(
            verb,
            path,
            ErrorKind::InvalidName,
            &format!("{why}: {what}"),
            format!("to change the project, run: calve {forced} {}; {others}", shell_word(path)),
        )
    };
    if !prompt::can_ask() {
        return Err(refused("this is the project itself"));
    }
    let shown = harmless(&name.to_string_lossy()).into_owned();
    eprintln!("This is the project itself, {}: {what}.", text::shown(path));
    eprint!("To go on, type its name, {shown}: ");
    let Some(answer) = prompt::answer(&session.signals.cancel()) else {
        eprintln!();
        return Err(Failure::cancelled(verb, vec![path.to_owned()]));
    };
    match OsStr::new(answer.trim_end_matches(['\r', '\n'])) == name {
        true => Ok(()),
        false => Err(refused("this is the project itself, and that is not its name")),
    }
}

/// Prints what calve did. `kept` says what became of local changes.
fn tell(
    worktree: &Worktree,
    report: &SwitchReport,
    kept: &str,
    session: Session<'_>,
) -> Result<Exit, Failure> {
    let output = session.output;
    let exit = tell_skipped(&report.skipped, session);
    let name = if worktree.is_project() { "the project" } else { worktree.name() };
    let mut line = format!(
        "{} is at snapshot {}: {} changed, {} removed",
        harmless(name),
        short(report.to),
        count(report.changed),
        count(report.removed)
    );
    if !report.kept.is_empty() {
        line.push_str(&format!(", {} {kept}", count(report.kept.len() as u64)));
    }
    line.push_str(&format!(", {}", text::duration(report.elapsed)));
    if kept == "moved aside" {
        let undo = format!("'calve undo{}'", to_undo(worktree, session));
        if !report.kept.is_empty() {
            line.push_str(&format!("; {undo} brings them back"));
            line.push_str(match report.discards_earlier {
                true => ", and what an earlier restore moved aside is deleted",
                false => ", until the next restore moves others aside",
            });
        } else if report.keeps_earlier {
            line.push_str(&format!("; {undo} brings back what an earlier restore moved aside"));
        } else if report.from != report.to || report.changed + report.removed > 0 {
            line.push_str(&format!("; {undo} takes it back"));
        }
    }
    for path in &report.left_repositories {
        output.summary(format_args!(
            "{} stays as it is, because it has commits that no remote has: git shows the difference",
            text::shown(path)
        ));
    }
    if output.verbose {
        for path in &report.kept {
            output.summary(format_args!("{kept}: {}", text::shown(path)));
        }
    }
    output.summary(line);
    if report.leaves_newer_output {
        output.summary(
            "changed files have the times of the snapshot: if build output is outside of this tree, \
             'touch' them before the next build",
        );
    }
    if output.json {
        output.document(&ContentDocument::new(worktree, report))?;
    }
    Ok(exit)
}

/// The argument that names the tree in a hint, with a space before it: the user may be elsewhere.
fn to_undo(worktree: &Worktree, session: Session<'_>) -> String {
    match worktree.is_project() {
        true if session.here().is_ok_and(|here| here.is_project()) => String::new(),
        true => format!(" {}", shell_word(worktree.path())),
        false => format!(" {}", shell_word(Path::new(worktree.name()))),
    }
}

/// Makes a worktree whose folder is gone.
fn make_again(worktree: &Worktree, git: GitMode, session: Session<'_>) -> Result<Exit, Failure> {
    let started = Instant::now();
    let files = match worktree.snapshot() {
        Some(id) => worktree.store().show(id)?.files,
        None => 0,
    };
    let restored = session
        .work(Total::Files(files), |options| worktree.restore(git, options))
        .map_err(|error| restore_failure(&error, worktree))?;
    let trees = [restored.report.clone()];
    let mut exit = tell_trees(&trees, started.elapsed(), worktree.store(), session);
    if tell_git(std::slice::from_ref(&restored), session) == Exit::Findings {
        exit = Exit::Findings;
    }
    let output = session.output;
    tell_head(worktree, &restored, session)?;
    let document = StartedDocument::new(&restored, [None; 2]);
    let told = output.document_or_paths(&document, [worktree.path()]);
    told.map_err(|failure| failure.but_stands("the worktree", &trees))?;
    Ok(exit)
}

/// Says where the `HEAD` of a worktree is whose folder was made again, if that is not where its
/// files are from.
fn tell_head(
    worktree: &Worktree,
    restored: &StartedWorktree,
    session: Session<'_>,
) -> Result<(), Failure> {
    let GitOutcome::Linked(_) = &restored.git else { return Ok(()) };
    let ask = |options: &StoreOptions| {
        Ok(worktree.store().git_status(std::slice::from_ref(worktree), options))
    };
    let asked = session.work(Total::Unknown, ask)?.pop();
    let Some(Ok(Some(status))) = asked else { return Ok(()) };
    if let (None, Some(was_on)) = (&status.branch, worktree.started_on()) {
        session.output.summary(on_another_branch(was_on, None));
    }
    if status.changes > 0 && status.commit.as_deref() != worktree.started_at() {
        session.output.summary(format_args!(
            "its files are those of its base snapshot, and its HEAD is at another commit than at its start: for git \
             the difference is not committed; 'git -C {} restore .' gives tracked files the content of HEAD",
            shell_word(worktree.path())
        ));
    }
    Ok(())
}

fn restore_failure(error: &calve::Error, worktree: &Worktree) -> Failure {
    let failure = worktree_failure(error, worktree);
    if error.kind() != ErrorKind::DestinationExists {
        return failure;
    }
    let name = shell_word(Path::new(worktree.name()));
    let hint = match worktree.state() {
        Ok(WorktreeState::Missing) => format!(
            "the folder there is not this worktree (it may be another project's): move it away and try again, or run \
             'calve drop --force {name}', which forgets the worktree and leaves that folder"
        ),
        // Another process has made it meanwhile.
        _ => format!("'calve restore {name}' makes it match its base snapshot"),
    };
    failure.hinted(hint)
}

/// Brings back a worktree that was dropped.
fn bring_back(
    store: &Store,
    kept: &KeptWorktree,
    new_name: &str,
    session: Session<'_>,
) -> Result<Exit, Failure> {
    let (was_on, was_at) = (kept.branch.clone(), kept.commit.clone());
    let worktree = store.restore_dropped(&kept.path, new_name).map_err(|error| {
        let failure = store_failure(&error);
        let hint = match error.kind() {
            ErrorKind::WorktreeNotFound => {
                "'calve list --dropped' lists the worktrees that are kept".to_owned()
            }
            ErrorKind::WorktreeExists | ErrorKind::DestinationExists => {
                let word = shell_word(Path::new(&kept.name));
                format!("'calve undo {word} --as NAME' gives it another name")
            }
            _ => return failure,
        };
        failure.hinted(hint)
    })?;
    let output = session.output;
    output.summary(format_args!("{} is back, as it was dropped", harmless(worktree.name())));
    let ask =
        |options: &StoreOptions| Ok(store.git_status(std::slice::from_ref(&worktree), options));
    let asked = session.work(Total::Unknown, ask)?;
    match (asked.into_iter().next(), was_on) {
        (Some(Ok(Some(status))), _) if status.branch.is_none() && status.commit != was_at => {
            let [was_at, is_at] = [was_at, status.commit].map(Option::unwrap_or_default);
            let short = |id: &str| id.get(..10).unwrap_or(id).to_owned();
            output.summary(format_args!(
                "git does not have its commit {} any more (its branch was deleted): its HEAD is detached at {}, the project's, \
                 so what was committed in it counts as changes; 'git switch -c BRANCH' there makes a branch for them",
                short(&was_at), short(&is_at)
            ));
        }
        (Some(Ok(Some(status))), Some(was_on)) if status.branch.as_ref() != Some(&was_on) => {
            output.summary(on_another_branch(&was_on, status.branch.as_deref()));
        }
        (Some(Err(error)), _) => output.warning(store_failure(&error).message()),
        _ => {}
    }
    output.document_or_paths(&WorktreeFields::new(&worktree), [worktree.path()])?;
    Ok(Exit::Done)
}

/// What is said if a worktree that came back is on another branch than it was, or on none.
fn on_another_branch(was_on: &str, is_on: Option<&str>) -> String {
    let was_on = harmless(was_on);
    match is_on {
        None => format!(
            "its HEAD is detached: its branch {was_on} is checked out elsewhere, is at another commit or is gone; 'git switch -c BRANCH' makes another one"
        ),
        Some(is_on) => format!(
            "it is on the branch {}, which has no commit yet: {was_on} had none either, and is used elsewhere by now or has commits",
            harmless(is_on)
        ),
    }
}

pub(crate) fn undo(args: &UndoArgs, session: Session<'_>) -> Result<Exit, Failure> {
    let name = args.worktree.as_deref().and_then(session::name);
    if let (Some(new_name), Some(word)) = (&args.new_name, &args.worktree) {
        return match dropped(word, session)? {
            Some((store, kept)) => bring_back(&store, &kept, new_name, session),
            None => Err(no_worktree(word, "no dropped worktree with this name is kept")
                .hinted("'calve list --dropped' lists the worktrees that are kept")),
        };
    }
    let worktree = match session.worktree(args.worktree.as_deref()) {
        Err(failure)
            if name.is_none() || failure.kind == Kind::Library(ErrorKind::WorktreeNotFound) =>
        {
            let dropped = args.worktree.as_deref().map(|word| dropped(word, session));
            return match (dropped.transpose()?.flatten(), name) {
                (Some((store, kept)), _) => bring_back(&store, &kept, &kept.name, session),
                (None, Some(name)) => Err(failure.hinted(nothing_kept(&session.store()?, name))),
                (None, None) => Err(failure),
            };
        }
        worktree => worktree?,
    };
    let state = worktree.state().map_err(|error| worktree_failure(&error, &worktree))?;
    if state == WorktreeState::Missing {
        return make_again(&worktree, GitMode::Best, session);
    }
    let failed = |error: calve::Error| undo_failure(&error, &worktree);
    if worktree.is_project() && !args.force {
        let planned =
            session.work(Total::Unknown, |options| worktree.would_undo(options)).map_err(failed)?;
        confirm(
            "undo",
            &worktree,
            &planned,
            "undo --force",
            "'calve undo WORKTREE' changes a worktree",
            session,
        )?;
    }
    let report = session.work(Total::Unknown, |options| worktree.undo(options)).map_err(failed)?;
    tell(&worktree, &report, "brought back", session)
}

fn undo_failure(error: &calve::Error, worktree: &Worktree) -> Failure {
    let failure = worktree_failure(error, worktree);
    let hint = match error.kind() {
        // A forced undo would have to lose one of two states that the user made by hand.
        ErrorKind::Changed => format!(
            "run 'calve snapshot{}' first: it keeps the changes in a snapshot",
            of_argument(worktree)
        ),
        ErrorKind::SnapshotNotFound => nothing_to_undo(worktree),
        _ => return failure,
    };
    failure.hinted(hint)
}

/// What helps if there is no worktree of this name, and none that was dropped. One that was dropped
/// clean is not kept, since all of it is elsewhere; its branch may be there.
fn nothing_kept(store: &Store, name: &str) -> String {
    let lists = "'calve list' lists the worktrees, 'calve list --dropped' those that were dropped and are kept";
    match store.find_branches(&[name]).as_deref() {
        Ok([FoundBranch::Here | FoundBranch::AtHead]) => {
            let word = shell_word(Path::new(name));
            format!(
                "'calve start {word}' makes a worktree on the branch {word}, which is still there; {lists}"
            )
        }
        _ => lists.to_owned(),
    }
}

/// What the user may have meant by an undo of a tree that nothing was taken from.
fn nothing_to_undo(worktree: &Worktree) -> String {
    let kept = worktree.store().dropped_worktrees().unwrap_or_default();
    let last = match worktree.is_project() {
        true => kept.first(),
        false => kept.iter().find(|it| it.name == worktree.name()),
    };
    match last {
        Some(kept) => {
            let word = shell_word(Path::new(&kept.name));
            let other = if worktree.is_project() { "" } else { " --as NAME" };
            format!("'calve undo {word}{other}' brings back the worktree {word}, which was dropped")
        }
        None => "undo takes back the last restore of a tree, once; 'calve log' lists the snapshots, and \
                 'calve restore SNAPSHOT' gives the tree the content of one"
            .to_owned(),
    }
}

document! {
    /// The JSON document of `restore` and `undo` for a tree that is there; docs/json.md says what
    /// each field means.
    struct ContentDocument(worktree: &Worktree, report: &SwitchReport) {
        #[serde(flatten)]
        worktree: WorktreeFields = WorktreeFields::new(worktree),
        from: String = report.from.to_string(),
        to: String = report.to.to_string(),
        changed_entries: u64 = report.changed,
        removed_entries: u64 = report.removed,
        kept: Vec<PathFields> = PathFields::all(&report.kept),
        left_repositories: Vec<PathFields> = PathFields::all(&report.left_repositories),
        leaves_newer_output: bool = report.leaves_newer_output,
        skipped: Vec<SkippedDocument> = report.skipped.iter().map(SkippedDocument::new).collect(),
        elapsed_seconds: f64 = report.elapsed.as_secs_f64(),
    }
}
