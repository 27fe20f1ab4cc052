//! `calve volume grow`.

use std::fs;
use std::io;

use calve::ErrorKind;

use super::found::Found;
use super::machine::owner;
use super::plan::{self, RootAction, Volume};
use super::root::by_root;
use super::status::told_as_made;
use crate::args::GrowArgs;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::failure::stored::own;
use crate::session::Session;
use crate::text::shown;

pub(super) fn run(args: &GrowArgs, session: Session<'_>) -> Result<Exit, Failure> {
    let found = Found::named(&args.at, session)?;
    let Volume { at, image, .. } = &found.volume;
    let failed = |error: io::Error| Failure::writing("grow volume", image, &error);
    if found.mount.is_none() {
        let hint = "'calve volume status' says how to mount it";
        return Err(own("grow volume", at, ErrorKind::Io, "it is not mounted", hint));
    }
    let before = fs::metadata(image).map_err(failed)?.len();
    if args.size < before {
        let why = format!("it has {} already", session.output.size(before));
        let hint =
            "a volume can grow and not shrink: make another one, and move the projects there";
        return Err(own("grow volume", at, ErrorKind::DestinationExists, &why, hint));
    }
    // If a later step fails, the image only has unused room. The same command, run again, goes on.
    let file = fs::OpenOptions::new().write(true).open(image).map_err(failed)?;
    file.set_len(args.size).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    let steps = plan::steps_to_grow(&found.volume);
    let by_hand = by_root(RootAction::Grow, at, owner(), &steps, args.no_sudo, session)?;
    if let Some(exit) = by_hand {
        return Ok(exit);
    }
    session.output.summary(format_args!(
        "the volume {} may hold {}",
        shown(at),
        session.output.size(args.size)
    ));
    told_as_made(found, session)
}
