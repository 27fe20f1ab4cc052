//! A hint is a command that works where it is pasted: in the user's shell. Hints name worktrees and
//! snapshots, and a name means another one in another project. So if calve would not find this
//! command's store from the shell's folder, each hint names the project or the store.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use calve::Store;

use crate::text::shell_word;

/// What the hints are about.
static ABOUT: Mutex<Option<About>> = Mutex::new(None);

struct About {
    store: PathBuf,
    project: PathBuf,
    /// Whether a command that is pasted finds the store without being told. `None`: nobody looked
    /// yet. Most commands print no hint.
    is_found: Option<bool>,
}

/// Commands that use no store, or are given one by a path.
const WITHOUT_STORE: [&str; 8] =
    ["cd", "clone", "doctor", "hook", "init", "man", "shell-init", "volume"];

/// From now on hints are about this store. `is_found` says whether a command that is pasted finds
/// it without being told, if that is known.
pub(crate) fn are_about(store: &Store, is_found: Option<bool>) {
    let about = || {
        let path = store.path().to_owned();
        About { project: store.project().unwrap_or_else(|_| path.clone()), store: path, is_found }
    };
    let about = (is_found != Some(true)).then(about);
    *ABOUT.lock().unwrap_or_else(PoisonError::into_inner) = about;
}

/// The store, and the root of its project, if the shell's folder does not lead to that store.
fn elsewhere() -> Option<(PathBuf, PathBuf)> {
    let mut about = ABOUT.lock().unwrap_or_else(PoisonError::into_inner);
    let About { store, project, is_found } = about.as_mut()?;
    let finds_it = || Store::discover(".").is_ok_and(|it| it.store.path() == store);
    let is_elsewhere = !*is_found.get_or_insert_with(finds_it);
    is_elsewhere.then(|| (store.clone(), project.clone()))
}

/// `git` for a hint that is about the project's repository.
pub(crate) fn git() -> String {
    elsewhere().map_or("git".to_owned(), |(_, project)| format!("git -C {}", shell_word(&project)))
}

/// A message whose quoted commands of calve work where it is read.
pub(crate) fn placed(message: &str) -> Cow<'_, str> {
    match message.contains(QUOTED).then(elsewhere).flatten() {
        Some((store, project)) => Cow::Owned(with_store(message, &store, &project)),
        None => Cow::Borrowed(message),
    }
}

/// How a quoted command of calve begins.
const QUOTED: &str = "'calve ";

fn with_store(message: &str, store: &Path, project: &Path) -> String {
    let mut parts = message.split(QUOTED);
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text.push_str(QUOTED);
        let command = part.split('\'').next().unwrap_or_default();
        let verb = command.split(' ').next().unwrap_or_default();
        if !verb.starts_with('-') && !WITHOUT_STORE.contains(&verb) {
            // A path is one from the shell's folder.
            let (flag, place) =
                if command.contains('/') { ("--store", store) } else { ("-C", project) };
            text.push_str(&format!("{flag} {} ", shell_word(place)));
        }
        text.push_str(part);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_uses_a_store_names_it_and_no_other_one_does() {
        for (message, placed) in [
            ("'calve undo a' brings it back", "'calve -C /p undo a' brings it back"),
            ("'calve drop --force ../w/a'", "'calve --store /s drop --force ../w/a'"),
            ("'calve list' or 'calve log'", "'calve -C /p list' or 'calve -C /p log'"),
            ("'calve init --force d'", "'calve init --force d'"),
            ("'calve doctor d' says", "'calve doctor d' says"),
            ("'calve --store /t start n'", "'calve --store /t start n'"),
            ("'git -C d status', calve undo", "'git -C d status', calve undo"),
            ("", ""),
        ] {
            assert_eq!(with_store(message, Path::new("/s"), Path::new("/p")), placed);
        }
    }
}
