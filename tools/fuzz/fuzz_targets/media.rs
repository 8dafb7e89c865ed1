//! Pictures and videos, recognised by their content.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mutoscope::media::{read_picture, read_recipe, read_video};

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("fuzzed.mp4");
    std::fs::write(&path, bytes).expect("written");
    let _ = read_picture(&path);
    let _ = read_recipe(&path);
    if let Ok(video) = read_video(&path) {
        let (width, height) = (video.width(), video.height());
        for frame in video.take(100).map_while(Result::ok) {
            assert_eq!(frame.rgb.len(), 3 * width as usize * height as usize);
        }
    }
});
