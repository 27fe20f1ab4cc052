//! For each command that changes a store or a worktree: the project that it runs on, and the states
//! that are allowed after it was cut short at any moment.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use tempfile::TempDir;

use crate::every::{Fault, Scene, is_stage_path};
use crate::killed::is_stage;
use crate::tree::{
    State, difference, many_files, one_of_everything, remove_tree, set_mtime, state,
    without_new_times,
};
use crate::{Run, calve, names, scratch};

/// The commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Snapshot,
    /// From the project, in which something changed.
    Start,
    /// From a snapshot that already has trees; on btrfs, from its ready tree.
    StartFrom,
    Capture,
    /// By force, over local changes.
    Switch,
    Reset,
    /// Undoes a forced switch.
    Undo,
    /// Brings a folder that is replaced whole, and single files, beside local changes.
    Update,
    Drop,
    Restore,
    Pack,
    Warm,
    Gc,
}

use Verb::{
    Capture, Drop, Gc, Pack, Reset, Restore, Snapshot, Start, StartFrom, Switch, Undo, Update, Warm,
};

impl Verb {
    pub(super) fn words(self) -> &'static str {
        match self {
            Snapshot => "snapshot --json -j 1",
            Start => "start --json -j 1 c",
            StartFrom => "start --json -j 1 --from one c",
            Capture => "snapshot --json -j 1 --of a",
            Switch => "restore --json -j 1 two a",
            Reset => "restore --json -j 1 a",
            Undo => "undo --json -j 1 a",
            Update => "update --json -j 1 a",
            Drop => "drop --json -j 1 --force c",
            Restore => "restore --json -j 1 a",
            Pack => "store pack --json -j 1",
            Warm => "store warm --json -j 1 one",
            Gc => "store gc --json -j 1 --expire 0s --grace 0s",
        }
    }

    /// The worktree that it makes, changes or removes.
    fn subject(self) -> &'static str {
        match self {
            Start | StartFrom | Drop => "c",
            _ => "a",
        }
    }

    /// Whether the result must be on the disk when the command returns 0.
    fn is_durable(self) -> bool {
        matches!(self, Snapshot | Start | Capture | Pack | Warm)
    }
}

/// A project with a store, two snapshots, `one` and `two`, and worktrees of the first, `a` and `b`.
pub(super) struct World {
    verb: Verb,
    /// How many files there are beside one of everything.
    many: usize,
    scratch: TempDir,
    one: State,
    /// The worktrees and snapshots at the last look.
    rows: BTreeMap<String, (String, String)>,
    snapshots: BTreeMap<String, String>,
    /// The state before the command ran.
    before: Option<Seen>,
    /// What its subject is once it was done.
    expected: Option<State>,
    /// When all was made.
    began: SystemTime,
}

/// A state.
#[derive(Clone)]
struct Seen {
    project: State,
    /// By its name, where it is there.
    trees: BTreeMap<String, State>,
    /// By name: its snapshot and its state.
    rows: BTreeMap<String, (String, String)>,
    /// By its id: its names.
    snapshots: BTreeMap<String, String>,
}

#[track_caller]
fn done(run: Run) -> Run {
    assert_eq!(run.code, Some(0), "{run:?}");
    run
}

impl World {
    pub(super) fn new(verb: Verb) -> Self {
        Self::with(verb, 0)
    }

    /// A project in which each command takes a while.
    pub(super) fn large(verb: Verb) -> Self {
        Self::with(verb, 900)
    }

    fn with(verb: Verb, many: usize) -> Self {
        let scratch = scratch();
        let app = scratch.path().join("app");
        one_of_everything(&app, "content");
        // A larger file would only cost time, and the test compares each state many times.
        fs::File::options().write(true).open(app.join("big")).unwrap().set_len(50_000).unwrap();
        let sparse = fs::File::create(app.join("sparse")).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"content", 1 << 17).unwrap();
        sparse.set_len(3 << 16).unwrap();
        set_mtime(&app.join("big"), 88);
        set_mtime(&app.join("sparse"), 90);
        rewrite_many(&app, many, "one");
        done(calve(&app, "init -q"));
        set_mtime(&app, 103);
        let one = state(&app);
        done(calve(&app, "snapshot -q one"));
        done(calve(&app, "start -q a b"));
        // Every kind of change between the two.
        fs::write(app.join("f0"), "two\n".repeat(3000)).unwrap();
        fs::write(app.join("f1"), "two\n").unwrap();
        fs::remove_file(app.join("f4")).unwrap();
        fs::write(app.join("new"), "two\n".repeat(2000)).unwrap();
        fs::remove_file(app.join("dir/f7")).unwrap();
        fs::create_dir(app.join("dir/f7")).unwrap();
        fs::write(app.join("dir/f7/inner"), "two").unwrap();
        fs::remove_file(app.join("link")).unwrap();
        symlink("f1", app.join("link")).unwrap();
        fs::set_permissions(app.join("dir"), fs::Permissions::from_mode(0o711)).unwrap();
        rewrite_many(&app, many / 2, "two");
        for (at, name) in ["f0", "f1", "new", "dir/f7/inner", "link"].into_iter().enumerate() {
            set_mtime(&app.join(name), 300 + at as u64);
        }
        done(calve(&app, "snapshot -q two"));
        let mut world = Self {
            verb,
            many,
            scratch,
            one,
            rows: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            before: None,
            expected: None,
            began: SystemTime::now() + Duration::from_secs(1),
        };
        // Times are compared with that by seconds.
        std::thread::sleep(Duration::from_secs(1));
        let seen = world.look();
        (world.rows, world.snapshots) = (seen.rows, seen.snapshots);
        world
    }

    /// The state of a worktree. No snapshot has `mine/note`, so it stays, and a switch gives new
    /// times to files that get other content.
    fn state(&self, tree: &Path) -> State {
        match self.verb {
            Switch => without_new_times(state(tree), self.began),
            _ => state(tree),
        }
    }

    /// The folder in which the commands run: the project.
    fn app(&self) -> PathBuf {
        self.scratch.path().join("app")
    }

    /// The path of a worktree: beside the project, or inside if the folder beside it was refused.
    fn tree(&self, name: &str) -> PathBuf {
        let inside = self.app().join(".calve/worktrees").join(name);
        if inside.is_dir() { inside } else { self.scratch.path().join("app.worktrees").join(name) }
    }

    fn done(&self, words: &str) -> Run {
        done(calve(&self.app(), words))
    }

    /// Changes `a` by hand, in each way that a switch to `two` and a reset must deal with.
    fn change_by_hand(&self) {
        let a = self.tree("a");
        fs::create_dir_all(a.join("mine")).unwrap();
        for (at, name) in ["f1", "mine/note", "dir/f7"].into_iter().enumerate() {
            fs::write(a.join(name), format!("{name} by hand")).unwrap();
            set_mtime(&a.join(name), 200 + at as u64);
        }
        fs::remove_file(a.join("f5")).unwrap();
        fs::remove_file(a.join("f0")).unwrap();
        fs::set_permissions(a.join("dir"), fs::Permissions::from_mode(0o750)).unwrap();
    }

    /// New content in a tree.
    fn rewrite(&self, tree: &Path, number: usize) {
        fs::write(tree.join("f0"), format!("of case {number}\n").repeat(500)).unwrap();
        rewrite_many(tree, self.many / 3, &format!("case{number}"));
    }

    /// What an installer would do in the project.
    fn install(&self, word: &str) {
        let app = self.app();
        let modules = app.join(DEPENDENCIES);
        let _ = fs::remove_dir_all(&modules);
        for name in ["all/index.js", &format!("{word}/index.js"), "all/same"] {
            fs::create_dir_all(modules.join(name).parent().unwrap()).unwrap();
            let text = if name == "all/same" { "same" } else { word };
            fs::write(modules.join(name), text).unwrap();
            set_mtime(&modules.join(name), 400 + word.len() as u64);
        }
        symlink(format!("../{word}"), modules.join("all/link")).unwrap();
        set_mtime(&modules.join("all/link"), 401);
        many_files(&modules.join("many"), self.many / 3, 2000, word);
        for number in 0..self.many / 3 {
            let name = format!("many/d{}/f{number}", number / 100);
            set_mtime(&modules.join(name), 1000 + number as u64);
        }
        for name in ["f1", "settings"] {
            fs::write(app.join(name), format!("{name} {word}")).unwrap();
            set_mtime(&app.join(name), 410 + word.len() as u64);
        }
    }

    fn bring_about(&self, number: usize) {
        let verb = self.verb;
        let app = self.app();
        match verb {
            Snapshot | Start => self.rewrite(&app, number),
            StartFrom => {}
            Capture => self.rewrite(&self.tree("a"), number),
            Switch | Reset | Undo => {
                self.done("restore -q one a");
                self.done("restore -q a");
                self.change_by_hand();
                if verb == Undo {
                    self.done("restore -q two a");
                }
            }
            Update => {
                self.done("drop -q --force a");
                self.done("start -q --from one a");
                self.install("one");
                self.done("update -q a");
                let a = self.tree("a");
                fs::create_dir(a.join("mine")).unwrap();
                for (at, name) in ["f1", "mine/note"].into_iter().enumerate() {
                    fs::write(a.join(name), format!("{name} by hand")).unwrap();
                    set_mtime(&a.join(name), 200 + at as u64);
                }
                self.install("two");
            }
            Drop => drop(self.done("start -q --from one c")),
            Restore => remove_tree(&self.tree("a")),
            Pack | Gc => {
                self.rewrite(&app, 2 * number);
                self.done("snapshot -q");
                if verb == Gc && number % 2 == 1 {
                    self.done("store pack -q --all");
                }
                self.rewrite(&app, 2 * number + 1);
                self.done("snapshot -q");
            }
            Warm => drop(self.done("store pack -q --all")),
        }
    }

    /// The state of the trees. A later comparison needs only these: the store's answers do not
    /// change unnoticed.
    fn look_at_trees(&self) -> Seen {
        Seen {
            project: state(&self.app()),
            trees: ["a", "b", "c"]
                .into_iter()
                .filter(|name| self.tree(name).is_dir())
                .map(|name| (name.to_owned(), self.state(&self.tree(name))))
                .collect(),
            rows: self.rows.clone(),
            snapshots: self.snapshots.clone(),
        }
    }

    fn look(&self) -> Seen {
        let json = |words: &str| self.done(words).json();
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let row = |row: &serde_json::Value| {
            (text(&row["name"]), (text(&row["snapshot"]), text(&row["state"])))
        };
        let snapshot = |row: &serde_json::Value| (text(&row["snapshot"]), row["names"].to_string());
        let list = |value: &serde_json::Value| value.as_array().cloned().unwrap_or_default();
        Seen {
            rows: list(&json("list --json")["worktrees"]).iter().map(row).collect(),
            snapshots: list(&json("log --json")["snapshots"]).iter().map(snapshot).collect(),
            ..self.look_at_trees()
        }
    }

    /// Stages, and entries in the trash.
    fn left(&self) -> Vec<String> {
        let store = self.app().join(".calve");
        let mut places = vec![
            self.scratch.path().to_owned(),
            self.app(),
            self.scratch.path().join("app.worktrees"),
            store.join("stage"),
            store.join("trash"),
            store.join("templates"),
            store.join("packs"),
        ];
        places.extend(["a", "b", "c"].map(|name| self.tree(name)));
        places.extend(["a", "b", "c"].map(|name| self.tree(name).join(".calve")));
        let mut left = Vec::new();
        for place in places.iter().filter(|place| place.is_dir()) {
            for name in names(place) {
                if is_stage(&name) || place.ends_with("stage") || place.ends_with("trash") {
                    let place = place.strip_prefix(self.scratch.path()).unwrap();
                    left.push(place.join(name).display().to_string());
                }
            }
        }
        left
    }

    /// Waits for the background process that deletes files.
    fn wait_for_the_trash(&self) {
        let trash = self.app().join(".calve/trash");
        let until = Instant::now() + Duration::from_secs(20);
        while !names(&trash).is_empty() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn judged(&self, fault: Fault<'_>, run: &Run, before: &Seen) -> (Vec<String>, Seen) {
        let (verb, expected) = (self.verb, self.expected.as_ref());
        let mut wrong = Vec::new();
        if run.stderr.contains("panicked") {
            wrong.push("it panicked".to_owned());
        }
        match (fault, run.code) {
            (Fault::Killed, None) | (_, Some(0)) => {}
            (Fault::Error(..), Some(3)) if names_a_finding(run) => {}
            (Fault::Error(..), Some(1)) => {
                let told = run.stderr.contains("error: ") && {
                    let error = &run.json()["error"];
                    error["cause"].is_string()
                        && error["paths"].as_array().is_some_and(|paths| !paths.is_empty())
                };
                if !told {
                    wrong.push("the error is not told with path and cause".to_owned());
                }
            }
            _ => wrong.push(format!("exit code {:?}", run.code)),
        }
        // A log that stays is on the disk. It was flushed before, and only its transfer into the
        // tables failed.
        let log = fs::metadata(self.app().join(".calve/index.db-wal"));
        if let (Fault::Error(call, errno), Some(0)) = (fault, run.code)
            && verb.is_durable()
            && !log.is_ok_and(|log| log.len() > 0)
            && matches!(call, "fsync" | "fdatasync" | "syncfs")
            && matches!(errno, "EIO" | "ENOSPC" | "EDQUOT")
        {
            wrong.push(format!("{call} failed with {errno}, and nothing was said"));
        }
        // Who is killed cannot tidy up; who comes next does.
        if matches!(fault, Fault::Error(..)) {
            // Entries in the trash no longer count. If their files could not be deleted, the next
            // command deletes them.
            let told = self.left().into_iter().filter(|left| !left.contains(".calve/trash/"));
            wrong.extend(told.map(|left| format!("{left} was left")));
        }
        let verified = calve(&self.app(), "store verify");
        if verified.code != Some(0) {
            wrong.push(format!("store verify: {verified:?}"));
        }
        let after = self.look();
        let done = run.code == Some(0);
        // With 3, something arrived without a part of itself, and that was told.
        if run.code != Some(3) {
            wrong.extend(self.compare(verb, done, before, &after, expected));
            if !done {
                wrong.extend(self.again(verb, fault, before, &after, expected));
            }
            if matches!(verb, Switch | Reset | Update) {
                wrong.extend(self.undone(before));
            }
        }
        if verb == Drop {
            // The next drop also deletes the entries that are still in the trash.
            self.done("start -q --from one c");
        }
        if matches!(verb, Start | StartFrom | Drop) {
            self.done("drop -q --force c");
        }
        self.wait_for_the_trash();
        for left in self.left() {
            wrong.push(format!("{left} was left by the next command, too"));
        }
        (wrong, after)
    }

    /// The faults after the same command without the injected fault.
    fn again(
        &self,
        verb: Verb,
        fault: Fault<'_>,
        before: &Seen,
        after: &Seen,
        expected: Option<&State>,
    ) -> Vec<String> {
        let mut wrong = Vec::new();
        let again = calve(&self.app(), verb.words());
        let may_be_told_of = match verb {
            Start | StartFrom => after.rows.contains_key("c") && after.trees.contains_key("c"),
            Drop => !after.rows.contains_key("c") && !after.trees.contains_key("c"),
            Restore => after.trees.contains_key("a"),
            Undo => {
                // In the store, or on btrfs in the tree.
                let kept = fs::read_dir(self.app().join(".calve/trees")).into_iter().flatten();
                let kept = kept.map(|it| it.unwrap().path().join("undo"));
                let mut places = kept.chain([self.tree("a").join(".calve/undo")]);
                !places.any(|undo| undo.join("record").is_file())
            }
            _ => false,
        };
        // Done already, before it was killed.
        let refused = again.code == Some(1) && may_be_told_of && matches!(fault, Fault::Killed);
        if !(again.code == Some(0) || refused) {
            wrong.push(format!("the same command without the fault: {again:?}"));
        }
        let at_last = self.look();
        let lines = self.compare(verb, true, before, &at_last, expected).into_iter();
        wrong.extend(lines.map(|line| format!("after the same without the fault: {line}")));
        let verified = calve(&self.app(), "store verify");
        if verified.code != Some(0) {
            wrong.push(format!("after the same without the fault, store verify: {verified:?}"));
        }
        wrong
    }

    /// Brings back the files that the last forced switch moved aside, and compares.
    fn undone(&self, before: &Seen) -> Option<String> {
        let run = calve(&self.app(), "undo -q a");
        if run.code != Some(0) {
            return Some(format!("it cannot be undone: {run:?}"));
        }
        let lost = lost(&before.trees["a"], &self.state(&self.tree("a")));
        (!lost.is_empty()).then(|| format!("undone, it is not as it was: {lost}"))
    }

    fn compare(
        &self,
        verb: Verb,
        done: bool,
        before: &Seen,
        after: &Seen,
        expected: Option<&State>,
    ) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut differs = |what: &str, wanted: &State, got: &State| {
            let difference = difference(wanted, got);
            if !difference.is_empty() {
                wrong.push(format!("{what}: {difference}"));
            }
        };
        let subject = verb.subject();
        differs("the project", &before.project, &after.project);
        differs("b", &before.trees["b"], &after.trees["b"]);
        let made_from = match verb {
            Start => &before.project,
            _ => &self.one,
        };
        let got = after.trees.get(subject);
        match (verb, got) {
            (Start | StartFrom | Restore, Some(got)) => differs(subject, made_from, got),
            (Start | StartFrom | Restore, None) if done => wrong.push(format!("no {subject}")),
            (Drop, Some(_)) if done => wrong.push("c is there".to_owned()),
            (Drop, Some(got)) => differs("c", made_from, got),
            (Switch | Reset | Undo | Update, Some(got)) if done => {
                if let Some(expected) = expected {
                    let lost = lost(expected, got);
                    if !lost.is_empty() {
                        wrong.push(format!("a: {lost}"));
                    }
                }
            }
            (Switch | Reset | Undo | Update, Some(got)) => {
                let olds = [Some(&before.trees["a"]), expected, Some(&self.one)];
                for (path, entry) in got.iter().filter(|(path, _)| !is_stage_path(path)) {
                    let whole = olds.iter().flatten().filter_map(|old| old.get(path));
                    if !entry.is_dir() && !whole.into_iter().any(|old| old.same_file(entry)) {
                        wrong.push(format!("{path:?} is neither of the one nor of the other"));
                    }
                }
                let whole = |of: &State| lost(&dependencies(of), &dependencies(got)).is_empty();
                if verb == Update && !olds.iter().flatten().any(|old| whole(old)) {
                    wrong.push(format!("{DEPENDENCIES} is there in part"));
                }
            }
            (Snapshot | Capture | Pack | Warm | Gc, Some(got)) => {
                differs("a", &before.trees["a"], got);
            }
            (Start | StartFrom | Restore | Drop, None) => {}
            (_, None) => wrong.push(format!("{subject} is gone")),
        }
        for (name, row) in before.rows.iter().filter(|(name, _)| *name != subject) {
            if after.rows.get(name) != Some(row) {
                wrong.push(format!("{name} was {row:?} and is {:?}", after.rows.get(name)));
            }
        }
        if done && verb != Drop && after.rows.get(subject).is_some_and(|row| row.1 != "ready") {
            wrong.push(format!("{subject} is {:?}", after.rows.get(subject)));
        }
        if done && verb == Drop && after.rows.contains_key("c") {
            wrong.push("c is listed".to_owned());
        }
        for (id, names) in &before.snapshots {
            let now = after.snapshots.get(id);
            if now != Some(names) && !(verb == Gc && names == "[]") {
                wrong.push(format!("snapshot {id} with the names {names} has {now:?}"));
            }
        }
        if done && verb == Snapshot && after.snapshots.len() <= before.snapshots.len() {
            wrong.push("there is no new snapshot".to_owned());
        }
        wrong
    }
}

impl Scene for World {
    fn title(&self) -> String {
        format!("{:?}", self.verb)
    }

    fn words(&self) -> &'static str {
        self.verb.words()
    }

    fn directory(&self) -> PathBuf {
        self.app()
    }

    fn renew(&mut self) {
        let expected = self.expected.take();
        *self = Self::with(self.verb, self.many);
        self.expected = expected;
    }

    fn prepare(&mut self, number: usize) {
        self.bring_about(number);
        self.before = Some(self.look_at_trees());
    }

    fn learn(&mut self) {
        let tree = self.tree(self.verb.subject());
        self.expected = tree.is_dir().then(|| self.state(&tree));
    }

    fn judge(&mut self, fault: Fault<'_>, run: &Run) -> Vec<String> {
        let before = self.before.take().expect("it was prepared");
        let (wrong, after) = self.judged(fault, run, &before);
        self.snapshots = after.snapshots;
        wrong
    }
}

impl std::ops::Drop for World {
    fn drop(&mut self) {
        remove_tree(self.scratch.path());
    }
}

/// Sets the same times at each run, so that one world can be compared with the next.
fn rewrite_many(tree: &Path, count: usize, word: &str) {
    many_files(&tree.join("many"), count, 2000, word);
    for number in 0..count {
        set_mtime(&tree.join(format!("many/d{}/f{number}", number / 100)), 1000 + number as u64);
    }
}

/// The folder that an update replaces whole.
const DEPENDENCIES: &str = "node_modules";

/// What is in that folder.
fn dependencies(of: &State) -> State {
    let inside = of.iter().filter(|(path, _)| path.starts_with(DEPENDENCIES));
    inside.map(|(path, entry)| (path.clone(), entry.clone())).collect()
}

/// The differences between two states, except the times of directories: these change if something
/// in them is made again.
fn lost(wanted: &State, got: &State) -> String {
    let without_times = |state: &State| -> State {
        state.iter().map(|(path, entry)| (path.clone(), entry.without_folder_times())).collect()
    };
    difference(&without_times(wanted), &without_times(got))
}

/// Whether a document names an entry that arrived incomplete, or what could not be done, by a path
/// that helps the reader.
fn names_a_finding(run: &Run) -> bool {
    let json = run.json();
    let told = |report: &serde_json::Value| {
        report["skipped"].as_array().is_some_and(|skipped| !skipped.is_empty())
    };
    let names_a_path =
        |problem: &serde_json::Value| problem.as_str().is_some_and(|problem| problem.contains('/'));
    told(&json)
        || json["worktrees"].as_array().is_some_and(|trees| trees.iter().any(told))
        || json["problems"].as_array().is_some_and(|problems| problems.iter().any(names_a_path))
}
