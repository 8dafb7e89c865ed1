// The linear index of a workgroup in a grid that DeviceProfile::grid made.
fn linear_group(wid: vec3<u32>, count: vec3<u32>) -> u32 {
    return wid.x + wid.y * count.x;
}
