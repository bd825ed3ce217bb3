// Depth as picture values, as model/depth/pictures.py (pinned by tests/golden_web).

import { contract, expand } from "./codec.js";

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

// The depth that is mapped to a value.
export function unmapper(mapping, mean) {
    return {
        disparity: (value) => 1 / value,
        linear: (value) => value,
        log: Math.exp,
        code: (value) => mean * expand(value),
    }[mapping];
}

// [mapped value at near, at far] of the measured range; `percent` of the pixels may saturate at each end.
// ranked: of rankedDepth().
export function measuredRange(ranked, mapping, map, percent) {
    if (ranked.count === 0) return [0, 0];
    const last = ranked.count - 1;
    const ranks = [percent / 100, 1 - percent / 100].map((share) => roundHalfEven(share * last));
    // Ranks count from the smallest mapped value, which for disparity is the farthest depth.
    const [near, far] = mapping === "disparity" ? [last - ranks[1], last - ranks[0]] : ranks;
    return [map(ranked.at(near)), map(ranked.at(far))];
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
