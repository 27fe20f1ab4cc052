//! What people see: on a terminal of a known width.

use std::fs::{self, File};
use std::io::{Read, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use tempfile::TempDir;

use crate::{calve, command, done, plant, scratch, with_project, worktrees_of};

/// A process on a terminal of its own.
struct OnTerminal {
    child: Child,
    terminal: File,
    text: Vec<u8>,
}

impl OnTerminal {
    fn start(mut command: Command, columns: u16) -> Self {
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&terminal).unwrap();
        unlockpt(&terminal).unwrap();
        let size = Winsize { ws_row: 40, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&terminal, size).unwrap();
        let name = ptsname(&terminal, Vec::new()).unwrap();
        let open = || -> OwnedFd {
            rustix::fs::open(&name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap()
        };
        command.env("TERM", "xterm-256color").stdin(open()).stdout(open()).stderr(open());
        let child = command.spawn().unwrap();
        // The command holds the other end of the terminal. Reading ends when the last process with
        // it ends.
        drop(command);
        Self { child, terminal: File::from(terminal), text: Vec::new() }
    }

    /// Reads until `wanted` was written, or all of it.
    fn until(&mut self, wanted: &str) {
        let mut buffer = [0; 4096];
        while wanted.is_empty() || !String::from_utf8_lossy(&self.text).contains(wanted) {
            match self.terminal.read(&mut buffer) {
                // Linux returns EIO if no writer is left.
                Ok(0) | Err(_) => break,
                Ok(read) => self.text.extend_from_slice(&buffer[..read]),
            }
        }
    }

    fn end(mut self) -> (Option<i32>, String) {
        self.until("");
        let code = self.child.wait().unwrap().code();
        (code, String::from_utf8_lossy(&self.text).replace("\r\n", "\n"))
    }
}

/// The content of a terminal of `columns` when the command has ended.
#[track_caller]
fn on_terminal(directory: &Path, words: &str, columns: u16) -> (Option<i32>, String) {
    OnTerminal::start(command(directory, words.split_whitespace()), columns).end()
}

/// Without the codes of colors, which take no room.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, code)) = rest.split_once("\u{1b}[") {
        plain.push_str(before);
        rest = code.split_once('m').map_or("", |(_, rest)| rest);
    }
    plain + rest
}

/// Cells of a line: those of these tests' wide characters are two.
fn cells(line: &str) -> usize {
    line.chars().map(|character| if character > '\u{2fff}' { 2 } else { 1 }).sum()
}

/// Worktrees of long and wide names, and snapshots of long messages and names.
fn with_long_names() -> (TempDir, PathBuf) {
    let (scratch, project) = with_project();
    let mut snapshot = command(&project, ["snapshot", "ready", "-m"]);
    snapshot
        .arg("why this was done, in more words than there is room for on any line of a terminal");
    assert_eq!(snapshot.status().unwrap().code(), Some(0));
    done(&project, &format!("start {} 漢字漢字漢字漢字 x", "long-".repeat(20)));
    done(&project, &format!("name ready {}", "name-".repeat(20)));
    (scratch, project)
}

#[test]
fn no_row_of_a_table_is_wider_than_the_terminal() {
    let (_scratch, project) = with_long_names();
    let root = worktrees_of(&project).join("x");
    plant(&root, &[(&format!("{}/new", "deep/".repeat(30)), "x")]);
    for columns in [80, 100, 200] {
        for (words, rows) in [
            // The first row is a header.
            ("list", 4),
            ("list --status", 4),
            ("log", 1),
            ("name", 2),
            ("store stats", 12),
            ("diff --stat -q x", 1),
            ("show", 5),
        ] {
            let (code, text) = on_terminal(&project, words, columns);
            assert_eq!(code, Some(0), "{words}: {text}");
            let text = plain(&text);
            assert_eq!(text.lines().count(), rows, "{words}: {text}");
            // `show` prints the names and the message of a snapshot in full: they are not rows.
            for line in text
                .lines()
                .filter(|line| !line.starts_with("names") && !line.starts_with("message"))
            {
                assert!(cells(line) <= columns.into(), "{words} on {columns}: {line}");
            }
        }
        let (_, text) = on_terminal(&project, "list --status", columns);
        let at: Vec<_> = plain(&text)
            .lines()
            .skip(1)
            .map(|line| cells(line.split("  ready  ").next().unwrap()))
            .collect();
        assert!(at.iter().all(|it| *it == at[0]), "{text}");
    }
    // In a pipe, and with -v, nothing is cut.
    let whole = "long-".repeat(20);
    assert!(on_terminal(&project, "list", 80).1.contains('…'));
    assert!(plain(&on_terminal(&project, "list -v", 80).1).contains(&whole));
    let piped = done(&project, "list");
    assert!(piped.contains(&whole) && !piped.contains('…') && !piped.contains('\u{1b}'), "{piped}");
    assert!(done(&project, "log").ends_with("any line of a terminal"));
}

#[cfg(target_os = "linux")]
#[test]
fn what_tells_of_a_pair_of_paths_is_wrapped_at_words() {
    let scratch = scratch();
    for columns in [40, 80] {
        let (_, text) = on_terminal(scratch.path(), "doctor . /dev/shm", columns);
        let fix: Vec<&str> = text.lines().skip_while(|line| !line.starts_with("  fix: ")).collect();
        assert!(!fix.is_empty(), "{text}");
        assert!(fix.iter().all(|line| cells(line) <= columns.into()), "{text}");
    }
}

/// A terminal by itself breaks them within words.
#[test]
fn errors_and_hints_are_wrapped_at_words_on_a_terminal_and_only_there() {
    let (_scratch, project) = with_project();
    done(&project, "start w");
    for words in ["start w", "restore none", "start -n 2 w", "--store none list", "undo w"] {
        let piped = calve(&project, words);
        for columns in [40, 80, 400] {
            let (code, text) = on_terminal(&project, words, columns);
            assert_eq!(code, piped.code, "{words}");
            let text = plain(&text);
            let said: Vec<&str> = piped.stderr.split_whitespace().collect();
            assert_eq!(text.split_whitespace().collect::<Vec<_>>(), said, "{words}");
            for line in text.lines() {
                let is_word = line.split_whitespace().count() == 1;
                assert!(cells(line) <= columns.into() || is_word, "{words} on {columns}: {text}");
            }
        }
        assert!(
            on_terminal(&project, words, 400).1.lines().count() <= piped.stderr.lines().count()
        );
    }
    done(&project, "start gone");
    fs::remove_dir_all(worktrees_of(&project).join("gone")).unwrap();
    let (_, text) = on_terminal(&project, "status gone", 80);
    let whole = "has it;\n      'calve drop --force gone' forgets it; ";
    assert!(plain(&text).contains(whole), "a command is not torn: {text}");
}

#[test]
fn the_name_of_a_worktree_is_whole_as_long_as_its_path_can_be_cut() {
    let (_scratch, project) = with_project();
    let name = "a-name-of-an-agent-as-they-have-them";
    done(&project, &format!("start {name}"));
    for words in ["list", "list --status"] {
        let (_, text) = on_terminal(&project, words, 80);
        let text = plain(&text);
        let (header, rows) = text.split_once('\n').unwrap();
        assert!(header.starts_with("WORKTREE "), "{text}");
        assert!(rows.starts_with(&format!("{name}  ")), "{text}");
        assert!(text.lines().all(|line| cells(line.trim_end()) <= 80), "{text}");
    }
}

/// In the order of use: what is finished, since when it is idle, what it takes; then where it is.
#[test]
fn list_says_first_what_decides_on_a_drop_and_fits_on_eighty_columns() {
    let name = "list_says_first_what_decides_on_a_drop_and_fits_on_eighty_columns";
    let (_scratch, project) = with_project();
    let git = |at: &Path, words: &str| {
        let mut git = Command::new("git");
        git.args(["-c", "user.name=n", "-c", "user.email=e"]).args(words.split(' '));
        git.current_dir(at).output().is_ok_and(|it| it.status.success())
    };
    if !git(&project, "init -qb main") {
        return crate::not_run(name, "there is no git");
    }
    assert!(git(&project, "add -A") && git(&project, "commit -qm one"));
    done(&project, "start -q done feat/x fix-the-dates");
    assert!(git(&project, "worktree add -q ../other"));
    for name in ["done", "feat-x"] {
        let tree = worktrees_of(&project).join(name);
        fs::write(tree.join(name), "x").unwrap();
        assert!(git(&tree, "add -A") && git(&tree, "commit -qm two"));
        fs::write(tree.join("a"), "x").unwrap();
    }
    assert!(git(&worktrees_of(&project).join("done"), "checkout -q a"));
    assert!(git(&project, "merge -q done"));
    for (words, columns, header) in [
        ("list", 80, "WORKTREE STATE IDLE BRANCH PATH"),
        ("list", 120, "WORKTREE STATE IDLE BRANCH PATH"),
        ("list --disk", 120, "WORKTREE STATE IDLE DISK BRANCH PATH"),
        ("list --disk --status", 160, "WORKTREE STATE IDLE DISK BASE BRANCH PATH"),
    ] {
        let text = on_terminal(&project, words, columns).1;
        // A look that takes long shows its progress first.
        let text = plain(text.rsplit(ERASED).next().unwrap_or(&text).trim_start_matches('\r'));
        let lines: Vec<String> =
            text.lines().map(|it| it.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(lines[0], header, "{text}");
        for (at, row) in [
            (1, "done merged new "),
            (2, "feat-x 1 ahead, 1 behind, 1 uncommitted new "),
            (3, "fix-the-dates 1 behind new "),
            (4, "other made by git - "),
        ] {
            assert!(lines[at].starts_with(row), "{words}, {columns}: {text}");
        }
        assert!(text.lines().all(|it| cells(it.trim_end()) <= columns.into()), "{text}");
        if columns == 80 {
            assert!(lines[2].contains(" feat/x "), "{text}");
        }
    }
}

#[test]
fn colors_follow_the_terminal_the_variables_and_above_all_the_flag() {
    let (_scratch, project) = with_project();
    done(&project, "start w");
    fs::write(worktrees_of(&project).join("w/a"), "x").unwrap();
    // Where `CI` is set, a terminal is taken for one with colors, even a dumb one.
    let variables = ["NO_COLOR", "CLICOLOR_FORCE", "CLICOLOR", "CI"];
    for (terminal, flag, variable, colored) in [
        (true, "auto", "", true),
        (true, "never", "", false),
        (true, "auto", "NO_COLOR=1", false),
        (true, "auto", "NO_COLOR=", true),
        (true, "always", "NO_COLOR=1", true),
        (true, "auto", "CLICOLOR=0", false),
        (true, "auto", "TERM=dumb", false),
        (false, "auto", "", false),
        (false, "auto", "CLICOLOR_FORCE=1", true),
        (false, "auto", "CLICOLOR_FORCE=", false),
        (false, "never", "CLICOLOR_FORCE=1", false),
        (false, "always", "", true),
        (false, "auto", "CLICOLOR_FORCE=1 NO_COLOR=1", false),
    ] {
        for words in ["status w", "diff w", "diff --stat w", "list --status", "drop none", "doctor"]
        {
            let mut command = command(&project, words.split(' ').chain(["--color", flag]));
            command.env("TERM", "xterm");
            for name in variables {
                command.env_remove(name);
            }
            for (name, value) in variable.split(' ').filter_map(|pair| pair.split_once('=')) {
                command.env(name, value);
            }
            let text = if terminal {
                let dumb = variable == "TERM=dumb";
                let mut started = on_terminal_as(command, if dumb { "dumb" } else { "xterm" });
                started.until("");
                String::from_utf8_lossy(&started.text).into_owned()
            } else {
                let run = crate::run(command);
                run.stdout + &run.stderr
            };
            assert_eq!(
                text.contains('\u{1b}'),
                colored,
                "{words} {terminal} {flag} {variable}: {text}"
            );
        }
    }
}

fn on_terminal_as(mut command: Command, term: &str) -> OnTerminal {
    let mut shell = Command::new("env");
    shell.arg(format!("TERM={term}")).arg(command.get_program()).args(command.get_args());
    shell.current_dir(command.get_current_dir().unwrap());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    command = shell;
    OnTerminal::start(command, 80)
}

#[test]
fn binary_files_are_only_named_on_a_terminal_unless_the_whole_patch_is_asked_for() {
    let (_scratch, project) = with_project();
    fs::write(project.join("binary"), "a\0b").unwrap();
    done(&project, "start w");
    let root = worktrees_of(&project).join("w");
    fs::write(root.join("a"), "alpha\nGIT binary patch\nmore\n").unwrap();
    fs::write(root.join("binary"), "c\0d").unwrap();
    fs::write(root.join("c"), "text\n").unwrap();
    let text = plain(&on_terminal(&project, "diff w", 80).1);
    assert!(
        text.contains("\nBinary files differ; --patch prints their content\ndiff --git a/c b/c\n"),
        "{text}"
    );
    assert!(
        !text.contains("\nliteral ") && text.contains("\n+GIT binary patch\n+more\n"),
        "{text}"
    );
    let whole = plain(&on_terminal(&project, "diff -q --patch w", 80).1);
    let piped = calve(&project, "diff -q w").stdout;
    assert!(whole.contains("\nGIT binary patch\nliteral "), "{whole}");
    assert_eq!(whole, piped);
}

#[test]
fn a_patch_on_a_terminal_has_nothing_in_it_that_would_steer_it() {
    let (_scratch, project) = with_project();
    done(&project, "start w");
    fs::write(worktrees_of(&project).join("w/a"), "alpha\n\u{1b}[2Jboo\tx\r\n").unwrap();
    // A serial line's says no width.
    for columns in [80, 0] {
        let (code, text) = on_terminal(&project, "diff w", columns);
        assert_eq!(code, Some(0));
        assert!(plain(&text).contains("\n+\\u{1b}[2Jboo\tx\\r\n"), "{text:?}");
        assert!(!text.contains("\u{1b}[2J"), "{text:?}");
    }
    // In a pipe the patch is exactly what git accepts.
    assert!(calve(&project, "diff w").stdout.contains("\n+\u{1b}[2Jboo\tx\r\n"));
}

/// Starts a clone on a terminal, and stops it for so long that the bar must appear.
fn held_up(scratch: &Path, words: &str) -> OnTerminal {
    for number in 0..2000 {
        plant(scratch, &[(&format!("src/{}/{number}", number % 20), "some content")]);
    }
    let entries = || fs::read_dir(scratch).unwrap().count();
    let before = entries();
    let started = OnTerminal::start(command(scratch, words.split(' ')), 80);
    let child = Pid::from_child(&started.child);
    let began = std::time::Instant::now();
    while entries() == before && began.elapsed().as_secs() < 30 {
        std::thread::yield_now();
    }
    kill_process(child, Signal::STOP).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(600));
    kill_process(child, Signal::CONT).unwrap();
    started
}

/// What erases a line, so that nothing of a bar stays.
const ERASED: &str = "\u{1b}[2K";

/// Returns whether there was a bar. Checks that nothing of it stayed: the next output begins on an
/// empty line.
#[track_caller]
fn after_the_bar(text: &str) -> Option<&str> {
    let bar = text.rfind(" files, ")?;
    let erased = text.rfind(ERASED).unwrap();
    assert!(erased > bar, "the bar was left: {text:?}");
    Some(text[erased + ERASED.len()..].trim_start_matches('\r'))
}

#[test]
fn a_bar_is_shown_while_it_works_and_is_gone_with_the_summary() {
    let scratch = scratch();
    let (code, text) = held_up(scratch.path(), "clone -n 4 src dst").end();
    assert_eq!(code, Some(0), "{text:?}");
    let Some(after) = after_the_bar(&text) else {
        let test = "a_bar_is_shown_while_it_works_and_is_gone_with_the_summary";
        return crate::not_run(test, "the work was done before a bar was shown");
    };
    assert!(after.starts_with("4 trees, 8,000 files: "), "{after:?}");
    // If files were copied, the summary says why in a second line.
    let summary = after.strip_suffix("\ndst-1\ndst-2\ndst-3\ndst-4\n").expect(after);
    assert!(summary.lines().count() <= 2, "{after:?}");
    assert!(plain(summary).lines().all(|line| cells(line) <= 80), "{after:?}");
    for line in plain_lines(&text[..text.len() - after.len()]) {
        assert!(cells(&line) <= 80, "{line:?}");
    }
    for flag in ["-q", "--json"] {
        let (code, text) =
            held_up(scratch.path(), &format!("clone -n 4 {flag} src dst{flag}")).end();
        assert_eq!(code, Some(0), "{flag}: {text:?}");
        assert!(!text.contains(ERASED) && !text.contains('\r'), "{flag}: {text:?}");
    }
}

/// All drawn lines, in order, with each new version of a line.
fn plain_lines(text: &str) -> Vec<String> {
    text.split(['\r', '\n']).map(|line| plain(&line.replace(ERASED, ""))).collect()
}

#[test]
fn a_bar_is_gone_when_a_signal_stopped_the_work() {
    let scratch = scratch();
    let mut started = held_up(scratch.path(), "clone -n 20 src dst");
    started.until(" files, ");
    let _ = kill_process(Pid::from_child(&started.child), Signal::INT);
    let (code, text) = started.end();
    let Some(after) = after_the_bar(&text).filter(|_| code != Some(0)) else {
        let test = "a_bar_is_gone_when_a_signal_stopped_the_work";
        return crate::not_run(test, "the work was done before a bar was shown");
    };
    assert_eq!(code, Some(130), "{text:?}");
    assert!(plain(after).starts_with("error: cancelled: clone "), "{after:?}");
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 1);
}

#[test]
fn whoever_restores_the_project_itself_types_its_name() {
    let (_scratch, project) = with_project();
    done(&project, "snapshot");
    let name = project.file_name().unwrap().to_str().unwrap();
    for (typed, expected) in [(name, Some(0)), ("", Some(1)), ("yes", Some(1))] {
        fs::write(project.join("a"), "edited").unwrap();
        let mut run = OnTerminal::start(command(&project, ["restore"]), 80);
        run.until(&format!("type its name, {name}: "));
        run.terminal.write_all(format!("{typed}\n").as_bytes()).unwrap();
        let (code, text) = run.end();
        assert_eq!(code, expected, "{typed:?}: {text}");
        let now = fs::read_to_string(project.join("a")).unwrap();
        assert_eq!(now == "edited", expected == Some(1), "{typed:?}: {text}");
    }
    // The kernel begins a read again after a signal.
    fs::write(project.join("a"), "edited").unwrap();
    let mut run = OnTerminal::start(command(&project, ["restore"]), 80);
    run.until("type its name, ");
    kill_process(Pid::from_child(&run.child), Signal::INT).unwrap();
    let (code, text) = run.end();
    assert_eq!(code, Some(130), "{text}");
    assert_eq!(fs::read_to_string(project.join("a")).unwrap(), "edited");
}

#[test]
fn whoever_wants_to_be_asked_about_secrets_is_asked() {
    let (_scratch, project) = with_project();
    let git = |words: &[&str]| {
        let status = std::process::Command::new("git").current_dir(&project).args(words).status();
        assert!(status.unwrap().success(), "{words:?}");
    };
    git(&["init", "-q"]);
    git(&["config", "calve.secrets", "ask"]);
    fs::write(project.join(".env"), "TOKEN=x").unwrap();
    for (at, (typed, comes)) in [("", true), ("y", true), ("n", false)].into_iter().enumerate() {
        let name = format!("w{at}");
        let mut run = OnTerminal::start(command(&project, ["start", "--git", "none", &name]), 200);
        run.until("1 file that looks like a secret: .env.");
        run.until("Should they come along? [Y/n] ");
        run.terminal.write_all(format!("{typed}\n").as_bytes()).unwrap();
        let (code, text) = run.end();
        assert_eq!(code, Some(0), "{typed:?}: {text}");
        let tree = project.with_file_name("p.worktrees").join(&name);
        assert_eq!(tree.join(".env").try_exists().unwrap(), comes, "{typed:?}: {text}");
    }
}
