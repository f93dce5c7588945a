//! Small heads with their masks, as files.

use crate::nii::Nii;

/// Extents of the heads.
pub const SHAPE: [usize; 3] = [22, 24, 20];
/// Voxels of the heads.
pub const VOXELS: usize = 22 * 24 * 20;
/// Edge of a voxel in mm.
pub const VOXEL_MM: f64 = 7.5;

/// How far a voxel is from a point near the middle, in units of the head's radius; the head is lopsided, so that left is
/// not right.
pub fn radius(ix: usize) -> f64 {
    let at = [ix % SHAPE[0], ix / SHAPE[0] % SHAPE[1], ix / (SHAPE[0] * SHAPE[1])];
    let scaled: [f64; 3] =
        std::array::from_fn(|a| (at[a] as f64 - (SHAPE[a] as f64 - 1.0) / 2.0) / (SHAPE[a] as f64 * 0.45));
    let bump = if scaled[0] > 0.0 { 1.0 + 0.2 * scaled[1].max(0.0) } else { 1.0 };
    scaled.map(|v| v * v).iter().sum::<f64>().sqrt() * bump
}

/// A float image of these values, voxels of [`VOXEL_MM`] along RAS axes, the origin in the middle.
pub fn image(values: impl Fn(usize) -> f32) -> Nii {
    let half = SHAPE.map(|n| -VOXEL_MM * (n as f64 - 1.0) / 2.0);
    Nii {
        dim: SHAPE.map(|n| n as i64).into(),
        datatype: 16,
        bits: 32,
        pixdim: [1.0, VOXEL_MM, VOXEL_MM, VOXEL_MM, 1.0, 1.0, 1.0, 1.0],
        srow: std::array::from_fn(|row| {
            let mut line = [0.0, 0.0, 0.0, half[row]];
            line[row] = VOXEL_MM;
            line
        }),
        data: (0..VOXELS).flat_map(|ix| values(ix).to_le_bytes()).collect(),
        ..Nii::new()
    }
}

/// Brain, a dark gap, a bright scalp, air; `seed` moves the texture.
pub fn head(seed: u32) -> Nii {
    image(|ix| {
        let tissue = match radius(ix) {
            r if r < 0.7 => 400.0,
            r if r < 0.85 => 80.0,
            r if r < 1.0 => 700.0,
            _ => 5.0,
        };
        tissue
            + (ix as u32).wrapping_mul(2_654_435_761).wrapping_add(seed.wrapping_mul(40_503)).rotate_left(9)
                as f32
                / u32::MAX as f32
                * 20.0
    })
}

/// The mask of every [`head`].
pub fn mask() -> Nii {
    image(|ix| f32::from(u8::from(radius(ix) < 0.7)))
}
