//! What the commands do, without a terminal.

pub mod bias;
