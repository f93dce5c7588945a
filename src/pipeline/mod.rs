//! What the commands do, without a terminal: placing grids, training, stripping.

pub mod bias;
