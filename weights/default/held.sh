mkdir -p held
trephine synth --labels maps/synthseg_v1/subject19_seg.nii --family synthseg-v1 --seed 1 --voxel-mm 1.5 -o held/synthseg-v1_0_1.nii.gz -m held/synthseg-v1_0_1_mask.nii.gz
trephine synth --labels maps/synthseg_v1/subject19_seg.nii --family synthseg-v1 --seed 2 --voxel-mm 1.5 -o held/synthseg-v1_0_2.nii.gz -m held/synthseg-v1_0_2_mask.nii.gz
trephine synth --labels maps/synthseg_v1/subject20_seg.nii --family synthseg-v1 --seed 101 --voxel-mm 1.5 -o held/synthseg-v1_1_1.nii.gz -m held/synthseg-v1_1_1_mask.nii.gz
trephine synth --labels maps/synthseg_v1/subject20_seg.nii --family synthseg-v1 --seed 102 --voxel-mm 1.5 -o held/synthseg-v1_1_2.nii.gz -m held/synthseg-v1_1_2_mask.nii.gz
trephine synth --labels maps/synthseg_v2/training_seg_19.nii --family synthseg-v2 --seed 201 --voxel-mm 1.5 -o held/synthseg-v2_2_1.nii.gz -m held/synthseg-v2_2_1_mask.nii.gz
trephine synth --labels maps/synthseg_v2/training_seg_19.nii --family synthseg-v2 --seed 202 --voxel-mm 1.5 -o held/synthseg-v2_2_2.nii.gz -m held/synthseg-v2_2_2_mask.nii.gz
trephine synth --labels maps/synthseg_v2/training_seg_20.nii --family synthseg-v2 --seed 301 --voxel-mm 1.5 -o held/synthseg-v2_3_1.nii.gz -m held/synthseg-v2_3_1_mask.nii.gz
trephine synth --labels maps/synthseg_v2/training_seg_20.nii --family synthseg-v2 --seed 302 --voxel-mm 1.5 -o held/synthseg-v2_3_2.nii.gz -m held/synthseg-v2_3_2_mask.nii.gz
trephine synth --labels maps/brainweb20/brainweb54_labels_1mm.nii --family brainweb20 --seed 401 --voxel-mm 1.5 -o held/brainweb20_4_1.nii.gz -m held/brainweb20_4_1_mask.nii.gz
trephine synth --labels maps/brainweb20/brainweb54_labels_1mm.nii --family brainweb20 --seed 402 --voxel-mm 1.5 -o held/brainweb20_4_2.nii.gz -m held/brainweb20_4_2_mask.nii.gz
