//! The format of a store, byte for byte where the format is calve's own. This module exists in the
//! documentation only.
//!
//! # The folder
//! ```text
//! calve/               in the folder that all working trees of a git repository share; `.calve` in a
//!                      project without one; or the path that `--store` gave; on the filesystem of
//!                      its worktrees
//!   format             version and features (below)
//!   index.db           SQLite 3: everything that is small and must change all at once;
//!                      index.db-wal and index.db-shm beside it
//!   blobs/ab/cdef…     mirrors: one file for each content, its raw bytes, named by their BLAKE3
//!   packs/NAME.pack    contents that were cold, compressed; NAME is random
//!   indexes/TOKEN      one for each worktree: what its files looked like when their content was
//!                      last known
//!   found/ID           which files of snapshot ID name the project's root, or are secrets (below)
//!   trees/TOKEN/       one for each worktree: what the store keeps of its tree (below)
//!   keep-paths/TOKEN   empty; for each worktree whose files go on naming the project's root
//!   templates/ID/      btrfs: a subvolume with the tree of snapshot ID; ID.index, its index;
//!                      ID.seal and ID.git-index, see below
//!   worktrees/NAME/    worktrees that cannot be beside the project; if the store is in a repository,
//!                      they are in `.calve/worktrees` of the project instead
//!   unnamed/TOKEN      worktrees whose contents have no names yet; TOKEN is the first one's (below)
//!   remotes/ID/        of the remote with this id: names/NAME has the number and the snapshot that a
//!                      name had when this store last saw it, and the configured key that vouched
//!                      for it, if there was one: a line for each key; sent/PACK is there while a pack may
//!                      be on the remote that no record names: its length (u64), the ids in it
//!   remotes/known/     the remotes that the store knows by names: URL, id, keys; text
//!   reserve            room for an operation that frees space on a full disk: up to 1 MiB of bytes
//!                      without meaning; and reserve.1 to reserve.7, empty, for a filesystem on
//!                      which no further file can be made (not on btrfs, which has no such limit)
//!   stage/             files and packs that are being made; they belong to nobody once the process
//!                      that makes them is dead
//!   trash/             files and trees that wait to be deleted
//!   dropped/           trees of dropped worktrees that can be brought back, each named after its
//!                      worktree's token, and git's registrations of them (`TOKEN.git`)
//!   locks/             empty files for flock(2): gate, content, templates, database, format, and
//!                      one for each worktree, named after its token
//!   .gitignore         *
//! ```
//! A project with its store inside can be moved or copied as one: nothing in it says where it is.
//! Inside is `.calve`, or `calve` in the root's folder `.git`. A store in a repository that is
//! elsewhere (of a linked worktree, a submodule, a separate folder of git) has the path of the
//! project in its row.
//!
//! # `format`
//! ```text
//! calve store 1
//! incompatible NAME      a calve that does not know NAME must not open the store
//! compatible NAME        a calve that does not know NAME may open the store
//! ```
//! The file is text. The first line comes first, the others in any order and number. Anything else
//! is refused. A new store on a local disk has no features. This version knows one:
//!
//! | feature | means |
//! |---|---|
//! | `incompatible memory-not-shared` | The store was made through a filesystem whose memory is not shared; its database has no log. |
//!
//! A `.git` in the root of a tree is not content, and no command touches it. A snapshot that has one
//! is refused.
//!
//! # Numbers, ids and names
//! An *id* has 32 bytes; as text it is 64 lower-case hexadecimal digits. The id of a content is the
//! plain BLAKE3 of its bytes, as `b3sum` prints it. The ids of directories and snapshots are BLAKE3
//! in key-derivation mode over their encoding, with the contexts `calve directory 1` and `calve
//! snapshot 1`, so that no file's content can be taken for one of them.
//!
//! `varint` is LEB128 of an unsigned 64-bit number in its shortest form; `zigzag` is the varint of
//! `(n << 1) ^ (n >> 63)`. All other numbers are little endian. Names, link targets and attributes
//! are bytes, not text.
//!
//! # Mirrors and their seals
//! A mirror is a regular file with the mode 0444. Its path is `blobs/`, two digits of its id, `/`,
//! and the other 62 digits. Empty contents have no mirror. A mirror is *sealed*, and served without
//! being read, if its size is what the snapshot says and its modification time is
//!
//! ```text
//! seconds     = 0x20000000 + (the id's bytes 0..4 as u32 & 0x1fffffff)      1987 to 2004
//! nanoseconds = (the id's bytes 4..8 as u32) mod 1,000,000,000
//! ```
//! A mirror gets this time when its content was verified and, if the content was copied and not
//! cloned, flushed. Any other file at that path is read before it is served, or replaced.
//!
//! # Directories and snapshots
//! ```text
//! directory  = varint(number of entries) entry*    entries by name, strictly ascending, bytewise
//! entry      = kind:1 varint(length of name) name meta body
//! kind       = 1 file | 2 directory | 3 symbolic link | 4 FIFO, + 0x10 where there are attributes,
//!              + 0x20 where a symbolic link or a FIFO has a link group
//! meta       = varint(mode & 07777) varint(uid) varint(gid) zigzag(mtime's seconds)
//!              varint(its nanoseconds) [attributes]
//! attributes = varint(number) (varint(length) name varint(length) value)*
//!                                                  by name, strictly ascending
//! body       = file: varint(size) varint(link group, 0: none) id:32
//!            | directory: id:32
//!            | symbolic link: [varint(link group)] varint(length) target
//!            | FIFO: [varint(link group)]
//! snapshot   = entry (the root, a directory with an empty name) parent:1 [id:32]
//!              zigzag(created, seconds) varint(nanoseconds) varint(length) message
//!              varint(entries) varint(files) varint(bytes)
//! ```
//! One value has one encoding, and bytes that are not the encoding of a value are refused. Among
//! these are names that are empty, `.`, `..`, longer than 1,024 bytes, or contain a slash or a zero
//! byte. A *link group* is a number that all names of one entry share: the first eight bytes of the
//! BLAKE3 of the path of the first name, or 1 if these bytes are 0. `parent` is 1 and followed by
//! an id, or 0. The parent may not exist any more.
//!
//! # `index.db`
//! `user_version` is 1: the version of the tables. A calve that knows a later version migrates the
//! tables to that version when it opens the store, in one transaction. A calve that knows only
//! earlier versions refuses the store. The database uses WAL mode and `synchronous=FULL`. calve
//! trusts nothing in it: every reader of an object compares the object's hash with its key.
//!
//! | table | columns | what |
//! |---|---|---|
//! | `snapshots` | `seq`, `id`, `object`, `worktree`, `branch` | snapshots, numbered as they were made |
//! | `directories` | `id`, `encoding` | directories, each once |
//! | `names` | `name`, `snapshot` | the names of snapshots |
//! | `worktrees` | `name`, `token`, `path`, `snapshot`, `state`, `target`, `maker`, `created`, `git`, `slot` | worktrees; the project's name is `.` |
//! | `dropped` | `token`, `name`, `path`, `snapshot`, `created`, `git`, `beside`, `dropped`, `slot` | dropped worktrees that can be brought back |
//! | `packs` | `id`, `name` | files in `packs/` |
//! | `packed` | `blob`, `pack`, `offset`, `stored`, `size` | the pack of a content, and its place there |
//!
//! `directories` has its rows in the order in which they were written, and an index of the ids.
//!
//! A worktree's `path` is absolute, in bytes; the project's is empty if the store is inside it.
//! `state` is 0 while the worktree is being started, 1 when it is ready, and 2 while it is switched
//! from `snapshot` to `target`. `maker` is the name of the stage of the process that starts the
//! worktree: `.calve-stage-WORLD-PID-START-RANDOM`. The upper half of `WORLD`, 16 hexadecimal digits,
//! stands for the boot, the lower half for the PID namespace. So calve recognizes a maker that died.
//!
//! `worktree` and `branch` of a snapshot say which worktree it was taken of, and on which branch of
//! git that was. Both may be null.
//!
//! A row of `dropped` repeats the worktree's row as it was. `dropped` is the time of the drop, in
//! nanoseconds since 1970. If `beside` is not 0, the tree could not be renamed into the store, and is
//! beside its old path as `.calve-dropped-TOKEN`.
//!
//! `git` is null, or for a linked worktree of git the text `linked COMMIT BRANCH`: the commit that
//! it was started at, and its branch, or nothing after the second space. The first word is `adopted`
//! if calve did not make the worktree, and the commit is where it was found. A second line
//! `head CONTENT` has the content of its `HEAD` when calve last saw it; after a branch, a space and
//! the commit that it was at, if that is known. A row of `packed` may be missing although a pack has the content, but never the
//! other way round.
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
//! A pack never changes. If its trailer is lost, the entries contain everything that the trailer
//! said.
//!
//! # Indexes
//! ```text
//! magic "CALVEIDX" | version u32 = 1 | snapshot id:32 | boot:16
//!   | stamp: i64 seconds, u32 nanoseconds | count u32 | zstd(records) | BLAKE3 of all before it:32
//! record = zigzag(inode - last inode) zigzag(seconds - last seconds) varint(nanoseconds)
//!                                                                        of the change time
//! ```
//! There is one record for each entry of the snapshot: first the root, then the directories breadth
//! first, with the entries of each sorted by name. A file that changed at the stamp or later is not
//! trusted. A file that could change without a trace has the latest possible time (2⁶³ − 1
//! seconds).
//!
//! `boot` is the start of the BLAKE3 of the kernel's name for its boot (`boot_id`), or zeros. In
//! another boot, a regular file is trusted only if the filesystem keeps times and content together
//! in a crash. An index that cannot be read, or that belongs to another snapshot, counts as no
//! index: calve reads the files that it would have vouched for.
//!
//! # Ready trees
//! `templates/ID` is a subvolume with the tree of snapshot ID. `templates/ID.index` is the index of
//! every tree that is a snapshot of this subvolume: inode numbers and times are the same.
//!
//! `templates/ID.seal` is one line of text: the number of the transaction in which the subvolume
//! was last changed (btrfs' `ctransid`, decimal), a space, the kernel's `boot_id` at that time, and a
//! newline. calve writes the seal last, when the tree is complete and flushed.
//!
//! A ready tree serves only while the kernel still reports this number and this `boot_id`. Another
//! number means that a process wrote to the tree. In another boot the number proves nothing,
//! because btrfs replays its log after a crash without counting. A ready tree is no content: it can
//! always be removed.
//!
//! `templates/ID.git-index` is git's index for linked worktrees of the ready tree. It begins with
//! the 16 bytes `calve git index` and a newline, and these fields: the BLAKE3 hash of the tree's
//! seal; the size (8 bytes, little-endian) and the last 20 bytes of the project's index that it was
//! made of; the BLAKE3 hash of the index itself; the number of its entries that record the tree's
//! files (8 bytes, little-endian). The index follows at byte 4096, so that its blocks can be
//! shared. It serves only while all of this is so, and can always be removed. An index of git ends
//! with its checksum; calve keeps none of an index without one.
//!
//! `templates/ID.N` is a folder with a ready tree that waits to be handed over, on other
//! filesystems than btrfs; N is a number. It has the tree (`tree-` and 32 hexadecimal digits), the
//! tree's index (`index`), which has the tree's own root, too, and the file `about`. `git-index`
//! may be there; it has the form of `ID.git-index`, with zeros in the place of the seal's hash. The
//! process that renames the folder has the tree. The file `ready-trees` in the store says how many
//! trees the store keeps; it is a decimal number and a newline.
//! ```text
//! about  = "calve waits 1\n" 0:2 snapshot id:32 boot:16 varint(length) name of the tree
//!          varint(1 if the files are copies) varint(files) varint(bytes) varint(further names)
//!          varint(folders) varint(symbolic links) varint(FIFOs)
//!          varint(count) (varint(length) path, record of the index){count} BLAKE3 of all before:32
//! ```
//! The list has the folders of the tree, the root first. It is empty if listing a folder leaves no
//! trace there. Otherwise the access time of each of these folders is its modification time, and
//! that of `ID.N` is 0, unless somebody has listed the folder.
//!
//! # The marker of a worktree
//! The marker is where git keeps what belongs to the tree alone, as `calve-worktree`: in the
//! registration of a linked worktree (`worktrees/ID` in the repository), or in the `.git` of a
//! worktree with a copy of the repository. A worktree that git does not know contains
//! `.calve/worktree`. It is text:
//!
//! ```text
//! calve worktree 1
//! token TOKEN            hexadecimal digits, the same as in its row
//! store PATH             the store's absolute path: bytes up to the last line's end
//! ```
//! The worktree belongs to the store that has its token in a row *and* is at PATH. If nothing is at
//! PATH any more, the store was moved, and having the token is enough. So if a project is copied
//! with its store, the worktrees remain those of the first project.
//!
//! # `trees`
//! ```text
//! root         "INODE MADE of INODE MADE" newline: the worktree's root, and the store's folder; MADE
//!              is when the inode was made, in nanoseconds since 1970, 0 if that is not known
//! made-by      "UID GID" newline: the owner and group of the files that the worktree's maker made
//! paths        see `found`
//! undo/        record, and files/: what a forced switch moved aside, if it can be renamed to here;
//!              else `.calve/undo` in the tree
//! ```
//! A folder that is the one in `root`, at the path of the worktree's row, is the worktree also
//! without its marker, unless it has another worktree's. `made-by` is there if root did not make the
//! worktree. If the worktree's filesystem keeps no modes, it has the line `no-modes`, after that line
//! or alone. A project that a checkout made has this file, too.
//!
//! # The marker of a project
//! A project whose store is elsewhere has `calve/project` in the folder in which git keeps what
//! belongs to that tree alone, or `.calve/project`. So has a linked worktree that is the project of
//! the store in its repository. It differs from a worktree's
//! marker in its first line, which is `calve project 1`. TOKEN is that of the project's row. If the
//! row has the path of another folder, and no marker with this token is there, the project was
//! moved.
//!
//! # Worktrees whose contents have no names yet
//! ```text
//! record    = "CALVEUNN" part* BLAKE3 of all before it:32
//! part      = varint(length) bytes
//! parts     = snapshot, directory*, index of the project, seal, (tokens, index)*
//! tokens    = token (" " token)*; these worktrees have the same index
//! ```
//! The snapshot has no message; its parent is the project's snapshot at the start. The directories
//! are those of the whole tree, breadth first. In them, the ids of directories mean nothing. A file
//! that was as in the parent has its id and attributes; the others have an id of zeros and none.
//! The indexes are as in `indexes/`, of a snapshot with an id of zeros. The project's says what
//! stood for each entry before the trees were cloned. On btrfs all worktrees are snapshots of the
//! subvolume `templates/TOKEN.unnamed`, and the seal is its seal; elsewhere the seal is empty. As
//! long as the record is there, the rows of its worktrees have no snapshot.
//!
//! # Locks
//! A process that reads or adds content holds `locks/content` shared, after passing `locks/gate`,
//! which it takes shared and releases at once. A process that removes content holds `locks/content`
//! exclusively. If btrfs has little room, a process that opens the database holds `locks/database`.
//! A process that names contents holds `locks/naming`; one that waits for that holds
//! `locks/naming-wanted` shared.
//! A process that adds a feature to `format` holds `locks/format`. All locks are flock(2), so they
//! end with their process.
//!
//! # `found`, and a worktree's `paths`
//! ```text
//! found/ID     "calve found 1" 0 (root 0)+ 0 mention* secret* BLAKE3 of all before it:32
//! mention      kind: a letter, kept: a digit, path, 0
//! secret       kind: a letter, "1", path, 0
//! paths        "calve paths 1" (0 a root that snapshots name 0 the root that the files name)+
//! ```
//! The first root is the path without links. Files may name it by others that lead to it. Each has
//! a path to the worktree of its own.
//!
//! The kinds are `a` to `q`, in the order of [`PathKind`](crate::PathKind). The digit is 0 if each
//! worktree gets the file with its own root; otherwise it says why not: 1 the format is not known,
//! 2 git tracks the file, 3 the file is in another repository. A secret is a file
//! that looks like one and that git did not track; its kinds are `A` to `D`, in the order of
//! [`SecretKind`](crate::SecretKind). A lost file in `found` is made again. A worktree without
//! `paths` has all files as its snapshot does.
