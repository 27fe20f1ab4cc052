//! Tests of plans as tables: the base, the tree as it is, the target, and the plan.

use super::*;
use crate::store::id::{BlobId, DirectoryId};
use crate::store::manifest::{Builder, os};
use crate::store::object::Kind;

/// Makes an entry from a letter. `a`, `b` and `c` are files with these contents; `A` and `B` are
/// the same files of another owner. `m` is `a` with another mode, and `t` is `a` with another time.
/// `d` is a folder, and `D` is a folder of another owner.
fn entry(name: &str, letter: char) -> Entry {
    let content = match letter {
        'm' | 't' => b'a',
        _ => letter.to_ascii_lowercase() as u8,
    };
    Entry {
        name: name.as_bytes().into(),
        mode: if letter == 'm' { 0o755 } else { 0o644 },
        uid: if letter.is_uppercase() { 12 } else { 0 },
        gid: 0,
        mtime: Time(i64::from(letter == 't'), 0),
        attributes: None,
        kind: match letter {
            'd' | 'D' => Kind::Directory(DirectoryId::from_bytes([0; 32])),
            _ => Kind::File { size: 1, link: 0, blob: BlobId::from_bytes([content; 32]) },
        },
    }
}

/// Makes a tree from a text: `d:d d/f:a` is a folder with a file in it.
fn tree(text: &str) -> Manifest {
    let all: BTreeMap<&Path, char> = text
        .split_whitespace()
        .filter_map(|part| part.split_once(':'))
        .map(|(path, letter)| (Path::new(path), letter.chars().next().unwrap()))
        .collect();
    let mut builder = Builder::new(entry("", 'd'));
    let mut folders = std::collections::VecDeque::from([PathBuf::new()]);
    while let Some(folder) = folders.pop_front() {
        let mut entries = Vec::new();
        for (path, letter) in all.iter().filter(|(path, _)| path.parent() == Some(&folder)) {
            entries.push(entry(path.file_name().unwrap().to_str().unwrap(), *letter));
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        let below = entries.iter().filter(|entry| entry.is_directory());
        folders.extend(below.map(|entry| folder.join(os(&entry.name))));
        assert!(builder.add(entries));
    }
    builder.finish()
}

/// Shows a plan: entries that are removed (`-`), folders that are made or given metadata (`/`),
/// entries that are put (`+`), entries that are mended (`~`), and conflicts (`!`).
fn shown(moves: &Moves) -> String {
    let parts = [
        ('-', moves.remove.iter().collect::<Vec<_>>()),
        ('/', moves.directories.keys().collect()),
        ('+', moves.put.keys().collect()),
        ('~', moves.mend.keys().collect()),
        ('!', moves.conflicts.iter().collect()),
    ];
    let parts = parts.iter().flat_map(|(sign, paths)| {
        paths.iter().map(move |path| format!("{sign}{}", path.display()))
    });
    parts.collect::<Vec<_>>().join(" ")
}

#[test]
fn a_plan_puts_what_differs_and_names_what_was_changed_by_hand_and_is_in_the_way() {
    use Changes::{MoveAside, Reset, Respect};
    // The base, the tree as it is, the target, the target of an interrupted switch, how changes by
    // hand are treated, and the plan.
    type Row =
        (&'static str, &'static str, &'static str, Option<&'static str>, Changes, &'static str);
    let rows: &[Row] = &[
        // Nothing was changed by hand.
        ("f:a", "f:a", "f:a", None, Respect, ""),
        ("f:a", "f:a", "f:b", None, Respect, "+f"),
        ("f:a", "f:a", "f:A", None, Respect, "+f"),
        ("f:a", "f:a", "f:t", None, Respect, "+f"),
        ("f:a", "f:a", "", None, Respect, "-f"),
        ("", "", "f:a", None, Respect, "+f"),
        ("d:d d/f:a", "d:d d/f:a", "d:d d/f:b", None, Respect, "/d +d/f"),
        ("d:d", "d:d", "d:D", None, Respect, "/d"),
        // Content was changed by hand.
        ("f:a", "f:b", "f:a", None, Respect, ""),
        ("f:a", "f:b", "f:c", None, Respect, "+f !f"),
        ("f:a", "f:b", "f:b", None, Respect, "+f"),
        ("f:a", "f:b", "f:b", None, MoveAside, "+f !f"),
        ("f:a", "f:b", "f:t", None, Respect, ""),
        ("f:a", "f:b", "", None, Respect, "-f !f"),
        ("f:a", "", "f:b", None, Respect, "+f !f"),
        ("f:a", "", "f:a", None, Reset, "+f !f"),
        ("f:a", "f:b", "f:a", None, Reset, "+f !f"),
        ("", "f:b", "", None, Respect, ""),
        ("", "f:b", "", None, Reset, "-f !f"),
        ("", "f:b", "f:a", None, Respect, "+f !f"),
        // A reset to another snapshot leaves nothing that the target does not have, and an undo of
        // it knows what was there.
        ("f:a", "f:b", "f:c", None, Reset, "+f !f"),
        ("f:a", "f:b", "f:b", None, Reset, "+f !f"),
        ("f:a", "f:a g:b", "f:c", None, Reset, "-g +f !g"),
        ("f:a g:a", "f:b g:a", "f:a g:b", None, Reset, "+f +g !f"),
        ("f:a g:a", "f:A g:a", "f:a g:b", None, Reset, "+g ~f"),
        // An owner or a mode was changed by hand.
        ("f:a", "f:A", "f:a", None, Respect, ""),
        ("f:a", "f:A", "f:b", None, Respect, "+f !f"),
        ("f:a", "f:A", "f:A", None, Respect, "+f"),
        ("f:a", "f:A", "f:m", None, MoveAside, "+f !f"),
        ("f:a", "f:A", "f:t", None, Respect, ""),
        ("f:a", "f:A", "", None, Respect, "-f !f"),
        ("f:a", "f:A", "f:a", None, Reset, "~f"),
        ("f:a", "f:m", "f:a", None, Reset, "~f"),
        ("f:a", "f:B", "f:a", None, Reset, "+f !f"),
        ("d:d", "d:D", "d:d", None, Respect, ""),
        ("d:d", "d:D", "", None, Respect, "-d !d"),
        ("d:d", "d:D", "d:d", None, Reset, "/d !d"),
        // A time is no change, and a reset restores it.
        ("f:a", "f:t", "f:b", None, Respect, "+f"),
        ("f:a", "f:t", "f:a", None, Respect, ""),
        ("f:a", "f:t", "f:a", None, Reset, "~f"),
        // Folders that go, and entries that were added to them.
        ("d:d d/f:a", "d:d d/f:a d/g:b", "", None, Respect, "-d -d/f"),
        ("d:d d/f:a", "d:d d/f:a d/g:b", "d:a", None, Respect, "-d -d/f -d/g +d !d/g"),
        ("d:a", "d:a", "d:d d/f:a", None, Respect, "-d /d +d/f"),
        ("d:d d/f:a", "d:b", "d:d d/f:b", None, Respect, "-d /d +d/f !d !d/f"),
        // An interrupted switch: the entries that it put or removed are its work, and all other
        // changes are by hand.
        ("f:a", "f:b", "f:b", Some("f:b"), Respect, "+f"),
        ("f:a", "f:b", "f:c", Some("f:b"), Respect, "+f"),
        ("f:a", "f:b", "f:a", Some("f:b"), Reset, "+f"),
        ("f:a", "", "f:b", Some("f:b"), Respect, "+f"),
        ("f:a", "f:c", "f:b", Some("f:b"), Respect, "+f !f"),
        ("f:a", "f:B", "f:b", Some("f:b"), Respect, "+f !f"),
        ("f:a", "f:A", "f:A", Some("f:A"), Respect, "+f"),
        ("f:a", "", "f:A", Some("f:A"), Respect, "+f"),
        ("f:a", "", "f:a", Some("f:a"), Reset, "+f !f"),
    ];
    for (base, now, target, interrupted, what, expected) in rows {
        let row = format!("{base:?}, {now:?}, {target:?}, {interrupted:?}");
        let (base, now, target) = (tree(base), tree(now), tree(target));
        let interrupted = interrupted.map(tree);
        let in_place = now.entries().filter(|it| !it.2.is_directory());
        let trees = Trees {
            base: &base,
            now: &now,
            target: &target,
            interrupted: interrupted.as_ref(),
            maker: Maker::privileged(),
            in_place: in_place.map(|(place, slot, _)| now.path_of(place, slot)).collect(),
            local: None,
            left_to_undo: None,
        };
        let trees = Trees {
            // The same files that `find_in_place` would find: those that have the target's content.
            in_place: trees
                .other_metadata()
                .into_iter()
                .filter(|path| trees.in_place.contains(path))
                .collect(),
            ..trees
        };
        assert_eq!(shown(&trees.plan(*what)), *expected, "{row}");
    }
}

#[test]
fn what_an_undo_sees_to_is_not_brought_unless_something_is_there() {
    // The base, the tree as it is, the target, the files and the folders that are left to the undo,
    // and the plan.
    let rows = [
        ("d:d", "d:d", "d:d d/f:a", &[][..], &[][..], "/d +d/f"),
        ("d:d", "d:d", "d:d d/f:a", &["d/f"][..], &["d"], ""),
        ("d:d", "d:b", "d:d d/f:a", &["d/f"], &["d"], ""),
        ("d:d", "d:d", "d:d d/f:a d/g:a", &["d/f"], &["d"], "/d +d/g"),
        // It was added since, or the switch put another.
        ("d:d", "d:d d/f:b", "d:d d/f:a", &["d/f"], &["d"], "/d +d/f !d/f"),
        ("d:d d/f:b", "d:d d/f:b", "d:d d/f:a", &["d/f"], &["d"], "/d +d/f"),
        // A folder was in the place of a file. It is there still, or was empty and went.
        ("", "f:d f/g:a", "f:a", &[], &["f"], ""),
        ("", "", "f:a", &["f/g"], &["f"], ""),
        // Another file is there now, or the snapshot has the folder, too.
        ("", "f:b", "f:a", &["f/g"], &["f"], "+f !f"),
        ("", "", "f:d f/g:a", &["f/g"], &["f"], "/f"),
    ];
    for (base, now, target, files, folders, expected) in rows {
        let row = format!("{base:?}, {now:?}, {target:?}, {files:?}");
        let (base, now, target) = (tree(base), tree(now), tree(target));
        let paths = |paths: &[&str]| paths.iter().map(PathBuf::from).collect();
        let left = LeftToUndo { files: paths(files), folders: paths(folders) };
        let trees = Trees {
            base: &base,
            now: &now,
            target: &target,
            interrupted: None,
            maker: Maker::privileged(),
            in_place: HashSet::new(),
            local: None,
            left_to_undo: Some(&left),
        };
        assert_eq!(shown(&trees.plan(Changes::Respect)), expected, "{row}");
    }
}

#[test]
fn what_gets_another_content_gets_a_new_time_if_the_tree_holds_what_no_snapshot_has() {
    use Changes::{Reset, Respect};
    const NEW: i64 = 9;
    // The base, the tree as it is, the target, whether ignore rules leave anything out, the time of
    // the switch that is taken back, how changes by hand are treated, and the times of the entries
    // that are put (`+`) or mended (`~`).
    type Undone = Option<(i64, u32)>;
    type Row = (&'static str, &'static str, &'static str, bool, Undone, Changes, &'static str);
    let rows: &[Row] = &[
        ("f:a", "f:a", "f:b", false, None, Respect, "+f:0"),
        ("f:a", "f:a", "f:b", true, None, Respect, "+f:9"),
        // The content of the file stays, and so does its time.
        ("f:a", "f:a", "f:A", true, None, Respect, "+f:0"),
        ("f:a", "f:t", "f:A", true, None, Respect, "+f:1"),
        ("f:a", "f:t", "f:A", false, None, Respect, "+f:0"),
        // A file that was added by hand and stays may be built from `f`. A file that was changed or
        // deleted is not.
        ("f:a", "f:a o:c", "f:b", false, None, Respect, "+f:9"),
        ("f:a", "f:a d:d d/o:c", "f:b", false, None, Respect, "+f:9"),
        ("f:a", "f:a d:d", "f:b", false, None, Respect, "+f:0"),
        ("f:a g:a", "f:a g:c", "f:b g:a", false, None, Respect, "+f:0"),
        ("f:a g:a", "f:a", "f:b g:a", false, None, Respect, "+f:0"),
        // The added file was built before or after the switch that is taken back.
        ("f:b", "f:b o:c", "f:a", false, Some((1, 0)), Respect, "+f:0"),
        ("f:b", "f:b o:t", "f:a", false, Some((1, 0)), Respect, "+f:9"),
        ("f:b", "f:b", "f:a", true, Some((1, 0)), Respect, "+f:9"),
        // The added file does not stay.
        ("f:a", "f:a o:c", "f:b", false, None, Reset, "+f:0"),
        ("f:a", "f:a o:c", "f:b o:b", false, None, Respect, "+f:0 +o:0"),
        ("f:a", "f:b o:c", "f:a", false, None, Reset, "+f:0"),
        ("f:a", "f:b", "f:a", true, None, Reset, "+f:9"),
        // A reset sets a time even if nothing else differs, unless a build may have seen it.
        ("f:a", "f:t", "f:a", false, None, Reset, "~f:0"),
        ("f:a", "f:t", "f:a", true, None, Reset, ""),
        ("f:a", "f:m", "f:a", true, None, Reset, "~f:0"),
    ];
    for (base, now, target, left_out, undone, what, expected) in rows {
        let row = format!("{base:?}, {now:?}, {target:?}, {left_out}, {undone:?}");
        let (base, now, target) = (tree(base), tree(now), tree(target));
        let mut trees = Trees {
            base: &base,
            now: &now,
            target: &target,
            interrupted: None,
            maker: Maker::privileged(),
            in_place: HashSet::new(),
            local: None,
            left_to_undo: None,
        };
        trees.in_place = trees.other_metadata().into_iter().collect();
        let mut moves = trees.plan(*what);
        trees.decide_times(&mut moves, *left_out, undone.map(Time::from), Time(NEW, 0));
        let given = |sign: char, of: &BTreeMap<PathBuf, At>| -> Vec<String> {
            let time = |path, at| trees.given(&moves, path, at).mtime.0;
            of.iter()
                .map(|(path, at)| format!("{sign}{}:{}", path.display(), time(path, *at)))
                .collect()
        };
        let found = [given('+', &moves.put), given('~', &moves.mend)].concat().join(" ");
        assert_eq!(found, *expected, "{row}");
    }
}
