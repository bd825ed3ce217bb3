// Depth as picture values, as model/depth/pictures.py (pinned by tests/golden_web).

import { contract } from "./codec.js";

export const MAPPINGS = { disparity: "Disparity", linear: "Linear", log: "Log", code: "Model's code" };
export const CLIP_PERCENT = 0.1;

// Maps are increasing or decreasing in depth; `code` is how the model sees depth, which is depth over its mean.
export function mapper(mapping, mean) {
    return {
        disparity: (depth) => 1 / depth,
        linear: (depth) => depth,
        log: Math.log,
        code: (depth) => contract(depth / mean),
    }[mapping];
}

export function meanDepth(depth) {
    let [sum, count] = [0, 0];
    for (const z of depth) if (z > 0) [sum, count] = [sum + z, count + 1];
    return sum / count;
}

// The valid depths in rising order, for ranks.
export function sortedDepth(depth) {
    return depth.filter((z) => z > 0).sort();
}

// [mapped value at near, at far] of the measured range; `percent` of the pixels may saturate at each end.
export function measuredRange(sorted, mapping, map, percent) {
    if (sorted.length === 0) return [0, 0];
    const last = sorted.length - 1;
    const ranks = [percent / 100, 1 - percent / 100].map((share) => roundHalfEven(share * last));
    // Ranks count from the smallest mapped value, which for disparity is the farthest depth.
    const [near, far] = mapping === "disparity" ? [last - ranks[1], last - ranks[0]] : ranks;
    return [map(sorted[near]), map(sorted[far])];
}

// 0 … 1 for the colour map: 1 is near in a near-white picture. A constant picture is 0.5, NaN is the far end.
export function pictureValue(value, [atNear, atFar], nearWhite) {
    if (value !== value) return nearWhite ? 0 : 1;
    const farness = atNear === atFar ? 0.5 : Math.min(1, Math.max(0, (value - atNear) / (atFar - atNear)));
    return nearWhite ? 1 - farness : farness;
}

// Python rounds halves to even numbers.
function roundHalfEven(value) {
    const low = Math.floor(value);
    if (value - low !== 0.5) return Math.round(value);
    return low % 2 ? low + 1 : low;
}
