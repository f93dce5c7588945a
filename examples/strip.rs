//! Strips one head: `cargo run --release --example strip -- head.nii.gz mask.nii.gz`.

use std::sync::Arc;

use trephine::{Gpu, GpuOptions, StripOptions, Stripper, image, model};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The library blocks nowhere; a program without an executor of its own waits here.
    pollster::block_on(strip())
}

async fn strip() -> Result<(), Box<dyn std::error::Error>> {
    let names: Vec<String> = std::env::args().skip(1).collect();
    let [input, output] = &names[..] else { return Err("name a head and the mask to write".into()) };
    let gpu = Arc::new(Gpu::open(&GpuOptions::default()).await?);
    let mut stripper = Stripper::new(&gpu, &model::load("default")?).await?;
    let head = image::read_single(input)?;
    let stripped = stripper.strip(&head.frame_f32(0)?, &StripOptions::default()).await?;
    image::write_mask(output, &head, &stripped.mask)?;
    Ok(())
}
