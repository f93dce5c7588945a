// Cooperative matrices with f16 factors and f32 sums, their edge TILE. Defines: TILE8 or TILE16.
enable f16;
enable wgpu_cooperative_matrix;

#ifdef TILE16
const TILE: u32 = 16u;
alias left_tile = coop_mat16x16<f16, A>;
alias right_tile = coop_mat16x16<f16, B>;
alias sum_tile = coop_mat16x16<f32, C>;
#else
const TILE: u32 = 8u;
alias left_tile = coop_mat8x8<f16, A>;
alias right_tile = coop_mat8x8<f16, B>;
alias sum_tile = coop_mat8x8<f32, C>;
#endif
