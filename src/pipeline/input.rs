//! Images whose voxels are known to be of use.

use std::collections::BTreeMap;
use std::path::Path;

use crate::volume::image::{self, FrameChoice, Image};
use crate::volume::{Problem, Volume, VolumeError};

/// An image whose voxels are known to be of use.
pub struct Input {
    /// As read.
    pub image: Image,
    /// What is odd about it.
    pub warnings: Vec<String>,
    /// Volumes of a series that are of no use, by their place among the held ones: all alike, or without a finite value.
    pub hopeless: BTreeMap<usize, Problem>,
    choice: FrameChoice,
}

impl Input {
    /// Reads an image and looks at its voxels: NaN and infinite ones will count as 0.
    ///
    /// # Errors
    /// A file that cannot be read, or a volume whose voxels are all alike or all not finite; of a series, it is named.
    pub fn read(path: &Path, choice: FrameChoice) -> Result<Self, VolumeError> {
        let mut input = Self::read_series(path, choice)?;
        match input.hopeless.pop_first() {
            Some((frame, problem)) => Err(input.in_frame(frame, problem).at(path)),
            None => Ok(input),
        }
    }

    /// As [`Input::read`], with volumes of no use left to the caller, unless there is no other.
    ///
    /// # Errors
    /// A file that cannot be read, or one without any volume of use.
    pub fn read_series(path: &Path, choice: FrameChoice) -> Result<Self, VolumeError> {
        let mut input = Self::read_as_it_is(path, choice)?;
        for frame in 0..input.image.frames() {
            let mut volume = input.image.frame_f32(frame)?;
            match volume.check_content() {
                Ok(_) => {
                    let name = input.frame_name(frame).map(|name| format!("{name}: ")).unwrap_or_default();
                    let replaced = volume.replace_non_finite();
                    input.warnings.extend(replaced.map(|warning| format!("{name}{warning}")));
                }
                Err(problem) => drop(input.hopeless.insert(frame, problem)),
            }
        }
        if input.hopeless.len() < input.image.frames() {
            return Ok(input);
        }
        match input.hopeless.pop_first() {
            // It is true of the whole file.
            Some((_, problem)) if input.image.frames() == input.image.info().frames => Err(problem.at(path)),
            Some((frame, problem)) => Err(input.in_frame(frame, problem).at(path)),
            None => Ok(input),
        }
    }

    /// Reads an image without a look at its voxels.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn read_as_it_is(path: &Path, choice: FrameChoice) -> Result<Self, VolumeError> {
        let image = image::read(path, choice)?;
        let warnings = image.warnings().iter().map(ToString::to_string).collect();
        Ok(Self { image, warnings, hopeless: BTreeMap::new(), choice })
    }

    /// A held volume, finite: made anew from the stored voxels, so that it takes memory only while it is used.
    ///
    /// # Errors
    /// When the image does not hold it.
    pub fn volume(&self, frame: usize) -> Result<Volume, VolumeError> {
        let mut volume = self.image.frame_f32(frame)?;
        volume.replace_non_finite();
        Ok(volume)
    }

    /// `volume 3`, as `--volume` counts; `None` where the file has one only.
    pub fn frame_name(&self, frame: usize) -> Option<String> {
        (self.image.info().frames > 1).then(|| format!("volume {}", self.frame_number(frame)))
    }

    fn frame_number(&self, frame: usize) -> usize {
        match self.choice {
            FrameChoice::One(number) => number,
            FrameChoice::Only | FrameChoice::All => frame,
        }
    }

    fn in_frame(&self, frame: usize, problem: Problem) -> Problem {
        match self.image.info().frames {
            1 => problem,
            _ => Problem::InVolume { number: self.frame_number(frame), problem: Box::new(problem) },
        }
    }
}

/// Adds the values of a further volume; those of the first are taken without a copy.
pub fn append<T>(all: &mut Vec<T>, mut more: Vec<T>) {
    if all.is_empty() {
        *all = more;
    } else {
        all.append(&mut more);
    }
}
