//! Waiting for the device without blocking whoever asks: futures that its callbacks complete.
//!
//! Browsers call those callbacks from their event loop. Elsewhere somebody has to poll the device, and a thread of its
//! own does, while anything is awaited.

#[cfg(not(target_family = "wasm"))]
use std::panic::{AssertUnwindSafe, catch_unwind};
#[cfg(not(target_family = "wasm"))]
use std::sync::mpsc;
#[cfg(not(target_family = "wasm"))]
use std::thread::JoinHandle;

use super::error::GpuError;

/// How some work of the device ended; an error in the driver's words.
type Outcome = Result<(), String>;

/// The end of some work of the device, of which it tells in a callback.
pub(super) struct Completion {
    told: async_channel::Sender<Outcome>,
    heard: async_channel::Receiver<Outcome>,
}

impl Completion {
    /// Of work that is about to be submitted.
    pub fn new() -> Self {
        let (told, heard) = async_channel::bounded(1);
        Self { told, heard }
    }

    /// What the device is to call. The first word counts.
    pub fn callback<E: ToString>(&self) -> impl FnOnce(Result<(), E>) + Send + 'static {
        let told = self.told.clone();
        move |outcome| {
            // Refused when the outcome is known already, or nobody waits for it any more.
            let _ = told.try_send(outcome.map_err(|error| error.to_string()));
        }
    }

    /// Waits for the end. `submission` is the work itself, `None` for all that was submitted.
    ///
    /// # Errors
    /// What the device reports, and its loss.
    pub async fn awaited(
        self,
        poller: &Poller,
        submission: Option<wgpu::SubmissionIndex>,
    ) -> Result<(), GpuError> {
        if self.heard.is_empty() {
            poller.see_to(submission, self.callback());
        }
        let outcome = self.heard.recv().await.map_err(|_| GONE.to_owned());
        outcome.flatten().map_err(GpuError::Execution)
    }
}

/// Why nobody tells of the end of some work.
const GONE: &str = "the device was lost before its work was done";

/// Sees to it that callbacks are called.
#[cfg(not(target_family = "wasm"))]
pub(super) struct Poller {
    /// `None` once the device is dropped.
    requests: Option<mpsc::Sender<Request>>,
    thread: Option<JoinHandle<()>>,
}

/// A submission to wait for, the last one if it is `None`, and who is told how that ended.
#[cfg(not(target_family = "wasm"))]
type Request = (Option<wgpu::SubmissionIndex>, Box<dyn FnOnce(Outcome) + Send>);

#[cfg(not(target_family = "wasm"))]
impl Poller {
    /// Starts the thread that polls a device.
    ///
    /// # Errors
    /// When the system gives none.
    pub fn start(device: wgpu::Device) -> Result<Self, GpuError> {
        let (requests, received) = mpsc::channel::<Request>();
        let poll = move || {
            for (submission_index, tell) in received {
                let wait = wgpu::PollType::Wait { submission_index, timeout: None };
                // wgpu panics at some errors of a lost device. Whoever waits must hear of those as well.
                let polled = catch_unwind(AssertUnwindSafe(|| device.poll(wait)));
                tell(match polled {
                    Ok(status) => status.map(drop).map_err(|error| error.to_string()),
                    Err(_) => Err(GONE.to_owned()),
                });
            }
        };
        let thread = std::thread::Builder::new().name("device".to_owned()).spawn(poll);
        let thread = thread.map_err(|error| GpuError::Execution(format!("no thread to wait in: {error}")))?;
        Ok(Self { requests: Some(requests), thread: Some(thread) })
    }

    /// Has the callbacks of a submission called, and then `tell`.
    fn see_to(&self, submission: Option<wgpu::SubmissionIndex>, tell: impl FnOnce(Outcome) + Send + 'static) {
        let requests = self.requests.as_ref().expect("the device is not dropped while it is used");
        if let Err(mpsc::SendError((_, tell))) = requests.send((submission, Box::new(tell))) {
            tell(Err(GONE.to_owned()));
        }
    }
}

/// Ends the thread, so that whoever drops the device drops it last.
#[cfg(not(target_family = "wasm"))]
impl Drop for Poller {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            // It catches what panics.
            let _ = thread.join();
        }
    }
}

/// The browser sees to it.
#[cfg(target_family = "wasm")]
pub(super) struct Poller;

#[cfg(target_family = "wasm")]
impl Poller {
    /// Nothing to start.
    pub fn start(_: wgpu::Device) -> Result<Self, GpuError> {
        Ok(Self)
    }

    /// Nothing to do.
    fn see_to(&self, _: Option<wgpu::SubmissionIndex>, _: impl FnOnce(Outcome) + Send + 'static) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::{Gpu, GpuOptions};
    use crate::tensor::TensorDesc;

    #[test]
    fn the_first_word_counts_and_waits_for_nobody() {
        let completion = Completion::new();
        let [first, second] = [0, 1].map(|_| completion.callback());
        first(Err("mapping failed"));
        second(Ok(()));
        let heard = completion.heard.try_recv().unwrap();
        assert_eq!(heard, Err("mapping failed".to_owned()));
    }

    #[test]
    fn without_anybody_to_poll_waiting_ends_in_an_error() {
        let (requests, received) = mpsc::channel();
        drop(received);
        let poller = Poller { requests: Some(requests), thread: None };
        let error = pollster::block_on(Completion::new().awaited(&poller, None)).unwrap_err();
        assert!(error.to_string().contains("lost"), "{error}");
    }

    #[test]
    fn a_device_that_is_lost_is_an_error_and_never_a_hang() {
        let gpu = match pollster::block_on(Gpu::open(&GpuOptions::default())) {
            Ok(gpu) => gpu,
            Err(error) if std::env::var_os("REQUIRE_GPU").is_some() => panic!("{error}"),
            Err(error) => return eprintln!("SKIPPED: {error}"),
        };
        // Several pieces, so that both ways wait in between.
        let desc = TensorDesc::u32(&[5 << 20]);
        let values = vec![7u32; desc.len()];
        pollster::block_on(async {
            let tensor = gpu.upload(&desc, &values).await.unwrap();
            assert!(gpu.download::<u32>(&tensor).await.unwrap() == values);
            assert_eq!(gpu.lost(), None);
            gpu.lose();
            assert!(gpu.lost().is_some());
            assert!(gpu.download::<u32>(&tensor).await.is_err());
            assert!(gpu.write(&tensor, &values).await.is_err());
            // Nothing is left to wait for; what counts is that it returns.
            let _ = gpu.wait().await;
        });
    }

    #[test]
    fn a_callback_may_come_after_whoever_waited_has_left() {
        let completion = Completion::new();
        let callback = completion.callback::<String>();
        drop(completion);
        callback(Ok(()));
    }
}
