//! `calve start`.

use std::path::Path;
use std::time::Duration;

use calve::{CopyCost, DestinationReport, StartReport};

use crate::args::StartArgs;
use crate::choices::StartReflink;
use crate::environment::{Environment, Ports};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::failure::stored::store_failure;
use crate::places;
use crate::refill::{name_behind, refill_behind};
use crate::secrets::SecretPolicy;
use crate::session::Session;
use crate::settings::{AFTER_START, BASE, GIT, Settings, wrong};
use crate::snapshots::{taken, tell_skipped};
use crate::text::{counted, harmless};

mod after;
pub(super) mod document;
mod failure;
mod price;
pub(super) mod tell;
mod wanted;
mod words;

use document::StartDocument;
use failure::start_failure;
use tell::{tell_git, tell_paths, tell_trees};
use wanted::{Basis, Source, Wanted};
use words::Asked;

pub(crate) fn run(
    args: &StartArgs,
    words: &[String],
    session: Session<'_>,
) -> Result<Exit, Failure> {
    let store = &session.store_to_start_from()?;
    let project = &store.project()?;
    #[cfg(target_os = "linux")]
    crate::volume::store::must_have_room(store.path(), session.output)?;
    // git answers both at once.
    let (settings, found) = std::thread::scope(|scope| {
        let ask = || Settings::known(project);
        let asking = std::thread::Builder::new().spawn_scoped(scope, ask);
        let found = (!args.says_what_to_start()).then(|| store.find_branches(words)).transpose();
        (asking.ok().and_then(|it| it.join().ok()).unwrap_or_else(ask), found)
    });
    let settings = &settings?;
    let found = found?;
    let args = &with_settings(args, settings, project)?;
    let place = match &args.at {
        Some(at) => Some(session.common.resolve(at)),
        None => settings.worktrees(project)?,
    };
    if let Some(place) = &place {
        places::must_be_for_worktrees(place, words, project)?;
    }
    let place = place.or_else(|| args.default_at.clone());
    let source = &match args.base {
        Some(_) => Source::Project,
        None => Source::of(args.from.as_deref(), store, session)?,
    };
    let is_fork = matches!(source, Source::Worktree(_));
    // Then a branch at the project's commit may be at another one than these worktrees.
    let is_elsewhere = is_fork || args.default_base.is_some();
    let asked = &Asked::of(args, words, found, (project, is_elsewhere))?;
    let start = || {
        let secrets = SecretPolicy::of(settings)?;
        let wanted = Wanted { args, asked, source, place, store, project, session, secrets };
        let basis = wanted.basis()?;
        let options = wanted.options(&basis);
        let price = match args.reflink {
            StartReflink::Auto => wanted.price(basis.size()),
            StartReflink::Always => None,
        };
        let report = secrets
            .session(session)
            .work(wanted.total(&basis), |common| store.start(&asked.names, &options, common))
            .map_err(|error| start_failure(&error, &wanted))?;
        Ok((wanted, basis, report, price))
    };
    let (wanted, basis, report, price) =
        start().map_err(|failure| asked.taken_back(project, failure))?;
    Made { wanted, basis, report, settings }.finish(price)
}

/// The arguments, with the user's settings where the user gave none.
fn with_settings(
    args: &StartArgs,
    settings: &Settings,
    project: &Path,
) -> Result<StartArgs, Failure> {
    let mut args = args.clone();
    if let Some(word) = settings.get(GIT)
        && !args.git.or(word)
    {
        return Err(wrong(GIT, word, "knows linked, copy and none"));
    }
    // A branch or a snapshot that the user names says where to begin.
    if let Some(base) = settings.get(BASE)
        && !args.says_what_to_start()
        && args.git.may_link()
        && args.from.is_none()
        && std::fs::symlink_metadata(project.join(".git")).is_ok()
    {
        args.default_base = Some(base.to_owned());
    }
    Ok(args)
}

/// Worktrees that were made. What is left to do is told to the user.
struct Made<'a> {
    wanted: Wanted<'a>,
    basis: Basis,
    report: StartReport,
    settings: &'a Settings,
}

impl Made<'_> {
    /// Tells the user about the worktrees, runs the user's command in them, and starts the work in
    /// the background.
    fn finish(self, price: Option<CopyCost>) -> Result<Exit, Failure> {
        let Wanted { session, store, .. } = self.wanted;
        let (output, report) = (session.output, &self.report);
        let trees: Vec<DestinationReport> =
            report.worktrees.iter().map(|started| started.report.clone()).collect();
        let mut exit = self.tell_files(&trees).and(self.tell_rest(&trees));
        let ([after, given], ran) = self.run_commands();
        exit = exit.and(ran);
        if after.iter().chain(&given).any(|code| *code != Some(0)) {
            exit = match session.signals.cancel().is_cancelled() {
                true => session.signals.exit(),
                false => Exit::Findings,
            };
        }
        if report.registered {
            refill_behind(store);
        }
        let told = output.document_or_paths(
            &StartDocument::new(report, &after, &given, price),
            trees.iter().map(|tree| tree.path.as_path()),
        );
        let what = if trees.len() == 1 { "the worktree" } else { "the worktrees" };
        if self.is_named_later() {
            // The caller has the paths now.
            name_behind(store);
        }
        told.map_err(|failure| failure.but_stands(what, &trees))?;
        Ok(exit)
    }

    fn is_named_later(&self) -> bool {
        self.report.registered && self.report.snapshot.is_none()
    }

    /// Prints what calve read and wrote.
    fn tell_files(&self, trees: &[DestinationReport]) -> Exit {
        let Wanted { asked, session, store, project, .. } = self.wanted;
        let (output, report) = (session.output, &self.report);
        let mut exit = Exit::Done;
        if let Some(worktree) = self.basis.fork() {
            output.summary(format_args!(
                "forked {}, with its uncommitted work",
                harmless(worktree.name())
            ));
        }
        if let Some(snapshot) = &report.taken {
            exit = tell_skipped(&snapshot.skipped, session);
            output.summary(taken(snapshot, project, store.path(), output));
        }
        if let (Some(base), Some(written)) = (asked.base_in_words(), report.written_files) {
            output.summary(format!(
                "git wrote {} of {}; all other files are the project's",
                counted(written, "file"),
                harmless(base)
            ));
        }
        // The summary of the snapshot and that of the trees each have their own time.
        let before = report.taken.as_ref().map_or(Duration::ZERO, |snapshot| snapshot.elapsed);
        exit = exit.and(tell_trees(trees, report.elapsed.saturating_sub(before), store, session));
        if self.is_named_later() {
            let bytes = report.worktrees.first().map_or(0, |started| started.bytes);
            let what = match self.basis.files_before() {
                None => output.size(bytes),
                Some(_) => "the changed files".to_owned(),
            };
            output.summary(format_args!(
                "{what} are read in the background, for the snapshot that these worktrees started from"
            ));
        }
        exit
    }

    /// Prints what the user should know about the worktrees beside their files.
    fn tell_rest(&self, trees: &[DestinationReport]) -> Exit {
        let Wanted { session, project, .. } = &self.wanted;
        let (session, output, report) = (*session, session.output, &self.report);
        let mut exit = tell_git(&report.worktrees, session).and(self.set_upstream());
        tell_paths(&report.worktrees, project, session);
        self.wanted.secrets.tell(&report.secrets, &report.left_secrets, output);
        let first = trees.first().filter(|_| self.wanted.place.is_none());
        if let Some(remark) = first.and_then(|tree| places::inside_project(&tree.path, project)) {
            output.summary(remark);
        }
        let inside = trees.first().and_then(|tree| places::ignored_inside(&tree.path, project));
        match inside {
            Some(Ok(remark)) => output.summary(remark),
            Some(Err(warning)) => {
                output.warning(warning);
                exit = Exit::Findings;
            }
            None => {}
        }
        if !report.registered {
            output.warning(
                "calve cannot write to the store, so it does not know these trees: they are plain folders",
            );
            exit = Exit::Findings;
        }
        let is_there = |name: &str| project.join(name).symlink_metadata().is_ok();
        let is_of_project = report.taken.is_some() || self.is_named_later();
        if is_of_project && is_there(".git") && is_there(".jj") {
            output.summary(
                ".jj stays in the project, since it is about that one tree: in the worktrees work with git",
            );
        }
        exit
    }

    /// Lets the new branch of a remote's branch follow that one.
    fn set_upstream(&self) -> Exit {
        let Wanted { asked, session, store, .. } = self.wanted;
        let (Some(upstream), [branch]) = (&asked.upstream, &*asked.branches) else {
            return Exit::Done;
        };
        match store.set_upstream(branch, upstream) {
            Ok(()) => {
                let (branch, upstream) = (harmless(branch), harmless(upstream));
                session.output.summary(format_args!("the branch {branch} follows {upstream}"));
                Exit::Done
            }
            Err(error) => {
                let failure = store_failure(&error);
                session.output.warning(format_args!(
                    "the branch {} has no upstream: {}",
                    harmless(branch),
                    failure.message()
                ));
                Exit::Findings
            }
        }
    }

    /// Runs the user's commands in each worktree: that of the setting, and that of `-x`. Returns
    /// their exit codes.
    fn run_commands(&self) -> ([Vec<Option<i32>>; 2], Exit) {
        let Wanted { args, session, store, .. } = self.wanted;
        let (output, none) = (session.output, [Vec::new(), Vec::new()]);
        let mut exit = Exit::Done;
        let mut warn = |line: String| {
            output.warning(line);
            exit = Exit::Findings;
        };
        let settings = self.settings;
        for remark in settings.remarks() {
            output.warning(remark);
        }
        let after = settings.get(AFTER_START).filter(|_| !args.no_after_start);
        if after.is_none() && args.execute.is_none() {
            return (none, exit);
        }
        let ports = Ports::of(settings).map_err(|why| warn(format!("no CALVE_PORT: {why}"))).ok();
        let environment = match Environment::of(store, ports) {
            Ok(environment) => environment,
            Err(error) => {
                let why = store_failure(&error).message();
                warn(format!("no command ran in the new worktrees: {why}"));
                return (none, exit);
            }
        };
        let run = |command: &str, of| after::run(command, of, &environment, &self.report, session);
        let after = after.map(|command| run(command, AFTER_START)).unwrap_or_default();
        let given = args.execute.as_deref().map(|command| run(command, "-x")).unwrap_or_default();
        for (started, code) in self.report.worktrees.iter().zip(&given) {
            if let Some(code) = code {
                let name = harmless(&started.name);
                output.summary(format_args!("{name}: -x ended with exit status {code}"));
            }
        }
        ([after, given], exit)
    }
}
