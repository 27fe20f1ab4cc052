//! Kills the filesystem under the command, like a power cut. When it is back, everything that was
//! reported as durable is there. calve serves nothing torn, nothing torn counts as whole, and every
//! command works again.
//!
//! The filesystem is in an image, and that image is on a filesystem in another image, so that it
//! can die in three ways ([`Death`]). A life is a series of commands, until the filesystem dies
//! under one of them. Then the test mounts the filesystem again, checks it, and begins the next
//! life. `CALVE_DEATHS` sets the number of lives.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

mod look;

use crate::disk::{Death, Disk, is_where_the_machine_starts_again};
use crate::{Random, Run, calve, filesystem, is_root, not_run, program};

const SEED: u64 = 0x0ca1_7e5e_ed00_0002;

/// Files of the project, and their sizes: most are small.
const FILES: u64 = 120;
const BIG_BYTES: u64 = 300_000;

/// How long a life is at most, in milliseconds. Some ten to thirty commands.
const LIFE: u64 = 1500;

/// The compared parts of a tree: mode, time and content of every entry except calve's own.
pub(super) type Tree = BTreeMap<PathBuf, (u32, (i64, i64), Vec<u8>)>;

pub(super) fn tree_of(root: &Path) -> io::Result<Tree> {
    let mut tree = Tree::new();
    let mut left = vec![PathBuf::new()];
    while let Some(below) = left.pop() {
        for entry in fs::read_dir(root.join(&below))? {
            let path = below.join(entry?.file_name());
            // The marker, and the stage of a switch that was cut short, which the next one sweeps.
            if path.as_os_str().as_encoded_bytes().starts_with(b".calve") {
                continue;
            }
            let meta = fs::symlink_metadata(root.join(&path))?;
            let content = if meta.is_dir() {
                left.push(path.clone());
                Vec::new()
            } else {
                fs::read(root.join(&path))?
            };
            tree.insert(path, (meta.mode(), (meta.mtime(), meta.mtime_nsec()), content));
        }
    }
    Ok(tree)
}

/// The paths at which `status` would find a difference, and how both start: it compares no times.
fn differences(a: &Tree, b: &Tree) -> Vec<String> {
    let of =
        |tree: &Tree, path: &Path| tree.get(path).map(|(mode, _, bytes)| (*mode, bytes.clone()));
    let paths: BTreeSet<&PathBuf> = a.keys().chain(b.keys()).collect();
    let brief = |tree: &Tree, path: &Path| match of(tree, path) {
        Some((mode, bytes)) => {
            let start = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
            format!("{mode:o}, {} bytes {start:?}", bytes.len())
        }
        None => "absent".to_owned(),
    };
    paths
        .into_iter()
        .filter(|path| of(a, path) != of(b, path))
        .map(|path| format!("{}: {} and {}", path.display(), brief(a, path), brief(b, path)))
        .collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Verb {
    Snapshot,
    Start,
    Capture,
    Name,
    Switch,
    Reset,
    Drop,
    Pack,
    Gc,
    /// It died under the test's own changes to the files.
    Edit,
}

/// In the mix in which they are done.
const VERBS: [Verb; 13] = [
    Verb::Snapshot,
    Verb::Snapshot,
    Verb::Snapshot,
    Verb::Start,
    Verb::Start,
    Verb::Capture,
    Verb::Capture,
    Verb::Name,
    Verb::Switch,
    Verb::Reset,
    Verb::Drop,
    Verb::Pack,
    Verb::Gc,
];

/// A snapshot that was reported.
struct Kept {
    tree: Tree,
    /// A `gc --expire` was begun since.
    may_be_forgotten: bool,
}

/// A worktree that was reported.
struct Tried {
    snapshot: String,
    /// The worktree existed when the filesystem came back the last time, and nobody has touched it
    /// since.
    settled: bool,
    /// Nobody has touched it since it was started.
    fresh: bool,
}

#[derive(Debug, Default)]
struct Tally {
    hits: BTreeMap<Verb, usize>,
    commands: usize,
    snapshots: usize,
    torn_mirrors: usize,
    torn_indexes: usize,
    unsealed_mirrors: u64,
    worktrees_whole: usize,
    worktrees_gone: usize,
    worktrees_torn: usize,
    worktrees_unknown: usize,
    signals: usize,
}

struct World {
    disk: Disk,
    random: Random,
    snapshots: BTreeMap<String, Kept>,
    names: BTreeMap<String, String>,
    /// Names that may mean either, since the command that said so was cut short.
    doubtful_names: BTreeSet<String>,
    worktrees: BTreeMap<String, Tried>,
    count: u64,
    tally: Tally,
    failures: Vec<String>,
    context: String,
    /// Stages that it came back with.
    begun_before: BTreeSet<String>,
}

impl World {
    fn new(disk: Disk) -> Self {
        let world = Self {
            disk,
            random: Random(SEED),
            snapshots: BTreeMap::new(),
            names: BTreeMap::new(),
            doubtful_names: BTreeSet::new(),
            worktrees: BTreeMap::new(),
            count: 0,
            tally: Tally::default(),
            failures: Vec::new(),
            context: String::new(),
            begun_before: BTreeSet::new(),
        };
        let app = world.app();
        fs::create_dir(&app).unwrap();
        for number in 0..FILES {
            let path = world.file(&app, number);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content(number, 0)).unwrap();
        }
        let run = calve(&app, "init");
        assert_eq!(run.code, Some(0), "{run:?}");
        world
    }

    fn app(&self) -> PathBuf {
        self.disk.path().join("app")
    }

    fn folder(&self) -> PathBuf {
        self.disk.path().join("app.worktrees")
    }

    fn file(&self, root: &Path, number: u64) -> PathBuf {
        root.join(format!("d{}/f{number}", number % 7))
    }

    fn fail(&mut self, what: impl Into<String>) {
        let what = format!("{}: {}", self.context, what.into());
        println!("FAILED {what}");
        self.failures.push(what);
    }

    /// Some of these, by chance.
    fn one_of<T: Clone>(&mut self, all: &[T]) -> Option<T> {
        let at = self.random.below(all.len().max(1) as u64);
        all.get(usize::try_from(at).unwrap()).cloned()
    }

    fn known_snapshot(&mut self) -> Option<String> {
        let all: Vec<String> = self
            .snapshots
            .iter()
            .filter(|(_, kept)| !kept.may_be_forgotten)
            .map(|(id, _)| id.clone())
            .collect();
        self.one_of(&all)
    }

    /// Changes a few files: rewritten, written into, made, removed.
    fn edit(&mut self, root: &Path) -> io::Result<()> {
        for _ in 0..1 + self.random.below(12) {
            self.count += 1;
            let number = self.random.below(FILES + 20);
            let path = self.file(root, number);
            match self.random.below(8) {
                0 => match fs::remove_file(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                },
                1 => {
                    if let Ok(file) = fs::OpenOptions::new().write(true).open(&path) {
                        file.write_all_at(&self.count.to_le_bytes(), self.random.below(500))?;
                    }
                }
                _ => {
                    fs::create_dir_all(path.parent().unwrap())?;
                    fs::write(&path, content(number, self.count))?;
                }
            }
        }
        Ok(())
    }

    /// Runs one command, and notes what must hold if it reports success. `Ok(None)`: there was
    /// nothing for it to work on.
    #[expect(clippy::too_many_lines, reason = "one arm for each verb")]
    fn act(&mut self, verb: Verb) -> io::Result<Option<Run>> {
        let app = self.app();
        let worktrees: Vec<String> = self.worktrees.keys().cloned().collect();
        let worktree = self.one_of(&worktrees);
        let done = |run: &Run| matches!(run.code, Some(0));
        let run = match verb {
            Verb::Snapshot => {
                if self.random.below(4) > 0 {
                    self.edit(&app)?;
                }
                let tree = tree_of(&app)?;
                self.count += 1;
                let name = format!("n{}", self.random.below(6));
                let named = self.random.below(3) == 0;
                let mut words = format!("snapshot --json -m number-{}", self.count);
                if named {
                    self.doubtful_names.insert(name.clone());
                    words.push_str(&format!(" {name}"));
                }
                let run = calve(&app, &words);
                if done(&run) {
                    let id = run.json()["snapshot"].as_str().unwrap().to_owned();
                    self.snapshots.insert(id.clone(), Kept { tree, may_be_forgotten: false });
                    self.tally.snapshots += 1;
                    if named {
                        self.doubtful_names.remove(&name);
                        self.names.insert(name, id);
                    }
                }
                run
            }
            Verb::Start => {
                self.count += 1;
                let name = format!("w{}", self.count);
                let Some(id) = self.known_snapshot() else { return Ok(None) };
                let run = calve(&app, &format!("start --json {name} --from {id}"));
                if done(&run) {
                    let tried = Tried { snapshot: id, settled: false, fresh: true };
                    self.worktrees.insert(name, tried);
                }
                run
            }
            Verb::Capture => {
                let Some(name) = worktree else { return Ok(None) };
                let root = self.folder().join(&name);
                self.touch(&name);
                self.edit(&root)?;
                let tree = tree_of(&root)?;
                let run = calve(&app, &format!("snapshot --json --of {name} -m captured"));
                if done(&run) {
                    let id = run.json()["snapshot"].as_str().unwrap().to_owned();
                    self.snapshots.insert(id.clone(), Kept { tree, may_be_forgotten: false });
                    self.tally.snapshots += 1;
                    self.worktrees.get_mut(&name).unwrap().snapshot = id;
                }
                run
            }
            Verb::Name => {
                let Some(id) = self.known_snapshot() else { return Ok(None) };
                let name = format!("n{}", self.random.below(6));
                self.doubtful_names.insert(name.clone());
                let run = calve(&app, &format!("name {id} {name}"));
                if done(&run) {
                    self.doubtful_names.remove(&name);
                    self.names.insert(name, id);
                }
                run
            }
            Verb::Switch => {
                let (Some(name), Some(id)) = (worktree, self.known_snapshot()) else {
                    return Ok(None);
                };
                self.touch(&name);
                if self.random.below(2) == 0 {
                    self.edit(&self.folder().join(&name))?;
                }
                let run = calve(&app, &format!("restore --json {id} {name}"));
                if done(&run) {
                    self.worktrees.get_mut(&name).unwrap().snapshot = id;
                }
                run
            }
            Verb::Reset => {
                let Some(name) = worktree else { return Ok(None) };
                self.touch(&name);
                self.edit(&self.folder().join(&name))?;
                calve(&app, &format!("restore --json {name}"))
            }
            Verb::Drop => {
                let Some(name) = worktree else { return Ok(None) };
                self.worktrees.remove(&name);
                calve(&app, &format!("drop --force --json {name}"))
            }
            Verb::Pack => {
                let all = if self.random.below(2) == 0 { " --all" } else { "" };
                calve(&app, &format!("store pack --json{all}"))
            }
            Verb::Gc => {
                let expire = self.random.below(4) == 0;
                if expire {
                    for kept in self.snapshots.values_mut() {
                        kept.may_be_forgotten = true;
                    }
                }
                let words = if expire { " --expire 1s" } else { "" };
                let run = calve(&app, &format!("store gc --json --grace 0s{words}"));
                if done(&run) {
                    let json = run.json();
                    let gone: BTreeSet<&str> = json["snapshots"]
                        .as_array()
                        .unwrap()
                        .iter()
                        .map(|id| id.as_str().unwrap())
                        .collect();
                    self.snapshots.retain(|id, _| !gone.contains(id.as_str()));
                    for kept in self.snapshots.values_mut() {
                        kept.may_be_forgotten = false;
                    }
                }
                run
            }
            Verb::Edit => return Ok(None),
        };
        Ok(Some(run))
    }

    fn touch(&mut self, name: &str) {
        let tried = self.worktrees.get_mut(name).unwrap();
        (tried.settled, tried.fresh) = (false, false);
    }

    /// Runs commands until the filesystem is dead. Returns the command under which it died.
    fn live(&mut self, death: Death, moment: Duration) -> Verb {
        let dying = AtomicBool::new(false);
        let place = self.disk.killer(death);
        std::thread::scope(|scope| {
            let dead = scope.spawn(|| {
                std::thread::sleep(moment);
                dying.store(true, Ordering::SeqCst);
                place()
            });
            let mut verb;
            loop {
                verb = self.one_of(&VERBS).unwrap();
                let result = self.act(verb);
                // A command that was begun before may still finish. It counts.
                let over = dying.load(Ordering::SeqCst);
                match result {
                    Ok(None) => {}
                    Ok(Some(run)) => {
                        self.tally.commands += 1;
                        if run.code.is_none() {
                            self.tally.signals += 1;
                        }
                        if run.stderr.contains("panicked") || (!over && run.code != Some(0)) {
                            self.fail(format!("{verb:?} in its life: {run:?}"));
                            // The test also checks the remains of a failed command.
                            break;
                        }
                        if over && run.code != Some(0) {
                            break;
                        }
                    }
                    Err(_) if over => {
                        verb = Verb::Edit;
                        break;
                    }
                    Err(error) => panic!("{verb:?}: {error}"),
                }
                if over {
                    // It is dead between two.
                    verb = Verb::Edit;
                    break;
                }
            }
            dead.join().unwrap().unwrap();
            verb
        })
    }
}

fn content(number: u64, version: u64) -> Vec<u8> {
    let line = format!("{number} in version {version}\n");
    let size = if number % 30 == 7 { BIG_BYTES } else { 200 + number * 50 };
    line.repeat(usize::try_from(size).unwrap() / line.len() + 1).into_bytes()
}

/// How often a filesystem dies by default.
const DEATHS: usize = 6;

fn die_and_look(test: &str, kind: &str, reflinks: bool, ways: &[Death]) {
    const NAME: &str = "the death of a filesystem";
    if !is_root() {
        return not_run(NAME, "mounting one needs root");
    }
    match is_where_the_machine_starts_again(test) {
        Ok(true) => {}
        Ok(false) => return,
        Err(why) => return not_run(NAME, &why),
    }
    let deaths = std::env::var("CALVE_DEATHS").map_or(DEATHS, |number| number.parse().unwrap());
    let disk = match Disk::that_can_be_cut(kind, 1024) {
        Ok(disk) => disk,
        Err(why) => return not_run(NAME, &why),
    };
    if let Err(why) = disk.die(ways[0]).and_then(|()| disk.come_back()) {
        return not_run(NAME, &why);
    }
    let mut world = World::new(disk);
    for number in 0..deaths {
        let death = ways[number % ways.len()];
        let moment = Duration::from_millis(world.random.below(LIFE));
        world.context = format!("{kind} {number} {death:?} after {moment:?}");
        let hit = world.live(death, moment);
        *world.tally.hits.entry(hit).or_default() += 1;
        world.disk.come_back().unwrap();
        world.context.push_str(&format!(" under {hit:?}"));
        world.check(reflinks);
    }
    println!("{kind}: {:#?}", world.tally);
    assert!(
        world.failures.is_empty(),
        "{} failures:\n{}",
        world.failures.len(),
        world.failures.join("\n")
    );
}

#[test]
fn what_was_durable_when_xfs_died_is_there_and_whole_when_it_is_back() {
    if ["xfs", ""].contains(&filesystem().as_str()) {
        const TEST: &str =
            "died::what_was_durable_when_xfs_died_is_there_and_whole_when_it_is_back";
        die_and_look(TEST, "xfs", true, &[Death::Lost, Death::Logged, Death::Cut]);
    }
}

#[test]
fn what_was_durable_when_the_disk_of_btrfs_died_is_there_and_whole_when_it_is_back() {
    if ["btrfs", ""].contains(&filesystem().as_str()) {
        const TEST: &str =
            "died::what_was_durable_when_the_disk_of_btrfs_died_is_there_and_whole_when_it_is_back";
        die_and_look(TEST, "btrfs", true, &[Death::Cut]);
    }
}

#[test]
fn what_was_durable_when_ext4_died_is_there_and_whole_when_it_is_back() {
    if ["ext4", ""].contains(&filesystem().as_str()) {
        const TEST: &str =
            "died::what_was_durable_when_ext4_died_is_there_and_whole_when_it_is_back";
        die_and_look(TEST, "ext4", false, &[Death::Lost, Death::Logged, Death::Cut]);
    }
}

/// ext4, and XFS in a file that shares nothing, write in place, and may do so before they record
/// the time. Then the file has new content and old times, and nobody can see the change from its
/// times.
#[test]
fn what_reached_the_disk_without_its_times_is_seen_after_the_boot() {
    const NAME: &str = "an overwrite without its times";
    const TEST: &str = "died::what_reached_the_disk_without_its_times_is_seen_after_the_boot";
    if !is_root() {
        return not_run(NAME, "mounting one needs root");
    }
    let kind = filesystem();
    // btrfs has no such death, and writes nothing in place.
    if !["xfs", "ext4"].contains(&kind.as_str()) {
        return;
    }
    let (disk, home) = match is_where_the_machine_starts_again(TEST) {
        Ok(true) => {
            let disk = match Disk::new(&kind, 300) {
                Ok(disk) => disk,
                Err(why) => return not_run(NAME, &why),
            };
            let home = disk.path();
            (disk, home)
        }
        Ok(false) => return,
        Err(why) => return not_run(NAME, &why),
    };
    let app = home.join("app");
    fs::create_dir(&app).unwrap();
    for name in ["shared", "alone", "cloned", "untouched"] {
        fs::write(app.join(name), content(7, 1)).unwrap();
    }
    let must = |words: &str| {
        let run = calve(&app, words);
        assert_eq!(run.code, Some(0), "{words}: {run:?}");
        run
    };
    must("init");
    must("snapshot -m first");
    // Content in a pack shares its blocks with nothing any more.
    must("store pack --all");
    fs::write(app.join("shared"), content(7, 2)).unwrap();
    must("snapshot -m second");
    must("start w");
    let worktree = home.join("app.worktrees/w");
    disk.free();
    std::thread::sleep(Duration::from_millis(50));
    let roots = [app.clone(), worktree];
    let before: Vec<Tree> = roots.iter().map(|root| tree_of(root).unwrap()).collect();
    for root in &roots {
        for name in ["shared", "alone", "cloned"] {
            let mut xfs_io = program("xfs_io", root);
            xfs_io.args([
                "-c",
                "pwrite -q -S 0x41 0 4096",
                "-c",
                "sync_range -a -b -w 0 4096",
                name,
            ]);
            assert!(xfs_io.status().unwrap().success());
        }
    }
    disk.die(Death::Lost).unwrap();
    disk.come_back().unwrap();
    for root in &roots {
        // Somebody makes a copy before anybody looks: from now on its blocks are shared, too.
        let mut copy = program("cp", root);
        copy.args(["--reflink=auto", "cloned", "../a-copy"]);
        assert!(copy.status().unwrap().success());
    }
    let mut apart = 0;
    for (root, before) in roots.iter().zip(&before) {
        let now = tree_of(root).unwrap();
        let changed = differences(before, &now);
        apart += now
            .iter()
            .filter(|(path, now)| before[*path].1 == now.1 && before[*path].2 != now.2)
            .count();
        for look in ["the first look", "the second"] {
            let run = calve(root, "status --json");
            let count = run.json()["changes"].as_array().unwrap().len();
            assert_eq!(count, changed.len(), "{look}: {changed:?} {run:?}");
        }
    }
    assert!(apart > 0, "nothing was written in place");
}
