//! What people look at: pictures of masks, plots of figures.

mod canvas;
pub mod contact;
pub mod plot;
pub mod qc;
