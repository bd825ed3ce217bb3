// What is computed once for a cloud, and what is asked of it: edges, counts, the point under the pointer.
// A geometry is what geometry_file.js parses: depth by rows, NaN where not valid.

import { transform, unproject } from "../maths/camera.js";

// For each pixel the largest minus the smallest valid depth of its 3×3 neighbourhood, as model/geometry/edges.py.
export function depthSpans({ width, height, depth }) {
    const far = extreme(depth, width, height, -Infinity, Math.max);
    const near = extreme(depth, width, height, Infinity, Math.min);
    return far.map((value, index) => value - near[index]);
}

// Over rows and then columns; NaN does not count.
function extreme(depth, width, height, none, pick) {
    const rows = new Float32Array(depth.length);
    for (let row = 0, at = 0; row < height; row++) {
        let before = none;
        let own = known(depth[at], none);
        for (let column = 0; column < width; column++, at++) {
            const after = column + 1 < width ? known(depth[at + 1], none) : none;
            rows[at] = pick(before, own, after);
            before = own;
            own = after;
        }
    }
    const result = new Float32Array(depth.length);
    for (let at = 0; at < depth.length; at++) {
        const above = at >= width ? rows[at - width] : none;
        const below = at + width < depth.length ? rows[at + width] : none;
        result[at] = pick(above, rows[at], below);
    }
    return result;
}

function known(value, none) {
    return value === value ? value : none; // NaN is not itself
}

// Whether a point is drawn. edge: relative span, 0 keeps all; far: 0 keeps all. Rounded as float32, as in Python.
export function keeper({ depth }, spans, { edge, far }) {
    const limit = Math.fround(edge);
    return (index) => {
        const z = depth[index];
        return z > 0 && (limit === 0 || spans[index] <= Math.fround(limit * z)) && (far === 0 || z <= far);
    };
}

export function countKept(geometry, spans, filter) {
    const keeps = keeper(geometry, spans, filter);
    let count = 0;
    for (let index = 0; index < geometry.depth.length; index++) if (keeps(index)) count++;
    return count;
}

export function pointAt({ width, height, depth, k }, index) {
    return unproject(index % width, Math.floor(index / width), depth[index], k, width, height);
}

// The index of the drawn point nearest to the camera within `radius` pixels of [x, y]; −1 where there is none.
// clip: 4×4 by rows from source axes to clip space, w being the distance along the view.
export function pick(geometry, spans, filter, clip, viewport, [x, y], radius) {
    const keeps = keeper(geometry, spans, filter);
    let best = -1;
    let bestDistance = Infinity;
    for (let index = 0; index < geometry.depth.length; index++) {
        if (!keeps(index)) continue;
        const screen = toScreen(clip, viewport, pointAt(geometry, index));
        if (!screen || Math.abs(screen[0] - x) > radius || Math.abs(screen[1] - y) > radius) continue;
        // A point right under the pointer wins over one beside it at about the same distance.
        const away = Math.hypot(screen[0] - x, screen[1] - y) / radius;
        const cost = screen[2] * (1 + 0.05 * away);
        if (cost < bestDistance) [best, bestDistance] = [index, cost];
    }
    return best;
}

// [x, y, distance along the view] of a point on the screen; null behind the camera.
export function toScreen(clip, viewport, point) {
    const w = clip[12] * point[0] + clip[13] * point[1] + clip[14] * point[2] + clip[15];
    if (!(w > 0)) return null;
    const [cx, cy] = transform(clip, point);
    return [((cx / w + 1) / 2) * viewport.width, ((1 - cy / w) / 2) * viewport.height, w];
}
