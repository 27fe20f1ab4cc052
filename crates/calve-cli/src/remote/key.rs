//! `calve remote key`: the user's own key, which signs what they push.

use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use calve::{ErrorKind, SigningKey};

use crate::args::KeyArgs;
use crate::exit::Exit;
use crate::failure::stored::own;
use crate::failure::{Failure, Kind};
use crate::session::Session;
use crate::text;

/// A larger file is not a key.
const KEY_MOST_BYTES: u64 = 4096;

pub(crate) fn run(args: &KeyArgs, session: Session<'_>) -> Result<Exit, Failure> {
    let path = match &args.file {
        Some(file) => session.common.resolve(file),
        None => key_file()?,
    };
    let (key, is_new) = match read_key(&path) {
        Err(failure) if failure.kind == Kind::Library(ErrorKind::SourceNotFound) => {
            (make_key(&path)?, true)
        }
        key => (key?, false),
    };
    let output = session.output;
    if is_new {
        output.summary(format_args!(
            "made a key in {}: keep this file secret; the public half is",
            text::shown(&path)
        ));
    }
    let public = key.public().to_string();
    if output.json {
        output.document_of("public", &public)?;
    } else {
        output.results(format!("{public}\n").as_bytes())?;
    }
    Ok(Exit::Done)
}

/// The path of the user's key, whether or not it exists.
fn key_file() -> Result<PathBuf, Failure> {
    let variable =
        |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let settings = || {
        let own = variable("XDG_CONFIG_HOME").filter(|path| path.is_absolute());
        own.or_else(|| Some(variable("HOME")?.join(".config")))
    };
    variable("CALVE_KEY").or_else(|| Some(settings()?.join("calve/key"))).ok_or_else(|| {
        own(
            "find the key of",
            Path::new("the user"),
            ErrorKind::SourceNotFound,
            "neither CALVE_KEY nor HOME is set",
            "name the file: --file FILE, or CALVE_KEY",
        )
    })
}

/// The key that signs if the user names none. It need not exist, unless CALVE_KEY names it.
pub(super) fn usual_key() -> Result<Option<PathBuf>, Failure> {
    let is_named = std::env::var_os("CALVE_KEY").is_some_and(|value| !value.is_empty());
    let Ok(file) = key_file() else { return Ok(None) };
    Ok((is_named || std::fs::symlink_metadata(&file).is_ok()).then_some(file))
}

pub(super) fn read_key(path: &Path) -> Result<SigningKey, Failure> {
    let failure = |error: &io::Error| Failure::io("read the key", vec![path.to_owned()], error);
    let no_key =
        |cause: &str, hint: String| own("read the key", path, ErrorKind::InvalidName, cause, hint);
    // To open a pipe must not wait for a writer.
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let opened = std::fs::File::options().read(true).custom_flags(flags).open(path);
    let mut file = opened.map_err(|error| failure(&error))?;
    let meta = file.metadata().map_err(|error| failure(&error))?;
    if !meta.is_file() || meta.len() > KEY_MOST_BYTES {
        return Err(no_key("it is no file of a key", "'calve remote key' makes one".to_owned()));
    }
    if meta.mode() & 0o077 != 0 {
        let hint = format!("chmod 600 {}", text::shell_word(path));
        return Err(no_key("others may read or change it", hint));
    }
    let mut text = String::new();
    io::Read::read_to_string(&mut file, &mut text).map_err(|error| failure(&error))?;
    secret(text.trim_end()).map(|secret| SigningKey::from_bytes(&secret)).ok_or_else(|| {
        no_key(
            "it is no key: 64 hexadecimal digits",
            "restore the file, or remove it and make a new key with 'calve remote key'".to_owned(),
        )
    })
}

/// Decodes 64 hexadecimal digits.
fn secret(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

/// Makes a key in a new file, which only its owner can read.
fn make_key(path: &Path) -> Result<SigningKey, Failure> {
    let key = SigningKey::generate()?;
    let text: String = key.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let write = || -> io::Result<()> {
        if let Some(folder) = path.parent().filter(|folder| *folder != Path::new("")) {
            std::fs::create_dir_all(folder)?;
        }
        let mut file =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(format!("{text}\n").as_bytes())?;
        file.sync_all()
    };
    write().map_err(|error| Failure::writing("make the key", path, &error))?;
    Ok(key)
}
