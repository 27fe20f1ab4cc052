//! The user's settings: the keys `calve.*` of git's configuration.
//!
//! They are settings of git because they must be the user's own: one of them is a command. A clone
//! brings neither `.git/config` nor the user's configuration, so a repository cannot bring a
//! command that `start` would run, or a folder into which it would write. A file in the project's
//! tree, or a store that somebody committed, could. git reads no configuration of a repository that
//! belongs to another user (`safe.directory`). Nor does it read the configuration of a folder that
//! only looks like a bare repository, which a tree may contain.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use calve::ErrorKind;

use crate::failure::Failure;
use crate::failure::stored::own;
use crate::similar;
use crate::text::harmless;

/// The command that `start` runs in each new worktree.
pub(crate) const AFTER_START: &str = "calve.afterStart";

/// The port of the project itself, and how many ports each tree has.
pub(crate) const PORT_BASE: &str = "calve.portBase";
pub(crate) const PORT_STEP: &str = "calve.portStep";

/// The bounds of `calve tidy`.
pub(crate) const TIDY_MAX_SIZE: &str = "calve.tidy.maxSize";
pub(crate) const TIDY_MAX_AGE: &str = "calve.tidy.maxAge";
pub(crate) const TIDY_IDLE: &str = "calve.tidy.idle";

/// The commit at which `start` makes new branches.
pub(crate) const BASE: &str = "calve.base";
/// What new worktrees get of the repository.
pub(crate) const GIT: &str = "calve.git";
/// What becomes of files that look like secrets.
pub(crate) const SECRETS: &str = "calve.secrets";
/// The folder into which `start` puts worktrees.
pub(crate) const WORKTREES: &str = "calve.worktrees";

/// All settings. Each has its row in docs/worktrees.md: a test looks.
const KNOWN: &[&str] = &[
    AFTER_START,
    BASE,
    GIT,
    PORT_BASE,
    PORT_STEP,
    SECRETS,
    TIDY_IDLE,
    TIDY_MAX_AGE,
    TIDY_MAX_SIZE,
    WORKTREES,
];

/// The settings that hold for a project, in the order in which git reads them: the system's, the
/// user's, the repository's.
#[derive(Debug, Default)]
pub(crate) struct Settings(Vec<(String, String)>);

impl Settings {
    /// Asks git once for all of them. A project without a repository has those of the user. Without
    /// git there are none.
    ///
    /// # Errors
    /// git cannot say them, in these words.
    pub(crate) fn of(project: &Path) -> Result<Self, String> {
        let mut git = git_in(project);
        git.args(["-c", "safe.bareRepository=explicit", "config"]);
        if std::fs::symlink_metadata(project.join(".git")).is_err() {
            // A git before 2.38 does not know that setting.
            git.args(["--global", "--includes"]);
            // Without a home, as in a system service, git would fail. There may be settings still
            // (`XDG_CONFIG_HOME`).
            if std::env::var_os("HOME").is_none() {
                git.env("HOME", "/dev/null");
            }
        }
        git.args(["-z", "--get-regexp", r"^calve\."]).env("LC_ALL", "C");
        if let Some(above) = project.parent() {
            // A repository around the project is not the project's.
            git.env("GIT_CEILING_DIRECTORIES", above);
        }
        let output = match calve::output_of(&mut git) {
            Ok(output) => output,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(calve::why_git_did_not_run(error)),
        };
        let said = String::from_utf8_lossy(&output.stderr);
        let is_message =
            |line: &str| ["error:", "fatal:", "warning:"].iter().any(|kind| line.starts_with(kind));
        match output.status.code() {
            // Those of another file. What git could not read may say something else.
            Some(0) if !said.contains("unable to access") => {}
            // None is set. With a message, and not only a trace (GIT_TRACE), git could not read a
            // file.
            Some(1) if !said.lines().any(is_message) => {}
            _ => return Err(said.trim().to_owned()),
        }
        String::from_utf8(output.stdout).map(|text| Self::read(&text)).map_err(|it| it.to_string())
    }

    /// The same for a command that must not guess: a setting may say that secrets stay, where
    /// worktrees belong, or at which commit they begin.
    ///
    /// # Errors
    /// git cannot say them.
    pub(crate) fn known(project: &Path) -> Result<Self, Failure> {
        Self::of(project).map_err(|why| {
            let hint = "'git config --list' shows what git cannot read";
            own("ask git about the settings of", project, ErrorKind::Git, &harmless(&why), hint)
        })
    }

    /// What `read` makes of them.
    ///
    /// # Errors
    /// git cannot say them, or one of them is wrong.
    pub(crate) fn usable<T>(
        project: &Path,
        read: impl FnOnce(&Self) -> Result<T, String>,
    ) -> Result<T, Failure> {
        Self::of(project).and_then(|settings| read(&settings)).map_err(|why| {
            let hint = "'git config --get-regexp ^calve' lists the settings";
            own("read the settings of", project, ErrorKind::Git, &why, hint)
        })
    }

    /// Reads what `git config -z` prints: `key LF value NUL`. A key alone stands for `true`.
    pub(crate) fn read(text: &str) -> Self {
        let entry = |entry: &str| {
            let (key, value) = entry.split_once('\n').unwrap_or((entry, "true"));
            (key.to_owned(), value.to_owned())
        };
        Self(text.split_terminator('\0').map(entry).collect())
    }

    /// The value of a setting: the last one that is set counts. `None` if it is not set, or empty.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        debug_assert!(KNOWN.contains(&key), "{key} needs a row in KNOWN");
        // git does not tell capital letters from small ones in a key, and prints small ones.
        let found = self.0.iter().rev().find(|(it, _)| it.eq_ignore_ascii_case(key));
        found.map(|(_, value)| value.as_str()).filter(|value| !value.trim().is_empty())
    }

    /// What `parse` makes of the value of a setting. `None` if it is not set, or empty.
    ///
    /// # Errors
    /// `parse` takes no such value.
    pub(crate) fn parsed<T>(
        &self,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, String> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let wrong = |why| format!("git's setting {key} is '{}': {why}", harmless(value));
        parse(value).map(Some).map_err(wrong)
    }

    /// The folder for new worktrees. A relative one starts at the project's root, `~` is the home
    /// folder, and `{project}` the name of the project's folder.
    ///
    /// # Errors
    /// The value has something else in braces.
    pub(crate) fn worktrees(&self, project: &Path) -> Result<Option<PathBuf>, Failure> {
        let Some(value) = self.get(WORKTREES) else { return Ok(None) };
        let name = project.file_name().unwrap_or_default().to_string_lossy();
        let place = value.trim().replace("{project}", &name);
        if place.contains(['{', '}']) && !name.contains(['{', '}']) {
            return Err(wrong(WORKTREES, value, "knows {project} only"));
        }
        let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
        let place = match (place.strip_prefix("~/"), home) {
            (Some(below), Some(home)) => Path::new(&home).join(below),
            _ => project.join(place),
        };
        Ok(Some(place))
    }

    /// What is wrong with the settings: a line for each key that calve does not have.
    pub(crate) fn remarks(&self) -> Vec<String> {
        let short = |key: &'static str| key.trim_start_matches("calve.");
        let is_known = |key: &str| KNOWN.iter().any(|it| it.eq_ignore_ascii_case(key));
        let mut keys: Vec<&str> = self.0.iter().map(|(key, _)| key.as_str()).collect();
        keys.retain(|key| !is_known(key));
        keys.sort_unstable();
        keys.dedup();
        let remark = |key: &str| {
            let word = key.trim_start_matches("calve.");
            let meant = similar::to(word, KNOWN.iter().map(|it| short(it)));
            let meant: Vec<_> = meant.into_iter().map(|it| format!("calve.{it}")).collect();
            let meant = similar::question(&meant).unwrap_or_default();
            format!("git's setting {} means nothing to calve{meant}", harmless(key))
        };
        keys.into_iter().map(remark).collect()
    }
}

/// The error for a value that a setting cannot have.
pub(crate) fn wrong(key: &str, value: &str, why: &str) -> Failure {
    let value = harmless(value);
    own(
        "use git's setting",
        Path::new(key),
        ErrorKind::InvalidPattern,
        &format!("it {why}, and is '{value}'"),
        format!("'git config --show-origin --get-all {key}' shows where it is set"),
    )
}

/// A run of git for the repository that contains this folder, whatever the environment says.
pub(crate) fn git_in(folder: &Path) -> Command {
    let mut git = without_another_repository(Command::new("git"));
    git.arg("-C").arg(folder);
    git
}

/// What a command of git prints.
///
/// # Errors
/// git could not be run, or it failed; then the error has git's words.
pub(crate) fn said(git: &mut Command) -> io::Result<Vec<u8>> {
    let output =
        calve::output_of(git).map_err(|it| io::Error::other(calve::why_git_did_not_run(it)))?;
    match output.status.success() {
        true => Ok(output.stdout),
        false => Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
    }
}

/// A command that no variable of the environment leads to another repository than that of its
/// folder.
pub(crate) fn without_another_repository(mut command: Command) -> Command {
    for name in calve::GIT_VARIABLES {
        command.env_remove(name);
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_value_counts_in_whatever_letters_the_key_is_written() {
        for (text, expected) in [
            ("", None),
            ("calve.afterstart\nmake\0", Some("make")),
            ("calve.afterstart\nmake\0calve.afterstart\na\nb\0", Some("a\nb")),
            ("calve.afterstart\nmake\0calve.afterstart\n \0", None),
            ("calve.afterstart\0", Some("true")),
            ("calve.x.afterstart\nmake\0", None),
        ] {
            assert_eq!(Settings::read(text).get(AFTER_START), expected, "{text:?}");
        }
    }

    #[test]
    fn the_place_of_worktrees_starts_at_the_project() {
        let project = Path::new("/p/app");
        for (value, expected) in [
            (".claude/worktrees", Some("/p/app/.claude/worktrees")),
            ("../{project}.trees", Some("/p/app/../app.trees")),
            ("/srv/{project}", Some("/srv/app")),
            (" ", None),
        ] {
            let settings = Settings::read(&format!("calve.worktrees\n{value}\0"));
            let place = settings.worktrees(project).unwrap();
            assert_eq!(place.as_deref(), expected.map(Path::new), "{value}");
        }
        assert!(Settings::read("calve.worktrees\n/{name}\0").worktrees(project).is_err());
    }

    #[test]
    fn each_setting_has_its_row_in_the_guide() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/worktrees.md");
        let page = std::fs::read_to_string(page).unwrap();
        for key in KNOWN {
            assert!(page.contains(&format!("| `{key}` | ")), "{key}");
        }
    }

    #[test]
    fn a_key_that_means_nothing_is_said_with_the_one_that_was_meant() {
        for (text, expected) in [
            ("calve.afterstart\nx\0", &[][..]),
            (
                "calve.afterstrat\nx\0calve.afterstrat\ny\0",
                &[
                    "git's setting calve.afterstrat means nothing to calve; did you mean 'calve.afterStart'?",
                ],
            ),
            ("calve.colour\nx\0", &["git's setting calve.colour means nothing to calve"]),
        ] {
            assert_eq!(Settings::read(text).remarks(), expected, "{text:?}");
        }
    }
}
