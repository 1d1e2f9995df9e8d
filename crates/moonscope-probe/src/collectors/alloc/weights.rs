//! What an allocation stands for that was taken because one of its bytes was.

use moonscope_unwind::abi;

/// Elements of `alloc_weights` of `bpf/alloc.bpf.h`.
pub const WEIGHTS: usize = abi::MS_ALLOC_STEPS as usize + 1;

/// x / (1 - exp(-x)), for x in steps of 1 / `MS_ALLOC_STEP`: an allocation of x periods is taken with the
/// probability 1 - exp(-x), so that it stands for the inverse of that, and its bytes too.
pub fn weights() -> [u32; WEIGHTS] {
    let unit = f64::from(1 << abi::MS_ALLOC_WEIGHT_SHIFT);
    std::array::from_fn(|step| {
        let x = step as f64 / f64::from(abi::MS_ALLOC_STEP);
        let weight = if step == 0 { 1.0 } else { x / -(-x).exp_m1() };
        (weight * unit).round() as u32
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_grow_from_one_period_to_the_size_itself() {
        let weights = weights();
        let unit = f64::from(1 << abi::MS_ALLOC_WEIGHT_SHIFT);
        assert_eq!(weights[0], 1 << abi::MS_ALLOC_WEIGHT_SHIFT);
        assert!(weights.is_sorted());
        // one period: 1 / (1 - 1/e)
        let one = f64::from(weights[abi::MS_ALLOC_STEP as usize]) / unit;
        assert!((one - 1.581_976_7).abs() < 1e-6, "{one}");
        // taken for certain
        let last = f64::from(weights[WEIGHTS - 1]) / unit;
        assert!((last - 32.0).abs() < 1e-6, "{last}");
    }
}
