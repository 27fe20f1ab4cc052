//! What `push` says before it sends files that look like secrets.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use calve::{KnownRemote, Secret};
use serde::Serialize;

use crate::output::PathFields;
use crate::text::{counted, harmless, shell_word, shown};

/// How many files a warning names.
const NAMED: usize = 8;

/// A file that looks like a secret, in JSON; docs/json.md says what the fields mean.
#[derive(Serialize)]
pub(super) struct SecretDocument {
    #[serde(flatten)]
    path: PathFields,
    kind: &'static str,
}

impl SecretDocument {
    pub(super) fn all(secrets: &[Secret]) -> Vec<Self> {
        let new = |secret: &Secret| Self {
            path: PathFields::new(&secret.path),
            kind: secret.kind.as_str(),
        };
        secrets.iter().map(new).collect()
    }
}

/// The warning about the files of all snapshots that are sent.
pub(super) fn warnings(secrets: &[Vec<Secret>], known: &KnownRemote) -> Vec<String> {
    let files: BTreeSet<&Path> =
        secrets.iter().flatten().map(|secret| secret.path.as_path()).collect();
    if files.is_empty() {
        return Vec::new();
    }
    let named: Vec<String> = files.iter().take(NAMED).map(|path| shown(path)).collect();
    let more = match files.len() - named.len() {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    let (count, remote) = (counted(files.len() as u64, "file"), harmless(&known.name));
    let (look, them) = if files.len() == 1 { ("looks", "it") } else { ("look", "them") };
    let lines: Vec<String> =
        files.iter().take(NAMED).map(|path| shell_word(&pattern(path))).collect();
    vec![format!(
        "this sends {count} that {look} like a secret and that git does not track: {}{more}. Whoever may read {remote} \
         can read {them}: nothing there is encrypted. To leave {them} out: printf '%s\\n' {} >> .calveignore, and take \
         the snapshot again; new worktrees get none of {them} then, either",
        named.join(", "),
        lines.join(" ")
    )]
}

/// The line of `.calveignore` that means this file alone.
fn pattern(path: &Path) -> PathBuf {
    let mut line = b"/".to_vec();
    for byte in path.as_os_str().as_encoded_bytes() {
        if b"*?[\\ ".contains(byte) {
            line.push(b'\\');
        }
        line.push(*byte);
    }
    PathBuf::from(std::ffi::OsString::from_vec(line))
}
