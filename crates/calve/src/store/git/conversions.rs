//! Files that have the same content in a commit as in the project, and that git would still write
//! with other bytes: their line ends, their encoding or a filter depend on attributes and settings,
//! and these may be others in the commit, or now, than when git wrote the project's file.
//!
//! git calls such a file clean and leaves it alone. A fresh worktree would have it otherwise.

use std::collections::HashMap;

use super::Failure;
use super::checkout::Checkout;
use super::work::records;

/// The attributes by which git converts a file, in the order of [`AttributeValues`].
const NAMES: [&str; 6] = ["text", "crlf", "eol", "ident", "working-tree-encoding", "filter"];
const TEXT: usize = 0;
const EOL: usize = 2;
const IDENT: usize = 3;
const ENCODING: usize = 4;
const FILTER: usize = 5;

/// The values of these attributes, as git words them. An empty list: none is given.
type AttributeValues = Vec<Vec<u8>>;

/// Whether a path is that of a file with attributes.
pub(crate) fn has_attributes(path: &[u8]) -> bool {
    path.strip_suffix(b".gitattributes").is_some_and(|rest| matches!(rest, [] | [.., b'/']))
}

/// The settings that convert line ends.
#[derive(Debug, Default)]
struct Settings {
    /// `core.autocrlf` is true.
    auto: bool,
    /// `core.eol` is `crlf`, and `core.autocrlf` is not `input`.
    crlf: bool,
    /// A file with attributes for all repositories of the user is given.
    has_file: bool,
}

impl Checkout<'_> {
    /// Of files that are the same in the commit, with their sizes in the project, those that git
    /// must write. The copy of the index has the commit's entries; `attributes_differ` says whether
    /// the project has other files with attributes than the commit.
    ///
    /// # Errors
    /// git could not be asked.
    pub(crate) fn converted<'p>(
        &self,
        same: &[(&'p [u8], u64)],
        attributes_differ: bool,
    ) -> Result<Vec<&'p [u8]>, Failure> {
        let sizes = self.sizes(same)?;
        let settings = self.settings()?;
        let has_any = attributes_differ
            || settings.has_file
            || settings.auto
            || settings.crlf
            || same.iter().any(|(path, _)| has_attributes(path))
            || std::fs::symlink_metadata(self.repository.common.join("info/attributes")).is_ok();
        let paths = || same.iter().map(|(path, _)| *path);
        let now = if has_any { self.attributes(true, paths())? } else { HashMap::new() };
        let before = match attributes_differ {
            true => Some(self.attributes(false, paths())?),
            false => None,
        };
        let none = AttributeValues::new();
        let must_write = |(path, size): &&(&'p [u8], u64)| {
            let attributes = now.get(*path).unwrap_or(&none);
            let was = before.as_ref().map(|before| before.get(*path).unwrap_or(&none));
            was.is_some_and(|was| was != attributes)
                || is_otherwise(attributes, &settings, sizes.get(*path) == Some(size))
        };
        Ok(same.iter().filter(must_write).map(|(path, _)| *path).collect())
    }

    /// The sizes of these files of the commit, as they are stored. No object is looked at that the
    /// project does not need: a partial clone would fetch it.
    fn sizes<'p>(&self, same: &[(&'p [u8], u64)]) -> Result<HashMap<&'p [u8], u64>, Failure> {
        let output = self.git().args(["ls-files", "-s", "-z"]).list()?;
        // MODE, id, stage, a tab, and the path.
        let id = |record: &'_ [u8]| {
            let at = memchr::memchr(b'\t', record)?;
            let id = record[..at].split(|byte| *byte == b' ').nth(1)?;
            Some((record[at + 1..].to_vec(), id.to_vec()))
        };
        let ids: HashMap<Vec<u8>, Vec<u8>> = records(&output).filter_map(id).collect();
        let (mut asked, mut list) = (Vec::new(), Vec::new());
        for (path, _) in same {
            if let Some(id) = ids.get(*path) {
                asked.push(*path);
                list.extend_from_slice(id);
                list.push(b'\n');
            }
        }
        let git = self.git().args(["cat-file", "--batch-check=%(objectsize)"]);
        let output = git.with_input(list).list()?;
        let sizes = output.split(|byte| *byte == b'\n');
        let size = |(path, size): (&'p [u8], &[u8])| {
            Some((path, std::str::from_utf8(size).ok()?.parse().ok()?))
        };
        Ok(asked.into_iter().zip(sizes).filter_map(size).collect())
    }

    fn settings(&self) -> Result<Settings, Failure> {
        let asked = ["config", "-z", "--get-regexp", r"^core\.(autocrlf|eol|attributesfile)$"];
        // git ends with 1 if there is none.
        let output = self.git().args(asked).may_end_with(1).list()?;
        let mut settings = Settings::default();
        let mut is_input = false;
        for record in records(&output) {
            let text = String::from_utf8_lossy(record).to_ascii_lowercase();
            // A setting without a value is true.
            let (name, value) = text.split_once('\n').unwrap_or((&text, "true"));
            match name {
                "core.autocrlf" => {
                    is_input = value == "input";
                    settings.auto = matches!(value, "true" | "yes" | "on" | "1");
                }
                "core.eol" => settings.crlf = value == "crlf",
                _ => settings.has_file = true,
            }
        }
        settings.crlf &= !is_input;
        Ok(settings)
    }

    /// The attributes of these paths in the commit, or in the project as it is. Paths without any
    /// are left out.
    fn attributes<'p>(
        &self,
        in_commit: bool,
        paths: impl Iterator<Item = &'p [u8]>,
    ) -> Result<HashMap<Vec<u8>, AttributeValues>, Failure> {
        let git = match in_commit {
            true => self.git().args(["check-attr", "--cached"]),
            false => self.repository.git().arg("check-attr"),
        };
        let output = git.args(["--stdin", "-z"]).args(NAMES).with_paths(paths).list()?;
        let mut found: HashMap<Vec<u8>, AttributeValues> = HashMap::new();
        let mut fields = output.split(|byte| *byte == 0);
        while let (Some(path), Some(name), Some(value)) =
            (fields.next(), fields.next(), fields.next())
        {
            let at = NAMES.iter().position(|it| it.as_bytes() == name);
            if let (Some(at), false) = (at, value == b"unspecified") {
                let values = found
                    .entry(path.to_vec())
                    .or_insert_with(|| vec![b"unspecified".to_vec(); NAMES.len()]);
                values[at] = value.to_vec();
            }
        }
        Ok(found)
    }
}

/// Whether git would write a file with other bytes, as far as its attributes and its size say. A
/// file that git converts has seldom the size of its content; others always have it. calve leaves
/// files of a filter alone: a filter may be slow, and its files have any size.
fn is_otherwise(attributes: &AttributeValues, settings: &Settings, has_its_size: bool) -> bool {
    let value = |at: usize| attributes.get(at).map_or(&b"unspecified"[..], Vec::as_slice);
    let is_given = |at: usize| !matches!(value(at), b"unspecified" | b"unset");
    if is_given(FILTER) {
        return false;
    }
    let is_text = match value(TEXT) {
        b"unset" => false,
        b"unspecified" => settings.auto || value(EOL) == b"crlf",
        _ => true,
    };
    let to_crlf = match value(EOL) {
        b"crlf" => true,
        b"lf" => false,
        _ => settings.auto || settings.crlf,
    };
    let converts = is_text && to_crlf || value(IDENT) == b"set" || is_given(ENCODING);
    converts == has_its_size
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_if_its_size_is_not_what_its_conversion_gives() {
        let of = |auto, crlf| Settings { auto, crlf, has_file: false };
        let plain = || of(false, false);
        // Attributes, settings, and whether a file is converted then.
        for (given, settings, converts) in [
            (&[][..], plain(), false),
            (&[], of(true, false), true),
            (&[], of(false, true), false),
            (&[(TEXT, "auto")], plain(), false),
            (&[(TEXT, "auto")], of(false, true), true),
            (&[(TEXT, "unset")], of(true, true), false),
            (&[(EOL, "crlf")], plain(), true),
            (&[(EOL, "crlf"), (TEXT, "unset")], plain(), false),
            (&[(EOL, "lf")], of(true, false), false),
            (&[(IDENT, "set")], plain(), true),
            (&[(ENCODING, "UTF-16")], plain(), true),
            (&[(ENCODING, "unset")], plain(), false),
        ] {
            let mut attributes = vec![b"unspecified".to_vec(); NAMES.len()];
            for (at, value) in given {
                attributes[*at] = value.as_bytes().to_vec();
            }
            assert_eq!(is_otherwise(&attributes, &settings, true), converts, "{given:?}");
            assert_eq!(is_otherwise(&attributes, &settings, false), !converts, "{given:?}");
            attributes[FILTER] = b"lfs".to_vec();
            assert!(!is_otherwise(&attributes, &settings, true), "{given:?}: a filter");
        }
    }
}
