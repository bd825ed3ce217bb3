// What is asked of the points: edges, counts, the point under the pointer. Plain loops: millions of them at a click.

// For each pixel the largest minus the smallest valid depth of its 3×3 neighbourhood, as model/geometry/edges.py.
// NaN does not count.
export function depthSpans({ width, height, depth }) {
    const [lows, highs] = [new Float32Array(depth.length), new Float32Array(depth.length)]; // of three in a row
    for (let at = 0, end = width; at < depth.length; end += width) {
        let before = NaN; // what is not there compares as false
        let own = depth[at];
        for (; at < end; at++) {
            const after = at + 1 < end ? depth[at + 1] : NaN;
            let low = own === own ? own : Infinity;
            let high = own === own ? own : -Infinity;
            if (before < low) low = before;
            if (before > high) high = before;
            if (after < low) low = after;
            if (after > high) high = after;
            lows[at] = low;
            highs[at] = high;
            before = own;
            own = after;
        }
    }
    const spans = new Float32Array(depth.length);
    for (let row = 0, at = 0; row < height; row++) {
        const above = row > 0 ? width : 0;
        const below = row + 1 < height ? width : 0;
        for (const end = at + width; at < end; at++) {
            let low = lows[at];
            let high = highs[at];
            if (lows[at - above] < low) low = lows[at - above];
            if (highs[at - above] > high) high = highs[at - above];
            if (lows[at + below] < low) low = lows[at + below];
            if (highs[at + below] > high) high = highs[at + below];
            spans[at] = high - low;
        }
    }
    return spans;
}

// Whether points are drawn: 1 or 0 for each. edge: relative span, 0 keeps all; far: depth, 0 keeps all. Rounded as
// float32, as in Python and on the GPU.
export function keptPoints({ count, positions, span }, { edge, far }) {
    const kept = new Uint8Array(count);
    const limit = Math.fround(edge);
    const farthest = far || Infinity;
    for (let point = 0; point < count; point++) {
        const z = positions[3 * point + 2];
        kept[point] = z <= farthest && (limit === 0 || span[point] <= Math.fround(limit * z)) ? 1 : 0;
    }
    return kept;
}

export function countOf(kept) {
    let count = 0;
    for (let point = 0; point < kept.length; point++) count += kept[point];
    return count;
}

export function pointAt({ positions }, point) {
    return [positions[3 * point], positions[3 * point + 1], positions[3 * point + 2]];
}

// The number of the kept point nearest to the camera within `radius` pixels of [x, y]; −1 where there is none.
// clip: 4×4 by rows from source axes to clip space, w being the distance along the view.
export function pick({ count, positions }, kept, clip, viewport, [x, y], radius) {
    // How far right of and above [x, y] a point lies, times its distance: linear in the point, so no division in the loop.
    const [halfWidth, halfHeight] = [viewport.width / 2, viewport.height / 2];
    const [atX, atY] = [x / halfWidth - 1, 1 - y / halfHeight];
    const [a, b, c, d] = [0, 1, 2, 3].map((column) => (clip[column] - atX * clip[12 + column]) * halfWidth);
    const [e, f, g, h] = [0, 1, 2, 3].map((column) => (clip[4 + column] - atY * clip[12 + column]) * halfHeight);
    const [m, n, o, p] = clip.slice(12);
    let best = -1;
    let bestDistance = Infinity;
    for (let point = 0, at = 0; point < count; point++, at += 3) {
        const px = positions[at];
        const py = positions[at + 1];
        const pz = positions[at + 2];
        const w = m * px + n * py + o * pz + p;
        const reach = radius * w;
        const right = a * px + b * py + c * pz + d;
        if (!(right <= reach && right >= -reach)) continue; // nor what is behind the camera
        const up = e * px + f * py + g * pz + h;
        if (!(up <= reach && up >= -reach) || !kept[point]) continue;
        // A point right under the pointer wins over one beside it at about the same distance.
        const cost = w + (0.05 * Math.sqrt(right * right + up * up)) / radius;
        if (cost < bestDistance) [best, bestDistance] = [point, cost];
    }
    return best;
}

// [x, y, distance along the view] of a point on the screen; null behind the camera.
export function toScreen(clip, viewport, [x, y, z]) {
    const w = clip[12] * x + clip[13] * y + clip[14] * z + clip[15];
    if (!(w > 0)) return null;
    const cx = clip[0] * x + clip[1] * y + clip[2] * z + clip[3];
    const cy = clip[4] * x + clip[5] * y + clip[6] * z + clip[7];
    return [((cx / w + 1) / 2) * viewport.width, ((1 - cy / w) / 2) * viewport.height, w];
}
