//! Worktrees, from their start to their end, in projects with git and without.

#![cfg(target_os = "linux")]

mod another_boot;
#[expect(dead_code, reason = "the other programs use the rest of it")]
#[path = "../common/mod.rs"]
mod common;
mod examples;
mod fill;
mod filter;
mod git;
mod linked;
#[expect(dead_code, reason = "the other programs use the rest of it")]
#[path = "../common/maintained.rs"]
mod maintained;
mod metadata;
mod model;
mod naming;
mod paths;
mod shed;
#[path = "../common/stores.rs"]
mod stores;
mod story;
mod submodules;
mod switch;
mod trouble;
