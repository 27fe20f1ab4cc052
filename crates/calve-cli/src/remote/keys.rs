//! `.calvekeys`: the keys that a project trusts, in a file that its repository tracks.
//!
//! calve reads it when a user adds a remote, and puts its keys into the store. After that only the
//! store's list counts, because a pull may bring another file. If the file differs from what the
//! store took from it, a push and a pull say so, and how to adopt it.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use calve::{ErrorKind, KnownRemote, PublicKey, Store};
use rustix::fs::OFlags;

use crate::failure::Failure;
use crate::failure::stored::own;
use crate::output::Output;
use crate::text::{counted, harmless, shell_word, shown};

const FILE: &str = ".calvekeys";
/// Room for some hundred keys with names and comments.
const MOST_BYTES: u64 = 64 << 10;

/// The path of a project's key file, whether or not it exists.
pub(super) fn file_of(project: &Path) -> PathBuf {
    project.join(FILE)
}

/// The keys in a project's file; none if there is no file.
pub(super) fn read(store: &Store, file: &Path) -> Result<Vec<PublicKey>, Failure> {
    let wrong = |cause: &str, hint: &str| {
        own("read the keys in", file, ErrorKind::InvalidName, cause, hint)
    };
    let bytes = match bytes(store, file) {
        Ok(bytes) => bytes,
        Err(Unread::Absent) => return Ok(Vec::new()),
        Err(Unread::Odd(why)) => {
            return Err(wrong(
                &why,
                "replace it by a regular file with a key on each line, or move it away",
            ));
        }
        Err(Unread::Untrusted(why)) => {
            let hint = format!(
                "if you trust its keys, name them with --key, or make the file yours alone: chown and chmod 644 {}",
                shell_word(file)
            );
            return Err(own("read the keys in", file, ErrorKind::StoreUntrusted, &why, &hint));
        }
        Err(Unread::Io(error)) => {
            return Err(Failure::io("read the keys in", vec![file.to_owned()], &error));
        }
    };
    parse(&bytes).map_err(|line| {
        wrong(
            &format!("line {line} does not begin with a public key: 64 hexadecimal digits"),
            "write one key a line as 'calve remote key' prints it; a name may follow, and # begins a comment",
        )
    })
}

enum Unread {
    Absent,
    Odd(String),
    Untrusted(String),
    Io(io::Error),
}

fn bytes(store: &Store, path: &Path) -> Result<Vec<u8>, Unread> {
    let odd = |why: &str| Err(Unread::Odd(why.to_owned()));
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Unread::Absent,
        _ => Unread::Io(error),
    };
    // Check the type first: to open a device can have effects.
    let meta = std::fs::symlink_metadata(path).map_err(failed)?;
    if meta.is_symlink() {
        return odd("it is a symbolic link, which may lead out of the project");
    }
    if !meta.is_file() {
        return odd("it is no regular file");
    }
    // Another file may have taken its place since the check.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = File::options().read(true).custom_flags(flags).open(path).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    if !meta.is_file() {
        return odd("it is no regular file");
    }
    if let Some(why) = store.why_not_trusted(&meta) {
        return Err(Unread::Untrusted(why));
    }
    let mut bytes = Vec::new();
    file.take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(Unread::Io)?;
    if bytes.len() as u64 > MOST_BYTES {
        return odd("it has more than 64 KiB, which is no list of keys");
    }
    Ok(bytes)
}

/// The keys in the text of a file, each once. The error is the number of a line that has none.
fn parse(bytes: &[u8]) -> Result<Vec<PublicKey>, usize> {
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    let mut keys = Vec::new();
    for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let wrong = number + 1;
        // Names and comments may be in any encoding.
        let line = line.split(|byte| *byte == b'#').next().unwrap_or_default();
        let Some(word) = line.split(u8::is_ascii_whitespace).find(|word| !word.is_empty()) else {
            continue;
        };
        let word = std::str::from_utf8(word).map_err(|_| wrong)?;
        let key = word.parse().map_err(|_| wrong)?;
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    Ok(keys)
}

/// Some keys, for a sentence.
pub(super) fn listed(keys: &[PublicKey]) -> String {
    let begin = |key: &PublicKey| format!("{}…", key.to_string().get(..12).unwrap_or_default());
    keys.iter().map(begin).collect::<Vec<_>>().join(", ")
}

/// The differences between a project's file and the keys that the store took from it: new keys, and
/// missing ones. A file without keys has no differences: a remote without signatures did not adopt
/// it.
fn differences(
    known: &KnownRemote,
    file: &[PublicKey],
) -> Option<(Vec<PublicKey>, Vec<PublicKey>)> {
    let trusted = known.trusted();
    let added: Vec<_> = file.iter().filter(|key| !trusted.contains(key)).copied().collect();
    let gone: Vec<_> =
        known.project_keys.iter().filter(|key| !file.contains(key)).copied().collect();
    let is_same = added.is_empty() && gone.is_empty();
    (!file.is_empty() && !is_same).then_some((added, gone))
}

/// Warns if the project's file has other keys than the store took from it.
pub(super) fn tell_differences(store: &Store, known: &KnownRemote, output: Output) {
    let Ok(project) = store.project() else { return };
    let file = file_of(&project);
    let keys = match read(store, &file) {
        Ok(keys) => keys,
        Err(failure) => {
            // The store still uses its own keys.
            output.warning(format_args!("{}: {}", shown(&file), failure.cause));
            return;
        }
    };
    let Some((added, gone)) = differences(known, &keys) else { return };
    let says: Vec<String> = [("has", added, "does not trust"), ("lacks", gone, "trusts")]
        .iter()
        .filter(|(_, keys, _)| !keys.is_empty())
        .map(|(verb, keys, trust)| {
            let (count, name) = (counted(keys.len() as u64, "key"), harmless(&known.name));
            format!("{verb} {count} that {name} {trust} ({})", listed(keys))
        })
        .collect();
    let own: String = known.keys.iter().map(|key| format!(" --key {key}")).collect();
    output.warning(format_args!(
        "{} {}; if that is right: calve remote add {} {}{own}",
        shown(&file),
        says.join(", and "),
        shell_word(Path::new(&known.name)),
        shell_word(Path::new(&known.url)),
    ));
}

#[cfg(test)]
mod tests {
    use calve::SigningKey;

    use super::*;

    fn key(number: u8) -> PublicKey {
        SigningKey::from_bytes(&[number; 32]).public()
    }

    #[test]
    fn a_line_is_a_key_with_or_without_a_name_or_a_comment_and_nothing_else() {
        let (one, two) = (key(1), key(2));
        for (row, text, expected) in [
            ("nothing", String::new(), Ok(vec![])),
            ("comments", "# ours\n\n  # theirs\n".to_owned(), Ok(vec![])),
            ("one", format!("{one}\n"), Ok(vec![one])),
            ("no line end", format!("{one}"), Ok(vec![one])),
            ("names", format!("{one} Ada\n\t{two}\tGrace H.#x\n"), Ok(vec![one, two])),
            ("comment after", format!("{one}# Ada\n"), Ok(vec![one])),
            ("of Windows", format!("\u{feff}{one}\r\n\r\n{two} Ada\r\n"), Ok(vec![one, two])),
            ("twice", format!("{one}\n{two}\n{one} again\n"), Ok(vec![one, two])),
            ("capitals", one.to_string().to_uppercase(), Ok(vec![one])),
            ("the name first", format!("\nAda {one}\n"), Err(2)),
            ("two in one", format!("{one}{two}\n"), Err(1)),
            ("cut off", one.to_string()[..63].to_owned(), Err(1)),
            ("a weak key", format!("{one}\n{}\n", "0".repeat(64)), Err(2)),
            ("a mark in the middle", format!("{one}\n\u{feff}{two}\n"), Err(2)),
            ("no text", "\0\0".to_owned(), Err(1)),
        ] {
            assert_eq!(parse(text.as_bytes()), expected, "{row}");
        }
        let latin = [one.to_string().as_bytes(), b" J\xf6rg\n"].concat();
        assert_eq!(parse(&latin), Ok(vec![one]));
        assert_eq!(parse(b"\xff\xff\n"), Err(1));
    }
}
