//! The body of a response.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};

use super::call::Answered;
use super::stream::EventStream;

/// What is sent: a document or a stream of events. Dropping it ends the request's accounting.
pub struct Body {
    content: Content,
    answered: Option<Answered>,
}

enum Content {
    Whole(Option<Bytes>),
    Events(EventStream),
}

impl Body {
    /// A document.
    pub(crate) fn whole(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let content = Content::Whole((!bytes.is_empty()).then_some(bytes));
        Body { content, answered: None }
    }

    /// A stream.
    pub(crate) fn events(stream: EventStream) -> Self {
        Body { content: Content::Events(stream), answered: None }
    }

    /// Lets the accounting of its request end with it.
    pub(crate) fn accounted(mut self, mut answered: Answered) -> Self {
        if let Content::Whole(_) = self.content {
            // A client that goes away now did get its answer made.
            answered.complete();
        }
        self.answered = Some(answered);
        self
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = match &mut self.content {
            Content::Whole(bytes) => bytes.take(),
            Content::Events(stream) => {
                let event = ready!(stream.poll_event(cx));
                if event.is_none()
                    && let Some(answered) = &mut self.answered
                {
                    answered.complete();
                }
                event
            }
        };
        Poll::Ready(next.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.content, Content::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Content::Events(_) => SizeHint::default(),
        }
    }
}
