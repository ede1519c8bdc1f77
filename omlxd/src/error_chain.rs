//! An error as one line of text.

use std::fmt;

/// Shows an error, then each error that caused it, after a colon.
pub(crate) struct Chain<'a>(pub(crate) &'a dyn std::error::Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        std::iter::successors(self.0.source(), |cause| cause.source())
            .try_for_each(|cause| write!(f, ": {cause}"))
    }
}
