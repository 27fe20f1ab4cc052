use proptest::prelude::*;

use super::*;
use crate::store::id::BlobId;
use crate::store::manifest::{Builder, NO_ID};
use crate::store::merged::{Merged, merged};
use crate::store::object::{Kind, Time};

/// The files of a tree, by their paths: their contents.
type Files = BTreeMap<PathBuf, u8>;

fn blank(name: &[u8], kind: Kind) -> Entry {
    let mode = if matches!(kind, Kind::Directory(_)) { 0o755 } else { 0o644 };
    Entry { name: name.into(), mode, uid: 0, gid: 0, mtime: Time(1, 0), attributes: None, kind }
}

/// A tree of these files. No path may be a folder of another one.
fn tree(files: &Files) -> Manifest {
    let mut builder = Builder::new(blank(b"", Kind::Directory(NO_ID)));
    let mut queue = std::collections::VecDeque::from([PathBuf::new()]);
    while let Some(folder) = queue.pop_front() {
        let mut entries: BTreeMap<Vec<u8>, Entry> = BTreeMap::new();
        for (path, content) in files {
            let Ok(below) = path.strip_prefix(&folder) else { continue };
            let mut names = below.iter();
            let Some(name) = names.next().map(OsStr::as_bytes) else { continue };
            let kind = match names.next() {
                Some(_) => Kind::Directory(NO_ID),
                None => Kind::File { size: 1, link: 0, blob: BlobId::of(&[*content]) },
            };
            entries.entry(name.to_vec()).or_insert_with(|| blank(name, kind));
        }
        let entries: Vec<Entry> = entries.into_values().collect();
        let folders = entries.iter().filter(|entry| entry.is_directory());
        queue.extend(folders.map(|entry| folder.join(OsStr::from_bytes(&entry.name))));
        assert!(builder.add(entries));
    }
    builder.finish()
}

fn files_of(tree: &Manifest) -> BTreeMap<PathBuf, Entry> {
    let files = tree.entries().filter(|(_, _, entry)| !entry.is_directory());
    files.map(|(place, slot, entry)| (tree.path_of(place, slot), entry.clone())).collect()
}

/// What an update leaves in the worktree: `None` if it would overwrite a change.
fn updated(
    base: &Manifest,
    project: &Manifest,
    worktree: &Manifest,
    decision: &UpdateDecision,
) -> BTreeMap<PathBuf, Entry> {
    let Merged { manifest: target, .. } = merged(base, project, &decision.brought).unwrap();
    let [base, target, mut left] = [base, &target, worktree].map(files_of);
    for (folder, stays) in &decision.whole {
        let is_of_it = |path: &PathBuf| path.starts_with(folder) && !stays.contains(path);
        left.retain(|path, _| !is_of_it(path));
        let new = target.iter().filter(|(path, _)| is_of_it(path));
        left.extend(new.map(|(path, entry)| (path.clone(), entry.clone())));
    }
    let is_whole = |path: &Path| path.ancestors().any(|it| decision.whole.contains_key(it));
    let paths: BTreeSet<&PathBuf> = base.keys().chain(target.keys()).collect();
    for path in paths.into_iter().filter(|path| !is_whole(path)) {
        if base.get(path) != target.get(path) {
            assert_eq!(left.get(path), base.get(path), "{path:?} was changed here");
            match target.get(path) {
                Some(entry) => drop(left.insert(path.clone(), entry.clone())),
                None => drop(left.remove(path)),
            }
        }
    }
    left
}

fn decided(base: &Files, project: &Files, worktree: &Files, scope: &UpdateScope) -> UpdateDecision {
    let [base, project, worktree] = [base, project, worktree].map(tree);
    let sides = Sides {
        base: &base,
        own: None,
        project: &project,
        worktree: &worktree,
        is_unfinished: &|_| false,
    };
    decide(sides, scope, &BTreeMap::new())
}

/// `path=content` words, without a content 0.
fn files(words: &str) -> Files {
    let file = |word: &str| match word.split_once('=') {
        Some((path, content)) => (PathBuf::from(path), content.parse().unwrap()),
        None => (PathBuf::from(word), 0),
    };
    words.split_whitespace().map(file).collect()
}

#[test]
fn each_path_arrives_stays_or_is_left_alone() {
    // The files of the base, of the project and of the worktree. Then the paths that are brought,
    // the folders that are replaced whole, and the paths that stay.
    let rows = [
        // Single files.
        ("a", "a=1", "a", "a", "", ""),
        ("a", "a=1", "a=2", "", "", "a:changed"),
        ("a", "a=1", "a=1", "", "", ""),
        ("a", "a=1", "", "", "", "a:deleted"),
        ("a", "", "a", "a", "", ""),
        ("a", "", "a=2", "", "", "a:changed"),
        ("a", "a", "a=2", "", "", ""),
        ("", "a", "", "a", "", ""),
        ("", "a", "a=2", "", "", "a:changed"),
        // Folders that mean nothing: each file for itself.
        ("b/a b/b", "b/a=1 b/b=1", "b/a b/b=2", "b/a", "", "b/b:changed"),
        ("b/a", "b/a b/c", "x", "", "", "b/c:deleted"),
        // Folders that are replaced whole.
        (
            "node_modules/a",
            "node_modules/a=1",
            "node_modules/a",
            "node_modules/a",
            "node_modules",
            "",
        ),
        (
            "node_modules/a node_modules/b",
            "node_modules/a=1 node_modules/b",
            "node_modules/a node_modules/b=2",
            "",
            "",
            "node_modules:changed",
        ),
        ("node_modules/a", "node_modules/a", "node_modules/a=2", "", "", ""),
        // One that was deleted comes back, and a deleted one whose folder was deleted does not.
        ("node_modules/a x", "node_modules/a x", "x", "", "node_modules", ""),
        ("p/node_modules/a x", "p/node_modules/a=1 x", "x", "", "", "p/node_modules:changed"),
        // What is in a cache says nothing about the rest.
        (
            "v/pyvenv.cfg v/a v/__pycache__/a",
            "v/pyvenv.cfg v/a=1 v/__pycache__/a=1",
            "v/pyvenv.cfg v/a v/__pycache__/a=2 v/__pycache__/b",
            "v/a",
            "v",
            "",
        ),
        (
            "target/.rustc_info.json target/app target/app.d",
            "target/.rustc_info.json target/app=1 target/app.d",
            "target/.rustc_info.json=2 target/app target/app.d=2",
            "target/app",
            "target",
            "",
        ),
        // A workspace is installed at once.
        (
            "node_modules/a p/node_modules/b",
            "node_modules/a=1 p/node_modules/b=1",
            "node_modules/a p/node_modules/b=2",
            "",
            "",
            "node_modules:changed",
        ),
        // A database and its log.
        ("d.db d.db-wal", "d.db=1 d.db-wal=1", "d.db d.db-wal=2", "", "", "d.db:changed"),
        ("d.db", "d.db=1 d.db-wal", "d.db", "d.db d.db-wal", "", ""),
        // A folder in the place of a file, and a file in that of a folder.
        ("c", "c/a", "c", "c c/a", "", ""),
        ("c", "c/a", "c=2", "", "", "c:changed"),
        ("c/a", "c", "c/a c/b", "", "", "c:changed"),
        // Not what git ignores.
        ("tracked/a", "tracked/a=1", "tracked/a", "", "", ""),
    ];
    let roots =
        ["a", "b", "c", "d.db", "d.db-wal", "node_modules", "p/node_modules", "target", "v"];
    let scope = UpdateScope {
        roots: Some(roots.into_iter().map(PathBuf::from).collect()),
        tracked: BTreeSet::new(),
    };
    for (base, project, worktree, brought, whole, stayed) in rows {
        let title = format!("{base} | {project} | {worktree}");
        let decision = decided(&files(base), &files(project), &files(worktree), &scope);
        let words = |paths: &mut dyn Iterator<Item = &PathBuf>| {
            paths.map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(words(&mut decision.brought.iter()), brought, "{title}");
        assert_eq!(words(&mut decision.whole.keys()), whole, "{title}");
        let told: Vec<String> = decision
            .stayed
            .iter()
            .map(|it| format!("{}:{}", it.path.display(), it.why.as_str()))
            .collect();
        assert_eq!(told.join(" "), stayed, "{title}");
    }
}

#[test]
fn a_folder_in_which_git_tracks_a_file_stays() {
    let scope = UpdateScope { roots: None, tracked: BTreeSet::from([b"vendor/a".to_vec()]) };
    let decision = decided(&files("vendor/b"), &files("vendor/b=1"), &files("vendor/b"), &scope);
    assert_eq!(decision.brought, BTreeSet::new());
    let why = StayedReason::Tracked;
    assert_eq!(decision.stayed, [StayedPath { path: "vendor".into(), why }]);
}

const NAMES: [&str; 9] =
    ["a", "a-wal", "b", "node_modules", "target", "CACHEDIR.TAG", "__pycache__", "c", ".cache"];

fn some_files() -> impl Strategy<Value = Files> {
    let path = proptest::collection::vec(0..NAMES.len(), 1..4);
    proptest::collection::vec((path, 0..3_u8), 0..12).prop_map(|files| {
        let mut found = Files::new();
        for (names, content) in files {
            let path: PathBuf = names.into_iter().map(|at| NAMES[at]).collect();
            let is_other = |it: &PathBuf| it.starts_with(&path) || path.starts_with(it);
            if !found.keys().any(is_other) {
                found.insert(path, content);
            }
        }
        found
    })
}

/// A tree that has some files as another one.
fn like(base: Files) -> impl Strategy<Value = Files> {
    let keeps = proptest::collection::vec(0..4_u8, base.len());
    (some_files(), keeps).prop_map(move |(new, keeps)| {
        let mut found: Files = base
            .iter()
            .zip(keeps)
            .filter(|it| it.1 > 0)
            .map(|it| (it.0.0.clone(), *it.0.1))
            .collect();
        for (path, content) in new {
            let is_other =
                |it: &PathBuf| *it != path && (it.starts_with(&path) || path.starts_with(it));
            if !found.keys().any(is_other) {
                found.insert(path, content);
            }
        }
        found
    })
}

fn three() -> impl Strategy<Value = (Files, Files, Files)> {
    some_files().prop_flat_map(|base| (Just(base.clone()), like(base.clone()), like(base)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn nothing_that_the_worktree_changed_is_lost_and_the_rest_is_the_projects(
        (base, project, worktree) in three(),
        tracked in proptest::collection::vec(proptest::sample::select(&NAMES[..]), 0..2),
    ) {
        let scope = UpdateScope {
            roots: None,
            tracked: tracked.into_iter().map(|name| name.as_bytes().to_vec()).collect(),
        };
        let [base, project, worktree] = [&base, &project, &worktree].map(tree);
        let sides = Sides {
            base: &base, own: None, project: &project, worktree: &worktree, is_unfinished: &|_| false,
        };
        let decision = decide(sides, &scope, &BTreeMap::new());
        let after = updated(&base, &project, &worktree, &decision);
        let [base_files, project_files, ours] = [&base, &project, &worktree].map(files_of);
        let stayed = |key: &Key| {
            let (Key::Whole(path) | Key::Paths(path)) = key;
            decision.stayed.iter().any(|it| it.path == *path)
        };
        for (path, entry) in &ours {
            let base = base_files.get(path);
            if base != Some(entry) || !scope.has(path) {
                prop_assert_eq!(after.get(path), Some(entry), "{:?} was changed here", path);
            }
        }
        for path in base_files.keys().filter(|path| !ours.contains_key(*path)) {
            // Only a folder that is gone as a whole comes back.
            let comes_back = path.ancestors().any(|it| {
                decision.whole.contains_key(it) && !ours.keys().any(|path| path.starts_with(it))
            });
            if !comes_back {
                prop_assert!(!after.contains_key(path), "{:?} was deleted here", path);
            }
        }
        // Where the worktree is as its base, and nothing near the path stays, it is as the project.
        let mut grouping = Grouping { sides, scope: &scope, whole: HashMap::new() };
        let paths: BTreeSet<&PathBuf> =
            base_files.keys().chain(project_files.keys()).chain(ours.keys()).collect();
        let mut changed = BTreeSet::new();
        for path in &paths {
            if base_files.get(*path) != ours.get(*path) {
                let whole = grouping.whole_above(path);
                changed.insert(grouping.key(path, whole.as_deref()));
            }
        }
        for path in paths.into_iter().filter(|path| scope.has(path)) {
            let whole = grouping.whole_above(path);
            let is_tracked = whole.as_deref().is_some_and(|folder| scope.tracks_in(folder));
            let key = grouping.key(path, whole.as_deref());
            if !changed.contains(&key) && !is_tracked && !stayed(&key) {
                prop_assert_eq!(after.get(path), project_files.get(path), "{:?}", path);
            }
        }
    }
}
