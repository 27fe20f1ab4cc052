//! Usage errors that clap cannot find: each argument is right alone, but together they make no
//! sense.

/// A larger number of clones is a typing error. The list of their names alone would fill the
/// memory.
pub(super) const MAX_COUNT: u64 = 65_535;

/// A usage error of one command.
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
