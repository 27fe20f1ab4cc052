//! The seal of a subvolume: how calve knows that no process has changed it.
//!
//! btrfs gives each subvolume the number of its last change. A subvolume snapshot begins with the
//! number of its source, and its first change gives it a higher one. So the seal of a ready tree is
//! that of its snapshots, too. A look at the metadata changes nothing (docs/design/ready.md).

use std::io;
use std::os::fd::OwnedFd;

use crate::reflink::sys;
use crate::tree::staging::{boot, flush_filesystem};

/// Two numbers and a few characters.
pub(super) const MOST_BYTES: u64 = 4096;

/// How often the number of the last change is read before it is given up.
const SETTLE_TRIES: u32 = 10;

/// Seals a subvolume that calve filled, and that no other process knows. Returns what the seal
/// says.
///
/// # Errors
/// The subvolume changes, or no seal can be made here.
pub(crate) fn of(tree: &OwnedFd) -> io::Result<Vec<u8>> {
    // Replaying a log after a crash brings changes back without their number: a seal is good for
    // one boot.
    let boot = boot().ok_or(io::ErrorKind::Unsupported)?;
    Ok(text(settled(tree)?, &boot))
}

/// Whether nobody has changed a subvolume since it, or the one that it is a snapshot of, was sealed.
pub(crate) fn holds(seal: &[u8], tree: &OwnedFd) -> bool {
    sys::last_change(tree)
        .is_ok_and(|number| boot().is_some_and(|boot| seal == text(number, &boot)))
}

/// What a seal says. Ready trees of the first version had the project's `.git`, and their seals no
/// third word.
fn text(last_change: u64, boot: &str) -> Vec<u8> {
    format!("{last_change} {boot} without-git\n").into_bytes()
}

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
