//! A response body whose events are written by one future, polled by the connection itself: no task
//! and no channel in between, and no event is made before the one before it was taken.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;

/// The writing end.
pub(crate) struct EventSender {
    slot: Arc<Mutex<Option<Bytes>>>,
}

impl EventSender {
    /// Hands over an event, and waits until it was taken.
    pub(crate) async fn send(&mut self, event: Bytes) {
        *self.slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(event);
        // The reader polls again after it takes the event, so no waker is needed.
        poll_fn(|_| {
            if self.slot.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        })
        .await;
    }
}

/// The reading end, which drives the writer.
pub(crate) struct EventStream {
    slot: Arc<Mutex<Option<Bytes>>>,
    /// What ends the stream when the writer panics.
    on_panic: Bytes,
    /// `None` once it has ended.
    writer: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl EventStream {
    /// A stream of what `write` sends; `on_panic` is the event that tells of a bug in it.
    pub(crate) fn new<F: Future<Output = ()> + Send + 'static>(
        on_panic: Bytes,
        write: impl FnOnce(EventSender) -> F,
    ) -> Self {
        let slot = Arc::new(Mutex::new(None));
        let sender = EventSender { slot: Arc::clone(&slot) };
        EventStream { slot, on_panic, writer: Some(Box::pin(write(sender))) }
    }

    /// The next event. A writer that panics ends its stream with an error event.
    pub(crate) fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Some(writer) = &mut self.writer {
            match catch_unwind(AssertUnwindSafe(|| writer.as_mut().poll(cx))) {
                Ok(Poll::Pending) => {}
                Ok(Poll::Ready(())) => self.writer = None,
                Err(_) => {
                    self.writer = None;
                    return Poll::Ready(Some(std::mem::take(&mut self.on_panic)));
                }
            }
        }
        let event = self.slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (event, &self.writer) {
            (Some(event), _) => Poll::Ready(Some(event)),
            (None, Some(_)) => Poll::Pending,
            (None, None) => Poll::Ready(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    fn drain(stream: &mut EventStream) -> Vec<Bytes> {
        let mut cx = Context::from_waker(Waker::noop());
        let mut events = Vec::new();
        while let Poll::Ready(Some(event)) = stream.poll_event(&mut cx) {
            events.push(event);
        }
        events
    }

    #[test]
    fn events_come_in_order_and_the_stream_ends() {
        let mut stream = EventStream::new(Bytes::new(), |mut out| async move {
            for event in ["a", "b", "c"] {
                out.send(Bytes::from_static(event.as_bytes())).await;
            }
        });
        assert_eq!(drain(&mut stream), ["a", "b", "c"]);
    }

    #[test]
    fn a_panic_becomes_an_error_event() {
        let mut stream = EventStream::new(Bytes::from_static(b"sorry"), |mut out| async move {
            out.send(Bytes::from_static(b"a")).await;
            panic!("a bug in a writer");
        });
        let events = drain(&mut stream);
        assert_eq!(events.len(), 2);
        assert_eq!(events[1], "sorry");
    }
}
