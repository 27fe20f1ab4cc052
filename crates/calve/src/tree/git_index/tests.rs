//! Tests of the format and the rule, without a filesystem and without git.

use proptest::prelude::*;

use super::config::{unquoted, with_working_tree, working_tree_line};
use super::format::{Cursor, IndexLayout, Recorded};
use super::rule::{Moments, rewritten};
use super::sha256::sha256;
use super::{open_regular, replace};
use crate::reflink::meta::Meta;
use crate::tree::listing::Time;

/// An index to write, as git would write it.
struct Written {
    version: u32,
    id_bytes: usize,
    /// Each entry's path, its flags besides the length, and its extended flags.
    entries: Vec<(&'static str, u16, u16)>,
    extensions: Vec<(&'static [u8; 4], Vec<u8>)>,
    /// Whether the index has a checksum (not `index.skipHash`).
    summed: bool,
}

impl Written {
    fn plain(version: u32, id_bytes: usize) -> Self {
        let entries = ["a", "dir/a", "dir/ab", "dir/b/c", "dir/bc", "z"];
        Self {
            version,
            id_bytes,
            entries: entries.iter().map(|path| (*path, 0, 0)).collect(),
            extensions: vec![(b"TREE", vec![7; 40]), (b"sdir", Vec::new())],
            summed: true,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = b"DIRC".to_vec();
        bytes.extend(self.version.to_be_bytes());
        bytes.extend(u32::try_from(self.entries.len()).unwrap().to_be_bytes());
        let mut before = "";
        for (number, (path, flags, extended)) in self.entries.iter().enumerate() {
            let start = bytes.len();
            for field in 0..10 {
                let value = if field == 6 { 0o100_644 } else { u32::try_from(number).unwrap() + 9 };
                bytes.extend(value.to_be_bytes());
            }
            bytes.resize(bytes.len() + self.id_bytes, 0xab);
            let length = u16::try_from(path.len().min(0xfff)).unwrap();
            let long = if *extended == 0 { 0 } else { 0x4000 };
            bytes.extend((length | flags | long).to_be_bytes());
            if *extended != 0 {
                bytes.extend(extended.to_be_bytes());
            }
            if self.version == 4 {
                let same = path.bytes().zip(before.bytes()).take_while(|(a, b)| a == b).count();
                bytes.extend(varint(before.len() - same));
                bytes.extend(&path.as_bytes()[same..]);
                bytes.push(0);
                before = path;
            } else {
                bytes.extend(path.as_bytes());
                let end = start + ((bytes.len() - start + 8) & !7);
                bytes.resize(end, 0);
            }
        }
        for (name, data) in &self.extensions {
            bytes.extend(*name);
            bytes.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
            bytes.extend(data);
        }
        let sum = match (self.summed, self.id_bytes) {
            (false, length) => vec![0; length],
            (true, 20) => sha1_smol::Sha1::from(&bytes).digest().bytes().to_vec(),
            (true, _) => sha256(&bytes).to_vec(),
        };
        bytes.extend(sum);
        bytes
    }
}

/// The encoding of `git/varint.c`.
fn varint(mut value: usize) -> Vec<u8> {
    let mut digits = vec![u8::try_from(value & 127).unwrap()];
    loop {
        value >>= 7;
        if value == 0 {
            break;
        }
        value -= 1;
        digits.insert(0, 128 | u8::try_from(value & 127).unwrap());
    }
    digits
}

/// The paths of the plain entries, by the chunks.
fn paths(bytes: &[u8]) -> Option<Vec<String>> {
    let layout = IndexLayout::of(bytes)?;
    let mut paths = Vec::new();
    for chunk in &layout.chunks {
        let part = &bytes[chunk.bytes.clone()];
        let mut cursor: Cursor = chunk.cursor.clone();
        while let Some(entry) = cursor.next(part) {
            if entry.is_plain() {
                paths.push(String::from_utf8_lossy(&cursor.path).into_owned());
            }
        }
    }
    Some(paths)
}

#[test]
fn every_version_and_every_kind_of_id_is_understood() {
    let all = ["a", "dir/a", "dir/ab", "dir/b/c", "dir/bc", "z"];
    for version in 2..=4 {
        for id_bytes in [20, 32] {
            for summed in [true, false] {
                let index = Written { summed, ..Written::plain(version, id_bytes) };
                let what = format!("version {version}, {id_bytes} bytes, summed: {summed}");
                assert_eq!(paths(&index.bytes()).unwrap(), all, "{what}");
            }
        }
    }
}

#[test]
fn paths_are_looked_up_in_every_index_but_a_sparse_or_split_one() {
    let asked = ["dir/ab", "dir", "dir/a/b", "z", "zz"].map(std::path::Path::new);
    let folder = tempfile::tempdir().unwrap();
    let answer = |index: &Written| {
        std::fs::write(folder.path().join("index"), index.bytes()).unwrap();
        super::tracked_among(folder.path(), &asked)
    };
    for (version, id_bytes, summed) in [(2, 20, true), (3, 32, true), (4, 20, false)] {
        let tracked = answer(&Written { summed, ..Written::plain(version, id_bytes) });
        assert_eq!(tracked, Some(["dir/ab", "z"].map(std::path::PathBuf::from).into()));
    }
    let sparse = Written { entries: vec![("a", 0, 0), ("dir/", 0, 0)], ..Written::plain(3, 20) };
    assert_eq!(answer(&sparse), None);
    let split = Written { extensions: vec![(b"link", vec![7; 20])], ..Written::plain(2, 20) };
    assert_eq!(answer(&split), None);
}

#[test]
fn what_git_does_not_compare_is_no_plain_entry() {
    let (assume_valid, stage, skip_worktree, intent_to_add) = (0x8000, 0x2000, 0x4000, 0x2000);
    let index = Written {
        entries: vec![
            ("assumed", assume_valid, 0),
            ("conflict", stage, 0),
            ("intended", 0, intent_to_add),
            ("plain", 0, 0),
            ("skipped", 0, skip_worktree),
        ],
        ..Written::plain(3, 20)
    };
    assert_eq!(paths(&index.bytes()).unwrap(), ["plain"]);
}

#[test]
fn an_index_of_many_chunks_and_long_paths_is_read_whole() {
    let long: &str = Box::leak("l/".repeat(2040).into_boxed_str());
    let names: Vec<&'static str> = (0..3000)
        .map(|at| &*Box::leak(format!("d{}/f{at:05}", at / 700).into_boxed_str()))
        .collect();
    for version in [2, 4] {
        let mut entries: Vec<_> = names.iter().map(|path| (*path, 0, 0)).collect();
        entries.push((&long[..4079], 0, 0));
        let bytes = Written { entries, ..Written::plain(version, 20) }.bytes();
        let layout = IndexLayout::of(&bytes).unwrap();
        assert_eq!(layout.chunks.len(), 6, "version {version}");
        assert_eq!(layout.chunks[0].bytes.start, 12, "version {version}");
        let joined = layout.chunks.windows(2).all(|two| two[0].bytes.end == two[1].bytes.start);
        assert!(joined, "version {version}");
        let found = paths(&bytes).unwrap();
        assert_eq!(found.len(), 3001);
        assert!(found.iter().zip(&names).all(|(found, name)| found == name), "version {version}");
        assert_eq!(found[3000], long[..4079], "version {version}");
    }
}

#[test]
fn what_is_no_index_to_its_last_byte_is_left() {
    let good = || Written::plain(2, 20);
    let resealed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good().bytes();
        bytes.truncate(bytes.len() - 20);
        change(&mut bytes);
        let sum = sha1_smol::Sha1::from(&bytes).digest().bytes();
        bytes.extend(sum);
        bytes
    };
    assert!(IndexLayout::of(&resealed(&|_| {})).is_some());
    for (what, bytes) in [
        ("nothing", Vec::new()),
        ("a header alone", b"DIRC\0\0\0\x02\0\0\0\0".to_vec()),
        ("zeros", vec![0; 1000]),
        ("another sum", {
            let mut bytes = good().bytes();
            bytes[20] ^= 1;
            bytes
        }),
        ("version 5", resealed(&|bytes| bytes[7] = 5)),
        ("version 1", resealed(&|bytes| bytes[7] = 1)),
        ("more entries", resealed(&|bytes| bytes[11] += 1)),
        ("fewer entries", resealed(&|bytes| bytes[11] -= 1)),
        ("entries without end", resealed(&|bytes| bytes[8] = 255)),
        ("a byte more", resealed(&|bytes| bytes.push(0))),
        ("a byte less", resealed(&|bytes| _ = bytes.pop())),
        ("no zeros after a path", resealed(&|bytes| bytes[12 + 63] = 1)),
        ("a path of another length", resealed(&|bytes| bytes[12 + 61] = 2)),
        ("a longer extension", {
            let mut index = good();
            index.extensions.clear();
            let mut bytes = index.bytes();
            bytes.truncate(bytes.len() - 20);
            bytes.extend(b"TREE\xff\xff\xff\xff");
            let sum = sha1_smol::Sha1::from(&bytes).digest().bytes();
            bytes.extend(sum);
            bytes
        }),
        ("a split index", {
            let mut index = good();
            index.extensions.push((b"link", vec![0; 20]));
            index.bytes()
        }),
        ("an extension that must be understood", {
            let mut index = good();
            index.extensions.push((b"next", Vec::new()));
            index.bytes()
        }),
        ("extended flags in version 2", {
            let mut index = good();
            index.entries[0].2 = 0x2000;
            index.bytes()
        }),
    ] {
        assert!(IndexLayout::of(&bytes).is_none(), "{what}");
    }
}

#[test]
fn a_rewritten_entry_changes_its_stat_and_the_sum_and_nothing_else() {
    for (id_bytes, summed) in [(20, true), (32, true), (20, false), (32, false)] {
        for version in 2..=4 {
            let index = Written { summed, ..Written::plain(version, id_bytes) };
            let before = index.bytes();
            let mut after = before.clone();
            let layout = IndexLayout::of(&before).unwrap();
            let mut cursor = layout.chunks[0].cursor.clone();
            let part = layout.chunks[0].bytes.clone();
            cursor.next(&after[part.clone()]).unwrap();
            let entry = cursor.next(&after[part.clone()]).unwrap();
            let recorded = Recorded { ino: 0xdead_beef, ..entry.recorded };
            entry.record(&mut after[part.clone()], recorded);
            layout.seal(&mut after);

            let changed: Vec<usize> =
                (0..before.len()).filter(|at| before[*at] != after[*at]).collect();
            let ino = part.start + entry.at + 20;
            let end = before.len() - id_bytes;
            let outside =
                changed.iter().filter(|at| !(ino..ino + 4).contains(*at) && **at < end).count();
            let what = format!("version {version}, {id_bytes} bytes, summed: {summed}");
            assert_eq!(outside, 0, "{what}");
            assert_eq!(changed.iter().any(|at| *at >= end), summed, "{what}");
            assert_eq!(paths(&after), paths(&before), "{what}");
        }
    }
}

proptest! {
    /// The checksum is made right again. Otherwise the bytes would hardly ever reach the parser.
    #[test]
    fn no_bytes_make_it_panic_or_read_outside(
        version in 2_u32..=4,
        id_bytes in prop_oneof![Just(20_usize), Just(32)],
        summed: bool,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = Written { summed, ..Written::plain(version, id_bytes) }.bytes();
        bytes.truncate(bytes.len() - id_bytes);
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        match (summed, id_bytes) {
            (false, length) => bytes.resize(bytes.len() + length, 0),
            (true, 20) => bytes.extend(sha1_smol::Sha1::from(&bytes).digest().bytes()),
            (true, _) => bytes.extend(sha256(&bytes)),
        }
        if let Some(layout) = IndexLayout::of(&bytes) {
            let mut at = 12;
            for chunk in &layout.chunks {
                prop_assert_eq!(chunk.bytes.start, at);
                at = chunk.bytes.end;
            }
            prop_assert!(at + id_bytes <= bytes.len());
            prop_assert!(paths(&bytes).is_some());
            let before = bytes.clone();
            layout.seal(&mut bytes);
            prop_assert_eq!(before, bytes);
        }
    }

    #[test]
    fn arbitrary_bytes_do_not_either(mut bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        _ = IndexLayout::of(&bytes);
        bytes.splice(0..0, *b"DIRC\0\0\0\x04\0\0\0\x03");
        bytes.extend([0; 32]);
        _ = IndexLayout::of(&bytes);
    }
}

/// A file in the source, in the clone, and as the index records it. Each row changes one of them.
struct Case {
    recorded: Recorded,
    source: Meta,
    clone: Meta,
    moments: Moments,
}

const FILE: u32 = 0o100_644;

impl Case {
    fn clean() -> Self {
        let modified: Time = (1_000, 500);
        let changed: Time = (2_000, 700);
        let meta = |ino: u64, changed: Time| {
            let mut meta = Meta::wanted(FILE, (7, 8), modified);
            (meta.dev, meta.ino, meta.size, meta.changed) = (3, ino, 5, changed);
            meta
        };
        Self {
            recorded: Recorded {
                changed: (2_000, 700),
                modified: (1_000, 500),
                dev: 99,
                ino: 11,
                mode: FILE,
                uid: 7,
                gid: 8,
                size: 5,
            },
            source: meta(11, changed),
            clone: meta(22, (4_000, 900)),
            moments: Moments {
                index_written: (3_000, 0),
                before_walk: (4_000, 0),
                cloned_since: (4_000, 0),
            },
        }
    }

    fn set_modified(meta: &mut Meta, modified: Time) {
        let mut new = Meta::wanted(meta.mode, (meta.uid, meta.gid), modified);
        (new.dev, new.ino, new.size, new.changed) = (meta.dev, meta.ino, meta.size, meta.changed);
        *meta = new;
    }

    /// Sets the source's times and the recorded ones, and the clone's modification time, to the
    /// same values.
    fn set_times(&mut self, changed: Time, modified: Time, nanoseconds: bool) {
        self.source.changed = changed;
        Self::set_modified(&mut self.source, modified);
        Self::set_modified(&mut self.clone, modified);
        let cut = |(seconds, nanos): Time| {
            let nanos = if nanoseconds { nanos } else { 0 };
            let seconds = u32::try_from(seconds.rem_euclid(1 << 32)).unwrap();
            (seconds, u32::try_from(nanos).unwrap())
        };
        (self.recorded.changed, self.recorded.modified) = (cut(changed), cut(modified));
    }
}

type Change = fn(&mut Case);

#[test]
#[expect(clippy::too_many_lines, reason = "a table: one row for each case")]
fn an_entry_is_rewritten_only_if_its_file_was_clean_and_rested_and_its_clone_is_its_twin() {
    let rows: &[(&str, bool, Change)] = &[
        ("clean", true, |_| {}),
        // Whether the entry was clean in the source.
        ("another size recorded", false, |case| case.recorded.size = 6),
        ("smudged by git", false, |case| case.recorded.size = 0),
        ("another inode", false, |case| case.recorded.ino = 12),
        ("another owner", false, |case| case.recorded.uid = 0),
        ("another group", false, |case| case.recorded.gid = 0),
        ("another device", true, |case| case.recorded.dev = 0),
        ("changed a second later", false, |case| case.source.changed.0 += 1),
        ("changed a nanosecond later", false, |case| case.source.changed.1 += 1),
        ("changed, and the clock went back", false, |case| case.source.changed.0 -= 100),
        ("another modification time", false, |case| case.recorded.modified.1 += 1),
        ("an inode of 64 bits", true, |case| case.source.ino += 5 << 32),
        ("a size of 64 bits", true, |case| {
            case.source.size += 1 << 32;
            case.clone.size += 1 << 32;
        }),
        ("a time before 1970", true, |case| case.set_times((2_000, 1), (-5, 1), true)),
        ("a time after 2106", false, |case| case.set_times((2_000, 1), (1 << 32, 1), true)),
        // The kind of the file.
        ("may be run, and is not recorded so", false, |case| {
            case.source.mode = 0o100_755;
            case.clone.mode = 0o100_755;
        }),
        ("may be run", true, |case| {
            case.source.mode = 0o100_755;
            case.clone.mode = 0o100_755;
            case.recorded.mode = 0o100_755;
        }),
        ("a link", true, |case| {
            case.source.mode = 0o120_777;
            case.clone.mode = 0o120_777;
            case.recorded.mode = 0o120_000;
        }),
        ("a link that was a file", false, |case| {
            case.source.mode = 0o120_777;
            case.clone.mode = 0o120_777;
        }),
        ("a file that was a link", false, |case| case.recorded.mode = 0o120_000),
        ("a submodule", false, |case| {
            case.source.mode = 0o040_755;
            case.clone.mode = 0o040_755;
            case.recorded.mode = 0o160_000;
        }),
        ("a directory of a sparse index", false, |case| {
            case.source.mode = 0o040_755;
            case.clone.mode = 0o040_755;
            case.recorded.mode = 0o040_000;
        }),
        // Whether the entry was racy.
        ("modified when the index was written", false, |case| {
            case.moments.index_written = (1_000, 500);
        }),
        ("changed when the index was written", false, |case| {
            case.moments.index_written = (2_000, 700);
        }),
        ("changed just before the index was written", true, |case| {
            case.moments.index_written = (2_000, 701);
        }),
        ("in seconds", true, |case| case.set_times((2_000, 7), (1_000, 7), false)),
        ("in seconds, and another second", false, |case| {
            case.set_times((2_000, 7), (1_000, 7), false);
            case.source.changed.0 += 1;
        }),
        ("in seconds, in that of the index", false, |case| {
            case.set_times((2_999, 7), (1_000, 7), false);
            case.moments.index_written = (2_999, 900);
        }),
        ("in seconds, in the one before", true, |case| {
            case.set_times((2_999, 7), (1_000, 7), false);
            case.moments.index_written = (3_000, 0);
        }),
        ("modified in the future", false, |case| {
            case.set_times((2_000, 7), (9_000, 7), true);
            case.moments.index_written = (9_001, 0);
        }),
        // Whether the file rested before the walk.
        ("changed while it was cloned, and added", false, |case| {
            case.set_times((4_000, 1), (1_000, 1), true);
            case.moments.index_written = (4_000, 2);
        }),
        // The clone.
        ("the clone was there before", false, |case| case.clone.changed = (3_999, 999)),
        ("the clone may have been there before a merge", false, |case| {
            case.clone.changed = (4_000, 0);
            case.moments.cloned_since = (4_000, 1);
        }),
        ("the clock went back during the walk", false, |case| case.clone.changed = (3_000, 0)),
        ("the clone is shorter", false, |case| case.clone.size = 4),
        ("the clone was modified", false, |case| Case::set_modified(&mut case.clone, (1_000, 501))),
        ("the clone has another mode", false, |case| case.clone.mode = 0o100_640),
        ("the clone is something else", false, |case| case.clone.mode = 0o120_644),
        ("the clone has another owner", true, |case| case.clone.uid = 1000),
    ];
    for (what, expected, change) in rows {
        let mut case = Case::clean();
        change(&mut case);
        let found = rewritten(
            case.recorded,
            &case.source,
            (&case.clone, case.source.modified()),
            case.moments,
        );
        assert_eq!(found.is_some(), *expected, "{what}: {found:?}");
        if let Some(found) = found {
            assert_eq!((found.ino, found.dev, found.changed), (22, 3, (4_000, 900)), "{what}");
            assert_eq!((found.uid, found.gid), (case.clone.uid, 8), "{what}");
            let same = (case.recorded.mode, case.recorded.size);
            assert_eq!((found.mode, found.size), same, "{what}");
        }
    }
}

#[test]
fn a_repository_names_its_working_tree_as_git_reads_it() {
    let rest = "[core]\n\tbare = false\n\tworktree = ../../sub\n[remote \"origin\"]\n\turl = /x\n";
    let value = |text: &[u8]| {
        let (at, quoted) = working_tree_line(text)?;
        Some(if quoted { unquoted(&text[at]) } else { text[at].to_vec() })
    };
    for (text, expected) in [
        (rest, Some("../../sub")),
        ("[core]\n  WorkTree=  \"../a b\"  \n", Some("../a b")),
        ("[core]\nworktree = \"a \\\"q\\\" \\\\ b\"", Some("a \"q\" \\ b")),
        ("[core]\nworktree = \"", Some("\"")),
        ("[a]\n[Core] worktree = ../c\n[b]\nworktree = d", Some("../c")),
        ("[core]\nworktrees = a\n", None),
        ("[core]\n[alias]\n\tworktree = !x\n", None),
        ("[core \"x]\"]\nworktree = a\n", None),
        ("worktree = a\n", None),
        ("[core]\nworktree\n", None),
        ("", None),
    ] {
        assert_eq!(value(text.as_bytes()).as_deref(), expected.map(str::as_bytes), "{text}");
        for new in ["../x", "../with space", "a\"b\\c;d#e", "a\nb", ""] {
            let made = with_working_tree(text.as_bytes(), new.as_bytes());
            assert_eq!(made.is_some(), expected.is_some(), "{text}");
            if let Some(made) = made {
                assert_eq!(value(&made).as_deref(), Some(new.as_bytes()), "{text}");
                let lines = |text: &[u8]| text.iter().filter(|byte| **byte == b'\n').count();
                assert_eq!(lines(&made), lines(text.as_bytes()), "{text}");
            }
        }
    }
}

/// Otherwise calve could take back what a `git add` stages at the same time.
#[test]
fn an_index_is_replaced_only_while_nobody_else_may_write_it() {
    for (row, before, expected) in [
        ("free", None, "new"),
        ("git writes it", Some("index.lock"), "old"),
        ("git wrote it meanwhile", Some("index"), "of git"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("index"), "old").unwrap();
        let git = std::os::fd::OwnedFd::from(std::fs::File::open(folder.path()).unwrap());
        let (old, meta) = open_regular(&git, c"index").unwrap();
        if let Some(name) = before {
            std::fs::write(path("other"), "of git").unwrap();
            std::fs::rename(path("other"), path(name)).unwrap();
        }
        let replaced = replace(None, &git, &old, &meta, b"new");
        assert_eq!(replaced.is_ok(), before.is_none(), "{row}: {replaced:?}");
        assert_eq!(std::fs::read_to_string(path("index")).unwrap(), expected, "{row}");
        let names = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(names, 1 + usize::from(before == Some("index.lock")), "{row}");
    }
}
