//! Arguments that are fine one by one and make no sense together, which clap cannot find.

/// More clones than this in one call are a slip of the finger, and their list alone would fill the memory.
pub(super) const MAX_COUNT: u64 = 65_535;

/// What is wrong with the arguments of a command.
#[derive(Debug)]
pub(crate) struct Misuse {
    pub(super) verb: &'static str,
    pub(super) message: &'static str,
}

impl Misuse {
    pub(super) fn new(verb: &'static str, message: &'static str) -> Self {
        Self { verb, message }
    }
}
