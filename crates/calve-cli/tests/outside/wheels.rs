//! Installs real packages into one environment: see `scripts/check-wheels`, which itself reports
//! the parts that it could not run.

use std::path::Path;
use std::process::Command;

use crate::not_run;

#[test]
fn wheels_that_share_a_namespace_are_merged_by_ten_processes_at_once_and_import() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/check-wheels");
    if !script.is_file() {
        return not_run("merging wheels", "scripts/check-wheels is no part of a package");
    }
    let output = Command::new(script)
        .arg("--repeat")
        .arg("1")
        .arg(env!("CARGO_BIN_EXE_calve"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    match output.status.code() {
        Some(0) => {}
        Some(4) => not_run("merging wheels", text.lines().last().unwrap_or("for no reason given")),
        _ => panic!("{text}\n{}", String::from_utf8_lossy(&output.stderr)),
    }
}
