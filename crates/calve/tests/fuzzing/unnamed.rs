//! What the fuzzer of unnamed records calls, and its seed.

use std::io;

use super::{UNTRACED, Unnamed};
use crate::store::id::SnapshotId;
use crate::store::index::{Boot, Stat};
use crate::store::manifest::{Builder, NO_ID};
use crate::store::object::{Entry, Kind};
use crate::store::scan;

impl Unnamed {
    /// Whether both say the same.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.manifest.entries().eq(other.manifest.entries())
            && self.manifest.root == other.manifest.root
            && self.base == other.base
            && (&self.project, &self.trees) == (&other.project, &other.trees)
            && self.seal == other.seal
    }

    pub(crate) fn encode(&self) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        self.write(&mut out)?;
        Ok(out)
    }

    pub(crate) fn decode(bytes: &[u8]) -> io::Result<Self> {
        Self::read(bytes, bytes.len() as u64)
    }
}

/// A record that has a bit of everything.
pub(crate) fn record() -> Unnamed {
    let entry = |name: &[u8], kind| {
        let name = name.into();
        Entry { name, mode: 0o644, uid: 1, gid: 2, mtime: (3, 4).into(), attributes: None, kind }
    };
    let folder = || Kind::Directory(NO_ID);
    let file = |size| Kind::File { size, link: 0, blob: scan::UNKNOWN };
    let mut builder = Builder::new(entry(b"", folder()));
    let _ = builder.add(vec![entry(b"a", folder()), entry(b"b", file(5))]);
    let _ = builder.add(vec![entry(b"c", file(0))]);
    let stats = vec![Stat { ino: 7, changed: (8, 9) }, UNTRACED, Stat::default(), UNTRACED];
    let index = |stamp| Unnamed::index(Boot([1; 16]), (stamp, 0), stats.clone());
    let tokens = |tokens: &[&str]| tokens.iter().map(|it| (*it).to_owned()).collect();
    let trees = vec![(tokens(&["one"]), index(2)), (tokens(&["two", "three"]), index(3))];
    let seal = b"7 boot".to_vec();
    let base = Some(SnapshotId::from_bytes([3; 32]));
    Unnamed { manifest: builder.finish(), base, project: index(1), trees, seal }
}

/// What a fuzzer begins with.
pub(crate) fn seed() -> io::Result<Vec<u8>> {
    record().encode()
}
