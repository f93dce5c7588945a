//! The two orders in which the axes of a volume are counted.
//!
//! Images count x, y, z; a tensor that holds an image as NIfTI stores it, x fastest, has the dimensions z, y, x. Where both
//! orders meet, values carry theirs in their type, so that a swapped axis does not compile.

/// A value for each axis of an image: x, y, z.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Xyz<T>(pub [T; 3]);

/// A value for each dimension of a tensor that holds an image: z, y, x.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Zyx<T>(pub [T; 3]);

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
