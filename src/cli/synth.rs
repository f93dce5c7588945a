//! `trephine synth`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{anyhow, bail};
use clap::Args;
use serde::Deserialize;
use serde_json::json;
use trephine::gpu::Gpu;
use trephine::pipeline::report::contact::ContactSheet;
use trephine::pipeline::synth::list::{self, Listed};
use trephine::pipeline::synth::tissue::family_of;
use trephine::pipeline::synth::{LabelMap, Synthesis, SyntheticHead};
use trephine::volume::image;

use super::files::{check_folder, check_outputs};
use super::json::named;
use super::terminal::one_line;
use super::{Outcome, Session, usage};

/// Make a head of random anatomy, contrast and scanner from a label map, with its brain
///
/// A head is a function of map, settings and seed. What each label of a map stands for is said by its family: one that
/// the program knows (synthseg-v1, synthseg-v2, brainweb20, brainweb-discrete, mcx), a TOML file, or the file labels.toml
/// beside the map. The head is written as a scanner stores it: in the voxels of its draw, thick slices and oblique boxes
/// included.
#[derive(Debug, Args)]
#[command(
    after_long_help = "Example:\n  trephine synth --labels map.nii.gz --family synthseg-v2 --seed 7 -o head.nii.gz -m mask.nii.gz\n  trephine synth --labels maps.tsv --sheet sheet.png --count 24"
)]
pub(super) struct Options {
    /// Label map; for --sheet also a table with the columns image and family, or a folder with labels.toml
    #[arg(short, long, value_name = "FILE|TSV|DIR")]
    labels: PathBuf,
    /// What its labels stand for: a family that the program knows, or a TOML file [default: labels.toml beside the map]
    #[arg(short, long, value_name = "NAME|TOML")]
    family: Option<String>,
    /// Seed of the draw
    #[arg(short, long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Head to write, float32
    #[arg(short, long, value_name = "FILE", required_unless_present = "sheet")]
    output: Option<PathBuf>,
    /// Mask of its brain to write, uint8
    #[arg(short, long, value_name = "FILE", requires = "output")]
    mask: Option<PathBuf>,
    /// Mask of its brain without the CSF round it to write, uint8
    #[arg(long, value_name = "FILE", requires = "output")]
    mask_no_csf: Option<PathBuf>,
    /// Picture of many heads to write, with the outlines of their brains
    #[arg(long, value_name = "PNG", conflicts_with = "output")]
    sheet: Option<PathBuf>,
    /// Heads of that picture, of one map after the other and of seeds that count up
    #[arg(long, value_name = "N", default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=600))]
    count: u32,
    /// Edge of the smallest voxels in mm
    #[arg(long, value_name = "MM", default_value_t = 1.0)]
    voxel_mm: f64,
    /// Value of no signal [default: at random, mostly 0]
    #[arg(long, value_name = "VALUE", allow_negative_numbers = true)]
    background: Option<f32>,
    /// Settings: the table [synthesis] of a training's TOML file
    #[arg(long, value_name = "TOML")]
    config: Option<PathBuf>,
    /// Replace files that exist
    #[arg(long)]
    force: bool,
}

/// The part of a training's configuration that counts here.
#[derive(Deserialize)]
struct ConfigFile {
    #[serde(default)]
    synthesis: Synthesis,
}

impl Options {
    fn synthesis(&self) -> anyhow::Result<Synthesis> {
        let Some(path) = &self.config else { return Ok(Synthesis::default()) };
        let fail = |reason: &str| anyhow!("{}: {}", path.display(), one_line(reason));
        let text = std::fs::read_to_string(path)
            .map_err(|e| fail(&format!("cannot be read: {e}; check the path")))?;
        let ConfigFile { synthesis } = toml::from_str(&text).map_err(|e: toml::de::Error| {
            fail(&format!("is not a training configuration: {}", e.message()))
        })?;
        let faults = synthesis.faults();
        if !faults.is_empty() {
            return Err(fail(&faults.join("; ")));
        }
        Ok(synthesis)
    }

    /// Checks options and names before any work.
    fn check(&self) -> anyhow::Result<()> {
        if !(0.25..=10.0).contains(&self.voxel_mm) {
            return Err(usage(format!("--voxel-mm is {}, must be 0.25 to 10", self.voxel_mm)));
        }
        if self.background.is_some_and(|value| !value.is_finite()) {
            return Err(usage("--background must be a finite number"));
        }
        let images: Vec<&Path> =
            self.output.iter().chain(&self.mask).chain(&self.mask_no_csf).map(PathBuf::as_path).collect();
        check_outputs(&images, &[&self.labels])?;
        for output in images.into_iter().chain(self.sheet.as_deref()) {
            check_folder(output)?;
            if output.is_file() && !self.force {
                bail!("{}: exists already; replace it with --force, or give another name", output.display());
            }
        }
        Ok(())
    }

    /// The maps that --labels names.
    fn maps(&self) -> anyhow::Result<Vec<Listed>> {
        let path = &self.labels;
        let is_table = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("tsv"));
        if path.is_dir() || is_table {
            if self.sheet.is_none() {
                return Err(usage("--labels names several maps; name one, or write a --sheet"));
            }
            if self.family.is_some() {
                return Err(usage(
                    "--family is for a single map; a table has a column, a folder labels.toml",
                ));
            }
            return Ok(list::list(path)?);
        }
        Ok(vec![Listed { file: path.clone(), family: family_of(path, self.family.as_deref())? }])
    }

    pub async fn run(self, session: &Session) -> anyhow::Result<Outcome> {
        self.check()?;
        let synthesis = self.synthesis()?;
        let maps = self.maps()?;
        let gpu = session.gpu().await?;
        match &self.sheet {
            Some(sheet) => self.write_sheet(sheet, &maps, &synthesis, &gpu, session).await,
            None => self.write_pair(&maps[0], &synthesis, &gpu, session).await,
        }
    }

    async fn write_pair(
        &self,
        listed: &Listed,
        synthesis: &Synthesis,
        gpu: &Arc<Gpu>,
        session: &Session,
    ) -> anyhow::Result<Outcome> {
        let map = LabelMap::read(&listed.file, &listed.family, None)?;
        let head =
            SyntheticHead::make(gpu, &map, synthesis, self.seed, 0, self.voxel_mm, self.background).await?;
        let mask = head.mask(gpu).await?;
        let source = image::read_single(&listed.file)?;
        let (shape, affine) = (head.image.shape, head.image.affine);
        if let Some(output) = &self.output {
            image::write_new(output, shape, &affine, &head.image.data, &source)?;
        }
        if let Some(output) = &self.mask {
            image::write_new_mask(output, shape, &affine, &mask, &source)?;
        }
        if let Some(output) = &self.mask_no_csf {
            image::write_new_mask(output, shape, &affine, &head.mask_without_csf(gpu).await?, &source)?;
        }
        let voxels = mask.iter().filter(|&&v| v != 0).count();
        let brain_ml = voxels as f64 * head.image.voxel_volume_ml();
        for output in self.output.iter().chain(&self.mask).chain(&self.mask_no_csf) {
            session.terminal.note(&format!("wrote {}", output.display()));
        }
        let contrast = format!("{:?}", head.contrast);
        session.terminal.note(&format!("{contrast}, {brain_ml:.0} mL of brain in view"));
        session.terminal.json(&json!({
            "adapter": gpu.summary,
            "output": self.output.as_deref().map(named),
            "mask": self.mask.as_deref().map(named),
            "mask_no_csf": self.mask_no_csf.as_deref().map(named),
            "seed": self.seed,
            "contrast": contrast,
            "brain_ml": brain_ml,
            "background": head.units.background,
        }))?;
        Ok(Outcome::Done)
    }

    async fn write_sheet(
        &self,
        sheet: &Path,
        maps: &[Listed],
        synthesis: &Synthesis,
        gpu: &Arc<Gpu>,
        session: &Session,
    ) -> anyhow::Result<Outcome> {
        let count = self.count as usize;
        // Spread over the list: the families of a table stand one after the other.
        let chosen = |head: usize| &maps[head * maps.len() / count];
        let mut picture = ContactSheet::new(count);
        let mut last: Option<LabelMap> = None;
        for head in 0..count {
            let listed = chosen(head);
            // Heads of one map follow each other, and reading it takes longer than making one.
            let map = match last.take() {
                Some(map) if map.file == listed.file => map,
                _ => LabelMap::read(&listed.file, &listed.family, Some(synthesis.store_mm))?,
            };
            let seed = self.seed.wrapping_add(head as u64);
            let made =
                SyntheticHead::make(gpu, &map, synthesis, seed, 0, self.voxel_mm, self.background).await?;
            picture.add(&made.image, &made.mask(gpu).await?);
            log::info!("{}: seed {seed}, {:?}, {:.0} mL", listed.file.display(), made.contrast, map.brain_ml);
            last = Some(map);
        }
        picture.write(sheet)?;
        session.terminal.note(&format!("wrote {}", sheet.display()));
        session.terminal.json(&json!({ "adapter": gpu.summary, "sheet": named(sheet), "heads": count }))?;
        Ok(Outcome::Done)
    }
}
