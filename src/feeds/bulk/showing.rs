//! An export of everything, shown to whoever compares it with what is here. It is a job of its own, beside the feed's, and is
//! read at once when it is whole: one that breaks off is asked for anew by the next comparison.

use tokio::sync::mpsc;

use super::download;
use super::files::{NDJSON, called, with_token};
use super::job::{self, Job, Named};
use super::manifest::Content;
use super::{Settings, Stage};
use crate::ehr::Ehr;
use crate::feeds::comparison::Compared;
use crate::feeds::{Trouble, Work};
use crate::store::StoreError;

/// Batches of resources that may wait for the comparison.
const BATCHES_WAITING: usize = 2;

/// Exports all of these types, and shows what comes.
pub async fn show(work: &mut Work<'_>, ehr: &Ehr, settings: &Settings, types: &[String], compared: &mut Compared) -> Result<(), Trouble> {
    let status_url = job::start(ehr, settings.method, &settings.export(types, None)).await?;
    let mut job = Job::new(status_url, work.now_ms(), true);
    let shown = show_all(work, ehr, settings, &mut job, compared).await;
    job.end(ehr).await;
    shown
}

async fn show_all(work: &mut Work<'_>, ehr: &Ehr, settings: &Settings, job: &mut Job, compared: &mut Compared) -> Result<(), Trouble> {
    job::wait_for_all(work, ehr, settings, job).await?;
    let named: Vec<Named> = job.files().into_iter().filter(|named| named.file.content == Content::Resources).collect();
    let (files, mut bytes) = (named.len(), 0);
    for (place, one) in named.iter().enumerate() {
        let broke_off = |why: &dyn std::fmt::Display| {
            let words = format!("{}: {why}; the comparison is made anew", called((place + 1, one), files));
            Trouble::Later { words, after_ms: None }
        };
        let stream = ehr.open_stream(&one.file.url, NDJSON, with_token(ehr, one)).await.map_err(|error| broke_off(&error))?;
        let (send, pieces) = download::channel();
        let (send_some, mut some) = mpsc::channel::<Vec<String>>(BATCHES_WAITING);
        let resource_type = one.file.resource_type.clone();
        let reading = tokio::task::spawn_blocking(move || {
            download::read_resources(pieces, resource_type.as_deref(), |resources| send_some.blocking_send(resources).is_ok())
        });
        // It owns the receiving end, so that whoever still reads hears when nobody wants more.
        let (work, compared, bytes) = (&mut *work, &mut *compared, &mut bytes);
        let showing = async move {
            while let Some(resources) = some.recv().await {
                *bytes += resources.iter().map(|resource| resource.len() as u64).sum::<u64>();
                compared.page(work, resources).await?;
                work.round.stage = Some(Stage::Taking { files_done: place, files, bytes: *bytes });
                (work.watch)(&work.round);
            }
            Ok::<(), Trouble>(())
        };
        let (pumped, read, shown) = tokio::join!(download::pump(stream, send), reading, showing);
        shown?;
        pumped.map_err(|error| broke_off(&error))?;
        match read.map_err(|_| StoreError::Retry("a feed failed while it was comparing".into()))? {
            Ok(Ok(())) => {}
            Ok(Err(fault)) => return Err(Trouble::Person { words: format!("{}: {fault}", called((place + 1, one), files)) }),
            Err(error) => return Err(broke_off(&error)),
        }
    }
    Ok(())
}
