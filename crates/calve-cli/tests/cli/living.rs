//! Files that belong to a process of the project stay with it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use serde_json::{Value, json};

use crate::hints::{in_git, repository, sh, with_git};
use crate::{Run, calve, command, done, not_run, plant, run, with_project};

#[track_caller]
fn tree_of(run: &Run) -> PathBuf {
    assert_eq!(run.code, Some(0), "{run:?}");
    PathBuf::from(run.stdout.trim_end())
}

/// A process that works in a folder.
pub(crate) struct Worker(Child);

impl Worker {
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn worker_in(folder: &Path) -> Worker {
    Worker(Command::new("sleep").arg("600").current_dir(folder).spawn().unwrap())
}

#[test]
fn what_belongs_to_a_process_of_the_project_stays_with_it() {
    let (_scratch, project) = with_project();
    plant(&project, &[("pg/PG_VERSION", "17\n")]);
    let (here, there) = (worker_in(&project.join("pg")), worker_in(Path::new("/")));
    let pid = here.id();
    let server = format!("{{\"processId\": {pid}}}");
    plant(
        &project,
        &[
            ("tmp/pids/server.pid", &format!("{pid}\n")),
            (".nx/workspace-data/d/server-process.json", &server),
            ("pg/postmaster.pid", &format!("{pid}\n/data\n")),
            // These may be something else, or of a process that is gone.
            ("tmp/pids/other.pid", &format!("{}\n", there.id())),
            ("tmp/pids/gone.pid", "4294967295\n"),
            ("tuning.pid", "0.5 1 2\n"),
        ],
    );
    let machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
    fs::create_dir(project.join("profile")).unwrap();
    symlink(format!("{machine}-{pid}"), project.join("profile/SingletonLock")).unwrap();
    let sure = [
        ".nx/workspace-data/d/server-process.json",
        "pg/postmaster.pid",
        "profile/SingletonLock",
        "tmp/pids/server.pid",
    ];
    let others = ["tmp/pids/other.pid", "tmp/pids/gone.pid", "tuning.pid"];
    for name in ["first", "next"] {
        let run = calve(&project, &format!("start {name}"));
        let tree = tree_of(&run);
        for path in sure {
            let line = format!("{path} belongs to process {pid} (sleep) and was left out");
            assert!(run.stderr.lines().any(|it| it == line), "{path}: {run:?}");
            assert!(fs::symlink_metadata(tree.join(path)).is_err(), "{path}");
        }
        for path in others {
            assert!(tree.join(path).try_exists().unwrap(), "{path}");
        }
        for line in ["tmp/pids/other.pid came along", "a PostgreSQL server runs in pg: "] {
            assert!(run.stderr.contains(line), "{line}: {run:?}");
        }
        // The worktree's own server is its own matter.
        let worker = worker_in(&tree);
        plant(&tree, &[("tmp/pids/server.pid", &format!("{}\n", worker.id()))]);
        let status = calve(&tree, "status --json").json();
        assert_eq!(status["changes"], json!([]), "{status}");
    }
    let document = calve(&project, "start --json w").json();
    let skipped = document["taken"]["skipped"].as_array().unwrap();
    let server = skipped.iter().find(|it| it["path"] == "tmp/pids/server.pid").unwrap();
    assert_eq!(server["reason"], Value::from("living"), "{document}");
    assert_eq!(server["detail"], Value::from(pid.to_string()), "{document}");
    let first = project.with_file_name("p.worktrees").join("first");
    // When the process has ended, its files are files like any other.
    drop(here);
    let tree = tree_of(&calve(&project, "start last"));
    for path in sure {
        assert!(fs::symlink_metadata(tree.join(path)).is_ok(), "{path}");
    }
    // A restore does not lose the file of a server that runs in the worktree.
    let worker = worker_in(&first);
    let own = format!("{}\n", worker.id());
    plant(&first, &[("tmp/pids/server.pid", &own)]);
    let snapshot = done(&project, "snapshot");
    let run = calve(&project, &format!("restore {} first", snapshot.trim_end()));
    assert!(run.stderr.contains("1 moved aside"), "{run:?}");
    done(&project, "undo first");
    assert_eq!(fs::read_to_string(first.join("tmp/pids/server.pid")).unwrap(), own);
}

#[test]
fn a_file_that_git_tracks_comes_along_whoever_it_names() {
    let (_scratch, project) = with_project();
    let worker = worker_in(&project);
    let pid = format!("{}\n", worker.id());
    plant(&project, &[("tracked.pid", &pid), ("inner/tracked.pid", &pid)]);
    for (folder, words) in [
        ("inner", "init -qb main"),
        ("inner", "add ."),
        ("", "init -qb main"),
        ("", "add tracked.pid"),
        ("", "-c user.name=n -c user.email=e commit -qm 1"),
    ] {
        let mut git = Command::new("git");
        git.current_dir(project.join(folder)).args(words.split(' '));
        assert!(git.status().unwrap().success(), "{words}");
    }
    plant(&project, &[("inner/other.pid", &pid), ("other.pid", &pid)]);
    for name in ["first", "next"] {
        let tree = tree_of(&calve(&project, &format!("start {name}")));
        for (path, comes) in [
            ("tracked.pid", true),
            ("inner/tracked.pid", true),
            ("other.pid", false),
            ("inner/other.pid", false),
        ] {
            assert_eq!(tree.join(path).try_exists().unwrap(), comes, "{name}: {path}");
        }
    }
}

#[test]
fn a_worktrees_own_server_may_write_over_a_stale_note() {
    let (_scratch, project) = with_project();
    plant(&project, &[("tmp/s.pid", "4294967295\n")]);
    let tree = tree_of(&calve(&project, "start a"));
    let changes = |worker: &Worker| {
        plant(&tree, &[("tmp/s.pid", &format!("{}\n", worker.id()))]);
        assert_eq!(
            calve(&tree, "diff").stdout.contains("s.pid"),
            calve(&tree, "status").code == Some(3)
        );
        calve(&tree, "status --json").json()["changes"].as_array().map(Vec::len)
    };
    let (own, other) = (worker_in(&tree), worker_in(Path::new("/")));
    assert_eq!(changes(&other), Some(1));
    assert_eq!(changes(&own), Some(0));
    let pid = own.id();
    drop(own);
    // When it has ended, the file is one like any other.
    let status = calve(&tree, "status --json").json();
    assert_eq!(status["changes"].as_array().map(Vec::len), Some(1), "{pid}: {status}");
}

/// git on Linux has a file monitor since 2.55 only, so a `git` that is a script stands for it.
#[test]
fn a_drop_stops_the_file_monitor_of_the_worktree_and_no_other() {
    let test = "a_drop_stops_the_file_monitor_of_the_worktree_and_no_other";
    let Some((_scratch, root)) = repository() else { return not_run(test, "there is no git") };
    let (app, bin) = (root.join("app"), root.join("bin"));
    let git = "#!/bin/sh\ncase $1\" $* \" in\n\
        fsmonitor--daemon*) read -r _ <$3;;\n\
        *' fsmonitor--daemon stop '*) echo \"$PWD\" >>\"$STOPPED\"; eval \"$STOP\";;\n\
        *) PATH=${PATH#*:}; exec git \"$@\";;\nesac\n";
    plant(&bin, &[("git", git)]);
    fs::set_permissions(bin.join("git"), PermissionsExt::from_mode(0o755)).unwrap();
    sh(&root, "mkfifo pipe").unwrap();
    let path = std::env::var("PATH").unwrap();
    let (stopped, pipe) = (root.join("stopped"), root.join("pipe"));
    let drop_it = |name: &str, stop: &str| {
        let mut command = with_git(command(&app, ["drop", name]));
        command.env("PATH", format!("{}:{path}", bin.display())).env("STOPPED", &stopped);
        command.env("STOP", stop);
        run(command)
    };
    let monitor_of = |name: &str| {
        let mut monitor = Command::new(bin.join("git"));
        monitor.args(["fsmonitor--daemon", "run"]).arg(&pipe);
        monitor.current_dir(root.join("app.worktrees").join(name));
        Worker(monitor.spawn().unwrap())
    };
    let socket_of = |name: &str| {
        let socket = app.join(".git/worktrees").join(name).join("fsmonitor--daemon.ipc");
        UnixListener::bind(&socket).unwrap();
        socket
    };
    assert_eq!(in_git(&app, "start -q none lives stale stays").code, Some(0));
    // Without a monitor nobody is asked.
    assert_eq!(drop_it("none", "exit 1").code, Some(0));
    assert!(!stopped.try_exists().unwrap());
    // It is no process that works in the worktree.
    let (monitor, socket) = (monitor_of("lives"), socket_of("lives"));
    let run = drop_it("lives", &format!("kill {}; rm '{}'", monitor.id(), socket.display()));
    assert_eq!((run.code, run.stderr.contains("monitor")), (Some(0), false), "{run:?}");
    let tree = root.join("app.worktrees/lives");
    assert_eq!(fs::read_to_string(&stopped).unwrap(), format!("{}\n", tree.display()));
    assert!(!tree.try_exists().unwrap());
    // One that was killed has left its socket.
    socket_of("stale");
    let run = drop_it("stale", "echo 'fatal: fsmonitor--daemon is not running' >&2; exit 128");
    assert_eq!((run.code, run.stderr.contains("monitor")), (Some(0), false), "{run:?}");
    // One that cannot be stopped is said.
    socket_of("stays");
    let run = drop_it("stays", "echo 'fatal: not supported' >&2; exit 128");
    assert_eq!(run.code, Some(3), "{run:?}");
    assert!(run.stderr.contains("its file monitor: fatal: not supported"), "{run:?}");
    assert!(!root.join("app.worktrees/stays").try_exists().unwrap());
}
