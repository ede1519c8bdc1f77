//! Runs recursive code on a thread with a known stack size, which bounds on the recursion depth
//! match.

use crate::panic_text;

/// Compiling recurses at most `TEMPLATE_TAG_TOKENS` levels of an expression in
/// `TEMPLATE_BLOCK_LEVELS` blocks. Rendering recurses over the levels of a value
/// (`TEMPLATE_VALUE_LEVELS` and what one tag adds) and at most minijinja's limit of 125 nested
/// macros. No level takes 8 KiB, even in a test build: `chains_at_their_limit` passes with a
/// quarter of this stack. Only the used part takes memory.
pub(super) const STACK_BYTES: usize = 64 << 20;

/// Runs `run` on a new thread.
///
/// # Errors
/// Describes the failure: the thread could not be started, or it panicked.
pub(super) fn on_own_thread<T: Send>(run: impl FnOnce() -> T + Send) -> Result<T, String> {
    on_stack(STACK_BYTES, run)
}

pub(super) fn on_stack<T: Send>(bytes: usize, run: impl FnOnce() -> T + Send) -> Result<T, String> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("template".to_owned()).stack_size(bytes);
        let thread = thread.spawn_scoped(scope, run).map_err(|error| {
            format!("the system gives no thread for the chat template: {error}")
        })?;
        thread.join().map_err(|panic| {
            format!("the chat template broke its interpreter ({})", panic_text(&*panic))
        })
    })
}
