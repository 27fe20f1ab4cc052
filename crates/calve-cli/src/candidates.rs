//! Completion candidates: the names of worktrees and snapshots that the store has at that moment.
//!
//! Errors here are never reported, because the user is in the middle of a line. There are just no
//! candidates then.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use calve::{KnownRemote, Snapshot, Store};
use clap_complete::engine::{CompletionCandidate, PathCompleter, ValueCompleter as _};

use crate::common::Common;
use crate::text::{harmless, short, shown};

/// The number of snapshots without a name that calve offers, newest first.
const UNNAMED: usize = 50;

/// The names of worktrees; folders if the word is a path.
pub(crate) fn worktrees(word: &OsStr) -> Vec<CompletionCandidate> {
    let bytes = word.as_encoded_bytes();
    if bytes.contains(&b'/') || bytes.starts_with(b".") || bytes.starts_with(b"~") {
        return PathCompleter::dir().complete(word);
    }
    let Some(store) = store() else { return Vec::new() };
    let ours = store.worktrees().unwrap_or_default();
    let ours = ours.iter().map(|it| (it.name(), it.path()));
    let of_git = store.worktrees_of_git().unwrap_or_default();
    let of_git = of_git.iter().map(|it| (it.name.as_str(), it.path.as_path()));
    ours.chain(of_git).filter_map(|(name, path)| offer(name, word, shown(path))).collect()
}

/// The names of snapshots, and the ids of snapshots without a name.
pub(crate) fn snapshots(word: &OsStr) -> Vec<CompletionCandidate> {
    let Some(log) = store().and_then(|store| store.log().ok()) else { return Vec::new() };
    let unnamed = log.snapshots.iter().filter(|snapshot| snapshot.names.is_empty()).take(UNNAMED);
    let ids = unnamed.filter_map(|snapshot| offer(&short(snapshot.id), word, told(snapshot, "")));
    named(&log.snapshots, word).into_iter().chain(ids).collect()
}

/// The names of snapshots.
pub(crate) fn names(word: &OsStr) -> Vec<CompletionCandidate> {
    store()
        .and_then(|store| store.log().ok())
        .map_or_else(Vec::new, |log| named(&log.snapshots, word))
}

/// The names of the remotes that the store knows.
pub(crate) fn remotes(word: &OsStr) -> Vec<CompletionCandidate> {
    let remotes = store().and_then(|store| KnownRemote::all(&store).ok()).unwrap_or_default();
    remotes.iter().filter_map(|it| offer(&it.name, word, harmless(&it.url).into_owned())).collect()
}

/// For the first word of `calve restore [SNAPSHOT] [WORKTREE]`.
pub(crate) fn restorable(word: &OsStr) -> Vec<CompletionCandidate> {
    let mut either = undoable(word);
    either.extend(snapshots(word));
    either
}

/// For `calve undo`: worktrees, and names of dropped ones.
pub(crate) fn undoable(word: &OsStr) -> Vec<CompletionCandidate> {
    let dropped = store().and_then(|store| store.dropped_worktrees().ok()).unwrap_or_default();
    let mut known = worktrees(word);
    for kept in dropped {
        let time = crate::text::utc(kept.dropped);
        let candidate = offer(&kept.name, word, format!("dropped {time}"));
        let is_new =
            |it: &CompletionCandidate| known.iter().all(|k| k.get_value() != it.get_value());
        known.extend(candidate.filter(is_new));
    }
    known
}

fn named(log: &[Snapshot], word: &OsStr) -> Vec<CompletionCandidate> {
    let mut named: Vec<(&String, &Snapshot)> =
        log.iter().flat_map(|it| it.names.iter().map(move |name| (name, it))).collect();
    named.sort_unstable_by_key(|(name, _)| *name);
    let offer_it = |(name, it): (&String, &Snapshot)| {
        offer(name, word, told(it, &format!("{} ", short(it.id))))
    };
    named.into_iter().filter_map(offer_it).collect()
}

/// The description that a shell shows beside a candidate.
fn told(snapshot: &Snapshot, head: &str) -> String {
    let time = crate::text::utc(snapshot.created);
    let message = snapshot.message.lines().next().unwrap_or_default();
    harmless(format!("{head}{time} {message}").trim_end()).into_owned()
}

fn offer(value: &str, word: &OsStr, help: String) -> Option<CompletionCandidate> {
    let begins = value.as_bytes().starts_with(word.as_encoded_bytes());
    begins.then(|| CompletionCandidate::new(value).help(Some(help.into())))
}

/// The line to complete, without the command itself.
fn line() -> impl Iterator<Item = OsString> {
    std::env::args_os().skip_while(|word| word != "--").skip(2)
}

/// The store that the unfinished line is about.
fn store() -> Option<Store> {
    let common = common(line());
    match common.store() {
        Some(path) => Store::open(path).ok(),
        None => Some(Store::discover(common.resolve(Path::new("."))).ok()?.store),
    }
}

/// The flags of an unfinished line that choose the store.
fn common(words: impl Iterator<Item = OsString>) -> Common {
    let mut common = Common::default();
    let mut words = words.map(PathBuf::from);
    while let Some(word) = words.next() {
        let Some(word) = word.to_str() else { continue };
        match word {
            "--" => break,
            "-C" => common.directory = words.next(),
            "--store" => common.store = words.next(),
            _ => {
                if let Some(store) = word.strip_prefix("--store=") {
                    common.store = Some(store.into());
                } else if let Some(directory) = word.strip_prefix("-C") {
                    common.directory = Some(directory.trim_start_matches('=').into());
                }
            }
        }
    }
    common
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_is_that_of_the_flags_so_far() {
        for (line, directory, store) in [
            ("calve drop ", None, None),
            ("calve -C /p drop ", Some("/p"), None),
            ("calve -C/p drop ", Some("/p"), None),
            ("calve drop --store s -C p x", Some("p"), Some("s")),
            ("calve drop --store=s -- -C p", None, Some("s")),
            ("calve drop --store", None, None),
        ] {
            let common = common(line.split(' ').skip(1).map(OsString::from));
            let got = (common.directory.as_deref(), common.store.as_deref());
            assert_eq!(got, (directory.map(Path::new), store.map(Path::new)), "{line}");
        }
    }
}
