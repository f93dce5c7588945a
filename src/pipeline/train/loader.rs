//! Heads for training: their files read ahead of their use in a thread, and those kept in memory.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::data::{LabelledHead, Row};
use super::head::{HeadFiles, StoredHead};
use crate::gpu::Gpu;
use crate::model::Description;
use crate::pipeline::PipelineError;
use crate::pipeline::threads::ReadAhead;

type Read<T> = Result<T, PipelineError>;

/// Heads in a given order. A thread reads their files ahead; they are brought to their store grid where they are
/// awaited. Every head that was ordered comes out, or an error in its place.
pub struct Loader {
    gpu: Arc<Gpu>,
    network: Description,
    spatial: bool,
    cache: HeadCache,
    files: Reader<Found>,
    ready: VecDeque<Read<Arc<StoredHead>>>,
}

/// What the thread has of a head.
enum Found {
    Kept(Arc<StoredHead>),
    Files(Box<HeadFiles>),
}

/// Heads read ahead of their use; a raw head takes several times the memory of a stored one.
const AHEAD: usize = 1;

impl Loader {
    /// Starts reading heads in this order.
    pub fn start(
        gpu: &Arc<Gpu>,
        order: Vec<LabelledHead>,
        network: &Description,
        spatial: bool,
        cache: &HeadCache,
    ) -> Self {
        let kept = cache.clone();
        let files = Reader::of(order, move |head: LabelledHead| match kept.get(head.row(), spatial) {
            Some(head) => Ok(Found::Kept(head)),
            None => Ok(Found::Files(Box::new(HeadFiles::read(head.row())?))),
        });
        let (gpu, network, cache) = (Arc::clone(gpu), network.clone(), cache.clone());
        Self { gpu, network, spatial, cache, files, ready: VecDeque::new() }
    }

    /// The next head; `None` after the last.
    pub async fn next(&mut self) -> Option<Read<Arc<StoredHead>>> {
        match self.ready.pop_front() {
            Some(head) => Some(head),
            None => self.load().await,
        }
    }

    /// Gets the next `heads` ready while the device is at something else.
    pub async fn get_ready(&mut self, heads: usize) {
        while self.ready.len() < heads
            && let Some(head) = self.load().await
        {
            self.ready.push_back(head);
        }
    }

    async fn load(&mut self) -> Option<Read<Arc<StoredHead>>> {
        match self.files.next().await? {
            Ok(Found::Kept(head)) => Some(Ok(head)),
            Ok(Found::Files(files)) => {
                Some(self.cache.get_or_store(&self.gpu, *files, &self.network, self.spatial).await)
            }
            Err(error) => Some(Err(error)),
        }
    }
}

/// What a thread reads, in order: every item, or an error in its place.
struct Reader<T> {
    items: ReadAhead<Read<T>>,
    /// Items still to come.
    left: usize,
}

impl<T: Send + 'static> Reader<T> {
    /// Starts reading what `order` names.
    fn of<O: Send + 'static>(order: Vec<O>, read: impl FnMut(O) -> Read<T> + Send + 'static) -> Self {
        let left = order.len();
        Self { items: ReadAhead::start(AHEAD, order.into_iter().map(read)), left }
    }

    async fn next(&mut self) -> Option<Read<T>> {
        if self.left == 0 {
            return None;
        }
        let words = match self.items.next().await {
            Ok(Some(item)) => {
                self.left -= 1;
                return Some(item);
            }
            Ok(None) => None,
            Err(panic) => {
                let owned = panic.downcast_ref::<String>().cloned();
                owned.or_else(|| panic.downcast_ref::<&str>().map(|&words| words.to_owned()))
            }
        };
        self.left = 0;
        Some(Err(PipelineError::Training(format!(
            "the thread that reads heads ended early ({}); go on with --resume, and report it if it happens again",
            words.as_deref().unwrap_or("without a word")
        ))))
    }
}

/// Image, mask, weights, the bits of their factor, and whether the head is stored with a margin.
type HeadKey = (PathBuf, Option<PathBuf>, Option<PathBuf>, u32, bool);

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

    /// The head of a row, if it is kept.
    pub fn get(&self, row: &Row, spatial: bool) -> Option<Arc<StoredHead>> {
        self.heads.lock().expect(HELD).get(&key(row, spatial)).cloned()
    }

    /// The head of a row, from memory when it is kept.
    ///
    /// # Errors
    /// As [`StoredHead::read`].
    pub async fn get_or_read(
        &self,
        gpu: &Arc<Gpu>,
        row: &Row,
        network: &Description,
        spatial: bool,
    ) -> Result<Arc<StoredHead>, PipelineError> {
        match self.get(row, spatial) {
            Some(head) => Ok(head),
            None => self.get_or_store(gpu, HeadFiles::read(row)?, network, spatial).await,
        }
    }

    /// The head of files that are read already, from memory when it is kept since.
    async fn get_or_store(
        &self,
        gpu: &Arc<Gpu>,
        files: HeadFiles,
        network: &Description,
        spatial: bool,
    ) -> Result<Arc<StoredHead>, PipelineError> {
        if let Some(head) = self.get(files.row(), spatial) {
            return Ok(head);
        }
        let key = key(files.row(), spatial);
        let head = Arc::new(StoredHead::of(gpu, files, network, spatial).await?);
        let mut kept = self.heads.lock().expect(HELD);
        let bytes: usize = kept.values().map(|h| h.bytes()).sum();
        if bytes + head.bytes() <= self.most_bytes {
            kept.insert(key, Arc::clone(&head));
        }
        Ok(head)
    }
}

/// Why the heads can be locked.
const HELD: &str = "nothing panics while the heads are locked";

fn key(row: &Row, spatial: bool) -> HeadKey {
    let Row { pair, weight } = row;
    (pair.image.clone(), pair.mask.clone(), weight.image.clone(), weight.factor.to_bits(), spatial)
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

    /// All that a reader gives.
    fn all(mut reader: Reader<usize>) -> Vec<Read<usize>> {
        pollster::block_on(async {
            let mut items = Vec::new();
            while let Some(item) = reader.next().await {
                items.push(item);
            }
            items
        })
    }

    #[test]
    fn a_reader_that_panics_is_an_error_and_never_a_short_list() {
        let read = |n: usize| if n == 3 { panic!("voxel {n} is a teapot") } else { Ok(n) };
        let items = all(Reader::of((0..10).collect(), read));
        assert_eq!(items.len(), 4);
        assert_eq!(items[..3].iter().flatten().copied().collect::<Vec<_>>(), [0, 1, 2]);
        let error = items[3].as_ref().unwrap_err().to_string();
        assert!(error.contains("voxel 3 is a teapot"), "{error}");
    }

    #[test]
    fn an_error_takes_the_place_of_its_item() {
        let read = |n: usize| if n == 1 { Err(PipelineError::NoBrain) } else { Ok(n) };
        let items = all(Reader::of(vec![0, 1, 2], read));
        assert!(matches!(items[..], [Ok(0), Err(PipelineError::NoBrain), Ok(2)]));
    }
}
