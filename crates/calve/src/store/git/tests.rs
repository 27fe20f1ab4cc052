//! These tests run the system's `git`, each in repositories of its own.

use std::fs::File;
use std::process::Command;

use super::held::as_reference;
use super::registration::{GITDIR, LOCKED, REGISTRATIONS, absolute, making};
use super::*;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

struct Desk {
    scratch: tempfile::TempDir,
    lock: File,
}

impl Desk {
    /// A project with one commit, on the branch `main`.
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let lock = File::create(scratch.path().join("lock")).unwrap();
        let desk = Self { scratch, lock };
        desk.sh("mkdir stage project && cd project && git init -q -b main . && echo one >file && git add . && git commit -qm one");
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        std::fs::canonicalize(self.scratch.path()).unwrap().join(name)
    }

    /// The output of a shell script.
    #[track_caller]
    fn sh(&self, script: &str) -> String {
        let output = Command::new("bash")
            .current_dir(self.scratch.path())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_SYSTEM", "/dev/null")
            .args(["-ec", &format!("git() {{ command git -c user.name=n -c user.email=e -c protocol.file.allow=always \"$@\"; }}\n{script}")])
            .output()
            .unwrap();
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    #[track_caller]
    fn found(&self, name: &str) -> Repository {
        match find(&self.path(name)) {
            Found::Repository(repository) => repository,
            other => panic!("{other:?}"),
        }
    }

    fn work(&self, name: &str) -> Work {
        work_in(&Tree::at(&self.path(name)).unwrap().unwrap()).unwrap()
    }

    fn project(&self) -> Repository {
        self.found("project")
    }

    fn head(&self) -> String {
        self.sh("git -C project rev-parse HEAD")
    }

    /// The linked worktrees and the branches that git lists.
    fn known(&self) -> String {
        self.sh("cd project && git worktree list --porcelain && git for-each-ref --format='%(refname)' && git worktree prune -n -v && git fsck --full 2>&1")
    }
}

#[test]
fn a_root_is_a_repository_as_git_finds_it() {
    let desk = Desk::new();
    desk.sh("git -C project worktree add -q ../linked
        git clone -q --bare project bare.git && git -C bare.git worktree add -q ../of-bare
        git init -q super && git -C super submodule --quiet add ../project sub
        git init -q --separate-git-dir apart.git separate
        mkdir plain project/below outer && git init -q outer && mkdir -p outer/inner/.git
        git init -q unborn");
    let real = |path: PathBuf| std::fs::canonicalize(path).unwrap();
    for (name, git_dir, common) in [
        ("project", "project/.git", "project/.git"),
        ("linked", "project/.git/worktrees/linked", "project/.git"),
        ("of-bare", "bare.git/worktrees/of-bare", "bare.git"),
        ("super/sub", "super/.git/modules/sub", "super/.git/modules/sub"),
        ("separate", "apart.git", "apart.git"),
        ("unborn", "unborn/.git", "unborn/.git"),
    ] {
        let found = desk.found(name);
        assert_eq!(real(found.git_dir), desk.path(git_dir), "{name}");
        assert_eq!(real(found.common), desk.path(common), "{name}");
        let read = read(&desk.path(name)).unwrap().unwrap();
        assert_eq!(real(read.git_dir), desk.path(git_dir), "{name}");
        assert_eq!(real(read.common), desk.path(common), "{name}");
    }
    for name in ["plain", "project/below"] {
        assert!(read(&desk.path(name)).unwrap().is_none(), "{name}");
        assert!(matches!(find(&desk.path(name)), Found::Nothing), "{name}");
    }
    // git does not go on to the repository above it.
    let Found::Unusable(failure) = find(&desk.path("outer/inner")) else { panic!() };
    assert!(failure.to_string().contains("not a git repository"), "{failure}");
}

/// A start does not ask git twice whether a repository is its project's.
#[test]
fn what_confirms_a_repository_that_answered_is_what_git_would_say() {
    let desk = Desk::new();
    desk.sh("git -C project worktree add -q ../linked && mv project/.git apart && ln -s ../apart project/.git
        printf '[core]\n bare = true\n worktree = /nowhere\n' >apart/more && cp apart/config before");
    for (change, is_told) in [
        ("true", true),
        ("git -C project config branch.worktree-1.merge refs/heads/worktree-1", true),
        ("git -C project config include.path more", true),
        ("git -C project config alias.x 'worktree list'", true),
        ("printf '[branch \"bare\"]\n\tdescription = bare\n' >>apart/config", true),
        ("git -C project config core.worktree ../linked", false),
        ("git -C project config core.bare true", false),
        ("printf '[Core]Bare\n' >>apart/config", false),
        ("printf '[branch \"a\"] [core] worktree = \"/[x\"]' >>apart/config", false),
        ("printf '[core \\\\\n] worktree = x' >>apart/config", false),
        (
            "git -C project config extensions.worktreeConfig true
            git -C project config --worktree core.worktree ../linked",
            false,
        ),
        ("rm apart/config", false),
    ] {
        desk.sh(&format!("cp before apart/config && {{ {change}; }}"));
        let read = read(&desk.path("project")).unwrap().unwrap();
        let told = read.confirmed();
        assert_eq!(told.is_some(), is_told, "{change}");
        let Some(told) = told else { continue };
        let found = desk.project();
        assert_eq!(
            (told.root, told.git_dir, told.common),
            (found.root, found.git_dir, found.common)
        );
    }
    desk.sh("cp before apart/config");
    let linked = desk.path("linked");
    let told = read(&linked).unwrap().unwrap().confirmed().unwrap();
    let found = desk.found("linked");
    assert_eq!((told.git_dir, told.common), (found.git_dir, found.common));
}

#[test]
fn a_head_is_a_branch_a_commit_or_not_born_yet() {
    let desk = Desk::new();
    let commit = desk.head();
    let head = |branch: Option<&str>, commit: Option<&str>| Head {
        branch: branch.map(str::to_owned),
        commit: commit.map(str::to_owned),
    };
    for (script, expected) in [
        ("true", head(Some("main"), Some(&commit))),
        ("git switch -q -c feat/a", head(Some("feat/a"), Some(&commit))),
        ("git switch -q --detach", head(None, Some(&commit))),
        ("git switch -q --orphan new", head(Some("new"), None)),
    ] {
        desk.sh(&format!("cd project && {script}"));
        assert_eq!(desk.project().head_commit().unwrap(), expected.commit, "{script}");
        assert_eq!(desk.work("project").head, Some(expected), "{script}");
    }
}

#[test]
fn what_is_uncommitted_is_listed_as_git_sees_it() {
    let desk = Desk::new();
    desk.sh(
        "cd project && for name in staged unstaged both gone 'with space' conflict; do echo 1 >\"$name\"; done
        printf 'ignored\n' >.gitignore && git add -A && git commit -qm files
        git switch -q -c other && echo 2 >conflict && git commit -qam 2
        git switch -q main && echo 3 >conflict && git commit -qam 3
        git merge -q other >/dev/null 2>&1 || true
        echo x >staged && git add staged && echo x >unstaged && rm gone && echo x >'with space'
        echo x >both && git add both && echo y >both
        mkdir -p new/deep ignored && touch new/deep/file ignored/file added && git add -N added",
    );
    let mut work = desk.work("project");
    work.paths.sort();
    let paths: Vec<_> = work.paths.iter().map(|path| path.to_str().unwrap()).collect();
    let expected =
        ["added", "both", "conflict", "gone", "new/", "staged", "unstaged", "with space"];
    assert_eq!((paths.as_slice(), work.is_cut), (&expected[..], false));
}

#[test]
fn branches_are_found_with_their_commits_and_trees() {
    let desk = Desk::new();
    desk.sh("cd project && git branch fix && git branch fix-1 && git branch feat/a && git worktree add -q -b used ../used");
    let found = desk.project().branches(&["fix", "feat", "used", "main", "none"]).unwrap();
    let commit = desk.head();
    let branch = |name: &str, tree: Option<&str>| Branch {
        name: name.to_owned(),
        commit: commit.clone(),
        tree: tree.map(|tree| desk.path(tree)),
    };
    assert_eq!(
        found,
        [
            branch("feat/a", None),
            branch("fix", None),
            branch("main", Some("project")),
            branch("used", Some("used")),
        ]
    );
    assert_eq!(desk.project().branches(&["none"]).unwrap(), []);
}

#[test]
fn what_cannot_be_a_branch_is_known_before_it_is_tried() {
    let desk = Desk::new();
    let root = desk.path("project");
    for (name, expected) in [
        ("fix-1", true),
        ("feat/x", true),
        ("a//b", false),
        ("/a", false),
        ("feat/a.b", true),
        ("ä", true),
        ("a..b", false),
        ("a.lock", false),
        ("a~1", false),
        ("-a", false),
        ("HEAD", false),
        ("", false),
        ("a/", false),
    ] {
        assert_eq!(can_be_a_branch(&root, name).unwrap(), expected, "{name:?}");
    }
}

/// All steps of a start and of a drop.
#[test]
fn a_worktree_is_registered_elsewhere_and_then_pointed_at_its_tree() {
    let desk = Desk::new();
    let (project, commit) = (desk.project(), desk.head());
    let before = desk.known();
    desk.sh("mkdir temporary tree && echo one >tree/file");
    let (at, tree) = (desk.path("temporary/fix-1"), desk.path("tree"));
    project.make_branch("fix-1", &commit, TOKEN, &desk.lock).unwrap();
    let mut made = project.add(&at, Onto::Branch("fix-1"), TOKEN, &desk.lock).unwrap();
    assert_eq!(made.id(), "fix-1");
    assert!(made.is_made_for(TOKEN, &desk.path("temporary")));
    assert!(made.is_made_for("another", &desk.path("temporary")));
    assert!(made.is_made_for(TOKEN, &desk.path("elsewhere")));
    assert!(!made.is_made_for("another", &desk.path("elsewhere")));
    made.point_at(&tree).unwrap();
    std::fs::write(git_of(&tree), made.git_file_text()).unwrap();
    std::fs::remove_dir_all(desk.path("temporary")).unwrap();
    // Nobody may prune the worktree before its tree is in its place.
    desk.sh("git -C project worktree prune --expire now");
    made.unlock("another").unwrap();
    assert_eq!(project.registrations().unwrap(), [made.clone()]);
    made.unlock(TOKEN).unwrap();
    assert_eq!((made.locked.clone(), made.is_of(&tree)), (None, true));
    assert_eq!(project.registrations().unwrap(), [made.clone()]);
    assert_eq!(leads_to(&tree).unwrap(), made.folder);
    desk.sh("git -C tree reset -q && git -C tree commit -q --allow-empty -m two && git -C project merge -q fix-1");
    assert_eq!(desk.sh("git -C tree status --porcelain --branch"), "## fix-1");

    made.remove(&desk.path("stage")).unwrap();
    assert_eq!(
        desk.sh("git -C project branch --list fix-1 --format='%(refname)'"),
        "refs/heads/fix-1"
    );
    desk.sh("git -C project branch -q -D fix-1 && rm -r tree");
    assert_eq!(desk.known().replace(&desk.head(), &commit), before);
    assert_eq!(std::fs::read_dir(desk.path("stage")).unwrap().count(), 0);
    // Another process removed it first.
    made.remove(&desk.path("stage")).unwrap();
}

#[test]
fn a_worktree_without_a_branch_is_at_a_commit() {
    let desk = Desk::new();
    desk.sh("mkdir temporary");
    let at = desk.path("temporary/-odd..name.lock");
    let made = desk.project().add(&at, Onto::Commit(&desk.head()), TOKEN, &desk.lock).unwrap();
    assert_eq!(
        work_in(&Tree::at(&at).unwrap().unwrap()).unwrap().head,
        Some(Head { branch: None, commit: Some(desk.head()) })
    );
    made.remove(&desk.path("stage")).unwrap();
}

#[test]
fn a_name_of_one_commit_is_that_commit_and_any_other_name_says_why_not() {
    let desk = Desk::new();
    desk.sh("cd project && git config core.warnAmbiguousRefs false && git branch one && git tag both
        git branch both && git tag blob HEAD:file && git tag HEAD && git update-ref refs/remotes/one/HEAD HEAD
        git tag blobs HEAD:file && git branch blobs");
    let (project, commit) = (desk.project(), desk.head());
    let none = "git has no commit of this name";
    for (name, expected) in [
        ("main", Ok(&*commit)),
        (&commit, Ok(&commit)),
        (&commit[..9], Ok(&commit)),
        ("main~0", Ok(&commit)),
        // git's own name, and one that has two meanings of which one is a branch.
        ("HEAD", Ok(&commit)),
        ("one", Ok(&commit)),
        ("both", Err("it may mean refs/heads/both or refs/tags/both: give one of these names")),
        ("refs/tags/both", Ok(&commit)),
        ("blobs", Err("it may mean refs/heads/blobs or refs/tags/blobs: give one of these names")),
        ("blob", Err("it names a tree or a file, not a commit")),
        ("two", Err(none)),
        ("main~1", Err(none)),
        ("", Err(none)),
        ("-h", Err(none)),
    ] {
        let found = project.commit(name).unwrap();
        assert_eq!(found.as_deref().map_err(|why| &**why), expected, "{name}");
    }
}

#[test]
fn a_reflog_is_read_as_git_reads_it() {
    let desk = Desk::new();
    let (project, log) = (desk.project(), "project/.git/logs/refs/heads/main");
    let next = "git -C project update-ref refs/heads/main $(git -C project commit-tree -m x HEAD^{tree} -p HEAD)";
    for (row, script) in [
        ("one entry", "true"),
        ("several words", "git -C project commit -q --allow-empty -m 'x: y  z'"),
        ("no message", next),
        ("zeros after a power cut", &format!("head -c 99 /dev/zero >>{log}")),
        ("an entry behind them", next),
        ("words that are none", &format!("printf '\\n\\nx y z\\ta\\n' >>{log}")),
        ("an empty file", &format!(": >{log}")),
    ] {
        desk.sh(script);
        let told = desk.sh("git -C project log -g --date=unix --format='%gd %gs' main");
        let entries = project.reflog("refs/heads/main").unwrap();
        let lines = entries.iter().map(|it| format!("main@{{{}}} {}\n", it.seconds, it.message));
        assert_eq!(lines.collect::<String>().trim_end(), told, "{row}");
    }
    assert_eq!(project.reflog("refs/heads/none").ok(), None);
}

#[test]
fn a_branch_is_made_once_and_taken_back_only_by_who_made_it_and_untouched() {
    let desk = Desk::new();
    let (project, commit) = (desk.project(), desk.head());
    let other = "fedcba9876543210fedcba9876543210";
    let branches = || desk.sh("git -C project for-each-ref --format='%(refname:short)' refs/heads");
    for (name, script, stays) in [
        ("a/b", "true", false),
        (
            "moved",
            "git branch -f moved HEAD~0 && git update-ref -m x refs/heads/moved $(git commit-tree -m x HEAD^{tree})",
            true,
        ),
        ("again", "git branch -D again && git branch again", true),
    ] {
        project.make_branch(name, &commit, TOKEN, &desk.lock).unwrap();
        let twice = project.make_branch(name, &commit, other, &desk.lock).unwrap_err();
        assert!(twice.to_string().contains("already exists"), "{twice}");
        desk.sh(&format!("cd project && {script}"));
        project.take_back_branch(name, &commit, other).unwrap();
        assert!(branches().contains(name), "{name}");
        project.take_back_branch(name, &commit, TOKEN).unwrap();
        assert_eq!(branches().contains(name), stays, "{name}");
    }
    project.take_back_branch("never-there", &commit, TOKEN).unwrap();
}

#[test]
fn the_lock_of_a_branch_that_a_killed_git_left_is_broken_and_no_other() {
    let desk = Desk::new();
    let (project, commit) = (desk.project(), desk.head());
    for (text, stays) in [("", false), (commit.as_str(), false), ("something else", true)] {
        let lock = desk.path("project/.git/refs/heads/w.lock");
        std::fs::write(&lock, text).unwrap();
        project.take_back_branch("w", &commit, TOKEN).unwrap();
        assert_eq!(lock.try_exists().unwrap(), stays, "{text}");
    }
}

#[test]
fn commits_that_no_shared_reference_holds_are_found() {
    let desk = Desk::new();
    let commit = |script: &str| desk.sh(&format!("cd project && {script} && git rev-parse HEAD"));
    let held = commit("true");
    let first = commit("git switch -q --detach && git commit -q --allow-empty -m first");
    let second = commit("git commit -q --allow-empty -m second");
    desk.sh("cd project && git update-ref refs/bisect/bad HEAD && git update-ref refs/worktree/own HEAD && git switch -q main");
    let unheld = |tip: &str, most| {
        let found = desk.project().unheld(&[tip.to_owned()], most, None, None).unwrap();
        found.into_iter().map(|commit| commit.id).collect::<Vec<_>>()
    };
    assert_eq!(unheld(&held, 9), [""; 0]);
    assert_eq!(unheld(&second, 9), [second.clone(), first.clone()]);
    assert_eq!(unheld(&second, 1).as_slice(), std::slice::from_ref(&second));
    desk.sh(&format!("git -C project tag first {first}"));
    assert_eq!(unheld(&second, 9).as_slice(), std::slice::from_ref(&second));
    // It goes when its worktree cannot be brought back any more.
    desk.sh(&format!("git -C project update-ref refs/calve/dropped/x {second}"));
    assert_eq!(unheld(&second, 9).as_slice(), std::slice::from_ref(&second));
    desk.sh(&format!("git -C project update-ref refs/other/x {second}"));
    assert_eq!(unheld(&second, 9), [""; 0]);
    assert_eq!(desk.project().unheld(&[], 9, None, None).unwrap(), []);
    assert!(desk.project().unheld(&["0".repeat(40)], 9, None, None).is_err());
}

#[test]
fn the_commits_that_only_a_worktree_has_are_its_tips_there_or_not() {
    let desk = Desk::new();
    desk.sh("cd project && git worktree add -q --detach ../w && cd ../w && git commit -q --allow-empty -m two");
    let tip = desk.sh("git -C w rev-parse HEAD");
    desk.sh("cd w && git bisect start -q && git bisect bad >/dev/null && echo x >file && git stash create >../stash && git checkout -q file");
    let aside = desk.sh("mkdir project/.git/worktrees/w/rebase-merge && cp stash project/.git/worktrees/w/rebase-merge/autostash && cat stash");
    let project = desk.project();
    let entry = project.registrations().unwrap().remove(0);
    let mut expected = [tip, aside];
    expected.sort();
    assert_eq!(project.tips_of(&entry).unwrap().commits, expected);
    desk.sh("rm -r w");
    assert_eq!(project.tips_of(&entry).unwrap().commits, expected);
    let subjects: Vec<_> = project.unheld(&expected, 9, None, None).unwrap();
    assert!(subjects.iter().any(|commit| commit.subject == "two"));
}

#[test]
fn a_copy_has_its_head_all_references_and_all_stashes_as_tips() {
    let desk = Desk::new();
    let before = desk.project().all_tips(None).unwrap();
    assert_eq!((before.commits, before.objects.len()), (vec![desk.head()], 0));
    desk.sh("cd project && git tag -a -m x x && echo 1 >file && git stash -q && echo 2 >file && git stash -q && git switch -q --detach && git commit -q --allow-empty -m two");
    let tips = desk.project().all_tips(None).unwrap();
    assert_eq!((tips.commits.len(), tips.objects.len()), (4, 1));
    desk.sh("git init -q new");
    assert_eq!(desk.found("new").all_tips(None).unwrap().commits, [""; 0]);
}

#[test]
fn commits_of_another_repository_are_counted_and_kept() {
    let desk = Desk::new();
    desk.sh("cp -a project copy && cd copy && git commit -q --allow-empty -m two && git commit -q --allow-empty -m three");
    desk.sh("cd project && git commit -q --allow-empty -m other");
    let project = desk.project();
    let (copy, objects) = (desk.path("copy"), desk.path("copy/.git/objects"));
    let tip = desk.sh("git -C copy rev-parse HEAD");
    assert!(project.unheld(std::slice::from_ref(&tip), 9, None, None).is_err());
    assert_eq!(
        project.unheld(std::slice::from_ref(&tip), 9, None, Some(&objects)).unwrap().len(),
        2
    );
    assert_eq!(project.ahead_and_behind(&tip, "HEAD", Some(&objects)).unwrap(), (2, 1));
    assert_eq!(project.ahead_and_behind(&tip, &tip, None).unwrap(), (0, 0));
    let kept = project.keep_dropped("fix.lock", &tip, Some(&copy)).unwrap();
    assert_eq!(kept, "refs/calve/dropped/fix.lock_");
    std::fs::remove_dir_all(copy).unwrap();
    assert_eq!(desk.sh(&format!("git -C project rev-list --count {kept}")), "3");
    // The same commit keeps its reference; another commit gets another one.
    assert_eq!(project.keep_dropped("fix.lock", &tip, None).unwrap(), kept);
    let other = desk.head();
    assert_eq!(project.keep_dropped("fix.lock", &other, None).unwrap(), format!("{kept}-2"));
    desk.sh("git -C project fsck --full --strict");
}

#[test]
fn a_name_becomes_a_part_of_a_reference() {
    let desk = Desk::new();
    for (name, expected) in [
        ("fix-1", "fix-1"),
        ("a..b", "a._b"),
        ("a...b", "a._.b"),
        ("a~^:?*[\\b", "a_______b"),
        ("x.lock", "x.lock_"),
        ("x.LOCK", "x.LOCK_"),
        ("end.", "end._"),
        ("a@{b", "a__b"),
        ("ä", "ä"),
    ] {
        let part = as_reference(name);
        assert_eq!(part, expected);
        assert!(can_be_a_branch(&desk.path("project"), &part).unwrap(), "{part}");
    }
}

/// The states that a `git worktree add` leaves if it is killed after one of its steps.
#[test]
fn what_a_killed_git_left_is_known_to_be_ours_or_to_be_hardly_begun() {
    let desk = Desk::new();
    let temporary = desk.path("temporary");
    let reason = making(TOKEN);
    let folder = desk.path("project/.git").join(REGISTRATIONS).join("fix-12");
    std::fs::create_dir_all(&folder).unwrap();
    let entry = || Registration::read(folder.clone()).unwrap().unwrap();
    for (step, file, text, ours, hardly_begun) in [
        ("mkdir", "", String::new(), false, true),
        ("locked, empty", LOCKED, String::new(), false, true),
        ("locked", LOCKED, reason, true, false),
        ("gitdir, empty", GITDIR, String::new(), true, false),
        ("gitdir", GITDIR, format!("{}/fix-1/.git\n", temporary.display()), true, false),
        ("commondir", "commondir", "../..\n".to_owned(), true, false),
    ] {
        if !file.is_empty() {
            std::fs::write(folder.join(file), text).unwrap();
        }
        assert_eq!(entry().is_made_for(TOKEN, &temporary), ours, "{step}");
        assert!(!entry().is_made_for("another", &desk.path("elsewhere")), "{step}");
        assert_eq!(entry().is_hardly_begun("fix-1"), hardly_begun, "{step}");
        assert!(!entry().is_hardly_begun("fix"), "{step}");
        assert!(!entry().is_hardly_begun("other"), "{step}");
    }
    // The stage may be on another filesystem.
    entry().remove(&desk.path("no/stage")).unwrap();
    assert_eq!(desk.project().registrations().unwrap(), []);
    // calve does not take another program's lock for its own.
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join(LOCKED), "mine").unwrap();
    assert!(!entry().is_hardly_begun("fix-1") && !entry().is_made_for(TOKEN, &temporary));
}

#[test]
fn relative_paths_of_newer_gits_are_read() {
    for (folder, line, expected) in [
        ("/p/.git/worktrees/a", "../../../../w/a/.git\n", "/w/a/.git"),
        ("/w/a", "../../p/.git/worktrees/a", "/p/.git/worktrees/a"),
        ("/w/a", "/p/.git/worktrees/a\n", "/p/.git/worktrees/a"),
    ] {
        assert_eq!(absolute(Path::new(folder), line.as_bytes()), Path::new(expected));
    }
}

#[test]
fn sixteen_at_once_are_all_registered_and_all_removed() {
    let desk = Desk::new();
    let (project, commit) = (desk.project(), desk.head());
    let before = desk.known();
    desk.sh("mkdir temporary");
    std::thread::scope(|scope| {
        for number in 0..16 {
            let (project, desk, commit) = (&project, &desk, &commit);
            scope.spawn(move || {
                let (name, token) = (format!("w{number}"), format!("{number:032x}"));
                for round in 0..3 {
                    let at = desk.path(&format!("temporary/{round}-{number}/{name}"));
                    project.make_branch(&name, commit, &token, &desk.lock).unwrap();
                    let made = project.add(&at, Onto::Branch(&name), &token, &desk.lock).unwrap();
                    made.remove(&desk.path("stage")).unwrap();
                    project.take_back_branch(&name, commit, &token).unwrap();
                }
            });
        }
    });
    assert_eq!(desk.known(), before);
}

#[test]
fn the_heads_of_all_worktrees_and_whether_their_settings_may_differ_are_told_at_once() {
    let desk = Desk::new();
    desk.sh("cd project; git worktree add -q ../a -b x/y; git worktree add -q --detach '../b c'");
    let repository = read(&desk.path("project")).unwrap().unwrap();
    let commit = desk.sh("git -C project rev-parse HEAD").trim_end().to_owned();
    let heads = heads_in(&repository).unwrap();
    for (name, branch) in [("project", Some("main")), ("a", Some("x/y")), ("b c", None)] {
        let expected = Head { branch: branch.map(str::to_owned), commit: Some(commit.clone()) };
        assert_eq!(heads.get(&desk.path(name)), Some(&expected), "{name}");
    }
    assert_eq!(heads.len(), 3);
    for (setting, expected) in [
        ("a.b c", false),
        ("extensions.worktreeConfig true", true),
        ("includeIf.onbranch:main.path nothing", true),
    ] {
        desk.sh(&format!("cd project; git config {setting}"));
        let settings = settings_in(&repository.tree()).unwrap();
        assert_eq!(differ_by_tree(&settings), expected, "{setting}");
        desk.sh(&format!(
            "cd project; git config --unset-all {}",
            setting.split(' ').next().unwrap()
        ));
    }
}

/// Its failure was taken for "nothing": a drop of merged worktrees took one in the middle of a merge.
#[test]
fn a_git_that_cannot_say_what_is_under_way_is_no_sign_that_nothing_is() {
    let desk = Desk::new();
    let had = "git init -q -b main --ref-format=reftable tables 2>/dev/null || exit 0; cd tables; \
               git commit -q --allow-empty -m one; git update-ref CHERRY_PICK_HEAD HEAD; echo yes";
    if desk.sh(had).is_empty() {
        return;
    }
    let tree = Tree::at(&desk.path("tables")).unwrap().unwrap();
    assert_eq!(tree.under_way().unwrap(), ["a cherry-pick"]);
    desk.sh("cd tables; git update-ref -d CHERRY_PICK_HEAD");
    assert_eq!(tree.under_way().unwrap(), [""; 0]);
    desk.sh("mv tables/.git/objects tables/.git/away");
    assert!(matches!(tree.under_way(), Err(Failure::Refused(_))));
}

/// A copy of such a file has the same registration, so that a commit in the copy moves the branch of
/// the original.
#[test]
fn a_git_file_leads_out_of_a_copy_unless_it_is_of_the_trees_own_submodule() {
    for (made, at, expected) in [
        ("git -C other worktree add -q ../project/n", "n", true),
        ("git -C project worktree add -q n", "n", true),
        ("git -C project worktree add -q ../w; cp -r w project/n", "n", true),
        ("git -C project worktree add -q ../modules; cp -r modules project/n", "n", true),
        ("git init -q --separate-git-dir=apart project/n", "n", true),
        ("cp -r other project/in; git -C project/in worktree add -q ../n", "n", true),
        (
            "mkdir project/n; echo gitdir: ../../other/.git/worktrees/w >project/n/.git; git -C other worktree add -q ../w",
            "n",
            true,
        ),
        ("git -C project submodule --quiet add ../other n", "n", false),
        (
            "git -C project submodule --quiet add ../other n; echo gitdir: $PWD/project/.git/modules/n >project/n/.git",
            "n",
            false,
        ),
        (
            "cp -r other project/in; git -C project/in submodule --quiet add ../../other n",
            "in/n",
            false,
        ),
        ("mkdir project/n; echo gitdir: /nowhere >project/n/.git", "n", false),
        ("mkdir project/n; echo words >project/n/.git", "n", false),
        ("git init -q project/n", "n", false),
        ("mkdir project/n", "n", false),
    ] {
        let desk = Desk::new();
        desk.sh(&format!("cp -r project other; {made}"));
        let project = desk.path("project");
        let own = OwnFolders::of(&project);
        assert_eq!(own.is_led_out(&project.join(at)), expected, "{made}");
    }
}
