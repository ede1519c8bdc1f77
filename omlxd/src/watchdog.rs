//! Watches that the engine makes progress, and logs the step that it is stuck in.

use std::time::Duration;

use engine::{Engine, Progress, StepName};
use tokio_util::sync::CancellationToken;

/// With work to do and no step this long, the engine is stuck. The longest steps that there are, a
/// large chunk of a large model, take a few seconds.
const STALL: Duration = Duration::from_secs(120);
/// How often it is looked at.
const PERIOD: Duration = Duration::from_secs(10);

/// Whether the engine has work to do and does not get on, or has ended.
pub(crate) fn is_stalled(progress: &Progress) -> bool {
    progress.failed || (progress.busy && !progress.loading && progress.since_last_step > STALL)
}

/// What is to be told.
#[derive(Debug, PartialEq, Eq)]
enum StallEvent {
    Stuck { step: Option<StepName>, since: Duration },
    GoesOn,
}

/// Tells of each stall once, and of its end.
#[derive(Debug, Default)]
struct Watchdog {
    stalled: bool,
}

impl Watchdog {
    fn look(&mut self, progress: Progress) -> Option<StallEvent> {
        let before = std::mem::replace(&mut self.stalled, is_stalled(&progress));
        match (before, self.stalled) {
            (false, true) => {
                Some(StallEvent::Stuck { step: progress.step, since: progress.since_last_step })
            }
            (true, false) => Some(StallEvent::GoesOn),
            _ => None,
        }
    }
}

/// Watches the engine until `shutdown`.
pub(crate) async fn watch(engine: Engine, shutdown: CancellationToken) {
    let mut watchdog = Watchdog::default();
    let mut ticks = tokio::time::interval(PERIOD);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown.cancelled() => return,
            // The code that waits for the engine's end reports it.
            _ = engine.failed() => return,
        }
        match watchdog.look(engine.progress()) {
            None => {}
            Some(StallEvent::GoesOn) => tracing::warn!("the engine goes on"),
            Some(StallEvent::Stuck { step: Some(step), since }) => tracing::error!(
                model = step.model,
                decoding = step.decoding,
                prompt_tokens = step.prompt_tokens,
                step_seconds = step.age.as_secs(),
                idle_seconds = since.as_secs(),
                "a step does not end; /readyz says 503. Restart omlxd if it stays so"
            ),
            Some(StallEvent::Stuck { step: None, since }) => tracing::error!(
                idle_seconds = since.as_secs(),
                "requests run and no step does; /readyz says 503. Restart omlxd if it stays so"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(busy: bool, secs: u64, loading: bool) -> Progress {
        let step = StepName { model: "m".into(), decoding: 3, prompt_tokens: 256, age: STALL };
        Progress {
            failed: false,
            busy,
            loading,
            since_last_step: Duration::from_secs(secs),
            running: 1,
            waiting: 0,
            step: busy.then_some(step),
            preemptions: 0,
        }
    }

    #[test]
    fn a_stall_is_told_once_by_its_step_and_so_is_its_end() {
        let mut watchdog = Watchdog::default();
        assert_eq!(watchdog.look(progress(true, 3, false)), None);
        assert_eq!(watchdog.look(progress(false, 500, false)), None, "idle is no stall");
        assert_eq!(watchdog.look(progress(true, 500, true)), None, "nor is loading");
        let Some(StallEvent::Stuck { step: Some(step), since }) =
            watchdog.look(progress(true, 121, false))
        else {
            panic!("a stall");
        };
        assert_eq!((step.model.as_str(), step.prompt_tokens, since.as_secs()), ("m", 256, 121));
        assert_eq!(watchdog.look(progress(true, 131, false)), None, "once");
        assert_eq!(watchdog.look(progress(true, 0, false)), Some(StallEvent::GoesOn));
        assert_eq!(watchdog.look(progress(true, 0, false)), None);
        let ended = Progress { failed: true, ..progress(false, 0, false) };
        assert!(is_stalled(&ended), "an engine that ended is not ready");
    }
}
