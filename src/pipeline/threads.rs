//! Threads that read and write files beside the work on the device, which never waits in them: it awaits what they hand
//! over. They touch files only; whatever uses the device stays where it is awaited.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a thread panicked with.
pub(super) type Panic = Box<dyn Any + Send>;

/// Items that a thread makes ahead of their use.
pub(super) struct ReadAhead<T> {
    items: async_channel::Receiver<Result<T, Panic>>,
}

impl<T: Send + 'static> ReadAhead<T> {
    /// Starts to make the items. `ahead` of them wait at most, beside the one that is being made.
    pub fn start(ahead: usize, items: impl Iterator<Item = T> + Send + 'static) -> Self {
        let (made, received) = async_channel::bounded(ahead);
        std::thread::spawn(move || {
            let make = || {
                for item in items {
                    // Nobody wants more when the receiver is gone.
                    if made.send_blocking(Ok(item)).is_err() {
                        return;
                    }
                }
            };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(make)) {
                let _ = made.send_blocking(Err(panic));
            }
        });
        Self { items: received }
    }

    /// The next item; `None` after the last.
    ///
    /// # Errors
    /// The panic of the thread, in place of the item that it was at. None comes after it.
    pub async fn next(&mut self) -> Result<Option<T>, Panic> {
        self.items.recv().await.ok().transpose()
    }
}

/// A thread that takes what is done and makes one result of it all.
pub(super) struct WriteBehind<T, R> {
    items: async_channel::Sender<T>,
    outcome: async_channel::Receiver<Result<R, Panic>>,
}

impl<T: Send + 'static, R: Send + 'static> WriteBehind<T, R> {
    /// Starts the thread. `behind` items wait at most, beside the one that it is at.
    pub fn start(
        behind: usize,
        write: impl FnOnce(&mut dyn Iterator<Item = T>) -> R + Send + 'static,
    ) -> Self {
        let (items, received) = async_channel::bounded(behind);
        let (ended, outcome) = async_channel::bounded(1);
        std::thread::spawn(move || {
            let write = || write(&mut std::iter::from_fn(|| received.recv_blocking().ok()));
            let result = catch_unwind(AssertUnwindSafe(write));
            // What is sent from now on is refused.
            drop(received);
            let _ = ended.try_send(result);
        });
        Self { items, outcome }
    }

    /// Hands an item over; `false` when the thread takes no more.
    pub async fn send(&self, item: T) -> bool {
        self.items.send(item).await.is_ok()
    }

    /// The result, once all items are taken.
    ///
    /// # Errors
    /// The panic of the thread.
    pub async fn finish(self) -> Result<R, Panic> {
        drop(self.items);
        self.outcome.recv().await.expect("the thread says how it ended, whatever happens")
    }
}
