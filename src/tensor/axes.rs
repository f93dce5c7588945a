//! The two orders in which the axes of a volume are counted.
//!
//! Images count x, y, z; a tensor that holds an image as NIfTI stores it, x fastest, has the dimensions z, y, x. Where both
//! orders meet, values carry theirs in their type, so that a swapped axis does not compile. The extents of images and grids
//! always do.

use std::fmt;
use std::ops::{Deref, DerefMut};

use serde::Serialize;

/// A value for each axis of an image: x, y, z.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Xyz<T>(pub [T; 3]);

/// A value for each dimension of a tensor that holds an image: z, y, x.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Zyx<T>(pub [T; 3]);

impl<T> Xyz<T> {
    /// What `f` makes of each.
    pub fn map<U>(self, f: impl FnMut(T) -> U) -> Xyz<U> {
        Xyz(self.0.map(f))
    }
}

/// As messages print it: the three values.
impl<T: fmt::Debug> fmt::Debug for Xyz<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T> From<Xyz<T>> for Zyx<T> {
    fn from(Xyz([x, y, z]): Xyz<T>) -> Self {
        Self([z, y, x])
    }
}

impl<T> From<Zyx<T>> for Xyz<T> {
    fn from(Zyx([z, y, x]): Zyx<T>) -> Self {
        Self([x, y, z])
    }
}

/// Extents read like the array they are: indexed, mapped and walked through in their own order.
impl<T> Deref for Xyz<T> {
    type Target = [T; 3];

    fn deref(&self) -> &[T; 3] {
        &self.0
    }
}

impl<T> DerefMut for Xyz<T> {
    fn deref_mut(&mut self) -> &mut [T; 3] {
        &mut self.0
    }
}
