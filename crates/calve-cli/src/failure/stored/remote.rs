//! What to do about remotes and their objects.

use std::io;
use std::path::Path;

use calve::{ErrorKind, Operation};

use super::case::Case;
use crate::failure::{as_far_as_there, df};
use crate::text::shell_word;

pub(super) fn way_out(case: &Case<'_>) -> Option<String> {
    of_object(case).or_else(|| of_remote(case))
}

/// For errors about a remote that calve does not find, or that another program changed.
fn of_remote(case: &Case<'_>) -> Option<String> {
    let Case { kind, operation, path, other, .. } = *case;
    let hint = match kind {
        ErrorKind::Damaged if operation == Operation::FindRemote => {
            format!("remove the file and add the remote again: rm {}", shell_word(path))
        }
        // The other path is a URL, so a remote lacks this snapshot.
        ErrorKind::SnapshotNotFound
            if operation != Operation::Compare
                && other.and_then(Path::to_str).is_some_and(|other| other.contains("://")) =>
        {
            no_such_snapshot(&other.unwrap_or(path).to_string_lossy()).to_owned()
        }
        ErrorKind::RemoteNotFound if operation == Operation::FindRemote => {
            "'calve remote list' lists them, 'calve remote add NAME URL' adds one".to_owned()
        }
        ErrorKind::RemoteNotFound if is_web(path) => {
            "check the URL: it is that of the folder, or bucket, in which the remote was made"
                .to_owned()
        }
        ErrorKind::RemoteNotFound => {
            let url = path.to_str().unwrap_or_default();
            match folder_of(url).filter(|folder| !folder.is_dir()) {
                Some(folder) => format!(
                    "there is no folder {}: check the URL, and whether its disk is mounted",
                    shell_word(folder)
                ),
                None => format!(
                    "check the URL; 'calve remote init {}' makes a remote there",
                    shell_word(path)
                ),
            }
        }
        ErrorKind::RemoteExists if operation == Operation::AddRemote => {
            let name = shell_word(path);
            format!("choose another name, or run 'calve remote remove {name}' first")
        }
        ErrorKind::RemoteExists => {
            format!("'calve remote add NAME {}' lets a project's store know it", shell_word(path))
        }
        ErrorKind::RemoteUnfit if is_web(path) => unfit_web(operation).to_owned(),
        ErrorKind::RemoteUnfit if case.error.kind() == io::ErrorKind::InvalidInput => {
            "move it, or choose another folder, outside of all projects and worktrees".to_owned()
        }
        ErrorKind::RemoteUnfit => {
            "choose an empty place that refuses to write what exists, such as a new local folder"
                .to_owned()
        }
        ErrorKind::Untrusted if operation == Operation::OpenRemote => {
            "if that is right, remove it and add it again: 'calve remote remove NAME', 'calve remote add NAME URL'".to_owned()
        }
        ErrorKind::Untrusted => {
            "'calve remote log NAME' lists what it meant, and who signed that; 'calve push NAME' gives it again, with a configured key if there are any"
                .to_owned()
        }
        ErrorKind::InvalidName if operation == Operation::OpenRemote => {
            // git takes a folder's path.
            match std::path::absolute(path) {
                Ok(folder) if !path.to_string_lossy().contains(':') => {
                    let url = format!("file://{}", plain_path(&folder).display());
                    format!("the URL of that folder is {}", shell_word(Path::new(&url)))
                }
                _ => "give a URL such as file:///srv/trees".to_owned(),
            }
        }
        _ => return None,
    };
    Some(hint)
}

/// The hint for an operation that a remote on a web server does not support.
fn unfit_web(operation: Operation) -> &'static str {
    match operation {
        Operation::MakeRemote => {
            "make it where the web server finds its files: 'calve remote init file:///FOLDER' there, or s3://BUCKET/PREFIX"
        }
        Operation::Push | Operation::CollectRemote => {
            "add the place behind the web server as a remote, too, such as file:///FOLDER or s3://BUCKET/PREFIX, and name that one"
        }
        Operation::ListRemote => {
            "'calve remote log NAME' and 'calve pull NAME' work; for the rest add the place behind the web server, such as file:///FOLDER, too"
        }
        _ => {
            "the server must send parts of files as they are, as nginx, Apache, Caddy and buckets do"
        }
    }
}

/// What to do if the remote at this URL has no such name or id.
pub(crate) fn no_such_snapshot(url: &str) -> &'static str {
    match is_web(Path::new(url)) {
        true => "a web server cannot list the names: ask the person who pushes; ids must be whole",
        false => "'calve remote names' lists the names of a remote; ids must be whole",
    }
}

/// Whether a remote is a web server.
pub(crate) fn is_web(url: &Path) -> bool {
    url.to_str().is_some_and(|url| url.starts_with("https://") || url.starts_with("http://"))
}

/// The folder or the file of a `file://` URL.
fn folder_of(url: &str) -> Option<&Path> {
    url.strip_prefix("file://").map(Path::new)
}

/// What to do about an object of a remote, which the error names by its URL.
fn of_object(case: &Case<'_>) -> Option<String> {
    let Case { kind, operation, error, .. } = *case;
    let url = case.path.to_str().filter(|url| url.contains("://"))?;
    let file = folder_of(url);
    let there = file.map(|file| match file.is_dir() {
        true => file,
        false => as_far_as_there(file).0,
    });
    let hint = match kind {
        ErrorKind::Damaged if url.contains("/found/") => {
            "'calve push NAME' from a store that has the snapshot sends this list again; a pull of the snapshot's whole id does without it, and its worktrees keep the other machine's paths".to_owned()
        }
        ErrorKind::Io if operation == Operation::MakeRemote && error.kind() == io::ErrorKind::NotFound => {
            format!("make the folder first: mkdir -p {}", shell_word(file?))
        }
        ErrorKind::Io if is_web(Path::new(url)) => {
            "check the URL, whether the server can be reached from here, and for https:// its certificate".to_owned()
        }
        ErrorKind::PermissionDenied if is_web(Path::new(url)) => {
            "a bucket also denies access to an object that does not exist, unless everybody may list the bucket: let everybody read and list it".to_owned()
        }
        ErrorKind::PermissionDenied => match there {
            Some(folder) => format!(
                "run calve as a user who has access there; to see who has: ls -ld {}; docs/fleet.md says what a remote of several \
                 users needs",
                shell_word(folder)
            ),
            None => "check the credentials, and what they allow: calve reads, writes, lists and removes objects".to_owned(),
        },
        ErrorKind::StorageFull => full(operation, there, error),
        // A push sends a missing object again.
        ErrorKind::Damaged if error.kind() == io::ErrorKind::NotFound => {
            "try again; if it stays so, push the snapshot again from a machine that has it: 'calve push SNAPSHOT'".to_owned()
        }
        ErrorKind::Damaged if is_of_content(url) => {
            let remove = match file {
                Some(file) => format!("rm {}", shell_word(file)),
                None => "remove that object".to_owned(),
            };
            format!(
                "try again; if it stays so, remove what is damaged and push the snapshot again from a machine that has it: {remove}; \
                 calve push SNAPSHOT"
            )
        }
        ErrorKind::Damaged => {
            "try again; if it stays so, 'calve remote verify' says which objects are damaged".to_owned()
        }
        _ => return None,
    };
    Some(hint)
}

/// Whether a URL names one object. Its name is a hash or the number of a change.
fn is_of_content(url: &str) -> bool {
    let name = url.rsplit('/').next().unwrap_or_default();
    matches!(name.len(), 20 | 64) && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// A remote has no room left. `there`: its folder, if it is one.
fn full(operation: Operation, there: Option<&Path>, error: &io::Error) -> String {
    let free = match there {
        Some(folder) => format!("free some space there ({})", df(folder, error)),
        None => "give the remote more room".to_owned(),
    };
    match operation {
        Operation::CollectRemote => {
            format!("{free}: about 1 MB is enough for 'calve remote gc', which had no reserve left")
        }
        Operation::MakeRemote => free,
        _ => format!(
            "{free}, or have calve remove older snapshots: 'calve remote gc --keep 2 --grace 1h' marks objects \
             that no name needs then, and the same command removes them an hour later"
        ),
    }
}

/// An absolute path without `..`.
fn plain_path(path: &Path) -> std::path::PathBuf {
    let mut plain = std::path::PathBuf::new();
    for part in path.components() {
        if part == std::path::Component::ParentDir {
            plain.pop();
        } else {
            plain.push(part);
        }
    }
    plain
}
