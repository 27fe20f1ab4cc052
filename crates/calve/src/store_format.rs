//! The format of a store, byte for byte where it is calve's own. This module exists in the documentation only.
//!
//! # The folder
//! ```text
//! .calve/              or wherever `--store` put it; on the filesystem of its worktrees
//!   format             version and features (below)
//!   index.db           SQLite 3: what is small and must change all at once; index.db-wal and index.db-shm beside it
//!   blobs/ab/cdef…     mirrors: one file for each content, its raw bytes, named by their BLAKE3
//!   packs/NAME.pack    contents that were cold, compressed; NAME is random
//!   indexes/TOKEN      one for each worktree: what its files looked like when their content was last known
//!   templates/ID/      btrfs: a subvolume with the tree of snapshot ID; ID.index, its index; ID.seal, see below
//!   worktrees/NAME/    worktrees, where they may not be beside the project
//!   undo/              what a forced switch of the project moved aside
//!   reserve            room for what frees space on a full disk: up to 1 MiB that mean nothing; and reserve.1 to reserve.7,
//!                      empty, for where no further file can be made (not on btrfs, which has no such limit)
//!   stage/             files and packs on their way; whatever is here is nobody's once its maker is dead
//!   trash/             what waits to be deleted
//!   locks/             empty files for flock(2): gate, content, templates, database, format, and one for each worktree, called by its token
//!   .gitignore         *
//! ```
//! A project with its store inside can be moved or copied as one: nothing in it says where it is.
//!
//! # `format`
//! ```text
//! calve store 1
//! incompatible NAME      whoever does not know NAME must not open the store
//! compatible NAME        whoever does not know NAME may
//! ```
//! Text; the first line first, the others in any order and number. Anything else is refused. A new store has no features. This version
//! knows one, which a store gets with the first snapshot that needs it, and keeps:
//!
//! | feature                       | means                                                                     |
//! |-------------------------------|---------------------------------------------------------------------------|
//! | `incompatible linked-special` | symbolic links and FIFOs may have link groups: the bit 0x20 of their kind |
//! | `incompatible without-git`    | some snapshots do not have the `.git` that was in the root of the tree: it is not content, and no command touches it |
//!
//! Snapshots without such a `.git` came with that feature. Older ones may have it. calve leaves it out wherever it uses their trees; the
//! indexes of such trees have a place for each entry all the same.
//!
//! # Numbers, ids and names
//! An *id* is 32 bytes, 64 lower-case hexadecimal digits where it is text. A content's is the plain BLAKE3 of its bytes, as `b3sum`
//! prints it. A directory's and a snapshot's are BLAKE3 in key-derivation mode over their encoding, with the contexts
//! `calve directory 1` and `calve snapshot 1`, so that no file's content can be taken for one of them.
//!
//! `varint` is LEB128 of an unsigned 64-bit number in its shortest form; `zigzag` is the varint of `(n << 1) ^ (n >> 63)`. All other
//! numbers are little endian. Names, link targets and attributes are bytes, not text.
//!
//! # Mirrors and their seals
//! A mirror is a regular file with the mode 0444, at `blobs/`, two digits of its id, `/`, the other 62. Empty contents have none. It is
//! *sealed*, and served without being read, if its size is what the snapshot says and its modification time is
//!
//! ```text
//! seconds     = 0x20000000 + (the id's bytes 0..4 as u32 & 0x1fffffff)      1987 to 2004
//! nanoseconds = (the id's bytes 4..8 as u32) mod 1,000,000,000
//! ```
//! which is given to it when its content was verified and, if it was copied and not cloned, flushed. Anything else at that place is read
//! before it is served, or replaced.
//!
//! # Directories and snapshots
//! ```text
//! directory  = varint(number of entries) entry*                 entries by name, strictly ascending, bytewise
//! entry      = kind:1 varint(length of name) name meta body
//! kind       = 1 file | 2 directory | 3 symbolic link | 4 FIFO, + 0x10 where there are attributes,
//!              + 0x20 where a symbolic link or a FIFO has a link group
//! meta       = varint(mode & 07777) varint(uid) varint(gid) zigzag(mtime's seconds) varint(its nanoseconds) [attributes]
//! attributes = varint(number) (varint(length) name varint(length) value)*      by name, strictly ascending
//! body       = file: varint(size) varint(link group, 0: none) id:32
//!            | directory: id:32
//!            | symbolic link: [varint(link group)] varint(length) target
//!            | FIFO: [varint(link group)]
//! snapshot   = entry (the root, a directory with an empty name) parent:1 [id:32] zigzag(created, seconds)
//!              varint(nanoseconds) varint(length) message varint(entries) varint(files) varint(bytes)
//! ```
//! One value has one encoding, and whatever is not the encoding of something is refused: names that are empty, `.`, `..`, longer than 1,024
//! bytes, or have a slash or a zero byte in them, among it. A *link group* is a number that all names of one entry share: the first eight
//! bytes of the BLAKE3 of the path of the first of them, or 1 if that is 0. `parent` is 1 and followed by an id, or 0; the parent may be gone.
//!
//! # `index.db`
//! `user_version` is 2: the version of the tables. A calve that knows a later version brings the tables to it when it opens the store, in one
//! transaction; one that knows only earlier versions refuses the store. WAL mode, `synchronous=FULL`. Nothing in it is trusted: whoever
//! reads an object compares its hash with its key.
//!
//! | table         | columns                                                      | what                                              |
//! |---------------|--------------------------------------------------------------|---------------------------------------------------|
//! | `snapshots`   | `seq`, `id`, `object`                                        | snapshots, numbered as they were made             |
//! | `directories` | `id`, `encoding`                                             | directories, each once                            |
//! | `names`       | `name`, `snapshot`                                           | what snapshots are called                         |
//! | `worktrees`   | `name`, `token`, `path`, `snapshot`, `state`, `target`, `maker`, `created`, `git` | worktrees; the project's name is `.` |
//! | `packs`       | `id`, `name`                                                 | files in `packs/`                                 |
//! | `packed`      | `blob`, `pack`, `offset`, `stored`, `size`                   | where a content is in which pack                  |
//!
//! A worktree's `path` is absolute, in bytes; the project's is empty if the store is inside it. `state` is 0 while it is being started,
//! 1 when it stands, 2 while it is switched from `snapshot` to `target`. `maker` is the name of the stage of whoever starts it: boot,
//! process and its start time, so that one that died is known. `git` is null, or the text `linked COMMIT BRANCH` for a linked worktree of git: the
//! commit that it was started at, and its branch, or nothing behind the second space. Version 1 did not have this column. A row of `packed` may be missing although a pack has the content,
//! and never the other way round.
//!
//! # Packs
//! | part    | bytes | what                                                                  |
//! |---------|-------|-----------------------------------------------------------------------|
//! | header  | 8     | `CALVPACK`                                                            |
//! |         | 4     | version: 1                                                            |
//! | entry   | 32    | the content's id                                                      |
//! |         | 8     | size: of the content                                                  |
//! |         | 8     | stored: of the frame that follows                                     |
//! |         | …     | one zstd frame (RFC 8878), no dictionary, its window at most 8 MiB    |
//! | trailer | 8     | `CALVINDX`                                                            |
//! |         | 8     | count: of the entries                                                 |
//! |         | 56 ×  | id (32), offset of the entry (8), stored (8), size (8); ascending ids |
//! |         | 32    | BLAKE3 of the trailer so far, from `CALVINDX` on                      |
//! |         | 8     | length: of the trailer so far, from `CALVINDX` to the checksum's end  |
//! |         | 8     | `CALVDONE`                                                            |
//!
//! A pack is never changed. Where the trailer is lost the entries say all that it said.
//!
//! # Indexes
//! ```text
//! magic "CALVEIDX" | version u32 = 3 | snapshot id:32 | boot:16 | stamp: i64 seconds, u32 nanoseconds | count u32
//!   | zstd(records) | BLAKE3 of all before it:32
//! record = zigzag(inode - last inode) zigzag(seconds - last seconds) varint(nanoseconds)      of the change time
//! ```
//! One record for each entry of the snapshot: the root, then, directory by directory, breadth first, the entries of each by name. What changed at
//! the stamp or later is not trusted; a file that could change without a trace has the latest time there is (2⁶³ − 1 seconds). Version 2 did not know of
//! such files, and version 1 has no `boot`; both are read as of no known boot. `boot` is the start of the BLAKE3 of what the kernel calls its boot (`boot_id`), or zeros: in another one, a
//! regular file is trusted only where the filesystem keeps times and content together in a crash. An index that cannot be read, or is of another snapshot, is as good as none: what it would have
//! vouched for is read.
//!
//! # Templates
//! `templates/ID` is a subvolume with the tree of snapshot ID. `templates/ID.index` is the index of every tree that is a
//! snapshot of this subvolume: inode numbers and times are the same.
//!
//! `templates/ID.seal` is one line of text: the number of the transaction in which the subvolume was last changed (btrfs'
//! `ctransid`, decimal), a space, the kernel's `boot_id` at that time, ` without-git`, and a newline. (In a seal without that word, the tree
//! may have the project's `.git`; it counts as broken.) It is written last, when the tree is
//! complete and flushed. A template serves only while both are what the kernel says now. Another number means that
//! somebody wrote to the tree. In another boot the number proves nothing, because btrfs replays its log after a crash
//! without counting. A template is no content: it can always be removed.
//!
//! # The marker of a worktree
//! `.calve/worktree` inside it:
//!
//! ```text
//! calve worktree 1
//! token TOKEN            hexadecimal digits, the same as in its row
//! store PATH             the store's absolute path: bytes up to the last line's end
//! ```
//! `.calve/made-by` beside it, only where root did not make the worktree, is the owner and group of what its maker made: `UID GID`, and a newline.
//!
//! It is a worktree of the store that has its token in a row *and* is at PATH; or whose place that was, if nothing is there any more. So the worktrees of a
//! project that was copied, store and all, stay the first one's.
//!
//! # Locks
//! Who reads or adds content holds `locks/content` shared, after passing `locks/gate` (taken shared, and let go at once). Who removes
//! content holds `locks/content` exclusively. Where btrfs has little room, whoever opens the database holds `locks/database`. Who adds a feature to `format` holds `locks/format`. All are flock(2), so they end with their process.
