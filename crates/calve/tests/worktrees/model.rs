//! Property: after any operations on worktrees, in any order, each worktree matches a naive model.
//! The model is a map from paths to contents, and one such map for each snapshot.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{lchown, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use calve::{
    DropOptions, ErrorKind, GcOptions, PackOptions, SnapshotId, SnapshotOptions, StartOptions,
    SwitchOptions, Worktree,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::common::odd::set_xattr;
use crate::common::snapshot::{Entry, Kind, Snapshot, assert_same};
use crate::common::{bytes, is_root};
use crate::stores::{Desk, assert_sound, content, options, set_mode, status, tree};

#[derive(Debug, Clone)]
enum Step {
    Edit { of: usize, how: How, path: usize, other: usize, seed: u64 },
    Capture { of: usize },
    Switch { of: usize, to: usize, force: bool },
    Undo { of: usize },
    Reset { of: usize },
    Drop { of: usize, force: bool },
    Start { from: usize },
    Pack { all: bool },
    Gc,
    Warm { of: usize },
}

#[derive(Debug, Clone, Copy)]
enum How {
    Write,
    Append,
    Truncate,
    Folder,
    Remove,
    Rename,
    Chmod,
    Symlink,
    HardLink,
    Swap,
    Attribute,
    Own,
}

/// Few names, so that steps meet.
const PATHS: &[&str] = &[
    "a", "b", "c", "d", "d/a", "d/b", "d/e", "d/e/a", "d/e/b", "f", "f/a", "f/b", "f/g/a", "f/g/b",
];

fn step() -> impl Strategy<Value = Step> {
    let how = prop_oneof![
        5 => Just(How::Write),
        1 => Just(How::Append),
        1 => Just(How::Truncate),
        1 => Just(How::Folder),
        3 => Just(How::Remove),
        2 => Just(How::Rename),
        2 => Just(How::Chmod),
        1 => Just(How::Symlink),
        2 => Just(How::HardLink),
        2 => Just(How::Swap),
        2 => Just(How::Attribute),
        1 => Just(How::Own),
    ];
    let number = any::<usize>;
    let flag = any::<bool>;
    prop_oneof![
        24 => (number(), how, 0..PATHS.len(), 0..PATHS.len(), 0..6_u64)
            .prop_map(|(of, how, path, other, seed)| Step::Edit { of, how, path, other, seed }),
        5 => number().prop_map(|of| Step::Capture { of }),
        6 => (number(), number(), flag()).prop_map(|(of, to, force)| Step::Switch { of, to, force }),
        5 => number().prop_map(|of| Step::Undo { of }),
        3 => number().prop_map(|of| Step::Reset { of }),
        1 => (number(), flag()).prop_map(|(of, force)| Step::Drop { of, force }),
        2 => number().prop_map(|from| Step::Start { from }),
        1 => flag().prop_map(|all| Step::Pack { all }),
        1 => Just(Step::Gc),
        1 => number().prop_map(|of| Step::Warm { of }),
    ]
}

/// Changes a tree by hand. Skips a change that is not possible.
fn edit(root: &Path, how: How, path: &str, other: &str, seed: u64) -> std::io::Result<()> {
    let (at, to) = (root.join(path), root.join(other));
    let text = bytes(seed, [0, 10, 10, 5000, 5000, 70_000][usize::try_from(seed).unwrap()]);
    let parents = |path: &Path| fs::create_dir_all(path.parent().unwrap());
    let is_dir = fs::symlink_metadata(&at).is_ok_and(|meta| meta.is_dir());
    let remove = |path: &Path| {
        if is_dir { fs::remove_dir_all(path) } else { fs::remove_file(path) }
    };
    match how {
        How::Write => {
            parents(&at)?;
            // Never through a symbolic link.
            if fs::symlink_metadata(&at).is_ok_and(|meta| meta.is_symlink()) {
                fs::remove_file(&at)?;
            }
            fs::write(&at, text)
        }
        How::Append | How::Truncate if !fs::symlink_metadata(&at)?.is_file() => Ok(()),
        How::Append => fs::OpenOptions::new().append(true).open(&at)?.write_all(&text),
        How::Truncate => fs::OpenOptions::new().write(true).open(&at)?.set_len(seed * 3),
        How::Folder => fs::create_dir_all(&at),
        How::Remove => remove(&at),
        How::Rename => {
            parents(&to)?;
            fs::rename(&at, &to)
        }
        How::Chmod => {
            if !fs::symlink_metadata(&at)?.is_symlink() {
                let modes = [0o755, 0o700, 0o751, 0o775, 0o711, 0o555];
                set_mode(&at, modes[usize::try_from(seed).unwrap()]);
            }
            Ok(())
        }
        // The first seed removes the attribute.
        How::Attribute if seed == 0 => Ok(rustix::fs::lremovexattr(&at, "user.calve")?),
        How::Attribute => Ok(set_xattr(&at, "user.calve", &[u8::try_from(seed).unwrap()])?),
        // A plain user's go to its own group, which is no change.
        How::Own => {
            let of = |seed: u64| is_root().then(|| u32::try_from(seed % 3).unwrap());
            lchown(&at, of(seed), of(seed / 2))
        }
        How::Symlink => {
            remove(&at).or_else(|_| parents(&at))?;
            symlink(other, &at)
        }
        // Only files: calve stores a symbolic link with two names as two links.
        How::HardLink if !fs::symlink_metadata(&at)?.is_file() => Ok(()),
        How::HardLink => {
            parents(&to)?;
            fs::hard_link(&at, &to)
        }
        How::Swap => {
            remove(&at)?;
            if is_dir {
                fs::write(&at, text)
            } else {
                fs::create_dir(&at)?;
                fs::write(at.join("a"), text)
            }
        }
    }
}

/// A snapshot, as it was when it was captured.
struct Kept {
    id: SnapshotId,
    content: Snapshot,
    whole: Snapshot,
}

struct Known {
    worktree: Worktree,
    base: usize,
    now: Snapshot,
    /// The state that an undo must bring back: the base and the content; and whether nothing has
    /// changed since, and no snapshot was taken.
    undo: Option<(usize, Snapshot, bool)>,
}

struct Model {
    desk: Desk,
    kept: Vec<Kept>,
    trees: Vec<Known>,
    started: usize,
}

/// All but where its holes are, which a pack may give it more of.
fn whole(root: &Path) -> Snapshot {
    let mut found = tree(root);
    found.values_mut().for_each(|entry| entry.data.clear());
    found
}

fn is_dir(entry: Option<&Entry>) -> bool {
    entry.is_some_and(|entry| entry.kind == Kind::Directory)
}

fn paths<'a>(of: &[&'a Snapshot]) -> BTreeSet<&'a Path> {
    let all = of.iter().flat_map(|tree| tree.keys()).map(PathBuf::as_path);
    all.filter(|path| !path.as_os_str().is_empty()).collect()
}

/// The difference, as `status` tells it.
fn changes(base: &Snapshot, now: &Snapshot) -> Vec<String> {
    let shown = |tree: &Snapshot, path: &Path| {
        !is_dir(tree.get(path)) || !tree.keys().any(|other| other.parent() == Some(path))
    };
    let letter = |path: &Path| match (base.get(path), now.get(path)) {
        (None, Some(_)) => shown(now, path).then_some('A'),
        (Some(_), None) => shown(base, path).then_some('D'),
        (Some(old), Some(new)) if old.kind != new.kind => Some('T'),
        (Some(old), Some(new))
            if (old.content, old.size, &old.target) != (new.content, new.size, &new.target) =>
        {
            Some('M')
        }
        (Some(old), Some(new)) => {
            let metadata = |entry: &Entry| (entry.mode, entry.owner, entry.xattrs.clone());
            (metadata(old) != metadata(new)).then_some('X')
        }
        (None, None) => None,
    };
    let all = paths(&[base, now]);
    all.into_iter()
        .filter_map(|path| Some(format!("{} {}", letter(path)?, path.display())))
        .collect()
}

impl Model {
    fn new() -> Self {
        let desk = Desk::new(|root| {
            fs::create_dir(root).unwrap();
            for (number, path) in ["a", "d/a", "d/e/a", "f/g/a"].iter().enumerate() {
                edit(root, How::Write, path, "", number as u64).unwrap();
            }
            edit(root, How::HardLink, "d/e/a", "f/b", 0).unwrap();
            edit(root, How::Symlink, "b", "a", 0).unwrap();
        });
        let id = desk.snapshot();
        let kept = vec![Kept { id, content: content(&desk.project), whole: whole(&desk.project) }];
        let mut model = Self { desk, kept, trees: Vec::new(), started: 0 };
        model.start(0);
        model
    }

    fn start(&mut self, from: usize) {
        if self.trees.len() >= 3 {
            return;
        }
        self.started += 1;
        let kept = &self.kept[from];
        let worktree = self.desk.from(&format!("w{}", self.started), kept.id);
        assert_same(&kept.whole, &whole(worktree.path()), "started");
        let now = kept.content.clone();
        self.trees.push(Known { worktree, base: from, now, undo: None });
    }

    fn capture(&mut self, of: usize) {
        let known = &mut self.trees[of];
        let report = known.worktree.capture(&SnapshotOptions::new(), &options()).unwrap();
        assert_eq!(report.skipped, []);
        let whole = whole(known.worktree.path());
        match self.kept.iter().position(|kept| kept.id == report.id) {
            Some(base) => {
                assert!(!report.new);
                known.base = base;
            }
            None => {
                self.kept.push(Kept { id: report.id, content: known.now.clone(), whole });
                known.base = self.kept.len() - 1;
            }
        }
        if let Some((.., fresh)) = &mut known.undo {
            *fresh = false;
        }
    }

    fn switch(&mut self, of: usize, to: usize, force: bool) {
        let known = &mut self.trees[of];
        let (base, target) = (&self.kept[known.base].content, &self.kept[to].content);
        let before = known.now.clone();
        let result =
            known.worktree.switch(self.kept[to].id, &SwitchOptions::new().force(force), &options());
        let after = content(known.worktree.path());
        let all = paths(&[base, target, &before, &after]);
        let by_hand = |path: &Path| before.get(path) != base.get(path);
        let report = match result {
            Ok(report) => report,
            Err(error) => {
                assert!(!force, "{error}");
                assert_eq!(error.kind(), ErrorKind::Changed, "{error}");
                assert_same(&before, &after, "after a refusal");
                assert!(!error.details().is_empty());
                for path in error.details() {
                    assert!(by_hand(path), "{path:?} was not changed by hand");
                }
                return;
            }
        };
        for path in &all {
            let (old, new) = (base.get(*path), target.get(*path));
            let (then, now) = (before.get(*path), after.get(*path));
            // A folder that the target lacks stays if somebody put entries into it by hand.
            let stays = is_dir(now)
                && new.is_none()
                && after
                    .keys()
                    .any(|other| other != *path && other.starts_with(path) && by_hand(other));
            if old != new {
                // If both are folders, the one of the snapshot.
                let kept = is_dir(now) && is_dir(then) && stays;
                assert!(now == new || kept, "{path:?} is not the snapshot's: {now:?}");
            } else if !force {
                assert!(now == then || stays, "{path:?} was changed by hand, and is not so now");
            } else {
                assert!(now == new || now == then || stays, "{path:?} is neither: {now:?}");
            }
        }
        if report.keeps_earlier {
            // The undo of the one before stays, and takes back both.
            assert!(force && known.undo.is_some());
            for path in all.iter().filter(|path| by_hand(path)) {
                assert!(before.get(*path) == after.get(*path), "{path:?} cannot be brought back");
            }
        } else if force {
            // To where it is already: the undo of the one before stays.
            if self.kept[known.base].id != self.kept[to].id || known.undo.is_none() {
                known.undo = Some((known.base, before, true));
            }
        } else if let Some((.., fresh)) = &mut known.undo {
            *fresh = false;
        }
        known.base = to;
        known.now = after;
    }

    fn reset(&mut self, of: usize) {
        let known = &mut self.trees[of];
        known.worktree.reset(&options()).unwrap();
        let base = &self.kept[known.base].content;
        assert_same(base, &content(known.worktree.path()), "after a reset");
        let before = std::mem::replace(&mut known.now, base.clone());
        if before != *base || known.undo.is_none() {
            known.undo = Some((known.base, before, true));
        }
    }

    fn undo(&mut self, of: usize) {
        let known = &mut self.trees[of];
        let result = known.worktree.undo(&options());
        let after = content(known.worktree.path());
        let Some((from, before, fresh)) = &known.undo else {
            assert_eq!(result.unwrap_err().kind(), ErrorKind::SnapshotNotFound);
            assert_same(&known.now, &after, "after nothing");
            return;
        };
        match result {
            Err(error) => {
                assert!(!fresh, "{error:?}");
                assert_eq!(error.kind(), ErrorKind::Changed, "{error:?}");
                assert_same(&known.now, &after, "after a refusal");
                return;
            }
            Ok(_) if *fresh => assert_same(before, &after, "after an undo"),
            Ok(_) => {
                // Later changes by hand are still there, and the undo replaced none of them.
                let (base, then) = (&self.kept[known.base].content, &self.kept[*from].content);
                for (path, entry) in &known.now {
                    let by_hand = base.get(path) != Some(entry) && entry.kind != Kind::Directory;
                    let kept = [after.get(path), then.get(path)].contains(&Some(entry));
                    assert!(!by_hand || kept, "{path:?} was changed since, and is lost");
                }
            }
        }
        known.now = after;
        known.undo = None;
        // What a snapshot that was taken since has of its own stays in the base.
        let id = self.desk.store.worktree(known.worktree.name()).unwrap().snapshot().unwrap();
        known.base = match self.kept.iter().position(|kept| kept.id == id) {
            Some(base) => base,
            None => {
                let report =
                    self.desk.store.start(&["undone"], &StartOptions::new().from(id), &options());
                let report = report.unwrap();
                let root = &report.worktrees[0].report.path;
                self.kept.push(Kept { id, content: content(root), whole: whole(root) });
                let undone = self.desk.store.worktree("undone").unwrap();
                undone.drop(&DropOptions::new(), &options()).unwrap().delete().unwrap();
                self.kept.len() - 1
            }
        };
    }

    fn drop_one(&mut self, of: usize, force: bool) {
        let known = &self.trees[of];
        let changes = changes(&self.kept[known.base].content, &known.now);
        let result = known.worktree.clone().drop(&DropOptions::new().force(force), &options());
        match result {
            Ok(dropped) => {
                assert!(force || changes.is_empty());
                dropped.delete().unwrap();
                self.trees.remove(of);
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Changed);
                assert!(!force && !changes.is_empty());
            }
        }
        if self.trees.is_empty() {
            self.start(0);
        }
    }

    fn step(&mut self, step: &Step) {
        let count = self.trees.len();
        let of = |of: usize| of % count;
        let store = self.desk.store.clone();
        match *step {
            Step::Edit { of: which, how, path, other, seed } => {
                let known = &mut self.trees[of(which)];
                let _ = edit(known.worktree.path(), how, PATHS[path], PATHS[other], seed);
                let now = content(known.worktree.path());
                if now != known.now
                    && let Some((.., fresh)) = &mut known.undo
                {
                    *fresh = false;
                }
                known.now = now;
            }
            Step::Capture { of: which } => self.capture(of(which)),
            Step::Switch { of: which, to, force } => {
                self.switch(of(which), to % self.kept.len(), force);
            }
            Step::Undo { of: which } => self.undo(of(which)),
            Step::Reset { of: which } => self.reset(of(which)),
            Step::Drop { of: which, force } => self.drop_one(of(which), force),
            Step::Start { from } => self.start(from % self.kept.len()),
            Step::Pack { all } => {
                let report = store.pack(&PackOptions::new().all(all), &options()).unwrap();
                assert_eq!(report.damaged, []);
            }
            Step::Gc => {
                let report = store.gc(&GcOptions::new().grace(Duration::ZERO), &options()).unwrap();
                assert!(report.snapshots.is_empty() && !report.busy);
            }
            Step::Warm { of: which } => {
                let id = self.kept[which % self.kept.len()].id;
                store.warm(&[id], &options()).unwrap();
            }
        }
        for known in &self.trees {
            assert_same(&known.now, &content(known.worktree.path()), known.worktree.name());
            let expected = changes(&self.kept[known.base].content, &known.now);
            assert_eq!(status(&known.worktree), expected, "{}", known.worktree.name());
        }
    }

    /// Checks that no snapshot has changed.
    fn end(mut self) {
        assert_sound(&self.desk.store);
        self.trees.clear();
        for (number, kept) in self.kept.iter().enumerate() {
            let name = format!("end{number}");
            let from = StartOptions::new().from(kept.id);
            let report = self.desk.store.start(&[&name], &from, &options()).unwrap();
            assert_same(&kept.whole, &whole(&report.worktrees[0].report.path), &name);
        }
        assert_same(&self.kept[0].content, &content(&self.desk.project), "the project");
        assert_sound(&self.desk.store);
    }
}

#[test]
fn a_worktree_is_what_a_naive_model_of_all_that_was_done_to_it_says() {
    // PROPTEST_CASES asks for more.
    let mut config = Config::default();
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = 12;
    }
    config.failure_persistence = None;
    config.max_shrink_iters = 60;
    let steps = prop::collection::vec(step(), 10..50);
    TestRunner::new(config)
        .run(&steps, |steps| {
            let mut model = Model::new();
            for step in &steps {
                model.step(step);
            }
            model.end();
            Ok(())
        })
        .unwrap();
}
