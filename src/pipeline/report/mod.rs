//! What people look at: pictures of masks, plots of figures, a page to look a batch through.

mod canvas;
pub mod contact;
pub mod outliers;
pub mod page;
pub mod plot;
pub mod qc;
pub mod thumbnail;
