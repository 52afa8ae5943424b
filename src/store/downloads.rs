//! How far a feed has taken each file that it fetches, so that a download that broke off goes on where it stopped. Rows are
//! the feed's own and go when it has no more use for them.

use super::imports::Progress;
use super::{Bind, StoreError, Tx};

/// One file of one feed, by the name that the feed gives it.
#[derive(Clone, Copy, Debug)]
pub struct Key<'a> {
    pub site: &'a str,
    pub feed: &'a str,
    pub file: &'a str,
}

/// How far one file was taken; committed with the messages it counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Download {
    pub bytes_done: i64,
    pub lines_done: i64,
    pub is_finished: bool,
    /// Lines that are not empty.
    pub resources_done: i64,
    /// SHA-256, hex, of the bytes that were taken: what comes again must begin with the same.
    pub hash_so_far: String,
}

const SQL_FIND: &str = "SELECT bytes_done, lines_done, finished_ms, resources_done, hash_so_far FROM downloads
    WHERE site = $1 AND feed = $2 AND file = $3";

/// How far a file was taken; `None` where it was not begun.
pub fn find(tx: &mut Tx<'_>, key: Key<'_>) -> Result<Option<Download>, StoreError> {
    let row = tx.query_one(SQL_FIND, &[key.site.into(), key.feed.into(), key.file.into()])?;
    row.map(|row| {
        Ok(Download {
            bytes_done: row.integer(0)?,
            lines_done: row.integer(1)?,
            is_finished: row.optional_integer(2)?.is_some(),
            resources_done: row.integer(3)?,
            hash_so_far: row.string(4)?,
        })
    })
    .transpose()
}

const SQL_ADVANCE: &str = "INSERT INTO downloads (site, feed, file, bytes_done, lines_done, resources_done, hash_so_far, finished_ms)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
    ON CONFLICT (site, feed, file) DO UPDATE SET bytes_done = excluded.bytes_done, lines_done = excluded.lines_done,
    resources_done = downloads.resources_done + excluded.resources_done, hash_so_far = excluded.hash_so_far, finished_ms = excluded.finished_ms
    WHERE downloads.bytes_done < excluded.bytes_done OR (downloads.finished_ms IS NULL AND excluded.finished_ms IS NOT NULL)";

/// Keeps that a file was taken up to here, `more_resources` of it just now. Nothing changes where somebody else has taken it as
/// far meanwhile: a gateway whose lease ran out may come late.
pub fn advance(tx: &mut Tx<'_>, key: Key<'_>, progress: &Progress, more_resources: i64, hash_so_far: &str) -> Result<(), StoreError> {
    let params: [Bind<'_>; 8] = [
        key.site.into(),
        key.feed.into(),
        key.file.into(),
        progress.bytes_done.into(),
        progress.lines_done.into(),
        more_resources.into(),
        hash_so_far.into(),
        progress.finished_ms.into(),
    ];
    tx.execute(SQL_ADVANCE, &params).map(drop)
}

const SQL_FORGET: &str = "DELETE FROM downloads WHERE site = $1 AND feed = $2 AND file = $3";
const SQL_FORGET_ALL: &str = "DELETE FROM downloads WHERE site = $1 AND feed = $2";

/// Begins a file anew, since it is not what it was.
pub fn forget(tx: &mut Tx<'_>, key: Key<'_>) -> Result<(), StoreError> {
    tx.execute(SQL_FORGET, &[key.site.into(), key.feed.into(), key.file.into()]).map(drop)
}

/// The feed has no more use for any of its files.
pub fn forget_all(tx: &mut Tx<'_>, site: &str, feed: &str) -> Result<(), StoreError> {
    tx.execute(SQL_FORGET_ALL, &[site.into(), feed.into()]).map(drop)
}
