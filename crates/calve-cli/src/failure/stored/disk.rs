//! What to do about filesystems: room, rights, what a filesystem cannot do.

use std::io;
use std::path::Path;

use calve::{ErrorKind, Operation};

use super::case::Case;
use crate::failure::{df_above, hint as usual_hint};
use crate::text::shell_word;

pub(super) fn way_out(case: &Case<'_>) -> Option<String> {
    unfit(case).or_else(|| not_deleted(case)).or_else(|| refused(case))
}

/// For operations that the filesystem does not support.
fn unfit(case: &Case<'_>) -> Option<String> {
    let Case { kind, operation, path, other, error, .. } = *case;
    let hint = match kind {
        ErrorKind::ReflinkRefused => {
            let (path, other) = (shell_word(path), shell_word(other.unwrap_or(path)));
            format!("'calve doctor {path} {other}' says why; --reflink auto makes copies")
        }
        // The folder is empty, but it is a mount point, which nothing can replace.
        ErrorKind::DestinationExists if error.kind() == io::ErrorKind::ResourceBusy => {
            format!("name a folder inside it, such as {}", shell_word(&path.join("app")))
        }
        // Two names of the project are one on the filesystem of the worktrees.
        ErrorKind::Conflict if operation == Operation::Make => {
            "choose a folder on a filesystem that tells the names apart, or leave one of them out by a line in the \
             project's .calveignore"
                .to_owned()
        }
        _ => return None,
    };
    Some(hint)
}

/// A dropped worktree cannot be deleted.
fn not_deleted(case: &Case<'_>) -> Option<String> {
    let Case { kind, operation, path, error, .. } = *case;
    let hint = match kind {
        ErrorKind::PermissionDenied if operation == Operation::DeleteDropped => {
            let path = shell_word(path);
            format!(
                "it has files of another user, or immutable ones: sudo chattr -R -f -i {path}; sudo rm -rf {path}"
            )
        }
        _ if operation == Operation::DeleteDropped
            && error.kind() == io::ErrorKind::ReadOnlyFilesystem =>
        {
            // The root of each subvolume has this number.
            format!(
                "it has a read-only subvolume of btrfs, or the filesystem is read-only: find {} -inum 256 -exec \
                 btrfs property set {{}} ro false ';'",
                shell_word(path)
            )
        }
        _ => return None,
    };
    Some(hint)
}

/// The filesystem refuses, for want of room, rights or sound hardware.
fn refused(case: &Case<'_>) -> Option<String> {
    let Case { kind, operation, path, error, .. } = *case;
    let hint = match kind {
        // Not all words of SQLite have an errno.
        ErrorKind::Io if error.raw_os_error().is_none() && path.ends_with("index.db") => format!(
            "see 'dmesg' and 'calve doctor {}': the disk fails, or the filesystem or a sandbox refuses what a \
             database needs (locks, shared memory); 'calve init --store DIR' makes a store elsewhere",
            shell_word(path.parent().unwrap_or(path))
        ),
        ErrorKind::DestinationExists => {
            "move it away, choose another name, or choose another folder with --at".to_owned()
        }
        ErrorKind::StorageFull if operation == Operation::MakeStore => {
            format!("free some space ({})", df_above(path, error))
        }
        ErrorKind::StorageFull => format!(
            "free some space ({}); 'calve drop NAME' and 'calve store gc --expire 30d' work on a full disk, too",
            df_above(path, error)
        ),
        // calve could not read a file or a folder of the tree.
        ErrorKind::PermissionDenied
            if matches!(
                operation,
                Operation::TakeIn | Operation::OpenDirectory | Operation::ReadDirectory
            ) =>
        {
            let name = path.file_name().map_or(path, Path::new);
            let looks = usual_hint(kind, path, error).unwrap_or_default();
            let ignore = path.parent().unwrap_or(path).join(".calveignore");
            format!(
                "to leave it out, add the line /{} to {}; or {looks}",
                name.display(),
                shell_word(&ignore)
            )
        }

        _ => return None,
    };
    Some(hint)
}
