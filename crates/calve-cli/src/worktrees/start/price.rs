//! What the copies of a start will cost.

use calve::CopyCost;

use super::wanted::Wanted;
use crate::filesystems::{Copies, Taker};

impl Wanted<'_> {
    /// Says what the copies of this start will cost, if blocks cannot be shared. `known` is the
    /// size of the last snapshot. Without one, the store takes a copy, too.
    pub(super) fn price(&self, known: Option<CopyCost>) -> Option<CopyCost> {
        let (project, store) = (self.project, self.store.path());
        let times = self.asked.names.len() as u64;
        // The default folder is on the store's filesystem.
        let at = self.args.at.as_deref();
        let folder = at.map_or_else(|| store.to_owned(), |at| self.session.common.resolve(at));
        let takes_in = known.is_none() && calve::must_copy(project, store);
        let one = times == 1;
        let copies_out = calve::must_copy(store, &folder);
        let (number, taker) = match (takes_in, copies_out) {
            (true, true) if one => {
                (times + 1, Taker::Copies("the store and the worktree will take"))
            }
            (true, true) => (times + 1, Taker::Copies("the store and the worktrees will take")),
            (true, false) => (1, Taker::StoreOnce),
            (false, _) if one => (times, Taker::Copies("the worktree will take")),
            (false, _) => (times, Taker::Copies("the worktrees will take")),
        };
        let (from, to) = match (takes_in, copies_out) {
            (true, false) => (project, store),
            _ => (store, &*folder),
        };
        let cost = || known.unwrap_or_else(|| CopyCost::of_tree(project));
        let (line, cost) = Copies { from, to, number, taker }.price(cost)?;
        self.session.output.warning(line);
        Some(cost)
    }
}
