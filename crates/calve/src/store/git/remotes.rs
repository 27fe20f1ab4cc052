//! Which remotes of a repository have what its branches of them (`refs/remotes`) name.

use std::path::Path;

use rustix::fs;

use super::PATH_MOST_BYTES;
use super::repository::Repository;
use super::run::Failure;
use super::work::records;
use crate::store::files::{path_from, read_plain};

impl Repository {
    /// Arguments of `git rev-list` for all branches of remotes that still have them. A remote that
    /// is a folder has none if nothing is there, if it is this repository itself, or if it is in the
    /// tree at `goes`, which is to be deleted.
    pub(super) fn branches_of_remotes(&self, goes: Option<&Path>) -> Result<Vec<String>, Failure> {
        let config = read_plain(fs::CWD, &self.common.join("config"), PATH_MOST_BYTES);
        if config.is_ok_and(|text| are_all_elsewhere(&text)) {
            return Ok(vec!["--remotes".to_owned()]);
        }
        let asked = ["config", "-z", "--get-regexp", r"^remote\..*\.url$"];
        let set = self.git().args(asked).may_end_with(1).list()?;
        let goes = goes.and_then(|goes| std::fs::canonicalize(goes).ok());
        let mut remotes = Vec::new();
        for record in records(&set) {
            let mut parts = record.splitn(2, |byte| *byte == b'\n');
            let (Some(key), Some(url)) = (parts.next(), parts.next()) else { continue };
            let name = key.strip_prefix(b"remote.").and_then(|name| name.strip_suffix(b".url"));
            let Some(name) = name else { continue };
            if is_elsewhere(url) || self.is_beside(url, goes.as_deref()) {
                remotes.push(format!("--remotes={}", String::from_utf8_lossy(name)));
            }
        }
        Ok(remotes)
    }

    /// Whether the folder that is a remote is there, is not this repository, and stays.
    fn is_beside(&self, url: &[u8], goes: Option<&Path>) -> bool {
        let path = path_from(url.strip_prefix(b"file://").unwrap_or(url));
        // git starts at the working tree, or in the repository if it has none.
        let places = [self.git_dir.parent(), Some(&self.git_dir)];
        let places = places.into_iter().flatten();
        places.filter_map(|place| std::fs::canonicalize(place).ok()).any(|place| {
            let is_this = |found: &Path| found == place || place.parent() == Some(found);
            std::fs::canonicalize(place.join(&path)).is_ok_and(|found| {
                !is_this(&found) && !goes.is_some_and(|goes| found.starts_with(goes))
            })
        })
    }
}

/// Whether a file of settings names remotes, each on another machine. Then git need not be asked.
fn are_all_elsewhere(config: &[u8]) -> bool {
    let mut urls = config
        .split(|byte| *byte == b'\n')
        .map(<[u8]>::trim_ascii)
        .filter(|line| line.to_ascii_lowercase().windows(3).any(|word| word == b"url"))
        .peekable();
    let is_elsewhere = |line: &[u8]| {
        let value = line.strip_prefix(b"url").map(<[u8]>::trim_ascii_start);
        let value = value.and_then(|value| value.strip_prefix(b"="));
        value.is_some_and(|url| is_elsewhere(url.trim_ascii_start()))
    };
    urls.peek().is_some() && urls.all(is_elsewhere)
}

/// Whether a URL names no path: a colon is in it, and no slash before that (git-fetch(1)).
fn is_elsewhere(url: &[u8]) -> bool {
    let colon = url.iter().position(|byte| matches!(byte, b':' | b'/'));
    colon.is_some_and(|at| url[at] == b':') && !url.starts_with(b"file:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_without_a_path_is_on_another_machine() {
        for (url, expected) in [
            ("https://example.org/a.git", true),
            ("ssh://example.org/a", true),
            ("git@example.org:a/b", true),
            ("host:a", true),
            ("ext::sh -c x", true),
            ("file:///a", false),
            ("/a:b", false),
            ("../a", false),
            ("./a:b", false),
            (".", false),
            ("", false),
        ] {
            assert_eq!(is_elsewhere(url.as_bytes()), expected, "{url}");
            for (config, all) in [
                (format!("[core]\n\tbare = true\n[remote \"o\"]\n\turl = {url}\n"), expected),
                (format!("[remote \"o\"]\nurl={url}\n[remote \"p\"] url = https://a/b\n"), false),
                (format!("\turl = https://a/b\n\tpushurl = {url}\n"), false),
            ] {
                assert_eq!(are_all_elsewhere(config.as_bytes()), all, "{config}");
            }
        }
        assert!(!are_all_elsewhere(b"[core]\n\tbare = true\n"));
    }
}
