//! What calve does where git answers for another tree, hides work, or cannot be asked at all: it
//! loses nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::{Run, calve_command, filesystem, is_root, not_run, output, program, scratch};

mod settings;
mod staged;

/// A project `app` with one commit, and a store.
struct Desk {
    scratch: TempDir,
    /// Variables of git that each command of calve gets.
    variables: Vec<(String, String)>,
}

/// `back FILE CONTENT`: git looks at the file, which then gets a content of the same size, and its old
/// time, all in one second, if need be at a later try. git compares whole seconds.
const GIT: &str =
    "git() { command git -c user.name=n -c user.email=e -c protocol.file.allow=always \"$@\"; }
    back() (cd \"${1%/*}\"; for try in {1..9}; do until [[ $(date +%N) < 2 ]]; do sleep .02; done
        echo one >\"$1\"; touch -d @1700000000 \"$1\"; git update-index -q --refresh || continue
        echo \"${2-two}\" >\"$1\"; touch -d @1700000000 \"$1\"; git diff --quiet && exit; done; exit 1)
    W=$PWD/app.worktrees/w; cd app;";

impl Desk {
    fn new() -> Self {
        let desk = Self { scratch: scratch(), variables: Vec::new() };
        fs::create_dir(desk.at("app")).unwrap();
        desk.sh("git init -q -b main; printf 'built\n' >.gitignore; echo one >file; git add -A; git commit -qm one");
        desk.calve("init -q");
        desk
    }

    fn with(mut self, name: &str, value: &Path) -> Self {
        self.variables.push((name.to_owned(), value.to_str().unwrap().to_owned()));
        self
    }

    fn at(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn tree(&self) -> PathBuf {
        self.at("app.worktrees/w")
    }

    /// Runs a script in the project. `$W` is the worktree.
    #[track_caller]
    fn sh(&self, script: &str) -> String {
        let mut command = program("bash", self.scratch.path());
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
        let output = command.args(["-ec", &format!("{GIT} {script}")]).output().unwrap();
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    fn command(&self, words: &str) -> Command {
        let mut command = calve_command(&self.at("app"), words);
        command.env("HOME", self.scratch.path()).env("GIT_CONFIG_NOSYSTEM", "1");
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    fn runs(&self, words: &str) -> Run {
        Run::of(output(self.command(words)), String::new())
    }

    #[track_caller]
    fn calve(&self, words: &str) -> Run {
        let run = self.runs(words);
        assert_eq!(run.code, Some(0), "{words}: {run:?}");
        run
    }
}

/// git in the worktree lists nothing of an ignored folder.
#[test]
fn work_in_a_repository_inside_an_ignored_folder_is_work_unless_the_base_has_it() {
    for (in_project, in_tree, expected) in [
        ("", "", Some(0)),
        ("", "echo two >a", Some(1)),
        ("", "rm a", Some(1)),
        ("", "echo new >new", Some(1)),
        ("", "echo out >out", Some(0)),
        ("", "echo two >a; git add a; git show HEAD:a >a", Some(1)),
        ("", "git update-index --assume-unchanged a; echo two >a", Some(1)),
        ("", "back $PWD/a", Some(1)),
        ("", "git commit -qm two --allow-empty", Some(1)),
        ("echo two >a; echo new >new", "", Some(0)),
        ("echo two >a", "echo three >a", Some(1)),
        ("echo two >a", "echo new >new", Some(1)),
        ("echo new >new", "git add new", Some(0)),
    ] {
        let desk = Desk::new();
        let nested = "git init -q built/n; cd built/n; echo one >a; echo out >.gitignore; git add .; git commit -qm one";
        desk.sh(&format!("{nested}; {in_project}"));
        desk.calve("start w");
        desk.sh(&format!("cd $W/built/n; {in_tree}"));
        let run = desk.runs("drop w");
        let row = format!("{in_project:?}, {in_tree:?}: {run:?}");
        assert_eq!(run.code, expected, "{row}");
        if expected != Some(0) {
            assert!(run.stderr.contains("built/n"), "{row}");
            if in_tree.contains("commit") {
                continue;
            }
            desk.calve("drop --force w");
            desk.calve("undo w");
            desk.sh("test -e $W/built/n/.git");
        }
    }
}

/// Only what git lists is compared with the base.
#[test]
fn what_git_lists_is_work_unless_the_base_has_it_as_it_is() {
    for (in_project, in_tree, expected) in [
        ("echo two >file", "", Some(0)),
        ("echo two >file", "echo six >file", Some(1)),
        ("echo two >file", "git add file", Some(0)),
        ("echo two >file", "chmod +x file", Some(1)),
        ("echo two >file", "echo new >new", Some(1)),
        ("echo two >file", "mkdir built; echo out >built/out", Some(0)),
        ("echo two >file", "chmod 700 .", Some(0)),
        ("rm file", "", Some(0)),
        ("rm file; mkdir file; echo 1 >file/1", "", Some(0)),
        ("rm file; mkdir file; echo 1 >file/1", "rm -r file; ln -s . file", Some(1)),
        ("git mv file moved", "", Some(0)),
        ("git mv file moved", "rm moved", Some(1)),
        ("mkdir -p u/v; echo 1 >u/v/1; echo 2 >u-2", "", Some(0)),
        ("mkdir -p u/v; echo 1 >u/v/1; echo 2 >u-2", "chmod 700 u", Some(1)),
        ("mkdir -p u/v; echo 1 >u/v/1; echo 2 >u-2", "rm u/v/1; ln -s ../../u-2 u/v/1", Some(1)),
        ("mkdir -p u/v; echo 1 >u/v/1; echo 2 >u-2", "mkfifo u/v/2; echo 1 >u/v/3", Some(1)),
    ] {
        let desk = Desk::new();
        desk.sh(in_project);
        desk.calve("start w");
        desk.sh(&format!("cd $W; {in_tree}"));
        let run = desk.runs("drop w");
        assert_eq!(run.code, expected, "{in_project:?}, {in_tree:?}: {run:?}");
    }
}

#[test]
fn no_setting_no_variable_and_no_other_repository_hides_work_from_a_drop() {
    let variables = |name: &str| {
        let all = ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR"];
        all.into_iter().filter(|it| *it == name).collect::<Vec<_>>()
    };
    // What is done before calve is asked, and whether `list` sees the work, too.
    for (what, script, is_listed) in [
        (
            "core.worktree",
            "git config core.worktree \"$PWD\"; git config extensions.worktreeConfig true; echo x >$W/new",
            true,
        ),
        (
            ".git is gone, and a repository is above",
            "git init -q ../; rm $W/.git; echo x >$W/new",
            true,
        ),
        (
            ".git is empty, and a repository is above",
            "git init -q ../; : >$W/.git; echo x >$W/new",
            true,
        ),
        (
            "untracked files are not shown",
            "git config status.showUntrackedFiles no; echo x >$W/new",
            true,
        ),
        (
            "assumed to be unchanged",
            "git -C $W update-index --assume-unchanged file; echo x >$W/file",
            false,
        ),
        ("skipped", "git -C $W update-index --skip-worktree file; echo x >$W/file", false),
        (
            "skipped, in a split index",
            "git -C $W update-index --split-index; git -C $W update-index --skip-worktree file; echo x >$W/file",
            false,
        ),
        (
            "compared by size and second",
            "git config core.checkStat minimal; git config core.trustctime false; git -C $W update-index --refresh; \
             touch -r $W/file time; sleep 1.1; echo two >$W/file; touch -r time $W/file",
            false,
        ),
        ("GIT_DIR", "echo x >$W/new", true),
        ("GIT_WORK_TREE", "echo x >$W/new", true),
        ("GIT_INDEX_FILE", "echo x >$W/new", true),
        ("GIT_COMMON_DIR", "echo x >$W/new", true),
        ("GIT_CONFIG_COUNT", "echo x >$W/new", true),
        ("GIT_CONFIG_PARAMETERS", "echo x >$W/new", true),
    ] {
        let mut desk = Desk::new();
        desk.calve("start -q w");
        desk.sh(script);
        desk.sh("git init -q ../other; echo '*' >../all");
        let (other, all) = (desk.at("other/.git"), desk.at("all"));
        for name in variables(what) {
            desk = desk.with(name, &other);
        }
        match what {
            "GIT_CONFIG_COUNT" => {
                desk = desk.with("GIT_CONFIG_VALUE_0", &all);
                for (name, value) in [("COUNT", "1"), ("KEY_0", "core.excludesFile")] {
                    desk.variables.push((format!("GIT_CONFIG_{name}"), value.to_owned()));
                }
            }
            "GIT_CONFIG_PARAMETERS" => {
                let set = format!("'core.excludesFile'='{}'", all.display());
                desk.variables.push((what.to_owned(), set));
            }
            _ => {}
        }
        let listed = desk.calve("list");
        assert!(!is_listed || !listed.stdout.contains("clean"), "{what}: {listed:?}");
        let run = desk.runs("drop w");
        assert_eq!(run.code, Some(1), "{what}: {run:?}");
        let work = if script.contains("$W/new") { "new" } else { "file" };
        assert!(run.stderr.contains(work), "{what}: {run:?}");
        assert!(desk.tree().join(work).try_exists().unwrap(), "{what}");
    }
}

#[test]
fn what_only_git_has_and_what_git_does_not_list_is_work_to_a_drop() {
    for (what, script, work) in [
        ("names differ in case", "git config core.ignoreCase true; echo x >$W/FILE", "FILE"),
        (
            "only the index has a new file",
            "git -C $W sparse-checkout set any; mkdir $W/d; echo x >$W/d/new; git -C $W add --sparse d/new; \
             git -C $W sparse-checkout reapply",
            "d/new",
        ),
        (
            "only the index has an edit",
            "git -C $W sparse-checkout set --no-cone /any; echo x >$W/file; git -C $W add --sparse file; \
             git -C $W sparse-checkout reapply",
            "file",
        ),
        (
            "the index has an edit of a file that is skipped, and the file another",
            "echo x >$W/file; git -C $W add file; git -C $W update-index --skip-worktree file; \
             git -C $W show HEAD:file >$W/file",
            "file",
        ),
        (
            "patches wait",
            "echo 1 >$W/file; git -C $W commit -qam p; git -C $W format-patch -q -1 --stdout >p; \
             git -C $W reset -q --hard HEAD^; echo 2 >$W/file; git -C $W commit -qam q; git branch keeps w; \
             git -C $W am -q <p 2>/dev/null || git -C $W reset -q --hard; rm p",
            "rebase-apply/0001",
        ),
        (
            "deeper than git can look",
            "cd $W; d=$(printf 'd%.0s' {1..200}); for i in {1..30}; do mkdir $d; cd $d; done; echo x >new",
            "ddd",
        ),
        (
            "a folder .git that is no repository",
            "mkdir -p $W/d/.git; echo x >$W/d/.git/notes",
            "d/.git",
        ),
        (
            "a repository without its HEAD, where git ignores it",
            "git init -q $W/built; git -C $W/built commit -q --allow-empty -m 1; rm $W/built/.git/HEAD",
            "built",
        ),
        ("edited in the second in which git looked", "back $W/file", "file"),
        (
            "grafted",
            "git -C $W checkout -q --detach; git -C $W commit -q --allow-empty -m only; \
             echo \"$(git rev-parse main) $(git -C $W rev-parse HEAD)\" >.git/info/grafts",
            "only",
        ),
    ] {
        let desk = Desk::new();
        desk.calve("start -q w");
        desk.sh(script);
        let listed = desk.calve("list");
        assert!(
            matches!(what, "grafted" | "patches wait" | "edited in the second in which git looked")
                || work == "built"
                || work == "d/.git"
                || !listed.stdout.contains("clean"),
            "{what}: {listed:?}"
        );
        let run = desk.runs("drop w");
        assert_eq!(run.code, Some(1), "{what}: {run:?}");
        assert!(run.stderr.contains(work) && desk.tree().is_dir(), "{what}: {run:?}");
        // By force, all of it is kept.
        desk.calve("drop -q --force w");
        if what != "grafted" {
            desk.calve("undo -q w");
            let again = desk.runs("drop w");
            assert_eq!(
                (again.code, again.stderr.contains(work)),
                (Some(1), true),
                "{what}: {again:?}"
            );
        }
    }
}

/// The look after the rename finds such a file, and then git compares its content.
#[test]
fn a_file_that_was_written_again_in_the_second_in_which_git_looked_is_work_if_it_differs() {
    let desk = Desk::new();
    // git takes a line that begins with a quote for a quoted one.
    desk.sh("mkdir objects; for name in objects/file '\"file\"' $'cr\\r' $'new\\nline'; do echo one >\"$name\"; done
        git add -A; git commit -qm more");
    for (start, index, name) in [
        ("start -q w", "", "file"),
        ("start -q --git copy w", "", "file"),
        // calve does not read this index itself.
        ("start -q w", "--split-index", "file"),
        ("start -q w", "", "objects/file"),
        ("start -q w", "", "'\"file\"'"),
        ("start -q w", "", "$'cr\\r'"),
        ("start -q w", "", "$'new\\nline'"),
    ] {
        for (content, code) in [("two", 1), ("one", 0)] {
            desk.calve(start);
            desk.sh(&format!("git -C $W update-index {index}; back $W/{name} {content}"));
            let run = desk.runs("drop w");
            assert_eq!(
                (run.code, desk.tree().is_dir()),
                (Some(code), code == 1),
                "{start} {index} {name}: {run:?}"
            );
            desk.runs("drop -q --force --delete-branch w");
        }
    }
}

/// A subvolume goes with the tree in which somebody made it.
#[test]
fn what_is_in_a_subvolume_inside_is_work_as_in_any_folder() {
    let test = "what_is_in_a_subvolume_inside_is_work_as_in_any_folder";
    if filesystem() != "btrfs" {
        return not_run(test, "there are no subvolumes");
    }
    for (script, work) in [
        (
            "mkdir $W/built; btrfs -q subvolume create $W/built/r; git init -q $W/built/r; cd $W/built/r; \
             echo 1 >f; git add f; git commit -qm only",
            "only",
        ),
        ("btrfs -q subvolume create $W/new; git init -q $W/new/r; echo 1 >$W/new/r/f", "new"),
        (
            "btrfs -q subvolume create $W/s; echo one >$W/s/f; git -C $W add s; \
             git -C $W commit -qm s; git branch keeps w; export GIT_DISCOVERY_ACROSS_FILESYSTEM=1; back $W/s/f",
            "s/f",
        ),
    ] {
        let desk = Desk::new();
        desk.calve("start -q w");
        desk.sh(script);
        let run = desk.runs("drop w");
        assert_eq!((run.code, desk.tree().is_dir()), (Some(1), true), "{script}: {run:?}");
        assert!(run.stderr.contains(work), "{script}: {run:?}");
    }
}

/// Whether git can be asked does not depend on what the worktree's tree is like.
#[test]
fn without_an_answer_of_git_nothing_is_dropped_and_by_force_everything_is_kept() {
    for (kind, start) in [("linked", "start -q --detach w"), ("copy", "start -q --git copy w")] {
        for (how, script) in [
            ("no git", ""),
            ("a configuration that cannot be read", "mkdir ../.gitconfig"),
            (
                "a broken configuration",
                "echo '[core' >>.git/config; test -f $W/.git || echo '[core' >>$W/.git/config",
            ),
            ("an empty index", ": >\"$(git -C $W rev-parse --absolute-git-dir)/index\""),
            (
                "an empty HEAD",
                ": >\"$(git -C $W rev-parse --absolute-git-dir)/HEAD\"; git init -q ..",
            ),
        ] {
            let what = format!("{kind}, {how}");
            let desk = Desk::new();
            desk.sh("echo 'an hour of work' >file");
            desk.calve(start);
            let commit = desk.sh("git -C $W commit -qam precious; git -C $W rev-parse HEAD");
            desk.sh("git checkout -q file");
            assert_eq!(desk.runs("drop w").code, Some(1), "{what}");
            desk.sh(script);
            let empty = desk.at("empty");
            fs::create_dir(&empty).unwrap();
            let drop = |words: &str| {
                let mut command = desk.command(words);
                if how == "no git" {
                    command.env("PATH", &empty);
                }
                Run::of(output(command), String::new())
            };
            let run = drop("drop w");
            assert_eq!(run.code, Some(1), "{what}: {run:?}");
            assert!(run.stderr.contains("git cannot say"), "{what}: {run:?}");
            assert!(desk.tree().join("file").try_exists().unwrap(), "{what}");
            for words in ["drop --force w", "drop --force --discard w"] {
                let run = drop(words);
                assert_eq!(run.code, Some(0), "{what}: {run:?}");
                assert!(!desk.tree().try_exists().unwrap(), "{what}");
                if how == "a broken configuration" {
                    desk.sh("sed -i '/^.core$/d' .git/config");
                }
                desk.sh("rm -rf ../.gitconfig; git gc -q --prune=now");
                let run = desk.runs("undo w");
                assert_eq!(run.code, Some(0), "{what}: {run:?}");
                assert_eq!(
                    fs::read_to_string(desk.tree().join("file")).unwrap(),
                    "an hour of work\n"
                );
                if !matches!(how, "an empty HEAD" | "a broken configuration") {
                    let is = desk
                        .sh(&format!("git -C $W cat-file -e {commit} && git -C $W rev-parse HEAD"));
                    assert_eq!(is, commit, "{what}");
                    desk.sh(script);
                } else {
                    break;
                }
            }
        }
    }
}

#[test]
fn a_commit_that_only_a_worktree_names_is_no_less_than_one_of_its_head() {
    let desk = Desk::new();
    let mut number = 0;
    for format in ["files", "reftable"] {
        let made = desk.sh(&format!(
            "cd ..; mv app app-{format}-before; mkdir app; cd app; \
             command git init -q -b main --ref-format={format} . 2>/dev/null || {{ [ {format} = files ] && git init -q -b main; }} || echo no; \
             echo one >file; git add -A 2>/dev/null && git commit -qm one || true"
        ));
        if made == "no" {
            not_run("references in tables", "this git does not know them");
            continue;
        }
        desk.calve("init -q");
        for name in [
            "refs/worktree/deep/k",
            "refs/bisect/good-k",
            "refs/rewritten/k",
            "MERGE_HEAD",
            "CHERRY_PICK_HEAD",
            "REVERT_HEAD",
            "REBASE_HEAD",
            "BISECT_HEAD",
            "MERGE_AUTOSTASH",
        ] {
            for start in ["start -q w", "start -q --git copy w"] {
                let what = format!("{format}, {start}, {name}");
                desk.calve(start);
                number += 1;
                let commit = desk
                    .sh(&format!("git -C $W commit-tree -p HEAD -m kept-{number} 'HEAD^{{tree}}'"));
                // git makes these names itself, and refuses to be told to.
                let git_dir = desk.sh("git -C $W rev-parse --absolute-git-dir");
                match name {
                    "MERGE_HEAD" | "MERGE_AUTOSTASH" => {
                        fs::write(Path::new(&git_dir).join(name), format!("{commit}\n")).unwrap();
                    }
                    _ => drop(desk.sh(&format!("git -C $W update-ref {name} {commit}"))),
                }
                let run = desk.runs("drop w");
                assert_eq!(run.code, Some(1), "{what}: {run:?}");
                assert!(run.stderr.contains("kept"), "{what}: {run:?}");
                desk.calve("drop -q --force w");
                let held = desk.sh(&format!(
                    "git for-each-ref --contains {commit}; git branch -qD w 2>&1 || true"
                ));
                assert!(held.contains("refs/calve/dropped/w"), "{what}: {held}");
            }
        }
    }
}

/// An amended commit is worth no refusal, and no loss.
#[test]
fn commits_that_a_worktree_has_left_are_kept_by_one_reference_and_no_drop_refuses_for_them() {
    let made = "R=$(git -C $W rev-parse HEAD)
        left() { git -C $W commit -q --allow-empty -m $1; git -C $W rev-parse HEAD; }";
    for format in ["files", "reftable"] {
        let desk = Desk::new();
        let init = desk.sh(&format!(
            "rm -rf .git .calve; {{ command git init -q -b main --ref-format={format} . || {{ [ {format} = files ] && git init -q -b main; }}; }} 2>/dev/null \
             || echo no; [ ! -e .git ] || {{ git add file; git commit -qm one; }}"
        ));
        if init == "no" {
            not_run("a reflog in tables", "this git does not know them");
            continue;
        }
        desk.calve("init -q");
        for start in ["start -q w", "start -q --detach w", "start -q --git copy w"] {
            for (what, script, count) in [
                ("reset", "left a; git -C $W reset -q --hard $R", 1),
                ("reset twice", "for n in a b; do left $n; git -C $W reset -q --hard $R; done", 2),
                (
                    "a detached HEAD that was left, without its reflog",
                    "left a; git -C $W reset -q --hard $R; git -C $W reflog expire --expire=now --all",
                    1,
                ),
                (
                    "to be picked",
                    "left a | tee ../a; git -C $W reset -q --hard $R
                     D=$(git -C $W rev-parse --absolute-git-dir); mkdir $D/sequencer
                     echo \"pick $(cut -c1-10 ../a) a\" >$D/sequencer/todo
                     git -C $W reflog expire --expire=now --all; rm -f $D/ORIG_HEAD",
                    1,
                ),
                ("nothing", ":", 0),
                (
                    "on a branch",
                    "left a >/dev/null; git -C $W branch -q b; git fetch -q $W b:b; git -C $W reset -q --hard $R",
                    0,
                ),
            ] {
                let what = format!("{format}, {start}, {what}");
                if format == "reftable" && script.contains("rm -f") {
                    continue;
                }
                desk.calve(start);
                let left = desk.sh(&format!("{made}\n{script}"));
                let run = desk.calve("drop w");
                assert_eq!(left.lines().count(), count, "{what}: {left}");
                let kept = desk.sh("git for-each-ref --format='%(refname)' refs/calve");
                assert_eq!(kept.lines().count(), count.min(1), "{what}: {kept}, {run:?}");
                assert_eq!(run.stderr.contains("are kept"), count > 0, "{what}: {run:?}");
                for commit in left.lines() {
                    let held = desk.sh(&format!("git for-each-ref --contains {commit}"));
                    assert!(held.contains("refs/calve/dropped/w"), "{what}: {held}");
                }
                desk.sh("for r in $(git for-each-ref --format='%(refname)' refs/calve); do git update-ref -d $r; done
                    git branch -qD w b 2>/dev/null || true; git branch -qD w 2>/dev/null || true");
            }
        }
    }
}

/// `git status` asks a submodule with the settings and the index that the submodule has.
#[test]
fn nothing_in_a_submodule_hides_work_from_a_drop() {
    for start in ["start -q w", "start -q --git copy w"] {
        for (what, script) in [
            ("assumed", "git -C $S update-index --assume-unchanged l; echo x >$S/l"),
            ("skipped", "git -C $S update-index --skip-worktree l; echo x >$S/l"),
            ("not shown", "git -C $S config status.showUntrackedFiles no; echo x >$S/new"),
            ("ignored", "git -C $W config submodule.sub.ignore all; echo x >$S/new"),
            (
                "ignored further down",
                "git -C $S config submodule.inner.ignore all; echo x >$S/inner/i",
            ),
            (
                "assumed further down",
                "git -C $S/inner update-index --assume-unchanged i; echo x >$S/inner/i",
            ),
        ] {
            let desk = Desk::new();
            desk.sh(
                "for n in inner lib; do git init -q -b main ../$n; echo $n >../$n/${n:0:1}; git -C ../$n add .; git -C ../$n commit -qm $n; done
                git -C ../lib submodule --quiet add ../inner inner; git -C ../lib commit -qm inner
                git submodule --quiet add ../lib sub; git submodule --quiet update --init --recursive; git commit -qm sub",
            );
            desk.calve(start);
            let script = format!(
                "S=$W/sub; test -e $S/inner/i || git -C $W submodule --quiet update --init --recursive; {script}"
            );
            desk.sh(&script);
            let run = desk.runs("drop w");
            assert_eq!(run.code, Some(1), "{start}, {what}: {run:?}");
            assert!(run.stderr.contains("sub/"), "{start}, {what}: {run:?}");
        }
    }
}

#[test]
fn a_lock_of_git_is_honoured_whether_git_can_be_asked_or_the_tree_is_there() {
    for (what, script, has_git) in [
        ("there", "true", true),
        ("gone", "rm -r $W", true),
        ("there, without git", "true", false),
        ("gone, without git", "rm -r $W", false),
    ] {
        let desk = Desk::new();
        desk.calve("start -q w");
        desk.sh(&format!("git worktree lock --reason 'on a stick' $W; {script}"));
        let mut command = desk.command("drop w");
        if !has_git {
            command.env("PATH", "/nowhere");
        }
        let run = Run::of(output(command), String::new());
        assert_eq!(run.code, Some(1), "{what}: {run:?}");
        assert!(run.stderr.contains("on a stick"), "{what}: {run:?}");
        assert!(desk.at("app/.git/worktrees/w/locked").try_exists().unwrap(), "{what}");
        desk.sh("git worktree unlock $W");
        desk.calve("drop w");
    }
}

#[test]
fn a_tree_and_its_repository_are_known_by_what_they_are_and_not_by_their_paths() {
    for (what, script) in [
        (".git is a link", "mv .git ../repository; ln -s ../repository .git"),
        ("moved behind a link", "cd ..; mkdir far; mv app far/; ln -s far/app app"),
    ] {
        let desk = Desk::new();
        desk.sh(script);
        desk.calve("start -q --detach w");
        let run = desk.calve("list");
        assert!(run.stdout.contains("clean"), "{what}: {run:?}");
        let tree = desk.calve("list --json").json()["worktrees"][0]["path"].clone();
        let tree = tree.as_str().unwrap();
        let commit = desk.sh(&format!(
            "git -C {tree} commit -q --allow-empty -m kept; git -C {tree} rev-parse HEAD"
        ));
        let run = desk.runs("drop w");
        assert!(run.code == Some(1) && run.stderr.contains("kept"), "{what}: {run:?}");
        desk.calve("drop -q --force w");
        let held = desk.sh(&format!("git for-each-ref --contains {commit}; git worktree list"));
        assert!(held.contains("dropped/w") && !held.contains(tree), "{what}: {held}");
    }
}

#[test]
fn no_command_of_calves_runs_a_hook_of_git() {
    let desk = Desk::new();
    desk.sh(
        "git branch other; git config gc.auto 1
        for hook in reference-transaction post-checkout post-index-change pre-auto-gc post-rewrite post-commit pre-commit; do
            printf '#!/bin/sh\necho %s >>\"%s/ran\"\n' $hook \"$PWD/..\" >.git/hooks/$hook; chmod +x .git/hooks/$hook
        done",
    );
    for words in [
        "start -q w",
        "start -q --base other v",
        "start -q --git copy copy",
        "list",
        "drop --delete-branch w",
        "drop v",
        "drop --force copy",
        "start -q --detach u",
    ] {
        desk.calve(words);
    }
    let hooks = desk.at("app/.git/hooks");
    fs::rename(&hooks, desk.at("hooks")).unwrap();
    desk.sh("git -C ../app.worktrees/u commit -q --allow-empty -m kept");
    fs::rename(desk.at("hooks"), &hooks).unwrap();
    desk.calve("drop --force u");
    assert!(!desk.at("ran").try_exists().unwrap(), "{:?}", fs::read_to_string(desk.at("ran")));
}

#[test]
fn a_lock_that_a_dead_git_left_is_waited_for_some_seconds_and_named() {
    let desk = Desk::new();
    desk.calve("start -q w");
    desk.sh("git pack-refs --all; : >.git/packed-refs.lock");
    let began = std::time::Instant::now();
    let run = desk.runs("drop --delete-branch w");
    assert!(began.elapsed().as_secs() < 20, "{run:?}");
    assert!(run.stderr.contains("packed-refs.lock'"), "{run:?}");
    assert!(run.stderr.contains("rm '"), "{run:?}");
}

#[test]
fn a_start_says_what_it_did_not_bring_and_makes_nothing_without_the_settings() {
    let conflict = "git switch -qc o; echo 1 >file; git commit -qam 1; git switch -q main; echo 2 >file; git commit -qam 2;";
    for (script, start, expected) in [
        (
            "git cherry-pick o >/dev/null 2>&1 || true",
            "start w",
            Some("in the middle of a cherry-pick"),
        ),
        ("git rebase -q o >/dev/null 2>&1 || true", "start w", Some("in the middle of a rebase")),
        (
            "git revert --no-commit HEAD >/dev/null 2>&1 || true",
            "start w",
            Some("in the middle of a revert"),
        ),
        ("git bisect start -q", "start w", Some("in the middle of a bisection")),
        ("git merge -q o >/dev/null 2>&1 || true", "start w", None),
        ("git cherry-pick o >/dev/null 2>&1 || true", "start w --base o", None),
        ("git cherry-pick o >/dev/null 2>&1 || true", "start w --git copy", None),
        (
            "printf '[user]\nemail = work@example.org\n' >../inc; printf '[includeIf \"gitdir:%s/\"]\npath = %s/inc\n' \"$PWD\" \"$(cd ..; pwd)\" >../.gitconfig",
            "start w --git copy",
            Some("another identity and other settings in the copy"),
        ),
        ("mkdir ../.gitconfig", "start w", Some("error: cannot ask git about the settings of")),
        ("true", "start w --git copy", None),
    ] {
        let desk = Desk::new();
        desk.sh(&format!("{conflict} {script}"));
        let run = desk.runs(start);
        let code = i32::from(script.contains("mkdir"));
        assert_eq!(run.code, Some(code), "{script}: {run:?}");
        match expected {
            Some(words) => assert!(run.stderr.contains(words), "{script}: {run:?}"),
            None => assert!(
                !run.stderr.contains("warning: the project is in")
                    && !run.stderr.contains("includeIf"),
                "{script}: {run:?}"
            ),
        }
    }
}

/// Times of drops are whole seconds.
#[test]
fn of_two_worktrees_of_one_name_the_one_that_was_dropped_last_comes_back_first() {
    let desk = Desk::new();
    for round in 0..6 {
        for tree in ["first", "last"] {
            desk.calve(&format!("start -q --git none w{round}"));
            desk.sh(&format!("echo {tree} >${{W}}{round}/work"));
            desk.calve(&format!("drop -q --force w{round}"));
        }
        for tree in ["last", "first"] {
            desk.calve(&format!("undo -q w{round}"));
            assert_eq!(desk.sh(&format!("cat ${{W}}{round}/work")), tree, "{round}");
            desk.sh(&format!("mv ${{W}}{round} ../{tree}{round}"));
            desk.calve(&format!("drop -q --force w{round}"));
        }
    }
}

/// A container sees the tree at another path. What another `start` runs in its worktree is no part of
/// calve, although calve is its parent.
#[test]
fn a_process_that_sees_the_tree_elsewhere_or_that_a_start_runs_works_there() {
    let test = "a_process_that_sees_the_tree_elsewhere_or_that_a_start_runs_works_there";
    let calve = env!("CARGO_BIN_EXE_calve");
    let mounted = |what: &str| {
        format!(
            "mkdir -p ../m $W/built; unshare -m sh -c 'mount --bind \"$1\" \"$2\" && cd / && exec 3<\"$2\" && exec sleep 100' \
             - {what} \"$PWD/../m\" </dev/null >/dev/null 2>&1 & p=$!"
        )
    };
    for (tree, needs_root, script) in [
        ("w", true, mounted("$W/built")),
        ("w", true, mounted("$W")),
        (
            "v",
            false,
            format!(
                "{calve} start -q v -x 'exec sleep 100' </dev/null >/dev/null 2>&1 & c=$!; \
                 until p=$(pgrep -P $c -x sleep); do sleep .05; done"
            ),
        ),
    ] {
        if needs_root && !is_root() {
            not_run(test, "it takes root to mount");
            continue;
        }
        let desk = Desk::new();
        desk.calve("start -q w");
        let wait = "for i in {1..200}; do [[ $(cat /proc/$p/comm) == sleep ]] && break; sleep .05; done; echo $p";
        let process = desk.sh(&format!("{script}; {wait}"));
        let run = desk.runs(&format!("drop {tree}"));
        desk.sh(&format!("kill {process}"));
        assert_eq!(run.code, Some(1), "{script}: {run:?}");
        assert!(run.stderr.contains("processes work in it"), "{script}: {run:?}");
        assert!(desk.at(&format!("app.worktrees/{tree}/file")).is_file(), "{script}");
    }
}
