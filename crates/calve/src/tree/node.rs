//! A directory of the walk, on the source's side and on every destination's.
//!
//! A node lives from the moment its directory is opened until everything below it has arrived; then its own mode and
//! times are set (not before: a read-only directory must fill, and filling changes the times). Its descriptors may live
//! shorter: when too many are open, those opened longest ago are closed ([`OpenDirs`]) and opened again when they are
//! needed, from below by `..` or from the nearest open directory above, name by name, never through a link, and only if
//! what is found is still the same inode.

use std::collections::VecDeque;
use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use rustix::fs::{self, Mode, OFlags};

use super::filter::IgnoreChain;
use super::names::Placed;
use crate::reflink::imp::DIR_FLAGS;
use crate::reflink::meta::{Attrs, Meta};

/// Locks, whether or not a thread panicked while it held the lock: the data is only ever replaced whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is known of a directory of a destination.
#[derive(Debug)]
pub(super) struct DestState {
    /// This operation made it, so its mode and times are the source's in the end.
    pub(super) made: bool,
    /// In a merge: nothing can be renamed into it from the stage, so files are staged in the directory itself. So it is on another
    /// device; on another mount of the same, or where it has another project's quota (XFS, ext4), that is found out by trying.
    pub(super) stage_here: AtomicBool,
    /// In a merge: two names may be one in it.
    pub(super) folds: bool,
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) parent: Option<Arc<Node>>,
    /// Empty for the root.
    name: CString,
    pub(super) meta: Meta,
    pub(super) attrs: Option<Box<Attrs>>,
    /// The ignore files that hold for its entries, once they are read.
    pub(super) chain: OnceLock<Arc<IgnoreChain>>,
    /// Only entered for the sake of what is included below.
    pub(super) inside_excluded: bool,
    pub(super) dests: Vec<DestState>,
    /// What was put where two names may be one.
    pub(super) placed: Placed,
    /// What must still happen below before the node is finished; the reading of it counts as one.
    pending: AtomicUsize,
    handles: Mutex<Option<Arc<Handles>>>,
    /// The destinations' inodes, noted when their descriptors were closed for the first time.
    dest_ids: OnceLock<Vec<(u64, u64)>>,
}

/// The open descriptors of a node.
#[derive(Debug)]
pub(super) struct Handles {
    pub(super) source: OwnedFd,
    pub(super) dests: Vec<OwnedFd>,
    open: Arc<AtomicUsize>,
}

impl Drop for Handles {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a node is made of, but its descriptors.
pub(super) struct NodeParts {
    pub(super) parent: Option<Arc<Node>>,
    pub(super) name: CString,
    pub(super) meta: Meta,
    pub(super) attrs: Option<Box<Attrs>>,
    pub(super) inside_excluded: bool,
    pub(super) dests: Vec<DestState>,
}

impl Node {
    pub(super) fn new(
        parts: NodeParts,
        source: OwnedFd,
        dests: Vec<OwnedFd>,
        dirs: &OpenDirs,
    ) -> Arc<Self> {
        let NodeParts { parent, name, meta, attrs, inside_excluded, dests: states } = parts;
        let node = Arc::new(Self {
            parent,
            name,
            meta,
            attrs,
            chain: OnceLock::new(),
            inside_excluded,
            dests: states,
            placed: Placed::default(),
            pending: AtomicUsize::new(1),
            handles: Mutex::new(None),
            dest_ids: OnceLock::new(),
        });
        dirs.adopt(&node, source, dests);
        node
    }

    /// The path from the source's root, which is empty for the root itself.
    pub(super) fn path(&self) -> PathBuf {
        let mut names = Vec::new();
        let mut node = Some(self);
        while let Some(this) = node {
            names.push(OsStr::from_bytes(this.name.to_bytes()));
            node = this.parent.as_deref();
        }
        names.iter().rev().filter(|name| !name.is_empty()).collect()
    }

    pub(super) fn path_of(&self, name: &CStr) -> PathBuf {
        let mut path = self.path();
        path.push(OsStr::from_bytes(name.to_bytes()));
        path
    }

    /// One more thing must happen below before the node is finished.
    pub(super) fn add_pending(&self) {
        self.pending.fetch_add(1, Ordering::Relaxed);
    }

    /// One of them happened; `true` for the last.
    pub(super) fn one_done(&self) -> bool {
        self.pending.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// The open descriptors; opened again if they were closed.
    pub(super) fn handles(self: &Arc<Self>, dirs: &OpenDirs) -> io::Result<Arc<Handles>> {
        if let Some(handles) = &*lock(&self.handles) {
            return Ok(Arc::clone(handles));
        }
        // Up to the nearest open directory, then down again.
        let mut closed = vec![Arc::clone(self)];
        let mut from = loop {
            let above = closed.last().and_then(|node| node.parent.clone()).ok_or_else(moved)?;
            if let Some(handles) = &*lock(&above.handles) {
                break Arc::clone(handles);
            }
            closed.push(above);
        };
        while let Some(node) = closed.pop() {
            from = node.reopen(&from, &node.name, dirs)?;
        }
        Ok(from)
    }

    /// Notes what the directories are, and those on the way to them, so that they can be opened again after they are
    /// finished with.
    pub(super) fn remember(&self, handles: &Handles) -> io::Result<()> {
        self.note_ids(handles)?;
        let mut above = self.parent.as_deref();
        // The root is never closed.
        while let Some(node) = above.filter(|node| node.parent.is_some()) {
            // Where they are closed they were noted.
            if node.dest_ids.get().is_none()
                && let Some(handles) = &*lock(&node.handles)
            {
                node.note_ids(handles)?;
            }
            above = node.parent.as_deref();
        }
        Ok(())
    }

    fn note_ids(&self, handles: &Handles) -> io::Result<()> {
        if self.dest_ids.get().is_none() {
            let ids: io::Result<Vec<_>> =
                handles.dests.iter().map(|dest| Ok(Meta::of(&fs::fstat(dest)?).id())).collect();
            let _ = self.dest_ids.set(ids?);
        }
        Ok(())
    }

    /// Finishes with the descriptors, and hands the parent, if it was closed meanwhile, its own from here: `..` is one
    /// step where the way from above may be long.
    pub(super) fn close_into_parent(&self, dirs: &OpenDirs) -> Option<Arc<Node>> {
        let handles = lock(&self.handles).take();
        let parent = self.parent.clone()?;
        if let Some(handles) = handles
            && lock(&parent.handles).is_none()
        {
            // If that is not the way back (a directory was moved), the way from above will tell.
            let _ = parent.reopen(&handles, c"..", dirs);
        }
        Some(parent)
    }

    /// Opens the node's directories as `name` relative to `from`'s, if they are still the same.
    fn reopen(
        self: &Arc<Self>,
        from: &Handles,
        name: &CStr,
        dirs: &OpenDirs,
    ) -> io::Result<Arc<Handles>> {
        let open = |from: &OwnedFd, id: (u64, u64)| {
            let fd = fs::openat(from, name, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty())?;
            if Meta::of(&fs::fstat(&fd)?).id() == id { Ok(fd) } else { Err(moved()) }
        };
        let source = open(&from.source, self.meta.id())?;
        let ids = self.dest_ids.get().ok_or_else(moved)?;
        let dests = from
            .dests
            .iter()
            .zip(ids)
            .map(|(dest, id)| open(dest, *id))
            .collect::<Result<_, _>>()?;
        Ok(dirs.adopt(self, source, dests))
    }
}

impl Drop for Node {
    /// A chain of parents as deep as the tree is taken apart in a loop, not on the stack.
    fn drop(&mut self) {
        let mut parent = self.parent.take();
        while let Some(mut node) = parent.and_then(Arc::into_inner) {
            parent = node.parent.take();
        }
    }
}

fn moved() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "a directory was moved while it was being cloned")
}

/// The nodes whose descriptors are open, in the order in which they were opened, and how many there may be.
#[derive(Debug)]
pub(super) struct OpenDirs {
    most: usize,
    open: Arc<AtomicUsize>,
    order: Mutex<VecDeque<Weak<Node>>>,
}

impl OpenDirs {
    pub(super) fn new(most: usize) -> Self {
        Self { most, open: Arc::default(), order: Mutex::default() }
    }

    /// Notes the descriptors of `node` and closes others if they are too many. The root is never closed.
    fn adopt(&self, node: &Arc<Node>, source: OwnedFd, dests: Vec<OwnedFd>) -> Arc<Handles> {
        self.open.fetch_add(1, Ordering::Relaxed);
        let handles = Arc::new(Handles { source, dests, open: Arc::clone(&self.open) });
        *lock(&node.handles) = Some(Arc::clone(&handles));
        let mut order = lock(&self.order);
        if node.parent.is_some() {
            order.push_back(Arc::downgrade(node));
        }
        if order.len() > 4 * self.most {
            order.retain(|node| node.strong_count() > 0);
        }
        while self.open.load(Ordering::Relaxed) > self.most {
            let Some(oldest) = order.pop_front() else { break };
            let Some(oldest) = oldest.upgrade() else { continue };
            if Arc::ptr_eq(&oldest, node) {
                order.push_back(Arc::downgrade(node));
                break;
            }
            let mut slot = lock(&oldest.handles);
            if let Some(handles) = &*slot {
                // What cannot be recognised again stays open.
                if oldest.note_ids(handles).is_err() {
                    continue;
                }
                *slot = None;
            }
        }
        handles
    }
}
