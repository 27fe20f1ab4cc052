//! Promise: in a clone, git gives the same answer as if it read every file there, and reads only
//! the files that it would read in the source.
//!
//! To get the answer of a git that reads everything, the test gives git an index with the same
//! entries and no stats.
//! records no stat.
#![cfg(target_os = "linux")]

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::common::git::{
    Dice, FILES, PROJECT, edit, entries, git, not_ready, rounds, script, status, tick, truth,
};
use crate::common::odd::{self, set_mtime};
use crate::common::snapshot::{assert_same, only, snapshot};
use crate::common::{Scratch, has_command, not_run, sh};
use calve::{CloneMode, CloneOptions, DestinationReport, Existing, GitIndex, clone_tree};

fn ready() -> CloneOptions {
    CloneOptions::new().git_index(GitIndex::Ready)
}

struct Desk {
    scratch: Scratch,
    project: PathBuf,
}

impl Desk {
    /// `None` where there is no git, which is said.
    fn new(test: &str) -> Option<Self> {
        if !has_command("git") {
            not_run(test, "there is no git");
            return None;
        }
        let scratch = Scratch::new();
        let project = scratch.join("project");
        fs::create_dir(&project).unwrap();
        Some(Self { scratch, project })
    }

    /// With a repository made by `git init INIT`, and then a script.
    fn with(test: &str, init: &str, text: &str) -> Option<Self> {
        let desk = Self::new(test)?;
        script(&desk.project, &format!("git init -q -b main {init} .\n{text}"));
        Some(desk)
    }

    fn clone(&self, name: &str, options: &CloneOptions) -> (PathBuf, DestinationReport) {
        let clone = self.scratch.join(name);
        let mut report = clone_tree(&self.project, &[&clone], options).unwrap();
        (clone, report.destinations.remove(0))
    }
}

#[test]
fn git_reads_no_file_of_the_clone_of_a_clean_project() {
    let test = "git_reads_no_file_of_the_clone_of_a_clean_project";
    for (what, init, before, after) in [
        ("as git makes it", "", "", ""),
        ("version 2", "", "", "git update-index --index-version 2"),
        (
            "version 3",
            "",
            "",
            "echo i > intended; git add -N intended; git update-index --force-write-index",
        ),
        ("version 4", "", "git config index.version 4", ""),
        ("without a sum", "", "git config index.skipHash true", ""),
        (
            "version 4 without a sum",
            "",
            "git config index.version 4; git config index.skipHash true",
            "",
        ),
        ("SHA-256", "--object-format=sha256", "", ""),
        ("SHA-256, version 4", "--object-format=sha256", "git config index.version 4", ""),
        ("SHA-256 without a sum", "--object-format=sha256", "git config index.skipHash true", ""),
        ("an untracked cache", "", "git config core.untrackedCache true", "git status"),
        ("several threads", "", "git config index.threads 4", ""),
        ("old files", "", "touch -d 2001-02-03 */* || :", ""),
    ] {
        let text = format!("{before}\n{PROJECT}\n{after}");
        let Some(desk) = Desk::with(test, init, &text) else { return };
        let (clone, report) = desk.clone("clone", &ready());
        let count = entries(&clone) - u64::from(what == "version 3");
        assert_eq!(report.ready_index_entries, count, "{what}");
        assert_eq!(not_ready(&clone).replace("intended\n", ""), "", "{what}");
        assert_eq!(status(&clone), status(&desk.project), "{what}");
        // No new entry has the flag "intent to add".
        if what != "version 3" {
            assert_eq!(status(&clone), truth(&clone), "{what}");
        }
        let staged = |dir| sh(git(dir).args(["ls-files", "--stage", "-v"]));
        assert_eq!(staged(&clone), staged(&desk.project), "{what}");
        // It looks at the index's sum, too.
        sh(git(&clone).args(["fsck", "--no-dangling"]));
    }
}

#[test]
fn the_kernel_sees_git_open_no_tracked_file() {
    let test = "the_kernel_sees_git_open_no_tracked_file";
    if !has_command("strace") {
        return not_run(test, "there is no strace");
    }
    // git compares seconds, and reads a file that changed in the second in which the index was
    // written. For calve, an entry is racy if it changed in the same tick.
    let text = format!(
        "{PROJECT}\ntouch -d 2020-01-01 run.sh $(git ls-files '?' 'src/*'); tick; git status"
    );
    let Some(desk) = Desk::with(test, "", &text) else { return };
    tick();
    let opened = |clone: &Path| {
        let log = desk.scratch.join("log");
        let mut strace = Command::new("strace");
        strace
            .current_dir(clone)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .args(["-f", "-y", "-e", "trace=open,openat,openat2", "-o"])
            .arg(&log)
            .args(["git", "status", "--porcelain"]);
        sh(&mut strace);
        let log = fs::read_to_string(log).unwrap();
        let tracked = |line: &&str| {
            !line.contains(".git/")
                && ["\"a\"", "\"src/a\"", "\"src/deep/er/b\"", "\"run.sh\"", "\"z\""]
                    .iter()
                    .any(|name| line.contains(name))
        };
        log.lines().filter(tracked).count()
    };
    let (clone, _) = desk.clone("ready", &ready());
    assert_eq!(opened(&clone), 0);
    // The test would see it.
    let (clone, _) = desk.clone("exact", &CloneOptions::new());
    assert_eq!(opened(&clone), 5);
}

/// Each row is a script in a project that has been committed. In the clone, git gives the same
/// answer as in the project, and the same as if it read everything. This many of the twelve entries
/// are ready.
#[test]
#[expect(clippy::too_many_lines, reason = "a table: one row for each case")]
fn whatever_the_state_of_the_project_git_answers_the_same_in_the_clone() {
    let test = "whatever_the_state_of_the_project_git_answers_the_same_in_the_clone";
    for (what, expected, text) in [
        ("a longer file", 11, "echo more >> a"),
        ("the same size", 11, "echo IN a > a"),
        (
            "the same size and time",
            11,
            "touch -r a ../time; tick; echo IN a > a; touch -r ../time a",
        ),
        (
            "the same size and time, and git looked",
            11,
            "touch -r a ../time; tick; echo IN a > a; touch -r ../time a; git status",
        ),
        ("the same content", 11, "tick; echo in a > a"),
        ("a time of the past", 11, "tick; touch -d 1999-01-01 a"),
        ("a time of the future", 11, "touch -d 2099-01-01 a; tick; git update-index --refresh"),
        (
            "a time of the past that git knows",
            12,
            "touch -d 1999-01-01 a; tick; git update-index --refresh",
        ),
        ("a time before 1970", 12, "touch -d 1960-01-01 a; tick; git update-index --refresh"),
        ("may be run", 11, "chmod +x a"),
        ("may not be run", 11, "chmod -x run.sh"),
        ("a mode that git does not know", 11, "tick; chmod 600 a"),
        ("staged", 12, "echo new > a; tick; git add a"),
        ("staged and edited", 11, "echo new > a; tick; git add a; tick; echo neu > a"),
        ("staged and new", 13, "echo new > new; tick; git add new"),
        ("staged and gone", 12, "echo new > new; tick; git add new; rm new"),
        ("untracked", 12, "echo new > new"),
        ("gone", 11, "rm a"),
        ("removed", 11, "git rm -q a"),
        ("removed from the index alone", 11, "git rm -q --cached a"),
        ("a link that was a file", 11, "rm a; ln -s b a"),
        ("a file that was a link", 11, "rm link; printf src/a > link"),
        ("a link elsewhere", 11, "ln -sf src/b link"),
        ("a folder that was a file", 11, "rm a; mkdir a; echo x > a/x"),
        ("a link for a folder", 9, "mv src/deep elsewhere; ln -s ../elsewhere src/deep"),
        ("another of the same name", 11, "cp -p a c; mv c a"),
        ("moved back and forth", 11, "tick; mv a c; mv c a"),
        ("another name", 11, "tick; ln a c"),
        ("to be left out", 11, "git update-index --skip-worktree a"),
        ("to be believed", 11, "git update-index --assume-unchanged a"),
        (
            "a conflict",
            11,
            "git checkout -qb other; echo other > a; git commit -qam other; git checkout -q main; \
             echo main > a; git commit -qam main; git merge other || :; tick; git update-index --refresh || :",
        ),
        ("split", 0, "git update-index --split-index; echo more > b"),
        ("locked", 0, "touch .git/index.lock"),
        ("of two names", 0, "ln .git/index index-too"),
        ("no index", 0, "rm .git/index"),
        ("an empty index", 0, "git rm -qr --cached ."),
        ("a link to the index", 0, "mv .git/index ../index; ln -s ../../index .git/index"),
        ("a sparse checkout", 7, "git sparse-checkout set --cone nothing; tick; git status"),
        (
            "a sparse index",
            7,
            "git sparse-checkout set --cone --sparse-index nothing; tick; git status",
        ),
        (
            "the ignored mode",
            12,
            "git config core.fileMode false; tick; git update-index --refresh",
        ),
        (
            "git trusts less",
            12,
            "git config core.checkStat minimal; git config core.trustctime false",
        ),
        (
            "git trusts less, and must read what changed in the second of its index",
            11,
            "git config core.checkStat minimal; git config core.trustctime false
             until
                 touch a; touch -r a ../time; git update-index -q --refresh --force-write-index
                 [ $(stat -c %Y a) = $(stat -c %Y .git/index) ]
             do tick; done
             echo IN a > a; touch -r ../time a; sleep 1.1",
        ),
    ] {
        let text = format!("{PROJECT}\n{text}");
        let Some(desk) = Desk::with(test, "", &text) else { return };
        let (clone, report) = desk.clone("clone", &ready());
        assert_eq!(status(&clone), status(&desk.project), "{what}");
        let believed = matches!(
            what,
            "to be left out" | "to be believed" | "a sparse index" | "a sparse checkout"
        );
        if !believed && what != "locked" {
            assert_eq!(status(&clone), truth(&clone), "{what}");
        }
        assert_eq!(report.ready_index_entries, expected, "{what}");
        let left: Vec<_> = snapshot(&clone)
            .into_keys()
            .filter(|path| path.to_string_lossy().contains(".calve-"))
            .collect();
        assert!(left.is_empty(), "{what}: {left:?}");
    }
}

/// Like the index of another program: nanoseconds are zero.
#[test]
fn an_index_without_nanoseconds_is_compared_by_seconds() {
    let test = "an_index_without_nanoseconds_is_compared_by_seconds";
    let cut = "python3 - <<'E'
import hashlib
d=bytearray(open('.git/index','rb').read()[:-20])
at=12
for _ in range(int.from_bytes(d[8:12],'big')):
    d[at+4:at+8]=d[at+12:at+16]=bytes(4)
    at+=(62+(int.from_bytes(d[at+60:at+62],'big')&0xfff)+8)&~7
open('.git/index','wb').write(bytes(d)+hashlib.sha1(bytes(d)).digest())
E";
    if !has_command("python3") {
        return not_run(test, "there is no python3");
    }
    for (what, wait, expected) in [("at once", "", 0), ("after a second", "sleep 1.1", 12)] {
        let text = format!("git config index.version 2\n{PROJECT}\n{wait}\n{cut}");
        let Some(desk) = Desk::with(test, "", &text) else { return };
        tick();
        let (clone, report) = desk.clone("clone", &ready());
        // The project may have been made over the turn of a second.
        assert!(report.ready_index_entries == expected || expected == 0, "{what}: {report:?}");
        assert_eq!(status(&clone), truth(&clone), "{what}");
    }
}

#[test]
fn nested_repositories_and_submodules_are_ready_too() {
    let test = "nested_repositories_and_submodules_are_ready_too";
    let Some(desk) = Desk::with(test, "", PROJECT) else { return };
    script(
        &desk.project,
        "mkdir ../library; (cd ../library; git init -q -b main; echo l > l; echo m > m; git add -A; git commit -qm l)
        mkdir ../outer; (cd ../outer; git init -q -b main; echo o > o; git add -A
            git submodule --quiet add ../library in/ner; git commit -qm o)
        git submodule --quiet add ../library sub
        git submodule --quiet add --name with/slash ../library deep/sub
        git submodule --quiet add ../outer outer
        git submodule --quiet update --init --recursive
        git commit -qm submodules
        mkdir -p nested/project; cd nested/project; git init -q -b main; echo n > n; git add n; git commit -qm n
        tick
        cd ../..; for dir in . sub deep/sub outer outer/in/ner nested/project; do touch .git/index; (cd $dir; git update-index --force-write-index); done
        tick",
    );
    let (clone, report) = desk.clone("clone", &ready());
    let places = ["", "sub", "deep/sub", "outer", "outer/in/ner", "nested/project"];
    for place in places {
        let (from, to) = (desk.project.join(place), clone.join(place));
        assert_eq!(not_ready(&to), "", "{place}");
        assert_eq!(status(&to), status(&from), "{place}");
        assert_eq!(status(&to), truth(&to), "{place}");
    }
    // Submodules themselves have an entry, whose stat is that of a folder, and git looks inside.
    assert_eq!(report.ready_index_entries, 13 + 2 + 2 + 2 + 2 + 1);
}

#[test]
fn the_index_keeps_its_metadata_and_everything_else_is_exact() {
    let test = "the_index_keeps_its_metadata_and_everything_else_is_exact";
    let Some(desk) = Desk::with(test, "", PROJECT) else { return };
    let index = desk.project.join(".git/index");
    odd::chmod(&index, 0o640);
    let has_xattrs = odd::set_xattr(&index, "user.test", b"kept").is_ok();
    let has_acls = odd::set_default_acl(&desk.project.join(".git"));
    set_mtime(&desk.project.join(".git"), 1_000_000_000, 7);
    if !has_xattrs || !has_acls {
        not_run(test, "there are no attributes here");
    }
    tick();
    for (name, mode) in [("clone", CloneMode::Clone), ("copy", CloneMode::Copy)] {
        let (clone, report) = desk.clone(name, &ready().mode(mode));
        assert_eq!(report.ready_index_entries, 12, "{name}");
        let (from, mut to) = (snapshot(&desk.project), snapshot(&clone));
        let (old, new) = (&from[Path::new(".git/index")], &to[Path::new(".git/index")]);
        assert!(new.mtime > old.mtime, "{name}");
        assert_eq!((new.mode, &new.xattrs), (old.mode, &old.xattrs), "{name}");
        to.insert(".git/index".into(), old.clone());
        assert_same(&from, &to, name);
    }
}

#[test]
fn an_exact_clone_and_links_have_the_index_of_the_source() {
    let test = "an_exact_clone_and_links_have_the_index_of_the_source";
    let Some(desk) = Desk::with(test, "", PROJECT) else { return };
    let index = desk.project.join(".git/index");
    let before = (fs::read(&index).unwrap(), fs::metadata(&index).unwrap().mtime_nsec());
    for (name, options) in [
        ("the default", CloneOptions::new()),
        ("exact", CloneOptions::new().git_index(GitIndex::Exact)),
        ("hardlink", ready().mode(CloneMode::Hardlink)),
        ("symlink", ready().mode(CloneMode::Symlink)),
    ] {
        let (clone, report) = desk.clone(name, &options);
        assert_eq!(report.ready_index_entries, 0, "{name}");
        let found = clone.join(".git/index");
        assert_eq!(fs::read(&found).unwrap(), before.0, "{name}");
        assert_eq!(fs::metadata(&found).unwrap().mtime_nsec(), before.1, "{name}");
    }
    let after = (fs::read(&index).unwrap(), fs::metadata(&index).unwrap().mtime_nsec());
    assert_eq!(before, after);
}

#[test]
fn what_a_merge_or_a_filter_kept_away_is_read_by_git() {
    let test = "what_a_merge_or_a_filter_kept_away_is_read_by_git";
    for (what, expected, options) in [
        ("merged", 12, ready().existing(Existing::Merge)),
        ("merged but for a", 11, ready().existing(Existing::Merge).exclude("/a")),
        ("kept", 0, ready().existing(Existing::Keep)),
        ("without .git", 0, ready().existing(Existing::Merge).exclude(".git")),
    ] {
        let Some(desk) = Desk::with(test, "", PROJECT) else { return };
        let (clone, _) = desk.clone("clone", &ready());
        // Size and time are those of the source. git compares seconds, so it does not see such an
        // edit in the second of the clone.
        thread::sleep(Duration::from_millis(1100));
        let modified = fs::metadata(clone.join("a")).unwrap();
        fs::write(clone.join("a"), "IN a\n").unwrap();
        set_mtime(&clone.join("a"), modified.mtime(), modified.mtime_nsec());
        tick();
        let (_, report) = desk.clone("clone", &options);
        assert_eq!(report.ready_index_entries, expected, "{what}: {report:?}");
        assert_eq!(status(&clone), truth(&clone), "{what}");
        let left = names_of_stages(&clone);
        assert!(left.is_empty(), "{what}: {left:?}");
    }
    // The index comes, and none of its files is replaced.
    let Some(desk) = Desk::with(test, "", PROJECT) else { return };
    let (clone, _) = desk.clone("clone", &ready());
    fs::remove_file(clone.join(".git/index")).unwrap();
    let (_, report) = desk.clone("clone", &ready().existing(Existing::Keep));
    assert_eq!((report.kept_entries > 12, report.ready_index_entries), (true, 0));
    assert_eq!(status(&clone), truth(&clone));
}

fn names_of_stages(clone: &Path) -> Vec<PathBuf> {
    let tree = snapshot(clone);
    only(&tree, |path, _| path.to_string_lossy().contains(".calve-")).into_keys().collect()
}

/// Edits that git and calve might miss, in any order, with git's looks and commits in between, and
/// then one in the clone.
#[test]
fn after_any_edits_git_says_in_the_clone_what_it_would_if_it_read_everything() {
    let test = "after_any_edits_git_says_in_the_clone_what_it_would_if_it_read_everything";
    for seed in rounds(24) {
        let Some(desk) = Desk::with(test, "", PROJECT) else { return };
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut steps = Vec::new();
        for _ in 0..12 {
            let name = FILES[dice.roll(FILES.len())];
            let step = edit(&desk.project, name, dice.roll(14), &mut dice);
            steps.push(format!("{step} {name}"));
        }
        let (clone, report) = desk.clone("clone", &ready());
        let what = format!("seed {seed}, {} ready: {steps:#?}", report.ready_index_entries);
        assert_eq!(status(&clone), truth(&clone), "{what}");
        assert!(report.ready_index_entries >= 6, "{what}");
        // A change of the same size, and at once: git compares seconds.
        let text = fs::read(clone.join("z")).unwrap();
        fs::write(clone.join("z"), text.iter().rev().copied().collect::<Vec<_>>()).unwrap();
        assert_eq!(status(&clone), truth(&clone), "edited in the clone, {what}");
        assert!(status(&clone).contains(" z\n"), "edited in the clone, {what}");
    }
}
