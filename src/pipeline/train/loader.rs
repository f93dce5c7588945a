//! Heads read ahead of their use in a thread, and those kept in memory.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, mpsc};

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::head::StoredHead;
use crate::gpu::Gpu;
use crate::model::GridSpec;
use crate::pipeline::PipelineError;
use crate::volume::pairs::Pair;

/// Reads heads ahead of their use and keeps those that fit in memory.
pub struct Loader {
    heads: mpsc::Receiver<Result<Arc<StoredHead>, PipelineError>>,
}

/// Heads kept between epochs, shared by successive loaders.
#[derive(Clone, Default)]
pub struct HeadCache(Arc<Mutex<HashMap<PathBuf, Arc<StoredHead>>>>);

impl Loader {
    /// Starts reading `order` in a thread, two heads ahead of their use.
    pub fn start(
        gpu: &Arc<Gpu>,
        order: Vec<Pair>,
        spec: &GridSpec,
        spatial: bool,
        cache: &HeadCache,
        cache_bytes: usize,
    ) -> Self {
        let (sender, heads) = mpsc::sync_channel(2);
        let (gpu, spec, cache) = (Arc::clone(gpu), spec.clone(), cache.clone());
        std::thread::spawn(move || {
            for pair in order {
                let head = cache.get_or_read(&gpu, &pair, &spec, spatial, cache_bytes);
                // The receiver is gone when training stops: nothing more to read.
                if sender.send(head).is_err() {
                    return;
                }
            }
        });
        Self { heads }
    }
}

impl Iterator for Loader {
    type Item = Result<Arc<StoredHead>, PipelineError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.heads.recv().ok()
    }
}

impl HeadCache {
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
        cache_bytes: usize,
    ) -> Result<Arc<StoredHead>, PipelineError> {
        if let Some(head) = self.0.lock().expect("no panic while held").get(&pair.image) {
            return Ok(Arc::clone(head));
        }
        let head = Arc::new(StoredHead::read(gpu, pair, spec, spatial)?);
        let mut kept = self.0.lock().expect("no panic while held");
        let bytes: usize = kept.values().map(|h| h.bytes()).sum();
        if bytes + head.bytes() <= cache_bytes {
            kept.insert(pair.image.clone(), Arc::clone(&head));
        }
        Ok(head)
    }
}

/// The heads of an epoch: whole shuffled passes, as many as it takes.
pub(super) fn epoch_order(training: &[Pair], seed: u64, epoch: usize, samples: usize) -> Vec<Pair> {
    // Passes are numbered through the run, so that epochs shorter than a pass go through all heads in turn.
    let first = epoch * samples;
    let mut order = Vec::with_capacity(samples);
    let mut pass = first / training.len();
    let mut skip = first % training.len();
    while order.len() < samples {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(pass as u64 + 1);
        let mut shuffled: Vec<&Pair> = training.iter().collect();
        shuffled.shuffle(&mut rng);
        order.extend(shuffled.into_iter().skip(skip).take(samples - order.len()).cloned());
        skip = 0;
        pass += 1;
    }
    order
}
