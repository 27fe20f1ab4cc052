//! The linker: clones, merges and single files. These tests need no store.

mod architecture;
mod chain;
mod changing;
#[cfg(target_os = "linux")]
#[path = "../common/mod.rs"]
mod common;
mod filters;
mod git_index;
mod isolated;
mod list;
mod many;
mod merge;
mod portable;
mod property;
mod public_api;
mod reflink_one_file;
mod same_result;
mod subvolume;
mod whole_or_absent;
