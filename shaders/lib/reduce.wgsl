// Sums over a workgroup of WIDTH invocations (a power of two), the same value returned to all of them.
// Every invocation must call it, in uniform control flow.
var<workgroup> reduce_scratch: array<f32, ${WIDTH}>;

fn workgroup_sum(value: f32, lane: u32) -> f32 {
    reduce_scratch[lane] = value;
    workgroupBarrier();
    for (var half = ${WIDTH // 2}u; half > 0u; half = half >> 1u) {
        if (lane < half) {
            reduce_scratch[lane] += reduce_scratch[lane + half];
        }
        workgroupBarrier();
    }
    let total = reduce_scratch[0];
    workgroupBarrier();
    return total;
}
