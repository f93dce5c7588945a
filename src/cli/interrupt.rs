//! What Ctrl-C does, and SIGTERM where the system knows it: no half-written file stays behind.
//!
//! A batch finishes the heads that are begun and says what is left; the second time, and in every other command, the
//! program stops at once. The exit code is 128 and the signal's number, as shells have it: 130 for Ctrl-C.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use trephine::volume::unfinished;

use super::terminal::Terminal;

/// Exit code of a program that Ctrl-C ended: 128 and the number of SIGINT.
pub(super) const INTERRUPTED: u8 = 130;

/// Whether somebody asked the program to stop.
#[derive(Debug, Default)]
pub(super) struct Interrupt {
    /// A batch is at work, which looks at `stop`.
    in_batch: AtomicBool,
    stop: Arc<AtomicBool>,
}

impl Interrupt {
    /// Listens from now on.
    pub fn listen(terminal: Terminal) -> &'static Self {
        let interrupt: &'static Self = Box::leak(Box::default());
        let listening = on_signal(move |code| {
            if interrupt.in_batch.load(Ordering::Relaxed) && !interrupt.stop.swap(true, Ordering::Relaxed) {
                terminal.note("interrupted: heads that are begun will be finished; once more stops at once");
                return;
            }
            unfinished::discard();
            terminal.clear_bar();
            terminal.error("interrupted");
            // Nobody is left to tell when stdout is closed.
            let _ = terminal.close(false);
            std::process::exit(code.into());
        });
        if let Err(error) = listening {
            log::warn!("signals are left as they are ({error}): what is stopped may leave a .part file");
        }
        interrupt
    }

    /// What a batch of `heads` looks at between them. One head alone has nothing to finish.
    pub fn stop_of_batch(&self, heads: usize) -> Arc<AtomicBool> {
        self.in_batch.store(heads > 1, Ordering::Relaxed);
        Arc::clone(&self.stop)
    }
}

/// Calls `handle` on a thread of its own with the exit code that belongs to each signal.
#[cfg(unix)]
fn on_signal(handle: impl Fn(u8) + Send + 'static) -> io::Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    std::thread::spawn(move || {
        for signal in signals.forever() {
            handle(if signal == SIGTERM { 143 } else { INTERRUPTED });
        }
    });
    Ok(())
}

#[cfg(not(unix))]
fn on_signal(handle: impl Fn(u8) + Send + 'static) -> io::Result<()> {
    ctrlc::set_handler(move || handle(INTERRUPTED)).map_err(io::Error::other)
}
