//! Finds volumes: `/etc` records one, or its image exists.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use calve::ErrorKind;

use super::facts::{mount_at, recorded};
use super::machine::made_by_us;
use super::plan::{self, Filesystem, Record, Volume};
use crate::failure::Failure;
use crate::failure::stored::own;
use crate::mounts::{Mount, mounted};
use crate::session::Session;

/// A volume as it was found on this machine.
pub(super) struct Found {
    pub(super) volume: Volume,
    pub(super) record: Option<Record>,
    pub(super) mount: Option<Mount>,
}

impl Found {
    /// Finds the volume at a folder: `/etc` records it, or its image exists.
    pub(super) fn at(at: &Path) -> Result<Option<Self>, Failure> {
        let mount = mount_at(&mounted(), at);
        let known = recorded().into_iter().find(|(volume, _)| volume.at == at);
        if let Some((volume, record)) = known {
            return Ok(Some(Self { volume, record: Some(record), mount }));
        }
        let image = plan::image_of(at);
        if !is_there(&image)? {
            return Ok(None);
        }
        Ok(made_by_us(&image)?.map(|filesystem| {
            let volume = Volume { at: at.to_owned(), image, filesystem };
            Self { volume, record: None, mount }
        }))
    }

    /// Finds the volume that an argument names.
    pub(super) fn named(word: &Path, session: Session<'_>) -> Result<Self, Failure> {
        let at = place(word, session)?;
        Self::at(&at)?.ok_or_else(|| no_volume(&at))
    }
}

/// Whether a volume of calve's is at this folder, and not any other image on a loop device.
pub(super) fn is_volume(at: &Path) -> bool {
    Found::at(at).is_ok_and(|found| found.is_some())
}

pub(super) fn no_volume(at: &Path) -> Failure {
    own(
        "find volume",
        at,
        ErrorKind::SourceNotFound,
        "no volume is there",
        "'calve volume list' lists the volumes",
    )
}

/// The path of a folder without links above the folder. The folder need not exist.
pub(super) fn place(word: &Path, session: Session<'_>) -> Result<PathBuf, Failure> {
    let given = session.common.resolve(word);
    let failed = |error: io::Error| Failure::io("find volume", vec![given.clone()], &error);
    let absolute = std::path::absolute(&given).map_err(failed)?;
    let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
        let why = "it is no folder that something could be mounted at";
        return Err(own("find volume", &given, ErrorKind::InvalidName, why, "choose a new folder"));
    };
    let parent = fs::canonicalize(parent)
        .map_err(|error| Failure::writing("find the folder of volume", &given, &error))?;
    Ok(parent.join(name))
}

pub(super) fn is_there(path: &Path) -> Result<bool, Failure> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Failure::io("look at", vec![path.to_owned()], &error)),
    }
}

/// Finds a volume whose removal may have begun: the image may already have its other name.
pub(super) fn unmounting(at: &Path) -> Result<Found, Failure> {
    if let Some(found) = Found::at(at)? {
        return Ok(found);
    }
    let image = plan::old_image_of(at);
    if !is_there(&image)? {
        return Err(no_volume(at));
    }
    // The filesystem no longer matters.
    let volume = Volume { at: at.to_owned(), image, filesystem: Filesystem::Xfs };
    Ok(Found { volume, record: None, mount: mount_at(&mounted(), at) })
}
