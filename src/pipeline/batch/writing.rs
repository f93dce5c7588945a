//! Writes the heads of a batch, volume by volume: all outputs of a head or none.

use std::path::Path;
use std::time::Instant;

use super::reading::Work;
use super::rows::peak_memory_mb;
use super::{BatchOptions, Keeper, Outputs, Row, Status};
use crate::pipeline::input::finite;
use crate::pipeline::report::qc;
use crate::pipeline::strip::{StripOptions, Stripped};
use crate::pipeline::{PipelineError, write_whole};
use crate::volume::image::{Content, Image, Info, VolumeWriter};
use crate::volume::unfinished::Together;
use crate::volume::{Volume, VolumeError};

/// What is done, in order.
pub(super) enum Done {
    /// A head begins.
    Begun(Work),
    /// Its next results, for the volume that the image holds; and whether the brain in that volume follows, under the mask of
    /// these results or of those before.
    Volume { image: Box<Image>, results: Option<Box<Results>>, brain: bool },
    /// A head ends, with this row.
    Head(Box<Row>),
}

/// Arrays to write for a volume, empty where nobody asked for them.
#[derive(Default)]
pub(super) struct Results {
    mask: Vec<u8>,
    probability: Vec<f32>,
    distance: Vec<f32>,
    bias: Vec<f32>,
    corrected: Vec<f32>,
    /// Whether there is a brain.
    found: bool,
    /// What was stripped, where that is the mean of all volumes.
    pub mean: Option<Volume>,
}

impl Results {
    pub fn of(stripped: Stripped) -> Self {
        Self {
            mask: stripped.mask,
            probability: stripped.probability.unwrap_or_default(),
            distance: stripped.distance_mm.unwrap_or_default(),
            bias: stripped.bias.unwrap_or_default(),
            corrected: stripped.corrected.unwrap_or_default(),
            found: true,
            mean: None,
        }
    }

    /// Those of a volume without a brain: the border is infinitely far, and the volume stays as it is.
    pub fn none(volume: Volume, options: &StripOptions) -> Self {
        let voxels = volume.data.len();
        let of = |wanted: bool, value: f32| if wanted { vec![value; voxels] } else { Vec::new() };
        Self {
            mask: vec![0; voxels],
            probability: of(options.probability, 0.0),
            distance: of(options.distance, f32::INFINITY),
            bias: of(options.corrected, 1.0),
            corrected: if options.corrected { volume.data } else { Vec::new() },
            found: false,
            mean: None,
        }
    }
}

/// Writes what is done until no more comes, and gives a row for each head.
pub(super) fn write_all(
    done: &mut dyn Iterator<Item = Done>,
    options: &BatchOptions,
    mut keeper: Option<&mut (dyn Keeper + 'static)>,
    mut tell: impl FnMut(&Row),
) -> Result<Vec<Row>, PipelineError> {
    let mut rows: Vec<Row> = Vec::new();
    // Whatever ends the batch from now on, a later one knows that what lies there is its own.
    if let Some(keeper) = &mut keeper {
        keeper.keep(&rows, false)?;
    }
    let mut head: Option<Head> = None;
    for done in done {
        let row = match done {
            Done::Begun(work) => {
                head = Some(Head { work, files: Ok(None), seconds: 0.0 });
                continue;
            }
            Done::Volume { image, results, brain } => {
                let head = head.as_mut().expect("a head begins before its volumes");
                head.append(*image, results.map(|results| *results), brain, options);
                continue;
            }
            Done::Head(row) => *row,
        };
        let mut row = match head.take() {
            Some(head) if row.status != Status::Failed => head.finish(row, options, keeper.as_deref()),
            _ => row,
        };
        if !row.kept {
            row.peak_memory_mb = peak_memory_mb();
        }
        tell(&row);
        rows.push(row);
        if let Some(keeper) = &mut keeper {
            keeper.keep(&rows, false)?;
        }
    }
    if let Some(keeper) = &mut keeper {
        keeper.keep(&rows, true)?;
    }
    Ok(rows)
}

/// A head while it is written.
struct Head {
    work: Work,
    /// Its files from the first volume on, or what is wrong with them.
    files: Result<Option<Files>, PipelineError>,
    seconds: f64,
}

impl Head {
    fn append(&mut self, image: Image, results: Option<Results>, brain: bool, options: &BatchOptions) {
        let begun = Instant::now();
        // After a failure, the rest is for nothing.
        if let Ok(files) = &mut self.files {
            let appended = match files.take().map_or_else(|| Files::begin(&self.work, &image, options), Ok) {
                Ok(mut begun) => begun.append(image, results, brain, options).map(|()| Some(begun)),
                Err(error) => Err(error),
            };
            self.files = appended;
        }
        self.seconds += begun.elapsed().as_secs_f64();
    }

    /// The row of a head whose files are complete, or could not be written.
    fn finish(self, mut row: Row, options: &BatchOptions, keeper: Option<&(dyn Keeper + 'static)>) -> Row {
        let begun = Instant::now();
        let outputs = self.work.outputs;
        let written = self.files.and_then(|files| {
            let files = files.expect("a head that has not failed has volumes");
            let mut together = files.finish(&outputs, &row, options)?;
            for (path, bytes) in keeper.iter().flat_map(|keeper| keeper.sidecars(&row, &outputs)) {
                write_whole(&path, &bytes)?;
                together.add(&path);
            }
            Ok(together)
        });
        row.add_seconds("write", self.seconds + begun.elapsed().as_secs_f64());
        match written {
            Ok(together) => {
                together.keep();
                Row { outputs: Some(outputs), ..row }
            }
            Err(error) => {
                let text = error.about(&row.path);
                row.failed(text)
            }
        }
    }
}

/// The images of a head on their way.
struct Files {
    brain: Option<VolumeWriter>,
    mask: Option<VolumeWriter>,
    /// Distance, probability, bias field, corrected head.
    floats: [Option<VolumeWriter>; 4],
    /// The mask of the last results.
    last_mask: Vec<u8>,
    /// What the last volume's header says.
    info: Info,
    /// What the picture shows: the first volume with a brain, and its mask.
    shown: Option<(Shown, Vec<u8>)>,
}

enum Shown {
    AsRead(Box<Image>),
    Mean(Volume),
}

impl Files {
    fn begin(work: &Work, like: &Image, options: &BatchOptions) -> Result<Self, PipelineError> {
        let Work { outputs, volumes, mean } = work;
        if options.create_folders {
            for folder in outputs.all().into_iter().filter_map(Path::parent) {
                std::fs::create_dir_all(folder)
                    .map_err(|source| PipelineError::Write { file: folder.to_path_buf(), source })?;
            }
        }
        let masks = if *mean { 1 } else { *volumes };
        let begin = |path: &Option<_>, volumes, content| -> Result<_, VolumeError> {
            path.as_ref().map(|path| VolumeWriter::begin(path, like, volumes, content)).transpose()
        };
        let floats = |path| begin(path, masks, Content::Floats);
        Ok(Self {
            brain: begin(&outputs.brain, *volumes, Content::Stripped)?,
            mask: begin(&outputs.mask, masks, Content::Labels)?,
            floats: [
                floats(&outputs.distance)?,
                floats(&outputs.probability)?,
                floats(&outputs.bias)?,
                floats(&outputs.corrected)?,
            ],
            last_mask: Vec::new(),
            info: like.info().clone(),
            shown: None,
        })
    }

    fn append(
        &mut self,
        image: Image,
        results: Option<Results>,
        brain: bool,
        options: &BatchOptions,
    ) -> Result<(), PipelineError> {
        self.info = image.info().clone();
        let (mut found, mut mean) = (false, None);
        if let Some(results) = results {
            if let Some(mask) = &mut self.mask {
                mask.labels(&results.mask)?;
            }
            let arrays = [&results.distance, &results.probability, &results.bias, &results.corrected];
            for (file, values) in self.floats.iter_mut().zip(arrays) {
                if let Some(file) = file {
                    file.floats(values)?;
                }
            }
            (self.last_mask, found, mean) = (results.mask, results.found, results.mean);
        }
        if let Some(file) = self.brain.as_mut().filter(|_| brain) {
            file.stripped(&image, &self.last_mask, options.fill.unwrap_or(0.0))?;
        }
        if found && self.shown.is_none() {
            let shown = mean.map_or_else(|| Shown::AsRead(Box::new(image)), Shown::Mean);
            self.shown = Some((shown, self.last_mask.clone()));
        }
        Ok(())
    }

    /// Gives the files their names and draws the picture, which says what the row warns of. They stay if what is returned is
    /// kept.
    fn finish(self, outputs: &Outputs, row: &Row, options: &BatchOptions) -> Result<Together, PipelineError> {
        let mut written = Together::default();
        let [distance, probability, bias, corrected] = self.floats;
        let files = [
            (self.brain, &outputs.brain),
            (self.mask, &outputs.mask),
            (distance, &outputs.distance),
            (probability, &outputs.probability),
            (bias, &outputs.bias),
            (corrected, &outputs.corrected),
        ];
        for (file, path) in files {
            if let (Some(file), Some(path)) = (file, path) {
                file.finish(&self.info)?;
                written.add(path);
            }
        }
        if let (Some(path), Some((shown, mask))) = (&outputs.qc, self.shown) {
            let volume = match shown {
                Shown::Mean(mean) => mean,
                Shown::AsRead(image) => finite(&image, 0)?,
            };
            let caption = qc::Caption {
                file: row.path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
                brain_ml: row.brain_ml,
                score: row.score,
                model: options.model.clone(),
            };
            qc::write(path, &volume, &mask, &caption, &row.warnings)?;
            written.add(path);
        }
        Ok(written)
    }
}
