//! Makes the first convolution of a network that was trained on colour images fit for any number of channels.

/// A convolution's weight of shape `[to, from, height, width]` for `channels` input channels in place of `from`.
///
/// The channels are taken in turn, scaled by `from / channels`, so that what the layer gives keeps its magnitude; a
/// single channel is the sum of all. This is segmentation_models_pytorch's `patch_first_conv`
/// (`encoders/_utils.py`) and, for 3 channels, timm's `adapt_input_conv`.
pub fn inflate(weight: &[f32], shape: [usize; 4], channels: usize) -> Vec<f32> {
    let [_, from, height, width] = shape;
    let (plane, scale) = (height * width, from as f32 / channels as f32);
    let mut inflated = Vec::with_capacity(weight.len() / from * channels);
    for filter in weight.chunks_exact(from * plane) {
        if channels == 1 {
            inflated.extend((0..plane).map(|pixel| filter.iter().skip(pixel).step_by(plane).sum::<f32>()));
        } else {
            let taken = (0..channels).map(|channel| &filter[channel % from * plane..][..plane]);
            inflated.extend(taken.flatten().map(|value| value * scale));
        }
    }
    inflated
}

#[cfg(test)]
mod tests {
    use super::inflate;

    /// Two filters of three channels of 1 x 2 pixels.
    const WEIGHT: [f32; 12] = [1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12.];
    const SHAPE: [usize; 4] = [2, 3, 1, 2];

    #[test]
    fn channels_are_taken_in_turn_and_scaled() {
        let four = inflate(&WEIGHT, SHAPE, 4);
        let wanted = [1., 2., 3., 4., 5., 6., 1., 2., 7., 8., 9., 10., 11., 12., 7., 8.].map(|value: f32| value * 0.75);
        assert_eq!(four, wanted);
        assert_eq!(inflate(&WEIGHT, SHAPE, 2), [1., 2., 3., 4., 7., 8., 9., 10.].map(|value: f32| value * 1.5));
        assert_eq!(inflate(&WEIGHT, SHAPE, 3), WEIGHT);
    }

    #[test]
    fn a_single_channel_is_the_sum() {
        assert_eq!(inflate(&WEIGHT, SHAPE, 1), [9., 12., 27., 30.]);
    }
}
