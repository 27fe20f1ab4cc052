//! Rounds of random git work in a worktree, with a drop beside it that may be killed. No commit and
//! no content is lost that was there when the drop began, or came while it ran: commits, also of
//! submodules, and what files, the index and stashes hold.
//!
//! `CALVE_DROP_ROUNDS` sets how many rounds run, and `CALVE_DROP_SEED` where they begin.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::{Random, calve, calve_command, not_run, program, scratch};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// Work that git does in a worktree. `$R` is a number, and all content that is made. Whatever is
/// refused here is refused.
const WORK: [&str; 35] = [
    "echo $R >f$R; git add f$R; git commit -qm c$R",
    "echo $R >>a; git commit -qam c$R",
    "git commit -q --amend -m amended$R",
    "echo $R >>a; git stash -q",
    "echo $R >>a; git stash -q; git stash pop -q",
    "git switch -q --detach; git commit -q --allow-empty -m d$R",
    "git switch -q -c b$R; git commit -q --allow-empty -m b$R",
    "git switch -q --detach HEAD~1",
    "git rebase -q --force-rebase HEAD~1",
    "GIT_SEQUENCE_EDITOR='sed -i s/^pick/edit/' git rebase -q -i HEAD~1",
    "git rebase --abort",
    "git bisect start; git bisect bad; git bisect good HEAD~1",
    "git bisect reset",
    "git cherry-pick main~1",
    "git merge -q --no-edit main",
    "git update-ref refs/worktree/k$R $(git commit-tree -p HEAD -m own$R HEAD^{tree})",
    "echo $R >untracked$R",
    "mkdir -p deep/$R; echo $R >deep/$R/untracked",
    "echo $R >a",
    "echo $R >staged$R; git add staged$R",
    "echo $R >only$R; git add only$R; rm only$R",
    "echo $R >>b",
    "echo $R >>b; git stash -q -u",
    "echo $R >new$R; git stash -q --all; git stash apply -q",
    "git update-index --assume-unchanged b; echo $R >>b",
    "git update-index --skip-worktree b; echo $R >>b",
    "git config status.showUntrackedFiles no; echo $R >unseen$R",
    "git config core.untrackedCache true; git update-index --untracked-cache; git status; echo $R >deep/cached$R",
    "for s in sub*/; do git -C $s commit -q --allow-empty -m s$R; git config submodule.${s%/}.ignore all; done",
    "for s in sub*/; do echo $R >$s/inside$R; done",
    "git worktree move . \"$AT-moved\"",
    "git gc -q --prune=now",
    "git worktree lock .; git worktree unlock .",
    "git worktree prune; git pack-refs --all",
    "git -c protocol.file.allow=always submodule --quiet add -f ../../lib sub$R; git -C sub$R commit -q --allow-empty -m s$R; git commit -qm sub$R",
];

struct Round {
    project: PathBuf,
    root: PathBuf,
    log: PathBuf,
}

impl Round {
    fn sh(&self, directory: &Path, script: &str) -> Output {
        program("bash", directory)
            .env("GIT_CONFIG_GLOBAL", self.log.with_file_name("gitconfig"))
            .args(["-c", script])
            .output()
            .unwrap()
    }

    /// A process that works in the worktree, by the path that it had, until that is gone. After
    /// each step it notes the commits and the content that are there. A note counts if the tree is
    /// in its place afterwards.
    fn worker(&self, random: &mut Random, steps: u64) -> Child {
        let mut script = format!("{HELD}\n{NOTE}\n");
        for _ in 0..steps {
            let work = WORK[random.one_of(WORK.len())];
            // These give up a commit, or content that is nowhere else.
            let gives_up = ["amend", "rebase", "bisect", "switch", ">a", "stash", "move"]
                .iter()
                .any(|it| work.contains(it));
            script.push_str(&format!(
                "cd / && cd \"$AT\" && [ -e .git ] || exit 0\nR={}\ngrep -qs true \"$LOG.step\" || echo {gives_up} >\"$LOG.step\"\n
                {{ {work}; }} >/dev/null 2>&1\n(note)\n",
                100_000 + random.below(900_000)
            ));
        }
        Command::new("bash")
            .current_dir("/")
            .env("GIT_CONFIG_GLOBAL", self.log.with_file_name("gitconfig"))
            .env("GIT_EDITOR", "true")
            .env("AT", &self.root)
            .env("LOG", &self.log)
            .args(["-c", &script])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// What was noted and is nowhere now. The trash does not count.
    fn lost(&self) -> Vec<String> {
        let beside = |what: &str| {
            let mut path = self.log.clone().into_os_string();
            path.push(what);
            fs::read_to_string(path).unwrap_or_default()
        };
        // References of the project, and all that each working tree holds.
        let held = self.said(&format!(
            "{HELD}
            cd \"$PROJECT\"; git rev-list --all; git log -p -m --all --format= | sed -n 's/^+//p'
            for git in $(find \"$PROJECT/.git\" \"$AT/.git\" -path '*/modules/*/HEAD' 2>/dev/null); do
                GIT_DIR=${{git%/HEAD}} GIT_WORK_TREE=. git rev-list --all HEAD
            done
            for tree in $(git worktree list --porcelain | sed -n 's/^worktree //p') \"$AT\" \"$AT-moved\"; do
                cd \"$tree\" && held
            done; true"
        ));
        let held: BTreeSet<&str> = held.lines().collect();
        // The work that was under way may have given up something.
        let noted = match beside(".step").trim_end() {
            "true" => String::new(),
            _ => beside(""),
        };
        noted.lines().filter(|it| !held.contains(it)).map(str::to_owned).collect()
    }

    fn said(&self, script: &str) -> String {
        let (project, root) = (self.project.display(), self.root.display());
        let run = self.sh(Path::new("/"), &format!("PROJECT='{project}'; AT='{root}'; {script}"));
        String::from_utf8_lossy(&run.stdout).into_owned()
    }
}

/// Prints what the working tree in the current folder holds, line by line: commits and their
/// ancestors, those of its submodules, and content of files, of the index, and of stashes.
const HELD: &str = r"held() {
    [ -e .git ] && {
        git rev-list --all HEAD; git log -g --format=%H HEAD
        git log -p -m -g --format= refs/stash -- | sed -n 's/^+//p'
        git diff --cached | sed -n 's/^+//p'
        for s in sub*/; do [ -e $s/.git ] && git -C $s rev-list --all HEAD; done
    }
    find . -name .git -prune -o -type f -exec grep -ah '' {} +
} 2>/dev/null";

/// Notes the commits that only this working tree may hold, and all content.
const NOTE: &str = r#"note() { set -e
    { git rev-parse -q --verify HEAD^{commit}
        git for-each-ref --format='%(objectname)' refs/worktree refs/bisect
        git log -g --format=%H HEAD
        for s in sub*/; do ! [ -e $s/.git ] || git -C $s rev-parse -q --verify HEAD^{commit}; done
        held | grep -xE '[0-9]{6}' || true; } >"$LOG.new"
    [ . -ef "$AT" ]; mv "$LOG.new" "$LOG"; rm -f "$LOG.step"; }"#;

#[test]
fn no_commit_and_no_content_is_lost_whatever_git_does_beside_a_drop_and_whenever_that_is_killed() {
    if !program("git", Path::new("/")).arg("version").output().is_ok_and(|it| it.status.success()) {
        return not_run("rounds of git work beside a drop", "git is not installed");
    }
    let (rounds, seed) = (number("CALVE_DROP_ROUNDS", 8), number("CALVE_DROP_SEED", 1));
    let mut tally: BTreeMap<String, u64> = BTreeMap::new();
    let scratch = scratch();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    for at in seed..seed + rounds {
        let mut random = Random(0x0d80_95ee_d000_0001 ^ (at << 20));
        let directory = scratch.path().join(at.to_string());
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("gitconfig"), "[user]\nname = n\nemail = e@example.org\n")
            .unwrap();
        let round = Round {
            project: directory.join("app"),
            root: directory.join("app.worktrees/w"),
            log: directory.join("log"),
        };
        let made = round.sh(
            &directory,
            "set -e; git init -q -b main lib; git -C lib commit -q --allow-empty -m lib
            git init -q -b main app; cd app; for n in 1 2 3; do echo $n >a; echo $n >b; git add .; git commit -qm $n; done",
        );
        assert!(made.status.success(), "{}", text(&made.stderr));
        assert_eq!(calve(&round.project, "init -q").code, Some(0));
        let kind = ["", " --git copy", " --detach"][random.one_of(3)];
        let run = calve(&round.project, &format!("start -q{kind} w"));
        assert_eq!(run.code, Some(0), "{run:?}");
        let steps = 1 + random.below(4);
        round.worker(&mut random, steps).wait().unwrap();
        let steps = random.below(6);
        let mut beside = round.worker(&mut random, steps);
        std::thread::sleep(Duration::from_millis(random.below(60)));
        let how =
            ["", " --force", " --delete-branch", " --force --delete-branch"][random.one_of(4)];
        let began = Instant::now();
        let mut drop = calve_command(&round.project, &format!("drop w{how}"))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let is_killed = random.below(3) == 0;
        if is_killed {
            std::thread::sleep(Duration::from_millis(random.below(400)));
            // It may have ended already.
            let _ = drop.kill();
        }
        let ended = drop.wait_with_output().unwrap();
        beside.wait().unwrap();
        let code = ended.status.code();
        let result = match code {
            None => "killed",
            Some(0 | 3) => "dropped",
            Some(_) => "refused",
        };
        *tally.entry(format!("{result}{how}")).or_default() += 1;
        // The next command brings back what a kill parted.
        let listed = calve(&round.project, "list");
        let words = format!(
            "CALVE_DROP_SEED={at} CALVE_DROP_ROUNDS=1, start{kind}, drop{how}: {code:?} after {:?}: {}; {listed:?}",
            began.elapsed(),
            text(&ended.stderr)
        );
        assert!(matches!(listed.code, Some(0 | 3)), "{words}");
        // A drop may be killed after its work was done.
        if result == "dropped" || fs::symlink_metadata(round.root.join(".git")).is_err() {
            // Nothing is kept of a tree without work.
            let restored = calve(&round.project, "undo w");
            *tally.entry(format!("restored {:?}", restored.code)).or_default() += 1;
        }
        let lost = round.lost();
        assert!(lost.is_empty(), "lost {lost:?}: {words}");
        // What still deletes the trash may be in the way; the scratch folder takes the rest along.
        let _ = fs::remove_dir_all(&directory);
    }
    println!("{rounds} rounds from {seed}: {tally:?}");
}
