//! Lets git's settings hold in a run as they hold outside.
//!
//! In the run the repository has another path, so a setting may hold otherwise that depends on the
//! path (`includeIf "gitdir:…"`), or that leads into the project's `.git` (`core.hooksPath`), which is
//! the file of a linked worktree there. calve asks git for all settings outside and in the run. Those
//! that differ go into a file, which git includes for this one worktree: by variables
//! `GIT_CONFIG_…`, with a condition that is true for no other repository.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use crate::settings::{git_in, said};

/// git's settings in a folder: the values of each name, in git's order. The last one counts, for
/// names that have one value only.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct GitSettings(BTreeMap<String, Vec<String>>);

impl GitSettings {
    /// None, if git does not say them.
    pub(super) fn of(folder: &Path) -> Self {
        let said = said(git_in(folder).args(["config", "--list", "-z"])).unwrap_or_default();
        Self::read(&String::from_utf8_lossy(&said))
    }

    /// Reads what `git config -z` prints: `name LF value NUL`.
    fn read(text: &str) -> Self {
        let mut found = Self::default();
        for entry in text.split_terminator('\0') {
            let (name, value) = entry.split_once('\n').unwrap_or((entry, "true"));
            found.0.entry(name.to_owned()).or_default().push(value.to_owned());
        }
        found
    }

    /// The same, with the paths into one folder as paths into another one.
    pub(super) fn with_moved(mut self, from: &Path, to: &Path) -> Self {
        for value in self.0.values_mut().flatten() {
            if let Ok(below) = Path::new(&*value).strip_prefix(from) {
                *value = to.join(below).to_string_lossy().into_owned();
            }
        }
        self
    }

    /// What must be added to `self` so that it says what `wanted` says, and the names for which
    /// nothing that is added does that for sure.
    fn missing<'a>(&self, wanted: &'a Self) -> (Vec<(&'a str, &'a str)>, Vec<String>) {
        let (mut added, mut unsure) = (Vec::new(), Vec::new());
        let none = Vec::new();
        for (name, values) in &wanted.0 {
            let found = self.0.get(name).unwrap_or(&none);
            let rest = match values.strip_prefix(&found[..]) {
                Some(rest) => rest,
                None => {
                    // Of a name with many values, the wrong ones stay.
                    if values.len() > 1 || found.len() > 1 {
                        unsure.push(name.clone());
                    }
                    &values[values.len() - 1..]
                }
            };
            added.extend(rest.iter().map(|value| (&**name, &**value)));
        }
        unsure.extend(self.0.keys().filter(|name| !wanted.0.contains_key(*name)).cloned());
        unsure.sort();
        (added, unsure)
    }
}

/// What lets git's settings hold in a run, and what it cannot do.
#[derive(Debug, Default)]
pub(super) struct Alike {
    /// For the program's environment.
    pub(super) variables: Vec<(&'static str, String)>,
    /// The names of settings that may hold otherwise.
    pub(super) unsure: Vec<String>,
}

impl Alike {
    /// Lets the settings in the working tree at `root` be as `wanted`. `file` is for them, where no
    /// other process sees it.
    ///
    /// # Errors
    /// git or the system could not write it.
    pub(super) fn of(wanted: &GitSettings, root: &Path, file: &Path) -> io::Result<Self> {
        let inside = GitSettings::of(root);
        let (added, unsure) = inside.missing(wanted);
        if added.is_empty() {
            return Ok(Self { unsure, ..Self::default() });
        }
        for (name, value) in added {
            let mut git = git_in(root);
            said(git.args(["config", "-f"]).arg(file).args(["--add", name, value]))?;
        }
        let git_dir = said(git_in(root).args(["rev-parse", "--absolute-git-dir"]))?;
        let git_dir = String::from_utf8_lossy(&git_dir);
        let variables = vec![
            ("GIT_CONFIG_COUNT", "1".to_owned()),
            (
                "GIT_CONFIG_KEY_0",
                format!("includeIf.gitdir:{}.path", as_pattern(git_dir.trim_end_matches('\n'))),
            ),
            ("GIT_CONFIG_VALUE_0", path_in(file)?),
        ];
        Ok(Self { variables, unsure })
    }
}

fn path_in(file: &Path) -> io::Result<String> {
    file.to_str().map(str::to_owned).ok_or_else(|| io::Error::other("the path is not UTF-8"))
}

/// A path as a pattern that means it alone.
fn as_pattern(path: &str) -> String {
    let special = |char: char| matches!(char, '*' | '?' | '[' | '\\').then_some('\\');
    path.chars().flat_map(|char| special(char).into_iter().chain([char])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_added_and_what_cannot_be_taken_away_is_named() {
        for (inside, wanted, added, unsure) in [
            ("", "", &[][..], &[][..]),
            ("a.b\n1\0", "a.b\n1\0", &[], &[]),
            ("", "a.b\n1\0a.c\0", &[("a.b", "1"), ("a.c", "true")], &[]),
            // The last one counts.
            ("a.b\n1\0", "a.b\n1\0a.b\n2\0", &[("a.b", "2")], &[]),
            ("a.b\n1\0", "a.b\n2\0", &[("a.b", "2")], &[]),
            // They may all count.
            ("a.b\n1\0", "a.b\n2\0a.b\n3\0", &[("a.b", "3")], &["a.b"]),
            ("a.b\n1\0a.b\n2\0", "a.b\n1\0", &[("a.b", "1")], &["a.b"]),
            ("a.b\n1\0", "", &[], &["a.b"]),
        ] {
            let (inside, wanted) = (GitSettings::read(inside), GitSettings::read(wanted));
            let (found, names) = inside.missing(&wanted);
            assert_eq!(
                (&found[..], &names[..]),
                (added, &unsure.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>()[..]),
                "{inside:?} {wanted:?}"
            );
        }
    }

    #[test]
    fn a_path_is_a_pattern_of_itself() {
        for (path, expected) in [("/a b/c", "/a b/c"), ("/a*[b]?\\", "/a\\*\\[b]\\?\\\\")] {
            assert_eq!(as_pattern(path), expected);
        }
    }

    #[test]
    fn a_path_into_the_repository_moves_with_it() {
        let settings = GitSettings::read("core.hookspath\n/p/.git/hooks\0a.b\n/p/.gitx\0");
        let moved = settings.with_moved(Path::new("/p/.git"), Path::new("/s/p/.git"));
        let expected = GitSettings::read("core.hookspath\n/s/p/.git/hooks\0a.b\n/p/.gitx\0");
        assert_eq!(moved, expected);
    }
}
