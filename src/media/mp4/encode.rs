//! H.264 out of pictures, at a fixed quantiser as long as openh264 has room for what comes of it.

use openh264::OpenH264API;
use openh264::encoder::{
    BitRate, Complexity, Encoder, EncoderConfig, FrameRate, FrameType, IntraFramePeriod, QpRange, RateControlMode,
    VuiConfig,
};

use super::colour::Planes;
use super::reason;
use crate::media::Fault;

/// The quantiser of every macroblock: the lowest that openh264's rate control goes to (`GOM_MIN_QP_MODE`).
const QP: u8 = 12;

/// The coarsest quantiser of H.264, and how much coarser the next try is: 6 double the steps.
const COARSEST: u8 = 51;
const COARSER: u8 = 6;

/// Seconds between pictures that a player can jump to.
const SECONDS_PER_KEY: f64 = 2.0;

/// A picture as the encoder wrote it.
pub(super) struct Coded {
    /// Units of the byte stream (ITU-T H.264, annex B), each with its start code.
    pub(super) units: Vec<Vec<u8>>,
    /// Whether a player can jump to it.
    pub(super) key: bool,
}

/// An encoder that goes on, at a coarser quantiser, where openh264 gives up: its buffer has room for about two thirds of a
/// picture's raw size, and noise takes more at a fine one.
///
/// Going on means another encoder, since the old one is lost with the error. The parameter sets say nothing of the
/// quantiser (`slice_qp_delta` does), so they are the same ones, and a picture that a player can jump to needs nothing of
/// what was before.
pub(super) struct Coder {
    fps: f64,
    bits_per_second: u32,
    encoder: Encoder,
    qp: u8,
    /// Pictures by this encoder, and how many of them a player can jump to.
    pictures: u32,
    keys: u32,
    /// The number of the last picture, when a player can jump to it.
    last_key: Option<u32>,
}

impl Coder {
    pub(super) fn new(planes: &Planes, fps: f64) -> Result<Self, Fault> {
        // No rate is aimed at (the quantiser is fixed); the number only chooses a level with room for such a stream.
        let bits_per_second = (f64::from(planes.width * planes.height) * fps).clamp(100_000.0, 100e6) as u32;
        let encoder = encoder(fps, bits_per_second, QP)?;
        Ok(Self { fps, bits_per_second, encoder, qp: QP, pictures: 0, keys: 0, last_key: None })
    }

    /// The next picture.
    pub(super) fn encode(&mut self, planes: &Planes) -> Result<Coded, Fault> {
        if self.qp > QP && self.pictures >= key_period(self.fps) {
            // What was too noisy may be over.
            self.restart(QP)?;
        }
        loop {
            match self.attempt(planes) {
                Ok(coded) => {
                    self.pictures += 1;
                    return Ok(coded);
                }
                Err(_) if self.qp < COARSEST => self.restart(self.qp.saturating_add(COARSER).min(COARSEST))?,
                Err(error) => {
                    let text = format!("H.264 cannot take this frame ({}); write to a .png instead", reason(&error));
                    return Err(Fault::Codec(text));
                }
            }
        }
    }

    /// Another encoder, whose first picture is one that a player can jump to.
    fn restart(&mut self, qp: u8) -> Result<(), Fault> {
        self.encoder = encoder(self.fps, self.bits_per_second, qp)?;
        (self.qp, self.pictures, self.keys) = (qp, 0, 0);
        Ok(())
    }

    fn attempt(&mut self, planes: &Planes) -> Result<Coded, openh264::Error> {
        let mut coded = self.once(planes)?;
        if coded.key && self.last_key == Some(self.keys) {
            // Two such pictures in a row must bear different numbers (`idr_pic_id`, 7.4.3), and every encoder counts from 1.
            self.encoder.force_intra_frame();
            coded = self.once(planes)?;
        }
        self.last_key = coded.key.then_some(self.keys);
        Ok(coded)
    }

    fn once(&mut self, planes: &Planes) -> Result<Coded, openh264::Error> {
        let stream = self.encoder.encode(planes)?;
        let key = matches!(stream.frame_type(), FrameType::IDR | FrameType::I);
        let layers = (0..stream.num_layers()).filter_map(|i| stream.layer(i));
        let mut units = Vec::new();
        for layer in layers {
            units.extend((0..layer.nal_count()).filter_map(|i| layer.nal_unit(i)).map(<[u8]>::to_vec));
        }
        self.keys += u32::from(key);
        Ok(Coded { units, key })
    }
}

/// Pictures from one that a player can jump to up to the next.
fn key_period(fps: f64) -> u32 {
    (fps * SECONDS_PER_KEY).round().clamp(1.0, 250.0) as u32
}

fn encoder(fps: f64, bits_per_second: u32, qp: u8) -> Result<Encoder, Fault> {
    let config = EncoderConfig::new()
        // Takes its quantiser from the range alone, skips no frame, and is the one mode that says nothing of that
        // on stderr.
        .rate_control_mode(RateControlMode::Bufferbased)
        .qp(QpRange::new(qp, qp))
        .bitrate(BitRate::from_bps(bits_per_second))
        .max_frame_rate(FrameRate::from_hz(fps.clamp(1.0, 60.0) as f32))
        .skip_frames(false)
        .complexity(Complexity::High)
        // These would move the quantiser, or put pictures to jump to where nobody asked for one.
        .adaptive_quantization(false)
        .background_detection(false)
        .scene_change_detect(false)
        .intra_frame_period(IntraFramePeriod::from_num_frames(key_period(fps)))
        // The same bits on every machine.
        .num_threads(1)
        .vui(VuiConfig::bt709());
    Ok(Encoder::with_api_config(OpenH264API::from_source(), config)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::Frame;
    use crate::media::mp4::testing::noise;

    fn planes(frame: &Frame) -> Planes {
        let mut planes = Planes::new(frame.width, frame.height);
        planes.read(frame);
        planes
    }

    #[test]
    fn the_quantiser_comes_back_after_the_noise_and_pictures_in_a_row_differ_in_number() {
        let calm = planes(&Frame { width: 64, height: 64, rgb: vec![90; 64 * 64 * 3] });
        let wild = planes(&noise(64, 64, 3));
        // Two frames from one picture to jump to up to the next.
        let mut coder = Coder::new(&calm, 1.0).expect("an encoder");
        let (mut seen, mut last) = (Vec::new(), None);
        for (index, planes) in [&calm, &wild, &wild, &calm, &calm, &calm].into_iter().enumerate() {
            let coded = coder.encode(planes).expect("a picture");
            seen.push((coder.qp > QP, coded.key));
            assert!(!coded.key || last != coder.last_key, "{index}");
            last = coder.last_key;
        }
        // The third is noise by an encoder that began with the second; the fourth tries the fine quantiser again.
        assert_eq!(seen, [(false, true), (true, true), (true, false), (false, true), (false, false), (false, true)]);
    }
}
