//! Promise: after a boot, calve looks at the contents of a tree at most once more, and never loses
//! its knowledge of the tree.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};

use crate::common;
use crate::common::git::script;
use crate::common::{NOBODY, as_nobody, has_command, is_root, is_there, not_run, sh};
use crate::maintained::{Project, common};
use calve::{
    ChangeKind, DropOptions, SnapshotOptions, StartOptions, Store, SwitchOptions, Worktree,
    WorktreeState,
};

/// Makes all indexes of a store ones of another boot: crates/calve/src/store/index.rs has the
/// format.
fn start_again(project: &Project) -> Vec<PathBuf> {
    let listed = fs::read_dir(project.file("indexes")).unwrap();
    let paths: Vec<PathBuf> = listed.map(|entry| entry.unwrap().path()).collect();
    for path in &paths {
        let mut index = fs::read(path).unwrap();
        let body = index.len() - 32;
        index[44..60].fill(0xa5);
        let hash = blake3::hash(&index[..body]);
        index[body..].copy_from_slice(hash.as_bytes());
        fs::write(path, &index).unwrap();
    }
    paths
}

fn boot_of(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap()[44..60].to_vec()
}

fn of_all_kinds(root: &Path) {
    fs::create_dir_all(root.join("folder/below")).unwrap();
    fs::write(root.join("file"), "one").unwrap();
    fs::hard_link(root.join("file"), root.join("folder/the same")).unwrap();
    fs::write(root.join("folder/run"), vec![7; 100_000]).unwrap();
    fs::set_permissions(root.join("folder/run"), fs::Permissions::from_mode(0o751)).unwrap();
    fs::write(root.join("empty"), "").unwrap();
    fs::File::create(root.join("hole")).unwrap().set_len(1 << 20).unwrap();
    symlink("folder", root.join("link")).unwrap();
    fs::write(root.join("ignored.o"), "not there").unwrap();
    fs::write(root.join(".calveignore"), "*.o\n").unwrap();
    // If the filesystem has no attributes, it says so, and there is less to lose.
    let _ = rustix::fs::setxattr(
        root.join("folder/run"),
        c"user.calve",
        b"kept",
        rustix::fs::XattrFlags::empty(),
    );
}

#[test]
fn what_is_unchanged_is_unchanged_after_a_boot_and_is_looked_at_once() {
    let project = Project::new(of_all_kinds);
    // calve reads a file again in any case if it changed as late as the first look.
    std::thread::sleep(std::time::Duration::from_millis(20));
    let first = project.snapshot();
    let options = StartOptions::new().at(project.scratch.join("at"));
    project.store.start(&["w"], &options, &common()).unwrap();
    let worktrees =
        || [project.store.project_worktree().unwrap(), project.store.worktree("w").unwrap()];
    // Each of them in a boot of its own, as its first look.
    type Look = fn(&Worktree);
    let looks: [(&str, Look); 5] = [
        ("status", |it| assert_eq!(it.status(&common()).unwrap().changes, [])),
        ("diff", |it| assert_eq!(it.diff(&common()).unwrap().files.len(), 0)),
        ("capture", |it| {
            let taken = it.capture(&SnapshotOptions::new(), &common()).unwrap();
            assert_eq!((taken.new, taken.id), (false, it.snapshot().unwrap()), "{taken:?}");
        }),
        ("switch", |it| {
            let to = it.snapshot().unwrap();
            assert_eq!(it.switch(to, &SwitchOptions::new(), &common()).unwrap().removed, 0);
        }),
        ("reset", |it| assert_eq!(it.reset(&common()).unwrap().kept, Vec::<PathBuf>::new())),
    ];
    for (row, look) in looks {
        let indexes = start_again(&project);
        for worktree in worktrees() {
            look(&worktree);
            assert_eq!(worktree.snapshot(), Some(first), "{row}");
        }
        for path in &indexes {
            assert_ne!(boot_of(path), [0xa5; 16], "{row}: {path:?} is still of the other boot");
        }
        let inodes = || -> Vec<u64> {
            indexes.iter().map(|path| fs::metadata(path).unwrap().ino()).collect()
        };
        let before = inodes();
        for worktree in worktrees() {
            assert_eq!(worktree.status(&common()).unwrap().changes, [], "{row}, and again");
        }
        assert_eq!(before, inodes(), "{row}: an index is written again");
        for worktree in worktrees() {
            let taken = worktree.capture(&SnapshotOptions::new(), &common()).unwrap();
            assert_eq!(taken.read_files, 0, "{row}: it is read again");
        }
    }
    // calve reports the change, and nothing else, also in a boot in which the first look finds it.
    start_again(&project);
    let [_, worktree] = worktrees();
    fs::write(worktree.path().join("file"), "two").unwrap();
    fs::set_permissions(worktree.path().join("folder/run"), fs::Permissions::from_mode(0o700))
        .unwrap();
    for look in ["the first look", "the second"] {
        let mut found: Vec<_> = worktree.status(&common()).unwrap().changes;
        found.sort_by(|a, b| a.path.cmp(&b.path));
        let found: Vec<_> =
            found.iter().map(|change| (change.path.to_str().unwrap(), change.kind)).collect();
        use ChangeKind::{Mode, Modified};
        let wanted = [("file", Modified), ("folder/run", Mode), ("folder/the same", Modified)];
        assert_eq!(found, wanted, "{look}");
    }
    start_again(&project);
    worktree.drop(&DropOptions::new().force(true), &common()).unwrap().delete().unwrap();
}

#[test]
fn a_file_that_may_not_be_read_is_in_nobodys_way_after_a_boot() {
    const TEST: &str = "a_file_that_may_not_be_read_is_in_nobodys_way_after_a_boot";
    if !is_root() {
        return not_run(TEST, "only root can take a snapshot of what may not be read");
    }
    let project = Project::new(|root| {
        fs::create_dir(root).unwrap();
        fs::write(root.join("closed"), "secret").unwrap();
        fs::set_permissions(root.join("closed"), fs::Permissions::from_mode(0o000)).unwrap();
        fs::write(root.join("open"), "x").unwrap();
    });
    project.snapshot();
    let options = StartOptions::new().at(project.scratch.join("at"));
    project.store.start(&["w"], &options, &common()).unwrap();
    let store = project.store.path().to_owned();
    let worktree = project.scratch.join("at/w");
    // To give the files away is a change that the index must record.
    sh(std::process::Command::new("chown").arg("-R").arg(NOBODY.to_string()).arg(&project.path));
    sh(std::process::Command::new("chown").arg("-R").arg(NOBODY.to_string()).arg(&worktree));
    for folder in [project.scratch.path(), &project.scratch.join("at")] {
        chown(folder, Some(NOBODY), None).unwrap();
    }
    project.store.worktree("w").unwrap().capture(&SnapshotOptions::new(), &common()).unwrap();
    sh(std::process::Command::new("chown").arg("-R").arg(NOBODY.to_string()).arg(&store));
    std::thread::sleep(std::time::Duration::from_millis(20));
    project.store.worktree("w").unwrap().capture(&SnapshotOptions::new(), &common()).unwrap();
    sh(std::process::Command::new("chown").arg("-R").arg(NOBODY.to_string()).arg(&store));
    if as_nobody(|| fs::metadata(store.join("format"))).is_err() {
        return not_run(TEST, "nobody may not look where the tests run");
    }
    let look = || {
        let store = calve::Store::open(&store).unwrap();
        let worktree = store.worktree("w").unwrap();
        assert_eq!(worktree.status(&common()).unwrap().changes, []);
        assert!(!worktree.capture(&SnapshotOptions::new(), &common()).unwrap().new);
    };
    as_nobody(look);
    start_again(&project);
    sh(std::process::Command::new("chown").arg("-R").arg(NOBODY.to_string()).arg(&store));
    as_nobody(look);
    start_again(&project);
    as_nobody(|| {
        let store = calve::Store::open(&store).unwrap();
        store
            .worktree("w")
            .unwrap()
            .drop(&DropOptions::new(), &common())
            .unwrap()
            .delete()
            .unwrap();
    });
}

/// Makes all rows of a store ones that a process of another boot wrote.
fn of_another_boot(project: &Project) {
    let db = rusqlite::Connection::open(project.file("index.db")).unwrap();
    let start = ".calve-stage-".len();
    let set = format!(
        "UPDATE worktrees SET maker = substr(maker, 1, {start}) || 'a5a5a5a5a5a5a5a5' || substr(maker, {})",
        start + 17
    );
    assert!(db.execute(&set, []).unwrap() > 0);
}

/// A project with a repository and a Python environment, which names the project's root.
fn with_everything(root: &Path) {
    fs::create_dir_all(root.join("venv/bin")).unwrap();
    fs::write(root.join("file"), "one").unwrap();
    fs::write(root.join(".gitignore"), "venv\n").unwrap();
    fs::write(root.join("venv/pyvenv.cfg"), "home = /usr/bin\n").unwrap();
    let tool = format!("#!{}/venv/bin/python\nprint(1)\n", root.display());
    fs::write(root.join("venv/bin/tool"), tool).unwrap();
    script(root, "git init -q -b main .\ngit add -A\ngit commit -qm one");
}

#[test]
fn every_verb_gives_a_worktree_again_what_a_power_cut_left_empty() {
    const TEST: &str = "every_verb_gives_a_worktree_again_what_a_power_cut_left_empty";
    if !has_command("git") {
        return not_run(TEST, "there is no git");
    }
    let project = Project::new(with_everything);
    let snapshot = project.snapshot();
    let at = project.path.with_extension("worktrees");
    let repository = project.path.join(".git");
    type Verb<'a> = (&'a str, &'a dyn Fn(&str));
    let (store, named) = (&project.store, |name: &str| project.store.worktree(name).unwrap());
    let verbs: [Verb<'_>; 7] = [
        ("list", &|name| {
            let all = store.worktrees().unwrap();
            let it = all.iter().find(|it| it.name() == name).unwrap();
            assert_eq!(it.state().unwrap(), WorktreeState::Ready);
        }),
        ("status", &|name| assert_eq!(named(name).status(&common()).unwrap().changes, [])),
        ("status in it", &|name| {
            let found = Store::discover(at.join(name).join("venv")).unwrap();
            let it = found.worktree().unwrap();
            assert_eq!((it.name(), it.status(&common()).unwrap().changes), (name, vec![]));
        }),
        ("capture", &|name| {
            let taken = named(name).capture(&SnapshotOptions::new(), &common()).unwrap();
            assert!(!taken.new, "{name}: {taken:?}");
        }),
        ("switch", &|name| {
            named(name).switch(snapshot, &SwitchOptions::new(), &common()).unwrap();
        }),
        ("reset", &|name| {
            assert_eq!(named(name).reset(&common()).unwrap().kept, Vec::<PathBuf>::new());
        }),
        ("drop", &|name| {
            named(name).drop(&DropOptions::new(), &common()).unwrap().delete().unwrap();
        }),
    ];
    let registered = |name: &str| repository.join("worktrees").join(name);
    let mark = |name: &str| registered(name).join("calve-worktree");
    let kept = |name: &str| {
        let folder = crate::stores::kept_of(project.store.path(), &at.join(name));
        ["root", "paths"].map(|file| folder.join(file))
    };
    type Torn<'a> = (&'a str, &'a dyn Fn(&str) -> Vec<PathBuf>);
    let torn: [Torn<'_>; 7] = [
        ("mark", &|name| vec![mark(name)]),
        ("own", &|name| kept(name).into_iter().chain([mark(name)]).collect()),
        ("git", &|name| vec![at.join(name).join(".git")]),
        ("head", &|name| vec![registered(name).join("HEAD")]),
        ("branch", &|name| vec![repository.join("refs/heads").join(name)]),
        ("entry", &|name| {
            ["gitdir", "commondir", "index"].map(|file| registered(name).join(file)).into()
        }),
        ("all", &|name| {
            let mut all: Vec<PathBuf> = ["HEAD", "gitdir", "commondir", "index", "logs/HEAD"]
                .map(|file| registered(name).join(file))
                .into();
            all.extend(kept(name).into_iter().chain([mark(name)]));
            all.push(at.join(name).join(".git"));
            all.extend(["refs/heads", "logs/refs/heads"].map(|it| repository.join(it).join(name)));
            all
        }),
    ];
    for (name, files) in torn {
        project.store.start(&[name], &StartOptions::new().at(&at), &common()).unwrap();
        of_another_boot(&project);
        let files: Vec<(PathBuf, Vec<u8>)> =
            files(name).into_iter().map(|path| (path.clone(), fs::read(&path).unwrap())).collect();
        for (number, (verb, run)) in verbs.iter().enumerate() {
            for (path, content) in &files {
                // XFS leaves no content, and ext4 may leave zeros.
                fs::write(path, vec![0; if number % 2 == 0 { 0 } else { content.len() }]).unwrap();
            }
            run(name);
            if *verb == "drop" {
                assert!(!is_there(&at.join(name)) && !is_there(&registered(name)), "{name}");
                continue;
            }
            for (path, content) in &files {
                if path.ends_with("index") || path.to_str().unwrap().contains("/logs/") {
                    continue;
                }
                let is = fs::read(path).unwrap();
                assert_eq!(is, *content, "{name}, {verb}: {}", path.display());
            }
            let said = common::git::status(&at.join(name));
            let head = format!("# branch.head {name}");
            assert!(said.lines().all(|line| line.starts_with('#')), "{name}, {verb}: {said}");
            assert!(said.lines().any(|line| line == head), "{name}, {verb}: {said}");
        }
        project.store.start(&[name], &StartOptions::new().at(&at), &common()).unwrap();
    }
    project.assert_sound();
}

#[test]
fn a_marker_that_is_empty_in_its_own_boot_or_says_something_is_nobodys() {
    let project = Project::new(of_all_kinds);
    project.snapshot();
    let options = StartOptions::new().at(project.scratch.join("at"));
    for (name, text, is_other) in
        [("now", "", false), ("words", "of somebody", true), ("link", "", true)]
    {
        project.store.start(&[name], &options, &common()).unwrap();
        let tree = project.scratch.join("at").join(name);
        let marker = tree.join(".calve/worktree");
        // The store does not know the folder itself either.
        fs::remove_file(crate::stores::kept_of(project.store.path(), &tree).join("root")).unwrap();
        fs::write(&marker, text).unwrap();
        if is_other {
            of_another_boot(&project);
        }
        if name == "link" {
            fs::remove_file(&marker).unwrap();
            symlink("elsewhere", &marker).unwrap();
        }
        let found = project.store.worktree(name).unwrap();
        assert_eq!(found.state().unwrap(), WorktreeState::Missing, "{name}");
    }
}

/// A store may come from someone else, and name any folder. Only the folder that calve made is the
/// worktree: `drop` would delete another one.
#[test]
fn a_folder_in_the_place_of_a_worktree_is_not_taken_for_it() {
    const TEST: &str = "a_folder_in_the_place_of_a_worktree_is_not_taken_for_it";
    if !has_command("git") {
        return not_run(TEST, "there is no git");
    }
    for (what, in_place, note, state) in [
        // What is done in the folder of the worktrees, and what the store's note is then.
        ("it itself", "rm w/.git", None, WorktreeState::Ready),
        ("a folder", "mv w away; mkdir w; echo mine >w/file", None, WorktreeState::Missing),
        (
            "a folder, note lost",
            "rm -r w; mkdir w; echo mine >w/file",
            Some(""),
            WorktreeState::Missing,
        ),
        ("a copy", "cp -a w copy; rm -r w; mv copy w; rm w/.git", None, WorktreeState::Missing),
        ("git's", "rm -r w; git init -q w; echo mine >w/file", Some(""), WorktreeState::Missing),
        ("itself, wrong note", "rm w/.git", Some("1 2 of 3 4\n"), WorktreeState::Missing),
    ] {
        let project = Project::new(with_everything);
        project.snapshot();
        let at = project.path.with_extension("worktrees");
        project.store.start(&["w"], &StartOptions::new().at(&at), &common()).unwrap();
        let kept = crate::stores::kept_of(project.store.path(), &at.join("w")).join("root");
        of_another_boot(&project);
        script(&at, in_place);
        if let Some(note) = note {
            fs::write(kept, note).unwrap();
        }
        let worktree = project.store.worktree("w").unwrap();
        assert_eq!(worktree.state().unwrap(), state, "{what}");
        let before = common::names(&at.join("w"));
        if state == WorktreeState::Missing {
            worktree.drop(&DropOptions::new().force(true), &common()).unwrap().delete().unwrap();
            assert_eq!(common::names(&at.join("w")), before, "{what}: nobody's folder is deleted");
        }
    }
    // The copy of a project has a copy of the notes.
    let project = Project::new(with_everything);
    project.snapshot();
    let at = project.path.with_extension("worktrees");
    project.store.start(&["w"], &StartOptions::new().at(&at), &common()).unwrap();
    script(&at, "rm w/.git");
    let copy = project.scratch.join("copy");
    sh(std::process::Command::new("cp").arg("-a").arg(&project.path).arg(&copy));
    let copied = Store::open(copy.join(".git/calve")).unwrap();
    assert_eq!(copied.worktree("w").unwrap().state().unwrap(), WorktreeState::Missing);
    assert_eq!(project.store.worktree("w").unwrap().state().unwrap(), WorktreeState::Ready);
}
