//! Notices that a driver does not come back. A thread that waits for a launch that never ends cannot do so itself, and
//! some drivers do not heed the limit that a wait is given.

use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use super::report::{Failure, FailureKind};
use crate::gpu::Gpu;

/// How often to look.
const EVERY: Duration = Duration::from_millis(20);

/// What runs now, and how long a call of the driver may take.
struct Watched {
    limit: Duration,
    /// What to report.
    failure: Failure,
}

/// Watches a device from another thread while it lives.
pub struct Watchdog {
    watched: Arc<Mutex<Watched>>,
}

impl Watchdog {
    /// Watches `gpu` from now on. `overdue` is called at most once, on another thread, when a call of the driver takes
    /// longer than its limit: the device is of no more use then, and dropping it may block.
    pub fn new(gpu: &Arc<Gpu>, limit_s: f64, overdue: impl FnOnce(Failure) + Send + 'static) -> Self {
        let failure = Failure::did_not_end("roofline", "micro-kernels", "", None);
        let watched = Arc::new(Mutex::new(Watched { limit: duration(limit_s), failure }));
        let (gpu, seen) = (Arc::downgrade(gpu), Arc::downgrade(&watched));
        std::thread::spawn(move || {
            if let Some(failure) = watch(&gpu, &seen) {
                overdue(failure);
            }
        });
        Self { watched }
    }

    /// Names what runs from now on, and how long a call of the driver may take, in seconds.
    pub fn expect(&self, limit_s: f64, operator: &str, case: &str, variant: &str, shader: Option<&str>) {
        let failure = Failure::did_not_end(operator, case, variant, shader);
        *self.watched.lock().expect("no panic while held") = Watched { limit: duration(limit_s), failure };
    }
}

/// Beyond what a duration holds is for ever.
fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

/// Looks until something is overdue; `None` when the device or the watchdog is gone.
fn watch(gpu: &Weak<Gpu>, watched: &Weak<Mutex<Watched>>) -> Option<Failure> {
    loop {
        std::thread::sleep(EVERY);
        // Held for a moment only: the last owner drops the device, which shall not be this thread.
        let busy = gpu.upgrade()?.busy_for();
        let watched = watched.upgrade()?;
        let Watched { limit, failure } = &*watched.lock().expect("no panic while held");
        if busy.is_some_and(|busy| busy > *limit) {
            let reason = format!(
                "did not end within {} s, and nothing stops a device; --limit says how long to wait",
                limit.as_secs_f64()
            );
            return Some(Failure { kind: FailureKind::DidNotEnd, reason, ..failure.clone() });
        }
    }
}
