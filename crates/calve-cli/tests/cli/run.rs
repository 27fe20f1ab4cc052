//! Promise: `calve run` shows a program the worktree at the project's path, and what the program
//! does there is done in the worktree alone; no other process notices anything.
//!
//! Each test runs as the user of the suite, and as a plain user if that is root: root needs no user
//! namespace.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::hints::with_git;
use crate::{Run, not_run, scratch};

const NOBODY: u32 = 65_534;

/// A folder of one user, and a command `calve` that this user can run.
struct Desk {
    _scratch: tempfile::TempDir,
    root: PathBuf,
    user: Option<u32>,
}

impl Desk {
    /// One for each user. In its project `app` are a file, a folder `d`, and worktrees `one` and
    /// `two`.
    fn all(test: &str) -> Vec<Self> {
        let is_root = rustix::process::geteuid().is_root();
        let users = [None, Some(NOBODY)].into_iter().take(1 + usize::from(is_root));
        if !is_root {
            not_run(test, "as root");
        }
        users.filter_map(|user| Self::of(user, test)).collect()
    }

    fn of(user: Option<u32>, test: &str) -> Option<Self> {
        let scratch = scratch();
        let root = fs::canonicalize(scratch.path()).unwrap();
        let bin = root.join("bin");
        fs::create_dir(&bin).unwrap();
        // The folders above the one that was built may be closed to others.
        let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_calve")).arg(&bin).status();
        assert!(copied.unwrap().success());
        fs::set_permissions(bin.join("calve"), fs::Permissions::from_mode(0o755)).unwrap();
        chown(&root, user, user).unwrap();
        let desk = Self { _scratch: scratch, root, user };
        let made = desk.sh(
            ".",
            "git init -q -b main app; cd app; echo x >f; mkdir d; echo y >d/g; printf '/out\\n/build\\n' >.gitignore
            git add .; git commit -qm 1; calve start -q one two >&2; calve run one -- true",
        );
        if made.stderr.contains("git: not found") {
            not_run(test, "there is no git");
            return None;
        }
        if made.stderr.contains("no mount namespace") {
            not_run(test, &format!("as user {user:?}: {}", made.stderr.trim()));
            return None;
        }
        assert_eq!(made.code, Some(0), "{made:?}");
        Some(desk)
    }

    fn command(&self, folder: &str, script: &str) -> Command {
        let mut shell = with_git(Command::new("sh"));
        let path = std::env::var("PATH").unwrap_or_default();
        shell.args(["-ec", script]).current_dir(self.root.join(folder)).stdin(Stdio::null());
        shell.env("PATH", format!("{}:{path}", self.root.join("bin").display()));
        shell.env("HOME", &self.root).env_remove("CALVE_STORE");
        if let Some(user) = self.user {
            shell.uid(user).gid(user);
        }
        shell
    }

    #[track_caller]
    fn sh(&self, folder: &str, script: &str) -> Run {
        self.command(folder, script).output().unwrap().into()
    }

    /// What the script prints, with `@` for the desk. It must succeed.
    #[track_caller]
    fn said(&self, folder: &str, script: &str) -> String {
        let run = self.sh(folder, script);
        assert_eq!(run.code, Some(0), "{:?}: {script}: {run:?}", self.user);
        run.stdout.replace(self.root.to_str().unwrap(), "@")
    }

    /// All that git and calve know of the worktrees, from outside.
    fn known(&self) -> String {
        self.said(
            "app",
            "git worktree list --porcelain; cat .git/worktrees/*/gitdir .git/calve/format
            cat ../app.worktrees/*/.git 2>&1 || true; calve list; git fsck --no-dangling; git worktree prune -n -v",
        )
    }
}

#[test]
fn git_means_the_worktree_and_outside_nothing_is_named_otherwise() {
    for desk in Desk::all("git in calve run") {
        // git writes a registration's path again if it is a day old; and a worktree inside the
        // project cannot be seen at its path.
        desk.said(
            "app",
            "git worktree add -q inner; touch -d '3 days ago' .git/worktrees/*/gitdir",
        );
        let before = desk.known();
        let script = r#"calve run one -- sh -ec '
            pwd; git rev-parse --show-toplevel; git status --porcelain --branch
            git worktree prune -v; git worktree list --porcelain | grep ^worktree; git worktree repair
            git -C ../app.worktrees/one status --porcelain --branch
            git -C ../app.worktrees/two status --porcelain --branch
            git -C "$CALVE_PROJECT" rev-parse --abbrev-ref HEAD
            echo a >a; git stash -qu; git stash pop >/dev/null; git status --porcelain
            cat "$CALVE_PROJECT/f" ../app.worktrees/one/a; rm a'"#;
        let project = "@/.calve-run/app";
        let expected = format!(
            "@/app\n@/app\n## one\nworktree {project}\nworktree {project}/inner\nworktree @/app\n\
             worktree @/app.worktrees/two\n## one\n## two\nmain\n?? a\nx\na\n"
        );
        let sorted = |text: &str| {
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        assert_eq!(sorted(&desk.said("app", script)), sorted(&expected));
        assert_eq!(desk.known(), before);
        // A commit, with a hook.
        let script = r#"printf '#!/bin/sh\npwd >hooked\n' >.git/hooks/pre-commit; chmod +x .git/hooks/pre-commit
            calve run one -- sh -ec 'echo z >f; git commit -qam 2; cat hooked'
            cat f; git log --format=%s -1 one; cat ../app.worktrees/one/f; git -C ../app.worktrees/one status --short"#;
        assert_eq!(desk.said("app", script), "@/app\nx\n2\nz\n?? hooked\n");
    }
}

/// What git knows of other worktrees stays: by whatever path they are registered, and although files
/// are mounted in them.
#[test]
fn git_forgets_no_other_worktree_and_deletes_none_by_half() {
    for desk in Desk::all("other worktrees in calve run") {
        // The project moves behind a link, and has a worktree inside, as its submodule has.
        desk.said(
            ".",
            "git init -q -b main lib; cd lib; echo l >l; git add l; git commit -qm l; mkdir ../home; cd ..
            git clone -q app home/p 2>/dev/null; cd home/p
            git -c protocol.file.allow=always submodule --quiet add $HOME/lib lib; git commit -qm sub
            git worktree add -q --detach in/x; git -C lib worktree add -q --detach ../in/y; calve start -q a b
            cd in/x; echo w >w; git add w; git commit -qm only-here; echo s >s; git add s
            cd ../../../..; mv home data; ln -s data home",
        );
        let known = "git worktree list; git -C lib worktree list; git worktree prune -nv; git -C lib worktree prune -nv
            git -C in/x status -s; git -C in/x log --format=%s -1; git -C in/y status -s; ls ../p.worktrees/b";
        let before = desk.said("home/p", known);
        let refused = |command: &str| {
            format!(
                "! git worktree {command} 2>err; grep -hE \"not point back|containing submodules\" err"
            )
        };
        let script = format!(
            "calve run a -- sh -ec 'git worktree prune -v; git -C $CALVE_PROJECT/lib worktree prune -v
            git -C $CALVE_PROJECT/in/x status -s; git -C $CALVE_PROJECT/in/y rev-parse --abbrev-ref HEAD
            git -C ../p.worktrees/b branch --show-current; {}; {}; {}; rm err' >../said; grep -cE \"back|moved\" ../said
            grep -vE \"back|moved\" ../said",
            refused("remove --force ../p.worktrees/b"),
            refused("move ../p.worktrees/b ../p.worktrees/c"),
            refused("remove --force $CALVE_PROJECT/in/x"),
        );
        assert_eq!(desk.said("home/p", &script), "3\nA  s\nHEAD\nb\n");
        assert_eq!(desk.said("home/p", known), before);
        // Where nobody runs, git removes it.
        desk.said("home/p", "git worktree remove --force ../p.worktrees/b");
    }
}

#[test]
fn calve_itself_refuses_to_work_there_whatever_leads_to_the_store() {
    for desk in Desk::all("calve in calve run") {
        desk.said("app", "calve start -q --git copy copy; calve start -q --git none none");
        desk.said(".", "mkdir plain; cd plain; echo x >f; calve init -q; calve start -q w");
        let before = desk.known();
        let (project, two) = ("-C $CALVE_PROJECT", "-C ../app.worktrees/two");
        for (folder, name, verb) in [
            ("app", "one", "status".to_owned()),
            ("app", "one", "list".to_owned()),
            ("app", "one", "drop --force one".to_owned()),
            ("app", "one", "start three".to_owned()),
            ("app", "one", "run two -- true".to_owned()),
            ("app", "one", format!("{project} list")),
            ("app", "one", format!("{project} start three")),
            ("app", "one", format!("{two} status")),
            ("app", "copy", "status".to_owned()),
            ("app", "none", "status".to_owned()),
            ("app", "none", format!("{project} list")),
            ("plain", "w", "status".to_owned()),
            ("plain", "w", format!("{project} snapshot")),
            ("app", "one", "fill ../app.worktrees/two".to_owned()),
            ("app", "one", "clone . ../cloned".to_owned()),
            ("plain", "w", "clone $CALVE_PROJECT ../cloned".to_owned()),
            ("app", "one", "hook claude create <../hook".to_owned()),
        ] {
            fs::write(desk.root.join("hook"), r#"{"name":"hooked","cwd":"."}"#).unwrap();
            let run = desk.sh(folder, &format!("calve run {name} -- sh -c 'calve {verb}'"));
            assert_eq!(run.code, Some(1), "{name}: {verb}: {run:?}");
            let says = "is hidden from programs that 'calve run' started";
            assert!(run.stderr.contains(says), "{name}: {verb}: {run:?}");
        }
        assert_eq!(desk.known(), before);
        assert_eq!(desk.said("plain", "calve status w"), "");
    }
}

#[test]
fn the_program_stands_in_calves_place() {
    for desk in Desk::all("the program of calve run") {
        desk.said("app", "mkdir only; echo '#!/bin/nowhere' >script; chmod +x script; cp script ../app.worktrees/one");
        for (folder, script, code, says) in [
            ("app", "calve run one -- sh -c 'exit 7'", 7, ""),
            // The shell of the test says it of the signal.
            ("app", "calve run one -- sh -c 'kill -TERM $$'", 143, ""),
            ("app", "calve run one -- nowhere", 127, "nowhere is not on the PATH"),
            ("app", "calve run one -- ./nowhere", 127, "cannot run ./nowhere"),
            ("app", "calve run one -- ./script", 127, "cannot run ./script"),
            ("app", "calve run one -- ./f", 126, "Permission denied"),
            ("app", "calve run one -- ./d", 126, "Permission denied"),
            ("app", "calve run nope -- true", 1, "no worktree is named 'nope'"),
            ("app", "calve run -- true", 1, "is the project, and at its path"),
            ("app", "calve run one true", 2, "unexpected argument 'true'"),
        ] {
            let run = desk.sh(folder, script);
            assert_eq!(run.code, Some(code), "{script}: {run:?}");
            assert!(run.stderr.contains(says), "{script}: {run:?}");
        }
        for (folder, script, expected) in [
            ("app", "echo in | calve run one -- cat", "in\n"),
            ("app/d", "calve run one -- sh -c 'echo $PWD; ls'", "@/app/d\ng\n"),
            // The shell must not take the folder for the worktree's own.
            ("app.worktrees/one/d", "calve run -- sh -c 'pwd; pwd -P'", "@/app/d\n@/app/d\n"),
            ("app.worktrees/two", "calve run one -- pwd", "@/app\n"),
            // The worktree does not have this folder.
            ("app/only", "calve run one -- sh -c 'pwd; pwd -P'", "@/app\n@/app\n"),
            (".", "calve -C app/d run one -- pwd", "@/app/d\n"),
            (".", "SHELL=/bin/pwd calve run app.worktrees/one", "@/app\n"),
            ("app", "ulimit -Sn 99; calve run one -- sh -c 'ulimit -Sn'", "99\n"),
            ("app", "GIT_DIR=/nowhere calve run one -- git branch --show-current", "one\n"),
            ("app", "calve run one -- id -u; calve run one -- id -g", "ID\nID\n"),
            // No process stands between.
            (
                "app",
                "calve run one -- sh -c 'echo $PPID' >../parent; test $(cat ../parent) = $$ && echo",
                "\n",
            ),
            (
                "app",
                "calve run two -- env | grep -E '^(CALVE_(NAME|PORT|PROJECT|SLOT|WORKTREE)|CCACHE|COMPOSE)' | sort",
                "CALVE_NAME=two\nCALVE_PORT=3020\nCALVE_PROJECT=@/.calve-run/app\nCALVE_SLOT=2\n\
                 CALVE_WORKTREE=@/app\nCCACHE_BASEDIR=@/app\nCOMPOSE_PROJECT_NAME=app-two\n",
            ),
        ] {
            let said = desk.said(folder, script);
            let id = desk.user.unwrap_or_else(|| rustix::process::geteuid().as_raw()).to_string();
            assert_eq!(said, expected.replace("ID", &id), "{script}");
        }
    }
}

/// The repository of such a project is elsewhere, at the same path in the run; the project has a
/// registration of its own, with the path that the worktree has there.
#[test]
fn a_project_that_is_itself_a_linked_worktree_stays_registered() {
    for desk in Desk::all("linked projects in calve run") {
        desk.said(
            ".",
            "git clone -q --bare app bare.git; git -C bare.git worktree add -q ../bw main 2>/dev/null
            git -C app worktree add -q ../other; cd bw; calve init -q; calve start -q w",
        );
        for (folder, name, project) in
            [("bw", "w", ".calve-run/bw"), ("app", "other", ".calve-run/app")]
        {
            let script = format!(
                "calve run {name} -- sh -ec 'git worktree prune -v; git branch --show-current
                git worktree list --porcelain | grep -c -x \"worktree $CALVE_PROJECT\"
                git worktree list --porcelain | grep -c -x \"worktree $PWD\"; echo $CALVE_PROJECT; echo n >n; git add n
                git commit -qm n'; git log --format=%s -1 {name}; git status --porcelain; git worktree prune -n -v"
            );
            assert_eq!(desk.said(folder, &script), format!("{name}\n1\n1\n@/{project}\nn\n"));
        }
        let listed = desk.said("bw", "git worktree list --porcelain | grep ^worktree");
        assert_eq!(listed, "worktree @/bare.git\nworktree @/bw\nworktree @/bw.worktrees/w\n");
    }
}

#[test]
fn submodules_lead_to_their_own_repositories() {
    for desk in Desk::all("submodules in calve run") {
        let allow = "-c protocol.file.allow=always";
        desk.said(
            ".",
            &format!(
                "git init -q -b main lib; cd lib; echo l >l; git add l; git commit -qm l; cd ../app
                git {allow} submodule --quiet add ../lib deep/sub; git commit -qm sub; calve start -q linked
                calve start -q --git copy copy"
            ),
        );
        for name in ["linked", "copy"] {
            let said = desk.said(
                "app",
                &format!(
                    "calve run {name} -- sh -ec 'cd deep/sub; git rev-parse --show-toplevel; git status --porcelain
                    echo m >m; git add m; git commit -qm m; cd ../..; git status --porcelain'
                    cd ../app.worktrees/{name}/deep/sub; git log --format=%s; git rev-parse --show-toplevel
                    git -C ../../../../app status --porcelain"
                ),
            );
            let own = format!("@/app.worktrees/{name}/deep/sub");
            assert_eq!(said, format!("@/app/deep/sub\n M deep/sub\nm\nl\n{own}\n"), "{name}");
        }
    }
}

/// git noted the paths that hold in the run, so it failed in the worktree from then on.
#[test]
fn a_submodule_that_is_added_in_a_run_works_in_the_worktree_afterwards() {
    for desk in Desk::all("submodule add in calve run") {
        let add = "git -c protocol.file.allow=always submodule --quiet add ../lib";
        let status = "git -C deep/sub rev-parse --show-toplevel; git status --porcelain";
        desk.said(".", "git init -q -b main lib; cd lib; echo l >l; git add l; git commit -qm l");
        // A command outside changes nothing as long as the run needs the paths.
        let said = desk.said(
            "app",
            &format!(
                "mkfifo ../go ../done
                calve run one -- sh -ec '{add} deep/sub; echo >../go; read x <../done || :; {status}' &
                read x <../go; calve list >/dev/null || true; echo >../done; wait $!"
            ),
        );
        let changed = "A  .gitmodules\nA  deep/sub\n";
        assert_eq!(said, format!("@/app/deep/sub\n{changed}"));
        let there = "calve list >/dev/null; cd ../app.worktrees/one";
        let said = desk.said("app", &format!("{there}; {status}"));
        assert_eq!(said, format!("@/app.worktrees/one/deep/sub\n{changed}"));
        let said = desk.said("app", &format!("calve run one -- sh -ec '{status}'"));
        assert_eq!(said, format!("@/app/deep/sub\n{changed}"));
    }
}

#[test]
fn a_worktree_in_which_a_program_runs_is_not_dropped() {
    for desk in Desk::all("drop beside calve run") {
        let mut living = desk.command("app", "exec calve run one -- cat");
        let mut living = living.stdin(Stdio::piped()).spawn().unwrap();
        let program = PathBuf::from(format!("/proc/{}/comm", living.id()));
        while fs::read_to_string(&program).unwrap() != "cat\n" {
            assert!(living.try_wait().unwrap().is_none(), "it ended");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let dropped = desk.sh("app", "calve drop one");
        assert_eq!(dropped.code, Some(1), "{dropped:?}");
        assert!(dropped.stderr.contains(&format!("\n  {} cat\n", living.id())), "{dropped:?}");
        let other = desk.sh("app", "calve drop two");
        assert_eq!(other.code, Some(0), "{other:?}");
        drop(living.stdin.take());
        living.wait().unwrap();
        assert_eq!(desk.sh("app", "calve drop one").code, Some(0));
    }
}

/// Its path in the run is that of the project, for who looks from outside.
#[test]
fn a_server_in_the_run_is_the_worktrees_and_not_the_projects() {
    for desk in Desk::all("servers in calve run") {
        let mut living =
            desk.command("app", "exec calve run one -- sh -c 'echo $$ >s.pid; exec cat'");
        let mut living = living.stdin(Stdio::piped()).spawn().unwrap();
        let file = desk.root.join("app.worktrees/one/s.pid");
        let pid = format!("{}\n", living.id());
        while fs::read_to_string(&file).ok().as_ref() != Some(&pid) {
            assert!(living.try_wait().unwrap().is_none(), "it ended");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        desk.said("app", "cp ../app.worktrees/one/s.pid .");
        let said = desk.said(
            "app",
            "calve status one; calve start -q --from one three; ls ../app.worktrees/three
            calve start -q four; ls ../app.worktrees/four; rm s.pid",
        );
        let started = |name| format!("@/app.worktrees/{name}\n");
        let expected = [&started("three"), "d\nf\n", &started("four"), "d\nf\ns.pid\n"];
        assert_eq!(said, expected.concat());
        drop(living.stdin.take());
        living.wait().unwrap();
    }
}

/// The repository has another path in the run. A hook that did not run there let commits pass.
#[test]
fn settings_of_git_hold_in_the_run_as_outside_or_are_named() {
    for desk in Desk::all("git's settings in calve run") {
        let ask = "git config user.email; git config core.hooksPath; git config --get-all a.b; git -C $HOME/other config user.email";
        desk.said(
            ".",
            "git init -q other; git -C other config user.email o; git -C app config user.email p
            mkdir app/.git/own; printf '#!/bin/sh\necho no >&2; exit 1\n' >app/.git/own/pre-commit; chmod +x app/.git/own/*",
        );
        for (script, names) in [
            ("true", ""),
            // One that holds for all that is below a folder above holds in the run, too.
            ("git config -f ~/global includeIf.gitdir:~/.path ~/all; git config -f ~/all a.all 1", ""),
            (
                "git config --unset user.email; git config -f ~/global user.email g
                git config -f ~/global includeIf.gitdir:~/app/.path ~/one; git config -f ~/one user.email w
                git config -f ~/one --add a.b 1; git config -f ~/one --add a.b 2",
                "",
            ),
            ("git config core.hooksPath $PWD/.git/own", ""),
            (
                "git config -f ~/global includeIf.gitdir:~/.calve-run/.path ~/in; git config -f ~/in c.d 1",
                "c.d",
            ),
        ] {
            let run = |script: &str| {
                desk.sh("app", &format!("export GIT_CONFIG_GLOBAL=$HOME/global; {script}"))
            };
            let made = run(script);
            assert_eq!(made.code, Some(0), "{script}: {made:?}");
            let outside = run(&format!("cd ../app.worktrees/one; sh -c '{ask}'"));
            let inside = run(&format!("calve run one -- sh -c '{ask}'"));
            let at = inside.stdout.replace("/.calve-run/app/", "/app/");
            assert_eq!(at, outside.stdout, "{script}: {inside:?}");
            let named = inside.stderr.lines().find(|line| line.contains("do not hold alike"));
            let named = named.and_then(|line| line.rsplit_once(": ")).map_or("", |(_, names)| names);
            assert_eq!(named, names, "{script}: {inside:?}");
        }
        let hooked = desk.sh("app", "calve run one -- git commit -q --allow-empty -m x");
        assert_eq!((hooked.code, hooked.stderr.contains("no\n")), (Some(1), true), "{hooked:?}");
    }
}

/// The project was in the folder of the worktrees, and could be written to: what removed that folder
/// removed the project.
#[test]
fn what_a_program_does_by_mistake_does_not_reach_the_project() {
    for desk in Desk::all("the project in calve run") {
        desk.said("app", "echo work >uncommitted");
        let before = desk.said("app", "ls -A; cat f uncommitted; git status -s");
        for script in [
            "rm -r $CALVE_PROJECT/d; test -e $CALVE_PROJECT/d/g",
            "echo 2 >$CALVE_PROJECT/f; touch $CALVE_PROJECT/new; test ! -e $CALVE_PROJECT/new",
            "git -C $CALVE_PROJECT clean -qffdx; test -e $CALVE_PROJECT/uncommitted",
            // With the worktree itself.
            "rm -rf ../app.worktrees; test ! -e ../app.worktrees/two/f",
        ] {
            let run = desk.sh("app", &format!("calve run one -- sh -c '{script}'"));
            assert_eq!(run.code, Some(0), "{script}: {run:?}");
            assert_eq!(
                desk.said("app", "ls -A; cat f uncommitted; git status -s"),
                before,
                "{script}"
            );
            assert_eq!(
                desk.said("app", "git fsck; git branch"),
                "* main\n+ one\n+ two\n",
                "{script}"
            );
        }
    }
}

/// Where this user can make no folder beside the project, there is one beside the worktree.
#[test]
fn a_project_in_a_folder_that_is_not_the_users_runs_too() {
    for desk in Desk::all("calve run below a folder of another user") {
        if desk.user.is_none() {
            continue;
        }
        desk.said(".", "mkdir above trees; git clone -q app above/p; cd above/p; calve start -q --at ~/trees w");
        fs::set_permissions(desk.root.join("above"), fs::Permissions::from_mode(0o555)).unwrap();
        let said = desk.said(
            "above/p",
            "calve run w -- sh -c 'echo $CALVE_PROJECT; git branch --show-current'",
        );
        assert_eq!(said, "@/trees/.calve-run/p\nw\n");
    }
}

#[test]
fn where_it_cannot_be_calve_says_why_and_what_helps() {
    for desk in Desk::all("refusals of calve run") {
        desk.said("app", "calve start -q --at trees inside");
        let inside = desk.sh("app", "calve run inside -- true");
        assert_eq!(inside.code, Some(1), "{inside:?}");
        assert!(inside.stderr.contains("is inside the project"), "{inside:?}");
        assert!(inside.stderr.contains("calve.worktrees"), "{inside:?}");
        // As a user without rights, in a namespace that allows no others.
        let script = "unshare -Ur sh -ec 'echo 0 >/proc/sys/user/max_user_namespaces
            exec setpriv --inh-caps=-all --bounding-set=-all calve run one -- true'";
        let none = match desk.user {
            Some(_) => desk.sh("app", script),
            None => continue,
        };
        assert_eq!(none.code, Some(1), "{none:?}");
        let says = "no mount namespace: user.max_user_namespaces is 0\n\
                    hint: as root: sysctl -w user.max_user_namespaces=15000";
        assert!(none.stderr.contains(says), "{none:?}");
    }
}

/// Whether a program is installed; notes if it is not.
fn has(test: &str, program: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output().unwrap();
    if !found.status.success() {
        not_run(test, &format!("there is no {program}"));
    }
    found.status.success()
}

#[test]
fn a_build_folder_of_cmake_builds_the_worktree_and_leaves_the_project_alone() {
    let test = "CMake in calve run";
    if !has(test, "cmake") || !has(test, "cc") {
        return;
    }
    for desk in Desk::all(test) {
        let list = "cmake_minimum_required(VERSION 3.5)\nproject(app C)\nadd_executable(app main.c)\n\
                    enable_testing()\nadd_test(NAME app COMMAND app)\n";
        fs::write(desk.root.join("app/CMakeLists.txt"), list).unwrap();
        fs::write(desk.root.join("app/main.c"), "int main(void) { return 0; }\n").unwrap();
        let build = "cmake --build build && cd build && ctest --output-on-failure";
        desk.said("app", &format!("git add .; git commit -qm 2; cmake -B build; {build}"));
        let started = desk.sh("app", "calve start w");
        assert!(started.stderr.contains("'calve run w -- CMD'"), "{started:?}");
        // Nothing is built again.
        let objects = "find build -name '*.o' -o -name app | sort | xargs stat -c %y";
        let unchanged =
            desk.said("app", &format!("{objects}; calve run w -- sh -c '{build}' >&2; {objects}"));
        let lines: Vec<&str> = unchanged.lines().collect();
        assert_eq!(lines[..lines.len() / 2], lines[lines.len() / 2..]);
        let own = desk.said("app.worktrees/w", objects);
        assert_eq!(own.lines().collect::<Vec<_>>(), lines[..lines.len() / 2]);
        // Broken code in the worktree fails there, and not in the project.
        for (code, fails) in [("int main(void) { return 1; }", "Failed"), ("broken", "error")] {
            fs::write(desk.root.join("app.worktrees/w/main.c"), code).unwrap();
            let run = desk.sh("app", &format!("calve run w -- sh -c '{build}'"));
            assert_ne!(run.code, Some(0), "{code}: {run:?}");
            assert!(format!("{run:?}").contains(fails), "{code}: {run:?}");
            desk.said("app", build);
        }
    }
}

#[test]
fn what_ccache_knows_of_the_project_is_found_in_the_worktree() {
    let test = "ccache in calve run";
    if !has(test, "ccache") || !has(test, "cc") {
        return;
    }
    for desk in Desk::all(test) {
        // With an absolute path and debug information, which names the folder.
        let compile = "ccache cc -g -c $PWD/main.c -o main.o";
        fs::write(desk.root.join("app/main.c"), "int main(void) { return 0; }\n").unwrap();
        let script = format!(
            "{compile}; calve start -q w >&2; calve run w -- sh -ec 'unset CCACHE_BASEDIR; {compile}'
            ccache --print-stats | grep -E '^(direct|preprocessed)_cache_hit'"
        );
        let hits: u32 = desk
            .said("app", &script)
            .split_whitespace()
            .filter_map(|it| it.parse::<u32>().ok())
            .sum();
        assert_eq!(hits, 1);
    }
}

/// The recipe of docs/worktrees.md.
#[test]
fn in_bubblewrap_the_program_writes_to_the_worktree_and_to_gits_repository_alone() {
    let test = "bubblewrap in calve run";
    if !has(test, "bwrap") {
        return;
    }
    let page =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/worktrees.md"));
    let page = page.unwrap();
    let start = page.find("calve run fix-1 -- sh -c 'exec bwrap").unwrap();
    let recipe = page[start..].split("\n```").next().unwrap().replace("fix-1", "one");
    for desk in Desk::all(test) {
        let inner = "echo 1 >new; git add new; git commit -qm new; touch $CALVE_PROJECT/no ../no ~/no /usr/no";
        let script = recipe.replace("my-agent", &format!("sh -c \"{inner}\""));
        let run = desk.sh("app", &script);
        assert!(run.stderr.contains("cannot touch '/usr/no'"), "{run:?}");
        assert_eq!(
            desk.said("app", "git log --format=%s -1 one; cat ../app.worktrees/one/new"),
            "new\n1\n"
        );
        assert_eq!(desk.said(".", "ls no app/no app.worktrees/no 2>/dev/null || true"), "");
    }
}
