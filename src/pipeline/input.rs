//! Images whose voxels are known to be of use.

use std::path::Path;

use crate::volume::image::{self, FrameChoice, Image, Info, Volumes};
use crate::volume::{Problem, Volume, VolumeError, Warning};

/// An image whose voxels are known to be of use.
pub struct Input {
    /// As read.
    pub image: Image,
    /// What is odd about it.
    pub warnings: Vec<String>,
    choice: FrameChoice,
}

impl Input {
    /// Reads an image and looks at its voxels: NaN and infinite ones will count as 0.
    ///
    /// # Errors
    /// A file that cannot be read, or a volume whose voxels are all alike or all not finite; of a series, it is named.
    pub fn read(path: &Path, choice: FrameChoice) -> Result<Self, VolumeError> {
        let mut input = Self::read_as_it_is(path, choice)?;
        for frame in 0..input.image.frames() {
            match look_at(&input.image, frame)? {
                Ok(replaced) => {
                    let name = input.frame_name(frame).map(|name| format!("{name}: ")).unwrap_or_default();
                    input.warnings.extend(replaced.map(|warning| format!("{name}{warning}")));
                }
                Err(problem) => return Err(input.in_frame(frame, problem).at(path)),
            }
        }
        Ok(input)
    }

    /// Reads an image without a look at its voxels.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn read_as_it_is(path: &Path, choice: FrameChoice) -> Result<Self, VolumeError> {
        let image = image::read(path, choice)?;
        let warnings = image.warnings().iter().map(ToString::to_string).collect();
        Ok(Self { image, warnings, choice })
    }

    /// A held volume, finite: made anew from the stored voxels, so that it takes memory only while it is used.
    ///
    /// # Errors
    /// When the image does not hold it.
    pub fn volume(&self, frame: usize) -> Result<Volume, VolumeError> {
        finite(&self.image, frame)
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

/// A held volume of an image, finite.
pub(super) fn finite(image: &Image, frame: usize) -> Result<Volume, VolumeError> {
    let mut volume = image.frame_f32(frame)?;
    volume.replace_non_finite();
    Ok(volume)
}

/// What is odd about a held volume of an image, or why it is of no use.
fn look_at(image: &Image, frame: usize) -> Result<Result<Option<Warning>, Problem>, VolumeError> {
    let mut volume = image.frame_f32(frame)?;
    Ok(volume.check_content().map(|_| volume.replace_non_finite()))
}

/// A volume of an image that is read one volume after the other.
pub struct Frame {
    /// It alone.
    pub image: Image,
    /// What is odd about its voxels.
    pub warnings: Vec<String>,
    /// Why it is of no use: all voxels are alike, or none is finite. Only of a series; elsewhere that is an error.
    pub hopeless: Option<Problem>,
}

impl Frame {
    /// As [`Input::volume`].
    ///
    /// # Errors
    /// None, as it is held.
    pub fn volume(&self) -> Result<Volume, VolumeError> {
        finite(&self.image, 0)
    }
}

/// The chosen volumes of an image one after the other, in the memory of one.
pub enum Frames {
    /// One volume, read already.
    One(Box<Option<Frame>>, Box<Info>),
    /// All, and the number of the next.
    Series(Box<Volumes>, usize),
}

impl Frames {
    /// Opens an image.
    ///
    /// # Errors
    /// A file that cannot be read, or one volume that is of no use.
    pub fn open(path: &Path, choice: FrameChoice) -> Result<Self, VolumeError> {
        if choice == FrameChoice::All {
            return Ok(Self::Series(Box::new(Volumes::open(path)?), 0));
        }
        let Input { image, warnings, .. } = Input::read(path, choice)?;
        // Those of the header are told by whoever opens it.
        let warnings = warnings[image.warnings().len()..].to_vec();
        let info = Box::new(image.info().clone());
        Ok(Self::One(Box::new(Some(Frame { image, warnings, hopeless: None })), info))
    }

    /// What the header says.
    pub fn info(&self) -> &Info {
        match self {
            Self::One(_, info) => info,
            Self::Series(volumes, _) => volumes.info(),
        }
    }

    /// How many they are.
    pub fn count(&self) -> usize {
        match self {
            Self::One(..) => 1,
            Self::Series(volumes, _) => volumes.info().frames,
        }
    }

    /// Whether they can be read once only: they come through a pipe.
    pub fn come_once(&self) -> bool {
        matches!(self, Self::Series(volumes, _) if volumes.come_once())
    }

    /// The next volume; `None` after the last.
    ///
    /// # Errors
    /// A file that ends early or is damaged, or whose only volume is of no use.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, VolumeError> {
        let (volumes, number) = match self {
            Self::One(frame, _) => return Ok(frame.take()),
            Self::Series(volumes, number) => (volumes, number),
        };
        let Some(image) = volumes.next_volume()? else { return Ok(None) };
        let (mut warnings, mut hopeless) = (Vec::new(), None);
        let alone = volumes.info().frames == 1;
        match look_at(&image, 0)? {
            Ok(replaced) => warnings.extend(replaced.map(|warning| match alone {
                true => warning.to_string(),
                false => format!("volume {number}: {warning}"),
            })),
            Err(problem) if alone => return Err(problem.at(image.path())),
            Err(problem) => hopeless = Some(problem),
        }
        *number += 1;
        Ok(Some(Frame { image, warnings, hopeless }))
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
