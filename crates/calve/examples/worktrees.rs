//! Makes worktrees as a version-control or build tool would: takes a snapshot of the project as it
//! is, makes a tree of it for each job, captures the job's changes as a new snapshot, and leaves
//! nothing behind.
//!
//! ```sh
//! cargo run --release -p calve --example worktrees -- PROJECT JOB...
//! ```

#[cfg(unix)]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let project = arguments.next().ok_or("usage: worktrees PROJECT JOB...")?;
    run(project.as_ref(), &arguments.collect::<Vec<_>>())
}

/// For each job makes a worktree of the project, captures the job's changes as a snapshot, and
/// drops the worktree.
///
/// # Errors
/// Those of the store. Snapshots stay, and so does the worktree of the failed job.
#[cfg(unix)]
pub fn run(project: &std::path::Path, jobs: &[String]) -> Result<(), Box<dyn std::error::Error>> {
    use calve::{DropOptions, ErrorKind, SnapshotOptions, StartOptions, Store, StoreOptions};

    let options = StoreOptions::new();

    // The first to come makes the store; of two at once, one makes it and the other opens it.
    let store = match Store::init(project) {
        Ok(store) => store,
        Err(error) if error.kind() == ErrorKind::StoreExists => Store::discover(project)?.store,
        Err(error) => return Err(error.into()),
    };

    // Everything in the project now, with uncommitted work and dependencies. calve reads only files
    // that changed since the last snapshot.
    let snapshot = store.snapshot(&SnapshotOptions::new(), &options)?;
    println!(
        "snapshot {}: {} files, {} read in {:.2?}",
        snapshot.id, snapshot.files, snapshot.read_files, snapshot.elapsed
    );
    for left_out in &snapshot.skipped {
        println!("  without {}: {}", left_out.path.display(), left_out.reason);
    }

    // All of them, or none.
    let start = store.start(jobs, &StartOptions::new().from(snapshot.id), &options)?;
    for started in &start.worktrees {
        println!(
            "{}: {} ({})",
            started.name,
            started.report.path.display(),
            started.report.method.as_str()
        );
    }
    println!("started in {:.2?}", start.elapsed);

    for job in jobs {
        let worktree = store.worktree(job)?;

        // The job's own work goes here; this one writes a file.
        std::fs::write(worktree.path().join("RESULT"), format!("done by {job}\n"))?;

        let status = worktree.status(&options)?;
        println!("{job}: {} changes, seen in {:.2?}", status.changes.len(), status.elapsed);
        let captured = worktree
            .capture(&SnapshotOptions::new().message(format!("result of {job}")), &options)?;
        println!("{job}: captured as {} in {:.2?}", captured.id, captured.elapsed);

        // Nothing is lost any more, so it is not asked whether it was changed. Its name is free at
        // once.
        store.worktree(job)?.drop(&DropOptions::new(), &options)?.delete()?;
    }
    Ok(())
}

#[cfg(not(unix))]
fn main() {
    eprintln!("stores need a Unix system");
}
