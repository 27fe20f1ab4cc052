//! What a plan must know of the files on disk, beside what the scan found.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags};

use super::super::super::at::{is_gone, last, open_parent};
use super::super::super::blobs::Intake;
use super::super::super::id::BlobId;
use super::super::super::manifest::Manifest;
use super::super::super::object::{Entry, Kind};
use super::super::super::paths::local::{Local, Tree};
use super::super::super::scan::{UNKNOWN, attributes};
use crate::reflink::imp::SOURCE_FLAGS;
use crate::reflink::meta::Meta;

/// Hashes those files of `now` that may have the content that one of `others` has at that path. The
/// scan hashed only files that may have the content of the base snapshot.
pub(crate) fn learn(
    tree: Tree<'_>,
    local: Option<&Local>,
    now: &mut Manifest,
    others: &[&Manifest],
) -> io::Result<()> {
    let root = tree.root;
    let local_at = |path: &Path| local.filter(|local| local.may_differ(path));
    let size_of = |entry: &Entry| match entry.kind {
        Kind::File { size, .. } => Some(size),
        _ => None,
    };
    let unknown = |entry: &Entry| matches!(entry.kind, Kind::File { blob: UNKNOWN, .. });
    let mut worth = Vec::new();
    for (place, slot, entry) in now.entries().filter(|(_, _, entry)| unknown(entry)) {
        let path = now.path_of(place, slot);
        let of_this_size = |of: &&Manifest| {
            of.find(&path)
                .is_some_and(|at| size_of(of.at(at)) == size_of(entry) || local_at(&path).is_some())
        };
        if others.iter().any(of_this_size) {
            worth.push((place, slot, path));
        }
    }
    let mut intake = Intake::new();
    for (place, slot, path) in worth {
        let Ok(file) = open_parent(root, &path)
            .and_then(|dir| Ok(fs::openat(&dir, &last(&path)?, SOURCE_FLAGS, fs::Mode::empty())?))
        else {
            // The content stays unknown, so the switch will not replace the file.
            continue;
        };
        let meta = Meta::of_file(&file)?;
        if meta.file_type() != fs::FileType::RegularFile {
            continue;
        }
        let canonical = match (local_at(&path), tree.read(&path)?) {
            (Some(local), Some(content)) => local.canonical(tree, &path, &content)?,
            _ => None,
        };
        if let Some(canonical) = canonical {
            let attributes = attributes(&file)?;
            let entry = &mut now.directories[place as usize].entries[slot as usize];
            let (size, link) = (canonical.len() as u64, entry.link());
            entry.kind = Kind::File { size, link, blob: BlobId::of(&canonical) };
            entry.attributes = attributes;
            continue;
        }
        let (hash, length) = intake.hash(&file, meta.size, &|| false)?;
        let attributes = attributes(&file)?;
        let entry = &mut now.directories[place as usize].entries[slot as usize];
        if let Kind::File { size, blob, .. } = &mut entry.kind
            && *size == length
        {
            *blob = hash;
            entry.attributes = attributes;
        }
    }
    Ok(())
}

/// The metadata of the entry at a path, if there is one.
pub(super) fn look(root: &OwnedFd, path: &Path) -> io::Result<Option<Meta>> {
    let stat = open_parent(root, path)
        .and_then(|dir| Ok(fs::statat(dir, last(path)?, AtFlags::SYMLINK_NOFOLLOW)?));
    match stat {
        Ok(stat) => Ok(Some(Meta::of(&stat))),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The names of a file on disk, beside those that the snapshot gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NamesOnDisk {
    /// Exactly those of the snapshot.
    Same,
    /// Some of them are missing, or are other files.
    Fewer,
    /// It has a name that is not one of them.
    Others,
}

/// The files at `paths` on disk, and their names beside those that the snapshot gives them.
pub(crate) fn with_names_of(
    snapshot: &Manifest,
    root: &OwnedFd,
    paths: Vec<PathBuf>,
) -> io::Result<Vec<(PathBuf, Meta, NamesOnDisk)>> {
    let mut groups: HashMap<u64, Vec<PathBuf>> = HashMap::new();
    let link_at = |path: &Path| snapshot.find(path).map_or(0, |at| snapshot.at(at).link());
    if paths.iter().any(|path| link_at(path) != 0) {
        for (place, slot, entry) in snapshot.entries().filter(|it| it.2.link() != 0) {
            groups.entry(entry.link()).or_default().push(snapshot.path_of(place, slot));
        }
    }
    let mut files = Vec::new();
    for path in paths {
        let Some(meta) = look(root, &path)? else { continue };
        if meta.file_type() == fs::FileType::Directory {
            continue;
        }
        let (mut expected, mut found) = (1, 1);
        for other in groups.get(&link_at(&path)).into_iter().flatten() {
            if *other != path {
                expected += 1;
                found += u64::from(look(root, other)?.is_some_and(|it| it.id() == meta.id()));
            }
        }
        let names = match meta.links == found {
            false => NamesOnDisk::Others,
            true if found == expected => NamesOnDisk::Same,
            true => NamesOnDisk::Fewer,
        };
        files.push((path, meta, names));
    }
    Ok(files)
}
