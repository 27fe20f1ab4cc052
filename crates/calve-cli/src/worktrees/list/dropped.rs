//! `calve list --dropped`.

use calve::{KeptWorktree, Store};

use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{Output, PathFields, document};
use crate::table::{Cell, Column, Table};
use crate::text::{self, harmless};

pub(super) fn list_dropped(store: &Store, output: Output) -> Result<Exit, Failure> {
    let dropped = store.dropped_worktrees()?;
    if output.json {
        let dropped: Vec<KeptDocument> = dropped.iter().map(KeptDocument::new).collect();
        output.document_of("dropped", &dropped)?;
        return Ok(Exit::Done);
    }
    if dropped.is_empty() {
        output.summary("no dropped worktrees are kept");
    }
    let mut table =
        Table::new([Column::Name, Column::Left, Column::Left, Column::Left, Column::Path]);
    for kept in &dropped {
        table.row([
            Cell::from(harmless(&kept.name).into_owned()),
            text::age(kept.dropped.elapsed().unwrap_or_default()).into(),
            format!("until {}", text::utc(kept.until)).into(),
            kept.branch.as_deref().map_or_else(|| "-".into(), harmless).into_owned().into(),
            output.path(&kept.path).into(),
        ]);
    }
    output.table(&table)?;
    Ok(Exit::Done)
}

document! {
    /// A worktree in the JSON document of `list --dropped`.
    struct KeptDocument(kept: &KeptWorktree) {
        name: String = kept.name.clone(),
        #[serde(flatten)]
        path: PathFields = PathFields::new(&kept.path),
        snapshot: Option<String> = kept.snapshot.map(|id| id.to_string()),
        branch: Option<String> = kept.branch.clone(),
        dropped: String = text::utc(kept.dropped),
        until: String = text::utc(kept.until),
    }
}
