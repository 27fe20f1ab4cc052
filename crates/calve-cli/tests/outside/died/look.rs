//! Checks the state of a filesystem that is back after its death.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;

use serde_json::Value;

use super::{Kept, Tried, World, differences, tree_of};
use crate::{Run, calve, names};

impl World {
    fn must(&mut self, words: &str) -> Run {
        let run = calve(&self.app(), words);
        if run.code != Some(0) {
            self.fail(format!("{words}: {run:?}"));
        }
        run
    }

    pub(super) fn check(&mut self, reflinks: bool) {
        // calve knows nothing about processes of another boot. It sweeps their stages when they are
        // a minute old.
        self.begun_before = self.stages();
        self.check_store();
        self.check_snapshots();
        self.check_worktrees(reflinks);
        self.check_that_work_goes_on();
    }

    /// calve recognises torn content, and nothing is lost.
    fn check_store(&mut self) {
        let app = self.app();
        let run = calve(&app, "store verify --json");
        if !matches!(run.code, Some(0 | 3)) {
            return self.fail(format!("verify: {run:?}"));
        }
        let json = run.json();
        self.tally.unsealed_mirrors += json["unsealed_mirrors"].as_u64().unwrap();
        let damage = json["damage"].as_array().unwrap().clone();
        for damage in &damage {
            if damage["lost"] == Value::Bool(true) {
                self.fail(format!("lost: {damage}"));
            }
            match damage["kind"].as_str().unwrap() {
                "mirror" => {
                    self.tally.torn_mirrors += 1;
                    let meta = fs::metadata(damage["path"].as_str().unwrap()).unwrap();
                    if (meta.mtime(), meta.mtime_nsec()) == seal(damage["blob"].as_str().unwrap()) {
                        self.fail(format!("sealed and torn: {damage}"));
                    }
                }
                "index" => self.tally.torn_indexes += 1,
                _ => self.fail(format!("damaged: {damage}")),
            }
        }
        if !damage.is_empty() {
            calve(&app, "store verify --repair");
            self.must("store verify");
        }
    }

    /// All that were reported are there, under the names that they were given.
    fn check_snapshots(&mut self) {
        let json = self.must("log --json").json();
        let log = json["snapshots"].as_array().unwrap().clone();
        let ids: BTreeSet<&str> =
            log.iter().map(|entry| entry["snapshot"].as_str().unwrap()).collect();
        let mut gone = Vec::new();
        for (id, kept) in &self.snapshots {
            if !ids.contains(id.as_str()) && !kept.may_be_forgotten {
                gone.push(id.clone());
            }
        }
        for id in gone {
            self.fail(format!("snapshot {id} is gone"));
        }
        self.snapshots.retain(|id, _| ids.contains(id.as_str()));
        for kept in self.snapshots.values_mut() {
            kept.may_be_forgotten = false;
        }
        let json = self.must("name --json").json();
        let mut now = BTreeMap::new();
        for entry in json["names"].as_array().unwrap() {
            let text = |field: &str| entry[field].as_str().unwrap().to_owned();
            now.insert(text("name"), text("snapshot"));
        }
        for (name, id) in self.names.clone() {
            if !self.doubtful_names.contains(&name) && now.get(&name) != Some(&id) {
                self.fail(format!("{name} is {:?}, not {id}", now.get(&name)));
            }
        }
        self.names = now;
        self.doubtful_names.clear();
        // Make trees of some of them: served content must be whole.
        for _ in 0..2 {
            let Some(id) = self.known_snapshot() else { return };
            self.must(&format!("start again --from {id}"));
            let root = self.folder().join("again");
            let tree = tree_of(&root).unwrap_or_default();
            if tree != self.snapshots[&id].tree {
                let differ = differences(&tree, &self.snapshots[&id].tree);
                self.fail(format!("a tree of {id} is another one: {differ:?}"));
            }
            self.must("drop again");
        }
    }

    /// Each worktree is whole or gone, and reports its state correctly.
    fn check_worktrees(&mut self, reflinks: bool) {
        let app = self.app();
        let json = self.must("list --json").json();
        let mut listed = BTreeMap::new();
        for entry in json["worktrees"].as_array().unwrap() {
            let text = |field: &str| entry[field].as_str().unwrap().to_owned();
            listed.insert(text("name"), (text("state"), text("snapshot")));
        }
        for (name, tried) in std::mem::take(&mut self.worktrees) {
            let root = self.folder().join(&name);
            let tree = tree_of(&root);
            let is_listed = listed.contains_key(&name);
            if tried.fresh {
                let whole = self.snapshots.get(&tried.snapshot).map(|kept| &kept.tree)
                    == tree.as_ref().ok();
                match (is_listed, tree.is_ok(), whole) {
                    (true, true, true) => self.tally.worktrees_whole += 1,
                    (_, false, _) => self.tally.worktrees_gone += 1,
                    (true, true, false) => self.tally.worktrees_torn += 1,
                    (false, true, _) => self.tally.worktrees_unknown += 1,
                }
                if tried.settled && !whole {
                    self.fail(format!("{name} was there before"));
                }
                if reflinks && tree.is_ok() && !whole {
                    self.fail(format!("{name} is torn"));
                }
            }
            if tree.is_ok() && !is_listed {
                if tried.settled {
                    self.fail(format!("{name} is not known any more"));
                }
                // A folder like any other.
                fs::remove_dir_all(&root).unwrap();
            }
        }
        for (name, (state, id)) in listed {
            let root = self.folder().join(&name);
            if state == "starting" && !root.try_exists().unwrap() {
                continue;
            }
            // Nobody was told that it is there, and its files are not all on the disk.
            let run = calve(&app, &format!("status --json {name}"));
            if state == "starting" && run.code == Some(1) && run.json()["error"]["kind"] == "busy" {
                continue;
            }
            if state == "missing" {
                self.must(&format!("drop --force {name}"));
                if root.is_dir() {
                    fs::remove_dir_all(&root).unwrap();
                }
                self.must(&format!("start {name} --from {id}"));
            }
            let status = calve(&app, &format!("status --json {name}"));
            let Some(wanted) = self.snapshots.get(&id).map(|kept| kept.tree.clone()) else {
                // A capture whose end was never reported, or a worktree that was forgotten and came
                // back.
                self.must(&format!("drop --force {name}"));
                continue;
            };
            match status.code {
                Some(0) => {
                    let differ = differences(&tree_of(&root).unwrap(), &wanted);
                    if !differ.is_empty() {
                        self.fail(format!("{name} says that it is clean: {differ:?}"));
                    }
                }
                Some(3) => {}
                _ => self.fail(format!("{status:?}")),
            }
            self.must(&format!("restore {name}"));
            let differ = differences(&tree_of(&root).unwrap(), &wanted);
            if !differ.is_empty() {
                self.fail(format!("{name}, {state}, was restored and differs: {differ:?}"));
            }
            self.must(&format!("status {name}"));
            let tried = Tried { snapshot: id, settled: true, fresh: false };
            self.worktrees.insert(name, tried);
        }
        while self.worktrees.len() > 6 {
            let (name, _) = self.worktrees.pop_first().unwrap();
            self.must(&format!("drop --force {name}"));
        }
    }

    fn check_that_work_goes_on(&mut self) {
        let app = self.app();
        let tree = tree_of(&app).unwrap();
        let run = self.must("snapshot --json -m after");
        let id = run.json()["snapshot"].as_str().unwrap().to_owned();
        self.snapshots.insert(id, Kept { tree, may_be_forgotten: false });
        if let Some(name) = self.worktrees.keys().next().cloned() {
            let tree = tree_of(&self.folder().join(&name)).unwrap();
            let run = self.must(&format!("snapshot --json --of {name} -m after"));
            let id = run.json()["snapshot"].as_str().unwrap().to_owned();
            self.worktrees.get_mut(&name).unwrap().snapshot.clone_from(&id);
            self.snapshots.insert(id, Kept { tree, may_be_forgotten: false });
        }
        self.must("store pack");
        self.must("store gc --grace 0s");
        self.must("store verify");
        let stages = self.stages();
        let left: Vec<_> = stages.difference(&self.begun_before).collect();
        if !left.is_empty() {
            let left = format!("left behind: {left:?}");
            self.fail(left);
        }
    }

    /// Stages of work that was begun and not finished.
    fn stages(&self) -> BTreeSet<String> {
        let (app, folder) = (self.app(), self.folder());
        let mut stages: BTreeSet<String> = names(&app.join(".calve/stage")).into_iter().collect();
        for folder in [app.join(".calve/templates"), folder, app] {
            if folder.is_dir() {
                let names = names(&folder).into_iter();
                stages.extend(names.filter(|name| name.starts_with(".calve-")));
            }
        }
        stages
    }
}

/// The time that vouches for a mirror, as the store's format says.
fn seal(blob: &str) -> (i64, i64) {
    let number = |at: usize| {
        let digits = &blob[at * 2..at * 2 + 8];
        u32::from_str_radix(digits, 16).unwrap().swap_bytes()
    };
    (i64::from(0x2000_0000 + (number(0) & 0x1fff_ffff)), i64::from(number(4) % 1_000_000_000))
}
