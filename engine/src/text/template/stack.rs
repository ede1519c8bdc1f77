//! A thread for what recurses: its stack is known, and so are the bounds of the recursion.

use crate::panic_text;

/// What is compiled is bounded by `TEMPLATE_TAG_TOKENS` levels of an expression in `TEMPLATE_BLOCK_LEVELS`
/// blocks, what is rendered by as many levels of a value (`TEMPLATE_VALUE_LEVELS` and what one tag builds) and
/// by minijinja's own limit of 125 macros in macros. None of them takes 8 KiB a level, in a build for tests:
/// `chains_at_their_limit` passes with a quarter of this stack. Only what is used of it takes memory.
pub(super) const STACK_BYTES: usize = 64 << 20;

/// Runs on a thread of its own.
///
/// # Errors
/// What went wrong, in words: there is no thread, or it panicked.
pub(super) fn on_its_own<T: Send>(run: impl FnOnce() -> T + Send) -> Result<T, String> {
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
