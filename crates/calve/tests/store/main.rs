//! The store: what it keeps, how it is maintained, and which stores calve believes.

#![cfg(target_os = "linux")]

#[expect(dead_code, reason = "the other programs use the rest of it")]
#[path = "../common/mod.rs"]
mod common;
mod compat;
mod damage;
mod elsewhere;
mod hostile;
mod learned;
#[path = "../common/maintained.rs"]
mod maintained;
mod maintenance;
#[cfg(feature = "remote")]
mod remote;
mod snapshot_exact;
#[expect(dead_code, reason = "the other programs use the rest of it")]
#[path = "../common/stores.rs"]
mod stores;
mod trust;
