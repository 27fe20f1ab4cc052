//! Templates, on btrfs: a snapshot's tree as a subvolume. Each worktree of it is a subvolume
//! snapshot, made in constant time.
//!
//! `templates/ID` is the subvolume, and `templates/ID.index` is the index of its tree: inode
//! numbers and times are the same in every subvolume snapshot of it. `templates/ID.seal` has the
//! number by which calve knows whether any process wrote to the subvolume since
//! (docs/design/templates.md).
//!
//! A template is not read-only, since that would hinder a user who removes the project. If its seal
//! is broken, calve does not use it; it removes the template and makes a new one.
//!
//! calve builds a template under a stage's name, flushes it, renames it to its own name, and seals
//! it. One process builds at a time; a process that waited finds the template ready.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{self, Mode, OFlags};

use super::id::SnapshotId;
use super::index::{Boot, Index};
use super::materialize::{Plan, materialize};
use super::object::SnapshotObject;
use super::trash::remove_tree;
use super::{Store, locks};
use crate::error::{Context as _, Error, Operation};
use crate::reflink::imp::DIR_FLAGS;
use crate::reflink::meta::Meta;
use crate::reflink::sys;
use crate::tree::running::Running;
use crate::tree::staging::{self, Stage, flush_filesystem, stage_name};

impl Store {
    /// The template of a snapshot, made now where there is none that is good; `None` where the
    /// filesystem has no subvolumes, or does not let us make one.
    ///
    /// # Errors
    /// The template could not be filled; nothing is left of it.
    pub(crate) fn template(
        &self,
        id: SnapshotId,
        object: &SnapshotObject,
        operation: &Running,
    ) -> Result<Option<OwnedFd>, Error> {
        if self.is_read_only() || sys::filesystem_name(self.path()).as_deref() != Some("btrfs") {
            return Ok(None);
        }
        if let Some(template) = self.sealed_template(id) {
            return Ok(Some(template));
        }
        let _lock = locks::one_by_one(self.path())?;
        if let Some(template) = self.sealed_template(id) {
            return Ok(Some(template));
        }
        // Replaying a log after a crash brings changes back without their number: a seal is good for one boot.
        let Some(boot) = staging::boot() else { return Ok(None) };
        let folder = self.layout().templates();
        let dir =
            fs::open(&folder, DIR_FLAGS, Mode::empty()).context(Operation::Open, || &folder)?;
        staging::sweep(&dir);
        let name = CString::new(id.to_string()).map_err(|error| {
            Error::io(Operation::MakeTemplate, &folder, io::Error::other(error))
        })?;
        self.discard_template(&dir, id);
        let parent = dir.try_clone().context(Operation::Open, || &folder)?;
        let Ok(mut stage) =
            Stage::new(parent, &folder, |dir, name| sys::create_subvolume(dir, name))
        else {
            return Ok(None);
        };
        operation.expect(object.files);
        let manifest = self.catalog().manifest(id, object)?;
        let root = stage.dir().try_clone().context(Operation::MakeTemplateIn, || &folder)?;
        let plan = Plan {
            store: self,
            manifest: &manifest,
            paths: std::slice::from_ref(&folder),
            operation,
        };
        let mut made = materialize(&plan, vec![root])?;
        if made.reports.iter().any(|report| !report.skipped.is_empty()) {
            // What arrived without a part of itself would be so in every tree that is made of it, and nobody would be told.
            return Ok(None);
        }
        let stats = made.stats.pop().unwrap_or_default();
        let stamp = self.clock_past_all(stats.iter())?;
        let index = Index { snapshot: id, boot: Boot::this(), stamp, stats };
        let publish = |stage: &mut Stage| -> io::Result<()> {
            // Everything that is still on its way must have arrived before the number is read.
            flush_filesystem(stage.dir())?;
            self.blobs().seal(&made.unsealed, index.stamp)?;
            stage.publish(&name)?;
            let seal = settled(stage.dir())?;
            for (path, content) in [
                (self.layout().template_index(id), index.encode_stored(&manifest)?),
                (self.layout().template_seal(id), seal_text(seal, &boot)),
            ] {
                staging::write_whole(&self.layout().stage(), &path, &content)?;
            }
            Ok(())
        };
        publish(&mut stage).context(Operation::MakeTemplateIn, || &folder)?;
        Ok(self.sealed_template(id))
    }

    /// The template of a snapshot, where there is one and nobody wrote to it.
    pub(crate) fn sealed_template(&self, id: SnapshotId) -> Option<OwnedFd> {
        let flags = DIR_FLAGS | OFlags::NOFOLLOW;
        let template = fs::open(self.layout().template(id), flags, Mode::empty()).ok()?;
        let meta = Meta::of(&fs::fstat(&template).ok()?);
        let seal = self.layout().template_seal(id);
        let seal = super::read_plain(fs::CWD, &seal, SEAL_MOST_BYTES).ok()?;
        let good = sys::is_subvolume(&template, meta.ino)
            && self.layout().template_index(id).is_file()
            && seal == seal_text(sys::last_change(&template).ok()?, &staging::boot()?);
        good.then_some(template)
    }

    /// Removes a template. What cannot be removed now is trash.
    fn discard_template(&self, dir: &OwnedFd, id: SnapshotId) {
        for file in [self.layout().template_seal(id), self.layout().template_index(id)] {
            let _ = std::fs::remove_file(file);
        }
        let trash = self.layout().trash();
        let aside = CString::new(stage_name()).unwrap_or_default();
        if let Ok(trash) = fs::open(trash, DIR_FLAGS, Mode::empty())
            && fs::renameat(dir, id.to_string(), &trash, &aside).is_ok()
        {
            let _ = remove_tree(&trash, &aside);
        }
    }

    /// Removes the templates of all snapshots that `keep` does not want. How many there were.
    ///
    /// # Errors
    /// The folder of templates could not be read.
    pub(crate) fn drop_templates(&self, keep: impl Fn(SnapshotId) -> bool) -> Result<u64, Error> {
        let _lock = locks::one_by_one(self.path())?;
        let folder = self.layout().templates();
        let dir =
            fs::open(&folder, DIR_FLAGS, Mode::empty()).context(Operation::Open, || &folder)?;
        staging::sweep(&dir);
        let mut dropped = 0;
        for (name, _) in super::listed(&dir).context(Operation::ReadDirectory, || &folder)? {
            let Some(text) = name.to_str() else { continue };
            let (stem, extension) = text.split_once('.').unwrap_or((text, ""));
            let Some(id) = super::id::from_hex(stem).map(SnapshotId::from_bytes) else { continue };
            if keep(id) {
                continue;
            }
            if extension.is_empty() {
                dropped += 1;
                self.discard_template(&dir, id);
            } else {
                let _ = std::fs::remove_file(folder.join(&name));
            }
        }
        Ok(dropped)
    }
}

/// What a seal says. Templates of the first version had the project's `.git`, and their seals no
/// third word.
fn seal_text(last_change: u64, boot: &str) -> Vec<u8> {
    format!("{last_change} {boot} without-git\n").into_bytes()
}

/// Two numbers and a few characters.
const SEAL_MOST_BYTES: u64 = 4096;

/// How often the number of the last change is read before it is given up.
const SETTLE_TRIES: u32 = 10;

/// The last change of a subvolume, once its transaction is over: then any later one has another
/// number.
fn settled(dir: &OwnedFd) -> io::Result<u64> {
    flush_filesystem(dir)?;
    for _ in 0..SETTLE_TRIES {
        let number = sys::last_change(dir)?;
        flush_filesystem(dir)?;
        if sys::last_change(dir)? == number {
            return Ok(number);
        }
    }
    Err(io::Error::other("somebody writes to it again and again"))
}
