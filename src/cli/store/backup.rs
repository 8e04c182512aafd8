//! `store backup`: from a running sidecar, or from the file itself.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use http_body_util::BodyExt;
use serde_json::json;

use crate::cli::admin_client::AdminClient;
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::output::{self, Form};
use crate::cli::progress::Progress;
use crate::cli::store::{open_file, told};
use crate::store::care::Copied;
use crate::store::embedded::{CopyWriter, is_same_place};
use crate::store::seal::StoreKey;

/// How long a running sidecar may need for the next piece.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) async fn execute(context: &Context, file: &Path, form: &Form) -> Result<(), Failure> {
    let loaded = context.load();
    let running = AdminClient::running(context, &loaded).await?;
    let config = told(context, loaded, running.is_some())?;
    // Also where nothing stands there any more: what runs on a file that was taken away would take a copy for another.
    if is_same_place(file, &config.store.path) {
        let file = file.display();
        return Err(anyhow!("{file} is the place of the store itself; name another file").into());
    }
    let mut progress = Progress::new("rows copied");
    let copied = match running {
        Some(sidecar) => {
            let key = context.store_key(&config)?;
            stream(&sidecar, file, &key, &mut progress).await?
        }
        None => open_file(context, &config)?.backup(file, &mut |rows| progress.show(rows))?,
    };
    progress.end();
    if form.json {
        return output::say_json(&json!({
            "file": file,
            "rows": copied.rows,
            "bytes": copied.bytes,
            "damaged": copied.damaged,
        }));
    }
    say(file, copied);
    Ok(())
}

async fn stream(
    sidecar: &AdminClient,
    file: &Path,
    key: &StoreKey,
    progress: &mut Progress,
) -> Result<Copied, Failure> {
    // Before the sidecar begins: a name that is taken is found at once.
    let mut copy = CopyWriter::begin(file, key)?;
    let mut body = sidecar.open(crate::admin::store::BACKUP).await?;
    loop {
        let frame = tokio::time::timeout(PATIENCE, body.frame()).await;
        let Some(frame) = frame.context("the sidecar sent nothing for a minute")? else {
            break;
        };
        let frame = frame.map_err(|error| anyhow!(error));
        let frame = frame.context("the sidecar broke the copy off; its log says why")?;
        if let Ok(piece) = frame.into_data() {
            progress.show(copy.write(&piece)?);
        }
    }
    Ok(copy.finish()?)
}

fn say(file: &Path, copied: Copied) {
    let (rows, bytes) = (copied.rows, copied.bytes);
    output::say(format!(
        "backed up to {} ({rows} rows, {bytes} bytes); it opens with the same store key, so keep \
         that elsewhere",
        file.display()
    ));
    if copied.damaged > 0 {
        output::complain(format!(
            "warning: {} records are damaged, and were copied as they are; `store check` names \
             them",
            copied.damaged
        ));
    }
}
