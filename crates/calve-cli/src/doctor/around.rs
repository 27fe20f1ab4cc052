//! What `calve doctor` says of the tools that a project is used with, and of the system's limits that
//! many worktrees reach. It asks files only, and runs nothing.

use std::fs::{FileType, read_dir, read_to_string};
use std::path::{Path, PathBuf};

use crate::output::document;
use crate::paths::pnpm;
use crate::text::{count, counted, shown};

/// Folders in which the usual watchers (editors, dev servers) look at no changes.
const SELDOM_WATCHED: [&str; 3] = [".git", "node_modules", "target"];

/// sockaddr_un(7) has room for 108 bytes, of which one ends the path. 104 on macOS and the BSDs. Of
/// no matter to git's file monitor, which changes to the socket's folder first.
const SOCKET_PATH_MOST: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

/// A name for a worktree of this many bytes is as long as most are.
const USUAL_NAME_BYTES: usize = 12;

/// If fewer bytes are left for a socket's path in a worktree, that is said. PostgreSQL's, in a
/// folder of data, has some thirty.
const SOCKET_ROOM_LEAST: usize = 32;

/// Settings of agents' tools that make worktrees: the tool, the file in a project that can tell it
/// to run calve, and a path that says that the tool is used there.
const AGENTS: [(&str, &str, &str); 9] = [
    ("Claude Code", ".claude/settings.json", ".claude"),
    ("Codex", ".codex/environments/environment.toml", ".codex"),
    ("Conductor", ".conductor/settings.toml", ".conductor"),
    ("Copilot CLI", ".github/hooks/calve.json", ".github/copilot-instructions.md"),
    ("Cursor", ".cursor/worktrees.json", ".cursor"),
    ("Gemini CLI", ".gemini/settings.json", ".gemini"),
    ("VS Code", ".vscode/tasks.json", ".vscode"),
    ("worktrunk", ".config/wt.toml", ".config/wt.toml"),
    ("Zed", ".zed/tasks.json", ".zed"),
];

/// A project, and the facts about it that matter if it has many worktrees.
pub(super) struct Around<'a> {
    project: &'a Path,
    worktrees: &'a [PathBuf],
    found: Found,
    watching: Watching,
}

/// What calve found in a project's folders.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    folders: u64,
    /// Those outside of [`SELDOM_WATCHED`].
    watched_folders: u64,
    /// From the root.
    sockets: Vec<PathBuf>,
}

impl Found {
    /// Looks at all folders below `root`, but not at `worktrees`, nor at a store. What cannot be
    /// listed is not counted.
    fn below(root: &Path, worktrees: &[PathBuf]) -> Self {
        let mut found = Self::default();
        let stores = [root.join(".git/calve"), root.join(".calve")];
        let mut folders = vec![(root.to_owned(), true)];
        while let Some((folder, is_watched)) = folders.pop() {
            found.folders += 1;
            found.watched_folders += u64::from(is_watched);
            for entry in read_dir(&folder).into_iter().flatten().flatten() {
                let Ok(kind) = entry.file_type() else { continue };
                let path = entry.path();
                if is_socket(kind) {
                    found.sockets.extend(path.strip_prefix(root).ok().map(Path::to_owned));
                } else if kind.is_dir() && !worktrees.contains(&path) && !stores.contains(&path) {
                    let name = entry.file_name();
                    let is_watched = is_watched && SELDOM_WATCHED.iter().all(|it| name != *it);
                    folders.push((path, is_watched));
                }
            }
        }
        found.sockets.sort();
        found
    }
}

fn is_socket(kind: FileType) -> bool {
    std::os::unix::fs::FileTypeExt::is_socket(&kind)
}

/// Linux's limits of inotify(7) for each user. `None` on other systems, which have none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Watching {
    watches: Option<u64>,
    instances: Option<u64>,
}

impl Watching {
    fn of_system() -> Self {
        let number = |name: &str| {
            let text = read_to_string(Path::new("/proc/sys/fs/inotify").join(name)).ok()?;
            text.trim().parse().ok()
        };
        Self { watches: number("max_user_watches"), instances: number("max_user_instances") }
    }
}

impl<'a> Around<'a> {
    pub(super) fn look(project: &'a Path, worktrees: &'a [PathBuf]) -> Self {
        let found = Found::below(project, worktrees);
        Self { project, worktrees, found, watching: Watching::of_system() }
    }

    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        lines.extend(self.watches());
        lines.extend(self.sockets());
        lines.extend(python(self.project));
        lines.extend(self.pnpm());
        lines.extend(agents(self.project));
        lines
    }

    /// inotify takes one watch for each folder.
    fn watches(&self) -> Option<String> {
        let most = self.watching.watches?;
        let trees = self.worktrees.len() as u64 + 1;
        let (few, all) = (self.found.watched_folders * trees, self.found.folders * trees);
        let instances = match self.watching.instances {
            Some(instances) => format!(", in {} watching programs", count(instances)),
            None => String::new(),
        };
        let way_out = match all > most {
            true => format!(
                ": too few for all of them ('sudo sysctl fs.inotify.max_user_watches={}')",
                all.saturating_mul(2).checked_next_power_of_two().unwrap_or(u64::MAX)
            ),
            false => String::new(),
        };
        Some(format!(
            "watches: a program that watches the project and {} (an editor, a dev server, git's file monitor) takes {} of \
             inotify's watches, {} with .git, node_modules and target; you have {}{instances}{way_out}",
            counted(trees - 1, "worktree"),
            count(few),
            count(all),
            count(most),
        ))
    }

    /// Sockets that do not fit into a worktree, or little room for one.
    fn sockets(&self) -> Option<String> {
        let longest = self.worktrees.iter().map(|path| path.as_os_str().len()).max();
        let usual = || {
            // The name of the folder, `.worktrees`, and a slash before the worktree.
            self.project.as_os_str().len() + ".worktrees/".len() + USUAL_NAME_BYTES
        };
        let tree = longest.unwrap_or_else(usual) + 1;
        let room = SOCKET_PATH_MOST.saturating_sub(tree);
        let too_long = self.found.sockets.iter().find(|path| path.as_os_str().len() > room);
        let way_out = "a shorter folder is 'git config calve.worktrees DIR'";
        match too_long {
            Some(socket) => Some(format!(
                "sockets: {} does not fit into a worktree, because a socket's path has at most {SOCKET_PATH_MOST} bytes: {way_out}",
                shown(socket)
            )),
            None if room < SOCKET_ROOM_LEAST => Some(format!(
                "sockets: a worktree leaves {} for the path of a socket in it, such as a database's: {way_out}",
                counted(room as u64, "byte")
            )),
            None => None,
        }
    }

    fn pnpm(&self) -> Option<String> {
        let warning = |tree: &PathBuf| pnpm::warning(self.project, tree);
        let text = self.worktrees.iter().find_map(warning);
        text.map(|text| format!("pnpm: {text}"))
    }
}

/// The virtual environments in a project's root, and what made them.
fn python(project: &Path) -> Option<String> {
    let mut found: Vec<String> = Vec::new();
    for entry in read_dir(project).into_iter().flatten().flatten() {
        let Ok(text) = read_to_string(entry.path().join("pyvenv.cfg")) else { continue };
        let by_uv = text
            .lines()
            .any(|line| line.split_once('=').is_some_and(|(key, _)| key.trim() == "uv"));
        let name = shown(Path::new(&entry.file_name()));
        found.push(if by_uv { format!("{name} (uv)") } else { name });
    }
    found.sort();
    let environments = found.join(", ");
    (!found.is_empty())
        .then(|| format!("python: {environments}: in a worktree it leads to that worktree's code"))
}

/// Agents' tools that make worktrees themselves, and whether calve completes these.
fn agents(project: &Path) -> Option<String> {
    let is_there = |path: &str| project.join(path).symlink_metadata().is_ok();
    let (mut told, mut untold) = (Vec::new(), Vec::new());
    for (tool, file, sign) in AGENTS {
        match read_to_string(project.join(file)) {
            Ok(text) if text.contains("calve") => told.push(tool.to_owned()),
            _ if is_there(sign) => untold.push(format!("{tool} ({file})")),
            _ => {}
        }
    }
    let told = (!told.is_empty()).then(|| format!("{} use calve", told.join(", ")));
    let untold = (!untold.is_empty()).then(|| {
        format!("worktrees that these make themselves have no dependencies until a setting runs 'calve fill': {}", untold.join(", "))
    });
    let parts: Vec<String> = told.into_iter().chain(untold).collect();
    (!parts.is_empty()).then(|| format!("agents: {}", parts.join("; ")))
}

document! {
    /// What watchers of a project and its worktrees take, in JSON; docs/json.md says what the fields
    /// mean.
    pub(super) struct LimitsDocument(around: &Around<'_>) {
        folders: u64 = around.found.folders,
        watched_folders: u64 = around.found.watched_folders,
        worktrees: u64 = around.worktrees.len() as u64,
        max_user_watches: Option<u64> = around.watching.watches,
        max_user_instances: Option<u64> = around.watching.instances,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(files: &[(&str, &str)]) -> tempfile::TempDir {
        let scratch = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = scratch.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        scratch
    }

    #[test]
    fn the_watches_of_all_trees_are_counted_and_too_few_have_a_way_out() {
        let scratch = project(&[
            ("src/a/f", ""),
            ("node_modules/x/f", ""),
            (".claude/worktrees/w/f", ""),
            (".calve/x/f", ""),
        ]);
        let root = scratch.path();
        let worktrees = [root.join(".claude/worktrees/w"), PathBuf::from("/none")];
        let found = Found::below(root, &worktrees);
        // The root, src, src/a, .claude and .claude/worktrees; node_modules and x.
        assert_eq!((found.watched_folders, found.folders), (5, 7));
        for (watches, expected) in [
            (None, None),
            (
                Some(21),
                Some(
                    "takes 15 of inotify's watches, 21 with .git, node_modules and target; you have 21, in 128 watching programs",
                ),
            ),
            (
                Some(20),
                Some(
                    "you have 20, in 128 watching programs: too few for all of them ('sudo sysctl fs.inotify.max_user_watches=64')",
                ),
            ),
        ] {
            let watching = Watching { watches, instances: Some(128) };
            let found = Found::below(root, &worktrees);
            let line = Around { project: root, worktrees: &worktrees, found, watching }.watches();
            assert_eq!(line.is_some(), expected.is_some(), "{line:?}");
            assert!(
                line.zip(expected).is_none_or(|(line, end)| line.ends_with(end)),
                "{watches:?}"
            );
        }
    }

    #[test]
    fn a_socket_that_a_worktrees_path_is_too_long_for_is_said() {
        let around = |bytes: usize, sockets: &[&str]| {
            let worktrees = [PathBuf::from("/".to_owned() + &"w".repeat(bytes - 1))];
            let sockets = sockets.iter().map(PathBuf::from).collect();
            let found = Found { sockets, ..Found::default() };
            let watching = Watching::default();
            Around { project: Path::new("/p"), worktrees: &worktrees, found, watching }.sockets()
        };
        let room = |left: usize| SOCKET_PATH_MOST - 1 - left;
        for (bytes, sockets, expected) in [
            (room(32), &[][..], None),
            (room(31), &[], Some("leaves 31 bytes for")),
            (room(40), &["tmp/puma.sock"], None),
            (room(12), &["a.sock", "tmp/puma.sock"], Some("tmp/puma.sock does not fit")),
            (200, &["s"], Some("s does not fit")),
        ] {
            let line = around(bytes, sockets);
            assert_eq!(line.is_some(), expected.is_some(), "{bytes} {line:?}");
            assert!(line.zip(expected).is_none_or(|(line, it)| line.contains(it)), "{bytes}");
        }
    }

    #[test]
    fn tools_are_found_by_their_files() {
        let scratch = project(&[
            (".venv/pyvenv.cfg", "home = /usr/bin\nuv = 0.9.1\n"),
            ("venv/pyvenv.cfg", "home = /usr/bin\n"),
            (".claude/settings.json", "{\"hooks\": \"calve fill\"}"),
            (".cursor/rules", ""),
        ]);
        let root = scratch.path();
        assert_eq!(
            python(root).unwrap(),
            "python: .venv (uv), venv: in a worktree it leads to that worktree's code"
        );
        assert_eq!(
            agents(root).unwrap(),
            "agents: Claude Code use calve; worktrees that these make themselves have no dependencies until a setting \
             runs 'calve fill': Cursor (.cursor/worktrees.json)"
        );
        let none = tempfile::tempdir().unwrap();
        assert_eq!((python(none.path()), agents(none.path())), (None, None));
    }
}
