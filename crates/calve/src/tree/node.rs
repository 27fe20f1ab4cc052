//! A directory of the tree with a descriptor on each side: the source, the destinations, or both.
//! The number of open descriptors is bounded.
//!
//! A node lives from the moment when its directory is opened until everything below it is done.
//! Only then calve sets the directory's own metadata: a read-only directory must be filled first,
//! and filling changes its times.
//!
//! A node's descriptors may close earlier. When too many are open, calve closes those that were
//! opened longest ago ([`OpenDirs`]) and opens them again when they are needed. It does so from
//! below by `..`, or from the nearest open directory above, name by name. It never follows a link,
//! and accepts a directory only if it is still the same inode, where inode numbers are believed.
//!
//! The type `D` is the user's own data for a directory. The walk, the scan and the engine for a
//! snapshot's trees each have their own.

use std::collections::VecDeque;
use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use rustix::fs::{self, Mode, OFlags};

use super::aside::Aside;
use super::pool::lock;
use crate::error::Error;
use crate::reflink::filesystem::Filesystem;
use crate::reflink::imp::DIR_FLAGS;
use crate::reflink::meta::Meta;

#[derive(Debug)]
pub(crate) struct Node<D> {
    pub(crate) parent: Option<Arc<Self>>,
    /// Empty for the root.
    name: CString,
    data: D,
    /// The directory itself, at each destination where it is made aside.
    asides: Vec<Option<Arc<Aside>>>,
    /// How many things below the node must still finish before the node does. Reading the directory
    /// counts as one.
    pending: AtomicUsize,
    handles: Mutex<Option<Arc<Handles>>>,
    /// The inodes of all sides, noted before their descriptors are closed for the first time.
    ids: OnceLock<Vec<(u64, u64)>>,
}

impl<D> Deref for Node<D> {
    type Target = D;

    fn deref(&self) -> &D {
        &self.data
    }
}

/// The open descriptors of a node: one for each side, in the order in which the caller gave them.
#[derive(Debug)]
pub(crate) struct Handles {
    pub(crate) sides: Vec<OwnedFd>,
    /// How many of the sides are destinations. They come first.
    dests: usize,
    open: Arc<AtomicUsize>,
}

impl Handles {
    /// The source's descriptor. Only for nodes that have a source.
    pub(crate) fn source(&self) -> &OwnedFd {
        &self.sides[self.dests]
    }

    pub(crate) fn dests(&self) -> &[OwnedFd] {
        &self.sides[..self.dests]
    }
}

/// A node whose descriptors stay open for as long as this value lives.
#[derive(Debug)]
pub(crate) struct HeldNode<D> {
    pub(crate) node: Arc<Node<D>>,
    pub(crate) handles: Arc<Handles>,
}

impl<D> HeldNode<D> {
    /// The source's descriptor. Only for nodes that have a source.
    pub(crate) fn source(&self) -> &OwnedFd {
        self.handles.source()
    }

    /// The directory at a destination.
    pub(crate) fn at(&self, dest: usize) -> &OwnedFd {
        &self.handles.dests()[dest]
    }
}

impl<D> Clone for HeldNode<D> {
    fn clone(&self) -> Self {
        Self { node: Arc::clone(&self.node), handles: Arc::clone(&self.handles) }
    }
}

impl<D> Deref for HeldNode<D> {
    type Target = Arc<Node<D>>;

    fn deref(&self) -> &Arc<Node<D>> {
        &self.node
    }
}

impl Drop for Handles {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<D> Node<D> {
    pub(crate) fn root(data: D, sides: Vec<OwnedFd>, dirs: &OpenDirs<D>) -> Arc<Self> {
        Self::new(None, CString::default(), data, (sides, Vec::new()), dirs)
    }

    /// The directory `name` in `parent`. The parent waits for it.
    pub(crate) fn below(
        parent: &Arc<Self>,
        name: CString,
        data: D,
        sides: Vec<OwnedFd>,
        dirs: &OpenDirs<D>,
    ) -> Arc<Self> {
        Self::aside(parent, name, data, (sides, Vec::new()), dirs)
    }

    /// Like [`below`](Self::below), for a directory that may be made aside at some destinations.
    pub(crate) fn aside(
        parent: &Arc<Self>,
        name: CString,
        data: D,
        sides: (Vec<OwnedFd>, Vec<Option<Arc<Aside>>>),
        dirs: &OpenDirs<D>,
    ) -> Arc<Self> {
        Self::new(Some(Arc::clone(parent)), name, data, sides, dirs)
    }

    fn new(
        parent: Option<Arc<Self>>,
        name: CString,
        data: D,
        (sides, asides): (Vec<OwnedFd>, Vec<Option<Arc<Aside>>>),
        dirs: &OpenDirs<D>,
    ) -> Arc<Self> {
        let node = Arc::new(Self {
            parent,
            name,
            data,
            asides,
            pending: AtomicUsize::new(1),
            handles: Mutex::new(None),
            ids: OnceLock::new(),
        });
        dirs.adopt(&node, sides);
        node
    }

    /// The directory's name; empty for the root.
    pub(crate) fn name(&self) -> &CStr {
        &self.name
    }

    /// The directory itself, if it is made aside at this destination.
    pub(crate) fn made_aside(&self, dest: usize) -> Option<&Arc<Aside>> {
        self.asides.get(dest)?.as_ref()
    }

    /// The path from the root. It is empty for the root itself.
    pub(crate) fn path(&self) -> PathBuf {
        let mut names = Vec::new();
        let mut node = Some(self);
        while let Some(this) = node {
            names.push(OsStr::from_bytes(this.name.to_bytes()));
            node = this.parent.as_deref();
        }
        names.iter().rev().filter(|name| !name.is_empty()).collect()
    }

    pub(crate) fn path_of(&self, name: &CStr) -> PathBuf {
        let mut path = self.path();
        path.push(OsStr::from_bytes(name.to_bytes()));
        path
    }

    /// Adds `more` things that must finish below the node before the node does.
    pub(crate) fn add_pending(&self, more: usize) {
        self.pending.fetch_add(more, Ordering::Relaxed);
    }

    /// Notes that one thing below the node is done. If it was the last one, finishes the node, and
    /// then each directory above whose last one this was.
    pub(crate) fn one_done(
        self: &Arc<Self>,
        dirs: &OpenDirs<D>,
        mut finish: impl FnMut(&Arc<Self>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut next = Some(Arc::clone(self));
        while let Some(node) = next {
            if node.pending.fetch_sub(1, Ordering::AcqRel) > 1 {
                break;
            }
            finish(&node)?;
            next = node.close_into_parent(dirs);
        }
        Ok(())
    }

    /// The node's descriptors. If calve closed them, it opens them again.
    pub(crate) fn handles(self: &Arc<Self>, dirs: &OpenDirs<D>) -> io::Result<Arc<Handles>> {
        if let Some(handles) = &*lock(&self.handles) {
            return Ok(Arc::clone(handles));
        }
        // Goes up to the nearest open directory, then down again.
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

    /// The node with its descriptors.
    pub(crate) fn open(self: &Arc<Self>, dirs: &OpenDirs<D>) -> io::Result<HeldNode<D>> {
        Ok(HeldNode { node: Arc::clone(self), handles: self.handles(dirs)? })
    }

    /// Notes the inodes of this directory and of those above it, so that calve can open them again
    /// after they were closed.
    pub(crate) fn remember(&self, handles: &Handles) -> io::Result<()> {
        self.note_ids(handles)?;
        let mut above = self.parent.as_deref();
        // The root is never closed.
        while let Some(node) = above.filter(|node| node.parent.is_some()) {
            // The inodes of a closed directory were noted when it was closed.
            if node.ids.get().is_none()
                && let Some(handles) = &*lock(&node.handles)
            {
                node.note_ids(handles)?;
            }
            above = node.parent.as_deref();
        }
        Ok(())
    }

    fn note_ids(&self, handles: &Handles) -> io::Result<()> {
        if self.ids.get().is_none() {
            let ids: io::Result<Vec<_>> =
                handles.sides.iter().map(|side| Ok(Meta::of_file(side)?.id())).collect();
            let _ = self.ids.set(ids?);
        }
        Ok(())
    }

    /// Closes the descriptors. If the parent's descriptors were closed meanwhile, opens them again
    /// from here first: `..` is one step, and the way from above may be long.
    fn close_into_parent(&self, dirs: &OpenDirs<D>) -> Option<Arc<Self>> {
        let handles = lock(&self.handles).take();
        let parent = self.parent.clone()?;
        if let Some(handles) = handles
            && lock(&parent.handles).is_none()
        {
            // `..` may lead elsewhere, because somebody moved the directory. Then opening it from
            // above reports the error.
            let _ = parent.reopen(&handles, c"..", dirs);
        }
        Some(parent)
    }

    /// Opens the node's directories as `name` relative to `from`, if they are still the same
    /// inodes.
    fn reopen(
        self: &Arc<Self>,
        from: &Handles,
        name: &CStr,
        dirs: &OpenDirs<D>,
    ) -> io::Result<Arc<Handles>> {
        let ids = self.ids.get().ok_or_else(moved)?;
        let mut sides = Vec::with_capacity(ids.len());
        for (side, (from, id)) in from.sides.iter().zip(ids).enumerate() {
            let (from, name) = match self.made_aside(side).and_then(|aside| aside.at()) {
                Some(aside) if name == self.name.as_c_str() => aside,
                _ => (from, name),
            };
            let fd = fs::openat(from, name, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty())?;
            if Meta::of_file(&fd)?.id() != *id && Filesystem::of_file(&fd).inodes {
                return Err(moved());
            }
            sides.push(fd);
        }
        Ok(dirs.adopt(self, sides))
    }
}

impl<D> Drop for Node<D> {
    /// Drops the chain of parents in a loop. The chain is as long as the tree is deep, and
    /// recursion could overflow the stack.
    fn drop(&mut self) {
        let mut parent = self.parent.take();
        while let Some(mut node) = parent.and_then(Arc::into_inner) {
            parent = node.parent.take();
        }
    }
}

fn moved() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "a directory was moved meanwhile")
}

/// The nodes with open descriptors, in the order in which they were opened, and how many there may
/// be.
#[derive(Debug)]
pub(crate) struct OpenDirs<D> {
    most: usize,
    dests: usize,
    open: Arc<AtomicUsize>,
    order: Mutex<VecDeque<Weak<Node<D>>>>,
}

impl<D> OpenDirs<D> {
    /// For nodes with `dests` destinations, of which `most` may be open.
    pub(crate) fn new(most: usize, dests: usize) -> Self {
        Self { most, dests, open: Arc::default(), order: Mutex::default() }
    }

    /// Keeps the descriptors of `node`, and closes others if there are too many. The root is never
    /// closed.
    fn adopt(&self, node: &Arc<Node<D>>, sides: Vec<OwnedFd>) -> Arc<Handles> {
        self.open.fetch_add(1, Ordering::Relaxed);
        let handles = Arc::new(Handles { sides, dests: self.dests, open: Arc::clone(&self.open) });
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
                // A directory whose inodes cannot be noted stays open, because calve could not
                // recognise it later.
                if oldest.note_ids(handles).is_err() {
                    continue;
                }
                *slot = None;
            }
        }
        handles
    }
}
