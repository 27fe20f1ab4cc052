//! Tests the command in sandboxes: a table of what they refuse, and the right answer of each verb.
//! A small launcher (`sandbox.c`) makes the sandboxes.

use std::ffi::OsString;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::SystemTime;

use tempfile::TempDir;

use crate::disk::tool;
use crate::lies::Lies;
use crate::{Run, calve, filesystem, is_root, is_shared, names, not_run, output, program, scratch};

/// What the launcher ends with where the kernel refuses to make the sandbox.
const CANNOT: i32 = 77;

/// A sandbox, as `sandbox.c` takes it, and the verbs whose answer is not success: the exit code and
/// a part of what the command says.
struct Row {
    sandbox: &'static [&'static str],
    except: &'static [(&'static str, i32, &'static str)],
}

/// In a fresh project each: in this order, because later ones need what earlier ones made.
const VERBS: [&str; 12] = [
    "init",
    "start a",
    "status a",
    "snapshot s",
    // A file was edited by now.
    "restore --force a",
    "undo a",
    "clone . ../copy",
    "clone . ../copied --mode copy",
    "list",
    "drop --force a",
    "restore a",
    "store gc",
];

const fn well(sandbox: &'static [&'static str]) -> Row {
    Row { sandbox, except: &[] }
}

const NO_PROCESSES: &[&str] = &["clone3=EAGAIN", "clone=EAGAIN"];

const APART: &str = "arrived as a file of its own, not as a hard link";

const ROWS: &[Row] = &[
    well(&["no-threads"]),
    well(&["clones-nothing"]),
    // Profiles that say EPERM for each call that they do not know.
    well(&["renameat2=EPERM", "faccessat2=EPERM", "openat2=EPERM", "statx=EPERM"]),
    well(&["copy_file_range=EPERM", "close_range=EPERM", "unshare=EPERM", "fadvise64=EPERM"]),
    well(&["ioctl=EPERM"]),
    well(&["pidfd_open=EPERM", "sched_getaffinity=EPERM", "prlimit64=EPERM", "setsid=EPERM"]),
    well(&["renameat2=ENOSYS", "faccessat2=ENOSYS", "openat2=ENOSYS", "statx=ENOSYS"]),
    // FUSE servers.
    well(&["copy_file_range=EIO"]),
    well(&["copy_file_range=EBADF"]),
    well(&["flistxattr=ENOSYS", "fgetxattr=ENOSYS", "fsetxattr=ENOSYS", "fremovexattr=ENOSYS"]),
    well(&["fremovexattr=EPERM"]),
    well(&["user-namespace"]),
    // What a careless parent leaves to its children.
    well(&["ignored-children"]),
    well(&["umask=0777"]),
    well(&["no-home"]),
    well(&["closed=0", "closed=1", "closed=2"]),
    Row {
        sandbox: &["bytes=20000"],
        except: &[
            ("init", 1, "File too large (EFBIG)"),
            ("start a", 1, ""),
            ("status a", 1, ""),
            ("snapshot s", 1, ""),
            ("restore --force a", 1, ""),
            ("undo a", 1, ""),
            ("list", 1, ""),
            ("drop --force a", 1, ""),
            ("restore a", 1, ""),
            ("store gc", 1, ""),
        ],
    },
    // No `/dev/null`, which git needs.
    Row {
        sandbox: &["without=/dev"],
        except: &[
            ("start a", 1, "could not open '/dev/null'"),
            ("status a", 1, "no worktree"),
            ("restore --force a", 1, "no worktree"),
            ("undo a", 1, "no worktree"),
            ("drop --force a", 1, "no worktree"),
            ("restore a", 1, "no worktree"),
        ],
    },
    // Nobody can say which processes work in a tree.
    Row {
        sandbox: &["without=/proc"],
        except: &[("drop --force a", 3, "living processes in /proc")],
    },
    // A limit of processes that is reached. calve works in its own thread, and needs git for git's.
    Row {
        sandbox: NO_PROCESSES,
        except: &[
            ("start a", 1, "a limit of processes is reached"),
            ("status a", 1, "no worktree"),
            ("restore --force a", 1, "no worktree"),
            ("undo a", 1, "no worktree"),
            ("drop --force a", 1, "no worktree"),
            ("restore a", 1, "no worktree"),
        ],
    },
    // Landlock's first version: no entry goes from one folder to another.
    Row {
        sandbox: &["landlock=@"],
        except: &[
            ("start a", 3, APART),
            ("clone . ../copy", 3, APART),
            ("clone . ../copied --mode copy", 3, APART),
        ],
    },
];

/// The built launcher. If there is none, this says that the test is not run.
fn launcher(test: &str) -> Option<&'static Path> {
    static BUILT: OnceLock<Result<(TempDir, PathBuf), String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let (source, binary) = (folder.path().join("sandbox.c"), folder.path().join("sandbox"));
        fs::write(&source, include_str!("sandbox.c")).unwrap();
        let mut cc = Command::new("cc");
        cc.args(["-O1", "-o"]).args([&binary, &source]);
        let output = cc.output().map_err(|error| format!("cc: {error}"))?;
        match output.status.success() {
            true => Ok((folder, binary)),
            // The system's headers are older than Landlock.
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    });
    match built {
        Ok((_, binary)) => Some(binary),
        Err(why) => {
            not_run(test, why);
            None
        }
    }
}

/// Runs the command in mounts of its own, which a script makes in `folder` before.
fn in_own_mounts(folder: &Path, script: &str, words: &str) -> Run {
    let mut command = program("unshare", folder);
    command.args(["--mount", "sh", "-c", &format!("{script} && \"$@\""), "sh"]);
    command.arg(env!("CARGO_BIN_EXE_calve")).args(words.split_whitespace());
    Run::of(output(command), String::new())
}

/// Runs the command in a sandbox; `@` in its words is `folder`.
fn sandboxed(launcher: &Path, sandbox: &[&str], folder: &Path, project: &Path, words: &str) -> Run {
    let mut command = program(launcher, project);
    for word in sandbox {
        command.arg(OsString::from(word.replace('@', folder.to_str().unwrap())));
    }
    command.arg("--").arg(env!("CARGO_BIN_EXE_calve")).args(words.split_whitespace());
    Run::of(output(command), String::new())
}

/// A small git project with a folder, a link and a file of two names.
fn project(folder: &Path) -> PathBuf {
    let app = folder.join("app");
    fs::create_dir_all(app.join("d")).unwrap();
    fs::write(app.join("d/file"), "content\n".repeat(1000)).unwrap();
    fs::hard_link(app.join("d/file"), app.join("other")).unwrap();
    symlink("d/file", app.join("link")).unwrap();
    let git = |words: &str| {
        let mut git = program("git", &app);
        git.args(["-c", "user.name=n", "-c", "user.email=e"]).args(words.split_whitespace());
        assert!(output(git).status.success(), "git {words}");
    };
    git("init -q");
    git("add .");
    git("commit -qm first");
    app
}

/// The names of stages below a folder and its subfolders `depth` levels down.
fn stages(folder: &Path, depth: usize) -> Vec<String> {
    let mut found = Vec::new();
    for name in names(folder) {
        let path = folder.join(&name);
        if name.starts_with(".calve-stage") {
            found.push(path.display().to_string());
        } else if depth > 0
            && path.is_dir()
            && !path.is_symlink()
            && ![".calve", "calve"].contains(&&*name)
        {
            found.extend(stages(&path, depth - 1));
        }
    }
    found
}

/// Whoever starts calve may ignore SIGCHLD; git's answers arrive all the same.
#[test]
fn with_sigchld_ignored_a_worktree_is_linked_and_dropped() {
    let Some(launcher) = launcher("SIGCHLD ignored") else { return };
    let scratch = scratch();
    let app = project(scratch.path());
    for verb in ["init", "start a", "drop a"] {
        let run = sandboxed(launcher, &["ignored-children"], scratch.path(), &app, verb);
        assert_eq!(run.code, Some(0), "{verb}: {run:?}");
        let is_linked = scratch.path().join("app.worktrees/a/.git").is_file();
        assert_eq!(is_linked, verb == "start a", "{verb}: {run:?}");
    }
}

#[test]
fn where_no_process_can_be_made_worktrees_are_used_and_what_git_must_say_is_not_guessed() {
    let Some(launcher) = launcher("no processes") else { return };
    let scratch = scratch();
    let app = project(scratch.path());
    for words in ["init", "start a b"] {
        assert_eq!(calve(&app, words).code, Some(0), "{words}");
    }
    let file = |name: &str| scratch.path().join("app.worktrees").join(name).join("d/file");
    fs::write(file("a"), "work").unwrap();
    let reached = "a limit of processes is reached";
    for (verb, code, says) in [
        ("status a", 3, ""),
        ("list", 3, "EAGAIN"),
        ("restore --force a", 0, ""),
        ("undo a", 0, ""),
        ("drop b", 1, reached),
        ("fill ../app.worktrees/b", 1, reached),
        ("drop --force a", 0, ""),
        ("restore a", 1, "EAGAIN"),
        // One of the settings that git cannot say may be that secrets stay in the project.
        ("start c --git none", 1, reached),
        ("store gc", 0, ""),
    ] {
        let run = sandboxed(launcher, NO_PROCESSES, scratch.path(), &app, verb);
        assert_eq!(run.code, Some(code), "{verb}: {run:?}");
        assert!(run.stderr.contains(says), "{verb}: {run:?}");
    }
    assert!(file("b").is_file());
    for words in ["undo a", "drop b"] {
        assert_eq!(calve(&app, words).code, Some(0), "{words}");
    }
    assert_eq!(fs::read(file("a")).unwrap(), b"work");
    assert_eq!(stages(scratch.path(), 2), Vec::<String>::new());
}

#[test]
fn where_namespaces_are_filtered_a_run_names_the_filter_and_what_turns_it_off() {
    let Some(launcher) = launcher("filtered namespaces") else { return };
    let scratch = scratch();
    let app = project(scratch.path());
    assert_eq!(calve(&app, "start a").code, Some(0));
    for (sandbox, says) in [
        (
            "unshare=EPERM",
            "a filter of system calls forbids it, as containers have one\nhint: start",
        ),
        ("unshare=ENOSYS", "this kernel, or a sandbox, has no user namespaces\nhint: "),
    ] {
        let run = sandboxed(launcher, &[sandbox], scratch.path(), &app, "run a -- true");
        assert_eq!(run.code, Some(1), "{sandbox}: {run:?}");
        assert!(run.stderr.contains(&format!("no mount namespace: {says}")), "{sandbox}: {run:?}");
    }
}

#[test]
fn in_each_sandbox_each_verb_works_or_says_why_not() {
    let test = "sandboxes";
    let Some(launcher) = launcher(test) else { return };
    let mut wrong = Vec::new();
    let mut number = 1..;
    for Row { sandbox, except } in ROWS.iter().filter(|_| number.next().is_some_and(is_shared)) {
        let scratch = scratch();
        if sandbox.contains(&"without=/dev") && scratch.path().starts_with("/dev") {
            not_run(test, "the folders of the tests are in /dev");
            continue;
        }
        let app = project(scratch.path());
        let edited = scratch.path().join("app.worktrees/a/d/file");
        for verb in VERBS {
            if verb.starts_with("restore") && edited.try_exists().unwrap() {
                fs::write(&edited, "work").unwrap();
            }
            let run = sandboxed(launcher, sandbox, scratch.path(), &app, verb);
            if run.code == Some(CANNOT) && run.stderr.starts_with("sandbox: ") {
                not_run(test, &format!("{sandbox:?}: {}", run.stderr.trim()));
                break;
            }
            let expected = except.iter().find(|(other, ..)| *other == verb);
            let (code, says) = expected.map_or((0, ""), |(_, code, says)| (*code, *says));
            if run.code != Some(code) || !run.stderr.contains(says) {
                wrong.push(format!("{sandbox:?}: calve {verb}: {:?}: {}", run.code, run.stderr));
            }
        }
        let content = fs::read(app.join("d/file")).unwrap();
        let copies = ["copy/d/file", "copied/d/file"].map(|copy| scratch.path().join(copy));
        let rows = copies.into_iter().map(|copy| (copy, &content[..]));
        for (file, expected) in rows.chain([(edited, &b"work"[..])]) {
            if fs::read(&file).is_ok_and(|content| content != expected) {
                wrong.push(format!("{sandbox:?}: {} differs", file.display()));
            }
        }
        let left = stages(scratch.path(), 2);
        if !left.is_empty() {
            wrong.push(format!("{sandbox:?}: left behind: {left:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The snapshot had no attributes, and for the group the rights of the ACL's mask; an undo brought
/// folders back with a mode of calve's. Neither said a word.
#[test]
fn what_of_an_entry_may_not_be_read_or_set_is_named() {
    let Some(launcher) = launcher("attributes that may not be read") else { return };
    let scratch = scratch();
    let app = project(scratch.path());
    let sandboxed = |sandbox, words| sandboxed(launcher, &[sandbox], scratch.path(), &app, words);
    // Of the owner, user 12, the group, the mask and all others.
    let entries = [
        (1_u16, 6_u16, u32::MAX),
        (2, 6, 12),
        (4, 0, u32::MAX),
        (16, 6, u32::MAX),
        (32, 0, u32::MAX),
    ];
    let mut acl = 2_u32.to_le_bytes().to_vec();
    for (tag, rights, id) in entries {
        acl.extend([tag.to_le_bytes(), rights.to_le_bytes()].concat());
        acl.extend(id.to_le_bytes());
    }
    let (flags, file) = (rustix::fs::XattrFlags::empty(), app.join("d/file"));
    for (name, value) in [("user.k", &b"1"[..]), ("system.posix_acl_access", &acl)] {
        if let Err(why) = rustix::fs::setxattr(&file, name, value, flags) {
            return not_run("attributes that may not be read", &why.to_string());
        }
    }
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&file), 0o660);
    assert_eq!(calve(&app, "init").code, Some(0));
    let run = sandboxed("fgetxattr=EPERM", "snapshot s");
    assert_eq!(run.code, Some(3), "{run:?}");
    for name in ["user.k", "system.posix_acl_access"] {
        let line = run.stderr.lines().find(|line| line.contains("d/file: arrived without its"));
        assert!(line.is_some_and(|line| line.contains(name)), "{run:?}");
    }
    assert_eq!(calve(&app, "start --from s w").code, Some(0));
    assert_eq!(mode(&scratch.path().join("app.worktrees/w/d/file")), 0o600);

    fs::remove_file(app.join("link")).unwrap();
    fs::create_dir(app.join("link")).unwrap();
    fs::write(app.join("link/in"), "in").unwrap();
    fs::set_permissions(app.join("link"), fs::Permissions::from_mode(0o775)).unwrap();
    assert_eq!(calve(&app, "restore --force s").code, Some(0));
    let run = sandboxed("fchmod=EPERM", "undo --force");
    assert_eq!(run.code, Some(3), "{run:?}");
    assert!(run.stderr.contains("link: arrived without its mode"), "{run:?}");
    assert_eq!(fs::read(app.join("link/in")).unwrap(), b"in");
}

/// Root of such a namespace knows one user. calve took it for somebody who can set all owners, and
/// showed each file of another owner as changed, for ever.
#[test]
fn an_owner_that_a_user_namespace_does_not_know_is_no_change() {
    let test = "owners in a user namespace";
    let Some(launcher) = launcher(test) else { return };
    if !is_root() {
        return not_run(test, "it takes root to have a file of another user");
    }
    let scratch = scratch();
    let app = project(scratch.path());
    chown(app.join("d/file"), Some(12_345), Some(12_345)).unwrap();
    for words in ["init", "snapshot s"] {
        assert_eq!(calve(&app, words).code, Some(0), "{words}");
    }
    let edited = scratch.path().join("app.worktrees/a/d/file");
    for verb in ["start a --from s", "status a", "restore --force a", "status a", "drop a"] {
        if verb.starts_with("restore") {
            fs::write(&edited, "work").unwrap();
        }
        let run = sandboxed(launcher, &["user-namespace"], scratch.path(), &app, verb);
        if run.code == Some(CANNOT) && run.stderr.starts_with("sandbox: ") {
            return not_run(test, run.stderr.trim());
        }
        assert_eq!(run.code, Some(0), "{verb}: {run:?}");
    }
}

/// A worktree that was made outside of the namespace: the owners in its snapshot have no number
/// inside. A file that was touched showed as changed, also after a restore.
#[test]
fn in_a_user_namespace_a_worktree_from_outside_has_no_changes_of_owners() {
    let test = "a worktree from outside in a user namespace";
    let Some(launcher) = launcher(test) else { return };
    if !is_root() {
        return not_run(test, "it takes root to be two users");
    }
    const USER: u32 = 12_345;
    for (sandbox, outside, owner) in [
        // Somebody else's file in root's worktree, and a user's own.
        (&["user-namespace"][..], &["user=0"][..], USER),
        (&["user=12345", "user-namespace"], &["user=12345"], USER),
    ] {
        let scratch = scratch();
        let app = project(scratch.path());
        if outside == ["user=12345"] {
            let chown = format!("chown -R {USER}:{USER} {}", scratch.path().display());
            tool(&app, &chown).unwrap();
        }
        chown(app.join("d/file"), Some(owner), Some(owner)).unwrap();
        for words in ["init", "start a"] {
            let run = sandboxed(launcher, outside, scratch.path(), &app, words);
            assert_eq!(run.code, Some(0), "{outside:?} {words}: {run:?}");
        }
        let file = scratch.path().join("app.worktrees/a/d/file");
        let touch =
            || fs::File::options().write(true).open(&file).unwrap().set_modified(SystemTime::now());
        for (verb, code, is_touched) in [
            ("status a", 0, true),
            ("restore a", 0, true),
            ("status a", 0, false),
            ("restore a", 0, false),
        ] {
            if is_touched {
                touch().unwrap();
            }
            let run = sandboxed(launcher, sandbox, scratch.path(), &app, verb);
            if run.code == Some(CANNOT) && run.stderr.starts_with("sandbox: ") {
                return not_run(test, run.stderr.trim());
            }
            assert_eq!(run.code, Some(code), "{sandbox:?} {verb}: {run:?}");
        }
    }
}

/// Another program that uses a database: it has written to it, and may write again.
const USER_OF_A_DATABASE: &str = "import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
for words in ['BEGIN IMMEDIATE', 'PRAGMA user_version = 1', 'COMMIT'] + sys.argv[2:]: db.execute(words)
print('ready', flush=True)
sys.stdin.read()";

/// A sandbox shows an agent its worktree, and the project read-only. Others use the store outside:
/// their log was taken for that of a killed process.
#[test]
fn where_the_project_is_read_only_verbs_that_read_work_whoever_uses_the_store_outside() {
    let test = "a read-only project in a sandbox";
    if !is_root() {
        return not_run(test, "it takes root to mount");
    }
    let scratch = scratch();
    let app = project(scratch.path());
    for words in ["init", "start a", "snapshot s"] {
        assert_eq!(calve(&app, words).code, Some(0), "{words}");
    }
    const READ_ONLY: &str =
        "mount --bind app app && mount -o remount,bind,ro app && cd app.worktrees/a";
    let inside = |words: &str| in_own_mounts(scratch.path(), READ_ONLY, words);
    let reads = |context: &str| {
        for verb in ["list", "status", "log", "show s"] {
            let run = inside(verb);
            assert_eq!(run.code, Some(0), "{context}: {verb}: {run:?}");
        }
    };
    let refused = inside("snapshot");
    if refused.code == Some(0) || !refused.stderr.contains("calve cannot write to it") {
        return not_run(test, &format!("nothing is read-only here: {refused:?}"));
    }
    reads("nobody uses it");
    let database = app.join(".git/calve/index.db");
    let shared = database.with_file_name("index.db-shm");
    for more in [&[][..], &["BEGIN IMMEDIATE"]] {
        let mut user = program("python3", &app);
        user.args(["-c", USER_OF_A_DATABASE]).arg(&database).args(more);
        let Ok(mut user) = user.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn() else {
            return not_run(test, "there is no python3");
        };
        let mut said = [0; 5];
        let ready = user.stdout.as_mut().unwrap().read_exact(&mut said);
        if ready.is_ok() {
            reads(&format!("a process that did {more:?}"));
        }
        user.kill().unwrap();
        user.wait().unwrap();
        if ready.is_err() {
            return not_run(test, "python3 has no sqlite3");
        }
        reads(&format!("one that was killed after {more:?}"));
    }
    fs::remove_file(&shared).unwrap();
    let run = inside("list");
    assert_eq!(run.code, Some(1), "{run:?}");
    for words in ["another process uses it, or was killed", "run 'calve list' where the store can"]
    {
        assert!(run.stderr.contains(words), "{run:?}");
    }
    assert_eq!(calve(&app, "list").code, Some(0));
    reads("the log was taken over");
}

/// A sandbox shows a worktree, and not its project. calve took the worktree for a plain folder, and
/// advised to make a store in it.
#[test]
fn where_the_project_is_hidden_a_worktree_says_whose_it_is_and_gets_no_store() {
    let test = "a hidden project";
    if !is_root() {
        return not_run(test, "it takes root to mount");
    }
    let scratch = scratch();
    let app = project(scratch.path());
    // A store above is not the worktree's.
    for (folder, words) in [(&*app, "start a"), (scratch.path(), "init")] {
        assert_eq!(calve(folder, words).code, Some(0), "{words}");
    }
    let tree = scratch.path().join("app.worktrees/a");
    let repository = app.join(".git");
    for verb in ["status", "list", "init", "start b", "snapshot", "restore", "drop a"] {
        let hide = "mount -t tmpfs none app && cd app.worktrees/a";
        let run = in_own_mounts(scratch.path(), hide, verb);
        if run.stderr.starts_with("mount: ") {
            return not_run(test, &run.stderr);
        }
        assert_eq!(run.code, Some(1), "{verb}: {run:?}");
        let why = format!(
            "at {}: it is a worktree of that repository, which cannot be seen from here\nhint: ",
            repository.display()
        );
        assert!(run.stderr.contains(&why), "{verb}: {run:?}");
    }
    assert_eq!(names(&tree), names(&app), "something was made in the worktree");
    assert_eq!(calve(&app, "drop a").code, Some(0));
}

/// A container's image has a store and worktrees, so they are in an overlay's lower layer, where no
/// folder can be renamed.
#[test]
fn a_worktree_in_an_overlays_lower_layer_is_dropped_and_brought_back() {
    let test = "worktrees in an overlay's lower layer";
    if !is_root() {
        return not_run(test, "it takes root to mount");
    }
    let scratch = scratch();
    let path = |name: &str| scratch.path().join(name);
    for folder in ["lower", "upper", "work", "merged"] {
        fs::create_dir(path(folder)).unwrap();
    }
    let within = |mount: &str, words: &[&str]| {
        let mut command = program("unshare", scratch.path());
        let script = format!(
            "mount {mount} && cd merged/app && for words; do \"$CALVE\" $words || exit 1; done"
        );
        command.args(["--mount", "sh", "-c", &script, "sh"]).args(words);
        command.env("CALVE", env!("CARGO_BIN_EXE_calve"));
        Run::of(output(command), String::new())
    };
    project(&path("lower"));
    let made = within("--bind lower merged", &["init", "start a b"]);
    let overlay = "-t overlay none -o lowerdir=lower,upperdir=upper,workdir=work merged";
    if made.code != Some(0) || within(overlay, &[]).code != Some(0) {
        return not_run(test, &format!("no overlay here: {made:?}"));
    }
    fs::write(path("lower/app.worktrees/b/work"), "work").unwrap();
    let run = within(overlay, &["drop a", "drop --force b", "undo b"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    let back = path("upper/app.worktrees/b/work");
    assert_eq!(fs::read_to_string(back).unwrap(), "work", "{run:?}");
}

/// What a filesystem refuses is left out and told, as by `cp -a`; what cannot be made has a hint.
#[test]
fn what_a_filesystem_refuses_is_left_out_and_told_or_has_a_way_out() {
    let test = "refusals of a filesystem";
    let lies = Lies::new();
    let source = lies.home().join("source");
    fs::create_dir_all(source.join("d")).unwrap();
    fs::write(source.join("d/file"), "content").unwrap();
    symlink("d/file", source.join("link")).unwrap();
    for (modes, code, says) in [
        ("chmod=EPERM", 3, "arrived without its mode"),
        ("chmod=EOPNOTSUPP", 3, "arrived without its mode"),
        ("utimens=EPERM", 3, "arrived without its times"),
        ("symlink=EPERM", 1, "to leave it out: --exclude /link;"),
        ("symlink=ENOSYS", 1, "to leave it out: --exclude /link;"),
    ] {
        if let Err(why) = lies.mount(modes) {
            return not_run(test, &why);
        }
        let run = calve(lies.home(), "clone source seen/copy");
        assert_eq!(run.code, Some(code), "{modes}: {run:?}");
        assert!(run.stderr.contains(says), "{modes}: {run:?}");
        let copy = fs::read(lies.behind().join("copy/d/file"));
        assert_eq!(copy.ok().as_deref(), (code == 3).then_some(&b"content"[..]), "{modes}");
        let _ = fs::remove_dir_all(lies.behind().join("copy"));
        assert!(names(&lies.behind()).is_empty(), "{modes}: {:?}", names(&lies.behind()));
    }
}

/// Half a reset would be left, which no undo could take back.
#[test]
fn with_a_nested_subvolume_a_reset_is_done_or_refused_as_a_whole_and_a_drop_is_done() {
    let test = "nested subvolumes";
    if filesystem() != "btrfs" {
        return not_run(test, "there are none on this filesystem");
    }
    let scratch = scratch();
    let app = project(scratch.path());
    let tree = scratch.path().join("app.worktrees/a");
    for words in ["init", "start a"] {
        assert_eq!(calve(&app, words).code, Some(0), "{words}");
    }
    if let Err(why) = tool(&tree, "btrfs subvolume create d/nested") {
        return not_run(test, &why);
    }
    fs::write(tree.join("d/nested/new"), "work").unwrap();
    fs::write(tree.join("d/file"), "work").unwrap();
    let is_work = |path: &str| fs::read(tree.join(path)).is_ok_and(|found| found == b"work");
    let both = || (is_work("d/file"), is_work("d/nested/new"));
    for (value, verb, code, expected) in [
        ("true", "restore --force a", 1, (true, true)),
        ("false", "restore --force a", 0, (false, false)),
        ("", "undo a", 0, (true, true)),
        ("true", "drop --force a", 0, (false, false)),
        ("", "restore a", 0, (true, true)),
        ("false", "drop --force --discard a", 0, (false, false)),
    ] {
        if !value.is_empty() {
            tool(&tree, &format!("btrfs property set d/nested ro {value}")).unwrap();
        }
        let run = calve(&app, verb);
        assert_eq!((run.code, both()), (Some(code), expected), "{verb}: {run:?}");
        assert_eq!(run.stderr.contains("ro false"), code == 1, "{verb}: {run:?}");
        // An undo makes an ordinary folder of it.
        if verb.starts_with("undo") {
            fs::remove_dir_all(tree.join("d/nested")).unwrap();
            tool(&tree, "btrfs subvolume create d/nested").unwrap();
            fs::write(tree.join("d/nested/new"), "work").unwrap();
        }
    }
}
