//! `calve tidy`: keeps what a project's worktrees and its store take within bounds.
//!
//! The steps and their order are [`policy`]'s; here each is done by the library's function of the
//! verb that does it alone. A step that fails is told, and the next one is done: what it frees is
//! needed all the more.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use calve::{
    DropFilter, DropOptions, ErrorKind, GcOptions, PackOptions, ReshareOptions, ShedFolder,
    StayReason, Store, Worktree,
};
use serde::Serialize;

use crate::args::TidyArgs;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::failure::stored::store_failure;
use crate::progress::Total;
use crate::session::Session;
use crate::settings::{Settings, TIDY_IDLE, TIDY_MAX_AGE, TIDY_MAX_SIZE};
use crate::text::{cause, harmless, shown};
use crate::worktrees::du::{self, is_there};

mod policy;
mod timer;

use policy::{Bound, Candidate, Step, chosen, is_due};

const DAY: Duration = Duration::from_secs(86_400);

/// The user's bounds: of the command line, else of the settings.
#[derive(Debug, Clone, Copy)]
struct Rules {
    max_size: Option<u64>,
    max_age: Duration,
    idle: Duration,
    dry_run: bool,
}

impl Rules {
    fn of(args: &TidyArgs, settings: &Settings) -> Result<Self, String> {
        let time = |key, given: Option<Duration>| match given {
            Some(time) => Ok(Some(time)),
            None => settings.parsed(key, crate::args::parse_time),
        };
        let max_size = match args.max_size {
            Some(size) => Some(size),
            None => settings.parsed(TIDY_MAX_SIZE, crate::args::parse_size)?,
        };
        Ok(Self {
            max_size,
            max_age: time(TIDY_MAX_AGE, args.max_age)?.unwrap_or(7 * DAY),
            idle: time(TIDY_IDLE, args.idle)?.unwrap_or(Duration::from_secs(2 * 3600)),
            dry_run: args.dry_run,
        })
    }
}

pub(crate) fn run(args: &TidyArgs, session: Session<'_>) -> Result<Exit, Failure> {
    let store = session.store()?;
    let project = store.project()?;
    if args.timer {
        return timer::tell(&project, args.write, session.output);
    }
    let rules = Settings::usable(&project, |settings| Rules::of(args, settings))?;
    calve::lowest_priority();
    let free_before = free_bytes(&store)?;
    let mut tidying =
        Tidying { store: &store, rules, session, taken: None, gone: Vec::new(), exit: Exit::Done };
    tidying.measure()?;
    let taken_before = tidying.taken;
    let mut steps = Vec::new();
    for step in Step::ALL {
        if session.signals.cancel().is_cancelled() {
            return Ok(session.signals.exit());
        }
        if !is_due(tidying.bound()) {
            break;
        }
        let done = tidying.step(step)?;
        done.tell(rules.dry_run, session);
        tidying.after(&done)?;
        steps.push(done);
    }
    let free_after = free_bytes(&store)?;
    let document = TidyDocument {
        dry_run: rules.dry_run,
        max_bytes: rules.max_size,
        taken_bytes_before: taken_before,
        taken_bytes_after: tidying.taken,
        free_bytes_before: free_before,
        free_bytes_after: free_after,
        steps,
    };
    document.tell(session);
    if session.output.json {
        session.output.document(&document)?;
    }
    Ok(document.exit(tidying.exit))
}

/// The free space of the store's filesystem, after everything is written.
fn free_bytes(store: &Store) -> Result<u64, Failure> {
    let look = || -> std::io::Result<u64> {
        let folder = std::fs::File::open(store.path())?;
        // btrfs counts space as free only then.
        #[cfg(target_os = "linux")]
        rustix::fs::syncfs(&folder)?;
        let stat = rustix::fs::fstatvfs(&folder)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    };
    look().map_err(|error| Failure::io("read", vec![store.path().to_owned()], &error))
}

struct Tidying<'a> {
    store: &'a Store,
    rules: Rules,
    session: Session<'a>,
    /// What the worktrees and the store take beside the project. `None`: nobody asked.
    taken: Option<u64>,
    /// The worktrees that are dropped, or would be.
    gone: Vec<String>,
    exit: Exit,
}

impl Tidying<'_> {
    fn bound(&self) -> Option<Bound> {
        Some(Bound { taken: self.taken?, most: self.rules.max_size? })
    }

    fn worktrees(&self) -> Result<Vec<Worktree>, Failure> {
        Ok(self.there()?)
    }

    /// Measures what is taken, if there is a bound for it.
    fn measure(&mut self) -> Result<(), Failure> {
        if self.rules.max_size.is_some() {
            let usage = du::measured(self.store, &self.worktrees()?, self.session)?;
            let store = &usage.store;
            let of_store =
                store.unique_bytes + store.shared_with_worktrees_bytes + store.metadata_bytes;
            self.taken = Some(usage.frees.expected + of_store);
        }
        Ok(())
    }

    /// What is taken after a step: measured, or, if nothing was done, estimated.
    fn after(&mut self, done: &StepDocument) -> Result<(), Failure> {
        match self.rules.dry_run {
            true => {
                let freed = done.bytes.unwrap_or(0);
                self.taken = self.taken.map(|taken| taken.saturating_sub(freed));
            }
            false => self.measure()?,
        }
        Ok(())
    }

    fn step(&mut self, step: Step) -> Result<StepDocument, Failure> {
        let mut done = StepDocument::new(step);
        let failed = match step {
            Step::Reshare => self.reshare(&mut done),
            Step::Collect => self.collect(&mut done),
            Step::Drop => self.drop_merged(&mut done),
            Step::Shed => self.shed(&mut done),
        };
        match failed {
            Err(error) if error.kind() == ErrorKind::Cancelled => {
                return Err(store_failure(&error));
            }
            Err(error) => {
                done.failed = Some(store_failure(&error).message());
                self.exit = Exit::Findings;
            }
            Ok(()) => {}
        }
        Ok(done)
    }

    fn work<T>(
        &self,
        work: impl FnOnce(&calve::StoreOptions) -> Result<T, calve::Error>,
    ) -> Result<T, calve::Error> {
        self.session.work(Total::Unknown, work)
    }

    fn there(&self) -> Result<Vec<Worktree>, calve::Error> {
        let mut all = self.store.worktrees()?;
        all.retain(|it| is_there(it) && !self.gone.iter().any(|gone| gone == it.name()));
        Ok(all)
    }

    fn reshare(&self, done: &mut StepDocument) -> Result<(), calve::Error> {
        let how = ReshareOptions::new().dry_run(self.rules.dry_run);
        let report = self.work(|options| self.store.reshare(&self.there()?, &how, options))?;
        done.bytes = Some(report.reshared_bytes);
        Ok(())
    }

    fn collect(&self, done: &mut StepDocument) -> Result<(), calve::Error> {
        if self.rules.dry_run {
            return Ok(());
        }
        self.store.empty_trash()?;
        let collected = self.work(|options| self.store.gc(&GcOptions::new(), options))?;
        let packed = self.work(|options| self.store.pack(&PackOptions::new(), options))?;
        let packed = packed.dropped_bytes.saturating_sub(packed.stored_bytes);
        done.bytes = Some(collected.mirror_bytes + collected.packed_bytes + packed);
        Ok(())
    }

    fn drop_merged(&mut self, done: &mut StepDocument) -> Result<(), calve::Error> {
        let mut filter = DropFilter::new().merged(true).idle(self.rules.max_age).only_calves(true);
        if let Ok(current) = std::env::current_dir() {
            filter = filter.not_around(current);
        }
        let all = self.there()?;
        let found = self.work(|options| self.store.filter_worktrees(&all, &filter, options))?;
        for staying in found.staying {
            if staying.reason == StayReason::Refused
                && let Some(error) = &staying.error
            {
                done.leave(&staying.worktree, error);
            }
        }
        let mut candidates = Vec::new();
        for it in &found.chosen {
            let those = [it.checked.worktree().clone()];
            let usage = self.work(|options| self.store.disk_usage(&those, options))?;
            let last = it.last_change.as_ref().map(|last| last.time);
            candidates.push(Candidate { idle: since(last), bytes: usage.frees.expected });
        }
        let order = chosen(&candidates, self.bound());
        let mut found: Vec<_> = found.chosen.into_iter().map(Some).collect();
        for at in order {
            let Some(it) = found[at].take() else { continue };
            let worktree = it.checked.worktree().clone();
            if !self.rules.dry_run {
                let how = DropOptions::new();
                match self.work(|options| it.checked.drop(&how, options)) {
                    Ok(dropped) => dropped.delete()?,
                    Err(error) => {
                        done.leave(&worktree, &error);
                        continue;
                    }
                }
            }
            done.did(worktree.name().to_owned(), candidates[at].bytes);
            self.gone.push(worktree.name().to_owned());
        }
        Ok(())
    }

    fn shed(&mut self, done: &mut StepDocument) -> Result<(), calve::Error> {
        let current = std::env::current_dir().ok();
        let (mut found, mut candidates) = (Vec::<(Worktree, Vec<ShedFolder>)>::new(), Vec::new());
        for worktree in self.there()? {
            let is_here = |current: &PathBuf| current.starts_with(worktree.path());
            if worktree.was_made_by_git() || current.as_ref().is_some_and(is_here) {
                continue;
            }
            let look = |options: &_| {
                let idle = since(Some(worktree.last_change(options)?.time));
                if idle < self.rules.idle {
                    return Ok(None);
                }
                Ok(Some((idle, worktree.sheddable(options)?)))
            };
            match self.work(look) {
                Ok(Some((idle, found_there))) => {
                    let calve::Sheddable { folders, staying, .. } = found_there;
                    staying.iter().for_each(|error| done.leave_folder(&worktree, error));
                    if folders.is_empty() {
                        continue;
                    }
                    let bytes = folders.iter().map(|folder| folder.allocated_bytes).sum();
                    candidates.push(Candidate { idle, bytes });
                    found.push((worktree, folders));
                }
                Ok(None) => {}
                Err(error) if error.kind() == ErrorKind::Cancelled => return Err(error),
                Err(error) => done.leave(&worktree, &error),
            }
        }
        for at in chosen(&candidates, self.bound()) {
            let (worktree, mut folders) = (&found[at].0, found[at].1.clone());
            if !self.rules.dry_run {
                match self.work(|options| worktree.shed(&folders, options)) {
                    Ok(report) => {
                        for error in &report.kept {
                            done.leave_folder(worktree, error);
                            self.exit = Exit::Findings;
                        }
                        folders = report.shed;
                    }
                    Err(error) => {
                        done.leave(worktree, &error);
                        continue;
                    }
                }
            }
            for folder in folders {
                let path = shown(&folder.path);
                done.did(format!("{}/{path}", worktree.name()), folder.allocated_bytes);
            }
        }
        Ok(())
    }
}

fn since(time: Option<SystemTime>) -> Duration {
    time.and_then(|time| SystemTime::now().duration_since(time).ok()).unwrap_or_default()
}

/// The first paths or processes that an error names.
fn details(error: &calve::Error) -> String {
    let named = error.details().iter().take(3).map(|it| it.to_string_lossy());
    let named = named.collect::<Vec<_>>().join(", ");
    if named.is_empty() { named } else { format!(": {named}") }
}

/// What one step did; docs/json.md says what each field means.
#[derive(Debug, Serialize)]
struct StepDocument {
    step: &'static str,
    /// `None`: not known.
    bytes: Option<u64>,
    names: Vec<String>,
    left: Vec<LeftDocument>,
    failed: Option<String>,
}

#[derive(Debug, Serialize)]
struct LeftDocument {
    name: String,
    reason: &'static str,
    message: String,
}

impl StepDocument {
    fn new(step: Step) -> Self {
        let (names, left) = (Vec::new(), Vec::new());
        Self { step: step.as_str(), bytes: None, names, left, failed: None }
    }

    fn did(&mut self, name: String, bytes: u64) {
        self.names.push(name);
        self.bytes = Some(self.bytes.unwrap_or(0).saturating_add(bytes));
    }

    fn leave(&mut self, worktree: &Worktree, error: &calve::Error) {
        self.leave_named(worktree.name().to_owned(), error);
    }

    /// For a folder in a worktree, which the error names.
    fn leave_folder(&mut self, worktree: &Worktree, error: &calve::Error) {
        let name = match error.path().strip_prefix(worktree.path()) {
            Ok(path) => format!("{}/{}", worktree.name(), shown(path)),
            Err(_) => shown(error.path()),
        };
        self.leave_named(name, error);
    }

    fn leave_named(&mut self, name: String, error: &calve::Error) {
        self.left.push(LeftDocument {
            name,
            reason: error.kind().as_str(),
            message: format!("{}{}", cause(error.io_error()), details(error)),
        });
    }

    fn tell(&self, dry_run: bool, session: Session<'_>) {
        let output = session.output;
        let would = if dry_run { "would be " } else { "" };
        let size = output.size(self.bytes.unwrap_or(0));
        let line = match self.step {
            _ if self.bytes.is_none_or(|bytes| bytes == 0) && self.names.is_empty() => {
                match (dry_run, self.bytes, self.step) {
                    (true, None, "collect") => "what it frees is known when it is done".to_owned(),
                    _ => "nothing to do".to_owned(),
                }
            }
            "reshare" => format!("{size} {would}shared again"),
            "collect" => format!("{size} {would}collected and packed"),
            "drop" => format!("{would}dropped, {size}"),
            "shed" => format!("{would}shed, at most {size}"),
            _ => format!("dropped worktrees {would}deleted for good"),
        };
        let names = match self.names.as_slice() {
            [] => String::new(),
            names => format!(": {}", names.join(", ")),
        };
        match &self.failed {
            Some(why) => output.warning(format_args!("{}: {why}", self.step)),
            None => output.summary(harmless(&format!("{}: {line}{names}", self.step))),
        }
        for left in &self.left {
            output.summary(harmless(&format!("left {}: {}", left.name, left.message)));
        }
    }
}

/// The JSON document of `tidy`.
#[derive(Serialize)]
struct TidyDocument {
    dry_run: bool,
    max_bytes: Option<u64>,
    taken_bytes_before: Option<u64>,
    taken_bytes_after: Option<u64>,
    free_bytes_before: u64,
    free_bytes_after: u64,
    steps: Vec<StepDocument>,
}

impl TidyDocument {
    fn tell(&self, session: Session<'_>) {
        let output = session.output;
        if let (Some(before), Some(after), Some(most)) =
            (self.taken_bytes_before, self.taken_bytes_after, self.max_bytes)
        {
            let line = format!(
                "the worktrees and the store take {}, and took {}",
                output.size(after),
                output.size(before)
            );
            if after > most {
                output.warning(format_args!("{line}: more than {}", output.size(most)));
            } else {
                output.summary(line);
            }
        }
        if !self.dry_run {
            let (before, after) = (self.free_bytes_before, self.free_bytes_after);
            output.summary(format_args!(
                "the filesystem has {} free, and had {}",
                output.size(after),
                output.size(before)
            ));
        }
    }

    /// A bound that does not hold is a finding.
    fn exit(&self, exit: Exit) -> Exit {
        match (self.taken_bytes_after, self.max_bytes) {
            (Some(after), Some(most)) if after > most => exit.and(Exit::Findings),
            _ => exit,
        }
    }
}
