//! What comes when all else stands: the further names of files, then the directories that waited for them.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{self, AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::super::index::Stat;
use super::super::manifest::{Manifest, os};
use super::super::object::Kind;
use super::super::scan::stat_of;
use super::{Made, Maker};
use crate::error::{Context as _, Error};
use crate::reflink::imp::DIR_FLAGS;
use crate::reflink::meta::{self, Meta};
use crate::tree::node::Handles;

impl Maker<'_> {
    /// The further names of files, then the directories that waited for them.
    pub(super) fn finish_late(&self, roots: &Handles, made: &mut Made) -> Result<(), Error> {
        let manifest = self.plan.manifest;
        let created = meta::created_by_us(false);
        for (dest, root) in roots.sides.iter().enumerate() {
            let mut first_dir: Option<(u32, OwnedFd)> = None;
            let mut here: Option<(u32, OwnedFd)> = None;
            let mut groups: Vec<(u32, (u32, u32))> = Vec::new();
            for (place, slot, entry) in manifest.entries() {
                let link = entry.link();
                let Some(&first) = self.firsts.get(&link).filter(|_| link != 0) else { continue };
                let number = manifest.directories[place as usize].first + slot;
                groups.push((number, first));
                if first == (place, slot) {
                    continue;
                }
                let path = || self.path(dest, place).join(os(&entry.name));
                let mut link_it = || -> io::Result<()> {
                    let from = reopen(&mut first_dir, root, manifest, first.0)?;
                    let first = &manifest.directories[first.0 as usize].entries[first.1 as usize];
                    let to = reopen(&mut here, root, manifest, place)?;
                    let (old, new) = (CString::new(&*first.name)?, CString::new(&*entry.name)?);
                    Ok(fs::linkat(from, &old, to, &new, AtFlags::empty())?)
                };
                link_it().context("link", path)?;
                let report = &mut made.reports[dest];
                match entry.kind {
                    Kind::Symlink { .. } => report.symlinks += 1,
                    Kind::Fifo { .. } => report.fifos += 1,
                    _ => {
                        report.files += 1;
                        report.linked_files += 1;
                    }
                }
            }
            // Each further name changed the inode.
            for (number, (place, slot)) in groups {
                let mut stat = || -> io::Result<Stat> {
                    let dir = reopen(&mut first_dir, root, manifest, place)?;
                    let entry = &manifest.directories[place as usize].entries[slot as usize];
                    let name = CString::new(&*entry.name)?;
                    Ok(stat_of(&Meta::of(&fs::statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW)?)))
                };
                let first = &manifest.directories[place as usize].entries[slot as usize];
                made.stats[dest][number as usize] =
                    stat().context("read", || self.path(dest, place).join(os(&first.name)))?;
            }
            drop((first_dir, here));
            // Children before their parents.
            let places = (0..manifest.directories.len()).rev().filter(|place| self.late[*place]);
            for place in places.filter_map(|place| u32::try_from(place).ok()) {
                let mut dir = None;
                let (number, stat) = reopen(&mut dir, root, manifest, place)
                    .and_then(|fd| self.finish(fd, place, dest, created))
                    .context("set metadata of", || self.path(dest, place))?;
                made.stats[dest][number as usize] = stat;
            }
        }
        Ok(())
    }
}

/// A directory of a stage, opened step by step from its root and kept for the next time it is asked for.
fn reopen<'d>(
    kept: &'d mut Option<(u32, OwnedFd)>,
    root: &OwnedFd,
    manifest: &Manifest,
    place: u32,
) -> io::Result<&'d OwnedFd> {
    if kept.as_ref().is_none_or(|(at, _)| *at != place) {
        let mut way = Vec::new();
        let mut at = place;
        while at != 0 {
            way.push(at);
            at = manifest.directories[at as usize].parent;
        }
        let mut fd = root.try_clone()?;
        for at in way.into_iter().rev() {
            let name = CString::new(&*manifest.entry_of(at).name)?;
            fd = fs::openat(&fd, &name, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty())?;
        }
        *kept = Some((place, fd));
    }
    match kept {
        Some((_, fd)) => Ok(fd),
        None => Err(Errno::NOENT.into()),
    }
}
