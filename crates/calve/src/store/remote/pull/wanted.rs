//! The entries of packs that a pull looks for, and the requests that fetch them.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

use super::super::super::id::BlobId;
use super::super::super::pack::Location;
use super::super::record::PackRef;
use crate::tree::staging::StagedFile;

/// A range is not made longer than this; one entry may be.
const RANGE_BYTES: u64 = 4 << 20;

/// Two entries that are this close are fetched together, with what is between them.
const GAP_BYTES: u64 = 64 << 10;

/// The entries of packs that a pull looks for. A million of them take 40 MB.
pub(super) struct WantedEntries {
    /// Ids and sizes, by id.
    pub(super) entries: Vec<(BlobId, u64)>,
    /// Those of them that are chunks of large contents, by their numbers. All others are contents.
    pub(super) chunks: HashMap<u32, WantedChunk>,
    pub(super) large: Vec<Large>,
}

/// An entry that is a chunk.
#[derive(Debug)]
pub(super) struct WantedChunk {
    /// Whether the same bytes are also a content.
    pub(super) is_content: bool,
    /// The numbers of the large contents that it is a part of, and its offsets in them.
    pub(super) places: Vec<(usize, u64)>,
}

/// An entry of a pack that is to be fetched: its number among the [`WantedEntries`], and where it is. No
/// pack is longer than 64 MiB.
#[derive(Debug)]
pub(super) struct PackPiece {
    pub(super) number: u32,
    pub(super) offset: u32,
    pub(super) stored: u32,
}

impl PackPiece {
    pub(super) fn at(&self, size: u64) -> Location {
        Location { offset: self.offset.into(), stored: self.stored.into(), size }
    }
}

/// Pieces that are fetched with one request.
#[derive(Debug)]
pub(super) struct Fetch {
    pub(super) pack: PackRef,
    pub(super) range: Range<u64>,
    pub(super) pieces: Vec<PackPiece>,
}

/// A content that arrives in chunks.
pub(super) struct Large {
    pub(super) id: BlobId,
    pub(super) size: u64,
    pub(super) staged: Mutex<StagedFile<'static>>,
    /// Chunks that have not arrived.
    pub(super) missing: AtomicUsize,
}

impl WantedEntries {
    /// Contents, sorted, and chunks with their sizes and places in large contents. A chunk has the
    /// size of a content with its id. `None` if there are more than a number can count.
    pub(super) fn new(
        mut entries: Vec<(BlobId, u64)>,
        places: HashMap<BlobId, (u64, Vec<(usize, u64)>)>,
        large: Vec<Large>,
    ) -> Option<Self> {
        let mut chunks = Vec::with_capacity(places.len());
        let mut new = Vec::new();
        for (id, (size, places)) in places {
            let is_content = number_of(&entries, id).is_some();
            if !is_content {
                new.push((id, size));
            }
            chunks.push((id, WantedChunk { is_content, places }));
        }
        if !new.is_empty() {
            entries.extend(new);
            entries.sort_unstable();
        }
        u32::try_from(entries.len()).ok()?;
        let numbered = |(id, chunk)| Some((u32::try_from(number_of(&entries, id)?).ok()?, chunk));
        let chunks = chunks.into_iter().filter_map(numbered).collect();
        Some(Self { entries, chunks, large })
    }

    /// Moves the names of the contents among them, piece by piece, so that little is in memory
    /// twice.
    pub(super) fn move_contents(self, to: &mut Vec<BlobId>) {
        const PIECE: usize = 1 << 16;
        let Self { mut entries, chunks, .. } = self;
        to.reserve_exact(entries.len());
        while !entries.is_empty() {
            let from = entries.len().saturating_sub(PIECE);
            let numbered = (from..).zip(entries.drain(from..));
            to.extend(numbered.filter_map(|(number, (id, _))| {
                let chunk = u32::try_from(number).ok().and_then(|number| chunks.get(&number));
                chunk.is_none_or(|chunk| chunk.is_content).then_some(id)
            }));
            entries.shrink_to_fit();
        }
    }

    /// `None` if no pack is that long.
    pub(super) fn piece(&self, number: usize, at: Location) -> Option<PackPiece> {
        Some(PackPiece {
            number: u32::try_from(number).ok()?,
            offset: u32::try_from(at.offset).ok()?,
            stored: u32::try_from(at.stored).ok()?,
        })
    }
}

/// The number of the entry with this id.
pub(super) fn number_of(entries: &[(BlobId, u64)], id: BlobId) -> Option<usize> {
    entries.binary_search_by(|(other, _)| other.cmp(&id)).ok()
}

/// Divides pieces of one pack into ranges.
pub(super) fn ranges(
    pack: PackRef,
    wanted: &WantedEntries,
    mut pieces: Vec<PackPiece>,
) -> Vec<Fetch> {
    pieces.sort_unstable_by_key(|piece| piece.offset);
    let mut fetches: Vec<Fetch> = Vec::new();
    for piece in pieces {
        let (_, size) = wanted.entries[piece.number as usize];
        // The index was checked: every entry ends inside of the pack.
        let Some(end) = piece.at(size).end(pack.length) else { continue };
        let start = u64::from(piece.offset);
        match fetches.last_mut() {
            Some(last)
                if start.saturating_sub(last.range.end) <= GAP_BYTES
                    && end.saturating_sub(last.range.start) <= RANGE_BYTES =>
            {
                last.range.end = end.max(last.range.end);
                last.pieces.push(piece);
            }
            _ => fetches.push(Fetch { pack, range: start..end, pieces: vec![piece] }),
        }
    }
    fetches
}
