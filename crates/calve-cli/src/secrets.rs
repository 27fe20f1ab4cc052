//! Files that look like secrets: what git's setting `calve.secrets` says of them, and what calve
//! says of them at a start, a fill and a push.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use calve::{Cancel, KnownRemote, Secret};

use crate::failure::{Failure, Kind};
use crate::output::{Output, PathFields, document};
use crate::paths::pattern;
use crate::prompt;
use crate::session::Session;
use crate::settings::{SECRETS, Settings, wrong};
use crate::text::{counted, first, harmless, shell_word, shown};

/// How many files a message names.
const NAMED: usize = 8;

/// What becomes of files that look like secrets and that git does not track.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SecretPolicy {
    /// They come along. `chosen`: the user wants that, and needs no advice.
    Keep {
        chosen: bool,
    },
    Leave,
    Ask,
    /// The user wants to be asked, and there is no terminal to ask at: they come along.
    CannotAsk,
}

impl SecretPolicy {
    /// # Errors
    /// The setting has another value than calve knows.
    pub(crate) fn of(settings: &Settings) -> Result<Self, Failure> {
        Ok(match settings.get(SECRETS).map(str::trim) {
            None => Self::Keep { chosen: false },
            Some("keep") => Self::Keep { chosen: true },
            Some("leave") => Self::Leave,
            Some("ask") if prompt::can_ask() => Self::Ask,
            Some("ask") => Self::CannotAsk,
            Some(other) => return Err(wrong(SECRETS, other, "knows keep, leave and ask")),
        })
    }

    /// Whether secrets stay behind. If the user wants to be asked, `what` says in the question which
    /// files these are. Without an answer they stay.
    pub(crate) fn leaves(self, what: impl FnOnce() -> String, cancel: &Cancel) -> bool {
        match self {
            Self::Leave => true,
            Self::Ask => {
                eprintln!("{}.", what());
                eprint!("Should they come along? [Y/n] ");
                prompt::answer(cancel)
                    .is_none_or(|answer| !matches!(answer.trim(), "" | "y" | "Y" | "yes"))
            }
            Self::Keep { .. } | Self::CannotAsk => false,
        }
    }

    /// Whether a start may have left files behind, so that a snapshot lacks them.
    pub(crate) fn may_leave(self) -> bool {
        !matches!(self, Self::Keep { .. })
    }

    /// The session for work that asks. A bar would write over the question.
    pub(crate) fn session(self, session: Session<'_>) -> Session<'_> {
        let quiet = session.output.quiet || self == Self::Ask;
        Session { output: Output { quiet, ..session.output }, ..session }
    }

    /// Prints which files came along, and which did not.
    pub(crate) fn tell(self, came: &[Secret], left: &[Secret], output: Output) {
        if !came.is_empty() {
            let more = match self {
                Self::Keep { chosen: false } => {
                    "; 'git config calve.secrets leave' leaves such files out"
                }
                Self::CannotAsk => "; calve.secrets is ask, and there is no terminal to ask at",
                _ => "",
            };
            output.summary(format_args!("{} came along: {}{more}", look_like(came), named(came)));
        }
        if !left.is_empty() {
            output.summary(format_args!("left out {}: {}", look_like(left), named(left)));
        }
    }
}

/// `2 files that look like secrets`.
pub(crate) fn look_like(secrets: &[Secret]) -> String {
    match secrets.len() {
        1 => "1 file that looks like a secret".to_owned(),
        n => format!("{} that look like secrets", counted(n as u64, "file")),
    }
}

/// The first of the files, and how many more there are.
pub(crate) fn named(secrets: &[Secret]) -> String {
    first(NAMED, secrets.iter().map(|secret| shown(&secret.path)))
}

document! {
    /// A file that looks like a secret, in JSON; docs/json.md says what the fields mean.
    pub(crate) struct SecretDocument(secret: &Secret) {
        #[serde(flatten)]
        path: PathFields = PathFields::new(&secret.path),
        kind: &'static str = secret.kind.as_str(),
    }
}

impl SecretDocument {
    pub(crate) fn all(secrets: &[Secret]) -> Vec<Self> {
        secrets.iter().map(Self::new).collect()
    }
}

/// Refuses to send snapshots with such files, or says which are sent if `are_wanted`.
///
/// # Errors
/// There are such files, and nobody wanted to send them.
pub(crate) fn check_push(
    secrets: &[Vec<Secret>],
    known: &KnownRemote,
    are_wanted: bool,
    output: Output,
) -> Result<(), Failure> {
    let files: BTreeSet<&Path> =
        secrets.iter().flatten().map(|secret| secret.path.as_path()).collect();
    let files: Vec<&Path> = files.into_iter().collect();
    if files.is_empty() {
        return Ok(());
    }
    let (count, remote) = (counted(files.len() as u64, "file"), harmless(&known.name));
    let (look, them) = if files.len() == 1 {
        ("looks like a secret", "it")
    } else {
        ("look like secrets", "them")
    };
    let lines: Vec<String> =
        files.iter().take(NAMED).map(|path| shell_word(&pattern(path))).collect();
    let what = format!(
        "{count} that {look} and that git does not track: {}. Whoever may read {remote} can read {them}: nothing there \
         is encrypted",
        first(NAMED, files.iter().map(|path| shown(path)))
    );
    let leave = format!(
        "To leave {them} out: printf '%s\\n' {} >> .calveignore, and take the snapshot again; new worktrees get none of \
         {them} then, either",
        lines.join(" ")
    );
    if are_wanted {
        output.warning(format_args!("this sends {what}. {leave}"));
        return Ok(());
    }
    let (paths, cause) = ([PathBuf::from(&*remote)], format!("this would send {what}"));
    Err(Failure {
        details: files.into_iter().map(Path::to_owned).collect(),
        hint: Some(format!("'calve push --with-secrets' sends {them}. {leave}")),
        ..Failure::new("push to", paths, Kind::Secrets, cause)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_decides_and_another_word_is_an_error() {
        for (value, expected) in [
            ("", Some(SecretPolicy::Keep { chosen: false })),
            ("calve.secrets\nkeep\0", Some(SecretPolicy::Keep { chosen: true })),
            ("calve.secrets\nleave\0", Some(SecretPolicy::Leave)),
            ("calve.secrets\nno\0", None),
        ] {
            let policy = SecretPolicy::of(&Settings::read(value));
            assert_eq!(policy.ok(), expected, "{value:?}");
        }
    }
}
