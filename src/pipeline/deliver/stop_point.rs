//! Named places where a test lets the gateway die as by SIGKILL: `NEPHROGATE_STOP_AT=after-send` stops the process the
//! first time it passes there, `after-send:3` the third time. Nothing of it is in a release build.
//!
//! The places, in order: `after-claim`, `after-look`, `before-send`, `after-send`, `after-read-back`, `before-finish`,
//! `after-finish`.

#[cfg(debug_assertions)]
pub(super) fn stop_point(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicUsize, Ordering};

    static STOP_AT: OnceLock<Option<(String, usize)>> = OnceLock::new();
    static PASSED: AtomicUsize = AtomicUsize::new(0);
    let stop_at = STOP_AT.get_or_init(|| {
        let asked = std::env::var("NEPHROGATE_STOP_AT").ok()?;
        let (name, time) = asked.split_once(':').unwrap_or((&asked, "1"));
        Some((name.to_owned(), time.parse().expect("NEPHROGATE_STOP_AT is a name, or a name and a number: after-send:3")))
    });
    if let Some((at, time)) = stop_at
        && at == name
        && PASSED.fetch_add(1, Ordering::Relaxed) + 1 == *time
    {
        // No destructor, no flush, no goodbye to the store.
        std::process::abort();
    }
}

#[cfg(not(debug_assertions))]
pub(super) fn stop_point(_name: &str) {}
