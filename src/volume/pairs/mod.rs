//! Images with their masks: tables of them, and finding them in a folder.

mod index;
mod table;

pub use index::{Index, index, stem};
pub use table::{Pair, PairTable, WEIGHT, WEIGHT_IMAGE, Weight, relative};
