//! Heads read ahead of their use in a thread, and those kept in memory.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::data::LabelledHead;
use super::head::StoredHead;
use crate::gpu::Gpu;
use crate::model::GridSpec;
use crate::pipeline::PipelineError;
use crate::volume::pairs::Pair;

type Read<T> = Result<T, PipelineError>;

/// Reads ahead in a thread. Every item that was ordered comes out, or an error in its place.
pub struct Loader<T> {
    items: mpsc::Receiver<Read<T>>,
    /// Items still to come.
    left: usize,
    thread: Option<JoinHandle<()>>,
}

/// Items read ahead of their use.
const AHEAD: usize = 2;

impl Loader<Arc<StoredHead>> {
    /// Starts reading heads in this order.
    pub fn start(
        gpu: &Arc<Gpu>,
        order: Vec<LabelledHead>,
        spec: &GridSpec,
        spatial: bool,
        cache: &HeadCache,
    ) -> Self {
        let (gpu, spec, cache) = (Arc::clone(gpu), spec.clone(), cache.clone());
        Self::of(order, move |head| cache.get_or_read(&gpu, head.pair(), &spec, spatial))
    }
}

impl<T: Send + 'static> Loader<T> {
    /// Starts reading what `order` names.
    fn of<O: Send + 'static>(order: Vec<O>, mut read: impl FnMut(O) -> Read<T> + Send + 'static) -> Self {
        let (sender, items) = mpsc::sync_channel(AHEAD);
        let left = order.len();
        let thread = std::thread::spawn(move || {
            for name in order {
                // The receiver is gone when training stops: nothing more to read.
                if sender.send(read(name)).is_err() {
                    return;
                }
            }
        });
        Self { items, left, thread: Some(thread) }
    }
}

impl<T> Iterator for Loader<T> {
    type Item = Read<T>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        if let Ok(item) = self.items.recv() {
            self.left -= 1;
            return Some(item);
        }
        self.left = 0;
        let panic = self.thread.take().and_then(|thread| thread.join().err());
        let words = panic.as_ref().and_then(|panic| {
            panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied())
        });
        Some(Err(PipelineError::Training(format!(
            "the thread that reads heads ended early ({}); go on with --resume, and report it if it happens again",
            words.unwrap_or("without a word")
        ))))
    }
}

/// Image, mask, and whether the head is stored with a margin.
type HeadKey = (PathBuf, Option<PathBuf>, bool);

/// Heads kept between epochs, shared by successive loaders.
#[derive(Clone)]
pub struct HeadCache {
    heads: Arc<Mutex<HashMap<HeadKey, Arc<StoredHead>>>>,
    most_bytes: usize,
}

impl HeadCache {
    /// An empty cache for so many MiB of heads.
    pub fn new(mib: usize) -> Self {
        Self { heads: Arc::default(), most_bytes: mib.saturating_mul(1 << 20) }
    }

    /// The head of a pair, from memory when it is kept.
    ///
    /// # Errors
    /// As [`StoredHead::read`].
    pub fn get_or_read(
        &self,
        gpu: &Arc<Gpu>,
        pair: &Pair,
        spec: &GridSpec,
        spatial: bool,
    ) -> Result<Arc<StoredHead>, PipelineError> {
        const HELD: &str = "nothing panics while the heads are locked";
        let key = (pair.image.clone(), pair.mask.clone(), spatial);
        if let Some(head) = self.heads.lock().expect(HELD).get(&key) {
            return Ok(Arc::clone(head));
        }
        let head = Arc::new(StoredHead::read(gpu, pair, spec, spatial)?);
        let mut kept = self.heads.lock().expect(HELD);
        let bytes: usize = kept.values().map(|h| h.bytes()).sum();
        if bytes + head.bytes() <= self.most_bytes {
            kept.insert(key, Arc::clone(&head));
        }
        Ok(head)
    }
}

/// The heads of an epoch: whole shuffled passes, as many as it takes.
pub(super) fn epoch_order(
    training: &[LabelledHead],
    seed: u64,
    epoch: usize,
    samples: usize,
) -> Vec<LabelledHead> {
    // Passes are numbered through the run, so that epochs shorter than a pass go through all heads in turn.
    let first = epoch * samples;
    let mut order = Vec::with_capacity(samples);
    let mut pass = first / training.len();
    let mut skip = first % training.len();
    while order.len() < samples {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(pass as u64 + 1);
        let mut shuffled: Vec<&LabelledHead> = training.iter().collect();
        shuffled.shuffle(&mut rng);
        order.extend(shuffled.into_iter().skip(skip).take(samples - order.len()).cloned());
        skip = 0;
        pass += 1;
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_panics_is_an_error_and_never_a_short_list() {
        let read = |n: usize| if n == 3 { panic!("voxel {n} is a teapot") } else { Ok(n) };
        let items: Vec<Read<usize>> = Loader::of((0..10).collect(), read).collect();
        assert_eq!(items.len(), 4);
        assert_eq!(items[..3].iter().flatten().copied().collect::<Vec<_>>(), [0, 1, 2]);
        let error = items[3].as_ref().unwrap_err().to_string();
        assert!(error.contains("voxel 3 is a teapot"), "{error}");
    }

    #[test]
    fn an_error_takes_the_place_of_its_item() {
        let read = |n: usize| if n == 1 { Err(PipelineError::NoBrain) } else { Ok(n) };
        let items: Vec<Read<usize>> = Loader::of(vec![0, 1, 2], read).collect();
        assert!(matches!(items[..], [Ok(0), Err(PipelineError::NoBrain), Ok(2)]));
    }
}
