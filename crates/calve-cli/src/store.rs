//! `calve store`.

use crate::args::StoreVerb;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::session::Session;
use crate::trash;

pub(crate) fn run(verb: &StoreVerb, session: Session<'_>) -> Result<Exit, Failure> {
    match verb {
        StoreVerb::EmptyTrash => trash::empty(&session.store()?),
    }
}
