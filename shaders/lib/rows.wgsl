// Rows shared out to GROUP neighbouring invocations each (a power of two, at most WIDTH), and sums over such a group,
// returned to all of it. Every invocation of the workgroup must call row_sum, in uniform control flow; slot is 0 or 1,
// another one in every second call, so that no call waits for the readers of the one before.
// SUM is f32 or a vector of it.
//   REDUCE none     GROUP is 1
//   REDUCE shuffle  GROUP divides the subgroup, whose lanes are the workgroup's in order
//   REDUCE subgroup GROUP is WIDTH: sums of subgroups, then of those
//   REDUCE tree     no subgroups
//# if REDUCE == "tree"
var<workgroup> row_scratch: array<${SUM}, ${2 * WIDTH}>;
//# elif REDUCE == "subgroup"
var<workgroup> row_scratch: array<${SUM}, ${2 * (WIDTH // 4)}>;
//# endif

struct Lane {
    index: u32,      // in the workgroup
    subgroup: u32,   // which subgroup of the workgroup it is in, and of how many
    subgroups: u32,
    in_subgroup: u32,
}

fn row_sum(value: ${SUM}, lane: Lane, slot: u32) -> ${SUM} {
    //# if REDUCE == "none"
    return value;
    //# elif REDUCE == "shuffle"
    var total = value;
    //# for step in [1, 2, 4, 8, 16, 32, 64]
    //# if step < GROUP
    total += subgroupShuffleXor(total, ${step}u);
    //# endif
    //# endfor
    return total;
    //# elif REDUCE == "subgroup"
    let part = subgroupAdd(value);
    if (lane.in_subgroup == 0u) {
        row_scratch[slot * ${WIDTH // 4}u + lane.subgroup] = part;
    }
    workgroupBarrier();
    var total = ${SUM}(0.0);
    for (var i = 0u; i < lane.subgroups; i += 1u) {
        total += row_scratch[slot * ${WIDTH // 4}u + i];
    }
    return total;
    //# else
    let at = slot * ${WIDTH}u + lane.index;
    let in_group = lane.index % ${GROUP}u;
    row_scratch[at] = value;
    for (var half = ${GROUP // 2}u; half > 0u; half = half >> 1u) {
        workgroupBarrier();
        if (in_group < half) {
            row_scratch[at] += row_scratch[at + half];
        }
    }
    workgroupBarrier();
    return row_scratch[at - in_group];
    //# endif
}
