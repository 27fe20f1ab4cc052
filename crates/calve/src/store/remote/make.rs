//! Makes a remote, once the place was tried; and what a URL means.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::super::discover::tree_with;
use super::super::id::{is_token, token};
#[cfg(feature = "cloud")]
use super::cloud;
use super::objects::Patient;
use super::{
    CANARIES, FOLDERS, FORMAT_FIRST_LINE, FORMAT_KEY, FORMAT_MOST_BYTES, Remote, RemoteSettings,
    VERSION, failed, folder, must_be_kept,
};
use crate::error::{Error, ErrorKind, Operation};

/// How many threads write a canary at once, and how often they do. It is so long that a server does
/// not get it in one piece.
const CANARY_SINGERS: u8 = 8;

const CANARY_ROUNDS: usize = 3;

pub(super) const CANARY_BYTES: usize = 256 << 10;

/// Makes the folder of a `file://` URL, and returns its path, if it is missing and the one above it
/// is there. A disk that is not mounted has more than that missing, or its mount point is there.
fn make_last_folder(url: &str) -> Result<Option<PathBuf>, Error> {
    let Some(folder) = url.strip_prefix("file://").map(PathBuf::from) else { return Ok(None) };
    let failed = |error| Error::io(Operation::MakeRemote, url, error);
    match std::fs::create_dir(&folder) {
        Ok(()) => {
            let above = folder.parent().unwrap_or(&folder);
            std::fs::File::open(above).and_then(|above| above.sync_all()).map_err(failed)?;
            Ok(Some(folder))
        }
        // Either the folder is there, or one above it is missing. The first write reports the latter.
        Err(error)
            if matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound) =>
        {
            Ok(None)
        }
        Err(error) => Err(failed(error)),
    }
}

/// Where a URL has a name and a password, if there are any. Those who read a URL skip further slashes
/// before the host, and take one slash for two. A password may itself have a slash.
fn user_in(url: &str) -> Option<Range<usize>> {
    let after = url.find(':')? + 1;
    let begins = match url.get(..after) {
        Some("file:") => after + "//".len(),
        _ => url.len() - url[after..].trim_start_matches('/').len(),
    };
    let rest = url.get(begins..)?;
    let rest = &rest[..rest.find(['?', '#']).unwrap_or(rest.len())];
    let host = rest.split('/').next().unwrap_or_default();
    let has_port = || host.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_ok());
    let at = match host.rfind('@') {
        None if !has_port() && !url.starts_with("file:") => rest.rfind('@')?,
        at => at?,
    };
    Some(begins..begins + at)
}

/// Whether a URL may have something in it that is for its owner alone. In Azure's URLs the name is
/// that of a container. A folder's path is what it is.
pub(super) fn may_have_secrets(url: &str) -> bool {
    let is_container = |user: &str| url.starts_with("abfs") && !user.contains(':');
    let has_user = user_in(url).is_some_and(|user| !is_container(&url[user]));
    has_user || !url.starts_with("file://") && url.contains(['?', '#'])
}

/// A URL without these parts, for messages.
fn without_secrets(url: &str) -> String {
    let end = url.find(['?', '#']).unwrap_or(url.len());
    match user_in(url) {
        Some(user) => [&url[..user.start], &url[user.end + 1..end]].concat(),
        None => url[..end].to_owned(),
    }
}

/// Fails if the folder of a `file://` URL is a part of a project or of a worktree. Its snapshots
/// would have the remote in them, and a restore would take back what others pushed meanwhile.
pub(super) fn must_be_in_no_tree(url: &str, operation: Operation) -> Result<(), Error> {
    let Some(folder) = url.strip_prefix("file://").map(Path::new) else { return Ok(()) };
    crate::Store::must_be_outside(folder)?;
    let Some(root) = tree_with(folder) else { return Ok(()) };
    let why =
        "it is inside a project or a worktree: a restore there would take back what was pushed";
    let cause = io::Error::new(io::ErrorKind::InvalidInput, why);
    Err(Error::new(ErrorKind::RemoteUnfit, operation, url, cause).with_other(root))
}

/// Opens the place that a URL names.
pub(super) fn place_of(url: &str, settings: &RemoteSettings) -> Result<Patient, Error> {
    let wrong = |why: &str| {
        let cause = io::Error::new(io::ErrorKind::InvalidInput, why.to_owned());
        Error::new(ErrorKind::InvalidName, Operation::OpenRemote, url, cause)
    };
    if url.contains(char::is_control) {
        return Err(wrong("it has a control character"));
    }
    if may_have_secrets(url) {
        let why =
            "it has a name, a password, ? or #, which the store and messages would show to others";
        let cause = io::Error::new(io::ErrorKind::InvalidInput, why);
        let url = without_secrets(url);
        return Err(Error::new(ErrorKind::InvalidName, Operation::OpenRemote, url, cause));
    }
    #[cfg(feature = "cloud")]
    {
        let is_told =
            |(key, value): &&(String, String)| key.contains("endpoint") && may_have_secrets(value);
        if let Some((key, _)) = settings.0.iter().find(is_told) {
            return Err(wrong(&format!(
                "the setting {key} has a name, a password, ? or #, which messages would show to others"
            )));
        }
        let invalid = |error| {
            let url = without_secrets(url);
            Error::new(ErrorKind::InvalidName, Operation::OpenRemote, url, error)
        };
        if cloud::is_known(url) {
            let cloud = cloud::Cloud::new(url, &settings.0).map_err(invalid)?;
            return Ok(Patient::new(Box::new(cloud)));
        }
        if cloud::is_web(url) {
            let server = cloud::Cloud::web(url).map_err(invalid)?;
            return Ok(Patient::read_only(Box::new(server)));
        }
    }
    let _ = settings;
    let path = url.strip_prefix("file://").ok_or_else(|| {
        wrong(match cfg!(feature = "cloud") {
            true => {
                "it is neither file:///FOLDER, nor s3://, gs:// or az:// with a bucket, nor https:// with a web server"
            }
            false => {
                "this calve knows remotes of the form file:///FOLDER only; one that is built with the feature 'cloud' knows s3://, gs:// and az://, and can read from https://"
            }
        })
    })?;
    if !path.starts_with('/') {
        return Err(wrong("a remote in a folder is file:// and the folder's absolute path"));
    }
    Ok(Patient::new(Box::new(folder::RemoteFolder::new(PathBuf::from(path)))))
}

impl Remote {
    /// Makes a remote at `url`: `file://` and the absolute path of a folder. If only the folder
    /// itself is missing, and not the one above it, this makes it. Several machines may reach it through a network filesystem with hard links. With the feature `cloud`
    /// also `s3://BUCKET/PREFIX`, `gs://…` and `az://…`.
    ///
    /// It tries whether the place refuses to write a key a second time, later and at once, since
    /// calve relies on that.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidName`] if the URL is none that calve knows; [`ErrorKind::RemoteExists`];
    /// [`ErrorKind::RemoteUnfit`] if the place accepts a second write, has objects of somebody else
    /// under the keys of a remote, is a web server, or is inside a project or a worktree; those of every operation, see [`Remote`]. It
    /// may leave an object `canary/…` behind.
    pub fn init(url: &str, settings: &RemoteSettings) -> Result<Self, Error> {
        let url = without_slashes(url);
        let objects = place_of(url, settings)?;
        must_be_in_no_tree(url, Operation::MakeRemote)?;
        let made = make_last_folder(url)?;
        let done = Self::init_in(url, objects);
        if done.is_err()
            && let Some(folder) = made
        {
            // If this fails, the folder is not empty, so it is not this call's alone.
            let _ = std::fs::remove_dir(folder);
        }
        done?;
        let remote = Self::open(url, settings)?;
        remote.keep_reserve();
        Ok(remote)
    }

    pub(super) fn init_in(url: &str, objects: Patient) -> Result<(), Error> {
        must_be_kept(&objects, Operation::MakeRemote, url)?;
        let failed = |key: &str, error: io::Error| failed(Operation::MakeRemote, url, key, error);
        let exists = || {
            let cause = io::Error::new(io::ErrorKind::AlreadyExists, "a remote is there");
            Error::new(ErrorKind::RemoteExists, Operation::MakeRemote, url, cause)
        };
        if objects.size(FORMAT_KEY).map_err(|error| failed(FORMAT_KEY, error))?.is_some() {
            return Err(exists());
        }
        // A collector takes all objects under these keys for calve's own.
        for folder in FOLDERS {
            let listed = objects.list(folder).map_err(|error| failed(folder, error))?;
            let is_left = |key: &str| key.strip_prefix(CANARIES).is_some_and(is_token);
            if let Some(other) = listed.iter().find(|one| !is_left(&one.key)) {
                let cause = io::Error::other(format!(
                    "it is not empty: it has {}, where a remote keeps its own objects",
                    other.key
                ));
                return Err(Error::new(ErrorKind::RemoteUnfit, Operation::MakeRemote, url, cause));
            }
        }
        let at_once = std::iter::repeat_n(refuses_writes_at_once as CanaryTest, CANARY_ROUNDS);
        for test in std::iter::once(refuses_a_later_write as CanaryTest).chain(at_once) {
            let canary = format!("{CANARIES}{}", token());
            let tested = test(&objects, &canary);
            let removed = objects.remove(&canary);
            let tested = tested.map_err(|error| match error.kind() {
                // There is no such folder, or bucket.
                io::ErrorKind::NotFound => Error::io(Operation::MakeRemote, url, error),
                _ => failed(&canary, error),
            });
            if let Err(why) = tested? {
                let cause = io::Error::other(why);
                return Err(Error::new(ErrorKind::RemoteUnfit, Operation::MakeRemote, url, cause));
            }
            removed.map_err(|error| failed(&canary, error))?;
        }
        let format = format!("{FORMAT_FIRST_LINE}{VERSION}\nid {}\n", token());
        let made = objects.create(FORMAT_KEY, format.as_bytes());
        if !made.map_err(|error| failed(FORMAT_KEY, error))? {
            // The answer to an attempt that succeeded may have been lost.
            let there = objects.read(FORMAT_KEY, FORMAT_MOST_BYTES);
            if there.map_err(|error| failed(FORMAT_KEY, error))?.as_deref()
                != Some(format.as_bytes())
            {
                return Err(exists());
            }
        }
        Ok(())
    }
}

/// One place has one URL, whether somebody writes a slash behind it or not.
pub(super) fn without_slashes(url: &str) -> &str {
    let trimmed = url.trim_end_matches('/');
    // The root folder, or no place at all.
    if trimmed.ends_with(':') { url } else { trimmed }
}

type CanaryTest = fn(&Patient, &str) -> io::Result<Result<(), &'static str>>;

/// Writes a canary twice. The inner error says why the place is unfit.
fn refuses_a_later_write(objects: &Patient, canary: &str) -> io::Result<Result<(), &'static str>> {
    // The answer to a write that succeeded may be lost, so the first one says nothing.
    objects.create(canary, b"first")?;
    let is_made = objects.create(canary, b"second")?;
    let content = objects.read(canary, FORMAT_MOST_BYTES)?;
    Ok(match !is_made && content.as_deref() == Some(b"first") {
        true => Ok(()),
        false => Err(
            "it accepts a second write under a key that exists, so two machines that push at once could overwrite each other",
        ),
    })
}

/// Writes a canary from several threads at once: a server may look whether the key exists, and
/// write later, without a lock in between. The inner error says why the place is unfit.
fn refuses_writes_at_once(objects: &Patient, canary: &str) -> io::Result<Result<(), &'static str>> {
    let sing = |number: u8| objects.create(canary, &vec![number; CANARY_BYTES]);
    let sung = std::thread::scope(|scope| {
        let singers: io::Result<Vec<_>> = (0..CANARY_SINGERS)
            .map(|number| {
                let sing = move || (number, sing(number));
                // Without these threads the question stays open.
                std::thread::Builder::new().spawn_scoped(scope, sing)
            })
            .collect();
        let sung = singers?.into_iter().filter_map(|singer| singer.join().ok());
        io::Result::Ok(sung.collect::<Vec<_>>())
    })?;
    let mut made = Vec::new();
    for (number, is_made) in sung {
        if is_made? {
            made.push(number);
        }
    }
    let content = objects.read(canary, CANARY_BYTES as u64)?.unwrap_or_default();
    let is_sound = match made.as_slice() {
        // The answer was lost. No lost answer makes a sound place say yes to two.
        [] => true,
        [only] => content.first() == Some(only),
        _ => false,
    };
    Ok(match is_sound {
        true => Ok(()),
        false => Err(
            "it accepts two writes under one key if they come at once, so two machines that push at once could overwrite each other",
        ),
    })
}
