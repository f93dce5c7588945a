// Element type of activations: f32, or f16 with F16. It is what tensors hold, not what kernels compute in: load with
// f32(x[i]), store with Element(v).

#ifdef F16
enable f16;
alias Element = f16;
#else
alias Element = f32;
#endif
