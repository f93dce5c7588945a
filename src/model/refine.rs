//! Weights of a network for a network that does more: that reads and writes blocks of finer voxels, or says of the brain
//! without CSF what it says of the brain.

use super::description::{Description, LayerKind};
use super::unet::no_csf_twin;
use super::{Model, Tensors};

/// Lets the layers that say what is brain without CSF (see [`super::add_no_csf`]) begin as those that say what is brain, where
/// `tensors` lack them; tells whether they did.
pub fn begin_no_csf(tensors: &mut Tensors, description: &Description) -> bool {
    let own: Vec<(String, String)> =
        description.layers.iter().map(|layer| (layer.name.clone(), no_csf_twin(&layer.name))).collect();
    let mut begun = false;
    for (layer, twin) in own.iter().filter(|(_, twin)| description.layers.iter().any(|l| l.name == *twin)) {
        for part in ["weight", "bias"] {
            let name = format!("{twin}.{part}");
            if let (false, Some(values)) =
                (tensors.contains_key(&name), tensors.get(&format!("{layer}.{part}")))
            {
                tensors.insert(name, values.clone());
                begun = true;
            }
        }
    }
    begun
}

/// The weights of `parent` with which `finer` computes the same function of the means of blocks: where `finer` reads its
/// input by a `space_to_depth` and writes its logits by a `depth_to_space` of the same blocks, and `parent` knows neither.
/// Every convolution that reads a block gets the weight over the number of voxels for each of them, and the one that writes
/// blocks repeats its channels, so that all voxels of a block begin with the logit that `parent` gives the block. All else
/// is handed on as it is; whether it fits `finer` is for the caller to check.
///
/// `None` where the two do not differ in that way.
pub fn spread_over_blocks(parent: &Model, finer: &Description) -> Option<Tensors> {
    let reader = finer.layers.iter().find(|layer| matches!(layer.kind, LayerKind::SpaceToDepth { .. }))?;
    let writer = finer.layers.iter().find(|layer| layer.name == finer.output)?;
    let (LayerKind::SpaceToDepth { factor: read }, LayerKind::DepthToSpace { factor: written }) =
        (&reader.kind, &writer.kind)
    else {
        return None;
    };
    let knows_blocks =
        |kind: &LayerKind| matches!(kind, LayerKind::SpaceToDepth { .. } | LayerKind::DepthToSpace { .. });
    if reader.inputs != ["input"]
        || read != written
        || parent.description.answer != finer.answer
        || parent.description.layers.iter().any(|layer| knows_blocks(&layer.kind))
    {
        return None;
    }
    let voxels: usize = read.iter().product();
    let mut tensors = parent.tensors.clone();
    let is_convolution = |kind: &LayerKind| matches!(kind, LayerKind::Conv3d { .. });
    for layer in finer.layers.iter().filter(|layer| is_convolution(&layer.kind)) {
        let [weight, bias] = ["weight", "bias"].map(|part| format!("{}.{part}", layer.name));
        if layer.inputs == [reader.name.as_str()]
            && let Some((shape, values)) = tensors.get_mut(&weight)
            && shape.len() == 5
        {
            // One channel of the input at a time: a block's voxels are channels that follow each other.
            let taps: usize = shape[2..].iter().product();
            let share = |tap: &f32| tap / voxels as f32;
            let channels = values.chunks_exact(taps);
            *values = channels
                .flat_map(|channel| std::iter::repeat_n(channel, voxels).flatten().map(share))
                .collect();
            shape[1] *= voxels;
        }
        if writer.inputs == [layer.name.as_str()] {
            for name in [weight, bias] {
                if let Some((shape, values)) = tensors.get_mut(&name).filter(|(_, v)| !v.is_empty()) {
                    let row = values.len() / shape[0];
                    *values = values
                        .chunks_exact(row)
                        .flat_map(|channel| std::iter::repeat_n(channel, voxels).flatten().copied())
                        .collect();
                    shape[0] *= voxels;
                }
            }
        }
    }
    Some(tensors)
}
