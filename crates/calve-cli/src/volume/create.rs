//! `calve volume create`: the image, the folder, and then what root must do.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use calve::{ErrorKind, ReflinkOutcome, Store};

use super::facts::{mount_at, why_away};
use super::found::{Found, is_there, place};
use super::machine::{self, is_root, needed};
use super::plan::{self, Filesystem, Owner, RootAction, Volume};
use super::root::by_root;
use super::status::told_as_made;
use super::store::inside_tree;
use crate::args::CreateArgs;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::failure::stored::own;
use crate::mounts::mounted;
use crate::session::Session;
use crate::text::{shell_word, shown};

pub(super) fn run(args: &CreateArgs, session: Session<'_>) -> Result<Exit, Failure> {
    let at = place(&args.at, session)?;
    if !plan::is_plain(&at) {
        let why = "a path in /etc/fstab and in units has no spaces or special characters";
        let hint = "choose a folder of letters, digits and '._-+@'";
        return Err(own("make volume", &at, ErrorKind::InvalidName, why, hint));
    }
    let old = plan::old_image_of(&at);
    if is_there(&old)? {
        let hint = format!("'calve volume remove {}' completes that", shell_word(&at));
        let why = "a volume that was there is being removed";
        return Err(own("make volume", &at, ErrorKind::DestinationExists, why, hint));
    }
    for name in ["mount", "losetup", "blkid"] {
        needed(name)?;
    }
    let owner = machine::owner();
    let output = session.output;
    let mut made = Made::default();
    let found = match Found::at(&at)? {
        Some(found) => {
            if found.mount.is_none() && !is_free(&at)? {
                let why = "something is in its folder, and the volume would hide it";
                let hint = format!("move what 'ls -A {}' lists to another folder", shell_word(&at));
                return Err(own("mount volume", &at, ErrorKind::DestinationExists, why, hint));
            }
            let is_owned = || fs::metadata(&at).is_ok_and(|meta| meta.uid() == owner.uid);
            if found.mount.is_some() && found.record.is_some() && is_owned() {
                output.summary(format_args!("nothing to do: the volume {} is there", shown(&at)));
                return told_as_made(found, session);
            }
            let Volume { image, .. } = &found.volume;
            match &found.record {
                Some(record) if found.mount.is_none() && !is_there(image)? => {
                    let hint = why_away(&found.volume, record);
                    let kind = ErrorKind::SourceNotFound;
                    return Err(own("mount volume", &at, kind, "it has no image", hint));
                }
                Some(_) if found.mount.is_none() => {
                    output.summary(format_args!("{} is a volume that is not mounted", shown(&at)));
                }
                _ => output.summary(format_args!(
                    "going on with {}, which an unfinished calve volume create left",
                    shown(image)
                )),
            }
            found
        }
        None => {
            let volume = make_image(args, &at, owner, &mut made, session)?;
            Found { volume, record: None, mount: None }
        }
    };
    let was_made = found.record.is_some();
    made.folder(&at)?;
    let boot = machine::at_boot(&at)?;
    let steps = plan::steps_to_mount(&found.volume, &boot, owner, found.mount.is_some());
    let by_hand = match by_root(RootAction::Mount, &at, owner, &steps, args.no_sudo, session) {
        Ok(by_hand) => by_hand,
        Err(failure) => {
            made.undo();
            return Err(failure);
        }
    };
    if let Some(exit) = by_hand {
        return Ok(exit);
    }
    let found = Found::at(&at)?.filter(|found| found.mount.is_some());
    let found = found.ok_or_else(|| {
        let hint = "'calve volume status' says what is there";
        own("mount volume", &at, ErrorKind::Io, "it is not mounted after all", hint)
    })?;
    let done = if was_made { "mounted the volume" } else { "made a volume" };
    output.summary(format_args!(
        "{done}: in a project, 'calve init --volume {}' puts its store and worktrees there",
        shell_word(&at)
    ));
    told_as_made(found, session)
}

/// The files that `create` makes without root.
#[derive(Default)]
struct Made {
    image: Option<PathBuf>,
    folder: Option<PathBuf>,
}

impl Made {
    /// Makes the folder that the volume is mounted at. While nothing is mounted there, its mode
    /// keeps users from writing into it by mistake.
    fn folder(&mut self, at: &Path) -> Result<(), Failure> {
        match fs::DirBuilder::new().mode(0o555).create(at) {
            Ok(()) => self.folder = Some(at.to_owned()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                self.undo();
                return Err(Failure::writing("make folder", at, &error));
            }
        }
        Ok(())
    }

    fn undo(&self) {
        if let Some(folder) = &self.folder {
            let _ = fs::remove_dir(folder);
        }
        if let Some(image) = &self.image {
            let _ = fs::remove_file(image);
        }
    }
}

/// Fails if something has the place of the volume, or of its image.
fn must_be_free(at: &Path, image: &Path) -> Result<(), Failure> {
    let taken = |why: &str, hint: String| {
        Err(own("make volume", at, ErrorKind::DestinationExists, why, hint))
    };
    if is_there(image)? {
        let hint = format!("move {} away, or choose another folder", shell_word(image));
        return taken("another file has the name of its image", hint);
    }
    if is_free(at)? && mount_at(&mounted(), at).is_none() {
        return Ok(());
    }
    taken("something is there already", "choose a new or an empty folder".to_owned())
}

/// Whether a folder is missing or empty.
fn is_free(at: &Path) -> Result<bool, Failure> {
    match fs::read_dir(at).map(|mut entries| entries.next().is_none()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(false),
        is_empty => is_empty.map_err(|error| Failure::io("look at", vec![at.to_owned()], &error)),
    }
}

/// Fails if the image would be a part of a project or of a worktree.
fn must_be_in_no_tree(at: &Path, folder: &Path) -> Result<(), Failure> {
    Store::must_be_outside(at)?;
    match Store::discover(folder) {
        Ok(found) if at.starts_with(&found.root) => {
            Err(inside_tree("make volume", at, &found.root))
        }
        _ => Ok(()),
    }
}

/// Fails if files in this folder can share blocks, or can not be made.
fn must_need_volume(at: &Path, folder: &Path) -> Result<(), Failure> {
    let probe = calve::probe(folder).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => Failure::io("make volume", vec![at.to_owned()], &error)
            .hinted(format!(
                "choose a folder of yours, such as ~/trees, or run it as root: \
                 sudo calve volume create {}",
                shell_word(at)
            )),
        _ => Failure::writing("make volume", at, &error),
    })?;
    if probe.outcome == ReflinkOutcome::Cloned {
        let why = "the filesystem there can share blocks, so no volume is needed";
        let store = shell_word(&folder.join("NAME.calve"));
        let hint = format!("'calve init --store {store}' puts a store there");
        return Err(own("make volume", at, ErrorKind::DestinationExists, why, hint));
    }
    Ok(())
}

/// Makes the image. It gets its name when it is whole.
fn make_image(
    args: &CreateArgs,
    at: &Path,
    owner: Owner,
    made: &mut Made,
    session: Session<'_>,
) -> Result<Volume, Failure> {
    let image = plan::image_of(at);
    must_be_free(at, &image)?;
    let folder = at.parent().unwrap_or(at);
    must_be_in_no_tree(at, folder)?;
    must_need_volume(at, folder)?;
    let host = machine::space(folder)
        .map_err(|error| Failure::io("look at", vec![folder.to_owned()], &error))?;
    let Some(size) = args.size.or_else(|| plan::default_size(host.free)) else {
        let why = "there is too little room: a volume has at least 1 GiB";
        let hint = format!("free some space; df -h {}", shell_word(folder));
        return Err(own("make volume", at, ErrorKind::StorageFull, why, hint));
    };
    if size > host.free {
        session.output.warning(format_args!(
            "the volume may grow to {}, and the disk below it has {} free: 'calve volume status' says when it gets short",
            session.output.size(size),
            session.output.size(host.free)
        ));
    }
    let filesystem = args.filesystem.unwrap_or(Filesystem::Btrfs);
    needed(filesystem.mkfs())?;
    let new = plan::new_image_of(at);
    match fs::remove_file(&new) {
        Ok(()) => session.output.summary(format_args!(
            "removed {}, which an unfinished calve volume create left",
            shown(&new)
        )),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(Failure::io("remove", vec![new], &error)),
    }
    let failed = |error: io::Error| Failure::writing("make the image of volume", &new, &error);
    let file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)
        .map_err(failed)?;
    made.image = Some(new.clone());
    let protofile = plan::protofile_of(at);
    let fill = || -> Result<(), Failure> {
        file.set_len(size).map_err(failed)?;
        fs::write(&protofile, plan::protofile(owner)).map_err(failed)?;
        machine::output(filesystem.mkfs(), &filesystem.make(&new, &protofile))?;
        if is_root() {
            std::os::unix::fs::fchown(&file, Some(owner.uid), Some(owner.gid)).map_err(failed)?;
        }
        file.sync_all().map_err(failed)?;
        if session.signals.cancel().is_cancelled() {
            return Err(Failure::cancelled("make volume", vec![at.to_owned()]));
        }
        fs::rename(&new, &image).map_err(failed)
    };
    let filled = fill();
    let _ = fs::remove_file(&protofile);
    if let Err(failure) = filled {
        made.undo();
        return Err(failure);
    }
    made.image = Some(image.clone());
    Ok(Volume { at: at.to_owned(), image, filesystem })
}
