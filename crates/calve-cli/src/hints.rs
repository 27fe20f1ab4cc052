//! A hint is a command that works where it is pasted: in the user's shell. Hints name worktrees and
//! snapshots, and a name means another one in another project. So if calve would not find this
//! command's store from the shell's folder, each hint names the project or the store.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use calve::Store;

use crate::text::shell_word;

/// The store that the hints are about, and the root of its project, if the shell's folder does not
/// lead to that store.
static ELSEWHERE: Mutex<Option<(PathBuf, PathBuf)>> = Mutex::new(None);

/// Commands that use no store, or are given one by a path.
const WITHOUT_STORE: [&str; 8] =
    ["cd", "clone", "doctor", "hook", "init", "man", "shell-init", "volume"];

/// From now on hints are about this store. `is_found` says whether a command that is pasted finds
/// it without being told.
pub(crate) fn are_about(store: &Store, is_found: bool) {
    let project = || store.project().unwrap_or_else(|_| store.path().to_owned());
    let place = (!is_found).then(|| (store.path().to_owned(), project()));
    *ELSEWHERE.lock().unwrap_or_else(PoisonError::into_inner) = place;
}

/// `git` for a hint that is about the project's repository.
pub(crate) fn git() -> String {
    match &*ELSEWHERE.lock().unwrap_or_else(PoisonError::into_inner) {
        Some((_, project)) => format!("git -C {}", shell_word(project)),
        None => "git".to_owned(),
    }
}

/// A message whose quoted commands of calve work where it is read.
pub(crate) fn placed(message: &str) -> Cow<'_, str> {
    match &*ELSEWHERE.lock().unwrap_or_else(PoisonError::into_inner) {
        Some((store, project)) => with_store(message, store, project),
        None => Cow::Borrowed(message),
    }
}

fn with_store<'m>(message: &'m str, store: &Path, project: &Path) -> Cow<'m, str> {
    const QUOTED: &str = "'calve ";
    if !message.contains(QUOTED) {
        return Cow::Borrowed(message);
    }
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
    Cow::Owned(text)
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
