//! The file `format`: which version a store is of, and what whoever opens it must know.
//!
//! ```text
//! calve store 1
//! incompatible NAME      whoever does not know NAME must not open the store
//! compatible NAME        whoever does not know NAME may
//! ```
//! Lines in any order after the first. This version writes no flags, and knows none.

use std::io;
use std::path::Path;

use crate::error::{Context as _, Error, ErrorKind};

const FIRST_LINE: &str = "calve store 1";

/// What a new store says of itself.
pub(crate) const NEW: &str = "calve store 1\n";

/// No version of this file will be longer.
const MOST_BYTES: u64 = 64 * 1024;

/// Refuses a store that this version would misread.
pub(crate) fn check(store: &Path) -> Result<(), Error> {
    let path = store.join("format");
    let read = || -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        let file = std::fs::File::open(&path)?;
        io::Read::read_to_end(&mut io::Read::take(file, MOST_BYTES), &mut text)?;
        Ok(text)
    };
    let text = match read() {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Error::new(ErrorKind::StoreNotFound, "open store", store, error));
        }
        Err(error) => return Err(error).context("read", || &path),
    };
    parse(&text).map_err(|why| {
        Error::new(ErrorKind::StoreIncompatible, "open store", store, io::Error::other(why))
    })
}

fn parse(text: &[u8]) -> Result<(), String> {
    let text = std::str::from_utf8(text).map_err(|_| "its format file is not text".to_owned())?;
    let mut lines = text.lines();
    match lines.next() {
        Some(FIRST_LINE) => {}
        Some(line) if line.starts_with("calve store ") => {
            let version: String = line[12..].chars().take(20).collect();
            return Err(format!("it is of version {version:?}, and this calve knows version 1"));
        }
        _ => return Err("its format file is not one".to_owned()),
    }
    for line in lines {
        match line.split_once(' ') {
            Some(("compatible", _)) => {}
            Some(("incompatible", name)) => {
                let name: String = name.chars().take(80).collect();
                return Err(format!(
                    "it needs the feature {name:?}, which this calve does not have"
                ));
            }
            _ => return Err("its format file has a line that this calve does not know".to_owned()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn a_store_with_an_unknown_incompatible_flag_is_refused_by_its_name() {
        for (text, expected) in [
            ("calve store 1\n", None),
            ("calve store 1", None),
            ("calve store 1\ncompatible sparkle\n", None),
            ("calve store 1\nincompatible sha4\n", Some("\"sha4\"")),
            ("calve store 1\ncompatible a\nincompatible b\n", Some("\"b\"")),
            ("calve store 2\n", Some("\"2\"")),
            ("calve store 1\nmystery\n", Some("does not know")),
            ("", Some("not one")),
            ("\u{0}", Some("not one")),
        ] {
            match (parse(text.as_bytes()), expected) {
                (Ok(()), None) => {}
                (Err(why), Some(part)) => assert!(why.contains(part), "{text:?}: {why}"),
                (result, expected) => panic!("{text:?}: {result:?}, not {expected:?}"),
            }
        }
        assert!(parse(b"\xff").is_err());
    }
}
