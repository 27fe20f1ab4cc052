//! Takes snapshots of databases while others write to them. The snapshot's copy of a database
//! passes the database's own check, or the snapshot names the database as left out.

use std::fs;
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{calls_of, delayed, is_asked_for, seconds_of_writing};
use crate::races::ends;
use crate::{Run, can_strace, filesystem, names, not_run, scratch, straced};

/// The kinds that `databases.py` knows. LMDB stores to its file through a mapping; the modes of
/// SQLite differ in the file beside the database.
const DATABASES: &[&str] =
    &["lmdb", "lmdb-async", "sqlite-wal", "sqlite-delete", "sqlite-truncate", "sqlite-persist"];

/// The Python that has the module of a database; or why the test cannot run.
fn python_for(database: &str) -> Result<&'static str, String> {
    let module = if database.starts_with("sqlite") { "sqlite3" } else { "lmdb" };
    let has = |python: &&str| {
        let mut command = Command::new(python);
        command.args(["-c", &format!("import {module}")]).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let python = ["python3", "/usr/bin/python3"].into_iter().find(has);
    python.ok_or_else(|| format!("no Python has the module {module}"))
}

/// A project, and a process that writes to a database in it.
struct Project {
    python: &'static str,
    database: &'static str,
    root: PathBuf,
    script: PathBuf,
    writer: Child,
    commands: Option<ChildStdin>,
    answers: Lines<BufReader<ChildStdout>>,
    _scratch: TempDir,
}

/// The state of a database in a snapshot.
enum Found {
    Whole,
    LeftOut,
    /// The output of the check.
    Torn(String),
}

impl Project {
    /// `verb` says when the process writes.
    fn new(python: &'static str, database: &'static str, verb: &str) -> Self {
        let scratch = scratch();
        let script = scratch.path().join("databases.py");
        fs::write(&script, include_str!("databases.py")).unwrap();
        let root = scratch.path().join("app");
        fs::create_dir_all(root.join("data")).unwrap();
        assert_eq!(ends(&root, "init -q").code, Some(0));
        let mut writer = Command::new(python);
        writer.arg(&script).args([verb, database]).arg(root.join("data"));
        let mut writer = writer.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut answers = BufReader::new(writer.stdout.take().unwrap()).lines();
        assert_eq!(answers.next().unwrap().unwrap(), "ok");
        let commands = writer.stdin.take();
        Self { python, database, root, script, writer, commands, answers, _scratch: scratch }
    }

    fn step(&mut self) {
        writeln!(self.commands.as_mut().unwrap()).unwrap();
        assert_eq!(self.answers.next().unwrap().unwrap(), "ok");
    }

    /// Checks the snapshot that `run` made.
    fn check(&self, run: &Run) -> Found {
        assert!(matches!(run.code, Some(0 | 3)), "{run:?}");
        let snapshot = run.stdout.trim_end();
        let started = ends(&self.root, &format!("start -q --from {snapshot} t"));
        assert_eq!(started.code, Some(0), "{started:?}");
        let data = Path::new(started.stdout.trim_end()).join("data");
        let there = names(&data);
        let file = if self.database.starts_with("lmdb") { "db/data.mdb" } else { "db" };
        let found = if data.join(file).try_exists().unwrap() {
            let mut check = Command::new(self.python);
            check.arg(&self.script).args(["check", self.database]).arg(&data);
            let output = check.output().unwrap();
            let why = String::from_utf8_lossy(&output.stderr).into_owned();
            match output.status.success() {
                true => Found::Whole,
                false => Found::Torn(why.trim_end().lines().last().unwrap_or_default().to_owned()),
            }
        } else {
            assert_eq!(run.code, Some(3), "{run:?}");
            assert!(run.stderr.contains("data/db"), "{run:?}");
            // A part alone is of no use.
            let parts = ["db-wal", "db-journal"];
            assert!(!there.iter().any(|name| parts.contains(&name.as_str())), "{there:?}");
            Found::LeftOut
        };
        assert_eq!(ends(&self.root, "drop -q --force t").code, Some(0));
        found
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        let _ = self.writer.kill();
        let _ = self.writer.wait();
    }
}

/// The results of the snapshots of a database.
#[derive(Debug, Default)]
struct Snapshots {
    taken: u64,
    whole: u64,
    left_out: u64,
    /// The outputs of the check for the others.
    torn: Vec<String>,
    /// How many transactions there were.
    transactions: u64,
}

/// Takes a snapshot at least every second, of a folder in which a process writes to a database.
/// Checks the database in each snapshot.
fn snapshots_of(
    python: &'static str,
    database: &'static str,
    lasting: Duration,
    every: Duration,
) -> Snapshots {
    let mut project = Project::new(python, database, "write");
    let mut found = Snapshots::default();
    let until = Instant::now() + lasting;
    while found.taken == 0 || Instant::now() < until {
        let next = Instant::now() + every;
        let run = ends(&project.root, "snapshot -q");
        found.taken += 1;
        match project.check(&run) {
            Found::Whole => found.whole += 1,
            Found::LeftOut => found.left_out += 1,
            Found::Torn(why) => found.torn.push(format!("{}: {why}", found.taken)),
        }
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    drop(project.commands.take());
    found.transactions = project.answers.next().unwrap().unwrap().parse().unwrap();
    assert!(project.writer.wait().unwrap().success());
    let run = ends(&project.root, "store verify -q");
    assert_eq!(run.code, Some(0), "{run:?}");
    // Nobody writes any more.
    let run = ends(&project.root, "snapshot -q");
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(matches!(project.check(&run), Found::Whole));
    found
}

/// A snapshot took in the files of a SQLite database one after the other. A checkpoint or a
/// transaction between two of them made a copy that lacked transactions or was malformed: 21 of 428
/// snapshots.
#[test]
fn of_a_database_that_is_written_to_meanwhile_a_snapshot_has_one_moment_or_says_that_it_is_left_out()
 {
    let seconds = seconds_of_writing();
    let mut wrong = Vec::new();
    for database in DATABASES.iter().filter(|name| is_asked_for(name)) {
        let python = match python_for(database) {
            Ok(python) => python,
            Err(why) => {
                not_run(&format!("writers: {database}"), &why);
                continue;
            }
        };
        let every = Duration::from_secs(1).min(seconds / 4);
        let found = snapshots_of(python, database, seconds, every);
        println!("{} {database}: {found:?}", filesystem());
        wrong.extend((!found.torn.is_empty()).then(|| format!("{database}: {found:?}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The calls between which the files of a database are taken in.
const CALLS: &str = "openat,ioctl,copy_file_range";

#[test]
fn whichever_call_of_a_snapshot_a_transaction_comes_in_the_files_of_a_database_fit_together() {
    let test = "writers: a transaction in each call of a snapshot";
    if !can_strace(test) {
        return;
    }
    let python = match python_for("sqlite-wal") {
        Ok(python) => python,
        Err(why) => return not_run(test, &why),
    };
    // Whether there is a journal before the snapshot begins. A write-ahead log is always there.
    let rows = [
        ("sqlite-wal", true),
        ("sqlite-delete", true),
        ("sqlite-delete", false),
        ("sqlite-persist", true),
    ];
    // Most of the time goes into delays, so the rows are tried at once.
    let wrong: Vec<String> = thread::scope(|scope| {
        let torn =
            |(database, journal)| scope.spawn(move || torn_in_a_call(python, database, journal));
        rows.map(torn).into_iter().flat_map(|row| row.join().unwrap()).collect()
    });
    assert!(wrong.is_empty(), "{} are torn:\n{}", wrong.len(), wrong.join("\n"));
}

/// Takes snapshots of a database, each with a transaction in another call. Returns in which of them
/// the database is torn, and how.
fn torn_in_a_call(python: &'static str, database: &'static str, journal: bool) -> Vec<String> {
    let project = || {
        let mut project = Project::new(python, database, "step");
        for between in ["db-a", "db-k", "db-z"] {
            fs::write(project.root.join("data").join(between), between).unwrap();
        }
        if journal {
            project.step();
        }
        // So that the times show the next transaction.
        thread::sleep(Duration::from_millis(60));
        project
    };
    let calls = {
        let project = project();
        let options = ["-y", "-e", &format!("trace={CALLS}")];
        let run = straced(&project.root, &options, "snapshot -q -j1");
        assert_eq!(run.code, Some(0), "{run:?}");
        calls_of(&run.log, "data/db")
    };
    assert!(calls.len() > 3, "{calls:?}");
    let mut wrong = Vec::new();
    for call in &calls {
        let mut project = project();
        let run = delayed(&project.root.clone(), call, || project.step());
        if let Found::Torn(why) = project.check(&run) {
            wrong.push(format!("{database} in {}: {why}", call.line));
        }
    }
    println!(
        "{} {database}, journal {journal}: {} calls, {} torn",
        filesystem(),
        calls.len(),
        wrong.len()
    );
    wrong
}
