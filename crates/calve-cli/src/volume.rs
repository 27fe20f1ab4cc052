//! `calve volume`: a filesystem that can share blocks, in an image file, for machines that have
//! none.
//!
//! The user makes the image; root only mounts it. The programs of the filesystems do the work.
//! [`plan`] decides what happens, and [`machine`] does it.
//!
//! # Killed at any moment
//! An image has its name only when it is whole. What a killed `create` leaves is found by its name,
//! and the next `create` goes on: every step may be done twice. `remove` first gives the image
//! another name; the next `remove` goes on from there.

pub(crate) mod facts;

mod check;
mod create;
mod found;
mod grow;
mod inside;
mod machine;
pub(crate) mod plan;
mod remove;
mod root;
mod status;
pub(crate) mod store;

use crate::args::VolumeVerb;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::session::Session;

pub(crate) fn run(verb: &VolumeVerb, session: Session<'_>) -> Result<Exit, Failure> {
    match verb {
        VolumeVerb::Create(args) => create::run(args, session),
        VolumeVerb::List => status::list(session),
        VolumeVerb::Status { at } => status::status(at.as_deref(), session),
        VolumeVerb::Grow(args) => grow::run(args, session),
        VolumeVerb::Check { at, repair } => check::run(at, *repair, session),
        VolumeVerb::Remove(args) => remove::run(args, session),
        VolumeVerb::AsRoot { action, at, owner } => root::as_root(*action, at, *owner, session),
    }
}
