//! Where voxels lie: volumes on the device, the head in them, what a network sees of them, and pieces of those that are too
//! large to be bound.

pub mod head;
pub mod placed;
pub mod slabs;
pub mod source;
pub mod view;
pub mod voxels;
